//! TL1 and TL2, the layouts of Microsoft's lookup-table kernels. docs/formats.md, "TL1" and "TL2".
//!
//! Weights lie in the order in which one build's kernels read them, and nothing in the file says which build. The sizes of
//! its tiles come from the `kernel_config.ini` of that build: without it such a tensor cannot be read.

use crate::error::FormatError;
use std::path::Path;

/// How a kernel cuts a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TlTile {
    /// Rows of a tile (`bm` in the file).
    pub rows: usize,
    /// Columns of a tile (`bk`).
    pub cols: usize,
    /// Rows that one step of the kernel takes (`bmm`).
    pub step_rows: usize,
}

/// The tiles of a build, by the shape of the matrix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelConfig {
    tiles: Vec<((usize, usize), TlTile)>,
}

/// Largest `kernel_config.ini` that is read; real ones have a few hundred bytes.
const MAX_CONFIG: u64 = 1 << 20;

impl KernelConfig {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`FormatError::Io`] from the disk, else as [`parse`](Self::parse), naming the file.
    pub fn read(path: &Path) -> Result<Self, FormatError> {
        let io = |source| FormatError::Io { action: "read", path: path.to_path_buf(), source };
        let size = std::fs::metadata(path).map_err(io)?.len();
        if size > MAX_CONFIG {
            let error = FormatError::invalid("kernel config", format!("at most {MAX_CONFIG} bytes"), size);
            return Err(error.in_file(path));
        }
        let text = std::fs::read_to_string(path).map_err(io)?;
        Self::parse(&text).map_err(|e| e.in_file(path))
    }

    /// Parses sections of the keys `m` (rows), `k` (columns), `bm`, `bk` and `bmm`.
    ///
    /// # Errors
    ///
    /// [`FormatError::Invalid`] for a line that is no section, key or comment, and a number that is none;
    /// [`FormatError::Missing`] for a section without one of the keys.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let mut tiles = Vec::new();
        let mut section: Option<Section> = None;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let invalid =
                |expected: &str| FormatError::invalid(format!("line {number} of the kernel config"), expected, line);
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                tiles.extend(section.replace(Section::new(name)).map(Section::finish).transpose()?);
                continue;
            }
            let Some(section) = &mut section else { return Err(invalid("a [section]")) };
            let (key, value) = line.split_once(['=', ':']).ok_or_else(|| invalid("KEY = NUMBER"))?;
            let value = value.trim().parse().ok().filter(|&value| (1..=1 << 24).contains(&value));
            section.set(key.trim(), value.ok_or_else(|| invalid("a number from 1 to 2^24"))?);
        }
        tiles.extend(section.map(Section::finish).transpose()?);
        Ok(Self { tiles })
    }

    /// The tile of a `[rows, cols]` matrix, where the build has kernels for it.
    pub fn tile(&self, rows: usize, cols: usize) -> Option<TlTile> {
        self.tiles.iter().find(|(shape, _)| *shape == (rows, cols)).map(|&(_, tile)| tile)
    }
}

/// The keys of a section as far as they have been met.
struct Section {
    name: String,
    values: [Option<usize>; 5],
}

impl Section {
    const KEYS: [&'static str; 5] = ["m", "k", "bm", "bk", "bmm"];

    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), values: [None; 5] }
    }

    fn set(&mut self, key: &str, value: usize) {
        // Other keys are other tools' business.
        if let Some(at) = Self::KEYS.iter().position(|known| *known == key) {
            self.values[at] = Some(value);
        }
    }

    fn finish(self) -> Result<((usize, usize), TlTile), FormatError> {
        match self.values {
            [Some(m), Some(k), Some(rows), Some(cols), Some(step_rows)] => {
                Ok(((m, k), TlTile { rows, cols, step_rows }))
            }
            values => {
                let absent = values.iter().position(Option::is_none).map_or("m", |at| Self::KEYS[at]);
                Err(FormatError::missing(format!("{absent} in section [{}] of the kernel config", self.name)))
            }
        }
    }
}

/// Columns that the 256 nibbles of a kernel step of `step_rows` rows hold.
fn step_cols(tile: TlTile) -> Option<usize> {
    256usize.checked_div(tile.step_rows).filter(|cols| cols * tile.step_rows == 256 && cols.is_multiple_of(4))
}

