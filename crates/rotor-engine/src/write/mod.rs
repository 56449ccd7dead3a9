//! Writing files so that nobody ever meets half of one.
//!
//! Everything goes to a temporary name in the target's folder, is synced, and takes the target's name last. Whatever stops
//! the program before that (an error, Ctrl-C, a full disk) leaves what was there untouched.

mod atomic;
mod background;
pub mod gguf;
pub(crate) mod gguf_keys;
#[cfg(feature = "convert")]
mod hugging_face;
mod hyper;
#[cfg(feature = "convert")]
pub mod names;
#[cfg(feature = "convert")]
mod parallel;
#[cfg(feature = "convert")]
pub mod safetensors;
mod tensors;
#[cfg(feature = "convert")]
pub mod vocabulary;

pub use atomic::{AtomicFile, AtomicFolder, refuse_overwriting, remove_temporaries};
#[cfg(feature = "convert")]
pub use hugging_face::{PackedWeights, config_json};
pub use hyper::put_config_keys;
#[cfg(feature = "convert")]
pub use parallel::{FillStrip, Progress, write_strips};
pub use tensors::TensorFile;
