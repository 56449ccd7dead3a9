//! Every form of a GGUF runs straight from its layout: the same weights give the same logits, bit for bit.

use super::testing::{TestGguf, any_trit, f32s};
use super::{LoadOptions, OpenOptions, Part, Role, Source};
use crate::cache::SequenceCache;
use crate::config::Activations;
use crate::forms::testing::{encode, encode_scaled, q2_0_128, with_one_zero_in_four};
use crate::forms::{FORMS, I2sLayout, KernelConfig, Scales, TernaryForm, TlTile};
use crate::model::{Model, Step, Wanted, Workspace};
use crate::runtime::Runtime;
use rotor_kernels::attention::KvType;
use rotor_kernels::{Isa, Kernels};

/// Name, rows and columns of the linears: multiples of what every form asks for.
const LINEARS: [(&str, usize, usize); 7] = [
    ("attn_q", 256, 256),
    ("attn_k", 128, 256),
    ("attn_v", 128, 256),
    ("attn_output", 256, 256),
    ("ffn_gate", 512, 256),
    ("ffn_up", 512, 256),
    ("ffn_down", 256, 512),
];
const TL1: TlTile = TlTile { rows: 128, cols: 128, step_rows: 32 };
const TL2: TlTile = TlTile { rows: 128, cols: 192, step_rows: 32 };

/// A Qwen 3 of one layer with these bytes for its linears.
fn model(type_id: u32, linear: impl Fn(usize, usize) -> Vec<u8>) -> TestGguf {
    let near_one = |n: usize| f32s((0..n).map(|i| 0.9 + (i % 7) as f32 * 0.03));
    let mut file = TestGguf::new()
        .str("general.architecture", "qwen3")
        .u32("qwen3.block_count", 1)
        .u32("qwen3.context_length", 64)
        .u32("qwen3.embedding_length", 256)
        .u32("qwen3.feed_forward_length", 512)
        .u32("qwen3.attention.head_count", 4)
        .u32("qwen3.attention.head_count_kv", 2)
        .u32("qwen3.attention.key_length", 64)
        .f32("qwen3.attention.layer_norm_rms_epsilon", 1e-6)
        .f32("qwen3.rope.freq_base", 1e6)
        .tensor("token_embd.weight", &[256, 8], 0, f32s((0..2048).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0)))
        .tensor("output_norm.weight", &[256], 0, near_one(256))
        .tensor("blk.0.attn_norm.weight", &[256], 0, near_one(256))
        .tensor("blk.0.ffn_norm.weight", &[256], 0, near_one(256))
        .tensor("blk.0.attn_q_norm.weight", &[64], 0, near_one(64))
        .tensor("blk.0.attn_k_norm.weight", &[64], 0, near_one(64));
    for (name, rows, cols) in LINEARS {
        file = file.tensor(&format!("blk.0.{name}.weight"), &[cols as u64, rows as u64], type_id, linear(rows, cols));
    }
    file
}

/// Where the weights of a model are zero: not every form can have it as it likes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Zeros {
    Anywhere,
    Nowhere,
    OneInFour,
}

impl Zeros {
    fn of(form: TernaryForm) -> Zeros {
        match form {
            TernaryForm::Q1_0 => Zeros::Nowhere,
            TernaryForm::Stq1_0 => Zeros::OneInFour,
            _ => Zeros::Anywhere,
        }
    }
}

/// The trits of a linear.
fn trits(rows: usize, cols: usize, zeros: Zeros) -> Vec<i8> {
    let mut trits: Vec<i8> = (0..rows * cols).map(|at| any_trit(at / cols, at % cols)).collect();
    match zeros {
        Zeros::Anywhere => {}
        Zeros::Nowhere => trits.iter_mut().for_each(|trit| *trit |= 1),
        Zeros::OneInFour => with_one_zero_in_four(&mut trits),
    }
    trits
}

