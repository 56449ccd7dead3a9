//! Safetensors files: the header is checked by the format's own crate, shards and their index are handled here.
//!
//! Two things are checked before the crate sees the header: names occur once (a JSON map would keep the last), and offsets
//! are ones that this machine can address (their sum could otherwise overflow).

use super::super::foreign;
use super::super::map::FileBytes;
use super::super::table::{Storage, Tensor, TensorTable};
use super::files::read_json;
use super::json::Object;
use crate::error::FormatError;
use rotor_kernels::DenseType;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

/// Bytes in front of the header: its length.
const LENGTH_BYTES: usize = 8;
/// Longest header, the format's own limit.
const MAX_HEADER: u64 = 100_000_000;
/// Most shards of a model. The largest published ternary model has 8.
const MAX_SHARDS: usize = 1000;
/// The index of a sharded model.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The pairs in a file's `__metadata__`.
pub(in super::super) type Texts = BTreeMap<String, String>;

/// The tensors of one file, in the order of their bytes, and its `__metadata__`. The last tensors of a file that is cut short
/// end beyond it.
pub(in super::super) fn contents(bytes: &[u8]) -> Result<(Vec<Tensor>, Texts), FormatError> {
    if !looks_sound(bytes)
        && let Some(known) = foreign::recognised(bytes)
    {
        return Err(known);
    }
    let broken = |found: &dyn std::fmt::Display| FormatError::invalid("safetensors header", "a sound header", found);
    let (header, is_cut_short) = check_front(bytes)?;
    let metadata = if is_cut_short {
        serde_json::from_slice::<safetensors::tensor::Metadata>(header).map_err(|e| broken(&e))?
    } else {
        SafeTensors::read_metadata(bytes).map_err(|e| broken(&e))?.1
    };
    let data_start = LENGTH_BYTES + header.len();
    let mut tensors = Vec::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let (begin, end) = info.data_offsets;
        // Neither sum overflows: `check_front` has capped the ends.
        let range = data_start + begin..data_start + end;
        let (storage, type_name) = storage(info.dtype);
        tensors.push(Tensor { name, shape: info.shape.clone(), storage, type_name: type_name.into(), file: 0, range });
    }
    let texts = metadata.metadata().iter().flatten().map(|(key, text)| (key.clone(), text.clone())).collect();
    Ok((tensors, texts))
}

fn storage(dtype: Dtype) -> (Storage, String) {
    let storage = match dtype {
        Dtype::F32 => Storage::Dense(DenseType::F32),
        Dtype::F16 => Storage::Dense(DenseType::F16),
        Dtype::BF16 => Storage::Dense(DenseType::Bf16),
        Dtype::U8 => Storage::U8,
        Dtype::U32 => Storage::U32,
        _ => Storage::Unreadable,
    };
    (storage, dtype.to_string().to_lowercase())
}

/// Checks length, uniqueness of names and ends of tensors; returns the header, and whether the file ends before a tensor.
fn check_front(bytes: &[u8]) -> Result<(&[u8], bool), FormatError> {
    let found = bytes.len() as u64;
    let Some((&length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(FormatError::Truncated { what: "header length".into(), needed: LENGTH_BYTES as u64, found });
    };
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err(FormatError::invalid("header length", format!("at most {MAX_HEADER}"), length));
    }
    let header = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
    let Some((header, data)) = header else {
        return Err(FormatError::Truncated { what: "header".into(), needed: length, found: rest.len() as u64 });
    };
    let entries: Entries = serde_json::from_slice(header)
        .map_err(|e| FormatError::invalid("safetensors header", "a JSON object of tensors", e))?;
    let is_cut_short = entries.ends.iter().any(|(_, end)| *end > data.len() as u64);
    // Ends beyond the file are found where its length is looked at; these could not even be added to.
    match entries.ends.into_iter().find(|(_, end)| *end > isize::MAX as u64 - MAX_HEADER - LENGTH_BYTES as u64) {
        Some((name, end)) => {
            Err(FormatError::Truncated { what: format!("tensor {name:?}"), needed: end, found: data.len() as u64 })
        }
        None => Ok((header, is_cut_short)),
    }
}

/// The names of a header and where their bytes end.
struct Entries {
    ends: Vec<(String, u64)>,
}

