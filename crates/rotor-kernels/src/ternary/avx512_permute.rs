//! Many tokens with AVX-512: tables of 27 sums, in registers (see [`super::lookup`]).
//!
//! A table holds what three columns of a token can add. A code names an entry, and one permutation looks an entry up for each
//! lane of a register: `vpermw` for 32 rows in a table of int16, which makes 96 multiply-adds with the addition that follows;
//! `vpermb` for 32 rows in each of two tables of int8, which makes 192, where sums are small enough. An integer dot product is
//! 64. That pays on a CPU that permutes two whole vectors of 512 bits a cycle and adds others in the same cycle, such as
//! Zen 5.
//!
//! # Codes
//!
//! A chunk is 96 columns, as a block of trios is, and its codes are those of [`super::layout`]: index `v` of byte `j` is of
//! columns `12v + j`, `12v + 4 + j` and `12v + 8 + j`. Two codes, a step, share an int16. 32 rows have 16 cache lines:
//!
//! ```text
//! line 2v:      lane r = row r, bits 0-4 code (v, 0), bits 8-12 code (v, 1), bit 13 set
//! line 2v + 1:  the same of (v, 2) and (v, 3)
//! ```
//!
//! `vpermw` looks at five bits of a lane, `vpermb` at six of a byte: bit 13 says that the code is for the second table of int8,
//! which fills the upper half of a register.
//!
//! # Small sums
//!
//! The sizes of three activations add up to the largest entry of their table, and those of the tables that a lane meets in a
//! few steps, a window, to the largest sum. Where that fits int8 for four tokens, their entries are added as int8, and the
//! window's two sums of a row as int16. So it is behind a squared ReLU, where most activations are zeros or
//! next to it. How it comes to a sum does not matter: all of it is integers.
//!
//! Bounds. An entry is at most `3 * 128` in size, and `255 + 3 * 128` while it is made. A window has four entries for a lane,
//! of twelve activations; the sum of their sizes is counted, and int8 is only taken where it is 127 at most. For sums of
//! int16 see [`super::lookup`].

use super::TILE_ROWS;
use super::avx512_lookup::{load_words, spill, store_words, widened};
use super::avx512_vbmi::{self, INDICES};
use super::avx512_vnni::{LINE, PREFETCH, load};
use super::layout::{self, CODES_BYTES, TRIOS_BYTES, TRIOS_COLS};
use super::lookup::{Chunk, LookupKernels, TokenTile};
use crate::pool::SharedMut;
use std::arch::x86_64::*;

/// Tables of a chunk: one for each byte of each index.
const TABLES: usize = 4 * INDICES;
/// Steps of a chunk, of two tables each, and cache lines of codes for 32 rows.
const STEPS: usize = TABLES / 2;
/// int16 of a vector: the entries of a table, of which 27 are used, and the rows of a tile.
const LANES: usize = 32;
/// Tokens that are multiplied together.
const QUAD: usize = 4;
/// Tiles of rows that are.
const TILES: usize = 4;
/// Tiles of rows that are where some windows are small, which need as many sums of int8.
const SMALL_TILES: usize = 2;
/// Steps whose sums are added as int8.
const WINDOW: usize = 4;
/// Small windows of a chunk for them to pay.
const MIN_SMALL: u32 = 2;
/// int16 that [`arrange`] makes of a token's 96 columns: for each `v` four pairs of bytes, then four more.
const ARRANGED: usize = 64;

/// Bytes of a row's codes in a chunk.
pub(super) const ROW_CODES: usize = STEPS * LINE / TILE_ROWS;

/// Behind the tables a number for each token: of a quad the first has a bit for each window whose tables are of int8.
const CHUNK: Chunk = Chunk { cols: TRIOS_COLS, codes: ROW_CODES, sums: TABLES * LANES + 1 };

/// The tables of a step for four tokens: of int16 `[2 tables][4 tokens]`, of int8 `[4 tokens]`, each with both tables.
type Step = [[i16; LANES]; 2 * QUAD];

