//! Products of matrices whose rows have a scale for every so many columns.
//!
//! Integer sums of different groups cannot be added, so each group is a product of its own: the same tile kernels on a range
//! of columns, exact as ever. What follows is f32 and has one order, groups ascending: whatever the ISA, the number of
//! tokens or of threads, `out = (dot_0 * scale_0 + dot_1 * scale_1 + ...) / s` comes out bit for bit the same.

use super::{
    Activations, CHUNK_CODES, CHUNK_COLS, ManyKernels, Scratch, TILE_ROWS, TOKEN_TILE, TernaryKernels, TernaryMatrix,
    UNIT_BYTES, UNIT_COLS, Worker,
};
use crate::dispatch::Kernels;
use crate::pool::{Pool, SharedMut};
use std::ops::Range;

/// What the columns of a group have to be a multiple of: the columns that the many-token kernels take at a time.
pub const GROUP_ALIGN: usize = CHUNK_COLS;

/// Scales of a matrix's groups of columns.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupScales {
    cols: usize,
    rows: usize,
    /// `[groups][rows]`: the rows of a tile lie side by side.
    values: Vec<f32>,
}

impl GroupScales {
    /// Scales `[rows][groups]`, each for `cols` columns; `None` where [`GROUP_ALIGN`] does not divide those or the values
    /// are not as many for each row.
    pub fn new(rows: usize, cols: usize, values: &[f32]) -> Option<GroupScales> {
        let groups = values.len().checked_div(rows)?;
        if cols == 0 || !cols.is_multiple_of(GROUP_ALIGN) || groups == 0 || values.len() != rows * groups {
            return None;
        }
        let transposed = (0..groups).flat_map(|group| values[group..].iter().step_by(groups).copied());
        Some(GroupScales { cols, rows, values: transposed.collect() })
    }

    /// Columns of a group.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The scale of the weight in this place.
    ///
    /// # Panics
    /// If there is none.
    pub fn get(&self, row: usize, col: usize) -> f32 {
        self.group(col / self.cols)[row]
    }

    /// Multiplies every scale.
    pub fn multiply(&mut self, factor: f32) {
        self.values.iter_mut().for_each(|scale| *scale *= factor);
    }

    pub(super) fn fits(&self, rows: usize, cols: usize) -> bool {
        self.rows == rows && self.values.len() / self.rows * self.cols == cols
    }

    fn groups(&self) -> usize {
        self.values.len() / self.rows
    }

    /// One group's scales of all rows.
    fn group(&self, group: usize) -> &[f32] {
        &self.values[group * self.rows..(group + 1) * self.rows]
    }
}

impl TernaryMatrix {
    /// [`TernaryMatrix::linear`] with a scale for each group; shapes are checked there.
    pub(super) fn linear_grouped(
        &self,
        kernels: &Kernels,
        pool: &Pool,
        x: &Activations,
        scales: &GroupScales,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        match &kernels.ternary.many {
            Some(many) if x.tokens() >= many.min_tokens => self.many_grouped(many, pool, x, scales, scratch, out),
            _ => self.few_grouped(&kernels.ternary, pool, x, scales, out),
        }
    }

    /// A task is a tile: up to four tokens per pass over it, group by group.
    fn few_grouped(
        &self,
        kernels: &TernaryKernels,
        pool: &Pool,
        x: &Activations,
        scales: &GroupScales,
        out: &mut [f32],
    ) {
        let units = scales.cols / UNIT_COLS;
        let prepared_len = (kernels.prepared_len)(scales.cols);
        let out = SharedMut::new(out);
        pool.run(self.tile_count(), |_, tile| {
            let packed = self.tiles(tile..tile + 1);
            let rows = tile * TILE_ROWS..((tile + 1) * TILE_ROWS).min(self.rows);
            for first in (0..x.tokens()).step_by(4) {
                let tokens = first..(first + 4).min(x.tokens());
                let mut totals = [[0f32; TILE_ROWS]; 4];
                for (group, packed) in packed.chunks_exact(units * UNIT_BYTES).take(scales.groups()).enumerate() {
                    let mut prepared: [&[u8]; 4] = [&[]; 4];
                    for (slot, token) in prepared.iter_mut().zip(tokens.clone()) {
                        *slot = &x.prepared(token)[group * prepared_len..(group + 1) * prepared_len];
                    }
                    let mut sums = [[0i32; TILE_ROWS]; 4];
                    let mut outputs = sums.each_mut().map(|sums| &mut sums[..]);
                    // SAFETY: these kernels come from a `Kernels` value, whose ISA the CPU has. Whole units of one tile and
                    // the prepared activations of their columns: what is prepared for a column depends on its multiple of
                    // 16 alone, and groups are multiples of that.
                    unsafe { (kernels.few)(packed, units, &prepared[..tokens.len()], &mut outputs[..tokens.len()]) };
                    let scales = &scales.group(group)[rows.clone()];
                    for (totals, sums) in totals.iter_mut().zip(&sums).take(tokens.len()) {
                        add_scaled(totals, sums, scales);
                    }
                }
                for (totals, token) in totals.iter().zip(tokens) {
                    // SAFETY: each task owns its rows of every token.
                    let out = unsafe { out.slice(token * self.rows + rows.start, rows.len()) };
                    let factor = x.factors()[token];
                    out.iter_mut().zip(totals).for_each(|(out, total)| *out = total / factor);
                }
            }
        });
    }

