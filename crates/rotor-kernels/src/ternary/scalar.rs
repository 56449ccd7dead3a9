//! The reference: dot products anyone can check by eye, and the fallback on CPUs without a faster kernel.
//!
//! There is one kernel for each packed layout, the twin of every other kernel for it.

use super::kernel::{FewTokens, TernaryFamily, TernaryKernel, Token};
use super::layout::{self, Layout};
use super::skipping;
use super::{TILE_ROWS, UNIT_BYTES, UNIT_COLS};

pub(crate) static FAMILY: TernaryFamily = TernaryFamily {
    pack_row,
    dot_rows: super::planes::dot_rows,
    sum,
    planes: &PLANES,
    kernels: &[&PLANES, &CODES, &TRIOS],
    skipping: Some(&skipping::scalar::KERNELS),
};

static PLANES: TernaryKernel = kernel(&layout::PLANES, planes);
static CODES: TernaryKernel =
    kernel(&layout::CODES, |tile, cols, tokens, out| by_trits(&layout::CODES, tile, cols, tokens, out));
static TRIOS: TernaryKernel =
    kernel(&layout::TRIOS, |tile, cols, tokens, out| by_trits(&layout::TRIOS, tile, cols, tokens, out));

const fn kernel(layout: &'static Layout, few: FewTokens) -> TernaryKernel {
    TernaryKernel {
        name: layout.name,
        layout,
        preparation: None,
        few_tokens: 4,
        few,
        few_groups: None,
        many: &[],
        many_groups: &[],
        many_exact: None,
    }
}

fn sum(q: &[i8]) -> i32 {
    q.iter().map(|q| i32::from(*q)).sum()
}

/// One bit per trit in either plane.
fn pack_row(trits: &[i8], r: usize, tile: &mut [u8]) {
    for (trits, unit) in trits.chunks_exact(UNIT_COLS).zip(tile.chunks_exact_mut(UNIT_BYTES)) {
        let (mut plus, mut minus) = (0u8, 0u8);
        for (bit, &trit) in trits.iter().enumerate() {
            debug_assert!((-1..=1).contains(&trit), "a trit, not {trit}");
            plus |= u8::from(trit > 0) << bit;
            minus |= u8::from(trit < 0) << bit;
        }
        unit[r] = plus;
        unit[TILE_ROWS + r] = minus;
    }
}

/// For every row: the activations where `P` is set, less those where `N` is set.
fn planes(tile: &[u8], _: usize, tokens: &[Token<'_>], out: &mut [[i32; TILE_ROWS]]) {
    for (token, out) in tokens.iter().zip(out) {
        out.fill(0);
        for (unit, x) in tile.chunks_exact(UNIT_BYTES).zip(token.quantized.chunks_exact(UNIT_COLS)) {
            let (plus, minus) = unit.split_at(TILE_ROWS);
            for ((sum, plus), minus) in out.iter_mut().zip(plus).zip(minus) {
                for (bit, &x) in x.iter().enumerate() {
                    let weight = i32::from(plus >> bit & 1) - i32::from(minus >> bit & 1);
                    *sum += weight * i32::from(x);
                }
            }
        }
    }
}

/// For every row: its trits, read back from the layout, times the activations.
fn by_trits(layout: &Layout, tile: &[u8], cols: usize, tokens: &[Token<'_>], out: &mut [[i32; TILE_ROWS]]) {
    out.iter_mut().for_each(|out| out.fill(0));
    for row in 0..TILE_ROWS {
        for col in (0..cols).step_by(4) {
            let trits = (layout.trits)(tile, row, col);
            for (token, out) in tokens.iter().zip(out.iter_mut()) {
                for (trit, x) in trits.iter().zip(&token.quantized[col..]) {
                    out[row] += i32::from(*trit) * i32::from(*x);
                }
            }
        }
    }
}
