//! The thread that owns a batch: what comes out of it, and what becomes of those who leave.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Expected, fixtures};
use rotor::actor::{Actor, ActorOptions, Events, SubmitError};
use rotor::batch::{BatchOptions, Statistics};
use rotor::constraint::{Allowed, Constraint, ConstraintError};
use rotor::engine::{Engine, FinishReason, GenerateOptions};
use rotor::formats::{OpenOptions, Source};
use rotor::request::{EmbedRequest, Event, Finished, Pooling, Request};
use rotor::runtime::Runtime;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn engine() -> (Arc<Engine>, Vec<u32>) {
    let folder = &fixtures()[0];
    let source = Source::open(folder, &OpenOptions::default()).unwrap();
    let engine = Engine::from_source(&source, &Runtime::new(1).unwrap(), &mut |_| {}).unwrap();
    (engine.into(), Expected::read(folder).ids)
}

fn options() -> ActorOptions {
    ActorOptions::new(BatchOptions { kv_memory: Some(64 << 20), ..BatchOptions::new(512) })
}

fn request(prompt: &[u32], max_tokens: usize) -> Request {
    let options = GenerateOptions { max_tokens: Some(max_tokens), ignore_eos: true, ..GenerateOptions::default() };
    Request::new(prompt.to_vec(), options)
}

fn end(events: &mut Events) -> Finished {
    while let Some(event) = events.next_blocking() {
        if let Event::Finished(end) = event {
            assert!(events.next_blocking().is_none() && events.ended());
            return end;
        }
    }
    panic!("no end came");
}

/// Stops whoever chooses a token under it until it is opened.
#[derive(Debug)]
struct Gate {
    reached: Sender<()>,
    open: Mutex<Receiver<()>>,
}

impl Gate {
    /// The gate, what tells that it was reached, and what opens it.
    fn new() -> (Gate, Receiver<()>, Sender<()>) {
        let ((reached, was_reached), (opener, open)) = (channel(), channel());
        (Gate { reached, open: open.into() }, was_reached, opener)
    }
}

impl Constraint for Gate {
    fn mask(&mut self, _: &mut [f32]) -> Result<Allowed, ConstraintError> {
        self.reached.send(()).unwrap();
        self.open.lock().unwrap().recv().unwrap();
        Ok(Allowed::Some)
    }

    fn accept(&mut self, _: u32) -> Result<(), ConstraintError> {
        Ok(())
    }

    fn roll_back(&mut self, _: usize) -> Result<(), ConstraintError> {
        Ok(())
    }

    fn fork(&self) -> Option<Box<dyn Constraint>> {
        None
    }
}

