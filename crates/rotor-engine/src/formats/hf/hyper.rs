//! Hyper-parameters from `config.json`, in the key styles of transformers before and since version 5.

use super::json::Object;
use crate::config::{Activation, Architecture, Config, RopeScaling};
use crate::error::FormatError;

/// Where a class of transformers has defaults, these are they.
struct Defaults {
    rms_norm_eps: f32,
    rope_theta: f32,
    hidden_act: Activation,
}

impl Defaults {
    const fn of(architecture: Architecture) -> Self {
        match architecture {
            Architecture::BitNet => {
                Self { rms_norm_eps: 1e-5, rope_theta: 500_000.0, hidden_act: Activation::ReluSquared }
            }
            Architecture::Llama | Architecture::Qwen3 => {
                Self { rms_norm_eps: 1e-6, rope_theta: 10_000.0, hidden_act: Activation::Silu }
            }
        }
    }
}

/// Head size of a Qwen 3 whose file names none; it does not follow from the width.
const QWEN3_HEAD_DIM: usize = 128;

/// Context length where the file names none.
const DEFAULT_CONTEXT: usize = 2048;

/// The hyper-parameters, checked; `hidden_act` overrides the file.
pub(super) fn config(
    file: &Object<'_>,
    linear_norm_eps: f32,
    hidden_act: Option<Activation>,
) -> Result<Config, FormatError> {
    let architecture = architecture(file)?;
    let defaults = Defaults::of(architecture);
    refuse_other_graphs(file, architecture)?;
    let hidden_size = file.require_usize("hidden_size")?;
    let num_attention_heads = file.require_usize("num_attention_heads")?;
    let head_dim = match file.usize("head_dim")? {
        Some(head_dim) => head_dim,
        None if architecture == Architecture::Qwen3 => QWEN3_HEAD_DIM,
        None if num_attention_heads > 0 && hidden_size.is_multiple_of(num_attention_heads) => {
            hidden_size / num_attention_heads
        }
        None => {
            let expected = format!("a multiple of the {num_attention_heads} heads");
            return Err(FormatError::invalid("hidden_size", expected, hidden_size));
        }
    };
    let rope = Rope::read(file, defaults.rope_theta)?;
    let config = Config {
        architecture,
        name: file.str("_name_or_path")?.filter(|name| !name.is_empty()).map(str::to_owned),
        vocab_size: file.require_usize("vocab_size")?,
        max_position_embeddings: file.usize("max_position_embeddings")?.unwrap_or(DEFAULT_CONTEXT),
        hidden_size,
        intermediate_size: file.require_usize("intermediate_size")?,
        num_hidden_layers: file.require_usize("num_hidden_layers")?,
        num_attention_heads,
        num_key_value_heads: file.usize("num_key_value_heads")?.unwrap_or(num_attention_heads),
        head_dim,
        rms_norm_eps: file.f32("rms_norm_eps")?.unwrap_or(defaults.rms_norm_eps),
        linear_norm_eps,
        rope_theta: rope.theta,
        rope_factors: None,
        hidden_act: match hidden_act {
            Some(given) => given,
            None => activation(file)?.unwrap_or(defaults.hidden_act),
        },
    }
    .checked()?;
    // Only now is the head size known to be one worth allocating for.
    let rope_factors = rope.scaling(&config)?.and_then(|scaling| scaling.factors(config.rope_theta, config.head_dim));
    Config { rope_factors, ..config }.checked()
}

/// `architectures`, or `model_type` where that is absent: the 1bitLLM models have model_type "llama".
fn architecture(file: &Object<'_>) -> Result<Architecture, FormatError> {
    let class = file.strings("architectures")?.and_then(|classes| classes.first().copied());
    match class {
        Some("BitNetForCausalLM" | "BitnetForCausalLM") => return Ok(Architecture::BitNet),
        Some("LlamaForCausalLM") => return Ok(Architecture::Llama),
        Some("Qwen3ForCausalLM") => return Ok(Architecture::Qwen3),
        Some(_) => {}
        None => match file.str("model_type")? {
            Some("bitnet") => return Ok(Architecture::BitNet),
            Some("llama") => return Ok(Architecture::Llama),
            Some("qwen3") => return Ok(Architecture::Qwen3),
            _ => {}
        },
    }
    let Some(found) = class.or(file.str("model_type")?) else {
        return Err(FormatError::missing(format!("architectures in {}", file.what)));
    };
    Err(FormatError::unsupported(format!("architecture {found:?}"), format!("known are {}", Architecture::KNOWN)))
}

