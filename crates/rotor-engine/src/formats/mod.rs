//! Where a model enters: GGUF files and Hugging Face folders, opened into one [`Source`].
//!
//! Opening parses and checks everything but the weights themselves: afterwards the hyper-parameters are a checked
//! [`Config`](crate::Config), and every tensor the graph needs is known to exist with the right shape, a readable type and bytes in range.
//! Weights stay borrowed bytes of the mapped file until they are packed.

mod beginning;
mod foreign;
mod gguf;
mod graph;
mod hf;
#[cfg(test)]
mod hostile_tests;
mod i2s_layout;
pub(crate) mod keys;
mod map;
pub mod metadata;
pub(crate) mod metadata_json;
mod model_file;
mod roles;
pub(crate) mod rotor;
#[cfg(test)]
mod runs_tests;
mod source;
mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use beginning::{Beginning, check_beginning};
pub use map::on_changed_file;
pub use model_file::{ModelFile, Unbound};
pub use source::{DenseActivations, LoadOptions, OpenOptions, Read, Source, SourceKind, SourceMetadata, TensorSummary};

pub(crate) use gguf::{GgufFile, NORM_IN, full_key, row_order as gguf_row_order, stem as gguf_stem, tokenizer_key};
pub(crate) use hf::COPIED;
pub(crate) use hf::JsonObject;
pub(crate) use i2s_layout::KEY as I2S_LAYOUT_KEY;
pub(crate) use roles::Naming;

pub use crate::forms::RowOrder;
use crate::forms::TernaryTensor;
use metadata::Strings;
use rotor_kernels::DenseType;

/// The names of a safetensors file's tensors in the order of their bytes, with their types where rotor computes with them.
///
/// # Errors
///
/// A [`FormatError`](crate::FormatError) for a header that is not sound.
pub fn safetensors_names(bytes: &[u8]) -> Result<Vec<(String, Option<DenseType>)>, crate::FormatError> {
    hf::header(bytes)
}

/// A part of the graph that a tensor fills, the same for every file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// `[vocab, hidden]`.
    TokenEmbedding,
    /// `[hidden]`, before the head.
    OutputNorm,
    /// `[vocab, hidden]`; absent where the embedding serves as the head.
    Output,
    /// A tensor of layer `.0`.
    Layer(usize, Part),
}

/// A tensor's place inside a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// `[hidden]`, before q, k and v.
    AttnNorm,
    /// Linear `[q_dim, hidden]`.
    AttnQ,
    /// Linear `[kv_dim, hidden]`.
    AttnK,
    /// Linear `[kv_dim, hidden]`.
    AttnV,
    /// `[head_dim]`, over each query head (Qwen 3).
    AttnQNorm,
    /// `[head_dim]`, over each key head (Qwen 3).
    AttnKNorm,
    /// `[q_dim]`, before the output projection (BitNet).
    AttnSubNorm,
    /// Linear `[hidden, q_dim]`.
    AttnOutput,
    /// `[hidden]`, over what attention adds to the residual stream (Gemma 3).
    AttnPostNorm,
    /// `[hidden]`, before gate and up.
    FfnNorm,
    /// Linear `[intermediate, hidden]`.
    FfnGate,
    /// Linear `[intermediate, hidden]`.
    FfnUp,
    /// `[intermediate]`, before the down projection (BitNet).
    FfnSubNorm,
    /// Linear `[hidden, intermediate]`.
    FfnDown,
    /// `[hidden]`, over what the feed-forward layer adds to the residual stream (Gemma 3).
    FfnPostNorm,
}

/// A dense tensor as stored: borrowed bytes and their type.
#[derive(Clone, Copy, Debug)]
pub struct DenseTensor<'a> {
    /// The name in its file.
    pub name: &'a str,
    /// Rows; 1 for a vector.
    pub rows: usize,
    /// Columns (the fastest-varying dimension).
    pub cols: usize,
    /// Storage type.
    pub dtype: DenseType,
    /// `rows * dtype.row_bytes(cols)` bytes.
    pub bytes: &'a [u8],
    /// How rows must be permuted to come out in the order the graph wants.
    pub row_order: RowOrder,
}

/// The weight of a linear layer, or any matrix, still in its source layout.
#[derive(Clone, Debug)]
pub enum Weight<'a> {
    /// Every weight is -1, 0 or +1 times a scale.
    Ternary(TernaryTensor<'a>),
    /// Ordinary numbers.
    Dense(DenseTensor<'a>),
}

/// A linear layer as stored.
#[derive(Clone, Debug)]
pub struct SourceLinear<'a> {
    /// The matrix.
    pub weight: Weight<'a>,
    /// Multiplies the product (`blk.N.attn_q.scale` in some GGUF files), 1 where absent.
    pub output_scale: f32,
    /// RMSNorm over the input, before quantisation (`use_rms_norm`), with epsilon [`Config::linear_norm_eps`](crate::Config::linear_norm_eps).
    pub input_norm: Option<Vec<f32>>,
}

/// What a model says about its tokenizer, as it says it; [`TokenizerDescription`](crate::tokenizer::TokenizerDescription)
/// resolves it.
#[derive(Clone, Debug)]
pub enum TokenizerSource {
    /// A vocabulary in GGUF metadata.
    Gguf(Box<GgufVocabulary>),
    /// `tokenizer.json` and the files beside it.
    HuggingFace(Box<HuggingFaceTokenizer>),
}

/// The files of a tokenizer in Hugging Face layout.
#[derive(Clone, Debug, Default)]
pub struct HuggingFaceTokenizer {
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<Vec<u8>>,
    /// `special_tokens_map.json`, for what `tokenizer_config.json` leaves out.
    pub special_tokens_map: Option<Vec<u8>>,
    /// End-of-sequence ids from `generation_config.json` and `config.json`.
    pub eos_token_ids: Vec<u32>,
    /// Beginning-of-sequence id from the same files.
    pub bos_token_id: Option<u32>,
    /// What those files say that cannot be used, in sentences.
    pub warnings: Vec<String>,
}

/// The `tokenizer.ggml.*` keys.
#[derive(Clone, Debug, Default)]
pub struct GgufVocabulary {
    /// `general.architecture`; decides the pre-tokenizer where `pre` is missing.
    pub architecture: String,
    /// `tokenizer.ggml.model`: "gpt2" or "llama".
    pub model: String,
    /// `tokenizer.ggml.pre`.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`, raw bytes (not always UTF-8).
    pub tokens: Vec<Vec<u8>>,
    /// `tokenizer.ggml.scores`, empty or one per token.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.token_type`, empty or one per token.
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.merges`, "left right".
    pub merges: Strings,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`.
    pub eot: Option<u32>,
    /// `tokenizer.ggml.eom_token_id`.
    pub eom: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unknown: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub padding: Option<u32>,
    /// More ends of generation: `tokenizer.ggml.eos_token_ids`, and the ids that end a file in the middle.
    pub ends: Vec<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// Keys that change ids in a way that rotor has not.
    pub unsupported: Vec<String>,
    /// What the keys say that cannot be used, in sentences.
    pub warnings: Vec<String>,
}
