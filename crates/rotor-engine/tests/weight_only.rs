//! Models of which only the weights are ternary, held against transformers in float32: checkpoints of tests/data/weight-only.
//!
//! `bonsai-tied` has ternary embeddings, and so a ternary head, in groups of 128; `outliers` has four residual channels 30 times
//! the others, as trained models have. `logits_int8` in the files is what BitNet's quantiser makes of the same models: the
//! size of an error, not a target.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod common;

use common::{Expected, logits, runtimes};
use rotor::config::{Activations, Pooling};
use rotor::formats::{LoadOptions, OpenOptions, Source};
use rotor::model::Model;
use rotor_kernels::attention::KvType;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/weight-only").join(name)
}

fn open(name: &str, activations: Option<Activations>) -> Source {
    let load = LoadOptions { activations, ..LoadOptions::default() };
    Source::open(&folder(name).join("model.gguf"), &OpenOptions { load, ..OpenOptions::default() }).unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max)
}

fn best(logits: &[f32], vocab: usize) -> Vec<usize> {
    let row = |row: &[f32]| (0..vocab).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
    logits.chunks_exact(vocab).map(row).collect()
}

/// The numeric contract, on every ISA: 1e-4 of the largest logit, and the same best token everywhere, also where a few channels
/// are much larger than the others. Measured: 5e-6 and 2e-5.
#[test]
fn logits_are_those_of_the_float_reference() {
    for name in ["bonsai-tied", "outliers"] {
        let expected = Expected::read(&folder(name));
        let source = open(name, None);
        assert_eq!(source.activations().unwrap().0, Activations::Exact, "{name}");
        let largest = expected.rows.iter().fold(0f32, |m, v| m.max(v.abs()));
        for runtime in runtimes() {
            let model = Model::load(&source, &runtime, &mut |_| {}).unwrap();
            let found = logits(&model, &expected.ids, expected.ids.len(), KvType::F32);
            let difference = largest_difference(&expected.rows, &found) / largest;
            println!("{name} on {}: {difference:.1e} of the largest logit", runtime.kernels.isa());
            assert!(difference <= 1e-4, "{name}: {difference} of the largest logit");
            let vocab = model.config().vocab_size;
            assert_eq!(best(&expected.rows, vocab), best(&found, vocab), "{name}: best tokens");
        }
    }
}

/// Why there is a choice: int8 with one scale per token is far off on such models.
#[test]
fn int8_activations_are_another_model() {
    let expected = Expected::read(&folder("outliers"));
    let source = open("outliers", Some(Activations::Int8));
    assert_eq!(source.activations().unwrap(), (Activations::Int8, "as asked for"));
    let model = Model::load(&source, &runtimes()[0], &mut |_| {}).unwrap();
    let found = logits(&model, &expected.ids, expected.ids.len(), KvType::F32);
    let largest = expected.rows.iter().fold(0f32, |m, v| m.max(v.abs()));
    let difference = largest_difference(&expected.rows, &found) / largest;
    assert!(difference > 0.1, "{difference} of the largest logit");
}

/// A token's numbers do not depend on threads or on how the prompt is cut, bit for bit.
#[test]
fn exact_activations_do_not_depend_on_threads_or_chunks() {
    let expected = Expected::read(&folder("bonsai-tied"));
    let source = open("bonsai-tied", None);
    for runtime in runtimes() {
        let model = Model::load(&source, &runtime, &mut |_| {}).unwrap();
        let whole = logits(&model, &expected.ids, expected.ids.len(), KvType::F16);
        for chunk in [1, 3, 7] {
            let cut = logits(&model, &expected.ids, chunk, KvType::F16);
            assert!(whole == cut, "chunks of {chunk} on {}", runtime.kernels.isa());
        }
    }
}

/// Vectors of texts are the pooled hidden states, the same alone and among others; without a word of the file they are means.
#[test]
fn embeddings_are_those_of_transformers_alone_and_among_others() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/graphs/embed-qwen3");
    let expected = Expected::read(&folder);
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let runtime = &runtimes()[0];
    let source = Source::open(&folder, &OpenOptions::default()).unwrap();
    let engine = rotor::engine::Engine::from_source(&source, runtime, &mut |_| {}).unwrap();
    assert_eq!(engine.pooling(), Pooling::Mean);
    for (pooling, name) in [(Pooling::Mean, "pooled_mean"), (Pooling::Last, "pooled_last")] {
        let texts = vec![expected.ids[..3].to_vec(), expected.ids.clone(), expected.ids[5..].to_vec()];
        let mut heard = 0;
        let mut done = |count| {
            heard = count;
            ControlFlow::Continue(())
        };
        let found = engine.embed(texts, pooling, &mut done).unwrap();
        assert_eq!(heard, 3);
        assert_eq!(
            found[1..2],
            engine.embed(vec![expected.ids.clone()], pooling, &mut |_| ControlFlow::Continue(())).unwrap()
        );
        let tensor = file.tensor(name).unwrap();
        let reference: Vec<f32> =
            tensor.data().as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
        let difference = largest_difference(&reference, &found[1]);
        assert!(difference <= 1e-5, "{name}: {difference}");
    }
    let nothing = engine.embed(vec![Vec::new()], Pooling::Mean, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(!nothing.to_string().is_empty());
}
