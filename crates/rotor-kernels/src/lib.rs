//! Exact ternary x int8 kernels, the float operations of a transformer, and the thread pool they run on.
//!
//! All SIMD and nearly all `unsafe` of the product is here; the crate knows no model and no file. Three ideas carry it:
//!
//! - **A reference first.** Every kernel has a plain twin in a `scalar.rs`, which is its oracle and its fallback. Integer
//!   kernels equal it bit for bit, for every input.
//! - **One dispatch point.** [`Kernels`] is the table of what an ISA has; holding one proves the CPU can run it.
//! - **Numbers do not depend on company.** A token's result is the same alone, in a batch, and on any number of threads.

#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    expect(dead_code, unused_macros, reason = "other architectures have the scalar kernels alone")
)]

pub mod attention;
mod buffer;
pub mod clock;
mod cpu;
pub mod dense;
mod dispatch;
pub mod encode;
mod epilogue;
mod float;
mod isa;
mod lines;
pub mod matrix;
pub mod measure;
mod noise;
mod plain;
pub mod planes;
mod pool;
pub mod quantized;
mod self_test;
pub mod sketch;
pub mod ternary;

pub use buffer::Buffer;
pub use cpu::{cpu_features, cpu_name};
pub use dense::DenseType;
pub use dispatch::Kernels;
pub use epilogue::Epilogue;
pub use isa::{Isa, IsaError};
pub use plain::Plain;
pub use pool::Pool;
pub use self_test::{SelfTest, SelfTestError};

#[cfg(test)]
mod tests;
