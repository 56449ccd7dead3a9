//! Timing a loaded model: prompts and generation as llama-bench runs them.
//!
//! Tokens are pseudo-random and nothing is sampled, so that what is timed is the model alone. A test at a context depth
//! starts from a cache that holds that many tokens already; they are computed once and copied to every sequence.

pub mod kernels;

use crate::engine::{Engine, GenerateError, PREFILL_CHUNK};
use crate::kv::KvCache;
use crate::model::{Logits, Model, Step, Workspace};
use rotor_kernels::attention::KvType;
use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// A prompt of so many tokens, logits for the last.
    Prompt {
        /// Tokens computed.
        tokens: usize,
        /// Tokens in the context before them.
        depth: usize,
    },
    /// Tokens one after the other, logits for each.
    Generate {
        /// Tokens computed of each sequence.
        tokens: usize,
        /// Tokens in each context before them.
        depth: usize,
        /// Sequences that are computed together, a token of each in a step.
        batch: usize,
    },
}

impl Test {
    /// Tokens computed in one run, those of all sequences together.
    pub fn tokens(self) -> usize {
        match self {
            Test::Prompt { tokens, .. } => tokens,
            Test::Generate { tokens, batch, .. } => tokens * batch,
        }
    }

    /// Whether it is a prompt.
    pub fn is_prompt(self) -> bool {
        matches!(self, Test::Prompt { .. })
    }

    /// Tokens in the context at the start.
    pub fn depth(self) -> usize {
        match self {
            Test::Prompt { depth, .. } | Test::Generate { depth, .. } => depth,
        }
    }

    /// Sequences computed together.
    pub fn batch(self) -> usize {
        match self {
            Test::Prompt { .. } => 1,
            Test::Generate { batch, .. } => batch,
        }
    }

    /// Room that each sequence needs.
    pub fn context(self) -> usize {
        match self {
            Test::Prompt { tokens, depth } | Test::Generate { tokens, depth, .. } => depth + tokens,
        }
    }
}

/// As llama-bench names them, with the number of sequences where there are several: `pp128`, `tg32 @ d2048`, `tg32 b8`.
impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Test::Prompt { tokens, .. } => write!(f, "pp{tokens}")?,
            Test::Generate { tokens, batch: 1, .. } => write!(f, "tg{tokens}")?,
            Test::Generate { tokens, batch, .. } => write!(f, "tg{tokens} b{batch}")?,
        }
        if self.depth() > 0 { write!(f, " @ d{}", self.depth()) } else { Ok(()) }
    }
}

/// What a model's matrices cost: every linear is read once for each step and multiplied once for each token, the head where
/// logits are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Weights of all linears but the head.
    pub linear_weights: u64,
    /// Bytes of them in memory.
    pub linear_bytes: u64,
    /// Weights of the head.
    pub head_weights: u64,
    /// Bytes of it in memory.
    pub head_bytes: u64,
    /// Bytes of keys and values of one position.
    pub kv_bytes: u64,
}

impl Cost {
    /// The cost of `model`, keys and values kept as `kv`.
    pub fn of(model: &Model, kv: KvType) -> Cost {
        let kv_bytes = KvCache::bytes_per_token(model.config(), kv) as u64;
        Cost { kv_bytes, ..model.matrix_cost() }
    }

    /// Multiply-adds with weights, attention left out, of a run of `test`.
    pub fn multiply_adds(&self, test: Test) -> u64 {
        let heads = match test {
            Test::Prompt { .. } => 1,
            Test::Generate { .. } => test.tokens() as u64,
        };
        self.linear_weights * test.tokens() as u64 + self.head_weights * heads
    }

    /// Bytes that a run of `test` reads: all weights once for each step (a chunk of a prompt is one), and for each step the
    /// keys and values before it.
    pub fn bytes_read(&self, test: Test) -> f64 {
        let (steps, heads, batch) = match test {
            Test::Prompt { tokens, .. } => (tokens.div_ceil(PREFILL_CHUNK), 1, 1),
            Test::Generate { tokens, batch, .. } => (tokens, tokens, batch),
        };
        let weights = self.linear_bytes as f64 * steps as f64 + self.head_bytes as f64 * heads as f64;
        let tokens = test.context() - test.depth();
        // Mean positions of a step: the depth, and half of what is computed.
        let positions = test.depth() as f64 + (tokens as f64 + 1.0) / 2.0;
        weights + self.kv_bytes as f64 * positions * (steps * batch) as f64
    }

    /// Bytes that generating reads for each token: its share of all weights, and the keys and values of its sequence at half
    /// of the run. `None` for prompts, whose chunks share what is read.
    pub fn bytes_per_token(&self, test: Test) -> Option<f64> {
        (!test.is_prompt()).then(|| self.bytes_read(test) / test.tokens() as f64)
    }
}

