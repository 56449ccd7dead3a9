//! Messages to the prompt a model was trained on, by the Jinja template it comes with.
//!
//! A template comes from a file and may be hostile: its size, its running time and its nesting are limited, and it sees
//! nothing but the conversation. What people wrote is protected when the rendered text becomes token ids ([`encode_chat`]):
//! control tokens count only where the template itself wrote them.
//!
//! A [`Conversation`] has the shape of OpenAI's API, tools and tool calls included, and reaches the template as transformers
//! would hand it over.

mod conversation;
mod encode;
mod environment;
mod json;
mod python;
mod source;
mod strftime;

pub use conversation::{Conversation, Message};
pub use encode::encode_chat;

use crate::error::FormatError;
use crate::tokenizer::{SpecialTokens, Tokenizer, TokenizerError};
use conversation::Prepared;
use minijinja::value::Serde;
use minijinja::{Environment, Error, Value};
use std::collections::BTreeMap;

/// Longest template, in bytes. The longest published ones have about 20 kB.
const MAX_TEMPLATE_BYTES: usize = 1 << 20;

/// The name errors give the template.
const NAME: &str = "chat template";

/// The chat format of BitNet-b1.58-2B-4T.
pub(crate) const BITNET: &str = concat!(
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}",
    "{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}",
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
);

