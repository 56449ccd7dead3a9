//! Float kernels for NEON.
//!
//! Sums run in eight vectors of four lanes, element `i` going to lane `i % 32`; the vectors are added pairwise, then the
//! lanes. A tail shorter than a vector goes through a zero-padded one, so every length uses the same order.

use super::FloatKernels;
use super::neon_rows::{decode_row, dot_row};
use crate::epilogue::Finish;
use crate::ternary::{self, DigitSums, MAX_DIGITS};
use std::arch::aarch64::*;

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

pub(super) const LANES: usize = 4;
/// Elements that go to different lanes of a sum.
pub(super) const STRIDE: usize = 32;

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn load(x: &[f32; LANES]) -> float32x4_t {
    // SAFETY: 16 readable bytes; the load needs no alignment.
    unsafe { vld1q_f32(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn store(value: float32x4_t, out: &mut [f32; LANES]) {
    // SAFETY: 16 writable bytes; the store needs no alignment.
    unsafe { vst1q_f32(out.as_mut_ptr(), value) }
}

/// Up to 4 numbers, the rest zeros.
#[inline]
#[target_feature(enable = "neon")]
fn load_tail(x: &[f32]) -> float32x4_t {
    let mut padded = [0.0; LANES];
    padded[..x.len()].copy_from_slice(x);
    load(&padded)
}

/// The lanes of two vectors: those of the first plus those of the second, then the halves, then the pair.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn sum_lanes(first: float32x4_t, second: float32x4_t) -> f32 {
    let half = vaddq_f32(first, second);
    let quarter = vaddq_f32(half, vextq_f32::<2>(half, half));
    vgetq_lane_f32::<0>(vaddq_f32(quarter, vrev64q_f32(quarter)))
}

/// The running sums of a dot product: element `i` goes to lane `i % 32`.
pub(super) type Sums = [float32x4_t; STRIDE / LANES];

/// Running sums of nothing.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn no_sums() -> Sums {
    [vdupq_n_f32(0.0); STRIDE / LANES]
}

/// The total of the running sums.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn total(sums: Sums) -> f32 {
    let quad =
        |lane: usize| vaddq_f32(vaddq_f32(sums[lane], sums[lane + 2]), vaddq_f32(sums[lane + 4], sums[lane + 6]));
    sum_lanes(quad(0), quad(1))
}

/// Adds the products of fewer than 32 pairs.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn add_tail(sums: &mut Sums, a: &[f32], b: &[f32]) {
    for ((sum, a), b) in sums.iter_mut().zip(a.chunks(LANES)).zip(b.chunks(LANES)) {
        *sum = vfmaq_f32(*sum, load_tail(a), load_tail(b));
    }
}

#[target_feature(enable = "neon")]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = no_sums();
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<STRIDE>(), b.as_chunks::<STRIDE>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a.as_chunks().0).zip(b.as_chunks().0) {
            *sum = vfmaq_f32(*sum, load(a), load(b));
        }
    }
    add_tail(&mut sums, a_tail, b_tail);
    total(sums)
}

#[target_feature(enable = "neon")]
fn quantize(x: &[f32], q: &mut [i8]) -> f32 {
    let infinity = vdupq_n_f32(f32::INFINITY);
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut max = vdupq_n_f32(1e-5);
    let mut finite = vdupq_n_u32(u32::MAX);
    for x in chunks.iter().map(|x| load(x)).chain([load_tail(tail)]) {
        let magnitude = vabsq_f32(x);
        finite = vandq_u32(finite, vcltq_f32(magnitude, infinity));
        max = vmaxq_f32(max, magnitude);
    }
    if vminvq_u32(finite) == 0 {
        q.fill(0);
        return f32::NAN;
    }
    let factor = 127.0 / vmaxvq_f32(max);
    let (x16, rest) = x.as_chunks::<{ 4 * LANES }>();
    let (q16, q_rest) = q.as_chunks_mut::<{ 4 * LANES }>();
    for (x, q) in x16.iter().zip(q16) {
        // To nearest even, and |x * factor| <= 127 up to rounding: narrowing saturates at 127.
        let int = |i: usize| vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(load(&x.as_chunks().0[i]), factor)));
        let words = |i: usize| vqmovn_s16(vcombine_s16(int(i), int(i + 1)));
        // SAFETY: 16 writable bytes; the store needs no alignment.
        unsafe { vst1q_s8(q.as_mut_ptr(), vcombine_s8(words(0), words(2))) };
    }
    for (q, x) in q_rest.iter_mut().zip(rest) {
        *q = (x * factor).round_ties_even().clamp(-128.0, 127.0) as i8;
    }
    factor
}

