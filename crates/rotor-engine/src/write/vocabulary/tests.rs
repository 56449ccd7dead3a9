//! Tokenizers there and back: whatever is not refused by name gives the same ids.

use super::gguf::to_gguf;
use super::hugging_face::to_hugging_face;
use super::*;
use crate::formats::{HuggingFaceTokenizer, TokenizerSource};
use crate::tokenizer::{SpecialTokens, Tokenizer, TokenizerDescription, byte_to_char};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

/// Bytes, a few words with their merges, and control tokens.
fn byte_level() -> GgufVocabulary {
    let mut tokens: Vec<Vec<u8>> = (0..=255u8).map(|byte| byte_to_char(byte).to_string().into_bytes()).collect();
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
        merges: ["t h", "th e", "Ġ t", "Ġ the", "i n", "in g"].into_iter().collect(),
        bos: Some(262),
        eos: Some(263),
        add_bos: Some(true),
        add_eos: Some(false),
        ..GgufVocabulary::default()
    }
}

/// The arrangement of Llama 2 with a few words, scored by the order they are made in.
fn sentencepiece() -> GgufVocabulary {
    scored(&["▁t", "he", "▁the", "in", "ing", "▁", "t", "h", "e", "i", "n", "g"].map(String::from), |rank| {
        -(rank as f32)
    })
}

/// Three control tokens, 256 bytes, and these pieces.
fn scored(pieces: &[String], score: impl Fn(usize) -> f32) -> GgufVocabulary {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    let mut token_types = vec![token_type::UNKNOWN, token_type::CONTROL, token_type::CONTROL];
    tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    token_types.resize(259, token_type::BYTE);
    let mut scores = vec![0.0; 259];
    for (rank, piece) in pieces.iter().enumerate() {
        tokens.push(piece.clone());
        token_types.push(token_type::NORMAL);
        scores.push(score(rank));
    }
    GgufVocabulary {
        architecture: "bitnet".into(),
        model: "llama".into(),
        pre: Some("default".into()),
        tokens: tokens.into_iter().map(String::into_bytes).collect(),
        scores,
        token_types,
        ..GgufVocabulary::default()
    }
}

fn describe(keys: &GgufVocabulary) -> TokenizerDescription {
    TokenizerDescription::read(&TokenizerSource::Gguf(Box::new(keys.clone())), keys.tokens.len()).unwrap()
}

fn describe_json(tokenizer: &Json, rows: usize) -> TokenizerDescription {
    let files =
        HuggingFaceTokenizer { tokenizer: tokenizer.to_string().into_bytes(), ..HuggingFaceTokenizer::default() };
    TokenizerDescription::read(&TokenizerSource::HuggingFace(Box::new(files)), rows).unwrap()
}

/// Written as a folder and read again; `Err` for what a folder cannot hold.
fn through_folder(tokenizer: &TokenizerDescription) -> Result<TokenizerDescription, String> {
    let written = to_hugging_face(tokenizer, Some("{{ messages }}")).unwrap();
    let (files, _) = written.accept("a folder", false).map_err(|error| error.to_string())?;
    let generation: Json = serde_json::from_slice(&files.generation_config).unwrap();
    let id = |value: &Json| value.as_u64().map(|id| id as u32);
    let source = HuggingFaceTokenizer {
        tokenizer: files.tokenizer,
        tokenizer_config: Some(files.tokenizer_config),
        eos_token_ids: generation["eos_token_id"].as_array().into_iter().flatten().filter_map(id).collect(),
        bos_token_id: id(&generation["bos_token_id"]),
        ..HuggingFaceTokenizer::default()
    };
    let rows = tokenizer.vocabulary.len();
    Ok(TokenizerDescription::read(&TokenizerSource::HuggingFace(Box::new(source)), rows).unwrap())
}

/// Written as the keys of a GGUF and read again; `Err` for what they cannot hold.
fn through_gguf(tokenizer: &TokenizerDescription) -> Result<TokenizerDescription, String> {
    let (keys, _) = to_gguf(tokenizer).accept("a GGUF", false).map_err(|error| error.to_string())?;
    Ok(describe(&keys))
}

