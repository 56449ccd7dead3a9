//! Activations quantised to int8, per token, with whatever the kernels want prepared from them.
//!
//! Linears that share an input (q, k and v; gate and up) share one value of this type: quantised once, prepared once.

use super::kernel::{Arrangement, MAX_FEW, MAX_PASS, PanelTokens, Preparation, TernaryKernel, Token};
use super::layout::TRIOS_COLS;
use super::padded_cols;
use crate::dispatch::Kernels;
use crate::isa::Isa;
use crate::lines::Lines;
use crate::pool::{Pool, SharedMut};
use std::ops::Range;

/// Rows are padded to a multiple of this, with zeros: to whole blocks of every layout, and to whole cache lines.
const STRIDE_ALIGN: usize = 2 * TRIOS_COLS;

/// `tokens` rows of `cols` int8 activations and their quantisation factors.
#[derive(Debug)]
pub struct Activations {
    isa: Isa,
    cols: usize,
    tokens: usize,
    stride: usize,
    quantized: Lines<i8>,
    factors: Vec<f32>,
    sums: Vec<i32>,
    /// What `prepared` was made by, where it was made.
    preparation: Option<&'static Preparation>,
    prepared: Vec<u8>,
    /// The tokens of each pass side by side, `[pass][columns / 4][tokens][4]`.
    interleaved: Vec<i8>,
    /// The passes that `interleaved` was made for; 0 where it was not made.
    interleaved_passes: usize,
    /// For each thread, a token before it is quantised.
    rows: Vec<Vec<f32>>,
}

impl Activations {
    /// Empty activations; [`Activations::quantize`] fills and grows them.
    pub fn new(kernels: &Kernels) -> Activations {
        Activations {
            isa: kernels.isa,
            cols: 0,
            tokens: 0,
            stride: 0,
            quantized: Lines::default(),
            factors: Vec::new(),
            sums: Vec::new(),
            preparation: None,
            prepared: Vec::new(),
            interleaved: Vec::new(),
            interleaved_passes: 0,
            rows: Vec::new(),
        }
    }

    fn resize(&mut self, kernels: &Kernels, tokens: usize, cols: usize) {
        assert!(kernels.isa == self.isa, "activations of {}, kernels of {}", self.isa, kernels.isa);
        (self.cols, self.tokens, self.stride) = (cols, tokens, cols.next_multiple_of(STRIDE_ALIGN));
        self.quantized.resize(tokens * self.stride);
        self.factors.resize(tokens, 1.0);
        self.sums.resize(tokens, 0);
        self.preparation = None;
        self.interleaved_passes = 0;
    }

