//! Vocabularies on their way into a file: to GGUF keys, to tokenizer.json, and from the forms tokenizers are published in.

pub mod hugging_face;
pub mod tiktoken;

use super::gguf::GgufHeader;
use crate::formats::GgufVocabulary;

/// `tokenizer.ggml.token_type` values.
pub(crate) mod token_type {
    pub(crate) const NORMAL: i32 = 1;
    pub(crate) const UNKNOWN: i32 = 2;
    pub(crate) const CONTROL: i32 = 3;
    pub(crate) const USER_DEFINED: i32 = 4;
    pub(crate) const UNUSED: i32 = 5;
    pub(crate) const BYTE: i32 = 6;
}

/// Adds ids without meaning until there are `size`: an embedding may have more rows than the tokenizer has tokens.
pub fn pad(vocabulary: &mut GgufVocabulary, size: usize) {
    for id in vocabulary.tokens.len()..size {
        vocabulary.tokens.push(format!("[PAD{id}]").into_bytes());
        vocabulary.token_types.push(token_type::UNUSED);
        if !vocabulary.scores.is_empty() {
            vocabulary.scores.push(0.0);
        }
    }
}

/// Writes the `tokenizer.*` keys.
pub fn put_gguf_keys(header: &mut GgufHeader, vocabulary: &GgufVocabulary, chat_template: Option<&str>) {
    header.string("tokenizer.ggml.model", &vocabulary.model);
    if let Some(pre) = &vocabulary.pre {
        header.string("tokenizer.ggml.pre", pre);
    }
    header.strings("tokenizer.ggml.tokens", &vocabulary.tokens);
    if !vocabulary.scores.is_empty() {
        header.f32s("tokenizer.ggml.scores", &vocabulary.scores);
    }
    if !vocabulary.token_types.is_empty() {
        header.i32s("tokenizer.ggml.token_type", &vocabulary.token_types);
    }
    if !vocabulary.merges.is_empty() {
        header.strings("tokenizer.ggml.merges", &vocabulary.merges);
    }
    for (name, id) in [
        ("bos", vocabulary.bos),
        ("eos", vocabulary.eos),
        ("eot", vocabulary.eot),
        ("eom", vocabulary.eom),
        ("unknown", vocabulary.unknown),
        ("padding", vocabulary.padding),
    ] {
        if let Some(id) = id {
            header.u32(&format!("tokenizer.ggml.{name}_token_id"), id);
        }
    }
    for (name, flag) in [
        ("add_bos_token", vocabulary.add_bos),
        ("add_eos_token", vocabulary.add_eos),
        ("add_space_prefix", vocabulary.add_space_prefix),
    ] {
        if let Some(flag) = flag {
            header.bool(&format!("tokenizer.ggml.{name}"), flag);
        }
    }
    if let Some(template) = chat_template {
        header.string("tokenizer.chat_template", template);
    }
}
