//! Codecs of what attention sees and how its scores are scaled.

use super::codecs::{Codec, Parameter};
use super::values::{LayerType, short};
use super::{Config, limits};
use crate::architectures::ArchitectureInfo;
use crate::error::FormatError;
use crate::formats::gguf::file::GgufFile;
use crate::formats::hf::json::Object as JsonObject;
use crate::write::gguf_keys::GgufKeys;
use serde_json::{Map, Value};

/// Every so many layers of a checkpoint one sees everything.
const PATTERN_FIELDS: [&str; 2] = ["sliding_window_pattern", "_sliding_window_pattern"];

/// Which layers see a window. A file says so by a list, or by a pattern: every so many layers one sees everything.
pub(super) struct LayerTypes;

impl LayerTypes {
    fn pattern(layers: usize, every: usize) -> Vec<LayerType> {
        let ty = |layer: usize| if (layer + 1).is_multiple_of(every) { LayerType::Full } else { LayerType::Sliding };
        Self::unless_full((0..layers.min(limits::LAYERS)).map(ty).collect())
    }

    /// Nothing where all are full, so that one model has one description.
    fn unless_full(types: Vec<LayerType>) -> Vec<LayerType> {
        if types.contains(&LayerType::Sliding) { types } else { Vec::new() }
    }
}

impl Codec<Vec<LayerType>> for LayerTypes {
    fn read_gguf(&self, file: &mut GgufFile<'_>, config: &Config) -> Result<Vec<LayerType>, FormatError> {
        let Some(window @ 1..) = file.usize("attention.sliding_window")? else { return Ok(Vec::new()) };
        let info = config.architecture.info();
        if !info.sliding_layers {
            return refuse_window(window, config).map(|()| Vec::new());
        }
        if let Some(slides) = file.bools("attention.sliding_window_pattern") {
            let ty = |&slides: &bool| if slides { LayerType::Sliding } else { LayerType::Full };
            return Ok(Self::unless_full(slides.iter().map(ty).collect()));
        }
        let every = file.usize("attention.sliding_window_pattern")?.unwrap_or(info.defaults.sliding_window_pattern);
        Ok(Self::pattern(config.num_hidden_layers, every.max(1)))
    }

    fn read_json(&self, file: &JsonObject<'_>, config: &Config) -> Result<Vec<LayerType>, FormatError> {
        let info = config.architecture.info();
        if !info.sliding_layers {
            // Qwen 3 switches its window on by a key of its own; elsewhere a window is one.
            let is_on =
                file.bool("use_sliding_window")?.unwrap_or(config.architecture.info().defaults.head_dim.is_none());
            if let Some(window @ 1..) = file.usize("sliding_window")?.filter(|_| is_on) {
                refuse_window(window, config)?;
            }
        }
        let Some(types) = file.strings("layer_types")? else {
            let [pattern, private] = PATTERN_FIELDS;
            let pattern = file.usize(pattern)?.or(file.usize(private)?);
            let every = pattern.unwrap_or(info.defaults.sliding_window_pattern).max(1);
            return Ok(if info.sliding_layers { Self::pattern(config.num_hidden_layers, every) } else { Vec::new() });
        };
        let parse = |name: &str| match name {
            "full_attention" => Ok(LayerType::Full),
            "sliding_attention" if info.sliding_layers => Ok(LayerType::Sliding),
            other => {
                let known = if info.sliding_layers { "full_attention and sliding_attention" } else { "full_attention" };
                let why = format!("layers of a {} model are of {known}", info.name);
                Err(FormatError::unsupported(format!("layer type {other:?}"), why))
            }
        };
        Ok(Self::unless_full(types.into_iter().map(parse).collect::<Result<_, _>>()?))
    }

    fn put_gguf(&self, value: &Vec<LayerType>, _: &Config, keys: &mut GgufKeys<'_>) {
        if value.is_empty() {
            return;
        }
        // The number is what llama.cpp reads; a list says what no number can.
        match (1..=value.len() + 1).find(|&every| Self::pattern(value.len(), every) == *value) {
            Some(every) => keys.u32("attention.sliding_window_pattern", every),
            None => {
                let slides: Vec<bool> = value.iter().map(|ty| *ty == LayerType::Sliding).collect();
                keys.bools("attention.sliding_window_pattern", &slides);
            }
        }
    }

    fn put_json(&self, value: &Vec<LayerType>, config: &Config, map: &mut Map<String, Value>) {
        if config.architecture.info().sliding_layers {
            let types =
                (0..config.num_hidden_layers).map(|layer| value.get(layer).unwrap_or(&LayerType::Full).to_json());
            map.insert("layer_types".into(), types.collect());
        }
    }

