//! Why a tokenizer cannot be built, or a text not encoded.

use std::borrow::Cow;

/// Why a tokenizer cannot be built, or a text not encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A key or file of the model is not what it has to be.
    #[error("{what}: expected {expected}, found {found}")]
    Invalid {
        /// The key or file, with the index where it is one of many.
        what: String,
        /// What would have been right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Understood, but not something rotor runs.
    #[error("{what} {name:?} is not supported; supported are {known}")]
    Unsupported {
        /// "pre-tokenizer", "tokenizer model".
        what: &'static str,
        /// The name in the file.
        name: String,
        /// What is supported.
        known: Cow<'static, str>,
    },
    /// A file that cannot be read, or a key of the wrong type.
    #[error(transparent)]
    Format(#[from] crate::error::FormatError),
    /// A text no tokenizer here takes.
    #[error("the text {why}")]
    Text {
        /// What about it, as the end of a sentence.
        why: String,
    },
    /// The `tokenizers` library refuses.
    #[error("{what}: {source}")]
    Library {
        /// What was being done.
        what: &'static str,
        /// Its answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl TokenizerError {
    /// A [`TokenizerError::Invalid`] from anything printable.
    pub(crate) fn invalid(what: impl Into<String>, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::Invalid { what: what.into(), expected: expected.into(), found: found.to_string() }
    }

    /// A [`TokenizerError::Unsupported`].
    pub(crate) fn unsupported(what: &'static str, name: &str, known: &'static str) -> Self {
        Self::Unsupported { what, name: name.to_owned(), known: known.into() }
    }

    /// Turns the library's error into ours, saying what was being done.
    pub(crate) fn library(what: &'static str) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> Self {
        move |source| Self::Library { what, source }
    }
}
