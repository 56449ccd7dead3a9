//! The models on this machine: those of the hub's cache, and those that other programs have stored.
//!
//! Only the hub's cache is ours to change. What other programs have stored is found by their own manifests, shown with
//! where it is from, and opened in place.

use crate::cache::{Cache, CachedFile, PART, PENDING, walk};
use crate::choose::{Candidate, Choice, choose, names};
use crate::error::HubError;
use crate::known;
use crate::lock::Lock;
use crate::model::{LocalModel, Origin};
use crate::name::{Reference, RepoId};
use crate::pull::opened;
use crate::settings::Settings;
use crate::stores;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A download that did not come to its end.
#[derive(Clone, Debug, Serialize)]
pub struct Unfinished {
    /// The repository.
    pub repository: String,
    /// The partial file.
    pub path: PathBuf,
    /// Bytes that have come.
    pub size: u64,
}

/// Everything on this machine that goes by a name.
#[derive(Debug)]
pub struct Library {
    cache: Cache,
    stores: stores::Stores,
}

impl Library {
    /// The models that a process with these settings and variables sees.
    pub fn new(settings: &Settings, lookup: &dyn Fn(&str) -> Option<std::ffi::OsString>) -> Library {
        let cache = Cache::new(settings.cache.clone(), settings.without_links);
        Library { cache, stores: stores::Stores::new(lookup) }
    }

    /// The hub's cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// All models, those of the hub's cache first.
    pub fn models(&self) -> Vec<LocalModel> {
        let mut models: Vec<LocalModel> =
            self.cache.repositories().iter().flat_map(|repo| self.of_repository(repo)).collect();
        models.extend(self.stores.models());
        models
    }

    /// The models of one repository, of every revision that is here.
    fn of_repository(&self, repo: &RepoId) -> Vec<LocalModel> {
        let main = self.cache.commit(repo, None);
        let mut models = Vec::new();
        for commit in self.cache.commits(repo) {
            let revisions = self.cache.revisions(repo, &commit);
            let files = self.cache.files(repo, &commit);
            let found = names(&files.iter().map(candidate).collect::<Vec<_>>());
            let alone = found.len() == 1;
            for (file, choice) in found {
                let mut name = repo.to_string();
                if !alone {
                    name.push_str(&format!(":{file}"));
                }
                if main.as_ref() != Some(&commit) {
                    name.push_str(&format!("@{}", revisions.first().map_or(&commit[..12], String::as_str)));
                }
                models.extend(self.model(repo, &commit, &revisions, name, &files, &choice));
            }
        }
        models
    }

    fn model(
        &self,
        repo: &RepoId,
        commit: &str,
        revisions: &[String],
        name: String,
        files: &[CachedFile],
        choice: &Choice,
    ) -> Option<LocalModel> {
        let path = opened(self.cache.snapshot(repo, commit), choice).ok()?;
        let of = |wanted: &Candidate| files.iter().find(|file| file.name == wanted.name);
        let files: Vec<&CachedFile> = choice.files.iter().filter_map(of).collect();
        Some(LocalModel {
            name,
            path,
            size: files.iter().map(|file| file.size).sum(),
            modified: files.iter().filter_map(|file| fs::metadata(&file.blob).ok()?.modified().ok()).max(),
            origin: Origin::HuggingFace,
            commit: Some(commit.to_owned()),
            revisions: revisions.to_vec(),
            files: files.iter().map(|file| file.path.clone()).collect(),
        })
    }

    /// The model that a text names: `REPO[:FILE or QUANT][@REVISION]`, a known model's short name, a repository without its
    /// organisation, or the name of another program's model.
    ///
    /// # Errors
    ///
    /// [`HubError::NotHere`] where there is none, [`HubError::Ambiguous`] or [`HubError::SeveralHere`] where several go by
    /// the name.
    pub fn find(&self, text: &str) -> Result<LocalModel, HubError> {
        if let Some(model) = self.stores.models().into_iter().find(|model| model.name == text) {
            return Ok(model);
        }
        let Some(reference) = self.reference(text)? else {
            return Err(HubError::NotHere { text: text.into(), hint: String::new() });
        };
        let not_here = || HubError::NotHere { text: text.into(), hint: String::new() };
        let repo = self.cache.spelled(&reference.repo).ok_or_else(not_here)?;
        let commit =
            self.cache.commit(&repo, reference.revision.as_deref()).or_else(|| self.abbreviated(&repo, &reference));
        let commit = commit.ok_or_else(not_here)?;
        let files = self.cache.files(&repo, &commit);
        let entries: Vec<Candidate> = files.iter().map(candidate).collect();
        let what = reference.what.clone().or_else(|| known::preferred(&repo, &entries));
        // A repository whose model is not here, or not this one of several, is as good as none.
        let choice = choose(repo.as_str(), &entries, what.as_deref(), None).map_err(|error| match error {
            HubError::NoModel { .. } => not_here(),
            other => other,
        })?;
        let revisions = self.cache.revisions(&repo, &commit);
        self.model(&repo, &commit, &revisions, reference.to_string(), &files, &choice).ok_or_else(not_here)
    }

