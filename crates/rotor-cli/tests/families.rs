//! Chat templates and stop tokens of the weight-only families, in files constructed after the published ones: what a conversation
//! becomes, and which tokens end an answer.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod common;

use common::gguf::Gguf;
use common::{path_text, rotor, tiny};
use rotor::formats::metadata::{Array, Value};
use serde_json::Value as Json;
use std::fs;
use std::path::Path;

/// The id of a family's first special token, among the control tokens of the model that the files are made of.
const FIRST: u32 = 1000;

/// A family's tokenizer and what is expected of it.
struct Family {
    /// The name of its template in the engine's test data.
    template: &'static str,
    pre: &'static str,
    /// Special tokens, from [`FIRST`] on.
    specials: &'static [&'static str],
    bos: Option<u32>,
    eos: u32,
    /// Which of `specials` end an answer, also without a key that says so.
    ends: &'static [u32],
    /// What a system message "Be brief." and a message "Hi" become.
    prompt: &'static str,
}

const CHATML: &[&str] = &["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const HUNYUAN: &[&str] = &[
    "<｜hy_begin▁of▁sentence｜>",
    "<｜hy_place▁holder▁no▁2｜>",
    "<｜hy_place▁holder▁no▁3｜>",
    "<｜hy_User｜>",
    "<｜hy_Assistant｜>",
];

const FAMILIES: [Family; 4] = [
    Family {
        template: "bonsai",
        pre: "qwen2",
        specials: CHATML,
        bos: None,
        eos: 1002,
        ends: &[1000, 1002],
        prompt: "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    },
    Family {
        template: "bonsai-27b",
        pre: "qwen35",
        specials: CHATML,
        bos: None,
        eos: 1002,
        ends: &[1000, 1002],
        prompt: "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n",
    },
    Family {
        template: "bonsai-2",
        pre: "qwen35",
        specials: CHATML,
        bos: None,
        eos: 1002,
        ends: &[1000, 1002],
        prompt: "<|im_start|>system\nBe brief.\n<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n",
    },
    Family {
        template: "hy-mt",
        pre: "hunyuan-dense",
        specials: HUNYUAN,
        bos: Some(1000),
        eos: 1001,
        ends: &[1001],
        prompt: "<｜hy_begin▁of▁sentence｜>Be brief.<｜hy_place▁holder▁no▁3｜><｜hy_User｜>Hi<｜hy_Assistant｜>",
    },
];

fn template(name: &str) -> String {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rotor-engine/tests/data/templates");
    fs::read_to_string(data.join(format!("{name}.jinja"))).unwrap()
}

fn strings(gguf: &Gguf, key: &str) -> Vec<Vec<u8>> {
    match &gguf.keys.iter().find(|(known, _)| known == key).unwrap().1 {
        Value::Array(Array::String(strings)) => strings.iter().map(<[u8]>::to_vec).collect(),
        other => panic!("{other:?}"),
    }
}

/// A model with the family's template and special tokens, and a byte-level vocabulary.
fn of_family(family: &Family) -> Gguf {
    let mut gguf = Gguf::of(&tiny());
    let mut tokens = strings(&gguf, "tokenizer.ggml.tokens");
    // Ends of the model that the file is made of.
    for (number, end) in [769, 777].into_iter().enumerate() {
        tokens[end] = format!("<|unused_{number}|>").into_bytes();
    }
    for (token, text) in tokens[FIRST as usize..].iter_mut().zip(family.specials) {
        *token = text.as_bytes().to_vec();
    }
    gguf.keys.retain(|(key, _)| !key.ends_with("_token_id") && key != "tokenizer.ggml.add_bos_token");
    let ids = family.bos.map(|id| ("bos", id)).into_iter().chain([("eos", family.eos)]);
    for (name, id) in ids {
        gguf = gguf.set(&format!("tokenizer.ggml.{name}_token_id"), Value::U32(id));
    }
    gguf.text("tokenizer.ggml.pre", family.pre)
        .set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens.into_iter().collect())))
        .text("tokenizer.chat_template", &template(family.template))
}

