//! The table of architectures: what each calls itself and its tensors, where its norms stand, and what it takes where a file is silent.
//!
//! Every architecture here is a decoder of the Llama kind, and each place where one differs from Llama is a column of
//! [`ArchitectureInfo`]. Readers, writers and the forward pass ask the columns and never which architecture it is, so a new
//! one is a row, and an operation where it has one that no other has. The hyper-parameters' own list is in [`crate::config`].

use crate::config::values::Activation;
use crate::error::FormatError;
use crate::formats::parts::{Part, Role};

/// Which graph a model runs. Untested is unsupported: anything else is refused by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// BitNet b1.58: norms before the output and down projections, activation function by family.
    BitNet,
    /// Llama.
    Llama,
    /// Qwen 3: a norm over each query and key head, and a head size of its own.
    Qwen3,
    /// MiniCPM and BitCPM: Llama with scales on the embedding, the sublayers' outputs and the logits.
    MiniCpm,
    /// Hunyuan dense: as Qwen 3, with the norms over heads after RoPE.
    HunYuanDense,
    /// Gemma 3, text only: norms behind the sublayers too, GELU, and layers that see a window.
    Gemma3,
}

/// Where the norms over query and key heads stand, in architectures that have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadNorms {
    /// Heads are normed, then rotated.
    BeforeRope,
    /// Heads are rotated, then normed.
    AfterRope,
}

/// The scalars that multiply what flows through the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalars {
    /// None.
    None,
    /// `scale_emb`, `scale_depth / sqrt(layers)` and `hidden_size / dim_model_base`, as MiniCPM names them.
    MiniCpm,
    /// The embedding is multiplied by the square root of the width.
    RootOfWidth,
}

/// The order in which GGUF converters store the rows of the query and key projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeRows {
    /// As Hugging Face has them: RoPE turns dimension `j` with `j + rotary_dim/2`.
    Halves,
    /// Reordered so that the two dimensions that RoPE turns together are neighbours.
    Neighbours,
}

/// What `general.architecture` may say.
#[derive(Clone, Copy, Debug)]
pub struct GgufName {
    /// The name, which is also the prefix of the keys.
    pub name: &'static str,
    /// The activation function that files of this name have unless something in them tells otherwise.
    pub hidden_act: Activation,
}

/// A norm of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// Its place in the graph.
    pub part: Part,
    /// Its module within `model.layers.N.` of a checkpoint; the first of several is the one that is written.
    pub modules: &'static [&'static str],
}

/// What the classes of transformers take where `config.json` is silent.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// `rms_norm_eps`.
    pub rms_norm_eps: f32,
    /// `rope_theta`.
    pub rope_theta: f32,
    /// `hidden_act` or `hidden_activation`.
    pub hidden_act: Activation,
    /// `head_dim`; `None` divides the width by the heads.
    pub head_dim: Option<usize>,
    /// `tie_word_embeddings`; `None` looks whether there is a head.
    pub tied: Option<bool>,
    /// `sliding_window`, in architectures whose layers may see one.
    pub sliding_window: Option<usize>,
    /// Every so many layers one sees everything, where no list says which.
    pub sliding_window_pattern: usize,
    /// `rope_local_base_freq`.
    pub rope_local_base_freq: Option<f32>,
    /// `query_pre_attn_scalar`; `None` is the head size.
    pub query_pre_attn_scalar: Option<f32>,
}

