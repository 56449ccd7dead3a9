//! Models by name.
//!
//! This crate knows names, downloads, caches, published models and what other programs have stored; it knows no model's
//! graph and no kernel. [`Hub`] asks a hub and fetches, [`Library`] finds what is on this machine, [`known`] has the
//! models that go by a short name.
//!
//! A hub is a stranger: whatever it says is checked before it becomes a path, a size to allocate or an address to go to, and
//! nothing it sends is taken for a model before its hash is right.

#![forbid(unsafe_code)]

mod address;
mod cache;
mod choose;
mod client;
mod download;
mod error;
mod hash;
pub mod known;
mod local;
mod local_dir;
mod lock;
mod name;
mod pull;
mod repository;
mod settings;
mod stores;
pub mod units;

pub use cache::{Cache, CachedFile};
pub use choose::{Candidate, Choice};
pub use error::HubError;
pub use hash::{Hash, hash_file};
pub use local::{Library, LocalModel, Origin, Removal, Unfinished};
pub use name::{DEFAULT_REVISION, Reference, RepoId};
pub use pull::{Event, Examined, Examiner, Hub, Plan, PlannedFile, PullOptions, Pulled};
pub use repository::{Entry, Repository};
pub use settings::{DEFAULT_ENDPOINT, Settings};
