//! Attention for AVX2: up to four query heads meet each vector of keys or values while it is in a register.
//!
//! A score is summed over its dimensions in order, an output over its positions in order, each by fused multiply-adds, so
//! that neither the number of heads nor the width of vectors changes a bit of them.

use super::{AttentionKernels, BLOCK, Next, Numbers, Softmax};
use crate::float::avx2::{exp, load, max_lanes, store, sum_lanes};
use std::arch::x86_64::*;

pub(crate) static KERNELS: AttentionKernels = AttentionKernels { scores, softmax, accumulate, decode };

const LANES: usize = 8;

/// How numbers are stored, as a constant.
pub(super) const F16: u8 = 0;
pub(super) const F32: u8 = 1;
pub(super) const INT8: u8 = 2;

/// Eight numbers from index `at` on.
///
/// # Safety
/// - `base` must point to at least `at + 8` numbers of the type that `KIND` names.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_eight<const KIND: u8>(base: *const u8, at: usize) -> __m256 {
    // SAFETY: in bounds by the caller's promise; the loads need no alignment.
    unsafe {
        match KIND {
            F16 => _mm256_cvtph_ps(_mm_loadu_si128(base.add(2 * at).cast())),
            F32 => _mm256_loadu_ps(base.add(4 * at).cast()),
            _ => _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(base.add(at).cast()))),
        }
    }
}

/// Asks for the stretch of memory that will be read after the one at hand, a little with each step through that one, so that
/// memory never rests. It goes to the L2 cache: few lines can be on their way to L1 at a time.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    base: *const u8,
    bytes: usize,
    at: usize,
}

impl Ahead {
    /// Where asking begins. What is read first is then asked for last, which suits AVX2 better than the same order.
    const FIRST: usize = 1 << 10;

    /// `next`, of the type that `KIND` names.
    pub(super) fn new<const KIND: u8>(next: Numbers<'_>) -> Ahead {
        let bytes = next.len() * size::<KIND>();
        Ahead { base: next.address(), bytes, at: if bytes > Ahead::FIRST { Ahead::FIRST } else { 0 } }
    }

    /// Another so many bytes, whole cache lines or a part of one.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn ask(&mut self, bytes: usize) {
        for line in (0..bytes).step_by(64) {
            _mm_prefetch::<_MM_HINT_T1>(self.base.wrapping_add(self.at + line).cast());
        }
        self.at += bytes;
        if self.at >= self.bytes {
            self.at = 0;
        }
    }
}

