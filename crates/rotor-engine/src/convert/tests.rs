//! Random small models through every pair of forms, and what is refused on the way.

mod models;

use super::*;
use crate::architectures::{ARCHITECTURES, Architecture};
use crate::cache::SequenceCache;
use crate::compare::{Difference, compare};
use crate::formats::metadata::Value;
use crate::formats::{Part, Role, SourceKind, Weight};
use crate::forms::{ScaleCapability, Scales};
use crate::model::{Model as Engine, Step, Wanted, Workspace};
use crate::rope::RopeScaling;
use crate::runtime::Runtime;
use models::{Model, ScaleKind, interleaved, listed, open};
use proptest::prelude::*;
use rotor_kernels::DenseType;
use rotor_kernels::attention::KvType;
use std::path::PathBuf;
use std::sync::LazyLock;
use tempfile::TempDir;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new(1).unwrap());

fn target(name: &str) -> Target {
    name.parse().unwrap()
}

fn options(name: &str) -> ConvertOptions {
    ConvertOptions { target: target(name), head: None, verify: true, lossy_tokenizer: false }
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
    let mut cache = SequenceCache::new(model.config(), 4, KvType::F32);
    let mut workspace = Workspace::new(&RUNTIME);
    let step = Step { cache: &mut cache, tokens: &[3, 1, 4, 1], wanted: Wanted::From(0) };
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
        architecture in prop::sample::select(ARCHITECTURES.iter().map(|info| info.architecture).collect::<Vec<_>>()),
        tied: bool,
        zeros in prop::bool::weighted(0.8),
        widths in prop::sample::select(vec![(128usize, 128usize), (256, 512), (128, 192), (256, 256), (192, 64)]),
        rows in prop::bool::weighted(0.3),
    ) {
        let (hidden, intermediate) = widths;
        let scales = if rows { ScaleKind::Rows } else { ScaleKind::Tensor };
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
        let (folder, written) = written(&Model { architecture, tied: false, ..Model::new(5) });
        // The first conversion notes how finely activations are kept.
        let path = folder.path().join("first.gguf");
        run(&open(&written), &path, &options("i2_s")).unwrap();
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
    let (source, folder) = (open(&fixture("llama-packed-rmsnorm")), tempfile::tempdir().unwrap());
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
    for (number, expected) in [(1.5f32, DenseType::F16), (1e-30, DenseType::Bf16)] {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        with_bf16_embedding(&fixture("bitnet-packed"), &source, number);
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
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    with_config("bitnet-online", &source, |config| {
        config["quantization_config"]["modules_to_not_convert"] = ["lm_head", "self_attn", "mlp"].as_slice().into();
    });
    let error = run(&open(&source), &folder.path().join("x.gguf"), &options("i2_s")).unwrap_err().to_string();
    assert!(error.starts_with("a model without ternary weights"), "{error}");
}

/// A folder of tests/data.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hf-tiny").join(name)
}

#[test]
fn checkpoints_of_transformers_give_the_same_logits_in_every_form() {
    for name in ["bitnet-online", "bitnet-packed", "llama-packed", "qwen3-packed"] {
        let (source, folder) = (open(&fixture(name)), tempfile::tempdir().unwrap());
        let expected = logits(&source);
        for form in ["i2_s", "i2_s_64", "bitnet", "rotor", "hf"] {
            let first = output(&folder, "first", target(form));
            run(&source, &first, &options(form)).unwrap_or_else(|error| panic!("{name} {form}: {error}"));
            assert!(logits(&open(&first)) == expected, "{name} {form}");
            let (other, back) = (open(&first), folder.path().join(format!("back-{form}")));
            run(&other, &back, &options("hf")).unwrap_or_else(|error| panic!("{name} {form} to hf: {error}"));
            assert!(logits(&open(&back)) == expected, "{name} {form} to hf");
        }
    }
}

