//! Blocks for AVX2: 32 codes to a register, multiplied by `maddubs`, which wants its first operand unsigned.
//!
//! No step can overflow. `maddubs` adds two products in an i16: codes of up to 63 give 2 * 63 * 127, Q8_0's magnitudes 2 *
//! 128 * 127 = 32512. `madd` then adds two of those in an i32, times the stored scale where there is one: at most
//! 4 * 63 * 127 * 128 < 2^24, so that the conversion to f32 is exact as well.
//!
//! Lane `j` of a running sum takes columns `4j .. 4j + 4` of every block, in order. A matrix this size is read from memory,
//! so each row asks for what lies a little ahead of it.

use super::{BLOCK, Panel, QuantizedKernels};
use crate::dense::DenseType;
use crate::encode;
use crate::float::avx2::{load, sum_lanes};
use crate::float::avx2_rows::{fifth_bits, half_at, load_bytes, nibbles};
use std::arch::x86_64::*;

pub(crate) static KERNELS: QuantizedKernels = QuantizedKernels { quantize, products, encode: encode::avx2 };

/// How far ahead of its use a row's memory is asked for, in bytes.
const AHEAD: usize = 8192;
/// Tokens that share one unpacking of the codes.
const TOKENS: usize = 4;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn quantize(x: &[f32], panel: &mut Panel) {
    for (b, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
        let eights = x.as_chunks::<8>().0;
        let v = [load(&eights[0]), load(&eights[1]), load(&eights[2]), load(&eights[3])];
        let (scale, inverse) = match largest(v) {
            None => (f32::NAN, 0.0),
            Some(largest) if largest < 1e-30 => (0.0, 0.0),
            Some(largest) => (largest / 127.0, 127.0 / largest),
        };
        let q = if scale.is_nan() { _mm256_setzero_si256() } else { rounded(v, inverse) };
        // SAFETY: 32 writable bytes; the store needs no alignment.
        unsafe { _mm256_storeu_si256(panel.q[b].as_mut_ptr().cast(), q) };
        panel.scales[b] = [scale; 8];
        // Four bytes to a lane: q + 128 is unsigned, and its sum of 16 is 2048 too large.
        let biased = _mm256_xor_si256(q, _mm256_set1_epi8(-128));
        let eight = _mm256_sad_epu8(biased, _mm256_setzero_si256());
        let (low, high) = (_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
        let sum = |eights: __m128i| _mm_cvtsi128_si32(eights) + _mm_extract_epi32::<2>(eights) - 16 * 128;
        let (first, second) = (sum(low), sum(high));
        (panel.half_sums[2 * b], panel.half_sums[2 * b + 1]) = (first as f32 * scale, second as f32 * scale);
        panel.sums[b] = (first + second) as f32 * scale;
    }
}

/// The largest magnitude of 32 values, or `None` where one is not finite.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn largest(v: [__m256; 4]) -> Option<f32> {
    let (sign, infinity) = (_mm256_set1_ps(-0.0), _mm256_set1_ps(f32::INFINITY));
    let mut largest = _mm256_setzero_ps();
    let mut finite = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    for v in v {
        let magnitude = _mm256_andnot_ps(sign, v);
        finite = _mm256_and_ps(finite, _mm256_cmp_ps::<_CMP_LT_OQ>(magnitude, infinity));
        largest = _mm256_max_ps(largest, magnitude);
    }
    let half = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps::<1>(largest));
    let quarter = _mm_max_ps(half, _mm_movehl_ps(half, half));
    let largest = _mm_cvtss_f32(_mm_max_ss(quarter, _mm_movehdup_ps(quarter)));
    (_mm256_movemask_ps(finite) == 0xff).then_some(largest)
}

/// 32 values times `inverse`, to nearest even, as bytes; at most 127 by the choice of `inverse`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn rounded(v: [__m256; 4], inverse: f32) -> __m256i {
    let inverse = _mm256_set1_ps(inverse);
    let mut int = [_mm256_setzero_si256(); 4];
    for (int, v) in int.iter_mut().zip(v) {
        *int = _mm256_cvtps_epi32(_mm256_mul_ps(v, inverse));
    }
    let words = [_mm256_packs_epi32(int[0], int[1]), _mm256_packs_epi32(int[2], int[3])];
    let bytes = _mm256_packs_epi16(words[0], words[1]);
    _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

