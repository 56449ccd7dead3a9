//! Runs ternary (BitNet b1.58) language models.

#![deny(unsafe_code)]

pub mod chat;
pub mod config;
pub mod error;
pub mod formats;
pub mod forms;
pub mod sample;
pub mod synth;
pub mod tokenizer;
pub mod write;

pub use config::Config;
pub use error::FormatError;