/// The fields of an entry that matter here; `__metadata__` has none of them.
#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let (mut ends, mut seen) = (Vec::new(), HashSet::new());
                while let Some((name, entry)) = map.next_entry::<String, Entry>()? {
                    if !seen.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format!("tensor {name:?} occurs twice")));
                    }
                    ends.push((name, entry.data_offsets.1));
                }
                Ok(Entries { ends })
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// Adds the file `path` to `table` and returns its `__metadata__`.
pub(super) fn add_file(table: &mut TensorTable, path: &Path, in_memory: bool) -> Result<Texts, FormatError> {
    let bytes = FileBytes::open(path, in_memory)?;
    let (tensors, texts) = contents(bytes.as_slice()).map_err(|e| e.in_file(path))?;
    table.add_file(Some(path), bytes, tensors)?;
    Ok(texts)
}

/// The names of a safetensors file's tensors in the order of their bytes, with their types where rotor computes with them.
///
/// # Errors
///
/// A [`FormatError`] for a header that is not sound.
pub fn names(bytes: &[u8]) -> Result<Vec<(String, Option<DenseType>)>, FormatError> {
    let dense = |storage| if let Storage::Dense(dtype) = storage { Some(dtype) } else { None };
    let (tensors, _) = contents(bytes)?;
    match tensors.iter().map(|tensor| tensor.range.end).max() {
        Some(needed) if needed > bytes.len() => {
            Err(FormatError::Incomplete { needed: needed as u64, found: bytes.len() as u64 })
        }
        _ => Ok(tensors.into_iter().map(|tensor| (tensor.name, dense(tensor.storage))).collect()),
    }
}

/// Whether bytes begin as a safetensors file does: eight bytes of length, then a JSON object.
pub(in super::super) fn looks_sound(bytes: &[u8]) -> bool {
    bytes.get(LENGTH_BYTES) == Some(&b'{') && !bytes.starts_with(b"GGUF")
}

/// Adds every shard that the index in `folder` names, and checks that each tensor is in the shard that the index says. What
/// is wrong with a shard is a flaw of the table. Returns the shards' `__metadata__`.
pub(super) fn add_shards(table: &mut TensorTable, folder: &Path, in_memory: bool) -> Result<Texts, FormatError> {
    let path = folder.join(INDEX);
    let index = read_json(&path)?;
    let weight_map = weight_map(&Object::new(&index, INDEX)).map_err(|e| e.in_file(&path))?;
    let shards: BTreeSet<&str> = weight_map.values().copied().collect();
    if shards.len() > MAX_SHARDS {
        return Err(
            FormatError::invalid("number of shards", format!("at most {MAX_SHARDS}"), shards.len()).in_file(path)
        );
    }
    let mut texts = Texts::new();
    for shard in shards {
        match add_file(table, &folder.join(shard), in_memory) {
            Ok(mut others) => texts.append(&mut others),
            Err(flaw) => table.set_flaw(flaw),
        }
    }
    let misplaced = weight_map.iter().find(|(name, shard)| table.file_of(name) != Some(**shard));
    if let Some((name, shard)) = misplaced {
        let what = format!("tensor {name:?}, which the index puts in {shard},");
        let hint = table.file_of(name).map_or(String::new(), |found| format!(": it is in {found}"));
        table.set_flaw(FormatError::Missing { what, hint }.in_file(path));
    }
    Ok(texts)
}

/// Tensor names and the shards that hold them. A shard is a plain file name: a path could lead out of the folder.
fn weight_map<'a>(index: &Object<'a>) -> Result<BTreeMap<&'a str, &'a str>, FormatError> {
    let Some(weight_map) = index.object("weight_map")? else {
        return Err(FormatError::missing("weight_map"));
    };
    let plain = |file: &str| file.ends_with(".safetensors") && !file.contains(['/', '\\', ':', '\0']) && file != "..";
    let entry = |(name, file): (&'a String, &'a serde_json::Value)| match file.as_str() {
        Some(file) if plain(file) => Ok((name.as_str(), file)),
        _ => Err(FormatError::invalid(
            format!("file of tensor {name:?}"),
            "a plain name that ends with .safetensors",
            file,
        )),
    };
    weight_map.map.iter().map(entry).collect()
}
