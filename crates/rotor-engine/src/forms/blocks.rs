//! Forms whose rows are blocks with an f16 scale each: TQ1_0, TQ2_0, Q1_0 and Q2_0. docs/formats.md draws them.

use half::f16;

/// How a block form cuts a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// Weights of a block.
    pub(super) weights: usize,
    /// Bytes of a block.
    pub(super) bytes: usize,
    /// Where in them the scale is.
    pub(super) scale_at: usize,
    /// Decodes one block; what stands for no trit comes out as 2.
    pub(super) decode: fn(block: &[u8], out: &mut [i8]),
    /// Encodes one block's trits; the scale is written apart.
    pub(super) encode: fn(trits: &[i8], block: &mut [u8]),
}

pub(super) const TQ1_0: Block =
    Block { weights: 256, bytes: 54, scale_at: 52, decode: decode_tq1_0, encode: encode_tq1_0 };
pub(super) const TQ2_0: Block =
    Block { weights: 256, bytes: 66, scale_at: 64, decode: decode_tq2_0, encode: encode_tq2_0 };
pub(super) const Q1_0: Block = Block { weights: 128, bytes: 18, scale_at: 0, decode: decode_q1_0, encode: encode_q1_0 };
pub(super) const Q2_0: Block = Block { weights: 64, bytes: 18, scale_at: 0, decode: decode_q2_0, encode: encode_q2_0 };
pub(super) const Q2_0_128: Block = Block { weights: 128, bytes: 34, ..Q2_0 };

impl Block {
    /// Bytes of a row; `None` where blocks do not divide it.
    pub(super) fn row_bytes(&self, cols: usize) -> Option<usize> {
        cols.is_multiple_of(self.weights).then(|| cols / self.weights).and_then(|n| n.checked_mul(self.bytes))
    }

    /// Decodes row `row`; `None` where `bytes` ends before it or blocks do not divide it.
    pub(super) fn decode_row(&self, bytes: &[u8], row: usize, out: &mut [i8]) -> Option<()> {
        let row_bytes = self.row_bytes(out.len())?;
        let begin = row.checked_mul(row_bytes)?;
        let stored = bytes.get(begin..begin.checked_add(row_bytes)?)?;
        for (block, out) in stored.chunks_exact(self.bytes).zip(out.chunks_exact_mut(self.weights)) {
            (self.decode)(block, out);
        }
        Some(())
    }

    /// The scale of a whole block.
    pub(super) fn scale(&self, block: &[u8]) -> f32 {
        match block.get(self.scale_at..).and_then(<[u8]>::first_chunk) {
            Some(&bytes) => f16::from_le_bytes(bytes).to_f32(),
            None => f32::NAN,
        }
    }

    /// Encodes a row of whole blocks.
    pub(super) fn encode_row(&self, trits: &[i8], scale: impl Fn(usize) -> f16, out: &mut [u8]) {
        let blocks = trits.chunks_exact(self.weights).zip(out.chunks_exact_mut(self.bytes));
        for (index, (trits, block)) in blocks.enumerate() {
            (self.encode)(trits, block);
            block[self.scale_at..self.scale_at + 2].copy_from_slice(&scale(index).to_le_bytes());
        }
    }
}

/// The next base-3 digit of bytes that hold fractions of 256: its place is above the byte after a multiplication by 3.
///
/// `digit = 3 * byte >> 8` and the rest, `3 * byte mod 256`, holds the digits after it.
pub(super) fn next_digits(fractions: &mut [u8], out: &mut [i8]) {
    for (out, fraction) in out.iter_mut().zip(fractions) {
        *out = i8::from(*fraction >= 86) + i8::from(*fraction >= 171) - 1;
        *fraction = fraction.wrapping_mul(3);
    }
}

/// Base-3 digits, the most significant first, as the smallest fraction of 256 that has them.
#[cfg(test)]
pub(super) fn fraction(digits: impl Iterator<Item = i8>) -> u8 {
    fraction_of(digits.fold(0, |value, trit| 3 * value + (trit + 1) as u8))
}

/// `ceil(value * 256 / 243)` for a value of five digits.
fn fraction_of(value: u8) -> u8 {
    (u16::from(value) * 256).div_ceil(243) as u8
}

