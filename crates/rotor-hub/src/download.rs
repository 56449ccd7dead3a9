//! One file, from the first byte to a checked one.
//!
//! What has come is kept in a file of its own, whose name is the hash of the whole: from that name any later run, of any
//! revision and from any mirror, knows what the bytes are the beginning of. The bytes are hashed as they come; a later run
//! hashes what it finds before it asks for the rest. Nothing is taken for whole before its hash is right and it is on the
//! disk, so a wrong beginning costs a second download and never a wrong model.

use crate::client::{ATTEMPTS, Answer, Client, Failure, read_failure};
use crate::error::HubError;
use crate::event::{Event, Examined, Examiner};
use crate::hash::{Hash, Hasher};
use crate::repository::{self, Repository};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use ureq::http::StatusCode;

/// Bytes read and written at once.
const BLOCK: usize = 1 << 20;

/// Bytes after which the disk is asked to take what has been written.
const SYNC_INTERVAL: u64 = 32 << 20;

/// Bytes that count as progress: a host that sends fewer before each failure is given up after some failures.
const PROGRESS: u64 = 256 << 10;

/// Bytes at which the beginning of a file is looked at; a vocabulary may take several megabytes.
const EXAMINED_AT: [u64; 4] = [1 << 20, 4 << 20, 16 << 20, 64 << 20];

/// A file to fetch.
pub(crate) struct Job<'a> {
    pub(crate) client: &'a Client,
    pub(crate) repository: &'a Repository,
    pub(crate) name: &'a str,
    pub(crate) size: u64,
    pub(crate) hash: &'a Hash,
    /// Where its beginning is kept.
    pub(crate) part: &'a Path,
    /// Looks at the beginning.
    pub(crate) examine: Option<&'a Examiner<'a>>,
    /// Whether to break off.
    pub(crate) cancelled: Option<&'a dyn Fn() -> bool>,
}

/// What has come so far.
struct Partial {
    file: File,
    /// Bytes in the file, all of them hashed.
    have: u64,
    hasher: Hasher,
    sync: Syncer,
    /// How many of [`EXAMINED_AT`] are behind.
    examined: usize,
}

