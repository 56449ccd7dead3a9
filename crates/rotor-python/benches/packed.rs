//! The packed product as Rust calls it, for `arrays.py` to hold the same product through Python against.
//!
//! Every line on the standard input asks for one round. The answer is two times in seconds, each the fastest of the round:
//! of the product alone, and of the product with what arranges its activations. So the two processes take turns, and what
//! disturbs the machine disturbs both.

use rotor::runtime::Runtime;
use rotor_kernels::ternary::{Activations, Scratch, TernaryMatrix};
use std::hint::black_box;
use std::io::{Error, Write};
use std::time::{Duration, Instant};

/// The shape of BitNet b1.58 2B4T's `ffn_down`.
const SHAPE: (usize, usize) = (2560, 6912);

/// Products in a round.
const PRODUCTS: usize = 100;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let threads = std::env::args().nth(1).ok_or("expected the number of threads")?.parse()?;
    let Runtime { kernels, choice, pool, .. } = Runtime::new(threads)?;
    let ((rows, cols), kernel) = (SHAPE, choice.kernel_for(SHAPE, None));
    let memory = |error: Error| error;
    let matrix = TernaryMatrix::pack(SHAPE, kernels, kernel, &pool, memory, |row, trits| {
        rotor::synth::random_trits(row as u64, 0.4, trits);
        Ok(())
    })?;
    let x: Vec<i8> = (0..cols).map(|col| (col * 31) as i8).collect();
    let (mut activations, mut scratch, mut out) = (Activations::new(kernels), Scratch::default(), vec![0; rows]);
    for line in std::io::stdin().lines() {
        line?;
        let (mut alone, mut whole) = (Duration::MAX, Duration::MAX);
        for _ in 0..PRODUCTS {
            let start = Instant::now();
            activations.set(kernels, black_box(&x), cols);
            let arranged = Instant::now();
            matrix.dot(kernels, &pool, &mut activations, &mut scratch, black_box(&mut out));
            (alone, whole) = (alone.min(arranged.elapsed()), whole.min(start.elapsed()));
        }
        println!("{} {}", alone.as_secs_f64(), whole.as_secs_f64());
        std::io::stdout().flush()?;
    }
    Ok(())
}
