//! An opened model seen tensor by tensor: what a converter asks and an engine does not.

use super::graph::{Form, ScalePlace};
use super::model_file::Contents;
use super::parts::Role;
use super::source::Source;
use super::table::{Storage, TensorId};
use super::weight::DenseTensor;
use super::{RowOrder, hf};
use crate::error::FormatError;
use crate::forms::TernaryForm;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Whose names the tensors have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// `blk.0.attn_q.weight`
    Gguf,
    /// `model.layers.0.self_attn.q_proj.weight`
    HuggingFace,
}

impl Source {
    /// Whose names the tensors have.
    pub(crate) fn naming(&self) -> Naming {
        match self.file.contents {
            Contents::Gguf(_) => Naming::Gguf,
            Contents::HuggingFace(_) => Naming::HuggingFace,
        }
    }

    /// The folder, where the model is one.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match &self.file.contents {
            Contents::Gguf(_) => None,
            Contents::HuggingFace(folder) => match &folder.files {
                hf::Files::Folder(path) => Some(path),
                hf::Files::Memory(_) => None,
            },
        }
    }

    /// The texts in the `__metadata__` of safetensors files.
    pub(crate) fn safetensors_metadata(&self) -> Cow<'_, hf::Texts> {
        match &self.file.contents {
            Contents::Gguf(_) => Cow::Owned(hf::Texts::new()),
            Contents::HuggingFace(folder) => Cow::Borrowed(&folder.texts),
        }
    }

    /// A file of a model folder beside its weights; `None` where there is none.
    ///
    /// # Errors
    ///
    /// [`FormatError::Io`] for a file that cannot be read.
    pub(crate) fn side_file(&self, name: &str) -> Result<Option<Vec<u8>>, FormatError> {
        match &self.file.contents {
            Contents::Gguf(_) => Ok(None),
            Contents::HuggingFace(folder) => folder.files.read(name),
        }
    }

    /// The files of a model folder that are neither read nor copied with it, by name.
    pub(crate) fn other_files(&self) -> Vec<String> {
        let Some(folder) = self.folder().filter(|_| self.file.is_folder()) else { return Vec::new() };
        let is_known = |name: &str| {
            name == hf::CONFIG
                || name.starts_with('.')
                || hf::COPIED.contains(&name)
                || [".safetensors", ".safetensors.index.json", ".gguf"].iter().any(|ending| name.ends_with(ending))
        };
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.path().is_file());
        let names = files.filter_map(|entry| entry.file_name().into_string().ok());
        let mut others: Vec<String> = names.filter(|name| !is_known(name)).collect();
        others.sort();
        others
    }

    /// The roles this model has a tensor for, in the order of the graph.
    pub(crate) fn roles(&self) -> Vec<Role> {
        let config = self.config();
        let info = config.architecture.info();
        let in_layer = |layer| info.parts().map(move |part| Role::Layer(layer, part));
        let mut roles = vec![Role::TokenEmbedding];
        roles.extend((0..config.num_hidden_layers).flat_map(in_layer));
        roles.push(Role::OutputNorm);
        roles.extend(self.graph.matrices.contains_key(&Role::Output).then_some(Role::Output));
        roles
    }

    /// The tensors that fill a role as its weights, by name.
    pub(crate) fn role_names(&self) -> HashMap<&str, Role> {
        let graph = &self.graph;
        let linears = graph.linears.iter().map(|(&role, linear)| (linear.matrix.tensor, role));
        let matrices = graph.matrices.iter().map(|(&role, matrix)| (matrix.tensor, role));
        let vectors = graph.vectors.iter().map(|(&role, &tensor)| (tensor, role));
        let named = linears.chain(matrices).chain(vectors);
        named.map(|(tensor, role)| (self.file.table.tensor(tensor).name.as_str(), role)).collect()
    }

    /// The tensors that a weight's scales and second plane are in, which go wherever the weight goes.
    pub(crate) fn companions(&self) -> HashSet<&str> {
        let graph = &self.graph;
        let matrices = graph.linears.values().map(|linear| &linear.matrix).chain(graph.matrices.values());
        let mut names = HashSet::new();
        for matrix in matrices {
            let Form::Ternary { form, scales, bit1 } = matrix.form else { continue };
            let beside = if let ScalePlace::Tensor(id) = scales { Some(id) } else { None };
            names.extend(beside.into_iter().chain(bit1).map(|id| self.file.table.tensor(id).name.as_str()));
            if form == TernaryForm::Mlx {
                let stem = self.file.table.tensor(matrix.tensor).name.trim_end_matches(".weight");
                let biases = self.file.table.find(&format!("{stem}.biases"));
                names.extend(biases.map(|id| self.file.table.tensor(id).name.as_str()));
            }
            if form == TernaryForm::HfPacked {
                let scale = self.file.table.find(&format!("{}_scale", self.file.table.tensor(matrix.tensor).name));
                names.extend(scale.map(|id| self.file.table.tensor(id).name.as_str()));
            }
        }
        names
    }

    /// A norm as stored.
    pub(crate) fn stored_vector(&self, role: Role) -> Option<DenseTensor<'_>> {
        self.dense_by_id(*self.graph.vectors.get(&role)?).ok()
    }

    /// The tensor of the norm in front of a linear.
    pub(crate) fn input_norm_name(&self, role: Role) -> Option<&str> {
        let id = self.graph.linears.get(&role)?.input_norm?;
        Some(&self.file.table.tensor(id).name)
    }

    /// A tensor of ordinary numbers by name, rows as stored.
    ///
    /// # Errors
    ///
    /// [`FormatError::Missing`] where there is none, [`FormatError::Unsupported`] for a type that is not read.
    pub(crate) fn dense(&self, name: &str) -> Result<DenseTensor<'_>, FormatError> {
        let id = self.file.table.find(name).ok_or_else(|| FormatError::missing(format!("tensor {name:?}")))?;
        self.dense_by_id(id)
    }

    fn dense_by_id(&self, id: TensorId) -> Result<DenseTensor<'_>, FormatError> {
        let tensor = self.file.table.tensor(id);
        let Storage::Dense(dtype) = tensor.storage else { return Err(tensor.unreadable()) };
        let cols = tensor.shape.last().copied().unwrap_or(1);
        let bytes = self.file.table.bytes(tensor);
        // As many rows as the bytes hold, so that a shape alone promises nothing.
        let rows = dtype.row_bytes(cols).and_then(|row| bytes.len().checked_div(row)).unwrap_or(0);
        Ok(DenseTensor { name: &tensor.name, rows, cols, dtype, bytes, row_order: RowOrder::AsStored })
    }
}
