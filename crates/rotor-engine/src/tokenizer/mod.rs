//! Text to token ids and back.
//!
//! One [`Tokenizer`] for every model, built from one [`TokenizerDescription`]: byte-level BPE and tokenizer.json run on the
//! `tokenizers` library (`library.rs`), SentencePiece vocabularies of GGUF files on code of our own, because no model of the
//! library merges by score. Special tokens are found here, for all of them alike, so that "special tokens in a user's text
//! are ordinary characters" holds everywhere.

mod added;
mod description;
mod differences;
mod error;
mod gguf;
mod huggingface;
mod library;
mod matcher;
mod merges;
mod read;
mod rules;
pub(crate) mod scores;
mod sentencepiece;
mod steps;
mod stream;
mod vocabulary;

pub use description::TokenizerDescription;
pub use differences::TokenizerDifference;
pub use error::TokenizerError;
pub use stream::TextStream;

pub(crate) use description::{Beyond, BytePairs, Encoding, Matching, Scores, Spelling};
pub(crate) use huggingface::ids_needed;
pub(crate) use library::reaches_every_piece;
pub(crate) use merges::Merges;
#[cfg(test)]
pub(crate) use rules::RULES;
pub(crate) use rules::Rule;
pub(crate) use steps::{Normalizer, Pattern, to_json as steps_json};
pub(crate) use vocabulary::{Kind, byte_to_char, byte_token};

use crate::formats::TokenizerSource;
use added::AddedTokens;
use library::Pipeline;
use matcher::Segment;
use sentencepiece::SentencePiece;
use std::ops::Range;
use std::sync::Arc;
use vocabulary::Vocabulary;

/// Longest text taken at once, in bytes. The library keeps about 130 bytes for each byte it works on: 2.3 GB for 16 MiB
/// of prose.
pub const MAX_TEXT_BYTES: usize = 16 << 20;

/// Longest run of whitespace taken, in characters. The pre-tokenizers' look-ahead backtracks through a run, and in one
/// of 1.1 million spaces the library's regex engine gives up and matches nothing, without saying so.
pub const MAX_WHITESPACE_RUN: usize = 100_000;

/// What control tokens written in a text are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialTokens {
    /// Control tokens: for templates, and where a caller asks for it.
    Parse,
    /// Ordinary characters: for what a user typed. User-defined tokens still match.
    AsText,
}

/// Encodes text as a model's token ids, and decodes them.
#[derive(Debug)]
pub struct Tokenizer {
    vocabulary: Arc<Vocabulary>,
    added: AddedTokens,
    model: Model,
    drop_first_space: bool,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    ends: Vec<u32>,
    warnings: Vec<String>,
}

/// What encodes a stretch of text without added tokens.
#[derive(Debug)]
enum Model {
    BytePairs(Box<Pipeline>),
    SentencePiece(Box<SentencePiece>),
}

impl Tokenizer {
    /// Builds the tokenizer of a model whose embedding has `vocab_size` rows.
    ///
    /// # Errors
    ///
    /// As [`TokenizerDescription::read`] and [`Tokenizer::from_description`].
    pub fn new(source: &TokenizerSource, vocab_size: usize) -> Result<Tokenizer, TokenizerError> {
        Self::from_description(&TokenizerDescription::read(source, vocab_size)?)
    }

    /// Builds the tokenizer that a description describes.
    ///
    /// # Errors
    ///
    /// A merge that leads nowhere, or a regular expression that cannot be compiled.
    pub fn from_description(description: &TokenizerDescription) -> Result<Tokenizer, TokenizerError> {
        let vocabulary = Arc::clone(&description.vocabulary);
        let model = match &description.encoding {
            Encoding::BytePairs(pairs) => Model::BytePairs(Box::new(Pipeline::new(pairs, &vocabulary)?)),
            Encoding::SentencePiece(scores) => {
                Model::SentencePiece(Box::new(SentencePiece::new(scores, &vocabulary, description.unknown)))
            }
        };
        Ok(Self {
            added: AddedTokens::new(description)?,
            vocabulary,
            model,
            drop_first_space: description.drop_first_space,
            prefix: description.prefix.clone(),
            suffix: description.suffix.clone(),
            bos: description.bos,
            eos: description.eos,
            ends: description.ends.clone(),
            warnings: description.warnings.clone(),
        })
    }

