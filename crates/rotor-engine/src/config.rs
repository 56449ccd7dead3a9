//! Hyper-parameters, parsed once into one struct whatever file they came from.
//!
//! `hyper_parameters!` below is their only list. An entry has a field's name and type, what it is where an architecture has
//! no such thing, and a *codec*: how a GGUF and a `config.json` hold it. The list is handed to two macros: one makes
//! [`Config`] of it, the other the table (`config/fields.rs`) that both readers, both writers, `rotor inspect --json`, Python's
//! dict and the comparison of two models go through. So a new field is one entry here.

pub(crate) mod activations;
mod codecs;
mod declared;
pub(crate) mod fields;
pub(crate) mod pooling;
mod rotary;
mod scalars;
pub(crate) mod values;
mod windows;

pub use activations::Activations;
pub use pooling::Pooling;
pub use values::{Activation, LayerType};

use crate::architectures::Architecture;
use crate::error::FormatError;
use crate::rope::scaling::RopeScaling;

/// The list. `$with` is the macro that it is given to: [`Config`] below takes the names, types and first values, the table of
/// fields the codecs.
macro_rules! hyper_parameters {
    ($with:ident) => {
        $with! {
            /// Rows of the embedding.
            vocab_size: usize = 0, VocabSize;
            /// Longest sequence the model was trained for.
            max_position_embeddings: usize = 0, Key::new("context_length", "max_position_embeddings").or_json(|_| Some(2048));
            /// Width of the residual stream.
            hidden_size: usize = 0, Key::new("embedding_length", "hidden_size");
            /// Number of layers.
            num_hidden_layers: usize = 0, Key::new("block_count", "num_hidden_layers");
            /// Width of the feed-forward layer.
            intermediate_size: usize = 0, Key::new("feed_forward_length", "intermediate_size")
                .or_gguf(|file, _| file.shape("blk.0.ffn_gate.weight")?.first().copied());
            /// Query heads.
            num_attention_heads: usize = 0, Key::new("attention.head_count", "num_attention_heads");
            /// Key and value heads; query head `h` reads head `h / (num_attention_heads / num_key_value_heads)`.
            num_key_value_heads: usize = 0, Key::new("attention.head_count_kv", "num_key_value_heads")
                .or_gguf(|_, config| Some(config.num_attention_heads))
                .or_json(|config| Some(config.num_attention_heads));
            /// Width of one head.
            head_dim: usize = 0, HeadDim;
            /// The part of a head's dimensions that RoPE turns, the first ones.
            partial_rotary_factor: f32 = 1.0, PartialRotary;
            /// Epsilon of every RMSNorm but those inside the linears.
            rms_norm_eps: f32 = 1e-5, Key::new("attention.layer_norm_rms_epsilon", "rms_norm_eps")
                .or_json(|config| Some(config.architecture.info().defaults.rms_norm_eps));
            /// Epsilon of the RMSNorm inside each linear, where the file has such norms.
            linear_norm_eps: f32 = LINEAR_NORM_EPS, LinearNormEps;
            /// Base of the rotary frequencies.
            rope_theta: f32 = 10_000.0, RopeTheta;
            /// How rotary positions are stretched.
            rope_scaling: RopeScaling = RopeScaling::Default, Scaling;
            /// Which layers see how much; empty where all see everything.
            layer_types: Vec<LayerType> = Vec::new(), LayerTypes;
            /// The tokens that layers of type [`LayerType::Sliding`] see, a token's own included; `None` where there are no such layers.
            sliding_window: Option<usize> = None, SlidingWindow;
            /// Base of the rotary frequencies in layers that see a window; `None` where all layers share one.
            rope_local_base_freq: Option<f32> = None, LocalBase;
            /// Scores are divided by the root of this; `None` is the head size.
            query_pre_attn_scalar: Option<f32> = None, QueryScalar;
            /// The gate's activation function.
            hidden_act: Activation = Activation::Silu, HiddenAct;
            /// How finely the inputs of ternary linears are kept; `None` where there are no such linears.
            activations: Option<Activations> = None, DeclaredActivations;
            /// Multiplies the embedding.
            embedding_scale: f32 = 1.0, EmbeddingScale;
            /// Multiplies the output of attention and of the feed-forward layer before it is added to the residual stream.
            residual_scale: f32 = 1.0, ResidualScale;
            /// Divides what the head is multiplied with.
            logit_scale: f32 = 1.0, LogitScale;
            /// How hidden states become one vector for a text; `None` where the file does not say.
            pooling: Option<Pooling> = None, DeclaredPooling;
        }
    };
}
pub(crate) use hyper_parameters;

