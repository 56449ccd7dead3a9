//! The packed layouts, each translated from and to a tile of bit planes.
//!
//! Every layout cuts a matrix into tiles of 32 rows, and a tile into blocks of columns. Padding, to whole tiles and whole
//! blocks, is zero weights.
//!
//! # Planes, 2 bits a weight
//!
//! A block is two units; a unit is 8 columns, one cache line:
//!
//! ```text
//! unit u:   P row 0 .. P row 31 | N row 0 .. N row 31        byte r = columns 8u .. 8u+8 of row r, lowest bit first
//! ```
//!
//! # Codes, 2 bits a weight
//!
//! The code of a weight is `t + 1`: 0, 1 or 2. A block is 16 columns, a cache line for 16 rows:
//!
//! ```text
//! block b:  rows 0..16: row 0 | row 1 | .. | row 15    rows 16..32: row 16 | .. | row 31      four bytes to a row
//! byte j of a row:   bits 0-1 column 16b+j    bits 2-3 column 16b+4+j    bits 4-5 column 16b+8+j    bits 6-7 column 16b+12+j
//! ```
//!
//! so that the four fields of the four bytes meet activations in their own order, and integer dot products take a row's four
//! bytes at once.
//!
//! # Trios, 1.67 bits a weight
//!
//! Three weights have 27 values: `i = c0 + 3 c1 + 9 c2`, five bits, `c = t + 1`. Byte `j` of a row holds columns `12v + j`,
//! `12v + 4 + j` and `12v + 8 + j` in index `v`. A block is 96 columns: 8 indices for each byte, kept in 5 bytes `b0` to `b4`
//! at the same place of 5 cache lines (for each half of the rows):
//!
//! ```text
//! bits 0-4 of b0 .. b4      index 0 .. 4
//! bits 5-7 of b0            bits 0-2 of index 5        bits 6-7 of b1     bits 3-4 of index 5
//! bit  5   of b1            bit  0   of index 6        bits 5-7 of b2     bits 1-3 of index 6       bit 7 of b3    bit 4
//! bits 5-6 of b3            bits 0-1 of index 7        bits 5-7 of b4     bits 2-4 of index 7
//! ```

use super::{COLS_ALIGN, TILE_ROWS, UNIT_BYTES, UNIT_COLS};

/// How a tile of 32 rows is packed.
pub(crate) struct Layout {
    /// Its name, which is also that of the kernels for it.
    pub name: &'static str,
    /// Columns of a block.
    pub block_cols: usize,
    /// Bytes of a block of 32 rows.
    pub block_bytes: usize,
    /// Packs a tile of planes, whose columns may end before the last block does.
    pub pack: fn(planes: &[u8], tile: &mut [u8]),
    /// The trits of four columns of a row from `col`, a multiple of four, on.
    pub trits: fn(tile: &[u8], row: usize, col: usize) -> [i8; 4],
}

impl Layout {
    /// `cols` rounded up to whole blocks.
    pub(crate) fn padded(&self, cols: usize) -> usize {
        cols.next_multiple_of(self.block_cols)
    }

    /// Bytes of a tile of `cols` columns.
    pub(crate) fn tile_bytes(&self, cols: usize) -> usize {
        cols.div_ceil(self.block_cols) * self.block_bytes
    }

    /// Whether a tile can be cut between columns that are multiples of `cols`.
    pub(crate) fn divides(&self, cols: usize) -> bool {
        cols.is_multiple_of(self.block_cols)
    }
}

pub(crate) static PLANES: Layout = Layout {
    name: "planes",
    block_cols: COLS_ALIGN,
    block_bytes: 2 * UNIT_BYTES,
    pack: |planes, tile| tile.copy_from_slice(planes),
    trits: planes_trits,
};

pub(crate) static CODES: Layout =
    Layout { name: "codes", block_cols: CODES_COLS, block_bytes: CODES_BYTES, pack: pack_codes, trits: codes_trits };

pub(crate) static TRIOS: Layout =
    Layout { name: "trios", block_cols: TRIOS_COLS, block_bytes: TRIOS_BYTES, pack: pack_trios, trits: trios_trits };

