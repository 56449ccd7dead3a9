//! The shapes that can be synthesised.

use crate::architectures::Architecture;
use crate::config::{Activation, Config, Pooling};
use crate::forms::TernaryForm;
use crate::rope::RopeScaling;
use std::fmt;
use std::str::FromStr;

/// A published architecture, or one small enough for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// microsoft/bitnet-b1.58-2B-4T.
    Bitnet2B4T,
    /// 1bitLLM/bitnet_b1_58-large.
    BitnetLarge,
    /// 1bitLLM/bitnet_b1_58-3B.
    Bitnet3B,
    /// HF1BitLLM/Llama3-8B-1.58-100B-tokens.
    Llama3_8B,
    /// tiiuae/Falcon3-1B-Instruct-1.58bit.
    Falcon3_1B,
    /// tiiuae/Falcon3-3B-Instruct-1.58bit.
    Falcon3_3B,
    /// tiiuae/Falcon3-7B-Instruct-1.58bit.
    Falcon3_7B,
    /// tiiuae/Falcon3-10B-Instruct-1.58bit.
    Falcon3_10B,
    /// tiiuae/Falcon-E-1B-Instruct.
    FalconE1B,
    /// tiiuae/Falcon-E-3B-Instruct.
    FalconE3B,
    /// prism-ml/Ternary-Bonsai-1.7B.
    Bonsai1_7B,
    /// prism-ml/Ternary-Bonsai-4B.
    Bonsai4B,
    /// prism-ml/Ternary-Bonsai-8B, with its YaRN.
    Bonsai8B,
    /// openbmb/BitCPM-CANN-0.5B.
    BitCpm0_5B,
    /// openbmb/BitCPM-CANN-8B.
    BitCpm8B,
    /// tencent/Hy-MT 1.8B.
    HyMt1_8B,
    /// microsoft/bitnet-embedding-0.6b.
    Embedding0_6B,
    /// microsoft/bitnet-embedding-270m.
    Embedding270M,
    /// Four narrow layers of the BitNet graph and 1024 tokens, about 1.5 MB.
    Tiny,
}

/// The tokenizer and chat format of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Llama-3 vocabulary, BitNet chat format.
    BitNet,
    /// Llama-3 vocabulary and chat format.
    Llama3,
    /// SentencePiece vocabulary of Llama 2, no chat format.
    OneBit,
    /// Falcon 3.
    Falcon3,
    /// Falcon-E.
    FalconE,
    /// Qwen 3 with a ternary embedding, and a scale to every 128 weights.
    Bonsai,
    /// MiniCPM.
    BitCpm,
    /// Hunyuan.
    HyMt,
    /// Qwen 3 with norms in its linears.
    EmbeddingQwen,
    /// Gemma 3 with norms in its linears.
    EmbeddingGemma,
}

/// Layers, hidden, heads, key-value heads, head_dim, feed-forward, vocabulary, context, RoPE base, epsilon.
type Row = (usize, usize, usize, usize, usize, usize, usize, usize, f32, f32);

impl Preset {
    /// Every preset.
    pub const ALL: [Preset; 19] = [
        Preset::Bitnet2B4T,
        Preset::BitnetLarge,
        Preset::Bitnet3B,
        Preset::Llama3_8B,
        Preset::Falcon3_1B,
        Preset::Falcon3_3B,
        Preset::Falcon3_7B,
        Preset::Falcon3_10B,
        Preset::FalconE1B,
        Preset::FalconE3B,
        Preset::Bonsai1_7B,
        Preset::Bonsai4B,
        Preset::Bonsai8B,
        Preset::BitCpm0_5B,
        Preset::BitCpm8B,
        Preset::HyMt1_8B,
        Preset::Embedding0_6B,
        Preset::Embedding270M,
        Preset::Tiny,
    ];

