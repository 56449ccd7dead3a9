//! A tokenizer from tokenizer.json, with what tokenizer_config.json adds to it.
//!
//! The library reads each part; the whole is put together here, because its own loader panics on some malformed merges,
//! renumbers added tokens, and keeps truncation settings that would shorten prompts.

use super::added::{AddedToken, AddedTokens};
use super::error::TokenizerError;
use super::vocabulary::{Kind, Vocabulary, byte_level_bytes, byte_token, sentencepiece_bytes};
use super::{Model, Parts, bpe};
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;
use tokenizers::tokenizer::PostProcessor as _;
use tokenizers::{Encoding, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Token};

/// Parts of a pipeline that are let through: those that the tests hold against the library's own loader.
const NORMALIZERS: &str = "Sequence, NFC, NFD, NFKC, NFKD, Prepend, Replace, Strip";
const PRE_TOKENIZERS: &str = "Sequence, Split, ByteLevel, Digits, Metaspace, Punctuation, Whitespace, WhitespaceSplit";
const POST_PROCESSORS: &str = "Sequence, TemplateProcessing, ByteLevel";
const DECODERS: &str = "Sequence, ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Strip";

/// Ids from generation_config.json and config.json.
pub(super) struct DeclaredIds<'a> {
    /// Beginning of sequence.
    pub(super) bos: Option<u32>,
    /// Ends of generation.
    pub(super) eos: &'a [u32],
}

#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedTokenJson>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: ModelJson,
}

#[derive(Deserialize)]
struct AddedTokenJson {
    id: u32,
    #[serde(flatten)]
    token: tokenizers::AddedToken,
}

