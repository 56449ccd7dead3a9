//! Activations quantised to integers, with whatever the kernels want prepared from them.
//!
//! Linears that share an input (q, k and v; gate and up) share one value of this type: quantised once, prepared once.
//!
//! Models that were trained with int8 activations get just that, one scale per token. Models of which only the weights are
//! ternary get [`Precision::Exact`]: an integer of three int8 digits, `x = 65536 high + 256 middle + low`, in steps of
//! 1/131072 of the token's mean magnitude. A token is three rows, one of each digit. Most kernels multiply rows of int8 and know
//! nothing of digits, so a product of a token costs what products of three tokens cost; the weights are read once for all three.
//! Where sums are looked up in tables of int16, two larger digits do (`group_tables.rs`).
//!
//! Why three: rounding to 16 bits, two digits, moves the logits of weight-only models by up to 1.3e-4 of the largest, and by
//! 2.7e-3 where a few channels are 30 times the others; scales for 32 or 64 columns each instead of 384 hardly change that. Why
//! the mean: the step then stays fine beside channels that are much larger than the rest, and the high digit is next to
//! nothing wherever such channels are not.

use super::kernel::{Arrangement, MAX_FEW, PanelTokens, Preparation, TernaryKernel, Token};
use super::layout::TRIOS_COLS;
use super::lookup::QuantizedRows;
use super::padded_cols;
use crate::dispatch::Kernels;
use crate::isa::Isa;
use crate::lines::Lines;
use crate::pool::{Pool, SharedMut};
use std::ops::Range;

/// Rows are padded to a multiple of this, with zeros: to whole blocks of every layout, and to whole cache lines.
const STRIDE_ALIGN: usize = 2 * TRIOS_COLS;

/// int8 digits of the finest activations.
pub(crate) const MAX_DIGITS: usize = 3;

/// The largest integer of [`Precision::Exact`]: its sum with `1.5 * 2^23` is exact in f32, which is how it is rounded.
const LARGEST_EXACT: f32 = 4_194_000.0;

/// Steps of [`Precision::Exact`] in a token's mean magnitude.
const STEPS_OF_MEAN: f32 = 131_072.0;

/// How finely activations are quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// int8, one scale per token: `s = 127 / max(|x|, 1e-5)`, `q = round_half_even(x * s)`.
    Int8,
    /// Three int8 digits: `step = max(mean |x| / 131072, max |x| / 4194000)`,
    /// `65536 high + 256 middle + low = round_half_even(x / step)`.
    Exact,
}

impl Precision {
    /// int8 digits of a value, each in a row of its own.
    pub(super) const fn digits(self) -> usize {
        match self {
            Precision::Int8 => 1,
            Precision::Exact => MAX_DIGITS,
        }
    }
}

