//! Ternary matrices times int8 activations, exactly.
//!
//! # The packed form
//!
//! A [`TernaryMatrix`] keeps two bit planes, `P` (where the weight is +1) and `N` (where it is -1), cut into tiles of 32
//! rows. A unit is 8 columns of a tile, one cache line:
//!
//! ```text
//! unit u of tile t:   P row 0 .. P row 31 | N row 0 .. N row 31        byte r = columns 8u .. 8u+8 of row 32t + r
//! ```
//!
//! Rows are padded to whole tiles and columns to pairs of units (16 columns) with zero bits, that is with zero weights.
//!
//! # Two ways to multiply
//!
//! *One or a few tokens*: every 4 activations have 16 subset sums. A nibble of `P` picks the sum of the activations its
//! row adds, the same nibble of `N` the sum it subtracts; one byte shuffle looks up 32 rows at once. The sums do not fit a
//! byte, so a table is split into `31 * high + low` and both halves are accumulated as bytes.
//!
//! *Many tokens*: for each 4 columns, the 81 possible signed sums of 16 tokens are tabulated as vectors of int16; a weight
//! code (one byte, 4 trits) then costs one vector load and one add for all 16 tokens, and no multiplication. The planes are
//! turned into codes on the way in, so one packed copy serves both.
//!
//! Both give the plain integer dot product bit for bit, for every int8 input; each ISA's file proves its bounds.

mod activations;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_rows;
mod grouped;
mod planes;
pub(crate) mod scalar;

pub use activations::Activations;
pub use grouped::{GROUP_ALIGN, GroupScales};
pub use planes::{Orientation, Planes, TileScratch};

use crate::buffer::{Buffer, Pages};
use crate::dispatch::Kernels;
use crate::pool::{Pool, SharedMut};

/// Rows of a tile.
pub const TILE_ROWS: usize = 32;
/// Columns of a unit.
pub const UNIT_COLS: usize = 8;
/// Bytes of a unit: 32 of each plane.
pub const UNIT_BYTES: usize = 2 * TILE_ROWS;
/// Columns are padded to a multiple of this, with zero weights.
pub const COLS_ALIGN: usize = 16;

/// Tokens that share one lookup in the many-token kernels.
pub const TOKEN_TILE: usize = 16;
/// Columns whose tables are in the L1 cache together in the many-token kernels: 8 codes of 4.
pub const CHUNK_COLS: usize = 32;
/// Bytes of codes per row and chunk.
pub const CHUNK_CODES: usize = 8;

/// Tiles that a task of the few-token kernels takes.
const RUN: usize = 4;

/// The ternary kernels of one ISA.
pub(crate) struct TernaryKernels {
    /// Sets row `r` of a tile from its trits, padded to whole pairs of units.
    pub pack_row: unsafe fn(trits: &[i8], r: usize, tile: &mut [u8]),
    /// Bytes of prepared activations per token, given padded columns.
    pub prepared_len: fn(usize) -> usize,
    /// Prepares one token's activations (`q`, padded) for `few`.
    pub prepare: unsafe fn(q: &[i8], prepared: &mut [u8]),
    /// Dot products of whole tiles with 1 to 4 tokens: `out[token][row of these tiles]`.
    pub few: FewTokens,
    /// Dot products of rows of stored planes with one token, arranged as [`planes`] says; returns whether a weight is set in
    /// both planes.
    pub dot_rows: DotRows,
    /// The many-token kernels, where this ISA has them.
    pub many: Option<ManyKernels>,
}

/// Multiplies whole tiles (of so many units per row) by the prepared activations of each token.
type FewTokens = unsafe fn(tiles: &[u8], units: usize, prepared: &[&[u8]], out: &mut [&mut [i32]]);

/// Multiplies rows of planes, `width` bytes each, by the arranged activations.
type DotRows = unsafe fn(bit0: &[u8], bit1: &[u8], width: usize, x: &[i8], out: &mut [i32]) -> bool;

