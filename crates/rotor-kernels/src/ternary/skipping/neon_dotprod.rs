//! Kernels for fours with NEON's dot products of int8.
//!
//! In a row, 16 bytes meet 16 activations of each digit in their order, and `sdot` adds four products to each int32. Of columns, the
//! bytes of four are brought side by side first, so that an int32 is a row's. As in `ternary/neon_dotprod.rs`, two of the fields are
//! only masked, which makes their products 4 and 16 times too large, and have accumulators of their own that are shifted right in
//! the end; the highest has to be shifted down, since bytes are signed.
//!
//! Bounds. A dot product is `4 * 2 * 4^2 * 128 = 2^14` in size at most. An accumulator takes one for every four columns: `2^14` of
//! them from the most columns there are ([`MAX_SIDE`](super::MAX_SIDE)), and a fourth of them in a row, whose digits have one each.

use super::layout::{FOURS, MAX_LINE_WEIGHTS};
use super::neon::{COLUMNS, DIGITS, QUARTER, TABLES, add_rows, fetch, for_each_part, for_each_row, line, load_x};
use super::places::Places;
use super::{BLOCK_ROWS, LINE, SkippingKernels, SkippingPanels, scalar};
use crate::ternary::TILE_ROWS;
use crate::ternary::neon::load;
use crate::ternary::neon_dotprod::{CODES, sdot};
use std::arch::aarch64::*;
use std::arch::asm;

pub(crate) static KERNELS: SkippingKernels = SkippingKernels {
    layout: &FOURS,
    rows,
    columns,
    active: scalar::active,
    tiles: None,
    tables: Some(&TABLES),
    panels: Some(&PANELS),
};

static PANELS: SkippingPanels = SkippingPanels { kernel: &CODES, of_rows: panel_of_rows, of_columns: panel_of_columns };

/// Rows of a vector of four columns each.
const ROWS: usize = 4;
/// Bytes of four columns of a panel.
const QUAD: usize = 4 * TILE_ROWS;
/// Columns that one vector of activations has.
const COLS: usize = 16;

/// Adds the dot products of four bytes each to four sums.
///
/// The intrinsic for this instruction is not stable in the Rust version this crate asks for.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot(sums: &mut int32x4_t, codes: uint8x16_t, x: int8x16_t) {
    // SAFETY: the instruction is there (target feature) and touches nothing but the registers named.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {codes:v}.16b, {x:v}.16b",
            sums = inout(vreg) *sums,
            codes = in(vreg) codes,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
}

/// The trits of each digit, plus one, times 1, 4, 16 and 1.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn fields(bytes: uint8x16_t) -> [uint8x16_t; DIGITS] {
    let masked = |mask| vandq_u8(bytes, vdupq_n_u8(mask));
    [masked(3), masked(3 << 2), masked(3 << 4), vshrq_n_u8::<6>(bytes)]
}

