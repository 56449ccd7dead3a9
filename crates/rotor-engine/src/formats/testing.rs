//! Builds small GGUF files for tests, sound ones and broken ones: every field can be set to anything.

use crate::forms::I2sLayout;
use crate::forms::{Encoder, Scales, TernaryForm};

/// A tensor to be written.
#[derive(Clone)]
pub(super) struct TestTensor {
    pub(super) name: String,
    /// Fastest-varying first.
    pub(super) dims: Vec<u64>,
    pub(super) type_id: u32,
    pub(super) bytes: Vec<u8>,
    /// Instead of the offset that the order gives.
    pub(super) offset: Option<u64>,
}

/// A GGUF file to be written.
#[derive(Clone)]
pub(super) struct TestGguf {
    pub(super) magic: [u8; 4],
    pub(super) version: u32,
    pub(super) tensor_count: Option<u64>,
    pub(super) pair_count: Option<u64>,
    pub(super) alignment: u64,
    /// Key, type id, value bytes.
    pub(super) pairs: Vec<(String, u32, Vec<u8>)>,
    pub(super) tensors: Vec<TestTensor>,
}

/// A length and the bytes.
pub(super) fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

/// The value bytes of an array.
pub(super) fn array(type_id: u32, elements: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = type_id.to_le_bytes().to_vec();
    bytes.extend((elements.len() as u64).to_le_bytes());
    bytes.extend(elements.concat());
    bytes
}

impl TestGguf {
    pub(super) fn new() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            pair_count: None,
            alignment: 32,
            pairs: Vec::new(),
            tensors: Vec::new(),
        }
    }

    /// Sets a key to raw bytes, in its place if it is there.
    pub(super) fn raw(mut self, key: &str, type_id: u32, value: Vec<u8>) -> Self {
        match self.pairs.iter_mut().find(|(known, ..)| known == key) {
            Some(pair) => *pair = (key.into(), type_id, value),
            None => self.pairs.push((key.into(), type_id, value)),
        }
        self
    }

    pub(super) fn u32(self, key: &str, value: u32) -> Self {
        self.raw(key, 4, value.to_le_bytes().to_vec())
    }

    pub(super) fn f32(self, key: &str, value: f32) -> Self {
        self.raw(key, 6, value.to_le_bytes().to_vec())
    }

    pub(super) fn str(self, key: &str, value: &str) -> Self {
        self.raw(key, 8, string(value))
    }

    pub(super) fn strings(self, key: &str, values: &[&[u8]]) -> Self {
        let elements: Vec<_> = values.iter().map(string).collect();
        self.raw(key, 9, array(8, &elements))
    }

    pub(super) fn without(mut self, key: &str) -> Self {
        self.pairs.retain(|(known, ..)| known != key);
        self
    }

    pub(super) fn tensor(mut self, name: &str, dims: &[u64], type_id: u32, bytes: Vec<u8>) -> Self {
        self.tensors.retain(|tensor| tensor.name != name);
        self.tensors.push(TestTensor { name: name.into(), dims: dims.into(), type_id, bytes, offset: None });
        self
    }

    /// Changes the tensor `name`.
    pub(super) fn edit(mut self, name: &str, edit: impl FnOnce(&mut TestTensor)) -> Self {
        edit(self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap());
        self
    }

    pub(super) fn without_tensor(mut self, name: &str) -> Self {
        self.tensors.retain(|tensor| tensor.name != name);
        self
    }

    /// The file.
    pub(super) fn build(&self) -> Vec<u8> {
        let align = |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(self.alignment as usize), 0);
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.pair_count.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        for (key, type_id, value) in &self.pairs {
            bytes.extend(string(key));
            bytes.extend(type_id.to_le_bytes());
            bytes.extend(value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            bytes.extend(string(&tensor.name));
            bytes.extend((tensor.dims.len() as u32).to_le_bytes());
            bytes.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            bytes.extend(tensor.type_id.to_le_bytes());
            bytes.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.bytes);
            align(&mut data);
        }
        align(&mut bytes);
        bytes.extend(data);
        bytes
    }
}

