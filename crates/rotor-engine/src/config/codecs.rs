//! How each hyper-parameter is held by a GGUF and by a `config.json`: a codec for those that are a number under a key, and
//! one for each that is not.

use super::activations::Activations;
use super::pooling::Pooling;
use super::values::{Activation, HIDDEN_ACT_KEY, LayerType, short};
use super::{Config, LINEAR_NORM_EPS};
use crate::architectures::ArchitectureInfo;
use crate::error::FormatError;
use crate::formats::gguf::file::GgufFile;
use crate::formats::hf::json::Object as JsonObject;
use crate::rope::scaling::RopeScaling;
use crate::write::gguf_keys::GgufKeys;
use serde_json::{Map, Value, json};

/// A value that people and programs can be shown.
pub(super) trait Parameter {
    /// As JSON.
    fn to_json(&self) -> Value;
}

impl Parameter for usize {
    fn to_json(&self) -> Value {
        (*self).into()
    }
}

impl Parameter for f32 {
    fn to_json(&self) -> Value {
        short(*self)
    }
}

impl<T: Parameter> Parameter for Option<T> {
    fn to_json(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::to_json)
    }
}

impl<T: Parameter> Parameter for Vec<T> {
    fn to_json(&self) -> Value {
        self.iter().map(T::to_json).collect()
    }
}

impl Parameter for Activation {
    fn to_json(&self) -> Value {
        self.name().into()
    }
}

impl Parameter for LayerType {
    fn to_json(&self) -> Value {
        self.name().into()
    }
}

impl Parameter for Activations {
    fn to_json(&self) -> Value {
        self.name().into()
    }
}

impl Parameter for Pooling {
    fn to_json(&self) -> Value {
        self.name().into()
    }
}

impl Parameter for RopeScaling {
    fn to_json(&self) -> Value {
        RopeScaling::to_json(self)
    }
}

