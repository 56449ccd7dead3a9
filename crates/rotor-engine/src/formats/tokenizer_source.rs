//! What a model says about its tokenizer, as its files say it.

use super::metadata::Strings;

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