/// An architecture's row of the table.
#[derive(Debug)]
pub struct ArchitectureInfo {
    /// The architecture.
    pub architecture: Architecture,
    /// The name printed to people.
    pub name: &'static str,
    /// The names in GGUF files; of those with a model's activation function the first is written.
    pub gguf: &'static [GgufName],
    /// The classes of transformers that generate text; the first is written.
    pub classes: &'static [&'static str],
    /// The class without a head, whose output are hidden states.
    pub base_class: Option<&'static str>,
    /// `model_type` in `config.json`; the first is written.
    pub model_types: &'static [&'static str],
    /// The norms of a layer, in the order of the graph.
    pub norms: &'static [Norm],
    /// Where norms over heads stand, if there are any.
    pub head_norms: HeadNorms,
    /// Whether checkpoints store the weights of these norms less 1. A GGUF has them whole.
    pub norms_less_one: bool,
    /// Whether a GGUF may have a norm in front of every linear (`attn_q_norm_in`).
    pub norms_in_linears: bool,
    /// The order of query and key rows in a GGUF.
    pub rope_rows: RopeRows,
    /// Scalars of the graph.
    pub scalars: Scalars,
    /// Whether layers may see a window of the last tokens alone.
    pub sliding_layers: bool,
    /// Whether a checkpoint without `quantization_config` holds float master weights of a ternary model.
    pub master_weights: bool,
    /// What holds where a checkpoint is silent.
    pub defaults: Defaults,
}

const fn norm(part: Part, modules: &'static [&'static str]) -> Norm {
    Norm { part, modules }
}

const ATTN_NORM: Norm = norm(Part::AttnNorm, &["input_layernorm"]);
const FFN_NORM: Norm = norm(Part::FfnNorm, &["post_attention_layernorm"]);
const Q_NORM: Norm = norm(Part::AttnQNorm, &["self_attn.q_norm"]);
const K_NORM: Norm = norm(Part::AttnKNorm, &["self_attn.k_norm"]);

const fn gguf(name: &'static str, hidden_act: Activation) -> GgufName {
    GgufName { name, hidden_act }
}

const LLAMA_DEFAULTS: Defaults = Defaults {
    rms_norm_eps: 1e-6,
    rope_theta: 10_000.0,
    hidden_act: Activation::Silu,
    head_dim: None,
    tied: None,
    sliding_window: None,
    sliding_window_pattern: 1,
    rope_local_base_freq: None,
    query_pre_attn_scalar: None,
};

const LLAMA: ArchitectureInfo = ArchitectureInfo {
    architecture: Architecture::Llama,
    name: "llama",
    gguf: &[gguf("llama", Activation::Silu)],
    classes: &["LlamaForCausalLM"],
    base_class: None,
    model_types: &["llama"],
    norms: &[ATTN_NORM, FFN_NORM],
    head_norms: HeadNorms::BeforeRope,
    norms_less_one: false,
    norms_in_linears: false,
    rope_rows: RopeRows::Neighbours,
    scalars: Scalars::None,
    sliding_layers: false,
    master_weights: false,
    defaults: LLAMA_DEFAULTS,
};

