//! The models of a server: which there are, which are loaded, and who waits for one that is loading.
//!
//! A model is loaded when it is first asked for; requests that name it wait. Where as many are loaded as may be, the one that was
//! used least recently and has nothing to do makes room; if all are busy the request is refused for now. A model that
//! nobody has used for a while gives its memory back.

use crate::error::ApiError;
use crate::parts::{CallForm, thinking_marks};
use crate::statistics::Speeds;
use rotor::actor::{Actor, ActorOptions};
use rotor::batch::BatchOptions;
use rotor::engine::{DEFAULT_CONTEXT, Engine};
use rotor::formats::{OpenOptions, Source, SourceMetadata};
use rotor::grammar::{GrammarError, Grammars};
use rotor::machine::Roofs;
use rotor::plan::MemoryPlan;
use rotor::runtime::Runtime;
use rotor::sample::SamplingOptions;
use rotor::speculate::Speculate;
use rotor::{FormatError, KvType};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{OnceCell, watch};

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A file or folder.
    Path(PathBuf),
    /// The demonstration model inside the binary.
    BuiltIn,
}

/// A model that can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSpec {
    /// The name that requests give.
    pub id: String,
    /// Where it comes from.
    pub source: ModelSource,
}

impl ModelSpec {
    /// The built-in model.
    pub fn built_in() -> ModelSpec {
        ModelSpec { id: rotor::demo::NAME.to_owned(), source: ModelSource::BuiltIn }
    }

    /// A file or folder, named by its last part without `.gguf` or `.safetensors`.
    pub fn of_path(path: &Path) -> ModelSpec {
        let name = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let name = name.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned());
        let stem = [".gguf", ".safetensors"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name).to_owned();
        ModelSpec { id: stem, source: ModelSource::Path(path.to_path_buf()) }
    }

    /// Opens the model's file.
    pub(crate) fn open(&self, options: &OpenOptions) -> Result<Source, FormatError> {
        match &self.source {
            ModelSource::Path(path) => Source::open(path, options),
            ModelSource::BuiltIn => rotor::demo::open(options),
        }
    }
}

/// How models are loaded and kept.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// How files are opened.
    pub open: OpenOptions,
    /// Threads of the kernels; 0 takes one per core.
    pub threads: usize,
    /// Tokens of a sequence; `None` takes what the model was trained for, but at most 4096.
    pub context: Option<usize>,
    /// How keys and values are stored.
    pub kv: KvType,
    /// Bytes for the keys and values of a model's sequences; `None` leaves it to the engine.
    pub kv_memory: Option<u64>,
    /// How sequences guess their next tokens.
    pub speculate: Speculate,
    /// Sequences of a model that share steps.
    pub parallel: usize,
    /// Requests that may wait for a place.
    pub queue: usize,
    /// Models that may be loaded at a time.
    pub max_models: usize,
    /// A model that nobody used for so long is unloaded; `None` keeps it.
    pub idle_unload: Option<Duration>,
}

/// What clients see of a model's state.
#[derive(Clone, Debug)]
pub(crate) enum State {
    Unloaded,
    Loading { progress: f32 },
    Loaded(Arc<Loaded>),
    Failed(String),
}

/// A model in memory.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) id: String,
    pub(crate) actor: Actor,
    pub(crate) context: usize,
    /// How keys and values are stored.
    pub(crate) kv: KvType,
    pub(crate) defaults: SamplingOptions,
    /// The form that its chat template shows calls in.
    pub(crate) calls: Option<CallForm>,
    pub(crate) thinking: Option<(&'static str, &'static str)>,
    pub(crate) facts: Facts,
    /// What the Model view shows of it, read when it is first asked for.
    pub(crate) description: OnceCell<Value>,
    pub(crate) speeds: Speeds,
    /// The vocabulary as grammars need it, built when the first one comes.
    grammars: OnceLock<Result<Grammars, GrammarError>>,
    /// Requests that use it.
    users: AtomicUsize,
    last_used: Mutex<Instant>,
}

/// What is known of a model without asking its engine.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) architecture: String,
    pub(crate) parameters: u64,
    pub(crate) file_bytes: u64,
}

