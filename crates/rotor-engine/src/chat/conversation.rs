//! A conversation in the shape of OpenAI's API.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

/// One turn of a conversation that is nothing but text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// "system", "user" or "assistant", or whatever else the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message of a role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// What a template renders.
///
/// Messages are objects as in OpenAI's chat completions: `role`; `content`, a string or a list of text parts; for the
/// assistant also `tool_calls` and `reasoning_content`; for a tool `tool_call_id`. Before a template sees them they become
/// what transformers hands over: parts are joined, keys that are null are left out, the arguments of a call become an
/// object where they are JSON text, `reasoning` and `thinking` are known as `reasoning_content` too. The role `developer`
/// becomes `system` unless the template knows it.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// The messages, oldest first.
    pub messages: Vec<Json>,
    /// The tools the model may call, as OpenAI's API describes them; none where it is empty.
    pub tools: Vec<Json>,
    /// Ends the text with the beginning of the assistant's answer.
    pub add_generation_prompt: bool,
    /// Ends the text within the last message, so that the model goes on with it.
    pub continue_final_message: bool,
    /// Further arguments of the template, by name: `enable_thinking`, `documents`.
    pub template_arguments: Map<String, Json>,
}

impl From<&[Message]> for Conversation {
    /// A conversation that the model is to answer.
    fn from(messages: &[Message]) -> Self {
        let object = |message: &Message| {
            let fields = [("role", &message.role), ("content", &message.content)];
            fields.into_iter().map(|(name, text)| (name.to_owned(), Json::from(text.as_str()))).collect()
        };
        let messages = messages.iter().map(object).collect();
        Conversation { messages, add_generation_prompt: true, ..Conversation::default() }
    }
}

impl<const N: usize> From<&[Message; N]> for Conversation {
    /// A conversation that the model is to answer.
    fn from(messages: &[Message; N]) -> Self {
        messages.as_slice().into()
    }
}