/// Logits of 7 tokens, enough for the kernels of many and of few, on every ISA.
fn logits(file: &TestGguf, options: &OpenOptions) -> Vec<Vec<u32>> {
    let source = Source::from_bytes(file.build(), options).unwrap();
    let on = |kernels| {
        let runtime = Runtime::with_kernels(kernels, 2);
        let model = Model::load(&source, &runtime, &mut |_| {}).unwrap();
        let mut workspace = Workspace::new(&runtime);
        let mut cache = SequenceCache::new(model.config(), 8, KvType::F32);
        let mut all = Vec::new();
        for tokens in [&[1, 5, 2, 7, 0, 3, 6][..], &[4]] {
            let step = Step { cache: &mut cache, tokens, wanted: Wanted::From(0) };
            all.extend(model.forward(&mut [step], &mut workspace).unwrap().iter().map(|logit| logit.to_bits()));
        }
        all
    };
    Isa::available().filter_map(Kernels::for_isa).map(on).collect()
}

/// How a file of this form has to be opened.
fn options(form: TernaryForm) -> OpenOptions {
    let tile = if let TernaryForm::Tl1(tile) | TernaryForm::Tl2(tile) = form { Some(tile) } else { None };
    let section = |(_, rows, cols): (&str, usize, usize), tile: TlTile| {
        format!("[k]\nm = {rows}\nk = {cols}\nbm = {}\nbk = {}\nbmm = {}\n", tile.rows, tile.cols, tile.step_rows)
    };
    let text: String = tile.into_iter().flat_map(|tile| LINEARS.map(|linear| section(linear, tile))).collect();
    OpenOptions {
        i2s_layout: if let TernaryForm::I2S(layout) = form { Some(layout) } else { None },
        kernel_config: KernelConfig::parse(&text).unwrap(),
        // Some forms are BitNet's alone, so that a form may change how finely activations are kept.
        load: LoadOptions { activations: Some(Activations::Int8), ..LoadOptions::default() },
        ..OpenOptions::default()
    }
}

#[test]
fn the_same_weights_give_the_same_logits_in_every_form() {
    let usual = TernaryForm::I2S(I2sLayout::Blocks128);
    let run = |form: TernaryForm, zeros: Zeros| {
        let linear = |rows, cols| encode(form, (rows, cols), &trits(rows, cols, zeros), 0.5);
        logits(&model(form.info().gguf_type.unwrap(), linear), &options(form))
    };
    let expected = [Zeros::Anywhere, Zeros::Nowhere, Zeros::OneInFour].map(|zeros| (zeros, run(usual, zeros)));
    assert!(expected[0].1 != expected[1].1 && expected[0].1 != expected[2].1);
    assert!(expected[0].1.iter().flatten().all(|bits| f32::from_bits(*bits).is_finite()));
    let in_gguf = FORMS.iter().filter(|info| info.gguf_type.is_some());
    let tiled = |info: &str| if info == "tl1" { TernaryForm::Tl1(TL1) } else { TernaryForm::Tl2(TL2) };
    let forms: Vec<_> = in_gguf.map(|info| info.form.unwrap_or_else(|| tiled(info.name))).collect();
    assert_eq!(forms.len(), 15, "forms that occur in GGUF files");
    for form in forms {
        let (zeros, expected) = expected.iter().find(|(zeros, _)| *zeros == Zeros::of(form)).unwrap();
        assert!(run(form, *zeros) == *expected, "{form:?}");
    }
}

/// A scale for each 256 weights, in blocks of that size and in smaller ones that repeat it.
#[test]
fn scales_of_groups_give_the_same_logits_in_blocks_of_any_size() {
    let run = |form: TernaryForm, vary: f32| {
        let linear = |rows: usize, cols: usize| {
            let groups = cols / 256;
            let values = (0..rows * groups).map(|i| 0.5 + vary * (i % 5) as f32 / 16.0).collect();
            let scales = Scales::from_values(rows, cols, values).unwrap();
            encode_scaled(form, (rows, cols), &trits(rows, cols, Zeros::Anywhere), scales)
        };
        logits(&model(form.info().gguf_type.unwrap(), linear), &options(form))
    };
    let (tq2, q2) = (run(TernaryForm::Tq2_0, 1.0), run(TernaryForm::Q2_0, 1.0));
    assert!(tq2 == q2 && tq2 == run(TernaryForm::Tq1_0, 1.0));
    let groups_of_128 = model(42, |rows, cols| {
        let scale = |row, block| 0.5 + ((row * (cols / 256) + block / 2) % 5) as f32 / 16.0;
        q2_0_128(cols, &trits(rows, cols, Zeros::Anywhere), scale)
    });
    assert!(tq2 == logits(&groups_of_128, &options(TernaryForm::Q2_0)));
    assert!(tq2 != run(TernaryForm::Tq2_0, 0.0), "the scales made no difference");
}