/// The vector-lookup kernels of one ISA.
pub(crate) struct ManyKernels {
    /// Smallest number of tokens for which they beat `few`.
    pub min_tokens: usize,
    /// Turns whole tiles, the first of which begins at `row`, into `codes[chunk][row][8]` with `code_rows` rows per chunk.
    /// Writes those rows only.
    pub decode: unsafe fn(tiles: &[u8], units: usize, codes: &SharedMut<'_, u8>, code_rows: usize, row: usize),
    /// Transposes 16 tokens (`stride` apart in `q`, fewer where `tokens` says so) to `transposed[column][16]`.
    pub transpose: unsafe fn(q: &[i8], stride: usize, tokens: usize, transposed: &mut [i16]),
    /// `sums[row][16]` for `rows` of the codes.
    pub run: unsafe fn(
        codes: &[u8],
        code_rows: usize,
        rows: std::ops::Range<usize>,
        transposed: &[i16],
        work: &mut ManyWork,
    ),
}

/// One worker's memory for the many-token kernels.
#[derive(Debug, Default)]
pub struct ManyWork {
    /// `[8][81][16]`.
    pub(crate) tables: Vec<i16>,
    /// `[rows][16]`.
    pub(crate) partial: Vec<i16>,
    /// `[rows][16]`.
    pub(crate) sums: Vec<i32>,
}

/// A ternary matrix `[rows, cols]`, packed for the kernels.
#[derive(Debug)]
pub struct TernaryMatrix {
    rows: usize,
    cols: usize,
    units: usize,
    tiles: Buffer<u8>,
}

/// Scales of a packed matrix.
#[derive(Clone, Debug, PartialEq)]
pub enum RowScales {
    /// One for all rows.
    Uniform(f32),
    /// One per row.
    PerRow(Vec<f32>),
    /// One for each group of a row's columns.
    Grouped(GroupScales),
}

impl RowScales {
    /// The scale of the weight in this place.
    ///
    /// # Panics
    /// If there is none.
    #[inline]
    pub fn get(&self, row: usize, col: usize) -> f32 {
        match self {
            RowScales::Uniform(scale) => *scale,
            RowScales::PerRow(scales) => scales[row],
            RowScales::Grouped(scales) => scales.get(row, col),
        }
    }

    /// Multiplies every scale.
    pub fn multiply(&mut self, factor: f32) {
        match self {
            RowScales::Uniform(scale) => *scale *= factor,
            RowScales::PerRow(scales) => scales.iter_mut().for_each(|scale| *scale *= factor),
            RowScales::Grouped(scales) => scales.multiply(factor),
        }
    }
}

/// `cols` rounded up to what a packed matrix stores.
pub fn padded_cols(cols: usize) -> usize {
    cols.next_multiple_of(COLS_ALIGN)
}

impl TernaryMatrix {
    /// Packs a matrix, `read_row(row, trits)` filling each row's `cols` values of -1, 0 and +1.
    ///
    /// Rows are read in parallel and in no fixed order. Never more than one row per thread is unpacked.
    ///
    /// # Errors
    /// The error of the lowest tile whose `read_row` failed, or the system's refusal of memory through `memory`.
    ///
    /// # Panics
    /// If a trit is not -1, 0 or +1 (debug builds, scalar kernels), or the size overflows.
    pub fn pack<E: Send>(
        (rows, cols): (usize, usize),
        kernels: &Kernels,
        pool: &Pool,
        memory: impl FnOnce(std::io::Error) -> E,
        read_row: impl Fn(usize, &mut [i8]) -> Result<(), E> + Sync,
    ) -> Result<TernaryMatrix, E> {
        let units = padded_cols(cols) / UNIT_COLS;
        let tile_bytes = units * UNIT_BYTES;
        let bytes = rows.div_ceil(TILE_ROWS).checked_mul(tile_bytes).expect("a matrix that fits the address space");
        let mut tiles = Buffer::zeroed(bytes, Pages::Huge).map_err(memory)?;
        let mut row_buffers = vec![vec![0i8; units * UNIT_COLS]; pool.threads()];
        let failure = std::sync::Mutex::new(None::<(usize, E)>);
        if bytes > 0 {
            pool.for_each_chunk_with(&mut row_buffers, &mut tiles[..bytes], tile_bytes, |trits, tile, packed| {
                for r in 0..TILE_ROWS.min(rows - tile * TILE_ROWS) {
                    match read_row(tile * TILE_ROWS + r, &mut trits[..cols]) {
                        // SAFETY: the CPU has the ISA of these kernels; the row and the tile have the lengths of `units`.
                        Ok(()) => unsafe { (kernels.ternary.pack_row)(trits, r, packed) },
                        Err(error) => {
                            let mut first = failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                            if first.as_ref().is_none_or(|(lowest, _)| tile < *lowest) {
                                *first = Some((tile, error));
                            }
                            return;
                        }
                    }
                }
            });
        }
        match failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some((_, error)) => Err(error),
            None => Ok(TernaryMatrix { rows, cols, units, tiles }),
        }
    }

