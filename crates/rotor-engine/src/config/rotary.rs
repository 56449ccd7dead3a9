//! Codecs of what turns queries and keys. [`crate::rope`] has the formulas.

use super::Config;
use super::codecs::Codec;
use super::values::short;
use crate::architectures::{ArchitectureInfo, RopeRows};
use crate::error::FormatError;
use crate::formats::gguf::file::GgufFile;
use crate::formats::hf::json::Object as JsonObject;
use crate::rope;
use crate::rope::scaling::{self, RopeScaling};
use crate::write::gguf_keys::GgufKeys;
use serde_json::{Map, Value};

/// Base of the rotary frequencies where a GGUF names none; ggml's.
const GGUF_ROPE_THETA: f32 = 10_000.0;

/// The part of a head that RoPE turns; a GGUF has the number of dimensions.
pub(super) struct PartialRotary;

impl Codec<f32> for PartialRotary {
    fn read_gguf(&self, file: &mut GgufFile<'_>, config: &Config) -> Result<f32, FormatError> {
        let Some(dimensions) = file.usize("rope.dimension_count")? else { return Ok(1.0) };
        if dimensions != config.head_dim && config.architecture.info().rope_rows == RopeRows::Neighbours {
            let what = format!("{} = {dimensions}", file.key("rope.dimension_count"));
            let why = format!("where rows are reordered for RoPE it has to equal the head size {}", config.head_dim);
            return Err(FormatError::unsupported(what, why));
        }
        match (1..=config.head_dim).contains(&dimensions) && dimensions.is_multiple_of(2) {
            true => Ok(dimensions as f32 / config.head_dim as f32),
            false => {
                let expected = format!("an even number of up to {}, the head size", config.head_dim);
                Err(FormatError::invalid(file.key("rope.dimension_count"), expected, dimensions))
            }
        }
    }

    fn read_json(&self, file: &JsonObject<'_>, config: &Config) -> Result<f32, FormatError> {
        let rope = Rope::of(file, config)?;
        let inside = rope.parameters.map_or(Ok(None), |parameters| parameters.f32("partial_rotary_factor"))?;
        Ok(inside.or(file.f32("partial_rotary_factor")?).unwrap_or(1.0))
    }

    fn put_gguf(&self, _: &f32, config: &Config, keys: &mut GgufKeys<'_>) {
        keys.u32("rope.dimension_count", config.rotary_dim());
    }

    fn put_json(&self, value: &f32, _: &Config, map: &mut Map<String, Value>) {
        if *value != 1.0 {
            map.insert("partial_rotary_factor".into(), short(*value));
        }
    }

    fn gguf_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec!["rope.dimension_count"]
    }

    fn json_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec!["partial_rotary_factor"]
    }

    fn is_rotary(&self) -> bool {
        true
    }
}

/// The rotary positions of a `config.json` in the order of transformers: `rope_scaling` before `rope_parameters`, and what
/// stands in them before what stands beside them.
struct Rope<'a> {
    /// Of layers that see everything.
    parameters: Option<JsonObject<'a>>,
    /// Of layers that see a window, in architectures that tell them apart.
    sliding: Option<JsonObject<'a>>,
}

impl<'a> Rope<'a> {
    fn of(file: &JsonObject<'a>, config: &Config) -> Result<Self, FormatError> {
        let filled = |object: &JsonObject<'_>| !object.map.is_empty();
        let (scaling, parameters) = (file.object("rope_scaling")?, file.object("rope_parameters")?);
        let (scaling, parameters) = (scaling.filter(filled), parameters.filter(filled));
        let is_nested = |object: &JsonObject<'_>| object.map.values().any(Value::is_object);
        if !config.architecture.info().sliding_layers {
            let parameters = scaling.or(parameters);
            if parameters.iter().any(is_nested) {
                return Err(FormatError::unsupported("RoPE parameters by layer type", "all layers share them here"));
            }
            return Ok(Self { parameters, sliding: None });
        }
        let Some(parameters) = parameters else { return Ok(Self { parameters: scaling, sliding: None }) };
        if !is_nested(&parameters) {
            let expected = "an object for each layer type, full_attention and sliding_attention";
            return Err(FormatError::invalid(parameters.what.as_str(), expected, "one for all layers"));
        }
        let sliding = parameters.object("sliding_attention")?;
        Ok(Self { parameters: scaling.or(parameters.object("full_attention")?), sliding })
    }
}

