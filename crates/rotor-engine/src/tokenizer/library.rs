//! The `tokenizers` library: the steps before merging, and the merging of pairs. `matcher.rs` has its search for added tokens;
//! nothing else uses it.
//!
//! Its own loader is not used: that
//! one panics on some malformed merges, renumbers added tokens, and keeps truncation settings that would shorten prompts.

use super::description::{BytePairs, Spelling};
use super::error::TokenizerError;
use super::matcher::Segment;
use super::steps;
use super::vocabulary::{Kind, Vocabulary};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab};
use tokenizers::tokenizer::PreTokenizedString;
use tokenizers::tokenizer::normalizer::Range as NormalizedRange;
use tokenizers::{Model as _, Normalizer as _, PreTokenizer as _};
use tokenizers::{NormalizerWrapper, OffsetType, PreTokenizerWrapper, Token};

/// Normaliser, pre-tokenizer and byte-pair merging.
#[derive(Debug)]
pub(super) struct Pipeline {
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    model: BPE,
}

impl Pipeline {
    /// The pipeline of a description.
    pub(super) fn new(pairs: &BytePairs, vocabulary: &Vocabulary) -> Result<Self, TokenizerError> {
        // Encoding a prompt is short work; the library's threads would only fight the kernels'.
        tokenizers::utils::parallelism::set_parallelism(false);
        let normalizer = part("cannot use the normalizer", steps::to_json(&pairs.normalizer, "normalizers"))?;
        let pre_tokenizer =
            part("cannot use the pre-tokenizer", steps::to_json(&pairs.pre_tokenizer, "pretokenizers"))?;
        Ok(Self { normalizer, pre_tokenizer, model: model(pairs, vocabulary)? })
    }

    /// The ids of a text that is cut into segments.
    pub(super) fn encode(&self, text: &str, segments: &[Segment]) -> Result<Vec<u32>, TokenizerError> {
        let failed = || TokenizerError::library("cannot encode the text");
        let mut pieces = PreTokenizedString::from(text);
        pieces
            .split(|_, whole| {
                let cut = |segment: &Segment| {
                    let slice = whole.slice(NormalizedRange::Normalized(segment.range.clone()))?;
                    Some((slice, segment.token.map(|id| vec![Token::new(id, String::new(), (0, 0))])))
                };
                Ok(segments.iter().filter_map(cut).collect::<Vec<_>>())
            })
            .map_err(failed())?;
        self.cut(&mut pieces).map_err(failed())?;
        self.model.tokenize_in_pretokenized(&mut pieces, None).map_err(failed())?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::None).map_err(failed())?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Normalises and cuts.
    fn cut(&self, pieces: &mut PreTokenizedString) -> tokenizers::Result<()> {
        if let Some(normalizer) = &self.normalizer {
            pieces.normalize(|piece| normalizer.normalize(piece))?;
        }
        if let Some(pre_tokenizer) = &self.pre_tokenizer {
            pre_tokenizer.pre_tokenize(pieces)?;
        }
        Ok(())
    }
}

/// A part of the library from its JSON; `None` for null.
fn part<T: DeserializeOwned>(what: &'static str, json: Value) -> Result<Option<T>, TokenizerError> {
    if json.is_null() {
        return Ok(None);
    }
    serde_json::from_value(json).map(Some).map_err(|error| TokenizerError::library(what)(error.into()))
}

/// The model of the pieces that text can become.
fn model(pairs: &BytePairs, vocabulary: &Vocabulary) -> Result<BPE, TokenizerError> {
    let mut texts = Vocab::default();
    texts.reserve(vocabulary.len());
    for (id, piece, kind) in vocabulary.iter() {
        // Leaving control tokens out is what keeps a user's text from spelling one.
        let is_piece = match kind {
            Kind::Normal | Kind::UserDefined => true,
            Kind::Byte => pairs.spelling == Spelling::SentencePiece,
            Kind::Control | Kind::Unknown | Kind::Unused => pairs.unknown == Some(id),
        };
        if is_piece && !piece.is_empty() {
            texts.entry(piece.to_owned()).or_insert(id);
        }
    }
    let unknown = pairs.unknown.and_then(|id| vocabulary.piece(id));
    build(texts, pairs, |builder| {
        let builder = builder.fuse_unk(pairs.fuse_unknown).byte_fallback(pairs.byte_fallback);
        let builder = builder.ignore_merges(pairs.ignore_merges);
        match unknown {
            Some(unknown) => builder.unk_token(unknown.to_owned()),
            None => builder,
        }
    })
}

