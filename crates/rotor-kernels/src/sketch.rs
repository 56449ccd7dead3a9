//! A quantised copy of a dense matrix, and how far its products can be from those of the matrix.
//!
//! Whoever wants the largest products of a matrix of f16 (the likeliest tokens) need not read all of it. A copy of 6.6 bits a
//! weight says, row by row, how large a product can be at most; rows whose bound reaches what is wanted are then multiplied
//! exactly, and no other can be among them.
//!
//! # The bound
//!
//! `E` is a row of the matrix, `S` the same row of the copy, `h` a token's activations and `q` what is left of them when they
//! are quantised ([`BlockActivations`]). The activations of a model are large in a few columns, the same for every text. For
//! sixteen of these, the known ones, the error `E - S` is kept, rounded to bf16: `K`, zero elsewhere. With `R = E - S - K`,
//!
//! ```text
//! E h = S q + K h + R h + S (h - q)
//! ```
//!
//! `S q + K h` is the *middle*, and the rest is bounded by Cauchy and Schwarz. `R` is large where nothing is known, in columns
//! in which `h` is small, and small where `h` is large; so its known columns are multiplied by 64 and theirs of `h` divided by
//! it, which changes no product:
//!
//! ```text
//! |R h| <= |(R others, 64 R known)| |(h others, h known / 64)|    =: lost * rest
//! ```
//!
//! # Everything that rounds
//!
//! `u = 2^-24` is what one operation of f32 rounds, relative to its result; after `m` of them a sum of products is off by at most
//! `g(m) = m u / (1 - m u)` times the sum of the products' magnitudes, whatever the order (Higham, Accuracy and Stability of
//! Numerical Algorithms, 3.1), and that sum is at most the product of both lengths. `n` is the number of columns.
//!
//! - The matrix's own product: each term is rounded at most `n` times, in the plain kernel: `g(n) |E| |h|`.
//! - `S` as the decoder gives it, from which `R` is computed, is rounded once: `u |S| |h|`.
//! - The copy's product. A term is a stored factor `a` times a code `c` times an integer `x = 128 high + low`, plus, in Q6_K,
//!   `-32 a x`. `128 |high| + |low| <= 3 |x|`, as `low` lies between -64 and 63. So magnitudes add up to at most
//!   `|(3 a c + 32 a)| |q| <= (3 |S| + 128 |a|) |q|`, as `a c = S + 32 a`. On its way to the sum a term is rounded at most
//!   `n / 16 + 16` times: in the plain kernel and NEON's once for each half block, in the others once or twice for each
//!   block or panel; then come the conversion of an integer, the factors, and the lanes of a vector.
//! - The middle and the bound: sixteen products and sums, and a last one: `g(18) (2 |q| + 3 |h|)` times the row's size, as the
//!   copy's product is at most twice `|S| |q|`, and `K` at most 2.1 times the longer of `E` and `S`. The difference that `K` is
//!   rounded from was itself rounded once, `2.1 u |h|` more; `3 g(18)` is 54 `u`, of which both take 40.
//! - Below 2^-126 a result is off by up to 2^-150 instead, in the copy's product times a sum of integers below 2^32; there are
//!   fewer than `2 n + 64` results on any way: `(2 n + 64) 2^-118`.
//!
//! With `size = max(|E|, |S|, (3 |S| + 128 |a|) / 16)` the bound is
//!
//! ```text
//! |E h as computed - middle| <= lost * rest + size * rounding + underflow
//! rounding = |h - q| + (u + g(n + 1) + 3 g(18)) |h| + (16 g(n / 16 + 16) + 2 g(18)) |q|
//! ```
//!
//! Lengths are computed in f64, or in f32 with what that rounds, and rounded up. `g(n + 1)` and not `g(n)`, so that what f64 rounds of `|h - q|` is covered. The
//! bound itself is the sum of three positive numbers after at most four roundings: `rest` and `rounding` are enlarged by
//! `8 u`. All of this holds as long as nothing overflows, which is certain while `size * (|h| + |q|)` is below 2^100; a token
//! that may be beyond, or is not finite, has no bounds ([`TokenBounds::of`](Bounds::token) is `None`).

