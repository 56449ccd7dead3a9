//! `rotor extract`: one tensor or one layer as plain arrays.

use crate::args::{ModelArg, OpenArgs};
use crate::load;
use crate::terminal::{print, print_json, printable};
use crate::values::count;
use clap::builder::{FalseyValueParser, PossibleValuesParser, TypedValueParser};
use rotor::extract::{ArrayForm, Extracted, Selection, extract};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Scales of a tensor that are listed one by one.
const SHOWN_SCALES: usize = 8;

/// Write one tensor or one layer as plain arrays.
///
/// Rows are in the order of the file. A tensor's scale lies beside it; as f32 the weights are multiplied by it.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("selection").required(true)))]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// A whole layer, counted from 0.
    #[arg(long, value_name = "N", value_parser = count, group = "selection", env = "ROTOR_LAYER", hide_env = true)]
    layer: Option<usize>,
    /// One tensor, by its name in the file, with or without `.weight`.
    #[arg(long, value_name = "NAME", group = "selection", env = "ROTOR_TENSOR", hide_env = true)]
    tensor: Option<String>,
    /// The file to write: .safetensors, .npz, or .npy for a single array.
    #[arg(short, long, value_name = "FILE", env = "ROTOR_OUTPUT", hide_env = true)]
    output: PathBuf,
    /// What ternary weights become: two bit planes, 2-bit codes, bytes, or numbers.
    #[arg(long = "as", value_name = "FORM", env = "ROTOR_AS", hide_env = true)]
    #[arg(value_parser = PossibleValuesParser::new(ArrayForm::ALL.map(ArrayForm::name)).try_map(|name| name.parse::<ArrayForm>()))]
    form: ArrayForm,
    /// Print one JSON object.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_JSON", hide_env = true)]
    json: bool,
    #[command(flatten)]
    open: OpenArgs,
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    let source = load::open(args.model.path(), &args.open.options()?)?;
    let selection = match (&args.layer, &args.tensor) {
        (Some(layer), _) => Selection::Layer(*layer),
        (None, Some(name)) => Selection::Tensor(name),
        (None, None) => anyhow::bail!("name a --layer or a --tensor"),
    };
    args.open.refuse_overwriting(&args.output)?;
    let extracted = extract(&source, selection, args.form, &args.output)?;
    if args.json {
        print_json(&serde_json::to_value(&extracted)?)?;
    } else {
        print(&printable(&text(args, &extracted)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What was written, for people.
fn text(args: &Args, extracted: &Extracted) -> String {
    let mut text = format!("wrote {}\n", args.output.display());
    // Writing to a string does not fail.
    for array in &extracted.arrays {
        let _ = writeln!(text, "  {} {} {:?}", array.name, array.dtype, array.shape);
    }
    for (name, scales) in &extracted.scales_left_out {
        let shown: Vec<String> = scales.iter().take(SHOWN_SCALES).map(|scale| format!("{scale:e}")).collect();
        let more = if scales.len() > SHOWN_SCALES { ", ..." } else { "" };
        let _ = writeln!(text, "  not in the file, which holds one array: {name} = {}{more}", shown.join(", "));
    }
    text
}
