//! Logits to a token.
//!
//! The order is llama.cpp's: logit bias, penalties, then top-k, top-p, min-p and temperature over what is left. The
//! random stream is our own (xoshiro256++), because a seed is a promise: the same seed gives the same text in every
//! version. Greedy choice is one pass over the logits.

use std::cmp::Ordering;

/// How the next token is chosen. The defaults are greedy: temperature 0, everything else off.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingOptions {
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f32,
    /// Keeps the `top_k` likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest likeliest tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this likely relative to the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens in the history; 1 changes nothing.
    pub repeat_penalty: f32,
    /// How many of the last tokens the three penalties look at; `usize::MAX` for all.
    pub repeat_last_n: usize,
    /// Subtracted once from the logit of every token in the history.
    pub presence_penalty: f32,
    /// Subtracted for every occurrence in the history.
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens; negative infinity forbids one.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the random stream; `None` takes one from the system.
    pub seed: Option<u64>,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

/// A sampling option outside its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{option} must be {expected}, not {found}")]
pub struct SamplingError {
    /// The option's name.
    pub option: &'static str,
    /// Its range.
    pub expected: String,
    /// What it was.
    pub found: String,
}

impl SamplingOptions {
    /// Whether any penalty changes anything.
    fn penalises(&self) -> bool {
        self.repeat_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    /// Checks every option's range.
    ///
    /// # Errors
    ///
    /// The first option outside its range, NaN included.
    pub fn validate(&self, vocab_size: usize) -> Result<(), SamplingError> {
        let ranges = [
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("presence_penalty", self.presence_penalty, -100.0, 100.0),
            ("frequency_penalty", self.frequency_penalty, -100.0, 100.0),
        ];
        for (option, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(error(option, format!("between {low} and {high}"), value));
            }
        }
        if !(self.repeat_penalty > 0.0 && self.repeat_penalty <= 100.0) {
            return Err(error("repeat_penalty", "above 0 and at most 100".to_owned(), self.repeat_penalty));
        }
        for &(id, bias) in &self.logit_bias {
            if usize::try_from(id).map_or(true, |id| id >= vocab_size) {
                return Err(error("logit_bias", format!("for token ids below {vocab_size}"), id));
            }
            if bias.is_nan() || bias == f32::INFINITY {
                return Err(error("logit_bias", "a number or -inf".to_owned(), bias));
            }
        }
        Ok(())
    }
}

fn error(option: &'static str, expected: String, found: impl ToString) -> SamplingError {
    SamplingError { option, expected, found: found.to_string() }
}

/// Chooses tokens by [`SamplingOptions`].
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplingOptions,
    vocab_size: usize,
    random: Xoshiro256,
    seed: u64,
    candidates: Vec<Candidate>,
    counts: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    logit: f32,
    /// Probability relative to the likeliest candidate's.
    weight: f32,
}

impl Sampler {
    /// A sampler for logits of `vocab_size` tokens.
    ///
    /// # Errors
    ///
    /// As [`SamplingOptions::validate`].
    pub fn new(options: SamplingOptions, vocab_size: usize) -> Result<Self, SamplingError> {
        options.validate(vocab_size)?;
        let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
        Ok(Self {
            vocab_size,
            random: Xoshiro256::new(seed),
            seed,
            candidates: Vec::with_capacity(if options.temperature > 0.0 { vocab_size } else { 0 }),
            counts: vec![0; if options.penalises() { vocab_size } else { 0 }],
            options,
        })
    }

    /// The seed in use, for repeating a run whose seed came from the system.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Chooses the next token. `logits` are changed by bias and penalties; `history` is what came before, the prompt
    /// included, the last token last.
    ///
    /// Equal logits are won by the lowest id. A NaN counts as the lowest value; where every logit is NaN or negative
    /// infinity, the token is 0.
    pub fn sample(&mut self, logits: &mut [f32], history: &[u32]) -> u32 {
        debug_assert_eq!(logits.len(), self.vocab_size);
        self.adjust(logits, history);
        if self.options.temperature == 0.0 {
            return greedy(logits);
        }
        self.collect(logits);
        self.filter();
        self.choose()
    }

    /// Applies bias and penalties.
    fn adjust(&mut self, logits: &mut [f32], history: &[u32]) {
        for &(id, bias) in &self.options.logit_bias {
            if let Some(logit) = entry(logits, id) {
                *logit += bias;
            }
        }
        if self.options.penalises() {
            let start = history.len().saturating_sub(self.options.repeat_last_n);
            self.penalise(logits, history.get(start..).unwrap_or_default());
        }
    }

    fn penalise(&mut self, logits: &mut [f32], history: &[u32]) {
        let SamplingOptions { repeat_penalty, presence_penalty, frequency_penalty, .. } = self.options;
        for &id in history {
            if let Some(count) = entry(&mut self.counts, id) {
                *count += 1;
            }
        }
        for &id in history {
            // Taking the count leaves 0: each token is penalised once, and the table is clean for the next call.
            let count = entry(&mut self.counts, id).map_or(0, std::mem::take);
            if let Some(logit) = entry(logits, id).filter(|_| count > 0) {
                *logit = if *logit > 0.0 { *logit / repeat_penalty } else { *logit * repeat_penalty };
                *logit -= presence_penalty + frequency_penalty * count as f32;
            }
        }
    }

