//! What the plain reference generates, to be recorded here and compared there.
//!
//! The scalar kernels with keys and values in f32 have one order of operations, so two machines that agree on IEEE arithmetic
//! generate the same tokens. Where they do not, the margin tells: a token that was hardly ahead of the second may fall either
//! way, because libraries of mathematics differ in the last bit; one that was clearly ahead may not. After the first token
//! that differs the texts have parted, and what follows says nothing.

use super::compute::{Computation, best};
use crate::engine::{Engine, GenerateError};
use crate::model::Wanted;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Tokens of a fingerprint.
pub const FINGERPRINT_TOKENS: usize = 64;

/// The margin, as a share of the largest logit, above which another token is a fault.
pub const MARGIN: f64 = 1e-3;

/// Greedily generated tokens, and how clear each choice was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The ids before them.
    pub prompt: Vec<u32>,
    /// The likeliest token each time, ends of text included.
    pub tokens: Vec<u32>,
    /// How far each was ahead of the second, as a share of the largest logit.
    pub margins: Vec<f64>,
}

/// How two fingerprints compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "match")]
pub enum Match {
    /// Every token is the same.
    Same,
    /// The token at this index differs, and both choices were close.
    Tie {
        /// The index.
        at: usize,
    },
    /// The token at this index differs although the choice was clear.
    Different {
        /// The index.
        at: usize,
    },
    /// The prompts differ: another model, or another tokenizer.
    OtherPrompt,
}

impl Fingerprint {
    /// Generates a fingerprint; the engine has to run the scalar kernels. `progress` hears of tokens done.
    ///
    /// # Errors
    ///
    /// [`GenerateError`] where the logits cannot be computed, or are not finite.
    pub fn take(engine: &Engine, prompt: &[u32], progress: &mut dyn FnMut(u64)) -> Result<Fingerprint, GenerateError> {
        let mut computation = Computation::new(engine, prompt.len() + FINGERPRINT_TOKENS);
        let (mut tokens, mut margins) = (Vec::new(), Vec::new());
        while tokens.len() < FINGERPRINT_TOKENS {
            let logits = match tokens.last() {
                None => computation.step(prompt, Wanted::Last)?,
                Some(&last) => computation.step(&[last], Wanted::Last)?,
            };
            let (token, margin) = best(logits);
            let largest = logits.iter().fold(f32::MIN_POSITIVE, |largest, logit| largest.max(logit.abs()));
            tokens.push(token);
            margins.push(f64::from(margin) / f64::from(largest));
            progress(tokens.len() as u64);
        }
        Ok(Fingerprint { prompt: prompt.to_vec(), tokens, margins })
    }

    /// Eight digits that stand for the tokens, for people to compare.
    pub fn digest(&self) -> String {
        let bytes: Vec<u8> = self.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        Sha256::digest(&bytes).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Compares with one that was recorded.
    pub fn compare(&self, recorded: &Fingerprint) -> Match {
        if self.prompt != recorded.prompt {
            return Match::OtherPrompt;
        }
        let length = self.tokens.len().max(recorded.tokens.len());
        let Some(at) = (0..length).find(|&at| self.tokens.get(at) != recorded.tokens.get(at)) else {
            return Match::Same;
        };
        let clear = |fingerprint: &Fingerprint| fingerprint.margins.get(at).is_none_or(|&margin| margin > MARGIN);
        if clear(self) || clear(recorded) { Match::Different { at } } else { Match::Tie { at } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(tokens: &[u32], margins: &[f64]) -> Fingerprint {
        Fingerprint { prompt: vec![1], tokens: tokens.to_vec(), margins: margins.to_vec() }
    }

    #[test]
    fn a_difference_is_a_fault_where_the_choice_was_clear() {
        let recorded = fingerprint(&[4, 5, 6], &[0.1, 0.0005, 0.2]);
        assert_eq!(recorded.compare(&recorded), Match::Same);
        assert_eq!(fingerprint(&[4, 7, 9], &[0.1, 0.0004, 0.3]).compare(&recorded), Match::Tie { at: 1 });
        assert_eq!(fingerprint(&[4, 7, 9], &[0.1, 0.002, 0.3]).compare(&recorded), Match::Different { at: 1 });
        assert_eq!(fingerprint(&[3, 5, 6], &[0.1, 0.0005, 0.2]).compare(&recorded), Match::Different { at: 0 });
        assert_eq!(fingerprint(&[4, 5], &[0.1, 0.0005]).compare(&recorded), Match::Different { at: 2 });
        let other = Fingerprint { prompt: vec![2], ..recorded.clone() };
        assert_eq!(other.compare(&recorded), Match::OtherPrompt);
        assert_eq!(recorded.digest().len(), 8);
    }
}
