//! Linear layers, packed for the kernels.
//!
//! A ternary linear multiplies integer activations, as finely kept as the model wants ([`Runtime::precision`]); a dense one
//! multiplies f32, or, if its own type is quantised, activations of 15 bits. [`Input`] keeps all views of one input, each made at most once: q, k and v share
//! it, as do gate and up.

use crate::error::FormatError;
use crate::formats::{DenseActivations, DenseTensor, Role, RowOrder, Source, Weight};
use crate::forms::{Scales, TernaryTensor};
use crate::runtime::Runtime;
use crate::skipping::Packing;
use rotor_kernels::encode::encode_row;
use rotor_kernels::matrix::{DenseMatrix, DenseScratch};
use rotor_kernels::quantized::BlockActivations;
use rotor_kernels::ternary::{
    Activations, GROUP_ALIGN, GroupScales, MAX_PRODUCTS, Product, RowScales, Scratch, SkipCounts, SkippingLinear,
    SkippingMatrix, Skips, TernaryLinear, TernaryMatrix, gate_up, linears,
};
use rotor_kernels::{DenseType, Epilogue};
use std::path::PathBuf;

/// A matrix `[rows, cols]` ready to multiply.
#[derive(Debug)]
pub enum Matrix {
    /// Packed trits and their scales.
    Ternary {
        /// The trits.
        planes: TernaryMatrix,
        /// What multiplies each row.
        scales: RowScales,
    },
    /// The same where rows or columns can be left unread.
    Skipping {
        /// The trits.
        matrix: SkippingMatrix,
        /// What multiplies each row.
        scales: RowScales,
    },
    /// Ordinary numbers in their storage type.
    Dense(DenseMatrix),
}

fn no_memory(name: &str) -> impl FnOnce(std::io::Error) -> FormatError + '_ {
    move |source| FormatError::Io { action: "reserve memory for", path: PathBuf::from(name), source }
}

impl Matrix {
    /// Packs a weight in parallel, straight from its source layout, then lets the source's pages go.
    ///
    /// # Errors
    /// Where a trit is invalid, a scale has a shape this engine cannot run, or memory is refused.
    pub fn load(source: &Source, weight: &Weight<'_>, runtime: &Runtime) -> Result<Matrix, FormatError> {
        match weight {
            Weight::Ternary(tensor) => {
                Matrix::load_ternary(source, tensor, Packing::whole(tensor, &runtime.choice), runtime)
            }
            Weight::Dense(tensor) => Matrix::load_dense(source, tensor, runtime),
        }
    }

    fn load_ternary(
        source: &Source,
        tensor: &TernaryTensor<'_>,
        packing: Packing,
        runtime: &Runtime,
    ) -> Result<Matrix, FormatError> {
        let (scales, shape, memory) = (row_scales(tensor)?, (tensor.rows, tensor.cols), no_memory(tensor.name));
        let Runtime { kernels, pool, .. } = runtime;
        let read_row = |row: usize, trits: &mut [i8]| tensor.read_row(row, trits);
        let matrix = match packing {
            Packing::Tiles(kernel) => {
                let planes = TernaryMatrix::pack(shape, kernels, kernel, pool, memory, read_row)?;
                Matrix::Ternary { planes, scales }
            }
            Packing::Skipping(skips, kernel) => {
                let matrix = SkippingMatrix::pack(shape, skips, kernel, pool, memory, read_row)?;
                Matrix::Skipping { matrix, scales }
            }
        };
        source.release(tensor.bytes);
        Ok(matrix)
    }

    /// The embedding or the head: encoded anew where the source's options ask for it.
    ///
    /// # Errors
    /// As [`Matrix::load`]; and where the matrix cannot have the type asked for.
    pub fn load_head(source: &Source, weight: &Weight<'_>, runtime: &Runtime) -> Result<Matrix, FormatError> {
        match (weight, head_type(source, weight)?) {
            (Weight::Dense(tensor), Some(dtype)) => Matrix::encode_dense(source, tensor, dtype, runtime),
            _ => Matrix::load(source, weight, runtime),
        }
    }

