//! Writing files so that nobody ever meets half of one.
//!
//! Everything goes to a temporary name in the target's folder, is synced, and takes the target's name last. Whatever stops
//! the program before that (an error, Ctrl-C, a full disk) leaves what was there untouched.

mod atomic;
mod background;
pub mod gguf;
mod hugging_face;
mod hyper;
pub mod names;
mod parallel;
pub mod safetensors;
mod tensors;
pub mod vocabulary;

pub use atomic::{AtomicFile, AtomicFolder, refuse_overwriting, remove_temporaries};
pub use hugging_face::{PackedWeights, config_json};
pub(crate) use hyper::GgufKeys;
pub use hyper::put_config_keys;
pub use parallel::{FillStrip, Progress, write_strips};
pub use tensors::TensorFile;
