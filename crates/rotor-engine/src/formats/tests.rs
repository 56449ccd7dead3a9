//! Whole models through [`Source`]: sound ones, and one broken in every way we know of.

use super::testing::{TestGguf, any_trit, f32s, i2s, tiny_bitnet, tiny_llama};
use super::*;
use crate::FormatError;
use crate::architectures::Architecture;
use crate::config::Activation;
use crate::forms::{I2sLayout, Scales};
use rotor_kernels::DenseType;

fn open(file: &TestGguf) -> Result<Source, FormatError> {
    Source::from_bytes(file.build(), &OpenOptions::default())
}

fn error(file: &TestGguf) -> String {
    open(file).unwrap_err().to_string()
}

#[test]
fn a_tiny_bitnet_opens() {
    let source = open(&tiny_bitnet()).unwrap();
    let config = source.config();
    assert_eq!((config.architecture, config.hidden_act), (Architecture::BitNet, Activation::ReluSquared));
    assert_eq!((config.vocab_size, config.hidden_size, config.head_dim), (8, 16, 8));
    assert_eq!((config.num_attention_heads, config.num_key_value_heads), (2, 1));
    assert_eq!((config.rms_norm_eps, config.rope_theta), (1e-5, 1e4));
    assert_eq!(source.kind(), SourceKind::Gguf);
    assert!(source.warnings().is_empty(), "{:?}", source.warnings());
    let linear = source.linear(Role::Layer(0, Part::FfnDown)).unwrap();
    assert_eq!((linear.output_scale, linear.input_norm), (1.0, None));
    let Weight::Ternary(tensor) = linear.weight else { panic!("{:?}", linear.weight) };
    assert_eq!((tensor.rows, tensor.cols, tensor.scales.clone()), (16, 32, Scales::Tensor(0.5)));
    let mut row = [0; 32];
    tensor.read_row(5, &mut row).unwrap();
    assert_eq!(row.to_vec(), (0..32).map(|col| any_trit(5, col)).collect::<Vec<_>>());
    assert_eq!(source.vector(Role::Layer(0, Part::FfnSubNorm)).unwrap(), Some(vec![3.0; 32]));
    assert_eq!(source.vector(Role::OutputNorm).unwrap(), Some(vec![1.5; 16]));
    assert!(
        matches!(source.matrix(Role::TokenEmbedding).unwrap(), Some(Weight::Dense(t)) if t.dtype == DenseType::F16)
    );
    assert!(source.matrix(Role::Output).unwrap().is_none());
}

#[test]
fn a_tiny_llama_opens_with_its_rows_interleaved() {
    let source = open(&tiny_llama()).unwrap();
    assert_eq!((source.config().architecture, source.config().hidden_act), (Architecture::Llama, Activation::Silu));
    for (part, order) in [
        (Part::AttnQ, RowOrder::RopeInterleaved { head_dim: 8 }),
        (Part::AttnK, RowOrder::RopeInterleaved { head_dim: 8 }),
        (Part::AttnV, RowOrder::AsStored),
        (Part::FfnUp, RowOrder::AsStored),
    ] {
        let linear = source.linear(Role::Layer(0, part)).unwrap();
        assert!(matches!(linear.weight, Weight::Dense(t) if t.row_order == order), "{part:?}");
    }
    assert!(matches!(source.matrix(Role::Output).unwrap(), Some(Weight::Dense(t)) if t.dtype == DenseType::Bf16));
    assert_eq!(source.vector(Role::Layer(0, Part::AttnSubNorm)).unwrap(), None);
    assert!(source.linear(Role::Layer(1, Part::AttnQ)).is_err());
}

#[test]
fn the_vocabulary_comes_out_as_written() {
    let source = open(&tiny_bitnet()).unwrap();
    let Some(TokenizerSource::Gguf(vocabulary)) = source.tokenizer().unwrap() else { panic!("no vocabulary") };
    assert_eq!((vocabulary.model.as_str(), vocabulary.architecture.as_str()), ("gpt2", "bitnet-b1.58"));
    assert_eq!((vocabulary.tokens.len(), vocabulary.tokens[6].as_slice()), (8, &b"\xff"[..]));
    assert!(vocabulary.merges.iter().eq([b"a b", b"c d"]));
    assert_eq!((vocabulary.bos, vocabulary.eos, vocabulary.eot), (Some(0), Some(1), None));
    assert_eq!(vocabulary.token_types, [1; 8]);
    let without = tiny_bitnet().without("tokenizer.ggml.model");
    assert!(open(&without).unwrap().tokenizer().unwrap().is_none());
}

