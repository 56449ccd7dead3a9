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
    /// `out = gelu(out) * y`, with GELU by its approximation with tanh.
    GeluMul,
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
            Epilogue::GeluMul => by_chunks(y, out, |y, out| gelu_mul(out, y, |gate, up| kernels.silu_mul(gate, up))),
        }
    }
}

/// Elements of an output that are copied before they meet it.
const CHUNK: usize = 32;

/// `f(copy of a chunk of y, the same chunk of out)`.
#[inline(always)]
fn by_chunks(y: &[f32], out: &mut [f32], f: impl Fn(&mut [f32], &mut [f32])) {
    for (y, out) in y.chunks(CHUNK).zip(out.chunks_mut(CHUNK)) {
        let mut copy = [0.0; CHUNK];
        let copy = &mut copy[..y.len()];
        copy.copy_from_slice(y);
        f(copy, out);
    }
}

/// `gate = gelu(gate) * up` by the kernel for SiLU.
///
/// GELU's approximation is `x (1 + tanh(k (x + 0.044715 x^3))) / 2` with `k = sqrt(2 / pi)`, and `(1 + tanh(u)) / 2` is the
/// sigmoid of `2 u`. With `g = 2 k x (1 + 0.044715 x^2)` it is therefore `silu(g) * x / g`, and `x / g` has no pole.
#[inline(always)]
fn gelu_mul(gate: &mut [f32], up: &mut [f32], silu_mul: impl Fn(&mut [f32], &[f32])) {
    const TWICE_K: f32 = 1.595_769_2;
    for (gate, up) in gate.iter_mut().zip(&mut *up) {
        // Beyond 1e5 the sigmoid is 0 or 1, and a larger square would only overflow.
        let factor = TWICE_K * (1.0 + 0.044_715 * (*gate * *gate).min(1e10));
        (*gate, *up) = (*gate * factor, *up / factor);
    }
    silu_mul(gate, up);
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
    /// correctly rounded, so the bits are the same everywhere. GELU is made of SiLU.
    #[inline(always)]
    pub(crate) fn apply(self, sums: &[i32], out: &mut [f32], silu_mul: impl Fn(&mut [f32], &[f32])) {
        match self.epilogue {
            Epilogue::Store => self.each(sums, out, |_, y| y),
            Epilogue::Add => self.each(sums, out, |x, y| x + y),
            Epilogue::Relu2Mul => self.each(sums, out, |gate, y| gate.max(0.0) * gate.max(0.0) * y),
            Epilogue::SiluMul => self.each_chunk(sums, out, |y, out| silu_mul(out, y)),
            Epilogue::GeluMul => self.each_chunk(sums, out, |y, out| gelu_mul(out, y, &silu_mul)),
        }
    }

    /// `f(a chunk of y, the same chunk of out)`.
    #[inline(always)]
    fn each_chunk(self, sums: &[i32], out: &mut [f32], f: impl Fn(&mut [f32], &mut [f32])) {
        for (i, (sums, out)) in sums.chunks(CHUNK).zip(out.chunks_mut(CHUNK)).enumerate() {
            let mut y = [0.0; CHUNK];
            let y = &mut y[..sums.len()];
            let scales = self.scales.rows(i * CHUNK, sums.len());
            Finish { scales, ..self }.each(sums, y, |_, y| y);
            f(y, out);
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
