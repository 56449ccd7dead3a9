//! The requests under way, and what the last hour was like: for the page's Requests view, `/slots`, and `/metrics`.
//!
//! A request is [`Tracked`] from the moment its prompt is known until its last byte is handed over or its client has left. No text
//! of anybody is kept.

use crate::error::ApiError;
use crate::metrics::Metrics;
use axum::http::{HeaderMap, StatusCode, header};
use rotor::request::Generation;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// Length of a bucket of the history.
const BUCKET: Duration = Duration::from_secs(60);
/// Buckets that are kept: an hour.
const BUCKETS: usize = 60;
/// Times of a bucket that are kept for its percentiles.
const SAMPLES: usize = 1024;

/// Who asks, and how.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) id: String,
    pub(crate) client: String,
    pub(crate) address: String,
}

impl Caller {
    pub(crate) fn new(id: &str, headers: &HeaderMap, address: Option<SocketAddr>) -> Caller {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let agent = || text(header::USER_AGENT.as_str()).map(client_name).unwrap_or_else(|| "unknown".into());
        let client = if text("x-rotor-client") == Some("page") { "rotor page".into() } else { agent() };
        let address = address.map_or_else(|| "unknown".into(), |address| address.ip().to_string());
        Caller { id: id.to_owned(), client, address }
    }
}

/// Name and version of a client from its User-Agent: `OpenAI/Python 3.57.0` is `openai-python 3.57.0`.
fn client_name(agent: &str) -> String {
    let name: String = agent.chars().filter(|c| !c.is_control()).take(60).collect();
    let name = name.split(" (").next().unwrap_or_default().to_owned();
    match name.split_once('/') {
        Some((product, rest)) if !product.contains(' ') => match rest.split_once(' ') {
            Some((language, version)) if !language.starts_with(|c: char| c.is_ascii_digit()) => {
                format!("{}-{} {version}", product.to_lowercase(), language.to_lowercase())
            }
            _ => format!("{} {}", product, rest.split(' ').next().unwrap_or_default()),
        },
        _ => name,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It waits for a model to be loaded.
    Model,
    /// It waits for its place.
    Queue,
    Prefill,
    Decode,
}

#[derive(Clone, Debug)]
struct Entry {
    caller: Caller,
    model: String,
    dialect: &'static str,
    created: f64,
    phase: Phase,
    prompt_tokens: Option<usize>,
    prompt_done: usize,
    cached: usize,
    generated: usize,
    max_tokens: Option<usize>,
    first_token: Option<Instant>,
    cancel: Arc<Notify>,
}

/// All requests under way.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    entries: Mutex<BTreeMap<u64, Entry>>,
    history: Mutex<VecDeque<Bucket>>,
    next: Mutex<u64>,
}

#[derive(Debug)]
struct Bucket {
    start: u64,
    requests: u64,
    first_token: Vec<f32>,
    per_token: Vec<f32>,
}

/// One request; it is off the list when this is dropped.
#[derive(Debug)]
pub(crate) struct Tracked {
    requests: Arc<Requests>,
    metrics: Arc<Metrics>,
    number: u64,
    begun: Instant,
    pub(crate) cancel: Arc<Notify>,
}

impl Requests {
    pub(crate) fn track(
        self: &Arc<Self>,
        metrics: &Arc<Metrics>,
        caller: Caller,
        model: &str,
        dialect: &'static str,
    ) -> Tracked {
        let number = {
            let mut next = lock(&self.next);
            *next += 1;
            *next
        };
        let cancel = Arc::new(Notify::new());
        let entry = Entry {
            caller,
            model: model.to_owned(),
            dialect,
            created: now(),
            phase: Phase::Model,
            prompt_tokens: None,
            prompt_done: 0,
            cached: 0,
            generated: 0,
            max_tokens: None,
            first_token: None,
            cancel: Arc::clone(&cancel),
        };
        lock(&self.entries).insert(number, entry);
        let (requests, metrics) = (Arc::clone(self), Arc::clone(metrics));
        Tracked { requests, metrics, number, begun: Instant::now(), cancel }
    }

    /// Ends a request by its id.
    pub(crate) fn cancel(&self, id: &str) -> Result<(), ApiError> {
        let entries = lock(&self.entries);
        let entry = entries.values().find(|entry| entry.caller.id == id);
        let entry = entry.ok_or_else(|| {
            ApiError::new(StatusCode::NOT_FOUND, format!("there is no request {id:?} under way; it may have ended"))
        })?;
        entry.cancel.notify_one();
        Ok(())
    }

