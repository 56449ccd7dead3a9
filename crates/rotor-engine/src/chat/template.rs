//! Chat templates, compiled and rendered.

use super::conversation::{Conversation, Message};
use super::error::{ChatError, MAX_TEMPLATE_BYTES};
use super::prepared::{Prepared, takes_tools};
use super::{environment, source};
use crate::tokenizer::{SpecialTokens, Tokenizer};
use minijinja::value::Serde;
use minijinja::{Environment, Value};
use std::collections::BTreeMap;

/// The name errors give the template.
const NAME: &str = "chat template";

/// The chat format of BitNet-b1.58-2B-4T.
pub(crate) const BITNET: &str = concat!(
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}",
    "{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}",
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
);

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
        takes_tools(&self.source)
    }

    /// The conversation as text, with the beginning of an answer where it asks for one.
    ///
    /// # Errors
    ///
    /// Messages that are not of the shape [`Conversation`] describes, tools where the template has no place for them, and
    /// whatever the template raises, its limits included.
    pub fn render(&self, conversation: &Conversation) -> Result<String, ChatError> {
        self.render_prepared(conversation, &Prepared::new(conversation, &self.source)?)
    }

    /// As [`ChatTemplate::render`], with messages and tools that are in the template's shape already.
    pub(super) fn render_prepared(
        &self,
        conversation: &Conversation,
        prepared: &Prepared,
    ) -> Result<String, ChatError> {
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
