//! A loaded model and what it computes.
//!
//! Any thread may call. Generations share steps: the model's actor computes them together. Logits and perplexity are computed on
//! the calling thread, and the kernels of all calls queue on the one pool. What was computed is kept, so a prompt that begins
//! like an earlier one is cheaper.

use crate::answer::{Answer, Generated, Piece};
use crate::arrays::empty;
use crate::errors::{generate_error, load_error, perplexity_error, submit_error};
use crate::options::{Options, kv_type, speculate_kind};
use crate::runtime::runtime;
use crate::stream::Stream;
use numpy::{PyArrayDyn, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rotor::actor::{Actor, ActorOptions};
use rotor::batch::BatchOptions;
use rotor::cache::SequenceCache;
use rotor::chat::Message;
use rotor::config::Pooling;
use rotor::constraint::Constraint;
use rotor::engine::{Engine, GenerateError};
use rotor::eval::perplexity;
use rotor::formats::Source;
use rotor::grammar::{Grammar, GrammarError, Grammars};
use rotor::model::{Step, Wanted, Workspace};
use rotor::request::Request;
use rotor::tokenizer::SpecialTokens;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long Ctrl-C may go unnoticed; asking costs a round through the interpreter.
pub(crate) const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);

/// Requests that may wait for a place in a step. Each is a thread of the caller's that waits, or a stream of its own.
const QUEUE: usize = 4096;

/// Rows of logits computed together.
const LOGIT_ROWS: usize = 128;

/// What a model is while it is open.
pub(crate) struct Loaded {
    actor: Actor,
    /// The vocabulary as grammars need it, built when the first one comes.
    grammars: OnceLock<Result<Grammars, GrammarError>>,
    context: usize,
    process: u32,
}

/// A loaded model; `rotor.Model` wraps it.
#[pyclass(frozen, module = "rotor._rotor")]
pub(crate) struct Model {
    /// Taken only while attached and never across a detach: see `runtime`.
    loaded: Mutex<Option<Arc<Loaded>>>,
}

impl Loaded {
    pub(crate) fn engine(&self) -> &Engine {
        self.actor.engine()
    }

    /// Begins to generate.
    pub(crate) fn begin(&self, prompt: &[u32], options: &Options) -> PyResult<Answer> {
        let constraint =
            options.response_format.as_deref().map(|format| self.constraint(format)).transpose()?.flatten();
        let request =
            Request { logprobs: options.logprobs, constraint, ..Request::new(prompt.to_vec(), options.engine()) };
        Ok(Answer::new(self.actor.submit(request).map_err(submit_error)?))
    }

    /// What keeps an answer to a `response_format`, given as JSON; `None` for free text.
    fn constraint(&self, format: &str) -> PyResult<Option<Box<dyn Constraint>>> {
        let wrong = |error: &dyn std::fmt::Display| PyValueError::new_err(format!("response_format: {error}"));
        let format = serde_json::from_str(format).map_err(|error| wrong(&error))?;
        let Some(grammar) = Grammar::of_response_format(&format).map_err(|error| wrong(&error))? else {
            return Ok(None);
        };
        let engine = self.engine();
        let tokenizer = engine.tokenizer("response_format").map_err(generate_error)?;
        let vocab_size = engine.model().config().vocab_size;
        let grammars = self.grammars.get_or_init(|| Grammars::new(tokenizer, vocab_size));
        let grammars = grammars.as_ref().map_err(|error| wrong(error))?;
        grammars.constraint(&grammar).map(Some).map_err(|error| wrong(&error))
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.process == std::process::id() {
            // Waits for the step at hand, so that threads and memory are free when the model is closed.
            self.actor.shutdown();
        } else {
            // The thread is the parent's. As long as a handle is left, nobody here tells it or waits for it.
            std::mem::forget(self.actor.clone());
        }
    }
}

/// Asks Python, now and then, whether Ctrl-C was pressed.
struct Signals {
    asked: Instant,
}

impl Signals {
    fn new() -> Signals {
        Signals { asked: Instant::now() }
    }

    /// The exception that came, if it is time to ask again.
    fn check(&mut self) -> PyResult<()> {
        if self.asked.elapsed() < SIGNAL_INTERVAL { Ok(()) } else { self.check_now() }
    }

