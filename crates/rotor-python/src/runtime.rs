//! The kernels and the one pool of threads that everything in a process runs on.
//!
//! The lock is taken only while attached to the interpreter and never held across a release of it, so a fork, which needs
//! the interpreter too, cannot leave it locked. A forked child has none of its parent's threads: it is noticed by its
//! process id and gets a pool of its own.

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use rotor::runtime::Runtime;
use std::sync::{Arc, Mutex, PoisonError};

/// More threads than any machine that runs this; a larger number is a mistake.
const MOST_THREADS: usize = 4096;

struct Process {
    id: u32,
    runtime: Runtime,
}

static PROCESS: Mutex<Option<Process>> = Mutex::new(None);

/// This process's runtime, made at first use with `threads` threads (`None`: `ROTOR_THREADS`, else one per core).
pub(crate) fn runtime(_py: Python<'_>, threads: Option<usize>) -> PyResult<Runtime> {
    let mut process = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    let id = std::process::id();
    if let Some(inherited) = process.take_if(|process| process.id != id) {
        // Dropping the pool would wait for threads that only the parent has.
        std::mem::forget(inherited);
    }
    if let (Some(current), Some(threads)) = (&*process, threads) {
        let in_use = Arc::strong_count(&current.runtime.pool) > 1;
        let different = current.runtime.pool.threads() != resolve(Some(threads))?;
        if different && in_use {
            return Err(PyRuntimeError::new_err(format!(
                "the process has one pool, models use it, and it has {} threads, not {threads}: close them first",
                current.runtime.pool.threads()
            )));
        }
        if different {
            *process = None;
        }
    }
    if let Some(process) = &*process {
        return Ok(process.runtime.clone());
    }
    let runtime = Runtime::new(resolve(threads)?).map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
    *process = Some(Process { id, runtime: runtime.clone() });
    Ok(runtime)
}

/// The number of threads meant: what is given, else what the environment says, else one per core.
fn resolve(threads: Option<usize>) -> PyResult<usize> {
    let wrong =
        |found: &str| PyValueError::new_err(format!("threads must be between 1 and {MOST_THREADS}, not {found}"));
    let threads = match (threads, std::env::var("ROTOR_THREADS")) {
        (Some(threads), _) => threads,
        (None, Ok(text)) if !text.is_empty() => text.parse().map_err(|_| wrong(&text))?,
        _ => std::thread::available_parallelism().map_or(1, usize::from),
    };
    if (1..=MOST_THREADS).contains(&threads) { Ok(threads) } else { Err(wrong(&threads.to_string())) }
}

/// The size of the process's pool of threads, which is made by this call if need be.
#[pyfunction]
#[pyo3(signature = (count = None))]
pub(crate) fn threads(py: Python<'_>, count: Option<usize>) -> PyResult<usize> {
    Ok(runtime(py, count)?.pool.threads())
}

/// The name of the instruction set whose kernels are used.
#[pyfunction]
pub(crate) fn isa(py: Python<'_>) -> PyResult<&'static str> {
    Ok(runtime(py, None)?.kernels.isa().name())
}