/// `tokens` rows of `cols` quantised activations and their scales.
#[derive(Debug)]
pub struct Activations {
    isa: Isa,
    precision: Precision,
    cols: usize,
    tokens: usize,
    stride: usize,
    /// `[tokens][digits][stride]`, the high digits first.
    quantized: Lines<i8>,
    /// Of int8: one to a token.
    factors: Vec<f32>,
    /// Of three digits: one to a token.
    steps: Vec<f32>,
    /// One to a row.
    sums: Vec<i32>,
    /// The sums of each row's groups of columns, `[groups][rows]`, and the columns of a group; 0 where none were made.
    group_sums: (usize, Vec<i32>),
    /// What `prepared` was made by, where it was made.
    preparation: Option<&'static Preparation>,
    prepared: Vec<u8>,
    /// The rows of each pass side by side, `[pass][columns / 4][rows][4]`.
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
            precision: Precision::Int8,
            cols: 0,
            tokens: 0,
            stride: 0,
            quantized: Lines::default(),
            factors: Vec::new(),
            steps: Vec::new(),
            sums: Vec::new(),
            group_sums: (0, Vec::new()),
            preparation: None,
            prepared: Vec::new(),
            interleaved: Vec::new(),
            interleaved_passes: 0,
            rows: Vec::new(),
        }
    }

    fn resize(&mut self, kernels: &Kernels, precision: Precision, tokens: usize, cols: usize) {
        assert!(kernels.isa == self.isa, "activations of {}, kernels of {}", self.isa, kernels.isa);
        (self.precision, self.cols, self.tokens) = (precision, cols, tokens);
        self.stride = cols.next_multiple_of(STRIDE_ALIGN);
        self.quantized.resize(self.rows() * self.stride);
        self.factors.resize(tokens, 1.0);
        self.steps.resize(tokens, 0.0);
        self.sums.resize(self.rows(), 0);
        self.group_sums.0 = 0;
        self.preparation = None;
        self.interleaved_passes = 0;
    }

    /// Makes what `kernel` wants of these activations, unless it is there already; and the sums of groups of so many columns.
    pub(super) fn prepare(&mut self, kernel: &TernaryKernel, group_cols: Option<usize>, pool: &Pool) {
        if let Some(cols) = group_cols {
            self.sum_groups(cols);
        }
        if let Some(panel) = kernel.panel(self.rows()) {
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
        self.prepared.resize(self.sums.len() * len, 0);
        pool.for_each_chunk(&mut self.prepared, len.max(1), |row, prepared| {
            // SAFETY: the CPU has the ISA of the kernel (`TernaryKernel`); both slices are of these columns.
            unsafe { (preparation.fill)(&quantized[row * stride..][..cols], prepared) };
        });
        self.preparation = Some(preparation);
    }

    fn interleave(&mut self, passes: usize, pool: &Pool) {
        if self.interleaved_passes == passes {
            return;
        }
        self.interleaved.resize(self.quantized.len(), 0);
        let (tokens, digits, stride) = (self.tokens, self.precision.digits(), self.stride);
        let quantized = &self.quantized;
        let out = SharedMut::new(&mut self.interleaved);
        pool.run(passes, |_, pass| {
            let pass = rows_of(pass_range(tokens, passes, pass), digits);
            let rows = quantized[pass.start * stride..pass.end * stride].as_chunks::<4>().0;
            // SAFETY: each task owns the bytes of its rows.
            let out = unsafe { out.slice(pass.start * stride, pass.len() * stride) };
            for (quad, out) in out.as_chunks_mut::<4>().0.chunks_exact_mut(pass.len()).enumerate() {
                for (out, x) in out.iter_mut().zip(rows[quad..].iter().step_by(stride / 4)) {
                    *out = *x;
                }
            }
        });
        self.interleaved_passes = passes;
    }

    /// Quantises `x` (`[tokens, cols]`, f32).
    ///
    /// What is not finite has no meaningful maximum: the scale of its token, or of its block of columns, becomes NaN, which
    /// carries on to every output.
    ///
    /// # Panics
    /// If `x.len()` is not a multiple of `cols`.
    pub fn quantize(&mut self, kernels: &Kernels, pool: &Pool, precision: Precision, x: &[f32], cols: usize) {
        assert!(cols > 0 && x.len().is_multiple_of(cols), "{} values are not rows of {cols}", x.len());
        self.resize(kernels, precision, x.len() / cols, cols);
        self.quantize_tokens(kernels, pool, |_, token, put| put(&x[token * cols..(token + 1) * cols]));
    }

    /// Quantises what `fill(token, x)` makes of each of `tokens`, `cols` numbers that are nowhere kept as f32.
    ///
    /// # Panics
    /// If `cols` is 0.
    pub fn quantize_with(
        &mut self,
        kernels: &Kernels,
        pool: &Pool,
        precision: Precision,
        (tokens, cols): (usize, usize),
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        assert!(cols > 0, "tokens without features");
        self.resize(kernels, precision, tokens, cols);
        let mut rows = std::mem::take(&mut self.rows);
        rows.resize_with(pool.threads().max(rows.len()), Vec::new);
        let shared = SharedMut::new(&mut rows);
        self.quantize_tokens(kernels, pool, |worker, token, put| {
            // SAFETY: a worker runs one task at a time.
            let row = unsafe { &mut shared.slice(worker, 1)[0] };
            row.resize(row.len().max(cols), 0.0);
            fill(token, &mut row[..cols]);
            put(&row[..cols]);
        });
        self.rows = rows;
    }

    /// `quantize(worker, token, put)` hands a token's numbers to `put`, once.
    fn quantize_tokens(
        &mut self,
        kernels: &Kernels,
        pool: &Pool,
        quantize: impl Fn(usize, usize, &mut dyn FnMut(&[f32])) + Sync,
    ) {
        let (precision, cols, stride) = (self.precision, self.cols, self.stride);
        let digits = precision.digits();
        let (factors, steps) = (SharedMut::new(&mut self.factors), SharedMut::new(&mut self.steps));
        let (rows, sums) = (SharedMut::new(&mut self.quantized), SharedMut::new(&mut self.sums));
        pool.run(self.tokens, |worker, token| {
            // SAFETY: each task owns its token's rows, factor, step and sums.
            let (q, sums) =
                unsafe { (rows.slice(token * digits * stride, digits * stride), sums.slice(token * digits, digits)) };
            // SAFETY: as above.
            let (factor, step) = unsafe { (&mut factors.slice(token, 1)[0], &mut steps.slice(token, 1)[0]) };
            quantize(worker, token, &mut |x| match precision {
                Precision::Int8 => *factor = kernels.quantize(x, &mut q[..cols]),
                Precision::Exact => {
                    let mut rows = q.chunks_exact_mut(stride);
                    let digits = std::array::from_fn(|_| &mut rows.next().expect("a row of each digit")[..cols]);
                    *step = kernels.quantize_exact(x, digits);
                }
            });
            for (row, sum) in q.chunks_exact_mut(stride).zip(sums) {
                *sum = finish_row(kernels, row, cols);
            }
        });
    }

    /// Takes int8 activations as they are (`[tokens, cols]`), with factors of 1.
    ///
    /// # Panics
    /// If `q.len()` is not a multiple of `cols`.
    pub fn set(&mut self, kernels: &Kernels, q: &[i8], cols: usize) {
        assert!(cols > 0 && q.len().is_multiple_of(cols), "{} values are not rows of {cols}", q.len());
        self.resize(kernels, Precision::Int8, q.len() / cols, cols);
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

    /// How finely they are quantised.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Rows of int8: one to a token, or three where a value has three digits.
    pub(super) fn rows(&self) -> usize {
        self.tokens * self.precision.digits()
    }

    /// The quantisation factor `s` of each token of int8 activations.
    pub fn factors(&self) -> &[f32] {
        &self.factors
    }

    /// The step of a token of three digits.
    pub(super) fn step(&self, token: usize) -> f32 {
        self.steps[token]
    }

    /// The int8 values of one row.
    ///
    /// # Panics
    /// If there is none.
    pub fn row(&self, row: usize) -> &[i8] {
        &self.quantized[row * self.stride..row * self.stride + self.cols]
    }

    /// One activation as the linears take it.
    ///
    /// # Panics
    /// If there is none.
    pub fn get(&self, token: usize, col: usize) -> f32 {
        let digit = |row: usize| i32::from(self.row(row)[col]);
        match self.precision {
            Precision::Int8 => digit(token) as f32 / self.factors[token],
            Precision::Exact => {
                let [high, middle, low] = std::array::from_fn(|place| digit(MAX_DIGITS * token + place));
                (65536 * high + 256 * middle + low) as f32 * self.steps[token]
            }
        }
    }

    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    /// The sum of a row.
    pub(super) fn sum(&self, row: usize) -> i32 {
        self.sums[row]
    }

    /// All rows.
    pub(super) fn quantized_rows(&self) -> QuantizedRows<'_> {
        let (values, stride) = (&self.quantized[..], self.stride);
        QuantizedRows { values, stride, count: self.rows(), digits: self.precision.digits() }
    }

    pub(super) fn quantized_from(&self, row: usize) -> &[i8] {
        &self.quantized[row * self.stride..]
    }

    /// Some columns of the rows of a token, empty where it has fewer than [`MAX_DIGITS`].
    pub(super) fn rows_of_token(&self, token: usize, columns: Range<usize>) -> [&[i8]; MAX_DIGITS] {
        let digits = self.precision.digits();
        std::array::from_fn(|digit| match digit < digits {
            true => &self.quantized_from(token * digits + digit)[columns.clone()],
            false => &[],
        })
    }

    /// One row as `kernel` takes it, in whole blocks of its layout; [`Activations::prepare`] comes first.
    pub(super) fn token(&self, row: usize, kernel: &TernaryKernel) -> Token<'_> {
        let prepared = match kernel.preparation {
            None => &[][..],
            Some(preparation) => {
                let len = (preparation.len)(padded_cols(self.cols));
                &self.prepared[row * len..(row + 1) * len]
            }
        };
        let quantized = &self.quantized[row * self.stride..][..kernel.layout.padded(self.cols)];
        Token { quantized, sum: self.sums[row], prepared }
    }

    /// How many passes over the weights `kernel` makes for all tokens. The digits of a token go in one pass.
    pub(super) fn passes(&self, kernel: &TernaryKernel) -> usize {
        let rows = kernel.panel(self.rows()).map_or(kernel.few_tokens, |panel| panel.tokens);
        self.tokens.div_ceil(rows / self.precision.digits())
    }

    /// The tokens of one of these passes, in whole blocks of the kernel's layout; [`Activations::prepare`] comes first.
    pub(super) fn pass(&self, number: usize, kernel: &TernaryKernel) -> Pass<'_> {
        let (passes, digits) = (self.passes(kernel), self.precision.digits());
        if let Some(panel) = kernel.panel(self.rows()) {
            let tokens = pass_range(self.tokens, passes, number);
            let rows = rows_of(tokens.clone(), digits);
            let sums = &self.sums[rows.clone()];
            let bytes = rows.start * self.stride..rows.end * self.stride;
            let x = match panel.arrangement {
                Arrangement::Rows => &self.quantized[bytes],
                Arrangement::SideBySide => {
                    debug_assert_eq!(self.interleaved_passes, passes, "prepared for these passes");
                    &self.interleaved[bytes][..kernel.layout.padded(self.cols) * rows.len()]
                }
            };
            let (arrangement, stride) = (panel.arrangement, self.stride);
            let input = PanelTokens { arrangement, tokens: rows.len(), x, stride };
            return Pass { tokens, rows, inputs: Inputs::Together(input, sums) };
        }
        let few = kernel.few_tokens / digits;
        let tokens = number * few..((number + 1) * few).min(self.tokens);
        let rows = rows_of(tokens.clone(), digits);
        let mut inputs = [Token::default(); MAX_FEW];
        for (input, row) in inputs.iter_mut().zip(rows.clone()) {
            *input = self.token(row, kernel);
        }
        Pass { tokens, rows, inputs: Inputs::OneByOne(inputs) }
    }

    /// Sums each row's groups of `cols` columns, unless that is done.
    fn sum_groups(&mut self, cols: usize) {
        let (known, sums) = &mut self.group_sums;
        if *known == cols || cols >= self.cols {
            return;
        }
        *known = cols;
        let rows = self.sums.len();
        sums.clear();
        sums.resize(self.cols.div_ceil(cols) * rows, 0);
        for (row, q) in self.quantized.chunks_exact(self.stride).take(rows).enumerate() {
            for (group, q) in q[..self.cols].chunks(cols).enumerate() {
                sums[group * rows + row] = q.iter().map(|q| i32::from(*q)).sum();
            }
        }
    }

    /// The sums of a group of every row, which [`Activations::prepare`] made.
    pub(super) fn sums_of_group(&self, group: usize, cols: usize) -> &[i32] {
        &self.sums_of_groups(cols)[group * self.rows()..(group + 1) * self.rows()]
    }

    /// Those of all groups, `[groups][rows]`.
    pub(super) fn sums_of_groups(&self, cols: usize) -> &[i32] {
        if cols >= self.cols {
            return &self.sums;
        }
        assert_eq!(self.group_sums.0, cols, "sums of the groups at hand");
        &self.group_sums.1
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

/// The rows that hold the digits of some tokens.
fn rows_of(tokens: Range<usize>, digits: usize) -> Range<usize> {
    tokens.start * digits..tokens.end * digits
}

/// The tokens of a pass where all passes are to be alike: a panel is read once for each.
fn pass_range(tokens: usize, passes: usize, pass: usize) -> Range<usize> {
    tokens * pass / passes..tokens * (pass + 1) / passes
}

/// The tokens that are multiplied in one pass over the weights.
#[derive(Clone)]
pub(super) struct Pass<'a> {
    pub tokens: Range<usize>,
    /// The rows of their digits.
    pub rows: Range<usize>,
    inputs: Inputs<'a>,
}

