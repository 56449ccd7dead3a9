//! Ternary forms: how published files store trits, one file per family.
//!
//! Every form answers one question: which trits does row `r` hold? Packing, conversion and inspection are written
//! against that answer ([`TernaryTensor::read_row`]), so a form is one file here and one row in [`FORMS`].
//! The other direction is [`Encoder`]: it asks for rows and gives bytes, a strip at a time.

mod blocks;
mod encode;
mod hf_packed;
mod i2s;
mod iq_bn;
mod master;
mod scales;
mod stored;
mod table;
mod tl;

pub use encode::{Encoder, ReadRow};
pub use master::absmean_scale;
pub use scales::Scales;
pub use stored::exact_scales_key;
pub(crate) use stored::{exact_scales, inner_scales};
pub use table::{FORMS, FormInfo, ScaleCapability};
pub use tl::{KernelConfig, TlTile};

use crate::error::FormatError;
use crate::formats::RowOrder;
use crate::planes;
use rotor_kernels::DenseType;

/// How the trits of a tensor are stored. docs/formats.md draws each layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TernaryForm {
    /// Microsoft's I2_S in one of its layouts.
    I2S(I2sLayout),
    /// Blocks of 256 with an f16 scale, five trits to a byte.
    Tq1_0,
    /// Blocks of 256 with an f16 scale, four trits to a byte.
    Tq2_0,
    /// Blocks of 128 with an f16 scale, eight weights to a byte; -1 and +1 only.
    Q1_0,
    /// Blocks of 64 with an f16 scale, four weights to a byte.
    Q2_0,
    /// Rows with an f16 scale, five trits to a byte.
    Iq1Bn,
    /// Rows with an f32 scale, four trits to a byte.
    Iq2Bn,
    /// Pairs of weights in the tiles of a lookup kernel.
    Tl1(TlTile),
    /// Triples of weights in the tiles of a lookup kernel.
    Tl2(TlTile),
    /// Hugging Face packed U8 `[ceil(rows/4), cols]`, four row quarters to a byte.
    HfPacked,
    /// BitNet's 2-bit codes, each row on a new byte.
    BitNet,
    /// Rotor planes: `bit0` in [`TernaryTensor::bytes`], `bit1` in [`TernaryTensor::bit1`], each row on a new byte.
    Rotor,
    /// Float master weights, quantised by their absolute mean when read.
    Master(DenseType),
}

/// Where I2_S keeps which element; nothing in the file says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum I2sLayout {
    /// 128 elements to 32 bytes, as x86 builds and the Python packers write.
    Blocks128,
    /// 64 elements to 16 bytes, as NEON builds write.
    Blocks64,
    /// Four rows to a row of bytes, as x86 builds without activation parallelism write.
    Rows4,
    /// Four consecutive elements to a byte, as one revision of the quantiser writes.
    Sequential,
}

impl TernaryForm {
    /// The name people type and read (`i2_s`, `hf`).
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// The form's row of [`FORMS`].
    pub fn info(self) -> &'static FormInfo {
        table::info(self)
    }

    /// Bytes of the packed trits of a `[rows, cols]` tensor, without the scale that I2_S appends and of one plane only.
    ///
    /// `None` where the form cannot hold the shape, or the size exceeds what this machine can address.
    pub fn packed_len(self, rows: usize, cols: usize) -> Option<usize> {
        (self.info().packed_len)(self, rows, cols)
    }
}

/// A ternary tensor as stored: borrowed bytes, their form, and its scales.
#[derive(Clone, Debug)]
pub struct TernaryTensor<'a> {
    /// The name in its file.
    pub name: &'a str,
    /// Rows (output features).
    pub rows: usize,
    /// Columns (input features).
    pub cols: usize,
    /// Layout of `bytes`.
    pub form: TernaryForm,
    /// The packed trits, checked to be long enough for the shape.
    pub bytes: &'a [u8],
    /// The second plane of [`TernaryForm::Rotor`]; empty in every other form.
    pub bit1: &'a [u8],
    /// Scales, rows in the order of the file.
    pub scales: Scales,
    /// How rows must be permuted to come out in the order the graph wants.
    pub row_order: RowOrder,
}

/// What the decoders write for a code that stands for no trit, so that one check serves every form.
const INVALID: i8 = 2;

