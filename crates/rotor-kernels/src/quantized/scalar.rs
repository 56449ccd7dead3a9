//! The reference: one half block at a time, by the formulas of docs/formats.md.

use super::{BASE, BLOCK, PANEL, Panel, QuantizedKernels, bounds};
use crate::dense::{DenseType, scale_and_minimum};
use crate::encode;
use half::f16;

pub(crate) static KERNELS: QuantizedKernels =
    QuantizedKernels { products, encode: encode::plain, bounds: bounds::plain };

fn products(dtype: DenseType, rows: &[u8], row_bytes: usize, x: &[&[Panel]], out: &mut [f32]) {
    for (row, out) in rows.chunks_exact(row_bytes).zip(out.chunks_exact_mut(x.len())) {
        for (out, panels) in out.iter_mut().zip(x) {
            *out = dot(dtype, row, panels);
        }
    }
}

fn dot(dtype: DenseType, row: &[u8], panels: &[Panel]) -> f32 {
    let mut sum = 0.0;
    for (index, bytes) in row.chunks_exact(dtype.block_bytes()).enumerate() {
        for part in 0..dtype.block_len() / BLOCK {
            let column = index * dtype.block_len() + part * BLOCK;
            let (panel, b) = (&panels[column / PANEL], column % PANEL / BLOCK);
            for (half, run) in runs(dtype, bytes, part).into_iter().enumerate() {
                let product = |digits: &[[i8; BLOCK]; 8]| -> i32 {
                    let digits = &digits[b][16 * half..][..16];
                    run.codes.iter().zip(digits).map(|(code, digit)| i32::from(*code) * i32::from(*digit)).sum()
                };
                let exact = i32::from(BASE) * product(&panel.high) + product(&panel.low);
                sum += run.a * panel.scale * exact as f32 + run.m * panel.half_sums[2 * b + half];
            }
        }
    }
    sum
}

/// 16 weights, `a * code + m`.
pub(crate) struct Run {
    pub codes: [i16; 16],
    pub a: f32,
    pub m: f32,
}

/// The two half blocks of 32 weights, number `part` of a block.
pub(crate) fn runs(dtype: DenseType, block: &[u8], part: usize) -> [Run; 2] {
    let half_at = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    let nibble = |at: usize, i: usize| i16::from(if i < 16 { block[at + i] & 15 } else { block[at + i - 16] >> 4 });
    let fifth_bit = |at: usize, i: usize| i16::from(block[at + i / 8] >> (i % 8) & 1) << 4;
    // Of the K types: each 32 bytes hold one sub-block low and the next one high.
    let sub_block = |at: usize, i: usize| i16::from(block[at + 32 * (part / 2) + i] >> (4 * (part % 2)) & 15);
    let run = |half: usize, a: f32, m: f32, code: &dyn Fn(usize) -> i16| Run {
        codes: std::array::from_fn(|i| code(16 * half + i)),
        a,
        m,
    };
    let both = |a: f32, m: f32, code: &dyn Fn(usize) -> i16| [run(0, a, m, code), run(1, a, m, code)];
    match dtype {
        DenseType::Q4_0 => both(half_at(0), -8.0 * half_at(0), &|i| nibble(2, i)),
        DenseType::Q4_1 => both(half_at(0), half_at(2), &|i| nibble(4, i)),
        DenseType::Q5_0 => both(half_at(0), -16.0 * half_at(0), &|i| nibble(6, i) | fifth_bit(2, i)),
        DenseType::Q5_1 => both(half_at(0), half_at(2), &|i| nibble(8, i) | fifth_bit(4, i)),
        DenseType::Q8_0 => both(half_at(0), 0.0, &|i| i16::from(block[2 + i].cast_signed())),
        DenseType::Q4K | DenseType::Q5K => {
            let (scale, minimum) = scale_and_minimum(&block[4..16], part);
            let (a, m) = (half_at(0) * scale, -half_at(2) * minimum);
            match dtype {
                DenseType::Q4K => both(a, m, &|i| sub_block(16, i)),
                _ => both(a, m, &|i| sub_block(48, i) | i16::from(block[16 + i] >> part & 1) << 4),
            }
        }
        DenseType::Q6K => {
            let (half, quarter) = (part / 4, part % 4);
            let low = |i: usize| block[64 * half + 32 * (quarter & 1) + i] >> (4 * (quarter / 2)) & 15;
            let high = |i: usize| block[128 + 32 * half + i] >> (2 * quarter) & 3;
            let code = |i: usize| i16::from(low(i) | high(i) << 4);
            let scale = |of: usize| half_at(208) * f32::from(block[192 + 2 * part + of].cast_signed());
            [run(0, scale(0), -32.0 * scale(0), &code), run(1, scale(1), -32.0 * scale(1), &code)]
        }
        DenseType::F32 | DenseType::F16 | DenseType::Bf16 => unreachable!("{} has no blocks", dtype.name()),
    }
}
