//! Many tokens by tables of sums, for kernels of [`Many::Lookup`](super::kernel::Many).
//!
//! The weights are decoded to codes of four trits once per product; then each task multiplies the rows it was given, a tile
//! of tokens at a time, by looking each code up in tables of those tokens' sums: one load and one addition for four weights
//! and all tokens of the tile, and no multiplication.
//!
//! A chunk of 32 columns has 8 tables, which the L1 cache keeps (of the widest tiles most of it) while every row of the task
//! adds its 8 entries to an int16 sum per token. How long those cannot overflow is known: a chunk moves the sum of a token
//! by at most the sum of its activations' sizes. Before the largest of these bounds, added up, passes [`i16::MAX`], the sums
//! are spilled to int32. No chunk passes it alone, `32 * 128 = 4096`; the worst input spills every seventh chunk, most
//! inputs hardly ever.

use super::grouped::GroupScales;
use super::matrix::{Scratch, Sums, TernaryMatrix};
use super::{Activations, TILE_ROWS};
use crate::lines::Lines;
use crate::pool::{Pool, SharedMut};
use std::ops::Range;

/// Columns whose tables are used together: 8 codes of 4.
pub(crate) const CHUNK_COLS: usize = 32;
/// Bytes of codes per row and chunk.
pub(crate) const CHUNK_CODES: usize = 8;
/// Entries of a table.
pub(crate) const ENTRIES: usize = 81;
/// Tiles of a task that decodes.
const RUN: usize = 4;
/// Rows whose sums are turned at a time, so that outputs are whole cache lines.
const TURN_ROWS: usize = 4 * TILE_ROWS;
/// The most rows of a task: their sums, 6 bytes for each of 32 tokens, stay in the L2 cache.
const TASK_ROWS: usize = 3584;

/// The vector-lookup kernels of one ISA for one packed layout.
pub(crate) struct LookupKernels {
    /// Smallest number of tokens for which they beat the other ways.
    pub min_tokens: usize,
    /// How many tokens there must be for 100 places in tiles: a tile takes its time whether it is full or not, a narrow one
    /// some three quarters of what a wide one takes, as which it counts.
    pub min_filled: usize,
    /// Turns whole tiles of so many columns, the first of which begins at `row`, into `codes[chunk][row][8]` with `code_rows`
    /// rows per chunk. Writes those rows only, and only chunks that hold some of the columns.
    pub decode: unsafe fn(tiles: &[u8], cols: usize, codes: &SharedMut<'_, u8>, code_rows: usize, row: usize),
    /// For most tokens.
    pub wide: &'static TokenTile,
    /// For the last ones, where they fit it.
    pub narrow: &'static TokenTile,
}

impl LookupKernels {
    /// Whether they beat the other ways for so many tokens.
    pub(super) fn pays(&self, tokens: usize) -> bool {
        let wide = self.wide.tokens;
        let last = match tokens % wide {
            0 => 0,
            rest if rest <= self.narrow.tokens => wide * 3 / 4,
            _ => wide,
        };
        let places = tokens / wide * wide + last;
        tokens >= self.min_tokens && 100 * tokens >= self.min_filled * places
    }

    fn tile(&self, tokens: usize) -> &'static TokenTile {
        if tokens <= self.narrow.tokens { self.narrow } else { self.wide }
    }
}

/// The kernels for some tokens that share each lookup, `T` of them.
pub(crate) struct TokenTile {
    /// `T`, a multiple of 16.
    pub tokens: usize,
    /// Transposes that many tokens (`stride` apart in `q`, fewer where `tokens` says so) to `transposed[column][T]`.
    pub transpose: unsafe fn(q: &[i8], stride: usize, tokens: usize, transposed: &mut [i16]),
    /// Fills `tables[8][81][T]` from `columns[32][T]`; returns the largest sum of a token's sizes.
    pub tabulate: unsafe fn(columns: &[i16], tables: &mut [i16]) -> i32,
    /// Adds the entries that each row's codes, below 81, name to `partial[row][T]`, or puts them there where it `begins`.
    pub add: AddEntries,
    /// Adds partial sums to `sums[row][T]`, or puts them there where it is the `first` time.
    pub spill: unsafe fn(partial: &[i16], first: bool, sums: &mut [i32]),
    /// `by_token[T][rows]` from partial sums and, where there are any, spilled ones; `rows` in whole tiles.
    pub turn: unsafe fn(partial: &[i16], sums: Option<&[i32]>, by_token: &mut [i32]),
}

type AddEntries = unsafe fn(codes: &[[u8; CHUNK_CODES]], tables: &[i16], begins: bool, partial: &mut [i16]);

