//! Ternary kernels for AVX-512 VBMI: integer dot products over trios, 1.67 bits a weight.
//!
//! `vpermb` looks an index up in a table of 64 bytes, so five bits give three codes in one instruction, as fields of a byte
//! that go the way of [`super::avx512_vnni`]. It ignores the upper two bits of an index byte; the table has each entry twice,
//! so that bit 5 does not matter either, and the first five indices of a block need no unpacking at all. The other three are
//! put together from the spare bits with two to three shifts and one or two selections each.
//!
//! Bounds. A field adds at most `4 * 2 * 4^2 * 128 = 16384` per index, eight times that per block: `2^14 - 1` blocks of an
//! accumulator fit int32; longer rows are summed in [`SEGMENT`]s.

use super::TILE_ROWS;
use super::avx512::PLANES;
use super::avx512_vnni::{CODES, CODES_LOOKUP, HALF, LINE, PREFETCH, add, broadcast, load, panel};
use super::kernel::{Many, TernaryFamily, TernaryKernel, Token};
use super::layout::{self, TRIOS_BYTES, TRIOS_COLS};
use super::{avx512_groups, avx512_lookup, avx512_permute, avx512_vnni, skipping};
use std::arch::x86_64::*;

pub(crate) static FAMILY: TernaryFamily = TernaryFamily {
    pack_row: super::avx2::pack_row,
    dot_rows: super::avx2_rows::dot_rows,
    sum: super::avx2::sum,
    planes: &PLANES,
    kernels: &[&TRIOS, &TRIOS_LOOKUP, &TRIOS_PERMUTE, &CODES, &CODES_LOOKUP, &CODES_PERMUTE, &CODES_GROUPS, &PLANES],
    skipping: Some(&skipping::avx512_vbmi::KERNELS),
};

static TRIOS: TernaryKernel = TernaryKernel {
    name: "trios",
    layout: &layout::TRIOS,
    preparation: None,
    few_tokens: 6,
    few,
    few_groups: None,
    many: &[Many::Panel(panel(unpack))],
    many_groups: &[],
    many_exact: Some(&avx512_groups::TRIOS),
};

static TRIOS_LOOKUP: TernaryKernel = TernaryKernel {
    name: "trios-lookup",
    many: &[Many::Panel(panel(unpack)), Many::Lookup(avx512_lookup::TRIOS)],
    ..TRIOS
};

static TRIOS_PERMUTE: TernaryKernel = TernaryKernel {
    name: "trios-permute",
    many: &[Many::Panel(panel(unpack)), Many::Lookup(avx512_permute::TRIOS)],
    ..TRIOS
};

pub(super) static CODES_PERMUTE: TernaryKernel = TernaryKernel {
    name: "codes-permute",
    many: &[Many::Panel(panel(avx512_vnni::unpack)), Many::Lookup(avx512_permute::CODES)],
    many_exact: Some(&avx512_groups::CODES),
    ..CODES
};

/// As [`CODES`] where many tokens are no affair of groups.
static CODES_GROUPS: TernaryKernel =
    TernaryKernel { name: "codes-groups", many_groups: &avx512_groups::GROUPS, ..CODES };

/// Indices of a block.
pub(super) const INDICES: usize = 8;
/// Blocks whose sums fit the accumulators.
const SEGMENT: usize = 1 << 13;

/// Three codes, in bits 0-1, 2-3 and 4-5, for each index; twice, and nothing for indices that do not occur.
const TABLE: [u8; 64] = {
    let mut table = [0; 64];
    let mut at = 0;
    while at < table.len() {
        let index = at % 32;
        if index < 27 {
            table[at] = (index % 3 + index / 3 % 3 * 4 + index / 9 * 16) as u8;
        }
        at += 1;
    }
    table
};

/// The eight vectors of indices of 16 rows, garbage above bit 4.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(super) fn indices(lines: &[[u8; LINE]]) -> [__m512i; INDICES] {
    let b: [__m512i; 5] = [load(&lines[0]), load(&lines[1]), load(&lines[2]), load(&lines[3]), load(&lines[4])];
    let five = select(1 | 2 | 4, _mm512_srli_epi16::<5>(b[0]), _mm512_srli_epi16::<3>(b[1]));
    let upper = select(15, _mm512_srli_epi16::<4>(b[2]), _mm512_srli_epi16::<3>(b[3]));
    let six = select(1, _mm512_srli_epi16::<5>(b[1]), upper);
    let seven = select(1 | 2, _mm512_srli_epi16::<5>(b[3]), _mm512_srli_epi16::<3>(b[4]));
    [b[0], b[1], b[2], b[3], b[4], five, six, seven]
}

