//! Models that other programs have stored, found by their own manifests and read in place. Nothing here writes.

use crate::choose::split;
use crate::model::{LocalModel, Origin};
use crate::name::relative_path;
use crate::settings::Environment;
use serde::Deserialize;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of a manifest; real ones have a few hundred.
const MAX_MANIFEST: u64 = 1 << 20;

/// Entries of one folder that are looked at.
const MAX_ENTRIES: usize = 10_000;

/// The media type of a model's weights in an Ollama manifest.
const OLLAMA_MODEL: &str = "application/vnd.ollama.image.model";

/// Where other programs keep models.
#[derive(Debug)]
pub(crate) struct Stores {
    llama_cpp: Vec<PathBuf>,
    ollama: Vec<PathBuf>,
    lm_studio: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct OllamaManifest {
    #[serde(default)]
    layers: Vec<OllamaLayer>,
    /// A list of manifests, one for each program that can run the model.
    #[serde(default)]
    manifests: Vec<OllamaManifest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OllamaLayer {
    media_type: String,
    digest: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LlamaManifest {
    gguf_file: LlamaFile,
}

#[derive(Deserialize)]
struct LlamaFile {
    rfilename: String,
}

impl Stores {
    pub(crate) fn new(lookup: &dyn Fn(&str) -> Option<OsString>) -> Stores {
        let environment = Environment(lookup);
        let home = environment.home();
        let below =
            |parts: &[&str]| home.as_ref().map(|home| parts.iter().fold(home.clone(), |path, part| path.join(part)));
        let given = |name: &str| environment.path(name);
        let system = PathBuf::from("/usr/share/ollama/.ollama/models");
        let all = |paths: Vec<Option<PathBuf>>| paths.into_iter().flatten().collect();
        let mac = cfg!(target_os = "macos").then(|| below(&["Library", "Caches", "llama.cpp"])).flatten();
        let cache = environment.cache_home().map(|cache| cache.join("llama.cpp"));
        Stores {
            llama_cpp: all(vec![given("LLAMA_CACHE").or(mac).or(cache)]),
            ollama: match given("OLLAMA_MODELS") {
                Some(path) => vec![path],
                None => all(vec![below(&[".ollama", "models"]), cfg!(unix).then_some(system)]),
            },
            lm_studio: all(vec![below(&[".lmstudio", "models"]), below(&[".cache", "lm-studio", "models"])]),
        }
    }

    pub(crate) fn models(&self) -> Vec<LocalModel> {
        let mut models: Vec<LocalModel> = self.llama_cpp.iter().flat_map(|folder| llama_cpp(folder)).collect();
        models.extend(self.ollama.iter().flat_map(|folder| ollama(folder)));
        models.extend(self.lm_studio.iter().flat_map(|folder| lm_studio(folder)));
        models
    }
}

/// How the program that owns a model removes it.
pub(crate) fn removal_command(model: &LocalModel) -> String {
    match model.origin {
        Origin::Ollama => {
            let name = model.name.strip_prefix(model.origin.prefix()).unwrap_or(&model.name);
            format!("ollama rm {name}")
        }
        // Neither of these has a command for it.
        Origin::LmStudio | Origin::LlamaCpp | Origin::HuggingFace => {
            let files: Vec<String> = model.files.iter().map(|file| file.display().to_string()).collect();
            format!("rm {}", files.join(" "))
        }
    }
}

/// `manifest=ORG=REPO=TAG.json` beside `ORG_REPO_FILE.gguf`; without a manifest a file's name is all there is.
fn llama_cpp(folder: &Path) -> Vec<LocalModel> {
    let mut models = Vec::new();
    for path in entries(folder) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let Some(parts) = name.strip_prefix("manifest=").and_then(|name| name.strip_suffix(".json")) else { continue };
        let &[org, repo, tag] = parts.split('=').collect::<Vec<_>>().as_slice() else { continue };
        let Some(manifest) = parsed::<LlamaManifest>(&path) else { continue };
        let file = manifest.gguf_file.rfilename.replace(['/', '\\'], "_");
        let stored = folder.join(format!("{org}_{repo}_{file}"));
        if relative_path(&file).is_ok() {
            models.extend(model(&format!("{org}/{repo}:{tag}"), stored, Origin::LlamaCpp));
        }
    }
    models
}

/// `manifests/HOST/NAMESPACE/MODEL/TAG`, or `manifests-v2`, which wins; the weights are `blobs/sha256-HEX`.
fn ollama(folder: &Path) -> Vec<LocalModel> {
    let mut models: Vec<LocalModel> = Vec::new();
    for version in ["manifests-v2", "manifests"] {
        for host in entries(&folder.join(version)) {
            for namespace in entries(&host) {
                for name in entries(&namespace) {
                    for tag in entries(&name) {
                        let parts = [&host, &namespace, &name, &tag].map(|path| part(path));
                        let Some(found) = ollama_model(folder, &parts, &tag) else { continue };
                        if !models.iter().any(|model| model.name == found.name) {
                            models.push(found);
                        }
                    }
                }
            }
        }
    }
    models
}

fn ollama_model(folder: &Path, parts: &[String; 4], manifest: &Path) -> Option<LocalModel> {
    let [host, namespace, name, tag] = parts;
    let manifest = parsed::<OllamaManifest>(manifest)?;
    let inner = manifest.manifests.iter().flat_map(|manifest| &manifest.layers);
    let layer = manifest.layers.iter().chain(inner).find(|layer| layer.media_type == OLLAMA_MODEL)?;
    let digest = layer.digest.strip_prefix("sha256:").or_else(|| layer.digest.strip_prefix("sha256-"))?;
    crate::hash::Hash::parse(digest)?;
    // As Ollama shows it: its own registry and library are left out.
    let place = match (host.as_str(), namespace.as_str()) {
        ("registry.ollama.ai" | "ollama.com", "library") => String::new(),
        ("registry.ollama.ai" | "ollama.com", namespace) => format!("{namespace}/"),
        (host, namespace) => format!("{host}/{namespace}/"),
    };
    model(&format!("{place}{name}:{tag}"), folder.join("blobs").join(format!("sha256-{digest}")), Origin::Ollama)
}

/// A path's last part, as Ollama writes names into file systems.
fn part(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().replace("%3A", ":")
}

/// `PUBLISHER/MODEL/FILE.gguf`, exactly two folders deep.
fn lm_studio(folder: &Path) -> Vec<LocalModel> {
    let mut models = Vec::new();
    for publisher in entries(folder) {
        for repo in entries(&publisher) {
            for file in entries(&repo) {
                let name = part(&file);
                let later_part = split(&name).is_some_and(|(_, number, _)| number > 1);
                if name.to_ascii_lowercase().ends_with(".gguf") && !name.contains("mmproj") && !later_part {
                    let name = format!("{}/{}/{name}", part(&publisher), part(&repo));
                    models.extend(model(&name, file, Origin::LmStudio));
                }
            }
        }
    }
    models
}

fn model(name: &str, path: PathBuf, origin: Origin) -> Option<LocalModel> {
    let files = parts(&path);
    let found: Vec<fs::Metadata> = files.iter().filter_map(|file| fs::metadata(file).ok()).collect();
    if found.len() < files.len() || !found.iter().all(fs::Metadata::is_file) {
        return None;
    }
    Some(LocalModel {
        name: format!("{}{name}", origin.prefix()),
        size: found.iter().map(fs::Metadata::len).sum(),
        modified: found.iter().filter_map(|file| file.modified().ok()).max(),
        origin,
        commit: None,
        revisions: Vec::new(),
        files,
        path,
    })
}

/// All the files of a model whose first is `NAME-00001-of-N.gguf`, and of any other the one there is.
fn parts(first: &Path) -> Vec<PathBuf> {
    match first.file_name().and_then(|name| split(name.to_str()?)) {
        Some((stem, 1, count @ 1..)) => {
            (1..=count).map(|index| first.with_file_name(format!("{stem}-{index:05}-of-{count:05}.gguf"))).collect()
        }
        _ => vec![first.to_path_buf()],
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(folder).into_iter().flatten().flatten().take(MAX_ENTRIES);
    let mut paths: Vec<PathBuf> = found.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// A manifest; one that cannot be read is another program's business, and its model is not shown.
fn parsed<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    let size = fs::metadata(path).ok().filter(|found| found.is_file())?.len();
    if size > MAX_MANIFEST {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn shown(models: &[LocalModel]) -> Vec<(&str, Origin, u64)> {
        models.iter().map(|model| (model.name.as_str(), model.origin, model.size)).collect()
    }

    #[test]
    fn each_programs_models_are_found_by_its_manifests() {
        let home = tempfile::tempdir().unwrap();
        let at = |path: &str| path.split('/').fold(home.path().to_path_buf(), |path, part| path.join(part));
        let digest = "a".repeat(64);
        let layers = |digest: &str| {
            format!(
                r#"{{"layers":[{{"mediaType":"x","digest":"sha256:0"}},{{"mediaType":"{OLLAMA_MODEL}","digest":"sha256:{digest}"}}]}}"#
            )
        };
        write(&at(&format!(".ollama/models/blobs/sha256-{digest}")), "ollama");
        write(&at(".ollama/models/manifests/registry.ollama.ai/library/llama3/8b"), &layers(&digest));
        write(&at(".ollama/models/manifests/hf.co/org/repo/Q2_0"), &layers(&digest));
        write(
            &at(".ollama/models/manifests-v2/ollama.com/library/listed/a%3Ab"),
            &format!(r#"{{"manifests":[{}]}}"#, layers(&digest)),
        );
        // Names that lead elsewhere, weights that are gone, and no JSON at all.
        write(&at(".ollama/models/manifests/registry.ollama.ai/library/evil/1"), &layers("../../../../etc/passwd"));
        write(&at(".ollama/models/manifests/registry.ollama.ai/library/gone/1"), &layers(&"b".repeat(64)));
        write(&at(".ollama/models/manifests/registry.ollama.ai/library/broken/1"), "{");
        write(&at(".lmstudio/models/pub/repo/m-Q2_0.gguf"), "lm");
        write(&at(".lmstudio/models/pub/repo/mmproj-m.gguf"), "lm");
        write(&at(".lmstudio/models/pub/split/s-00001-of-00002.gguf"), "one");
        write(&at(".lmstudio/models/pub/split/s-00002-of-00002.gguf"), "two");
        write(&at(".lmstudio/models/pub/half/h-00001-of-00002.gguf"), "one");
        write(&at(".lmstudio/models/too-shallow.gguf"), "lm");
        write(&at(".cache/llama.cpp/org_repo_sub_m.gguf"), "llama");
        write(
            &at(".cache/llama.cpp/manifest=org=repo=latest.json"),
            r#"{"ggufFile":{"rfilename":"sub/m.gguf","size":5}}"#,
        );

        let home_name = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
        let path = home.path().as_os_str().to_owned();
        let stores = Stores::new(&|name| (name == home_name).then(|| path.clone()));
        let models = stores.models();
        let mut expected = vec![
            ("ollama/listed:a:b", Origin::Ollama, 6),
            ("ollama/hf.co/org/repo:Q2_0", Origin::Ollama, 6),
            ("ollama/llama3:8b", Origin::Ollama, 6),
            ("lmstudio/pub/repo/m-Q2_0.gguf", Origin::LmStudio, 2),
            ("lmstudio/pub/split/s-00001-of-00002.gguf", Origin::LmStudio, 6),
        ];
        if !cfg!(target_os = "macos") {
            expected.insert(0, ("llama.cpp/org/repo:latest", Origin::LlamaCpp, 5));
        }
        assert_eq!(shown(&models), expected);
        let named = |name: &str| models.iter().find(|model| model.name == name).unwrap();
        assert_eq!(removal_command(named("ollama/llama3:8b")), "ollama rm llama3:8b");
        let split = removal_command(named("lmstudio/pub/split/s-00001-of-00002.gguf"));
        assert!(split.starts_with("rm ") && split.ends_with("s-00002-of-00002.gguf"), "{split}");
    }
}
