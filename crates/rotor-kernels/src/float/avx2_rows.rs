//! Stored rows for AVX2: decoding 32 weights at a time into registers, to be kept or multiplied on the spot.
//!
//! Each weight goes through the very operations of [`DenseType::decode`], in its order and without fused multiply-adds, so
//! the decoded bits are the same; and 32 weights meet the running sums as in `dot`, so the products are the same.

use super::avx2::{LANES, Sums, add_tail, load, store, total};
use crate::dense::DenseType;
use std::arch::x86_64::*;

/// How far ahead of its use a row's memory is asked for, in bytes.
const AHEAD: usize = 2048;

/// 32 consecutive weights.
type Weights = [__m256; 4];

/// Calls `$f::<index>` for the type's index in [`DenseType::ALL`], so that the type is a constant inside.
macro_rules! for_type {
    ($dtype:expr, $f:ident, $($arg:expr),*) => {
        match $dtype {
            DenseType::F32 => $f::<0>($($arg),*),
            DenseType::F16 => $f::<1>($($arg),*),
            DenseType::Q4_0 => $f::<2>($($arg),*),
            DenseType::Q4_1 => $f::<3>($($arg),*),
            DenseType::Q5_0 => $f::<4>($($arg),*),
            DenseType::Q5_1 => $f::<5>($($arg),*),
            DenseType::Q8_0 => $f::<6>($($arg),*),
            DenseType::Q4K => $f::<7>($($arg),*),
            DenseType::Q5K => $f::<8>($($arg),*),
            DenseType::Q6K => $f::<9>($($arg),*),
            DenseType::Bf16 => $f::<10>($($arg),*),
        }
    };
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn decode_row(dtype: DenseType, row: &[u8], out: &mut [f32]) {
    for_type!(dtype, decode_typed, row, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_row(dtype: DenseType, row: &[u8], x: &[f32]) -> f32 {
    for_type!(dtype, dot_typed, row, x)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn decode_typed<const TYPE: usize>(row: &[u8], out: &mut [f32]) {
    let (whole, tail) = out.as_chunks_mut::<{ 4 * LANES }>();
    let rest = whole.len();
    for (chunk, out) in whole.iter_mut().enumerate() {
        for (weights, out) in weights::<TYPE>(row, chunk).into_iter().zip(out.as_chunks_mut().0) {
            store(weights, out);
        }
    }
    decode_tail::<TYPE>(row, rest, tail);
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_typed<const TYPE: usize>(row: &[u8], x: &[f32]) -> f32 {
    let (whole, x_tail) = x.as_chunks::<{ 4 * LANES }>();
    let mut sums: Sums = [_mm256_setzero_ps(); 4];
    let dtype = DenseType::ALL[TYPE];
    let chunk_bytes = 32 * dtype.block_bytes() / dtype.block_len();
    for (chunk, x) in whole.iter().enumerate() {
        // A head is read from memory: ask for what comes a little later. A prefetch never faults, wherever it points.
        _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().wrapping_add(chunk * chunk_bytes + AHEAD).cast());
        for ((sum, weights), x) in sums.iter_mut().zip(weights::<TYPE>(row, chunk)).zip(x.as_chunks().0) {
            *sum = _mm256_fmadd_ps(weights, load(x), *sum);
        }
    }
    let mut tail = [0.0; 4 * LANES];
    let tail = &mut tail[..x_tail.len()];
    decode_tail::<TYPE>(row, whole.len(), tail);
    add_tail(&mut sums, tail, x_tail);
    total(sums)
}

/// Fewer than 32 weights after `chunks` whole chunks: only unblocked types have such.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn decode_tail<const TYPE: usize>(row: &[u8], chunks: usize, out: &mut [f32]) {
    let dtype = DenseType::ALL[TYPE];
    if !out.is_empty() {
        dtype.decode(&row[chunks * 4 * LANES * dtype.block_bytes()..], out);
    }
}

/// Weights `32 * chunk ..` of a row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn weights<const TYPE: usize>(row: &[u8], chunk: usize) -> Weights {
    let dtype = DenseType::ALL[TYPE];
    let per_block = dtype.block_len() / 32;
    if per_block == 0 {
        let bytes = 32 * dtype.block_bytes();
        return plain(dtype, &row[chunk * bytes..][..bytes]);
    }
    blocked(dtype, row, chunk, per_block)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn blocked(dtype: DenseType, row: &[u8], chunk: usize, per_block: usize) -> Weights {
    let block = &row[chunk / per_block * dtype.block_bytes()..][..dtype.block_bytes()];
    let part = chunk % per_block;
    match dtype {
        DenseType::Q4_0 => offset(half_at(block, 0), nibbles(&block[2..]), 8.0),
        DenseType::Q4_1 => scale_and_add(half_at(block, 0), nibbles(&block[4..]), half_at(block, 2)),
        DenseType::Q5_0 => offset(half_at(block, 0), fifth_bits(nibbles(&block[6..]), &block[2..]), 16.0),
        DenseType::Q5_1 => {
            scale_and_add(half_at(block, 0), fifth_bits(nibbles(&block[8..]), &block[4..]), half_at(block, 2))
        }
        DenseType::Q8_0 => {
            let d = _mm256_set1_ps(half_at(block, 0));
            let q = signed(load_bytes(&block[2..]));
            [_mm256_mul_ps(d, q[0]), _mm256_mul_ps(d, q[1]), _mm256_mul_ps(d, q[2]), _mm256_mul_ps(d, q[3])]
        }
        DenseType::Q4K => k_quant(block, part, sub_block(&block[16..], part)),
        DenseType::Q5K => {
            let high = _mm256_srl_epi16(load_bytes(&block[16..]), _mm_cvtsi32_si128(part as i32));
            let high = _mm256_slli_epi16::<4>(_mm256_and_si256(high, _mm256_set1_epi8(1)));
            k_quant(block, part, _mm256_or_si256(sub_block(&block[48..], part), high))
        }
        _ => q6_k(block, part),
    }
}

// Arrays are written out below: a closure handed to `map` or `from_fn` is not inlined across target features, and a call per
// eight weights costs more than the weights.

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn plain(dtype: DenseType, bytes: &[u8]) -> Weights {
    let (pairs, _) = bytes.as_chunks::<{ 2 * LANES }>();
    match dtype {
        DenseType::F32 => {
            let fours = bytes.as_chunks::<{ 4 * LANES }>().0;
            [f32s(&fours[0]), f32s(&fours[1]), f32s(&fours[2]), f32s(&fours[3])]
        }
        DenseType::F16 => [f16s(&pairs[0]), f16s(&pairs[1]), f16s(&pairs[2]), f16s(&pairs[3])],
        _ => [bf16s(&pairs[0]), bf16s(&pairs[1]), bf16s(&pairs[2]), bf16s(&pairs[3])],
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn f32s(bytes: &[u8; 4 * LANES]) -> __m256 {
    // SAFETY: 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_ps(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn f16s(bytes: &[u8; 2 * LANES]) -> __m256 {
    // SAFETY: 16 readable bytes; the load needs no alignment.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bf16s(bytes: &[u8; 2 * LANES]) -> __m256 {
    // SAFETY: 16 readable bytes; the load needs no alignment.
    let bits = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn half_at(bytes: &[u8], at: usize) -> f32 {
    let bits = i32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn load_bytes(bytes: &[u8]) -> __m256i {
    // SAFETY: 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes[..32].as_ptr().cast()) }
}

/// 32 bytes as numbers, `extend` widening 8 of them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unsigned(q: __m256i) -> Weights {
    let (low, high) = (_mm256_castsi256_si128(q), _mm256_extracti128_si256::<1>(q));
    [
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(low)),
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128::<8>(low))),
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(high)),
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128::<8>(high))),
    ]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn signed(q: __m256i) -> Weights {
    let (low, high) = (_mm256_castsi256_si128(q), _mm256_extracti128_si256::<1>(q));
    [
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low)),
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(low))),
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high)),
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(high))),
    ]
}

