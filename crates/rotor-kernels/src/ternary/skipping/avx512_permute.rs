//! Codes for tables in registers ([`crate::ternary::avx512_permute`] has what they look like), straight from fives.
//!
//! Three trits whose fields lie together in a byte are one permutation away from their code. So in *rows* a code is of the first
//! three digits of a byte, and the other two of three bytes are two more: its columns are not neighbours, and activations are put in
//! that order instead ([`super::threes`]). In *columns* a code is of one digit of three lines, whose fields are brought together.

use super::avx512_vbmi::{Decoder, fetch, load, side_by_side};
use super::coded::SkippingTables;
use super::layout::{FIVES, MAX_DIGITS as DIGITS};
use super::threes::{CODES_OF_THREE, THREES};
use super::{BLOCK_ROWS, LINE};
use crate::pool::SharedMut;
use crate::ternary::TILE_ROWS;
use crate::ternary::avx512_permute::{ROW_CODES, write_codes};
use crate::ternary::avx512_vbmi::{CODES_PERMUTE, select};
use crate::ternary::layout::TRIOS_COLS;
use std::arch::x86_64::*;

pub(crate) static TABLES: SkippingTables = SkippingTables { kernel: &CODES_PERMUTE, order: &THREES, rows, columns };

/// Indices of a chunk.
const INDICES: usize = TRIOS_COLS / 12;
/// Bytes of an index of 32 rows.
const INDEX_BYTES: usize = TILE_ROWS * ROW_CODES / INDICES;
/// Vectors of a line of sixteen rows, each with four bytes of every row.
const FOURS: usize = LINE / 4;
/// Lines that are turned together: their fours are whole threes, and their indices whole chunks.
const WINDOW: usize = 3;
/// How many columns ahead lines are fetched.
const AHEAD: usize = 128;

/// The code of three fields of two bits.
static CODE: [u8; LINE] = {
    let mut code = [0; LINE];
    let mut fields = 0;
    while fields < LINE {
        code[fields] = (fields % 4 + 3 * (fields / 4 % 4) + 9 * (fields / 16)) as u8;
        fields += 1;
    }
    code
};

/// Bytes of zeros.
const ZEROS: [u8; LINE] = [FIVES.zeros(); LINE];

/// The code of three fields: bits 0-1 of `a`, 2-3 of `b` and 4-5 of `c`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn code(a: __m512i, b: __m512i, c: __m512i, table: __m512i) -> __m512i {
    _mm512_permutexvar_epi8(select(3, a, select(12, b, c)), table)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn rows(block: &[u8], row_lines: usize, codes: &SharedMut<'_, u8>, code_rows: usize, row: usize) {
    let places = super::places::Places::of_block();
    for (tile, places) in places.of.as_chunks::<TILE_ROWS>().0.iter().enumerate() {
        let row = row + tile * TILE_ROWS;
        // The last block of rows may have one tile.
        if row >= code_rows {
            return;
        }
        for first in (0..row_lines).step_by(WINDOW) {
            let lines = first..(first + WINDOW).min(row_lines);
            let mut fours = [[load(&ZEROS); WINDOW * FOURS]; 2];
            for (places, fours) in places.as_chunks::<16>().0.iter().zip(&mut fours) {
                for (line, fours) in lines.clone().zip(fours.as_chunks_mut().0) {
                    *fours = turned(block, row_lines, line, places);
                }
            }
            let threes = (lines.len() * FOURS).div_ceil(3);
            for three in 0..threes {
                let of_half =
                    |half: usize| codes_of_three(*fours[half][3 * three..].first_chunk().expect("three fours"));
                let (lower, upper) = (of_half(0), of_half(1));
                for (at, (lower, upper)) in lower.into_iter().zip(upper).enumerate() {
                    let index = first / WINDOW * (WINDOW * FOURS / 3 * CODES_OF_THREE) + three * CODES_OF_THREE + at;
                    let at = (index / INDICES * code_rows + row) * ROW_CODES + index % INDICES * INDEX_BYTES;
                    // SAFETY: these rows of every chunk belong to this call alone (the kernel's contract).
                    write_codes([[lower], [upper]], unsafe { codes.slice(at, INDEX_BYTES) });
                }
            }
        }
    }
}

