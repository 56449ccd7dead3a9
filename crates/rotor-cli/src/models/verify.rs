//! `rotor verify`: is this file whole, and does this machine compute it right?

use super::{library, resolve};
use crate::args::{ModelArg, OpenArgs, ThreadArgs};
use crate::load;
use crate::progress::Bar;
use crate::terminal::{print, print_json, printable};
use anyhow::Context as _;
use clap::builder::FalseyValueParser;
use rotor::engine::Engine;
use rotor::formats::{DenseActivations, LoadOptions, OpenOptions, Read, Source};
use rotor::machine::{Isa, Kernels};
use rotor::runtime::Runtime;
use rotor::verify::{self, Check, Comparison, Fingerprint, Match, Outcome};
use rotor::write::AtomicFile;
use rotor_hub::{Hash, Hub, LocalModel, Reference, Settings, hash_file, known};
use serde_json::json;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Check that a model's file is whole, and that this machine computes it right.
///
/// The checksum is compared with the hub's record or the list of known models; then every number in the file is looked at,
/// the kernels in use are held against the plain reference on this file, and the reference's own text is taken as a
/// fingerprint, which can be recorded and compared on another machine. The last line is made to be pasted into a report. The
/// exit code is 1 where something is wrong.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Write the fingerprint into this file.
    #[arg(long, value_name = "FILE", env = "ROTOR_RECORD", hide_env = true)]
    record: Option<PathBuf>,
    /// Compare the fingerprint with one that was recorded here or on another machine.
    #[arg(long, value_name = "FILE", env = "ROTOR_COMPARE", hide_env = true)]
    compare: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_JSON", hide_env = true)]
    json: bool,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    open: OpenArgs,
}

