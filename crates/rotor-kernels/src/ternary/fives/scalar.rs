//! The reference: every kernel for fives in plain Rust.

use super::{Active, DECODE, FivesKernels, LINE, LINE_WEIGHTS, row_of};
use crate::ternary::TILE_ROWS;
use crate::ternary::layout::{CODES_BYTES, CODES_COLS};

pub(crate) static KERNELS: FivesKernels =
    FivesKernels { rows, columns, active, codes_of_rows: codes_of_block, codes_of_columns, tables: None };

fn rows(bytes: &[u8], row_lines: usize, list: &[u32], tokens: &[&[i8]], out: &mut [i32]) {
    for (x, out) in tokens.iter().zip(out.chunks_exact_mut(list.len().max(1))) {
        for (place, out) in list.iter().zip(out) {
            let row = &bytes[*place as usize * row_lines * LINE..][..row_lines * LINE];
            *out = row.iter().enumerate().map(|(at, byte)| dot(*byte, |digit| x[column_of(at, digit)])).sum();
        }
    }
}

/// The column of a row that digit `digit` of its byte `at` holds.
fn column_of(at: usize, digit: usize) -> usize {
    at / LINE * LINE_WEIGHTS + digit * LINE + at % LINE
}

fn dot(byte: u8, x: impl Fn(usize) -> i8) -> i32 {
    DECODE[usize::from(byte)].iter().enumerate().map(|(digit, code)| i32::from(*code) * i32::from(x(digit))).sum()
}

fn columns(slice: &[u8], places: &[u32], tokens: &[&[i8]], sums: &mut [[i32; LINE_WEIGHTS]]) {
    for (x, sums) in tokens.iter().zip(sums) {
        sums.fill(0);
        for (x, place) in x.iter().zip(places) {
            for (byte, value) in slice[*place as usize * LINE..][..LINE].iter().enumerate() {
                for (digit, code) in DECODE[usize::from(*value)].iter().enumerate() {
                    sums[row_of(byte, digit)] += i32::from(*code) * i32::from(*x);
                }
            }
        }
    }
}

pub(super) fn active(tokens: &[&[i8]], places: &[u32], active: &mut Active) {
    for (col, place) in places.iter().enumerate() {
        if tokens.iter().any(|x| x[col] != 0) {
            active.places.push(*place);
            tokens.iter().zip(&mut active.x).for_each(|(x, active)| active.push(x[col]));
        }
    }
}

fn codes_of_block(block: &[u8], cols: usize, tiles: &mut [u8]) {
    let places = super::places::Places::of_block();
    let row_bytes = cols.div_ceil(LINE_WEIGHTS) * LINE;
    for (row, place) in places.of.iter().enumerate() {
        let bytes = &block[*place as usize * row_bytes..][..row_bytes];
        for (at, byte) in bytes.iter().enumerate() {
            for (digit, code) in DECODE[usize::from(*byte)].iter().enumerate() {
                put_code(tiles, cols, (row, column_of(at, digit)), *code);
            }
        }
    }
}

fn codes_of_columns(slice: &[u8], places: &[u32], tiles: &mut [u8]) {
    let cols = places.len();
    for (col, place) in places.iter().enumerate() {
        for (byte, value) in slice[*place as usize * LINE..][..LINE].iter().enumerate() {
            for (digit, code) in DECODE[usize::from(*value)].iter().enumerate() {
                put_code(tiles, cols, (row_of(byte, digit), col), *code);
            }
        }
    }
    // What is left of the last block is zero weights.
    for col in cols..cols.next_multiple_of(CODES_COLS) {
        (0..LINE_WEIGHTS).for_each(|row| put_code(tiles, cols, (row, col), 1));
    }
}

/// Writes a code to where [`crate::ternary::layout`] has it, if the tiles have it.
fn put_code(tiles: &mut [u8], cols: usize, (row, col): (usize, usize), code: u8) {
    let tile_bytes = cols.div_ceil(CODES_COLS) * CODES_BYTES;
    let within = col / CODES_COLS * CODES_BYTES + row % TILE_ROWS * 4 + col % 4;
    if within >= tile_bytes {
        return;
    }
    if let Some(byte) = tiles.get_mut(row / TILE_ROWS * tile_bytes + within) {
        let shift = 2 * (col % CODES_COLS / 4);
        *byte = *byte & !(3 << shift) | code << shift;
    }
}