    fn load_dense(source: &Source, tensor: &DenseTensor<'_>, runtime: &Runtime) -> Result<Matrix, FormatError> {
        let row_bytes = row_bytes(tensor, tensor.dtype)?;
        Matrix::dense(source, tensor, tensor.dtype, runtime, |first, out| {
            for (i, out) in out.chunks_exact_mut(row_bytes).enumerate() {
                let stored = tensor.row_order.stored_row(first + i) * row_bytes;
                out.copy_from_slice(&tensor.bytes[stored..stored + row_bytes]);
            }
            release_rows(source, tensor, first, out.len() / row_bytes);
            Ok(())
        })
    }

    fn encode_dense(
        source: &Source,
        tensor: &DenseTensor<'_>,
        dtype: DenseType,
        runtime: &Runtime,
    ) -> Result<Matrix, FormatError> {
        let (from, to) = (row_bytes(tensor, tensor.dtype)?, row_bytes(tensor, dtype)?);
        Matrix::dense(source, tensor, dtype, runtime, |first, out| {
            let mut values = vec![0.0; tensor.cols];
            for (i, out) in out.chunks_exact_mut(to).enumerate() {
                let stored = tensor.row_order.stored_row(first + i) * from;
                runtime.kernels.decode_row(tensor.dtype, &tensor.bytes[stored..stored + from], &mut values);
                encode_row(dtype, &values, out)
                    .ok_or_else(|| FormatError::unsupported(dtype.name(), "it is only read"))?;
            }
            release_rows(source, tensor, first, out.len() / to);
            Ok(())
        })
    }

    fn dense(
        source: &Source,
        tensor: &DenseTensor<'_>,
        dtype: DenseType,
        runtime: &Runtime,
        read_rows: impl Fn(usize, &mut [u8]) -> Result<(), FormatError> + Sync,
    ) -> Result<Matrix, FormatError> {
        let shape = (tensor.rows, tensor.cols);
        let mut matrix = DenseMatrix::load(shape, dtype, &runtime.pool, no_memory(tensor.name), read_rows)?;
        matrix.set_block_activations(source.load_options().dense_activations == DenseActivations::Int16);
        source.release(tensor.bytes);
        Ok(Matrix::Dense(matrix))
    }

    /// Rows (output features, or vocabulary).
    pub fn rows(&self) -> usize {
        match self {
            Matrix::Ternary { planes, .. } => planes.rows(),
            Matrix::Skipping { matrix, .. } => matrix.rows(),
            Matrix::Dense(matrix) => matrix.rows(),
        }
    }