    /// Runs what asks now and then whether to go on.
    ///
    /// # Errors
    /// The exception that came while it ran.
    fn watch<R>(work: impl FnOnce(&mut dyn FnMut() -> ControlFlow<()>) -> R) -> PyResult<R> {
        let (mut signals, mut raised) = (Signals::new(), Ok(()));
        let result = work(&mut || {
            raised = signals.check();
            if raised.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        raised.and_then(|()| signals.check_now()).map(|()| result)
    }

    fn check_now(&mut self) -> PyResult<()> {
        self.asked = Instant::now();
        Python::attach(|py| py.check_signals())
    }
}

/// Hands a piece of text to Python. Returns whether it wants more: `False` breaks off.
fn wants_more(callback: &Py<PyAny>, text: &str) -> PyResult<bool> {
    Python::attach(|py| Ok(!callback.bind(py).call1((text,))?.is(&*pyo3::types::PyBool::new(py, false))))
}

impl Model {
    /// The model, or an error where it was closed or belongs to another process.
    pub(crate) fn loaded(&self, _py: Python<'_>) -> PyResult<Arc<Loaded>> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let loaded = loaded.ok_or_else(|| PyValueError::new_err("the model is closed"))?;
        if loaded.process != std::process::id() {
            return Err(PyRuntimeError::new_err(
                "the model was loaded before this process was forked and its threads are the parent's: load it in the \
                 child, or start workers with the 'spawn' method",
            ));
        }
        Ok(loaded)
    }
}

#[pymethods]
impl Model {
    #[staticmethod]
    fn load(
        py: Python<'_>,
        source: &crate::gguf::Source,
        threads: Option<usize>,
        context: Option<usize>,
        kv: &str,
        kv_memory: Option<u64>,
        speculate: &str,
    ) -> PyResult<Model> {
        let (runtime, kv, speculate) = (runtime(py, threads)?, kv_type(kv)?, speculate_kind(speculate)?);
        let source: Arc<Source> = source.opened(py)?;
        let engine =
            py.detach(|| Engine::from_source(&source, &runtime.tuned(&source), &mut |_| {})).map_err(load_error)?;
        py.check_signals()?;
        let context = context.unwrap_or_else(|| engine.default_context());
        if context == 0 {
            return Err(PyValueError::new_err("context must be at least 1"));
        }
        let batch = BatchOptions { kv, kv_memory, speculate, ..BatchOptions::new(context) };
        let options = ActorOptions { queue: QUEUE, ..ActorOptions::new(batch) };
        let actor = Actor::start(Arc::new(engine), options)
            .map_err(|error| PyRuntimeError::new_err(format!("cannot start a thread: {error}")))?;
        let loaded = Loaded { actor, grammars: OnceLock::new(), context, process: std::process::id() };
        Ok(Model { loaded: Mutex::new(Some(Arc::new(loaded))) })
    }

    fn close(&self) {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(loaded);
    }

    #[getter]
    fn closed(&self) -> bool {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    #[getter]
    fn context(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.loaded(py)?.context)
    }

    #[getter]
    fn warnings(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        Ok(self.loaded(py)?.engine().warnings().to_vec())
    }

    #[getter]
    fn weight_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.loaded(py)?.engine().model().weight_bytes())
    }

