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
mod event;
mod hash;
pub mod known;
mod local;
mod local_dir;
mod lock;
mod model;
mod name;
mod plan;
mod pull;
mod repository;
mod settings;
mod stores;
pub mod units;

pub use cache::{Cache, CachedFile};
pub use choose::{Candidate, Choice};
pub use error::HubError;
pub use event::{Event, Examined, Examiner};
pub use hash::{Hash, hash_file};
pub use local::{Library, Removal, Unfinished};
pub use model::{LocalModel, Origin};
pub use name::{DEFAULT_REVISION, Reference, RepoId};
pub use plan::{Plan, PlannedFile};
pub use pull::{Hub, PullOptions, Pulled};
pub use repository::{Entry, Repository};
pub use settings::{DEFAULT_ENDPOINT, Settings};
