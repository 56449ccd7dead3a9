//! A model's file, opened but not loaded: its tensors, its metadata, and the weights of single tensors.

use crate::arrays::empty;
use crate::errors::format_error;
use crate::runtime::runtime;
use numpy::PyArrayMethods;
use pyo3::exceptions::{PyIndexError, PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyList};
use rotor::config::{Activation, Activations, Config};
use rotor::engine::DEFAULT_CONTEXT;
use rotor::formats::metadata::{Array, Value};
use rotor::formats::{LoadOptions, OpenOptions, Part, Role, Source as Opened, SourceMetadata, Weight};
use rotor::forms::{I2sLayout, KernelConfig, Scales, TernaryTensor};
use rotor::plan::MemoryPlan;
use rotor::tokenizer::Tokenizer;
use rotor::{DenseType, FormatError, KvType};
use rotor_kernels::Pool;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of weights that one task decodes.
const BYTES_PER_RUN: usize = 1 << 20;

/// A tensor in a file: name, shape, type, bytes.
type Listed = (String, Vec<usize>, String, usize);

/// An opened model file; `rotor.gguf.File` wraps it.
#[pyclass(frozen, module = "rotor._rotor")]
pub(crate) struct Source {
    /// Taken only while attached and never across a detach.
    opened: Mutex<Option<Arc<Opened>>>,
}

impl Source {
    pub(crate) fn opened(&self, _py: Python<'_>) -> PyResult<Arc<Opened>> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone();
        opened.ok_or_else(|| PyValueError::new_err("the file is closed"))
    }
}

#[pymethods]
impl Source {
    #[staticmethod]
    #[pyo3(signature = (path, i2s_layout, hidden_act, kernel_config, mmap, activations="auto"))]
    fn open(
        py: Python<'_>,
        path: Option<PathBuf>,
        i2s_layout: Option<&str>,
        hidden_act: Option<&str>,
        kernel_config: Option<PathBuf>,
        mmap: bool,
        activations: &str,
    ) -> PyResult<Source> {
        let i2s_layout = match i2s_layout {
            None => None,
            Some("128") => Some(I2sLayout::Blocks128),
            Some("64") => Some(I2sLayout::Blocks64),
            Some("1x4") => Some(I2sLayout::Rows4),
            Some("seq") => Some(I2sLayout::Sequential),
            Some(other) => {
                return Err(PyValueError::new_err(format!(
                    "i2s_layout must be '128', '64', '1x4' or 'seq', not {other:?}"
                )));
            }
        };
        let hidden_act = match hidden_act {
            None => None,
            Some(name) => match Activation::ALL.into_iter().find(|activation| activation.name() == name) {
                None => {
                    let known = Activation::ALL.map(Activation::name).join("', '");
                    return Err(PyValueError::new_err(format!("hidden_act must be one of '{known}', not {name:?}")));
                }
                found => found,
            },
        };
        let kernel_config = kernel_config.as_deref().map(KernelConfig::read).transpose().map_err(format_error)?;
        let kernel_config = kernel_config.unwrap_or_default();
        let activations = match activations {
            "auto" => None,
            name => match Activations::ALL.into_iter().find(|activations| activations.name() == name) {
                None => {
                    let message = format!("activations must be 'auto', 'int8' or 'exact', not {name:?}");
                    return Err(PyValueError::new_err(message));
                }
                found => found,
            },
        };
        let load = LoadOptions { activations, ..LoadOptions::default() };
        let options = OpenOptions { i2s_layout, hidden_act, kernel_config, no_mmap: !mmap, load };
        let opened = py
            .detach(|| match &path {
                Some(path) => Opened::open(path, &options),
                None => rotor::demo::open(&options),
            })
            .map_err(format_error)?;
        Ok(Source { opened: Mutex::new(Some(Arc::new(opened))) })
    }

