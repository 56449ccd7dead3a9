//! Ternary kernels for NEON.
//!
//! # Few tokens: 16-entry tables
//!
//! A table holds the 16 subset sums `v` of 4 activations, `|v| <= 4 * 128`, split as `v = 31 * high + low` with
//! `|low| <= 15` and `|high| <= 17`: `high = sqrdmulh(v, 1057)` is `round(v / 31)`, exact for `|v| < 16000` because
//! `1057 / 32768` is within 1e-6 of `1 / 31` and `v / 31` is never closer than `1 / 62` to a half-integer. (31 rather than 32
//! keeps `low` symmetric, so that it can be subtracted as well as added.) `tbl` looks up 16 rows by a nibble of `P`, adds,
//! looks up by the nibble of `N`, subtracts, for both halves of the sums.
//!
//! Bounds. Per 4 columns the halves of `v_P - v_N` satisfy `|low_P - low_N| <= 30`; since no column is in both planes,
//! `|v_P - v_N| <= 512` and `|high_P - high_N| <= (512 + 30) / 31 < 18`. Bytes are widened every 4 groups (16 columns):
//! `4 * 30 = 120` and `4 * 17 = 68`, both within int8 (intermediate wrap-around is harmless, addition being modular). A
//! widened sum of 16 columns is at most `16 * 128 = 2048`; 15 of them (`30720`) fit int16, then they are added to int32.
//!
//! # Many tokens: 81-entry tables of 16 tokens
//!
//! The code of 4 trits is `40 + t0 + 3 t1 + 9 t2 + 27 t3`, 0 to 80. Entry `code` of a table is the signed sum of the 4
//! activations for each of 16 tokens, int16 in two registers. 8 tables of 2592 bytes (32 columns) stay in the L1 cache while
//! every row adds its 8 entries; [`super::lookup`] sees that int16 holds their sums.

use super::kernel::{Many, Preparation, TernaryFamily, TernaryKernel, Token};
use super::layout;
use super::lookup::{CHUNK_CODES, CHUNK_COLS, ENTRIES, LookupKernels, SUMS_81, TokenTile};
use super::{TILE_ROWS, UNIT_BYTES, UNIT_COLS, padded_cols, skipping};
use crate::pool::SharedMut;
use std::arch::aarch64::*;

pub(crate) static FAMILY: TernaryFamily = TernaryFamily {
    pack_row,
    dot_rows: super::neon_rows::dot_rows,
    sum,
    planes: &PLANES,
    kernels: &[&PLANES],
    skipping: Some(&skipping::neon::KERNELS),
};

// By count of instructions, lookups for 16 tokens do 16 products each where the few-token kernel does 7.
pub(super) static PLANES: TernaryKernel = TernaryKernel {
    name: "planes",
    layout: &layout::PLANES,
    preparation: Some(&TABLES),
    few_tokens: 4,
    few,
    few_groups: None,
    many: &[Many::Lookup(LookupKernels { min_tokens: 8, min_filled: 0, chunk: SUMS_81, decode, tiles: &[TOKENS_16] })],
    many_groups: &[],
    many_exact: None,
};

const TOKENS_16: TokenTile =
    TokenTile { tokens: TOKENS, places: TOKENS, arrange: transpose, tabulate, add, spill, turn };

/// Tokens that share a lookup.
const TOKENS: usize = 16;

/// Adds and widens 16 bytes at a time once compiled.
#[target_feature(enable = "neon")]
pub(super) fn sum(q: &[i8]) -> i32 {
    q.iter().map(|q| i32::from(*q)).sum()
}

/// The tables of 16 sums.
static TABLES: Preparation = Preparation { len: |cols| cols / 4 * TABLE_BYTES, fill: prepare };

