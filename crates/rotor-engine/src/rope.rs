//! Rotary positions: every way of stretching them beyond the trained context, and the frequencies that come of it.
//!
//! RoPE turns the pair of dimensions `(j, j + n/2)` of a head by `position * frequency_j`, with `frequency_j = base^(-2j/n)`
//! for the first `n` dimensions of a head. A scaling changes the frequencies and multiplies cosine and sine by an
//! *attention factor*:
//!
//! | scaling | frequency | attention factor |
//! |---|---|---|
//! | default | `f` | 1 |
//! | linear | `f / factor` | 1 |
//! | llama3 | `f` for short wavelengths, `f / factor` for long ones, a blend between | 1 |
//! | yarn | `f (1 - ramp) + f / factor * ramp` | `0.1 ln(factor) + 1` |
//! | longrope | `f / short_factor`, `f / long_factor` in contexts longer than the original | `sqrt(1 + ln(factor) / ln(original))` |
//! | dynamic with `alpha` | as default with `base * alpha^(n / (n - 2))` | 1 |
//! | divisors | `f / divisor`, from the tensor `rope_freqs.weight` of a GGUF | 1 |
//!
//! [`Config`] keeps the scaling as the file says it, so that a conversion loses nothing; [`Rotations`] is what the forward
//! pass needs of it. Source: `modeling_rope_utils.py` of transformers.

use crate::config::Config;
use crate::error::FormatError;
use crate::formats::JsonObject;
use serde_json::{Value, json};

/// `beta_fast` where a file is silent.
pub(crate) const BETA_FAST: f32 = 32.0;
/// `beta_slow` where a file is silent.
pub(crate) const BETA_SLOW: f32 = 1.0;

/// Tensors of a GGUF with a divisor for each frequency: one set for all contexts, or one for short and one for long ones.
pub(crate) const DIVISORS: &str = "rope_freqs.weight";
pub(crate) const SHORT_FACTORS: &str = "rope_factors_short.weight";
pub(crate) const LONG_FACTORS: &str = "rope_factors_long.weight";

/// How rotary positions are stretched. `original` is `original_max_position_embeddings`, the context before stretching.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// Position interpolation.
    Linear {
        /// Divides every frequency.
        factor: f32,
    },
    /// Llama 3.1: long wavelengths are divided, short ones kept.
    Llama3 {
        /// Divides the long wavelengths.
        factor: f32,
        /// Turns within the original context below which a wavelength is long.
        low_freq_factor: f32,
        /// Turns within the original context above which a wavelength is short.
        high_freq_factor: f32,
        /// The original context.
        original: usize,
    },
    /// YaRN.
    Yarn {
        /// Divides the frequencies that are interpolated.
        factor: f32,
        /// The original context.
        original: usize,
        /// Turns within the original context above which a frequency is kept.
        beta_fast: f32,
        /// Turns within the original context below which a frequency is divided.
        beta_slow: f32,
        /// Multiplies cosine and sine; `None` follows from `factor`.
        attention_factor: Option<f32>,
        /// Whether the ends of the ramp are whole dimensions.
        truncate: bool,
    },
    /// LongRoPE: a divisor for each frequency, one set for contexts up to the original one and one for longer.
    LongRope {
        /// Divisors in contexts up to the original; empty in a file that lacks them.
        short_factor: Vec<f32>,
        /// Divisors in longer contexts; empty in a file that lacks them.
        long_factor: Vec<f32>,
        /// The original context.
        original: usize,
        /// How much longer the whole context is; `None` is `max_position_embeddings / original`.
        factor: Option<f32>,
        /// Multiplies cosine and sine; `None` follows from `factor`.
        attention_factor: Option<f32>,
    },
    /// NTK-aware scaling with a fixed base (Hunyuan): `rope_theta * alpha^(n / (n - 2))`.
    Alpha {
        /// How far the base is stretched.
        alpha: f32,
    },
    /// A divisor for each frequency, whatever formula they came from.
    Divisors(Vec<f32>),
}