/// Two tokenizers give the same ids, and the same text for them.
fn agree(first: &TokenizerDescription, second: &TokenizerDescription, texts: &[&str]) {
    assert_eq!(first.differences(second), []);
    let [first, second] = [first, second].map(|tokenizer| Tokenizer::from_description(tokenizer).unwrap());
    for (text, special) in texts.iter().flat_map(|text| [(text, SpecialTokens::AsText), (text, SpecialTokens::Parse)]) {
        let ids = first.encode_with_bos(text, special).unwrap();
        assert_eq!(second.encode_with_bos(text, special).unwrap(), ids, "{text:?}");
        assert_eq!(second.decode(&ids), first.decode(&ids), "{text:?}");
    }
    assert_eq!(first.end_of_generation(), second.end_of_generation());
}

const TEXTS: [&str; 7] =
    ["the thing in the", " the", "", "Größe 世界\n\n\tx 1234", "<|eot_id|>in<s>g", "hethein\u{0}g", "  the   thing "];

#[test]
fn a_vocabulary_goes_there_and_back() {
    for keys in [byte_level(), sentencepiece()] {
        let tokenizer = describe(&keys);
        let folder = through_folder(&tokenizer).unwrap();
        agree(&tokenizer, &folder, &TEXTS);
        agree(&tokenizer, &through_gguf(&folder).unwrap(), &TEXTS);
        agree(&tokenizer, &through_gguf(&tokenizer).unwrap(), &TEXTS);
        let (again, _) = to_gguf(&folder).accept("a GGUF", false).unwrap();
        assert_eq!((&again.tokens, &again.token_types), (&keys.tokens, &keys.token_types));
        assert!(again.merges.iter().eq(keys.merges.iter()));
        assert_eq!((again.pre, again.model), (keys.pre, keys.model));
    }
}

/// The library's own loader, which transformers uses, reads what is written.
#[test]
fn the_library_reads_a_written_folder() {
    for keys in [byte_level(), sentencepiece()] {
        let tokenizer = describe(&keys);
        let files = to_hugging_face(&tokenizer, None).unwrap().value;
        let library = tokenizers::Tokenizer::from_bytes(&files.tokenizer).unwrap();
        let ours = Tokenizer::from_description(&tokenizer).unwrap();
        for text in TEXTS {
            let ids = ours.encode_with_bos(text, SpecialTokens::Parse).unwrap();
            assert_eq!(library.encode(text, true).unwrap().get_ids(), ids, "{text:?}");
            assert_eq!(library.decode(&ids, true).unwrap(), ours.decode(&ids), "{text:?}");
        }
    }
}

/// A GGUF may leave to its reader what a folder has to say.
#[test]
fn defaults_are_written_out() {
    let keys = GgufVocabulary { add_bos: None, add_eos: None, ..byte_level() };
    let folder = through_folder(&describe(&keys)).unwrap();
    assert_eq!((folder.prefix.as_slice(), folder.bos), ([262].as_slice(), Some(262)));
    // Of a SentencePiece vocabulary nearly everything goes without saying.
    let folder = through_folder(&describe(&sentencepiece())).unwrap();
    assert_eq!((folder.prefix, folder.bos, folder.eos, folder.unknown), (vec![1], Some(1), Some(2), Some(0)));
    // What ends a turn is a control token, whatever it is typed as; without types everything that looks like one is.
    for token_types in [vec![token_type::NORMAL; 264], vec![token_type::USER_DEFINED; 264], Vec::new()] {
        let keys = GgufVocabulary { token_types, merges: ["t h"].into_iter().collect(), ..byte_level() };
        let tokenizer = describe(&keys);
        for described in [through_folder(&tokenizer).unwrap(), through_gguf(&tokenizer).unwrap()] {
            let tokenizer = Tokenizer::from_description(&described).unwrap();
            assert_eq!(tokenizer.control_token("<|eot_id|>"), Some(263));
            assert!(!tokenizer.encode("<|eot_id|>", SpecialTokens::AsText).unwrap().contains(&263));
        }
    }
}

#[test]
fn every_end_is_kept() {
    let keys = GgufVocabulary { ends: vec![256, 257, 258], ..byte_level() };
    let tokenizer = describe(&keys);
    assert_eq!(tokenizer.ends(), [263, 256, 257, 258]);
    assert_eq!(through_gguf(&through_folder(&tokenizer).unwrap()).unwrap().ends, [256, 257, 258, 263]);
}

