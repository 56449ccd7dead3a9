//! Logits of a head that is not read whole.
//!
//! Greedy choice and whatever begins with a top-k need the largest logits alone. A sketch of the head
//! ([`rotor_kernels::sketch`]) bounds every logit; from the bounds of a token's row, `Bounded` finds the logits that a choice
//! can depend on, and multiplies those exactly, by the very product that the whole head would be multiplied by. So a choice is
//! the one that all logits give, always:
//!
//! 1. Tokens whose logits bias or penalties change are multiplied in any case, and count for nothing in what follows; tokens
//!    that a constraint forbids are left out.
//! 2. Of the others, the `count` with the largest middles are multiplied. The smallest of these logits is at most the
//!    `count`-th largest of all, and the largest of them, less what may lie between, is at most the least that is kept.
//! 3. Every other token whose bound reaches that is multiplied. What is left is below the `count` largest of the others, or too
//!    far below the largest, and with the changed tokens among them more so.
//!
//! The columns of which the sketch knows more are those that are largest in the hidden states of a fixed text. Which they are
//! decides how many rows are multiplied, and nothing else.

use crate::formats::Read;
use crate::runtime::Runtime;
use crate::sample::{Reach, TokenLogit};
use crate::tokenizer::Tokenizer;
use rotor_kernels::DenseType;
use rotor_kernels::matrix::{DenseMatrix, DenseScratch};
use rotor_kernels::sketch::{Bounds, Sketch, TokenBounds};
use std::ops::Range;

/// A head of fewer bytes is not worth a sketch: caches hold it, or a good part of it.
const WORTH_A_SKETCH: u64 = 32 << 20;
/// Where more than a row in so many would be multiplied alone, all are multiplied in turn.
const SPARSE: usize = 4;

/// The text that shows which columns of the hidden states are large: prose, a list, code and numbers.
const CALIBRATION: &str = "The ship left the harbour at dawn, and by noon the coast was a grey line behind it.\n\
    - Water boils at 100 degrees; in the mountains it takes less.\nfn main() { println!(\"{}\", 6 * 7); }\n";
/// Tokens of it that are looked at, and of those that stand in for it where a model has no tokenizer.
const CALIBRATION_TOKENS: usize = 48;

/// Bytes of the sketch that a head `[rows, cols]` of `dtype` gets; `None` where it gets none.
pub(crate) fn sketch_bytes(read: Read, (rows, cols): (usize, usize), dtype: DenseType) -> Option<u64> {
    let bytes = dtype.row_bytes(cols)? as u64 * rows as u64;
    let is_wanted = match read {
        Read::Auto => bytes >= WORTH_A_SKETCH,
        Read::All => false,
        Read::Least => true,
    };
    Sketch::bytes_of(dtype, rows, cols).filter(|_| is_wanted).map(|bytes| bytes as u64)
}

/// The ids of the calibration text.
pub(crate) fn calibration(tokenizer: Option<&Tokenizer>, vocab_size: usize) -> Vec<u32> {
    let text = tokenizer.and_then(|tokenizer| tokenizer.encode_prompt(CALIBRATION).ok());
    let mut ids = text.filter(|ids| !ids.is_empty()).unwrap_or_else(|| {
        let scattered = |i: usize| (i * 7919 % vocab_size.max(1)) as u32;
        (1..=CALIBRATION_TOKENS).map(scattered).collect()
    });
    ids.truncate(CALIBRATION_TOKENS);
    ids
}

/// The columns of `x`, `[tokens, cols]`, with the largest squares.
pub(crate) fn largest_columns(x: &[f32], cols: usize) -> [usize; Sketch::KNOWN] {
    let mut squares = vec![0.0; cols];
    for x in x.chunks_exact(cols) {
        squares.iter_mut().zip(x).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
    }
    let mut order: Vec<usize> = (0..cols).collect();
    order.sort_by(|a, b| f64::total_cmp(&squares[*b], &squares[*a]));
    let mut known = std::array::from_fn(|which| order[which]);
    known.sort_unstable();
    known
}