    /// The only commit here that begins as the revision does.
    fn abbreviated(&self, repo: &RepoId, reference: &Reference) -> Option<String> {
        let prefix = reference.revision.as_deref().filter(|revision| revision.len() >= 7)?;
        let mut fitting = self.cache.commits(repo).into_iter().filter(|commit| commit.starts_with(prefix));
        fitting.next().filter(|_| fitting.next().is_none())
    }

    /// What a text refers to, on this machine or on the hub: short names are looked up, what is an address or a repository
    /// is parsed. `None` for a text that can be neither.
    ///
    /// # Errors
    ///
    /// [`HubError::SeveralHere`] for a repository's short name that several organisations here have.
    pub fn reference(&self, text: &str) -> Result<Option<Reference>, HubError> {
        let Ok(mut reference) = Reference::parse(text) else { return Ok(None) };
        if reference.repo.as_str().contains('/') {
            return Ok(Some(reference));
        }
        if let Some(known) = known::find(reference.repo.as_str()) {
            reference.repo = RepoId::new(&known.repository)?;
            return Ok(Some(reference));
        }
        let short = reference.repo.as_str();
        let fitting: Vec<RepoId> =
            self.cache.repositories().into_iter().filter(|repo| repo.short().eq_ignore_ascii_case(short)).collect();
        match fitting.as_slice() {
            [] => Ok(Some(reference)),
            [only] => {
                reference.repo = only.clone();
                Ok(Some(reference))
            }
            several => {
                let names: Vec<&str> = several.iter().map(RepoId::as_str).collect();
                Err(HubError::SeveralHere { text: text.into(), names: names.join(", ") })
            }
        }
    }

    /// Downloads in the hub's cache that did not come to their end and that nobody is going on with.
    pub fn unfinished(&self) -> Vec<Unfinished> {
        self.cache.repositories().iter().flat_map(|repo| self.unfinished_of(repo)).collect()
    }

    fn unfinished_of(&self, repo: &RepoId) -> Vec<Unfinished> {
        let mut paths = Vec::new();
        walk(&self.cache.folder(repo).join("blobs"), 0, &mut paths);
        let unfinished = |path: PathBuf| {
            let name = path.file_name()?.to_str()?;
            let ours = name.ends_with(PART) || name.ends_with(PENDING);
            // The official tools never take these up again.
            let theirs = name.ends_with(".incomplete");
            let hash = name.split('.').next()?;
            let busy = !Lock::is_free(&self.cache.locks(repo).join(format!("{hash}.lock")));
            let size = fs::symlink_metadata(&path).ok()?.len();
            ((ours || theirs) && !busy).then(|| Unfinished { repository: repo.to_string(), path, size })
        };
        paths.into_iter().filter_map(unfinished).collect()
    }

    /// Removes unfinished downloads; returns the bytes that are free now.
    ///
    /// # Errors
    ///
    /// [`HubError::Io`] naming what cannot be removed.
    pub fn remove_unfinished(&self) -> Result<u64, HubError> {
        let mut freed = 0;
        for unfinished in self.unfinished() {
            fs::remove_file(&unfinished.path).map_err(HubError::io("remove", &unfinished.path))?;
            freed += unfinished.size;
        }
        Ok(freed)
    }

    /// What removing a model would remove.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find), and [`HubError::Foreign`] for what another program has stored.
    pub fn plan_removal(&self, text: &str) -> Result<Removal, HubError> {
        if let Some(model) = self.stores.models().into_iter().find(|model| model.name == text) {
            let command = stores::removal_command(&model);
            return Err(HubError::Foreign { name: model.name, owner: model.origin.name(), command });
        }
        let not_here = || HubError::NotHere { text: text.into(), hint: String::new() };
        let reference = self.reference(text)?.ok_or_else(not_here)?;
        let repo = self.cache.spelled(&reference.repo).ok_or_else(not_here)?;
        let commits = match &reference.revision {
            None => self.cache.commits(&repo),
            Some(revision) => {
                let commit = self.cache.commit(&repo, Some(revision));
                vec![commit.or_else(|| self.abbreviated(&repo, &reference)).ok_or_else(not_here)?]
            }
        };
        let mut files = Vec::new();
        for commit in &commits {
            let all = self.cache.files(&repo, commit);
            let Some(what) = &reference.what else {
                files.extend(all);
                continue;
            };
            let entries: Vec<Candidate> = all.iter().map(candidate).collect();
            let Ok(choice) = choose(repo.as_str(), &entries, Some(what), None) else { continue };
            files.extend(all.into_iter().filter(|file| choice.files.iter().any(|chosen| chosen.name == file.name)));
        }
        if files.is_empty() && reference.what.is_some() {
            return Err(not_here());
        }
        Ok(Removal { repo, commits, whole: reference.what.is_none(), all: reference.revision.is_none(), files })
    }

