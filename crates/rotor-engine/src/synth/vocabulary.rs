//! Vocabularies of the right size for models that come without one: every byte is a token, so any text can be encoded,
//! and the other ids print as pronounceable words, so that random output reads as text.

use super::preset::{Family, Preset};
use crate::config::Config;
use crate::error::FormatError;
use crate::formats::{GgufVocabulary, HuggingFaceTokenizer, TokenizerSource};
use crate::tokenizer::{TokenizerDescription, TokenizerError, byte_to_char, ids_needed};
use crate::write::vocabulary::gguf::to_gguf;
use crate::write::vocabulary::{pad, tiktoken, token_type};
use std::path::Path;

pub(super) use tiktoken::is_ranks;

/// Llama 3 ends with this many control tokens.
pub(super) const LLAMA3_SPECIALS: usize = 256;

/// What the Falcon vocabularies made here begin with; their real ones keep these texts at other ids.
const FALCON_SPECIALS: [&str; 8] = [
    "<|pad|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|im_start|>",
    "<|im_end|>",
];

/// What Qwen's vocabulary made here begins with; the real one keeps these texts at other ids.
const QWEN_SPECIALS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// What Hunyuan's vocabulary made here begins with; the real one keeps these texts at other ids.
const HUNYUAN_SPECIALS: [&str; 5] = [
    "<｜hy_begin▁of▁sentence｜>",
    "<｜hy_User｜>",
    "<｜hy_Assistant｜>",
    "<｜hy_place▁holder▁no▁2｜>",
    "<｜hy_place▁holder▁no▁3｜>",
];

