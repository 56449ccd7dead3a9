//! The steps a text goes through before its pieces are merged: normalisation, then cutting.
//!
//! The variants are those of tokenizer.json, under its names, because that is the one format that spells steps out; the
//! names a GGUF has for whole sequences of them are in `rules.rs`. Steps that do the same are read as the same, so that a
//! `Digits` and the `Split` that it stands for compare equal.

use super::error::TokenizerError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The steps that are let through: those that the tests hold against the library's own loader.
const NORMALIZERS: &str = "Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip";
const PRE_TOKENIZERS: &str = "Sequence, Split, ByteLevel, Digits, Metaspace, Punctuation, Whitespace, WhitespaceSplit";

/// What the `ByteLevel` step cuts by, and GPT-2.
pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// What the `Digits` step cuts by.
pub(super) const DIGIT: &str = r"\p{N}";

/// A change to the text as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub(crate) enum Normalizer {
    /// Unicode normalisation form C.
    #[serde(rename = "NFC")]
    Nfc {},
    /// Unicode normalisation form D.
    #[serde(rename = "NFD")]
    Nfd {},
    /// Unicode normalisation form KC.
    #[serde(rename = "NFKC")]
    Nfkc {},
    /// Unicode normalisation form KD.
    #[serde(rename = "NFKD")]
    Nfkd {},
    /// Every character becomes its lower case.
    Lowercase {},
    /// Takes whitespace off the ends.
    Strip {
        /// Off the beginning.
        strip_left: bool,
        /// Off the end.
        strip_right: bool,
    },
    /// Puts a text in front of every stretch that is not empty.
    Prepend {
        /// The text.
        prepend: String,
    },
    /// Replaces every match.
    Replace {
        /// What is replaced.
        pattern: Pattern,
        /// By what.
        content: String,
    },
}

/// What a step looks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Pattern {
    /// This text.
    String(String),
    /// A regular expression.
    Regex(String),
}

/// What becomes of a match and of the text beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Behavior {
    /// It is dropped.
    Removed,
    /// It is a piece of its own.
    Isolated,
    /// It ends the piece before it.
    MergedWithPrevious,
    /// It begins the piece after it.
    MergedWithNext,
    /// Neighbouring matches are one piece.
    Contiguous,
}

/// Where `Metaspace` puts the character that stands for a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PrependScheme {
    /// In front of the text's first stretch.
    First,
    /// Nowhere.
    Never,
    /// In front of every stretch.
    Always,
}

/// A cut through the pieces that the step before it left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type")]
pub(crate) enum PreTokenizer {
    /// Cuts at the matches of a pattern.
    Split {
        /// The pattern.
        pattern: Pattern,
        /// What becomes of a match.
        behavior: Behavior,
        /// Whether what does not match counts as the match.
        invert: bool,
    },
    /// Maps bytes to the byte-level alphabet.
    ByteLevel {
        /// Whether a text that does not begin with a space gets one.
        add_prefix_space: bool,
        /// About offsets, which nobody asks for; written because readers want the key.
        trim_offsets: bool,
        /// Whether it cuts by the rule of GPT-2 first.
        use_regex: bool,
    },
    /// Writes spaces as another character.
    Metaspace {
        /// That character.
        replacement: char,
        /// Where one more is put in front.
        prepend_scheme: PrependScheme,
        /// Whether it cuts in front of each.
        split: bool,
    },
    /// Cuts around punctuation.
    Punctuation {
        /// What becomes of it.
        behavior: Behavior,
    },
    /// Words and runs of other characters; whitespace is dropped.
    Whitespace,
    /// What stands between whitespace, which is dropped.
    WhitespaceSplit,
}

impl PreTokenizer {
    /// A cut around the matches of a regular expression.
    pub(crate) fn split(regex: &str) -> Self {
        Self::Split { pattern: Pattern::Regex(regex.to_owned()), behavior: Behavior::Isolated, invert: false }
    }

