//! Many tokens by tables of sums: bytes of trits as codes, and activations in the order of the codes.

use super::layout::{FIVES, FOURS};
use super::{LINE, SkippingMatrix, Skips};
use crate::lines::Lines;
use crate::pool::{Pool, SharedMut};
use crate::ternary::Activations;
use crate::ternary::kernel::TernaryKernel;
use crate::ternary::lookup::{Coded, QuantizedRows};

/// What an ISA has to turn bytes of trits into codes for tables.
pub(crate) struct SkippingTables {
    /// The kernel whose tables such codes are for.
    pub kernel: &'static TernaryKernel,
    /// The order of a row's columns.
    pub order: &'static ColumnOrder,
    /// Writes the codes of a block of 64 rows of so many lines, from `row` on.
    ///
    /// The contract: `block` is the rows' bytes; the codes have `code_rows` rows in each of as many chunks as the order's columns
    /// take, of which this call writes those of its rows, and nobody else does.
    pub rows: unsafe fn(block: &[u8], row_lines: usize, codes: &SharedMut<'_, u8>, code_rows: usize, row: usize),
    /// Writes the codes of a slice, whose columns are in their own order.
    ///
    /// The contract: the places, one for each column, are inside the slice; codes as above, with these columns.
    pub columns: unsafe fn(slice: &[u8], places: &[u32], codes: &SharedMut<'_, u8>, code_rows: usize, row: usize),
}

/// In which order columns are where codes are made of a row's bytes.
pub(crate) struct ColumnOrder {
    /// How many columns rows of so many lines have then, with some that are none.
    pub cols: fn(row_lines: usize) -> usize,
    /// Puts a token's activations, padded with zeros, in that order.
    pub reorder: fn(x: &[i8], row_lines: usize, out: &mut [i8]),
}

/// A code for each byte of four trits: columns that are 64 apart lie together.
pub(crate) static BYTES: ColumnOrder =
    ColumnOrder { cols: |row_lines| row_lines * FOURS.line_weights(), reorder: reorder_bytes };

/// Five codes for three bytes of five trits, of four rows' columns in turn: see [`ORDER`].
pub(crate) static THREES: ColumnOrder = ColumnOrder { cols: coded_cols, reorder: reorder_threes };

fn reorder_bytes(x: &[i8], row_lines: usize, out: &mut [i8]) {
    let width = FOURS.line_weights();
    for (line, out) in out.chunks_mut(width).enumerate().take(row_lines) {
        for (byte, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            for (digit, out) in out.iter_mut().enumerate() {
                *out = x.get(line * width + digit * LINE + byte).copied().unwrap_or(0);
            }
        }
    }
}

/// Codes of three bytes.
pub(super) const CODES_OF_THREE: usize = 5;
/// Which trits of three bytes (byte, digit) make each of their codes.
pub(super) const ORDER: [[(usize, usize); 3]; CODES_OF_THREE] = [
    [(0, 0), (0, 1), (0, 2)],
    [(1, 0), (1, 1), (1, 2)],
    [(2, 0), (2, 1), (2, 2)],
    [(0, 3), (0, 4), (1, 3)],
    [(1, 4), (2, 3), (2, 4)],
];
/// Columns next to each other that a code's place has.
const FOUR: usize = 4;
/// Columns of whole chunks of all tables.
const WHOLE_CHUNKS: usize = 96;

/// Threes of fours of a row's bytes.
fn threes(row_lines: usize) -> usize {
    (row_lines * LINE / FOUR).div_ceil(3)
}

/// Columns of a row's codes.
fn coded_cols(row_lines: usize) -> usize {
    threes(row_lines) * CODES_OF_THREE * 3 * FOUR
}

fn reorder_threes(x: &[i8], row_lines: usize, out: &mut [i8]) {
    let fours = x.as_chunks::<FOUR>().0;
    out.fill(0);
    let out = out.as_chunks_mut::<FOUR>().0.as_chunks_mut::<3>().0.as_chunks_mut::<CODES_OF_THREE>().0;
    for (three, out) in out.iter_mut().enumerate().take(threes(row_lines)) {
        for (trio, out) in ORDER.iter().zip(out) {
            for ((byte, digit), out) in trio.iter().zip(out) {
                let at = 3 * three + byte;
                let (line, within) = (at * FOUR / LINE, at * FOUR % LINE);
                if let Some(x) = fours.get((line * FIVES.line_weights() + digit * LINE + within) / FOUR) {
                    *out = *x;
                }
            }
        }
    }
}

/// A matrix whose weights become codes for tables.
pub(super) struct CodedBytes<'a> {
    matrix: &'a SkippingMatrix,
    tables: &'static SkippingTables,
}

impl SkippingMatrix {
    /// The matrix as codes for the tables of its kernel for many tokens, where that has any.
    pub(super) fn coded(&self) -> Option<CodedBytes<'_>> {
        Some(CodedBytes { matrix: self, tables: self.kernel.tables()? })
    }
}

impl CodedBytes<'_> {
    /// All tokens' activations in the order of the codes, in `memory` where that is not their own.
    pub(super) fn activations<'a>(
        &self,
        pool: &Pool,
        x: &'a Activations,
        memory: &'a mut Lines<i8>,
    ) -> QuantizedRows<'a> {
        let rows = x.quantized_rows();
        if self.matrix.skips == Skips::Columns {
            return rows;
        }
        let row_lines = self.matrix.layout().row_lines(self.matrix.cols);
        let stride = self.cols().next_multiple_of(WHOLE_CHUNKS);
        memory.resize(stride * rows.count);
        pool.for_each_chunk(&mut memory[..stride * rows.count], stride, |row, out| {
            (self.tables.order.reorder)(&rows.values[row * rows.stride..][..rows.stride], row_lines, out);
        });
        QuantizedRows { values: memory, stride, ..rows }
    }
}

impl Coded for CodedBytes<'_> {
    fn rows(&self) -> usize {
        self.matrix.rows
    }

    fn cols(&self) -> usize {
        match self.matrix.skips {
            Skips::Rows => (self.tables.order.cols)(self.matrix.layout().row_lines(self.matrix.cols)),
            Skips::Columns => self.matrix.cols,
        }
    }

    fn parts(&self) -> usize {
        self.matrix.rows.div_ceil(self.matrix.kernel.part_rows(self.matrix.skips))
    }

    fn decode(&self, part: usize, codes: &SharedMut<'_, u8>, code_rows: usize) {
        let (bytes, places) = (self.matrix.part(part), &self.matrix.places.of[..]);
        let row = part * self.matrix.kernel.part_rows(self.matrix.skips);
        // SAFETY: the CPU has the ISA of the matrix's kernels, which come from a `Kernels` value; parts have rows of their own, and
        // the codes have a place for each of them and all columns.
        unsafe {
            match self.matrix.skips {
                Skips::Rows => {
                    let lines = self.matrix.layout().row_lines(self.matrix.cols);
                    (self.tables.rows)(bytes, lines, codes, code_rows, row);
                }
                Skips::Columns => (self.tables.columns)(bytes, places, codes, code_rows, row),
            }
        }
    }
}