    fn gguf_keys(&self, info: &ArchitectureInfo) -> Vec<&'static str> {
        if info.sliding_layers { vec!["attention.sliding_window_pattern"] } else { Vec::new() }
    }

    fn json_keys(&self, info: &ArchitectureInfo) -> Vec<&'static str> {
        // `max_window_layers` says nothing where `use_sliding_window` is off, and where it is on it is refused.
        let others = if info.sliding_layers { PATTERN_FIELDS } else { ["use_sliding_window", "max_window_layers"] };
        [&["layer_types"][..], &others].concat()
    }
}

/// A window that is shorter than the context, in an architecture whose layers see everything.
fn refuse_window(window: usize, config: &Config) -> Result<(), FormatError> {
    if window >= config.max_position_embeddings {
        return Ok(());
    }
    let what = format!("a sliding window of {window} tokens");
    Err(FormatError::unsupported(what, "attention sees the whole context here"))
}

/// The window of the layers that have one.
pub(super) struct SlidingWindow;

impl Codec<Option<usize>> for SlidingWindow {
    fn read_gguf(&self, file: &mut GgufFile<'_>, config: &Config) -> Result<Option<usize>, FormatError> {
        Ok(file.usize("attention.sliding_window")?.filter(|_| config.slides()))
    }

    fn read_json(&self, file: &JsonObject<'_>, config: &Config) -> Result<Option<usize>, FormatError> {
        let window = file.usize("sliding_window")?.or(config.architecture.info().defaults.sliding_window);
        Ok(window.filter(|_| config.slides()))
    }

    fn put_gguf(&self, value: &Option<usize>, _: &Config, keys: &mut GgufKeys<'_>) {
        if let Some(window) = value {
            keys.u32("attention.sliding_window", *window);
        }
    }

    fn put_json(&self, value: &Option<usize>, _: &Config, map: &mut Map<String, Value>) {
        if let Some(window) = value {
            map.insert("sliding_window".into(), (*window).into());
        }
    }

    fn gguf_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec!["attention.sliding_window"]
    }

    fn json_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec!["sliding_window"]
    }
}

/// What scores are divided by the root of; a GGUF has that root's inverse.
pub(super) struct QueryScalar;

impl QueryScalar {
    /// `None` for the head size, so that one model has one description.
    fn unless_usual(scalar: Option<f32>, config: &Config) -> Option<f32> {
        scalar.filter(|&scalar| scalar != config.head_dim as f32)
    }
}

impl Codec<Option<f32>> for QueryScalar {
    fn read_gguf(&self, file: &mut GgufFile<'_>, config: &Config) -> Result<Option<f32>, FormatError> {
        let Some(scale) = file.f32("attention.scale")?.filter(|&scale| scale != 0.0) else { return Ok(None) };
        let exact = 1.0 / (f64::from(scale) * f64::from(scale));
        // The whole number that has this root, where there is one: the root was rounded.
        let whole = exact.round();
        let scalar = if (1.0 / whole.sqrt()) as f32 == scale { whole } else { exact };
        Ok(Self::unless_usual(Some(scalar as f32), config))
    }

    fn read_json(&self, file: &JsonObject<'_>, config: &Config) -> Result<Option<f32>, FormatError> {
        let default = config.architecture.info().defaults.query_pre_attn_scalar;
        // Elsewhere transformers has no such key.
        let scalar =
            default.map_or(Ok(None), |default| Ok(Some(file.f32("query_pre_attn_scalar")?.unwrap_or(default))))?;
        Ok(Self::unless_usual(scalar, config))
    }

    fn put_gguf(&self, value: &Option<f32>, _: &Config, keys: &mut GgufKeys<'_>) {
        if let Some(scalar) = value {
            keys.f32("attention.scale", (1.0 / f64::from(*scalar).sqrt()) as f32);
        }
    }

    fn put_json(&self, value: &Option<f32>, config: &Config, map: &mut Map<String, Value>) {
        if config.architecture.info().defaults.query_pre_attn_scalar.is_some() {
            map.insert("query_pre_attn_scalar".into(), short(value.unwrap_or(config.head_dim as f32)));
        }
    }

    fn gguf_keys(&self, _: &ArchitectureInfo) -> Vec<&'static str> {
        vec!["attention.scale"]
    }

    fn json_keys(&self, info: &ArchitectureInfo) -> Vec<&'static str> {
        if info.defaults.query_pre_attn_scalar.is_some() { vec!["query_pre_attn_scalar"] } else { Vec::new() }
    }
}
