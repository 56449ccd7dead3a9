//! What a ternary kernel is: a packed layout and the functions that multiply it.
//!
//! An ISA has several kernels, each with a layout of its own, because no single one is best for every CPU, shape and number
//! of tokens. A reference to a [`TernaryKernel`] can only be had from a [`Kernels`](crate::Kernels) value, whose existence
//! proves that the CPU has the instructions; that is what makes calling the functions below sound.

use super::group_tables::GroupTables;
use super::layout::{CODES, Layout};
use super::lookup::LookupKernels;
use super::skipping::SkippingKernels;
use std::ops::Range;

/// The most tokens that a kernel multiplies in one pass over the weights.
pub(crate) const MAX_PASS: usize = 32;
/// The most that it does with a tile as it is packed.
pub(crate) const MAX_FEW: usize = 6;

/// What an ISA has for ternary matrices.
pub(crate) struct TernaryFamily {
    /// Sets row `r` of a zeroed tile of planes from its trits, padded to whole pairs of units.
    pub pack_row: unsafe fn(trits: &[i8], r: usize, tile: &mut [u8]),
    /// Dot products of rows of stored planes with one token, arranged as [`super::planes`] says; returns whether a weight is
    /// set in both planes.
    pub dot_rows: DotRows,
    /// The sum of activations.
    pub sum: unsafe fn(q: &[i8]) -> i32,
    /// Multiplies tiles of planes: the kernel for planes that are used once.
    pub planes: &'static TernaryKernel,
    /// Every kernel of the ISA, the one to take where nothing was measured first.
    pub kernels: &'static [&'static TernaryKernel],
    /// Kernels for matrices that leave something unread, where the ISA has them.
    pub skipping: Option<&'static SkippingKernels>,
}

/// Multiplies rows of planes, `width` bytes each, by the arranged activations.
type DotRows = unsafe fn(bit0: &[u8], bit1: &[u8], width: usize, x: &[i8], out: &mut [i32]) -> bool;

/// A packed layout and the functions that multiply it.
pub struct TernaryKernel {
    /// What it is called.
    pub(crate) name: &'static str,
    /// How the weights are packed.
    pub(crate) layout: &'static Layout,
    /// What is made of a token's activations before they are multiplied, if anything.
    pub(crate) preparation: Option<&'static Preparation>,
    /// The most tokens `few` takes at a time, at most [`MAX_FEW`].
    pub(crate) few_tokens: usize,
    /// Products of one tile with a few tokens.
    pub(crate) few: FewTokens,
    /// What `few` and [`add_group`](super::grouped::add_group) make of each group of columns in turn, for whole tiles of groups of
    /// at most [`INT32_COLS`](super::grouped::INT32_COLS), where there is a way that does not leave the registers in between.
    pub(crate) few_groups: Option<FewGroups>,
    /// Faster ways for many tokens, the best last.
    pub(crate) many: &'static [Many],
    /// Faster ways for many tokens and groups of some sizes.
    pub(crate) many_groups: &'static [GroupTables],
    /// A faster way for many tokens of several digits where a row has one scale.
    pub(crate) many_exact: Option<&'static GroupTables>,
}

/// `out[token][row]`, 32 rows, from a tile of `cols` columns (whole blocks of the layout) and as many activations.
pub(crate) type FewTokens = unsafe fn(tile: &[u8], cols: usize, tokens: &[Token<'_>], out: &mut [[i32; 32]]);

/// `totals[token][row] += dot * scale` for each group, 32 rows, from a tile and as many rows of activations as `few` takes:
/// those of a token's digits follow one another.
pub(crate) type FewGroups =
    unsafe fn(tile: &[u8], groups: &TileGroups<'_>, rows: &[Token<'_>], totals: &mut [[f32; 32]]);

/// The groups of a tile's columns.
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86-64 has kernels for it"))]
pub(crate) struct TileGroups<'a> {
    /// Columns of a group.
    pub cols: usize,
    /// int8 digits of a value.
    pub digits: usize,
    /// The scales of the tile's rows for each group.
    pub scales: &'a [[f32; 32]],
    /// The sums of each row of activations, `[groups][stride]` from the first of these rows on.
    pub sums: &'a [i32],
    pub stride: usize,
}

impl<'a> TileGroups<'a> {
    /// The sums of the rows' activations in a group.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86-64 has kernels for it"))]
    pub(super) fn sums<const N: usize>(&self, group: usize) -> &'a [i32; N] {
        self.sums[group * self.stride..].first_chunk().expect("sums of as many rows")
    }
}

/// Unpacks a tile of `cols` columns to a panel.
pub(crate) type UnpackPanel = unsafe fn(tile: &[u8], cols: usize, panel: &mut [u8]);

/// `out[token][row] += sum over columns of (weight + 1) * x`, 32 rows, from a panel and the activations of a pass.
pub(crate) type MultiplyPanel = unsafe fn(panel: &[u8], input: PanelTokens<'_>, out: &mut [[i32; 32]]);

/// The activations of a pass that multiplies a panel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PanelTokens<'a> {
    /// How the kernels want them.
    pub arrangement: Arrangement,
    /// How many tokens.
    pub tokens: usize,
    /// int8 values.
    pub x: &'a [i8],
    /// From one token's values to the next one's, where tokens are rows.
    #[cfg_attr(
        not(all(target_arch = "x86_64", target_os = "linux")),
        expect(dead_code, reason = "only AMX, which has kernels on Linux alone, takes rows")
    )]
    pub stride: usize,
}