/// A copy of a fixture with another `config.json`.
fn with_config(name: &str, folder: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    std::fs::create_dir(folder).unwrap();
    std::fs::copy(fixture(name).join("model.safetensors"), folder.join("model.safetensors")).unwrap();
    let mut config = serde_json::from_slice(&std::fs::read(fixture(name).join("config.json")).unwrap()).unwrap();
    edit(&mut config);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

#[test]
fn stretched_positions_are_a_key_where_one_number_says_it_and_a_tensor_otherwise() {
    use serde_json::json;
    let folder = tempfile::tempdir().unwrap();
    let linear = folder.path().join("linear");
    with_config("llama-packed", &linear, |config| {
        config["rope_scaling"] = json!({ "rope_type": "linear", "factor": 4.0 })
    });
    let (gguf, back) = (folder.path().join("linear.gguf"), folder.path().join("back"));
    run(&open(&linear), &gguf, &options("i2_s")).unwrap();
    run(&open(&gguf), &back, &options("hf")).unwrap();
    assert_eq!(open(&back).config().rope_scaling, RopeScaling::Linear { factor: 4.0 });

    let llama3 = folder.path().join("llama3");
    with_config("llama-packed", &llama3, |config| {
        config["rope_scaling"] = json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        });
    });
    let gguf = folder.path().join("llama3.gguf");
    run(&open(&llama3), &gguf, &options("i2_s")).unwrap();
    let found = open(&gguf);
    assert!(found.tensors().any(|tensor| tensor.name == "rope_freqs.weight"));
    assert_eq!(logits(&found), logits(&open(&llama3)));
    let planes = folder.path().join("planes.safetensors");
    run(&found, &planes, &options("rotor")).unwrap();
    assert_eq!(logits(&open(&planes)), logits(&found));
    // The formula comes back, where the file that was read had one.
    let back = folder.path().join("hf");
    run(&found, &back, &options("hf")).unwrap();
    assert_eq!(open(&back).config().rope_scaling, open(&llama3).config().rope_scaling);
}

/// Every hyper-parameter that a kind of file has no usual key for comes back from it.
#[test]
fn hyper_parameters_survive_every_kind_of_file() {
    use crate::config::{Config, LayerType};
    type Adjust = fn(&mut Config);
    let cases: [(Architecture, Adjust); 13] = [
        (Architecture::Llama, |c| c.rope_scaling = RopeScaling::Linear { factor: 2.5 }),
        (Architecture::Llama, |c| {
            c.rope_scaling =
                RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original: 32 };
        }),
        (Architecture::Qwen3, |c| c.rope_scaling = yarn_scaling(None, true)),
        (Architecture::Qwen3, |c| c.rope_scaling = yarn_scaling(Some(1.234_567_8), true)),
        (Architecture::Qwen3, |c| c.rope_scaling = yarn_scaling(None, false)),
        (Architecture::Qwen3, |c| c.partial_rotary_factor = 0.5),
        (Architecture::Llama, |c| c.linear_norm_eps = 3e-5),
        (Architecture::BitNet, |c| c.hidden_act = crate::config::Activation::Silu),
        (Architecture::MiniCpm, |c| {
            (c.embedding_scale, c.residual_scale, c.logit_scale) = (12.0, 0.285_774_2, 7.3);
            c.rope_scaling = longrope_scaling(None, None);
        }),
        (Architecture::MiniCpm, |c| c.rope_scaling = longrope_scaling(Some(8.0), Some(1.25))),
        (Architecture::HunYuanDense, |c| c.rope_scaling = RopeScaling::Alpha { alpha: 1000.0 }),
        (Architecture::Gemma3, |c| {
            c.layer_types = vec![LayerType::Sliding, LayerType::Full];
            (c.sliding_window, c.rope_local_base_freq) = (Some(2), Some(123.0));
            c.query_pre_attn_scalar = Some(100.0);
        }),
        (Architecture::Gemma3, |c| {
            c.layer_types = vec![LayerType::Full, LayerType::Sliding];
            (c.sliding_window, c.query_pre_attn_scalar) = (Some(3), Some(33.3));
        }),
    ];
    for (architecture, adjust) in cases {
        let model = Model { architecture, adjust, layers: 2, ..Model::new(21) };
        let (folder, path) = written(&model);
        let source = open(&path);
        let (expected, hyper) = (logits(&source), source.config().to_json());
        let plain = written(&Model { adjust: |_| {}, ..model.clone() });
        // These models have no norms inside their linears.
        let counts = source.config().linear_norm_eps == open(&plain.1).config().linear_norm_eps;
        assert_eq!(expected != logits(&open(&plain.1)), counts, "{hyper:?}");
        let hf = folder.path().join("hf");
        run(&source, &hf, &options("hf")).unwrap_or_else(|error| panic!("{hyper:?}: {error}"));
        let planes = folder.path().join("planes.safetensors");
        run(&open(&hf), &planes, &options("rotor")).unwrap();
        let back = folder.path().join("back.gguf");
        run(&open(&planes), &back, &options("i2_s")).unwrap();
        for path in [&hf, &planes, &back] {
            let found = open(path);
            assert_eq!(found.config().to_json(), hyper, "{path:?}");
            assert!(logits(&found) == expected, "{hyper:?} in {path:?}");
        }
    }
}

