//! Products of matrices whose rows have a scale for every so many columns.
//!
//! Integer sums of different groups cannot be added, so each group is a product of its own: the same tile kernels on a range
//! of columns, exact as ever. What follows is f32 and has one order, groups ascending: whatever the ISA, the number of
//! tokens or of threads, `out = (dot_0 * scale_0 + dot_1 * scale_1 + ...) / s` comes out bit for bit the same.

use super::kernel::{Many, TernaryKernel};
use super::lookup::CHUNK_COLS;

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
        self.group(col / self.cols)[row]
    }

    /// Multiplies every scale.
    pub fn multiply(&mut self, factor: f32) {
        self.values.iter_mut().for_each(|scale| *scale *= factor);
    }

    pub(super) fn fits(&self, rows: usize, cols: usize) -> bool {
        self.rows == rows && self.values.len() / self.rows * self.cols == cols
    }

    pub(super) fn groups(&self) -> usize {
        self.values.len() / self.rows
    }

    /// One group's scales of all rows.
    pub(super) fn group(&self, group: usize) -> &[f32] {
        &self.values[group * self.rows..(group + 1) * self.rows]
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
