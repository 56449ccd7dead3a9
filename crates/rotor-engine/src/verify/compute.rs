//! The kernels in use, held against the plain reference on the file at hand.

use super::{Check, Outcome};
use crate::cache::SequenceCache;
use crate::chat::Message;
use crate::engine::{Engine, GenerateError};
use crate::model::{Step, Wanted, Workspace};
use rotor_kernels::attention::KvType;
use serde::Serialize;

/// The text whose logits are compared, and that the fingerprint continues.
const TEXT: &str = "The capital of France is Paris, and the capital of Italy is";

/// Ids taken where a model has no tokenizer.
const IDS: [u32; 12] = [1, 5, 9, 2, 14, 3, 7, 21, 4, 11, 6, 8];

/// Differences, as shares of the largest logit. Kernels differ from the reference by the order of float sums, about 1e-6; one
/// activation that falls on the other side of a rounding tie moves logits by up to a hundredth.
const USUAL_DIFFERENCE: f64 = 1e-4;
const LARGEST_DIFFERENCE: f64 = 3e-2;

/// The ids of the prompt that checks use: the model's tokens of a fixed text, or fixed ids.
///
/// # Errors
///
/// [`GenerateError`] where the tokenizer refuses the text.
pub fn prompt(engine: &Engine) -> Result<Vec<u32>, GenerateError> {
    match engine.tokenizer("verify") {
        Ok(_) => engine.encode_prompt(TEXT),
        Err(_) => {
            let vocabulary = u32::try_from(engine.model().config().vocab_size).unwrap_or(u32::MAX);
            Ok(IDS.iter().map(|id| id % vocabulary.max(1)).collect())
        }
    }
}

/// A sequence that is computed token by token, with keys and values in f32.
pub(super) struct Computation<'a> {
    engine: &'a Engine,
    cache: SequenceCache,
    workspace: Workspace,
}

impl<'a> Computation<'a> {
    pub(super) fn new(engine: &'a Engine, tokens: usize) -> Computation<'a> {
        let model = engine.model();
        let cache = SequenceCache::new(model.config(), tokens, KvType::F32);
        Computation { engine, cache, workspace: Workspace::new(model.runtime()) }
    }

    /// Appends tokens; returns the logits that are wanted, `[rows, vocab]`.
    pub(super) fn step(&mut self, tokens: &[u32], wanted: Wanted) -> Result<&[f32], GenerateError> {
        let step = Step { cache: &mut self.cache, tokens, wanted };
        let logits = self.engine.model().forward(&mut [step], &mut self.workspace)?;
        match logits.iter().find(|logit| !logit.is_finite()) {
            Some(&bad) => Err(GenerateError::NotFinite(bad)),
            None => Ok(logits),
        }
    }
}

/// Two sets of logits of the same tokens, compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The largest difference, as a share of the largest logit.
    pub difference: f64,
    /// Positions whose best token differs although the reference's margin exceeds the difference.
    pub other_best: usize,
    /// Positions compared.
    pub positions: usize,
}

impl Comparison {
    /// Logits of every token of a prompt, `[tokens, vocab]`, with keys and values in f32.
    ///
    /// # Errors
    ///
    /// [`GenerateError`] where they cannot be computed, or are not finite.
    pub fn logits(engine: &Engine, ids: &[u32]) -> Result<Vec<f32>, GenerateError> {
        Ok(Computation::new(engine, ids.len()).step(ids, Wanted::From(0))?.to_vec())
    }

    /// Compares two results of [`logits`](Self::logits).
    pub fn of(reference: &[f32], other: &[f32], vocab: usize) -> Comparison {
        let largest = f64::from(reference.iter().fold(f32::MIN_POSITIVE, |largest, logit| largest.max(logit.abs())));
        let differences = reference.iter().zip(other).map(|(a, b)| f64::from((a - b).abs()));
        let difference = differences.fold(0.0, f64::max) / largest;
        let differs = |(a, b): &(&[f32], &[f32])| {
            let ((best, margin), (found, _)) = (best(a), best(b));
            best != found && f64::from(margin) / largest > 2.0 * difference
        };
        let rows = || reference.chunks(vocab.max(1)).zip(other.chunks(vocab.max(1)));
        Comparison { difference, other_best: rows().filter(differs).count(), positions: rows().count() }
    }

