//! `rotor show`: what is known about one model.

use super::{library, list};
use crate::terminal::{print, print_json, printable};
use clap::builder::FalseyValueParser;
use rotor_hub::known::{self, KnownModel, Sourced};
use rotor_hub::{HubError, LocalModel, RepoId, Settings, units};
use serde_json::json;
use std::fmt::Write as _;
use std::process::ExitCode;

/// Show where a model is, what it consists of, and what is known about it.
///
/// What is in its file is shown by `rotor inspect`, and whether that is whole and right by `rotor verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The name of a model on this machine, or of a known one.
    #[arg(value_name = "MODEL")]
    model: String,
    /// Print one JSON object.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_JSON", hide_env = true)]
    json: bool,
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    let settings = Settings::from_environment()?;
    let library = library(&settings);
    let here = match library.find(&args.model) {
        Ok(model) => Some(model),
        Err(HubError::NotHere { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let known = match library.reference(&args.model)? {
        Some(reference) => known::of_repository(&reference.repo),
        None => None,
    };
    if here.is_none() && known.is_none() {
        let hint = ": `rotor list` shows what is here, `rotor list --known` what can be fetched".into();
        return Err(HubError::NotHere { text: args.model.clone(), hint }.into());
    }
    if args.json {
        print_json(&json!({"here": here, "known": known}))?;
    } else {
        print(&printable(&text(&args.model, here.as_ref(), known)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(name: &str, here: Option<&LocalModel>, known: Option<&KnownModel>) -> String {
    let mut lines: Vec<(&str, String)> = Vec::new();
    match here {
        Some(model) => lines.extend(local(model)),
        None => lines.push(("on this machine", format!("no; `rotor pull {name}` fetches it"))),
    }
    if let Some(model) = known {
        lines.extend(published(model));
    }
    let mut text = format!("{name}\n");
    for (label, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {label:<15} {value}");
    }
    text
}

fn local(model: &LocalModel) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("from", model.origin.name().to_owned()),
        ("path", model.path.display().to_string()),
        ("size", format!("{}, {}", units::bytes(model.size), model.modified.map(list::ago).unwrap_or_default())),
        ("commit", model.commit.clone().unwrap_or_default()),
        ("revisions", model.revisions.join(", ")),
    ];
    for file in &model.files {
        // A link into the cache has the hash as the name of what it leads to.
        let blob = std::fs::read_link(file).ok();
        let hash = blob.as_ref().and_then(|blob| blob.file_name()).map(|name| name.to_string_lossy().into_owned());
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        lines.push(("file", format!("{name}  {}", hash.unwrap_or_default()).trim_end().to_owned()));
    }
    lines
}

fn published(model: &KnownModel) -> Vec<(&'static str, String)> {
    let names: Vec<&str> = model.aliases.iter().map(String::as_str).collect();
    let sampling = model.sampling.as_ref().map(|sampling| {
        let figures = [
            sampling.value.temperature.map(|value| format!("temperature {value}")),
            sampling.value.top_p.map(|value| format!("top-p {value}")),
            sampling.value.top_k.map(|value| format!("top-k {value}")),
        ];
        sourced(&figures.into_iter().flatten().collect::<Vec<_>>().join(", "), &sampling.source)
    });
    let fact = |fact: &Option<Sourced<u64>>, unit: &dyn Fn(u64) -> String| {
        fact.as_ref().map(|fact| sourced(&unit(fact.value), &fact.source)).unwrap_or_default()
    };
    let word = |fact: &Sourced<String>| sourced(&fact.value, &fact.source);
    vec![
        ("known as", std::iter::once(model.name.as_str()).chain(names).collect::<Vec<_>>().join(", ")),
        ("repository", RepoId::new(&model.repository).map_or(String::new(), |repo| repo.to_string())),
        ("published size", fact(&model.size, &units::bytes)),
        ("published hash", model.sha256.as_ref().map(word).unwrap_or_default()),
        ("licence", word(&model.license)),
        ("architecture", model.architecture.as_ref().map(word).unwrap_or_default()),
        ("context", fact(&model.context, &|tokens| format!("{tokens} tokens"))),
        ("sampling", sampling.unwrap_or_default()),
        ("good for", model.good_for.clone()),
    ]
}

/// A fact with where it is from.
fn sourced(text: &str, source: &str) -> String {
    let source = known::sources().get(source).map(String::as_str).unwrap_or_default();
    format!("{text}  ({})", source.trim_end_matches('.'))
}
