//! Reads the front of a GGUF file: counts, key-value pairs, tensor descriptions (ggml's docs/gguf.md).
//!
//! Every length is held against the bytes that are left before anything is allocated for it, so a file cannot make the
//! reader take more than a small multiple of its own size.

use super::super::metadata::{Array, Metadata, Strings, Value};
use super::super::table::{Storage, Tensor};
use super::types::{self, Evidence, Meaning};
use crate::error::FormatError;
use std::borrow::Cow;
use std::collections::BTreeMap;

const MAGIC: &[u8; 4] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
/// The largest alignment accepted. Files use 32 or 64; 1 MiB is beyond any page size.
const MAX_ALIGNMENT: u64 = 1 << 20;
/// Longest key, from the specification.
const MAX_KEY: u64 = 65_535;
/// Longest tensor name, from the specification.
const MAX_TENSOR_NAME: u64 = 64;
/// Most elements of an array; ggml has the same cap.
const MAX_ARRAY: u64 = 1 << 30;
/// Most dimensions, from ggml.
const MAX_DIMS: u32 = 4;
/// An empty-named pair with a one-byte value: key length, type, value; a key has at least one byte.
const MIN_PAIR_BYTES: u64 = 8 + 1 + 4 + 1;
/// A tensor description with a one-byte name and one dimension.
const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// The parsed front of a file.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: Metadata,
    /// The tensors in the order of their descriptions. Those of a file that is cut short end beyond it.
    pub(super) tensors: Vec<Tensor>,
    pub(super) warnings: Vec<String>,
}

/// A tensor description as written.
struct Description {
    name: String,
    /// Fastest-varying first.
    dims: Vec<u64>,
    elements: u64,
    type_id: u32,
    offset: u64,
}

impl Header {
    /// Parses and checks everything but the tensors' contents.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader { rest: bytes, position: 0 };
        read_magic_and_version(&mut reader)?;
        let tensor_count = reader.u64("tensor count")?;
        let pair_count = reader.u64("metadata count")?;
        reader.expect_room("metadata count", pair_count, MIN_PAIR_BYTES)?;
        let metadata = read_metadata(&mut reader, pair_count)?;
        reader.expect_room("tensor count", tensor_count, MIN_TENSOR_BYTES)?;
        let descriptions =
            (0..tensor_count).map(|i| read_description(&mut reader, i)).collect::<Result<Vec<_>, _>>()?;
        let alignment = alignment(&metadata)?;
        let (tensors, warnings) = place(descriptions, &metadata, reader.position, bytes.len() as u64, alignment)?;
        Ok(Self { metadata, tensors, warnings })
    }
}

fn read_magic_and_version(reader: &mut Reader<'_>) -> Result<(), FormatError> {
    let magic = reader.take(4, || "magic number".into())?;
    if magic != MAGIC {
        return Err(FormatError::invalid("magic number", "\"GGUF\"", format!("\"{}\"", magic.escape_ascii())));
    }
    match reader.u32("version")? {
        2 | 3 => Ok(()),
        1 => Err(FormatError::unsupported("GGUF version 1", "convert the file to version 3; no ternary model uses 1")),
        // The version of a file of the other byte order has its low 16 bits zero.
        swapped if swapped & 0xffff == 0 && swapped != 0 => {
            Err(FormatError::unsupported("a big-endian GGUF file", "only little-endian files are read"))
        }
        other => Err(FormatError::invalid("GGUF version", "2 or 3", other)),
    }
}

fn read_metadata(reader: &mut Reader<'_>, count: u64) -> Result<Metadata, FormatError> {
    let mut metadata = Metadata::default();
    for index in 0..count {
        let key = reader.string(MAX_KEY, || format!("metadata key {index}"))?;
        let key = name_of(key, || format!("metadata key {index}"))?;
        let type_id = reader.u32_of(|| format!("type of metadata key {key}"))?;
        let value = if type_id == 9 { read_array(reader, &key)? } else { read_scalar(reader, type_id, &key)? };
        metadata.insert(key, value)?;
    }
    Ok(metadata)
}

/// A name: not empty, UTF-8.
fn name_of(bytes: &[u8], what: impl Fn() -> String) -> Result<String, FormatError> {
    match std::str::from_utf8(bytes) {
        Ok("") => Err(FormatError::invalid(what(), "a name", "an empty one")),
        Ok(name) => Ok(name.to_owned()),
        Err(_) => Err(FormatError::invalid(what(), "UTF-8", bytes.escape_ascii())),
    }
}

