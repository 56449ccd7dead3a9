//! Hyper-parameters, parsed once into one struct whatever file they came from.

/// Which graph the model runs. Untested is unsupported: anything else is refused by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// BitNet b1.58: sub-norms before the output and down projections, [`Activation`] by family.
    BitNet,
    /// Llama: no sub-norms.
    Llama,
}

impl Architecture {
    /// The names a GGUF `general.architecture` or a Hugging Face `architectures` entry may carry.
    pub const KNOWN: &'static str = "bitnet-b1.58, bitnet-25, bitnet, llama (GGUF); BitNetForCausalLM, BitnetForCausalLM, LlamaForCausalLM (Hugging Face)";

    /// The short name printed to people.
    pub const fn name(self) -> &'static str {
        match self {
            Architecture::BitNet => "bitnet",
            Architecture::Llama => "llama",
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
}
