//! Float kernels for AVX-512: sixteen lanes.
//!
//! Element by element they compute what the AVX2 file computes, with the same bits; the sum of squares of a norm runs in four
//! vectors, element `i` going to lane `i % 64`. Tails are loaded under a mask, zeros standing for what is past the end; whole
//! vectors are not: with whole vectors stored under a mask too, a Zen 5 took in a prompt at 173 tokens a second, not 195.
//! Dot products and stored rows are those of AVX2: they wait for memory.
//!
//! # Division by multiplication
//!
//! Outputs are `a / b` with one `b` for a whole token, and on many CPUs a division takes longer than the five multiplications
//! that do for it. So `b`'s reciprocal `y`, correctly rounded, is multiplied: `q0 = a y` is off by less than two units in the
//! last place, `q1 = q0 + (a - b q0) y` by less than one, and then `q1 + (a - b q1) y` is the correctly rounded quotient
//! (Markstein, Computation of elementary functions on the IBM RISC System/6000 processor, 1990), as long as no remainder
//! underflows, which [`Divisor`] sees to.

use super::FloatKernels;
use super::avx2::dot;
use super::avx2_rows::{decode_row, dot_row};
use crate::epilogue::{Epilogue, Finish, RowScale};
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

pub(crate) const LANES: usize = 16;

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(crate) fn load(x: &[f32; LANES]) -> __m512 {
    // SAFETY: 64 readable bytes; the load needs no alignment.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(crate) fn store(value: __m512, out: &mut [f32; LANES]) {
    // SAFETY: 64 writable bytes; the store needs no alignment.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), value) }
}

/// The lanes that `len` numbers fill, at most 16.
#[inline]
fn lanes(len: usize) -> __mmask16 {
    if len < LANES { (1 << len) - 1 } else { !0 }
}

/// Up to 16 numbers, the rest zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn load_up_to(x: &[f32]) -> __m512 {
    // SAFETY: the mask leaves out what is past the end.
    unsafe { _mm512_maskz_loadu_ps(lanes(x.len()), x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn store_up_to(value: __m512, out: &mut [f32]) {
    // SAFETY: the mask leaves out what is past the end.
    unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), lanes(out.len()), value) }
}

/// `x[i] = f(x[i], y[i])`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn zip(x: &mut [f32], y: &[f32], f: impl Fn(__m512, __m512) -> __m512) {
    let ((x, x_tail), (y, y_tail)) = (x.as_chunks_mut::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x.iter_mut().zip(y) {
        store(f(load(x), load(y)), x);
    }
    if !x_tail.is_empty() {
        store_up_to(f(load_up_to(x_tail), load_up_to(y_tail)), x_tail);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn quantize(x: &[f32], q: &mut [i8]) -> f32 {
    // Magnitudes compare as integers do, and what is not finite lies above all that is.
    let magnitude = |x| _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(i32::MAX));
    let mut largest = [_mm512_set1_epi32(1e-5f32.to_bits().cast_signed()); 4];
    let (x64, tail) = x.as_chunks::<{ 4 * LANES }>();
    for x in x64 {
        for (largest, x) in largest.iter_mut().zip(x.as_chunks().0) {
            *largest = _mm512_max_epu32(*largest, magnitude(load(x)));
        }
    }
    for (largest, x) in largest.iter_mut().zip(tail.chunks(LANES)) {
        *largest = _mm512_max_epu32(*largest, magnitude(load_up_to(x)));
    }
    let pairs = [_mm512_max_epu32(largest[0], largest[1]), _mm512_max_epu32(largest[2], largest[3])];
    let largest = f32::from_bits(_mm512_reduce_max_epu32(_mm512_max_epu32(pairs[0], pairs[1])));
    if !largest.is_finite() {
        q.fill(0);
        return f32::NAN;
    }
    let factor = 127.0 / largest;
    let scaled = _mm512_set1_ps(factor);
    let (q64, q_tail) = q.as_chunks_mut::<{ 4 * LANES }>();
    for (x, q) in x64.iter().zip(q64) {
        // The default rounding mode is to nearest even, and |x * factor| <= 127 up to rounding: packing saturates at 127.
        let int = |i: usize| _mm512_cvtps_epi32(_mm512_mul_ps(load(&x.as_chunks().0[i]), scaled));
        let words = [_mm512_packs_epi32(int(0), int(1)), _mm512_packs_epi32(int(2), int(3))];
        let bytes = _mm512_packs_epi16(words[0], words[1]);
        // Packing works within 128 bits: four values of each input in turn.
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        // SAFETY: 64 writable bytes; the store needs no alignment.
        unsafe { _mm512_storeu_si512(q.as_mut_ptr().cast(), _mm512_permutexvar_epi32(order, bytes)) };
    }
    for (q, x) in q_tail.iter_mut().zip(tail) {
        *q = (x * factor).round_ties_even().clamp(-128.0, 127.0) as i8;
    }
    factor
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mut sums = [_mm512_setzero_ps(); 4];
    let (x64, tail) = x.as_chunks::<{ 4 * LANES }>();
    for x in x64 {
        for (sum, x) in sums.iter_mut().zip(x.as_chunks().0) {
            *sum = _mm512_fmadd_ps(load(x), load(x), *sum);
        }
    }
    for (sum, x) in sums.iter_mut().zip(tail.chunks(LANES)) {
        let x = load_up_to(x);
        *sum = _mm512_fmadd_ps(x, x, *sum);
    }
    let pairs = [_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])];
    let squares = _mm512_reduce_add_ps(_mm512_add_ps(pairs[0], pairs[1]));
    let factor = _mm512_set1_ps(1.0 / (squares / x.len() as f32 + eps).sqrt());
    let ((x, x_tail), (weight, weight_tail)) = (x.as_chunks::<LANES>(), weight.as_chunks::<LANES>());
    let (out, out_tail) = out.as_chunks_mut::<LANES>();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        store(_mm512_mul_ps(_mm512_mul_ps(load(x), factor), load(weight)), out);
    }
    if !out_tail.is_empty() {
        let normed = _mm512_mul_ps(_mm512_mul_ps(load_up_to(x_tail), factor), load_up_to(weight_tail));
        store_up_to(normed, out_tail);
    }
}