/// The base of the rotary frequencies.
pub(super) struct RopeTheta;

impl Codec<f32> for RopeTheta {
    fn read_gguf(&self, file: &mut GgufFile<'_>, _: &Config) -> Result<f32, FormatError> {
        if let Some(exact) = exact_rope(file)? {
            let object = JsonObject::new(&exact, ROPE_KEY);
            return object.f32("rope_theta")?.ok_or_else(|| object.missing("rope_theta"));
        }
        Ok(file.f32("rope.freq_base")?.unwrap_or(GGUF_ROPE_THETA))
    }

    fn read_json(&self, file: &JsonObject<'_>, config: &Config) -> Result<f32, FormatError> {
        let inside = Rope::of(file, config)?.parameters.map_or(Ok(None), |parameters| parameters.f32("rope_theta"))?;
        Ok(inside.or(file.f32("rope_theta")?).unwrap_or(config.architecture.info().defaults.rope_theta))
    }

    fn put_gguf(&self, value: &f32, config: &Config, keys: &mut GgufKeys<'_>) {
        let base = match config.rope_scaling {
            RopeScaling::Alpha { alpha } => rope::stretched_base(config, alpha),
            _ => *value,
        };
        keys.f32("rope.freq_base", base);
    }

    fn put_json(&self, value: &f32, _: &Config, map: &mut Map<String, Value>) {
        map.insert("rope_theta".into(), short(*value));
    }

    fn gguf_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec!["rope.freq_base"]
    }

    fn json_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec!["rope_theta"]
    }

    fn is_rotary(&self) -> bool {
        true
    }
}

/// The key under which rotor writes `rope_parameters` as transformers has them where a GGUF's own keys do not say it all.
const ROPE_KEY: &str = "rotor.rope_parameters";

/// What stands there.
fn exact_rope(file: &GgufFile<'_>) -> Result<Option<Map<String, Value>>, FormatError> {
    let Some(text) = file.str(ROPE_KEY)? else { return Ok(None) };
    let parsed = serde_json::from_str(text);
    parsed.map(Some).map_err(|error| FormatError::invalid(format!("metadata key {ROPE_KEY}"), "a JSON object", error))
}

/// How rotary positions are stretched.
pub(super) struct Scaling;

impl Scaling {
    /// What a GGUF's own keys and tensors say.
    fn from_keys(file: &mut GgufFile<'_>, config: &Config) -> Result<RopeScaling, FormatError> {
        let kind = file.str("rope.scaling.type")?;
        // The second is an older name of the same factor.
        let factor = file.f32("rope.scaling.factor")?.or(file.f32("rope.scale_linear")?).filter(|&f| f != 0.0);
        let original = file.usize("rope.scaling.original_context_length")?.filter(|&n| n != 0);
        let original = original.unwrap_or(config.max_position_embeddings);
        let scaling = match (kind, factor) {
            (Some("none"), _) | (None | Some("linear"), None) => match file.f32("rope.scaling.alpha")? {
                Some(alpha) if alpha != 0.0 => RopeScaling::Alpha { alpha },
                _ => RopeScaling::Default,
            },
            (None | Some("linear"), Some(1.0)) => RopeScaling::Default,
            (None | Some("linear"), Some(factor)) => RopeScaling::Linear { factor },
            (Some("yarn"), factor) => Self::yarn(file, factor.unwrap_or(1.0), original)?,
            (Some("longrope"), factor) => Self::longrope(file, config, factor, original)?,
            (Some(other), _) => {
                let why = "known are none, linear, yarn and longrope";
                return Err(FormatError::unsupported(format!("RoPE scaling {other:?}"), why));
            }
        };
        match (file.vector(scaling::DIVISORS, config.rotary_dim() / 2)?, scaling) {
            (Some(divisors), RopeScaling::Default) => Ok(RopeScaling::Divisors(divisors)),
            (Some(_), other) => Err(FormatError::unsupported(
                format!("RoPE scaling {:?} and a tensor {:?}", other.name(), scaling::DIVISORS),
                "one of them",
            )),
            (None, scaling) => Ok(scaling),
        }
    }

