//! The tokenizers of published models. Each test needs a file, named by an environment variable, and says so when it is
//! skipped.

use crate::reference::{Bpe, alphabet, pieces, to_alphabet};
use crate::text::Generator;
use crate::{agrees, build};
use rotor::chat::{ChatTemplate, Message, encode_chat};
use rotor::formats::{GgufVocabulary, HuggingFaceTokenizer, OpenOptions, Source, TokenizerSource};
use rotor::tokenizer::{SpecialTokens, Tokenizer, TokenizerDescription};
use rotor::write::vocabulary::gguf::to_gguf;
use rotor::write::vocabulary::hugging_face::to_hugging_face;
use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

/// The file that `variable` names, or a word on stderr, past the test harness's capture, that `test` did not run.
fn file(variable: &str, test: &str, what: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        let message = format!("SKIPPED {test}: set {variable} to {what}\n");
        std::io::stderr().write_all(message.as_bytes()).unwrap();
    }
    path
}

#[test]
fn smollm2_agrees_with_the_plain_implementation() {
    let test = "smollm2_agrees_with_the_plain_implementation";
    let Some(path) = file("ROTOR_SMOLLM2", test, "the GGUF of SmolLM2-135M-Instruct") else { return };
    let source = Source::open(&path, &OpenOptions::default()).unwrap();
    let Some(TokenizerSource::Gguf(vocabulary)) = source.tokenizer().unwrap() else { panic!("no vocabulary") };
    let bpe = plain_bpe(&vocabulary);
    let missing: Vec<u8> = (0..=255).filter(|&byte| !bpe.ids.contains_key(&[byte][..])).collect();
    goes_there_and_back(&vocabulary);
    let tokenizer = build(*vocabulary);
    let mut generator = Generator::new(6);
    for _ in 0..4000 {
        let line = generator.line();
        let ids = tokenizer.encode(&line, SpecialTokens::AsText).unwrap();
        assert_eq!(ids, bpe.encode(&pieces("smollm", &line)), "{line:?}");
        // Bytes the vocabulary lacks are lost; everything else comes back.
        if !line.bytes().any(|byte| missing.contains(&byte)) {
            assert_eq!(tokenizer.decode(&ids), line);
        }
    }
    assert_eq!(tokenizer.encode("<|im_end|>", SpecialTokens::Parse).unwrap(), [2]);
    assert!(tokenizer.end_of_generation().contains(&2));

    let template = ChatTemplate::for_model(source.chat_template().unwrap().as_deref(), &tokenizer).unwrap().unwrap();
    let ids = encode_chat(&tokenizer, &template, &(&[Message::new("user", "Hi<|im_end|>")]).into()).unwrap();
    let control: Vec<u32> = ids.iter().copied().filter(|&id| tokenizer.is_special(id)).collect();
    assert_eq!(control, [1, 2, 1, 2, 1], "system and user turns, and the beginning of the answer");
    assert!(tokenizer.decode(&ids).ends_with("user\nHi<|im_end|>\nassistant\n"));
}

/// As a folder and back as a GGUF the vocabulary is the same tokenizer, for the library's own loader too.
fn goes_there_and_back(vocabulary: &GgufVocabulary) {
    let rows = vocabulary.tokens.len();
    let read = |source| TokenizerDescription::read(&source, rows).unwrap();
    let first = read(TokenizerSource::Gguf(Box::new(vocabulary.clone())));
    let (files, notes) = to_hugging_face(&first, None).unwrap().accept("a folder", false).unwrap();
    assert_eq!(notes, [""; 0]);
    let library = tokenizers::Tokenizer::from_bytes(&files.tokenizer).unwrap();
    let folder = read(TokenizerSource::HuggingFace(Box::new(HuggingFaceTokenizer {
        tokenizer: files.tokenizer,
        tokenizer_config: Some(files.tokenizer_config),
        eos_token_ids: first.ends(),
        bos_token_id: first.bos(),
        ..HuggingFaceTokenizer::default()
    })));
    assert_eq!(first.differences(&folder), []);
    let (keys, _) = to_gguf(&folder).accept("a GGUF", false).unwrap();
    let back = read(TokenizerSource::Gguf(Box::new(keys)));
    assert_eq!(first.differences(&back), []);
    let [first, folder, back] = [first, folder, back].map(|each| Tokenizer::from_description(&each).unwrap());
    let mut generator = Generator::new(7);
    for _ in 0..1000 {
        let line = format!("{}<|im_end|>{}<|eot_id|>", generator.line(), generator.line());
        let ids = first.encode_with_bos(&line, SpecialTokens::Parse).unwrap();
        assert_eq!(folder.encode_with_bos(&line, SpecialTokens::Parse).unwrap(), ids, "{line:?}");
        assert_eq!(back.encode_with_bos(&line, SpecialTokens::Parse).unwrap(), ids, "{line:?}");
        assert_eq!(library.encode_fast(line.as_str(), true).unwrap().get_ids(), ids, "{line:?}");
    }
}