    /// The name people type.
    pub const fn name(self) -> &'static str {
        match self {
            Preset::Bitnet2B4T => "bitnet-2b-4t",
            Preset::BitnetLarge => "bitnet-large",
            Preset::Bitnet3B => "bitnet-3b",
            Preset::Llama3_8B => "llama3-8b",
            Preset::Falcon3_1B => "falcon3-1b",
            Preset::Falcon3_3B => "falcon3-3b",
            Preset::Falcon3_7B => "falcon3-7b",
            Preset::Falcon3_10B => "falcon3-10b",
            Preset::FalconE1B => "falcon-e-1b",
            Preset::FalconE3B => "falcon-e-3b",
            Preset::Bonsai1_7B => "bonsai-1.7b",
            Preset::Bonsai4B => "bonsai-4b",
            Preset::Bonsai8B => "bonsai-8b",
            Preset::BitCpm0_5B => "bitcpm-0.5b",
            Preset::BitCpm8B => "bitcpm-8b",
            Preset::HyMt1_8B => "hy-mt-1.8b",
            Preset::Embedding0_6B => "bitnet-embedding-0.6b",
            Preset::Embedding270M => "bitnet-embedding-270m",
            Preset::Tiny => "tiny",
        }
    }

    /// What the model calls itself, after the published one.
    const fn model_name(self) -> &'static str {
        match self {
            Preset::Bitnet2B4T => "bitnet2b",
            other => other.name(),
        }
    }

    pub(super) const fn family(self) -> Family {
        match self {
            Preset::Bitnet2B4T | Preset::Tiny => Family::BitNet,
            Preset::BitnetLarge | Preset::Bitnet3B => Family::OneBit,
            Preset::Llama3_8B => Family::Llama3,
            Preset::Falcon3_1B | Preset::Falcon3_3B | Preset::Falcon3_7B | Preset::Falcon3_10B => Family::Falcon3,
            Preset::FalconE1B | Preset::FalconE3B => Family::FalconE,
            Preset::Bonsai1_7B | Preset::Bonsai4B | Preset::Bonsai8B => Family::Bonsai,
            Preset::BitCpm0_5B | Preset::BitCpm8B => Family::BitCpm,
            Preset::HyMt1_8B => Family::HyMt,
            Preset::Embedding0_6B => Family::EmbeddingQwen,
            Preset::Embedding270M => Family::EmbeddingGemma,
        }
    }

    /// Head split, context, base and epsilon of Falcon-E are not published with its files; its siblings' are taken.
    const fn row(self) -> Row {
        match self {
            Preset::Bitnet2B4T => (30, 2560, 20, 5, 128, 6912, 128_256, 4096, 500_000.0, 1e-5),
            Preset::BitnetLarge => (24, 1536, 16, 16, 96, 4096, 32_002, 2048, 10_000.0, 1e-5),
            Preset::Bitnet3B => (26, 3200, 32, 32, 100, 8640, 32_002, 2048, 10_000.0, 1e-5),
            Preset::Llama3_8B => (32, 4096, 32, 8, 128, 14_336, 128_256, 8192, 500_000.0, 1e-5),
            Preset::Falcon3_1B => (18, 2048, 8, 4, 256, 8192, 131_072, 8192, 1_000_042.0, 1e-6),
            Preset::Falcon3_3B => (22, 3072, 12, 4, 256, 9216, 131_072, 32_768, 1_000_042.0, 1e-6),
            Preset::Falcon3_7B => (28, 3072, 12, 4, 256, 23_040, 131_072, 32_768, 1_000_042.0, 1e-6),
            Preset::Falcon3_10B => (40, 3072, 12, 4, 256, 23_040, 131_072, 32_768, 1_000_042.0, 1e-6),
            Preset::FalconE1B => (24, 2048, 16, 2, 128, 9216, 32_768, 32_768, 1_000_042.0, 1e-6),
            Preset::FalconE3B => (32, 2048, 16, 2, 128, 13_312, 32_768, 32_768, 1_000_042.0, 1e-6),
            Preset::Bonsai1_7B => (28, 2048, 16, 8, 128, 6144, 151_936, 32_768, 1e6, 1e-6),
            Preset::Bonsai4B => (36, 2560, 32, 8, 128, 9728, 151_936, 32_768, 1e6, 1e-6),
            Preset::Bonsai8B => (36, 4096, 32, 8, 128, 12_288, 151_936, 65_536, 1e6, 1e-6),
            Preset::BitCpm0_5B => (24, 1024, 16, 2, 64, 4096, 73_448, 32_768, 10_000.0, 1e-5),
            Preset::BitCpm8B => (32, 4096, 32, 2, 128, 16_384, 73_448, 32_768, 10_000.0, 1e-5),
            Preset::HyMt1_8B => (32, 2048, 16, 4, 128, 6144, 120_818, 262_144, 11_158_840.0, 1e-5),
            Preset::Embedding0_6B => (28, 1024, 16, 8, 128, 3072, 151_936, 32_768, 1e6, 1e-6),
            Preset::Embedding270M => (18, 640, 4, 1, 256, 2048, 262_144, 32_768, 10_000.0, 1e-6),
            Preset::Tiny => (4, 256, 4, 2, 64, 768, 1024, 2048, 500_000.0, 1e-5),
        }
    }

    /// The hyper-parameters.
    pub fn config(self) -> Config {
        let (layers, hidden, heads, kv_heads, head_dim, ffn, vocab, context, theta, eps) = self.row();
        let (architecture, hidden_act) = match self.family() {
            Family::BitNet => (Architecture::BitNet, Activation::ReluSquared),
            Family::OneBit => (Architecture::BitNet, Activation::Silu),
            Family::Llama3 | Family::Falcon3 | Family::FalconE => (Architecture::Llama, Activation::Silu),
            Family::Bonsai | Family::EmbeddingQwen => (Architecture::Qwen3, Activation::Silu),
            Family::BitCpm => (Architecture::MiniCpm, Activation::Silu),
            Family::HyMt => (Architecture::HunYuanDense, Activation::Silu),
            Family::EmbeddingGemma => (Architecture::Gemma3, Activation::GeluTanh),
        };
        let mut config = Config {
            name: Some(self.model_name().to_owned()),
            vocab_size: vocab,
            max_position_embeddings: context,
            hidden_size: hidden,
            intermediate_size: ffn,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            rms_norm_eps: eps,
            rope_theta: theta,
            hidden_act,
            ..Config::new(architecture)
        };
        match self.family() {
            Family::BitCpm => {
                config.embedding_scale = 12.0;
                config.residual_scale = (1.4 / (layers as f64).sqrt()) as f32;
                config.logit_scale = (hidden / 256) as f32;
            }
            Family::EmbeddingGemma => {
                config.embedding_scale = (hidden as f64).sqrt() as f32;
                config.pooling = Some(Pooling::Mean);
            }
            Family::EmbeddingQwen => config.pooling = Some(Pooling::Mean),
            Family::Bonsai if self == Preset::Bonsai8B => {
                config.rope_scaling = RopeScaling::Yarn {
                    factor: 4.0,
                    original: 16_384,
                    beta_fast: 32.0,
                    beta_slow: 1.0,
                    attention_factor: None,
                    truncate: true,
                };
            }
            _ => {}
        }
        config
    }

    /// Whether the embedding serves as the head.
    pub(super) fn tied(self) -> bool {
        self.scales_multiply() && !matches!(self, Preset::Bonsai8B | Preset::BitCpm8B)
    }

    /// Whether the published checkpoint's scales multiply (BitNet) or divide (the Llama kind).
    pub(super) const fn scales_multiply(self) -> bool {
        !matches!(self.family(), Family::Llama3 | Family::Falcon3 | Family::FalconE)
    }

    /// The form of the linears in the published GGUF, where that is not I2_S, and the `general.file_type` that goes with it.
    /// Hy-MT's, STQ1_0, is only read; its twin has the form that is next to it.
    pub(super) const fn form(self) -> Option<(TernaryForm, u32)> {
        match self.family() {
            Family::Bonsai | Family::HyMt => Some((TernaryForm::Q2_0, 41)),
            Family::BitCpm => Some((TernaryForm::Tq2_0, 37)),
            _ => None,
        }
    }

    /// Weights that share a scale, where that is not the whole tensor.
    pub(super) const fn group_cols(self) -> Option<usize> {
        match self.family() {
            Family::Bonsai | Family::HyMt => Some(128),
            _ => None,
        }
    }

    /// Whether the embedding and the head are ternary too.
    pub(super) const fn ternary_embedding(self) -> bool {
        matches!(self.family(), Family::Bonsai)
    }

    /// Whether every linear has a norm of its own.
    pub(super) const fn norms_in_linears(self) -> bool {
        matches!(self.family(), Family::EmbeddingQwen | Family::EmbeddingGemma)
    }

    /// `general.architecture` of the published GGUF.
    pub(super) fn gguf_architecture(self) -> &'static str {
        let config = self.config();
        config.architecture.info().gguf_name(config.hidden_act)
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Preset {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|preset| preset.name() == name).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|preset| preset.name()).collect();
            format!("unknown preset {name:?}; known are {}", known.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_presets() {
        for preset in Preset::ALL {
            assert_eq!(preset.to_string().parse(), Ok(preset));
        }
        assert!("gpt-5".parse::<Preset>().unwrap_err().contains("bitnet-2b-4t, bitnet-large"));
    }

    #[test]
    fn ternary_parameter_counts_of_the_published_models() {
        // As published, in millions.
        for (preset, millions) in [
            (Preset::Bitnet2B4T, 2084),
            (Preset::BitnetLarge, 679),
            (Preset::Bitnet3B, 3222),
            (Preset::Llama3_8B, 6979),
            (Preset::Falcon3_1B, 1132),
            (Preset::Falcon3_3B, 2422),
            (Preset::Falcon3_7B, 6650),
            (Preset::Falcon3_10B, 9500),
        ] {
            let config = preset.config();
            let layer = 2 * config.hidden_size * (config.q_dim() + config.kv_dim())
                + 3 * config.hidden_size * config.intermediate_size;
            assert_eq!((layer * config.num_hidden_layers + 500_000) / 1_000_000, millions, "{preset}");
        }
    }
}