fn decode_tq1_0(block: &[u8], out: &mut [i8]) {
    // Bytes, digits to a byte, and the first weight of each of the three parts.
    for (bytes, digits, first) in [(0..32, 5, 0), (32..48, 5, 160), (48..52, 4, 240)] {
        let mut fractions = [0u8; 32];
        let fractions = &mut fractions[..bytes.len()];
        fractions.copy_from_slice(&block[bytes]);
        for out in out[first..].chunks_exact_mut(fractions.len()).take(digits) {
            next_digits(fractions, out);
        }
    }
}

fn encode_tq1_0(trits: &[i8], block: &mut [u8]) {
    encode_fractions::<32>(&trits[..160], &mut block[..32]);
    encode_fractions::<16>(&trits[160..240], &mut block[32..48]);
    encode_fractions::<4>(&trits[240..], &mut block[48..52]);
}

/// [`fraction_of`] `WIDTH` values at once: digit *n* of byte *m* is trit `n * WIDTH + m`, and the fifth is 0 where it is not there.
pub(super) fn encode_fractions<const WIDTH: usize>(trits: &[i8], bytes: &mut [u8]) {
    let mut values = [0u8; WIDTH];
    for digit in 0..5 {
        let digits = trits.as_chunks::<WIDTH>().0.get(digit).unwrap_or(&[-1; WIDTH]);
        values.iter_mut().zip(digits).for_each(|(value, &trit)| *value = 3 * *value + (trit + 1) as u8);
    }
    bytes.iter_mut().zip(values).for_each(|(byte, value)| *byte = fraction_of(value));
}

fn decode_tq2_0(block: &[u8], out: &mut [i8]) {
    for (codes, out) in block[..64].as_chunks::<32>().0.iter().zip(out.chunks_exact_mut(128)) {
        for (slot, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (out, byte) in out.iter_mut().zip(codes) {
                *out = ((byte >> (2 * slot)) & 3) as i8 - 1;
            }
        }
    }
}

fn encode_tq2_0(trits: &[i8], block: &mut [u8]) {
    for (codes, trits) in block[..64].as_chunks_mut::<32>().0.iter_mut().zip(trits.chunks_exact(128)) {
        codes.fill(0);
        for (slot, trits) in trits.as_chunks::<32>().0.iter().enumerate() {
            for (byte, trit) in codes.iter_mut().zip(trits) {
                *byte |= ((trit + 1) as u8) << (2 * slot);
            }
        }
    }
}

fn decode_q1_0(block: &[u8], out: &mut [i8]) {
    for (byte, out) in block[2..].iter().zip(out.as_chunks_mut::<8>().0) {
        for (bit, out) in out.iter_mut().enumerate() {
            *out = 2 * (byte >> bit & 1) as i8 - 1;
        }
    }
}

fn encode_q1_0(trits: &[i8], block: &mut [u8]) {
    for (byte, trits) in block[2..].iter_mut().zip(trits.as_chunks::<8>().0) {
        *byte = trits.iter().enumerate().fold(0, |byte, (bit, &trit)| byte | u8::from(trit > 0) << bit);
    }
}

fn decode_q2_0(block: &[u8], out: &mut [i8]) {
    for (byte, out) in block[2..].iter().zip(out.as_chunks_mut::<4>().0) {
        for (slot, out) in out.iter_mut().enumerate() {
            *out = (byte >> (2 * slot) & 3) as i8 - 1;
        }
    }
}

