//! What several integration tests need.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use rotor::cache::SequenceCache;
use rotor::model::{Model, Step, Wanted, Workspace};
use rotor::runtime::Runtime;
use rotor_kernels::attention::KvType;
use rotor_kernels::{Isa, Kernels};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

/// Every checkpoint folder of tests/data/hf-tiny.
pub(crate) fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hf-tiny");
    let mut folders: Vec<_> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert_eq!(folders.len(), 6, "six fixtures");
    folders
}

/// A checkpoint folder of tests/data/graphs.
pub(crate) fn graph(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/graphs").join(name)
}

/// One runtime per ISA of this CPU, two threads each.
pub(crate) fn runtimes() -> Vec<Runtime> {
    Isa::available().filter_map(Kernels::for_isa).map(|kernels| Runtime::with_kernels(kernels, 2)).collect()
}

/// What transformers computed for a checkpoint: logits, or hidden states of a model without a head.
pub(crate) struct Expected {
    pub(crate) ids: Vec<u32>,
    pub(crate) rows: Vec<f32>,
}

impl Expected {
    pub(crate) fn read(folder: &Path) -> Expected {
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let data = |name: &str| file.tensor(name).unwrap().data().to_vec();
        let rows = if file.names().contains(&"hidden") { "hidden" } else { "logits" };
        let ids = data("input_ids").as_chunks().0.iter().map(|b| i64::from_le_bytes(*b).try_into().unwrap()).collect();
        let rows = data(rows).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        Expected { ids, rows }
    }

    /// The largest distance to what was found, as a share of the largest number.
    pub(crate) fn difference(&self, found: &[f32]) -> f32 {
        assert_eq!(self.rows.len(), found.len());
        let largest = self.rows.iter().fold(0f32, |m, v| m.max(v.abs()));
        let differences = self.rows.iter().zip(found).map(|(e, f)| (e - f).abs() / largest);
        differences.fold(0f32, |most, one| if one.is_nan() { f32::INFINITY } else { most.max(one) })
    }
}

/// Hidden states of every token, the ids being cut into steps of `chunk`.
pub(crate) fn hidden(model: &Model, ids: &[u32], chunk: usize, kind: KvType) -> Vec<f32> {
    let mut cache = SequenceCache::new(model.config(), ids.len(), kind);
    let mut workspace = Workspace::new(model.runtime());
    let mut all = Vec::new();
    for tokens in ids.chunks(chunk) {
        let step = Step { cache: &mut cache, tokens, wanted: Wanted::From(0) };
        all.extend_from_slice(model.hidden(&mut [step], &mut workspace).unwrap());
    }
    all
}

/// Logits of every token, the ids being cut into steps of `chunk`.
pub(crate) fn logits(model: &Model, ids: &[u32], chunk: usize, kind: KvType) -> Vec<f32> {
    let mut cache = SequenceCache::new(model.config(), ids.len(), kind);
    let mut workspace = Workspace::new(model.runtime());
    let mut all = Vec::new();
    for tokens in ids.chunks(chunk) {
        let step = Step { cache: &mut cache, tokens, wanted: Wanted::From(0) };
        all.extend_from_slice(model.forward(&mut [step], &mut workspace).unwrap());
    }
    all
}
