//! Many tokens times weights in the L2 cache: what a prompt costs, so multiplying is what it should wait for.
//!
//! Weights are unpacked to panels, a byte each, `[columns / 4][32 rows][4]`, and an instruction multiplies four columns of 16
//! rows. The steps differ in how activations reach it. The last of those written here is the loop of `multiply_panel` in
//! `ternary/avx512_vnni.rs`, which no other crate can call; after it comes the whole product that it is part of.

use crate::ladder::{self, HALF, LINE, Prepared, ROWS, Step, VNNI, Work};
use anyhow::Result;
use rotor_kernels::{Buffer, Isa, Kernels};
use std::arch::x86_64::*;

/// The tokens of a prompt's chunk, as whole passes.
const TOKENS: usize = 42 * PASS;
/// Two panels.
const MATRIX_ROWS: usize = 2 * ROWS;
const COLS: usize = 2560;
/// Tokens multiplied together: two accumulators for each leave room for the weights.
const PASS: usize = 12;
/// How far ahead the panel is asked for, in bytes.
const AHEAD: usize = 2048;

/// Weights as panels; activations as rows, and the tokens of a pass side by side, `[pass][columns / 4][12][4]`.
struct Case {
    cols: usize,
    weights: Vec<i8>,
    panels: Buffer<u8>,
    x: Vec<i8>,
    /// The sum of each token's activations, by which the products with weights plus one are too large.
    sums: Vec<i32>,
    side_by_side: Vec<i8>,
}

/// Checks the steps, times them and prints the ladder.
pub(crate) fn climb(rounds: usize) -> Result<()> {
    check()?;
    let case = Case::new(ladder::random(MATRIX_ROWS * COLS, TOKENS * COLS), COLS)?;
    println!("\nprompt: {TOKENS} tokens times {MATRIX_ROWS} rows of {COLS} columns, from the L2 cache");
    ladder::time(&mut case.steps()?, &case.expected(), TOKENS * MATRIX_ROWS * COLS, rounds)
}

/// Whether every step is exact.
pub(crate) fn check() -> Result<()> {
    let cols = 272;
    for random in ladder::cases(MATRIX_ROWS * cols, 3 * PASS * cols) {
        let case = Case::new(random, cols)?;
        ladder::check(&mut case.steps()?, &case.expected())?;
    }
    Ok(())
}

impl Case {
    fn new((weights, x): (Vec<i8>, Vec<i8>), cols: usize) -> Result<Case> {
        let mut panels = Buffer::zeroed(weights.len())?;
        for (at, weight) in weights.iter().enumerate() {
            let (row, col) = (at / cols, at % cols);
            panels[row / ROWS * ROWS * cols + col / 4 * 4 * ROWS + row % ROWS * 4 + col % 4] =
                (weight + 1).cast_unsigned();
        }
        let sums = x.chunks_exact(cols).map(|x| x.iter().map(|x| i32::from(*x)).sum()).collect();
        let mut side_by_side = Vec::with_capacity(x.len());
        for pass in x.chunks_exact(PASS * cols) {
            let quads = pass.as_chunks::<4>().0;
            side_by_side.extend((0..cols / 4).flat_map(|quad| quads[quad..].iter().step_by(cols / 4)).flatten());
        }
        Ok(Case { cols, weights, panels, x, sums, side_by_side })
    }

    fn expected(&self) -> Vec<i32> {
        ladder::by_definition(&self.weights, &self.x, self.cols)
    }

