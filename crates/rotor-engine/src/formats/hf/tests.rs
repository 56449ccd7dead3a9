//! Folders: the tiny checkpoints of tests/data, and variations of them that are sound or broken.

use super::super::{Role, Source, SourceKind, TokenizerSource, Weight};
use super::*;
use crate::architectures::Architecture;
use crate::config::Activation;
use crate::forms::{Scales, TernaryForm};
use crate::plan::MemoryPlan;
use crate::rope::RopeScaling;
use crate::runtime::Runtime;
use ::safetensors::{Dtype, SafeTensors, tensor::TensorView};
use rotor_kernels::DenseType;
use serde_json::{Value, json};
use std::path::PathBuf;
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hf-tiny").join(name)
}

fn open(path: &Path) -> Result<Source, FormatError> {
    Source::open(path, &OpenOptions::default())
}

/// A copy of a fixture with another `config.json`.
fn with_config(name: &str, edit: impl FnOnce(&mut Map<String, Value>)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut config = files::read_json(&fixture(name).join(CONFIG)).unwrap();
    edit(&mut config);
    std::fs::write(folder.path().join(CONFIG), serde_json::to_vec(&config).unwrap()).unwrap();
    std::fs::copy(fixture(name).join(SINGLE_FILE), folder.path().join(SINGLE_FILE)).unwrap();
    folder
}

fn config_error(name: &str, edit: impl FnOnce(&mut Map<String, Value>)) -> String {
    open(with_config(name, edit).path()).unwrap_err().to_string()
}

/// Name, type, shape and bytes.
type Entry = (String, Dtype, Vec<usize>, Vec<u8>);

/// A copy of a fixture with other tensors.
fn with_tensors(name: &str, edit: impl FnOnce(&mut Vec<Entry>)) -> TempDir {
    let folder = with_config(name, |_| {});
    let path = folder.path().join(SINGLE_FILE);
    let bytes = std::fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut entries: Vec<Entry> =
        tensors.iter().map(|(n, t)| (n.to_owned(), t.dtype(), t.shape().to_vec(), t.data().to_vec())).collect();
    edit(&mut entries);
    std::fs::write(&path, serialized(&entries)).unwrap();
    folder
}

fn serialized(entries: &[Entry]) -> Vec<u8> {
    let views =
        entries.iter().map(|(n, dtype, shape, bytes)| (n, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    ::safetensors::serialize(views, None).unwrap()
}

fn tensor_error(name: &str, edit: impl FnOnce(&mut Vec<Entry>)) -> String {
    open(with_tensors(name, edit).path()).unwrap_err().to_string()
}

fn find<'a>(entries: &'a mut [Entry], name: &str) -> &'a mut Entry {
    entries.iter_mut().find(|entry| entry.0 == name).unwrap()
}

const Q: Role = Role::Layer(0, Part::AttnQ);
const Q_NAME: &str = "model.layers.0.self_attn.q_proj";

/// The scale and form of the first query projection.
fn query(source: &Source) -> (TernaryForm, f32) {
    match source.linear(Q).unwrap().weight {
        Weight::Ternary(tensor) => match tensor.scales {
            Scales::Tensor(scale) => (tensor.form, scale),
            other => panic!("{other:?}"),
        },
        Weight::Dense(tensor) => panic!("dense {tensor:?}"),
    }
}

