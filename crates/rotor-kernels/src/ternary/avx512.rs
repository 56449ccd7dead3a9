//! Ternary kernels for AVX-512 without integer dot products: tables of 16 sums, both planes in one vector.
//!
//! As in [`super::avx2`], but a unit, one cache line of `P` for 32 rows and `N` for the same, is one vector: a shuffle looks
//! up what 32 rows add and what they subtract. The halves are subtracted when int16 sums are widened to int32.
//!
//! Bounds. Per 4 columns a half of `v_P` or `v_N` is at most 15 and 17 (`|v| <= 512`, `(512 + 15) / 31`): 60 and 68 after 4
//! groups, within int8. A widened sum of 16 columns is at most 2048; 15 of them fit int16, and so does the difference of the
//! two, because no column is in both planes.

use super::avx2::{self, TABLE_BYTES};
use super::avx512_lookup;
use super::kernel::{Many, TernaryFamily, TernaryKernel, Token};
use super::{TILE_ROWS, UNIT_BYTES, UNIT_COLS, layout, skipping};
use std::arch::x86_64::*;

pub(crate) static FAMILY: TernaryFamily = TernaryFamily {
    pack_row: avx2::pack_row,
    dot_rows: super::avx2_rows::dot_rows,
    sum: avx2::sum,
    planes: &PLANES,
    kernels: &[&PLANES],
    skipping: Some(&skipping::avx2::AVX512),
};

pub(super) static PLANES: TernaryKernel = TernaryKernel {
    name: "planes",
    layout: &layout::PLANES,
    preparation: Some(&avx2::TABLES),
    few_tokens: 4,
    few,
    few_groups: None,
    many: &[Many::Lookup(avx512_lookup::PLANES)],
    many_groups: &[],
    many_exact: None,
};

/// How far ahead of the multiplication weights are fetched, in bytes.
const PREFETCH: usize = 4096;
/// Pairs of units (16 columns) whose sums fit int16.
const PAIRS_PER_FLUSH: usize = 15;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn few(tile: &[u8], cols: usize, tokens: &[Token<'_>], out: &mut [[i32; TILE_ROWS]]) {
    match (tokens, out) {
        ([a], [x]) => few_tokens([a], tile, cols, [x]),
        ([a, b], [x, y]) => few_tokens([a, b], tile, cols, [x, y]),
        ([a, b, c], [x, y, z]) => few_tokens([a, b, c], tile, cols, [x, y, z]),
        ([a, b, c, d], [x, y, z, w]) => few_tokens([a, b, c, d], tile, cols, [x, y, z, w]),
        _ => unreachable!("one to four tokens, as many outputs"),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn few_tokens<const N: usize>(tokens: [&Token<'_>; N], tile: &[u8], cols: usize, out: [&mut [i32; TILE_ROWS]; N]) {
    let (zero, nibble) = (_mm512_setzero_si512(), _mm512_set1_epi8(15));
    let pairs = cols / (2 * UNIT_COLS);
    let tables = tokens.map(|token| &token.prepared.as_chunks::<TABLE_BYTES>().0[..pairs * 4]);
    let units = &tile.as_chunks::<UNIT_BYTES>().0[..2 * pairs];
    let mut sums32 = [[_mm256_setzero_si256(); 4]; N];
    for first in (0..pairs).step_by(PAIRS_PER_FLUSH) {
        let mut sums16 = [[zero; 2]; N];
        for pair in first..(first + PAIRS_PER_FLUSH).min(pairs) {
            let (mut low, mut high) = ([zero; N], [zero; N]);
            for half in 0..2 {
                let unit = &units[2 * pair + half];
                _mm_prefetch::<_MM_HINT_T1>(unit.as_ptr().wrapping_add(PREFETCH).cast());
                // SAFETY: 64 readable bytes; the load needs no alignment.
                let bits = unsafe { _mm512_loadu_si512(unit.as_ptr().cast()) };
                let nibbles = [_mm512_and_si512(bits, nibble), _mm512_and_si512(_mm512_srli_epi16::<4>(bits), nibble)];
                for (shifted, bits) in nibbles.into_iter().enumerate() {
                    for token in 0..N {
                        let halves = tables[token][4 * pair + 2 * half + shifted].as_chunks::<16>().0;
                        low[token] = _mm512_add_epi8(low[token], look_up(&halves[0], bits));
                        high[token] = _mm512_add_epi8(high[token], look_up(&halves[1], bits));
                    }
                }
            }
            for token in 0..N {
                let weights = _mm512_set1_epi16(1 | 31 << 8);
                let a = _mm512_maddubs_epi16(weights, _mm512_unpacklo_epi8(low[token], high[token]));
                let b = _mm512_maddubs_epi16(weights, _mm512_unpackhi_epi8(low[token], high[token]));
                sums16[token] = [_mm512_add_epi16(sums16[token][0], a), _mm512_add_epi16(sums16[token][1], b)];
            }
        }
        for token in 0..N {
            avx2::flush(&mut sums32[token], [difference(sums16[token][0]), difference(sums16[token][1])]);
        }
    }
    for (sums, out) in sums32.into_iter().zip(out) {
        avx2::store_rows(sums, out);
    }
}

/// The entries of a table of 16 bytes that 64 nibbles ask for.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn look_up(table: &[u8; 16], nibbles: __m512i) -> __m512i {
    // SAFETY: 16 readable bytes; the load needs no alignment.
    let table = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
    _mm512_shuffle_epi8(table, nibbles)
}

/// What the rows of the lower half add, less what those of the upper half subtract.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn difference(sums: __m512i) -> __m256i {
    _mm256_sub_epi16(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums))
}
