//! Text as it comes, taken by the interpreter when it wants it.
//!
//! The model's actor never touches Python. A generation whose pieces nobody takes stands aside, and it ends when its stream is
//! closed or dropped. A stream is the loading process's alone: a forked child is told so, and touches neither the lock nor the
//! channel, whose other ends may have been held when it was born.

use crate::answer::{Answer, Piece};
use crate::model::{Loaded, SIGNAL_INTERVAL};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A generation under way; `rotor.Stream` wraps it.
#[pyclass(frozen, module = "rotor._rotor")]
pub(crate) struct Stream {
    /// `None` once the stream has ended or was closed.
    under_way: Mutex<Option<UnderWay>>,
    process: u32,
}

struct UnderWay {
    answer: Answer,
    /// Keeps the actor at work after the model was closed. Dropped after the answer: the last one waits for the step at hand.
    _loaded: Arc<Loaded>,
}

impl Stream {
    pub(crate) fn new(answer: Answer, loaded: Arc<Loaded>) -> Stream {
        let under_way = Mutex::new(Some(UnderWay { answer, _loaded: loaded }));
        Stream { under_way, process: std::process::id() }
    }

    fn is_inherited(&self) -> bool {
        self.process != std::process::id()
    }

    fn under_way(&self) -> MutexGuard<'_, Option<UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What comes within the time after which Python is asked about signals; `None` where the stream has ended or was closed.
    fn wait(&self) -> PyResult<Option<Piece>> {
        let mut under_way = self.under_way();
        let Some(UnderWay { answer, .. }) = &mut *under_way else { return Ok(None) };
        let piece = answer.next_within(SIGNAL_INTERVAL);
        if !matches!(piece, Ok(Piece::Nothing | Piece::Text(_))) {
            *under_way = None;
        }
        piece.map(Some)
    }
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
            match py.detach(|| self.wait())? {
                None => return Ok(None),
                Some(Piece::Nothing) => py.check_signals()?,
                Some(Piece::Text(text)) => return Ok(Some(text.into_pyobject(py)?.into_any())),
                Some(Piece::End(generated)) => return Ok(Some(Bound::new(py, generated)?.into_any())),
            }
        }
    }

    /// Breaks off.
    fn close(&self, py: Python<'_>) {
        if !self.is_inherited() {
            py.detach(|| *self.under_way() = None);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.is_inherited() {
            let under_way = self.under_way.get_mut().unwrap_or_else(PoisonError::into_inner);
            std::mem::forget(under_way.take());
        }
    }
}
