//! Which kernels suit a model on this machine, and whether leaving weights unread pays: measured once, then remembered.
//!
//! All kernels give the same bits, so what is remembered can be wrong without harm: a cache file that is lost, stale, hostile
//! or cannot be written costs a trial or some speed, never a result. Small models do not repay a trial and go without.

use crate::error::FormatError;
use crate::formats::Source;
use crate::runtime::Runtime;
use crate::skipping;
use crate::write::AtomicFile;
use rotor_kernels::cpu_name;
use rotor_kernels::ternary::{Choice, Skips};
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
    /// The fastest kernel for each shape.
    entries: Vec<Entry<Fastest>>,
    /// From which share of the rows or columns on all are read.
    #[serde(default)]
    skipping: Vec<Entry<DenseFrom>>,
}

/// What was found out about a shape on a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry<T> {
    cpu: String,
    isa: String,
    threads: usize,
    rows: usize,
    cols: usize,
    #[serde(flatten)]
    found: T,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Fastest {
    kernel: String,
}

/// From which share of the rows or columns on all are read; 0 where that is always best.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct DenseFrom {
    #[serde(with = "SkipsName")]
    skips: Skips,
    dense_from: f64,
}

impl Runtime {
    /// This runtime with the kernels that are fastest for the shapes of `source`: measured where the model is large, at most
    /// once on a machine. Where `ROTOR_KERNEL` names a kernel, that stays. No weight is read for it.
    pub fn tuned(&self, source: &Source) -> Runtime {
        self.tuned_with(source, cache_file().as_deref(), true)
    }

    /// As [`Runtime::tuned`], by what was measured earlier alone.
    pub fn tuned_earlier(&self, source: &Source) -> Runtime {
        self.tuned_with(source, cache_file().as_deref(), false)
    }

    /// What earlier trials with this ISA and as many threads found on this machine.
    pub fn remembered(&self) -> Remembered {
        let cache = cache_file().map(|path| Cache::read(&path)).unwrap_or_default();
        let kernels = cache.kernels(self).map(|(shape, kernel)| (shape, kernel.to_owned())).collect();
        Remembered { kernels, skipping: cache.skipping(self).collect() }
    }

    fn tuned_with(&self, source: &Source, cache: Option<&Path>, may_measure: bool) -> Runtime {
        let mut tuned = self.clone();
        let (shapes, weights) = shapes(source);
        if self.choice.is_named() || weights / 4 < TRIAL_FROM {
            return tuned;
        }
        let remembered = cache.map(Cache::read).unwrap_or_default();
        let mut is_new = false;
        let known: Vec<_> = remembered.kernels(self).collect();
        if shapes.iter().all(|shape| known.iter().any(|(known, _)| known == shape)) {
            tuned.choice = Choice::remembered(self.kernels, known);
        } else if may_measure && let Ok(choice) = Choice::measure(self.kernels, &self.pool, &shapes) {
            (tuned.choice, is_new) = (choice, true);
        }
        for (shape, skips) in skipping::shapes(source) {
            let known = remembered.skipping(self).find(|(of, skipped, _)| (*of, *skipped) == (shape, skips));
            match known {
                Some(known) => tuned.choice.remember_skipping([known]),
                None if may_measure => {
                    is_new |= tuned.choice.measure_skipping(&self.pool, shape, skips).unwrap_or(false);
                }
                None => {}
            }
        }
        if let Some(path) = cache.filter(|_| is_new) {
            // A cache that cannot be written is tried again next time.
            let _ = remembered.with(self, &tuned.choice).write(path);
        }
        tuned
    }
}

/// What earlier trials found.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// The fastest kernel for each shape of matrix, `[rows, cols]`.
    pub kernels: Vec<((usize, usize), String)>,
    /// Of which shapes rows or columns that do not matter are left unread, and from which share of those that matter on all are
    /// read: 0 where that is always best.
    pub skipping: Vec<((usize, usize), Skips, f64)>,
}

/// The shapes of a model's ternary linears, each once, and the number of their weights.
fn shapes(source: &Source) -> (Vec<(usize, usize)>, u64) {
    let (mut shapes, mut weights) = (Vec::new(), 0);
    for (_, (rows, cols)) in source.ternary_shapes() {
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

    /// The fastest kernels.
    fn kernels(&self, runtime: &Runtime) -> impl Iterator<Item = ((usize, usize), &str)> {
        let own = self.entries.iter().filter(|entry| entry.is_of(runtime));
        own.map(|entry| (entry.shape(), entry.found.kernel.as_str()))
    }

    fn skipping(&self, runtime: &Runtime) -> impl Iterator<Item = ((usize, usize), Skips, f64)> {
        let own = self.skipping.iter().filter(|entry| entry.is_of(runtime));
        own.map(|entry| (entry.shape(), entry.found.skips, entry.found.dense_from))
    }

    fn with(mut self, runtime: &Runtime, choice: &Choice) -> Cache {
        for (shape, kernel) in choice.measured() {
            self.entries.retain(|entry| !(entry.is_of(runtime) && entry.shape() == shape));
            self.entries.push(Entry::of(runtime, shape, Fastest { kernel: kernel.into() }));
        }
        for (shape, skips, dense_from) in choice.measured_skipping() {
            let again = |entry: &Entry<DenseFrom>| entry.shape() == shape && entry.found.skips == skips;
            self.skipping.retain(|entry| !(entry.is_of(runtime) && again(entry)));
            self.skipping.push(Entry::of(runtime, shape, DenseFrom { skips, dense_from }));
        }
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

impl<T> Entry<T> {
    fn of(runtime: &Runtime, (rows, cols): (usize, usize), found: T) -> Entry<T> {
        let (isa, threads) = (runtime.kernels.isa().name().into(), runtime.pool.threads());
        Entry { cpu: cpu_name().unwrap_or_default(), isa, threads, rows, cols, found }
    }

    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    fn is_of(&self, runtime: &Runtime) -> bool {
        self.threads == runtime.pool.threads()
            && self.isa == runtime.kernels.isa().name()
            && self.cpu == cpu_name().unwrap_or_default()
    }
}

/// How the cache spells what is left unread.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", remote = "Skips")]
enum SkipsName {
    Rows,
    Columns,
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
        assert!(Cache::read(&path).kernels(&runtime).eq([((64, 96), "trios")]));
        for dense_from in [0.5, 0.25] {
            let mut choice = told("trios");
            choice.remember_skipping([((64, 96), Skips::Rows, dense_from), ((64, 96), Skips::Columns, 0.0)]);
            Cache::read(&path).with(&runtime, &choice).write(&path).unwrap();
        }
        let cache = Cache::read(&path);
        assert!(cache.kernels(&runtime).eq([((64, 96), "trios")]));
        assert!(cache.skipping(&runtime).eq([((64, 96), Skips::Rows, 0.25), ((64, 96), Skips::Columns, 0.0)]));
        let more_threads = Runtime::with_kernels(runtime.kernels, 3);
        assert!(cache.kernels(&more_threads).next().is_none() && cache.skipping(&more_threads).next().is_none());
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
