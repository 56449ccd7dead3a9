//! How finely the inputs of ternary linears are kept: as the model was trained, whatever form its weights are stored in.
//!
//! BitNet's models were trained with int8 activations, one scale per token, and that quantiser is part of what they compute.
//! Others (Bonsai, BitCPM, TriLM, Hunyuan) are weight-only: their references multiply floats. Giving these BitNet's quantiser
//! moves their logits by percents of the largest, and by half of it where a few channels are much larger than the rest.
//! A file rarely says which it is, so the choice follows from what is known of the families; a conversion writes it down.

use crate::error::FormatError;
use rotor_kernels::ternary::Precision;

/// How finely the inputs of ternary linears are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activations {
    /// int8, one scale per token, as BitNet's models were trained.
    Int8,
    /// Three int8 digits in steps of 1/131072 of the mean magnitude, for models whose reference multiplies floats.
    Exact,
}

impl Activations {
    /// Both.
    pub const ALL: [Activations; 2] = [Activations::Int8, Activations::Exact];

    /// The name in files and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Activations::Int8 => "int8",
            Activations::Exact => "exact",
        }
    }

    /// What the kernels are asked for.
    pub const fn precision(self) -> Precision {
        match self {
            Activations::Int8 => Precision::Int8,
            Activations::Exact => Precision::Exact,
        }
    }

    /// The choice of a name in a file.
    pub(super) fn parse(name: &str) -> Result<Activations, FormatError> {
        let known = || FormatError::invalid(KEY, "int8 or exact", format!("{name:?}"));
        Self::ALL.into_iter().find(|activations| activations.name() == name).ok_or_else(known)
    }
}

/// The key of a GGUF that says it; in a `config.json` the dot is an underscore.
pub(crate) const KEY: &str = "rotor.activations";
pub(crate) const JSON_KEY: &str = "rotor_activations";

/// What tells the families apart.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traits<'a> {
    /// The GGUF architecture, or whether a `config.json` says BitNet: by `quant_method`, `model_type` or class.
    pub(crate) is_bitnet: bool,
    /// Linears have norms of their own.
    pub(crate) norms_in_linears: bool,
    /// Forms that only models trained with int8 activations are published in: I2_S, TL1, TL2.
    pub(crate) int8_forms: bool,
    /// Forms that only models of which the weights alone are ternary are published in: MLX's packs, floats that are ternary as
    /// they stand.
    pub(crate) weight_only_forms: bool,
    /// A GGUF of the architecture `llama`, which several families share.
    pub(crate) is_llama_gguf: bool,
    /// `general.name`, `general.basename` and the names of base models.
    pub(crate) names: &'a str,
}

/// The choice for a family, and why. The first rule that applies counts.
pub(crate) fn of_family(traits: Traits<'_>) -> (Activations, &'static str) {
    const INT8_NAMES: [&str; 6] = ["falcon3", "falcon-e", "llama3-8b-1.58", "bitnet", "1.58", "1_58"];
    const FLOAT_NAMES: [&str; 4] = ["bonsai", "trilm", "bitcpm", "spectra"];
    let names = traits.names.to_lowercase();
    let named = |list: &[&str]| list.iter().any(|name| names.contains(name));
    if traits.is_bitnet {
        return (Activations::Int8, "the model is a BitNet");
    }
    if traits.norms_in_linears {
        return (Activations::Int8, "its linears have norms of their own");
    }
    if traits.int8_forms {
        return (Activations::Int8, "its weights are in a form of BitNet's");
    }
    if traits.is_llama_gguf && named(&INT8_NAMES) && !named(&FLOAT_NAMES) {
        return (Activations::Int8, "its name is that of a BitNet");
    }
    (Activations::Exact, "nothing says that it was trained with int8 activations")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_by_their_traits() {
        let none = Traits::default();
        let llama = |names| Traits { is_llama_gguf: true, names, ..none };
        for (traits, expected) in [
            (none, Activations::Exact),
            (Traits { is_bitnet: true, ..none }, Activations::Int8),
            (Traits { norms_in_linears: true, ..none }, Activations::Int8),
            (Traits { int8_forms: true, ..none }, Activations::Int8),
            (llama("Falcon3-7B-Instruct"), Activations::Int8),
            (llama("Llama3-8B-1.58-100B-tokens"), Activations::Int8),
            (llama("TriLM_3.9B_Unpacked"), Activations::Exact),
            (llama("Bonsai 1.58 bit"), Activations::Exact),
            (llama("something else"), Activations::Exact),
            (Traits { names: "Falcon3", ..none }, Activations::Exact),
        ] {
            assert_eq!(of_family(traits).0, expected, "{traits:?}");
        }
    }
}
