//! Products that do not end with one integer: groups of columns whose weights have scales of their own, activations of several
//! digits, or both.
//!
//! Integer sums of different groups cannot be added, so each group is a product of its own: the same tile kernels on a range
//! of columns, exact as ever. What follows is f32 and has one order, groups ascending, so that an output comes out bit for bit
//! the same whatever the ISA, the number of tokens or of threads:
//!
//! ```text
//! int8:   y = (dot_0 * w_0 + dot_1 * w_1 + ...) / s          w: scales of the weights, s: the token's factor
//! exact:  y = (dot_0 * w_0 + dot_1 * w_1 + ...) * step       dot: of the whole integers, rounded once when it becomes a float
//! exact:  y = (dot * step) * w                               where a row of weights has one scale
//! ```
//!
//! How a kernel comes to `dot` is its own affair: from three digits of int8 in most, from two of int16 where weights look sums up
//! in tables of int16.

use super::TILE_ROWS;
use super::activations::{Activations, MAX_DIGITS, Precision};
use super::group_tables::TileScales;
use super::kernel::{Many, TernaryKernel, TileGroups};
use super::lookup::CHUNK_COLS;
use super::matrix::RowScales;
use crate::dispatch::Kernels;
use crate::epilogue::RowScale;
use std::ops::Range;

/// What the columns of a group have to be a multiple of: the columns that tables of 81 sums take at a time.
pub const GROUP_ALIGN: usize = CHUNK_COLS;

/// Scales of a matrix's groups of columns.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupScales {
    cols: usize,
    rows: usize,
    /// Of a row.
    groups: usize,
    /// `[tiles][groups][32 rows]`, zeros where there is no row: read from first to last, as the weights are.
    values: Vec<[f32; TILE_ROWS]>,
}

impl GroupScales {
    /// Scales `[rows][groups]`, each for `cols` columns; `None` where [`GROUP_ALIGN`] does not divide those or the values
    /// are not as many for each row.
    pub fn new(rows: usize, cols: usize, values: &[f32]) -> Option<GroupScales> {
        let groups = values.len().checked_div(rows)?;
        if cols == 0 || !cols.is_multiple_of(GROUP_ALIGN) || groups == 0 || values.len() != rows * groups {
            return None;
        }
        let mut tiles = vec![[0.0; TILE_ROWS]; rows.div_ceil(TILE_ROWS) * groups];
        for (row, values) in values.chunks_exact(groups).enumerate() {
            for (tile, value) in tiles[row / TILE_ROWS * groups..].iter_mut().zip(values) {
                tile[row % TILE_ROWS] = *value;
            }
        }
        Some(GroupScales { cols, rows, groups, values: tiles })
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
        assert!(row < self.rows && col < self.groups * self.cols, "({row}, {col}) has no scale");
        self.of_tile(row / TILE_ROWS)[col / self.cols][row % TILE_ROWS]
    }

    /// Bytes in memory of so many scales for each row, which single tokens read beside the weights.
    pub fn bytes_of(rows: usize, groups: usize) -> usize {
        rows.next_multiple_of(TILE_ROWS) * groups * size_of::<f32>()
    }

    /// Multiplies every scale.
    pub fn multiply(&mut self, factor: f32) {
        self.values.as_flattened_mut().iter_mut().for_each(|scale| *scale *= factor);
    }

    pub(super) fn bytes(&self) -> usize {
        GroupScales::bytes_of(self.rows, self.groups)
    }

    pub(super) fn fits(&self, rows: usize, cols: usize) -> bool {
        self.rows == rows && self.groups * self.cols == cols
    }

    /// The scales of a tile's rows for each group.
    fn of_tile(&self, tile: usize) -> &[[f32; TILE_ROWS]] {
        &self.values[tile * self.groups..(tile + 1) * self.groups]
    }
}

/// The columns at which products have to be cut; `None` where those of whole rows have one scale.
pub(super) fn group_cols(scales: &RowScales) -> Option<usize> {
    match scales {
        RowScales::Grouped(scales) => Some(scales.cols()),
        RowScales::Uniform(_) | RowScales::PerRow(_) => None,
    }
}

