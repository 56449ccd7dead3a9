//! Perplexity, by llama.cpp's protocol, so that figures compare.
//!
//! The text's tokens are cut into chunks of the context's length; where the model wants a beginning-of-sequence token it
//! replaces the first of each chunk. The second half of each chunk is scored: every token is predicted from at least half a
//! context. What does not fill a chunk is dropped.

use crate::engine::{Engine, GenerateError, Session};
use std::ops::ControlFlow;

/// The running figure.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Perplexity {
    /// Tokens scored.
    pub tokens: usize,
    sum: f64,
    sum_of_squares: f64,
}

impl Perplexity {
    /// Mean negative log-likelihood, in nats per token.
    pub fn mean(&self) -> f64 {
        self.sum / self.tokens as f64
    }

    /// `exp(mean)`.
    pub fn value(&self) -> f64 {
        self.mean().exp()
    }

    /// Standard error of [`Perplexity::value`].
    pub fn standard_error(&self) -> f64 {
        let n = self.tokens as f64;
        let variance = (self.sum_of_squares / n - self.mean().powi(2)).max(0.0);
        self.value() * (variance / (n - 1.0).max(1.0)).sqrt()
    }

    fn add(&mut self, nll: f64) {
        self.tokens += 1;
        self.sum += nll;
        self.sum_of_squares += nll * nll;
    }
}

/// Why a perplexity could not be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PerplexityError {
    /// Too little text.
    #[error("the text has {tokens} tokens, but one chunk needs {context}: give more text, or a smaller --ctx")]
    TooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a chunk.
        context: usize,
    },
    /// A chunk of fewer than 4 tokens has no half worth scoring.
    #[error("--ctx must be at least 4, not {0}")]
    Context(usize),
    /// The model.
    #[error(transparent)]
    Generate(#[from] GenerateError),
}

/// Scores `ids` in chunks of the session's context, at most `chunks` of them; `on_chunk(done, of, figure so far)` may break
/// off, and then the figure so far is the result.
///
/// # Errors
/// Where the ids do not fill one chunk, or the model refuses them.
pub fn perplexity(
    engine: &Engine,
    session: &mut Session,
    ids: &[u32],
    bos: Option<u32>,
    chunks: usize,
    on_chunk: &mut dyn FnMut(usize, usize, &Perplexity) -> ControlFlow<()>,
) -> Result<Perplexity, PerplexityError> {
    let context = session.context();
    if context < 4 {
        return Err(PerplexityError::Context(context));
    }
    let count = (ids.len() / context).min(chunks);
    if count == 0 {
        return Err(PerplexityError::TooShort { tokens: ids.len(), context });
    }
    let vocab_size = engine.model().config().vocab_size;
    let mut figure = Perplexity::default();
    for (index, chunk) in ids.chunks_exact(context).take(count).enumerate() {
        let mut chunk = chunk.to_vec();
        if let Some(bos) = bos {
            chunk[0] = bos;
        }
        let mut not_finite = None;
        engine.logits(session, &chunk, context / 2, &mut |first, rows| {
            for (row, logits) in rows.chunks_exact(vocab_size).enumerate() {
                let Some(target) = chunk.get(first + row + 1) else { continue };
                let nll = negative_log_likelihood(logits, *target as usize);
                if !nll.is_finite() {
                    not_finite = Some(nll as f32);
                }
                figure.add(nll);
            }
        })?;
        if let Some(value) = not_finite {
            return Err(GenerateError::NotFinite(value).into());
        }
        if on_chunk(index + 1, count, &figure).is_break() {
            break;
        }
    }
    Ok(figure)
}

/// `-log softmax(logits)[target]`, in f64.
fn negative_log_likelihood(logits: &[f32], target: usize) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    sum.ln() - f64::from(logits[target] - max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_distribution_has_the_vocabulary_as_perplexity() {
        let mut figure = Perplexity::default();
        for target in 0..7 {
            figure.add(negative_log_likelihood(&[3.0; 7], target));
        }
        assert!((figure.value() - 7.0).abs() < 1e-12);
        assert!(figure.standard_error() < 1e-6);
    }

    #[test]
    fn the_standard_error_is_that_of_the_mean_carried_through_exp() {
        let mut figure = Perplexity::default();
        for nll in [1.0, 2.0, 3.0] {
            figure.add(nll);
        }
        assert!((figure.value() - 2f64.exp()).abs() < 1e-12);
        assert!((figure.standard_error() - 2f64.exp() * (2.0f64 / 3.0 / 2.0).sqrt()).abs() < 1e-12);
    }
}
