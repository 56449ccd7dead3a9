//! Byte-pair merges on their way into the library.
//!
//! The library indexes without checking where a merge's result is longer than any token, so merges are checked here
//! before it sees them.

use super::error::TokenizerError;
use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab};

/// The two sides of a merge written "left right": cut at the first space that is not the first character.
pub(super) fn split_merge(merge: &str) -> Option<(&str, &str)> {
    let first = merge.chars().next()?.len_utf8();
    let space = merge.get(first..)?.find(' ')? + first;
    Some((merge.get(..space)?, merge.get(space + 1..)?))
}

/// A builder with the vocabulary and its merges. `None` among the merges is one that could not be cut in two; `what`
/// names the list in errors.
pub(super) fn checked<'a>(
    vocabulary: Vocab,
    merges: impl Iterator<Item = Option<(&'a str, &'a str)>>,
    what: &str,
) -> Result<BpeBuilder, TokenizerError> {
    let mut joined = String::new();
    let mut checked = Vec::with_capacity(merges.size_hint().0);
    for (index, merge) in merges.enumerate() {
        let what = || format!("{what}[{index}]");
        let Some((left, right)) = merge else {
            return Err(TokenizerError::invalid(what(), "two tokens with a space between", "something else"));
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        if let Some(missing) = [left, right, &joined].into_iter().find(|&token| !vocabulary.contains_key(token)) {
            let found = format!("{left:?} + {right:?}, and {missing:?} is no token");
            return Err(TokenizerError::invalid(what(), "two tokens whose concatenation is a token", found));
        }
        checked.push((left.to_owned(), right.to_owned()));
    }
    Ok(BPE::builder().vocab_and_merges(vocabulary, checked))
}