/// 16 bytes to 32 nibbles, the low ones first.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn nibbles(bytes: &[u8]) -> __m256i {
    // SAFETY: 16 readable bytes; the load needs no alignment.
    let bytes = unsafe { _mm_loadu_si128(bytes[..16].as_ptr().cast()) };
    let both = _mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes);
    _mm256_and_si256(both, _mm256_set1_epi8(15))
}

/// Adds the fifth bit of each of 32 weights, from 4 bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn fifth_bits(q: __m256i, bits: &[u8]) -> __m256i {
    let bits = _mm256_set1_epi32(i32::from_le_bytes([bits[0], bits[1], bits[2], bits[3]]));
    let spread = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let own_bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(bits, spread), own_bit), own_bit);
    _mm256_or_si256(q, _mm256_and_si256(set, _mm256_set1_epi8(16)))
}

/// `d * (q - middle)`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn offset(d: f32, q: __m256i, middle: f32) -> Weights {
    let (d, middle) = (_mm256_set1_ps(d), _mm256_set1_ps(middle));
    let mut weights = unsigned(q);
    for weight in &mut weights {
        *weight = _mm256_mul_ps(d, _mm256_sub_ps(*weight, middle));
    }
    weights
}

/// `d * q + minimum`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scale_and_add(d: f32, q: __m256i, minimum: f32) -> Weights {
    let (d, minimum) = (_mm256_set1_ps(d), _mm256_set1_ps(minimum));
    let mut weights = unsigned(q);
    for weight in &mut weights {
        *weight = _mm256_add_ps(_mm256_mul_ps(d, *weight), minimum);
    }
    weights
}

