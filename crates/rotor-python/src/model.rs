//! A loaded model and what it computes.
//!
//! Any thread may call; each call takes a sequence of its own from those that lie idle, and the kernels of all calls queue
//! on the one pool. Idle sequences keep what they have computed, so a prompt that begins like an earlier one is cheaper.

use crate::arrays::empty;
use crate::errors::{generate_error, load_error, perplexity_error};
use crate::options::{Options, kv_type};
use crate::runtime::runtime;
use numpy::{PyArrayDyn, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rotor::KvType;
use rotor::cache::SequenceCache;
use rotor::chat::Message;
use rotor::config::Pooling;
use rotor::engine::{Engine, FinishReason, GenerateError, Generation, Session};
use rotor::eval::perplexity;
use rotor::formats::Source;
use rotor::model::{Step, Wanted, Workspace};
use rotor::request::{Event, Request};
use rotor::tokenizer::SpecialTokens;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long Ctrl-C may go unnoticed; asking costs a round through the interpreter.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);

/// Sequences kept for reuse. Each holds the memory of its longest text.
const MOST_IDLE: usize = 4;

/// Rows of logits computed together.
const LOGIT_ROWS: usize = 128;

/// What a model is while it is open.
pub(crate) struct Loaded {
    pub(crate) engine: Engine,
    idle: Mutex<Vec<Session>>,
    context: usize,
    kv: KvType,
    process: u32,
}

/// A loaded model; `rotor.Model` wraps it.
#[pyclass(frozen, module = "rotor._rotor")]
pub(crate) struct Model {
    /// Taken only while attached and never across a detach: see `runtime`.
    loaded: Mutex<Option<Arc<Loaded>>>,
}

/// A token's log-probability and those of the likeliest: `(id, logprob, [(id, logprob)])`.
pub(crate) type TokenLogprobs = (u32, f64, Vec<(u32, f64)>);

impl Loaded {
    /// Lends the idle sequence that shares most with the prompt. One that would lose more than half of its tokens, and does not
    /// begin with all of the prompt, is another conversation's: it stays for that, as long as there is room for one more.
    fn with_session<R>(
        &self,
        prompt: &[u32],
        f: impl FnOnce(&mut Session) -> Result<R, GenerateError>,
    ) -> Result<R, GenerateError> {
        let shared = |session: &Session| session.tokens().iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let taken = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let best = (0..idle.len()).max_by_key(|&index| shared(&idle[index]));
            let is_its_own = |session: &Session| {
                let shared = shared(session);
                shared == prompt.len() || 2 * shared >= session.tokens().len()
            };
            best.filter(|&index| idle.len() >= MOST_IDLE || is_its_own(&idle[index]))
                .map(|index| idle.swap_remove(index))
        };
        let mut session = match taken {
            Some(session) => session,
            None => self.engine.session(self.context, self.kv),
        };
        let result = f(&mut session);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST_IDLE {
            idle.push(session);
        }
        result
    }

    /// Generates; `on_text` may break off. Log-probabilities come in the order of the tokens.
    pub(crate) fn generate(
        &self,
        prompt: &[u32],
        options: &Options,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(Generation, Vec<TokenLogprobs>), GenerateError> {
        let request = Request { logprobs: options.logprobs, ..Request::new(prompt.to_vec(), options.engine()) };
        self.with_session(prompt, |session| {
            let mut logprobs = Vec::new();
            let mut events = self.engine.events(session, request)?;
            for event in events.by_ref() {
                let text = match event? {
                    Event::Token(token) => {
                        logprobs.extend(token.logprobs.map(|found| (token.id, found.logprob, found.top)));
                        token.text
                    }
                    Event::Finished(finished) => {
                        // The generation is over, whatever the answer.
                        let _ = on_text(&finished.text);
                        return Ok((finished.generation, logprobs));
                    }
                    // An empty text asks whether to go on.
                    _ => String::new(),
                };
                if on_text(&text).is_break() {
                    break;
                }
            }
            Ok((events.cancel(), logprobs))
        })
    }
}

/// Asks Python, now and then, whether Ctrl-C was pressed.
struct Signals {
    asked: Instant,
    raised: Option<PyErr>,
}

impl Signals {
    fn new() -> Signals {
        Signals { asked: Instant::now(), raised: None }
    }