/// What shares an id with a ternary form is told apart by its size, in the whole file.
#[test]
fn forms_that_are_not_read_are_refused_by_name() {
    for (id, bytes_of_256, name) in [
        (143, 54, "iq1_tn (removed)"),
        (142, 66, "iq2_tn (removed)"),
        (40, 144, "nvfp4"),
        (40, 65, "seq_2bit"),
        (41, 65, "seq_2bit"),
        (43, 104, "fv5"),
        (44, 260, "fv5b"),
        (42, 50, "id 42, whose tensors have the size of none of q2_0, q2_0_128, stq1_0,"),
    ] {
        let file = model(id, |rows, cols| vec![0; rows * cols / 256 * bytes_of_256]);
        let error = Source::from_bytes(file.build(), &OpenOptions::default()).unwrap_err().to_string();
        let expected = format!("type {name} of tensor \"blk.0.attn_q.weight\" is not supported");
        assert!(error.starts_with(&expected), "{error}");
    }
}

/// One tensor of another size than the rest of its id: nobody can tell what the file means.
#[test]
fn an_id_means_one_thing_in_a_file() {
    let mixed =
        model(42, |rows, cols| vec![0x55; if rows == 128 { rows * cols / 64 * 18 } else { rows * cols / 128 * 34 }]);
    let error = Source::from_bytes(mixed.build(), &OpenOptions::default()).unwrap_err().to_string();
    assert!(error.contains("whose tensors have the size of none of q2_0, q2_0_128, stq1_0"), "{error}");
}

#[test]
fn code_three_of_q2_0_names_its_tensor() {
    for (weights, block_bytes) in [(64, 18), (128, 34)] {
        let file = model(42, |rows, cols| vec![0xc0; rows * cols / weights * block_bytes]);
        let source = Source::from_bytes(file.build(), &OpenOptions::default()).unwrap();
        let runtime = Runtime::with_kernels(Kernels::for_isa(Isa::Scalar).unwrap(), 1);
        let error = Model::load(&source, &runtime, &mut |_| {}).unwrap_err().to_string();
        assert!(error.starts_with("tensor \"blk.0.attn_q.weight\": expected only codes for -1, 0 and +1"), "{error}");
    }
}

#[test]
fn tl_tensors_ask_for_the_kernel_config_of_their_build() {
    let file = model(38, |rows, cols| vec![0x44; rows * cols / 4 + 32]);
    let error = Source::from_bytes(file.build(), &OpenOptions::default()).unwrap_err().to_string();
    assert!(error.contains("type tl1 of tensor") && error.contains("kernel_config.ini"), "{error}");
    let wrong = "[a]\nm = 256\nk = 256\nbm = 100\nbk = 128\nbmm = 32\n";
    let options = OpenOptions { kernel_config: KernelConfig::parse(wrong).unwrap(), ..OpenOptions::default() };
    let error = Source::from_bytes(file.build(), &options).unwrap_err().to_string();
    assert!(error.ends_with("a kernel config whose tiles divide it, found bm = 100, bk = 128, bmm = 32"), "{error}");
}

#[test]
fn norms_in_linears_are_bound_where_every_linear_has_one() {
    let mut file = model(36, |rows, cols| vec![0x55; rows * cols / 4 + 32]);
    file = file.tensor("blk.0.attn_q_norm_in.weight", &[256], 0, f32s([1.0; 256]));
    let error = Source::from_bytes(file.build(), &OpenOptions::default()).unwrap_err().to_string();
    assert_eq!(error, "tensor \"blk.0.attn_k_norm_in.weight\" is missing");
    for (name, len) in [("attn_k", 256), ("attn_v", 256), ("attn_output", 256), ("ffn_gate", 256), ("ffn_up", 256)] {
        file = file.tensor(&format!("blk.0.{name}_norm_in.weight"), &[len], 0, f32s([1.0; 256]));
    }
    file = file.tensor("blk.0.ffn_down_norm_in.weight", &[512], 0, f32s([1.0; 512]));
    let source = Source::from_bytes(file.build(), &OpenOptions::default()).unwrap();
    let norm = source.linear(Role::Layer(0, Part::FfnDown)).unwrap().input_norm.unwrap();
    assert_eq!(norm, [1.0; 512]);
}
