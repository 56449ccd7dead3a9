//! How trits lie in bytes.
//!
//! # Fives, 1.6 bits a weight
//!
//! Five weights have 243 values, and a byte holds them. With `c = t + 1` the first four have 81, `i = c0 + 3 c1 + 9 c2 + 27 c3`:
//!
//! ```text
//! i below 64:   byte = c4 << 6 | i                   a permutation by the lower six bits gives four trits, the fifth is in place
//! i from 64 on: byte = 193 + 3 (i - 64) + c4         what is above 192 says how the other rule errs
//! ```
//!
//! # Fours, 2 bits a weight
//!
//! For CPUs that cannot permute by six bits: `byte = c0 | c1 << 2 | c2 << 4 | c3 << 6`.
//!
//! # Lines
//!
//! With `D` trits in a byte a line, 64 bytes, has `W = 64 D` weights. In *rows*, a row's bytes are contiguous, so that each digit of
//! a line meets 64 activations in their own order:
//!
//! ```text
//! line l, byte b:     columns W l + b, W l + 64 + b, W l + 128 + b, ..
//! ```
//!
//! In *columns*, `W` rows are a slice, in which a column is one line:
//!
//! ```text
//! slice s, digit k, byte 16 (i / 4) + 4 m + i % 4 (fives) or 16 m + i (fours):     row W s + 64 k + 16 m + i
//! ```
//!
//! so that the bytes of four columns (of two), unpacked to lie side by side, are so many columns of sixteen rows each, in order,
//! which is what integer dot products take.

use super::LINE;

/// The most trits of a byte.
pub(super) const MAX_DIGITS: usize = 5;
/// The most weights of a line.
pub(super) const MAX_LINE_WEIGHTS: usize = MAX_DIGITS * LINE;

/// How trits lie in a byte and in a line.
pub(crate) struct ByteLayout {
    /// What it is called.
    pub(super) name: &'static str,
    /// Trits of a byte.
    pub(super) digits: usize,
    /// The byte of codes given as `c0 + 3 c1 + 9 c2 + ..`.
    pub(super) encode: &'static [u8; 243],
    /// The codes of a byte.
    pub(super) decode: &'static [[u8; MAX_DIGITS]; 256],
    /// Which row of a digit's 64 a byte of a column's line holds.
    pub(super) rows: &'static [u8; LINE],
}

impl ByteLayout {
    /// Weights of a line: columns of a row's, rows of a column's.
    pub(super) const fn line_weights(&self) -> usize {
        self.digits * LINE
    }

    /// Lines of a row.
    pub(super) const fn row_lines(&self, cols: usize) -> usize {
        cols.div_ceil(self.line_weights())
    }

    /// The row of a slice that digit `digit` of byte `byte` of its lines holds.
    pub(super) const fn row_of(&self, byte: usize, digit: usize) -> usize {
        LINE * digit + self.rows[byte] as usize
    }

    /// The column of a row that digit `digit` of its byte `at` holds.
    pub(super) const fn column_of(&self, at: usize, digit: usize) -> usize {
        at / LINE * self.line_weights() + digit * LINE + at % LINE
    }

    /// The byte of zero weights.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64", test))]
    pub(super) const fn zeros(&self) -> u8 {
        self.encode[(3usize.pow(self.digits as u32) - 1) / 2]
    }
}

pub(crate) static FIVES: ByteLayout = ByteLayout {
    name: "fives",
    digits: 5,
    encode: &ENCODE_FIVES,
    decode: &decoded(&ENCODE_FIVES, 5),
    rows: &{
        let (mut rows, mut byte) = ([0; LINE], 0);
        while byte < LINE {
            rows[byte] = (16 * (byte / 4 % 4) + 4 * (byte / 16) + byte % 4) as u8;
            byte += 1;
        }
        rows
    },
};

pub(crate) static FOURS: ByteLayout = ByteLayout {
    name: "fours",
    digits: 4,
    encode: &ENCODE_FOURS,
    decode: &decoded(&ENCODE_FOURS, 4),
    rows: &{
        let (mut rows, mut byte) = ([0; LINE], 0);
        while byte < LINE {
            rows[byte] = byte as u8;
            byte += 1;
        }
        rows
    },
};

const ENCODE_FIVES: [u8; 243] = {
    let (mut encode, mut value) = ([0; 243], 0);
    while value < 243 {
        let (four, fifth) = (value % 81, value / 81);
        encode[value] = (if four < 64 { fifth << 6 | four } else { 193 + 3 * (four - 64) + fifth }) as u8;
        value += 1;
    }
    encode
};

const ENCODE_FOURS: [u8; 243] = {
    let (mut encode, mut value) = ([0; 243], 0);
    while value < 81 {
        encode[value] = (value % 3 + 4 * (value / 3 % 3) + 16 * (value / 9 % 3) + 64 * (value / 27)) as u8;
        value += 1;
    }
    encode
};

/// The codes of every byte that `encode` gives so many digits; ones for what it does not give.
const fn decoded(encode: &[u8; 243], digits: usize) -> [[u8; MAX_DIGITS]; 256] {
    let (mut decode, mut value) = ([[1; MAX_DIGITS]; 256], 0);
    while value < 3usize.pow(digits as u32) {
        let (mut digit, mut rest) = (0, value);
        while digit < digits {
            decode[encode[value] as usize][digit] = (rest % 3) as u8;
            rest /= 3;
            digit += 1;
        }
        value += 1;
    }
    decode
}
