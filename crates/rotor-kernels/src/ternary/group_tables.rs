//! Many tokens of several digits, or with scales for groups of columns: tables of sums, looked up group by group.
//!
//! As in [`super::lookup`], weights are decoded to codes of three trits once per product, and codes name entries of tables. But a
//! group of columns is looked up as a whole, so that its sums are scaled and added to the outputs without leaving the registers;
//! and what is looked up are sums of int16 digits: an integer of [`Precision::Exact`] is two of them, where int8 takes three. Four
//! rows of digits, a quad, are multiplied together: two tokens, or four of int8. Where a row of weights has one scale, the columns
//! of a block of trios are a group, and the sums of all groups are added up as integers.
//!
//! Sums are int16, and those of a group may not fit. [`GroupTables::tabulate`] counts how large they can get; where that is too
//! much, it says after which tables they have to be widened to int32. No table passes it alone.

use super::TILE_ROWS;
use super::activations::Precision;
use super::grouped::Groups;
use super::lookup::{CodedTiles, DecodeTiles, LookupScratch, Part, Parts, Worker, decode_all};
use super::matrix::TernaryMatrix;
use crate::dispatch::Kernels;
use crate::epilogue::Epilogue;
use crate::pool::{Pool, SharedMut};

/// Rows of digits that are multiplied together.
pub(crate) const QUAD: usize = 4;
/// int16 of a table: 27 entries, and what fills a vector.
pub(crate) const ENTRIES: usize = 32;
/// Quads of a task, whose codes come from further away than the L2 cache once.
const QUADS: usize = 16;
/// The most rows of a task: a group's codes and all sums stay in the L2 cache.
const ROWS: usize = 2048;

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
    /// Adds a group's products, times its scales, to the outputs: `[tiles][tokens of a quad][32 rows]`.
    pub add_scaled: unsafe fn(looked_up: &LookedUp<'_>, scales: TileScales<'_>, totals: &mut [f32]),
    /// Adds a group's sums to those of others: `[tiles][QUAD][32 rows]`.
    pub add: unsafe fn(looked_up: &LookedUp<'_>, sums: &mut [i32]),
}

/// A group of columns of some tiles of rows, and a quad.
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86-64 has kernels for it"))]
pub(crate) struct LookedUp<'a> {
    /// Of each tile, `[tables / 2]` cache lines: an int16 for each row, with the codes of two tables.
    pub codes: &'a [u8],
    /// What [`GroupTables::tabulate`] made.
    pub tables: &'a [i16],
    /// And said.
    pub widened: u64,
    /// int16 digits of a value: 1 or 2, `value = BASE * high + low`.
    pub digits: usize,
    /// The codes of the next group from the same rows on, empty behind the last one; this quad's number, and of how many: each asks
    /// for its share of them.
    pub ahead: (&'a [u8], usize, usize),
}

/// What the high of two digits stands for. Of values whose mean size is 131072 the high digits are 171 in the mean and the low ones
/// 192, so that sums of 128 columns fit int16 unless a group is half as large again as its token.
pub(crate) const BASE: i32 = 768;

/// The scales of the first tile's rows for a group; those of the next tile are `stride` further on.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86-64 has kernels for it"))]
pub(crate) struct TileScales<'a> {
    pub scales: &'a [[f32; TILE_ROWS]],
    pub stride: usize,
}

