//! Grammars and JSON schemas as constraints: whatever is generated under one is valid by construction.
//!
//! The work is llguidance's. Here a vocabulary becomes its trie, once per model, and a grammar becomes a
//! [`Constraint`], which masks the logits of all tokens that would lead out of the grammar.

use crate::constraint::{Allowed, Constraint, ConstraintError};
use crate::tokenizer::Tokenizer;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Map, Value, json};
use std::fmt;
use std::sync::Arc;

/// White space between the tokens of JSON. Without a limit a small model may write line ends for ever.
const WHITESPACE: &str = "[ \\n]{1,4}";

/// What a text has to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema allows.
    JsonSchema(Value),
    /// A grammar in llguidance's form of Lark.
    Lark(String),
}

impl Grammar {
    /// What `response_format` of OpenAI's dialect asks for, also in the flatter form that `text.format` has; `None` for free
    /// text.
    ///
    /// # Errors
    /// If its type is not known, or its schema is no object.
    pub fn of_response_format(format: &Value) -> Result<Option<Grammar>, GrammarError> {
        let of_schema = |schema: Option<&Value>| match schema {
            None | Some(Value::Null) => Ok(Some(Grammar::JsonObject)),
            Some(schema @ Value::Object(_)) => Ok(Some(Grammar::JsonSchema(schema.clone()))),
            Some(_) => Err(GrammarError("the schema of the response format must be a JSON object".into())),
        };
        match format.get("type").and_then(Value::as_str) {
            Some("text") => Ok(None),
            Some("json_object") => of_schema(format.get("schema")),
            Some("json_schema") => of_schema(format.get("json_schema").unwrap_or(format).get("schema")),
            _ => Err(GrammarError("the type of the response format must be text, json_object or json_schema".into())),
        }
    }
}

/// A grammar that cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the grammar cannot be used: {0}")]
pub struct GrammarError(String);

/// Makes constraints for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
    /// End-of-generation tokens.
    ends: Vec<u32>,
    vocab_size: usize,
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grammars({} tokens)", self.vocab_size)
    }
}

impl Grammars {
    /// Builds the trie of a vocabulary of `vocab_size` rows. It walks through all of them, which takes some milliseconds for
    /// each ten thousand.
    ///
    /// # Errors
    /// If the model has no end-of-generation token, or the trie cannot be built.
    pub fn new(tokenizer: &Tokenizer, vocab_size: usize) -> Result<Grammars, GrammarError> {
        let ends = tokenizer.end_of_generation().to_vec();
        let end = ends.first().copied().or(tokenizer.eos());
        let end = end.ok_or_else(|| GrammarError("the model has no token that ends a text".into()))?;
        let size = u32::try_from(vocab_size).map_err(|_| GrammarError("the vocabulary is too large".into()))?;
        let words: Vec<Vec<u8>> = (0..size).map(|id| word(tokenizer, id)).collect();
        let trie = TokTrie::from(&TokRxInfo::new(size, end), &words);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(|error| GrammarError(error.to_string()))?;
        factory.quiet();
        Ok(Grammars { factory, ends, vocab_size })
    }

    /// A constraint for one text.
    ///
    /// # Errors
    /// If the grammar or the schema uses what is not supported, or is too large; the message names it.
    pub fn constraint(&self, grammar: &Grammar) -> Result<Box<dyn Constraint>, GrammarError> {
        let grammar = match grammar {
            Grammar::JsonObject => TopLevelGrammar::from_json_schema(guided(&json!({ "type": "object" }))),
            Grammar::JsonSchema(schema) => TopLevelGrammar::from_json_schema(guided(schema)),
            Grammar::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
        };
        let parser = self.factory.create_parser(grammar).map_err(|error| GrammarError(format!("{error:#}")))?;
        let matcher = Matcher::new(Ok(parser));
        if let Some(error) = matcher.get_error() {
            return Err(GrammarError(error));
        }
        let mut matching = Matching { matcher, ends: self.ends.clone() };
        if !matching.may_begin() {
            return Err(GrammarError("it allows no text at all".into()));
        }
        Ok(Box::new(matching))
    }
}

