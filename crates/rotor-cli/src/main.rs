//! The `rotor` command.
//!
//! A command is one file here and one row in [`cli::Command`]. Arguments are parsed into typed options before anything is
//! opened; results go to stdout, everything else to stderr; the exit code is 0, 1 for a failed run, 2 for wrong usage, or
//! 130 where Ctrl-C ended it (SIGTERM and SIGHUP end it as signals do, temporary files first).

#![forbid(unsafe_code)]

mod args;
mod bench;
mod changed;
mod cli;
mod completions;
#[cfg(feature = "convert")]
mod convert;
#[cfg(feature = "convert")]
mod diff;
mod doctor;
#[cfg(feature = "convert")]
mod embed;
#[cfg(feature = "convert")]
mod extract;
mod inspect;
mod interrupt;
mod load;
#[cfg(feature = "convert")]
mod logits;
#[cfg(feature = "hub")]
mod models;
mod outcome;
mod perplexity;
mod progress;
mod run;
#[cfg(feature = "serve")]
mod serve;
#[cfg(feature = "convert")]
mod synth;
mod terminal;
mod tokenize;
mod units;
mod values;

use clap::CommandFactory;
use std::process::ExitCode;

fn main() -> ExitCode {
    completions::complete(cli::Cli::command);
    let cli = cli::Cli::read();
    interrupt::install();
    changed::install();
    match cli.command.execute() {
        Ok(code) => code,
        Err(error) => outcome::report(&error),
    }
}
