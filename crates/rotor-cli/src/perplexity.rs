//! `rotor perplexity`: how well a model predicts a text.

use crate::args::{LoadArgs, ModelArg, ThreadArgs};
use crate::load;
use crate::progress::Bar;
use crate::terminal::{message, print_json, print_line, read_text};
use crate::units::finite;
use crate::values::{KvName, context};
use clap::builder::FalseyValueParser;
use rotor::engine::Engine;
use rotor::eval::{Perplexity, PerplexityError, perplexity};
use rotor::formats::{DenseActivations, Read};
use rotor::tokenizer::MAX_TEXT_BYTES;
use serde_json::json;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measure how well a model predicts a text, by llama.cpp's protocol.
///
/// The text's tokens are cut into chunks; the second half of each is scored, so that every token is predicted from at least
/// half a chunk. The figures compare with llama.cpp's for the same --ctx.
#[derive(Debug, clap::Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// The text, in UTF-8; `-` is stdin.
    file: PathBuf,
    /// Tokens of a chunk.
    #[arg(short, long, value_name = "N", default_value = "512", value_parser = context)]
    #[arg(env = "ROTOR_CTX", hide_env = true)]
    ctx: usize,
    /// Stop after so many chunks [default: all].
    #[arg(long, value_name = "N", value_parser = chunks, env = "ROTOR_CHUNKS", hide_env = true)]
    chunks: Option<NonZeroUsize>,
    /// How keys and values are stored.
    #[arg(long, value_name = "TYPE", default_value = "f16", env = "ROTOR_KV", hide_env = true)]
    kv: KvName,
    /// Print one JSON object.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_JSON", hide_env = true)]
    json: bool,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    load: LoadArgs,
}

fn chunks(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "expected a whole number from 1 on".to_owned())
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    if args.ctx < 4 {
        return Err(crate::outcome::UsageError(PerplexityError::Context(args.ctx).to_string()).into());
    }
    let text = read_text(&args.file, MAX_TEXT_BYTES)?;
    let source = load::open(args.model.path(), &args.load.options(DenseActivations::default(), Read::All)?)?;
    let engine = load::load(&source, args.threads.threads())?;
    drop(source);
    load::warn_of_context(&engine, args.ctx);
    let (figure, chunks) = measure(&engine, args, &text)?;
    if args.json {
        print_json(&json!({
            "perplexity": finite(Some(figure.value())),
            "standard_error": finite(Some(figure.standard_error())),
            "mean_negative_log_likelihood": figure.mean(),
            "tokens_scored": figure.tokens,
            "chunks": chunks,
            "context": args.ctx,
        }))?;
    } else {
        print_line(&format!("perplexity = {:.4} ± {:.4}", figure.value(), figure.standard_error()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The figure and the number of chunks it was taken from.
fn measure(engine: &Engine, args: &Args, text: &str) -> anyhow::Result<(Perplexity, usize)> {
    let tokenizer = engine.tokenizer("perplexity")?;
    let ids = tokenizer.encode_prompt(text)?;
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let mut session = engine.session(args.ctx, args.kv.kind());
    let most = args.chunks.map_or(usize::MAX, usize::from);
    let bar = Bar::steps("perplexity");
    let mut chunks = 0;
    let figure = perplexity(engine, &mut session, &ids, bos, most, &mut |done, of, figure| {
        chunks = done;
        let running = format!("perplexity {:.4} ± {:.4}", figure.value(), figure.standard_error());
        if bar.is_visible() {
            bar.set(done as u64, of as u64);
            bar.say(running);
        } else {
            message(format_args!("chunk {done}/{of}: {running}"));
        }
        ControlFlow::Continue(())
    })?;
    Ok((figure, chunks))
}
