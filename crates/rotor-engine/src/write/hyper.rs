//! Hyper-parameters as GGUF keys, in the order of the published files.

use super::gguf::GgufHeader;
use crate::config::{Activation, Architecture, Config};

/// The key for what GGUF has no key for.
const HIDDEN_ACT: &str = "rotor.hidden_act";

/// Adds the keys under `architecture`. `tokenizer` is `tokenizer.ggml.model`, from which readers guess the activation
/// function of a BitNet file.
pub fn put_config_keys(header: &mut GgufHeader, architecture: &str, config: &Config, tokenizer: Option<&str>) {
    for (name, value) in [
        ("vocab_size", config.vocab_size),
        ("context_length", config.max_position_embeddings),
        ("embedding_length", config.hidden_size),
        ("block_count", config.num_hidden_layers),
        ("feed_forward_length", config.intermediate_size),
        ("rope.dimension_count", config.head_dim),
        ("attention.head_count", config.num_attention_heads),
        ("attention.head_count_kv", config.num_key_value_heads),
    ] {
        header.u32(&format!("{architecture}.{name}"), value as u32);
    }
    // Where it does not follow from the width.
    if config.q_dim() != config.hidden_size {
        for name in ["attention.key_length", "attention.value_length"] {
            header.u32(&format!("{architecture}.{name}"), config.head_dim as u32);
        }
    }
    header.f32(&format!("{architecture}.attention.layer_norm_rms_epsilon"), config.rms_norm_eps);
    header.f32(&format!("{architecture}.rope.freq_base"), config.rope_theta);
    if !is_usual(config, tokenizer) {
        header.string(HIDDEN_ACT, config.hidden_act.name());
    }
}

/// Whether a reader guesses the activation function without being told.
fn is_usual(config: &Config, tokenizer: Option<&str>) -> bool {
    match (config.architecture, config.hidden_act) {
        (Architecture::BitNet, Activation::ReluSquared) => tokenizer == Some("gpt2"),
        (Architecture::BitNet, Activation::Silu) => {
            tokenizer == Some("llama") && config.num_hidden_layers != 30 && config.vocab_size != 128_256
        }
        (_, activation) => activation == Activation::Silu,
    }
}
