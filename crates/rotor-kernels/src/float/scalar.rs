//! The reference: every operation in plain Rust, in the plainest order.

use super::FloatKernels;
use crate::dense::DenseType;
use crate::epilogue::Finish;
use crate::ternary::{self, DigitSums, MAX_DIGITS};
use half::f16;

pub(crate) const KERNELS: FloatKernels = FloatKernels {
    quantize,
    quantize_exact,
    rms_norm,
    finish,
    add_group,
    silu_mul,
    relu2_mul,
    add,
    rotate,
    dot,
    decode_row,
    dot_row,
    encode_f16,
};

fn quantize(x: &[f32], q: &mut [i8]) -> f32 {
    let finite = x.iter().all(|v| v.is_finite());
    if !finite {
        q.fill(0);
        return f32::NAN;
    }
    let max = x.iter().fold(1e-5f32, |max, v| max.max(v.abs()));
    let factor = 127.0 / max;
    for (q, x) in q.iter_mut().zip(x) {
        *q = (x * factor).round_ties_even().clamp(-128.0, 127.0) as i8;
    }
    factor
}

fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mean = x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32;
    let factor = 1.0 / (mean + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * factor * weight;
    }
}

fn quantize_exact(x: &[f32], digits: [&mut [i8]; MAX_DIGITS]) -> f32 {
    ternary::quantize_exact(x, digits)
}

fn add_group(scales: Option<&[f32]>, cols: usize, sums: DigitSums<'_>, totals: &mut [f32]) {
    ternary::add_group(scales, cols, sums, totals);
}

fn finish(how: Finish<'_>, sums: &[i32], out: &mut [f32]) {
    how.apply(sums, out, silu_mul);
}

fn silu_mul(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + (-*gate).exp()) * up;
    }
}

fn relu2_mul(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        let positive = gate.max(0.0);
        *gate = positive * positive * up;
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = x.split_at_mut(x.len() / 2);
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    // From +0, which `Sum` does not start from.
    a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + a * b)
}

fn decode_row(dtype: DenseType, row: &[u8], out: &mut [f32]) {
    dtype.decode(row, out);
}

/// Block by block: a block decoded, then multiplied.
fn dot_row(dtype: DenseType, row: &[u8], x: &[f32]) -> f32 {
    let mut block = [0.0; 256];
    let block = &mut block[..dtype.block_len()];
    let mut sum = 0.0;
    for (bytes, x) in row.chunks_exact(dtype.block_bytes()).zip(x.chunks_exact(dtype.block_len())) {
        dtype.decode(bytes, block);
        for (weight, x) in block.iter().zip(x) {
            sum += weight * x;
        }
    }
    sum
}

fn encode_f16(from: &[f32], to: &mut [u16]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = f16::from_f32(*from).to_bits();
    }
}
