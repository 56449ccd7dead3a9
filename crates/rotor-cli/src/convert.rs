//! `rotor convert`: any form to any form that can hold it.

use crate::args::OpenArgs;
use crate::load;
use crate::progress::Bar;
use crate::terminal::{message, print, print_json, printable};
use crate::units;
use crate::values::HeadName;
use clap::builder::{FalseyValueParser, PossibleValuesParser, TypedValueParser};
use rotor::convert::{ConvertOptions, Phase, Report, Target, convert};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Convert a model between files and forms, without loss.
///
/// Weights stay what they are: nothing is rounded that was not asked for, and what the target cannot hold is refused by name.
/// IN and OUT stand alone, in this order: there is no -m.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A .gguf file (the first part of a split one), a .safetensors file, a folder in Hugging Face layout, or a model's name.
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// The file to write, or the folder for `--type hf`.
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// The form of the ternary weights; the file's kind follows from it.
    #[arg(long = "type", value_name = "TYPE", env = "ROTOR_TYPE", hide_env = true)]
    #[arg(value_parser = PossibleValuesParser::new(Target::ALL.map(Target::name)).try_map(|name| name.parse::<Target>()))]
    target: Target,
    /// How the embedding and the head are stored [default: without loss, as in the source where possible].
    #[arg(long, value_name = "TYPE", env = "ROTOR_HEAD", hide_env = true)]
    head: Option<HeadName>,
    /// Read the output again and compare every trit, scale and number before it gets its name.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_VERIFY", hide_env = true)]
    verify: bool,
    /// Leave out, and list, what the target cannot hold of the tokenizer, such as a normalizer in a GGUF.
    ///
    /// Without this such a conversion is refused, because texts would become other token ids.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_LOSSY_TOKENIZER", hide_env = true)]
    lossy_tokenizer: bool,
    /// Print one JSON object.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_JSON", hide_env = true)]
    json: bool,
    #[command(flatten)]
    open: OpenArgs,
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    let source = load::open(&args.input, &args.open.options()?)?;
    args.open.refuse_overwriting(&args.output)?;
    for warning in source.warnings() {
        message(format_args!("warning: {}", printable(warning)));
    }
    let head = args.head.map(HeadName::dense_type);
    let &Args { target, verify, lossy_tokenizer, .. } = args;
    let options = ConvertOptions { target, head, verify, lossy_tokenizer };
    let mut bar = None;
    let report = convert(&source, &args.output, &options, &mut |phase, done, total| {
        let of_phase = |(shown, _): &(Phase, Bar)| *shown == phase;
        let (_, bar) = match bar.take().filter(of_phase) {
            Some(shown) => bar.insert(shown),
            None => bar.insert((phase, begin(phase))),
        };
        bar.set(done, total);
    })?;
    drop(bar);
    if args.json {
        print_json(&serde_json::to_value(&report)?)?;
    } else {
        print(&printable(&text(args, &report)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn begin(phase: Phase) -> Bar {
    match phase {
        Phase::Writing => Bar::bytes("converting", 0),
        Phase::Verifying => Bar::steps("verifying"),
    }
}

/// The report for people.
fn text(args: &Args, report: &Report) -> String {
    let (trits, zeros) = (report.trits(), report.zeros());
    let share = zeros as f64 / trits.max(1) as f64 * 100.0;
    let (low, high) = report.scale_range();
    let mut text = format!(
        "wrote {}: {}, {} tensors, {} of them ternary\n  {} trits, {share:.2} % of them 0; scales from {low:e} to {high:e}\n",
        args.output.display(),
        report.form,
        report.tensors,
        report.ternary.len(),
        units::count(trits),
    );
    // Writing to a string does not fail.
    let _ = match report.scale_rounding() {
        0.0 => writeln!(text, "  every scale is held exactly"),
        rounding => writeln!(text, "  scales rounded by at most {rounding:e} of their value"),
    };
    if report.verified {
        text.push_str("  read again: every trit, scale and number is as in the source");
        text.push_str(if report.recoded.is_empty() { "\n" } else { ", but for what was re-encoded as asked:\n" });
    }
    for recoded in &report.recoded {
        let _ = writeln!(text, "  {}: {} to {}", recoded.name, recoded.from, recoded.to);
    }
    for note in &report.notes {
        let _ = writeln!(text, "  {note}");
    }
    for file in &report.files {
        let _ = writeln!(text, "  {}  {}  {}", file.sha256, units::bytes(file.bytes), file.name);
    }
    text
}
