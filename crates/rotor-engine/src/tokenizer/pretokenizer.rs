//! The pre-tokenizers a GGUF can name: how a text is cut into pieces before byte-pair merging.
//!
//! Each is a sequence of regular expressions, every one splitting what the one before left whole (llama.cpp's
//! src/llama-vocab.cpp has them by name). A wrong choice still produces text, only worse, so an unknown name is an error.

use super::error::TokenizerError;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

/// The names `tokenizer.ggml.pre` may have.
const KNOWN: &str = "llama-bpe, llama3, llama-v3, falcon3, falcon_e, smollm, gpt-2, qwen2, default";

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// Also what the library's own byte-level splitting does.
pub(crate) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
pub(crate) const DIGIT: &str = r"\p{N}";
const DEFAULT: [&str; 4] = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"];
const FALCON_E: [&str; 3] = [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9]"];

/// How a byte-level vocabulary cuts text, and what goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PreTokenizer {
    /// Llama 3, BitNet-b1.58-2B-4T, Falcon 3.
    Llama3,
    /// Falcon-E.
    FalconE,
    /// SmolLM.
    Smollm,
    /// GPT-2.
    Gpt2,
    /// Qwen 2.
    Qwen2,
    /// What an unnamed one means to llama.cpp.
    Default,
}

impl PreTokenizer {
    /// Every pre-tokenizer.
    pub(crate) const ALL: [PreTokenizer; 6] =
        [Self::Llama3, Self::FalconE, Self::Smollm, Self::Gpt2, Self::Qwen2, Self::Default];

    /// The name a GGUF gives it; where several do, the most widely understood.
    pub(crate) const fn gguf_name(self) -> &'static str {
        match self {
            Self::Llama3 => "llama-bpe",
            Self::FalconE => "falcon_e",
            Self::Smollm => "smollm",
            Self::Gpt2 => "gpt-2",
            Self::Qwen2 => "qwen2",
            Self::Default => "default",
        }
    }

    /// The pre-tokenizer of a GGUF. Where the key is missing, `assume_llama3` decides: the published BitNet GGUF has no
    /// key and was trained with the Llama-3 rules.
    pub(crate) fn from_gguf(name: Option<&str>, assume_llama3: bool) -> Result<Self, TokenizerError> {
        Ok(match name {
            Some("llama-bpe" | "llama3" | "llama-v3" | "falcon3") => Self::Llama3,
            Some("falcon_e") => Self::FalconE,
            Some("smollm") => Self::Smollm,
            Some("gpt-2") => Self::Gpt2,
            Some("qwen2") => Self::Qwen2,
            Some("default") => Self::Default,
            None if assume_llama3 => Self::Llama3,
            None => Self::Default,
            Some(name) => {
                return Err(TokenizerError::Unsupported { what: "pre-tokenizer", name: name.to_owned(), known: KNOWN });
            }
        })
    }

    /// Whether a piece that is a token as a whole is taken without merging. 588 of Llama 3's tokens cannot be reached
    /// by merges.
    pub(crate) fn ignores_merges(self) -> bool {
        self == Self::Llama3
    }

    /// Whether the beginning-of-sequence token is added where the file does not say.
    pub(crate) fn adds_bos(self) -> bool {
        self == Self::Llama3
    }

    /// What each step splits at.
    pub(crate) fn patterns(self) -> &'static [&'static str] {
        match self {
            Self::Llama3 => &[LLAMA3],
            Self::FalconE => &FALCON_E,
            Self::Smollm => &[DIGIT, GPT2],
            Self::Gpt2 => &[GPT2],
            Self::Qwen2 => &[QWEN2],
            Self::Default => &DEFAULT,
        }
    }

    /// The splits, followed by the mapping of bytes to the byte-level alphabet.
    pub(crate) fn build(self) -> Result<PreTokenizerWrapper, TokenizerError> {
        let mut steps = Vec::new();
        for &pattern in self.patterns() {
            let pattern = SplitPattern::Regex(pattern.to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(TokenizerError::library("cannot compile a pre-tokenizer"))?;
            steps.push(split.into());
        }
        steps.push(ByteLevel::new(false, false, false).into());
        Ok(Sequence::new(steps).into())
    }
}
