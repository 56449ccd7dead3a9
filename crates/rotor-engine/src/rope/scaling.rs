//! How a file says that rotary positions are stretched. [`crate::rope`] has the formulas, and what comes of them.

use crate::config::values::short;
use crate::error::FormatError;
use crate::formats::hf::json::Object as JsonObject;
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

/// `0.1 mscale ln(factor) + 1`; 1 where nothing is stretched.
pub(crate) fn yarn_attention_factor(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
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
