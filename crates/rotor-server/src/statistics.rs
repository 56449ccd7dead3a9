//! `GET /rotor/models/{id}/statistics`: what a model is, what it takes and how fast it runs, for the page's Model view.
//!
//! The weights are read once for a loaded model, from its file; the machine is measured once, when a model is asked about that
//! has nothing to do. The speeds are those of the latest requests.

use crate::app::App;
use crate::error::ApiError;
use crate::models::{Loaded, ModelSpec, Models, State as ModelState};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use rotor::cost::{Cost, PREFILL_CHUNK, Taken, Test};
use rotor::formats::{Source, SourceMetadata};
use rotor::machine::{Memory, RoofMeter, Roofs};
use rotor::plan::MemoryPlan;
use rotor::request::Generation;
use rotor::runtime::Runtime;
use rotor::statistics::{MatrixStatistics, ModelStatistics, TritStatistics};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Steps that tell the rate of generating tokens; fewer are mostly the time until somebody looks.
const FEWEST_STEPS: u64 = 4;
/// Tokens that tell the rate of computing prompts.
const FEWEST_TOKENS: usize = 4;

/// What a loaded model is and how fast it runs; its name may contain slashes, written as %2F.
#[utoipa::path(
    get, path = "/rotor/models/{id}/statistics", tag = "page",
    params(("id" = String, Path, description = "Name of the model", min_length = 1)),
    responses((status = 200, description = "Its file, shape, memory, weights and speed", body = Object), crate::openapi::Errors),
)]
pub(crate) async fn statistics(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<axum::Json<Value>, ApiError> {
    let (spec, state) = app.models.find(&id)?;
    let ModelState::Loaded(model) = state else {
        let message = format!("the model {id:?} is not loaded; the first request that names it loads it");
        return Err(ApiError::new(StatusCode::CONFLICT, message));
    };
    let roofs = app.models.roofs(&model).await;
    let mut statistics = model.description.get_or_try_init(|| describe(&app.models, spec, &model)).await?.clone();
    let batch = model.actor.statistics();
    statistics["memory"]["kv_bytes"] = json!(batch.used_blocks as u64 * batch.block_bytes);
    statistics["memory"]["kv_budget_bytes"] = json!(batch.blocks as u64 * batch.block_bytes);
    statistics["memory"]["workspace_bytes"] = json!(batch.workspace_bytes);
    statistics["speed"] = model.speeds.json(&model, roofs.as_ref());
    Ok(axum::Json(statistics))
}

/// What stays the same while the model is loaded, read on a thread that may wait for files.
async fn describe(models: &Arc<Models>, spec: &ModelSpec, model: &Arc<Loaded>) -> Result<Value, ApiError> {
    let (models, spec, model) = (Arc::clone(models), spec.clone(), Arc::clone(model));
    let read = move || -> Result<Value, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let source = spec.open(&models.options().open).map_err(|error| text(&error))?;
        let choice = model.engine().model().runtime().choice.clone();
        let weights = ModelStatistics::of(&source, &choice).map_err(|error| text(&error))?;
        let plan = MemoryPlan::of(&source, &choice).map_err(|error| text(&error))?;
        Ok(description(&source, &model, &weights, &plan))
    };
    let failed = |why: String| {
        let message = format!("the weights could not be read: {why}");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    };
    let read = tokio::task::spawn_blocking(read).await.map_err(|error| failed(error.to_string()))?;
    read.map_err(failed)
}

fn description(source: &Source, model: &Loaded, weights: &ModelStatistics, plan: &MemoryPlan) -> Value {
    let (config, engine) = (source.config(), model.engine().model());
    let TritStatistics { minus, zero, plus, scale_min, scale_max } = weights.trits;
    let layers = weights.layers.iter().enumerate();
    let activations = source.activations().map(|(activations, reason)| format!("{}: {reason}", activations.name()));
    json!({
        "object": "rotor.statistics",
        "id": model.id,
        "name": config.name,
        "license": license(source),
        "file": file(source, &model.id),
        "architecture": config.architecture.name(),
        "type": most_common_type(weights),
        "activations": activations,
        "parameters": { "total": model.facts.parameters, "ternary": weights.trits.total() },
        "context": { "trained": config.max_position_embeddings, "served": model.context },
        "config": config.to_json(),
        "memory": {
            "linears_bytes": plan.linears, "embedding_bytes": plan.embedding, "head_bytes": plan.head,
            "kv_bytes_per_token": MemoryPlan::kv(config, 1, model.kv), "machine_bytes": Memory::read().total,
        },
        "trits": (weights.trits.total() > 0).then(|| json!({
            "minus": minus, "zero": zero, "plus": plus, "entropy_bits_per_weight": weights.trits.entropy(),
            "scale_min": scale_min, "scale_max": scale_max,
        })),
        "layers": layers.map(|(index, linears)| json!({ "index": index, "linears": linears })).collect::<Vec<_>>(),
        "embedding": weights.embedding,
        "head": weights.head,
        "kernels": {
            "isa": engine.runtime().kernels.isa().name(), "threads": engine.runtime().pool.threads(),
            "ternary": engine.kernel_names(),
        },
    })
}

/// What the file says of its licence.
fn license(source: &Source) -> Option<String> {
    match source.metadata() {
        SourceMetadata::Gguf(metadata) => metadata.str("general.license").ok().flatten().map(str::to_owned),
        SourceMetadata::HuggingFace(_) => None,
    }
}