/// The plain implementation with the vocabulary of a GGUF.
fn plain_bpe(vocabulary: &GgufVocabulary) -> Bpe {
    let bytes_of: HashMap<char, u8> = alphabet().into_iter().zip(0..=255).collect();
    let raw = |text: &str| text.chars().map(|character| bytes_of[&character]).collect::<Vec<u8>>();
    let mut bpe = Bpe::default();
    for (id, (token, &token_type)) in (0..).zip(vocabulary.tokens.iter().zip(&vocabulary.token_types)) {
        if token_type == 1 {
            bpe.ids.insert(raw(std::str::from_utf8(token).unwrap()), id);
        }
    }
    for (rank, merge) in vocabulary.merges.iter().enumerate() {
        let (left, right) = std::str::from_utf8(merge).unwrap().split_once(' ').unwrap();
        bpe.ranks.insert((raw(left), raw(right)), rank);
    }
    bpe
}

#[test]
fn llama3_ranks_give_the_known_ids() {
    let test = "llama3_ranks_give_the_known_ids";
    let Some(path) = file("ROTOR_LLAMA3_RANKS", test, "Llama 3's tokenizer.model") else { return };
    let (ranks, vocabulary) = llama3(&std::fs::read_to_string(path).unwrap());
    assert_eq!(vocabulary.merges.len(), 280_147);
    goes_there_and_back(&vocabulary);
    let tokenizer = build(vocabulary);
    for (text, ids) in LLAMA3_VECTORS {
        assert_eq!(tokenizer.encode(text, SpecialTokens::Parse).unwrap(), *ids, "{text:?}");
    }
    assert_eq!(tokenizer.encode("<|eot_id|>", SpecialTokens::AsText).unwrap(), [27, 91, 68, 354, 851, 91, 29]);
    assert_eq!(tokenizer.end_of_generation(), [128_001, 128_009]);
    let template = ChatTemplate::for_model(Some("BITNETAssistant: "), &tokenizer).unwrap().unwrap();
    let question = [Message::new("user", "What is 2+2?")];
    assert_eq!(
        encode_chat(&tokenizer, &template, &(&question).into()).unwrap(),
        [128_000, 1502, 25, 3639, 374, 220, 17, 10, 17, 30, 128_009, 72803, 25, 220]
    );
    agrees(
        &tokenizer,
        |line| pieces("llama-bpe", line).iter().flat_map(|piece| tiktoken(&ranks, piece)).collect(),
        4000,
    );
}

/// The neighbours whose concatenation has the lowest rank merge, until none has one.
fn tiktoken(ranks: &HashMap<Vec<u8>, u32>, piece: &str) -> Vec<u32> {
    if let Some(&rank) = ranks.get(piece.as_bytes()) {
        return vec![rank];
    }
    let mut symbols: Vec<Vec<u8>> = piece.bytes().map(|byte| vec![byte]).collect();
    loop {
        let rank = |at: usize| ranks.get(&[symbols[at].as_slice(), &symbols[at + 1]].concat()).copied();
        let Some((_, at)) = (0..symbols.len() - 1).filter_map(|at| Some((rank(at)?, at))).min() else { break };
        let right = symbols.remove(at + 1);
        symbols[at].extend(right);
    }
    symbols.iter().map(|symbol| ranks[symbol]).collect()
}

