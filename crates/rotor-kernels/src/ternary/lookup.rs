//! Many tokens by tables of sums, for kernels of [`Many::Lookup`](super::kernel::Many).
//!
//! The weights are decoded to codes of a few trits once per product; then each task multiplies the rows it was given, a tile
//! of tokens at a time, by looking each code up in tables of those tokens' sums: no multiplication. Two kinds of tables:
//!
//! - 81 sums of 4 columns, in memory ([`SUMS_81`]). An entry is a vector with all tokens of the tile; a load and an addition
//!   are four weights of a row times all of them.
//! - 27 sums of 3 columns, in a register (`avx512_permute.rs`). A table is of one token; a permutation and an addition are three
//!   weights of each of 32 rows times that token, or six where the sums fit int8.
//!
//! A chunk of columns has tables that the caches keep while every row of the task adds its entries to an int16 sum per
//! token. How long those cannot overflow is known: a chunk moves the sum of a token by at most the sum of its activations'
//! sizes. Before the largest of these bounds, added up, passes [`i16::MAX`], the sums are spilled to int32. No chunk passes
//! it alone: of 32 columns `32 * 128 = 4096`, of 96 columns 12288; the worst input spills every seventh or second chunk, most
//! inputs hardly ever.

use super::TILE_ROWS;
use super::grouped::Groups;
use super::matrix::{Scratch, Sums, TernaryMatrix};
use crate::dispatch::Kernels;
use crate::epilogue::Epilogue;
use crate::lines::Lines;
use crate::pool::{Pool, SharedMut};
use std::ops::Range;

/// Columns whose tables are used together.
#[derive(Clone, Copy)]
pub(crate) struct Chunk {
    pub cols: usize,
    /// Bytes of a row's codes.
    pub codes: usize,
    /// Numbers of a token's tables, and of what goes with them.
    pub sums: usize,
}

/// 8 codes of 4 columns, each a byte below 81, and 8 tables.
pub(crate) const SUMS_81: Chunk = Chunk { cols: CHUNK_COLS, codes: CHUNK_CODES, sums: CHUNK_CODES * ENTRIES };
/// Columns of a chunk of [`SUMS_81`].
pub(crate) const CHUNK_COLS: usize = 32;
/// Bytes of its codes per row.
pub(crate) const CHUNK_CODES: usize = 8;
/// Entries of one of its tables.
pub(crate) const ENTRIES: usize = 81;
/// Tiles of a task that decodes.
const RUN: usize = 4;
/// Rows whose sums are turned at a time, so that outputs are whole cache lines.
const TURN_ROWS: usize = 4 * TILE_ROWS;
/// The most sums of a task, those of 3584 rows with 32 tokens: 6 bytes each, they stay in the L2 cache.
const TASK_SUMS: usize = 3584 * 32;

/// The vector-lookup kernels of one ISA for one packed layout.
pub(crate) struct LookupKernels {
    /// Smallest number of tokens for which they beat the other ways.
    pub min_tokens: usize,
    /// How many tokens there must be for 100 places in tiles: a tile takes its time whether it is full or not.
    pub min_filled: usize,
    /// What `decode` and the tiles agree on.
    pub chunk: Chunk,
    /// Turns whole tiles of so many columns, the first of which begins at `row`, into codes: `code_rows` rows per chunk, the
    /// codes of 32 rows side by side. Writes those rows only, and only chunks that hold some of the columns.
    pub decode: DecodeTiles,
    /// Ascending: the last one is for most tokens, and the first that has room for those that are left.
    pub tiles: &'static [TokenTile],
}

impl LookupKernels {
    /// Whether they beat the other ways for so many tokens.
    pub(super) fn pays(&self, tokens: usize) -> bool {
        let (most, left) = (self.most_tokens(), tokens % self.most_tokens());
        let places = tokens / most * most + if left == 0 { 0 } else { self.tile(left).places };
        tokens >= self.min_tokens && 100 * tokens >= self.min_filled * places
    }

    fn most_tokens(&self) -> usize {
        self.tiles.last().map_or(1, |tile| tile.tokens)
    }

    fn tile(&self, tokens: usize) -> &'static TokenTile {
        self.tiles.iter().find(|tile| tokens <= tile.tokens).expect("a tile for as many tokens as a task has")
    }
}

