//! Ternary kernels for AVX2.
//!
//! # Few tokens: 16-entry tables
//!
//! A table holds the 16 subset sums `v` of 4 activations, `|v| <= 4 * 128`, split as `v = 31 * high + low` with
//! `|low| <= 15` and `|high| <= 17`: `high = mulhrs(v, 1057)` is `round(v / 31)`, exact for `|v| < 16000` because
//! `1057 / 32768` is within 1e-6 of `1 / 31` and `v / 31` is never closer than `1 / 62` to a half-integer. (31 rather than 32
//! keeps `low` symmetric, so that it can be subtracted as well as added.) `vpshufb` looks up 32 rows by a nibble of `P`, adds,
//! looks up by the nibble of `N`, subtracts, for both halves.
//!
//! Bounds. Per 4 columns the halves of `v_P - v_N` satisfy `|low_P - low_N| <= 30`; since no column is in both planes,
//! `|v_P - v_N| <= 512` and `|high_P - high_N| <= (512 + 30) / 31 < 18`. Bytes are widened every 4 groups (16 columns):
//! `4 * 30 = 120` and `4 * 17 = 68`, both within int8 (intermediate wrap-around is harmless, addition being modular). A
//! widened sum of 16 columns is at most `16 * 128 = 2048`; 15 of them (`30720`) fit int16, then they are added to int32.
//!
//! More tokens go by [`super::avx2_panel`] and [`super::avx2_lookup`].

use super::avx2_lookup::{self, TOKENS_16};
use super::avx2_panel;
use super::kernel::{Many, Preparation, TernaryFamily, TernaryKernel, Token};
use super::layout;
use super::lookup::{LookupKernels, SUMS_81};
use super::skipping;
use super::{TILE_ROWS, UNIT_BYTES, UNIT_COLS};
use std::arch::x86_64::*;

pub(crate) static FAMILY: TernaryFamily = TernaryFamily {
    pack_row,
    dot_rows: super::avx2_rows::dot_rows,
    sum,
    planes: &PLANES,
    kernels: &[&PLANES],
    skipping: Some(&skipping::avx2::KERNELS),
};

pub(super) static PLANES: TernaryKernel = TernaryKernel {
    name: "planes",
    layout: &layout::PLANES,
    preparation: Some(&TABLES),
    few_tokens: 4,
    few,
    few_groups: None,
    many: &[Many::Panel(avx2_panel::PANEL), Many::Lookup(LOOKUP)],
    many_groups: &[],
    many_exact: None,
};

const LOOKUP: LookupKernels =
    LookupKernels { min_tokens: 16, min_filled: 0, chunk: SUMS_81, decode: avx2_lookup::decode, tiles: &[TOKENS_16] };

/// The tables of 16 sums.
pub(super) static TABLES: Preparation = Preparation { len: |cols| cols / 4 * TABLE_BYTES, fill: prepare };

