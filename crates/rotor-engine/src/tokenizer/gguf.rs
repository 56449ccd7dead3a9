//! A tokenizer from the `tokenizer.ggml.*` keys.
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

/// Control tokens that end a turn, whatever the keys say. Some converters write them as ordinary or
/// user-defined tokens.
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
        if matches!(kind, Kind::Normal | Kind::UserDefined) && END_OF_TURN.iter().any(|text| text.as_bytes() == token) {
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
    let ignore_merges = pre_tokenizer.ignores_merges();
    let model = bpe::build(texts, merges, "tokenizer.ggml.merges", |model| model.ignore_merges(ignore_merges))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::TokenizerSource;
    use crate::tokenizer::{SpecialTokens, Tokenizer};
    use proptest::prelude::*;

    fn byte_level() -> GgufVocabulary {
        let tokens = ["a", "b", "Ġ", "ab", "Ġab", "<s>", "</s>"].map(|text| text.as_bytes().to_vec()).to_vec();
        GgufVocabulary {
            model: "gpt2".to_owned(),
            pre: Some("gpt-2".to_owned()),
            tokens,
            token_types: vec![1, 1, 1, 1, 1, 3, 3],
            merges: vec!["a b".to_owned(), "Ġ ab".to_owned()],
            bos: Some(5),
            eos: Some(6),
            ..GgufVocabulary::default()
        }
    }

    fn sentencepiece() -> GgufVocabulary {
        let tokens = ["<unk>", "<s>", "</s>", "<0x41>", "a", "\u{2581}", "\u{2581}a"];
        GgufVocabulary {
            model: "llama".to_owned(),
            tokens: tokens.map(|text| text.as_bytes().to_vec()).to_vec(),
            token_types: vec![2, 3, 3, 6, 1, 1, 1],
            scores: vec![0.0; 7],
            ..GgufVocabulary::default()
        }
    }

    fn open(vocabulary: GgufVocabulary) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::new(&TokenizerSource::Gguf(Box::new(vocabulary)), 7)
    }

    fn refusal(vocabulary: GgufVocabulary) -> String {
        open(vocabulary).unwrap_err().to_string()
    }

    #[test]
    fn lists_out_of_step_are_named() {
        let mut short = byte_level();
        short.tokens.pop();
        assert_eq!(
            refusal(short),
            "tokenizer.ggml.tokens: expected 7 tokens, one for each row of the embedding, found 6"
        );
        let types = GgufVocabulary { token_types: vec![1], ..byte_level() };
        assert_eq!(refusal(types), "tokenizer.ggml.token_type: expected 7 entries, one for each token, found 1");
        let scores = GgufVocabulary { scores: vec![0.0; 8], ..sentencepiece() };
        assert_eq!(refusal(scores), "tokenizer.ggml.scores: expected 7 entries, one for each token, found 8");
        let none = GgufVocabulary { scores: Vec::new(), ..sentencepiece() };
        assert_eq!(refusal(none), "tokenizer.ggml.scores: expected one for each token, found none");
        let nan = GgufVocabulary { scores: vec![f32::NAN; 7], ..sentencepiece() };
        assert_eq!(refusal(nan), "tokenizer.ggml.scores[0]: expected a finite number, found NaN");
        let kind = GgufVocabulary { token_types: vec![9; 7], ..byte_level() };
        assert_eq!(refusal(kind), "tokenizer.ggml.token_type[0]: expected a number from 1 to 6, found 9");
    }

    #[test]
    fn ids_out_of_range_are_named() {
        let eos = GgufVocabulary { eos: Some(7), ..byte_level() };
        assert_eq!(refusal(eos), "tokenizer.ggml.eos_token_id: expected an id below 7, found 7");
        let padding = GgufVocabulary { padding: Some(u32::MAX), ..byte_level() };
        assert_eq!(refusal(padding), "tokenizer.ggml.padding_token_id: expected an id below 7, found 4294967295");
    }

    #[test]
    fn malformed_byte_tokens_are_named() {
        for token in ["<0x-1>", "<0xZZ>", "<0x1FF>", "<0x+1>", "<0x1>", "A", ""] {
            let mut vocabulary = sentencepiece();
            vocabulary.tokens[3] = token.as_bytes().to_vec();
            let expected = format!("tokenizer.ggml.tokens[3]: expected a byte, <0x00> to <0xFF>, found {token}");
            assert_eq!(refusal(vocabulary), expected);
        }
    }

    #[test]
    fn merges_that_lead_nowhere_are_named() {
        // A missing side, a missing result, a control token, a result longer than any token.
        for (merge, found) in [
            ("a c", "\"a\" and \"c\""),
            ("b a", "\"b\" and \"a\""),
            ("a <s>", "\"a\" and \"<s>\""),
            ("Ġab Ġab", "\"Ġab\" and \"Ġab\""),
        ] {
            let vocabulary = GgufVocabulary { merges: vec!["a b".to_owned(), merge.to_owned()], ..byte_level() };
            let expected = "tokenizer.ggml.merges[1]: expected two tokens whose concatenation is a token, found ";
            assert_eq!(refusal(vocabulary), format!("{expected}{found}"));
        }
        for merge in ["", "a", " a", "ab "] {
            let vocabulary = GgufVocabulary { merges: vec![merge.to_owned()], ..byte_level() };
            assert!(refusal(vocabulary).starts_with("tokenizer.ggml.merges[0]: expected two tokens"));
        }
    }

    #[test]
    fn unknown_kinds_are_named() {
        let pre = GgufVocabulary { pre: Some("tekken".to_owned()), ..byte_level() };
        assert_eq!(
            refusal(pre),
            "pre-tokenizer \"tekken\" is not supported; supported are llama-bpe, llama3, llama-v3, falcon3, falcon_e, \
             smollm, gpt-2, qwen2, default"
        );
        let model = GgufVocabulary { model: "bert".to_owned(), ..byte_level() };
        assert!(refusal(model).starts_with("tokenizer.ggml.model \"bert\" is not supported"));
    }

    #[test]
    fn without_types_the_named_tokens_are_control_tokens() {
        let tokenizer = open(GgufVocabulary { token_types: Vec::new(), ..byte_level() }).unwrap();
        assert_eq!(tokenizer.encode(" ab</s>", SpecialTokens::Parse).unwrap(), [4, 6]);
        assert!(tokenizer.is_special(5) && !tokenizer.is_special(4));
        assert_eq!(tokenizer.token_bytes(6), Some(&b""[..]));
        assert_eq!(tokenizer.token_bytes(4), Some(&b" ab"[..]));
        assert_eq!(tokenizer.token_bytes(7), None);
    }

    #[test]
    fn tokens_that_are_no_text_still_print() {
        let mut vocabulary = byte_level();
        vocabulary.tokens[4] = vec![0xc3];
        vocabulary.merges.pop();
        let tokenizer = open(vocabulary).unwrap();
        assert_eq!(tokenizer.token_bytes(4), Some(&[0xc3][..]));
        assert_eq!(tokenizer.decode(&[0, 4]), "a\u{fffd}");
    }

    #[test]
    fn what_sentencepiece_cannot_spell_is_unknown() {
        let tokenizer = open(sentencepiece()).unwrap();
        assert_eq!(tokenizer.encode("aAb", SpecialTokens::AsText).unwrap(), [6, 3, 0]);
        let mut vocabulary = sentencepiece();
        vocabulary.token_types[0] = 1;
        let error = open(vocabulary).unwrap().encode("b", SpecialTokens::AsText).unwrap_err();
        assert!(error.to_string().contains("\"b\""), "{error}");
    }

    proptest! {
        #[test]
        fn no_vocabulary_panics(
            sentence in any::<bool>(),
            tokens in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..6), 7),
            token_types in proptest::collection::vec(1i32..7, 7),
            merges in proptest::collection::vec("[ab \u{120}]{0,4}", 0..3),
            ids in proptest::collection::vec(proptest::option::of(0u32..8), 4),
            text in "\\PC{0,20}",
        ) {
            let base = if sentence { sentencepiece() } else { byte_level() };
            let mixed = |keep: u8| base.tokens.iter().zip(&tokens).map(|(ours, theirs)| {
                if theirs.first().is_some_and(|&byte| byte < keep) { ours.clone() } else { theirs.clone() }
            }).collect::<Vec<_>>();
            for keep in [0, 128, 255] {
                let vocabulary = GgufVocabulary {
                    tokens: mixed(keep), token_types: token_types.clone(), merges: merges.clone(),
                    bos: ids[0], eos: ids[1], eot: ids[2], unknown: ids[3], ..base.clone()
                };
                if let Ok(tokenizer) = open(vocabulary) {
                    let _ = tokenizer.encode(&text, SpecialTokens::Parse).map(|ids| tokenizer.decode(&ids));
                }
            }
        }
    }
}