impl Loaded {
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        self.actor.engine()
    }

    /// What makes constraints of grammars.
    pub(crate) fn grammars(&self) -> Result<&Grammars, ApiError> {
        let engine = self.engine();
        let tokenizer = engine.tokenizer("a grammar").map_err(|error| ApiError::of_generation(&error, "model"))?;
        let vocab_size = engine.model().config().vocab_size;
        let grammars = self.grammars.get_or_init(|| Grammars::new(tokenizer, vocab_size));
        grammars.as_ref().map_err(|error| ApiError::field("model", error.to_string()))
    }
}

/// Keeps a model loaded while it is used.
#[derive(Debug)]
pub(crate) struct Lease(Arc<Loaded>);

impl Lease {
    fn new(loaded: &Arc<Loaded>) -> Lease {
        loaded.users.fetch_add(1, Ordering::AcqRel);
        Lease(Arc::clone(loaded))
    }
}

impl std::ops::Deref for Lease {
    type Target = Arc<Loaded>;

    fn deref(&self) -> &Arc<Loaded> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *lock(&self.0.last_used) = Instant::now();
        self.0.users.fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Debug)]
struct Slot {
    spec: ModelSpec,
    state: watch::Sender<State>,
}

/// All models of a server.
#[derive(Debug)]
pub(crate) struct Models {
    slots: Vec<Slot>,
    options: ModelOptions,
    /// Held while it is decided which model is loaded and which makes room.
    deciding: Mutex<()>,
    /// What the machine can do, once it has been measured.
    roofs: OnceCell<Roofs>,
    pub(crate) created: u64,
}

impl Models {
    pub(crate) fn new(specs: Vec<ModelSpec>, options: ModelOptions) -> Models {
        let slots = specs.into_iter().map(|spec| Slot { spec, state: watch::Sender::new(State::Unloaded) }).collect();
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Models { slots, options, deciding: Mutex::new(()), roofs: OnceCell::new(), created }
    }

    pub(crate) fn options(&self) -> &ModelOptions {
        &self.options
    }

    /// Every model and its state.
    pub(crate) fn list(&self) -> impl Iterator<Item = (&ModelSpec, State)> {
        self.slots.iter().map(|slot| (&slot.spec, slot.state.borrow().clone()))
    }

    /// The models that are loaded.
    pub(crate) fn loaded(&self) -> impl Iterator<Item = Arc<Loaded>> {
        self.slots.iter().filter_map(|slot| match &*slot.state.borrow() {
            State::Loaded(loaded) => Some(Arc::clone(loaded)),
            _ => None,
        })
    }

    /// Whether the first model is ready: what `/health` tells.
    pub(crate) fn is_ready(&self) -> bool {
        self.slots.first().is_none_or(|slot| !matches!(*slot.state.borrow(), State::Loading { .. } | State::Failed(_)))
    }

    /// What the machine can do. It is measured when a model is asked about while no model has anything to do; `None` until then.
    pub(crate) async fn roofs(&self, model: &Loaded) -> Option<Roofs> {
        let is_idle = || self.loaded().all(|loaded| loaded.users.load(Ordering::Acquire) == 0);
        let measured = self.roofs.get_or_try_init(|| async {
            if !is_idle() {
                return Err(());
            }
            let runtime = model.engine().model().runtime().clone();
            let measured = tokio::task::spawn_blocking(move || crate::statistics::measure(&runtime)).await;
            match measured.map_err(std::io::Error::other).and_then(|measured| measured) {
                Ok(roofs) if is_idle() => Ok(roofs),
                // Somebody has begun meanwhile: the figures are not the machine's.
                Ok(_) => Err(()),
                Err(error) => {
                    tracing::warn!(%error, "the machine could not be measured");
                    Err(())
                }
            }
        });
        measured.await.ok().copied()
    }

    fn slot(&self, name: Option<&str>) -> Result<&Slot, ApiError> {
        // With one model there is nothing to choose: programs that have another name built in get it too.
        if let ([only], _) | (_, (Some(only), None)) = (&self.slots[..], (self.slots.first(), name)) {
            return Ok(only);
        }
        let name = name.unwrap_or_default();
        self.slots.iter().find(|slot| slot.spec.id == name).ok_or_else(|| {
            let known: Vec<_> = self.slots.iter().map(|slot| slot.spec.id.as_str()).collect();
            ApiError::no_model(name, &known.join(", "))
        })
    }

