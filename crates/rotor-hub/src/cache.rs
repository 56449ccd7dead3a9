//! The hub's cache on disk, in the layout that its official tools write and read.
//!
//! ```text
//! ROOT/.locks/models--ORG--NAME/HASH.lock       held while a blob is being fetched
//! ROOT/models--ORG--NAME/
//!   blobs/HASH                                  the bytes, named by their hash
//!   blobs/HASH.part                             what has come of them so far; rotor's own
//!   snapshots/COMMIT/dir/file -> ../../../blobs/HASH
//!   refs/main                                   the commit that a branch stood for when it was last asked
//!   .no_exist/COMMIT/dir/file                   empty: the commit has no such file, though programs ask for it
//! ```
//!
//! Nobody may take something unfinished for a model, so things appear in this order: the blob under its final name once its
//! hash is right and it is on the disk, the link in the snapshot, and last the ref. Links are made beside the blobs, whose
//! folder may hold names that other tools do not know, and renamed into place. Reading never writes.

use crate::error::HubError;
use crate::hash::Hash;
use crate::name::{MAX_FOLDERS, RepoId, hub_name, is_commit, relative_path};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Files of one snapshot that are looked at.
const MAX_FILES: usize = 100_000;

/// The suffix of what has come of a blob so far. The official tools neither count nor remove it.
pub(crate) const PART: &str = ".part";

/// The suffix of a link or a ref that is about to be renamed into place.
pub(crate) const PENDING: &str = ".pending";

/// A cache of repositories.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
    without_links: bool,
    can_link: OnceLock<bool>,
}

/// A file of a snapshot.
#[derive(Clone, Debug)]
pub struct CachedFile {
    /// The name in the repository.
    pub name: String,
    /// The path in the snapshot, mostly a link.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// What the link leads to: a blob, or the path itself where the system has no links.
    pub blob: PathBuf,
}

impl CachedFile {
    /// The hash that the blob is named by.
    pub fn hash(&self) -> Option<Hash> {
        Hash::parse(fs::read_link(&self.path).ok()?.file_name()?.to_str()?)
    }
}

impl Cache {
    /// A cache at a folder, which need not exist yet.
    pub fn new(root: PathBuf, without_links: bool) -> Cache {
        Cache { root, without_links, can_link: OnceLock::new() }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The repositories in it, by name.
    pub fn repositories(&self) -> Vec<RepoId> {
        let entries = fs::read_dir(&self.root).into_iter().flatten();
        let mut found: Vec<RepoId> =
            entries.filter_map(|entry| RepoId::from_folder(entry.ok()?.file_name().to_str()?)).collect();
        found.sort();
        found
    }

    /// The repository in the spelling it has here.
    pub fn spelled(&self, repo: &RepoId) -> Option<RepoId> {
        let here = self.repositories();
        // That there is such a folder is no proof: to Windows and macOS its name in capitals is the same.
        if here.contains(repo) && self.folder(repo).is_dir() {
            return Some(repo.clone());
        }
        here.into_iter().find(|found| found.as_str().eq_ignore_ascii_case(repo.as_str()))
    }

    pub(crate) fn folder(&self, repo: &RepoId) -> PathBuf {
        self.root.join(repo.folder())
    }

    pub(crate) fn blob(&self, repo: &RepoId, hash: &Hash) -> PathBuf {
        self.folder(repo).join("blobs").join(hash.as_str())
    }

    pub(crate) fn part(&self, repo: &RepoId, hash: &Hash) -> PathBuf {
        self.folder(repo).join("blobs").join(format!("{hash}{PART}"))
    }

    pub(crate) fn locks(&self, repo: &RepoId) -> PathBuf {
        self.root.join(".locks").join(repo.folder())
    }

    /// The folder of a revision's files.
    pub fn snapshot(&self, repo: &RepoId, commit: &str) -> PathBuf {
        self.folder(repo).join("snapshots").join(commit)
    }

    /// The commits whose files are here, wholly or in part.
    pub fn commits(&self, repo: &RepoId) -> Vec<String> {
        let entries = fs::read_dir(self.folder(repo).join("snapshots")).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut commits: Vec<String> = names.filter(|name| is_commit(name)).collect();
        commits.sort();
        commits
    }

    /// The commit that a revision stands for here. Without a ref the only commit there is will do for the usual revision.
    pub fn commit(&self, repo: &RepoId, revision: Option<&str>) -> Option<String> {
        let name = revision.unwrap_or(crate::name::DEFAULT_REVISION);
        if is_commit(name) {
            return self.snapshot(repo, name).is_dir().then(|| name.to_owned());
        }
        let path = self.folder(repo).join("refs").join(relative_path(name).ok()?);
        let told = fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        match told.filter(|commit| is_commit(commit) && self.snapshot(repo, commit).is_dir()) {
            Some(commit) => Some(commit),
            None if revision.is_none() => match self.commits(repo).as_slice() {
                [only] => Some(only.clone()),
                _ => None,
            },
            None => None,
        }
    }

    /// The branches and tags that stand for a commit here.
    pub fn revisions(&self, repo: &RepoId, commit: &str) -> Vec<String> {
        let folder = self.folder(repo).join("refs");
        let mut paths = Vec::new();
        walk(&folder, MAX_FOLDERS, &mut paths);
        let stands = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.trim() == commit);
        let name = |path: &PathBuf| hub_name(path.strip_prefix(&folder).ok()?);
        paths.iter().filter(|path| stands(path)).filter_map(name).collect()
    }