impl<'a> PanelTokens<'a> {
    /// Some columns, whole multiples of 4.
    pub(super) fn columns(self, columns: Range<usize>) -> PanelTokens<'a> {
        let x = match self.arrangement {
            Arrangement::SideBySide => &self.x[columns.start * self.tokens..columns.end * self.tokens],
            Arrangement::Rows => &self.x[columns.start..],
        };
        PanelTokens { x, ..self }
    }
}

/// How the activations of a pass lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrangement {
    /// `x[columns / 4][tokens][4]`: read from first byte to last, as a panel is.
    SideBySide,
    /// `x[tokens][columns]`, as they were quantised.
    #[cfg_attr(
        not(all(target_arch = "x86_64", target_os = "linux")),
        expect(dead_code, reason = "only AMX, which has kernels on Linux alone, takes rows")
    )]
    Rows,
}

/// One token's activations as the kernels take them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Token<'a> {
    /// int8 values, one per column, zeros in the padding.
    pub quantized: &'a [i8],
    /// Their sum.
    pub sum: i32,
    /// What the kernel's [`Preparation`] made of them.
    pub prepared: &'a [u8],
}

/// What some kernels make of a token's activations, once for all matrices that multiply them.
pub(crate) struct Preparation {
    /// Bytes for so many columns, a multiple of 16.
    pub len: fn(cols: usize) -> usize,
    /// Prepares `q`.
    pub fill: unsafe fn(q: &[i8], prepared: &mut [u8]),
}

impl std::fmt::Debug for Preparation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Preparation({} bytes for 16 columns)", (self.len)(16))
    }
}

/// The ways to multiply many tokens.
pub(crate) enum Many {
    /// Tables of sums that the weights look up, for CPUs that multiply slowly.
    Lookup(LookupKernels),
    /// Weights unpacked to bytes once for many tokens, for CPUs with integer dot products.
    Panel(PanelKernels),
}

impl Many {
    /// Whether this beats fewer tokens at a time.
    fn pays(&self, tokens: usize) -> bool {
        match self {
            Many::Lookup(lookup) => lookup.pays(tokens),
            Many::Panel(panel) => tokens >= panel.min_tokens,
        }
    }
}

/// Unpacked weights: `panel[cols / 4][32 rows][4]`, each byte the weight plus one, the rows in an order that `unpack` and
/// `multiply` agree on.
pub(crate) struct PanelKernels {
    /// Smallest number of tokens for which unpacking pays.
    pub min_tokens: usize,
    /// The most tokens `multiply` takes at a time, at most [`MAX_PASS`].
    pub tokens: usize,
    /// How `multiply` wants them.
    pub arrangement: Arrangement,
    /// Bytes of activations that the L2 cache keeps while panel after panel passes by: tokens beyond go after them.
    pub input_bytes: usize,
    /// Unpacks the weights.
    pub unpack: UnpackPanel,
    /// Products of a panel with a pass of tokens.
    pub multiply: MultiplyPanel,
}

impl TernaryKernel {
    /// The way for so many tokens, where there is a faster one than `few`.
    fn many(&self, tokens: usize) -> Option<&'static Many> {
        self.many.iter().rfind(|many| many.pays(tokens))
    }

    /// The panel kernels, where they are the way for so many tokens.
    pub(super) fn panel(&self, tokens: usize) -> Option<&'static PanelKernels> {
        match self.many(tokens) {
            Some(Many::Panel(panel)) => Some(panel),
            _ => None,
        }
    }

    /// The lookup kernels, where they are.
    pub(super) fn lookup(&self, tokens: usize) -> Option<&'static LookupKernels> {
        match self.many(tokens) {
            Some(Many::Lookup(lookup)) => Some(lookup),
            _ => None,
        }
    }

    /// What the kernel is called by `ROTOR_KERNEL`: the name of its layout, and of what it does with many tokens where
    /// another kernel of the same layout does something else.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it does with many tokens, where that is a part of its name.
    pub(super) fn way(&self) -> Option<&'static str> {
        self.name.split_once('-').map(|(_, way)| way)
    }

    /// Whether it is one for codes.
    pub(crate) fn packs_codes(&self) -> bool {
        std::ptr::eq(self.layout, &raw const CODES)
    }

    /// Whether one's packed weights are the other's.
    pub(super) fn shares_layout(&self, other: &TernaryKernel) -> bool {
        std::ptr::eq(self.layout, other.layout)
    }

    /// Bits of a packed weight, padding left out of account.
    pub fn bits_per_weight(&self) -> f64 {
        (self.layout.block_bytes * 8) as f64 / (self.layout.block_cols * super::TILE_ROWS) as f64
    }

    /// Bytes of a packed matrix `[rows, cols]`.
    pub fn packed_bytes(&self, rows: usize, cols: usize) -> usize {
        rows.div_ceil(super::TILE_ROWS) * self.layout.tile_bytes(cols)
    }
}

impl std::fmt::Debug for TernaryKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TernaryKernel({})", self.name())
    }
}