/// The number in the `weight_scale` of the first query projection.
fn stored_scale(name: &str) -> f32 {
    let bytes = std::fs::read(fixture(name).join(SINGLE_FILE)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let scale = tensors.tensor(&format!("{Q_NAME}.weight_scale")).unwrap();
    f32::from_le_bytes(scale.data().try_into().unwrap())
}

#[test]
fn the_packed_bitnet_multiplies_by_its_scale() {
    let source = open(&fixture("bitnet-packed")).unwrap();
    let config = source.config();
    assert_eq!((config.architecture, config.hidden_act), (Architecture::BitNet, Activation::ReluSquared));
    assert_eq!((config.hidden_size, config.num_key_value_heads, config.head_dim), (128, 2, 32));
    assert_eq!((config.rope_theta, config.rms_norm_eps, config.vocab_size), (500_000.0, 1e-5, 512));
    assert_eq!((source.kind(), &config.rope_scaling), (SourceKind::HuggingFace, &RopeScaling::Default));
    assert_eq!(query(&source), (TernaryForm::HfPacked, stored_scale("bitnet-packed")));
    assert!(source.matrix(Role::Output).unwrap().is_none());
    assert_eq!(source.vector(Role::Layer(2, Part::FfnSubNorm)).unwrap().unwrap().len(), 384);
    assert!(source.tokenizer().unwrap().is_none());
    assert!(source.warnings().is_empty(), "{:?}", source.warnings());
}

#[test]
fn the_packed_llama_divides_by_its_scale() {
    let source = open(&fixture("llama-packed")).unwrap();
    assert_eq!((source.config().architecture, source.config().hidden_act), (Architecture::Llama, Activation::Silu));
    assert_eq!(source.config().rope_theta, 1_000_042.0);
    assert_eq!(query(&source), (TernaryForm::HfPacked, (1.0 / f64::from(stored_scale("llama-packed"))) as f32));
    assert_eq!(source.linear(Q).unwrap().input_norm, None);
}

#[test]
fn norms_inside_linears_come_with_their_epsilon() {
    let source = open(&fixture("llama-packed-rmsnorm")).unwrap();
    assert_eq!(source.config().linear_norm_eps, 1e-6);
    for (part, len) in [(Part::AttnQ, 128), (Part::FfnDown, 384)] {
        let norm = source.linear(Role::Layer(1, part)).unwrap().input_norm.unwrap();
        assert_eq!(norm.len(), len);
        assert!(norm.iter().all(|value| value.is_finite()));
    }
}

#[test]
fn master_weights_are_quantised_by_their_mean() {
    let source = open(&fixture("bitnet-online")).unwrap();
    let (form, scale) = query(&source);
    assert_eq!(form, TernaryForm::Master(DenseType::F32));
    let bytes = std::fs::read(fixture("bitnet-online").join(SINGLE_FILE)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let data = tensors.tensor(&format!("{Q_NAME}.weight")).unwrap().data().to_vec();
    let weights = data.as_chunks().0.iter().map(|&w| f64::from(f32::from_le_bytes(w)).abs());
    assert_eq!(scale, (weights.sum::<f64>() / (data.len() / 4) as f64) as f32);
}

#[test]
fn a_bitnet_without_quantization_config_holds_master_weights() {
    let folder = with_config("bitnet-online", |config| {
        config.remove("quantization_config");
        config["architectures"] = json!(["BitnetForCausalLM"]);
        config.insert("model_type".into(), json!("llama"));
        config.insert("hidden_act".into(), json!("silu"));
    });
    let source = open(folder.path()).unwrap();
    assert_eq!(query(&source).0, TernaryForm::Master(DenseType::F32));
    assert_eq!((source.config().architecture, source.config().hidden_act), (Architecture::BitNet, Activation::Silu));
}

#[test]
fn the_sub_norms_of_1bitllm_have_names_of_their_own() {
    let folder = with_tensors("bitnet-online", |entries| {
        for (name, ..) in entries {
            *name = name.replace("self_attn.attn_sub_norm", "self_attn.inner_attn_ln");
            *name = name.replace("mlp.ffn_sub_norm", "mlp.ffn_layernorm");
        }
    });
    assert!(open(folder.path()).unwrap().vector(Role::Layer(0, Part::AttnSubNorm)).unwrap().is_some());
    let error = tensor_error("bitnet-online", |entries| entries.retain(|entry| !entry.0.contains("attn_sub_norm")));
    let (new, old) = ("model.layers.0.self_attn.attn_sub_norm.weight", "model.layers.0.self_attn.inner_attn_ln.weight");
    assert!(error.ends_with(&format!("tensor \"{new}\" or \"{old}\" is missing")), "{error}");
}

#[test]
fn listed_modules_are_not_converted() {
    let folder = with_config("bitnet-online", |config| {
        config["quantization_config"]["modules_to_not_convert"] = json!(["lm_head", "layers.0.self_attn", "k_proj"]);
    });
    let source = open(folder.path()).unwrap();
    let is_dense = |layer, part| {
        let weight = source.linear(Role::Layer(layer, part)).unwrap().weight;
        matches!(weight, Weight::Dense(_))
    };
    assert!(is_dense(0, Part::AttnQ) && is_dense(1, Part::AttnK) && is_dense(0, Part::AttnOutput));
    assert!(!is_dense(1, Part::AttnQ) && !is_dense(0, Part::FfnUp));
}

#[test]
fn a_llama_without_quantization_config_is_dense() {
    let folder = with_config("bitnet-online", |config| {
        config.remove("quantization_config");
        config["architectures"] = json!(["LlamaForCausalLM"]);
    });
    // Its sub-norms have no place in a Llama.
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("_sub_norm.weight\" is not supported: the llama graph has no place for it"), "{error}");
    let path = folder.path().join(SINGLE_FILE);
    let bytes = std::fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let kept = tensors.iter().filter(|(name, _)| !name.contains("_sub_norm"));
    std::fs::write(&path, ::safetensors::serialize(kept, None).unwrap()).unwrap();
    let source = open(folder.path()).unwrap();
    assert!(matches!(source.linear(Q).unwrap().weight, Weight::Dense(_)));
}

#[test]
fn null_means_absent() {
    let folder = with_config("llama-packed", |config| {
        for key in ["head_dim", "rope_scaling", "rope_parameters", "sliding_window", "_name_or_path", "attention_bias"]
        {
            config.insert(key.into(), Value::Null);
        }
        config["quantization_config"]["modules_to_not_convert"] = Value::Null;
        config["quantization_config"]["linear_class"] = Value::Null;
    });
    let source = open(folder.path()).unwrap();
    assert_eq!((source.config().head_dim, source.config().rope_theta), (32, 1_000_042.0));
    assert_eq!(query(&source).1, (1.0 / f64::from(stored_scale("llama-packed"))) as f32);
}

#[test]
fn rope_in_both_key_styles() {
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64, "rope_theta": 1_000_042.0});
    let factors = |key: &str, value: Value| {
        let folder = with_config("llama-packed", |config| drop(config.insert(key.into(), value)));
        let config = open(folder.path()).unwrap().config().clone();
        config.rope_scaling.divisors(config.rope_theta, config.rotary_dim())
    };
    let new = factors("rope_parameters", scaling.clone()).unwrap();
    assert_eq!((new.len(), new[0], new[15]), (16, 1.0, 8.0));
    let mut old = scaling;
    let kind = old.as_object_mut().unwrap().remove("rope_type").unwrap();
    old["type"] = kind;
    assert_eq!(factors("rope_scaling", old), Some(new));
    assert_eq!(factors("rope_scaling", json!({"type": "linear", "factor": 2.0})), Some(vec![2.0; 16]));
    assert_eq!(factors("rope_scaling", json!({"rope_type": "default"})), None);
}

