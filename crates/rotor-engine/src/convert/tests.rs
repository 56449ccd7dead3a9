//! Random small models through every pair of forms, and what is refused on the way.

mod models;

use super::*;
use crate::compare::{Difference, compare};
use crate::config::Architecture;
use crate::formats::metadata::Value;
use crate::formats::{Part, Role, SourceKind, Weight};
use crate::forms::{ScaleCapability, Scales};
use crate::kv::KvCache;
use crate::model::{Logits, Model as Engine, Step, Workspace};
use crate::runtime::Runtime;
use models::{Model, ScaleKind, interleaved, listed, open};
use proptest::prelude::*;
use rotor_kernels::attention::KvType;
use std::path::PathBuf;
use std::sync::LazyLock;
use tempfile::TempDir;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new(1).unwrap());

fn target(name: &str) -> Target {
    name.parse().unwrap()
}

fn options(name: &str) -> ConvertOptions {
    ConvertOptions { target: target(name), head: None, verify: true }
}

fn run(source: &Source, output: &Path, options: &ConvertOptions) -> Result<Report, FormatError> {
    convert(source, output, options, &mut |_, _, _| {})
}

/// A name for an output of the target's kind.
fn output(folder: &TempDir, stem: &str, target: Target) -> PathBuf {
    let ending = match target.container() {
        Container::Gguf => ".gguf",
        Container::Folder => "",
        Container::Rotor => ".safetensors",
    };
    folder.path().join(format!("{stem}-{}{ending}", target.name()))
}

fn logits(source: &Source) -> Vec<u32> {
    let model = Engine::load(source, &RUNTIME, &mut |_| {}).unwrap();
    let mut cache = KvCache::new(model.config(), 4, KvType::F32).unwrap();
    let mut workspace = Workspace::new(&RUNTIME);
    let step = Step { cache: &mut cache, tokens: &[3, 1, 4, 1], logits: Logits::From(0) };
    let logits = model.forward(&mut [step], &mut workspace).unwrap();
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// Whether a target can hold a model, by what its form says of itself.
fn holds(target: Target, model: &Model) -> bool {
    let info = target.form().info();
    let shapes = [model.hidden, model.intermediate];
    let fits = shapes.iter().all(|cols| cols.is_multiple_of(info.cols_multiple));
    let scales = match (info.scales, model.scales) {
        (_, ScaleKind::Tensor) | (ScaleCapability::Any, _) | (ScaleCapability::Rows { .. }, ScaleKind::Rows) => true,
        (ScaleCapability::Blocks { .. }, ScaleKind::Rows) => true,
        (ScaleCapability::Blocks { weights }, ScaleKind::Groups(width)) => width.is_multiple_of(weights),
        (ScaleCapability::Tensor | ScaleCapability::Rows { .. }, _) => false,
    };
    fits && scales && (target.name() != "q1_0" || !model.zeros)
}

/// A form of the GGUF a model begins as.
fn first_form(model: &Model) -> Target {
    let forms = ["i2_s", "q2_0"].map(target);
    forms.into_iter().find(|&form| holds(form, model)).unwrap()
}

/// Converts the model to `first`, and from there to every target; each holds the same model or is refused with a reason.
fn through(model: &Model, first: Target) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("source.gguf");
    model.write(first_form(model).form(), &path);
    let source = open(&path);
    let between = output(&folder, "between", first);
    if !holds(first, model) {
        let error = run(&source, &between, &options(first.name())).unwrap_err().to_string();
        assert!(error.contains("tensor \"blk.0.") && error.contains(first.name()), "{model:?}: {error}");
        assert_eq!(listed(folder.path()), ["source.gguf"]);
        return;
    }
    run(&source, &between, &options(first.name())).unwrap_or_else(|error| panic!("{model:?} to {first:?}: {error}"));
    let (between, expected) = (open(&between), logits(&source));
    for second in Target::ALL {
        let path = output(&folder, "end", second);
        let result = run(&between, &path, &options(second.name()));
        assert_eq!(result.is_ok(), holds(second, model), "{model:?} by {first:?} to {second:?}: {result:?}");
        if result.is_ok() {
            let end = open(&path);
            let comparison = compare(&source, &end, &mut |_, _| {}).unwrap();
            assert!(comparison.is_same(), "{model:?} by {first:?} to {second:?}: {comparison:?}");
            assert_eq!(logits(&end), expected, "{model:?} by {first:?} to {second:?}");
        }
    }
}

