//! Finding the tokens that stand for a fixed text before the rest is cut into pieces.
//!
//! Control tokens (`<|eot_id|>`) steer a model, so they may only come from the template or from a caller who asks for
//! them, never from what a user typed. User-defined tokens are mere vocabulary and match everywhere. A rendered chat is
//! both at once: glue from the template around protected content.

use super::description::{Matching, TokenizerDescription};
use super::error::TokenizerError;
use super::matcher::{AddedToken, Matcher, Segment};
use super::vocabulary::Kind;
use std::ops::Range;

/// Matchers for all added tokens, and for those that may stand in any text.
#[derive(Debug)]
pub(super) struct AddedTokens {
    all: Matcher,
    plain: Matcher,
}

impl AddedTokens {
    /// Matchers for the added tokens of a description, those without a row included.
    pub(super) fn new(description: &TokenizerDescription) -> Result<Self, TokenizerError> {
        let is_added = |kind| matches!(kind, Kind::Control | Kind::Unknown | Kind::UserDefined);
        let within =
            description.vocabulary.iter().filter(|entry| is_added(entry.2)).map(|(id, text, kind)| AddedToken {
                id,
                special: kind.is_special(),
                text: text.to_owned(),
                matching: description.matching.get(&id).copied().unwrap_or_default(),
            });
        let beyond = description.beyond.iter().map(|token| AddedToken {
            id: token.id,
            special: token.special,
            text: token.text.clone(),
            matching: Matching::default(),
        });
        let tokens: Vec<AddedToken> = within.chain(beyond).collect();
        let plain = tokens.iter().filter(|token| !token.special);
        Ok(Self { all: Matcher::new(tokens.iter())?, plain: Matcher::new(plain)? })
    }

    /// Cuts a text at its user-defined tokens, and at its control tokens where `special`, except that none is found that
    /// touches one of the `protected` stretches (in order, on character boundaries).
    pub(super) fn segments(&self, text: &str, special: bool, protected: &[Range<usize>]) -> Vec<Segment> {
        if !special {
            return self.plain.find(text, 0);
        }
        if protected.is_empty() {
            return self.all.find(text, 0);
        }
        let mut segments = Vec::new();
        for segment in self.all.find(&masked(text, protected), 0) {
            let touches = |range: &Range<usize>| range.start < segment.range.end && segment.range.start < range.end;
            if segment.token.is_some() && !protected.iter().any(touches) {
                segments.push(segment);
                continue;
            }
            let fragment = text.get(segment.range.clone()).unwrap_or_default();
            segments.extend(self.plain.find(fragment, segment.range.start));
        }
        segments
    }
}

/// The text with the protected bytes blanked out, every byte in its place.
fn masked(text: &str, protected: &[Range<usize>]) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut copied = 0;
    for range in protected {
        masked.push_str(text.get(copied..range.start).unwrap_or_default());
        masked.extend(std::iter::repeat_n('\0', range.len()));
        copied = range.end;
    }
    masked.push_str(text.get(copied..).unwrap_or_default());
    masked
}