/// The kernels for some tokens that share each lookup, `T` of them.
pub(crate) struct TokenTile {
    /// `T`.
    pub tokens: usize,
    /// How many tokens the widest tile could multiply in the same time, or about.
    pub places: usize,
    /// Arranges that many tokens (`stride` apart in `q`, fewer where `tokens` says so) as `tabulate` wants them, chunk by
    /// chunk, in memory for a number of each column and token.
    pub arrange: unsafe fn(q: &[i8], stride: usize, tokens: usize, arranged: &mut [i16]),
    /// Fills the tables of a chunk from its arranged columns; returns the largest sum of a token's sizes.
    pub tabulate: unsafe fn(arranged: &[i16], tables: &mut [i16]) -> i32,
    /// Adds the entries that each row's codes, made by `decode`, name to the rows' partial sums, or puts them there
    /// where it `begins`. Those of 32 rows and all tokens lie side by side.
    pub add: AddEntries,
    /// Adds partial sums to `sums`, which lie as they do, or puts them there where it is the `first` time.
    pub spill: unsafe fn(partial: &[i16], first: bool, sums: &mut [i32]),
    /// `by_token[T][rows]` from partial sums and, where there are any, spilled ones; `rows` in whole tiles.
    pub turn: unsafe fn(partial: &[i16], sums: Option<&[i32]>, by_token: &mut [i32]),
}

/// See [`LookupKernels::decode`].
pub(crate) type DecodeTiles =
    unsafe fn(tiles: &[u8], cols: usize, codes: &SharedMut<'_, u8>, code_rows: usize, row: usize);

type AddEntries = unsafe fn(codes: &[u8], tables: &[i16], begins: bool, partial: &mut [i16]);

/// One worker's memory.
#[derive(Debug, Default)]
pub(super) struct Worker {
    pub(super) arranged: Lines<i16>,
    /// Of one chunk. A vector is in one cache line.
    pub(super) tables: Lines<i16>,
    /// One for each row and token.
    partial: Lines<i16>,
    /// As many.
    pub(super) sums: Lines<i32>,
    /// Whether `sums` holds any.
    spilled: bool,
    /// `[T][TURN_ROWS]`.
    by_token: Lines<i32>,
    /// Sums over groups, `[T][rows]`.
    pub(super) totals: Vec<f32>,
}

/// Memory for products by lookup, grown to the largest matrix met and reused for all.
#[derive(Debug, Default)]
pub(crate) struct LookupScratch {
    pub(super) codes: Lines<u8>,
    pub(super) workers: Vec<Worker>,
}

impl LookupScratch {
    fn reserve(&mut self, threads: usize, codes: usize) {
        self.codes.resize(codes);
        self.workers.resize_with(threads.max(self.workers.len()), Worker::default);
    }
}

impl Worker {
    fn reserve(&mut self, chunk: Chunk, columns: usize, rows: usize, tokens: usize) {
        self.arranged.resize(columns * tokens);
        self.tables.resize(chunk.sums * tokens);
        self.partial.resize(rows * tokens);
        self.sums.resize(rows * tokens);
        self.by_token.resize(tokens * TURN_ROWS);
    }
}

/// Weights that can be turned into codes.
pub(super) trait Coded: Sync {
    /// Rows.
    fn rows(&self) -> usize;

    /// Columns, in the order of the codes.
    fn cols(&self) -> usize;

    /// In how many parts rows are turned into codes.
    fn parts(&self) -> usize;

    /// Writes the codes of a part's rows, as [`LookupKernels::decode`] says.
    fn decode(&self, part: usize, codes: &SharedMut<'_, u8>, code_rows: usize);
}

/// Tiles, and what turns them into codes.
pub(super) struct CodedTiles<'a> {
    pub(super) matrix: &'a TernaryMatrix,
    pub(super) decode: DecodeTiles,
}

impl Coded for CodedTiles<'_> {
    fn rows(&self) -> usize {
        self.matrix.rows()
    }

    fn cols(&self) -> usize {
        self.matrix.cols()
    }

    fn parts(&self) -> usize {
        self.matrix.tile_count().div_ceil(RUN)
    }

    fn decode(&self, part: usize, codes: &SharedMut<'_, u8>, code_rows: usize) {
        let tiles = part * RUN..((part + 1) * RUN).min(self.matrix.tile_count());
        let (packed, first_row) = (self.matrix.tiles(tiles.clone()), tiles.start * TILE_ROWS);
        // SAFETY: every part writes the codes of its own rows only. The kernel comes from a `Kernels` value, whose ISA the CPU has.
        unsafe { (self.decode)(packed, self.matrix.cols(), codes, code_rows, first_row) };
    }
}

/// Rows of int8 values that are multiplied, those of a token's digits together.
#[derive(Clone, Copy)]
pub(super) struct QuantizedRows<'a> {
    pub(super) values: &'a [i8],
    /// From one row to the next, no less than the columns in whole chunks.
    pub(super) stride: usize,
    pub(super) count: usize,
    /// Rows of a token.
    pub(super) digits: usize,
}

