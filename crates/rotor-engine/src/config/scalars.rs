//! Codecs of the scalars that multiply what flows through the graph.

use super::Config;
use super::codecs::Codec;
use super::values::short;
use crate::architectures::{ArchitectureInfo, Scalars};
use crate::error::FormatError;
use crate::formats::gguf::file::GgufFile;
use crate::formats::hf::json::Object as JsonObject;
use crate::write::gguf_keys::GgufKeys;
use serde_json::{Map, Value, json};

/// `scale_emb` and `scale_depth` of MiniCPM files that name none.
const SCALE_EMB: f32 = 12.0;
const SCALE_DEPTH: f64 = 1.4;
/// `dim_model_base` of MiniCPM files that name none.
const DIM_MODEL_BASE: f64 = 256.0;

/// A key that has a meaning for MiniCPM alone.
fn of_minicpm(info: &ArchitectureInfo, key: &'static str) -> Vec<&'static str> {
    if info.scalars == Scalars::MiniCpm { vec![key] } else { Vec::new() }
}

/// What multiplies the embedding.
pub(super) struct EmbeddingScale;

impl EmbeddingScale {
    /// What an architecture has without a key; `None` where a key says it.
    fn fixed(config: &Config) -> Option<f32> {
        match config.architecture.info().scalars {
            Scalars::None => Some(1.0),
            Scalars::RootOfWidth => Some((config.hidden_size as f64).sqrt() as f32),
            Scalars::MiniCpm => None,
        }
    }
}

impl Codec<f32> for EmbeddingScale {
    fn read_gguf(&self, file: &mut GgufFile<'_>, config: &Config) -> Result<f32, FormatError> {
        let Some(fixed) = Self::fixed(config) else { return Ok(file.f32("embedding_scale")?.unwrap_or(SCALE_EMB)) };
        Ok(fixed)
    }

    fn read_json(&self, file: &JsonObject<'_>, config: &Config) -> Result<f32, FormatError> {
        let Some(fixed) = Self::fixed(config) else { return Ok(file.f32("scale_emb")?.unwrap_or(1.0)) };
        Ok(fixed)
    }

    fn put_gguf(&self, value: &f32, config: &Config, keys: &mut GgufKeys<'_>) {
        if Self::fixed(config).is_none() {
            keys.f32("embedding_scale", *value);
        }
    }

    fn put_json(&self, value: &f32, config: &Config, map: &mut Map<String, Value>) {
        if Self::fixed(config).is_none() {
            map.insert("scale_emb".into(), short(*value));
        }
    }

    fn gguf_keys(&self, info: &ArchitectureInfo) -> Vec<&'static str> {
        of_minicpm(info, "embedding_scale")
    }

    fn json_keys(&self, info: &ArchitectureInfo) -> Vec<&'static str> {
        of_minicpm(info, "scale_emb")
    }
}

/// What multiplies a sublayer's output.
pub(super) struct ResidualScale;

impl Codec<f32> for ResidualScale {
    fn read_gguf(&self, file: &mut GgufFile<'_>, config: &Config) -> Result<f32, FormatError> {
        if config.architecture.info().scalars != Scalars::MiniCpm {
            return Ok(1.0);
        }
        let usual = (SCALE_DEPTH / (config.num_hidden_layers as f64).sqrt()) as f32;
        Ok(file.f32("residual_scale")?.unwrap_or(usual))
    }

    fn read_json(&self, file: &JsonObject<'_>, config: &Config) -> Result<f32, FormatError> {
        if config.architecture.info().scalars != Scalars::MiniCpm {
            return Ok(1.0);
        }
        let depth = file.f64("scale_depth")?.unwrap_or(1.0);
        Ok((depth / (config.num_hidden_layers as f64).sqrt()) as f32)
    }

    fn put_gguf(&self, value: &f32, config: &Config, keys: &mut GgufKeys<'_>) {
        if config.architecture.info().scalars == Scalars::MiniCpm {
            keys.f32("residual_scale", *value);
        }
    }

    fn put_json(&self, value: &f32, config: &Config, map: &mut Map<String, Value>) {
        if config.architecture.info().scalars == Scalars::MiniCpm {
            // In f64, of which reading makes the same f32 again.
            let depth = f64::from(*value) * (config.num_hidden_layers as f64).sqrt();
            map.insert("scale_depth".into(), depth.into());
        }
    }

    fn gguf_keys(&self, info: &ArchitectureInfo) -> Vec<&'static str> {
        of_minicpm(info, "residual_scale")
    }

    fn json_keys(&self, info: &ArchitectureInfo) -> Vec<&'static str> {
        of_minicpm(info, "scale_depth")
    }
}

/// What the last norm's output is divided by before the head.
pub(super) struct LogitScale;

impl Codec<f32> for LogitScale {
    fn read_gguf(&self, file: &mut GgufFile<'_>, config: &Config) -> Result<f32, FormatError> {
        if config.architecture.info().scalars != Scalars::MiniCpm {
            return Ok(1.0);
        }
        let usual = (config.hidden_size as f64 / DIM_MODEL_BASE) as f32;
        Ok(file.f32("logit_scale")?.unwrap_or(usual))
    }

    fn read_json(&self, file: &JsonObject<'_>, config: &Config) -> Result<f32, FormatError> {
        if config.architecture.info().scalars != Scalars::MiniCpm {
            return Ok(1.0);
        }
        let base = file.f64("dim_model_base")?.unwrap_or(1.0);
        Ok((config.hidden_size as f64 / base) as f32)
    }

    fn put_gguf(&self, value: &f32, config: &Config, keys: &mut GgufKeys<'_>) {
        if config.architecture.info().scalars == Scalars::MiniCpm {
            keys.f32("logit_scale", *value);
        }
    }

    fn put_json(&self, value: &f32, config: &Config, map: &mut Map<String, Value>) {
        if config.architecture.info().scalars == Scalars::MiniCpm {
            let base = config.hidden_size as f64 / f64::from(*value);
            // The whole number of which reading makes the same, where there is one.
            let whole = base.round();
            let same = (config.hidden_size as f64 / whole) as f32 == *value;
            map.insert("dim_model_base".into(), if same { json!(whole as u64) } else { json!(base) });
        }
    }

    fn gguf_keys(&self, info: &ArchitectureInfo) -> Vec<&'static str> {
        of_minicpm(info, "logit_scale")
    }

    fn json_keys(&self, info: &ArchitectureInfo) -> Vec<&'static str> {
        of_minicpm(info, "dim_model_base")
    }
}
