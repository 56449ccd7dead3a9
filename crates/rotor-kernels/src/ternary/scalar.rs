//! The reference: a dot product anyone can check by eye, and the fallback on CPUs without a faster kernel.

use super::{TILE_ROWS, TernaryKernels, UNIT_BYTES, UNIT_COLS};

pub(crate) const KERNELS: TernaryKernels = TernaryKernels {
    pack_row,
    prepared_len: |cols| cols,
    prepare: |q, prepared| prepared.iter_mut().zip(q).for_each(|(to, from)| *to = from.cast_unsigned()),
    few,
    dot_rows: super::planes::dot_rows,
    many: None,
};

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
fn few(tiles: &[u8], units: usize, prepared: &[&[u8]], out: &mut [&mut [i32]]) {
    for (x, out) in prepared.iter().zip(out) {
        for (tile, out) in tiles.chunks_exact(units * UNIT_BYTES).zip(out.chunks_exact_mut(TILE_ROWS)) {
            out.fill(0);
            for (unit, x) in tile.chunks_exact(UNIT_BYTES).zip(x.chunks_exact(UNIT_COLS)) {
                let (plus, minus) = unit.split_at(TILE_ROWS);
                for ((sum, plus), minus) in out.iter_mut().zip(plus).zip(minus) {
                    for (bit, &x) in x.iter().enumerate() {
                        let weight = i32::from(plus >> bit & 1) - i32::from(minus >> bit & 1);
                        *sum += weight * i32::from(x.cast_signed());
                    }
                }
            }
        }
    }
}