/// What choosing from bounds has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadCounts {
    /// Tokens that were chosen from bounds.
    pub tokens: u64,
    /// Rows of the head that were multiplied exactly for them.
    pub rows: u64,
}

/// Memory for choosing from bounds, reused.
#[derive(Debug, Default)]
pub(crate) struct HeadScratch {
    /// Inputs of the head, `[rows, hidden]`.
    pub(crate) x: Vec<f32>,
    pub(crate) bounds: Bounds,
    rows: Vec<u32>,
    products: Vec<f32>,
    found: Vec<TokenLogit>,
    dense: DenseScratch,
    logits: Vec<f32>,
    pub(crate) counts: HeadCounts,
}

/// What a choice wants of a row's logits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want<'a> {
    /// Which it depends on.
    pub(crate) reach: Reach,
    /// Tokens whose logits will be changed, in order.
    pub(crate) changed: &'a [u32],
    /// Negative infinity for tokens that are left out.
    pub(crate) mask: Option<&'a [f32]>,
}

impl Want<'_> {
    /// The largest logit.
    pub(crate) const LARGEST: Want<'static> =
        Want { reach: Reach { count: 1, below: f32::INFINITY }, changed: &[], mask: None };

    fn allows(&self, token: u32) -> bool {
        self.mask.is_none_or(|mask| mask[token as usize] > f32::NEG_INFINITY)
    }

    /// Whether a token may be chosen for its logit as it is.
    fn is_free(&self, token: u32) -> bool {
        self.allows(token) && self.changed.binary_search(&token).is_err()
    }

    /// No logit below this matters, where these are among the largest of the free ones.
    fn least(&self, largest: &[f32]) -> f32 {
        let highest = largest.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let near = ((f64::from(highest) - f64::from(self.reach.below)) as f32).next_down();
        if largest.len() < self.reach.count {
            return near;
        }
        near.max(largest.iter().copied().fold(f32::INFINITY, f32::min))
    }
}

/// Logits of some rows, as far as they are asked for.
#[derive(Debug)]
pub(crate) struct Bounded<'w> {
    pub(crate) exact: &'w DenseMatrix,
    pub(crate) runtime: &'w Runtime,
    pub(crate) rows: Range<usize>,
    pub(crate) scratch: &'w mut HeadScratch,
}

