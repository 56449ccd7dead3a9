//! What ends a text beside the model's own end-of-turn tokens.
//!
//! A control token prints nothing, so a stop string that spells one would never match the text. People give one where a file
//! names the wrong end: it ends the text when the token comes.

use crate::request::GenerateError;
use crate::tokenizer::Tokenizer;

/// Stop strings, sorted by what they match.
#[derive(Debug, Default)]
pub(crate) struct Stops {
    /// Control tokens that end the text.
    pub(crate) tokens: Vec<u32>,
    /// Texts that end it.
    pub(crate) texts: Vec<String>,
}

impl Stops {
    /// Without a tokenizer every stop string is text.
    ///
    /// # Errors
    ///
    /// A stop string with a control token and something beside it: it could never match.
    pub(crate) fn new(tokenizer: Option<&Tokenizer>, stops: &[String]) -> Result<Self, GenerateError> {
        let mut sorted = Stops::default();
        for stop in stops {
            let control = tokenizer.and_then(|tokenizer| {
                let id = *tokenizer.control_tokens(stop).first()?;
                Some((id, tokenizer.token_text(id)?))
            });
            match control {
                None => sorted.texts.push(stop.clone()),
                Some((id, token)) if token == stop => sorted.tokens.push(id),
                Some((_, token)) => {
                    return Err(GenerateError::StopString { stop: stop.clone(), token: token.to_owned() });
                }
            }
        }
        Ok(sorted)
    }
}
