//! The two forms the project is named for, as plain functions on slices: BitNet's 2-bit codes and Rotor's bit planes.
//!
//! ```text
//! code    00 = 0, 10 = +1, 01 = -1, 11 = invalid       weight i in bits 2i+1 : 2i of its byte, 4 weights a byte
//! planes  bit0 marks +1, bit1 marks -1                 weight i in bit i of its byte, 8 weights a byte
//! ```
//!
//! `bit0` is the high bit of the codes and `bit1` the low one, so going from one form to the other is to separate a word's
//! odd bits from its even ones, or to interleave them: the kernels do it, what is here are rows and their ends.
//!
//! Matrices are `(rows, cols)`; every row begins on a new byte, and what a row's last byte has too many is zero.
//!
//! A function writes its whole output even where some weights are invalid, those as 0, and then says how many there were:
//! a strict caller passes the error on, a lenient one looks at its count.

use rotor_kernels::{Isa, Kernels};
use std::fmt;
use std::sync::OnceLock;

/// Bytes of a row of codes.
pub const fn code_bytes(cols: usize) -> usize {
    cols.div_ceil(4)
}

/// Bytes of a row of one plane.
pub const fn plane_bytes(cols: usize) -> usize {
    cols.div_ceil(8)
}

/// Weights that are no trits: how many, and where the first is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} invalid, the first at row {row}, column {col} ({kind})")]
pub struct InvalidWeights {
    /// How many there are, those in the padding of rows included.
    pub count: usize,
    /// The row of the first.
    pub row: usize,
    /// Its column; the number of columns or more for padding.
    pub col: usize,
    /// What is wrong with it.
    pub kind: InvalidKind,
}

/// What is wrong with a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidKind {
    /// Code 11.
    Code,
    /// Set in both planes.
    BothPlanes,
    /// Not zero, but beyond the last column.
    Padding,
    /// A number other than -1, 0 and +1.
    Number(i8),
}

impl fmt::Display for InvalidKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidKind::Code => f.write_str("code 11"),
            InvalidKind::BothPlanes => f.write_str("set in both planes"),
            InvalidKind::Padding => f.write_str("not zero beyond the last column"),
            InvalidKind::Number(number) => write!(f, "the number {number}"),
        }
    }
}

/// Trits to codes.
///
/// # Errors
///
/// [`InvalidWeights`] for numbers other than -1, 0 and +1; the output is complete, with 0 for them.
///
/// # Panics
///
/// If `trits` is not `rows * cols` long or `codes` not `rows * code_bytes(cols)`.
pub fn encode_codes((rows, cols): (usize, usize), trits: &[i8], codes: &mut [u8]) -> Result<(), InvalidWeights> {
    expect_len("trits", trits.len(), rows, cols);
    expect_len("codes", codes.len(), rows, code_bytes(cols));
    let kernels = kernels();
    let mut wrong = false;
    for run in runs((rows, cols), 4) {
        let codes = codes[run.of(code_bytes(cols))].chunks_mut(BATCH / 4);
        for (trits, codes) in trits[run.of(cols)].chunks(BATCH).zip(codes) {
            let (mut all, mut planes, mut packed) = ([0; BATCH], [[0; BATCH / 8]; 2], [0; BATCH / 4]);
            all[..trits.len()].copy_from_slice(trits);
            let [bit0, bit1] = &mut planes;
            wrong |= kernels.pack_trits(&all, bit0, bit1) | kernels.join_planes(bit0, bit1, &mut packed);
            codes.copy_from_slice(&packed[..codes.len()]);
        }
    }
    report(wrong, (rows, cols), cols, |row, col| wrong_number(trits[row * cols + col]))
}

