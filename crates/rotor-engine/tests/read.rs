//! A head that is read in part gives the tokens that the whole head gives: the same text from the same seed, however it is
//! sampled, constrained, batched and computed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{logits, runtimes};
use rotor::KvType;
use rotor::batch::{Batch, BatchOptions};
use rotor::bench::SkipCounts;
use rotor::cache::SequenceCache;
use rotor::config::Activation;
use rotor::constraint::{Allowed, Constraint, ConstraintError};
use rotor::demo;
use rotor::engine::{Engine, GenerateOptions};
use rotor::formats::{LoadOptions, OpenOptions, Read, Source};
use rotor::model::{Model, Step, Wanted, Workspace};
use rotor::plan::MemoryPlan;
use rotor::request::{Event, Request};
use rotor::runtime::Runtime;
use rotor::sample::SamplingOptions;
use rotor::synth::{Preset, SynthOptions, synthesize};

/// The built-in model, whose weights are trained.
fn engine(runtime: &Runtime, read: Read) -> Engine {
    let load = LoadOptions { read, ..LoadOptions::default() };
    let source = demo::open(&OpenOptions { load, ..OpenOptions::default() }).unwrap();
    let engine = Engine::from_source(&source, runtime, &mut |_| {}).unwrap();
    let plan = MemoryPlan::of(&source, &runtime.choice).unwrap();
    assert_eq!((plan.weights(), plan.sketch > 0), (engine.model().weight_bytes() as u64, read == Read::Least));
    engine
}

/// Allows another part of the vocabulary after each token.
#[derive(Clone, Debug)]
struct Parts(u32);

impl Constraint for Parts {
    fn mask(&mut self, logits: &mut [f32]) -> Result<Allowed, ConstraintError> {
        let parts = 2 + self.0 % 40;
        let others = (0u32..).zip(logits).filter(|(token, _)| (token * 7).wrapping_add(self.0) % parts != 0);
        others.for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
        Ok(Allowed::Some)
    }

    fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        self.0 = self.0.wrapping_mul(31).wrapping_add(token);
        Ok(())
    }

    fn roll_back(&mut self, _: usize) -> Result<(), ConstraintError> {
        Ok(())
    }

    fn fork(&self) -> Option<Box<dyn Constraint>> {
        Some(Box::new(self.clone()))
    }
}

fn sampling(random: &mut fastrand::Rng, vocab: u32) -> SamplingOptions {
    let mut one_of = |choices: &[f32]| choices[random.usize(0..choices.len())];
    let (temperature, top_p) = (one_of(&[0.0, 0.0, 0.2, 0.8, 1.5]), one_of(&[1.0, 0.95]));
    let (min_p, repeat_penalty) = (one_of(&[0.0, 0.05, 0.3]), one_of(&[1.0, 1.0, 1.1, 1.4]));
    let (presence_penalty, frequency_penalty) = (one_of(&[0.0, 0.6]), one_of(&[0.0, 0.4, -0.2]));
    let bias: Vec<(u32, f32)> =
        (0..3).map(|_| (random.u32(0..vocab), [-100.0, 2.0, f32::NEG_INFINITY][random.usize(0..3)])).collect();
    SamplingOptions {
        temperature,
        top_k: [1, 5, 40, 40, 0][random.usize(0..5)],
        top_p,
        min_p,
        repeat_penalty,
        repeat_last_n: [64, 0, usize::MAX][random.usize(0..3)],
        presence_penalty,
        frequency_penalty,
        logit_bias: if random.usize(0..3) == 0 { bias } else { Vec::new() },
        seed: Some(random.u64(..)),
    }
}

/// What one request asks.
#[derive(Clone, Debug)]
struct Asked {
    prompt: Vec<u32>,
    options: GenerateOptions,
    constraint: Option<Parts>,
    logprobs: Option<usize>,
    choices: usize,
}

impl Asked {
    fn random(random: &mut fastrand::Rng, vocab: u32) -> Asked {
        let sampling = sampling(random, vocab);
        let options = GenerateOptions {
            max_tokens: Some(random.usize(1..16)),
            sampling,
            ignore_eos: random.bool(),
            ..GenerateOptions::default()
        };
        Asked {
            prompt: (0..random.usize(1..12)).map(|_| random.u32(0..vocab)).collect(),
            options,
            constraint: (random.usize(0..3) == 0).then(|| Parts(random.u32(..))),
            logprobs: (random.usize(0..10) == 0).then_some(3),
            choices: [1, 1, 1, 3][random.usize(0..4)],
        }
    }

    fn request(&self) -> Request {
        let constraint = self.constraint.clone().map(|parts| Box::new(parts) as Box<dyn Constraint>);
        let request = Request::new(self.prompt.clone(), self.options.clone());
        Request { constraint, logprobs: self.logprobs, choices: self.choices, ..request }
    }
}

