//! Kernels for fives with AVX-512 VBMI and VNNI.
//!
//! Decoding a line is three `vpermb`, a saturating subtraction and two `vpxor` for 320 weights: the fields of the first four
//! trits at bits 0, 2, 4 and 6 of a byte, and the fifth at bit 6 of another. A field at bit `2f` need not be shifted into place:
//! it gives `4^f` times the product, in an accumulator of its own that is shifted right once at the end.
//!
//! Bounds. A field adds at most `4 * 2 * 64 * 128 = 2^16` to a lane for each line of a row, and `2 * 64 * 128 = 2^14` to a row for
//! each column: [`super::MAX_SIDE`] lines or columns fit int32.

use super::layout::{FIVES, MAX_DIGITS as DIGITS, MAX_LINE_WEIGHTS as LINE_WEIGHTS};
use super::{Active, BLOCK_ROWS, LINE, MAX_TOKENS, SkippingKernels, TilesOfCodes};
use crate::ternary::TILE_ROWS;
use crate::ternary::layout::{CODES_BYTES, CODES_COLS};
use std::arch::x86_64::*;

pub(crate) static KERNELS: SkippingKernels = SkippingKernels {
    layout: &FIVES,
    rows,
    columns,
    active,
    tiles: Some(TilesOfCodes { of_rows: codes_of_rows, of_columns: codes_of_columns }),
    tables: Some(&super::avx512_permute::TABLES),
    panels: None,
};

/// How far ahead rows are fetched, in bytes.
const ROWS_AHEAD: usize = 8192;
/// How far ahead columns are fetched that are packed as codes, in blocks of these.
const BLOCKS_AHEAD: usize = 8;
/// Fours of columns that go together; as many that follow are fetched.
const QUADS: usize = 32;
const _: () = assert!(8 * QUADS <= super::AHEAD);

/// Of the first four trits the fields where a byte is below 192; and by how far it is above, which bits of these are wrong, and
/// which of the fifth field.
static TABLES: [[u8; 64]; 3] = {
    const fn fields(four: usize) -> usize {
        (four % 3) | ((four / 3 % 3) << 2) | ((four / 9 % 3) << 4) | ((four / 27) << 6)
    }
    let mut tables = [[0; 64]; 3];
    let mut at = 0;
    while at < 64 {
        tables[0][at] = fields(at) as u8;
        if at > 0 && at < 52 {
            tables[1][at] = (fields(64 + (at - 1) / 3) ^ fields(at)) as u8;
            tables[2][at] = (192 ^ ((at - 1) % 3) << 6) as u8;
        }
        at += 1;
    }
    tables
};

#[derive(Clone, Copy)]
pub(super) struct Decoder {
    tables: [__m512i; 3],
    /// Of the fields; the last is also what bytes are compared with.
    masks: [__m512i; 4],
}

impl Decoder {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
    pub(super) fn new() -> Decoder {
        let [a, b, c] = &TABLES;
        let masks = [_mm512_set1_epi8(3), _mm512_set1_epi8(12), _mm512_set1_epi8(48), _mm512_set1_epi8(-64)];
        Decoder { tables: [load(a), load(b), load(c)], masks }
    }

    /// Bytes of four fields, and bytes with the fifth in their upper bits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
    pub(super) fn decode(self, bytes: __m512i) -> [__m512i; 2] {
        let above = _mm512_subs_epu8(bytes, self.masks[3]);
        let [four, wrong, fifth_wrong] = self.tables;
        let wrong = _mm512_permutexvar_epi8(above, wrong);
        let four = _mm512_xor_si512(_mm512_permutexvar_epi8(bytes, four), wrong);
        [four, _mm512_xor_si512(bytes, _mm512_permutexvar_epi8(above, fifth_wrong))]
    }

