//! `rotor bench`: how fast a model runs here, and how near that is to what the machine can do.

mod compare;
mod kernels;
mod measured;
mod model;
mod options;
mod rates;
mod report;
mod roofline;
mod roofs;
mod streams;

use std::process::ExitCode;

/// Measure how fast a model, or each kernel, runs on this machine.
///
/// `rotor bench MODEL` times prompts and generation and holds them against the read bandwidth and the rate of a plain
/// multiply kernel, both measured in the same run.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    model: model::Args,
}

/// What is measured instead of a model.
#[derive(Debug, clap::Subcommand)]
enum What {
    Kernels(kernels::Args),
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.what {
        Some(What::Kernels(args)) => kernels::execute(args),
        None if !args.model.streams.is_empty() => streams::execute(&args.model),
        None => model::execute(&args.model),
    }
}
