//! The model inside the library answers as transformers does, on every ISA and thread count.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use rotor::demo;
use rotor::engine::{Engine, GenerateOptions};
use rotor::formats::OpenOptions;
use rotor::runtime::Runtime;
use rotor_kernels::attention::KvType;
use rotor_kernels::{Isa, Kernels};
use serde_json::Value;
use std::ops::ControlFlow;

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap().try_into().unwrap()).collect()
}

/// `models/golden.json` holds greedy continuations by transformers in float32. At every step the best token leads the second
/// by more than 2e-2 of the largest logit, so that no rounding decides.
#[test]
fn greedy_continuations_are_those_of_transformers() {
    let golden: Value = serde_json::from_str(include_str!("../../../models/golden.json")).unwrap();
    let golden = golden.as_array().unwrap();
    assert_eq!(golden.len(), 10, "ten prompts");
    let source = demo::open(&OpenOptions::default()).unwrap();
    for kernels in Isa::available().filter_map(Kernels::for_isa) {
        for threads in [1, 2, 3] {
            let runtime = Runtime::with_kernels(kernels, threads);
            let engine = Engine::from_source(&source, &runtime, &mut |_| {}).unwrap();
            let mut session = engine.session(engine.default_context(), KvType::F16);
            for case in golden {
                let (prompt, expected) = (ids(&case["prompt_ids"]), ids(&case["ids"]));
                assert_eq!(expected.len(), 64);
                assert_eq!(engine.encode_prompt(case["prompt"].as_str().unwrap()).unwrap(), prompt);
                let options = GenerateOptions { max_tokens: Some(64), ..GenerateOptions::default() };
                let found =
                    engine.generate(&mut session, &prompt, &options, &mut |_| ControlFlow::Continue(())).unwrap();
                assert_eq!(found.tokens, expected, "{} on {threads} threads: {}", kernels.isa(), case["prompt"]);
            }
        }
    }
}