#[test]
fn every_pair_of_forms_holds_a_model_without_zeros() {
    for (seed, first) in (0..).zip(Target::ALL) {
        through(&Model { zeros: false, ..Model::new(seed) }, first);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(10) })]

    #[test]
    fn random_models_go_through_every_pair_or_are_refused(
        seed: u64,
        first in 0..Target::ALL.len(),
        llama: bool,
        tied: bool,
        zeros in prop::bool::weighted(0.8),
        widths in prop::sample::select(vec![(128usize, 128usize), (256, 512), (128, 192), (256, 256), (192, 64)]),
        rows in prop::bool::weighted(0.3),
    ) {
        let (hidden, intermediate) = widths;
        let scales = if rows { ScaleKind::Rows } else { ScaleKind::Tensor };
        let architecture = if llama { Architecture::Llama } else { Architecture::BitNet };
        let layers = 1 + usize::from(seed % 2 == 0);
        let model = Model { architecture, hidden, intermediate, layers, zeros, scales, tied, ..Model::new(seed) };
        through(&model, Target::ALL[first]);
    }

    #[test]
    fn scales_of_groups_go_where_they_fit(seed: u64, first in 0..Target::ALL.len(), width in prop::sample::select(vec![64usize, 128, 256])) {
        let model = Model { scales: ScaleKind::Groups(width), intermediate: 512, ..Model::new(seed) };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("source.gguf");
        model.write(target("q2_0").form(), &path);
        let (source, first) = (open(&path), Target::ALL[first]);
        let between = output(&folder, "between", first);
        let result = run(&source, &between, &options(first.name()));
        prop_assert_eq!(result.is_ok(), holds(first, &model), "{:?} {:?}", first, result);
        if result.is_ok() {
            let back = folder.path().join("back.gguf");
            run(&open(&between), &back, &options("q2_0")).unwrap();
            let comparison = compare(&source, &open(&back), &mut |_, _| {}).unwrap();
            prop_assert!(comparison.is_same(), "{:?}", comparison);
        }
    }
}

/// A random model's file and its folder.
fn written(model: &Model) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("source.gguf");
    model.write(target("i2_s").form(), &path);
    (folder, path)
}

#[test]
fn a_gguf_comes_back_from_planes_and_codes_byte_for_byte() {
    for architecture in [Architecture::BitNet, Architecture::Llama] {
        let (folder, path) = written(&Model { architecture, tied: false, ..Model::new(5) });
        for form in ["rotor", "bitnet"] {
            let between = folder.path().join(format!("{form}.safetensors"));
            run(&open(&path), &between, &options(form)).unwrap();
            assert_eq!(open(&between).kind(), SourceKind::Rotor);
            let back = folder.path().join("back.gguf");
            let report = run(&open(&between), &back, &options("i2_s")).unwrap();
            assert!(std::fs::read(&back).unwrap() == std::fs::read(&path).unwrap(), "{architecture:?} {form}");
            assert_eq!(report.files[0].bytes, std::fs::metadata(&path).unwrap().len());
        }
    }
}

#[test]
fn a_folder_keeps_what_only_a_gguf_has_keys_for() {
    let (folder, path) = written(&Model::new(6));
    let hf = folder.path().join("hf");
    run(&open(&path), &hf, &options("hf")).unwrap();
    let back = folder.path().join("back.gguf");
    run(&open(&hf), &back, &options("i2_s")).unwrap();
    let (first, second) = (open(&path), open(&back));
    let (SourceMetadata::Gguf(first), SourceMetadata::Gguf(second)) = (first.metadata(), second.metadata()) else {
        panic!("a GGUF has key-values");
    };
    for (key, value) in first.iter() {
        assert_eq!(second.get(key), Some(value), "{key}");
    }
}