    fn yarn(file: &GgufFile<'_>, factor: f32, original: usize) -> Result<RopeScaling, FormatError> {
        let number = |name: &str| file.f32(&format!("rope.scaling.{name}"));
        if let Some(part) = number("yarn_ext_factor")?.filter(|&part| part != 1.0) {
            let what = format!("{} = {part}", file.key("rope.scaling.yarn_ext_factor"));
            return Err(FormatError::unsupported(what, "YaRN blends the whole way here, which is 1"));
        }
        let multiplier = number("attn_factor")?.unwrap_or(1.0) * number("yarn_attn_factor")?.unwrap_or(1.0);
        let given = scaling::yarn_attention_factor(f64::from(factor), 1.0) * f64::from(multiplier);
        Ok(RopeScaling::Yarn {
            factor,
            original,
            beta_fast: number("yarn_beta_fast")?.unwrap_or(scaling::BETA_FAST),
            beta_slow: number("yarn_beta_slow")?.unwrap_or(scaling::BETA_SLOW),
            attention_factor: (multiplier != 1.0).then_some(given as f32),
            truncate: true,
        })
    }

    fn longrope(
        file: &mut GgufFile<'_>,
        config: &Config,
        factor: Option<f32>,
        original: usize,
    ) -> Result<RopeScaling, FormatError> {
        let pairs = config.rotary_dim() / 2;
        let [short_factor, long_factor] = [
            file.vector(scaling::SHORT_FACTORS, pairs)?.unwrap_or_default(),
            file.vector(scaling::LONG_FACTORS, pairs)?.unwrap_or_default(),
        ];
        if short_factor.is_empty() && long_factor.is_empty() {
            file.warnings.push(format!(
                "RoPE scaling is longrope, but the file lacks {} and {}: it runs to {original} tokens, no further",
                scaling::SHORT_FACTORS,
                scaling::LONG_FACTORS,
            ));
        }
        // In a GGUF the factor is that of the contexts, 1 where a converter had none.
        let factor = factor.filter(|&factor| factor != 1.0);
        let attention_factor = file.f32("rope.scaling.attn_factor")?.filter(|&given| given != 1.0);
        Ok(RopeScaling::LongRope { short_factor, long_factor, original, factor, attention_factor })
    }
}

impl Codec<RopeScaling> for Scaling {
    fn read_gguf(&self, file: &mut GgufFile<'_>, config: &Config) -> Result<RopeScaling, FormatError> {
        let Some(exact) = exact_rope(file)? else { return Self::from_keys(file, config) };
        let object = JsonObject::new(&exact, ROPE_KEY);
        let scaling = scaling::from_json(&object, None, config.max_position_embeddings)?;
        scaling.check(config.rotary_dim())?;
        match file.vector(scaling::DIVISORS, config.rotary_dim() / 2)? {
            stored @ Some(_) if stored != scaling.divisors(config.rope_theta, config.rotary_dim()) => {
                let expected = format!("the divisors that metadata key {ROPE_KEY} gives");
                Err(FormatError::invalid(format!("tensor {:?}", scaling::DIVISORS), expected, "others"))
            }
            _ => Ok(scaling),
        }
    }

    fn read_json(&self, file: &JsonObject<'_>, config: &Config) -> Result<RopeScaling, FormatError> {
        let Some(parameters) = Rope::of(file, config)?.parameters else { return Ok(RopeScaling::Default) };
        let original = file.usize("original_max_position_embeddings")?;
        let scaling = scaling::from_json(&parameters, original, config.max_position_embeddings)?;
        // A factor of 1 stretches nothing.
        Ok(if scaling == (RopeScaling::Linear { factor: 1.0 }) { RopeScaling::Default } else { scaling })
    }

