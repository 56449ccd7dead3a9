//! Names: of repositories, of what is wanted from them, and of the files in them.
//!
//! A name from a hub becomes a path, so it is checked under the rules of every system that rotor runs on: what would be
//! harmless here may leave its folder, or name a device, elsewhere.

use crate::error::HubError;
use std::fmt;
use std::path::{Path, PathBuf};

/// Characters of one part of a repository's name.
const MAX_REPO_PART: usize = 96;

/// Bytes of one part of a file's name: what common file systems take.
const MAX_FILE_PART: usize = 255;

/// Bytes of a file's whole name; with a cache's folder in front of it a path stays below the 4096 of Linux.
const MAX_FILE_NAME: usize = 1024;

/// Folders inside one another below a snapshot; what lies deeper would not be found again.
pub(crate) const MAX_FOLDERS: usize = 16;

/// A repository: `ORG/NAME`, or a bare `NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoId(String);

impl RepoId {
    /// Checks the hub's rules for names.
    ///
    /// # Errors
    ///
    /// [`HubError::Reference`] naming the rule that is broken.
    pub fn new(text: &str) -> Result<RepoId, HubError> {
        let wrong = |why: &str| Err(HubError::Reference { text: text.into(), why: why.into() });
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > 2 {
            return wrong("a repository is ORG/NAME");
        }
        for part in parts {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
            if part.is_empty() || part.len() > MAX_REPO_PART {
                return wrong("each part of ORG/NAME has 1 to 96 characters");
            }
            if !part.chars().all(allowed) {
                return wrong("a repository's name has letters, digits and _ . - only");
            }
            if part.contains("--") || part.contains("..") {
                return wrong("a repository's name has no -- and no ..");
            }
            if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) || part.ends_with(".git") {
                return wrong("no part of ORG/NAME begins or ends with - or ., or ends with .git");
            }
        }
        Ok(RepoId(text.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name less its organisation.
    pub fn short(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Its folder in a cache.
    pub fn folder(&self) -> String {
        format!("models--{}", self.0.replace('/', "--"))
    }

    /// The repository of a cache's folder.
    pub fn from_folder(folder: &str) -> Option<RepoId> {
        RepoId::new(&folder.strip_prefix("models--")?.replace("--", "/")).ok()
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a person asks for: `REPO[:FILE or QUANT][@REVISION]`, or the hub's address of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The repository.
    pub repo: RepoId,
    /// A file in it, or the tag of a quantisation that a file's name has in it.
    pub what: Option<String>,
    /// A branch, a tag or a commit; `main` where none is given.
    pub revision: Option<String>,
}

/// The revision meant where none is named.
pub const DEFAULT_REVISION: &str = "main";

impl Reference {
    /// Parses a name, or an address of the hub's pages (`.../blob/REV/FILE`, `.../resolve/REV/FILE`, `.../tree/REV`).
    ///
    /// # Errors
    ///
    /// [`HubError::Reference`] naming what is wrong.
    pub fn parse(text: &str) -> Result<Reference, HubError> {
        let wrong = |why: &str| HubError::Reference { text: text.into(), why: why.into() };
        if let Some(path) = page(text) {
            return Self::from_page(path).ok_or_else(|| wrong("expected the address of a model's page or file"))?;
        }
        let rest = text.strip_prefix("hf:").unwrap_or(text);
        let (rest, revision) = match rest.rsplit_once('@') {
            Some((rest, revision)) => (rest, Some(revision)),
            None => (rest, None),
        };
        let (repo, what) = match rest.split_once(':') {
            Some((repo, what)) => (repo, Some(what)),
            None => (rest, None),
        };
        if what == Some("") || revision == Some("") {
            return Err(wrong("expected REPO[:FILE or QUANT][@REVISION], nothing follows the : or the @"));
        }
        let repo = RepoId::new(repo).map_err(|error| match error {
            HubError::Reference { why, .. } => wrong(&why),
            other => other,
        })?;
        Self::checked(repo, what, revision)
    }

    fn from_page(path: &str) -> Option<Result<Reference, HubError>> {
        let path = path.split(['?', '#']).next()?.trim_end_matches('/');
        let parts: Vec<&str> = path.splitn(5, '/').collect();
        let (repo, rest) = (parts.get(..2)?.join("/"), &parts[2..]);
        let (what, revision) = match rest {
            [] => (None, None),
            ["tree", revision] => (None, Some(*revision)),
            ["blob" | "resolve", revision, file] => (Some(*file), Some(*revision)),
            _ => return None,
        };
        let revision = revision.filter(|revision| *revision != DEFAULT_REVISION);
        Some(RepoId::new(&repo).and_then(|repo| Self::checked(repo, what, revision)))
    }

    fn checked(repo: RepoId, what: Option<&str>, revision: Option<&str>) -> Result<Reference, HubError> {
        for name in what.iter().chain(&revision) {
            relative_path(name)?;
        }
        Ok(Reference { repo, what: what.map(str::to_owned), revision: revision.map(str::to_owned) })
    }

    /// The revision that is meant.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(DEFAULT_REVISION)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.repo.as_str())?;
        if let Some(what) = &self.what {
            write!(f, ":{what}")?;
        }
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

/// What follows the host in an address of the hub.
fn page(text: &str) -> Option<&str> {
    let bare = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let (host, path) = bare.unwrap_or(text).split_once('/')?;
    let is_hub = matches!(host, "huggingface.co" | "www.huggingface.co" | "hf.co");
    (is_hub || bare.is_some()).then_some(path)
}

/// The path of a name from a hub, below whatever folder it is put into.
///
/// # Errors
///
/// [`HubError::FileName`] for a name that could leave its folder, or that a system rotor runs on does not take.
pub(crate) fn relative_path(name: &str) -> Result<PathBuf, HubError> {
    let wrong = |why| Err(HubError::FileName { name: name.chars().take(200).collect(), why });
    if name.is_empty() || name.len() > MAX_FILE_NAME {
        return wrong("a name has 1 to 1024 bytes");
    }
    if name.chars().any(steers) {
        return wrong("it has control characters, or some that turn the direction of writing");
    }
    if name.matches('/').count() > MAX_FOLDERS {
        return wrong("it has more than 16 folders inside one another");
    }
    if name.contains(['\\', ':', '<', '>', '"', '|', '?', '*']) {
        return wrong("it has one of \\ : < > \" | ? *");
    }
    let mut path = PathBuf::new();
    for part in name.split('/') {
        match part {
            "" => return wrong("it is absolute, or has an empty part"),
            "." | ".." => return wrong("it has . or .. as a part"),
            _ if part.len() > MAX_FILE_PART => return wrong("a part has more than 255 bytes"),
            _ if part.ends_with(['.', ' ']) || part.starts_with(' ') => {
                return wrong("a part begins or ends with a blank, or ends with a dot");
            }
            _ if is_device(part) => return wrong("a part is the name of a device"),
            _ => path.push(part),
        }
    }
    Ok(path)
}

/// Whether a character moves what stands around it on a screen instead of being seen: control characters, and those that
/// turn the direction of writing, with which a name shows another ending than it has.
pub(crate) fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether Windows takes the name for a device, whatever follows its first dot.
fn is_device(part: &str) -> bool {
    let stem = part.split('.').next().unwrap_or(part).trim_end().to_ascii_uppercase();
    let numbered = |prefix: &str| {
        let rest = stem.strip_prefix(prefix).unwrap_or_default();
        rest.chars().count() == 1 && rest.chars().all(|c| c.is_ascii_digit() || matches!(c, '¹' | '²' | '³'))
    };
    matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") || numbered("COM") || numbered("LPT")
}

/// A name inside a repository for a path below its folder; parts are separated by `/` on every system.
pub(crate) fn hub_name(path: &Path) -> Option<String> {
    let parts: Option<Vec<&str>> = path.iter().map(|part| part.to_str()).collect();
    parts.map(|parts| parts.join("/"))
}

/// Whether a text is a commit's or a git object's id.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_follow_the_hubs_rules() {
        for good in ["microsoft/bitnet-b1.58-2B-4T-gguf", "gpt2", "a/b_c.d-e", "1bitLLM/bitnet_b1_58-3B"] {
            assert_eq!(RepoId::from_folder(&RepoId::new(good).unwrap().folder()).unwrap().as_str(), good);
        }
        let long = "x".repeat(97);
        for bad in
            ["", "/", "a/", "/a", "a/b/c", "a--b", "a..b", ".a", "a.", "-a", "a/b.git", "a b", "ä", "a\\b", &long]
        {
            assert!(RepoId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_reference_has_up_to_three_parts() {
        let parsed = |text: &str| {
            let reference = Reference::parse(text).unwrap();
            (reference.repo.to_string(), reference.what, reference.revision)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(parsed("a/b"), ("a/b".into(), None, None));
        assert_eq!(parsed("hf:a/b:Q2_0"), ("a/b".into(), some("Q2_0"), None));
        assert_eq!(parsed("a/b:sub/m.gguf@refs/pr/1"), ("a/b".into(), some("sub/m.gguf"), some("refs/pr/1")));
        assert_eq!(parsed("https://huggingface.co/a/b"), ("a/b".into(), None, None));
        assert_eq!(parsed("hf.co/a/b/"), ("a/b".into(), None, None));
        assert_eq!(parsed("https://hf.co/a/b/tree/dev"), ("a/b".into(), None, some("dev")));
        let file = "https://huggingface.co/a/b/blob/main/sub/m.gguf?download=true";
        assert_eq!(parsed(file), ("a/b".into(), some("sub/m.gguf"), None));
        for bad in
            ["", "a/b:", "a/b@", "a/b:../x", "a/b@../x", "a/b:x\ny", "../a", "https://hf.co/a", "https://hf.co/a/b/c"]
        {
            assert!(Reference::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Reference::parse("a/b:x@y").unwrap().to_string(), "a/b:x@y");
    }

    #[test]
    fn names_stay_in_their_folder() {
        for good in ["m.gguf", "a/b/c.json", "..a", "console.txt", "com10", ".gitattributes", "名.gguf"] {
            assert!(relative_path(good).is_ok(), "{good:?}");
        }
        let (long, part, deep) = ("a/".repeat(600), "a".repeat(256), format!("{}a", "a/".repeat(17)));
        assert!(relative_path(&deep[2..]).is_ok());
        let bad = [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a//b",
            "./a",
            "C:/x",
            "c:x",
            "a\\b",
            "\\\\host\\share",
            "a\0b",
            "a\nb",
            "\u{9b}a",
            "a\u{202e}fugg.exe",
            &deep,
            "a.",
            "a ",
            " a",
            "CON",
            "nul.gguf",
            "a/aux",
            "com1.txt",
            "LPT9",
            "COM¹",
            "a?b",
            "a*",
            &long,
            &part,
            "a/",
        ];
        for name in bad {
            assert!(relative_path(name).is_err(), "{name:?}");
        }
    }
}
