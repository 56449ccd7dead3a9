//! The fields of a request that choose tokens, the same for chats and completions.

use crate::body::{Int, integer, number};
use crate::error::ApiError;
use crate::models::Loaded;
use rotor::engine::GenerateOptions;
use rotor::sample::SamplingOptions;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Choices of one request at most.
pub(crate) const MAX_CHOICES: i64 = 16;
/// Alternatives of a token at most.
pub(crate) const MAX_TOP_LOGPROBS: i64 = 20;
/// Stop strings of one request, and bytes of each, at most.
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 256;
/// Tokens of an answer at most: more than any context.
pub(crate) const MAX_TOKENS: i64 = 1 << 24;

/// One stop string or several.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Stop {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

/// How tokens are chosen. What is left out is as the file recommends, else as `/props` says.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub(crate) struct Sampling {
    /// Divides the logits; 0 takes the likeliest token.
    #[schema(minimum = 0, maximum = 2)]
    pub(crate) temperature: Option<f64>,
    /// Keeps the fewest likeliest tokens that together have this probability.
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) top_p: Option<f64>,
    /// Keeps so many of the likeliest tokens; 0 keeps all.
    #[schema(minimum = 0, maximum = 1000000)]
    pub(crate) top_k: Option<Int>,
    /// Keeps tokens at least this likely relative to the likeliest.
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) min_p: Option<f64>,
    /// Subtracted from a token's logit for every time it occurred.
    #[schema(minimum = -2, maximum = 2)]
    pub(crate) frequency_penalty: Option<f64>,
    /// Subtracted once from the logit of every token that occurred.
    #[schema(minimum = -2, maximum = 2)]
    pub(crate) presence_penalty: Option<f64>,
    /// Divides the logits of tokens that occurred.
    #[schema(minimum = 0.01, maximum = 100)]
    pub(crate) repeat_penalty: Option<f64>,
    /// How many of the last tokens the penalties look at; -1 for all.
    #[schema(minimum = -1, maximum = 16777216)]
    pub(crate) repeat_last_n: Option<Int>,
    /// Added to the logits of tokens, by id.
    #[schema(value_type = Option<std::collections::BTreeMap<String, f64>>)]
    pub(crate) logit_bias: Option<Map<String, Value>>,
    /// The same seed gives the same tokens; -1 takes a random one.
    #[schema(minimum = -1)]
    pub(crate) seed: Option<Int>,
    /// Texts that end the answer.
    pub(crate) stop: Option<Stop>,
    /// Goes on past the model's end of its turn.
    pub(crate) ignore_eos: Option<bool>,
}

/// The answers that are wanted.
pub(crate) fn choices(n: Option<Int>) -> Result<usize, ApiError> {
    Ok(integer("n", n, 1, MAX_CHOICES)?.unwrap_or(1))
}

impl Sampling {
    /// The engine's options, checked; `defaults` count where the request says nothing.
    pub(crate) fn options(&self, model: &Loaded, max_tokens: Option<usize>) -> Result<GenerateOptions, ApiError> {
        let defaults = &model.defaults;
        let repeat_last_n = match self.repeat_last_n {
            Some(Int(-1)) => Some(usize::MAX),
            value => integer("repeat_last_n", value, 0, MAX_TOKENS)?,
        };
        let sampling = SamplingOptions {
            temperature: number("temperature", self.temperature, 0.0, 2.0)?.unwrap_or(defaults.temperature),
            top_p: number("top_p", self.top_p, 0.0, 1.0)?.unwrap_or(defaults.top_p),
            top_k: integer("top_k", self.top_k, 0, 1_000_000)?.unwrap_or(defaults.top_k),
            min_p: number("min_p", self.min_p, 0.0, 1.0)?.unwrap_or(defaults.min_p),
            frequency_penalty: number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?.unwrap_or(0.0),
            presence_penalty: number("presence_penalty", self.presence_penalty, -2.0, 2.0)?.unwrap_or(0.0),
            repeat_penalty: number("repeat_penalty", self.repeat_penalty, 0.01, 100.0)?
                .unwrap_or(defaults.repeat_penalty),
            repeat_last_n: repeat_last_n.unwrap_or(defaults.repeat_last_n),
            logit_bias: self.biases(model)?,
            seed: self.seed()?,
        };
        sampling
            .validate(model.engine().model().config().vocab_size)
            .map_err(|error| ApiError::field(error.option, error.to_string()))?;
        Ok(GenerateOptions {
            max_tokens,
            sampling,
            stop: self.stops()?,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            trim_start: false,
        })
    }

    fn seed(&self) -> Result<Option<u64>, ApiError> {
        match self.seed {
            None | Some(Int(-1)) => Ok(None),
            Some(Int(seed)) => u64::try_from(seed)
                .map(Some)
                .map_err(|_| ApiError::field("seed", format!("seed must be -1 or more, not {seed}"))),
        }
    }

    fn biases(&self, model: &Loaded) -> Result<Vec<(u32, f32)>, ApiError> {
        let vocab_size = model.engine().model().config().vocab_size;
        let wrong = |why: String| ApiError::field("logit_bias", why);
        let pairs = self.logit_bias.iter().flatten().map(|(id, bias)| {
            let token: u32 = id.parse().map_err(|_| wrong(format!("logit_bias: {id:?} is no token id")))?;
            if token as usize >= vocab_size {
                return Err(wrong(format!(
                    "logit_bias: the vocabulary has {vocab_size} tokens, so {token} is none of them"
                )));
            }
            let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias));
            let bias =
                bias.ok_or_else(|| wrong(format!("logit_bias of {id} must be a number between -100 and 100")))?;
            // At the ends of the range tokens are forbidden or forced.
            Ok((token, if bias <= -100.0 { f32::NEG_INFINITY } else { bias as f32 }))
        });
        pairs.collect()
    }

    /// The stop strings.
    pub(crate) fn stops(&self) -> Result<Vec<String>, ApiError> {
        let stops = match &self.stop {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop.clone()],
            Some(Stop::Several(stops)) => stops.clone(),
        };
        check_stops("stop", &stops)?;
        Ok(stops)
    }
}

/// Checks stop strings, whatever the field is called.
pub(crate) fn check_stops(field: &str, stops: &[String]) -> Result<(), ApiError> {
    if stops.len() > MAX_STOPS {
        return Err(ApiError::field(field, format!("{field} holds at most {MAX_STOPS} texts, not {}", stops.len())));
    }
    match stops.iter().find(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES) {
        Some(_) => {
            Err(ApiError::field(field, format!("each text of {field} must have from 1 to {MAX_STOP_BYTES} bytes")))
        }
        None => Ok(()),
    }
}
