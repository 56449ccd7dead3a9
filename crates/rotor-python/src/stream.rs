//! Text as it comes: a thread generates, the interpreter takes pieces when it wants them.
//!
//! The thread never touches Python. It waits while nobody takes its pieces and ends when the stream is dropped. It is the
//! loading process's alone: a forked child is told so, and touches neither the lock nor the channel, whose other ends may
//! have been held when it was born.

use crate::errors::generate_error;
use crate::model::{Generated, Loaded, TokenLogprobs};
use crate::options::Options;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rotor::engine::{GenerateError, Generation};
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Pieces that may wait to be taken.
const AHEAD: usize = 64;

/// How long Ctrl-C may go unnoticed while waiting.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);

enum Event {
    Text(String),
    End(Result<(Generation, Vec<TokenLogprobs>), GenerateError>),
}

/// A generation under way; `rotor.Stream` wraps it.
#[pyclass(frozen, module = "rotor._rotor")]
pub(crate) struct Stream {
    state: Mutex<State>,
    process: u32,
}

struct State {
    /// `None` once the stream has ended or was closed.
    events: Option<Receiver<Event>>,
    text: String,
}

impl Stream {
    pub(crate) fn start(loaded: Arc<Loaded>, prompt: Vec<u32>, options: Options) -> PyResult<Stream> {
        let (sender, events) = sync_channel(AHEAD);
        std::thread::Builder::new()
            .name("rotor-stream".into())
            .spawn(move || generate(&loaded, &prompt, &options, &sender))
            .map_err(|error| PyRuntimeError::new_err(format!("cannot start a thread: {error}")))?;
        let state = State { events: Some(events), text: String::new() };
        Ok(Stream { state: Mutex::new(state), process: std::process::id() })
    }
}

fn generate(loaded: &Loaded, prompt: &[u32], options: &Options, sender: &SyncSender<Event>) {
    let send = |event| if sender.send(event).is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    // Empty pieces too: they ask whether anybody still listens.
    let result = loaded.generate(prompt, options, &mut |piece| send(Event::Text(piece.to_owned())));
    // Nobody left to tell is no error.
    let _ = send(Event::End(result));
}

#[pymethods]
impl Stream {
    /// The next piece of text, or what the generation gave once it has ended. A stream that was closed gives `None`.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if self.is_inherited() {
            return Err(PyRuntimeError::new_err(
                "the stream was begun before this process was forked and its thread is the parent's: load the model in \
                 the child and begin another",
            ));
        }
        loop {
            let event = py.detach(|| self.wait());
            match event {
                Waited::Nothing => py.check_signals()?,
                Waited::Closed => return Ok(None),
                Waited::Died => return Err(PyRuntimeError::new_err("the thread that generates has died")),
                Waited::Event(Event::Text(piece)) => return Ok(Some(piece.into_pyobject(py)?.into_any())),
                Waited::Event(Event::End(result)) => {
                    let text = std::mem::take(&mut self.state().text);
                    let (generation, logprobs) = result.map_err(generate_error)?;
                    return Ok(Some(Bound::new(py, Generated::new(text, generation, logprobs))?.into_any()));
                }
            }
        }
    }

    /// Breaks off.
    fn close(&self, py: Python<'_>) {
        if !self.is_inherited() {
            py.detach(|| self.state().events = None);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.is_inherited() {
            let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
            std::mem::forget(state.events.take());
        }
    }
}

enum Waited {
    Event(Event),
    Nothing,
    Closed,
    Died,
}

impl Stream {
    fn is_inherited(&self) -> bool {
        self.process != std::process::id()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) -> Waited {
        let mut state = self.state();
        let Some(events) = &state.events else { return Waited::Closed };
        match events.recv_timeout(SIGNAL_INTERVAL) {
            Ok(Event::Text(piece)) if piece.is_empty() => Waited::Nothing,
            Ok(Event::Text(piece)) => {
                state.text.push_str(&piece);
                Waited::Event(Event::Text(piece))
            }
            Ok(end) => {
                state.events = None;
                Waited::Event(end)
            }
            Err(RecvTimeoutError::Timeout) => Waited::Nothing,
            Err(RecvTimeoutError::Disconnected) => {
                state.events = None;
                Waited::Died
            }
        }
    }
}
