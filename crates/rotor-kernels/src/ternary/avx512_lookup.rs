//! Many tokens with AVX-512: tables of 81 sums for 32 tokens (see [`super::lookup`]).
//!
//! As in [`super::avx2_lookup`], but an entry is a cache line, which has 32 tokens. A load and an addition are 128
//! multiply-adds then, where an integer dot product is 64. On a CPU whose 512-bit registers go through units of 256, such as
//! Zen 4, that is the faster way for a prompt: a load of 64 bytes takes a cycle there, and so does a dot product of 64. 8
//! tables are 41 KB, more than some L1 caches; fewer at a time, which they would keep, were slower.

use super::avx2_lookup::{TOKENS_16, decode, transpose};
use super::kernel::UnpackPanel;
use super::layout::{self, Layout};
use super::lookup::{CHUNK_CODES, CHUNK_COLS, ENTRIES, LookupKernels, SUMS_81, TokenTile};
use super::{TILE_ROWS, avx512_vbmi, avx512_vnni};
use crate::pool::SharedMut;
use std::arch::x86_64::*;

/// Tokens of a vector.
const TOKENS: usize = 32;
/// Lanes of int32 in a vector.
const LANES: usize = 16;

/// The last tokens go by the tile for AVX2 where they fit it, which takes some three quarters of the time.
static TILES: [TokenTile; 2] = [
    TokenTile { places: 24, ..TOKENS_16 },
    TokenTile { tokens: TOKENS, places: TOKENS, arrange: transpose::<TOKENS>, tabulate, add, spill, turn },
];

/// For planes, where no dot products are.
pub(super) const PLANES: LookupKernels =
    LookupKernels { min_tokens: 16, min_filled: 0, chunk: SUMS_81, decode, tiles: &TILES };

/// For codes and trios, which have dot products for fewer tokens.
pub(super) const CODES: LookupKernels =
    LookupKernels { min_tokens: 26, min_filled: 80, decode: decode_codes, ..PLANES };
pub(super) const TRIOS: LookupKernels = LookupKernels { decode: decode_trios, ..CODES };