    /// The byte-level alphabet, which the last step of every byte-level vocabulary maps to.
    pub(crate) fn byte_level(add_prefix_space: bool) -> Self {
        Self::ByteLevel { add_prefix_space, trim_offsets: true, use_regex: false }
    }

    /// The regular expression of a plain cut.
    pub(crate) fn regex(&self) -> Option<&str> {
        match self {
            Self::Split { pattern: Pattern::Regex(regex), behavior: Behavior::Isolated, invert: false } => Some(regex),
            _ => None,
        }
    }
}

/// The steps of `normalizer` of tokenizer.json.
pub(crate) fn normalizers(part: Option<&Value>) -> Result<Vec<Normalizer>, TokenizerError> {
    flat(part).into_iter().map(|step| read("normalizer", step, NORMALIZERS)).collect()
}

/// The steps of `pre_tokenizer` of tokenizer.json.
pub(crate) fn pre_tokenizers(part: Option<&Value>) -> Result<Vec<PreTokenizer>, TokenizerError> {
    let mut steps = Vec::new();
    for step in flat(part) {
        let raw: RawPreTokenizer = read("pre-tokenizer", step, PRE_TOKENIZERS)?;
        raw.resolve(&mut steps)?;
    }
    Ok(steps)
}

/// Steps as tokenizer.json has them: one by itself, several as a sequence, none as null.
pub(crate) fn to_json<T: Serialize>(steps: &[T], sequence_key: &str) -> Value {
    // Names, numbers and texts always become JSON.
    let json = |step: &T| serde_json::to_value(step).unwrap_or_default();
    match steps {
        [] => Value::Null,
        [only] => json(only),
        several => json!({ "type": "Sequence", sequence_key: several.iter().map(json).collect::<Vec<_>>() }),
    }
}

/// A part, or every step of a sequence of parts, nested ones included.
pub(crate) fn flat(part: Option<&Value>) -> Vec<&Value> {
    let Some(part) = part.filter(|part| !part.is_null()) else { return Vec::new() };
    let inner =
        ["normalizers", "pretokenizers", "processors", "decoders"].iter().find_map(|key| part.get(key)?.as_array());
    match inner.filter(|_| kind(part) == Some("Sequence")) {
        Some(inner) => inner.iter().flat_map(|step| flat(Some(step))).collect(),
        None => vec![part],
    }
}

/// The `type` of a step.
pub(crate) fn kind(step: &Value) -> Option<&str> {
    step.get("type")?.as_str()
}

/// Refuses a step whose type is not among the known ones.
pub(crate) fn check_kind(what: &'static str, step: &Value, known: &'static str) -> Result<(), TokenizerError> {
    match kind(step) {
        Some(name) if known.split(", ").any(|one| one == name) => Ok(()),
        Some(name) => Err(TokenizerError::unsupported(what, name, known)),
        None => Err(TokenizerError::invalid(format!("{what} of tokenizer.json"), "a step with a type", step)),
    }
}

fn read<T: DeserializeOwned>(what: &'static str, step: &Value, known: &'static str) -> Result<T, TokenizerError> {
    check_kind(what, step, known)?;
    serde_json::from_value(step.clone()).map_err(|error| {
        let kind = kind(step).unwrap_or_default();
        TokenizerError::invalid(format!("{what} {kind} of tokenizer.json"), "the options of such a step", error)
    })
}

/// A cut as files have it, with defaults and in several spellings.
#[derive(Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum RawPreTokenizer {
    Split {
        pattern: Pattern,
        behavior: Behavior,
        #[serde(default)]
        invert: bool,
    },
    ByteLevel {
        #[serde(default = "yes")]
        add_prefix_space: bool,
        #[serde(default, rename = "trim_offsets")]
        _trim_offsets: Option<bool>,
        #[serde(default = "yes")]
        use_regex: bool,
    },
    Digits {
        #[serde(default)]
        individual_digits: bool,
    },
    Metaspace {
        replacement: char,
        add_prefix_space: Option<bool>,
        prepend_scheme: Option<PrependScheme>,
        #[serde(default = "yes")]
        split: bool,
        #[serde(rename = "str_rep")]
        _str_rep: Option<String>,
    },
    Punctuation {
        #[serde(default = "isolated")]
        behavior: Behavior,
    },
    Whitespace {},
    WhitespaceSplit {},
}

