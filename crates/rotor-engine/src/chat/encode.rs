//! A rendered conversation as token ids, in which control tokens count only where the template wrote them.
//!
//! Where the texts of people (and of tools) stand in the rendered text is found by rendering once more, with a mark before
//! and behind each of them. If the result without the marks is the rendered text, the marks are right. If not, because the
//! template looks into the texts, only those that contain control tokens are marked; if that fails too nobody can tell whose
//! the control tokens are, and the conversation is refused.

use super::conversation::Conversation;
use super::error::ChatError;
use super::prepared::Prepared;
use super::template::ChatTemplate;
use crate::tokenizer::Tokenizer;
use serde_json::Value as Json;
use std::ops::Range;

/// The token ids of a rendered conversation.
///
/// Control tokens count where the template wrote them and are ordinary characters inside messages and tools. The
/// beginning-of-sequence token is added where the model wants it and the template has not written it already.
///
/// # Errors
///
/// As [`ChatTemplate::render`] and [`Tokenizer::encode`], and [`ChatError::ControlToken`] where a template rewrites a
/// text that contains a control token.
pub fn encode_chat(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    conversation: &Conversation,
) -> Result<Vec<u32>, ChatError> {
    let prepared = Prepared::new(conversation, template.source())?;
    let rendered = template.render_prepared(conversation, &prepared)?;
    let suspect = |text: &str| !tokenizer.control_tokens(text).is_empty();
    if let Some(place) = first_place(&prepared, &|text, is_key| is_key && suspect(text)) {
        return Err(ChatError::ControlToken { place });
    }
    let ranges = |marks: &dyn Fn(&str) -> bool| written_ranges(template, conversation, &prepared, &rendered, marks);
    let protected = match ranges(&|_| true).or_else(|| ranges(&suspect)) {
        Some(ranges) => ranges,
        None => match first_place(&prepared, &|text, is_key| !is_key && suspect(text)) {
            Some(place) => return Err(ChatError::ControlToken { place }),
            None => Vec::new(),
        },
    };
    let mut ids = tokenizer.encode_protected(&rendered, &protected)?;
    if let Some(bos) = tokenizer.bos().filter(|bos| tokenizer.adds_bos() && ids.first() != Some(bos)) {
        ids.insert(0, bos);
    }
    Ok(ids)
}

/// Where the texts that `is_marked` picks stand in the rendered template; `None` where marks change what it prints.
fn written_ranges(
    template: &ChatTemplate,
    conversation: &Conversation,
    prepared: &Prepared,
    rendered: &str,
    is_marked: &dyn Fn(&str) -> bool,
) -> Option<Vec<Range<usize>>> {
    let (open, close) = unused_characters(prepared, rendered)?;
    let mark = |text: &mut String| {
        // Outer whitespace stays outside, where the template may trim it as before.
        let core = text.trim();
        if !core.is_empty() && is_marked(text) {
            let start = text.len() - text.trim_start().len();
            let (before, after) = (&text[..start], &text[start + core.len()..]);
            *text = format!("{before}{open}{core}{close}{after}");
        }
    };
    let mut marked = prepared.clone();
    for message in &mut marked.messages {
        message.iter_mut().filter(|(key, _)| is_written(key)).for_each(|(_, value)| each_string(value, &mark));
    }
    marked.tools.iter_mut().for_each(|tool| each_string(tool, &mark));
    let marked = template.render_prepared(conversation, &marked).ok()?;
    let mut plain = String::with_capacity(rendered.len());
    let mut ranges = Vec::new();
    let mut start = None;
    for character in marked.chars() {
        if character == open {
            start = Some(plain.len());
        } else if character == close {
            ranges.push(start.take()?..plain.len());
        } else {
            plain.push(character);
        }
    }
    (start.is_none() && plain == rendered).then_some(ranges)
}

/// Fields that templates decide by. They are in no position to hold a text: a role has no characters for control tokens.
fn is_written(key: &str) -> bool {
    !matches!(key, "role" | "type")
}

/// Every string but those of fields that templates decide by.
fn each_string(value: &mut Json, change: &dyn Fn(&mut String)) {
    match value {
        Json::String(text) => change(text),
        Json::Array(items) => items.iter_mut().for_each(|item| each_string(item, change)),
        Json::Object(map) => {
            map.iter_mut().filter(|(key, _)| is_written(key)).for_each(|(_, value)| each_string(value, change));
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

/// The first message or tool with a string, or a key, that `wanted` picks. Keys, and fields that templates decide by, are
/// asked about as keys.
fn first_place(prepared: &Prepared, wanted: &dyn Fn(&str, bool) -> bool) -> Option<String> {
    let messages = prepared.messages.iter().enumerate();
    let mut messages = messages.filter(|(_, message)| object_has(message, wanted));
    if let Some((index, _)) = messages.next() {
        return Some(format!("message {index}"));
    }
    prepared.tools.iter().any(|tool| has(tool, false, wanted)).then(|| "a tool".to_owned())
}

fn object_has(object: &serde_json::Map<String, Json>, wanted: &dyn Fn(&str, bool) -> bool) -> bool {
    object.iter().any(|(key, value)| wanted(key, true) || has(value, !is_written(key), wanted))
}

fn has(value: &Json, is_key: bool, wanted: &dyn Fn(&str, bool) -> bool) -> bool {
    match value {
        Json::String(text) => wanted(text, is_key),
        Json::Array(items) => items.iter().any(|item| has(item, is_key, wanted)),
        Json::Object(map) => object_has(map, wanted),
        Json::Null | Json::Bool(_) | Json::Number(_) => false,
    }
}

/// Two private-use characters that occur nowhere.
fn unused_characters(prepared: &Prepared, rendered: &str) -> Option<(char, char)> {
    let occurs = |character: char| {
        let found = |text: &str, _: bool| text.contains(character);
        rendered.contains(character) || first_place(prepared, &found).is_some()
    };
    let mut unused = ('\u{f0000}'..='\u{f00ff}').filter(|&character| !occurs(character));
    Some((unused.next()?, unused.next()?))
}
