//! Ternary matrices times integer activations, exactly.
//!
//! A [`TernaryMatrix`] is packed once, for one of the kernels of this CPU. `layout.rs` has the packed forms, `kernel.rs` says
//! what a kernel consists of, and there is a file for each ISA. Whatever the kernel, products are the plain integer dot
//! products bit for bit, for every int8 input; each ISA's file proves its bounds.
//!
//! The ways to multiply:
//!
//! - *Tables of 16 sums* (planes; AVX2, AVX-512, NEON): every 4 activations have 16 subset sums. A nibble of `P` picks the sum of
//!   the activations its row adds, the same nibble of `N` the sum it subtracts; one byte shuffle looks up many rows at once.
//!   The sums do not fit a byte, so a table is split into `31 * high + low` and both halves are accumulated as bytes.
//! - *Tables of 81 sums* (many tokens; AVX2 and NEON 16, AVX-512 32 of them): for each 4 columns, the 81 possible signed sums of
//!   those tokens are tabulated as vectors of int16; a weight code (one byte, 4 trits) then costs one vector load and one
//!   add for all of them, and no multiplication. Packed weights are turned into codes on the way in, so one packed copy
//!   serves both.
//! - *Tables of 27 sums* (many tokens; AVX-512 VBMI): a register holds what three columns of a token can add, or twice three
//!   where that fits bytes, and a permutation looks it up for 32 rows. Packed weights are turned into codes on the way in.
//! - *Products in pairs* (planes, some tokens; AVX2): too few for those tables, they share weights unpacked to bytes, which an
//!   instruction multiplies by activations and adds in pairs.
//! - *Integer dot products* (codes and trios; AVX-VNNI, AVX-512 VNNI, NEON with dot products): an instruction multiplies four
//!   bytes by four and adds the products to an int32. With the weight plus one as the byte (unsigned on x86) the sum is too
//!   large by the sum of the activations, which is known. Two-bit fields need not be shifted into place: a field at bit `2f` gives `4^f` times
//!   the product, in an accumulator of its own that is shifted right once at the end.
//! - *Fives* and *fours*, which can leave rows and columns unread: a type of their own, [`SkippingMatrix`].

mod activations;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_lookup;
#[cfg(target_arch = "x86_64")]
mod avx2_panel;
#[cfg(target_arch = "x86_64")]
mod avx2_rows;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_groups;
#[cfg(target_arch = "x86_64")]
mod avx512_lookup;
#[cfg(target_arch = "x86_64")]
mod avx512_permute;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512_vbmi;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512_vnni;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx_vnni;
mod choice;
mod group_tables;
mod grouped;
pub(crate) mod kernel;
mod layout;
mod linears;
mod lookup;
mod matrix;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon_dotprod;
#[cfg(target_arch = "aarch64")]
mod neon_rows;
mod planes;
pub(crate) mod scalar;
mod skipping;
mod tiles;

pub use activations::{Activations, Precision};
pub(crate) use activations::{MAX_DIGITS, quantize_exact};
pub use choice::{Choice, UnknownKernel};
pub(crate) use grouped::{DigitSums, add_group};
pub use grouped::{GROUP_ALIGN, GroupScales};
pub use kernel::TernaryKernel;
pub use linears::{MAX_PRODUCTS, Product, TernaryLinear, linears};
pub use matrix::{RowScales, Scratch, TernaryMatrix};
pub use planes::{Orientation, Planes, TileScratch};
pub use skipping::{SkipCounts, SkippingKernel, SkippingLinear, SkippingMatrix, Skips, gate_up};

/// Rows of a tile.
pub const TILE_ROWS: usize = 32;
/// Columns of a unit of planes.
pub(crate) const UNIT_COLS: usize = 8;
/// Bytes of a unit of planes: 32 of each plane.
pub(crate) const UNIT_BYTES: usize = 2 * TILE_ROWS;
/// Columns of planes are padded to a multiple of this, with zero weights.
pub(crate) const COLS_ALIGN: usize = 16;

/// `cols` rounded up to what tiles of planes hold.
pub(crate) fn padded_cols(cols: usize) -> usize {
    cols.next_multiple_of(COLS_ALIGN)
}