#[target_feature(enable = "avx2,fma,f16c")]
fn products(dtype: DenseType, rows: &[u8], row_bytes: usize, x: &[&[Panel]], out: &mut [f32]) {
    match dtype {
        DenseType::Q4_0 => typed::<2, 18>(rows, row_bytes, x, out),
        DenseType::Q4_1 => typed::<3, 20>(rows, row_bytes, x, out),
        DenseType::Q5_0 => typed::<4, 22>(rows, row_bytes, x, out),
        DenseType::Q5_1 => typed::<5, 24>(rows, row_bytes, x, out),
        DenseType::Q8_0 => typed::<6, 34>(rows, row_bytes, x, out),
        DenseType::Q4K => typed::<7, 144>(rows, row_bytes, x, out),
        DenseType::Q5K => typed::<8, 176>(rows, row_bytes, x, out),
        DenseType::Q6K => typed::<9, 210>(rows, row_bytes, x, out),
        DenseType::F32 | DenseType::F16 | DenseType::Bf16 => unreachable!("{} has no blocks", dtype.name()),
    }
}

/// `TYPE` is the type's index in [`DenseType::ALL`], `BYTES` the size of its blocks: constants inside.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn typed<const TYPE: usize, const BYTES: usize>(rows: &[u8], row_bytes: usize, x: &[&[Panel]], out: &mut [f32]) {
    for (row, out) in rows.chunks_exact(row_bytes).zip(out.chunks_exact_mut(x.len())) {
        let row = row.as_chunks::<BYTES>().0;
        let ((fours, rest), (outs, out_rest)) = (x.as_chunks::<TOKENS>(), out.as_chunks_mut::<TOKENS>());
        for (x, out) in fours.iter().zip(outs) {
            *out = dot::<TYPE, BYTES, TOKENS>(row, x);
        }
        match *rest {
            [a] => out_rest.copy_from_slice(&dot::<TYPE, BYTES, 1>(row, &[a])),
            [a, b] => out_rest.copy_from_slice(&dot::<TYPE, BYTES, 2>(row, &[a, b])),
            [a, b, c] => out_rest.copy_from_slice(&dot::<TYPE, BYTES, 3>(row, &[a, b, c])),
            _ => {}
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot<const TYPE: usize, const BYTES: usize, const T: usize>(row: &[[u8; BYTES]], x: &[&[Panel]; T]) -> [f32; T] {
    let mut sums = [_mm256_setzero_ps(); T];
    if DenseType::ALL[TYPE].block_len() == BLOCK {
        let mut minima = [0.0; T];
        for (index, blocks) in row.chunks(8).enumerate() {
            let panels = super::panels(x, index);
            for (b, block) in blocks.iter().enumerate() {
                prefetch(block);
                small_block::<TYPE, T>(block, &panels, b, &mut sums, &mut minima);
            }
        }
        return finish(sums, minima);
    }
    for (index, block) in row.iter().enumerate() {
        let panels = super::panels(x, index);
        for line in block.chunks(64) {
            prefetch(line);
        }
        match DenseType::ALL[TYPE] {
            DenseType::Q6K => q6_k(block, &panels, &mut sums),
            _ => q45_k::<TYPE, T>(block, &panels, &mut sums),
        }
    }
    finish(sums, [0.0; T])
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn finish<const T: usize>(sums: [__m256; T], minima: [f32; T]) -> [f32; T] {
    let mut out = minima;
    for (out, sum) in out.iter_mut().zip(sums) {
        *out += sum_lanes(sum);
    }
    out
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn prefetch(bytes: &[u8]) {
    _mm_prefetch::<_MM_HINT_T1>(bytes.as_ptr().wrapping_add(AHEAD).cast());
}

/// Adds 32 codes, times `stored` (an integer scale in every i16), times each token's `b`-th block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_codes<const T: usize>(codes: __m256i, stored: __m256i, panels: &[&Panel; T], b: usize, sums: &mut [__m256; T]) {
    for (sum, panel) in sums.iter_mut().zip(panels) {
        let pairs = _mm256_maddubs_epi16(codes, load_signed(&panel.q[b]));
        let fours = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, stored));
        *sum = _mm256_fmadd_ps(fours, load(&panel.scales[b]), *sum);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_signed(q: &[i8; BLOCK]) -> __m256i {
    // SAFETY: 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(q.as_ptr().cast()) }
}

/// A block of 32 with an f16 scale and, but for Q8_0, a minimum.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn small_block<const TYPE: usize, const T: usize>(
    block: &[u8],
    panels: &[&Panel; T],
    b: usize,
    sums: &mut [__m256; T],
    minima: &mut [f32; T],
) {
    let d = half_at(block, 0);
    let a = _mm256_set1_ps(d);
    let ones = _mm256_set1_epi16(1);
    if let DenseType::Q8_0 = DenseType::ALL[TYPE] {
        let signed = load_bytes(&block[2..]);
        let magnitudes = _mm256_abs_epi8(signed);
        for (sum, panel) in sums.iter_mut().zip(panels) {
            let q = _mm256_sign_epi8(load_signed(&panel.q[b]), signed);
            let fours = _mm256_madd_epi16(_mm256_maddubs_epi16(magnitudes, q), ones);
            *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(fours), _mm256_mul_ps(a, load(&panel.scales[b])), *sum);
        }
        return;
    }
    let (codes, m) = small_codes::<TYPE>(block, d);
    for ((sum, minimum), panel) in sums.iter_mut().zip(minima).zip(panels) {
        let fours = _mm256_madd_epi16(_mm256_maddubs_epi16(codes, load_signed(&panel.q[b])), ones);
        *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(fours), _mm256_mul_ps(a, load(&panel.scales[b])), *sum);
        *minimum = m.mul_add(panel.sums[b], *minimum);
    }
}