/// Tiles of 32 were no faster.
static TOKENS: [TokenTile; 2] = [tokens::<8>(), tokens::<16>()];

const fn tokens<const T: usize>() -> TokenTile {
    TokenTile { tokens: T, places: T, arrange: arrange::<T>, tabulate, add, spill, turn: turn::<T> }
}

pub(super) const CODES: LookupKernels = LookupKernels {
    min_tokens: 22,
    min_filled: 80,
    chunk: CHUNK,
    decode: decode_codes::<6, INDICES, 24>,
    tiles: &TOKENS,
};
pub(super) const TRIOS: LookupKernels = LookupKernels { decode: decode_trios, ..CODES };

/// For chunks of so many blocks, which have `QUADS` times four columns at most: three for each of `INDICES`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn decode_codes<const BLOCKS: usize, const INDICES: usize, const QUADS: usize>(
    tiles: &[u8],
    cols: usize,
    codes: &SharedMut<'_, u8>,
    code_rows: usize,
    row: usize,
) {
    const { assert!(4 * BLOCKS <= QUADS && QUADS == 3 * INDICES) };
    let mask = _mm512_set1_epi8(3);
    for (tile, packed) in tiles.chunks_exact(layout::CODES.tile_bytes(cols)).enumerate() {
        // The last chunk may end early; what is left of it meets zeros.
        for (chunk, blocks) in packed.as_chunks::<CODES_BYTES>().0.chunks(BLOCKS).enumerate() {
            let mut indices = [[_mm512_setzero_si512(); INDICES]; 2];
            for (half, indices) in indices.iter_mut().enumerate() {
                let mut quads = [_mm512_setzero_si512(); QUADS];
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
            // Two lines of 32 rows for each index.
            let bytes = 2 * LINE * INDICES;
            let at = (chunk * code_rows + row + tile * TILE_ROWS) * (bytes / TILE_ROWS);
            // SAFETY: these rows of every chunk belong to this call alone (the kernel's contract).
            write_codes(indices, unsafe { codes.slice(at, bytes) });
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(super) fn decode_trios(tiles: &[u8], cols: usize, codes: &SharedMut<'_, u8>, code_rows: usize, row: usize) {
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
            write_codes(indices, unsafe { codes.slice(at, STEPS * LINE) });
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
pub(super) fn write_codes<const INDICES: usize>([first, second]: [[__m512i; INDICES]; 2], codes: &mut [u8]) {
    let (mask, second_table) = (_mm512_set1_epi8(31), _mm512_set1_epi16(1 << 13));
    let marked = |index| _mm512_or_si512(_mm512_and_si512(index, mask), second_table);
    let lower = load_words(&EVEN);
    let upper = _mm512_add_epi16(lower, _mm512_set1_epi16(1));
    for ((a, b), lines) in first.into_iter().zip(second).zip(codes.as_chunks_mut::<{ 2 * LINE }>().0) {
        let (a, b) = (marked(a), marked(b));
        for (order, line) in [lower, upper].into_iter().zip(lines.as_chunks_mut::<LINE>().0) {
            // SAFETY: 64 writable bytes; the store needs no alignment.
            unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), _mm512_permutex2var_epi16(a, order, b)) };
        }
    }
}

/// The lower int16 of each int32.
const EVEN: [i16; LANES] = {
    let mut even = [0; LANES];
    let mut lane = 0;
    while lane < LANES {
        even[lane] = 2 * lane as i16;
        lane += 1;
    }
    even
};

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

/// `tables[T / 4][16 steps]`, and behind them for each quad of tokens which are of int8.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn tabulate(arranged: &[i16], tables: &mut [i16]) -> i32 {
    let tokens = tables.len() / CHUNK.sums;
    // SAFETY: 64 readable bytes each; the loads need no alignment.
    let [first, second] = FACTORS.each_ref().map(|factors| unsafe { _mm512_loadu_si512(factors.as_ptr().cast()) });
    let (tables, small) = tables.split_at_mut(tokens * TABLES * LANES);
    let quads = tables.as_chunks_mut::<LANES>().0.as_chunks_mut::<{ 2 * QUAD }>().0.as_chunks_mut::<STEPS>().0;
    let arranged = arranged.as_chunks::<ARRANGED>().0.as_chunks::<QUAD>().0;
    let mut largest = 0;
    for ((steps, small), arranged) in quads.iter_mut().zip(small.as_chunks_mut::<QUAD>().0).zip(arranged) {
        let (windows, size) = sizes(arranged);
        largest = largest.max(size);
        small[0] = windows;
        for (token, arranged) in arranged.iter().enumerate() {
            for (step, tables) in steps.iter_mut().enumerate() {
                let pairs = &arranged.as_chunks::<8>().0[step / 2];
                for (table, j) in [step % 2 * 2, step % 2 * 2 + 1].into_iter().enumerate() {
                    let two = _mm512_maddubs_epi16(_mm512_set1_epi16(pairs[j]), first);
                    let third = _mm512_maddubs_epi16(_mm512_set1_epi16(pairs[4 + j]), second);
                    let words = _mm512_add_epi16(two, third);
                    if windows >> (step / WINDOW) & 1 == 1 {
                        let out = &mut tables[token].as_chunks_mut::<{ LANES / 2 }>().0[table];
                        // SAFETY: 32 writable bytes; the store needs no alignment.
                        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm512_cvtepi16_epi8(words)) };
                    } else {
                        store_words(words, &mut tables[QUAD * table + token]);
                    }
                }
            }
        }
    }
    largest
}

