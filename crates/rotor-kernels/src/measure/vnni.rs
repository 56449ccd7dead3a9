//! How fast the integer dot products of AVX-VNNI and AVX-512 VNNI are, with their operands at hand.

use super::PEAK_BYTES;
use std::arch::x86_64::*;

#[target_feature(enable = "avx2,avxvnni")]
pub(super) fn peak_256(x: &[i8; PEAK_BYTES], rounds: usize) -> i32 {
    let weights: [__m256i; 4] = std::array::from_fn(|k| _mm256_set1_epi8(k as i8));
    let mut sums = [_mm256_setzero_si256(); 12];
    for _ in 0..rounds {
        for three in x.as_chunks::<96>().0 {
            for (x, sums) in three.as_chunks::<32>().0.iter().zip(sums.as_chunks_mut::<4>().0) {
                // SAFETY: 32 readable bytes; the load needs no alignment.
                let x = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = _mm256_dpbusd_avx_epi32(*sum, weights, x);
                }
            }
        }
    }
    let sum = sums.into_iter().fold(_mm256_setzero_si256(), |all, sum| _mm256_add_epi32(all, sum));
    _mm256_extract_epi32::<0>(sum)
}

#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) fn peak_512(x: &[i8; PEAK_BYTES], rounds: usize) -> i32 {
    let weights: [__m512i; 4] = std::array::from_fn(|k| _mm512_set1_epi8(k as i8));
    let mut sums = [_mm512_setzero_si512(); 12];
    for _ in 0..rounds {
        for three in x.as_chunks::<192>().0 {
            for (x, sums) in three.as_chunks::<64>().0.iter().zip(sums.as_chunks_mut::<4>().0) {
                // SAFETY: 64 readable bytes; the load needs no alignment.
                let x = unsafe { _mm512_loadu_si512(x.as_ptr().cast()) };
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = _mm512_dpbusd_epi32(*sum, weights, x);
                }
            }
        }
    }
    _mm512_reduce_add_epi32(sums.into_iter().fold(_mm512_setzero_si512(), |all, sum| _mm512_add_epi32(all, sum)))
}