/// A model with BitCPM's template and kind of vocabulary: pieces of SentencePiece with scores, bytes among them, and one token
/// beside `</s>` that ends an answer.
fn bitcpm() -> Gguf {
    let mut tokens: Vec<Vec<u8>> = ["<unk>", "<s>", "</s>"].map(|text| text.as_bytes().to_vec()).to_vec();
    tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>").into_bytes()));
    tokens.extend(('!'..='~').map(|letter| letter.to_string().into_bytes()));
    tokens.push("▁".as_bytes().to_vec());
    tokens.extend((tokens.len()..1022).map(|at| format!("piece{at}").into_bytes()));
    tokens.extend(["<|im_start|>", "<|im_end|>"].map(|text| text.as_bytes().to_vec()));
    let kind = |at: usize| match at {
        0 => 2,
        1 | 2 | 1022.. => 3,
        3..=258 => 6,
        _ => 1,
    };
    let mut gguf = Gguf::of(&tiny());
    gguf.keys.retain(|(key, _)| !key.starts_with("tokenizer."));
    let types = Array::I32((0..tokens.len()).map(kind).collect());
    let scores = Array::F32((0..tokens.len()).map(|at| -(at as f32)).collect());
    gguf.text("tokenizer.ggml.model", "llama")
        .set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens.into_iter().collect())))
        .set("tokenizer.ggml.token_type", Value::Array(types))
        .set("tokenizer.ggml.scores", Value::Array(scores))
        .set("tokenizer.ggml.bos_token_id", Value::U32(1))
        .set("tokenizer.ggml.eos_token_id", Value::U32(2))
        .text("tokenizer.chat_template", &template("bitcpm"))
}

/// Asks for four tokens, of which the first is `id`; returns the run, and why it ended after how many.
fn forced(model: &str, id: u32) -> (String, String, usize) {
    let bias = format!("{id}=1000");
    let chat = ["run", model, "--chat", "-s", "Be brief.", "-p", "Hi", "-n", "4", "--json", "--show-prompt"];
    let run = rotor(chat.into_iter().chain(["--logit-bias", &bias]));
    assert_eq!(run.code, 0, "{}", run.stderr);
    let told: Json = serde_json::from_str(run.stdout.trim_end()).unwrap();
    let tokens = told["tokens"].as_array().unwrap().len();
    (run.stderr, told["finish_reason"].as_str().unwrap().to_owned(), tokens)
}

/// The tokens of the prompt that stand for one of the texts, in the order in which they are shown.
fn shown_ids(stderr: &str, texts: &[&str]) -> Vec<u32> {
    let lines = stderr.lines().filter_map(|line| line.trim_start().split_once(' '));
    lines.filter(|(_, piece)| texts.contains(piece)).filter_map(|(id, _)| id.parse().ok()).collect()
}

#[test]
fn a_conversation_becomes_the_familys_prompt_and_its_stops_end_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    for family in &FAMILIES {
        let path = of_family(family).write(folder.path(), "m.gguf");
        for (id, text) in (FIRST..).zip(family.specials) {
            let (stderr, reason, tokens) = forced(path_text(&path), id);
            let expected = if family.ends.contains(&id) { ("stop", 1) } else { ("length", 4) };
            assert_eq!((reason.as_str(), tokens), expected, "{}: {text}", family.template);
            assert!(stderr.contains(&format!("\n{}", family.prompt)), "{}: {stderr}", family.template);
            let times = family.prompt.matches(text).count();
            assert_eq!(shown_ids(&stderr, &[text]), vec![id; times], "{}: {text}", family.template);
        }
    }
}

#[test]
fn bitcpm_ends_at_both_of_its_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = bitcpm().write(folder.path(), "m.gguf");
    for (id, expected) in [(2, ("stop", 1)), (1023, ("stop", 1)), (1022, ("length", 4)), (700, ("length", 4))] {
        let (stderr, reason, tokens) = forced(path_text(&path), id);
        assert_eq!((reason.as_str(), tokens), expected, "{id}");
        let prompt =
            "\n<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
        assert!(stderr.contains(prompt), "{stderr}");
        assert_eq!(shown_ids(&stderr, &["<s>", "<|im_start|>", "<|im_end|>"]), [1, 1022, 1023, 1022, 1023, 1022]);
    }
}
