//! Random trits and synthetic models.

use crate::arrays::filled;
use crate::convert::dense_type;
use crate::errors::format_error;
use numpy::PyArrayDyn;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rotor::forms::I2sLayout;
use rotor::synth::{self, Preset, SynthOptions, SynthType};
use std::path::PathBuf;

/// int8 trits `[m, n]`, each zero with probability `zeros`, the rest evenly -1 and +1.
#[pyfunction]
pub(crate) fn random_trits(
    py: Python<'_>,
    m: usize,
    n: usize,
    zeros: f64,
    seed: u64,
) -> PyResult<Bound<'_, PyArrayDyn<i8>>> {
    if !(0.0..=1.0).contains(&zeros) {
        return Err(PyValueError::new_err(format!("zeros must be between 0 and 1, not {zeros}")));
    }
    let (trits, ()) = filled(py, (m, n), false, |trits: &mut [i8]| synth::random_trits(seed, zeros, trits))?;
    Ok(trits)
}

/// The names of the architectures that can be synthesised.
#[pyfunction]
pub(crate) fn presets() -> Vec<&'static str> {
    Preset::ALL.map(Preset::name).to_vec()
}

/// Writes a synthetic model and returns `(tensors, ternary weights, bytes, vocabulary)`.
#[pyfunction]
pub(crate) fn synthesize(
    py: Python<'_>,
    preset: &str,
    path: PathBuf,
    form: &str,
    head: &str,
    seed: u64,
    tokenizer: Option<PathBuf>,
) -> PyResult<(usize, u64, u64, usize)> {
    let preset: Preset = preset.parse().map_err(PyValueError::new_err)?;
    let form = match form {
        "i2_s" => SynthType::I2S(I2sLayout::Blocks128),
        "i2_s_64" => SynthType::I2S(I2sLayout::Blocks64),
        "hf" => SynthType::HuggingFace,
        other => return Err(PyValueError::new_err(format!("type must be 'i2_s', 'i2_s_64' or 'hf', not {other:?}"))),
    };
    let head = dense_type(head)?;
    let options = SynthOptions { form, head, seed, tokenizer, active_gates: None };
    let report = py.detach(|| synth::synthesize(preset, &path, &options, &mut |_, _| {})).map_err(format_error)?;
    Ok((report.tensors, report.ternary_weights, report.bytes, report.vocabulary))
}
