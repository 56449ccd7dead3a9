//! A single text, completed or answered.

use super::{Args, Run, Totals, options, shown};
use crate::interrupt::{self, Catch};
use crate::outcome::{INTERRUPTED, StdoutError};
use crate::terminal::{message, print, print_json};
use crate::units::finite;
use rotor::chat::Message;
use rotor::engine::{FinishReason, Generation};
use serde_json::json;
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::process::ExitCode;

pub(super) fn execute(mut run: Run, args: &Args, text: &str) -> anyhow::Result<ExitCode> {
    let prompt = prompt(&mut run, args, text)?;
    let sampling = &mut run.options.sampling;
    let seed = *sampling.seed.get_or_insert_with(options::random_seed);
    let catch = Catch::once();
    let mut printer = Printer::new(!args.json);
    let generation = run.engine.generate(&mut run.session, &prompt, &run.options, &mut |piece| printer.take(piece));
    drop(catch);
    let text = printer.finish()?;
    let generation = generation?;
    if args.json {
        print_json(&json!({
            "text": text,
            "tokens": generation.tokens,
            "finish_reason": finish_reason(generation.finish_reason),
            "seed": seed,
            "timings": timings(&run, &generation),
        }))?;
    }
    report(&generation, run.session.context());
    let cancelled = generation.finish_reason == FinishReason::Cancelled;
    Ok(if cancelled { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// The ids of the text, or of the chat it begins.
fn prompt(run: &mut Run, args: &Args, text: &str) -> anyhow::Result<Vec<u32>> {
    if !args.chat && args.system.is_none() {
        return Ok(run.engine.encode_prompt(text)?);
    }
    let system = args.system.as_ref().map(|system| Message::new("system", system));
    // The newline that ends a piped message is the pipe's, not the person's.
    let user = Message::new("user", text.strip_suffix('\n').unwrap_or(text));
    let messages: Vec<Message> = system.into_iter().chain([user]).collect();
    let prompt = run.engine.encode_chat(&messages)?;
    run.options.trim_start = run.engine.chat_template().is_some_and(|template| template.trims_answer());
    Ok(prompt)
}

/// Prints text as it comes, and keeps it.
struct Printer {
    text: String,
    prints: bool,
    on_terminal: bool,
    failed: Option<StdoutError>,
}

impl Printer {
    fn new(prints: bool) -> Self {
        let on_terminal = std::io::stdout().is_terminal();
        Printer { text: String::new(), prints, on_terminal, failed: None }
    }

    fn take(&mut self, piece: &str) -> ControlFlow<()> {
        self.text.push_str(piece);
        if self.prints && !piece.is_empty() {
            self.failed = print(&shown(piece, self.on_terminal)).err();
        }
        if self.failed.is_some() || interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Ends the last line; returns the text.
    fn finish(self) -> Result<String, StdoutError> {
        match self.failed {
            Some(error) => return Err(error),
            None if self.prints && !self.text.ends_with('\n') => print("\n")?,
            None => {}
        }
        Ok(self.text)
    }
}

fn report(generation: &Generation, context: usize) {
    if generation.finish_reason == FinishReason::ContextFull {
        message(format_args!("the context of {context} tokens is full; --ctx makes it larger"));
    }
    let mut totals = Totals::default();
    totals.add(generation);
    message(format_args!("{totals}"));
}

const fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ContextFull => "context_full",
        FinishReason::Cancelled => "cancelled",
    }
}

/// The names llama.cpp's server has for them.
fn timings(run: &Run, generation: &Generation) -> serde_json::Value {
    let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
    json!({
        "load_ms": milliseconds(run.load_time),
        "cache_n": generation.cached_tokens,
        "prompt_n": generation.prompt_tokens - generation.cached_tokens,
        "prompt_ms": milliseconds(generation.prefill),
        "prompt_per_second": finite(generation.prefill_rate()),
        "predicted_n": generation.tokens.len(),
        "predicted_ms": milliseconds(generation.decode),
        "predicted_per_second": finite(generation.decode_rate()),
    })
}
