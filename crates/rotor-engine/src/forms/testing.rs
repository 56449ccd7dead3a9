//! Writers of the forms that rotor only reads, from their definitions and element by element, for tests.

use super::blocks::{Q2_0_128, fraction};
use super::table::block_of;
use super::{Encoder, I2sLayout, Scales, TernaryForm, TlTile, i2s};
use half::f16;

/// A tensor of any form that has its scale inside or behind its bytes, with one scale.
pub(crate) fn encode(form: TernaryForm, (rows, cols): (usize, usize), trits: &[i8], scale: f32) -> Vec<u8> {
    let mut bytes = match form {
        TernaryForm::Iq1Bn => return trits.chunks_exact(cols).flat_map(|row| iq1_row(scale, row)).collect(),
        TernaryForm::Iq2Bn => return trits.chunks_exact(cols).flat_map(|row| iq2_row(scale, row)).collect(),
        TernaryForm::Q2_0Group128 | TernaryForm::Ptq1_0 | TernaryForm::Stq1_0 => {
            let block = block_of(form).unwrap();
            let mut bytes = vec![0; block.row_bytes(cols).unwrap() * rows];
            for (trits, out) in trits.chunks_exact(cols).zip(bytes.chunks_exact_mut(block.row_bytes(cols).unwrap())) {
                block.encode_row(trits, |_| f16::from_f32(scale), out);
            }
            return bytes;
        }
        TernaryForm::Mlx => {
            return trits
                .as_chunks::<4>()
                .0
                .iter()
                .map(|four| (0..4).fold(0, |byte, i| byte | ((four[i] + 1) as u8) << (2 * i)))
                .collect();
        }
        TernaryForm::I2S(layout @ (I2sLayout::Rows4 | I2sLayout::Sequential)) => encode_i2s(layout, cols, trits),
        TernaryForm::Tl1(tile) => encode_tl1(tile, rows, cols, trits),
        TernaryForm::Tl2(tile) => encode_tl2(tile, rows, cols, trits),
        form => return encode_scaled(form, (rows, cols), trits, Scales::Tensor(scale)),
    };
    if let TernaryForm::Tl2(_) = form {
        // The space that the format leaves over: its size takes the last 256 columns for pairs.
        let (triples, pairs) = ((cols - 256) * rows / 3 * 5 / 8, 256 * rows / 2 * 4 / 8);
        bytes.resize((triples + pairs).next_multiple_of(32), 0);
    }
    bytes.extend(scale.to_le_bytes());
    bytes.extend([0; i2s::TAIL - 4]);
    bytes
}

/// Makes trits that STQ1_0 can hold: one zero in each group of four weights.
pub(crate) fn with_one_zero_in_four(trits: &mut [i8]) {
    for (at, trit) in trits.iter_mut().enumerate() {
        let (group, lane) = (at % 16, at % 64 / 16);
        *trit = if lane == group % 4 { 0 } else { *trit | 1 };
    }
}

/// Q2_0 in blocks of 128, with a scale for each.
pub(crate) fn q2_0_128(cols: usize, trits: &[i8], scale: impl Fn(usize, usize) -> f32) -> Vec<u8> {
    let mut bytes = vec![0; trits.len() / 128 * 34];
    let rows = trits.chunks_exact(cols).zip(bytes.chunks_exact_mut(cols / 128 * 34));
    for (row, (trits, out)) in rows.enumerate() {
        Q2_0_128.encode_row(trits, |block| f16::from_f32(scale(row, block)), out);
    }
    bytes
}

/// A tensor of a form that rotor writes.
pub(crate) fn encode_scaled(form: TernaryForm, (rows, cols): (usize, usize), trits: &[i8], scales: Scales) -> Vec<u8> {
    let encoder = Encoder::new("t", form, rows, cols, scales).unwrap();
    let mut bytes = vec![0; encoder.strip_bytes() * encoder.strips()];
    for (strip, out) in bytes.chunks_exact_mut(encoder.strip_bytes()).enumerate() {
        let mut read = |row: usize, out: &mut [i8]| {
            out.copy_from_slice(&trits[row * cols..(row + 1) * cols]);
            Ok(())
        };
        encoder.encode_strip(strip, &mut read, out).unwrap();
    }
    bytes.extend(encoder.tail());
    bytes
}

