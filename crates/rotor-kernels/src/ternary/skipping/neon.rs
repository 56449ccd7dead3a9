//! Kernels for fours with NEON: products of bytes, added as int16.
//!
//! Bounds. A field of two bits, shifted into place, times an activation is `2 * 128 = 256` in size at most, and -32768 after 128
//! times at the lowest: sums of int16 take as many, then they are added to int32.

use super::coded::SkippingTables;
use super::layout::{FOURS, MAX_LINE_WEIGHTS};
use super::order::BYTES;
use super::places::Places;
use super::{LINE, SkippingKernels, scalar};
use crate::pool::SharedMut;
use crate::ternary::TILE_ROWS;
use crate::ternary::lookup::{CHUNK_CODES, CHUNK_COLS};
use crate::ternary::neon::{PLANES, load};
use std::arch::aarch64::*;
use std::arch::asm;

pub(crate) static KERNELS: SkippingKernels = SkippingKernels {
    layout: &FOURS,
    rows,
    columns,
    active: scalar::active,
    tiles: None,
    tables: Some(&TABLES),
    panels: None,
};

pub(super) static TABLES: SkippingTables =
    SkippingTables { kernel: &PLANES, order: &BYTES, rows: codes_of_rows, columns: codes_of_columns };

/// Trits of a byte.
pub(super) const DIGITS: usize = 4;
/// How far ahead rows are fetched, in bytes.
pub(super) const ROWS_AHEAD: usize = 8192;
/// Bytes of a vector, quarters of a line.
pub(super) const QUARTER: usize = LINE / 4;
/// Products whose sums fit int16.
const PRODUCTS: usize = 128;
/// Accumulators that take a quarter's digits in turn.
const TURNS: usize = 2;
/// Lines of a row whose products fit them.
const LINES: usize = PRODUCTS / (LINE / QUARTER * DIGITS / TURNS);
/// Columns that go together; as many that follow are fetched.
pub(super) const COLUMNS: usize = PRODUCTS;
const _: () = assert!(COLUMNS <= super::AHEAD);

/// Fetches a line; any address may be asked for.
///
/// The intrinsic for this instruction is not stable.
#[inline]
pub(super) fn fetch(line: *const u8) {
    // SAFETY: a prefetch touches neither registers nor what a program can see of memory, and never faults.
    unsafe { asm!("prfm pldl1keep, [{}]", in(reg) line, options(nomem, nostack, preserves_flags)) };
}

/// The trits of a digit, plus one.
#[inline]
#[target_feature(enable = "neon")]
fn field(bytes: uint8x16_t, digit: usize) -> uint8x16_t {
    let mask = vdupq_n_u8(3);
    match digit {
        0 => vandq_u8(bytes, mask),
        1 => vandq_u8(vshrq_n_u8::<2>(bytes), mask),
        2 => vandq_u8(vshrq_n_u8::<4>(bytes), mask),
        _ => vshrq_n_u8::<6>(bytes),
    }
}

/// Adds 16 products.
#[inline]
#[target_feature(enable = "neon")]
fn add_products(sums: &mut [int16x8_t; 2], codes: uint8x16_t, x: int8x16_t) {
    let codes = vreinterpretq_s8_u8(codes);
    sums[0] = vmlal_s8(sums[0], vget_low_s8(codes), vget_low_s8(x));
    sums[1] = vmlal_high_s8(sums[1], codes, x);
}

