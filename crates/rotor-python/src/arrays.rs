//! numpy arrays in and out: borrowed where their elements lie side by side, copied where they do not.

use numpy::{
    Element, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// A vector or a matrix, row-major. A vector counts as a matrix of one row.
pub(crate) struct Matrix<'py, T: Element> {
    borrowed: PyReadonlyArrayDyn<'py, T>,
    copied: Option<Vec<T>>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) is_vector: bool,
}

impl<'py, T: Element + Copy> Matrix<'py, T> {
    /// Takes an array of exactly this element type with one or two dimensions; `name` is the argument's in errors.
    pub(crate) fn take(name: &str, object: &Bound<'py, PyAny>) -> PyResult<Matrix<'py, T>> {
        let borrowed = typed::<T>(name, object)?;
        let (rows, cols, is_vector) = match *borrowed.shape() {
            [cols] => (1, cols, true),
            [rows, cols] => (rows, cols, false),
            ref other => {
                return Err(PyValueError::new_err(format!(
                    "{name}: expected 1 or 2 dimensions, found {}",
                    other.len()
                )));
            }
        };
        // A transposed matrix is contiguous too, in another order.
        let copied = (!borrowed.is_c_contiguous()).then(|| borrowed.as_array().iter().copied().collect());
        Ok(Matrix { borrowed, copied, rows, cols, is_vector })
    }

    /// The elements, row after row.
    pub(crate) fn values(&self) -> PyResult<&[T]> {
        match &self.copied {
            Some(values) => Ok(values),
            None => Ok(self.borrowed.as_slice()?),
        }
    }

    /// The same elements with rows and columns exchanged; not copied where the array is stored that way.
    pub(crate) fn transposed(name: &str, object: &Bound<'py, PyAny>) -> PyResult<Matrix<'py, T>> {
        Matrix::take(name, &object.getattr("T")?)
    }
}

/// The array as one of this element type, or an error that names both types.
fn typed<'py, T: Element>(name: &str, object: &Bound<'py, PyAny>) -> PyResult<PyReadonlyArrayDyn<'py, T>> {
    let wanted = numpy::dtype::<T>(object.py());
    let Ok(array) = object.cast::<PyUntypedArray>() else {
        let found = object.get_type().name()?;
        return Err(PyTypeError::new_err(format!("{name}: expected a numpy array of {wanted}, found {found}")));
    };
    let found = array.dtype();
    if !found.is_equiv_to(&wanted) {
        return Err(PyTypeError::new_err(format!("{name}: expected an array of {wanted}, found {found}")));
    }
    object.extract::<PyReadonlyArrayDyn<'py, T>>()
}

/// A new array whose elements may be anything, a vector (of the one row's columns) where `is_vector`.
///
/// numpy makes it, because the memory need not be cleared for what is about to be written to all of it.
pub(crate) fn empty<'py, T: Element>(
    py: Python<'py>,
    (rows, cols): (usize, usize),
    is_vector: bool,
) -> PyResult<Bound<'py, PyArrayDyn<T>>> {
    static EMPTY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let empty = EMPTY.import(py, "numpy", "empty")?;
    let array = if is_vector {
        empty.call1((cols, numpy::dtype::<T>(py)))
    } else {
        empty.call1(((rows, cols), numpy::dtype::<T>(py)))
    }?;
    Ok(array.cast_into()?)
}

/// A new array, filled by `fill` while the interpreter is free for others, and what `fill` returns.
pub(crate) fn filled<'py, T: Element + Send, R: Send>(
    py: Python<'py>,
    shape: (usize, usize),
    is_vector: bool,
    fill: impl FnOnce(&mut [T]) -> R + Send,
) -> PyResult<(Bound<'py, PyArrayDyn<T>>, R)> {
    let array = empty(py, shape, is_vector)?;
    let mut borrowed = array.readwrite();
    let values = borrowed.as_slice_mut()?;
    let result = py.detach(|| fill(values));
    drop(borrowed);
    Ok((array, result))
}
