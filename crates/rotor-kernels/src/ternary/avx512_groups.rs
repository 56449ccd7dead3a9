//! Tables of sums for groups of columns with AVX-512 (see [`super::group_tables`]): `vpermw` looks an entry up for each of 32
//! rows, as in [`super::avx512_permute`], whose codes these are.
//!
//! Bounds. The high digit of an exact value is at most 5461 in size, since the value is at most `2^22`, and the low one 385; an
//! entry is at most three of them. Sums in int16 are of tables whose largest entries add up to at most [`i16::MAX`];
//! int32 holds those of 393,000 columns.

use super::TILE_ROWS;
use super::avx512_lookup::{load_words, store_words};
use super::avx512_permute::{decode_codes, decode_trios};
use super::avx512_vnni::{HALF, LINE, accumulate, load, load_floats};
use super::group_tables::{BASE, ENTRIES, GroupTables, LookedUp, QUAD, TileScales};
use super::lookup::DecodeTiles;
use std::arch::x86_64::*;

/// For groups of 128 columns and of 64.
pub(super) static GROUPS: [GroupTables; 2] =
    [tables::<128, 44, 22>(decode_codes::<8, 11, 33>), tables::<64, 24, 12>(decode_codes::<4, 6, 18>)];
/// For rows with one scale, as codes and as trios.
pub(super) static CODES: GroupTables = tables::<96, 32, 16>(decode_codes::<6, 8, 24>);
pub(super) static TRIOS: GroupTables = tables::<96, 32, 16>(decode_trios);

const fn tables<const COLS: usize, const TABLES: usize, const STEPS: usize>(decode: DecodeTiles) -> GroupTables {
    assert!(TABLES == 2 * STEPS && TABLES == COLS.div_ceil(12) * 4 && TABLES <= 64);
    GroupTables {
        cols: COLS,
        tables: TABLES,
        min_tokens: MIN_TOKENS,
        decode,
        arrange: arrange::<COLS, TABLES>,
        tabulate: tabulate::<TABLES>,
        add_scaled: add_scaled::<STEPS>,
        add: add::<STEPS>,
    }
}

/// Of int8 and of exact activations, on a Zen 5: below, multiplying codes as they are packed is faster.
const MIN_TOKENS: [usize; 2] = [24, 8];
/// Tiles of rows that are multiplied together.
const TILES: usize = 4;

/// The tables of a step: `[2 tables][4 rows]`.
type Step = [[[i16; ENTRIES]; QUAD]; 2];

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn arrange<const COLS: usize, const TABLES: usize>(rows: &[&[i8]], arranged: &mut [i16]) {
    match rows {
        [row] => arrange_digit::<TABLES>(&row.as_chunks::<COLS>().0[0].map(i16::from), arranged),
        [high, middle, low] => {
            let [high, middle, low] = [high, middle, low].map(|row| &row.as_chunks::<COLS>().0[0]);
            let mut digits = [[0; COLS]; 2];
            for col in 0..COLS {
                // All of it is exact in f32 but the quotient, of which the nearest integer is taken; should it be the one beside it,
                // the low digit is one more.
                const SHIFT: f32 = 12_582_912.0;
                let value = 65536 * i32::from(high[col]) + 256 * i32::from(middle[col]) + i32::from(low[col]);
                let quotient = value as f32 * (1.0 / BASE as f32) + SHIFT;
                let high = quotient.to_bits().wrapping_sub(SHIFT.to_bits()).cast_signed();
                (digits[0][col], digits[1][col]) = (high as i16, (value - BASE * high) as i16);
            }
            let (high, low) = arranged.split_at_mut(3 * TABLES);
            arrange_digit::<TABLES>(&digits[0], high);
            arrange_digit::<TABLES>(&digits[1], low);
        }
        _ => unreachable!("one digit of int8 or three"),
    }
}

/// Four columns at a time: `arranged[f][4v..4v + 4]` are those from `12v + 4f` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn arrange_digit<const TABLES: usize>(columns: &[i16], arranged: &mut [i16]) {
    let (quads, none) = (columns.as_chunks::<4>().0, [0; 4]);
    for (f, arranged) in arranged.chunks_exact_mut(TABLES).enumerate() {
        for (v, arranged) in arranged.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *arranged = *quads.get(3 * v + f).unwrap_or(&none);
        }
    }
}

