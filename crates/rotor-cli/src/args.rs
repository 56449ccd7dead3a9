//! The arguments that several commands share.

use crate::values::{
    ActivationName, ActivationsName, DenseActivationsName, HeadName, LayoutName, ReadName, SpeculateName, memory_size,
    threads,
};
use clap::builder::FalseyValueParser;
use rotor::FormatError;
use rotor::formats::{DenseActivations, LoadOptions, OpenOptions, Read};
use rotor::forms::KernelConfig;
use rotor::write::refuse_overwriting;
use std::path::{Path, PathBuf};

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

/// How much of the weights is read for a token.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Computing")]
pub(crate) struct ReadArgs {
    /// How much of the weights is read for a token: all of them, less where that is faster (auto), or as little as can be (least).
    ///
    /// Of a head of f16, bf16 or f32 a quantised copy tells which rows the choice can depend on. Around a gate that is a squared ReLU
    /// (BitNet b1.58 2B4T) rows and columns that meet zeros are left out, where a trial finds that faster. The tokens are the same.
    #[arg(long, value_name = "HOW", default_value = "auto", env = "ROTOR_READ", hide_env = true)]
    read: ReadName,
}

impl ReadArgs {
    pub(crate) fn read(self) -> Read {
        self.read.read()
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

/// Names the model where the command line does not.
const MODEL_VARIABLE: &str = "ROTOR_MODEL";

/// Where a model is.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ModelArg {
    /// A .gguf file (the first part of a split one), a .safetensors file, a folder in Hugging Face layout, or a model's name.
    #[arg(value_name = "MODEL", env = MODEL_VARIABLE, hide_env = true, required_unless_present = "model_option")]
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
        let is_typed = |path: &&Path| std::env::var_os(MODEL_VARIABLE).is_none_or(|model| model != path.as_os_str());
        self.model.as_deref().filter(|_| self.option.path.is_some()).filter(is_typed)
    }
}

/// Where a model is, for commands that have one of their own.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct OptionalModelArg {
    /// A .gguf file (the first part of a split one), a .safetensors file, a folder in Hugging Face layout, or a model's name
    /// [default: the model inside the program].
    #[arg(value_name = "MODEL", env = MODEL_VARIABLE, hide_env = true)]
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

/// Where models are, for commands that take several.
#[cfg(feature = "serve")]
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ModelsArg {
    /// Files or folders of models; the first is loaded at once, others when they are asked for.
    #[arg(id = "model", value_name = "MODEL", env = MODEL_VARIABLE, hide_env = true)]
    models: Vec<PathBuf>,
    #[command(flatten)]
    option: ModelOption,
}

#[cfg(feature = "serve")]
impl ModelsArg {
    /// The models' paths; none is the model inside the program.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        self.option.path.as_ref().map_or(&self.models, std::slice::from_ref)
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