/// Bytes of a TL1 tensor without its scale; `None` where the tiles do not fit the shape or each other.
pub(super) fn tl1_packed_len(tile: TlTile, rows: usize, cols: usize) -> Option<usize> {
    let step_cols = step_cols(tile)?;
    let fits = tile.step_rows.is_multiple_of(16)
        && tile.rows.is_multiple_of(tile.step_rows)
        && tile.cols.is_multiple_of(step_cols)
        && rows.is_multiple_of(tile.rows)
        && cols.is_multiple_of(tile.cols);
    if fits { rows.checked_mul(cols).map(|n| n / 4) } else { None }
}

/// The code of two weights: `3 * first + second + 4`.
const PAIRS: [[i8; 2]; 16] = {
    let mut pairs = [[super::row::INVALID; 2]; 16];
    let mut code = 0;
    while code < 9 {
        pairs[code] = [code as i8 / 3 - 1, code as i8 % 3 - 1];
        code += 1;
    }
    pairs
};

/// Decodes row `row` of `rows`: runs of 4 columns are one byte, 16 rows lie side by side.
pub(super) fn decode_tl1(tile: TlTile, rows: usize, bytes: &[u8], row: usize, out: &mut [i8]) -> Option<()> {
    tl1_packed_len(tile, rows, out.len())?;
    let (tiles_across, step_cols) = (out.len() / tile.cols, step_cols(tile)?);
    let (tile_row, in_tile) = (row / tile.rows, row % tile.rows);
    let (step, in_step) = (in_tile / tile.step_rows, in_tile % tile.step_rows);
    let (group, lane) = (in_step / 16, in_step % 16);
    let mut out = out.as_chunks_mut::<4>().0.iter_mut();
    for tile_col in 0..tiles_across {
        for step_col in 0..tile.cols / step_cols {
            let block = ((tile_row * tiles_across + tile_col) * (tile.rows / tile.step_rows) + step)
                * (tile.cols / step_cols)
                + step_col;
            let first = (block * (tile.step_rows / 16) + group) * (step_cols / 4) * 16 + lane;
            for (quad, out) in (0..step_cols / 4).zip(&mut out) {
                let byte = bytes.get(first + 16 * quad)?;
                let ([a, b], [c, d]) = (PAIRS[usize::from(byte >> 4)], PAIRS[usize::from(byte & 15)]);
                *out = [a, b, c, d];
            }
        }
    }
    Some(())
}

/// Rows that a TL2 kernel step takes; no other number is used.
const TL2_STEP_ROWS: usize = 32;
/// Columns of a TL2 kernel step over triples and over pairs.
const TL2_STEP_COLS: (usize, usize) = (6, 4);
/// Columns of a tile of pairs, and of signs.
const TL2_PAIR_TILE: usize = 32;
const TL2_SIGN_TILE: usize = 24;

/// Columns of a TL2 row that are stored as triples; the rest are pairs.
fn triple_cols(tile: TlTile, cols: usize) -> usize {
    cols - cols % tile.cols
}

/// Bytes of a TL2 tensor that hold weights; `None` where the tiles do not fit the shape or each other.
pub(super) fn tl2_packed_len(tile: TlTile, rows: usize, cols: usize) -> Option<usize> {
    let fits = tile.step_rows == TL2_STEP_ROWS
        && tile.rows.is_multiple_of(TL2_STEP_ROWS)
        && tile.cols.is_multiple_of(TL2_SIGN_TILE)
        && tile.cols > 0
        && rows.is_multiple_of(tile.rows)
        && (cols % tile.cols).is_multiple_of(TL2_PAIR_TILE);
    if !fits {
        return None;
    }
    let triples = triple_cols(tile, cols);
    let bytes = |cols: usize, per_byte: usize| rows.checked_mul(cols).map(|weights| weights / per_byte);
    bytes(triples, 6)?.checked_add(bytes(triples, 24)?)?.checked_add(bytes(cols - triples, 4)?)
}

/// Decodes row `row` of `rows`.
pub(super) fn decode_tl2(tile: TlTile, rows: usize, bytes: &[u8], row: usize, out: &mut [i8]) -> Option<()> {
    tl2_packed_len(tile, rows, out.len())?;
    let cols = triple_cols(tile, out.len());
    let (magnitudes, rest) = bytes.split_at_checked(rows * cols / 6)?;
    let (signs, pairs) = rest.split_at_checked(rows * cols / 24)?;
    let (triples, last) = out.split_at_mut(cols);
    let place = Tl2Row::new(tile, row);
    for (index, out) in triples.as_chunks_mut::<6>().0.iter_mut().enumerate() {
        let col = 6 * index;
        let byte = magnitudes.get(place.byte(tile.cols, cols, TL2_STEP_COLS.0, col))?;
        let sign = |col: usize| place.is_negative(tile.cols, cols, signs, col);
        let (high, low) = (triple(byte >> 4, sign(col)?), triple(byte & 15, sign(col + 3)?));
        *out = [high[0], high[1], high[2], low[0], low[1], low[2]];
    }
    let cols = last.len();
    for (index, out) in last.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let byte = pairs.get(place.byte(TL2_PAIR_TILE, cols, TL2_STEP_COLS.1, 4 * index))?;
        let ([a, b], [c, d]) = (PAIRS[usize::from(byte >> 4)], PAIRS[usize::from(byte & 15)]);
        *out = [a, b, c, d];
    }
    Some(())
}

