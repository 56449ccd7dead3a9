//! One thread that owns an engine's batch, and handles for everybody who wants something of it.
//!
//! Requests go in and events come out over bounded channels. Nobody waits for anybody: a full queue refuses a request at once
//! ([`SubmitError::QueueFull`]); a request whose events are not taken stands aside until they are, while the others go on; and
//! one whose [`Events`] were dropped is gone at the next step.
//!
//! ```no_run
//! use rotor::actor::{Actor, ActorOptions};
//! use rotor::batch::BatchOptions;
//! use rotor::engine::{Engine, GenerateOptions};
//! use rotor::request::{Event, Request};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let runtime = rotor::runtime::Runtime::new(0)?;
//! let engine = Engine::load("model.gguf".as_ref(), &Default::default(), &runtime, &mut |_| {})?;
//! let options = ActorOptions::new(BatchOptions::new(engine.default_context()));
//! let actor = Actor::start(engine.into(), options)?;
//!
//! // From any thread. A web server awaits `events.next()` instead.
//! let prompt = actor.engine().encode_prompt("The capital of France is")?;
//! let mut events = actor.submit(Request::new(prompt, GenerateOptions::default()))?;
//! while let Some(event) = events.next_blocking() {
//!     match event {
//!         Event::Token(token) => print!("{}", token.text),
//!         Event::Finished(end) => println!("{} ({:?})", end.text, end.generation.finish_reason),
//!         Event::Failed { error, .. } => return Err(error.into()),
//!         Event::Prompt { .. } | Event::Embedding(_) => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The events of a request are, for each of its choices, some [`Event::Token`] and one [`Event::Finished`] or
//! [`Event::Failed`]; those of an embedding end with one [`Event::Embedding`]. [`Event::Prompt`] tells how far a prompt is.
//! After the last event of the last choice the iterator ends. It also ends, without those, where the thread has died or the
//! actor was shut down, which [`Events::ended`] tells apart.

use crate::batch::{Batch, BatchOptions, Incoming, Intake, RequestId, Statistics};
use crate::engine::Engine;
use crate::request::{EmbedRequest, Event, GenerateError, Request};
use rotor_kernels::clock::Instant;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;
use tokio::sync::mpsc::error::{TryRecvError, TrySendError};
use tokio::sync::mpsc::{self, Receiver, Sender};

/// How long the thread sleeps while requests stand aside and nothing else is to be done.
const ASIDE: Duration = Duration::from_millis(5);

/// What an actor is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActorOptions {
    /// Of the batch.
    pub batch: BatchOptions,
    /// Requests that may wait for a place in the batch.
    pub queue: usize,
    /// Events of one request that may wait to be taken. A request whose events wait stands aside.
    pub events: usize,
}

impl ActorOptions {
    /// A batch made with these options, a queue of 256 requests and 64 events of each.
    pub fn new(batch: BatchOptions) -> ActorOptions {
        ActorOptions { batch, queue: 256, events: 64 }
    }
}

/// Why a request was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The request asks for what cannot be.
    #[error(transparent)]
    Invalid(#[from] GenerateError),
    /// As many requests wait as may. Later there may be a place.
    #[error("{waiting} requests are waiting already: try again later")]
    QueueFull {
        /// Requests that wait.
        waiting: usize,
    },
    /// The actor was shut down, or its thread has died.
    #[error("the engine has stopped and takes no further requests")]
    Stopped,
}

/// A handle of the thread. Copies are handles of the same thread, which ends when the last one is dropped and all that was
/// submitted has ended.
#[derive(Clone, Debug)]
pub struct Actor {
    shared: Arc<Shared>,
    commands: Sender<Command>,
}

