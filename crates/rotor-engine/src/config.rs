//! Hyper-parameters, parsed once into one struct whatever file they came from.

use crate::error::FormatError;

/// Which graph the model runs. Untested is unsupported: anything else is refused by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// BitNet b1.58: sub-norms before the output and down projections, [`Activation`] by family.
    BitNet,
    /// Llama: no sub-norms.
    Llama,
    /// Qwen 3: Llama with a norm over each query and key head, and a head size of its own.
    Qwen3,
}

impl Architecture {
    /// The names a GGUF `general.architecture` or a Hugging Face `architectures` entry may carry.
    pub const KNOWN: &'static str = "bitnet-b1.58, bitnet-25, bitnet, llama, qwen3 (GGUF); BitNetForCausalLM, BitnetForCausalLM, LlamaForCausalLM, Qwen3ForCausalLM (Hugging Face)";

    /// The short name printed to people.
    pub const fn name(self) -> &'static str {
        match self {
            Architecture::BitNet => "bitnet",
            Architecture::Llama => "llama",
            Architecture::Qwen3 => "qwen3",
        }
    }
}

/// The gate's activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `max(x, 0)^2`, as BitNet-b1.58-2B-4T was trained with.
    ReluSquared,
}

impl Activation {
    /// The name transformers uses.
    pub const fn name(self) -> &'static str {
        match self {
            Activation::Silu => "silu",
            Activation::ReluSquared => "relu2",
        }
    }
}

/// The hyper-parameters of a model, named as in transformers.
///
/// A value of this type has been checked: every count is at least 1 and within [`limits`], `num_attention_heads` is a
/// multiple of `num_key_value_heads`, `head_dim` is even, and the numbers are finite.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The graph.
    pub architecture: Architecture,
    /// What the file calls itself, if it does.
    pub name: Option<String>,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest sequence the model was trained for.
    pub max_position_embeddings: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; query head `h` reads head `h / (num_attention_heads / num_key_value_heads)`.
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Epsilon of every RMSNorm but those inside the linears.
    pub rms_norm_eps: f32,
    /// Epsilon of the RMSNorm inside each linear (`use_rms_norm`), where the file has such norms.
    pub linear_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Divisors of the rotary frequencies, `head_dim / 2` of them (llama3 scaling, `rope_freqs.weight`).
    pub rope_factors: Option<Vec<f32>>,
    /// The gate's activation function.
    pub hidden_act: Activation,
}

/// Caps on hyper-parameters, checked before anything is allocated from them.
pub mod limits {
    /// Layers. The deepest published ternary model has 40.
    pub const LAYERS: usize = 1024;
    /// Hidden and intermediate width, heads times head_dim.
    pub const WIDTH: usize = 1 << 20;
    /// Vocabulary. The largest published is 262,144.
    pub const VOCAB: usize = 1 << 24;
    /// Heads.
    pub const HEADS: usize = 4096;
    /// Width of one head.
    pub const HEAD_DIM: usize = 4096;
    /// Context length.
    pub const CONTEXT: usize = 1 << 24;
}

