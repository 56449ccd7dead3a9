//! `rotor pull`: fetch a model from a hub.

use super::progress::Progress;
use super::{examine, library, memory};
use crate::terminal::{message, print_json, print_line};
use anyhow::bail;
use clap::builder::FalseyValueParser;
use rotor_hub::{Event, Hub, HubError, Plan, PullOptions, Pulled, Reference, Settings, units};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Fetch a model from Hugging Face, or from the hub that HF_ENDPOINT names.
///
/// MODEL is REPO[:FILE or QUANT][@REVISION], or the short name of a known model (`rotor list --known`). In a repository with
/// several files the best ternary one for this machine is chosen. The files go into the hub's own cache, where its other
/// tools find them; what was interrupted goes on where it stopped. HF_TOKEN, HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE mean
/// what they mean to those tools.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// REPO[:FILE or QUANT][@REVISION], or the name of a known model.
    #[arg(value_name = "MODEL", required = true)]
    models: Vec<String>,
    /// Put the files into this folder instead of the cache.
    #[arg(long, value_name = "DIR", env = "ROTOR_LOCAL_DIR", hide_env = true)]
    local_dir: Option<PathBuf>,
    /// Say what would be fetched, and fetch nothing.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_DRY_RUN", hide_env = true)]
    dry_run: bool,
    /// Fetch the file even if its beginning shows that it cannot be run.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_ANY", hide_env = true)]
    any: bool,
    /// Print one JSON object for each model.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_JSON", hide_env = true)]
    json: bool,
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    let settings = Settings::from_environment()?;
    let hub = Hub::new(&settings)?;
    for name in &args.models {
        let reference = reference(&settings, name)?;
        if settings.offline {
            already_here(args, &settings, name)?;
            continue;
        }
        let mut progress = Progress::new();
        let mut on_event = |event: Event<'_>| {
            if let Event::Chosen(plan) = &event {
                message(format_args!("{}", planned(plan)));
            }
            progress.take(&event);
        };
        if args.dry_run {
            let plan = hub.plan(&reference, memory(), &mut on_event)?;
            report(args, &plan, None)?;
            continue;
        }
        let options = PullOptions {
            local_dir: args.local_dir.clone(),
            memory: memory(),
            examine: if args.any { None } else { Some(&examine) },
            cancelled: None,
        };
        let pulled = hub.pull(&reference, &options, &mut on_event)?;
        drop(progress);
        report(args, &pulled.plan, Some(&pulled))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What a name refers to on the hub.
fn reference(settings: &Settings, name: &str) -> anyhow::Result<Reference> {
    // The parser's error says what is wrong with a name that is none.
    Ok(match library(settings).reference(name)? {
        Some(reference) => reference,
        None => Reference::parse(name)?,
    })
}

/// Without a network, what is here will do.
fn already_here(args: &Args, settings: &Settings, name: &str) -> anyhow::Result<()> {
    let found = match library(settings).find(name) {
        Err(HubError::NotHere { .. }) => return Err(HubError::Offline { what: name.into() }.into()),
        found => found?,
    };
    if args.local_dir.is_some() {
        bail!("{name} is in the cache, and nothing is copied from there in offline mode");
    }
    if args.json {
        return Ok(print_json(&serde_json::to_value(&found)?)?);
    }
    Ok(print_line(&found.path.display().to_string())?)
}

/// What is to be fetched, as a sentence.
pub(super) fn planned(plan: &Plan) -> String {
    let files = match plan.files.as_slice() {
        [one] => one.name.clone(),
        several => format!("{} files", several.len()),
    };
    let repository = &plan.repository;
    let licence = repository.licence.as_ref().map(|name| format!(", licence {name}")).unwrap_or_default();
    format!("{}: {files}, {}{licence} ({})", repository.id, units::bytes(plan.size()), plan.choice.why)
}

/// What has been done, as a sentence.
pub(super) fn done(pulled: &Pulled) -> String {
    match pulled.fetched {
        0 => "everything was here already".to_owned(),
        fetched => format!("fetched {} and checked them against the hub's record", units::bytes(fetched)),
    }
}

/// The path goes to stdout, so that a script can use it.
fn report(args: &Args, plan: &Plan, pulled: Option<&Pulled>) -> anyhow::Result<()> {
    if args.json {
        let files: Vec<_> = plan
            .files
            .iter()
            .map(|file| json!({"name": file.name, "size": file.size, "hash": file.hash.as_str()}))
            .collect();
        return Ok(print_json(&json!({
            "repository": plan.repository.id.as_str(),
            "commit": plan.repository.commit,
            "license": plan.repository.licence,
            "files": files,
            "size": plan.size(),
            "why": plan.choice.why,
            "path": pulled.map(|pulled| pulled.path.display().to_string()),
            "fetched": pulled.map(|pulled| pulled.fetched),
        }))?);
    }
    match pulled {
        Some(pulled) => {
            message(format_args!("{}", done(pulled)));
            print_line(&pulled.path.display().to_string())?;
        }
        // The events have said it to people; a dry run's result is the same sentence.
        None => print_line(&planned(plan))?,
    }
    Ok(())
}
