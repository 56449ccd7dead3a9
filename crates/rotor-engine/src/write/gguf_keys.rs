//! The keys of a GGUF's hyper-parameters, as they are written.

use super::gguf::GgufHeader;
use crate::formats::gguf::file::full_key;
use crate::formats::metadata::{Array, Value};

/// The keys of a GGUF under construction, as the list of hyper-parameters writes them.
pub(crate) struct GgufKeys<'a> {
    pub(super) header: &'a mut GgufHeader,
    pub(super) architecture: &'a str,
    /// `tokenizer.ggml.model`, from which readers guess the activation function of a BitNet file.
    pub(crate) tokenizer: Option<&'a str>,
}

impl GgufKeys<'_> {
    /// Adds a count.
    pub(crate) fn u32(&mut self, name: &str, value: usize) {
        self.header.u32(&full_key(self.architecture, name), value as u32);
    }

    /// Adds a number.
    pub(crate) fn f32(&mut self, name: &str, value: f32) {
        self.header.f32(&full_key(self.architecture, name), value);
    }

    /// Adds a text.
    pub(crate) fn string(&mut self, name: &str, value: &str) {
        self.header.string(&full_key(self.architecture, name), value);
    }

    /// Adds a list of truth values.
    pub(crate) fn bools(&mut self, name: &str, values: &[bool]) {
        self.header.value(&full_key(self.architecture, name), &Value::Array(Array::Bool(values.to_vec())));
    }
}