    /// Columns (input features).
    pub fn cols(&self) -> usize {
        match self {
            Matrix::Ternary { planes, .. } => planes.cols(),
            Matrix::Skipping { matrix, .. } => matrix.cols(),
            Matrix::Dense(matrix) => matrix.cols(),
        }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Matrix::Ternary { planes, scales } => planes.packed_bytes() + scales.group_bytes(),
            Matrix::Skipping { matrix, .. } => matrix.packed_bytes(),
            Matrix::Dense(matrix) => matrix.stored_bytes(),
        }
    }

    /// One row as f32: an embedding.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not one row long.
    pub fn row(&self, runtime: &Runtime, row: usize, out: &mut [f32]) {
        match self {
            Matrix::Dense(matrix) => matrix.row(runtime.kernels, row, out),
            Matrix::Ternary { planes, scales } => {
                for (col, out) in out.iter_mut().enumerate() {
                    *out = f32::from(planes.trit(row, col)) * scales.get(row, col);
                }
            }
            Matrix::Skipping { matrix, scales } => {
                for (col, out) in out.iter_mut().enumerate() {
                    *out = f32::from(matrix.trit(row, col)) * scales.get(row, col);
                }
            }
        }
    }

    /// `y[token][row] = sum over columns of weight * input[token]`, which `epilogue` takes to `out`.
    ///
    /// # Panics
    /// If the shapes do not fit, or the matrix is dense and the input was quantised for ternary ones alone.
    pub fn apply(
        &self,
        runtime: &Runtime,
        input: &mut Input,
        scratch: &mut LinearScratch,
        epilogue: Epilogue,
        out: &mut [f32],
    ) {
        let Runtime { kernels, pool, .. } = runtime;
        match self {
            Matrix::Ternary { planes, scales } => {
                let x = input.quantized(runtime);
                planes.linear(kernels, pool, x, scales, &mut scratch.ternary, (epilogue, out));
            }
            Matrix::Skipping { matrix, scales } => {
                let x = input.quantized(runtime);
                matrix.linear(kernels, pool, x, scales, &mut scratch.ternary, (epilogue, out));
            }
            Matrix::Dense(matrix) if epilogue == Epilogue::Store => {
                apply_dense(matrix, runtime, input, &mut scratch.dense, out);
            }
            Matrix::Dense(matrix) => {
                let y = &mut scratch.outputs;
                y.resize(out.len(), 0.0);
                apply_dense(matrix, runtime, input, &mut scratch.dense, y);
                let rows = matrix.rows();
                pool.for_each_chunk(out, rows, |token, out| {
                    epilogue.apply(kernels, &y[token * rows..(token + 1) * rows], out);
                });
            }
        }
    }
}

fn apply_dense(
    matrix: &DenseMatrix,
    runtime: &Runtime,
    input: &mut Input,
    scratch: &mut DenseScratch,
    out: &mut [f32],
) {
    if matrix.takes_blocks() {
        return matrix.linear_blocks(runtime.kernels, &runtime.pool, input.in_blocks(runtime), out);
    }
    matrix.linear(runtime.kernels, &runtime.pool, input.values(), scratch, out);
}

/// The type the embedding or the head is to be encoded in, where it is not that of the file.
///
/// # Errors
/// Where the matrix cannot have the type asked for.
pub(crate) fn head_type(source: &Source, weight: &Weight<'_>) -> Result<Option<DenseType>, FormatError> {
    let Some(dtype) = source.load_options().head else { return Ok(None) };
    match weight {
        Weight::Ternary(tensor) => {
            let what = format!("tensor {:?} as {}", tensor.name, dtype.name());
            Err(FormatError::unsupported(what, "it is ternary, and has no numbers to encode"))
        }
        Weight::Dense(tensor) => {
            row_bytes(tensor, dtype)?;
            Ok((dtype != tensor.dtype).then_some(dtype))
        }
    }
}

/// Lets go of the source's pages of rows that were read, so that a large matrix is not held twice while it is loaded.
fn release_rows(source: &Source, tensor: &DenseTensor<'_>, first: usize, count: usize) {
    if let (RowOrder::AsStored, Some(row_bytes)) = (tensor.row_order, tensor.dtype.row_bytes(tensor.cols)) {
        source.release(&tensor.bytes[first * row_bytes..(first + count) * row_bytes]);
    }
}

/// Bytes of one of a tensor's rows if it is stored as `dtype`.
fn row_bytes(tensor: &DenseTensor<'_>, dtype: DenseType) -> Result<usize, FormatError> {
    dtype.row_bytes(tensor.cols).ok_or_else(|| {
        FormatError::invalid(
            format!("tensor {:?}", tensor.name),
            format!("rows of whole {} blocks of {}", dtype.name(), dtype.block_len()),
            format!("{} columns", tensor.cols),
        )
    })
}

