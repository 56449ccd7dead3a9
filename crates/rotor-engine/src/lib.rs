//! Runs ternary (BitNet b1.58) language models.

#![deny(unsafe_code)]

pub mod actor;
pub mod architectures;
pub mod batch;
pub mod bench;
pub mod cache;
pub mod chat;
pub mod compare;
pub mod config;
pub mod constraint;
pub mod convert;
pub mod cost;
pub mod demo;
pub mod engine;
pub mod error;
pub mod eval;
pub mod extract;
pub mod formats;
pub mod forms;
pub mod grammar;
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
pub mod statistics;
mod stop;
pub mod synth;
pub mod tokenizer;
mod tune;
pub mod verify;
pub mod write;

pub use config::Config;
pub use error::FormatError;
pub use rotor_kernels::DenseType;
pub use rotor_kernels::attention::KvType;