    /// What runs and what waits, as the page reads it.
    pub(crate) fn list(&self) -> (Vec<Value>, Vec<Value>) {
        let (mut running, mut waiting) = (Vec::new(), Vec::new());
        for entry in lock(&self.entries).values() {
            let Entry { caller, model, dialect, created, phase, .. } = entry;
            let mut value = json!({
                "id": caller.id, "model": model, "client": caller.client, "address": caller.address, "dialect": dialect,
                "created": created,
            });
            let more = match phase {
                Phase::Model | Phase::Queue => json!({
                    "reason": if *phase == Phase::Model { "model" } else { "queue" }, "prompt_tokens": entry.prompt_tokens,
                }),
                Phase::Prefill | Phase::Decode => {
                    let rate = entry.first_token.filter(|_| entry.generated > 1);
                    let rate = rate.map(|first| (entry.generated - 1) as f64 / first.elapsed().as_secs_f64());
                    json!({
                        "state": if *phase == Phase::Prefill { "prefill" } else { "decode" },
                        "prompt_tokens": entry.prompt_tokens, "prompt_processed": entry.prompt_done, "cached_tokens": entry.cached,
                        "generated_tokens": entry.generated, "max_tokens": entry.max_tokens, "tokens_per_second": rate,
                    })
                }
            };
            if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
                value.extend(more.into_iter().filter(|(key, field)| !(key == "prompt_tokens" && field.is_null())));
            }
            let waits = matches!(phase, Phase::Model | Phase::Queue);
            if waits { &mut waiting } else { &mut running }.push(value);
        }
        (running, waiting)
    }

    /// Requests that compute, and requests that wait.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let entries = lock(&self.entries);
        let waiting = entries.values().filter(|entry| matches!(entry.phase, Phase::Model | Phase::Queue)).count();
        (entries.len() - waiting, waiting)
    }

    /// The last hour, minute by minute.
    pub(crate) fn history(&self) -> Value {
        let buckets: Vec<_> = lock(&self.history)
            .iter()
            .map(|bucket| {
                json!({
                    "start": bucket.start, "requests": bucket.requests,
                    "first_token_ms": percentiles(&bucket.first_token), "per_token_ms": percentiles(&bucket.per_token),
                })
            })
            .collect();
        json!({ "bucket_seconds": BUCKET.as_secs(), "buckets": buckets })
    }

    fn record(&self, first_token: Option<Duration>, per_token: Option<Duration>) {
        let start = now() as u64 / BUCKET.as_secs() * BUCKET.as_secs();
        let mut history = lock(&self.history);
        if history.back().is_none_or(|bucket| bucket.start != start) {
            history.push_back(Bucket { start, requests: 0, first_token: Vec::new(), per_token: Vec::new() });
        }
        while history.len() > BUCKETS || history.front().is_some_and(|bucket| bucket.start + 3600 < start) {
            history.pop_front();
        }
        let Some(bucket) = history.back_mut() else { return };
        bucket.requests += 1;
        for (time, samples) in [(first_token, &mut bucket.first_token), (per_token, &mut bucket.per_token)] {
            if let Some(time) = time.filter(|_| samples.len() < SAMPLES) {
                samples.push(time.as_secs_f32() * 1e3);
            }
        }
    }
}

impl Tracked {
    fn change(&self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = lock(&self.requests.entries).get_mut(&self.number) {
            change(entry);
        }
    }

    /// The id that the client sees.
    pub(crate) fn model(&self, model: &str) {
        self.change(|entry| entry.model = model.to_owned());
    }

    /// It has a prompt and waits for its turn.
    pub(crate) fn queued(&self, prompt_tokens: usize, max_tokens: Option<usize>) {
        self.change(|entry| {
            entry.phase = Phase::Queue;
            (entry.prompt_tokens, entry.max_tokens) = (Some(prompt_tokens), max_tokens);
        });
    }

    /// So much of its prompt is done, and so much of that was found in memory.
    pub(crate) fn prompt(&self, done: usize, cached: usize) {
        self.change(|entry| (entry.phase, entry.prompt_done, entry.cached) = (Phase::Prefill, done, cached));
    }

    /// Another token.
    pub(crate) fn token(&self) {
        let begun = self.begun;
        let mut first = None;
        self.change(|entry| {
            entry.phase = Phase::Decode;
            entry.generated += 1;
            entry.prompt_done = entry.prompt_tokens.unwrap_or(0);
            if entry.first_token.is_none() {
                entry.first_token = Some(Instant::now());
                first = Some(begun.elapsed());
            }
        });
        if let Some(time) = first {
            self.metrics.first_token(time);
        }
    }

    /// A choice is complete.
    pub(crate) fn ended(&self, generation: &Generation) {
        self.metrics.generation(generation);
        let tokens = generation.tokens.len().saturating_sub(1) as u32;
        let per_token = (tokens > 0).then(|| generation.decode / tokens);
        self.requests.record(Some(generation.queued + generation.prefill), per_token);
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        lock(&self.requests.entries).remove(&self.number);
    }
}

fn percentiles(samples: &[f32]) -> Value {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f32::total_cmp);
    let at = |share: f64| sorted.get(((sorted.len() as f64 - 1.0) * share).round() as usize).copied();
    json!({ "p50": at(0.5), "p95": at(0.95) })
}

/// Unix time in seconds.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_named_by_product_and_version() {
        for (agent, name) in [
            ("OpenAI/Python 3.57.0", "openai-python 3.57.0"),
            ("curl/8.5.0", "curl 8.5.0"),
            ("Anthropic/JS 1.2.3", "anthropic-js 1.2.3"),
            ("Mozilla/5.0 (X11; Linux)", "Mozilla 5.0"),
            ("thing", "thing"),
        ] {
            assert_eq!(client_name(agent), name);
        }
    }

    #[test]
    fn percentiles_of_few_and_many() {
        assert_eq!(percentiles(&[]), json!({ "p50": null, "p95": null }));
        let samples: Vec<f32> = (0..=100).map(|i| i as f32).collect();
        assert_eq!(percentiles(&samples), json!({ "p50": 50.0, "p95": 95.0 }));
    }
}
