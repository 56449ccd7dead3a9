use super::*;
use crate::formats::TokenizerSource;
use crate::tokenizer::{SpecialTokens, Tokenizer};
use crate::write::vocabulary::tiktoken;

/// Bytes, a few words with their merges, and control tokens.
fn byte_level() -> GgufVocabulary {
    let mut tokens: Vec<Vec<u8>> =
        (0..=255u8).map(|byte| crate::tokenizer::byte_to_char(byte).to_string().into_bytes()).collect();
    let words = ["th", "the", "Ġt", "Ġthe", "in", "ing", "<|begin_of_text|>", "<|eot_id|>"];
    tokens.extend(words.iter().map(|word| word.as_bytes().to_vec()));
    let mut token_types = vec![token_type::NORMAL; 262];
    token_types.extend([token_type::CONTROL; 2]);
    GgufVocabulary {
        architecture: "llama".into(),
        model: "gpt2".into(),
        pre: Some("llama-bpe".into()),
        tokens,
        token_types,
        merges: ["t h", "th e", "Ġ t", "Ġ the", "i n", "in g"].map(String::from).to_vec(),
        bos: Some(262),
        eos: Some(263),
        add_bos: Some(true),
        add_eos: Some(false),
        ..GgufVocabulary::default()
    }
}

/// The arrangement of Llama 2 with a few words, scored by the order they are made in.
fn sentencepiece() -> GgufVocabulary {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    let mut token_types = vec![token_type::UNKNOWN, token_type::CONTROL, token_type::CONTROL];
    tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    token_types.resize(259, token_type::BYTE);
    let mut scores = vec![0.0; 259];
    for (rank, word) in ["▁t", "he", "▁the", "in", "ing", "▁", "t", "h", "e", "i", "n", "g"].iter().enumerate() {
        tokens.push((*word).into());
        token_types.push(token_type::NORMAL);
        scores.push(-(rank as f32));
    }
    GgufVocabulary {
        architecture: "bitnet".into(),
        model: "llama".into(),
        pre: Some("default".into()),
        tokens: tokens.into_iter().map(String::into_bytes).collect(),
        scores,
        token_types,
        bos: Some(1),
        eos: Some(2),
        unknown: Some(0),
        add_bos: Some(true),
        add_eos: Some(false),
        add_space_prefix: Some(true),
        ..GgufVocabulary::default()
    }
}

fn from_gguf(vocabulary: &GgufVocabulary) -> Tokenizer {
    let size = vocabulary.tokens.len();
    Tokenizer::new(&TokenizerSource::Gguf(Box::new(vocabulary.clone())), size).unwrap()
}

fn from_folder(vocabulary: &GgufVocabulary) -> Tokenizer {
    let source = TokenizerSource::HuggingFace {
        tokenizer: to_tokenizer_json(vocabulary).unwrap(),
        tokenizer_config: Some(to_tokenizer_config(vocabulary, Some("{{ messages }}")).unwrap()),
        eos_token_ids: Vec::new(),
        bos_token_id: None,
    };
    Tokenizer::new(&source, vocabulary.tokens.len()).unwrap()
}

const TEXTS: [&str; 6] = ["the thing in the", " the", "", "Größe 世界\n\n\tx 1234", "<|eot_id|>", "hethein\u{0}g"];

#[test]
fn a_vocabulary_tokenises_alike_as_gguf_and_as_tokenizer_json() {
    for vocabulary in [byte_level(), sentencepiece()] {
        let (gguf, folder) = (from_gguf(&vocabulary), from_folder(&vocabulary));
        for text in TEXTS {
            let ids = gguf.encode_with_bos(text, SpecialTokens::AsText).unwrap();
            assert_eq!(folder.encode_with_bos(text, SpecialTokens::AsText).unwrap(), ids, "{text:?}");
            assert_eq!(folder.decode(&ids), gguf.decode(&ids), "{text:?}");
        }
        assert_eq!((folder.bos(), folder.eos()), (gguf.bos(), gguf.eos()));
    }
}

