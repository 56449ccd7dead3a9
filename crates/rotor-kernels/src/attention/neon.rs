//! Attention for NEON: up to four query heads meet each vector of keys or values while it is in a register.
//!
//! A score is summed over its dimensions in order, an output over its positions in order, each by fused multiply-adds, so
//! that neither the number of heads nor the width of vectors changes a bit of them. What will be read next is left to the
//! CPU to foresee: asking for it has no stable intrinsic.

use super::{AttentionKernels, BLOCK, Next, Numbers, Softmax};
use crate::float::neon::{exp, load, store, sum_lanes};
use std::arch::aarch64::*;

pub(crate) static KERNELS: AttentionKernels = AttentionKernels { scores, softmax, accumulate, decode };

/// Numbers that are loaded together, in two vectors.
const LANES: usize = 8;

type Eight = [float32x4_t; 2];

/// How numbers are stored, as a constant.
const F16: u8 = 0;
const F32: u8 = 1;
const INT8: u8 = 2;

/// Eight numbers from index `at` on.
///
/// # Safety
/// - `base` must point to at least `at + 8` numbers of the type that `KIND` names.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_eight<const KIND: u8>(base: *const u8, at: usize) -> Eight {
    // SAFETY: in bounds by the caller's promise; the loads need no alignment.
    unsafe {
        match KIND {
            F16 => {
                let bits = vld1q_u8(base.add(2 * at));
                let halves = vreinterpretq_f16_u8(bits);
                [vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)]
            }
            F32 => {
                let base = base.add(4 * at);
                [vreinterpretq_f32_u8(vld1q_u8(base)), vreinterpretq_f32_u8(vld1q_u8(base.add(16)))]
            }
            _ => {
                let words = vmovl_s8(vreinterpret_s8_u8(vld1_u8(base.add(at))));
                [vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))), vcvtq_f32_s32(vmovl_high_s16(words))]
            }
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn zeros() -> Eight {
    [vdupq_n_f32(0.0); 2]
}

/// `sum + factor * values`, fused.
#[inline]
#[target_feature(enable = "neon")]
fn add_product(sum: Eight, factor: f32, values: Eight) -> Eight {
    [vfmaq_n_f32(sum[0], values[0], factor), vfmaq_n_f32(sum[1], values[1], factor)]
}

#[inline]
#[target_feature(enable = "neon")]
fn store_eight(values: Eight, out: &mut [f32; LANES]) {
    let halves = out.as_chunks_mut().0;
    store(values[0], &mut halves[0]);
    store(values[1], &mut halves[1]);
}

#[target_feature(enable = "neon")]
fn scores(q: &[f32], keys: Numbers<'_>, _: Next<'_>, scores: &mut [[f32; BLOCK]]) {
    match keys {
        Numbers::F16(bits) => scores_of::<F16>(q, bits.as_ptr().cast(), bits.len(), scores),
        Numbers::F32(values) => scores_of::<F32>(q, values.as_ptr().cast(), values.len(), scores),
        Numbers::Int8(bytes) => scores_of::<INT8>(q, bytes.as_ptr().cast(), bytes.len(), scores),
    }
}

/// `keys` points to `len` numbers.
#[inline]
#[target_feature(enable = "neon")]
fn scores_of<const KIND: u8>(q: &[f32], keys: *const u8, len: usize, scores: &mut [[f32; BLOCK]]) {
    let dims = len / BLOCK;
    assert!(q.len() == dims * scores.len(), "a query of {dims} for each row of scores");
    let (fours, rest) = scores.as_chunks_mut::<4>();
    let (q_fours, q_rest) = q.split_at(4 * dims * fours.len());
    for (q, scores) in q_fours.chunks_exact(4 * dims).zip(fours) {
        // SAFETY: `keys` has `dims * BLOCK` numbers, and every query `dims`.
        unsafe { score_heads::<KIND, 4, 2>(q, keys, dims, scores) };
    }
    for (q, scores) in q_rest.chunks_exact(dims).zip(rest) {
        // SAFETY: as above.
        unsafe { score_heads::<KIND, 1, 8>(q, keys, dims, std::array::from_mut(scores)) };
    }
}

