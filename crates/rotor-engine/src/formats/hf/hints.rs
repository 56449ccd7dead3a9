//! What a folder lacks that is named as a model, and what it holds instead.

use super::files::{CONFIG, SINGLE_FILE};
use super::safetensors;
use crate::error::FormatError;
use std::path::Path;

/// Most files that are named.
const NAMED: usize = 4;
/// How the names of weights end that are in another format.
const OTHER_WEIGHTS: [&str; 9] = [".bin", ".pt", ".pth", ".ckpt", ".onnx", ".h5", ".msgpack", ".npz", ".mlx"];
/// What a model is, for somebody who named something else.
const A_MODEL: &str = ": a model is a .gguf file or a folder with config.json and safetensors files";

/// Whether a folder without config.json holds something that can be shown or tokenized with.
pub(super) fn has_parts_of_a_model(folder: &Path) -> bool {
    [SINGLE_FILE, safetensors::INDEX, "tokenizer.json"].iter().any(|name| folder.join(name).is_file())
}

/// The error for a folder without config.json.
pub(super) fn no_config(folder: &Path) -> FormatError {
    if folder.join("adapter_config.json").is_file() {
        return FormatError::unsupported(
            format!("{}, an adapter (LoRA),", folder.display()),
            "it changes another model's weights; merge it into that model first",
        );
    }
    let hint = instead(folder).unwrap_or_else(|| A_MODEL.into());
    FormatError::Missing { what: format!("file {}", folder.join(CONFIG).display()), hint }
}

/// The error for a folder without weights that are read.
pub(super) fn no_weights(folder: &Path) -> FormatError {
    let what = format!("{SINGLE_FILE} or {} in {}", safetensors::INDEX, folder.display());
    FormatError::Missing { what, hint: instead(folder).unwrap_or_default() }
}

/// The weights that are there, and what to do with them.
fn instead(folder: &Path) -> Option<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let ending = |ending: &str| names.iter().filter(|name| name.to_lowercase().ends_with(ending)).collect::<Vec<_>>();
    let (gguf, weights) = (ending(".gguf"), ending(".safetensors"));
    if let Some(name) = gguf.first().or(weights.first().filter(|_| weights.len() == 1)) {
        return Some(format!(": the folder holds {name}, name that file"));
    }
    if !weights.is_empty() {
        return Some(format!(": the folder holds {}, and no index says how they belong together", listed(&weights)));
    }
    let others: Vec<&String> = OTHER_WEIGHTS.iter().flat_map(|other| ending(other)).collect();
    let convert = "which have to be converted to safetensors first, by the library that wrote them";
    (!others.is_empty()).then(|| format!(": the folder holds {}, {convert}", listed(&others)))
}

/// The first names, and how many more there are.
fn listed(names: &[&String]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMED).map(|name| name.as_str()).collect();
    let more = names.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &more
}
