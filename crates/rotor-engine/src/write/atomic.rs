//! Files and folders that appear under their name only when they are whole.

use crate::error::FormatError;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tempfile::{NamedTempFile, TempDir};

/// What has to go when the process is interrupted: destructors do not run then.
static TEMPORARIES: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Small writes are gathered to this many bytes; larger ones pass through.
const BUFFER: usize = 1 << 18;

/// Removes every temporary file and folder of this process, for a handler that is about to end it.
pub fn remove_temporaries() {
    let paths = std::mem::take(&mut *TEMPORARIES.lock().unwrap_or_else(PoisonError::into_inner));
    for path in paths {
        // The process is ending and there is nobody left to tell.
        let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    }
}

/// An entry of [`TEMPORARIES`] for as long as it lives.
#[derive(Debug)]
struct Registered(PathBuf);

impl Registered {
    fn new(path: &Path) -> Self {
        TEMPORARIES.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_path_buf());
        Self(path.to_path_buf())
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        TEMPORARIES.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// A file under a temporary name, which [`commit`](AtomicFile::commit) replaces by its own; dropped before, it is gone.
#[derive(Debug)]
pub struct AtomicFile {
    file: BufWriter<NamedTempFile>,
    target: PathBuf,
    written: u64,
    hash: Option<Sha256>,
    _registered: Registered,
}

impl AtomicFile {
    /// Begins the file that will be called `target`. A file of that name is replaced at the end, and not before.
    ///
    /// # Errors
    ///
    /// [`FormatError::Io`] where the folder does not exist or cannot be written to, [`FormatError::Invalid`] where
    /// `target` is something else than a file.
    pub fn create(target: &Path) -> Result<Self, FormatError> {
        // Through a link, so that what it points at is replaced and the link stays.
        let target = fs::canonicalize(target).unwrap_or_else(|_| target.to_path_buf());
        if fs::metadata(&target).is_ok_and(|found| !found.is_file()) {
            return Err(FormatError::invalid(target.display().to_string(), "a file", "a folder or a device"));
        }
        let (folder, prefix) = place(&target)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".part");
        permissions(&mut builder, 0o666);
        let file = builder.tempfile_in(folder).map_err(io_error("write", &target))?;
        let registered = Registered::new(file.path());
        Ok(Self {
            file: BufWriter::with_capacity(BUFFER, file),
            target,
            written: 0,
            hash: None,
            _registered: registered,
        })
    }

    /// The name the file will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Bytes written so far.
    pub fn position(&self) -> u64 {
        self.written
    }

    /// A second handle to the file, for syncing it.
    ///
    /// # Errors
    ///
    /// [`FormatError::Io`] where the system refuses.
    pub(super) fn handle(&self) -> Result<File, FormatError> {
        self.file.get_ref().as_file().try_clone().map_err(io_error("write", &self.target))
    }

    /// Computes the SHA-256 of what is written from here on.
    pub fn hash(&mut self) {
        self.hash = Some(Sha256::new());
    }

    /// Hands the hash of what is written to somebody who computes it elsewhere.
    pub(super) fn take_hash(&mut self) -> Option<Sha256> {
        self.hash.take()
    }

    /// Takes the hash back, of everything that has been written.
    pub(super) fn put_hash(&mut self, hash: Option<Sha256>) {
        self.hash = hash;
    }

