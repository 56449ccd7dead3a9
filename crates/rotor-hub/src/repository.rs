//! What a hub says about a repository: its commit, its files, their sizes and hashes.

use crate::address::{Address, encoded, endpoint};
use crate::client::{Answer, Client, Failure, OnRetry};
use crate::error::HubError;
use crate::hash::Hash;
use crate::name::{RepoId, is_commit, relative_path};
use serde::Deserialize;
use std::collections::BTreeSet;

/// Files of one repository. The hub itself recommends to stay below this number.
const MAX_FILES: usize = 100_000;

/// Pages of a list of files, a thousand files each.
const MAX_PAGES: usize = MAX_FILES / 1000 + 1;

/// A revision of a repository.
#[derive(Clone, Debug)]
pub struct Repository {
    /// The name, in the hub's own spelling.
    pub id: RepoId,
    /// The commit that the revision stands for, 40 hexadecimal digits.
    pub commit: String,
    /// The files, in the hub's order.
    pub files: Vec<Entry>,
    /// Names that cannot be written on every system and are therefore left out, each with the reason.
    pub refused: Vec<String>,
    /// The licence, as the model's card has it.
    pub licence: Option<String>,
}

/// A file of a repository.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name, parts separated by `/`, checked by `relative_path`.
    pub name: String,
    /// Bytes, where the hub says so.
    pub size: Option<u64>,
    /// The hash of the contents, where the hub says so.
    pub hash: Option<Hash>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    id: String,
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
    card_data: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    #[serde(alias = "sha256", alias = "oid")]
    hash: Option<String>,
    size: Option<u64>,
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    size: Option<u64>,
    oid: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Refs {
    #[serde(default)]
    branches: Vec<Branch>,
}

#[derive(Deserialize)]
struct Branch {
    name: String,
}

impl Entry {
    fn new(name: String, size: Option<u64>, oid: Option<&str>, lfs: Option<&Lfs>) -> Entry {
        let hash = match lfs {
            // A file in large storage has the hash of its contents there, and its git object is only a pointer.
            Some(lfs) => lfs.hash.as_deref().and_then(Hash::parse).filter(|hash| matches!(hash, Hash::Sha256(_))),
            None => oid.and_then(Hash::parse).filter(|hash| matches!(hash, Hash::GitBlob(_))),
        };
        Entry { name, size: lfs.and_then(|lfs| lfs.size).or(size), hash }
    }
}

/// Asks for a repository at a revision.
pub(crate) fn repository(
    client: &Client,
    repo: &RepoId,
    revision: &str,
    on_retry: &mut OnRetry<'_>,
) -> Result<Repository, HubError> {
    let path = format!("/api/models/{repo}/revision/{}?blobs=true", encoded(revision, false));
    let address = endpoint(client.endpoint(), &path)?;
    let told = client.retrying(on_retry, || client.json::<Info>(&address));
    let (info, _) = told.map_err(|error| explained(client, error, repo, revision))?;
    let wrong = |what, found| HubError::Answer { host: client.host(), what, found };
    let commit = info.sha.unwrap_or_default();
    if !is_commit(&commit) {
        return Err(wrong("sha has to be a commit, not", format!("{commit:?}")));
    }
    if is_commit(revision) && revision != commit {
        return Err(wrong("sha has to be the commit that was asked for, not", commit));
    }
    // The hub's own spelling, so that one repository has one folder; under no other name than the one that was asked for.
    let id = if info.id.eq_ignore_ascii_case(repo.as_str()) { RepoId::new(&info.id)? } else { repo.clone() };
    let mut entries: Vec<Entry> = info
        .siblings
        .into_iter()
        .map(|file| Entry::new(file.rfilename, file.size, file.blob_id.as_deref(), file.lfs.as_ref()))
        .collect();
    // Some mirrors leave sizes and hashes out of this list; the tree has them.
    if entries.iter().any(|entry| entry.size.is_none() || entry.hash.is_none())
        && let Ok(listed) = tree(client, &id, &commit, on_retry)
        && !listed.is_empty()
    {
        entries = listed;
    }
    let (files, refused) = checked(client, entries)?;
    let licence = info.card_data.as_ref().and_then(|card| card.get("license")).and_then(|value| value.as_str());
    Ok(Repository { id, commit, files, refused, licence: licence.map(|text| text.chars().take(80).collect()) })
}

/// The files with usable names, and the others; a name that occurs twice is an error.
fn checked(client: &Client, entries: Vec<Entry>) -> Result<(Vec<Entry>, Vec<String>), HubError> {
    let wrong = |what, found| HubError::Answer { host: client.host(), what, found };
    if entries.len() > MAX_FILES {
        return Err(wrong("a repository has to have at most 100000 files, not", entries.len().to_string()));
    }
    let (mut files, mut refused, mut names) = (Vec::new(), Vec::new(), BTreeSet::new());
    for entry in entries {
        match relative_path(&entry.name) {
            Ok(_) if !names.insert(entry.name.clone()) => {
                return Err(wrong(
                    "a file has to be listed once, and this is there twice:",
                    format!("{:?}", entry.name),
                ));
            }
            Ok(_) => files.push(entry),
            Err(error) => refused.push(error.to_string()),
        }
    }
    Ok((files, refused))
}

