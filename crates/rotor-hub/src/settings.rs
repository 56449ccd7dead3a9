//! The settings that the hub's own tools read from the environment, with the same meaning.

use crate::address::Address;
use crate::error::HubError;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The hub that is asked unless `HF_ENDPOINT` names another.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Seconds without a byte after which a connection counts as broken.
const STALL: u64 = 10;

/// Where models come from and where they are kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The hub's address, without a slash at its end.
    pub endpoint: String,
    /// Shown to the endpoint, and to nobody else.
    pub token: Option<String>,
    /// The cache of all repositories.
    pub cache: PathBuf,
    /// Whether the network is not to be used.
    pub offline: bool,
    /// Whether the cache is to do without symbolic links.
    pub without_links: bool,
    /// How long a connection may be silent.
    pub stall: Duration,
    /// The first wait before something is tried again; each further one is twice as long.
    pub back_off: Duration,
    /// Certificates to trust instead of the built-in ones, a PEM file.
    pub certificates: Option<PathBuf>,
}

impl Settings {
    /// Reads the environment of this process.
    ///
    /// # Errors
    ///
    /// [`HubError::Setting`] for a variable whose value has no meaning.
    pub fn from_environment() -> Result<Settings, HubError> {
        Self::from_lookup(&|name| std::env::var_os(name))
    }

    /// Reads settings from any source of variables.
    ///
    /// # Errors
    ///
    /// As [`from_environment`](Self::from_environment).
    pub fn from_lookup(lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<Settings, HubError> {
        let environment = Environment(lookup);
        let home = environment.huggingface_home()?;
        let cache = environment.path("HF_HUB_CACHE").or_else(|| environment.path("HUGGINGFACE_HUB_CACHE"));
        Ok(Settings {
            endpoint: environment.endpoint()?,
            token: environment.token(&home),
            cache: cache.unwrap_or_else(|| home.join("hub")),
            offline: environment.is_set("HF_HUB_OFFLINE") || environment.is_set("TRANSFORMERS_OFFLINE"),
            without_links: environment.is_set("HF_HUB_DISABLE_SYMLINKS"),
            stall: Duration::from_secs(environment.seconds("HF_HUB_DOWNLOAD_TIMEOUT", STALL)?),
            back_off: Duration::from_secs(1),
            certificates: ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"].iter().find_map(|name| environment.path(name)),
        })
    }
}

/// Variables, by name.
pub(crate) struct Environment<'a>(pub(crate) &'a dyn Fn(&str) -> Option<OsString>);

