//! Logits to a token.
//!
//! The order is llama.cpp's: logit bias, penalties, then top-k, top-p, min-p and temperature over what is left. The
//! random stream is our own (xoshiro256++), because a seed is a promise: the same seed gives the same text in every
//! version. Greedy choice is one pass over the logits.
//!
//! Most choices need no more than the largest logits ([`Sampler::reach`]). Those, wherever they come from, give the choice that
//! all would give ([`Sampler::sample_among`]).

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

/// Which logits a choice can depend on: the `count` largest, as far as they are no more than `below` under the largest. All of
/// this is meant of logits as the model gives them, tokens aside whose logit bias or penalties change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reach {
    /// How many; `usize::MAX` where only `below` limits them.
    pub count: usize,
    /// How far below the largest; infinite where only `count` limits them.
    pub below: f32,
}

/// A token and its logit.
pub type TokenLogit = (u32, f32);

/// Chooses tokens by [`SamplingOptions`].
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplingOptions,
    vocab_size: usize,
    random: Xoshiro256,
    seed: u64,
    candidates: Vec<Candidate>,
    /// Logit of the likeliest candidate.
    highest: f32,
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
            highest: f32::NEG_INFINITY,
            counts: vec![0; if options.penalises() { vocab_size } else { 0 }],
            options,
        })
    }

    /// The seed in use, for repeating a run whose seed came from the system.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A sampler with the same options and another seed.
    pub fn reseeded(&self, seed: u64) -> Self {
        Self { random: Xoshiro256::new(seed), seed, ..self.clone() }
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
            return greedy((0u32..).zip(logits.iter().copied()));
        }
        self.collect((0u32..).zip(logits.iter().copied()));
        self.filter();
        self.choose()
    }

    /// As [`Sampler::sample`], where `logits` are some tokens' in the order of their ids: all within [`Sampler::reach`] of the
    /// tokens that may be chosen, and those of [`Sampler::changed`]. The choice is the one that all logits give.
    pub fn sample_among(&mut self, logits: &mut [TokenLogit], history: &[u32]) -> u32 {
        self.adjust(logits, history);
        if self.options.temperature == 0.0 {
            return greedy(logits.iter().copied());
        }
        self.collect(logits.iter().copied());
        self.filter();
        self.choose()
    }

    /// Which logits the choice depends on; `None` for all, as wherever there is a temperature or a top-p without a top-k.
    pub fn reach(&self) -> Option<Reach> {
        let SamplingOptions { temperature, top_k, top_p, min_p, .. } = self.options;
        if temperature == 0.0 {
            return Some(Reach { count: 1, below: f32::INFINITY });
        }
        // A token is kept if `exp(logit - highest) >= min_p`. That rounds the difference, to 2^-24 of it, and the exponential,
        // to less than four times that as long as it is a normal number.
        let below = |min_p: f32| (-f64::from(min_p).ln() + 2f64.powi(-21)) * (1.0 + 2f64.powi(-23));
        let min_p = Some(min_p).filter(|min_p| top_p >= 1.0 && *min_p >= f32::MIN_POSITIVE);
        let below = min_p.map_or(f32::INFINITY, |min_p| (below(min_p) as f32).next_up());
        match top_k {
            0 if below == f32::INFINITY => None,
            0 => Some(Reach { count: usize::MAX, below }),
            // So many cost more one by one than all together.
            _ if top_k > self.vocab_size / 8 => None,
            _ => Some(Reach { count: top_k, below }),
        }
    }

    /// The tokens whose logits bias and penalties change, in order, each once.
    pub fn changed(&self, history: &[u32]) -> Vec<u32> {
        let biased = self.options.logit_bias.iter().map(|(id, _)| *id);
        let penalised = if self.options.penalises() { self.penalised(history) } else { &[] };
        let mut ids: Vec<u32> = biased.chain(penalised.iter().copied()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| usize::try_from(*id).is_ok_and(|id| id < self.vocab_size));
        ids
    }

    /// The part of the history that penalties look at.
    fn penalised<'h>(&self, history: &'h [u32]) -> &'h [u32] {
        history.get(history.len().saturating_sub(self.options.repeat_last_n)..).unwrap_or_default()
    }

    /// Applies bias and penalties.
    fn adjust(&mut self, logits: &mut (impl Logits + ?Sized), history: &[u32]) {
        for &(id, bias) in &self.options.logit_bias {
            if let Some(logit) = logits.of(id) {
                *logit += bias;
            }
        }
        if self.options.penalises() {
            self.penalise(logits, self.penalised(history));
        }
    }

    fn penalise(&mut self, logits: &mut (impl Logits + ?Sized), history: &[u32]) {
        let SamplingOptions { repeat_penalty, presence_penalty, frequency_penalty, .. } = self.options;
        for &id in history {
            if let Some(count) = entry(&mut self.counts, id) {
                *count += 1;
            }
        }
        for &id in history {
            // Taking the count leaves 0: each token is penalised once, and the table is clean for the next call.
            let count = entry(&mut self.counts, id).map_or(0, std::mem::take);
            if let Some(logit) = logits.of(id).filter(|_| count > 0) {
                *logit = if *logit > 0.0 { *logit / repeat_penalty } else { *logit * repeat_penalty };
                *logit -= presence_penalty + frequency_penalty * count as f32;
            }
        }
    }

    /// Gathers the tokens that may still be chosen: in order of id, or the likeliest first where only `top_k` remain.
    fn collect(&mut self, logits: impl Iterator<Item = TokenLogit>) {
        self.candidates.clear();
        let possible = logits.filter(|(_, logit)| *logit > f32::NEG_INFINITY);
        self.candidates.extend(possible.map(|(id, logit)| Candidate { id, logit, weight: 0.0 }));
        self.highest = self.candidates.iter().map(|candidate| candidate.logit).fold(f32::NEG_INFINITY, f32::max);
        if self.options.top_k > 0 {
            self.sort_first(self.options.top_k);
            self.candidates.truncate(self.options.top_k);
        }
    }

    /// Brings the `count` likeliest candidates to the front, in order. Sorting the whole vocabulary would take longer
    /// than some models take for a token.
    fn sort_first(&mut self, count: usize) {
        let count = count.min(self.candidates.len());
        if count < self.candidates.len() {
            self.candidates.select_nth_unstable_by(count, likelier);
        }
        if let Some(first) = self.candidates.get_mut(..count) {
            first.sort_unstable_by(likelier);
        }
    }

    /// Applies top-p and min-p, at temperature 1.
    fn filter(&mut self) {
        if self.options.top_p < 1.0 {
            self.keep_top_p();
        }
        let min_p = self.options.min_p;
        if min_p > 0.0 {
            self.weigh(1.0);
            self.candidates.retain(|candidate| candidate.weight >= min_p);
        }
    }

    /// Keeps the fewest likeliest candidates that reach the sum, sorting no more of them than it has to.
    fn keep_top_p(&mut self) {
        let wanted = f64::from(self.options.top_p) * self.weigh(1.0);
        let mut sorted = 64;
        loop {
            self.sort_first(sorted);
            let mut reached = 0.0;
            let last = self.candidates.iter().take(sorted).position(|candidate| {
                reached += f64::from(candidate.weight);
                reached >= wanted
            });
            if let Some(last) = last {
                return self.candidates.truncate(last + 1);
            }
            if sorted >= self.candidates.len() {
                return;
            }
            sorted *= 8;
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
        let highest = self.highest;
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

/// Logits that can be changed token by token.
trait Logits {
    /// A token's, where it is there.
    fn of(&mut self, id: u32) -> Option<&mut f32>;
}

/// All of them.
impl Logits for [f32] {
    fn of(&mut self, id: u32) -> Option<&mut f32> {
        entry(self, id)
    }
}

/// Some, in the order of their ids.
impl Logits for [TokenLogit] {
    fn of(&mut self, id: u32) -> Option<&mut f32> {
        let at = self.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.get_mut(at).map(|(_, logit)| logit)
    }
}

/// The token of the highest logit, the lowest id among equals, NaN below everything. Ids ascend.
fn greedy(logits: impl Iterator<Item = TokenLogit>) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, logit) in logits {
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
    /// Index of the stop string that was found.
    matched: Option<usize>,
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
        Self { stops, held: String::new(), matched: None }
    }

    /// Takes the next text. The stop string that is complete first ends the text; of several, the longest.
    pub fn push(&mut self, text: &str) -> Emitted {
        if self.matched.is_some() {
            return Emitted { text: String::new(), stopped: true };
        }
        self.held.push_str(text);
        let ends = |(index, stop): (usize, &String)| {
            self.held.find(stop.as_str()).map(|start| (start + stop.len(), start, index))
        };
        let found = self.stops.iter().enumerate().filter_map(ends).min();
        self.matched = found.map(|(_, _, index)| index);
        let safe = found.map_or_else(|| self.held.len() - self.possible_start(), |(_, start, _)| start);
        let rest = self.held.split_off(safe);
        let text = std::mem::replace(&mut self.held, rest);
        Emitted { text, stopped: self.matched.is_some() }
    }

    /// The stop string that was found.
    pub fn matched(&self) -> Option<&str> {
        self.stops.get(self.matched?).map(String::as_str)
    }

    /// Ends the stream: what was held back after all belongs to the text.
    pub fn finish(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        if self.matched.is_some() { String::new() } else { held }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sampler(options: SamplingOptions, vocab_size: usize) -> Sampler {
        Sampler::new(SamplingOptions { seed: Some(options.seed.unwrap_or(1)), ..options }, vocab_size).unwrap()
    }

    fn random(temperature: f32) -> SamplingOptions {
        SamplingOptions { temperature, ..SamplingOptions::default() }
    }

    /// How often each token is drawn.
    fn frequencies(options: SamplingOptions, logits: &[f32], draws: usize) -> Vec<f64> {
        let mut sampler = sampler(options, logits.len());
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..draws {
            counts[sampler.sample(&mut logits.to_vec(), &[]) as usize] += 1.0 / draws as f64;
        }
        counts
    }

    fn close(found: &[f64], expected: &[f64]) {
        for (found, expected) in found.iter().zip(expected) {
            // Five standard deviations of 40,000 draws.
            let tolerance = 5.0 * (expected * (1.0 - expected) / 40_000.0).sqrt() + 1e-9;
            assert!((found - expected).abs() <= tolerance, "{found} is not {expected}");
        }
    }

    fn logs(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|probability| probability.ln() + 3.0).collect()
    }

    #[test]
    fn greedy_takes_the_highest_and_the_lowest_id_of_equals() {
        let mut greedy = sampler(SamplingOptions::default(), 4);
        assert_eq!(greedy.sample(&mut [1.0, 3.0, 3.0, 2.0], &[]), 1);
        assert_eq!(greedy.sample(&mut [f32::NAN, -1.0, f32::NAN, -2.0], &[]), 1);
        assert_eq!(greedy.sample(&mut [f32::NAN; 4], &[]), 0);
        assert_eq!(greedy.sample(&mut [f32::NEG_INFINITY, f32::INFINITY, 0.0, f32::INFINITY], &[]), 1);
    }

    #[test]
    fn the_stream_of_a_seed_never_changes() {
        // Worked out apart from this code, from the authors' description.
        let mut stream = Xoshiro256::new(42);
        let drawn: Vec<u64> = (0..3).map(|_| stream.next()).collect();
        assert_eq!(drawn, [15021278609987233951, 5881210131331364753, 18149643915985481100]);
        let logits: Vec<f32> = (0..16).map(|id| (id as f32 * 0.7).sin()).collect();
        let ids = |options| {
            let mut sampler = sampler(SamplingOptions { seed: Some(42), ..options }, 16);
            (0..12).map(|_| sampler.sample(&mut logits.clone(), &[])).collect::<Vec<u32>>()
        };
        assert_eq!(ids(random(1.0)), [12, 3, 15, 11, 12, 10, 1, 10, 2, 13, 9, 12]);
        assert_eq!(ids(SamplingOptions { top_p: 0.8, ..random(1.0) }), [4, 3, 9, 1, 4, 10, 11, 10, 2, 13, 12, 4]);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = logs(&[0.5, 0.3, 0.15, 0.05]);
        close(&frequencies(random(1.0), &logits, 40_000), &[0.5, 0.3, 0.15, 0.05]);
    }

    #[test]
    fn temperature_sharpens_and_flattens() {
        let logits = logs(&[0.8, 0.2]);
        let sharp = 0.64 / (0.64 + 0.04);
        close(&frequencies(random(0.5), &logits, 40_000), &[sharp, 1.0 - sharp]);
        let flat = 0.8f64.sqrt() / (0.8f64.sqrt() + 0.2f64.sqrt());
        close(&frequencies(random(2.0), &logits, 40_000), &[flat, 1.0 - flat]);
    }

    #[test]
    fn top_k_keeps_that_many() {
        let logits = logs(&[0.1, 0.4, 0.2, 0.3]);
        let options = SamplingOptions { top_k: 2, ..random(1.0) };
        close(&frequencies(options, &logits, 40_000), &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
        let one = SamplingOptions { top_k: 1, ..random(5.0) };
        close(&frequencies(one, &logits, 100), &[0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn top_k_prefers_the_lowest_ids_of_equals() {
        let options = SamplingOptions { top_k: 2, ..random(1.0) };
        close(&frequencies(options, &[0.0; 4], 40_000), &[0.5, 0.5, 0.0, 0.0]);
    }

    #[test]
    fn top_p_keeps_the_fewest_that_reach_it() {
        let logits = logs(&[0.5, 0.3, 0.15, 0.05]);
        let options = |top_p| SamplingOptions { top_p, ..random(1.0) };
        close(&frequencies(options(0.79), &logits, 40_000), &[0.625, 0.375, 0.0, 0.0]);
        close(&frequencies(options(0.9), &logits, 40_000), &[0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.0]);
        close(&frequencies(options(0.0), &logits, 100), &[1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn min_p_is_relative_to_the_likeliest() {
        let logits = logs(&[0.5, 0.3, 0.15, 0.05]);
        let options = SamplingOptions { min_p: 0.5, ..random(1.0) };
        close(&frequencies(options, &logits, 40_000), &[0.625, 0.375, 0.0, 0.0]);
    }

    #[test]
    fn penalties_touch_the_history_only() {
        let options = SamplingOptions { repeat_penalty: 2.0, ..SamplingOptions::default() };
        let mut logits = [4.0, -1.0, 3.0];
        assert_eq!(sampler(options, 3).sample(&mut logits, &[0, 1, 0]), 2);
        assert_eq!(logits, [2.0, -2.0, 3.0]);

        let options = SamplingOptions { presence_penalty: 0.5, frequency_penalty: 0.25, ..SamplingOptions::default() };
        let mut sampler = sampler(options, 3);
        for _ in 0..2 {
            let mut logits = [4.0, -1.0, 3.0];
            sampler.sample(&mut logits, &[0, 1, 0, 99]);
            assert_eq!(logits, [3.0, -1.75, 3.0]);
        }
    }

    #[test]
    fn penalties_look_back_repeat_last_n_tokens() {
        let options = SamplingOptions { presence_penalty: 1.0, repeat_last_n: 2, ..SamplingOptions::default() };
        let mut logits = [0.0; 4];
        sampler(options, 4).sample(&mut logits, &[0, 1, 2]);
        assert_eq!(logits, [0.0, -1.0, -1.0, 0.0]);
    }

    #[test]
    fn a_bias_can_force_and_forbid() {
        let biased = |id, bias| SamplingOptions { logit_bias: vec![(id, bias)], ..SamplingOptions::default() };
        assert_eq!(sampler(biased(2, 100.0), 3).sample(&mut [1.0, 2.0, 0.0], &[]), 2);
        assert_eq!(sampler(biased(1, f32::NEG_INFINITY), 3).sample(&mut [1.0, 2.0, 0.0], &[]), 0);
    }

    #[test]
    fn options_outside_their_range_are_named() {
        let found = |options: SamplingOptions| options.validate(10).unwrap_err().to_string();
        assert_eq!(found(random(f32::NAN)), "temperature must be between 0 and 100, not NaN");
        assert_eq!(found(SamplingOptions { top_p: 1.5, ..random(1.0) }), "top_p must be between 0 and 1, not 1.5");
        let zero = SamplingOptions { repeat_penalty: 0.0, ..random(1.0) };
        assert_eq!(found(zero), "repeat_penalty must be above 0 and at most 100, not 0");
        let far = SamplingOptions { logit_bias: vec![(10, 0.0)], ..random(1.0) };
        assert_eq!(found(far), "logit_bias must be for token ids below 10, not 10");
    }

    proptest! {
        #[test]
        fn any_logits_give_a_token_of_the_vocabulary(
            logits in proptest::collection::vec(any::<f32>(), 1..40),
            temperature in 0.0f32..3.0, top_k in 0usize..50, top_p in 0.0f32..=1.0, min_p in 0.0f32..=1.0,
            history in proptest::collection::vec(any::<u32>(), 0..8),
        ) {
            let options = SamplingOptions { temperature, top_k, top_p, min_p, repeat_penalty: 1.1, ..random(1.0) };
            let mut sampler = sampler(options, logits.len());
            let id = sampler.sample(&mut logits.clone(), &history);
            prop_assert!((id as usize) < logits.len());
        }

        /// What is out of reach may be left out: the choice and the random stream stay the same.
        #[test]
        fn what_is_in_reach_gives_the_choice_of_all(
            logits in proptest::collection::vec(prop_oneof![-4.0f32..4.0, Just(1.5f32), Just(-3.0f32)], 1..400),
            temperature in prop_oneof![Just(0.0f32), 0.1f32..3.0], top_k in 0usize..12,
            top_p in prop_oneof![Just(1.0f32), 0.3f32..1.0], min_p in prop_oneof![Just(0.0f32), 1e-6f32..1.0],
            repeat_penalty in prop_oneof![Just(1.0f32), 0.5f32..2.0],
            bias in proptest::collection::vec((0u32..400, -5.0f32..5.0), 0..4),
            history in proptest::collection::vec(0u32..500, 0..20),
            seed in any::<u64>(),
        ) {
            let logit_bias = bias.into_iter().filter(|(id, _)| (*id as usize) < logits.len()).collect();
            let options = SamplingOptions {
                temperature, top_k, top_p, min_p, repeat_penalty, logit_bias, seed: Some(seed), ..SamplingOptions::default()
            };
            let (mut whole, mut part) = (sampler(options.clone(), logits.len()), sampler(options, logits.len()));
            let reach = whole.reach();
            let has_reach = temperature == 0.0 || (top_k > 0 && top_k <= logits.len() / 8) || (top_k == 0 && top_p == 1.0 && min_p > 0.0);
            prop_assert_eq!(reach.is_some(), has_reach);
            let Some(reach) = reach else { return Ok(()) };
            for _ in 0..3 {
                let changed = part.changed(&history);
                let free = || (0u32..).zip(logits.iter().copied()).filter(|(id, _)| !changed.contains(id));
                let mut order: Vec<f32> = free().map(|(_, logit)| logit).collect();
                order.sort_by(|a, b| b.total_cmp(a));
                let kth = order.get(reach.count - 1).copied().unwrap_or(f32::NEG_INFINITY);
                let least = order.first().map_or(f32::NEG_INFINITY, |highest| kth.max(highest - reach.below));
                let mut some: Vec<TokenLogit> = (0u32..).zip(logits.iter().copied()).collect();
                some.retain(|(id, logit)| changed.contains(id) || *logit >= least);
                let expected = whole.sample(&mut logits.clone(), &history);
                prop_assert_eq!(part.sample_among(&mut some, &history), expected);
            }
        }

        #[test]
        fn top_p_needs_no_full_sort(logits in proptest::collection::vec(-3.0f32..3.0, 700..900), top_p in 0.0f32..1.0) {
            let mut sampler = sampler(SamplingOptions { top_p, ..random(1.0) }, logits.len());
            sampler.collect((0u32..).zip(logits.iter().copied()));
            let mut sorted = sampler.candidates.clone();
            sampler.keep_top_p();
            sorted.sort_by(likelier);
            let weight = |candidate: &Candidate| f64::from(candidate.logit).exp();
            let kept: f64 = sampler.candidates.iter().map(weight).sum();
            let sum: f64 = sorted.iter().map(weight).sum();
            let last = sampler.candidates.last().map_or(0.0, weight);
            prop_assert!(kept >= f64::from(top_p) * sum * 0.9999 && kept - last <= f64::from(top_p) * sum * 1.0001);
            let ids = |candidates: &[Candidate]| candidates.iter().map(|candidate| candidate.id).collect::<Vec<_>>();
            prop_assert_eq!(ids(&sampler.candidates), ids(&sorted[..sampler.candidates.len()]));
        }

        #[test]
        fn stop_strings_end_the_text_wherever_tokens_end(
            text in "[ab]{0,24}", stops in proptest::collection::vec("[ab]{1,4}", 0..3), cuts in proptest::collection::vec(1usize..5, 24),
        ) {
            let ends = |stop: &String| text.find(stop.as_str()).map(|start| (start + stop.len(), start));
            let expected = stops.iter().filter_map(ends).min().map(|(_, start)| start);
            let mut matcher = StopMatcher::new(stops.clone());
            let (mut emitted, mut stopped, mut rest) = (String::new(), false, text.as_str());
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                let step = matcher.push(piece);
                emitted.push_str(&step.text);
                stopped = step.stopped;
                rest = after;
            }
            emitted.push_str(&matcher.finish());
            prop_assert_eq!(stopped, expected.is_some());
            prop_assert_eq!(emitted, &text[..expected.unwrap_or(text.len())]);
        }
    }

    #[test]
    fn text_that_may_become_a_stop_string_is_held_back() {
        let mut matcher = StopMatcher::new(["\n\nUser:", "é!"]);
        let mut push = |text| matcher.push(text);
        assert_eq!(push("Hi\n"), Emitted { text: "Hi".to_owned(), stopped: false });
        assert_eq!(push("\nUse"), Emitted { text: String::new(), stopped: false });
        assert_eq!(push(" it é"), Emitted { text: "\n\nUse it ".to_owned(), stopped: false });
        assert_eq!(push("! more"), Emitted { text: String::new(), stopped: true });
        assert_eq!(push("x"), Emitted { text: String::new(), stopped: true });
        assert_eq!(matcher.finish(), "");
    }
}
