//! The reference, a few bytes at a time with shifts and masks.

use super::{PlaneKernels, Strided};

pub(crate) const KERNELS: PlaneKernels =
    PlaneKernels { split_codes, join_planes, pack_trits, unpack_trits, count_trits, unstride };

/// A one in every byte.
const ONES: u64 = 0x0101_0101_0101_0101;

/// The high bit of every code to `bit0`, the low one to `bit1`.
pub(super) fn split_codes(codes: &[u8], bit0: &mut [u8], bit1: &mut [u8]) -> bool {
    let mut wrong = 0;
    for ((pair, plus), minus) in codes.as_chunks().0.iter().zip(bit0).zip(bit1) {
        let pair = u16::from_le_bytes(*pair);
        let both = pair & pair >> 1 & 0x5555;
        wrong |= both;
        let pair = pair & !(both | both << 1);
        (*plus, *minus) = (gather_even(pair >> 1), gather_even(pair));
    }
    wrong != 0
}

pub(super) fn join_planes(bit0: &[u8], bit1: &[u8], codes: &mut [u8]) -> bool {
    let mut wrong = 0;
    for ((pair, plus), minus) in codes.as_chunks_mut().0.iter_mut().zip(bit0).zip(bit1) {
        let both = plus & minus;
        wrong |= both;
        *pair = (spread(plus & !both) << 1 | spread(minus & !both)).to_le_bytes();
    }
    wrong != 0
}

pub(super) fn pack_trits(trits: &[i8], bit0: &mut [u8], bit1: &mut [u8]) -> bool {
    let mut wrong = 0;
    for ((trits, bit0), bit1) in trits.as_chunks::<8>().0.iter().zip(bit0).zip(bit1) {
        let trits = u64::from_le_bytes(trits.map(i8::cast_unsigned));
        let minus = trits >> 7 & ONES;
        let plus = trits & !minus & ONES;
        // What the two bits do not account for; then the highest bit says whether a byte has any.
        let other = trits ^ (plus | (minus * 0xff));
        let bad = (((other & !(ONES << 7)) + 0x7f * ONES) | other) >> 7 & ONES;
        wrong |= bad;
        (*bit0, *bit1) = (gather_bytes(plus & !bad), gather_bytes(minus & !bad));
    }
    wrong != 0
}

pub(super) fn unpack_trits(bit0: &[u8], bit1: &[u8], trits: &mut [i8]) -> bool {
    let mut wrong = 0;
    for ((trits, plus), minus) in trits.as_chunks_mut::<8>().0.iter_mut().zip(bit0).zip(bit1) {
        let both = plus & minus;
        wrong |= both;
        let word = scatter_bytes(plus & !both) | (scatter_bytes(minus & !both) * 0xff);
        *trits = word.to_le_bytes().map(u8::cast_signed);
    }
    wrong != 0
}

pub(super) fn count_trits(trits: &[i8], wanted: i8) -> u64 {
    trits.iter().filter(|&&trit| trit == wanted).count() as u64
}

fn unstride(layout: Strided, packed: &[u8], bit0: &mut [u8], bit1: &mut [u8]) -> bool {
    let block = if layout == Strided::High16 { 16 } else { 32 };
    let mut wrong = 0;
    // Each slot of a block is a run of weights; 8 bytes of the block make a byte of either plane.
    for (at, (bit0, bit1)) in bit0.iter_mut().zip(bit1).enumerate() {
        let (in_block, first) = (8 * at % (4 * block), 8 * at / (4 * block) * block);
        let slot = in_block / block;
        let shift = if layout == Strided::Low32 { 2 * slot } else { 6 - 2 * slot };
        let (mut high, mut low) = (0u8, 0u8);
        for (bit, byte) in packed[first + in_block % block..][..8].iter().enumerate() {
            let code = byte >> shift & 3;
            high |= (code >> 1) << bit;
            low |= (code & 1) << bit;
        }
        wrong |= high & low;
        (*bit0, *bit1) = (high & !low, !(high | low));
    }
    wrong != 0
}

/// The even bits of a word, side by side.
fn gather_even(word: u16) -> u8 {
    let pairs = word & 0x5555;
    let pairs = (pairs | pairs >> 1) & 0x3333;
    let nibbles = (pairs | pairs >> 2) & 0x0f0f;
    (nibbles | nibbles >> 4) as u8
}

/// The inverse of [`gather_even`]: the bits of a byte, each followed by a zero.
fn spread(byte: u8) -> u16 {
    let nibbles = (u16::from(byte) | u16::from(byte) << 4) & 0x0f0f;
    let pairs = (nibbles | nibbles << 2) & 0x3333;
    (pairs | pairs << 1) & 0x5555
}

/// Byte i of a word, 0 or 1, as bit i: the product has it in place 56 + i.
fn gather_bytes(bytes: u64) -> u8 {
    (bytes.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
}

/// Bit i of a byte as byte i of a word, 0 or 1.
fn scatter_bytes(byte: u8) -> u64 {
    let bits = (u64::from(byte) * ONES) & 0x8040_2010_0804_0201;
    (bits + 0x7f * ONES) >> 7 & ONES
}