    fn put_gguf(&self, value: &RopeScaling, config: &Config, keys: &mut GgufKeys<'_>) {
        let mut says_all = true;
        match value {
            RopeScaling::Default | RopeScaling::Divisors(_) => {}
            RopeScaling::Llama3 { .. } => says_all = false,
            RopeScaling::Linear { factor } => {
                keys.string("rope.scaling.type", "linear");
                keys.f32("rope.scaling.factor", *factor);
            }
            // Converters write the stretched base and say that nothing is left to be done.
            RopeScaling::Alpha { .. } => {
                keys.string("rope.scaling.type", "none");
                says_all = false;
            }
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow, attention_factor, truncate } => {
                keys.string("rope.scaling.type", "yarn");
                keys.f32("rope.scaling.factor", *factor);
                keys.u32("rope.scaling.original_context_length", *original);
                if (*beta_fast, *beta_slow) != (scaling::BETA_FAST, scaling::BETA_SLOW) {
                    keys.f32("rope.scaling.yarn_beta_fast", *beta_fast);
                    keys.f32("rope.scaling.yarn_beta_slow", *beta_slow);
                }
                if let Some(given) = attention_factor {
                    let usual = scaling::yarn_attention_factor(f64::from(*factor), 1.0);
                    keys.f32("rope.scaling.attn_factor", (f64::from(*given) / usual) as f32);
                }
                says_all = attention_factor.is_none() && *truncate;
            }
            RopeScaling::LongRope { original, factor, attention_factor, .. } => {
                keys.string("rope.scaling.type", "longrope");
                keys.u32("rope.scaling.original_context_length", *original);
                for (name, number) in [("factor", factor), ("attn_factor", attention_factor)] {
                    if let Some(number) = number {
                        keys.f32(&format!("rope.scaling.{name}"), *number);
                    }
                }
                says_all = *factor != Some(1.0) && *attention_factor != Some(1.0);
            }
        }
        if !says_all {
            keys.string(ROPE_KEY, &rope::parameters_json(config).to_string());
        }
    }

    fn put_json(&self, value: &RopeScaling, _: &Config, map: &mut Map<String, Value>) {
        if *value != RopeScaling::Default {
            map.insert("rope_scaling".into(), value.to_json());
        }
    }

    fn gguf_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec![
            "rope.scaling.type",
            "rope.scaling.factor",
            "rope.scale_linear",
            "rope.scaling.original_context_length",
            "rope.scaling.alpha",
            "rope.scaling.attn_factor",
            "rope.scaling.yarn_ext_factor",
            "rope.scaling.yarn_attn_factor",
            "rope.scaling.yarn_beta_fast",
            "rope.scaling.yarn_beta_slow",
            ROPE_KEY,
        ]
    }

    fn json_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec!["rope_scaling", "rope_parameters", "original_max_position_embeddings"]
    }

    fn is_rotary(&self) -> bool {
        true
    }
}

/// The base of layers that see a window.
pub(super) struct LocalBase;

impl Codec<Option<f32>> for LocalBase {
    fn read_gguf(&self, file: &mut GgufFile<'_>, config: &Config) -> Result<Option<f32>, FormatError> {
        if !config.slides() {
            return Ok(None);
        }
        let base = file.f32("rope.freq_base_swa")?.or(config.architecture.info().defaults.rope_local_base_freq);
        Ok(base.filter(|&base| base != config.rope_theta))
    }

    fn read_json(&self, file: &JsonObject<'_>, config: &Config) -> Result<Option<f32>, FormatError> {
        let info = config.architecture.info();
        if !info.sliding_layers {
            return Ok(None);
        }
        let sliding = Rope::of(file, config)?.sliding;
        if let Some(sliding) = &sliding
            && scaling::from_json(sliding, None, config.max_position_embeddings)? != RopeScaling::Default
        {
            return Err(FormatError::unsupported(
                "RoPE scaling of sliding_attention layers",
                "only the base may differ",
            ));
        }
        let inside = sliding.map_or(Ok(None), |sliding| sliding.f32("rope_theta"))?;
        let base = inside.or(file.f32("rope_local_base_freq")?).or(info.defaults.rope_local_base_freq);
        Ok(base.filter(|&base| config.slides() && base != config.rope_theta))
    }

    fn put_gguf(&self, value: &Option<f32>, _: &Config, keys: &mut GgufKeys<'_>) {
        if let Some(base) = value {
            keys.f32("rope.freq_base_swa", *base);
        }
    }

    fn put_json(&self, value: &Option<f32>, config: &Config, map: &mut Map<String, Value>) {
        if config.architecture.info().sliding_layers {
            map.insert("rope_local_base_freq".into(), short(value.unwrap_or(config.rope_theta)));
        }
    }

    fn gguf_keys(&self, info: &ArchitectureInfo) -> Vec<&'static str> {
        if info.sliding_layers { vec!["rope.freq_base_swa"] } else { Vec::new() }
    }

    fn json_keys(&self, info: &ArchitectureInfo) -> Vec<&'static str> {
        if info.sliding_layers { vec!["rope_local_base_freq"] } else { Vec::new() }
    }

    fn is_rotary(&self) -> bool {
        true
    }
}
