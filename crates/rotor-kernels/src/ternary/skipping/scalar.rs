//! The reference: every kernel for matrices that leave something unread in plain Rust.

use super::layout::{ByteLayout, FIVES, FOURS, MAX_LINE_WEIGHTS};
use super::{Active, LINE, SkippingKernels, TilesOfCodes};
use crate::ternary::TILE_ROWS;
use crate::ternary::layout::{CODES_BYTES, CODES_COLS};

pub(crate) static KERNELS: SkippingKernels = SkippingKernels {
    layout: &FIVES,
    rows: rows::<5>,
    columns: columns::<5>,
    active,
    tiles: Some(TilesOfCodes { of_rows: codes_of_rows, of_columns: codes_of_columns }),
    tables: None,
    panels: None,
};

/// The layout with so many trits in a byte.
const fn layout<const DIGITS: usize>() -> &'static ByteLayout {
    match DIGITS {
        5 => &FIVES,
        4 => &FOURS,
        _ => unreachable!(),
    }
}

pub(super) fn rows<const DIGITS: usize>(
    bytes: &[u8],
    row_lines: usize,
    list: &[u32],
    tokens: &[&[i8]],
    out: &mut [i32],
) {
    for (x, out) in tokens.iter().zip(out.chunks_exact_mut(list.len().max(1))) {
        for (place, out) in list.iter().zip(out) {
            let row = &bytes[*place as usize * row_lines * LINE..][..row_lines * LINE];
            let dot =
                |(at, byte): (usize, &u8)| dot::<DIGITS>(*byte, |digit| x[layout::<DIGITS>().column_of(at, digit)]);
            *out = row.iter().enumerate().map(dot).sum();
        }
    }
}

/// The codes of a byte.
fn codes<const DIGITS: usize>(byte: u8) -> &'static [u8] {
    &layout::<DIGITS>().decode[usize::from(byte)][..DIGITS]
}

fn dot<const DIGITS: usize>(byte: u8, x: impl Fn(usize) -> i8) -> i32 {
    codes::<DIGITS>(byte).iter().enumerate().map(|(digit, code)| i32::from(*code) * i32::from(x(digit))).sum()
}

pub(super) fn columns<const DIGITS: usize>(
    slice: &[u8],
    places: &[u32],
    tokens: &[&[i8]],
    sums: &mut [[i32; MAX_LINE_WEIGHTS]],
) {
    for (x, sums) in tokens.iter().zip(sums) {
        sums.fill(0);
        for (x, place) in x.iter().zip(places) {
            for (byte, value) in slice[*place as usize * LINE..][..LINE].iter().enumerate() {
                for (digit, code) in codes::<DIGITS>(*value).iter().enumerate() {
                    sums[layout::<DIGITS>().row_of(byte, digit)] += i32::from(*code) * i32::from(*x);
                }
            }
        }
    }
}

pub(super) fn active(tokens: &[&[i8]], places: &[u32], active: &mut Active) {
    match tokens {
        [a] => active_of([a], places, active),
        [a, b] => active_of([a, b], places, active),
        [a, b, c] => active_of([a, b, c], places, active),
        [a, b, c, d] => active_of([a, b, c, d], places, active),
        _ => unreachable!("one to four tokens"),
    }
}

/// Without a branch for each column: which are zero cannot be guessed.
fn active_of<const N: usize>(tokens: [&[i8]; N], places: &[u32], active: &mut Active) {
    let first = active.places.len();
    let end = first + places.len();
    active.places.resize(end, 0);
    let Some(values) = active.x.first_chunk_mut::<N>() else { unreachable!("room for four tokens") };
    values.iter_mut().for_each(|values| values.resize(end, 0));
    let values = values.each_mut().map(|values| &mut values[first..end]);
    let (listed, tokens) = (&mut active.places[first..end], tokens.map(|x| &x[..places.len()]));
    let mut count = 0;
    for (col, place) in places.iter().enumerate() {
        listed[count] = *place;
        let mut any = 0;
        for token in 0..N {
            values[token][count] = tokens[token][col];
            any |= tokens[token][col];
        }
        count += usize::from(any != 0);
    }
    active.places.truncate(first + count);
    active.x[..N].iter_mut().for_each(|values| values.truncate(first + count));
}

fn codes_of_rows(block: &[u8], cols: usize, tiles: &mut [u8]) {
    let places = super::places::Places::of_block();
    let row_bytes = FIVES.row_lines(cols) * LINE;
    for (row, place) in places.of.iter().enumerate() {
        let bytes = &block[*place as usize * row_bytes..][..row_bytes];
        for (at, byte) in bytes.iter().enumerate() {
            for (digit, code) in codes::<5>(*byte).iter().enumerate() {
                put_code(tiles, cols, (row, FIVES.column_of(at, digit)), *code);
            }
        }
    }
}

fn codes_of_columns(slice: &[u8], places: &[u32], tiles: &mut [u8]) {
    let cols = places.len();
    for (col, place) in places.iter().enumerate() {
        for (byte, value) in slice[*place as usize * LINE..][..LINE].iter().enumerate() {
            for (digit, code) in codes::<5>(*value).iter().enumerate() {
                put_code(tiles, cols, (FIVES.row_of(byte, digit), col), *code);
            }
        }
    }
    // What is left of the last block is zero weights.
    for col in cols..cols.next_multiple_of(CODES_COLS) {
        (0..FIVES.line_weights()).for_each(|row| put_code(tiles, cols, (row, col), 1));
    }
}

/// The plain twin of [`super::SkippingPanels::of_rows`].
#[cfg(test)]
pub(super) fn panel_of_rows<const DIGITS: usize>(block: &[u8], tile: usize, panel: &mut [u8]) {
    let (places, row_bytes) = (super::places::Places::of_block(), block.len() / super::BLOCK_ROWS);
    for (row, place) in places.of[tile * TILE_ROWS..][..TILE_ROWS].iter().enumerate() {
        let bytes = &block[*place as usize * row_bytes..][..row_bytes];
        for (at, byte) in bytes.iter().enumerate() {
            for (digit, code) in codes::<DIGITS>(*byte).iter().enumerate() {
                let col = layout::<DIGITS>().column_of(at, digit);
                if let Some(out) = panel.get_mut((col / 4 * TILE_ROWS + row) * 4 + col % 4) {
                    *out = *code;
                }
            }
        }
    }
}

/// The plain twin of [`super::SkippingPanels::of_columns`].
#[cfg(test)]
pub(super) fn panel_of_columns<const DIGITS: usize>(slice: &[u8], places: &[u32], tile: usize, panel: &mut [u8]) {
    panel.fill(1);
    for (col, place) in places.iter().enumerate() {
        for (byte, value) in slice[*place as usize * LINE..][..LINE].iter().enumerate() {
            for (digit, code) in codes::<DIGITS>(*value).iter().enumerate() {
                let row = layout::<DIGITS>().row_of(byte, digit);
                if row / TILE_ROWS == tile {
                    panel[(col / 4 * TILE_ROWS + row % TILE_ROWS) * 4 + col % 4] = *code;
                }
            }
        }
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
