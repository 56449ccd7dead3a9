//! Float kernels for AVX2, FMA and F16C.
//!
//! Sums run in four vectors of eight lanes, element `i` going to lane `i % 32`; the vectors are added pairwise, then the
//! lanes. A tail shorter than a vector goes through a zero-padded one, so every length uses the same order.

use super::FloatKernels;
use super::avx2_rows::{decode_row, dot_row};
use crate::epilogue::Finish;
use crate::ternary::{self, DigitSums, MAX_DIGITS};
use std::arch::x86_64::*;

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

pub(super) const LANES: usize = 8;

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn load(x: &[f32; LANES]) -> __m256 {
    // SAFETY: 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn store(value: __m256, out: &mut [f32; LANES]) {
    // SAFETY: 32 writable bytes; the store needs no alignment.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), value) }
}

/// Up to 8 numbers, the rest zeros.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_tail(x: &[f32]) -> __m256 {
    let mut padded = [0.0; LANES];
    padded[..x.len()].copy_from_slice(x);
    load(&padded)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn sum_lanes(v: __m256) -> f32 {
    let half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
    _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn max_lanes(v: __m256) -> f32 {
    let half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let quarter = _mm_max_ps(half, _mm_movehl_ps(half, half));
    _mm_cvtss_f32(_mm_max_ss(quarter, _mm_movehdup_ps(quarter)))
}

/// The running sums of a dot product: element `i` goes to lane `i % 32`.
pub(super) type Sums = [__m256; 4];

/// The total of the running sums.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn total(sums: Sums) -> f32 {
    sum_lanes(_mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])))
}

/// Adds the products of fewer than 32 pairs.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn add_tail(sums: &mut Sums, a: &[f32], b: &[f32]) {
    for ((sum, a), b) in sums.iter_mut().zip(a.chunks(LANES)).zip(b.chunks(LANES)) {
        *sum = _mm256_fmadd_ps(load_tail(a), load_tail(b), *sum);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [_mm256_setzero_ps(); 4];
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<{ 4 * LANES }>(), b.as_chunks::<{ 4 * LANES }>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a.as_chunks().0).zip(b.as_chunks().0) {
            *sum = _mm256_fmadd_ps(load(a), load(b), *sum);
        }
    }
    add_tail(&mut sums, a_tail, b_tail);
    total(sums)
}

