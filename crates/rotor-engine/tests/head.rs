//! Quantised heads: encoded at load or on disk they are the same, and activations of 15 bits change little.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{logits, runtimes};
use rotor::DenseType;
use rotor::convert::{ConvertOptions, Target, convert};
use rotor::formats::{DenseActivations, LoadOptions, OpenOptions, Source};
use rotor::model::{Model, Step, Wanted, Workspace};
use rotor::plan::MemoryPlan;
use rotor::runtime::Runtime;
use rotor::synth::{Preset, SynthOptions, synthesize};
use rotor_kernels::attention::KvType;
use std::path::Path;

const IDS: [u32; 40] = {
    let mut ids = [0; 40];
    let mut i = 0;
    while i < 40 {
        ids[i] = (i * i * 7 % 1000) as u32;
        i += 1;
    }
    ids
};

fn open(path: &Path, load: LoadOptions) -> Source {
    Source::open(path, &OpenOptions { load, ..OpenOptions::default() }).unwrap()
}

fn loaded(source: &Source, runtime: &Runtime) -> Model {
    Model::load(source, runtime, &mut |_| {}).unwrap()
}

#[test]
fn a_head_encoded_at_load_is_the_one_that_convert_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    synthesize(Preset::Tiny, &path, &SynthOptions::default(), &mut |_, _| {}).unwrap();
    for head in [DenseType::Q8_0, DenseType::Q6K, DenseType::Q4K] {
        let written = folder.path().join(format!("{}.gguf", head.name()));
        let target: Target = "i2_s".parse().unwrap();
        let options = ConvertOptions { target, head: Some(head), verify: true, lossy_tokenizer: false };
        convert(&open(&path, LoadOptions::default()), &written, &options, &mut |_, _, _| {}).unwrap();
        for activations in [DenseActivations::Int16, DenseActivations::F32] {
            for runtime in runtimes() {
                let load = LoadOptions { dense_activations: activations, ..LoadOptions::default() };
                let file = open(&written, load);
                let memory = open(&path, LoadOptions { head: Some(head), ..load });
                let (expected, found) = (loaded(&file, &runtime), loaded(&memory, &runtime));
                assert_eq!(
                    MemoryPlan::of(&memory, &runtime.choice).unwrap().weights(),
                    found.weight_bytes() as u64,
                    "{}",
                    head.name()
                );
                assert_eq!(expected.weight_bytes(), found.weight_bytes());
                let expected = logits(&expected, &IDS, IDS.len(), KvType::F16);
                let name = format!("{} and {activations:?} on {}", head.name(), runtime.kernels.isa());
                assert!(logits(&found, &IDS, IDS.len(), KvType::F16) == expected, "{name}: at once");
                assert!(logits(&found, &IDS, 3, KvType::F16) == expected, "{name}: in steps of 3");
            }
        }
    }
}

/// Several sequences share one pass over the head; each gets what it gets alone.
#[test]
fn activations_of_two_digits_change_little_and_do_not_depend_on_company() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    synthesize(Preset::Tiny, &path, &SynthOptions::default(), &mut |_, _| {}).unwrap();
    for head in [DenseType::Q8_0, DenseType::Q6K, DenseType::Q4K] {
        for runtime in runtimes() {
            let model = |dense_activations| {
                loaded(
                    &open(&path, LoadOptions { head: Some(head), dense_activations, ..LoadOptions::default() }),
                    &runtime,
                )
            };
            let (digits, float) = (model(DenseActivations::Int16), model(DenseActivations::F32));
            let (found, expected) =
                (logits(&digits, &IDS, IDS.len(), KvType::F16), logits(&float, &IDS, IDS.len(), KvType::F16));
            let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
            let error = norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
            let share = error / norm(&mut expected.iter().copied());
            assert!(share > 0.0 && share < 1e-4, "{} on {}: {share}", head.name(), runtime.kernels.isa());
            let vocab = digits.config().vocab_size;
            let mut caches: Vec<_> =
                (0..11).map(|_| rotor::cache::SequenceCache::new(digits.config(), IDS.len(), KvType::F16)).collect();
            let mut steps: Vec<_> = caches
                .iter_mut()
                .enumerate()
                .map(|(i, cache)| Step { cache, tokens: &IDS[..i + 1], wanted: Wanted::Last })
                .collect();
            let mut workspace = Workspace::new(&runtime);
            let rows = digits.forward(&mut steps, &mut workspace).unwrap();
            for (i, row) in rows.chunks_exact(vocab).enumerate() {
                assert!(row == &found[i * vocab..(i + 1) * vocab], "{} on {}", head.name(), runtime.kernels.isa());
            }
        }
    }
}

#[test]
fn a_head_that_cannot_be_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    synthesize(Preset::Tiny, &path, &SynthOptions::default(), &mut |_, _| {}).unwrap();
    let load = LoadOptions { head: Some(DenseType::Q5_0), ..LoadOptions::default() };
    let error = Model::load(&open(&path, load), &Runtime::new(1).unwrap(), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("q5_0") && error.contains("only read"), "{error}");
}
