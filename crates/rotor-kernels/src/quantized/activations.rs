//! Activations quantised in blocks of 32, as ggml quantises what meets a quantised matrix.

use super::{BLOCK, PANEL, Panel};
use crate::dispatch::Kernels;
use crate::pool::Pool;

/// `tokens` rows of `cols` activations in int8, a scale to every 32.
#[derive(Debug, Default)]
pub struct BlockActivations {
    cols: usize,
    per_token: usize,
    panels: Vec<Panel>,
}

impl BlockActivations {
    /// Quantises `x`, `[tokens, cols]`: per block of 32, `scale = max |x| / 127` and `q = round_half_even(x / scale)`.
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
        self.panels.resize(tokens * self.per_token, Panel::ZERO);
        let quantize = |x: &[f32], panels: &mut [Panel]| {
            for (x, panel) in x.chunks(PANEL).zip(panels) {
                kernels.quantize_panel(x, panel);
            }
        };
        if tokens == 1 {
            // Less work than handing it to a thread.
            return quantize(x, &mut self.panels);
        }
        pool.for_each_chunk(&mut self.panels, self.per_token, |token, panels| {
            quantize(&x[token * cols..(token + 1) * cols], panels);
        });
    }

    /// Features per token.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Tokens.
    pub fn tokens(&self) -> usize {
        self.panels.len() / self.per_token.max(1)
    }

    pub(crate) fn token(&self, token: usize) -> &[Panel] {
        &self.panels[token * self.per_token..(token + 1) * self.per_token]
    }
}
