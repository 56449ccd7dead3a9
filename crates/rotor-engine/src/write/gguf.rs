//! Writes GGUF version 3, little-endian, alignment 32 (ggml's docs/gguf.md).

use super::tensors::{Layout, TensorFile};
use crate::error::FormatError;
use crate::formats::metadata::{Array, Value};
use rotor_kernels::DenseType;
use std::collections::HashSet;
use std::path::Path;

/// The alignment of a file that does not name one.
const ALIGNMENT: u64 = 32;

/// ggml keeps a tensor's name in 64 bytes with its terminator.
const LONGEST_NAME: usize = 63;

/// The type id of I2_S, both in the official engine and elsewhere.
pub const I2_S: u32 = 36;

/// ggml's id of a dense type.
pub const fn type_id(dtype: DenseType) -> u32 {
    match dtype {
        DenseType::F32 => 0,
        DenseType::F16 => 1,
        DenseType::Q4_0 => 2,
        DenseType::Q4_1 => 3,
        DenseType::Q5_0 => 6,
        DenseType::Q5_1 => 7,
        DenseType::Q8_0 => 8,
        DenseType::Q4K => 12,
        DenseType::Q5K => 13,
        DenseType::Q6K => 14,
        DenseType::Bf16 => 30,
    }
}

/// Type ids of metadata values.
mod value_type {
    pub(super) const U8: u32 = 0;
    pub(super) const I8: u32 = 1;
    pub(super) const U16: u32 = 2;
    pub(super) const I16: u32 = 3;
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const STRING: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
    pub(super) const U64: u32 = 10;
    pub(super) const I64: u32 = 11;
    pub(super) const F64: u32 = 12;
}

/// The metadata and tensor infos of a file to be written, in the order they are added.
#[derive(Clone, Debug, Default)]
pub struct GgufHeader {
    keys: HashSet<String>,
    metadata: Vec<u8>,
    tensors: Vec<TensorInfo>,
    /// Where not [`ALIGNMENT`].
    alignment: Option<u32>,
}

#[derive(Clone, Debug)]
struct TensorInfo {
    name: String,
    /// Fastest-varying first, the reverse of the usual shape.
    dims: Vec<u64>,
    type_id: u32,
    bytes: u64,
}

impl GgufHeader {
    /// A header with no key and no tensor.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a u32.
    pub fn u32(&mut self, key: &str, value: u32) {
        self.key(key, value_type::U32);
        self.metadata.extend(value.to_le_bytes());
    }

    /// Adds an f32.
    pub fn f32(&mut self, key: &str, value: f32) {
        self.key(key, value_type::F32);
        self.metadata.extend(value.to_le_bytes());
    }

    /// Adds a bool.
    pub fn bool(&mut self, key: &str, value: bool) {
        self.key(key, value_type::BOOL);
        self.metadata.push(u8::from(value));
    }

    /// Adds a string.
    pub fn string(&mut self, key: &str, value: &str) {
        self.key(key, value_type::STRING);
        put_string(&mut self.metadata, value.as_bytes());
    }

    /// Adds an array of strings, which need not be UTF-8.
    pub fn strings<T: AsRef<[u8]>>(&mut self, key: &str, values: &[T]) {
        self.array(key, value_type::STRING, values.len());
        for value in values {
            put_string(&mut self.metadata, value.as_ref());
        }
    }