#[target_feature(enable = "neon,dotprod")]
fn rows(bytes: &[u8], row_lines: usize, list: &[u32], tokens: &[&[i8]], out: &mut [i32]) {
    match tokens {
        [a] => rows_of([a], bytes, row_lines, list, out),
        [a, b] => rows_of([a, b], bytes, row_lines, list, out),
        [a, b, c] => rows_of([a, b, c], bytes, row_lines, list, out),
        [a, b, c, d] => rows_of([a, b, c, d], bytes, row_lines, list, out),
        _ => unreachable!("one to four tokens"),
    }
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn rows_of<const N: usize>(tokens: [&[i8]; N], bytes: &[u8], row_lines: usize, list: &[u32], out: &mut [i32]) {
    let tokens = tokens.map(|x| &x.as_chunks::<{ DIGITS * LINE }>().0[..row_lines]);
    for_each_row(bytes, row_lines, list, |i, row, next| {
        let mut sums = [[vdupq_n_s32(0); DIGITS]; N];
        for (line, bytes) in row.iter().enumerate() {
            fetch(next.wrapping_add(line * LINE));
            for (quarter, bytes) in bytes.as_chunks::<QUARTER>().0.iter().enumerate() {
                for (digit, codes) in fields(load(bytes)).into_iter().enumerate() {
                    for (sums, x) in sums.iter_mut().zip(tokens) {
                        let x = load_x(&x[line].as_chunks().0[digit * LINE / QUARTER + quarter]);
                        dot(&mut sums[digit], codes, x);
                    }
                }
            }
        }
        for (token, [first, second, third, last]) in sums.into_iter().enumerate() {
            let sums = vsraq_n_s32::<4>(vsraq_n_s32::<2>(vaddq_s32(first, last), second), third);
            out[token * list.len() + i] = vaddvq_s32(sums);
        }
    });
}

#[target_feature(enable = "neon,dotprod")]
fn columns(slice: &[u8], places: &[u32], tokens: &[&[i8]], sums: &mut [[i32; MAX_LINE_WEIGHTS]]) {
    match (tokens, sums) {
        // The registers hold the sums of one token for 16 rows of each digit, or of two tokens for 8.
        ([a], [s, ..]) => columns_of::<1, 2>([a], slice, places, [s]),
        ([a, b], [s, t, ..]) => columns_of::<2, 1>([a, b], slice, places, [s, t]),
        ([a, b, c], [s, t, u, ..]) => {
            columns_of::<2, 1>([a, b], slice, places, [s, t]);
            columns_of::<1, 2>([c], slice, places, [u]);
        }
        ([a, b, c, d], [s, t, u, v, ..]) => {
            columns_of::<2, 1>([a, b], slice, places, [s, t]);
            columns_of::<2, 1>([c, d], slice, places, [u, v]);
        }
        _ => unreachable!("one to four tokens and their sums"),
    }
}

/// Sums of a slice for `N` tokens, a quarter of its lines at a time, or a half of that where `H` is one.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn columns_of<const N: usize, const H: usize>(
    tokens: [&[i8]; N],
    slice: &[u8],
    places: &[u32],
    mut sums: [&mut [i32; MAX_LINE_WEIGHTS]; N],
) {
    sums.iter_mut().for_each(|sums| sums.fill(0));
    for_each_part(tokens, slice, places, 1, |quarter, places, x| {
        for half in (0..2).step_by(H) {
            let mut products = [[[[vdupq_n_s32(0); DIGITS]; 2]; H]; N];
            let (sixteens, fours) = places.as_chunks::<COLS>();
            for (sixteen, places) in sixteens.iter().enumerate() {
                let x = x.map(|x| load_x(&x.as_chunks().0[sixteen]));
                let [a, b, c, d] = places.as_chunks::<4>().0 else { unreachable!("four fours") };
                add_four::<0, N, H>(&mut products, side_by_side(slice, a, quarter), half, x);
                add_four::<1, N, H>(&mut products, side_by_side(slice, b, quarter), half, x);
                add_four::<2, N, H>(&mut products, side_by_side(slice, c, quarter), half, x);
                add_four::<3, N, H>(&mut products, side_by_side(slice, d, quarter), half, x);
            }
            for (four, places) in fours.as_chunks::<4>().0.iter().enumerate() {
                let at = COLS * sixteens.len() + 4 * four;
                let x = x.map(|x| {
                    let mut padded = [0; COLS];
                    padded[..4].copy_from_slice(&x[at..at + 4]);
                    load_x(&padded)
                });
                add_four::<0, N, H>(&mut products, side_by_side(slice, places, quarter), half, x);
            }
            for (sums, products) in sums.iter_mut().zip(products) {
                for (at, [first, second, third, last]) in products.as_flattened().iter().copied().enumerate() {
                    let digits = [first, vshrq_n_s32::<2>(second), vshrq_n_s32::<4>(third), last];
                    for (digit, products) in digits.into_iter().enumerate() {
                        add_rows(products, &mut sums[LINE * digit + QUARTER * quarter + 2 * ROWS * half + ROWS * at..]);
                    }
                }
            }
        }
    });
}

/// Quarters of four columns' lines, zipped: four vectors of four rows each.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn side_by_side(slice: &[u8], places: &[u32; 4], quarter: usize) -> [uint8x16_t; 4] {
    // SAFETY: places of the slice (the kernel's contract).
    zipped(places.map(|place| load(&unsafe { line(slice, place) }.as_chunks().0[quarter])))
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn zipped([a, b, c, d]: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
    let two = |a, b| [vreinterpretq_u16_u8(vzip1q_u8(a, b)), vreinterpretq_u16_u8(vzip2q_u8(a, b))];
    let ([ab, ab_high], [cd, cd_high]) = (two(a, b), two(c, d));
    [vzip1q_u16(ab, cd), vzip2q_u16(ab, cd), vzip1q_u16(ab_high, cd_high), vzip2q_u16(ab_high, cd_high)]
        .map(|fours| vreinterpretq_u8_u16(fours))
}