    fn close(&self) {
        drop(self.opened.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    #[getter]
    fn kind(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(self.opened(py)?.kind().name())
    }

    #[getter]
    fn warnings(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        Ok(self.opened(py)?.warnings().to_vec())
    }

    #[getter]
    fn chat_template(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.opened(py)?.chat_template().map_err(format_error)
    }

    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        config_dict(py, self.opened(py)?.config())
    }

    /// Every tensor in file order: `(name, shape, type, bytes)`.
    fn tensors(&self, py: Python<'_>) -> PyResult<Vec<Listed>> {
        let describe = |tensor: rotor::formats::TensorSummary<'_>| {
            (tensor.name.to_owned(), tensor.shape.to_vec(), tensor.type_name.to_owned(), tensor.bytes.len())
        };
        Ok(self.opened(py)?.tensors().map(describe).collect())
    }

    /// A GGUF's key-value pairs, or `config.json` as text.
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let opened = self.opened(py)?;
        match opened.metadata() {
            SourceMetadata::Gguf(metadata) => {
                let pairs = PyDict::new(py);
                for (key, value) in metadata.iter() {
                    pairs.set_item(key, python_value(py, value)?)?;
                }
                Ok(pairs.into_any())
            }
            SourceMetadata::HuggingFace(config) => {
                let text = serde_json::to_string(config).map_err(|error| PyValueError::new_err(error.to_string()))?;
                Ok(text.into_pyobject(py)?.into_any())
            }
        }
    }

    /// What loading will take: bytes of linears, embedding, head, its sketch, and of keys and values per token (f16); and the context
    /// they are usually kept for.
    fn memory(&self, py: Python<'_>) -> PyResult<(u64, u64, u64, u64, u64, usize)> {
        let opened = self.opened(py)?;
        let runtime = runtime(py, None)?;
        let plan =
            py.detach(|| MemoryPlan::of(&opened, &runtime.tuned_earlier(&opened).choice)).map_err(format_error)?;
        let context = opened.config().max_position_embeddings.min(DEFAULT_CONTEXT);
        let per_token = MemoryPlan::kv(opened.config(), 1, KvType::F16);
        Ok((plan.linears, plan.embedding, plan.head, plan.sketch, per_token, context))
    }

    /// `(tokens, bos, eos, adds_bos, end of generation)`, `None` without a tokenizer, or why it cannot be used.
    fn tokenizer<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let opened = self.opened(py)?;
        let Some(vocabulary) = opened.tokenizer().map_err(format_error)? else { return Ok(None) };
        match py.detach(|| Tokenizer::new(&vocabulary, opened.config().vocab_size)) {
            Err(error) => Ok(Some(error.to_string().into_pyobject(py)?.into_any())),
            Ok(tokenizer) => {
                let ends = tokenizer.end_of_generation().to_vec();
                let parts = (tokenizer.len(), tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos(), ends);
                Ok(Some(parts.into_pyobject(py)?.into_any()))
            }
        }
    }

    /// The linears of a layer: `(part, tensor's name)`.
    fn layer(&self, py: Python<'_>, layer: usize) -> PyResult<Vec<(&'static str, String)>> {
        let opened = self.opened(py)?;
        let layers = opened.config().num_hidden_layers;
        if layer >= layers {
            return Err(PyIndexError::new_err(format!("layer {layer} of a model with {layers}, counted from 0")));
        }
        let named = |(part, short)| {
            let linear = opened.linear(Role::Layer(layer, part)).map_err(format_error)?;
            Ok((short, name(&linear.weight).to_owned()))
        };
        LINEARS.into_iter().map(named).collect()
    }

    /// A ternary tensor as `(int8 trits, scale, type)`, a dense one as `(float32 values, None, type)`; rows in the order of
    /// the file.
    fn load<'py>(&self, py: Python<'py>, name: &str) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>, String)> {
        let opened = self.opened(py)?;
        let pool = runtime(py, None)?.pool;
        match find(&opened, name).map_err(format_error)? {
            Some(tensor) => {
                let trits = empty::<i8>(py, (tensor.rows, tensor.cols), false)?;
                let mut borrowed = trits.readwrite();
                let values = borrowed.as_slice_mut()?;
                py.detach(|| read_trits(&tensor, &pool, values)).map_err(format_error)?;
                drop(borrowed);
                Ok((trits.into_any(), python_scale(py, &tensor)?, tensor.form.name().to_owned()))
            }
            None => load_dense(py, &opened, &pool, name),
        }
    }
}

