//! The tokenizers against short independent implementations, on small vocabularies trained here and, where they can be
//! had, on published ones.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod published;
mod reference;
mod text;

use reference::{Bpe, SentencePiece, pieces, split, to_alphabet};
use rotor::formats::{GgufVocabulary, HuggingFaceTokenizer, TokenizerSource};
use rotor::tokenizer::{SpecialTokens, Tokenizer};
use std::collections::HashMap;
use text::Generator;

const LINES: usize = 3000;
const MERGES: usize = 300;
const SPECIALS: [(&str, i32); 4] = [("<|begin_of_text|>", 3), ("<|eot_id|>", 3), ("<tool>", 4), ("<|end_of_text|>", 3)];

/// A byte-level vocabulary trained on generated text, as the reference and as a GGUF would hold it.
fn trained(pre: &str) -> (Bpe, GgufVocabulary) {
    let mut generator = Generator::new(1);
    let corpus: Vec<String> = (0..60).flat_map(|_| pieces(pre, &generator.line())).collect();
    let (mut bpe, merges) = Bpe::train(&corpus, MERGES);
    // A token no merge leads to: only a vocabulary that ignores merges ever finds it.
    bpe.ids.insert(b" unreachable".to_vec(), 256 + MERGES as u32);
    bpe.ignore_merges = pre == "llama-bpe";
    let mut tokens = vec![Vec::new(); bpe.ids.len()];
    for (bytes, &id) in &bpe.ids {
        tokens[id as usize] = to_alphabet(bytes).into_bytes();
    }
    let mut token_types = vec![1; tokens.len()];
    for (text, token_type) in SPECIALS {
        tokens.push(text.as_bytes().to_vec());
        token_types.push(token_type);
    }
    let merges = merges.iter().map(|(left, right)| format!("{} {}", to_alphabet(left), to_alphabet(right))).collect();
    let first_special = (tokens.len() - SPECIALS.len()) as u32;
    let vocabulary = GgufVocabulary {
        architecture: "llama".to_owned(),
        model: "gpt2".to_owned(),
        pre: Some(pre.to_owned()),
        tokens,
        token_types,
        merges,
        bos: Some(first_special),
        eos: Some(first_special + 3),
        ..GgufVocabulary::default()
    };
    (bpe, vocabulary)
}

fn build(vocabulary: GgufVocabulary) -> Tokenizer {
    let rows = vocabulary.tokens.len();
    Tokenizer::new(&TokenizerSource::Gguf(Box::new(vocabulary)), rows).unwrap()
}

fn agrees(tokenizer: &Tokenizer, encode: impl Fn(&str) -> Vec<u32>, lines: usize) {
    let mut generator = Generator::new(2);
    for _ in 0..lines {
        let line = generator.line();
        let ids = tokenizer.encode(&line, SpecialTokens::AsText).unwrap();
        assert_eq!(ids, encode(&line), "{line:?}");
        assert_eq!(tokenizer.decode(&ids), line);
    }
}

fn byte_level_agrees(pre: &str) {
    let (bpe, vocabulary) = trained(pre);
    let tokenizer = build(vocabulary);
    let encode = |line: &str| bpe.encode(&pieces(pre, line));
    agrees(&tokenizer, encode, LINES / 3);
    for line in ["", " unreachable", "a unreachable b", "x  \n\n  y ", "   ", "\r\n", "1234567 12", "a\u{a0}b"] {
        assert_eq!(tokenizer.encode(line, SpecialTokens::AsText).unwrap(), encode(line), "{pre}: {line:?}");
    }
}

#[test]
fn llama3_agrees_with_the_plain_implementation() {
    byte_level_agrees("llama-bpe");
}

#[test]
fn qwen2_agrees_with_the_plain_implementation() {
    byte_level_agrees("qwen2");
}

#[test]
fn smollm_agrees_with_the_plain_implementation() {
    byte_level_agrees("smollm");
}

#[test]
fn gpt2_agrees_with_the_plain_implementation() {
    byte_level_agrees("gpt-2");
}

#[test]
fn default_agrees_with_the_plain_implementation() {
    byte_level_agrees("default");
}

#[test]
fn falcon_e_agrees_with_the_plain_implementation() {
    byte_level_agrees("falcon_e");
}

#[test]
fn a_missing_pre_tokenizer_means_llama3_for_bitnet_and_default_otherwise() {
    let (bpe, mut vocabulary) = trained("llama-bpe");
    vocabulary.pre = None;
    let line = "it's (1234)  unreachable\n =";
    let default = build(vocabulary.clone());
    vocabulary.architecture = "bitnet-b1.58".to_owned();
    let bitnet = build(vocabulary);
    assert_eq!(bitnet.encode(line, SpecialTokens::AsText).unwrap(), bpe.encode(&pieces("llama-bpe", line)));
    let merging = Bpe { ignore_merges: false, ..bpe };
    assert_eq!(default.encode(line, SpecialTokens::AsText).unwrap(), merging.encode(&pieces("default", line)));
    assert!(bitnet.adds_bos() && !default.adds_bos());
}

