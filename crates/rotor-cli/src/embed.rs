//! `rotor embed`: texts as vectors.

use crate::args::{LoadArgs, ModelArg, ThreadArgs};
use crate::load;
use crate::outcome::UsageError;
use crate::progress::Bar;
use crate::terminal::{message, print, read_text};
use crate::values::TokenIds;
use clap::ValueEnum;
use rotor::config::Pooling;
use rotor::engine::Engine;
use rotor::extract::write_numbers;
use rotor::formats::{DenseActivations, Read, Source};
use rotor::tokenizer::MAX_TEXT_BYTES;
use rotor::write::AtomicFile;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Turn texts into vectors of length 1, for search and comparison.
///
/// Each line of the input is a text, or the input is a JSON list whose members are texts or lists of token ids. A vector is made of
/// the hidden states after the final norm; the cosine of two texts is the dot product of their vectors. Prints one JSON list a line,
/// or writes a file.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// The texts, in UTF-8; `-` is stdin [default: -].
    file: Option<PathBuf>,
    /// The ids of one text, separated by commas, in place of texts. Nothing is put in front of them.
    #[arg(long, value_name = "IDS", env = "ROTOR_IDS", hide_env = true)]
    ids: Option<TokenIds>,
    /// How the tokens' hidden states become one vector: as the file says (their mean where it says nothing), their mean, the last
    /// token's, or the first token's.
    #[arg(long, value_name = "HOW", default_value = "file", env = "ROTOR_POOLING", hide_env = true)]
    pooling: PoolingName,
    /// A text to put in front of each, as "query: " for some models.
    #[arg(long, value_name = "TEXT", conflicts_with = "ids", env = "ROTOR_PREFIX", hide_env = true)]
    prefix: Option<String>,
    /// The texts are queries for this task: "Instruct: TASK" and "Query: " go in front of each. Documents go as they are.
    #[arg(long, value_name = "TASK", conflicts_with_all = ["ids", "prefix"], env = "ROTOR_TASK", hide_env = true)]
    task: Option<String>,
    /// The file to write, float32 [texts, dimensions]: .json, .npy or .safetensors (tensor `embeddings`) [default: stdout].
    #[arg(short, long, value_name = "FILE", env = "ROTOR_OUTPUT", hide_env = true)]
    output: Option<PathBuf>,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    load: LoadArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PoolingName {
    File,
    Mean,
    Last,
    Cls,
}

impl PoolingName {
    fn pooling(self, engine: &Engine) -> Pooling {
        match self {
            PoolingName::File => engine.pooling(),
            PoolingName::Mean => Pooling::Mean,
            PoolingName::Last => Pooling::Last,
            PoolingName::Cls => Pooling::First,
        }
    }
}

impl Args {
    /// Where the texts are.
    fn file(&self) -> &Path {
        self.file.as_deref().or(self.model.beside()).unwrap_or(Path::new("-"))
    }
}

/// One text to embed.
#[derive(Debug, PartialEq, serde::Deserialize)]
#[serde(untagged)]
enum Text {
    Words(String),
    /// Token ids as they are: nothing is put in front of them.
    Ids(Vec<u32>),
}

