//! An answer on its way from the model's actor, for whoever takes it in pieces.

use crate::errors::generate_error;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rotor::actor::Events;
use rotor::engine::{FinishReason, Generation};
use rotor::request::Event;
use std::time::Duration;

/// A token's log-probability and those of the likeliest: `(id, logprob, [(id, logprob)])`.
type TokenLogprobs = (u32, f64, Vec<(u32, f64)>);

/// An answer that is being generated. Dropping it ends the generation.
pub(crate) struct Answer {
    events: Events,
    /// What was taken of it so far.
    text: String,
    tokens: Vec<u32>,
    logprobs: Vec<TokenLogprobs>,
    /// What was done, once all text was taken.
    end: Option<Generation>,
}

/// What came of an answer.
pub(crate) enum Piece {
    /// No text is certain yet.
    Nothing,
    /// Whole characters, never part of a stop string.
    Text(String),
    /// The answer is complete.
    End(Generated),
}

impl Answer {
    pub(crate) fn new(events: Events) -> Answer {
        Answer { events, text: String::new(), tokens: Vec::new(), logprobs: Vec::new(), end: None }
    }

    /// What comes next, waiting for it at most as long as given.
    ///
    /// # Errors
    /// If the generation failed, or its thread has died.
    pub(crate) fn next_within(&mut self, time: Duration) -> PyResult<Piece> {
        if let Some(generation) = self.end.take() {
            return Ok(Piece::End(self.generated(generation)));
        }
        match self.events.next_within(time) {
            Ok(Some(Event::Token(token))) => {
                self.tokens.push(token.id);
                self.logprobs.extend(token.logprobs.map(|found| (token.id, found.logprob, found.top)));
                Ok(self.took(token.text))
            }
            Ok(Some(Event::Finished(finished))) => {
                self.end = Some(finished.generation);
                Ok(self.took(finished.text))
            }
            Ok(Some(Event::Failed { error, .. })) => Err(generate_error(error)),
            Ok(Some(Event::Prompt { .. } | Event::Embedding(_))) | Err(_) => Ok(Piece::Nothing),
            Ok(None) => Err(PyRuntimeError::new_err("the thread that generates has ended before the answer")),
        }
    }

    /// Breaks off, and returns what was taken so far. Where the last text was taken the answer is complete all the same.
    ///
    /// # Errors
    /// As [`Answer::next_within`].
    pub(crate) fn break_off(mut self) -> PyResult<Generated> {
        if let Some(generation) = self.end.take() {
            return Ok(self.generated(generation));
        }
        self.events.cancel();
        while let Some(event) = self.events.next_blocking() {
            match event {
                // The thread may be ahead of what was taken.
                Event::Finished(finished) => {
                    let mut generation = finished.generation;
                    generation.finish_reason = FinishReason::Cancelled;
                    return Ok(self.generated(generation));
                }
                Event::Failed { error, .. } => return Err(generate_error(error)),
                Event::Token(_) | Event::Prompt { .. } | Event::Embedding(_) => {}
            }
        }
        Err(PyRuntimeError::new_err("the thread that generates has ended before the answer"))
    }

    fn took(&mut self, text: String) -> Piece {
        self.text.push_str(&text);
        if text.is_empty() { Piece::Nothing } else { Piece::Text(text) }
    }

    /// What was taken, and how it came about.
    fn generated(&mut self, generation: Generation) -> Generated {
        Generated {
            text: std::mem::take(&mut self.text),
            tokens: std::mem::take(&mut self.tokens),
            finish_reason: generation.finish_reason.name(),
            prompt_tokens: generation.prompt_tokens,
            cached_tokens: generation.cached_tokens,
            draft_tokens: generation.draft_tokens,
            accepted_tokens: generation.accepted_tokens,
            prefill_seconds: generation.prefill.as_secs_f64(),
            decode_seconds: generation.decode.as_secs_f64(),
            logprobs: std::mem::take(&mut self.logprobs),
        }
    }
}

/// What a generation gave; `rotor.Completion` is made of it.
#[pyclass(frozen, get_all, module = "rotor._rotor")]
pub(crate) struct Generated {
    text: String,
    tokens: Vec<u32>,
    finish_reason: &'static str,
    prompt_tokens: usize,
    cached_tokens: usize,
    draft_tokens: usize,
    accepted_tokens: usize,
    prefill_seconds: f64,
    decode_seconds: f64,
    logprobs: Vec<TokenLogprobs>,
}
