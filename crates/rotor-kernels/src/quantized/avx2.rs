//! Blocks for AVX2: 32 codes to a register, multiplied by `maddubs`, which wants its first operand unsigned.
//!
//! No step can overflow. `maddubs` adds two products in an i16: codes of up to 63 give 2 * 63 * 127, Q8_0's magnitudes 2 *
//! 128 * 127 = 32512. `madd` then adds two of those in an i32, times the stored scale where there is one: a lane takes 32
//! products of a panel, at most 32 * 63 * 127 * 128 < 2^25, and the conversion to f32 rounds like every other step of f32.
//!
//! Lane `j` of a running sum takes columns `4j .. 4j + 4` of every block, in order. A matrix this size is read from memory,
//! so each row asks for what lies a little ahead of it.

use super::{BASE, BLOCK, Panel, QuantizedKernels, bounds};
use crate::dense::DenseType;
use crate::encode;
use crate::float::avx2::{load, sum_lanes};
use crate::float::avx2_rows::{fifth_bits, half_at, load_bytes, nibbles};
use std::arch::x86_64::*;

pub(crate) static KERNELS: QuantizedKernels = QuantizedKernels { products, encode: encode::avx2, bounds: bounds::avx2 };

/// How far ahead of its use a row's memory is asked for, in bytes.
const AHEAD: usize = 8192;
/// Tokens that share one unpacking of the codes.
const TOKENS: usize = 4;

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
            let mut parts = [_mm256_setzero_ps(); T];
            for (b, block) in blocks.iter().enumerate() {
                prefetch(block);
                small_block::<TYPE, T>(block, &panels, b, &mut parts, &mut minima);
            }
            for ((sum, part), panel) in sums.iter_mut().zip(parts).zip(panels) {
                *sum = _mm256_fmadd_ps(_mm256_set1_ps(panel.scale), part, *sum);
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

/// Sums of products of codes with the two digits of a token's activations.
type Digits = [__m256i; 2];

/// Adds 32 codes, times `stored` (an integer scale in every i16), times each token's `b`-th block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_codes<const T: usize>(codes: __m256i, stored: __m256i, panels: &[&Panel; T], b: usize, sums: &mut [Digits; T]) {
    for (sums, panel) in sums.iter_mut().zip(panels) {
        for (sum, digits) in sums.iter_mut().zip([&panel.high[b], &panel.low[b]]) {
            let pairs = _mm256_maddubs_epi16(codes, load_signed(digits));
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, stored));
        }
    }
}

/// Both digits' sums as one.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn joined([high, low]: Digits) -> __m256 {
    _mm256_fmadd_ps(_mm256_cvtepi32_ps(high), _mm256_set1_ps(f32::from(BASE)), _mm256_cvtepi32_ps(low))
}

/// Adds a super-block's sums, times `d`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_scaled<const T: usize>(d: f32, products: [Digits; T], panels: &[&Panel; T], sums: &mut [__m256; T]) {
    for ((sum, products), panel) in sums.iter_mut().zip(products).zip(panels) {
        *sum = _mm256_fmadd_ps(_mm256_set1_ps(d * panel.scale), joined(products), *sum);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_signed(digits: &[i8; BLOCK]) -> __m256i {
    // SAFETY: 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(digits.as_ptr().cast()) }
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
    let (a, ones) = (_mm256_set1_ps(d), _mm256_set1_epi16(1));
    let mut products = [[_mm256_setzero_si256(); 2]; T];
    if let DenseType::Q8_0 = DenseType::ALL[TYPE] {
        let signed = load_bytes(&block[2..]);
        let magnitudes = _mm256_abs_epi8(signed);
        for (products, panel) in products.iter_mut().zip(panels) {
            *products = [&panel.high[b], &panel.low[b]].map(|digits| {
                let digits = _mm256_sign_epi8(load_signed(digits), signed);
                _mm256_madd_epi16(_mm256_maddubs_epi16(magnitudes, digits), ones)
            });
        }
    } else {
        let (codes, m) = small_codes::<TYPE>(block, d);
        add_codes(codes, ones, panels, b, &mut products);
        minima.iter_mut().zip(panels).for_each(|(minimum, panel)| *minimum = m.mul_add(panel.sums[b], *minimum));
    }
    for (sum, products) in sums.iter_mut().zip(products) {
        *sum = _mm256_fmadd_ps(a, joined(products), *sum);
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
    let mut products = [[_mm256_setzero_si256(); 2]; T];
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
        add_codes(first, scale(2 * pair), panels, 2 * pair, &mut products);
        add_codes(second, scale(2 * pair + 1), panels, 2 * pair + 1, &mut products);
    }
    add_scaled(half_at(block, 0), products, panels, sums);
    let minima = _mm256_mul_ps(_mm256_cvtepi32_ps(widen(minima)), _mm256_set1_ps(half_at(block, 2)));
    for (sum, panel) in sums.iter_mut().zip(panels) {
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
    let d = half_at(block, 208);
    let middle = _mm256_set1_ps(-32.0 * d);
    let minima =
        [_mm256_mul_ps(_mm256_cvtepi32_ps(low_scales), middle), _mm256_mul_ps(_mm256_cvtepi32_ps(high_scales), middle)];
    for (sum, panel) in sums.iter_mut().zip(panels) {
        let halves = panel.half_sums.as_chunks::<8>().0;
        *sum = _mm256_fmadd_ps(minima[0], load(&halves[0]), *sum);
        *sum = _mm256_fmadd_ps(minima[1], load(&halves[1]), *sum);
    }
    let mut products = [[_mm256_setzero_si256(); 2]; T];
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
            add_codes(codes, stored, panels, 4 * half + quarter, &mut products);
        }
    }
    add_scaled(d, products, panels, sums);
}
