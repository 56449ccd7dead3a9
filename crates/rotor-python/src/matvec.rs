//! Exact products of ternary matrices with int8 vectors and matrices.

use crate::arrays::{Matrix, filled};
use crate::bitnet::{BOTH, PlanePair, check_planes, columns, strict_or_warn};
use crate::errors::out_of_memory;
use crate::runtime::runtime;
use numpy::PyArrayDyn;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rotor::planes::InvalidKind;
use rotor::runtime::Runtime;
use rotor_kernels::ternary::{Activations, Orientation, Planes, Scratch, TernaryMatrix, TileScratch};
use std::cell::RefCell;
use std::sync::OnceLock;

/// Columns whose largest possible sum, 128 for each, fits int32.
const MOST_COLS: usize = (i32::MAX / 128) as usize;

/// Tokens up to which planes are multiplied as they are; packing them first pays for more.
const FEW: usize = 2;

/// What the kernels work in, one per calling thread and reused, because an allocation costs more than a small product.
#[derive(Default)]
struct Work {
    activations: Option<Activations>,
    tiles: TileScratch,
    scratch: Scratch,
}

thread_local! {
    static WORK: RefCell<Work> = RefCell::default();
}

impl Work {
    /// Lends this thread's memory, the activations set to `x`, rows of `cols`.
    fn with<R>(
        runtime: &Runtime,
        x: &[i8],
        cols: usize,
        f: impl FnOnce(&mut Activations, &mut TileScratch, &mut Scratch) -> R,
    ) -> R {
        WORK.with_borrow_mut(|work| {
            let Work { activations, tiles, scratch } = work;
            let activations = activations.get_or_insert_with(|| Activations::new(runtime.kernels));
            activations.set(runtime.kernels, x, cols);
            f(activations, tiles, scratch)
        })
    }
}

/// The columns that planes of rows of some bytes may have.
#[derive(Clone, Copy)]
struct Columns {
    least: usize,
    most: usize,
}

impl Columns {
    fn of_planes(width: usize, n: Option<usize>) -> PyResult<Columns> {
        let most = columns("planes", width, 8, n)?;
        let least = if n.is_some() { most } else { most.saturating_sub(7) };
        Ok(Columns { least, most })
    }

    fn exactly(cols: usize) -> Columns {
        Columns { least: cols, most: cols }
    }

    /// Which product a vector of `len` asks for, and the number of columns.
    ///
    /// With as many elements as the weights have columns it is `W x`, else with as many as they have rows `x W`.
    fn resolve(self, rows: usize, len: usize, transpose: Option<bool>) -> PyResult<(usize, Orientation)> {
        let as_stored = (self.least..=self.most).contains(&len) && transpose != Some(true);
        let transposed = len == rows && transpose != Some(false);
        let (cols, orientation) = match (as_stored, transposed) {
            (true, _) => (len, Orientation::AsStored),
            (_, true) => (self.most, Orientation::Transposed),
            _ => return Err(self.mismatch(rows, len, transpose)),
        };
        let sums = if orientation == Orientation::AsStored { cols } else { rows };
        if sums > MOST_COLS {
            return Err(PyValueError::new_err(format!(
                "sums over {sums} weights do not fit int32: at most {MOST_COLS} do"
            )));
        }
        Ok((cols, orientation))
    }

    fn mismatch(self, rows: usize, len: usize, transpose: Option<bool>) -> PyErr {
        let cols =
            if self.least == self.most { self.most.to_string() } else { format!("{}..{}", self.least, self.most) };
        let wanted = match transpose {
            Some(false) => format!("{cols} for W @ x"),
            Some(true) => format!("{rows} for x @ W"),
            None => format!("{cols} for W @ x or {rows} for x @ W"),
        };
        PyValueError::new_err(format!("x: weights of [{rows}, {cols}] take a length of {wanted}, found {len}"))
    }
}

/// Checks planes, of which `overlap` tells whether the product met a weight that is set in both.
fn check(py: Python<'_>, pair: &PlanePair<'_>, cols: usize, overlap: bool, strict: bool) -> PyResult<()> {
    let width = pair.bit0.cols;
    let padding = !cols.is_multiple_of(8) && {
        let unused = !0u8 << (cols % 8);
        let last = |plane: &[u8]| plane.iter().skip(width - 1).step_by(width).fold(0, |all, byte| all | byte);
        (last(pair.bit0.values()?) | last(pair.bit1.values()?)) & unused != 0
    };
    if !overlap && !padding {
        return Ok(());
    }
    let found = check_planes(py, pair, cols)?;
    let what = match &found {
        Err(invalid) if invalid.kind == InvalidKind::Padding => "bits beyond the last column must be 0",
        _ => BOTH,
    };
    strict_or_warn(py, what, pair.bit0.is_vector, strict, found)
}

