//! Models by name: what is on this machine, what is known, and fetching.
//!
//! Lists go to Python as JSON, which `rotor.hub` turns into objects.

use crate::errors::hub_error;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rotor::formats::{Beginning, check_beginning};
use rotor::machine::Memory;
use rotor_hub::{Event, Examined, Hub, HubError, Library, PullOptions, Reference, Settings, known};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often Python hears of progress and is asked whether Ctrl-C was pressed.
const INTERVAL: Duration = Duration::from_millis(100);

fn library() -> PyResult<(Settings, Library)> {
    let settings = Settings::from_environment().map_err(hub_error)?;
    let library = Library::new(&settings, &|name| std::env::var_os(name));
    Ok((settings, library))
}

/// The path of a model on this machine by its name; `None` where no model goes by it.
#[pyfunction]
pub(crate) fn find_model(name: &str) -> PyResult<Option<PathBuf>> {
    match library()?.1.find(name) {
        Ok(model) => Ok(Some(model.path)),
        Err(HubError::NotHere { .. }) => Ok(None),
        Err(error) => Err(hub_error(error)),
    }
}

/// The models on this machine, as JSON.
#[pyfunction]
pub(crate) fn models() -> PyResult<String> {
    json(&library()?.1.models())
}

/// The models known by a short name, as JSON.
#[pyfunction]
pub(crate) fn known_models() -> PyResult<String> {
    json(&known::all())
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> PyResult<String> {
    serde_json::to_string(value).map_err(|error| PyRuntimeError::new_err(error.to_string()))
}

/// What an exception in a callback, or Ctrl-C, has left behind.
struct Calls {
    progress: Option<Py<PyAny>>,
    told: Instant,
    raised: Option<PyErr>,
}

impl Calls {
    /// Tells Python, now and then, how far a file has come.
    fn take(&mut self, event: &Event<'_>) {
        let Event::Progress { file, done, total } = event else { return };
        if self.raised.is_some() || (self.told.elapsed() < INTERVAL && done != total) {
            return;
        }
        self.told = Instant::now();
        self.raised = Python::attach(|py| {
            py.check_signals()?;
            match &self.progress {
                Some(progress) => progress.bind(py).call1((*file, *done, *total)).map(|_| ()),
                None => Ok(()),
            }
        })
        .err();
    }
}

/// Fetches a model; returns its path. `progress` is called with a file's name, the bytes of it that are here, and its size.
#[pyfunction]
pub(crate) fn pull(
    py: Python<'_>,
    name: &str,
    local_dir: Option<PathBuf>,
    any: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<PathBuf> {
    let (settings, library) = library()?;
    let reference = match library.reference(name).map_err(hub_error)? {
        Some(reference) => reference,
        None => Reference::parse(name).map_err(hub_error)?,
    };
    if settings.offline && local_dir.is_none() {
        let offline = || hub_error(HubError::Offline { what: name.into() });
        return find_model(name)?.ok_or_else(offline);
    }
    let hub = Hub::new(&settings).map_err(hub_error)?;
    let (mut calls, stopped) = (Calls { progress, told: Instant::now(), raised: None }, AtomicBool::new(false));
    let result = py.detach(|| {
        let memory = Memory::read();
        let cancelled = || stopped.load(Ordering::Relaxed);
        let examine: Option<&rotor_hub::Examiner<'_>> = if any { None } else { Some(&examine) };
        let memory = memory.total.into_iter().chain(memory.limit).min();
        let options = PullOptions { local_dir, memory, examine, cancelled: Some(&cancelled) };
        hub.pull(&reference, &options, &mut |event| {
            calls.take(&event);
            stopped.store(calls.raised.is_some(), Ordering::Relaxed);
        })
    });
    match calls.raised {
        Some(raised) => Err(raised),
        None => result.map(|pulled| pulled.path).map_err(hub_error),
    }
}

/// Refuses, from the beginning of a file, what could not be run.
fn examine(path: &Path, size: u64) -> Examined {
    match check_beginning(path, size) {
        Ok(Beginning::Unsupported(error)) => Examined::Refused(error.to_string()),
        Ok(Beginning::Supported) => Examined::Fine,
        Ok(Beginning::Undecided) | Err(_) => Examined::TooShort,
    }
}
