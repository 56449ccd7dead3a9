//! Packed matrices: packing, reading back, and the products of whole matrices, shared out over the threads.

use super::activations::Pass;
use super::grouped::GroupScales;
use super::kernel::{MAX_PASS, Many, PanelKernels, TernaryKernel};
use super::layout::PLANES;
use super::lookup::LookupScratch;
use super::{Activations, TILE_ROWS, UNIT_BYTES, UNIT_COLS, padded_cols};
use crate::buffer::{Buffer, Pages};
use crate::dispatch::Kernels;
use crate::epilogue::{Epilogue, Finish, RowScale};
use crate::pool::{Pool, SharedMut};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Tiles that all passes take before the next where tokens are few: they stay in the L2 cache.
const RUN: usize = 4;
/// Tiles that a task unpacks where tokens are many: their panels, some hundred kilobytes, stay in the L2 cache.
const PANEL_RUN: usize = 2;
/// Tokens that share a panel: enough to make unpacking it cheap.
const PANEL_TOKENS: usize = 512;

/// A ternary matrix `[rows, cols]`, packed for one of the kernels.
#[derive(Debug)]
pub struct TernaryMatrix {
    rows: usize,
    cols: usize,
    kernel: &'static TernaryKernel,
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

/// Memory that products need, grown to the largest matrix met and reused for all.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(super) lookup: LookupScratch,
    /// A panel for each thread.
    panels: Vec<Vec<u8>>,
    /// Sums of the activations of each token's groups.
    group_sums: Vec<i32>,
}

/// Dot products of one token with consecutive rows.
pub(super) struct Sums<'a> {
    pub token: usize,
    /// The first row.
    pub row: usize,
    pub sums: &'a [i32],
}

