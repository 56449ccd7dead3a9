//! Trits, 2-bit codes and bit planes into each other.
//!
//! The conversions are the engine's; here large matrices are cut into runs of rows, one after the other per thread.

use crate::arrays::{Matrix, filled};
use crate::runtime::runtime;
use numpy::{IxDyn, PyArrayDyn, PyArrayMethods};
use pyo3::exceptions::{PyUserWarning, PyValueError};
use pyo3::prelude::*;
use rotor::planes::{self, InvalidWeights, code_bytes, plane_bytes};
use rotor_kernels::Pool;
use std::ffi::CString;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

type Array<'py, T> = Bound<'py, PyArrayDyn<T>>;
type Planes<'py> = (Array<'py, u8>, Array<'py, u8>);

/// Weights below which handing work to other threads costs more than it saves.
const WEIGHTS_PER_RUN: usize = 1 << 20;

/// Raises for invalid weights, or warns where the caller wants them read as 0.
pub(crate) fn strict_or_warn(
    py: Python<'_>,
    what: &str,
    is_vector: bool,
    strict: bool,
    found: Result<(), InvalidWeights>,
) -> PyResult<()> {
    let Err(invalid) = found else { return Ok(()) };
    let InvalidWeights { count, row, col, kind } = invalid;
    let index = if is_vector { format!("[{col}]") } else { format!("[{row}, {col}]") };
    let message = format!("{what}: {count} invalid, the first at index {index} ({kind})");
    if strict {
        return Err(PyValueError::new_err(message));
    }
    // The caller of the Python function that called this.
    let message = CString::new(message + "; read as 0")?;
    PyErr::warn(py, &py.get_type::<PyUserWarning>(), &message, 2)
}

/// The number of columns that rows of `bytes` bytes stand for: `n`, or as many as there is room for.
pub(crate) fn columns(what: &str, bytes: usize, per_byte: usize, n: Option<usize>) -> PyResult<usize> {
    let most = bytes.saturating_mul(per_byte);
    let Some(n) = n else { return Ok(most) };
    if n.div_ceil(per_byte) != bytes {
        return Err(PyValueError::new_err(format!(
            "{what}: rows of {bytes} bytes hold {} to {most} weights, but n is {n}",
            if bytes == 0 { 0 } else { most - per_byte + 1 },
        )));
    }
    Ok(n)
}

/// Both planes, of one shape.
pub(crate) struct PlanePair<'py> {
    pub(crate) bit0: Matrix<'py, u8>,
    pub(crate) bit1: Matrix<'py, u8>,
}

impl<'py> PlanePair<'py> {
    pub(crate) fn take(bit0: &Bound<'py, PyAny>, bit1: &Bound<'py, PyAny>) -> PyResult<PlanePair<'py>> {
        let (bit0, bit1) = (Matrix::take("bit0", bit0)?, Matrix::take("bit1", bit1)?);
        let shape = |plane: &Matrix<'_, u8>| (plane.rows, plane.cols, plane.is_vector);
        if shape(&bit0) != shape(&bit1) {
            return Err(PyValueError::new_err(format!(
                "bit0 and bit1 must have one shape, found [{}, {}] and [{}, {}]",
                bit0.rows, bit0.cols, bit1.rows, bit1.cols
            )));
        }
        Ok(PlanePair { bit0, bit1 })
    }
}

