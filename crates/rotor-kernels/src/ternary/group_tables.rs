//! Many tokens where each group of columns has scales of its own: tables of sums, looked up group by group.
//!
//! As in [`super::lookup`], weights are decoded to codes of three trits once per product, and codes name entries of tables. But a
//! group of columns is looked up as a whole, so that its sums are scaled and added to the outputs without leaving the registers;
//! and what is looked up are sums of int16 digits: an integer of [`Precision::Exact`] is two of them, where int8 takes three. Four rows of digits, a quad, are multiplied together: two tokens, or four of int8.
//!
//! Sums are int16, and those of a group may not fit. [`GroupTables::tabulate`] counts how large they can get; where that is too
//! much, it says after which tables they have to be widened to int32. No table passes it alone.

use super::TILE_ROWS;
use super::activations::Precision;
use super::grouped::Groups;
use super::lookup::{DecodeTiles, LookupScratch, Parts, decode_all};
use super::matrix::TernaryMatrix;
use crate::dispatch::Kernels;
use crate::epilogue::Epilogue;
use crate::pool::{Pool, SharedMut};

/// Rows of digits that are multiplied together.
pub(crate) const QUAD: usize = 4;
/// int16 of a table: 27 entries, and what fills a vector.
pub(crate) const ENTRIES: usize = 32;
/// Quads of a task, whose codes come from further away than the L2 cache once.
const QUADS: usize = 4;
/// The most rows of a task: a group's codes and all sums stay in the L2 cache.
const ROWS: usize = 4096;

/// The kernels of one ISA for groups of one size.
pub(crate) struct GroupTables {
    /// Columns of a group.
    pub cols: usize,
    /// Tables of a group, and bytes of a row's codes. The columns of a table are four apart, as in trios: table `4v + j` is of
    /// columns `12v + j`, `12v + 4 + j` and `12v + 8 + j`, as far as the group has them.
    pub tables: usize,
    /// Smallest numbers of tokens for which this beats the other ways: of int8, and of exact activations.
    pub min_tokens: [usize; 2],
    /// As [`LookupKernels::decode`](super::lookup::LookupKernels::decode), a chunk being a group.
    pub decode: DecodeTiles,
    /// Splits a group's columns of a token, given as its rows of int8, into digits of int16: `[digits][3][tables]`, the columns
    /// that each table has, zeros for those that the group has not.
    pub arrange: unsafe fn(rows: &[&[i8]], arranged: &mut [i16]),
    /// Fills the tables of a quad, `[tables / 2][2][QUAD][ENTRIES]`. Returns a bit for each table after which sums have to be
    /// widened; none where all fit.
    pub tabulate: unsafe fn(arranged: &[i16], tables: &mut [i16]) -> u64,
    /// Adds a group's products to the outputs.
    pub add: unsafe fn(looked_up: &LookedUp<'_>, totals: &mut [f32]),
}

/// A group of columns of some tiles of rows, and a quad.
pub(crate) struct LookedUp<'a> {
    /// Of each tile, `[tables / 2]` cache lines: an int16 for each row, with the codes of two tables.
    pub codes: &'a [u8],
    /// What [`GroupTables::tabulate`] made.
    pub tables: &'a [i16],
    /// And said.
    pub widened: u64,
    /// int16 digits of a value: 1 or 2.
    pub digits: usize,
    /// The scales of the first tile's rows; those of the next one are `stride` further on.
    pub scales: &'a [[f32; TILE_ROWS]],
    pub stride: usize,
}

impl GroupTables {
    /// Whether this is the way for so many tokens and groups of so many columns.
    pub(super) fn pays(&self, precision: Precision, tokens: usize, group_cols: usize) -> bool {
        let [int8, exact] = self.min_tokens;
        let least = match precision {
            Precision::Int8 => int8,
            Precision::Exact => exact,
        };
        self.cols == group_cols && tokens >= least
    }

    /// Numbers of a row of digits, arranged.
    fn arranged(&self) -> usize {
        3 * self.tables
    }
}

