//! What tokens may follow: the place where grammars and JSON schemas enter the choice of tokens.

use std::fmt::Debug;

/// A constraint allows no token, or was given one that it does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the constraint cannot be kept: {0}")]
pub struct ConstraintError(pub String);

/// What a constraint says about the next token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Tokens whose logits were left as they are.
    Some,
    /// None: the text is complete and ends here.
    End,
}

/// Restricts each next token of one sequence. A sequence asks [`Constraint::mask`] before it chooses a token and tells the
/// choice to [`Constraint::accept`].
pub trait Constraint: Debug + Send {
    /// Sets the logits, `[vocab]`, of all tokens that may not come next to negative infinity. Where the text may end here, the
    /// end-of-generation tokens are left as they are. What the logits are is not for the constraint to look at: where few of
    /// them will be computed, those of the tokens that are left, all are zeros.
    ///
    /// # Errors
    /// If no token is allowed and the text may not end either.
    fn mask(&mut self, logits: &mut [f32]) -> Result<Allowed, ConstraintError>;

    /// Goes on by this token.
    ///
    /// # Errors
    /// If the token is not allowed here.
    fn accept(&mut self, token: u32) -> Result<(), ConstraintError>;

    /// Takes back the last `tokens` tokens that were accepted.
    ///
    /// # Errors
    /// If there are not so many.
    fn roll_back(&mut self, tokens: usize) -> Result<(), ConstraintError>;

    /// A copy in the same state, for another choice of the same prompt; `None` if the constraint cannot be copied.
    fn fork(&self) -> Option<Box<dyn Constraint>>;
}
