//! Is a model's file sound, and does this machine compute it right?
//!
//! Each question is one [`Check`] with an outcome and what was found, so that a report can be read, compared and pasted.
//! [`weights`] looks at the numbers in the file, [`Comparison`] holds the kernels in use against the plain reference on this
//! very file, and a [`Fingerprint`] is what the reference itself generates, to be recorded and compared elsewhere.

mod compute;
mod fingerprint;
mod weights;

pub use compute::{Comparison, chat, prompt};
pub use fingerprint::{FINGERPRINT_TOKENS, Fingerprint, MARGIN, Match};
pub use weights::weights;

use serde::Serialize;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Nothing is wrong.
    Ok,
    /// It could not be checked, for want of something to check it against.
    Skipped,
    /// Unusual, and perhaps meant so.
    Warning,
    /// Wrong.
    Failed,
}

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked, in a word or two.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found.
    pub found: String,
}

impl Check {
    /// A check that ended in some way.
    pub fn new(name: &'static str, outcome: Outcome, found: impl Into<String>) -> Check {
        Check { name, outcome, found: found.into() }
    }
}

/// The worst outcome of several checks.
pub fn worst(checks: &[Check]) -> Outcome {
    checks.iter().map(|check| check.outcome).max().unwrap_or(Outcome::Ok)
}
