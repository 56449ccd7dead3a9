//! Dense matrices: embeddings, heads, and the linears of ordinary models.

use crate::buffer::Buffer;
use crate::dense::DenseType;
use crate::dispatch::Kernels;
use crate::pool::{Pool, SharedMut};
use crate::quantized::{BlockActivations, Panel, takes_blocks};
use std::ops::Range;

/// Rows that are multiplied before the next, by all tokens.
pub(crate) const ROWS_PER_RUN: usize = 32;
/// Rows that a thread multiplies at a time where they lie apart.
const SCATTERED_ROWS: usize = 8;
/// Tokens that pass over a run's rows together. Those of 2,560 columns take 26 kB and stay in the L1 cache.
const TOKENS_PER_PASS: usize = 4;

/// A dense matrix `[rows, cols]`, kept in its storage type.
#[derive(Debug)]
pub struct DenseMatrix {
    rows: usize,
    cols: usize,
    dtype: DenseType,
    row_bytes: usize,
    bytes: Buffer<u8>,
    block_activations: bool,
}

impl DenseMatrix {
    /// Takes a matrix over, `read_rows(first_row, bytes)` filling the bytes of consecutive rows. Rows are read in parallel.
    ///
    /// # Errors
    /// The system's refusal of memory, through `memory`, or the first error of `read_rows`.
    ///
    /// # Panics
    /// If the block length of `dtype` does not divide `cols`.
    pub fn load<E: Send>(
        (rows, cols): (usize, usize),
        dtype: DenseType,
        pool: &Pool,
        memory: impl FnOnce(std::io::Error) -> E,
        read_rows: impl Fn(usize, &mut [u8]) -> Result<(), E> + Sync,
    ) -> Result<DenseMatrix, E> {
        let row_bytes = dtype.row_bytes(cols).expect("columns in whole blocks");
        let len = rows.checked_mul(row_bytes).expect("a matrix that fits the address space");
        let mut bytes = Buffer::zeroed(len).map_err(memory)?;
        let failure = std::sync::Mutex::new(None::<E>);
        let chunk_rows = ((4 << 20) / row_bytes.max(1)).max(1);
        pool.for_each_chunk(&mut bytes, chunk_rows * row_bytes.max(1), |chunk, bytes| {
            if let Err(error) = read_rows(chunk * chunk_rows, bytes) {
                failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
            }
        });
        match failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(DenseMatrix { rows, cols, dtype, row_bytes, bytes, block_activations: true }),
        }
    }

    /// Rows (output features, or vocabulary).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns (input features).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Storage type.
    pub fn dtype(&self) -> DenseType {
        self.dtype
    }

    /// Bytes of the stored matrix.
    pub fn stored_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes of one row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row_bytes(&self, row: usize) -> &[u8] {
        &self.bytes[row * self.row_bytes..(row + 1) * self.row_bytes]
    }

    /// One row as f32.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not one row long.
    pub fn row(&self, kernels: &Kernels, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols, "one row");
        kernels.decode_row(self.dtype, self.row_bytes(row), out);
    }

    /// Whether activations are rounded to [`BlockActivations`] where the type is quantised, several times as fast as f32.
    pub fn set_block_activations(&mut self, blocks: bool) {
        self.block_activations = blocks;
    }

    /// Whether [`DenseMatrix::linear_blocks`] is to multiply it.
    pub fn takes_blocks(&self) -> bool {
        takes_blocks(self.dtype) && self.block_activations
    }

    /// `out[token][row] = sum over columns of weight * x[token]`, with activations of 15 bits.
    ///
    /// # Panics
    /// If the shapes do not fit, or the type is not quantised.
    pub fn linear_blocks(&self, kernels: &Kernels, pool: &Pool, x: &BlockActivations, out: &mut [f32]) {
        let tokens = x.tokens();
        assert_eq!(x.cols(), self.cols, "columns of the matrix and the activations");
        assert_eq!(out.len(), tokens * self.rows, "outputs of {tokens} tokens and {} rows", self.rows);
        let out = SharedMut::new(out);
        pool.run_ranges(self.rows.div_ceil(ROWS_PER_RUN), |_, runs| {
            for run in runs {
                self.run_of_blocks(kernels, x, run * ROWS_PER_RUN..((run + 1) * ROWS_PER_RUN).min(self.rows), &out);
            }
        });
    }

    /// The products of some rows, at most [`ROWS_PER_RUN`], with all tokens.
    pub(crate) fn run_of_blocks(
        &self,
        kernels: &Kernels,
        x: &BlockActivations,
        rows: Range<usize>,
        out: &SharedMut<'_, f32>,
    ) {
        let bytes = &self.bytes[rows.start * self.row_bytes..rows.end * self.row_bytes];
        for first in (0..x.tokens()).step_by(TOKENS_PER_PASS) {
            let count = TOKENS_PER_PASS.min(x.tokens() - first);
            let mut panels: [&[Panel]; TOKENS_PER_PASS] = [&[]; TOKENS_PER_PASS];
            let panels = &mut panels[..count];
            for (token, panels) in panels.iter_mut().enumerate() {
                *panels = x.token(first + token);
            }
            let mut products = [0.0; ROWS_PER_RUN * TOKENS_PER_PASS];
            let products = &mut products[..rows.len() * count];
            kernels.block_products((self.dtype, self.cols), bytes, panels, products);
            for token in 0..count {
                // SAFETY: each task owns its rows of every token.
                let out = unsafe { out.slice((first + token) * self.rows + rows.start, rows.len()) };
                out.iter_mut().zip(products.chunks_exact(count)).for_each(|(out, row)| *out = row[token]);
            }
        }
    }

    /// `out[token][row] = sum over columns of weight * x[token]`, f32; `x` is `[tokens, cols]`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn linear(&self, kernels: &Kernels, pool: &Pool, x: &[f32], scratch: &mut DenseScratch, out: &mut [f32]) {
        let tokens = x.len() / self.cols;
        assert!(
            x.len() == tokens * self.cols && out.len() == tokens * self.rows,
            "[tokens, {}] in, [tokens, {}] out",
            self.cols,
            self.rows
        );
        scratch.rows.resize_with(pool.threads().max(scratch.rows.len()), Vec::new);
        let (buffers, out) = (SharedMut::new(&mut scratch.rows), SharedMut::new(out));
        pool.run_ranges(self.rows, |worker, rows| {
            // SAFETY: a worker runs one task at a time.
            let buffer = unsafe { &mut buffers.slice(worker, 1)[0] };
            for row in rows {
                let put = |token: usize, value: f32| {
                    // SAFETY: each task owns its rows of every token.
                    unsafe { out.slice(token * self.rows + row, 1)[0] = value };
                };
                let bytes = self.row_bytes(row);
                // Both ways give the same bits, so a token's result does not depend on how many come with it.
                if tokens == 1 {
                    put(0, kernels.dot_row(self.dtype, bytes, x));
                    continue;
                }
                buffer.resize(self.cols, 0.0);
                kernels.decode_row(self.dtype, bytes, buffer);
                for (token, x) in x.chunks_exact(self.cols).enumerate() {
                    put(token, kernels.dot(buffer, x));
                }
            }
        });
    }

    /// Products of some rows with one token, `out[i] = sum over columns of weight of row rows[i] * x`, with the bits that
    /// [`DenseMatrix::linear`] gives.
    ///
    /// # Panics
    /// If there is no such row, `x` is not one token, or there are not as many outputs as rows.
    pub fn rows_linear(&self, kernels: &Kernels, pool: &Pool, rows: &[u32], x: &[f32], out: &mut [f32]) {
        assert!(x.len() == self.cols && out.len() == rows.len(), "a token of {} and an output a row", self.cols);
        pool.for_each_chunk(out, SCATTERED_ROWS, |chunk, out| {
            for (out, row) in out.iter_mut().zip(&rows[chunk * SCATTERED_ROWS..]) {
                *out = kernels.dot_row(self.dtype, self.row_bytes(*row as usize), x);
            }
        });
    }
}

/// Memory for dense products, one row per worker, reused.
#[derive(Debug, Default)]
pub struct DenseScratch {
    rows: Vec<Vec<f32>>,
}
