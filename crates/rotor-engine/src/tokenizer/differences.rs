//! What two tokenizers differ in.

use super::description::{BytePairs, Encoding, Scores, TokenizerDescription};
use super::library::reaches_every_piece;
use super::merges::Merges;
use super::scores;
use super::vocabulary::{Kind, Vocabulary};
use serde::Serialize;

/// Something in which two tokenizers differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenizerDifference {
    /// The field, in the words of tokenizer.json where it has one.
    pub name: &'static str,
    /// In the first tokenizer.
    pub first: String,
    /// In the second tokenizer.
    pub second: String,
}

/// Longest value that a difference shows whole, in characters.
const SHOWN: usize = 80;

impl TokenizerDescription {
    /// The fields in which two tokenizers differ: none where every text becomes the same ids, ids become the same text, and
    /// generation ends at the same tokens.
    ///
    /// Every field is taken apart by name, so that a new one does not compile until it is compared here.
    pub fn differences(&self, other: &Self) -> Vec<TokenizerDifference> {
        let Self {
            vocabulary,
            // Texts that spell them are refused, so they make no ids.
            beyond: _,
            matching,
            encoding,
            drop_first_space,
            prefix,
            suffix,
            bos,
            eos,
            unknown,
            padding,
            ends,
            // About the source, not about the tokenizer.
            warnings: _,
        } = self;
        let mut found = Found::default();
        found.vocabularies(vocabulary, &other.vocabulary);
        found.field("whitespace around added tokens", matching, &other.matching);
        found.encodings((vocabulary, encoding), (&other.vocabulary, &other.encoding));
        found.field("first space dropped", drop_first_space, &other.drop_first_space);
        found.field("tokens before a text", prefix, &other.prefix);
        found.field("tokens after a text", suffix, &other.suffix);
        found.field("bos_token", bos, &other.bos);
        found.field("eos_token", eos, &other.eos);
        found.field("unk_token", unknown, &other.unknown);
        found.field("pad_token", padding, &other.padding);
        found.field("ends of generation", ends, &other.ends);
        found.0
    }
}

impl std::fmt::Display for TokenizerDifference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of the tokenizer: {} and {}", self.name, self.first, self.second)
    }
}

#[derive(Default)]
struct Found(Vec<TokenizerDifference>);

impl Found {
    fn push(&mut self, name: &'static str, first: String, second: String) {
        self.0.push(TokenizerDifference { name, first, second });
    }

    fn field<T: PartialEq + Serialize>(&mut self, name: &'static str, first: &T, second: &T) {
        if first != second {
            self.push(name, shown(first), shown(second));
        }
    }

    /// The first token that differs, and how many do.
    fn vocabularies(&mut self, first: &Vocabulary, second: &Vocabulary) {
        if first.len() != second.len() {
            self.push("number of tokens", first.len().to_string(), second.len().to_string());
        }
        let ids = 0..first.len().min(second.len()) as u32;
        let mut different = ids.filter(|&id| token(first, id) != token(second, id));
        let Some(id) = different.next() else { return };
        let more = different.count();
        let name = |vocabulary| match token(vocabulary, id) {
            Some((text, kind)) => format!("{id} {} ({kind})", shown(&text)),
            None => format!("{id} unused"),
        };
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        self.push("tokens", name(first), name(second) + &more);
    }

    /// Merges by score and the list of merges that they come to are the same.
    fn encodings(&mut self, (one, first): (&Vocabulary, &Encoding), (other, second): (&Vocabulary, &Encoding)) {
        match (scores::canonical(one, first), scores::canonical(other, second)) {
            (Some(first), Some(second)) => {
                self.field("space in front", &first.space_prefix, &second.space_prefix);
                self.field("order of merging", &first.order, &second.order);
                return;
            }
            (None, None) => {}
            (first, second) => {
                let name = |by_score| if by_score { "by score" } else { "a list of merges" };
                return self.push("merging", name(first.is_some()).into(), name(second.is_some()).into());
            }
        }
        match (first, second) {
            (Encoding::BytePairs(first), Encoding::BytePairs(second)) => self.byte_pairs(first, second, one),
            (Encoding::SentencePiece(first), Encoding::SentencePiece(second)) => {
                let Scores { scores, space_prefix } = first;
                self.field("space in front", space_prefix, &second.space_prefix);
                self.field("scores", scores, &second.scores);
            }
            _ => self.push("merging", "one way".into(), "another".into()),
        }
    }

    fn byte_pairs(&mut self, first: &BytePairs, second: &BytePairs, vocabulary: &Vocabulary) {
        let BytePairs {
            spelling,
            normalizer,
            pre_tokenizer,
            merges,
            ignore_merges,
            byte_fallback,
            unknown,
            fuse_unknown,
        } = first;
        self.field("spelling", spelling, &second.spelling);
        self.field("normalizer", normalizer, &second.normalizer);
        self.field("pre_tokenizer", pre_tokenizer, &second.pre_tokenizer);
        if *merges != second.merges {
            let at = merges.iter().zip(second.merges.iter()).take_while(|(one, other)| one == other).count();
            let merge = |merges: &Merges| match merges.iter().nth(at) {
                Some((left, right)) => format!("{at} {left:?} {right:?}"),
                None => format!("{} of them", merges.len()),
            };
            self.push("merges", merge(merges), merge(&second.merges));
        }
        if *ignore_merges != second.ignore_merges && !reaches_every_piece(first, vocabulary) {
            self.field("ignore_merges", ignore_merges, &second.ignore_merges);
        }
        self.field("byte_fallback", byte_fallback, &second.byte_fallback);
        self.field("unk_token of the model", unknown, &second.unknown);
        self.field("fuse_unk", fuse_unknown, &second.fuse_unknown);
    }
}

/// What makes a token the one it is; `None` for one that nothing means.
fn token(vocabulary: &Vocabulary, id: u32) -> Option<(String, &'static str)> {
    let (piece, bytes) = (vocabulary.piece(id)?, vocabulary.bytes(id)?);
    let kind = match vocabulary.kind(id)? {
        Kind::Unused => return None,
        Kind::Normal => "normal",
        // Both are invisible and found only where control tokens are.
        Kind::Control | Kind::Unknown => "control",
        Kind::UserDefined => "user-defined",
        Kind::Byte => "byte",
    };
    let text = if piece.is_empty() { bytes.escape_ascii().to_string() } else { piece.to_owned() };
    Some((text, kind))
}

/// A value in a few words.
fn shown<T: Serialize>(value: &T) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    let text = if text == "null" { "none".to_owned() } else { text };
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{} ...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