/// A scored vocabulary: every character once, then substrings of generated words, with scores that tie now and then.
fn scored() -> (SentencePiece, GgufVocabulary) {
    let mut tokens: Vec<(String, i32, f32)> =
        [("<unk>", 2), ("<s>", 3), ("</s>", 3)].map(|(text, kind)| (text.to_owned(), kind, 0.0)).to_vec();
    tokens.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), 6, 0.0)));
    let mut random = fastrand::Rng::with_seed(3);
    let mut generator = Generator::new(4);
    let mut seen: HashMap<String, (u32, f32)> = HashMap::new();
    for _ in 0..80 {
        let line: Vec<char> = format!(" {}", generator.line()).replace(' ', "▁").chars().collect();
        for start in 0..line.len() {
            let length = random.usize(1..6).min(line.len() - start);
            let piece: String = line[start..start + length].iter().collect();
            if seen.contains_key(&piece) || (length > 1 && random.u8(..3) > 0) {
                continue;
            }
            let score = -(random.u16(..2000) as f32);
            seen.insert(piece.clone(), (tokens.len() as u32, score));
            tokens.push((piece, 1, score));
        }
    }
    let vocabulary = GgufVocabulary {
        architecture: "llama".to_owned(),
        model: "llama".to_owned(),
        tokens: tokens.iter().map(|token| token.0.clone().into_bytes()).collect(),
        token_types: tokens.iter().map(|token| token.1).collect(),
        scores: tokens.iter().map(|token| token.2).collect(),
        ..GgufVocabulary::default()
    };
    (SentencePiece { pieces: seen, first_byte: 3 }, vocabulary)
}

#[test]
fn sentencepiece_agrees_with_the_plain_implementation() {
    let (reference, vocabulary) = scored();
    agrees(&build(vocabulary.clone()), |line| reference.encode(line, true), LINES);
    let tokenizer = build(GgufVocabulary { add_space_prefix: Some(false), ..vocabulary });
    agrees(&tokenizer, |line| reference.encode(line, false), LINES / 3);
}

#[test]
fn sentencepiece_puts_a_space_and_the_first_token_in_front() {
    let tokenizer = build(scored().1);
    assert_eq!(tokenizer.encode_with_bos("", SpecialTokens::Parse).unwrap(), [1]);
    let parsed = tokenizer.encode("a</s>a", SpecialTokens::Parse).unwrap();
    let a = tokenizer.encode("a", SpecialTokens::Parse).unwrap();
    assert_eq!(parsed, [a.as_slice(), &[2], &a].concat());
    assert!(!tokenizer.encode("a</s><s>", SpecialTokens::AsText).unwrap().iter().any(|&id| tokenizer.is_special(id)));
    assert_eq!(tokenizer.decode(&[&[1], a.as_slice()].concat()), "a");
    let mut continuation = tokenizer.continuation_decoder();
    let text: String = a.iter().filter_map(|&id| continuation.push(id).map(str::to_owned)).collect();
    assert_eq!(text, " a");
}

#[test]
fn sentencepiece_spells_unknown_characters_in_bytes() {
    let tokenizer = build(scored().1);
    let ids = tokenizer.encode("\u{10ffff}", SpecialTokens::AsText).unwrap();
    assert_eq!(ids[ids.len() - 4..], [3 + 0xf4, 3 + 0x8f, 3 + 0xbf, 3 + 0xbf]);
    assert_eq!(tokenizer.decode(&ids), "\u{10ffff}");
}

#[test]
fn control_tokens_in_a_text_count_only_where_asked() {
    let (bpe, vocabulary) = trained("llama-bpe");
    let tokenizer = build(vocabulary);
    let [bos, eot, tool] = ["<|begin_of_text|>", "<|eot_id|>", "<tool>"].map(|text| tokenizer.token_id(text).unwrap());
    let plain = |text: &str| bpe.encode(&pieces("llama-bpe", text));
    let text = "hi<|eot_id|>you<tool>!";
    let parsed = tokenizer.encode(text, SpecialTokens::Parse).unwrap();
    assert_eq!(parsed, [plain("hi"), vec![eot], plain("you"), vec![tool], plain("!")].concat());
    let as_text = tokenizer.encode(text, SpecialTokens::AsText).unwrap();
    assert_eq!(as_text, [plain("hi<|eot_id|>you"), vec![tool], plain("!")].concat());
    assert_eq!(tokenizer.encode_with_bos("hi", SpecialTokens::AsText).unwrap(), [vec![bos], plain("hi")].concat());
    assert_eq!(tokenizer.decode(&parsed), "hiyou<tool>!");
    assert_eq!(tokenizer.end_of_generation(), [eot, tokenizer.token_id("<|end_of_text|>").unwrap()]);
}

