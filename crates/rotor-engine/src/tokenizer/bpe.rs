//! Byte-pair merges on their way into the library.
//!
//! The library indexes without checking where a merge's result is longer than any token, so lengths are checked here
//! before it sees them. It names a token that is missing; here is added which merge wants it.

use super::error::TokenizerError;
use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab};

/// The two sides of a merge written "left right": cut at the first space that is not the first character.
pub(super) fn split_merge(merge: &str) -> Option<(&str, &str)> {
    let first = merge.chars().next()?.len_utf8();
    let space = merge.get(first..)?.find(' ')? + first;
    Some((merge.get(..space)?, merge.get(space + 1..)?))
}

/// The model of a vocabulary and its merges. `None` among the merges is one that could not be cut in two; `what` names
/// the list in errors; `configure` sets the model's options.
pub(super) fn build<'a>(
    vocabulary: Vocab,
    merges: impl Iterator<Item = Option<(&'a str, &'a str)>> + Clone,
    what: &str,
    configure: impl FnOnce(BpeBuilder) -> BpeBuilder,
) -> Result<BPE, TokenizerError> {
    let longest = vocabulary.keys().map(String::len).max().unwrap_or(0);
    let mut owned = Vec::with_capacity(merges.size_hint().0);
    for (index, merge) in merges.clone().enumerate() {
        let (left, right) = merge.ok_or_else(|| {
            TokenizerError::invalid(format!("{what}[{index}]"), "two tokens with a space between", "something else")
        })?;
        if left.len() + right.len() > longest {
            return Err(no_token(what, index, (left, right)));
        }
        owned.push((left.to_owned(), right.to_owned()));
    }
    configure(BPE::builder().vocab_and_merges(vocabulary, owned)).build().map_err(|error| {
        let Some(tokenizers::models::bpe::Error::MergeTokenOutOfVocabulary(missing)) = error.downcast_ref() else {
            return TokenizerError::library("cannot build the vocabulary")(error);
        };
        let uses =
            |&(left, right): &(&str, &str)| left == missing || right == missing || [left, right].concat() == *missing;
        let culprit = merges.enumerate().find_map(|(index, merge)| Some((index, merge.filter(uses)?)));
        culprit.map_or_else(
            || TokenizerError::invalid(what, "tokens of the vocabulary", format!("{missing:?}")),
            |(index, merge)| no_token(what, index, merge),
        )
    })
}

fn no_token(what: &str, index: usize, (left, right): (&str, &str)) -> TokenizerError {
    let expected = "two tokens whose concatenation is a token";
    TokenizerError::invalid(format!("{what}[{index}]"), expected, format!("{left:?} and {right:?}"))
}
