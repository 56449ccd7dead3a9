//! Whether it pays to leave anything unread.
//!
//! Cache lines in no order come slower than lines in order: on the machines that were measured at about half of the rate (16 of
//! some 30 GB/s for a core of a Zen 5, 4 of some 9 for one of a Zen 3). Whether fewer lines are then faster depends on the machine
//! and on its usual kernel, so both ways are timed on matrices of the model's shapes.

use super::matrix::{SkippingKernel, SkippingMatrix, Skips};
use crate::buffer::Buffer;
use crate::clock::Instant;
use crate::dispatch::Kernels;
use crate::noise::Noise;
use crate::pool::Pool;
use crate::ternary::{Activations, Scratch, TernaryKernel, TernaryMatrix};

/// How many in a hundred rows or columns matter in the trial: BitNet b1.58 2B4T has as many gates above zero.
const SHARE: u32 = 42;
/// Rounds, in each of which every way has its turn.
const ROUNDS: usize = 7;
/// How many times as fast as all weights in their usual packing it has to be: measured times differ by as much.
const GAIN: f64 = 1.02;

/// The share of rows or columns from which on all are read, and zero where `usual` is best for all shares that are likely. There are
/// as many matrices of this shape as `bytes` hold: what one product does at its ends counts too.
///
/// # Errors
/// Where the system refuses the memory.
pub(crate) fn dense_from(
    kernels: &'static Kernels,
    pool: &Pool,
    (kernel, usual): (SkippingKernel, &'static TernaryKernel),
    ((rows, cols), skips): ((usize, usize), Skips),
    bytes: usize,
) -> std::io::Result<f64> {
    let (parts, part_bytes) = kernel.pack_sizes((rows, cols), skips);
    let each = (parts * part_bytes).max(usual.packed_bytes(rows, cols));
    let memory = (0..(bytes / each.max(1)).max(1)).map(|_| Buffer::written(each, pool));
    let mut memory = memory.collect::<std::io::Result<Vec<_>>>()?;
    let mut noise = Noise::new(5);
    let matters: Vec<i8> = (0..rows.max(cols)).map(|_| i8::from(noise.next() % 100 < SHARE)).collect();
    let mut x = Activations::new(kernels);
    let (mut scratch, mut out) = (Scratch::default(), vec![0; rows]);
    let (mut gains, mut shares) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let matrices = memory.drain(..).map(|bytes| TernaryMatrix::of_tiles((rows, cols), usual, bytes));
        let matrices: Vec<_> = matrices.collect();
        x.set(kernels, &matters[..cols], cols);
        let usually = seconds(&matrices, |matrix| {
            // Rows share their input with a gate, which has been prepared; that of columns is new to each matrix.
            if skips == Skips::Columns {
                x.set(kernels, &matters[..cols], cols);
            }
            matrix.dot(kernels, pool, &mut x, &mut scratch, &mut out);
        });
        memory.extend(matrices.into_iter().map(TernaryMatrix::into_tiles));
        // All in the order of their places, and some in no order.
        let [all, some] = [0.0, 1.0].map(|dense_from| {
            let kernel = kernel.with_dense_from(dense_from);
            let matrices = memory.drain(..).map(|bytes| SkippingMatrix::of_bytes((rows, cols), skips, kernel, bytes));
            let matrices: Vec<_> = matrices.collect();
            let seconds = match skips {
                Skips::Rows => seconds(&matrices, |matrix| {
                    matrix.open_rows(pool, &x, &matters[..rows], &mut scratch, &mut out);
                }),
                Skips::Columns => seconds(&matrices, |matrix| {
                    x.set(kernels, &matters[..cols], cols);
                    matrix.dot(kernels, pool, &mut x, &mut scratch, &mut out);
                }),
            };
            memory.extend(matrices.into_iter().map(SkippingMatrix::into_bytes));
            seconds
        });
        gains.push(usually / some);
        shares.push(f64::from(SHARE) / 100.0 * all / some);
    }
    let (gain, share) = (median(gains), median(shares));
    Ok(if gain > GAIN { share.min(1.0) } else { 0.0 })
}

/// Seconds of a task for all of the matrices.
fn seconds<M>(matrices: &[M], task: impl FnMut(&M)) -> f64 {
    let start = Instant::now();
    matrices.iter().for_each(task);
    start.elapsed().as_secs_f64()
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
