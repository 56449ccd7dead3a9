//! Opens a model and completes a text: `cargo run --release --example load_and_generate [MODEL] [PROMPT]`
//!
//! MODEL is a GGUF file, a safetensors file or a Hugging Face folder; without one, it is the model inside the library.

use rotor::KvType;
use rotor::engine::{Engine, GenerateOptions};
use rotor::formats::{OpenOptions, Source};
use rotor::runtime::Runtime;
use std::error::Error;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let source = match arguments.next() {
        Some(path) => Source::open(Path::new(&path), &OpenOptions::default())?,
        None => rotor::demo::open(&OpenOptions::default())?,
    };
    let prompt = arguments.next().unwrap_or_else(|| "Once upon a time".into());

    // The best kernels of this CPU, on one thread per core.
    let engine = Engine::from_source(&source, &Runtime::new(0)?, &mut |_| {})?;
    let mut session = engine.session(engine.default_context(), KvType::F16);
    let tokens = engine.encode_prompt(&prompt)?;
    let options = GenerateOptions { max_tokens: Some(64), ..GenerateOptions::default() };

    print!("{prompt}");
    let generation = engine.generate(&mut session, &tokens, &options, &mut |piece| {
        print!("{piece}");
        // Whole characters, as they come; breaking off ends the generation.
        if std::io::stdout().flush().is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    println!();
    eprintln!("{} tokens, ended by {:?}", generation.tokens.len(), generation.finish_reason);
    Ok(())
}
