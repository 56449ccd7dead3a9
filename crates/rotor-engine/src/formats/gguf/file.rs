//! A GGUF as the list of hyper-parameters reads it.

use super::super::metadata::{Array, Metadata, Value};
use super::super::table::TensorTable;
use crate::config::values::Activation;
use crate::error::FormatError;

/// A GGUF as the list of hyper-parameters reads it: keys, and the shapes and numbers of tensors that stand in for some.
pub(crate) struct GgufFile<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) table: &'a TensorTable,
    /// `general.architecture`, the prefix of most keys.
    pub(crate) architecture: &'a str,
    /// The activation function that was given, which takes the place of what the file says.
    pub(crate) hidden_act: Option<Activation>,
    /// What is odd without being wrong, in sentences.
    pub(crate) warnings: Vec<String>,
}

impl<'a> GgufFile<'a> {
    /// The whole key of a name in the list.
    pub(crate) fn key(&self, name: &str) -> String {
        full_key(self.architecture, name)
    }

    /// A count.
    pub(crate) fn usize(&self, name: &str) -> Result<Option<usize>, FormatError> {
        self.metadata.usize(&self.key(name))
    }

    /// A number.
    pub(crate) fn f32(&self, name: &str) -> Result<Option<f32>, FormatError> {
        self.metadata.f32(&self.key(name))
    }

    /// A text.
    pub(crate) fn str(&self, name: &str) -> Result<Option<&'a str>, FormatError> {
        self.metadata.str(&self.key(name))
    }

    /// A list of truth values; `None` for anything else.
    pub(crate) fn bools(&self, name: &str) -> Option<&'a [bool]> {
        match self.metadata.get(&self.key(name)) {
            Some(Value::Array(Array::Bool(values))) => Some(values),
            _ => None,
        }
    }

    /// `tokenizer.ggml.model`.
    pub(crate) fn tokenizer(&self) -> Result<Option<&'a str>, FormatError> {
        self.metadata.str("tokenizer.ggml.model")
    }

    /// The shape of a tensor, slowest-varying dimension first.
    pub(crate) fn shape(&self, tensor: &str) -> Option<&'a [usize]> {
        let table = self.table;
        Some(&table.tensor(table.find(tensor)?).shape)
    }

    /// The numbers of a tensor of that length; `None` where there is no such tensor.
    pub(crate) fn vector(&self, tensor: &str, len: usize) -> Result<Option<Vec<f32>>, FormatError> {
        let Some(id) = self.table.find(tensor) else { return Ok(None) };
        self.table.tensor(id).expect_shape(1, len)?;
        self.table.decode(id).map(Some)
    }

    /// The error for a key that has to be there.
    pub(crate) fn missing(&self, name: &str) -> FormatError {
        FormatError::missing(format!("metadata key {}", self.key(name)))
    }
}

/// Names in the list of hyper-parameters stand behind the architecture's, but for rotor's own.
pub(crate) fn full_key(architecture: &str, name: &str) -> String {
    if name.starts_with("rotor.") { name.to_owned() } else { format!("{architecture}.{name}") }
}
