//! Between GGUF vocabularies and tokenizer.json, in both directions.

use super::{pad, token_type};
use crate::error::FormatError;
use crate::formats::GgufVocabulary;
use crate::tokenizer::{DIGIT, GPT2, PreTokenizer, pre_tokenizer};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};

/// Caps ids before anything is allocated from them; the largest published vocabulary has 262,144.
const MOST_TOKENS: u32 = 1 << 24;

/// tokenizer.json for a vocabulary.
///
/// # Errors
///
/// [`FormatError::Invalid`] for a token that is not UTF-8, [`FormatError::Unsupported`] for a kind of vocabulary other than
/// byte-level BPE ("gpt2") and SentencePiece ("llama").
pub fn to_tokenizer_json(vocabulary: &GgufVocabulary) -> Result<Vec<u8>, FormatError> {
    let texts = texts(vocabulary)?;
    let kind = |id: usize| vocabulary.token_types.get(id).copied().unwrap_or(token_type::NORMAL);
    let byte_level = match vocabulary.model.as_str() {
        "gpt2" => true,
        "llama" => false,
        other => {
            return Err(FormatError::unsupported(
                format!("tokenizer model {other:?} as tokenizer.json"),
                "gpt2 and llama are",
            ));
        }
    };
    let (mut added, mut vocab) = (Vec::new(), Map::new());
    for (id, &text) in texts.iter().enumerate() {
        let listed = matches!(kind(id), token_type::CONTROL | token_type::UNKNOWN | token_type::USER_DEFINED);
        if listed {
            added.push(added_token(id, text, kind(id) != token_type::USER_DEFINED));
        }
        // SentencePiece vocabularies list their control tokens among the others, byte-level ones do not.
        if kind(id) != token_type::UNUSED && !(listed && byte_level) {
            vocab.entry(text).or_insert(id.into());
        }
    }
    let parts =
        if byte_level { byte_level_parts(vocabulary, vocab)? } else { sentencepiece_parts(vocabulary, &texts, vocab) };
    let mut json = json!({ "version": "1.0", "truncation": null, "padding": null, "added_tokens": added });
    if let (Some(json), Value::Object(mut parts)) = (json.as_object_mut(), parts) {
        parts.insert("post_processor".into(), post_processor(vocabulary, &texts));
        json.append(&mut parts);
    }
    Ok(json.to_string().into_bytes())
}

/// tokenizer_config.json for a vocabulary and its chat template.
///
/// # Errors
///
/// [`FormatError::Invalid`] for a token that is not UTF-8.
pub fn to_tokenizer_config(vocabulary: &GgufVocabulary, chat_template: Option<&str>) -> Result<Vec<u8>, FormatError> {
    let texts = texts(vocabulary)?;
    let mut json = Map::new();
    json.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    for (key, id) in [
        ("bos_token", vocabulary.bos),
        ("eos_token", vocabulary.eos),
        ("unk_token", vocabulary.unknown),
        ("pad_token", vocabulary.padding),
    ] {
        if let Some(&text) = id.and_then(|id| texts.get(id as usize)) {
            json.insert(key.into(), text.into());
        }
    }
    for (key, flag) in [("add_bos_token", vocabulary.add_bos), ("add_eos_token", vocabulary.add_eos)] {
        if let Some(flag) = flag {
            json.insert(key.into(), flag.into());
        }
    }
    if let Some(template) = chat_template {
        json.insert("chat_template".into(), template.into());
    }
    serde_json::to_vec_pretty(&json).map_err(|error| FormatError::invalid("tokenizer_config.json", "JSON", error))
}

fn texts(vocabulary: &GgufVocabulary) -> Result<Vec<&str>, FormatError> {
    let text = |(id, token)| {
        std::str::from_utf8(token)
            .map_err(|_| FormatError::invalid(format!("token {id}"), "UTF-8, as JSON holds it", "other bytes"))
    };
    vocabulary.tokens.iter().map(Vec::as_slice).enumerate().map(text).collect()
}

fn added_token(id: usize, text: &str, special: bool) -> Value {
    json!({
        "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": special,
    })
}

