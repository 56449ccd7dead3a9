//! Writes safetensors, header first: the crate's own serialiser wants every tensor in memory.

pub use safetensors::Dtype;

use super::tensors::{Layout, TensorFile};
use crate::error::FormatError;
use rotor_kernels::DenseType;
use serde_json::{Map, Value, json};
use std::path::Path;

/// The header is padded with spaces to this, so that the data is aligned for any type.
const ALIGNMENT: usize = 8;

/// Readers refuse longer headers.
const LONGEST_HEADER: usize = 100_000_000;

/// The name safetensors has for a dense type; it has none for the quantised ones.
pub const fn dtype(dtype: DenseType) -> Option<Dtype> {
    match dtype {
        DenseType::F32 => Some(Dtype::F32),
        DenseType::F16 => Some(Dtype::F16),
        DenseType::Bf16 => Some(Dtype::BF16),
        _ => None,
    }
}

/// The metadata and tensors of a file to be written.
#[derive(Clone, Debug, Default)]
pub struct SafetensorsHeader {
    metadata: Map<String, Value>,
    tensors: Vec<(String, Dtype, Vec<usize>)>,
}

impl SafetensorsHeader {
    /// A header with no metadata and no tensor.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a pair to `__metadata__`.
    pub fn metadata(&mut self, key: &str, value: &str) {
        self.metadata.insert(key.to_owned(), value.into());
    }

    /// Announces a tensor. Wide types should come first: offsets are then aligned without gaps, which the format forbids.
    pub fn tensor(&mut self, name: &str, dtype: Dtype, shape: &[usize]) {
        self.tensors.push((name.to_owned(), dtype, shape.to_vec()));
    }

    /// Begins the file; the tensors' data follows in the order they were announced.
    ///
    /// # Errors
    ///
    /// [`FormatError::Duplicate`] for a tensor announced twice, [`FormatError::Invalid`] where a size or the header is
    /// beyond what the format holds, [`FormatError::Io`] from the disk.
    pub fn create(self, target: &Path) -> Result<TensorFile, FormatError> {
        TensorFile::create(target, self.layout()?)
    }

    fn layout(self) -> Result<Layout, FormatError> {
        let mut json = Map::new();
        if !self.metadata.is_empty() {
            json.insert("__metadata__".into(), Value::Object(self.metadata));
        }
        let (mut begin, mut tensors) = (0u64, Vec::with_capacity(self.tensors.len()));
        for (name, dtype, shape) in self.tensors {
            let bytes = bytes_of(dtype, &shape).ok_or_else(|| {
                FormatError::invalid(format!("tensor {name:?}"), "a size below 2^63 bytes", format!("shape {shape:?}"))
            })?;
            let end = begin + bytes;
            let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] });
            if json.insert(name.clone(), entry).is_some() {
                return Err(FormatError::Duplicate { what: "tensor", name });
            }
            tensors.push((name, bytes, 0));
            begin = end;
        }
        Ok(Layout { header: header_bytes(&Value::Object(json))?, tensors })
    }
}

/// Length, JSON, padding.
fn header_bytes(json: &Value) -> Result<Vec<u8>, FormatError> {
    let mut text = json.to_string().into_bytes();
    text.resize(text.len().next_multiple_of(ALIGNMENT), b' ');
    if text.len() > LONGEST_HEADER {
        let found = format!("{} bytes", text.len());
        return Err(FormatError::invalid("safetensors header", format!("at most {LONGEST_HEADER} bytes"), found));
    }
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    Ok(header)
}

fn bytes_of(dtype: Dtype, shape: &[usize]) -> Option<u64> {
    let bits = shape.iter().try_fold(dtype.bitsize() as u64, |bits, &dim| bits.checked_mul(dim as u64))?;
    (bits / 8 < 1 << 60).then_some(bits / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formats_own_crate_reads_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let mut header = SafetensorsHeader::new();
        header.metadata("format", "pt");
        header.tensor("a.weight_scale", Dtype::F32, &[1]);
        header.tensor("a.weight", Dtype::U8, &[2, 3]);
        let mut file = header.create(&path).unwrap();
        file.write(2.5f32.to_le_bytes()).unwrap();
        file.write([1, 2, 3]).unwrap();
        file.write([4, 5, 6]).unwrap();
        file.finish().unwrap();

        let bytes = std::fs::read(&path).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let scale = read.tensor("a.weight_scale").unwrap();
        assert_eq!((scale.dtype(), scale.shape(), scale.data()), (Dtype::F32, &[1][..], &2.5f32.to_le_bytes()[..]));
        let weight = read.tensor("a.weight").unwrap();
        assert_eq!((weight.dtype(), weight.shape(), weight.data()), (Dtype::U8, &[2, 3][..], &[1, 2, 3, 4, 5, 6][..]));
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    }

    #[test]
    fn what_the_format_cannot_hold_is_refused() {
        let path = Path::new("never-created");
        let mut twice = SafetensorsHeader::new();
        twice.tensor("a", Dtype::U8, &[1]);
        twice.tensor("a", Dtype::U8, &[1]);
        assert!(matches!(twice.create(path), Err(FormatError::Duplicate { .. })));
        let mut huge = SafetensorsHeader::new();
        huge.tensor("a", Dtype::F32, &[usize::MAX, usize::MAX]);
        assert!(matches!(huge.create(path), Err(FormatError::Invalid { .. })));
        assert!(!path.exists());
    }
}