fn name<'a>(weight: &Weight<'a>) -> &'a str {
    match weight {
        Weight::Ternary(tensor) => tensor.name,
        Weight::Dense(tensor) => tensor.name,
    }
}

/// The ternary tensor of this name, if it is one.
fn find<'a>(source: &'a Opened, wanted: &str) -> Result<Option<TernaryTensor<'a>>, FormatError> {
    for layer in 0..source.config().num_hidden_layers {
        for part in Part::LINEARS {
            let weight = source.linear(Role::Layer(layer, part))?.weight;
            if name(&weight) == wanted {
                return Ok(if let Weight::Ternary(tensor) = weight { Some(tensor) } else { None });
            }
        }
    }
    for role in [Role::TokenEmbedding, Role::Output] {
        if let Some(Weight::Ternary(tensor)) = source.matrix(role)?
            && tensor.name == wanted
        {
            return Ok(Some(tensor));
        }
    }
    Ok(None)
}

fn read_trits(tensor: &TernaryTensor<'_>, pool: &Pool, out: &mut [i8]) -> Result<(), FormatError> {
    let step = (BYTES_PER_RUN / tensor.cols.max(1)).max(1);
    let failure = Mutex::new(None);
    pool.for_each_chunk(out, (step * tensor.cols).max(1), |run, rows| {
        for (row, out) in rows.chunks_exact_mut(tensor.cols.max(1)).enumerate() {
            if let Err(error) = tensor.read_stored_row(run * step + row, out) {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn load_dense<'py>(
    py: Python<'py>,
    source: &Opened,
    pool: &Pool,
    name: &str,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>, String)> {
    let tensor = source.tensors().find(|tensor| tensor.name == name);
    let tensor = tensor.ok_or_else(|| PyKeyError::new_err(format!("there is no tensor {name:?}")))?;
    let unreadable =
        || PyValueError::new_err(format!("tensor {name:?} has type {}, not a kind of number", tensor.type_name));
    let dtype = DenseType::ALL.into_iter().find(|dtype| dtype.name() == tensor.type_name).ok_or_else(unreadable)?;
    let cols = tensor.shape.last().copied().unwrap_or(1);
    let rows = tensor.shape.iter().rev().skip(1).try_fold(1usize, |product, &dim| product.checked_mul(dim));
    let (rows, row_bytes) = rows.zip(dtype.row_bytes(cols)).ok_or_else(unreadable)?;
    if row_bytes.checked_mul(rows) != Some(tensor.bytes.len()) {
        return Err(unreadable());
    }
    let array = empty::<f32>(py, (rows, cols), false)?;
    let mut borrowed = array.readwrite();
    let values = borrowed.as_slice_mut()?;
    py.detach(|| {
        pool.for_each_chunk(values, cols.max(1), |row, out| {
            dtype.decode(&tensor.bytes[row * row_bytes..][..row_bytes], out)
        });
    });
    drop(borrowed);
    let shaped = array.call_method1("reshape", (tensor.shape.to_vec(),))?;
    Ok((shaped, py.None().into_bound(py), tensor.type_name.to_owned()))
}

/// A float for one scale, float32 `[rows]` or `[rows, groups]` for several.
fn python_scale<'py>(py: Python<'py>, tensor: &TernaryTensor<'_>) -> PyResult<Bound<'py, PyAny>> {
    let array = |values: &[f32], groups: usize, is_vector: bool| {
        let shape = if is_vector { (1, values.len()) } else { (values.len() / groups.max(1), groups) };
        let array = empty::<f32>(py, shape, is_vector)?;
        array.readwrite().as_slice_mut()?.copy_from_slice(values);
        Ok(array.into_any())
    };
    match &tensor.scales {
        Scales::Tensor(scale) => Ok(f64::from(*scale).into_pyobject(py)?.into_any()),
        Scales::Rows(values) => array(values, 1, true),
        Scales::Groups { groups, values } => array(values, *groups, false),
    }
}

/// GGUF's names for the projections.
const LINEARS: [(Part, &str); 7] = [
    (Part::AttnQ, "attn_q"),
    (Part::AttnK, "attn_k"),
    (Part::AttnV, "attn_v"),
    (Part::AttnOutput, "attn_output"),
    (Part::FfnGate, "ffn_gate"),
    (Part::FfnUp, "ffn_up"),
    (Part::FfnDown, "ffn_down"),
];

/// The hyper-parameters under transformers' names.
pub(crate) fn config_dict<'py>(py: Python<'py>, config: &Config) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("architecture", config.architecture.name())?;
    dict.set_item("name", config.name.as_deref())?;
    for (key, value) in config.to_json() {
        dict.set_item(key, json_value(py, &value)?)?;
    }
    Ok(dict)
}

/// JSON as Python has it.
fn json_value<'py>(py: Python<'py>, value: &serde_json::Value) -> PyResult<Bound<'py, PyAny>> {
    use serde_json::Value::{Array, Bool, Null, Number, Object, String};
    Ok(match value {
        Null => py.None().into_bound(py),
        Bool(value) => PyBool::new(py, *value).to_owned().into_any(),
        Number(number) => match number.as_u64() {
            Some(count) => count.into_pyobject(py)?.into_any(),
            None => number.as_f64().into_pyobject(py)?.into_any(),
        },
        String(text) => text.into_pyobject(py)?.into_any(),
        Array(values) => {
            let values = values.iter().map(|value| json_value(py, value)).collect::<PyResult<Vec<_>>>()?;
            PyList::new(py, values)?.into_any()
        }
        Object(map) => {
            let dict = PyDict::new(py);
            for (key, value) in map {
                dict.set_item(key, json_value(py, value)?)?;
            }
            dict.into_any()
        }
    })
}

