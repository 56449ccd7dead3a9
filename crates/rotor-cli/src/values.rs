//! The values that options take: names of things of the engine, and numbers with their bounds.

use clap::ValueEnum;
use rotor::config::{Activation, Activations, limits};
use rotor::formats::{DenseActivations, Read};
use rotor::forms::I2sLayout;
use rotor::speculate::Speculate;
use rotor::{DenseType, KvType};

/// More threads than any machine this runs on has cores.
const MAX_THREADS: usize = 1024;

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ReadName {
    Auto,
    All,
    Least,
}

impl ReadName {
    pub(crate) fn read(self) -> Read {
        match self {
            ReadName::Auto => Read::Auto,
            ReadName::All => Read::All,
            ReadName::Least => Read::Least,
        }
    }
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
pub(crate) enum ActivationsName {
    Auto,
    Int8,
    Exact,
}

impl ActivationsName {
    pub(crate) fn activations(self) -> Option<Activations> {
        match self {
            ActivationsName::Auto => None,
            ActivationsName::Int8 => Some(Activations::Int8),
            ActivationsName::Exact => Some(Activations::Exact),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DenseActivationsName {
    F32,
    Int16,
}

impl DenseActivationsName {
    pub(crate) fn activations(self) -> DenseActivations {
        match self {
            DenseActivationsName::F32 => DenseActivations::F32,
            DenseActivationsName::Int16 => DenseActivations::Int16,
        }
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
    pub(crate) fn activation(self) -> Activation {
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

/// A number of threads.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
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
