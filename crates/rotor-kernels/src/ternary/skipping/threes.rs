//! The order of columns where a row's bytes of five trits become codes, three bytes at a time.

use super::LINE;
use super::coded::ColumnOrder;
use super::layout::FIVES;

/// Five codes for three bytes of five trits, as [`ORDER`] has them, for four neighbouring bytes in turn.
pub(crate) static THREES: ColumnOrder = ColumnOrder { cols: coded_cols, reorder: reorder_threes };

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