#[test]
fn a_vocabulary_comes_back_from_tokenizer_json() {
    for vocabulary in [byte_level(), sentencepiece()] {
        let json = to_tokenizer_json(&vocabulary).unwrap();
        let config = to_tokenizer_config(&vocabulary, None).unwrap();
        let back = from_tokenizer_json(&json, Some(&config)).unwrap();
        let back = GgufVocabulary { architecture: vocabulary.architecture.clone(), ..back };
        assert_eq!(back.tokens, vocabulary.tokens);
        assert_eq!(back.token_types, vocabulary.token_types);
        assert_eq!((&back.pre, &back.model, &back.merges), (&vocabulary.pre, &vocabulary.model, &vocabulary.merges));
        assert_eq!((back.bos, back.eos, back.add_bos), (vocabulary.bos, vocabulary.eos, vocabulary.add_bos));
        for text in TEXTS {
            let ids = from_gguf(&vocabulary).encode(text, SpecialTokens::AsText).unwrap();
            assert_eq!(from_gguf(&back).encode(text, SpecialTokens::AsText).unwrap(), ids, "{text:?}");
        }
    }
}

#[test]
fn without_a_config_the_template_tells_what_surrounds_a_text() {
    let json = to_tokenizer_json(&GgufVocabulary { add_eos: Some(true), ..byte_level() }).unwrap();
    let back = from_tokenizer_json(&json, None).unwrap();
    assert_eq!((back.bos, back.eos), (Some(262), Some(263)));
    assert_eq!((back.add_bos, back.add_eos), (Some(true), Some(true)));
}

#[test]
fn ids_that_nothing_names_are_unused() {
    let mut json: Value = serde_json::from_slice(&to_tokenizer_json(&byte_level()).unwrap()).unwrap();
    json["added_tokens"][1]["id"] = 270.into();
    let back = from_tokenizer_json(json.to_string().as_bytes(), None).unwrap();
    assert_eq!(back.tokens.len(), 271);
    assert_eq!((back.tokens[265].as_slice(), back.token_types[265]), (b"[PAD265]".as_slice(), token_type::UNUSED));
}

#[test]
fn what_gguf_has_no_name_for_is_refused() {
    let json: Value = serde_json::from_slice(&to_tokenizer_json(&byte_level()).unwrap()).unwrap();
    let refused = |change: fn(&mut Value)| {
        let mut json = json.clone();
        change(&mut json);
        from_tokenizer_json(json.to_string().as_bytes(), None).unwrap_err().to_string()
    };
    assert!(refused(|json| json["model"]["type"] = "Unigram".into()).contains("only BPE"));
    assert!(refused(|json| json["pre_tokenizer"] = json!({ "type": "Whitespace" })).contains("an unknown step"));
    let other = |json: &mut Value| json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "x+".into();
    assert!(refused(other).contains("splitting at [\"x+\"]"));
    assert!(refused(|json| json["added_tokens"][0]["id"] = u32::MAX.into()).contains("ids below"));
    assert!(refused(|json| json["model"] = 1.into()).contains("tokenizer.json: expected a tokenizer"));
}

#[test]
fn ranks_become_a_working_tokenizer_json() {
    use base64::Engine as _;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let tokens = (0..=255u8).map(|byte| vec![byte]).chain([b"th".to_vec(), b"the".to_vec(), b" the".to_vec()]);
    let lines: String = tokens.enumerate().map(|(rank, token)| format!("{} {rank}\n", encode(&token))).collect();
    let ranks = tiktoken::parse(lines.as_bytes()).unwrap();
    let vocabulary = GgufVocabulary {
        model: "gpt2".into(),
        pre: Some("llama-bpe".into()),
        tokens: ranks.pieces.into_iter().map(String::into_bytes).collect(),
        merges: ranks.merges,
        ..GgufVocabulary::default()
    };
    let ids = from_folder(&vocabulary).encode("the the", SpecialTokens::AsText).unwrap();
    assert_eq!(ids, [257, 258]);
}
