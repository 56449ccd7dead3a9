//! Stored rows for NEON: decoding 32 weights at a time into registers, to be kept or multiplied on the spot.
//!
//! Each weight goes through the very operations of [`DenseType::decode`], in its order and without fused multiply-adds, so
//! the decoded bits are the same; and 32 weights meet the running sums as in `dot`, so the products are the same.

use super::neon::{STRIDE, Sums, add_tail, load, no_sums, store, total};
use crate::dense::DenseType;
use std::arch::aarch64::*;

/// 32 consecutive weights.
type Weights = Sums;
/// 32 consecutive codes.
pub(crate) type Codes = [uint8x16_t; 2];

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

#[target_feature(enable = "neon")]
pub(super) fn decode_row(dtype: DenseType, row: &[u8], out: &mut [f32]) {
    for_type!(dtype, decode_typed, row, out);
}

#[target_feature(enable = "neon")]
pub(super) fn dot_row(dtype: DenseType, row: &[u8], x: &[f32]) -> f32 {
    for_type!(dtype, dot_typed, row, x)
}

#[inline]
#[target_feature(enable = "neon")]
fn decode_typed<const TYPE: usize>(row: &[u8], out: &mut [f32]) {
    let (whole, tail) = out.as_chunks_mut::<STRIDE>();
    let rest = whole.len();
    for (chunk, out) in whole.iter_mut().enumerate() {
        for (weights, out) in weights::<TYPE>(row, chunk).into_iter().zip(out.as_chunks_mut().0) {
            store(weights, out);
        }
    }
    decode_tail::<TYPE>(row, rest, tail);
}

#[inline]
#[target_feature(enable = "neon")]
fn dot_typed<const TYPE: usize>(row: &[u8], x: &[f32]) -> f32 {
    let (whole, x_tail) = x.as_chunks::<STRIDE>();
    let mut sums = no_sums();
    for (chunk, x) in whole.iter().enumerate() {
        for ((sum, weights), x) in sums.iter_mut().zip(weights::<TYPE>(row, chunk)).zip(x.as_chunks().0) {
            *sum = vfmaq_f32(*sum, weights, load(x));
        }
    }
    let mut tail = [0.0; STRIDE];
    let tail = &mut tail[..x_tail.len()];
    decode_tail::<TYPE>(row, whole.len(), tail);
    add_tail(&mut sums, tail, x_tail);
    total(sums)
}

/// Fewer than 32 weights after `chunks` whole chunks: only unblocked types have such.
#[inline]
#[target_feature(enable = "neon")]
fn decode_tail<const TYPE: usize>(row: &[u8], chunks: usize, out: &mut [f32]) {
    let dtype = DenseType::ALL[TYPE];
    if !out.is_empty() {
        dtype.decode(&row[chunks * STRIDE * dtype.block_bytes()..], out);
    }
}

/// Weights `32 * chunk ..` of a row.
#[inline]
#[target_feature(enable = "neon")]
fn weights<const TYPE: usize>(row: &[u8], chunk: usize) -> Weights {
    let dtype = DenseType::ALL[TYPE];
    let per_block = dtype.block_len() / STRIDE;
    if per_block == 0 {
        let bytes = STRIDE * dtype.block_bytes();
        return plain(dtype, &row[chunk * bytes..][..bytes]);
    }
    blocked(dtype, row, chunk, per_block)
}

#[inline]
#[target_feature(enable = "neon")]
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
            let d = half_at(block, 0);
            scaled(signed(load_bytes(&block[2..])), d, d)
        }
        DenseType::Q4K => k_quant(block, part, sub_block(&block[16..], part)),
        DenseType::Q5K => {
            let high = bits::<1, 4>(load_bytes(&block[16..]), part);
            k_quant(block, part, or(sub_block(&block[48..], part), high))
        }
        _ => q6_k(block, part),
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn plain(dtype: DenseType, bytes: &[u8]) -> Weights {
    let mut weights = no_sums();
    match dtype {
        DenseType::F32 => {
            for (weights, bytes) in weights.iter_mut().zip(bytes.as_chunks::<16>().0) {
                // SAFETY: 16 readable bytes; the load needs no alignment.
                *weights = vreinterpretq_f32_u8(unsafe { vld1q_u8(bytes.as_ptr()) });
            }
        }
        DenseType::F16 => {
            for (weights, bytes) in weights.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *weights = vcvt_f32_f16(vreinterpret_f16_u16(load_4(bytes)));
            }
        }
        _ => {
            for (weights, bytes) in weights.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *weights = vreinterpretq_f32_u32(vshll_n_u16::<16>(load_4(bytes)));
            }
        }
    }
    weights
}

#[inline]
#[target_feature(enable = "neon")]
fn load_4(bytes: &[u8; 8]) -> uint16x4_t {
    // SAFETY: 8 readable bytes; the load needs no alignment.
    vreinterpret_u16_u8(unsafe { vld1_u8(bytes.as_ptr()) })
}

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn half_at(bytes: &[u8], at: usize) -> f32 {
    let bits = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    vgetq_lane_f32::<0>(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(bits))))
}

#[inline]
#[target_feature(enable = "neon")]
fn load_16(bytes: &[u8; 16]) -> uint8x16_t {
    // SAFETY: 16 readable bytes; the load needs no alignment.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn load_bytes(bytes: &[u8]) -> Codes {
    let halves = bytes.as_chunks().0;
    [load_16(&halves[0]), load_16(&halves[1])]
}