/// Three weights from the magnitude of `9 * first + 3 * second + third` and its sign.
fn triple(magnitude: u8, negative: bool) -> [i8; 3] {
    if magnitude > 13 {
        return [super::row::INVALID; 3];
    }
    let value = if negative { 13 - magnitude as i8 } else { 13 + magnitude as i8 };
    [value / 9 - 1, value / 3 % 3 - 1, value % 3 - 1]
}

/// Where a row lies in the sections of a TL2 tensor.
struct Tl2Row {
    tile_row: usize,
    /// Kernel steps of a tile, and which of them has the row.
    steps: usize,
    step: usize,
    /// The row within its step.
    lane: usize,
}

impl Tl2Row {
    fn new(tile: TlTile, row: usize) -> Self {
        let in_tile = row % tile.rows;
        Self {
            tile_row: row / tile.rows,
            steps: tile.rows / TL2_STEP_ROWS,
            step: in_tile / TL2_STEP_ROWS,
            lane: in_tile % TL2_STEP_ROWS,
        }
    }

    /// The block of 32 bytes for column `col` of a section of `cols` columns, cut into tiles and then into blocks.
    fn block(&self, tile_cols: usize, cols: usize, block_cols: usize, col: usize) -> usize {
        let (tile_col, in_tile) = (col / tile_cols, col % tile_cols);
        ((self.tile_row * (cols / tile_cols) + tile_col) * self.steps + self.step) * (tile_cols / block_cols)
            + in_tile / block_cols
    }

    /// The byte with the codes for column `col`. Eight rows lie side by side, in the order 0, 2, 1, 3 of eights.
    fn byte(&self, tile_cols: usize, cols: usize, block_cols: usize, col: usize) -> usize {
        const ORDER: [usize; 4] = [0, 2, 1, 3];
        let position = 8 * ORDER[self.lane / 8] + self.lane % 8;
        self.block(tile_cols, cols, block_cols, col) * 32 + position
    }

