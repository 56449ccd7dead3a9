//! The arguments that several commands share, and the values that they take.

use clap::ValueEnum;
use clap::builder::FalseyValueParser;
use rotor::config::{Activation, Activations, limits};
use rotor::formats::{DenseActivations, LoadOptions, OpenOptions, Read};
use rotor::forms::{I2sLayout, KernelConfig};
use rotor::speculate::Speculate;
use rotor::write::refuse_overwriting;
use rotor::{DenseType, FormatError, KvType};
use std::path::{Path, PathBuf};

/// More threads than any machine this runs on has cores.
const MAX_THREADS: usize = 1024;

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
    /// Read the model's files into memory instead of mapping them: for files that may change or vanish while they are read.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_NO_MMAP", hide_env = true)]
    pub(crate) no_mmap: bool,
}

impl OpenArgs {
    /// Refuses an output that is one of the files these options name.
    pub(crate) fn refuse_overwriting(&self, output: &Path) -> Result<(), FormatError> {
        self.kernel_config.as_deref().map_or(Ok(()), |config| refuse_overwriting(&[config], output))
    }

    pub(crate) fn options(&self) -> Result<OpenOptions, FormatError> {
        Ok(OpenOptions {
            i2s_layout: self.i2s_layout.map(LayoutName::layout),
            hidden_act: self.activation.map(ActivationName::activation),
            kernel_config: self.kernel_config.as_deref().map(KernelConfig::read).transpose()?.unwrap_or_default(),
            no_mmap: self.no_mmap,
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
    /// How finely the inputs of ternary linears are kept: int8 with one scale per token, as BitNets were trained, or exact,
    /// as good as floats, for models of which only the weights are ternary; auto is as the model was trained.
    #[arg(long, value_name = "PRECISION", default_value = "auto", env = "ROTOR_ACTIVATIONS", hide_env = true)]
    activations: ActivationsName,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
}

impl LoadArgs {
    /// `activations` count where none are given.
    pub(crate) fn options(&self, activations: DenseActivations, read: Read) -> Result<OpenOptions, FormatError> {
        let load = LoadOptions {
            head: self.head.map(HeadName::dense_type),
            dense_activations: self.dense_activations.map_or(activations, DenseActivationsName::activations),
            activations: self.activations.activations(),
            read,
        };
        Ok(OpenOptions { load, ..self.open.options()? })
    }
}

/// How much of the head is read to choose a token.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Computing")]
pub(crate) struct ReadArgs {
    /// How much of a head of f16, bf16 or f32 is read for a token: what its choice can depend on, told by a quantised copy, where
    /// that is faster (auto), everywhere (least), or all of it. The tokens are the same.
    #[arg(long, value_name = "HOW", default_value = "auto", env = "ROTOR_READ", hide_env = true)]
    read: ReadName,
}

impl ReadArgs {
    pub(crate) fn read(self) -> Read {
        match self.read {
            ReadName::Auto => Read::Auto,
            ReadName::All => Read::All,
            ReadName::Least => Read::Least,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ReadName {
    Auto,
    All,
    Least,
}

/// How an embedding and a head are stored.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum HeadName {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q6_k")]
    Q6K,
    #[value(name = "q4_k")]
    Q4K,
}

impl HeadName {
    pub(crate) fn dense_type(self) -> DenseType {
        match self {
            HeadName::F32 => DenseType::F32,
            HeadName::F16 => DenseType::F16,
            HeadName::Bf16 => DenseType::Bf16,
            HeadName::Q8_0 => DenseType::Q8_0,
            HeadName::Q6K => DenseType::Q6K,
            HeadName::Q4K => DenseType::Q4K,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ActivationsName {
    Auto,
    Int8,
    Exact,
}

impl ActivationsName {
    fn activations(self) -> Option<Activations> {
        match self {
            ActivationsName::Auto => None,
            ActivationsName::Int8 => Some(Activations::Int8),
            ActivationsName::Exact => Some(Activations::Exact),
        }
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

/// How next tokens are guessed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SpeculateName {
    Lookup,
    Off,
}

impl SpeculateName {
    pub(crate) fn kind(self) -> Speculate {
        match self {
            SpeculateName::Lookup => Speculate::Lookup,
            SpeculateName::Off => Speculate::Off,
        }
    }
}

/// Whether next tokens are guessed.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Computing")]
pub(crate) struct SpeculateArgs {
    /// Guess what comes next from what was said before and check the guess in one step, where that is faster; the text is the
    /// same either way.
    #[arg(long, value_name = "HOW", default_value = "lookup", env = "ROTOR_SPECULATE", hide_env = true)]
    pub(crate) speculate: SpeculateName,
}

/// How much memory keys and values may take.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Computing")]
pub(crate) struct KvMemoryArgs {
    /// Memory for keys and values, as 512M or 2G; what the texts at hand leave of it keeps earlier ones [default: one context].
    #[arg(long, value_name = "SIZE", value_parser = memory_size, env = "ROTOR_KV_MEMORY", hide_env = true)]
    pub(crate) kv_memory: Option<u64>,
}

/// A number of bytes; K, M, G and T stand for powers of 1024.
pub(crate) fn memory_size(text: &str) -> Result<u64, String> {
    let wrong = || "expected a number of bytes, or one with K, M, G or T, as in 512M or 2G".to_owned();
    let unit = text.chars().last().and_then(|unit| "KMGT".find(unit.to_ascii_uppercase()));
    let number = if unit.is_some() { text.get(..text.len() - 1) } else { Some(text) };
    let number: u64 = number.and_then(|number| number.parse().ok()).ok_or_else(wrong)?;
    let factor = unit.map_or(1, |unit| 1 << (10 * (unit + 1)));
    number.checked_mul(factor).filter(|bytes| *bytes > 0).ok_or_else(wrong)
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

    /// What stands alone although `-m` names the model: the next argument, of a command that may do without one.
    pub(crate) fn beside(&self) -> Option<&Path> {
        self.model.as_deref().filter(|_| self.option.path.is_some())
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
    fn ids_may_be_separated_by_commas_and_spaces() {
        assert_eq!("1, 2 3,\n4".parse::<TokenIds>().unwrap().0, [1, 2, 3, 4]);
        assert!("".parse::<TokenIds>().unwrap().0.is_empty());
        assert_eq!("1,x".parse::<TokenIds>().unwrap_err(), "expected token ids, found \"x\"");
        assert!("4294967296".parse::<TokenIds>().is_err());
        assert!("-1".parse::<TokenIds>().is_err());
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(memory_size("3"), Ok(3));
        assert_eq!(memory_size("512M"), Ok(512 << 20));
        assert_eq!(memory_size("2g"), Ok(2 << 30));
        for wrong in ["", "G", "0", "1.5G", "-1", "2GB", "99999999999T", "é"] {
            assert!(memory_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn thread_counts_are_bounded() {
        assert_eq!(threads("1024"), Ok(1024));
        for absurd in ["0", "1025", "-1", "many", "99999999999999999999"] {
            assert_eq!(threads(absurd), Err("expected a whole number from 1 to 1024".into()));
        }
    }
}
