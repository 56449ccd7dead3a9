use super::*;
use crate::engine::Engine;
use crate::formats::{OpenOptions, Part, Role, RowOrder, Source, Weight};
use crate::forms::{Scales, TernaryTensor};
use crate::runtime::Runtime;
use rotor_kernels::attention::KvType;

/// One preset of each family, cut down to a size for tests; a head size that no power of two divides stays one.
fn small_models(seed: u64) -> Vec<Model> {
    small([Preset::Tiny, Preset::Bitnet3B, Preset::Llama3_8B, Preset::Falcon3_1B, Preset::FalconE1B], seed)
}

/// As [`small_models`], those that are written as GGUF files alone.
fn small_weight_only_models(seed: u64) -> Vec<Model> {
    let [bonsai, tied] = [Preset::Bonsai8B, Preset::Bonsai1_7B];
    small([bonsai, tied, Preset::BitCpm0_5B, Preset::HyMt1_8B, Preset::Embedding0_6B, Preset::Embedding270M], seed)
}

fn small<const N: usize>(presets: [Preset; N], seed: u64) -> Vec<Model> {
    presets
        .into_iter()
        .map(|preset| {
            let full = preset.config();
            // 32 heads of 100 make up whole blocks of 128; of the others 64 is enough for two key-value heads.
            let (heads, kv_heads, head_dim) = match full.head_dim {
                100 => (32, 32, 100),
                _ => (2 * full.num_attention_heads / full.num_key_value_heads, 2, 64),
            };
            let config = Config {
                vocab_size: 1024,
                hidden_size: heads * head_dim,
                intermediate_size: 512,
                num_hidden_layers: if head_dim == 100 { 1 } else { 2 },
                num_attention_heads: heads,
                num_key_value_heads: kv_heads,
                head_dim,
                // Follows from the width.
                embedding_scale: if full.architecture == crate::architectures::Architecture::Gemma3 {
                    ((heads * head_dim) as f32).sqrt()
                } else {
                    full.embedding_scale
                },
                ..full
            };
            let vocabulary = vocabulary::made_up(preset, config.vocab_size);
            Model::with_config(preset, config, vocabulary, seed)
        })
        .collect()
}

fn written(model: &Model, options: &SynthOptions) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    model.write(&path, options, &mut |_, _| {}).unwrap();
    (folder, path)
}

fn tiny(options: &SynthOptions) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    synthesize(Preset::Tiny, &path, options, &mut |_, _| {}).unwrap();
    std::fs::read(path).unwrap()
}

/// Compares a tensor's rows, in the order of the graph, with the numbers they were made from.
fn check_rows(model: &Model, role: Role, tensor: &TernaryTensor<'_>) {
    let (mut row, mut expected) = (vec![0; tensor.cols], vec![0; tensor.cols]);
    for index in 0..tensor.rows {
        tensor.read_row(index, &mut row).unwrap();
        model.values.trits(role, &names::gguf(role), index, &mut expected);
        assert_eq!(row, expected, "row {index} of {role:?} of {}", model.preset);
    }
}

/// The official 2B-4T GGUF's tensors, sizes and keys.
#[test]
fn the_2b_model_has_the_tensors_of_the_published_file() {
    let preset = Preset::Bitnet2B4T;
    let model = Model::with_config(preset, preset.config(), vocabulary::made_up(preset, 128_256), 0);
    let planned = model.gguf_plan(TernaryForm::I2S(I2sLayout::Blocks128), DenseType::F16).unwrap();
    assert_eq!(planned.len(), 332);
    assert_eq!(planned.iter().map(Planned::bytes).sum::<u64>(), 1_179_449_920);
    let bytes = |name: &str| planned.iter().find(|tensor| tensor.name == name).unwrap().bytes();
    for (name, expected) in [
        ("token_embd.weight", 656_670_720),
        ("output_norm.weight", 10_240),
        ("blk.0.attn_q.weight", 1_638_432),
        ("blk.29.attn_output.weight", 1_638_432),
        ("blk.7.attn_k.weight", 409_632),
        ("blk.7.attn_v.weight", 409_632),
        ("blk.7.ffn_gate.weight", 4_423_712),
        ("blk.7.ffn_up.weight", 4_423_712),
        ("blk.7.ffn_down.weight", 4_423_712),
        ("blk.7.attn_norm.weight", 10_240),
        ("blk.7.attn_sub_norm.weight", 10_240),
        ("blk.7.ffn_norm.weight", 10_240),
        ("blk.7.ffn_sub_norm.weight", 27_648),
    ] {
        assert_eq!(bytes(name), expected, "{name}");
    }
}

