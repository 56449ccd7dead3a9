//! Dense matrices stored in blocks, times activations in integers: the fast way through a quantised head.
//!
//! Every quantised type is a sum of `a * code + m` over short runs of columns, with small unsigned codes (Q8_0's are signed
//! and have no `m`). With activations in blocks of 32, each a digit `scale * q`, a row's product splits into two sums:
//!
//! ```text
//! sum over runs of   a * scale * (sum of code * q)   +   m * (scale * sum of q)
//! ```
//!
//! The sums of `code * q` are exact integers: 4 products of at most 63 * 127 (or 128 * 127, signed) never leave an i16, and
//! times a 6- or 8-bit stored scale they stay below 2^24, so that they are exact in f32 too. What a row adds for its `m`
//! needs only the activations' sums, made once per token.
//!
//! The weights are read from memory once. Codes are unpacked once for four digits, those of two tokens, which stay in the L1
//! cache while a run of rows passes by; the next two tokens read the run again from the L2 cache. A token's sums run in the
//! same order whatever the number of tokens.

mod activations;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod scalar;

pub use activations::BlockActivations;

use crate::dense::DenseType;

/// Columns of a panel: one super-block of the K types.
pub(crate) const PANEL: usize = 256;
/// Columns that share one activation scale.
pub(crate) const BLOCK: usize = 32;

/// The activations of 256 columns of one token; columns past the end of a row are zeros.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panel {
    /// `round(x / scale)`, from -127 to 127.
    pub q: [[i8; BLOCK]; 8],
    /// Each block's scale, eight times: vectors of lanes are loaded, not spread.
    pub scales: [[f32; 8]; 8],
    /// `scale * sum of q` of each half block.
    pub half_sums: [f32; 16],
    /// The same of each block.
    pub sums: [f32; 8],
}

impl Panel {
    pub(crate) const ZERO: Panel =
        Panel { q: [[0; BLOCK]; 8], scales: [[0.0; 8]; 8], half_sums: [0.0; 16], sums: [0.0; 8] };
}

/// Multiplies rows of a type, so many bytes each, by every token's panels.
type Products = unsafe fn(dtype: DenseType, rows: &[u8], row_bytes: usize, x: &[&[Panel]], out: &mut [f32]);

/// The kernels of one ISA.
pub(crate) struct QuantizedKernels {
    /// Quantises up to 256 values, a multiple of 32: per block `scale = max |x| / 127`, `q = round_half_even(x / scale)`. A
    /// block below 1e-30 counts as zeros; one that is not finite has a scale of NaN. Other columns of the panel are left.
    pub quantize: unsafe fn(x: &[f32], panel: &mut Panel),
    /// `out[row][token]` for consecutive rows of `row_bytes` bytes; each token's panels cover a row.
    pub products: Products,
    /// Stores a row of numbers: encode.rs, compiled for this ISA.
    pub encode: unsafe fn(dtype: DenseType, values: &[f32], out: &mut [u8]),
}

/// Whether matrices of this type can be multiplied by activations in blocks.
pub(crate) const fn takes_blocks(dtype: DenseType) -> bool {
    !matches!(dtype, DenseType::F32 | DenseType::F16 | DenseType::Bf16)
}

/// The panels number `index` of every token.
#[inline]
pub(crate) fn panels<'a, const T: usize>(x: &[&'a [Panel]; T], index: usize) -> [&'a Panel; T] {
    let mut panels = [&x[0][index]; T];
    for (panel, x) in panels.iter_mut().zip(x) {
        *panel = &x[index];
    }
    panels
}

#[cfg(test)]
mod tests;