/// Products of consecutive rows, the high digits first; the others are empty where activations have one digit.
pub(crate) type DigitSums<'a> = [&'a [i32]; MAX_DIGITS];

/// Columns of a group whose dot products with the integers of [`Precision::Exact`] fit int32, none of which is above
/// `2^22` in size.
pub(crate) const INT32_COLS: usize = 511;

/// Adds the products of one group of `cols` columns to a token's outputs, times the rows' `scales` where those are the group's
/// own. The reference, which is compiled anew for each ISA: every operation is exact or correctly rounded, so the bits are the
/// same everywhere.
#[inline(always)]
pub(crate) fn add_group(scales: Option<&[f32]>, cols: usize, [high, middle, low]: DigitSums<'_>, totals: &mut [f32]) {
    let short = |[high, middle, low]: [i32; 3]| (high.wrapping_mul(65536) + middle.wrapping_mul(256) + low) as f32;
    // All of it is below 2^53.
    let long =
        |[high, middle, low]: [i32; 3]| (f64::from(high) * 65536.0 + f64::from(middle) * 256.0 + f64::from(low)) as f32;
    match (scales, low.is_empty()) {
        (Some(scales), true) => add_sums([high], scales, totals, |[sum], scale| sum as f32 * scale),
        (Some(scales), false) if cols <= INT32_COLS => {
            add_sums([high, middle, low], scales, totals, |sums, scale| short(sums) * scale);
        }
        (Some(scales), false) => add_sums([high, middle, low], scales, totals, |sums, scale| long(sums) * scale),
        // No scale is multiplied here, but `add_sums` takes one for each row.
        (None, false) => {
            let unused = &[0.0; TILE_ROWS];
            for (at, totals) in totals.chunks_mut(TILE_ROWS).enumerate() {
                let sums = [high, middle, low].map(|sums| &sums[at * TILE_ROWS..]);
                add_sums(sums, &unused[..totals.len()], totals, |sums, _| long(sums));
            }
        }
        (None, true) => unreachable!("one digit and one scale need no groups"),
    }
}

/// `totals[i] += product(sums[i], scales[i])`: in whole tiles, whose length is known when this is compiled, and what is left.
#[inline(always)]
fn add_sums<const DIGITS: usize>(
    sums: [&[i32]; DIGITS],
    scales: &[f32],
    totals: &mut [f32],
    product: impl Fn([i32; DIGITS], f32) -> f32,
) {
    let (tiles, rest) = totals.as_chunks_mut::<TILE_ROWS>();
    let (scales_of_tiles, scales_of_rest) = scales.as_chunks::<TILE_ROWS>();
    let sums_of_rest = sums.map(|sums| &sums[tiles.len() * TILE_ROWS..]);
    for (at, (totals, scales)) in tiles.iter_mut().zip(scales_of_tiles).enumerate() {
        let sums = sums.map(|sums| &sums.as_chunks::<TILE_ROWS>().0[at]);
        for i in 0..TILE_ROWS {
            totals[i] += product(sums.map(|sums| sums[i]), scales[i]);
        }
    }
    for (i, (total, scale)) in rest.iter_mut().zip(scales_of_rest).enumerate() {
        *total += product(sums_of_rest.map(|sums| sums[i]), *scale);
    }
}

/// The groups of one linear and its input.
#[derive(Clone, Copy)]
pub(super) struct Groups<'a> {
    pub x: &'a Activations,
    pub scales: &'a RowScales,
    /// Columns of a group; those of the packed matrix where there is one group.
    pub cols: usize,
    /// Columns of the packed matrix; the last group may end here.
    pub padded_cols: usize,
}

impl<'a> Groups<'a> {
    /// The columns of each group, ascending.
    pub(super) fn columns(self) -> impl Iterator<Item = Range<usize>> {
        let (cols, end) = (self.cols, self.padded_cols);
        (0..self.x.cols()).step_by(cols).map(move |start| start..(start + cols).min(end))
    }