#[target_feature(enable = "neon")]
fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let factor = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * factor * weight;
    }
}

#[target_feature(enable = "neon")]
fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

#[target_feature(enable = "neon")]
fn relu2_mul(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        let positive = gate.max(0.0);
        *gate = positive * positive * up;
    }
}

#[target_feature(enable = "neon")]
fn quantize_exact(x: &[f32], digits: [&mut [i8]; MAX_DIGITS]) -> f32 {
    ternary::quantize_exact(x, digits)
}

#[target_feature(enable = "neon")]
fn add_group(scales: Option<&[f32]>, cols: usize, sums: DigitSums<'_>, totals: &mut [f32]) {
    ternary::add_group(scales, cols, sums, totals);
}

#[target_feature(enable = "neon")]
fn finish(how: Finish<'_>, sums: &[i32], out: &mut [f32]) {
    how.apply(sums, out, |gate, up| silu_mul(gate, up));
}

#[target_feature(enable = "neon")]
fn silu_mul(gate: &mut [f32], up: &[f32]) {
    let one = vdupq_n_f32(1.0);
    let silu = |x| vdivq_f32(x, vaddq_f32(one, exp(vnegq_f32(x))));
    let ((gate, gate_tail), (up, up_tail)) = (gate.as_chunks_mut::<LANES>(), up.as_chunks::<LANES>());
    for (gate, up) in gate.iter_mut().zip(up) {
        store(vmulq_f32(silu(load(gate)), load(up)), gate);
    }
    let mut last = [0.0; LANES];
    store(vmulq_f32(silu(load_tail(gate_tail)), load_tail(up_tail)), &mut last);
    let len = gate_tail.len();
    gate_tail.copy_from_slice(&last[..len]);
}

#[target_feature(enable = "neon")]
fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = x.split_at_mut(x.len() / 2);
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}

#[target_feature(enable = "neon")]
fn encode_f16(from: &[f32], to: &mut [u16]) {
    let ((from, from_tail), (to, to_tail)) = (from.as_chunks::<LANES>(), to.as_chunks_mut::<LANES>());
    for (from, to) in from.iter().zip(to) {
        // The rounding mode of a Rust program is to nearest even.
        let bits = vreinterpret_u16_f16(vcvt_f16_f32(load(from)));
        // SAFETY: 8 writable bytes; the store needs no alignment.
        unsafe { vst1_u16(to.as_mut_ptr(), bits) };
    }
    for (from, to) in from_tail.iter().zip(to_tail) {
        *to = half::f16::from_f32(*from).to_bits();
    }
}

/// `e^x` to about 2 ulp: `2^n * p(r)` with `n = round(x / ln 2)`, `r = x - n ln 2` in two steps, `p` of degree 6.
/// Below -87.3 (where the result would be denormal) it is 0; NaN stays NaN.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn exp(x: float32x4_t) -> float32x4_t {
    let set = |v: f32| vdupq_n_f32(v);
    let clamped = vmaxq_f32(set(-88.0), vminq_f32(set(88.0), x));
    let n = vrndnq_f32(vmulq_f32(clamped, set(std::f32::consts::LOG2_E)));
    let r = vfmsq_f32(clamped, n, set(0.693_359_4));
    let r = vfmsq_f32(r, n, set(-2.121_944_4e-4));
    let mut p = set(1.0 / 720.0);
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = vfmaq_f32(set(coefficient), p, r);
    }
    let power = vshlq_n_s32::<23>(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)));
    let result = vmulq_f32(p, vreinterpretq_f32_s32(power));
    let underflow = vcltq_f32(x, set(-87.3));
    let result = vbslq_f32(underflow, set(0.0), result);
    vbslq_f32(vceqq_f32(x, x), result, x)
}