    /// Gathers the tokens that may still be chosen, likeliest first.
    fn collect(&mut self, logits: &[f32]) {
        self.candidates.clear();
        let possible = (0u32..).zip(logits).filter(|&(_, &logit)| logit > f32::NEG_INFINITY);
        self.candidates.extend(possible.map(|(id, &logit)| Candidate { id, logit, weight: 0.0 }));
        let keep = self.options.top_k;
        if keep > 0 && keep < self.candidates.len() {
            self.candidates.select_nth_unstable_by(keep - 1, likelier);
            self.candidates.truncate(keep);
        }
        self.candidates.sort_unstable_by(likelier);
    }

    /// Applies top-p and min-p to the sorted candidates, at temperature 1.
    fn filter(&mut self) {
        let (top_p, min_p) = (self.options.top_p, self.options.min_p);
        if top_p < 1.0 {
            let wanted = f64::from(top_p) * self.weigh(1.0);
            let mut reached = 0.0;
            let last = self.candidates.iter().position(|candidate| {
                reached += f64::from(candidate.weight);
                reached >= wanted
            });
            self.candidates.truncate(last.map_or(usize::MAX, |last| last + 1));
        }
        if min_p > 0.0 {
            self.weigh(1.0);
            let kept = self.candidates.partition_point(|candidate| candidate.weight >= min_p);
            self.candidates.truncate(kept.max(1));
        }
    }

    /// Draws one of the candidates at the temperature.
    fn choose(&mut self) -> u32 {
        let target = self.random.unit() * self.weigh(self.options.temperature);
        let mut reached = 0.0;
        let drawn = self.candidates.iter().find(|candidate| {
            reached += f64::from(candidate.weight);
            reached > target
        });
        drawn.or(self.candidates.first()).map_or(0, |candidate| candidate.id)
    }

    /// Sets every candidate's weight at a temperature and returns their sum.
    fn weigh(&mut self, temperature: f32) -> f64 {
        let Some(&Candidate { logit: highest, .. }) = self.candidates.first() else { return 0.0 };
        let mut sum = 0.0;
        for candidate in &mut self.candidates {
            let equal = candidate.logit == highest;
            candidate.weight = if equal { 1.0 } else { ((candidate.logit - highest) / temperature).exp() };
            sum += f64::from(candidate.weight);
        }
        sum
    }
}

/// Likeliest first, the lowest id among equals.
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

fn entry<T>(values: &mut [T], id: u32) -> Option<&mut T> {
    values.get_mut(usize::try_from(id).ok()?)
}

/// The token of the highest logit, the lowest id among equals, NaN below everything.
fn greedy(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in (0u32..).zip(logits) {
        if logit > best.1 {
            best = (id, logit);
        }
    }
    best.0
}

/// xoshiro256++ (Blackman and Vigna, "Scrambled linear pseudorandom number generators"), seeded by SplitMix64 as its
/// authors advise.
#[derive(Clone, Debug)]
struct Xoshiro256 {
    state: [u64; 4],
}

impl Xoshiro256 {
    fn new(seed: u64) -> Self {
        let mut sum = seed;
        let mut next = || {
            sum = sum.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = sum;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        Self { state: [next(), next(), next(), next()] }
    }

    fn next(&mut self) -> u64 {
        let state = &mut self.state;
        let drawn = state[0].wrapping_add(state[3]).rotate_left(23).wrapping_add(state[0]);
        let shifted = state[1] << 17;
        state[2] ^= state[0];
        state[3] ^= state[1];
        state[1] ^= state[2];
        state[0] ^= state[3];
        state[2] ^= shifted;
        state[3] = state[3].rotate_left(45);
        drawn
    }

    /// Uniform in [0, 1), 53 bits.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Ends generation at a stop string, wherever the boundaries between tokens fall.
///
/// Text that may yet become a stop string is held back; the stop string itself never comes out.
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

/// What a [`StopMatcher`] lets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// Text that is no part of a stop string.
    pub text: String,
    /// Whether a stop string was found; what came after it is gone.
    pub stopped: bool,
}

impl StopMatcher {
    /// A matcher for these strings; empty ones are ignored.
    pub fn new(stops: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let stops = stops.into_iter().map(Into::into).filter(|stop: &String| !stop.is_empty()).collect();
        Self { stops, held: String::new(), stopped: false }
    }

    /// Takes the next text. The stop string that begins first ends the text.
    pub fn push(&mut self, text: &str) -> Emitted {
        if self.stopped {
            return Emitted { text: String::new(), stopped: true };
        }
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        self.stopped = found.is_some();
        let safe = found.unwrap_or_else(|| self.held.len() - self.possible_start());
        let rest = self.held.split_off(safe);
        let text = std::mem::replace(&mut self.held, rest);
        Emitted { text, stopped: self.stopped }
    }

    /// Ends the stream: what was held back after all belongs to the text.
    pub fn finish(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        if self.stopped { String::new() } else { held }
    }

    /// Length of the longest end of the held text that begins a stop string.
    fn possible_start(&self) -> usize {
        let begins = |start: usize| {
            let end = self.held.get(start..)?;
            self.stops.iter().any(|stop| stop.starts_with(end)).then_some(end.len())
        };
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        (self.held.len().saturating_sub(longest)..self.held.len()).find_map(begins).unwrap_or(0)
    }
}