/// Bytes of a number.
pub(super) const fn size<const KIND: u8>() -> usize {
    match KIND {
        F16 => 2,
        F32 => 4,
        _ => 1,
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn scores(q: &[f32], keys: Numbers<'_>, next: Next<'_>, scores: &mut [[f32; BLOCK]]) {
    match keys {
        Numbers::F16(bits) => scores_of::<F16>(q, bits.as_ptr().cast(), bits.len(), next, scores),
        Numbers::F32(values) => scores_of::<F32>(q, values.as_ptr().cast(), values.len(), next, scores),
        Numbers::Int8(bytes) => scores_of::<INT8>(q, bytes.as_ptr().cast(), bytes.len(), next, scores),
    }
}

/// `keys` points to `len` numbers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scores_of<const KIND: u8>(q: &[f32], keys: *const u8, len: usize, next: Next<'_>, scores: &mut [[f32; BLOCK]]) {
    let dims = len / BLOCK;
    let mut ahead = next.map(Ahead::new::<KIND>);
    assert!(q.len() == dims * scores.len(), "a query of {dims} for each row of scores");
    let (fours, rest) = scores.as_chunks_mut::<4>();
    let (q_fours, q_rest) = q.split_at(4 * dims * fours.len());
    for (q, scores) in q_fours.chunks_exact(4 * dims).zip(fours) {
        // SAFETY: `keys` has `dims * BLOCK` numbers, and every query `dims`.
        unsafe { score_heads::<KIND, 4, 2>(q, keys, dims, ahead.take(), scores) };
    }
    for (q, scores) in q_rest.chunks_exact(dims).zip(rest) {
        // SAFETY: as above.
        unsafe { score_heads::<KIND, 1, 8>(q, keys, dims, ahead.take(), std::array::from_mut(scores)) };
    }
}

/// Scores of `HEADS` queries, `VECTORS` times eight positions at a time.
///
/// # Safety
/// - `q` must hold `HEADS * dims` numbers, and `keys` point to `dims * BLOCK`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn score_heads<const KIND: u8, const HEADS: usize, const VECTORS: usize>(
    q: &[f32],
    keys: *const u8,
    dims: usize,
    mut ahead: Option<Ahead>,
    scores: &mut [[f32; BLOCK]; HEADS],
) {
    for first in (0..BLOCK).step_by(VECTORS * LANES) {
        let mut sums = [[_mm256_setzero_ps(); VECTORS]; HEADS];
        for dim in 0..dims {
            if let Some(ahead) = &mut ahead {
                ahead.ask(VECTORS * LANES * size::<KIND>());
            }
            let mut column = [_mm256_setzero_ps(); VECTORS];
            for (i, column) in column.iter_mut().enumerate() {
                // SAFETY: `dim < dims`, and the position is below BLOCK.
                *column = unsafe { load_eight::<KIND>(keys, dim * BLOCK + first + i * LANES) };
            }
            for (head, sums) in sums.iter_mut().enumerate() {
                // SAFETY: `q` has a number for every head and dimension.
                let q = _mm256_set1_ps(unsafe { *q.get_unchecked(head * dims + dim) });
                for (sum, column) in sums.iter_mut().zip(column) {
                    *sum = _mm256_fmadd_ps(q, column, *sum);
                }
            }
        }
        for (sums, scores) in sums.into_iter().zip(scores.iter_mut()) {
            let out = scores[first..].as_chunks_mut::<LANES>().0;
            for (sum, out) in sums.into_iter().zip(out) {
                store(sum, out);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn softmax(scores: &mut [f32; BLOCK], n: usize, scale: f32, state: &mut Softmax) -> f32 {
    scores[n..].fill(f32::NEG_INFINITY);
    let chunks = scores.as_chunks_mut::<LANES>().0;
    let scale = _mm256_set1_ps(scale);
    let mut max = _mm256_set1_ps(state.max);
    for chunk in chunks.iter() {
        max = _mm256_max_ps(max, _mm256_mul_ps(load(chunk), scale));
    }
    let max = max_lanes(max);
    let mut sum = _mm256_setzero_ps();
    for chunk in chunks.iter_mut() {
        let p = exp(_mm256_fmsub_ps(load(chunk), scale, _mm256_set1_ps(max)));
        sum = _mm256_add_ps(sum, p);
        store(p, chunk);
    }
    let shrink = (state.max - max).exp();
    *state = Softmax { max, sum: state.sum * shrink + sum_lanes(sum) };
    shrink
}

/// A block's values: `base` points to `positions * dims` numbers of the type that goes with it.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) base: *const u8,
    pub(super) dims: usize,
    pub(super) positions: usize,
}

#[target_feature(enable = "avx2,fma,f16c")]
fn accumulate(out: &mut [f32], shrink: &[f32], p: &[[f32; BLOCK]], values: Numbers<'_>, next: Next<'_>) {
    match values {
        Numbers::F16(bits) => accumulate_of::<F16>(out, shrink, p, bits.as_ptr().cast(), values, next),
        Numbers::F32(floats) => accumulate_of::<F32>(out, shrink, p, floats.as_ptr().cast(), values, next),
        Numbers::Int8(bytes) => accumulate_of::<INT8>(out, shrink, p, bytes.as_ptr().cast(), values, next),
    }
}

/// `base` is where `values` begin.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn accumulate_of<const KIND: u8>(
    out: &mut [f32],
    shrink: &[f32],
    p: &[[f32; BLOCK]],
    base: *const u8,
    values: Numbers<'_>,
    next: Next<'_>,
) {
    let dims = out.len() / shrink.len();
    let mut ahead = next.map(Ahead::new::<KIND>);
    let rows = Rows { base, dims, positions: values.len() / dims };
    let (fours, rest) = p.as_chunks::<4>();
    let (out_fours, out_rest) = out.split_at_mut(4 * dims * fours.len());
    let (shrink_fours, shrink_rest) = shrink.split_at(4 * fours.len());
    let whole = dims / LANES * LANES;
    for ((out, p), shrink) in out_fours.chunks_exact_mut(4 * dims).zip(fours).zip(shrink_fours.as_chunks::<4>().0) {
        let wide = whole / (2 * LANES) * (2 * LANES);
        // SAFETY: `rows` are those of `values`, and every output has `dims` numbers.
        unsafe {
            add_values::<KIND, 4, 2>(out, 0..wide, shrink, p, rows, ahead.take_if(|_| wide > 0));
            add_values::<KIND, 4, 1>(out, wide..whole, shrink, p, rows, ahead.take());
        }
    }
    for ((out, p), shrink) in out_rest.chunks_exact_mut(dims).zip(rest).zip(shrink_rest) {
        let (p, shrink) = (std::array::from_ref(p), std::array::from_ref(shrink));
        let wide = whole / (8 * LANES) * (8 * LANES);
        // SAFETY: as above.
        unsafe {
            add_values::<KIND, 1, 8>(out, 0..wide, shrink, p, rows, ahead.take_if(|_| wide > 0));
            add_values::<KIND, 1, 1>(out, wide..whole, shrink, p, rows, ahead.take());
        }
    }
    for ((out, p), shrink) in out.chunks_exact_mut(dims).zip(p).zip(shrink) {
        for (dim, out) in out.iter_mut().enumerate().skip(whole) {
            *out = (0..rows.positions).fold(*out * shrink, |sum, at| p[at].mul_add(values.get(at * dims + dim), sum));
        }
    }
}

/// Adds the values of some dimensions, whole runs of `VECTORS` times eight, to the outputs of `HEADS` heads.
///
/// # Safety
/// - `rows` must be what [`Rows`] says, `out` hold `HEADS * dims` numbers, and `range` lie within `0..dims`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_values<const KIND: u8, const HEADS: usize, const VECTORS: usize>(
    out: &mut [f32],
    range: std::ops::Range<usize>,
    shrink: &[f32; HEADS],
    p: &[[f32; BLOCK]; HEADS],
    rows: Rows,
    mut ahead: Option<Ahead>,
) {
    let Rows { base, dims, positions } = rows;
    for first in range.step_by(VECTORS * LANES) {
        let mut sums = [[_mm256_setzero_ps(); VECTORS]; HEADS];
        for (head, sums) in sums.iter_mut().enumerate() {
            for (sum, out) in sums.iter_mut().zip(out[head * dims + first..].as_chunks::<LANES>().0) {
                *sum = _mm256_mul_ps(load(out), _mm256_set1_ps(shrink[head]));
            }
        }
        for position in 0..positions.min(BLOCK) {
            if let Some(ahead) = &mut ahead {
                ahead.ask(VECTORS * LANES * size::<KIND>());
            }
            let mut row = [_mm256_setzero_ps(); VECTORS];
            for (i, row) in row.iter_mut().enumerate() {
                // SAFETY: the position is one of `positions`, the dimension within `range`.
                *row = unsafe { load_eight::<KIND>(base, position * dims + first + i * LANES) };
            }
            for (sums, p) in sums.iter_mut().zip(p) {
                let p = _mm256_set1_ps(p[position]);
                for (sum, row) in sums.iter_mut().zip(row) {
                    *sum = _mm256_fmadd_ps(p, row, *sum);
                }
            }
        }
        for (head, sums) in sums.into_iter().enumerate() {
            for (sum, out) in sums.into_iter().zip(out[head * dims + first..].as_chunks_mut::<LANES>().0) {
                store(sum, out);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn decode(from: Numbers<'_>, to: &mut [f32]) {
    match from {
        Numbers::F16(bits) => decode_of::<F16>(bits.as_ptr().cast(), from, to),
        Numbers::F32(values) => to.copy_from_slice(values),
        Numbers::Int8(bytes) => decode_of::<INT8>(bytes.as_ptr().cast(), from, to),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn decode_of<const KIND: u8>(base: *const u8, from: Numbers<'_>, to: &mut [f32]) {
    let (whole, rest) = to.as_chunks_mut::<LANES>();
    let begin = from.len() - rest.len();
    for (i, to) in whole.iter_mut().enumerate() {
        // SAFETY: `from` is as long as `to`, and begins at `base`.
        store(unsafe { load_eight::<KIND>(base, i * LANES) }, to);
    }
    for (i, to) in rest.iter_mut().enumerate() {
        *to = from.get(begin + i);
    }
}