impl Text {
    fn is_empty(&self) -> bool {
        match self {
            Text::Words(text) => text.is_empty(),
            Text::Ids(ids) => ids.is_empty(),
        }
    }
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Json,
    Array,
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    let kind = args.output.as_deref().map(kind_of).transpose()?;
    let texts = match &args.ids {
        Some(ids) if ids.0.is_empty() => return Err(UsageError("--ids needs at least one token id".into()).into()),
        Some(ids) => vec![Text::Ids(ids.0.clone())],
        None => texts(&read_text(args.file(), MAX_TEXT_BYTES)?)?,
    };
    let source = load::open(args.model.path(), &args.load.options(DenseActivations::default(), Read::All)?)?;
    refuse_overwriting(args, &source)?;
    let engine = load::load(&source, args.threads.threads())?;
    drop(source);
    let began = Instant::now();
    let ids = encode(args, &engine, texts)?;
    let tokens: usize = ids.iter().map(Vec::len).sum();
    load::warn_of_context(&engine, ids.iter().map(Vec::len).max().unwrap_or(0));
    let (bar, total) = (Bar::steps("embedding"), ids.len() as u64);
    let vectors = engine.embed(ids, args.pooling.pooling(&engine), &mut |done| {
        bar.set(done as u64, total);
        ControlFlow::Continue(())
    })?;
    drop(bar);
    let took = began.elapsed();
    match (&args.output, kind) {
        (Some(output), Some(kind)) => {
            write(output, kind, &vectors, engine.model().config().hidden_size)?;
            message(format_args!("{tokens} tokens in {:.3} s", took.as_secs_f64()));
        }
        _ => print(&lines(&vectors)?.join(""))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn kind_of(output: &Path) -> Result<Kind, UsageError> {
    match output.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("json") => Ok(Kind::Json),
        Some("npy" | "safetensors") => Ok(Kind::Array),
        _ => Err(UsageError(format!(
            "{}: a file that ends with .json, .npy or .safetensors is written",
            output.display()
        ))),
    }
}

fn refuse_overwriting(args: &Args, source: &Source) -> anyhow::Result<()> {
    let Some(output) = &args.output else { return Ok(()) };
    source.file().refuse_overwriting(output)?;
    args.load.open.refuse_overwriting(output)?;
    rotor::write::refuse_overwriting(&[args.file()], output)?;
    Ok(())
}

/// The texts of an input: those of a JSON list where the whole input is one, else its lines.
fn texts(input: &str) -> Result<Vec<Text>, UsageError> {
    let list = Some(input).filter(|input| input.trim_start().starts_with('['));
    let texts: Vec<Text> = match list.and_then(|input| serde_json::from_str(input).ok()) {
        Some(texts) => texts,
        None => input.lines().map(|line| Text::Words(line.to_owned())).collect(),
    };
    match texts.iter().position(Text::is_empty) {
        _ if texts.is_empty() => Err(UsageError("there is no text: give one a line, or a JSON list".into())),
        Some(at) => Err(UsageError(format!("text {} is empty, and has no vector", at + 1))),
        None => Ok(texts),
    }
}

fn encode(args: &Args, engine: &Engine, texts: Vec<Text>) -> anyhow::Result<Vec<Vec<u32>>> {
    let prefix = match (&args.task, &args.prefix) {
        (Some(task), _) => format!("Instruct: {task}\nQuery: "),
        (None, Some(prefix)) => prefix.clone(),
        (None, None) => String::new(),
    };
    let ids = texts.into_iter().map(|text| match text {
        Text::Words(text) => engine.encode_prompt(&format!("{prefix}{text}")),
        Text::Ids(ids) => Ok(ids),
    });
    Ok(ids.collect::<Result<_, _>>()?)
}

/// Each vector as a JSON list on a line of its own.
fn lines(vectors: &[Vec<f32>]) -> anyhow::Result<Vec<String>> {
    vectors.iter().map(|vector| Ok(serde_json::to_string(vector)? + "\n")).collect()
}

fn write(output: &Path, kind: Kind, vectors: &[Vec<f32>], width: usize) -> anyhow::Result<()> {
    match kind {
        Kind::Array => write_numbers("embeddings", [vectors.len(), width], &vectors.concat(), output)?,
        Kind::Json => {
            let mut file = AtomicFile::create(output)?;
            file.write(serde_json::to_string(vectors)?.as_bytes())?;
            file.commit()?;
        }
    }
    message(format_args!("wrote {}: F32 [{}, {width}]", output.display(), vectors.len()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_lines_or_a_json_list() {
        let words = |text: &str| Text::Words(text.to_owned());
        assert_eq!(texts("one\ntwo\n").unwrap(), [words("one"), words("two")]);
        assert_eq!(texts(" [\"one\\nline\", \"two\"]\n").unwrap(), [words("one\nline"), words("two")]);
        assert_eq!(texts("[[1, 20], \"two\"]").unwrap(), [Text::Ids(vec![1, 20]), words("two")]);
        assert!(texts("[[1], []]").unwrap_err().0.contains("text 2 is empty"));
        assert_eq!(texts("[not json]\n").unwrap(), [words("[not json]")]);
        assert!(texts("one\n\ntwo").unwrap_err().0.contains("text 2 is empty"));
        assert!(texts("").is_err() && texts("[]").is_err());
    }
}
