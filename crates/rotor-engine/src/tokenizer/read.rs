//! From what a model says about its tokenizer to one description.

use super::description::TokenizerDescription;
use super::error::TokenizerError;
use super::{gguf, huggingface};
use crate::formats::TokenizerSource;

impl TokenizerDescription {
    /// Reads what a model says about its tokenizer; `vocab_size` is the rows of its embedding.
    ///
    /// # Errors
    ///
    /// A kind of tokenizer that rotor does not know, named, and anything without which ids would be wrong: a list of the
    /// wrong length, a malformed byte token, merges that are missing.
    pub fn read(source: &TokenizerSource, vocab_size: usize) -> Result<Self, TokenizerError> {
        match source {
            TokenizerSource::Gguf(vocabulary) => gguf::read(vocabulary, vocab_size),
            TokenizerSource::HuggingFace(files) => huggingface::read(files, vocab_size),
        }
    }
}
