//! Dense (not ternary) storage types: embeddings, heads, norms, and linears of ordinary models.
//!
//! The layouts are ggml's; docs/formats.md gives each byte.

/// How the numbers of a dense tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenseType {
    /// IEEE binary32, little-endian.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// 32 weights: f16 scale, 16 bytes of nibbles, offset 8.
    Q4_0,
    /// 32 weights: f16 scale, f16 minimum, 16 bytes of nibbles.
    Q4_1,
    /// 32 weights: f16 scale, 32 fifth bits, 16 bytes of nibbles, offset 16.
    Q5_0,
    /// 32 weights: f16 scale, f16 minimum, 32 fifth bits, 16 bytes of nibbles.
    Q5_1,
    /// 32 weights: f16 scale, 32 signed bytes.
    Q8_0,
    /// 256 weights in 8 sub-blocks: two f16, 6-bit scales and minima, nibbles.
    Q4K,
    /// As [`DenseType::Q4K`] with a fifth bit per weight.
    Q5K,
    /// 256 weights in 16 sub-blocks: 6-bit weights, 8-bit scales, one f16.
    Q6K,
}

impl DenseType {
    /// Every dense type, in the order of their ggml ids.
    pub const ALL: [DenseType; 11] = [
        DenseType::F32,
        DenseType::F16,
        DenseType::Q4_0,
        DenseType::Q4_1,
        DenseType::Q5_0,
        DenseType::Q5_1,
        DenseType::Q8_0,
        DenseType::Q4K,
        DenseType::Q5K,
        DenseType::Q6K,
        DenseType::Bf16,
    ];

    /// Weights per block; a row's length must be a multiple of it.
    pub const fn block_len(self) -> usize {
        match self {
            DenseType::F32 | DenseType::F16 | DenseType::Bf16 => 1,
            DenseType::Q4_0 | DenseType::Q4_1 | DenseType::Q5_0 | DenseType::Q5_1 | DenseType::Q8_0 => 32,
            DenseType::Q4K | DenseType::Q5K | DenseType::Q6K => 256,
        }
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        match self {
            DenseType::F32 => 4,
            DenseType::F16 | DenseType::Bf16 => 2,
            DenseType::Q4_0 => 18,
            DenseType::Q4_1 => 20,
            DenseType::Q5_0 => 22,
            DenseType::Q5_1 => 24,
            DenseType::Q8_0 => 34,
            DenseType::Q4K => 144,
            DenseType::Q5K => 176,
            DenseType::Q6K => 210,
        }
    }

    /// Bytes of a row of `cols` weights, or `None` where the block length does not divide it.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        cols.is_multiple_of(self.block_len())
            .then(|| cols / self.block_len())
            .and_then(|n| n.checked_mul(self.block_bytes()))
    }

    /// The name used by ggml, in lower case (`f16`, `q6_k`).
    pub const fn name(self) -> &'static str {
        match self {
            DenseType::F32 => "f32",
            DenseType::F16 => "f16",
            DenseType::Bf16 => "bf16",
            DenseType::Q4_0 => "q4_0",
            DenseType::Q4_1 => "q4_1",
            DenseType::Q5_0 => "q5_0",
            DenseType::Q5_1 => "q5_1",
            DenseType::Q8_0 => "q8_0",
            DenseType::Q4K => "q4_k",
            DenseType::Q5K => "q5_k",
            DenseType::Q6K => "q6_k",
        }
    }
}
