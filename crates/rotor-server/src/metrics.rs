//! Numbers for Prometheus, under names near llama-server's.

use crate::models::Models;
use crate::requests::Requests;
use rotor::request::Generation;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the histograms' buckets, in seconds.
const FIRST_TOKEN: [f64; 9] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];
const PER_TOKEN: [f64; 9] = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];

/// What has happened since the server started.
#[derive(Debug)]
pub(crate) struct Metrics {
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    predicted_tokens: AtomicU64,
    draft_tokens: AtomicU64,
    accepted_tokens: AtomicU64,
    prompt_micros: AtomicU64,
    predicted_micros: AtomicU64,
    requests: AtomicU64,
    errors: AtomicU64,
    first_token: Histogram,
    per_token: Histogram,
}

#[derive(Debug)]
struct Histogram {
    bounds: &'static [f64],
    counts: Mutex<(Vec<u64>, f64)>,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        Histogram { bounds, counts: Mutex::new((vec![0; bounds.len() + 1], 0.0)) }
    }

    fn add(&self, time: Duration, count: u64) {
        let seconds = time.as_secs_f64();
        let at = self.bounds.iter().position(|bound| seconds <= *bound).unwrap_or(self.bounds.len());
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.0[at] += count;
        counts.1 += seconds * count as f64;
    }

    fn write(&self, name: &str, help: &str, out: &mut String) {
        let (counts, sum) = self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut total = 0;
        head(out, name, help, "histogram");
        for (count, bound) in counts.iter().zip(self.bounds.iter().map(f64::to_string).chain(["+Inf".into()])) {
            total += count;
            line(out, format_args!("{name}_bucket{{le=\"{bound}\"}} {total}"));
        }
        line(out, format_args!("{name}_sum {sum}"));
        line(out, format_args!("{name}_count {total}"));
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Metrics {
            prompt_tokens: zero(),
            cached_tokens: zero(),
            predicted_tokens: zero(),
            draft_tokens: zero(),
            accepted_tokens: zero(),
            prompt_micros: zero(),
            predicted_micros: zero(),
            requests: zero(),
            errors: zero(),
            first_token: Histogram::new(&FIRST_TOKEN),
            per_token: Histogram::new(&PER_TOKEN),
        }
    }
}

impl Metrics {
    /// A request was answered with this status.
    pub(crate) fn answered(&self, status: u16) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.errors.fetch_add(u64::from(status >= 500), Ordering::Relaxed);
    }

    pub(crate) fn first_token(&self, time: Duration) {
        self.first_token.add(time, 1);
    }

    pub(crate) fn generation(&self, generation: &Generation) {
        let add = |counter: &AtomicU64, value: u64| counter.fetch_add(value, Ordering::Relaxed);
        let tokens = generation.tokens.len() as u64;
        add(&self.prompt_tokens, (generation.prompt_tokens - generation.cached_tokens) as u64);
        add(&self.cached_tokens, generation.cached_tokens as u64);
        add(&self.predicted_tokens, tokens);
        add(&self.draft_tokens, generation.draft_tokens as u64);
        add(&self.accepted_tokens, generation.accepted_tokens as u64);
        add(&self.prompt_micros, generation.prefill.as_micros() as u64);
        add(&self.predicted_micros, generation.decode.as_micros() as u64);
        if let Some(further) = tokens.checked_sub(1).filter(|further| *further > 0) {
            self.per_token.add(generation.decode / further as u32, further);
        }
    }

    /// The text that Prometheus reads.
    pub(crate) fn text(&self, requests: &Requests, models: &Models) -> String {
        let mut out = String::new();
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let seconds = |counter: &AtomicU64| get(counter) as f64 / 1e6;
        let (running, waiting) = requests.counts();
        let statistics: Vec<_> = models.loaded().map(|model| (model.id.clone(), model.actor.statistics())).collect();
        let steps: u64 = statistics.iter().map(|(_, statistics)| statistics.counts.steps).sum();
        let preemptions: u64 = statistics.iter().map(|(_, statistics)| statistics.counts.preemptions).sum();
        for (name, kind, help, value) in [
            (
                "prompt_tokens_total",
                "counter",
                "Tokens of prompts that were computed.",
                get(&self.prompt_tokens) as f64,
            ),
            (
                "cached_tokens_total",
                "counter",
                "Tokens of prompts that were found in memory.",
                get(&self.cached_tokens) as f64,
            ),
            (
                "prompt_seconds_total",
                "counter",
                "Time until first tokens, summed over requests.",
                seconds(&self.prompt_micros),
            ),
            ("tokens_predicted_total", "counter", "Tokens generated.", get(&self.predicted_tokens) as f64),
            (
                "tokens_predicted_seconds_total",
                "counter",
                "Time for tokens after the first.",
                seconds(&self.predicted_micros),
            ),
            ("draft_tokens_total", "counter", "Tokens guessed and computed ahead.", get(&self.draft_tokens) as f64),
            (
                "draft_tokens_accepted_total",
                "counter",
                "Guessed tokens that were chosen.",
                get(&self.accepted_tokens) as f64,
            ),
            ("n_decode_total", "counter", "Steps of the loaded models.", steps as f64),
            (
                "preemptions_total",
                "counter",
                "How often a sequence gave its memory back to be computed again.",
                preemptions as f64,
            ),
            ("requests_total", "counter", "Requests answered.", get(&self.requests) as f64),
            ("errors_total", "counter", "Requests answered with a status of 500 or more.", get(&self.errors) as f64),
            ("requests_processing", "gauge", "Requests under way.", running as f64),
            ("requests_deferred", "gauge", "Requests that wait.", waiting as f64),
        ] {
            let name = format!("rotor:{name}");
            head(&mut out, &name, help, kind);
            line(&mut out, format_args!("{name} {value}"));
        }
        self.first_token.write("rotor:time_to_first_token_seconds", "From the request to its first token.", &mut out);
        self.per_token.write("rotor:time_per_output_token_seconds", "From token to token.", &mut out);
        for (name, help, of) in [
            ("rotor:kv_blocks_total", "Blocks of keys and values.", 0),
            ("rotor:kv_blocks_used", "Blocks in use by sequences or kept beginnings.", 1),
            ("rotor:kv_blocks_kept", "Blocks of beginnings that are kept.", 2),
        ] {
            head(&mut out, name, help, "gauge");
            for (id, statistics) in &statistics {
                let value = [statistics.blocks, statistics.used_blocks, statistics.kept_blocks][of];
                let id = id.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                line(&mut out, format_args!("{name}{{model=\"{id}\"}} {value}"));
            }
        }
        out
    }
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    line(out, format_args!("# HELP {name} {help}"));
    line(out, format_args!("# TYPE {name} {kind}"));
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "{text}");
}
