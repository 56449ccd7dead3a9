//! What this machine can do at most: the roofs that every speed is held against.
//!
//! Decoding is bounded by how fast weights can be read from memory, a prompt by how fast int8 numbers can be multiplied.
//! They are measured in the run they are compared with, because a clock, a neighbour or a container changes them.
//!
//! - **Read bandwidth.** One stream of loads leaves memory half idle: its next lines are asked for only when the hardware
//!   notices the pattern again, at every page. Eight streams a thread, each with a prefetch to L2 some lines ahead, keep
//!   enough requests in flight. The memory read is well beyond the caches and on huge pages, as packed weights are.
//! - **The peak of multiplying.** The widest multiplication of int8 numbers that the kernels use, its operands in registers
//!   and the L1 cache, nothing unpacked and nothing gathered: what no kernel that multiplies can pass. (One that looks sums up
//!   in tables can.)
//! - **The yardstick.** The kernel most engines have: 2-bit codes, 128 to a block of 32 bytes, unpacked once for 8 tokens,
//!   multiplied byte by byte into int16 and gathered in int32, weights in L2. Its rate depends on the CPU alone, so a
//!   multiple of it compares kernels across machines.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod vnni;

use crate::buffer::Buffer;
use crate::clock::Instant;
use crate::dispatch::Kernels;
use crate::isa::Isa;
use crate::pool::{Pool, SharedMut};
use std::hint::black_box;
use std::time::Duration;

/// Streams that a thread reads at once.
const STREAMS: usize = 8;
/// Bytes read from one stream before it is the next one's turn.
const RUN_BYTES: usize = 256;
/// Bytes of a task of reading; each of its streams is a huge page.
const TASK_BYTES: usize = STREAMS << 21;
/// Times all of the memory is read; the fastest counts.
const READS: usize = 5;

/// Weights of a block of the yardstick's layout.
const BLOCK_COLS: usize = 128;
/// Bytes of a block: byte `j` holds weights `j`, `j + 32`, `j + 64` and `j + 96`, the first in its highest bits, as
/// `weight + 1`.
const BLOCK_BYTES: usize = 32;
/// Tokens that the yardstick multiplies per unpacked block.
const TOKENS: usize = 8;
/// Blocks of a row: 2560 columns, the width of BitNet-b1.58-2B-4T.
const BLOCKS: usize = 20;
/// Rows of one thread's weights: 240 KiB, inside the L2 of every x86-64 CPU with AVX2.
const ROWS: usize = 384;
/// How long one measurement of the yardstick takes at least.
const SLICE: Duration = Duration::from_millis(30);
/// Measurements of the yardstick; the fastest counts.
const SLICES: usize = 7;

/// Bytes that the peak is measured on: whole rounds of three vectors of every width.
const PEAK_BYTES: usize = 3072;
/// Weights held in registers that each byte is multiplied with, where the registers hold one row.
const PEAK_WEIGHTS: usize = 4;

/// The measuring kernels of one ISA.
struct MeasureKernels {
    /// Reads whole runs of every stream and returns the exclusive or of all 64-bit words.
    pub read: unsafe fn(bytes: &[u8]) -> u64,
    /// `out[row][token] = sum over columns of weight * x`, for rows of `blocks` blocks and 8 tokens arranged as
    /// `x[block][part of 32 columns][token][32]`.
    pub multiply: unsafe fn(weights: &[u8], blocks: usize, x: &[i8], out: &mut [i32]),
    /// Multiplies bytes of `x` by weights, `rounds` times; returns some sum of the products.
    pub peak: unsafe fn(x: &[i8; PEAK_BYTES], rounds: usize) -> i32,
    /// Multiply-adds of such a round.
    pub peak_products: usize,
}

fn kernels_of(kernels: &Kernels) -> &'static MeasureKernels {
    match kernels.isa {
        Isa::Scalar => &scalar::KERNELS,
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => &MeasureKernels { peak: vnni::peak_256, ..avx2::KERNELS },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::Avx512Vbmi => &MeasureKernels { peak: vnni::peak_512, ..avx2::KERNELS },
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Isa::Amx => &MeasureKernels { peak: amx::peak, peak_products: amx::PRODUCTS, ..avx2::KERNELS },
        #[cfg(target_arch = "x86_64")]
        _ => &avx2::KERNELS,
        #[cfg(not(target_arch = "x86_64"))]
        _ => &scalar::KERNELS,
    }
}