    /// Adds an array of i32.
    pub fn i32s(&mut self, key: &str, values: &[i32]) {
        self.array(key, value_type::I32, values.len());
        self.metadata.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    /// Adds an array of f32.
    pub fn f32s(&mut self, key: &str, values: &[f32]) {
        self.array(key, value_type::F32, values.len());
        self.metadata.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    /// Adds a value as it was read from another file.
    pub fn value(&mut self, key: &str, value: &Value) {
        macro_rules! number {
            ($id:ident, $value:expr) => {{
                self.key(key, value_type::$id);
                self.metadata.extend($value.to_le_bytes());
            }};
        }
        match value {
            Value::U8(v) => number!(U8, v),
            Value::I8(v) => number!(I8, v),
            Value::U16(v) => number!(U16, v),
            Value::I16(v) => number!(I16, v),
            Value::U32(v) => number!(U32, v),
            Value::I32(v) => number!(I32, v),
            Value::U64(v) => number!(U64, v),
            Value::I64(v) => number!(I64, v),
            Value::F32(v) => number!(F32, v),
            Value::F64(v) => number!(F64, v),
            Value::Bool(v) => self.bool(key, *v),
            Value::String(v) => {
                self.key(key, value_type::STRING);
                put_string(&mut self.metadata, v);
            }
            Value::Array(array) => self.values(key, array),
        }
    }

    fn values(&mut self, key: &str, array: &Array) {
        macro_rules! numbers {
            ($id:ident, $values:expr) => {{
                self.array(key, value_type::$id, $values.len());
                self.metadata.extend($values.iter().flat_map(|value| value.to_le_bytes()));
            }};
        }
        match array {
            Array::U8(v) => numbers!(U8, v),
            Array::I8(v) => numbers!(I8, v),
            Array::U16(v) => numbers!(U16, v),
            Array::I16(v) => numbers!(I16, v),
            Array::U32(v) => numbers!(U32, v),
            Array::I32(v) => numbers!(I32, v),
            Array::U64(v) => numbers!(U64, v),
            Array::I64(v) => numbers!(I64, v),
            Array::F32(v) => numbers!(F32, v),
            Array::F64(v) => numbers!(F64, v),
            Array::Bool(v) => {
                self.array(key, value_type::BOOL, v.len());
                self.metadata.extend(v.iter().map(|&value| u8::from(value)));
            }
            Array::String(v) => {
                self.array(key, value_type::STRING, v.len());
                v.iter().for_each(|value| put_string(&mut self.metadata, value));
            }
        }
    }

    /// Aligns the tensors to a power of two other than 32, and says so in the file.
    pub fn alignment(&mut self, alignment: u32) {
        assert!(alignment.is_power_of_two(), "alignment {alignment}");
        self.u32("general.alignment", alignment);
        self.alignment = Some(alignment);
    }

    /// Announces a tensor of `shape` (slowest-varying first, as everywhere in rotor) that takes `bytes` bytes.
    pub fn tensor(&mut self, name: &str, shape: &[usize], type_id: u32, bytes: u64) {
        let dims = shape.iter().rev().map(|&dim| dim as u64).collect();
        self.tensors.push(TensorInfo { name: name.to_owned(), dims, type_id, bytes });
    }

    /// Begins the file; the tensors' data follows in the order they were announced.
    ///
    /// # Errors
    ///
    /// [`FormatError::Duplicate`] for a tensor announced twice, [`FormatError::Invalid`] for a name that ggml cannot hold,
    /// [`FormatError::Io`] from the disk.
    pub fn create(self, target: &Path) -> Result<TensorFile, FormatError> {
        let mut names = HashSet::new();
        for tensor in &self.tensors {
            if !names.insert(tensor.name.as_str()) {
                return Err(FormatError::Duplicate { what: "tensor", name: tensor.name.clone() });
            }
            if tensor.name.is_empty() || tensor.name.len() > LONGEST_NAME {
                let found = format!("{} bytes", tensor.name.len());
                return Err(FormatError::invalid(
                    format!("name of tensor {:?}", tensor.name),
                    format!("1 to {LONGEST_NAME} bytes, as GGUF readers take them"),
                    found,
                ));
            }
        }
        TensorFile::create(target, self.layout())
    }

    fn layout(self) -> Layout {
        let alignment = self.alignment.map_or(ALIGNMENT, u64::from);
        let mut header = b"GGUF".to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.keys.len() as u64).to_le_bytes());
        header.extend(self.metadata);
        let mut offset = 0;
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for tensor in self.tensors {
            put_string(&mut header, tensor.name.as_bytes());
            header.extend((tensor.dims.len() as u32).to_le_bytes());
            header.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            header.extend(tensor.type_id.to_le_bytes());
            header.extend(u64::to_le_bytes(offset));
            let padded = tensor.bytes.next_multiple_of(alignment);
            offset += padded;
            tensors.push((tensor.name, tensor.bytes, (padded - tensor.bytes) as usize));
        }
        header.resize(header.len().next_multiple_of(alignment as usize), 0);
        Layout { header, tensors }
    }

