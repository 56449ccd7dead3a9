//! What the ladders are made of: steps, which are checked against the plain one, timed in turn, and listed.

use anyhow::{Context, Result, bail};
use rotor_kernels::ternary::{Activations, Scratch, TernaryMatrix};
use rotor_kernels::{Isa, Kernels, Pool};
use std::time::{Duration, Instant};

/// Rows of a tile.
pub(crate) const ROWS: usize = rotor_kernels::ternary::TILE_ROWS;
/// Bytes of a cache line, and of a vector.
pub(crate) const LINE: usize = 64;
/// Rows of a vector of int32.
pub(crate) const HALF: usize = 16;

pub(crate) const VNNI: Isa = Isa::Avx512Vnni;

/// The least time of a measurement: well above what the clock resolves, well below what the system gives a thread at a time.
const SLICE: Duration = Duration::from_millis(4);

/// One version of a kernel.
pub(crate) struct Step<'a> {
    pub name: &'static str,
    /// What it has that the step before does not.
    pub change: &'static str,
    pub needs: Isa,
    /// `None` where the CPU lacks what it needs.
    pub work: Option<Work<'a>>,
}

/// Fills `out[product][..]`.
type Run<'a> = dyn FnMut(&mut [i32]) + 'a;

/// What a step does.
pub(crate) struct Work<'a> {
    /// How many times it multiplies the whole matrix of the case.
    pub products: usize,
    pub run: Box<Run<'a>>,
}

impl<'a> Work<'a> {
    pub(crate) fn new(products: usize, run: impl FnMut(&mut [i32]) + 'a) -> Work<'a> {
        Work { products, run: Box::new(run) }
    }
}

/// When activations are prepared for a kernel that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prepared {
    Once,
    ForEach,
}

/// What is in use, from `copies` of a matrix; `None` where the CPU lacks the ISA.
pub(crate) fn product<'a>(
    (isa, kernel): (Isa, &str),
    (weights, x, cols): (&'a [i8], &'a [i8], usize),
    copies: usize,
    prepared: Prepared,
) -> Result<Option<Work<'a>>> {
    let Some(kernels) = Kernels::for_isa(isa) else { return Ok(None) };
    let kernel = kernels.ternary_kernel(kernel).with_context(|| format!("{isa} has no kernel {kernel}"))?;
    let (pool, rows) = (Pool::new(1), weights.len() / cols);
    let read_row = |row: usize, trits: &mut [i8]| {
        trits.copy_from_slice(&weights[row * cols..][..cols]);
        Ok(())
    };
    let pack = |_| TernaryMatrix::pack((rows, cols), kernels, kernel, &pool, |refused| refused, read_row);
    let matrices = (0..copies).map(pack).collect::<std::io::Result<Vec<_>>>()?;
    let (mut activations, mut scratch) = (Activations::new(kernels), Scratch::default());
    activations.set(kernels, x, cols);
    Ok(Some(Work::new(copies, move |out| {
        let outputs = out.len() / copies;
        for (matrix, out) in matrices.iter().zip(out.chunks_exact_mut(outputs)) {
            if prepared == Prepared::ForEach {
                activations.set(kernels, x, cols);
            }
            matrix.dot(kernels, &pool, &mut activations, &mut scratch, out);
        }
    })))
}

/// Weights and activations of a check: random ones, and the pairs whose sums are largest.
pub(crate) fn cases(weights: usize, activations: usize) -> Vec<(Vec<i8>, Vec<i8>)> {
    let random = random(weights, activations);
    let mut cases = vec![random.clone()];
    for weight in [1, -1] {
        cases.push((vec![weight; weights], random.1.clone()));
        cases.extend([-128, 127].map(|x| (vec![weight; weights], vec![x; activations])));
    }
    cases
}

/// Random weights and activations, the same in every run.
pub(crate) fn random(weights: usize, activations: usize) -> (Vec<i8>, Vec<i8>) {
    let mut rng = fastrand::Rng::with_seed(1);
    ((0..weights).map(|_| rng.i8(-1..=1)).collect(), (0..activations).map(|_| rng.i8(..)).collect())
}

/// The definition: `out[token][row]`, from weights `[rows, cols]` and activations `[tokens, cols]`.
pub(crate) fn by_definition(weights: &[i8], x: &[i8], cols: usize) -> Vec<i32> {
    let dot = |row: &[i8], x: &[i8]| row.iter().zip(x).map(|(w, x)| i32::from(*w) * i32::from(*x)).sum();
    x.chunks_exact(cols).flat_map(|x| weights.chunks_exact(cols).map(move |row| dot(row, x))).collect()
}

/// Whether every step gives the `expected` numbers in each of its products.
///
/// # Errors
/// Naming the first step that does not.
pub(crate) fn check(steps: &mut [Step<'_>], expected: &[i32]) -> Result<()> {
    for Step { name, work, .. } in steps {
        let Some(work) = work else { continue };
        let mut out = vec![i32::MIN; work.products * expected.len()];
        (work.run)(&mut out);
        for (at, (found, expected)) in out.iter().zip(expected.iter().cycle()).enumerate() {
            if found != expected {
                bail!("{name}: output {at}: expected {expected}, found {found}");
            }
        }
    }
    Ok(())
}

/// Times every step once in each round, each round in the other order than the one before, and prints the medians.
///
/// # Errors
/// Where a step does not give the `expected` numbers.
pub(crate) fn time(steps: &mut [Step<'_>], expected: &[i32], macs: usize, rounds: usize) -> Result<()> {
    // Warms up, too.
    check(steps, expected)?;
    let mut speeds = vec![Vec::new(); steps.len()];
    for round in 0..rounds {
        for turn in 0..steps.len() {
            let at = if round % 2 == 0 { turn } else { steps.len() - 1 - turn };
            let Some(work) = &mut steps[at].work else { continue };
            let mut out = vec![0; work.products * expected.len()];
            speeds[at].push(macs as f64 * products_per_second(work, &mut out) / 1e9);
        }
    }
    print(steps, speeds);
    Ok(())
}

fn products_per_second(work: &mut Work<'_>, out: &mut [i32]) -> f64 {
    let (start, mut products) = (Instant::now(), 0);
    loop {
        (work.run)(std::hint::black_box(&mut *out));
        products += work.products;
        let taken = start.elapsed();
        if taken >= SLICE {
            return products as f64 / taken.as_secs_f64();
        }
    }
}

fn print(steps: &[Step<'_>], speeds: Vec<Vec<f64>>) {
    println!("\n| step | what changed | Gmac/s | to the step before |\n|---|---|---|---|");
    let mut before = None;
    for (Step { name, change, needs, .. }, mut speeds) in steps.iter().zip(speeds) {
        speeds.sort_by(f64::total_cmp);
        let Some(median) = speeds.get(speeds.len() / 2).copied() else {
            println!("| {name} | {change} | skipped: this CPU lacks {needs} | |");
            continue;
        };
        let ratio = before.map_or(String::new(), |before| format!("{:.2}", median / before));
        println!("| {name} | {change} | {median:.1} | {ratio} |");
        before = Some(median);
    }
}
