//! What a file says of itself and of its tensors, for those who show it.

use super::metadata::Metadata;

/// The container a model came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A GGUF file, possibly split.
    Gguf,
    /// A folder or file in Hugging Face layout.
    HuggingFace,
    /// A Rotor file: planes or codes in one safetensors file.
    Rotor,
}

impl SourceKind {
    /// The name printed to people.
    pub const fn name(self) -> &'static str {
        match self {
            SourceKind::Gguf => "GGUF",
            SourceKind::HuggingFace => "Hugging Face",
            SourceKind::Rotor => "Rotor",
        }
    }
}

/// What a file says about itself beyond its tensors.
#[derive(Clone, Copy, Debug)]
pub enum SourceMetadata<'a> {
    /// Key-value pairs.
    Gguf(&'a Metadata),
    /// `config.json`.
    HuggingFace(&'a serde_json::Map<String, serde_json::Value>),
}

/// A tensor as it lies in its file.
#[derive(Clone, Debug)]
pub struct TensorSummary<'a> {
    /// The name in the file.
    pub name: &'a str,
    /// Row-major: the last dimension varies fastest.
    pub shape: &'a [usize],
    /// The storage type (`i2_s`, `f16`, ...).
    pub type_name: &'a str,
    /// The stored bytes; empty for a type of unknown size.
    pub bytes: &'a [u8],
}
