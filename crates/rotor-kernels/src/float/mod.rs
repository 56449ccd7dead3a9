//! The float operations of a transformer, one file per ISA.
//!
//! A reduction has one fixed order per ISA, whatever the number of tokens or threads: that is what makes a token's numbers
//! independent of its batch. Between ISAs the orders differ, and results agree to about 1e-6 of the largest.

use crate::dense::DenseType;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2_rows;
pub(crate) mod scalar;

/// Positions whose keys are scored together in attention.
pub(crate) const BLOCK: usize = 64;

/// Running maximum and sum of a streaming softmax.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Softmax {
    pub max: f32,
    pub sum: f32,
}

impl Softmax {
    pub(crate) const EMPTY: Softmax = Softmax { max: f32::NEG_INFINITY, sum: 0.0 };
}

/// Numbers stored as f16 bits or as f32.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rows<'a> {
    F16(&'a [u16]),
    F32(&'a [f32]),
}

impl<'a> Rows<'a> {
    pub(crate) fn len(self) -> usize {
        match self {
            Rows::F16(values) => values.len(),
            Rows::F32(values) => values.len(),
        }
    }

    pub(crate) fn get(self, index: usize) -> f32 {
        match self {
            Rows::F16(values) => half::f16::from_bits(values[index]).to_f32(),
            Rows::F32(values) => values[index],
        }
    }

    pub(crate) fn slice(self, range: std::ops::Range<usize>) -> Rows<'a> {
        match self {
            Rows::F16(values) => Rows::F16(&values[range]),
            Rows::F32(values) => Rows::F32(&values[range]),
        }
    }
}

/// The float kernels of one ISA. Lengths are the callers' (dispatch.rs, attention.rs) to check.
pub(crate) struct FloatKernels {
    /// int8 quantisation; returns the factor `s`, NaN where `x` is not finite.
    pub quantize: unsafe fn(x: &[f32], q: &mut [i8]) -> f32,
    /// `out = x / sqrt(mean(x^2) + eps) * weight`.
    pub rms_norm: unsafe fn(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]),
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
    /// f16 bits to f32.
    pub decode_f16: unsafe fn(from: &[u16], to: &mut [f32]),
    /// f32 to f16 bits, to nearest even.
    pub encode_f16: unsafe fn(from: &[f32], to: &mut [u16]),
    /// `transposed[dim][BLOCK]` from up to `BLOCK` rows of `dims`; absent rows as zeros.
    pub transpose_keys: unsafe fn(rows: Rows<'_>, dims: usize, transposed: &mut [f32]),
    /// `scores[j] = sum over dims of q[dim] * transposed[dim][j]`.
    pub scores: unsafe fn(q: &[f32], transposed: &[f32], scores: &mut [f32; BLOCK]),
    /// Replaces the first `n` scores `s` by `exp(s * scale - max)` with the new running maximum, the rest by zeros; returns
    /// the factor by which what was accumulated so far must shrink.
    pub softmax: unsafe fn(scores: &mut [f32; BLOCK], n: usize, scale: f32, state: &mut Softmax) -> f32,
    /// `out = out * shrink + sum over the first n rows of p[j] * values[j]`, `values` being rows of `out.len()`.
    pub accumulate: unsafe fn(out: &mut [f32], shrink: f32, p: &[f32], values: &[f32]),
}
