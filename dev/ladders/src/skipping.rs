//! One token, weights from memory, of which some need not be read: beside the usual kernel of each ISA, by how many matter.
//!
//! The speeds are those of the whole product, whatever was left out of it.

use crate::ladder::{self, Prepared, Step, Work};
use anyhow::Result;
use rotor_kernels::ternary::{
    Activations, Choice, Precision, RowScales, Scratch, SkippingKernel, SkippingLinear, SkippingMatrix, Skips,
    TernaryLinear, TernaryMatrix, gate_up,
};
use rotor_kernels::{Epilogue, Isa, Kernels, Pool};

/// Features of the model and of its feed-forward network.
const SHAPE: (usize, usize) = (2560, 6912);
/// More than the caches hold of each kind.
const COPIES: usize = 24;
/// How many in a hundred activations are not zero, and gates above zero.
const SHARES: [usize; 4] = [100, 60, 42, 30];

/// Checks the steps, times them and prints the ladder.
pub(crate) fn climb(rounds: usize) -> Result<()> {
    check()?;
    for kernels in kernels() {
        for share in SHARES {
            let (features, width) = SHAPE;
            println!("\nskipping, {}: {COPIES} matrices {features}x{width}, {share} % of the columns", kernels.isa());
            let case = Case::new((features, width), share);
            let expected = ladder::by_definition(&case.weights, &case.x, width);
            ladder::time(&mut columns(kernels, &case, COPIES)?, &expected, features * width, rounds)?;
            println!("\nskipping, {}: {COPIES} pairs {width}x{features}, {share} % of the gates", kernels.isa());
            let case = Case::new((width, features), share);
            let expected = case.gated_by_definition();
            ladder::time(&mut gates(kernels, &case, COPIES)?, &expected, 2 * features * width, rounds)?;
        }
    }
    Ok(())
}

/// Whether every step is exact.
pub(crate) fn check() -> Result<()> {
    for kernels in kernels() {
        for share in SHARES {
            let case = Case::new((320, 544), share);
            let expected = ladder::by_definition(&case.weights, &case.x, case.cols);
            ladder::check(&mut columns(kernels, &case, 2)?, &expected)?;
            ladder::check(&mut gates(kernels, &case, 2)?, &case.gated_by_definition())?;
        }
    }
    Ok(())
}

/// Of the ISAs that can leave something unread, all but the reference.
fn kernels() -> Vec<&'static Kernels> {
    let all = Isa::available().filter(|isa| *isa != Isa::Scalar).filter_map(Kernels::for_isa);
    all.filter(|kernels| kernels.can_skip()).collect()
}

/// Weights, `[rows, cols]`, those of gates, and a token.
struct Case {
    rows: usize,
    cols: usize,
    weights: Vec<i8>,
    gates: Vec<i8>,
    x: Vec<i8>,
}

impl Case {
    /// So many in a hundred activations, from the second on, are not zero, and so many gates are above zero: the first activation
    /// decides that, as the largest.
    fn new((rows, cols): (usize, usize), share: usize) -> Case {
        let (weights, mut x) = ladder::random(rows * cols, cols);
        let mut rng = fastrand::Rng::with_seed(3);
        let matters = |rng: &mut fastrand::Rng| rng.usize(0..100) < share;
        x.iter_mut().filter(|_| !matters(&mut rng)).for_each(|x| *x = 0);
        // The largest is 127, whose factor is 1, so that quantising leaves them as they are.
        x.iter_mut().for_each(|x| *x = (*x).max(-127));
        x[0] = 127;
        let mut gates = vec![0; rows * cols];
        for gate in gates.chunks_exact_mut(cols) {
            gate[0] = if matters(&mut rng) { 1 } else { -1 };
        }
        Case { rows, cols, weights, gates, x }
    }

    /// The bits of `max(gate, 0)^2 * up`, quantised activations being the numbers themselves.
    fn gated_by_definition(&self) -> Vec<i32> {
        let sums =
            |weights: &[i8]| ladder::by_definition(weights, &self.x, self.cols).into_iter().map(|sum| sum as f32);
        let both = sums(&self.gates).zip(sums(&self.weights));
        both.map(|(gate, up)| bits(gate.max(0.0) * gate.max(0.0) * up)).collect()
    }

    fn skipping(&self, kernels: &'static Kernels, skips: Skips) -> Result<(SkippingKernel, SkippingMatrix)> {
        let kernel = Choice::unmeasured(kernels).skipping_kernel_for((self.rows, self.cols), skips);
        let kernel = kernel.expect("kernels that can leave something unread");
        let read_row = |row: usize, trits: &mut [i8]| self.read_row(&self.weights, row, trits);
        let pool = Pool::new(1);
        Ok((kernel, SkippingMatrix::pack((self.rows, self.cols), skips, kernel, &pool, |refused| refused, read_row)?))
    }