#[test]
fn what_the_graph_cannot_do_is_refused_by_name() {
    let cases = [
        ("architectures", json!(["Qwen2ForCausalLM"]), "architecture \"Qwen2ForCausalLM\" is not supported: known are"),
        ("architectures", json!(["Qwen3MoeForCausalLM"]), "it is a mixture of experts; every layer is dense here"),
        ("architectures", json!(["Qwen3_5ForConditionalGeneration"]), "a hybrid of attention and gated delta nets"),
        ("architectures", json!(["BitVLAForActionPrediction"]), "a model of images and robot actions"),
        ("num_experts", json!(8), "num_experts in config.json is not supported: every layer is dense here"),
        ("final_logit_softcapping", json!(30.0), "final_logit_softcapping in config.json is not supported"),
        ("hidden_act", json!("gelu"), "activation function \"gelu\" is not supported"),
        ("attention_bias", json!(true), "attention_bias in config.json is not supported"),
        ("mlp_bias", json!(true), "mlp_bias in config.json is not supported"),
        ("sliding_window", json!(128), "a sliding window of 128 tokens is not supported"),
        ("layer_types", json!(["full_attention", "sliding_attention"]), "layer type \"sliding_attention\""),
        ("rope_scaling", json!({"type": "yoga", "factor": 4.0}), "RoPE scaling \"yoga\" is not supported"),
        ("rope_scaling", json!({"type": "dynamic", "factor": 4.0}), "RoPE scaling \"dynamic\" without alpha"),
        ("rope_scaling", json!({"full_attention": {}}), "RoPE parameters by layer type is not supported"),
        ("quantization_config", json!({"quant_method": "gptq"}), "quant_method \"gptq\" is not supported"),
        ("quantization_config", json!({"quant_method": "bitnet", "linear_class": "x"}), "linear_class \"x\""),
        ("quantization_config", json!({"quant_method": "bitnet", "quantization_mode": "x"}), "quantization_mode \"x\""),
    ];
    for (key, value, message) in cases {
        let error = config_error("llama-packed", |config| drop(config.insert(key.into(), value)));
        assert!(error.contains(message), "{error:?} does not contain {message:?}");
    }
}

