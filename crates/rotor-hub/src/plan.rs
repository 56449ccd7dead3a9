//! What is to be fetched.

use crate::choose::Choice;
use crate::error::HubError;
use crate::hash::{Hash, hash_file};
use crate::repository::Repository;
use std::path::Path;

/// What is to be fetched.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The repository, at a commit.
    pub repository: Repository,
    /// The files, with why they were chosen.
    pub choice: Choice,
    /// The sizes and hashes of the files.
    pub files: Vec<PlannedFile>,
}

/// A file that is to be here.
#[derive(Clone, Debug)]
pub struct PlannedFile {
    /// The name in the repository.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// The hash of the contents.
    pub hash: Hash,
}

impl Plan {
    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).fold(0, u64::saturating_add)
    }
}

/// Whether a file has the hash that is on record, telling how many bytes have been read.
pub(crate) fn is_right(path: &Path, file: &PlannedFile, progress: &mut dyn FnMut(u64)) -> Result<bool, HubError> {
    let hash = hash_file(path, &file.hash, progress).map_err(HubError::io("read", path))?;
    Ok(hash == file.hash)
}