    /// Appends bytes.
    ///
    /// # Errors
    ///
    /// [`FormatError::Io`] naming the target, for example where the disk is full.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        self.file.write_all(bytes).map_err(io_error("write", &self.target))?;
        self.written += bytes.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        Ok(())
    }

    /// Where the file is until it is committed, with everything written so far.
    ///
    /// # Errors
    ///
    /// [`FormatError::Io`] naming the target.
    pub fn flushed(&mut self) -> Result<PathBuf, FormatError> {
        self.file.flush().map_err(io_error("write", &self.target))?;
        Ok(self.file.get_ref().path().to_path_buf())
    }

    /// As [`commit`](Self::commit); returns the size in bytes and the SHA-256 in hexadecimal, empty where none was computed.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub fn commit_hashed(mut self) -> Result<(u64, String), FormatError> {
        let size = self.written;
        let digest = self.hash.take().map(|hash| hexadecimal(&hash.finalize())).unwrap_or_default();
        self.commit()?;
        Ok((size, digest))
    }

    /// Syncs the file to the disk and gives it its name.
    ///
    /// # Errors
    ///
    /// [`FormatError::Io`] naming the target; nothing is left behind then.
    pub fn commit(self) -> Result<(), FormatError> {
        let failed = io_error("write", &self.target);
        let file = match self.file.into_inner() {
            Ok(file) => file,
            Err(error) => return Err(failed(error.into_error())),
        };
        file.as_file().sync_all().map_err(&failed)?;
        file.persist(&self.target).map_err(|error| failed(not_replaced(error.error)))?;
        sync_folder_of(&self.target);
        Ok(())
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A folder under a temporary name, which [`commit`](AtomicFolder::commit) replaces by its own; dropped before, it is gone.
#[derive(Debug)]
pub struct AtomicFolder {
    folder: TempDir,
    target: PathBuf,
    _registered: Registered,
}

impl AtomicFolder {
    /// Begins the folder that will be called `target`.
    ///
    /// # Errors
    ///
    /// [`FormatError::Invalid`] where `target` exists and is not an empty folder: files of two models must not mix.
    /// [`FormatError::Io`] where the folder around it does not exist or cannot be written to.
    pub fn create(target: &Path) -> Result<Self, FormatError> {
        let taken = |found| Err(FormatError::invalid(target.display().to_string(), "a new or an empty folder", found));
        if target.is_dir() {
            if fs::read_dir(target).map_err(io_error("read", target))?.next().is_some() {
                return taken("a folder with files in it");
            }
        } else if target.exists() {
            return taken("a file");
        }
        let (parent, prefix) = place(target)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".part");
        permissions(&mut builder, 0o777);
        let folder = builder.tempdir_in(parent).map_err(io_error("write", target))?;
        let registered = Registered::new(folder.path());
        Ok(Self { folder, target: target.to_path_buf(), _registered: registered })
    }

    /// Where the folder's files are to be written until it has its name.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Gives the folder its name. Its files are synced when they are committed.
    ///
    /// # Errors
    ///
    /// [`FormatError::Io`] naming the target; nothing is left behind then.
    pub fn commit(self) -> Result<(), FormatError> {
        if self.target.is_dir() {
            fs::remove_dir(&self.target).map_err(io_error("replace", &self.target))?;
        }
        fs::rename(self.folder.path(), &self.target).map_err(io_error("write", &self.target))?;
        // It has moved: there is nothing left under the temporary name to remove.
        let _ = self.folder.keep();
        sync_folder_of(&self.target);
        Ok(())
    }
}

/// Refuses to write `output` over one of `inputs`, however the two are spelled.
///
/// # Errors
///
/// [`FormatError::Invalid`] where `output` is the same file or folder as one of `inputs`.
pub fn refuse_overwriting(inputs: &[&Path], output: &Path) -> Result<(), FormatError> {
    let Ok(output_id) = identity(output) else {
        return Ok(()); // Nothing there yet.
    };
    for input in inputs {
        if identity(input).is_ok_and(|id| id == output_id) {
            let found = format!("the input {} itself", input.display());
            return Err(FormatError::invalid(output.display().to_string(), "another file than the input", found));
        }
    }
    Ok(())
}

/// What two paths to the same file have in common: hard links too, where the system tells.
#[cfg(unix)]
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

#[cfg(not(unix))]
fn identity(path: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(path)
}

/// The folder a temporary for `target` belongs in, and how its name begins.
fn place(target: &Path) -> Result<(&Path, String), FormatError> {
    let Some(name) = target.file_name() else {
        return Err(FormatError::invalid(target.display().to_string(), "a path that ends in a name", "none"));
    };
    let folder = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok((folder, format!(".{}.", name.to_string_lossy())))
}

/// The permissions of an ordinary new file instead of a temporary's: the umask still applies.
#[cfg(unix)]
fn permissions(builder: &mut tempfile::Builder<'_, '_>, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    builder.permissions(fs::Permissions::from_mode(mode));
}