    /// Rows (output features).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns (input features).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of packed weights.
    pub fn packed_bytes(&self) -> usize {
        self.tile_count() * self.tile_bytes()
    }

    /// The trit at `(row, col)`, read back from the planes.
    ///
    /// # Panics
    /// If it is out of bounds.
    pub fn trit(&self, row: usize, col: usize) -> i8 {
        assert!(row < self.rows && col < self.cols, "({row}, {col}) of [{}, {}]", self.rows, self.cols);
        let unit = (row / TILE_ROWS) * self.units + col / UNIT_COLS;
        let at = unit * UNIT_BYTES + row % TILE_ROWS;
        let bit = |byte: u8| (byte >> (col % UNIT_COLS) & 1) as i8;
        bit(self.tiles[at]) - bit(self.tiles[at + TILE_ROWS])
    }

    fn tile_count(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    fn tile_bytes(&self) -> usize {
        self.units * UNIT_BYTES
    }

    fn tiles(&self, range: std::ops::Range<usize>) -> &[u8] {
        &self.tiles[range.start * self.tile_bytes()..range.end * self.tile_bytes()]
    }

    /// The exact products `out[token][row] = sum over columns of weight * activation`, int32.
    ///
    /// # Panics
    /// If the shapes do not fit: `x.cols() == cols`, `out.len() == x.tokens() * rows`.
    pub fn dot(&self, kernels: &Kernels, pool: &Pool, x: &Activations, scratch: &mut Scratch, out: &mut [i32]) {
        self.multiply(kernels, pool, x, scratch, out, |_, _, sum| sum);
    }

    /// A linear layer's output `out[token][row] = dot * scale / s`, f32, with `s` the token's quantisation factor; where
    /// groups of columns have scales, the sum of their products before the division, groups ascending.
    ///
    /// # Panics
    /// If the shapes do not fit: `x.cols() == cols`, `out.len() == x.tokens() * rows`, scales for all rows and columns.
    pub fn linear(
        &self,
        kernels: &Kernels,
        pool: &Pool,
        x: &Activations,
        scales: &RowScales,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let factors = x.factors();
        match scales {
            RowScales::Uniform(scale) => {
                self.multiply(kernels, pool, x, scratch, out, |token, _, sum| sum as f32 * scale / factors[token]);
            }
            RowScales::PerRow(scales) => {
                assert_eq!(scales.len(), self.rows, "one scale per row");
                let finish = |token: usize, row: usize, sum| sum as f32 * scales[row] / factors[token];
                self.multiply(kernels, pool, x, scratch, out, finish);
            }
            RowScales::Grouped(scales) => {
                assert!(scales.fits(self.rows, self.cols), "scales for [{}, {}]", self.rows, self.cols);
                self.check(kernels, x, out.len());
                self.linear_grouped(kernels, pool, x, scales, scratch, out);
            }
        }
    }

    fn check(&self, kernels: &Kernels, x: &Activations, outputs: usize) {
        assert_eq!(x.cols(), self.cols, "columns of the matrix and the activations");
        assert_eq!(outputs, x.tokens() * self.rows, "outputs of {} tokens and {} rows", x.tokens(), self.rows);
        assert!(kernels.isa == x.isa(), "activations prepared for {}, kernels of {}", x.isa(), kernels.isa);
    }

    fn multiply<T: Send + Copy>(
        &self,
        kernels: &Kernels,
        pool: &Pool,
        x: &Activations,
        scratch: &mut Scratch,
        out: &mut [T],
        finish: impl Fn(usize, usize, i32) -> T + Sync,
    ) {
        self.check(kernels, x, out.len());
        match &kernels.ternary.many {
            Some(many) if x.tokens() >= many.min_tokens => self.multiply_many(many, pool, x, scratch, out, finish),
            _ => self.multiply_few(&kernels.ternary, pool, x, out, finish),
        }
    }

    /// Tasks are runs of tiles; each multiplies up to four tokens per pass over its weights.
    fn multiply_few<T: Send + Copy>(
        &self,
        kernels: &TernaryKernels,
        pool: &Pool,
        x: &Activations,
        out: &mut [T],
        finish: impl Fn(usize, usize, i32) -> T + Sync,
    ) {
        let out = SharedMut::new(out);
        pool.run(self.tile_count().div_ceil(RUN), |_, task| {
            let tiles = task * RUN..((task + 1) * RUN).min(self.tile_count());
            let rows = tiles.start * TILE_ROWS..(tiles.end * TILE_ROWS).min(self.rows);
            let packed = self.tiles(tiles.clone());
            multiply_tiles(kernels, packed, tiles.len(), rows, self.rows, x, &out, &finish);
        });
    }

    /// Decodes the planes to codes once, then runs one task per 16 tokens (and per part of the rows where there are fewer
    /// groups of tokens than threads).
    fn multiply_many<T: Send + Copy>(
        &self,
        many: &ManyKernels,
        pool: &Pool,
        x: &Activations,
        scratch: &mut Scratch,
        out: &mut [T],
        finish: impl Fn(usize, usize, i32) -> T + Sync,
    ) {
        let codes_len = self.decode_codes(many, pool, scratch);
        let parts = self.many_tasks(pool, x.tokens());
        let (codes, code_rows) = (&scratch.codes[..codes_len], self.tile_count() * TILE_ROWS);
        let (workers, out) = (SharedMut::new(&mut scratch.workers), SharedMut::new(out));
        pool.run(parts.tasks(), |worker, task| {
            let (first, rows) = parts.of(task);
            // Parts are whole tiles, so the last ones may be empty.
            if rows.is_empty() {
                return;
            }
            // SAFETY: a worker runs one task at a time.
            let worker = unsafe { &mut workers.slice(worker, 1)[0] };
            let tokens = self.transpose(many, x, first, worker);
            let Worker { transposed, many: work, .. } = worker;
            let columns = &transposed[..self.cols.div_ceil(CHUNK_COLS) * CHUNK_COLS * TOKEN_TILE];
            // SAFETY: CPU requirement as in `multiply_few`; buffers sized by `Scratch::reserve`.
            unsafe { (many.run)(codes, code_rows, rows.clone(), columns, work) };
            let live = rows.start..rows.end.min(self.rows);
            for token in 0..tokens {
                // SAFETY: each task owns its tokens' part of the rows.
                let out = unsafe { out.slice((first + token) * self.rows + live.start, live.len()) };
                let sums = work.sums.iter().skip(token).step_by(TOKEN_TILE);
                for ((out, sum), row) in out.iter_mut().zip(sums).zip(live.clone()) {
                    *out = finish(first + token, row, *sum);
                }
            }
        });
    }

    /// Turns the planes into codes, in parallel; returns their length in the scratch memory.
    fn decode_codes(&self, many: &ManyKernels, pool: &Pool, scratch: &mut Scratch) -> usize {
        let chunks = self.cols.div_ceil(CHUNK_COLS);
        let code_rows = self.tile_count() * TILE_ROWS;
        scratch.reserve(pool.threads(), chunks, code_rows);
        let codes_len = chunks * code_rows * CHUNK_CODES;
        let codes = SharedMut::new(&mut scratch.codes[..codes_len]);
        pool.run(self.tile_count().div_ceil(RUN), |_, task| {
            let tiles = task * RUN..((task + 1) * RUN).min(self.tile_count());
            let (packed, first_row) = (self.tiles(tiles.clone()), tiles.start * TILE_ROWS);
            // SAFETY: every task writes the codes of its own rows only. The CPU requirement holds as in `multiply_few`.
            unsafe { (many.decode)(packed, self.units, &codes, code_rows, first_row) };
        });
        codes_len
    }

    /// Transposes up to 16 tokens from `first` on into a worker's memory; returns how many they are.
    fn transpose(&self, many: &ManyKernels, x: &Activations, first: usize, worker: &mut Worker) -> usize {
        let tokens = TOKEN_TILE.min(x.tokens() - first);
        let transposed = &mut worker.transposed[..self.cols.div_ceil(CHUNK_COLS) * CHUNK_COLS * TOKEN_TILE];
        // SAFETY: CPU requirement as in `multiply_few`; the buffer is sized by `Scratch::reserve`.
        unsafe { (many.transpose)(x.quantized_from(first), x.stride(), tokens, transposed) };
        tokens
    }

    /// How many tokens are shared out: 16 to a task, and the rows in parts where that gives fewer tasks than threads.
    fn many_tasks(&self, pool: &Pool, tokens: usize) -> ManyTasks {
        let token_tiles = tokens.div_ceil(TOKEN_TILE);
        let row_parts = pool.threads().div_ceil(token_tiles).min(self.tile_count());
        let part_rows = self.tile_count().div_ceil(row_parts) * TILE_ROWS;
        ManyTasks { token_tiles, row_parts, part_rows, code_rows: self.tile_count() * TILE_ROWS }
    }
}

/// The tasks of a product of many tokens.
struct ManyTasks {
    token_tiles: usize,
    row_parts: usize,
    part_rows: usize,
    code_rows: usize,
}

impl ManyTasks {
    fn tasks(&self) -> usize {
        self.token_tiles * self.row_parts
    }