fn encode_q2_0(trits: &[i8], block: &mut [u8]) {
    for (byte, trits) in block[2..].iter_mut().zip(trits.as_chunks::<4>().0) {
        // The four codes as bytes of a word, each moved to its place.
        let codes = u32::from_le_bytes(trits.map(|trit| (trit + 1) as u8));
        *byte = (codes | codes >> 6 | codes >> 12 | codes >> 18) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{encode_with, read_all, tensor};
    use super::*;
    use crate::forms::{Scales, TernaryForm};

    /// Trits that are zero but for some.
    fn trits(len: usize, set: &[(usize, i8)]) -> Vec<i8> {
        let mut trits = vec![0; len];
        set.iter().for_each(|&(at, trit)| trits[at] = trit);
        trits
    }

    fn check(form: TernaryForm, trits: &[i8], scale: f32, expected: &[u8]) {
        let bytes = encode_with(form, 1, trits.len(), trits, Scales::Tensor(scale));
        assert_eq!(bytes, expected, "{}", form.name());
        assert_eq!(read_all(&tensor(form, 1, trits.len(), expected)).unwrap(), trits, "{}", form.name());
    }

    /// The worked example of docs/formats.md, shared by TQ1_0 and TQ2_0.
    fn example_256() -> Vec<i8> {
        trits(256, &[(0, 1), (32, -1), (64, 1), (96, 1), (128, -1), (160, 1), (240, 1), (255, -1)])
    }

    #[test]
    fn tq2_0_worked_example() {
        let mut expected = vec![0x55; 64];
        for (at, byte) in [(0, 0xa2), (32, 0x58), (48, 0x95), (63, 0x15)] {
            expected[at] = byte;
        }
        expected.extend([0x00, 0x38]);
        check(TernaryForm::Tq2_0, &example_256(), 0.5, &expected);
    }

    #[test]
    fn tq1_0_worked_example() {
        let mut expected = vec![0xc4];
        expected.extend([0x80; 31]);
        expected.push(0xd5);
        expected.extend([0x80; 15]);
        expected.extend([0xd4, 0x7f, 0x7f, 0x7c, 0x00, 0x38]);
        check(TernaryForm::Tq1_0, &example_256(), 0.5, &expected);
    }

    #[test]
    fn tq1_0_blocks_of_one_trit() {
        for (trit, five, four) in [(0, 0x80, 0x7f), (1, 0xff, 0xfd), (-1, 0x00, 0x00)] {
            let mut expected = vec![five; 48];
            expected.extend([four; 4]);
            expected.extend([0x00, 0x3c]);
            check(TernaryForm::Tq1_0, &[trit; 256], 1.0, &expected);
        }
    }

    #[test]
    fn all_243_values_of_five_digits_come_back() {
        for value in 0..243u32 {
            let digits: Vec<i8> = (0..5).map(|n| (value / 3u32.pow(4 - n) % 3) as i8 - 1).collect();
            let mut byte = [fraction(digits.iter().copied())];
            let mut out = [9];
            for digit in digits {
                next_digits(&mut byte, &mut out);
                assert_eq!(out[0], digit, "{value}");
            }
        }
    }

    #[test]
    fn q2_0_worked_example_and_its_fourth_code() {
        let mut expected = vec![0x00, 0x38, 0x92];
        expected.extend([0x55; 15]);
        check(TernaryForm::Q2_0, &trits(64, &[(0, 1), (1, -1), (3, 1)]), 0.5, &expected);
        expected[17] |= 0b1100_0000; // The last weight, code 3: +2.
        let error = read_all(&tensor(TernaryForm::Q2_0, 1, 64, &expected)).unwrap_err().to_string();
        assert!(error.contains("\"blk.0.attn_q.weight\"") && error.ends_with("at row 0, column 63"), "{error}");
    }

    #[test]
    fn q2_0_in_blocks_of_128_is_the_same_but_for_its_size() {
        let mut bytes = vec![0x00, 0x38, 0x92];
        bytes.extend([0x55; 31]);
        let found = read_all(&tensor(TernaryForm::Q2_0Group128, 1, 128, &bytes)).unwrap();
        assert_eq!(found, trits(128, &[(0, 1), (1, -1), (3, 1)]));
        bytes[33] = 0x95;
        let found = read_all(&tensor(TernaryForm::Q2_0Group128, 1, 128, &bytes)).unwrap();
        assert_eq!(found, trits(128, &[(0, 1), (1, -1), (3, 1), (127, 1)]));
    }

    #[test]
    fn q1_0_worked_example() {
        let mut weights = vec![-1; 128];
        (weights[0], weights[3], weights[127]) = (1, 1, 1);
        let mut expected = vec![0x00, 0x38, 0x09];
        expected.extend([0; 14]);
        expected.push(0x80);
        check(TernaryForm::Q1_0, &weights, 0.5, &expected);
    }
}
