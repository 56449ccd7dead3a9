//! Generation's keywords: a dictionary that the Python side has made complete.

use pyo3::prelude::*;
use rotor::KvType;
use rotor::engine::GenerateOptions;
use rotor::sample::SamplingOptions;
use rotor::speculate::Speculate;

/// Every keyword of `generate`, with its value.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Options {
    max_tokens: Option<usize>,
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    repeat_penalty: f32,
    repeat_last_n: Option<usize>,
    presence_penalty: f32,
    frequency_penalty: f32,
    logit_bias: Vec<(u32, f32)>,
    seed: Option<u64>,
    stop: Vec<String>,
    ignore_eos: bool,
    trim_start: bool,
    /// How many likeliest tokens are reported with each token's own log-probability; `None` for no report at all.
    pub(crate) logprobs: Option<usize>,
    /// OpenAI's `response_format`, as JSON.
    pub(crate) response_format: Option<String>,
}

impl Options {
    pub(crate) fn engine(&self) -> GenerateOptions {
        GenerateOptions {
            max_tokens: self.max_tokens,
            sampling: SamplingOptions {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                repeat_penalty: self.repeat_penalty,
                repeat_last_n: self.repeat_last_n.unwrap_or(usize::MAX),
                presence_penalty: self.presence_penalty,
                frequency_penalty: self.frequency_penalty,
                logit_bias: self.logit_bias.clone(),
                seed: self.seed,
            },
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            trim_start: self.trim_start,
        }
    }
}

/// How keys and values are stored.
pub(crate) fn kv_type(name: &str) -> PyResult<KvType> {
    match name {
        "f16" => Ok(KvType::F16),
        "f32" => Ok(KvType::F32),
        "int8" => Ok(KvType::Int8),
        other => {
            Err(pyo3::exceptions::PyValueError::new_err(format!("kv must be 'f16', 'f32' or 'int8', not {other:?}")))
        }
    }
}

/// How next tokens are guessed.
pub(crate) fn speculate_kind(name: &str) -> PyResult<Speculate> {
    match name {
        "lookup" => Ok(Speculate::Lookup),
        "off" => Ok(Speculate::Off),
        other => {
            Err(pyo3::exceptions::PyValueError::new_err(format!("speculate must be 'lookup' or 'off', not {other:?}")))
        }
    }
}