macro_rules! config_struct {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $initial:expr, $codec:expr;)*) => {
        /// The hyper-parameters of a model, named as in transformers.
        ///
        /// A value that a reader returned has been checked: every count is at least 1 and within [`limits`],
        /// `num_attention_heads` is a multiple of `num_key_value_heads`, an even number of a head's dimensions turn, and the
        /// numbers are finite.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            /// The graph.
            pub architecture: Architecture,
            /// What the file calls itself, if it does.
            pub name: Option<String>,
            $($(#[$doc])* pub $field: $type,)*
        }

        impl Config {
            /// A configuration whose counts are still 0 and whose other fields are neutral.
            pub fn new(architecture: Architecture) -> Config {
                Config { architecture, name: None, $($field: $initial,)* }
            }
        }
    };
}
hyper_parameters!(config_struct);

/// Epsilon of the norms inside linears where a file names none.
pub(crate) const LINEAR_NORM_EPS: f32 = 1e-6;

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

    /// How many dimensions of a head RoPE turns.
    pub fn rotary_dim(&self) -> usize {
        // A quotient of whole numbers, rounded to f32, must come back as the number it was.
        (self.head_dim as f32 * self.partial_rotary_factor + 1e-3) as usize
    }

    /// Whether some layers see a window.
    pub fn slides(&self) -> bool {
        self.layer_types.contains(&LayerType::Sliding)
    }

    /// Whether a layer sees a window.
    pub fn is_sliding(&self, layer: usize) -> bool {
        self.layer_types.get(layer) == Some(&LayerType::Sliding)
    }

    /// The longest context that the model can run in; longer ones need divisors of the rotary frequencies that the file lacks.
    pub fn longest_context(&self) -> usize {
        match &self.rope_scaling {
            RopeScaling::LongRope { long_factor, original, .. } if long_factor.is_empty() => *original,
            _ => usize::MAX,
        }
    }

    /// Checks what the type promises; every reader ends with this, so nobody behind it checks again.
    pub(crate) fn checked(self) -> Result<Self, FormatError> {
        self.check_counts()?;
        self.check_heads()?;
        self.check_numbers()?;
        self.rope_scaling.check(self.rotary_dim())?;
        if !self.layer_types.is_empty() && self.layer_types.len() != self.num_hidden_layers {
            let expected = format!("one for each of {} layers", self.num_hidden_layers);
            return Err(FormatError::invalid("layer types", expected, self.layer_types.len()));
        }
        Ok(self)
    }

    fn check_counts(&self) -> Result<(), FormatError> {
        let counts = [
            ("number of layers", self.num_hidden_layers, limits::LAYERS),
            ("hidden size", self.hidden_size, limits::WIDTH),
            ("feed-forward width", self.intermediate_size, limits::WIDTH),
            ("vocabulary size", self.vocab_size, limits::VOCAB),
            ("number of attention heads", self.num_attention_heads, limits::HEADS),
            ("number of key-value heads", self.num_key_value_heads, self.num_attention_heads),
            ("head size", self.head_dim, limits::HEAD_DIM),
            ("context length", self.max_position_embeddings, limits::CONTEXT),
            ("sliding window", self.sliding_window.unwrap_or(1), limits::CONTEXT),
        ];
        match counts.into_iter().find(|(_, count, most)| !(1..=*most).contains(count)) {
            Some((what, count, most)) => Err(FormatError::invalid(what, format!("1 to {most}"), count)),
            None => Ok(()),
        }
    }

    fn check_heads(&self) -> Result<(), FormatError> {
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
        let rotary = self.rotary_dim();
        if !(0.0..=1.0).contains(&self.partial_rotary_factor) || !rotary.is_multiple_of(2) || rotary == 0 {
            let expected = "a part of each head with an even number of dimensions";
            return Err(FormatError::invalid("partial_rotary_factor", expected, self.partial_rotary_factor));
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), FormatError> {
        for (what, eps) in [("RMSNorm epsilon", self.rms_norm_eps), ("linear norm epsilon", self.linear_norm_eps)] {
            if !(0.0..=1.0).contains(&eps) {
                return Err(FormatError::invalid(what, "a number from 0 to 1", eps));
            }
        }
        let positive = [
            ("RoPE base", self.rope_theta),
            ("RoPE base of sliding layers", self.rope_local_base_freq.unwrap_or(1.0)),
            ("query_pre_attn_scalar", self.query_pre_attn_scalar.unwrap_or(1.0)),
            ("embedding scale", self.embedding_scale),
            ("residual scale", self.residual_scale),
            ("logit scale", self.logit_scale),
        ];
        match positive.into_iter().find(|(_, number)| !(*number > 0.0 && number.is_finite())) {
            Some((what, number)) => Err(FormatError::invalid(what, "a positive number", number)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small configuration that passes every check.
    fn config() -> Config {
        Config {
            vocab_size: 512,
            max_position_embeddings: 128,
            hidden_size: 64,
            intermediate_size: 96,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 16,
            ..Config::new(Architecture::Llama)
        }
    }

    #[test]
    fn a_sound_configuration_passes() {
        assert_eq!(config().checked().unwrap(), config());
    }

    #[test]
    fn every_hyper_parameter_is_bounded() {
        type Break = fn(&mut Config);
        let cases: [(Break, &str); 27] = [
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
            (|c| c.rope_local_base_freq = Some(-1.0), "RoPE base of sliding layers"),
            (|c| c.rope_scaling = RopeScaling::Divisors(vec![1.0; 7]), "number of RoPE divisors"),
            (
                |c| c.rope_scaling = RopeScaling::Divisors(vec![0.0; 8]),
                "RoPE divisors: expected positive numbers, found 0",
            ),
            (
                |c| c.partial_rotary_factor = 0.2,
                "partial_rotary_factor: expected a part of each head with an even number",
            ),
            (|c| c.layer_types = vec![LayerType::Sliding], "layer types: expected one for each of 2 layers, found 1"),
            (|c| c.sliding_window = Some(0), "sliding window"),
            (|c| c.embedding_scale = 0.0, "embedding scale"),
            (|c| c.logit_scale = f32::INFINITY, "logit scale"),
            (|c| c.query_pre_attn_scalar = Some(0.0), "query_pre_attn_scalar"),
        ];
        for (break_it, message) in cases {
            let mut broken = config();
            break_it(&mut broken);
            let error = broken.checked().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error:?} does not begin with {message:?}");
        }
    }

    #[test]
    fn a_part_of_a_head_is_the_whole_number_it_came_from() {
        for head_dim in (2..=512).step_by(2) {
            for rotary in (2..=head_dim).step_by(2) {
                let partial_rotary_factor = rotary as f32 / head_dim as f32;
                let config = Config { head_dim, partial_rotary_factor, ..config() };
                assert_eq!(config.rotary_dim(), rotary, "of {head_dim}");
            }
        }
        assert_eq!(Config { head_dim: 10, partial_rotary_factor: 0.7, ..config() }.rotary_dim(), 7);
    }
}
