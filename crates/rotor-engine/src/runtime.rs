//! What every computation needs: the kernels of this CPU and the threads they run on.

use rotor_kernels::ternary::{Choice, Precision, UnknownKernel};
use rotor_kernels::{IsaError, Kernels, Pool};
use std::sync::Arc;

pub use crate::tune::Remembered;
pub use rotor_kernels::ternary::Skips;

/// Kernels and threads.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// The kernels chosen for this CPU.
    pub kernels: &'static Kernels,
    /// Which of them multiply which ternary matrices.
    pub choice: Choice,
    /// The threads.
    pub pool: Arc<Pool>,
    /// How finely the inputs of ternary linears are kept: the model's own choice, taken over when it is loaded.
    pub precision: Precision,
}

/// What the environment asks for cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RuntimeError {
    /// An ISA.
    #[error(transparent)]
    Isa(#[from] IsaError),
    /// A kernel for ternary matrices.
    #[error(transparent)]
    Kernel(#[from] UnknownKernel),
}

impl Runtime {
    /// The best kernels of this CPU (or those `ROTOR_ISA` and `ROTOR_KERNEL` name) on `threads` threads, 0 meaning one per
    /// core.
    ///
    /// # Errors
    /// Where `ROTOR_ISA` or `ROTOR_KERNEL` names what is unknown or what this CPU cannot execute.
    pub fn new(threads: usize) -> Result<Runtime, RuntimeError> {
        let kernels = Kernels::from_env()?;
        let choice = Choice::from_env(kernels)?.unwrap_or_else(|| Choice::unmeasured(kernels));
        Ok(Runtime { choice, ..Runtime::with_kernels(kernels, threads) })
    }

    /// The given kernels on `threads` threads, 0 meaning one per core.
    pub fn with_kernels(kernels: &'static Kernels, threads: usize) -> Runtime {
        let pool = Arc::new(Pool::new(threads));
        Runtime { kernels, choice: Choice::unmeasured(kernels), pool, precision: Precision::Int8 }
    }
}
