//! Activations quantised to int8, per token, with whatever the kernels want prepared from them.
//!
//! Linears that share an input (q, k and v; gate and up) share one value of this type: quantised once, prepared once.

use super::kernel::{Preparation, TernaryKernel, Token};
use super::layout::TRIOS_COLS;
use super::padded_cols;
use crate::dispatch::Kernels;
use crate::isa::Isa;
use crate::pool::{Pool, SharedMut};
use std::ops::Range;

/// Rows are padded to a multiple of this, with zeros: to whole blocks of every layout.
const STRIDE_ALIGN: usize = TRIOS_COLS;

/// `tokens` rows of `cols` int8 activations and their quantisation factors.
#[derive(Debug)]
pub struct Activations {
    isa: Isa,
    cols: usize,
    tokens: usize,
    stride: usize,
    quantized: Vec<i8>,
    factors: Vec<f32>,
    sums: Vec<i32>,
    /// What `prepared` was made by, where it was made.
    preparation: Option<&'static Preparation>,
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
            sums: Vec::new(),
            preparation: None,
            prepared: Vec::new(),
        }
    }

    fn resize(&mut self, kernels: &Kernels, tokens: usize, cols: usize) {
        assert!(kernels.isa == self.isa, "activations of {}, kernels of {}", self.isa, kernels.isa);
        (self.cols, self.tokens, self.stride) = (cols, tokens, cols.next_multiple_of(STRIDE_ALIGN));
        self.quantized.resize(tokens * self.stride, 0);
        self.factors.resize(tokens, 1.0);
        self.sums.resize(tokens, 0);
        self.preparation = None;
    }

    /// Makes what `kernel` wants of these activations, unless it is there already.
    pub(super) fn prepare(&mut self, kernel: &TernaryKernel, pool: &Pool) {
        let Some(preparation) = kernel.preparation else { return };
        if self.preparation.is_some_and(|made| std::ptr::eq(made, preparation)) {
            return;
        }
        let (cols, stride, quantized) = (padded_cols(self.cols), self.stride, &self.quantized);
        let len = (preparation.len)(cols);
        self.prepared.resize(self.tokens * len, 0);
        pool.for_each_chunk(&mut self.prepared, len.max(1), |token, prepared| {
            // SAFETY: the CPU has the ISA of the kernel (`TernaryKernel`); both slices are of these columns.
            unsafe { (preparation.fill)(&quantized[token * stride..][..cols], prepared) };
        });
        self.preparation = Some(preparation);
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
        let (factors, sums) = (SharedMut::new(&mut self.factors), SharedMut::new(&mut self.sums));
        pool.for_each_chunk(&mut self.quantized, stride, |token, q| {
            // SAFETY: each task owns its token's factor and sum.
            let (factor, sum) = unsafe { (&mut factors.slice(token, 1)[0], &mut sums.slice(token, 1)[0]) };
            *factor = kernels.quantize(&x[token * cols..(token + 1) * cols], &mut q[..cols]);
            *sum = finish_row(kernels, q, cols);
        });
    }

    /// Takes int8 activations as they are (`[tokens, cols]`), with factors of 1.
    ///
    /// # Panics
    /// If `q.len()` is not a multiple of `cols`.
    pub fn set(&mut self, kernels: &Kernels, q: &[i8], cols: usize) {
        assert!(cols > 0 && q.len().is_multiple_of(cols), "{} values are not rows of {cols}", q.len());
        self.resize(kernels, q.len() / cols, cols);
        self.factors.fill(1.0);
        let rows = self.quantized.chunks_exact_mut(self.stride).zip(q.chunks_exact(cols));
        for ((to, from), sum) in rows.zip(&mut self.sums) {
            to[..cols].copy_from_slice(from);
            *sum = finish_row(kernels, to, cols);
        }
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

    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    pub(super) fn quantized_from(&self, token: usize) -> &[i8] {
        &self.quantized[token * self.stride..]
    }

    pub(super) fn factors_mut(&mut self) -> &mut Vec<f32> {
        &mut self.factors
    }

    /// One token as `kernel` takes it, in whole blocks of its layout; [`Activations::prepare`] comes first.
    pub(super) fn token(&self, token: usize, kernel: &TernaryKernel) -> Token<'_> {
        let prepared = match kernel.preparation {
            None => &[][..],
            Some(preparation) => {
                let len = (preparation.len)(padded_cols(self.cols));
                &self.prepared[token * len..(token + 1) * len]
            }
        };
        let quantized = &self.quantized[token * self.stride..][..kernel.layout.padded(self.cols)];
        Token { quantized, sum: self.sums[token], prepared }
    }

    /// The sums of each token's groups of `cols` columns, `[tokens][groups]`.
    pub(super) fn sums_of_groups(&self, cols: usize, sums: &mut Vec<i32>) {
        sums.clear();
        let rows = self.quantized.chunks_exact(self.stride).flat_map(|row| row[..self.cols].chunks(cols));
        sums.extend(rows.map(|group| group.iter().map(|q| i32::from(*q)).sum::<i32>()));
    }
}

/// Clears a row's padding, which may hold what a wider row left; returns the row's sum.
fn finish_row(kernels: &Kernels, q: &mut [i8], cols: usize) -> i32 {
    q[cols..].fill(0);
    // SAFETY: the CPU has the ISA of these kernels; it asks for nothing else.
    unsafe { (kernels.ternary.sum)(q) }
}

impl<'a> Token<'a> {
    /// Some columns, whole multiples of 16, whose activations sum to `sum`.
    pub(super) fn columns(self, columns: Range<usize>, sum: i32, kernel: &TernaryKernel) -> Token<'a> {
        let prepared = match kernel.preparation {
            None => self.prepared,
            // What is prepared for a column depends on its multiple of 16 alone.
            Some(preparation) => &self.prepared[(preparation.len)(columns.start)..(preparation.len)(columns.end)],
        };
        Token { quantized: &self.quantized[columns], sum, prepared }
    }
}
