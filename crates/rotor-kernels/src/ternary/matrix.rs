//! Packed matrices: packing, reading back, and the products of whole matrices, shared out over the threads.

use super::activations::Pass;
use super::group_tables::GroupTables;
use super::grouped::{GroupScales, Groups, group_cols};
use super::kernel::TernaryKernel;
use super::layout::PLANES;
use super::linears::{Product, TernaryLinear, linears};
use super::lookup::{CodedTiles, LookupKernels, LookupScratch, multiply_by_lookup};
use super::skipping::{SkipCounts, SkippingScratch};
use super::tiles::{PassMemory, Tiles, Weights};
use super::{Activations, Precision, TILE_ROWS, UNIT_BYTES, UNIT_COLS, padded_cols};
use crate::buffer::Buffer;
use crate::dispatch::Kernels;
use crate::epilogue::{Epilogue, Finish, RowScale};
use crate::lines::Lines;
use crate::pool::{Pool, SharedMut};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

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

    /// Bytes in memory of scales that lie beside the weights, those of groups of columns.
    pub fn group_bytes(&self) -> usize {
        match self {
            RowScales::Uniform(_) | RowScales::PerRow(_) => 0,
            RowScales::Grouped(scales) => scales.bytes(),
        }
    }

    /// Whether these are scales for a matrix `[rows, cols]`.
    pub(super) fn fit(&self, rows: usize, cols: usize) -> bool {
        match self {
            RowScales::Uniform(_) => true,
            RowScales::PerRow(scales) => scales.len() == rows,
            RowScales::Grouped(scales) => scales.fits(rows, cols),
        }
    }

    /// The scales of some rows.
    ///
    /// # Panics
    /// If a row has several.
    pub(super) fn of_rows(&self, rows: Range<usize>) -> RowScale<'_> {
        match self {
            RowScales::Uniform(scale) => RowScale::Same(*scale),
            RowScales::PerRow(scales) => RowScale::Each(&scales[rows]),
            RowScales::Grouped(_) => unreachable!("scales of groups of columns"),
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
    pub(super) panels: Vec<Lines<u8>>,
    pub(super) skipping: SkippingScratch,
}

impl Scratch {
    /// How many rows and columns of matrices that can leave some unread have been read so far.
    pub fn skip_counts(&self) -> SkipCounts {
        self.skipping.counts
    }
}