#[test]
fn hyper_parameters_out_of_range_are_refused() {
    let cases = [
        ("num_hidden_layers", json!(0), "number of layers: expected 1 to 1024"),
        ("num_hidden_layers", json!(1_000_000_000_000u64), "number of layers"),
        ("num_hidden_layers", json!(4), "tensor \"model.layers.3.input_layernorm.weight\" is missing"),
        ("num_hidden_layers", json!(2), "the llama graph has no place for it"),
        ("num_attention_heads", json!(0), "hidden_size: expected a multiple of the 0 heads"),
        ("num_attention_heads", json!(-4), "num_attention_heads in config.json: expected a whole number"),
        ("num_key_value_heads", json!(3), "expected a multiple of the 3 key-value heads"),
        ("vocab_size", json!(511), "shape of tensor \"model.embed_tokens.weight\": expected [511, 128]"),
        ("hidden_size", json!("128"), "hidden_size in config.json: expected a whole number"),
        ("hidden_size", Value::Null, "hidden_size in config.json is missing"),
        ("intermediate_size", json!(380), "expected [95, 128]"),
        ("rope_theta", json!(0), "RoPE base"),
        ("rms_norm_eps", json!(1e300), "rms_norm_eps in config.json: expected a finite number"),
        ("head_dim", json!(31), "head size: expected an even number"),
    ];
    for (key, value, message) in cases {
        let error = config_error("llama-packed", |config| {
            config.remove("head_dim");
            config.insert(key.into(), value);
        });
        assert!(error.contains(message), "{error:?} does not contain {message:?}");
    }
}

#[test]
fn an_untied_head_is_used_and_a_tied_copy_is_not() {
    let with_head = |tied: Option<bool>| {
        let folder = with_tensors("bitnet-packed", |entries| {
            let mut head = find(entries, "model.embed_tokens.weight").clone();
            head.0 = "lm_head.weight".into();
            entries.push(head);
        });
        let path = folder.path().join(CONFIG);
        let mut config = files::read_json(&path).unwrap();
        config.insert("tie_word_embeddings".into(), json!(tied));
        std::fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
        open(folder.path()).unwrap().matrix(Role::Output).unwrap().is_some()
    };
    assert!(with_head(Some(false)));
    assert!(with_head(None));
    assert!(!with_head(Some(true)));
    let error = config_error("bitnet-packed", |config| {
        config.insert("tie_word_embeddings".into(), json!(false));
    });
    assert!(error.ends_with("tensor \"lm_head.weight\" is missing"), "{error}");
}

#[test]
fn packed_weights_of_another_kind_are_refused() {
    let weight = format!("{Q_NAME}.weight");
    // Packed along the input, as one public pipeline does. Nothing in the file names its codes.
    let error = tensor_error("bitnet-packed", |entries| find(entries, &weight).2 = vec![128, 32]);
    assert!(error.contains("weights packed along the input have no agreed codes"), "{error}");
    let error = tensor_error("bitnet-packed", |entries| find(entries, &weight).2 = vec![64, 64]);
    assert!(error.contains("expected [32, 128], found [64, 64]"), "{error}");
    let error = tensor_error("bitnet-packed", |entries| find(entries, &weight).1 = Dtype::I8);
    assert!(error.contains("expected u8, four packed weights to a byte, found i8"), "{error}");
}

