//! Hugging Face packed weights: U8 `[ceil(rows/4), cols]`, four quarters of the rows in one byte.
//!
//! With `R = ceil(rows/4)`, byte `(r, c)` holds column `c` of the rows `r`, `r + R`, `r + 2R`, `r + 3R` in its bits 1:0,
//! 3:2, 5:4, 7:6; code = trit + 1. Where 4 does not divide the rows the last quarter is short.

/// Rows of the packed array.
pub(super) fn packed_rows(rows: usize) -> usize {
    rows.div_ceil(4)
}

/// Bytes of the packed array.
pub(super) fn packed_len(rows: usize, cols: usize) -> Option<usize> {
    packed_rows(rows).checked_mul(cols)
}

/// Decodes row `row` of `rows`; `None` where `bytes` ends before it. Code 3 comes out as 2, which is no trit.
pub(super) fn decode_row(rows: usize, bytes: &[u8], row: usize, out: &mut [i8]) -> Option<()> {
    let (quarter, packed_row) = (row / packed_rows(rows), row % packed_rows(rows));
    let begin = packed_row.checked_mul(out.len())?;
    let packed = bytes.get(begin..begin.checked_add(out.len())?)?;
    let shift = 2 * quarter;
    for (out, &byte) in out.iter_mut().zip(packed) {
        *out = ((byte >> shift) & 3) as i8 - 1;
    }
    Some(())
}

/// Adds the trits of a row of quarter `quarter` to a packed row that began as zeros.
pub(super) fn encode_quarter(quarter: usize, trits: &[i8], packed: &mut [u8]) {
    for (byte, &trit) in packed.iter_mut().zip(trits) {
        *byte |= ((trit + 1) as u8) << (2 * quarter);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{encode, read_all, tensor};
    use crate::forms::TernaryForm;

    #[test]
    fn worked_example() {
        let trits = [0, -1, -1, 1, -1, 1, -1, 1, 1, 0, 0, -1, 1, -1, 1, -1];
        let packed = [0xa1, 0x18, 0x90, 0x0a];
        assert_eq!(encode(TernaryForm::HfPacked, 8, 2, &trits), packed);
        assert_eq!(read_all(&tensor(TernaryForm::HfPacked, 8, 2, &packed)).unwrap(), trits);
    }

    #[test]
    fn a_short_last_quarter_leaves_its_bits_zero() {
        // 5 rows make quarters of 2, 2, 1 and 0 rows.
        let packed = encode(TernaryForm::HfPacked, 5, 1, &[1, 1, 1, 1, 1]);
        assert_eq!(packed, [0b10_10_10, 0b10_10]);
        assert_eq!(read_all(&tensor(TernaryForm::HfPacked, 5, 1, &packed)).unwrap(), [1; 5]);
    }
}