/// Sequences on which tests are run.
#[derive(Debug)]
pub struct Bench {
    kv: KvType,
    context: usize,
    /// As many tokens as the deepest test so far wanted.
    history: KvCache,
    /// Between runs each holds tokens of the history only.
    caches: Vec<KvCache>,
    workspace: Option<Workspace>,
    random: fastrand::Rng,
}

impl Bench {
    /// Sequences with room for `context` tokens each.
    ///
    /// # Errors
    /// Where the system refuses the memory.
    pub fn new(engine: &Engine, context: usize, kv: KvType) -> Result<Bench, GenerateError> {
        let history = cache(engine, context, kv)?;
        let random = fastrand::Rng::with_seed(0x0716);
        Ok(Bench { kv, context, history, caches: Vec::new(), workspace: None, random })
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
            self.caches.push(cache(engine, self.context, self.kv)?);
        }
        for cache in self.caches.iter_mut().filter(|cache| cache.len() < test.depth()) {
            cache.copy_prefix(&self.history, test.depth());
        }
        let short = match test {
            Test::Generate { tokens, depth, batch } => Test::Generate { tokens: tokens.min(2), depth, batch },
            prompt @ Test::Prompt { .. } => prompt,
        };
        self.run(engine, short)?;
        Ok(())
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

fn cache(engine: &Engine, context: usize, kv: KvType) -> Result<KvCache, GenerateError> {
    let config = engine.model().config();
    KvCache::new(config, context, kv).map_err(|source| GenerateError::Memory {
        context,
        bytes: context.saturating_mul(KvCache::bytes_per_token(config, kv)),
        source,
    })
}

fn random_tokens(random: &mut fastrand::Rng, engine: &Engine, tokens: usize) -> Vec<u32> {
    let vocabulary = u32::try_from(engine.model().config().vocab_size).unwrap_or(u32::MAX);
    (0..tokens).map(|_| random.u32(0..vocabulary)).collect()
}

/// Computes a prompt in chunks, as the engine does.
fn prefill(model: &Model, cache: &mut KvCache, tokens: &[u32], workspace: &mut Workspace) -> Result<(), GenerateError> {
    let chunks = tokens.len().div_ceil(PREFILL_CHUNK);
    for (index, tokens) in tokens.chunks(PREFILL_CHUNK).enumerate() {
        let logits = if index + 1 == chunks { Logits::Last } else { Logits::None };
        black_box(model.forward(&mut [Step { cache, tokens, logits }], workspace)?);
    }
    Ok(())
}

/// Computes one token of each sequence.
fn generate(
    model: &Model,
    caches: &mut [KvCache],
    tokens: &[u32],
    workspace: &mut Workspace,
) -> Result<(), GenerateError> {
    let step = |(cache, token)| Step { cache, tokens: std::slice::from_ref(token), logits: Logits::Last };
    let mut steps: Vec<Step<'_>> = caches.iter_mut().zip(tokens).map(step).collect();
    black_box(model.forward(&mut steps, workspace)?);
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
    fn tests_are_named_as_llama_bench_names_them() {
        let names = [
            Test::Prompt { tokens: 128, depth: 0 },
            Test::Prompt { tokens: 128, depth: 2048 },
            Test::Generate { tokens: 32, depth: 0, batch: 1 },
            Test::Generate { tokens: 32, depth: 64, batch: 8 },
        ];
        assert_eq!(names.map(|test| test.to_string()), ["pp128", "pp128 @ d2048", "tg32", "tg32 b8 @ d64"]);
    }

    #[test]
    fn the_cost_counts_every_weight_once() {
        let engine = tiny();
        let cost = Cost::of(engine.model(), KvType::F16);
        assert_eq!((cost.linear_bytes + cost.head_bytes) as usize, engine.model().weight_bytes());
        assert_eq!(cost.head_weights, 1024 * 256);
        // Two bits a weight, or less where the kernel packs them denser.
        let bits = 8.0 * cost.linear_bytes as f64 / cost.linear_weights as f64;
        assert!((1.6..=2.0).contains(&bits), "{bits} bits a weight");
        let generate = Test::Generate { tokens: 3, depth: 10, batch: 2 };
        assert_eq!(cost.multiply_adds(generate), 6 * (cost.linear_weights + cost.head_weights));
        let weights = (cost.linear_bytes + cost.head_bytes) as f64 / 2.0;
        assert_eq!(cost.bytes_per_token(generate), Some(weights + 12.0 * cost.kv_bytes as f64));
        assert_eq!(cost.bytes_per_token(Test::Prompt { tokens: 3, depth: 0 }), None);
    }

    #[test]
    fn tests_run_in_any_order_and_leave_the_history() {
        let engine = tiny();
        let mut bench = Bench::new(&engine, 48, KvType::F16).unwrap();
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