/// What many numbers are divided by.
#[derive(Clone, Copy)]
struct Divisor {
    value: __m512,
    reciprocal: __m512,
}

impl Divisor {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
    fn new(value: f32) -> Divisor {
        Divisor { value: _mm512_set1_ps(value), reciprocal: _mm512_set1_ps(1.0 / value) }
    }

    /// Whether int32 times `scale` can be divided by `factor` with [`Divisor::quotient`]. A product is then 0 or at least
    /// 2^-30 and at most 2^61 in size, the quotient at least 2^-60, and a remainder a multiple of 2^-138, which is above
    /// f32's smallest number. A negative scale is left out for the sake of the sign of zero.
    fn can_divide(scale: f32, factor: f32) -> bool {
        const RANGE: std::ops::RangeInclusive<f32> = 1.0 / (1 << 30) as f32..=(1 << 30) as f32;
        RANGE.contains(&scale) && RANGE.contains(&factor)
    }

    /// `a / value`, correctly rounded.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
    fn quotient(self, a: __m512) -> __m512 {
        let q = _mm512_mul_ps(a, self.reciprocal);
        let q = _mm512_fmadd_ps(_mm512_fnmadd_ps(self.value, q, a), self.reciprocal, q);
        _mm512_fmadd_ps(_mm512_fnmadd_ps(self.value, q, a), self.reciprocal, q)
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn quantize_exact(x: &[f32], digits: [&mut [i8]; MAX_DIGITS]) -> f32 {
    ternary::quantize_exact(x, digits)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn add_group(scales: Option<&[f32]>, cols: usize, sums: DigitSums<'_>, totals: &mut [f32]) {
    ternary::add_group(scales, cols, sums, totals);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn finish(how: Finish<'_>, sums: &[i32], out: &mut [f32]) {
    match how.epilogue {
        Epilogue::Store => put(how, sums, out, |_, y| y),
        Epilogue::Add => put(how, sums, out, |x, y| _mm512_add_ps(x, y)),
        Epilogue::SiluMul => put(how, sums, out, |gate, y| _mm512_mul_ps(silu(gate), y)),
        Epilogue::Relu2Mul => put(how, sums, out, |gate, y| _mm512_mul_ps(relu2(gate), y)),
        Epilogue::GeluMul => how.apply(sums, out, |gate, up| silu_mul(gate, up)),
    }
}

/// `out[i] = f(out[i], y[i])`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn put(how: Finish<'_>, sums: &[i32], out: &mut [f32], f: impl Fn(__m512, __m512) -> __m512) {
    match how.scales {
        RowScale::Same(scale) if Divisor::can_divide(scale, how.factor) => {
            let (scale, divisor) = (_mm512_set1_ps(scale), Divisor::new(how.factor));
            for_each_sixteen(sums, out, |_, sums, x| f(x, divisor.quotient(_mm512_mul_ps(sums, scale))));
        }
        RowScale::Same(scale) => {
            let (scale, factor) = (_mm512_set1_ps(scale), _mm512_set1_ps(how.factor));
            for_each_sixteen(sums, out, |_, sums, x| f(x, _mm512_div_ps(_mm512_mul_ps(sums, scale), factor)));
        }
        RowScale::Each(scales) => {
            let factor = _mm512_set1_ps(how.factor);
            for_each_sixteen(sums, out, |at, sums, x| {
                let scale = load_up_to(&scales[at..scales.len().min(at + LANES)]);
                f(x, _mm512_div_ps(_mm512_mul_ps(sums, scale), factor))
            });
        }
    }
}

/// `out[i] = f(i, sums[i], out[i])`, sixteen at a time.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn for_each_sixteen(sums: &[i32], out: &mut [f32], f: impl Fn(usize, __m512, __m512) -> __m512) {
    let ((sums, sums_tail), (out, out_tail)) = (sums.as_chunks::<LANES>(), out.as_chunks_mut::<LANES>());
    for (i, (sums, out)) in sums.iter().zip(out).enumerate() {
        // SAFETY: 64 readable bytes; the load needs no alignment.
        let sums = unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) };
        store(f(i * LANES, _mm512_cvtepi32_ps(sums), load(out)), out);
    }
    if !out_tail.is_empty() {
        // SAFETY: the mask leaves out what is past the end.
        let tail = unsafe { _mm512_maskz_loadu_epi32(lanes(sums_tail.len()), sums_tail.as_ptr()) };
        store_up_to(f(sums.len() * LANES, _mm512_cvtepi32_ps(tail), load_up_to(out_tail)), out_tail);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn silu(x: __m512) -> __m512 {
    _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0), exp(_mm512_sub_ps(_mm512_setzero_ps(), x))))
}

