use super::*;
use crate::formats::{HuggingFaceTokenizer, TokenizerSource};
use crate::tokenizer::{SpecialTokens, Tokenizer};
use proptest::prelude::*;
use serde_json::json;

/// A Llama-2 tokenizer.json in small: SentencePiece written as BPE.
fn llama2() -> Value {
    let vocab = json!({"<unk>": 0, "<s>": 1, "</s>": 2, "<0xC3>": 3, "<0xA9>": 4, "\u{2581}": 5, "h": 6, "i": 7,
        "hi": 8, "\u{2581}hi": 9});
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
            "merges": ["h i", "\u{2581} hi"]},
    })
}

fn open(json: &Value, config: Option<Value>) -> Result<Tokenizer, TokenizerError> {
    let files = HuggingFaceTokenizer {
        tokenizer: serde_json::to_vec(json).unwrap(),
        tokenizer_config: config.map(|config| serde_json::to_vec(&config).unwrap()),
        eos_token_ids: vec![2],
        bos_token_id: Some(1),
        ..HuggingFaceTokenizer::default()
    };
    Tokenizer::new(&TokenizerSource::HuggingFace(Box::new(files)), 10)
}

fn refusal(json: &Value) -> String {
    open(json, None).unwrap_err().to_string()
}

#[test]
fn a_llama2_tokenizer_works_as_in_the_library() {
    let tokenizer = open(&llama2(), None).unwrap();
    let library = tokenizers::Tokenizer::from_bytes(serde_json::to_vec(&llama2()).unwrap()).unwrap();
    for text in ["hi", "hi hi", "  hihé", "é", ""] {
        let ids = tokenizer.encode_with_bos(text, SpecialTokens::Parse).unwrap();
        let untruncated = library.clone().with_truncation(None).unwrap().encode(text, true).unwrap();
        assert_eq!(ids, untruncated.get_ids(), "{text:?}");
        assert_eq!(tokenizer.decode(&ids), library.decode(&ids, true).unwrap(), "{text:?}");
    }
    assert_eq!(tokenizer.encode("hi hié", SpecialTokens::Parse).unwrap(), [9, 9, 3, 4]);
}

