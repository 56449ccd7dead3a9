//! The reference: the sums in their plainest order, which every ISA keeps.

use super::{AttentionKernels, BLOCK, Next, Numbers, Softmax};

pub(crate) static KERNELS: AttentionKernels = AttentionKernels { scores, softmax, accumulate, decode };

fn scores(q: &[f32], keys: Numbers<'_>, _: Next<'_>, scores: &mut [[f32; BLOCK]]) {
    let dims = keys.len() / BLOCK;
    for (q, scores) in q.chunks_exact(dims).zip(scores) {
        scores.fill(0.0);
        for (dim, q) in q.iter().enumerate() {
            for (position, score) in scores.iter_mut().enumerate() {
                *score += q * keys.get(dim * BLOCK + position);
            }
        }
    }
}

fn softmax(scores: &mut [f32; BLOCK], n: usize, scale: f32, state: &mut Softmax) -> f32 {
    let (live, masked) = scores.split_at_mut(n);
    masked.fill(0.0);
    let max = live.iter().fold(state.max, |max, s| max.max(s * scale));
    for score in live.iter_mut() {
        *score = (*score * scale - max).exp();
    }
    let shrink = (state.max - max).exp();
    *state = Softmax { max, sum: state.sum * shrink + live.iter().sum::<f32>() };
    shrink
}

fn accumulate(out: &mut [f32], shrink: &[f32], p: &[[f32; BLOCK]], values: Numbers<'_>, _: Next<'_>) {
    let dims = out.len() / shrink.len();
    for ((out, shrink), p) in out.chunks_exact_mut(dims).zip(shrink).zip(p) {
        for out in out.iter_mut() {
            *out *= shrink;
        }
        for (position, p) in p[..values.len() / dims].iter().enumerate() {
            for (dim, out) in out.iter_mut().enumerate() {
                *out += p * values.get(position * dims + dim);
            }
        }
    }
}

fn decode(from: Numbers<'_>, to: &mut [f32]) {
    for (index, to) in to.iter_mut().enumerate() {
        *to = from.get(index);
    }
}