/// Columns that are unpacked on the way from one packed form to the other: whole blocks of each, and whole chunks.
const BLOCK_COLS: usize = 96;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn decode_codes(tiles: &[u8], cols: usize, codes: &SharedMut<'_, u8>, code_rows: usize, row: usize) {
    decode_by(avx512_vnni::unpack, &layout::CODES, (tiles, cols), (codes, code_rows, row));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn decode_trios(tiles: &[u8], cols: usize, codes: &SharedMut<'_, u8>, code_rows: usize, row: usize) {
    decode_by(avx512_vbmi::unpack, &layout::TRIOS, (tiles, cols), (codes, code_rows, row));
}

/// By way of bytes, one for each weight.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn decode_by(
    unpack: UnpackPanel,
    layout: &Layout,
    (tiles, cols): (&[u8], usize),
    (codes, code_rows, row): (&SharedMut<'_, u8>, usize, usize),
) {
    let mut panel = [0u8; BLOCK_COLS * TILE_ROWS];
    for (index, tile) in tiles.chunks_exact(layout.tile_bytes(cols)).enumerate() {
        let first_row = row + index * TILE_ROWS;
        for start in (0..cols).step_by(BLOCK_COLS) {
            let end = (start + BLOCK_COLS).min(layout.padded(cols));
            let packed = &tile[layout.tile_bytes(start)..layout.tile_bytes(end)];
            // SAFETY: the CPU has the ISA of the packed form, as the caller has; the same columns on both sides.
            unsafe { unpack(packed, end - start, &mut panel[..(end - start) * TILE_ROWS]) };
            for (chunk, panel) in panel.as_chunks::<{ CHUNK_COLS * TILE_ROWS }>().0.iter().enumerate() {
                let chunk = start / CHUNK_COLS + chunk;
                if chunk * CHUNK_COLS < cols {
                    let at = (chunk * code_rows + first_row) * CHUNK_CODES;
                    // SAFETY: these rows of every chunk belong to this call alone (the kernel's contract).
                    codes_of_chunk(panel, unsafe { codes.slice(at, TILE_ROWS * CHUNK_CODES) });
                }
            }
        }
    }
}

/// `panel[8][32 rows][4]`, weights plus one, as `codes[row][8]`. Whatever is left in the padding is below 3, too.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn codes_of_chunk(panel: &[u8; CHUNK_COLS * TILE_ROWS], codes: &mut [u8]) {
    let powers = _mm512_set1_epi32(i32::from_le_bytes([1, 3, 9, 27]));
    let evens = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    let odds = _mm512_add_epi32(evens, _mm512_set1_epi32(8));
    let lines = panel.as_chunks::<64>().0;
    for (half, codes) in codes.as_chunks_mut::<{ LANES * CHUNK_CODES }>().0.iter_mut().enumerate() {
        let code = |quad: usize| {
            // SAFETY: 64 readable bytes; the load needs no alignment.
            let weights = unsafe { _mm512_loadu_si512(lines[2 * quad + half].as_ptr().cast()) };
            _mm512_dpbusd_epi32(_mm512_setzero_si512(), weights, powers)
        };
        let four = |first: usize| {
            let low = _mm512_or_si512(code(first), _mm512_slli_epi32::<8>(code(first + 1)));
            let high = _mm512_or_si512(code(first + 2), _mm512_slli_epi32::<8>(code(first + 3)));
            _mm512_or_si512(low, _mm512_slli_epi32::<16>(high))
        };
        let (first, second) = (four(0), four(4));
        for (order, codes) in [evens, odds].into_iter().zip(codes.as_chunks_mut::<64>().0) {
            // SAFETY: 64 writable bytes; the store needs no alignment.
            unsafe { _mm512_storeu_si512(codes.as_mut_ptr().cast(), _mm512_permutex2var_epi32(first, order, second)) };
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn load_words(values: &[i16; TOKENS]) -> __m512i {
    // SAFETY: 64 readable bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn store_words(values: __m512i, out: &mut [i16; TOKENS]) {
    // SAFETY: 64 writable bytes; the store needs no alignment.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), values) };
}

/// The nine sums of the first two columns stay in registers; each meets what the third adds, then the fourth.
#[target_feature(enable = "avx512f,avx512bw")]
fn tabulate(columns: &[i16], tables: &mut [i16]) -> i32 {
    let columns = columns.as_chunks::<TOKENS>().0.as_chunks::<4>().0;
    let tables = tables.as_chunks_mut::<TOKENS>().0.as_chunks_mut::<ENTRIES>().0;
    let mut sizes = _mm512_setzero_si512();
    for (columns, table) in columns.iter().zip(tables) {
        let x = [0, 1, 2, 3].map(|i: usize| load_words(&columns[i]));
        for x in x {
            sizes = _mm512_add_epi16(sizes, _mm512_abs_epi16(x));
        }
        let with = |sum, x| [_mm512_sub_epi16(sum, x), sum, _mm512_add_epi16(sum, x)];
        let [a, b, c] = with(_mm512_setzero_si512(), x[0]);
        let first_two: [[__m512i; 3]; 3] = [with(a, x[1]), with(b, x[1]), with(c, x[1])];
        let (minus, plus) = (_mm512_sub_epi16(_mm512_setzero_si512(), x[2]), x[2]);
        for (third, x2) in [minus, _mm512_setzero_si512(), plus].into_iter().enumerate() {
            for (first, sums) in first_two.iter().enumerate() {
                for (second, sum) in sums.iter().enumerate() {
                    let sums = with(_mm512_add_epi16(*sum, x2), x[3]);
                    for (fourth, sum) in sums.into_iter().enumerate() {
                        store_words(sum, &mut table[first + 3 * second + 9 * third + 27 * fourth]);
                    }
                }
            }
        }
    }
    let mut lanes = [0; TOKENS];
    store_words(sizes, &mut lanes);
    lanes.into_iter().max().map_or(0, i32::from)
}

#[target_feature(enable = "avx512f,avx512bw")]
fn add(codes: &[u8], tables: &[i16], begins: bool, partial: &mut [i16]) {
    let codes = codes.as_chunks().0;
    let tables = tables.try_into().expect("8 tables of 81 entries of 32 tokens");
    let partial = partial.as_chunks_mut().0;
    if begins { add_rows::<true>(codes, tables, partial) } else { add_rows::<false>(codes, tables, partial) }
}

type Tables = [i16; CHUNK_CODES * ENTRIES * TOKENS];

/// Adds each row's 8 entries: to nothing where it `BEGINS`, else to the partial sums.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add_rows<const BEGINS: bool>(codes: &[[u8; CHUNK_CODES]], tables: &Tables, partial: &mut [[i16; TOKENS]]) {
    let base: *const u8 = tables.as_ptr().cast();
    const ENTRY_BYTES: usize = 2 * TOKENS;
    for (codes, partial) in codes.iter().zip(partial) {
        let codes = u64::from_le_bytes(*codes);
        let entry = |table: usize| {
            let code = (codes >> (8 * table)) as usize & 0xff;
            debug_assert!(code < ENTRIES, "code {code}");
            // SAFETY: codes are below 81 (`SUMS_81`), so the entry lies inside the 8 tables.
            unsafe { _mm512_loadu_si512(base.add((table * ENTRIES + code) * ENTRY_BYTES).cast()) }
        };
        let a = _mm512_add_epi16(_mm512_add_epi16(entry(0), entry(1)), _mm512_add_epi16(entry(2), entry(3)));
        let b = _mm512_add_epi16(_mm512_add_epi16(entry(4), entry(5)), _mm512_add_epi16(entry(6), entry(7)));
        let mut sum = _mm512_add_epi16(a, b);
        if !BEGINS {
            sum = _mm512_add_epi16(sum, load_words(partial));
        }
        store_words(sum, partial);
    }
}

/// Partial sums of 16 tokens as int32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn widened(partial: &[i16; LANES]) -> __m512i {
    // SAFETY: 32 readable bytes; the load needs no alignment.
    _mm512_cvtepi16_epi32(unsafe { _mm256_loadu_si256(partial.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_sums(sums: &[i32; LANES]) -> __m512i {
    // SAFETY: 64 readable bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn store_sums(values: __m512i, sums: &mut [i32; LANES]) {
    // SAFETY: 64 writable bytes; the store needs no alignment.
    unsafe { _mm512_storeu_si512(sums.as_mut_ptr().cast(), values) };
}

#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn spill(partial: &[i16], first: bool, sums: &mut [i32]) {
    for (partial, sums) in partial.as_chunks().0.iter().zip(sums.as_chunks_mut().0) {
        let partial = widened(partial);
        store_sums(if first { partial } else { _mm512_add_epi32(partial, load_sums(sums)) }, sums);
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn turn(partial: &[i16], sums: Option<&[i32]>, by_token: &mut [i32]) {
    let rows = partial.len() / TOKENS;
    for row in (0..rows).step_by(LANES) {
        for token in (0..TOKENS).step_by(LANES) {
            let mut square = [_mm512_setzero_si512(); LANES];
            for (i, line) in square.iter_mut().enumerate() {
                let at = (row + i) * TOKENS + token;
                *line = widened(&partial[at..].as_chunks().0[0]);
                if let Some(sums) = sums {
                    *line = _mm512_add_epi32(*line, load_sums(&sums[at..].as_chunks().0[0]));
                }
            }
            for (i, line) in transposed(square).into_iter().enumerate() {
                store_sums(line, &mut by_token[(token + i) * rows + row..].as_chunks_mut().0[0]);
            }
        }
    }
}

/// Lines of a square of 16 by 16 int32 as columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transposed(lines: [__m512i; LANES]) -> [__m512i; LANES] {
    let pairs: [__m512i; LANES] = std::array::from_fn(|i| {
        let (a, b) = (lines[i / 2 * 2], lines[i / 2 * 2 + 1]);
        if i % 2 == 0 { _mm512_unpacklo_epi32(a, b) } else { _mm512_unpackhi_epi32(a, b) }
    });
    // `fours[4 q + c]`: of lines `4 q` to `4 q + 3`, columns `c`, `c + 4`, `c + 8` and `c + 12`.
    let fours: [__m512i; LANES] = std::array::from_fn(|i| {
        let (a, b) = (pairs[i / 4 * 4 + i % 4 / 2], pairs[i / 4 * 4 + i % 4 / 2 + 2]);
        if i % 2 == 0 { _mm512_unpacklo_epi64(a, b) } else { _mm512_unpackhi_epi64(a, b) }
    });
    // `eights[8 h + 2 c + o]`: of lines `8 h` to `8 h + 7`, columns `c + 4 o` and `c + 8 + 4 o`, each of 4 lines, then of 4 more.
    let eights: [__m512i; LANES] = std::array::from_fn(|i| {
        let (a, b) = (fours[i / 8 * 8 + i % 8 / 2], fours[i / 8 * 8 + i % 8 / 2 + 4]);
        if i % 2 == 0 { _mm512_shuffle_i32x4::<0x88>(a, b) } else { _mm512_shuffle_i32x4::<0xdd>(a, b) }
    });
    std::array::from_fn(|i| {
        // Column `i` is in the first or second part of its pair.
        let (c, odd, second) = (i % 4, i / 4 % 2, i / 8);
        let (a, b) = (eights[2 * c + odd], eights[8 + 2 * c + odd]);
        if second == 0 { _mm512_shuffle_i32x4::<0x88>(a, b) } else { _mm512_shuffle_i32x4::<0xdd>(a, b) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_for_tiles_that_are_nearly_full() {
        let pays = |tokens: &usize| TRIOS.pays(*tokens);
        assert!([26, 32, 45, 48, 52, 64, 72, 96, 128, 512].iter().all(pays));
        assert!(![1, 16, 25, 33, 40, 44, 49, 51, 65, 70].iter().any(pays));
        assert!([16, 17, 33, 48].iter().all(|tokens| PLANES.pays(*tokens)) && !PLANES.pays(15));
    }
}