    /// What the comparison means.
    pub fn check(&self) -> Check {
        let found = format!(
            "largest difference from the plain reference {:.1e} of the largest logit, {} of {} best tokens the same",
            self.difference,
            self.positions - self.other_best,
            self.positions
        );
        let outcome = match self.difference {
            difference if self.other_best > 0 || difference > LARGEST_DIFFERENCE => Outcome::Failed,
            difference if difference > USUAL_DIFFERENCE => Outcome::Warning,
            _ => Outcome::Ok,
        };
        Check::new("kernels", outcome, found)
    }
}

/// The likeliest token and how far it is ahead of the second, the lower id first where two are equal.
pub(super) fn best(logits: &[f32]) -> (u32, f32) {
    let (mut best, mut second, mut index) = (f32::NEG_INFINITY, f32::NEG_INFINITY, 0);
    for (at, &logit) in logits.iter().enumerate() {
        if logit > best {
            (second, best, index) = (best, logit, at);
        } else if logit > second {
            second = logit;
        }
    }
    (u32::try_from(index).unwrap_or(u32::MAX), best - second)
}

/// The file's own template and ends: does a message become tokens, and does the model have a token that ends its answer?
pub fn chat(engine: &Engine) -> Check {
    let Ok(tokenizer) = engine.tokenizer("verify") else {
        return Check::new("chat", Outcome::Skipped, "the file has no tokenizer");
    };
    if matches!(engine.chat_template(), Err(GenerateError::NoChatTemplate)) {
        return Check::new("chat", Outcome::Skipped, "the file has no chat template; texts are completed");
    }
    match engine.encode_chat(&[Message::new("user", "Hello")]) {
        Err(error) => Check::new("chat", Outcome::Failed, error.to_string()),
        Ok(ids) if ids.is_empty() => Check::new("chat", Outcome::Failed, "the template makes nothing of a message"),
        Ok(_) if tokenizer.end_of_generation().is_empty() => {
            Check::new("chat", Outcome::Warning, "no token ends an answer")
        }
        Ok(ids) => {
            let ends = tokenizer.end_of_generation().iter();
            let ends: Vec<&str> = ends.filter_map(|&id| tokenizer.token_text(id)).collect();
            Check::new(
                "chat",
                Outcome::Ok,
                format!("a message becomes {} tokens; {} ends an answer", ids.len(), ends.join(", ")),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_counts_where_it_changes_the_best_token_or_is_large() {
        let reference = [1.0, 3.0, 2.0, 0.5, -4.0, 0.25];
        let check = |other: &[f32]| Comparison::of(&reference, other, 3).check().outcome;
        assert_eq!(check(&reference), Outcome::Ok);
        assert_eq!(check(&[1.0, 3.0, 2.01, 0.5, -4.0, 0.25]), Outcome::Warning);
        assert_eq!(check(&[1.0, 3.0, 2.0, 0.5, -3.0, 0.25]), Outcome::Failed);
        let tie = Comparison::of(&[1.0, 1.000_001], &[1.000_001, 1.0], 2);
        assert_eq!((tie.other_best, tie.check().outcome), (0, Outcome::Ok));
        let other = Comparison::of(&[100.0, 1.0, 1.5], &[100.0, 1.0, 1.5], 3);
        assert_eq!((other.other_best, other.positions), (0, 1));
        assert_eq!(best(&[1.0, 5.0, 4.5]), (1, 0.5));
        assert_eq!(best(&[2.0, 2.0]), (0, 0.0));
    }
}
