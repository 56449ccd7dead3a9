//! Locks between processes, the same that the hub's official tools take.

use crate::error::HubError;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;

/// A lock, held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "the open file is the lock")] File);

impl Lock {
    /// Takes the lock; where another process has it, calls `on_wait` and waits.
    pub(crate) fn acquire(path: &Path, on_wait: &mut dyn FnMut()) -> Result<Lock, HubError> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => return Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => on_wait(),
            // A file system without locks: two downloads of one file then meet in one partial file, and its hash tells.
            Err(TryLockError::Error(_)) => return Ok(Lock(file)),
        }
        match file.lock() {
            Ok(()) => Ok(Lock(file)),
            Err(error) => Err(HubError::io("lock", path)(error)),
        }
    }

    /// Takes the lock if nobody has it. The file is not made for this.
    pub(crate) fn is_free(path: &Path) -> bool {
        let Ok(file) = File::open(path) else { return true };
        !matches!(file.try_lock(), Err(TryLockError::WouldBlock))
    }
}

fn open(path: &Path) -> Result<File, HubError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(HubError::io("create", folder))?;
    }
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    opened.map_err(HubError::io("lock", path))
}