#[test]
fn a_scale_is_one_finite_number() {
    let name = format!("{Q_NAME}.weight_scale");
    for (value, message) in [(f32::NAN, "expected one finite number, found [NaN]"), (f32::INFINITY, "found [inf]")] {
        let error = tensor_error("bitnet-packed", |entries| find(entries, &name).3 = value.to_le_bytes().to_vec());
        assert!(error.contains(message), "{error}");
    }
    let error = tensor_error("llama-packed", |entries| find(entries, &name).3 = vec![0; 4]);
    assert!(error.contains("expected a scale to divide by, found 0"), "{error}");
    let error = tensor_error("bitnet-packed", |entries| {
        let entry = find(entries, &name);
        (entry.2, entry.3) = (vec![2], vec![0; 8]);
    });
    assert!(error.contains("weight_scale\": expected [1], found [2]"), "{error}");
    let error = tensor_error("bitnet-packed", |entries| entries.retain(|entry| entry.0 != name));
    assert!(error.ends_with("weight_scale\" is missing"), "{error}");
    // BF16, as Microsoft stores it.
    let folder = with_tensors("bitnet-packed", |entries| {
        let entry = find(entries, &name);
        (entry.1, entry.3) = (Dtype::BF16, vec![0x80, 0x3f]);
    });
    assert_eq!(query(&open(folder.path()).unwrap()).1, 1.0);
}

#[test]
fn a_scale_of_the_wrong_sense_is_a_warning() {
    let name = format!("{Q_NAME}.weight_scale");
    let folder = with_tensors("bitnet-packed", |entries| find(entries, &name).3 = 2e4f32.to_le_bytes().to_vec());
    let source = open(folder.path()).unwrap();
    assert!(source.warnings()[0].starts_with("1 ternary tensors have an unusual scale"), "{:?}", source.warnings());
}

#[test]
fn tensors_that_nobody_applies_are_refused() {
    for name in ["model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.q_norm.weight", "lm_head.bias"] {
        let error = tensor_error("bitnet-packed", |entries| entries.push((name.into(), Dtype::U8, vec![1], vec![0])));
        assert!(error.contains(&format!("tensor {name:?} is not supported")), "{error}");
    }
    let folder = with_tensors("bitnet-packed", |entries| {
        entries.push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), Dtype::U8, vec![1], vec![0]));
        entries.push(("extra".into(), Dtype::U8, vec![1], vec![0]));
    });
    assert_eq!(open(folder.path()).unwrap().warnings(), ["tensor \"extra\" is not used"]);
}

/// A fixture as two shards and an index, which `edit` may change.
fn sharded(edit: impl FnOnce(&mut Value)) -> TempDir {
    let folder = with_config("bitnet-packed", |_| {});
    let bytes = std::fs::read(folder.path().join(SINGLE_FILE)).unwrap();
    std::fs::remove_file(folder.path().join(SINGLE_FILE)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut weight_map = Map::new();
    for (number, file) in
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"].into_iter().enumerate()
    {
        let part: Vec<_> =
            tensors.iter().enumerate().filter(|(i, _)| i % 2 == number).map(|(_, entry)| entry).collect();
        weight_map.extend(part.iter().map(|(name, _)| ((*name).to_owned(), json!(file))));
        std::fs::write(folder.path().join(file), ::safetensors::serialize(part, None).unwrap()).unwrap();
    }
    let mut index = json!({"metadata": {"total_size": 1}, "weight_map": weight_map});
    edit(&mut index);
    std::fs::write(folder.path().join(safetensors::INDEX), serde_json::to_vec(&index).unwrap()).unwrap();
    folder
}

#[test]
fn shards_are_one_model() {
    let whole = open(&fixture("bitnet-packed")).unwrap();
    let folder = sharded(|_| {});
    let source = open(folder.path()).unwrap();
    assert_eq!(query(&source), query(&whole));
    assert_eq!(source.tensors().count(), whole.tensors().count());
}

#[test]
fn shards_outside_the_folder_are_refused() {
    for file in
        ["../model.safetensors", "/etc/model.safetensors", "a/b.safetensors", "c:\\x.safetensors", "passwd", ".."]
    {
        let folder = sharded(|index| index["weight_map"]["x"] = json!(file));
        let error = open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("expected a plain name that ends with .safetensors"), "{file}: {error}");
    }
    let folder = sharded(|index| index["weight_map"]["x"] = json!("absent.safetensors"));
    assert!(open(folder.path()).unwrap_err().to_string().starts_with("cannot open "));
    let folder = sharded(|index| index["weight_map"]["x"] = json!("model-00001-of-00002.safetensors"));
    assert!(open(folder.path()).unwrap_err().to_string().contains("tensor \"x\", which the index puts in "));
    let (mut named, mut holds) = ("model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors");
    let folder = sharded(|index| {
        let entry = &mut index["weight_map"]["model.norm.weight"];
        if entry.as_str() == Some(named) {
            (named, holds) = (holds, named);
        }
        *entry = json!(named);
    });
    let error = open(folder.path()).unwrap_err().to_string();
    let expected =
        format!("tensor \"model.norm.weight\", which the index puts in {named}, is missing: it is in {holds}");
    assert!(error.contains(&expected), "{error}");
    let folder = sharded(|index| index["weight_map"] = json!(3));
    assert!(open(folder.path()).unwrap_err().to_string().contains("expected an object, found 3"));
}