impl Config {
    /// Width of the concatenated query heads.
    pub fn q_dim(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of the concatenated key (or value) heads.
    pub fn kv_dim(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Checks what the type promises; every reader ends with this, so nobody behind it checks again.
    pub(crate) fn checked(self) -> Result<Self, FormatError> {
        let counts = [
            ("number of layers", self.num_hidden_layers, limits::LAYERS),
            ("hidden size", self.hidden_size, limits::WIDTH),
            ("feed-forward width", self.intermediate_size, limits::WIDTH),
            ("vocabulary size", self.vocab_size, limits::VOCAB),
            ("number of attention heads", self.num_attention_heads, limits::HEADS),
            ("number of key-value heads", self.num_key_value_heads, self.num_attention_heads),
            ("head size", self.head_dim, limits::HEAD_DIM),
            ("context length", self.max_position_embeddings, limits::CONTEXT),
        ];
        for (what, count, most) in counts {
            if !(1..=most).contains(&count) {
                return Err(FormatError::invalid(what, format!("1 to {most}"), count));
            }
        }
        if self.q_dim() > limits::WIDTH {
            let expected = format!("at most {}", limits::WIDTH);
            return Err(FormatError::invalid("number of heads times head size", expected, self.q_dim()));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let expected = format!("a multiple of the {} key-value heads", self.num_key_value_heads);
            return Err(FormatError::invalid("number of attention heads", expected, self.num_attention_heads));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(FormatError::invalid("head size", "an even number, for rotary pairs", self.head_dim));
        }
        self.check_numbers()?;
        Ok(self)
    }

    /// The part of [`checked`](Self::checked) about floats.
    fn check_numbers(&self) -> Result<(), FormatError> {
        for (what, eps) in [("RMSNorm epsilon", self.rms_norm_eps), ("linear norm epsilon", self.linear_norm_eps)] {
            if !(0.0..=1.0).contains(&eps) {
                return Err(FormatError::invalid(what, "a number from 0 to 1", eps));
            }
        }
        if !(self.rope_theta > 0.0 && self.rope_theta.is_finite()) {
            return Err(FormatError::invalid("RoPE base", "a positive number", self.rope_theta));
        }
        let Some(factors) = &self.rope_factors else { return Ok(()) };
        if factors.len() != self.head_dim / 2 {
            let expected = format!("{}, one for each rotary pair", self.head_dim / 2);
            return Err(FormatError::invalid("number of RoPE factors", expected, factors.len()));
        }
        match factors.iter().find(|&&factor| !(factor > 0.0 && factor.is_finite())) {
            Some(bad) => Err(FormatError::invalid("RoPE factor", "a positive number", bad)),
            None => Ok(()),
        }
    }
}

/// A way of stretching rotary positions beyond the trained context, resolved into divisors of the frequencies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RopeScaling {
    /// Every frequency divided by one factor: position interpolation.
    Linear { factor: f32 },
    /// Llama 3.1: long wavelengths divided, short ones kept, a smooth blend between.
    Llama3 { factor: f32, low_freq_factor: f32, high_freq_factor: f32, original_context: usize },
}

impl RopeScaling {
    /// The divisors, `head_dim / 2` of them; `None` where all are 1.
    pub(crate) fn factors(self, theta: f32, head_dim: usize) -> Option<Vec<f32>> {
        let divisors = (0..head_dim / 2).map(|pair| match self {
            Self::Linear { factor } => factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let frequency = f64::from(theta).powf(-2.0 * pair as f64 / head_dim as f64);
                let turns = original_context as f64 * frequency / std::f64::consts::TAU;
                let (low, high, factor) = (f64::from(low_freq_factor), f64::from(high_freq_factor), f64::from(factor));
                // Turns within the original context: many are short wavelengths, few are long ones.
                let divisor = if turns > high {
                    1.0
                } else if turns < low {
                    factor
                } else {
                    let smooth = (turns - low) / (high - low);
                    1.0 / ((1.0 - smooth) / factor + smooth)
                };
                divisor as f32
            }
        });
        let divisors: Vec<f32> = divisors.collect();
        divisors.iter().any(|&divisor| divisor != 1.0).then_some(divisors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small configuration that passes every check.
    fn config() -> Config {
        Config {
            architecture: Architecture::Llama,
            name: None,
            vocab_size: 512,
            max_position_embeddings: 128,
            hidden_size: 64,
            intermediate_size: 96,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 16,
            rms_norm_eps: 1e-5,
            linear_norm_eps: 1e-6,
            rope_theta: 1e4,
            rope_factors: None,
            hidden_act: Activation::Silu,
        }
    }

    #[test]
    fn a_sound_configuration_passes() {
        assert_eq!(config().checked().unwrap(), config());
    }

    #[test]
    fn every_hyper_parameter_is_bounded() {
        type Break = fn(&mut Config);
        let cases: [(Break, &str); 20] = [
            (|c| c.num_hidden_layers = 0, "number of layers: expected 1 to 1024, found 0"),
            (|c| c.num_hidden_layers = 1025, "number of layers"),
            (|c| c.hidden_size = 0, "hidden size"),
            (|c| c.hidden_size = usize::MAX, "hidden size"),
            (|c| c.intermediate_size = 0, "feed-forward width"),
            (|c| c.vocab_size = (1 << 24) + 1, "vocabulary size"),
            (|c| c.num_attention_heads = 0, "number of attention heads"),
            (|c| c.num_key_value_heads = 0, "number of key-value heads"),
            (|c| c.num_key_value_heads = 8, "number of key-value heads: expected 1 to 4, found 8"),
            (|c| c.num_key_value_heads = 3, "number of attention heads: expected a multiple of the 3 key-value heads"),
            (|c| c.head_dim = 15, "head size: expected an even number"),
            (|c| c.head_dim = 4098, "head size: expected 1 to 4096"),
            (|c| (c.num_attention_heads, c.head_dim) = (4096, 4096), "number of heads times head size"),
            (|c| c.max_position_embeddings = 0, "context length"),
            (|c| c.rms_norm_eps = f32::NAN, "RMSNorm epsilon"),
            (|c| c.linear_norm_eps = -1.0, "linear norm epsilon"),
            (|c| c.rope_theta = 0.0, "RoPE base"),
            (|c| c.rope_theta = f32::INFINITY, "RoPE base"),
            (|c| c.rope_factors = Some(vec![1.0; 7]), "number of RoPE factors"),
            (|c| c.rope_factors = Some(vec![0.0; 8]), "RoPE factor: expected a positive number, found 0"),
        ];
        for (break_it, message) in cases {
            let mut broken = config();
            break_it(&mut broken);
            let error = broken.checked().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error:?} does not begin with {message:?}");
        }
    }

    #[test]
    fn linear_scaling_is_one_divisor() {
        assert_eq!(RopeScaling::Linear { factor: 4.0 }.factors(1e4, 6), Some(vec![4.0; 3]));
        assert_eq!(RopeScaling::Linear { factor: 1.0 }.factors(1e4, 6), None);
    }

    #[test]
    fn llama3_scaling_by_its_definition() {
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
        let divisors = scaling.factors(500_000.0, 128).unwrap();
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
}
