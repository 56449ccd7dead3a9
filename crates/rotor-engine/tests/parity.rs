//! Held against transformers: the checkpoints of tests/data and what it computed for them.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod common;

use common::{Expected, fixtures, graph, hidden, logits, runtimes};
use rotor::formats::{OpenOptions, Source};
use rotor::model::Model;
use rotor_kernels::attention::KvType;
use std::path::Path;

/// The numeric contract: at most 1e-4 of the largest logit.
const CONTRACT: f32 = 1e-4;

fn open(folder: &Path) -> Source {
    Source::open(folder, &OpenOptions::default()).unwrap_or_else(|e| panic!("{folder:?}: {e}"))
}

/// Logits within the contract, and the same best token everywhere.
fn logits_agree(folder: &Path) {
    let (expected, source) = (Expected::read(folder), open(folder));
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    for runtime in runtimes() {
        let model = Model::load(&source, &runtime, &mut |_| {}).unwrap();
        let found = logits(&model, &expected.ids, expected.ids.len(), KvType::F32);
        let difference = expected.difference(&found);
        println!("{name} on {}: {difference:.1e} of the largest logit", runtime.kernels.isa());
        assert!(difference <= CONTRACT, "{name}: {difference}");
        let vocab = model.config().vocab_size;
        let best = |rows: &[f32]| -> Vec<usize> {
            let row = |row: &[f32]| (0..vocab).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
            rows.chunks_exact(vocab).map(row).collect()
        };
        assert_eq!(best(&expected.rows), best(&found), "{name}: best tokens");
    }
}

#[test]
fn logits_are_those_of_transformers() {
    fixtures().iter().for_each(|folder| logits_agree(folder));
}

#[test]
fn every_graph_has_the_logits_of_transformers() {
    for name in ["qwen3-yarn", "hunyuan", "minicpm-longrope"] {
        logits_agree(&graph(name));
    }
}

/// A copy of a folder of tests/data/graphs with another `config.json`.
fn with_config(name: &str, edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["model.safetensors", "expected.safetensors"] {
        std::fs::copy(graph(name).join(file), folder.path().join(file)).unwrap();
    }
    let text = std::fs::read_to_string(graph(name).join("config.json")).unwrap();
    let serde_json::Value::Object(mut config) = serde_json::from_str(&text).unwrap() else { panic!("an object") };
    edit(&mut config);
    std::fs::write(folder.path().join("config.json"), serde_json::Value::Object(config).to_string()).unwrap();
    folder
}

/// What older files say in other words, and which words count where a file has both.
#[test]
fn both_spellings_of_rotary_positions_give_the_same_logits() {
    let old = with_config("qwen3-yarn", |config| {
        let mut parameters = config.remove("rope_parameters").unwrap();
        let parameters = parameters.as_object_mut().unwrap();
        config.insert("rope_theta".into(), parameters.remove("rope_theta").unwrap());
        let kind = parameters.remove("rope_type").unwrap();
        parameters.insert("type".into(), kind);
        config.insert("rope_scaling".into(), parameters.clone().into());
        // The older spelling counts, as in transformers.
        config.insert("rope_parameters".into(), serde_json::json!({ "rope_type": "default", "rope_theta": 77.0 }));
    });
    logits_agree(old.path());
}

fn hidden_states_agree(folder: &Path) {
    let (expected, source) = (Expected::read(folder), open(folder));
    for runtime in runtimes() {
        let model = Model::load(&source, &runtime, &mut |_| {}).unwrap();
        let found = hidden(&model, &expected.ids, expected.ids.len(), KvType::F32);
        let difference = expected.difference(&found);
        println!("{folder:?} on {}: {difference:.1e} of the largest", runtime.kernels.isa());
        assert!(difference <= CONTRACT, "{folder:?}: {difference}");
        assert!(hidden(&model, &expected.ids, 7, KvType::F32) == found, "{folder:?} in steps of 7");
    }
}

#[test]
fn embedding_models_have_the_hidden_states_of_transformers() {
    hidden_states_agree(&graph("embed-qwen3"));
    hidden_states_agree(&graph("embed-gemma3"));
    let old = with_config("embed-gemma3", |config| {
        let parameters = config.remove("rope_parameters").unwrap();
        config.insert("rope_theta".into(), parameters["full_attention"]["rope_theta"].clone());
        config.insert("rope_local_base_freq".into(), parameters["sliding_attention"]["rope_theta"].clone());
        config.insert("rope_scaling".into(), serde_json::Value::Null);
    });
    hidden_states_agree(old.path());
}