#[test]
fn rows_are_interleaved_in_a_llama_gguf_and_nowhere_else() {
    let model = Model { architecture: Architecture::Llama, scales: ScaleKind::Rows, ..Model::new(7) };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("source.gguf");
    model.write(target("tq2_0").form(), &path);
    let (source, role) = (open(&path), Role::Layer(0, Part::AttnQ));
    let Weight::Ternary(tensor) = source.linear(role).unwrap().weight else { panic!("ternary") };
    assert_eq!(tensor.row_order, interleaved(&model));
    let planes = folder.path().join("planes.safetensors");
    run(&source, &planes, &options("rotor")).unwrap();
    let found = open(&planes);
    let Weight::Ternary(kept) = found.linear(role).unwrap().weight else { panic!("ternary") };
    assert_eq!((kept.row_order, &kept.scales), (tensor.row_order, &tensor.scales));
}

#[test]
fn scales_that_f16_rounds_are_kept_exactly_in_a_key_and_reported() {
    let (folder, path) = written(&Model::new(8));
    let tq = folder.path().join("tq.gguf");
    let report = run(&open(&path), &tq, &options("tq2_0")).unwrap();
    assert!(report.scale_rounding() > 0.0 && report.scale_rounding() < 1e-3, "{report:?}");
    let (source, found) = (open(&path), open(&tq));
    let SourceMetadata::Gguf(metadata) = found.metadata() else { panic!("a GGUF") };
    let scale = |source: &Source| match source.linear(Role::Layer(0, Part::AttnQ)).unwrap().weight {
        Weight::Ternary(tensor) => tensor.scales,
        Weight::Dense(_) => panic!("ternary"),
    };
    let Scales::Tensor(exact) = scale(&source) else { panic!("one scale") };
    assert_eq!(metadata.get("rotor.scale.blk.0.attn_q.weight"), Some(&Value::F32(exact)));
    assert_eq!(scale(&found), scale(&source));
}

#[test]
fn what_cannot_be_held_is_refused_with_its_tensor_and_nothing_is_left() {
    let cases = [
        (Model { hidden: 128, intermediate: 128, ..Model::new(1) }, "tq1_0", "whole blocks of 256"),
        (Model::new(2), "q1_0", "it has no zero, and row 0"),
        (Model { scales: ScaleKind::Rows, ..Model::new(3) }, "hf", "one scale for the whole tensor"),
        (Model { scales: ScaleKind::Groups(64), ..Model::new(4) }, "i2_s", "one scale for the whole tensor"),
        (Model { scales: ScaleKind::Groups(64), ..Model::new(4) }, "tq2_0", "for every 256 weights"),
    ];
    for (model, form, why) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("source.gguf");
        model.write(first_form(&model).form(), &path);
        let out = output(&folder, "out", target(form));
        let error = run(&open(&path), &out, &options(form)).unwrap_err().to_string();
        assert!(error.contains("tensor \"blk.0.") && error.contains(why), "{error}");
        assert_eq!(listed(folder.path()), ["source.gguf"], "{form}");
    }
}

#[test]
fn norms_inside_linears_are_kept_where_they_can_be_and_refused_elsewhere() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hf-tiny/llama-packed-rmsnorm");
    let (source, folder) = (open(&fixture), tempfile::tempdir().unwrap());
    let error = run(&source, &folder.path().join("x.gguf"), &options("i2_s")).unwrap_err().to_string();
    assert!(error.contains("q_proj.rms_norm.weight\" in a GGUF"), "{error}");
    for form in ["rotor", "bitnet", "hf"] {
        let out = output(&folder, "out", target(form));
        run(&source, &out, &options(form)).unwrap();
        assert_eq!(logits(&open(&out)), logits(&source), "{form}");
    }
}

#[test]
fn an_output_is_never_part_of_the_source_and_an_old_one_stays_when_a_conversion_fails() {
    let (folder, path) = written(&Model::new(9));
    let before = std::fs::read(&path).unwrap();
    let error = run(&open(&path), &path, &options("tq2_0")).unwrap_err().to_string();
    assert!(error.contains("another file than the input"), "{error}");
    let old = folder.path().join("old.gguf");
    std::fs::write(&old, "old").unwrap();
    assert!(run(&open(&path), &old, &options("q1_0")).is_err());
    assert!(std::fs::read(&path).unwrap() == before && std::fs::read(&old).unwrap() == b"old");
    let hf = folder.path().join("hf");
    run(&open(&path), &hf, &options("hf")).unwrap();
    let error = run(&open(&hf), &hf.join("model.safetensors"), &options("rotor")).unwrap_err().to_string();
    assert!(error.contains("another file than the input"), "{error}");
    assert_eq!(listed(folder.path()), ["hf", "old.gguf", "source.gguf"]);
}

