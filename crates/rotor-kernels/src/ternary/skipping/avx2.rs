//! Kernels for fours with AVX2: 16-bit products of bytes.
//!
//! A field of two bits, shifted into place, is multiplied by `vpmaddubsw`, which adds two products as int16.
//!
//! Bounds. Two products are `2 * 2 * 128 = 512` at most, and exactly -32768 for 64 of them: sums of int16 take 64 such pairs, then
//! they are added to int32.

use super::coded::SkippingTables;
use super::layout::{FOURS, MAX_LINE_WEIGHTS};
use super::order::BYTES;
use super::{LINE, SkippingKernels, scalar};
use crate::pool::SharedMut;
use crate::ternary::avx2::{PLANES, load};
use crate::ternary::avx2_lookup::write_codes;
use crate::ternary::avx2_rows::horizontal_sum;
use crate::ternary::kernel::TernaryKernel;
use crate::ternary::lookup::{CHUNK_CODES, CHUNK_COLS};
use crate::ternary::{TILE_ROWS, avx512, avx512_vnni};
use std::arch::x86_64::*;

pub(crate) static KERNELS: SkippingKernels = kernels(&TABLES);
static TABLES: SkippingTables = tables(&PLANES);

/// The same for AVX-512, whose tables are made of the same codes.
pub(crate) static AVX512: SkippingKernels = kernels(&AVX512_TABLES);
static AVX512_TABLES: SkippingTables = tables(&avx512::PLANES);

/// And with VNNI.
pub(crate) static AVX512_VNNI: SkippingKernels = kernels(&AVX512_VNNI_TABLES);
static AVX512_VNNI_TABLES: SkippingTables = tables(&avx512_vnni::CODES_LOOKUP);

const fn kernels(tables: &'static SkippingTables) -> SkippingKernels {
    SkippingKernels {
        layout: &FOURS,
        rows,
        columns,
        active: scalar::active,
        tiles: None,
        tables: Some(tables),
        panels: None,
    }
}

const fn tables(kernel: &'static TernaryKernel) -> SkippingTables {
    SkippingTables { kernel, order: &BYTES, rows: codes_of_rows, columns: codes_of_columns }
}

/// Trits of a byte.
const DIGITS: usize = 4;
/// How far ahead rows are fetched, in bytes.
const ROWS_AHEAD: usize = 8192;
/// Bytes of a vector, halves of a line.
const HALF: usize = LINE / 2;
/// Pairs of products whose sums fit int16.
const PAIRS: usize = 64;
/// Columns that go together; as many that follow are fetched.
const COLUMNS: usize = 2 * PAIRS;
const _: () = assert!(COLUMNS <= super::AHEAD);

/// Fetches a line; any address may be asked for.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn fetch(line: *const u8) {
    _mm_prefetch::<_MM_HINT_T0>(line.cast());
}

/// The fields of a digit, shifted into place.
#[inline]
#[target_feature(enable = "avx2")]
fn field(bytes: __m256i, digit: usize) -> __m256i {
    let shifted = match digit {
        0 => bytes,
        1 => _mm256_srli_epi16::<2>(bytes),
        2 => _mm256_srli_epi16::<4>(bytes),
        _ => _mm256_srli_epi16::<6>(bytes),
    };
    _mm256_and_si256(shifted, _mm256_set1_epi8(3))
}

#[target_feature(enable = "avx2")]
pub(super) fn rows(bytes: &[u8], row_lines: usize, list: &[u32], tokens: &[&[i8]], out: &mut [i32]) {
    match tokens {
        [a] => rows_of([a], bytes, row_lines, list, out),
        [a, b] => rows_of([a, b], bytes, row_lines, list, out),
        [a, b, c] => rows_of([a, b, c], bytes, row_lines, list, out),
        [a, b, c, d] => rows_of([a, b, c, d], bytes, row_lines, list, out),
        _ => unreachable!("one to four tokens"),
    }
}