#[derive(Debug)]
struct Shared {
    engine: Arc<Engine>,
    intake: Intake,
    /// Events of a request that may wait.
    events: usize,
    statistics: Mutex<Statistics>,
    stopped: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What is said to the thread.
#[derive(Debug)]
enum Command {
    Compute(Box<Incoming>, Stream),
    /// Look whether the actor was shut down.
    Wake,
}

/// A request's events on their way.
#[derive(Debug)]
struct Stream {
    events: Sender<Event>,
    cancelled: Arc<AtomicBool>,
    /// Those that the channel had no room for.
    late: VecDeque<Event>,
}

/// The events of a request. Dropping them ends the request.
#[derive(Debug)]
pub struct Events {
    events: Receiver<Event>,
    cancelled: Arc<AtomicBool>,
    /// Choices that have not ended.
    left: usize,
}

impl Actor {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(engine: Arc<Engine>, options: ActorOptions) -> std::io::Result<Actor> {
        let batch = engine.batch(options.batch);
        let (commands, receiver) = mpsc::channel(options.queue.max(1));
        let shared = Arc::new(Shared {
            engine,
            intake: batch.intake().clone(),
            events: options.events.max(1),
            statistics: Mutex::new(batch.statistics()),
            stopped: AtomicBool::new(false),
            thread: Mutex::new(None),
        });
        let worker = Worker { shared: Arc::clone(&shared), batch, commands: receiver, streams: HashMap::new() };
        let thread = std::thread::Builder::new().name("rotor-batch".into()).spawn(move || worker.run())?;
        *lock(&shared.thread) = Some(thread);
        Ok(Actor { shared, commands })
    }

    /// The engine, for tokens and templates.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.shared.engine
    }

    /// Gives a request to the thread.
    ///
    /// # Errors
    /// If the request asks for what cannot be, too many requests wait, or the actor has stopped.
    pub fn submit(&self, request: Request) -> Result<Events, SubmitError> {
        let choices = request.choices;
        let tokenizer = self.shared.engine.optional_tokenizer()?;
        self.send(self.shared.intake.check(request, tokenizer)?, choices)
    }

    /// Gives a text to the thread whose embedding is wanted.
    ///
    /// # Errors
    /// As [`Actor::submit`].
    pub fn embed(&self, request: EmbedRequest) -> Result<Events, SubmitError> {
        self.send(self.shared.intake.check_embedding(request)?, 1)
    }

    fn send(&self, incoming: Incoming, choices: usize) -> Result<Events, SubmitError> {
        if self.shared.stopped.load(Ordering::Acquire) {
            return Err(SubmitError::Stopped);
        }
        let (sender, receiver) = mpsc::channel(self.shared.events);
        let cancelled = Arc::new(AtomicBool::new(false));
        let stream = Stream { events: sender, cancelled: Arc::clone(&cancelled), late: VecDeque::new() };
        match self.commands.try_send(Command::Compute(Box::new(incoming), stream)) {
            Ok(()) => Ok(Events { events: receiver, cancelled, left: choices }),
            Err(TrySendError::Full(_)) => Err(SubmitError::QueueFull { waiting: self.commands.max_capacity() }),
            Err(TrySendError::Closed(_)) => Err(SubmitError::Stopped),
        }
    }

    /// What the batch is doing and has done, as of its last step. Requests that wait for the batch count as waiting; they are
    /// not among the sequences yet.
    pub fn statistics(&self) -> Statistics {
        let mut statistics = lock(&self.shared.statistics).clone();
        statistics.waiting += self.commands.max_capacity() - self.commands.capacity();
        statistics
    }

    /// Ends all requests without their last events, takes no further ones, and returns when the thread has ended.
    pub fn shutdown(&self) {
        self.shared.stopped.store(true, Ordering::Release);
        // Where the queue is full the thread is not asleep.
        let _ = self.commands.try_send(Command::Wake);
        if let Some(thread) = lock(&self.shared.thread).take() {
            // Should it have died of a panic, that was reported then.
            let _ = thread.join();
        }
    }
}