/// A bit for each window whose sums fit int8 for all four tokens, none where they are too few, and the largest sum of a token's
/// sizes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn sizes(arranged: &[[i16; ARRANGED]; QUAD]) -> (i16, i32) {
    let (mut halves, mut largest) = ([_mm512_setzero_si512(); 2], 0);
    for arranged in arranged {
        let mut total = _mm512_setzero_si512();
        for (half, arranged) in halves.iter_mut().zip(arranged.as_chunks().0) {
            let q = _mm512_xor_si512(load_words(arranged), _mm512_set1_epi8(-128));
            // Of each `v` four sizes of pairs and four of thirds; of three; of both steps, in two lanes; of a window.
            let pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(q), _mm512_set1_epi8(1));
            let three = _mm512_add_epi16(pairs, _mm512_shuffle_epi32::<0x4e>(pairs));
            let both = _mm512_add_epi16(three, _mm512_srli_epi64::<32>(three));
            let window = _mm512_add_epi16(both, _mm512_shuffle_i32x4::<0xb1>(both, both));
            *half = _mm512_max_epi16(*half, window);
            total = _mm512_add_epi32(total, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
        }
        largest = largest.max(_mm512_reduce_add_epi32(total));
    }
    let [low, high] = halves.map(|half| _mm512_cmpgt_epi16_mask(half, _mm512_set1_epi16(i8::MAX.into())));
    let small = [low, low >> 16, high, high >> 16].map(|large| i16::from(large & 3 == 0));
    let windows = small[0] | small[1] << 1 | small[2] << 2 | small[3] << 3;
    (if windows.count_ones() >= MIN_SMALL { windows } else { 0 }, largest)
}

