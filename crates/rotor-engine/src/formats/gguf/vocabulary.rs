//! The `tokenizer.ggml.*` keys.

use super::super::GgufVocabulary;
use super::super::metadata::{Metadata, Strings, Value};
use crate::error::FormatError;

/// `tokenizer.ggml.token_type` of a token that stands for one byte.
const BYTE_TOKEN: i32 = 6;

fn key(name: &str) -> String {
    format!("tokenizer.ggml.{name}")
}

/// The vocabulary, checked against the rows of the embedding; `None` where the file has none.
pub(in super::super) fn vocabulary(
    metadata: &Metadata,
    vocab_size: usize,
) -> Result<Option<GgufVocabulary>, FormatError> {
    let Some(model) = metadata.str(&key("model"))? else { return Ok(None) };
    let Some(tokens) = metadata.strings(&key("tokens"))? else {
        return Err(FormatError::missing(format!("metadata key {}", key("tokens"))));
    };
    expect_len("tokens", tokens.len(), vocab_size, "rows of the embedding")?;
    let id = |name: &str| token_id(metadata, name, vocab_size);
    let vocabulary = GgufVocabulary {
        architecture: metadata.str("general.architecture")?.unwrap_or_default().to_owned(),
        model: model.to_owned(),
        pre: metadata.str(&key("pre"))?.map(str::to_owned),
        scores: metadata.array(&key("scores"), "an array of numbers", as_score)?.unwrap_or_default(),
        token_types: metadata.array(&key("token_type"), "an array of whole numbers", as_i32)?.unwrap_or_default(),
        merges: merges(metadata)?,
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        eot: id("eot_token_id")?,
        eom: id("eom_token_id")?,
        unknown: id("unknown_token_id")?,
        padding: id("padding_token_id")?,
        add_bos: metadata.bool(&key("add_bos_token"))?,
        add_eos: metadata.bool(&key("add_eos_token"))?,
        add_space_prefix: metadata.bool(&key("add_space_prefix"))?,
        tokens: tokens.iter().map(<[u8]>::to_vec).collect(),
    };
    if !vocabulary.scores.is_empty() {
        expect_len("scores", vocabulary.scores.len(), vocab_size, "tokens")?;
    }
    if !vocabulary.token_types.is_empty() {
        expect_len("token_type", vocabulary.token_types.len(), vocab_size, "tokens")?;
    }
    check_byte_tokens(tokens, &vocabulary.token_types)?;
    Ok(Some(vocabulary))
}

fn as_score(value: &Value) -> Option<f32> {
    value.as_f32()
}

fn as_i32(value: &Value) -> Option<i32> {
    i32::try_from(value.as_i128()?).ok()
}

fn expect_len(name: &str, len: usize, expected: usize, of: &str) -> Result<(), FormatError> {
    if len == expected {
        return Ok(());
    }
    Err(FormatError::invalid(format!("length of {}", key(name)), format!("{expected}, the number of {of}"), len))
}

fn token_id(metadata: &Metadata, name: &str, vocab_size: usize) -> Result<Option<u32>, FormatError> {
    let Some(value) = metadata.get(&key(name)) else { return Ok(None) };
    match value.as_usize().filter(|&id| id < vocab_size).and_then(|id| u32::try_from(id).ok()) {
        Some(id) => Ok(Some(id)),
        None => Err(FormatError::invalid(key(name), format!("a token id below {vocab_size}"), value.preview())),
    }
}

fn merges(metadata: &Metadata) -> Result<Vec<String>, FormatError> {
    let Some(merges) = metadata.strings(&key("merges"))? else { return Ok(Vec::new()) };
    let text = |(index, merge): (usize, &[u8])| match std::str::from_utf8(merge) {
        Ok(merge) => Ok(merge.to_owned()),
        Err(_) => {
            Err(FormatError::invalid(format!("string {index} of {}", key("merges")), "UTF-8", merge.escape_ascii()))
        }
    };
    merges.iter().enumerate().map(text).collect()
}

/// A byte token is written `<0xHH>`. Anything else would index outside the 256 bytes there are.
fn check_byte_tokens(tokens: &Strings, types: &[i32]) -> Result<(), FormatError> {
    for (id, (token, _)) in tokens.iter().zip(types).enumerate().filter(|(_, (_, ty))| **ty == BYTE_TOKEN) {
        let digits = token.strip_prefix(b"<0x").and_then(|rest| rest.strip_suffix(b">"));
        if !digits.is_some_and(|digits| digits.len() == 2 && digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(FormatError::invalid(
                format!("byte token {id}"),
                "<0x00> to <0xFF>",
                format!("\"{}\"", token.escape_ascii()),
            ));
        }
    }
    Ok(())
}