fn read_scalar(reader: &mut Reader<'_>, type_id: u32, key: &str) -> Result<Value, FormatError> {
    let what = || format!("value of metadata key {key}");
    Ok(match type_id {
        0 => Value::U8(u8::from_le_bytes(reader.array(what)?)),
        1 => Value::I8(i8::from_le_bytes(reader.array(what)?)),
        2 => Value::U16(u16::from_le_bytes(reader.array(what)?)),
        3 => Value::I16(i16::from_le_bytes(reader.array(what)?)),
        4 => Value::U32(u32::from_le_bytes(reader.array(what)?)),
        5 => Value::I32(i32::from_le_bytes(reader.array(what)?)),
        6 => Value::F32(f32::from_le_bytes(reader.array(what)?)),
        7 => Value::Bool(read_bool(reader.array::<1>(what)?[0], key)?),
        8 => Value::String(reader.string(MAX_ARRAY, what)?.to_vec()),
        10 => Value::U64(u64::from_le_bytes(reader.array(what)?)),
        11 => Value::I64(i64::from_le_bytes(reader.array(what)?)),
        12 => Value::F64(f64::from_le_bytes(reader.array(what)?)),
        other => return Err(FormatError::invalid(format!("type of metadata key {key}"), "a type from 0 to 12", other)),
    })
}

fn read_bool(byte: u8, key: &str) -> Result<bool, FormatError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(FormatError::invalid(format!("truth value of metadata key {key}"), "0 or 1", other)),
    }
}

fn read_array(reader: &mut Reader<'_>, key: &str) -> Result<Value, FormatError> {
    let type_id = reader.u32_of(|| format!("element type of metadata key {key}"))?;
    let count = reader.u64_of(|| format!("array length of metadata key {key}"))?;
    if count > MAX_ARRAY {
        let what = format!("array length of metadata key {key}");
        return Err(FormatError::invalid(what, format!("at most {MAX_ARRAY}"), count));
    }
    let what = || format!("array of metadata key {key}");
    macro_rules! numbers {
        ($ty:ty) => {{
            let width = size_of::<$ty>() as u64;
            // At most 2^30 elements of 8 bytes: no overflow.
            let bytes = reader.take(count * width, what)?;
            bytes.as_chunks().0.iter().map(|&chunk| <$ty>::from_le_bytes(chunk)).collect()
        }};
    }
    Ok(Value::Array(match type_id {
        0 => Array::U8(numbers!(u8)),
        1 => Array::I8(numbers!(i8)),
        2 => Array::U16(numbers!(u16)),
        3 => Array::I16(numbers!(i16)),
        4 => Array::U32(numbers!(u32)),
        5 => Array::I32(numbers!(i32)),
        6 => Array::F32(numbers!(f32)),
        7 => {
            let bytes = reader.take(count, what)?;
            Array::Bool(bytes.iter().map(|&byte| read_bool(byte, key)).collect::<Result<_, _>>()?)
        }
        8 => {
            let mut strings = Strings::default();
            for index in 0..count {
                strings.push(reader.string(MAX_ARRAY, || format!("string {index} of metadata key {key}"))?);
            }
            Array::String(strings)
        }
        9 => return Err(FormatError::unsupported(what(), "arrays of arrays are not read")),
        10 => Array::U64(numbers!(u64)),
        11 => Array::I64(numbers!(i64)),
        12 => Array::F64(numbers!(f64)),
        other => {
            let what = format!("element type of metadata key {key}");
            return Err(FormatError::invalid(what, "a type from 0 to 12", other));
        }
    }))
}

fn read_description(reader: &mut Reader<'_>, index: u64) -> Result<Description, FormatError> {
    let what = || format!("name of tensor {index}");
    let name = name_of(reader.string(MAX_TENSOR_NAME, what)?, what)?;
    let dim_count = reader.u32_of(|| format!("number of dimensions of tensor {name:?}"))?;
    if !(1..=MAX_DIMS).contains(&dim_count) {
        let what = format!("number of dimensions of tensor {name:?}");
        return Err(FormatError::invalid(what, format!("1 to {MAX_DIMS}"), dim_count));
    }
    let dims = (0..dim_count)
        .map(|_| reader.u64_of(|| format!("dimensions of tensor {name:?}")))
        .collect::<Result<Vec<_>, _>>()?;
    // Up to i64::MAX, as ggml counts elements in i64.
    let elements = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    let Some(elements) = elements.filter(|&n| n > 0 && n <= i64::MAX as u64) else {
        let what = format!("dimensions of tensor {name:?}");
        return Err(FormatError::invalid(what, "1 to 2^63-1 elements", format!("{dims:?}")));
    };
    let type_id = reader.u32_of(|| format!("type of tensor {name:?}"))?;
    let offset = reader.u64_of(|| format!("offset of tensor {name:?}"))?;
    Ok(Description { name, dims, elements, type_id, offset })
}

