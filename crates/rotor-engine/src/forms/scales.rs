//! Scales of ternary tensors, and how the scales of blocks become those of a tensor.
//!
//! The contract (docs/formats.md, "Scales"): a scale always multiplies. Equal block scales collapse to one, and a block
//! without a nonzero trit has no scale of its own, so it never stands in the way.

/// Scales of a ternary tensor; they always multiply.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// One for the whole tensor.
    Tensor(f32),
    /// One per row, in the order of the file.
    Rows(Vec<f32>),
    /// `groups` per row, row-major, rows in the order of the file: each covers `cols / groups` columns.
    Groups {
        /// Groups per row.
        groups: usize,
        /// `rows * groups` scales.
        values: Vec<f32>,
    },
}

impl Scales {
    /// Groups per row: 1 where a row has one scale.
    pub fn groups(&self) -> usize {
        match self {
            Scales::Tensor(_) | Scales::Rows(_) => 1,
            Scales::Groups { groups, .. } => *groups,
        }
    }

    /// The scale of a stored row's group. `group` counts in [`groups`](Self::groups) of this value.
    ///
    /// # Panics
    ///
    /// If there is no such row or group.
    pub fn get(&self, row: usize, group: usize) -> f32 {
        match self {
            Scales::Tensor(scale) => *scale,
            Scales::Rows(scales) => scales[row],
            Scales::Groups { groups, values } => {
                assert!(group < *groups, "group {group} of {groups}");
                values[row * groups + group]
            }
        }
    }

    /// Every number there is, row-major.
    pub fn values(&self) -> &[f32] {
        match self {
            Scales::Tensor(scale) => std::slice::from_ref(scale),
            Scales::Rows(values) | Scales::Groups { values, .. } => values,
        }
    }

    /// The same numbers, each changed.
    pub fn map(self, change: impl Fn(f32) -> f32) -> Scales {
        match self {
            Scales::Tensor(scale) => Scales::Tensor(change(scale)),
            Scales::Rows(values) => Scales::Rows(values.into_iter().map(change).collect()),
            Scales::Groups { groups, values } => {
                Scales::Groups { groups, values: values.into_iter().map(change).collect() }
            }
        }
    }

    /// The scales of rows in another order: `from(row)` says which row of this value becomes row `row`.
    pub fn reordered(&self, rows: usize, from: impl Fn(usize) -> usize) -> Scales {
        match self {
            Scales::Tensor(scale) => Scales::Tensor(*scale),
            Scales::Rows(values) => Scales::Rows((0..rows).map(|row| values[from(row)]).collect()),
            Scales::Groups { groups, values } => {
                let row = |row| &values[from(row) * groups..(from(row) + 1) * groups];
                Scales::Groups { groups: *groups, values: (0..rows).flat_map(row).copied().collect() }
            }
        }
    }

    /// From numbers as a `[1]`, `[rows]` or `[rows, groups]` array holds them; `None` where their number fits neither the
    /// rows nor groups of whole columns.
    pub fn from_values(rows: usize, cols: usize, values: Vec<f32>) -> Option<Scales> {
        match values.as_slice() {
            &[scale] => Some(Scales::Tensor(scale)),
            _ if values.len() == rows => Some(Scales::Rows(values)),
            _ => {
                let groups = values.len().checked_div(rows).filter(|&groups| groups > 0)?;
                let is_whole = values.len() == rows * groups && cols.is_multiple_of(groups);
                is_whole.then_some(Scales::Groups { groups, values })
            }
        }
    }

    /// The fewest scales that say the same. `blocks` holds `per_row` blocks for each row, `None` for a block without a
    /// nonzero trit; `otherwise` is the scale of a tensor that is zero everywhere.
    pub fn collapse(blocks: &[Option<f32>], per_row: usize, otherwise: f32) -> Scales {
        if let Some(one) = common(blocks) {
            return Scales::Tensor(one.unwrap_or(otherwise));
        }
        let rows: Option<Vec<_>> = blocks.chunks_exact(per_row).map(common).collect();
        if let Some(rows) = rows {
            return Scales::Rows(rows.into_iter().map(Option::unwrap_or_default).collect());
        }
        // Neighbours join as long as all can: the same weights give the same groups whatever blocks they came in.
        let (mut groups, mut values) = (per_row, blocks.to_vec());
        while groups.is_multiple_of(2)
            && let Some(halved) = values.chunks_exact(2).map(common).collect()
        {
            (groups, values) = (groups / 2, halved);
        }
        Scales::Groups { groups, values: values.into_iter().map(Option::unwrap_or_default).collect() }
    }
}

/// The one scale that all blocks agree on: `None` where they do not, `Some(None)` where none of them has one.
fn common(blocks: &[Option<f32>]) -> Option<Option<f32>> {
    let mut own = blocks.iter().flatten();
    let Some(first) = own.next() else { return Some(None) };
    own.all(|scale| scale == first).then_some(Some(*first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_block_scales_collapse_and_zero_blocks_do_not_matter() {
        let (a, b) = (Some(0.5), Some(0.25));
        assert_eq!(Scales::collapse(&[a, None, a, a], 2, 9.0), Scales::Tensor(0.5));
        assert_eq!(Scales::collapse(&[None; 4], 2, 9.0), Scales::Tensor(9.0));
        assert_eq!(Scales::collapse(&[a, None, b, b, None, None], 2, 9.0), Scales::Rows(vec![0.5, 0.25, 0.0]));
        let groups = |groups, values: &[f32]| Scales::Groups { groups, values: values.to_vec() };
        assert_eq!(Scales::collapse(&[a, b, None, b], 4, 9.0), groups(4, &[0.5, 0.25, 0.0, 0.25]));
        assert_eq!(Scales::collapse(&[a, None, b, b], 4, 9.0), groups(2, &[0.5, 0.25]));
        assert_eq!(Scales::collapse(&[a, a, b, b, a, None], 6, 9.0), groups(3, &[0.5, 0.25, 0.5]));
    }

    #[test]
    fn arrays_of_scales_say_what_they_cover() {
        assert_eq!(Scales::from_values(2, 8, vec![3.0]), Some(Scales::Tensor(3.0)));
        assert_eq!(Scales::from_values(2, 8, vec![3.0, 4.0]), Some(Scales::Rows(vec![3.0, 4.0])));
        let four = Scales::from_values(2, 8, vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!((four.groups(), four.get(1, 0)), (2, 3.0));
        assert_eq!(four.reordered(2, |row| 1 - row).values(), [3.0, 4.0, 1.0, 2.0]);
        for values in [vec![], vec![0.0; 3], vec![0.0; 6]] {
            assert_eq!(Scales::from_values(2, 8, values), None);
        }
    }
}