#[test]
fn a_single_safetensors_file_uses_the_config_beside_it() {
    let source = open(&fixture("bitnet-packed").join(SINGLE_FILE)).unwrap();
    assert_eq!(source.config().vocab_size, 512);
}

#[test]
fn a_folder_that_is_no_model_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("config.json is missing: a model is a .gguf file or a folder with"), "{error}");
    std::fs::write(folder.path().join("m.gguf"), b"").unwrap();
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with("the folder holds m.gguf, name that file"), "{error}");
    std::fs::write(folder.path().join(CONFIG), b"[]").unwrap();
    assert!(open(folder.path()).unwrap_err().to_string().contains("expected a JSON object"));
    std::fs::write(folder.path().join(CONFIG), b"{").unwrap();
    assert!(open(folder.path()).unwrap_err().to_string().contains("expected JSON, found EOF"));
    std::fs::copy(fixture("bitnet-packed").join(CONFIG), folder.path().join(CONFIG)).unwrap();
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("model.safetensors or model.safetensors.index.json in "), "{error}");
}

#[test]
fn tokenizer_files_are_found_beside_the_weights() {
    let folder = with_config("bitnet-packed", |config| {
        config.insert("eos_token_id".into(), json!(2));
        config.insert("eod_token_id".into(), json!(9));
        config.insert("bos_token_id".into(), Value::Null);
    });
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("tokenizer.json", "{}");
    write("generation_config.json", r#"{"eos_token_id": [7, 2], "bos_token_id": 5}"#);
    write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "x", "template": "X"}, {"name": "default", "template": "D"}]}"#,
    );
    let source = open(folder.path()).unwrap();
    let files = || match source.tokenizer().unwrap() {
        Some(TokenizerSource::HuggingFace(files)) => files,
        other => panic!("{other:?}"),
    };
    assert_eq!((files().tokenizer.as_slice(), files().tokenizer_config.is_some()), (&b"{}"[..], true));
    assert_eq!((files().eos_token_ids, files().bos_token_id), (vec![7, 2, 9], Some(5)));
    assert_eq!(source.chat_template().unwrap().as_deref(), Some("D"));
    write("tokenizer_config.json", r#"{"chat_template": "T"}"#);
    assert_eq!(source.chat_template().unwrap().as_deref(), Some("T"));
    write("chat_template.jinja", "J");
    assert_eq!(source.chat_template().unwrap().as_deref(), Some("J"));
    std::fs::write(folder.path().join("chat_template.jinja"), b"ab\xffc").unwrap();
    let error = source.chat_template().unwrap_err().to_string();
    assert!(error.contains("chat_template.jinja: expected UTF-8, found an invalid byte at 2"), "{error}");
    write("generation_config.json", r#"{"eos_token_id": [-1, 3]}"#);
    let warning = "eos_token_id in generation_config.json is -1, which is no token id: it is left out";
    assert_eq!((files().eos_token_ids, files().warnings), (vec![3, 2, 9], vec![warning.to_owned()]));
}

/// A file from a header's text and data of `len` bytes.
fn raw(header: &str, len: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + len, 0);
    bytes
}