impl TernaryMatrix {
    /// The outputs of all tokens. Weights are decoded once, then each task multiplies some tokens by some of the rows.
    pub(super) fn linear_by_group_tables(
        &self,
        kernels: &Kernels,
        tables: &GroupTables,
        pool: &Pool,
        groups: Groups<'_>,
        scratch: &mut LookupScratch,
        (epilogue, out): (Epilogue, &mut [f32]),
    ) {
        let x = groups.x;
        let digits = match x.precision() {
            Precision::Int8 => 1,
            Precision::Exact => 2,
        };
        let per_quad = QUAD / digits;
        let codes_len = decode_all(self, tables.decode, (tables.cols, tables.tables), pool, scratch);
        let parts = Parts::new(self, pool, (QUADS * per_quad, ROWS), x.tokens());
        let (codes, workers) = (&scratch.codes[..codes_len], SharedMut::new(&mut scratch.workers));
        let out = SharedMut::new(out);
        pool.run(parts.tasks(x.tokens()), |worker, number| {
            let part = parts.part(number, x.tokens(), self.rows());
            if part.live.is_empty() {
                return;
            }
            // SAFETY: a worker runs one task at a time.
            let worker = unsafe { &mut workers.slice(worker, 1)[0] };
            let quads = part.tokens.div_ceil(per_quad);
            let (first_tile, tiles) = (part.rows.start / TILE_ROWS, part.rows.len() / TILE_ROWS);
            worker.arranged.resize(QUAD * tables.arranged());
            worker.tables.resize(QUAD * tables.tables * ENTRIES);
            // `[quads][tiles][tokens of a quad][32 rows]`.
            let of_quad = tiles * per_quad * TILE_ROWS;
            worker.totals.clear();
            worker.totals.resize(quads * of_quad, 0.0);
            for (group, columns) in groups.columns().enumerate() {
                let row = |row: usize| (group * parts.code_rows + row) * tables.tables;
                let codes = &codes[row(part.rows.start)..row(part.rows.end)];
                let (scales, stride) = groups.scales_of_tiles(first_tile, group);
                for (quad, totals) in worker.totals.chunks_exact_mut(of_quad).enumerate() {
                    let arranged = &mut worker.arranged[..QUAD * tables.arranged()];
                    for (token, arranged) in arranged.chunks_exact_mut(digits * tables.arranged()).enumerate() {
                        let token = quad * per_quad + token;
                        if token >= part.tokens {
                            arranged.fill(0);
                            continue;
                        }
                        let rows = x.rows_of_token(part.first + token, columns.clone());
                        // SAFETY: the CPU has the ISA of the kernel; as many columns and digits as it is made for.
                        unsafe { (tables.arrange)(&rows[..x.precision().digits()], arranged) };
                    }
                    // SAFETY: as above; codes, tables, scales and totals are of the same rows and digits, and codes come from
                    // `decode`.
                    unsafe {
                        let widened = (tables.tabulate)(arranged, &mut worker.tables);
                        let of_quad = &worker.tables[..];
                        (tables.add)(&LookedUp { codes, tables: of_quad, widened, digits, scales, stride }, totals);
                    }
                }
            }
            for (at, totals) in worker.totals.chunks_exact_mut(TILE_ROWS).enumerate() {
                let (quad, tile, token) = (at / (tiles * per_quad), at / per_quad % tiles, at % per_quad);
                let token = quad * per_quad + token;
                let row = part.rows.start + tile * TILE_ROWS;
                let rows = row..(row + TILE_ROWS).min(part.live.end);
                if token < part.tokens && !rows.is_empty() {
                    let token = part.first + token;
                    let totals = &mut totals[..rows.len()];
                    groups.finish(token, rows.clone(), totals);
                    // SAFETY: each task owns its tokens' part of the rows.
                    let out = unsafe { out.slice(token * self.rows() + rows.start, rows.len()) };
                    epilogue.apply(kernels, totals, out);
                }
            }
        });
    }
}
