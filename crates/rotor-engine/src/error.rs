//! Errors: each names the thing, what was expected and what was found.

use std::path::PathBuf;

/// Why a model file or folder cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb ("open", "read", "write").
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file ends before something it announces.
    #[error("{what} is cut short: needs {needed} bytes, found {found}")]
    Truncated {
        /// The field or tensor.
        what: String,
        /// Bytes it needs.
        needed: u64,
        /// Bytes that are left.
        found: u64,
    },
    /// A field holds something it may not hold.
    #[error("{what}: expected {expected}, found {found}")]
    Invalid {
        /// The field or tensor.
        what: String,
        /// What would have been right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A name occurs twice.
    #[error("{what} {name:?} occurs twice")]
    Duplicate {
        /// "key", "tensor".
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Something required is absent.
    #[error("{what} is missing{hint}")]
    Missing {
        /// The key, tensor or file.
        what: String,
        /// Empty, or a hint that begins with ": ".
        hint: String,
    },
    /// Understood, but not something rotor runs or writes.
    #[error("{what} is not supported: {why}")]
    Unsupported {
        /// The thing.
        what: String,
        /// The reason, or the list of what is supported.
        why: String,
    },
    /// A file that is something else than a model, and known.
    #[error("{what} is not a model: {advice}")]
    NotAModel {
        /// What it is.
        what: String,
        /// What to do about it.
        advice: String,
    },
    /// A file that ends before its last tensor does.
    #[error("the file is cut short: it should have {needed} bytes and has {found}; download it again")]
    Incomplete {
        /// Bytes it should have.
        needed: u64,
        /// Bytes it has.
        found: u64,
    },
    /// An error inside one of several files.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<FormatError>,
    },
}

impl FormatError {
    /// An [`FormatError::Invalid`] from anything printable.
    pub fn invalid(what: impl Into<String>, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::Invalid { what: what.into(), expected: expected.into(), found: found.to_string() }
    }

    /// A [`FormatError::Missing`] without a hint.
    pub fn missing(what: impl Into<String>) -> Self {
        Self::Missing { what: what.into(), hint: String::new() }
    }

    /// A [`FormatError::Unsupported`].
    pub fn unsupported(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into(), why: why.into() }
    }

    /// The same error, naming the file it is in.
    pub fn in_file(self, path: impl Into<PathBuf>) -> Self {
        match self {
            Self::Io { .. } | Self::InFile { .. } => self,
            other => Self::InFile { path: path.into(), source: Box::new(other) },
        }
    }
}