/// Columns of a block of codes.
pub(crate) const CODES_COLS: usize = 16;
/// Bytes of a block of codes.
pub(crate) const CODES_BYTES: usize = 128;
/// Columns of a block of trios.
pub(crate) const TRIOS_COLS: usize = 96;
/// Bytes of a block of trios: five cache lines for each half of the rows.
pub(crate) const TRIOS_BYTES: usize = 640;
/// Indices of a block of trios.
const INDICES: usize = 8;
/// Bytes of a half's row of a block: four of each cache line.
const LANE: usize = 4;
/// Rows that share a cache line of codes or trios.
const HALF: usize = 16;
/// Bytes of a cache line.
const LINE: usize = 64;

/// The four lowest bits of `bits`, each in a byte of its own.
fn spread(bits: u32) -> u32 {
    // Bit j is moved by 7j more to the left; the copies that meet the mask do not overlap.
    (bits & 15).wrapping_mul(0x0020_4081) & 0x0101_0101
}

/// The codes (weight plus one) of four columns, `4 * quarter` columns into a unit, a byte each.
fn quad(unit: &[u8], row: usize, quarter: usize) -> u32 {
    let bits = |plane: usize| spread(u32::from(unit[plane * TILE_ROWS + row]) >> (4 * quarter));
    0x0101_0101 + bits(0) - bits(1)
}

fn planes_trits(tile: &[u8], row: usize, col: usize) -> [i8; 4] {
    let unit = &tile[col / UNIT_COLS * UNIT_BYTES..][..UNIT_BYTES];
    trits_of(quad(unit, row, col % UNIT_COLS / 4))
}

/// Four codes, a byte each, as trits.
fn trits_of(codes: u32) -> [i8; 4] {
    codes.to_le_bytes().map(|code| code.cast_signed() - 1)
}

fn pack_codes(planes: &[u8], tile: &mut [u8]) {
    let blocks = tile.as_chunks_mut::<CODES_BYTES>().0;
    for (block, planes) in blocks.iter_mut().zip(planes.as_chunks::<{ 2 * UNIT_BYTES }>().0) {
        let units = planes.as_chunks::<UNIT_BYTES>().0;
        for (row, bytes) in block.as_chunks_mut::<LANE>().0.iter_mut().enumerate() {
            let low = quad(&units[0], row, 0) | quad(&units[0], row, 1) << 2;
            let high = quad(&units[1], row, 0) | quad(&units[1], row, 1) << 2;
            *bytes = (low | high << 4).to_le_bytes();
        }
    }
}

fn codes_trits(tile: &[u8], row: usize, col: usize) -> [i8; 4] {
    let at = col / CODES_COLS * CODES_BYTES + row * LANE;
    let bytes = u32::from_le_bytes(*tile[at..].first_chunk().expect("a row of a block"));
    trits_of(bytes >> (2 * (col % CODES_COLS / 4)) & 0x0303_0303)
}

/// A field of the bytes of a trio block, in one of its five bytes, and where it goes.
struct Piece {
    index: usize,
    byte: usize,
    /// Lowest bit of the field in the byte.
    from: u32,
    /// Lowest bit of the field in the index.
    to: u32,
    bits: u32,
}

/// What the module head lists of indices 5, 6 and 7.
const PIECES: [Piece; 7] = [
    Piece { index: 5, byte: 0, from: 5, to: 0, bits: 3 },
    Piece { index: 5, byte: 1, from: 6, to: 3, bits: 2 },
    Piece { index: 6, byte: 1, from: 5, to: 0, bits: 1 },
    Piece { index: 6, byte: 2, from: 5, to: 1, bits: 3 },
    Piece { index: 6, byte: 3, from: 7, to: 4, bits: 1 },
    Piece { index: 7, byte: 3, from: 5, to: 0, bits: 2 },
    Piece { index: 7, byte: 4, from: 5, to: 2, bits: 3 },
];

impl Piece {
    /// The field's mask, lowest bit first, in each of four bytes.
    const fn mask(&self) -> u32 {
        ((1 << self.bits) - 1) * 0x0101_0101
    }
}

