//! A description from tokenizer.json, with what the files beside it add.

use super::description::{Beyond, BytePairs, Encoding, Matching, Spelling, TokenizerDescription};
use super::error::TokenizerError;
use super::gguf::{is_unmistakable_end, with_known_ends, without_row};
use super::merges::Merges;
use super::steps::{self, PreTokenizer};
use super::vocabulary::{Kind, Vocabulary, byte_level_bytes, byte_token, sentencepiece_bytes};
use crate::formats::HuggingFaceTokenizer;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Parts that are let through: those that the tests hold against the library's own loader. Those of the normalizer and the
/// pre-tokenizer are in `steps.rs`.
const POST_PROCESSORS: &str = "Sequence, TemplateProcessing, ByteLevel";
const DECODERS: &str = "Sequence, ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Strip";

const TOKENIZER: &str = "tokenizer.json";

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
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct ModelJson {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    vocab: Tokens,
    merges: Option<Merges>,
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

/// Texts and ids in the order of the file.
struct Tokens(Vec<(String, u32)>);

impl<'de> Deserialize<'de> for Tokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Tokens;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("tokens and their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tokens, A::Error> {
                let mut tokens = Vec::new();
                while let Some(token) = map.next_entry()? {
                    tokens.push(token);
                }
                Ok(Tokens(tokens))
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}

/// The keys of tokenizer_config.json and special_tokens_map.json that matter here.
#[derive(Default, Deserialize)]
struct TokenizerConfig {
    #[serde(default)]
    bos_token: Role,
    #[serde(default)]
    eos_token: Role,
    #[serde(default)]
    unk_token: Role,
    #[serde(default)]
    pad_token: Role,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
}

/// What a configuration says about a special token. Null says that there is none, whatever other files name.
#[derive(Default)]
enum Role {
    #[default]
    Unsaid,
    None,
    Named(String),
}

impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let named: Option<NamedToken> = Option::deserialize(deserializer)?;
        Ok(named.map_or(Self::None, |named| Self::Named(named.into_text())))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NamedToken {
    Text(String),
    Object { content: String },
}

impl NamedToken {
    fn into_text(self) -> String {
        let (Self::Text(text) | Self::Object { content: text }) = self;
        text
    }
}

/// Reads the files; `vocab_size` is the rows of the embedding.
pub(super) fn read(files: &HuggingFaceTokenizer, vocab_size: usize) -> Result<TokenizerDescription, TokenizerError> {
    let json = parse(&files.tokenizer)?;
    let config: TokenizerConfig = optional("tokenizer_config.json", files.tokenizer_config.as_deref())?;
    let map: TokenizerConfig = optional("special_tokens_map.json", files.special_tokens_map.as_deref())?;
    check_model(&json.model)?;
    let pre_tokenizer = steps::pre_tokenizers(json.pre_tokenizer.as_ref())?;
    let decoder = Decoder::read(json.decoder.as_ref(), &pre_tokenizer)?;
    let (prefix, suffix) = wrapping(json.post_processor.as_ref())?;
    let mut reader = Reader { json: &json, rows: vocab_size, warnings: files.warnings.clone() };
    let vocabulary = reader.vocabulary(decoder.spelling)?;
    let model_unknown = json.model.unk_token.as_deref().and_then(|text| reader.id_of(text, &vocabulary));
    let bos = reader.role("bos_token", config.bos_token, map.bos_token, &vocabulary);
    let eos = reader.role("eos_token", config.eos_token, map.eos_token, &vocabulary);
    let unknown = reader.role("unk_token", config.unk_token, map.unk_token, &vocabulary).flatten();
    let padding = reader.role("pad_token", config.pad_token, map.pad_token, &vocabulary).flatten();
    let declared_bos = reader.declared("bos_token_id", files.bos_token_id, &vocabulary);
    let declared: Vec<u32> =
        files.eos_token_ids.iter().filter_map(|&id| reader.declared("eos_token_id", Some(id), &vocabulary)).collect();
    // Without a name for it, the one token in front of every text is the beginning, and the one behind it the end.
    let only = |ids: &[u32]| if let [only] = ids { Some(*only) } else { None };
    let bos = bos.unwrap_or_else(|| declared_bos.or(only(&prefix)));
    let eos = eos.unwrap_or_else(|| declared.first().copied().or(only(&suffix)));
    let prefix = reader.surrounding("before", prefix, bos, config.add_bos_token, &vocabulary);
    let suffix = reader.surrounding("after", suffix, eos, config.add_eos_token, &vocabulary);
    let (beyond, matching, warnings) = (reader.beyond(), reader.matching(), reader.warnings);
    // Where every byte has a piece, nothing is unknown.
    let spells_all = decoder.spelling == Spelling::ByteLevel && vocabulary.has_every_byte(Kind::Normal);
    let model_unknown = model_unknown.filter(|_| !spells_all);
    Ok(TokenizerDescription {
        ends: with_known_ends(eos.into_iter().chain(declared).collect(), &vocabulary),
        vocabulary: Arc::new(vocabulary),
        beyond,
        matching,
        drop_first_space: decoder.drops_first_space,
        prefix,
        suffix,
        bos,
        eos,
        unknown: model_unknown.or(unknown),
        padding,
        warnings,
        encoding: Encoding::BytePairs(BytePairs {
            spelling: decoder.spelling,
            normalizer: steps::normalizers(json.normalizer.as_ref())?,
            pre_tokenizer,
            ignore_merges: json.model.ignore_merges,
            byte_fallback: json.model.byte_fallback && !spells_all,
            unknown: model_unknown,
            fuse_unknown: json.model.fuse_unk && model_unknown.is_some(),
            merges: json.model.merges.unwrap_or_default(),
        }),
    })
}

/// How many rows an embedding needs for every token of a tokenizer.json.
pub(crate) fn ids_needed(tokenizer: &[u8]) -> Result<usize, TokenizerError> {
    /// The largest published vocabulary has 262,144; nothing is allocated for more than this.
    const MOST: usize = 1 << 24;
    let json = parse(tokenizer)?;
    let ids = json.model.vocab.0.iter().map(|(_, id)| *id).chain(json.added_tokens.iter().map(|token| token.id));
    let needed = ids.max().map_or(0, |id| (id as usize).saturating_add(1));
    if needed > MOST {
        return Err(TokenizerError::invalid(TOKENIZER, format!("ids below {MOST}"), needed - 1));
    }
    Ok(needed)
}

fn json_error(file: &str, error: &serde_json::Error) -> TokenizerError {
    TokenizerError::invalid(file, "a tokenizer as Hugging Face writes it", error)
}

fn optional<T: DeserializeOwned + Default>(file: &str, bytes: Option<&[u8]>) -> Result<T, TokenizerError> {
    let Some(bytes) = bytes else { return Ok(T::default()) };
    serde_json::from_slice(bytes).map_err(|error| json_error(file, &error))
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
            Some(name) => TokenizerError::unsupported("tokenizer model", &name, "BPE"),
            None => json_error(TOKENIZER, &error),
        }
    })
}

