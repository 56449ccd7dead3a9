//! Many tokens by tables of sums: bytes of trits as codes, and activations in the order of the codes.

use super::{SkippingMatrix, Skips};
use crate::lines::Lines;
use crate::pool::{Pool, SharedMut};
use crate::ternary::Activations;
use crate::ternary::kernel::TernaryKernel;
use crate::ternary::layout::TRIOS_COLS;
use crate::ternary::lookup::{CHUNK_COLS, Coded, QuantizedRows};

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

/// Columns of whole chunks of all tables.
const WHOLE_CHUNKS: usize = TRIOS_COLS;
const _: () = assert!(WHOLE_CHUNKS.is_multiple_of(CHUNK_COLS));

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
