//! Many tokens by tables of sums, for kernels of [`Many::Lookup`](super::kernel::Many).
//!
//! The planes are decoded to codes of four trits once per product; then each task multiplies the rows it was given, 16
//! tokens at a time, by looking each code up in tables of those tokens' sums.

use super::grouped::GroupScales;
use super::matrix::{Scratch, Sums, TernaryMatrix};
use super::{Activations, TILE_ROWS};
use crate::lines::Lines;
use crate::pool::{Pool, SharedMut};
use std::ops::Range;

/// Tokens that share one lookup.
pub(crate) const TOKEN_TILE: usize = 16;
/// Columns whose tables are in the L1 cache together: 8 codes of 4.
pub(crate) const CHUNK_COLS: usize = 32;
/// Bytes of codes per row and chunk.
pub(crate) const CHUNK_CODES: usize = 8;
/// Entries of a table.
pub(crate) const ENTRIES: usize = 81;
/// Tiles of a task that decodes.
const RUN: usize = 4;

/// The vector-lookup kernels of one ISA.
pub(crate) struct LookupKernels {
    /// Smallest number of tokens for which they beat `few`.
    pub min_tokens: usize,
    /// Turns whole tiles, the first of which begins at `row`, into `codes[chunk][row][8]` with `code_rows` rows per chunk.
    /// Writes those rows only.
    pub decode: unsafe fn(tiles: &[u8], units: usize, codes: &SharedMut<'_, u8>, code_rows: usize, row: usize),
    /// Transposes 16 tokens (`stride` apart in `q`, fewer where `tokens` says so) to `transposed[column][16]`.
    pub transpose: unsafe fn(q: &[i8], stride: usize, tokens: usize, transposed: &mut [i16]),
    /// `sums[row][16]` for `rows` of the codes.
    pub run: unsafe fn(codes: &[u8], code_rows: usize, rows: Range<usize>, transposed: &[i16], work: &mut LookupWork),
}

/// One worker's memory for the lookups.
#[derive(Debug, Default)]
pub(crate) struct LookupWork {
    /// `[8][81][16]`. An entry of 32 bytes is in one cache line.
    pub(crate) tables: Lines<i16>,
    /// `[rows][16]`.
    pub(crate) partial: Lines<i16>,
    /// `[rows][16]`.
    pub(crate) sums: Vec<i32>,
}

#[derive(Debug, Default)]
struct Worker {
    transposed: Vec<i16>,
    lookup: LookupWork,
    /// Sums over groups, `[rows][16]`.
    totals: Vec<f32>,
    /// One token's sums.
    token: Vec<i32>,
}

/// Memory for products by lookup, grown to the largest matrix met and reused for all.
#[derive(Debug, Default)]
pub(crate) struct LookupScratch {
    codes: Vec<u8>,
    workers: Vec<Worker>,
}

impl LookupScratch {
    fn reserve(&mut self, threads: usize, chunks: usize, code_rows: usize) {
        let grow = |len: usize, need: usize| need.max(len);
        self.codes.resize(grow(self.codes.len(), chunks * code_rows * CHUNK_CODES), 0);
        self.workers.resize_with(grow(self.workers.len(), threads), Worker::default);
        for worker in &mut self.workers {
            worker.transposed.resize(grow(worker.transposed.len(), chunks * CHUNK_COLS * TOKEN_TILE), 0);
            worker.lookup.tables.resize(CHUNK_CODES * ENTRIES * TOKEN_TILE);
            worker.lookup.partial.resize(grow(worker.lookup.partial.len(), code_rows * TOKEN_TILE));
            worker.lookup.sums.resize(grow(worker.lookup.sums.len(), code_rows * TOKEN_TILE), 0);
        }
    }
}

/// A product by lookup whose codes are ready.
struct Lookup<'a> {
    kernels: &'a LookupKernels,
    codes: &'a [u8],
    code_rows: usize,
    columns: usize,
}