fn activation(file: &Object<'_>) -> Result<Option<Activation>, FormatError> {
    match file.str("hidden_act")? {
        None => Ok(None),
        Some("silu" | "swish") => Ok(Some(Activation::Silu)),
        Some("relu2") => Ok(Some(Activation::ReluSquared)),
        Some(other) => {
            Err(FormatError::unsupported(format!("activation function {other:?}"), "known are silu and relu2"))
        }
    }
}

/// Features that a file of a known class may ask for and that this graph does not have.
fn refuse_other_graphs(file: &Object<'_>, architecture: Architecture) -> Result<(), FormatError> {
    for key in ["attention_bias", "mlp_bias"] {
        if file.bool(key)? == Some(true) {
            return Err(FormatError::unsupported(format!("{key} in {}", file.what), "linears have no bias here"));
        }
    }
    let context = file.usize("max_position_embeddings")?.unwrap_or(DEFAULT_CONTEXT);
    if let Some(window @ 1..) = file.usize("sliding_window")?
        && window < context
        && file.bool("use_sliding_window")?.unwrap_or(architecture != Architecture::Qwen3)
    {
        let what = format!("a sliding window of {window} tokens");
        return Err(FormatError::unsupported(what, "attention sees the whole context here"));
    }
    if let Some(other) =
        file.strings("layer_types")?.and_then(|types| types.into_iter().find(|ty| *ty != "full_attention"))
    {
        return Err(FormatError::unsupported(format!("layer type {other:?}"), "every layer has full attention here"));
    }
    Ok(())
}

/// Rotary positions: `rope_parameters` since transformers 5; `rope_theta` and `rope_scaling` before.
struct Rope<'a> {
    theta: f32,
    parameters: Option<Object<'a>>,
}

impl<'a> Rope<'a> {
    fn read(file: &Object<'a>, default_theta: f32) -> Result<Self, FormatError> {
        let parameters = match file.object("rope_parameters")? {
            Some(parameters) => Some(parameters),
            None => file.object("rope_scaling")?,
        };
        let inside = parameters.as_ref().map_or(Ok(None), |parameters| parameters.f32("rope_theta"))?;
        let theta = inside.or(file.f32("rope_theta")?).unwrap_or(default_theta);
        for object in parameters.iter().chain([file]) {
            if let Some(part) = object.f32("partial_rotary_factor")?
                && part != 1.0
            {
                return Err(FormatError::unsupported(
                    format!("RoPE on {part} of each head"),
                    "it covers the whole head here",
                ));
            }
        }
        if parameters.iter().any(|parameters| parameters.map.values().any(|value| value.is_object())) {
            return Err(FormatError::unsupported("RoPE parameters by layer type", "all layers share them here"));
        }
        Ok(Self { theta, parameters })
    }

    /// The way positions are stretched, if they are.
    fn scaling(&self, config: &Config) -> Result<Option<RopeScaling>, FormatError> {
        let Some(parameters) = &self.parameters else { return Ok(None) };
        let kind = parameters.str("rope_type")?.or(parameters.str("type")?).unwrap_or("default");
        let number = |key: &str| {
            parameters.f32(key)?.ok_or_else(|| FormatError::missing(format!("{key} in {}", parameters.what)))
        };
        match kind {
            "default" => Ok(None),
            "linear" => Ok(Some(RopeScaling::Linear { factor: number("factor")? })),
            "llama3" => Ok(Some(RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_context: parameters
                    .usize("original_max_position_embeddings")?
                    .unwrap_or(config.max_position_embeddings),
            })),
            other => {
                let why = "known are default, linear and llama3";
                Err(FormatError::unsupported(format!("RoPE scaling {other:?}"), why))
            }
        }
    }
}
