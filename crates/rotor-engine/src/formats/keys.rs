//! Which keys of a file are understood: a key that nobody reads may be one that changes the numbers.
//!
//! Every key of a GGUF and of a config.json is one of four kinds. It is read: [`crate::config`] has the list. Or it is known to
//! change nothing here. Or it is refused by name, because the graph does not do what it asks for. Or nobody knows it, and then
//! a warning names it. The keys of tokenizers are the tokenizer's business and are not looked at here.

use super::hf::json::Object as JsonObject;
use super::metadata::{Metadata, Value};
use super::parts::Part;
use crate::architectures::{ArchitectureInfo, SWITCHED_OFF};
use crate::config::fields::{gguf_keys, json_keys};
use crate::error::FormatError;
use serde_json::Value as Json;

/// Keys below the architecture's name that are read beside those of the hyper-parameters.
const GGUF_READ: &[&str] = &["attention.causal", "expert_count"];

/// Keys below the architecture's name that change nothing in a graph of this program.
const GGUF_HARMLESS: &[&str] = &[
    // Of other norms, of experts that are not there, of the embeddings that another program computes.
    "attention.layer_norm_epsilon",
    "expert_feed_forward_length",
    "expert_used_count",
    // How the file was made.
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "tensor_data_layout",
];

/// Keys below the architecture's name that change the numbers unless they have one of these values.
const GGUF_NEUTRAL: &[(&str, &[f32])] = &[
    ("attention.clamp_kqv", &[0.0]),
    ("attention.max_alibi_bias", &[0.0]),
    ("attention.output_scale", &[0.0, 1.0]),
    ("attention.scale", &[0.0]),
    ("attention.temperature_length", &[0.0]),
    ("attention.temperature_scale", &[0.0]),
    ("attn_logit_softcapping", &[0.0]),
    ("embedding_scale", &[0.0, 1.0]),
    ("final_logit_softcapping", &[0.0]),
    ("logit_scale", &[0.0, 1.0]),
    ("nextn_predict_layers", &[0.0]),
    ("residual_scale", &[0.0, 1.0]),
    ("rope.dimension_sections", &[]),
    ("rope.scaling.attn_factor", &[1.0]),
    ("rope.scaling.yarn_attn_factor", &[1.0]),
    ("rope.scaling.yarn_log_multiplier", &[0.0]),
    ("use_parallel_residual", &[0.0]),
];

/// Where a key may begin without being about the graph: names and licences, the tokenizer, the file itself, its making.
const GGUF_ELSEWHERE: &[&str] =
    &["general.", "tokenizer.", "split.", "rotor.", "quantize.", "imatrix.", "mradermacher.", "unsloth."];

/// Fields of config.json that are read beside those of the hyper-parameters.
const CONFIG_READ: &[&str] = &[
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "eod_token_id",
    "eos_token_id",
    "model_type",
    "quantization",
    "quantization_config",
    "tie_word_embeddings",
];

/// Fields of config.json that change nothing when a model runs: of training, of Python classes, of other tasks.
const CONFIG_HARMLESS: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "add_cross_attention",
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "is_llama_config",
    "label2id",
    "length_penalty",
    "max_length",
    "max_window_layers",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "weight_bits",
];

/// Fields of config.json that change the numbers unless they have one of these values (`false` counts as 0, `true` as 1).
const CONFIG_NEUTRAL: &[(&str, &[f32])] = &[
    ("alibi", &[0.0]),
    ("attention_multiplier", &[]),
    ("clip_qkv", &[]),
    ("dim_model_base", &[]),
    ("embedding_multiplier", &[1.0]),
    ("input_bits", &[8.0]),
    ("logit_scale", &[1.0]),
    ("logits_scaling", &[1.0]),
    ("num_nextn_predict_layers", &[0.0]),
    ("parallel_attn", &[0.0]),
    ("qk_layernorm", &[0.0]),
    ("qkv_bias", &[0.0]),
    ("query_pre_attn_scalar", &[]),
    ("residual_multiplier", &[1.0]),
    ("rope_interleave", &[0.0]),
    ("rope_interleaved", &[0.0]),
    ("scale_depth", &[]),
    ("scale_emb", &[1.0]),
    ("use_bias", &[0.0]),
    ("use_parallel_residual", &[0.0]),
];

/// Fields of `quantization_config`, read or harmless.
const QUANTIZATION: &[&str] =
    &["linear_class", "modules_to_not_convert", "quant_method", "quantization_mode", "rms_norm_eps", "use_rms_norm"];