/// The form that most weights of the linears are stored in.
fn most_common_type(weights: &ModelStatistics) -> Option<&'static str> {
    let mut sizes: BTreeMap<&'static str, usize> = BTreeMap::new();
    for MatrixStatistics { rows, cols, type_name, .. } in weights.layers.iter().flatten() {
        *sizes.entry(type_name).or_default() += rows * cols;
    }
    sizes.into_iter().max_by_key(|(_, size)| *size).map(|(name, _)| name)
}

/// The file's name, kind, size and hash; a model of several files has the size of all and no hash.
fn file(source: &Source, id: &str) -> Value {
    let paths = source.file().paths();
    let (name, bytes, sha256) = match paths {
        [] => {
            let bytes = rotor::demo::BYTES;
            (format!("{id}.gguf"), bytes.len() as u64, Some(hex(&Sha256::digest(bytes))))
        }
        [path, ..] => {
            let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |data| data.len());
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let hash = if paths.len() == 1 { hash_of(path).ok() } else { None };
            (name, paths.iter().map(size).sum(), hash)
        }
    };
    json!({ "name": name, "format": source.kind().name(), "bytes": bytes, "sha256": sha256 })
}

fn hash_of(path: &PathBuf) -> std::io::Result<String> {
    let (mut file, mut hash, mut buffer) = (std::fs::File::open(path)?, Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Measures what the machine can do on as many threads as a model has. The threads are others than the model's, which must be
/// free to answer; so this is for a moment in which it has nothing to do.
pub(crate) fn measure(runtime: &Runtime) -> std::io::Result<Roofs> {
    let own = Runtime::with_kernels(runtime.kernels, runtime.pool.threads());
    Ok(RoofMeter::new(&own.pool)?.measure(&own))
}

/// The latest measurements of a model.
#[derive(Debug, Default)]
pub(crate) struct Speeds(Mutex<(Option<Speed>, Option<Speed>)>);

/// A rate, and what a pass over the model did at it.
#[derive(Clone, Copy, Debug)]
struct Speed {
    tokens_per_second: f64,
    tokens_per_pass: f64,
    test: Test,
}

/// Where a window over the steps of a model begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    begun: Instant,
    steps: u64,
    tokens: u64,
}

impl Window {
    /// A window that begins now.
    pub(crate) fn open(model: &Loaded) -> Window {
        let counts = model.actor.statistics().counts;
        Window { begun: Instant::now(), steps: counts.steps, tokens: counts.generated_tokens }
    }
}

impl Speeds {
    /// Takes in a generation that has ended; `window` began with its first token. Whatever else was generated meanwhile counts too:
    /// the passes were shared with it.
    pub(crate) fn record(&self, model: &Loaded, generation: &Generation, window: &Window) {
        let now = Window::open(model);
        let (steps, tokens) = (now.steps - window.steps, now.tokens - window.tokens);
        let seconds = (now.begun - window.begun).as_secs_f64();
        let computed = generation.prompt_tokens - generation.cached_tokens;
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if steps >= FEWEST_STEPS && tokens > 0 && seconds > 0.0 {
            let tokens_per_pass = tokens as f64 / steps as f64;
            let depth = generation.prompt_tokens + generation.tokens.len() / 2;
            let batch = (tokens_per_pass.round() as usize).max(1);
            let test = Test::Generate { tokens: 1, depth, batch };
            latest.0 = Some(Speed { tokens_per_second: tokens as f64 / seconds, tokens_per_pass, test });
        }
        if let Some(rate) = generation.prefill_rate().filter(|rate| rate.is_finite() && computed >= FEWEST_TOKENS) {
            let test = Test::Prompt { tokens: computed, depth: generation.cached_tokens };
            let tokens_per_pass = computed.min(PREFILL_CHUNK) as f64;
            latest.1 = Some(Speed { tokens_per_second: rate, tokens_per_pass, test });
        }
    }

    fn json(&self, model: &Loaded, roofs: Option<&Roofs>) -> Value {
        let (decode, prefill) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cost = Cost::of(model.engine().model(), model.kv);
        // A pass that was not measured is described all the same: by one token, or a whole chunk, at the start of the context.
        let pass = |speed: Option<Speed>, otherwise: Test| {
            let test = speed.map_or(otherwise, |speed| speed.test);
            let (tokens, passes) = match test {
                Test::Prompt { tokens, .. } => (tokens.min(PREFILL_CHUNK), tokens.div_ceil(PREFILL_CHUNK)),
                Test::Generate { tokens, batch, .. } => (batch, tokens),
            };
            // Of a head with a sketch the sketch is read; what a few rows add is not counted, nor what zeros save.
            let head_rows = (cost.sketch_bytes > 0 && !test.is_prompt()).then_some(0.0);
            let taken = Taken { head_rows, ..Taken::ALL };
            json!({
                "tokens_per_second": speed.map(|speed| speed.tokens_per_second),
                "tokens_per_pass": speed.map_or(tokens as f64, |speed| speed.tokens_per_pass),
                "bytes_per_pass": cost.bytes_read(test, &taken) / passes.max(1) as f64,
                "multiply_adds_per_token": cost.multiply_adds(test) as f64 / test.tokens().max(1) as f64,
            })
        };
        json!({
            "machine": roofs.map(|roofs| json!({
                "threads": roofs.threads, "read_bandwidth": roofs.read_bandwidth, "multiply_peak": roofs.multiply_peak,
            })),
            "decode": pass(decode, Test::Generate { tokens: 1, depth: 0, batch: 1 }),
            "prefill": pass(prefill, Test::Prompt { tokens: PREFILL_CHUNK.min(model.context), depth: 0 }),
        })
    }
}
