//! OpenAI's dialect.

mod answer;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod models;
pub(crate) mod responses;
pub(crate) mod sampling;

use crate::generation::Logprob;
use rotor::engine::{Engine, Generation};
use rotor::request::TokenLogprobs;
use serde_json::{Value, json};

/// What JSON has in place of minus infinity.
const NEVER: f64 = -9999.0;

/// `usage` of a request, over all its choices.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) prompt: usize,
    pub(crate) cached: usize,
    pub(crate) completion: usize,
    /// Those of the completion that were thinking parts.
    pub(crate) reasoning: usize,
}

impl Usage {
    /// Counts another choice; `reasoning` are the tokens of all thinking parts so far.
    pub(crate) fn add(&mut self, generation: &Generation, reasoning: usize) {
        self.reasoning = reasoning;
        self.prompt = generation.prompt_tokens;
        self.cached = self.cached.max(generation.cached_tokens);
        self.completion += generation.tokens.len();
    }

    pub(crate) fn json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": { "cached_tokens": self.cached },
            "completion_tokens_details": { "reasoning_tokens": self.reasoning },
        })
    }
}

/// A token's text and bytes; control tokens have a text and no bytes.
fn token(engine: &Engine, id: u32) -> (String, Value) {
    let Ok(tokenizer) = engine.tokenizer("text") else { return (id.to_string(), Value::Null) };
    match tokenizer.token_bytes(id) {
        Some(bytes) if !bytes.is_empty() => (String::from_utf8_lossy(bytes).into_owned(), json!(bytes)),
        _ => (tokenizer.token_text(id).unwrap_or_default().to_owned(), Value::Null),
    }
}

fn finite(logprob: f64) -> f64 {
    if logprob.is_finite() { logprob } else { NEVER }
}

fn rank(id: u32, logprobs: &TokenLogprobs) -> Option<usize> {
    logprobs.top.iter().position(|(other, _)| *other == id).map(|at| at + 1)
}

/// `logprobs.content` of a chat: an entry for each token.
fn content_logprobs(engine: &Engine, logprobs: &[Logprob], top: usize) -> Vec<Value> {
    let entry = |id: u32, logprob: f64| {
        let (text, bytes) = token(engine, id);
        json!({ "id": id, "token": text, "bytes": bytes, "logprob": finite(logprob) })
    };
    let content = |Logprob { id, drafted, logprobs }: &Logprob| {
        let mut value = entry(*id, logprobs.logprob);
        let alternatives: Vec<_> = logprobs.top.iter().take(top).map(|(id, logprob)| entry(*id, *logprob)).collect();
        value["rank"] = json!(rank(*id, logprobs));
        if *drafted {
            value["drafted"] = json!(true);
        }
        value["top_logprobs"] = json!(alternatives);
        value
    };
    logprobs.iter().map(content).collect()
}