    /// Decodes the planes once, then one task per 16 tokens and part of the rows.
    fn many_grouped(
        &self,
        many: &ManyKernels,
        pool: &Pool,
        x: &Activations,
        scales: &GroupScales,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let codes_len = self.decode_codes(many, pool, scratch);
        let parts = self.many_tasks(pool, x.tokens());
        let (codes, code_rows) = (&scratch.codes[..codes_len], self.tile_count() * TILE_ROWS);
        let (workers, out) = (SharedMut::new(&mut scratch.workers), SharedMut::new(out));
        pool.run(parts.tasks(), |worker, task| {
            let (first, rows) = parts.of(task);
            if rows.is_empty() {
                return;
            }
            // SAFETY: a worker runs one task at a time.
            let worker = unsafe { &mut workers.slice(worker, 1)[0] };
            let tokens = self.transpose(many, x, first, worker);
            worker.totals.clear();
            worker.totals.resize(rows.len() * TOKEN_TILE, 0.0);
            for group in 0..scales.groups() {
                let chunks = group * scales.cols / CHUNK_COLS..(group + 1) * scales.cols / CHUNK_COLS;
                add_group(many, (codes, code_rows), rows.clone(), chunks, worker, scales.group(group));
            }
            let live = rows.start..rows.end.min(self.rows);
            for token in 0..tokens {
                // SAFETY: each task owns its tokens' part of the rows.
                let out = unsafe { out.slice((first + token) * self.rows + live.start, live.len()) };
                let factor = x.factors()[first + token];
                let totals = worker.totals.iter().skip(token).step_by(TOKEN_TILE);
                out.iter_mut().zip(totals).for_each(|(out, total)| *out = total / factor);
            }
        });
    }
}

/// Adds one group's products, times their scales, to a worker's totals.
fn add_group(
    many: &ManyKernels,
    (codes, code_rows): (&[u8], usize),
    rows: Range<usize>,
    chunks: Range<usize>,
    worker: &mut Worker,
    scales: &[f32],
) {
    const COLUMNS: usize = CHUNK_COLS * TOKEN_TILE;
    let codes = &codes[chunks.start * code_rows * CHUNK_CODES..chunks.end * code_rows * CHUNK_CODES];
    let columns = &worker.transposed[chunks.start * COLUMNS..chunks.end * COLUMNS];
    // SAFETY: the CPU has the ISA of these kernels; the codes and the columns are of the same whole chunks, and the
    // buffers are sized for all of them by `Scratch::reserve`.
    unsafe { (many.run)(codes, code_rows, rows.clone(), columns, &mut worker.many) };
    let sums = worker.many.sums.as_chunks::<TOKEN_TILE>().0;
    let totals = worker.totals.as_chunks_mut::<TOKEN_TILE>().0;
    for ((totals, sums), scale) in totals.iter_mut().zip(sums).zip(&scales[rows.start..]) {
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total += *sum as f32 * scale;
        }
    }
}

fn add_scaled(totals: &mut [f32; TILE_ROWS], sums: &[i32; TILE_ROWS], scales: &[f32]) {
    for ((total, sum), scale) in totals.iter_mut().zip(sums).zip(scales) {
        *total += *sum as f32 * scale;
    }
}
