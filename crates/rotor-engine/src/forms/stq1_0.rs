//! STQ1_0 (Sherry): every four weights have exactly one zero, so that 256 take 42 bytes. docs/formats.md draws it.
//!
//! A group's four weights are not neighbours: those of group `g` are at `64 (g div 16) + g mod 16 + 16 p`, `p` from 0 to 3. Its
//! slot of four bits says which of them is zero and how the signs of the second and third of the others differ from the first's.

use super::blocks::Block;

pub(super) const STQ1_0: Block = Block { weights: 256, bytes: 42, scale_at: 40, decode, encode };

/// Groups of a block.
const GROUPS: usize = 64;
/// Where the signs begin.
const SIGNS: usize = 32;

/// The places of a group's weights.
fn places(group: usize) -> [usize; 4] {
    std::array::from_fn(|p| 64 * (group / 16) + group % 16 + 16 * p)
}

fn decode(block: &[u8], out: &mut [i8]) {
    for group in 0..GROUPS {
        let slot = block[group / 2] >> (4 * (group % 2)) & 15;
        let sign = 1 - 2 * (block[SIGNS + group / 8] >> (group % 8) & 1) as i8;
        let mut signs = [sign, sign * (1 - 2 * (slot & 1) as i8), sign * (1 - (slot & 2) as i8)].into_iter();
        for (lane, place) in places(group).into_iter().enumerate() {
            let is_zero = lane == usize::from(slot >> 2);
            out[place] = if is_zero { 0 } else { signs.next().unwrap_or(0) };
        }
    }
}

/// Each group has one zero; of several the first counts, and of none the last weight is taken for it.
fn encode(trits: &[i8], block: &mut [u8]) {
    block[..SIGNS + GROUPS / 8].fill(0);
    for group in 0..GROUPS {
        let weights = places(group).map(|place| trits[place]);
        let zero = weights.iter().position(|&weight| weight == 0).unwrap_or(3);
        let others: Vec<i8> = (0..4).filter(|&lane| lane != zero).map(|lane| weights[lane]).collect();
        let differs = |at: usize| u8::from(others[at] != others[0]);
        let slot = (zero as u8) << 2 | differs(2) << 1 | differs(1);
        block[group / 2] |= slot << (4 * (group % 2));
        block[SIGNS + group / 8] |= u8::from(others[0] < 0) << (group % 8);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{read_all, tensor};
    use super::*;
    use crate::forms::TernaryForm;
    use crate::forms::testing::encode as encode_tensor;

    #[test]
    fn worked_example() {
        let mut bytes = vec![0xa6];
        bytes.extend([0; 31]);
        bytes.push(0x02);
        bytes.extend([0; 7]);
        bytes.extend([0x00, 0x38]);
        let trits = read_all(&tensor(TernaryForm::Stq1_0, 1, 256, &bytes)).unwrap();
        assert_eq!([0, 16, 32, 48].map(|at| trits[at]), [1, 0, 1, -1]);
        assert_eq!([1, 17, 33, 49].map(|at| trits[at]), [-1, -1, 0, 1]);
        for group in 2..GROUPS {
            assert_eq!(places(group).map(|at| trits[at]), [0, 1, 1, 1], "group {group}");
        }
        assert_eq!(encode_tensor(TernaryForm::Stq1_0, (1, 256), &trits, 0.5), bytes);
    }

    #[test]
    fn all_32_patterns_come_back() {
        let mut trits = vec![1; 256];
        for group in 0..GROUPS {
            let signs: [i8; 3] = std::array::from_fn(|bit| 1 - 2 * (group >> bit & 1) as i8);
            let mut signs = signs.into_iter();
            for (lane, place) in places(group).into_iter().enumerate() {
                trits[place] = if lane == group / 8 % 4 { 0 } else { signs.next().unwrap() };
            }
        }
        let bytes = encode_tensor(TernaryForm::Stq1_0, (1, 256), &trits, 0.5);
        assert_eq!(read_all(&tensor(TernaryForm::Stq1_0, 1, 256, &bytes)).unwrap(), trits);
    }
}
