//! Input made to break what reads it, beside the files of `src/formats/hostile_tests.rs`: templates, texts and numbers. Each test is
//! named after a way in which some engine was broken.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use rotor::chat::{ChatTemplate, Message};
use rotor::demo;
use rotor::engine::{Engine, GenerateError, GenerateOptions};
use rotor::formats::OpenOptions;
use rotor::runtime::Runtime;
use rotor::sample::SamplingOptions;
use rotor::tokenizer::{MAX_TEXT_BYTES, SpecialTokens};
use rotor_kernels::attention::KvType;
use std::ops::ControlFlow;

fn engine() -> Engine {
    let source = demo::open(&OpenOptions::default()).unwrap();
    Engine::from_source(&source, &Runtime::new(1).unwrap(), &mut |_| {}).unwrap()
}

/// A template is a program from a stranger: it reaches the messages and nothing else.
#[test]
fn templates_reach_nothing_but_the_messages_cve_2024_34359() {
    let messages = [Message::new("user", "x")];
    for source in [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ self.__init__.__globals__['os'].popen('id').read() }}",
        "{{ cycler.__init__.__globals__.os.system('id') }}",
        "{{ lipsum.__globals__['__builtins__']['__import__']('os') }}",
        "{{ messages[0].content.format.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as f %}",
        "{% extends '/etc/passwd' %}",
    ] {
        let rendered = ChatTemplate::new(source, None, None).and_then(|template| template.render(&(&messages).into()));
        assert!(rendered.is_err(), "{source} gave {rendered:?}");
    }
    for source in ["{{ config }}", "{{ request }}", "{{ environ }}", "{{ ''.__class__ }}", "{{ messages.__class__ }}"] {
        let rendered = ChatTemplate::new(source, None, None).unwrap().render(&(&messages).into()).unwrap();
        assert_eq!(rendered, "", "{source}");
    }
}

/// There the length of a text was compared as a signed number; here it has a limit that fits every type.
#[test]
fn texts_beyond_the_limit_cve_2025_52566() {
    let engine = engine();
    let tokenizer = engine.tokenizer("text").unwrap();
    let mut text = "ab ".repeat(MAX_TEXT_BYTES / 3 + 1);
    assert!(text.len() > MAX_TEXT_BYTES && MAX_TEXT_BYTES < i32::MAX as usize);
    for special in [SpecialTokens::AsText, SpecialTokens::Parse] {
        let error = tokenizer.encode(&text, special).unwrap_err().to_string();
        assert!(error.contains("16777216 are taken at once"), "{error}");
    }
    text.truncate(3000);
    let prompt = tokenizer.encode(&text, SpecialTokens::AsText).unwrap();
    // Room for fewer tokens than the prompt has: an error, not a prompt cut short.
    let mut session = engine.session(prompt.len() / 2, KvType::F16);
    let options = GenerateOptions::default();
    assert!(engine.generate(&mut session, &prompt, &options, &mut |_| ControlFlow::Continue(())).is_err());
}

/// Numbers that a request brings along, which were used as lengths and indices without a look at them.
#[test]
fn numbers_out_of_range_cve_2026_21869_and_llama_cpp_24017() {
    let engine = engine();
    let with = |edit: fn(&mut SamplingOptions)| {
        let mut options = GenerateOptions { max_tokens: Some(1), ..GenerateOptions::default() };
        edit(&mut options.sampling);
        let mut session = engine.session(16, KvType::F16);
        engine.generate(&mut session, &[1, 2], &options, &mut |_| ControlFlow::Continue(()))
    };
    let refused: [fn(&mut SamplingOptions); 10] = [
        |options| options.temperature = -1.0,
        |options| options.temperature = f32::NAN,
        |options| options.top_p = 1.5,
        |options| options.min_p = f32::NEG_INFINITY,
        |options| options.repeat_penalty = 0.0,
        |options| options.presence_penalty = f32::INFINITY,
        |options| options.frequency_penalty = -1e9,
        |options| options.logit_bias = vec![(u32::MAX, 1.0)],
        |options| options.logit_bias = vec![(0, f32::NAN)],
        |options| options.logit_bias = vec![(0, f32::INFINITY)],
    ];
    for (at, edit) in refused.into_iter().enumerate() {
        assert!(matches!(with(edit), Err(GenerateError::Sampling(_))), "case {at}");
    }
    let accepted: [fn(&mut SamplingOptions); 2] =
        [|options| options.top_k = usize::MAX, |options| options.repeat_last_n = usize::MAX];
    for edit in accepted {
        assert_eq!(with(edit).unwrap().tokens.len(), 1);
    }
    // A context that no machine has room for takes nothing until it is used.
    let mut session = engine.session(usize::MAX, KvType::F16);
    let short = GenerateOptions { max_tokens: Some(3), ignore_eos: true, ..GenerateOptions::default() };
    let found = engine.generate(&mut session, &[1, 2], &short, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(found.tokens.len(), 3);
    let mut session = engine.session(16, KvType::F16);
    let options = GenerateOptions { max_tokens: Some(usize::MAX), ignore_eos: true, ..GenerateOptions::default() };
    let found = engine.generate(&mut session, &[1, 2], &options, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(found.tokens.len() <= 16, "the context ends it");
    for id in [u32::MAX, 1 << 20] {
        assert!(engine.generate(&mut session, &[id], &options, &mut |_| ControlFlow::Continue(())).is_err());
    }
}
