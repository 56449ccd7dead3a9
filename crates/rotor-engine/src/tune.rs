//! Which kernels suit a model on this machine: measured once, then remembered.
//!
//! All kernels give the same bits, so what is remembered can be wrong without harm: a cache file that is lost, stale, hostile
//! or cannot be written costs a trial or some speed, never a result. Small models do not repay a trial and go without.

use crate::error::FormatError;
use crate::formats::Source;
use crate::runtime::Runtime;
use crate::write::AtomicFile;
use rotor_kernels::cpu_name;
use rotor_kernels::ternary::Choice;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Ternary weights, at two bits each, from which on a trial is made.
const TRIAL_FROM: u64 = 256 << 20;
/// The largest cache file that is read: some hundred entries for each of many machines that share a home folder.
const MAX_CACHE: u64 = 1 << 20;

/// What was measured, on all machines that share the cache.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Cache {
    /// Entries of another version of the kernels mean nothing.
    version: String,
    entries: Vec<Entry>,
}

/// The fastest kernel for a shape on a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    cpu: String,
    isa: String,
    threads: usize,
    rows: usize,
    cols: usize,
    kernel: String,
}

impl Runtime {
    /// This runtime with the kernels that are fastest for the shapes of `source`: measured where the model is large, at most
    /// once on a machine. Where `ROTOR_KERNEL` names a kernel, or the ISA has only one, that stays. No weight is read for it.
    pub fn tuned(&self, source: &Source) -> Runtime {
        self.tuned_with(source, cache_file().as_deref(), true)
    }

    /// As [`Runtime::tuned`], by what was measured earlier alone.
    pub fn tuned_earlier(&self, source: &Source) -> Runtime {
        self.tuned_with(source, cache_file().as_deref(), false)
    }

    /// The kernel that was found fastest for each shape of matrix, `[rows, cols]`, by earlier trials with this ISA and as many
    /// threads on this machine.
    pub fn remembered(&self) -> Vec<((usize, usize), String)> {
        let cache = cache_file().map(|path| Cache::read(&path)).unwrap_or_default();
        cache.of(self).into_iter().map(|(shape, kernel)| (shape, kernel.to_owned())).collect()
    }

    fn tuned_with(&self, source: &Source, cache: Option<&Path>, may_measure: bool) -> Runtime {
        let mut tuned = self.clone();
        if self.choice.is_fixed() {
            return tuned;
        }
        let (shapes, weights) = shapes(source);
        if weights / 4 < TRIAL_FROM {
            return tuned;
        }
        let remembered = cache.map(Cache::read).unwrap_or_default();
        let known = remembered.of(self);
        if shapes.iter().all(|shape| known.iter().any(|(known, _)| known == shape)) {
            tuned.choice = Choice::remembered(self.kernels, known);
        } else if may_measure && let Ok(choice) = Choice::measure(self.kernels, &self.pool, &shapes) {
            if let Some(path) = cache {
                // A cache that cannot be written is tried again next time.
                let _ = remembered.with(self, &choice).write(path);
            }
            tuned.choice = choice;
        }
        tuned
    }
}

/// The shapes of a model's ternary linears, each once, and the number of their weights.
fn shapes(source: &Source) -> (Vec<(usize, usize)>, u64) {
    let (mut shapes, mut weights) = (Vec::new(), 0);
    for (rows, cols) in source.ternary_shapes() {
        weights += rows as u64 * cols as u64;
        if !shapes.contains(&(rows, cols)) {
            shapes.push((rows, cols));
        }
    }
    (shapes, weights)
}

impl Cache {
    /// What the file holds; nothing where it is missing, too long, broken or of another version.
    fn read(path: &Path) -> Cache {
        let fits = std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() <= MAX_CACHE);
        let text = fits.then(|| std::fs::read_to_string(path).ok()).flatten();
        let cache: Option<Cache> = text.and_then(|text| serde_json::from_str(&text).ok());
        cache.filter(|cache| cache.version == env!("CARGO_PKG_VERSION")).unwrap_or_default()
    }

    fn of(&self, runtime: &Runtime) -> Vec<((usize, usize), &str)> {
        let own = self.entries.iter().filter(|entry| entry.is_of(runtime));
        own.map(|entry| ((entry.rows, entry.cols), entry.kernel.as_str())).collect()
    }

    fn with(mut self, runtime: &Runtime, choice: &Choice) -> Cache {
        let measured: Vec<_> = choice.measured().collect();
        let again = |entry: &Entry| measured.iter().any(|(shape, _)| *shape == (entry.rows, entry.cols));
        self.entries.retain(|entry| !(entry.is_of(runtime) && again(entry)));
        self.entries.extend(measured.iter().map(|((rows, cols), kernel)| Entry {
            cpu: cpu_name().unwrap_or_default(),
            isa: runtime.kernels.isa().name().into(),
            threads: runtime.pool.threads(),
            rows: *rows,
            cols: *cols,
            kernel: (*kernel).into(),
        }));
        self.version = env!("CARGO_PKG_VERSION").into();
        self
    }

    fn write(&self, path: &Path) -> Result<(), FormatError> {
        let failed = |source| FormatError::Io { action: "write", path: path.into(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let text = serde_json::to_string_pretty(self).map_err(|error| failed(error.into()))?;
        let mut file = AtomicFile::create(path)?;
        file.write(text.as_bytes())?;
        file.commit()
    }
}

impl Entry {
    fn is_of(&self, runtime: &Runtime) -> bool {
        self.threads == runtime.pool.threads()
            && self.isa == runtime.kernels.isa().name()
            && self.cpu == cpu_name().unwrap_or_default()
    }
}

/// `rotor/kernels.json` in the user's cache folder: `XDG_CACHE_HOME` wherever it is set, else what the system uses.
fn cache_file() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = if cfg!(windows) {
        folder("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        folder("HOME").map(|home| home.join("Library/Caches"))
    } else {
        folder("HOME").map(|home| home.join(".cache"))
    };
    Some(folder("XDG_CACHE_HOME").or(own)?.join("rotor/kernels.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rotor_kernels::{Isa, Kernels};

    fn runtime() -> Runtime {
        Runtime::with_kernels(Kernels::for_isa(Isa::Scalar).unwrap(), 2)
    }

    #[test]
    fn what_was_measured_comes_back_and_replaces_what_was_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/kernels.json");
        let runtime = runtime();
        let told = |kernel| Choice::remembered(runtime.kernels, [((64, 96), kernel)]);
        Cache::read(&path).with(&runtime, &told("codes")).write(&path).unwrap();
        Cache::read(&path).with(&runtime, &told("trios")).write(&path).unwrap();
        assert_eq!(Cache::read(&path).of(&runtime), [((64, 96), "trios")]);
        let more_threads = Runtime::with_kernels(runtime.kernels, 3);
        assert!(Cache::read(&path).of(&more_threads).is_empty());
    }

    #[test]
    fn a_broken_cache_is_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernels.json");
        assert!(Cache::read(&path).entries.is_empty());
        let another = r#"{"version": "0.0.0", "entries": []}"#.to_string();
        for text in ["", "{", "[]", another.as_str(), &"x".repeat(MAX_CACHE as usize + 1)] {
            std::fs::write(&path, text).unwrap();
            assert!(Cache::read(&path).version.is_empty());
        }
    }

    #[test]
    fn a_small_model_is_not_tried() {
        let source = crate::demo::open(&Default::default()).unwrap();
        let tuned = runtime().tuned_with(&source, None, true);
        assert_eq!(tuned.choice.measured().count(), 0);
    }
}