/// The bytes of an F32 tensor.
pub(super) fn f32s(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// The bytes of an I2_S tensor whose trits `trit` gives by row and column.
pub(super) fn i2s(layout: I2sLayout, rows: usize, cols: usize, trit: impl Fn(usize, usize) -> i8 + Sync) -> Vec<u8> {
    let encoder = Encoder::new("t", TernaryForm::I2S(layout), rows, cols, Scales::Tensor(0.5)).unwrap();
    let mut bytes = vec![0; encoder.strip_bytes() * encoder.strips()];
    for (strip, out) in bytes.chunks_exact_mut(encoder.strip_bytes()).enumerate() {
        let mut read = |row: usize, out: &mut [i8]| {
            out.iter_mut().enumerate().for_each(|(col, out)| *out = trit(row, col));
            Ok(())
        };
        encoder.encode_strip(strip, &mut read, out).unwrap();
    }
    bytes.extend(encoder.tail());
    bytes
}

/// A trit that looks random.
pub(super) fn any_trit(row: usize, col: usize) -> i8 {
    (((row * 31 + col * 17) ^ (row * col)) % 3) as i8 - 1
}

/// Hyper-parameters, vocabulary and dense tensors of the tiny models: hidden 16, two heads of 8, one layer, 8 tokens.
fn tiny(architecture: &str) -> TestGguf {
    let key = |name: &str| format!("{architecture}.{name}");
    TestGguf::new()
        .str("general.architecture", architecture)
        .str("general.name", "tiny")
        .u32(&key("block_count"), 1)
        .u32(&key("context_length"), 64)
        .u32(&key("embedding_length"), 16)
        .u32(&key("feed_forward_length"), 32)
        .u32(&key("attention.head_count"), 2)
        .u32(&key("attention.head_count_kv"), 1)
        .u32(&key("rope.dimension_count"), 8)
        .f32(&key("attention.layer_norm_rms_epsilon"), 1e-5)
        .f32(&key("rope.freq_base"), 10_000.0)
        .str("tokenizer.ggml.model", "gpt2")
        .strings("tokenizer.ggml.tokens", &[b"a", b"b", b"c", b"d", b"ab", b"cd", b"\xff", b""])
        .raw("tokenizer.ggml.token_type", 9, array(5, &vec![1i32.to_le_bytes().to_vec(); 8]))
        .strings("tokenizer.ggml.merges", &[b"a b", b"c d"])
        .u32("tokenizer.ggml.bos_token_id", 0)
        .u32("tokenizer.ggml.eos_token_id", 1)
        .tensor("token_embd.weight", &[16, 8], 1, vec![0x3c; 16 * 8 * 2])
        .tensor("output_norm.weight", &[16], 0, f32s([1.5; 16]))
        .tensor("blk.0.attn_norm.weight", &[16], 0, f32s([0.5; 16]))
        .tensor("blk.0.ffn_norm.weight", &[16], 0, f32s([0.75; 16]))
}

/// The projections of a tiny model's layer: name, columns, rows.
pub(super) const TINY_LINEARS: [(&str, usize, usize); 7] = [
    ("attn_q", 16, 16),
    ("attn_k", 16, 8),
    ("attn_v", 16, 8),
    ("attn_output", 16, 16),
    ("ffn_gate", 16, 32),
    ("ffn_up", 16, 32),
    ("ffn_down", 32, 16),
];

/// A complete BitNet model of a few kilobytes.
pub(super) fn tiny_bitnet() -> TestGguf {
    let mut file = tiny("bitnet-b1.58").tensor("blk.0.attn_sub_norm.weight", &[16], 0, f32s([2.0; 16])).tensor(
        "blk.0.ffn_sub_norm.weight",
        &[32],
        0,
        f32s([3.0; 32]),
    );
    for (name, cols, rows) in TINY_LINEARS {
        let bytes = i2s(I2sLayout::Blocks128, rows, cols, any_trit);
        file = file.tensor(&format!("blk.0.{name}.weight"), &[cols as u64, rows as u64], 36, bytes);
    }
    file
}

/// A complete Llama model with F32 linears and a head of its own.
pub(super) fn tiny_llama() -> TestGguf {
    let mut file = tiny("llama").tensor("output.weight", &[16, 8], 30, vec![0x3f; 16 * 8 * 2]);
    for (name, cols, rows) in TINY_LINEARS {
        let bytes = f32s((0..rows * cols).map(|i| i as f32));
        file = file.tensor(&format!("blk.0.{name}.weight"), &[cols as u64, rows as u64], 0, bytes);
    }
    file
}
