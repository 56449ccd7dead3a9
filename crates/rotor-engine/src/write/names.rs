//! What GGUF and Hugging Face call each part of the graph (docs/formats.md, tensor names).

use crate::formats::{Part, Role};

/// The name in a GGUF.
pub fn gguf(role: Role) -> String {
    let (layer, part) = match role {
        Role::TokenEmbedding => return "token_embd.weight".into(),
        Role::OutputNorm => return "output_norm.weight".into(),
        Role::Output => return "output.weight".into(),
        Role::Layer(layer, part) => (layer, part),
    };
    let part = match part {
        Part::AttnNorm => "attn_norm",
        Part::AttnQ => "attn_q",
        Part::AttnK => "attn_k",
        Part::AttnV => "attn_v",
        Part::AttnQNorm => "attn_q_norm",
        Part::AttnKNorm => "attn_k_norm",
        Part::AttnSubNorm => "attn_sub_norm",
        Part::AttnOutput => "attn_output",
        Part::FfnNorm => "ffn_norm",
        Part::FfnGate => "ffn_gate",
        Part::FfnUp => "ffn_up",
        Part::FfnSubNorm => "ffn_sub_norm",
        Part::FfnDown => "ffn_down",
    };
    format!("blk.{layer}.{part}.weight")
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
