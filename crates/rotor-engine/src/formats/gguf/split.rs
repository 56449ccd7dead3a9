//! Opening a GGUF file that may be one of several parts.

use super::super::map::FileBytes;
use super::super::metadata::Metadata;
use super::super::table::TensorTable;
use super::header::Header;
use crate::error::FormatError;
use std::path::{Path, PathBuf};

/// Most parts of a split. Names have five digits; a model of that many files does not exist.
const MAX_PARTS: usize = 1000;

/// The contents of a GGUF file, all parts of it.
#[derive(Debug)]
pub(in super::super) struct File {
    pub(in super::super) metadata: Metadata,
    pub(in super::super) table: TensorTable,
    pub(in super::super) warnings: Vec<String>,
}

/// A file of one part, from bytes already at hand.
pub(in super::super) fn single(bytes: FileBytes) -> Result<File, FormatError> {
    let header = Header::parse(bytes.as_slice())?;
    if part_count(&header.metadata)? > 1 {
        return Err(FormatError::unsupported("one part of a split model", "open its first file by name"));
    }
    let mut table = TensorTable::default();
    table.add_file(None, bytes, header.tensors)?;
    Ok(File { metadata: header.metadata, table, warnings: header.warnings })
}

/// A file by name, with the other parts of its split.
pub(in super::super) fn open(path: &Path, in_memory: bool) -> Result<File, FormatError> {
    let bytes = FileBytes::open(path, in_memory)?;
    let Header { metadata, tensors, mut warnings } = Header::parse(bytes.as_slice()).map_err(|e| e.in_file(path))?;
    let count = part_count(&metadata).map_err(|e| e.in_file(path))?;
    let mut table = TensorTable::default();
    table.add_file(Some(path), bytes, tensors)?;
    // What is wrong with the other parts keeps the model from running, and not this one from being shown.
    if count > 1
        && let Err(flaw) = add_parts(&mut table, &mut warnings, path, &metadata, in_memory, count)
    {
        table.set_flaw(flaw);
    }
    Ok(File { metadata, table, warnings })
}

/// Adds the parts after the first.
fn add_parts(
    table: &mut TensorTable,
    warnings: &mut Vec<String>,
    path: &Path,
    metadata: &Metadata,
    in_memory: bool,
    count: usize,
) -> Result<(), FormatError> {
    let names = PartNames::of(path, metadata, count).map_err(|e| e.in_file(path))?;
    for number in 1..count {
        let part = names.path(number);
        add_part(table, warnings, &part, in_memory, number, count).map_err(|e| e.in_file(&part))?;
    }
    check_tensor_count(metadata, table).map_err(|e| e.in_file(path))
}

fn add_part(
    table: &mut TensorTable,
    warnings: &mut Vec<String>,
    path: &Path,
    in_memory: bool,
    number: usize,
    count: usize,
) -> Result<(), FormatError> {
    let bytes = FileBytes::open(path, in_memory)?;
    let header = Header::parse(bytes.as_slice())?;
    for (key, expected) in [("split.no", number), ("split.count", count)] {
        let found = header.metadata.require_usize(key)?;
        if found != expected {
            return Err(FormatError::invalid(format!("metadata key {key}"), expected.to_string(), found));
        }
    }
    warnings.extend(header.warnings);
    table.add_file(Some(path), bytes, header.tensors)
}

/// `split.count`, 1 where the file is whole.
fn part_count(metadata: &Metadata) -> Result<usize, FormatError> {
    match metadata.usize("split.count")?.unwrap_or(1) {
        count @ 0..=MAX_PARTS => Ok(count),
        many => Err(FormatError::invalid("metadata key split.count", format!("at most {MAX_PARTS}"), many)),
    }
}

fn check_tensor_count(metadata: &Metadata, table: &TensorTable) -> Result<(), FormatError> {
    let found = table.iter().count();
    match metadata.usize("split.tensors.count")? {
        Some(expected) if expected != found => {
            let what = "number of tensors in all parts";
            Err(FormatError::invalid(what, format!("{expected}, as split.tensors.count says"), found))
        }
        _ => Ok(()),
    }
}

/// `<prefix>-00001-of-00003.gguf`: the parts of a split, numbered from 1 in their names and from 0 in their keys.
struct PartNames {
    folder: PathBuf,
    prefix: String,
    count: usize,
}

impl PartNames {
    fn of(path: &Path, metadata: &Metadata, count: usize) -> Result<Self, FormatError> {
        let number = metadata.usize("split.no")?.unwrap_or(0);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let prefix = name.strip_suffix(&Self::suffix(number, count));
        if number != 0 {
            let first =
                prefix.map_or("the one whose name has 00001".into(), |p| format!("{p}{}", Self::suffix(0, count)));
            let what = format!("part {} of a split model", number.saturating_add(1));
            return Err(FormatError::unsupported(what, format!("open its first file, {first}")));
        }
        let Some(prefix) = prefix else {
            let expected = format!("PREFIX{}", Self::suffix(0, count));
            return Err(FormatError::invalid("name of the first part of a split model", expected, name));
        };
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        Ok(Self { folder, prefix: prefix.to_owned(), count })
    }

    fn suffix(number: usize, count: usize) -> String {
        format!("-{:05}-of-{count:05}.gguf", number.saturating_add(1))
    }

    fn path(&self, number: usize) -> PathBuf {
        self.folder.join(format!("{}{}", self.prefix, Self::suffix(number, self.count)))
    }
}