/// `general.alignment`: a power of two, typed u32.
pub(in super::super) fn alignment(metadata: &Metadata) -> Result<u64, FormatError> {
    let what = "metadata key general.alignment";
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::U32(a)) if a.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(&a.into()) => Ok(a.into()),
        Some(&Value::U32(a)) => Err(FormatError::invalid(what, format!("a power of two from 8 to {MAX_ALIGNMENT}"), a)),
        Some(other) => Err(FormatError::invalid(what, "a value of type u32", other.preview())),
    }
}

/// Gives every tensor its place in the file: types resolved, sizes computed, ranges inside the file and apart.
///
/// An id nobody knows is no error yet: the tensor gets no bytes and cannot be read, and only a graph that needs it fails.
fn place(
    descriptions: Vec<Description>,
    metadata: &Metadata,
    header_end: u64,
    file_len: u64,
    alignment: u64,
) -> Result<(Vec<Tensor>, Vec<String>), FormatError> {
    let file_type = metadata.usize("general.file_type").ok().flatten().map(|ty| ty as u64);
    // Both are far below 2^63: the header has been read from memory.
    let data_start = header_end.next_multiple_of(alignment);
    let data_len = file_len.saturating_sub(data_start);
    let starts = sorted_starts(&descriptions, alignment)?;
    let mut evidence: BTreeMap<u32, Vec<Evidence>> = BTreeMap::new();
    for Description { dims, elements, type_id, offset, .. } in &descriptions {
        let next = starts.get(starts.partition_point(|start| start <= offset)).copied();
        let room = next.unwrap_or(data_len).saturating_sub(*offset);
        let tensor = Evidence { cols: dims[0], elements: *elements, room, is_last: next.is_none() };
        evidence.entry(*type_id).or_default().push(tensor);
    }
    let meaning = |(id, tensors): (&u32, &Vec<Evidence>)| (*id, types::resolve(*id, tensors, alignment, file_type));
    let meanings: BTreeMap<u32, Meaning> = evidence.iter().map(meaning).collect();
    let mut tensors = Vec::with_capacity(descriptions.len());
    for description in descriptions {
        let meaning = meanings.get(&description.type_id).copied().unwrap_or(Meaning::Unknown);
        let sized = sized(&description, meaning)?;
        tensors.push(tensor(description, sized, data_start, data_len)?);
    }
    let warnings = check_apart(&tensors, alignment)?;
    Ok((tensors, warnings))
}

/// The offsets in increasing order, each aligned.
fn sorted_starts(descriptions: &[Description], alignment: u64) -> Result<Vec<u64>, FormatError> {
    for Description { name, offset, .. } in descriptions {
        if !offset.is_multiple_of(alignment) {
            let what = format!("offset of tensor {name:?}");
            return Err(FormatError::invalid(what, format!("a multiple of {alignment}"), offset));
        }
    }
    let mut starts: Vec<u64> = descriptions.iter().map(|description| description.offset).collect();
    starts.sort_unstable();
    Ok(starts)
}

/// A type with a known size, or the name of one without.
struct Sized {
    storage: Storage,
    type_name: Cow<'static, str>,
    bytes: u64,
}

fn sized(tensor: &Description, meaning: Meaning) -> Result<Sized, FormatError> {
    let Description { name, dims, elements, type_id, .. } = tensor;
    let unreadable = |type_name: String| Sized { storage: Storage::Unreadable, type_name: type_name.into(), bytes: 0 };
    let ty = match meaning {
        Meaning::Known(ty) => ty,
        Meaning::Unknown => return Ok(unreadable(format!("id {type_id}"))),
        Meaning::NoSize => {
            let known = types::names(*type_id);
            return Ok(unreadable(format!("id {type_id}, whose tensors have the size of none of {known},")));
        }
    };
    let bytes = ty.byte_len(dims[0], *elements).map_err(|bad| bad.into_error(name, ty.name, dims[0], *elements))?;
    Ok(Sized { storage: ty.storage, type_name: ty.name.into(), bytes: bytes.unwrap_or(0) })
}