#[target_feature(enable = "neon")]
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
#[target_feature(enable = "neon")]
fn rows_of<const N: usize>(tokens: [&[i8]; N], bytes: &[u8], row_lines: usize, list: &[u32], out: &mut [i32]) {
    let tokens = tokens.map(|x| &x.as_chunks::<{ DIGITS * LINE }>().0[..row_lines]);
    for_each_row(bytes, row_lines, list, |i, row, next| {
        let mut sums = [vdupq_n_s32(0); N];
        for (part, lines) in row.chunks(LINES).enumerate() {
            let mut narrow = [[[vdupq_n_s16(0); 2]; TURNS]; N];
            for (line, bytes) in lines.iter().enumerate() {
                let line = part * LINES + line;
                fetch(next.wrapping_add(line * LINE));
                for (quarter, bytes) in bytes.as_chunks::<QUARTER>().0.iter().enumerate() {
                    let bytes = load(bytes);
                    for digit in 0..DIGITS {
                        let codes = field(bytes, digit);
                        for (narrow, x) in narrow.iter_mut().zip(tokens) {
                            let x = load_x(&x[line].as_chunks().0[digit * LINE / QUARTER + quarter]);
                            add_products(&mut narrow[digit % TURNS], codes, x);
                        }
                    }
                }
            }
            for (sums, narrow) in sums.iter_mut().zip(narrow.as_flattened().chunks(TURNS)) {
                for narrow in narrow.as_flattened() {
                    *sums = vpadalq_s16(*sums, *narrow);
                }
            }
        }
        for (token, sums) in sums.into_iter().enumerate() {
            out[token * list.len() + i] = vaddvq_s32(sums);
        }
    });
}