/// Text as `str`, or as `bytes` where it is not UTF-8; arrays as lists.
fn python_value<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::U8(v) => v.into_pyobject(py)?.into_any(),
        Value::I8(v) => v.into_pyobject(py)?.into_any(),
        Value::U16(v) => v.into_pyobject(py)?.into_any(),
        Value::I16(v) => v.into_pyobject(py)?.into_any(),
        Value::U32(v) => v.into_pyobject(py)?.into_any(),
        Value::I32(v) => v.into_pyobject(py)?.into_any(),
        Value::U64(v) => v.into_pyobject(py)?.into_any(),
        Value::I64(v) => v.into_pyobject(py)?.into_any(),
        Value::F32(v) => v.into_pyobject(py)?.into_any(),
        Value::F64(v) => v.into_pyobject(py)?.into_any(),
        Value::Bool(v) => v.into_pyobject(py)?.to_owned().into_any(),
        Value::String(v) => python_text(py, v)?,
        Value::Array(Array::String(strings)) => {
            let texts: Vec<_> = strings.iter().map(|text| python_text(py, text)).collect::<PyResult<_>>()?;
            PyList::new(py, texts)?.into_any()
        }
        Value::Array(array) => {
            let values = (0..array.len()).filter_map(|index| array.get(index));
            let values: Vec<_> = values.map(|value| python_value(py, &value)).collect::<PyResult<_>>()?;
            PyList::new(py, values)?.into_any()
        }
    })
}

fn python_text<'py>(py: Python<'py>, text: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    match std::str::from_utf8(text) {
        Ok(text) => Ok(text.into_pyobject(py)?.into_any()),
        Err(_) => Ok(PyBytes::new(py, text).into_any()),
    }
}
