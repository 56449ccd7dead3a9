//! One neutral description of a tokenizer, whatever it was read from.
//!
//! A GGUF and a Hugging Face folder say the same things in different words, each with its own defaults. Everything is
//! resolved here once: the encoder is built from a description, both writers write one, `rotor diff` and the check after a
//! conversion compare two. What is not in a description does not decide an id.
//!
//! ```text
//! tokenizer.ggml.* keys ----------\                         /--> Tokenizer (text to ids and back)
//!                                  >-- TokenizerDescription ---> tokenizer.ggml.* keys
//! tokenizer.json and its company -/                         \--> tokenizer.json and its company
//! ```

use super::merges::Merges;
use super::steps::{Normalizer, PreTokenizer};
use super::vocabulary::Vocabulary;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A tokenizer with every default resolved.
#[derive(Clone, Debug)]
pub struct TokenizerDescription {
    /// What each id is, one for every row of the embedding.
    pub(crate) vocabulary: Arc<Vocabulary>,
    /// Added tokens with ids that have no row: found in a text, where they are an error.
    pub(crate) beyond: Vec<Beyond>,
    /// How added tokens treat the text around them, where it is not the usual way.
    pub(crate) matching: BTreeMap<u32, Matching>,
    /// How a stretch of text without added tokens becomes ids.
    pub(crate) encoding: Encoding,
    /// Whether decoding drops the space that encoding put in front.
    pub(crate) drop_first_space: bool,
    /// Ids put before a text.
    pub(crate) prefix: Vec<u32>,
    /// Ids put after a text.
    pub(crate) suffix: Vec<u32>,
    /// Beginning of sequence.
    pub(crate) bos: Option<u32>,
    /// End of sequence.
    pub(crate) eos: Option<u32>,
    /// Stands for what the vocabulary cannot spell.
    pub(crate) unknown: Option<u32>,
    /// Fills up short rows of a batch.
    pub(crate) padding: Option<u32>,
    /// The tokens after which nothing more is to be generated, in increasing order.
    pub(crate) ends: Vec<u32>,
    /// What the source says that could not be used, in sentences.
    pub(crate) warnings: Vec<String>,
}

/// An added token whose id has no row in the embedding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Beyond {
    pub(crate) id: u32,
    pub(crate) text: String,
    /// Whether it is a control token.
    pub(crate) special: bool,
}

/// How an added token treats the text around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Matching {
    /// Matches only where no letter or digit is beside it.
    pub(crate) single_word: bool,
    /// Swallows whitespace to its left.
    pub(crate) lstrip: bool,
    /// Swallows whitespace to its right.
    pub(crate) rstrip: bool,
}

/// How a stretch of text without added tokens becomes ids.
#[derive(Clone, Debug)]
pub(crate) enum Encoding {
    /// A list of merges, with the steps before them.
    BytePairs(BytePairs),
    /// SentencePiece's merging by score.
    SentencePiece(Scores),
}

/// Byte-pair encoding.
#[derive(Clone, Debug)]
pub(crate) struct BytePairs {
    /// How pieces spell text.
    pub(crate) spelling: Spelling,
    /// Changes to the text.
    pub(crate) normalizer: Vec<Normalizer>,
    /// Cuts through it.
    pub(crate) pre_tokenizer: Vec<PreTokenizer>,
    /// The merges.
    pub(crate) merges: Merges,
    /// Whether a piece that is a token as a whole is taken without merging.
    pub(crate) ignore_merges: bool,
    /// Whether characters without a token become their bytes' tokens.
    pub(crate) byte_fallback: bool,
    /// The token for characters that have none.
    pub(crate) unknown: Option<u32>,
    /// Whether several of those in a row become one.
    pub(crate) fuse_unknown: bool,
}

/// SentencePiece's merging: the neighbours whose concatenation scores highest, leftmost among equals.
#[derive(Clone, Debug)]
pub(crate) struct Scores {
    /// A finite score for each token.
    pub(crate) scores: Vec<f32>,
    /// Whether every stretch of text gets a space in front.
    pub(crate) space_prefix: bool,
}

/// How pieces spell text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Spelling {
    /// In characters of the byte-level alphabet.
    ByteLevel,
    /// With U+2581 for a space, and `<0xHH>` for bytes.
    SentencePiece,
}

impl TokenizerDescription {
    /// What the source says that could not be used, in sentences.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The beginning-of-sequence token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end-of-sequence token.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The padding token.
    pub fn padding(&self) -> Option<u32> {
        self.padding
    }

    /// The tokens after which nothing more is to be generated, the end-of-sequence token first.
    pub fn ends(&self) -> Vec<u32> {
        let mut ends = self.ends.clone();
        ends.sort_by_key(|&id| Some(id) != self.eos);
        ends
    }
}
