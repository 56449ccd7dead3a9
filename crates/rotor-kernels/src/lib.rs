//! Exact ternary x int8 kernels, the float operations of a transformer, and the thread pool they run on.
//!
//! This is the only crate with SIMD and `unsafe`; it knows no model and no file.

pub mod dense;
pub mod encode;

pub use dense::DenseType;
