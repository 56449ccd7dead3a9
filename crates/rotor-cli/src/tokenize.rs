//! `rotor tokenize`: text to token ids, and back.

use crate::args::{ModelArg, OpenArgs};
use crate::load;
use crate::outcome::UsageError;
use crate::terminal::{message, print, print_json, print_line, printable, read_stdin};
use crate::values::TokenIds;
use clap::builder::FalseyValueParser;
use rotor::engine::GenerateError;
use rotor::model::ForwardError;
use rotor::tokenizer::{MAX_TEXT_BYTES, SpecialTokens, Tokenizer};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::process::ExitCode;

/// Turn text into token ids, or back.
///
/// Prints one token a line: id, tab, piece. Begins with the beginning-of-sequence token where the model wants it. A vocabulary
/// is enough: the file needs no weights, and the model may be one that does not run here.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// The text, or with `--decode` the ids [default: stdin, byte for byte].
    #[arg(allow_hyphen_values = true)]
    text: Option<String>,
    /// Print the ids alone, on one line, separated by spaces.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_IDS", hide_env = true)]
    ids: bool,
    /// Leave the beginning-of-sequence token out.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_NO_BOS", hide_env = true)]
    no_bos: bool,
    /// Take control tokens in the text for what they are, not for ordinary characters; with `--decode`, print them.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_SPECIAL", hide_env = true)]
    special: bool,
    /// Turn ids, separated by spaces or commas, back into text.
    #[arg(long, conflicts_with_all = ["ids", "no_bos"])]
    #[arg(value_parser = FalseyValueParser::new(), env = "ROTOR_DECODE", hide_env = true)]
    decode: bool,
    /// Print JSON.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_JSON", hide_env = true)]
    json: bool,
    #[command(flatten)]
    open: OpenArgs,
}

impl Args {
    fn text(&self) -> anyhow::Result<String> {
        match (&self.text, self.model.beside()) {
            (Some(text), _) => Ok(text.clone()),
            (None, Some(text)) => match text.to_str() {
                Some(text) => Ok(text.to_owned()),
                None => Err(UsageError("the text is not valid UTF-8; give it on stdin".into()).into()),
            },
            (None, None) => Ok(read_stdin(MAX_TEXT_BYTES)?),
        }
    }
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    let text = args.text()?;
    // Before the model is opened: ids that are none are wrong usage.
    let ids = if args.decode { Some(text.parse::<TokenIds>().map_err(UsageError)?.0) } else { None };
    let file = load::open_file(args.model.path(), &args.open)?;
    let description = file.tokenizer_description()?.ok_or(GenerateError::NoTokenizer("tokenize"))?;
    let tokenizer = Tokenizer::from_description(&description)?;
    for warning in tokenizer.warnings() {
        message(format_args!("warning: {}", printable(warning)));
    }
    match ids {
        Some(ids) => decode(args, &tokenizer, &ids)?,
        None => encode(args, &tokenizer, &text)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn encode(args: &Args, tokenizer: &Tokenizer, text: &str) -> anyhow::Result<()> {
    let special = if args.special { SpecialTokens::Parse } else { SpecialTokens::AsText };
    let ids = if args.no_bos { tokenizer.encode(text, special)? } else { tokenizer.encode_with_bos(text, special)? };
    if args.json {
        let tokens: Vec<Value> = ids.iter().map(|&id| token_json(tokenizer, id)).collect();
        print_json(&if args.ids { json!(ids) } else { json!(tokens) })?;
    } else if args.ids {
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        print_line(&ids.join(" "))?;
    } else {
        let lines: Vec<String> = ids.iter().map(|&id| format!("{id}\t{}\n", piece(tokenizer, id))).collect();
        print(&lines.concat())?;
    }
    Ok(())
}

/// A token as its text in quotes, or as its name where it is a control token.
fn piece(tokenizer: &Tokenizer, id: u32) -> String {
    if tokenizer.is_special(id) {
        return tokenizer.token_text(id).unwrap_or_default().to_owned();
    }
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    match std::str::from_utf8(bytes) {
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("\"{}\"", bytes.escape_ascii()),
    }
}

fn token_json(tokenizer: &Tokenizer, id: u32) -> Value {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    if tokenizer.is_special(id) {
        return json!({ "id": id, "piece": tokenizer.token_text(id), "special": true });
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "id": id, "piece": text }),
        // Part of a character: JSON has no strings for it.
        Err(_) => json!({ "id": id, "piece": bytes }),
    }
}

fn decode(args: &Args, tokenizer: &Tokenizer, ids: &[u32]) -> anyhow::Result<()> {
    let vocab_size = tokenizer.len();
    if let Some(&id) = ids.iter().find(|&&id| usize::try_from(id).map_or(true, |id| id >= vocab_size)) {
        return Err(ForwardError::TokenOutOfRange { id, vocab_size }.into());
    }
    let mut text = String::new();
    let mut stream = tokenizer.decoder();
    for &id in ids {
        if args.special && tokenizer.is_special(id) {
            text.push_str(stream.finish().unwrap_or_default());
            text.push_str(tokenizer.token_text(id).unwrap_or_default());
        } else {
            text.push_str(stream.push(id).unwrap_or_default());
        }
    }
    text.push_str(stream.finish().unwrap_or_default());
    if args.json {
        print_json(&json!({ "text": text }))?;
    } else {
        // Byte for byte, so that encoding what comes out gives the ids again; a person's prompt begins on a line of its own.
        let ends_line = text.ends_with('\n') || !std::io::stdout().is_terminal();
        print(&text)?;
        print(if ends_line { "" } else { "\n" })?;
    }
    Ok(())
}