/// Everything that was found.
struct Report {
    model: String,
    checks: Vec<Check>,
    sha256: Option<String>,
    comparison: Comparison,
    fingerprint: Fingerprint,
    threads: usize,
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    let path = resolve(args.model.path())?;
    let recorded = args.compare.as_deref().map(read_fingerprint).transpose()?;
    let record = args.record.as_deref().map(AtomicFile::create).transpose()?;
    let (mut checks, sha256) = checksums(args.model.path(), &path)?;
    let load = LoadOptions { dense_activations: DenseActivations::F32, read: Read::All, ..LoadOptions::default() };
    let source = Source::open(&path, &OpenOptions { load, ..args.open.options()? })?;
    checks.push(structure(&source));
    let bar = Bar::steps("reading weights");
    checks.extend(verify::weights(&source, &mut |done, total| bar.set(done, total))?);
    drop(bar);
    let (report, chat) = compute(args, &source, checks, sha256)?;
    let mut report = report;
    report.checks.push(chat);
    if let Some(recorded) = recorded {
        report.checks.push(compared(&report.fingerprint, &recorded));
    }
    if let Some(mut file) = record {
        file.write(format!("{:#}\n", json!(report.fingerprint)).as_bytes())?;
        file.commit()?;
    }
    if args.json {
        print_json(&report.json())?;
    } else {
        print(&printable(&report.text()))?;
    }
    Ok(if verify::worst(&report.checks) == Outcome::Failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn read_fingerprint(path: &Path) -> anyhow::Result<Fingerprint> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is no fingerprint that rotor verify has recorded", path.display()))
}

/// The checksum of every file that there is a record for, and the SHA-256 of a single file.
fn checksums(model: &Path, path: &Path) -> anyhow::Result<(Vec<Check>, Option<String>)> {
    let settings = Settings::from_environment()?;
    let library = library(&settings);
    let named = model.to_str().filter(|_| !model.exists()).and_then(|name| library.find(name).ok());
    // A path into the cache is the model there.
    let found = named.or_else(|| library.models().into_iter().find(|found| found.path == path));
    let files = match &found {
        Some(found) => found.files.clone(),
        None if path.is_file() => vec![path.to_path_buf()],
        None => return Ok((vec![Check::new("checksum", Outcome::Skipped, "a folder without a record")], None)),
    };
    let (mut checks, mut single) = (Vec::new(), None);
    for file in &files {
        let expected = expected(&settings, found.as_ref(), file);
        let (check, hash) = checksum(file, expected)?;
        checks.push(check);
        single = (files.len() == 1 && hash.kind() == "SHA-256").then(|| hash.to_string());
    }
    Ok((checks, single))
}

/// The hash that a file has to have, and who says so: the name of the blob that a link leads to, else the hub.
fn expected(settings: &Settings, found: Option<&LocalModel>, file: &Path) -> Option<(Hash, &'static str)> {
    let target = std::fs::read_link(file).unwrap_or_else(|_| file.to_path_buf());
    let name = target.file_name()?.to_str()?;
    if let Some(hash) = Hash::parse(name.strip_prefix("sha256-").unwrap_or(name)) {
        return Some((hash, "the record made when it was fetched"));
    }
    let found = found.filter(|found| found.commit.is_some() && !settings.offline)?;
    let mut reference = Reference::parse(found.name.split([':', '@']).next()?).ok()?;
    reference.revision.clone_from(&found.commit);
    let name = file.strip_prefix(if found.path.is_dir() { &found.path } else { found.path.parent()? }).ok()?;
    // Without a network the list of known models may still tell.
    let (_, hash) = Hub::new(settings).ok()?.recorded(&reference, name.to_str()?).ok()?;
    Some((hash, "the hub's record"))
}

fn checksum(file: &Path, expected: Option<(Hash, &'static str)>) -> anyhow::Result<(Check, Hash)> {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let total = std::fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?.len();
    let bar = Bar::bytes("hashing", total);
    // Of a file that nobody has a record for the SHA-256 is told.
    let kind = expected.as_ref().map(|(hash, _)| hash.clone()).or_else(|| Hash::parse(&"0".repeat(64)));
    let kind = kind.context("64 digits are a SHA-256")?;
    let hash = hash_file(file, &kind, &mut |done| bar.set(done, total));
    let hash = hash.with_context(|| format!("cannot read {}", file.display()))?;
    let check = match expected {
        Some((wanted, who)) if wanted == hash => {
            Check::new("checksum", Outcome::Ok, format!("{name}: {} as {who} has it", hash.kind()))
        }
        Some((wanted, who)) => {
            let found = format!("{name}: {} is {hash}, but {who} has {wanted}: fetch it again", hash.kind());
            Check::new("checksum", Outcome::Failed, found)
        }
        None => match known::all()
            .iter()
            .find(|model| model.sha256.as_ref().is_some_and(|fact| fact.value == hash.as_str()))
        {
            Some(model) => {
                Check::new("checksum", Outcome::Ok, format!("{name}: SHA-256 of {} as published", model.name))
            }
            None => Check::new(
                "checksum",
                Outcome::Skipped,
                format!("{name}: there is no record of a file with SHA-256 {hash}"),
            ),
        },
    };
    Ok((check, hash))
}

fn structure(source: &Source) -> Check {
    let found = format!("{}, {} tensors, all that the graph needs", source.kind().name(), source.tensors().count());
    match source.warnings() {
        [] => Check::new("structure", Outcome::Ok, found),
        warnings => Check::new("structure", Outcome::Warning, warnings.join("; ")),
    }
}

/// Computes with the plain reference and then with the kernels in use; the two are not held in memory together.
fn compute(
    args: &Args,
    source: &Source,
    mut checks: Vec<Check>,
    sha256: Option<String>,
) -> anyhow::Result<(Report, Check)> {
    let scalar = Kernels::for_isa(Isa::Scalar).context("the plain kernels run everywhere")?;
    let runtime = Runtime::with_kernels(scalar, args.threads.threads());
    let bar = Bar::bytes("loading for the reference", 0);
    let engine = Engine::from_source(source, &runtime, &mut |_| {})?;
    drop(bar);
    let ids = verify::prompt(&engine)?;
    let reference = Comparison::logits(&engine, &ids)?;
    let bar = Bar::steps("reference text");
    let total = verify::FINGERPRINT_TOKENS as u64;
    let fingerprint = Fingerprint::take(&engine, &ids, &mut |done| bar.set(done, total))?;
    drop(bar);
    drop(engine);
    let engine = load::load(source, args.threads.threads())?;
    let comparison = Comparison::of(&reference, &Comparison::logits(&engine, &ids)?, source.config().vocab_size);
    checks.push(comparison.check());
    let report = Report {
        model: args.model.path().display().to_string(),
        checks,
        sha256,
        comparison,
        fingerprint,
        threads: engine.model().runtime().pool.threads(),
    };
    Ok((report, verify::chat(&engine)))
}

fn compared(fingerprint: &Fingerprint, recorded: &Fingerprint) -> Check {
    let (outcome, found) = match fingerprint.compare(recorded) {
        Match::Same => (Outcome::Ok, format!("all {} tokens as recorded", fingerprint.tokens.len())),
        Match::Tie { at } => (
            Outcome::Ok,
            format!("as recorded up to token {at}, where two tokens are within a thousandth of each other"),
        ),
        Match::Different { at } => {
            (Outcome::Failed, format!("token {at} is another than recorded, although the choice was clear"))
        }
        Match::OtherPrompt => (Outcome::Failed, "recorded with another model or another tokenizer".to_owned()),
    };
    Check::new("fingerprint", outcome, found)
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        for check in &self.checks {
            let outcome = match check.outcome {
                Outcome::Ok => "ok",
                Outcome::Skipped => "-",
                Outcome::Warning => "warning",
                Outcome::Failed => "FAILED",
            };
            // Writing to a string does not fail.
            let _ = writeln!(text, "{:<12} {outcome:<8} {}", check.name, check.found);
        }
        let _ = writeln!(text, "{}", self.line());
        text
    }

    /// One line for a report.
    fn line(&self) -> String {
        let verdict = match verify::worst(&self.checks) {
            Outcome::Failed => "FAILED",
            Outcome::Warning => "ok with warnings",
            Outcome::Ok | Outcome::Skipped => "ok",
        };
        let failed: Vec<&str> =
            self.checks.iter().filter(|check| check.outcome >= Outcome::Warning).map(|check| check.name).collect();
        let which = if failed.is_empty() { String::new() } else { format!(" ({})", failed.join(", ")) };
        let sha256 = self.sha256.as_ref().map(|digits| format!(" sha256 {}", &digits[..12])).unwrap_or_default();
        format!(
            "rotor {} verify: {verdict}{which}; {}{sha256}; {} {} with {} threads; difference {:.1e}; fingerprint {}",
            env!("CARGO_PKG_VERSION"),
            self.model,
            std::env::consts::ARCH,
            Kernels::from_env().map_or("unknown", |kernels| kernels.isa().name()),
            self.threads,
            self.comparison.difference,
            self.fingerprint.digest(),
        )
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "model": self.model,
            "outcome": verify::worst(&self.checks),
            "checks": self.checks,
            "sha256": self.sha256,
            "comparison": self.comparison,
            "fingerprint": self.fingerprint,
            "digest": self.fingerprint.digest(),
            "line": self.line(),
        })
    }
}