/// Bytes of one table of 16 sums: 16 low halves, 16 high halves.
pub(super) const TABLE_BYTES: usize = 32;
/// How far ahead of the multiplication weights are fetched to L2, in bytes. With 1.5 KB, to L1, a Zen 5 core waits half of its
/// time.
pub(super) const PREFETCH: usize = 8192;
/// Pairs of units (16 columns) whose sums fit int16.
const PAIRS_PER_FLUSH: usize = 15;

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn broadcast16(bytes: &[u8; 16]) -> __m256i {
    // SAFETY: 16 readable bytes; the load needs no alignment.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// Sums of eight bytes, unsigned, after a shift by 128.
#[target_feature(enable = "avx2")]
pub(super) fn sum(q: &[i8]) -> i32 {
    let (chunks, rest) = q.as_chunks::<32>();
    let (mut sums, offset) = (_mm256_setzero_si256(), _mm256_set1_epi8(-128));
    for chunk in chunks {
        // SAFETY: 32 readable bytes; the load needs no alignment.
        let q = unsafe { _mm256_loadu_si256(chunk.as_ptr().cast()) };
        sums = _mm256_add_epi64(sums, _mm256_sad_epu8(_mm256_xor_si256(q, offset), _mm256_setzero_si256()));
    }
    let half = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let total = _mm_cvtsi128_si64(half) + _mm_extract_epi64::<1>(half) - 128 * q.len() as i64 + 128 * rest.len() as i64;
    total as i32 + rest.iter().map(|q| i32::from(*q)).sum::<i32>()
}

/// A trit's sign bit is its bit in `N`; being greater than zero gives its bit in `P`.
#[target_feature(enable = "avx2")]
pub(super) fn pack_row(trits: &[i8], r: usize, tile: &mut [u8]) {
    let units = tile.as_chunks_mut::<UNIT_BYTES>().0;
    // The last pair of units may be alone: 16 columns.
    for (trits, units) in trits.chunks(32).zip(units.chunks_mut(4)) {
        let padded = match trits.first_chunk() {
            // Padding calls memcpy. The load below would wait for its stores where they are of fewer than 32 bytes.
            Some(whole) => whole.map(i8::cast_unsigned),
            None => {
                let mut padded = [0u8; 32];
                padded[..trits.len()].iter_mut().zip(trits).for_each(|(to, trit)| *to = trit.cast_unsigned());
                padded
            }
        };
        let trits = load(&padded);
        let minus = _mm256_movemask_epi8(trits).to_le_bytes();
        let plus = _mm256_movemask_epi8(_mm256_cmpgt_epi8(trits, _mm256_setzero_si256())).to_le_bytes();
        for ((unit, plus), minus) in units.iter_mut().zip(plus).zip(minus) {
            unit[r] = plus;
            unit[TILE_ROWS + r] = minus;
        }
    }
}

/// The 16 subset sums of each 4 activations, split into halves.
#[target_feature(enable = "avx2")]
fn prepare(q: &[i8], prepared: &mut [u8]) {
    let bits: [__m256i; 4] = std::array::from_fn(|bit| {
        let mask = |i: i32| ((i >> bit) & 1) as i16;
        _mm256_setr_epi16(
            mask(0),
            mask(1),
            mask(2),
            mask(3),
            mask(4),
            mask(5),
            mask(6),
            mask(7),
            mask(8),
            mask(9),
            mask(10),
            mask(11),
            mask(12),
            mask(13),
            mask(14),
            mask(15),
        )
    });
    for (x, table) in q.as_chunks::<4>().0.iter().zip(prepared.as_chunks_mut::<TABLE_BYTES>().0) {
        let mut sums = _mm256_setzero_si256();
        for (bits, &x) in bits.iter().zip(x) {
            sums = _mm256_add_epi16(sums, _mm256_mullo_epi16(*bits, _mm256_set1_epi16(i16::from(x))));
        }
        let high = _mm256_mulhrs_epi16(sums, _mm256_set1_epi16(1057));
        let low = _mm256_sub_epi16(sums, _mm256_mullo_epi16(high, _mm256_set1_epi16(31)));
        let halves = _mm256_permute4x64_epi64::<0xd8>(_mm256_packs_epi16(low, high));
        // SAFETY: 32 writable bytes; the store needs no alignment.
        unsafe { _mm256_storeu_si256(table.as_mut_ptr().cast(), halves) };
    }
}

#[target_feature(enable = "avx2")]
fn few(tile: &[u8], cols: usize, tokens: &[Token<'_>], out: &mut [[i32; TILE_ROWS]]) {
    match (tokens, out) {
        ([a], [x]) => few_tokens([a], tile, cols, [x]),
        ([a, b], [x, y]) => few_tokens([a, b], tile, cols, [x, y]),
        ([a, b, c], [x, y, z]) => few_tokens([a, b, c], tile, cols, [x, y, z]),
        ([a, b, c, d], [x, y, z, w]) => few_tokens([a, b, c, d], tile, cols, [x, y, z, w]),
        _ => unreachable!("one to four tokens, as many outputs"),
    }
}

/// As the module head describes, for `N` tokens that share each weight's nibbles.
#[inline]
#[target_feature(enable = "avx2")]
fn few_tokens<const N: usize>(tokens: [&Token<'_>; N], tile: &[u8], cols: usize, out: [&mut [i32; TILE_ROWS]; N]) {
    let zero = _mm256_setzero_si256();
    let nibble = _mm256_set1_epi8(15);
    let pairs = cols / (2 * UNIT_COLS);
    let tables = tokens.map(|token| &token.prepared.as_chunks::<TABLE_BYTES>().0[..pairs * 4]);
    let units = &tile.as_chunks::<UNIT_BYTES>().0[..2 * pairs];
    let mut sums32 = [[zero; 4]; N];
    for first in (0..pairs).step_by(PAIRS_PER_FLUSH) {
        let mut sums16 = [[zero; 2]; N];
        for pair in first..(first + PAIRS_PER_FLUSH).min(pairs) {
            let (mut low, mut high) = ([zero; N], [zero; N]);
            for half in 0..2 {
                let unit = &units[2 * pair + half];
                _mm_prefetch::<_MM_HINT_T1>(unit.as_ptr().wrapping_add(PREFETCH).cast());
                let (plus, minus) = (load(&unit.as_chunks().0[0]), load(&unit.as_chunks().0[1]));
                for shifted in 0..2 {
                    let (plus, minus) = if shifted == 0 {
                        (_mm256_and_si256(plus, nibble), _mm256_and_si256(minus, nibble))
                    } else {
                        let high = |v| _mm256_and_si256(_mm256_srli_epi16::<4>(v), nibble);
                        (high(plus), high(minus))
                    };
                    for token in 0..N {
                        let halves = tables[token][4 * pair + 2 * half + shifted].as_chunks::<16>().0;
                        let (l, h) = (broadcast16(&halves[0]), broadcast16(&halves[1]));
                        low[token] = _mm256_add_epi8(low[token], _mm256_shuffle_epi8(l, plus));
                        high[token] = _mm256_add_epi8(high[token], _mm256_shuffle_epi8(h, plus));
                        low[token] = _mm256_sub_epi8(low[token], _mm256_shuffle_epi8(l, minus));
                        high[token] = _mm256_sub_epi8(high[token], _mm256_shuffle_epi8(h, minus));
                    }
                }
            }
            for token in 0..N {
                let (a, b) = widen(low[token], high[token]);
                sums16[token] = [_mm256_add_epi16(sums16[token][0], a), _mm256_add_epi16(sums16[token][1], b)];
            }
        }
        for token in 0..N {
            flush(&mut sums32[token], sums16[token]);
        }
    }
    for (sums, out) in sums32.into_iter().zip(out) {
        store_rows(sums, out);
    }
}

/// `31 * high + low` of 32 rows as int16: rows 0-7 and 16-23, rows 8-15 and 24-31.
#[inline]
#[target_feature(enable = "avx2")]
fn widen(low: __m256i, high: __m256i) -> (__m256i, __m256i) {
    let weights = _mm256_set1_epi16(1 | 31 << 8);
    let pair = |halves| _mm256_maddubs_epi16(weights, halves);
    (pair(_mm256_unpacklo_epi8(low, high)), pair(_mm256_unpackhi_epi8(low, high)))
}

/// Adds int16 sums, in the order `widen` leaves them, to int32 sums of rows 0-7, 8-15, 16-23, 24-31.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn flush(sums32: &mut [__m256i; 4], [a, b]: [__m256i; 2]) {
    let add = |to: &mut __m256i, from| *to = _mm256_add_epi32(*to, _mm256_cvtepi16_epi32(from));
    add(&mut sums32[0], _mm256_castsi256_si128(a));
    add(&mut sums32[1], _mm256_castsi256_si128(b));
    add(&mut sums32[2], _mm256_extracti128_si256::<1>(a));
    add(&mut sums32[3], _mm256_extracti128_si256::<1>(b));
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store_rows(sums: [__m256i; 4], out: &mut [i32; TILE_ROWS]) {
    for (sums, out) in sums.into_iter().zip(out.as_chunks_mut::<8>().0) {
        // SAFETY: 8 writable int32; the store needs no alignment.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), sums) };
    }
}
