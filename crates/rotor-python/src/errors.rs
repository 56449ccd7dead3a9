//! Rust's errors as Python's exceptions, each of the type a Python programmer would look for.

use pyo3::exceptions::*;
use pyo3::prelude::*;
use rotor::actor::SubmitError;
use rotor::engine::{GenerateError, LoadError};
use rotor::eval::PerplexityError;
use rotor::model::ForwardError;
use rotor_hub::HubError;
use std::io::ErrorKind;

pyo3::create_exception!(
    rotor,
    FormatError,
    PyValueError,
    "A model's file or folder is broken, or of a kind that rotor does not read."
);

/// `Result::map_err` with one of the functions below.
pub(crate) fn format_error(error: rotor::FormatError) -> PyErr {
    let message = error.to_string();
    match innermost(&error) {
        rotor::FormatError::Io { source, .. } => io_error(source.kind(), message),
        _ => FormatError::new_err(message),
    }
}

fn innermost(error: &rotor::FormatError) -> &rotor::FormatError {
    match error {
        rotor::FormatError::InFile { source, .. } => innermost(source),
        other => other,
    }
}

fn io_error(kind: ErrorKind, message: String) -> PyErr {
    match kind {
        ErrorKind::NotFound => PyFileNotFoundError::new_err(message),
        ErrorKind::PermissionDenied => PyPermissionError::new_err(message),
        ErrorKind::AlreadyExists => PyFileExistsError::new_err(message),
        ErrorKind::IsADirectory => PyIsADirectoryError::new_err(message),
        ErrorKind::NotADirectory => PyNotADirectoryError::new_err(message),
        ErrorKind::OutOfMemory => PyMemoryError::new_err(message),
        _ => PyOSError::new_err(message),
    }
}

/// What is not here is a `FileNotFoundError`, what cannot be reached or read an `OSError`, a name that is none a `ValueError`.
pub(crate) fn hub_error(error: HubError) -> PyErr {
    let message = error.to_string();
    match error {
        HubError::Io { source, .. } => io_error(source.kind(), message),
        HubError::Reference { .. }
        | HubError::SeveralHere { .. }
        | HubError::Ambiguous { .. }
        | HubError::Setting { .. } => PyValueError::new_err(message),
        HubError::NotHere { .. }
        | HubError::NoSuchRepo { .. }
        | HubError::NoSuchRevision { .. }
        | HubError::NoModel { .. }
        | HubError::Offline { .. } => PyFileNotFoundError::new_err(message),
        HubError::Gated { .. } => PyPermissionError::new_err(message),
        HubError::Refused { .. } => FormatError::new_err(message),
        HubError::Network { .. } | HubError::Unfinished { .. } => PyConnectionError::new_err(message),
        _ => PyOSError::new_err(message),
    }
}

pub(crate) fn load_error(error: LoadError) -> PyErr {
    match error {
        LoadError::Format(error) => format_error(error),
        other => FormatError::new_err(other.to_string()),
    }
}

pub(crate) fn generate_error(error: GenerateError) -> PyErr {
    let message = match &error {
        GenerateError::PromptTooLong { tokens, context } => format!(
            "the prompt has {tokens} tokens, but the context holds {context}: shorten it, or load the model with a larger context="
        ),
        GenerateError::MemoryTooSmall { needed, budget } => format!(
            "the request may need {needed} bytes for keys and values, but there are {budget}: shorten it, or load the model with a larger kv_memory="
        ),
        other => other.to_string(),
    };
    match error {
        GenerateError::NoTokenizer(_) | GenerateError::NoChatTemplate => PyRuntimeError::new_err(message),
        GenerateError::NotFinite(_) => PyFloatingPointError::new_err(message),
        GenerateError::Forward(ForwardError::Memory(_)) => PyMemoryError::new_err(message),
        _ => PyValueError::new_err(message),
    }
}

pub(crate) fn submit_error(error: SubmitError) -> PyErr {
    match error {
        SubmitError::Invalid(error) => generate_error(error),
        other => PyRuntimeError::new_err(other.to_string()),
    }
}

pub(crate) fn perplexity_error(error: PerplexityError) -> PyErr {
    match error {
        PerplexityError::Generate(error) => generate_error(error),
        PerplexityError::TooShort { tokens, context } => PyValueError::new_err(format!(
            "the text has {tokens} tokens, but one chunk needs {context}: give more text, or a smaller context="
        )),
        PerplexityError::Context(context) => {
            PyValueError::new_err(format!("context must be at least 4 tokens, not {context}"))
        }
        other => PyValueError::new_err(other.to_string()),
    }
}

pub(crate) fn out_of_memory(error: std::io::Error) -> PyErr {
    PyMemoryError::new_err(error.to_string())
}