fn byte_level_json() -> Json {
    let files = to_hugging_face(&describe(&byte_level()), None).unwrap().value;
    serde_json::from_slice(&files.tokenizer).unwrap()
}

#[test]
fn what_gguf_cannot_hold_is_named() {
    let refused = |change: &dyn Fn(&mut Json)| {
        let mut json = byte_level_json();
        change(&mut json);
        let written = to_gguf(&describe_json(&json, 264));
        let left_out = written.clone().accept("a GGUF", true).unwrap().1;
        assert!(left_out.iter().all(|note| note.starts_with("left out of the tokenizer: ")), "{left_out:?}");
        written.accept("a GGUF", false).unwrap_err().to_string()
    };
    for kind in ["NFC", "Lowercase"] {
        let error = refused(&|json| json["normalizer"] = json!({ "type": kind }));
        let expected = format!("it has no place for the normalizer {{\"type\":\"{kind}\"}}");
        assert!(error.contains(&expected), "{error}");
    }
    let strip = json!({ "type": "Strip", "strip_left": true, "strip_right": false });
    assert!(refused(&|json| json["normalizer"] = strip.clone()).contains("the normalizer"));
    let cut = |json: &mut Json| json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "x+".into();
    assert!(refused(&cut).contains("the pre-tokenizer"), "{}", refused(&cut));
    let two = |json: &mut Json| {
        json["post_processor"]["special_tokens"]["<|begin_of_text|>"]["ids"] = json!([262, 256]);
    };
    assert!(
        refused(&two).contains("the tokens [\"<|begin_of_text|>\", \"th\"] before every text"),
        "{}",
        refused(&two)
    );
    let strips = |json: &mut Json| json["added_tokens"][0]["rstrip"] = true.into();
    assert!(refused(&strips).contains("how \"<|begin_of_text|>\" treats the text around it"));
}

/// A name for the same cuts without that option makes no difference where merging leads to every token.
#[test]
fn whole_pieces_matter_only_where_merging_leads_elsewhere() {
    let mut json = byte_level_json();
    json["model"]["ignore_merges"] = false.into();
    let (keys, _) = to_gguf(&describe_json(&json, 264)).accept("a GGUF", false).unwrap();
    assert_eq!(keys.pre.as_deref(), Some("smaug-bpe"));
    let qwen2 = GgufVocabulary { pre: Some("qwen2".into()), ..byte_level() };
    let files = to_hugging_face(&describe(&qwen2), None).unwrap().value;
    let mut json: Json = serde_json::from_slice(&files.tokenizer).unwrap();
    json["model"]["ignore_merges"] = true.into();
    assert_eq!(to_gguf(&describe_json(&json, 264)).accept("a GGUF", false).unwrap().0.pre.as_deref(), Some("qwen2"));
    json["model"]["merges"].as_array_mut().unwrap().pop();
    let error = to_gguf(&describe_json(&json, 264)).accept("a GGUF", false).unwrap_err().to_string();
    assert!(error.contains("that ignore_merges is true"), "{error}");
}

#[test]
fn what_a_folder_cannot_hold_is_named() {
    let refused = |keys: &GgufVocabulary| through_folder(&describe(keys)).unwrap_err();
    let with = |id: usize, text: &[u8]| {
        let mut keys = byte_level();
        keys.tokens[id] = text.to_vec();
        keys.merges = ["t h"].into_iter().collect();
        keys
    };
    assert!(refused(&with(261, b"\xff")).contains("token 261, \"\\xff\", which is not UTF-8"));
    assert!(refused(&with(261, b"th")).contains("token 261, which has the text \"th\" of token 256"));
    let tied = scored(&["ab", "bc", "a", "b", "c"].map(String::from), |_| -1.0);
    assert!(refused(&tied).contains("scores that are equal, as of \"ab\" and \"bc\""), "{}", refused(&tied));
    // Equals that never meet are no loss.
    let apart = scored(&["ab", "cd", "a", "b", "c", "d"].map(String::from), |_| -1.0);
    agree(&describe(&apart), &through_folder(&describe(&apart)).unwrap(), &["abcd cdab"]);
}