    /// Adds what the group that begins at `col` gives the outputs of these rows, which begin with a tile; `sums` are its products.
    pub(super) fn add<'s>(
        self,
        kernels: &Kernels,
        (rows, col): (&Range<usize>, usize),
        sums: DigitSums<'s>,
        totals: &mut [f32],
    ) {
        for (at, totals) in totals[..rows.len()].chunks_mut(TILE_ROWS).enumerate() {
            let of_tile = |sums: &'s [i32]| &sums[at * TILE_ROWS..][..totals.len()];
            let sums = sums.map(|sums| if sums.is_empty() { sums } else { of_tile(sums) });
            let scales = match self.scales {
                RowScales::Grouped(scales) => {
                    Some(&scales.of_tile(rows.start / TILE_ROWS + at)[col / self.cols][..totals.len()])
                }
                RowScales::Uniform(_) | RowScales::PerRow(_) => None,
            };
            kernels.add_group(scales, self.cols, sums, totals);
        }
    }

    /// Whether the columns of a group have scales of their own.
    pub(super) fn are_scaled(self) -> bool {
        matches!(self.scales, RowScales::Grouped(_))
    }

    /// The scales of a tile's rows, and those of further tiles, for a group.
    pub(super) fn scales_of_tiles(self, tile: usize, group: usize) -> TileScales<'a> {
        match self.scales {
            RowScales::Grouped(GroupScales { values, groups, .. }) => {
                TileScales { scales: &values[tile * groups + group..], stride: *groups }
            }
            RowScales::Uniform(_) | RowScales::PerRow(_) => unreachable!("groups without scales"),
        }
    }

    /// The groups of a whole tile's rows with some rows of activations; `None` where a tile is not whole, or groups are not short.
    pub(super) fn of_tile(self, rows: &Range<usize>, of_x: &Range<usize>) -> Option<TileGroups<'a>> {
        let RowScales::Grouped(scales) = self.scales else { return None };
        (rows.len() == TILE_ROWS && self.cols <= INT32_COLS).then(|| TileGroups {
            cols: self.cols,
            digits: self.x.precision().digits(),
            scales: scales.of_tile(rows.start / TILE_ROWS),
            sums: &self.x.sums_of_groups(self.cols)[of_x.start..],
            stride: self.x.rows(),
        })
    }

    /// Makes outputs of what all groups added up to.
    pub(super) fn finish(self, token: usize, rows: Range<usize>, totals: &mut [f32]) {
        match self.x.precision() {
            Precision::Int8 => {
                let factor = self.x.factors()[token];
                totals.iter_mut().for_each(|total| *total /= factor);
            }
            Precision::Exact => {
                let step = self.x.step(token);
                totals.iter_mut().for_each(|total| *total *= step);
            }
        }
        // Scales of groups were multiplied group by group.
        if !self.are_scaled() {
            match self.scales.of_rows(rows) {
                RowScale::Same(scale) => totals.iter_mut().for_each(|total| *total *= scale),
                RowScale::Each(scales) => totals.iter_mut().zip(scales).for_each(|(total, scale)| *total *= scale),
            }
        }
    }

    /// Panics where the packed matrix cannot be cut into these groups.
    pub(super) fn check(self, kernel: &TernaryKernel) -> Self {
        let is_whole = self.cols == self.padded_cols;
        assert!(is_whole || kernel.can_scale(self.cols), "groups of {} in {}", self.cols, kernel.name());
        self
    }
}

impl TernaryKernel {
    /// Whether the kernel can multiply groups of so many columns one by one: whether its packed layout, and the chunks of its
    /// tables, can be cut there.
    pub fn can_scale(&self, group_cols: usize) -> bool {
        let divides = |many: &Many| match many {
            Many::Lookup(lookup) => group_cols.is_multiple_of(lookup.chunk.cols),
            Many::Panel(_) => true,
        };
        self.layout.divides(group_cols) && self.many.iter().all(divides)
    }
}
