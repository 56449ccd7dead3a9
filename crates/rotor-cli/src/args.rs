//! The command line: one row per command, and the arguments that several commands share.

#[cfg(feature = "hub")]
use crate::models;
use crate::synth::HeadName;
use crate::{
    bench, completions, convert, diff, doctor, extract, inspect, logits, perplexity, run, serve, synth, tokenize,
};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use rotor::config::{Activation, limits};
use rotor::formats::{DenseActivations, LoadOptions, OpenOptions};
use rotor::forms::{I2sLayout, KernelConfig};
use rotor::{FormatError, KvType};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// More threads than any machine this runs on has cores.
const MAX_THREADS: usize = 1024;

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

/// A model may be named by its place or by `-m`, but not by both.
fn one_model(matches: &clap::ArgMatches) -> Result<(), clap::Error> {
    let Some((_, matches)) = matches.subcommand() else { return Ok(()) };
    let typed =
        |id: &str| matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::CommandLine);
    if typed("model") && typed("model_option") {
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
    Convert(convert::Args),
    Extract(extract::Args),
    Diff(diff::Args),
    Tokenize(tokenize::Args),
    Logits(logits::Args),
    Perplexity(perplexity::Args),
    Bench(Box<bench::Args>),
    Doctor(doctor::Args),
    Synth(synth::Args),
    Completions(completions::Args),
}

impl Command {
    /// Runs the command.
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        match self {
            Command::Run(args) => run::execute(*args),
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
            Command::Convert(args) => convert::execute(&args),
            Command::Extract(args) => extract::execute(&args),
            Command::Diff(args) => diff::execute(&args),
            Command::Tokenize(args) => tokenize::execute(&args),
            Command::Logits(args) => logits::execute(&args),
            Command::Perplexity(args) => perplexity::execute(&args),
            Command::Bench(args) => bench::execute(&args),
            Command::Doctor(args) => doctor::execute(&args),
            Command::Synth(args) => synth::execute(&args),
            Command::Completions(args) => completions::execute(&args),
        }
    }
}

/// How to read a model's file, where the file leaves it open.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Reading the model")]
pub(crate) struct OpenArgs {
    /// Where I2_S tensors keep which element: 128 as x86 builds write, 64 as NEON builds write, 1x4 or seq as some other
    /// builds did [default: told by the file].
    #[arg(long, value_name = "BLOCK", env = "ROTOR_I2S_LAYOUT", hide_env = true)]
    i2s_layout: Option<LayoutName>,
    /// The gate's activation function [default: told by the file].
    #[arg(long, value_name = "NAME", env = "ROTOR_ACTIVATION", hide_env = true)]
    activation: Option<ActivationName>,
    /// The kernel_config.ini of the build that wrote TL1 or TL2 tensors; they cannot be read without it.
    #[arg(long, value_name = "FILE", env = "ROTOR_KERNEL_CONFIG", hide_env = true)]
    kernel_config: Option<PathBuf>,
}

impl OpenArgs {
    pub(crate) fn options(&self) -> Result<OpenOptions, FormatError> {
        Ok(OpenOptions {
            i2s_layout: self.i2s_layout.map(LayoutName::layout),
            hidden_act: self.activation.map(ActivationName::activation),
            kernel_config: self.kernel_config.as_deref().map(KernelConfig::read).transpose()?.unwrap_or_default(),
            ..OpenOptions::default()
        })
    }
}

/// How to read a model that is to be computed with, and in what form to hold it.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Reading the model")]
pub(crate) struct LoadArgs {
    /// Encode the embedding and the head anew while loading, as convert --head does [default: as in the file].
    #[arg(long, value_name = "TYPE", env = "ROTOR_HEAD", hide_env = true)]
    head: Option<HeadName>,
    /// What dense matrices of quantised types are multiplied by: f32, or 16-bit integers with a scale to every 256
    /// [default: f32 for logits, else int16].
    #[arg(long, value_name = "TYPE", env = "ROTOR_DENSE_ACTIVATIONS", hide_env = true)]
    dense_activations: Option<DenseActivationsName>,
    #[command(flatten)]
    open: OpenArgs,
}

