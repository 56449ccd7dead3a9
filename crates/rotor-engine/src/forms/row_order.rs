//! Rows that are stored in another order than the graph's.

/// The order of a linear's rows relative to the graph's.
///
/// The graph rotates pairs `(j, j + head_dim/2)`. A llama GGUF stores q and k rows so that pairs are neighbours:
/// stored row `2j + h` of a head is the graph's row `h * head_dim/2 + j` (docs/formats.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// Stored row `r` is row `r`.
    AsStored,
    /// Rows are interleaved inside heads of this many rows.
    RopeInterleaved {
        /// Rows per head.
        head_dim: usize,
    },
}

impl RowOrder {
    /// The stored row that holds the graph's row `row`.
    pub fn stored_row(self, row: usize) -> usize {
        match self {
            RowOrder::AsStored => row,
            RowOrder::RopeInterleaved { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let (half, pair) = (within / (head_dim / 2), within % (head_dim / 2));
                head * head_dim + 2 * pair + half
            }
        }
    }

    /// The graph's row that stored row `stored` holds: the inverse of [`stored_row`](Self::stored_row).
    pub fn graph_row(self, stored: usize) -> usize {
        match self {
            RowOrder::AsStored => stored,
            RowOrder::RopeInterleaved { head_dim } => {
                let (head, within) = (stored / head_dim, stored % head_dim);
                head * head_dim + (within % 2) * (head_dim / 2) + within / 2
            }
        }
    }
}