use crate::buffer::Buffer;
use crate::dense::DenseType;
use crate::dispatch::Kernels;
use crate::encode::Scales;
use crate::matrix::{DenseMatrix, ROWS_PER_RUN};
use crate::pool::{Pool, SharedMut};
use crate::quantized::bounds::{KNOWN, RowErrors, TokenFactors};
use crate::quantized::{BlockActivations, PANEL, Panel, takes_blocks};
use half::{bf16, f16};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the known columns of what is lost are multiplied by, and theirs of the activations divided by.
const BALANCE: f32 = 64.0;
/// What one operation of f32 rounds, relative to its result.
const UNIT: f64 = 1.0 / (1 << 24) as f64;
/// As much as any product may be for no sum to overflow: 2^100.
const LARGEST: f64 = (1u128 << 100) as f64;

/// `g(m)` of the module's documentation.
fn roundings(count: usize) -> f64 {
    let sum = count as f64 * UNIT;
    sum / (1.0 - sum)
}

/// An f32 that is no smaller. A sum of squares in f64 is off by less than `2^-40` for any number of columns there is.
fn up(x: f64) -> f32 {
    ((x * (1.0 + UNIT)) as f32).next_up()
}

/// A quantised copy of a dense matrix `[rows, cols]`, with what it takes to bound the matrix's products.
#[derive(Debug)]
pub struct Sketch {
    copy: DenseMatrix,
    known: [usize; KNOWN],
    /// 1 for a column, 1/64 for a known one.
    weights: Vec<f64>,
    /// `[rows / 16][known][16]`, bf16.
    errors: Buffer<u16>,
    /// `[rows]`.
    lost: Buffer<f32>,
    /// `[rows]`.
    size: Buffer<f32>,
    largest_size: f32,
}

impl Sketch {
    /// Columns whose errors are known.
    pub const KNOWN: usize = KNOWN;

    /// The type of the copy of rows of `cols` columns: the shortest that they are whole blocks of.
    pub fn copy_type(cols: usize) -> Option<DenseType> {
        let fits = |dtype: &DenseType| cols >= KNOWN && dtype.row_bytes(cols).is_some();
        [DenseType::Q6K, DenseType::Q8_0].into_iter().find(fits)
    }

    /// Bytes of the sketch of a matrix of `dtype`; `None` where there can be none: a quantised matrix is itself as short.
    pub fn bytes_of(dtype: DenseType, rows: usize, cols: usize) -> Option<usize> {
        let row_bytes = Sketch::copy_type(cols).filter(|_| !takes_blocks(dtype))?.row_bytes(cols)?;
        Some(rows * (row_bytes + 2 * size_of::<f32>()) + rows.next_multiple_of(KNOWN) * KNOWN * size_of::<u16>())
    }

