//! The `tokenizer.ggml.*` keys, as they are: what they mean is for
//! [`TokenizerDescription`](crate::tokenizer::TokenizerDescription) to say, and only when text is wanted.

use super::super::metadata::{Metadata, Value};
use super::super::tokenizer_source::GgufVocabulary;
use crate::error::FormatError;

/// The names of the keys, for those who read and those who write them.
pub(crate) mod key {
    macro_rules! keys {
        ($($constant:ident = $name:literal),* $(,)?) => {
            $(pub(crate) const $constant: &str = concat!("tokenizer.ggml.", $name);)*
            /// Every key that is read.
            pub(crate) const READ: &[&str] = &[$($constant),*];
        };
    }

    keys! {
        MODEL = "model",
        PRE = "pre",
        TOKENS = "tokens",
        SCORES = "scores",
        TOKEN_TYPE = "token_type",
        MERGES = "merges",
        BOS = "bos_token_id",
        EOS = "eos_token_id",
        EOT = "eot_token_id",
        EOM = "eom_token_id",
        UNKNOWN = "unknown_token_id",
        PADDING = "padding_token_id",
        EOS_IDS = "eos_token_ids",
        FIM_PAD = "fim_pad_token_id",
        FIM_REP = "fim_rep_token_id",
        FIM_SEP = "fim_sep_token_id",
        ADD_BOS = "add_bos_token",
        ADD_EOS = "add_eos_token",
        ADD_SPACE_PREFIX = "add_space_prefix",
        // These four are refused where they are switched on, since rotor does not do what they ask for.
        ADD_SEP = "add_sep_token",
        REMOVE_SPACES = "remove_extra_whitespaces",
        CHARSMAP = "precompiled_charsmap",
        LOWERCASE = "normalizer.lowercase",
    }

    /// The chat template.
    pub(crate) const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

    /// Keys about which there is nothing to do: they name tokens that the vocabulary has anyway, or say once more what
    /// others say.
    pub(crate) const HARMLESS: &[&str] = &[
        CHAT_TEMPLATE,
        "tokenizer.chat_templates",
        "tokenizer.huggingface.json",
        "tokenizer.ggml.seperator_token_id",
        "tokenizer.ggml.separator_token_id",
        "tokenizer.ggml.cls_token_id",
        "tokenizer.ggml.mask_token_id",
        "tokenizer.ggml.prefix_token_id",
        "tokenizer.ggml.suffix_token_id",
        "tokenizer.ggml.middle_token_id",
        "tokenizer.ggml.fim_pre_token_id",
        "tokenizer.ggml.fim_suf_token_id",
        "tokenizer.ggml.fim_mid_token_id",
        "tokenizer.ggml.token_type_count",
    ];

    /// Whether a key is about the tokenizer and nobody here knows what it says.
    pub(crate) fn is_unknown(key: &str) -> bool {
        let is_template = |key: &str| key.starts_with("tokenizer.chat_template.");
        key.starts_with("tokenizer.") && !is_template(key) && !READ.contains(&key) && !HARMLESS.contains(&key)
    }
}

/// The keys; `None` where the file has none.
pub(in super::super) fn vocabulary(metadata: &Metadata) -> Result<Option<GgufVocabulary>, FormatError> {
    let Some(model) = metadata.str(key::MODEL)? else { return Ok(None) };
    let Some(tokens) = metadata.strings(key::TOKENS)? else {
        return Err(FormatError::missing(format!("metadata key {}", key::TOKENS)));
    };
    let scores = metadata.array(key::SCORES, "an array of numbers", Value::as_f32)?;
    let types = |value: &Value| i32::try_from(value.as_i128()?).ok();
    let token_types = metadata.array(key::TOKEN_TYPE, "an array of whole numbers", types)?;
    let mut warnings: Vec<String> = metadata
        .iter()
        .filter(|(key, _)| key::is_unknown(key))
        .map(|(key, _)| format!("metadata key {key} is not known, and so not used"))
        .collect();
    let mut id = |key: &str| token_id(key, metadata.get(key)?, &mut warnings);
    let mut vocabulary = GgufVocabulary {
        architecture: metadata.str("general.architecture")?.unwrap_or_default().to_owned(),
        model: model.to_owned(),
        pre: metadata.str(key::PRE)?.map(str::to_owned),
        tokens: tokens.iter().map(<[u8]>::to_vec).collect(),
        scores: scores.unwrap_or_default(),
        token_types: token_types.unwrap_or_default(),
        merges: metadata.strings(key::MERGES)?.cloned().unwrap_or_default(),
        bos: id(key::BOS),
        eos: id(key::EOS),
        eot: id(key::EOT),
        eom: id(key::EOM),
        unknown: id(key::UNKNOWN),
        padding: id(key::PADDING),
        ends: [key::FIM_PAD, key::FIM_REP, key::FIM_SEP].into_iter().filter_map(&mut id).collect(),
        add_bos: metadata.bool(key::ADD_BOS)?,
        add_eos: metadata.bool(key::ADD_EOS)?,
        add_space_prefix: metadata.bool(key::ADD_SPACE_PREFIX)?,
        unsupported: unsupported(metadata),
        warnings: Vec::new(),
    };
    vocabulary.ends.extend(token_ids(key::EOS_IDS, metadata, &mut warnings));
    Ok(Some(GgufVocabulary { warnings, ..vocabulary }))
}

/// A token's id. Files write -1 for none, and worse; what is no id is left out with a word.
fn token_id(key: &str, value: &Value, warnings: &mut Vec<String>) -> Option<u32> {
    let id = value.as_i128().and_then(|id| u32::try_from(id).ok());
    if id.is_none() {
        warnings.push(format!("{key} is {}, which is no token id: it is left out", value.preview()));
    }
    id
}

/// Several ids, or one.
fn token_ids(key: &str, metadata: &Metadata, warnings: &mut Vec<String>) -> Vec<u32> {
    match metadata.get(key) {
        None => Vec::new(),
        Some(Value::Array(array)) => {
            let values = (0..array.len()).filter_map(|index| array.get(index));
            values.filter_map(|value| token_id(key, &value, warnings)).collect()
        }
        Some(one) => token_id(key, one, warnings).into_iter().collect(),
    }
}

/// Keys that are switched on and change ids in a way that rotor has not.
fn unsupported(metadata: &Metadata) -> Vec<String> {
    let is_on = |key: &&str| match metadata.get(key) {
        None => false,
        Some(Value::Array(array)) => !array.is_empty(),
        Some(other) => other.as_bool() != Some(false),
    };
    let keys = [key::ADD_SEP, key::REMOVE_SPACES, key::CHARSMAP, key::LOWERCASE];
    keys.into_iter().filter(is_on).map(str::to_owned).collect()
}