/// The nibbles of sub-block `part`: each 32 bytes hold one sub-block low and the next one high.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sub_block(bytes: &[u8], part: usize) -> __m256i {
    let bytes = load_bytes(&bytes[32 * (part / 2)..]);
    let shifted = _mm256_srl_epi16(bytes, _mm_cvtsi32_si128(4 * (part as i32 % 2)));
    _mm256_and_si256(shifted, _mm256_set1_epi8(15))
}

/// `d * scale * q - dmin * minimum`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn k_quant(block: &[u8], part: usize, q: __m256i) -> Weights {
    let (scale, minimum) = crate::dense::scale_and_minimum(&block[4..16], part);
    let scale = _mm256_set1_ps(half_at(block, 0) * scale);
    let minimum = _mm256_set1_ps(half_at(block, 2) * minimum);
    let mut weights = unsigned(q);
    for weight in &mut weights {
        *weight = _mm256_sub_ps(_mm256_mul_ps(scale, *weight), minimum);
    }
    weights
}

/// `d * scale * (q - 32)`, 16 weights to a scale.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q6_k(block: &[u8], part: usize) -> Weights {
    let (half, quarter) = (part / 4, part % 4);
    let low = load_bytes(&block[64 * half + 32 * (quarter & 1)..]);
    let low = _mm256_srl_epi16(low, _mm_cvtsi32_si128(if quarter < 2 { 0 } else { 4 }));
    let high = _mm256_srl_epi16(load_bytes(&block[128 + 32 * half..]), _mm_cvtsi32_si128(2 * quarter as i32));
    let high = _mm256_slli_epi16::<4>(_mm256_and_si256(high, _mm256_set1_epi8(3)));
    let q = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(15)), high);
    let q = signed(_mm256_sub_epi8(q, _mm256_set1_epi8(32)));
    let d = half_at(block, 208);
    let scale = |i: usize| _mm256_set1_ps(d * f32::from(block[192 + 2 * part + i].cast_signed()));
    let (first, second) = (scale(0), scale(1));
    [_mm256_mul_ps(first, q[0]), _mm256_mul_ps(first, q[1]), _mm256_mul_ps(second, q[2]), _mm256_mul_ps(second, q[3])]
}
