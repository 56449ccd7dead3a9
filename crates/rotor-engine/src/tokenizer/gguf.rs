//! A description from the `tokenizer.ggml.*` keys.

use super::description::{Beyond, BytePairs, Encoding, Scores, Spelling, TokenizerDescription};
use super::error::TokenizerError;
use super::merges::Merges;
use super::rules::Rule;
use super::vocabulary::{Kind, Vocabulary, byte_level_bytes, byte_token, sentencepiece_bytes};
use crate::formats::GgufVocabulary;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Control tokens that end a turn or a text, whatever the keys say.
const ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<turn|>",
    "<|tool_response>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "</s>",
    "<eos>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "[e~[",
];

/// Whether a control token of this text ends a turn or a text.
fn is_end(text: &str) -> bool {
    ENDS.contains(&text)
}

/// Whether a text is spelled as only control tokens are: `<|...|>`, also with the fullwidth bars of DeepSeek.
fn looks_like_control(text: &str) -> bool {
    let inside = |open: &str, close: &str| text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    let is_name = |name: &str| !name.is_empty() && !name.contains(char::is_whitespace);
    inside("<|", "|>").or_else(|| inside("<\u{ff5c}", "\u{ff5c}>")).is_some_and(is_name)
}

/// Ends that no text has for another reason. Some converters type them as ordinary or user-defined tokens.
pub(super) fn is_unmistakable_end(text: &str) -> bool {
    text.starts_with('<')
        && is_end(text)
        && (looks_like_control(text) || matches!(text, "<end_of_turn>" | "<end_of_utterance>"))
}

/// Reads the keys; `vocab_size` is the rows of the embedding.
pub(super) fn read(source: &GgufVocabulary, vocab_size: usize) -> Result<TokenizerDescription, TokenizerError> {
    check_lengths(source)?;
    if let Some(key) = source.unsupported.first() {
        let known = "tokenizers without it".into();
        return Err(TokenizerError::Unsupported { what: "metadata key", name: key.clone(), known });
    }
    let reader = Reader { source, rows: vocab_size, kinds: kinds(source)?, warnings: source.warnings.clone() };
    match source.model.as_str() {
        "gpt2" => reader.byte_level(),
        "llama" => reader.sentencepiece(),
        other => {
            let known = "gpt2 (byte-level BPE), llama (SentencePiece)";
            Err(TokenizerError::unsupported("tokenizer.ggml.model", other, known))
        }
    }
}

fn check_lengths(source: &GgufVocabulary) -> Result<(), TokenizerError> {
    let tokens = source.tokens.len();
    let lists =
        [("tokenizer.ggml.scores", source.scores.len()), ("tokenizer.ggml.token_type", source.token_types.len())];
    for (key, found) in lists {
        if found != 0 && found != tokens {
            return Err(TokenizerError::invalid(key, format!("{tokens} entries, one for each token"), found));
        }
    }
    Ok(())
}

/// The kind of every token.
fn kinds(source: &GgufVocabulary) -> Result<Vec<Kind>, TokenizerError> {
    if source.token_types.is_empty() {
        return Ok(kinds_by_text(source));
    }
    let mut kinds = Vec::with_capacity(source.tokens.len());
    for (index, (&token_type, token)) in source.token_types.iter().zip(&source.tokens).enumerate() {
        let kind = Kind::from_gguf(token_type).ok_or_else(|| {
            TokenizerError::invalid(format!("tokenizer.ggml.token_type[{index}]"), "a number from 1 to 6", token_type)
        })?;
        let retyped = matches!(kind, Kind::Normal | Kind::UserDefined)
            && token.first() == Some(&b'<')
            && std::str::from_utf8(token).is_ok_and(is_unmistakable_end);
        kinds.push(if retyped { Kind::Control } else { kind });
    }
    Ok(kinds)
}

/// Without `token_type`: tokens that the keys name are control tokens, and so are those that are spelled as one.
fn kinds_by_text(source: &GgufVocabulary) -> Vec<Kind> {
    let sentencepiece = source.model == "llama";
    let defaults = if sentencepiece { [Some(0), Some(1), Some(2)] } else { [None; 3] };
    let named = [source.bos, source.eos, source.eot, source.eom, source.unknown, source.padding];
    let named: Vec<u32> = named.into_iter().chain(defaults).flatten().chain(source.ends.iter().copied()).collect();
    let kind = |(id, token): (u32, &Vec<u8>)| match std::str::from_utf8(token) {
        _ if named.contains(&id) => Kind::Control,
        Ok(text) if sentencepiece && byte_token(text).is_some() => Kind::Byte,
        Ok(text) if looks_like_control(text) || is_unmistakable_end(text) => Kind::Control,
        _ => Kind::Normal,
    };
    (0..).zip(&source.tokens).map(kind).collect()
}

/// Keys on their way into a description.
struct Reader<'a> {
    source: &'a GgufVocabulary,
    /// Rows of the embedding.
    rows: usize,
    kinds: Vec<Kind>,
    warnings: Vec<String>,
}

