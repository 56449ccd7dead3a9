//! Dense matrices stored in blocks, times activations in integers: the fast way through a quantised head.
//!
//! Every quantised type is a sum of `a * code + m` over short runs of columns, with small unsigned codes (Q8_0's are signed
//! and have no `m`); in the K types `a` is a stored integer times the block's `d`. With activations in panels of 256, each
//! an integer `x` of 15 bits times the panel's `scale`, a row's product splits into two sums:
//!
//! ```text
//! sum over panels of   scale * (sum over runs of a * (sum of code * x))   +   sum over runs of   m * (scale * sum of x)
//! ```
//!
//! `x` is `128 * high + low`, two digits of int8, so that bytes are multiplied by bytes. All sums of `code * digit` are exact
//! integers: 4 products of at most 63 * 127 (or 128 * 127, signed) never leave an i16, and times a 6- or 8-bit stored scale a
//! panel of them stays far below 2^31. What a row adds for its `m` needs only the activations' sums, made once per token.
//!
//! The weights are read from memory once. Codes are unpacked once for four tokens, whose panels stay in the L1 cache while a
//! run of rows passes by; the next four read the run again from the L2 cache. A token's sums run in the same order whatever
//! the number of tokens.

mod activations;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod bounds;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod scalar;

pub use activations::BlockActivations;

use crate::dense::DenseType;
use crate::encode::Scales;

/// Columns of a panel: one super-block of the K types.
pub(crate) const PANEL: usize = 256;
/// Columns of a block of the other types, and of a sub-block of Q4_K and Q5_K.
pub(crate) const BLOCK: usize = 32;
/// What a high digit counts.
pub(crate) const BASE: i16 = 128;
/// The largest activation: the largest high digit.
pub(crate) const LARGEST: i16 = 127 * BASE;

/// The activations of 256 columns of one token; columns past the end of a row are zeros.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panel {
    /// High digits of `round(activation / scale)`, from -127 to 127.
    pub high: [[i8; BLOCK]; 8],
    /// Low digits, from -64 to 63.
    pub low: [[i8; BLOCK]; 8],
    /// `scale * sum of x` of each half block.
    pub half_sums: [f32; 16],
    /// The same of each block.
    pub sums: [f32; 8],
    /// Of all columns.
    pub scale: f32,
}

impl Panel {
    pub(crate) const ZERO: Panel =
        Panel { high: [[0; BLOCK]; 8], low: [[0; BLOCK]; 8], half_sums: [0.0; 16], sums: [0.0; 8], scale: 0.0 };
}

/// Multiplies rows of a type, so many bytes each, by every token's panels.
type Products = unsafe fn(dtype: DenseType, rows: &[u8], row_bytes: usize, x: &[&[Panel]], out: &mut [f32]);

/// The kernels of one ISA.
pub(crate) struct QuantizedKernels {
    /// `out[row][token]` for consecutive rows of `row_bytes` bytes; each token's panels cover a row.
    pub products: Products,
    /// Stores a row of numbers: encode.rs, compiled for this ISA.
    pub encode: unsafe fn(dtype: DenseType, scales: Scales, values: &[f32], out: &mut [u8]),
    /// Bounds of consecutive rows' products: bounds.rs, compiled for this ISA.
    pub bounds: bounds::Bounds,
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
