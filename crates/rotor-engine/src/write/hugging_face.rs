//! config.json of a folder with packed weights.

use crate::config::Config;
use crate::config::fields::FIELDS;
use crate::tokenizer::TokenizerDescription;
use serde_json::{Map, Value, json};

/// What a folder's weights are, beside the hyper-parameters.
#[derive(Clone, Copy, Debug)]
pub struct PackedWeights {
    /// Whether the embedding serves as the head.
    pub tied: bool,
    /// Whether scales multiply (`autobitlinear`) or divide (`bitlinear`).
    pub scales_multiply: bool,
    /// Whether every linear has a norm of its own. Such a model is written as the class without a head, where there is one.
    pub norms_in_linears: bool,
}

/// config.json for packed weights.
pub fn config_json(config: &Config, weights: PackedWeights, tokenizer: Option<&TokenizerDescription>) -> Value {
    let info = config.architecture.info();
    let base_class = info.base_class.filter(|_| weights.norms_in_linears);
    let mut map = Map::new();
    map.insert("architectures".into(), json!([base_class.unwrap_or(info.classes[0])]));
    map.insert("model_type".into(), info.model_types[0].into());
    for field in FIELDS {
        (field.put_json)(config, &mut map);
    }
    map.insert("tie_word_embeddings".into(), weights.tied.into());
    map.insert("attention_bias".into(), false.into());
    map.insert("torch_dtype".into(), "bfloat16".into());
    let quantization = map.entry("quantization_config").or_insert_with(|| json!({}));
    quantization["quant_method"] = "bitnet".into();
    quantization["linear_class"] = if weights.scales_multiply { "autobitlinear" } else { "bitlinear" }.into();
    quantization["quantization_mode"] = "offline".into();
    quantization["modules_to_not_convert"] = Value::Null;
    if weights.norms_in_linears {
        quantization["use_rms_norm"] = true.into();
    }
    let ids = tokenizer.map_or([None; 3], |tokenizer| [tokenizer.bos(), tokenizer.eos(), tokenizer.padding()]);
    for (key, id) in ["bos_token_id", "eos_token_id", "pad_token_id"].into_iter().zip(ids) {
        if let Some(id) = id {
            map.insert(key.into(), id.into());
        }
    }
    Value::Object(map)
}