/// All pages of the list of files.
fn tree(client: &Client, repo: &RepoId, commit: &str, on_retry: &mut OnRetry<'_>) -> Result<Vec<Entry>, HubError> {
    let mut address = endpoint(client.endpoint(), &format!("/api/models/{repo}/tree/{commit}?recursive=true"))?;
    let mut entries = Vec::new();
    for _ in 0..MAX_PAGES {
        let (page, headers) = client.retrying(on_retry, || client.json::<Vec<TreeEntry>>(&address))?;
        let files = page.into_iter().filter(|entry| entry.kind == "file");
        entries.extend(files.map(|file| Entry::new(file.path, file.size, file.oid.as_deref(), file.lfs.as_ref())));
        match crate::client::text(&headers, "link").and_then(|link| next_page(&address, &link)) {
            Some(next) => address = next,
            None => return Ok(entries),
        }
    }
    let found = format!("{MAX_PAGES} pages and another");
    Err(HubError::Answer { host: client.host(), what: "a list of files has to end, and it has", found })
}

/// The address in `<...>; rel="next"`.
fn next_page(from: &Address, link: &str) -> Option<Address> {
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    from.join(next.trim().strip_prefix('<')?.split_once('>')?.0)
}

/// What a file's own answer says about it: the size and the hash, `None` where it says nothing usable.
pub(crate) fn described(answer: &Answer) -> (Option<u64>, Option<Hash>) {
    let etag = answer.hub_header("x-linked-etag").or_else(|| answer.hub_header("etag")).unwrap_or_default();
    let hash = Hash::parse(etag.trim_start_matches("W/").trim_matches('"'));
    let linked = answer.hub_header("x-linked-size");
    // The length of a redirect says nothing about the file it leads to.
    let plain = answer.header("content-length").filter(|_| answer.status.is_success());
    (linked.or(plain).and_then(|size| size.parse().ok()), hash)
}

/// Fills in what the list of files left out.
pub(crate) fn complete(
    client: &Client,
    repository: &Repository,
    entry: &Entry,
    on_retry: &mut OnRetry<'_>,
) -> Result<(u64, Hash), HubError> {
    if let (Some(size), Some(hash)) = (entry.size, &entry.hash) {
        return Ok((size, hash.clone()));
    }
    let address = file_address(client, repository, &entry.name)?;
    let answer = client.retrying(on_retry, || {
        let answer = client.head(&address)?;
        let fine = answer.status.is_success() || answer.status.is_redirection();
        if fine { Ok(answer) } else { Err(client.refusal(answer)) }
    });
    let answer = answer.map_err(|error| explained(client, error, &repository.id, &repository.commit))?;
    let (size, hash) = described(&answer);
    let missing = |what| HubError::Answer { host: client.host(), what, found: entry.name.clone() };
    let size = entry.size.or(size).ok_or_else(|| missing("the size of a file has to be told, and it is not for"))?;
    let hash = entry.hash.clone().or(hash);
    Ok((size, hash.ok_or_else(|| missing("the checksum of a file has to be told, and it is not for"))?))
}

/// Where a file's contents are asked for. By commit, so that all files of a model are of one revision.
pub(crate) fn file_address(client: &Client, repository: &Repository, name: &str) -> Result<Address, HubError> {
    let path = format!("/{}/resolve/{}/{}", repository.id, repository.commit, encoded(name, true));
    endpoint(client.endpoint(), &path)
}

/// An error in the words of what was asked for.
pub(crate) fn explained(client: &Client, error: HubError, repo: &RepoId, revision: &str) -> HubError {
    let HubError::Status { status, message, url } = &error else { return error };
    if !url.starts_with(client.endpoint()) {
        return error;
    }
    let (has, endpoint) = (client.has_token(), client.endpoint());
    let says = |code: &str| message.trim_start().starts_with(code);
    if (*status == 401 || *status == 403) && says("GatedRepo") {
        let hint = if has { "" } else { ", then set HF_TOKEN to a token of that account" };
        return HubError::Gated { repo: repo.to_string(), page: format!("{endpoint}/{repo}"), hint };
    }
    if *status == 401 || says("RepoNotFound") {
        let hint =
            if has { ", and whether the token may read it" } else { ", or set HF_TOKEN to a token that may read it" };
        return HubError::NoSuchRepo { repo: repo.to_string(), endpoint: endpoint.into(), hint };
    }
    if *status == 404 && says("RevisionNotFound") {
        let branches = branches(client, repo).unwrap_or_default();
        return HubError::NoSuchRevision { repo: repo.to_string(), revision: revision.into(), branches };
    }
    error
}

/// The branches, as a list for a message.
fn branches(client: &Client, repo: &RepoId) -> Option<String> {
    let address = endpoint(client.endpoint(), &format!("/api/models/{repo}/refs")).ok()?;
    let told: Result<_, Failure> = client.json::<Refs>(&address);
    let names: Vec<String> = told.ok()?.0.branches.into_iter().take(20).map(|branch| branch.name).collect();
    (!names.is_empty()).then(|| format!(": its branches are {}", names.join(", ")))
}
