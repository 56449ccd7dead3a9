//! Rotor files: a whole model in one safetensors file, its ternary tensors as bit planes or as 2-bit codes.
//!
//! `NAME.bit0` and `NAME.bit1` (U8 `[rows, ceil(cols/8)]`), or `NAME.codes` (U8 `[rows, ceil(cols/4)]`), stand for the tensor
//! `NAME.weight` of the model the file was made from, `NAME.scale` (F32 `[1]`, `[rows]` or `[rows, groups]`) for its scales.
//! Everything else that a model file holds is in `__metadata__`: the key-values of a GGUF or the texts of a Hugging Face
//! folder. Here the tensors get their names back; then a GGUF's or a folder's own code goes on as if it had read the file.

use super::map::FileBytes;
use super::metadata::Metadata;
use super::table::{Storage, Tensor, TensorTable};
use super::{gguf, hf, metadata_json};
use crate::error::FormatError;
use crate::forms::TernaryForm;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rotor_kernels::DenseType;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// The version of the format that is written and read.
pub(crate) const VERSION: &str = "1";

/// Keys of `__metadata__`.
pub(crate) mod key {
    /// Says that a safetensors file is one of these.
    pub(crate) const VERSION: &str = "rotor.version";
    /// A JSON object of all key-values of the GGUF the model came in.
    pub(crate) const GGUF: &str = "rotor.gguf";
    /// A JSON object of the texts of the folder the model came in, by file name.
    pub(crate) const HUGGING_FACE: &str = "rotor.huggingface";
    /// A JSON array of tensor names in the order of the file the model came in.
    pub(crate) const ORDER: &str = "rotor.order";

    /// `[rows,cols]` of a tensor that is stored as bytes.
    pub(crate) fn shape(stem: &str) -> String {
        format!("rotor.shape.{stem}")
    }

    /// The type of a quantised dense tensor that is stored as bytes.
    pub(crate) fn dtype(stem: &str) -> String {
        format!("rotor.type.{stem}")
    }
}

/// A file read as far as the tensors' names.
pub(super) struct File {
    pub(super) table: TensorTable,
    pub(super) origin: Origin,
    /// The rest of `__metadata__`.
    pub(super) texts: hf::Texts,
}

/// What the model came in.
pub(super) enum Origin {
    Gguf(Metadata),
    HuggingFace(BTreeMap<String, Vec<u8>>),
}

/// Opens a file; `None` where it is an ordinary safetensors file.
pub(super) fn open(path: &Path, in_memory: bool) -> Result<Option<File>, FormatError> {
    let bytes = FileBytes::open(path, in_memory)?;
    let (tensors, texts) = hf::contents(bytes.as_slice()).map_err(|e| e.in_file(path))?;
    if !texts.contains_key(key::VERSION) {
        return Ok(None);
    }
    read(Some(path), bytes, tensors, texts).map(Some).map_err(|e| e.in_file(path))
}

/// A file that is in memory.
pub(super) fn single(bytes: FileBytes) -> Result<File, FormatError> {
    let (tensors, texts) = hf::contents(bytes.as_slice())?;
    read(None, bytes, tensors, texts)
}

fn read(
    path: Option<&Path>,
    bytes: FileBytes,
    tensors: Vec<Tensor>,
    mut texts: hf::Texts,
) -> Result<File, FormatError> {
    match texts.remove(key::VERSION) {
        Some(version) if version == VERSION => {}
        None => return Err(FormatError::missing(key::VERSION)),
        Some(version) => {
            let what = format!("{} {version:?}", key::VERSION);
            return Err(FormatError::unsupported(what, format!("{VERSION:?} is read")));
        }
    }
    let origin = origin(&mut texts)?;
    let mut named = tensors.into_iter().map(|tensor| named(tensor, &mut texts)).collect::<Result<Vec<_>, _>>()?;
    if let Some(order) = texts.remove(key::ORDER) {
        put_in_order(&mut named, &order)?;
    }
    let mut table = TensorTable::default();
    table.add_file(path, bytes, named)?;
    Ok(File { table, origin, texts })
}