/// Why a conversation cannot become a prompt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The template is larger than any honest one.
    #[error("the chat template is {found} bytes long; at most {MAX_TEMPLATE_BYTES} are taken")]
    TemplateTooLong {
        /// Its length.
        found: usize,
    },
    /// The file that has the template is broken.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The template is not valid Jinja.
    #[error("the chat template cannot be read: {0}")]
    Template(#[source] Error),
    /// The template refuses these messages, or does not come to an end.
    #[error("the chat template fails on these messages: {0}")]
    Render(#[source] Error),
    /// A message is not what OpenAI's API and transformers take.
    #[error("message {index} {why}")]
    Message {
        /// The message, counted from 0.
        index: usize,
        /// What is wrong with it, as the end of a sentence.
        why: String,
    },
    /// A role that could smuggle text into the prompt.
    #[error("a message's role must be 1 to 64 letters, digits, '_' or '-', not {found:?}")]
    Role {
        /// The role.
        found: String,
    },
    /// Tools for a template that has no place for them.
    #[error("the model's chat template does not mention tools, so the model was not trained to call any")]
    NoTools,
    /// An argument for the template has the name of something it is given anyway.
    #[error("{name:?} cannot be given to the chat template as an argument: it is part of the conversation")]
    Argument {
        /// The argument.
        name: String,
    },
    /// The last message cannot be continued.
    #[error("the last message cannot be continued: {why}")]
    Continue {
        /// Why, as a sentence.
        why: &'static str,
    },
    /// The template changes what people wrote, so control tokens in it cannot be told from the template's own.
    #[error("{place} contains a control token of the model, and the chat template rewrites the text around it")]
    ControlToken {
        /// "message 0", "a tool".
        place: String,
    },
    /// The rendered text cannot be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    /// What the template sees beside the conversation, by name.
    special_tokens: BTreeMap<&'static str, String>,
    trims_answer: bool,
}

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are what it sees as `bos_token` and `eos_token`; without one the name is
    /// undefined, as transformers leaves it, and prints nothing.
    ///
    /// # Errors
    ///
    /// A template that is too long or not valid Jinja.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self, ChatError> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(ChatError::TemplateTooLong { found: source.len() });
        }
        let mut environment = environment::environment().map_err(ChatError::Template)?;
        environment.add_template_owned(NAME, source::prepared(source)).map_err(ChatError::Template)?;
        let tokens = [("bos_token", bos), ("eos_token", eos)];
        let tokens = tokens.into_iter().filter_map(|(name, text)| Some((name, text?.to_owned())));
        let special_tokens = tokens.collect();
        let mut template = Self { environment, source: source.to_owned(), special_tokens, trims_answer: false };
        let prompt = template.render(&Conversation::from(&[Message::new("user", "x")]));
        template.trims_answer = prompt.is_ok_and(|prompt| prompt.ends_with(' '));
        Ok(template)
    }

    /// The template of a model, given the one in its file, with known mistakes put right: the published BitNet GGUF
    /// carries a format the model was not trained on.
    ///
    /// # Errors
    ///
    /// As [`ChatTemplate::new`].
    pub fn for_model(template: Option<&str>, tokenizer: &Tokenizer) -> Result<Option<Self>, ChatError> {
        let Some(source) = template.filter(|source| !source.trim().is_empty()) else { return Ok(None) };
        let mistaken = source.contains("BITNETAssistant") && tokenizer.token_id("<|eot_id|>").is_some();
        let source = if mistaken { BITNET } else { source };
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id));
        Self::new(source, text(tokenizer.bos()), text(tokenizer.eos())).map(Some)
    }

    /// The template's text, in Jinja.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the prompt for an answer ends in a space, so that an answer may begin with one that does not belong to
    /// it.
    pub fn trims_answer(&self) -> bool {
        self.trims_answer
    }

    /// Whether the template has a place for tools.
    pub fn takes_tools(&self) -> bool {
        self.source.contains("tools")
    }

    /// The conversation as text, with the beginning of an answer where it asks for one.
    ///
    /// # Errors
    ///
    /// Messages that are not of the shape [`Conversation`] describes, tools where the template has no place for them, and
    /// whatever the template raises, its limits included.
    pub fn render(&self, conversation: &Conversation) -> Result<String, ChatError> {
        self.render_prepared(conversation, &Prepared::new(conversation, self)?)
    }

    /// As [`ChatTemplate::render`], with messages and tools that are in the template's shape already.
    fn render_prepared(&self, conversation: &Conversation, prepared: &Prepared) -> Result<String, ChatError> {
        let mut context: BTreeMap<String, Value> = BTreeMap::new();
        // transformers passes these two whether they are used or not, and templates ask whether they are none.
        context.insert("tools".to_owned(), Value::from(()));
        context.insert("documents".to_owned(), Value::from(()));
        let tokens = self.special_tokens.iter().map(|(&name, text)| (name.to_owned(), Value::from(text.as_str())));
        context.extend(tokens);
        let arguments = conversation.template_arguments.iter();
        context.extend(arguments.map(|(name, value)| (name.clone(), Value::from(Serde(value)))));
        let (messages, cut) = prepared.with_end(conversation)?;
        context.insert("messages".to_owned(), Value::from(Serde(&messages)));
        if !prepared.tools.is_empty() {
            context.insert("tools".to_owned(), Value::from(Serde(&prepared.tools)));
        }
        context.insert("add_generation_prompt".to_owned(), Value::from(conversation.add_generation_prompt));
        let template = self.environment.get_template(NAME).map_err(ChatError::Template)?;
        let mut text = template.render(context).map_err(ChatError::Render)?;
        if let Some(cut) = cut {
            cut.apply(&mut text)?;
        }
        Ok(text)
    }

    /// The texts the template writes that are one token of the vocabulary each, but are not encoded as that token, because
    /// the file has it as an ordinary one: the model will see their characters instead.
    pub fn spelled_tokens(&self, tokenizer: &Tokenizer) -> Vec<String> {
        let turn = [Message::new("user", "x"), Message::new("assistant", "x"), Message::new("user", "x")];
        let rendered = self.render(&Conversation::from(&turn)).unwrap_or_default();
        let mut found: Vec<String> = Vec::new();
        for text in [rendered.as_str(), self.source.as_str()].into_iter().flat_map(bracketed) {
            if found.iter().any(|known| known == text) {
                continue;
            }
            let is_spelled = tokenizer.token_id(text).is_some_and(|id| {
                tokenizer.encode(text, SpecialTokens::Parse).is_ok_and(|ids| ids.len() > 1 && !ids.contains(&id))
            });
            if is_spelled {
                found.push(text.to_owned());
            }
        }
        found
    }
}

/// The parts of a text that look like control tokens: `<|im_end|>`, `</s>`, `[INST]`.
fn bracketed(text: &str) -> impl Iterator<Item = &str> {
    const LONGEST: usize = 64;
    text.match_indices(['<', '[']).filter_map(|(start, open)| {
        let rest = &text[start..];
        let end = rest.find(if open == "<" { '>' } else { ']' })? + 1;
        let is_token = end <= LONGEST && !rest[..end].contains(|c: char| c.is_whitespace() || matches!(c, '\'' | '"'));
        is_token.then(|| &rest[..end])
    })
}

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod tests;
