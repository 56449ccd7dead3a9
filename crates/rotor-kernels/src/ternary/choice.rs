//! Which kernel multiplies which matrix.
//!
//! What is best depends on how many bytes a second a core gets from memory and on how fast it multiplies: a denser packing
//! costs instructions and saves bytes. So for large models the kernels of an ISA are tried, once, on matrices like the
//! model's: first the packed layouts by one token, then, where kernels of the winner's layout differ in what they do with
//! many tokens, those by a prompt. Whether it pays to leave rows or columns unread is tried too. All ways give the same bits; a
//! trial that chooses badly costs time and nothing else.

use super::kernel::TernaryKernel;
use super::matrix::{Scratch, TernaryMatrix};
use super::skipping::{SkippingKernel, Skips, dense_from};
use super::{Activations, TILE_ROWS};
use crate::buffer::Buffer;
use crate::clock::Instant;
use crate::dispatch::Kernels;
use crate::noise::Noise;
use crate::pool::Pool;
use std::fmt;

/// Packed weights of a trial: more than the caches of most machines hold.
const TRIAL_BYTES: usize = 128 << 20;
/// Rounds of a trial, in each of which every kernel has its turn.
const TRIAL_ROUNDS: usize = 8;
/// How much slower a denser packing may be and still be taken: memory that is shared with others is as fast as in the trial
/// at best, and measured times differ by as much.
const DENSER_SLACK: f64 = 1.04;
/// Tokens and rows of the trial of prompts.
const PROMPT: (usize, usize) = (128, 6144);

/// The kernels chosen for the ternary matrices of a model, by their shape.
#[derive(Clone, Debug)]
pub struct Choice {
    kernels: &'static Kernels,
    /// For all shapes but those that were measured.
    general: &'static TernaryKernel,
    /// Whether somebody asked for just this kernel.
    named: bool,
    measured: Vec<((usize, usize), &'static TernaryKernel)>,
    /// The share of rows or columns from which on all are read; 0 where nothing is gained by leaving any unread.
    skipping: Vec<((usize, usize), Skips, f64)>,
}

impl Choice {
    /// What is best on most CPUs of this ISA.
    pub fn unmeasured(kernels: &'static Kernels) -> Choice {
        let (general, measured, skipping) = (kernels.ternary_kernels()[0], Vec::new(), Vec::new());
        Choice { kernels, general, named: false, measured, skipping }
    }

    /// The kernel named by `ROTOR_KERNEL` for every shape; `None` where the variable is not set.
    ///
    /// # Errors
    /// Where it names a kernel that the ISA does not have.
    pub fn from_env(kernels: &'static Kernels) -> Result<Option<Choice>, UnknownKernel> {
        match std::env::var("ROTOR_KERNEL") {
            Ok(name) if !name.is_empty() => match kernels.ternary_kernel(&name) {
                Some(general) => Ok(Some(Choice { general, named: true, ..Choice::unmeasured(kernels) })),
                None => Err(UnknownKernel { name, kernels }),
            },
            _ => Ok(None),
        }
    }

    /// Whether a kernel was asked for by name, so that there is nothing to choose.
    pub fn is_named(&self) -> bool {
        self.named
    }

    /// Takes for each of `shapes` (`[rows, cols]`) a kernel of the layout that is multiplied by one token fastest, the weights
    /// coming from memory, or of a denser one that is hardly slower, and of these the one that multiplies a prompt fastest. It
    /// takes some tenths of a second.
    ///
    /// # Errors
    /// Where the system refuses the memory for the trial.
    pub fn measure(kernels: &'static Kernels, pool: &Pool, shapes: &[(usize, usize)]) -> std::io::Result<Choice> {
        Choice::measure_with(TRIAL_BYTES, kernels, pool, shapes)
    }

    fn measure_with(
        bytes: usize,
        kernels: &'static Kernels,
        pool: &Pool,
        shapes: &[(usize, usize)],
    ) -> std::io::Result<Choice> {
        let mut choice = Choice::unmeasured(kernels);
        if kernels.ternary_kernels().len() == 1 {
            choice.measured.extend(shapes.iter().map(|shape| (*shape, choice.general)));
            return Ok(choice);
        }
        let mut tiles = Buffer::written(bytes, pool)?;
        for &shape in shapes {
            // Rows are only multiplied one after the other, so shapes of the same width give the same answer, or nearly.
            let known = choice.measured.iter().find(|((_, cols), _)| *cols == shape.1);
            let fastest = match known {
                Some((_, kernel)) => *kernel,
                None => {
                    let (kernel, memory) = fastest(kernels, pool, shape.1, tiles);
                    tiles = memory;
                    fastest_for_prompts(kernels, pool, shape, kernel)?
                }
            };
            choice.measured.push((shape, fastest));
        }
        Ok(choice)
    }

