//! Hyper-parameters from GGUF metadata.

use super::super::metadata::Metadata;
use super::super::table::TensorTable;
use crate::config::{Activation, Architecture, Config, RopeScaling};
use crate::error::FormatError;

/// The base of the rotary frequencies where the file names none; ggml's default.
const DEFAULT_ROPE_THETA: f32 = 10_000.0;
/// Epsilon of norms inside linears; no GGUF of the known architectures has such norms.
const LINEAR_NORM_EPS: f32 = 1e-6;
/// The key rotor writes for what GGUF has no key for.
pub(in super::super) const HIDDEN_ACT_KEY: &str = "rotor.hidden_act";

/// Keys under the architecture's name.
struct Keys<'a> {
    metadata: &'a Metadata,
    prefix: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn usize(&self, name: &str) -> Result<Option<usize>, FormatError> {
        self.metadata.usize(&self.key(name))
    }

    fn require(&self, name: &str) -> Result<usize, FormatError> {
        self.metadata.require_usize(&self.key(name))
    }

    fn f32(&self, name: &str) -> Result<Option<f32>, FormatError> {
        self.metadata.f32(&self.key(name))
    }
}

/// The hyper-parameters, checked; `hidden_act` overrides what the file suggests. The second part is warnings.
pub(in super::super) fn config(
    metadata: &Metadata,
    table: &TensorTable,
    hidden_act: Option<Activation>,
) -> Result<(Config, Vec<String>), FormatError> {
    let Some(prefix) = metadata.str("general.architecture")? else {
        return Err(FormatError::missing("metadata key general.architecture"));
    };
    let architecture = architecture(prefix)?;
    let keys = Keys { metadata, prefix };
    refuse_other_graphs(&keys)?;
    let hidden_size = keys.require("embedding_length")?;
    let num_attention_heads = keys.require("attention.head_count")?;
    let head_dim = head_dim(&keys, hidden_size, num_attention_heads)?;
    let rope_theta = keys.f32("rope.freq_base")?.unwrap_or(DEFAULT_ROPE_THETA);
    let vocab_size = vocab_size(&keys, table)?;
    let num_hidden_layers = keys.require("block_count")?;
    let eps_key = keys.key("attention.layer_norm_rms_epsilon");
    let rms_norm_eps =
        metadata.f32(&eps_key)?.ok_or_else(|| FormatError::missing(format!("metadata key {eps_key}")))?;
    let (hidden_act, warning) = match hidden_act {
        Some(given) => (given, None),
        None => activation(metadata, architecture, prefix, vocab_size, num_hidden_layers)?,
    };
    let config = Config {
        architecture,
        name: metadata.str("general.name")?.map(str::to_owned),
        vocab_size,
        max_position_embeddings: keys.require("context_length")?,
        hidden_size,
        intermediate_size: feed_forward_length(&keys, table)?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: keys.usize("attention.head_count_kv")?.unwrap_or(num_attention_heads),
        head_dim,
        rms_norm_eps,
        linear_norm_eps: LINEAR_NORM_EPS,
        rope_theta,
        rope_factors: None,
        hidden_act,
    }
    .checked()?;
    // Only now is the head size known to be one worth allocating for.
    let rope_factors = rope_factors(&keys, table, &config)?;
    Ok((Config { rope_factors, ..config }.checked()?, warning.into_iter().collect()))
}

fn architecture(name: &str) -> Result<Architecture, FormatError> {
    match name {
        "bitnet" | "bitnet-25" | "bitnet-b1.58" => Ok(Architecture::BitNet),
        "llama" => Ok(Architecture::Llama),
        "qwen3" => Ok(Architecture::Qwen3),
        other => Err(FormatError::unsupported(
            format!("architecture {other:?}"),
            format!("known are {}", Architecture::KNOWN),
        )),
    }
}

/// Features that a file of a known architecture may ask for and that this graph does not have.
fn refuse_other_graphs(keys: &Keys<'_>) -> Result<(), FormatError> {
    if let Some(count @ 1..) = keys.usize("expert_count")? {
        return Err(FormatError::unsupported(format!("a mixture of {count} experts"), "every layer is dense here"));
    }
    let context = keys.usize("context_length")?.unwrap_or(usize::MAX);
    if let Some(window @ 1..) = keys.usize("attention.sliding_window")?
        && window < context
    {
        return Err(FormatError::unsupported(
            format!("a sliding window of {window} tokens"),
            "attention sees the whole context here",
        ));
    }
    if keys.metadata.bool(&keys.key("attention.causal"))? == Some(false) {
        return Err(FormatError::unsupported("attention that is not causal", "the graph generates text"));
    }
    Ok(())
}

fn head_dim(keys: &Keys<'_>, hidden: usize, heads: usize) -> Result<usize, FormatError> {
    let key_length = keys.usize("attention.key_length")?;
    let head_dim = match key_length {
        Some(length) => length,
        None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            let what = keys.key("embedding_length");
            return Err(FormatError::invalid(what, format!("a multiple of the {heads} heads"), hidden));
        }
    };
    for name in ["attention.value_length", "rope.dimension_count"] {
        if let Some(other) = keys.usize(name)?
            && other != head_dim
        {
            let why = format!("it has to equal the head size {head_dim}");
            return Err(FormatError::unsupported(format!("{} = {other}", keys.key(name)), why));
        }
    }
    Ok(head_dim)
}