fn origin(texts: &mut hf::Texts) -> Result<Origin, FormatError> {
    match (texts.remove(key::GGUF), texts.remove(key::HUGGING_FACE)) {
        (Some(pairs), None) => {
            let metadata = metadata_json::from_json(object(key::GGUF, &pairs)?)?;
            // It is of no use here, and will be when the model becomes a GGUF again.
            gguf::alignment(&metadata)?;
            Ok(Origin::Gguf(metadata))
        }
        (None, Some(files)) => {
            let files = object(key::HUGGING_FACE, &files)?;
            files.into_iter().map(side_file).collect::<Result<_, _>>().map(Origin::HuggingFace)
        }
        (Some(_), Some(_)) => {
            Err(FormatError::invalid(key::GGUF, format!("it or {}", key::HUGGING_FACE), "both of them"))
        }
        (None, None) => Err(FormatError::missing(format!("{} or {}", key::GGUF, key::HUGGING_FACE))),
    }
}

/// A file as text, or as `{"base64": ...}` where it is none.
fn side_file((name, content): (String, Value)) -> Result<(String, Vec<u8>), FormatError> {
    let decoded = match content {
        Value::String(text) => Some(text.into_bytes()),
        other => other.get("base64").and_then(Value::as_str).and_then(|text| BASE64_STANDARD.decode(text).ok()),
    };
    match decoded {
        Some(bytes) => Ok((name, bytes)),
        None => Err(FormatError::invalid(format!("{name} in {}", key::HUGGING_FACE), "text or base64", "neither")),
    }
}

/// The texts of a folder's files as [`key::HUGGING_FACE`] holds them.
pub(crate) fn side_files_json(files: &[(&str, Vec<u8>)]) -> Value {
    let content = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => serde_json::json!({ "base64": BASE64_STANDARD.encode(bytes) }),
    };
    Value::Object(files.iter().map(|(name, bytes)| ((*name).to_owned(), content(bytes))).collect())
}

fn object(key: &str, text: &str) -> Result<Map<String, Value>, FormatError> {
    serde_json::from_str(text).map_err(|error| FormatError::invalid(key, "a JSON object", error))
}

/// The tensor that a stored one stands for.
fn named(tensor: Tensor, texts: &mut hf::Texts) -> Result<Tensor, FormatError> {
    for (ending, form) in [(".bit0", TernaryForm::Rotor), (".codes", TernaryForm::BitNet)] {
        if let Some(stem) = tensor.name.strip_suffix(ending) {
            let (stem, shape) = (stem.to_owned(), matrix_shape(&tensor.name, stem, texts)?);
            let row_bytes = form.packed_len(1, shape[1]).unwrap_or(0);
            expect_bytes(&tensor, &[shape[0], row_bytes])?;
            let name = format!("{stem}.weight");
            let type_name = form.name().into();
            return Ok(Tensor { name, shape: shape.to_vec(), storage: Storage::Ternary(form), type_name, ..tensor });
        }
    }
    let stem = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
    let Some(type_name) = texts.remove(&key::dtype(stem)) else { return Ok(tensor) };
    let Some(dtype) = DenseType::ALL.into_iter().find(|dtype| dtype.name() == type_name) else {
        let what = format!("type {type_name:?} of tensor {:?}", tensor.name);
        return Err(FormatError::unsupported(what, DenseType::ALL.map(DenseType::name).join(", ")));
    };
    let shape = matrix_shape(&tensor.name, stem, texts)?;
    let Some(row_bytes) = dtype.row_bytes(shape[1]) else {
        let what = format!("shape of tensor {:?} (type {type_name})", tensor.name);
        return Err(FormatError::invalid(what, format!("rows of a multiple of {}", dtype.block_len()), shape[1]));
    };
    expect_bytes(&tensor, &[shape[0], row_bytes])?;
    Ok(Tensor { shape: shape.to_vec(), storage: Storage::Dense(dtype), type_name: dtype.name().into(), ..tensor })
}

/// The `[rows,cols]` in the metadata, both at least 1.
fn matrix_shape(name: &str, stem: &str, texts: &mut hf::Texts) -> Result<[usize; 2], FormatError> {
    let key = key::shape(stem);
    let Some(text) = texts.remove(&key) else {
        return Err(FormatError::Missing { what: key, hint: format!(": tensor {name:?} has no other") });
    };
    let shape = serde_json::from_str::<[usize; 2]>(&text).ok().filter(|shape| !shape.contains(&0));
    shape.ok_or_else(|| FormatError::invalid(key, "\"[rows,cols]\"", text))
}

