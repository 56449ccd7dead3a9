//! Kernels for fours with AVX-VNNI: rows and columns are those of [`super::avx2`], which memory holds up before products do; many
//! tokens are multiplied by panels, to which bytes of four trits are unpacked with AVX2 alone.

use super::avx2::{columns, fetch, rows};
use super::layout::FOURS;
use super::places::Places;
use super::{BLOCK_ROWS, LINE, SkippingKernels, SkippingPanels, scalar};
use crate::ternary::avx2::load;
use crate::ternary::{TILE_ROWS, avx_vnni};
use std::arch::x86_64::*;

pub(crate) static KERNELS: SkippingKernels = SkippingKernels {
    layout: &FOURS,
    rows,
    columns,
    active: scalar::active,
    tiles: None,
    tables: None,
    panels: Some(&PANELS),
};

pub(super) static PANELS: SkippingPanels =
    SkippingPanels { kernel: &avx_vnni::CODES, of_rows: panel_of_rows, of_columns: panel_of_columns };

/// Bytes of a vector, halves of a line.
const HALF: usize = LINE / 2;
/// Rows of a vector of a panel, each with four columns.
const ROWS: usize = 8;
/// Bytes of four columns of a panel.
const QUAD: usize = 4 * TILE_ROWS;
/// How many columns ahead they are fetched.
const AHEAD: usize = 64;

#[inline]
#[target_feature(enable = "avx2")]
fn store(codes: __m256i, out: &mut [u8]) {
    let out: &mut [u8; HALF] = out.first_chunk_mut().expect("8 rows of four columns");
    // SAFETY: 32 writable bytes; the store needs no alignment.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), codes) };
}

/// The trits of a digit, plus one.
#[inline]
#[target_feature(enable = "avx2")]
fn field(bytes: __m256i, digit: usize) -> __m256i {
    let shifted = _mm256_srl_epi16(bytes, _mm_cvtsi32_si128(2 * digit as i32));
    _mm256_and_si256(shifted, _mm256_set1_epi8(3))
}

/// Eight rows' bytes turned, so that the same four of all of them lie together, are four columns of each of their digits.
#[target_feature(enable = "avx2")]
fn panel_of_rows(block: &[u8], tile: usize, panel: &mut [u8]) {
    let places = Places::of_block();
    let (row_bytes, cols) = (block.len() / BLOCK_ROWS, panel.len() / TILE_ROWS);
    for (eight, places) in places.of[tile * TILE_ROWS..][..TILE_ROWS].as_chunks::<ROWS>().0.iter().enumerate() {
        for half in 0..row_bytes / HALF {
            let first_col = FOURS.column_of(half * HALF, 0);
            if first_col >= cols {
                break;
            }
            let rows = places.map(|place| {
                let at = place as usize * row_bytes + half * HALF;
                load(block[at..].first_chunk().expect("half a line of a row"))
            });
            for (four, bytes) in turned(rows).into_iter().enumerate() {
                for digit in 0..FOURS.digits {
                    let col = first_col + digit * LINE + 4 * four;
                    if col < cols {
                        store(field(bytes, digit), &mut panel[col / 4 * QUAD + eight * 4 * ROWS..]);
                    }
                }
            }
        }
    }
}

/// Fours of bytes of eight vectors, the first of all in the first, and so on.
#[inline]
#[target_feature(enable = "avx2")]
fn turned([a, b, c, d, e, f, g, h]: [__m256i; 8]) -> [__m256i; 8] {
    let fours = |a, b, c, d| {
        let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab, cd),
            _mm256_unpackhi_epi64(ab, cd),
            _mm256_unpacklo_epi64(ab_high, cd_high),
            _mm256_unpackhi_epi64(ab_high, cd_high),
        ]
    };
    // Each lane has the same four of its own half of the bytes.
    let (upper, lower) = (fours(a, b, c, d), fours(e, f, g, h));
    let mut turned = [_mm256_setzero_si256(); 8];
    for (at, (upper, lower)) in upper.into_iter().zip(lower).enumerate() {
        turned[at] = _mm256_permute2x128_si256::<0x20>(upper, lower);
        turned[4 + at] = _mm256_permute2x128_si256::<0x31>(upper, lower);
    }
    turned
}

/// The bytes of four columns side by side are four columns of a row of each digit, of which a tile has half of one's rows.
#[target_feature(enable = "avx2")]
fn panel_of_columns(slice: &[u8], places: &[u32], tile: usize, panel: &mut [u8]) {
    let zeros = [FOURS.zeros(); LINE];
    let (digit, half) = (tile * TILE_ROWS / LINE, tile * TILE_ROWS % LINE / HALF);
    let (panel, rest) = panel.as_chunks_mut::<QUAD>();
    assert!(rest.is_empty(), "a panel of whole fours of columns");
    for (four, panel) in panel.iter_mut().enumerate() {
        for place in places.iter().skip(4 * four + AHEAD).take(4) {
            fetch(slice.as_ptr().wrapping_add(*place as usize * LINE));
        }
        let mut lines = [&zeros; 4];
        for (line, place) in lines.iter_mut().zip(places.iter().skip(4 * four)) {
            *line = slice[*place as usize * LINE..].first_chunk().expect("a column's line");
        }
        let [a, b, c, d] = lines.map(|line| load(&line.as_chunks().0[half]));
        let (ab, cd) = (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d));
        let (ab_high, cd_high) = (_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d));
        // Fours of rows: each vector has some from 0 on, and those from 16 on.
        let rows = [
            _mm256_unpacklo_epi16(ab, cd),
            _mm256_unpackhi_epi16(ab, cd),
            _mm256_unpacklo_epi16(ab_high, cd_high),
            _mm256_unpackhi_epi16(ab_high, cd_high),
        ];
        let in_order = [
            _mm256_permute2x128_si256::<0x20>(rows[0], rows[1]),
            _mm256_permute2x128_si256::<0x20>(rows[2], rows[3]),
            _mm256_permute2x128_si256::<0x31>(rows[0], rows[1]),
            _mm256_permute2x128_si256::<0x31>(rows[2], rows[3]),
        ];
        for (rows, out) in in_order.into_iter().zip(panel.as_chunks_mut::<HALF>().0) {
            store(field(rows, digit), out);
        }
    }
}