    /// The ids of a text, without the beginning-of-sequence token.
    ///
    /// Characters that a byte-level vocabulary has no byte for are left out, as by the reference implementations.
    ///
    /// # Errors
    ///
    /// A text longer than [`MAX_TEXT_BYTES`], one a SentencePiece vocabulary without byte tokens cannot spell, or one that
    /// spells an added token for which the model has no row.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>, TokenizerError> {
        self.encode_segments(text, special, &[])
    }

    /// The ids of a text, with the beginning- and end-of-sequence tokens where the model wants them.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::encode`].
    pub fn encode_with_bos(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>, TokenizerError> {
        let ids = self.encode(text, special)?;
        Ok([self.prefix.as_slice(), &ids, &self.suffix].concat())
    }

    /// The ids of a text that is to go on: the beginning-of-sequence token where the model wants it, but nothing after the
    /// text, in which control tokens are ordinary characters.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        Ok([self.prefix.as_slice(), &self.encode(text, SpecialTokens::AsText)?].concat())
    }

    /// As [`Tokenizer::encode_prompt`], with control tokens where the text spells them. What the model wants in front of a
    /// text is not doubled where the text begins with it.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::encode`].
    pub fn encode_special_prompt(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let ids = self.encode(text, SpecialTokens::Parse)?;
        Ok(if ids.starts_with(&self.prefix) { ids } else { [self.prefix.as_slice(), &ids].concat() })
    }

    /// The ids of a text whose control tokens count except inside `protected` byte ranges (in order, on character
    /// boundaries): a rendered chat template, where what people wrote is protected.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::encode`].
    pub fn encode_protected(&self, text: &str, protected: &[Range<usize>]) -> Result<Vec<u32>, TokenizerError> {
        self.encode_segments(text, SpecialTokens::Parse, protected)
    }

    fn encode_segments(
        &self,
        text: &str,
        special: SpecialTokens,
        protected: &[Range<usize>],
    ) -> Result<Vec<u32>, TokenizerError> {
        check_text(text)?;
        let segments = self.added.segments(text, special == SpecialTokens::Parse, protected);
        if let Some(segment) = segments.iter().find(|segment| segment.token.is_some_and(|id| !self.has_row(id))) {
            let spelled = text.get(segment.range.clone()).unwrap_or_default();
            let why = format!("spells {spelled:?}, a token for which the model's embedding has no row");
            return Err(TokenizerError::Text { why });
        }
        match &self.model {
            Model::BytePairs(pipeline) => pipeline.encode(text, &segments),
            Model::SentencePiece(model) => {
                let mut ids = Vec::with_capacity(text.len() / 3);
                for segment in segments {
                    match segment.token {
                        Some(id) => ids.push(id),
                        None => model.encode(text.get(segment.range).unwrap_or_default(), &mut ids)?,
                    }
                }
                Ok(ids)
            }
        }
    }

    fn has_row(&self, id: u32) -> bool {
        self.vocabulary.kind(id).is_some()
    }

    /// What the model says about its tokenizer that could not be used, in sentences.
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

    /// Whether the model wants the beginning-of-sequence token in front of a text.
    pub fn adds_bos(&self) -> bool {
        self.bos.is_some_and(|bos| self.prefix.contains(&bos))
    }

    /// The tokens after which nothing more is to be generated, in increasing order.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.ends
    }

    /// Number of ids with a token.
    pub fn len(&self) -> usize {
        self.vocabulary.len()
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes a token prints; empty for control tokens.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocabulary.bytes(id)
    }

    /// The token as the vocabulary writes it.
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.vocabulary.piece(id)
    }

    /// The lowest id of a token, by its text in the vocabulary. Looks through the whole vocabulary.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.vocabulary.iter().find(|&(_, piece, _)| piece == text).map(|(id, _, _)| id)
    }

    /// Whether a token is a control token (or stands for the unknown).
    pub fn is_special(&self, id: u32) -> bool {
        self.vocabulary.kind(id).is_some_and(Kind::is_special)
    }

    /// The control token that a text is as a whole.
    pub fn control_token(&self, text: &str) -> Option<u32> {
        let whole = |segment: &Segment| segment.token.filter(|_| segment.range == (0..text.len()));
        match self.added.segments(text, true, &[]).as_slice() {
            [only] => whole(only).filter(|&id| self.is_special(id)),
            _ => None,
        }
    }

    /// The control tokens that a text spells, each once, in the order they come in.
    pub fn control_tokens(&self, text: &str) -> Vec<u32> {
        let mut found = Vec::new();
        for id in self.added.segments(text, true, &[]).into_iter().filter_map(|segment| segment.token) {
            if self.is_special(id) && !found.contains(&id) {
                found.push(id);
            }
        }
        found
    }

    /// The text of a whole sequence. Bytes that are no UTF-8 come out as U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut stream = self.decoder();
        let mut text = String::new();
        for &id in ids {
            text.push_str(stream.push(id).unwrap_or_default());
        }
        text.push_str(stream.finish().unwrap_or_default());
        text
    }

    /// A stream that decodes a text from its beginning.
    pub fn decoder(&self) -> TextStream {
        TextStream::new(Arc::clone(&self.vocabulary), self.drop_first_space)
    }

    /// A stream that decodes what follows other text, and therefore keeps a first space.
    pub fn continuation_decoder(&self) -> TextStream {
        TextStream::new(Arc::clone(&self.vocabulary), false)
    }
}

/// Refuses what the library would take too much memory for, or cut wrongly.
fn check_text(text: &str) -> Result<(), TokenizerError> {
    if text.len() > MAX_TEXT_BYTES {
        let why = format!("is {} bytes long; at most {MAX_TEXT_BYTES} are taken at once", text.len());
        return Err(TokenizerError::Text { why });
    }
    let mut run = 0;
    for character in text.chars() {
        run = if character.is_whitespace() { run + 1 } else { 0 };
        if run > MAX_WHITESPACE_RUN {
            let why = format!("has more than {MAX_WHITESPACE_RUN} characters of whitespace in a row");
            return Err(TokenizerError::Text { why });
        }
    }
    Ok(())
}
