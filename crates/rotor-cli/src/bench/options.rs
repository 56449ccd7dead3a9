//! The options that all measurements share.

use crate::values::{ThreadList, thread_list, whole_number};
use clap::builder::FalseyValueParser;
use std::path::PathBuf;

/// What all measurements share.
#[derive(Debug, clap::Args)]
pub(super) struct MeasureArgs {
    /// Thread counts to measure with, separated by commas [default: one thread per core].
    #[arg(short, long, value_name = "N,...", value_parser = thread_list, env = "ROTOR_THREADS", hide_env = true)]
    threads: Option<ThreadList>,
    /// Repetitions of each measurement.
    #[arg(short, long, value_name = "N", default_value = "5", value_parser = repetitions)]
    #[arg(env = "ROTOR_REPETITIONS", hide_env = true)]
    pub(super) repetitions: usize,
    /// Print one JSON object.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_JSON", hide_env = true)]
    pub(super) json: bool,
    /// Draw the results against the machine's limits, as an SVG file.
    #[arg(long, value_name = "FILE", env = "ROTOR_SVG", hide_env = true)]
    pub(super) svg: Option<PathBuf>,
}

impl MeasureArgs {
    pub(super) fn threads(&self) -> Vec<usize> {
        match &self.threads {
            Some(list) => list.0.clone(),
            None => vec![std::thread::available_parallelism().map_or(1, usize::from)],
        }
    }
}

pub(super) fn repetitions(text: &str) -> Result<usize, String> {
    whole_number(text, 1, 1000)
}
