//! GGUF files made from a sound one by changing its keys and tensors.

use rotor::formats::metadata::Value;
use rotor::formats::{ModelFile, SourceMetadata};
use rotor::write::gguf::GgufHeader;
use std::path::{Path, PathBuf};

/// Name, shape (rows first), type id and bytes.
type Tensor = (String, Vec<usize>, u32, Vec<u8>);

/// The parts of a file.
#[derive(Clone)]
pub(crate) struct Gguf {
    pub(crate) keys: Vec<(String, Value)>,
    pub(crate) tensors: Vec<Tensor>,
}

impl Gguf {
    /// The parts of the file at `path`.
    pub(crate) fn of(path: &Path) -> Self {
        let file = ModelFile::open(path, false).unwrap();
        let SourceMetadata::Gguf(metadata) = file.metadata() else { panic!("no GGUF") };
        let type_id = |name: &str| match name {
            "f32" => 0,
            "f16" => 1,
            "i2_s" => 36,
            other => panic!("{other}"),
        };
        Self {
            keys: metadata.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect(),
            tensors: file
                .tensors()
                .map(|t| (t.name.to_owned(), t.shape.to_vec(), type_id(t.type_name), t.bytes.to_vec()))
                .collect(),
        }
    }

    /// Sets a key, in its place if it is there.
    pub(crate) fn set(mut self, key: &str, value: Value) -> Self {
        match self.keys.iter_mut().find(|(known, _)| known == key) {
            Some(pair) => pair.1 = value,
            None => self.keys.push((key.into(), value)),
        }
        self
    }

    /// As [`set`](Self::set), for text.
    pub(crate) fn text(self, key: &str, text: &str) -> Self {
        self.set(key, Value::String(text.into()))
    }

    /// Keeps the tensors whose names `keep` wants.
    pub(crate) fn only(mut self, keep: impl Fn(&str) -> bool) -> Self {
        self.tensors.retain(|(name, ..)| keep(name));
        self
    }

    /// Writes the file `name` in `folder`.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        let mut header = GgufHeader::new();
        self.keys.iter().for_each(|(key, value)| header.value(key, value));
        for (name, shape, type_id, bytes) in &self.tensors {
            header.tensor(name, shape, *type_id, bytes.len() as u64);
        }
        let mut file = header.create(&path).unwrap();
        self.tensors.iter().for_each(|(.., bytes)| file.write(bytes.clone()).unwrap());
        file.finish().unwrap();
        path
    }
}