#[inline]
#[target_feature(enable = "avx2")]
#[expect(clippy::needless_range_loop, reason = "one number goes through tokens, their activations and sums")]
fn rows_of<const N: usize>(tokens: [&[i8]; N], bytes: &[u8], row_lines: usize, list: &[u32], out: &mut [i32]) {
    let (row_bytes, ones) = (row_lines * LINE, _mm256_set1_epi16(1));
    let at = |place: u32| bytes.as_ptr().wrapping_add(place as usize * row_bytes);
    let ahead = (ROWS_AHEAD / row_bytes).max(1);
    for place in &list[..ahead.min(list.len())] {
        for line in (0..row_bytes).step_by(LINE) {
            fetch(at(*place).wrapping_add(line));
        }
    }
    for (i, place) in list.iter().enumerate() {
        let row = &bytes[*place as usize * row_bytes..][..row_bytes];
        let next = at(list[(i + ahead).min(list.len() - 1)]);
        let mut sums = [_mm256_setzero_si256(); N];
        // Each line gives two accumulators a pair for each digit.
        for (part, lines) in row.chunks(PAIRS / DIGITS * LINE).enumerate() {
            let mut pairs = [[_mm256_setzero_si256(); 2]; N];
            for (line, bytes) in lines.as_chunks::<LINE>().0.iter().enumerate() {
                let line = part * (PAIRS / DIGITS) + line;
                fetch(next.wrapping_add(line * LINE));
                for (half, bytes) in bytes.as_chunks::<HALF>().0.iter().enumerate() {
                    let bytes = load(bytes);
                    for digit in 0..DIGITS {
                        let field = field(bytes, digit);
                        for token in 0..N {
                            let at = (line * DIGITS + digit) * LINE + half * HALF;
                            // SAFETY: tokens have 256 activations for each line (the kernel's contract).
                            let x = unsafe { _mm256_loadu_si256(tokens[token].as_ptr().add(at).cast()) };
                            let products = _mm256_maddubs_epi16(field, x);
                            pairs[token][half] = _mm256_add_epi16(pairs[token][half], products);
                        }
                    }
                }
            }
            for token in 0..N {
                for half in 0..2 {
                    sums[token] = _mm256_add_epi32(sums[token], _mm256_madd_epi16(pairs[token][half], ones));
                }
            }
        }
        for token in 0..N {
            out[token * list.len() + i] = horizontal_sum(sums[token]);
        }
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn columns(slice: &[u8], places: &[u32], tokens: &[&[i8]], sums: &mut [[i32; MAX_LINE_WEIGHTS]]) {
    match (tokens, sums) {
        // The registers hold the sums of one token for 32 rows of each digit, or of two tokens for 16.
        ([a], [s, ..]) => columns_of::<1, 2>([a], slice, places, [s]),
        ([a, b], [s, t, ..]) => columns_of::<2, 1>([a, b], slice, places, [s, t]),
        ([a, b, c], [s, t, u, ..]) => {
            columns_of::<2, 1>([a, b], slice, places, [s, t]);
            columns_of::<1, 2>([c], slice, places, [u]);
        }
        ([a, b, c, d], [s, t, u, v, ..]) => {
            columns_of::<2, 1>([a, b], slice, places, [s, t]);
            columns_of::<2, 1>([c, d], slice, places, [u, v]);
        }
        _ => unreachable!("one to four tokens and their sums"),
    }
}

/// Sums of a slice for `N` tokens, `M` times 16 rows of each digit at a time.
#[inline]
#[target_feature(enable = "avx2")]
#[expect(clippy::needless_range_loop, reason = "one number goes through registers of fields, activations and sums")]
fn columns_of<const N: usize, const M: usize>(
    tokens: [&[i8]; N],
    slice: &[u8],
    places: &[u32],
    sums: [&mut [i32; MAX_LINE_WEIGHTS]; N],
) {
    let all = tokens[0].len();
    assert!(
        tokens.iter().all(|x| x.len() == all && all.is_multiple_of(2)),
        "tokens of as many columns, an even number"
    );
    let places: &[u32] = &places[..all + super::AHEAD];
    // SAFETY: of numbers up to the last column's and as many as go together, which are less than are ahead.
    let line = |number: usize| unsafe { slice.as_ptr().wrapping_add(*places.get_unchecked(number) as usize * LINE) };
    for number in 0..COLUMNS {
        fetch(line(number));
    }
    for first in (0..all).step_by(COLUMNS) {
        let pairs = PAIRS.min((all - first) / 2);
        for turn in 0..4 / M {
            // The half of the lines, and which sixteens of its rows.
            let (half, from) = (turn * M / 2, turn * M % 2);
            let mut acc = [[[_mm256_setzero_si256(); DIGITS]; M]; N];
            for pair in 0..pairs {
                let number = first + 2 * pair;
                // Each turn fetches a part of the lines that the next columns will need.
                if pair < COLUMNS * M / 4 {
                    fetch(line(first + COLUMNS + turn * COLUMNS * M / 4 + pair));
                }
                // SAFETY: places are lines of the slice (the kernel's contract).
                let [a, b] = [number, number + 1]
                    .map(|number| unsafe { _mm256_loadu_si256(line(number).add(half * HALF).cast()) });
                let mut x = [_mm256_setzero_si256(); N];
                for token in 0..N {
                    // SAFETY: two activations of each token (checked above).
                    x[token] =
                        _mm256_set1_epi16(unsafe { tokens[token].as_ptr().add(number).cast::<i16>().read_unaligned() });
                }
                for m in 0..M {
                    let both = if from + m == 0 { _mm256_unpacklo_epi8(a, b) } else { _mm256_unpackhi_epi8(a, b) };
                    for digit in 0..DIGITS {
                        let field = field(both, digit);
                        for token in 0..N {
                            let products = _mm256_maddubs_epi16(field, x[token]);
                            acc[token][m][digit] = _mm256_add_epi16(acc[token][m][digit], products);
                        }
                    }
                }
            }
            for token in 0..N {
                for m in 0..M {
                    for digit in 0..DIGITS {
                        let acc = acc[token][m][digit];
                        let row = LINE * digit + HALF * half + 8 * (from + m);
                        add_rows(_mm256_castsi256_si128(acc), first == 0, &mut sums[token][row..]);
                        add_rows(_mm256_extracti128_si256::<1>(acc), first == 0, &mut sums[token][row + 16..]);
                    }
                }
            }
        }
    }
    if all == 0 {
        for sums in sums {
            sums.fill(0);
        }
    }
}

/// Adds sums of eight rows, or puts them there where it is the `first` time.
#[inline]
#[target_feature(enable = "avx2")]
fn add_rows(more: __m128i, first: bool, sums: &mut [i32]) {
    let (more, sums) = (_mm256_cvtepi16_epi32(more), sums[..8].as_mut_ptr());
    // SAFETY: 8 readable and writable sums; no access needs alignment.
    unsafe {
        let before = if first { _mm256_setzero_si256() } else { _mm256_loadu_si256(sums.cast()) };
        _mm256_storeu_si256(sums.cast(), _mm256_add_epi32(before, more));
    }
}

/// A byte is a code once its four trits are of base 3.
#[target_feature(enable = "avx2")]
fn codes_of_rows(block: &[u8], row_lines: usize, codes: &SharedMut<'_, u8>, code_rows: usize, row: usize) {
    let places = super::places::Places::of_block();
    for (tile, places) in places.of.as_chunks::<TILE_ROWS>().0.iter().enumerate() {
        let row = row + tile * TILE_ROWS;
        // The last block of rows may have one tile.
        if row >= code_rows {
            return;
        }
        for half in 0..2 * row_lines {
            for (four, places) in places.as_chunks::<4>().0.iter().enumerate() {
                let mut of_rows = [_mm256_setzero_si256(); 4];
                for (of_row, place) in of_rows.iter_mut().zip(places) {
                    let at = *place as usize * row_lines * LINE + half * HALF;
                    // Rows are read in no order: those of the next block are fetched as they lie.
                    fetch(block.as_ptr().wrapping_add(block.len() + at));
                    *of_row = codes_of_bytes(load(&block[at..].as_chunks().0[0]));
                }
                for (chunk, of_chunk) in turned(of_rows).into_iter().enumerate() {
                    let chunk = half * (HALF / CHUNK_CODES) + chunk;
                    let at = (chunk * code_rows + row + 4 * four) * CHUNK_CODES;
                    // SAFETY: these rows of every chunk belong to this call alone (the kernel's contract).
                    let to = unsafe { codes.slice(at, HALF) };
                    // SAFETY: 32 writable bytes; the store needs no alignment.
                    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), of_chunk) };
                }
            }
        }
    }
}