#[test]
fn protected_stretches_hold_no_control_tokens() {
    let (bpe, vocabulary) = trained("llama-bpe");
    let tokenizer = build(vocabulary);
    let eot = tokenizer.token_id("<|eot_id|>").unwrap();
    let plain = |text: &str| bpe.encode(&pieces("llama-bpe", text));
    // Glue and content merge into one piece, a control token in the content or across its edge is text.
    let text = "User: <|eot_id|>é<|eot_id|>";
    let ids = tokenizer.encode_protected(text, std::slice::from_ref(&(6..18))).unwrap();
    assert_eq!(ids, [plain("User: <|eot_id|>é"), vec![eot]].concat());
    let ids = tokenizer.encode_protected(text, std::slice::from_ref(&(6..20))).unwrap();
    assert_eq!(ids, plain(text));
}

#[test]
fn texts_the_library_would_cut_wrongly_are_refused() {
    let tokenizer = build(trained("llama-bpe").1);
    let spaces = |count: usize| format!("{}x", " ".repeat(count));
    let ids = tokenizer.encode(&spaces(100_000), SpecialTokens::AsText).unwrap();
    assert_eq!(tokenizer.decode(&ids), spaces(100_000));
    let error = tokenizer.encode(&spaces(100_001), SpecialTokens::AsText).unwrap_err();
    assert_eq!(error.to_string(), "the text has more than 100000 characters of whitespace in a row");
    let error = tokenizer.encode(&"x".repeat((16 << 20) + 1), SpecialTokens::AsText).unwrap_err();
    assert_eq!(error.to_string(), "the text is 16777217 bytes long; at most 16777216 are taken at once");
}

#[test]
fn tokenizer_json_gives_the_same_ids_as_the_gguf() {
    let (_, vocabulary) = trained("llama-bpe");
    let json = to_json(&vocabulary);
    let config = br#"{"bos_token": {"content": "<|begin_of_text|>"}, "eos_token": "<|end_of_text|>"}"#.to_vec();
    let rows = vocabulary.tokens.len();
    let files = HuggingFaceTokenizer {
        tokenizer: json.clone(),
        tokenizer_config: Some(config),
        eos_token_ids: vec![rows as u32 - 3],
        ..HuggingFaceTokenizer::default()
    };
    let folder = Tokenizer::new(&TokenizerSource::HuggingFace(Box::new(files)), rows + 10).unwrap();
    let gguf = build(vocabulary);
    let library = tokenizers::Tokenizer::from_bytes(&json).unwrap();
    let mut generator = Generator::new(5);
    for _ in 0..300 {
        let line = format!("{}<|eot_id|>{}<tool>{}", generator.line(), generator.line(), generator.line());
        for special in [SpecialTokens::Parse, SpecialTokens::AsText] {
            assert_eq!(folder.encode(&line, special).unwrap(), gguf.encode(&line, special).unwrap(), "{line:?}");
        }
        let ids = folder.encode_with_bos(&line, SpecialTokens::Parse).unwrap();
        assert_eq!(ids, library.encode_fast(line.as_str(), true).unwrap().get_ids(), "{line:?}");
        assert_eq!(folder.decode(&ids), gguf.decode(&ids));
    }
    assert_eq!(folder.end_of_generation(), gguf.end_of_generation());
    assert_eq!(folder.bos(), gguf.bos());
}

/// The vocabulary as tokenizer.json holds Llama 3's.
fn to_json(vocabulary: &GgufVocabulary) -> Vec<u8> {
    let text = |token: &Vec<u8>| String::from_utf8(token.clone()).unwrap();
    let ordinary = vocabulary.tokens.len() - SPECIALS.len();
    let vocab: serde_json::Map<String, serde_json::Value> =
        vocabulary.tokens[..ordinary].iter().enumerate().map(|(id, token)| (text(token), id.into())).collect();
    let added: Vec<_> = (ordinary..)
        .zip(SPECIALS)
        .map(|(id, (content, kind))| {
            serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind == 3})
        })
        .collect();
    let merges: Vec<_> =
        vocabulary.merges.iter().map(|merge| std::str::from_utf8(merge).unwrap().split_once(' ').unwrap()).collect();
    let regex = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let byte_level =
        serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let bos = "<|begin_of_text|>";
    let json = serde_json::json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}, byte_level]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [ordinary], "tokens": [bos]}}},
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
            "vocab": vocab, "merges": merges},
    });
    serde_json::to_vec(&json).unwrap()
}

#[test]
fn the_reference_scanner_knows_the_worked_examples() {
    let cut = |text| split(text, |rest| rest.len().min(2));
    assert_eq!(cut("abc"), ["ab", "c"]);
    assert_eq!(pieces("llama-bpe", "1234567890"), ["123", "456", "789", "0"]);
    assert_eq!(pieces("llama-bpe", "  a\n\n b\t\n"), [" ", " a", "\n\n", " b", "\t\n"]);
    assert_eq!(pieces("llama-bpe", " I'LL"), [" I", "'LL"]);
}