/// Refuses keys that ask for what the graph of `architecture` does not do; warns of those that nobody knows.
///
/// # Errors
///
/// [`FormatError::Unsupported`], naming the key.
pub(super) fn check_gguf(
    metadata: &Metadata,
    architecture: &str,
    info: &ArchitectureInfo,
) -> Result<Option<String>, FormatError> {
    let (read, mut unknown) = (gguf_keys(info), Vec::new());
    for (key, value) in metadata.iter() {
        refuse_rotated(key)?;
        let Some(name) = below(key, architecture) else {
            unknown.extend((!is_elsewhere(key)).then_some(key));
            continue;
        };
        if read.contains(&name) || GGUF_READ.contains(&name) || GGUF_HARMLESS.contains(&name) {
            continue;
        }
        match neutral(GGUF_NEUTRAL, name) {
            Some(values) if !number(value).is_some_and(|number| values.contains(&number)) => {
                let what = format!("metadata key {key} = {}", value.preview());
                return Err(FormatError::unsupported(what, "the graph does not do what it asks for"));
            }
            Some(_) => {}
            None => unknown.push(key),
        }
    }
    Ok(warning("metadata keys", &unknown))
}

/// As [`check_gguf`], for config.json.
pub(super) fn check_config(config: &JsonObject<'_>, info: &ArchitectureInfo) -> Result<Option<String>, FormatError> {
    let mut unknown: Vec<String> = Vec::new();
    if let Some(model_type) = config.str("model_type")?.filter(|model_type| model_type.contains("hadamard")) {
        return Err(FormatError::unsupported(format!("model_type {model_type:?}"), ROTATED));
    }
    for (key, value) in config.map {
        refuse_rotated(key)?;
        if is_read_from_config(key, info) {
            continue;
        }
        if let Some(values) = neutral_in_config(key, info) {
            if !value.is_null() && !json_number(value).is_some_and(|number| values.contains(&number)) {
                let what = format!("{key} = {value} in {}", config.what);
                return Err(FormatError::unsupported(what, "the graph does not do what it asks for"));
            }
        } else if !CONFIG_HARMLESS.contains(&key.as_str()) {
            unknown.push(key.clone());
        }
    }
    // MLX writes what it says in "quantization" there as well.
    let is_mlx = config.map.contains_key("quantization");
    if let Some(quantization) = config.object("quantization_config")?.filter(|_| !is_mlx) {
        let others = quantization.map.keys().filter(|key| !QUANTIZATION.contains(&key.as_str()));
        unknown.extend(others.map(|key| format!("quantization_config.{key}")));
    }
    let unknown: Vec<&str> = unknown.iter().map(String::as_str).collect();
    Ok(warning(&format!("fields of {}", config.what), &unknown))
}

/// Why weights behind Hadamard transforms are refused.
pub(super) const ROTATED: &str =
    "the weights are stored rotated, and without rotating what they multiply the text is gibberish";

/// Weights that were stored rotated are gibberish to whoever does not rotate their inputs, and nothing but a key tells.
fn refuse_rotated(key: &str) -> Result<(), FormatError> {
    if key.starts_with("prism.") || key.contains("hadamard") {
        return Err(FormatError::unsupported(format!("metadata key {key}"), ROTATED));
    }
    Ok(())
}

/// Whether hyper-parameters are read from a GGUF key of a file of `architecture`, so that every writer expresses it its own way.
pub(crate) fn is_read_from_gguf(key: &str, architecture: &str, info: &ArchitectureInfo) -> bool {
    below(key, architecture).is_some_and(|name| gguf_keys(info).contains(&name) || GGUF_READ.contains(&name))
}

/// Whether a field of config.json is read, or known to change nothing.
pub(crate) fn is_understood_field(key: &str, info: &ArchitectureInfo) -> bool {
    is_read_from_config(key, info) || CONFIG_HARMLESS.contains(&key) || neutral_in_config(key, info).is_some()
}

/// The values of a field of config.json with which the graph of `info` does what the field asks for.
fn neutral_in_config(key: &str, info: &ArchitectureInfo) -> Option<&'static [f32]> {
    if key == "use_qk_norm" {
        let normalises_heads = info.norms.iter().any(|norm| norm.part == Part::AttnQNorm);
        return Some(if normalises_heads { &[1.0] } else { &[0.0] });
    }
    neutral(CONFIG_NEUTRAL, key)
}

fn is_read_from_config(key: &str, info: &ArchitectureInfo) -> bool {
    let switched_off = || SWITCHED_OFF.iter().any(|(name, _)| *name == key);
    json_keys(info).contains(&key) || CONFIG_READ.contains(&key) || switched_off()
}

