//! From a request to the pieces of its answers, the same for every dialect.
//!
//! A dialect turns its body into an [`Ask`]; [`begin`] gives it to the model's thread; [`Running::next`] yields pieces, which the
//! dialect writes in its own shape. Whoever drops a [`Running`] ends the request: that is how a client that leaves frees its place.

use crate::error::ApiError;
use crate::models::Lease;
use crate::parts::{Part, Splitter, Splitting};
use crate::requests::Tracked;
use crate::statistics::Window;
use axum::http::StatusCode;
use rotor::actor::{Events, SubmitError};
use rotor::engine::{FinishReason, GenerateOptions, Generation};
use rotor::request::{Event, Request, TokenLogprobs};
use serde_json::{Value, json};
use std::time::Instant;

/// What a dialect asks for.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) request: Request,
    /// What is told apart in the answers.
    pub(crate) splitting: Splitting,
    /// The field that the prompt came from, for errors.
    pub(crate) field: &'static str,
}

impl Ask {
    pub(crate) fn new(prompt: Vec<u32>, options: GenerateOptions, field: &'static str) -> Ask {
        Ask { request: Request::new(prompt, options), splitting: Splitting::default(), field }
    }
}

/// Why an answer is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    Stop,
    Length,
    /// The context is full.
    Context,
    ToolCalls,
}

impl Finish {
    /// OpenAI's `finish_reason`.
    pub(crate) fn openai(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length | Finish::Context => "length",
            Finish::ToolCalls => "tool_calls",
        }
    }
}

/// What a token was, for those who asked.
#[derive(Clone, Debug)]
pub(crate) struct Logprob {
    pub(crate) id: u32,
    /// Whether it had been guessed.
    pub(crate) drafted: bool,
    pub(crate) logprobs: TokenLogprobs,
}

/// A piece of an answer, or news of it.
#[derive(Debug)]
pub(crate) enum Piece {
    /// So much of the prompt is done.
    Progress { done: usize, of: usize },
    /// Text, with the tokens that came since the last piece.
    Parts { choice: usize, parts: Vec<Part>, logprobs: Vec<Logprob> },
    /// An answer is complete.
    End { choice: usize, finish: Finish, stop: Option<String>, generation: Box<Generation> },
    /// The request failed. Nothing follows.
    Failed(ApiError),
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) model: Lease,
    pub(crate) prompt_tokens: usize,
    pub(crate) choices: usize,
    /// Tokens of thinking parts so far, over all choices.
    pub(crate) reasoning_tokens: usize,
    field: &'static str,
    events: Events,
    splitters: Vec<Splitter>,
    /// Log-probabilities whose text is held back.
    held: Vec<Vec<Logprob>>,
    tracked: Tracked,
    /// A piece that follows the last one.
    next: Option<Piece>,
    clock: Clock,
    /// Begun by the first token.
    window: Option<Window>,
}

/// Times as they are while the request runs.
#[derive(Clone, Copy, Debug)]
struct Clock {
    begun: Instant,
    first_token: Option<Instant>,
    tokens: usize,
    /// Tokens of the prompt that were found in memory.
    cached: usize,
}

/// Gives a request to its model.
pub(crate) fn begin(model: Lease, ask: Ask, tracked: Tracked) -> Result<Running, ApiError> {
    let Ask { request, splitting, field } = ask;
    let (prompt_tokens, choices) = (request.prompt.len(), request.choices);
    tracked.model(&model.id);
    tracked.queued(prompt_tokens, request.options.max_tokens);
    let events = model.actor.submit(request).map_err(|error| refused(&error, field))?;
    Ok(Running {
        model,
        prompt_tokens,
        choices,
        reasoning_tokens: 0,
        field,
        events,
        splitters: vec![Splitter::new(splitting); choices],
        held: vec![Vec::new(); choices],
        tracked,
        next: None,
        clock: Clock { begun: Instant::now(), first_token: None, tokens: 0, cached: 0 },
        window: None,
    })
}

/// What a client is told when the engine does not take a request.
pub(crate) fn refused(error: &SubmitError, field: &str) -> ApiError {
    match error {
        SubmitError::Invalid(error) => ApiError::of_generation(error, field),
        SubmitError::QueueFull { .. } => ApiError::busy(error.to_string()),
        _ => ApiError::loading(error.to_string()),
    }
}

impl Running {
    /// The next piece; `None` when all answers are complete.
    pub(crate) async fn next(&mut self) -> Option<Piece> {
        if let Some(piece) = self.next.take() {
            return Some(piece);
        }
        loop {
            let event = tokio::select! {
                event = self.events.next() => event,
                () = self.tracked.cancel.notified() => {
                    let error = ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the request was ended from the page");
                    return Some(Piece::Failed(ApiError { code: Some("cancelled"), ..error }));
                }
            };
            let Some(event) = event else {
                let died = || Piece::Failed(ApiError::loading("the server is shutting down"));
                return (!self.events.ended()).then(died);
            };
            if let Some(piece) = self.piece(event) {
                return Some(piece);
            }
        }
    }