    /// The sign of the triple that begins at `col`: one bit of one of a block's 16 words.
    fn is_negative(&self, tile_cols: usize, cols: usize, signs: &[u8], col: usize) -> Option<bool> {
        let block = self.block(tile_cols, cols, TL2_SIGN_TILE, col);
        let word = signs.get(block * 32 + 2 * (self.lane % 16)..)?.first_chunk()?;
        let triple = col % TL2_SIGN_TILE / 3;
        Some(u16::from_le_bytes(*word) >> (15 - (2 * triple + self.lane / 16)) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{encode_tl1, encode_tl2};
    use super::super::tests::{random_trits, read_all, tensor};
    use super::*;
    use crate::forms::TernaryForm;

    #[test]
    fn tl1_tiles_of_the_presets_come_back() {
        for (rows, cols, bm, bk, bmm) in
            [(256, 128, 128, 64, 64), (512, 256, 256, 128, 32), (320, 128, 160, 64, 32), (32, 64, 16, 32, 16)]
        {
            let tile = TlTile { rows: bm, cols: bk, step_rows: bmm };
            let trits = random_trits(5, rows * cols);
            let bytes = encode_tl1(tile, rows, cols, &trits);
            assert_eq!(TernaryForm::Tl1(tile).packed_len(rows, cols), Some(bytes.len()));
            assert_eq!(read_all(&tensor(TernaryForm::Tl1(tile), rows, cols, &bytes)).unwrap(), trits, "{tile:?}");
        }
    }

    #[test]
    fn tl2_tiles_of_the_presets_come_back() {
        for (rows, cols, bm, bk) in [(256, 192, 128, 192), (320, 288, 160, 96), (256, 256, 128, 96), (96, 64, 32, 96)] {
            let tile = TlTile { rows: bm, cols: bk, step_rows: 32 };
            let trits = random_trits(6, rows * cols);
            let bytes = encode_tl2(tile, rows, cols, &trits);
            assert_eq!(TernaryForm::Tl2(tile).packed_len(rows, cols), Some(bytes.len()));
            assert_eq!(read_all(&tensor(TernaryForm::Tl2(tile), rows, cols, &bytes)).unwrap(), trits, "{tile:?}");
        }
    }

    /// The worked examples of docs/formats.md: one row of weights, the others zero.
    #[test]
    fn worked_examples() {
        let mut trits = vec![0; 16 * 32];
        trits[..6].copy_from_slice(&[-1, 1, 0, 1, 1, -1]);
        let tile = TlTile { rows: 16, cols: 32, step_rows: 16 };
        let mut tl1 = vec![0x44; 128];
        (tl1[0], tl1[16]) = (0x25, 0x64);
        assert_eq!(encode_tl1(tile, 16, 32, &trits), tl1);
        assert_eq!(read_all(&tensor(TernaryForm::Tl1(tile), 16, 32, &tl1)).unwrap(), trits);

        let mut trits = vec![0; 32 * 24];
        trits[..6].copy_from_slice(&[-1, 1, 0, 1, 1, -1]);
        let tile = TlTile { rows: 32, cols: 24, step_rows: 32 };
        // -9 + 3 = -6 and 9 + 3 - 1 = 11; the sign of the first triple is bit 15 of the first word.
        let mut tl2 = vec![0; 128 + 32];
        (tl2[0], tl2[129]) = (0x6b, 0x80);
        assert_eq!(encode_tl2(tile, 32, 24, &trits), tl2);
        assert_eq!(read_all(&tensor(TernaryForm::Tl2(tile), 32, 24, &tl2)).unwrap(), trits);
    }

    #[test]
    fn codes_that_stand_for_nothing_are_reported() {
        let tile = TlTile { rows: 16, cols: 32, step_rows: 16 };
        let mut bytes = vec![0x44; 128];
        bytes[0] = 0x49;
        let error = read_all(&tensor(TernaryForm::Tl1(tile), 16, 32, &bytes)).unwrap_err().to_string();
        assert!(error.ends_with("2 invalid, the first at row 0, column 2"), "{error}");
        let tile = TlTile { rows: 32, cols: 24, step_rows: 32 };
        let mut bytes = vec![0; 160];
        bytes[31] = 0xe0;
        let error = read_all(&tensor(TernaryForm::Tl2(tile), 32, 24, &bytes)).unwrap_err().to_string();
        assert!(error.ends_with("3 invalid, the first at row 31, column 0"), "{error}");
    }

    #[test]
    fn a_kernel_config_is_read_by_shape() {
        let text = "; of a 3B model\n[Kernels_0]\nm = 3200\nk = 8640\nbm = 160\nbk = 64\nbmm = 32\n\n[Kernels_1]\nm=3200\nk=3200\nbm: 320\nbk=128\nbmm=64\nother=1\n";
        let config = KernelConfig::parse(text).unwrap();
        assert_eq!(config.tile(3200, 8640), Some(TlTile { rows: 160, cols: 64, step_rows: 32 }));
        assert_eq!(config.tile(3200, 3200), Some(TlTile { rows: 320, cols: 128, step_rows: 64 }));
        assert_eq!(config.tile(8640, 3200), None);
        for (text, message) in [
            ("m = 1", "line 1 of the kernel config: expected a [section], found m = 1"),
            ("[a]\nm = x", "line 2 of the kernel config: expected a number from 1 to 2^24, found m = x"),
            ("[a]\nm = 0", "line 2 of the kernel config: expected a number from 1 to 2^24, found m = 0"),
            ("[a]\nm", "line 2 of the kernel config: expected KEY = NUMBER, found m"),
            ("[a]\nm = 1\nk = 2\n[b]", "bm in section [a] of the kernel config is missing"),
        ] {
            assert_eq!(KernelConfig::parse(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn tiles_that_do_not_divide_a_matrix_have_no_size() {
        let tile = |rows, cols, step_rows| TlTile { rows, cols, step_rows };
        for bad in [tile(100, 128, 32), tile(256, 96, 32), tile(256, 128, 48), tile(256, 128, 512), tile(32, 128, 64)] {
            assert_eq!(TernaryForm::Tl1(bad).packed_len(256, 256), None, "{bad:?}");
        }
        for bad in [tile(256, 96, 64), tile(100, 96, 32), tile(256, 100, 32), tile(256, 0, 32), tile(256, 72, 32)] {
            assert_eq!(TernaryForm::Tl2(bad).packed_len(256, 256), None, "{bad:?}");
        }
    }
}
