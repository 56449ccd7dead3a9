//! The one place that maps files: everything above it sees a slice of bytes.
//!
//! Mapping a 1.2 GB model costs nothing until a page is touched, and the pages of weights that have been packed can be
//! given back ([`FileBytes::release`]). The price is that another process can shrink the file underneath us: touching a page
//! past its new end then kills the process (SIGBUS). A file that may change while it is open is read into memory instead
//! (`no_mmap`).

#![expect(unsafe_code, reason = "mapping a file is the one thing here that the compiler cannot check")]

use crate::error::FormatError;
use memmap2::Mmap;
use std::fs::File;
use std::path::Path;

/// The bytes of a file, wherever they live. They do not move as long as the value lives.
#[derive(Debug)]
pub(crate) enum FileBytes {
    /// Pages of the file itself.
    Mapped(Mmap),
    /// A copy in memory.
    Owned(Vec<u8>),
    /// Part of the program.
    Static(&'static [u8]),
}

impl FileBytes {
    /// Opens a regular file, mapped unless `in_memory`.
    pub(crate) fn open(path: &Path, in_memory: bool) -> Result<Self, FormatError> {
        let failed = |action| move |source| FormatError::Io { action, path: path.to_path_buf(), source };
        // Looked at by name first: opening a pipe would wait for its writer.
        let metadata = std::fs::metadata(path).map_err(failed("open"))?;
        if !metadata.is_file() {
            let found = if metadata.is_dir() { "a folder" } else { "something else" };
            return Err(FormatError::invalid("path", "a regular file", found).in_file(path));
        }
        let file = File::open(path).map_err(failed("open"))?;
        if in_memory || metadata.len() == 0 {
            return std::fs::read(path).map(Self::Owned).map_err(failed("read"));
        }
        // SAFETY: the mapping is read-only and private to this value, and every access goes through a slice of the
        // length the file had when it was mapped. What the type system cannot see is another process that writes or
        // truncates the file meanwhile; the module documentation says what then happens and how to avoid it.
        unsafe { Mmap::map(&file) }.map(Self::Mapped).map_err(failed("map"))
    }

    /// The whole file.
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
            Self::Static(bytes) => bytes,
        }
    }

    /// Where `part` begins inside this file, if it is a part of it.
    fn offset_of(&self, part: &[u8]) -> Option<usize> {
        let whole = self.as_slice().as_ptr_range();
        let part = part.as_ptr_range();
        (whole.start <= part.start && part.end <= whole.end).then(|| part.start as usize - whole.start as usize)
    }

    /// Tells the system that the pages of `part` need not stay in memory; false where `part` is not of this file.
    ///
    /// Pages at the two ends may hold a neighbour's bytes too: they are read again when someone needs them.
    pub(crate) fn release(&self, part: &[u8]) -> bool {
        let Some(offset) = self.offset_of(part) else { return false };
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            // SAFETY: the range lies inside the mapping. It is a read-only mapping of a file, so a page that is dropped
            // comes back from the file with the same bytes on its next access and no slice into it becomes invalid.
            let advised = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, part.len()) };
            // Advice may be refused; then the pages merely stay.
            drop(advised);
        }
        #[cfg(not(unix))]
        let _ = offset;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_pages_read_the_same_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pages");
        let content: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = FileBytes::open(&path, false).unwrap();
        assert!(matches!(file, FileBytes::Mapped(_)));
        assert_eq!(file.as_slice(), content);
        assert!(file.release(&file.as_slice()[5_000..90_001]));
        assert_eq!(file.as_slice(), content);
    }

    #[test]
    fn foreign_bytes_are_not_released() {
        let file = FileBytes::Owned(vec![1, 2, 3]);
        assert!(file.release(&file.as_slice()[1..]));
        assert!(!file.release(&[1, 2, 3]));
    }

    #[test]
    fn an_empty_file_is_an_empty_slice_and_a_folder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty");
        std::fs::write(&path, []).unwrap();
        assert!(FileBytes::open(&path, false).unwrap().as_slice().is_empty());
        let error = FileBytes::open(folder.path(), false).unwrap_err().to_string();
        assert!(error.ends_with("expected a regular file, found a folder"), "{error}");
        let error = FileBytes::open(&folder.path().join("absent"), false).unwrap_err().to_string();
        assert!(error.starts_with("cannot open "), "{error}");
    }
}