/// Whether merging alone leads to every ordinary piece, so that it makes no difference whether a piece that is a token is
/// put together by merges.
pub(crate) fn reaches_every_piece(pairs: &BytePairs, vocabulary: &Vocabulary) -> bool {
    let merging = BytePairs { ignore_merges: false, ..pairs.clone() };
    let Ok(model) = model(&merging, vocabulary) else { return false };
    let is_reached = |id: u32, piece: &str| {
        let tokens = model.tokenize(piece);
        tokens.is_ok_and(|tokens| matches!(tokens.as_slice(), [token] if token.id == id))
    };
    vocabulary.iter().filter(|entry| entry.2 == Kind::Normal).all(|(id, piece, _)| is_reached(id, piece))
}

/// Builds the model of a vocabulary and its merges.
///
/// The library indexes without checking where a merge's result is longer than any token, so lengths are checked here
/// before it sees them. It names a token that is missing; here is added which merge wants it.
fn build(
    vocabulary: Vocab,
    pairs: &BytePairs,
    configure: impl FnOnce(BpeBuilder) -> BpeBuilder,
) -> Result<BPE, TokenizerError> {
    let no_token = |index: usize, (left, right): (&str, &str)| {
        let expected = "two tokens whose concatenation is a token";
        TokenizerError::invalid(format!("merges[{index}]"), expected, format!("{left:?} and {right:?}"))
    };
    let longest = vocabulary.keys().map(String::len).max().unwrap_or(0);
    let mut owned = Vec::with_capacity(pairs.merges.len());
    for (index, (left, right)) in pairs.merges.iter().enumerate() {
        if left.len() + right.len() > longest {
            return Err(no_token(index, (left, right)));
        }
        owned.push((left.to_owned(), right.to_owned()));
    }
    configure(BPE::builder().vocab_and_merges(vocabulary, owned)).build().map_err(|error| {
        let Some(tokenizers::models::bpe::Error::MergeTokenOutOfVocabulary(missing)) = error.downcast_ref() else {
            return TokenizerError::library("cannot build the vocabulary")(error);
        };
        let uses =
            |(left, right): &(&str, &str)| left == missing || right == missing || [*left, *right].concat() == *missing;
        match pairs.merges.iter().enumerate().find(|(_, merge)| uses(merge)) {
            Some((index, merge)) => no_token(index, merge),
            None => TokenizerError::invalid("merges", "tokens of the vocabulary", format!("{missing:?}")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::rules::RULES;
    use std::collections::BTreeMap;
    use tokenizers::OffsetReferential;

    /// How many bytes each piece of a text has.
    fn piece_lengths(pipeline: &Pipeline, text: &str) -> String {
        let mut pieces = PreTokenizedString::from(text);
        pipeline.cut(&mut pieces).unwrap();
        let splits = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let lengths: Vec<String> = splits.iter().map(|(_, (start, end), _)| (end - start).to_string()).collect();
        lengths.join(",")
    }

    fn fnv1a(text: &str) -> u64 {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
    }

    #[derive(serde::Deserialize)]
    struct Golden {
        block: usize,
        lines: Vec<String>,
        rules: BTreeMap<String, String>,
    }

    /// The golden file is what PyPI's `regex` makes of the expressions, by tools/pretokenizer_golden.py.
    #[test]
    fn every_pre_tokenizer_cuts_as_another_regex_engine_does() {
        let golden: Golden = serde_json::from_str(include_str!("../../tests/data/pretokenizers.json")).unwrap();
        for rule in RULES {
            // Rules that differ in other things than where they cut have one entry.
            let named = RULES.iter().filter(|other| other.patterns == rule.patterns);
            let hashes = named.flat_map(|rule| rule.names).find_map(|&name| golden.rules.get(name)).unwrap();
            let pairs = BytePairs {
                spelling: Spelling::ByteLevel,
                normalizer: Vec::new(),
                pre_tokenizer: rule.steps(),
                merges: Default::default(),
                ignore_merges: false,
                byte_fallback: false,
                unknown: None,
                fuse_unknown: false,
            };
            let pipeline = Pipeline::new(&pairs, &Vocabulary::default()).unwrap();
            let blocks = golden.lines.chunks(golden.block);
            assert_eq!(blocks.len(), hashes.split(' ').count());
            for (lines, expected) in blocks.zip(hashes.split(' ')) {
                let lengths: Vec<String> = lines.iter().map(|line| piece_lengths(&pipeline, line)).collect();
                let found = fnv1a(&lengths.join("\n"));
                assert_eq!(format!("{found:016x}"), expected, "{:?} cuts one of {lines:#?} otherwise", rule.names[0]);
            }
        }
    }
}