/// One worker's memory.
#[derive(Debug, Default)]
struct Worker {
    transposed: Lines<i16>,
    /// `[8][81][T]`. An entry is in one cache line.
    tables: Lines<i16>,
    /// `[rows][T]`.
    partial: Lines<i16>,
    /// `[rows][T]`.
    sums: Lines<i32>,
    /// Whether `sums` holds any.
    spilled: bool,
    /// `[T][TURN_ROWS]`.
    by_token: Lines<i32>,
    /// Sums over groups, `[T][rows]`.
    totals: Vec<f32>,
}

/// Memory for products by lookup, grown to the largest matrix met and reused for all.
#[derive(Debug, Default)]
pub(crate) struct LookupScratch {
    codes: Vec<u8>,
    workers: Vec<Worker>,
}

impl LookupScratch {
    fn reserve(&mut self, threads: usize, codes: usize) {
        self.codes.resize(codes.max(self.codes.len()), 0);
        self.workers.resize_with(threads.max(self.workers.len()), Worker::default);
    }
}

impl Worker {
    fn reserve(&mut self, columns: usize, rows: usize, tokens: usize) {
        self.transposed.resize(columns * tokens);
        self.tables.resize(CHUNK_CODES * ENTRIES * tokens);
        self.partial.resize(rows * tokens);
        self.sums.resize(rows * tokens);
        self.by_token.resize(tokens * TURN_ROWS);
    }
}

/// A product by lookup whose codes are ready.
struct Lookup<'a> {
    tile: &'static TokenTile,
    codes: &'a [[u8; CHUNK_CODES]],
    code_rows: usize,
    columns: usize,
}

