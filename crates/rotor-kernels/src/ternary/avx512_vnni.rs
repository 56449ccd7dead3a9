//! Ternary kernels for AVX-512 VNNI: integer dot products over codes.
//!
//! # Few tokens
//!
//! A cache line holds 16 columns of 16 rows. Masked by `3 << 2f`, its bytes are `c 4^f` for the codes `c` of four columns of
//! each row; `vpdpbusd` multiplies them by those columns' activations, which are four consecutive bytes, broadcast. Each
//! field has an accumulator; in the end the product is the sum of the accumulators, each shifted right by `2f`, less the sum
//! of the activations, since `c = t + 1`. The instruction does not saturate.
//!
//! Bounds. A field adds at most `4 * 2 * 4^3 * 128 = 65536` in size per block, so `2^15 - 1` blocks of an accumulator fit
//! int32; longer rows are summed in [`SEGMENT`]s. The sum of all is at most `2 * 128` per column: int32 holds 2^23 columns.
//!
//! # Many tokens
//!
//! A panel of 32 rows is unpacked to a byte per code, and then 12 tokens are multiplied at a time: 24 accumulators, two
//! vectors of weights and a broadcast, which leaves the two dot products a cycle as the only limit.

use super::TILE_ROWS;
use super::activations::MAX_DIGITS;
use super::kernel::{
    Arrangement, Many, PanelKernels, PanelTokens, TernaryFamily, TernaryKernel, TileGroups, Token, UnpackPanel,
};
use super::layout::{self, CODES_BYTES, CODES_COLS};
use super::{avx512, avx512_lookup, skipping};
use std::arch::x86_64::*;

pub(crate) static FAMILY: TernaryFamily = TernaryFamily {
    pack_row: super::avx2::pack_row,
    dot_rows: super::avx2_rows::dot_rows,
    sum: super::avx2::sum,
    planes: &avx512::PLANES,
    kernels: &[&CODES, &CODES_LOOKUP, &avx512::PLANES],
    skipping: Some(&skipping::avx2::AVX512_VNNI),
};

pub(super) static CODES: TernaryKernel = TernaryKernel {
    name: "codes",
    layout: &layout::CODES,
    preparation: None,
    few_tokens: 6,
    few,
    few_groups: Some(few_groups),
    many: &[Many::Panel(panel(unpack))],
    many_groups: &[],
    many_exact: None,
};

pub(super) static CODES_LOOKUP: TernaryKernel = TernaryKernel {
    name: "codes-lookup",
    many: &[Many::Panel(panel(unpack)), Many::Lookup(avx512_lookup::CODES)],
    ..CODES
};

/// The panels of a packed form that `unpack` knows.
pub(super) const fn panel(unpack: UnpackPanel) -> PanelKernels {
    PanelKernels {
        min_tokens: 24,
        tokens: PANEL_TOKENS,
        arrangement: Arrangement::SideBySide,
        input_bytes: 4 << 20,
        unpack,
        multiply: multiply_panel,
    }
}

/// Rows of a vector.
pub(super) const HALF: usize = 16;
/// Bytes of a vector.
pub(super) const LINE: usize = 64;
/// Tokens multiplied together with a panel.
const PANEL_TOKENS: usize = 12;
/// How far ahead of the multiplication weights are fetched, in bytes.
pub(super) const PREFETCH: usize = 8192;
/// How far ahead in its panel.
const PANEL_PREFETCH: usize = 2048;
/// Blocks whose sums fit the accumulators.
const SEGMENT: usize = 1 << 14;