/// I2_S in the layouts that no current writer has.
pub(super) fn encode_i2s(layout: I2sLayout, cols: usize, trits: &[i8]) -> Vec<u8> {
    let mut bytes = vec![0; trits.len() / 4];
    for (at, &trit) in trits.iter().enumerate() {
        let (row, col) = (at / cols, at % cols);
        let (byte, slot) = if layout == I2sLayout::Rows4 { (row / 4 * cols + col, row % 4) } else { (at / 4, at % 4) };
        bytes[byte] |= ((trit + 1) as u8) << (6 - 2 * slot);
    }
    bytes
}

/// TL1 by the formula of docs/formats.md, element by element.
pub(super) fn encode_tl1(tile: TlTile, rows: usize, cols: usize, trits: &[i8]) -> Vec<u8> {
    let by = 256 / tile.step_rows;
    let mut bytes = vec![0; rows * cols / 4];
    for row in 0..rows {
        let (t, in_tile) = (row / tile.rows, row % tile.rows);
        let (a, g, r) = (in_tile / tile.step_rows, in_tile % tile.step_rows / 16, in_tile % 16);
        for col in (0..cols).step_by(4) {
            let (kt, b, u) = (col / tile.cols, col % tile.cols / by, col % by / 4);
            let mut at = t * (cols / tile.cols) + kt;
            at = at * (tile.rows / tile.step_rows) + a;
            at = at * (tile.cols / by) + b;
            at = at * (tile.step_rows / 16) + g;
            at = (at * (by / 4) + u) * 16 + r;
            let w = &trits[row * cols + col..][..4];
            let code = |first: i8, second: i8| (3 * first + second + 4) as u8;
            bytes[at] = code(w[0], w[1]) << 4 | code(w[2], w[3]);
        }
    }
    bytes
}

/// TL2 by its formulas.
pub(super) fn encode_tl2(tile: TlTile, rows: usize, cols: usize, trits: &[i8]) -> Vec<u8> {
    let k3 = cols - cols % tile.cols;
    let k2 = cols - k3;
    let (mut magnitudes, mut signs) = (vec![0u8; rows * k3 / 6], vec![0u16; rows * k3 / 48]);
    let mut pairs = vec![0u8; rows * k2 / 4];
    let position = |r: usize| [0, 16, 8, 24][r / 8] + r % 8;
    for row in 0..rows {
        let (t, a, r) = (row / tile.rows, row % tile.rows / 32, row % 32);
        let steps = tile.rows / 32;
        let w = &trits[row * cols..(row + 1) * cols];
        for col in (0..k3).step_by(3) {
            let (kt, in_tile) = (col / tile.cols, col % tile.cols);
            let value = 9 * w[col] + 3 * w[col + 1] + w[col + 2];
            let step = (t * (k3 / tile.cols) + kt) * steps + a;
            let base = (step * (tile.cols / 6) + in_tile / 6) * 32;
            magnitudes[base + position(r)] |= value.unsigned_abs() << if in_tile % 6 == 0 { 4 } else { 0 };
            let word = (step * (tile.cols / 24) + in_tile / 24) * 16 + r % 16;
            signs[word] |= u16::from(value < 0) << (15 - (2 * (in_tile % 24 / 3) + r / 16));
        }
        for col in (0..k2).step_by(4) {
            let (kt, b) = (col / 32, col % 32 / 4);
            let base = (((t * (k2 / 32) + kt) * steps + a) * 8 + b) * 32;
            let code = |at: usize| (3 * w[k3 + at] + w[k3 + at + 1] + 4) as u8;
            pairs[base + position(r)] = code(col) << 4 | code(col + 2);
        }
    }
    let signs = signs.into_iter().flat_map(u16::to_le_bytes);
    magnitudes.into_iter().chain(signs).chain(pairs).collect()
}

pub(super) fn iq2_row(scale: f32, trits: &[i8]) -> Vec<u8> {
    let mut row = scale.to_le_bytes().to_vec();
    for block in trits.chunks_exact(64) {
        row.extend(
            (0..16).map(|at| (0..4).fold(0, |byte, slot| byte | ((block[16 * slot + at] + 1) as u8) << (2 * slot))),
        );
    }
    row
}

pub(super) fn iq1_row(scale: f32, trits: &[i8]) -> Vec<u8> {
    let mut row = f16::from_f32(scale).to_le_bytes().to_vec();
    for block in trits.chunks_exact(64) {
        for group in block.chunks_exact(16) {
            row.extend(group[..15].chunks_exact(5).map(|digits| fraction(digits.iter().rev().copied())));
        }
        let last = (0..5).rev().map(|group| if group < 4 { block[16 * group + 15] } else { -1 });
        row.push(fraction(last));
    }
    row
}
