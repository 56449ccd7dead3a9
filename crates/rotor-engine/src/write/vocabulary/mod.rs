//! Tokenizers on their way into a file: to GGUF keys, to tokenizer.json, and from the forms they are published in.

pub mod gguf;
pub mod hugging_face;
pub mod tiktoken;

use super::gguf::GgufHeader;
use crate::error::FormatError;
use crate::formats::metadata::{Array, Value};
use crate::formats::{GgufVocabulary, tokenizer_key as key};

/// `tokenizer.ggml.token_type` values.
pub(crate) mod token_type {
    pub(crate) const NORMAL: i32 = 1;
    pub(crate) const UNKNOWN: i32 = 2;
    pub(crate) const CONTROL: i32 = 3;
    pub(crate) const USER_DEFINED: i32 = 4;
    pub(crate) const UNUSED: i32 = 5;
    pub(crate) const BYTE: i32 = 6;
}

/// A tokenizer as a file holds it.
#[derive(Clone, Debug)]
pub struct Written<T> {
    /// What goes into the file.
    pub value: T,
    /// What the file cannot hold and ids depend on, in a few words each.
    pub lost: Vec<String>,
    /// What it leaves out without harm, in sentences.
    pub notes: Vec<String>,
}

impl<T> Written<T> {
    /// What goes into the file, with sentences about what does not.
    ///
    /// # Errors
    ///
    /// [`FormatError::Unsupported`], naming what `target` cannot hold, unless losses are `allowed`.
    pub fn accept(self, target: &str, allowed: bool) -> Result<(T, Vec<String>), FormatError> {
        if !self.lost.is_empty() && !allowed {
            let what = format!("this tokenizer in {target}");
            let lost = self.lost.join("; ");
            let why = format!(
                "it has no place for {lost} (a conversion with --lossy-tokenizer leaves that out and lists it)"
            );
            return Err(FormatError::unsupported(what, why));
        }
        let lost = self.lost.into_iter().map(|lost| format!("left out of the tokenizer: {lost}"));
        Ok((self.value, lost.chain(self.notes).collect()))
    }
}

/// Adds ids without meaning until there are `size`: an embedding may have more rows than the tokenizer has tokens.
pub fn pad(vocabulary: &mut GgufVocabulary, size: usize) {
    for id in vocabulary.tokens.len()..size {
        vocabulary.tokens.push(unused(id));
        vocabulary.token_types.push(token_type::UNUSED);
        if !vocabulary.scores.is_empty() {
            vocabulary.scores.push(0.0);
        }
    }
}

/// The text of an id without meaning.
fn unused(id: usize) -> Vec<u8> {
    format!("[PAD{id}]").into_bytes()
}

/// Writes the `tokenizer.*` keys.
pub fn put_gguf_keys(header: &mut GgufHeader, vocabulary: &GgufVocabulary, chat_template: Option<&str>) {
    header.string(key::MODEL, &vocabulary.model);
    if let Some(pre) = &vocabulary.pre {
        header.string(key::PRE, pre);
    }
    header.strings(key::TOKENS, &vocabulary.tokens);
    if !vocabulary.scores.is_empty() {
        header.f32s(key::SCORES, &vocabulary.scores);
    }
    if !vocabulary.token_types.is_empty() {
        header.i32s(key::TOKEN_TYPE, &vocabulary.token_types);
    }
    if !vocabulary.merges.is_empty() {
        header.value(key::MERGES, &Value::Array(Array::String(vocabulary.merges.clone())));
    }
    for (key, id) in [
        (key::BOS, vocabulary.bos),
        (key::EOS, vocabulary.eos),
        (key::EOT, vocabulary.eot),
        (key::EOM, vocabulary.eom),
        (key::UNKNOWN, vocabulary.unknown),
        (key::PADDING, vocabulary.padding),
    ] {
        if let Some(id) = id {
            header.u32(key, id);
        }
    }
    if !vocabulary.ends.is_empty() {
        let ends: Vec<i32> = vocabulary.ends.iter().filter_map(|&id| i32::try_from(id).ok()).collect();
        header.i32s(key::EOS_IDS, &ends);
    }
    for (key, flag) in [
        (key::ADD_BOS, vocabulary.add_bos),
        (key::ADD_EOS, vocabulary.add_eos),
        (key::ADD_SPACE_PREFIX, vocabulary.add_space_prefix),
    ] {
        if let Some(flag) = flag {
            header.bool(key, flag);
        }
    }
    if let Some(template) = chat_template {
        header.string(key::CHAT_TEMPLATE, template);
    }
}

#[cfg(test)]
mod tests;
