//! Fetching a model: what to fetch, whether there is room for it, and where it goes.

use crate::cache::Cache;
use crate::choose::{Candidate, Choice, absent, choose};
use crate::client::Client;
use crate::download::Job;
use crate::error::HubError;
use crate::event::{Event, Examiner};
use crate::hash::Hash;
use crate::known;
use crate::local_dir::LocalDir;
use crate::lock::Lock;
use crate::name::Reference;
use crate::plan::{Plan, PlannedFile};
use crate::repository::{self, Entry, Repository};
use crate::settings::Settings;
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes that a disk is to have left after a download.
const MARGIN: u64 = 64 << 20;

/// How to fetch.
#[derive(Default)]
pub struct PullOptions<'a> {
    /// A folder to put the files into instead of the cache.
    pub local_dir: Option<PathBuf>,
    /// Bytes of memory that the machine has.
    pub memory: Option<u64>,
    /// Looks at the beginning of each GGUF file, so that what cannot be run is refused before the rest has come.
    pub examine: Option<&'a Examiner<'a>>,
    /// Asked again and again whether to break off.
    pub cancelled: Option<&'a dyn Fn() -> bool>,
}

/// What has been fetched.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// What to open: a file, or a Hugging Face folder.
    pub path: PathBuf,
    /// What was planned.
    pub plan: Plan,
    /// Bytes that this call has fetched; 0 where everything was here.
    pub fetched: u64,
}

/// A hub and the cache for what comes from it.
#[derive(Debug)]
pub struct Hub {
    client: Client,
    cache: Cache,
    offline: bool,
}

impl Hub {
    /// A hub by its settings. Nothing is asked yet.
    ///
    /// # Errors
    ///
    /// [`HubError`] for certificates that cannot be read.
    pub fn new(settings: &Settings) -> Result<Hub, HubError> {
        let cache = Cache::new(settings.cache.clone(), settings.without_links);
        Ok(Hub { client: Client::new(settings)?, cache, offline: settings.offline })
    }

    /// Asks the hub what a name stands for, and chooses the files.
    ///
    /// # Errors
    ///
    /// [`HubError`] where the hub cannot be asked, does not have it, or several files would do.
    pub fn plan(
        &self,
        reference: &Reference,
        memory: Option<u64>,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<Plan, HubError> {
        if self.offline {
            return Err(HubError::Offline { what: reference.to_string() });
        }
        let mut on_retry = |error: &HubError, wait| on_event(Event::Retrying { why: error.to_string(), wait });
        let revision = reference.revision();
        let repository = repository::repository(&self.client, &reference.repo, revision, &mut on_retry)?;
        let entries: Vec<Candidate> = repository.files.iter().map(candidate).collect();
        let what = reference.what.clone().or_else(|| known::preferred(&repository.id, &entries));
        let mut choice = choose(repository.id.as_str(), &entries, what.as_deref(), memory)
            .map_err(|error| with_refused(error, &repository))?;
        if reference.what.is_none() && what.is_some() {
            choice.why = "the file that the list of known models names".into();
        }
        let mut files = Vec::new();
        for file in &choice.files {
            let Some(entry) = repository.files.iter().find(|entry| entry.name == file.name) else { continue };
            let (size, hash) = repository::complete(&self.client, &repository, entry, &mut on_retry)?;
            files.push(PlannedFile { name: file.name.clone(), size, hash });
        }
        Ok(Plan { repository, choice, files })
    }

    /// Fetches a model, or the part of it that is not here yet.
    ///
    /// # Errors
    ///
    /// [`HubError`]; what has come so far is kept for a later call, unless it is wrong or refused.
    pub fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions<'_>,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<Pulled, HubError> {
        let plan = self.plan(reference, options.memory, on_event)?;
        self.fetch(plan, reference.revision(), options, on_event)
    }

    /// Fetches what has been planned.
    ///
    /// # Errors
    ///
    /// As [`pull`](Self::pull).
    pub fn fetch(
        &self,
        plan: Plan,
        revision: &str,
        options: &PullOptions<'_>,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<Pulled, HubError> {
        on_event(Event::Chosen(&plan));
        for refused in &plan.repository.refused {
            on_event(Event::Warning(refused.clone()));
        }
        match &options.local_dir {
            Some(folder) => self.fill_folder(LocalDir::new(folder), plan, options, on_event),
            None => self.fill_cache(plan, revision, options, on_event),
        }
    }

    fn fill_cache(
        &self,
        plan: Plan,
        revision: &str,
        options: &PullOptions<'_>,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<Pulled, HubError> {
        let (repo, commit) = (&plan.repository.id, &plan.repository.commit);
        let blobs = self.cache.folder(repo).join("blobs");
        fs::create_dir_all(&blobs).map_err(HubError::io("create", &blobs))?;
        let missing = plan.files.iter().filter(|file| !self.is_here(&plan, file) && !self.has_blob(&plan, file));
        require_room(&blobs, missing.map(|file| (file.size, self.cache.part(repo, &file.hash))))?;
        let mut fetched = 0;
        for file in &plan.files {
            if !self.is_here(&plan, file) {
                fetched += self.obtain(&plan, file, options, on_event)?;
            }
        }
        let has = |name: &str| plan.repository.files.iter().any(|entry| entry.name == name);
        for name in absent(&plan.choice, has) {
            self.cache.note_absent(repo, commit, name)?;
        }
        self.cache.set_revision(repo, revision, commit)?;
        let path = self.cache.snapshot(repo, commit);
        Ok(Pulled { path: opened(path, &plan.choice)?, plan, fetched })
    }