/// Codes to trits.
///
/// # Errors
///
/// [`InvalidWeights`] for codes 11 and codes other than 00 in the padding; the output is complete, with 0 for them.
///
/// # Panics
///
/// If `codes` is not `rows * code_bytes(cols)` long or `trits` not `rows * cols`.
pub fn decode_codes((rows, cols): (usize, usize), codes: &[u8], trits: &mut [i8]) -> Result<(), InvalidWeights> {
    expect_len("codes", codes.len(), rows, code_bytes(cols));
    expect_len("trits", trits.len(), rows, cols);
    let kernels = kernels();
    let mut wrong = false;
    for run in runs((rows, cols), 4) {
        let trits = trits[run.of(cols)].chunks_mut(BATCH);
        for (codes, trits) in codes[run.of(code_bytes(cols))].chunks(BATCH / 4).zip(trits) {
            let (mut packed, mut planes, mut all) = ([0; BATCH / 4], [[0; BATCH / 8]; 2], [0; BATCH]);
            packed[..codes.len()].copy_from_slice(codes);
            let [bit0, bit1] = &mut planes;
            wrong |= kernels.split_codes(&packed, bit0, bit1) | kernels.unpack_trits(bit0, bit1, &mut all);
            let (weights, padding) = all.split_at(trits.len());
            trits.copy_from_slice(weights);
            wrong |= padding.iter().any(|&trit| trit != 0);
        }
    }
    report_codes(wrong, (rows, cols), codes)
}

/// Codes to planes.
///
/// # Errors
///
/// [`InvalidWeights`] for codes 11 and codes other than 00 in the padding; the output is complete, with 0 for them.
///
/// # Panics
///
/// If `codes` is not `rows * code_bytes(cols)` long, or a plane not `rows * plane_bytes(cols)`.
pub fn codes_to_planes(
    (rows, cols): (usize, usize),
    codes: &[u8],
    bit0: &mut [u8],
    bit1: &mut [u8],
) -> Result<(), InvalidWeights> {
    expect_len("codes", codes.len(), rows, code_bytes(cols));
    expect_len("bit0", bit0.len(), rows, plane_bytes(cols));
    expect_len("bit1", bit1.len(), rows, plane_bytes(cols));
    let kernels = kernels();
    let mut wrong = false;
    for run in runs((rows, cols), 8) {
        let (pairs, rest) = codes[run.of(code_bytes(cols))].as_chunks::<2>();
        let planes = run.of(plane_bytes(cols));
        let (bit0, bit1) = (&mut bit0[planes.clone()], &mut bit1[planes]);
        let (whole0, rest0) = bit0.split_at_mut(pairs.len());
        let (whole1, rest1) = bit1.split_at_mut(pairs.len());
        wrong |= kernels.split_codes(pairs.as_flattened(), whole0, whole1);
        if let [last] = rest {
            wrong |= kernels.split_codes(&[*last, 0], rest0, rest1);
        }
        wrong |= clear_padding(bit0, run.cols) | clear_padding(bit1, run.cols) != 0;
    }
    report_codes(wrong, (rows, cols), codes)
}

/// Planes to codes.
///
/// # Errors
///
/// [`InvalidWeights`] for bits set in both planes and bits in the padding; the output is complete, with 0 for them.
///
/// # Panics
///
/// If a plane is not `rows * plane_bytes(cols)` long or `codes` not `rows * code_bytes(cols)`.
pub fn planes_to_codes(
    (rows, cols): (usize, usize),
    bit0: &[u8],
    bit1: &[u8],
    codes: &mut [u8],
) -> Result<(), InvalidWeights> {
    expect_len("bit0", bit0.len(), rows, plane_bytes(cols));
    expect_len("bit1", bit1.len(), rows, plane_bytes(cols));
    expect_len("codes", codes.len(), rows, code_bytes(cols));
    let kernels = kernels();
    let mut wrong = false;
    for run in runs((rows, cols), 8) {
        let planes = run.of(plane_bytes(cols));
        let (bit0, bit1) = (&bit0[planes.clone()], &bit1[planes]);
        let whole = run.cols / 8;
        let (pairs, rest) = codes[run.of(code_bytes(cols))].split_at_mut(2 * whole);
        wrong |= kernels.join_planes(&bit0[..whole], &bit1[..whole], pairs);
        if let (&[plus], &[minus]) = (&bit0[whole..], &bit1[whole..]) {
            let keep = last_byte_mask(run.cols);
            let mut last = [0; 2];
            wrong |= kernels.join_planes(&[plus & keep], &[minus & keep], &mut last) | ((plus | minus) & !keep != 0);
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }
    report_planes(wrong, (rows, cols), bit0, bit1)
}

/// Trits to planes.
///
/// # Errors
///
/// [`InvalidWeights`] for numbers other than -1, 0 and +1; the output is complete, with 0 for them.
///
/// # Panics
///
/// If `trits` is not `rows * cols` long or a plane not `rows * plane_bytes(cols)`.
pub fn trits_to_planes(
    (rows, cols): (usize, usize),
    trits: &[i8],
    bit0: &mut [u8],
    bit1: &mut [u8],
) -> Result<(), InvalidWeights> {
    expect_len("trits", trits.len(), rows, cols);
    expect_len("bit0", bit0.len(), rows, plane_bytes(cols));
    expect_len("bit1", bit1.len(), rows, plane_bytes(cols));
    let kernels = kernels();
    let mut wrong = false;
    for run in runs((rows, cols), 8) {
        let planes = run.of(plane_bytes(cols));
        let (trits, whole) = (&trits[run.of(cols)], run.cols / 8);
        let (whole0, rest0) = bit0[planes.clone()].split_at_mut(whole);
        let (whole1, rest1) = bit1[planes].split_at_mut(whole);
        let (eights, rest) = trits.split_at(8 * whole);
        wrong |= kernels.pack_trits(eights, whole0, whole1);
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            wrong |= kernels.pack_trits(&last, rest0, rest1);
        }
    }
    report(wrong, (rows, cols), cols, |row, col| wrong_number(trits[row * cols + col]))
}