    /// A model's description and state, without loading it. Names are exact here.
    pub(crate) fn find(&self, name: &str) -> Result<(&ModelSpec, State), ApiError> {
        let known: Vec<_> = self.slots.iter().map(|slot| slot.spec.id.as_str()).collect();
        let slot = self.slots.iter().find(|slot| slot.spec.id == name);
        let slot = slot.ok_or_else(|| ApiError::no_model(name, &known.join(", ")))?;
        Ok((&slot.spec, slot.state.borrow().clone()))
    }

    /// The model of a request, loaded if need be.
    pub(crate) async fn get(self: &Arc<Self>, name: Option<&str>) -> Result<Lease, ApiError> {
        let slot = self.slot(name)?;
        let mut watch = slot.state.subscribe();
        loop {
            if let Some(lease) = self.begin(slot)? {
                return Ok(lease);
            }
            let state = watch.wait_for(|state| !matches!(state, State::Loading { .. })).await;
            match state.map(|state| state.clone()) {
                Ok(State::Failed(message)) => {
                    let message = format!("the model {:?} could not be loaded: {message}", slot.spec.id);
                    return Err(ApiError::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, message));
                }
                Ok(_) => {}
                Err(_) => return Err(ApiError::loading("the server is shutting down")),
            }
        }
    }

    /// A lease of a loaded model; where it is not loaded, begins that.
    fn begin(self: &Arc<Self>, slot: &Slot) -> Result<Option<Lease>, ApiError> {
        let _deciding = lock(&self.deciding);
        match &*slot.state.borrow() {
            State::Loaded(loaded) => return Ok(Some(Lease::new(loaded))),
            State::Loading { .. } => return Ok(None),
            State::Unloaded | State::Failed(_) => {}
        }
        self.make_room()?;
        slot.state.send_replace(State::Loading { progress: 0.0 });
        let (models, spec) = (Arc::clone(self), slot.spec.clone());
        let sender = slot.state.clone();
        tokio::task::spawn_blocking(move || {
            let progress = |progress| drop(sender.send_replace(State::Loading { progress }));
            let loaded = load(&spec, &models.options, &progress);
            let state = match loaded {
                Ok(loaded) => {
                    tracing::info!(model = spec.id, context = loaded.context, "model loaded");
                    State::Loaded(Arc::new(loaded))
                }
                Err(message) => {
                    tracing::error!(model = spec.id, error = message, "model not loaded");
                    State::Failed(message)
                }
            };
            sender.send_replace(state);
        });
        Ok(None)
    }

    /// Unloads the least recently used model that has nothing to do, if as many are loaded as may be.
    fn make_room(&self) -> Result<(), ApiError> {
        let taken = |slot: &&Slot| matches!(*slot.state.borrow(), State::Loaded(_) | State::Loading { .. });
        if self.slots.iter().filter(taken).count() < self.options.max_models.max(1) {
            return Ok(());
        }
        let idle = self.slots.iter().filter_map(|slot| match &*slot.state.borrow() {
            State::Loaded(loaded) if loaded.users.load(Ordering::Acquire) == 0 => {
                Some((*lock(&loaded.last_used), slot))
            }
            _ => None,
        });
        match idle.min_by_key(|(used, _)| *used) {
            Some((_, slot)) => {
                unload(slot);
                Ok(())
            }
            None => {
                Err(ApiError::busy("as many models are in use as can be loaded at a time; try again when one is idle"))
            }
        }
    }

    /// Begins to load the first model, so that it is there before anybody asks.
    pub(crate) fn load_first(self: &Arc<Self>) {
        if let Some(slot) = self.slots.first() {
            // Nothing is loaded yet, so there is room.
            let _ = self.begin(slot);
        }
    }

    /// Unloads what nobody has used for too long.
    pub(crate) fn unload_idle(&self) {
        let Some(limit) = self.options.idle_unload else { return };
        let _deciding = lock(&self.deciding);
        for slot in &self.slots {
            let is_idle = match &*slot.state.borrow() {
                State::Loaded(loaded) => {
                    loaded.users.load(Ordering::Acquire) == 0 && lock(&loaded.last_used).elapsed() >= limit
                }
                _ => false,
            };
            if is_idle {
                unload(slot);
            }
        }
    }
}