#[test]
fn broken_safetensors_headers_are_refused() {
    let entry = |begin: u64, end: u64, shape: &str| {
        format!(r#"{{"dtype":"U8","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    };
    let cases = [
        (vec![], "an empty file is not a model"),
        (vec![1, 0, 0], "header length is cut short"),
        (u64::MAX.to_le_bytes().to_vec(), "header length: expected at most 100000000"),
        (1000u64.to_le_bytes().to_vec(), "header is cut short: needs 1000 bytes, found 0"),
        (raw("[]", 0), "a JSON object of tensors"),
        (raw(&format!("{{\"a\":{}}}", entry(0, 8, "[8]")), 4), "the file is cut short: it should have "),
        (raw(&format!("{{\"a\":{}}}", entry(0, 4, "[8]")), 4), "a sound header"),
        (raw(&format!("{{\"a\":{}}}", entry(4, 0, "[4]")), 4), "a sound header"),
        (raw(&format!("{{\"a\":{}}}", entry(0, 4, "[4]")), 8), "a sound header"),
        (raw(&format!("{{\"a\":{0},\"a\":{0}}}", entry(0, 4, "[4]")), 4), "tensor \"a\" occurs twice"),
        (raw(&format!("{{\"a\":{0},\"b\":{0}}}", entry(0, 4, "[4]")), 4), "a sound header"),
        (raw(&format!("{{\"a\":{}}}", entry(0, 0, "[4294967296,4294967296,4294967296]")), 0), "a sound header"),
        (raw(r#"{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,1]}}"#, 1), "a sound header"),
    ];
    for (bytes, message) in cases {
        let error = safetensors::names(&bytes).unwrap_err().to_string();
        assert!(error.contains(message), "{error:?} does not contain {message:?}");
    }
    // Eight tensors whose sizes add up to the last address: the sum plus the header's length would overflow.
    let size = (1u64 << 61) - 1;
    let entries: Vec<_> =
        (0..8).map(|i| format!("\"t{i}\":{}", entry(i * size, (i + 1) * size, &format!("[{size}]")))).collect();
    let error = safetensors::names(&raw(&format!("{{{}}}", entries.join(",")), 8)).unwrap_err().to_string();
    assert!(error.contains("is cut short"), "{error}");
}

#[test]
fn master_weights_are_not_read_to_plan_for_them() {
    let folder = with_tensors("bitnet-online", |entries| {
        for (name, _, _, bytes) in entries {
            if name.ends_with("_proj.weight") {
                bytes.fill(0xff); // NaN in every float type: whoever takes their mean fails.
            }
        }
    });
    let source = open(folder.path()).unwrap();
    let runtime = Runtime::new(1).unwrap();
    let plan = MemoryPlan::of(&source, &runtime.tuned(&source).choice).unwrap();
    let sound = open(&fixture("bitnet-online")).unwrap();
    assert_eq!(plan, MemoryPlan::of(&sound, &runtime.choice).unwrap());
    assert!(MemoryPlan::by_tensor(&source, &runtime.choice).unwrap().len() > 7);
    let error = source.linear(Q).unwrap_err().to_string();
    assert!(error.contains("expected finite master weights"), "{error}");
}

fn graph_fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/graphs").join(name)
}

/// A folder that says nothing of quantisation, and whose floats are ternary as they stand.
#[test]
fn floats_that_are_ternary_are_recognised_matrix_by_matrix() {
    let source = open(&graph_fixture("qwen3-yarn")).unwrap();
    assert_eq!(source.activations().unwrap().0.name(), "exact");
    let form = |source: &Source| match source.linear(Q).unwrap().weight {
        Weight::Ternary(tensor) => Some(tensor.form),
        Weight::Dense(_) => None,
    };
    assert!(matches!(form(&source), Some(TernaryForm::Unpacked(_))));
    // One weight of another size, and the matrix is one of floats.
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(graph_fixture("qwen3-yarn").join(CONFIG), folder.path().join(CONFIG)).unwrap();
    let bytes = std::fs::read(graph_fixture("qwen3-yarn").join(SINGLE_FILE)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut entries: Vec<Entry> =
        tensors.iter().map(|(n, t)| (n.to_owned(), t.dtype(), t.shape().to_vec(), t.data().to_vec())).collect();
    let (_, dtype, _, bytes) = find(&mut entries, &format!("{Q_NAME}.weight"));
    let width = if *dtype == Dtype::F32 { 4 } else { 2 };
    bytes[..width].copy_from_slice(&[0x01, 0x3f, 0x02, 0x3f][4 - width..]);
    std::fs::write(folder.path().join(SINGLE_FILE), serialized(&entries)).unwrap();
    let source = open(folder.path()).unwrap();
    assert_eq!(form(&source), None);
    assert!(source.activations().is_some(), "the others are ternary");
}

/// The dense fixture as MLX packs it: `edit` changes the codes, scales and biases of the first query projection.
fn mlx(quantization: Value, edit: impl FnOnce(&mut Vec<Entry>)) -> Result<Source, FormatError> {
    let folder = with_tensors("qwen3-dense", |entries| {
        let at = entries.iter().position(|entry| entry.0 == format!("{Q_NAME}.weight")).unwrap();
        let (rows, cols) = (entries[at].2[0], entries[at].2[1]);
        let word = |at: usize| if at == 0 { 0x5555_5592u32 } else { 0x5555_5555 };
        let words = (0..rows * cols / 16).flat_map(|at| word(at).to_le_bytes()).collect();
        entries[at] = (format!("{Q_NAME}.weight"), Dtype::U32, vec![rows, cols / 16], words);
        for (ending, value) in [("scales", 0.5f32), ("biases", -0.5)] {
            let numbers = (0..rows * cols / 32).flat_map(|_| half::f16::from_f32(value).to_le_bytes()).collect();
            entries.push((format!("{Q_NAME}.{ending}"), Dtype::F16, vec![rows, cols / 32], numbers));
        }
        edit(entries);
    });
    let mut config = files::read_json(&folder.path().join(CONFIG)).unwrap();
    config.insert("quantization".into(), quantization.clone());
    config.insert("quantization_config".into(), quantization);
    std::fs::write(folder.path().join(CONFIG), serde_json::to_vec(&config).unwrap()).unwrap();
    open(folder.path())
}

#[test]
fn mlx_packs_are_ternary_where_their_biases_say_so() {
    let affine = || json!({ "group_size": 32, "bits": 2, "mode": "affine" });
    let source = mlx(affine(), |_| {}).unwrap();
    let Weight::Ternary(tensor) = source.linear(Q).unwrap().weight else { panic!("ternary") };
    assert_eq!((tensor.form, tensor.scales.get(0, 0)), (TernaryForm::Mlx, 0.5));
    let mut row = vec![9; tensor.cols];
    tensor.read_row(0, &mut row).unwrap();
    assert_eq!(row[..5], [1, -1, 0, 1, 0]);
    assert!(source.companions().contains(format!("{Q_NAME}.biases").as_str()), "it goes where the weight goes");
    let biased = |entries: &mut Vec<Entry>| find(entries, &format!("{Q_NAME}.biases")).3[3] = 0x3c;
    for (quantization, expected) in [
        (json!({ "group_size": 32, "bits": 4 }), "quantization.bits 4 is not supported"),
        (json!({ "group_size": 32, "bits": 2, "mode": "mxfp4" }), "quantization.mode \"mxfp4\" is not supported"),
        (json!({ "bits": 2 }), "quantization.group_size: expected columns of a group"),
        (json!({ "group_size": 48, "bits": 2 }), "in groups of 48: expected columns in whole groups"),
    ] {
        let error = mlx(quantization, |_| {}).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let error = mlx(affine(), biased).unwrap_err().to_string();
    assert!(error.contains("in row 0, group 1,") && error.contains("has the scale negated, -0.5"), "{error}");
}

#[test]
fn rotated_weights_are_refused_whatever_says_so() {
    let error = config_error("qwen3-dense", |config| {
        config.insert("model_type".into(), "prism_hadamard_qwen35".into());
    });
    assert!(
        error.contains("model_type \"prism_hadamard_qwen35\" is not supported: the weights are stored rotated"),
        "{error}"
    );
    for name in ["hadamard.json", "hadamard_packing.json"] {
        let folder = with_config("qwen3-dense", |_| {});
        std::fs::write(folder.path().join(name), "{}").unwrap();
        let error = open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("a folder with {name} is not supported")), "{error}");
    }
}
