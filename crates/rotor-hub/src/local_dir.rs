//! A folder that a person has chosen for a model's files, kept as the hub's official tools keep it.
//!
//! `DIR/FILE` are the files themselves. `DIR/.cache/huggingface/download/FILE.metadata` tells which commit and hash each is
//! of and when it was written, so that it need not be hashed again while it has not changed.

use crate::error::HubError;
use crate::hash::Hash;
use crate::name::relative_path;
use crate::plan::{PlannedFile, is_right};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) struct LocalDir {
    root: PathBuf,
    notes: PathBuf,
}

impl LocalDir {
    pub(crate) fn new(root: &Path) -> LocalDir {
        let notes = [".cache", "huggingface", "download"].iter().fold(root.to_path_buf(), |path, part| path.join(part));
        LocalDir { root: root.to_path_buf(), notes }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the folder.
    pub(crate) fn prepare(&self) -> Result<(), HubError> {
        fs::create_dir_all(&self.notes).map_err(HubError::io("create", &self.notes))
    }

    /// Where the beginning of a file is kept. By hash, as in the cache.
    pub(crate) fn part(&self, file: &PlannedFile) -> PathBuf {
        self.notes.join(format!("{}{}", file.hash, crate::cache::PART))
    }

    pub(crate) fn lock(&self, file: &PlannedFile) -> Result<PathBuf, HubError> {
        self.beside(file, ".lock")
    }

    fn path(&self, file: &PlannedFile) -> Result<PathBuf, HubError> {
        Ok(self.root.join(relative_path(&file.name)?))
    }

    fn beside(&self, file: &PlannedFile, suffix: &str) -> Result<PathBuf, HubError> {
        Ok(self.notes.join(relative_path(&format!("{}{suffix}", file.name))?))
    }

    /// Whether the file is here: by its note, else by its hash. A file that was not put here by a download, and is another,
    /// is an error: it is not ours to replace.
    pub(crate) fn has(&self, file: &PlannedFile, progress: &mut dyn FnMut(u64)) -> Result<bool, HubError> {
        if self.is_noted(file)? {
            return Ok(true);
        }
        let path = self.path(file)?;
        let Ok(found) = fs::symlink_metadata(&path) else { return Ok(false) };
        if found.is_file() && found.len() == file.size && is_right(&path, file, progress)? {
            return Ok(true);
        }
        let noted = fs::exists(self.beside(file, ".metadata")?).unwrap_or(false);
        if noted && found.is_file() { Ok(false) } else { Err(HubError::Taken { path }) }
    }

    /// Whether the note says that the file is what it has to be, and the file has not changed since.
    pub(crate) fn is_noted(&self, file: &PlannedFile) -> Result<bool, HubError> {
        let Ok(note) = fs::read_to_string(self.beside(file, ".metadata")?) else { return Ok(false) };
        let mut lines = note.lines().skip(1);
        let hash = lines.next().and_then(Hash::parse);
        let written = lines.next().and_then(|line| line.trim().parse::<f64>().ok());
        let Ok(found) = fs::metadata(self.path(file)?) else { return Ok(false) };
        let changed = found.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let unchanged = changed.zip(written).is_some_and(|(changed, written)| changed.as_secs_f64() <= written + 1.0);
        Ok(hash.as_ref() == Some(&file.hash) && found.len() == file.size && unchanged)
    }

    /// Gives a fetched file its name, and notes what it is.
    pub(crate) fn place(&self, file: &PlannedFile, commit: &str) -> Result<(), HubError> {
        let (path, note) = (self.path(file)?, self.beside(file, ".metadata")?);
        for folder in [&path, &note].into_iter().filter_map(|path| path.parent()) {
            fs::create_dir_all(folder).map_err(HubError::io("create", folder))?;
        }
        fs::rename(self.part(file), &path).map_err(HubError::io("write", &path))?;
        crate::cache::sync(path.parent().unwrap_or(&self.root));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        let text = format!("{commit}\n{}\n{now}\n", file.hash);
        let mut temporary = tempfile::NamedTempFile::new_in(&self.notes).map_err(HubError::io("write", &note))?;
        std::io::Write::write_all(&mut temporary, text.as_bytes()).map_err(HubError::io("write", &note))?;
        temporary.persist(&note).map_err(|error| HubError::io("write", &note)(error.error))?;
        Ok(())
    }
}