#[test]
fn merges_that_no_scores_stand_for_are_named() {
    let files = to_hugging_face(&describe(&sentencepiece()), None).unwrap().value;
    let json: Json = serde_json::from_slice(&files.tokenizer).unwrap();
    let refused = |change: &dyn Fn(&mut Json)| {
        let mut json = json.clone();
        change(&mut json);
        to_gguf(&describe_json(&json, 271)).accept("a GGUF", false).unwrap_err().to_string()
    };
    let fewer = |json: &mut Json| _ = json["model"]["merges"].as_array_mut().unwrap().pop();
    assert!(refused(&fewer).contains("the order of the merges, which no scores give"), "{}", refused(&fewer));
    let metaspace = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false });
    assert!(refused(&|json| json["pre_tokenizer"] = metaspace.clone()).contains("the pre-tokenizer"));
    assert!(refused(&|json| json["normalizer"]["normalizers"][0] = json!({ "type": "NFKC" })).contains("NFKC"));
    assert!(refused(&|json| json["model"]["byte_fallback"] = false.into()).contains("without a token"));
}

#[test]
fn a_token_without_a_row_is_left_out_with_a_note() {
    let mut json = byte_level_json();
    json["added_tokens"][1]["id"] = 270.into();
    json["model"]["vocab"].as_object_mut().unwrap().remove("<|eot_id|>");
    let (keys, notes) = to_gguf(&describe_json(&json, 265)).accept("a GGUF", false).unwrap();
    assert_eq!(notes, ["token 270, \"<|eot_id|>\", has no row in the embedding and is left out"]);
    assert_eq!(keys.tokens.len(), 265);
    assert_eq!((keys.tokens[264].as_slice(), keys.token_types[264]), (b"[PAD264]".as_slice(), token_type::UNUSED));
    assert_eq!(through_folder(&describe_json(&json, 265)).unwrap().beyond.len(), 1);
}

#[test]
fn ranks_become_a_working_tokenizer_json() {
    use base64::Engine as _;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let tokens = (0..=255u8).map(|byte| vec![byte]).chain([b"th".to_vec(), b"the".to_vec(), b" the".to_vec()]);
    let lines: String = tokens.enumerate().map(|(rank, token)| format!("{} {rank}\n", encode(&token))).collect();
    let ranks = tiktoken::parse(lines.as_bytes()).unwrap();
    let keys = GgufVocabulary {
        model: "gpt2".into(),
        pre: Some("llama-bpe".into()),
        tokens: ranks.pieces.into_iter().map(String::into_bytes).collect(),
        merges: ranks.merges.iter().collect(),
        ..GgufVocabulary::default()
    };
    let folder = Tokenizer::from_description(&through_folder(&describe(&keys)).unwrap()).unwrap();
    assert_eq!(folder.encode("the the", SpecialTokens::AsText).unwrap(), [257, 258]);
}

/// Byte-level vocabularies: any merges in any order, any pre-tokenizer, special tokens of any type.
fn any_byte_level() -> impl Strategy<Value = GgufVocabulary> {
    let pres = crate::tokenizer::RULES.iter().map(|rule| rule.names[0]).collect::<Vec<_>>();
    let merges = proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..30);
    let types = proptest::collection::vec(prop_oneof![Just(3), Just(3), Just(4), Just(1), Just(5)], 3);
    (prop::sample::select(pres), merges, types, any::<[Option<bool>; 2]>(), any::<[Option<u8>; 3]>()).prop_map(
        |(pre, merges, types, flags, ids)| {
            let mut pieces: Vec<String> =
                "abcde Ġ12.é".replace(' ', "").chars().map(|c| byte_to_char(c as u8).to_string()).collect();
            pieces.push("Ġ".into());
            pieces.sort();
            pieces.dedup();
            let mut written = vec!["a b".to_owned()];
            pieces.push("ab".into());
            for (left, right) in merges {
                let (left, right) = (left.get(&pieces).clone(), right.get(&pieces).clone());
                let made = format!("{left}{right}");
                if made.len() < 12 && !pieces.contains(&made) {
                    written.push(format!("{left} {right}"));
                    pieces.push(made);
                }
            }
            let mut token_types = vec![1; pieces.len()];
            pieces.extend(["<x>", "<|y|>", "<|im_end|>"].map(String::from));
            token_types.extend(types);
            let id = |id: Option<u8>| id.map(|id| u32::from(id) % pieces.len() as u32);
            GgufVocabulary {
                model: "gpt2".into(),
                pre: Some(pre.into()),
                bos: id(ids[0]),
                eos: id(ids[1]),
                eot: id(ids[2]),
                add_bos: flags[0],
                add_eos: flags[1],
                tokens: pieces.into_iter().map(String::into_bytes).collect(),
                token_types,
                merges: written.into_iter().collect(),
                ..GgufVocabulary::default()
            }
        },
    )
}