#[derive(Deserialize)]
struct ModelJson {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    vocab: HashMap<String, u32>,
    #[serde(default)]
    merges: Vec<MergeJson>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MergeJson {
    Text(String),
    Pair(String, String),
}

/// The keys of tokenizer_config.json that matter here.
#[derive(Default, Deserialize)]
struct TokenizerConfig {
    bos_token: Option<NamedToken>,
    eos_token: Option<NamedToken>,
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

/// Builds the parts of a tokenizer.
pub(super) fn build(
    tokenizer: &[u8],
    config: Option<&[u8]>,
    declared: DeclaredIds<'_>,
    vocab_size: usize,
) -> Result<Parts, TokenizerError> {
    let json = parse(tokenizer)?;
    let config: TokenizerConfig = match config {
        Some(bytes) => serde_json::from_slice(bytes).map_err(|error| json_error("tokenizer_config.json", &error))?,
        None => TokenizerConfig::default(),
    };
    check_parts(&json)?;
    let spelling = Spelling::from_decoder(json.decoder.as_ref(), json.pre_tokenizer.as_ref())?;
    let vocabulary = vocabulary(&json, spelling, vocab_size)?;
    let added = AddedTokens::new(json.added_tokens.iter().map(|added| AddedToken {
        id: added.id,
        special: added.token.special,
        token: added.token.clone(),
    }))?;
    let wrapping = wrapping(json.post_processor.as_ref())?;
    let bos = named_id(&json, "bos_token", config.bos_token.as_ref())?.or(declared.bos);
    let eos = named_id(&json, "eos_token", config.eos_token.as_ref())?.or(declared.eos.first().copied());
    check_declared(bos.iter().chain(&eos).chain(declared.eos), vocab_size)?;
    Ok(Parts {
        added,
        drop_first_space: spelling.drops_first_space(),
        prefix: with_or_without(wrapping.0, bos, config.add_bos_token),
        suffix: with_or_without(wrapping.1, eos, config.add_eos_token),
        bos,
        eos,
        end_of_generation: eos.into_iter().chain(declared.eos.iter().copied()).collect(),
        vocabulary,
        model: Model::Library(Box::new(pipeline(json)?)),
    })
}

fn json_error(file: &str, error: &serde_json::Error) -> TokenizerError {
    TokenizerError::invalid(file, "a tokenizer as Hugging Face writes it", error)
}

fn parse(bytes: &[u8]) -> Result<TokenizerJson, TokenizerError> {
    #[derive(Deserialize)]
    struct Probe {
        model: ProbeModel,
    }
    #[derive(Deserialize)]
    struct ProbeModel {
        #[serde(rename = "type")]
        kind: Option<String>,
    }
    serde_json::from_slice(bytes).map_err(|error| {
        // Another kind of model has another shape; say that it is another kind.
        let probe: Option<Probe> = serde_json::from_slice(bytes).ok();
        match probe.and_then(|probe| probe.model.kind).filter(|kind| kind != "BPE") {
            Some(name) => unsupported("tokenizer model", &name, "BPE"),
            None => json_error("tokenizer.json", &error),
        }
    })
}

fn unsupported(what: &'static str, name: &str, known: &'static str) -> TokenizerError {
    TokenizerError::Unsupported { what, name: name.to_owned(), known }
}

/// Refuses every part that has not been held against the reference.
fn check_parts(json: &TokenizerJson) -> Result<(), TokenizerError> {
    if let Some(kind) = json.model.kind.as_deref().filter(|&kind| kind != "BPE") {
        return Err(unsupported("tokenizer model", kind, "BPE"));
    }
    if json.model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err(unsupported("tokenizer option", "dropout", "BPE without dropout"));
    }
    let affixes = [&json.model.continuing_subword_prefix, &json.model.end_of_word_suffix];
    if affixes.into_iter().flatten().any(|affix| !affix.is_empty()) {
        return Err(unsupported("tokenizer option", "subword prefix or suffix", "BPE without them"));
    }
    check_types("normalizer", json.normalizer.as_ref(), NORMALIZERS)?;
    check_types("pre-tokenizer", json.pre_tokenizer.as_ref(), PRE_TOKENIZERS)?;
    check_types("post-processor", json.post_processor.as_ref(), POST_PROCESSORS)?;
    check_types("decoder", json.decoder.as_ref(), DECODERS)
}

fn check_types(what: &'static str, part: Option<&Value>, known: &'static str) -> Result<(), TokenizerError> {
    match types(part).into_iter().find(|name| !known.split(", ").any(|one| one == *name)) {
        Some(name) => Err(unsupported(what, name, known)),
        None => Ok(()),
    }
}

/// The `type` of a part, and of the parts of a sequence.
fn types(part: Option<&Value>) -> Vec<&str> {
    steps(part).into_iter().filter_map(|step| step.get("type")?.as_str()).collect()
}

/// A part, or every step of a sequence of parts, nested ones included.
fn steps(part: Option<&Value>) -> Vec<&Value> {
    let Some(part) = part.filter(|part| part.is_object()) else { return Vec::new() };
    let inner =
        ["normalizers", "pretokenizers", "processors", "decoders"].iter().find_map(|key| part.get(key)?.as_array());
    std::iter::once(part).chain(inner.into_iter().flatten().flat_map(|step| steps(Some(step)))).collect()
}

/// How pieces spell text.
#[derive(Clone, Copy)]
enum Spelling {
    /// Characters of the byte-level alphabet.
    ByteLevel,
    /// U+2581 for a space, `<0xHH>` for bytes.
    SentencePiece { drops_first_space: bool },
}

impl Spelling {
    fn from_decoder(decoder: Option<&Value>, pre_tokenizer: Option<&Value>) -> Result<Self, TokenizerError> {
        if types(decoder).contains(&"ByteLevel") || (decoder.is_none() && types(pre_tokenizer).contains(&"ByteLevel")) {
            return Ok(Self::ByteLevel);
        }
        let steps = steps(decoder);
        let is = |step: &Value, kind: &str| step.get("type").and_then(Value::as_str) == Some(kind);
        let text = |step: &Value, key: &str| step.get(key).and_then(Value::as_str).map(str::to_owned);
        let replaces = |step: &Value| step.pointer("/pattern/String").and_then(Value::as_str) == Some("\u{2581}");
        if !steps.iter().any(|step| is(step, "Metaspace") || (is(step, "Replace") && replaces(step))) {
            return Err(unsupported("decoder", &types(decoder).join(", "), "ByteLevel, Metaspace, Replace of U+2581"));
        }
        let strips = |step: &&Value| {
            is(step, "Strip")
                && text(step, "content").as_deref() == Some(" ")
                && step.get("start").and_then(Value::as_u64) == Some(1)
        };
        let prefixed = |step: &&Value| {
            is(step, "Metaspace")
                && text(step, "prepend_scheme").as_deref() != Some("never")
                && step.get("add_prefix_space").and_then(Value::as_bool) != Some(false)
        };
        Ok(Self::SentencePiece { drops_first_space: steps.iter().any(|step| strips(step) || prefixed(step)) })
    }

