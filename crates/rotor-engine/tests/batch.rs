//! Sequences that share steps, memory and beginnings give what each gives alone. Bit for bit.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Expected, fixtures};
use rotor::KvType;
use rotor::batch::{Batch, BatchOptions, RequestId, SequenceState};
use rotor::constraint::{Allowed, Constraint, ConstraintError};
use rotor::engine::{Engine, FinishReason, GenerateOptions, Generation};
use rotor::formats::{OpenOptions, Source};
use rotor::grammar::{Grammar, Grammars};
use rotor::request::{EmbedRequest, Event, Finished, Pooling, Request, Token};
use rotor::runtime::Runtime;
use rotor::sample::SamplingOptions;
use rotor::speculate::Speculate;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

/// The engine of a fixture, and the ids that its expected logits are of.
fn engine(fixture: usize, threads: usize) -> (Engine, Vec<u32>) {
    let folder = &fixtures()[fixture];
    let source = Source::open(folder, &OpenOptions::default()).unwrap();
    let engine = Engine::from_source(&source, &Runtime::new(threads).unwrap(), &mut |_| {}).unwrap();
    (engine, Expected::read(folder).ids)
}

/// Notes the logits that each token is chosen from, and allows everything.
#[derive(Clone, Debug, Default)]
struct Witness(Arc<Mutex<Vec<u64>>>);

impl Constraint for Witness {
    fn mask(&mut self, logits: &mut [f32]) -> Result<Allowed, ConstraintError> {
        let mut hasher = DefaultHasher::new();
        logits.iter().for_each(|logit| logit.to_bits().hash(&mut hasher));
        self.0.lock().unwrap().push(hasher.finish());
        Ok(Allowed::Some)
    }

    fn accept(&mut self, _: u32) -> Result<(), ConstraintError> {
        Ok(())
    }

    fn roll_back(&mut self, _: usize) -> Result<(), ConstraintError> {
        Ok(())
    }

    fn fork(&self) -> Option<Box<dyn Constraint>> {
        Some(Box::new(self.clone()))
    }
}

/// Tokens, and what they were chosen from.
type Chosen = (Vec<u32>, Vec<u64>);

/// What was asked, and can be asked again.
#[derive(Clone, Debug)]
struct Asked {
    prompt: Vec<u32>,
    options: GenerateOptions,
}

impl Asked {
    fn request(&self, witness: &Witness) -> Request {
        let constraint: Option<Box<dyn Constraint>> = Some(Box::new(witness.clone()));
        Request { constraint, ..Request::new(self.prompt.clone(), self.options.clone()) }
    }

    /// Tokens and the logits they were chosen from, in a batch of its own.
    fn alone(&self, engine: &Engine) -> Chosen {
        let witness = Witness::default();
        let mut batch = engine.batch(BatchOptions { sequences: 1, speculate: Speculate::Off, ..options() });
        engine.submit(&mut batch, self.request(&witness)).unwrap();
        let finished = run(engine, &mut batch, |_| {}).pop().unwrap().1;
        let logits = witness.0.lock().unwrap().clone();
        (finished.generation.tokens, logits)
    }
}

fn options() -> BatchOptions {
    BatchOptions { kv_memory: Some(64 << 20), ..BatchOptions::new(512) }
}

/// Prompts of all lengths, of which some begin alike, greedy and sampled.
fn ragged(ids: &[u32], count: usize, seed: u64) -> Vec<Asked> {
    let mut random = fastrand::Rng::with_seed(seed);
    let long = ids.repeat(13);
    let mut asked = |index: usize| {
        let mut prompt: Vec<u32> = match index % 3 {
            0 => long[..random.usize(1..40)].to_vec(),
            1 => long[..random.usize(100..290)].to_vec(),
            _ => (0..random.usize(1..150)).map(|_| random.u32(3..500)).collect(),
        };
        prompt.push(random.u32(3..500));
        let temperature = if index.is_multiple_of(2) { 0.0 } else { 0.9 };
        let sampling = SamplingOptions {
            temperature,
            top_k: 40,
            repeat_penalty: 1.1,
            seed: Some(random.u64(..)),
            ..SamplingOptions::default()
        };
        let max_tokens = Some(random.usize(1..40));
        Asked { prompt, options: GenerateOptions { max_tokens, sampling, ignore_eos: true, ..Default::default() } }
    };
    (0..count).map(&mut asked).collect()
}