/// The trits of each entry: `trits[f][entry]`.
const TRITS: [[i16; ENTRIES]; 3] = {
    let mut trits = [[0; ENTRIES]; 3];
    let mut i = 0;
    while i < 27 {
        (trits[0][i], trits[1][i], trits[2][i]) = (i as i16 % 3 - 1, i as i16 / 3 % 3 - 1, i as i16 / 9 - 1);
        i += 1;
    }
    trits
};

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn tabulate<const TABLES: usize>(arranged: &[i16], tables: &mut [i16]) -> u64 {
    let steps = tables.as_chunks_mut::<ENTRIES>().0.as_chunks_mut::<QUAD>().0;
    let [first, second, third] = TRITS.each_ref().map(|trits| load_words(trits));
    let mut largest = 0;
    for (row, columns) in arranged.as_chunks::<TABLES>().0.as_chunks::<3>().0.iter().enumerate() {
        let [a, b, c] = columns;
        for (table, step) in (0..TABLES).zip(&mut *steps) {
            let ab = _mm512_add_epi16(
                _mm512_mullo_epi16(_mm512_set1_epi16(a[table]), first),
                _mm512_mullo_epi16(_mm512_set1_epi16(b[table]), second),
            );
            let entries = _mm512_add_epi16(ab, _mm512_mullo_epi16(_mm512_set1_epi16(c[table]), third));
            store_words(entries, &mut step[row]);
        }
        largest = columns.as_flattened().iter().map(|x| i32::from(x.unsigned_abs())).sum::<i32>().max(largest);
    }
    if largest <= i32::from(i16::MAX) { 0 } else { widenings::<TABLES>(arranged) }
}

/// A bit for each table after which sums have to be widened, so that those of the next ones fit.
#[cold]
fn widenings<const TABLES: usize>(arranged: &[i16]) -> u64 {
    let (mut bits, mut reach) = (0, 0);
    for table in 0..TABLES {
        let size = |columns: &[[i16; TABLES]; 3]| -> i32 {
            columns.iter().map(|columns| i32::from(columns[table].unsigned_abs())).sum()
        };
        let rows = arranged.as_chunks::<TABLES>().0.as_chunks::<3>().0;
        let largest = rows.iter().map(size).max().unwrap_or(0);
        if reach + largest > i32::from(i16::MAX) {
            bits |= 1 << (table - 1);
            reach = 0;
        }
        reach += largest;
    }
    bits
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn add_scaled<const STEPS: usize>(looked_up: &LookedUp<'_>, scales: TileScales<'_>, totals: &mut [f32]) {
    let totals = totals.as_chunks_mut::<TILE_ROWS>().0.chunks_exact_mut(QUAD / looked_up.digits);
    let mut places = scales.scales.iter().step_by(scales.stride).zip(totals);
    each_tile::<STEPS>(looked_up, |sums| {
        if let Some((scales, totals)) = places.next() {
            scale(sums, looked_up.digits, scales, totals);
        }
    });
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn add<const STEPS: usize>(looked_up: &LookedUp<'_>, sums: &mut [i32]) {
    let mut places = sums.as_chunks_mut::<HALF>().0.as_chunks_mut::<2>().0.as_chunks_mut::<QUAD>().0.iter_mut();
    each_tile::<STEPS>(looked_up, |sums| {
        if let Some(places) = places.next() {
            for (place, sums) in places.as_flattened_mut().iter_mut().zip(sums.into_iter().flatten()) {
                accumulate(sums, place);
            }
        }
    });
}

/// Hands the sums of each tile in turn to `take`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn each_tile<const STEPS: usize>(looked_up: &LookedUp<'_>, mut take: impl FnMut([[__m512i; 2]; QUAD])) {
    let tiles = looked_up.codes.as_chunks::<LINE>().0.as_chunks::<STEPS>().0;
    let quads = looked_up.tables.as_chunks::<ENTRIES>().0.as_chunks::<QUAD>().0;
    let steps: &[Step; STEPS] = &quads.as_chunks::<2>().0.as_chunks().0[0];
    if looked_up.widened != 0 {
        for tile in tiles {
            take(widened_sums(tile, steps, looked_up.widened));
        }
        return;
    }
    let (fours, rest) = tiles.as_chunks::<TILES>();
    let (next, quad, quads) = looked_up.ahead;
    let mut next = next.as_chunks::<LINE>().0.chunks_exact(TILES * STEPS);
    for (at, tiles) in fours.iter().enumerate() {
        let ahead = next.next().unwrap_or(&[]);
        if at % quads == quad {
            for line in ahead {
                _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast());
            }
        }
        for sums in word_sums(tiles, steps) {
            take(sums.map(|sums| widen(sums)));
        }
    }
    for tile in rest {
        take(word_sums(std::array::from_ref(tile), steps)[0].map(|sums| widen(sums)));
    }
}

