//! How a conversation reaches a template.

use super::conversation::Conversation;
use super::error::ChatError;
use serde_json::{Map, Value as Json};

/// A message, by the names of its fields.
pub(super) type Object = Map<String, Json>;

/// Messages and tools as a template is to see them.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) messages: Vec<Object>,
    pub(super) tools: Vec<Json>,
}

/// Where the rendered text ends if the last message is to go on.
pub(super) struct Cut(&'static str);

/// Stands where the last message ends; a template that trims takes the space away and leaves the rest. No text has this
/// character of a private-use plane but on purpose.
const END: &str = "\u{10fffd} ";

/// Whether a template with this text has a place for tools.
pub(super) fn takes_tools(template: &str) -> bool {
    template.contains("tools")
}

impl Prepared {
    /// Those of a conversation, for a template with this text.
    pub(super) fn new(conversation: &Conversation, template: &str) -> Result<Self, ChatError> {
        const RESERVED: [&str; 3] = ["messages", "tools", "add_generation_prompt"];
        if let Some(name) = RESERVED.iter().find(|&&name| conversation.template_arguments.contains_key(name)) {
            return Err(ChatError::Argument { name: (*name).to_owned() });
        }
        if !conversation.tools.is_empty() && !takes_tools(template) {
            return Err(ChatError::NoTools);
        }
        let knows_developer = template.contains("developer");
        let messages = conversation.messages.iter().enumerate();
        let messages = messages.map(|(index, message)| {
            let wrong = |why: String| ChatError::Message { index, why };
            let object = message.as_object().ok_or_else(|| wrong("is not an object".into()))?;
            message_for_template(object, knows_developer, &wrong)
        });
        Ok(Prepared { messages: messages.collect::<Result<_, _>>()?, tools: conversation.tools.clone() })
    }

    /// The messages, the last one marked at its end if it is to go on.
    pub(super) fn with_end(&self, conversation: &Conversation) -> Result<(Vec<Object>, Option<Cut>), ChatError> {
        let mut messages = self.messages.clone();
        if !conversation.continue_final_message {
            return Ok((messages, None));
        }
        let refused = |why| ChatError::Continue { why };
        if conversation.add_generation_prompt {
            return Err(refused("add_generation_prompt begins another one"));
        }
        let last = messages.last_mut().ok_or_else(|| refused("there is no message"))?;
        let Some(Json::String(text)) = last.get_mut("content") else { return Err(refused("it has no text")) };
        text.push_str(END);
        Ok((messages, Some(Cut(END))))
    }
}

impl Cut {
    /// Cuts the text where the last message ends.
    pub(super) fn apply(&self, text: &mut String) -> Result<(), ChatError> {
        let at = text.rfind(self.0.trim_end());
        let at = at.ok_or(ChatError::Continue { why: "the chat template does not print it whole" })?;
        // A template that took the space away trims the text, and the white space at its end is no part of it.
        let keeps_space = text[at..].starts_with(self.0);
        text.truncate(if keeps_space { at } else { text[..at].trim_end().len() });
        Ok(())
    }
}

fn message_for_template(
    message: &Map<String, Json>,
    knows_developer: bool,
    wrong: &dyn Fn(String) -> ChatError,
) -> Result<Map<String, Json>, ChatError> {
    let role = message.get("role").and_then(Json::as_str).ok_or_else(|| wrong("has no role".into()))?;
    if !is_role(role) {
        return Err(ChatError::Role { found: role.chars().take(80).collect() });
    }
    // A key that is null is one that is not there.
    let mut result: Map<String, Json> =
        message.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())).collect();
    if role == "developer" && !knows_developer {
        result.insert("role".into(), "system".into());
    }
    match result.get("content") {
        None | Some(Json::String(_)) => {}
        Some(Json::Array(parts)) => {
            let text = joined(parts, wrong)?;
            result.insert("content".into(), text.into());
        }
        Some(_) => return Err(wrong("has a content that is neither a string nor a list of parts".into())),
    }
    if let Some(Json::Array(calls)) = result.get_mut("tool_calls") {
        calls.iter_mut().for_each(parse_arguments);
    }
    const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
    if let Some(reasoning) = REASONING.iter().find_map(|&name| result.get(name).cloned()) {
        result.insert("reasoning_content".into(), reasoning.clone());
        result.entry("thinking").or_insert(reasoning);
    }
    Ok(result)
}

fn is_role(role: &str) -> bool {
    let allowed = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-');
    (1..=64).contains(&role.len()) && role.chars().all(allowed)
}

/// The text of a content in parts.
fn joined(parts: &[Json], wrong: &dyn Fn(String) -> ChatError) -> Result<String, ChatError> {
    let mut text = String::new();
    for part in parts {
        let kind = part.get("type").and_then(Json::as_str).unwrap_or("text");
        let field = if kind == "refusal" { "refusal" } else { "text" };
        match part.get(field).and_then(Json::as_str) {
            Some(part) if matches!(kind, "text" | "refusal") => text.push_str(part),
            _ => return Err(wrong(format!("has a part of type {kind:?}; only text is taken"))),
        }
    }
    Ok(text)
}

/// The arguments of a call are JSON in a string for OpenAI and an object for templates. Text that is no JSON stays text.
fn parse_arguments(call: &mut Json) {
    let function = if call.get("function").is_some() { call.get_mut("function") } else { Some(call) };
    let Some(arguments) = function.and_then(|function| function.get_mut("arguments")) else { return };
    if let Some(object) = arguments.as_str().and_then(|text| serde_json::from_str::<Map<String, Json>>(text).ok()) {
        *arguments = Json::Object(object);
    }
}
