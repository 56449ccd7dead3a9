//! NumPy's files: `.npy`, one array behind a line of Python, and `.npz`, a zip archive of such.
//!
//! docs: numpy.lib.format, version 1.0.

use crate::error::FormatError;
use crate::write::AtomicFile;
use safetensors::Dtype;
use std::io;
use std::path::{Path, PathBuf};
use zip::write::{SimpleFileOptions, StreamWriter};
use zip::{CompressionMethod, ZipWriter};

/// The data begins at a multiple of this.
const ALIGNMENT: usize = 64;

/// What comes before an array's bytes, little-endian and row-major.
pub(super) fn header(dtype: Dtype, shape: &[usize]) -> Vec<u8> {
    let descr = match dtype {
        Dtype::U8 => "|u1",
        Dtype::I8 => "|i1",
        _ => "<f4",
    };
    let dims: Vec<String> = shape.iter().map(usize::to_string).collect();
    // A tuple of one number has a comma in Python.
    let comma = if shape.len() == 1 { "," } else { "" };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}{comma}), }}", dims.join(", "));
    let front = b"\x93NUMPY\x01\x00";
    let unpadded = front.len() + 2 + text.len() + 1;
    text.push_str(&" ".repeat(unpadded.next_multiple_of(ALIGNMENT) - unpadded));
    text.push('\n');
    let mut header = front.to_vec();
    // Shapes of two dimensions take a few dozen characters.
    header.extend((text.len() as u16).to_le_bytes());
    header.extend(text.as_bytes());
    header
}

/// An archive of arrays, not compressed, as `numpy.savez` writes it.
pub(super) struct Npz {
    zip: ZipWriter<StreamWriter<Sink>>,
    path: PathBuf,
}

/// Lets the archive write to a file that is not there until it is whole.
struct Sink(AtomicFile);

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Npz {
    pub(super) fn create(path: &Path) -> Result<Self, FormatError> {
        let file = AtomicFile::create(path)?;
        Ok(Self { zip: ZipWriter::new_stream(Sink(file)), path: path.to_path_buf() })
    }

    /// Adds the array `name`.
    pub(super) fn add(&mut self, name: &str, header: &[u8], bytes: &[u8]) -> Result<(), FormatError> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(bytes.len() + header.len() > u32::MAX as usize);
        let path = &self.path;
        let failed = |source| FormatError::Io { action: "write", path: path.clone(), source };
        self.zip.start_file(format!("{name}.npy"), options).map_err(|error| failed(error.into()))?;
        for part in [header, bytes] {
            io::Write::write_all(&mut self.zip, part).map_err(failed)?;
        }
        Ok(())
    }

    /// Writes the directory and gives the archive its name.
    pub(super) fn finish(self) -> Result<(), FormatError> {
        let failed = |source| FormatError::Io { action: "write", path: self.path.clone(), source };
        let stream = self.zip.finish().map_err(|error| failed(error.into()))?;
        stream.into_inner().0.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes numpy 2 writes for `np.save(f, np.zeros((3, 4), np.uint8))`, up to the data.
    #[test]
    fn a_header_is_a_line_of_python_padded_to_64() {
        let header = header(Dtype::U8, &[3, 4]);
        assert_eq!(header.len() % 64, 0);
        assert_eq!(header[..10], *b"\x93NUMPY\x01\x00\x76\x00");
        let text = std::str::from_utf8(&header[10..]).unwrap();
        assert_eq!(text.trim_end(), "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 4), }");
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn one_dimension_is_a_tuple_too() {
        let header = header(Dtype::F32, &[7]);
        assert!(String::from_utf8_lossy(&header).contains("'<f4', 'fortran_order': False, 'shape': (7,), }"));
    }
}