impl Job<'_> {
    /// Fetches the file into [`part`](Self::part), wherever it stands, until it is whole, right and on the disk.
    pub(crate) fn run(&self, on_event: &mut dyn FnMut(Event<'_>)) -> Result<(), HubError> {
        let mut partial = Partial::open(self, on_event)?;
        let mut found = None;
        for _ in 0..2 {
            self.fill(&mut partial, on_event)?;
            let hash = partial.hasher.clone().finish();
            if hash == *self.hash {
                return partial.finish(self.part);
            }
            // Its beginning may have been another file's, or the disk's error: once more, from the start.
            found = Some(hash);
            partial.restart(self)?;
        }
        drop(partial);
        std::fs::remove_file(self.part).map_err(HubError::io("remove", self.part))?;
        let found = found.map(|hash| hash.to_string()).unwrap_or_default();
        Err(HubError::Checksum {
            file: self.name.into(),
            kind: self.hash.kind(),
            expected: self.hash.to_string(),
            found,
        })
    }

    /// Asks for the rest until there is none.
    fn fill(&self, partial: &mut Partial, on_event: &mut dyn FnMut(Event<'_>)) -> Result<(), HubError> {
        let (mut failed, mut best) = (0, partial.have);
        while partial.have < self.size {
            let failure = match self.attempt(partial, on_event) {
                Ok(()) => continue,
                Err(failure) => failure,
            };
            if partial.have >= best + PROGRESS {
                (failed, best) = (0, partial.have);
            }
            failed += 1;
            match failure {
                Failure::Passing { error, wait } if failed < ATTEMPTS => {
                    let mut on_retry = |error: &HubError, wait| {
                        on_event(Event::Retrying { why: error.to_string(), wait });
                    };
                    self.client.wait(failed, wait, error, &mut on_retry)?;
                }
                Failure::Passing { error, .. } => return Err(self.given_up(partial, &error)),
                Failure::Final(error) => {
                    let (repo, commit) = (&self.repository.id, &self.repository.commit);
                    return Err(repository::explained(self.client, error, repo, commit));
                }
            }
        }
        self.look_at_beginning(partial)?;
        Ok(())
    }

    fn given_up(&self, partial: &Partial, error: &HubError) -> HubError {
        HubError::Unfinished { file: self.name.into(), why: error.to_string(), have: partial.have, size: self.size }
    }

    /// One request: writes what comes, up to the file's size.
    fn attempt(&self, partial: &mut Partial, on_event: &mut dyn FnMut(Event<'_>)) -> Result<(), Failure> {
        let address = repository::file_address(self.client, self.repository, self.name)?;
        let answer = self.client.get(&address, partial.have)?;
        let from = answer.from.clone();
        let reader = self.body(answer, partial)?;
        let (mut reader, mut buffer) = (reader.take(self.size - partial.have), vec![0; BLOCK]);
        while partial.have < self.size {
            if self.cancelled.is_some_and(|cancelled| cancelled()) {
                return Err(HubError::Cancelled.into());
            }
            let count = match reader.read(&mut buffer) {
                Ok(0) => {
                    let error = io::Error::from(io::ErrorKind::UnexpectedEof);
                    return Err(read_failure(&from, &error));
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(read_failure(&from, &error)),
            };
            partial.append(&buffer[..count]).map_err(HubError::io("write", self.part))?;
            on_event(Event::Progress { file: self.name, done: partial.have, total: self.size });
            self.look_at_beginning(partial)?;
        }
        Ok(())
    }

    /// The body of an answer that begins where the partial file ends. Where the host ignores the range, or the range is not
    /// the one that was asked for, everything starts anew.
    fn body(&self, answer: Answer, partial: &mut Partial) -> Result<ureq::BodyReader<'static>, Failure> {
        let wrong = |what, found| Failure::Final(HubError::Answer { host: answer.from.host(), what, found });
        let success = answer.status.is_success();
        if let Some(encoding) = answer.header("content-encoding").filter(|name| success && name != "identity") {
            return Err(wrong("a file has to come as it is, not with Content-Encoding", encoding));
        }
        match answer.status {
            StatusCode::OK if partial.have > 0 => partial.restart(self)?,
            StatusCode::OK => {}
            StatusCode::PARTIAL_CONTENT if partial.have > 0 => {
                let range = answer.header("content-range").unwrap_or_default();
                if range_start(&range) != Some((partial.have, Some(self.size))) {
                    let error = HubError::Answer {
                        host: answer.from.host(),
                        what: "the rest of the file was asked for, and what came was",
                        found: if range.is_empty() { "no range".into() } else { range },
                    };
                    partial.restart(self)?;
                    return Err(Failure::Passing { error, wait: None });
                }
            }
            StatusCode::RANGE_NOT_SATISFIABLE if partial.have > 0 => {
                let refusal = self.client.refusal(answer);
                partial.restart(self)?;
                let (Failure::Final(error) | Failure::Passing { error, .. }) = refusal;
                return Err(Failure::Passing { error, wait: None });
            }
            status if status.is_success() || status.is_redirection() => {
                return Err(wrong("a file has to come with status 200 or 206, not", status.as_u16().to_string()));
            }
            _ => return Err(self.client.refusal(answer)),
        }
        Ok(answer.reader())
    }

    /// Lets the caller look at the beginning of the file, and gives the download up where it refuses.
    fn look_at_beginning(&self, partial: &mut Partial) -> Result<(), HubError> {
        let Some(examine) = self.examine else { return Ok(()) };
        while let Some(&at) = EXAMINED_AT.get(partial.examined) {
            if partial.have < at {
                break;
            }
            partial.examined += 1;
            match examine(self.part, self.size) {
                Examined::Fine => partial.examined = EXAMINED_AT.len(),
                Examined::TooShort => {}
                Examined::Refused(why) => {
                    std::fs::remove_file(self.part).map_err(HubError::io("remove", self.part))?;
                    return Err(HubError::Refused { file: self.name.into(), why });
                }
            }
        }
        Ok(())
    }
}

impl Partial {
    /// Opens what an earlier run has left and hashes it.
    fn open(job: &Job<'_>, on_event: &mut dyn FnMut(Event<'_>)) -> Result<Partial, HubError> {
        let failed = |error| HubError::io("write", job.part)(error);
        let mut file =
            OpenOptions::new().create(true).read(true).write(true).truncate(false).open(job.part).map_err(failed)?;
        let mut have = file.metadata().map_err(failed)?.len();
        if have > job.size {
            file.set_len(0).map_err(failed)?;
            have = 0;
        }
        let mut hasher = Hasher::new(job.hash, job.size);
        let mut progress = |done| on_event(Event::Checking { file: job.name, done, total: have });
        let hashed = hasher.update_from(&mut file, have, &mut progress).map_err(HubError::io("read", job.part))?;
        // Shorter than a moment ago: somebody else has cut it.
        file.set_len(hashed).and_then(|()| file.seek(SeekFrom::Start(hashed))).map_err(failed)?;
        let sync = Syncer::new(&file).map_err(failed)?;
        Ok(Partial { file, have: hashed, hasher, sync, examined: 0 })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.have += bytes.len() as u64;
        self.sync.written(bytes.len() as u64);
        Ok(())
    }

    fn restart(&mut self, job: &Job<'_>) -> Result<(), HubError> {
        let rewound = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        rewound.map_err(HubError::io("write", job.part))?;
        (self.have, self.hasher, self.examined) = (0, Hasher::new(job.hash, job.size), 0);
        Ok(())
    }

    fn finish(self, path: &Path) -> Result<(), HubError> {
        let Partial { file, sync, .. } = self;
        sync.finish().and_then(|()| file.sync_all()).map_err(HubError::io("write", path))
    }
}

/// Lets the disk take what is written while more is coming, so that nothing is left to wait for at the end.
struct Syncer {
    wake: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
    since: u64,
}

impl Syncer {
    fn new(file: &File) -> io::Result<Syncer> {
        let (file, (wake, awake)) = (file.try_clone()?, sync_channel::<()>(1));
        let thread = std::thread::Builder::new().name("rotor-sync".into()).spawn(move || {
            while awake.recv().is_ok() {
                file.sync_data()?;
            }
            Ok(())
        })?;
        Ok(Syncer { wake, thread, since: 0 })
    }

    fn written(&mut self, bytes: u64) {
        self.since += bytes;
        if self.since >= SYNC_INTERVAL
            && let Ok(()) | Err(TrySendError::Disconnected(())) = self.wake.try_send(())
        {
            self.since = 0;
        }
    }

    /// The first error of the disk, if there was one.
    fn finish(self) -> io::Result<()> {
        drop(self.wake);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that syncs the file ended early")))
    }
}

/// The first byte and the total of `bytes A-B/TOTAL`; the total may be unknown.
fn range_start(range: &str) -> Option<(u64, Option<u64>)> {
    let (bounds, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = bounds.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_parsed() {
        assert_eq!(range_start("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(range_start("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes */10", "5-9/10", "bytes a-9/10", "bytes 5-9"] {
            assert_eq!(range_start(bad), None, "{bad}");
        }
    }
}