#[test]
fn the_reader_finds_what_was_meant_in_every_family() {
    for model in small_models(5) {
        for layout in [I2sLayout::Blocks128, I2sLayout::Blocks64] {
            let (_folder, path) = written(&model, &SynthOptions { form: SynthType::I2S(layout), ..Default::default() });
            let options = OpenOptions { i2s_layout: Some(layout), ..OpenOptions::default() };
            let source = Source::open(&path, &options).unwrap();
            // How finely activations are kept follows from the file.
            let expected = Config { activations: source.config().activations, ..model.config.clone() };
            assert_eq!(source.config(), &expected);
            assert_eq!(source.warnings(), [""; 0]);
            for role in
                plan::roles(&model.config, model.preset.tied()).into_iter().filter(|&role| plan::is_linear(role))
            {
                let linear = source.linear(role).unwrap();
                let Weight::Ternary(tensor) = linear.weight else { panic!("{role:?} is not ternary") };
                assert_eq!(tensor.scales, Scales::Tensor(model.values.scale(role, tensor.cols).value));
                check_rows(&model, role, &tensor);
            }
        }
    }
}

#[test]
fn the_reader_finds_what_was_meant_in_the_forms_of_other_families() {
    for model in small_weight_only_models(5) {
        let (_folder, path) = written(&model, &SynthOptions::default());
        let source = Source::open(&path, &OpenOptions::default()).unwrap();
        let expected = Config { activations: source.config().activations, ..model.config.clone() };
        assert_eq!(source.config(), &expected, "{}", model.preset);
        assert_eq!(source.warnings(), [""; 0], "{}", model.preset);
        for role in plan::roles(&model.config, model.preset.tied()).into_iter().filter(|&role| plan::is_linear(role)) {
            let linear = source.linear(role).unwrap();
            let Weight::Ternary(tensor) = linear.weight else { panic!("{role:?} is not ternary") };
            check_rows(&model, role, &tensor);
            assert_eq!(linear.input_norm.is_some(), model.preset.norms_in_linears());
            assert_eq!(tensor.scales.groups(), model.preset.group_cols().map_or(1, |cols| tensor.cols / cols));
        }
        let head = source.matrix(Role::TokenEmbedding).unwrap().unwrap();
        assert_eq!(matches!(head, Weight::Ternary(_)), model.preset.ternary_embedding());
        let options = SynthOptions { form: SynthType::HuggingFace, ..SynthOptions::default() };
        let error = model.write(&path.with_extension("hf"), &options, &mut |_, _| {}).unwrap_err().to_string();
        assert!(error.contains("in a Hugging Face folder is not supported"), "{error}");
    }
}

#[test]
fn a_folder_holds_the_same_model() {
    for model in small_models(6) {
        let options = SynthOptions { form: SynthType::HuggingFace, ..SynthOptions::default() };
        let (_folder, path) = written(&model, &options);
        let bytes = std::fs::read(path.join("model.safetensors")).unwrap();
        let file = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for layer in 0..model.config.num_hidden_layers {
            for part in Part::LINEARS {
                let role = Role::Layer(layer, part);
                let (rows, cols) = role.shape(&model.config);
                let name = names::hugging_face(model.config.architecture.info(), role);
                let weight = file.tensor(&name).unwrap();
                assert_eq!(weight.shape(), [rows.div_ceil(4), cols]);
                let scale = file.tensor(&format!("{name}_scale")).unwrap();
                let stored = half::bf16::from_le_bytes(scale.data().try_into().unwrap()).to_f32();
                let divides = !model.preset.scales_multiply();
                let value = if divides { 1.0 / stored } else { stored };
                assert_eq!(value, model.values.scale(role, cols).value);
                let tensor = TernaryTensor {
                    name: &name,
                    rows,
                    cols,
                    form: TernaryForm::HfPacked,
                    bytes: weight.data(),
                    bit1: &[],
                    scales: Scales::Tensor(value),
                    row_order: RowOrder::AsStored,
                };
                check_rows(&model, role, &tensor);
            }
        }
        let names: Vec<_> = ["config.json", "tokenizer.json", "tokenizer_config.json"]
            .into_iter()
            .filter(|name| {
                serde_json::from_slice::<serde_json::Value>(&std::fs::read(path.join(name)).unwrap()).is_ok()
            })
            .collect();
        assert_eq!(names.len(), 3);
    }
}

#[test]
fn logits_are_of_a_sane_size_in_every_family() {
    let runtime = Runtime::new(1).unwrap();
    for model in small_models(7).into_iter().chain(small_weight_only_models(7)) {
        let (_folder, path) = written(&model, &SynthOptions::default());
        let engine = Engine::load(&path, &OpenOptions::default(), &runtime, &mut |_| {}).unwrap();
        let mut session = engine.session(16, KvType::F32);
        let mut logits = Vec::new();
        let ids = [300, 1, 400, 17, 500, 600, 2, 9];
        engine.logits(&mut session, &ids, 0, &mut |_, rows| logits.extend_from_slice(rows)).unwrap();
        assert_eq!(logits.len(), ids.len() * model.config.vocab_size);
        let square = logits.iter().map(|logit| f64::from(*logit).powi(2)).sum::<f64>() / logits.len() as f64;
        assert!((1.0..36.0).contains(&square), "{}: mean square {square}", model.preset);
    }
}