/// `name` of the key `architecture.name`.
fn below<'a>(key: &'a str, architecture: &str) -> Option<&'a str> {
    key.strip_prefix(architecture)?.strip_prefix('.')
}

fn is_elsewhere(key: &str) -> bool {
    GGUF_ELSEWHERE.iter().any(|prefix| key.starts_with(prefix))
}

fn neutral(table: &[(&str, &'static [f32])], key: &str) -> Option<&'static [f32]> {
    table.iter().find(|(name, _)| *name == key).map(|(_, values)| *values)
}

/// A number or a truth value; an array whose elements are all the same counts as one of them.
fn number(value: &Value) -> Option<f32> {
    match value {
        Value::Array(array) => {
            let first = number(&array.get(0)?)?;
            (1..array.len()).all(|i| array.get(i).and_then(|v| number(&v)) == Some(first)).then_some(first)
        }
        single => single.as_f32().or_else(|| single.as_bool().map(|truth| f32::from(u8::from(truth)))),
    }
}

fn json_number(value: &Json) -> Option<f32> {
    let truth = value.as_bool().map(|truth| f32::from(u8::from(truth)));
    truth.or_else(|| value.as_f64().map(|number| number as f32))
}

fn warning(kind: &str, unknown: &[&str]) -> Option<String> {
    let names = unknown.join(", ");
    (!unknown.is_empty()).then(|| format!("{kind} that rotor does not know and does not follow: {names}"))
}

#[cfg(test)]
mod tests {
    use super::super::metadata::Array;
    use super::*;
    use crate::architectures::Architecture;
    use serde_json::json;

    fn gguf(key: &str, value: Value) -> Result<Option<String>, String> {
        let mut metadata = Metadata::default();
        metadata.insert("general.architecture".into(), Value::String(b"llama".to_vec())).unwrap();
        metadata.insert("llama.block_count".into(), Value::U32(1)).unwrap();
        metadata.insert(key.into(), value).unwrap();
        check_gguf(&metadata, "llama", Architecture::Llama.info()).map_err(|error| error.to_string())
    }

    fn config(field: &str, value: Json) -> Result<Option<String>, String> {
        let Json::Object(map) = json!({ "hidden_size": 1, "use_cache": true, field: value }) else { unreachable!() };
        check_config(&JsonObject::new(&map, "config.json"), Architecture::Llama.info())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn rotated_weights_are_refused_by_name() {
        for key in ["prism.hadamard.version", "prism.future", "onebit.hadamard_q4_0"] {
            let error = gguf(key, Value::U32(1)).unwrap_err();
            assert!(
                error.starts_with(&format!("metadata key {key} is not supported: the weights are stored")),
                "{error}"
            );
            assert!(config(key, json!(1)).is_err());
        }
    }

    #[test]
    fn a_key_that_changes_the_numbers_is_refused_unless_it_says_nothing() {
        assert_eq!(gguf("llama.logit_scale", Value::F32(1.0)), Ok(None));
        assert_eq!(gguf("llama.use_parallel_residual", Value::Bool(false)), Ok(None));
        let error = gguf("llama.logit_scale", Value::F32(0.25)).unwrap_err();
        assert!(error.starts_with("metadata key llama.logit_scale = 0.25 is not supported"), "{error}");
        assert!(gguf("llama.rope.dimension_sections", Value::Array(Array::I32(vec![1, 2]))).is_err());
        assert_eq!(config("logit_scale", Json::Null), Ok(None));
        assert_eq!(config("qkv_bias", json!(false)), Ok(None));
        let error = config("scale_emb", json!(12)).unwrap_err();
        assert!(error.starts_with("scale_emb = 12 in config.json is not supported"), "{error}");
    }

    #[test]
    fn a_key_that_nobody_knows_is_named() {
        for key in ["llama.attention.bold_idea", "strange.key"] {
            let warning = gguf(key, Value::U32(1)).unwrap().unwrap();
            assert_eq!(warning, format!("metadata keys that rotor does not know and does not follow: {key}"));
        }
        for key in ["llama.expert_used_count", "general.x", "tokenizer.ggml.x", "split.count", "rotor.hidden_act"] {
            assert_eq!(gguf(key, Value::U32(1)), Ok(None), "{key}");
        }
        assert!(config("bold_idea", json!([1])).unwrap().unwrap().ends_with("does not follow: bold_idea"));
        let nested = config("quantization_config", json!({ "quant_method": "bitnet", "group": 4 })).unwrap();
        assert!(nested.unwrap().ends_with("does not follow: quantization_config.group"));
    }
}