    fn drops_first_space(self) -> bool {
        matches!(self, Self::SentencePiece { drops_first_space: true })
    }

    fn bytes(self, piece: &str) -> (Vec<u8>, Kind) {
        match self {
            Self::ByteLevel => (byte_level_bytes(piece), Kind::Normal),
            Self::SentencePiece { .. } => match byte_token(piece) {
                Some(byte) => (vec![byte], Kind::Byte),
                None => (sentencepiece_bytes(piece), Kind::Normal),
            },
        }
    }
}

/// The id table: the model's vocabulary with the added tokens over it.
fn vocabulary(json: &TokenizerJson, spelling: Spelling, vocab_size: usize) -> Result<Vocabulary, TokenizerError> {
    let mut entries: Vec<(u32, &str, Option<bool>)> = Vec::with_capacity(json.model.vocab.len());
    entries.extend(json.model.vocab.iter().map(|(text, &id)| (id, text.as_str(), None)));
    entries.extend(
        json.added_tokens.iter().map(|added| (added.id, added.token.content.as_str(), Some(added.token.special))),
    );
    // An added token follows, and so replaces, the entry of the vocabulary with its id.
    entries.sort_by_key(|&(id, _, special)| (id, special.is_some()));
    let mut vocabulary = Vocabulary::with_capacity(entries.len());
    for (index, &(id, text, special)) in entries.iter().enumerate() {
        let row = usize::try_from(id).ok().filter(|&row| row < vocab_size).ok_or_else(|| {
            let expected = format!("ids below {vocab_size}, the rows of the embedding");
            TokenizerError::invalid("tokenizer.json", expected, format!("{id} for {text:?}"))
        })?;
        if entries.get(index + 1).is_some_and(|next| next.0 == id) {
            continue;
        }
        while vocabulary.len() < row {
            vocabulary.push("", [], Kind::Unused);
        }
        let (bytes, kind) = match special {
            Some(true) => (Vec::new(), Kind::Control),
            Some(false) => (text.as_bytes().to_vec(), Kind::UserDefined),
            None => spelling.bytes(text),
        };
        vocabulary.push(text, bytes, kind);
    }
    Ok(vocabulary)
}

/// The ids that the post-processor puts before and after a text.
fn wrapping(post_processor: Option<&Value>) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
    /// Stands for the text; no vocabulary is that large.
    const TEXT: u32 = u32::MAX;
    let Some(part) = post_processor.filter(|part| !part.is_null()) else { return Ok(Default::default()) };
    check_templates(part)?;
    let processor: PostProcessorWrapper = part_from("post_processor", part)?;
    let text = Encoding::from_tokens(vec![Token::new(TEXT, String::new(), (0, 0))], 0);
    let wrapped = processor
        .process(text, None, true)
        .map_err(TokenizerError::library("cannot apply the post-processor of tokenizer.json"))?;
    match wrapped.get_ids().iter().position(|&id| id == TEXT) {
        Some(at) => {
            let (before, after) = wrapped.get_ids().split_at(at);
            Ok((before.to_vec(), after.iter().skip(1).copied().collect()))
        }
        None => {
            Err(TokenizerError::invalid("post_processor of tokenizer.json", "a template with the text in it", "none"))
        }
    }
}

/// Refuses a template that names a special token it does not define, or a second text: the library would index out of bounds.
fn check_templates(part: &Value) -> Result<(), TokenizerError> {
    let list = |key: &str| part.get(key).and_then(Value::as_array).into_iter().flatten();
    for inner in list("processors") {
        check_templates(inner)?;
    }
    for piece in list("single") {
        let id = |kind: &str| piece.get(kind)?.get("id")?.as_str();
        let is_known = |id: &str| part.get("special_tokens").and_then(|tokens| tokens.get(id)).is_some();
        if let Some(unknown) = id("SpecialToken").filter(|id| !is_known(id)) {
            let expected = "special tokens that it defines";
            return Err(TokenizerError::invalid("post_processor of tokenizer.json", expected, format!("{unknown:?}")));
        }
        if let Some(other) = id("Sequence").filter(|id| *id != "A") {
            let expected = "one text, A, in the template for one";
            return Err(TokenizerError::invalid("post_processor of tokenizer.json", expected, format!("{other:?}")));
        }
    }
    Ok(())
}