    /// The choice that [`Choice::measured`] told; names that the ISA does not have are passed over.
    pub fn remembered<'a>(
        kernels: &'static Kernels,
        measured: impl IntoIterator<Item = ((usize, usize), &'a str)>,
    ) -> Choice {
        let known = |(shape, name): (_, &str)| Some((shape, kernels.ternary_kernel(name)?));
        Choice { measured: measured.into_iter().filter_map(known).collect(), ..Choice::unmeasured(kernels) }
    }

    /// The shapes that were measured and the names of their kernels.
    pub fn measured(&self) -> impl Iterator<Item = ((usize, usize), &'static str)> {
        self.measured.iter().map(|(shape, kernel)| (*shape, kernel.name()))
    }

    /// Measures whether it pays to leave rows or columns of matrices of this shape unread, and from which share of needed ones on
    /// all are read. Takes some tenths of a second. Returns `false`, at once, where the answer would change nothing: no kernel can
    /// leave anything unread and multiply many tokens as the usual kernel does.
    ///
    /// # Errors
    /// Where the system refuses the memory for the trial.
    pub fn measure_skipping(&mut self, pool: &Pool, shape: (usize, usize), skips: Skips) -> std::io::Result<bool> {
        self.measure_skipping_with(TRIAL_BYTES, pool, shape, skips)
    }

    fn measure_skipping_with(
        &mut self,
        bytes: usize,
        pool: &Pool,
        shape: (usize, usize),
        skips: Skips,
    ) -> std::io::Result<bool> {
        let usual = self.kernel_for(shape, None);
        let Some(kernel) = self.skipping_kernel_for(shape, skips).filter(|kernel| kernel.goes_as(usual)) else {
            return Ok(false);
        };
        let share = dense_from(self.kernels, pool, (kernel, usual), (shape, skips), bytes)?;
        self.remember_skipping([(shape, skips, share)]);
        Ok(true)
    }

    /// Takes what [`Choice::measured_skipping`] told; what is no share is passed over.
    pub fn remember_skipping(&mut self, measured: impl IntoIterator<Item = ((usize, usize), Skips, f64)>) {
        let fits = |(_, _, share): &(_, _, f64)| (0.0..=1.0).contains(share);
        self.skipping.extend(measured.into_iter().filter(fits));
    }

    /// The shapes of which it was measured whether rows or columns should be left unread, and the share of those that matter from
    /// which on all are read: 0 where it never pays.
    pub fn measured_skipping(&self) -> impl Iterator<Item = ((usize, usize), Skips, f64)> {
        self.skipping.iter().copied()
    }

    /// The kernel for a matrix `[rows, cols]`, with scales for groups of so many of its columns or without.
    ///
    /// # Panics
    /// If no kernel can take such groups, that is if they are not multiples of [`super::GROUP_ALIGN`].
    pub fn kernel_for(&self, shape: (usize, usize), group_cols: Option<usize>) -> &'static TernaryKernel {
        let fits = |kernel: &&TernaryKernel| group_cols.is_none_or(|cols| kernel.can_scale(cols));
        let measured = self.measured.iter().find(|(measured, _)| *measured == shape);
        let preferred = measured.map_or(self.general, |(_, kernel)| kernel);
        let all = self.kernels.ternary_kernels();
        let by_groups =
            |kernel: &&TernaryKernel| kernel.many_groups.iter().any(|tables| group_cols == Some(tables.cols));
        let by_groups = all.iter().copied().find(by_groups).filter(|_| !self.named);
        let mut all = by_groups.into_iter().chain([preferred]).chain(all.iter().copied());
        all.find(fits).expect("planes and codes can be cut anywhere that groups may end")
    }
}

impl Choice {
    /// How a matrix of this shape is packed so that something of it can be left unread; `None` where it cannot.
    pub fn skipping_kernel_for(&self, shape: (usize, usize), skips: Skips) -> Option<SkippingKernel> {
        let (usual, all) = (self.kernel_for(shape, None), self.kernels.ternary_kernels().iter().copied());
        let alike = all.clone().filter(|dense| dense.way() == usual.way());
        let in_turn = std::iter::once(usual).chain(alike).chain(all);
        let mut kernels = in_turn.filter_map(|dense| SkippingKernel::new(self.kernels, dense));
        let kernel = kernels.next().filter(|kernel| kernel.packed_bytes(shape, skips).is_some())?;
        let measured = self.skipping.iter().rfind(|(of, skipped, _)| (*of, *skipped) == (shape, skips));
        Some(measured.map_or(kernel, |(_, _, share)| kernel.with_dense_from(*share)))
    }

    /// Whether that kernel is faster for one token, as far as is known, and multiplies many in the way of the usual kernel, about as
    /// fast.
    pub fn skips_well(&self, shape: (usize, usize), kernel: SkippingKernel) -> bool {
        kernel.pays() && kernel.goes_as(self.kernel_for(shape, None))
    }
}