/// The scales of a tensor, its rows in the graph's order.
fn row_scales(tensor: &TernaryTensor<'_>) -> Result<RowScales, FormatError> {
    let (rows, cols) = (tensor.rows, tensor.cols);
    let groups = tensor.scales.groups();
    Ok(match tensor.scales.reordered(rows, |row| tensor.row_order.stored_row(row)) {
        Scales::Tensor(scale) => RowScales::Uniform(scale),
        Scales::Rows(scales) => RowScales::PerRow(scales),
        Scales::Groups { values, .. } => {
            let scales = GroupScales::new(rows, cols / groups.max(1), &values);
            RowScales::Grouped(scales.ok_or_else(|| {
                let what = format!("tensor {:?} with {groups} scales for rows of {cols}", tensor.name);
                FormatError::unsupported(what, format!("the engine runs groups of a multiple of {GROUP_ALIGN} columns"))
            })?)
        }
    })
}

/// A linear layer: a matrix, and the norm some models put in front of it.
#[derive(Debug)]
pub struct Linear {
    matrix: Matrix,
    input_norm: Option<Vec<f32>>,
}

impl Linear {
    /// Packs a linear layer.
    ///
    /// # Errors
    /// As [`Matrix::load`].
    pub fn load(source: &Source, role: Role, runtime: &Runtime) -> Result<Linear, FormatError> {
        let linear = source.linear(role)?;
        let mut matrix = match &linear.weight {
            Weight::Ternary(tensor) => {
                let packing = Packing::of(source, role, tensor, &runtime.choice);
                Matrix::load_ternary(source, tensor, packing, runtime)?
            }
            Weight::Dense(tensor) => Matrix::load_dense(source, tensor, runtime)?,
        };
        match &mut matrix {
            Matrix::Ternary { scales, .. } | Matrix::Skipping { scales, .. } => scales.multiply(linear.output_scale),
            Matrix::Dense(matrix) if linear.output_scale != 1.0 => {
                let what = format!("a dense {} linear with a separate .scale", matrix.dtype().name());
                return Err(FormatError::unsupported(what, "only ternary linears carry one"));
            }
            Matrix::Dense(_) => {}
        }
        Ok(Linear { matrix, input_norm: linear.input_norm })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.matrix.rows()
    }

    /// The name of the kernel that multiplies it, where it is ternary.
    pub fn kernel_name(&self) -> Option<&'static str> {
        match &self.matrix {
            Matrix::Ternary { planes, .. } => Some(planes.kernel().name()),
            Matrix::Skipping { matrix, .. } => Some(matrix.kernel().name()),
            Matrix::Dense(_) => None,
        }
    }

    /// What of it a few tokens need not read.
    pub fn skips(&self) -> Option<Skips> {
        match &self.matrix {
            Matrix::Skipping { matrix, .. } => Some(matrix.skips()),
            Matrix::Ternary { .. } | Matrix::Dense(_) => None,
        }
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.matrix.cols()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.matrix.bytes()
    }

    /// What the kernels multiply, where it is ternary and has no norm of its own.
    fn as_ternary(&self, epilogue: Epilogue) -> Option<TernaryLinear<'_>> {
        match (&self.matrix, &self.input_norm) {
            (Matrix::Ternary { planes, scales }, None) => Some(TernaryLinear { matrix: planes, scales, epilogue }),
            _ => None,
        }
    }

    /// Whether it takes its input quantised as it comes.
    fn takes_integers(&self) -> bool {
        self.input_norm.is_none() && matches!(self.matrix, Matrix::Ternary { .. } | Matrix::Skipping { .. })
    }

    /// What the kernels multiply row by row behind a gate.
    fn as_skipping(&self, epilogue: Epilogue) -> Option<SkippingLinear<'_>> {
        match (&self.matrix, &self.input_norm) {
            (Matrix::Skipping { matrix, scales }, None) => Some(SkippingLinear { matrix, scales, epilogue }),
            _ => None,
        }
    }

    /// The linear's outputs for every token of `input`, `[tokens, rows]`, which `epilogue` takes to `out`.
    ///
    /// # Panics
    /// If the shapes do not fit, or the input was not made for this linear.
    pub fn apply(
        &self,
        runtime: &Runtime,
        input: &mut Input,
        norm_eps: f32,
        scratch: &mut LinearScratch,
        epilogue: Epilogue,
        out: &mut [f32],
    ) {
        let Some(weight) = &self.input_norm else {
            return self.matrix.apply(runtime, input, scratch, epilogue, out);
        };
        // The norm is this linear's own, so its quantised input cannot be shared.
        let mut own = std::mem::take(&mut scratch.own);
        let inner = own.get_or_insert_with(|| Box::new(Input::new(runtime)));
        let (cols, x) = (weight.len(), input.values());
        let is_ternary = matches!(self.matrix, Matrix::Ternary { .. } | Matrix::Skipping { .. });
        inner.fill(runtime, is_ternary, (x.len() / cols, cols), |token, out| {
            runtime.kernels.rms_norm(&x[token * cols..(token + 1) * cols], weight, norm_eps, out);
        });
        self.matrix.apply(runtime, inner, scratch, epilogue, out);
        scratch.own = own;
    }
}