/// The library indexes out of bounds for both; found by the mutations below.
#[test]
fn templates_name_what_they_define() {
    let mut json = llama2();
    json["post_processor"]["single"][0]["SpecialToken"]["id"] = "<x>".into();
    assert!(refusal(&json).contains("special tokens that it defines"), "{}", refusal(&json));
    let mut json = llama2();
    json["post_processor"]["single"][1]["Sequence"]["id"] = "B".into();
    assert!(refusal(&json).contains("one text, A"), "{}", refusal(&json));
    let mut json = llama2();
    json["post_processor"]["special_tokens"] = json!({"<other>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}});
    assert!(refusal(&json).contains("special tokens that it defines"), "{}", refusal(&json));
}

/// The same vocabulary behind every other normaliser, pre-tokenizer and post-processor that is let through.
#[test]
fn every_known_part_works_as_in_the_library() {
    let prepend = json!({"type": "Prepend", "prepend": "\u{2581}"});
    let split = |kind: &str| json!({"type": "Sequence", "pretokenizers": [{"type": kind}]});
    let metaspace =
        |scheme: &str| json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": true});
    let template = llama2()["post_processor"].clone();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
    let variants = [
        ("normalizer", json!({"type": "NFC"})),
        ("normalizer", json!({"type": "Lowercase"})),
        ("normalizer", json!({"type": "NFD"})),
        ("normalizer", json!({"type": "NFKC"})),
        ("normalizer", json!({"type": "Sequence", "normalizers": [{"type": "NFKD"}, prepend]})),
        ("normalizer", json!({"type": "Strip", "strip_left": true, "strip_right": true})),
        ("pre_tokenizer", split("Whitespace")),
        ("pre_tokenizer", split("WhitespaceSplit")),
        ("pre_tokenizer", json!({"type": "Punctuation", "behavior": "Isolated"})),
        ("pre_tokenizer", json!({"type": "Digits", "individual_digits": true})),
        ("pre_tokenizer", metaspace("always")),
        ("pre_tokenizer", metaspace("first")),
        ("pre_tokenizer", metaspace("never")),
        ("post_processor", json!({"type": "Sequence", "processors": [byte_level, template]})),
    ];
    for (part, value) in variants {
        let mut json = llama2();
        json["truncation"] = Value::Null;
        json[part] = value.clone();
        let tokenizer = open(&json, None).unwrap();
        let library = tokenizers::Tokenizer::from_bytes(serde_json::to_vec(&json).unwrap()).unwrap();
        for text in ["hi hi", " hi</s> hi</s>hi", "\u{ff48}i e\u{301}, hi! 12 ", "hi\n\thi"] {
            let ids = tokenizer.encode_with_bos(text, SpecialTokens::Parse).unwrap();
            assert_eq!(ids, library.encode(text, true).unwrap().get_ids(), "{value} {text:?}");
        }
    }
}

#[test]
fn the_configuration_decides_about_the_first_and_last_token() {
    let ids = |config| {
        let tokenizer = open(&llama2(), Some(config)).unwrap();
        tokenizer.encode_with_bos("hi", SpecialTokens::Parse).unwrap()
    };
    assert_eq!(ids(json!({})), [1, 9]);
    assert_eq!(ids(json!({"add_bos_token": false, "bos_token": "<s>"})), [9]);
    assert_eq!(ids(json!({"add_bos_token": true, "add_eos_token": true, "eos_token": {"content": "</s>"}})), [1, 9, 2]);
    let tokenizer = open(&llama2(), Some(json!({"bos_token": "<bos>"}))).unwrap();
    let warning = "bos_token of tokenizer_config.json is \"<bos>\", which is no token: it is left out";
    assert_eq!((tokenizer.warnings(), tokenizer.bos()), ([warning.to_owned()].as_slice(), Some(1)));
}

/// A prompt is to go on: an end-of-sequence token after it would end it.
#[test]
fn a_prompt_is_not_ended() {
    let config = json!({"add_bos_token": true, "add_eos_token": true, "eos_token": "</s>"});
    let tokenizer = open(&llama2(), Some(config)).unwrap();
    assert_eq!(tokenizer.encode_prompt("hi").unwrap(), [1, 9]);
    assert_eq!(tokenizer.encode_with_bos("hi", SpecialTokens::AsText).unwrap(), [1, 9, 2]);
}

#[test]
fn null_says_that_there_is_no_such_token() {
    let tokenizer = open(&llama2(), Some(json!({"bos_token": null, "eos_token": null}))).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (None, None));
    // What is put in front of a text and what ends one are other questions.
    assert_eq!(tokenizer.encode_with_bos("hi", SpecialTokens::Parse).unwrap(), [1, 9]);
    assert_eq!(tokenizer.end_of_generation(), [2]);
}

#[test]
fn special_tokens_map_fills_in() {
    let files = HuggingFaceTokenizer {
        tokenizer: serde_json::to_vec(&llama2()).unwrap(),
        tokenizer_config: Some(br#"{"eos_token": "</s>"}"#.to_vec()),
        special_tokens_map: Some(br#"{"eos_token": "<s>", "pad_token": {"content": "<unk>"}}"#.to_vec()),
        ..HuggingFaceTokenizer::default()
    };
    let description = read(&files, 10).unwrap();
    assert_eq!((description.bos(), description.eos(), description.padding()), (Some(1), Some(2), Some(0)));
}

/// Else a user's text could end the turn, or nothing would.
#[test]
fn what_ends_a_turn_is_a_control_token() {
    let mut json = llama2();
    json["added_tokens"].as_array_mut().unwrap().push(json!({"id": 9, "content": "<|im_end|>", "special": false}));
    json["model"]["merges"] = json!(["h i"]);
    let tokenizer = open(&json, None).unwrap();
    assert_eq!((tokenizer.control_token("<|im_end|>"), tokenizer.end_of_generation()), (Some(9), [2, 9].as_slice()));
    assert!(!tokenizer.encode("<|im_end|>", SpecialTokens::AsText).unwrap().contains(&9));
}

#[test]
fn merges_may_be_empty_but_not_absent() {
    let mut json = llama2();
    json["model"]["merges"] = json!([]);
    assert_eq!(open(&json, None).unwrap().encode("hi", SpecialTokens::AsText).unwrap(), [5, 6, 7]);
    json["model"].as_object_mut().unwrap().remove("merges");
    assert_eq!(refusal(&json), "merges of tokenizer.json: expected a list, which may be empty, found none");
}

#[test]
fn ids_without_a_row_are_named() {
    let mut json = llama2();
    json["model"]["vocab"]["x"] = json!(10);
    let expected = "tokenizer.json: expected ids below 10, the rows of the embedding, found 10 for \"x\"";
    assert_eq!(refusal(&json), expected);
}

#[test]
fn unknown_parts_are_named() {
    let with = |pointer: &str, value: Value| {
        let mut json = llama2();
        *json.pointer_mut(pointer).unwrap() = value;
        refusal(&json)
    };
    assert!(with("/model", json!({"type": "Unigram", "vocab": []})).starts_with("tokenizer model \"Unigram\" is not"));
    assert!(with("/normalizer", json!({"type": "Precompiled"})).starts_with("normalizer \"Precompiled\" is not"));
    assert!(with("/pre_tokenizer", json!({"type": "UnicodeScripts"})).starts_with("pre-tokenizer \"UnicodeScripts\""));
    assert!(with("/decoder", json!({"type": "WordPiece"})).starts_with("decoder \"WordPiece\" is not"));
    assert!(with("/model/dropout", json!(0.1)).starts_with("tokenizer option \"dropout\" is not"));
    assert!(with("/model/continuing_subword_prefix", json!("##")).starts_with("tokenizer option"));
    assert!(with("/model/merges", json!(["h \u{2581}hi"])).starts_with("merges[0]: expected"));
    assert!(with("/model/vocab", json!(7)).starts_with("tokenizer.json: expected a tokenizer as Hugging Face"));
    assert!(with("/added_tokens/0", json!(7)).starts_with("tokenizer.json: expected a tokenizer as Hugging Face"));
    let bad = json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false});
    assert!(with("/pre_tokenizer", bad).starts_with("cannot use the pre-tokenizer: "));
}

proptest! {
    #[test]
    fn no_mutation_panics(at in any::<proptest::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(), text in "[hi \u{e9}<s>]{0,8}") {
        let mut bytes = serde_json::to_vec(&llama2()).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(if cut { at } else { bytes.len() });
        let files = HuggingFaceTokenizer { tokenizer: bytes, ..HuggingFaceTokenizer::default() };
        let source = TokenizerSource::HuggingFace(Box::new(files));
        if let Ok(tokenizer) = Tokenizer::new(&source, 10) {
            let _ = tokenizer.encode_with_bos(&text, SpecialTokens::Parse).map(|ids| tokenizer.decode(&ids));
        }
    }
}