impl TernaryMatrix {
    /// Decodes the planes to codes once, then runs one task per 16 tokens (and per part of the rows where there are fewer
    /// groups of tokens than threads).
    pub(super) fn multiply_by_lookup<T: Send>(
        &self,
        kernels: &LookupKernels,
        pool: &Pool,
        x: &Activations,
        scratch: &mut Scratch,
        out: &mut [T],
        finish: impl Fn(Sums<'_>, &mut [T]) + Sync,
    ) {
        self.by_lookup(kernels, pool, x, scratch, out, |lookup, worker, tasks, out| {
            lookup.sums(0..lookup.columns / CHUNK_COLS, tasks.rows.clone(), worker);
            let Worker { lookup: LookupWork { sums, .. }, token: row, .. } = worker;
            for token in 0..tasks.tokens {
                row.clear();
                row.extend(sums.iter().skip(token).step_by(TOKEN_TILE).take(tasks.live.len()));
                let token = tasks.first + token;
                // SAFETY: each task owns its tokens' part of the rows.
                let out = unsafe { out.slice(token * self.rows() + tasks.live.start, tasks.live.len()) };
                finish(Sums { token, row: tasks.live.start, sums: row }, out);
            }
        });
    }

    /// As [`TernaryMatrix::multiply_by_lookup`], group by group.
    pub(super) fn multiply_groups_by_lookup(
        &self,
        kernels: &LookupKernels,
        pool: &Pool,
        x: &Activations,
        scales: &GroupScales,
        scratch: &mut Scratch,
        (out, put): (&mut [f32], impl Fn(&[f32], &mut [f32]) + Sync),
    ) {
        self.by_lookup(kernels, pool, x, scratch, out, |lookup, worker, tasks, out| {
            worker.totals.clear();
            worker.totals.resize(tasks.rows.len() * TOKEN_TILE, 0.0);
            for group in 0..scales.groups() {
                let chunks = group * scales.cols() / CHUNK_COLS..(group + 1) * scales.cols() / CHUNK_COLS;
                lookup.sums(chunks, tasks.rows.clone(), worker);
                worker.add_scaled(&scales.group(group)[tasks.live.clone()]);
            }
            for token in 0..tasks.tokens {
                let at = (tasks.first + token) * self.rows() + tasks.live.start;
                // SAFETY: each task owns its tokens' part of the rows.
                let out = unsafe { out.slice(at, tasks.live.len()) };
                let factor = x.factors()[tasks.first + token];
                let mut totals = worker.totals.iter().skip(token).step_by(TOKEN_TILE);
                for out in out.chunks_mut(TILE_ROWS) {
                    let mut y = [0.0; TILE_ROWS];
                    y.iter_mut().zip(totals.by_ref().take(out.len())).for_each(|(y, total)| *y = total / factor);
                    put(&y[..out.len()], out);
                }
            }
        });
    }

    fn by_lookup<T: Send>(
        &self,
        kernels: &LookupKernels,
        pool: &Pool,
        x: &Activations,
        scratch: &mut Scratch,
        out: &mut [T],
        task: impl Fn(&Lookup<'_>, &mut Worker, &Part, &SharedMut<'_, T>) + Sync,
    ) {
        let scratch = &mut scratch.lookup;
        let codes_len = self.decode_codes(kernels, pool, scratch);
        let parts = Parts::new(self, pool, x.tokens());
        let columns = self.cols().next_multiple_of(CHUNK_COLS);
        let lookup = Lookup { kernels, codes: &scratch.codes[..codes_len], code_rows: parts.code_rows, columns };
        let (workers, out) = (SharedMut::new(&mut scratch.workers), SharedMut::new(out));
        pool.run(parts.tasks(), |worker, number| {
            let part = parts.part(number, x.tokens(), self.rows());
            // Parts are whole tiles, so the last ones may be empty.
            if part.rows.is_empty() {
                return;
            }
            // SAFETY: a worker runs one task at a time.
            let worker = unsafe { &mut workers.slice(worker, 1)[0] };
            let transposed = &mut worker.transposed[..columns * TOKEN_TILE];
            // SAFETY: these kernels come from a `Kernels` value, whose ISA the CPU has; the buffer holds all columns, and
            // activations are padded to no fewer.
            unsafe { (kernels.transpose)(x.quantized_from(part.first), x.stride(), part.tokens, transposed) };
            task(&lookup, worker, &part, &out);
        });
    }

    /// Turns the planes into codes, in parallel; returns their length in the scratch memory.
    fn decode_codes(&self, kernels: &LookupKernels, pool: &Pool, scratch: &mut LookupScratch) -> usize {
        let chunks = self.cols().div_ceil(CHUNK_COLS);
        let code_rows = self.tile_count() * TILE_ROWS;
        scratch.reserve(pool.threads(), chunks, code_rows);
        let codes_len = chunks * code_rows * CHUNK_CODES;
        let codes = SharedMut::new(&mut scratch.codes[..codes_len]);
        let units = super::padded_cols(self.cols()) / super::UNIT_COLS;
        pool.run(self.tile_count().div_ceil(RUN), |_, task| {
            let tiles = task * RUN..((task + 1) * RUN).min(self.tile_count());
            let (packed, first_row) = (self.tiles(tiles.clone()), tiles.start * TILE_ROWS);
            // SAFETY: every task writes the codes of its own rows only. The CPU has the ISA, as in `by_lookup`.
            unsafe { (kernels.decode)(packed, units, &codes, code_rows, first_row) };
        });
        codes_len
    }
}

impl Lookup<'_> {
    /// Sums of the columns of some chunks, left in the worker's memory.
    fn sums(&self, chunks: Range<usize>, rows: Range<usize>, worker: &mut Worker) {
        const COLUMNS: usize = CHUNK_COLS * TOKEN_TILE;
        let codes = &self.codes[chunks.start * self.code_rows * CHUNK_CODES..chunks.end * self.code_rows * CHUNK_CODES];
        let columns = &worker.transposed[chunks.start * COLUMNS..chunks.end * COLUMNS];
        // SAFETY: the CPU has the ISA of these kernels; the codes and the columns are of the same whole chunks, and the
        // buffers are sized for all of them by `LookupScratch::reserve`.
        unsafe { (self.kernels.run)(codes, self.code_rows, rows, columns, &mut worker.lookup) };
    }
}