/// Fours as codes.
#[inline]
#[target_feature(enable = "avx2")]
fn codes_of_bytes(bytes: __m256i) -> __m256i {
    let nibble = _mm256_set1_epi8(15);
    let lower = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 0, 3, 4, 5, 0, 6, 7, 8, 0, 0, 0, 0, 0));
    let upper = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 9, 18, 0, 27, 36, 45, 0, 54, 63, 72, 0, 0, 0, 0, 0));
    let of_lower = _mm256_shuffle_epi8(lower, _mm256_and_si256(bytes, nibble));
    let of_upper = _mm256_shuffle_epi8(upper, _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble));
    _mm256_add_epi8(of_lower, of_upper)
}

/// Eights of bytes of four vectors, the first of all in the first, and so on.
#[inline]
#[target_feature(enable = "avx2")]
fn turned([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    let (ab, cd) = (_mm256_unpacklo_epi64(a, b), _mm256_unpacklo_epi64(c, d));
    let (ab_high, cd_high) = (_mm256_unpackhi_epi64(a, b), _mm256_unpackhi_epi64(c, d));
    [
        _mm256_permute2x128_si256::<0x20>(ab, cd),
        _mm256_permute2x128_si256::<0x20>(ab_high, cd_high),
        _mm256_permute2x128_si256::<0x31>(ab, cd),
        _mm256_permute2x128_si256::<0x31>(ab_high, cd_high),
    ]
}

#[target_feature(enable = "avx2")]
fn codes_of_columns(slice: &[u8], places: &[u32], codes: &SharedMut<'_, u8>, code_rows: usize, row: usize) {
    let zeros = [FOURS.zeros(); LINE];
    for (chunk, of_chunk) in places.chunks(CHUNK_COLS).enumerate() {
        let mut lines = [&zeros; CHUNK_COLS];
        for (line, place) in lines.iter_mut().zip(of_chunk) {
            *line = &slice[*place as usize * LINE..].as_chunks().0[0];
        }
        for place in places.iter().skip((chunk + COLUMNS / CHUNK_COLS) * CHUNK_COLS).take(CHUNK_COLS) {
            fetch(slice.as_ptr().wrapping_add(*place as usize * LINE));
        }
        for half in 0..2 {
            let mut of_digit = [[_mm256_setzero_si256(); CHUNK_CODES]; DIGITS];
            for (code, lines) in lines.as_chunks::<4>().0.iter().enumerate() {
                let mut bytes = [_mm256_setzero_si256(); 4];
                for (bytes, line) in bytes.iter_mut().zip(lines) {
                    *bytes = load(&line.as_chunks().0[half]);
                }
                for (digit, of_digit) in of_digit.iter_mut().enumerate() {
                    of_digit[code] = base_3(bytes, digit);
                }
            }
            for (digit, of_digit) in of_digit.into_iter().enumerate() {
                let row = row + LINE * digit + HALF * half;
                // The last slice may have fewer tiles.
                if row < code_rows {
                    let at = (chunk * code_rows + row) * CHUNK_CODES;
                    // SAFETY: these rows of every chunk belong to this call alone (the kernel's contract).
                    write_codes(of_digit, unsafe { codes.slice(at, TILE_ROWS * CHUNK_CODES) });
                }
            }
        }
    }
}

/// Of four columns' bytes the codes of a digit: `a + 3 b + 9 c + 27 d`.
#[inline]
#[target_feature(enable = "avx2")]
fn base_3(bytes: [__m256i; 4], digit: usize) -> __m256i {
    let [a, b, c, d] = bytes;
    let (a, b, c, d) = (field(a, digit), field(b, digit), field(c, digit), field(d, digit));
    let with_third = |low, high| _mm256_add_epi8(low, _mm256_add_epi8(high, _mm256_add_epi8(high, high)));
    let (lower, upper) = (with_third(a, b), with_third(c, d));
    _mm256_add_epi8(lower, _mm256_add_epi8(upper, _mm256_slli_epi16::<3>(upper)))
}

const _: () = assert!(HALF == TILE_ROWS);