/// How a matrix is multiplied.
pub(super) enum Way<'a> {
    /// Tile by tile, which several matrices can be at once.
    Tiles,
    /// By tables of sums.
    Lookup(&'static LookupKernels),
    /// By tables of sums of a group's columns.
    GroupTables(&'static GroupTables, Groups<'a>),
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
        let mut tiles = Buffer::zeroed(bytes)?;
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
    /// If the shapes do not fit (`x.cols() == cols`, `out.len() == x.tokens() * rows`), or the activations are not int8.
    pub fn dot(&self, kernels: &Kernels, pool: &Pool, x: &mut Activations, scratch: &mut Scratch, out: &mut [i32]) {
        self.check(kernels, x, out.len());
        assert!(x.precision() == Precision::Int8, "int8 activations");
        if let Some(lookup) = self.kernel.lookup(x.rows()) {
            let weights = CodedTiles { matrix: self, decode: lookup.decode };
            let (x, scratch) = (x.quantized_rows(), &mut scratch.lookup);
            return multiply_by_lookup(&weights, lookup, pool, x, scratch, out, |sums, out| {
                out.copy_from_slice(sums.sums)
            });
        }
        x.prepare(self.kernel, None, pool);
        let out = SharedMut::new(out);
        self.tiles_alone().multiply(pool, x, scratch, |_, tile, weights, pass, memory| {
            let rows = self.rows_of(tile);
            for (sums, token) in weights.products(pass, &mut memory.sums).iter().zip(pass.tokens.clone()) {
                // SAFETY: each task owns its rows of its tokens.
                let out = unsafe { out.slice(token * self.rows + rows.start, rows.len()) };
                out.copy_from_slice(&sums[..rows.len()]);
            }
        });
    }

    /// A linear layer's output, f32, which `epilogue` takes to `out`: `y[token][row] = dot * scale / s` with `s` the token's
    /// quantisation factor; `grouped.rs` has the formulas where groups of columns have scales.
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
        let first = TernaryLinear { matrix: self, scales, epilogue };
        linears(kernels, pool, x, scratch, &mut [Product { first, second: None, out }]);
    }

    pub(super) fn check(&self, kernels: &Kernels, x: &Activations, outputs: usize) {
        assert_eq!(x.cols(), self.cols, "columns of the matrix and the activations");
        assert_eq!(outputs, x.tokens() * self.rows, "outputs of {} tokens and {} rows", x.tokens(), self.rows);
        assert!(kernels.isa == x.isa(), "activations prepared for {}, kernels of {}", x.isa(), kernels.isa);
    }

    /// How it is multiplied by these activations.
    pub(super) fn way<'a>(&self, x: &'a Activations, scales: &'a RowScales) -> Way<'a> {
        let groups = self.groups(x, scales);
        let tables = match group_cols(scales) {
            Some(cols) => self.kernel.many_groups.iter().find(|tables| tables.cols == cols),
            None => self.kernel.many_exact,
        };
        let tables = tables.filter(|tables| tables.pays(x.precision(), x.tokens()));
        match (groups, tables, self.kernel.lookup(x.rows())) {
            (Some(groups), Some(tables), _) => Way::GroupTables(tables, groups),
            (_, _, Some(lookup)) => Way::Lookup(lookup),
            (_, _, None) => Way::Tiles,
        }
    }

    pub(super) fn linear_by_lookup(
        &self,
        (kernels, lookup): (&Kernels, &LookupKernels),
        pool: &Pool,
        x: &Activations,
        scales: &RowScales,
        scratch: &mut Scratch,
        (epilogue, out): (Epilogue, &mut [f32]),
    ) {
        match self.groups(x, scales) {
            Some(groups) => self.multiply_groups_by_lookup(kernels, lookup, pool, groups, scratch, (epilogue, out)),
            None => {
                let weights = CodedTiles { matrix: self, decode: lookup.decode };
                let (rows, scratch) = (x.quantized_rows(), &mut scratch.lookup);
                multiply_by_lookup(&weights, lookup, pool, rows, scratch, out, |sums, out| {
                    let scales = scales.of_rows(sums.row..sums.row + sums.sums.len());
                    kernels.finish(Finish { scales, factor: x.factors()[sums.token], epilogue }, sums.sums, out);
                });
            }
        }
    }

    /// The groups of columns, where there are several or activations have several digits.
    pub(super) fn groups<'a>(&self, x: &'a Activations, scales: &'a RowScales) -> Option<Groups<'a>> {
        let padded_cols = self.kernel.layout.padded(self.cols);
        let cols = match (group_cols(scales), x.precision()) {
            (Some(cols), _) => cols,
            (None, Precision::Exact) => padded_cols,
            (None, Precision::Int8) => return None,
        };
        let groups = Groups { x, scales, cols, padded_cols };
        Some(groups.check(self.kernel))
    }

    /// The outputs of a tile's rows for at most a pass of tokens, group by group.
    pub(super) fn totals<'m>(
        &self,
        kernels: &Kernels,
        weights: &Weights<'_>,
        rows: &Range<usize>,
        pass: &Pass<'_>,
        memory: &'m mut PassMemory,
        groups: Groups<'_>,
    ) -> &'m [[f32; TILE_ROWS]] {
        let digits = groups.x.precision().digits();
        let (sums, totals) = (&mut memory.sums[..pass.rows.len()], &mut memory.totals[..pass.tokens.len()]);
        totals.fill([0.0; TILE_ROWS]);
        if !weights.add_groups(groups, rows, pass, totals) {
            let mut part = pass.clone();
            for (group, columns) in groups.columns().enumerate() {
                let col = columns.start;
                let sums_of_rows = &groups.x.sums_of_group(group, groups.cols)[pass.rows.clone()];
                pass.narrow(columns.clone(), sums_of_rows, self.kernel, &mut part);
                weights.multiply(columns, &part, sums);
                for (totals, sums) in totals.iter_mut().zip(sums.chunks_exact(digits)) {
                    let sums = std::array::from_fn(|digit| sums.get(digit).map_or(&[][..], |sums| &sums[..]));
                    groups.add(kernels, (rows, col), sums, totals);
                }
            }
        }
        for (totals, token) in totals.iter_mut().zip(pass.tokens.clone()) {
            groups.finish(token, rows.clone(), &mut totals[..rows.len()]);
        }
        totals
    }

    /// The rows of a tile that the matrix has.
    pub(super) fn rows_of(&self, tile: usize) -> Range<usize> {
        tile * TILE_ROWS..((tile + 1) * TILE_ROWS).min(self.rows)
    }

    fn tiles_alone<'a>(&'a self) -> Tiles<impl Fn(usize, usize) -> Option<&'a [u8]> + Sync> {
        let packed = |_: usize, tile: usize| Some(self.tiles(tile..tile + 1));
        Tiles { kernel: self.kernel, cols: self.cols, count: self.tile_count(), steps: 1, packed }
    }
}
