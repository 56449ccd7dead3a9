//! How a model's hidden states become one vector for a text, where its file says.

use super::Config;
use super::codecs::{Codec, Parameter};
use crate::architectures::ArchitectureInfo;
use crate::error::FormatError;
use crate::formats::{GgufFile, JsonObject};
use crate::write::GgufKeys;
use serde_json::{Map, Value};

/// How the hidden states of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over all tokens.
    Mean,
    /// The first token's.
    First,
    /// The last token's.
    Last,
}

impl Pooling {
    /// Every way.
    pub const ALL: [Pooling; 3] = [Pooling::Mean, Pooling::First, Pooling::Last];

    /// The name people type.
    pub const fn name(self) -> &'static str {
        match self {
            Pooling::Mean => "mean",
            Pooling::First => "cls",
            Pooling::Last => "last",
        }
    }

    /// The number in a GGUF, as llama.cpp has it.
    const fn id(self) -> usize {
        match self {
            Pooling::Mean => 1,
            Pooling::First => 2,
            Pooling::Last => 3,
        }
    }

    /// What the file of sentence-transformers says, `1_Pooling/config.json`; the first of several ways that are on.
    pub(crate) fn of_sentence_transformers(file: &JsonObject<'_>) -> Result<Option<Pooling>, FormatError> {
        for (key, pooling) in [
            ("pooling_mode_lasttoken", Pooling::Last),
            ("pooling_mode_cls_token", Pooling::First),
            ("pooling_mode_mean_tokens", Pooling::Mean),
        ] {
            if file.bool(key)?.unwrap_or(false) {
                return Ok(Some(pooling));
            }
        }
        Ok(None)
    }
}

impl Parameter for Pooling {
    fn to_json(&self) -> Value {
        self.name().into()
    }
}

const KEY: &str = "pooling_type";
const JSON_KEY: &str = "rotor_pooling";

/// What a file says; other ways (none, ranking) are left to those who ask.
pub(super) struct Declared;

impl Codec<Option<Pooling>> for Declared {
    fn read_gguf(&self, file: &mut GgufFile<'_>, _: &Config) -> Result<Option<Pooling>, FormatError> {
        let id = file.usize(KEY)?;
        Ok(Pooling::ALL.into_iter().find(|pooling| Some(pooling.id()) == id))
    }

    fn read_json(&self, file: &JsonObject<'_>, _: &Config) -> Result<Option<Pooling>, FormatError> {
        let Some(name) = file.str(JSON_KEY)? else { return Ok(None) };
        let known = || FormatError::invalid(JSON_KEY, "mean, cls or last", format!("{name:?}"));
        Pooling::ALL.into_iter().find(|pooling| pooling.name() == name).map(Some).ok_or_else(known)
    }

    fn put_gguf(&self, value: &Option<Pooling>, _: &Config, keys: &mut GgufKeys<'_>) {
        if let Some(pooling) = value {
            keys.u32(KEY, pooling.id());
        }
    }

    fn put_json(&self, value: &Option<Pooling>, _: &Config, map: &mut Map<String, Value>) {
        if let Some(pooling) = value {
            map.insert(JSON_KEY.into(), pooling.name().into());
        }
    }

    fn gguf_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec![KEY]
    }

    fn json_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec![JSON_KEY]
    }
}