/// Every architecture, in the order of [`Architecture`].
pub static ARCHITECTURES: [ArchitectureInfo; 6] = [
    ArchitectureInfo {
        architecture: Architecture::BitNet,
        name: "bitnet",
        gguf: &[
            gguf("bitnet-b1.58", Activation::ReluSquared),
            gguf("bitnet-25", Activation::ReluSquared),
            gguf("bitnet", Activation::Silu),
        ],
        classes: &["BitNetForCausalLM", "BitnetForCausalLM"],
        model_types: &["bitnet"],
        norms: &[
            ATTN_NORM,
            // The second names are those of the 1bitLLM checkpoints.
            norm(Part::AttnSubNorm, &["self_attn.attn_sub_norm", "self_attn.inner_attn_ln"]),
            FFN_NORM,
            norm(Part::FfnSubNorm, &["mlp.ffn_sub_norm", "mlp.ffn_layernorm"]),
        ],
        rope_rows: RopeRows::Halves,
        master_weights: true,
        defaults: Defaults {
            rms_norm_eps: 1e-5,
            rope_theta: 500_000.0,
            hidden_act: Activation::ReluSquared,
            ..LLAMA_DEFAULTS
        },
        ..LLAMA
    },
    LLAMA,
    ArchitectureInfo {
        architecture: Architecture::Qwen3,
        name: "qwen3",
        gguf: &[gguf("qwen3", Activation::Silu)],
        classes: &["Qwen3ForCausalLM"],
        base_class: Some("Qwen3Model"),
        model_types: &["qwen3"],
        norms: &[ATTN_NORM, Q_NORM, K_NORM, FFN_NORM],
        norms_in_linears: true,
        rope_rows: RopeRows::Halves,
        defaults: Defaults { head_dim: Some(128), ..LLAMA_DEFAULTS },
        ..LLAMA
    },
    ArchitectureInfo {
        architecture: Architecture::MiniCpm,
        name: "minicpm",
        gguf: &[gguf("minicpm", Activation::Silu)],
        classes: &["MiniCPMForCausalLM"],
        model_types: &["minicpm"],
        scalars: Scalars::MiniCpm,
        // openbmb's own configuration class, which its files rely on.
        defaults: Defaults { tied: Some(true), ..LLAMA_DEFAULTS },
        ..LLAMA
    },
    ArchitectureInfo {
        architecture: Architecture::HunYuanDense,
        name: "hunyuan-dense",
        gguf: &[gguf("hunyuan-dense", Activation::Silu)],
        classes: &["HunYuanDenseV1ForCausalLM"],
        model_types: &["hunyuan_v1_dense"],
        norms: &[
            ATTN_NORM,
            norm(Part::AttnQNorm, &["self_attn.query_layernorm"]),
            norm(Part::AttnKNorm, &["self_attn.key_layernorm"]),
            FFN_NORM,
        ],
        head_norms: HeadNorms::AfterRope,
        rope_rows: RopeRows::Halves,
        defaults: Defaults { rms_norm_eps: 1e-5, ..LLAMA_DEFAULTS },
        ..LLAMA
    },
    ArchitectureInfo {
        architecture: Architecture::Gemma3,
        name: "gemma3",
        gguf: &[gguf("gemma3", Activation::GeluTanh)],
        classes: &["Gemma3ForCausalLM"],
        base_class: Some("Gemma3TextModel"),
        model_types: &["gemma3_text"],
        norms: &[
            ATTN_NORM,
            Q_NORM,
            K_NORM,
            norm(Part::AttnPostNorm, &["post_attention_layernorm"]),
            norm(Part::FfnNorm, &["pre_feedforward_layernorm"]),
            norm(Part::FfnPostNorm, &["post_feedforward_layernorm"]),
        ],
        norms_less_one: true,
        norms_in_linears: true,
        rope_rows: RopeRows::Halves,
        scalars: Scalars::RootOfWidth,
        sliding_layers: true,
        defaults: Defaults {
            rope_theta: 1_000_000.0,
            hidden_act: Activation::GeluTanh,
            head_dim: Some(256),
            tied: Some(true),
            sliding_window: Some(4096),
            sliding_window_pattern: 6,
            rope_local_base_freq: Some(10_000.0),
            query_pre_attn_scalar: Some(256.0),
            ..LLAMA_DEFAULTS
        },
        ..LLAMA
    },
];

/// The linears of a layer and their modules within `model.layers.N.` of a checkpoint.
const LINEARS: [(Part, &str); 7] = [
    (Part::AttnQ, "self_attn.q_proj"),
    (Part::AttnK, "self_attn.k_proj"),
    (Part::AttnV, "self_attn.v_proj"),
    (Part::AttnOutput, "self_attn.o_proj"),
    (Part::FfnGate, "mlp.gate_proj"),
    (Part::FfnUp, "mlp.up_proj"),
    (Part::FfnDown, "mlp.down_proj"),
];

impl Part {
    /// The last part of the name that transformers gives the module, as `q_proj`; `None` for a norm.
    pub fn module_name(self) -> Option<&'static str> {
        let (_, module) = LINEARS.iter().find(|(part, _)| *part == self)?;
        module.rsplit('.').next()
    }
}