/// `partial[tile][T][32 rows]`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn add(codes: &[u8], tables: &[i16], begins: bool, partial: &mut [i16]) {
    let tiles = codes.as_chunks::<LINE>().0.as_chunks::<STEPS>().0;
    let (tables, small) = tables.split_at(tables.len() / CHUNK.sums * TABLES * LANES);
    let quads = tables.as_chunks::<LANES>().0.as_chunks().0.as_chunks::<STEPS>().0;
    let partial = partial.as_chunks_mut::<LANES>().0.as_chunks_mut::<QUAD>().0;
    // One quad's tables, 8 KB, stay in the L1 cache.
    for (quad, (steps, small)) in quads.iter().zip(small.as_chunks::<QUAD>().0).enumerate() {
        let (small, mut at) = (small[0], quad);
        let rest = if small == 0 {
            let (four, rest) = tiles.as_chunks::<TILES>();
            for tiles in four {
                add_tiles(tiles, steps, 0, begins, &mut partial[at..], quads.len());
                at += TILES * quads.len();
            }
            rest
        } else {
            let (two, rest) = tiles.as_chunks::<SMALL_TILES>();
            for tiles in two {
                add_tiles(tiles, steps, small, begins, &mut partial[at..], quads.len());
                at += SMALL_TILES * quads.len();
            }
            rest
        };
        for tile in rest {
            add_tiles(std::array::from_ref(tile), steps, small, begins, &mut partial[at..], quads.len());
            at += quads.len();
        }
    }
}

/// For 4 tokens, whose sums of one tile are `stride` quads from those of the next, by tables of int8 where windows are `small`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn add_tiles<const N: usize>(
    tiles: &[[[u8; LINE]; STEPS]; N],
    steps: &[Step; STEPS],
    small: i16,
    begins: bool,
    partial: &mut [[[i16; LANES]; QUAD]],
    stride: usize,
) {
    let mut sums = [[_mm512_setzero_si512(); QUAD]; N];
    if !begins {
        for (tile, sums) in sums.iter_mut().enumerate() {
            *sums = partial[tile * stride].each_ref().map(|sum| load_words(sum));
        }
    }
    for (window, steps) in steps.as_chunks::<WINDOW>().0.iter().enumerate() {
        let first = window * WINDOW;
        if small >> window & 1 == 1 {
            add_bytes(&mut sums, tiles, first, steps);
        } else {
            add_words(&mut sums, tiles, first, steps);
        }
    }
    for (tile, sums) in sums.into_iter().enumerate() {
        for (sum, out) in sums.into_iter().zip(&mut partial[tile * stride]) {
            store_words(sum, out);
        }
    }
}

/// A window, whose steps begin with line `first`, by tables of int8.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn add_bytes<const N: usize>(
    sums: &mut [[__m512i; QUAD]; N],
    tiles: &[[[u8; LINE]; STEPS]; N],
    first: usize,
    steps: &[Step; WINDOW],
) {
    let mut bytes = [[_mm512_setzero_si512(); QUAD]; N];
    for (step, tables) in steps.iter().enumerate() {
        for (bytes, tile) in bytes.iter_mut().zip(tiles) {
            let codes = load(&tile[first + step]);
            for (byte, table) in bytes.iter_mut().zip(tables) {
                *byte = _mm512_add_epi8(*byte, _mm512_permutexvar_epi8(codes, load_words(table)));
            }
        }
    }
    for (sums, bytes) in sums.iter_mut().zip(bytes) {
        for (sum, bytes) in sums.iter_mut().zip(bytes) {
            *sum = _mm512_add_epi16(*sum, _mm512_maddubs_epi16(_mm512_set1_epi8(1), bytes));
        }
    }
}

/// As [`add_bytes`], by tables of int16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn add_words<const N: usize>(
    sums: &mut [[__m512i; QUAD]; N],
    tiles: &[[[u8; LINE]; STEPS]; N],
    first: usize,
    steps: &[Step; WINDOW],
) {
    for (step, tables) in steps.iter().enumerate() {
        let mut codes = [_mm512_setzero_si512(); N];
        for (codes, tile) in codes.iter_mut().zip(tiles) {
            *codes = load(&tile[first + step]);
        }
        for tables in tables.as_chunks::<QUAD>().0 {
            for (token, table) in tables.iter().enumerate() {
                let table = load_words(table);
                for (sums, codes) in sums.iter_mut().zip(codes) {
                    sums[token] = _mm512_add_epi16(sums[token], _mm512_permutexvar_epi16(codes, table));
                }
            }
            // To the second table's.
            for codes in &mut codes {
                *codes = _mm512_srli_epi16::<8>(*codes);
            }
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