/// The first kernel of the layout that takes the least time for as many rows of `cols` weights as `tiles` holds, all of them
/// reading the same memory in turn. What it holds does not matter: no kernel's time for one token depends on the weights.
fn fastest(
    kernels: &'static Kernels,
    pool: &Pool,
    cols: usize,
    mut tiles: Buffer<u8>,
) -> (&'static TernaryKernel, Buffer<u8>) {
    let all = kernels.ternary_kernels();
    let is_first =
        |(at, kernel): &(usize, &&'static TernaryKernel)| !all[..*at].iter().any(|k| k.shares_layout(kernel));
    let candidates: Vec<_> = all.iter().enumerate().filter(is_first).map(|(_, kernel)| *kernel).collect();
    let mut activations = Activations::new(kernels);
    activations.set(kernels, &vec![1; cols], cols);
    let (mut scratch, mut out) = (Scratch::default(), Vec::new());
    let mut memory = Some(tiles);
    let fastest = fast_and_dense(&candidates, |kernel| {
        let tiles = memory.take().expect("given back after each turn");
        let rows = tiles.len() / kernel.packed_bytes(TILE_ROWS, cols).max(1) * TILE_ROWS;
        out.resize(rows, 0);
        let matrix = TernaryMatrix::of_tiles((rows, cols), kernel, tiles);
        let start = Instant::now();
        matrix.dot(kernels, pool, &mut activations, &mut scratch, &mut out);
        let seconds = start.elapsed().as_secs_f64() / rows.max(1) as f64;
        memory = Some(matrix.into_tiles());
        seconds
    });
    tiles = memory.expect("given back after each turn");
    (fastest, tiles)
}

/// The kernel of `kernel`'s layout that multiplies many tokens fastest. Weights and activations are random, because the time
/// of looking up depends on where the entries are and on how large; a matrix wider than high is the one behind a gate.
fn fastest_for_prompts(
    kernels: &'static Kernels,
    pool: &Pool,
    (shape_rows, cols): (usize, usize),
    kernel: &'static TernaryKernel,
) -> std::io::Result<&'static TernaryKernel> {
    // What differs with groups alone is the same here.
    let differs = |other: &&TernaryKernel| other.shares_layout(kernel) && other.many_groups.is_empty();
    let candidates: Vec<_> = kernels.ternary_kernels().iter().copied().filter(differs).collect();
    if candidates.len() == 1 {
        return Ok(kernel);
    }
    let (tokens, rows) = PROMPT;
    let (mut x, mut noise) = (Activations::new(kernels), Noise::new(1));
    let behind_gate = cols > shape_rows;
    let q = if behind_gate { noise.gated_activations(tokens * cols) } else { noise.activations(tokens * cols) };
    x.set(kernels, &q, cols);
    let read_row = |row: usize, trits: &mut [i8]| -> std::io::Result<()> {
        Noise::new(row as u32).fill_trits(trits);
        Ok(())
    };
    let packed = TernaryMatrix::pack((rows, cols), kernels, kernel, pool, |error| error, read_row)?;
    let (mut scratch, mut out) = (Scratch::default(), vec![0; tokens * rows]);
    let mut memory = Some(packed.into_tiles());
    Ok(fast_and_dense(&candidates, |kernel| {
        let tiles = memory.take().expect("given back after each turn");
        let matrix = TernaryMatrix::of_tiles((rows, cols), kernel, tiles);
        let start = Instant::now();
        matrix.dot(kernels, pool, &mut x, &mut scratch, &mut out);
        let seconds = start.elapsed().as_secs_f64();
        memory = Some(matrix.into_tiles());
        seconds
    }))
}

/// The densest of the candidates that take about the least time, by what `seconds` takes of each in turn, the first turns
/// being to warm up.
fn fast_and_dense(
    candidates: &[&'static TernaryKernel],
    mut seconds: impl FnMut(&'static TernaryKernel) -> f64,
) -> &'static TernaryKernel {
    let mut best: Vec<_> = candidates.iter().map(|kernel| (f64::INFINITY, kernel.bits_per_weight())).collect();
    for _ in 0..TRIAL_ROUNDS {
        for (kernel, (best, _)) in candidates.iter().zip(&mut best) {
            *best = best.min(seconds(kernel));
        }
    }
    candidates[densest_of_the_fast(&best)]
}

/// Of seconds and bits a weight the place where bits are fewest and seconds about the least; of equal bits, least.
fn densest_of_the_fast(measured: &[(f64, f64)]) -> usize {
    let least = measured.iter().map(|(seconds, _)| *seconds).fold(f64::INFINITY, f64::min);
    let fast = measured.iter().enumerate().filter(|(_, (seconds, _))| *seconds <= least * DENSER_SLACK);
    let densest = fast.min_by(|(_, a), (_, b)| a.1.total_cmp(&b.1).then(a.0.total_cmp(&b.0)));
    densest.map_or(0, |(at, _)| at)
}

/// `ROTOR_KERNEL` names a kernel that is not there.
#[derive(Clone, Debug)]
pub struct UnknownKernel {
    name: String,
    kernels: &'static Kernels,
}

impl fmt::Display for UnknownKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.kernels.ternary_kernels().iter().map(|kernel| kernel.name()).collect();
        let (isa, names) = (self.kernels.isa(), names.join(", "));
        write!(f, "ROTOR_KERNEL: expected one of {names}, which is what {isa} has, found {:?}", self.name)
    }
}