/// A line of sixteen rows, four bytes of every row in a vector.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn turned(block: &[u8], row_lines: usize, line: usize, places: &[u32; 16]) -> [__m512i; FOURS] {
    // Lines are read in no order: those of the next block are fetched as they lie.
    let at = |place: u32| (place as usize * row_lines + line) * LINE;
    let mut quarters = [[_mm512_setzero_si512(); 4]; 4];
    for (quarter, places) in quarters.iter_mut().zip(places.as_chunks::<4>().0) {
        let rows = places.map(|place| {
            fetch(block.as_ptr().wrapping_add(BLOCK_ROWS * row_lines * LINE + at(place)));
            load(&block[at(place)..].as_chunks().0[0])
        });
        let [a, b, c, d] = rows;
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        *quarter = [
            _mm512_unpacklo_epi64(ab, cd),
            _mm512_unpackhi_epi64(ab, cd),
            _mm512_unpacklo_epi64(ab_high, cd_high),
            _mm512_unpackhi_epi64(ab_high, cd_high),
        ];
    }
    let mut fours = [_mm512_setzero_si512(); FOURS];
    for m in 0..4 {
        let turned = super::avx512_vbmi::transposed([quarters[0][m], quarters[1][m], quarters[2][m], quarters[3][m]]);
        for (p, turned) in turned.into_iter().enumerate() {
            fours[4 * p + m] = turned;
        }
    }
    fours
}

/// The five codes of three bytes of each lane's byte, in the order of [`super::threes::ORDER`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn codes_of_three([a, b, c]: [__m512i; 3]) -> [__m512i; CODES_OF_THREE] {
    let (decoder, table) = (Decoder::new(), load(&CODE));
    let ([a, a_fifth], [b, b_fifth], [c, c_fifth]) = (decoder.decode(a), decoder.decode(b), decoder.decode(c));
    let (six, four, two) =
        (|v| _mm512_srli_epi16::<6>(v), |v| _mm512_srli_epi16::<4>(v), |v| _mm512_srli_epi16::<2>(v));
    [
        _mm512_permutexvar_epi8(a, table),
        _mm512_permutexvar_epi8(b, table),
        _mm512_permutexvar_epi8(c, table),
        code(six(a), four(a_fifth), two(b), table),
        code(six(b_fifth), four(c), two(c_fifth), table),
    ]
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn columns(slice: &[u8], places: &[u32], codes: &SharedMut<'_, u8>, code_rows: usize, row: usize) {
    for (chunk, of_chunk) in places.chunks(TRIOS_COLS).enumerate() {
        for index in 0..INDICES {
            let mut lines = [load(&ZEROS); 12];
            for (line, place) in lines.iter_mut().zip(of_chunk.iter().skip(12 * index)) {
                *line = load(&slice[*place as usize * LINE..].as_chunks().0[0]);
            }
            for place in places.iter().skip(chunk * TRIOS_COLS + 12 * index + AHEAD).take(12) {
                fetch(slice.as_ptr().wrapping_add(*place as usize * LINE));
            }
            for pair in 0..2 {
                let (lower, upper) = (codes_of_lines(&lines, 2 * pair), codes_of_lines(&lines, 2 * pair + 1));
                for (digit, (lower, upper)) in lower.into_iter().zip(upper).enumerate() {
                    let row = row + (2 * digit + pair) * TILE_ROWS;
                    // The last slice may have fewer tiles.
                    if row < code_rows {
                        let at = (chunk * code_rows + row) * ROW_CODES + index * INDEX_BYTES;
                        // SAFETY: these rows of every chunk belong to this call alone (the kernel's contract).
                        write_codes([[lower], [upper]], unsafe { codes.slice(at, INDEX_BYTES) });
                    }
                }
            }
        }
    }
}

/// Of the lines of twelve columns the codes of each digit, for the sixteens of rows with number `m`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn codes_of_lines(lines: &[__m512i; 12], m: usize) -> [__m512i; DIGITS] {
    let (decoder, table) = (Decoder::new(), load(&CODE));
    let [a, b, c] = [0, 4, 8].map(|first| [lines[first], lines[first + 1], lines[first + 2], lines[first + 3]]);
    let ([a, a_fifth], [b, b_fifth], [c, c_fifth]) =
        (decoder.decode(side_by_side(a, m)), decoder.decode(side_by_side(b, m)), decoder.decode(side_by_side(c, m)));
    // Digits 0 and 2 of `a` and `b` side by side, and digits 1 and 3.
    let even = select(0x33, a, _mm512_slli_epi16::<2>(b));
    let odd = select(0x33, _mm512_srli_epi16::<2>(a), b);
    let with = |two, third| _mm512_permutexvar_epi8(select(15, two, third), table);
    [
        with(even, _mm512_slli_epi16::<4>(c)),
        with(odd, _mm512_slli_epi16::<2>(c)),
        with(_mm512_srli_epi16::<4>(even), c),
        with(_mm512_srli_epi16::<4>(odd), _mm512_srli_epi16::<2>(c)),
        code(_mm512_srli_epi16::<6>(a_fifth), _mm512_srli_epi16::<4>(b_fifth), _mm512_srli_epi16::<2>(c_fifth), table),
    ]
}
