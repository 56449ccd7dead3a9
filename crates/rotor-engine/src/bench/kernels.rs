//! Timing the ternary kernels one by one, on weights that are read as a model's are.
//!
//! A token passes through hundreds of matrices, so by the time a matrix is needed again the caches have forgotten it. One
//! matrix multiplied again and again would be measured from the cache; so as many copies as the caches cannot hold take
//! turns.

use crate::runtime::Runtime;
use rotor_kernels::clock::Instant;
use rotor_kernels::ternary::{Activations, Scratch, TernaryKernel, TernaryMatrix};
use std::hint::black_box;
use std::time::Duration;

/// Trits that rows are cut from.
const NOISE: usize = 1 << 16;

/// Copies of a packed matrix, and activations to multiply them with.
#[derive(Debug)]
pub struct Products {
    copies: Vec<TernaryMatrix>,
    next: usize,
    quantized: Vec<i8>,
    activations: Activations,
    scratch: Scratch,
    out: Vec<i32>,
}

impl Products {
    /// Packs random matrices `[rows, cols]` for `kernel`, enough of them to fill `bytes`, and at least one.
    ///
    /// # Errors
    /// Where the system refuses the memory.
    pub fn new(
        runtime: &Runtime,
        kernel: &'static TernaryKernel,
        (rows, cols): (usize, usize),
        bytes: usize,
    ) -> std::io::Result<Products> {
        let mut random = fastrand::Rng::with_seed(0x0716);
        let noise: Vec<i8> = (0..NOISE + cols).map(|_| random.i8(-1..=1)).collect();
        let count = bytes.div_ceil(kernel.packed_bytes(rows, cols).max(1)).max(1);
        let copies = (0..count).map(|copy| {
            let read_row = |row: usize, out: &mut [i8]| {
                // A step that shares no factor with the length visits every place.
                let start = (copy * rows + row) * 7919 % NOISE;
                out.copy_from_slice(&noise[start..start + cols]);
                Ok(())
            };
            TernaryMatrix::pack((rows, cols), runtime.kernels, kernel, &runtime.pool, |error| error, read_row)
        });
        Ok(Products {
            copies: copies.collect::<Result<_, _>>()?,
            next: 0,
            quantized: Vec::new(),
            activations: Activations::new(runtime.kernels),
            scratch: Scratch::default(),
            out: Vec::new(),
        })
    }

    /// The name of the kernel.
    pub fn kernel(&self) -> &'static str {
        self.copies[0].kernel().name()
    }

    /// Bytes of one packed matrix.
    pub fn packed_bytes(&self) -> usize {
        self.copies[0].packed_bytes()
    }

    /// Sets how many tokens are multiplied at once.
    pub fn set_tokens(&mut self, tokens: usize) {
        let (rows, cols) = (self.copies[0].rows(), self.copies[0].cols());
        let mut random = fastrand::Rng::with_seed(7);
        self.quantized = (0..tokens * cols).map(|_| random.i8(-127..=127)).collect();
        self.out = vec![0; tokens * rows];
    }

    /// Multiplies one copy after the other for at least `slice`.
    /// Returns the seconds of a product, what a kernel prepares of the activations included.
    pub fn run(&mut self, runtime: &Runtime, slice: Duration) -> f64 {
        let cols = self.copies[0].cols();
        let start = Instant::now();
        let mut products = 0u32;
        loop {
            self.activations.set(runtime.kernels, &self.quantized, cols);
            let matrix = &self.copies[self.next];
            matrix.dot(runtime.kernels, &runtime.pool, &mut self.activations, &mut self.scratch, &mut self.out);
            black_box(&mut self.out);
            self.next = (self.next + 1) % self.copies.len();
            products += 1;
            let taken = start.elapsed();
            if taken >= slice {
                return taken.as_secs_f64() / f64::from(products);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_timed_on_enough_copies() {
        let runtime = Runtime::new(1).unwrap();
        for &kernel in runtime.kernels.ternary_kernels() {
            let one = kernel.packed_bytes(40, 100);
            let mut products = Products::new(&runtime, kernel, (40, 100), 3 * one - 1).unwrap();
            assert_eq!((products.copies.len(), products.packed_bytes()), (3, one));
            for tokens in [1, 9] {
                products.set_tokens(tokens);
                assert!(products.run(&runtime, Duration::from_millis(1)) > 0.0);
                assert!(products.out.iter().any(|sum| *sum != 0), "{tokens} tokens");
            }
        }
    }
}
