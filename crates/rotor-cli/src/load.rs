//! Opening and loading a model, the same way for every command.

#[cfg(feature = "hub")]
use crate::models::resolve;
use crate::progress::Bar;
use crate::terminal::{message, printable};
use anyhow::Context as _;
use rotor::engine::Engine;
use rotor::formats::{OpenOptions, Source};
use rotor::plan::MemoryPlan;
use rotor::runtime::Runtime;
use rotor::write::refuse_overwriting;
use std::path::{Path, PathBuf};

/// Opens a model, by its file, its folder or its name, and checks everything but the weights.
pub(crate) fn open(model: &Path, options: &OpenOptions) -> anyhow::Result<Source> {
    Ok(Source::open(&resolve(model)?, options)?)
}

/// In a build without models by name a model is a path.
#[cfg(not(feature = "hub"))]
fn resolve(model: &Path) -> anyhow::Result<PathBuf> {
    Ok(model.to_path_buf())
}

/// As [`open`]; without a model, the one inside the program.
pub(crate) fn open_or_demo(model: Option<&Path>, options: &OpenOptions) -> anyhow::Result<Source> {
    match model {
        Some(model) => open(model, options),
        None => Ok(rotor::demo::open(options)?),
    }
}

/// Packs an opened model for the kernels of this CPU, with a progress bar on a terminal and its warnings on stderr.
pub(crate) fn load(source: &Source, threads: usize) -> anyhow::Result<Engine> {
    let runtime = Runtime::new(threads)?.tuned(source);
    let bar = Bar::bytes("loading", 0);
    let total = if bar.is_visible() { MemoryPlan::of(source, &runtime.choice)?.weights() } else { 0 };
    let engine = Engine::from_source(source, &runtime, &mut |done| bar.set(done, total))?;
    drop(bar);
    for rejected in rotor::machine::Kernels::rejected() {
        message(format_args!("warning: {rejected}; slower ones are used, and `rotor doctor` has the details"));
    }
    for warning in engine.warnings() {
        message(format_args!("warning: {}", printable(warning)));
    }
    Ok(engine)
}

/// A model's folder has files of its own that must not be written over.
pub(crate) fn refuse_input(model: &Path, output: &Path) -> anyhow::Result<()> {
    let model = &resolve(model)?;
    let mut inputs = vec![model.to_path_buf()];
    if model.is_dir() {
        let entries = std::fs::read_dir(model).with_context(|| format!("cannot read {}", model.display()))?;
        inputs.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
    Ok(refuse_overwriting(&inputs, output)?)
}

/// Warns where a sequence is to be longer than the model was trained for.
pub(crate) fn warn_of_context(engine: &Engine, context: usize) {
    let trained = engine.model().config().max_position_embeddings;
    if context > trained {
        message(format_args!("warning: the model was trained for {trained} tokens of context, not {context}"));
    }
}