/// Where a hyper-parameter is in each kind of file. `config` holds the fields before it in the list.
pub(super) trait Codec<T> {
    /// Reads it from a GGUF.
    fn read_gguf(&self, file: &mut GgufFile<'_>, config: &Config) -> Result<T, FormatError>;
    /// Reads it from a `config.json`.
    fn read_json(&self, file: &JsonObject<'_>, config: &Config) -> Result<T, FormatError>;
    /// Writes it to a GGUF.
    fn put_gguf(&self, value: &T, config: &Config, keys: &mut GgufKeys<'_>);
    /// Writes it to a `config.json`.
    fn put_json(&self, value: &T, config: &Config, map: &mut Map<String, Value>);
    /// The keys it is read from in a GGUF; those that do not begin with `rotor.` stand behind the architecture's name.
    fn gguf_keys(&self, info: &ArchitectureInfo) -> Vec<&'static str>;
    /// The keys it is read from in a `config.json`.
    fn json_keys(&self, info: &ArchitectureInfo) -> Vec<&'static str>;
    /// Whether it is part of what turns queries and keys.
    fn is_rotary(&self) -> bool {
        false
    }
}

/// A number under one key.
pub(super) trait Scalar: Parameter + Copy {
    /// Reads it from a GGUF.
    fn from_gguf(file: &GgufFile<'_>, name: &str) -> Result<Option<Self>, FormatError>;
    /// Reads it from a JSON object.
    fn from_json(file: &JsonObject<'_>, key: &str) -> Result<Option<Self>, FormatError>;
    /// Writes it to a GGUF.
    fn put(self, name: &str, keys: &mut GgufKeys<'_>);
}

impl Scalar for usize {
    fn from_gguf(file: &GgufFile<'_>, name: &str) -> Result<Option<Self>, FormatError> {
        file.usize(name)
    }

    fn from_json(file: &JsonObject<'_>, key: &str) -> Result<Option<Self>, FormatError> {
        file.usize(key)
    }

    fn put(self, name: &str, keys: &mut GgufKeys<'_>) {
        keys.u32(name, self);
    }
}

impl Scalar for f32 {
    fn from_gguf(file: &GgufFile<'_>, name: &str) -> Result<Option<Self>, FormatError> {
        file.f32(name)
    }

    fn from_json(file: &JsonObject<'_>, key: &str) -> Result<Option<Self>, FormatError> {
        file.f32(key)
    }

    fn put(self, name: &str, keys: &mut GgufKeys<'_>) {
        keys.f32(name, self);
    }
}

/// A number that both kinds of file have under one key, always written and required where it has no default.
pub(super) struct Key<T> {
    gguf: &'static str,
    json: &'static str,
    gguf_default: fn(&GgufFile<'_>, &Config) -> Option<T>,
    json_default: fn(&Config) -> Option<T>,
}

impl<T: Scalar> Key<T> {
    pub(super) fn new(gguf: &'static str, json: &'static str) -> Self {
        Self { gguf, json, gguf_default: |_, _| None, json_default: |_| None }
    }

    /// What a GGUF without the key means.
    pub(super) fn or_gguf(self, gguf_default: fn(&GgufFile<'_>, &Config) -> Option<T>) -> Self {
        Self { gguf_default, ..self }
    }

    /// What a `config.json` without the key means.
    pub(super) fn or_json(self, json_default: fn(&Config) -> Option<T>) -> Self {
        Self { json_default, ..self }
    }
}

impl<T: Scalar> Codec<T> for Key<T> {
    fn read_gguf(&self, file: &mut GgufFile<'_>, config: &Config) -> Result<T, FormatError> {
        let default = || (self.gguf_default)(file, config);
        T::from_gguf(file, self.gguf)?.or_else(default).ok_or_else(|| file.missing(self.gguf))
    }

    fn read_json(&self, file: &JsonObject<'_>, config: &Config) -> Result<T, FormatError> {
        let default = || (self.json_default)(config);
        T::from_json(file, self.json)?.or_else(default).ok_or_else(|| file.missing(self.json))
    }

    fn put_gguf(&self, value: &T, _: &Config, keys: &mut GgufKeys<'_>) {
        value.put(self.gguf, keys);
    }

    fn put_json(&self, value: &T, _: &Config, map: &mut Map<String, Value>) {
        map.insert(self.json.into(), value.to_json());
    }

    fn gguf_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec![self.gguf]
    }

    fn json_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec![self.json]
    }
}

/// The rows of the embedding, with which a GGUF's key has to agree where there is one.
pub(super) struct VocabSize;

impl Codec<usize> for VocabSize {
    fn read_gguf(&self, file: &mut GgufFile<'_>, _: &Config) -> Result<usize, FormatError> {
        let name = "token_embd.weight";
        let Some(shape) = file.shape(name) else { return Err(FormatError::missing(format!("tensor {name:?}"))) };
        let &[rows, _] = shape else {
            let what = format!("shape of tensor {name:?}");
            return Err(FormatError::invalid(what, "two dimensions", format!("{shape:?}")));
        };
        match file.usize("vocab_size")? {
            Some(size) if size != rows => {
                Err(FormatError::invalid(file.key("vocab_size"), format!("{rows}, the rows of {name}"), size))
            }
            _ => Ok(rows),
        }
    }

    fn read_json(&self, file: &JsonObject<'_>, _: &Config) -> Result<usize, FormatError> {
        file.require_usize("vocab_size")
    }

    fn put_gguf(&self, value: &usize, _: &Config, keys: &mut GgufKeys<'_>) {
        keys.u32("vocab_size", *value);
    }

    fn put_json(&self, value: &usize, _: &Config, map: &mut Map<String, Value>) {
        map.insert("vocab_size".into(), (*value).into());
    }

    fn gguf_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec!["vocab_size"]
    }

    fn json_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec!["vocab_size"]
    }
}

/// The keys of a GGUF with the size of a head; the two have to agree.
const HEAD_DIM_KEYS: [&str; 2] = ["attention.key_length", "attention.value_length"];

/// The size of a head, of keys and values alike.
pub(super) struct HeadDim;

impl HeadDim {
    /// The width divided by the heads.
    fn quotient(config: &Config, what: &str) -> Result<usize, FormatError> {
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        match heads > 0 && hidden.is_multiple_of(heads) {
            true => Ok(hidden / heads),
            false => Err(FormatError::invalid(what, format!("a multiple of the {heads} heads"), hidden)),
        }
    }
}

impl Codec<usize> for HeadDim {
    fn read_gguf(&self, file: &mut GgufFile<'_>, config: &Config) -> Result<usize, FormatError> {
        let head_dim = match file.usize("attention.key_length")? {
            Some(length) => length,
            None => Self::quotient(config, &file.key("embedding_length"))?,
        };
        match file.usize("attention.value_length")? {
            Some(other) if other != head_dim => {
                let what = format!("{} = {other}", file.key("attention.value_length"));
                Err(FormatError::unsupported(what, format!("it has to equal the head size {head_dim}")))
            }
            _ => Ok(head_dim),
        }
    }

    fn read_json(&self, file: &JsonObject<'_>, config: &Config) -> Result<usize, FormatError> {
        match file.usize("head_dim")?.or(config.architecture.info().defaults.head_dim) {
            Some(head_dim) => Ok(head_dim),
            None => Self::quotient(config, "hidden_size"),
        }
    }

    fn put_gguf(&self, value: &usize, config: &Config, keys: &mut GgufKeys<'_>) {
        // Where it does not follow from the width.
        if config.q_dim() != config.hidden_size {
            for name in HEAD_DIM_KEYS {
                keys.u32(name, *value);
            }
        }
    }

    fn put_json(&self, value: &usize, _: &Config, map: &mut Map<String, Value>) {
        map.insert("head_dim".into(), (*value).into());
    }

    fn gguf_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        HEAD_DIM_KEYS.to_vec()
    }

    fn json_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec!["head_dim"]
    }
}

/// Epsilon of the norms inside linears, for which GGUF has no key.
pub(super) struct LinearNormEps;

/// The key that rotor writes where it is not the usual one.
const LINEAR_NORM_EPS_KEY: &str = "rotor.linear_norm_eps";

impl Codec<f32> for LinearNormEps {
    fn read_gguf(&self, file: &mut GgufFile<'_>, _: &Config) -> Result<f32, FormatError> {
        Ok(file.f32(LINEAR_NORM_EPS_KEY)?.unwrap_or(LINEAR_NORM_EPS))
    }

    fn read_json(&self, file: &JsonObject<'_>, _: &Config) -> Result<f32, FormatError> {
        let quantization = file.object("quantization_config")?;
        let eps = quantization.map_or(Ok(None), |quantization| quantization.f32("rms_norm_eps"))?;
        Ok(eps.unwrap_or(LINEAR_NORM_EPS))
    }

    fn put_gguf(&self, value: &f32, _: &Config, keys: &mut GgufKeys<'_>) {
        if *value != LINEAR_NORM_EPS {
            keys.f32(LINEAR_NORM_EPS_KEY, *value);
        }
    }

    fn put_json(&self, value: &f32, _: &Config, map: &mut Map<String, Value>) {
        if *value != LINEAR_NORM_EPS {
            let quantization = map.entry("quantization_config").or_insert_with(|| json!({}));
            quantization["rms_norm_eps"] = short(*value);
        }
    }

    fn gguf_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec![LINEAR_NORM_EPS_KEY]
    }

    fn json_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec!["quantization_config"]
    }
}

