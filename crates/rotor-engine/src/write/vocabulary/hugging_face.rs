//! A tokenizer as tokenizer.json and its company.

use super::Written;
use crate::error::FormatError;
use crate::tokenizer::{
    BytePairs, Encoding, Kind, Matching, Merges, Normalizer, Pattern, Scores, Spelling, TokenizerDescription, scores,
    steps_json,
};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// The files of a tokenizer by their names.
#[derive(Clone, Debug)]
pub struct Files {
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Vec<u8>,
    /// `generation_config.json`.
    pub generation_config: Vec<u8>,
}

impl Files {
    /// Names and contents.
    pub fn named(self) -> [(&'static str, Vec<u8>); 3] {
        [
            ("tokenizer.json", self.tokenizer),
            ("tokenizer_config.json", self.tokenizer_config),
            ("generation_config.json", self.generation_config),
        ]
    }
}

/// The files for a tokenizer and its chat template.
///
/// # Errors
///
/// [`FormatError::Invalid`] where JSON cannot be made, which no text or number keeps it from.
pub fn to_hugging_face(
    tokenizer: &TokenizerDescription,
    chat_template: Option<&str>,
) -> Result<Written<Files>, FormatError> {
    let mut lost = Vec::new();
    let value = Files {
        tokenizer: tokenizer_json(tokenizer, &mut lost).to_string().into_bytes(),
        tokenizer_config: pretty(&tokenizer_config(tokenizer, chat_template))?,
        generation_config: pretty(&generation_config(tokenizer))?,
    };
    Ok(Written { value, lost, notes: Vec::new() })
}

fn pretty(json: &Value) -> Result<Vec<u8>, FormatError> {
    let mut bytes = serde_json::to_vec_pretty(json).map_err(|error| FormatError::invalid("a file", "JSON", error))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn text(tokenizer: &TokenizerDescription, id: u32) -> &str {
    tokenizer.vocabulary.piece(id).unwrap_or_default()
}

fn tokenizer_json(tokenizer: &TokenizerDescription, lost: &mut Vec<String>) -> Value {
    let made;
    let pairs = match &tokenizer.encoding {
        Encoding::BytePairs(pairs) => pairs,
        Encoding::SentencePiece(scores) => {
            made = merged_by_list(tokenizer, scores, lost);
            &made
        }
    };
    let (vocab, added) = tokens(tokenizer, pairs.spelling, lost);
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": steps_json(&pairs.normalizer, "normalizers"),
        "pre_tokenizer": steps_json(&pairs.pre_tokenizer, "pretokenizers"),
        "post_processor": post_processor(tokenizer),
        "decoder": decoder(tokenizer, pairs.spelling),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": pairs.unknown.map(|id| text(tokenizer, id)),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": pairs.fuse_unknown,
            "byte_fallback": pairs.byte_fallback,
            "ignore_merges": pairs.ignore_merges,
            "vocab": vocab,
            "merges": merges(&pairs.merges),
        },
    })
}

/// Merging by score as the list of merges that the scores stand for.
fn merged_by_list(tokenizer: &TokenizerDescription, by_score: &Scores, lost: &mut Vec<String>) -> BytePairs {
    let mut normalizer = Vec::new();
    if by_score.space_prefix {
        normalizer.push(Normalizer::Prepend { prepend: scores::SPACE.into() });
    }
    let space = Pattern::String(" ".into());
    normalizer.push(Normalizer::Replace { pattern: space, content: scores::SPACE.into() });
    let spells_all = tokenizer.vocabulary.has_every_byte(Kind::Byte);
    if !spells_all && tokenizer.unknown.is_none() {
        lost.push("that a text with characters without a token is an error".into());
    }
    BytePairs {
        spelling: Spelling::SentencePiece,
        normalizer,
        pre_tokenizer: Vec::new(),
        merges: scores::to_merges(&tokenizer.vocabulary, &by_score.scores, lost),
        ignore_merges: false,
        byte_fallback: spells_all || tokenizer.vocabulary.iter().any(|(_, _, kind)| kind == Kind::Byte),
        unknown: tokenizer.unknown,
        // As Llama 2 has it, where it makes no difference.
        fuse_unknown: spells_all,
    }
}

