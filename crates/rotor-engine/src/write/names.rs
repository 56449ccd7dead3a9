//! What GGUF and Hugging Face call each part of the graph.

use crate::formats::{Part, Role, gguf_stem};

/// The name in a GGUF.
pub fn gguf(role: Role) -> String {
    gguf_stem(role) + ".weight"
}

/// The name in a Hugging Face checkpoint, as BitNet-b1.58-2B-4T has it; the sub-norms have others elsewhere.
pub fn hugging_face(role: Role) -> String {
    let (layer, part) = match role {
        Role::TokenEmbedding => return "model.embed_tokens.weight".into(),
        Role::OutputNorm => return "model.norm.weight".into(),
        Role::Output => return "lm_head.weight".into(),
        Role::Layer(layer, part) => (layer, part),
    };
    let part = match part {
        Part::AttnNorm => "input_layernorm",
        Part::AttnQ => "self_attn.q_proj",
        Part::AttnK => "self_attn.k_proj",
        Part::AttnV => "self_attn.v_proj",
        Part::AttnQNorm => "self_attn.q_norm",
        Part::AttnKNorm => "self_attn.k_norm",
        Part::AttnSubNorm => "self_attn.attn_sub_norm",
        Part::AttnOutput => "self_attn.o_proj",
        Part::FfnNorm => "post_attention_layernorm",
        Part::FfnGate => "mlp.gate_proj",
        Part::FfnUp => "mlp.up_proj",
        Part::FfnSubNorm => "mlp.ffn_sub_norm",
        Part::FfnDown => "mlp.down_proj",
    };
    format!("model.layers.{layer}.{part}.weight")
}
