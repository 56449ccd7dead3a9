//! The pre-tokenizers that a GGUF can name: how a text is cut into pieces before byte-pair merging.
//!
//! Each is a sequence of regular expressions, every one cutting what the one before left whole; text between matches
//! stays as pieces (llama.cpp's src/llama-vocab.cpp has them by name). A wrong choice still produces text, only worse, so
//! an unknown name is an error. Where llama.cpp approximates the expression of a model's tokenizer.json, for the sake of
//! an engine without classes such as `\p{Lu}`, the tokenizer.json is followed.

use super::error::TokenizerError;
use super::steps::{DIGIT, GPT2, PreTokenizer};

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// As [`LLAMA3`], with numbers of any length in one piece.
const LLAMA3_LONG_NUMBERS: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// As [`QWEN2`], with combining marks among the letters.
const QWEN35: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const GPT_4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|`]+";
const UP_TO_THREE_DIGITS: &str = r"\p{N}{1,3}";
const DEEPSEEK3_WORDS: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// Chinese and Japanese characters.
const DEEPSEEK3_CJK: &str = "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
/// Chinese and Korean characters, and everything between U+0800 and the first.
const DEEPSEEK_CJK: &str = "[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+";
const DEEPSEEK_LLM_PUNCTUATION: &str =
    "\\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+";
/// The letters of scripts with upper and lower case, as a list of ranges.
const DEEPSEEK_LLM_WORDS: &str = concat!(
    "\\s?[",
    "\u{41}-\u{5A}\u{61}-\u{7A}\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-\u{1BA}\u{1BC}-\u{1BF}\u{1C4}-\u{293}",
    "\u{295}-\u{2AF}\u{370}-\u{373}\u{376}\u{377}\u{37B}-\u{37D}\u{37F}\u{386}\u{388}-\u{38A}\u{38C}",
    "\u{38E}-\u{3A1}\u{3A3}-\u{3F5}\u{3F7}-\u{481}\u{48A}-\u{52F}\u{531}-\u{556}\u{10A0}-\u{10C5}",
    "\u{13A0}-\u{13F5}\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}\u{1D00}-\u{1D2B}\u{1D6B}-\u{1D77}",
    "\u{1D79}-\u{1D9A}\u{1E00}-\u{1F15}\u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}\u{1F50}-\u{1F57}",
    "\u{1F59}\u{1F5B}\u{1F5D}\u{1F5F}-\u{1F7D}\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}\u{1FBE}\u{1FC2}-\u{1FC4}",
    "\u{1FC6}-\u{1FCC}\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}\u{1FF2}-\u{1FF4}\u{1FF6}-\u{1FFC}",
    "\u{2102}\u{2107}\u{210A}-\u{2113}\u{2115}\u{2119}-\u{211D}\u{2124}\u{2126}\u{2128}\u{212A}-\u{212D}",
    "\u{212F}-\u{2134}\u{2139}\u{213C}-\u{213F}\u{2145}-\u{2149}\u{214E}\u{2183}\u{2184}\u{2C00}-\u{2C7B}",
    "\u{2C7E}-\u{2CE4}\u{2CEB}-\u{2CEE}\u{2CF2}\u{2CF3}\u{A640}-\u{A66D}\u{A680}-\u{A69B}\u{A722}-\u{A76F}",
    "\u{A771}-\u{A787}\u{A78B}-\u{A78E}\u{AB70}-\u{ABBF}\u{FB00}-\u{FB06}\u{FB13}-\u{FB17}\u{FF21}-\u{FF3A}",
    "\u{FF41}-\u{FF5A}\u{10400}-\u{1044F}\u{104B0}-\u{104D3}\u{104D8}-\u{104FB}\u{10C80}-\u{10CB2}",
    "\u{10CC0}-\u{10CF2}\u{118A0}-\u{118DF}\u{1E900}-\u{1E943}",
    "]+"
);

/// A way to cut text, and what goes with it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// The values of `tokenizer.ggml.pre` that mean it; the first is the most widely understood.
    pub(crate) names: &'static [&'static str],
    /// What each step cuts at.
    pub(crate) patterns: &'static [&'static str],
    /// Whether a piece that is a token as a whole is taken without merging. 588 of Llama 3's tokens cannot be reached by
    /// merges.
    pub(crate) ignore_merges: bool,
    /// Whether the beginning-of-sequence token is added where the file does not say.
    pub(crate) adds_bos: bool,
}

/// Every pre-tokenizer.
pub(crate) const RULES: &[Rule] = &[
    rule(
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
        &[LLAMA3],
    )
    .ignoring_merges()
    .with_bos(),
    rule(&["smaug-bpe", "dbrx", "chatglm-bpe"], &[LLAMA3]),
    rule(&["glm4", "glm5"], &[LLAMA3]).ignoring_merges(),
    rule(
        &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"],
        &[QWEN2],
    ),
    rule(&["qwen35"], &[QWEN35]),
    rule(
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
        ],
        &[GPT2],
    ),
    rule(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[DIGIT, GPT2],
    ),
    // What an unnamed one means to llama.cpp.
    rule(&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
    rule(&["falcon"], &[PUNCTUATION, GPT2, "[0-9][0-9][0-9]"]),
    rule(&["falcon_e"], &[PUNCTUATION, GPT2, "[0-9]"]),
    rule(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        &[UP_TO_THREE_DIGITS, DEEPSEEK3_CJK, DEEPSEEK3_WORDS],
    ),
    rule(&["deepseek-coder"], &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK, DIGIT]),
    rule(
        &["deepseek-llm"],
        &[r"[\r\n]", DEEPSEEK_LLM_WORDS, DEEPSEEK_LLM_PUNCTUATION, r"\s+$", DEEPSEEK_CJK, r"\p{N}+"],
    ),
    rule(&["tekken"], &[TEKKEN]).ignoring_merges().with_bos(),
    rule(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[GPT_4O]),
    rule(&["minicpm5"], &[UP_TO_THREE_DIGITS, LLAMA3_LONG_NUMBERS]).ignoring_merges(),
];

const fn rule(names: &'static [&'static str], patterns: &'static [&'static str]) -> Rule {
    Rule { names, patterns, ignore_merges: false, adds_bos: false }
}

impl Rule {
    const fn ignoring_merges(self) -> Self {
        Self { ignore_merges: true, ..self }
    }

    const fn with_bos(self) -> Self {
        Self { adds_bos: true, ..self }
    }

    /// The rule of a name in a GGUF.
    pub(crate) fn named(name: &str) -> Result<&'static Self, TokenizerError> {
        RULES.iter().find(|rule| rule.names.contains(&name)).ok_or_else(|| {
            let known = RULES.iter().flat_map(|rule| rule.names).copied().collect::<Vec<_>>().join(", ");
            TokenizerError::Unsupported { what: "pre-tokenizer", name: name.to_owned(), known: known.into() }
        })
    }

    /// The rule that cuts as these steps do and treats whole pieces alike.
    pub(crate) fn of(steps: &[PreTokenizer], ignore_merges: bool) -> Option<&'static Self> {
        let (last, cuts) = steps.split_last()?;
        if *last != PreTokenizer::byte_level(false) {
            return None;
        }
        let cuts: Vec<&str> = cuts.iter().map(PreTokenizer::regex).collect::<Option<_>>()?;
        RULES.iter().find(|rule| rule.patterns == cuts && rule.ignore_merges == ignore_merges)
    }

    /// The steps: the cuts, then the mapping of bytes to the byte-level alphabet.
    pub(crate) fn steps(&self) -> Vec<PreTokenizer> {
        let cuts = self.patterns.iter().copied().map(PreTokenizer::split);
        cuts.chain([PreTokenizer::byte_level(false)]).collect()
    }
}