    /// Removes what was planned; returns the bytes that are free now. References go first and bytes last, so that whatever
    /// interrupts this leaves nothing that looks like a model and is none.
    ///
    /// # Errors
    ///
    /// [`HubError::Busy`] where something of it is being downloaded, [`HubError::Io`] naming what cannot be removed.
    pub fn remove(&self, removal: &Removal) -> Result<u64, HubError> {
        let repo = &removal.repo;
        let folder = self.cache.folder(repo);
        let mut locks = Vec::new();
        walk(&self.cache.locks(repo), 0, &mut locks);
        if locks.iter().any(|lock| !Lock::is_free(lock)) {
            return Err(HubError::Busy { what: repo.to_string() });
        }
        let before = disk_size(&folder);
        if removal.whole {
            for commit in &removal.commits {
                for revision in self.cache.revisions(repo, commit) {
                    let path = folder.join("refs").join(crate::name::relative_path(&revision)?);
                    fs::remove_file(&path).map_err(HubError::io("remove", &path))?;
                }
            }
        }
        for file in &removal.files {
            fs::remove_file(&file.path).map_err(HubError::io("remove", &file.path))?;
        }
        if removal.whole {
            for commit in &removal.commits {
                remove_folder(&self.cache.snapshot(repo, commit))?;
                remove_folder(&self.cache.absent(repo, commit))?;
            }
        }
        self.remove_unused_blobs(removal)?;
        if removal.whole && self.cache.commits(repo).is_empty() {
            remove_folder(&folder)?;
            remove_folder(&self.cache.locks(repo))?;
        }
        Ok(before.saturating_sub(disk_size(&folder)))
    }

    /// Removes the blobs that no snapshot links to any more. A blob that is itself a link leads to a store that other
    /// repositories share: the link goes and the store stays.
    fn remove_unused_blobs(&self, removal: &Removal) -> Result<(), HubError> {
        let repo = &removal.repo;
        let blobs = self.cache.folder(repo).join("blobs");
        let mut links = Vec::new();
        walk(&self.cache.folder(repo).join("snapshots"), 16, &mut links);
        let target = |link: &PathBuf| fs::read_link(link).ok()?.file_name().map(|name| name.to_owned());
        let used: BTreeSet<_> = links.iter().filter_map(target).collect();
        let everything = removal.whole && removal.all;
        let mut paths = Vec::new();
        walk(&blobs, 0, &mut paths);
        for path in paths {
            let name = path.file_name().unwrap_or_default();
            let is_blob = name.to_str().is_some_and(|name| crate::hash::Hash::parse(name).is_some());
            if everything || (is_blob && !used.contains(name)) {
                fs::remove_file(&path).map_err(HubError::io("remove", &path))?;
            }
        }
        Ok(())
    }
}

/// What is to be removed.
#[derive(Clone, Debug)]
pub struct Removal {
    repo: RepoId,
    commits: Vec<String>,
    /// Whether revisions go as a whole, or only some files of them.
    whole: bool,
    /// Whether every revision is meant.
    all: bool,
    files: Vec<CachedFile>,
}

impl Removal {
    /// The names of the files.
    pub fn files(&self) -> Vec<String> {
        let names: BTreeSet<&str> = self.files.iter().map(|file| file.name.as_str()).collect();
        names.into_iter().map(str::to_owned).collect()
    }

    /// The repository.
    pub fn repository(&self) -> &RepoId {
        &self.repo
    }
}

fn candidate(file: &CachedFile) -> Candidate {
    Candidate { name: file.name.clone(), size: Some(file.size) }
}

fn remove_folder(folder: &Path) -> Result<(), HubError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(HubError::io("remove", folder)(error)),
        _ => Ok(()),
    }
}

/// Bytes of the files below a folder; links count as nothing.
fn disk_size(folder: &Path) -> u64 {
    let mut paths = Vec::new();
    walk(folder, 32, &mut paths);
    let size =
        |path: &PathBuf| fs::symlink_metadata(path).ok().filter(|found| found.is_file()).map(|found| found.len());
    paths.iter().filter_map(size).sum()
}