/// The rows of the embedding, which the key has to agree with where there is one.
fn vocab_size(keys: &Keys<'_>, table: &TensorTable) -> Result<usize, FormatError> {
    let name = "token_embd.weight";
    let Some(id) = table.find(name) else { return Err(FormatError::missing(format!("tensor {name:?}"))) };
    let shape = &table.tensor(id).shape;
    let &[rows, _] = shape.as_slice() else {
        return Err(FormatError::invalid(format!("shape of tensor {name:?}"), "two dimensions", format!("{shape:?}")));
    };
    match keys.usize("vocab_size")? {
        Some(size) if size != rows => {
            Err(FormatError::invalid(keys.key("vocab_size"), format!("{rows}, the rows of {name}"), size))
        }
        _ => Ok(rows),
    }
}

/// The key, or else the rows of the first gate.
fn feed_forward_length(keys: &Keys<'_>, table: &TensorTable) -> Result<usize, FormatError> {
    let from_shape = || Some(*table.tensor(table.find("blk.0.ffn_gate.weight")?).shape.first()?);
    let length = keys.usize("feed_forward_length")?.or_else(from_shape);
    length.ok_or_else(|| FormatError::missing(format!("metadata key {}", keys.key("feed_forward_length"))))
}

fn rope_factors(keys: &Keys<'_>, table: &TensorTable, config: &Config) -> Result<Option<Vec<f32>>, FormatError> {
    let stored = super::rope_factors(table, config.head_dim)?;
    let kind = keys.metadata.str(&keys.key("rope.scaling.type"))?;
    // The older name of the same factor.
    let factor = keys.f32("rope.scaling.factor")?.or(keys.f32("rope.scale_linear")?).filter(|&factor| factor != 0.0);
    let scaling = match (kind, factor) {
        (Some("none"), _) | (None | Some("linear"), None) => None,
        (None | Some("linear"), Some(factor)) => {
            RopeScaling::Linear { factor }.factors(config.rope_theta, config.head_dim)
        }
        (Some(other), _) => {
            return Err(FormatError::unsupported(format!("RoPE scaling {other:?}"), "known are none and linear"));
        }
    };
    match (stored, scaling) {
        (Some(_), Some(_)) => {
            Err(FormatError::unsupported("RoPE scaling by a factor and by rope_freqs.weight", "one of them"))
        }
        (stored, scaling) => Ok(stored.or(scaling)),
    }
}

/// The activation function, which GGUF has no key for and the architecture's name does not tell.
///
/// Both BitNet families come under the same architecture names. Microsoft's model has a byte-level BPE vocabulary of 128256
/// tokens and 30 layers; the 1bitLLM family a SentencePiece vocabulary of 32002 and 24 or 26 layers.
fn activation(
    metadata: &Metadata,
    architecture: Architecture,
    name: &str,
    vocab_size: usize,
    layers: usize,
) -> Result<(Activation, Option<String>), FormatError> {
    match metadata.str(HIDDEN_ACT_KEY)? {
        Some("relu2") => return Ok((Activation::ReluSquared, None)),
        Some("silu") => return Ok((Activation::Silu, None)),
        Some(other) => {
            return Err(FormatError::unsupported(format!("activation function {other:?}"), "known are silu and relu2"));
        }
        None => {}
    }
    if architecture != Architecture::BitNet {
        return Ok((Activation::Silu, None));
    }
    let tokenizer = metadata.str("tokenizer.ggml.model")?;
    if tokenizer == Some("gpt2") || vocab_size == 128_256 || layers == 30 {
        return Ok((Activation::ReluSquared, None));
    }
    if tokenizer == Some("llama") || vocab_size == 32_002 || [24, 26].contains(&layers) {
        return Ok((Activation::Silu, None));
    }
    let assumed = if name == "bitnet" { Activation::Silu } else { Activation::ReluSquared };
    let warning = format!("nothing in the file tells its activation function; {} is assumed", assumed.name());
    Ok((assumed, Some(warning)))
}

#[cfg(test)]
mod tests {
    use super::super::super::metadata::Value;
    use super::*;

    fn activation_of(
        name: &str,
        tokenizer: Option<&str>,
        vocab: usize,
        layers: usize,
        key: Option<&str>,
    ) -> &'static str {
        let mut metadata = Metadata::default();
        for (key, value) in [("tokenizer.ggml.model", tokenizer), (HIDDEN_ACT_KEY, key)] {
            if let Some(value) = value {
                metadata.insert(key.into(), Value::String(value.into())).unwrap();
            }
        }
        activation(&metadata, architecture(name).unwrap(), name, vocab, layers).unwrap().0.name()
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

    #[test]
    fn an_unknown_architecture_lists_the_known_ones() {
        let error = architecture("qwen2").unwrap_err().to_string();
        assert!(error.starts_with("architecture \"qwen2\" is not supported: known are bitnet-b1.58, "), "{error}");
    }
}
