//! config.json of a folder with packed weights.

use crate::config::{Architecture, Config};
use crate::formats::GgufVocabulary;
use serde_json::{Value, json};

/// config.json for packed weights whose scales multiply (`autobitlinear`) or divide (`bitlinear`).
pub fn config_json(config: &Config, tied: bool, scales_multiply: bool, vocabulary: Option<&GgufVocabulary>) -> Value {
    let (architecture, model_type) = match config.architecture {
        Architecture::BitNet => ("BitNetForCausalLM", "bitnet"),
        Architecture::Llama => ("LlamaForCausalLM", "llama"),
        Architecture::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
    };
    let mut json = json!({
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": config.hidden_act.name(),
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": short(config.rms_norm_eps),
        "rope_theta": short(config.rope_theta),
        "tie_word_embeddings": tied,
        "attention_bias": false,
        "torch_dtype": "bfloat16",
        "quantization_config": {
            "quant_method": "bitnet",
            "linear_class": if scales_multiply { "autobitlinear" } else { "bitlinear" },
            "quantization_mode": "offline",
            "modules_to_not_convert": null,
        },
    });
    for (key, id) in [
        ("bos_token_id", vocabulary.and_then(|vocabulary| vocabulary.bos)),
        ("eos_token_id", vocabulary.and_then(|vocabulary| vocabulary.eos)),
        ("pad_token_id", vocabulary.and_then(|vocabulary| vocabulary.padding)),
    ] {
        if let Some(id) = id {
            json[key] = id.into();
        }
    }
    json
}

/// The shortest decimal that is this f32: 1e-5 and not 9.999999747378752e-6.
fn short(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}