/// `max(x, 0)^2`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn relu2(x: __m512) -> __m512 {
    let positive = _mm512_max_ps(x, _mm512_setzero_ps());
    _mm512_mul_ps(positive, positive)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn add(x: &mut [f32], y: &[f32]) {
    zip(x, y, |x, y| _mm512_add_ps(x, y));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn relu2_mul(gate: &mut [f32], up: &[f32]) {
    zip(gate, up, |gate, up| _mm512_mul_ps(relu2(gate), up));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn silu_mul(gate: &mut [f32], up: &[f32]) {
    zip(gate, up, |gate, up| _mm512_mul_ps(silu(gate), up));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let rotated = |a, b, cos, sin| {
        let first = _mm512_sub_ps(_mm512_mul_ps(a, cos), _mm512_mul_ps(b, sin));
        (first, _mm512_add_ps(_mm512_mul_ps(a, sin), _mm512_mul_ps(b, cos)))
    };
    let (first, second) = x.split_at_mut(x.len() / 2);
    let ((first, first_tail), (second, second_tail)) =
        (first.as_chunks_mut::<LANES>(), second.as_chunks_mut::<LANES>());
    let ((cos, cos_tail), (sin, sin_tail)) = (cos.as_chunks::<LANES>(), sin.as_chunks::<LANES>());
    for ((first, second), (cos, sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
        let (a, b) = rotated(load(first), load(second), load(cos), load(sin));
        store(a, first);
        store(b, second);
    }
    if !first_tail.is_empty() {
        let (a, b) = (load_up_to(first_tail), load_up_to(second_tail));
        let (a, b) = rotated(a, b, load_up_to(cos_tail), load_up_to(sin_tail));
        store_up_to(a, first_tail);
        store_up_to(b, second_tail);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn encode_f16(from: &[f32], to: &mut [u16]) {
    let ((from, from_tail), (to, to_tail)) = (from.as_chunks::<LANES>(), to.as_chunks_mut::<LANES>());
    for (from, to) in from.iter().zip(to) {
        let bits = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(load(from));
        // SAFETY: 32 writable bytes; the store needs no alignment.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), bits) };
    }
    for (from, to) in from_tail.iter().zip(to_tail) {
        *to = half::f16::from_f32(*from).to_bits();
    }
}

/// `e^x` as the AVX2 file computes it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(crate) fn exp(x: __m512) -> __m512 {
    let set = |v: f32| _mm512_set1_ps(v);
    let clamped = _mm512_max_ps(set(-88.0), _mm512_min_ps(set(88.0), x));
    let n = _mm512_roundscale_ps::<0>(_mm512_mul_ps(clamped, set(std::f32::consts::LOG2_E)));
    let r = _mm512_fnmadd_ps(n, set(0.693_359_4), clamped);
    let r = _mm512_fnmadd_ps(n, set(-2.121_944_4e-4), r);
    let mut p = set(1.0 / 720.0);
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = _mm512_fmadd_ps(p, r, set(coefficient));
    }
    let power = _mm512_slli_epi32::<23>(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)));
    let result = _mm512_mul_ps(p, _mm512_castsi512_ps(power));
    let normal = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, set(-87.3));
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
    _mm512_mask_blend_ps(nan, _mm512_maskz_mov_ps(normal, result), x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, Kernels};
    use proptest::prelude::*;

    /// Random significands, and those at the ends of their range, where rounding is closest to a tie.
    fn numbers(rng: &mut fastrand::Rng, exponents: std::ops::Range<i32>) -> f32 {
        let significand = match rng.u32(0..4) {
            0 => rng.u32(0..8),
            1 => (1 << 23) - 1 - rng.u32(0..8),
            _ => rng.u32(0..1 << 23),
        };
        (1.0 + significand as f32 / (1 << 23) as f32) * (rng.i32(exponents) as f32).exp2()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn division_by_multiplication_rounds_correctly(seed in any::<u64>()) {
            let Some(kernels) = Kernels::for_isa(Isa::Avx512) else { return Ok(()) };
            let mut rng = fastrand::Rng::with_seed(seed);
            for _ in 0..300 {
                let (scale, factor) = (numbers(&mut rng, -30..30), numbers(&mut rng, -30..30));
                prop_assert!(Divisor::can_divide(scale, factor));
                let mut sums: Vec<i32> = (0..48).map(|_| rng.i32(..) >> rng.u32(0..32)).collect();
                sums[..3].copy_from_slice(&[0, i32::MIN, i32::MAX]);
                let mut out = vec![0.0; sums.len()];
                let how = Finish { scales: RowScale::Same(scale), factor, epilogue: Epilogue::Store };
                kernels.finish(how, &sums, &mut out);
                for (sum, out) in sums.iter().zip(&out) {
                    let expected = *sum as f32 * scale / factor;
                    prop_assert_eq!(out.to_bits(), expected.to_bits(), "{} * {:e} / {:e}", sum, scale, factor);
                }
            }
        }
    }

    /// Every length up to several vectors, and numbers of every size.
    #[test]
    fn elements_have_the_bits_of_avx2() {
        let (Some(wide), Some(narrow)) = (Kernels::for_isa(Isa::Avx512), Kernels::for_isa(Isa::Avx2)) else { return };
        let mut rng = fastrand::Rng::with_seed(3);
        for len in 1..100 {
            let mut floats = || -> Vec<f32> {
                (0..len).map(|_| numbers(&mut rng, -40..8) * if rng.bool() { 1.0 } else { -1.0 }).collect()
            };
            let (a, b, c) = (floats(), floats(), floats());
            let sums: Vec<i32> = a.iter().map(|a| (a * 100.0) as i32).collect();
            let run = |kernels: &Kernels| {
                let mut out = vec![a.clone(); 3];
                kernels.add(&mut out[0], &b);
                kernels.relu2_mul(&mut out[1], &b);
                kernels.silu_mul(&mut out[2], &b);
                let mut pairs = [&a[..], &b[..]].concat();
                kernels.rotate(&mut pairs, &b, &c);
                out.push(pairs);
                for epilogue in
                    [Epilogue::Store, Epilogue::Add, Epilogue::SiluMul, Epilogue::Relu2Mul, Epilogue::GeluMul]
                {
                    for scales in [RowScale::Same(0.3), RowScale::Each(&b)] {
                        out.push(c.clone());
                        let last = out.last_mut().expect("just pushed");
                        kernels.finish(Finish { scales, factor: 3.7, epilogue }, &sums, last);
                    }
                }
                out.concat().into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            assert_eq!(run(wide), run(narrow), "{len} numbers");
        }
    }

    #[test]
    fn what_cannot_be_divided_by_multiplication_is_divided() {
        let Some(kernels) = Kernels::for_isa(Isa::Avx512) else { return };
        let sums: Vec<i32> = (-20..20).collect();
        for (scale, factor) in [(1e-38, 3.0), (-0.3, 7.0), (1e30, 1e-30), (0.0, 1.0), (1.0, f32::NAN), (1.0, 1e-40)] {
            let mut out = vec![0.0; sums.len()];
            let how = Finish { scales: RowScale::Same(scale), factor, epilogue: Epilogue::Store };
            kernels.finish(how, &sums, &mut out);
            for (sum, out) in sums.iter().zip(&out) {
                let expected = *sum as f32 * scale / factor;
                assert!(out.to_bits() == expected.to_bits() || out.is_nan() && expected.is_nan(), "{scale} {factor}");
            }
        }
    }
}
