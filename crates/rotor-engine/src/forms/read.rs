//! Reading rows: as trits and as planes, whatever form they are stored in.

use super::form::{TernaryForm, TernaryTensor};
use super::quick;
use super::row::{INVALID, RowError};
use crate::error::FormatError;
use crate::planes;

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

    /// [`read_stored_row`](Self::read_stored_row) as bit planes: `bit0` marks +1, `bit1` marks -1, the padding is zero.
    ///
    /// Several times faster than by way of trits, where the form's layout allows it (I2_S, TQ2_0, codes and planes).
    ///
    /// # Errors
    ///
    /// As [`read_row`](Self::read_row).
    ///
    /// # Panics
    ///
    /// If `row` is not below [`rows`](Self::rows) or a plane is not [`planes::plane_bytes`] of the columns long.
    pub fn read_stored_planes(&self, row: usize, bit0: &mut [u8], bit1: &mut [u8]) -> Result<(), FormatError> {
        assert!(row < self.rows, "row {row} of {}, which has {} rows", self.name, self.rows);
        if quick::planes(self, row, bit0, bit1) {
            return Ok(());
        }
        // Anything out of the ordinary, a row that is not sound included.
        let mut trits = vec![0; self.cols];
        self.read_stored_row(row, &mut trits)?;
        planes::trits_to_planes((1, self.cols), &trits, bit0, bit1)
            .map_err(|invalid| FormatError::invalid(format!("tensor {:?}", self.name), "trits", invalid))
    }

    /// Decodes a stored row; codes that stand for no trit become [`INVALID`].
    fn decode(&self, row: usize, out: &mut [i8]) -> Result<(), RowError> {
        assert!(row < self.rows, "row {row} of {}, which has {} rows", self.name, self.rows);
        assert_eq!(out.len(), self.cols, "output length against the columns of {}", self.name);
        (self.form.info().decode_row)(self, row, out)
    }

    /// The error for a stored row known to hold an invalid code: counts them in the whole tensor.
    fn invalid_codes(&self, known_bad: usize, scratch: &mut [i8]) -> FormatError {
        // Where bytes are missing, what is wrong with the rows that are there.
        let rows = |bytes: &[u8], width: usize| bytes.len().checked_div(width).unwrap_or(0).min(self.rows);
        let found = match self.form {
            TernaryForm::BitNet => {
                let shape = (rows(self.bytes, planes::code_bytes(self.cols)), self.cols);
                planes::check_codes(shape, self.bytes).err()
            }
            TernaryForm::Rotor => {
                let width = planes::plane_bytes(self.cols);
                let shape = (rows(self.bytes, width).min(rows(self.bit1, width)), self.cols);
                planes::check_planes(shape, self.bytes, self.bit1).err()
            }
            _ => None,
        };
        let found = found.map(|invalid| invalid.to_string());
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