    /// The first token and the rows of a task.
    fn of(&self, task: usize) -> (usize, std::ops::Range<usize>) {
        let (tile, part) = (task / self.row_parts, task % self.row_parts);
        let bound = |part: usize| (part * self.part_rows).min(self.code_rows);
        (tile * TOKEN_TILE, bound(part)..bound(part + 1))
    }
}

/// Multiplies `count` tiles, at most [`RUN`], by the prepared activations, four tokens per pass over the weights, and writes
/// the outputs of `live` rows: `out[token][row]`, `rows` to a token.
#[expect(clippy::too_many_arguments, reason = "one product of a task, for weights that are packed and for planes")]
fn multiply_tiles<T: Copy>(
    kernels: &TernaryKernels,
    packed: &[u8],
    count: usize,
    live: std::ops::Range<usize>,
    rows: usize,
    x: &Activations,
    out: &SharedMut<'_, T>,
    finish: &impl Fn(usize, usize, i32) -> T,
) {
    let mut sums = [[0i32; RUN * TILE_ROWS]; 4];
    for first in (0..x.tokens()).step_by(4) {
        let group = first..(first + 4).min(x.tokens());
        let mut prepared: [&[u8]; 4] = [&[]; 4];
        for (slot, token) in prepared.iter_mut().zip(group.clone()) {
            *slot = x.prepared(token);
        }
        let units = packed.len() / count / UNIT_BYTES;
        let mut outputs = sums.each_mut().map(|row| &mut row[..count * TILE_ROWS]);
        // SAFETY: these kernels come from a `Kernels` value, whose ISA the CPU has; the prepared activations are
        // `prepared_len` long for the same padded columns (checked by the callers), the outputs hold whole tiles.
        unsafe { (kernels.few)(packed, units, &prepared[..group.len()], &mut outputs[..group.len()]) };
        for (sums, token) in sums.iter().zip(group) {
            // SAFETY: each task owns its rows of every token.
            let out = unsafe { out.slice(token * rows + live.start, live.len()) };
            for ((out, sum), row) in out.iter_mut().zip(sums).zip(live.clone()) {
                *out = finish(token, row, *sum);
            }
        }
    }
}

/// Memory the many-token kernels need, grown to the largest matrix met and reused for all.
#[derive(Debug, Default)]
pub struct Scratch {
    codes: Vec<u8>,
    workers: Vec<Worker>,
}

#[derive(Debug, Default)]
struct Worker {
    transposed: Vec<i16>,
    many: ManyWork,
    /// Sums over groups, `[rows][16]`.
    totals: Vec<f32>,
}

impl Scratch {
    fn reserve(&mut self, threads: usize, chunks: usize, code_rows: usize) {
        let grow = |len: usize, need: usize| need.max(len);
        self.codes.resize(grow(self.codes.len(), chunks * code_rows * CHUNK_CODES), 0);
        self.workers.resize_with(grow(self.workers.len(), threads), Worker::default);
        for worker in &mut self.workers {
            worker.transposed.resize(grow(worker.transposed.len(), chunks * CHUNK_COLS * TOKEN_TILE), 0);
            worker.many.tables.resize(CHUNK_CODES * 81 * TOKEN_TILE, 0);
            worker.many.partial.resize(grow(worker.many.partial.len(), code_rows * TOKEN_TILE), 0);
            worker.many.sums.resize(grow(worker.many.sums.len(), code_rows * TOKEN_TILE), 0);
        }
    }
}
