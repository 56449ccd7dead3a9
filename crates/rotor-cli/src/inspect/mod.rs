//! `rotor inspect`: what a model file holds, without loading the weights, and what keeps it from running if it does not.

mod report;

use crate::args::{LoadArgs, OptionalModelArg, ReadArgs};
use crate::load;
use crate::outcome::sentence;
use crate::terminal::{print, print_json, printable};
use clap::builder::FalseyValueParser;
use rotor::config::Activations;
use rotor::engine::DEFAULT_CONTEXT;
use rotor::formats::{DenseActivations, ModelFile, Source, TensorSummary, Unbound};
use rotor::plan::MemoryPlan;
use rotor::runtime::Runtime;
use rotor::statistics::{self, TensorStatistics};
use rotor::tokenizer::Tokenizer;
use rotor::{Config, FormatError, KvType};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// Show what a model file holds and what it will take in memory.
///
/// Any GGUF or safetensors file and any model folder is shown; where it is no model that runs, the first lines say why.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: OptionalModelArg,
    /// List every tensor instead of one line per type.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_TENSORS", hide_env = true)]
    tensors: bool,
    /// Count the -1, 0 and +1 of every ternary tensor, and show sparsity, entropy and scales; this reads all weights.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_TRITS", hide_env = true)]
    trits: bool,
    /// Print one JSON object.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_JSON", hide_env = true)]
    json: bool,
    #[command(flatten)]
    read: ReadArgs,
    #[command(flatten)]
    load: LoadArgs,
}

/// All there is to say about a file.
struct Inspection<'a> {
    path: PathBuf,
    file: &'a ModelFile,
    tensors: Vec<TensorSummary<'a>>,
    tokenizer: Option<Tokenizer>,
    /// What only a model has that runs, or else what keeps it from running.
    model: Result<Model<'a>, String>,
    warnings: Vec<String>,
}

/// What is known of a model that runs.
struct Model<'a> {
    config: &'a Config,
    /// How finely the inputs of ternary linears are kept, and why.
    activations: Option<(Activations, &'static str)>,
    memory: MemoryPlan,
    context: usize,
    kv_bytes_per_token: u64,
    trits: Option<Vec<TensorStatistics>>,
    /// Bytes of each matrix in memory.
    memory_of: BTreeMap<String, u64>,
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    let options = args.load.options(DenseActivations::default(), args.read.read())?;
    let bound = match args.model.path() {
        Some(path) => load::open_file(path, &args.load.open)?.bind(&options),
        None => Ok(rotor::demo::open(&options)?),
    };
    match &bound {
        Ok(source) => show(args, &Inspection::of_model(args, source)?)?,
        Err(unbound) => show(args, &Inspection::of_file(args, unbound))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(args: &Args, inspection: &Inspection<'_>) -> anyhow::Result<()> {
    if args.json {
        print_json(&report::json(inspection))?;
    } else {
        print(&printable(&report::text(inspection, args.tensors)))?;
    }
    Ok(())
}

impl<'a> Inspection<'a> {
    fn of_model(args: &Args, source: &'a Source) -> anyhow::Result<Self> {
        let (config, choice) = (source.config(), Runtime::new(0)?.tuned_earlier(source).choice);
        let model = Model {
            config,
            activations: source.activations(),
            memory: MemoryPlan::of(source, &choice)?,
            context: config.max_position_embeddings.min(DEFAULT_CONTEXT),
            kv_bytes_per_token: MemoryPlan::kv(config, 1, KvType::F16),
            trits: if args.trits { Some(statistics::ternary(source)?) } else { None },
            memory_of: MemoryPlan::by_tensor(source, &choice)?.into_iter().collect(),
        };
        Ok(Self::new(args, source.file(), Ok(model), source.warnings().to_vec()))
    }

    /// A file that does not run is shown as far as it goes.
    fn of_file(args: &Args, unbound: &'a Unbound) -> Self {
        let obstacle = match &unbound.error {
            FormatError::InFile { path, source } if Some(path.as_path()) == args.model.path() => source.to_string(),
            error => error.to_string(),
        };
        let obstacle = sentence(&anyhow::Error::msg(obstacle));
        let mut warnings = unbound.file.warnings().to_vec();
        warnings.extend(args.trits.then(|| "trits are counted in models that run".to_owned()));
        Self::new(args, &unbound.file, Err(obstacle), warnings)
    }

    fn new(args: &Args, file: &'a ModelFile, model: Result<Model<'a>, String>, mut warnings: Vec<String>) -> Self {
        let tokenizer = tokenizer(file).unwrap_or_else(|error| {
            warnings.push(format!("the tokenizer cannot be used: {error}"));
            None
        });
        let path = args.model.path().map_or_else(|| rotor::demo::NAME.into(), Into::into);
        Inspection { path, file, tensors: file.tensors().collect(), tokenizer, model, warnings }
    }
}

impl Model<'_> {
    /// Bytes of keys and values at the default context.
    fn kv_bytes(&self) -> u64 {
        self.kv_bytes_per_token.saturating_mul(self.context as u64)
    }
}

/// The tokenizer, where there is one. A broken one does not keep the rest from being shown.
fn tokenizer(file: &ModelFile) -> anyhow::Result<Option<Tokenizer>> {
    let description = file.tokenizer_description()?;
    Ok(description.as_ref().map(Tokenizer::from_description).transpose()?)
}