#[test]
fn the_head_is_re_encoded_when_asked_and_exact_otherwise() {
    let (folder, path) = written(&Model { tied: false, ..Model::new(10) });
    let source = open(&path);
    let quantised = folder.path().join("q8.safetensors");
    let asked = ConvertOptions { head: Some(DenseType::Q8_0), ..options("rotor") };
    let report = run(&source, &quantised, &asked).unwrap();
    assert_eq!(report.recoded.iter().map(|one| (one.from, one.to)).collect::<Vec<_>>(), [("f16", "q8_0"); 2]);
    // Quantised numbers are bytes in a Rotor file, and numbers again in a GGUF.
    let back = folder.path().join("q8.gguf");
    run(&open(&quantised), &back, &options("i2_s")).unwrap();
    let found = open(&back);
    let Some(Weight::Dense(head)) = found.matrix(Role::Output).unwrap() else { panic!("a dense head") };
    assert_eq!((head.dtype, head.rows, head.cols), (DenseType::Q8_0, 40, 256));
    let comparison = compare(&source, &found, &mut |_, _| {}).unwrap();
    let differ = |difference: &Difference| matches!(difference, Difference::Values { largest, .. } if *largest < 0.01);
    assert!(comparison.tensors.len() == 2 && comparison.tensors.iter().all(|one| differ(&one.difference)));
    let error = run(&found, &folder.path().join("hf"), &options("hf")).unwrap_err().to_string();
    assert!(error.contains("token_embd.weight\" as q8_0") && error.contains("ask for one of them"), "{error}");
}

#[test]
fn a_bf16_embedding_becomes_f16_only_where_that_loses_nothing() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hf-tiny/bitnet-packed");
    for (number, expected) in [(1.5f32, DenseType::F16), (1e-30, DenseType::Bf16)] {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        with_bf16_embedding(&fixture, &source, number);
        let out = folder.path().join("out.gguf");
        run(&open(&source), &out, &options("i2_s")).unwrap();
        let found = open(&out);
        let Some(Weight::Dense(embedding)) = found.matrix(Role::TokenEmbedding).unwrap() else { panic!("dense") };
        assert_eq!(embedding.dtype, expected, "{number}");
    }
}

/// A copy of a folder whose embedding is full of one number.
fn with_bf16_embedding(fixture: &Path, folder: &Path, number: f32) {
    use ::safetensors::{SafeTensors, tensor::TensorView};
    std::fs::create_dir(folder).unwrap();
    std::fs::copy(fixture.join("config.json"), folder.join("config.json")).unwrap();
    let bytes = std::fs::read(fixture.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let embedding = tensors.tensor("model.embed_tokens.weight").unwrap();
    let numbers: Vec<u8> =
        std::iter::repeat_n(half::bf16::from_f32(number).to_le_bytes(), embedding.shape().iter().product())
            .flatten()
            .collect();
    let recoded = TensorView::new(Dtype::BF16, embedding.shape().to_vec(), &numbers).unwrap();
    let all = tensors.iter().map(|(name, tensor)| {
        let tensor = TensorView::new(tensor.dtype(), tensor.shape().to_vec(), tensor.data()).unwrap();
        (name.to_owned(), if name == "model.embed_tokens.weight" { recoded.clone() } else { tensor })
    });
    std::fs::write(folder.join("model.safetensors"), ::safetensors::serialize(all, None).unwrap()).unwrap();
}

#[test]
fn a_model_without_ternary_weights_is_not_converted() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hf-tiny/bitnet-packed");
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let numbers = fixture.with_file_name("bitnet-online");
    std::fs::copy(numbers.join("model.safetensors"), source.join("model.safetensors")).unwrap();
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(numbers.join("config.json")).unwrap()).unwrap();
    config["quantization_config"]["modules_to_not_convert"] = ["lm_head", "self_attn", "mlp"].as_slice().into();
    std::fs::write(source.join("config.json"), config.to_string()).unwrap();
    let error = run(&open(&source), &folder.path().join("x.gguf"), &options("i2_s")).unwrap_err().to_string();
    assert!(error.starts_with("a model without ternary weights"), "{error}");
}
