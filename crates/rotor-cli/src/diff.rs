//! `rotor diff`: do two files hold the same model, whatever their forms?

use crate::args::OpenArgs;
use crate::load;
use crate::progress::Bar;
use crate::terminal::{message, print, print_json, printable};
use crate::units;
use clap::builder::FalseyValueParser;
use rotor::compare::{Comparison, compare};
use serde_json::json;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Differing tensors that are listed before the rest is only counted.
const SHOWN_TENSORS: usize = 50;

/// Tell whether two files hold the same model.
///
/// Hyper-parameters, every trit, every scale, every other number and the tokenizers are compared; names are not. Keys that rotor
/// does not know are named in a warning: whether they make a difference it cannot tell.
/// The exit code is 0 where the models are the same and 1 where they differ. Both models stand alone: there is no -m.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A model: a .gguf or .safetensors file, a folder in Hugging Face layout, or a model's name.
    #[arg(value_name = "A")]
    first: PathBuf,
    /// Another.
    #[arg(value_name = "B")]
    second: PathBuf,
    /// Print one JSON object.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_JSON", hide_env = true)]
    json: bool,
    #[command(flatten)]
    open: OpenArgs,
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    let options = args.open.options()?;
    let (first, second) = (load::open(&args.first, &options)?, load::open(&args.second, &options)?);
    for (path, source) in [(&args.first, &first), (&args.second, &second)] {
        for warning in source.warnings() {
            message(format_args!("warning: {}: {}", printable(&path.display().to_string()), printable(warning)));
        }
    }
    let bar = Bar::steps("comparing");
    let comparison = compare(&first, &second, &mut |done, total| bar.set(done, total))?;
    drop(bar);
    if args.json {
        let mut object = serde_json::to_value(&comparison)?;
        object["same"] = json!(comparison.is_same());
        print_json(&object)?;
    } else {
        print(&printable(&text(&comparison)))?;
    }
    Ok(if comparison.is_same() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The comparison for people.
fn text(comparison: &Comparison) -> String {
    let Comparison { config, tokenizer, tensors, compared, trits } = comparison;
    if comparison.is_same() {
        let trits = units::count(*trits);
        return format!(
            "the same model: {compared} tensors with {trits} trits, their scales, all other numbers and the tokenizer\n"
        );
    }
    let mut text = String::new();
    // Writing to a string does not fail.
    for difference in config {
        let _ = writeln!(text, "{difference}");
    }
    for difference in tokenizer {
        let _ = writeln!(text, "{difference}");
    }
    for difference in tensors.iter().take(SHOWN_TENSORS) {
        let _ = writeln!(text, "{difference}");
    }
    if tensors.len() > SHOWN_TENSORS {
        let _ = writeln!(text, "and {} differences more", tensors.len() - SHOWN_TENSORS);
    }
    let _ = writeln!(
        text,
        "different: {} hyper-parameters, {} things about the tokenizer and {} differences in {compared} tensors",
        config.len(),
        tokenizer.len(),
        tensors.len()
    );
    text
}