impl RopeScaling {
    /// The name transformers has for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Linear { .. } => "linear",
            Self::Llama3 { .. } => "llama3",
            Self::Yarn { .. } => "yarn",
            Self::LongRope { .. } => "longrope",
            Self::Alpha { .. } => "dynamic",
            Self::Divisors(_) => "divisors",
        }
    }

    /// As an object of `config.json`, less the base. Divisors have no such object in transformers and are for people.
    pub fn to_json(&self) -> Value {
        let mut json = match self {
            Self::Default => json!({}),
            Self::Linear { factor } => json!({ "factor": short(*factor) }),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original } => json!({
                "factor": short(*factor),
                "low_freq_factor": short(*low_freq_factor),
                "high_freq_factor": short(*high_freq_factor),
                "original_max_position_embeddings": original,
            }),
            Self::Yarn { factor, original, beta_fast, beta_slow, attention_factor, truncate } => {
                let mut json = json!({ "factor": short(*factor), "original_max_position_embeddings": original });
                put_unless(&mut json, "beta_fast", *beta_fast, BETA_FAST);
                put_unless(&mut json, "beta_slow", *beta_slow, BETA_SLOW);
                put_some(&mut json, "attention_factor", *attention_factor);
                if !truncate {
                    json["truncate"] = false.into();
                }
                json
            }
            Self::LongRope { short_factor, long_factor, original, factor, attention_factor } => {
                let numbers = |values: &[f32]| values.iter().copied().map(short).collect::<Value>();
                let mut json = json!({
                    "short_factor": numbers(short_factor),
                    "long_factor": numbers(long_factor),
                    "original_max_position_embeddings": original,
                });
                put_some(&mut json, "factor", *factor);
                put_some(&mut json, "attention_factor", *attention_factor);
                json
            }
            Self::Alpha { alpha } => json!({ "alpha": short(*alpha) }),
            Self::Divisors(divisors) => json!({ "divisors": divisors.iter().copied().map(short).collect::<Value>() }),
        };
        json["rope_type"] = self.name().into();
        json
    }

    /// Checks numbers and lengths; `rotary_dim` dimensions of a head turn.
    pub(crate) fn check(&self, rotary_dim: usize) -> Result<(), FormatError> {
        let pairs = rotary_dim / 2;
        let positive = |what: &str, value: f32| match value > 0.0 && value.is_finite() {
            true => Ok(()),
            false => Err(FormatError::invalid(format!("{what} of RoPE scaling"), "a positive number", value)),
        };
        let divisors = |what: &str, values: &[f32]| -> Result<(), FormatError> {
            if values.len() != pairs {
                let expected = format!("{pairs}, one for each rotary pair");
                return Err(FormatError::invalid(format!("number of {what}"), expected, values.len()));
            }
            match values.iter().find(|&&value| !(value > 0.0 && value.is_finite())) {
                Some(bad) => Err(FormatError::invalid(what, "positive numbers", bad)),
                None => Ok(()),
            }
        };
        let context = |original: usize| match original {
            2.. => Ok(()),
            _ => Err(FormatError::invalid("original context of RoPE scaling", "at least 2 positions", original)),
        };
        match self {
            Self::Default => Ok(()),
            Self::Linear { factor } => positive("factor", *factor),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
                let low_to_high = high_freq_factor > low_freq_factor;
                if !low_to_high {
                    let expected = format!("more than low_freq_factor, {low_freq_factor}");
                    return Err(FormatError::invalid("high_freq_factor of RoPE scaling", expected, high_freq_factor));
                }
                context(*original).and(positive("factor", *factor))
            }
            Self::Yarn { factor, original, beta_fast, beta_slow, attention_factor, .. } => context(*original)
                .and(positive("factor", *factor))
                .and(positive("beta_fast", *beta_fast))
                .and(positive("beta_slow", *beta_slow))
                .and(positive("attention_factor", attention_factor.unwrap_or(1.0))),
            Self::LongRope { short_factor, long_factor, original, factor, attention_factor } => {
                if !(short_factor.is_empty() && long_factor.is_empty()) {
                    divisors("short factors of RoPE", short_factor)?;
                    divisors("long factors of RoPE", long_factor)?;
                }
                context(*original)
                    .and(positive("factor", factor.unwrap_or(1.0)))
                    .and(positive("attention_factor", attention_factor.unwrap_or(1.0)))
            }
            Self::Alpha { alpha } if rotary_dim > 2 => positive("alpha", *alpha),
            Self::Alpha { .. } => {
                Err(FormatError::invalid("rotary dimensions of a head", "more than 2, for RoPE with alpha", rotary_dim))
            }
            Self::Divisors(values) => divisors("RoPE divisors", values),
        }
    }

    /// Divisors of the frequencies, where the scaling is some and does not depend on the context; `None` where all are 1.
    pub(crate) fn divisors(&self, theta: f32, rotary_dim: usize) -> Option<Vec<f32>> {
        let divisors: Vec<f32> = match self {
            Self::Linear { factor } => vec![*factor; rotary_dim / 2],
            Self::Divisors(divisors) => divisors.clone(),
            &Self::Llama3 { factor, low_freq_factor, high_freq_factor, original } => (0..rotary_dim / 2)
                .map(|pair| {
                    let frequency = f64::from(theta).powf(-2.0 * pair as f64 / rotary_dim as f64);
                    let turns = original as f64 * frequency / std::f64::consts::TAU;
                    let (low, high) = (f64::from(low_freq_factor), f64::from(high_freq_factor));
                    // Short wavelengths turn often within the original context, long ones seldom.
                    let divisor = if turns > high {
                        1.0
                    } else if turns < low {
                        f64::from(factor)
                    } else {
                        let smooth = (turns - low) / (high - low);
                        1.0 / ((1.0 - smooth) / f64::from(factor) + smooth)
                    };
                    divisor as f32
                })
                .collect(),
            Self::Default | Self::Yarn { .. } | Self::LongRope { .. } | Self::Alpha { .. } => return None,
        };
        divisors.iter().any(|&divisor| divisor != 1.0).then_some(divisors)
    }
}

