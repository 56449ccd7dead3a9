//! Runs ternary (BitNet b1.58) language models.

#![deny(unsafe_code)]
#![cfg_attr(
    not(feature = "convert"),
    expect(dead_code, unused_imports, reason = "readers share tables with the writers that the feature leaves out")
)]

pub mod actor;
pub mod architectures;
pub mod batch;
pub mod bench;
pub mod cache;
pub mod chat;
#[cfg(feature = "convert")]
pub mod compare;
pub mod config;
pub mod constraint;
#[cfg(feature = "convert")]
pub mod convert;
pub mod cost;
pub mod demo;
mod embed;
pub mod engine;
pub mod error;
pub mod eval;
#[cfg(feature = "convert")]
pub mod extract;
pub mod formats;
pub mod forms;
#[cfg(feature = "grammar")]
pub mod grammar;
pub mod head;
pub mod linear;
pub mod machine;
pub mod model;
pub mod plan;
pub mod planes;
pub mod request;
pub mod rope;
pub mod runtime;
pub mod sample;
pub mod sequence;
mod skipping;
pub mod speculate;
pub mod statistics;
mod stop;
#[cfg(feature = "convert")]
pub mod synth;
mod threads;
pub mod tokenizer;
mod tune;
pub mod verify;
pub mod write;

pub use config::Config;
pub use error::FormatError;
pub use rotor_kernels::DenseType;
pub use rotor_kernels::attention::KvType;
