//! What becomes of a linear's outputs, so that they need not lie in memory before they are added or multiplied.

use crate::dispatch::Kernels;

/// What is done with `y`, the output of a linear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// `out = y`.
    Store,
    /// `out += y`: a residual stream.
    Add,
    /// `out = silu(out) * y`: a gate and what it lets through.
    SiluMul,
    /// `out = max(out, 0)^2 * y`.
    Relu2Mul,
}

impl Epilogue {
    /// Does it. Elements do not depend on each other, so pieces of any length give the same bits.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn apply(self, kernels: &Kernels, y: &[f32], out: &mut [f32]) {
        match self {
            Epilogue::Store => out.copy_from_slice(y),
            Epilogue::Add => kernels.add(out, y),
            Epilogue::SiluMul => kernels.silu_mul(out, y),
            Epilogue::Relu2Mul => kernels.relu2_mul(out, y),
        }
    }
}
