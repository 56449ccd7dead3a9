//! The compiled part of the Python package `rotor`.
//!
//! Python sees this as `rotor._rotor` and nobody calls it by that name: the sources in `python/rotor` are the public face,
//! with the documentation. What is here takes and gives plain values and numpy arrays, releases the interpreter while it
//! works, and turns every error into a Python exception.

#![deny(unsafe_code)]

mod answer;
mod arrays;
mod bitnet;
mod convert;
mod errors;
mod gguf;
mod hub;
mod matvec;
mod model;
mod options;
mod runtime;
mod stream;
mod synth;

/// The compiled part of `rotor`.
#[pyo3::pymodule]
mod _rotor {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::answer::Generated;
    #[pymodule_export]
    use crate::bitnet::{
        codes_to_planes, codes_to_trits, invalid_codes, invalid_planes, planes_to_codes, planes_to_trits,
        trits_to_codes, trits_to_planes,
    };
    #[pymodule_export]
    use crate::convert::{convert, targets, trit_statistics};
    #[pymodule_export]
    use crate::errors::FormatError;
    #[pymodule_export]
    use crate::gguf::Source;
    #[pymodule_export]
    use crate::hub::{find_model, known_models, models, pull};
    #[pymodule_export]
    use crate::matvec::{PackedMatrix, matmul, matvec};
    #[pymodule_export]
    use crate::model::Model;
    #[pymodule_export]
    use crate::runtime::{isa, threads};
    #[pymodule_export]
    use crate::stream::Stream;
    #[pymodule_export]
    use crate::synth::{presets, random_trits, synthesize};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("BUILT_IN", rotor::demo::NAME)
    }
}
