//! What every computation needs: the kernels of this CPU and the threads they run on.

use rotor_kernels::{IsaError, Kernels, Pool};
use std::sync::Arc;

/// Kernels and threads.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// The kernels chosen for this CPU.
    pub kernels: &'static Kernels,
    /// The threads.
    pub pool: Arc<Pool>,
}

impl Runtime {
    /// The best kernels of this CPU (or those `ROTOR_ISA` names) on `threads` threads, 0 meaning one per core.
    ///
    /// # Errors
    /// Where `ROTOR_ISA` names an ISA that is unknown or that this CPU cannot execute.
    pub fn new(threads: usize) -> Result<Runtime, IsaError> {
        Ok(Runtime::with_kernels(Kernels::from_env()?, threads))
    }

    /// The given kernels on `threads` threads, 0 meaning one per core.
    pub fn with_kernels(kernels: &'static Kernels, threads: usize) -> Runtime {
        Runtime { kernels, pool: Arc::new(Pool::new(threads)) }
    }
}
