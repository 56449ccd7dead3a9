//! Ternary kernels for NEON with dot products of int8.
//!
//! # Few tokens
//!
//! A vector holds 16 columns of 4 rows: two bits for each of four columns in every byte, and `sdot` multiplies a row's four
//! bytes by four consecutive activations, which are one lane of a vector of 16. The lowest field is masked, the highest
//! shifted down, and both share an accumulator; the two between are only masked, which makes them 4 and 16 times too large,
//! and have accumulators of their own that are shifted right in the end. (The highest field cannot be left in place: with the
//! code 2 it would be `-128`, for `sdot` takes both sides as signed.) Since a code is the weight plus one, the sum of the
//! activations is taken off.
//!
//! Bounds. A field adds at most `4 * 2 * 4^2 * 128 = 16384` in size to its accumulator for each block of 16 columns, the two
//! that share one `2 * 4 * 2 * 128 = 2048`: int32 holds 2^17 blocks, and rows are summed in [`SEGMENT`]s of 2^14. The sum of
//! all is at most `2 * 128` per column: int32 holds 2^23 columns.
//!
//! # Many tokens
//!
//! A panel of 32 rows is unpacked to a byte per code, and then 8 tokens are multiplied at a time by 8 rows: 16 accumulators,
//! 2 vectors of weights, and 2 with four activations of four tokens each, a token in each lane; 4 loads feed 16 dot products.
//! (A load that fills all lanes takes the place of a dot product on many processors.)

use super::kernel::{Arrangement, Many, PanelKernels, PanelTokens, TernaryFamily, TernaryKernel, Token};
use super::layout::{self, CODES_BYTES, CODES_COLS};
use super::{TILE_ROWS, neon, skipping};
use std::arch::aarch64::*;
use std::arch::asm;

pub(crate) static FAMILY: TernaryFamily = TernaryFamily {
    pack_row: neon::pack_row,
    dot_rows: super::neon_rows::dot_rows,
    sum: neon::sum,
    planes: &neon::PLANES,
    kernels: &[&CODES, &neon::PLANES],
    skipping: Some(&skipping::neon_dotprod::KERNELS),
};

// By count of instructions: unpacking a panel is 80, and saves 64 of the few-token kernel's for every 4 tokens.
pub(super) static CODES: TernaryKernel = TernaryKernel {
    name: "codes",
    layout: &layout::CODES,
    preparation: None,
    few_tokens: 4,
    few,
    few_groups: None,
    many: &[Many::Panel(PanelKernels {
        min_tokens: 12,
        tokens: 8,
        arrangement: Arrangement::SideBySide,
        input_bytes: 4 << 20,
        unpack,
        multiply: multiply_panel,
    })],
    many_groups: &[],
    many_exact: None,
};

/// Rows of a vector.
const ROWS: usize = 4;
/// Bytes of a vector.
const LINE: usize = 16;
/// Vectors of a block.
const LINES: usize = CODES_BYTES / LINE;
/// Blocks whose sums fit the accumulators.
const SEGMENT: usize = 1 << 14;

/// Adds to each row's sum the dot product of its four bytes and the activations `4 F .. 4 F + 4`.
///
/// The intrinsic for this instruction is not stable in the Rust version this crate asks for.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn sdot<const F: i32>(sums: &mut int32x4_t, codes: uint8x16_t, x: int8x16_t) {
    // SAFETY: the instruction is there (target feature) and touches nothing but the registers named.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {codes:v}.16b, {x:v}.4b[{f}]",
            sums = inout(vreg) *sums,
            codes = in(vreg) codes,
            x = in(vreg) x,
            f = const F,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn load(bytes: &[u8; LINE]) -> uint8x16_t {
    // SAFETY: 16 readable bytes; the load needs no alignment.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn load_x(x: &[i8; CODES_COLS]) -> int8x16_t {
    // SAFETY: as in `load`.
    unsafe { vld1q_s8(x.as_ptr()) }
}

#[target_feature(enable = "neon,dotprod")]
fn few(tile: &[u8], cols: usize, tokens: &[Token<'_>], out: &mut [[i32; TILE_ROWS]]) {
    match tokens {
        [a] => few_tokens::<1, 8>([a], tile, cols, out),
        [a, b] => few_tokens::<2, 4>([a, b], tile, cols, out),
        [a, b, c] => few_tokens::<3, 2>([a, b, c], tile, cols, out),
        [a, b, c, d] => few_tokens::<4, 2>([a, b, c, d], tile, cols, out),
        _ => unreachable!("one to four tokens"),
    }
}

/// `L` vectors of rows at a time.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn few_tokens<const N: usize, const L: usize>(
    tokens: [&Token<'_>; N],
    tile: &[u8],
    cols: usize,
    out: &mut [[i32; TILE_ROWS]],
) {
    let blocks = &tile.as_chunks::<CODES_BYTES>().0[..cols / CODES_COLS];
    for (token, out) in tokens.iter().zip(out.iter_mut()) {
        out.fill(-token.sum);
    }
    for (segment, blocks) in blocks.chunks(SEGMENT).enumerate() {
        let first = segment * SEGMENT;
        let mut x: [&[[i8; CODES_COLS]]; N] = [&[]; N];
        for (x, token) in x.iter_mut().zip(tokens) {
            *x = &token.quantized.as_chunks().0[first..first + blocks.len()];
        }
        for line in (0..LINES).step_by(L) {
            for (sums, out) in lines::<N, L>(blocks, line, x).into_iter().zip(out.iter_mut()) {
                for (sums, out) in sums.into_iter().zip(&mut out.as_chunks_mut::<ROWS>().0[line..]) {
                    add(sums, out);
                }
            }
        }
    }
}

/// Adds sums of four rows.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add(sums: int32x4_t, out: &mut [i32; ROWS]) {
    // SAFETY: 16 readable and writable bytes; neither access needs alignment.
    unsafe { vst1q_s32(out.as_mut_ptr(), vaddq_s32(vld1q_s32(out.as_ptr()), sums)) };
}

