//! `rotor bench`: how fast a model runs here, and how near that is to what the machine can do.

mod compare;
mod kernels;
mod model;
mod rates;
mod report;
mod roofline;

use crate::args::{ThreadList, thread_list};
use clap::builder::FalseyValueParser;
use std::path::PathBuf;
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

/// What all measurements share.
#[derive(Debug, clap::Args)]
struct MeasureArgs {
    /// Thread counts to measure with, separated by commas [default: one thread per core].
    #[arg(short, long, value_name = "N,...", value_parser = thread_list, env = "ROTOR_THREADS", hide_env = true)]
    threads: Option<ThreadList>,
    /// Repetitions of each measurement.
    #[arg(short, long, value_name = "N", default_value = "5", value_parser = repetitions)]
    #[arg(env = "ROTOR_REPETITIONS", hide_env = true)]
    repetitions: usize,
    /// Print one JSON object.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_JSON", hide_env = true)]
    json: bool,
    /// Draw the results against the machine's limits, as an SVG file.
    #[arg(long, value_name = "FILE", env = "ROTOR_SVG", hide_env = true)]
    svg: Option<PathBuf>,
}

impl MeasureArgs {
    fn threads(&self) -> Vec<usize> {
        match &self.threads {
            Some(list) => list.0.clone(),
            None => vec![std::thread::available_parallelism().map_or(1, usize::from)],
        }
    }
}

fn repetitions(text: &str) -> Result<usize, String> {
    crate::args::whole_number(text, 1, 1000)
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.what {
        Some(What::Kernels(args)) => kernels::execute(args),
        None => model::execute(&args.model),
    }
}
