//! The order of columns where a row's bytes of four trits become codes.

use super::LINE;
use super::coded::ColumnOrder;
use super::layout::FOURS;

/// A code for each byte of four trits: columns that are 64 apart lie together.
pub(crate) static BYTES: ColumnOrder =
    ColumnOrder { cols: |row_lines| row_lines * FOURS.line_weights(), reorder: reorder_bytes };

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