/// A product by lookup whose codes are ready.
struct Lookup<'a> {
    tile: &'static TokenTile,
    chunk: Chunk,
    codes: &'a [u8],
    code_rows: usize,
    columns: usize,
}

/// Decodes the weights to codes once, then runs one task per tile of tokens and part of the rows.
pub(super) fn multiply_by_lookup<T: Send>(
    weights: &impl Coded,
    kernels: &LookupKernels,
    pool: &Pool,
    x: QuantizedRows<'_>,
    scratch: &mut LookupScratch,
    out: &mut [T],
    finish: impl Fn(Sums<'_>, &mut [T]) + Sync,
) {
    by_lookup(weights, kernels, pool, x, scratch, out, |lookup, worker, part, out| {
        lookup.add_up(0..lookup.columns / lookup.chunk.cols, part.rows.clone(), worker);
        for first in part.live.clone().step_by(TURN_ROWS) {
            let rows = first..(first + TURN_ROWS).min(part.live.end);
            let padded = rows.len().next_multiple_of(TILE_ROWS);
            lookup.turn(worker, first - part.rows.start, padded);
            for (token, sums) in worker.by_token.chunks_exact(padded).take(part.tokens).enumerate() {
                let token = part.first + token;
                // SAFETY: each task owns its tokens' part of the rows.
                let out = unsafe { out.slice(token * weights.rows() + rows.start, rows.len()) };
                finish(Sums { token, row: rows.start, sums: &sums[..rows.len()] }, out);
            }
        }
    });
}

impl TernaryMatrix {
    /// As [`multiply_by_lookup`], group by group.
    pub(super) fn multiply_groups_by_lookup(
        &self,
        kernels: &Kernels,
        lookup: &LookupKernels,
        pool: &Pool,
        groups: Groups<'_>,
        scratch: &mut Scratch,
        (epilogue, out): (Epilogue, &mut [f32]),
    ) {
        let x = groups.x;
        let digits = x.precision().digits();
        let weights = CodedTiles { matrix: self, decode: lookup.decode };
        by_lookup(&weights, lookup, pool, x.quantized_rows(), &mut scratch.lookup, out, |lookup, worker, part, out| {
            let rows = part.rows.len();
            // Parts are whole tokens, so that no token's digits are parted.
            let tokens = part.first / digits..(part.first + part.tokens) / digits;
            worker.totals.clear();
            worker.totals.resize(tokens.len() * rows, 0.0);
            for columns in groups.columns() {
                let col = columns.start;
                let chunks = col / lookup.chunk.cols..columns.end.min(self.cols()).div_ceil(lookup.chunk.cols);
                lookup.add_up(chunks, part.rows.clone(), worker);
                for first in part.live.clone().step_by(TURN_ROWS) {
                    let live = first..(first + TURN_ROWS).min(part.live.end);
                    let (padded, from) = (live.len().next_multiple_of(TILE_ROWS), first - part.rows.start);
                    lookup.turn(worker, from, padded);
                    let sums = worker.by_token.chunks_exact(padded * digits);
                    let totals = worker.totals.chunks_exact_mut(rows);
                    for (sums, totals) in sums.zip(totals) {
                        let digit = |digit: usize| sums.get(digit * padded..).unwrap_or(&[]);
                        groups.add(kernels, (&live, col), std::array::from_fn(digit), &mut totals[from..]);
                    }
                }
            }
            for (totals, token) in worker.totals.chunks_exact_mut(rows).zip(tokens) {
                let at = token * self.rows() + part.live.start;
                // SAFETY: each task owns its tokens' part of the rows.
                let out = unsafe { out.slice(at, part.live.len()) };
                let totals = &mut totals[..out.len()];
                groups.finish(token, part.live.clone(), totals);
                epilogue.apply(kernels, totals, out);
            }
        });
    }
}

fn by_lookup<T: Send>(
    weights: &impl Coded,
    kernels: &LookupKernels,
    pool: &Pool,
    x: QuantizedRows<'_>,
    scratch: &mut LookupScratch,
    out: &mut [T],
    task: impl Fn(&Lookup<'_>, &mut Worker, &Part, &SharedMut<'_, T>) + Sync,
) {
    let codes_len = decode_all(weights, (kernels.chunk.cols, kernels.chunk.codes), pool, scratch);
    let tile_tokens = kernels.most_tokens() / x.digits * x.digits;
    let parts = Parts::new(weights.rows(), pool, (tile_tokens, TASK_SUMS / tile_tokens), x.count);
    let columns = weights.cols().next_multiple_of(kernels.chunk.cols);
    let codes = &scratch.codes[..codes_len];
    let (workers, out) = (SharedMut::new(&mut scratch.workers), SharedMut::new(out));
    pool.run(parts.tasks(x.count), |worker, number| {
        let part = parts.part(number, x.count, weights.rows());
        // Parts are whole tiles, so the last ones may be empty.
        if part.live.is_empty() {
            return;
        }
        // SAFETY: a worker runs one task at a time.
        let worker = unsafe { &mut workers.slice(worker, 1)[0] };
        let tile = kernels.tile(part.tokens);
        worker.reserve(kernels.chunk, columns, part.rows.len(), tile.tokens);
        // SAFETY: these kernels come from a `Kernels` value, whose ISA the CPU has; the buffer holds all columns, and
        // activations are padded to no fewer.
        unsafe { (tile.arrange)(&x.values[part.first * x.stride..], x.stride, part.tokens, &mut worker.arranged) };
        let lookup = Lookup { tile, chunk: kernels.chunk, codes, code_rows: parts.code_rows, columns };
        task(&lookup, worker, &part, &out);
    });
}

/// Turns all weights into codes, in parallel, `code_bytes` of each row for `chunk_cols` columns; returns their length in the
/// scratch memory.
pub(super) fn decode_all(
    weights: &impl Coded,
    (chunk_cols, code_bytes): (usize, usize),
    pool: &Pool,
    scratch: &mut LookupScratch,
) -> usize {
    let code_rows = weights.rows().next_multiple_of(TILE_ROWS);
    let codes_len = weights.cols().div_ceil(chunk_cols) * code_rows * code_bytes;
    scratch.reserve(pool.threads(), codes_len);
    let codes = SharedMut::new(&mut scratch.codes[..codes_len]);
    pool.run(weights.parts(), |_, part| weights.decode(part, &codes, code_rows));
    codes_len
}

impl Lookup<'_> {
    /// Adds up the columns of some chunks, into the worker's partial and spilled sums.
    fn add_up(&self, chunks: Range<usize>, rows: Range<usize>, worker: &mut Worker) {
        let (tokens, limit) = (self.tile.tokens, i32::from(i16::MAX));
        let Worker { arranged, tables, partial, sums, spilled, .. } = worker;
        *spilled = false;
        let mut reach = 0;
        for chunk in chunks.clone() {
            let columns = &arranged[chunk * self.chunk.cols * tokens..(chunk + 1) * self.chunk.cols * tokens];
            let row = |row: usize| (chunk * self.code_rows + row) * self.chunk.codes;
            let codes = &self.codes[row(rows.start)..row(rows.end)];
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

/// How a product is shared out: a tile of tokens (rows of activations, those of a token's digits together) to a task, and the
/// rows in parts, as many as leave no thread without a task and no task with more rows than it may have.
pub(super) struct Parts {
    tokens: usize,
    row_parts: usize,
    part_rows: usize,
    pub(super) code_rows: usize,
}

/// Some tokens and some rows.
pub(super) struct Part {
    pub(super) first: usize,
    pub(super) tokens: usize,
    /// Rows of whole tiles.
    pub(super) rows: Range<usize>,
    /// Those that the matrix has.
    pub(super) live: Range<usize>,
}

impl Parts {
    pub(super) fn new(rows: usize, pool: &Pool, (tile_tokens, most_rows): (usize, usize), tokens: usize) -> Parts {
        let token_tiles = tokens.div_ceil(tile_tokens);
        let tile_count = rows.div_ceil(TILE_ROWS);
        let code_rows = tile_count * TILE_ROWS;
        let wanted = pool.threads().div_ceil(token_tiles).max(code_rows.div_ceil(most_rows));
        let row_parts = wanted.min(tile_count);
        let part_rows = tile_count.div_ceil(row_parts) * TILE_ROWS;
        Parts { tokens: tile_tokens, row_parts, part_rows, code_rows }
    }

    pub(super) fn tasks(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.tokens) * self.row_parts
    }

    pub(super) fn part(&self, task: usize, tokens: usize, rows: usize) -> Part {
        let (tile, part) = (task / self.row_parts, task % self.row_parts);
        let bound = |part: usize| (part * self.part_rows).min(self.code_rows);
        let (first, range) = (tile * self.tokens, bound(part)..bound(part + 1));
        let live = range.start.min(rows)..range.end.min(rows);
        Part { first, tokens: self.tokens.min(tokens - first), rows: range, live }
    }
}