/// The unsigned codes and the minimum of a block of 32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn small_codes<const TYPE: usize>(block: &[u8], d: f32) -> (__m256i, f32) {
    match DenseType::ALL[TYPE] {
        DenseType::Q4_0 => (nibbles(&block[2..]), -8.0 * d),
        DenseType::Q4_1 => (nibbles(&block[4..]), half_at(block, 2)),
        DenseType::Q5_0 => (fifth_bits(nibbles(&block[6..]), &block[2..]), -16.0 * d),
        _ => (fifth_bits(nibbles(&block[8..]), &block[4..]), half_at(block, 2)),
    }
}

/// The 6-bit scales and minima of Q4_K and Q5_K, a byte each.
#[inline]
pub(super) fn scales_and_minima(packed: &[u8]) -> (u64, u64) {
    let word = |at: usize| u32::from_le_bytes([packed[at], packed[at + 1], packed[at + 2], packed[at + 3]]);
    let (a, b, c) = (word(0), word(4), word(8));
    // The low four bits of the later four stand in the last word, their high two in the spare bits of the first two.
    let (six, four, two) = (0x3f3f_3f3f, 0x0f0f_0f0f, 0x0303_0303);
    let join = |first: u32, second: u32| u64::from(first) | u64::from(second) << 32;
    (join(a & six, c & four | (a >> 6 & two) << 4), join(b & six, c >> 4 & four | (b >> 6 & two) << 4))
}