/// `model.vocab` and `added_tokens`. Added tokens are in the vocabulary too: the library numbers those anew that are not.
fn tokens(
    tokenizer: &TokenizerDescription,
    spelling: Spelling,
    lost: &mut Vec<String>,
) -> (Map<String, Value>, Vec<Value>) {
    let (mut vocab, mut added) = (Map::new(), Vec::new());
    let mut ids: HashMap<&str, u32> = HashMap::with_capacity(tokenizer.vocabulary.len());
    for (id, piece, kind) in tokenizer.vocabulary.iter().filter(|&(_, _, kind)| kind != Kind::Unused) {
        let is_added = matches!(kind, Kind::Control | Kind::Unknown | Kind::UserDefined);
        if piece.is_empty() {
            let bytes = tokenizer.vocabulary.bytes(id).unwrap_or_default();
            if !bytes.is_empty() {
                lost.push(format!("token {id}, \"{}\", which is not UTF-8", bytes.escape_ascii()));
            }
            continue;
        }
        if let Some(first) = ids.insert(piece, id) {
            lost.push(format!("token {id}, which has the text {piece:?} of token {first}"));
            ids.insert(piece, first);
            continue;
        }
        if !is_added && !spells(spelling, kind, piece) {
            lost.push(format!("the kind of token {id}, {piece:?}"));
        }
        vocab.insert(piece.to_owned(), id.into());
        if is_added {
            let matching = tokenizer.matching.get(&id).copied().unwrap_or_default();
            added.push(added_token(id, piece, kind != Kind::UserDefined, matching));
        }
    }
    let beyond = tokenizer.beyond.iter();
    added.extend(beyond.map(|token| added_token(token.id, &token.text, token.special, Matching::default())));
    (vocab, added)
}

/// Whether a token of this kind and text is read as one of its kind.
fn spells(spelling: Spelling, kind: Kind, piece: &str) -> bool {
    let is_byte = spelling == Spelling::SentencePiece && crate::tokenizer::byte_token(piece).is_some();
    is_byte == (kind == Kind::Byte)
}

fn added_token(id: u32, text: &str, special: bool, matching: Matching) -> Value {
    let Matching { single_word, lstrip, rstrip } = matching;
    json!({
        "id": id, "content": text, "single_word": single_word, "lstrip": lstrip, "rstrip": rstrip,
        "normalized": false, "special": special,
    })
}

/// As "left right"; as lists where a piece has a space in it.
fn merges(merges: &Merges) -> Vec<Value> {
    let has_spaces = merges.iter().any(|(left, right)| left.contains(' ') || right.contains(' '));
    let written = |(left, right): (&str, &str)| match has_spaces {
        true => json!([left, right]),
        false => format!("{left} {right}").into(),
    };
    merges.iter().map(written).collect()
}

fn decoder(tokenizer: &TokenizerDescription, spelling: Spelling) -> Value {
    if spelling == Spelling::ByteLevel {
        return json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    }
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": scores::SPACE }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if tokenizer.drop_first_space {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    json!({ "type": "Sequence", "decoders": decoders })
}

/// Puts tokens in front of a text and behind it.
fn post_processor(tokenizer: &TokenizerDescription) -> Value {
    let TokenizerDescription { prefix, suffix, .. } = tokenizer;
    if prefix.is_empty() && suffix.is_empty() {
        return Value::Null;
    }
    let special = |&id: &u32| json!({ "SpecialToken": { "id": text(tokenizer, id), "type_id": 0 } });
    let template = |name: &str, type_id: u32| -> Vec<Value> {
        let sequence = json!({ "Sequence": { "id": name, "type_id": type_id } });
        prefix.iter().map(special).chain([sequence]).chain(suffix.iter().map(special)).collect()
    };
    let pair: Vec<Value> = template("A", 0).into_iter().chain(template("B", 1)).collect();
    let mut ids = Map::new();
    for &id in prefix.iter().chain(suffix) {
        let text = text(tokenizer, id);
        ids.insert(text.into(), json!({ "id": text, "ids": [id], "tokens": [text] }));
    }
    json!({ "type": "TemplateProcessing", "single": template("A", 0), "pair": pair, "special_tokens": ids })
}

fn tokenizer_config(tokenizer: &TokenizerDescription, chat_template: Option<&str>) -> Value {
    let &TokenizerDescription { bos, eos, unknown, padding, .. } = tokenizer;
    let mut json = json!({ "tokenizer_class": "PreTrainedTokenizerFast" });
    // Null keeps a reader from taking the ids of generation_config.json for them.
    for (key, id) in [("bos_token", bos), ("eos_token", eos), ("unk_token", unknown), ("pad_token", padding)] {
        json[key] = id.map(|id| text(tokenizer, id)).into();
    }
    for (key, id, ids) in [("add_bos_token", bos, &tokenizer.prefix), ("add_eos_token", eos, &tokenizer.suffix)] {
        if let Some(id) = id {
            json[key] = ids.contains(&id).into();
        }
    }
    if let Some(template) = chat_template {
        json["chat_template"] = template.into();
    }
    json
}

fn generation_config(tokenizer: &TokenizerDescription) -> Value {
    let mut json = json!({ "_from_model_config": true });
    if let Some(bos) = tokenizer.bos {
        json["bos_token_id"] = bos.into();
    }
    if !tokenizer.ends.is_empty() {
        json["eos_token_id"] = tokenizer.ends().into();
    }
    json
}