fn yarn_scaling(attention_factor: Option<f32>, truncate: bool) -> RopeScaling {
    let (beta_fast, beta_slow) = (31.0, 1.5);
    RopeScaling::Yarn { factor: 3.7, original: 16, beta_fast, beta_slow, attention_factor, truncate }
}

fn longrope_scaling(factor: Option<f32>, attention_factor: Option<f32>) -> RopeScaling {
    let (short_factor, long_factor) = (vec![1.1; 32], vec![3.3; 32]);
    RopeScaling::LongRope { short_factor, long_factor, original: 16, factor, attention_factor }
}

/// BitNet embedding models have a norm in front of every linear, which a GGUF of their architectures can hold.
#[test]
fn embedding_models_go_through_every_kind_of_file() {
    for name in ["embed-qwen3", "embed-gemma3"] {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/graphs").join(name);
        let (source, folder) = (open(&fixture), tempfile::tempdir().unwrap());
        let expected = logits(&source);
        for form in ["i2_s", "rotor", "hf"] {
            let first = output(&folder, "first", target(form));
            run(&source, &first, &options(form)).unwrap_or_else(|error| panic!("{name} {form}: {error}"));
            assert!(logits(&open(&first)) == expected, "{name} {form}");
            let back = folder.path().join(format!("back-{form}"));
            run(&open(&first), &back, &options("hf")).unwrap_or_else(|error| panic!("{name} {form} to hf: {error}"));
            assert!(logits(&open(&back)) == expected, "{name} {form} to hf");
        }
    }
}

#[test]
fn what_multiplies_an_output_keeps_its_tensor_and_joins_the_scale_in_a_folder() {
    let model = Model { output_scale: Some(0.75), ..Model::new(11) };
    let (folder, first) = written(&model);
    // The first conversion notes how finely activations are kept.
    let path = folder.path().join("first.gguf");
    run(&open(&first), &path, &options("i2_s")).unwrap();
    let source = open(&path);
    let expected = logits(&source);
    let without = written(&Model { output_scale: None, ..model });
    assert_ne!(logits(&open(&without.1)), expected);
    let planes = folder.path().join("planes.safetensors");
    run(&source, &planes, &options("rotor")).unwrap();
    let (found, back) = (open(&planes), folder.path().join("back.gguf"));
    assert!(found.tensors().any(|tensor| tensor.name == "blk.0.attn_q.output_scale"));
    run(&found, &back, &options("i2_s")).unwrap();
    assert!(std::fs::read(&back).unwrap() == std::fs::read(&path).unwrap());
    for from in [&path, &planes] {
        let hf = folder.path().join(format!("hf-of-{}", from.file_name().unwrap().display()));
        let report = run(&open(from), &hf, &options("hf")).unwrap();
        assert_eq!(report.notes[0], "what multiplies the outputs of 7 linears joins the scales of their weights");
        assert_eq!(logits(&open(&hf)), expected);
    }
}