    /// A digit's field: its codes times `4^digit`, the fifth's times 64.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
    fn field(self, fields: [__m512i; 2], digit: usize) -> __m512i {
        _mm512_and_si512(fields[digit / 4], self.masks[digit.min(3)])
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load(bytes: &[u8; LINE]) -> __m512i {
    // SAFETY: 64 readable bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Fetches a line; any address may be asked for.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn fetch(line: *const u8) {
    _mm_prefetch::<_MM_HINT_T0>(line.cast());
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn rows(bytes: &[u8], row_lines: usize, list: &[u32], tokens: &[&[i8]], out: &mut [i32]) {
    match tokens {
        [a] => fours_of(a, bytes, row_lines, list, out),
        [a, b] => pairs_of([a, b], bytes, row_lines, list, out),
        [a, b, c] => pairs_of([a, b, c], bytes, row_lines, list, out),
        [a, b, c, d] => pairs_of([a, b, c, d], bytes, row_lines, list, out),
        _ => unreachable!("one to four tokens"),
    }
}

/// Four rows at a time, whose sums are added up across their lanes together.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn fours_of(x: &[i8], bytes: &[u8], row_lines: usize, list: &[u32], out: &mut [i32]) {
    let (decoder, row_bytes) = (Decoder::new(), row_lines * LINE);
    let at = |place: u32| bytes.as_ptr().wrapping_add(place as usize * row_bytes);
    let ahead = fetch_first(bytes, row_bytes, list);
    for (four, (places, out)) in list.chunks(4).zip(out.chunks_mut(4)).enumerate() {
        let mut totals = [_mm512_setzero_si512(); 4];
        for (at_row, total) in totals.iter_mut().enumerate() {
            // Rows that the last four lack are multiplied again.
            let row = &bytes[places[at_row.min(places.len() - 1)] as usize * row_bytes..][..row_bytes];
            let next = at(list[(4 * four + at_row + ahead).min(list.len() - 1)]);
            let mut sums = [_mm512_setzero_si512(); DIGITS];
            for (line, bytes) in row.as_chunks::<LINE>().0.iter().enumerate() {
                fetch(next.wrapping_add(line * LINE));
                let fields = decoder.decode(load(bytes));
                for (digit, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: a token has 320 activations for each line (the kernel's contract).
                    let x = unsafe { _mm512_loadu_si512(x.as_ptr().add((line * DIGITS + digit) * LINE).cast()) };
                    *sum = _mm512_dpbusd_epi32(*sum, decoder.field(fields, digit), x);
                }
            }
            let [a, b, c, d, e] = sums;
            let (b, c) = (_mm512_srai_epi32::<2>(b), _mm512_srai_epi32::<4>(c));
            let de = _mm512_srai_epi32::<6>(_mm512_add_epi32(d, e));
            *total = _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, de));
        }
        out.copy_from_slice(&across(totals)[..places.len()]);
    }
}

/// Where a digit of a byte is, of the vectors that [`pairs_of`] makes of its fields, and whether it counts four times there.
const FIELDS: [(usize, usize); DIGITS] = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1)];

/// Two rows at a time, so that activations are loaded once for both. The registers have room for two sums of each row and token,
/// not for one of each digit: fields are shifted to the first or the second place of a byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
#[expect(clippy::needless_range_loop, reason = "one number goes through registers of fields, activations and sums")]
fn pairs_of<const N: usize>(tokens: [&[i8]; N], bytes: &[u8], row_lines: usize, list: &[u32], out: &mut [i32]) {
    let (decoder, row_bytes) = (Decoder::new(), row_lines * LINE);
    let ahead = fetch_first(bytes, row_bytes, list);
    for (pair, places) in list.chunks(2).enumerate() {
        // A last row without a partner is multiplied twice.
        let (first, last) = (places[0] as usize, places[places.len() - 1] as usize);
        let rows = [&bytes[first * row_bytes..][..row_bytes], &bytes[last * row_bytes..][..row_bytes]];
        let next = list[(2 * pair + ahead).min(list.len() - 1)] as usize;
        let after = list[(2 * pair + ahead + 1).min(list.len() - 1)] as usize;
        let next = [bytes.as_ptr().wrapping_add(next * row_bytes), bytes.as_ptr().wrapping_add(after * row_bytes)];
        let mut sums = [[[_mm512_setzero_si512(); 2]; N]; 2];
        for line in 0..row_lines {
            let mut fields = [[_mm512_setzero_si512(); 3]; 2];
            for row in 0..2 {
                fetch(next[row].wrapping_add(line * LINE));
                // SAFETY: a line of the row.
                let bytes = unsafe { _mm512_loadu_si512(rows[row].as_ptr().add(line * LINE).cast()) };
                let [four, fifth] = decoder.decode(bytes);
                fields[row] = [four, _mm512_srli_epi16::<4>(four), _mm512_srli_epi16::<4>(fifth)];
            }
            for digit in 0..DIGITS {
                let (from, place) = FIELDS[digit];
                let mut codes = [_mm512_setzero_si512(); 2];
                for row in 0..2 {
                    codes[row] = _mm512_and_si512(fields[row][from], decoder.masks[place]);
                }
                for token in 0..N {
                    let at = (line * DIGITS + digit) * LINE;
                    // SAFETY: tokens have 320 activations for each line (the kernel's contract).
                    let x = unsafe { _mm512_loadu_si512(tokens[token].as_ptr().add(at).cast()) };
                    for row in 0..2 {
                        sums[row][token][place] = _mm512_dpbusd_epi32(sums[row][token][place], codes[row], x);
                    }
                }
            }
        }
        let mut totals = [[_mm512_setzero_si512(); 4]; 2];
        for token in 0..N {
            for row in 0..2 {
                let [one, four] = sums[row][token];
                totals[token / 2][token % 2 * 2 + row] = _mm512_add_epi32(one, _mm512_srai_epi32::<2>(four));
            }
        }
        let totals = [across(totals[0]), if N > 2 { across(totals[1]) } else { [0; 4] }];
        for token in 0..N {
            let at = token * list.len() + 2 * pair;
            for row in 0..places.len() {
                out[at + row] = totals[token / 2][token % 2 * 2 + row];
            }
        }
    }
}

