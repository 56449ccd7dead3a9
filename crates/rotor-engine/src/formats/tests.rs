//! Whole models through [`Source`]: sound ones, and one broken in every way we know of.

use super::testing::{TestGguf, any_trit, array, f32s, i2s, string, tiny_bitnet, tiny_llama};
use super::*;
use crate::FormatError;
use crate::config::{Activation, Architecture};
use crate::forms::{I2sLayout, Scales};

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
    assert_eq!(vocabulary.merges, ["a b", "c d"]);
    assert_eq!((vocabulary.bos, vocabulary.eos, vocabulary.eot), (Some(0), Some(1), None));
    assert_eq!(vocabulary.token_types, [1; 8]);
    let without = tiny_bitnet().without("tokenizer.ggml.model");
    assert!(open(&without).unwrap().tokenizer().unwrap().is_none());
}
