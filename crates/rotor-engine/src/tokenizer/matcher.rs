//! The search for added tokens, by the `tokenizers` library.

use super::description::Matching;
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
    /// Its text.
    pub(super) text: String,
    /// How it treats the text around it.
    pub(super) matching: Matching,
}

/// A stretch of text, and the token it is, where it is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Bytes of the text.
    pub(super) range: Range<usize>,
    /// The added token, or `None` for text to be encoded.
    pub(super) token: Option<u32>,
}

/// Finds added tokens in a text, each as it is written, without normalisation; the longest that matches wins.
#[derive(Debug)]
pub(super) struct Matcher(AddedVocabulary);

impl Matcher {
    /// A matcher of these tokens.
    pub(super) fn new<'a>(tokens: impl Iterator<Item = &'a AddedToken> + Clone) -> Result<Self, TokenizerError> {
        let failed = TokenizerError::library;
        // The library asks a model for the ids; this one knows nothing else.
        let ids: Vocab = tokens.clone().map(|token| (token.text.clone(), token.id)).collect();
        let ids = BPE::builder()
            .vocab_and_merges(ids, Vec::new())
            .cache_capacity(0)
            .build()
            .map_err(failed("cannot index the added tokens"))?;
        let mut matcher = AddedVocabulary::new();
        let tokens = tokens.map(|token| {
            tokenizers::AddedToken::from(token.text.clone(), token.special)
                .single_word(token.matching.single_word)
                .lstrip(token.matching.lstrip)
                .rstrip(token.matching.rstrip)
                .normalized(false)
        });
        matcher
            .add_tokens(tokens, &ids, None::<&NormalizerWrapper>)
            .map_err(failed("cannot index the added tokens"))?;
        Ok(Self(matcher))
    }

    /// The segments of `text`, which begins at byte `offset` of the whole.
    pub(super) fn find(&self, text: &str, offset: usize) -> Vec<Segment> {
        if self.0.is_empty() {
            return vec![Segment { range: offset..offset + text.len(), token: None }];
        }
        let found = self.0.extract_and_normalize(None::<&NormalizerWrapper>, text);
        found
            .get_splits(OffsetReferential::Original, OffsetType::Byte)
            .into_iter()
            .map(|(_, (start, end), tokens)| Segment {
                range: offset + start..offset + end,
                token: tokens.as_ref().and_then(|tokens| tokens.first()).map(|token| token.id),
            })
            .collect()
    }
}