/// Applies a conversion to runs of rows; the outputs are `(array, elements per row)`.
fn in_runs<const N: usize, T: Send>(
    pool: &Pool,
    (rows, cols): (usize, usize),
    outputs: [(&mut [T], usize); N],
    convert: impl Fn(Range<usize>, &mut [&mut [T]; N]) -> Result<(), InvalidWeights> + Sync,
) -> Result<(), InvalidWeights> {
    let step = (WEIGHTS_PER_RUN / cols.max(1)).clamp(1, rows.max(1));
    let count = rows.div_ceil(step);
    let mut pieces = outputs.map(|(array, width)| {
        // An empty row has no chunks; every run still gets its piece.
        let mut chunks = array.chunks_mut((step * width).max(1));
        (0..count).map(|_| chunks.next().unwrap_or_default()).collect::<Vec<_>>().into_iter()
    });
    let mut runs: Vec<[&mut [T]; N]> =
        (0..count).map(|_| pieces.each_mut().map(|pieces| pieces.next().unwrap_or_default())).collect();
    let found: Mutex<Option<InvalidWeights>> = Mutex::new(None);
    pool.for_each_chunk(&mut runs, 1, |index, run| {
        let range = index * step..((index + 1) * step).min(rows);
        let Err(mut invalid) = run.first_mut().map_or(Ok(()), |run| convert(range.clone(), run)) else { return };
        invalid.row += range.start;
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        *found = Some(match *found {
            None => invalid,
            Some(other) => {
                let (first, count) =
                    (if other.row < invalid.row { other } else { invalid }, other.count + invalid.count);
                InvalidWeights { count, ..first }
            }
        });
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// The rows `range` of an array with `width` elements to a row.
fn rows_of<T>(values: &[T], range: Range<usize>, width: usize) -> &[T] {
    &values[range.start * width..range.end * width]
}

/// int8 trits `[m, n]` or `[n]` to codes `[m, ceil(n/4)]` or `[ceil(n/4)]`.
#[pyfunction]
pub(crate) fn trits_to_codes<'py>(
    py: Python<'py>,
    values: &Bound<'py, PyAny>,
    strict: bool,
) -> PyResult<Array<'py, u8>> {
    let trits = Matrix::<i8>::take("values", values)?;
    let (shape, width, pool) = ((trits.rows, trits.cols), code_bytes(trits.cols), runtime(py, None)?.pool);
    let from = trits.values()?;
    let (codes, found) = filled(py, (trits.rows, width), trits.is_vector, |codes: &mut [u8]| {
        in_runs(&pool, shape, [(codes, width)], |range, [codes]| {
            planes::encode_codes((range.len(), shape.1), rows_of(from, range, shape.1), codes)
        })
    })?;
    strict_or_warn(py, "values must be -1, 0 or +1", trits.is_vector, strict, found)?;
    Ok(codes)
}

/// Codes to int8 trits.
#[pyfunction]
pub(crate) fn codes_to_trits<'py>(
    py: Python<'py>,
    codes: &Bound<'py, PyAny>,
    n: Option<usize>,
    strict: bool,
) -> PyResult<Array<'py, i8>> {
    let codes = Matrix::<u8>::take("codes", codes)?;
    let cols = columns("codes", codes.cols, 4, n)?;
    let (shape, width, pool) = ((codes.rows, cols), codes.cols, runtime(py, None)?.pool);
    let from = codes.values()?;
    let (trits, found) = filled(py, shape, codes.is_vector, |trits: &mut [i8]| {
        in_runs(&pool, shape, [(trits, cols)], |range, [trits]| {
            planes::decode_codes((range.len(), cols), rows_of(from, range, width), trits)
        })
    })?;
    strict_or_warn(py, "codes must be 00, 01 or 10", codes.is_vector, strict, found)?;
    Ok(trits)
}

/// Two arrays of planes, made by one conversion: the halves of one allocation.
///
/// Two blocks of one size, freed together, are what glibc gives back to the system at once, since it keeps up to twice the
/// largest block it saw freed: the next conversion would wait for fresh pages, which takes longer than converting does.
fn filled_planes<'py>(
    py: Python<'py>,
    (rows, cols): (usize, usize),
    is_vector: bool,
    convert: impl Fn(Range<usize>, &mut [u8], &mut [u8]) -> Result<(), InvalidWeights> + Sync,
) -> PyResult<(Planes<'py>, Result<(), InvalidWeights>)> {
    let width = plane_bytes(cols);
    let pool = runtime(py, None)?.pool;
    let (both, found) = filled(py, (2, rows * width), false, |both: &mut [u8]| {
        let (bit0, bit1) = both.split_at_mut(rows * width);
        in_runs(&pool, (rows, cols), [(bit0, width), (bit1, width)], |range, [bit0, bit1]| convert(range, bit0, bit1))
    })?;
    let both = if is_vector { both } else { both.reshape(IxDyn(&[2, rows, width]))? };
    let plane = |index: usize| -> PyResult<Array<'py, u8>> { Ok(both.get_item(index)?.cast_into()?) };
    Ok(((plane(0)?, plane(1)?), found))
}

/// Codes to planes.
#[pyfunction]
pub(crate) fn codes_to_planes<'py>(
    py: Python<'py>,
    codes: &Bound<'py, PyAny>,
    n: Option<usize>,
    strict: bool,
) -> PyResult<Planes<'py>> {
    let codes = Matrix::<u8>::take("codes", codes)?;
    let cols = columns("codes", codes.cols, 4, n)?;
    let (width, from) = (codes.cols, codes.values()?);
    let (planes, found) = filled_planes(py, (codes.rows, cols), codes.is_vector, |range, bit0, bit1| {
        planes::codes_to_planes((range.len(), cols), rows_of(from, range, width), bit0, bit1)
    })?;
    strict_or_warn(py, "codes must be 00, 01 or 10", codes.is_vector, strict, found)?;
    Ok(planes)
}

/// int8 trits to planes.
#[pyfunction]
pub(crate) fn trits_to_planes<'py>(py: Python<'py>, values: &Bound<'py, PyAny>, strict: bool) -> PyResult<Planes<'py>> {
    let trits = Matrix::<i8>::take("values", values)?;
    let (cols, from) = (trits.cols, trits.values()?);
    let (planes, found) = filled_planes(py, (trits.rows, cols), trits.is_vector, |range, bit0, bit1| {
        planes::trits_to_planes((range.len(), cols), rows_of(from, range, cols), bit0, bit1)
    })?;
    strict_or_warn(py, "values must be -1, 0 or +1", trits.is_vector, strict, found)?;
    Ok(planes)
}

