//! IQ1_BN and IQ2_BN, the BitNet forms of ik_llama.cpp: rows that begin with their scale, then blocks of 64 weights.
//!
//! ```text
//! IQ2_BN  f32 scale | 16 bytes a block: weight j in bits 2(j/16)+1 : 2(j/16) of byte j % 16, code = trit + 1
//! IQ1_BN  f16 scale | 13 bytes a block: for each 16 weights three bytes of 5 base-3 digits; their 16th is a digit of byte 12
//! ```
//!
//! A byte of digits `t_0 .. t_4` stands for `sum of 3^j t_j`, so that here the first weight is the least significant digit.

use half::f16;

/// Weights of a block.
const BLOCK: usize = 64;
/// Bytes of the scale in front of an IQ1_BN row, and of a block.
const IQ1: (usize, usize) = (2, 13);
/// The same of IQ2_BN.
const IQ2: (usize, usize) = (4, 16);

pub(super) fn iq1_packed_len(rows: usize, cols: usize) -> Option<usize> {
    row_bytes(IQ1, cols)?.checked_mul(rows)
}

pub(super) fn iq2_packed_len(rows: usize, cols: usize) -> Option<usize> {
    row_bytes(IQ2, cols)?.checked_mul(rows)
}

fn row_bytes((header, block): (usize, usize), cols: usize) -> Option<usize> {
    cols.is_multiple_of(BLOCK).then_some(cols / BLOCK)?.checked_mul(block)?.checked_add(header)
}

/// A row's header and blocks; `None` where `bytes` ends before it.
fn row(sizes: (usize, usize), bytes: &[u8], row: usize, cols: usize) -> Option<(&[u8], &[u8])> {
    let len = row_bytes(sizes, cols)?;
    let begin = row.checked_mul(len)?;
    bytes.get(begin..begin.checked_add(len)?)?.split_at_checked(sizes.0)
}

pub(super) fn iq1_scale(bytes: &[u8], index: usize, cols: usize) -> Option<f32> {
    let (header, _) = row(IQ1, bytes, index, cols)?;
    Some(f16::from_le_bytes(*header.first_chunk()?).to_f32())
}

pub(super) fn iq2_scale(bytes: &[u8], index: usize, cols: usize) -> Option<f32> {
    let (header, _) = row(IQ2, bytes, index, cols)?;
    Some(f32::from_le_bytes(*header.first_chunk()?))
}

pub(super) fn decode_iq2(bytes: &[u8], index: usize, out: &mut [i8]) -> Option<()> {
    let (_, blocks) = row(IQ2, bytes, index, out.len())?;
    for (block, out) in blocks.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
        for (slot, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            for (out, byte) in out.iter_mut().zip(block) {
                *out = (byte >> (2 * slot) & 3) as i8 - 1;
            }
        }
    }
    Some(())
}

pub(super) fn decode_iq1(bytes: &[u8], index: usize, out: &mut [i8]) -> Option<()> {
    let (_, blocks) = row(IQ1, bytes, index, out.len())?;
    for (block, out) in blocks.as_chunks::<13>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
        for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            for (at, out) in out.iter_mut().enumerate() {
                *out = if at < 15 { digit(block[3 * group + at / 5], at % 5) } else { digit(block[12], group) };
            }
        }
    }
    Some(())
}

/// Digit `place` of a byte, counted from the least significant of five.
fn digit(byte: u8, place: usize) -> i8 {
    const POWERS: [u8; 5] = [81, 27, 9, 3, 1];
    ((u16::from(byte.wrapping_mul(POWERS[place])) * 3) >> 8) as i8 - 1
}

#[cfg(test)]
mod tests {
    use super::super::testing::{iq1_row, iq2_row};
    use super::super::tests::{random_trits, read_all, tensor};
    use crate::forms::{Scales, TernaryForm, inner_scales};

    /// The worked example of docs/formats.md, as trits.
    fn example() -> Vec<i8> {
        let mut trits = vec![0; 64];
        for (at, trit) in [(0, 1), (15, 1), (32, 1), (63, 1), (1, -1), (16, -1), (31, -1), (48, -1)] {
            trits[at] = trit;
        }
        trits
    }

    #[test]
    fn worked_examples() {
        let mut iq2 = vec![0x00, 0x00, 0x00, 0x3f, 0x22, 0x54];
        iq2.extend([0x55; 13]);
        iq2.push(0x92);
        let iq1 = [0x00, 0x38, 0x7e, 0x80, 0x80, 0x7f, 0x80, 0x80, 0x81, 0x80, 0x80, 0x7f, 0x80, 0x80, 0x45].to_vec();
        assert_eq!((iq2_row(0.5, &example()), iq1_row(0.5, &example())), (iq2.clone(), iq1.clone()));
        for (form, bytes) in [(TernaryForm::Iq2Bn, iq2), (TernaryForm::Iq1Bn, iq1)] {
            assert_eq!(read_all(&tensor(form, 1, 64, &bytes)).unwrap(), example(), "{}", form.name());
            assert_eq!(inner_scales(form, "t", (1, 64), &bytes).unwrap(), Scales::Tensor(0.5));
        }
    }

    #[test]
    fn rows_have_their_own_scales() {
        for (seed, cols) in [(1, 64), (2, 192), (3, 1024)] {
            let trits = random_trits(seed, 3 * cols);
            let write = |row: fn(f32, &[i8]) -> Vec<u8>| -> Vec<u8> {
                trits.chunks_exact(cols).zip([0.5, 0.5, 2.0]).flat_map(|(trits, scale)| row(scale, trits)).collect()
            };
            for (form, bytes) in [(TernaryForm::Iq2Bn, write(iq2_row)), (TernaryForm::Iq1Bn, write(iq1_row))] {
                assert_eq!(form.packed_len(3, cols), Some(bytes.len()));
                assert_eq!(read_all(&tensor(form, 3, cols, &bytes)).unwrap(), trits, "{}", form.name());
                let scales = inner_scales(form, "t", (3, cols), &bytes).unwrap();
                assert_eq!(scales, Scales::Rows(vec![0.5, 0.5, 2.0]));
            }
        }
    }
}