impl Architecture {
    /// Its row of the table.
    pub fn info(self) -> &'static ArchitectureInfo {
        &ARCHITECTURES[self as usize]
    }

    /// The short name printed to people.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// The architecture that `general.architecture` of a GGUF names.
    pub fn from_gguf(name: &str) -> Option<Architecture> {
        let row = ARCHITECTURES.iter().find(|info| info.gguf.iter().any(|known| known.name == name))?;
        Some(row.architecture)
    }

    /// The architecture that a class of transformers belongs to.
    pub fn from_class(class: &str) -> Option<Architecture> {
        let row = ARCHITECTURES.iter().find(|info| info.classes.contains(&class) || info.base_class == Some(class))?;
        Some(row.architecture)
    }

    /// The architecture of a `model_type`.
    pub fn from_model_type(model_type: &str) -> Option<Architecture> {
        let row = ARCHITECTURES.iter().find(|info| info.model_types.contains(&model_type))?;
        Some(row.architecture)
    }

    /// The names a GGUF or a `config.json` may carry, for messages.
    pub fn known() -> String {
        let gguf = ARCHITECTURES.iter().flat_map(|info| info.gguf).map(|known| known.name).collect::<Vec<_>>();
        let classes = ARCHITECTURES.iter().flat_map(|info| info.classes.iter().chain(&info.base_class));
        let classes = classes.copied().collect::<Vec<_>>();
        format!("known are {} (GGUF); {} (Hugging Face)", gguf.join(", "), classes.join(", "))
    }
}

impl ArchitectureInfo {
    /// The name that is written into a GGUF of a model with this activation function.
    pub fn gguf_name(&self, hidden_act: Activation) -> &'static str {
        self.gguf.iter().find(|known| known.hidden_act == hidden_act).unwrap_or(&self.gguf[0]).name
    }

    /// The places of a layer's norms, in the order of the graph.
    pub fn norm_parts(&'static self) -> impl Iterator<Item = Part> {
        self.norms.iter().map(|norm| norm.part)
    }

    /// The parts of a layer: norms, then linears.
    pub fn parts(&'static self) -> impl Iterator<Item = Part> {
        self.norm_parts().chain(Part::LINEARS)
    }

    /// The module names of a role in a checkpoint whose names begin with `prefix` ("model." or nothing); the first is written.
    pub fn modules(&self, prefix: &str, role: Role) -> Vec<String> {
        let (layer, part) = match role {
            Role::TokenEmbedding => return vec![format!("{prefix}embed_tokens")],
            Role::OutputNorm => return vec![format!("{prefix}norm")],
            Role::Output => return vec!["lm_head".into()],
            Role::Layer(layer, part) => (layer, part),
        };
        let linear = LINEARS.iter().find(|(linear, _)| *linear == part).map(|(_, module)| std::slice::from_ref(module));
        let names = linear.or_else(|| Some(self.norms.iter().find(|norm| norm.part == part)?.modules));
        names.unwrap_or_default().iter().map(|name| format!("{prefix}layers.{layer}.{name}")).collect()
    }
}

/// Keys of a `config.json` that have to be absent, null, false or 0, and why.
pub(crate) const SWITCHED_OFF: [(&str, &str); 12] = [
    ("attention_bias", "linears have no bias here"),
    ("mlp_bias", "linears have no bias here"),
    ("use_bidirectional_attention", "a token sees those before it here"),
    ("attn_logit_softcapping", "scores are not capped here"),
    ("final_logit_softcapping", "logits are not capped here"),
    ("use_cla", "layers do not share keys and values here"),
    ("attn_output_gate", "attention has no gate here"),
    ("num_experts", "every layer is dense here"),
    ("num_local_experts", "every layer is dense here"),
    ("n_routed_experts", "every layer is dense here"),
    ("moe_intermediate_size", "every layer is dense here"),
    ("vision_config", "images have no place in the graph; a text model alone is run"),
];

const HYBRID: &str = "a hybrid of attention and gated delta nets, which are not run yet";
const EXPERTS: &str = "a mixture of experts; every layer is dense here";
const DRAFTER: &str = "a drafter for another model's text, no model of its own";
const PROJECTOR: &str =
    "a vision projector, the part of a multimodal model that reads images; name the language model's file";
const ACTIONS: &str = "a model of images and robot actions, of which only the text part would run";