/// Of every byte the bits of `a` where `mask` is set, those of `b` elsewhere.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(super) fn select(mask: i8, a: __m512i, b: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xca>(_mm512_set1_epi8(mask), a, b)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn few_tokens<const N: usize>(tokens: [&Token<'_>; N], tile: &[u8], cols: usize, out: &mut [[i32; TILE_ROWS]]) {
    let blocks = &tile.as_chunks::<TRIOS_BYTES>().0[..cols / TRIOS_COLS];
    for (token, out) in tokens.iter().zip(out.iter_mut()) {
        out.fill(-token.sum);
    }
    for (segment, blocks) in blocks.chunks(SEGMENT).enumerate() {
        let first = segment * SEGMENT;
        let mut x = [&[][..]; N];
        for (x, token) in x.iter_mut().zip(tokens) {
            *x = &token.quantized.as_chunks::<TRIOS_COLS>().0[first..first + blocks.len()];
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

/// Sums of codes times activations for `H` halves of the tile, from the half `first` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
#[expect(clippy::needless_range_loop, reason = "one number goes through registers of weights, activations and sums")]
fn halves<const N: usize, const H: usize>(
    blocks: &[[u8; TRIOS_BYTES]],
    first: usize,
    x: [&[[i8; TRIOS_COLS]]; N],
) -> [[__m512i; N]; H] {
    let table = load(&TABLE);
    let mut sums = [[[_mm512_setzero_si512(); 3]; N]; H];
    for (index, block) in blocks.iter().enumerate() {
        // The first half's turn brings the other half's lines too.
        if first == 0 {
            for line in block.as_chunks::<LINE>().0 {
                _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().wrapping_add(PREFETCH).cast());
            }
        }
        for half in 0..H {
            let lines = block.as_chunks::<{ TRIOS_BYTES / 2 }>().0[first + half].as_chunks::<LINE>().0;
            let indices = indices(lines);
            for v in 0..INDICES {
                let codes = _mm512_permutexvar_epi8(indices[v], table);
                for f in 0..3 {
                    let codes = _mm512_and_si512(codes, _mm512_set1_epi32(0x0303_0303 << (2 * f)));
                    for token in 0..N {
                        let x = broadcast(&x[token][index].as_chunks().0[3 * v + f]);
                        sums[half][token][f] = _mm512_dpbusd_epi32(sums[half][token][f], codes, x);
                    }
                }
            }
        }
    }
    let mut totals = [[_mm512_setzero_si512(); N]; H];
    for half in 0..H {
        for token in 0..N {
            let [a, b, c] = sums[half][token];
            let bc = _mm512_add_epi32(_mm512_srai_epi32::<2>(b), _mm512_srai_epi32::<4>(c));
            totals[half][token] = _mm512_add_epi32(a, bc);
        }
    }
    totals
}

/// Codes to bytes: `panel[column / 4][row][column % 4]`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(super) fn unpack(tile: &[u8], cols: usize, panel: &mut [u8]) {
    let blocks = &tile.as_chunks::<TRIOS_BYTES>().0[..cols / TRIOS_COLS];
    let (table, mask) = (load(&TABLE), _mm512_set1_epi8(3));
    for (block, panel) in blocks.iter().zip(panel.as_chunks_mut::<{ TRIOS_COLS * TILE_ROWS }>().0) {
        for line in block.as_chunks::<LINE>().0 {
            _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().wrapping_add(PREFETCH).cast());
        }
        for (half, block) in block.as_chunks::<{ TRIOS_BYTES / 2 }>().0.iter().enumerate() {
            for (v, index) in indices(block.as_chunks().0).into_iter().enumerate() {
                let codes = _mm512_permutexvar_epi8(index, table);
                for (f, codes) in
                    [codes, _mm512_srli_epi16::<2>(codes), _mm512_srli_epi16::<4>(codes)].into_iter().enumerate()
                {
                    let at: &mut [u8; LINE] = &mut panel.as_chunks_mut().0[2 * (3 * v + f) + half];
                    // SAFETY: 64 writable bytes; the store needs no alignment.
                    unsafe { _mm512_storeu_si512(at.as_mut_ptr().cast(), _mm512_and_si512(codes, mask)) };
                }
            }
        }
    }
}