#[test]
fn a_scale_tensor_multiplies_the_output() {
    let file = tiny_bitnet().tensor("blk.0.attn_q.scale", &[1], 0, f32s([0.25]));
    let source = open(&file).unwrap();
    assert_eq!(source.linear(Role::Layer(0, Part::AttnQ)).unwrap().output_scale, 0.25);
    assert_eq!(source.linear(Role::Layer(0, Part::AttnK)).unwrap().output_scale, 1.0);
    for (bad, message) in [(f32s([f32::NAN]), "one finite number, found [NaN]"), (f32s([1.0, 2.0]), "expected [1]")] {
        let dims = [bad.len() as u64 / 4];
        assert!(error(&tiny_bitnet().tensor("blk.0.attn_q.scale", &dims, 0, bad)).contains(message));
    }
}

#[test]
fn a_ternary_embedding_or_head_is_accepted_with_a_warning() {
    let ternary = || i2s(I2sLayout::Blocks128, 8, 16, any_trit);
    let file = tiny_bitnet().tensor("token_embd.weight", &[16, 8], 36, ternary()).tensor(
        "output.weight",
        &[16, 8],
        36,
        ternary(),
    );
    let source = open(&file).unwrap();
    assert_eq!(source.warnings().len(), 2);
    assert!(source.warnings()[0].starts_with("tensor \"token_embd.weight\" is ternary"));
    assert!(matches!(source.matrix(Role::TokenEmbedding).unwrap(), Some(Weight::Ternary(_))));
    assert!(matches!(source.matrix(Role::Output).unwrap(), Some(Weight::Ternary(_))));
}

#[test]
fn plain_linears_of_a_bitnet_are_a_warning() {
    let file = tiny_bitnet().tensor("blk.0.attn_q.weight", &[16, 16], 0, f32s([0.5; 256]));
    let source = open(&file).unwrap();
    assert_eq!(source.warnings(), ["1 linears are stored as ordinary numbers; their inputs are not quantised"]);
    assert!(matches!(source.linear(Role::Layer(0, Part::AttnQ)).unwrap().weight, Weight::Dense(_)));
}

#[test]
fn every_dense_type_serves_as_embedding() {
    for (id, dtype) in [0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 30].into_iter().zip(DenseType::ALL) {
        let Some(row) = dtype.row_bytes(16) else {
            // Rows of 16 do not fill a block, which is an error that names the block.
            let file = tiny_bitnet().tensor("token_embd.weight", &[16, 8], id, vec![0; 4096]);
            assert!(error(&file).contains(&format!("expected rows of a multiple of {}, found 16", dtype.block_len())));
            continue;
        };
        let file = tiny_bitnet().tensor("token_embd.weight", &[16, 8], id, vec![0; 8 * row]);
        let embedding = open(&file).unwrap().matrix(Role::TokenEmbedding).unwrap().map(|_| ());
        assert_eq!(embedding, Some(()), "{}", dtype.name());
    }
}

#[test]
fn rope_factors_come_from_their_tensor_or_from_a_linear_factor() {
    let factors = |file: TestGguf| {
        let config = open(&file).unwrap().config().clone();
        config.rope_scaling.divisors(config.rope_theta, config.rotary_dim())
    };
    let stored = tiny_llama().tensor("rope_freqs.weight", &[4], 0, f32s([1.0, 2.0, 3.0, 4.0]));
    assert_eq!(factors(stored.clone()), Some(vec![1.0, 2.0, 3.0, 4.0]));
    assert_eq!(factors(tiny_llama().f32("llama.rope.scaling.factor", 4.0)), Some(vec![4.0; 4]));
    assert_eq!(factors(tiny_llama().f32("llama.rope.scale_linear", 2.0)), Some(vec![2.0; 4]));
    assert_eq!(
        factors(tiny_llama().str("llama.rope.scaling.type", "none").f32("llama.rope.scaling.factor", 4.0)),
        None
    );
    assert_eq!(factors(tiny_llama().f32("llama.rope.scaling.factor", 1.0)), None);
    assert!(
        error(&stored.f32("llama.rope.scaling.factor", 4.0))
            .contains("RoPE scaling \"linear\" and a tensor \"rope_freqs.weight\"")
    );
    let zero = tiny_llama().tensor("rope_freqs.weight", &[4], 0, f32s([1.0, 0.0, 1.0, 1.0]));
    assert!(error(&zero).contains("RoPE divisors: expected positive numbers, found 0"));
    let long = tiny_llama().tensor("rope_freqs.weight", &[5], 0, f32s([1.0; 5]));
    assert!(error(&long).contains("expected [4], found [5]"));
}