/// Scores of `HEADS` queries, `VECTORS` times eight positions at a time.
///
/// # Safety
/// - `q` must hold `HEADS * dims` numbers, and `keys` point to `dims * BLOCK`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn score_heads<const KIND: u8, const HEADS: usize, const VECTORS: usize>(
    q: &[f32],
    keys: *const u8,
    dims: usize,
    scores: &mut [[f32; BLOCK]; HEADS],
) {
    for first in (0..BLOCK).step_by(VECTORS * LANES) {
        let mut sums = [[zeros(); VECTORS]; HEADS];
        for dim in 0..dims {
            let mut column = [zeros(); VECTORS];
            for (i, column) in column.iter_mut().enumerate() {
                // SAFETY: `dim < dims`, and the position is below BLOCK.
                *column = unsafe { load_eight::<KIND>(keys, dim * BLOCK + first + i * LANES) };
            }
            for (head, sums) in sums.iter_mut().enumerate() {
                // SAFETY: `q` has a number for every head and dimension.
                let q = unsafe { *q.get_unchecked(head * dims + dim) };
                for (sum, column) in sums.iter_mut().zip(column) {
                    *sum = add_product(*sum, q, column);
                }
            }
        }
        for (sums, scores) in sums.into_iter().zip(scores.iter_mut()) {
            let out = scores[first..].as_chunks_mut::<LANES>().0;
            for (sum, out) in sums.into_iter().zip(out) {
                store_eight(sum, out);
            }
        }
    }
}

#[target_feature(enable = "neon")]
fn softmax(scores: &mut [f32; BLOCK], n: usize, scale: f32, state: &mut Softmax) -> f32 {
    scores[n..].fill(f32::NEG_INFINITY);
    let pairs = scores.as_chunks_mut::<4>().0.as_chunks_mut::<2>().0;
    let scale = vdupq_n_f32(scale);
    let mut max = vdupq_n_f32(state.max);
    for chunk in pairs.iter().flatten() {
        max = vmaxq_f32(max, vmulq_f32(load(chunk), scale));
    }
    let max = vmaxvq_f32(max);
    let less = vdupq_n_f32(-max);
    let mut sums = zeros();
    for pair in pairs.iter_mut() {
        for (sum, chunk) in sums.iter_mut().zip(pair) {
            let p = exp(vfmaq_f32(less, load(chunk), scale));
            *sum = vaddq_f32(*sum, p);
            store(p, chunk);
        }
    }
    let shrink = (state.max - max).exp();
    *state = Softmax { max, sum: state.sum * shrink + sum_lanes(sums[0], sums[1]) };
    shrink
}

#[target_feature(enable = "neon")]
fn accumulate(out: &mut [f32], shrink: &[f32], p: &[[f32; BLOCK]], values: Numbers<'_>, _: Next<'_>) {
    match values {
        Numbers::F16(bits) => accumulate_of::<F16>(out, shrink, p, bits.as_ptr().cast(), values),
        Numbers::F32(floats) => accumulate_of::<F32>(out, shrink, p, floats.as_ptr().cast(), values),
        Numbers::Int8(bytes) => accumulate_of::<INT8>(out, shrink, p, bytes.as_ptr().cast(), values),
    }
}