/// The shortest decimal that is this f32: 1e-5 and not 9.999999747378752e-6.
pub(crate) fn short(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

fn put_unless(json: &mut Value, key: &str, value: f32, usual: f32) {
    if value != usual {
        json[key] = short(value);
    }
}

fn put_some(json: &mut Value, key: &str, value: Option<f32>) {
    if let Some(value) = value {
        json[key] = short(value);
    }
}

/// What turns the heads of some layers in contexts of some length.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// Radians per position, one for each rotary pair.
    pub inverse_frequencies: Vec<f32>,
    /// Multiplies cosine and sine.
    pub attention_factor: f32,
}

/// Every rotation of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotations {
    /// In contexts of up to [`long_beyond`](Self::long_beyond) positions.
    pub usual: Rotation,
    /// In longer contexts, where they differ.
    pub long: Option<Rotation>,
    /// The longest context that the usual rotation is for.
    pub long_beyond: usize,
    /// In layers that see a window, where they have a base of their own.
    pub sliding: Option<Rotation>,
}

impl Rotations {
    /// What a checked configuration asks for.
    pub fn of(config: &Config) -> Rotations {
        let sliding = config.rope_local_base_freq.filter(|_| config.slides());
        let sliding = sliding.map(|theta| rotation(config, theta, &RopeScaling::Default, None));
        let rotation = |factors| rotation(config, config.rope_theta, &config.rope_scaling, factors);
        match &config.rope_scaling {
            RopeScaling::LongRope { short_factor, long_factor, original, .. } if !short_factor.is_empty() => {
                let (usual, long) = (rotation(Some(short_factor)), rotation(Some(long_factor)));
                Rotations { usual, long: Some(long), long_beyond: *original, sliding }
            }
            _ => Rotations { usual: rotation(None), long: None, long_beyond: config.longest_context(), sliding },
        }
    }