/// A schema with our options for llguidance, where it has none of its own.
pub fn guided(schema: &Value) -> Value {
    let Value::Object(schema) = schema else { return schema.clone() };
    let mut schema = schema.clone();
    let options = schema.entry("x-guidance").or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(options) = options {
        options.entry("whitespace_pattern").or_insert_with(|| WHITESPACE.into());
    }
    Value::Object(schema)
}

/// A token as the trie has it: control tokens behind a mark, so that no text spells them.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    if tokenizer.is_special(id) {
        let text = tokenizer.token_text(id).unwrap_or_default();
        return [&[TokTrie::SPECIAL_TOKEN_MARKER], text.as_bytes()].concat();
    }
    tokenizer.token_bytes(id).unwrap_or_default().to_vec()
}

/// One text under a grammar.
struct Matching {
    matcher: Matcher,
    ends: Vec<u32>,
}

impl fmt::Debug for Matching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Matching({:?})", self.matcher.stop_reason())
    }
}

impl Matching {
    /// Whether there is a first token, or the empty text is allowed. A schema that refers to itself alone has neither.
    fn may_begin(&mut self) -> bool {
        if self.matcher.is_stopped() {
            return self.matcher.get_error().is_none() && self.matcher.stop_reason().is_ok();
        }
        self.matcher.compute_mask().is_ok_and(|allowed| !allowed.is_zero())
    }
}

/// What went wrong, less the parser's state behind it.
fn broken(error: &dyn fmt::Display) -> ConstraintError {
    ConstraintError(error.to_string().lines().next().unwrap_or_default().to_owned())
}

impl Constraint for Matching {
    fn mask(&mut self, logits: &mut [f32]) -> Result<Allowed, ConstraintError> {
        if self.matcher.is_stopped() {
            return match self.matcher.get_error() {
                Some(error) => Err(broken(&error)),
                None => Ok(Allowed::End),
            };
        }
        let mut allowed = self.matcher.compute_mask().map_err(|error| broken(&error))?;
        let may_end = self.ends.iter().any(|end| allowed.get(*end as usize));
        for end in &self.ends {
            allowed.set(*end as usize, false);
        }
        if allowed.is_zero() {
            return if may_end { Ok(Allowed::End) } else { Err(ConstraintError("no token is allowed".into())) };
        }
        for (word, logits) in allowed.as_slice().iter().zip(logits.chunks_mut(32)) {
            if *word == u32::MAX {
                continue;
            }
            for (bit, logit) in logits.iter_mut().enumerate() {
                if word & (1 << bit) == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        Ok(Allowed::Some)
    }

    fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        self.matcher.consume_token(token).map_err(|error| broken(&error))
    }

    fn roll_back(&mut self, tokens: usize) -> Result<(), ConstraintError> {
        self.matcher.rollback(tokens).map_err(|error| broken(&error))
    }

    fn fork(&self) -> Option<Box<dyn Constraint>> {
        Some(Box::new(Matching { matcher: self.matcher.deep_clone(), ends: self.ends.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_formats_become_grammars() {
        let schema = json!({ "type": "integer" });
        let named = json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": schema } });
        let flat = json!({ "type": "json_schema", "name": "n", "schema": schema });
        for format in [named, flat, json!({ "type": "json_object", "schema": schema })] {
            assert_eq!(Grammar::of_response_format(&format), Ok(Some(Grammar::JsonSchema(schema.clone()))));
        }
        assert_eq!(Grammar::of_response_format(&json!({ "type": "text" })), Ok(None));
        for format in [json!({ "type": "json_object" }), json!({ "type": "json_schema", "json_schema": {} })] {
            assert_eq!(Grammar::of_response_format(&format), Ok(Some(Grammar::JsonObject)));
        }
        for wrong in [json!({}), json!("text"), json!({ "type": "xml" }), json!({ "type": "json_schema", "schema": 1 })]
        {
            assert!(Grammar::of_response_format(&wrong).is_err(), "{wrong}");
        }
    }
}
