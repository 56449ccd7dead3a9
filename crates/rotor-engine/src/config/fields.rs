//! The table of hyper-parameters: for each one of the list in [`crate::config`] how it is read, written and shown.

use super::activations::Activations;
use super::codecs::{Codec, HeadDim, HiddenAct, Key, LinearNormEps, Parameter, VocabSize};
use super::declared::{DeclaredActivations, DeclaredPooling};
use super::pooling::Pooling;
use super::rotary::{LocalBase, PartialRotary, RopeTheta, Scaling};
use super::scalars::{EmbeddingScale, LogitScale, ResidualScale};
use super::values::{Activation, LayerType};
use super::windows::{LayerTypes, QueryScalar, SlidingWindow};
use super::{Config, hyper_parameters};
use crate::architectures::ArchitectureInfo;
use crate::error::FormatError;
use crate::formats::gguf::file::GgufFile;
use crate::formats::hf::json::Object as JsonObject;
use crate::rope::scaling::RopeScaling;
use crate::write::gguf_keys::GgufKeys;
use serde_json::{Map, Value};

/// A hyper-parameter as the loops over all of them see it.
pub(crate) struct Field {
    /// The name in [`Config`], which is that of transformers where it has one.
    pub(crate) name: &'static str,
    /// Whether it is part of what turns queries and keys; two files may say the same turning in different words.
    pub(crate) is_rotary: fn() -> bool,
    /// Reads it from a GGUF, the fields before it being known.
    pub(crate) read_gguf: fn(&mut GgufFile<'_>, &mut Config) -> Result<(), FormatError>,
    /// Reads it from a `config.json`, the fields before it being known.
    pub(crate) read_json: fn(&JsonObject<'_>, &mut Config) -> Result<(), FormatError>,
    /// Writes it to a GGUF.
    pub(crate) put_gguf: fn(&Config, &mut GgufKeys<'_>),
    /// Writes it to a `config.json`.
    pub(crate) put_json: fn(&Config, &mut Map<String, Value>),
    gguf_keys: fn(&ArchitectureInfo) -> Vec<&'static str>,
    json_keys: fn(&ArchitectureInfo) -> Vec<&'static str>,
    /// Its value for people and programs.
    pub(crate) value: fn(&Config) -> Value,
}

/// The keys of a GGUF that hyper-parameters are read from, less the architecture's name and a dot where they have these.
pub(crate) fn gguf_keys(info: &ArchitectureInfo) -> Vec<&'static str> {
    FIELDS.iter().flat_map(|field| (field.gguf_keys)(info)).collect()
}

/// The fields of a `config.json` that hyper-parameters are read from.
pub(crate) fn json_keys(info: &ArchitectureInfo) -> Vec<&'static str> {
    FIELDS.iter().flat_map(|field| (field.json_keys)(info)).collect()
}

macro_rules! field_table {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $initial:expr, $codec:expr;)*) => {
        /// Every hyper-parameter, in the order in which they are read and written.
        pub(crate) static FIELDS: &[Field] = &[$(Field {
            name: stringify!($field),
            is_rotary: || Codec::<$type>::is_rotary(&$codec),
            read_gguf: |file, config| {
                config.$field = Codec::<$type>::read_gguf(&$codec, file, config)?;
                Ok(())
            },
            read_json: |file, config| {
                config.$field = Codec::<$type>::read_json(&$codec, file, config)?;
                Ok(())
            },
            put_gguf: |config, keys| Codec::<$type>::put_gguf(&$codec, &config.$field, config, keys),
            put_json: |config, map| Codec::<$type>::put_json(&$codec, &config.$field, config, map),
            gguf_keys: |info| Codec::<$type>::gguf_keys(&$codec, info),
            json_keys: |info| Codec::<$type>::json_keys(&$codec, info),
            value: |config| config.$field.to_json(),
        },)*];
    };
}
hyper_parameters!(field_table);

impl Config {
    /// Every hyper-parameter by name, but for the architecture and the model's name.
    pub fn to_json(&self) -> Map<String, Value> {
        FIELDS.iter().map(|field| (field.name.to_owned(), (field.value)(self))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_belongs_to_two_fields() {
        for info in &crate::architectures::ARCHITECTURES {
            for mut keys in [gguf_keys(info), json_keys(info)] {
                keys.sort_unstable();
                let count = keys.len();
                keys.dedup();
                assert_eq!(keys.len(), count, "{keys:?}");
            }
        }
    }
}