impl std::error::Error for UnknownKernel {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn a_choice_is_remembered_by_name_and_gives_way_where_groups_cannot_be_cut() {
        for kernels in Isa::available().filter_map(Kernels::for_isa) {
            for kernel in kernels.ternary_kernels() {
                let told = [((64, 96), kernel.name()), ((32, 96), "no such kernel")];
                let choice = Choice::remembered(kernels, told);
                assert_eq!(choice.measured().collect::<Vec<_>>(), [((64, 96), kernel.name())]);
                assert_eq!(choice.kernel_for((64, 96), None).name(), kernel.name());
                assert_eq!(choice.kernel_for((32, 96), None).name(), kernels.ternary_kernels()[0].name());
                assert!(choice.kernel_for((64, 96), Some(32)).can_scale(32));
                let skipping = choice.skipping_kernel_for((64, 96), Skips::Columns);
                assert_eq!(skipping.is_some(), kernels.can_skip());
            }
        }
    }

    #[test]
    fn a_denser_packing_may_be_a_little_slower() {
        let choose =
            |trios: f64, codes: f64| densest_of_the_fast(&[(1.0, 2.0), (trios, 1.67), (codes, 2.0), (2.0, 2.0)]);
        assert_eq!(choose(1.03, 0.999), 1);
        assert_eq!(choose(1.05, 0.999), 2);
        assert_eq!(choose(1.05, 1.001), 0);
        assert_eq!(choose(0.9, 0.999), 1);
    }

    #[test]
    fn a_trial_chooses_a_kernel_of_the_isa_for_every_shape() {
        let kernels = Kernels::for_isa(Isa::best()).unwrap();
        let shapes = [(640, 2560), (2560, 2560), (2560, 96)];
        let choice = Choice::measure_with(1 << 20, kernels, &Pool::new(2), &shapes).unwrap();
        assert_eq!(choice.measured().map(|(shape, _)| shape).collect::<Vec<_>>(), shapes);
        for (_, name) in choice.measured() {
            assert!(kernels.ternary_kernel(name).is_some());
        }
    }

    #[test]
    fn a_trial_says_from_which_share_on_all_is_read() {
        for kernels in Isa::available().filter_map(Kernels::for_isa).filter(|kernels| kernels.can_skip()) {
            let mut choice = Choice::unmeasured(kernels);
            for (shape, skips) in [((640, 256), Skips::Rows), ((256, 640), Skips::Columns)] {
                let kernel = choice.skipping_kernel_for(shape, skips).unwrap();
                let (matters, before) = (choice.skips_well(shape, kernel), choice.measured_skipping().count());
                assert_eq!(choice.measure_skipping_with(1 << 18, &Pool::new(2), shape, skips).unwrap(), matters);
                assert_eq!(choice.measured_skipping().count(), before + usize::from(matters));
                if let Some((known, of, share)) = choice.measured_skipping().last() {
                    assert!((known, of) == (shape, skips) && (0.0..=1.0).contains(&share), "{share}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_pay_is_not_taken_and_what_is_no_share_is_passed_over() {
        let (shape, skips) = ((640, 256), Skips::Rows);
        let pays = |choice: &Choice| {
            choice.skipping_kernel_for(shape, skips).is_some_and(|kernel| choice.skips_well(shape, kernel))
        };
        let all = Isa::available().filter_map(Kernels::for_isa).map(Choice::unmeasured);
        // On a CPU that has the scalar kernels alone there is nothing to check.
        let Some(mut choice) = all.filter(pays).last() else { return };
        choice.remember_skipping([(shape, skips, f64::NAN), (shape, skips, -1.0), (shape, skips, 1.5)]);
        assert_eq!(choice.measured_skipping().count(), 0);
        choice.remember_skipping([(shape, Skips::Columns, 0.0)]);
        assert!(pays(&choice));
        choice.remember_skipping([(shape, skips, 0.0)]);
        assert!(!pays(&choice));
        choice.remember_skipping([(shape, skips, 0.6)]);
        assert!(pays(&choice));
    }
}
