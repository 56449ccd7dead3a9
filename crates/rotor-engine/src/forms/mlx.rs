//! MLX's affine packs of 2 bits: 16 codes to a little-endian word, the first in the low bits, so four to a byte. A weight is
//! `scale * code + bias`, and ternary where the bias is the scale negated and no code is 3; both lie beside the words.

/// Bytes of the codes of a `[rows, cols]` matrix.
pub(super) fn packed_len(rows: usize, cols: usize) -> Option<usize> {
    if cols.is_multiple_of(16) { rows.checked_mul(cols / 4) } else { None }
}

/// Decodes row `row`; `None` where `bytes` ends before it. Code 3 comes out as 2, which is no trit.
pub(super) fn decode_row(bytes: &[u8], row: usize, out: &mut [i8]) -> Option<()> {
    let width = out.len() / 4;
    let begin = row.checked_mul(width)?;
    let codes = bytes.get(begin..begin.checked_add(width)?)?;
    for (byte, out) in codes.iter().zip(out.as_chunks_mut::<4>().0) {
        for (slot, out) in out.iter_mut().enumerate() {
            *out = (byte >> (2 * slot) & 3) as i8 - 1;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{read_all, tensor};
    use crate::forms::TernaryForm;

    #[test]
    fn worked_example() {
        let word = 0x5555_5592u32.to_le_bytes();
        let mut expected = vec![0; 16];
        (expected[0], expected[1], expected[3]) = (1, -1, 1);
        assert_eq!(read_all(&tensor(TernaryForm::Mlx, 1, 16, &word)).unwrap(), expected);
        let four_levels = read_all(&tensor(TernaryForm::Mlx, 1, 16, &[0xc0; 4])).unwrap_err().to_string();
        assert!(four_levels.ends_with("4 invalid, the first at row 0, column 3"), "{four_levels}");
    }
}
