//! The model inside the library: small, trained in the open, so that everything can be tried without a download.
//!
//! `models/rotor-tiny.md` is its card, `training/README.md` its recipe; `rotor convert` makes the file from `models/rotor-tiny-hf`.

use crate::error::FormatError;
use crate::formats::{OpenOptions, Source};

/// What it is called where a path would stand.
pub const NAME: &str = "rotor-tiny";

/// The GGUF file.
pub static BYTES: &[u8] = include_bytes!("../models/rotor-tiny.gguf");

/// Temperature and seed of a text that nobody chose them for. Without sampling the model repeats itself after a sentence or
/// two; with this seed its first words are the same each time.
pub const TEMPERATURE: f32 = 0.7;
/// As [`TEMPERATURE`].
pub const SEED: u64 = 53;

/// Opens it.
///
/// # Errors
/// Where the options contradict the file.
pub fn open(options: &OpenOptions) -> Result<Source, FormatError> {
    Source::from_static(BYTES, options).map_err(|error| error.in_file(NAME))
}
