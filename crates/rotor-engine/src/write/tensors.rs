//! A file of tensors whose header is known before their data: what GGUF and safetensors have in common.

use super::AtomicFile;
use super::background::BackgroundFile;
use crate::error::FormatError;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// A tensor whose data is still to come.
#[derive(Clone, Debug)]
struct Pending {
    name: String,
    /// Bytes of data still to come.
    left: u64,
    /// Bytes of padding after them.
    padding: usize,
}

/// The header of a file and the sizes it announces.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// The file up to the first tensor's data.
    pub(super) header: Vec<u8>,
    /// Name, bytes, and bytes of padding after them, in the order of the file.
    pub(super) tensors: Vec<(String, u64, usize)>,
}

/// A file that takes the data of its tensors in the announced order, in pieces of any size.
#[derive(Debug)]
pub struct TensorFile {
    file: State,
    target: PathBuf,
    pending: VecDeque<Pending>,
    total: u64,
}

/// Whether there is more to come.
#[derive(Debug)]
enum State {
    Growing(BackgroundFile),
    Whole(AtomicFile),
}

impl TensorFile {
    pub(super) fn create(target: &Path, layout: Layout) -> Result<Self, FormatError> {
        let mut file = AtomicFile::create(target)?;
        file.hash();
        let target = file.target().to_path_buf();
        let mut file = BackgroundFile::new(file)?;
        file.write(layout.header)?;
        // A tensor without data (a shape with a 0) is complete already.
        let tensors = layout.tensors.into_iter().filter(|&(_, bytes, _)| bytes > 0);
        let pending: VecDeque<_> = tensors.map(|(name, left, padding)| Pending { name, left, padding }).collect();
        let total = pending.iter().map(|tensor| tensor.left).sum();
        Ok(Self { file: State::Growing(file), target, pending, total })
    }

    /// Bytes of all tensors together.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Appends to the data of the first tensor that is not complete; more than it lacks is an error. A `Vec` is not copied.
    ///
    /// # Errors
    ///
    /// [`FormatError::Io`] from the disk; [`FormatError::Invalid`] for data that was not announced.
    pub fn write(&mut self, bytes: impl Into<Vec<u8>>) -> Result<(), FormatError> {
        let mut bytes = bytes.into();
        let Some(tensor) = self.pending.front_mut() else {
            return Err(self.mismatch("the end of the data", format!("{} bytes more", bytes.len())));
        };
        let Some(left) = tensor.left.checked_sub(bytes.len() as u64) else {
            let (name, left) = (tensor.name.clone(), tensor.left);
            return Err(self.mismatch(&format!("{left} more bytes of tensor {name:?}"), bytes.len().to_string()));
        };
        tensor.left = left;
        if left == 0 {
            bytes.resize(bytes.len() + tensor.padding, 0);
            self.pending.pop_front();
        }
        match &mut self.file {
            State::Growing(file) => file.write(bytes),
            State::Whole(file) => file.write(&bytes),
        }
    }

    /// Where the file is until it has its name, and the file itself, when all data is written.
    ///
    /// # Errors
    ///
    /// [`FormatError::Io`] from the disk; [`FormatError::Invalid`] where announced data is missing.
    pub fn flushed(self) -> Result<(PathBuf, Self), FormatError> {
        let (target, total) = (self.target.clone(), self.total);
        let mut file = self.whole()?;
        let path = file.flushed()?;
        Ok((path, Self { file: State::Whole(file), target, pending: VecDeque::new(), total }))
    }

    /// Syncs the file and gives it its name. Returns its size in bytes.
    ///
    /// # Errors
    ///
    /// [`FormatError::Io`] from the disk; [`FormatError::Invalid`] where announced data is missing.
    pub fn finish(self) -> Result<u64, FormatError> {
        self.finish_hashed().map(|(size, _)| size)
    }

    /// As [`finish`](Self::finish), with the file's SHA-256 in hexadecimal.
    ///
    /// # Errors
    ///
    /// As [`finish`](Self::finish).
    pub fn finish_hashed(self) -> Result<(u64, String), FormatError> {
        self.whole()?.commit_hashed()
    }

    fn whole(self) -> Result<AtomicFile, FormatError> {
        if let Some(tensor) = self.pending.front() {
            let expected = format!("{} more bytes of tensor {:?}", tensor.left, tensor.name);
            return Err(self.mismatch(&expected, "the end".into()));
        }
        match self.file {
            State::Growing(file) => file.into_file(),
            State::Whole(file) => Ok(file),
        }
    }

    fn mismatch(&self, expected: &str, found: String) -> FormatError {
        FormatError::invalid(format!("writing {}", self.target.display()), expected, found)
    }
}
