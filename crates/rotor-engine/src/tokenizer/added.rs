//! Finding the tokens that stand for a fixed text before the rest is cut into pieces.
//!
//! Control tokens (`<|eot_id|>`) steer a model, so they may only come from the template or from a caller who asks for
//! them, never from what a user typed. User-defined tokens are mere vocabulary and match everywhere. A rendered chat is
//! both at once: glue from the template around protected content.

use super::error::TokenizerError;
use std::ops::Range;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::tokenizer::AddedVocabulary;
use tokenizers::{NormalizerWrapper, OffsetReferential, OffsetType};

/// A token matched as a whole text.
pub(super) struct AddedToken {
    /// Its id.
    pub(super) id: u32,
    /// Whether it is a control token.
    pub(super) special: bool,
    /// Its text, and how it treats the whitespace around it.
    pub(super) token: tokenizers::AddedToken,
}

/// A stretch of text, and the token it is, where it is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Bytes of the text.
    pub(super) range: Range<usize>,
    /// The added token, or `None` for text to be encoded.
    pub(super) token: Option<u32>,
}

/// Matchers for all added tokens, and for those that may stand in any text.
#[derive(Debug)]
pub(super) struct AddedTokens {
    all: AddedVocabulary,
    plain: AddedVocabulary,
}

impl AddedTokens {
    /// Matchers for these tokens; the longest that matches wins.
    pub(super) fn new(tokens: impl Iterator<Item = AddedToken>) -> Result<Self, TokenizerError> {
        let (mut all, mut plain) = (Vec::new(), Vec::new());
        for added in tokens {
            if !added.special {
                plain.push((added.id, added.token.clone()));
            }
            all.push((added.id, added.token));
        }
        Ok(Self { all: matcher(all)?, plain: matcher(plain)? })
    }

    /// Cuts a text at its user-defined tokens, and at its control tokens where `special`, except that none is found that
    /// touches one of the `protected` stretches (in order, on character boundaries).
    pub(super) fn segments(&self, text: &str, special: bool, protected: &[Range<usize>]) -> Vec<Segment> {
        if !special {
            return find(&self.plain, text, 0);
        }
        if protected.is_empty() {
            return find(&self.all, text, 0);
        }
        let mut segments = Vec::new();
        for segment in find(&self.all, &masked(text, protected), 0) {
            let touches = |range: &Range<usize>| range.start < segment.range.end && segment.range.start < range.end;
            if segment.token.is_some() && !protected.iter().any(touches) {
                segments.push(segment);
                continue;
            }
            let fragment = text.get(segment.range.clone()).unwrap_or_default();
            segments.extend(find(&self.plain, fragment, segment.range.start));
        }
        segments
    }
}

/// A matcher that finds each text as written, without normalisation.
fn matcher(tokens: Vec<(u32, tokenizers::AddedToken)>) -> Result<AddedVocabulary, TokenizerError> {
    let failed = TokenizerError::library;
    // The library asks a model for the ids; this one knows nothing else.
    let ids: Vocab = tokens.iter().map(|(id, token)| (token.content.clone(), *id)).collect();
    let ids = BPE::builder()
        .vocab_and_merges(ids, Vec::new())
        .cache_capacity(0)
        .build()
        .map_err(failed("cannot index the added tokens"))?;
    let mut matcher = AddedVocabulary::new();
    let tokens = tokens.into_iter().map(|(_, token)| token.normalized(false));
    matcher.add_tokens(tokens, &ids, None::<&NormalizerWrapper>).map_err(failed("cannot index the added tokens"))?;
    Ok(matcher)
}

/// The segments of `text`, which begins at byte `offset` of the whole.
fn find(matcher: &AddedVocabulary, text: &str, offset: usize) -> Vec<Segment> {
    if matcher.is_empty() {
        return vec![Segment { range: offset..offset + text.len(), token: None }];
    }
    let found = matcher.extract_and_normalize(None::<&NormalizerWrapper>, text);
    found
        .get_splits(OffsetReferential::Original, OffsetType::Byte)
        .into_iter()
        .map(|(_, (start, end), tokens)| Segment {
            range: offset + start..offset + end,
            token: tokens.as_ref().and_then(|tokens| tokens.first()).map(|token| token.id),
        })
        .collect()
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
