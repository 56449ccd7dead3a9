//! Many tokens with AVX-512: tables of 27 sums, each in a register (see [`super::lookup`]).
//!
//! A table holds what three columns of a token can add: one vector of int16. An index of five bits names an entry for each
//! of 32 rows, and `vpermw` looks all of them up at once; with the addition that follows these are 96 multiply-adds, where an
//! integer dot product is 64. That pays on a CPU that permutes two whole vectors of 512 bits a cycle and adds others in the
//! same cycle, such as Zen 5. There are 16 sums: those of 4 tokens and 128 rows.
//!
//! # Codes
//!
//! `vpermw` ignores all but the lowest five bits of a lane, so that three indices share it. A chunk is 96 columns, as a block
//! of trios is, and its indices are those of [`super::layout`]: index `v` of byte `j` is of columns `12v + j`, `12v + 4 + j` and
//! `12v + 8 + j`. 32 rows have 11 cache lines:
//!
//! ```text
//! line v, 0 to 7:   lane r = row r, bits 0-4 index v of byte 0, bits 5-9 of byte 1, bits 10-14 of byte 2
//! lines 8 to 10:    bits 0-4, 5-9, 10-14: of byte 3, indices 0, 1, 2; then 3, 4, 5; then 6, 7
//! ```
//!
//! The tables of a token come in the order in which their indices do.
//!
//! # Zeros
//!
//! Behind a squared ReLU most activations are zero, and with them whole tables, which add nothing. Where a quad of tokens has
//! many of those, each token goes through 512 rows by the tables that are not all zeros. How it comes to a sum does not matter:
//! all of it is integers.
//!
//! Bounds. An entry is at most `3 * 128` in size, and `255 + 3 * 128` while it is made; for sums see [`super::lookup`].

use super::TILE_ROWS;
use super::avx512_lookup::{load_words, spill, store_words, widened};
use super::avx512_vbmi::{self, INDICES};
use super::avx512_vnni::{LINE, PREFETCH, load};
use super::layout::{self, CODES_BYTES, CODES_COLS, TRIOS_BYTES, TRIOS_COLS};
use super::lookup::{Chunk, LookupKernels, TokenTile};
use crate::pool::SharedMut;
use std::arch::x86_64::*;

/// Tables of a chunk: one for each byte of each index.
const TABLES: usize = 4 * INDICES;
/// Cache lines of codes for 32 rows.
const LINES: usize = 11;
/// int16 of a vector: the entries of a table, of which 27 are used, and the rows of a tile.
const LANES: usize = 32;
/// Tokens that are multiplied together.
const QUAD: usize = 4;
/// Tiles of rows that are.
const TILES: usize = 4;
/// Tiles of rows that one token is multiplied with where many of its tables are zeros.
const TILES_ALONE: usize = 16;
/// The most tables of a quad's 128 that hold anything for it to pay to go by those alone.
const MAX_FILLED: u32 = 76;
/// int16 of a token's flags, a bit for each table that holds anything but zeros.
const FLAGS: usize = 4;
/// int16 that [`arrange`] makes of a token's 96 columns: for each `v` four pairs of bytes, then four more.
const ARRANGED: usize = 64;

const CHUNK: Chunk = Chunk { cols: TRIOS_COLS, codes: LINES * LINE / TILE_ROWS, sums: TABLES * LANES + FLAGS };

/// Tiles of 32 were no faster.
static TOKENS: [TokenTile; 2] = [tokens::<8>(), tokens::<16>()];

const fn tokens<const T: usize>() -> TokenTile {
    TokenTile { tokens: T, places: T, arrange: arrange::<T>, tabulate, add, spill, turn: turn::<T> }
}

pub(super) const CODES: LookupKernels =
    LookupKernels { min_tokens: 22, min_filled: 80, chunk: CHUNK, decode: decode_codes, tiles: &TOKENS };
