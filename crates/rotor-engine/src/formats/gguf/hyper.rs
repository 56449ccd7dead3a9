//! Hyper-parameters from GGUF metadata.

use super::super::metadata::{Array, Metadata, Value};
use super::super::table::TensorTable;
use crate::architectures::{Architecture, refusal};
use crate::config::{Activation, Config, FIELDS};
use crate::error::FormatError;

/// A GGUF as the list of hyper-parameters reads it: keys, and the shapes and numbers of tensors that stand in for some.
pub(crate) struct GgufFile<'a> {
    metadata: &'a Metadata,
    table: &'a TensorTable,
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

/// The hyper-parameters, checked; `hidden_act` overrides what the file suggests. The second part is warnings.
pub(in super::super) fn config(
    metadata: &Metadata,
    table: &TensorTable,
    hidden_act: Option<Activation>,
) -> Result<(Config, Vec<String>), FormatError> {
    let Some(name) = metadata.str("general.architecture")? else {
        return Err(FormatError::missing("metadata key general.architecture"));
    };
    let Some(architecture) = Architecture::from_gguf(name) else { return Err(refusal(name)) };
    let mut file = GgufFile { metadata, table, architecture: name, hidden_act, warnings: Vec::new() };
    refuse_other_graphs(&file)?;
    let mut config = Config { name: metadata.str("general.name")?.map(str::to_owned), ..Config::new(architecture) };
    for field in FIELDS {
        (field.read_gguf)(&mut file, &mut config)?;
    }
    Ok((config.checked()?, file.warnings))
}

/// Features that a file of a known architecture may ask for and that no graph here has.
fn refuse_other_graphs(file: &GgufFile<'_>) -> Result<(), FormatError> {
    if let Some(count @ 1..) = file.usize("expert_count")? {
        return Err(FormatError::unsupported(format!("a mixture of {count} experts"), "every layer is dense here"));
    }
    if file.metadata.bool(&file.key("attention.causal"))? == Some(false) {
        return Err(FormatError::unsupported("attention that is not causal", "a token sees those before it here"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activation_of(
        name: &str,
        tokenizer: Option<&str>,
        vocab_size: usize,
        num_hidden_layers: usize,
        key: Option<&str>,
    ) -> &'static str {
        let mut metadata = Metadata::default();
        for (key, value) in [("tokenizer.ggml.model", tokenizer), ("rotor.hidden_act", key)] {
            if let Some(value) = value {
                metadata.insert(key.into(), Value::String(value.into())).unwrap();
            }
        }
        let architecture = Architecture::from_gguf(name).unwrap();
        let mut config = Config { vocab_size, num_hidden_layers, ..Config::new(architecture) };
        let table = TensorTable::default();
        let mut file =
            GgufFile { metadata: &metadata, table: &table, architecture: name, hidden_act: None, warnings: Vec::new() };
        let field = FIELDS.iter().find(|field| field.name == "hidden_act").unwrap();
        (field.read_gguf)(&mut file, &mut config).unwrap();
        config.hidden_act.name()
    }

    #[test]
    fn the_activation_function_follows_the_family_and_not_the_name() {
        assert_eq!(activation_of("bitnet-b1.58", Some("gpt2"), 128_256, 30, None), "relu2");
        assert_eq!(activation_of("bitnet-25", Some("gpt2"), 128_256, 30, None), "relu2");
        assert_eq!(activation_of("bitnet-b1.58", Some("llama"), 32_002, 24, None), "silu");
        assert_eq!(activation_of("bitnet", Some("llama"), 32_002, 26, None), "silu");
        assert_eq!(activation_of("bitnet-b1.58", None, 512, 2, None), "relu2");
        assert_eq!(activation_of("bitnet", None, 512, 2, None), "silu");
        assert_eq!(activation_of("llama", Some("gpt2"), 128_256, 32, None), "silu");
        assert_eq!(activation_of("bitnet", Some("gpt2"), 32_002, 24, Some("silu")), "silu");
    }
}