fn tensor(description: Description, sized: Sized, data_start: u64, data_len: u64) -> Result<Tensor, FormatError> {
    let Description { name, dims, offset, .. } = description;
    let end = data_start.checked_add(offset).and_then(|start| start.checked_add(sized.bytes));
    // An end beyond the file is found when its length is looked at; one beyond every file is nobody's download.
    let Some(end) = end.filter(|&end| end <= i64::MAX as u64) else {
        let what = format!("data of tensor {name:?}");
        let needed = offset.saturating_add(sized.bytes);
        return Err(FormatError::Truncated { what, needed, found: data_len });
    };
    let start = end - sized.bytes;
    let range = usize::try_from(start).ok().zip(usize::try_from(end).ok()).map(|(start, end)| start..end);
    let shape = dims.iter().rev().map(|&dim| usize::try_from(dim).ok()).collect();
    let (Some(range), Some(shape)) = (range, shape) else {
        return Err(FormatError::invalid(
            format!("size of tensor {name:?}"),
            "one this machine can address",
            sized.bytes,
        ));
    };
    Ok(Tensor { name, shape, storage: sized.storage, type_name: sized.type_name, file: 0, range })
}

/// Refuses tensors that share bytes; warns of bytes between tensors, which ggml's own reader refuses.
fn check_apart(tensors: &[Tensor], alignment: u64) -> Result<Vec<String>, FormatError> {
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
    let mut gaps = 0;
    for (left, right) in order.iter().zip(order.iter().skip(1)) {
        if right.range.start < left.range.end {
            let what = format!("data of tensor {:?}", right.name);
            let expected = format!("bytes behind those of {:?}, which end at {}", left.name, left.range.end);
            return Err(FormatError::invalid(what, expected, format!("a start at {}", right.range.start)));
        }
        let gap = (right.range.start - left.range.end) as u64;
        gaps += usize::from(gap >= alignment && !left.range.is_empty());
    }
    let warning = |n| format!("{n} tensors are followed by unused bytes; ggml's own reader would refuse the file");
    Ok((gaps > 0).then(|| warning(gaps)).into_iter().collect())
}

/// A cursor over bytes that are still unread.
struct Reader<'a> {
    rest: &'a [u8],
    position: u64,
}

impl<'a> Reader<'a> {
    /// The next `len` bytes.
    fn take(&mut self, len: u64, what: impl Fn() -> String) -> Result<&'a [u8], FormatError> {
        let found = self.rest.len() as u64;
        let split = usize::try_from(len).ok().and_then(|len| self.rest.split_at_checked(len));
        let Some((taken, rest)) = split else {
            return Err(FormatError::Truncated { what: what(), needed: len, found });
        };
        self.rest = rest;
        self.position += len;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    fn array<const N: usize>(&mut self, what: impl Fn() -> String) -> Result<[u8; N], FormatError> {
        let found = self.rest.len() as u64;
        let Some((&taken, rest)) = self.rest.split_first_chunk() else {
            return Err(FormatError::Truncated { what: what(), needed: N as u64, found });
        };
        self.rest = rest;
        self.position += N as u64;
        Ok(taken)
    }

    fn u32_of(&mut self, what: impl Fn() -> String) -> Result<u32, FormatError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64_of(&mut self, what: impl Fn() -> String) -> Result<u64, FormatError> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, FormatError> {
        self.u32_of(|| what.into())
    }

    fn u64(&mut self, what: &str) -> Result<u64, FormatError> {
        self.u64_of(|| what.into())
    }

    /// A string of at most `cap` bytes, behind its length.
    fn string(&mut self, cap: u64, what: impl Fn() -> String) -> Result<&'a [u8], FormatError> {
        let len = self.u64_of(|| format!("length of {}", what()))?;
        if len > cap && len <= self.rest.len() as u64 {
            return Err(FormatError::invalid(format!("length of {}", what()), format!("at most {cap}"), len));
        }
        self.take(len, what)
    }

    /// Checks that `count` things of at least `each` bytes fit what is left.
    fn expect_room(&self, what: &str, count: u64, each: u64) -> Result<(), FormatError> {
        let fits = self.rest.len() as u64 / each;
        if count <= fits {
            return Ok(());
        }
        Err(FormatError::invalid(what, format!("at most {fits}, what the file has room for"), count))
    }
}

#[cfg(test)]
mod tests;