    /// The files of a snapshot that are whole and inside the cache, by name.
    pub fn files(&self, repo: &RepoId, commit: &str) -> Vec<CachedFile> {
        let folder = self.snapshot(repo, commit);
        let mut paths = Vec::new();
        walk(&folder, MAX_FOLDERS, &mut paths);
        let mut files: Vec<CachedFile> =
            paths.into_iter().filter_map(|path| self.file(hub_name(path.strip_prefix(&folder).ok()?)?, path)).collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        files
    }

    /// One file of a snapshot, where it is whole and inside the cache: links out of it are not followed.
    pub(crate) fn file_of(&self, repo: &RepoId, commit: &str, name: &str) -> Option<CachedFile> {
        self.file(name.to_owned(), self.snapshot(repo, commit).join(relative_path(name).ok()?))
    }

    fn file(&self, name: String, path: PathBuf) -> Option<CachedFile> {
        let blob = fs::canonicalize(&path).ok()?;
        let root = fs::canonicalize(&self.root).ok()?;
        let found = fs::metadata(&blob).ok()?;
        (found.is_file() && blob.starts_with(root)).then_some(CachedFile { name, path, size: found.len(), blob })
    }

    /// Lets a snapshot have a blob under a name. Where the system has no links the blob moves there.
    pub(crate) fn link(&self, repo: &RepoId, commit: &str, name: &str, hash: &Hash) -> Result<PathBuf, HubError> {
        let relative = relative_path(name)?;
        let path = self.snapshot(repo, commit).join(&relative);
        let folder = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).map_err(HubError::io("create", folder))?;
        if !self.can_link(repo) {
            fs::rename(self.blob(repo, hash), &path).map_err(HubError::io("write", &path))?;
            sync(folder);
            return Ok(path);
        }
        // From the link's folder up to the repository's, then down to the blob.
        let ups = relative.components().count() + 1;
        let target: PathBuf = std::iter::repeat_n("..", ups).chain(["blobs", hash.as_str()]).collect();
        let pending = self.pending(repo, hash.as_str());
        symlink(&target, &pending).map_err(HubError::io("write", &pending))?;
        rename_or_remove(&pending, &path)?;
        sync(folder);
        Ok(path)
    }

    /// The folder of the names that a revision has no files of.
    pub(crate) fn absent(&self, repo: &RepoId, commit: &str) -> PathBuf {
        self.folder(repo).join(".no_exist").join(commit)
    }

    /// Notes that a commit has no file of this name, so that the official tools do not ask the hub for it, and work offline.
    pub(crate) fn note_absent(&self, repo: &RepoId, commit: &str, name: &str) -> Result<(), HubError> {
        let path = self.absent(repo, commit).join(relative_path(name)?);
        let folder = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).map_err(HubError::io("create", folder))?;
        File::create(&path).map(drop).map_err(HubError::io("write", &path))
    }

    /// Notes the commit that a branch or tag stands for.
    pub(crate) fn set_revision(&self, repo: &RepoId, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.folder(repo).join("refs").join(relative_path(revision)?);
        if fs::read_to_string(&path).is_ok_and(|text| text.trim() == commit) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).map_err(HubError::io("create", folder))?;
        let pending = self.pending(repo, "ref");
        let write = || -> io::Result<()> {
            let mut file = File::create(&pending)?;
            file.write_all(commit.as_bytes())?;
            file.sync_all()
        };
        write().map_err(HubError::io("write", &pending))?;
        rename_or_remove(&pending, &path)?;
        sync(folder);
        Ok(())
    }

    /// A name beside the blobs that no other process uses.
    fn pending(&self, repo: &RepoId, what: &str) -> PathBuf {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        self.folder(repo).join("blobs").join(format!("{what}.{}-{number}{PENDING}", std::process::id()))
    }

    /// Whether symbolic links can be made here: Windows wants a privilege for them, and some file systems have none.
    fn can_link(&self, repo: &RepoId) -> bool {
        !self.without_links
            && *self.can_link.get_or_init(|| {
                let probe = self.pending(repo, "probe");
                // Wine says that it has made one, and has not.
                let made = symlink(Path::new("nothing"), &probe).is_ok() && fs::symlink_metadata(&probe).is_ok();
                // Where none was made there is none to remove.
                let _ = fs::remove_file(&probe);
                made
            })
    }
}

