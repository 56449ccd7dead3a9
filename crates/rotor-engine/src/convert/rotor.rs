//! The `__metadata__` of a Rotor file: everything about the model that is not a tensor.

use super::folder::pretty;
use super::keys::{is_of_the_file, own_texts};
use super::pieces::Piece;
use super::plan::{Planned, Stored, stem};
use crate::error::FormatError;
use crate::formats::metadata::Metadata;
use crate::formats::rotor::{VERSION, key, side_files_json};
use crate::formats::{COPIED, Source, SourceMetadata, metadata_json};
use crate::forms::TernaryForm;
use crate::write::safetensors::{self, SafetensorsHeader};
use serde_json::Value;

/// The source's key-values or files, and the order of its tensors.
pub(super) fn put_metadata(
    header: &mut SafetensorsHeader,
    source: &Source,
    pieces: &[Piece<'_>],
) -> Result<(), FormatError> {
    header.metadata(key::VERSION, VERSION);
    match source.metadata() {
        SourceMetadata::Gguf(metadata) => {
            let mut kept = Metadata::default();
            for (key, value) in metadata.iter().filter(|(key, _)| !is_of_the_file(key)) {
                kept.insert(key.to_owned(), value.clone())?;
            }
            header.metadata(key::GGUF, &metadata_json::to_json(&kept).to_string());
        }
        SourceMetadata::HuggingFace(config) => {
            let mut files = vec![("config.json", pretty(&Value::Object(config.clone())))];
            for name in COPIED {
                files.extend(source.side_file(name)?.map(|bytes| (name, bytes)));
            }
            header.metadata(key::HUGGING_FACE, &side_files_json(&files).to_string());
            own_texts(&source.safetensors_metadata()).for_each(|(key, text)| header.metadata(key, text));
        }
    }
    let order: Vec<&str> = pieces.iter().map(|piece| piece.name.as_str()).collect();
    header.metadata(key::ORDER, &Value::from(order).to_string());
    Ok(())
}

/// The shapes of tensors that are stored as bytes, and the types of those that are numbers.
pub(super) fn put_shapes(header: &mut SafetensorsHeader, planned: &[Planned<'_>]) -> Result<(), FormatError> {
    for tensor in planned {
        let (stem, rows, cols) = match (tensor.stored, tensor.ternary(), tensor.dense_shape()) {
            (Stored::Ternary(form), Some(trits), _) => {
                let ending = if form == TernaryForm::Rotor { ".bit0" } else { ".codes" };
                let stem = tensor.name.strip_suffix(ending).unwrap_or(&tensor.name);
                (stem, trits.tensor.rows, trits.tensor.cols)
            }
            (Stored::Dense(dtype), _, Some((rows, cols))) if safetensors::dtype(dtype).is_none() => {
                let stem = stem(&tensor.name)?;
                header.metadata(&key::dtype(stem), dtype.name());
                (stem, rows, cols)
            }
            (Stored::Dense(_), ..) if [".bit0", ".codes"].iter().any(|ending| tensor.name.ends_with(ending)) => {
                let what = format!("tensor {:?} in a Rotor file", tensor.name);
                return Err(FormatError::unsupported(what, "a name with that ending is kept for trits"));
            }
            _ => continue,
        };
        header.metadata(&key::shape(stem), &format!("[{rows},{cols}]"));
    }
    Ok(())
}