pub(super) const TRIOS: LookupKernels = LookupKernels { decode: decode_trios, ..CODES };

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn decode_codes(tiles: &[u8], cols: usize, codes: &SharedMut<'_, u8>, code_rows: usize, row: usize) {
    let mask = _mm512_set1_epi8(3);
    for (tile, packed) in tiles.chunks_exact(layout::CODES.tile_bytes(cols)).enumerate() {
        // The last chunk may end early; what is left of it meets zeros.
        for (chunk, blocks) in packed.as_chunks::<CODES_BYTES>().0.chunks(CHUNK.cols / CODES_COLS).enumerate() {
            let mut indices = [[_mm512_setzero_si512(); INDICES]; 2];
            for (half, indices) in indices.iter_mut().enumerate() {
                let mut quads = [_mm512_setzero_si512(); 3 * INDICES];
                for (block, quads) in blocks.iter().zip(quads.as_chunks_mut::<4>().0) {
                    let line = &block.as_chunks().0[half];
                    ask_ahead(line);
                    let codes = load(line);
                    quads[0] = _mm512_and_si512(codes, mask);
                    quads[1] = _mm512_and_si512(_mm512_srli_epi32::<2>(codes), mask);
                    quads[2] = _mm512_and_si512(_mm512_srli_epi32::<4>(codes), mask);
                    quads[3] = _mm512_and_si512(_mm512_srli_epi32::<6>(codes), mask);
                }
                for (index, [a, b, c]) in indices.iter_mut().zip(quads.as_chunks().0) {
                    // `a + 3 b + 9 c`, each byte at most 26.
                    let three = _mm512_add_epi8(_mm512_slli_epi32::<1>(*b), *b);
                    let nine = _mm512_add_epi8(_mm512_slli_epi32::<3>(*c), *c);
                    *index = _mm512_add_epi8(*a, _mm512_add_epi8(three, nine));
                }
            }
            let at = (chunk * code_rows + row + tile * TILE_ROWS) * CHUNK.codes;
            // SAFETY: these rows of every chunk belong to this call alone (the kernel's contract).
            write_codes(indices, unsafe { codes.slice(at, LINES * LINE) });
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn decode_trios(tiles: &[u8], cols: usize, codes: &SharedMut<'_, u8>, code_rows: usize, row: usize) {
    for (tile, packed) in tiles.chunks_exact(layout::TRIOS.tile_bytes(cols)).enumerate() {
        for (chunk, block) in packed.as_chunks::<TRIOS_BYTES>().0.iter().enumerate() {
            let lines = block.as_chunks::<LINE>().0;
            for line in lines {
                ask_ahead(line);
            }
            let (first, second) = lines.split_at(lines.len() / 2);
            let indices = [avx512_vbmi::indices(first), avx512_vbmi::indices(second)];
            let at = (chunk * code_rows + row + tile * TILE_ROWS) * CHUNK.codes;
            // SAFETY: these rows of every chunk belong to this call alone (the kernel's contract).
            write_codes(indices, unsafe { codes.slice(at, LINES * LINE) });
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn ask_ahead(line: &[u8; LINE]) {
    _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().wrapping_add(PREFETCH).cast());
}

/// The indices of each 16 rows, garbage above bit 4 of a byte, as the lines that the module head draws.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn write_codes(indices: [[__m512i; INDICES]; 2], codes: &mut [u8]) {
    let lines = codes.as_chunks_mut::<LINE>().0;
    let masked = |bits: __m512i, f: u32| _mm512_and_si512(bits, _mm512_set1_epi32(31 << (5 * f)));
    for (half, indices) in indices.into_iter().enumerate() {
        let mut store = |line: usize, words: __m512i| {
            let out = &mut lines[line].as_chunks_mut::<{ LINE / 2 }>().0[half];
            // SAFETY: 32 writable bytes; the store needs no alignment.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(words)) };
        };
        for (v, index) in indices.into_iter().enumerate() {
            let (second, third) = (_mm512_srli_epi32::<3>(index), _mm512_srli_epi32::<6>(index));
            store(v, _mm512_or_si512(masked(index, 0), _mm512_or_si512(masked(second, 1), masked(third, 2))));
        }
        let last = indices.map(|index| masked(_mm512_srli_epi32::<24>(index), 0));
        for (line, last) in last.chunks(3).enumerate() {
            let mut words = last[0];
            words = _mm512_or_si512(words, _mm512_slli_epi32::<5>(last[1]));
            if let Some(third) = last.get(2) {
                words = _mm512_or_si512(words, _mm512_slli_epi32::<10>(*third));
            }
            store(INDICES + line, words);
        }
    }
}

/// The bytes that [`tabulate`] multiplies, unsigned (128 is added to each), `arranged[chunk][T][8 v][2][4 j][2]`: columns
/// `12v + j` and `12v + 4 + j`; then column `12v + 8 + j` and a zero. Absent tokens are zeros.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn arrange<const T: usize>(q: &[i8], stride: usize, tokens: usize, arranged: &mut [i16]) {
    let zeros = [0; TRIOS_COLS];
    // Of 16 bytes from column `12v` on, or from 4 before it, so that the last ones end where the block does.
    let first = _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, -1, 9, -1, 10, -1, 11, -1);
    let others = _mm_setr_epi8(4, 8, 5, 9, 6, 10, 7, 11, 12, -1, 13, -1, 14, -1, 15, -1);
    for (chunk, arranged) in arranged.chunks_exact_mut(TRIOS_COLS * T).enumerate() {
        for (token, arranged) in arranged.as_chunks_mut::<ARRANGED>().0.iter_mut().take(T).enumerate() {
            let at = token * stride + chunk * TRIOS_COLS;
            let columns = if token < tokens { &q[at..at + TRIOS_COLS] } else { &zeros };
            for (v, pairs) in arranged.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let (from, order) = if v == 0 { (0, first) } else { (12 * v - 4, others) };
                let columns: &[i8; 16] = &columns[from..].as_chunks().0[0];
                // SAFETY: 16 readable bytes; the load needs no alignment.
                let columns = unsafe { _mm_loadu_si128(columns.as_ptr().cast()) };
                let bytes = _mm_xor_si128(_mm_shuffle_epi8(columns, order), _mm_set1_epi8(-128));
                // SAFETY: 16 writable bytes; the store needs no alignment.
                unsafe { _mm_storeu_si128(pairs.as_mut_ptr().cast(), bytes) };
            }
        }
    }
}

/// What entry `i` multiplies the bytes of [`arrange`] by: the trits of `i`; and, by the byte that is always 128, less their
/// sum, which takes away what the added 128s brought.
const FACTORS: [[[i8; 2]; LANES]; 2] = {
    let mut factors = [[[0; 2]; LANES]; 2];
    let mut i = 0;
    while i < 27 {
        let trits = [i % 3 - 1, i / 3 % 3 - 1, i / 9 - 1];
        factors[0][i as usize] = [trits[0], trits[1]];
        factors[1][i as usize] = [trits[2], -(trits[0] + trits[1] + trits[2])];
        i += 1;
    }
    factors
};

/// Where the table of index `v` of byte `j` is among the tables of its token.
const fn place(v: usize, j: usize) -> usize {
    if j < 3 { 3 * v + j } else { 3 * INDICES + v }
}

/// The table of each flag: of (`v`, `j`) it is bit `16 (v % 4) + 8 (v / 4) + 2j`.
const FLAGGED: [u8; 64] = {
    let mut flagged = [0; 64];
    let mut v = 0;
    while v < INDICES {
        let mut j = 0;
        while j < 4 {
            flagged[v % 4 * 16 + v / 4 * 8 + 2 * j] = place(v, j) as u8;
            j += 1;
        }
        v += 1;
    }
    flagged
};

/// The flags of the tables whose codes are first, second and third in a lane.
const IN_LANE: [u64; 3] = {
    let mut masks = [0; 3];
    let mut flag = 0;
    while flag < 64 {
        masks[FLAGGED[flag] as usize % 3] |= 1 << flag;
        flag += 2;
    }
    masks
};

/// `tables[T / 4][32 tables][4 tokens][32 entries]`, and behind them each token's [`FLAGS`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn tabulate(arranged: &[i16], tables: &mut [i16]) -> i32 {
    let tokens = tables.len() / CHUNK.sums;
    // SAFETY: 64 readable bytes each; the loads need no alignment.
    let [first, second] = FACTORS.each_ref().map(|factors| unsafe { _mm512_loadu_si512(factors.as_ptr().cast()) });
    let (tables, nonzero) = tables.split_at_mut(tokens * TABLES * LANES);
    let tables = tables.as_chunks_mut::<LANES>().0.as_chunks_mut::<{ TABLES * QUAD }>().0;
    let mut largest = 0;
    for (token, arranged) in arranged.as_chunks::<ARRANGED>().0.iter().take(tokens).enumerate() {
        let tables = &mut tables[token / QUAD];
        let mut sizes = _mm_setzero_si128();
        for (v, pairs) in arranged.as_chunks::<8>().0.iter().enumerate() {
            // SAFETY: 16 readable bytes; the load needs no alignment.
            let bytes = unsafe { _mm_loadu_si128(pairs.as_ptr().cast()) };
            sizes = _mm_add_epi64(sizes, _mm_sad_epu8(bytes, _mm_set1_epi8(-128)));
            for j in 0..4 {
                let two = _mm512_maddubs_epi16(_mm512_set1_epi16(pairs[j]), first);
                let third = _mm512_maddubs_epi16(_mm512_set1_epi16(pairs[4 + j]), second);
                store_words(_mm512_add_epi16(two, third), &mut tables[QUAD * place(v, j) + token % QUAD]);
            }
        }
        largest = largest.max(_mm_cvtsi128_si32(sizes) + _mm_extract_epi32::<2>(sizes));
        let [first, second] = [0, 1].map(|half: usize| {
            let bytes = load_words(&arranged.as_chunks().0[half]);
            let nonzero = _mm512_cmpneq_epi8_mask(bytes, _mm512_set1_epi8(-128));
            // Of four `v` 16 bits each: bit `2j` where one of a pair is not zero, or the third.
            (nonzero | nonzero >> 1 | nonzero >> 8) & 0x0055_0055_0055_0055
        });
        let flags = first | second << 8;
        nonzero.as_chunks_mut::<FLAGS>().0[token] = [0, 16, 32, 48].map(|shift: u32| (flags >> shift) as i16);
    }
    largest
}