fn yes() -> bool {
    true
}

fn isolated() -> Behavior {
    Behavior::Isolated
}

impl RawPreTokenizer {
    /// Appends the steps it stands for.
    fn resolve(self, steps: &mut Vec<PreTokenizer>) -> Result<(), TokenizerError> {
        match self {
            Self::Split { pattern, behavior, invert } => steps.push(PreTokenizer::Split { pattern, behavior, invert }),
            // The space in front has to come before the cut, which only the step itself can do.
            Self::ByteLevel { add_prefix_space: true, use_regex, .. } => {
                steps.push(PreTokenizer::ByteLevel { add_prefix_space: true, trim_offsets: true, use_regex });
            }
            Self::ByteLevel { add_prefix_space: false, use_regex, .. } => {
                steps.extend(use_regex.then(|| PreTokenizer::split(GPT2)));
                steps.push(PreTokenizer::byte_level(false));
            }
            Self::Digits { individual_digits: true } => steps.push(PreTokenizer::split(DIGIT)),
            Self::Digits { individual_digits: false } => steps.push(PreTokenizer::split(r"\p{N}+")),
            Self::Metaspace { replacement, add_prefix_space, prepend_scheme, split, .. } => {
                let default =
                    if add_prefix_space == Some(false) { PrependScheme::Never } else { PrependScheme::Always };
                let prepend_scheme = prepend_scheme.unwrap_or(default);
                if add_prefix_space == Some(false) && prepend_scheme != PrependScheme::Never {
                    let expected = "add_prefix_space and prepend_scheme that agree";
                    return Err(TokenizerError::invalid("Metaspace of tokenizer.json", expected, "false and another"));
                }
                steps.push(PreTokenizer::Metaspace { replacement, prepend_scheme, split });
            }
            Self::Punctuation { behavior } => steps.push(PreTokenizer::Punctuation { behavior }),
            Self::Whitespace {} => steps.push(PreTokenizer::Whitespace),
            Self::WhitespaceSplit {} => steps.push(PreTokenizer::WhitespaceSplit),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_that_do_the_same_are_read_as_the_same() {
        let digits = json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Digits", "individual_digits": true },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true } ] });
        let split = json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": DIGIT }, "behavior": "Isolated", "invert": false },
            { "type": "Split", "pattern": { "Regex": GPT2 }, "behavior": "Isolated" },
            { "type": "ByteLevel", "add_prefix_space": false, "use_regex": false } ] });
        let read = |json: &Value| pre_tokenizers(Some(json)).unwrap();
        assert_eq!(read(&digits), read(&split));
        assert_eq!(read(&to_json(&read(&digits), "pretokenizers")), read(&split));
    }

    #[test]
    fn options_nobody_knows_are_named() {
        for (step, named) in [
            (json!({ "type": "NFC", "version": 3 }), "version"),
            (json!({ "type": "Strip", "strip_left": true, "strip_right": true, "strip_inner": true }), "strip_inner"),
            (json!({ "type": "Prepend" }), "prepend"),
            (json!({ "no": "type" }), "a step with a type"),
        ] {
            let error = normalizers(Some(&step)).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        let error = pre_tokenizers(Some(&json!({ "type": "Whitespace", "keep": true }))).unwrap_err().to_string();
        assert!(error.contains("keep"), "{error}");
        let disagreeing =
            json!({ "type": "Metaspace", "replacement": "_", "add_prefix_space": false, "prepend_scheme": "first" });
        assert!(pre_tokenizers(Some(&disagreeing)).unwrap_err().to_string().contains("that agree"));
    }
}
