//! What becomes of a linear's outputs, so that they need not lie in memory before they are scaled, added or multiplied.

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

/// The scales of consecutive rows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RowScale<'a> {
    /// One for all.
    Same(f32),
    /// One for each.
    Each(&'a [f32]),
}

impl<'a> RowScale<'a> {
    /// Those of `len` rows from `start` on.
    pub(crate) fn rows(self, start: usize, len: usize) -> RowScale<'a> {
        match self {
            RowScale::Same(scale) => RowScale::Same(scale),
            RowScale::Each(scales) => RowScale::Each(&scales[start..start + len]),
        }
    }
}

/// What becomes of dot products: `y = sum * scale / factor`, which an epilogue takes to `out`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finish<'a> {
    pub scales: RowScale<'a>,
    /// The token's quantisation factor.
    pub factor: f32,
    pub epilogue: Epilogue,
}

impl Finish<'_> {
    /// The reference, which is compiled anew for each ISA: every operation but SiLU, which is the ISA's own, is exact or
    /// correctly rounded, so the bits are the same everywhere.
    #[inline(always)]
    pub(crate) fn apply(self, sums: &[i32], out: &mut [f32], silu_mul: impl Fn(&mut [f32], &[f32])) {
        match self.epilogue {
            Epilogue::Store => self.each(sums, out, |_, y| y),
            Epilogue::Add => self.each(sums, out, |x, y| x + y),
            Epilogue::Relu2Mul => self.each(sums, out, |gate, y| gate.max(0.0) * gate.max(0.0) * y),
            Epilogue::SiluMul => {
                const ROWS: usize = 32;
                for (i, (sums, out)) in sums.chunks(ROWS).zip(out.chunks_mut(ROWS)).enumerate() {
                    let mut y = [0.0; ROWS];
                    let y = &mut y[..sums.len()];
                    let scales = self.scales.rows(i * ROWS, sums.len());
                    Finish { scales, ..self }.each(sums, y, |_, y| y);
                    silu_mul(out, y);
                }
            }
        }
    }

    #[inline(always)]
    fn each(self, sums: &[i32], out: &mut [f32], put: impl Fn(f32, f32) -> f32) {
        match self.scales {
            RowScale::Same(scale) => {
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = put(*out, *sum as f32 * scale / self.factor);
                }
            }
            RowScale::Each(scales) => {
                for ((out, sum), scale) in out.iter_mut().zip(sums).zip(scales) {
                    *out = put(*out, *sum as f32 * scale / self.factor);
                }
            }
        }
    }
}