fn pack_trios(planes: &[u8], tile: &mut [u8]) {
    let none = [0; UNIT_BYTES];
    let units = planes.as_chunks::<UNIT_BYTES>().0;
    for (block, out) in tile.as_chunks_mut::<TRIOS_BYTES>().0.iter_mut().enumerate() {
        let first = block * (TRIOS_COLS / UNIT_COLS);
        let units: [&[u8; UNIT_BYTES]; TRIOS_COLS / UNIT_COLS] =
            std::array::from_fn(|unit| units.get(first + unit).unwrap_or(&none));
        for row in 0..TILE_ROWS {
            let quad = |at: usize| quad(units[at / 2], row, at % 2);
            let index: [u32; INDICES] =
                std::array::from_fn(|v| quad(3 * v) + 3 * quad(3 * v + 1) + 9 * quad(3 * v + 2));
            let mut bytes = [index[0], index[1], index[2], index[3], index[4]];
            for piece in &PIECES {
                bytes[piece.byte] |= (index[piece.index] >> piece.to & piece.mask()) << piece.from;
            }
            for (line, bytes) in bytes.into_iter().enumerate() {
                let at = row / HALF * (TRIOS_BYTES / 2) + line * LINE + row % HALF * LANE;
                out[at..at + LANE].copy_from_slice(&bytes.to_le_bytes());
            }
        }
    }
}

fn trios_trits(tile: &[u8], row: usize, col: usize) -> [i8; 4] {
    let block = &tile[col / TRIOS_COLS * TRIOS_BYTES..][row / HALF * (TRIOS_BYTES / 2)..];
    let bytes = |line: usize| {
        let at = line * LINE + row % HALF * LANE;
        u32::from_le_bytes(*block[at..].first_chunk().expect("a row of a block"))
    };
    let (v, trio) = (col % TRIOS_COLS / 12, col % 12 / 4);
    let index = if v < 5 {
        bytes(v) & 0x1f1f_1f1f
    } else {
        let pieces = PIECES.iter().filter(|piece| piece.index == v);
        pieces.fold(0, |index, piece| index | (bytes(piece.byte) >> piece.from & piece.mask()) << piece.to)
    };
    index.to_le_bytes().map(|index| (index / [1, 3, 9][trio] % 3).cast_signed() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row and one column at a time, every value: what the module head draws.
    #[test]
    fn a_weight_is_where_the_diagrams_say() {
        let mut planes = vec![0u8; 12 * UNIT_BYTES];
        // Row 17, column 29: +1.
        planes[3 * UNIT_BYTES + 17] = 1 << 5;
        let mut codes = vec![0; 6 * CODES_BYTES];
        pack_codes(&planes, &mut codes);
        // Block 1, second half, row 1 of it, byte 1, field 3.
        assert_eq!(codes[CODES_BYTES + 64 + 4 + 1], 0b10_01_01_01);
        assert!(codes.iter().filter(|byte| **byte != 0b01_01_01_01).count() == 1);
        let mut trios = vec![0; TRIOS_BYTES];
        pack_trios(&planes, &mut trios);
        // Column 29 = 12 * 2 + 4 + 1: index 2, byte 1, second trit: 1 + 3 * 2 + 9 = 16, where zeros have 13.
        assert_eq!(trios[TRIOS_BYTES / 2 + 2 * 64 + 4 + 1] & 31, 16);
        assert_eq!(trios[TRIOS_BYTES / 2 + 2 * 64 + 4] & 31, 13);
    }

    #[test]
    fn bits_are_spread_to_bytes() {
        for bits in 0..16 {
            assert_eq!(spread(bits).to_le_bytes(), std::array::from_fn(|j| (bits >> j & 1) as u8));
        }
    }

    #[test]
    fn every_layout_gives_its_trits_back() {
        let mut rng = fastrand::Rng::with_seed(5);
        for cols in [16usize, 96, 112, 192, 208] {
            let trits: Vec<i8> = (0..TILE_ROWS * cols).map(|_| rng.i8(-1..=1)).collect();
            let mut planes = vec![0; cols / UNIT_COLS * UNIT_BYTES];
            for row in 0..TILE_ROWS {
                for col in 0..cols {
                    let at = col / UNIT_COLS * UNIT_BYTES + row;
                    planes[at] |= u8::from(trits[row * cols + col] > 0) << (col % 8);
                    planes[at + TILE_ROWS] |= u8::from(trits[row * cols + col] < 0) << (col % 8);
                }
            }
            for layout in [&PLANES, &CODES, &TRIOS] {
                let mut tile = vec![0xff; layout.tile_bytes(cols)];
                (layout.pack)(&planes, &mut tile);
                for row in 0..TILE_ROWS {
                    for col in (0..layout.padded(cols)).step_by(4) {
                        let expected: [i8; 4] =
                            if col < cols { std::array::from_fn(|j| trits[row * cols + col + j]) } else { [0; 4] };
                        assert_eq!((layout.trits)(&tile, row, col), expected, "{} row {row} col {col}", layout.name);
                    }
                }
            }
        }
    }
}
