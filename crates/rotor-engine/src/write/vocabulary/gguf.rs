//! A tokenizer as the keys of a GGUF.

use super::{Written, token_type, unused};
use crate::formats::GgufVocabulary;
use crate::tokenizer::{
    Beyond, BytePairs, Encoding, Kind, Rule, Scores, Spelling, TokenizerDescription, reaches_every_piece, scores,
    steps_json,
};

/// The text of the token that ends a message without ending the turn, for which a GGUF has a key of its own.
const END_OF_MESSAGE: &str = "<|eom_id|>";

/// The keys for a tokenizer.
pub fn to_gguf(tokenizer: &TokenizerDescription) -> Written<GgufVocabulary> {
    let mut lost = Vec::new();
    let mut keys = tokens(tokenizer, &mut lost);
    match &tokenizer.encoding {
        Encoding::SentencePiece(scores) => sentencepiece(&mut keys, tokenizer, scores.clone(), &mut lost),
        Encoding::BytePairs(pairs) if pairs.spelling == Spelling::ByteLevel => {
            byte_level(&mut keys, tokenizer, pairs, &mut lost);
        }
        Encoding::BytePairs(pairs) => {
            let scores = scores::from_merges(&tokenizer.vocabulary, pairs, &mut lost);
            sentencepiece(&mut keys, tokenizer, scores, &mut lost);
        }
    }
    roles(&mut keys, tokenizer, &mut lost);
    let note =
        |token: &Beyond| format!("token {}, {:?}, has no row in the embedding and is left out", token.id, token.text);
    Written { value: keys, lost, notes: tokenizer.beyond.iter().map(note).collect() }
}

/// Texts and types.
fn tokens(tokenizer: &TokenizerDescription, lost: &mut Vec<String>) -> GgufVocabulary {
    let mut keys = GgufVocabulary::default();
    for (id, piece, kind) in tokenizer.vocabulary.iter() {
        let token_type = match kind {
            Kind::Normal => token_type::NORMAL,
            Kind::Unknown => token_type::UNKNOWN,
            Kind::Control => token_type::CONTROL,
            Kind::UserDefined => token_type::USER_DEFINED,
            Kind::Unused => token_type::UNUSED,
            Kind::Byte => token_type::BYTE,
        };
        keys.token_types.push(token_type);
        keys.tokens.push(match kind {
            Kind::Unused => unused(keys.tokens.len()),
            // A token that is no text has its bytes alone.
            _ if piece.is_empty() => tokenizer.vocabulary.bytes(id).unwrap_or_default().to_vec(),
            _ => piece.as_bytes().to_vec(),
        });
    }
    for id in tokenizer.matching.keys() {
        let text = tokenizer.vocabulary.piece(*id).unwrap_or_default();
        lost.push(format!("how {text:?} treats the text around it (single_word, lstrip, rstrip)"));
    }
    keys
}

fn byte_level(keys: &mut GgufVocabulary, tokenizer: &TokenizerDescription, pairs: &BytePairs, lost: &mut Vec<String>) {
    let BytePairs {
        spelling: _,
        normalizer,
        pre_tokenizer,
        merges,
        ignore_merges,
        byte_fallback,
        unknown,
        fuse_unknown,
    } = pairs;
    keys.model = "gpt2".into();
    keys.merges = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
    if !normalizer.is_empty() {
        lost.push(format!("the normalizer {}", steps_json(normalizer, "normalizers")));
    }
    if *byte_fallback || unknown.is_some() || *fuse_unknown {
        lost.push("what becomes of characters without a token".into());
    }
    // It is cut at the first space that is not the first character.
    let spaced = merges.iter().find(|(left, _)| left.chars().skip(1).any(|character| character == ' '));
    if let Some((left, right)) = spaced {
        lost.push(format!("the merge of {left:?} and {right:?}, which has a space in it"));
    }
    let is_made = |(_, piece, kind): (u32, &str, Kind)| kind == Kind::Normal && piece.chars().nth(1).is_some();
    if merges.is_empty() && tokenizer.vocabulary.iter().any(is_made) {
        lost.push("that no merge leads to its tokens of several bytes".into());
    }
    let other = || Rule::of(pre_tokenizer, !ignore_merges);
    let rule = Rule::of(pre_tokenizer, *ignore_merges).or_else(|| {
        let rule = other()?;
        if !reaches_every_piece(pairs, &tokenizer.vocabulary) {
            lost.push(format!("that ignore_merges is {ignore_merges}"));
        }
        Some(rule)
    });
    if rule.is_none() {
        lost.push(format!("the pre-tokenizer {}", steps_json(pre_tokenizer, "pretokenizers")));
    }
    keys.pre = rule.and_then(|rule| rule.names.first()).map(|&name| name.to_owned());
}

fn sentencepiece(keys: &mut GgufVocabulary, tokenizer: &TokenizerDescription, scores: Scores, lost: &mut Vec<String>) {
    keys.model = "llama".into();
    keys.pre = Some("default".into());
    keys.add_space_prefix = Some(scores.space_prefix);
    keys.scores = scores.scores;
    // The scores of ids that were added to fill the embedding.
    keys.scores.resize(keys.tokens.len(), 0.0);
    if tokenizer.drop_first_space != scores.space_prefix {
        lost.push("what decoding does with the first space".into());
    }
    let has = |id: u32| tokenizer.vocabulary.kind(id).is_some();
    for (name, id, default) in [("beginning", tokenizer.bos, 1), ("end", tokenizer.eos, 2)] {
        if id.is_none() && has(default) {
            lost.push(format!("that no token is the {name} of a text, which would be token {default}"));
        }
    }
}

/// Special tokens, and what is put around a text.
fn roles(keys: &mut GgufVocabulary, tokenizer: &TokenizerDescription, lost: &mut Vec<String>) {
    let &TokenizerDescription { bos, eos, unknown, padding, .. } = tokenizer;
    (keys.bos, keys.eos, keys.unknown, keys.padding) = (bos, eos, unknown, padding);
    let text = |id: u32| tokenizer.vocabulary.piece(id);
    let mut is_added = |side: &str, ids: &[u32], role: Option<u32>| {
        let is_added = role.is_some_and(|id| ids.contains(&id));
        if ids.len() > usize::from(is_added) {
            let texts: Vec<&str> = ids.iter().filter_map(|&id| text(id)).collect();
            lost.push(format!("the tokens {texts:?} {side} every text, of which it has one"));
        }
        Some(is_added)
    };
    keys.add_bos = is_added("before", &tokenizer.prefix, bos);
    keys.add_eos = is_added("after", &tokenizer.suffix, eos);
    let others = tokenizer.ends.iter().copied().filter(|&id| Some(id) != eos);
    let (messages, turns): (Vec<u32>, Vec<u32>) = others.partition(|&id| text(id) == Some(END_OF_MESSAGE));
    (keys.eom, keys.eot) = (messages.first().copied(), turns.first().copied());
    if messages.len() > 1 || turns.len() > 1 {
        keys.ends = tokenizer.ends();
    }
}