    /// The sketch of `exact`, of which these columns are to be known. `None` where the matrix can have none: it is
    /// quantised, its columns are no whole blocks, or it holds a number that is not finite.
    ///
    /// # Errors
    /// Where the system refuses the memory.
    ///
    /// # Panics
    /// If a known column is none of the matrix.
    pub fn new(
        exact: &DenseMatrix,
        known: [usize; KNOWN],
        kernels: &Kernels,
        pool: &Pool,
    ) -> std::io::Result<Option<Sketch>> {
        let (rows, cols) = (exact.rows(), exact.cols());
        let Some(dtype) = Sketch::copy_type(cols).filter(|_| !takes_blocks(exact.dtype())) else { return Ok(None) };
        let mut errors = Buffer::zeroed(rows.next_multiple_of(KNOWN) * KNOWN)?;
        let (mut lost, mut size) = (Buffer::zeroed(rows)?, Buffer::zeroed(rows)?);
        let shared = [SharedMut::new(&mut lost), SharedMut::new(&mut size)];
        let (shared_errors, finite) = (SharedMut::new(&mut errors), AtomicBool::new(true));
        let row_bytes = dtype.row_bytes(cols).unwrap_or(0);
        let encode = |first: usize, out: &mut [u8]| {
            let mut scratch = RowScratch::new(cols);
            for (row, out) in (first..).zip(out.chunks_exact_mut(row_bytes)) {
                let measured = scratch.measure(kernels, exact, row, &known, (dtype, out));
                if !(measured.lost.is_finite() && measured.size.is_finite()) {
                    finite.store(false, Ordering::Relaxed);
                }
                for (which, error) in measured.errors.into_iter().enumerate() {
                    let at = (row / KNOWN * KNOWN + which) * KNOWN + row % KNOWN;
                    // SAFETY: a row is one task's, and so are its errors.
                    unsafe { shared_errors.slice(at, 1)[0] = error };
                }
                for (shared, value) in shared.iter().zip([measured.lost, measured.size]) {
                    // SAFETY: as above.
                    unsafe { shared.slice(row, 1)[0] = value };
                }
            }
            Ok(())
        };
        let copy = DenseMatrix::load((rows, cols), dtype, pool, |error| error, encode)?;
        if !finite.into_inner() {
            return Ok(None);
        }
        let mut weights = vec![1.0; cols];
        known.iter().for_each(|&column| weights[column] = 1.0 / f64::from(BALANCE));
        let largest_size = size.iter().fold(0f32, |largest, size| largest.max(*size));
        Ok(Some(Sketch { copy, known, weights, errors, lost, size, largest_size }))
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.copy.stored_bytes() + 2 * self.errors.len() + 4 * (self.lost.len() + self.size.len())
    }

    /// How the copy is stored.
    pub fn dtype(&self) -> DenseType {
        self.copy.dtype()
    }

    /// Bounds the products of every row with `x`, `[tokens, cols]`.
    ///
    /// # Panics
    /// If `x` is not rows of `cols`.
    pub fn bound(&self, kernels: &Kernels, pool: &Pool, x: &[f32], bounds: &mut Bounds) {
        let (rows, cols) = (self.copy.rows(), self.copy.cols());
        let Bounds { activations, tokens, middles, uppers, highest, .. } = bounds;
        activations.quantize(pool, x, cols);
        tokens.clear();
        tokens.extend(x.chunks_exact(cols).enumerate().map(|(token, x)| self.factors(x, activations.token(token))));
        let runs = rows.div_ceil(ROWS_PER_RUN);
        for numbers in [&mut *middles, &mut *uppers] {
            numbers.resize(tokens.len() * rows, 0.0);
        }
        highest.resize(tokens.len() * runs, [0.0; 2]);
        let (middles, uppers) = (SharedMut::new(middles), SharedMut::new(uppers));
        let highest = SharedMut::new(highest);
        pool.run_ranges(runs, |_, mine| {
            for run in mine {
                let range = run * ROWS_PER_RUN..((run + 1) * ROWS_PER_RUN).min(rows);
                self.copy.run_of_blocks(kernels, activations, range.clone(), &middles);
                for (token, factors) in tokens.iter().enumerate() {
                    let at = token * rows + range.start;
                    // SAFETY: each task owns its rows of every token, and the run's place.
                    let (middles, uppers, highest) = unsafe {
                        (
                            middles.slice(at, range.len()),
                            uppers.slice(at, range.len()),
                            highest.slice(token * runs + run, 1),
                        )
                    };
                    if let Some(factors) = factors {
                        highest[0] = kernels.bounds(self.row_errors(range.clone()), factors, middles, uppers);
                    }
                }
            }
        });
        bounds.rows = rows;
    }

