//! Hyper-parameters from GGUF metadata.

use super::super::metadata::Metadata;
use super::super::table::TensorTable;
use super::file::GgufFile;
use crate::architectures::{Architecture, refusal};
use crate::config::fields::FIELDS;
use crate::config::{Activation, Config};
use crate::error::FormatError;

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
    use super::super::super::metadata::Value;
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
