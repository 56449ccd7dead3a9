//! Timing a loaded model: prompts and generation as llama-bench runs them.
//!
//! Tokens are pseudo-random and nothing is sampled, so that what is timed is the model alone: all logits, or, where the head has
//! a sketch, as much as it takes to choose the likeliest token. A test at a context depth
//! starts from a cache that holds that many tokens already; they are computed once and copied to every sequence, so that each
//! reads memory of its own.

pub mod kernels;
pub mod streams;

use crate::cache::SequenceCache;
pub use crate::cost::{Cost, Taken, Test};
use crate::engine::{Engine, GenerateError, PREFILL_CHUNK};
use crate::head::{HeadCounts, Want};
use crate::model::{ForwardError, Model, Step, Wanted, Workspace};
use rotor_kernels::attention::KvType;
use rotor_kernels::clock::Instant;
pub use rotor_kernels::ternary::SkipCounts;
use std::hint::black_box;
use std::time::Duration;

/// Sequences on which tests are run.
#[derive(Debug)]
pub struct Bench {
    kv: KvType,
    context: usize,
    /// As many tokens as the deepest test so far wanted.
    history: SequenceCache,
    /// Between runs each holds tokens of the history only.
    caches: Vec<SequenceCache>,
    workspace: Option<Workspace>,
    random: fastrand::Rng,
}

impl Bench {
    /// Sequences with room for `context` tokens each.
    pub fn new(engine: &Engine, context: usize, kv: KvType) -> Bench {
        let history = cache(engine, context, kv);
        let random = fastrand::Rng::with_seed(0x0716);
        Bench { kv, context, history, caches: Vec::new(), workspace: None, random }
    }

    /// Computes the context that tests of up to this depth start from.
    ///
    /// # Errors
    /// Where the context has no room.
    pub fn fill(&mut self, engine: &Engine, depth: usize) -> Result<(), GenerateError> {
        let missing = depth.saturating_sub(self.history.len());
        let workspace = self.workspace.get_or_insert_with(|| Workspace::new(engine.model().runtime()));
        prefill(engine.model(), &mut self.history, &random_tokens(&mut self.random, engine, missing), workspace)
    }

    /// Sets up the context a test starts from and does a part of the test, so that what [`Bench::run`] times is warm.
    ///
    /// # Errors
    /// Where the context has no room, or memory is refused.
    pub fn warm_up(&mut self, engine: &Engine, test: Test) -> Result<(), GenerateError> {
        self.fill(engine, test.depth())?;
        while self.caches.len() < test.batch() {
            self.caches.push(cache(engine, self.context, self.kv));
        }
        for cache in self.caches.iter_mut().filter(|cache| cache.len() < test.depth()) {
            cache.copy_prefix(&self.history, test.depth()).map_err(ForwardError::from)?;
        }
        let short = match test {
            Test::Generate { tokens, depth, batch } => Test::Generate { tokens: tokens.min(2), depth, batch },
            prompt @ Test::Prompt { .. } => prompt,
        };
        self.run(engine, short)?;
        Ok(())
    }

    /// What choosing tokens from bounds of the logits has taken in all runs so far.
    pub fn head_counts(&self) -> HeadCounts {
        self.workspace.as_ref().map(Workspace::head_counts).unwrap_or_default()
    }

    /// What a few tokens at a time have read of linears that can leave rows or columns unread, in all runs so far.
    pub fn skip_counts(&self) -> SkipCounts {
        self.workspace.as_ref().map(Workspace::skip_counts).unwrap_or_default()
    }

