//! The tokenizer and chat template files of a folder.

use super::super::TokenizerSource;
use super::Folder;
use super::json::Object;
use crate::error::FormatError;
use serde_json::Value;

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// `tokenizer.json` with what stands beside it; `None` where the folder has none.
pub(in super::super) fn tokenizer(folder: &Folder) -> Result<Option<TokenizerSource>, FormatError> {
    let Some(tokenizer) = folder.files.read("tokenizer.json")? else { return Ok(None) };
    let generation_path = folder.files.name("generation_config.json");
    let generation = folder.files.read_json("generation_config.json")?.unwrap_or_default();
    let generation = Object::new(&generation, "generation_config.json");
    let config = Object::new(&folder.config, super::CONFIG);
    let mut eos_token_ids = generation.ids("eos_token_id").map_err(|e| e.in_file(&generation_path))?;
    for id in config.ids("eos_token_id")? {
        if !eos_token_ids.contains(&id) {
            eos_token_ids.push(id);
        }
    }
    let bos = generation.ids("bos_token_id").map_err(|e| e.in_file(&generation_path))?;
    let bos_token_id = bos.into_iter().chain(config.ids("bos_token_id")?).next();
    let tokenizer_config = folder.files.read(TOKENIZER_CONFIG)?;
    Ok(Some(TokenizerSource::HuggingFace { tokenizer, tokenizer_config, eos_token_ids, bos_token_id }))
}

/// The template in a file of its own, or in `tokenizer_config.json`: text, or a list of which one is named "default".
pub(in super::super) fn chat_template(folder: &Folder) -> Option<String> {
    if let Ok(Some(template)) = folder.files.read("chat_template.jinja") {
        return String::from_utf8(template).ok();
    }
    let config = folder.files.read_json(TOKENIZER_CONFIG).ok()??;
    match config.get("chat_template")? {
        Value::String(template) => Some(template.clone()),
        Value::Array(templates) => templates
            .iter()
            .find(|template| template.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|template| Some(template.get("template")?.as_str()?.to_owned())),
        _ => None,
    }
}
