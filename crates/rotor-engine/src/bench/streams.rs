//! Timing many requests that come and go, through the batch that a server uses.
//!
//! Requests arrive one after the other, one before each step, with prompts and answers of different lengths. Prompts are
//! pseudo-random and each token is the likeliest; sampled tokens would cost a little more.

use super::random_tokens;
use crate::batch::{Batch, BatchOptions, RequestId};
use crate::engine::{Engine, GenerateError, GenerateOptions};
use crate::request::{Event, Request};
use crate::speculate::Speculate;
use rotor_kernels::attention::KvType;
use rotor_kernels::clock::Instant;
use std::collections::HashMap;
use std::time::Duration;

/// Requests that are computed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streams {
    /// Requests.
    pub streams: usize,
    /// Tokens of a prompt, in the mean; the shortest has half of it, the longest one and a half times as many.
    pub prompt: usize,
    /// Tokens of an answer, in the mean; from three to five quarters of it.
    pub generate: usize,
}

/// What a run took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamsRun {
    /// From the first request to the last token.
    pub time: Duration,
    /// Tokens of all prompts.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// Tokens that steps generated in which every request had a token and no prompt was computed.
    pub decoded_tokens: usize,
    /// The time of these steps.
    pub decode_time: Duration,
    /// From each request to its first token.
    pub first_token: Vec<Duration>,
    /// From each token to the next one of its request; none for tokens of the same step.
    pub between: Vec<Duration>,
    /// Tokens that were guessed and computed ahead.
    pub draft_tokens: u64,
    /// How many of them were chosen then.
    pub accepted_tokens: u64,
}

impl Streams {
    /// Room that each request needs.
    pub fn context(self) -> usize {
        longest(self.prompt, 2) + longest(self.generate, 4)
    }

    /// Runs it once. Nothing is known at the start, whatever ran before.
    ///
    /// # Errors
    /// If there is no memory for the requests.
    pub fn run(self, engine: &Engine, kv: KvType, speculate: Speculate) -> Result<StreamsRun, GenerateError> {
        let mut options =
            BatchOptions { kv, speculate, sequences: self.streams.max(1), ..BatchOptions::new(self.context()) };
        options.kv_memory = Some(options.context_bytes(engine.model().config()).saturating_mul(self.streams as u64));
        let mut batch = engine.batch(options);
        let mut waiting = self.requests(engine).into_iter();
        let mut run = StreamsRun::default();
        let mut clocks: HashMap<RequestId, Clock> = HashMap::new();
        let start = Instant::now();
        loop {
            if let Some(request) = waiting.next() {
                run.prompt_tokens += request.prompt.len();
                let id = engine.submit(&mut batch, request)?;
                clocks.insert(id, Clock { asked: Instant::now(), last_token: None });
            } else if batch.is_idle() {
                break;
            }
            self.step(engine, &mut batch, &mut clocks, &mut run)?;
        }
        run.time = start.elapsed();
        let counts = batch.statistics().counts;
        (run.draft_tokens, run.accepted_tokens) = (counts.draft_tokens, counts.accepted_tokens);
        Ok(run)
    }

    /// Tokens of the prompt and of the answer of each request: the same ones each time.
    pub fn lengths(self) -> Vec<[usize; 2]> {
        let mut random = fastrand::Rng::with_seed(0x57e4);
        (0..self.streams)
            .map(|_| [ragged(&mut random, self.prompt, 2), ragged(&mut random, self.generate, 4)])
            .collect()
    }

    fn requests(self, engine: &Engine) -> Vec<Request> {
        let mut random = fastrand::Rng::with_seed(0x70e4);
        let request = |[prompt, generate]: [usize; 2]| {
            let options =
                GenerateOptions { max_tokens: Some(generate), ignore_eos: true, ..GenerateOptions::default() };
            Request::new(random_tokens(&mut random, engine, prompt), options)
        };
        self.lengths().into_iter().map(request).collect()
    }

    fn step(
        self,
        engine: &Engine,
        batch: &mut Batch,
        clocks: &mut HashMap<RequestId, Clock>,
        run: &mut StreamsRun,
    ) -> Result<(), GenerateError> {
        let prompts = batch.statistics().counts.prompt_tokens;
        let start = Instant::now();
        let events = batch.step(engine.model());
        let end = Instant::now();
        let mut tokens: HashMap<RequestId, usize> = HashMap::new();
        for (id, event) in events {
            match event {
                Event::Token(_) => {
                    *tokens.entry(id).or_default() += 1;
                    if let Some(clock) = clocks.get_mut(&id) {
                        match clock.last_token.replace(end) {
                            None => run.first_token.push(end - clock.asked),
                            Some(before) => run.between.push(end - before),
                        }
                    }
                }
                Event::Failed { error, .. } => return Err(error),
                _ => {}
            }
        }
        let chosen: usize = tokens.values().sum();
        run.generated_tokens += chosen;
        if tokens.len() == self.streams && batch.statistics().counts.prompt_tokens == prompts {
            run.decoded_tokens += chosen;
            run.decode_time += end - start;
        }
        Ok(())
    }
}

/// When a request came, and its last token.
#[derive(Clone, Copy, Debug)]
struct Clock {
    asked: Instant,
    last_token: Option<Instant>,
}

/// A number from `mean` less a `part`th of it to as much more, at least one.
fn ragged(random: &mut fastrand::Rng, mean: usize, part: usize) -> usize {
    random.usize((mean - mean / part).max(1)..=longest(mean, part))
}

fn longest(mean: usize, part: usize) -> usize {
    (mean + mean / part).max(1)
}

impl StreamsRun {
    /// Tokens generated per second, prompts included in the time.
    pub fn rate(&self) -> f64 {
        self.generated_tokens as f64 / self.time.as_secs_f64()
    }

    /// Tokens generated per second while every request generated; `None` where there was no such time.
    pub fn decode_rate(&self) -> Option<f64> {
        (!self.decode_time.is_zero()).then(|| self.decoded_tokens as f64 / self.decode_time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::OpenOptions;
    use crate::runtime::Runtime;

    #[test]
    fn every_token_is_counted_once() {
        let source = crate::demo::open(&OpenOptions::default()).unwrap();
        let engine = Engine::from_source(&source, &Runtime::new(1).unwrap(), &mut |_| {}).unwrap();
        for (streams, speculate) in [(1, Speculate::Off), (3, Speculate::Off), (3, Speculate::LookupAlways)] {
            let test = Streams { streams, prompt: 12, generate: 16 };
            let run = test.run(&engine, KvType::F16, speculate).unwrap();
            assert_eq!(run.first_token.len(), streams);
            assert_eq!(run.between.len() + streams, run.generated_tokens);
            assert!((6 * streams..=18 * streams).contains(&run.prompt_tokens), "{run:?}");
            assert!((12 * streams..=20 * streams).contains(&run.generated_tokens), "{run:?}");
            assert!(run.decoded_tokens < run.generated_tokens, "first tokens come out of prompts");
            assert!(run.decode_rate().is_some_and(|rate| rate > 0.0) && run.rate() > 0.0);
            assert_eq!(run.draft_tokens > 0, speculate == Speculate::LookupAlways, "{run:?}");
        }
    }
}