/// Memory to be read, well beyond the caches.
#[derive(Debug)]
pub struct ReadBandwidth {
    memory: Buffer<u8>,
}

impl ReadBandwidth {
    /// Takes `bytes` of memory (a little more or less, so that tasks are whole) and writes it once.
    ///
    /// # Errors
    /// Where the system refuses the memory.
    pub fn new(bytes: usize, pool: &Pool) -> std::io::Result<ReadBandwidth> {
        let mut memory = Buffer::zeroed(bytes.next_multiple_of(TASK_BYTES).max(TASK_BYTES))?;
        pool.for_each_chunk(&mut memory, TASK_BYTES, |task, chunk| chunk.fill(task as u8 | 1));
        Ok(ReadBandwidth { memory })
    }

    /// Bytes read each time.
    pub fn bytes(&self) -> usize {
        self.memory.len()
    }

    /// Bytes per second that all threads of the pool read together, the fastest of several times.
    pub fn measure(&self, kernels: &Kernels, pool: &Pool) -> f64 {
        let read = kernels_of(kernels).read;
        let fastest = fastest(READS, || {
            pool.run(self.memory.len() / TASK_BYTES, |_, task| {
                let bytes = &self.memory[task * TASK_BYTES..(task + 1) * TASK_BYTES];
                // SAFETY: the CPU has the ISA of `kernels`; a task is whole runs of every stream.
                black_box(unsafe { read(bytes) });
            });
        });
        self.memory.len() as f64 / fastest.as_secs_f64()
    }
}

/// Multiply-adds per second of the plain multiply kernel on all threads of the pool, the fastest of several times.
pub fn yardstick(kernels: &Kernels, pool: &Pool) -> f64 {
    let multiply = kernels_of(kernels).multiply;
    let weights: Vec<u8> = (0..ROWS * BLOCKS * BLOCK_BYTES).map(|i| [0x00, 0x55, 0xaa, 0x19][i * 7 % 4]).collect();
    let x: Vec<i8> = (0..TOKENS * BLOCKS * BLOCK_COLS).map(|i| (i * 31 % 255) as i8).collect();
    let threads = pool.threads();
    let mut weights = weights.repeat(threads);
    let mut out = vec![0i32; threads * ROWS * TOKENS];
    let mut run = |times: usize| {
        let (weights, out) = (SharedMut::new(&mut weights), SharedMut::new(&mut out));
        pool.run(threads, |_, task| {
            // SAFETY: each task has its own weights and outputs.
            let (weights, out) = unsafe {
                (
                    weights.slice(task * ROWS * BLOCKS * BLOCK_BYTES, ROWS * BLOCKS * BLOCK_BYTES),
                    out.slice(task * ROWS * TOKENS, ROWS * TOKENS),
                )
            };
            for _ in 0..times {
                // SAFETY: the CPU has the ISA of `kernels`; the slices have the lengths of 20 blocks and 8 tokens.
                unsafe { multiply(black_box(weights), BLOCKS, &x, out) };
            }
        });
    };
    let times = times_for(SLICE, &mut run);
    let fastest = fastest(SLICES, || run(times));
    (threads * times * ROWS * BLOCKS * BLOCK_COLS * TOKENS) as f64 / fastest.as_secs_f64()
}

/// Multiply-adds per second of the ISA's int8 multiplication alone on all threads of the pool, the fastest of several times.
pub fn multiply_peak(kernels: &Kernels, pool: &Pool) -> f64 {
    let MeasureKernels { peak, peak_products, .. } = *kernels_of(kernels);
    let x: [i8; PEAK_BYTES] = std::array::from_fn(|i| (i * 31 % 255) as i8);
    let run = |times: usize| {
        pool.run(pool.threads(), |_, _| {
            // SAFETY: the CPU has the ISA of `kernels`.
            black_box(unsafe { peak(black_box(&x), times) });
        });
    };
    let times = times_for(SLICE, &mut |times| run(times));
    let fastest = fastest(SLICES, || run(times));
    (pool.threads() * times * peak_products) as f64 / fastest.as_secs_f64()
}