/// The gate's activation function, for which GGUF has no key.
pub(super) struct HiddenAct;

impl HiddenAct {
    /// What the vocabulary and the depth tell of the two BitNet families, which come under the same names.
    ///
    /// Microsoft's model has a byte-level BPE vocabulary of 128256 tokens and 30 layers; the 1bitLLM family a SentencePiece
    /// vocabulary of 32002 and 24 or 26 layers.
    fn of_family(tokenizer: Option<&str>, vocab_size: usize, layers: usize) -> Option<Activation> {
        if tokenizer == Some("gpt2") || vocab_size == 128_256 || layers == 30 {
            return Some(Activation::ReluSquared);
        }
        let silu = tokenizer == Some("llama") || vocab_size == 32_002 || [24, 26].contains(&layers);
        silu.then_some(Activation::Silu)
    }

    /// What a file of an architecture holds unless a key says otherwise; `None` where it does not tell.
    fn usual(config: &Config, tokenizer: Option<&str>) -> Option<Activation> {
        let names = config.architecture.info().gguf;
        // Only where names do not agree is there a question.
        match names.iter().all(|name| name.hidden_act == names[0].hidden_act) {
            true => Some(names[0].hidden_act),
            false => Self::of_family(tokenizer, config.vocab_size, config.num_hidden_layers),
        }
    }
}

impl Codec<Activation> for HiddenAct {
    fn read_gguf(&self, file: &mut GgufFile<'_>, config: &Config) -> Result<Activation, FormatError> {
        if let Some(given) = file.hidden_act {
            return Ok(given);
        }
        if let Some(name) = file.str(HIDDEN_ACT_KEY)? {
            return Activation::parse(name);
        }
        if let Some(usual) = Self::usual(config, file.tokenizer()?) {
            return Ok(usual);
        }
        let names = config.architecture.info().gguf;
        let assumed = names.iter().find(|name| name.name == file.architecture).unwrap_or(&names[0]).hidden_act;
        let warning = format!("nothing in the file tells its activation function; {} is assumed", assumed.name());
        file.warnings.push(warning);
        Ok(assumed)
    }

    fn read_json(&self, file: &JsonObject<'_>, config: &Config) -> Result<Activation, FormatError> {
        match file.str("hidden_act")?.or(file.str("hidden_activation")?) {
            Some(name) => Activation::parse(name),
            None => Ok(config.architecture.info().defaults.hidden_act),
        }
    }

    fn put_gguf(&self, value: &Activation, config: &Config, keys: &mut GgufKeys<'_>) {
        if Self::usual(config, keys.tokenizer) != Some(*value) {
            keys.string(HIDDEN_ACT_KEY, value.name());
        }
    }

    fn put_json(&self, value: &Activation, config: &Config, map: &mut Map<String, Value>) {
        // Gemma has a name of its own for it.
        let usual = config.architecture.info().defaults.hidden_act;
        let key = if usual == Activation::GeluTanh { "hidden_activation" } else { "hidden_act" };
        map.insert(key.into(), value.name().into());
    }

    fn gguf_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec![HIDDEN_ACT_KEY]
    }

    fn json_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec!["hidden_act", "hidden_activation"]
    }
}
