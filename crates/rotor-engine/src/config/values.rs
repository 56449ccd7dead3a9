//! Values of hyper-parameters that are names rather than numbers, and how numbers are shown.

use crate::error::FormatError;
use serde_json::Value;

/// The gate's activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `max(x, 0)^2`, as BitNet-b1.58-2B-4T was trained with.
    ReluSquared,
    /// GELU by its approximation with tanh, as Gemma was trained with.
    GeluTanh,
}

/// The key that rotor writes to a GGUF where nothing else in it tells the activation function.
pub(crate) const HIDDEN_ACT_KEY: &str = "rotor.hidden_act";

impl Activation {
    /// Every activation function.
    pub const ALL: [Activation; 3] = [Activation::Silu, Activation::ReluSquared, Activation::GeluTanh];

    /// The name transformers uses.
    pub const fn name(self) -> &'static str {
        match self {
            Activation::Silu => "silu",
            Activation::ReluSquared => "relu2",
            Activation::GeluTanh => "gelu_pytorch_tanh",
        }
    }

    /// The function of a name; "swish" is another for SiLU.
    ///
    /// # Errors
    /// [`FormatError::Unsupported`] for a name that is not known.
    pub(crate) fn parse(name: &str) -> Result<Activation, FormatError> {
        let name = if name == "swish" { "silu" } else { name };
        Self::ALL.into_iter().find(|activation| activation.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            FormatError::unsupported(format!("activation function {name:?}"), format!("known are {known}"))
        })
    }
}

/// How much a layer's attention sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerType {
    /// Everything before a token.
    Full,
    /// The last [`Config::sliding_window`](super::Config::sliding_window) tokens.
    Sliding,
}

impl LayerType {
    /// The name transformers uses.
    pub const fn name(self) -> &'static str {
        match self {
            LayerType::Full => "full_attention",
            LayerType::Sliding => "sliding_attention",
        }
    }
}

/// The shortest decimal that is this f32: 1e-5 and not 9.999999747378752e-6.
pub(crate) fn short(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}