/// Adds the products of four columns, whose activations are the four from `4 F` on, for `H` halves of their rows.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add_four<const F: i32, const N: usize, const H: usize>(
    products: &mut [[[[int32x4_t; DIGITS]; 2]; H]; N],
    rows: [uint8x16_t; 4],
    half: usize,
    x: [int8x16_t; N],
) {
    for h in 0..H {
        for at in 0..2 {
            for (digit, codes) in fields(rows[2 * (half + h) + at]).into_iter().enumerate() {
                for (products, x) in products.iter_mut().zip(x) {
                    sdot::<F>(&mut products[h][at][digit], codes, x);
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn store(codes: uint8x16_t, out: &mut [u8]) {
    let out: &mut [u8; QUARTER] = out.first_chunk_mut().expect("four rows of four columns");
    // SAFETY: 16 writable bytes; the store needs no alignment.
    unsafe { vst1q_u8(out.as_mut_ptr(), codes) };
}

/// The trits of a digit, plus one.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn field(bytes: uint8x16_t, digit: usize) -> uint8x16_t {
    vandq_u8(vshlq_u8(bytes, vdupq_n_s8(-2 * digit as i8)), vdupq_n_u8(3))
}

/// Four rows' bytes turned, so that the same four of all of them lie together, are four columns of each of their digits.
#[target_feature(enable = "neon,dotprod")]
fn panel_of_rows(block: &[u8], tile: usize, panel: &mut [u8]) {
    let places = Places::of_block();
    let (row_bytes, cols) = (block.len() / BLOCK_ROWS, panel.len() / TILE_ROWS);
    for (four_rows, places) in places.of[tile * TILE_ROWS..][..TILE_ROWS].as_chunks::<ROWS>().0.iter().enumerate() {
        for quarter in 0..row_bytes / QUARTER {
            let first_col = FOURS.column_of(quarter * QUARTER, 0);
            if first_col >= cols {
                // Later lines have none of them either, and later quarters of this one have higher columns.
                break;
            }
            let rows = places.map(|place| {
                let at = place as usize * row_bytes + quarter * QUARTER;
                load(block[at..].first_chunk().expect("a quarter of a line"))
            });
            for (four, bytes) in turned(rows).into_iter().enumerate() {
                for digit in 0..DIGITS {
                    let col = first_col + digit * LINE + 4 * four;
                    if col < cols {
                        store(field(bytes, digit), &mut panel[col / 4 * QUAD + four_rows * QUARTER..]);
                    }
                }
            }
        }
    }
}

/// Fours of bytes of four vectors, the first of all in the first, and so on.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn turned(rows: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
    let [a, b, c, d] = rows.map(|row| vreinterpretq_u32_u8(row));
    let two = |a, b| [vreinterpretq_u64_u32(vzip1q_u32(a, b)), vreinterpretq_u64_u32(vzip2q_u32(a, b))];
    let ([ab, ab_high], [cd, cd_high]) = (two(a, b), two(c, d));
    [vzip1q_u64(ab, cd), vzip2q_u64(ab, cd), vzip1q_u64(ab_high, cd_high), vzip2q_u64(ab_high, cd_high)]
        .map(|fours| vreinterpretq_u8_u64(fours))
}

/// The bytes of four columns side by side are four columns of a row of each digit, of which a tile has half of one's rows.
#[target_feature(enable = "neon,dotprod")]
fn panel_of_columns(slice: &[u8], places: &[u32], tile: usize, panel: &mut [u8]) {
    let zeros = [FOURS.zeros(); LINE];
    let (digit, first) = (tile * TILE_ROWS / LINE, tile * TILE_ROWS % LINE / QUARTER);
    let (panel, rest) = panel.as_chunks_mut::<QUAD>();
    assert!(rest.is_empty(), "a panel of whole fours of columns");
    for (four, panel) in panel.iter_mut().enumerate() {
        for place in places.iter().skip(4 * four + COLUMNS / 2).take(4) {
            fetch(slice.as_ptr().wrapping_add(*place as usize * LINE));
        }
        let mut lines = [&zeros; 4];
        for (line, place) in lines.iter_mut().zip(places.iter().skip(4 * four)) {
            *line = slice[*place as usize * LINE..].first_chunk().expect("a column's line");
        }
        for (quarter, out) in panel.as_chunks_mut::<{ 4 * QUARTER }>().0.iter_mut().enumerate() {
            let rows = zipped(lines.map(|line| load(&line.as_chunks().0[first + quarter])));
            for (rows, out) in rows.into_iter().zip(out.as_chunks_mut::<QUARTER>().0) {
                store(field(rows, digit), out);
            }
        }
    }
}
