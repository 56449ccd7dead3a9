//! Many tokens by tables of sums: fives as codes, and activations in the order of the codes.

use super::matrix::row_lines;
use super::{BLOCK_ROWS, FivesMatrix, LINE, LINE_WEIGHTS, Skips};
use crate::lines::Lines;
use crate::pool::{Pool, SharedMut};
use crate::ternary::Activations;
use crate::ternary::kernel::TernaryKernel;
use crate::ternary::layout::TRIOS_COLS;
use crate::ternary::lookup::{Coded, QuantizedRows};

/// What an ISA has to turn fives into codes of three trits.
pub(crate) struct FivesTables {
    /// The kernel whose tables such codes are for.
    pub kernel: &'static TernaryKernel,
    /// Writes the codes of a block of 64 rows of so many lines, whose columns are in the order of [`ORDER`], from `row` on.
    ///
    /// The contract: `block` is the rows' bytes; the codes have `code_rows` rows in each of as many chunks as [`coded_cols`] takes, of
    /// which this call writes those of its rows, and nobody else does.
    pub rows: unsafe fn(block: &[u8], row_lines: usize, codes: &SharedMut<'_, u8>, code_rows: usize, row: usize),
    /// Writes the codes of a slice.
    ///
    /// The contract: the places, one for each column, are inside the slice; codes as above, with these columns.
    pub columns: unsafe fn(slice: &[u8], places: &[u32], codes: &SharedMut<'_, u8>, code_rows: usize, row: usize),
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

/// Threes of fours of a row's bytes.
fn threes(row_lines: usize) -> usize {
    (row_lines * LINE / FOUR).div_ceil(3)
}

/// Columns of a row's codes.
pub(super) fn coded_cols(row_lines: usize) -> usize {
    threes(row_lines) * CODES_OF_THREE * 3 * FOUR
}

/// A token's activations, padded with zeros, in the order of a row's codes.
pub(super) fn reorder(x: &[i8], row_lines: usize, out: &mut [i8]) {
    let fours = x.as_chunks::<FOUR>().0;
    out.fill(0);
    let out = out.as_chunks_mut::<FOUR>().0.as_chunks_mut::<3>().0.as_chunks_mut::<CODES_OF_THREE>().0;
    for (three, out) in out.iter_mut().enumerate().take(threes(row_lines)) {
        for (trio, out) in ORDER.iter().zip(out) {
            for ((byte, digit), out) in trio.iter().zip(out) {
                let at = 3 * three + byte;
                let (line, within) = (at * FOUR / LINE, at * FOUR % LINE);
                if let Some(x) = fours.get((line * LINE_WEIGHTS + digit * LINE + within) / FOUR) {
                    *out = *x;
                }
            }
        }
    }
}

/// A matrix whose weights become codes for tables.
pub(super) struct CodedFives<'a> {
    matrix: &'a FivesMatrix,
    tables: &'static FivesTables,
}

impl FivesMatrix {
    /// The matrix as codes for the tables of its kernel for many tokens, where that has any.
    pub(super) fn coded(&self) -> Option<CodedFives<'_>> {
        let tables = self.kernels.tables.filter(|tables| std::ptr::eq(tables.kernel, self.dense))?;
        Some(CodedFives { matrix: self, tables })
    }
}

impl CodedFives<'_> {
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
        let (row_lines, stride) = (row_lines(self.matrix.cols), self.cols().next_multiple_of(TRIOS_COLS));
        memory.resize(stride * rows.count);
        pool.for_each_chunk(&mut memory[..stride * rows.count], stride, |row, out| {
            reorder(&rows.values[row * rows.stride..][..rows.stride], row_lines, out);
        });
        QuantizedRows { values: memory, stride, ..rows }
    }
}

impl Coded for CodedFives<'_> {
    fn rows(&self) -> usize {
        self.matrix.rows
    }

    fn cols(&self) -> usize {
        match self.matrix.skips {
            Skips::Rows => coded_cols(row_lines(self.matrix.cols)),
            Skips::Columns => self.matrix.cols,
        }
    }

    fn parts(&self) -> usize {
        match self.matrix.skips {
            Skips::Rows => self.matrix.rows.div_ceil(BLOCK_ROWS),
            Skips::Columns => self.matrix.rows.div_ceil(LINE_WEIGHTS),
        }
    }

    fn decode(&self, part: usize, codes: &SharedMut<'_, u8>, code_rows: usize) {
        let (bytes, places) = (self.matrix.part(part), &self.matrix.places.of[..]);
        // SAFETY: the CPU has the ISA of the matrix's kernels, which come from a `Kernels` value; parts have rows of their own, and
        // the codes have a place for each of them and all columns.
        unsafe {
            match self.matrix.skips {
                Skips::Rows => {
                    let lines = row_lines(self.matrix.cols);
                    (self.tables.rows)(bytes, lines, codes, code_rows, part * BLOCK_ROWS);
                }
                Skips::Columns => (self.tables.columns)(bytes, places, codes, code_rows, part * LINE_WEIGHTS),
            }
        }
    }
}