/// `partial[tile][T][32 rows]`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn add(codes: &[u8], tables: &[i16], begins: bool, partial: &mut [i16]) {
    let tiles = codes.as_chunks::<LINE>().0.as_chunks::<LINES>().0;
    let (tables, nonzero) = tables.split_at(tables.len() / CHUNK.sums * TABLES * LANES);
    let quads = tables.as_chunks::<LANES>().0.as_chunks::<{ TABLES * QUAD }>().0;
    let nonzero = nonzero.as_chunks::<FLAGS>().0.as_chunks::<QUAD>().0;
    let partial = partial.as_chunks_mut::<LANES>().0.as_chunks_mut::<QUAD>().0;
    // One quad's tables, 8 KB, stay in the L1 cache.
    for (quad, (tables, nonzero)) in quads.iter().zip(nonzero).enumerate() {
        let nonzero =
            nonzero.map(|flags| flags.iter().rev().fold(0, |all, bits| all << 16 | u64::from(bits.cast_unsigned())));
        let filled: u32 = nonzero.iter().map(|bits| bits.count_ones()).sum();
        let (mut tiles, mut at) = (tiles, quad);
        if filled <= MAX_FILLED {
            let (many, rest) = tiles.as_chunks::<TILES_ALONE>();
            for tiles in many {
                for (token, nonzero) in nonzero.into_iter().enumerate() {
                    add_nonzero(tiles, tables, (token, nonzero), begins, &mut partial[at..], quads.len());
                }
                at += TILES_ALONE * quads.len();
            }
            tiles = rest;
        }
        let (four, rest) = tiles.as_chunks::<TILES>();
        for tiles in four {
            add_tiles(tiles, tables, begins, &mut partial[at..], quads.len());
            at += TILES * quads.len();
        }
        for tile in rest {
            add_tiles(std::array::from_ref(tile), tables, begins, &mut partial[at..], quads.len());
            at += quads.len();
        }
    }
}