fn byte_level_parts(vocabulary: &GgufVocabulary, vocab: Map<String, Value>) -> Result<Value, FormatError> {
    let failed = |why: &dyn ToString| FormatError::unsupported("this vocabulary as tokenizer.json", why.to_string());
    let kind = pre_tokenizer(vocabulary).map_err(|error| failed(&error))?;
    let steps = kind.build().map_err(|error| failed(&error))?;
    Ok(json!({
        "normalizer": null,
        "pre_tokenizer": serde_json::to_value(steps).map_err(|error| failed(&error))?,
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": kind.ignores_merges(), "vocab": vocab, "merges": vocabulary.merges,
        },
    }))
}

fn sentencepiece_parts(vocabulary: &GgufVocabulary, texts: &[&str], vocab: Map<String, Value>) -> Value {
    let replace = |pattern: &str, content: &str| json!({ "type": "Replace", "pattern": { "String": pattern }, "content": content });
    let prefixed = vocabulary.add_space_prefix.unwrap_or(true);
    let (mut normalizers, mut decoders) = (Vec::new(), vec![replace("\u{2581}", " ")]);
    decoders.extend([json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })]);
    if prefixed {
        normalizers.push(json!({ "type": "Prepend", "prepend": "\u{2581}" }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    normalizers.push(replace(" ", "\u{2581}"));
    let unknown = vocabulary.unknown.and_then(|id| texts.get(id as usize));
    json!({
        "normalizer": { "type": "Sequence", "normalizers": normalizers },
        "pre_tokenizer": null,
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges_by_score(vocabulary, texts),
        },
    })
}

/// The merges that scores stand for: every split of a token into two tokens, best token first.
fn merges_by_score(vocabulary: &GgufVocabulary, texts: &[&str]) -> Vec<String> {
    let mergeable = |id: &usize| vocabulary.token_types.get(*id).is_none_or(|&kind| kind == token_type::NORMAL);
    let mut ids: Vec<usize> = (0..texts.len()).filter(mergeable).collect();
    let by_text: HashMap<&str, usize> = ids.iter().rev().map(|&id| (texts[id], id)).collect();
    let score = |id: usize| vocabulary.scores.get(id).copied().unwrap_or(0.0);
    ids.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
    let mut merges = Vec::new();
    for text in ids.into_iter().map(|id| texts[id]) {
        let splits = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let mut pairs: Vec<_> =
            splits.filter_map(|(left, right)| Some((by_text.get(left)?, by_text.get(right)?))).collect();
        pairs.sort_unstable();
        merges.extend(pairs.into_iter().map(|(&left, &right)| format!("{} {}", texts[left], texts[right])));
    }
    merges
}

/// Puts the tokens in front and behind that the vocabulary asks for.
fn post_processor(vocabulary: &GgufVocabulary, texts: &[&str]) -> Value {
    let wanted = |flag: Option<bool>, id: Option<u32>| {
        let id = id.filter(|_| flag == Some(true))?;
        Some((id, *texts.get(id as usize)?))
    };
    let (bos, eos) = (wanted(vocabulary.add_bos, vocabulary.bos), wanted(vocabulary.add_eos, vocabulary.eos));
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let special =
        |token: Option<(u32, &str)>| token.map(|(_, text)| json!({ "SpecialToken": { "id": text, "type_id": 0 } }));
    let template = |name: &str| -> Vec<Value> {
        let text = json!({ "Sequence": { "id": name, "type_id": 0 } });
        special(bos).into_iter().chain([text]).chain(special(eos)).collect()
    };
    let pair: Vec<Value> = template("A").into_iter().chain(template("B")).collect();
    let mut ids = Map::new();
    for (id, text) in [bos, eos].into_iter().flatten() {
        ids.insert(text.into(), json!({ "id": text, "ids": [id], "tokens": [text] }));
    }
    json!({ "type": "TemplateProcessing", "single": template("A"), "pair": pair, "special_tokens": ids })
}

#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: BTreeMap<String, u32>,
    #[serde(default)]
    merges: Vec<Merge>,
    unk_token: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Text(String),
    Pair(String, String),
}