/// Refuses a model that has not been held against the reference, and one that has lost its merges.
fn check_model(model: &ModelJson) -> Result<(), TokenizerError> {
    if let Some(kind) = model.kind.as_deref().filter(|&kind| kind != "BPE") {
        return Err(TokenizerError::unsupported("tokenizer model", kind, "BPE"));
    }
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err(TokenizerError::unsupported("tokenizer option", "dropout", "BPE without dropout"));
    }
    let affixes = [&model.continuing_subword_prefix, &model.end_of_word_suffix];
    if affixes.into_iter().flatten().any(|affix| !affix.is_empty()) {
        let known = "BPE without them";
        return Err(TokenizerError::unsupported("tokenizer option", "subword prefix or suffix", known));
    }
    if model.merges.is_none() {
        let what = format!("merges of {TOKENIZER}");
        return Err(TokenizerError::invalid(what, "a list, which may be empty", "none"));
    }
    Ok(())
}

/// How ids become text.
struct Decoder {
    spelling: Spelling,
    drops_first_space: bool,
}

impl Decoder {
    fn read(decoder: Option<&Value>, pre_tokenizer: &[PreTokenizer]) -> Result<Self, TokenizerError> {
        let steps = steps::flat(decoder);
        steps.iter().try_for_each(|step| steps::check_kind("decoder", step, DECODERS))?;
        let is = |step: &Value, kind: &str| steps::kind(step) == Some(kind);
        let maps_bytes = pre_tokenizer.iter().any(|step| matches!(step, PreTokenizer::ByteLevel { .. }));
        if steps.iter().any(|step| is(step, "ByteLevel")) || (steps.is_empty() && maps_bytes) {
            return Ok(Self { spelling: Spelling::ByteLevel, drops_first_space: false });
        }
        let text = |step: &Value, key: &str| step.get(key).and_then(Value::as_str).map(str::to_owned);
        let replaces = |step: &Value| step.pointer("/pattern/String").and_then(Value::as_str) == Some("\u{2581}");
        if !steps.iter().any(|step| is(step, "Metaspace") || (is(step, "Replace") && replaces(step))) {
            let name = steps.iter().filter_map(|step| steps::kind(step)).collect::<Vec<_>>().join(", ");
            return Err(TokenizerError::unsupported("decoder", &name, "ByteLevel, Metaspace, Replace of U+2581"));
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
        let drops_first_space = steps.iter().any(|step| strips(step) || prefixed(step));
        Ok(Self { spelling: Spelling::SentencePiece, drops_first_space })
    }
}

impl Spelling {
    fn bytes(self, piece: &str) -> (Vec<u8>, Kind) {
        match self {
            Self::ByteLevel => (byte_level_bytes(piece), Kind::Normal),
            Self::SentencePiece => match byte_token(piece) {
                Some(byte) => (vec![byte], Kind::Byte),
                None => (sentencepiece_bytes(piece), Kind::Normal),
            },
        }
    }
}

/// Files on their way into a description.
struct Reader<'a> {
    json: &'a TokenizerJson,
    /// Rows of the embedding.
    rows: usize,
    warnings: Vec<String>,
}