    fn check(&mut self) -> ControlFlow<()> {
        if self.raised.is_none() && self.asked.elapsed() >= SIGNAL_INTERVAL {
            self.raised = Python::attach(|py| py.check_signals()).err();
            self.asked = Instant::now();
        }
        if self.raised.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// The exception that came, else what the interpreter has to say by now.
    fn finish(self, py: Python<'_>) -> PyResult<()> {
        self.raised.map_or_else(|| py.check_signals(), Err)
    }
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
    ) -> PyResult<Model> {
        let (runtime, kv) = (runtime(py, threads)?, kv_type(kv)?);
        let source: Arc<Source> = source.opened(py)?;
        let engine =
            py.detach(|| Engine::from_source(&source, &runtime.tuned(&source), &mut |_| {})).map_err(load_error)?;
        py.check_signals()?;
        let context = context.unwrap_or_else(|| engine.default_context());
        if context == 0 {
            return Err(PyValueError::new_err("context must be at least 1"));
        }
        let (idle, process) = (Mutex::default(), std::process::id());
        let loaded = Loaded { engine, idle, context, kv, process };
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
        Ok(self.loaded(py)?.engine.warnings().to_vec())
    }

    #[getter]
    fn weight_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.loaded(py)?.engine.model().weight_bytes())
    }

    #[getter]
    fn has_chat_template(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.loaded(py)?.engine.chat_template().is_ok())
    }

    /// Whether the prompt for an answer ends in a space, so that a space that begins the answer is not part of it.
    #[getter]
    fn trims_answer(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.loaded(py)?.engine.chat_template().is_ok_and(|template| template.trims_answer()))
    }

    /// `(bos, eos, adds_bos, end of generation, number of tokens)`, or `None` without a tokenizer.
    #[getter]
    #[expect(clippy::type_complexity, reason = "a Python tuple")]
    fn vocabulary(&self, py: Python<'_>) -> PyResult<Option<(Option<u32>, Option<u32>, bool, Vec<u32>, usize)>> {
        let loaded = self.loaded(py)?;
        let Ok(tokenizer) = loaded.engine.tokenizer("the vocabulary") else { return Ok(None) };
        let ends = tokenizer.end_of_generation().to_vec();
        Ok(Some((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos(), ends, tokenizer.len())))
    }

    fn tokenize(&self, py: Python<'_>, text: &str, add_bos: bool, special: bool) -> PyResult<Vec<u32>> {
        let loaded = self.loaded(py)?;
        let special = if special { SpecialTokens::Parse } else { SpecialTokens::AsText };
        py.detach(|| {
            let tokenizer = loaded.engine.tokenizer("tokenize")?;
            Ok(if add_bos { tokenizer.encode_with_bos(text, special)? } else { tokenizer.encode(text, special)? })
        })
        .map_err(generate_error)
    }

    fn detokenize(&self, py: Python<'_>, ids: Ids<'_>) -> PyResult<String> {
        let (loaded, ids) = (self.loaded(py)?, ids.as_slice()?);
        py.detach(|| Ok(loaded.engine.tokenizer("detokenize")?.decode(ids))).map_err(generate_error)
    }

    /// The token as the vocabulary writes it.
    fn token_text(&self, py: Python<'_>, id: u32) -> PyResult<Option<String>> {
        let loaded = self.loaded(py)?;
        let tokenizer = loaded.engine.tokenizer("token_text").map_err(generate_error)?;
        Ok(tokenizer.token_text(id).map(str::to_owned))
    }

    /// The ids of a conversation, given as `(role, content)`, that the model is to continue.
    fn encode_chat(&self, py: Python<'_>, messages: Vec<(String, String)>) -> PyResult<Vec<u32>> {
        let loaded = self.loaded(py)?;
        let messages: Vec<Message> = messages.into_iter().map(|(role, content)| Message::new(role, content)).collect();
        py.detach(|| loaded.engine.encode_chat(&messages)).map_err(generate_error)
    }

    /// Generates, calling `callback` with each piece of text; `False` from it breaks off.
    fn generate(
        &self,
        py: Python<'_>,
        ids: Ids<'_>,
        options: Options,
        callback: Option<Py<PyAny>>,
    ) -> PyResult<Generated> {
        let (loaded, prompt) = (self.loaded(py)?, ids.as_slice()?);
        let (mut signals, mut text) = (Signals::new(), String::new());
        let generated = py.detach(|| {
            loaded.generate(prompt, &options, &mut |piece| {
                text.push_str(piece);
                if let Some(callback) = callback.as_ref().filter(|_| !piece.is_empty()) {
                    let answer = Python::attach(|py| {
                        Ok(callback.bind(py).call1((piece,))?.is(&*pyo3::types::PyBool::new(py, false)))
                    });
                    match answer {
                        Ok(true) => return ControlFlow::Break(()),
                        Ok(false) => {}
                        Err(error) => {
                            signals.raised = Some(error);
                            return ControlFlow::Break(());
                        }
                    }
                }
                signals.check()
            })
        });
        signals.finish(py)?;
        let (generation, logprobs) = generated.map_err(generate_error)?;
        Ok(Generated::new(text, generation, logprobs))
    }

    /// Begins to generate in a thread of its own.
    fn stream(&self, py: Python<'_>, ids: Ids<'_>, options: Options) -> PyResult<crate::stream::Stream> {
        crate::stream::Stream::start(self.loaded(py)?, ids.as_slice()?.to_vec(), options)
    }

    /// Logits of every id, float32 `[ids, vocabulary]`.
    fn logits<'py>(&self, py: Python<'py>, ids: Ids<'_>, kv: &str) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let (loaded, ids, kv) = (self.loaded(py)?, ids.as_slice()?, kv_type(kv)?);
        let model = loaded.engine.model();
        let vocab_size = model.config().vocab_size;
        let array = empty::<f32>(py, (ids.len(), vocab_size), false)?;
        let mut borrowed = array.readwrite();
        let mut signals = Signals::new();
        let rows = borrowed.as_slice_mut()?;
        let computed = py.detach(|| -> Result<(), GenerateError> {
            let mut cache = SequenceCache::new(model.config(), ids.len(), kv);
            let mut workspace = Workspace::new(model.runtime());
            for (tokens, out) in ids.chunks(LOGIT_ROWS).zip(rows.chunks_mut(LOGIT_ROWS * vocab_size)) {
                let step = Step { cache: &mut cache, tokens, wanted: Wanted::From(0) };
                out.copy_from_slice(model.forward(&mut [step], &mut workspace)?);
                if let Some(&bad) = out.iter().find(|logit| !logit.is_finite()) {
                    return Err(GenerateError::NotFinite(bad));
                }
                if signals.check().is_break() {
                    break;
                }
            }
            Ok(())
        });
        drop(borrowed);
        signals.finish(py)?;
        computed.map_err(generate_error)?;
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
        let engine = &loaded.engine;
        let pooling = match pooling {
            None => engine.pooling(),
            Some(name) => Pooling::ALL.into_iter().find(|pooling| pooling.name() == name).ok_or_else(|| {
                PyValueError::new_err(format!("pooling must be 'mean', 'last' or 'cls', not {name:?}"))
            })?,
        };
        let mut signals = Signals::new();
        let array = empty::<f32>(py, (texts.len(), engine.model().config().hidden_size), false)?;
        let vectors = py.detach(|| engine.embed(texts, pooling, &mut |_| signals.check()));
        signals.finish(py)?;
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
        let mut signals = Signals::new();
        let engine = &loaded.engine;
        let figure = py.detach(|| {
            let bos = engine.tokenizer("perplexity").ok().and_then(|t| t.bos().filter(|_| t.adds_bos()));
            let mut session = engine.session(context, kv);
            perplexity(engine, &mut session, ids, bos, chunks.unwrap_or(usize::MAX), &mut |_, _, _| signals.check())
        });
        signals.finish(py)?;
        let figure = figure.map_err(perplexity_error)?;
        Ok((figure.value(), figure.standard_error(), figure.tokens))
    }

    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        crate::gguf::config_dict(py, self.loaded(py)?.engine.model().config())
    }
}

/// Token ids, checked and made uint32 by the Python side.
type Ids<'py> = PyReadonlyArray1<'py, u32>;

/// What a generation gave; `rotor.Completion` is made of it.
#[pyclass(frozen, get_all, module = "rotor._rotor")]
pub(crate) struct Generated {
    text: String,
    tokens: Vec<u32>,
    finish_reason: &'static str,
    prompt_tokens: usize,
    cached_tokens: usize,
    prefill_seconds: f64,
    decode_seconds: f64,
    logprobs: Vec<TokenLogprobs>,
}

impl Generated {
    pub(crate) fn new(text: String, generation: Generation, logprobs: Vec<TokenLogprobs>) -> Generated {
        Generated {
            text,
            finish_reason: finish_reason(generation.finish_reason),
            prompt_tokens: generation.prompt_tokens,
            cached_tokens: generation.cached_tokens,
            prefill_seconds: generation.prefill.as_secs_f64(),
            decode_seconds: generation.decode.as_secs_f64(),
            tokens: generation.tokens,
            logprobs,
        }
    }
}

/// OpenAI's names where it has one.
const fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ContextFull => "context_full",
        FinishReason::Cancelled => "cancelled",
    }
}
