//! Products of which groups of columns have scales of their own: those of the weights, those of int16 activations, or both.
//!
//! Integer sums of different groups cannot be added, so each group is a product of its own: the same tile kernels on a range
//! of columns, exact as ever. What follows is f32 and has one order, groups ascending, so that an output comes out bit for bit
//! the same whatever the ISA, the number of tokens or of threads:
//!
//! ```text
//! int8:   y = (dot_0 * w_0 + dot_1 * w_1 + ...) / s                  w: scales of the weights, s: the token's factor
//! int16:  y = (dot_0 * x_0) * w_0 + (dot_1 * x_1) * w_1 + ...        x: scales of the activations,
//!                                                                    dot = 256 * (product of high digits) + product of low
//! int16:  y = (dot_0 * x_0 + dot_1 * x_1 + ...) * w                  where a row of weights has one scale
//! ```

use super::activations::{Activations, BLOCK_COLS, Precision};
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

/// The columns of a group whose products have a scale of their own; `None` where the products of whole rows have one.
pub(super) fn group_cols(scales: &RowScales, precision: Precision) -> Option<usize> {
    precision.group_cols(match scales {
        RowScales::Grouped(scales) => Some(scales.cols()),
        RowScales::Uniform(_) | RowScales::PerRow(_) => None,
    })
}

impl Precision {
    /// The columns at which products have to be cut, for weights that have a scale to so many columns or to whole rows.
    pub fn group_cols(self, weights: Option<usize>) -> Option<usize> {
        match (weights, self) {
            (Some(cols), Precision::Int16) => Some(greatest_common_divisor(cols, BLOCK_COLS)),
            (None, Precision::Int16) => Some(BLOCK_COLS),
            (weights, Precision::Int8) => weights,
        }
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// What one group of columns adds to a token's outputs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AddGroup<'a> {
    /// The scale of the token's activations; int8 has one for all groups, which comes last.
    pub x_scale: Option<f32>,
    /// The scales of the rows' weights, where they are the group's own.
    pub scales: Option<&'a [f32]>,
}

impl AddGroup<'_> {
    /// The reference, which is compiled anew for each ISA: every operation is exact or correctly rounded, so the bits are the
    /// same everywhere. `low` holds the products of the low digits, where there are such.
    #[inline(always)]
    pub(crate) fn apply(self, sums: &[i32], low: &[i32], totals: &mut [f32]) {
        match (self.x_scale, self.scales) {
            (None, Some(scales)) => {
                for ((total, sum), scale) in totals.iter_mut().zip(sums).zip(scales) {
                    *total += *sum as f32 * scale;
                }
            }
            (Some(x_scale), Some(scales)) => {
                for (((total, high), low), scale) in totals.iter_mut().zip(sums).zip(low).zip(scales) {
                    *total += (256 * high + low) as f32 * x_scale * scale;
                }
            }
            (Some(x_scale), None) => {
                for ((total, high), low) in totals.iter_mut().zip(sums).zip(low) {
                    *total += (256 * high + low) as f32 * x_scale;
                }
            }
            (None, None) => unreachable!("products of whole rows"),
        }
    }
}

/// The groups of one linear and its input.
#[derive(Clone, Copy)]
pub(super) struct Groups<'a> {
    pub x: &'a Activations,
    pub scales: &'a RowScales,
    /// Columns of a group.
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

    /// Adds what the group that begins at `col` gives a token's outputs of these rows: `sums` are its products, `low` those of
    /// the token's low digits, where it has such.
    pub(super) fn add(
        self,
        kernels: &Kernels,
        (token, rows, col): (usize, &Range<usize>, usize),
        (sums, low): (&[i32], &[i32]),
        totals: &mut [f32],
    ) {
        let scales = match self.scales {
            RowScales::Grouped(scales) => Some(&scales.of_col(col)[rows.clone()]),
            RowScales::Uniform(_) | RowScales::PerRow(_) => None,
        };
        let x_scale = (self.x.precision() == Precision::Int16).then(|| self.x.scale(token, col));
        kernels.add_group(AddGroup { x_scale, scales }, &sums[..rows.len()], low, &mut totals[..rows.len()]);
    }

    /// Makes outputs of what all groups added up to.
    pub(super) fn finish(self, token: usize, rows: Range<usize>, totals: &mut [f32]) {
        match (self.x.precision(), self.scales) {
            (Precision::Int8, _) => {
                let factor = self.x.factors()[token];
                totals.iter_mut().for_each(|total| *total /= factor);
            }
            (Precision::Int16, RowScales::Grouped(_)) => {}
            (Precision::Int16, scales) => match scales.of_rows(rows) {
                RowScale::Same(scale) => totals.iter_mut().for_each(|total| *total *= scale),
                RowScale::Each(scales) => totals.iter_mut().zip(scales).for_each(|(total, scale)| *total *= scale),
            },
        }
    }

    /// Panics where the packed matrix cannot be cut into these groups.
    pub(super) fn check(self, kernel: &TernaryKernel) -> Self {
        assert!(kernel.can_scale(self.cols), "groups of {} in {}", self.cols, kernel.name());
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
