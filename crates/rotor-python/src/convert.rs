//! Conversions between forms, and what the weights of a model look like. Reports cross over as JSON, which is how the
//! command prints them too.

use crate::errors::format_error;
use crate::gguf::Source;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use rotor::DenseType;
use rotor::convert::{ConvertOptions, Target, convert as convert_source};
use rotor::statistics;
use std::path::PathBuf;

/// Converts an opened model and returns the report, in JSON.
#[pyfunction]
pub(crate) fn convert(
    py: Python<'_>,
    source: &Source,
    output: PathBuf,
    form: &str,
    head: Option<&str>,
    verify: bool,
    lossy_tokenizer: bool,
) -> PyResult<String> {
    let target = form.parse::<Target>().map_err(|known| PyValueError::new_err(format!("type {form:?}: {known}")))?;
    let head = head.map(dense_type).transpose()?;
    let source = source.opened(py)?;
    let options = ConvertOptions { target, head, verify, lossy_tokenizer };
    let report = py.detach(|| convert_source(&source, &output, &options, &mut |_, _, _| {})).map_err(format_error)?;
    py.check_signals()?;
    json(&report)
}

/// The names of the forms that can be converted to.
#[pyfunction]
pub(crate) fn targets() -> Vec<&'static str> {
    Target::ALL.map(Target::name).to_vec()
}

/// The statistics of every ternary tensor, in JSON. This reads all weights.
#[pyfunction]
pub(crate) fn trit_statistics(py: Python<'_>, source: &Source) -> PyResult<String> {
    let source = source.opened(py)?;
    let tensors = py.detach(|| statistics::ternary(&source)).map_err(format_error)?;
    json(&tensors)
}

/// A type that an embedding or a head can be stored as.
pub(crate) fn dense_type(name: &str) -> PyResult<DenseType> {
    let heads = [DenseType::F32, DenseType::F16, DenseType::Bf16, DenseType::Q8_0, DenseType::Q6K, DenseType::Q4K];
    heads.into_iter().find(|dtype| dtype.name() == name).ok_or_else(|| {
        PyValueError::new_err(format!("head must be one of {}, not {name:?}", heads.map(DenseType::name).join(", ")))
    })
}

fn json(value: &impl serde::Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(|error| PyRuntimeError::new_err(error.to_string()))
}
