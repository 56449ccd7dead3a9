//! A single text, completed or answered.

use super::{Args, Run, Totals, options, shown};
use crate::interrupt::{self, Catch};
use crate::outcome::INTERRUPTED;
use crate::terminal::{StdoutError, message, print, print_json, printable};
use crate::units::finite;
use rotor::chat::Message;
use rotor::engine::{FinishReason, GenerateError, Generation};
use rotor::request::Request;
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
    let is_constrained = run.constraint.is_some();
    let request = Request { constraint: run.constraint.take(), ..Request::new(prompt, run.options.clone()) };
    let generation = run.engine.complete(&mut run.session, request, &mut |piece| printer.take(piece));
    drop(catch);
    let text = printer.finish(generation.is_ok())?;
    let generation = generation?;
    if args.json {
        print_json(&json!({
            "text": text,
            "tokens": generation.tokens,
            "finish_reason": generation.finish_reason.name(),
            "seed": seed,
            "timings": timings(&run, &generation),
        }))?;
    }
    report(&generation, run.session.context());
    if is_constrained && generation.finish_reason != FinishReason::Stop {
        message(format_args!("warning: the JSON is not complete: --max-tokens allows a longer one"));
    }
    let cancelled = generation.finish_reason == FinishReason::Cancelled;
    Ok(if cancelled { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// The ids of the text, or of the chat it begins.
fn prompt(run: &mut Run, args: &Args, text: &str) -> anyhow::Result<Vec<u32>> {
    if !args.is_chat() {
        return completion_prompt(run, args, text);
    }
    let system = args.system.as_ref().map(|system| Message::new("system", system));
    // The newline that ends a piped message is the pipe's, not the person's.
    let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    let messages: Vec<Message> = system.into_iter().chain([Message::new("user", line)]).collect();
    let prompt = run.engine.encode_chat(&messages)?;
    let template = run.engine.chat_template()?;
    run.options.trim_start = template.trims_answer();
    if args.show_prompt {
        let rendered = template.render(&messages.as_slice().into()).map_err(GenerateError::from)?;
        show_prompt(run, &rendered, &prompt)?;
    }
    Ok(prompt)
}

/// The ids of a text to be completed. Control tokens it spells are characters, and are warned about, unless they are asked
/// for.
fn completion_prompt(run: &Run, args: &Args, text: &str) -> anyhow::Result<Vec<u32>> {
    let tokenizer = run.engine.tokenizer("text")?;
    let prompt = if args.special { tokenizer.encode_special_prompt(text)? } else { run.engine.encode_prompt(text)? };
    let control = if args.special { Vec::new() } else { tokenizer.control_tokens(text) };
    let names: Vec<&str> = control.into_iter().filter_map(|id| tokenizer.token_text(id)).collect();
    if !names.is_empty() {
        let named = printable(&names.join(", ")).into_owned();
        message(format_args!(
            "warning: the prompt spells {named}, taken as ordinary characters; --special takes them as control tokens, and \
             --chat has the template write them"
        ));
    }
    if args.show_prompt {
        show_prompt(run, text, &prompt)?;
    }
    Ok(prompt)
}

/// The prompt as text, then token by token.
fn show_prompt(run: &Run, text: &str, prompt: &[u32]) -> anyhow::Result<()> {
    let tokenizer = run.engine.tokenizer("text")?;
    let end = if text.ends_with('\n') { "" } else { "\n" };
    message(format_args!("prompt of {} tokens:\n{}{end}", prompt.len(), printable(text)));
    for &id in prompt {
        let bytes = tokenizer.token_bytes(id).unwrap_or_default();
        let name = tokenizer.token_text(id).unwrap_or_default();
        let shown = if bytes.is_empty() {
            printable(name).into_owned()
        } else {
            format!("{:?}", String::from_utf8_lossy(bytes))
        };
        message(format_args!("{id:>8} {shown}"));
    }
    Ok(())
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
            let failed = print(&shown(piece, self.on_terminal)).err();
            self.failed = self.failed.take().or(failed);
        }
        if self.failed.is_some() || interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Ends the last line; returns the text. Where the run failed before its first piece of text, nothing is printed.
    fn finish(self, succeeded: bool) -> Result<String, StdoutError> {
        let has_line = succeeded || !self.text.is_empty();
        match self.failed {
            Some(error) => return Err(error),
            None if self.prints && has_line && !self.text.ends_with('\n') => print("\n")?,
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

/// The names llama.cpp's server has for them.
fn timings(run: &Run, generation: &Generation) -> serde_json::Value {
    let (head, skips) = (run.session.head_counts(), run.session.skip_counts());
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
        "draft_n": generation.draft_tokens,
        "draft_n_accepted": generation.accepted_tokens,
        "head_bounded_n": head.tokens,
        "head_rows": head.rows,
        "up_rows": skips.rows,
        "up_rows_read": skips.rows_read,
        "down_columns": skips.columns,
        "down_columns_read": skips.columns_read,
    })
}