impl TernaryMatrix {
    /// Decodes the weights to codes once, then runs one task per tile of tokens and part of the rows.
    pub(super) fn multiply_by_lookup<T: Send>(
        &self,
        kernels: &LookupKernels,
        pool: &Pool,
        x: &Activations,
        scratch: &mut Scratch,
        out: &mut [T],
        finish: impl Fn(Sums<'_>, &mut [T]) + Sync,
    ) {
        self.by_lookup(kernels, pool, x, scratch, out, |lookup, worker, part, out| {
            lookup.add_up(0..lookup.columns / CHUNK_COLS, part.rows.clone(), worker);
            for first in part.live.clone().step_by(TURN_ROWS) {
                let rows = first..(first + TURN_ROWS).min(part.live.end);
                let padded = rows.len().next_multiple_of(TILE_ROWS);
                lookup.turn(worker, first - part.rows.start, padded);
                for (token, sums) in worker.by_token.chunks_exact(padded).take(part.tokens).enumerate() {
                    let token = part.first + token;
                    // SAFETY: each task owns its tokens' part of the rows.
                    let out = unsafe { out.slice(token * self.rows() + rows.start, rows.len()) };
                    finish(Sums { token, row: rows.start, sums: &sums[..rows.len()] }, out);
                }
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
        self.by_lookup(kernels, pool, x, scratch, out, |lookup, worker, part, out| {
            let rows = part.rows.len();
            worker.totals.clear();
            worker.totals.resize(part.tokens * rows, 0.0);
            for group in 0..scales.groups() {
                let chunks = group * scales.cols() / CHUNK_COLS..(group + 1) * scales.cols() / CHUNK_COLS;
                lookup.add_up(chunks, part.rows.clone(), worker);
                let scales = &scales.group(group)[part.live.clone()];
                for (block, scales) in scales.chunks(TURN_ROWS).enumerate() {
                    let padded = scales.len().next_multiple_of(TILE_ROWS);
                    lookup.turn(worker, block * TURN_ROWS, padded);
                    for (sums, totals) in worker.by_token.chunks_exact(padded).zip(worker.totals.chunks_exact_mut(rows))
                    {
                        for ((total, sum), scale) in totals[block * TURN_ROWS..].iter_mut().zip(sums).zip(scales) {
                            *total += *sum as f32 * scale;
                        }
                    }
                }
            }
            for (token, totals) in worker.totals.chunks_exact_mut(rows).enumerate() {
                let at = (part.first + token) * self.rows() + part.live.start;
                // SAFETY: each task owns its tokens' part of the rows.
                let out = unsafe { out.slice(at, part.live.len()) };
                let factor = x.factors()[part.first + token];
                totals.iter_mut().for_each(|total| *total /= factor);
                for (totals, out) in totals.chunks(TILE_ROWS).zip(out.chunks_mut(TILE_ROWS)) {
                    put(&totals[..out.len()], out);
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
        let parts = Parts::new(self, pool, kernels.wide.tokens, x.tokens());
        let columns = self.cols().next_multiple_of(CHUNK_COLS);
        let codes = scratch.codes[..codes_len].as_chunks::<CHUNK_CODES>().0;
        let (workers, out) = (SharedMut::new(&mut scratch.workers), SharedMut::new(out));
        pool.run(parts.tasks(x.tokens()), |worker, number| {
            let part = parts.part(number, x.tokens(), self.rows());
            // Parts are whole tiles, so the last ones may be empty.
            if part.live.is_empty() {
                return;
            }
            // SAFETY: a worker runs one task at a time.
            let worker = unsafe { &mut workers.slice(worker, 1)[0] };
            let tile = kernels.tile(part.tokens);
            worker.reserve(columns, part.rows.len(), tile.tokens);
            // SAFETY: these kernels come from a `Kernels` value, whose ISA the CPU has; the buffer holds all columns, and
            // activations are padded to no fewer.
            unsafe { (tile.transpose)(x.quantized_from(part.first), x.stride(), part.tokens, &mut worker.transposed) };
            let lookup = Lookup { tile, codes, code_rows: parts.code_rows, columns };
            task(&lookup, worker, &part, &out);
        });
    }

    /// Turns the weights into codes, in parallel; returns their length in the scratch memory.
    fn decode_codes(&self, kernels: &LookupKernels, pool: &Pool, scratch: &mut LookupScratch) -> usize {
        let chunks = self.cols().div_ceil(CHUNK_COLS);
        let code_rows = self.tile_count() * TILE_ROWS;
        let codes_len = chunks * code_rows * CHUNK_CODES;
        scratch.reserve(pool.threads(), codes_len);
        let codes = SharedMut::new(&mut scratch.codes[..codes_len]);
        pool.run(self.tile_count().div_ceil(RUN), |_, task| {
            let tiles = task * RUN..((task + 1) * RUN).min(self.tile_count());
            let (packed, first_row) = (self.tiles(tiles.clone()), tiles.start * TILE_ROWS);
            // SAFETY: every task writes the codes of its own rows only. The CPU has the ISA, as in `by_lookup`.
            unsafe { (kernels.decode)(packed, self.cols(), &codes, code_rows, first_row) };
        });
        codes_len
    }
}

impl Lookup<'_> {
    /// Adds up the columns of some chunks, into the worker's partial and spilled sums.
    fn add_up(&self, chunks: Range<usize>, rows: Range<usize>, worker: &mut Worker) {
        let (tokens, limit) = (self.tile.tokens, i32::from(i16::MAX));
        let Worker { transposed, tables, partial, sums, spilled, .. } = worker;
        *spilled = false;
        let mut reach = 0;
        for chunk in chunks.clone() {
            let columns = &transposed[chunk * CHUNK_COLS * tokens..(chunk + 1) * CHUNK_COLS * tokens];
            let codes = &self.codes[chunk * self.code_rows..][rows.clone()];
            // SAFETY: the CPU has the ISA of these kernels, the buffers are of the size for these rows and tokens
            // (`Worker::reserve`), and codes come from `decode`.
            unsafe {
                let moved = (self.tile.tabulate)(columns, tables);
                let overflows = reach + moved > limit;
                if overflows {
                    (self.tile.spill)(partial, !*spilled, sums);
                    *spilled = true;
                }
                let begins = overflows || chunk == chunks.start;
                reach = moved + if begins { 0 } else { reach };
                (self.tile.add)(codes, tables, begins, partial);
            }
        }
    }

    /// `worker.by_token[T][rows]` from the sums of `rows` rows from `first` on.
    fn turn(&self, worker: &mut Worker, first: usize, rows: usize) {
        let tokens = self.tile.tokens;
        let of_rows = first * tokens..(first + rows) * tokens;
        let sums = worker.spilled.then(|| &worker.sums[of_rows.clone()]);
        // SAFETY: as in `add_up`; the same rows and tokens on both sides.
        unsafe { (self.tile.turn)(&worker.partial[of_rows], sums, &mut worker.by_token[..tokens * rows]) };
    }
}

/// How a product is shared out: a tile of tokens to a task, and the rows in parts, as many as leave no thread without a task
/// and no task with more than [`TASK_ROWS`].
struct Parts {
    tokens: usize,
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
    fn new(matrix: &TernaryMatrix, pool: &Pool, tile_tokens: usize, tokens: usize) -> Parts {
        let token_tiles = tokens.div_ceil(tile_tokens);
        let code_rows = matrix.tile_count() * TILE_ROWS;
        let wanted = pool.threads().div_ceil(token_tiles).max(code_rows.div_ceil(TASK_ROWS));
        let row_parts = wanted.min(matrix.tile_count());
        let part_rows = matrix.tile_count().div_ceil(row_parts) * TILE_ROWS;
        Parts { tokens: tile_tokens, row_parts, part_rows, code_rows }
    }

    fn tasks(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.tokens) * self.row_parts
    }

    fn part(&self, task: usize, tokens: usize, rows: usize) -> Part {
        let (tile, part) = (task / self.row_parts, task % self.row_parts);
        let bound = |part: usize| (part * self.part_rows).min(self.code_rows);
        let (first, range) = (tile * self.tokens, bound(part)..bound(part + 1));
        let live = range.start.min(rows)..range.end.min(rows);
        Part { first, tokens: self.tokens.min(tokens - first), rows: range, live }
    }
}
