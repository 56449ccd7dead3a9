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

pub(crate) mod scaling;

pub use scaling::RopeScaling;

use crate::config::Config;
use crate::config::values::short;
use scaling::{DIVISORS, LONG_FACTORS, SHORT_FACTORS, yarn_attention_factor};
use serde_json::Value;

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

/// The object that [`scaling::from_json`] reads the same scaling from, with the base: what transformers calls `rope_parameters`.
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
    use super::scaling::{BETA_FAST, BETA_SLOW, from_json};
    use super::*;
    use crate::architectures::Architecture;
    use crate::formats::hf::json::Object as JsonObject;
    use serde_json::json;

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