/// `W x` or `x W` of planes and an int8 vector.
#[pyfunction]
pub(crate) fn matvec<'py>(
    py: Python<'py>,
    bit0: &Bound<'py, PyAny>,
    bit1: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
    n: Option<usize>,
    transpose: Option<bool>,
    strict: bool,
) -> PyResult<Bound<'py, PyArrayDyn<i32>>> {
    let (pair, x) = (PlanePair::take(bit0, bit1)?, vector(x)?);
    let rows = pair.bit0.rows;
    let (cols, orientation) = Columns::of_planes(pair.bit0.cols, n)?.resolve(rows, x.cols, transpose)?;
    multiply_planes(py, &pair, cols, orientation, &x, true, strict)
}

fn vector<'py>(x: &Bound<'py, PyAny>) -> PyResult<Matrix<'py, i8>> {
    let x = Matrix::<i8>::take("x", x)?;
    if !x.is_vector {
        return Err(PyValueError::new_err(format!(
            "x: expected one dimension, found [{}, {}]; see matmul",
            x.rows, x.cols
        )));
    }
    Ok(x)
}

/// The product of every row of `x` with the planes, `[x rows, outputs]`.
fn multiply_planes<'py>(
    py: Python<'py>,
    pair: &PlanePair<'py>,
    cols: usize,
    orientation: Orientation,
    x: &Matrix<'py, i8>,
    is_vector: bool,
    strict: bool,
) -> PyResult<Bound<'py, PyArrayDyn<i32>>> {
    let runtime = runtime(py, None)?;
    let planes = Planes::new((pair.bit0.rows, cols), pair.bit0.values()?, pair.bit1.values()?);
    let ((rows, length), tokens, x) = (planes.shape(orientation), x.rows, x.values()?);
    let (product, overlap) = filled(py, (tokens, rows), is_vector, |out: &mut [i32]| {
        if out.is_empty() || length == 0 {
            out.fill(0);
            return Ok(false);
        }
        let Runtime { kernels, choice, pool, .. } = &runtime;
        if orientation == Orientation::AsStored && tokens <= FEW {
            let products = out.chunks_exact_mut(rows).zip(x.chunks_exact(length));
            return Ok(products.fold(false, |overlap, (out, x)| planes.dot(kernels, pool, x, out) || overlap));
        }
        Work::with(&runtime, x, length, |activations, tiles, scratch| {
            if tokens <= FEW {
                return Ok(planes.dot_transposed(kernels, pool, activations, tiles, out));
            }
            let kernel = choice.kernel_for(planes.shape(orientation), None);
            let (packed, overlap) = TernaryMatrix::from_planes(planes, orientation, kernels, kernel, pool)?;
            packed.dot(kernels, pool, activations, scratch, out);
            Ok(overlap)
        })
    })?;
    check(py, pair, cols, overlap.map_err(out_of_memory)?, strict)?;
    Ok(product)
}

/// `W X` or `X W` of planes and an int8 matrix.
#[pyfunction]
pub(crate) fn matmul<'py>(
    py: Python<'py>,
    bit0: &Bound<'py, PyAny>,
    bit1: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
    n: Option<usize>,
    transpose: Option<bool>,
    strict: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let pair = PlanePair::take(bit0, bit1)?;
    let columns = Columns::of_planes(pair.bit0.cols, n)?;
    let (cols, orientation, x) = columns.resolve_matrix(pair.bit0.rows, x, transpose)?;
    let product = multiply_planes(py, &pair, cols, orientation, &x, false, strict)?;
    oriented(product, orientation)
}

impl Columns {
    /// As [`Columns::resolve`] for a matrix: `W X` takes `[cols, k]`, `X W` takes `[k, rows]`. The result's rows are the
    /// vectors to multiply.
    fn resolve_matrix<'py>(
        self,
        rows: usize,
        x: &Bound<'py, PyAny>,
        transpose: Option<bool>,
    ) -> PyResult<(usize, Orientation, Matrix<'py, i8>)> {
        let across = Matrix::<i8>::transposed("x", x)?;
        if across.is_vector {
            return Err(PyValueError::new_err("x: expected two dimensions, found 1; see matvec"));
        }
        if (self.least..=self.most).contains(&across.cols) && transpose != Some(true) {
            let (cols, orientation) = self.resolve(rows, across.cols, Some(false))?;
            return Ok((cols, orientation, across));
        }
        let x = Matrix::<i8>::take("x", x)?;
        if x.cols != rows || transpose == Some(false) {
            return Err(PyValueError::new_err(format!(
                "x: weights of [{rows}, {}] take [{}, k] for W @ X or [k, {rows}] for X @ W, found [{}, {}]",
                self.most, self.most, x.rows, x.cols
            )));
        }
        let (cols, orientation) = self.resolve(rows, x.cols, Some(true))?;
        Ok((cols, orientation, x))
    }
}

