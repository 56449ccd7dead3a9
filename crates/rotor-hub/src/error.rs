//! Errors: each names the thing, what was expected, what was found and, where there is something, what to do.

use std::path::{Path, PathBuf};

/// Why a model cannot be found, fetched or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb ("read", "write").
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A setting of the environment cannot be used.
    #[error("{name} is {value:?}: expected {expected}")]
    Setting {
        /// The environment variable.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What would have been right.
        expected: &'static str,
    },
    /// The text is no name of a model.
    #[error("{text:?} is no model's name: {why}")]
    Reference {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// A name from a hub that must not become a path.
    #[error("the hub names a file {name:?}, which rotor does not write: {why}")]
    FileName {
        /// The name, as the hub has it.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No network is to be used.
    #[error("{what} is not on this machine, and the environment asks for offline mode (HF_HUB_OFFLINE)")]
    Offline {
        /// The model.
        what: String,
    },
    /// The hub knows no such repository, or does not show it.
    #[error("{endpoint} has no model {repo}, or it is private: check the name{hint}")]
    NoSuchRepo {
        /// The repository.
        repo: String,
        /// The hub.
        endpoint: String,
        /// What else may help; empty, or begins with a comma.
        hint: &'static str,
    },
    /// The model's terms have to be accepted first.
    #[error("{repo} is gated: accept its terms at {page}{hint}")]
    Gated {
        /// The repository.
        repo: String,
        /// Where its terms are.
        page: String,
        /// What else is needed; empty, or begins with a comma.
        hint: &'static str,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{repo} has no revision {revision:?}{branches}")]
    NoSuchRevision {
        /// The repository.
        repo: String,
        /// The branch, tag or commit.
        revision: String,
        /// The branches there are; empty, or begins with a colon.
        branches: String,
    },
    /// The hub refused for a reason of its own.
    #[error("{url} answered {status}{message}")]
    Status {
        /// What was asked, without the secrets of a signed address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The hub's words; empty, or begins with a colon.
        message: String,
    },
    /// The hub asks for more patience than a person has.
    #[error("{host} limits how much is asked of it and wants {seconds} s to pass first: try again later{hint}")]
    RateLimited {
        /// The host.
        host: String,
        /// How long it asks to wait.
        seconds: u64,
        /// What may help; empty, or begins with a comma.
        hint: &'static str,
    },
    /// The host cannot be reached, or the connection broke.
    #[error("{host}: {why}")]
    Network {
        /// The host.
        host: String,
        /// What happened.
        why: String,
    },
    /// An answer does not have the form it has to have.
    #[error("{host} answered something that cannot be used: {what} {found}")]
    Answer {
        /// The host.
        host: String,
        /// The field and what it has to be.
        what: &'static str,
        /// What is there.
        found: String,
    },
    /// A download did not come to its end.
    #[error("{file} was not fetched: {why}; {have} of {size} bytes are kept, and the same command goes on from there")]
    Unfinished {
        /// The file.
        file: String,
        /// What happened last.
        why: String,
        /// Bytes that are kept.
        have: u64,
        /// Bytes of the whole file.
        size: u64,
    },
    /// What came is not what the hub announced.
    #[error("{file} was fetched twice, and both times its {kind} was {found} instead of {expected}: nothing was kept")]
    Checksum {
        /// The file.
        file: String,
        /// "SHA-256", "git object id".
        kind: &'static str,
        /// As the hub announced it.
        expected: String,
        /// Of the bytes that came.
        found: String,
    },
    /// The disk cannot hold the file.
    #[error("{} has room for {available} more bytes, and {needed} are needed: make room, or set HF_HUB_CACHE to a folder on another disk", folder.display())]
    Disk {
        /// The folder.
        folder: PathBuf,
        /// Bytes to be written.
        needed: u64,
        /// Bytes the disk has room for.
        available: u64,
    },
    /// Nothing in the repository is a model that rotor could run.
    #[error("{repo} has no {what}{found}")]
    NoModel {
        /// The repository.
        repo: String,
        /// What was looked for.
        what: String,
        /// What there is instead; empty, or begins with a colon.
        found: String,
    },
    /// Several files would do.
    #[error("{repo} has several models, none better than the others: name one of {candidates}")]
    Ambiguous {
        /// The repository.
        repo: String,
        /// The names to choose from, with their sizes.
        candidates: String,
    },
    /// The beginning of the file shows that rotor cannot run it.
    #[error("{file} was not fetched: {why}")]
    Refused {
        /// The file.
        file: String,
        /// Why it cannot be run.
        why: String,
    },
    /// The model is not on this machine.
    #[error("there is no file or folder {text}, and no model of that name on this machine{hint}")]
    NotHere {
        /// What was given.
        text: String,
        /// What to do; empty, or begins with a colon.
        hint: String,
    },
    /// Several models on this machine go by the name.
    #[error("{text} is the name of several models: say which of {names}")]
    SeveralHere {
        /// What was given.
        text: String,
        /// Their full names.
        names: String,
    },
    /// A file is being written by somebody.
    #[error("{what} is being downloaded at this moment: try again when that has ended")]
    Busy {
        /// The model.
        what: String,
    },
    /// The model belongs to another program.
    #[error("{name} belongs to {owner} and is left alone: `{command}` removes it")]
    Foreign {
        /// The model.
        name: String,
        /// The other program.
        owner: &'static str,
        /// How it is removed there.
        command: String,
    },
    /// The caller has asked for an end.
    #[error("the download was broken off; the same command goes on from there")]
    Cancelled,
    /// Something else has the place of a file that is to be fetched.
    #[error("{} exists and is another file: move it away, or choose another folder", path.display())]
    Taken {
        /// The file.
        path: PathBuf,
    },
}

impl HubError {
    /// An error of the system, naming the path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> HubError {
        let path = path.to_path_buf();
        move |source| HubError::Io { action, path, source }
    }
}