impl Reader<'_> {
    fn byte_level(mut self) -> Result<TokenizerDescription, TokenizerError> {
        let rule = rule(self.source)?;
        let vocabulary = self.vocabulary(byte_level_bytes)?;
        let merges = self.merges(&vocabulary)?;
        let encoding = Encoding::BytePairs(BytePairs {
            spelling: Spelling::ByteLevel,
            normalizer: Vec::new(),
            pre_tokenizer: rule.steps(),
            merges,
            ignore_merges: rule.ignore_merges,
            byte_fallback: false,
            unknown: None,
            fuse_unknown: false,
        });
        let adds_bos = self.source.add_bos.unwrap_or(rule.adds_bos && self.source.bos.is_some());
        let unknown = self.id("unknown_token_id", self.source.unknown, &vocabulary);
        self.describe(vocabulary, encoding, adds_bos, unknown)
    }

    /// The merges. A vocabulary that has lost them would spell every text byte by byte.
    fn merges(&self, vocabulary: &Vocabulary) -> Result<Merges, TokenizerError> {
        let mut merges = Merges::with_capacity(self.source.merges.len());
        for (index, written) in self.source.merges.iter().enumerate() {
            let pushed = std::str::from_utf8(written).ok().and_then(|written| merges.push_written(written));
            pushed.ok_or_else(|| {
                let expected = "two tokens with a space between";
                TokenizerError::invalid(format!("tokenizer.ggml.merges[{index}]"), expected, written.escape_ascii())
            })?;
        }
        let is_made = |(_, piece, kind): (u32, &str, Kind)| kind == Kind::Normal && piece.chars().nth(1).is_some();
        if merges.is_empty() && vocabulary.iter().any(is_made) {
            let expected = "the merges that make its tokens of several bytes";
            return Err(TokenizerError::invalid("tokenizer.ggml.merges", expected, "none"));
        }
        Ok(merges)
    }

    fn sentencepiece(mut self) -> Result<TokenizerDescription, TokenizerError> {
        let scores = &self.source.scores;
        if scores.is_empty() {
            return Err(TokenizerError::invalid("tokenizer.ggml.scores", "one for each token", "none"));
        }
        if let Some((id, score)) = scores.iter().enumerate().find(|(_, score)| !score.is_finite()) {
            return Err(TokenizerError::invalid(format!("tokenizer.ggml.scores[{id}]"), "a finite number", score));
        }
        let vocabulary = self.vocabulary(sentencepiece_bytes)?;
        let space_prefix = self.source.add_space_prefix.unwrap_or(true);
        let encoding = Encoding::SentencePiece(Scores { scores: scores.clone(), space_prefix });
        let adds_bos = self.source.add_bos.unwrap_or(true);
        let first_unknown = || vocabulary.iter().find(|entry| entry.2 == Kind::Unknown).map(|entry| entry.0);
        let unknown = self.id("unknown_token_id", self.source.unknown, &vocabulary).or_else(first_unknown);
        self.describe(vocabulary, encoding, adds_bos, unknown)
    }

    /// The id table. `print` maps an ordinary piece to the bytes it prints; other kinds print as they are written.
    fn vocabulary(&mut self, print: fn(&str) -> Vec<u8>) -> Result<Vocabulary, TokenizerError> {
        let tokens = self.source.tokens.len();
        let mut vocabulary = Vocabulary::with_capacity(self.rows.max(tokens));
        for (index, (token, &kind)) in self.source.tokens.iter().zip(&self.kinds).enumerate().take(self.rows) {
            let text = std::str::from_utf8(token);
            let bytes = match (kind, text) {
                (Kind::Byte, text) => {
                    let byte = text.ok().and_then(byte_token).ok_or_else(|| {
                        let what = format!("tokenizer.ggml.tokens[{index}]");
                        TokenizerError::invalid(what, "a byte, <0x00> to <0xFF>", String::from_utf8_lossy(token))
                    })?;
                    vec![byte]
                }
                (Kind::Normal, Ok(text)) => print(text),
                _ => token.clone(),
            };
            // A piece that is no text cannot be found in one; an empty piece keeps it out of the maps.
            vocabulary.push(text.unwrap_or_default(), bytes, kind);
        }
        if tokens < self.rows {
            let rows = self.rows;
            self.warnings.push(format!("the vocabulary has {tokens} tokens for {rows} rows of the embedding"));
            vocabulary.pad(self.rows);
        }
        Ok(vocabulary)
    }

    /// Added tokens behind the last row. Ordinary ones there mean that the vocabulary is another model's.
    fn beyond(&mut self) -> Result<Vec<Beyond>, TokenizerError> {
        let mut beyond = Vec::new();
        for (id, (token, &kind)) in (0..).zip(self.source.tokens.iter().zip(&self.kinds)).skip(self.rows) {
            match kind {
                Kind::Normal | Kind::Byte => {
                    let expected = format!("{} tokens, one for each row of the embedding", self.rows);
                    return Err(TokenizerError::invalid("tokenizer.ggml.tokens", expected, self.source.tokens.len()));
                }
                Kind::Unused => {}
                Kind::Control | Kind::Unknown | Kind::UserDefined => {
                    let text = String::from_utf8_lossy(token).into_owned();
                    self.warnings.push(without_row(id, &text, self.rows));
                    beyond.push(Beyond { id, text, special: kind.is_special() });
                }
            }
        }
        Ok(beyond)
    }

    /// An id that a key names, if there is such a token.
    fn id(&mut self, key: &str, id: Option<u32>, vocabulary: &Vocabulary) -> Option<u32> {
        let id = id?;
        if vocabulary.kind(id).is_none() {
            let tokens = vocabulary.len();
            self.warnings.push(format!("tokenizer.ggml.{key} is {id}, but there are {tokens} tokens: it is left out"));
            return None;
        }
        Some(id)
    }

    fn describe(
        mut self,
        vocabulary: Vocabulary,
        encoding: Encoding,
        adds_bos: bool,
        unknown: Option<u32>,
    ) -> Result<TokenizerDescription, TokenizerError> {
        let source = self.source;
        let beyond = self.beyond()?;
        let sentencepiece = matches!(encoding, Encoding::SentencePiece(_));
        // The defaults of the "llama" model; "gpt2" has none that mean anything.
        let default = |id: u32| Some(id).filter(|&id| sentencepiece && vocabulary.kind(id).is_some());
        let bos = self.id("bos_token_id", source.bos, &vocabulary).or_else(|| default(1));
        let eos = self.id("eos_token_id", source.eos, &vocabulary).or_else(|| default(2));
        let padding = self.id("padding_token_id", source.padding, &vocabulary);
        let mut ends: Vec<u32> = eos.into_iter().collect();
        ends.extend(self.id("eot_token_id", source.eot, &vocabulary));
        ends.extend(self.id("eom_token_id", source.eom, &vocabulary));
        for &id in &source.ends {
            ends.extend(self.id("eos_token_ids", Some(id), &vocabulary));
        }
        for (wanted, id, key) in [(source.add_bos, bos, "bos"), (source.add_eos, eos, "eos")] {
            if wanted == Some(true) && id.is_none() {
                let missing =
                    format!("the file wants its {key} token beside every text and does not name one that exists");
                self.warnings.push(missing);
            }
        }
        Ok(TokenizerDescription {
            prefix: bos.into_iter().filter(|_| adds_bos).collect(),
            suffix: eos.into_iter().filter(|_| source.add_eos == Some(true)).collect(),
            drop_first_space: matches!(encoding, Encoding::SentencePiece(Scores { space_prefix: true, .. })),
            ends: with_known_ends(ends, &vocabulary),
            vocabulary: Arc::new(vocabulary),
            beyond,
            matching: BTreeMap::new(),
            encoding,
            bos,
            eos,
            unknown,
            padding,
            warnings: self.warnings,
        })
    }
}