impl Events {
    /// The next event, waiting for it without blocking the thread; `None` after the last one.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`Events::next`], for those who implement streams of their own.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(context).map(|event| {
            self.left -= usize::from(event.as_ref().is_some_and(ends_a_choice)).min(self.left);
            event
        })
    }

    /// The next event, blocking the thread until it is there; `None` after the last one.
    pub fn next_blocking(&mut self) -> Option<Event> {
        loop {
            if let Ok(event) = self.next_within(Duration::from_secs(3600)) {
                return event;
            }
        }
    }

    /// As [`Events::next_blocking`], for so long at most.
    ///
    /// # Errors
    /// If no event came within the time.
    pub fn next_within(&mut self, time: Duration) -> Result<Option<Event>, TimedOut> {
        let end = Instant::now() + time;
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(event) = self.poll_next(&mut context) {
                return Ok(event);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(TimedOut);
            }
            std::thread::park_timeout(left);
        }
    }

    /// Asks for an early end. The events go on until [`Event::Finished`], whose reason is that it was cancelled.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// Whether every choice has ended. `false` after the last event means that the actor was shut down or has died.
    pub fn ended(&self) -> bool {
        self.left == 0
    }
}

/// No event came within the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no event came within the time")]
pub struct TimedOut;

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn ends_a_choice(event: &Event) -> bool {
    matches!(event, Event::Finished(_) | Event::Failed { .. } | Event::Embedding(_))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread's own.
struct Worker {
    shared: Arc<Shared>,
    batch: Batch,
    commands: Receiver<Command>,
    streams: HashMap<RequestId, Stream>,
}

impl Worker {
    fn run(mut self) {
        while self.take_commands() {
            self.deliver();
            let events = self.batch.step(self.shared.engine.model());
            // Nothing could be computed: all stand aside, or wait for the memory of those who do.
            if events.is_empty() && !self.streams.is_empty() {
                std::thread::sleep(ASIDE);
            }
            for (id, event) in events {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.late.push_back(event);
                }
            }
            self.deliver();
            *lock(&self.shared.statistics) = self.batch.statistics();
        }
    }

    /// Takes in what waits, as far as the batch has use for it, and sleeps if there is nothing else to do. Returns whether to
    /// go on.
    fn take_commands(&mut self) -> bool {
        loop {
            if self.shared.stopped.load(Ordering::Acquire) {
                return false;
            }
            // The queue is the channel: one request ahead is enough for the batch.
            if self.batch.has_waiting() {
                return true;
            }
            let command = if self.streams.is_empty() {
                self.commands.blocking_recv().ok_or(TryRecvError::Disconnected)
            } else {
                self.commands.try_recv()
            };
            match command {
                Ok(Command::Compute(incoming, stream)) => {
                    if !stream.events.is_closed() {
                        let id = self.batch.enqueue(*incoming);
                        self.streams.insert(id, stream);
                    }
                }
                Ok(Command::Wake) => {}
                Err(TryRecvError::Empty) => return true,
                // No handle is left: go on until all has ended that was asked for.
                Err(TryRecvError::Disconnected) => return !self.streams.is_empty(),
            }
        }
    }

    /// Hands out events, ends requests whose receivers are gone or want no more, and lets those stand aside whose receivers
    /// are behind.
    fn deliver(&mut self) {
        let batch = &mut self.batch;
        self.streams.retain(|id, stream| {
            if stream.events.is_closed() {
                batch.cancel(*id);
                return false;
            }
            if stream.cancelled.swap(false, Ordering::AcqRel) {
                stream.late.extend(batch.cancel(*id));
            }
            stream.flush();
            batch.hold(*id, !stream.late.is_empty());
            !stream.late.is_empty() || batch.contains(*id)
        });
    }
}

impl Stream {
    /// Sends as many events as there is room for.
    fn flush(&mut self) {
        while let Some(event) = self.late.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => return self.late.push_front(event),
                Err(TrySendError::Closed(_)) => return self.late.clear(),
            }
        }
    }
}