#[test]
fn what_the_graph_cannot_do_is_refused_by_name() {
    let cases = [
        (tiny_bitnet().str("general.architecture", "qwen2"), "architecture \"qwen2\" is not supported: known are"),
        (tiny_bitnet().str("general.architecture", "clip"), "it is a vision projector, the part of a multimodal model"),
        (tiny_bitnet().str("general.architecture", "dflash"), "it is a drafter for another model's text"),
        (tiny_bitnet().str("general.architecture", "hyv4"), "it is a mixture of experts; every layer is dense here"),
        (
            tiny_bitnet().str("general.architecture", "qwen3moe"),
            "it is a mixture of experts; every layer is dense here",
        ),
        (tiny_bitnet().str("general.architecture", "qwen35"), "it is a hybrid of attention and gated delta nets"),
        (
            tiny_bitnet().str("general.type", "adapter"),
            "an adapter (LoRA) is not supported: it changes another model's",
        ),
        (tiny_bitnet().str("general.type", "mmproj"), "a vision projector (mmproj) is not supported: it reads images"),
        (tiny_llama().u32("llama.expert_count", 8), "a mixture of 8 experts is not supported"),
        (tiny_llama().u32("llama.attention.sliding_window", 32), "a sliding window of 32 tokens is not supported"),
        (tiny_llama().raw("llama.attention.causal", 7, vec![0]), "attention that is not causal is not supported"),
        (tiny_llama().u32("llama.rope.dimension_count", 4), "llama.rope.dimension_count = 4 is not supported"),
        (tiny_llama().u32("llama.attention.value_length", 4), "llama.attention.value_length = 4 is not supported"),
        (tiny_llama().str("llama.rope.scaling.type", "yoga"), "RoPE scaling \"yoga\" is not supported"),
        (tiny_llama().str("rotor.hidden_act", "gelu"), "activation function \"gelu\" is not supported"),
        (
            tiny_llama().tensor("blk.0.attn_q.bias", &[16], 0, f32s([0.0; 16])),
            "tensor \"blk.0.attn_q.bias\" is not supported: the llama graph has no place for it",
        ),
        (tiny_llama().tensor("blk.0.attn_q_norm.weight", &[8], 0, f32s([0.0; 8])), "\"blk.0.attn_q_norm.weight\""),
        (tiny_bitnet().tensor("blk.7.attn_q.weight", &[8], 0, f32s([0.0; 8])), "\"blk.7.attn_q.weight\""),
        (
            tiny_bitnet().edit("blk.0.attn_q.weight", |t| t.type_id = 999),
            "type id 999 of tensor \"blk.0.attn_q.weight\"",
        ),
        (tiny_bitnet().edit("blk.0.attn_q.weight", |t| t.type_id = 38), "type tl1 of tensor \"blk.0.attn_q.weight\""),
    ];
    for (file, message) in cases {
        let error = error(&file);
        assert!(error.contains(message), "{error:?} does not contain {message:?}");
    }
    let unused = open(&tiny_bitnet().tensor("extra", &[3], 999, vec![0; 12])).unwrap();
    assert_eq!(unused.warnings(), ["tensor \"extra\" is not used"]);
}

#[test]
fn an_activation_that_is_given_overrides_the_file() {
    let options = OpenOptions { hidden_act: Some(Activation::Silu), ..OpenOptions::default() };
    let source = Source::from_bytes(tiny_bitnet().build(), &options).unwrap();
    assert_eq!(source.config().hidden_act, Activation::Silu);
}