/// The pre-tokenizer of a byte-level vocabulary. The published BitNet GGUF names none and was trained with the Llama-3
/// rules; elsewhere no name means llama.cpp's default.
fn rule(source: &GgufVocabulary) -> Result<&'static Rule, TokenizerError> {
    let first_control = source.tokens.get(128_000).map(Vec::as_slice);
    let looks_like_llama3 = source.architecture.starts_with("bitnet")
        || (source.tokens.len() == 128_256 && first_control == Some(b"<|begin_of_text|>".as_slice()));
    let unnamed = if looks_like_llama3 { "llama-bpe" } else { "default" };
    Rule::named(source.pre.as_deref().unwrap_or(unnamed))
}

/// The ends that a source names, and the control tokens that are ends by their text; in increasing order.
pub(super) fn with_known_ends(mut ends: Vec<u32>, vocabulary: &Vocabulary) -> Vec<u32> {
    let known = vocabulary.iter().filter(|&(_, text, kind)| kind == Kind::Control && is_end(text));
    ends.extend(known.map(|(id, _, _)| id));
    ends.sort_unstable();
    ends.dedup();
    ends
}

/// What is said of an added token with an id behind the last row.
pub(super) fn without_row(id: u32, text: &str, rows: usize) -> String {
    format!("token {id}, {text:?}, has no row in the embedding of {rows}: texts that spell it are refused")
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
            merges: ["a b", "Ġ ab"].into_iter().collect(),
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
    fn ids_out_of_range_are_left_out() {
        for (key, vocabulary) in [
            ("eos_token_id", GgufVocabulary { eos: Some(7), ..byte_level() }),
            ("unknown_token_id", GgufVocabulary { unknown: Some(7), ..byte_level() }),
            ("padding_token_id", GgufVocabulary { padding: Some(7), ..byte_level() }),
            ("eos_token_ids", GgufVocabulary { ends: vec![7, 4], ..byte_level() }),
        ] {
            let tokenizer = open(vocabulary).unwrap();
            let warning = format!("tokenizer.ggml.{key} is 7, but there are 7 tokens: it is left out");
            assert_eq!(tokenizer.warnings(), [warning]);
            let ends: &[u32] = match key {
                "eos_token_ids" => &[4, 6],
                // The text of </s> says what it is.
                _ => &[6],
            };
            assert_eq!(tokenizer.end_of_generation(), ends, "{key}");
        }
        let bos = open(GgufVocabulary { bos: Some(9), add_bos: Some(true), ..byte_level() }).unwrap();
        assert!(bos.warnings()[1].contains("wants its bos token"), "{:?}", bos.warnings());
    }

    #[test]
    fn added_tokens_without_a_row_are_found_and_refused() {
        let mut vocabulary = byte_level();
        vocabulary.tokens.extend([b"<pad>".to_vec(), b"<tool>".to_vec()]);
        vocabulary.token_types.extend([3, 4]);
        let tokenizer = open(vocabulary.clone()).unwrap();
        assert_eq!(tokenizer.len(), 7);
        assert!(tokenizer.warnings()[0].starts_with("token 7, \"<pad>\", has no row in the embedding of 7"));
        let refused = |text, special| tokenizer.encode(text, special).unwrap_err().to_string();
        let why = "a token for which the model's embedding has no row";
        assert_eq!(refused("a<pad>", SpecialTokens::Parse), format!("the text spells \"<pad>\", {why}"));
        assert_eq!(refused("<tool>", SpecialTokens::AsText), format!("the text spells \"<tool>\", {why}"));
        assert_eq!(tokenizer.encode("a<pad>b", SpecialTokens::AsText).unwrap(), [0, 0, 1]);
        vocabulary.token_types[8] = 1;
        assert!(refusal(vocabulary).starts_with("tokenizer.ggml.tokens: expected 7 tokens"));
    }

    #[test]
    fn missing_rows_are_unused() {
        let mut short = byte_level();
        short.tokens.pop();
        short.token_types.pop();
        short.eos = None;
        let tokenizer = open(short).unwrap();
        assert_eq!((tokenizer.len(), tokenizer.token_text(6)), (7, Some("")));
        assert_eq!(tokenizer.warnings(), ["the vocabulary has 6 tokens for 7 rows of the embedding"]);
    }

    /// Without its merges a vocabulary spells every word letter by letter.
    #[test]
    fn merges_that_are_missing_are_not_none() {
        let without = || GgufVocabulary { merges: Default::default(), ..byte_level() };
        let expected = "tokenizer.ggml.merges: expected the merges that make its tokens of several bytes, found none";
        assert_eq!(refusal(without()), expected);
        let mut bytes = without();
        bytes.tokens[3] = b"c".to_vec();
        bytes.tokens[4] = b"d".to_vec();
        assert_eq!(open(bytes).unwrap().encode("abcd", SpecialTokens::AsText).unwrap(), [0, 1, 3, 4]);
    }

    #[test]
    fn keys_that_change_ids_are_refused_by_name() {
        let keys = GgufVocabulary { unsupported: vec!["tokenizer.ggml.add_sep_token".into()], ..byte_level() };
        assert!(refusal(keys).starts_with("metadata key \"tokenizer.ggml.add_sep_token\" is not supported"));
    }

    #[test]
    fn facts_about_control_tokens() {
        let tokenizer = open(byte_level()).unwrap();
        assert_eq!((tokenizer.control_token("<s>"), tokenizer.control_token(" <s>")), (Some(5), None));
        assert_eq!((tokenizer.control_token("ab"), tokenizer.control_token("")), (None, None));
        assert_eq!(tokenizer.control_tokens("</s>a</s><s>b"), [6, 5]);
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
            let vocabulary = GgufVocabulary { merges: ["a b", merge].into_iter().collect(), ..byte_level() };
            let expected = "merges[1]: expected two tokens whose concatenation is a token, found ";
            assert_eq!(refusal(vocabulary), format!("{expected}{found}"));
        }
        for merge in ["", "a", " a", "ab "] {
            let vocabulary = GgufVocabulary { merges: [merge].into_iter().collect(), ..byte_level() };
            assert!(refusal(vocabulary).contains("merges[0]: expected two tokens"));
        }
    }

    #[test]
    fn unknown_kinds_are_named() {
        let pre = GgufVocabulary { pre: Some("bloom".to_owned()), ..byte_level() };
        let expected = "pre-tokenizer \"bloom\" is not supported; supported are llama-bpe, llama3, llama-v3, falcon3, ";
        assert!(refusal(pre).starts_with(expected));
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
        vocabulary.merges = ["a b"].into_iter().collect();
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
                    tokens: mixed(keep), token_types: token_types.clone(), merges: merges.iter().collect(),
                    bos: ids[0], eos: ids[1], eot: ids[2], unknown: ids[3], ..base.clone()
                };
                if let Ok(tokenizer) = open(vocabulary) {
                    let _ = tokenizer.encode(&text, SpecialTokens::Parse).map(|ids| tokenizer.decode(&ids));
                }
            }
        }
    }
}