/// What tokenizer_config.json adds.
#[derive(Default, Deserialize)]
struct TokenizerConfig {
    bos_token: Option<NamedToken>,
    eos_token: Option<NamedToken>,
    pad_token: Option<NamedToken>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NamedToken {
    Text(String),
    Object { content: String },
}

impl NamedToken {
    fn text(&self) -> &str {
        let (Self::Text(text) | Self::Object { content: text }) = self;
        text
    }
}

/// The vocabulary in tokenizer.json and, if there is one, tokenizer_config.json.
///
/// # Errors
///
/// [`FormatError::Invalid`] for what is no tokenizer, [`FormatError::Unsupported`] for one that GGUF has no name for.
pub fn from_tokenizer_json(tokenizer: &[u8], config: Option<&[u8]>) -> Result<GgufVocabulary, FormatError> {
    let malformed = |file: &str, error| FormatError::invalid(file, "a tokenizer as Hugging Face writes it", error);
    let json: TokenizerJson = serde_json::from_slice(tokenizer).map_err(|error| malformed("tokenizer.json", error))?;
    let config: TokenizerConfig = match config {
        Some(config) => serde_json::from_slice(config).map_err(|error| malformed("tokenizer_config.json", error))?,
        None => TokenizerConfig::default(),
    };
    if json.model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
        return Err(FormatError::unsupported("the tokenizer model of tokenizer.json", "only BPE fits into a GGUF"));
    }
    let mut vocabulary = tokens(&json)?;
    let ids: HashMap<&[u8], u32> = vocabulary.tokens.iter().map(Vec::as_slice).zip(0u32..).collect();
    let named = |text: Option<&str>| text.and_then(|text| ids.get(text.as_bytes()).copied());
    let (before, after) = wrapping(json.post_processor.as_ref());
    let bos = named(config.bos_token.as_ref().map(NamedToken::text)).or(named(before.as_deref()));
    let eos = named(config.eos_token.as_ref().map(NamedToken::text)).or(named(after.as_deref()));
    let padding = named(config.pad_token.as_ref().map(NamedToken::text));
    let unknown = named(json.model.unk_token.as_deref());
    vocabulary = GgufVocabulary { bos, eos, padding, unknown, ..vocabulary };
    vocabulary.add_bos = Some(config.add_bos_token.unwrap_or(before.is_some()));
    vocabulary.add_eos = Some(config.add_eos_token.unwrap_or(after.is_some()));
    let merges: Vec<String> = json.model.merges.iter().map(Merge::text).collect();
    if json.model.byte_fallback {
        sentencepiece(vocabulary, &json, &merges)
    } else {
        let pre = Some(pre_tokenizer_of(json.pre_tokenizer.as_ref())?.gguf_name().to_owned());
        Ok(GgufVocabulary { model: "gpt2".into(), pre, merges, ..vocabulary })
    }
}

impl Merge {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Pair(left, right) => format!("{left} {right}"),
        }
    }
}

/// Texts and types by id; ids that nothing names are unused.
fn tokens(json: &TokenizerJson) -> Result<GgufVocabulary, FormatError> {
    let ids = json.model.vocab.values().copied().chain(json.added_tokens.iter().map(|added| added.id));
    let most = ids.max().unwrap_or(0);
    if most >= MOST_TOKENS {
        return Err(FormatError::invalid("tokenizer.json", format!("ids below {MOST_TOKENS}"), most));
    }
    let mut vocabulary = GgufVocabulary::default();
    pad(&mut vocabulary, most as usize + 1);
    let mut set = |id: u32, text: &str, kind| {
        if let (Some(token), Some(token_type)) =
            (vocabulary.tokens.get_mut(id as usize), vocabulary.token_types.get_mut(id as usize))
        {
            (*token, *token_type) = (text.as_bytes().to_vec(), kind);
        }
    };
    for (text, &id) in &json.model.vocab {
        let byte = json.model.byte_fallback && text.len() == 6 && text.starts_with("<0x");
        set(id, text, if byte { token_type::BYTE } else { token_type::NORMAL });
    }
    for added in &json.added_tokens {
        let unknown = json.model.unk_token.as_ref() == Some(&added.content);
        let special = if unknown { token_type::UNKNOWN } else { token_type::CONTROL };
        set(added.id, &added.content, if added.special { special } else { token_type::USER_DEFINED });
    }
    Ok(vocabulary)
}

