//! `rotor inspect`: what a model file holds, without loading the weights.

mod report;

use crate::args::{LoadArgs, OptionalModelArg};
use crate::load;
use crate::terminal::{print, print_json, printable};
use clap::builder::FalseyValueParser;
use rotor::engine::DEFAULT_CONTEXT;
use rotor::formats::{DenseActivations, Source, TensorSummary};
use rotor::plan::MemoryPlan;
use rotor::runtime::Runtime;
use rotor::statistics::{self, TensorStatistics};
use rotor::tokenizer::Tokenizer;
use rotor::{FormatError, KvType};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// Show what a model file holds and what it will take in memory.
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
    load: LoadArgs,
}

/// All there is to say about a model.
struct Inspection<'a> {
    path: PathBuf,
    source: &'a Source,
    tensors: Vec<TensorSummary<'a>>,
    tokenizer: Option<Tokenizer>,
    memory: MemoryPlan,
    context: usize,
    kv_bytes_per_token: u64,
    trits: Option<Vec<TensorStatistics>>,
    warnings: Vec<String>,
    /// Bytes of each matrix in memory.
    memory_of: BTreeMap<String, u64>,
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    let source = load::open_or_demo(args.model.path(), &args.load.options(DenseActivations::default())?)?;
    let inspection = Inspection::new(args, &source)?;
    if args.json {
        print_json(&report::json(&inspection))?;
    } else {
        print(&printable(&report::text(&inspection, args.tensors)))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl<'a> Inspection<'a> {
    fn new(args: &Args, source: &'a Source) -> anyhow::Result<Self> {
        let (config, choice) = (source.config(), Runtime::new(0)?.tuned_earlier(source).choice);
        let mut warnings = source.warnings().to_vec();
        let tokenizer = tokenizer(source).unwrap_or_else(|error| {
            warnings.push(format!("the tokenizer cannot be used: {error}"));
            None
        });
        Ok(Inspection {
            path: args.model.path().map_or_else(|| rotor::demo::NAME.into(), Into::into),
            source,
            tensors: source.tensors().collect(),
            tokenizer,
            memory: MemoryPlan::of(source, &choice)?,
            context: config.max_position_embeddings.min(DEFAULT_CONTEXT),
            kv_bytes_per_token: MemoryPlan::kv(config, 1, KvType::F16),
            trits: if args.trits { Some(statistics::ternary(source)?) } else { None },
            warnings,
            memory_of: MemoryPlan::by_tensor(source, &choice)?.into_iter().collect(),
        })
    }

    /// Bytes of keys and values at the default context.
    fn kv_bytes(&self) -> u64 {
        self.kv_bytes_per_token.saturating_mul(self.context as u64)
    }
}

/// The tokenizer, where there is one. A broken one does not keep the rest from being shown.
fn tokenizer(source: &Source) -> anyhow::Result<Option<Tokenizer>> {
    let vocabulary = source.tokenizer().map_err(|error: FormatError| anyhow::anyhow!(error))?;
    Ok(vocabulary.map(|vocabulary| Tokenizer::new(&vocabulary, source.config().vocab_size)).transpose()?)
}
