//! Ternary kernels for AVX-VNNI: integer dot products over codes, 8 rows to a vector.
//!
//! As [`super::avx512_vnni`], which has the idea and the bounds, with half the width and half the registers: a quarter of a
//! tile and up to three tokens at a time, or a panel's half and six tokens.

use super::kernel::{Arrangement, Many, PanelKernels, PanelTokens, TernaryFamily, TernaryKernel, Token};
use super::layout::{self, CODES_BYTES, CODES_COLS};
use super::{TILE_ROWS, skipping};
use std::arch::x86_64::*;

pub(crate) static FAMILY: TernaryFamily = TernaryFamily {
    pack_row: super::avx2::pack_row,
    dot_rows: super::avx2_rows::dot_rows,
    sum: super::avx2::sum,
    planes: &super::avx2::PLANES,
    kernels: &[&CODES, &super::avx2::PLANES],
    skipping: Some(&skipping::avx_vnni::KERNELS),
};

pub(super) static CODES: TernaryKernel = TernaryKernel {
    name: "codes",
    layout: &layout::CODES,
    preparation: None,
    few_tokens: 3,
    few,
    few_groups: None,
    many: &[Many::Panel(PanelKernels {
        min_tokens: 12,
        tokens: 6,
        arrangement: Arrangement::SideBySide,
        input_bytes: 4 << 20,
        unpack,
        multiply: multiply_panel,
    })],
    many_groups: &[],
    many_exact: None,
};

/// Rows of a vector.
const QUARTER: usize = 8;
/// Bytes of a vector.
const LINE: usize = 32;
/// How far ahead of the multiplication weights are fetched, in bytes.
const PREFETCH: usize = 8192;
/// Blocks whose sums fit the accumulators.
const SEGMENT: usize = 1 << 14;

#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn load(bytes: &[u8; LINE]) -> __m256i {
    // SAFETY: 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Stores sums, less an offset.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn accumulate(sums: __m256i, out: &mut [i32; QUARTER]) {
    let at = out.as_mut_ptr().cast();
    // SAFETY: 32 readable and writable bytes; neither access needs alignment.
    unsafe { _mm256_storeu_si256(at, _mm256_add_epi32(_mm256_loadu_si256(at), sums)) };
}

/// Four activations, for every row.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn broadcast(x: &[i8; 4]) -> __m256i {
    _mm256_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned)))
}

