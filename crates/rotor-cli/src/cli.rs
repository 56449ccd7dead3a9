//! The command line: one row per command, and what is said where it is wrong.

#[cfg(feature = "hub")]
use crate::models;
#[cfg(feature = "serve")]
use crate::serve;
use crate::{bench, completions, doctor, inspect, perplexity, run, tokenize};
#[cfg(feature = "convert")]
use crate::{convert, diff, embed, extract, logits, synth};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::process::ExitCode;

/// Ends the help of every command.
const ENVIRONMENT: &str = "Every flag is also read from an environment variable of its name, --max-tokens from \
    ROTOR_MAX_TOKENS, and MODEL from ROTOR_MODEL. ROTOR_ISA forces a kernel family.";

/// Runs ternary (BitNet b1.58) language models on ordinary CPUs.
#[derive(Debug, Parser)]
#[command(name = "rotor", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 success, 1 failed run, 2 wrong usage, 130 ended by Ctrl-C.")]
#[command(mut_subcommands = |command| command.after_help(ENVIRONMENT))]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Reads the command line, or ends the program: after help, or with a sentence about what is wrong with it.
    pub(crate) fn read() -> Cli {
        let mut command = Cli::definition();
        let matches = command.try_get_matches_from_mut(std::env::args_os());
        let cli = matches.and_then(|mut matches| {
            one_model(&matches)?;
            Cli::from_arg_matches_mut(&mut matches)
        });
        cli.unwrap_or_else(|error| explained(error, &command).exit())
    }

    /// All commands and their options. A negative number is a value everywhere, so that its option can say what it takes.
    fn definition() -> clap::Command {
        fn with_negative_numbers(command: clap::Command) -> clap::Command {
            let command = command.mut_args(|argument| {
                let takes_value = argument.get_action().takes_values() && !argument.is_positional();
                argument.allow_negative_numbers(takes_value)
            });
            command.mut_subcommands(with_negative_numbers)
        }
        with_negative_numbers(Cli::command())
    }
}

/// A model may be named by its place or by `-m`, but not by both. What stands alone beside `-m` may be
/// the next argument, a file or a text that the command reads.
fn one_model(matches: &clap::ArgMatches) -> Result<(), clap::Error> {
    let Some((_, matches)) = matches.subcommand() else { return Ok(()) };
    let typed =
        |id: &str| matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::CommandLine);
    let next = ["file", "text"].into_iter().any(|id| matches.try_contains_id(id).is_ok() && !typed(id));
    if typed("model") && typed("model_option") && !next {
        return Err(clap::Error::raw(ErrorKind::ArgumentConflict, "the model is named twice: alone and with -m\n"));
    }
    Ok(())
}

/// A usage error that says what to do instead of quoting the parser.
fn explained(mut error: clap::Error, command: &clap::Command) -> clap::Error {
    let text = |error: &clap::Error, kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let argument = text(&error, ContextKind::InvalidArg);
    if matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation)
        && text(&error, ContextKind::InvalidValue).is_some_and(|value| value.is_empty())
        && let Some(name) = &argument
    {
        return clap::Error::raw(ErrorKind::InvalidValue, empty_value(name)).with_cmd(command);
    }
    // "-- -1" leads to the next error: what follows is taken for a model.
    let mut tips = match error.remove(ContextKind::Suggested) {
        Some(ContextValue::StyledStrs(tips)) => tips,
        _ => Vec::new(),
    };
    tips.retain(|tip| !tip.to_string().contains(" -- "));
    let is_run = std::env::args_os().nth(1).is_some_and(|command| command == "run");
    if let Some(text) = argument.filter(|text| is_run && !text.starts_with('-')) {
        tips.push(format!("a text goes after -p: -p {text:?}").into());
    }
    if !tips.is_empty() {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
    error
}

/// What is said of an option, or its environment variable, with nothing in it.
fn empty_value(argument: &str) -> String {
    let name = argument.trim_start_matches(['-', '[', '<']);
    let end = name.find([' ', '>', ']']).unwrap_or(name.len());
    let variable = format!("ROTOR_{}", name[..end].replace('-', "_").to_uppercase());
    if std::env::var_os(&variable).is_some_and(|value| value.is_empty()) {
        return format!("the environment variable {variable} is empty: give it a value, or unset it\n");
    }
    format!("the value of {argument} is empty: give one, or leave it out\n")
}