/// Planes to codes.
#[pyfunction]
pub(crate) fn planes_to_codes<'py>(
    py: Python<'py>,
    bit0: &Bound<'py, PyAny>,
    bit1: &Bound<'py, PyAny>,
    n: Option<usize>,
    strict: bool,
) -> PyResult<Array<'py, u8>> {
    let pair = PlanePair::take(bit0, bit1)?;
    let cols = columns("planes", pair.bit0.cols, 8, n)?;
    let (shape, width, out_width) = ((pair.bit0.rows, cols), pair.bit0.cols, code_bytes(cols));
    let (plus, minus, pool) = (pair.bit0.values()?, pair.bit1.values()?, runtime(py, None)?.pool);
    let (codes, found) = filled(py, (shape.0, out_width), pair.bit0.is_vector, |codes: &mut [u8]| {
        in_runs(&pool, shape, [(codes, out_width)], |range, [codes]| {
            let (plus, minus) = (rows_of(plus, range.clone(), width), rows_of(minus, range.clone(), width));
            planes::planes_to_codes((range.len(), cols), plus, minus, codes)
        })
    })?;
    strict_or_warn(py, BOTH, pair.bit0.is_vector, strict, found)?;
    Ok(codes)
}

/// What planes must keep to.
pub(crate) const BOTH: &str = "a weight must not be set in both planes";

/// Planes to int8 trits.
#[pyfunction]
pub(crate) fn planes_to_trits<'py>(
    py: Python<'py>,
    bit0: &Bound<'py, PyAny>,
    bit1: &Bound<'py, PyAny>,
    n: Option<usize>,
    strict: bool,
) -> PyResult<Array<'py, i8>> {
    let pair = PlanePair::take(bit0, bit1)?;
    let cols = columns("planes", pair.bit0.cols, 8, n)?;
    let (shape, width) = ((pair.bit0.rows, cols), pair.bit0.cols);
    let (plus, minus, pool) = (pair.bit0.values()?, pair.bit1.values()?, runtime(py, None)?.pool);
    let (trits, found) = filled(py, shape, pair.bit0.is_vector, |trits: &mut [i8]| {
        in_runs(&pool, shape, [(trits, cols)], |range, [trits]| {
            let (plus, minus) = (rows_of(plus, range.clone(), width), rows_of(minus, range.clone(), width));
            planes::planes_to_trits((range.len(), cols), plus, minus, trits)
        })
    })?;
    strict_or_warn(py, BOTH, pair.bit0.is_vector, strict, found)?;
    Ok(trits)
}

/// How many weights of the planes are invalid.
#[pyfunction]
pub(crate) fn invalid_planes(
    py: Python<'_>,
    bit0: &Bound<'_, PyAny>,
    bit1: &Bound<'_, PyAny>,
    n: Option<usize>,
) -> PyResult<usize> {
    let pair = PlanePair::take(bit0, bit1)?;
    let cols = columns("planes", pair.bit0.cols, 8, n)?;
    let (rows, plus, minus) = (pair.bit0.rows, pair.bit0.values()?, pair.bit1.values()?);
    let mut codes = vec![0; rows * code_bytes(cols)];
    let found = py.detach(|| planes::planes_to_codes((rows, cols), plus, minus, &mut codes));
    Ok(found.map_or_else(|invalid| invalid.count, |()| 0))
}

/// What is wrong with the planes of a matrix of `cols` columns, for planes that are known to be wrong: it takes its time.
pub(crate) fn check_planes(py: Python<'_>, pair: &PlanePair<'_>, cols: usize) -> PyResult<Result<(), InvalidWeights>> {
    let (rows, plus, minus) = (pair.bit0.rows, pair.bit0.values()?, pair.bit1.values()?);
    Ok(py.detach(|| planes::check_planes((rows, cols), plus, minus)))
}

/// How many codes are invalid.
#[pyfunction]
pub(crate) fn invalid_codes(py: Python<'_>, codes: &Bound<'_, PyAny>, n: Option<usize>) -> PyResult<usize> {
    let codes = Matrix::<u8>::take("codes", codes)?;
    let cols = columns("codes", codes.cols, 4, n)?;
    let (rows, from) = (codes.rows, codes.values()?);
    let width = plane_bytes(cols);
    let found = py.detach(|| {
        let (mut bit0, mut bit1) = (vec![0; rows * width], vec![0; rows * width]);
        planes::codes_to_planes((rows, cols), from, &mut bit0, &mut bit1)
    });
    Ok(found.map_or_else(|invalid| invalid.count, |()| 0))
}