/// Waits until the statistics are as wanted; the thread gets there by itself or the test fails.
fn wait_for(actor: &Actor, wanted: impl Fn(&Statistics) -> bool) -> Statistics {
    for _ in 0..20_000 {
        let statistics = actor.statistics();
        if wanted(&statistics) {
            return statistics;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("this did not come: {:?}", actor.statistics());
}

#[test]
fn threads_share_steps_and_get_what_they_would_get_alone() {
    let (engine, ids) = engine();
    let actor = Actor::start(Arc::clone(&engine), options()).unwrap();
    std::thread::scope(|scope| {
        for thread in 1..9 {
            let (actor, engine, prompt) = (actor.clone(), &engine, ids[..thread * 2].to_vec());
            scope.spawn(move || {
                let end = end(&mut actor.submit(request(&prompt, 30)).unwrap());
                let options = request(&prompt, 30).options;
                let mut session = engine.session(512, rotor::KvType::F16);
                let alone = engine.generate(&mut session, &prompt, &options, &mut |_| ControlFlow::Continue(()));
                assert_eq!(end.generation.tokens, alone.unwrap().tokens);
                assert_eq!(end.generation.finish_reason, FinishReason::Length);
            });
        }
    });
    let statistics = wait_for(&actor, |statistics| statistics.running == 0);
    assert_eq!(statistics.counts.generated_tokens, 8 * 30);
    assert_eq!(statistics.waiting, 0);
}

#[test]
fn one_who_leaves_frees_its_sequence_and_one_who_cancels_is_told() {
    let (engine, ids) = engine();
    let actor = Actor::start(engine, options()).unwrap();
    let mut gone = actor.submit(request(&ids, 480)).unwrap();
    assert!(matches!(gone.next_blocking(), Some(Event::Prompt { .. })));
    let mut cancelled = actor.submit(request(&ids, 480)).unwrap();
    wait_for(&actor, |statistics| statistics.running == 2);
    drop(gone);
    wait_for(&actor, |statistics| statistics.running == 1);
    cancelled.cancel();
    let end = end(&mut cancelled);
    assert_eq!(end.generation.finish_reason, FinishReason::Cancelled);
    assert!(end.generation.tokens.len() < 480);
    wait_for(&actor, |statistics| statistics.running == 0);
}

#[test]
fn events_that_nobody_takes_hold_up_nobody_else() {
    let (engine, ids) = engine();
    let actor = Actor::start(engine, ActorOptions { events: 4, ..options() }).unwrap();
    let mut slow = actor.submit(request(&ids, 100)).unwrap();
    let mut other = actor.submit(request(&ids[..3], 100)).unwrap();
    assert_eq!(end(&mut other).generation.tokens.len(), 100);
    let held = wait_for(&actor, |statistics| statistics.running == 1);
    assert!(held.sequences[0].generated_tokens < 10, "{held:?}");
    let end = end(&mut slow);
    assert_eq!((end.generation.tokens.len(), end.generation.finish_reason), (100, FinishReason::Length));
}

#[test]
fn a_full_queue_and_a_wrong_request_are_told_at_once() {
    let (engine, ids) = engine();
    let actor = Actor::start(engine, ActorOptions { queue: 2, ..options() }).unwrap();
    // The first one stops the thread in the middle of a step, so that nothing is taken out of the queue.
    let (gate, reached, open) = Gate::new();
    let constraint: Option<Box<dyn Constraint>> = Some(Box::new(gate));
    let mut running = actor.submit(Request { constraint, ..request(&ids, 1) }).unwrap();
    reached.recv().unwrap();
    let mut waiting = [actor.submit(request(&ids, 1)).unwrap(), actor.submit(request(&ids, 1)).unwrap()];
    let full = actor.submit(request(&ids, 1)).unwrap_err();
    assert!(matches!(full, SubmitError::QueueFull { waiting: 2 }), "{full}");
    assert_eq!(actor.statistics().waiting, 2);
    for (prompt, told) in [
        (vec![], "the prompt is empty, and the model has no beginning-of-sequence token to start from"),
        (vec![5; 512], "the prompt has 512 tokens, but the context holds 512: shorten it, or raise --ctx"),
        (vec![1, 512], "token id 512 is out of range: the vocabulary has 512 tokens"),
    ] {
        assert_eq!(actor.submit(request(&prompt, 1)).unwrap_err().to_string(), told);
    }
    open.send(()).unwrap();
    for events in waiting.iter_mut().chain([&mut running]) {
        assert_eq!(end(events).generation.tokens.len(), 1);
    }
}

#[test]
fn more_streams_than_places_can_be_read_in_turn() {
    let (engine, ids) = engine();
    let batch = BatchOptions { sequences: 2, ..options().batch };
    let actor = Actor::start(Arc::clone(&engine), ActorOptions { events: 2, batch, ..options() }).unwrap();
    let prompts: Vec<&[u32]> = (1..8).map(|length| &ids[..length]).collect();
    let mut streams: Vec<Events> = prompts.iter().map(|prompt| actor.submit(request(prompt, 100)).unwrap()).collect();
    let mut found = vec![Vec::new(); streams.len()];
    while streams.iter().any(|events| !events.ended()) {
        for (events, found) in streams.iter_mut().zip(&mut found) {
            match events.next_blocking() {
                Some(Event::Token(token)) => found.push(token.id),
                Some(Event::Failed { error, .. }) => panic!("{error}"),
                _ => {}
            }
        }
    }
    for (prompt, found) in prompts.iter().zip(found) {
        let mut session = engine.session(512, rotor::KvType::F16);
        let options = request(prompt, 100).options;
        let alone = engine.generate(&mut session, prompt, &options, &mut |_| ControlFlow::Continue(()));
        assert_eq!(found, alone.unwrap().tokens);
    }
    assert!(actor.statistics().counts.preemptions > 0);
}

#[test]
fn a_shutdown_ends_everything_and_the_last_handle_lets_everything_end() {
    let (engine, ids) = engine();
    let actor = Actor::start(Arc::clone(&engine), options()).unwrap();
    let mut events = actor.submit(request(&ids, 480)).unwrap();
    actor.shutdown();
    while events.next_blocking().is_some() {}
    assert!(!events.ended());
    assert!(matches!(actor.submit(request(&ids, 1)).unwrap_err(), SubmitError::Stopped));

    let actor = Actor::start(engine, options()).unwrap();
    let mut events = actor.submit(request(&ids, 40)).unwrap();
    drop(actor);
    assert_eq!(end(&mut events).generation.tokens.len(), 40);
}

#[test]
fn embeddings_come_the_same_way() {
    let (engine, ids) = engine();
    let hidden = engine.model().config().hidden_size;
    let actor = Actor::start(engine, options()).unwrap();
    let mut events = actor.embed(EmbedRequest { tokens: ids, pooling: Pooling::Mean, normalize: true }).unwrap();
    let mut found = None;
    while let Some(event) = events.next_blocking() {
        if let Event::Embedding(embedding) = event {
            found = Some(embedding);
        }
    }
    assert!(events.ended());
    let found = found.unwrap();
    assert_eq!(found.len(), hidden);
    assert!((found.iter().map(|value| value * value).sum::<f32>() - 1.0).abs() < 1e-5);
    assert!(events.next_within(Duration::from_millis(1)).unwrap().is_none());
}
