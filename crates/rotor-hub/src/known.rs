//! Models that are known by a short name: `known-models.json`, compiled in.
//!
//! The file is the one place for what is known about a published model before it is here. Every figure in it names its
//! source; what nobody has published is left out rather than guessed.

use crate::choose::Candidate;
use crate::name::RepoId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The data file.
const DATA: &str = include_str!("../known-models.json");

/// A fact and where it is from.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sourced<T> {
    /// The fact.
    pub value: T,
    /// Whether it is rounded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub about: bool,
    /// A key of [`sources`].
    pub source: String,
}

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It answers messages.
    Chat,
    /// It completes texts.
    Base,
    /// It turns texts into vectors.
    Embedding,
}

/// Sampling that its makers recommend.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Temperature.
    pub temperature: Option<f32>,
    /// Nucleus sampling.
    pub top_p: Option<f32>,
    /// How many of the likeliest tokens are kept.
    pub top_k: Option<u32>,
}

/// A published model.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KnownModel {
    /// Its short name.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// Its repository.
    pub repository: String,
    /// The file to fetch, where the repository has several and one is meant.
    pub file: Option<String>,
    /// What it is for.
    pub kind: Kind,
    /// The licence's identifier on the hub.
    pub license: Sourced<String>,
    /// `general.architecture` of its GGUF file, or what that would be.
    pub architecture: Option<Sourced<String>>,
    /// Bytes to fetch.
    pub size: Option<Sourced<u64>>,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: Option<Sourced<String>>,
    /// Tokens of context that it was trained for.
    pub context: Option<Sourced<u64>>,
    /// Sampling that its makers recommend.
    pub sampling: Option<Sourced<Sampling>>,
    /// What it is good for, in a line.
    pub good_for: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    #[serde(rename = "about")]
    _about: String,
    sources: BTreeMap<String, String>,
    models: Vec<KnownModel>,
}

static PARSED: LazyLock<Data> = LazyLock::new(|| {
    serde_json::from_str(DATA).expect("known-models.json is compiled in, and a test of this module parses it")
});

/// All known models.
pub fn all() -> &'static [KnownModel] {
    &PARSED.models
}

/// What the sources of facts are, by key.
pub fn sources() -> &'static BTreeMap<String, String> {
    &PARSED.sources
}

/// The model of a short name or an alias.
pub fn find(name: &str) -> Option<&'static KnownModel> {
    let goes_by = |model: &&KnownModel| {
        model.name.eq_ignore_ascii_case(name) || model.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
    };
    all().iter().find(goes_by)
}

/// The model of a repository.
pub fn of_repository(repo: &RepoId) -> Option<&'static KnownModel> {
    all().iter().find(|model| model.repository.eq_ignore_ascii_case(repo.as_str()))
}

/// The file that is meant in a known repository, where it is there.
pub(crate) fn preferred(repo: &RepoId, files: &[Candidate]) -> Option<String> {
    let file = of_repository(repo)?.file.as_ref()?;
    files.iter().any(|candidate| candidate.name == *file).then(|| file.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Hash;
    use crate::name::relative_path;
    use std::collections::BTreeSet;

    #[test]
    fn every_entry_is_well_formed_and_every_fact_has_a_source() {
        let mut names = BTreeSet::new();
        for model in all() {
            let what = &model.name;
            for name in model.aliases.iter().chain([&model.name]) {
                assert!(names.insert(name.to_lowercase()), "{name} is the name of two models");
                assert!(!name.contains(['/', ':', '@', ' ']) && RepoId::new(name).is_ok(), "{name}");
            }
            assert!(RepoId::new(&model.repository).unwrap().as_str().contains('/'), "{what}");
            assert!(model.file.iter().all(|file| relative_path(file).is_ok()), "{what}");
            let cited = [
                Some(&model.license.source),
                model.architecture.as_ref().map(|fact| &fact.source),
                model.size.as_ref().map(|fact| &fact.source),
                model.sha256.as_ref().map(|fact| &fact.source),
                model.context.as_ref().map(|fact| &fact.source),
                model.sampling.as_ref().map(|fact| &fact.source),
            ];
            for source in cited.into_iter().flatten() {
                assert!(sources().contains_key(source), "{what} cites {source:?}");
            }
            if let Some(sha256) = &model.sha256 {
                assert!(matches!(Hash::parse(&sha256.value), Some(Hash::Sha256(_))), "{what}");
                // A hash is of one file, of an exact size.
                assert!(model.file.is_some() && model.size.as_ref().is_some_and(|size| !size.about), "{what}");
            }
            let size = model.size.as_ref().map_or(1 << 30, |size| size.value);
            assert!((100 << 20..100 << 30).contains(&size), "{what}");
            assert!(model.context.as_ref().is_none_or(|context| (512..=1 << 20).contains(&context.value)), "{what}");
            assert!(!model.good_for.is_empty() && !model.good_for.ends_with('.'), "{what}");
        }
    }

    #[test]
    fn every_family_is_there_and_every_source_is_used() {
        for name in
            ["bitnet-2b", "falcon3-10b", "falcon-e-1b", "llama3-8b", "bonsai-8b", "bitcpm-8b", "bitnet-embedding-0.6b"]
        {
            assert!(find(name).is_some(), "{name}");
        }
        assert_eq!(find("BitNet-2B-4T").unwrap().repository, "microsoft/bitnet-b1.58-2B-4T-gguf");
        assert!(find("gpt-5").is_none());
        for source in sources().keys() {
            assert!(DATA.matches(&format!("\"source\": \"{source}\"")).count() > 0, "{source}");
        }
    }
}