impl TernaryMatrix {
    /// Packs a matrix for `kernel`, `read_row(row, trits)` filling each row's `cols` values of -1, 0 and +1.
    ///
    /// Rows are read in parallel and in no fixed order. Never more than one tile per thread is unpacked.
    ///
    /// # Errors
    /// The error of the lowest tile whose `read_row` failed, or the system's refusal of memory through `memory`.
    ///
    /// # Panics
    /// If `kernel` is not one of `kernels`, a trit is not -1, 0 or +1 (debug builds, scalar kernels), or the size overflows.
    pub fn pack<E: Send>(
        (rows, cols): (usize, usize),
        kernels: &Kernels,
        kernel: &'static TernaryKernel,
        pool: &Pool,
        memory: impl FnOnce(std::io::Error) -> E,
        read_row: impl Fn(usize, &mut [i8]) -> Result<(), E> + Sync,
    ) -> Result<TernaryMatrix, E> {
        let mut rows_of_trits = vec![vec![0i8; padded_cols(cols)]; pool.threads()];
        let rows_of_trits = SharedMut::new(&mut rows_of_trits);
        let failure = Mutex::new(None::<(usize, E)>);
        let matrix = TernaryMatrix::fill((rows, cols), kernels, kernel, pool, |worker, tile, planes| {
            // SAFETY: a worker runs one task at a time.
            let trits = unsafe { &mut rows_of_trits.slice(worker, 1)[0] };
            for r in 0..TILE_ROWS.min(rows - tile * TILE_ROWS) {
                match read_row(tile * TILE_ROWS + r, &mut trits[..cols]) {
                    // SAFETY: the CPU has the ISA of these kernels; the row and the tile have the same padded columns.
                    Ok(()) => unsafe { (kernels.ternary.pack_row)(trits, r, planes) },
                    Err(error) => {
                        let mut first = failure.lock().unwrap_or_else(PoisonError::into_inner);
                        if first.as_ref().is_none_or(|(lowest, _)| tile < *lowest) {
                            *first = Some((tile, error));
                        }
                        return;
                    }
                }
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((_, error)) => Err(error),
            None => matrix.map_err(memory),
        }
    }

    /// A matrix whose tiles `fill_planes(worker, tile, planes)` gives, as zeroed tiles of planes to fill.
    pub(super) fn fill(
        (rows, cols): (usize, usize),
        kernels: &Kernels,
        kernel: &'static TernaryKernel,
        pool: &Pool,
        fill_planes: impl Fn(usize, usize, &mut [u8]) + Sync,
    ) -> std::io::Result<TernaryMatrix> {
        assert!(kernels.ternary_kernels().iter().any(|own| std::ptr::eq(*own, kernel)), "a kernel of {}", kernels.isa);
        let tile_bytes = kernel.layout.tile_bytes(cols);
        let bytes = rows.div_ceil(TILE_ROWS).checked_mul(tile_bytes).ok_or(std::io::ErrorKind::OutOfMemory)?;
        let mut tiles = Buffer::zeroed(bytes, Pages::Huge)?;
        let planes_bytes = PLANES.tile_bytes(cols);
        let mut planes = vec![Vec::new(); pool.threads()];
        let (planes, out) = (SharedMut::new(&mut planes), SharedMut::new(&mut tiles[..bytes]));
        pool.run(if tile_bytes == 0 { 0 } else { rows.div_ceil(TILE_ROWS) }, |worker, tile| {
            // SAFETY: each task owns its tile.
            let packed = unsafe { out.slice(tile * tile_bytes, tile_bytes) };
            if std::ptr::eq(kernel.layout, &raw const PLANES) {
                return fill_planes(worker, tile, packed);
            }
            // SAFETY: a worker runs one task at a time.
            let planes = unsafe { &mut planes.slice(worker, 1)[0] };
            planes.clear();
            planes.resize(planes_bytes, 0);
            fill_planes(worker, tile, planes);
            (kernel.layout.pack)(planes, packed);
        });
        Ok(TernaryMatrix { rows, cols, kernel, tiles })
    }

    /// A matrix of what `tiles` holds, for trials.
    pub(super) fn of_tiles(
        (rows, cols): (usize, usize),
        kernel: &'static TernaryKernel,
        tiles: Buffer<u8>,
    ) -> TernaryMatrix {
        assert!(kernel.packed_bytes(rows, cols) <= tiles.len(), "memory for [{rows}, {cols}]");
        TernaryMatrix { rows, cols, kernel, tiles }
    }

    /// The memory of a matrix that is not needed any more.
    pub(super) fn into_tiles(self) -> Buffer<u8> {
        self.tiles
    }

    /// Rows (output features).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns (input features).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// What multiplies it.
    pub fn kernel(&self) -> &'static TernaryKernel {
        self.kernel
    }

    /// Bytes of packed weights.
    pub fn packed_bytes(&self) -> usize {
        self.kernel.packed_bytes(self.rows, self.cols)
    }

    /// The trit at `(row, col)`, read back.
    ///
    /// # Panics
    /// If it is out of bounds.
    pub fn trit(&self, row: usize, col: usize) -> i8 {
        assert!(row < self.rows && col < self.cols, "({row}, {col}) of [{}, {}]", self.rows, self.cols);
        let tile = row / TILE_ROWS;
        (self.kernel.layout.trits)(self.tiles(tile..tile + 1), row % TILE_ROWS, col / 4 * 4)[col % 4]
    }

    /// The transposed matrix, for the same kernel.
    ///
    /// # Errors
    /// Where the system refuses the memory.
    pub fn transposed(&self, kernels: &Kernels, pool: &Pool) -> std::io::Result<TernaryMatrix> {
        TernaryMatrix::fill((self.cols, self.rows), kernels, self.kernel, pool, |_, tile, planes| {
            for row in 0..self.rows {
                let from = self.tiles(row / TILE_ROWS..row / TILE_ROWS + 1);
                let unit = &mut planes[row / UNIT_COLS * UNIT_BYTES..][..UNIT_BYTES];
                for col in (tile * TILE_ROWS..((tile + 1) * TILE_ROWS).min(self.cols)).step_by(4) {
                    for (j, trit) in (self.kernel.layout.trits)(from, row % TILE_ROWS, col).into_iter().enumerate() {
                        let at = col + j - tile * TILE_ROWS;
                        unit[at] |= u8::from(trit > 0) << (row % UNIT_COLS);
                        unit[TILE_ROWS + at] |= u8::from(trit < 0) << (row % UNIT_COLS);
                    }
                }
            }
        })
    }

    pub(super) fn tile_count(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    pub(super) fn tiles(&self, range: Range<usize>) -> &[u8] {
        let bytes = self.kernel.layout.tile_bytes(self.cols);
        &self.tiles[range.start * bytes..range.end * bytes]
    }

    /// The exact products `out[token][row] = sum over columns of weight * activation`, int32.
    ///
    /// # Panics
    /// If the shapes do not fit: `x.cols() == cols`, `out.len() == x.tokens() * rows`.
    pub fn dot(&self, kernels: &Kernels, pool: &Pool, x: &mut Activations, scratch: &mut Scratch, out: &mut [i32]) {
        self.check(kernels, x, out.len());
        self.multiply(pool, x, scratch, out, |sums, out| out.copy_from_slice(sums.sums));
    }

    /// A linear layer's output `y[token][row] = dot * scale / s`, f32, with `s` the token's quantisation factor; where groups
    /// of columns have scales, the sum of their products before the division, groups ascending. `epilogue` takes it to `out`.
    ///
    /// # Panics
    /// If the shapes do not fit: `x.cols() == cols`, `out.len() == x.tokens() * rows`, scales for all rows and columns, and
    /// groups that the packed layout can be cut at ([`TernaryKernel::can_scale`]).
    pub fn linear(
        &self,
        kernels: &Kernels,
        pool: &Pool,
        x: &mut Activations,
        scales: &RowScales,
        scratch: &mut Scratch,
        (epilogue, out): (Epilogue, &mut [f32]),
    ) {
        self.check(kernels, x, out.len());
        let put = |y: &[f32], out: &mut [f32]| epilogue.apply(kernels, y, out);
        match scales {
            RowScales::Uniform(scale) => {
                self.scaled(kernels, pool, x, scratch, (epilogue, out), |_| RowScale::Same(*scale));
            }
            RowScales::PerRow(scales) => {
                assert_eq!(scales.len(), self.rows, "one scale per row");
                self.scaled(kernels, pool, x, scratch, (epilogue, out), |rows| RowScale::Each(&scales[rows]));
            }
            RowScales::Grouped(scales) => {
                assert!(scales.fits(self.rows, self.cols), "scales for [{}, {}]", self.rows, self.cols);
                assert!(self.kernel.can_scale(scales.cols()), "groups of {} in {}", scales.cols(), self.kernel.name());
                self.multiply_groups(pool, x, scales, scratch, out, put);
            }
        }
    }

    /// `scales_of(rows)` gives the scales of some rows.
    fn scaled<'s>(
        &self,
        kernels: &Kernels,
        pool: &Pool,
        x: &mut Activations,
        scratch: &mut Scratch,
        (epilogue, out): (Epilogue, &mut [f32]),
        scales_of: impl Fn(Range<usize>) -> RowScale<'s> + Sync,
    ) {
        let factors = std::mem::take(x.factors_mut());
        self.multiply(pool, x, scratch, out, |sums, out| {
            let scales = scales_of(sums.row..sums.row + sums.sums.len());
            kernels.finish(Finish { scales, factor: factors[sums.token], epilogue }, sums.sums, out);
        });
        *x.factors_mut() = factors;
    }

    fn check(&self, kernels: &Kernels, x: &Activations, outputs: usize) {
        assert_eq!(x.cols(), self.cols, "columns of the matrix and the activations");
        assert_eq!(outputs, x.tokens() * self.rows, "outputs of {} tokens and {} rows", x.tokens(), self.rows);
        assert!(kernels.isa == x.isa(), "activations prepared for {}, kernels of {}", x.isa(), kernels.isa);
    }

    fn multiply<T: Send>(
        &self,
        pool: &Pool,
        x: &mut Activations,
        scratch: &mut Scratch,
        out: &mut [T],
        finish: impl Fn(Sums<'_>, &mut [T]) + Sync,
    ) {
        if let Some(Many::Lookup(lookup)) = &self.kernel.many
            && x.tokens() >= lookup.min_tokens
        {
            return self.multiply_by_lookup(lookup, pool, x, scratch, out, finish);
        }
        x.prepare(self.kernel, pool);
        let out = SharedMut::new(out);
        self.for_each_run(pool, x, scratch, |first_tile, tiles, passes| {
            let mut sums = [[0; TILE_ROWS]; MAX_PASS];
            for pass in passes {
                let pass = x.pass(pass, self.kernel);
                for (tile, weights) in (first_tile..).zip(tiles) {
                    weights.multiply(0..weights.cols, &pass, &mut sums[..pass.tokens.len()]);
                    let rows = self.rows_of(tile);
                    for (sums, token) in sums.iter().zip(pass.tokens.clone()) {
                        // SAFETY: each task owns its rows of its tokens.
                        let out = unsafe { out.slice(token * self.rows + rows.start, rows.len()) };
                        finish(Sums { token, row: rows.start, sums: &sums[..rows.len()] }, out);
                    }
                }
            }
        });
    }

    fn multiply_groups(
        &self,
        pool: &Pool,
        x: &mut Activations,
        scales: &GroupScales,
        scratch: &mut Scratch,
        out: &mut [f32],
        put: impl Fn(&[f32], &mut [f32]) + Sync,
    ) {
        if let Some(Many::Lookup(lookup)) = &self.kernel.many
            && x.tokens() >= lookup.min_tokens
        {
            return self.multiply_groups_by_lookup(lookup, pool, x, scales, scratch, (out, put));
        }
        x.prepare(self.kernel, pool);
        let mut group_sums = std::mem::take(&mut scratch.group_sums);
        x.sums_of_groups(scales.cols(), &mut group_sums);
        let out = SharedMut::new(out);
        self.for_each_run(pool, x, scratch, |first_tile, tiles, passes| {
            for pass in passes {
                let pass = x.pass(pass, self.kernel);
                for (tile, weights) in (first_tile..).zip(tiles) {
                    let rows = self.rows_of(tile);
                    let mut totals = self.totals(weights, &rows, &pass, scales, &group_sums);
                    for (totals, token) in totals.iter_mut().zip(pass.tokens.clone()) {
                        // SAFETY: each task owns its rows of its tokens.
                        let out = unsafe { out.slice(token * self.rows + rows.start, rows.len()) };
                        let factor = x.factors()[token];
                        totals.iter_mut().for_each(|total| *total /= factor);
                        put(&totals[..rows.len()], out);
                    }
                }
            }
        });
        scratch.group_sums = group_sums;
    }

    /// The sums of a tile's groups times their scales, groups ascending, for at most a pass of tokens.
    fn totals(
        &self,
        weights: &Weights<'_>,
        rows: &Range<usize>,
        pass: &Pass<'_>,
        scales: &GroupScales,
        group_sums: &[i32],
    ) -> [[f32; TILE_ROWS]; MAX_PASS] {
        let (mut totals, mut sums) = ([[0f32; TILE_ROWS]; MAX_PASS], [[0; TILE_ROWS]; MAX_PASS]);
        let count = pass.tokens.len();
        for group in 0..scales.groups() {
            let columns = group * scales.cols()..(group + 1) * scales.cols();
            let sum_of = |token: usize| group_sums[token * scales.groups() + group];
            weights.multiply(columns.clone(), &pass.columns(columns, sum_of, self.kernel), &mut sums[..count]);
            let scales = &scales.group(group)[rows.clone()];
            for (totals, sums) in totals.iter_mut().zip(&sums[..count]) {
                for ((total, sum), scale) in totals.iter_mut().zip(sums).zip(scales) {
                    *total += *sum as f32 * scale;
                }
            }
        }
        totals
    }

    /// The rows of a tile that the matrix has.
    fn rows_of(&self, tile: usize) -> Range<usize> {
        tile * TILE_ROWS..((tile + 1) * TILE_ROWS).min(self.rows)
    }

    /// Runs `task(first tile, tiles, passes)` for every run of tiles: all passes of tokens at once where they are few, in
    /// parts and with the weights unpacked where they are many.
    fn for_each_run(
        &self,
        pool: &Pool,
        x: &Activations,
        scratch: &mut Scratch,
        task: impl Fn(usize, &[Weights<'_>], Range<usize>) + Sync,
    ) {
        let cols = self.kernel.layout.padded(self.cols);
        let weights =
            |tile: usize| Weights { kernel: self.kernel, tile: self.tiles(tile..tile + 1), panel: None, cols };
        let passes = x.passes(self.kernel);
        let Some(panel) = self.kernel.panel(x.tokens()) else {
            return pool.run_ranges(self.tile_count(), |_, tiles| {
                for start in tiles.clone().step_by(RUN) {
                    let run = start..(start + RUN).min(tiles.end);
                    let packed: [Weights<'_>; RUN] = std::array::from_fn(|i| weights((run.start + i).min(run.end - 1)));
                    task(run.start, &packed[..run.len()], 0..passes);
                }
            });
        };
        scratch.panels.resize_with(scratch.panels.len().max(pool.threads()), Vec::new);
        let panels = SharedMut::new(&mut scratch.panels);
        let passes_per_part = PANEL_TOKENS.div_ceil(panel.tokens);
        let (parts, runs) = (passes.div_ceil(passes_per_part), self.tile_count().div_ceil(PANEL_RUN));
        let bytes = cols * TILE_ROWS;
        pool.run(runs * parts, |worker, number| {
            let (part, run) = (number / runs, number % runs);
            // SAFETY: a worker runs one task at a time.
            let buffer = unsafe { &mut panels.slice(worker, 1)[0] };
            buffer.resize(buffer.len().max(bytes * PANEL_RUN), 0);
            let tiles = run * PANEL_RUN..((run + 1) * PANEL_RUN).min(self.tile_count());
            let mut unpacked: [Weights<'_>; PANEL_RUN] = std::array::from_fn(|_| weights(tiles.start));
            let unpack = buffer.chunks_exact_mut(bytes.max(1)).zip(tiles.clone());
            for (weights, (buffer, tile)) in unpacked.iter_mut().zip(unpack) {
                // SAFETY: the CPU has the ISA of the kernel (`TernaryKernel`); tile and panel of the same columns.
                unsafe { (panel.unpack)(self.tiles(tile..tile + 1), cols, buffer) };
                weights.panel = Some((panel, buffer));
            }
            let passes = part * passes_per_part..((part + 1) * passes_per_part).min(passes);
            task(tiles.start, &unpacked[..tiles.len()], passes);
        });
    }
}

/// The weights of a tile: packed, and unpacked to a panel where that was worth it.
struct Weights<'a> {
    kernel: &'static TernaryKernel,
    tile: &'a [u8],
    panel: Option<(&'a PanelKernels, &'a [u8])>,
    /// Columns, in whole blocks.
    cols: usize,
}

impl Weights<'_> {
    /// Products of some columns, whole blocks, with a pass that holds these columns.
    fn multiply(&self, columns: Range<usize>, pass: &Pass<'_>, out: &mut [[i32; TILE_ROWS]]) {
        match self.panel {
            Some((panel, bytes)) => {
                let bytes = &bytes[columns.start * TILE_ROWS..columns.end * TILE_ROWS];
                let (x, sums) = pass.side_by_side();
                // SAFETY: the CPU has the ISA of the kernel (`TernaryKernel`); panel and tokens hold the same columns.
                unsafe { (panel.multiply)(bytes, x, sums, out) };
            }
            None => {
                let at = |col| self.kernel.layout.tile_bytes(col);
                let tile = &self.tile[at(columns.start)..at(columns.end)];
                // SAFETY: as above; a pass has at most `few_tokens` tokens, and `out` has a place for each.
                unsafe { (self.kernel.few)(tile, columns.len(), pass.one_by_one(), out) };
            }
        }
    }
}