    #[getter]
    fn has_chat_template(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.loaded(py)?.engine().chat_template().is_ok())
    }

    /// Whether the prompt for an answer ends in a space, so that a space that begins the answer is not part of it.
    #[getter]
    fn trims_answer(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.loaded(py)?.engine().chat_template().is_ok_and(|template| template.trims_answer()))
    }

    /// `(bos, eos, adds_bos, end of generation, number of tokens)`, or `None` without a tokenizer.
    #[getter]
    #[expect(clippy::type_complexity, reason = "a Python tuple")]
    fn vocabulary(&self, py: Python<'_>) -> PyResult<Option<(Option<u32>, Option<u32>, bool, Vec<u32>, usize)>> {
        let loaded = self.loaded(py)?;
        let Ok(tokenizer) = loaded.engine().tokenizer("the vocabulary") else { return Ok(None) };
        let ends = tokenizer.end_of_generation().to_vec();
        Ok(Some((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos(), ends, tokenizer.len())))
    }

    fn tokenize(&self, py: Python<'_>, text: &str, add_bos: bool, special: bool) -> PyResult<Vec<u32>> {
        let loaded = self.loaded(py)?;
        let special = if special { SpecialTokens::Parse } else { SpecialTokens::AsText };
        py.detach(|| {
            let tokenizer = loaded.engine().tokenizer("tokenize")?;
            Ok(if add_bos { tokenizer.encode_with_bos(text, special)? } else { tokenizer.encode(text, special)? })
        })
        .map_err(generate_error)
    }

    fn detokenize(&self, py: Python<'_>, ids: Ids<'_>) -> PyResult<String> {
        let (loaded, ids) = (self.loaded(py)?, ids.as_slice()?);
        py.detach(|| Ok(loaded.engine().tokenizer("detokenize")?.decode(ids))).map_err(generate_error)
    }

    /// The token as the vocabulary writes it.
    fn token_text(&self, py: Python<'_>, id: u32) -> PyResult<Option<String>> {
        let loaded = self.loaded(py)?;
        let tokenizer = loaded.engine().tokenizer("token_text").map_err(generate_error)?;
        Ok(tokenizer.token_text(id).map(str::to_owned))
    }

    /// The ids of a conversation, given as `(role, content)`, that the model is to continue.
    fn encode_chat(&self, py: Python<'_>, messages: Vec<(String, String)>) -> PyResult<Vec<u32>> {
        let loaded = self.loaded(py)?;
        let messages: Vec<Message> = messages.into_iter().map(|(role, content)| Message::new(role, content)).collect();
        py.detach(|| loaded.engine().encode_chat(&messages)).map_err(generate_error)
    }

    /// Generates, calling `callback` with each piece of text; `False` from it breaks off.
    fn generate(
        &self,
        py: Python<'_>,
        ids: Ids<'_>,
        options: Options,
        callback: Option<Py<PyAny>>,
    ) -> PyResult<Generated> {
        let loaded = self.loaded(py)?;
        let mut answer = loaded.begin(ids.as_slice()?, &options)?;
        py.detach(move || -> PyResult<Generated> {
            let mut signals = Signals::new();
            loop {
                match answer.next_within(SIGNAL_INTERVAL)? {
                    Piece::Nothing => {}
                    Piece::Text(text) => {
                        if let Some(callback) = &callback
                            && !wants_more(callback, &text)?
                        {
                            return answer.break_off();
                        }
                    }
                    Piece::End(generated) => {
                        signals.check_now()?;
                        return Ok(generated);
                    }
                }
                signals.check()?;
            }
        })
    }

    /// Begins to generate; what comes waits until it is taken.
    fn stream(&self, py: Python<'_>, ids: Ids<'_>, options: Options) -> PyResult<Stream> {
        let loaded = self.loaded(py)?;
        let answer = loaded.begin(ids.as_slice()?, &options)?;
        Ok(Stream::new(answer, loaded))
    }

    /// Logits of every id, float32 `[ids, vocabulary]`.
    fn logits<'py>(&self, py: Python<'py>, ids: Ids<'_>, kv: &str) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let (loaded, ids, kv) = (self.loaded(py)?, ids.as_slice()?, kv_type(kv)?);
        let model = loaded.engine().model();
        let vocab_size = model.config().vocab_size;
        let array = empty::<f32>(py, (ids.len(), vocab_size), false)?;
        let mut borrowed = array.readwrite();
        let mut signals = Signals::new();
        let rows = borrowed.as_slice_mut()?;
        let computed = py.detach(|| -> PyResult<()> {
            let mut cache = SequenceCache::new(model.config(), ids.len(), kv);
            let mut workspace = Workspace::new(model.runtime());
            for (tokens, out) in ids.chunks(LOGIT_ROWS).zip(rows.chunks_mut(LOGIT_ROWS * vocab_size)) {
                let step = Step { cache: &mut cache, tokens, wanted: Wanted::From(0) };
                let logits = model.forward(&mut [step], &mut workspace);
                out.copy_from_slice(logits.map_err(|error| generate_error(error.into()))?);
                if let Some(&bad) = out.iter().find(|logit| !logit.is_finite()) {
                    return Err(generate_error(GenerateError::NotFinite(bad)));
                }
                signals.check()?;
            }
            signals.check_now()
        });
        drop(borrowed);
        computed?;
        Ok(array)
    }

    /// A vector for each text, float32 `[texts, hidden]`; without `pooling` as the file says.
    fn embed<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Vec<u32>>,
        pooling: Option<&str>,
    ) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let loaded = self.loaded(py)?;
        let engine = loaded.engine();
        let pooling = match pooling {
            None => engine.pooling(),
            Some(name) => Pooling::ALL.into_iter().find(|pooling| pooling.name() == name).ok_or_else(|| {
                PyValueError::new_err(format!("pooling must be 'mean', 'last' or 'cls', not {name:?}"))
            })?,
        };
        let array = empty::<f32>(py, (texts.len(), engine.model().config().hidden_size), false)?;
        let vectors = py.detach(|| Signals::watch(|go_on| engine.embed(texts, pooling, &mut |_| go_on())))?;
        array.readwrite().as_slice_mut()?.copy_from_slice(&vectors.map_err(generate_error)?.concat());
        Ok(array)
    }

    /// `(value, standard error, tokens scored)` by llama.cpp's protocol.
    fn perplexity(
        &self,
        py: Python<'_>,
        ids: Ids<'_>,
        context: usize,
        chunks: Option<usize>,
        kv: &str,
    ) -> PyResult<(f64, f64, usize)> {
        let (loaded, ids, kv) = (self.loaded(py)?, ids.as_slice()?, kv_type(kv)?);
        let engine = loaded.engine();
        let figure = py.detach(|| {
            let bos = engine.tokenizer("perplexity").ok().and_then(|t| t.bos().filter(|_| t.adds_bos()));
            let mut session = engine.session(context, kv);
            let chunks = chunks.unwrap_or(usize::MAX);
            Signals::watch(|go_on| perplexity(engine, &mut session, ids, bos, chunks, &mut |_, _, _| go_on()))
        });
        let figure = figure?.map_err(perplexity_error)?;
        Ok((figure.value(), figure.standard_error(), figure.tokens))
    }

    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        crate::gguf::config_dict(py, self.loaded(py)?.engine().model().config())
    }
}

/// Token ids, checked and made uint32 by the Python side.
type Ids<'py> = PyReadonlyArray1<'py, u32>;