/// 32 bytes as numbers.
#[inline]
#[target_feature(enable = "neon")]
fn unsigned([first, second]: Codes) -> Weights {
    let words =
        [vmovl_u8(vget_low_u8(first)), vmovl_high_u8(first), vmovl_u8(vget_low_u8(second)), vmovl_high_u8(second)];
    let mut weights = no_sums();
    for (weights, words) in weights.as_chunks_mut::<2>().0.iter_mut().zip(words) {
        *weights = [vcvtq_f32_u32(vmovl_u16(vget_low_u16(words))), vcvtq_f32_u32(vmovl_high_u16(words))];
    }
    weights
}

/// 32 bytes as signed numbers.
#[inline]
#[target_feature(enable = "neon")]
fn signed([first, second]: Codes) -> Weights {
    let (first, second) = (vreinterpretq_s8_u8(first), vreinterpretq_s8_u8(second));
    let words =
        [vmovl_s8(vget_low_s8(first)), vmovl_high_s8(first), vmovl_s8(vget_low_s8(second)), vmovl_high_s8(second)];
    let mut weights = no_sums();
    for (weights, words) in weights.as_chunks_mut::<2>().0.iter_mut().zip(words) {
        *weights = [vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))), vcvtq_f32_s32(vmovl_high_s16(words))];
    }
    weights
}

#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn or(a: Codes, b: Codes) -> Codes {
    [vorrq_u8(a[0], b[0]), vorrq_u8(a[1], b[1])]
}

/// Bits from `at` on of every byte, those of `MASK`, moved up by `TO`.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn bits<const MASK: u8, const TO: i32>(bytes: Codes, at: usize) -> Codes {
    // A left shift by a negative number is one to the right.
    let (shift, mask) = (vdupq_n_s8(-(at as i8)), vdupq_n_u8(MASK));
    let field = |bytes| vshlq_n_u8::<TO>(vandq_u8(vshlq_u8(bytes, shift), mask));
    [field(bytes[0]), field(bytes[1])]
}

/// 16 bytes to 32 nibbles, the low ones first.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn nibbles(bytes: &[u8]) -> Codes {
    let bytes = load_16(&bytes.as_chunks().0[0]);
    [vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes)]
}

/// Adds the fifth bit of each of 32 weights, from 4 bytes.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn fifth_bits(q: Codes, bits: &[u8]) -> Codes {
    let own_bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    let set = |first: u8, second: u8| {
        let bytes = vcombine_u8(vdup_n_u8(first), vdup_n_u8(second));
        vandq_u8(vtstq_u8(bytes, own_bit), vdupq_n_u8(16))
    };
    or(q, [set(bits[0], bits[1]), set(bits[2], bits[3])])
}

/// `d * (q - middle)`.
#[inline]
#[target_feature(enable = "neon")]
fn offset(d: f32, q: Codes, middle: f32) -> Weights {
    let middle = vdupq_n_f32(middle);
    let mut weights = unsigned(q);
    for weight in &mut weights {
        *weight = vmulq_n_f32(vsubq_f32(*weight, middle), d);
    }
    weights
}

/// `d * q + minimum`.
#[inline]
#[target_feature(enable = "neon")]
fn scale_and_add(d: f32, q: Codes, minimum: f32) -> Weights {
    let minimum = vdupq_n_f32(minimum);
    let mut weights = unsigned(q);
    for weight in &mut weights {
        *weight = vaddq_f32(vmulq_n_f32(*weight, d), minimum);
    }
    weights
}

/// The first 16 weights times one scale, the others times another.
#[inline]
#[target_feature(enable = "neon")]
fn scaled(mut weights: Weights, first: f32, second: f32) -> Weights {
    for (weights, scale) in weights.as_chunks_mut::<4>().0.iter_mut().zip([first, second]) {
        for weight in weights {
            *weight = vmulq_n_f32(*weight, scale);
        }
    }
    weights
}

/// The nibbles of sub-block `part`: each 32 bytes hold one sub-block low and the next one high.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn sub_block(bytes: &[u8], part: usize) -> Codes {
    bits::<15, 0>(load_bytes(&bytes[32 * (part / 2)..]), 4 * (part % 2))
}

/// `d * scale * q - dmin * minimum`.
#[inline]
#[target_feature(enable = "neon")]
fn k_quant(block: &[u8], part: usize, q: Codes) -> Weights {
    let (scale, minimum) = crate::dense::scale_and_minimum(&block[4..16], part);
    let scale = half_at(block, 0) * scale;
    let minimum = vdupq_n_f32(half_at(block, 2) * minimum);
    let mut weights = unsigned(q);
    for weight in &mut weights {
        *weight = vsubq_f32(vmulq_n_f32(*weight, scale), minimum);
    }
    weights
}

/// The codes of a 32-weight part of a Q6_K block.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn q6_k_codes(block: &[u8], part: usize) -> Codes {
    let (half, quarter) = (part / 4, part % 4);
    let low = load_bytes(&block[64 * half + 32 * (quarter & 1)..]);
    let high = load_bytes(&block[128 + 32 * half..]);
    or(bits::<15, 0>(low, 4 * (quarter / 2)), bits::<3, 4>(high, 2 * quarter))
}

/// `d * scale * (q - 32)`, 16 weights to a scale.
#[inline]
#[target_feature(enable = "neon")]
fn q6_k(block: &[u8], part: usize) -> Weights {
    let [first, second] = q6_k_codes(block, part);
    let middle = vdupq_n_u8(32);
    let q = signed([vsubq_u8(first, middle), vsubq_u8(second, middle)]);
    let d = half_at(block, 208);
    let scale = |i: usize| d * f32::from(block[192 + 2 * part + i].cast_signed());
    scaled(q, scale(0), scale(1))
}