/// A super-block of Q4_K or Q5_K: `d * (sum of scales) - dmin * (sum of minima)`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q45_k<const TYPE: usize, const T: usize>(block: &[u8], panels: &[&Panel; T], sums: &mut [__m256; T]) {
    let (scales, minima) = scales_and_minima(&block[4..16]);
    let scales = widen(scales);
    // Each scale in both halves of a word, to be loaded into all lanes at once.
    let mut stored = [0i32; 8];
    // SAFETY: 32 writable bytes; the store needs no alignment.
    unsafe {
        let words = _mm256_or_si256(scales, _mm256_slli_epi32::<16>(scales));
        _mm256_storeu_si256(stored.as_mut_ptr().cast(), words);
    }
    let mut parts = [_mm256_setzero_ps(); T];
    let is_q5 = matches!(DenseType::ALL[TYPE], DenseType::Q5K);
    let high = if is_q5 { load_bytes(&block[16..]) } else { _mm256_setzero_si256() };
    let nibbles = &block[if is_q5 { 48 } else { 16 }..][..128];
    let (low_mask, bit) = (_mm256_set1_epi8(15), _mm256_set1_epi8(16));
    for (pair, bytes) in nibbles.as_chunks::<32>().0.iter().enumerate() {
        let bytes = load_bytes(bytes);
        let mut first = _mm256_and_si256(bytes, low_mask);
        let mut second = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), low_mask);
        if is_q5 {
            // Bit `2 pair` belongs to the first sub-block of the pair, the next one to the second.
            let ninth = |up: i32| _mm256_sll_epi16(high, _mm_cvtsi32_si128(up));
            let down = |by: i32| _mm256_srl_epi16(high, _mm_cvtsi32_si128(by));
            let place = |bit: i32| if bit <= 4 { ninth(4 - bit) } else { down(bit - 4) };
            first = _mm256_or_si256(first, _mm256_and_si256(place(2 * pair as i32), bit));
            second = _mm256_or_si256(second, _mm256_and_si256(place(2 * pair as i32 + 1), bit));
        }
        let scale = |of: usize| _mm256_set1_epi32(stored[of]);
        add_codes(first, scale(2 * pair), panels, 2 * pair, &mut parts);
        add_codes(second, scale(2 * pair + 1), panels, 2 * pair + 1, &mut parts);
    }
    let (d, dmin) = (_mm256_set1_ps(half_at(block, 0)), _mm256_set1_ps(half_at(block, 2)));
    let minima = _mm256_mul_ps(_mm256_cvtepi32_ps(widen(minima)), dmin);
    for ((sum, part), panel) in sums.iter_mut().zip(parts).zip(panels) {
        *sum = _mm256_fmadd_ps(d, part, *sum);
        *sum = _mm256_fnmadd_ps(minima, load(&panel.sums), *sum);
    }
}

/// Eight bytes as integers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen(bytes: u64) -> __m256i {
    _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes.cast_signed()))
}

/// A super-block of Q6_K: `d * scale * (code - 32)`, 16 codes to a scale.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q6_k<const T: usize>(block: &[u8], panels: &[&Panel; T], sums: &mut [__m256; T]) {
    // SAFETY: 16 readable bytes; the load needs no alignment.
    let scales = unsafe { _mm_loadu_si128(block[192..208].as_ptr().cast()) };
    let (low_scales, high_scales) = (_mm256_cvtepi8_epi32(scales), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(scales)));
    let middle = _mm256_set1_ps(-32.0);
    let minima =
        [_mm256_mul_ps(_mm256_cvtepi32_ps(low_scales), middle), _mm256_mul_ps(_mm256_cvtepi32_ps(high_scales), middle)];
    let mut parts = [_mm256_setzero_ps(); T];
    for (part, panel) in parts.iter_mut().zip(panels) {
        let halves = panel.half_sums.as_chunks::<8>().0;
        *part = _mm256_fmadd_ps(minima[1], load(&halves[1]), _mm256_mul_ps(minima[0], load(&halves[0])));
    }
    let (low_mask, high_mask) = (_mm256_set1_epi8(15), _mm256_set1_epi8(48));
    // Byte 2b in the first eight bytes, byte 2b + 1 in the others: a scale for each half of block b.
    let mut pick = _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    for half in 0..2 {
        let (low, high) = (&block[64 * half..][..64], load_bytes(&block[128 + 32 * half..]));
        let (even, odd) = (load_bytes(&low[..32]), load_bytes(&low[32..]));
        let codes = [
            (even, _mm256_slli_epi16::<4>(high)),
            (odd, _mm256_slli_epi16::<2>(high)),
            (_mm256_srli_epi16::<4>(even), high),
            (_mm256_srli_epi16::<4>(odd), _mm256_srli_epi16::<2>(high)),
        ];
        for (quarter, (low, high)) in codes.into_iter().enumerate() {
            let codes = _mm256_or_si256(_mm256_and_si256(low, low_mask), _mm256_and_si256(high, high_mask));
            let stored = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, pick));
            pick = _mm_add_epi8(pick, _mm_set1_epi8(2));
            add_codes(codes, stored, panels, 4 * half + quarter, &mut parts);
        }
    }
    let d = _mm256_set1_ps(half_at(block, 208));
    for (sum, part) in sums.iter_mut().zip(parts) {
        *sum = _mm256_fmadd_ps(d, part, *sum);
    }
}