/// SentencePiece vocabularies over a few characters, so that pieces overlap in every way; scores that tie now and then.
fn any_scored() -> impl Strategy<Value = GgufVocabulary> {
    let pieces = proptest::collection::btree_map("[ab\u{2581}]{2,5}", 0u16..200, 0..25);
    (pieces, any::<Option<bool>>(), any::<[Option<bool>; 2]>()).prop_map(|(pieces, add_space_prefix, flags)| {
        let (mut texts, mut scores): (Vec<String>, Vec<u16>) = pieces.into_iter().unzip();
        texts.extend(["a", "b", "\u{2581}"].map(String::from));
        scores.extend([900, 901, 902]);
        let keys = scored(&texts, |rank| -f32::from(scores[rank]));
        GgufVocabulary { add_space_prefix, add_bos: flags[0], add_eos: flags[1], ..keys }
    })
}

/// tokenizer.json with any steps in front of the merging.
fn any_json() -> impl Strategy<Value = Json> {
    let normalizers = [
        Json::Null,
        json!({ "type": "NFC" }),
        json!({ "type": "Lowercase" }),
        json!({ "type": "Strip", "strip_left": true, "strip_right": true }),
        json!({ "type": "Sequence", "normalizers": [{ "type": "Replace", "pattern": { "String": "b" }, "content": "a" }] }),
    ];
    let gpt2 = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let pre_tokenizers = [
        gpt2.clone(),
        json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true }),
        json!({ "type": "Sequence", "pretokenizers": [{ "type": "Digits", "individual_digits": true }, gpt2] }),
        json!({ "type": "Sequence", "pretokenizers": [{ "type": "Punctuation", "behavior": "Contiguous" }, gpt2] }),
    ];
    let parts = (prop::sample::select(normalizers.to_vec()), prop::sample::select(pre_tokenizers.to_vec()));
    (any_byte_level(), parts, any::<bool>(), any::<bool>()).prop_map(|(keys, parts, whole, strips)| {
        let written = to_hugging_face(&describe(&keys), None).unwrap().value;
        let mut json: Json = serde_json::from_slice(&written.tokenizer).unwrap();
        (json["normalizer"], json["pre_tokenizer"]) = parts;
        json["model"]["ignore_merges"] = whole.into();
        if let Some(token) = json["added_tokens"].get_mut(0) {
            token["lstrip"] = strips.into();
        }
        json
    })
}

const MIXED: &str = "[abc de12.éE\u{301}\u{2581} \n<x>|y]{0,30}|( ?(<x>|<\\|y\\|>|<\\|im_end\\|>|<s>|ab| |aba)){0,8}";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_vocabulary_of_a_gguf_goes_there_and_back(keys in prop_oneof![any_byte_level(), any_scored()], text in MIXED) {
        let tokenizer = describe(&keys);
        agree(&tokenizer, &through_gguf(&tokenizer).unwrap(), &[&text]);
        match through_folder(&tokenizer) {
            Err(error) => prop_assert!(error.contains("scores that are equal"), "{}", error),
            Ok(folder) => {
                agree(&tokenizer, &folder, &[&text]);
                agree(&tokenizer, &through_gguf(&folder).unwrap(), &[&text]);
            }
        }
    }

    #[test]
    fn any_tokenizer_json_goes_there_and_back(json in any_json(), text in MIXED) {
        let tokenizer = describe_json(&json, 64);
        agree(&tokenizer, &through_folder(&tokenizer).unwrap(), &[&text]);
        // What is no loss goes through a GGUF; what is one was named.
        if let Ok(gguf) = through_gguf(&tokenizer) {
            agree(&tokenizer, &gguf, &[&text]);
            agree(&tokenizer, &through_folder(&gguf).unwrap(), &[&text]);
        }
    }
}
