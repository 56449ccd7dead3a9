//! `rotor synth`: synthetic models, for measuring and testing where none can be downloaded.

use crate::progress::Bar;
use crate::terminal::print_line;
use crate::units;
use crate::values::{HeadName, LayoutName, seed};
use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use rotor::forms::I2sLayout;
use rotor::synth::{Preset, SynthOptions, SynthType, synthesize};
use std::path::PathBuf;
use std::process::ExitCode;

/// Write a synthetic model of a published architecture's exact shapes.
///
/// Forty per cent of the weights are 0; the numbers depend on the seed alone. The text such a model writes is noise.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The architecture.
    #[arg(value_parser = PossibleValuesParser::new(Preset::ALL.map(Preset::name)).try_map(|name| name.parse::<Preset>()))]
    preset: Preset,
    /// The file to write, or the folder for `--type hf`.
    out: PathBuf,
    /// A GGUF with I2_S weights, or a Hugging Face folder with packed ones.
    #[arg(long = "type", value_name = "TYPE", default_value = "i2_s", env = "ROTOR_TYPE", hide_env = true)]
    form: TypeName,
    /// Where I2_S tensors keep which element.
    #[arg(long, value_name = "BLOCK", default_value = "128", env = "ROTOR_I2S_LAYOUT", hide_env = true)]
    i2s_layout: LayoutName,
    /// How the embedding and the head are stored; in a Hugging Face folder f32, f16 or bf16.
    #[arg(long, value_name = "TYPE", default_value = "f16", env = "ROTOR_HEAD", hide_env = true)]
    head: HeadName,
    /// Where the random numbers begin.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = seed, env = "ROTOR_SEED", hide_env = true)]
    seed: u64,
    /// tokenizer.json or tiktoken ranks to take the vocabulary from [default: a byte-level one of the right size].
    #[arg(long, value_name = "FILE", env = "ROTOR_TOKENIZER", hide_env = true)]
    tokenizer: Option<PathBuf>,
    /// Share of the gates that are above zero, from 0 to 1, for models whose gate is a squared ReLU (bitnet-2b-4t, tiny)
    /// [default: as it happens, about half].
    #[arg(long, value_name = "SHARE", value_parser = share, env = "ROTOR_ACTIVE_GATES", hide_env = true)]
    active_gates: Option<f32>,
}

fn share(text: &str) -> Result<f32, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TypeName {
    #[value(name = "i2_s")]
    I2S,
    Hf,
}

impl Args {
    fn options(&self) -> SynthOptions {
        let layout: I2sLayout = self.i2s_layout.layout();
        SynthOptions {
            form: match self.form {
                TypeName::I2S => SynthType::I2S(layout),
                TypeName::Hf => SynthType::HuggingFace,
            },
            head: self.head.dense_type(),
            seed: self.seed,
            tokenizer: self.tokenizer.clone(),
            active_gates: self.active_gates,
        }
    }
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    let bar = Bar::bytes("writing", 0);
    let report = synthesize(args.preset, &args.out, &args.options(), &mut |done, total| bar.set(done, total))?;
    drop(bar);
    print_line(&format!(
        "wrote {}: {}, {} tensors, {} ternary weights, {} tokens, {}",
        args.out.display(),
        args.preset,
        report.tensors,
        units::count(report.ternary_weights),
        report.vocabulary,
        units::bytes(report.bytes),
    ))?;
    Ok(ExitCode::SUCCESS)
}