    fn piece(&mut self, event: Event) -> Option<Piece> {
        match event {
            Event::Prompt { done, of, cached } => {
                self.tracked.prompt(done, cached);
                self.clock.cached = cached;
                Some(Piece::Progress { done, of })
            }
            Event::Token(token) => {
                self.tracked.token();
                self.clock.first_token.get_or_insert_with(Instant::now);
                let model = &self.model;
                self.window.get_or_insert_with(|| Window::open(model));
                self.clock.tokens += 1;
                let choice = token.choice;
                let mut parts = Vec::new();
                self.splitters[choice].push(&token.text, &mut parts);
                self.reasoning_tokens += usize::from(self.splitters[choice].is_thinking());
                let held = &mut self.held[choice];
                let (id, drafted) = (token.id, token.drafted);
                held.extend(token.logprobs.map(|logprobs| Logprob { id, drafted, logprobs }));
                (!parts.is_empty()).then(|| Piece::Parts { choice, parts, logprobs: std::mem::take(held) })
            }
            Event::Finished(finished) => {
                let choice = finished.choice;
                self.tracked.ended(&finished.generation);
                if let Some(window) = &self.window {
                    self.model.speeds.record(&self.model, &finished.generation, window);
                }
                let mut parts = Vec::new();
                self.splitters[choice].push(&finished.text, &mut parts);
                self.splitters[choice].finish(&mut parts);
                let calls = self.splitters[choice].calls();
                let finish = match finished.generation.finish_reason {
                    FinishReason::Length => Finish::Length,
                    FinishReason::ContextFull => Finish::Context,
                    FinishReason::Stop | FinishReason::Cancelled if calls > 0 => Finish::ToolCalls,
                    FinishReason::Stop | FinishReason::Cancelled => Finish::Stop,
                };
                let (stop, generation) = (finished.stop, Box::new(finished.generation));
                let end = Piece::End { choice, finish, stop, generation };
                let logprobs = std::mem::take(&mut self.held[choice]);
                if parts.is_empty() && logprobs.is_empty() {
                    return Some(end);
                }
                self.next = Some(end);
                Some(Piece::Parts { choice, parts, logprobs })
            }
            Event::Failed { error, .. } => Some(Piece::Failed(ApiError::of_generation(&error, self.field))),
            Event::Embedding(_) => None,
        }
    }

    /// llama-server's `prompt_progress`.
    pub(crate) fn progress(&self, done: usize, of: usize) -> Value {
        let milliseconds = self.clock.begun.elapsed().as_millis() as u64;
        json!({ "total": of, "cache": self.clock.cached, "processed": done, "time_ms": milliseconds })
    }

    /// The timings so far, for those who want them with every token.
    pub(crate) fn timings(&self) -> Value {
        let Clock { begun, first_token, tokens, cached } = self.clock;
        let first = first_token.unwrap_or_else(Instant::now);
        timings(
            (cached, self.prompt_tokens - cached, tokens),
            ((first - begun).as_secs_f64(), first.elapsed().as_secs_f64()),
        )
    }
}

/// llama-server's `timings` of a generation.
pub(crate) fn timings_of(generation: &Generation) -> Value {
    let computed = generation.prompt_tokens - generation.cached_tokens;
    let counts = (generation.cached_tokens, computed, generation.tokens.len());
    let mut timings = timings(counts, (generation.prefill.as_secs_f64(), generation.decode.as_secs_f64()));
    timings["draft_n"] = json!(generation.draft_tokens);
    timings["draft_n_accepted"] = json!(generation.accepted_tokens);
    timings
}

fn timings((cached, prompt, predicted): (usize, usize, usize), (prefill, decode): (f64, f64)) -> Value {
    let rate = |count: usize, seconds: f64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    let each = |count: usize, seconds: f64| if count > 0 { seconds * 1e3 / count as f64 } else { 0.0 };
    // The first token comes out of the prompt.
    let decoded = predicted.saturating_sub(1);
    json!({
        "cache_n": cached,
        "prompt_n": prompt, "prompt_ms": prefill * 1e3,
        "prompt_per_token_ms": each(prompt, prefill), "prompt_per_second": rate(prompt, prefill),
        "predicted_n": predicted, "predicted_ms": decode * 1e3,
        "predicted_per_token_ms": each(decoded, decode), "predicted_per_second": rate(decoded, decode),
    })
}