    /// The rotation of layers that see everything, in a context of so many positions.
    pub fn for_context(&self, positions: usize) -> &Rotation {
        match &self.long {
            Some(long) if positions > self.long_beyond => long,
            _ => &self.usual,
        }
    }
}

fn rotation(config: &Config, theta: f32, scaling: &RopeScaling, factors: Option<&[f32]>) -> Rotation {
    let dim = config.rotary_dim();
    let usual = |j: usize| {
        let exponent = (2 * j) as f32 / dim as f32;
        1.0 / f64::from(theta).powf(f64::from(exponent)) as f32
    };
    let pairs = 0..dim / 2;
    let inverse_frequencies = match (scaling, factors.map(<[f32]>::to_vec).or_else(|| scaling.divisors(theta, dim))) {
        (&RopeScaling::Yarn { factor, original, beta_fast, beta_slow, truncate, .. }, _) => {
            let turns = (f64::from(beta_fast), f64::from(beta_slow));
            let ramp = Ramp::new(dim, f64::from(theta), original as f64, turns, truncate);
            let exact = |j: usize| f64::from(theta).powf(-2.0 * j as f64 / dim as f64);
            pairs.map(|j| (exact(j) * (1.0 - ramp.at(j) + ramp.at(j) / f64::from(factor))) as f32).collect()
        }
        (RopeScaling::Alpha { alpha }, _) => {
            let base = f64::from(theta) * f64::from(*alpha).powf(dim as f64 / (dim as f64 - 2.0));
            pairs.map(|j| base.powf(-2.0 * j as f64 / dim as f64) as f32).collect()
        }
        (_, Some(divisors)) => pairs.map(|j| usual(j) / divisors[j]).collect(),
        (_, None) => pairs.map(usual).collect(),
    };
    Rotation { inverse_frequencies, attention_factor: attention_factor(config, scaling) }
}

fn attention_factor(config: &Config, scaling: &RopeScaling) -> f32 {
    match scaling {
        RopeScaling::Yarn { attention_factor: Some(given), .. } => *given,
        RopeScaling::Yarn { factor, .. } => yarn_attention_factor(f64::from(*factor), 1.0) as f32,
        RopeScaling::LongRope { attention_factor: Some(given), .. } => *given,
        // A file without its divisors runs plainly.
        RopeScaling::LongRope { short_factor, .. } if short_factor.is_empty() => 1.0,
        RopeScaling::LongRope { original, factor, .. } => {
            let original = *original as f64;
            let stretched = factor.map_or(config.max_position_embeddings as f64 / original, f64::from);
            if stretched <= 1.0 { 1.0 } else { (1.0 + stretched.ln() / original.ln()).sqrt() as f32 }
        }
        _ => 1.0,
    }
}

