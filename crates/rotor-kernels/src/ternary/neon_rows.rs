//! Products along rows of stored planes for NEON.
//!
//! A test of one bit gives all ones, that is -1, where it is set: for the byte of `N` less that for the byte of `P` is the
//! weight, 0 where a weight is set in both planes. 16 weights at a time are multiplied by their activations and added to int16.
//!
//! Bounds. A product is at most 128 in size and a chunk of 256 columns adds 16 of them to each int16, so 15 chunks make
//! `15 * 16 * 128 = 30720`; then they are added to int32.

use super::planes::ROW_CHUNK;
use std::arch::aarch64::*;

/// Bytes of a plane that are taken at once.
const CHUNK: usize = ROW_CHUNK / 8;
/// Chunks whose sums fit int16.
const CHUNKS_PER_FLUSH: usize = 15;

#[target_feature(enable = "neon")]
pub(super) fn dot_rows(bit0: &[u8], bit1: &[u8], width: usize, x: &[i8], out: &mut [i32]) -> bool {
    let x = x.as_chunks::<CHUNK>().0.as_chunks::<8>().0;
    let mut overlap = vdupq_n_u8(0);
    for (row, out) in out.iter_mut().enumerate() {
        let (plus, plus_rest) = bit0[row * width..(row + 1) * width].as_chunks::<CHUNK>();
        let (minus, minus_rest) = bit1[row * width..(row + 1) * width].as_chunks::<CHUNK>();
        let mut sums = vdupq_n_s32(0);
        let (x_whole, x_rest) = x.split_at(plus.len());
        let runs = plus.chunks(CHUNKS_PER_FLUSH).zip(minus.chunks(CHUNKS_PER_FLUSH));
        for ((plus, minus), x) in runs.zip(x_whole.chunks(CHUNKS_PER_FLUSH)) {
            let mut narrow = [vdupq_n_s16(0); 2];
            for ((plus, minus), x) in plus.iter().zip(minus).zip(x) {
                add_chunk(plus, minus, x, &mut narrow, &mut overlap);
            }
            sums = vpadalq_s16(vpadalq_s16(sums, narrow[0]), narrow[1]);
        }
        if let [x] = x_rest {
            let mut padded = [[0; CHUNK]; 2];
            padded[0][..plus_rest.len()].copy_from_slice(plus_rest);
            padded[1][..minus_rest.len()].copy_from_slice(minus_rest);
            let mut narrow = [vdupq_n_s16(0); 2];
            add_chunk(&padded[0], &padded[1], x, &mut narrow, &mut overlap);
            sums = vpadalq_s16(vpadalq_s16(sums, narrow[0]), narrow[1]);
        }
        *out = vaddvq_s32(sums);
    }
    vmaxvq_u8(overlap) != 0
}

/// Adds the products of 256 columns, as the module head describes.
#[inline]
#[target_feature(enable = "neon")]
fn add_chunk(
    plus: &[u8; CHUNK],
    minus: &[u8; CHUNK],
    x: &[[i8; CHUNK]; 8],
    sums: &mut [int16x8_t; 2],
    overlap: &mut uint8x16_t,
) {
    for half in 0..2 {
        let (plus, minus) = (load(&plus.as_chunks().0[half]), load(&minus.as_chunks().0[half]));
        *overlap = vorrq_u8(*overlap, vandq_u8(plus, minus));
        for (bit, x) in x.iter().enumerate() {
            let own_bit = vdupq_n_u8(1 << bit);
            let weights = vreinterpretq_s8_u8(vsubq_u8(vtstq_u8(minus, own_bit), vtstq_u8(plus, own_bit)));
            let x = load_x(&x.as_chunks().0[half]);
            sums[0] = vmlal_s8(sums[0], vget_low_s8(weights), vget_low_s8(x));
            sums[1] = vmlal_high_s8(sums[1], weights, x);
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn load(bytes: &[u8; 16]) -> uint8x16_t {
    // SAFETY: 16 readable bytes; the load needs no alignment.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_x(x: &[i8; 16]) -> int8x16_t {
    // SAFETY: as in `load`.
    unsafe { vld1q_s8(x.as_ptr()) }
}