    /// Begins a key-value record. A key names one thing in a file, and the keys are this program's own choice.
    fn key(&mut self, key: &str, value_type: u32) {
        assert!(self.keys.insert(key.to_owned()), "GGUF key {key:?} is written twice");
        put_string(&mut self.metadata, key.as_bytes());
        self.metadata.extend(value_type.to_le_bytes());
    }

    fn array(&mut self, key: &str, element_type: u32, len: usize) {
        self.key(key, value_type::ARRAY);
        self.metadata.extend(element_type.to_le_bytes());
        self.metadata.extend((len as u64).to_le_bytes());
    }
}

fn put_string(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend((bytes.len() as u64).to_le_bytes());
    to.extend(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A complete file, byte for byte: two keys, an F32 matrix and an F16 vector.
    #[test]
    fn worked_example() {
        let mut header = GgufHeader::new();
        header.string("general.architecture", "bitnet-b1.58");
        header.u32("bitnet-b1.58.block_count", 1);
        header.tensor("a.weight", &[3, 2], 0, 24);
        header.tensor("b", &[1], 1, 2);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let mut file = header.create(&path).unwrap();
        assert_eq!(file.total(), 26);
        for value in 1..=6 {
            file.write((value as f32).to_le_bytes()).unwrap();
        }
        file.write([0x00, 0x47]).unwrap();
        file.finish().unwrap();

        let mut expected = vec![
            0x47, 0x47, 0x55, 0x46, 0x03, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00,
            0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        ];
        expected.extend(b"general.architecture\x08\0\0\0\x0c\0\0\0\0\0\0\0bitnet-b1.58");
        expected.extend(b"\x18\0\0\0\0\0\0\0bitnet-b1.58.block_count\x04\0\0\0\x01\0\0\0");
        expected.extend(b"\x08\0\0\0\0\0\0\0a.weight\x02\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0");
        expected.extend([0; 12]);
        expected.extend(b"\x01\0\0\0\0\0\0\0b\x01\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\x20\0\0\0\0\0\0\0");
        assert_eq!(expected.len(), 0xc5);
        expected.resize(0xe0, 0);
        expected.extend((1..=6).flat_map(|value| (value as f32).to_le_bytes()));
        expected.resize(0x100, 0);
        expected.extend([0x00, 0x47]);
        expected.resize(0x120, 0);
        assert_eq!(std::fs::read(&path).unwrap(), expected);
    }

    #[test]
    fn a_tensor_gets_as_many_bytes_as_announced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let begin = || {
            let mut header = GgufHeader::new();
            header.tensor("a", &[4], 24, 4);
            header.create(&path).unwrap()
        };
        assert!(
            begin().write([0; 5]).unwrap_err().to_string().contains("expected 4 more bytes of tensor \"a\", found 5")
        );
        let mut file = begin();
        file.write([0; 3]).unwrap();
        assert!(
            file.finish().unwrap_err().to_string().contains("expected 1 more bytes of tensor \"a\", found the end")
        );
        let mut file = begin();
        file.write([0; 4]).unwrap();
        assert!(file.write([0]).is_err());
        assert!(!path.exists());
    }

    #[test]
    fn names_that_readers_would_not_take_are_refused() {
        let path = Path::new("never-created");
        for names in
            [vec!["a", "a"], vec![""], vec!["0123456789012345678901234567890123456789012345678901234567890123"]]
        {
            let mut header = GgufHeader::new();
            names.iter().for_each(|name| header.tensor(name, &[1], 24, 1));
            assert!(header.create(path).is_err(), "{names:?}");
        }
        assert!(!path.exists());
    }
}
