//! `rotor rm`: remove models and unfinished downloads.

use super::{agreed, library};
use crate::outcome::UsageError;
use crate::terminal::{message, print_json};
use clap::builder::FalseyValueParser;
use rotor_hub::{HubError, Settings, units};
use serde_json::json;
use std::io::{IsTerminal, stderr, stdin};
use std::process::ExitCode;

/// Remove models from the hub's cache.
///
/// REPO removes every revision of it, REPO:FILE one file, REPO@REVISION one revision. What other programs have stored is
/// left alone. On a terminal it asks first.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Models of the hub's cache.
    #[arg(value_name = "MODEL")]
    models: Vec<String>,
    /// Remove the downloads that did not come to their end, too.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_PARTIAL", hide_env = true)]
    partial: bool,
    /// Do not ask.
    #[arg(short, long, value_parser = FalseyValueParser::new(), env = "ROTOR_YES", hide_env = true)]
    yes: bool,
    /// Print one JSON object: the bytes that are free now.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_JSON", hide_env = true)]
    json: bool,
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    if args.models.is_empty() && !args.partial {
        return Err(UsageError("name a model, or say --partial to remove unfinished downloads".into()).into());
    }
    let library = library(&Settings::from_environment()?);
    let plan = |name: &String| {
        library.plan_removal(name).map_err(|error| match error {
            HubError::NotHere { text, .. } => {
                HubError::NotHere { text, hint: ": `rotor list` shows what is here".into() }
            }
            other => other,
        })
    };
    // All names are looked up before anything is removed.
    let removals = args.models.iter().map(plan).collect::<Result<Vec<_>, _>>()?;
    let asks = !args.yes && stdin().is_terminal() && stderr().is_terminal();
    for removal in removals.iter().filter(|_| asks) {
        message(format_args!("{}: {}", removal.repository(), removal.files().join(", ")));
    }
    if asks && !removals.is_empty() && !agreed("Remove them?")? {
        return Ok(ExitCode::FAILURE);
    }
    let mut freed = if args.partial { library.remove_unfinished()? } else { 0 };
    for removal in &removals {
        freed += library.remove(removal)?;
    }
    if args.json {
        print_json(&json!({ "freed": freed }))?;
    } else {
        message(format_args!("{} are free now", units::bytes(freed)));
    }
    Ok(ExitCode::SUCCESS)
}
