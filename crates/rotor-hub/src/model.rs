//! A model that is on this machine, and who has stored it.

use serde::Serialize;
use std::path::PathBuf;
use std::time::SystemTime;

/// Who has stored a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The hub's cache, shared by all tools of the hub.
    HuggingFace,
    /// llama.cpp's own cache, which it used before the hub's.
    LlamaCpp,
    /// Ollama.
    Ollama,
    /// LM Studio.
    LmStudio,
}

impl Origin {
    /// The name, as people write it.
    pub fn name(self) -> &'static str {
        match self {
            Origin::HuggingFace => "Hugging Face",
            Origin::LlamaCpp => "llama.cpp",
            Origin::Ollama => "Ollama",
            Origin::LmStudio => "LM Studio",
        }
    }

    /// What the names of its models begin with; those of the hub's cache have nothing before the repository.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Origin::HuggingFace => "",
            Origin::LlamaCpp => "llama.cpp/",
            Origin::Ollama => "ollama/",
            Origin::LmStudio => "lmstudio/",
        }
    }

    /// Whether a text begins as the names of other programs' models do, so that it is none of the hub's.
    pub fn begins_foreign_name(text: &str) -> bool {
        [Origin::LlamaCpp, Origin::Ollama, Origin::LmStudio].iter().any(|origin| text.starts_with(origin.prefix()))
    }
}

/// A model that is here.
#[derive(Clone, Debug, Serialize)]
pub struct LocalModel {
    /// What to call it by.
    pub name: String,
    /// What to open.
    pub path: PathBuf,
    /// Bytes of its files.
    pub size: u64,
    /// When its first file was last written.
    #[serde(serialize_with = "seconds")]
    pub modified: Option<SystemTime>,
    /// Who stored it.
    pub origin: Origin,
    /// The commit, for models of the hub.
    pub commit: Option<String>,
    /// The branches and tags that stand for the commit.
    pub revisions: Vec<String>,
    /// Its files.
    pub files: Vec<PathBuf>,
}

fn seconds<S: serde::Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    let since = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.map(|time| time.as_secs()).serialize(serializer)
}
