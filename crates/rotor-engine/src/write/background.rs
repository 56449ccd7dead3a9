//! A file written by a thread of its own, and hashed by another, so that whoever makes the bytes waits for neither.
//!
//! Left to itself the system begins to write to the disk when the file is closed or memory runs short. A model that is
//! written in seconds would then take as long again at the end, so the file is synced every now and then while it grows.

use super::AtomicFile;
use crate::error::FormatError;
use sha2::Digest;
use std::fs::File;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

/// Pieces that may wait to be written, and as many to be hashed.
const WAITING: usize = 8;

/// Bytes after which the disk is set to work.
const SYNC_AFTER: u64 = 32 << 20;

/// The file and the thread that writes it.
#[derive(Debug)]
pub(super) struct BackgroundFile {
    sender: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<Result<AtomicFile, FormatError>>>,
}

impl BackgroundFile {
    /// Takes over a file.
    ///
    /// # Errors
    ///
    /// [`FormatError::Io`] where the system refuses a second handle to it.
    pub(super) fn new(file: AtomicFile) -> Result<Self, FormatError> {
        let handle = file.handle()?;
        let (sender, receiver) = sync_channel(WAITING);
        let thread = thread::spawn(move || write_all(file, &handle, &receiver));
        Ok(Self { sender: Some(sender), thread: Some(thread) })
    }

    /// Appends bytes, some time.
    ///
    /// # Errors
    ///
    /// [`FormatError::Io`] from the disk, for these bytes or for earlier ones.
    pub(super) fn write(&mut self, bytes: Vec<u8>) -> Result<(), FormatError> {
        let sent = self.sender.as_ref().is_some_and(|sender| sender.send(bytes).is_ok());
        if sent { Ok(()) } else { self.join().map(drop) }
    }

    /// The file with everything that was appended.
    ///
    /// # Errors
    ///
    /// [`FormatError::Io`] from the disk.
    pub(super) fn into_file(mut self) -> Result<AtomicFile, FormatError> {
        self.join()
    }

    /// Waits for the thread, which ends when nothing can be sent to it any more or when the disk fails.
    fn join(&mut self) -> Result<AtomicFile, FormatError> {
        self.sender = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Err(FormatError::missing("the rest of a file that could not be written")),
        }
    }
}

impl Drop for BackgroundFile {
    /// The temporary file is gone when this returns, not some time later.
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn write_all(mut file: AtomicFile, handle: &File, pieces: &Receiver<Vec<u8>>) -> Result<AtomicFile, FormatError> {
    let target = file.target().to_path_buf();
    let mut hash = file.take_hash();
    thread::scope(|scope| {
        let (ask, asked) = sync_channel(1);
        // Its error must not be lost: the system tells it once.
        let syncing = scope.spawn(move || asked.iter().try_for_each(|()| handle.sync_data()));
        let (written, to_hash) = sync_channel::<Vec<u8>>(WAITING);
        let hash = &mut hash;
        scope.spawn(move || to_hash.iter().for_each(|bytes| hash.iter_mut().for_each(|hash| hash.update(&bytes))));
        let mut synced = 0;
        for bytes in pieces {
            file.write(&bytes)?;
            if file.position() - synced >= SYNC_AFTER {
                synced = file.position();
                // Where it is busy still, the next time is soon enough.
                let _ = ask.try_send(());
            }
            // The hashing thread ends after the last piece, or by a panic, which the end of the scope passes on.
            let _ = written.send(bytes);
        }
        drop(ask);
        match syncing.join() {
            Ok(result) => result.map_err(io_error(&target)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    file.put_hash(hash);
    Ok(file)
}

fn io_error(path: &Path) -> impl Fn(std::io::Error) -> FormatError {
    move |source| FormatError::Io { action: "write", path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_arrive_in_order_and_the_file_goes_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m");
        let begin = || BackgroundFile::new(AtomicFile::create(&path).unwrap()).unwrap();
        let mut file = begin();
        (0..100u8).for_each(|piece| file.write(vec![piece; 1000]).unwrap());
        file.into_file().unwrap().commit().unwrap();
        let expected: Vec<u8> = (0..100u8).flat_map(|piece| [piece; 1000]).collect();
        assert!(std::fs::read(&path).unwrap() == expected);

        let mut file = begin();
        file.write(vec![7; 1 << 20]).unwrap();
        drop(file);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
