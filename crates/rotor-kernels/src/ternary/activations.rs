//! Activations quantised to int8, per token, with whatever the kernels want prepared from them.
//!
//! Linears that share an input (q, k and v; gate and up) share one value of this type: quantised once, prepared once.

use super::padded_cols;
use crate::dispatch::Kernels;
use crate::isa::Isa;
use crate::pool::Pool;

/// `tokens` rows of `cols` int8 activations and their quantisation factors.
#[derive(Debug)]
pub struct Activations {
    isa: Isa,
    cols: usize,
    tokens: usize,
    stride: usize,
    quantized: Vec<i8>,
    factors: Vec<f32>,
    prepared_len: usize,
    prepared: Vec<u8>,
}

impl Activations {
    /// Empty activations; [`Activations::quantize`] fills and grows them.
    pub fn new(kernels: &Kernels) -> Activations {
        Activations {
            isa: kernels.isa,
            cols: 0,
            tokens: 0,
            stride: 0,
            quantized: Vec::new(),
            factors: Vec::new(),
            prepared_len: 0,
            prepared: Vec::new(),
        }
    }

    fn resize(&mut self, kernels: &Kernels, tokens: usize, cols: usize) {
        assert!(kernels.isa == self.isa, "activations of {}, kernels of {}", self.isa, kernels.isa);
        (self.cols, self.tokens, self.stride) = (cols, tokens, padded_cols(cols));
        self.prepared_len = (kernels.ternary.prepared_len)(self.stride);
        // Cleared first: a narrower row must not inherit a wider one's values as padding.
        self.quantized.clear();
        self.quantized.resize(tokens * self.stride, 0);
        self.factors.resize(tokens, 1.0);
        let prepared = if self.wants_prepared(kernels) { tokens * self.prepared_len } else { 0 };
        self.prepared.resize(prepared, 0);
    }

    fn wants_prepared(&self, kernels: &Kernels) -> bool {
        kernels.ternary.many.as_ref().is_none_or(|many| self.tokens < many.min_tokens)
    }

    fn prepare(&mut self, kernels: &Kernels, pool: &Pool) {
        if self.wants_prepared(kernels) && self.prepared_len > 0 {
            let (quantized, stride) = (&self.quantized, self.stride);
            pool.for_each_chunk(&mut self.prepared, self.prepared_len, |token, prepared| {
                // SAFETY: the CPU has the ISA of these kernels; both slices have the lengths `prepared_len` defines.
                unsafe { (kernels.ternary.prepare)(&quantized[token * stride..(token + 1) * stride], prepared) };
            });
        }
    }

    /// Quantises `x` (`[tokens, cols]`, f32) per token: `s = 127 / max(|x|, 1e-5)`, `q = round_half_even(x * s)`.
    ///
    /// A token with a NaN or an infinity has no meaningful maximum: its factor becomes NaN, which carries on to every output.
    ///
    /// # Panics
    /// If `x.len()` is not a multiple of `cols`.
    pub fn quantize(&mut self, kernels: &Kernels, pool: &Pool, x: &[f32], cols: usize) {
        assert!(cols > 0 && x.len().is_multiple_of(cols), "{} values are not rows of {cols}", x.len());
        self.resize(kernels, x.len() / cols, cols);
        let stride = self.stride;
        let (quantized, factors) = (&mut self.quantized, crate::pool::SharedMut::new(&mut self.factors));
        pool.for_each_chunk(quantized, stride, |token, q| {
            // SAFETY: each task owns its token's factor.
            let factor = unsafe { &mut factors.slice(token, 1)[0] };
            *factor = kernels.quantize(&x[token * cols..(token + 1) * cols], &mut q[..cols]);
        });
        self.prepare(kernels, pool);
    }

    /// Takes int8 activations as they are (`[tokens, cols]`), with factors of 1.
    ///
    /// # Panics
    /// If `q.len()` is not a multiple of `cols`.
    pub fn set(&mut self, kernels: &Kernels, pool: &Pool, q: &[i8], cols: usize) {
        assert!(cols > 0 && q.len().is_multiple_of(cols), "{} values are not rows of {cols}", q.len());
        self.resize(kernels, q.len() / cols, cols);
        self.factors.fill(1.0);
        for (to, from) in self.quantized.chunks_exact_mut(self.stride).zip(q.chunks_exact(cols)) {
            to[..cols].copy_from_slice(from);
        }
        self.prepare(kernels, pool);
    }

    /// Features per token.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The quantisation factor `s` of each token.
    pub fn factors(&self) -> &[f32] {
        &self.factors
    }

    /// The int8 values of one token.
    pub fn row(&self, token: usize) -> &[i8] {
        &self.quantized[token * self.stride..token * self.stride + self.cols]
    }

    /// Whether the few-token kernels have what they need; where there are enough tokens for the others it is not made.
    pub fn is_prepared(&self) -> bool {
        self.prepared.len() == self.tokens * self.prepared_len
    }

    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    pub(super) fn quantized_from(&self, token: usize) -> &[i8] {
        &self.quantized[token * self.stride..]
    }

    pub(super) fn prepared(&self, token: usize) -> &[u8] {
        &self.prepared[token * self.prepared_len..(token + 1) * self.prepared_len]
    }
}
