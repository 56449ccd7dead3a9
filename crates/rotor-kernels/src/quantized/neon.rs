//! Blocks for NEON: 16 codes to a register.
//!
//! No step can overflow. Codes are at most 63, or Q8_0's at most 128 in size, so that two products in an i16 are at most
//! `2 * 128 * 127 = 32512`; pairs of those are added in an i32, and the four products of both digits together are at most
//! `4 * 128 * 16256`, less than 2^24, which f32 holds exactly.
//!
//! Lane `j` of a running sum takes columns `4j .. 4j + 4` of every block, in order.

use super::{BASE, BLOCK, PANEL, Panel, QuantizedKernels, bounds};
use crate::dense::{DenseType, scale_and_minimum};
use crate::encode;
use crate::float::neon::sum_lanes;
use crate::float::neon_rows::{Codes, bits, fifth_bits, half_at, load_bytes, nibbles, or, q6_k_codes, sub_block};
use std::arch::aarch64::*;

pub(crate) static KERNELS: QuantizedKernels =
    QuantizedKernels { products, encode: encode::plain, bounds: bounds::plain };

/// Tokens that share one unpacking of the codes.
const TOKENS: usize = 4;

#[target_feature(enable = "neon")]
fn products(dtype: DenseType, rows: &[u8], row_bytes: usize, x: &[&[Panel]], out: &mut [f32]) {
    match dtype {
        DenseType::Q4_0 => typed::<2>(rows, row_bytes, x, out),
        DenseType::Q4_1 => typed::<3>(rows, row_bytes, x, out),
        DenseType::Q5_0 => typed::<4>(rows, row_bytes, x, out),
        DenseType::Q5_1 => typed::<5>(rows, row_bytes, x, out),
        DenseType::Q8_0 => typed::<6>(rows, row_bytes, x, out),
        DenseType::Q4K => typed::<7>(rows, row_bytes, x, out),
        DenseType::Q5K => typed::<8>(rows, row_bytes, x, out),
        DenseType::Q6K => typed::<9>(rows, row_bytes, x, out),
        DenseType::F32 | DenseType::F16 | DenseType::Bf16 => unreachable!("{} has no blocks", dtype.name()),
    }
}

/// `TYPE` is the type's index in [`DenseType::ALL`], a constant inside.
#[inline]
#[target_feature(enable = "neon")]
fn typed<const TYPE: usize>(rows: &[u8], row_bytes: usize, x: &[&[Panel]], out: &mut [f32]) {
    for (row, out) in rows.chunks_exact(row_bytes).zip(out.chunks_exact_mut(x.len())) {
        let ((fours, rest), (outs, out_rest)) = (x.as_chunks::<TOKENS>(), out.as_chunks_mut::<TOKENS>());
        for (x, out) in fours.iter().zip(outs) {
            *out = dot::<TYPE, TOKENS>(row, x);
        }
        match *rest {
            [a] => out_rest.copy_from_slice(&dot::<TYPE, 1>(row, &[a])),
            [a, b] => out_rest.copy_from_slice(&dot::<TYPE, 2>(row, &[a, b])),
            [a, b, c] => out_rest.copy_from_slice(&dot::<TYPE, 3>(row, &[a, b, c])),
            _ => {}
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn dot<const TYPE: usize, const T: usize>(row: &[u8], x: &[&[Panel]; T]) -> [f32; T] {
    let dtype = DenseType::ALL[TYPE];
    let mut sums = [[vdupq_n_f32(0.0); 2]; T];
    let mut minima = [0.0; T];
    for (index, bytes) in row.chunks_exact(dtype.block_bytes()).enumerate() {
        for part in 0..dtype.block_len() / BLOCK {
            let column = index * dtype.block_len() + part * BLOCK;
            let panels = super::panels(x, column / PANEL);
            let b = column % PANEL / BLOCK;
            let block = block(dtype, bytes, part);
            for ((sums, minimum), panel) in sums.iter_mut().zip(&mut minima).zip(panels) {
                let (high, low) = (panel.high[b].as_chunks().0, panel.low[b].as_chunks().0);
                for half in 0..2 {
                    let high = dot_16(block.codes[half], &high[half]);
                    let exact = vmlaq_n_s32(dot_16(block.codes[half], &low[half]), high, i32::from(BASE));
                    sums[half] = vfmaq_n_f32(sums[half], vcvtq_f32_s32(exact), block.a[half] * panel.scale);
                    *minimum += block.m[half] * panel.half_sums[2 * b + half];
                }
            }
        }
    }
    let mut totals = [0.0; T];
    for ((total, sums), minimum) in totals.iter_mut().zip(sums).zip(minima) {
        *total = sum_lanes(sums[0], sums[1]) + minimum;
    }
    totals
}

/// Sums of four products each.
#[inline]
#[target_feature(enable = "neon")]
fn dot_16(codes: int8x16_t, q: &[i8; 16]) -> int32x4_t {
    // SAFETY: 16 readable bytes; the load needs no alignment.
    let q = unsafe { vld1q_s8(q.as_ptr()) };
    let (low, high) = (vmull_s8(vget_low_s8(codes), vget_low_s8(q)), vmull_high_s8(codes, q));
    vpaddlq_s16(vpaddq_s16(low, high))
}

/// 32 weights, `a * code + m` with a factor and an offset for each half.
struct Block {
    codes: [int8x16_t; 2],
    a: [f32; 2],
    m: [f32; 2],
}

/// The 32 weights number `part` of a stored block.
#[inline]
#[target_feature(enable = "neon")]
fn block(dtype: DenseType, block: &[u8], part: usize) -> Block {
    let of = |codes: Codes, a: f32, m: f32| Block { codes: signed(codes), a: [a; 2], m: [m; 2] };
    match dtype {
        DenseType::Q4_0 => of(nibbles(&block[2..]), half_at(block, 0), -8.0 * half_at(block, 0)),
        DenseType::Q4_1 => of(nibbles(&block[4..]), half_at(block, 0), half_at(block, 2)),
        DenseType::Q5_0 => {
            of(fifth_bits(nibbles(&block[6..]), &block[2..]), half_at(block, 0), -16.0 * half_at(block, 0))
        }
        DenseType::Q5_1 => of(fifth_bits(nibbles(&block[8..]), &block[4..]), half_at(block, 0), half_at(block, 2)),
        DenseType::Q8_0 => of(load_bytes(&block[2..]), half_at(block, 0), 0.0),
        DenseType::Q4K | DenseType::Q5K => {
            let (scale, minimum) = scale_and_minimum(&block[4..16], part);
            let (a, m) = (half_at(block, 0) * scale, -half_at(block, 2) * minimum);
            match dtype {
                DenseType::Q4K => of(sub_block(&block[16..], part), a, m),
                _ => of(or(sub_block(&block[48..], part), bits::<1, 4>(load_bytes(&block[16..]), part)), a, m),
            }
        }
        _ => {
            let scale = |of: usize| half_at(block, 208) * f32::from(block[192 + 2 * part + of].cast_signed());
            let a = [scale(0), scale(1)];
            Block { codes: signed(q6_k_codes(block, part)), a, m: [-32.0 * a[0], -32.0 * a[1]] }
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn signed(codes: Codes) -> [int8x16_t; 2] {
    [vreinterpretq_s8_u8(codes[0]), vreinterpretq_s8_u8(codes[1])]
}