fn rename_or_remove(from: &Path, to: &Path) -> Result<(), HubError> {
    fs::rename(from, to).map_err(|error| {
        // The error that is reported is the one of the rename.
        let _ = fs::remove_file(from);
        HubError::io("write", to)(error)
    })
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Makes a rename last. Not every system can sync a folder.
pub(crate) fn sync(folder: &Path) {
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

/// Everything below a folder that is not a folder itself; links to folders are not followed.
pub(crate) fn walk(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if paths.len() >= MAX_FILES {
            return;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 0 => walk(&entry.path(), depth - 1, paths),
            Ok(kind) if !kind.is_dir() => paths.push(entry.path()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn cache_with_blob(without_links: bool) -> (tempfile::TempDir, Cache, RepoId, Hash) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("hub"), without_links);
        let (repo, hash) = (RepoId::new("a/b").unwrap(), Hash::parse(&"0".repeat(64)).unwrap());
        fs::create_dir_all(cache.blob(&repo, &hash).parent().unwrap()).unwrap();
        fs::write(cache.blob(&repo, &hash), "bytes").unwrap();
        (folder, cache, repo, hash)
    }

    #[test]
    fn a_file_is_found_by_name_and_revision() {
        for without_links in [false, true] {
            let (_folder, cache, repo, hash) = cache_with_blob(without_links);
            cache.link(&repo, COMMIT, "sub/dir/m.gguf", &hash).unwrap();
            let linked = cache.can_link(&repo);
            assert!(if cfg!(unix) { linked != without_links } else { !(linked && without_links) });
            assert_eq!(cache.commit(&repo, Some("main")), None);
            assert_eq!(cache.commit(&repo, None).as_deref(), Some(COMMIT));
            cache.set_revision(&repo, "main", COMMIT).unwrap();
            cache.set_revision(&repo, "refs/pr/1", COMMIT).unwrap();
            assert_eq!(cache.commit(&repo, Some("refs/pr/1")).as_deref(), Some(COMMIT));
            let mut revisions = cache.revisions(&repo, COMMIT);
            revisions.sort();
            assert_eq!(revisions, ["main", "refs/pr/1"]);
            let files = cache.files(&repo, COMMIT);
            assert_eq!(files.len(), 1);
            assert_eq!((files[0].name.as_str(), files[0].size), ("sub/dir/m.gguf", 5));
            assert_eq!(fs::read(&files[0].path).unwrap(), b"bytes");
            assert_eq!(files[0].hash(), linked.then(|| hash.clone()));
            assert_eq!(cache.spelled(&RepoId::new("A/B").unwrap()), Some(repo.clone()));
            // Beside the blobs nothing is left of the way there.
            let left = fs::read_dir(cache.folder(&repo).join("blobs")).unwrap().count();
            assert_eq!(left, usize::from(linked));
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_out_of_the_cache_are_not_followed() {
        let (folder, cache, repo, _) = cache_with_blob(false);
        let outside = folder.path().join("outside");
        fs::write(&outside, "secret").unwrap();
        let snapshot = cache.snapshot(&repo, COMMIT);
        fs::create_dir_all(&snapshot).unwrap();
        symlink(&outside, &snapshot.join("m.gguf")).unwrap();
        symlink(Path::new("nowhere"), &snapshot.join("n.gguf")).unwrap();
        symlink(folder.path(), &snapshot.join("dir")).unwrap();
        assert!(cache.files(&repo, COMMIT).is_empty());
        assert!(cache.file_of(&repo, COMMIT, "m.gguf").is_none());
        // A blob may lead on into the store that all repositories share.
        let shared = cache.root().join("blobs").join("xx");
        fs::create_dir_all(&shared).unwrap();
        fs::write(shared.join("payload"), "bytes").unwrap();
        let blob = cache.folder(&repo).join("blobs").join("1".repeat(64));
        symlink(Path::new("../../blobs/xx/payload"), &blob).unwrap();
        symlink(&Path::new("../../blobs").join("1".repeat(64)), &snapshot.join("s.gguf")).unwrap();
        assert_eq!(cache.files(&repo, COMMIT).len(), 1);
    }

    #[test]
    fn a_ref_to_nothing_is_no_revision() {
        let (_folder, cache, repo, _) = cache_with_blob(false);
        cache.set_revision(&repo, "main", COMMIT).unwrap();
        assert_eq!(cache.commit(&repo, None), None);
        assert_eq!(cache.commit(&repo, Some("../../x")), None);
        assert_eq!(cache.commit(&repo, Some(COMMIT)), None);
    }
}
