//! `--json-schema`: a schema from a file, as a constraint of the text.

use anyhow::{Context as _, bail};
use rotor::constraint::Constraint;
use rotor::engine::Engine;
use rotor::grammar::{Grammar, Grammars};
use serde_json::Value;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Bytes of a schema at most.
const MAX_BYTES: u64 = 4 << 20;

/// A JSON schema and the file it is from.
#[derive(Debug)]
pub(super) struct Schema {
    path: PathBuf,
    schema: Value,
}

impl Schema {
    pub(super) fn read(path: &Path) -> anyhow::Result<Schema> {
        let name = || format!("the schema {}", path.display());
        let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", name()))?;
        let mut text = String::new();
        file.take(MAX_BYTES + 1).read_to_string(&mut text).with_context(|| format!("cannot read {}", name()))?;
        if text.len() as u64 > MAX_BYTES {
            bail!("{} is larger than {} MiB", name(), MAX_BYTES >> 20);
        }
        let schema: Value = serde_json::from_str(&text).with_context(|| format!("{} is no JSON", name()))?;
        if !schema.is_object() {
            bail!("{} must be a JSON object, as {{\"type\": \"object\", \"properties\": ...}}", name());
        }
        Ok(Schema { path: path.to_path_buf(), schema })
    }

    /// What keeps a text of this model's tokens to the schema.
    pub(super) fn constraint(&self, engine: &Engine) -> anyhow::Result<Box<dyn Constraint>> {
        let grammars = Grammars::new(engine.tokenizer("--json-schema")?, engine.model().config().vocab_size)?;
        let constraint = grammars.constraint(&Grammar::JsonSchema(self.schema.clone()));
        constraint.with_context(|| format!("the schema {} cannot be kept to", self.path.display()))
    }
}