/// A product `[vectors, outputs]` as the caller means it: `W X` has a column per vector.
fn oriented<'py>(product: Bound<'py, PyArrayDyn<i32>>, orientation: Orientation) -> PyResult<Bound<'py, PyAny>> {
    match orientation {
        Orientation::AsStored => product.getattr("T"),
        Orientation::Transposed => Ok(product.into_any()),
    }
}

/// A ternary matrix in the layout the kernels read.
#[pyclass(frozen, module = "rotor._rotor")]
pub(crate) struct PackedMatrix {
    matrix: TernaryMatrix,
    /// Packed when `x W` is first asked for.
    transposed: OnceLock<TernaryMatrix>,
}

#[pymethods]
impl PackedMatrix {
    #[new]
    fn new(
        py: Python<'_>,
        bit0: &Bound<'_, PyAny>,
        bit1: &Bound<'_, PyAny>,
        n: Option<usize>,
        strict: bool,
    ) -> PyResult<PackedMatrix> {
        let pair = PlanePair::take(bit0, bit1)?;
        let cols = columns("planes", pair.bit0.cols, 8, n)?;
        let planes = Planes::new((pair.bit0.rows, cols), pair.bit0.values()?, pair.bit1.values()?);
        let Runtime { kernels, choice, pool, .. } = runtime(py, None)?;
        let kernel = choice.kernel_for((pair.bit0.rows, cols), None);
        let packed = py.detach(|| TernaryMatrix::from_planes(planes, Orientation::AsStored, kernels, kernel, &pool));
        let (matrix, overlap) = packed.map_err(out_of_memory)?;
        check(py, &pair, cols, overlap, strict)?;
        Ok(PackedMatrix { matrix, transposed: OnceLock::new() })
    }

    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.matrix.rows(), self.matrix.cols())
    }

    #[getter]
    fn nbytes(&self) -> usize {
        self.matrix.packed_bytes() + self.transposed.get().map_or(0, TernaryMatrix::packed_bytes)
    }

    fn matvec<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        transpose: Option<bool>,
    ) -> PyResult<Bound<'py, PyArrayDyn<i32>>> {
        let (rows, cols) = self.shape();
        let x = vector(x)?;
        let (_, orientation) = Columns::exactly(cols).resolve(rows, x.cols, transpose)?;
        self.multiply(py, orientation, &x, true)
    }

    fn matmul<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        transpose: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (rows, cols) = self.shape();
        let (_, orientation, x) = Columns::exactly(cols).resolve_matrix(rows, x, transpose)?;
        oriented(self.multiply(py, orientation, &x, false)?, orientation)
    }
}

impl PackedMatrix {
    fn multiply<'py>(
        &self,
        py: Python<'py>,
        orientation: Orientation,
        x: &Matrix<'py, i8>,
        is_vector: bool,
    ) -> PyResult<Bound<'py, PyArrayDyn<i32>>> {
        let runtime = runtime(py, None)?;
        let matrix = self.oriented(py, orientation, &runtime)?;
        let (tokens, x) = (x.rows, x.values()?);
        let (product, ()) = filled(py, (tokens, matrix.rows()), is_vector, |out: &mut [i32]| {
            if out.is_empty() || matrix.cols() == 0 {
                out.fill(0);
            } else {
                Work::with(&runtime, x, matrix.cols(), |activations, _, scratch| {
                    matrix.dot(runtime.kernels, &runtime.pool, activations, scratch, out);
                });
            }
        })?;
        Ok(product)
    }

    fn oriented(&self, py: Python<'_>, orientation: Orientation, runtime: &Runtime) -> PyResult<&TernaryMatrix> {
        if orientation == Orientation::AsStored {
            return Ok(&self.matrix);
        }
        if let Some(transposed) = self.transposed.get() {
            return Ok(transposed);
        }
        let transposed = py.detach(|| self.matrix.transposed(runtime.kernels, &runtime.pool)).map_err(out_of_memory)?;
        Ok(self.transposed.get_or_init(|| transposed))
    }
}