/// `task(i, lines, next)` for the rows at the listed places, `next` being where one lies that follows soon.
#[inline(always)]
pub(super) fn for_each_row(
    bytes: &[u8],
    row_lines: usize,
    list: &[u32],
    mut task: impl FnMut(usize, &[[u8; LINE]], *const u8),
) {
    let row_bytes = row_lines * LINE;
    let at = |place: u32| bytes.as_ptr().wrapping_add(place as usize * row_bytes);
    let ahead = (ROWS_AHEAD / row_bytes).max(1);
    for place in &list[..ahead.min(list.len())] {
        for line in 0..row_lines {
            fetch(at(*place).wrapping_add(line * LINE));
        }
    }
    for (i, place) in list.iter().enumerate() {
        let row = &bytes[*place as usize * row_bytes..][..row_bytes];
        task(i, row.as_chunks().0, at(list[(i + ahead).min(list.len() - 1)]));
    }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_x(x: &[i8; QUARTER]) -> int8x16_t {
    // SAFETY: 16 readable bytes; the load needs no alignment.
    unsafe { vld1q_s8(x.as_ptr()) }
}

#[target_feature(enable = "neon")]
fn columns(slice: &[u8], places: &[u32], tokens: &[&[i8]], sums: &mut [[i32; MAX_LINE_WEIGHTS]]) {
    match (tokens, sums) {
        // The registers hold the sums of one token for 32 rows of each digit, or of two tokens for 16.
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

/// Sums of a slice for `N` tokens, `M` quarters of its lines at a time.
#[inline]
#[target_feature(enable = "neon")]
fn columns_of<const N: usize, const M: usize>(
    tokens: [&[i8]; N],
    slice: &[u8],
    places: &[u32],
    mut sums: [&mut [i32; MAX_LINE_WEIGHTS]; N],
) {
    sums.iter_mut().for_each(|sums| sums.fill(0));
    for_each_part(tokens, slice, places, M, |from, places, x| {
        let mut narrow = [[[[vdupq_n_s16(0); 2]; DIGITS]; M]; N];
        for (number, place) in places.iter().enumerate() {
            // SAFETY: a place of the slice (the kernel's contract).
            let line = unsafe { line(slice, *place) };
            for m in 0..M {
                let bytes = load(&line.as_chunks().0[from + m]);
                for digit in 0..DIGITS {
                    let codes = field(bytes, digit);
                    for (narrow, x) in narrow.iter_mut().zip(x) {
                        add_products(&mut narrow[m][digit], codes, vdupq_n_s8(x[number]));
                    }
                }
            }
        }
        for (sums, narrow) in sums.iter_mut().zip(narrow) {
            for (m, narrow) in narrow.into_iter().enumerate() {
                for (digit, narrow) in narrow.into_iter().enumerate() {
                    let row = LINE * digit + QUARTER * (from + m);
                    for (narrow, sums) in narrow.into_iter().zip(sums[row..].as_chunks_mut::<8>().0) {
                        let (low, high) = sums.split_at_mut(4);
                        add_rows(vmovl_s16(vget_low_s16(narrow)), low);
                        add_rows(vmovl_high_s16(narrow), high);
                    }
                }
            }
        }
    });
}

/// The line at a place.
///
/// # Safety
/// The place is inside the slice.
#[inline(always)]
pub(super) unsafe fn line(slice: &[u8], place: u32) -> &[u8; LINE] {
    debug_assert!((place as usize) < slice.len() / LINE, "place {place} of {}", slice.len() / LINE);
    // SAFETY: the caller's promise: a whole line from there on; bytes have no alignment.
    unsafe { &*slice.as_ptr().add(place as usize * LINE).cast() }
}

/// `task(from, places, x)` for at most [`COLUMNS`] columns in turn, and every `m` quarters of their lines, from a quarter on: the
/// lines of those columns are in the cache when they are met for the second time.
#[inline(always)]
pub(super) fn for_each_part<const N: usize>(
    tokens: [&[i8]; N],
    slice: &[u8],
    places: &[u32],
    m: usize,
    mut task: impl FnMut(usize, &[u32], [&[i8]; N]),
) {
    let all = tokens[0].len();
    assert!(tokens.iter().all(|x| x.len() == all && all.is_multiple_of(4)), "tokens of as many columns, in fours");
    let places = &places[..all + super::AHEAD];
    let fetch_columns = |places: &[u32]| {
        places.iter().for_each(|place| fetch(slice.as_ptr().wrapping_add(*place as usize * LINE)));
    };
    fetch_columns(&places[..COLUMNS]);
    for first in (0..all).step_by(COLUMNS) {
        let columns = first..(first + COLUMNS).min(all);
        for from in (0..LINE / QUARTER).step_by(m) {
            // Each turn fetches a part of the lines that the next columns will need.
            let part = COLUMNS * m * QUARTER / LINE;
            fetch_columns(&places[first + COLUMNS + from / m * part..][..part]);
            task(from, &places[columns.clone()], tokens.map(|x| &x[columns.clone()]));
        }
    }
}

/// Adds sums of four rows.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn add_rows(more: int32x4_t, sums: &mut [i32]) {
    let sums: &mut [i32; 4] = sums.first_chunk_mut().expect("four rows");
    // SAFETY: 16 readable and writable bytes; neither access needs alignment.
    unsafe { vst1q_s32(sums.as_mut_ptr(), vaddq_s32(vld1q_s32(sums.as_ptr()), more)) };
}

/// A byte is a code once its four trits are of base 3.
#[target_feature(enable = "neon")]
fn codes_of_rows(block: &[u8], row_lines: usize, codes: &SharedMut<'_, u8>, code_rows: usize, row: usize) {
    let places = Places::of_block();
    let lower = load(&[0, 1, 2, 0, 3, 4, 5, 0, 6, 7, 8, 0, 0, 0, 0, 0]);
    let upper = load(&[0, 9, 18, 0, 27, 36, 45, 0, 54, 63, 72, 0, 0, 0, 0, 0]);
    for (tile, places) in places.of.as_chunks::<TILE_ROWS>().0.iter().enumerate() {
        let row = row + tile * TILE_ROWS;
        // The last block of rows may have one tile.
        if row >= code_rows {
            return;
        }
        for quarter in 0..row_lines * LINE / QUARTER {
            for (within, place) in places.iter().enumerate() {
                let at = (*place as usize * row_lines * LINE) + quarter * QUARTER;
                let bytes = load(block[at..].first_chunk().expect("a quarter of a line"));
                let of_lower = vqtbl1q_u8(lower, vandq_u8(bytes, vdupq_n_u8(15)));
                let of_bytes = vaddq_u8(of_lower, vqtbl1q_u8(upper, vshrq_n_u8::<4>(bytes)));
                let chunk = quarter * (QUARTER / CHUNK_CODES);
                for (chunk, of_chunk) in [(chunk, vget_low_u8(of_bytes)), (chunk + 1, vget_high_u8(of_bytes))] {
                    // SAFETY: this row of every chunk belongs to this call alone (the kernel's contract).
                    let to = unsafe { codes.slice((chunk * code_rows + row + within) * CHUNK_CODES, CHUNK_CODES) };
                    // SAFETY: 8 writable bytes; the store needs no alignment.
                    unsafe { vst1_u8(to.as_mut_ptr(), of_chunk) };
                }
            }
        }
    }
}

#[target_feature(enable = "neon")]
fn codes_of_columns(slice: &[u8], places: &[u32], codes: &SharedMut<'_, u8>, code_rows: usize, row: usize) {
    let zeros = [FOURS.zeros(); LINE];
    for (chunk, of_chunk) in places.chunks(CHUNK_COLS).enumerate() {
        let mut lines = [&zeros; CHUNK_COLS];
        for (line, place) in lines.iter_mut().zip(of_chunk) {
            *line = slice[*place as usize * LINE..].first_chunk().expect("a column's line");
        }
        for place in places.iter().skip((chunk + COLUMNS / CHUNK_COLS) * CHUNK_COLS).take(CHUNK_COLS) {
            fetch(slice.as_ptr().wrapping_add(*place as usize * LINE));
        }
        for (digit, quarter) in (0..DIGITS).flat_map(|digit| (0..LINE / QUARTER).map(move |quarter| (digit, quarter))) {
            let row = row + LINE * digit + QUARTER * quarter;
            // The last slice may have fewer tiles.
            if row >= code_rows {
                continue;
            }
            let mut of_rows = [vdupq_n_u8(0); CHUNK_CODES];
            for (of_rows, lines) in of_rows.iter_mut().zip(lines.as_chunks::<4>().0) {
                *of_rows = base_3(lines.map(|line| field(load(&line.as_chunks().0[quarter]), digit)));
            }
            let at = (chunk * code_rows + row) * CHUNK_CODES;
            // SAFETY: these rows of every chunk belong to this call alone (the kernel's contract).
            let to = unsafe { codes.slice(at, QUARTER * CHUNK_CODES) };
            for (two_rows, to) in side_by_side(of_rows).into_iter().zip(to.as_chunks_mut::<16>().0) {
                // SAFETY: 16 writable bytes; the store needs no alignment.
                unsafe { vst1q_u8(to.as_mut_ptr(), two_rows) };
            }
        }
    }
}

/// `a + 3 b + 9 c + 27 d`.
#[inline]
#[target_feature(enable = "neon")]
fn base_3([a, b, c, d]: [uint8x16_t; 4]) -> uint8x16_t {
    let three = vdupq_n_u8(3);
    vmlaq_u8(vmlaq_u8(a, b, three), vmlaq_u8(c, d, three), vdupq_n_u8(9))
}

/// Of 16 rows' codes, one of each row in every vector, the eight of each row side by side.
#[inline]
#[target_feature(enable = "neon")]
fn side_by_side([a, b, c, d, e, f, g, h]: [uint8x16_t; 8]) -> [uint8x16_t; 8] {
    let two = |a, b| [vreinterpretq_u16_u8(vzip1q_u8(a, b)), vreinterpretq_u16_u8(vzip2q_u8(a, b))];
    let four = |a, b| [vreinterpretq_u32_u16(vzip1q_u16(a, b)), vreinterpretq_u32_u16(vzip2q_u16(a, b))];
    let eight = |a, b| [vreinterpretq_u8_u32(vzip1q_u32(a, b)), vreinterpretq_u8_u32(vzip2q_u32(a, b))];
    let (ab, cd, ef, gh) = (two(a, b), two(c, d), two(e, f), two(g, h));
    let mut out = [vdupq_n_u8(0); 8];
    for half in 0..2 {
        let (first, second) = (four(ab[half], cd[half]), four(ef[half], gh[half]));
        for quarter in 0..2 {
            let at = 4 * half + 2 * quarter;
            [out[at], out[at + 1]] = eight(first[quarter], second[quarter]);
        }
    }
    out
}
