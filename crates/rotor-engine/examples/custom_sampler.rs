//! Chooses tokens by a rule of one's own, from the logits of each step:
//! `cargo run --release --example custom_sampler [MODEL] [PROMPT]`
//!
//! The rule here: the likeliest token that is not among the last 24, so that nothing is repeated soon.

use rotor::KvType;
use rotor::cache::SequenceCache;
use rotor::engine::Engine;
use rotor::formats::{OpenOptions, Source};
use rotor::model::{Step, Wanted, Workspace};
use rotor::runtime::Runtime;
use std::error::Error;
use std::path::Path;

const TOKENS: usize = 64;
const NOT_AGAIN_WITHIN: usize = 24;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let source = match arguments.next() {
        Some(path) => Source::open(Path::new(&path), &OpenOptions::default())?,
        None => rotor::demo::open(&OpenOptions::default())?,
    };
    let prompt = arguments.next().unwrap_or_else(|| "Once upon a time".into());

    // Everything below the engine's own loop is public too: a model, a sequence's cache, the numbers in flight.
    let engine = Engine::from_source(&source, &Runtime::new(0)?, &mut |_| {})?;
    let model = engine.model();
    let mut tokens = engine.encode_prompt(&prompt)?;
    let mut cache = SequenceCache::new(model.config(), tokens.len() + TOKENS, KvType::F16);
    let mut workspace = Workspace::new(model.runtime());

    let mut computed = 0;
    for _ in 0..TOKENS {
        let step = Step { cache: &mut cache, tokens: &tokens[computed..], wanted: Wanted::Last };
        let logits = model.forward(&mut [step], &mut workspace)?;
        computed = tokens.len();
        tokens.push(choose(logits, &tokens));
    }
    println!("{}", engine.tokenizer("the text")?.decode(&tokens));
    Ok(())
}

/// The likeliest token that did not occur lately. `logits` has one number for each token of the vocabulary.
fn choose(logits: &[f32], tokens: &[u32]) -> u32 {
    let recent = &tokens[tokens.len().saturating_sub(NOT_AGAIN_WITHIN)..];
    let ids = (0..).zip(logits).filter(|(id, _)| !recent.contains(id));
    ids.max_by(|(_, a), (_, b)| a.total_cmp(b)).map_or(0, |(id, _)| id)
}