    fn steps(&self) -> Result<Vec<Step<'_>>> {
        let (case, x) = ((&self.weights[..], &self.x[..], self.cols), &self.side_by_side);
        // Its activations lie side by side before it is timed, as in the steps before it.
        let product = |isa| ladder::product((isa, "codes"), case, 1, Prepared::Once);
        let step = |name, change, needs, work| Step { name, change, needs, work };
        Ok(vec![
            step("plain", "weight by weight", Isa::Scalar, Some(self.plain())),
            step("one token", "AVX-512 VNNI: dot products", VNNI, self.side_by_side::<1, 0>(&self.x)),
            step("12 tokens", "12 at a time, from 12 rows", VNNI, self.rows()),
            step("side by side", "the 12 tokens side by side", VNNI, self.side_by_side::<PASS, 0>(x)),
            step("ahead", "panel asked for 2 KB ahead, into L1", VNNI, self.side_by_side::<PASS, AHEAD>(x)),
            step("in use", "the whole product: weights unpacked from 2 bits, too", VNNI, product(VNNI)?),
            step("tiles", "the whole product by AMX: 16 tokens by 16 rows, 64 deep", Isa::Amx, product(Isa::Amx)?),
        ])
    }

    fn plain(&self) -> Work<'_> {
        self.by_passes::<1>(|token, panel, out| plain(panel, &self.x[token * self.cols..][..self.cols], &mut out[0]))
    }

    fn rows(&self) -> Option<Work<'_>> {
        Kernels::for_isa(VNNI)?;
        Some(self.by_passes::<PASS>(|pass, panel, out| {
            let x = &self.x[pass * PASS * self.cols..];
            let rows = std::array::from_fn(|token| x[token * self.cols..][..self.cols].as_chunks().0);
            // SAFETY: the CPU has AVX-512 VNNI: there are kernels for it.
            unsafe { multiply_rows(panel, rows, &self.sums[pass * PASS..], out) }
        }))
    }

    /// From `x[pass][columns / 4][N][4]`.
    fn side_by_side<'a, const N: usize, const AHEAD: usize>(&'a self, x: &'a [i8]) -> Option<Work<'a>> {
        Kernels::for_isa(VNNI)?;
        Some(self.by_passes::<N>(move |pass, panel, out| {
            let x = x[pass * N * self.cols..].as_chunks().0;
            // SAFETY: the CPU has AVX-512 VNNI: there are kernels for it.
            unsafe { multiply_side_by_side::<N, AHEAD>(panel, x, &self.sums[pass * N..], out) }
        }))
    }

    /// Every panel for `N` tokens, then for the next: `multiply(pass, panel, out)`.
    fn by_passes<'a, const N: usize>(
        &'a self,
        multiply: impl Fn(usize, &[u8], &mut [[i32; ROWS]; N]) + 'a,
    ) -> Work<'a> {
        let rows = self.weights.len() / self.cols;
        Work::new(1, move |out| {
            let mut sums = [[0; ROWS]; N];
            for (pass, out) in out.chunks_exact_mut(N * rows).enumerate() {
                for (tile, panel) in self.panels.chunks_exact(ROWS * self.cols).enumerate() {
                    multiply(pass, panel, &mut sums);
                    for (sums, out) in sums.iter().zip(out.chunks_exact_mut(rows)) {
                        out[tile * ROWS..][..ROWS].copy_from_slice(sums);
                    }
                }
            }
        })
    }
}

fn plain(panel: &[u8], x: &[i8], out: &mut [i32; ROWS]) {
    out.fill(0);
    for (quad, x) in panel.as_chunks::<{ 2 * LINE }>().0.iter().zip(x.as_chunks::<4>().0) {
        for (weights, out) in quad.as_chunks::<4>().0.iter().zip(&mut *out) {
            *out += weights.iter().zip(x).map(|(weight, x)| (i32::from(*weight) - 1) * i32::from(*x)).sum::<i32>();
        }
    }
}

/// Tokens from rows of their own.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn multiply_rows(panel: &[u8], rows: [&[[i8; 4]]; PASS], sums: &[i32], out: &mut [[i32; ROWS]; PASS]) {
    let quads = panel.as_chunks::<{ 2 * LINE }>().0;
    // As long as the panel, so that the loop need not ask.
    let rows = rows.map(|row| &row[..quads.len()]);
    let mut products = [[_mm512_setzero_si512(); 2]; PASS];
    for (at, quad) in quads.iter().enumerate() {
        let weights = load(quad);
        for (products, row) in products.iter_mut().zip(&rows) {
            add(products, weights, &row[at]);
        }
    }
    finish(products, sums, out);
}

/// `N` tokens side by side, the panel asked for `AHEAD` bytes ahead.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn multiply_side_by_side<const N: usize, const AHEAD: usize>(
    panel: &[u8],
    x: &[[i8; 4]],
    sums: &[i32],
    out: &mut [[i32; ROWS]; N],
) {
    let quads = panel.as_chunks::<{ 2 * LINE }>().0;
    let mut products = [[_mm512_setzero_si512(); 2]; N];
    for (quad, x) in quads.iter().zip(x.as_chunks::<N>().0) {
        if AHEAD > 0 {
            for line in quad.as_chunks::<LINE>().0 {
                _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_add(AHEAD).cast());
            }
        }
        let weights = load(quad);
        for (products, x) in products.iter_mut().zip(x) {
            add(products, weights, x);
        }
    }
    finish(products, sums, out);
}

/// Four columns of 32 rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn load(quad: &[u8; 2 * LINE]) -> [__m512i; 2] {
    // SAFETY: twice 64 readable bytes; the loads need no alignment.
    unsafe { [0, LINE].map(|at| _mm512_loadu_si512(quad.as_ptr().add(at).cast())) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn add(products: &mut [__m512i; 2], weights: [__m512i; 2], x: &[i8; 4]) {
    let x = _mm512_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned)));
    for (products, weights) in products.iter_mut().zip(weights) {
        *products = _mm512_dpbusd_epi32(*products, weights, x);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn finish<const N: usize>(products: [[__m512i; 2]; N], sums: &[i32], out: &mut [[i32; ROWS]; N]) {
    for ((products, sum), out) in products.into_iter().zip(sums).zip(out) {
        for (products, out) in products.into_iter().zip(out.as_chunks_mut::<HALF>().0) {
            // SAFETY: 16 writable int32; the store needs no alignment.
            unsafe {
                _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_sub_epi32(products, _mm512_set1_epi32(*sum)))
            };
        }
    }
}
