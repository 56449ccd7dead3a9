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

/// Everything that was found. What could not be computed, because the file cannot be read as a model, is absent.
struct Report {
    model: String,
    checks: Vec<Check>,
    sha256: Option<String>,
    computed: Option<Computed>,
}

/// What the model computes here.
struct Computed {
    comparison: Comparison,
    fingerprint: Fingerprint,
    threads: usize,
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    let path = resolve(args.model.path())?;
    // What is not there is no model with a fault, and gets no report.
    std::fs::metadata(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let recorded = args.compare.as_deref().map(read_fingerprint).transpose()?;
    let record = args.record.as_deref().map(AtomicFile::create).transpose()?;
    let open = args.open.options()?;
    let (mut checks, sha256) = checksums(args.model.path(), &path)?;
    let mut stage = "structure";
    let examined = examine(args, &path, open, &mut checks, &mut stage);
    // A file that cannot be read or computed with is what this command is there to report.
    let computed = examined.map_err(|error| checks.push(Check::new(stage, Outcome::Failed, format!("{error:#}")))).ok();
    let report = {
        let fingerprint = computed.as_ref().map(|computed| &computed.fingerprint);
        if let (Some(fingerprint), Some(recorded)) = (fingerprint, recorded) {
            checks.push(compared(fingerprint, &recorded));
        }
        if let (Some(fingerprint), Some(mut file)) = (fingerprint, record) {
            file.write(format!("{:#}\n", json!(fingerprint)).as_bytes())?;
            file.commit()?;
        }
        Report { model: args.model.path().display().to_string(), checks, sha256, computed }
    };
    if args.json {
        print_json(&report.json())?;
    } else {
        print(&printable(&report.text()))?;
    }
    Ok(if verify::worst(&report.checks) == Outcome::Failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn read_fingerprint(path: &Path) -> anyhow::Result<Fingerprint> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let wrong = || format!("{} is no fingerprint that rotor verify has recorded", path.display());
    let fingerprint: Fingerprint = serde_json::from_slice(&text).with_context(wrong)?;
    let (tokens, margins) = (fingerprint.tokens.len(), fingerprint.margins.len());
    anyhow::ensure!(
        tokens == verify::FINGERPRINT_TOKENS && margins == tokens,
        "{}: expected {} tokens with a margin each, found {tokens} tokens and {margins} margins",
        wrong(),
        verify::FINGERPRINT_TOKENS,
    );
    Ok(fingerprint)
}

/// Looks at everything behind the checksum; `stage` is the check that an error belongs to.
fn examine(
    args: &Args,
    path: &Path,
    open: OpenOptions,
    checks: &mut Vec<Check>,
    stage: &mut &'static str,
) -> anyhow::Result<Computed> {
    let load = LoadOptions { dense_activations: DenseActivations::F32, read: Read::All, ..LoadOptions::default() };
    let source = Source::open(path, &OpenOptions { load, ..open })?;
    checks.push(structure(&source));
    *stage = "weights";
    let bar = Bar::steps("reading weights");
    checks.extend(verify::weights(&source, &mut |done, total| bar.set(done, total))?);
    drop(bar);
    *stage = "kernels";
    compute(args, &source, checks)
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
        let (check, hash) = checksum(file, expected, found.as_ref())?;
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

fn checksum(
    file: &Path,
    expected: Option<(Hash, &'static str)>,
    found: Option<&LocalModel>,
) -> anyhow::Result<(Check, Hash)> {
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
            // What is here already, and of the right length, is not fetched before it is removed.
            let how = match found.filter(|found| found.commit.is_some()) {
                Some(model) => format!(" with `rotor rm {0}` and `rotor pull {0}`", model.name),
                None => String::new(),
            };
            let told = format!("{name}: {} is {hash}, but {who} has {wanted}: fetch it again{how}", hash.kind());
            Check::new("checksum", Outcome::Failed, told)
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
fn compute(args: &Args, source: &Source, checks: &mut Vec<Check>) -> anyhow::Result<Computed> {
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
    checks.push(verify::chat(&engine));
    Ok(Computed { comparison, fingerprint, threads: engine.model().runtime().pool.threads() })
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
        let computed = self.computed.as_ref().map_or_else(String::new, |computed| {
            format!(
                " with {} threads; difference {:.1e}; fingerprint {}",
                computed.threads,
                computed.comparison.difference,
                computed.fingerprint.digest(),
            )
        });
        format!(
            "rotor {} verify: {verdict}{which}; {}{sha256}; {} {}{computed}",
            env!("CARGO_PKG_VERSION"),
            self.model,
            std::env::consts::ARCH,
            Kernels::from_env().map_or("unknown", |kernels| kernels.isa().name()),
        )
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "model": self.model,
            "outcome": verify::worst(&self.checks),
            "checks": self.checks,
            "sha256": self.sha256,
            "comparison": self.computed.as_ref().map(|computed| &computed.comparison),
            "fingerprint": self.computed.as_ref().map(|computed| &computed.fingerprint),
            "digest": self.computed.as_ref().map(|computed| computed.fingerprint.digest()),
            "line": self.line(),
        })
    }
}
