//! Many tokens with AVX2: tables of 81 sums for 16 tokens (see [`super::lookup`]).
//!
//! The code of 4 trits is `40 + t0 + 3 t1 + 9 t2 + 27 t3`, 0 to 80. Entry `code` of a table is the signed sum of the 4
//! activations for each of 16 tokens, int16 in one vector of 32 bytes; a table has 2592 bytes.

use super::avx2::{PREFETCH, load};
use super::lookup::{CHUNK_CODES, CHUNK_COLS, ENTRIES, TokenTile};
use super::{TILE_ROWS, UNIT_BYTES, UNIT_COLS, padded_cols};
use crate::pool::SharedMut;
use std::arch::x86_64::*;

/// Tokens of a vector.
const TOKENS: usize = 16;

pub(super) const TOKENS_16: TokenTile =
    TokenTile { tokens: TOKENS, places: TOKENS, arrange: transpose::<TOKENS>, tabulate, add, spill, turn };

/// Planes to codes, 32 rows by 32 columns at a time: `code = 40 + F[plus] - F[minus]`, `F` the base-3 value of a nibble's
/// bits, then an 8 x 32 byte transposition so that a row's 8 codes lie together.
#[target_feature(enable = "avx2")]
pub(super) fn decode(tiles: &[u8], cols: usize, codes: &SharedMut<'_, u8>, code_rows: usize, row: usize) {
    let (zero, units) = ([0u8; UNIT_BYTES], padded_cols(cols) / UNIT_COLS);
    for (index, tile) in tiles.chunks_exact(units * UNIT_BYTES).enumerate() {
        let units = tile.as_chunks::<UNIT_BYTES>().0;
        let first_row = row + index * TILE_ROWS;
        // The last chunk may be half a chunk: columns are padded to 16 only.
        for (chunk, units) in units.chunks(CHUNK_COLS / UNIT_COLS).enumerate() {
            for unit in units {
                _mm_prefetch::<_MM_HINT_T1>(unit.as_ptr().wrapping_add(PREFETCH).cast());
            }
            let unit = |i: usize| units.get(i).unwrap_or(&zero);
            let at = (chunk * code_rows + first_row) * CHUNK_CODES;
            // SAFETY: these rows of every chunk belong to this call alone (the kernel's contract).
            let codes = unsafe { codes.slice(at, TILE_ROWS * CHUNK_CODES) };
            decode_chunk([unit(0), unit(1), unit(2), unit(3)], codes);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn decode_chunk(units: [&[u8; UNIT_BYTES]; 4], codes: &mut [u8]) {
    let nibble = _mm256_set1_epi8(15);
    let base3 = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 3, 4, 9, 10, 12, 13, 27, 28, 30, 31, 36, 37, 39, 40));
    let base3_40 = _mm256_add_epi8(base3, _mm256_set1_epi8(40));
    let code = |plus, minus| {
        let plus = _mm256_shuffle_epi8(base3_40, _mm256_and_si256(plus, nibble));
        _mm256_sub_epi8(plus, _mm256_shuffle_epi8(base3, _mm256_and_si256(minus, nibble)))
    };
    let mut columns = [_mm256_setzero_si256(); 8];
    for (unit, columns) in units.iter().zip(columns.as_chunks_mut::<2>().0) {
        let (plus, minus) = (load(&unit.as_chunks().0[0]), load(&unit.as_chunks().0[1]));
        *columns = [code(plus, minus), code(_mm256_srli_epi16::<4>(plus), _mm256_srli_epi16::<4>(minus))];
    }
    write_codes(columns, codes);
}

/// Eight codes of each of 32 rows, which lie code by code, row by row.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn write_codes(c: [__m256i; CHUNK_CODES], codes: &mut [u8]) {
    // Each step interleaves neighbours, doubling the run of one row's codes: 2, 4, 8 bytes.
    let low: [__m256i; 4] = std::array::from_fn(|i| _mm256_unpacklo_epi8(c[2 * i], c[2 * i + 1]));
    let high: [__m256i; 4] = std::array::from_fn(|i| _mm256_unpackhi_epi8(c[2 * i], c[2 * i + 1]));
    for (pairs, row) in [(low, 0), (high, 8)] {
        let (a, b) = (_mm256_unpacklo_epi16(pairs[0], pairs[1]), _mm256_unpackhi_epi16(pairs[0], pairs[1]));
        let (c, d) = (_mm256_unpacklo_epi16(pairs[2], pairs[3]), _mm256_unpackhi_epi16(pairs[2], pairs[3]));
        let rows = [
            _mm256_unpacklo_epi32(a, c),
            _mm256_unpackhi_epi32(a, c),
            _mm256_unpacklo_epi32(b, d),
            _mm256_unpackhi_epi32(b, d),
        ];
        for (i, two_rows) in rows.into_iter().enumerate() {
            let at = (row + 2 * i) * CHUNK_CODES;
            store16(_mm256_castsi256_si128(two_rows), &mut codes[at..at + 16]);
            store16(_mm256_extracti128_si256::<1>(two_rows), &mut codes[at + 128..at + 144]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store16(value: __m128i, out: &mut [u8]) {
    assert!(out.len() == 16, "16 bytes");
    // SAFETY: 16 writable bytes; the store needs no alignment.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), value) };
}

/// `transposed[column][T]`, absent tokens and columns as zeros.
#[target_feature(enable = "avx2")]
pub(super) fn transpose<const T: usize>(q: &[i8], stride: usize, tokens: usize, transposed: &mut [i16]) {
    let out = transposed.as_chunks_mut::<T>().0;
    // Columns come in whole chunks, to which activations are padded.
    let whole = out.len();
    assert!(whole <= stride, "{whole} columns of {stride}");
    for eight in (0..T).step_by(8) {
        // An absent token reads a row of zeros.
        let zeros = [0u8; 8];
        for column in (0..whole).step_by(8) {
            let row = |i: usize| -> __m128i {
                let bytes = if eight + i < tokens {
                    let at = (eight + i) * stride + column;
                    q[at..at + 8].as_ptr().cast::<u8>()
                } else {
                    zeros.as_ptr()
                };
                // SAFETY: 8 readable bytes either way.
                unsafe { _mm_loadl_epi64(bytes.cast()) }
            };
            // Called from here, not from a function of the library that lacks the features and so cannot inline it.
            let pair = |i: usize| _mm_unpacklo_epi8(row(2 * i), row(2 * i + 1));
            let ab = [pair(0), pair(1), pair(2), pair(3)];
            let (c, d) = (_mm_unpacklo_epi16(ab[0], ab[1]), _mm_unpackhi_epi16(ab[0], ab[1]));
            let (e, f) = (_mm_unpacklo_epi16(ab[2], ab[3]), _mm_unpackhi_epi16(ab[2], ab[3]));
            let columns = [
                _mm_unpacklo_epi32(c, e),
                _mm_unpackhi_epi32(c, e),
                _mm_unpacklo_epi32(d, f),
                _mm_unpackhi_epi32(d, f),
            ];
            for (i, two) in columns.into_iter().enumerate() {
                let at = column + 2 * i;
                store8(_mm_cvtepi8_epi16(two), &mut out[at][eight..eight + 8]);
                store8(_mm_cvtepi8_epi16(_mm_srli_si128::<8>(two)), &mut out[at + 1][eight..eight + 8]);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store8(value: __m128i, out: &mut [i16]) {
    assert!(out.len() == 8, "8 int16");
    // SAFETY: 16 writable bytes; the store needs no alignment.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), value) };
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_tokens(values: &[i16; TOKENS]) -> __m256i {
    // SAFETY: 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_tokens(values: __m256i, out: &mut [i16; TOKENS]) {
    // SAFETY: 32 writable bytes; the store needs no alignment.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), values) };
}

/// The nine sums of the first two columns stay in registers; each meets what the third adds, then the fourth.
#[target_feature(enable = "avx2")]
fn tabulate(columns: &[i16], tables: &mut [i16]) -> i32 {
    let columns = columns.as_chunks::<TOKENS>().0.as_chunks::<4>().0;
    let tables = tables.as_chunks_mut::<TOKENS>().0.as_chunks_mut::<ENTRIES>().0;
    let mut sizes = _mm256_setzero_si256();
    for (columns, table) in columns.iter().zip(tables) {
        let x = [0, 1, 2, 3].map(|i: usize| load_tokens(&columns[i]));
        for x in x {
            sizes = _mm256_add_epi16(sizes, _mm256_abs_epi16(x));
        }
        let with = |sum, x| [_mm256_sub_epi16(sum, x), sum, _mm256_add_epi16(sum, x)];
        let [a, b, c] = with(_mm256_setzero_si256(), x[0]);
        let first_two: [[__m256i; 3]; 3] = [with(a, x[1]), with(b, x[1]), with(c, x[1])];
        let (minus, plus) = (_mm256_sub_epi16(_mm256_setzero_si256(), x[2]), x[2]);
        for (third, x2) in [minus, _mm256_setzero_si256(), plus].into_iter().enumerate() {
            for (first, sums) in first_two.iter().enumerate() {
                for (second, sum) in sums.iter().enumerate() {
                    let sums = with(_mm256_add_epi16(*sum, x2), x[3]);
                    for (fourth, sum) in sums.into_iter().enumerate() {
                        store_tokens(sum, &mut table[first + 3 * second + 9 * third + 27 * fourth]);
                    }
                }
            }
        }
    }
    let mut lanes = [0; TOKENS];
    store_tokens(sizes, &mut lanes);
    lanes.into_iter().max().map_or(0, i32::from)
}

#[target_feature(enable = "avx2")]
fn add(codes: &[u8], tables: &[i16], begins: bool, partial: &mut [i16]) {
    let codes = codes.as_chunks().0;
    let tables = tables.try_into().expect("8 tables of 81 entries of 16 tokens");
    let partial = partial.as_chunks_mut().0;
    if begins { add_rows::<true>(codes, tables, partial) } else { add_rows::<false>(codes, tables, partial) }
}

type Tables = [i16; CHUNK_CODES * ENTRIES * TOKENS];

/// Adds each row's 8 entries: to nothing where it `BEGINS`, else to the partial sums.
#[inline]
#[target_feature(enable = "avx2")]
fn add_rows<const BEGINS: bool>(codes: &[[u8; CHUNK_CODES]], tables: &Tables, partial: &mut [[i16; TOKENS]]) {
    let base: *const u8 = tables.as_ptr().cast();
    const ENTRY_BYTES: usize = 2 * TOKENS;
    for (codes, partial) in codes.iter().zip(partial) {
        let codes = u64::from_le_bytes(*codes);
        let entry = |table: usize| {
            let code = (codes >> (8 * table)) as usize & 0xff;
            debug_assert!(code < ENTRIES, "code {code}");
            // SAFETY: codes are below 81 (`SUMS_81`), so the entry lies inside the 8 tables.
            unsafe { _mm256_loadu_si256(base.add((table * ENTRIES + code) * ENTRY_BYTES).cast()) }
        };
        let a = _mm256_add_epi16(_mm256_add_epi16(entry(0), entry(1)), _mm256_add_epi16(entry(2), entry(3)));
        let b = _mm256_add_epi16(_mm256_add_epi16(entry(4), entry(5)), _mm256_add_epi16(entry(6), entry(7)));
        let mut sum = _mm256_add_epi16(a, b);
        if !BEGINS {
            sum = _mm256_add_epi16(sum, load_tokens(partial));
        }
        store_tokens(sum, partial);
    }
}

/// Partial sums of eight tokens as int32.
#[inline]
#[target_feature(enable = "avx2")]
fn widened(partial: &[i16; 8]) -> __m256i {
    // SAFETY: 16 readable bytes; the load needs no alignment.
    _mm256_cvtepi16_epi32(unsafe { _mm_loadu_si128(partial.as_ptr().cast()) })
}

#[target_feature(enable = "avx2")]
fn spill(partial: &[i16], first: bool, sums: &mut [i32]) {
    for (partial, sums) in partial.as_chunks().0.iter().zip(sums.as_chunks_mut::<8>().0) {
        let at: *mut __m256i = sums.as_mut_ptr().cast();
        let mut sum = widened(partial);
        if !first {
            // SAFETY: 32 readable bytes; the load needs no alignment.
            sum = _mm256_add_epi32(sum, unsafe { _mm256_loadu_si256(at) });
        }
        // SAFETY: 32 writable bytes; the store needs no alignment.
        unsafe { _mm256_storeu_si256(at, sum) };
    }
}

#[target_feature(enable = "avx2")]
fn turn(partial: &[i16], sums: Option<&[i32]>, by_token: &mut [i32]) {
    let rows = partial.len() / TOKENS;
    for row in (0..rows).step_by(8) {
        for token in (0..TOKENS).step_by(8) {
            let mut square = [_mm256_setzero_si256(); 8];
            for (i, line) in square.iter_mut().enumerate() {
                let at = (row + i) * TOKENS + token;
                *line = widened(&partial[at..].as_chunks().0[0]);
                if let Some(sums) = sums {
                    let sums: &[i32; 8] = &sums[at..].as_chunks().0[0];
                    // SAFETY: 32 readable bytes; the load needs no alignment.
                    *line = _mm256_add_epi32(*line, unsafe { _mm256_loadu_si256(sums.as_ptr().cast()) });
                }
            }
            for (i, line) in transposed(square).into_iter().enumerate() {
                let out: &mut [i32; 8] = &mut by_token[(token + i) * rows + row..].as_chunks_mut().0[0];
                // SAFETY: 32 writable bytes; the store needs no alignment.
                unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), line) };
            }
        }
    }
}

/// Lines of a square of 8 by 8 int32 as columns.
#[inline]
#[target_feature(enable = "avx2")]
fn transposed(lines: [__m256i; 8]) -> [__m256i; 8] {
    let pairs: [__m256i; 8] = std::array::from_fn(|i| {
        let (a, b) = (lines[i / 2 * 2], lines[i / 2 * 2 + 1]);
        if i % 2 == 0 { _mm256_unpacklo_epi32(a, b) } else { _mm256_unpackhi_epi32(a, b) }
    });
    // `fours[4 h + c]`: column `c` of lines `4 h` to `4 h + 3` in the lower half, column `c + 4` in the upper.
    let fours: [__m256i; 8] = std::array::from_fn(|i| {
        let (a, b) = (pairs[i / 4 * 4 + i % 4 / 2], pairs[i / 4 * 4 + i % 4 / 2 + 2]);
        if i % 2 == 0 { _mm256_unpacklo_epi64(a, b) } else { _mm256_unpackhi_epi64(a, b) }
    });
    std::array::from_fn(|i| {
        let (a, b) = (fours[i % 4], fours[i % 4 + 4]);
        if i < 4 { _mm256_permute2x128_si256::<0x20>(a, b) } else { _mm256_permute2x128_si256::<0x31>(a, b) }
    })
}