/// The shortest of `times` runs.
fn fastest(times: usize, mut run: impl FnMut()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    (0..times.max(1)).map(time).min().unwrap_or_default()
}

/// How many times `run` must be done at once to take at least `slice`.
fn times_for(slice: Duration, run: &mut impl FnMut(usize)) -> usize {
    let mut times = 1;
    loop {
        let start = Instant::now();
        run(times);
        let taken = start.elapsed();
        if taken >= slice {
            return times;
        }
        let factor = slice.as_secs_f64() / taken.as_secs_f64().max(1e-9);
        times *= (factor * 1.2).clamp(2.0, 64.0) as usize;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: weight by weight.
    fn product(weights: &[u8], blocks: usize, x: &[i8]) -> Vec<i32> {
        let weight = |row: usize, col: usize| {
            let (block, within) = (col / BLOCK_COLS, col % BLOCK_COLS);
            let byte = weights[(row * blocks + block) * BLOCK_BYTES + within % 32];
            i32::from(byte >> (6 - 2 * (within / 32)) & 3) - 1
        };
        let activation = |token: usize, col: usize| {
            let (part, within) = (col / 32, col % 32);
            i32::from(x[(part * TOKENS + token) * 32 + within])
        };
        let rows = weights.len() / (blocks * BLOCK_BYTES);
        let dot = |row, token| (0..blocks * BLOCK_COLS).map(|col| weight(row, col) * activation(token, col)).sum();
        (0..rows)
            .flat_map(|row| (0..TOKENS).map(move |token| (row, token)))
            .map(|(row, token)| dot(row, token))
            .collect()
    }

    fn all() -> impl Iterator<Item = &'static MeasureKernels> {
        Isa::available().filter_map(Kernels::for_isa).map(kernels_of)
    }

    #[test]
    fn the_yardstick_multiplies_exactly() {
        let mut rng = fastrand::Rng::with_seed(5);
        for (rows, blocks) in [(1, 1), (3, 16), (2, 17), (5, 20), (2, 54)] {
            let codes: Vec<u8> =
                (0..rows * blocks * BLOCK_BYTES).map(|_| (0..4).fold(0, |byte, _| byte << 2 | rng.u8(0..3))).collect();
            let random: Vec<i8> = (0..TOKENS * blocks * BLOCK_COLS).map(|_| rng.i8(..)).collect();
            let worst = [vec![127; random.len()], vec![-128; random.len()], random];
            for weights in [codes.clone(), vec![0xaa; codes.len()], vec![0; codes.len()]] {
                for x in &worst {
                    for kernels in all() {
                        let mut out = vec![i32::MIN; rows * TOKENS];
                        // SAFETY: `all` yields kernels of ISAs this CPU has; lengths as `MeasureKernels` wants them.
                        unsafe { (kernels.multiply)(&weights, blocks, x, &mut out) };
                        assert_eq!(out, product(&weights, blocks, x));
                    }
                }
            }
        }
    }

    #[test]
    fn reading_touches_every_word() {
        let mut rng = fastrand::Rng::with_seed(6);
        let mut bytes = vec![0u8; STREAMS * RUN_BYTES * 5];
        bytes.iter_mut().for_each(|byte| *byte = rng.u8(..));
        let expected = bytes.as_chunks().0.iter().fold(0, |all, word| all ^ u64::from_le_bytes(*word));
        for kernels in all() {
            // SAFETY: as above; the bytes are 5 runs of every stream.
            assert_eq!(unsafe { (kernels.read)(&bytes) }, expected);
        }
    }

    #[test]
    fn the_roofs_are_measured_on_any_number_of_threads() {
        let kernels = Kernels::for_isa(Isa::best()).unwrap();
        for threads in [1, 2] {
            let pool = Pool::new(threads);
            let memory = ReadBandwidth::new(1, &pool).unwrap();
            assert_eq!(memory.bytes(), TASK_BYTES);
            assert!(memory.measure(kernels, &pool) > 0.0 && yardstick(kernels, &pool) > 0.0);
            assert!(multiply_peak(kernels, &pool) > 0.0);
        }
    }
}
