//! The float operations of a transformer, one file per ISA.
//!
//! A reduction has one fixed order per ISA, whatever the number of tokens or threads: that is what makes a token's numbers
//! independent of its batch. Between ISAs the orders differ, and results agree to about 1e-6 of the largest.

use crate::dense::DenseType;
use crate::epilogue::Finish;
use crate::ternary::{DigitSums, MAX_DIGITS};

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2_rows;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon_rows;
pub(crate) mod scalar;

/// The float kernels of one ISA. Lengths are the callers' (dispatch.rs, attention.rs) to check.
pub(crate) struct FloatKernels {
    /// int8 quantisation; returns the factor `s`, NaN where `x` is not finite.
    pub quantize: unsafe fn(x: &[f32], q: &mut [i8]) -> f32,
    /// int16 quantisation of a block of columns, in two digits; returns the scale.
    pub quantize_exact: unsafe fn(x: &[f32], digits: [&mut [i8]; MAX_DIGITS]) -> f32,
    /// `out = x / sqrt(mean(x^2) + eps) * weight`.
    pub rms_norm: unsafe fn(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]),
    /// What becomes of a token's dot products with consecutive rows; scales, where there is one for each row, as many as sums.
    pub finish: unsafe fn(how: Finish<'_>, sums: &[i32], out: &mut [f32]),
    /// Adds what a group of so many columns gives a token's outputs; as many sums, low sums where there are such, and scales as
    /// totals.
    pub add_group: unsafe fn(scales: Option<&[f32]>, cols: usize, sums: DigitSums<'_>, totals: &mut [f32]),
    /// `gate = silu(gate) * up`.
    pub silu_mul: unsafe fn(gate: &mut [f32], up: &[f32]),
    /// `gate = max(gate, 0)^2 * up`.
    pub relu2_mul: unsafe fn(gate: &mut [f32], up: &[f32]),
    /// `x += y`.
    pub add: unsafe fn(x: &mut [f32], y: &[f32]),
    /// Rotates the pairs `(x[j], x[j + half])` by the angle with these cosines and sines.
    pub rotate: unsafe fn(x: &mut [f32], cos: &[f32], sin: &[f32]),
    /// Dot product.
    pub dot: unsafe fn(a: &[f32], b: &[f32]) -> f32,
    /// Decodes a row of whole blocks; bit for bit what [`DenseType::decode`] gives.
    pub decode_row: unsafe fn(dtype: DenseType, row: &[u8], out: &mut [f32]),
    /// Dot product of a stored row and f32, with the bits of `decode_row` followed by `dot`.
    pub dot_row: unsafe fn(dtype: DenseType, row: &[u8], x: &[f32]) -> f32,
    /// f32 to f16 bits, to nearest even.
    pub encode_f16: unsafe fn(from: &[f32], to: &mut [u16]),
}