fn unload(slot: &Slot) {
    let before = slot.state.send_replace(State::Unloaded);
    if let State::Loaded(loaded) = before {
        tracing::info!(model = loaded.id, "model unloaded");
        // The thread ends when the last handle goes; freeing gigabytes must not hold up the others.
        tokio::task::spawn_blocking(move || drop(loaded));
    }
}

fn load(spec: &ModelSpec, options: &ModelOptions, progress: &dyn Fn(f32)) -> Result<Loaded, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let source = spec.open(&options.open).map_err(|error| text(&error))?;
    let runtime = Runtime::new(options.threads).map_err(|error| text(&error))?;
    let runtime = runtime.tuned(&source);
    let plan = MemoryPlan::of(&source, &runtime.choice).map_err(|error| text(&error))?;
    let total = plan.weights().max(1);
    let mut report = |done: u64| progress((done as f32 / total as f32).min(1.0));
    let engine = Engine::from_source(&source, &runtime, &mut report).map_err(|error| text(&error))?;
    for warning in engine.warnings() {
        tracing::warn!(model = spec.id, "{warning}");
    }
    let config = engine.model().config();
    let context = match options.context {
        None => config.max_position_embeddings.min(DEFAULT_CONTEXT),
        Some(0) => config.max_position_embeddings,
        Some(context) => context,
    };
    let batch = BatchOptions {
        kv: options.kv,
        kv_memory: options.kv_memory,
        sequences: options.parallel,
        speculate: options.speculate,
        ..BatchOptions::new(context)
    };
    let facts = facts(&source);
    let template = engine.chat_template().map(|template| template.source().to_owned()).unwrap_or_default();
    let defaults = defaults(&source);
    let actor = ActorOptions { queue: options.queue.max(1), ..ActorOptions::new(batch) };
    let actor = Actor::start(Arc::new(engine), actor).map_err(|error| text(&error))?;
    Ok(Loaded {
        id: spec.id.clone(),
        actor,
        context,
        kv: options.kv,
        defaults,
        calls: CallForm::of_template(&template),
        thinking: thinking_marks(&template),
        facts,
        description: OnceCell::new(),
        speeds: Speeds::default(),
        grammars: OnceLock::new(),
        users: AtomicUsize::new(0),
        last_used: Mutex::new(Instant::now()),
    })
}

fn facts(source: &Source) -> Facts {
    let tensors = || source.tensors();
    Facts {
        architecture: source.config().architecture.name().to_owned(),
        parameters: tensors().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum(),
        file_bytes: tensors().map(|tensor| tensor.bytes.len() as u64).sum(),
    }
}

/// How tokens are chosen where a request does not say: as the file recommends (`general.sampling.*`), else as the command line
/// does in a chat.
fn defaults(source: &Source) -> SamplingOptions {
    let number = |name: &str| match source.metadata() {
        SourceMetadata::Gguf(metadata) => {
            let key = format!("general.sampling.{name}");
            metadata.f32(&key).ok().flatten().or_else(|| metadata.usize(&key).ok().flatten().map(|value| value as f32))
        }
        SourceMetadata::HuggingFace(_) => None,
    };
    let recommended = SamplingOptions {
        temperature: number("temp").unwrap_or(0.8),
        top_k: number("top_k").map_or(40, |value| value.max(0.0) as usize),
        top_p: number("top_p").unwrap_or(0.95),
        min_p: number("min_p").unwrap_or(0.05),
        repeat_penalty: number("penalty_repeat").unwrap_or(1.0),
        ..SamplingOptions::default()
    };
    match recommended.validate(usize::MAX) {
        Ok(()) => recommended,
        Err(error) => {
            tracing::warn!("the file recommends what cannot be, {error}; it is not followed");
            SamplingOptions { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, ..SamplingOptions::default() }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
