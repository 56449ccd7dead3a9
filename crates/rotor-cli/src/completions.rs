//! `rotor completions`: what a shell needs to complete commands, options and the names of models.
//!
//! The script only asks this program, with [`VARIABLE`] set, so it stays right when the program or the models change.

use crate::terminal::print;
use clap::Command;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter};
use clap_complete::env::{CompleteEnv, Shells};
use std::ffi::OsStr;
use std::process::ExitCode;

/// Set by the scripts when they ask.
const VARIABLE: &str = "ROTOR_COMPLETE";

/// What arguments that take a model are called in the help.
const MODEL_ARGUMENTS: [&str; 4] = ["MODEL", "IN", "A", "B"];

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell.
    shell: clap_complete::Shell,
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    let (shells, mut script) = (Shells::builtins(), Vec::new());
    let name = args.shell.to_string();
    let shell = shells.completer(&name).ok_or_else(|| anyhow::anyhow!("there are no completions for {name}"))?;
    shell.write_registration(VARIABLE, "rotor", "rotor", "rotor", &mut script)?;
    print(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Answers a script that asks about this command line, and ends the program then.
pub(crate) fn complete(definition: fn() -> Command) {
    CompleteEnv::with_factory(|| with_models(definition())).var(VARIABLE).complete();
}

/// The command line, whose arguments for models complete names and paths.
fn with_models(command: Command) -> Command {
    command.mut_subcommands(|command| {
        command.mut_args(|argument| {
            let names = argument.get_value_names().unwrap_or_default();
            if names.iter().any(|name| MODEL_ARGUMENTS.contains(&name.as_str())) {
                return argument.add(ArgValueCompleter::new(complete_model));
            }
            argument
        })
    })
}

/// Names of models and paths that begin as typed.
fn complete_model(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut candidates = Vec::new();
    #[cfg(feature = "hub")]
    for (name, help) in current.to_str().map(crate::models::completions).unwrap_or_default() {
        candidates.push(CompletionCandidate::new(name).help(Some(help.into())));
    }
    candidates.extend(PathCompleter::any().complete(current));
    candidates
}