/// Planes to trits.
///
/// # Errors
///
/// [`InvalidWeights`] for bits set in both planes and bits in the padding; the output is complete, with 0 for them.
///
/// # Panics
///
/// If a plane is not `rows * plane_bytes(cols)` long or `trits` not `rows * cols`.
pub fn planes_to_trits(
    (rows, cols): (usize, usize),
    bit0: &[u8],
    bit1: &[u8],
    trits: &mut [i8],
) -> Result<(), InvalidWeights> {
    expect_len("bit0", bit0.len(), rows, plane_bytes(cols));
    expect_len("bit1", bit1.len(), rows, plane_bytes(cols));
    expect_len("trits", trits.len(), rows, cols);
    let kernels = kernels();
    let mut wrong = false;
    for run in runs((rows, cols), 8) {
        let planes = run.of(plane_bytes(cols));
        let (bit0, bit1) = (&bit0[planes.clone()], &bit1[planes]);
        let whole = run.cols / 8;
        let (eights, rest) = trits[run.of(cols)].split_at_mut(8 * whole);
        wrong |= kernels.unpack_trits(&bit0[..whole], &bit1[..whole], eights);
        if let (&[plus], &[minus]) = (&bit0[whole..], &bit1[whole..]) {
            let mut last = [0; 8];
            wrong |= kernels.unpack_trits(&[plus], &[minus], &mut last);
            wrong |= (plus | minus) & !last_byte_mask(run.cols) != 0;
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }
    report_planes(wrong, (rows, cols), bit0, bit1)
}

/// Looks for what is invalid among codes, a weight at a time.
///
/// # Errors
///
/// [`InvalidWeights`].
///
/// # Panics
///
/// If `codes` is shorter than `rows * code_bytes(cols)`.
pub fn check_codes(shape: (usize, usize), codes: &[u8]) -> Result<(), InvalidWeights> {
    report_codes(true, shape, codes)
}

/// Looks for what is invalid in planes, a weight at a time.
///
/// # Errors
///
/// [`InvalidWeights`].
///
/// # Panics
///
/// If a plane is shorter than `rows * plane_bytes(cols)`.
pub fn check_planes(shape: (usize, usize), bit0: &[u8], bit1: &[u8]) -> Result<(), InvalidWeights> {
    report_planes(true, shape, bit0, bit1)
}

/// Weights that go through the small forms together, where two steps are needed.
const BATCH: usize = 256;

/// The kernels of this CPU, or those that `ROTOR_ISA` names.
pub(crate) fn kernels() -> &'static Kernels {
    static KERNELS: OnceLock<&'static Kernels> = OnceLock::new();
    KERNELS.get_or_init(|| {
        let scalar = || Kernels::for_isa(Isa::Scalar).expect("every CPU has the scalar kernels");
        Kernels::from_env().unwrap_or_else(|_| scalar())
    })
}

