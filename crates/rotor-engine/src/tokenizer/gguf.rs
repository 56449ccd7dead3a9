//! A tokenizer from the `tokenizer.ggml.*` keys (docs/formats.md section 8).
//!
//! The library's objects are built directly: writing 128,256 tokens and 280,147 merges as JSON only to parse them again
//! would cost more than opening the rest of the model.

use super::added::{AddedToken, AddedTokens};
use super::error::TokenizerError;
use super::pretokenizer::PreTokenizer;
use super::sentencepiece::SentencePiece;
use super::vocabulary::{Kind, Vocabulary, byte_level_bytes, byte_token, sentencepiece_bytes};
use super::{Model, Parts, bpe};
use crate::formats::GgufVocabulary;
use std::collections::HashMap;
use tokenizers::models::bpe::Vocab;

/// Control tokens that end a turn, whatever the keys say. Some converters write them as ordinary tokens.
pub(super) const END_OF_TURN: [&str; 7] =
    ["<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>"];

/// Builds the parts of a tokenizer, having checked every list's length and every id's range.
pub(super) fn build(source: &GgufVocabulary, vocab_size: usize) -> Result<Parts, TokenizerError> {
    check_lengths(source, vocab_size)?;
    check_ids(source)?;
    let kinds = kinds(source)?;
    match source.model.as_str() {
        "gpt2" => build_byte_level(source, &kinds),
        "llama" => build_sentencepiece(source, &kinds),
        other => Err(TokenizerError::Unsupported {
            what: "tokenizer.ggml.model",
            name: other.to_owned(),
            known: "gpt2 (byte-level BPE), llama (SentencePiece)",
        }),
    }
}

fn check_lengths(source: &GgufVocabulary, vocab_size: usize) -> Result<(), TokenizerError> {
    let tokens = source.tokens.len();
    if tokens != vocab_size {
        let expected = format!("{vocab_size} tokens, one for each row of the embedding");
        return Err(TokenizerError::invalid("tokenizer.ggml.tokens", expected, tokens));
    }
    let lists =
        [("tokenizer.ggml.scores", source.scores.len()), ("tokenizer.ggml.token_type", source.token_types.len())];
    for (key, found) in lists {
        if found != 0 && found != tokens {
            return Err(TokenizerError::invalid(key, format!("{tokens} entries, one for each token"), found));
        }
    }
    Ok(())
}

