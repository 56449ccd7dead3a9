//! The small files of a model folder, read with a cap on their size.

use super::super::foreign::{self, without_byte_order_mark};
use super::super::map::kind_of;
use crate::error::FormatError;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The file that says what a model is.
pub(in super::super) const CONFIG: &str = "config.json";
/// The file of weights that are not in shards.
pub(super) const SINGLE_FILE: &str = "model.safetensors";

/// Largest JSON or template file. The largest tokenizer.json of a ternary model has 33 MB.
const MAX_FILE: u64 = 256 << 20;

/// Where the small files are.
#[derive(Debug)]
pub(in super::super) enum Files {
    /// In this folder.
    Folder(PathBuf),
    /// In another file's metadata.
    Memory(BTreeMap<String, Vec<u8>>),
}

impl Files {
    /// The name of a file for people.
    pub(super) fn name(&self, name: &str) -> PathBuf {
        match self {
            Files::Folder(folder) => folder.join(name),
            Files::Memory(_) => name.into(),
        }
    }

    /// Reads a file whole; `None` where there is none.
    pub(in super::super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FormatError> {
        match self {
            Files::Folder(folder) => read_optional(&folder.join(name)),
            Files::Memory(files) => Ok(files.get(name).cloned()),
        }
    }

    /// A JSON object, where the file exists.
    pub(super) fn read_json(&self, name: &str) -> Result<Option<Map<String, Value>>, FormatError> {
        self.read(name)?.map(|bytes| parse_object(&self.name(name), &bytes)).transpose()
    }
}

/// Reads a file whole, without a byte order mark in front of it; `None` where there is none.
pub(super) fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, FormatError> {
    let failed = |action| move |source| FormatError::Io { action, path: path.to_path_buf(), source };
    // Looked at by name first: opening a pipe would wait for its writer.
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open")(error)),
        Ok(metadata) if !metadata.is_file() => {
            let found = kind_of(metadata.file_type());
            return Err(FormatError::invalid("path", "a regular file", found).in_file(path));
        }
        Ok(_) => {}
    }
    let file = std::fs::File::open(path).map_err(failed("open"))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed("read"))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(FormatError::invalid("file size", format!("at most {MAX_FILE} bytes"), "more").in_file(path));
    }
    // A byte order mark is an editor's, not a part of the text; it is copied where there is none.
    let is_marked = without_byte_order_mark(&bytes).len() < bytes.len();
    Ok(Some(if is_marked { without_byte_order_mark(&bytes).to_vec() } else { bytes }))
}

/// A JSON object, where the file exists.
pub(super) fn read_optional_json(path: &Path) -> Result<Option<Map<String, Value>>, FormatError> {
    read_optional(path)?.map(|bytes| parse_object(path, &bytes)).transpose()
}

fn parse_object(path: &Path, bytes: &[u8]) -> Result<Map<String, Value>, FormatError> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(FormatError::invalid("file", "a JSON object", "another JSON value").in_file(path)),
        Err(error) => {
            // A JSON text that is broken is no surprise; anything else is called what it is.
            let begins = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
            let foreign = foreign::recognised(bytes).filter(|_| !matches!(begins, Some(b'{' | b'[')));
            Err(foreign.unwrap_or_else(|| FormatError::invalid("file", "JSON", error)).in_file(path))
        }
    }
}

/// A JSON object that must be there.
pub(super) fn read_json(path: &Path) -> Result<Map<String, Value>, FormatError> {
    read_optional_json(path)?.ok_or_else(|| FormatError::missing(format!("file {}", path.display())))
}
