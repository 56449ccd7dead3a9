//! The measuring kernels for AVX2.
//!
//! Bounds of the multiplication. A code is 0, 1 or 2 (`weight + 1`), so a pair of products is within `[-512, 508]`. A block
//! adds four pairs to each int16; after 16 blocks a sum is within `[-32768, 32512]`, which exactly fits. Then it goes to
//! int32. At the end the sum of the activations is taken off, because every code is one too large.

use super::{BLOCK_BYTES, MeasureKernels, PEAK_BYTES, PEAK_WEIGHTS, RUN_BYTES, STREAMS, TOKENS};
use std::arch::x86_64::*;

pub(super) const KERNELS: MeasureKernels =
    MeasureKernels { read, multiply, peak, peak_products: PEAK_BYTES * PEAK_WEIGHTS };

/// How far ahead of the loads lines are fetched to L2. On a 5th generation Xeon 4 KB gave the most (12.5 GB/s without, 14
/// with, on one core).
const AHEAD: usize = 4096;
/// Blocks whose sums fit int16.
const BLOCKS_PER_FLUSH: usize = 16;

#[inline]
#[target_feature(enable = "avx2")]
fn load<T>(bytes: &[T; 32]) -> __m256i {
    const { assert!(size_of::<T>() == 1) };
    // SAFETY: 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn read(bytes: &[u8]) -> u64 {
    let stream = bytes.len() / STREAMS;
    let mut all = [_mm256_setzero_si256(); 4];
    for run in (0..stream).step_by(RUN_BYTES) {
        for bytes in bytes.chunks_exact(stream) {
            let run = &bytes[run..run + RUN_BYTES];
            for line in (0..RUN_BYTES).step_by(64) {
                // A prefetch of an address that is not there does nothing.
                let ahead = run.as_ptr().wrapping_add(AHEAD + line);
                _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
            }
            for (index, bytes) in run.as_chunks::<32>().0.iter().enumerate() {
                all[index % 4] = _mm256_xor_si256(all[index % 4], load(bytes));
            }
        }
    }
    let all = _mm256_xor_si256(_mm256_xor_si256(all[0], all[1]), _mm256_xor_si256(all[2], all[3]));
    let half = _mm_xor_si128(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all));
    _mm_cvtsi128_si64(_mm_xor_si128(half, _mm_unpackhi_epi64(half, half))).cast_unsigned()
}

#[target_feature(enable = "avx2")]
fn multiply(weights: &[u8], blocks: usize, x: &[i8], out: &mut [i32]) {
    let x = x.as_chunks::<BLOCK_BYTES>().0.as_chunks::<{ 4 * TOKENS }>().0;
    let offsets: [i32; TOKENS] = std::array::from_fn(|token| {
        x.iter().flat_map(|block| block.iter().skip(token).step_by(TOKENS)).flatten().map(|x| i32::from(*x)).sum()
    });
    for (row, out) in weights.chunks_exact(blocks * BLOCK_BYTES).zip(out.as_chunks_mut::<TOKENS>().0) {
        let row = row.as_chunks::<BLOCK_BYTES>().0;
        let mut sums = [_mm256_setzero_si256(); TOKENS];
        for (row, x) in row.chunks(BLOCKS_PER_FLUSH).zip(x.chunks(BLOCKS_PER_FLUSH)) {
            for (sum, narrow) in sums.iter_mut().zip(multiply_blocks(row, x)) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(narrow, _mm256_set1_epi16(1)));
            }
        }
        for ((out, sum), offset) in out.iter_mut().zip(sums).zip(offsets) {
            *out = horizontal_sum(sum) - offset;
        }
    }
}

/// The int16 sums of up to 16 blocks, for each token.
#[inline]
#[target_feature(enable = "avx2")]
fn multiply_blocks(row: &[[u8; BLOCK_BYTES]], x: &[[[i8; 32]; 4 * TOKENS]]) -> [__m256i; TOKENS] {
    let pair = _mm256_set1_epi8(3);
    let mut sums = [_mm256_setzero_si256(); TOKENS];
    for (packed, x) in row.iter().zip(x) {
        let packed = load(packed);
        let parts = [
            _mm256_and_si256(_mm256_srli_epi16::<6>(packed), pair),
            _mm256_and_si256(_mm256_srli_epi16::<4>(packed), pair),
            _mm256_and_si256(_mm256_srli_epi16::<2>(packed), pair),
            _mm256_and_si256(packed, pair),
        ];
        for (codes, x) in parts.into_iter().zip(x.as_chunks::<TOKENS>().0) {
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(codes, load(x)));
            }
        }
    }
    sums
}

/// Sums wrap around: only their speed is wanted.
#[target_feature(enable = "avx2")]
fn peak(x: &[i8; PEAK_BYTES], rounds: usize) -> i32 {
    let weights: [__m256i; PEAK_WEIGHTS] = std::array::from_fn(|k| _mm256_set1_epi8(k as i8));
    let mut sums = [_mm256_setzero_si256(); 2 * PEAK_WEIGHTS];
    for _ in 0..rounds {
        for pair in x.as_chunks::<64>().0 {
            for (x, sums) in pair.as_chunks::<32>().0.iter().zip(sums.as_chunks_mut::<PEAK_WEIGHTS>().0) {
                let x = load(x);
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(weights, x));
                }
            }
        }
    }
    let sum = sums.into_iter().fold(_mm256_setzero_si256(), |all, sum| _mm256_add_epi32(all, sum));
    horizontal_sum(sum)
}

#[inline]
#[target_feature(enable = "avx2")]
fn horizontal_sum(sums: __m256i) -> i32 {
    let half = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let quarter = _mm_add_epi32(half, _mm_unpackhi_epi64(half, half));
    _mm_cvtsi128_si32(_mm_add_epi32(quarter, _mm_shuffle_epi32::<1>(quarter)))
}