/// A list of ids with `id` in it or not, where the configuration decides.
fn with_or_without(mut ids: Vec<u32>, id: Option<u32>, wanted: Option<bool>) -> Vec<u32> {
    let Some(id) = id else { return ids };
    match wanted {
        Some(true) if !ids.contains(&id) => ids.push(id),
        Some(false) => ids.retain(|&other| other != id),
        _ => {}
    }
    ids
}

/// The id of a token that tokenizer_config.json names by its text.
fn named_id(json: &TokenizerJson, key: &str, token: Option<&NamedToken>) -> Result<Option<u32>, TokenizerError> {
    let Some(text) = token.map(NamedToken::text) else { return Ok(None) };
    let added = json.added_tokens.iter().find(|added| added.token.content == text).map(|added| added.id);
    match added.or_else(|| json.model.vocab.get(text).copied()) {
        Some(id) => Ok(Some(id)),
        None => {
            let what = format!("{key} of tokenizer_config.json");
            Err(TokenizerError::invalid(what, "a token", format!("{text:?}")))
        }
    }
}

fn check_declared<'a>(ids: impl Iterator<Item = &'a u32>, vocab_size: usize) -> Result<(), TokenizerError> {
    for &id in ids {
        if usize::try_from(id).map_or(true, |id| id >= vocab_size) {
            let what = "bos_token_id or eos_token_id";
            return Err(TokenizerError::invalid(what, format!("an id below {vocab_size}"), id));
        }
    }
    Ok(())
}

fn part_from<T: serde::de::DeserializeOwned>(name: &str, part: &Value) -> Result<T, TokenizerError> {
    serde_json::from_value(part.clone()).map_err(|error| json_error(&format!("{name} of tokenizer.json"), &error))
}

/// The library's normaliser, pre-tokenizer and model.
fn pipeline(json: TokenizerJson) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let model = json.model;
    let merges = model.merges.iter().filter(|merge| !merge.is_version()).map(MergeJson::sides);
    let model = bpe::build(model.vocab.into_iter().collect(), merges, "merges of tokenizer.json", |mut builder| {
        builder =
            builder.fuse_unk(model.fuse_unk).byte_fallback(model.byte_fallback).ignore_merges(model.ignore_merges);
        match model.unk_token {
            Some(unknown) => builder.unk_token(unknown),
            None => builder,
        }
    })?;
    let mut pipeline = tokenizers::Tokenizer::new(model);
    if let Some(part) = json.normalizer.filter(|part| !part.is_null()) {
        let normalizer: NormalizerWrapper = part_from("normalizer", &part)?;
        let failed = TokenizerError::library("cannot use the normalizer of tokenizer.json");
        pipeline.with_normalizer(Some(normalizer)).map_err(failed)?;
    }
    if let Some(part) = json.pre_tokenizer.filter(|part| !part.is_null()) {
        pipeline.with_pre_tokenizer(Some(part_from::<PreTokenizerWrapper>("pre_tokenizer", &part)?));
    }
    Ok(pipeline)
}

impl MergeJson {
    fn sides(&self) -> Option<(&str, &str)> {
        match self {
            Self::Text(text) => bpe::split_merge(text),
            Self::Pair(left, right) => Some((left, right)),
        }
    }