/// Steps until nothing is left, letting `between` interfere after each step; returns the ends of all choices.
fn run(engine: &Engine, batch: &mut Batch, mut between: impl FnMut(&mut Batch)) -> Vec<(RequestId, Finished)> {
    let mut finished = Vec::new();
    for _ in 0..100_000 {
        if batch.is_idle() {
            return finished;
        }
        for (id, event) in batch.step(engine.model()) {
            match event {
                Event::Finished(end) => finished.push((id, end)),
                Event::Failed { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
        between(batch);
    }
    panic!("the batch does not come to an end: {:?}", batch.statistics());
}

/// All of them in one batch, arriving between steps; what each gave and from which logits.
fn together(
    engine: &Engine,
    asked: &[Asked],
    options: BatchOptions,
    seed: u64,
    mut between: impl FnMut(&mut Batch, &mut fastrand::Rng),
) -> (Vec<Chosen>, Batch) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut batch = engine.batch(options);
    let witnesses: Vec<Witness> = asked.iter().map(|_| Witness::default()).collect();
    let mut submitted = HashMap::new();
    let mut next = 0;
    let mut ends = Vec::new();
    while next < asked.len() || !batch.is_idle() {
        while next < asked.len() && (batch.is_idle() || random.bool()) {
            submitted.insert(engine.submit(&mut batch, asked[next].request(&witnesses[next])).unwrap(), next);
            next += 1;
        }
        for (id, event) in batch.step(engine.model()) {
            match event {
                Event::Finished(end) => ends.push((id, end)),
                Event::Failed { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
        between(&mut batch, &mut random);
    }
    let mut found = vec![(Vec::new(), Vec::new()); asked.len()];
    for (id, end) in ends {
        let index = submitted[&id];
        found[index] = (end.generation.tokens, witnesses[index].0.lock().unwrap().clone());
    }
    (found, batch)
}

#[test]
fn every_sequence_of_a_batch_gives_what_it_gives_alone() {
    for fixture in 0..fixtures().len() {
        let (engine, ids) = engine(fixture, 2);
        let counts = if fixture == 0 { (1..=16).collect() } else { vec![1, 5, 16] };
        for (round, count) in counts.into_iter().enumerate() {
            let asked = ragged(&ids, count, 100 + round as u64);
            let alone: Vec<_> = asked.iter().map(|asked| asked.alone(&engine)).collect();
            let (found, _) = together(&engine, &asked, options(), round as u64, |_, _| {});
            for (index, (found, alone)) in found.iter().zip(&alone).enumerate() {
                assert!(found == alone, "fixture {fixture}: sequence {index} of {count}");
            }
        }
    }
}

#[test]
fn cancelled_preempted_and_crowded_out_neighbours_change_nothing() {
    let (engine, ids) = engine(0, 2);
    for seed in 0..6 {
        let asked = ragged(&ids, 12, 200 + seed);
        let alone: Vec<_> = asked.iter().map(|asked| asked.alone(&engine)).collect();
        // Little more memory than the longest needs, half of the time.
        let bytes = rotor::cache::block_bytes(engine.model().config(), KvType::F16);
        let kv_memory = Some(bytes * if seed.is_multiple_of(2) { 7 } else { 64 });
        let chunk = [3, 64, 512][seed as usize % 3];
        let options = BatchOptions { kv_memory, chunk, chunk_beside: chunk.min(64), sequences: 6, ..options() };
        let victim = Asked { prompt: ids.repeat(8), options: GenerateOptions::default() };
        let (found, batch) = together(&engine, &asked, options, seed, |batch, random| {
            if random.u8(..4) == 0 && batch.statistics().running > 1 {
                batch.preempt();
            }
            if random.u8(..3) == 0 {
                // A neighbour that comes, computes a little, and is broken off.
                let id = engine.submit(batch, Request { ..victim.request(&Witness::default()) }).unwrap_or_else(|_| {
                    let short = Asked {
                        prompt: ids[..5].to_vec(),
                        options: GenerateOptions { max_tokens: Some(9), ..Default::default() },
                    };
                    engine.submit(batch, short.request(&Witness::default())).unwrap()
                });
                batch.step(engine.model()).into_iter().for_each(drop);
                let ends = batch.cancel(id);
                assert!(ends.iter().all(|end| matches!(end, Event::Finished(end)
                    if end.generation.finish_reason == FinishReason::Cancelled)));
            }
        });
        // Steps beside the cancelled neighbour dropped some ends: those are not compared.
        let complete = found.iter().zip(&alone).filter(|(found, _)| !found.0.is_empty());
        for (found, alone) in complete {
            assert!(found == alone, "seed {seed}");
        }
        assert!(batch.statistics().counts.preemptions > 0);
    }
}

/// Whoever is youngest gives way after every single step, whole prompts included.
#[test]
fn giving_way_at_every_step_changes_nothing() {
    let (engine, ids) = engine(1, 1);
    let asked = ragged(&ids, 8, 7);
    let alone: Vec<_> = asked.iter().map(|asked| asked.alone(&engine)).collect();
    for kept in [true, false] {
        let (found, batch) = together(&engine, &asked, options(), 1, |batch, _| {
            if batch.statistics().running > 1 {
                batch.preempt();
            }
            if !kept {
                batch.forget();
            }
        });
        assert!(found == alone, "beginnings are kept: {kept}");
        let counts = batch.statistics().counts;
        assert!(counts.preemptions * 2 > counts.steps, "{counts:?}");
    }
}

#[test]
fn memory_that_holds_one_sequence_serves_many() {
    let (engine, ids) = engine(0, 1);
    let asked = ragged(&ids, 10, 31);
    let alone: Vec<_> = asked.iter().map(|asked| asked.alone(&engine)).collect();
    let longest = asked.iter().map(|asked| asked.prompt.len() + asked.options.max_tokens.unwrap()).max().unwrap();
    let bytes = rotor::cache::block_bytes(engine.model().config(), KvType::F16);
    let kv_memory = Some(bytes * longest.div_ceil(64) as u64);
    let (found, batch) = together(&engine, &asked, BatchOptions { kv_memory, ..options() }, 3, |batch, _| {
        let statistics = batch.statistics();
        assert!(statistics.used_blocks <= statistics.blocks, "{statistics:?}");
    });
    assert!(found == alone);
    let mut batch = batch;
    let too_long = GenerateOptions { max_tokens: Some(500), ..GenerateOptions::default() };
    let error = engine.submit(&mut batch, Request::new(vec![5; 400], too_long)).unwrap_err();
    assert!(error.to_string().contains("raise --kv-memory"), "{error}");
    batch.forget();
    assert_eq!(batch.statistics().used_blocks, 0);
}

/// Guesses are computed whether they pay or not, right and wrong ones, with little memory and neighbours that give way.
#[test]
fn drafts_change_no_token_and_no_logit() {
    let (mut computed, mut chosen) = (0, 0);
    for fixture in 0..fixtures().len() {
        let (engine, ids) = engine(fixture, 2);
        for seed in 0..4 {
            let mut asked = ragged(&ids, 9, 300 + seed);
            let mut random = fastrand::Rng::with_seed(seed);
            for asked in &mut asked {
                vary(&mut asked.options.sampling, &mut random);
            }
            let alone: Vec<_> = asked.iter().map(|asked| asked.alone(&engine)).collect();
            let bytes = rotor::cache::block_bytes(engine.model().config(), KvType::F16);
            let kv_memory = Some(bytes * if seed.is_multiple_of(2) { 7 } else { 64 });
            let options = BatchOptions { speculate: Speculate::LookupAlways, kv_memory, sequences: 4, ..options() };
            let (found, batch) = together(&engine, &asked, options, seed, |batch, random| {
                if random.u8(..6) == 0 && batch.statistics().running > 1 {
                    batch.preempt();
                }
            });
            for (index, (found, alone)) in found.iter().zip(&alone).enumerate() {
                assert!(found == alone, "fixture {fixture}, seed {seed}: sequence {index}");
            }
            computed += batch.statistics().counts.draft_tokens;
            chosen += batch.statistics().counts.accepted_tokens;
        }
    }
    assert!(computed > 500 && chosen > 50 && computed > chosen, "{chosen} of {computed}");
}

/// Other samplers than before, some of which make a text repeat itself.
fn vary(sampling: &mut SamplingOptions, random: &mut fastrand::Rng) {
    let one_in = |random: &mut fastrand::Rng, count: u8| random.u8(..count) == 0;
    *sampling = SamplingOptions {
        temperature: [0.0, 0.2, 1.0][random.usize(..3)],
        top_k: [0, 2, 40][random.usize(..3)],
        top_p: [1.0, 0.7][random.usize(..2)],
        min_p: [0.0, 0.1][random.usize(..2)],
        repeat_penalty: if one_in(random, 3) { 1.2 } else { 1.0 },
        repeat_last_n: random.usize(..40),
        presence_penalty: if one_in(random, 3) { 0.3 } else { 0.0 },
        frequency_penalty: if one_in(random, 3) { 0.2 } else { 0.0 },
        logit_bias: if one_in(random, 2) { (20..26).map(|id| (id, 8.0)).collect() } else { Vec::new() },
        seed: Some(random.u64(..)),
    };
}

/// Everything that a caller sees: pieces of text, log-probabilities, the end; under grammars, with stop strings.
#[test]
fn drafts_change_nothing_that_a_caller_sees() {
    let engine = demo();
    let tokenizer = engine.tokenizer("text").unwrap();
    let vocab_size = engine.model().config().vocab_size;
    let grammars = Grammars::new(tokenizer, vocab_size).unwrap();
    let list = r#"start: ("[" /[a-c]{1,3}/ ", " /(once|upon){1,9}/ "]\n"){2,12}"#;
    let prompt = engine.encode_prompt("Once upon a time. Once upon a time. Once upon a").unwrap();
    let mut random = fastrand::Rng::with_seed(11);
    let mut batches = [Speculate::Off, Speculate::Lookup, Speculate::LookupAlways]
        .map(|speculate| engine.batch(BatchOptions { speculate, ..options() }));
    for round in 0..40 {
        let mut sampling = SamplingOptions::default();
        vary(&mut sampling, &mut random);
        sampling.logit_bias.clear();
        let stop = if round % 5 == 0 { vec!["the".to_owned(), "upon".to_owned()] } else { Vec::new() };
        let max_tokens = Some(random.usize(1..120));
        let generate = GenerateOptions { max_tokens, sampling, stop, ..Default::default() };
        let ask = || Request {
            logprobs: Some(round % 4),
            constraint: (round % 2 == 1).then(|| grammars.constraint(&Grammar::Lark(list.into())).unwrap()),
            choices: if round % 7 == 0 { 3 } else { 1 },
            ..Request::new(prompt.clone(), generate.clone())
        };
        let seen = batches.each_mut().map(|batch| {
            engine.submit(batch, ask()).unwrap();
            seen(&engine, batch)
        });
        assert_eq!(seen[0], seen[1], "round {round}");
        assert_eq!(seen[0], seen[2], "round {round}");
    }
    let counts = batches[2].statistics().counts;
    assert!(counts.accepted_tokens > 100 && counts.accepted_tokens < counts.draft_tokens, "{counts:?}");
    assert_eq!(batches[0].statistics().counts.draft_tokens, 0);
}

/// Copied once, when a request is checked, and never again.
#[derive(Debug)]
struct OneCopy(std::sync::atomic::AtomicBool);

impl Constraint for OneCopy {
    fn mask(&mut self, _: &mut [f32]) -> Result<Allowed, ConstraintError> {
        Ok(Allowed::Some)
    }

    fn accept(&mut self, _: u32) -> Result<(), ConstraintError> {
        Ok(())
    }

    fn roll_back(&mut self, _: usize) -> Result<(), ConstraintError> {
        Ok(())
    }

    fn fork(&self) -> Option<Box<dyn Constraint>> {
        let first = self.0.swap(false, std::sync::atomic::Ordering::Relaxed);
        first.then(|| Box::new(OneCopy(false.into())) as Box<dyn Constraint>)
    }
}

/// Every choice that was asked for has an end, also where its constraint is copied no more.
#[test]
fn a_choice_that_cannot_begin_says_so() {
    let engine = demo();
    let mut batch = engine.batch(options());
    let generate = GenerateOptions { max_tokens: Some(3), ignore_eos: true, ..Default::default() };
    let constraint: Option<Box<dyn Constraint>> = Some(Box::new(OneCopy(true.into())));
    let request = Request { choices: 3, constraint, ..Request::new(vec![5, 9], generate) };
    engine.submit(&mut batch, request).unwrap();
    let ends: Vec<String> = seen(&engine, &mut batch).into_iter().map(|choice| choice.2).collect();
    assert!(ends[0].contains("Length"), "{ends:?}");
    assert!(ends[1..].iter().all(|end| end.contains("constraint")), "{ends:?}");
}

/// The same where the request is cancelled before its choices part.
#[test]
fn a_choice_that_cannot_begin_says_so_when_it_is_cancelled() {
    let engine = demo();
    let mut batch = engine.batch(options());
    let constraint: Option<Box<dyn Constraint>> = Some(Box::new(OneCopy(true.into())));
    let request = Request { choices: 3, constraint, ..Request::new(vec![5, 9], GenerateOptions::default()) };
    let id = engine.submit(&mut batch, request).unwrap();
    let ends = batch.cancel(id);
    assert!(matches!(&ends[0], Event::Finished(end) if end.choice == 0), "{ends:?}");
    let failed: Vec<usize> = ends[1..]
        .iter()
        .map(|end| match end {
            Event::Failed { choice, .. } => *choice,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(failed, [1, 2]);
}

fn demo() -> Engine {
    let source = rotor::demo::open(&OpenOptions::default()).unwrap();
    Engine::from_source(&source, &Runtime::new(2).unwrap(), &mut |_| {}).unwrap()
}

/// The tokens and the end of each choice, without times.
fn seen(engine: &Engine, batch: &mut Batch) -> Vec<(usize, Vec<Token>, String)> {
    let mut choices: Vec<(usize, Vec<Token>, String)> =
        (0..3).map(|choice| (choice, Vec::new(), String::new())).collect();
    while !batch.is_idle() {
        for (_, event) in batch.step(engine.model()) {
            match event {
                Event::Token(token) => choices[token.choice].1.push(Token { drafted: false, ..token }),
                Event::Finished(end) => {
                    let Generation { tokens, finish_reason, seed, .. } = end.generation;
                    choices[end.choice].2 = format!("{} {:?} {tokens:?} {finish_reason:?} {seed}", end.text, end.stop);
                }
                Event::Failed { choice, error } => choices[choice].2 = error.to_string(),
                _ => {}
            }
        }
    }
    choices
}

#[test]
fn a_shared_beginning_is_computed_and_held_once() {
    let (engine, ids) = engine(2, 2);
    let prefix = ids.repeat(13)[..300].to_vec();
    let ask = |last: u32| Asked {
        prompt: prefix.iter().copied().chain([last, last + 1]).collect(),
        options: GenerateOptions { max_tokens: Some(8), ignore_eos: true, ..Default::default() },
    };
    let asked: Vec<Asked> = (0..16).map(|index| ask(10 + index)).collect();
    let alone: Vec<_> = asked.iter().map(|asked| asked.alone(&engine)).collect();
    // All at once, while nothing is known.
    let mut batch = engine.batch(options());
    let witnesses: Vec<Witness> = asked.iter().map(|_| Witness::default()).collect();
    for (asked, witness) in asked.iter().zip(&witnesses) {
        engine.submit(&mut batch, asked.request(witness)).unwrap();
    }
    let mut most = 0;
    let ends = run(&engine, &mut batch, |batch| most = most.max(batch.statistics().used_blocks));
    // Four full blocks are shared; the fifth and what is generated is each one's own.
    assert!(most <= 4 + 16 * 2, "{most} blocks");
    let computed = batch.statistics().counts.prompt_tokens;
    assert!(computed < 300 + 16 * 64, "{computed} tokens of prompts were computed");
    for ((_, end), (tokens, _)) in ends.iter().zip(&alone) {
        assert_eq!(&end.generation.tokens, tokens);
    }
    for (witness, (_, logits)) in witnesses.iter().zip(&alone) {
        assert!(*witness.0.lock().unwrap() == *logits);
    }
    // Later, a request that goes on from the middle of a block.
    let again = Asked { prompt: prefix[..290].iter().copied().chain([3, 4]).collect(), ..ask(0) };
    let witness = Witness::default();
    engine.submit(&mut batch, again.request(&witness)).unwrap();
    let end = run(&engine, &mut batch, |_| {}).pop().unwrap().1;
    assert_eq!(end.generation.cached_tokens, 290);
    assert!((end.generation.tokens, witness.0.lock().unwrap().clone()) == again.alone(&engine));
}

#[test]
fn choices_share_the_prompt_and_give_what_their_seeds_give() {
    let (engine, ids) = engine(0, 1);
    let prompt = ids.repeat(5)[..100].to_vec();
    let sampling = SamplingOptions { temperature: 1.0, seed: Some(40), ..SamplingOptions::default() };
    let options = GenerateOptions { max_tokens: Some(20), sampling, ignore_eos: true, ..Default::default() };
    let mut batch = engine.batch(self::options());
    let request = Request { choices: 5, ..Request::new(prompt.clone(), options.clone()) };
    engine.submit(&mut batch, request).unwrap();
    let mut most = 0;
    let ends = run(&engine, &mut batch, |batch| most = most.max(batch.statistics().used_blocks));
    assert_eq!(ends.len(), 5);
    assert_eq!(batch.statistics().counts.prompt_tokens, 100);
    assert!(most <= 1 + 5 + 1, "{most} blocks");
    for (_, end) in ends {
        let seed = Some(40 + end.choice as u64);
        let sampling = SamplingOptions { seed, ..options.sampling.clone() };
        let asked = Asked { prompt: prompt.clone(), options: GenerateOptions { sampling, ..options.clone() } };
        assert_eq!(end.generation.tokens, asked.alone(&engine).0, "choice {}", end.choice);
    }
}

/// Fails at the third token.
#[derive(Debug)]
struct Fails(usize);

impl Constraint for Fails {
    fn mask(&mut self, logits: &mut [f32]) -> Result<Allowed, ConstraintError> {
        logits[7] = f32::NEG_INFINITY;
        Ok(Allowed::Some)
    }

    fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        assert_ne!(token, 7);
        self.0 += 1;
        if self.0 == 3 { Err(ConstraintError("three is too many".into())) } else { Ok(()) }
    }

    fn roll_back(&mut self, _: usize) -> Result<(), ConstraintError> {
        Ok(())
    }

    fn fork(&self) -> Option<Box<dyn Constraint>> {
        None
    }
}

#[test]
fn the_error_of_one_sequence_is_its_own() {
    let (engine, ids) = engine(0, 1);
    let asked = ragged(&ids, 2, 9);
    let mut batch = engine.batch(options());
    let good = engine.submit(&mut batch, asked[0].request(&Witness::default())).unwrap();
    let request = || Request::new(vec![4, 5], GenerateOptions { ignore_eos: true, ..Default::default() });
    let bad = engine.submit(&mut batch, Request { constraint: Some(Box::new(Fails(0))), ..request() }).unwrap();
    let (mut failed, mut finished) = (Vec::new(), Vec::new());
    while !batch.is_idle() {
        for (id, event) in batch.step(engine.model()) {
            match event {
                Event::Failed { error, .. } => failed.push((id, error.to_string())),
                Event::Finished(end) => finished.push((id, end.generation.tokens)),
                _ => {}
            }
        }
    }
    assert_eq!(failed, [(bad, "the constraint cannot be kept: three is too many".to_owned())]);
    assert_eq!(finished, [(good, asked[0].alone(&engine).0)]);
    let choices = Request { constraint: Some(Box::new(Fails(0))), choices: 2, ..request() };
    let told = engine.submit(&mut batch, choices).unwrap_err().to_string();
    assert_eq!(told, "several choices are asked for under a constraint that cannot be copied");
    for choices in [0, 17] {
        let told = engine.submit(&mut batch, Request { choices, ..request() }).unwrap_err().to_string();
        assert_eq!(
            told,
            format!("{choices} choices are asked for, but from 1 to 16 sequences can be computed together")
        );
    }
}

#[test]
fn an_embedding_is_the_mean_of_the_hidden_states_whoever_is_beside() {
    let (engine, ids) = engine(3, 2);
    let tokens = ids.repeat(6);
    let embed = |batch: &mut Batch, pooling, normalize| {
        let tokens = tokens.clone();
        let id = batch.add_embedding(EmbedRequest { tokens, pooling, normalize }).unwrap();
        let mut found = None;
        for _ in 0..1000 {
            for (other, event) in batch.step(engine.model()) {
                if let Event::Embedding(embedding) = event {
                    assert_eq!(other, id);
                    found = Some(embedding);
                }
            }
            if found.is_some() {
                break;
            }
        }
        found.unwrap()
    };
    let alone = embed(&mut engine.batch(options()), Pooling::Mean, false);
    let mut batch = engine.batch(BatchOptions { chunk: 50, chunk_beside: 9, ..options() });
    for asked in ragged(&ids, 4, 77) {
        engine.submit(&mut batch, asked.request(&Witness::default())).unwrap();
    }
    assert!(embed(&mut batch, Pooling::Mean, false) == alone);
    let normal = embed(&mut batch, Pooling::Mean, true);
    let length: f32 = alone.iter().map(|value| value * value).sum::<f32>().sqrt();
    assert!(alone.iter().zip(&normal).all(|(value, normal)| (value / length - normal).abs() < 1e-6));
    assert_ne!(embed(&mut batch, Pooling::Last, false), embed(&mut batch, Pooling::First, false));
}

#[test]
fn a_short_prompt_does_not_wait_for_a_long_one_and_tokens_wait_for_a_chunk_at_most() {
    let (engine, ids) = engine(0, 1);
    let mut batch = engine.batch(BatchOptions { kv_memory: Some(64 << 20), ..BatchOptions::new(4000) });
    let options = |max_tokens| GenerateOptions { max_tokens: Some(max_tokens), ignore_eos: true, ..Default::default() };
    let first = engine.submit(&mut batch, Request::new(ids[..4].to_vec(), options(200))).unwrap();
    batch.step(engine.model());
    let long = engine.submit(&mut batch, Request::new(ids.repeat(100), options(2))).unwrap();
    batch.step(engine.model());
    let short = engine.submit(&mut batch, Request::new(vec![9; 20], options(2))).unwrap();
    let mut steps_of_short = 0;
    loop {
        let before = batch.statistics().counts.prompt_tokens;
        let events = batch.step(engine.model());
        steps_of_short += 1;
        assert!(batch.statistics().counts.prompt_tokens - before <= batch.options().chunk_beside as u64);
        assert!(events.iter().any(|(id, event)| *id == first && matches!(event, Event::Token(_))));
        if events.iter().any(|(id, event)| *id == short && matches!(event, Event::Token(_))) {
            break;
        }
    }
    assert_eq!(steps_of_short, 1);
    let state = batch.statistics().sequences.into_iter().find(|sequence| sequence.request == long).unwrap();
    assert_eq!((state.state, state.prompt_tokens), (SequenceState::Prompt, 2400));
    assert!(state.computed_tokens >= 64);
}

/// What short requests leave behind is bounded by the budget, and what a long one took goes back.
#[test]
fn memory_is_level_over_many_requests() {
    let (engine, ids) = engine(0, 1);
    let bytes = rotor::cache::block_bytes(engine.model().config(), KvType::F16);
    let options = BatchOptions { kv_memory: Some(20 * bytes), ..BatchOptions::new(1200) };
    let mut batch = engine.batch(options);
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..300 {
        let prompt = (0..random.usize(1..100)).map(|_| random.u32(3..500)).collect();
        let options = GenerateOptions { max_tokens: Some(2), ..Default::default() };
        engine.submit(&mut batch, Request::new(prompt, options)).unwrap();
        run(&engine, &mut batch, |_| {});
        assert!(batch.statistics().used_blocks <= 20);
    }
    assert!(batch.statistics().kept_blocks >= 15, "{:?}", batch.statistics());
    let options = GenerateOptions { max_tokens: Some(2), ignore_eos: true, ..Default::default() };
    engine.submit(&mut batch, Request::new(ids.repeat(48), options)).unwrap();
    run(&engine, &mut batch, |_| {});
    batch.forget();
    assert_eq!((batch.statistics().used_blocks, batch.statistics().kept_blocks), (0, 0));
}

/// Resident bytes of this process.
#[cfg(target_os = "linux")]
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

/// Takes minutes: `cargo test --test batch -- --ignored --nocapture`, by itself.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "takes minutes"]
fn resident_memory_is_level_over_100_000_requests_and_falls_after_a_long_context() {
    let (engine, ids) = engine(0, 2);
    let ask = |batch: &mut Batch, prompt: Vec<u32>| {
        let options = GenerateOptions { max_tokens: Some(2), ignore_eos: true, ..Default::default() };
        engine.submit(batch, Request::new(prompt, options)).unwrap();
    };
    let mut batch = engine.batch(BatchOptions { kv_memory: Some(16 << 20), ..BatchOptions::new(512) });
    let mut random = fastrand::Rng::with_seed(6);
    let mut early = 0;
    for request in 0..100_000 {
        ask(&mut batch, (0..random.usize(1..30)).map(|_| random.u32(3..500)).collect());
        if request % 8 == 7 {
            run(&engine, &mut batch, |_| {});
        }
        if request == 20_000 {
            early = resident();
        }
    }
    let late = resident();
    println!("resident after 20,000 requests: {early} bytes, after 100,000: {late} bytes");
    assert!(late < early + (2 << 20));
    drop(batch);

    let mut batch = engine.batch(BatchOptions { kv_memory: Some(1 << 30), ..BatchOptions::new(32 << 10) });
    ask(&mut batch, ids.clone());
    run(&engine, &mut batch, |_| {});
    batch.forget();
    let before = resident();
    ask(&mut batch, ids.repeat(1365));
    run(&engine, &mut batch, |_| {});
    let full = resident();
    let used = batch.statistics().used_blocks as u64 * batch.statistics().block_bytes;
    batch.forget();
    let after = resident();
    println!(
        "resident before 32,760 tokens: {before} bytes, with them: {full}, of which blocks {used}, after: {after}"
    );
    assert!(full - after > used / 10 * 9 - (1 << 20), "the blocks went back");
}
