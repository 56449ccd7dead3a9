//! Attention for AVX-512: sixteen positions or dimensions to a vector; otherwise as for AVX2, with the same bits.

use super::avx2::{Ahead, F16, F32, INT8, Rows, decode, size};
use super::{AttentionKernels, BLOCK, Next, Numbers, Softmax};
use crate::float::avx512::{LANES, exp, load};
use std::arch::x86_64::*;

pub(crate) static KERNELS: AttentionKernels = AttentionKernels { scores, softmax, accumulate, decode };

/// Sixteen numbers from index `at` on, of which those outside `mask` are zeros and not read.
///
/// # Safety
/// - `base` must point to at least as many numbers of the type that `KIND` names as the mask reaches from `at` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
unsafe fn load_sixteen<const KIND: u8>(base: *const u8, at: usize, mask: __mmask16) -> __m512 {
    // SAFETY: in bounds by the caller's promise; the loads need no alignment.
    unsafe {
        match KIND {
            F16 => _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, base.add(2 * at).cast())),
            F32 => _mm512_maskz_loadu_ps(mask, base.add(4 * at).cast()),
            _ => _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, base.add(at).cast()))),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn scores(q: &[f32], keys: Numbers<'_>, next: Next<'_>, scores: &mut [[f32; BLOCK]]) {
    match keys {
        Numbers::F16(bits) => scores_of::<F16>(q, bits.as_ptr().cast(), bits.len(), next, scores),
        Numbers::F32(values) => scores_of::<F32>(q, values.as_ptr().cast(), values.len(), next, scores),
        Numbers::Int8(bytes) => scores_of::<INT8>(q, bytes.as_ptr().cast(), bytes.len(), next, scores),
    }
}

/// `keys` points to `len` numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn scores_of<const KIND: u8>(q: &[f32], keys: *const u8, len: usize, next: Next<'_>, scores: &mut [[f32; BLOCK]]) {
    let dims = len / BLOCK;
    let mut ahead = next.map(Ahead::new::<KIND>);
    assert!(q.len() == dims * scores.len(), "a query of {dims} for each row of scores");
    let (fours, rest) = scores.as_chunks_mut::<4>();
    let (q_fours, q_rest) = q.split_at(4 * dims * fours.len());
    for (q, scores) in q_fours.chunks_exact(4 * dims).zip(fours) {
        // SAFETY: `keys` has `dims * BLOCK` numbers, and every query `dims`.
        unsafe { score_heads::<KIND, 4>(q, keys, dims, ahead.take(), scores) };
    }
    for (q, scores) in q_rest.chunks_exact(dims).zip(rest) {
        // SAFETY: as above.
        unsafe { score_heads::<KIND, 1>(q, keys, dims, ahead.take(), std::array::from_mut(scores)) };
    }
}

