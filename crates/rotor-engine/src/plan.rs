//! What a model takes in memory, known before it is loaded.

use crate::cache::bytes_per_token;
use crate::config::Config;
use crate::error::FormatError;
use crate::formats::{DenseTensor, Part, Role, Source, Weight};
use crate::forms::{Scales, TernaryTensor};
use crate::head::sketch_bytes;
use crate::linear::head_type;
use crate::skipping::Packing;
use rotor_kernels::attention::KvType;
use rotor_kernels::ternary::{Choice, GroupScales};

/// Bytes of each part of a loaded model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The linears, packed for the kernels.
    pub linears: u64,
    /// The embedding, in its storage type or the one asked for.
    pub embedding: u64,
    /// The head; 0 where the embedding serves as one.
    pub head: u64,
    /// What bounds the logits of a head that is not read whole; 0 where it is.
    pub sketch: u64,
}

impl MemoryPlan {
    /// What `source` will take once it is loaded for the kernels of `choice`.
    ///
    /// # Errors
    /// As [`Source::linear`], and where the head cannot have the type asked for.
    pub fn of(source: &Source, choice: &Choice) -> Result<MemoryPlan, FormatError> {
        let mut plan = MemoryPlan::default();
        for layer in 0..source.config().num_hidden_layers {
            for part in Part::LINEARS {
                let role = Role::Layer(layer, part);
                if let Some(weight) = source.outline(role)? {
                    plan.linears += loaded_bytes(source, role, &weight, choice);
                }
            }
        }
        let matrix = |role| -> Result<u64, FormatError> {
            let Some(weight) = source.outline(role)? else { return Ok(0) };
            Ok(match (&weight, head_type(source, &weight)?) {
                (Weight::Dense(tensor), Some(dtype)) => {
                    tensor.rows as u64 * dtype.row_bytes(tensor.cols).unwrap_or_default() as u64
                }
                _ => loaded_bytes(source, role, &weight, choice),
            })
        };
        plan.embedding = matrix(Role::TokenEmbedding)?;
        plan.head = matrix(Role::Output)?;
        plan.sketch = MemoryPlan::sketch_of(source)?.unwrap_or(0);
        Ok(plan)
    }

    /// Bytes of the sketch that the head of `source` will get; `None` where it will get none.
    ///
    /// # Errors
    /// As [`MemoryPlan::of`].
    pub(crate) fn sketch_of(source: &Source) -> Result<Option<u64>, FormatError> {
        let head = match source.outline(Role::Output)? {
            Some(head) => Some(head),
            None => source.outline(Role::TokenEmbedding)?,
        };
        let Some(weight) = head else { return Ok(None) };
        let Weight::Dense(tensor) = &weight else { return Ok(None) };
        let dtype = head_type(source, &weight)?.unwrap_or(tensor.dtype);
        Ok(sketch_bytes(source.load_options().read, (tensor.rows, tensor.cols), dtype))
    }

    /// The same matrix by matrix, by their names in the file. Norms, which are next to nothing, are left out.
    ///
    /// # Errors
    /// As [`Source::linear`].
    pub fn by_tensor(source: &Source, choice: &Choice) -> Result<Vec<(String, u64)>, FormatError> {
        let mut found = Vec::new();
        for role in source.roles() {
            if let Some(weight) = source.outline(role)? {
                let (Weight::Ternary(TernaryTensor { name, .. }) | Weight::Dense(DenseTensor { name, .. })) = &weight;
                found.push(((*name).to_owned(), loaded_bytes(source, role, &weight, choice)));
            }
        }
        Ok(found)
    }

    /// All weights together; what loading reports when it is done.
    pub fn weights(&self) -> u64 {
        self.linears + self.embedding + self.head + self.sketch
    }

    /// Keys and values of `context` tokens.
    pub fn kv(config: &Config, context: usize, kind: KvType) -> u64 {
        bytes_per_token(config, kind).saturating_mul(context as u64)
    }
}

/// Bytes of a weight once it is packed. Where its scales are among the weights, finding them has read them all: their pages
/// are given back.
fn loaded_bytes(source: &Source, role: Role, weight: &Weight<'_>, choice: &Choice) -> u64 {
    match weight {
        Weight::Ternary(tensor) => {
            source.release(tensor.bytes);
            let scales = match &tensor.scales {
                Scales::Groups { .. } => GroupScales::bytes_of(tensor.rows, tensor.scales.groups()),
                Scales::Tensor(_) | Scales::Rows(_) => 0,
            };
            (Packing::of(source, role, tensor, choice).bytes((tensor.rows, tensor.cols)) + scales) as u64
        }
        Weight::Dense(tensor) => tensor.bytes.len() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;
    use crate::formats::OpenOptions;
    use crate::runtime::Runtime;
    use crate::synth::{Preset, SynthOptions, synthesize};

    #[test]
    fn the_plan_is_what_loading_takes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        synthesize(Preset::Tiny, &path, &SynthOptions::default(), &mut |_, _| {}).unwrap();
        let source = Source::open(&path, &OpenOptions::default()).unwrap();
        let runtime = Runtime::new(1).unwrap();
        let plan = MemoryPlan::of(&source, &runtime.choice).unwrap();
        let mut reported = 0;
        let engine = Engine::from_source(&source, &runtime, &mut |done| reported = done).unwrap();
        assert_eq!(plan.weights(), engine.model().weight_bytes() as u64);
        assert_eq!(plan.weights(), reported);
        let by_tensor = MemoryPlan::by_tensor(&source, &runtime.choice).unwrap();
        assert_eq!(by_tensor.iter().map(|(_, bytes)| bytes).sum::<u64>(), reported);
        assert_eq!(by_tensor.len(), 1 + 7 * source.config().num_hidden_layers);
        assert!(plan.linears > 0 && plan.embedding > 0 && plan.head == 0, "{plan:?}");
    }
}