fn special_ids(source: &GgufVocabulary) -> [(&'static str, Option<u32>); 6] {
    [
        ("tokenizer.ggml.bos_token_id", source.bos),
        ("tokenizer.ggml.eos_token_id", source.eos),
        ("tokenizer.ggml.eot_token_id", source.eot),
        ("tokenizer.ggml.eom_token_id", source.eom),
        ("tokenizer.ggml.unknown_token_id", source.unknown),
        ("tokenizer.ggml.padding_token_id", source.padding),
    ]
}

fn check_ids(source: &GgufVocabulary) -> Result<(), TokenizerError> {
    let tokens = source.tokens.len();
    for (key, id) in special_ids(source) {
        if let Some(id) = id.filter(|&id| usize::try_from(id).map_or(true, |id| id >= tokens)) {
            return Err(TokenizerError::invalid(key, format!("an id below {tokens}"), id));
        }
    }
    Ok(())
}

/// The kind of every token. Without `token_type` the tokens that the keys name are the control tokens.
fn kinds(source: &GgufVocabulary) -> Result<Vec<Kind>, TokenizerError> {
    let mut kinds = Vec::with_capacity(source.tokens.len());
    for (index, &token_type) in source.token_types.iter().enumerate() {
        let kind = Kind::from_gguf(token_type).ok_or_else(|| {
            TokenizerError::invalid(format!("tokenizer.ggml.token_type[{index}]"), "a number from 1 to 6", token_type)
        })?;
        kinds.push(kind);
    }
    if kinds.is_empty() {
        kinds.resize(source.tokens.len(), Kind::Normal);
        let ids = special_ids(source).into_iter().filter_map(|(_, id)| usize::try_from(id?).ok());
        ids.for_each(|id| kinds.iter_mut().skip(id).take(1).for_each(|kind| *kind = Kind::Control));
    }
    for (kind, token) in kinds.iter_mut().zip(&source.tokens) {
        if *kind == Kind::Normal && END_OF_TURN.iter().any(|text| text.as_bytes() == token) {
            *kind = Kind::Control;
        }
    }
    Ok(kinds)
}

fn build_byte_level(source: &GgufVocabulary, kinds: &[Kind]) -> Result<Parts, TokenizerError> {
    let pre_tokenizer = pre_tokenizer(source)?;
    let vocabulary = vocabulary(source, kinds, byte_level_bytes)?;
    let mut texts = Vocab::default();
    texts.reserve(vocabulary.len());
    for (id, piece, kind) in vocabulary.iter() {
        // Leaving control tokens out is what keeps a user's text from spelling one.
        if matches!(kind, Kind::Normal | Kind::UserDefined) && !piece.is_empty() {
            texts.entry(piece.to_owned()).or_insert(id);
        }
    }
    let merges = source.merges.iter().map(|merge| bpe::split_merge(merge));
    let model = bpe::checked(texts, merges, "tokenizer.ggml.merges")?
        .ignore_merges(pre_tokenizer.ignores_merges())
        .build()
        .map_err(TokenizerError::library("cannot build the byte-pair vocabulary"))?;
    let mut pipeline = tokenizers::Tokenizer::new(model);
    pipeline.with_pre_tokenizer(Some(pre_tokenizer.build()?));
    let adds_bos = source.add_bos.unwrap_or(pre_tokenizer.adds_bos());
    parts(source, vocabulary, Model::Library(Box::new(pipeline)), adds_bos, false)
}

/// The pre-tokenizer of a byte-level vocabulary, named or not.
pub(crate) fn pre_tokenizer(source: &GgufVocabulary) -> Result<PreTokenizer, TokenizerError> {
    PreTokenizer::from_gguf(source.pre.as_deref(), looks_like_llama3(source))
}

/// Whether a file that names no pre-tokenizer was trained with the Llama-3 rules.
fn looks_like_llama3(source: &GgufVocabulary) -> bool {
    let first_control = source.tokens.get(128_000).map(Vec::as_slice);
    source.architecture.starts_with("bitnet")
        || (source.tokens.len() == 128_256 && first_control == Some(b"<|begin_of_text|>".as_slice()))
}

fn build_sentencepiece(source: &GgufVocabulary, kinds: &[Kind]) -> Result<Parts, TokenizerError> {
    if source.scores.is_empty() {
        return Err(TokenizerError::invalid("tokenizer.ggml.scores", "one for each token", "none"));
    }
    let vocabulary = vocabulary(source, kinds, sentencepiece_bytes)?;
    let mut pieces = HashMap::with_capacity(vocabulary.len());
    let mut bytes = [None; 256];
    for ((id, piece, kind), &score) in vocabulary.iter().zip(&source.scores) {
        if !score.is_finite() {
            let what = format!("tokenizer.ggml.scores[{id}]");
            return Err(TokenizerError::invalid(what, "a finite number", score));
        }
        match kind {
            // Adding zero turns -0 into 0, which must tie with it.
            Kind::Normal if !piece.is_empty() => _ = pieces.entry(piece.into()).or_insert((id, score + 0.0)),
            Kind::Byte => _ = byte_token(piece).map(|byte| bytes[usize::from(byte)].get_or_insert(id)),
            _ => {}
        }
    }
    let unknown =
        source.unknown.or_else(|| vocabulary.iter().find(|entry| entry.2 == Kind::Unknown).map(|entry| entry.0));
    let add_space_prefix = source.add_space_prefix.unwrap_or(true);
    let model = SentencePiece::new(pieces, bytes, unknown, add_space_prefix);
    parts(source, vocabulary, Model::SentencePiece(Box::new(model)), source.add_bos.unwrap_or(true), add_space_prefix)
}

/// The id table. `print` maps an ordinary piece to the bytes it prints; other kinds print as they are written.
fn vocabulary(
    source: &GgufVocabulary,
    kinds: &[Kind],
    print: fn(&str) -> Vec<u8>,
) -> Result<Vocabulary, TokenizerError> {
    let mut vocabulary = Vocabulary::with_capacity(source.tokens.len());
    for (index, (token, &kind)) in source.tokens.iter().zip(kinds).enumerate() {
        let text = std::str::from_utf8(token);
        let bytes = match (kind, text) {
            (Kind::Byte, text) => {
                let byte = text.ok().and_then(byte_token).ok_or_else(|| {
                    let found = String::from_utf8_lossy(token);
                    TokenizerError::invalid(
                        format!("tokenizer.ggml.tokens[{index}]"),
                        "a byte, <0x00> to <0xFF>",
                        found,
                    )
                })?;
                vec![byte]
            }
            (Kind::Normal, Ok(text)) => print(text),
            _ => token.clone(),
        };
        // A piece that is no text cannot be found in one; an empty piece keeps it out of the maps.
        vocabulary.push(text.unwrap_or_default(), bytes, kind);
    }
    Ok(vocabulary)
}

fn parts(
    source: &GgufVocabulary,
    vocabulary: Vocabulary,
    model: Model,
    adds_bos: bool,
    drop_first_space: bool,
) -> Result<Parts, TokenizerError> {
    let sentencepiece = matches!(model, Model::SentencePiece(_));
    let known = |id: u32| sentencepiece.then_some(id).filter(|&id| vocabulary.kind(id).is_some());
    // The defaults of the "llama" model; "gpt2" has none that mean anything.
    let bos = source.bos.or_else(|| known(1));
    let eos = source.eos.or_else(|| known(2));
    let added = AddedTokens::new(
        vocabulary.iter().filter(|entry| matches!(entry.2, Kind::Control | Kind::Unknown | Kind::UserDefined)).map(
            |(id, text, kind)| AddedToken {
                id,
                special: kind.is_special(),
                token: tokenizers::AddedToken::from(text, kind.is_special()),
            },
        ),
    )?;
    Ok(Parts {
        added,
        model,
        drop_first_space,
        prefix: if adds_bos { bos.into_iter().collect() } else { Vec::new() },
        suffix: if source.add_eos == Some(true) { eos.into_iter().collect() } else { Vec::new() },
        bos,
        eos,
        end_of_generation: [eos, source.eot, source.eom].into_iter().flatten().collect(),
        vocabulary,
    })
}