/// Architectures that exist and do not run here, by the beginning of their names in small letters, and what they are.
const NOT_RUN: [(&str, &str); 14] = [
    ("qwen35", HYBRID),
    ("qwen3_5", HYBRID),
    ("qwen3next", HYBRID),
    ("prism_hadamard", "weights behind Hadamard transforms, which are not run yet"),
    ("hyv4", EXPERTS),
    ("hy_v4", EXPERTS),
    ("maple", EXPERTS),
    ("dspark", DRAFTER),
    ("clip", PROJECTOR),
    ("mmproj", PROJECTOR),
    ("controlvector", "a control vector, which changes another model and is none of its own"),
    ("imatrix", "an importance matrix: statistics for quantising another model, and no weights"),
    ("bitvla", ACTIONS),
    ("whisper", "a speech model; rotor runs models of text"),
];

/// As [`NOT_RUN`], by words anywhere in their names.
const NOT_RUN_KINDS: [(&str, &str); 6] = [
    ("moe", EXPERTS),
    ("mixtral", EXPERTS),
    ("eagle", DRAFTER),
    ("dflash", DRAFTER),
    ("draft", DRAFTER),
    ("forconditionalgeneration", "a model with an encoder of images, sound or text; decoders of text alone are run"),
];

/// The error for a name that no row has.
pub(crate) fn refusal(name: &str) -> FormatError {
    let lower = name.to_ascii_lowercase();
    let known_kind = NOT_RUN.iter().find(|(start, _)| lower.starts_with(start));
    let what = known_kind.or_else(|| NOT_RUN_KINDS.iter().find(|(word, _)| lower.contains(word)));
    let known = Architecture::known();
    let why = what.map_or_else(|| known.clone(), |(_, what)| format!("it is {what} ({known})"));
    FormatError::unsupported(format!("architecture {name:?}"), why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_the_enum() {
        for (index, info) in ARCHITECTURES.iter().enumerate() {
            assert_eq!(info.architecture as usize, index, "{}", info.name);
            assert_eq!(info.architecture.info().name, info.name);
        }
    }

    #[test]
    fn every_name_leads_to_its_architecture() {
        for info in &ARCHITECTURES {
            assert!(info.gguf.iter().all(|known| Architecture::from_gguf(known.name) == Some(info.architecture)));
            let classes = info.classes.iter().chain(&info.base_class);
            assert!(classes.into_iter().all(|class| Architecture::from_class(class) == Some(info.architecture)));
            let types = info.model_types;
            assert!(types.iter().all(|name| Architecture::from_model_type(name) == Some(info.architecture)));
        }
        assert!(Architecture::known().starts_with("known are bitnet-b1.58, bitnet-25, bitnet, llama, qwen3"));
    }

    #[test]
    fn what_does_not_run_is_called_what_it_is() {
        for (name, what) in [
            ("qwen35moe", HYBRID),
            ("Qwen3_5ForCausalLM", HYBRID),
            ("HYV4ForCausalLM", EXPERTS),
            ("hy_v4", EXPERTS),
            ("HunYuanMoEV1ForCausalLM", EXPERTS),
            ("qwen3moe", EXPERTS),
            ("LlamaForCausalLMEagle3", DRAFTER),
            ("DFlashDraftModel", DRAFTER),
            ("dflash", DRAFTER),
            ("BitVLAForActionPrediction", ACTIONS),
            ("Qwen3VLForConditionalGeneration", "a model with an encoder"),
        ] {
            let error = refusal(name).to_string();
            assert!(error.starts_with(&format!("architecture {name:?} is not supported: it is {what}")), "{error}");
        }
    }

    #[test]
    fn every_part_has_one_module_and_no_two_share_one() {
        for info in &ARCHITECTURES {
            let names: Vec<_> = info.parts().flat_map(|part| info.modules("model.", Role::Layer(3, part))).collect();
            assert!(info.parts().all(|part| !info.modules("", Role::Layer(0, part)).is_empty()), "{}", info.name);
            let mut unique = names.clone();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), names.len(), "{}: {names:?}", info.name);
        }
    }
}