/// Scores of `HEADS` queries for all positions.
///
/// # Safety
/// - `q` must hold `HEADS * dims` numbers, and `keys` point to `dims * BLOCK`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
unsafe fn score_heads<const KIND: u8, const HEADS: usize>(
    q: &[f32],
    keys: *const u8,
    dims: usize,
    mut ahead: Option<Ahead>,
    scores: &mut [[f32; BLOCK]; HEADS],
) {
    const VECTORS: usize = BLOCK / LANES;
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; HEADS];
    for dim in 0..dims {
        if let Some(ahead) = &mut ahead {
            ahead.ask(BLOCK * size::<KIND>());
        }
        let mut column = [_mm512_setzero_ps(); VECTORS];
        for (i, column) in column.iter_mut().enumerate() {
            // SAFETY: `dim < dims`, and the positions are below BLOCK.
            *column = unsafe { load_sixteen::<KIND>(keys, dim * BLOCK + i * LANES, !0) };
        }
        for (head, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `q` has a number for every head and dimension.
            let q = _mm512_set1_ps(unsafe { *q.get_unchecked(head * dims + dim) });
            for (sum, column) in sums.iter_mut().zip(column) {
                *sum = _mm512_fmadd_ps(q, column, *sum);
            }
        }
    }
    for (sums, scores) in sums.into_iter().zip(scores) {
        for (sum, out) in sums.into_iter().zip(scores.as_chunks_mut::<LANES>().0) {
            // SAFETY: 64 writable bytes; the store needs no alignment.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn softmax(scores: &mut [f32; BLOCK], n: usize, scale: f32, state: &mut Softmax) -> f32 {
    scores[n..].fill(f32::NEG_INFINITY);
    let chunks = scores.as_chunks_mut::<LANES>().0;
    let scale = _mm512_set1_ps(scale);
    let mut max = _mm512_set1_ps(state.max);
    for chunk in chunks.iter() {
        max = _mm512_max_ps(max, _mm512_mul_ps(load(chunk), scale));
    }
    let max = _mm512_reduce_max_ps(max);
    let mut sum = _mm512_setzero_ps();
    for chunk in chunks.iter_mut() {
        let p = exp(_mm512_fmsub_ps(load(chunk), scale, _mm512_set1_ps(max)));
        sum = _mm512_add_ps(sum, p);
        // SAFETY: 64 writable bytes; the store needs no alignment.
        unsafe { _mm512_storeu_ps(chunk.as_mut_ptr(), p) };
    }
    let shrink = (state.max - max).exp();
    *state = Softmax { max, sum: state.sum * shrink + _mm512_reduce_add_ps(sum) };
    shrink
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn accumulate(out: &mut [f32], shrink: &[f32], p: &[[f32; BLOCK]], values: Numbers<'_>, next: Next<'_>) {
    match values {
        Numbers::F16(bits) => accumulate_of::<F16>(out, shrink, p, bits.as_ptr().cast(), bits.len(), next),
        Numbers::F32(floats) => accumulate_of::<F32>(out, shrink, p, floats.as_ptr().cast(), floats.len(), next),
        Numbers::Int8(bytes) => accumulate_of::<INT8>(out, shrink, p, bytes.as_ptr().cast(), bytes.len(), next),
    }
}

/// `values` points to `len` numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn accumulate_of<const KIND: u8>(
    out: &mut [f32],
    shrink: &[f32],
    p: &[[f32; BLOCK]],
    values: *const u8,
    len: usize,
    next: Next<'_>,
) {
    let dims = out.len() / shrink.len();
    let mut ahead = next.map(Ahead::new::<KIND>);
    let rows = Rows { base: values, dims, positions: len / dims };
    assert!(rows.positions <= BLOCK && out.len() == dims * p.len(), "outputs of {dims} for each row of weights");
    let (fours, rest) = p.as_chunks::<4>();
    let (out_fours, out_rest) = out.split_at_mut(4 * dims * fours.len());
    let (shrink_fours, shrink_rest) = shrink.split_at(4 * fours.len());
    let wide = dims / (4 * LANES) * (4 * LANES);
    for ((out, p), shrink) in out_fours.chunks_exact_mut(4 * dims).zip(fours).zip(shrink_fours.as_chunks::<4>().0) {
        // SAFETY: `rows` are those of `values`, and every output has `dims` numbers.
        unsafe {
            add_values::<KIND, 4, 4>(out, 0..wide, shrink, p, rows, ahead.take_if(|_| wide > 0));
            add_values::<KIND, 4, 1>(out, wide..dims, shrink, p, rows, ahead.take());
        }
    }
    for ((out, p), shrink) in out_rest.chunks_exact_mut(dims).zip(rest).zip(shrink_rest) {
        let (p, shrink) = (std::array::from_ref(p), std::array::from_ref(shrink));
        // SAFETY: as above.
        unsafe {
            add_values::<KIND, 1, 4>(out, 0..wide, shrink, p, rows, ahead.take_if(|_| wide > 0));
            add_values::<KIND, 1, 1>(out, wide..dims, shrink, p, rows, ahead.take());
        }
    }
}

/// Adds the values of some dimensions to the outputs of `HEADS` heads, `VECTORS` times sixteen dimensions at a time, fewer
/// at the end where `VECTORS` is 1.
///
/// # Safety
/// - `rows` must be what [`Rows`] says, `out` hold `HEADS * dims` numbers, and `range` lie within `0..dims`.
/// - `range` must be whole runs of `16 * VECTORS`, or `VECTORS` be 1.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
unsafe fn add_values<const KIND: u8, const HEADS: usize, const VECTORS: usize>(
    out: &mut [f32],
    range: std::ops::Range<usize>,
    shrink: &[f32; HEADS],
    p: &[[f32; BLOCK]; HEADS],
    rows: Rows,
    mut ahead: Option<Ahead>,
) {
    let Rows { base, dims, positions } = rows;
    let end = range.end;
    for first in range.step_by(VECTORS * LANES) {
        // Whole runs need no mask, and storing under one takes long on some CPUs.
        let mask: __mmask16 = if VECTORS == 1 && end - first < LANES { (1 << (end - first)) - 1 } else { !0 };
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; HEADS];
        for (head, sums) in sums.iter_mut().enumerate() {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: within this head's `dims` outputs, the mask leaving out what is past their end.
                let before = unsafe { _mm512_maskz_loadu_ps(mask, out.as_ptr().add(head * dims + first + i * LANES)) };
                *sum = _mm512_mul_ps(before, _mm512_set1_ps(shrink[head]));
            }
        }
        for position in 0..positions.min(BLOCK) {
            if let Some(ahead) = &mut ahead {
                ahead.ask(VECTORS * LANES * size::<KIND>());
            }
            let mut row = [_mm512_setzero_ps(); VECTORS];
            for (i, row) in row.iter_mut().enumerate() {
                // SAFETY: the position is one of `positions`, the dimensions within `range` where the mask is set.
                *row = unsafe { load_sixteen::<KIND>(base, position * dims + first + i * LANES, mask) };
            }
            for (sums, p) in sums.iter_mut().zip(p) {
                let p = _mm512_set1_ps(p[position]);
                for (sum, row) in sums.iter_mut().zip(row) {
                    *sum = _mm512_fmadd_ps(p, row, *sum);
                }
            }
        }
        for (head, sums) in sums.into_iter().enumerate() {
            for (i, sum) in sums.into_iter().enumerate() {
                // SAFETY: as for the load.
                unsafe {
                    _mm512_mask_storeu_ps(out.as_mut_ptr().add(head * dims + first + i * LANES), mask, sum);
                }
            }
        }
    }
}
