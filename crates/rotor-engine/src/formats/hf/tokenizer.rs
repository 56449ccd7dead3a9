//! The tokenizer and chat template files of a folder.

use super::super::tokenizer_source::{HuggingFaceTokenizer, TokenizerSource};
use super::Folder;
use super::files::CONFIG;
use super::json::Object;
use crate::error::FormatError;
use serde_json::Value;

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// `tokenizer.json` with what stands beside it; `None` where the folder has none.
pub(in super::super) fn tokenizer(folder: &Folder) -> Result<Option<TokenizerSource>, FormatError> {
    let Some(tokenizer) = folder.files.read("tokenizer.json")? else { return Ok(None) };
    let generation = folder.files.read_json("generation_config.json")?.unwrap_or_default();
    let generation = Object::new(&generation, "generation_config.json");
    let config = Object::new(&folder.config, CONFIG);
    let mut warnings = Vec::new();
    let mut eos_token_ids = generation.ids("eos_token_id", &mut warnings);
    // Hunyuan names the end of a document beside that of a turn.
    let ends = ["eos_token_id", "eod_token_id"].map(|key| config.ids(key, &mut warnings));
    for id in ends.into_iter().flatten() {
        if !eos_token_ids.contains(&id) {
            eos_token_ids.push(id);
        }
    }
    let bos = generation.ids("bos_token_id", &mut warnings);
    let bos_token_id = bos.into_iter().chain(config.ids("bos_token_id", &mut warnings)).next();
    let tokenizer_config = folder.files.read(TOKENIZER_CONFIG)?;
    let special_tokens_map = folder.files.read("special_tokens_map.json")?;
    Ok(Some(TokenizerSource::HuggingFace(Box::new(HuggingFaceTokenizer {
        tokenizer,
        tokenizer_config,
        special_tokens_map,
        eos_token_ids,
        bos_token_id,
        warnings,
    }))))
}

/// The template in a file of its own, or in `tokenizer_config.json`: text, or a list of which one is named "default".
pub(in super::super) fn chat_template(folder: &Folder) -> Result<Option<String>, FormatError> {
    const FILE: &str = "chat_template.jinja";
    if let Some(template) = folder.files.read(FILE)? {
        return String::from_utf8(template).map(Some).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            FormatError::invalid(
                folder.files.name(FILE).display().to_string(),
                "UTF-8",
                format!("an invalid byte at {at}, counted from 0"),
            )
        });
    }
    let Some(config) = folder.files.read_json(TOKENIZER_CONFIG)? else { return Ok(None) };
    let template = match config.get("chat_template") {
        Some(Value::Array(templates)) => templates
            .iter()
            .find(|template| template.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|template| template.get("template")),
        other => other,
    };
    match template {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(template)) => Ok(Some(template.clone())),
        Some(other) => {
            let name = format!("chat_template in {}", folder.files.name(TOKENIZER_CONFIG).display());
            Err(FormatError::invalid(name, "a string, or a list of templates with names", other))
        }
    }
}