/// For one token, whose sums of one tile are `stride` quads from those of the next, by the tables that are not all zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn add_nonzero(
    tiles: &[[[u8; LINE]; LINES]; TILES_ALONE],
    tables: &[[i16; LANES]; TABLES * QUAD],
    (token, nonzero): (usize, u64),
    begins: bool,
    partial: &mut [[[i16; LANES]; QUAD]],
    stride: usize,
) {
    let mut sums = [_mm512_setzero_si512(); TILES_ALONE];
    if !begins {
        for (tile, sum) in sums.iter_mut().enumerate() {
            *sum = load_words(&partial[tile * stride][token]);
        }
    }
    for (place, mask) in IN_LANE.into_iter().enumerate() {
        let mut left = nonzero & mask;
        while left != 0 {
            let index = usize::from(FLAGGED[left.trailing_zeros() as usize]);
            left &= left - 1;
            let table = load_words(&tables[QUAD * index + token]);
            for (tile, sum) in tiles.iter().zip(&mut sums) {
                let indices = field(load(&tile[index / 3]), place);
                *sum = _mm512_add_epi16(*sum, _mm512_permutexvar_epi16(indices, table));
            }
        }
    }
    for (tile, sum) in sums.into_iter().enumerate() {
        store_words(sum, &mut partial[tile * stride][token]);
    }
}

