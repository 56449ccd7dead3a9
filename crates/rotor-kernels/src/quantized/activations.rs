//! Activations of 15 bits, a scale to every 256.
//!
//! int8 with a scale to every 32, as in ggml, leaves an error of a 254th of the largest of them: enough to turn a close
//! decision of a model with a few large activations. 15 bits leave a 32,000th, and need no second pass over the weights.

use super::{BASE, BLOCK, LARGEST, PANEL, Panel};
use crate::pool::Pool;

/// `tokens` rows of `cols` activations in panels of 256, each with its scale.
#[derive(Debug, Default)]
pub struct BlockActivations {
    cols: usize,
    per_token: usize,
    panels: Vec<Panel>,
}

impl BlockActivations {
    /// Quantises `x`, `[tokens, cols]`: per panel of 256 `scale = max |x| / 16256`, and integers `round_half_even(x / scale)`.
    ///
    /// A panel with a NaN or an infinity has a scale of NaN, which carries on to every output.
    ///
    /// # Panics
    /// If `cols` is not a multiple of 32, or `x.len()` none of `cols`.
    pub fn quantize(&mut self, pool: &Pool, x: &[f32], cols: usize) {
        assert!(cols > 0 && cols.is_multiple_of(BLOCK), "{cols} columns are no whole blocks of {BLOCK}");
        assert!(x.len().is_multiple_of(cols), "{} values are not rows of {cols}", x.len());
        let tokens = x.len() / cols;
        (self.cols, self.per_token) = (cols, cols.div_ceil(PANEL));
        // A narrower row must not inherit a wider one's values as padding.
        self.panels.clear();
        self.panels.resize(tokens * self.per_token, Panel::ZERO);
        let quantize =
            |x: &[f32], panels: &mut [Panel]| x.chunks(PANEL).zip(panels).for_each(|(x, panel)| panel.set(x));
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

    /// One token's panels.
    pub(crate) fn token(&self, token: usize) -> &[Panel] {
        &self.panels[token * self.per_token..(token + 1) * self.per_token]
    }
}

impl Panel {
    /// Quantises up to 256 values, whole blocks. All below 1e-30 count as zeros.
    pub(super) fn set(&mut self, x: &[f32]) {
        let largest =
            x.iter().fold(0f32, |largest, x| if x.is_finite() { largest.max(x.abs()) } else { f32::INFINITY });
        let (scale, inverse) = match largest {
            f32::INFINITY => (f32::NAN, 0.0),
            ..1e-30 => (0.0, 0.0),
            _ => (largest / f32::from(LARGEST), f32::from(LARGEST) / largest),
        };
        self.scale = scale;
        for (b, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
            // What is not finite has a scale that says so.
            let x = x.map(|x| if scale.is_nan() { 0 } else { rounded(x * inverse) });
            let high = |x: i16| (x + BASE / 2).div_euclid(BASE);
            self.high[b] = x.map(|x| high(x) as i8);
            self.low[b] = x.map(|x| (x - BASE * high(x)) as i8);
            let sum = |x: &[i16]| x.iter().map(|x| i32::from(*x)).sum::<i32>();
            let (first, second) = (sum(&x[..BLOCK / 2]), sum(&x[BLOCK / 2..]));
            (self.half_sums[2 * b], self.half_sums[2 * b + 1]) = (first as f32 * scale, second as f32 * scale);
            self.sums[b] = (first + second) as f32 * scale;
        }
    }

    /// What the columns are rounded to, exactly.
    pub(crate) fn values(&self) -> impl Iterator<Item = f64> {
        let (high, low) = (self.high.as_flattened(), self.low.as_flattened());
        let integer = |(high, low): (&i8, &i8)| f64::from(i32::from(BASE) * i32::from(*high) + i32::from(*low));
        high.iter().zip(low).map(integer).map(|integer| integer * f64::from(self.scale))
    }

    /// The integer of a column.
    #[cfg(test)]
    pub(super) fn x(&self, column: usize) -> i16 {
        let digit = |digits: &[[i8; BLOCK]; 8]| i16::from(digits[column / BLOCK][column % BLOCK]);
        BASE * digit(&self.high) + digit(&self.low)
    }
}

/// To the nearest integer, to even where two are as near, of a number below 2^22: beyond 2^23 an f32 has no fractions.
fn rounded(x: f32) -> i16 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT - SHIFT) as i16
}