/// A SentencePiece vocabulary's merges as scores: the earlier the merge, the higher.
fn sentencepiece(
    vocabulary: GgufVocabulary,
    json: &TokenizerJson,
    merges: &[String],
) -> Result<GgufVocabulary, FormatError> {
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (rank, merge) in merges.iter().enumerate() {
        let merged = merge.split_once(' ').map(|(left, right)| format!("{left}{right}")).ok_or_else(|| {
            FormatError::invalid(format!("merge {rank} of tokenizer.json"), "two pieces", format!("{merge:?}"))
        })?;
        ranks.entry(merged).or_insert(rank + 1);
    }
    let score = |token: &Vec<u8>| {
        let rank = std::str::from_utf8(token).ok().and_then(|text| ranks.get(text));
        rank.map_or(0.0, |&rank| -(rank as f32))
    };
    let scores = vocabulary.tokens.iter().map(score).collect();
    let prefixed = json.normalizer.as_ref().is_some_and(|normalizer| normalizer.to_string().contains("\"Prepend\""))
        || json.pre_tokenizer.as_ref().is_some_and(|steps| {
            steps.get("type").and_then(Value::as_str) == Some("Metaspace")
                && steps.get("prepend_scheme").and_then(Value::as_str) != Some("never")
        });
    let (model, pre) = ("llama".into(), Some("default".into()));
    Ok(GgufVocabulary { model, pre, scores, add_space_prefix: Some(prefixed), ..vocabulary })
}

/// The tokens that the post-processor puts before and after a text.
fn wrapping(post_processor: Option<&Value>) -> (Option<String>, Option<String>) {
    let Some(part) = post_processor else { return (None, None) };
    if let Some(steps) = part.get("processors").and_then(Value::as_array) {
        let of_steps = steps.iter().map(|step| wrapping(Some(step)));
        return of_steps.fold((None, None), |all, one| (all.0.or(one.0), all.1.or(one.1)));
    }
    let template = part.get("single").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let special = |piece: &Value| piece.pointer("/SpecialToken/id").and_then(Value::as_str).map(str::to_owned);
    let text = template.iter().position(|piece| piece.get("Sequence").is_some()).unwrap_or(0);
    let (before, after) = template.split_at(text);
    (before.iter().find_map(special), after.iter().find_map(special))
}

/// The pre-tokenizer that splits as the one in tokenizer.json does.
fn pre_tokenizer_of(part: Option<&Value>) -> Result<PreTokenizer, FormatError> {
    let unsupported = |what: &str| {
        FormatError::unsupported(format!("the pre-tokenizer of tokenizer.json ({what})"), "GGUF has no name for it")
    };
    let mut patterns = Vec::new();
    collect_patterns(part.unwrap_or(&Value::Null), &mut patterns).ok_or_else(|| unsupported("an unknown step"))?;
    PreTokenizer::ALL
        .into_iter()
        .find(|kind| kind.patterns() == patterns)
        .ok_or_else(|| unsupported(&format!("splitting at {patterns:?}")))
}

/// What each step splits at, in order; `None` for a step that no pattern stands for.
fn collect_patterns<'a>(part: &'a Value, patterns: &mut Vec<&'a str>) -> Option<()> {
    let flag = |key| part.get(key).and_then(Value::as_bool);
    match part.get("type").and_then(Value::as_str)? {
        "Sequence" => {
            let steps = part.get("pretokenizers")?.as_array()?;
            return steps.iter().try_for_each(|step| collect_patterns(step, patterns));
        }
        "Split" => patterns.push(part.pointer("/pattern/Regex")?.as_str()?),
        "Digits" if flag("individual_digits") == Some(true) => patterns.push(DIGIT),
        "ByteLevel" if flag("add_prefix_space") == Some(true) => return None,
        "ByteLevel" if flag("use_regex") == Some(false) => {}
        "ByteLevel" => patterns.push(GPT2),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests;