/// Help and options of each command are in its own file.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<run::Args>),
    #[cfg(feature = "serve")]
    Serve(Box<serve::Args>),
    #[cfg(feature = "hub")]
    Pull(models::pull::Args),
    #[cfg(feature = "hub")]
    List(models::list::Args),
    #[cfg(feature = "hub")]
    Show(models::show::Args),
    #[cfg(feature = "hub")]
    Rm(models::rm::Args),
    #[cfg(feature = "hub")]
    Verify(Box<models::verify::Args>),
    Inspect(inspect::Args),
    #[cfg(feature = "convert")]
    Convert(convert::Args),
    #[cfg(feature = "convert")]
    Extract(extract::Args),
    #[cfg(feature = "convert")]
    Diff(diff::Args),
    Tokenize(tokenize::Args),
    #[cfg(feature = "convert")]
    Embed(Box<embed::Args>),
    #[cfg(feature = "convert")]
    Logits(logits::Args),
    Perplexity(perplexity::Args),
    Bench(Box<bench::Args>),
    Doctor(doctor::Args),
    #[cfg(feature = "convert")]
    Synth(synth::Args),
    Completions(completions::Args),
}

impl Command {
    /// Runs the command.
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        match self {
            Command::Run(args) => run::execute(*args),
            #[cfg(feature = "serve")]
            Command::Serve(args) => serve::execute(&args),
            #[cfg(feature = "hub")]
            Command::Pull(args) => models::pull::execute(&args),
            #[cfg(feature = "hub")]
            Command::List(args) => models::list::execute(&args),
            #[cfg(feature = "hub")]
            Command::Show(args) => models::show::execute(&args),
            #[cfg(feature = "hub")]
            Command::Rm(args) => models::rm::execute(&args),
            #[cfg(feature = "hub")]
            Command::Verify(args) => models::verify::execute(&args),
            Command::Inspect(args) => inspect::execute(&args),
            #[cfg(feature = "convert")]
            Command::Convert(args) => convert::execute(&args),
            #[cfg(feature = "convert")]
            Command::Extract(args) => extract::execute(&args),
            #[cfg(feature = "convert")]
            Command::Diff(args) => diff::execute(&args),
            Command::Tokenize(args) => tokenize::execute(&args),
            #[cfg(feature = "convert")]
            Command::Embed(args) => embed::execute(&args),
            #[cfg(feature = "convert")]
            Command::Logits(args) => logits::execute(&args),
            Command::Perplexity(args) => perplexity::execute(&args),
            Command::Bench(args) => bench::execute(&args),
            Command::Doctor(args) => doctor::execute(&args),
            #[cfg(feature = "convert")]
            Command::Synth(args) => synth::execute(&args),
            Command::Completions(args) => completions::execute(&args),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::definition().debug_assert();
    }

    #[test]
    fn every_command_of_one_model_takes_it_as_an_option() {
        let definition = Cli::definition();
        let has = |command: &clap::Command, id: &str| command.get_arguments().any(|argument| argument.get_id() == id);
        // A name that is shown or removed is no file, and `pull` fetches what is not here.
        let of_a_file =
            |command: &&clap::Command| has(command, "model") && !["pull", "show", "rm"].contains(&command.get_name());
        let names: Vec<&str> = definition.get_subcommands().filter(of_a_file).map(clap::Command::get_name).collect();
        assert!(names.contains(&"run") && names.contains(&"tokenize"), "{names:?}");
        for name in names {
            let without: &[&str] = &["rotor", name, "-m", "x"];
            let matches = Cli::definition().ignore_errors(true).try_get_matches_from(without).unwrap();
            assert!(one_model(&matches).is_ok(), "{name}");
            let given =
                matches.subcommand().unwrap().1.get_raw("model_option").map(|mut values| values.next().is_some());
            assert_eq!(given, Some(true), "{name}");
        }
    }

    #[test]
    fn every_flag_has_an_environment_variable_named_after_it() {
        for command in Cli::command().get_subcommands() {
            for argument in command.get_arguments().filter(|argument| argument.get_long().is_some()) {
                let long = argument.get_long().unwrap_or_default();
                if long == "model" {
                    // Its variable belongs to the model that stands alone.
                    continue;
                }
                let expected = format!("ROTOR_{}", long.replace('-', "_").to_uppercase());
                let found = argument.get_env().and_then(std::ffi::OsStr::to_str);
                assert_eq!(found, Some(expected.as_str()), "{} --{long}", command.get_name());
            }
        }
    }
}