#[cfg(not(unix))]
fn permissions(_: &mut tempfile::Builder<'_, '_>, _: u32) {}

/// Makes a rename last. Not every file system can sync a folder, and the file itself is safe by now.
fn sync_folder_of(target: &Path) {
    if let Ok((folder, _)) = place(target) {
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
}

/// Says what Windows means where it does not let a file be replaced: its own words are "Access is denied".
fn not_replaced(error: io::Error) -> io::Error {
    const ACCESS_DENIED: i32 = 5;
    const SHARING_VIOLATION: i32 = 32;
    const USER_MAPPED_FILE: i32 = 1224;
    match error.raw_os_error() {
        Some(ACCESS_DENIED | SHARING_VIOLATION | USER_MAPPED_FILE) if cfg!(windows) => {
            io::Error::new(error.kind(), "it is read-only, or a program has it open")
        }
        _ => error,
    }
}

/// Names the file in an error of the system.
fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> FormatError {
    let path = path.to_path_buf();
    move |source| FormatError::Io { action, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_when_it_is_committed_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("m.gguf");
        fs::write(&target, "old").unwrap();
        let mut file = AtomicFile::create(&target).unwrap();
        file.write(b"new").unwrap();
        file.write(&vec![b'.'; 2 * BUFFER]).unwrap();
        assert_eq!(file.position(), 3 + 2 * BUFFER as u64);
        assert_eq!(fs::read(&target).unwrap(), b"old");
        file.commit().unwrap();
        assert!(fs::read(&target).unwrap().starts_with(b"new..."));
        assert_eq!(names(folder.path()), ["m.gguf"]);
    }

    #[test]
    fn a_file_that_is_dropped_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("m.gguf");
        let mut file = AtomicFile::create(&target).unwrap();
        file.write(b"half").unwrap();
        assert!(names(folder.path())[0].starts_with(".m.gguf."));
        drop(file);
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn a_folder_appears_whole_and_only_where_nothing_was() {
        let outer = tempfile::tempdir().unwrap();
        let target = outer.path().join("model");
        fs::create_dir(&target).unwrap(); // An empty folder may be filled.
        let folder = AtomicFolder::create(&target).unwrap();
        fs::write(folder.path().join("config.json"), "{}").unwrap();
        assert!(names(&target).is_empty());
        folder.commit().unwrap();
        assert_eq!(names(&target), ["config.json"]);
        assert_eq!(names(outer.path()), ["model"]);

        let error = AtomicFolder::create(&target).unwrap_err().to_string();
        assert!(error.ends_with("expected a new or an empty folder, found a folder with files in it"), "{error}");
        drop(AtomicFolder::create(&outer.path().join("other")).unwrap());
        assert_eq!(names(outer.path()), ["model"]);
    }

    #[test]
    fn the_input_is_never_the_output() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("in.gguf");
        fs::write(&input, "x").unwrap();
        let spelled_differently = folder.path().join(".").join("in.gguf");
        assert!(refuse_overwriting(&[&input], &spelled_differently).is_err());
        #[cfg(unix)]
        {
            let link = folder.path().join("link.gguf");
            fs::hard_link(&input, &link).unwrap();
            assert!(refuse_overwriting(&[&input], &link).is_err());
        }
        assert!(refuse_overwriting(&[&input], &folder.path().join("out.gguf")).is_ok());
    }

    #[test]
    fn places_that_cannot_be_written_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("no").join("m.gguf");
        let error = AtomicFile::create(&missing).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot write {}", missing.display())), "{error}");
        assert!(AtomicFile::create(folder.path()).unwrap_err().to_string().contains("expected a file"));
        assert!(AtomicFile::create(Path::new("/")).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_device_is_not_replaced() {
        let error = AtomicFile::create(Path::new("/dev/full")).unwrap_err().to_string();
        assert_eq!(error, "/dev/full: expected a file, found a folder or a device");
    }

    #[cfg(unix)]
    #[test]
    fn new_files_have_ordinary_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (plain, atomic) = (folder.path().join("plain"), folder.path().join("atomic"));
        fs::write(&plain, "").unwrap();
        AtomicFile::create(&atomic).unwrap().commit().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&atomic), mode(&plain));
    }
}