impl Worker {
    /// Adds one group's sums, times the scales of the rows, to the totals.
    fn add_scaled(&mut self, scales: &[f32]) {
        let sums = self.lookup.sums.as_chunks::<TOKEN_TILE>().0;
        let totals = self.totals.as_chunks_mut::<TOKEN_TILE>().0;
        for ((totals, sums), scale) in totals.iter_mut().zip(sums).zip(scales) {
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total += *sum as f32 * scale;
            }
        }
    }
}

/// How a product is shared out: 16 tokens to a task, and the rows in parts where that gives fewer tasks than threads.
struct Parts {
    token_tiles: usize,
    row_parts: usize,
    part_rows: usize,
    code_rows: usize,
}

/// Some tokens and some rows.
struct Part {
    first: usize,
    tokens: usize,
    /// Rows of whole tiles.
    rows: Range<usize>,
    /// Those that the matrix has.
    live: Range<usize>,
}

impl Parts {
    fn new(matrix: &TernaryMatrix, pool: &Pool, tokens: usize) -> Parts {
        let token_tiles = tokens.div_ceil(TOKEN_TILE);
        let row_parts = pool.threads().div_ceil(token_tiles).min(matrix.tile_count());
        let part_rows = matrix.tile_count().div_ceil(row_parts) * TILE_ROWS;
        Parts { token_tiles, row_parts, part_rows, code_rows: matrix.tile_count() * TILE_ROWS }
    }

    fn tasks(&self) -> usize {
        self.token_tiles * self.row_parts
    }

    fn part(&self, task: usize, tokens: usize, rows: usize) -> Part {
        let (tile, part) = (task / self.row_parts, task % self.row_parts);
        let bound = |part: usize| (part * self.part_rows).min(self.code_rows);
        let (first, range) = (tile * TOKEN_TILE, bound(part)..bound(part + 1));
        let live = range.start.min(rows)..range.end.min(rows);
        Part { first, tokens: TOKEN_TILE.min(tokens - first), rows: range, live }
    }
}