/// The tokens of every choice of every request, computed together.
fn tokens(engine: &Engine, batch: &mut Batch, asked: &[Asked]) -> Vec<(usize, usize, Vec<u32>)> {
    let ids: Vec<_> = asked.iter().map(|asked| engine.submit(batch, asked.request()).unwrap()).collect();
    let mut ends = Vec::new();
    while !batch.is_idle() {
        for (id, event) in batch.step(engine.model()) {
            let request = ids.iter().position(|other| *other == id).unwrap();
            match event {
                Event::Finished(finished) => ends.push((request, finished.choice, finished.generation.tokens)),
                Event::Failed { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
    }
    ends.sort();
    ends
}

/// Compares so many decodes, a few at a time, on every ISA in turn and one or two threads; returns the share of the head's rows
/// that were multiplied exactly.
fn compare(decodes: usize, seed: u64) -> f64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let runtimes = runtimes();
    let share = runtimes.len() as f64;
    let (mut most, mut done): (f64, usize) = (0.0, 0);
    for (which, runtime) in runtimes.into_iter().enumerate() {
        let (mut least, mut all) = (engine(&runtime, Read::Least), engine(&runtime, Read::All));
        assert!(least.model().sketch().is_some() && all.model().sketch().is_none());
        let vocab = least.model().config().vocab_size;
        let options = BatchOptions { kv_memory: Some(64 << 20), kv: KvType::F16, ..BatchOptions::new(64) };
        let (mut some, mut whole) = (least.batch(options.clone()), all.batch(options));
        while done as f64 <= (which + 1) as f64 * decodes as f64 / share {
            least.set_threads(random.usize(1..=2));
            all.set_threads(random.usize(1..=2));
            let asked: Vec<Asked> = (0..random.usize(1..5)).map(|_| Asked::random(&mut random, vocab as u32)).collect();
            let expected = tokens(&all, &mut whole, &asked);
            assert_eq!(tokens(&least, &mut some, &asked), expected, "{asked:?}");
            done += expected.len();
        }
        let counts = some.head_counts();
        assert!(counts.tokens > 0 && whole.head_counts().tokens == 0);
        let (skipped, nothing) = (some.skip_counts(), whole.skip_counts());
        let skips = runtime.kernels.can_skip() && least.model().config().hidden_act == Activation::ReluSquared;
        assert_eq!((skipped.rows > 0, skipped.columns > 0), (skips, skips));
        assert!(skipped.rows_read <= skipped.rows && skipped.columns_read <= skipped.columns);
        assert_eq!(nothing, SkipCounts::default());
        most = most.max(counts.rows as f64 / counts.tokens as f64 / vocab as f64);
    }
    most
}

#[test]
fn a_part_of_the_head_gives_the_tokens_of_all_of_it() {
    let share = compare(240, 1);
    assert!(share < 0.5, "{share} of the rows");
}

/// The same at length.
#[test]
#[ignore = "minutes: for the nightly run"]
fn ten_thousand_decodes_are_the_same() {
    let share = compare(10_000, 2);
    assert!(share < 0.5, "{share} of the rows");
}

/// Whatever the share of gates above zero, and however many tokens go together: one reads what it needs, several read it all, by
/// few at a time or many.
#[test]
fn rows_and_columns_that_meet_zeros_are_not_missed() {
    let folder = tempfile::tempdir().unwrap();
    let ids: Vec<u32> = (0..45u32).map(|i| i * i * 7 % 1000).collect();
    for (name, active_gates) in [("none", 0.0), ("few", 0.1), ("some", 0.42), ("most", 0.8), ("all", 1.0)] {
        let path = folder.path().join(format!("{name}.gguf"));
        let options = SynthOptions { active_gates: Some(active_gates), ..SynthOptions::default() };
        synthesize(Preset::Tiny, &path, &options, &mut |_, _| {}).unwrap();
        for runtime in runtimes() {
            let model = |read| {
                let load = LoadOptions { read, ..LoadOptions::default() };
                let source = Source::open(&path, &OpenOptions { load, ..OpenOptions::default() }).unwrap();
                Model::load(&source, &runtime, &mut |_| {}).unwrap()
            };
            let (least, all) = (model(Read::Least), model(Read::All));
            let skips = |model: &Model| model.kernel_names().iter().any(|name| ["fives", "fours"].contains(name));
            assert_eq!(skips(&least), runtime.kernels.can_skip());
            assert!(!skips(&all));
            let expected = logits(&all, &ids, ids.len(), KvType::F16);
            assert!(expected.iter().all(|logit| logit.is_finite()));
            for chunk in [1, 2, 3, 7, 16, 17, 45] {
                let found = logits(&least, &ids, chunk, KvType::F16);
                assert!(found == expected, "{name} on {}, {chunk} tokens at a time", runtime.kernels.isa());
            }
        }
    }
}

/// The share that was asked for is the one that is met.
#[test]
fn as_many_gates_are_active_as_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let ids: Vec<u32> = (0..20u32).map(|i| i * 31 % 1000).collect();
    let Some(runtime) = runtimes().into_iter().find(|runtime| runtime.kernels.can_skip()) else { return };
    for share in [0.0, 0.25, 0.42] {
        let path = folder.path().join(format!("{share}.gguf"));
        let options = SynthOptions { active_gates: Some(share), ..SynthOptions::default() };
        synthesize(Preset::Tiny, &path, &options, &mut |_, _| {}).unwrap();
        let load = LoadOptions { read: Read::Least, ..LoadOptions::default() };
        let source = Source::open(&path, &OpenOptions { load, ..OpenOptions::default() }).unwrap();
        let model = Model::load(&source, &runtime, &mut |_| {}).unwrap();
        let counts = skip_counts(&model, &ids);
        let (rows, columns) = (counts.rows_read as f64, counts.columns_read as f64);
        assert!((rows / counts.rows as f64 - f64::from(share)).abs() < 0.04, "{share}: {counts:?}");
        assert!(columns / counts.columns as f64 <= f64::from(share) + 0.04, "{share}: {counts:?}");
    }
}

/// What one token after the other reads.
fn skip_counts(model: &Model, ids: &[u32]) -> SkipCounts {
    let mut cache = SequenceCache::new(model.config(), ids.len(), KvType::F16);
    let mut workspace = Workspace::new(model.runtime());
    for id in ids {
        let step = Step { cache: &mut cache, tokens: &[*id], wanted: Wanted::Last };
        model.hidden(&mut [step], &mut workspace).unwrap();
    }
    workspace.skip_counts()
}