#[target_feature(enable = "avx2,avxvnni")]
fn few(tile: &[u8], cols: usize, tokens: &[Token<'_>], out: &mut [[i32; TILE_ROWS]]) {
    match tokens {
        [a] => few_tokens::<1, 2>([a], tile, cols, out),
        [a, b] => few_tokens::<2, 1>([a, b], tile, cols, out),
        [a, b, c] => few_tokens::<3, 1>([a, b, c], tile, cols, out),
        _ => unreachable!("one to three tokens"),
    }
}

/// `Q` quarters of the tile at a time.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn few_tokens<const N: usize, const Q: usize>(
    tokens: [&Token<'_>; N],
    tile: &[u8],
    cols: usize,
    out: &mut [[i32; TILE_ROWS]],
) {
    let blocks = &tile.as_chunks::<CODES_BYTES>().0[..cols / CODES_COLS];
    for (token, out) in tokens.iter().zip(out.iter_mut()) {
        out.fill(-token.sum);
    }
    for (segment, blocks) in blocks.chunks(SEGMENT).enumerate() {
        let first = segment * SEGMENT;
        let mut x = [&[][..]; N];
        for (x, token) in x.iter_mut().zip(tokens) {
            *x = &token.quantized.as_chunks::<CODES_COLS>().0[first..first + blocks.len()];
        }
        for quarter in (0..TILE_ROWS / QUARTER).step_by(Q) {
            for (q, sums) in quarters::<N, Q>(blocks, quarter, x).into_iter().enumerate() {
                for (sums, out) in sums.into_iter().zip(out.iter_mut()) {
                    accumulate(sums, &mut out.as_chunks_mut().0[quarter + q]);
                }
            }
        }
    }
}

/// Sums of codes times activations for `Q` quarters of the tile, from the quarter `first` on.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
#[expect(clippy::needless_range_loop, reason = "one number goes through registers of weights, activations and sums")]
fn quarters<const N: usize, const Q: usize>(
    blocks: &[[u8; CODES_BYTES]],
    first: usize,
    x: [&[[i8; CODES_COLS]]; N],
) -> [[__m256i; N]; Q] {
    let mut sums = [[[_mm256_setzero_si256(); 4]; N]; Q];
    for (index, block) in blocks.iter().enumerate() {
        if N == 1 && first == 0 {
            // Both cache lines of the block: the other quarters find it in the cache.
            _mm_prefetch::<_MM_HINT_T1>(block.as_ptr().wrapping_add(PREFETCH).cast());
            _mm_prefetch::<_MM_HINT_T1>(block.as_ptr().wrapping_add(PREFETCH + CODES_BYTES / 2).cast());
        }
        let lines = block.as_chunks::<LINE>().0;
        for q in 0..Q {
            let codes = load(&lines[first + q]);
            for f in 0..4 {
                let codes = _mm256_and_si256(codes, _mm256_set1_epi32(0x0303_0303 << (2 * f)));
                for token in 0..N {
                    let x = broadcast(&x[token][index].as_chunks().0[f]);
                    sums[q][token][f] = _mm256_dpbusd_avx_epi32(sums[q][token][f], codes, x);
                }
            }
        }
    }
    let mut totals = [[_mm256_setzero_si256(); N]; Q];
    for q in 0..Q {
        for token in 0..N {
            let [a, b, c, d] = sums[q][token];
            let ab = _mm256_add_epi32(a, _mm256_srai_epi32::<2>(b));
            let cd = _mm256_add_epi32(_mm256_srai_epi32::<4>(c), _mm256_srai_epi32::<6>(d));
            totals[q][token] = _mm256_add_epi32(ab, cd);
        }
    }
    totals
}

/// Codes to bytes: `panel[column / 4][row][column % 4]`.
#[target_feature(enable = "avx2,avxvnni")]
fn unpack(tile: &[u8], cols: usize, panel: &mut [u8]) {
    let blocks = &tile.as_chunks::<CODES_BYTES>().0[..cols / CODES_COLS];
    let mask = _mm256_set1_epi8(3);
    for (block, panel) in blocks.iter().zip(panel.as_chunks_mut::<{ 4 * CODES_BYTES }>().0) {
        for (quarter, line) in block.as_chunks::<LINE>().0.iter().enumerate() {
            let codes = load(line);
            let fields =
                [codes, _mm256_srli_epi16::<2>(codes), _mm256_srli_epi16::<4>(codes), _mm256_srli_epi16::<6>(codes)];
            for (f, codes) in fields.into_iter().enumerate() {
                let at: &mut [u8; LINE] = &mut panel.as_chunks_mut().0[4 * f + quarter];
                // SAFETY: 32 writable bytes; the store needs no alignment.
                unsafe { _mm256_storeu_si256(at.as_mut_ptr().cast(), _mm256_and_si256(codes, mask)) };
            }
        }
    }
}

#[target_feature(enable = "avx2,avxvnni")]
fn multiply_panel(panel: &[u8], input: PanelTokens<'_>, out: &mut [[i32; TILE_ROWS]]) {
    match input.tokens {
        1 => panel_tokens::<1>(panel, input, out),
        2 => panel_tokens::<2>(panel, input, out),
        3 => panel_tokens::<3>(panel, input, out),
        4 => panel_tokens::<4>(panel, input, out),
        5 => panel_tokens::<5>(panel, input, out),
        6 => panel_tokens::<6>(panel, input, out),
        _ => unreachable!("one to six tokens"),
    }
}

#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn panel_tokens<const N: usize>(panel: &[u8], input: PanelTokens<'_>, out: &mut [[i32; TILE_ROWS]]) {
    let quads = panel.as_chunks::<CODES_BYTES>().0;
    for half in 0..2 {
        let mut products = [[_mm256_setzero_si256(); 2]; N];
        for (quad, x) in quads.iter().zip(input.x.as_chunks::<4>().0.as_chunks::<N>().0) {
            let lines = quad.as_chunks::<LINE>().0;
            let (upper, lower) = (load(&lines[2 * half]), load(&lines[2 * half + 1]));
            for (products, x) in products.iter_mut().zip(x) {
                let x = broadcast(x);
                products[0] = _mm256_dpbusd_avx_epi32(products[0], upper, x);
                products[1] = _mm256_dpbusd_avx_epi32(products[1], lower, x);
            }
        }
        for (products, out) in products.into_iter().zip(out.iter_mut()) {
            for (products, out) in products.into_iter().zip(&mut out.as_chunks_mut().0[2 * half..]) {
                accumulate(products, out);
            }
        }
    }
}
