//! Models by name: finding, fetching, listing and removing them.

pub(crate) mod list;
mod progress;
pub(crate) mod pull;
pub(crate) mod rm;
pub(crate) mod show;
pub(crate) mod verify;

use crate::terminal::message;
use anyhow::Context as _;
use progress::Progress;
use rotor::formats::{Beginning, check_beginning};
use rotor::machine::Memory;
use rotor_hub::{Examined, Hub, HubError, Library, Origin, PullOptions, Reference, Settings, units};
use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};

/// Where the model that an argument names is: an existing path is itself, anything else is looked for by name. On a terminal
/// a model that is not here is offered to be fetched; elsewhere the error has the command.
///
/// Every command that takes a MODEL comes through here.
pub(crate) fn resolve(model: &Path) -> anyhow::Result<PathBuf> {
    let Some(name) = model.to_str().filter(|text| !model.exists() && !is_path(text)) else {
        // Opening it says what is wrong with a path that leads nowhere.
        return Ok(model.to_path_buf());
    };
    let settings = Settings::from_environment()?;
    let library = library(&settings);
    match library.find(name) {
        Ok(found) => Ok(found.path),
        Err(HubError::NotHere { .. }) => {
            let reference = library.reference(name)?.filter(|reference| reference.repo.as_str().contains('/'));
            offer(&settings, name, reference)
        }
        Err(error) => Err(error.into()),
    }
}

/// The models that this process sees.
pub(crate) fn library(settings: &Settings) -> Library {
    Library::new(settings, &|name| std::env::var_os(name))
}

/// Whether a text can only be meant as a path.
fn is_path(text: &str) -> bool {
    let file = Path::new(text).extension().is_some_and(|suffix| suffix == "gguf" || suffix == "safetensors");
    let beginning = text.is_empty() || text.starts_with(['/', '.', '~', '\\']);
    // A colon is part of some names, and of every whole path on Windows.
    let foreign = Origin::begins_foreign_name(text);
    beginning || (file && !foreign && !text.contains(':')) || Path::new(text).is_absolute()
}

fn not_here(name: &str, hint: String) -> anyhow::Error {
    HubError::NotHere { text: name.into(), hint }.into()
}

/// Offers to fetch what is not here.
fn offer(settings: &Settings, name: &str, reference: Option<Reference>) -> anyhow::Result<PathBuf> {
    let Some(reference) = reference else {
        return Err(not_here(
            name,
            ": `rotor list` shows what is here, `rotor list --known` what can be fetched".into(),
        ));
    };
    let command = format!(": `rotor pull {name}` fetches it");
    if settings.offline {
        return Err(HubError::Offline { what: name.into() }.into());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(not_here(name, command));
    }
    let hub = Hub::new(settings)?;
    let mut progress = Progress::new();
    let plan = hub.plan(&reference, memory(), &mut |event| progress.take(&event))?;
    message(format_args!("{name} is not on this machine; {}", pull::planned(&plan)));
    if !agreed("Fetch it now?")? {
        return Err(not_here(name, command));
    }
    let options = PullOptions { examine: Some(&examine), memory: memory(), ..PullOptions::default() };
    let pulled = hub.fetch(plan, reference.revision(), &options, &mut |event| progress.take(&event))?;
    drop(progress);
    message(format_args!("{}", pull::done(&pulled)));
    Ok(pulled.path)
}

/// Asks a person; an empty line agrees, the end of the input does not.
fn agreed(question: &str) -> anyhow::Result<bool> {
    eprint!("{question} [Y/n] ");
    let mut answer = String::new();
    let count = io::stdin().lock().read_line(&mut answer).context("cannot read from the terminal")?;
    Ok(count > 0 && matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes"))
}

/// Bytes of memory that a model can have here.
fn memory() -> Option<u64> {
    let memory = Memory::read();
    memory.total.into_iter().chain(memory.limit).min()
}

/// Refuses, from the beginning of a file, what could not be run.
fn examine(path: &Path, size: u64) -> Examined {
    match check_beginning(path, size) {
        Ok(Beginning::Unsupported(error)) => Examined::Refused(error.to_string()),
        Ok(Beginning::Supported) => Examined::Fine,
        // Where the beginning cannot be looked at the whole will tell.
        Ok(Beginning::Undecided) | Err(_) => Examined::TooShort,
    }
}

/// What a person may mean by the beginning of a MODEL argument: names of models here, and of known ones.
pub(crate) fn completions(beginning: &str) -> Vec<(String, String)> {
    // Completing must not fail: without settings there are no names.
    let Ok(settings) = Settings::from_environment() else { return Vec::new() };
    let here = library(&settings).models();
    let here = here.into_iter().map(|model| {
        let help = format!("{}, {}", units::bytes(model.size), model.origin.name());
        (model.name, help)
    });
    let known = rotor_hub::known::all().iter().map(|model| (model.name.clone(), model.good_for.clone()));
    let begins = |name: &str| name.get(..beginning.len()).is_some_and(|start| start.eq_ignore_ascii_case(beginning));
    here.chain(known).filter(|(name, _)| begins(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_from_names() {
        for path in ["", "/a/b", "./a", "../a", "~/a", "a/b.gguf", "m.safetensors", "\\\\host\\a"] {
            assert!(is_path(path), "{path}");
        }
        for name in ["a/b", "bitnet-2b", "a/b:m.gguf", "a/b-gguf", "ollama/llama3:8b", "lmstudio/a/b/m.gguf"] {
            assert!(!is_path(name), "{name}");
        }
    }
}
