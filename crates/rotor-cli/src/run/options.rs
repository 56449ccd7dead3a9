//! The flags that choose tokens.

use crate::outcome::UsageError;
use crate::values::{count, number, seed};
use rotor::sample::SamplingOptions;
use std::hash::{BuildHasher, RandomState};

/// Most tokens to generate; `None` for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TokenLimit(pub(super) Option<usize>);

pub(super) fn token_limit(text: &str) -> Result<TokenLimit, String> {
    if text == "-1" {
        return Ok(TokenLimit(None));
    }
    let limit = text.parse().map_err(|_| "expected a whole number of tokens, or -1 for no limit".to_owned())?;
    Ok(TokenLimit(Some(limit)))
}

/// The filters are llama.cpp's defaults; at temperature 0 they change nothing.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Choosing tokens")]
pub(super) struct SamplingArgs {
    /// Temperature; 0 takes the likeliest token [default: 0, on a terminal 0.8].
    #[arg(long, value_name = "T", value_parser = number, env = "ROTOR_TEMP", hide_env = true)]
    temp: Option<f32>,
    /// Keep the N likeliest tokens; 0 keeps all.
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = count, env = "ROTOR_TOP_K", hide_env = true)]
    top_k: usize,
    /// Keep the fewest likeliest tokens that together have this probability; 1 keeps all.
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = number, env = "ROTOR_TOP_P", hide_env = true)]
    top_p: f32,
    /// Keep tokens at least this likely relative to the likeliest; 0 keeps all.
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = number, env = "ROTOR_MIN_P", hide_env = true)]
    min_p: f32,
    /// Weaken tokens that occurred before by this factor; 1 changes nothing.
    #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = number, env = "ROTOR_REPEAT_PENALTY", hide_env = true)]
    repeat_penalty: f32,
    /// How many of the last tokens the three penalties look at; -1 for all.
    #[arg(long, value_name = "N", default_value = "64", value_parser = token_limit)]
    #[arg(env = "ROTOR_REPEAT_LAST_N", hide_env = true)]
    repeat_last_n: TokenLimit,
    /// Subtract this from the logit of every token that occurred before.
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = number)]
    #[arg(env = "ROTOR_PRESENCE_PENALTY", hide_env = true)]
    presence_penalty: f32,
    /// Subtract this for every time a token occurred before.
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = number)]
    #[arg(env = "ROTOR_FREQUENCY_PENALTY", hide_env = true)]
    frequency_penalty: f32,
    /// Add BIAS to a token's logit (-inf forbids it); may be given several times.
    #[arg(long, value_name = "ID=BIAS", value_parser = logit_bias, env = "ROTOR_LOGIT_BIAS", hide_env = true)]
    logit_bias: Vec<(u32, f32)>,
    /// Seed of the random numbers [default: another one each time].
    #[arg(long, value_name = "N", value_parser = chosen_seed, env = "ROTOR_SEED", hide_env = true)]
    seed: Option<u64>,
}

impl SamplingArgs {
    /// Whether neither temperature nor seed was chosen.
    pub(super) fn is_left_open(&self) -> bool {
        self.temp.is_none() && self.seed.is_none()
    }

    /// Checked options; `temperature` counts where none is given.
    pub(super) fn options(&self, temperature: f32) -> Result<SamplingOptions, UsageError> {
        let options = SamplingOptions {
            temperature: self.temp.unwrap_or(temperature),
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: self.repeat_last_n.0.unwrap_or(usize::MAX),
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.clone(),
            seed: self.seed,
        };
        check(&options).map_err(UsageError)?;
        Ok(options)
    }
}

/// Checks all ranges that do not depend on the model.
pub(super) fn check(options: &SamplingOptions) -> Result<(), String> {
    options.validate(usize::MAX).map_err(|error| error.to_string())
}

/// A seed nobody chose.
pub(super) fn random_seed() -> u64 {
    // 32 bits: JSON readers that know only doubles must not round it.
    RandomState::new().hash_one(0) >> 32
}

/// As [`seed`], for an option that need not be given.
fn chosen_seed(text: &str) -> Result<u64, String> {
    seed(text).map_err(|expected| format!("{expected}; leave the option out for another seed each time"))
}

fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once('=').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    parsed.ok_or_else(|| "expected a token id, '=' and a number, as in 42=-1.5 or 42=-inf".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_numbers_or_minus_one() {
        assert_eq!(token_limit("0"), Ok(TokenLimit(Some(0))));
        assert_eq!(token_limit("-1"), Ok(TokenLimit(None)));
        assert!(token_limit("-2").is_err() && token_limit("x").is_err() && token_limit("").is_err());
    }

    #[test]
    fn biases_name_a_token_and_a_number() {
        assert_eq!(logit_bias("42=-1.5"), Ok((42, -1.5)));
        assert_eq!(logit_bias("0=-inf"), Ok((0, f32::NEG_INFINITY)));
        for wrong in ["42", "=1", "42=", "-1=2", "a=1"] {
            assert!(logit_bias(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seeds_differ() {
        assert_ne!(random_seed(), random_seed());
    }
}
