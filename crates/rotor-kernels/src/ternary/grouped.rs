//! Products that do not end with one integer: groups of columns whose weights have scales of their own, activations of several
//! digits, or both.
//!
//! Integer sums of different groups cannot be added, so each group is a product of its own: the same tile kernels on a range
//! of columns, exact as ever. What follows is f32 and has one order, groups ascending, so that an output comes out bit for bit
//! the same whatever the ISA, the number of tokens or of threads:
//!
//! ```text
//! int8:   y = (dot_0 * w_0 + dot_1 * w_1 + ...) / s          w: scales of the weights, s: the token's factor
//! exact:  y = (dot_0 * w_0 + dot_1 * w_1 + ...) * step       dot = 65536 high + 256 middle + low, products of the digits
//! exact:  y = (dot * step) * w                               where a row of weights has one scale
//! ```

use super::TILE_ROWS;
use super::activations::{Activations, MAX_DIGITS, Precision};
use super::kernel::{Many, TernaryKernel};
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
        self.of_col(col)[row]
    }

    /// Multiplies every scale.
    pub fn multiply(&mut self, factor: f32) {
        self.values.iter_mut().for_each(|scale| *scale *= factor);
    }

    pub(super) fn fits(&self, rows: usize, cols: usize) -> bool {
        self.rows == rows && self.values.len() / self.rows * self.cols == cols
    }

    /// The scales of all rows for the group that a column is in.
    fn of_col(&self, col: usize) -> &[f32] {
        let group = col / self.cols;
        &self.values[group * self.rows..(group + 1) * self.rows]
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

/// Adds the products of one group of columns to a token's outputs, times the rows' `scales` where those are the group's own. The
/// reference, which is compiled anew for each ISA: every operation is exact or correctly rounded, so the bits are the same
/// everywhere.
#[inline(always)]
pub(crate) fn add_group(scales: Option<&[f32]>, [high, middle, low]: DigitSums<'_>, totals: &mut [f32]) {
    // Products of single digits are exact in f32, and so are their multiples of a power of two.
    let exact = |[high, middle, low]: [i32; 3]| (high as f32 * 65536.0 + middle as f32 * 256.0) + low as f32;
    match (scales, low.is_empty()) {
        (Some(scales), true) => add_sums([high], scales, totals, |[sum], scale| sum as f32 * scale),
        (Some(scales), false) => add_sums([high, middle, low], scales, totals, |sums, scale| exact(sums) * scale),
        // No scale is multiplied here, but `add_sums` takes one for each row.
        (None, false) => {
            let unused = &[0.0; TILE_ROWS];
            for (at, totals) in totals.chunks_mut(TILE_ROWS).enumerate() {
                let sums = [high, middle, low].map(|sums| &sums[at * TILE_ROWS..]);
                add_sums(sums, &unused[..totals.len()], totals, |sums, _| exact(sums));
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

    /// Adds what the group that begins at `col` gives the outputs of these rows; `sums` are its products.
    pub(super) fn add(
        self,
        kernels: &Kernels,
        (rows, col): (&Range<usize>, usize),
        sums: DigitSums<'_>,
        totals: &mut [f32],
    ) {
        let scales = match self.scales {
            RowScales::Grouped(scales) => Some(&scales.of_col(col)[rows.clone()]),
            RowScales::Uniform(_) | RowScales::PerRow(_) => None,
        };
        let sums = sums.map(|sums| &sums[..rows.len().min(sums.len())]);
        kernels.add_group(scales, sums, &mut totals[..rows.len()]);
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
        if !matches!(self.scales, RowScales::Grouped(_)) {
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