    /// Whether a file is in its snapshot. Its size is checked; a full check is `rotor verify`.
    fn is_here(&self, plan: &Plan, file: &PlannedFile) -> bool {
        let cached = self.cache.file_of(&plan.repository.id, &plan.repository.commit, &file.name);
        cached.is_some_and(|cached| cached.size == file.size)
    }

    fn has_blob(&self, plan: &Plan, file: &PlannedFile) -> bool {
        fs::metadata(self.cache.blob(&plan.repository.id, &file.hash)).is_ok_and(|found| found.len() == file.size)
    }

    /// Gets a file into its snapshot; returns the bytes fetched. The lock is held to the end, because where there are no
    /// links the blob moves.
    fn obtain(
        &self,
        plan: &Plan,
        file: &PlannedFile,
        options: &PullOptions<'_>,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<u64, HubError> {
        let (repo, commit) = (&plan.repository.id, &plan.repository.commit);
        let lock = self.cache.locks(repo).join(format!("{}.lock", file.hash));
        let _lock = Lock::acquire(&lock, &mut || on_event(Event::Waiting { file: &file.name }))?;
        // Whoever held the lock may have fetched it.
        if self.is_here(plan, file) {
            return Ok(0);
        }
        let mut fetched = 0;
        if !self.has_blob(plan, file) {
            let (part, blob) = (self.cache.part(repo, &file.hash), self.cache.blob(repo, &file.hash));
            fetched = self.download(plan, file, &part, options, on_event)?;
            fs::rename(&part, &blob).map_err(HubError::io("write", &blob))?;
            crate::cache::sync(blob.parent().unwrap_or(&blob));
        }
        self.cache.link(repo, commit, &file.name, &file.hash)?;
        Ok(fetched)
    }

    fn fill_folder(
        &self,
        folder: LocalDir,
        plan: Plan,
        options: &PullOptions<'_>,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<Pulled, HubError> {
        let commit = &plan.repository.commit;
        folder.prepare()?;
        let mut missing = Vec::new();
        for file in &plan.files {
            if !folder.has(file, &mut |done| on_event(Event::Checking { file: &file.name, done, total: file.size }))? {
                missing.push(file);
            }
        }
        require_room(folder.root(), missing.iter().map(|file| (file.size, folder.part(file))))?;
        let mut fetched = 0;
        for file in &missing {
            let _lock = Lock::acquire(&folder.lock(file)?, &mut || on_event(Event::Waiting { file: &file.name }))?;
            if !folder.is_noted(file)? {
                let part = folder.part(file);
                fetched += self.download(&plan, file, &part, options, on_event)?;
                folder.place(file, commit)?;
            }
        }
        let path = opened(folder.root().to_path_buf(), &plan.choice)?;
        Ok(Pulled { path, plan, fetched })
    }

    /// Fetches a file's bytes, which are then whole and right in `part`; returns how many came.
    fn download(
        &self,
        plan: &Plan,
        file: &PlannedFile,
        part: &Path,
        options: &PullOptions<'_>,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<u64, HubError> {
        let before = fs::metadata(part).map_or(0, |found| found.len().min(file.size));
        let job = Job {
            client: &self.client,
            repository: &plan.repository,
            name: &file.name,
            size: file.size,
            hash: &file.hash,
            part,
            examine: options.examine.filter(|_| file.name.ends_with(".gguf")),
            cancelled: options.cancelled,
        };
        job.run(on_event)?;
        Ok(file.size - before)
    }

    /// The hash that the hub has on record for a file of a commit.
    ///
    /// # Errors
    ///
    /// [`HubError`] where the hub cannot be asked or does not have the file.
    pub fn recorded(&self, reference: &Reference, name: &str) -> Result<(u64, Hash), HubError> {
        if self.offline {
            return Err(HubError::Offline { what: format!("what the hub says about {reference}") });
        }
        let ignore = &mut |_: &HubError, _| {};
        let repository = repository::repository(&self.client, &reference.repo, reference.revision(), ignore)?;
        let Some(entry) = repository.files.iter().find(|entry| entry.name == name) else {
            let what = format!("file {name:?}");
            return Err(HubError::NoModel { repo: reference.repo.to_string(), what, found: String::new() });
        };
        repository::complete(&self.client, &repository, entry, ignore)
    }
}

/// What is opened of a model's files below a folder.
pub(crate) fn opened(folder: PathBuf, choice: &Choice) -> Result<PathBuf, HubError> {
    match choice.files.first() {
        Some(file) if !choice.folder => Ok(folder.join(crate::name::relative_path(&file.name)?)),
        _ => Ok(folder),
    }
}

fn candidate(entry: &Entry) -> Candidate {
    Candidate { name: entry.name.clone(), size: entry.size }
}

/// Where nothing was found, the reason may be among the names that were left out.
fn with_refused(error: HubError, repository: &Repository) -> HubError {
    match (error, repository.refused.first()) {
        (HubError::NoModel { repo, what, found }, Some(refused)) => {
            HubError::NoModel { repo, what, found: format!("{found}; {refused}") }
        }
        (error, _) => error,
    }
}

/// Refuses to begin what the disk has no room for.
fn require_room(folder: &Path, files: impl Iterator<Item = (u64, PathBuf)>) -> Result<(), HubError> {
    let rest = |(size, part): (u64, PathBuf)| size.saturating_sub(fs::metadata(part).map_or(0, |found| found.len()));
    let needed = files.map(rest).fold(0, u64::saturating_add);
    // A system that does not tell how much room there is will say so when it is full.
    let Ok(available) = fs4::available_space(folder) else { return Ok(()) };
    if needed > 0 && needed.saturating_add(MARGIN) > available {
        return Err(HubError::Disk { folder: folder.to_path_buf(), needed: needed.saturating_add(MARGIN), available });
    }
    Ok(())
}