/// The control tokens of Llama 3 by their place after the ordinary ones.
pub(super) fn llama3_special(index: usize) -> String {
    match index {
        0 => "<|begin_of_text|>".into(),
        1 => "<|end_of_text|>".into(),
        6 => "<|start_header_id|>".into(),
        7 => "<|end_header_id|>".into(),
        9 => "<|eot_id|>".into(),
        2..=5 => format!("<|reserved_special_token_{}|>", index - 2),
        8 => "<|reserved_special_token_4|>".into(),
        _ => format!("<|reserved_special_token_{}|>", index - 5),
    }
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, FormatError> {
    std::fs::read(path).map_err(|source| FormatError::Io { action: "read", path: path.to_path_buf(), source })
}

/// The vocabulary in a tokenizer.json (with the tokenizer_config.json beside it) or a file of ranks, filled up to the rows
/// of the embedding. The small preset takes as many rows as the vocabulary needs.
pub(super) fn from_file(path: &Path, preset: Preset, config: &mut Config) -> Result<GgufVocabulary, FormatError> {
    let bytes = read(path)?;
    let parsed = if is_ranks(&bytes) {
        tiktoken::parse(&bytes).map(|ranks| {
            let tokens: Vec<_> = ranks.pieces.into_iter().map(String::into_bytes).collect();
            let token_types = vec![token_type::NORMAL; tokens.len()];
            let (model, pre) = ("gpt2".into(), Some("llama-bpe".into()));
            let merges = ranks.merges.iter().collect();
            llama3(GgufVocabulary { model, pre, tokens, token_types, merges, ..Default::default() })
        })
    } else {
        let tokenizer_config = std::fs::read(path.with_file_name("tokenizer_config.json")).ok();
        from_tokenizer_json(HuggingFaceTokenizer { tokenizer: bytes, tokenizer_config, ..Default::default() })
    };
    let mut vocabulary = parsed.map_err(|error| error.in_file(path))?;
    if preset == Preset::Tiny {
        config.vocab_size = config.vocab_size.max(vocabulary.tokens.len());
    }
    if vocabulary.tokens.len() > config.vocab_size {
        let expected = format!("at most {} tokens, the rows of {preset}'s embedding", config.vocab_size);
        return Err(FormatError::invalid(path.display().to_string(), expected, vocabulary.tokens.len()));
    }
    pad(&mut vocabulary, config.vocab_size);
    Ok(as_published(vocabulary, preset))
}

/// The keys for a tokenizer.json, with as many tokens as it has ids.
fn from_tokenizer_json(files: HuggingFaceTokenizer) -> Result<GgufVocabulary, FormatError> {
    let broken = |error: TokenizerError| FormatError::invalid("the tokenizer", "one that rotor can use", error);
    let size = ids_needed(&files.tokenizer).map_err(broken)?;
    let source = TokenizerSource::HuggingFace(Box::new(files));
    let tokenizer = TokenizerDescription::read(&source, size).map_err(broken)?;
    Ok(to_gguf(&tokenizer).accept("a GGUF", false)?.0)
}

/// The published BitNet file does without two keys that go without saying for it, and has scores that mean nothing.
fn as_published(mut vocabulary: GgufVocabulary, preset: Preset) -> GgufVocabulary {
    if preset.family() == Family::BitNet && vocabulary.model == "gpt2" {
        vocabulary.pre = vocabulary.pre.filter(|pre| pre != "llama-bpe");
        vocabulary.scores = vec![0.0; vocabulary.tokens.len()];
    }
    vocabulary
}

/// A vocabulary of `size` tokens for a family.
pub(super) fn made_up(preset: Preset, size: usize) -> GgufVocabulary {
    let family = preset.family();
    let vocabulary = match family {
        Family::BitNet | Family::Llama3 => {
            let plain = size.saturating_sub(LLAMA3_SPECIALS);
            let mut vocabulary = Builder::byte_level();
            vocabulary.bytes().words(plain, ' ');
            let pre = Some("llama-bpe".into());
            llama3(GgufVocabulary { pre, ..vocabulary.0 })
        }
        Family::Falcon3 | Family::FalconE => {
            let mut vocabulary = Builder::byte_level();
            FALCON_SPECIALS.iter().for_each(|text| vocabulary.push(text, token_type::CONTROL));
            vocabulary.bytes().words(size, ' ');
            let (eos, pre) = if family == Family::Falcon3 { (1, "falcon3") } else { (2, "falcon_e") };
            let (bos, eos, pre, add_bos) = (Some(eos), Some(eos), Some(pre.into()), Some(false));
            GgufVocabulary { bos, eos, pre, padding: Some(0), add_bos, ..vocabulary.0 }
        }
        Family::Bonsai | Family::EmbeddingQwen => {
            let mut vocabulary = byte_level_with(&QWEN_SPECIALS, size);
            // A model for texts as a whole ends them with a token of its own.
            let ends = family == Family::EmbeddingQwen;
            (vocabulary.eos, vocabulary.padding) = (Some(if ends { 0 } else { 2 }), Some(0));
            (vocabulary.add_bos, vocabulary.add_eos) = (Some(false), ends.then_some(true));
            GgufVocabulary { pre: Some("qwen2".into()), ..vocabulary }
        }
        Family::HyMt => {
            let vocabulary = byte_level_with(&HUNYUAN_SPECIALS, size);
            let (pre, add_bos) = (Some("hunyuan-dense".into()), Some(false));
            GgufVocabulary { pre, bos: Some(0), eos: Some(3), padding: Some(3), add_bos, ..vocabulary }
        }
        Family::BitCpm => with_chatml(sentencepiece(size)),
        Family::OneBit | Family::EmbeddingGemma => sentencepiece(size),
    };
    as_published(vocabulary, preset)
}

/// Adds the control tokens of Llama 3 behind the ordinary ones, and the ids that go with them.
pub(super) fn llama3(mut vocabulary: GgufVocabulary) -> GgufVocabulary {
    let first = vocabulary.tokens.len() as u32;
    let specials = (0..LLAMA3_SPECIALS).map(|index| llama3_special(index).into_bytes());
    vocabulary.tokens.extend(specials);
    vocabulary.token_types.resize(vocabulary.tokens.len(), token_type::CONTROL);
    vocabulary.add_bos = Some(true);
    GgufVocabulary { bos: Some(first), eos: Some(first + 1), padding: Some(first + 1), ..vocabulary }
}

/// Control tokens, the bytes, and words.
fn byte_level_with(specials: &[&str], size: usize) -> GgufVocabulary {
    let mut vocabulary = Builder::byte_level();
    specials.iter().for_each(|text| vocabulary.push(text, token_type::CONTROL));
    vocabulary.bytes().words(size, ' ');
    vocabulary.0
}

/// The two control tokens of ChatML in place of the last words.
fn with_chatml(mut vocabulary: GgufVocabulary) -> GgufVocabulary {
    let last = vocabulary.tokens.len() - 2;
    for (at, text) in (last - 2..last).zip(["<|im_start|>", "<|im_end|>"]) {
        vocabulary.tokens[at] = text.into();
        (vocabulary.token_types[at], vocabulary.scores[at]) = (token_type::CONTROL, 0.0);
    }
    vocabulary
}

/// The arrangement of Llama 2: three control tokens, 256 bytes, then pieces with a score.
fn sentencepiece(size: usize) -> GgufVocabulary {
    let mut vocabulary = Builder(GgufVocabulary { model: "llama".into(), ..GgufVocabulary::default() });
    vocabulary.push("<unk>", token_type::UNKNOWN);
    vocabulary.push("<s>", token_type::CONTROL);
    vocabulary.push("</s>", token_type::CONTROL);
    for byte in 0..=255u8 {
        vocabulary.push(&format!("<0x{byte:02X}>"), token_type::BYTE);
    }
    vocabulary.push("\u{2581}", token_type::NORMAL);
    ('!'..='~').for_each(|character| vocabulary.push(&character.to_string(), token_type::NORMAL));
    // Two more than a Llama-2 vocabulary: padding, and one that the published files leave unnamed.
    vocabulary.words(size.saturating_sub(2), '\u{2581}');
    let padding = vocabulary.0.tokens.len() as u32;
    vocabulary.push("<pad>", token_type::CONTROL);
    vocabulary.push("<unused>", token_type::UNUSED);
    let scores = vocabulary
        .0
        .token_types
        .iter()
        .enumerate()
        .map(|(id, &kind)| if kind == token_type::NORMAL { -(id as f32) } else { 0.0 });
    GgufVocabulary {
        scores: scores.collect(),
        pre: Some("default".into()),
        bos: Some(1),
        eos: Some(2),
        unknown: Some(0),
        padding: Some(padding),
        add_bos: Some(true),
        add_eos: Some(false),
        ..vocabulary.0
    }
}

struct Builder(GgufVocabulary);

impl Builder {
    fn byte_level() -> Self {
        Self(GgufVocabulary { model: "gpt2".into(), ..GgufVocabulary::default() })
    }

    fn push(&mut self, text: &str, kind: i32) {
        self.0.tokens.push(text.as_bytes().to_vec());
        self.0.token_types.push(kind);
    }

    /// The 256 bytes in the order of Llama 3: those that stand for themselves first.
    fn bytes(&mut self) -> &mut Self {
        let mut characters: Vec<char> = (0..=255).map(byte_to_char).collect();
        characters.sort_unstable();
        characters.iter().for_each(|character| self.push(&character.to_string(), token_type::NORMAL));
        self
    }

    /// Words until there are `size` tokens; `space` is how the vocabulary writes one.
    ///
    /// First come the syllables, then each of them behind a space, then words of two syllables and more. Every one is made
    /// of two that are there already, so that merging leads to all of them.
    fn words(&mut self, size: usize, space: char) -> &mut Self {
        let space = if space == ' ' { byte_to_char(b' ') } else { space }.to_string();
        let syllables = (0..SYLLABLES).map(|index| {
            let syllable = syllable(index);
            let (consonant, vowel) = syllable.split_at(1);
            (consonant.to_owned(), vowel.to_owned())
        });
        let words = (0usize..).map(|index| match index.checked_sub(SYLLABLES) {
            None => (space.clone(), syllable(index)),
            Some(_) => (format!("{space}{}", word(index / SYLLABLES)), syllable(index % SYLLABLES)),
        });
        for (left, right) in syllables.chain(words).take(size.saturating_sub(self.0.tokens.len())) {
            self.push(&format!("{left}{right}"), token_type::NORMAL);
            if self.0.model == "gpt2" {
                self.0.merges.push(format!("{left} {right}").as_bytes());
            }
        }
        self
    }
}

/// A consonant and a vowel.
const SYLLABLES: usize = 100;

fn syllable(index: usize) -> String {
    const CONSONANTS: &[u8; 20] = b"bcdfghjklmnpqrstvwxz";
    const VOWELS: &[u8; 5] = b"aeiou";
    [CONSONANTS[index / 5 % 20], VOWELS[index % 5]].map(char::from).iter().collect()
}

/// The `index`-th word: as many syllables as the number has digits of two decimals.
fn word(index: usize) -> String {
    let before = if index < SYLLABLES { String::new() } else { word(index / SYLLABLES) };
    before + &syllable(index % SYLLABLES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::TokenizerSource;
    use crate::tokenizer::{SpecialTokens, Tokenizer};
    use std::collections::HashSet;

    #[test]
    fn every_family_has_a_vocabulary_that_encodes_any_text() {
        let text = "Grüße, 世界!\n\t\u{1f999}\u{0} end";
        for (preset, size) in [
            (Preset::Tiny, 1024),
            (Preset::Llama3_8B, 2000),
            (Preset::BitnetLarge, 600),
            (Preset::Falcon3_1B, 600),
            (Preset::FalconE1B, 600),
            (Preset::Bonsai8B, 600),
            (Preset::BitCpm0_5B, 600),
            (Preset::HyMt1_8B, 600),
            (Preset::Embedding0_6B, 600),
            (Preset::Embedding270M, 600),
        ] {
            let mut made = made_up(preset, size);
            made.architecture = preset.gguf_architecture().into();
            assert_eq!((made.tokens.len(), made.token_types.len()), (size, size), "{preset}");
            assert_eq!(made.tokens.iter().collect::<HashSet<_>>().len(), size, "{preset}");
            let tokenizer = Tokenizer::new(&TokenizerSource::Gguf(Box::new(made)), size).unwrap();
            let ids = tokenizer.encode(text, SpecialTokens::AsText).unwrap();
            assert_eq!(tokenizer.decode(&ids), text, "{preset}");
            assert!(tokenizer.eos().is_some());
            // Not letter by letter, if there is room for words.
            let ids = tokenizer.encode(" beba", SpecialTokens::AsText).unwrap();
            assert_eq!(tokenizer.token_bytes(*ids.last().unwrap()), Some(&b" beba"[..]), "{preset}");
        }
    }

    #[test]
    fn other_ids_print_as_words() {
        assert_eq!([0, 99, 100, 199, 10_100].map(word), ["ba", "zu", "beba", "bezu", "bebeba"]);
        let made = made_up(Preset::Llama3_8B, 2000);
        assert_eq!([256, 356, 456].map(|id| made.tokens[id].as_slice()), ["ba", "Ġba", "Ġbeba"].map(str::as_bytes));
        assert_eq!(made.tokens[1753], "<|eot_id|>".as_bytes());
        assert_eq!((made.bos, made.eos), (Some(1744), Some(1745)));
    }

    #[test]
    fn the_control_tokens_of_llama_3() {
        assert_eq!(llama3_special(5), "<|reserved_special_token_3|>");
        assert_eq!(llama3_special(8), "<|reserved_special_token_4|>");
        assert_eq!(llama3_special(10), "<|reserved_special_token_5|>");
        assert_eq!(llama3_special(255), "<|reserved_special_token_250|>");
    }
}
