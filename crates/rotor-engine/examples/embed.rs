//! Embeds texts and says how alike they are: `cargo run --release --example embed [MODEL] [TEXT...]`
//!
//! A text's embedding is the mean of its tokens' hidden states after the final norm, divided by its length. For a model that
//! was trained for embeddings, take what its card says instead, often the last token's hidden state.

use rotor::KvType;
use rotor::cache::SequenceCache;
use rotor::engine::Engine;
use rotor::formats::{OpenOptions, Source};
use rotor::model::{Step, Wanted, Workspace};
use rotor::runtime::Runtime;
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let source = match arguments.next() {
        Some(path) => Source::open(Path::new(&path), &OpenOptions::default())?,
        None => rotor::demo::open(&OpenOptions::default())?,
    };
    let mut texts: Vec<String> = arguments.collect();
    if texts.is_empty() {
        texts = ["The ship left the harbour.", "A boat sailed out of the port.", "He ate an apple."]
            .map(String::from)
            .into();
    }

    let engine = Engine::from_source(&source, &Runtime::new(0)?, &mut |_| {})?;
    let embeddings = embed(&engine, &texts)?;
    for (text, embedding) in texts.iter().zip(&embeddings) {
        let alike: Vec<String> = embeddings.iter().map(|other| format!("{:.3}", dot(embedding, other))).collect();
        println!("{}  {text}", alike.join(" "));
    }
    Ok(())
}

/// One vector of length 1 for each text, `[texts, hidden]`. All texts are computed together.
fn embed(engine: &Engine, texts: &[String]) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
    let model = engine.model();
    let prompts = texts.iter().map(|text| engine.encode_prompt(text)).collect::<Result<Vec<_>, _>>()?;
    let mut caches: Vec<SequenceCache> =
        prompts.iter().map(|prompt| SequenceCache::new(model.config(), prompt.len(), KvType::F16)).collect();
    let mut steps: Vec<Step<'_>> = prompts
        .iter()
        .zip(&mut caches)
        .map(|(prompt, cache)| Step { cache, tokens: prompt, wanted: Wanted::From(0) })
        .collect();
    let mut workspace = Workspace::new(model.runtime());
    let mut hidden = model.hidden(&mut steps, &mut workspace)?.chunks_exact(model.config().hidden_size);
    Ok(prompts.iter().map(|prompt| normalised_sum(hidden.by_ref().take(prompt.len()))).collect())
}

fn normalised_sum<'a>(rows: impl Iterator<Item = &'a [f32]>) -> Vec<f32> {
    let mut sum: Vec<f32> = Vec::new();
    for row in rows {
        sum.resize(row.len(), 0.0);
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    let length = dot(&sum, &sum).sqrt().max(f32::MIN_POSITIVE);
    sum.iter_mut().for_each(|value| *value /= length);
    sum
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