#[derive(Clone)]
enum Inputs<'a> {
    OneByOne([Token<'a>; MAX_FEW]),
    /// And the sum of each row's values.
    Together(PanelTokens<'a>, &'a [i32]),
}

impl<'a> Pass<'a> {
    /// The tokens for a kernel that takes a tile as it is packed.
    pub(super) fn one_by_one(&self) -> &[Token<'_>] {
        match &self.inputs {
            Inputs::OneByOne(inputs) => &inputs[..self.rows.len()],
            Inputs::Together(..) => unreachable!("a pass for a packed tile"),
        }
    }

    /// The tokens for a kernel that takes a panel, and the sum of each.
    pub(super) fn together(&self) -> (PanelTokens<'_>, &[i32]) {
        match &self.inputs {
            Inputs::Together(input, sums) => (*input, sums),
            Inputs::OneByOne(_) => unreachable!("a pass for a panel"),
        }
    }

    /// Lets `part`, a copy of this pass, hold some of its columns, whole multiples of 16, whose activations sum to `sums`, one to
    /// a row.
    pub(super) fn narrow(&self, columns: Range<usize>, sums: &'a [i32], kernel: &TernaryKernel, part: &mut Pass<'a>) {
        match (&self.inputs, &mut part.inputs) {
            (Inputs::OneByOne(inputs), Inputs::OneByOne(parts)) => {
                for ((input, part), sum) in inputs.iter().zip(parts).zip(sums) {
                    *part = input.columns(columns.clone(), *sum, kernel);
                }
            }
            (Inputs::Together(input, _), part) => *part = Inputs::Together(input.columns(columns), sums),
            (Inputs::OneByOne(_), Inputs::Together(..)) => unreachable!("a copy of another pass"),
        }
    }
}

/// The reference for [`Precision::Exact`], which is compiled anew for each ISA: every operation is exact or correctly rounded
/// and the sum has one order, so the bits are the same everywhere. Returns the step: NaN where a number is not finite, and then
/// the digits are zeros.
#[inline(always)]
pub(crate) fn quantize_exact(x: &[f32], [high, middle, low]: [&mut [i8]; MAX_DIGITS]) -> f32 {
    let (largest, mean) = magnitudes(x);
    let step = match largest {
        // Below this the inverse is not a finite number.
        ..1e-30 => 0.0,
        largest if largest.is_finite() => (largest / LARGEST_EXACT).max(mean / STEPS_OF_MEAN),
        _ => f32::NAN,
    };
    if step.is_nan() {
        for digits in [high, middle, low] {
            digits.fill(0);
        }
        return step;
    }
    let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
    for (((x, high), middle), low) in x.iter().zip(high).zip(middle).zip(low) {
        // To the nearest integer, to even where two are as near: from 2^23 on an f32 has no fractions.
        const SHIFT: f32 = 12_582_912.0;
        let q = (x * inverse + SHIFT).to_bits().wrapping_sub(SHIFT.to_bits()).cast_signed() + 128;
        let rest = (q >> 8) + 128;
        (*high, *middle, *low) = ((rest >> 8) as i8, ((rest & 255) - 128) as i8, ((q & 255) - 128) as i8);
    }
    step
}

/// The largest magnitude, and the mean of all in one order: sixteen sums of every sixteenth, then those in turn. Where a number
/// is not finite, neither is the largest.
#[inline(always)]
fn magnitudes(x: &[f32]) -> (f32, f32) {
    const LANES: usize = 16;
    // Magnitudes compare as integers do, and what is not finite lies above all that is.
    let magnitude = |x: f32| x.to_bits() & i32::MAX.cast_unsigned();
    let (mut largest, mut sums) = ([0; LANES], [0f32; LANES]);
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut last = [0f32; LANES];
    last[..rest.len()].copy_from_slice(rest);
    for chunk in chunks.iter().chain([&last]) {
        for ((largest, sum), x) in largest.iter_mut().zip(&mut sums).zip(chunk) {
            *largest = magnitude(*x).max(*largest);
            *sum += x.abs();
        }
    }
    let largest = largest.iter().fold(0, |largest, lane| *lane.max(&largest));
    (f32::from_bits(largest), sums.iter().sum::<f32>() / x.len().max(1) as f32)
}