/// One linear of an input, or two of the same shape, the second's outputs meeting those of the first (a gate and what it lets
/// through), and where the outputs go, `[tokens, rows]`.
#[derive(Debug)]
pub struct Outputs<'a> {
    first: (&'a Linear, Epilogue),
    second: Option<(&'a Linear, Epilogue)>,
    out: &'a mut [f32],
}

impl<'a> Outputs<'a> {
    /// `out = linear(input)`.
    pub fn store(linear: &'a Linear, out: &'a mut [f32]) -> Outputs<'a> {
        Outputs { first: (linear, Epilogue::Store), second: None, out }
    }

    /// `out += linear(input)`.
    pub fn add(linear: &'a Linear, out: &'a mut [f32]) -> Outputs<'a> {
        Outputs { first: (linear, Epilogue::Add), second: None, out }
    }

    /// And then `epilogue` with the outputs of another linear.
    pub fn then(self, linear: &'a Linear, epilogue: Epilogue) -> Outputs<'a> {
        Outputs { second: Some((linear, epilogue)), ..self }
    }

    fn steps(&self) -> impl Iterator<Item = (&'a Linear, Epilogue)> + use<'a> {
        std::iter::once(self.first).chain(self.second)
    }

    /// Multiplies a gate and the rows of the other linear that it lets through, if these two are such a pair and these kernels
    /// can.
    fn by_rows(&mut self, runtime: &Runtime, input: &mut Input, scratch: &mut Scratch) -> bool {
        let Some((second, epilogue @ Epilogue::Relu2Mul)) = self.second else { return false };
        let (Some(gate), Some(up)) = (self.first.0.as_ternary(self.first.1), second.as_skipping(epilogue)) else {
            return false;
        };
        gate_up(runtime.kernels, &runtime.pool, input.quantized(runtime), scratch, (gate, up), self.out)
    }

    /// For linears that are all ternary, packed in tiles, and take their input as it comes.
    fn into_product(self) -> Product<'a> {
        let as_ternary = |(linear, epilogue): (&'a Linear, Epilogue)| linear.as_ternary(epilogue).expect("ternary");
        Product { first: as_ternary(self.first), second: self.second.map(as_ternary), out: self.out }
    }
}

/// Applies linears that share an input, in one job where the kernels can.
///
/// # Panics
/// As [`Linear::apply`].
pub fn apply<const N: usize>(
    runtime: &Runtime,
    input: &mut Input,
    norm_eps: f32,
    scratch: &mut LinearScratch,
    outputs: [Outputs<'_>; N],
) {
    const { assert!(N <= MAX_PRODUCTS, "more linears than the kernels take at once") };
    if outputs.iter().flat_map(Outputs::steps).all(|(linear, epilogue)| linear.as_ternary(epilogue).is_some()) {
        let mut products = outputs.map(Outputs::into_product);
        let x = input.quantized(runtime);
        return linears(runtime.kernels, &runtime.pool, x, &mut scratch.ternary, &mut products);
    }
    for mut outputs in outputs {
        if outputs.by_rows(runtime, input, &mut scratch.ternary) {
            continue;
        }
        for (linear, epilogue) in outputs.steps() {
            linear.apply(runtime, input, norm_eps, scratch, epilogue, outputs.out);
        }
    }
}

/// The input of one or several linears, `[tokens, cols]`: as f32 and as what the linears ask for, or quantised alone where all of
/// them are ternary.
#[derive(Debug)]
pub struct Input {
    values: Vec<f32>,
    has_values: bool,
    cols: usize,
    activations: Activations,
    is_quantized: bool,
    blocks: BlockActivations,
    is_in_blocks: bool,
}

impl Input {
    /// An empty input.
    pub fn new(runtime: &Runtime) -> Input {
        Input {
            values: Vec::new(),
            has_values: false,
            cols: 1,
            activations: Activations::new(runtime.kernels),
            is_quantized: false,
            blocks: BlockActivations::default(),
            is_in_blocks: false,
        }
    }

    /// Bytes of the values it has grown to.
    pub fn bytes(&self) -> usize {
        self.values.capacity() * size_of::<f32>()
    }

    /// Takes what `fill(token, x)` makes of each token, for these linears.
    pub fn fill_for(
        &mut self,
        linears: &[&Linear],
        runtime: &Runtime,
        shape: (usize, usize),
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        self.fill(runtime, linears.iter().all(|linear| linear.takes_integers()), shape, fill);
    }

    /// Takes what `fill(token, x)` makes of each token, as f32 unless only integers are wanted.
    pub fn fill(
        &mut self,
        runtime: &Runtime,
        integers_alone: bool,
        (tokens, cols): (usize, usize),
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        self.cols = cols;
        (self.has_values, self.is_quantized, self.is_in_blocks) = (!integers_alone, integers_alone, false);
        if integers_alone {
            return self.activations.quantize_with(
                runtime.kernels,
                &runtime.pool,
                runtime.precision,
                (tokens, cols),
                fill,
            );
        }
        self.values.resize(tokens * cols, 0.0);
        runtime.pool.for_each_chunk(&mut self.values, cols, fill);
    }

    fn values(&self) -> &[f32] {
        assert!(self.has_values, "an input that was quantised for ternary linears alone");
        &self.values
    }

    fn in_blocks(&mut self, runtime: &Runtime) -> &BlockActivations {
        if !self.is_in_blocks {
            assert!(self.has_values, "an input that was quantised for ternary linears alone");
            self.blocks.quantize(&runtime.pool, &self.values, self.cols);
            self.is_in_blocks = true;
        }
        &self.blocks
    }

    fn quantized(&mut self, runtime: &Runtime) -> &mut Activations {
        if !self.is_quantized {
            self.activations.quantize(runtime.kernels, &runtime.pool, runtime.precision, &self.values, self.cols);
            self.is_quantized = true;
        }
        &mut self.activations
    }
}

/// Memory linears need while they multiply, reused by all of them.
#[derive(Debug, Default)]
pub struct LinearScratch {
    ternary: Scratch,
    dense: DenseScratch,
    own: Option<Box<Input>>,
    /// Outputs on their way through an epilogue.
    outputs: Vec<f32>,
}

impl LinearScratch {
    /// How many rows and columns a few tokens at a time have read of linears that can leave some unread.
    pub fn skip_counts(&self) -> SkipCounts {
        self.ternary.skip_counts()
    }

    /// Bytes of the vectors it has grown to.
    pub fn bytes(&self) -> usize {
        self.outputs.capacity() * size_of::<f32>() + self.own.as_ref().map_or(0, |input| input.bytes())
    }
}
