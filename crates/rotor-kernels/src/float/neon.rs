//! Float kernels for NEON.
//!
//! Sums run in eight vectors of four lanes, element `i` going to lane `i % 32`; the vectors are added pairwise, then the
//! lanes. A tail shorter than a vector goes through a zero-padded one, so every length uses the same order.

use super::neon_rows::{decode_row, dot_row};
use super::{BLOCK, FloatKernels, Rows, Softmax};
use std::arch::aarch64::*;

pub(crate) const KERNELS: FloatKernels = FloatKernels {
    quantize,
    rms_norm,
    silu_mul,
    relu2_mul,
    add,
    rotate,
    dot,
    decode_row,
    dot_row,
    decode_f16,
    encode_f16,
    transpose_keys,
    scores,
    softmax,
    accumulate,
};

pub(super) const LANES: usize = 4;
/// Elements that go to different lanes of a sum.
pub(super) const STRIDE: usize = 32;

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load(x: &[f32; LANES]) -> float32x4_t {
    // SAFETY: 16 readable bytes; the load needs no alignment.
    unsafe { vld1q_f32(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn store(value: float32x4_t, out: &mut [f32; LANES]) {
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

#[inline]
#[target_feature(enable = "neon")]
fn load_f16(bits: &[u16; LANES]) -> float32x4_t {
    // SAFETY: 8 readable bytes; the load needs no alignment.
    vcvt_f32_f16(vreinterpret_f16_u16(unsafe { vld1_u16(bits.as_ptr()) }))
}

/// The lanes of two vectors: those of the first plus those of the second, then the halves, then the pair.
#[inline]
#[target_feature(enable = "neon")]
fn sum_lanes(first: float32x4_t, second: float32x4_t) -> f32 {
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
fn decode_f16(from: &[u16], to: &mut [f32]) {
    let ((from, from_tail), (to, to_tail)) = (from.as_chunks::<LANES>(), to.as_chunks_mut::<LANES>());
    for (from, to) in from.iter().zip(to) {
        store(load_f16(from), to);
    }
    for (from, to) in from_tail.iter().zip(to_tail) {
        *to = half::f16::from_bits(*from).to_f32();
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
fn exp(x: float32x4_t) -> float32x4_t {
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

#[target_feature(enable = "neon")]
fn transpose_keys(rows: Rows<'_>, dims: usize, transposed: &mut [f32]) {
    let count = rows.len() / dims;
    let whole = dims / LANES * LANES;
    let out = transposed.as_chunks_mut::<BLOCK>().0;
    for position in (0..count).step_by(LANES) {
        // Absent rows become zeros; columns past the last whole square are copied one by one.
        for dim in (0..whole).step_by(LANES) {
            let square: [float32x4_t; LANES] = std::array::from_fn(|i| {
                let at = (position + i) * dims + dim;
                match rows {
                    _ if position + i >= count => vdupq_n_f32(0.0),
                    Rows::F16(bits) => load_f16(&bits[at..].as_chunks().0[0]),
                    Rows::F32(values) => load(&values[at..].as_chunks().0[0]),
                }
            });
            for (i, column) in transpose(square).into_iter().enumerate() {
                store(column, &mut out[dim + i][position..].as_chunks_mut().0[0]);
            }
        }
        for (dim, i) in (whole..dims).flat_map(|dim| (0..LANES).map(move |i| (dim, i))) {
            let row = position + i;
            out[dim][row] = if row < count { rows.get(row * dims + dim) } else { 0.0 };
        }
    }
    for column in out {
        column[count.next_multiple_of(LANES)..].fill(0.0);
    }
}

/// Transposes a 4 x 4 square.
#[inline]
#[target_feature(enable = "neon")]
fn transpose([a, b, c, d]: [float32x4_t; LANES]) -> [float32x4_t; LANES] {
    let pairs = |first, second| {
        (vreinterpretq_f64_f32(vtrn1q_f32(first, second)), vreinterpretq_f64_f32(vtrn2q_f32(first, second)))
    };
    let ((even_ab, odd_ab), (even_cd, odd_cd)) = (pairs(a, b), pairs(c, d));
    [
        vreinterpretq_f32_f64(vtrn1q_f64(even_ab, even_cd)),
        vreinterpretq_f32_f64(vtrn1q_f64(odd_ab, odd_cd)),
        vreinterpretq_f32_f64(vtrn2q_f64(even_ab, even_cd)),
        vreinterpretq_f32_f64(vtrn2q_f64(odd_ab, odd_cd)),
    ]
}

#[target_feature(enable = "neon")]
fn scores(q: &[f32], transposed: &[f32], scores: &mut [f32; BLOCK]) {
    let mut sums = [vdupq_n_f32(0.0); BLOCK / LANES];
    for (q, keys) in q.iter().zip(transposed.as_chunks::<BLOCK>().0) {
        let q = vdupq_n_f32(*q);
        for (sum, keys) in sums.iter_mut().zip(keys.as_chunks::<LANES>().0) {
            *sum = vfmaq_f32(*sum, q, load(keys));
        }
    }
    for (sum, scores) in sums.into_iter().zip(scores.as_chunks_mut::<LANES>().0) {
        store(sum, scores);
    }
}

#[target_feature(enable = "neon")]
fn softmax(scores: &mut [f32; BLOCK], n: usize, scale: f32, state: &mut Softmax) -> f32 {
    scores[n..].fill(f32::NEG_INFINITY);
    let pairs = scores.as_chunks_mut::<LANES>().0.as_chunks_mut::<2>().0;
    let scale = vdupq_n_f32(scale);
    let mut max = vdupq_n_f32(state.max);
    for chunk in pairs.iter().flatten() {
        max = vmaxq_f32(max, vmulq_f32(load(chunk), scale));
    }
    let max = vmaxvq_f32(max);
    let less = vdupq_n_f32(-max);
    let mut sums = [vdupq_n_f32(0.0); 2];
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
fn accumulate(out: &mut [f32], shrink: f32, p: &[f32], values: &[f32]) {
    let dims = out.len();
    const WIDE: usize = 16;
    let (wide, rest) = out.as_chunks_mut::<{ WIDE * LANES }>();
    for (group, out) in wide.iter_mut().enumerate() {
        let out = out.as_chunks_mut::<LANES>().0;
        let mut sums: [float32x4_t; WIDE] = std::array::from_fn(|i| vmulq_n_f32(load(&out[i]), shrink));
        for (p, row) in p.iter().zip(values.chunks_exact(dims)) {
            let p = vdupq_n_f32(*p);
            let row = row[group * WIDE * LANES..][..WIDE * LANES].as_chunks::<LANES>().0;
            for (sum, values) in sums.iter_mut().zip(row) {
                *sum = vfmaq_f32(*sum, p, load(values));
            }
        }
        for (sum, out) in sums.into_iter().zip(out) {
            store(sum, out);
        }
    }
    let start = dims - rest.len();
    for out in rest.iter_mut() {
        *out *= shrink;
    }
    for (p, row) in p.iter().zip(values.chunks_exact(dims)) {
        for (out, value) in rest.iter_mut().zip(&row[start..]) {
            *out = p.mul_add(*value, *out);
        }
    }
}
