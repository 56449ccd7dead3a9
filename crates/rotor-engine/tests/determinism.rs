//! A token's numbers do not depend on threads, batch, chunk boundaries or a reused prefix. Bit for bit.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Expected, fixtures, logits};
use rotor::cache::{BlockPool, SequenceCache};
use rotor::engine::{Engine, GenerateOptions};
use rotor::formats::{OpenOptions, Source};
use rotor::model::{Model, Step, Wanted, Workspace};
use rotor::runtime::Runtime;
use rotor::sample::SamplingOptions;
use rotor_kernels::attention::KvType;
use rotor_kernels::{Isa, Kernels};
use std::ops::ControlFlow;

fn models(threads: usize) -> Vec<(String, Model, Vec<u32>)> {
    let isas = Isa::available().filter_map(Kernels::for_isa);
    let pairs = isas.flat_map(|kernels| fixtures().into_iter().map(move |folder| (kernels, folder)));
    pairs
        .map(|(kernels, folder)| {
            let source = Source::open(&folder, &OpenOptions::default()).unwrap();
            let model = Model::load(&source, &Runtime::with_kernels(kernels, threads), &mut |_| {}).unwrap();
            // 24 ids are one attention block; repeated they cross blocks and, in the cut, segments.
            let ids = Expected::read(&folder).ids.repeat(13);
            (format!("{folder:?} on {}", kernels.isa()), model, ids)
        })
        .collect()
}

#[test]
fn threads_and_chunk_boundaries_change_nothing() {
    for kind in [KvType::F16, KvType::Int8] {
        let reference: Vec<_> = models(1).into_iter().map(|(_, m, ids)| logits(&m, &ids, ids.len(), kind)).collect();
        for threads in [1, 2, 3] {
            for ((name, model, ids), reference) in models(threads).into_iter().zip(&reference) {
                for chunk in [1, 7, 100, ids.len()] {
                    let found = logits(&model, &ids, chunk, kind);
                    assert!(found == *reference, "{name}, {kind:?}: {threads} threads, steps of {chunk}");
                }
            }
        }
    }
}

/// Several sequences in one step, of different lengths and at different positions, give what each gives alone.
#[test]
fn company_changes_nothing() {
    for (name, model, ids) in models(2) {
        let vocab = model.config().vocab_size;
        let alone = logits(&model, &ids, ids.len(), KvType::F16);
        let mut workspace = Workspace::new(model.runtime());
        let lengths = [1, 40, 3, 17, 200];
        let mut caches: Vec<_> = lengths.map(|_| SequenceCache::new(model.config(), 300, KvType::F16)).into();
        for round in 0..3 {
            let mut steps: Vec<_> = caches
                .iter_mut()
                .zip(lengths)
                .map(|(cache, length)| {
                    let start = cache.len();
                    let tokens = if round == 0 { &ids[..length] } else { &ids[start..start + 1] };
                    Step { cache, tokens, wanted: Wanted::Last }
                })
                .collect();
            let rows = model.forward(&mut steps, &mut workspace).unwrap().to_vec();
            for (row, cache) in rows.chunks_exact(vocab).zip(&caches) {
                let last = cache.len() - 1;
                assert!(row == &alone[last * vocab..(last + 1) * vocab], "{name}: position {last}, round {round}");
            }
        }
    }
}

#[test]
fn a_reused_copied_or_shared_prefix_changes_nothing() {
    for (name, model, ids) in models(2) {
        let vocab = model.config().vocab_size;
        let fresh = logits(&model, &ids, ids.len(), KvType::F16);
        let mut workspace = Workspace::new(model.runtime());
        let pool = BlockPool::new(model.config(), KvType::F16, u64::MAX);
        let mut cache = SequenceCache::in_pool(&pool, ids.len());
        // Another continuation first: what is truncated away must leave no trace.
        let other: Vec<u32> = ids[..100].iter().copied().chain([5; 90]).collect();
        model.forward(&mut [Step { cache: &mut cache, tokens: &other, wanted: Wanted::None }], &mut workspace).unwrap();
        let common = cache.common_prefix(&ids);
        assert!((100..110).contains(&common), "{name}: {common}");
        cache.truncate(common);
        let mut copy = SequenceCache::new(model.config(), ids.len() + 50, KvType::F16);
        copy.copy_prefix(&cache, common).unwrap();
        let mut fork = cache.fork();
        for cache in [&mut cache, &mut copy, &mut fork] {
            let step = Step { cache, tokens: &ids[common..], wanted: Wanted::From(0) };
            let found = model.forward(&mut [step], &mut workspace).unwrap();
            assert!(*found == fresh[common * vocab..], "{name}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_tokens() {
    let folder = &fixtures()[0];
    let source = Source::open(folder, &OpenOptions::default()).unwrap();
    let prompt = &Expected::read(folder).ids;
    let sampling = SamplingOptions { temperature: 1.0, seed: Some(11), ..SamplingOptions::default() };
    let options = GenerateOptions { max_tokens: Some(60), sampling, ..GenerateOptions::default() };
    for kernels in Isa::available().filter_map(Kernels::for_isa) {
        let mut texts = Vec::new();
        for threads in [1, 2, 3] {
            let runtime = Runtime::with_kernels(kernels, threads);
            let engine = Engine::from_source(&source, &runtime, &mut |_| {}).unwrap();
            let mut session = engine.session(128, KvType::F16);
            for _ in 0..2 {
                let generation =
                    engine.generate(&mut session, prompt, &options, &mut |_| ControlFlow::Continue(())).unwrap();
                assert_eq!(generation.tokens.len(), 60);
                texts.push(generation.tokens);
            }
        }
        assert!(texts.windows(2).all(|pair| pair[0] == pair[1]), "{}", kernels.isa());
    }
}

#[test]
fn a_full_context_and_a_wrong_id_are_told_and_change_nothing() {
    let (_, model, ids) = models(1).remove(0);
    let mut workspace = Workspace::new(model.runtime());
    let mut cache = SequenceCache::new(model.config(), 10, KvType::F16);
    model.forward(&mut [Step { cache: &mut cache, tokens: &ids[..8], wanted: Wanted::None }], &mut workspace).unwrap();
    for (tokens, message) in [
        (&[1, 2, 3][..], "the context is full: 8 tokens are held and 3 are to follow, but there is room for 10"),
        (&[512][..], "token id 512 is out of range: the vocabulary has 512 tokens"),
    ] {
        let step = Step { cache: &mut cache, tokens, wanted: Wanted::Last };
        assert_eq!(model.forward(&mut [step], &mut workspace).unwrap_err().to_string(), message);
        assert_eq!(cache.len(), 8);
    }
}
