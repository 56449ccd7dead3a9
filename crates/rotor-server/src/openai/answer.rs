//! What the answers to chats and completions share: their frame, their usage, and how their streams end.

use super::Usage;
use crate::error::{ApiError, Dialect};
use crate::generation::{Running, timings_of};
use crate::requests::Caller;
use crate::stream;
use axum::response::sse::Event;
use rotor::engine::Generation;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

/// What a stream holds beside the answer.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct StreamOptions {
    /// Ends with a chunk that has the usage.
    pub(crate) include_usage: Option<bool>,
}

/// An answer on its way, less what is in its choices.
pub(super) struct Frame {
    id: String,
    created: u64,
    pub(super) running: Running,
    request_id: String,
    include_usage: bool,
    usage: Usage,
    /// Those of the choice that ended last.
    timings: Value,
    /// Nothing follows.
    is_over: bool,
}

impl Frame {
    pub(super) fn new(prefix: &str, running: Running, caller: &Caller, stream: Option<StreamOptions>) -> Frame {
        Frame {
            id: crate::ids::unique(prefix),
            created: crate::requests::now() as u64,
            running,
            request_id: caller.id.clone(),
            include_usage: stream.is_some_and(|options| options.include_usage == Some(true)),
            usage: Usage::default(),
            timings: Value::Null,
            is_over: false,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// A choice is complete.
    pub(super) fn ended(&mut self, generation: &Generation) {
        self.usage.add(generation, self.running.reasoning_tokens);
        self.timings = timings_of(generation);
    }

    /// The timings of the choice that ended last.
    pub(super) fn timings(&self) -> &Value {
        &self.timings
    }

    /// The whole answer.
    pub(super) fn whole(&self, object: &str, choices: Value) -> Value {
        let mut body = self.object(object, choices);
        body["usage"] = self.usage.json();
        body["timings"] = self.timings.clone();
        body
    }

    /// A piece of a stream.
    pub(super) fn chunk(&self, object: &str, choices: Value) -> Value {
        let mut chunk = self.object(object, choices);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn object(&self, object: &str, choices: Value) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.running.model.id,
            "system_fingerprint": crate::FINGERPRINT, "choices": choices,
        })
    }

    /// The end of a stream that broke off.
    pub(super) fn failed(&mut self, error: &ApiError) -> Vec<Event> {
        self.is_over = true;
        vec![stream::data(&error.body(Dialect::OpenAi, &self.request_id))]
    }

    /// The end of a stream of such objects: the usage, where it is wanted, is in the last one.
    pub(super) fn last(&mut self, object: &str) -> Vec<Event> {
        self.is_over = true;
        let usage = self.include_usage.then(|| stream::data(&self.whole(object, json!([]))));
        usage.into_iter().chain([stream::done()]).collect()
    }
}