/// Why a row cannot be decoded.
enum RowError {
    /// The bytes end before the row.
    Truncated,
    /// The row holds something that is no trit, which the decoder itself has found.
    Invalid,
    /// Anything else, as it is to be told.
    Other(FormatError),
}

impl TernaryTensor<'_> {
    /// Writes the trits (-1, 0, +1) of the graph's row `row` to `out`.
    ///
    /// # Errors
    ///
    /// [`FormatError::Invalid`] for codes that stand for no trit (a NaN among master weights counts as one), with their
    /// number in the whole tensor and the place of the first as stored; [`FormatError::Truncated`] where `bytes` ends
    /// before the row.
    ///
    /// # Panics
    ///
    /// If `row` is not below [`rows`](Self::rows) or `out` is not [`cols`](Self::cols) long.
    pub fn read_row(&self, row: usize, out: &mut [i8]) -> Result<(), FormatError> {
        assert!(row < self.rows, "row {row} of {}, which has {} rows", self.name, self.rows);
        self.read_stored_row(self.row_order.stored_row(row), out)
    }

    /// [`read_row`](Self::read_row) in the order of the file: `row_order` is not applied.
    ///
    /// # Errors
    ///
    /// As [`read_row`](Self::read_row).
    ///
    /// # Panics
    ///
    /// As [`read_row`](Self::read_row).
    pub fn read_stored_row(&self, row: usize, out: &mut [i8]) -> Result<(), FormatError> {
        match self.decode(row, out) {
            Ok(()) => {}
            Err(RowError::Invalid) => return Err(self.invalid_codes(row, out)),
            Err(RowError::Other(error)) => return Err(error),
            Err(RowError::Truncated) => {
                return Err(FormatError::Truncated {
                    what: format!("tensor {:?}", self.name),
                    needed: self.form.packed_len(self.rows, self.cols).map_or(u64::MAX, |len| len as u64),
                    found: self.bytes.len() as u64,
                });
            }
        }
        // A fold, not `contains`: without an early exit it becomes a few vector instructions.
        let any_invalid = out.iter().fold(false, |seen, &trit| seen | (trit == INVALID));
        if any_invalid { Err(self.invalid_codes(row, out)) } else { Ok(()) }
    }

    /// Decodes a stored row; codes that stand for no trit become [`INVALID`].
    fn decode(&self, row: usize, out: &mut [i8]) -> Result<(), RowError> {
        assert!(row < self.rows, "row {row} of {}, which has {} rows", self.name, self.rows);
        assert_eq!(out.len(), self.cols, "output length against the columns of {}", self.name);
        (self.form.info().decode_row)(self, row, out)
    }

    /// The error for a stored row known to hold an invalid code: counts them in the whole tensor.
    fn invalid_codes(&self, known_bad: usize, scratch: &mut [i8]) -> FormatError {
        let shape = (self.rows, self.cols);
        let found = match self.form {
            TernaryForm::BitNet => planes::check_codes(shape, self.bytes).err().map(|invalid| invalid.to_string()),
            TernaryForm::Rotor => planes::check_planes(shape, self.bytes, self.bit1).err().map(|e| e.to_string()),
            _ => None,
        };
        let found = found.unwrap_or_else(|| self.count_invalid(known_bad, scratch));
        FormatError::invalid(format!("tensor {:?}", self.name), "only codes for -1, 0 and +1", found)
    }

    /// How many codes stand for no trit and where the first is, in words.
    fn count_invalid(&self, known_bad: usize, scratch: &mut [i8]) -> String {
        let (mut count, mut first) = (0usize, None);
        for row in 0..self.rows {
            // A row that cannot be decoded at all is another error's business.
            if self.decode(row, scratch).is_err() {
                break;
            }
            count += scratch.iter().filter(|&&trit| trit == INVALID).count();
            let column = scratch.iter().position(|&trit| trit == INVALID);
            first = first.or(column.map(|column| (row, column)));
        }
        let (row, column) = first.unwrap_or((known_bad, 0));
        format!("{count} invalid, the first at row {row}, column {column}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A tensor over `bytes` with scale 1 and rows as stored.
    pub(super) fn tensor(form: TernaryForm, rows: usize, cols: usize, bytes: &[u8]) -> TernaryTensor<'_> {
        TernaryTensor {
            name: "blk.0.attn_q.weight",
            rows,
            cols,
            form,
            bytes,
            bit1: &[],
            scales: Scales::Tensor(1.0),
            row_order: RowOrder::AsStored,
        }
    }

    /// All rows of a tensor, one after the other, in the graph's order.
    pub(super) fn read_all(tensor: &TernaryTensor<'_>) -> Result<Vec<i8>, FormatError> {
        let mut trits = vec![0; tensor.rows * tensor.cols];
        for (row, out) in trits.chunks_exact_mut(tensor.cols).enumerate() {
            tensor.read_row(row, out)?;
        }
        Ok(trits)
    }

    /// `n` trits from a seed.
    pub(super) fn random_trits(seed: u64, n: usize) -> Vec<i8> {
        let mut rng = fastrand::Rng::with_seed(seed);
        std::iter::repeat_with(|| rng.i8(-1..=1)).take(n).collect()
    }

    /// Packs `trits` with [`Encoder`], strip by strip; the scale that a form appends included.
    pub(super) fn encode(form: TernaryForm, rows: usize, cols: usize, trits: &[i8]) -> Vec<u8> {
        let encoder = Encoder::new("t", form, rows, cols, Scales::Tensor(1.0)).unwrap();
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

    const WRITABLE: [TernaryForm; 3] =
        [TernaryForm::I2S(I2sLayout::Blocks128), TernaryForm::I2S(I2sLayout::Blocks64), TernaryForm::HfPacked];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn encoding_then_reading_is_the_identity(seed: u64, rows in 1usize..40, cols in 1usize..300, form in 0..3usize) {
            let form = WRITABLE[form];
            // I2_S holds whole blocks of 128 elements only; the rows may still begin inside one.
            let rows = if form == TernaryForm::HfPacked { rows } else { rows.next_multiple_of(128 >> cols.trailing_zeros().min(7)) };
            let trits = random_trits(seed, rows * cols);
            let bytes = encode(form, rows, cols, &trits);
            prop_assert!(bytes.len() >= form.packed_len(rows, cols).unwrap());
            prop_assert_eq!(read_all(&tensor(form, rows, cols, &bytes)).unwrap(), trits);
        }
    }

    #[test]
    fn interleaved_rows_come_out_in_the_order_of_the_graph() {
        let (rows, cols, head_dim) = (16, 128, 8);
        let trits = random_trits(1, rows * cols);
        let bytes = encode(TernaryForm::HfPacked, rows, cols, &trits);
        let mut tensor = tensor(TernaryForm::HfPacked, rows, cols, &bytes);
        tensor.row_order = RowOrder::RopeInterleaved { head_dim };
        let mut out = vec![0; cols];
        // Stored row 2j + h of a head is the graph's row h * head_dim/2 + j.
        for (row, stored) in [(0, 0), (1, 2), (3, 6), (4, 1), (7, 7), (8, 8), (12, 9)] {
            tensor.read_row(row, &mut out).unwrap();
            assert_eq!(out, trits[stored * cols..(stored + 1) * cols], "row {row}");
        }
    }

    #[test]
    fn invalid_codes_are_counted_and_placed() {
        let mut bytes = encode(TernaryForm::HfPacked, 8, 5, &[0; 40]);
        bytes[7] |= 0b1100_0000; // Row 1 of the last quarter of two rows, column 2: row 7.
        bytes[4] |= 0b0000_1100; // Row 0 of the second quarter, column 4: row 2.
        let error = read_all(&tensor(TernaryForm::HfPacked, 8, 5, &bytes)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tensor \"blk.0.attn_q.weight\": expected only codes for -1, 0 and +1, found 2 invalid, the first at row 2, column 4"
        );
    }

    #[test]
    fn bytes_that_end_before_the_row_are_an_error_in_every_form() {
        for form in WRITABLE {
            let bytes = encode(form, 4, 128, &[1; 512]);
            let packed = form.packed_len(4, 128).unwrap();
            for len in 0..packed {
                assert!(
                    matches!(
                        read_all(&tensor(form, 4, 128, &bytes[..len])),
                        Err(FormatError::Truncated { needed, found, .. }) if needed == packed as u64 && found == len as u64
                    ),
                    "{form:?} cut to {len} bytes"
                );
            }
            assert!(read_all(&tensor(form, 4, 128, &bytes[..packed])).is_ok());
        }
    }
}