/// `0.1 mscale ln(factor) + 1`; 1 where nothing is stretched.
pub(crate) fn yarn_attention_factor(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// YaRN's passage from frequencies that are kept (0) to those that are divided (1).
struct Ramp {
    low: f64,
    high: f64,
}

impl Ramp {
    fn new(dim: usize, base: f64, original: f64, (fast, slow): (f64, f64), truncate: bool) -> Self {
        // The dimension whose pair turns so often within the original context.
        let dimension = |turns: f64| dim as f64 * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * base.ln());
        let (low, high) = (dimension(fast), dimension(slow));
        let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
        Ramp { low, high: if low == high { high + 0.001 } else { high } }
    }

    fn at(&self, pair: usize) -> f64 {
        ((pair as f64 - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

/// The base that a GGUF has in place of `theta` and `alpha`.
pub(crate) fn stretched_base(config: &Config, alpha: f32) -> f32 {
    let dim = config.rotary_dim() as f64;
    (f64::from(config.rope_theta) * f64::from(alpha).powf(dim / (dim - 2.0))) as f32
}

/// Reads a scaling from an object of `config.json`. `get` finds a field, `context` is `max_position_embeddings`.
///
/// # Errors
/// For an unknown type, or fields that are missing or of another type.
pub(crate) fn from_json(
    object: &JsonObject<'_>,
    outer_original: Option<usize>,
    context: usize,
) -> Result<RopeScaling, FormatError> {
    let kind = object.str("rope_type")?.or(object.str("type")?).unwrap_or("default");
    let required =
        |key: &str| object.f32(key)?.ok_or_else(|| FormatError::missing(format!("{key} in {}", object.what)));
    // A field beside the object comes first, as in transformers.
    let original = outer_original.or(object.usize("original_max_position_embeddings")?).unwrap_or(context);
    match kind {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear { factor: required("factor")? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: required("factor")?,
            low_freq_factor: required("low_freq_factor")?,
            high_freq_factor: required("high_freq_factor")?,
            original,
        }),
        "yarn" => yarn_from_json(object, original, context),
        "longrope" => {
            let factors = |key| -> Result<Vec<f32>, FormatError> {
                object.numbers(key)?.ok_or_else(|| FormatError::missing(format!("{key} in {}", object.what)))
            };
            Ok(RopeScaling::LongRope {
                short_factor: factors("short_factor")?,
                long_factor: factors("long_factor")?,
                original,
                factor: object.f32("factor")?,
                attention_factor: object.f32("attention_factor")?,
            })
        }
        "dynamic" => match object.f32("alpha")?.filter(|&alpha| alpha != 0.0) {
            Some(alpha) => Ok(RopeScaling::Alpha { alpha }),
            None => Err(FormatError::unsupported(
                "RoPE scaling \"dynamic\" without alpha",
                "its base changes while a text grows; with alpha the base is fixed",
            )),
        },
        other => Err(FormatError::unsupported(
            format!("RoPE scaling {other:?}"),
            "known are default, linear, llama3, yarn, longrope and dynamic with alpha",
        )),
    }
}

fn yarn_from_json(object: &JsonObject<'_>, original: usize, context: usize) -> Result<RopeScaling, FormatError> {
    // transformers takes null for the quotient of the contexts.
    let factor = object.f32("factor")?.unwrap_or((context as f64 / original.max(1) as f64) as f32);
    let nonzero = |key: &str| -> Result<Option<f32>, FormatError> { Ok(object.f32(key)?.filter(|&v| v != 0.0)) };
    let attention_factor = match (object.f32("attention_factor")?, nonzero("mscale")?, nonzero("mscale_all_dim")?) {
        (Some(given), ..) => Some(given),
        (None, Some(mscale), Some(all_dim)) => {
            let of = |mscale: f32| yarn_attention_factor(f64::from(factor), f64::from(mscale));
            Some((of(mscale) / of(all_dim)) as f32)
        }
        _ => None,
    };
    Ok(RopeScaling::Yarn {
        factor,
        original,
        beta_fast: nonzero("beta_fast")?.unwrap_or(BETA_FAST),
        beta_slow: nonzero("beta_slow")?.unwrap_or(BETA_SLOW),
        attention_factor,
        truncate: object.bool("truncate")?.unwrap_or(true),
    })
}

/// The object that [`from_json`] reads the same scaling from, with the base: what transformers calls `rope_parameters`.
pub(crate) fn parameters_json(config: &Config) -> Value {
    let mut json = config.rope_scaling.to_json();
    json["rope_theta"] = short(config.rope_theta);
    json
}

/// The tensors that a GGUF needs for a model's scaling, by name.
pub(crate) fn tensors(config: &Config) -> Vec<(&'static str, Vec<f32>)> {
    match &config.rope_scaling {
        RopeScaling::Llama3 { .. } | RopeScaling::Divisors(_) => {
            let divisors = config.rope_scaling.divisors(config.rope_theta, config.rotary_dim());
            divisors.map(|divisors| (DIVISORS, divisors)).into_iter().collect()
        }
        RopeScaling::LongRope { short_factor, long_factor, .. } if !short_factor.is_empty() => {
            vec![(LONG_FACTORS, long_factor.clone()), (SHORT_FACTORS, short_factor.clone())]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architectures::Architecture;

    fn config(rope_scaling: RopeScaling) -> Config {
        Config {
            head_dim: 128,
            max_position_embeddings: 65_536,
            rope_theta: 1e6,
            rope_scaling,
            ..Config::new(Architecture::Qwen3)
        }
    }

    fn yarn(factor: f32, original: usize) -> RopeScaling {
        let (beta_fast, beta_slow) = (BETA_FAST, BETA_SLOW);
        RopeScaling::Yarn { factor, original, beta_fast, beta_slow, attention_factor: None, truncate: true }
    }

    #[test]
    fn linear_scaling_is_one_divisor() {
        assert_eq!(RopeScaling::Linear { factor: 4.0 }.divisors(1e4, 6), Some(vec![4.0; 3]));
        assert_eq!(RopeScaling::Linear { factor: 1.0 }.divisors(1e4, 6), None);
    }

    #[test]
    fn llama3_scaling_by_its_definition() {
        let scaling = RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original: 8192 };
        let divisors = scaling.divisors(500_000.0, 128).unwrap();
        assert_eq!(divisors.len(), 64);
        for (pair, &divisor) in divisors.iter().enumerate() {
            // The definition in terms of wavelengths.
            let wavelength = 2.0 * std::f64::consts::PI * 500_000f64.powf(pair as f64 / 64.0);
            let expected = if wavelength < 8192.0 / 4.0 {
                1.0
            } else if wavelength > 8192.0 {
                8.0
            } else {
                let smooth = (8192.0 / wavelength - 1.0) / 3.0;
                1.0 / ((1.0 - smooth) / 8.0 + smooth)
            };
            assert!((f64::from(divisor) - expected).abs() < 1e-6, "pair {pair}: {divisor} against {expected}");
        }
        assert_eq!((divisors[0], divisors[63]), (1.0, 8.0));
    }

    /// The numbers of an 8B model that was stretched from 16384 to 65536 positions, worked out by hand.
    #[test]
    fn yarn_by_a_worked_example() {
        let rotation = Rotations::of(&config(yarn(4.0, 16_384))).usual;
        assert!((rotation.attention_factor - 1.138_629_4).abs() < 1e-7);
        for (pair, expected) in [
            (0, 1.0),
            (20, 0.013_335_214_3),
            (21, 0.010_271_986_6),
            (28, 0.001_534_418_28),
            (36, 1.240_283_84e-4),
            (37, 8.495_520_82e-5),
            (63, 3.102_344_4e-7),
        ] {
            let found = f64::from(rotation.inverse_frequencies[pair]);
            assert!((found / expected - 1.0).abs() < 1e-7, "pair {pair}: {found} against {expected}");
        }
    }

    #[test]
    fn yarn_without_stretching_is_plain() {
        let rotation = Rotations::of(&config(yarn(1.0, 65_536))).usual;
        assert_eq!(rotation.attention_factor, 1.0);
        let plain = Rotations::of(&config(RopeScaling::Default)).usual;
        for (a, b) in rotation.inverse_frequencies.iter().zip(&plain.inverse_frequencies) {
            assert!((a / b - 1.0).abs() < 1e-6, "{a} and {b}");
        }
    }

    #[test]
    fn alpha_stretches_the_base() {
        // A base of 10000 with alpha 1000 and heads of 128 is one of 11158840.
        let config = Config { rope_theta: 1e4, ..config(RopeScaling::Alpha { alpha: 1000.0 }) };
        assert_eq!(stretched_base(&config, 1000.0), 11_158_840.0);
        let second = f64::from(Rotations::of(&config).usual.inverse_frequencies[1]);
        assert!((second / 11_158_840f64.powf(-2.0 / 128.0) - 1.0).abs() < 1e-7, "{second}");
    }

    #[test]
    fn longrope_changes_with_the_length_of_the_context() {
        let scaling = RopeScaling::LongRope {
            short_factor: vec![2.0; 64],
            long_factor: vec![4.0; 64],
            original: 32_768,
            factor: None,
            attention_factor: None,
        };
        let config = Config { max_position_embeddings: 131_072, ..config(scaling.clone()) };
        let rotations = Rotations::of(&config);
        let first = |positions| rotations.for_context(positions).inverse_frequencies[0];
        assert_eq!((first(32_768), first(32_769)), (0.5, 0.25));
        assert!((rotations.usual.attention_factor - 1.064_581_3).abs() < 1e-6);
        // As long as it was trained for, it is not stretched.
        let same = Config { max_position_embeddings: 32_768, ..config };
        assert_eq!(Rotations::of(&same).usual.attention_factor, 1.0);
    }

    #[test]
    fn longrope_without_its_divisors_is_plain_and_ends() {
        let (short_factor, long_factor) = (Vec::new(), Vec::new());
        let scaling =
            RopeScaling::LongRope { short_factor, long_factor, original: 4096, factor: None, attention_factor: None };
        let config = config(scaling);
        assert_eq!(config.longest_context(), 4096);
        assert_eq!(Rotations::of(&config).usual, Rotations::of(&self::config(RopeScaling::Default)).usual);
    }

    #[test]
    fn every_scaling_comes_back_from_its_object() {
        let long = |attention_factor, factor| RopeScaling::LongRope {
            short_factor: vec![1.1; 64],
            long_factor: vec![3.3; 64],
            original: 4096,
            factor,
            attention_factor,
        };
        let scalings = [
            RopeScaling::Default,
            RopeScaling::Linear { factor: 2.5 },
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original: 8192 },
            yarn(4.0, 16_384),
            RopeScaling::Yarn {
                factor: 3.0,
                original: 4096,
                beta_fast: 24.0,
                beta_slow: 2.0,
                attention_factor: Some(1.3),
                truncate: false,
            },
            long(None, None),
            long(Some(1.2), Some(8.0)),
            RopeScaling::Alpha { alpha: 1000.0 },
        ];
        for scaling in scalings {
            let Value::Object(map) = scaling.to_json() else { panic!("an object") };
            let read = from_json(&JsonObject::new(&map, "rope_scaling"), None, 65_536).unwrap();
            assert_eq!(read, scaling);
        }
    }

    /// Where a file leaves something out, as transformers 5 fills it in.
    #[test]
    fn what_an_object_leaves_out() {
        let read = |json: Value, outer| {
            let Value::Object(map) = json else { panic!("an object") };
            from_json(&JsonObject::new(&map, "rope_scaling"), outer, 65_536)
        };
        let null_factor = json!({ "type": "yarn", "factor": null, "original_max_position_embeddings": 16_384 });
        assert_eq!(read(null_factor, None).unwrap(), yarn(4.0, 16_384));
        assert_eq!(read(json!({ "type": "yarn", "factor": 2.0 }), None).unwrap(), yarn(2.0, 65_536));
        let both =
            json!({ "rope_type": "yarn", "type": "linear", "factor": 4.0, "original_max_position_embeddings": 1 });
        assert_eq!(read(both, Some(16_384)).unwrap(), yarn(4.0, 16_384));
        let scaled = json!({ "rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0.5 });
        let RopeScaling::Yarn { attention_factor: Some(factor), .. } = read(scaled, None).unwrap() else { panic!() };
        assert!((f64::from(factor) - yarn_attention_factor(4.0, 1.0) / yarn_attention_factor(4.0, 0.5)).abs() < 1e-7);
        let error = read(json!({ "rope_type": "dynamic", "factor": 2.0 }), None).unwrap_err().to_string();
        assert!(error.contains("\"dynamic\" without alpha"), "{error}");
        let error = read(json!({ "rope_type": "longrope" }), None).unwrap_err().to_string();
        assert_eq!(error, "short_factor in rope_scaling is missing");
    }
}