#[test]
fn a_ternary_embedding_stays_ternary_or_is_refused() {
    let (folder, path) = written(&Model { ternary_embedding: true, ..Model::new(13) });
    let source = open(&path);
    for form in ["tq2_0", "rotor", "bitnet"] {
        let out = output(&folder, "out", target(form));
        run(&source, &out, &options(form)).unwrap();
        assert_eq!(logits(&open(&out)), logits(&source), "{form}");
    }
    let error = run(&source, &folder.path().join("hf"), &options("hf")).unwrap_err().to_string();
    assert!(error.contains("token_embd.weight\" as hf") && error.contains("only linears"), "{error}");
    let asked = ConvertOptions { head: Some(DenseType::Q8_0), ..options("i2_s") };
    let error = run(&source, &folder.path().join("x.gguf"), &asked).unwrap_err().to_string();
    assert!(error.contains("token_embd.weight\" as q8_0"), "{error}");
}

#[test]
fn an_activation_function_that_was_given_goes_along() {
    let (folder, path) = written(&Model::new(12));
    let given = OpenOptions { hidden_act: Some(crate::config::Activation::Silu), ..OpenOptions::default() };
    for form in ["i2_s", "rotor", "hf"] {
        let first = output(&folder, "first", target(form));
        run(&Source::open(&path, &given).unwrap(), &first, &options(form)).unwrap();
        assert_eq!(open(&first).config().hidden_act.name(), "silu", "{form}");
    }
    let (hf, planes) = (folder.path().join("first-hf"), folder.path().join("of-hf.safetensors"));
    let given = OpenOptions { hidden_act: Some(crate::config::Activation::ReluSquared), ..OpenOptions::default() };
    run(&Source::open(&hf, &given).unwrap(), &planes, &options("rotor")).unwrap();
    assert_eq!(open(&planes).config().hidden_act.name(), "relu2");
}

/// Keys that are made anew must not come twice, whoever wrote the file.
#[test]
fn keys_that_a_folder_smuggles_in_are_left_out() {
    use ::safetensors::SafeTensors;
    let (folder, source) = (tempfile::tempdir().unwrap(), fixture("bitnet-packed"));
    let hostile = folder.path().join("hostile");
    with_config("bitnet-packed", &hostile, |_| {});
    let bytes = std::fs::read(source.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let general = r#"{"general.architecture": {"string": "x"}, "general.file_type": {"u32": 1}, "general.name": {"string": "n"}, "bitnet-b1.58.block_count": {"u32": 9}}"#;
    let texts = [("rotor.general", general), ("rotor.order", "x")].map(|(key, text)| (key.to_owned(), text.to_owned()));
    let spoilt = ::safetensors::serialize(tensors.iter(), Some(texts.into_iter().collect())).unwrap();
    std::fs::write(hostile.join("model.safetensors"), spoilt).unwrap();
    let out = folder.path().join("out.gguf");
    run(&open(&hostile), &out, &options("i2_s")).unwrap();
    assert_eq!(open(&out).config().name.as_deref(), Some("n"));
    run(&open(&hostile), &folder.path().join("out.safetensors"), &options("rotor")).unwrap();
}

/// A seed of the fuzzers with some bytes changed.
fn spoilt(seed: &str, changes: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut bytes = std::fs::read(corpus.join(seed)).unwrap();
    for (at, value) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *value;
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    /// Most changes fall into the JSON of the header, where digits, quotes and letters matter.
    #[test]
    fn no_change_to_a_rotor_file_makes_the_reader_panic(
        codes: bool,
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), b'0'..=b'9', Just(b'"')]), 1..4),
    ) {
        let seed = if codes { "safetensors/tiny-codes" } else { "safetensors/tiny-rotor" };
        if let Ok(source) = Source::from_bytes(spoilt(seed, &changes), &OpenOptions::default()) {
            let _ = crate::statistics::ternary(&source);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn no_change_to_a_file_makes_the_converter_panic(
        seed in prop::sample::select(vec!["gguf/tiny-bitnet", "safetensors/tiny-codes", "safetensors/tiny-rotor"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        form in prop::sample::select(vec!["i2_s", "rotor", "bitnet", "hf"]),
    ) {
        let folder = tempfile::tempdir().unwrap();
        if let Ok(source) = Source::from_bytes(spoilt(seed, &changes), &OpenOptions::default()) {
            let out = output(&folder, "out", target(form));
            let result = run(&source, &out, &options(form));
            prop_assert_eq!(result.is_ok(), out.exists());
            prop_assert!(result.is_ok() || listed(folder.path()).is_empty());
        }
    }
}