/// One of the three indices of each lane, garbage above bit 4.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn field(codes: __m512i, place: usize) -> __m512i {
    match place {
        0 => codes,
        1 => _mm512_srli_epi16::<5>(codes),
        _ => _mm512_srli_epi16::<10>(codes),
    }
}

/// For 4 tokens, whose sums of one tile are `stride` quads from those of the next.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn add_tiles<const N: usize>(
    tiles: &[[[u8; LINE]; LINES]; N],
    tables: &[[i16; LANES]; TABLES * QUAD],
    begins: bool,
    partial: &mut [[[i16; LANES]; QUAD]],
    stride: usize,
) {
    let mut sums = [[_mm512_setzero_si512(); QUAD]; N];
    if !begins {
        for (tile, sums) in sums.iter_mut().enumerate() {
            for (token, sum) in sums.iter_mut().enumerate() {
                *sum = load_words(&partial[tile * stride][token]);
            }
        }
    }
    let tables = tables.as_chunks::<QUAD>().0;
    for line in 0..LINES {
        for place in 0..3 {
            let Some(tables) = tables.get(3 * line + place) else { break };
            let mut indices = [_mm512_setzero_si512(); N];
            for (indices, tile) in indices.iter_mut().zip(tiles) {
                *indices = field(load(&tile[line]), place);
            }
            for (token, table) in tables.iter().enumerate() {
                let table = load_words(table);
                for (sums, indices) in sums.iter_mut().zip(indices) {
                    sums[token] = _mm512_add_epi16(sums[token], _mm512_permutexvar_epi16(indices, table));
                }
            }
        }
    }
    for (tile, sums) in sums.into_iter().enumerate() {
        for (token, sum) in sums.into_iter().enumerate() {
            store_words(sum, &mut partial[tile * stride][token]);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn turn<const T: usize>(partial: &[i16], sums: Option<&[i32]>, by_token: &mut [i32]) {
    let rows = partial.len() / T;
    for (at, partial) in partial.as_chunks::<{ LANES / 2 }>().0.iter().enumerate() {
        let (tile, token, half) = (at / 2 / T, at / 2 % T, at % 2);
        let mut line = widened(partial);
        if let Some(sums) = sums {
            let sums: &[i32; LANES / 2] = &sums.as_chunks().0[at];
            // SAFETY: 64 readable bytes; the load needs no alignment.
            line = _mm512_add_epi32(line, unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) });
        }
        let at = token * rows + tile * TILE_ROWS + half * (LANES / 2);
        let out: &mut [i32; LANES / 2] = &mut by_token[at..].as_chunks_mut().0[0];
        // SAFETY: 64 writable bytes; the store needs no alignment.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), line) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_for_tiles_that_are_nearly_full() {
        let pays = |tokens: &usize| TRIOS.pays(*tokens);
        assert!([22, 24, 31, 32, 36, 40, 48, 64, 128, 512].iter().all(pays));
        assert!(![1, 8, 16, 21, 25].iter().any(pays));
    }

    #[test]
    fn a_factor_is_a_trit_of_its_entry() {
        for (i, ([t0, t1], [t2, less])) in FACTORS[0].into_iter().zip(FACTORS[1]).enumerate() {
            let code = |trit: i8| usize::from((trit + 1).cast_unsigned());
            let expected = if i < 27 { i } else { 13 };
            assert_eq!(code(t0) + 3 * code(t1) + 9 * code(t2), expected);
            assert_eq!(less, -(t0 + t1 + t2));
        }
    }
}