/// The bits of field `f` in every byte.
const fn field(f: u32) -> i32 {
    0x0303_0303 << (2 * f)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn load(bytes: &[u8; LINE]) -> __m512i {
    // SAFETY: 64 readable bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn accumulate(sums: __m512i, out: &mut [i32; HALF]) {
    let at = out.as_mut_ptr().cast();
    // SAFETY: 64 readable and writable bytes; neither access needs alignment.
    unsafe { _mm512_storeu_si512(at, _mm512_add_epi32(_mm512_loadu_si512(at), sums)) };
}

/// Four activations, for every row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn broadcast(x: &[i8; 4]) -> __m512i {
    _mm512_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned)))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn few(tile: &[u8], cols: usize, tokens: &[Token<'_>], out: &mut [[i32; TILE_ROWS]]) {
    match tokens {
        [a] => few_tokens([a], tile, cols, out),
        [a, b] => few_tokens([a, b], tile, cols, out),
        [a, b, c] => few_tokens([a, b, c], tile, cols, out),
        [a, b, c, d] => few_tokens([a, b, c, d], tile, cols, out),
        [a, b, c, d, e] => few_tokens([a, b, c, d, e], tile, cols, out),
        [a, b, c, d, e, f] => few_tokens([a, b, c, d, e, f], tile, cols, out),
        _ => unreachable!("one to six tokens"),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn few_tokens<const N: usize>(tokens: [&Token<'_>; N], tile: &[u8], cols: usize, out: &mut [[i32; TILE_ROWS]]) {
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
        // Up to three tokens leave registers for both halves of the tile; more tokens take one after the other.
        if N <= 3 {
            let sums = halves::<N, 2>(blocks, 0, x);
            add(sums[0], 0, out);
            add(sums[1], HALF, out);
        } else {
            add(halves::<N, 1>(blocks, 0, x)[0], 0, out);
            add(halves::<N, 1>(blocks, 1, x)[0], HALF, out);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn few_groups(tile: &[u8], groups: &TileGroups<'_>, rows: &[Token<'_>], totals: &mut [[f32; TILE_ROWS]]) {
    match (groups.digits, rows) {
        (1, [a]) => groups_of::<1, 1>(tile, groups, [a], totals),
        (1, [a, b]) => groups_of::<2, 1>(tile, groups, [a, b], totals),
        (1, [a, b, c]) => groups_of::<3, 1>(tile, groups, [a, b, c], totals),
        (1, [a, b, c, d]) => groups_of::<4, 1>(tile, groups, [a, b, c, d], totals),
        (1, [a, b, c, d, e]) => groups_of::<5, 1>(tile, groups, [a, b, c, d, e], totals),
        (1, [a, b, c, d, e, f]) => groups_of::<6, 1>(tile, groups, [a, b, c, d, e, f], totals),
        (MAX_DIGITS, [a, b, c]) => groups_of::<3, MAX_DIGITS>(tile, groups, [a, b, c], totals),
        (MAX_DIGITS, [a, b, c, d, e, f]) => groups_of::<6, MAX_DIGITS>(tile, groups, [a, b, c, d, e, f], totals),
        _ => unreachable!("one to six rows, whole tokens"),
    }
}

/// For `N` rows of activations, `D` digits to a token.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn groups_of<const N: usize, const D: usize>(
    tile: &[u8],
    groups: &TileGroups<'_>,
    rows: [&Token<'_>; N],
    totals: &mut [[f32; TILE_ROWS]],
) {
    let blocks = tile.as_chunks::<CODES_BYTES>().0.chunks_exact(groups.cols / CODES_COLS);
    for (group, blocks) in blocks.enumerate() {
        let first = group * blocks.len();
        let x = rows.map(|row| &row.quantized.as_chunks::<CODES_COLS>().0[first..first + blocks.len()]);
        let (scales, sums) = (&groups.scales[group], groups.sums::<N>(group));
        // As in `few_tokens`.
        if N <= 3 {
            let [upper, lower] = halves::<N, 2>(blocks, 0, x);
            add_scaled::<N, D>(upper, 0, (scales, sums), totals);
            add_scaled::<N, D>(lower, HALF, (scales, sums), totals);
        } else {
            add_scaled::<N, D>(halves::<N, 1>(blocks, 0, x)[0], 0, (scales, sums), totals);
            add_scaled::<N, D>(halves::<N, 1>(blocks, 1, x)[0], HALF, (scales, sums), totals);
        }
    }
}

/// Adds the products of 16 rows, from sums of codes times activations and the sums of these.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn add_scaled<const N: usize, const D: usize>(
    products: [__m512i; N],
    row: usize,
    (scales, sums): (&[f32; TILE_ROWS], &[i32; N]),
    totals: &mut [[f32; TILE_ROWS]],
) {
    let scales = load_floats(&scales.as_chunks().0[row / HALF]);
    for (token, totals) in totals.iter_mut().enumerate().take(N / D) {
        let (mut product, mut sum) = (_mm512_setzero_si512(), 0i32);
        for digit in token * D..(token + 1) * D {
            product = _mm512_add_epi32(_mm512_slli_epi32::<8>(product), products[digit]);
            sum = sum.wrapping_mul(256).wrapping_add(sums[digit]);
        }
        let dot = _mm512_cvtepi32_ps(_mm512_sub_epi32(product, _mm512_set1_epi32(sum)));
        let totals: &mut [f32; HALF] = &mut totals.as_chunks_mut().0[row / HALF];
        let total = _mm512_add_ps(load_floats(totals), _mm512_mul_ps(dot, scales));
        // SAFETY: 64 writable bytes; the store needs no alignment.
        unsafe { _mm512_storeu_ps(totals.as_mut_ptr(), total) };
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn load_floats(floats: &[f32; HALF]) -> __m512 {
    // SAFETY: 64 readable bytes; the load needs no alignment.
    unsafe { _mm512_loadu_ps(floats.as_ptr()) }
}

/// Adds sums of 16 rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn add<const N: usize>(sums: [__m512i; N], row: usize, out: &mut [[i32; TILE_ROWS]]) {
    for (sums, out) in sums.into_iter().zip(out) {
        accumulate(sums, &mut out.as_chunks_mut().0[row / HALF]);
    }
}

/// Sums of codes times activations for `H` halves of the tile, from the half `first` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[expect(clippy::needless_range_loop, reason = "one number goes through registers of weights, activations and sums")]
fn halves<const N: usize, const H: usize>(
    blocks: &[[u8; CODES_BYTES]],
    first: usize,
    x: [&[[i8; CODES_COLS]]; N],
) -> [[__m512i; N]; H] {
    let mut sums = [[[_mm512_setzero_si512(); 4]; N]; H];
    for (index, block) in blocks.iter().enumerate() {
        let lines = block.as_chunks::<LINE>().0;
        // The first half's turn brings the other half's line too.
        if first == 0 {
            for line in lines {
                _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().wrapping_add(PREFETCH).cast());
            }
        }
        for half in 0..H {
            let codes = load(&lines[first + half]);
            for f in 0..4 {
                let codes = _mm512_and_si512(codes, _mm512_set1_epi32(field(f as u32)));
                for token in 0..N {
                    let x = broadcast(&x[token][index].as_chunks().0[f]);
                    sums[half][token][f] = _mm512_dpbusd_epi32(sums[half][token][f], codes, x);
                }
            }
        }
    }
    let mut totals = [[_mm512_setzero_si512(); N]; H];
    for half in 0..H {
        for token in 0..N {
            let [a, b, c, d] = sums[half][token];
            let ab = _mm512_add_epi32(a, _mm512_srai_epi32::<2>(b));
            let cd = _mm512_add_epi32(_mm512_srai_epi32::<4>(c), _mm512_srai_epi32::<6>(d));
            totals[half][token] = _mm512_add_epi32(ab, cd);
        }
    }
    totals
}

/// Codes to bytes: `panel[column / 4][row][column % 4]`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn unpack(tile: &[u8], cols: usize, panel: &mut [u8]) {
    let blocks = &tile.as_chunks::<CODES_BYTES>().0[..cols / CODES_COLS];
    let mask = _mm512_set1_epi32(field(0));
    for (block, panel) in blocks.iter().zip(panel.as_chunks_mut::<{ 4 * CODES_BYTES }>().0) {
        for (half, line) in block.as_chunks::<LINE>().0.iter().enumerate() {
            _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().wrapping_add(PREFETCH).cast());
            let codes = load(line);
            let fields =
                [codes, _mm512_srli_epi16::<2>(codes), _mm512_srli_epi16::<4>(codes), _mm512_srli_epi16::<6>(codes)];
            for (f, codes) in fields.into_iter().enumerate() {
                let at: &mut [u8; LINE] = &mut panel.as_chunks_mut().0[2 * f + half];
                // SAFETY: 64 writable bytes; the store needs no alignment.
                unsafe { _mm512_storeu_si512(at.as_mut_ptr().cast(), _mm512_and_si512(codes, mask)) };
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn multiply_panel(panel: &[u8], input: PanelTokens<'_>, out: &mut [[i32; TILE_ROWS]]) {
    match input.tokens {
        1 => panel_tokens::<1>(panel, input, out),
        2 => panel_tokens::<2>(panel, input, out),
        3 => panel_tokens::<3>(panel, input, out),
        4 => panel_tokens::<4>(panel, input, out),
        5 => panel_tokens::<5>(panel, input, out),
        6 => panel_tokens::<6>(panel, input, out),
        7 => panel_tokens::<7>(panel, input, out),
        8 => panel_tokens::<8>(panel, input, out),
        9 => panel_tokens::<9>(panel, input, out),
        10 => panel_tokens::<10>(panel, input, out),
        11 => panel_tokens::<11>(panel, input, out),
        12 => panel_tokens::<12>(panel, input, out),
        _ => unreachable!("one to twelve tokens"),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn panel_tokens<const N: usize>(panel: &[u8], input: PanelTokens<'_>, out: &mut [[i32; TILE_ROWS]]) {
    let quads = panel.as_chunks::<{ 2 * LINE }>().0;
    let mut products = [[_mm512_setzero_si512(); 2]; N];
    for (quad, x) in quads.iter().zip(input.x.as_chunks::<4>().0.as_chunks::<N>().0) {
        let lines = quad.as_chunks::<LINE>().0;
        // A panel comes from the L2 cache.
        for line in lines {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_add(PANEL_PREFETCH).cast());
        }
        let (upper, lower) = (load(&lines[0]), load(&lines[1]));
        for (products, x) in products.iter_mut().zip(x) {
            let x = broadcast(x);
            products[0] = _mm512_dpbusd_epi32(products[0], upper, x);
            products[1] = _mm512_dpbusd_epi32(products[1], lower, x);
        }
    }
    for (products, out) in products.into_iter().zip(out) {
        for (products, out) in products.into_iter().zip(out.as_chunks_mut().0) {
            accumulate(products, out);
        }
    }
}
