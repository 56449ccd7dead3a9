//! `rotor list`: the models on this machine, and those that are known by name.

use super::library;
use crate::terminal::{message, print, print_json, printable};
use clap::builder::FalseyValueParser;
use rotor_hub::known::{self, KnownModel};
use rotor_hub::{Library, Settings, units};
use serde_json::json;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::SystemTime;

/// Show the models on this machine: those of the hub's cache, and those that llama.cpp, Ollama and LM Studio have stored.
///
/// Any of the names can be given where a command takes a MODEL.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show the published models that rotor knows by a short name instead.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_KNOWN", hide_env = true)]
    known: bool,
    /// Print one JSON object.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_JSON", hide_env = true)]
    json: bool,
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    let settings = Settings::from_environment()?;
    match (args.known, args.json) {
        (true, true) => print_json(&json!({"models": known::all(), "sources": known::sources()}))?,
        (true, false) => print(&table(&known_rows()))?,
        (false, true) => {
            let library = library(&settings);
            print_json(&json!({"models": library.models(), "unfinished": library.unfinished()}))?;
        }
        (false, false) => print(&here(&library(&settings)))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn here(library: &Library) -> String {
    let models = library.models();
    let unfinished = library.unfinished();
    if models.is_empty() && unfinished.is_empty() {
        message(format_args!(
            "There are no models on this machine. `rotor list --known` shows some that can be fetched."
        ));
        return String::new();
    }
    let mut rows = vec![["NAME", "SIZE", "MODIFIED", "FROM"].map(str::to_owned).to_vec()];
    for model in models {
        let modified = model.modified.map(ago).unwrap_or_default();
        rows.push(vec![model.name, units::bytes(model.size), modified, model.origin.name().into()]);
    }
    let mut text = if rows.len() > 1 { table(&rows) } else { String::new() };
    if !unfinished.is_empty() {
        let size = unfinished.iter().map(|part| part.size).sum();
        let count = unfinished.len();
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{count} unfinished downloads, {}: pull the model again to go on, `rotor rm --partial` removes them",
            units::bytes(size)
        );
    }
    text
}

fn known_rows() -> Vec<Vec<String>> {
    let mut rows = vec![["NAME", "SIZE", "CONTEXT", "LICENCE", "REPOSITORY", "GOOD FOR"].map(str::to_owned).to_vec()];
    rows.extend(known::all().iter().map(known_row));
    rows
}

fn known_row(model: &KnownModel) -> Vec<String> {
    let about = |about: bool| if about { "about " } else { "" };
    let size = model.size.as_ref().map(|size| format!("{}{}", about(size.about), units::bytes(size.value)));
    let context = model.context.as_ref().map(|context| context.value.to_string());
    vec![
        model.name.clone(),
        size.unwrap_or_default(),
        context.unwrap_or_default(),
        model.license.value.clone(),
        model.repository.clone(),
        model.good_for.clone(),
    ]
}

/// Columns, as wide as their widest entry.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    printable(&text).into_owned()
}

/// How long ago something was, in the largest unit.
pub(super) fn ago(time: SystemTime) -> String {
    let seconds = time.elapsed().map_or(0, |elapsed| elapsed.as_secs());
    let units = [(365 * 86_400, "year"), (30 * 86_400, "month"), (86_400, "day"), (3_600, "hour"), (60, "minute")];
    match units.iter().find(|(length, _)| seconds >= *length) {
        Some((length, unit)) => {
            let count = seconds / length;
            format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
        }
        None => "just now".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn columns_are_aligned_and_times_are_short() {
        let rows = [vec!["a".to_owned(), "b".into()], vec!["long".into(), String::new()]];
        assert_eq!(table(&rows), "a     b\nlong\n");
        let before = |seconds| ago(SystemTime::now() - Duration::from_secs(seconds));
        assert_eq!(before(3), "just now");
        assert_eq!(before(61), "1 minute ago");
        assert_eq!(before(3 * 86_400 + 5), "3 days ago");
    }
}