impl GroupTables {
    /// Whether this beats the other ways for so many tokens.
    pub(super) fn pays(&self, precision: Precision, tokens: usize) -> bool {
        let [int8, exact] = self.min_tokens;
        tokens >= if precision == Precision::Int8 { int8 } else { exact }
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
        let digits = if x.precision() == Precision::Int8 { 1 } else { 2 };
        let per_quad = QUAD / digits;
        let weights = CodedTiles { matrix: self, decode: tables.decode };
        let codes_len = decode_all(&weights, (tables.cols, tables.tables), pool, scratch);
        let parts = Parts::new(self.rows(), pool, (QUADS * per_quad, ROWS), x.tokens());
        let (codes, workers) = (&scratch.codes[..codes_len], SharedMut::new(&mut scratch.workers));
        let out = SharedMut::new(out);
        pool.run(parts.tasks(x.tokens()), |worker, number| {
            let part = parts.part(number, x.tokens(), self.rows());
            if part.live.is_empty() {
                return;
            }
            // SAFETY: a worker runs one task at a time.
            let worker = unsafe { &mut workers.slice(worker, 1)[0] };
            let task = Task { tables, groups, part: &part, digits, codes, code_rows: parts.code_rows };
            if groups.are_scaled() {
                task.scaled(worker);
            } else {
                task.unscaled(worker);
            }
            let tiles = part.rows.len() / TILE_ROWS;
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

/// Some tokens and some rows of a product whose codes are ready.
struct Task<'a> {
    tables: &'a GroupTables,
    groups: Groups<'a>,
    part: &'a Part,
    /// int16 digits of a value.
    digits: usize,
    codes: &'a [u8],
    code_rows: usize,
}

impl Task<'_> {
    /// The outputs before [`Groups::finish`], `[quads][tiles][tokens of a quad][32 rows]`.
    fn scaled(&self, worker: &mut Worker) {
        let of_quad = self.part.rows.len() * QUAD / self.digits;
        let mut totals = std::mem::take(&mut worker.totals);
        totals.clear();
        totals.resize(self.quads() * of_quad, 0.0);
        let first_tile = self.part.rows.start / TILE_ROWS;
        self.look_up(worker, |group, quad, looked_up| {
            let scales = self.groups.scales_of_tiles(first_tile, group);
            let totals = &mut totals[quad * of_quad..(quad + 1) * of_quad];
            // SAFETY: the CPU has the ISA of the kernel; codes, tables, scales and totals are of the same rows and digits, and codes
            // come from `decode`.
            unsafe { (self.tables.add_scaled)(looked_up, scales, totals) };
        });
        worker.totals = totals;
    }

    /// The same where a row of weights has one scale, of activations of two digits.
    fn unscaled(&self, worker: &mut Worker) {
        let of_quad = self.part.rows.len() * QUAD;
        let mut sums = std::mem::take(&mut worker.sums);
        sums.resize(sums.len().max(self.quads() * of_quad));
        sums[..self.quads() * of_quad].fill(0);
        self.look_up(worker, |_, quad, looked_up| {
            let sums = &mut sums[quad * of_quad..(quad + 1) * of_quad];
            // SAFETY: as in `scaled`.
            unsafe { (self.tables.add)(looked_up, sums) };
        });
        worker.totals.clear();
        for digits in sums[..self.quads() * of_quad].as_chunks::<TILE_ROWS>().0.as_chunks::<2>().0 {
            // Exact, and then rounded once.
            let dot = |row: usize| (f64::from(BASE) * f64::from(digits[0][row]) + f64::from(digits[1][row])) as f32;
            worker.totals.extend((0..TILE_ROWS).map(dot));
        }
        worker.sums = sums;
    }

    fn quads(&self) -> usize {
        (self.part.tokens * self.digits).div_ceil(QUAD)
    }

    /// Makes the tables of each group of columns and each quad, and hands them to `add(group, quad, looked_up)`.
    fn look_up(&self, worker: &mut Worker, mut add: impl FnMut(usize, usize, &LookedUp<'_>)) {
        let (tables, x, digits) = (self.tables, self.groups.x, self.digits);
        let of_token = digits * tables.arranged();
        worker.arranged.resize(worker.arranged.len().max(QUAD * tables.arranged()));
        worker.tables.resize(worker.tables.len().max(QUAD * tables.tables * ENTRIES));
        let arranged = &mut worker.arranged[..QUAD * tables.arranged()];
        let of_quad = &mut worker.tables[..QUAD * tables.tables * ENTRIES];
        for group in 0..x.cols().div_ceil(tables.cols) {
            let columns = group * tables.cols..(group + 1) * tables.cols;
            let row = |row: usize| (group * self.code_rows + row) * tables.tables;
            let codes = &self.codes[row(self.part.rows.start)..row(self.part.rows.end)];
            let next = self.codes.get(row(self.code_rows + self.part.rows.start)..).unwrap_or(&[]);
            for quad in 0..self.quads() {
                for (token, arranged) in arranged.chunks_exact_mut(of_token).enumerate() {
                    let token = quad * QUAD / digits + token;
                    if token >= self.part.tokens {
                        arranged.fill(0);
                        continue;
                    }
                    let rows = x.rows_of_token(self.part.first + token, columns.clone());
                    // SAFETY: the CPU has the ISA of the kernel; as many columns and digits as it is made for.
                    unsafe { (tables.arrange)(&rows[..x.precision().digits()], arranged) };
                }
                // SAFETY: as above, and tables of a quad.
                let widened = unsafe { (tables.tabulate)(arranged, of_quad) };
                let ahead = (next, quad, self.quads());
                add(group, quad, &LookedUp { codes, tables: of_quad, widened, digits, ahead });
            }
        }
    }
}
