//! Codecs of what a file may say of itself and mostly does not: how finely activations are kept, how a text is pooled.

use super::Config;
use super::activations::{Activations, JSON_KEY, KEY};
use super::codecs::Codec;
use super::pooling::Pooling;
use crate::architectures::ArchitectureInfo;
use crate::error::FormatError;
use crate::formats::gguf::file::GgufFile;
use crate::formats::hf::json::Object as JsonObject;
use crate::write::gguf_keys::GgufKeys;
use serde_json::{Map, Value};

/// What a file says of its activations. Where it says nothing, [`of_family`](super::activations::of_family) tells, once the
/// forms of its weights are known.
pub(super) struct DeclaredActivations;

impl Codec<Option<Activations>> for DeclaredActivations {
    fn read_gguf(&self, file: &mut GgufFile<'_>, _: &Config) -> Result<Option<Activations>, FormatError> {
        file.str(KEY)?.map(Activations::parse).transpose()
    }

    fn read_json(&self, file: &JsonObject<'_>, _: &Config) -> Result<Option<Activations>, FormatError> {
        file.str(JSON_KEY)?.map(Activations::parse).transpose()
    }

    fn put_gguf(&self, value: &Option<Activations>, _: &Config, keys: &mut GgufKeys<'_>) {
        if let Some(activations) = value {
            keys.string(KEY, activations.name());
        }
    }

    fn put_json(&self, value: &Option<Activations>, _: &Config, map: &mut Map<String, Value>) {
        if let Some(activations) = value {
            map.insert(JSON_KEY.into(), activations.name().into());
        }
    }

    fn gguf_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec![KEY]
    }

    fn json_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec![JSON_KEY]
    }
}

const POOLING_KEY: &str = "pooling_type";
const POOLING_JSON_KEY: &str = "rotor_pooling";

/// What a file says of pooling; other ways (none, ranking) are left to those who ask.
pub(super) struct DeclaredPooling;

impl Codec<Option<Pooling>> for DeclaredPooling {
    fn read_gguf(&self, file: &mut GgufFile<'_>, _: &Config) -> Result<Option<Pooling>, FormatError> {
        let id = file.usize(POOLING_KEY)?;
        Ok(Pooling::ALL.into_iter().find(|pooling| Some(pooling.id()) == id))
    }

    fn read_json(&self, file: &JsonObject<'_>, _: &Config) -> Result<Option<Pooling>, FormatError> {
        let Some(name) = file.str(POOLING_JSON_KEY)? else { return Ok(None) };
        let known = || FormatError::invalid(POOLING_JSON_KEY, "mean, cls or last", format!("{name:?}"));
        Pooling::ALL.into_iter().find(|pooling| pooling.name() == name).map(Some).ok_or_else(known)
    }

    fn put_gguf(&self, value: &Option<Pooling>, _: &Config, keys: &mut GgufKeys<'_>) {
        if let Some(pooling) = value {
            keys.u32(POOLING_KEY, pooling.id());
        }
    }

    fn put_json(&self, value: &Option<Pooling>, _: &Config, map: &mut Map<String, Value>) {
        if let Some(pooling) = value {
            map.insert(POOLING_JSON_KEY.into(), pooling.name().into());
        }
    }

    fn gguf_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec![POOLING_KEY]
    }

    fn json_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec![POOLING_JSON_KEY]
    }
}