#[target_feature(enable = "avx2,fma,f16c")]
fn quantize(x: &[f32], q: &mut [i8]) -> f32 {
    let sign = _mm256_set1_ps(-0.0);
    let infinity = _mm256_set1_ps(f32::INFINITY);
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut max = _mm256_set1_ps(1e-5);
    let mut finite = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    for x in chunks {
        let magnitude = _mm256_andnot_ps(sign, load(x));
        finite = _mm256_and_ps(finite, _mm256_cmp_ps::<_CMP_LT_OQ>(magnitude, infinity));
        max = _mm256_max_ps(max, magnitude);
    }
    let tail_magnitude = _mm256_andnot_ps(sign, load_tail(tail));
    finite = _mm256_and_ps(finite, _mm256_cmp_ps::<_CMP_LT_OQ>(tail_magnitude, infinity));
    if _mm256_movemask_ps(finite) != 0xff {
        q.fill(0);
        return f32::NAN;
    }
    let factor = 127.0 / max_lanes(_mm256_max_ps(max, tail_magnitude));
    let scaled = _mm256_set1_ps(factor);
    let (x32, rest) = x.as_chunks::<{ 4 * LANES }>();
    let (q32, q_rest) = q.as_chunks_mut::<{ 4 * LANES }>();
    for (x, q) in x32.iter().zip(q32) {
        // The default rounding mode is to nearest even, and |x * factor| <= 127 up to rounding: packing saturates at 127.
        let int = |i: usize| _mm256_cvtps_epi32(_mm256_mul_ps(load(&x.as_chunks().0[i]), scaled));
        let words = [_mm256_packs_epi32(int(0), int(1)), _mm256_packs_epi32(int(2), int(3))];
        let bytes = _mm256_packs_epi16(words[0], words[1]);
        let ordered = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        // SAFETY: 32 writable bytes; the store needs no alignment.
        unsafe { _mm256_storeu_si256(q.as_mut_ptr().cast(), ordered) };
    }
    for (q, x) in q_rest.iter_mut().zip(rest) {
        *q = (x * factor).round_ties_even().clamp(-128.0, 127.0) as i8;
    }
    factor
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let factor = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * factor * weight;
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn relu2_mul(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        let positive = gate.max(0.0);
        *gate = positive * positive * up;
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_exact(x: &[f32], digits: [&mut [i8]; MAX_DIGITS]) -> f32 {
    ternary::quantize_exact(x, digits)
}

#[target_feature(enable = "avx2,fma,f16c")]
fn add_group(scales: Option<&[f32]>, cols: usize, sums: DigitSums<'_>, totals: &mut [f32]) {
    ternary::add_group(scales, cols, sums, totals);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn finish(how: Finish<'_>, sums: &[i32], out: &mut [f32]) {
    how.apply(sums, out, |gate, up| silu_mul(gate, up));
}

#[target_feature(enable = "avx2,fma,f16c")]
fn silu_mul(gate: &mut [f32], up: &[f32]) {
    let one = _mm256_set1_ps(1.0);
    let silu = |x| _mm256_div_ps(x, _mm256_add_ps(one, exp(_mm256_sub_ps(_mm256_setzero_ps(), x))));
    let ((gate, gate_tail), (up, up_tail)) = (gate.as_chunks_mut::<LANES>(), up.as_chunks::<LANES>());
    for (gate, up) in gate.iter_mut().zip(up) {
        store(_mm256_mul_ps(silu(load(gate)), load(up)), gate);
    }
    let mut last = [0.0; LANES];
    store(_mm256_mul_ps(silu(load_tail(gate_tail)), load_tail(up_tail)), &mut last);
    let len = gate_tail.len();
    gate_tail.copy_from_slice(&last[..len]);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = x.split_at_mut(x.len() / 2);
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn encode_f16(from: &[f32], to: &mut [u16]) {
    let ((from, from_tail), (to, to_tail)) = (from.as_chunks::<LANES>(), to.as_chunks_mut::<LANES>());
    for (from, to) in from.iter().zip(to) {
        let bits = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(load(from));
        // SAFETY: 16 writable bytes; the store needs no alignment.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), bits) };
    }
    for (from, to) in from_tail.iter().zip(to_tail) {
        *to = half::f16::from_f32(*from).to_bits();
    }
}

/// `e^x` to about 2 ulp: `2^n * p(r)` with `n = round(x / ln 2)`, `r = x - n ln 2` in two steps, `p` of degree 6.
/// Below -87.3 (where the result would be denormal) it is 0; NaN stays NaN.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn exp(x: __m256) -> __m256 {
    let set = |v: f32| _mm256_set1_ps(v);
    let clamped = _mm256_max_ps(set(-88.0), _mm256_min_ps(set(88.0), x));
    let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm256_mul_ps(
        clamped,
        set(std::f32::consts::LOG2_E),
    ));
    let r = _mm256_fnmadd_ps(n, set(0.693_359_4), clamped);
    let r = _mm256_fnmadd_ps(n, set(-2.121_944_4e-4), r);
    let mut p = set(1.0 / 720.0);
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = _mm256_fmadd_ps(p, r, set(coefficient));
    }
    let power = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)));
    let result = _mm256_mul_ps(p, _mm256_castsi256_ps(power));
    let underflow = _mm256_cmp_ps::<_CMP_LT_OQ>(x, set(-87.3));
    let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x);
    _mm256_blendv_ps(_mm256_andnot_ps(underflow, result), x, nan)
}