#[test]
fn hyper_parameters_that_shapes_tell_may_be_missing() {
    let file = tiny_bitnet().without("bitnet-b1.58.feed_forward_length").without("bitnet-b1.58.rope.freq_base");
    let source = open(&file).unwrap();
    assert_eq!((source.config().intermediate_size, source.config().rope_theta), (32, 10_000.0));
    for key in ["block_count", "context_length", "embedding_length", "attention.head_count"] {
        let key = format!("bitnet-b1.58.{key}");
        assert_eq!(error(&tiny_bitnet().without(&key)), format!("metadata key {key} is missing"));
    }
}

/// The parts of a split tiny model, in a folder.
fn split(edit: impl Fn(usize, TestGguf) -> TestGguf) -> tempfile::TempDir {
    let whole = tiny_bitnet();
    let folder = tempfile::tempdir().unwrap();
    for number in 0..3usize {
        let mut part = if number == 0 { whole.clone() } else { TestGguf::new() };
        part.tensors =
            whole.tensors.iter().enumerate().filter(|(i, _)| i % 3 == number).map(|(_, t)| t.clone()).collect();
        part = part.raw("split.no", 2, vec![number as u8, 0]).raw("split.count", 2, vec![3, 0]).raw(
            "split.tensors.count",
            5,
            (whole.tensors.len() as i32).to_le_bytes().to_vec(),
        );
        let path = folder.path().join(format!("tiny-0000{}-of-00003.gguf", number + 1));
        std::fs::write(path, edit(number, part).build()).unwrap();
    }
    folder
}

fn open_part(folder: &tempfile::TempDir, number: usize) -> Result<Source, FormatError> {
    Source::open(&folder.path().join(format!("tiny-0000{number}-of-00003.gguf")), &OpenOptions::default())
}

#[test]
fn the_first_part_of_a_split_opens_all_of_it() {
    let folder = split(|_, part| part);
    let source = open_part(&folder, 1).unwrap();
    assert_eq!(source.tensors().count(), tiny_bitnet().tensors.len());
    let error = open_part(&folder, 2).unwrap_err().to_string();
    assert!(
        error.ends_with("part 2 of a split model is not supported: open its first file, tiny-00001-of-00003.gguf"),
        "{error}"
    );
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let message = |edit: fn(usize, TestGguf) -> TestGguf| open_part(&split(edit), 1).unwrap_err().to_string();
    let wrong_number = message(|n, part| if n == 2 { part.raw("split.no", 2, vec![1, 0]) } else { part });
    assert!(
        wrong_number.contains("-00003-of-00003.gguf: metadata key split.no: expected 2, found 1"),
        "{wrong_number}"
    );
    let wrong_count = message(|n, part| if n == 1 { part.raw("split.count", 2, vec![4, 0]) } else { part });
    assert!(wrong_count.contains("metadata key split.count: expected 3, found 4"), "{wrong_count}");
    let lost = message(|n, mut part| {
        if n == 1 {
            part.tensors.pop();
        }
        part
    });
    assert!(lost.contains("number of tensors in all parts: expected "), "{lost}");
    let twice = message(|n, part| if n == 1 { part.tensor("token_embd.weight", &[1], 24, vec![0]) } else { part });
    assert!(twice.contains("tensor \"token_embd.weight\" occurs twice"), "{twice}");
    let many = message(|_, part| part.raw("split.count", 2, vec![0xff, 0xff]));
    assert!(many.contains("metadata key split.count: expected at most 1000, found 65535"), "{many}");
    let folder = split(|_, part| part);
    std::fs::remove_file(folder.path().join("tiny-00002-of-00003.gguf")).unwrap();
    assert!(open_part(&folder, 1).unwrap_err().to_string().starts_with("cannot open "));
}

#[test]
fn mapped_and_read_files_are_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, tiny_bitnet().build()).unwrap();
    for no_mmap in [false, true] {
        let source = Source::open(&path, &OpenOptions { no_mmap, ..OpenOptions::default() }).unwrap();
        for tensor in source.tensors() {
            let before = tensor.bytes.to_vec();
            source.release(tensor.bytes);
            assert_eq!(tensor.bytes, before, "{}", tensor.name);
        }
    }
    let error = Source::open(&folder.path().join("absent.gguf"), &OpenOptions::default()).unwrap_err().to_string();
    assert!(error.starts_with("cannot open ") && error.contains("absent.gguf"), "{error}");
}
