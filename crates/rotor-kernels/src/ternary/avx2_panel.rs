//! Some tokens by multiplication for AVX2: planes unpacked to a byte per weight, once for all tokens of a step.
//!
//! Tables of 16 sums are looked up anew for each token, eight shuffles and additions for 4 columns of 32 rows; so are eight
//! multiplications and additions, `vpmaddubsw` and `vpaddw`, but these need nothing prepared that would crowd a cache, and no
//! shuffles, of which many CPUs do one a cycle. Tables of 81 sums are for 16 tokens, whether so many are there or not.
//!
//! The byte of a weight is `u = weight + 1`: the bit of `P` plus the inverted bit of `N`, added in fields of two bits, the even
//! bits of 32 bytes and the odd ones. `vpmaddubsw` multiplies four columns of 8 rows by four activations and adds them in
//! pairs, one int16 for columns 0 and 1, one for columns 2 and 3. The pairs meet when they are widened.
//!
//! Bounds. A pair's products sum to `2 * 2 * -128 = -512` at least and to `2 * 2 * 127 = 508` at most. 64 of them are `-32768`
//! and `32512`, which an int16 holds exactly. Then they are added to int32.

use super::avx2::load;
use super::kernel::{Arrangement, PanelKernels, PanelTokens};
use super::{TILE_ROWS, UNIT_BYTES, UNIT_COLS};
use std::arch::x86_64::*;

pub(super) const PANEL: PanelKernels = PanelKernels {
    min_tokens: 5,
    // The tables take more, so that there is one pass.
    tokens: 15,
    arrangement: Arrangement::SideBySide,
    input_bytes: 1 << 20,
    unpack,
    multiply,
};

/// Bytes of a vector.
const LINE: usize = 32;
/// Bytes of four columns of a panel: lines with rows 0-3 and 16-19, 4-7 and 20-23, 8-11 and 24-27, 12-15 and 28-31.
const QUAD: usize = 4 * TILE_ROWS;
/// Quads whose sums fit int16.
const QUADS_PER_FLUSH: usize = 64;
/// Tokens whose sums fit the registers, for half of the rows.
const TOKENS: usize = 6;
/// How far ahead weights are fetched, in bytes, as in [`super::avx2`].
const PREFETCH: usize = 8192;

/// Planes to bytes. Each step interleaves neighbours: columns 0 and 1 of a row, then 2 and 3.
#[target_feature(enable = "avx2")]
fn unpack(tile: &[u8], cols: usize, panel: &mut [u8]) {
    let (even, mask) = (_mm256_set1_epi8(0x55), _mm256_set1_epi8(3));
    let units = &tile.as_chunks::<UNIT_BYTES>().0[..cols / UNIT_COLS];
    for (unit, quads) in units.iter().zip(panel.as_chunks_mut::<{ 2 * QUAD }>().0) {
        _mm_prefetch::<_MM_HINT_T1>(unit.as_ptr().wrapping_add(PREFETCH).cast());
        let (plus, minus) = (load(&unit.as_chunks().0[0]), load(&unit.as_chunks().0[1]));
        // Four fields to a byte.
        let fields = |plus, minus| _mm256_add_epi8(_mm256_and_si256(plus, even), _mm256_andnot_si256(minus, even));
        let even = fields(plus, minus);
        let odd = fields(_mm256_srli_epi16::<1>(plus), _mm256_srli_epi16::<1>(minus));
        let lines = quads.as_chunks_mut::<LINE>().0;
        for (half, pairs) in [_mm256_unpacklo_epi8(even, odd), _mm256_unpackhi_epi8(even, odd)].into_iter().enumerate()
        {
            let next = _mm256_srli_epi16::<2>(pairs);
            let fours = [_mm256_unpacklo_epi16(pairs, next), _mm256_unpackhi_epi16(pairs, next)];
            for (line, fours) in fours.into_iter().enumerate() {
                store(_mm256_and_si256(fours, mask), &mut lines[2 * half + line]);
                store(_mm256_and_si256(_mm256_srli_epi16::<4>(fours), mask), &mut lines[4 + 2 * half + line]);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(value: __m256i, out: &mut [u8; LINE]) {
    // SAFETY: 32 writable bytes; the store needs no alignment.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), value) };
}

#[target_feature(enable = "avx2")]
fn multiply(panel: &[u8], input: PanelTokens<'_>, out: &mut [[i32; TILE_ROWS]]) {
    let parts = input.tokens.div_ceil(TOKENS);
    for half in 0..2 {
        for part in 0..parts {
            let first = input.tokens * part / parts;
            match input.tokens * (part + 1) / parts - first {
                1 => tokens_from::<1>(first, panel, half, input, out),
                2 => tokens_from::<2>(first, panel, half, input, out),
                3 => tokens_from::<3>(first, panel, half, input, out),
                4 => tokens_from::<4>(first, panel, half, input, out),
                5 => tokens_from::<5>(first, panel, half, input, out),
                6 => tokens_from::<6>(first, panel, half, input, out),
                _ => unreachable!("one to six tokens"),
            }
        }
    }
}

/// `N` tokens times the rows of two lines of each quad. (Inlined six times into one function, the loops are compiled with a
/// multiplication for every address and lose a tenth.)
#[inline(never)]
#[target_feature(enable = "avx2")]
fn tokens_from<const N: usize>(
    first: usize,
    panel: &[u8],
    half: usize,
    input: PanelTokens<'_>,
    out: &mut [[i32; TILE_ROWS]],
) {
    let x = input.x.as_chunks::<4>().0;
    let out = &mut out[first..first + N];
    for (quads, x) in panel.as_chunks::<QUAD>().0.chunks(QUADS_PER_FLUSH).zip(x.chunks(QUADS_PER_FLUSH * input.tokens))
    {
        let mut sums = [[_mm256_setzero_si256(); 2]; N];
        for (quad, x) in quads.iter().zip(x.chunks_exact(input.tokens)) {
            let x: &[[i8; 4]; N] = x[first..].first_chunk().expect("tokens of the pass");
            let lines = quad.as_chunks::<LINE>().0;
            let (upper, lower) = (load(&lines[2 * half]), load(&lines[2 * half + 1]));
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = _mm256_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned)));
                sums[0] = _mm256_add_epi16(sums[0], _mm256_maddubs_epi16(upper, x));
                sums[1] = _mm256_add_epi16(sums[1], _mm256_maddubs_epi16(lower, x));
            }
        }
        for (sums, out) in sums.into_iter().zip(out.iter_mut()) {
            let [upper, lower] = sums.map(|pairs| _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
            let eights = out.as_chunks_mut::<8>().0;
            accumulate(_mm256_permute2x128_si256::<0x20>(upper, lower), &mut eights[half]);
            accumulate(_mm256_permute2x128_si256::<0x31>(upper, lower), &mut eights[2 + half]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn accumulate(sums: __m256i, out: &mut [i32; 8]) {
    let at = out.as_mut_ptr().cast();
    // SAFETY: 32 readable and writable bytes; neither access needs alignment.
    unsafe { _mm256_storeu_si256(at, _mm256_add_epi32(_mm256_loadu_si256(at), sums)) };
}