impl Reader<'_> {
    /// The id table: the model's vocabulary with the added tokens over it.
    fn vocabulary(&mut self, spelling: Spelling) -> Result<Vocabulary, TokenizerError> {
        let added = &self.json.added_tokens;
        let mut entries: Vec<(u32, &str, Option<bool>)> =
            Vec::with_capacity(self.json.model.vocab.0.len() + added.len());
        entries.extend(self.json.model.vocab.0.iter().map(|(text, id)| (*id, text.as_str(), None)));
        // What the vocabulary has behind the last row is an added token, or the vocabulary is another model's.
        let is_added: HashMap<u32, &str> = added
            .iter()
            .filter(|token| self.is_beyond(token.id))
            .map(|token| (token.id, token.content.as_str()))
            .collect();
        if let Some((id, text, _)) =
            entries.iter().find(|(id, text, _)| self.is_beyond(*id) && is_added.get(id) != Some(text))
        {
            let expected = format!("ids below {}, the rows of the embedding", self.rows);
            return Err(TokenizerError::invalid(TOKENIZER, expected, format!("{id} for {text:?}")));
        }
        entries.extend(added.iter().map(|added| (added.id, added.content.as_str(), Some(added.special))));
        entries.retain(|&(id, _, _)| !self.is_beyond(id));
        // An added token follows, and so replaces, the entry of the vocabulary with its id.
        entries.sort_by_key(|&(id, _, special)| (id, special.is_some()));
        let mut vocabulary = Vocabulary::with_capacity(self.rows);
        for (index, &(id, text, special)) in entries.iter().enumerate() {
            if entries.get(index + 1).is_some_and(|next| next.0 == id) {
                continue;
            }
            vocabulary.pad(id as usize);
            let (bytes, kind) = match special {
                Some(true) if self.json.model.unk_token.as_deref() == Some(text) => (Vec::new(), Kind::Unknown),
                Some(true) => (Vec::new(), Kind::Control),
                Some(false) => (text.as_bytes().to_vec(), Kind::UserDefined),
                None => spelling.bytes(text),
            };
            let retyped = matches!(kind, Kind::Normal | Kind::UserDefined) && is_unmistakable_end(text);
            vocabulary.push(text, bytes, if retyped { Kind::Control } else { kind });
        }
        vocabulary.pad(self.rows);
        Ok(vocabulary)
    }

    fn is_beyond(&self, id: u32) -> bool {
        usize::try_from(id).map_or(true, |id| id >= self.rows)
    }

    /// Added tokens whose ids have no row.
    fn beyond(&mut self) -> Vec<Beyond> {
        let without: Vec<Beyond> = self
            .json
            .added_tokens
            .iter()
            .filter(|token| self.is_beyond(token.id))
            .map(|token| Beyond { id: token.id, text: token.content.clone(), special: token.special })
            .collect();
        self.warnings.extend(without.iter().map(|token| without_row(token.id, &token.text, self.rows)));
        without
    }

    fn matching(&self) -> BTreeMap<u32, Matching> {
        let matching = |token: &AddedTokenJson| {
            let &AddedTokenJson { single_word, lstrip, rstrip, .. } = token;
            (token.id, Matching { single_word, lstrip, rstrip })
        };
        let tokens = self.json.added_tokens.iter().filter(|token| !self.is_beyond(token.id)).map(matching);
        tokens.filter(|(_, matching)| *matching != Matching::default()).collect()
    }

    /// The id of a text that is a token with a row.
    fn id_of(&self, text: &str, vocabulary: &Vocabulary) -> Option<u32> {
        let added = self.json.added_tokens.iter().find(|added| added.content == text).map(|added| added.id);
        let in_vocabulary = || self.json.model.vocab.0.iter().find(|(piece, _)| piece == text).map(|(_, id)| *id);
        added.or_else(in_vocabulary).filter(|&id| vocabulary.kind(id).is_some())
    }

    /// The id of a token that a configuration names by its text: `Some(None)` where it says that there is none, `None`
    /// where it says nothing, or something that is no token.
    fn role(&mut self, key: &str, config: Role, map: Role, vocabulary: &Vocabulary) -> Option<Option<u32>> {
        let text = match (config, map) {
            (Role::Named(text), _) | (Role::Unsaid, Role::Named(text)) => text,
            (Role::None, _) | (Role::Unsaid, Role::None) => return Some(None),
            (Role::Unsaid, Role::Unsaid) => return None,
        };
        let id = self.id_of(&text, vocabulary);
        // Tokens without a row are named elsewhere.
        if id.is_none() && !self.json.added_tokens.iter().any(|token| token.content == text) {
            self.warnings
                .push(format!("{key} of tokenizer_config.json is {text:?}, which is no token: it is left out"));
        }
        id.map(Some)
    }

    /// An id that config.json or generation_config.json names, if there is such a token.
    fn declared(&mut self, key: &str, id: Option<u32>, vocabulary: &Vocabulary) -> Option<u32> {
        let id = id?;
        if vocabulary.kind(id).is_none() {
            let rows = self.rows;
            self.warnings.push(format!("{key} is {id}, but there are {rows} tokens: it is left out"));
            return None;
        }
        Some(id)
    }

    /// The ids around a text, with that of `token` among them or not, where the configuration decides.
    fn surrounding(
        &mut self,
        side: &str,
        mut ids: Vec<u32>,
        token: Option<u32>,
        wanted: Option<bool>,
        vocabulary: &Vocabulary,
    ) -> Vec<u32> {
        match (token, wanted) {
            (Some(id), Some(true)) if !ids.contains(&id) => ids.push(id),
            (Some(id), Some(false)) => ids.retain(|&other| other != id),
            _ => {}
        }
        for id in ids.extract_if(.., |id| vocabulary.kind(*id).is_none()) {
            let rows = self.rows;
            self.warnings
                .push(format!("token {id}, to be put {side} every text, is none of the {rows}: it is left out"));
        }
        ids
    }
}