    /// What is known of rows that begin at a sixteenth.
    fn row_errors(&self, rows: Range<usize>) -> RowErrors<'_> {
        let errors = &self.errors[rows.start * KNOWN..rows.end.next_multiple_of(KNOWN) * KNOWN];
        RowErrors { errors, lost: &self.lost[rows.clone()], size: &self.size[rows] }
    }

    /// What the bounds of a token take; `None` where a sum may overflow or is no number.
    fn factors(&self, x: &[f32], panels: &[Panel]) -> Option<TokenFactors> {
        let square = |x: f64| x * x;
        let (mut rest, mut length) = (0.0, 0.0);
        for (x, weight) in x.iter().zip(&self.weights) {
            rest += square(f64::from(*x) * weight);
            length += square(f64::from(*x));
        }
        let (mut lost, mut rounded) = (0.0, 0.0);
        for (x, panel) in x.chunks(PANEL).zip(panels) {
            for (x, q) in x.iter().zip(panel.values()) {
                lost += square(f64::from(*x) - q);
                rounded += square(q);
            }
        }
        let [rest, length, lost, rounded] = [rest, length, lost, rounded].map(f64::sqrt);
        let largest = f64::from(self.largest_size).max(1.0) * (length + rounded);
        // Where anything is not a number this is not true either.
        let is_sound = largest < LARGEST && lost.is_finite();
        let cols = x.len();
        let rounding = lost
            + (UNIT + roundings(cols + 1) + 3.0 * roundings(KNOWN + 2)) * length
            + (16.0 * roundings(cols / 16 + 16) + 2.0 * roundings(KNOWN + 2)) * rounded;
        let enlarged = |x: f64| up(x * (1.0 + 8.0 * UNIT));
        is_sound.then(|| TokenFactors {
            known: self.known.map(|column| x[column]),
            rest: enlarged(rest),
            rounding: enlarged(rounding),
            underflow: up((2 * cols + 64) as f64 * f64::from(2f32.powi(-118))),
        })
    }
}

/// What is known of one row.
struct Measured {
    errors: [u16; KNOWN],
    lost: f32,
    size: f32,
}

/// A row of the matrix, and what the copy makes of it.
struct RowScratch {
    exact: Vec<f32>,
    copied: Vec<f32>,
}

impl RowScratch {
    fn new(cols: usize) -> RowScratch {
        RowScratch { exact: vec![0.0; cols], copied: vec![0.0; cols] }
    }

    /// Encodes a row of the matrix and measures what is lost.
    fn measure(
        &mut self,
        kernels: &Kernels,
        matrix: &DenseMatrix,
        row: usize,
        known: &[usize; KNOWN],
        (dtype, out): (DenseType, &mut [u8]),
    ) -> Measured {
        let RowScratch { exact, copied } = self;
        matrix.row(kernels, row, exact);
        kernels.encode_row(dtype, Scales::Covering, exact, out);
        kernels.decode_row(dtype, out, copied);
        let mut copied_length = length(kernels, copied);
        if !copied_length.is_finite() {
            // Numbers beyond what an f16 scale holds: the copy has nothing of the row, and it is always multiplied.
            out.fill(0);
            copied.fill(0.0);
            copied_length = 0.0;
        }
        let mut errors = [0; KNOWN];
        copied.iter_mut().zip(exact.iter()).for_each(|(copied, exact)| *copied = exact - *copied);
        for (&column, error) in known.iter().zip(&mut errors) {
            let stored = bf16::from_f32(copied[column]);
            *error = stored.to_bits();
            copied[column] = (copied[column] - stored.to_f32()) * BALANCE;
        }
        // A difference was rounded once. What that leaves of a known column is counted with the middle's roundings.
        let lost = length(kernels, copied) * (1.0 + 2.0 * UNIT);
        let factors = factors_length(dtype, out);
        let size = length(kernels, exact).max(copied_length).max((3.0 * copied_length + 128.0 * factors) / 16.0);
        Measured { errors, lost: up(lost), size: up(size) }
    }
}