/// One row, or all of them where rows end with whole bytes and so follow each other without a seam.
struct Run {
    rows: std::ops::Range<usize>,
    cols: usize,
}

impl Run {
    /// The run's part of an array with `width` elements to a row.
    fn of(&self, width: usize) -> std::ops::Range<usize> {
        self.rows.start * width..self.rows.end * width
    }
}

fn runs((rows, cols): (usize, usize), per_byte: usize) -> impl Iterator<Item = Run> {
    let step = if cols.is_multiple_of(per_byte) { rows } else { 1 };
    (0..rows).step_by(step.max(1)).map(move |row| Run { rows: row..row + step, cols: step * cols })
}

fn expect_len(what: &str, len: usize, rows: usize, width: usize) {
    assert_eq!(Some(len), rows.checked_mul(width), "length of {what}: {rows} rows of {width}");
}

/// The bits of a row's last plane byte that are weights.
pub(crate) fn last_byte_mask(cols: usize) -> u8 {
    match cols % 8 {
        0 => 0xff,
        used => (1 << used) - 1,
    }
}

/// Clears the padding of a row; returns what was there.
fn clear_padding(row: &mut [u8], cols: usize) -> u8 {
    let Some(last) = row.last_mut() else { return 0 };
    let padding = *last & !last_byte_mask(cols);
    *last &= last_byte_mask(cols);
    padding
}

fn wrong_number(trit: i8) -> Option<InvalidKind> {
    (!(-1..=1).contains(&trit)).then_some(InvalidKind::Number(trit))
}

fn report_codes(any: bool, (rows, cols): (usize, usize), codes: &[u8]) -> Result<(), InvalidWeights> {
    report(any, (rows, cols), code_bytes(cols) * 4, |row, col| {
        match codes[row * code_bytes(cols) + col / 4] >> (2 * (col % 4)) & 3 {
            0 => None,
            _ if col >= cols => Some(InvalidKind::Padding),
            3 => Some(InvalidKind::Code),
            _ => None,
        }
    })
}

fn report_planes(any: bool, (rows, cols): (usize, usize), bit0: &[u8], bit1: &[u8]) -> Result<(), InvalidWeights> {
    report(any, (rows, cols), plane_bytes(cols) * 8, |row, col| {
        let bit = |plane: &[u8]| plane[row * plane_bytes(cols) + col / 8] >> (col % 8) & 1 == 1;
        match (bit(bit0), bit(bit1)) {
            (false, false) => None,
            _ if col >= cols => Some(InvalidKind::Padding),
            (true, true) => Some(InvalidKind::BothPlanes),
            _ => None,
        }
    })
}

