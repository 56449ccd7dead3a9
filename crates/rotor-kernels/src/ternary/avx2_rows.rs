//! Products along rows of stored planes for AVX2.
//!
//! With `u = weight + 1`, which is 0, 1 or 2, `vpmaddubsw` multiplies 32 weights by int8 activations at once, and the sum of
//! the activations is taken off at the end. `u` is the bit of `P` plus the inverted bit of `N`: added in fields of two bits,
//! the even bits of 32 bytes and the odd ones, eight vectors of weights come from two additions. A weight set in both planes
//! gives 1, that is 0.
//!
//! Bounds. A product of a pair is at most `2 * 2 * 128 = 512` in size; 32 of them per int16 (4 chunks of 8) make 16384, then
//! they are added to int32.

use super::planes::ROW_CHUNK;
use std::arch::x86_64::*;

/// Bytes of a plane that are taken at once.
const CHUNK: usize = ROW_CHUNK / 8;
/// Chunks whose sums fit int16.
const CHUNKS_PER_FLUSH: usize = 4;

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; CHUNK]) -> __m256i {
    // SAFETY: 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_x(x: &[i8; CHUNK]) -> __m256i {
    // SAFETY: as in `load`.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
pub(super) fn dot_rows(bit0: &[u8], bit1: &[u8], width: usize, x: &[i8], out: &mut [i32]) -> bool {
    // Not by flattening the chunks below: that is compiled to one element at a time and took longer than the products.
    let offset = super::avx2::sum(x);
    let x = x.as_chunks::<CHUNK>().0.as_chunks::<8>().0;
    let mut overlap = _mm256_setzero_si256();
    for (row, out) in out.iter_mut().enumerate() {
        let (plus, plus_rest) = bit0[row * width..(row + 1) * width].as_chunks::<CHUNK>();
        let (minus, minus_rest) = bit1[row * width..(row + 1) * width].as_chunks::<CHUNK>();
        let mut sums = _mm256_setzero_si256();
        let (x_whole, x_rest) = x.split_at(plus.len());
        let runs = plus.chunks(CHUNKS_PER_FLUSH).zip(minus.chunks(CHUNKS_PER_FLUSH));
        for ((plus, minus), x) in runs.zip(x_whole.chunks(CHUNKS_PER_FLUSH)) {
            let mut narrow = _mm256_setzero_si256();
            for ((plus, minus), x) in plus.iter().zip(minus).zip(x) {
                narrow = _mm256_add_epi16(narrow, dot_chunk(load(plus), load(minus), x, &mut overlap));
            }
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(narrow, _mm256_set1_epi16(1)));
        }
        if let [x] = x_rest {
            let mut padded = [[0; CHUNK]; 2];
            padded[0][..plus_rest.len()].copy_from_slice(plus_rest);
            padded[1][..minus_rest.len()].copy_from_slice(minus_rest);
            let narrow = dot_chunk(load(&padded[0]), load(&padded[1]), x, &mut overlap);
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(narrow, _mm256_set1_epi16(1)));
        }
        *out = horizontal_sum(sums) - offset;
    }
    _mm256_testz_si256(overlap, overlap) == 0
}

/// The int16 sums of 256 products, as the module head describes.
#[inline]
#[target_feature(enable = "avx2")]
fn dot_chunk(plus: __m256i, minus: __m256i, x: &[[i8; CHUNK]; 8], overlap: &mut __m256i) -> __m256i {
    let (every_other, pair) = (_mm256_set1_epi8(0x55), _mm256_set1_epi8(3));
    *overlap = _mm256_or_si256(*overlap, _mm256_and_si256(plus, minus));
    let even = |v| _mm256_and_si256(v, every_other);
    let odd = |v| _mm256_and_si256(_mm256_srli_epi16::<1>(v), every_other);
    let not_even = |v| _mm256_andnot_si256(v, every_other);
    let fields = [
        _mm256_add_epi8(even(plus), not_even(minus)),
        _mm256_add_epi8(odd(plus), not_even(_mm256_srli_epi16::<1>(minus))),
    ];
    let weights = |shifted| _mm256_and_si256(shifted, pair);
    let mut sums = _mm256_setzero_si256();
    for (bit, fields) in fields.into_iter().enumerate() {
        let products = [
            _mm256_maddubs_epi16(weights(fields), load_x(&x[bit])),
            _mm256_maddubs_epi16(weights(_mm256_srli_epi16::<2>(fields)), load_x(&x[bit + 2])),
            _mm256_maddubs_epi16(weights(_mm256_srli_epi16::<4>(fields)), load_x(&x[bit + 4])),
            _mm256_maddubs_epi16(weights(_mm256_srli_epi16::<6>(fields)), load_x(&x[bit + 6])),
        ];
        for product in products {
            sums = _mm256_add_epi16(sums, product);
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn horizontal_sum(sums: __m256i) -> i32 {
    let half = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let quarter = _mm_add_epi32(half, _mm_unpackhi_epi64(half, half));
    _mm_cvtsi128_si32(_mm_add_epi32(quarter, _mm_shuffle_epi32::<1>(quarter)))
}
