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
        Ok(Box::new(Matching { matcher, ends: self.ends.clone() }))
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

impl Constraint for Matching {
    fn mask(&mut self, logits: &mut [f32]) -> Result<Allowed, ConstraintError> {
        let broken = |error: &dyn fmt::Display| ConstraintError(error.to_string());
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
        self.matcher.consume_token(token).map_err(|error| ConstraintError(error.to_string()))
    }

    fn roll_back(&mut self, tokens: usize) -> Result<(), ConstraintError> {
        self.matcher.rollback(tokens).map_err(|error| ConstraintError(error.to_string()))
    }

    fn fork(&self) -> Option<Box<dyn Constraint>> {
        Some(Box::new(Matching { matcher: self.matcher.deep_clone(), ends: self.ends.clone() }))
    }
}
