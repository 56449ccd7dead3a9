//! Activations in two int8 digits, a scale to every 32 of each.
//!
//! One digit, as in ggml, leaves an error of a 254th of the largest of 32 neighbours: enough to turn a close decision of a model
//! with a few large activations. A second digit of what the first left behind makes the error a 64,000th, for no second pass
//! over the weights: to the kernels the digits are two tokens, which share each unpacking of the codes.

use super::{BLOCK, PANEL, Panel};
use crate::dispatch::Kernels;
use crate::pool::Pool;

/// `tokens` rows of `cols` activations: two digits a token, high and low, each int8 with a scale to every 32.
#[derive(Debug, Default)]
pub struct BlockActivations {
    cols: usize,
    per_token: usize,
    panels: Vec<Panel>,
}

impl BlockActivations {
    /// Quantises `x`, `[tokens, cols]`: per block of 32, `scale = max |x| / 127` and `high = round_half_even(x / scale)`; and
    /// `x - scale * high` once more in the same way.
    ///
    /// A block with a NaN or an infinity has a scale of NaN, which carries on to every output.
    ///
    /// # Panics
    /// If `cols` is not a multiple of 32, or `x.len()` none of `cols`.
    pub fn quantize(&mut self, kernels: &Kernels, pool: &Pool, x: &[f32], cols: usize) {
        assert!(cols > 0 && cols.is_multiple_of(BLOCK), "{cols} columns are no whole blocks of {BLOCK}");
        assert!(x.len().is_multiple_of(cols), "{} values are not rows of {cols}", x.len());
        let tokens = x.len() / cols;
        (self.cols, self.per_token) = (cols, cols.div_ceil(PANEL));
        // A narrower row must not inherit a wider one's values as padding.
        self.panels.clear();
        self.panels.resize(2 * tokens * self.per_token, Panel::ZERO);
        let quantize = |x: &[f32], panels: &mut [Panel]| {
            let (high, low) = panels.split_at_mut(panels.len() / 2);
            for ((x, high), low) in x.chunks(PANEL).zip(high).zip(low) {
                kernels.quantize_panel(x, high);
                let mut rest = [0.0; PANEL];
                let rest = &mut rest[..x.len()];
                for (i, (rest, x)) in rest.iter_mut().zip(x).enumerate() {
                    let (block, q) = (i / BLOCK, high.q[i / BLOCK][i % BLOCK]);
                    *rest = high.scales[block][0].mul_add(-f32::from(q), *x);
                }
                kernels.quantize_panel(rest, low);
            }
        };
        if tokens == 1 {
            // Less work than handing it to a thread.
            return quantize(x, &mut self.panels);
        }
        pool.for_each_chunk(&mut self.panels, 2 * self.per_token, |token, panels| {
            quantize(&x[token * cols..(token + 1) * cols], panels);
        });
    }

    /// Features per token.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Tokens.
    pub fn tokens(&self) -> usize {
        self.panels.len() / (2 * self.per_token).max(1)
    }

    /// The digits of all tokens: a token's high one, its low one, the next token's high one.
    pub(crate) fn digit(&self, number: usize) -> &[Panel] {
        &self.panels[number * self.per_token..(number + 1) * self.per_token]
    }
}