/// Bytes of one table of 16 sums: 16 low halves, 16 high halves.
const TABLE_BYTES: usize = 32;
/// Pairs of units (16 columns) whose sums fit int16.
const PAIRS_PER_FLUSH: usize = 15;

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load(bytes: &[u8; 16]) -> uint8x16_t {
    // SAFETY: 16 readable bytes; the load needs no alignment.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// A trit's sign bit is its bit in `N`; being greater than zero gives its bit in `P`.
#[target_feature(enable = "neon")]
pub(super) fn pack_row(trits: &[i8], r: usize, tile: &mut [u8]) {
    let own_bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    let pairs = tile.as_chunks_mut::<UNIT_BYTES>().0.as_chunks_mut::<2>().0;
    for (trits, units) in trits.as_chunks::<16>().0.iter().zip(pairs) {
        // SAFETY: 16 readable bytes; the load needs no alignment.
        let trits = unsafe { vld1q_s8(trits.as_ptr()) };
        let planes = [vcgtzq_s8(trits), vcltzq_s8(trits)].map(|set| vandq_u8(set, own_bit));
        for (plane, bits) in planes.into_iter().enumerate() {
            units[0][plane * TILE_ROWS + r] = vaddv_u8(vget_low_u8(bits));
            units[1][plane * TILE_ROWS + r] = vaddv_u8(vget_high_u8(bits));
        }
    }
}

/// The 16 subset sums of each 4 activations, split into halves.
#[target_feature(enable = "neon")]
fn prepare(q: &[i8], prepared: &mut [u8]) {
    for (x, table) in q.as_chunks::<4>().0.iter().zip(prepared.as_chunks_mut::<TABLE_BYTES>().0) {
        // Entry i of the first half, 0 to 7, has the activations whose bits are set in i; the second half has also the last.
        let terms =
            |bit: usize| -> [i16; 8] { std::array::from_fn(|i| if i >> bit & 1 == 1 { i16::from(x[bit]) } else { 0 }) };
        let mut first = vdupq_n_s16(0);
        for bit in 0..3 {
            // SAFETY: 16 readable bytes.
            first = vaddq_s16(first, unsafe { vld1q_s16(terms(bit).as_ptr()) });
        }
        let sums = [first, vaddq_s16(first, vdupq_n_s16(i16::from(x[3])))];
        let high = sums.map(|sums| vqrdmulhq_n_s16(sums, 1057));
        let low = [vmlsq_n_s16(sums[0], high[0], 31), vmlsq_n_s16(sums[1], high[1], 31)];
        for (halves, out) in [low, high].into_iter().zip(table.as_chunks_mut::<16>().0) {
            let bytes = vcombine_s8(vmovn_s16(halves[0]), vmovn_s16(halves[1]));
            // SAFETY: 16 writable bytes; the store needs no alignment.
            unsafe { vst1q_u8(out.as_mut_ptr(), vreinterpretq_u8_s8(bytes)) };
        }
    }
}

#[target_feature(enable = "neon")]
fn few(tile: &[u8], cols: usize, tokens: &[Token<'_>], out: &mut [[i32; TILE_ROWS]]) {
    match tokens {
        [a] => few_tokens::<1, 2>([a], tile, cols, out),
        [a, b] => few_tokens::<2, 1>([a, b], tile, cols, out),
        [a, b, c] => few_tokens::<3, 1>([a, b, c], tile, cols, out),
        [a, b, c, d] => few_tokens::<4, 1>([a, b, c, d], tile, cols, out),
        _ => unreachable!("one to four tokens"),
    }
}

/// The tables of 16 columns: for each 4, the low and the high halves.
type PairTables = [[[u8; 16]; 2]; 4];

/// As the module head describes, for `N` tokens that share each weight's nibbles, and `H` halves of the tile at a time: one
/// where the sums of both would not fit the registers.
#[inline]
#[target_feature(enable = "neon")]
fn few_tokens<const N: usize, const H: usize>(
    tokens: [&Token<'_>; N],
    tile: &[u8],
    cols: usize,
    out: &mut [[i32; TILE_ROWS]],
) {
    let pairs = &tile.as_chunks::<UNIT_BYTES>().0.as_chunks::<2>().0[..cols / (2 * UNIT_COLS)];
    let mut tables: [&[PairTables]; N] = [&[]; N];
    for (tables, token) in tables.iter_mut().zip(tokens) {
        *tables = &token.prepared.as_chunks::<16>().0.as_chunks::<2>().0.as_chunks::<4>().0[..pairs.len()];
    }
    for first in (0..2).step_by(H) {
        let mut sums32 = [[[vdupq_n_s32(0); 4]; H]; N];
        for (run, pairs) in pairs.chunks(PAIRS_PER_FLUSH).enumerate() {
            let mut sums16 = [[[vdupq_n_s16(0); 2]; H]; N];
            for (at, pair) in pairs.iter().enumerate() {
                for half in 0..H {
                    let (low, high) = sum_pair(pair, first + half, tables, run * PAIRS_PER_FLUSH + at);
                    for token in 0..N {
                        widen_add(&mut sums16[token][half], low[token], high[token]);
                    }
                }
            }
            for (sums32, sums16) in sums32.as_flattened_mut().iter_mut().zip(sums16.as_flattened()) {
                for (pair, sums16) in sums32.as_chunks_mut::<2>().0.iter_mut().zip(sums16) {
                    *pair = [vaddw_s16(pair[0], vget_low_s16(*sums16)), vaddw_high_s16(pair[1], *sums16)];
                }
            }
        }
        for (sums, out) in sums32.into_iter().zip(out.iter_mut()) {
            let rows = &mut out.as_chunks_mut::<4>().0[4 * first..];
            for (sums, out) in sums.into_iter().flatten().zip(rows) {
                // SAFETY: 4 writable int32; the store needs no alignment.
                unsafe { vst1q_s32(out.as_mut_ptr(), sums) };
            }
        }
    }
}

/// The low and the high halves of the products of 16 columns with 16 rows.
#[inline]
#[target_feature(enable = "neon")]
fn sum_pair<const N: usize>(
    pair: &[[u8; UNIT_BYTES]; 2],
    half: usize,
    tables: [&[PairTables]; N],
    index: usize,
) -> ([int8x16_t; N], [int8x16_t; N]) {
    let nibble = vdupq_n_u8(15);
    let (mut low, mut high) = ([vdupq_n_s8(0); N], [vdupq_n_s8(0); N]);
    for (unit, bytes) in pair.iter().enumerate() {
        let rows = bytes.as_chunks::<16>().0;
        let (plus, minus) = (load(&rows[half]), load(&rows[2 + half]));
        let nibbles =
            [(vandq_u8(plus, nibble), vandq_u8(minus, nibble)), (vshrq_n_u8::<4>(plus), vshrq_n_u8::<4>(minus))];
        for (shifted, (plus, minus)) in nibbles.into_iter().enumerate() {
            for token in 0..N {
                let [l, h] = &tables[token][index][2 * unit + shifted];
                let (l, h) = (vreinterpretq_s8_u8(load(l)), vreinterpretq_s8_u8(load(h)));
                low[token] = vaddq_s8(low[token], vqtbl1q_s8(l, plus));
                high[token] = vaddq_s8(high[token], vqtbl1q_s8(h, plus));
                low[token] = vsubq_s8(low[token], vqtbl1q_s8(l, minus));
                high[token] = vsubq_s8(high[token], vqtbl1q_s8(h, minus));
            }
        }
    }
    (low, high)
}

/// Adds `31 * high + low` to the sums of 16 rows.
#[inline]
#[target_feature(enable = "neon")]
fn widen_add(sums: &mut [int16x8_t; 2], low: int8x16_t, high: int8x16_t) {
    let weight = vdupq_n_s8(31);
    sums[0] = vmlal_s8(vaddw_s8(sums[0], vget_low_s8(low)), vget_low_s8(high), vget_low_s8(weight));
    sums[1] = vmlal_high_s8(vaddw_high_s8(sums[1], low), high, weight);
}

/// The planes of whole tiles as codes of 4 trits, `codes[chunk][row][8]`.
#[target_feature(enable = "neon")]
fn decode(tiles: &[u8], cols: usize, codes: &SharedMut<'_, u8>, code_rows: usize, row: usize) {
    let (zero, units) = ([0u8; UNIT_BYTES], padded_cols(cols) / UNIT_COLS);
    for (index, tile) in tiles.chunks_exact(units * UNIT_BYTES).enumerate() {
        let units = tile.as_chunks::<UNIT_BYTES>().0;
        let first_row = row + index * TILE_ROWS;
        // The last chunk may be half a chunk: columns are padded to 16 only.
        for (chunk, units) in units.chunks(CHUNK_COLS / UNIT_COLS).enumerate() {
            let unit = |i: usize| units.get(i).unwrap_or(&zero);
            let at = (chunk * code_rows + first_row) * CHUNK_CODES;
            // SAFETY: these rows of every chunk belong to this call alone (the kernel's contract).
            let codes = unsafe { codes.slice(at, TILE_ROWS * CHUNK_CODES) };
            for (half, codes) in codes.as_chunks_mut::<{ 16 * CHUNK_CODES }>().0.iter_mut().enumerate() {
                decode_half([unit(0), unit(1), unit(2), unit(3)], half, codes);
            }
        }
    }
}

/// 16 rows of a chunk: each nibble's number in base 3, then the codes of a row side by side.
#[inline]
#[target_feature(enable = "neon")]
fn decode_half(units: [&[u8; UNIT_BYTES]; 4], half: usize, codes: &mut [u8; 16 * CHUNK_CODES]) {
    let base3 = load(&[0, 1, 3, 4, 9, 10, 12, 13, 27, 28, 30, 31, 36, 37, 39, 40]);
    let base3_40 = vaddq_u8(base3, vdupq_n_u8(40));
    let nibble = vdupq_n_u8(15);
    let code = |plus, minus| vsubq_u8(vqtbl1q_u8(base3_40, plus), vqtbl1q_u8(base3, minus));
    let mut pairs = [vdupq_n_u16(0); 8];
    for (unit, pairs) in units.iter().zip(pairs.as_chunks_mut::<2>().0) {
        let rows = unit.as_chunks::<16>().0;
        let (plus, minus) = (load(&rows[half]), load(&rows[2 + half]));
        let low = code(vandq_u8(plus, nibble), vandq_u8(minus, nibble));
        let high = code(vshrq_n_u8::<4>(plus), vshrq_n_u8::<4>(minus));
        *pairs = [vreinterpretq_u16_u8(vzip1q_u8(low, high)), vreinterpretq_u16_u8(vzip2q_u8(low, high))];
    }
    // `pairs[2u]` has two codes of each of rows 0-7, `pairs[2u + 1]` of rows 8-15: two more zips put a row's 8 together.
    for (eight_rows, codes) in codes.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let pair = |unit: usize| pairs[2 * unit + eight_rows];
        let fours = |a, b| [vreinterpretq_u32_u16(vzip1q_u16(a, b)), vreinterpretq_u32_u16(vzip2q_u16(a, b))];
        let (first, second) = (fours(pair(0), pair(1)), fours(pair(2), pair(3)));
        for ((first, second), codes) in
            first.into_iter().zip(second).zip(codes.as_chunks_mut::<16>().0.as_chunks_mut::<2>().0)
        {
            let rows = [vzip1q_u32(first, second), vzip2q_u32(first, second)];
            for (rows, codes) in rows.into_iter().zip(codes) {
                // SAFETY: 16 writable bytes; the store needs no alignment.
                unsafe { vst1q_u8(codes.as_mut_ptr(), vreinterpretq_u8_u32(rows)) };
            }
        }
    }
}

/// `transposed[column][token]`, absent tokens as zeros.
#[target_feature(enable = "neon")]
fn transpose(q: &[i8], stride: usize, tokens: usize, transposed: &mut [i16]) {
    let out = transposed.as_chunks_mut::<TOKENS>().0;
    // Columns come in whole chunks, to which activations are padded.
    assert!(out.len() <= stride, "{} columns of {stride}", out.len());
    for half in [0, 8] {
        for column in (0..out.len()).step_by(8) {
            let row = |i: usize| {
                let at = (half + i) * stride + column;
                if half + i < tokens { load_row(&q[at..].as_chunks().0[0]) } else { vdup_n_s8(0) }
            };
            let pair = |i: usize| {
                let (a, b) = (row(2 * i), row(2 * i + 1));
                vreinterpretq_u16_s8(vcombine_s8(vzip1_s8(a, b), vzip2_s8(a, b)))
            };
            let fours = |a, b| [vreinterpretq_u32_u16(vzip1q_u16(a, b)), vreinterpretq_u32_u16(vzip2q_u16(a, b))];
            let (first, second) = (fours(pair(0), pair(1)), fours(pair(2), pair(3)));
            let out = out[column..].as_chunks_mut::<4>().0;
            for ((a, b), out) in first.into_iter().zip(second).zip(out) {
                for (two, out) in [vzip1q_u32(a, b), vzip2q_u32(a, b)].into_iter().zip(out.as_chunks_mut::<2>().0) {
                    let two = vreinterpretq_s8_u32(two);
                    store_8(vmovl_s8(vget_low_s8(two)), &mut out[0].as_chunks_mut().0[half / 8]);
                    store_8(vmovl_high_s8(two), &mut out[1].as_chunks_mut().0[half / 8]);
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_row(row: &[i8; 8]) -> int8x8_t {
    // SAFETY: 8 readable bytes; the load needs no alignment.
    unsafe { vld1_s8(row.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn store_8(value: int16x8_t, out: &mut [i16; 8]) {
    // SAFETY: 16 writable bytes; the store needs no alignment.
    unsafe { vst1q_s16(out.as_mut_ptr(), value) };
}

type Tables = [i16; CHUNK_CODES * ENTRIES * TOKENS];

/// 16 tokens' int16.
type Tokens = int16x8x2_t;

#[inline]
#[target_feature(enable = "neon")]
fn load_tokens(values: &[i16; TOKENS]) -> Tokens {
    // SAFETY: 32 readable bytes; the load needs no alignment.
    unsafe { vld1q_s16_x2(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn store_tokens(values: Tokens, out: &mut [i16; TOKENS]) {
    // SAFETY: 32 writable bytes; the store needs no alignment.
    unsafe { vst1q_s16_x2(out.as_mut_ptr(), values) };
}

#[inline]
#[target_feature(enable = "neon")]
fn add_tokens(a: Tokens, b: Tokens) -> Tokens {
    int16x8x2_t(vaddq_s16(a.0, b.0), vaddq_s16(a.1, b.1))
}

/// Entry by entry: `T[code of -1 -1 -1 -1]` first, then each trit doubles and triples what is there.
#[target_feature(enable = "neon")]
fn tabulate(columns: &[i16], tables: &mut [i16]) -> i32 {
    let columns = columns.as_chunks::<TOKENS>().0.as_chunks::<4>().0;
    let zero = vdupq_n_s16(0);
    let mut sizes = int16x8x2_t(zero, zero);
    for (columns, table) in columns.iter().zip(tables.as_chunks_mut::<{ ENTRIES * TOKENS }>().0) {
        let x = [0, 1, 2, 3].map(|i: usize| load_tokens(&columns[i]));
        for x in x {
            sizes = add_tokens(sizes, int16x8x2_t(vabsq_s16(x.0), vabsq_s16(x.1)));
        }
        let table = table.as_chunks_mut::<TOKENS>().0;
        let all = add_tokens(add_tokens(x[0], x[1]), add_tokens(x[2], x[3]));
        store_tokens(int16x8x2_t(vnegq_s16(all.0), vnegq_s16(all.1)), &mut table[0]);
        let mut filled = 1;
        for x in x {
            for entry in 0..filled {
                let zero = add_tokens(load_tokens(&table[entry]), x);
                store_tokens(zero, &mut table[filled + entry]);
                store_tokens(add_tokens(zero, x), &mut table[2 * filled + entry]);
            }
            filled *= 3;
        }
    }
    i32::from(vmaxvq_s16(vmaxq_s16(sizes.0, sizes.1)))
}

#[target_feature(enable = "neon")]
fn add(codes: &[u8], tables: &[i16], begins: bool, partial: &mut [i16]) {
    let codes = codes.as_chunks().0;
    let tables = tables.try_into().expect("8 tables of 81 entries of 16 tokens");
    let partial = partial.as_chunks_mut().0;
    if begins { add_rows::<true>(codes, tables, partial) } else { add_rows::<false>(codes, tables, partial) }
}

/// Adds each row's 8 entries: to nothing where it `BEGINS`, else to the partial sums.
#[inline]
#[target_feature(enable = "neon")]
fn add_rows<const BEGINS: bool>(codes: &[[u8; CHUNK_CODES]], tables: &Tables, partial: &mut [[i16; TOKENS]]) {
    for (codes, partial) in codes.iter().zip(partial) {
        let codes = u64::from_le_bytes(*codes);
        let entry = |table: usize| {
            let code = (codes >> (8 * table)) as usize & 0xff;
            debug_assert!(code < ENTRIES, "code {code}");
            // SAFETY: codes are below 81 (`SUMS_81`), so the entry lies inside the 8 tables.
            unsafe { vld1q_s16_x2(tables.as_ptr().add((table * ENTRIES + code) * TOKENS)) }
        };
        let a = add_tokens(add_tokens(entry(0), entry(1)), add_tokens(entry(2), entry(3)));
        let b = add_tokens(add_tokens(entry(4), entry(5)), add_tokens(entry(6), entry(7)));
        let mut sum = add_tokens(a, b);
        if !BEGINS {
            sum = add_tokens(sum, load_tokens(partial));
        }
        store_tokens(sum, partial);
    }
}

#[target_feature(enable = "neon")]
fn spill(partial: &[i16], first: bool, sums: &mut [i32]) {
    for (partial, sums) in partial.as_chunks::<4>().0.iter().zip(sums.as_chunks_mut::<4>().0) {
        // SAFETY: 8 and 16 readable bytes, 16 writable ones; no access needs alignment.
        unsafe {
            let before = if first { vdupq_n_s32(0) } else { vld1q_s32(sums.as_ptr()) };
            vst1q_s32(sums.as_mut_ptr(), vaddw_s16(before, vld1_s16(partial.as_ptr())));
        }
    }
}

/// An element at a time: it is a small part of a product.
#[target_feature(enable = "neon")]
fn turn(partial: &[i16], sums: Option<&[i32]>, by_token: &mut [i32]) {
    let rows = partial.len() / TOKENS;
    for (row, partial) in partial.as_chunks::<TOKENS>().0.iter().enumerate() {
        for (token, partial) in partial.iter().enumerate() {
            by_token[token * rows + row] = i32::from(*partial) + sums.map_or(0, |sums| sums[row * TOKENS + token]);
        }
    }
}