    /// The first line of the merges.txt that some files carry along.
    fn is_version(&self) -> bool {
        matches!(self, Self::Text(text) if text.starts_with("#version"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::TokenizerSource;
    use crate::tokenizer::{SpecialTokens, Tokenizer};
    use proptest::prelude::*;
    use serde_json::json;

    /// A Llama-2 tokenizer.json in small: SentencePiece written as BPE.
    fn llama2() -> Value {
        let vocab = json!({"<unk>": 0, "<s>": 1, "</s>": 2, "<0xC3>": 3, "<0xA9>": 4, "\u{2581}": 5, "h": 6, "i": 7,
            "hi": 8, "\u{2581}hi": 9});
        let special = |id: u32, content: &str| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        };
        json!({
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
            "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u{2581}"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
            "pre_tokenizer": null,
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"},
                {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
                "merges": ["h i", "\u{2581} hi"]},
        })
    }

    fn open(json: &Value, config: Option<Value>) -> Result<Tokenizer, TokenizerError> {
        let source = TokenizerSource::HuggingFace {
            tokenizer: serde_json::to_vec(json).unwrap(),
            tokenizer_config: config.map(|config| serde_json::to_vec(&config).unwrap()),
            eos_token_ids: vec![2],
            bos_token_id: Some(1),
        };
        Tokenizer::new(&source, 10)
    }

    fn refusal(json: &Value) -> String {
        open(json, None).unwrap_err().to_string()
    }

    #[test]
    fn a_llama2_tokenizer_works_as_in_the_library() {
        let tokenizer = open(&llama2(), None).unwrap();
        let library = tokenizers::Tokenizer::from_bytes(serde_json::to_vec(&llama2()).unwrap()).unwrap();
        for text in ["hi", "hi hi", "  hihé", "é", ""] {
            let ids = tokenizer.encode_with_bos(text, SpecialTokens::Parse).unwrap();
            let untruncated = library.clone().with_truncation(None).unwrap().encode(text, true).unwrap();
            assert_eq!(ids, untruncated.get_ids(), "{text:?}");
            assert_eq!(tokenizer.decode(&ids), library.decode(&ids, true).unwrap(), "{text:?}");
        }
        assert_eq!(tokenizer.encode("hi hié", SpecialTokens::Parse).unwrap(), [9, 9, 3, 4]);
    }

    /// The library indexes out of bounds for both; found by the mutations below.
    #[test]
    fn templates_name_what_they_define() {
        let mut json = llama2();
        json["post_processor"]["single"][0]["SpecialToken"]["id"] = "<x>".into();
        assert!(refusal(&json).contains("special tokens that it defines"), "{}", refusal(&json));
        let mut json = llama2();
        json["post_processor"]["single"][1]["Sequence"]["id"] = "B".into();
        assert!(refusal(&json).contains("one text, A"), "{}", refusal(&json));
        let mut json = llama2();
        json["post_processor"]["special_tokens"] = json!({"<other>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}});
        assert!(refusal(&json).contains("special tokens that it defines"), "{}", refusal(&json));
    }

    /// The same vocabulary behind every other normaliser, pre-tokenizer and post-processor that is let through.
    #[test]
    fn every_known_part_works_as_in_the_library() {
        let prepend = json!({"type": "Prepend", "prepend": "\u{2581}"});
        let split = |kind: &str| json!({"type": "Sequence", "pretokenizers": [{"type": kind}]});
        let metaspace = |scheme: &str| json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": true});
        let template = llama2()["post_processor"].clone();
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
        let variants = [
            ("normalizer", json!({"type": "NFC"})),
            ("normalizer", json!({"type": "NFD"})),
            ("normalizer", json!({"type": "NFKC"})),
            ("normalizer", json!({"type": "Sequence", "normalizers": [{"type": "NFKD"}, prepend]})),
            ("normalizer", json!({"type": "Strip", "strip_left": true, "strip_right": true})),
            ("pre_tokenizer", split("Whitespace")),
            ("pre_tokenizer", split("WhitespaceSplit")),
            ("pre_tokenizer", json!({"type": "Punctuation", "behavior": "Isolated"})),
            ("pre_tokenizer", json!({"type": "Digits", "individual_digits": true})),
            ("pre_tokenizer", metaspace("always")),
            ("pre_tokenizer", metaspace("first")),
            ("pre_tokenizer", metaspace("never")),
            ("post_processor", json!({"type": "Sequence", "processors": [byte_level, template]})),
        ];
        for (part, value) in variants {
            let mut json = llama2();
            json["truncation"] = Value::Null;
            json[part] = value.clone();
            let tokenizer = open(&json, None).unwrap();
            let library = tokenizers::Tokenizer::from_bytes(serde_json::to_vec(&json).unwrap()).unwrap();
            for text in ["hi hi", " hi</s> hi</s>hi", "\u{ff48}i e\u{301}, hi! 12 ", "hi\n\thi"] {
                let ids = tokenizer.encode_with_bos(text, SpecialTokens::Parse).unwrap();
                assert_eq!(ids, library.encode(text, true).unwrap().get_ids(), "{value} {text:?}");
            }
        }
    }

    #[test]
    fn the_configuration_decides_about_the_first_and_last_token() {
        let ids = |config| {
            let tokenizer = open(&llama2(), Some(config)).unwrap();
            tokenizer.encode_with_bos("hi", SpecialTokens::Parse).unwrap()
        };
        assert_eq!(ids(json!({})), [1, 9]);
        assert_eq!(ids(json!({"add_bos_token": false, "bos_token": "<s>"})), [9]);
        assert_eq!(
            ids(json!({"add_bos_token": true, "add_eos_token": true, "eos_token": {"content": "</s>"}})),
            [1, 9, 2]
        );
        let error = open(&llama2(), Some(json!({"bos_token": "<bos>"}))).unwrap_err().to_string();
        assert_eq!(error, "bos_token of tokenizer_config.json: expected a token, found \"<bos>\"");
    }

    /// A prompt is to go on: an end-of-sequence token after it would end it.
    #[test]
    fn a_prompt_is_not_ended() {
        let config = json!({"add_bos_token": true, "add_eos_token": true, "eos_token": "</s>"});
        let tokenizer = open(&llama2(), Some(config)).unwrap();
        assert_eq!(tokenizer.encode_prompt("hi").unwrap(), [1, 9]);
        assert_eq!(tokenizer.encode_with_bos("hi", SpecialTokens::AsText).unwrap(), [1, 9, 2]);
    }

    #[test]
    fn ids_without_a_row_are_named() {
        let mut json = llama2();
        json["model"]["vocab"]["x"] = json!(10);
        let expected = "tokenizer.json: expected ids below 10, the rows of the embedding, found 10 for \"x\"";
        assert_eq!(refusal(&json), expected);
    }

    #[test]
    fn unknown_parts_are_named() {
        let with = |pointer: &str, value: Value| {
            let mut json = llama2();
            *json.pointer_mut(pointer).unwrap() = value;
            refusal(&json)
        };
        assert!(
            with("/model", json!({"type": "Unigram", "vocab": []})).starts_with("tokenizer model \"Unigram\" is not")
        );
        assert!(with("/normalizer", json!({"type": "Precompiled"})).starts_with("normalizer \"Precompiled\" is not"));
        assert!(
            with("/pre_tokenizer", json!({"type": "UnicodeScripts"})).starts_with("pre-tokenizer \"UnicodeScripts\"")
        );
        assert!(with("/decoder", json!({"type": "WordPiece"})).starts_with("decoder \"WordPiece\" is not"));
        assert!(with("/model/dropout", json!(0.1)).starts_with("tokenizer option \"dropout\" is not"));
        assert!(with("/model/continuing_subword_prefix", json!("##")).starts_with("tokenizer option"));
        assert!(with("/model/merges", json!(["h \u{2581}hi"])).starts_with("merges of tokenizer.json[0]: expected"));
        assert!(with("/model/vocab", json!(7)).starts_with("tokenizer.json: expected a tokenizer as Hugging Face"));
        assert!(with("/added_tokens/0", json!(7)).starts_with("tokenizer.json: expected a tokenizer as Hugging Face"));
        let bad = json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false});
        assert!(with("/pre_tokenizer", bad).starts_with("pre_tokenizer of tokenizer.json: expected"));
    }

    proptest! {
        #[test]
        fn no_mutation_panics(at in any::<proptest::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(), text in "[hi \u{e9}<s>]{0,8}") {
            let mut bytes = serde_json::to_vec(&llama2()).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(if cut { at } else { bytes.len() });
            let source = TokenizerSource::HuggingFace { tokenizer: bytes, tokenizer_config: None, eos_token_ids: Vec::new(), bos_token_id: None };
            if let Ok(tokenizer) = Tokenizer::new(&source, 10) {
                let _ = tokenizer.encode_with_bos(&text, SpecialTokens::Parse).map(|ids| tokenizer.decode(&ids));
            }
        }
    }
}