fn expect_bytes(tensor: &Tensor, shape: &[usize]) -> Result<(), FormatError> {
    if tensor.storage == Storage::U8 && tensor.shape == shape {
        return Ok(());
    }
    let found = format!("{} {:?}", tensor.type_name, tensor.shape);
    Err(FormatError::invalid(format!("tensor {:?}", tensor.name), format!("u8 {shape:?}"), found))
}

/// Sorts tensors as the file they came in had them; others stay behind those.
fn put_in_order(tensors: &mut [Tensor], order: &str) -> Result<(), FormatError> {
    let order: Vec<String> = serde_json::from_str(order)
        .map_err(|error| FormatError::invalid(key::ORDER, "a JSON array of names", error))?;
    let places: BTreeMap<&str, usize> = order.iter().map(String::as_str).zip(0..).collect();
    tensors.sort_by_key(|tensor| places.get(tensor.name.as_str()).copied().unwrap_or(usize::MAX));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{OpenOptions, Source};
    use crate::convert::{ConvertOptions, convert};
    use crate::synth::{Preset, SynthOptions, synthesize};
    use ::safetensors::tensor::TensorView;
    use ::safetensors::{Dtype, SafeTensors};
    use std::collections::HashMap;
    use std::path::PathBuf;
    use tempfile::TempDir;

    /// Name, type, shape and bytes.
    type Entry = (String, Dtype, Vec<usize>, Vec<u8>);

    /// A sound file's parts, to be spoilt.
    struct Parts {
        folder: TempDir,
        tensors: Vec<Entry>,
        texts: HashMap<String, String>,
    }

    impl Parts {
        fn new(form: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (model, path) = (folder.path().join("m.gguf"), folder.path().join("m.safetensors"));
            synthesize(Preset::Tiny, &model, &SynthOptions::default(), &mut |_, _| {}).unwrap();
            let source = Source::open(&model, &OpenOptions::default()).unwrap();
            let head = Some(rotor_kernels::DenseType::Q8_0);
            let options = ConvertOptions { target: form.parse().unwrap(), head, verify: false, lossy_tokenizer: false };
            convert(&source, &path, &options, &mut |_, _, _| {}).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            let read = SafeTensors::deserialize(&bytes).unwrap();
            let entry = |(name, tensor): (&str, TensorView<'_>)| {
                (name.to_owned(), tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec())
            };
            let tensors = read.iter().map(entry).collect();
            let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
            Self { folder, tensors, texts: metadata.metadata().clone().unwrap() }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("spoilt.safetensors")
        }

        fn open(&self) -> Result<Source, crate::FormatError> {
            let views = self
                .tensors
                .iter()
                .map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
            let bytes = ::safetensors::serialize(views, Some(self.texts.clone())).unwrap();
            std::fs::write(self.path(), &bytes).unwrap();
            let from_file = Source::open(&self.path(), &OpenOptions::default());
            // In memory it is as sound or unsound as on the disk.
            assert_eq!(Source::from_bytes(bytes, &OpenOptions::default()).is_ok(), from_file.is_ok());
            from_file
        }

        fn tensor(&mut self, name: &str) -> &mut Entry {
            self.tensors.iter_mut().find(|entry| entry.0 == name).unwrap()
        }
    }

    const Q: &str = "blk.0.attn_q";

    #[test]
    fn tensors_may_come_in_any_order() {
        for form in ["rotor", "bitnet"] {
            let mut parts = Parts::new(form);
            parts.tensors.reverse();
            parts.texts.remove("rotor.order");
            parts.open().unwrap();
        }
    }

    #[test]
    fn what_is_not_sound_is_refused_by_name() {
        type Spoil = fn(&mut Parts);
        let cases: [(Spoil, &str); 18] = [
            (
                |p| p.texts.insert("rotor.version".into(), "2".into()).map(drop).unwrap(),
                "rotor.version \"2\" is not supported",
            ),
            (|p| p.texts.remove("rotor.gguf").map(drop).unwrap(), "rotor.gguf or rotor.huggingface is missing"),
            (|p| drop(p.texts.insert("rotor.huggingface".into(), "{}".into())), "rotor.gguf: expected it or"),
            (|p| drop(p.texts.insert("rotor.gguf".into(), "[]".into())), "rotor.gguf: expected a JSON object"),
            (|p| drop(p.texts.insert("rotor.gguf".into(), "{\"k\": 1}".into())), "metadata key k: expected one value"),
            (
                |p| drop(p.texts.insert("rotor.gguf".into(), "{\"\": {\"u8\": 1}}".into())),
                "metadata key: expected 1 to 65535 bytes",
            ),
            (
                |p| drop(p.texts.insert("rotor.gguf".into(), "{\"general.alignment\": {\"u32\": 3}}".into())),
                "metadata key general.alignment: expected a power of two",
            ),
            (|p| drop(p.texts.insert("rotor.order".into(), "{}".into())), "rotor.order: expected a JSON array"),
            (|p| p.texts.remove("rotor.shape.blk.0.attn_q").map(drop).unwrap(), "rotor.shape.blk.0.attn_q is missing"),
            (|p| drop(p.texts.insert("rotor.shape.blk.0.attn_q".into(), "[256]".into())), "expected \"[rows,cols]\""),
            (|p| drop(p.texts.insert("rotor.shape.blk.0.attn_q".into(), "[0,256]".into())), "expected \"[rows,cols]\""),
            (|p| drop(p.texts.insert("rotor.shape.blk.0.attn_q".into(), "[256,300]".into())), "expected u8 [256, 38]"),
            (
                |p| drop(p.texts.insert("rotor.shape.blk.0.attn_q".into(), format!("[{0},{0}]", usize::MAX))),
                "tensor \"blk.0.attn_q.bit0\": expected u8",
            ),
            (|p| drop(p.texts.insert("rotor.type.token_embd".into(), "q9_9".into())), "type \"q9_9\" of tensor"),
            (|p| p.tensor("blk.0.attn_q.bit1").0 = "other".into(), "tensor \"blk.0.attn_q.bit1\" is missing"),
            (|p| p.tensor("blk.0.attn_q.bit1").2 = vec![32, 256], "expected u8 [256, 32], as bit0"),
            (|p| p.tensor("blk.0.attn_q.scale").0 = "other".into(), "tensor \"blk.0.attn_q.scale\" is missing"),
            (|p| p.tensor("blk.0.attn_norm.weight").0 = "other".into(), "tensor \"blk.0.attn_norm.weight\" is missing"),
        ];
        for (spoil, message) in cases {
            let mut parts = Parts::new("rotor");
            spoil(&mut parts);
            let error = parts.open().unwrap_err().to_string();
            assert!(error.contains(message), "{error:?} does not contain {message:?}");
        }
    }

    #[test]
    fn weights_that_are_not_sound_are_refused_when_they_are_read() {
        type Spoil = fn(&mut Parts);
        let cases: [(&str, Spoil, &str); 4] = [
            (
                "rotor",
                |p| (p.tensor("blk.0.attn_q.bit0").3[40], p.tensor("blk.0.attn_q.bit1").3[40]) = (1, 1),
                "1 invalid",
            ),
            ("bitnet", |p| p.tensor("blk.0.attn_q.codes").3[70] = 3, "1 invalid"),
            ("rotor", |p| p.tensor("blk.0.attn_q.scale").3 = f32::NAN.to_le_bytes().to_vec(), "finite numbers"),
            (
                "rotor",
                |p| {
                    let scale = p.tensor("blk.0.attn_q.scale");
                    (scale.2, scale.3) = (vec![3], vec![0; 12]);
                },
                "expected 1, 256, or a number for each of equal groups",
            ),
        ];
        for (form, spoil, message) in cases {
            let mut parts = Parts::new(form);
            spoil(&mut parts);
            let source = parts.open().unwrap();
            let error = crate::statistics::ternary(&source).unwrap_err().to_string();
            assert!(error.contains(Q) && error.contains(message), "{error}");
        }
    }
}
