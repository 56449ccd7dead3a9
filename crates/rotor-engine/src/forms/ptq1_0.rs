//! PTQ1_0: blocks of 128 weights in 28 bytes, five trits to a byte and an f16 scale at the end. docs/formats.md draws it.

use super::blocks::{Block, encode_fractions, next_digits};

pub(super) const PTQ1_0: Block = Block { weights: 128, bytes: 28, scale_at: 26, decode, encode };

fn decode(block: &[u8], out: &mut [i8]) {
    // Bytes, digits to a byte, and the first weight of each of the three parts.
    for (bytes, digits, first) in [(0..16, 5, 0), (16..24, 5, 80), (24..26, 4, 120)] {
        let mut fractions = [0u8; 16];
        let fractions = &mut fractions[..bytes.len()];
        fractions.copy_from_slice(&block[bytes]);
        for out in out[first..].chunks_exact_mut(fractions.len()).take(digits) {
            next_digits(fractions, out);
        }
    }
}

fn encode(trits: &[i8], block: &mut [u8]) {
    encode_fractions::<16>(&trits[..80], &mut block[..16]);
    encode_fractions::<8>(&trits[80..120], &mut block[16..24]);
    encode_fractions::<2>(&trits[120..], &mut block[24..26]);
}

#[cfg(test)]
mod tests {
    use super::super::tests::{read_all, tensor};
    use crate::forms::testing::encode;
    use crate::forms::{Scales, TernaryForm, inner_scales};

    fn check(trits: &[i8], expected: &[u8]) {
        assert_eq!(encode(TernaryForm::Ptq1_0, (1, 128), trits, 0.5), expected);
        assert_eq!(read_all(&tensor(TernaryForm::Ptq1_0, 1, 128, expected)).unwrap(), trits);
        assert_eq!(inner_scales(TernaryForm::Ptq1_0, "t", (1, 128), expected).unwrap(), Scales::Tensor(0.5));
    }

    #[test]
    fn worked_example() {
        let mut trits = vec![0; 128];
        for (at, trit) in [(0, 1), (16, -1), (32, 1), (48, 1), (64, -1), (80, 1), (120, 1), (127, -1)] {
            trits[at] = trit;
        }
        let mut expected = vec![0xc4];
        expected.extend([0x80; 15]);
        expected.push(0xd5);
        expected.extend([0x80; 7]);
        expected.extend([0xd4, 0x7c, 0x00, 0x38]);
        check(&trits, &expected);
    }

    #[test]
    fn blocks_of_one_trit() {
        for (trit, five, four) in [(0, 0x80, 0x7f), (1, 0xff, 0xfd), (-1, 0x00, 0x00)] {
            let mut expected = vec![five; 24];
            expected.extend([four, four, 0x00, 0x38]);
            check(&[trit; 128], &expected);
        }
    }
}
