//! The one place that maps files: everything above it sees a slice of bytes.
//!
//! Mapping a 1.2 GB model costs nothing until a page is touched, and the pages of weights that have been packed can be
//! given back ([`FileBytes::release`]). The price is that another process can shrink the file underneath us: touching a page
//! past its new end then kills the process (SIGBUS). A file that may change while it is open is read into memory instead
//! (`no_mmap`), and a program that owns its process can have the fault told as the error it is ([`on_changed_file`]).
//! Every file is read where the feature `mmap` is off, and on systems without mappings.

#![cfg_attr(
    feature = "mmap",
    expect(unsafe_code, reason = "mapping a file is the one thing here that the compiler cannot check")
)]

use crate::error::FormatError;
#[cfg(feature = "mmap")]
use memmap2::Mmap;
use std::fs::FileType;
#[cfg(feature = "mmap")]
use std::ops::Range;
use std::path::Path;
#[cfg(feature = "mmap")]
use std::path::PathBuf;
#[cfg(feature = "mmap")]
use std::sync::{Mutex, PoisonError};

/// Where which file is mapped, for whoever has to say in which of them a fault lies.
#[cfg(feature = "mmap")]
static MAPPINGS: Mutex<Vec<(Range<usize>, PathBuf)>> = Mutex::new(Vec::new());

/// The bytes of a file, wherever they live. They do not move as long as the value lives.
#[derive(Debug)]
pub(crate) enum FileBytes {
    /// Pages of the file itself.
    #[cfg(feature = "mmap")]
    Mapped(Mapping),
    /// A copy in memory.
    Owned(Vec<u8>),
    /// Part of the program.
    Static(&'static [u8]),
}

/// A mapped file, listed in [`MAPPINGS`] for as long as it lives.
#[cfg(feature = "mmap")]
#[derive(Debug)]
pub(crate) struct Mapping {
    map: Mmap,
}

#[cfg(feature = "mmap")]
impl Mapping {
    fn new(map: Mmap, path: &Path) -> Self {
        let mapping = Self { map };
        MAPPINGS.lock().unwrap_or_else(PoisonError::into_inner).push((mapping.range(), path.to_path_buf()));
        mapping
    }

    /// The addresses it covers.
    fn range(&self) -> Range<usize> {
        let begin = self.map.as_ptr() as usize;
        begin..begin + self.map.len()
    }
}

#[cfg(feature = "mmap")]
impl Drop for Mapping {
    fn drop(&mut self) {
        let range = self.range();
        MAPPINGS.lock().unwrap_or_else(PoisonError::into_inner).retain(|(mapped, _)| *mapped != range);
    }
}

impl FileBytes {
    /// Opens a regular file, mapped unless `in_memory`.
    pub(crate) fn open(path: &Path, in_memory: bool) -> Result<Self, FormatError> {
        let failed = |action| move |source| FormatError::Io { action, path: path.to_path_buf(), source };
        // Looked at by name first: opening a pipe would wait for its writer.
        let metadata = std::fs::metadata(path).map_err(failed("open"))?;
        if !metadata.is_file() {
            let found = kind_of(metadata.file_type());
            return Err(FormatError::invalid("path", "a regular file", found).in_file(path));
        }
        #[cfg(feature = "mmap")]
        if cfg!(any(unix, windows)) && !in_memory && metadata.len() > 0 {
            let file = std::fs::File::open(path).map_err(failed("open"))?;
            // SAFETY: the mapping is read-only and private to this value, and every access goes through a slice of the
            // length the file had when it was mapped. What the type system cannot see is another process that writes or
            // truncates the file meanwhile; the module documentation says what then happens and how to avoid it.
            let map = unsafe { Mmap::map(&file) }.map_err(failed("map"))?;
            return Ok(Self::Mapped(Mapping::new(map, path)));
        }
        let _ = in_memory;
        std::fs::read(path).map(Self::Owned).map_err(failed("read"))
    }

    /// The whole file.
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            #[cfg(feature = "mmap")]
            Self::Mapped(mapping) => &mapping.map,
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
        #[cfg(all(feature = "mmap", unix))]
        if let Self::Mapped(Mapping { map }) = self {
            // SAFETY: the range lies inside the mapping. It is a read-only mapping of a file, so a page that is dropped
            // comes back from the file with the same bytes on its next access and no slice into it becomes invalid.
            let advised = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, part.len()) };
            // Advice may be refused; then the pages merely stay.
            drop(advised);
        }
        #[cfg(not(all(feature = "mmap", unix)))]
        let _ = offset;
        true
    }
}

/// What something is that is no regular file.
pub(super) fn kind_of(file: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        if file.is_fifo() || file.is_socket() {
            return "a pipe, which cannot be read from any place: write it to a file first";
        }
        if file.is_char_device() || file.is_block_device() {
            return "a device";
        }
    }
    if file.is_dir() { "a folder" } else { "something else" }
}