/// Counts what is wrong, one weight at a time: only where something is known to be.
fn report(
    any: bool,
    (rows, _): (usize, usize),
    stored_cols: usize,
    wrong: impl Fn(usize, usize) -> Option<InvalidKind>,
) -> Result<(), InvalidWeights> {
    if !any {
        return Ok(());
    }
    let mut found: Option<InvalidWeights> = None;
    for row in 0..rows {
        for col in 0..stored_cols {
            let Some(kind) = wrong(row, col) else { continue };
            found.get_or_insert(InvalidWeights { count: 0, row, col, kind }).count += 1;
        }
    }
    found.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The worked example of docs/formats.md.
    const TRITS: [i8; 9] = [1, -1, 0, 1, 0, 0, -1, -1, 1];
    const CODES: [u8; 3] = [0x86, 0x50, 0x02];
    const BIT0: [u8; 2] = [0x09, 0x01];
    const BIT1: [u8; 2] = [0xc2, 0x00];

    #[test]
    fn worked_example_in_every_direction() {
        let shape = (1, 9);
        let (mut codes, mut bit0, mut bit1, mut trits) = ([0xff; 3], [0xff; 2], [0xff; 2], [9; 9]);
        encode_codes(shape, &TRITS, &mut codes).unwrap();
        assert_eq!(codes, CODES);
        codes_to_planes(shape, &CODES, &mut bit0, &mut bit1).unwrap();
        assert_eq!((bit0, bit1), (BIT0, BIT1));
        (bit0, bit1) = ([0xff; 2], [0xff; 2]);
        trits_to_planes(shape, &TRITS, &mut bit0, &mut bit1).unwrap();
        assert_eq!((bit0, bit1), (BIT0, BIT1));
        codes = [0xff; 3];
        planes_to_codes(shape, &BIT0, &BIT1, &mut codes).unwrap();
        assert_eq!(codes, CODES);
        decode_codes(shape, &CODES, &mut trits).unwrap();
        assert_eq!(trits, TRITS);
        trits = [9; 9];
        planes_to_trits(shape, &BIT0, &BIT1, &mut trits).unwrap();
        assert_eq!(trits, TRITS);
    }

    /// A matrix in all three forms, made weight by weight from the definitions.
    fn by_definition(rows: usize, cols: usize, trits: &[i8]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let mut codes = vec![0; rows * code_bytes(cols)];
        let (mut bit0, mut bit1) = (vec![0; rows * plane_bytes(cols)], vec![0; rows * plane_bytes(cols)]);
        for (at, &trit) in trits.iter().enumerate() {
            let (row, col) = (at / cols, at % cols);
            let code = match trit {
                1 => 0b10,
                -1 => 0b01,
                _ => 0b00,
            };
            codes[row * code_bytes(cols) + col / 4] |= code << (2 * (col % 4));
            bit0[row * plane_bytes(cols) + col / 8] |= u8::from(trit == 1) << (col % 8);
            bit1[row * plane_bytes(cols) + col / 8] |= u8::from(trit == -1) << (col % 8);
        }
        (codes, bit0, bit1)
    }

    proptest! {
        #[test]
        fn every_direction_follows_the_definition(rows in 0usize..6, cols in 1usize..200, seed: u64) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let trits: Vec<i8> = (0..rows * cols).map(|_| rng.i8(-1..=1)).collect();
            let shape = (rows, cols);
            let (codes, bit0, bit1) = by_definition(rows, cols, &trits);
            let mut out = vec![0xaa; codes.len()];
            encode_codes(shape, &trits, &mut out).unwrap();
            prop_assert_eq!(&out, &codes);
            out.fill(0xaa);
            planes_to_codes(shape, &bit0, &bit1, &mut out).unwrap();
            prop_assert_eq!(&out, &codes);
            let (mut plus, mut minus) = (vec![0xaa; bit0.len()], vec![0xaa; bit1.len()]);
            codes_to_planes(shape, &codes, &mut plus, &mut minus).unwrap();
            prop_assert_eq!((&plus, &minus), (&bit0, &bit1));
            (plus, minus) = (vec![0xaa; bit0.len()], vec![0xaa; bit1.len()]);
            trits_to_planes(shape, &trits, &mut plus, &mut minus).unwrap();
            prop_assert_eq!((&plus, &minus), (&bit0, &bit1));
            let mut back = vec![7; trits.len()];
            decode_codes(shape, &codes, &mut back).unwrap();
            prop_assert_eq!(&back, &trits);
            back.fill(7);
            planes_to_trits(shape, &bit0, &bit1, &mut back).unwrap();
            prop_assert_eq!(&back, &trits);
        }

        /// Random bytes: what is invalid is counted, placed and read as 0, and nothing else is touched.
        #[test]
        fn invalid_weights_are_counted_placed_and_read_as_zero(rows in 1usize..4, cols in 1usize..40, seed: u64) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let shape = (rows, cols);
            let codes: Vec<u8> = (0..rows * code_bytes(cols)).map(|_| rng.u8(..) & rng.u8(..)).collect();
            let width = 4 * code_bytes(cols);
            let code = |row: usize, col: usize| codes[row * code_bytes(cols) + col / 4] >> (2 * (col % 4)) & 3;
            let places = (0..rows * width).map(|at| (at / width, at % width));
            let bad: Vec<_> =
                places.filter(|&(r, c)| code(r, c) == 3 || (c >= cols && code(r, c) != 0)).collect();
            let expected: Vec<i8> = (0..rows * cols)
                .map(|at| match code(at / cols, at % cols) { 2 => 1, 1 => -1, _ => 0 })
                .collect();
            let mut trits = vec![7; rows * cols];
            let result = decode_codes(shape, &codes, &mut trits);
            prop_assert_eq!(result.err().map(|e| (e.count, e.row, e.col)), bad.first().map(|b| (bad.len(), b.0, b.1)));
            prop_assert_eq!(&trits, &expected);
            let (mut plus, mut minus) = (vec![0; rows * plane_bytes(cols)], vec![0; rows * plane_bytes(cols)]);
            prop_assert_eq!(codes_to_planes(shape, &codes, &mut plus, &mut minus), result);
            let (_, bit0, bit1) = by_definition(rows, cols, &expected);
            prop_assert_eq!((plus, minus), (bit0, bit1));
        }

        #[test]
        fn invalid_planes_are_counted_placed_and_read_as_zero(rows in 1usize..4, cols in 1usize..40, seed: u64) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let shape = (rows, cols);
            let len = rows * plane_bytes(cols);
            let [bit0, bit1] = [0, 1].map(|_| (0..len).map(|_| rng.u8(..) & rng.u8(..)).collect::<Vec<u8>>());
            let width = 8 * plane_bytes(cols);
            let bit = |plane: &[u8], row: usize, col: usize| plane[row * plane_bytes(cols) + col / 8] >> (col % 8) & 1;
            let trit = |row, col| bit(&bit0, row, col) as i8 - bit(&bit1, row, col) as i8;
            let is_bad = |&(row, col): &(usize, usize)| {
                let (plus, minus) = (bit(&bit0, row, col), bit(&bit1, row, col));
                plus & minus == 1 || (col >= cols && plus | minus == 1)
            };
            let bad: Vec<_> = (0..rows * width).map(|at| (at / width, at % width)).filter(is_bad).collect();
            let expected: Vec<i8> = (0..rows * cols).map(|at| trit(at / cols, at % cols)).collect();
            let mut trits = vec![7; rows * cols];
            let result = planes_to_trits(shape, &bit0, &bit1, &mut trits);
            prop_assert_eq!(result.err().map(|e| (e.count, e.row, e.col)), bad.first().map(|b| (bad.len(), b.0, b.1)));
            prop_assert_eq!(&trits, &expected);
            let mut codes = vec![0; rows * code_bytes(cols)];
            prop_assert_eq!(planes_to_codes(shape, &bit0, &bit1, &mut codes), result);
            prop_assert_eq!(codes, by_definition(rows, cols, &expected).0);
        }
    }

    #[test]
    fn numbers_that_are_no_trits_are_counted_and_written_as_zero() {
        for number in (i8::MIN..=i8::MAX).filter(|number| !(-1..=1).contains(number)) {
            let mut trits = vec![1; 2 * 11];
            (trits[13], trits[21]) = (number, number);
            let expected = InvalidWeights { count: 2, row: 1, col: 2, kind: InvalidKind::Number(number) };
            let (mut codes, mut bit0, mut bit1) = (vec![0; 6], vec![0; 4], vec![0; 4]);
            assert_eq!(encode_codes((2, 11), &trits, &mut codes), Err(expected));
            assert_eq!(trits_to_planes((2, 11), &trits, &mut bit0, &mut bit1), Err(expected));
            (trits[13], trits[21]) = (0, 0);
            assert_eq!((codes, bit0, bit1), by_definition(2, 11, &trits), "{number}");
        }
    }

    #[test]
    fn an_error_says_what_is_wrong_and_where() {
        let error = decode_codes((1, 3), &[0b00_11_00_11], &mut [0; 3]).unwrap_err();
        assert_eq!(error.to_string(), "2 invalid, the first at row 0, column 0 (code 11)");
        let error = decode_codes((1, 3), &[0b01_00_00_00], &mut [0; 3]).unwrap_err();
        assert_eq!(error.to_string(), "1 invalid, the first at row 0, column 3 (not zero beyond the last column)");
        let error = planes_to_trits((2, 2), &[0, 1], &[0, 1], &mut [0; 4]).unwrap_err();
        assert_eq!(error.to_string(), "1 invalid, the first at row 1, column 0 (set in both planes)");
    }
}
