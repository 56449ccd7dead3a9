//! `rotor logits`: the numbers themselves, for holding this engine against others.

use crate::args::{LoadArgs, ModelArg, ThreadArgs};
use crate::load;
use crate::outcome::UsageError;
use crate::terminal::message;
use crate::values::{KvName, TokenIds};
use rotor::engine::{Engine, GenerateError};
use rotor::error::FormatError;
use rotor::formats::{DenseActivations, Read, Source};
use rotor::model::ForwardError;
use rotor::write::TensorFile;
use rotor::write::safetensors::{Dtype, SafetensorsHeader};
use std::path::PathBuf;
use std::process::ExitCode;

/// Write the logits of a sequence of token ids to a safetensors file.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// The token ids, separated by commas. Nothing is put in front of them.
    #[arg(long, value_name = "IDS", env = "ROTOR_IDS", hide_env = true)]
    ids: TokenIds,
    /// The file to write: one tensor `logits`, F32 [tokens, vocabulary].
    #[arg(short, long, value_name = "FILE", env = "ROTOR_OUTPUT", hide_env = true)]
    output: PathBuf,
    /// How keys and values are stored.
    #[arg(long, value_name = "TYPE", default_value = "f32", env = "ROTOR_KV", hide_env = true)]
    kv: KvName,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    load: LoadArgs,
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    let ids = args.ids.0.as_slice();
    if ids.is_empty() {
        return Err(UsageError("--ids needs at least one token id".into()).into());
    }
    let source = load::open(args.model.path(), &args.load.options(DenseActivations::F32, Read::All)?)?;
    check_ids(&source, ids)?;
    source.file().refuse_overwriting(&args.output)?;
    args.load.open.refuse_overwriting(&args.output)?;
    let vocab_size = source.config().vocab_size;
    // Begun before the model is loaded: a place that cannot be written is told at once.
    let mut header = SafetensorsHeader::new();
    header.tensor("logits", Dtype::F32, &[ids.len(), vocab_size]);
    let file = header.create(&args.output)?;
    let engine = load::load(&source, args.threads.threads())?;
    load::warn_of_context(&engine, ids.len());
    let bytes = write(&engine, args.kv, ids, file)?;
    message(format_args!("wrote {}: logits F32 [{}, {vocab_size}], {bytes} bytes", args.output.display(), ids.len()));
    Ok(ExitCode::SUCCESS)
}

fn check_ids(source: &Source, ids: &[u32]) -> Result<(), ForwardError> {
    let vocab_size = source.config().vocab_size;
    let outside = |id: &&u32| usize::try_from(**id).map_or(true, |id| id >= vocab_size);
    match ids.iter().find(outside) {
        Some(&id) => Err(ForwardError::TokenOutOfRange { id, vocab_size }),
        None => Ok(()),
    }
}

/// Computes the logits and writes them as they come. Returns the size of the file.
fn write(engine: &Engine, kv: KvName, ids: &[u32], mut file: TensorFile) -> anyhow::Result<u64> {
    let mut session = engine.session(ids.len(), kv.kind());
    let mut failed: Option<anyhow::Error> = None;
    engine.logits(&mut session, ids, 0, &mut |_, rows| {
        if failed.is_none() {
            failed = append(&mut file, rows).err();
        }
    })?;
    match failed {
        Some(error) => Err(error),
        None => Ok(file.finish()?),
    }
}

fn append(file: &mut TensorFile, rows: &[f32]) -> anyhow::Result<()> {
    if let Some(&bad) = rows.iter().find(|logit| !logit.is_finite()) {
        return Err(GenerateError::NotFinite(bad).into());
    }
    let bytes: Vec<u8> = rows.iter().flat_map(|logit| logit.to_le_bytes()).collect();
    file.write(bytes).map_err(|error: FormatError| error.into())
}
