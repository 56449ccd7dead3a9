//! Opening and loading a model, the same way for every command.

use crate::args::OpenArgs;
#[cfg(feature = "hub")]
use crate::models::resolve;
use crate::progress::Bar;
use crate::terminal::{message, printable};
use rotor::engine::Engine;
use rotor::formats::{ModelFile, OpenOptions, Source};
use rotor::plan::MemoryPlan;
use rotor::runtime::Runtime;
use std::path::Path;

/// Opens a model, by its file, its folder or its name, and checks everything but the weights.
pub(crate) fn open(model: &Path, options: &OpenOptions) -> anyhow::Result<Source> {
    Ok(Source::open(&resolve(model)?, options)?)
}

/// In a build without models by name a model is a path.
#[cfg(not(feature = "hub"))]
fn resolve(model: &Path) -> anyhow::Result<std::path::PathBuf> {
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

/// Opens a model's file or folder without asking whether it is a model that runs.
pub(crate) fn open_file(model: &Path, open: &OpenArgs) -> anyhow::Result<ModelFile> {
    Ok(ModelFile::open(&resolve(model)?, open.no_mmap)?)
}

/// Warns where a sequence is to be longer than the model was trained for.
pub(crate) fn warn_of_context(engine: &Engine, context: usize) {
    let trained = engine.model().config().max_position_embeddings;
    if context > trained {
        message(format_args!("warning: the model was trained for {trained} tokens of context, not {context}"));
    }
}