/// The vocabulary of BitNet-b1.58-2B-4T from Llama 3's ranks.
fn llama3(file: &str) -> (HashMap<Vec<u8>, u32>, GgufVocabulary) {
    let lines = file.lines().filter_map(|line| line.split_once(' '));
    let ranks: HashMap<Vec<u8>, u32> = lines.map(|(token, rank)| (base64(token), rank.parse().unwrap())).collect();
    let mut by_rank = vec![Vec::new(); ranks.len()];
    ranks.iter().for_each(|(token, &rank)| by_rank[rank as usize] = token.clone());
    let mut merges: Vec<String> = Vec::new();
    for token in &by_rank {
        let mut splits: Vec<(u32, u32, usize)> = (1..token.len())
            .filter_map(|at| Some((*ranks.get(&token[..at])?, *ranks.get(&token[at..])?, at)))
            .collect();
        splits.sort_unstable();
        merges.extend(
            splits.iter().map(|&(_, _, at)| format!("{} {}", to_alphabet(&token[..at]), to_alphabet(&token[at..]))),
        );
    }
    let mut tokens: Vec<Vec<u8>> = by_rank.iter().map(|token| to_alphabet(token).into_bytes()).collect();
    let named = [(0, "begin_of_text"), (1, "end_of_text"), (6, "start_header_id"), (7, "end_header_id"), (9, "eot_id")];
    let special = |index: usize| match named.iter().find(|(at, _)| *at == index) {
        Some((_, name)) => format!("<|{name}|>"),
        None => format!("<|reserved_{index}|>"),
    };
    tokens.extend((0..256).map(|index| special(index).into_bytes()));
    let token_types = (0..tokens.len()).map(|id| if id < 128_000 { 1 } else { 3 }).collect();
    let vocabulary = GgufVocabulary {
        architecture: "bitnet-b1.58".to_owned(),
        model: "gpt2".to_owned(),
        tokens,
        token_types,
        merges: merges.into_iter().collect(),
        bos: Some(128_000),
        eos: Some(128_001),
        ..GgufVocabulary::default()
    };
    (ranks, vocabulary)
}

fn base64(text: &str) -> Vec<u8> {
    let value = |symbol: u8| match symbol {
        b'A'..=b'Z' => symbol - b'A',
        b'a'..=b'z' => symbol - b'a' + 26,
        b'0'..=b'9' => symbol - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let symbols: Vec<u8> = text.bytes().filter(|&symbol| symbol != b'=').map(value).collect();
    let group = |four: &[u8]| {
        let bits = four.iter().fold(0u32, |bits, &six| bits << 6 | u32::from(six)) << (6 * (4 - four.len()));
        bits.to_be_bytes()[1..four.len()].to_vec()
    };
    symbols.chunks(4).flat_map(group).collect()
}

const LLAMA3_VECTORS: &[(&str, &[u32])] = &[
    ("Hello world!", &[9906, 1917, 0]),
    ("Hello, my name is", &[9906, 11, 856, 836, 374]),
    ("The capital of France is", &[791, 6864, 315, 9822, 374]),
    ("What is the capital of France?", &[3923, 374, 279, 6864, 315, 9822, 30]),
    ("Hello, world! I'm 21 years old.", &[9906, 11, 1917, 0, 358, 2846, 220, 1691, 1667, 2362, 13]),
    (" I'm 1234567 I'LL", &[358, 2846, 220, 4513, 10961, 22, 358, 6, 4178]),
    ("1234567890", &[4513, 10961, 16474, 15]),
    ("  a\n\n b\t\n", &[220, 264, 271, 293, 1602]),
    (" \n  y", &[720, 220, 379]),
    ("Hello\n\n\nWorld", &[9906, 1432, 10343]),
    ("def f(x):\n    return x", &[755, 282, 2120, 997, 262, 471, 865]),
    ("naïve café", &[3458, 38672, 588, 53050]),
    ("İstanbul ñ 🦙", &[120447, 1717, 109, 11410, 99, 247]),
    ("\u{a0}x", &[4194, 87]),
    ("ＡＢＣ１２３", &[116531, 124944, 117812, 20713, 25963, 34617]),
    ("٣٤٥٦", &[117413, 124079, 124043, 149, 99]),
    ("User: ", &[1502, 25, 220]),
    ("Assistant: ", &[72803, 25, 220]),
    ("System: ", &[2374, 25, 220]),
    ("<|eot_id|>", &[128_009]),
    (
        "System: You are a helpful assistant<|eot_id|>User: Hello<|eot_id|>Assistant: ",
        &[2374, 25, 1472, 527, 264, 11190, 18328, 128_009, 1502, 25, 22691, 128_009, 72803, 25, 220],
    ),
];