/// The ids that the post-processor puts before and after a text.
fn wrapping(post_processor: Option<&Value>) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for step in steps::flat(post_processor) {
        steps::check_kind("post-processor", step, POST_PROCESSORS)?;
        if steps::kind(step) == Some("TemplateProcessing") {
            let (left, right) = template(step)?;
            before.splice(..0, left);
            after.extend(right);
        }
    }
    Ok((before, after))
}

/// The ids on either side of the text in a template.
fn template(step: &Value) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
    let wrong = |expected: &str, found: &dyn std::fmt::Display| {
        TokenizerError::invalid("post_processor of tokenizer.json", expected, found)
    };
    let pieces = step.get("single").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let text = |piece: &&Value| piece.get("Sequence").is_some();
    let id = |piece: &Value, kind: &str| piece.get(kind)?.get("id")?.as_str().map(str::to_owned);
    if let Some(other) = pieces.iter().filter_map(|piece| id(piece, "Sequence")).find(|id| id != "A") {
        return Err(wrong("one text, A, in the template for one", &format_args!("{other:?}")));
    }
    let texts = pieces.iter().filter(text).count();
    if texts != 1 {
        return Err(wrong("a template with one text in it", &texts));
    }
    let (mut before, mut after, mut seen) = (Vec::new(), Vec::new(), false);
    for piece in pieces {
        if text(&piece) {
            seen = true;
            continue;
        }
        let name = id(piece, "SpecialToken").ok_or_else(|| wrong("special tokens around a text", piece))?;
        let ids = step.get("special_tokens").and_then(|tokens| tokens.get(&name)?.get("ids")).cloned();
        let ids: Vec<u32> = ids
            .and_then(|ids| serde_json::from_value(ids).ok())
            .ok_or_else(|| wrong("special tokens that it defines", &format_args!("{name:?}")))?;
        if seen { &mut after } else { &mut before }.extend(ids);
    }
    Ok((before, after))
}

#[cfg(test)]
mod tests;