impl Environment<'_> {
    /// A variable's value as text; an empty one counts as none.
    fn text(&self, name: &str) -> Option<String> {
        let value = self.0(name)?.to_string_lossy().trim().to_owned();
        (!value.is_empty()).then_some(value)
    }

    /// A path, with `~` and `$NAME` in it replaced.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        let value = self.0(name).filter(|value| !value.is_empty())?;
        match value.to_str() {
            Some(text) if text.starts_with('~') || text.contains('$') => Some(self.expanded(text)),
            _ => Some(PathBuf::from(value)),
        }
    }

    fn expanded(&self, text: &str) -> PathBuf {
        let mut pieces = text.split('$');
        let mut result = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let braced = piece.strip_prefix('{').and_then(|rest| rest.split_once('}'));
            let bare = piece.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(piece.len());
            let (name, rest) = braced.unwrap_or_else(|| piece.split_at(bare));
            match self.0(name).filter(|_| !name.is_empty()) {
                Some(value) => result.push_str(&format!("{}{rest}", value.to_string_lossy())),
                // What is no variable stays as it is, as a shell's quoted dollar sign would.
                None => result.push_str(&format!("${piece}")),
            }
        }
        match (result.strip_prefix('~'), self.home()) {
            (Some(""), Some(home)) => home,
            (Some(rest), Some(home)) if rest.starts_with(['/', '\\']) => {
                home.join(rest.trim_start_matches(['/', '\\']))
            }
            _ => PathBuf::from(result),
        }
    }

    /// The person's own folder.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        let name = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
        self.0(name).filter(|home| !home.is_empty()).map(PathBuf::from)
    }

    /// Where a program keeps what it can fetch again.
    pub(crate) fn cache_home(&self) -> Option<PathBuf> {
        self.path("XDG_CACHE_HOME").or_else(|| Some(self.home()?.join(".cache")))
    }

    fn huggingface_home(&self) -> Result<PathBuf, HubError> {
        let home = self.path("HF_HOME").or_else(|| Some(self.cache_home()?.join("huggingface")));
        home.ok_or_else(|| HubError::Setting {
            name: if cfg!(windows) { "USERPROFILE" } else { "HOME" },
            value: String::new(),
            expected: "the home folder, or HF_HOME to be set",
        })
    }

    fn endpoint(&self) -> Result<String, HubError> {
        let endpoint = self.text("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.into());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        match Address::parse(&endpoint) {
            Some(_) => Ok(endpoint),
            None => Err(HubError::Setting {
                name: "HF_ENDPOINT",
                value: endpoint,
                expected: "an address that begins with https:// or http://",
            }),
        }
    }

    fn token(&self, home: &std::path::Path) -> Option<String> {
        if self.is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            return None;
        }
        let named = self.text("HF_TOKEN").or_else(|| self.text("HUGGING_FACE_HUB_TOKEN"));
        let token = named.or_else(|| {
            let path = self.path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
            // No file, or one that cannot be read, is no token: what needs one will say so.
            std::fs::read_to_string(path).ok()
        });
        let token: String = token?.chars().filter(|c| !c.is_whitespace()).collect();
        (!token.is_empty()).then_some(token)
    }

    fn is_set(&self, name: &str) -> bool {
        let value = self.text(name).unwrap_or_default().to_uppercase();
        matches!(value.as_str(), "1" | "ON" | "YES" | "TRUE")
    }

    fn seconds(&self, name: &'static str, default: u64) -> Result<u64, HubError> {
        let Some(text) = self.text(name) else { return Ok(default) };
        let wrong = |value| HubError::Setting { name, value, expected: "a whole number of seconds, at least 1" };
        text.parse().ok().filter(|&seconds| seconds > 0).ok_or_else(|| wrong(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings, HubError> {
        let home = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
        let mut all: HashMap<String, OsString> = HashMap::from([(home.to_owned(), "/home/a".into())]);
        all.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())));
        Settings::from_lookup(&|name| all.get(name).cloned())
    }

    #[test]
    fn the_cache_is_where_the_hubs_tools_have_it() {
        let cache = |variables: &[(&str, &str)]| settings(variables).unwrap().cache;
        let under = |parts: &[&str]| parts.iter().collect::<PathBuf>();
        assert_eq!(cache(&[]), under(&["/home/a", ".cache", "huggingface", "hub"]));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/c")]), under(&["/c", "huggingface", "hub"]));
        assert_eq!(cache(&[("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/c")]), under(&["/h", "hub"]));
        assert_eq!(cache(&[("HF_HUB_CACHE", "/x"), ("HF_HOME", "/h")]), under(&["/x"]));
        assert_eq!(cache(&[("HUGGINGFACE_HUB_CACHE", "/y"), ("HF_HUB_CACHE", "")]), under(&["/y"]));
        assert_eq!(cache(&[("HF_HUB_CACHE", "~/models")]), under(&["/home/a", "models"]));
        assert_eq!(cache(&[("HF_HUB_CACHE", "$D/${E}x"), ("D", "/d"), ("E", "e")]), under(&["/d/ex"]));
        assert_eq!(cache(&[("HF_HUB_CACHE", "/a$b")]), under(&["/a$b"]));
    }

    #[test]
    fn tokens_and_switches() {
        let of = |variables: &[(&str, &str)]| settings(variables).unwrap();
        assert_eq!(of(&[("HF_TOKEN", " hf_a\n")]).token.as_deref(), Some("hf_a"));
        assert_eq!(of(&[("HF_TOKEN", " "), ("HUGGING_FACE_HUB_TOKEN", "b")]).token.as_deref(), Some("b"));
        assert_eq!(of(&[("HF_TOKEN", "a"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).token, None);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        let home = folder.path().to_str().unwrap();
        assert_eq!(of(&[("HF_HOME", home)]).token.as_deref(), Some("hf_file"));
        assert!(of(&[("HF_HUB_OFFLINE", "yes")]).offline);
        assert!(of(&[("TRANSFORMERS_OFFLINE", "TRUE")]).offline);
        assert!(!of(&[("HF_HUB_OFFLINE", "0")]).offline);
    }

    #[test]
    fn an_endpoint_is_an_address() {
        assert_eq!(settings(&[]).unwrap().endpoint, DEFAULT_ENDPOINT);
        assert_eq!(settings(&[("HF_ENDPOINT", "http://127.0.0.1:80/")]).unwrap().endpoint, "http://127.0.0.1:80");
        for wrong in ["hub", "ftp://hub", "file:///etc", "http://hub:99999"] {
            let error = settings(&[("HF_ENDPOINT", wrong)]).unwrap_err().to_string();
            assert!(error.starts_with("HF_ENDPOINT is "), "{error}");
        }
        assert!(settings(&[("HF_HUB_DOWNLOAD_TIMEOUT", "soon")]).is_err());
    }
}