/// The sums of the lanes of four vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn across([a, b, c, d]: [__m512i; 4]) -> [i32; 4] {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    let all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64::<1>(all));
    let sums = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
    let mut out = [0; 4];
    // SAFETY: 16 writable bytes; the store needs no alignment.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), sums) };
    out
}

/// Fetches the first rows of a list; returns how many rows ahead others are to be fetched.
#[inline]
#[target_feature(enable = "avx512f")]
fn fetch_first(bytes: &[u8], row_bytes: usize, list: &[u32]) -> usize {
    let ahead = (ROWS_AHEAD / row_bytes).max(1);
    for place in &list[..ahead.min(list.len())] {
        for line in (0..row_bytes).step_by(LINE) {
            fetch(bytes.as_ptr().wrapping_add(*place as usize * row_bytes + line));
        }
    }
    ahead
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn columns(slice: &[u8], places: &[u32], tokens: &[&[i8]], sums: &mut [[i32; LINE_WEIGHTS]]) {
    match (tokens, sums) {
        // The registers hold the sums of half a slice, or of a quarter with several tokens, beside what decoding needs.
        ([a], [s, ..]) => columns_of::<1, 2>([a], slice, places, [s]),
        ([a, b], [s, t, ..]) => columns_of::<2, 1>([a, b], slice, places, [s, t]),
        ([a, b, c], [s, t, u, ..]) => columns_of::<3, 1>([a, b, c], slice, places, [s, t, u]),
        ([a, b, c, d], [s, t, u, v, ..]) => columns_of::<4, 1>([a, b, c, d], slice, places, [s, t, u, v]),
        _ => unreachable!("one to four tokens and their sums"),
    }
}

/// Sums of a slice for `N` tokens, `M` times 16 rows of each digit at a time.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
#[expect(clippy::needless_range_loop, reason = "one number goes through registers of fields, activations and sums")]
fn columns_of<const N: usize, const M: usize>(
    tokens: [&[i8]; N],
    slice: &[u8],
    places: &[u32],
    sums: [&mut [i32; LINE_WEIGHTS]; N],
) {
    let (decoder, all) = (Decoder::new(), tokens[0].len() / 4);
    let places: &[u32] = &places[..4 * all + super::AHEAD];
    // Places reach beyond the last column by more than twice what goes together.
    // SAFETY: of numbers up to the last column's and twice as many as go together, which are less than are ahead.
    let line = |number: usize| unsafe { slice.as_ptr().wrapping_add(*places.get_unchecked(number) as usize * LINE) };
    for number in 0..4 * QUADS {
        fetch(line(number));
    }
    assert!(tokens.iter().all(|x| x.len() == 4 * all), "tokens of as many columns, a multiple of four");
    for first in (0..all).step_by(QUADS) {
        let quads = QUADS.min(all - first);
        for turn in 0..4 / M {
            // The sixteens of rows of each digit, of four.
            let sixteen = turn * M;
            let mut acc = [[[_mm512_setzero_si512(); DIGITS]; M]; N];
            for q in 0..quads {
                let number = 4 * (first + q);
                // Each turn fetches a part of the lines that the next fours of columns will need.
                for step in M * q..M * (q + 1) {
                    fetch(line(4 * (first + QUADS) + turn * M * QUADS + step));
                }
                // SAFETY: places are lines of the slice (the kernel's contract).
                let [a, b, c, d] = unsafe {
                    [
                        _mm512_loadu_si512(line(number).cast()),
                        _mm512_loadu_si512(line(number + 1).cast()),
                        _mm512_loadu_si512(line(number + 2).cast()),
                        _mm512_loadu_si512(line(number + 3).cast()),
                    ]
                };
                let (ab, cd) = if sixteen < 2 {
                    (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d))
                } else {
                    (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d))
                };
                let mut x = [_mm512_setzero_si512(); N];
                for token in 0..N {
                    // SAFETY: four activations of each token (checked above).
                    x[token] =
                        unsafe { _mm512_set1_epi32(tokens[token].as_ptr().add(number).cast::<i32>().read_unaligned()) };
                }
                for m in 0..M {
                    let four = if (sixteen + m).is_multiple_of(2) {
                        _mm512_unpacklo_epi16(ab, cd)
                    } else {
                        _mm512_unpackhi_epi16(ab, cd)
                    };
                    let fields = decoder.decode(four);
                    for digit in 0..DIGITS {
                        let field = decoder.field(fields, digit);
                        for token in 0..N {
                            acc[token][m][digit] = _mm512_dpbusd_epi32(acc[token][m][digit], field, x[token]);
                        }
                    }
                }
            }
            for token in 0..N {
                for m in 0..M {
                    for digit in 0..DIGITS {
                        let at = sums[token][64 * digit + 16 * (sixteen + m)..][..16].as_mut_ptr();
                        // SAFETY: 16 readable and writable sums; no access needs alignment.
                        unsafe {
                            let before =
                                if first == 0 { _mm512_setzero_si512() } else { _mm512_loadu_si512(at.cast()) };
                            let shift = _mm_cvtsi32_si128(2 * digit.min(3) as i32);
                            let more = _mm512_sra_epi32(acc[token][m][digit], shift);
                            _mm512_storeu_si512(at.cast(), _mm512_add_epi32(before, more));
                        }
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

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn active(tokens: &[&[i8]], places: &[u32], active: &mut Active) {
    let (whole, rest) = places.as_chunks::<16>();
    active.places.reserve(places.len() + 16);
    active.x.iter_mut().take(tokens.len()).for_each(|x| x.reserve(places.len() + 16));
    for (at, places) in whole.iter().enumerate() {
        let mut any = _mm512_setzero_si512();
        let mut x = [_mm512_setzero_si512(); MAX_TOKENS];
        for (x, token) in x.iter_mut().zip(tokens) {
            let token: &[i8; 16] = &token[16 * at..].as_chunks().0[0];
            // SAFETY: 16 readable bytes; the load needs no alignment.
            *x = _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(token.as_ptr().cast()) });
            any = _mm512_or_si512(any, *x);
        }
        let (mask, len) = (_mm512_test_epi32_mask(any, any), active.places.len());
        // SAFETY: 16 places, and room for as many more of everything (reserved above), of which those that the mask tells are
        // written; no access needs alignment.
        unsafe {
            let places = _mm512_maskz_compress_epi32(mask, _mm512_loadu_si512(places.as_ptr().cast()));
            _mm512_storeu_si512(active.places.as_mut_ptr().add(len).cast(), places);
            active.places.set_len(len + mask.count_ones() as usize);
            for (x, active) in x.iter().zip(&mut active.x).take(tokens.len()) {
                let x = _mm512_cvtepi32_epi8(_mm512_maskz_compress_epi32(mask, *x));
                _mm_storeu_si128(active.as_mut_ptr().add(len).cast(), x);
                active.set_len(len + mask.count_ones() as usize);
            }
        }
    }
    let mut rests = [&[][..]; MAX_TOKENS];
    rests.iter_mut().zip(tokens).for_each(|(rest, x)| *rest = &x[16 * whole.len()..]);
    super::scalar::active(&rests[..tokens.len()], rest, active);
}

/// How far a field's two bits are rotated to be the first, second, third or fourth of a byte.
#[inline]
#[target_feature(enable = "avx512f")]
fn rotations(digit: usize) -> __m512i {
    let by = |place: i32| (2 * place - 2 * digit.min(3) as i32).rem_euclid(32);
    let four = _mm_setr_epi32(by(0), by(1), by(2), by(3));
    _mm512_broadcast_i32x4(four)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn codes_of_rows(block: &[u8], cols: usize, tiles: &mut [u8]) {
    let (decoder, places) = (Decoder::new(), super::places::Places::of_block());
    let (row_bytes, tile_bytes) = (cols.div_ceil(LINE_WEIGHTS) * LINE, cols.div_ceil(CODES_COLS) * CODES_BYTES);
    for (sixteen, places) in places.of.as_chunks::<16>().0.iter().enumerate() {
        let next = block.as_ptr().wrapping_add((sixteen + 4) * 16 * row_bytes);
        // The last block of rows may have one tile.
        let Some(tile) = tiles.get_mut(sixteen / 2 * tile_bytes..(sixteen / 2 + 1) * tile_bytes) else { return };
        for at in (0..row_bytes).step_by(LINE) {
            let mut fields = [[_mm512_setzero_si512(); 2]; 16];
            for row in 0..16 {
                let line = &block[places[row] as usize * row_bytes + at..].as_chunks::<LINE>().0[0];
                // Lines are read in no order: those of the next block are fetched as they lie.
                fetch(next.wrapping_add(row * row_bytes + at));
                fields[row] = decoder.decode(load(line));
            }
            for digit in 0..DIGITS {
                let first = at / LINE * (LINE_WEIGHTS / CODES_COLS) + digit * (LINE / CODES_COLS);
                let rotations = rotations(digit);
                let mut fours = [_mm512_setzero_si512(); 4];
                for (four, of_four) in fours.iter_mut().zip(fields.as_chunks::<4>().0) {
                    let mut rows = [_mm512_setzero_si512(); 4];
                    for row in 0..4 {
                        rows[row] = _mm512_rolv_epi32(decoder.field(of_four[row], digit), rotations);
                    }
                    *four = joined(rows);
                }
                for (block, line) in transposed(fours).into_iter().enumerate() {
                    let at = (first + block) * CODES_BYTES + sixteen % 2 * LINE;
                    if let Some(out) = tile.get_mut(at..at + LINE) {
                        // SAFETY: 64 writable bytes; the store needs no alignment.
                        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), line) };
                    }
                }
            }
        }
    }
}

/// Of four rows, each with four int32 in every quarter: a quarter with the four rows' int32, each the four it had in one.
#[inline]
#[target_feature(enable = "avx512f")]
fn joined([a, b, c, d]: [__m512i; 4]) -> __m512i {
    let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
    let low = _mm512_or_si512(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let high = _mm512_or_si512(_mm512_unpacklo_epi64(ab_high, cd_high), _mm512_unpackhi_epi64(ab_high, cd_high));
    _mm512_or_si512(low, high)
}

/// Quarters of four vectors, the first of all in the first, and so on.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transposed([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (ab, cd) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d));
    let (ab_high, cd_high) = (_mm512_shuffle_i32x4::<0xee>(a, b), _mm512_shuffle_i32x4::<0xee>(c, d));
    [
        _mm512_shuffle_i32x4::<0x88>(ab, cd),
        _mm512_shuffle_i32x4::<0xdd>(ab, cd),
        _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high),
        _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high),
    ]
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn codes_of_columns(slice: &[u8], all: &[u32], tiles: &mut [u8]) {
    let (decoder, zero) = (Decoder::new(), [FIVES.zeros(); LINE]);
    let tile_bytes = all.len().div_ceil(CODES_COLS) * CODES_BYTES;
    for (block, places) in all.chunks(CODES_COLS).enumerate() {
        let mut lines = [load(&zero); CODES_COLS];
        for place in all.iter().skip((block + BLOCKS_AHEAD) * CODES_COLS).take(CODES_COLS) {
            fetch(slice.as_ptr().wrapping_add(*place as usize * LINE));
        }
        for (line, place) in lines.iter_mut().zip(places) {
            *line = load(&slice[*place as usize * LINE..].as_chunks().0[0]);
        }
        for m in 0..4 {
            let mut codes = [_mm512_setzero_si512(); DIGITS];
            for (quad, lines) in lines.as_chunks::<4>().0.iter().enumerate() {
                let fields = decoder.decode(side_by_side(*lines, m));
                for (digit, codes) in codes.iter_mut().enumerate() {
                    let by = (2 * quad as i32 - 2 * digit.min(3) as i32).rem_euclid(32);
                    let field = _mm512_rolv_epi32(decoder.field(fields, digit), _mm512_set1_epi32(by));
                    *codes = _mm512_or_si512(*codes, field);
                }
            }
            for (digit, codes) in codes.into_iter().enumerate() {
                let at = (2 * digit + m / 2) * tile_bytes + block * CODES_BYTES + m % 2 * LINE;
                if let Some(out) = tiles.get_mut(at..at + LINE) {
                    // SAFETY: 64 writable bytes; the store needs no alignment.
                    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), codes) };
                }
            }
        }
    }
}

/// The bytes of four columns in turn, for the sixteens of rows with number `m` of each digit.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn side_by_side([a, b, c, d]: [__m512i; 4], m: usize) -> __m512i {
    let (ab, cd) = if m < 2 {
        (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d))
    } else {
        (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d))
    };
    if m.is_multiple_of(2) { _mm512_unpacklo_epi16(ab, cd) } else { _mm512_unpackhi_epi16(ab, cd) }
}

const _: () = assert!(BLOCK_ROWS == 2 * TILE_ROWS && LINE_WEIGHTS == 10 * TILE_ROWS);