/// Calls `changed` with the name of the file when a mapped file turns out to have been cut short while it was read. Without
/// this the process is killed by SIGBUS at the first page that is not there any more; with it, the thread that touched the
/// page waits for ever and `changed`, which is called on a thread of its own, ends the process.
///
/// Only for a program that owns its process, once, at its start: a signal handler is everybody's, and a library has no
/// business installing one. A fault elsewhere is passed on to the handler that was there before, and a SIGBUS that somebody
/// sent ends the process. Does nothing on systems where a mapped file cannot be cut short.
///
/// # Errors
///
/// The system's answer where it refuses the handler, the pipe or the thread; faults then kill the process as before.
pub fn on_changed_file(changed: impl Fn(&Path) -> std::convert::Infallible + Send + 'static) -> std::io::Result<()> {
    #[cfg(all(feature = "mmap", unix))]
    {
        fault::install(changed)
    }
    #[cfg(not(all(feature = "mmap", unix)))]
    {
        drop(changed);
        Ok(())
    }
}

/// The handler of SIGBUS, which does what a signal handler may do and no more: it tells the address to a thread that can look
/// it up, take locks and print, and waits for that thread's verdict.
#[cfg(all(feature = "mmap", unix))]
mod fault {
    use super::{MAPPINGS, PoisonError};
    use std::convert::Infallible;
    use std::io::Read as _;
    use std::mem::MaybeUninit;
    use std::os::fd::IntoRawFd as _;
    use std::path::{Path, PathBuf};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

    /// The end of the pipe that addresses are written to.
    static PIPE: AtomicI32 = AtomicI32::new(-1);
    /// Whether a fault was found to lie in no mapped file.
    static IS_FOREIGN: AtomicBool = AtomicBool::new(false);
    /// What was done about SIGBUS before.
    static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

    pub(super) fn install(changed: impl Fn(&Path) -> Infallible + Send + 'static) -> std::io::Result<()> {
        let (mut reader, writer) = std::io::pipe()?;
        std::thread::Builder::new().name("changed files".into()).spawn(move || {
            let mut address = [0; size_of::<usize>()];
            while reader.read_exact(&mut address).is_ok() {
                match file_at(usize::from_ne_bytes(address)) {
                    Some(path) => match changed(&path) {},
                    None => IS_FOREIGN.store(true, Ordering::SeqCst),
                }
            }
        })?;
        PIPE.store(writer.into_raw_fd(), Ordering::SeqCst);
        // SAFETY: zeros are a valid `sigaction`: no flag, an empty mask, the default action.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = on_bus_error as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: as above.
        let mut previous: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: both pointers are to values that live through the call, and `on_bus_error` has the signature that
        // SA_SIGINFO asks for and does only what is allowed in a signal handler.
        if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, &raw mut previous) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        // Installed a second time, the first handler of all stays the one that is passed on to.
        let _ = PREVIOUS.set(previous);
        Ok(())
    }

    /// The mapped file that an address lies in.
    fn file_at(address: usize) -> Option<PathBuf> {
        let mappings = MAPPINGS.lock().unwrap_or_else(PoisonError::into_inner);
        mappings.iter().find(|(range, _)| range.contains(&address)).map(|(_, path)| path.clone())
    }

    /// Tells the address and waits. Everything called here is async-signal-safe.
    extern "C" fn on_bus_error(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: a handler with SA_SIGINFO gets a valid `siginfo_t`, which for SIGBUS has the address that was touched.
        let (address, is_sent) = unsafe { ((*info).si_addr() as usize, (*info).si_code <= 0) };
        if is_sent {
            // SAFETY: the default action needs no more than its constant; the signal is delivered after the return.
            unsafe {
                libc::signal(libc::SIGBUS, libc::SIG_DFL);
                libc::raise(libc::SIGBUS);
            }
            return;
        }
        let bytes = address.to_ne_bytes();
        // SAFETY: the pointer and length are those of a local array. A pipe takes so few bytes at once or not at all.
        let written = unsafe { libc::write(PIPE.load(Ordering::SeqCst), bytes.as_ptr().cast(), bytes.len()) };
        let was_told = usize::try_from(written) == Ok(bytes.len());
        while was_told && !IS_FOREIGN.load(Ordering::SeqCst) {
            let moment = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
            // SAFETY: the pointer is to a local value; the time that is left is not asked for.
            unsafe { libc::nanosleep(&raw const moment, std::ptr::null_mut()) };
        }
        let Some(previous) = PREVIOUS.get() else { return };
        // SAFETY: the value is one that the system gave. The instruction that faulted is executed again after the return,
        // and faults again, with the previous handler.
        unsafe { libc::sigaction(libc::SIGBUS, previous, std::ptr::null_mut()) };
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
