//! The measuring kernels in plain Rust.

use super::{BLOCK_BYTES, MeasureKernels, PEAK_BYTES, PEAK_WEIGHTS, RUN_BYTES, STREAMS, TOKENS};

pub(super) const KERNELS: MeasureKernels =
    MeasureKernels { read, multiply, peak, peak_products: PEAK_BYTES * PEAK_WEIGHTS };

/// Words read from one stream before it is the next one's turn.
const RUN_WORDS: usize = RUN_BYTES / 8;

fn read(bytes: &[u8]) -> u64 {
    let mut all = [0u64; RUN_WORDS];
    let words = bytes.as_chunks::<8>().0;
    let stream = words.len() / STREAMS;
    for run in (0..stream).step_by(RUN_WORDS) {
        for words in words.chunks_exact(stream) {
            for (all, word) in all.iter_mut().zip(&words[run..run + RUN_WORDS]) {
                *all ^= u64::from_le_bytes(*word);
            }
        }
    }
    all.iter().fold(0, |all, word| all ^ word)
}

fn multiply(weights: &[u8], blocks: usize, x: &[i8], out: &mut [i32]) {
    let parts = x.as_chunks::<BLOCK_BYTES>().0;
    for (row, out) in weights.chunks_exact(blocks * BLOCK_BYTES).zip(out.as_chunks_mut::<TOKENS>().0) {
        out.fill(0);
        for (packed, parts) in row.as_chunks::<BLOCK_BYTES>().0.iter().zip(parts.chunks_exact(4 * TOKENS)) {
            for (part, tokens) in parts.chunks_exact(TOKENS).enumerate() {
                let codes = packed.map(|byte| i16::from(byte >> (6 - 2 * part) & 3) - 1);
                for (sum, x) in out.iter_mut().zip(tokens) {
                    *sum += codes.iter().zip(x).map(|(code, x)| i32::from(*code * i16::from(*x))).sum::<i32>();
                }
            }
        }
    }
}

fn peak(x: &[i8; PEAK_BYTES], rounds: usize) -> i32 {
    let mut sums = [0i32; PEAK_WEIGHTS];
    for round in 0..rounds {
        // Other weights each time, or a compiler might do one round and multiply.
        let first = (round % PEAK_WEIGHTS) as i32;
        for (weight, sum) in (first..).zip(&mut sums) {
            *sum = x.iter().fold(*sum, |sum, x| sum.wrapping_add(weight * i32::from(*x)));
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}