    /// Makes what `kernel` wants of these activations, unless it is there already.
    pub(super) fn prepare(&mut self, kernel: &TernaryKernel, pool: &Pool) {
        if let Some(panel) = kernel.panel(self.tokens) {
            if panel.arrangement == Arrangement::SideBySide {
                self.interleave(self.passes(kernel), pool);
            }
            return;
        }
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

    fn interleave(&mut self, passes: usize, pool: &Pool) {
        if self.interleaved_passes == passes {
            return;
        }
        self.interleaved.resize(self.quantized.len(), 0);
        let (tokens, stride, quantized) = (self.tokens, self.stride, &self.quantized);
        let out = SharedMut::new(&mut self.interleaved);
        pool.run(passes, |_, pass| {
            let pass = pass_range(tokens, passes, pass);
            let rows = quantized[pass.start * stride..pass.end * stride].as_chunks::<4>().0;
            // SAFETY: each task owns the bytes of its tokens.
            let out = unsafe { out.slice(pass.start * stride, pass.len() * stride) };
            for (quad, out) in out.as_chunks_mut::<4>().0.chunks_exact_mut(pass.len()).enumerate() {
                for (out, x) in out.iter_mut().zip(rows[quad..].iter().step_by(stride / 4)) {
                    *out = *x;
                }
            }
        });
        self.interleaved_passes = passes;
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
        self.quantize_tokens(kernels, pool, |_, token, q| kernels.quantize(&x[token * cols..(token + 1) * cols], q));
    }

    /// Quantises what `fill(token, x)` makes of each of `tokens`, `cols` numbers that are nowhere kept as f32.
    ///
    /// # Panics
    /// If `cols` is 0.
    pub fn quantize_with(
        &mut self,
        kernels: &Kernels,
        pool: &Pool,
        (tokens, cols): (usize, usize),
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        assert!(cols > 0, "tokens without features");
        self.resize(kernels, tokens, cols);
        let mut rows = std::mem::take(&mut self.rows);
        rows.resize_with(pool.threads().max(rows.len()), Vec::new);
        let shared = SharedMut::new(&mut rows);
        self.quantize_tokens(kernels, pool, |worker, token, q| {
            // SAFETY: a worker runs one task at a time.
            let row = unsafe { &mut shared.slice(worker, 1)[0] };
            row.resize(row.len().max(cols), 0.0);
            fill(token, &mut row[..cols]);
            kernels.quantize(&row[..cols], q)
        });
        self.rows = rows;
    }

    /// `quantize(worker, token, q)` fills a token's row and returns its factor.
    fn quantize_tokens(
        &mut self,
        kernels: &Kernels,
        pool: &Pool,
        quantize: impl Fn(usize, usize, &mut [i8]) -> f32 + Sync,
    ) {
        let (cols, stride) = (self.cols, self.stride);
        let (factors, sums) = (SharedMut::new(&mut self.factors), SharedMut::new(&mut self.sums));
        let rows = SharedMut::new(&mut self.quantized);
        pool.run(self.tokens, |worker, token| {
            // SAFETY: each task owns its token's row, factor and sum.
            let (q, factor, sum) = unsafe {
                (rows.slice(token * stride, stride), &mut factors.slice(token, 1)[0], &mut sums.slice(token, 1)[0])
            };
            *factor = quantize(worker, token, &mut q[..cols]);
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

    /// How many passes over the weights `kernel` makes for all tokens.
    pub(super) fn passes(&self, kernel: &TernaryKernel) -> usize {
        self.tokens.div_ceil(kernel.panel(self.tokens).map_or(kernel.few_tokens, |panel| panel.tokens))
    }

    /// The tokens of one of these passes, in whole blocks of the kernel's layout; [`Activations::prepare`] comes first.
    pub(super) fn pass(&self, number: usize, kernel: &TernaryKernel) -> Pass<'_> {
        let passes = self.passes(kernel);
        if let Some(panel) = kernel.panel(self.tokens) {
            let tokens = pass_range(self.tokens, passes, number);
            let mut sums = [0; MAX_PASS];
            sums[..tokens.len()].copy_from_slice(&self.sums[tokens.clone()]);
            let rows = tokens.start * self.stride..tokens.end * self.stride;
            let x = match panel.arrangement {
                Arrangement::Rows => &self.quantized[rows],
                Arrangement::SideBySide => {
                    debug_assert_eq!(self.interleaved_passes, passes, "prepared for these passes");
                    &self.interleaved[rows][..kernel.layout.padded(self.cols) * tokens.len()]
                }
            };
            let (arrangement, stride) = (panel.arrangement, self.stride);
            let input = PanelTokens { arrangement, tokens: tokens.len(), x, stride };
            return Pass { tokens, inputs: Inputs::Together(input, sums) };
        }
        let tokens = number * kernel.few_tokens..((number + 1) * kernel.few_tokens).min(self.tokens);
        let mut inputs = [Token::default(); MAX_FEW];
        for (input, token) in inputs.iter_mut().zip(tokens.clone()) {
            *input = self.token(token, kernel);
        }
        Pass { tokens, inputs: Inputs::OneByOne(inputs) }
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

/// The tokens of a pass where all passes are to be alike: a panel is read once for each.
fn pass_range(tokens: usize, passes: usize, pass: usize) -> Range<usize> {
    tokens * pass / passes..tokens * (pass + 1) / passes
}

/// The tokens that are multiplied in one pass over the weights.
pub(super) struct Pass<'a> {
    pub tokens: Range<usize>,
    inputs: Inputs<'a>,
}

enum Inputs<'a> {
    OneByOne([Token<'a>; MAX_FEW]),
    /// And the sum of each token's values.
    Together(PanelTokens<'a>, [i32; MAX_PASS]),
}

impl Pass<'_> {
    /// The tokens for a kernel that takes a tile as it is packed.
    pub(super) fn one_by_one(&self) -> &[Token<'_>] {
        match &self.inputs {
            Inputs::OneByOne(inputs) => &inputs[..self.tokens.len()],
            Inputs::Together(..) => unreachable!("a pass for a packed tile"),
        }
    }

    /// The tokens for a kernel that takes a panel, and the sum of each.
    pub(super) fn together(&self) -> (PanelTokens<'_>, &[i32]) {
        match &self.inputs {
            Inputs::Together(input, sums) => (*input, &sums[..input.tokens]),
            Inputs::OneByOne(_) => unreachable!("a pass for a panel"),
        }
    }

    /// Some columns, whole multiples of 16, whose activations sum to `sum_of(token)`.
    pub(super) fn columns(
        &self,
        columns: Range<usize>,
        sum_of: impl Fn(usize) -> i32,
        kernel: &TernaryKernel,
    ) -> Pass<'_> {
        let tokens = self.tokens.clone();
        let inputs = match &self.inputs {
            Inputs::OneByOne(inputs) => {
                let mut inputs = *inputs;
                for (input, token) in inputs.iter_mut().zip(tokens.clone()) {
                    *input = input.columns(columns.clone(), sum_of(token), kernel);
                }
                Inputs::OneByOne(inputs)
            }
            Inputs::Together(input, _) => {
                let mut sums = [0; MAX_PASS];
                sums.iter_mut().zip(tokens.clone()).for_each(|(sum, token)| *sum = sum_of(token));
                Inputs::Together(input.columns(columns), sums)
            }
        };
        Pass { tokens, inputs }
    }
}