impl Bounded<'_> {
    /// Rows.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Some of the rows, counted from the first of these.
    pub(crate) fn part(&mut self, rows: Range<usize>) -> Bounded<'_> {
        let (exact, runtime, first) = (self.exact, self.runtime, self.rows.start);
        Bounded { exact, runtime, rows: first + rows.start..first + rows.end, scratch: self.scratch }
    }

    /// Logits of a row.
    pub(crate) fn vocab_size(&self) -> usize {
        self.exact.rows()
    }

    /// Whether a row has bounds: one that is not finite has none.
    pub(crate) fn has_bounds(&self, row: usize) -> bool {
        self.scratch.bounds.token(self.rows.start + row).is_some()
    }

    /// The tokens, in order, that a choice can depend on, and their logits. `None` where these are so many that all logits are
    /// to be taken, or the row has no bounds.
    pub(crate) fn among(&mut self, row: usize, want: &Want<'_>) -> Option<&mut [TokenLogit]> {
        let HeadScratch { x, bounds, rows, products, found, counts, .. } = &mut *self.scratch;
        let (row, cols, most) = (self.rows.start + row, self.exact.cols(), self.exact.rows() / SPARSE);
        let bounds = bounds.token(row)?;
        let multiply = |rows: &[u32], products: &mut Vec<f32>| {
            products.resize(rows.len(), 0.0);
            let x = &x[row * cols..(row + 1) * cols];
            self.exact.rows_linear(self.runtime.kernels, &self.runtime.pool, rows, x, products);
        };
        rows.clear();
        likeliest(bounds, want, rows);
        multiply(rows, products);
        let firsts = rows.len();
        let least = want.least(products);
        found.clear();
        found.extend(rows.drain(..).zip(products.iter().copied()));
        found.sort_unstable_by_key(|(token, _)| *token);
        let is_new = |token: u32| found.binary_search_by_key(&token, |(token, _)| *token).is_err();
        bounds.reaching(least, |token| want.is_free(token) && is_new(token), rows);
        rows.extend(want.changed.iter().filter(|token| want.allows(**token)));
        if firsts + rows.len() > most.max(1) {
            return None;
        }
        multiply(rows, products);
        found.extend(rows.iter().copied().zip(products.iter().copied()));
        found.sort_unstable_by_key(|(token, _)| *token);
        counts.tokens += 1;
        counts.rows += found.len() as u64;
        Some(found)
    }

    /// All logits of a row.
    pub(crate) fn all(&mut self, row: usize) -> &mut [f32] {
        let HeadScratch { x, dense, logits, counts, .. } = &mut *self.scratch;
        let (row, cols) = (self.rows.start + row, self.exact.cols());
        logits.resize(self.exact.rows(), 0.0);
        let x = &x[row * cols..(row + 1) * cols];
        self.exact.linear(self.runtime.kernels, &self.runtime.pool, x, dense, logits);
        counts.tokens += 1;
        counts.rows += self.exact.rows() as u64;
        logits
    }

    /// All logits of a row, negative infinity for tokens that are left out.
    pub(crate) fn all_allowed(&mut self, row: usize, mask: Option<&[f32]>) -> &mut [f32] {
        let logits = self.all(row);
        let left_out = logits.iter_mut().zip(mask.unwrap_or_default()).filter(|(_, mask)| **mask == f32::NEG_INFINITY);
        left_out.for_each(|(logit, mask)| *logit = *mask);
        logits
    }
}

/// The free tokens to begin with.
fn likeliest(bounds: TokenBounds<'_>, want: &Want<'_>, rows: &mut Vec<u32>) {
    // Where no number is given, the largest is the one that the others are held against.
    let count = if want.reach.count == usize::MAX { 1 } else { want.reach.count };
    bounds.likeliest(count, |token| want.is_free(token), rows);
}

/// The logits of a sequence's rows: all of them, `[rows, vocab]`, or as far as they are asked for.
#[derive(Debug)]
pub(crate) enum LogitRows<'a> {
    All { logits: &'a mut [f32], vocab_size: usize },
    Bounded(Bounded<'a>),
}

/// One of [`LogitRows`].
#[derive(Debug)]
pub(crate) enum LogitRow<'a> {
    All(&'a mut [f32]),
    Bounded(Bounded<'a>),
}

impl LogitRows<'_> {
    /// Rows.
    pub(crate) fn len(&self) -> usize {
        match self {
            LogitRows::All { logits, vocab_size } => logits.len() / vocab_size,
            LogitRows::Bounded(bounded) => bounded.len(),
        }
    }

    /// Lends the rows to a choice that others will follow: logits are changed as tokens are chosen.
    pub(crate) fn lend(&mut self, choose: impl FnOnce(&mut LogitRows<'_>)) {
        match self {
            LogitRows::All { logits, vocab_size } => {
                choose(&mut LogitRows::All { logits: &mut logits.to_vec(), vocab_size: *vocab_size });
            }
            LogitRows::Bounded(bounded) => choose(&mut LogitRows::Bounded(bounded.part(0..bounded.len()))),
        }
    }

    /// One of the rows.
    pub(crate) fn row(&mut self, row: usize) -> LogitRow<'_> {
        match self {
            LogitRows::All { logits, vocab_size } => {
                LogitRow::All(&mut logits[row * *vocab_size..(row + 1) * *vocab_size])
            }
            LogitRows::Bounded(bounded) => LogitRow::Bounded(bounded.part(row..row + 1)),
        }
    }
}

/// How much a sequence wants of the logits of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// All of them.
    All,
    /// The largest, some way down.
    Largest,
    /// None: it ends at the hidden states.
    Nothing,
}

#[cfg(test)]
mod tests;