/// `base` is where `values` begin.
#[inline]
#[target_feature(enable = "neon")]
fn accumulate_of<const KIND: u8>(
    out: &mut [f32],
    shrink: &[f32],
    p: &[[f32; BLOCK]],
    base: *const u8,
    values: Numbers<'_>,
) {
    let dims = out.len() / shrink.len();
    let positions = values.len() / dims;
    let (fours, rest) = p.as_chunks::<4>();
    let (out_fours, out_rest) = out.split_at_mut(4 * dims * fours.len());
    let (shrink_fours, shrink_rest) = shrink.split_at(4 * fours.len());
    let whole = dims / LANES * LANES;
    for ((out, p), shrink) in out_fours.chunks_exact_mut(4 * dims).zip(fours).zip(shrink_fours.as_chunks::<4>().0) {
        let wide = whole / (2 * LANES) * (2 * LANES);
        // SAFETY: `base` has `positions` rows of `dims` numbers, every output `dims`.
        unsafe {
            add_values::<KIND, 4, 2>(out, dims, 0..wide, shrink, p, base, positions);
            add_values::<KIND, 4, 1>(out, dims, wide..whole, shrink, p, base, positions);
        }
    }
    for ((out, p), shrink) in out_rest.chunks_exact_mut(dims).zip(rest).zip(shrink_rest) {
        let (p, shrink) = (std::array::from_ref(p), std::array::from_ref(shrink));
        let wide = whole / (8 * LANES) * (8 * LANES);
        // SAFETY: as above.
        unsafe {
            add_values::<KIND, 1, 8>(out, dims, 0..wide, shrink, p, base, positions);
            add_values::<KIND, 1, 1>(out, dims, wide..whole, shrink, p, base, positions);
        }
    }
    for ((out, p), shrink) in out.chunks_exact_mut(dims).zip(p).zip(shrink) {
        for (dim, out) in out.iter_mut().enumerate().skip(whole) {
            *out = (0..positions).fold(*out * shrink, |sum, at| p[at].mul_add(values.get(at * dims + dim), sum));
        }
    }
}

/// Adds the values of some dimensions, whole runs of `VECTORS` times eight, to the outputs of `HEADS` heads.
///
/// # Safety
/// - `out` must hold `HEADS * dims` numbers, `range` lie within `0..dims`, and `base` point to `positions * dims` numbers.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_values<const KIND: u8, const HEADS: usize, const VECTORS: usize>(
    out: &mut [f32],
    dims: usize,
    range: std::ops::Range<usize>,
    shrink: &[f32; HEADS],
    p: &[[f32; BLOCK]; HEADS],
    base: *const u8,
    positions: usize,
) {
    for first in range.step_by(VECTORS * LANES) {
        let mut sums = [[zeros(); VECTORS]; HEADS];
        for (head, sums) in sums.iter_mut().enumerate() {
            let fours = out[head * dims + first..].as_chunks::<4>().0;
            for (sum, out) in sums.as_flattened_mut().iter_mut().zip(fours) {
                *sum = vmulq_n_f32(load(out), shrink[head]);
            }
        }
        for position in 0..positions.min(BLOCK) {
            let mut row = [zeros(); VECTORS];
            for (i, row) in row.iter_mut().enumerate() {
                // SAFETY: the position is one of `positions`, the dimension within `range`.
                *row = unsafe { load_eight::<KIND>(base, position * dims + first + i * LANES) };
            }
            for (sums, p) in sums.iter_mut().zip(p) {
                for (sum, row) in sums.iter_mut().zip(row) {
                    *sum = add_product(*sum, p[position], row);
                }
            }
        }
        for (head, sums) in sums.into_iter().enumerate() {
            for (sum, out) in sums.into_iter().zip(out[head * dims + first..].as_chunks_mut::<LANES>().0) {
                store_eight(sum, out);
            }
        }
    }
}

#[target_feature(enable = "neon")]
fn decode(from: Numbers<'_>, to: &mut [f32]) {
    match from {
        Numbers::F16(bits) => decode_of::<F16>(bits.as_ptr().cast(), from, to),
        Numbers::F32(values) => to.copy_from_slice(values),
        Numbers::Int8(bytes) => decode_of::<INT8>(bytes.as_ptr().cast(), from, to),
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn decode_of<const KIND: u8>(base: *const u8, from: Numbers<'_>, to: &mut [f32]) {
    let (whole, rest) = to.as_chunks_mut::<LANES>();
    let begin = from.len() - rest.len();
    for (i, to) in whole.iter_mut().enumerate() {
        // SAFETY: `from` is as long as `to`, and begins at `base`.
        store_eight(unsafe { load_eight::<KIND>(base, i * LANES) }, to);
    }
    for (i, to) in rest.iter_mut().enumerate() {
        *to = from.get(begin + i);
    }
}