/// The sums of a quad for 32 rows of each of `N` tiles.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn word_sums<const N: usize, const STEPS: usize>(
    tiles: &[[[u8; LINE]; STEPS]; N],
    steps: &[Step; STEPS],
) -> [[__m512i; QUAD]; N] {
    let mut sums = [[_mm512_setzero_si512(); QUAD]; N];
    for (at, tables) in steps.iter().enumerate() {
        let mut codes = [_mm512_setzero_si512(); N];
        for (codes, tile) in codes.iter_mut().zip(tiles) {
            *codes = load(&tile[at]);
        }
        for tables in tables {
            for (row, table) in tables.iter().enumerate() {
                let table = load_words(table);
                for (sums, codes) in sums.iter_mut().zip(codes) {
                    sums[row] = _mm512_add_epi16(sums[row], _mm512_permutexvar_epi16(codes, table));
                }
            }
            // To the second table's.
            for codes in &mut codes {
                *codes = _mm512_srli_epi16::<8>(*codes);
            }
        }
    }
    sums
}

/// As [`word_sums`], widened where `after` says so.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn widened_sums<const STEPS: usize>(
    tile: &[[u8; LINE]; STEPS],
    steps: &[Step; STEPS],
    after: u64,
) -> [[__m512i; 2]; QUAD] {
    let (mut words, mut sums) = ([_mm512_setzero_si512(); QUAD], [[_mm512_setzero_si512(); 2]; QUAD]);
    let mut take_in = |words: &mut [__m512i; QUAD]| {
        for (sums, words) in sums.iter_mut().zip(words) {
            let [lower, upper] = widen(*words);
            *sums = [_mm512_add_epi32(sums[0], lower), _mm512_add_epi32(sums[1], upper)];
            *words = _mm512_setzero_si512();
        }
    };
    for (at, (tables, line)) in steps.iter().zip(tile).enumerate() {
        let mut codes = load(line);
        for (half, tables) in tables.iter().enumerate() {
            for (words, table) in words.iter_mut().zip(tables) {
                *words = _mm512_add_epi16(*words, _mm512_permutexvar_epi16(codes, load_words(table)));
            }
            // To the second table's.
            codes = _mm512_srli_epi16::<8>(codes);
            if after >> (2 * at + half) & 1 == 1 {
                take_in(&mut words);
            }
        }
    }
    take_in(&mut words);
    sums
}

/// Sums of 32 rows as int32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn widen(words: __m512i) -> [__m512i; 2] {
    [_mm512_castsi512_si256(words), _mm512_extracti64x4_epi64::<1>(words)].map(|half| _mm512_cvtepi16_epi32(half))
}

/// Makes products of the digits' sums and adds them, scaled, to the outputs of 32 rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn scale(sums: [[__m512i; 2]; QUAD], digits: usize, scales: &[f32; TILE_ROWS], totals: &mut [[f32; TILE_ROWS]]) {
    for (token, totals) in totals.iter_mut().enumerate() {
        let halves = scales.as_chunks::<HALF>().0.iter().zip(totals.as_chunks_mut::<HALF>().0);
        for (half, (scales, totals)) in halves.enumerate() {
            let dot = match digits {
                1 => sums[token][half],
                _ => {
                    let [high, low] = [sums[2 * token][half], sums[2 * token + 1][half]];
                    // BASE is three times 256.
                    let three = _mm512_add_epi32(_mm512_slli_epi32::<1>(high), high);
                    _mm512_add_epi32(_mm512_slli_epi32::<8>(three), low)
                }
            };
            let product = _mm512_mul_ps(_mm512_cvtepi32_ps(dot), load_floats(scales));
            let total = _mm512_add_ps(load_floats(totals), product);
            // SAFETY: 64 writable bytes; the store needs no alignment.
            unsafe { _mm512_storeu_ps(totals.as_mut_ptr(), total) };
        }
    }
}