#[test]
fn a_seed_decides_every_byte() {
    let first = tiny(&SynthOptions { seed: 1, ..SynthOptions::default() });
    assert_eq!(first, tiny(&SynthOptions { seed: 1, ..SynthOptions::default() }));
    assert_ne!(first, tiny(&SynthOptions { seed: 2, ..SynthOptions::default() }));
    assert!(first.len() < 2 << 20, "{}", first.len());
}

#[test]
fn the_head_can_be_stored_in_fewer_bits() {
    let bytes = |head| {
        let source =
            Source::from_bytes(tiny(&SynthOptions { head, ..SynthOptions::default() }), &OpenOptions::default());
        let Some(Weight::Dense(tensor)) = source.as_ref().unwrap().matrix(Role::TokenEmbedding).unwrap() else {
            panic!("the embedding is dense")
        };
        assert_eq!(tensor.dtype, head);
        tensor.bytes.len()
    };
    let sizes = [DenseType::F16, DenseType::Q8_0, DenseType::Q6K, DenseType::Q4K].map(bytes);
    // 1024 rows of 256 weights: two bytes each, or blocks of 32 weights to 34 bytes, of 256 to 210 and to 144.
    assert_eq!(sizes, [1024 * 512, 1024 * 8 * 34, 1024 * 210, 1024 * 144]);
}

#[test]
fn a_tokenizer_from_a_file_goes_along() {
    use base64::Engine as _;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let folder = tempfile::tempdir().unwrap();
    let ranks = folder.path().join("ranks");
    let tokens = (0..=255u8).map(|byte| vec![byte]).chain([b"th".to_vec(), b"the".to_vec()]);
    let lines: String = tokens.enumerate().map(|(rank, token)| format!("{} {rank}\n", encode(&token))).collect();
    std::fs::write(&ranks, lines).unwrap();

    let from_ranks = tiny(&SynthOptions { tokenizer: Some(ranks.clone()), ..SynthOptions::default() });
    let engine_of = |bytes| {
        let source = Source::from_bytes(bytes, &OpenOptions::default()).unwrap();
        Engine::from_source(&source, &Runtime::new(1).unwrap(), &mut |_| {}).unwrap()
    };
    let ids = engine_of(from_ranks).encode_prompt("the").unwrap();
    assert_eq!(ids, [258, 257]); // The control tokens follow the 258 ordinary ones.

    // The same tokenizer, by way of the tokenizer.json of a folder.
    let model = folder.path().join("model");
    let options =
        SynthOptions { form: SynthType::HuggingFace, tokenizer: Some(ranks.clone()), ..SynthOptions::default() };
    synthesize(Preset::Tiny, &model, &options, &mut |_, _| {}).unwrap();
    let json = Some(model.join("tokenizer.json"));
    let ids =
        engine_of(tiny(&SynthOptions { tokenizer: json, ..SynthOptions::default() })).encode_prompt("the").unwrap();
    assert_eq!(ids, [258, 257]);

    let out = folder.path().join("m.gguf");
    let options = SynthOptions { tokenizer: Some(ranks.clone()), ..SynthOptions::default() };
    let error = synthesize(Preset::Tiny, &ranks, &options, &mut |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("another file than the input"), "{error}");
    std::fs::write(&ranks, "{}").unwrap();
    let error = synthesize(Preset::Tiny, &out, &options, &mut |_, _| {}).unwrap_err().to_string();
    assert!(error.starts_with(&ranks.display().to_string()), "{error}");
    assert!(!out.exists());
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let hugging_face = SynthType::HuggingFace;
    for (preset, options, message) in [
        (
            Preset::Bitnet3B,
            SynthOptions { head: DenseType::Q6K, ..SynthOptions::default() },
            "tensor \"token_embd.weight\" as q6_k is not supported: q6_k does not divide its rows of 3200 into blocks of 256",
        ),
        (
            Preset::Tiny,
            SynthOptions { head: DenseType::Q8_0, form: hugging_face, ..SynthOptions::default() },
            "a head of type q8_0 in a Hugging Face folder is not supported",
        ),
        (Preset::Tiny, SynthOptions { head: DenseType::Q5K, ..SynthOptions::default() }, "q5_k is not supported"),
    ] {
        let error = synthesize(preset, &out, &options, &mut |_, _| {}).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[test]
fn progress_reaches_its_total() {
    let folder = tempfile::tempdir().unwrap();
    let mut told = Vec::new();
    let mut tell = |done, total| told.push((done, total));
    synthesize(Preset::Tiny, &folder.path().join("m.gguf"), &SynthOptions::default(), &mut tell).unwrap();
    let (done, total) = told[told.len() - 1];
    assert!(done == total && told[0] == (0, total) && told.is_sorted(), "{told:?}");
}