    /// Runs a test that has been warmed up and returns the time it took.
    ///
    /// # Errors
    /// Where the context has no room.
    pub fn run(&mut self, engine: &Engine, test: Test) -> Result<Duration, GenerateError> {
        let workspace = self.workspace.get_or_insert_with(|| Workspace::new(engine.model().runtime()));
        let tokens = random_tokens(&mut self.random, engine, test.tokens());
        let caches = &mut self.caches[..test.batch()];
        caches.iter_mut().for_each(|cache| cache.truncate(test.depth()));
        let start = Instant::now();
        match test {
            Test::Prompt { .. } => prefill(engine.model(), &mut caches[0], &tokens, workspace)?,
            Test::Generate { batch, .. } => {
                for tokens in tokens.chunks_exact(batch) {
                    generate(engine.model(), caches, tokens, workspace)?;
                }
            }
        }
        let taken = start.elapsed();
        caches.iter_mut().for_each(|cache| cache.truncate(test.depth()));
        Ok(taken)
    }
}

fn cache(engine: &Engine, context: usize, kv: KvType) -> SequenceCache {
    SequenceCache::new(engine.model().config(), context, kv)
}

pub(super) fn random_tokens(random: &mut fastrand::Rng, engine: &Engine, tokens: usize) -> Vec<u32> {
    let vocabulary = u32::try_from(engine.model().config().vocab_size).unwrap_or(u32::MAX);
    (0..tokens).map(|_| random.u32(0..vocabulary)).collect()
}

/// Computes a prompt in chunks, as the engine does.
fn prefill(
    model: &Model,
    cache: &mut SequenceCache,
    tokens: &[u32],
    workspace: &mut Workspace,
) -> Result<(), GenerateError> {
    let chunks = tokens.len().div_ceil(PREFILL_CHUNK);
    for (index, tokens) in tokens.chunks(PREFILL_CHUNK).enumerate() {
        let wanted = if index + 1 == chunks { Wanted::Last } else { Wanted::None };
        black_box(model.forward(&mut [Step { cache, tokens, wanted }], workspace)?);
    }
    Ok(())
}

/// Computes one token of each sequence.
fn generate(
    model: &Model,
    caches: &mut [SequenceCache],
    tokens: &[u32],
    workspace: &mut Workspace,
) -> Result<(), GenerateError> {
    let step = |(cache, token)| Step { cache, tokens: std::slice::from_ref(token), wanted: Wanted::Last };
    let mut steps: Vec<Step<'_>> = caches.iter_mut().zip(tokens).map(step).collect();
    model.hidden(&mut steps, workspace)?;
    let rows = tokens.len();
    let (all, some) = if model.sketch().is_some() { (0, rows) } else { (rows, 0) };
    let (logits, bounded) = model.logits((all, some), workspace);
    black_box(logits);
    if let Some(mut bounded) = bounded {
        for row in 0..some {
            if black_box(bounded.among(row, &Want::LARGEST)).is_none() {
                black_box(bounded.all(row));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::{OpenOptions, Source};
    use crate::runtime::Runtime;
    use crate::synth::{Preset, SynthOptions, synthesize};

    fn tiny() -> Engine {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        synthesize(Preset::Tiny, &path, &SynthOptions::default(), &mut |_, _| {}).unwrap();
        let source = Source::open(&path, &OpenOptions::default()).unwrap();
        Engine::from_source(&source, &Runtime::new(1).unwrap(), &mut |_| {}).unwrap()
    }

    #[test]
    fn tests_run_in_any_order_and_leave_the_history() {
        let engine = tiny();
        let mut bench = Bench::new(&engine, 48, KvType::F16);
        for test in [
            Test::Generate { tokens: 4, depth: 16, batch: 3 },
            Test::Prompt { tokens: 16, depth: 0 },
            Test::Prompt { tokens: 16, depth: 32 },
            Test::Generate { tokens: 4, depth: 8, batch: 1 },
        ] {
            bench.warm_up(&engine, test).unwrap();
            assert!(bench.run(&engine, test).unwrap() > Duration::ZERO);
            for cache in &bench.caches[..test.batch()] {
                assert_eq!(cache.tokens(), &bench.history.tokens()[..test.depth()], "{test}");
            }
        }
        let too_long = Test::Prompt { tokens: 49, depth: 0 };
        assert!(bench.warm_up(&engine, too_long).is_err());
    }
}