/// The length of a vector, or a little more. Where squares neither vanish nor overflow, f32 does, with what it rounds.
fn length(kernels: &Kernels, x: &[f32]) -> f64 {
    let squares = f64::from(kernels.dot(x, x));
    if (1e-30..1e30).contains(&squares) {
        return (squares * (1.0 + 2.0 * roundings(x.len() + 2))).sqrt();
    }
    x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

/// Length of the vector of a row's factors, one for each column, in types that store an offset of 32 of them.
fn factors_length(dtype: DenseType, row: &[u8]) -> f64 {
    if dtype != DenseType::Q6K {
        return 0.0;
    }
    let squares = row.chunks_exact(dtype.block_bytes()).flat_map(|block| {
        let (scales, d) = (&block[192..208], f16::from_le_bytes([block[208], block[209]]).to_f64());
        scales.iter().map(move |scale| 16.0 * (d * f64::from(scale.cast_signed())).powi(2))
    });
    squares.sum::<f64>().sqrt()
}

/// Bounds of the products of a matrix with some tokens; reused.
#[derive(Debug, Default)]
pub struct Bounds {
    activations: BlockActivations,
    /// `None` for a token without bounds.
    tokens: Vec<Option<TokenFactors>>,
    rows: usize,
    /// `[tokens, rows]`.
    middles: Vec<f32>,
    uppers: Vec<f32>,
    /// The largest middle and bound of each run of rows, `[tokens, runs]`.
    highest: Vec<[f32; 2]>,
}

impl Bounds {
    /// A token's bounds; `None` where its products may overflow, or are no numbers.
    ///
    /// # Panics
    /// If there is no such token.
    pub fn token(&self, token: usize) -> Option<TokenBounds<'_>> {
        self.tokens[token].as_ref()?;
        let (rows, runs) = (self.rows, self.rows.div_ceil(ROWS_PER_RUN));
        let range = token * rows..(token + 1) * rows;
        Some(TokenBounds {
            middles: &self.middles[range.clone()],
            uppers: &self.uppers[range],
            highest: &self.highest[token * runs..(token + 1) * runs],
        })
    }
}

/// Bounds of one token's products with every row.
#[derive(Clone, Copy, Debug)]
pub struct TokenBounds<'a> {
    middles: &'a [f32],
    uppers: &'a [f32],
    highest: &'a [[f32; 2]],
}

impl TokenBounds<'_> {
    /// What a row's product is about.
    pub fn middle(&self, row: usize) -> f32 {
        self.middles[row]
    }

    /// What a row's product is at most.
    pub fn upper(&self, row: usize) -> f32 {
        self.uppers[row]
    }

    /// The `count` allowed rows with the largest middles, in any order; fewer where fewer are allowed.
    pub fn likeliest(&self, count: usize, allowed: impl Fn(u32) -> bool, found: &mut Vec<u32>) {
        let mut best: Vec<(f32, u32)> = Vec::with_capacity(8 * count.min(self.middles.len()) + ROWS_PER_RUN);
        let mut least = f32::NEG_INFINITY;
        let by_middle = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        for (run, highest) in self.highest.iter().enumerate().filter(|_| count > 0) {
            if highest[0] <= least {
                continue;
            }
            let first = run * ROWS_PER_RUN;
            let middles = &self.middles[first..self.middles.len().min(first + ROWS_PER_RUN)];
            let rows = (first as u32..).zip(middles).filter(|(row, middle)| **middle > least && allowed(*row));
            best.extend(rows.map(|(row, middle)| (*middle, row)));
            if best.len() >= 8 * count {
                best.select_nth_unstable_by(count - 1, by_middle);
                best.truncate(count);
                least = best[count - 1].0;
            }
        }
        if best.len() > count {
            best.select_nth_unstable_by(count - 1, by_middle);
            best.truncate(count);
        }
        found.extend(best.into_iter().map(|(_, row)| row));
    }

    /// The allowed rows whose product may be `least` or more, in their order.
    pub fn reaching(&self, least: f32, allowed: impl Fn(u32) -> bool, found: &mut Vec<u32>) {
        for (run, highest) in self.highest.iter().enumerate() {
            if highest[1] < least {
                continue;
            }
            let first = run * ROWS_PER_RUN;
            let uppers = &self.uppers[first..self.uppers.len().min(first + ROWS_PER_RUN)];
            let rows = (first as u32..).zip(uppers).filter(|(row, upper)| **upper >= least && allowed(*row));
            found.extend(rows.map(|(row, _)| row));
        }
    }
}

#[cfg(test)]
mod tests;
