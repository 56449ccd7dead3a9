//! Text to token ids and back.
//!
//! One [`Tokenizer`] for every model: byte-level BPE and tokenizer.json run on the `tokenizers` library, SentencePiece
//! vocabularies of GGUF files on code of our own, because no model of the library merges by score. Special tokens are
//! found here, for all of them alike, so that "special tokens in a user's text are ordinary characters" holds
//! everywhere.

mod added;
mod bpe;
mod error;
mod gguf;
mod huggingface;
mod pretokenizer;
mod sentencepiece;
mod stream;
mod vocabulary;

pub use error::TokenizerError;
pub(crate) use gguf::pre_tokenizer;
pub(crate) use pretokenizer::{DIGIT, GPT2, PreTokenizer};
pub use stream::TextStream;
pub(crate) use vocabulary::byte_to_char;

use crate::formats::TokenizerSource;
use added::{AddedTokens, Segment};
use sentencepiece::SentencePiece;
use std::ops::Range;
use std::sync::Arc;
use tokenizers::tokenizer::normalizer::Range as NormalizedRange;
use tokenizers::{Model as _, Normalizer as _, OffsetType, PreTokenizedString, PreTokenizer as _, Token};
use vocabulary::{Kind, Vocabulary};

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
    end_of_generation: Vec<u32>,
}

/// What encodes a stretch of text without added tokens.
#[derive(Debug)]
enum Model {
    Library(Box<tokenizers::Tokenizer>),
    SentencePiece(Box<SentencePiece>),
}

/// What a source has to yield.
struct Parts {
    vocabulary: Vocabulary,
    added: AddedTokens,
    model: Model,
    /// Whether decoding drops the space that encoding put in front.
    drop_first_space: bool,
    /// Ids put before and after an encoded text.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    /// Ids the source names as ends; those known by their text are found from the vocabulary.
    end_of_generation: Vec<u32>,
}

impl Tokenizer {
    /// Builds the tokenizer of a model whose embedding has `vocab_size` rows.
    ///
    /// # Errors
    ///
    /// A list of the wrong length, an id without an embedding row, a malformed byte token, a merge that leads nowhere,
    /// or a kind of tokenizer that rotor does not know.
    pub fn new(source: &TokenizerSource, vocab_size: usize) -> Result<Tokenizer, TokenizerError> {
        // Encoding a prompt is short work; the library's threads would only fight the kernels'.
        tokenizers::utils::parallelism::set_parallelism(false);
        let parts = match source {
            TokenizerSource::Gguf(vocabulary) => gguf::build(vocabulary, vocab_size)?,
            TokenizerSource::HuggingFace { tokenizer, tokenizer_config, eos_token_ids, bos_token_id } => {
                let ids = huggingface::DeclaredIds { bos: *bos_token_id, eos: eos_token_ids };
                huggingface::build(tokenizer, tokenizer_config.as_deref(), ids, vocab_size)?
            }
        };
        Ok(Self::from_parts(parts))
    }

    fn from_parts(parts: Parts) -> Self {
        let mut end_of_generation = parts.end_of_generation;
        for (id, text, kind) in parts.vocabulary.iter() {
            if kind == Kind::Control && gguf::END_OF_TURN.contains(&text) {
                end_of_generation.push(id);
            }
        }
        end_of_generation.sort_unstable();
        end_of_generation.dedup();
        Self {
            vocabulary: Arc::new(parts.vocabulary),
            added: parts.added,
            model: parts.model,
            drop_first_space: parts.drop_first_space,
            prefix: parts.prefix,
            suffix: parts.suffix,
            bos: parts.bos,
            eos: parts.eos,
            end_of_generation,
        }
    }

    /// The ids of a text, without the beginning-of-sequence token.
    ///
    /// Characters that a byte-level vocabulary has no byte for are left out, as by the reference implementations.
    ///
    /// # Errors
    ///
    /// A text longer than [`MAX_TEXT_BYTES`], or one a SentencePiece vocabulary without byte tokens cannot spell.
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
        match &self.model {
            Model::Library(library) => encode_with_library(library, text, &segments),
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
        &self.end_of_generation
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

    /// The control tokens that a text spells, each once, in the order in which they come.
    pub fn control_tokens(&self, text: &str) -> Vec<u32> {
        let mut found = Vec::new();
        for id in self.added.segments(text, true, &[]).iter().filter_map(|segment| segment.token) {
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

/// Runs normaliser, pre-tokenizer and model of the library over the text between the added tokens.
fn encode_with_library(
    library: &tokenizers::Tokenizer,
    text: &str,
    segments: &[Segment],
) -> Result<Vec<u32>, TokenizerError> {
    let failed = || TokenizerError::library("cannot encode the text");
    let mut pieces = PreTokenizedString::from(text);
    pieces
        .split(|_, whole| {
            let cut = |segment: &Segment| {
                let slice = whole.slice(NormalizedRange::Normalized(segment.range.clone()))?;
                Some((slice, segment.token.map(|id| vec![Token::new(id, String::new(), (0, 0))])))
            };
            Ok(segments.iter().filter_map(cut).collect::<Vec<_>>())
        })
        .map_err(failed())?;
    if let Some(normalizer) = library.get_normalizer() {
        pieces.normalize(|piece| normalizer.normalize(piece)).map_err(failed())?;
    }
    if let Some(pre_tokenizer) = library.get_pre_tokenizer() {
        pre_tokenizer.pre_tokenize(&mut pieces).map_err(failed())?;
    }
    library.get_model().tokenize_in_pretokenized(&mut pieces, None).map_err(failed())?;
    let encoding = pieces.into_encoding(None, 0, OffsetType::None).map_err(failed())?;
    Ok(encoding.get_ids().to_vec())
}