impl LoadArgs {
    /// `activations` count where none are given.
    pub(crate) fn options(&self, activations: DenseActivations) -> Result<OpenOptions, FormatError> {
        let load = LoadOptions {
            head: self.head.map(HeadName::dense_type),
            dense_activations: self.dense_activations.map_or(activations, DenseActivationsName::activations),
        };
        Ok(OpenOptions { load, ..self.open.options()? })
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DenseActivationsName {
    F32,
    Int16,
}

impl DenseActivationsName {
    fn activations(self) -> DenseActivations {
        match self {
            DenseActivationsName::F32 => DenseActivations::F32,
            DenseActivationsName::Int16 => DenseActivations::Int16,
        }
    }
}

/// What a computation runs on.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Computing")]
pub(crate) struct ThreadArgs {
    /// Threads to compute on [default: one per core].
    #[arg(short, long, value_name = "N", value_parser = threads, env = "ROTOR_THREADS", hide_env = true)]
    threads: Option<usize>,
}

impl ThreadArgs {
    /// The number of threads; 0 is one per core.
    pub(crate) fn threads(self) -> usize {
        self.threads.unwrap_or(0)
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LayoutName {
    #[value(name = "128")]
    Blocks128,
    #[value(name = "64")]
    Blocks64,
    #[value(name = "1x4")]
    Rows4,
    #[value(name = "seq")]
    Sequential,
}

impl LayoutName {
    pub(crate) fn layout(self) -> I2sLayout {
        match self {
            LayoutName::Blocks128 => I2sLayout::Blocks128,
            LayoutName::Blocks64 => I2sLayout::Blocks64,
            LayoutName::Rows4 => I2sLayout::Rows4,
            LayoutName::Sequential => I2sLayout::Sequential,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ActivationName {
    Relu2,
    Silu,
    /// GELU by its approximation with tanh, as Gemma has it.
    GeluPytorchTanh,
}

impl ActivationName {
    fn activation(self) -> Activation {
        match self {
            ActivationName::Relu2 => Activation::ReluSquared,
            ActivationName::Silu => Activation::Silu,
            ActivationName::GeluPytorchTanh => Activation::GeluTanh,
        }
    }
}

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum KvName {
    F16,
    F32,
    /// One byte per number, a scale per head and position.
    #[value(alias = "q8_0")]
    Int8,
}

impl KvName {
    pub(crate) fn kind(self) -> KvType {
        match self {
            KvName::F16 => KvType::F16,
            KvName::F32 => KvType::F32,
            KvName::Int8 => KvType::Int8,
        }
    }
}

/// Several thread counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ThreadList(pub(crate) Vec<usize>);

/// Thread counts, separated by commas; one named twice is measured once.
pub(crate) fn thread_list(text: &str) -> Result<ThreadList, String> {
    let mut list = Vec::new();
    for count in text.split(',').map(|count| threads(count.trim())) {
        let count = count?;
        if !list.contains(&count) {
            list.push(count);
        }
    }
    Ok(ThreadList(list))
}

fn threads(text: &str) -> Result<usize, String> {
    whole_number(text, 1, MAX_THREADS)
}

/// A context length; at most what a model can have been trained for.
pub(crate) fn context(text: &str) -> Result<usize, String> {
    whole_number(text, 0, limits::CONTEXT)
}

/// A whole number within bounds.
pub(crate) fn whole_number(text: &str, low: usize, high: usize) -> Result<usize, String> {
    let value = text.parse().ok().filter(|value| (low..=high).contains(value));
    value.ok_or_else(|| format!("expected a whole number from {low} to {high}"))
}

/// Any whole number, for options that have no upper bound of their own.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "expected a whole number from 0 on".to_owned())
}

/// A seed of random numbers.
pub(crate) fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("expected a whole number from 0 to {}", u64::MAX))
}

/// A number, with or without a fraction.
pub(crate) fn number(text: &str) -> Result<f32, String> {
    text.parse().map_err(|_| "expected a number".to_owned())
}

/// Token ids, separated by commas or spaces.
#[derive(Clone, Debug)]
pub(crate) struct TokenIds(pub(crate) Vec<u32>);

impl std::str::FromStr for TokenIds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
        let id = |word: &str| word.parse().map_err(|_| format!("expected token ids, found {word:?}"));
        Ok(Self(words.map(id).collect::<Result<_, _>>()?))
    }
}

/// Where a model is.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ModelArg {
    /// A .gguf file (the first part of a split one), a .safetensors file, a folder in Hugging Face layout, or a model's name.
    #[arg(value_name = "MODEL", env = "ROTOR_MODEL", hide_env = true, required_unless_present = "model_option")]
    model: Option<PathBuf>,
    #[command(flatten)]
    option: ModelOption,
}

impl ModelArg {
    /// The model's path.
    pub(crate) fn path(&self) -> &Path {
        // One of the two is there, or the command line would have been refused.
        self.option.or(self.model.as_deref()).unwrap_or(Path::new(""))
    }
}

/// Where a model is, for commands that have one of their own.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct OptionalModelArg {
    /// A .gguf file (the first part of a split one), a .safetensors file, a folder in Hugging Face layout, or a model's name
    /// [default: the model inside the program].
    #[arg(value_name = "MODEL", env = "ROTOR_MODEL", hide_env = true)]
    model: Option<PathBuf>,
    #[command(flatten)]
    option: ModelOption,
}

impl OptionalModelArg {
    /// The model's path; `None` is the model inside the program.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.option.or(self.model.as_deref())
    }
}

/// What other programs call the same.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
struct ModelOption {
    /// The model, as an option.
    #[arg(id = "model_option", short = 'm', long = "model", value_name = "MODEL")]
    path: Option<PathBuf>,
}

impl ModelOption {
    /// This path, or else the one that stands alone (or in the environment).
    fn or<'a>(&'a self, alone: Option<&'a Path>) -> Option<&'a Path> {
        self.path.as_deref().or(alone)
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

    #[test]
    fn ids_may_be_separated_by_commas_and_spaces() {
        assert_eq!("1, 2 3,\n4".parse::<TokenIds>().unwrap().0, [1, 2, 3, 4]);
        assert!("".parse::<TokenIds>().unwrap().0.is_empty());
        assert_eq!("1,x".parse::<TokenIds>().unwrap_err(), "expected token ids, found \"x\"");
        assert!("4294967296".parse::<TokenIds>().is_err());
        assert!("-1".parse::<TokenIds>().is_err());
    }

    #[test]
    fn thread_counts_are_bounded() {
        assert_eq!(threads("1024"), Ok(1024));
        for absurd in ["0", "1025", "-1", "many", "99999999999999999999"] {
            assert_eq!(threads(absurd), Err("expected a whole number from 1 to 1024".into()));
        }
    }
}
