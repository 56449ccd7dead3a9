//! How a model is opened, and what form its weights are to have in memory.

use crate::config::{Activation, Activations};
use crate::forms::{I2sLayout, KernelConfig};
use rotor_kernels::DenseType;

/// How to open a model.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// The I2_S layout; `None` looks at the weights.
    pub i2s_layout: Option<I2sLayout>,
    /// The gate's activation function; `None` follows the file. What is given takes the place of what the file says, and goes
    /// into whatever the model is converted to.
    pub hidden_act: Option<Activation>,
    /// The tiles of the build that wrote TL1 and TL2 tensors; without its matrices those cannot be read.
    pub kernel_config: KernelConfig,
    /// Reads files into memory instead of mapping them, for files that may change while they are open.
    pub no_mmap: bool,
    /// The form the weights are to have in memory.
    pub load: LoadOptions,
}

/// The form weights have in memory, where it is not that of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Encodes the embedding and the head anew, as `rotor convert --head` does; `None` leaves them as they are.
    pub head: Option<DenseType>,
    /// What quantised dense matrices are multiplied by.
    pub dense_activations: DenseActivations,
    /// How finely the inputs of ternary linears are kept; `None` is as the model was trained.
    pub activations: Option<Activations>,
    /// How much of the weights is read for a token, where a part may do.
    pub read: Read,
}

/// What quantised dense matrices are multiplied by. Matrices of f32, f16 and bf16 take f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DenseActivations {
    /// f32, as they are.
    F32,
    /// int16, 15 bits of it, a scale to every 256: several times as fast as f32.
    #[default]
    Int16,
}

/// How much of a model is read for a token. The tokens are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Read {
    /// Of a large head what the choice of a token can depend on (see [`crate::head`]), and of large linears around a gate that is a
    /// squared ReLU only rows and columns that meet no zeros.
    #[default]
    Auto,
    /// All of it.
    All,
    /// As little as can be, of small matrices too, where it is not faster.
    Least,
}
