//! What a pull tells while it goes on, and what it asks.

use crate::plan::Plan;
use std::path::Path;
use std::time::Duration;

/// What is going on.
#[derive(Debug)]
pub enum Event<'a> {
    /// The files have been chosen.
    Chosen(&'a Plan),
    /// Another process is fetching this file; it is waited for.
    Waiting {
        /// The file.
        file: &'a str,
    },
    /// What an earlier run has left is being hashed.
    Checking {
        /// The file.
        file: &'a str,
        /// Bytes that have been hashed.
        done: u64,
        /// Bytes there are.
        total: u64,
    },
    /// Bytes have come.
    Progress {
        /// The file.
        file: &'a str,
        /// Bytes of it that are here.
        done: u64,
        /// Bytes of the whole file.
        total: u64,
    },
    /// Something failed and is tried again.
    Retrying {
        /// What failed.
        why: String,
        /// After how long it is tried again.
        wait: Duration,
    },
    /// Something odd that does not keep the model from being used.
    Warning(String),
}

/// What looking at the beginning of a file has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Examined {
    /// It can be run, or there is nothing to object to.
    Fine,
    /// More of it is needed to tell.
    TooShort,
    /// It cannot be run, for this reason.
    Refused(String),
}

/// Looks at the beginning of a GGUF file, at a path, of which the whole will have so many bytes.
pub type Examiner<'a> = dyn Fn(&Path, u64) -> Examined + 'a;
