//! What to convert to, and how.

use crate::formats::{Naming, Source};
use crate::forms::{I2sLayout, TernaryForm};
use rotor_kernels::DenseType;
use std::str::FromStr;

/// What to convert to; the `--type` of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target(TernaryForm);

/// The kind of file a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Container {
    Gguf,
    Folder,
    Rotor,
}

impl Target {
    /// Every target.
    pub const ALL: [Target; 9] = [
        Target(TernaryForm::I2S(I2sLayout::Blocks128)),
        Target(TernaryForm::I2S(I2sLayout::Blocks64)),
        Target(TernaryForm::Tq1_0),
        Target(TernaryForm::Tq2_0),
        Target(TernaryForm::Q1_0),
        Target(TernaryForm::Q2_0),
        Target(TernaryForm::BitNet),
        Target(TernaryForm::Rotor),
        Target(TernaryForm::HfPacked),
    ];

    /// The name people type.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// The form of its linears.
    pub const fn form(self) -> TernaryForm {
        self.0
    }

    /// The kind of file it makes.
    pub(super) const fn container(self) -> Container {
        match self.0 {
            TernaryForm::HfPacked => Container::Folder,
            TernaryForm::Rotor | TernaryForm::BitNet => Container::Rotor,
            _ => Container::Gguf,
        }
    }

    /// Whether the output is a GGUF file.
    pub(super) const fn is_gguf(self) -> bool {
        matches!(self.container(), Container::Gguf)
    }

    /// Whose names its tensors have.
    pub(super) fn naming(self, source: &Source) -> Naming {
        match self.container() {
            Container::Gguf => Naming::Gguf,
            Container::Folder => Naming::HuggingFace,
            Container::Rotor => source.naming(),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Target::ALL.map(Target::name).join(", ");
        Target::ALL
            .into_iter()
            .find(|target| target.name() == text)
            .ok_or_else(|| format!("known types are {}", known()))
    }
}

/// How to convert.
#[derive(Clone, Copy, Debug)]
pub struct ConvertOptions {
    /// What to.
    pub target: Target,
    /// The type of the embedding and the head; `None` keeps the source's numbers exactly.
    pub head: Option<DenseType>,
    /// Reads everything again and compares it before the output has its name.
    pub verify: bool,
    /// Leaves out, with a note, what the target cannot hold of the tokenizer; otherwise that is an error.
    pub lossy_tokenizer: bool,
}
