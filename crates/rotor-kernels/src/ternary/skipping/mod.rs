//! Matrices of which rows or columns that do not matter to a token are not read.
//!
//! Behind a squared ReLU many activations are exactly zero, and what meets them need not be read. [`Skips`] has the two ways:
//!
//! - Of the linear that a gate multiplies, `max(gate, 0)^2 * up`, only *rows* whose gate is above zero.
//! - Of the linear behind it only *columns* whose int8 activation is not zero. The sums are integers: leaving zeros out changes
//!   nothing.
//!
//! # Places
//!
//! Rows and columns do not lie in their order. Read in order with gaps, they look like a stream to the hardware, which fetches
//! what was to be passed over: at 42 % of the lines nothing would be gained. So places are shuffled once, rows within blocks of
//! [`BLOCK_ROWS`], columns all over a slice. Where most of a matrix is needed, it is read in the order of its places, from end
//! to end; from which share on, [`trial`] finds out.
//!
//! # Many tokens
//!
//! A few tokens are multiplied as the weights are packed, in passes. From as many on as tables of sums or panels pay for, the weights
//! become codes for those tables ([`coded`]) or such panels, where the ISA has either; or else, for more than [`MOST_FEW`], they are
//! packed anew, as a kernel for codes wants them, in memory that all matrices share. There is no second copy.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512_permute;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512_vbmi;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx_vnni;
mod coded;
pub(crate) mod layout;
mod matrix;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon_dotprod;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", test))]
mod order;
mod places;
mod products;
pub(crate) mod scalar;
#[cfg(test)]
mod tests;
#[cfg(any(target_arch = "x86_64", test))]
mod threes;
mod trial;

use crate::ternary::kernel::TernaryKernel;
use coded::SkippingTables;
use layout::{ByteLayout, MAX_LINE_WEIGHTS};
pub use matrix::{SkippingKernel, SkippingMatrix, Skips};
pub(crate) use products::SkippingScratch;
pub use products::{SkipCounts, SkippingLinear, gate_up};
pub(crate) use trial::dense_from;

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;
/// Rows within which places are shuffled.
pub(crate) const BLOCK_ROWS: usize = 64;
/// The most tokens that are multiplied by the weights as they are packed, where there are neither tables nor panels.
const MOST_FEW: usize = 21;
/// The most tokens that a kernel takes at a time.
pub(crate) const MAX_TOKENS: usize = 4;
/// Places that follow the last column of a list, for what is fetched ahead.
pub(crate) const AHEAD: usize = 256;
/// The most rows and columns: `2 * 64 * 128` for each fits the int32 of every accumulator.
const MAX_SIDE: usize = 1 << 16;

/// What an ISA has for matrices of which rows or columns can be left unread.
pub(crate) struct SkippingKernels {
    /// How trits lie in bytes.
    pub layout: &'static ByteLayout,
    /// `out[token][i] = sum over columns of (weight + 1) * x` for the rows at the listed places, `row_lines` lines each.
    ///
    /// The contract: the places are inside `bytes`; there are 1 to [`MAX_TOKENS`] tokens of as many activations as the lines
    /// have weights, and `out` is as long as the list for each.
    pub rows: MultiplyRows,
    /// `sums[token][row] = sum over the listed columns of (weight + 1) * x` for the rows of a slice; what was in `sums` does
    /// not matter.
    ///
    /// The contract: the places are inside the slice and go on by [`AHEAD`] beyond the activations of each of 1 to
    /// [`MAX_TOKENS`] tokens, which are as many as a multiple of four.
    pub columns: MultiplyColumns,
    /// The columns for which an activation of a token is not zero.
    ///
    /// The contract: as many places as activations of each of 1 to [`MAX_TOKENS`] tokens.
    pub active: unsafe fn(tokens: &[&[i8]], places: &[u32], active: &mut Active),
    /// What packs them as tiles of codes, for kernels without tables.
    pub tiles: Option<TilesOfCodes>,
    /// What turns them into codes for tables of sums, where the ISA has such.
    pub tables: Option<&'static SkippingTables>,
    /// What unpacks them to panels, where the ISA has such.
    pub panels: Option<&'static SkippingPanels>,
}

/// What an ISA has to unpack them to panels, as [`crate::ternary::kernel::PanelKernels`] has them, with the rows in their order.
pub(crate) struct SkippingPanels {
    /// The kernel that multiplies such panels.
    pub kernel: &'static TernaryKernel,
    /// Unpacks the first or second 32 of a block's 64 rows.
    ///
    /// The contract: `block` is the rows' bytes, and the panel has at most as many columns as these, a multiple of 16.
    pub of_rows: unsafe fn(block: &[u8], tile: usize, panel: &mut [u8]),
    /// Unpacks the 32 rows of a slice with the number `tile`; columns of the panel that have no place are zero weights.
    ///
    /// The contract: the places are inside the slice; the panel has as many columns or up to 15 more, a multiple of 16.
    pub of_columns: unsafe fn(slice: &[u8], places: &[u32], tile: usize, panel: &mut [u8]),
}

/// Packs as tiles of codes, as [`crate::ternary::layout`] has them.
pub(crate) struct TilesOfCodes {
    /// Packs 64 rows of `cols` columns, in the order of their numbers, as two tiles, or one where `tiles` has room for no more.
    ///
    /// The contract: `block` is the rows' bytes.
    pub of_rows: unsafe fn(block: &[u8], cols: usize, tiles: &mut [u8]),
    /// Packs a slice, or as much of it as `tiles` has room for.
    ///
    /// The contract: the places, one for each column, are inside the slice.
    pub of_columns: unsafe fn(slice: &[u8], places: &[u32], tiles: &mut [u8]),
}

/// Multiplies tokens by listed rows.
type MultiplyRows = unsafe fn(bytes: &[u8], row_lines: usize, list: &[u32], tokens: &[&[i8]], out: &mut [i32]);

/// Multiplies tokens by listed columns of a slice.
type MultiplyColumns = unsafe fn(slice: &[u8], places: &[u32], tokens: &[&[i8]], sums: &mut [[i32; MAX_LINE_WEIGHTS]]);

/// Columns to be read: where they lie, and what they are multiplied by.
#[derive(Debug, Default)]
pub(crate) struct Active {
    /// [`AHEAD`] more than activations once they are complete.
    pub places: Vec<u32>,
    /// Of each token; a multiple of four once they are complete.
    pub x: [Vec<i8>; MAX_TOKENS],
}

impl Active {
    /// Makes room for the columns of so many tokens.
    fn begin(&mut self, columns: usize, tokens: usize) {
        self.places.clear();
        self.places.reserve(columns + LINE + AHEAD);
        for x in &mut self.x[..tokens] {
            x.clear();
            x.reserve(columns + LINE);
        }
    }

    /// Fills up to fours of columns with zeros, and lets places go on: what is fetched there has been read before.
    fn complete(&mut self, tokens: usize) {
        let columns = self.places.len().next_multiple_of(4);
        self.x[..tokens].iter_mut().for_each(|x| x.resize(columns, 0));
        self.places.resize(columns + AHEAD, self.places.last().copied().unwrap_or(0));
    }
}
