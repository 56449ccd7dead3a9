//! Stand-in until the readers land.

use crate::config::{Architecture, Config};
use crate::formats::{Part, Role};

impl Part {
    /// The seven projections.
    pub const LINEARS: [Part; 7] =
        [Part::AttnQ, Part::AttnK, Part::AttnV, Part::AttnOutput, Part::FfnGate, Part::FfnUp, Part::FfnDown];

    /// The norms of a layer.
    pub const fn norms(architecture: Architecture) -> &'static [Part] {
        match architecture {
            Architecture::BitNet => &[Part::AttnNorm, Part::AttnSubNorm, Part::FfnNorm, Part::FfnSubNorm],
            Architecture::Llama => &[Part::AttnNorm, Part::FfnNorm],
        }
    }
}

impl Role {
    /// The shape this role has, as rows and columns; a vector has one row.
    pub fn shape(self, config: &Config) -> (usize, usize) {
        let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
        match self {
            Role::TokenEmbedding | Role::Output => (config.vocab_size, hidden),
            Role::OutputNorm => (1, hidden),
            Role::Layer(_, part) => match part {
                Part::AttnNorm | Part::FfnNorm => (1, hidden),
                Part::AttnSubNorm => (1, config.q_dim()),
                Part::FfnSubNorm => (1, ffn),
                Part::AttnQ => (config.q_dim(), hidden),
                Part::AttnK | Part::AttnV => (config.kv_dim(), hidden),
                Part::AttnOutput => (hidden, config.q_dim()),
                Part::FfnGate | Part::FfnUp => (ffn, hidden),
                Part::FfnDown => (hidden, ffn),
            },
        }
    }
}