    fn usual(&self, kernels: &'static Kernels, weights: &[i8]) -> Result<TernaryMatrix> {
        let shape = (self.rows, self.cols);
        let kernel = Choice::unmeasured(kernels).kernel_for(shape, None);
        let read_row = |row: usize, trits: &mut [i8]| self.read_row(weights, row, trits);
        Ok(TernaryMatrix::pack(shape, kernels, kernel, &Pool::new(1), |refused| refused, read_row)?)
    }

    fn read_row(&self, weights: &[i8], row: usize, trits: &mut [i8]) -> std::io::Result<()> {
        trits.copy_from_slice(&weights[row * self.cols..][..self.cols]);
        Ok(())
    }
}

/// The bits of a number, with one zero.
fn bits(number: f32) -> i32 {
    (number + 0.0).to_bits().cast_signed()
}

fn columns<'a>(kernels: &'static Kernels, case: &'a Case, copies: usize) -> Result<Vec<Step<'a>>> {
    let (usual, isa) = (Choice::unmeasured(kernels).kernel_for((case.rows, case.cols), None), kernels.isa());
    let dense = ladder::product((isa, usual.name()), (&case.weights, &case.x, case.cols), copies, Prepared::ForEach)?;
    let matrices = (0..copies).map(|_| Ok(case.skipping(kernels, Skips::Columns)?.1)).collect::<Result<Vec<_>>>()?;
    let (pool, mut scratch, mut x) = (Pool::new(1), Scratch::default(), Activations::new(kernels));
    let some = Work::new(copies, move |out| {
        for (matrix, out) in matrices.iter().zip(out.chunks_exact_mut(case.rows)) {
            x.set(kernels, &case.x, case.cols);
            matrix.dot(kernels, &pool, &mut x, &mut scratch, out);
        }
    });
    Ok(vec![
        Step { name: "all", change: "the usual kernel", needs: isa, work: dense },
        Step { name: "columns", change: "those that meet zeros unread", needs: isa, work: Some(some) },
    ])
}

fn gates<'a>(kernels: &'static Kernels, case: &'a Case, copies: usize) -> Result<Vec<Step<'a>>> {
    let input = |kernels: &Kernels, pool: &Pool| {
        let mut x = Activations::new(kernels);
        let numbers: Vec<f32> = case.x.iter().map(|x| f32::from(*x)).collect();
        x.quantize(kernels, pool, Precision::Int8, &numbers, case.cols);
        x
    };
    let dense = |weights: &[i8]| (0..copies).map(|_| case.usual(kernels, weights)).collect::<Result<Vec<_>>>();
    let (gate, up) = (dense(&case.gates)?, dense(&case.weights)?);
    let (pool, mut scratch) = (Pool::new(1), Scratch::default());
    let (mut x, mut found) = (input(kernels, &pool), vec![0.0; case.rows]);
    let all = Work::new(copies, move |out| {
        let scales = &RowScales::Uniform(1.0);
        for ((gate, up), out) in gate.iter().zip(&up).zip(out.chunks_exact_mut(case.rows)) {
            gate.linear(kernels, &pool, &mut x, scales, &mut scratch, (Epilogue::Store, &mut found));
            up.linear(kernels, &pool, &mut x, scales, &mut scratch, (Epilogue::Relu2Mul, &mut found));
            out.iter_mut().zip(&found).for_each(|(out, found)| *out = bits(*found));
        }
    });
    let gate = dense(&case.gates)?;
    let up = (0..copies).map(|_| Ok(case.skipping(kernels, Skips::Rows)?.1)).collect::<Result<Vec<_>>>()?;
    let (pool, mut scratch) = (Pool::new(1), Scratch::default());
    let (mut x, mut found) = (input(kernels, &pool), vec![0.0; case.rows]);
    let some = Work::new(copies, move |out| {
        let scales = &RowScales::Uniform(1.0);
        for ((gate, up), out) in gate.iter().zip(&up).zip(out.chunks_exact_mut(case.rows)) {
            let gate = TernaryLinear { matrix: gate, scales, epilogue: Epilogue::Store };
            let up = SkippingLinear { matrix: up, scales, epilogue: Epilogue::Relu2Mul };
            assert!(gate_up(kernels, &pool, &mut x, &mut scratch, (gate, up), &mut found), "one token");
            out.iter_mut().zip(&found).for_each(|(out, found)| *out = bits(*found));
        }
    });
    let isa = kernels.isa();
    Ok(vec![
        Step {
            name: "all",
            change: "gate, then what it lets through, by the usual kernel",
            needs: isa,
            work: Some(all),
        },
        Step { name: "rows", change: "those behind a closed gate unread", needs: isa, work: Some(some) },
    ])
}