/// Sums of codes times activations for `L` vectors of rows, from the vector `first` on.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn lines<const N: usize, const L: usize>(
    blocks: &[[u8; CODES_BYTES]],
    first: usize,
    x: [&[[i8; CODES_COLS]]; N],
) -> [[int32x4_t; L]; N] {
    let masks = [vdupq_n_u8(3), vdupq_n_u8(3 << 2), vdupq_n_u8(3 << 4)];
    let mut sums = [[[vdupq_n_s32(0); 3]; L]; N];
    for (index, block) in blocks.iter().enumerate() {
        let lines = block.as_chunks::<LINE>().0;
        for l in 0..L {
            let codes = load(&lines[first + l]);
            let in_place = masks.map(|mask| vandq_u8(codes, mask));
            let highest = vshrq_n_u8::<6>(codes);
            for token in 0..N {
                let x = load_x(&x[token][index]);
                let [ends, second, third] = &mut sums[token][l];
                sdot::<0>(ends, in_place[0], x);
                sdot::<1>(second, in_place[1], x);
                sdot::<2>(third, in_place[2], x);
                sdot::<3>(ends, highest, x);
            }
        }
    }
    let mut totals = [[vdupq_n_s32(0); L]; N];
    for (totals, sums) in totals.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
        *totals = vsraq_n_s32::<4>(vsraq_n_s32::<2>(sums[0], sums[1]), sums[2]);
    }
    totals
}

/// Codes to bytes: `panel[column / 4][row][column % 4]`.
#[target_feature(enable = "neon,dotprod")]
fn unpack(tile: &[u8], cols: usize, panel: &mut [u8]) {
    let blocks = &tile.as_chunks::<CODES_BYTES>().0[..cols / CODES_COLS];
    let mask = vdupq_n_u8(3);
    for (block, panel) in blocks.iter().zip(panel.as_chunks_mut::<{ 4 * CODES_BYTES }>().0) {
        let fields = panel.as_chunks_mut::<LINE>().0;
        for (line, codes) in block.as_chunks::<LINE>().0.iter().enumerate() {
            let codes = load(codes);
            let codes = [
                vandq_u8(codes, mask),
                vandq_u8(vshrq_n_u8::<2>(codes), mask),
                vandq_u8(vshrq_n_u8::<4>(codes), mask),
                vshrq_n_u8::<6>(codes),
            ];
            for (f, codes) in codes.into_iter().enumerate() {
                // SAFETY: 16 writable bytes; the store needs no alignment.
                unsafe { vst1q_u8(fields[f * LINES + line].as_mut_ptr(), codes) };
            }
        }
    }
}

#[target_feature(enable = "neon,dotprod")]
fn multiply_panel(panel: &[u8], input: PanelTokens<'_>, out: &mut [[i32; TILE_ROWS]]) {
    match input.tokens {
        1 => panel_tokens::<1>(panel, input, out),
        2 => panel_tokens::<2>(panel, input, out),
        3 => panel_tokens::<3>(panel, input, out),
        4 => panel_tokens::<4>(panel, input, out),
        5 => panel_tokens::<5>(panel, input, out),
        6 => panel_tokens::<6>(panel, input, out),
        7 => panel_tokens::<7>(panel, input, out),
        8 => panel_tokens::<8>(panel, input, out),
        _ => unreachable!("one to eight tokens"),
    }
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn panel_tokens<const N: usize>(panel: &[u8], input: PanelTokens<'_>, out: &mut [[i32; TILE_ROWS]]) {
    let quads = panel.as_chunks::<LINE>().0.as_chunks::<LINES>().0;
    for line in (0..LINES).step_by(2) {
        let mut products = [[vdupq_n_s32(0); 2]; N];
        for (quad, x) in quads.iter().zip(input.x.as_chunks::<4>().0.as_chunks::<N>().0) {
            let codes = [load(&quad[line]), load(&quad[line + 1])];
            let (fours, others) = x.as_chunks::<4>();
            let (products_of_fours, products_of_others) = products.as_chunks_mut::<4>();
            for ([a, b, c, d], x) in products_of_fours.iter_mut().zip(fours) {
                let x = load_x(&x.as_flattened().as_chunks().0[0]);
                for half in 0..2 {
                    sdot::<0>(&mut a[half], codes[half], x);
                    sdot::<1>(&mut b[half], codes[half], x);
                    sdot::<2>(&mut c[half], codes[half], x);
                    sdot::<3>(&mut d[half], codes[half], x);
                }
            }
            for (products, x) in products_of_others.iter_mut().zip(others) {
                let x = vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(x.map(i8::cast_unsigned))));
                for half in 0..2 {
                    sdot::<0>(&mut products[half], codes[half], x);
                }
            }
        }
        for (products, out) in products.into_iter().zip(out.iter_mut()) {
            for (products, out) in products.into_iter().zip(&mut out.as_chunks_mut::<ROWS>().0[line..]) {
                add(products, out);
            }
        }
    }
}
