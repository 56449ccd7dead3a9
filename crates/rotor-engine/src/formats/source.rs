//! An opened model: one type over both containers, with everything but the weights checked.

use super::bind::{Bound, bind};
use super::graph::{Form, Graph, Matrix, ScalePlace};
use super::map::FileBytes;
use super::metadata::{Array, Value};
use super::model_file::{Contents, ModelFile};
use super::options::{LoadOptions, OpenOptions};
use super::parts::Role;
use super::summary::{SourceKind, SourceMetadata, TensorSummary};
use super::table::TensorId;
use super::tokenizer_source::TokenizerSource;
use super::weight::{DenseTensor, SourceLinear, Weight};
use crate::config::{Activations, Config};
use crate::error::FormatError;
use crate::forms::{self, I2sLayout, Scales, TernaryForm, TernaryTensor, absmean_scale, exact_scales_key};
use crate::tokenizer::{TokenizerDescription, TokenizerError};
use rotor_kernels::DenseType;
use rotor_kernels::ternary::Precision;
use std::path::Path;

/// An opened model.
#[derive(Debug)]
pub struct Source {
    pub(super) file: ModelFile,
    config: Config,
    pub(super) graph: Graph,
    i2s_layout: I2sLayout,
    warnings: Vec<String>,
    load: LoadOptions,
    /// Why the activations are kept as they are.
    activations_reason: &'static str,
}

/// A file that does not run, and why.
#[derive(Debug)]
pub struct Unbound {
    /// The file, for those who want to show it.
    pub file: ModelFile,
    /// What keeps it from running.
    pub error: FormatError,
}

impl ModelFile {
    /// The model that the file holds, with everything but the weights checked.
    ///
    /// # Errors
    ///
    /// The file itself, and what keeps it from running: a flaw of its own, being something else than a language model, an
    /// unknown architecture, a tensor that is missing or of the wrong shape, a key that asks for what is not done here.
    pub fn bind(mut self, options: &OpenOptions) -> Result<Source, Box<Unbound>> {
        let flaw = self.table.take_flaw();
        match flaw.map_or_else(|| self.parts(options), Err) {
            Ok(parts) => Ok(Source::new(self, parts, options)),
            Err(error) => {
                let error = match &self.path {
                    Some(path) => error.in_file(path),
                    None => error,
                };
                Err(Box::new(Unbound { file: self, error }))
            }
        }
    }

    /// Everything that a [`Source`] has beyond the file.
    fn parts(&mut self, options: &OpenOptions) -> Result<Bound, FormatError> {
        if let Some((what, why)) = self.nature() {
            return Err(FormatError::unsupported(what, why));
        }
        bind(&mut self.contents, &self.table, options)
    }
}

impl Source {
    /// Opens a GGUF file (the first part of a split one), a safetensors file, or a folder in Hugging Face layout.
    ///
    /// Afterwards every tensor the graph needs is known to exist with the right shape, a readable type and bytes in range.
    ///
    /// # Errors
    ///
    /// A [`FormatError`] that names the file, the thing in it, what was expected and what was found.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, FormatError> {
        ModelFile::open(path, options.no_mmap)?.bind(options).map_err(|unbound| unbound.error)
    }

    /// Opens a GGUF or Rotor file that is part of the program.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_static(bytes: &'static [u8], options: &OpenOptions) -> Result<Self, FormatError> {
        Self::from_memory(FileBytes::Static(bytes), options)
    }

    /// Opens a GGUF or Rotor file that is in memory.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_bytes(bytes: Vec<u8>, options: &OpenOptions) -> Result<Self, FormatError> {
        Self::from_memory(FileBytes::Owned(bytes), options)
    }

    fn from_memory(bytes: FileBytes, options: &OpenOptions) -> Result<Self, FormatError> {
        ModelFile::from_memory(bytes)?.bind(options).map_err(|unbound| unbound.error)
    }

    /// A Rotor file under whatever name it has.
    pub(crate) fn open_rotor(path: &Path, options: &OpenOptions) -> Result<Self, FormatError> {
        ModelFile::open_rotor(path, options.no_mmap)?.bind(options).map_err(|unbound| unbound.error)
    }

    fn new(file: ModelFile, bound: Bound, options: &OpenOptions) -> Self {
        let Bound { config, graph, i2s_layout, activations_reason, warnings } = bound;
        let warnings = file.warnings().iter().cloned().chain(warnings).collect();
        let mut source = Self { file, config, graph, i2s_layout, warnings, load: options.load, activations_reason };
        source.warn_of_odd_scales();
        source
    }

    /// The file or folder it is in.
    pub fn file(&self) -> &ModelFile {
        &self.file
    }

    /// Warns where scales look as if they had been multiplied for divided, or the reverse. docs/formats.md, "Hugging Face packed U8".
    fn warn_of_odd_scales(&mut self) {
        const PLAUSIBLE: std::ops::RangeInclusive<f32> = 1e-5..=1e3;
        let scale = |form| match form {
            Form::Ternary { scales: ScalePlace::Known(scale), .. } => Some(scale),
            Form::Ternary { .. } | Form::Dense(_) => None,
        };
        let odd = |&(_, scale): &(_, f32)| !PLAUSIBLE.contains(&scale.abs());
        let scales =
            self.graph.linears.values().filter_map(|linear| Some((linear.matrix.tensor, scale(linear.matrix.form)?)));
        let odd: Vec<_> = scales.filter(odd).collect();
        if let Some(&(tensor, scale)) = odd.first() {
            let (count, name) = (odd.len(), &self.file.table.tensor(tensor).name);
            self.warnings.push(format!(
                "{count} ternary tensors have an unusual scale, {name:?} for one {scale:e}: is it to be divided by?"
            ));
        }
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The container.
    pub fn kind(&self) -> SourceKind {
        self.file.kind()
    }

    /// The layout that I2_S tensors are read in: given, detected, or the usual one.
    pub fn i2s_layout(&self) -> I2sLayout {
        self.i2s_layout
    }

    /// The form the weights are to have in memory.
    pub fn load_options(&self) -> LoadOptions {
        self.load
    }

    /// How finely the inputs of ternary linears are to be kept, as asked for or as the model was trained, and why; `None` where
    /// there are no ternary linears.
    pub fn activations(&self) -> Option<(Activations, &'static str)> {
        let own = self.config.activations?;
        Some(match self.load.activations {
            Some(asked) if asked != own => (asked, "as asked for"),
            _ => (own, self.activations_reason),
        })
    }

    /// What the kernels are asked for.
    pub(crate) fn precision(&self) -> Precision {
        self.activations().map_or(Precision::Int8, |(activations, _)| activations.precision())
    }

    /// What is odd about the file without being wrong, in sentences.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// One of the seven projections of a layer.
    ///
    /// Master weights are read through here, for the mean that is their scale.
    ///
    /// # Errors
    ///
    /// [`FormatError::Missing`] for a role that is no projection of this model, [`FormatError::Invalid`] for master weights
    /// that are not finite.
    pub fn linear(&self, role: Role) -> Result<SourceLinear<'_>, FormatError> {
        let Some(linear) = self.graph.linears.get(&role) else {
            return Err(FormatError::missing(format!("linear {role:?}")));
        };
        let input_norm = linear.input_norm.map(|id| self.file.table.decode(id)).transpose()?;
        Ok(SourceLinear { weight: self.weight(&linear.matrix)?, output_scale: linear.output_scale, input_norm })
    }

    /// The embedding or the head; `None` for a head that is tied to the embedding.
    ///
    /// # Errors
    ///
    /// As [`linear`](Self::linear).
    pub fn matrix(&self, role: Role) -> Result<Option<Weight<'_>>, FormatError> {
        self.graph.matrices.get(&role).map(|matrix| self.weight(matrix)).transpose()
    }

    /// A norm's weights; `None` for a role the model does not have.
    ///
    /// # Errors
    ///
    /// None for a model that opened; the type leaves room for sources that read lazily.
    pub fn vector(&self, role: Role) -> Result<Option<Vec<f32>>, FormatError> {
        let Some(&id) = self.graph.vectors.get(&role) else { return Ok(None) };
        let mut weights = self.file.table.decode(id)?;
        if self.norms_less_one() {
            weights.iter_mut().for_each(|weight| *weight += 1.0);
        }
        Ok(Some(weights))
    }

    /// Whether the weights of norms, but for those inside linears, are stored less 1.
    pub(crate) fn norms_less_one(&self) -> bool {
        let is_checkpoint = matches!(self.file.contents, Contents::HuggingFace(_));
        is_checkpoint && self.config.architecture.info().norms_less_one
    }

    /// Rows and columns of every ternary projection, which nothing is read for.
    pub(crate) fn ternary_shapes(&self) -> impl Iterator<Item = (Role, (usize, usize))> {
        let matrices = self.graph.linears.iter().map(|(role, linear)| (*role, &linear.matrix));
        let ternary = matrices.filter(|(_, matrix)| matches!(matrix.form, Form::Ternary { .. }));
        ternary.map(|(role, matrix)| (role, (matrix.rows, matrix.cols)))
    }

    /// Whether a linear is ternary and has no norm of its own in front.
    pub(crate) fn is_plain_ternary(&self, role: Role) -> bool {
        let linear = self.graph.linears.get(&role);
        linear.is_some_and(|linear| matches!(linear.matrix.form, Form::Ternary { .. }) && linear.input_norm.is_none())
    }

    /// The matrix of a role for those who ask how large it will be: master weights, whose scale is the mean of them all, are
    /// not read and have the scale 1 here. `None` for a role that no matrix of this model has.
    ///
    /// # Errors
    ///
    /// As [`linear`](Self::linear).
    pub(crate) fn outline(&self, role: Role) -> Result<Option<Weight<'_>>, FormatError> {
        let linear = self.graph.linears.get(&role).map(|linear| &linear.matrix);
        let matrix = linear.or_else(|| self.graph.matrices.get(&role));
        matrix.map(|matrix| self.weight_with(matrix, |_, _, _| Ok(1.0))).transpose()
    }

    fn weight(&self, matrix: &Matrix) -> Result<Weight<'_>, FormatError> {
        self.weight_with(matrix, absmean_scale)
    }

    /// A weight whose scale, where it is that of master weights, comes from their name, type and bytes.
    fn weight_with(
        &self,
        matrix: &Matrix,
        master_scale: impl Fn(&str, DenseType, &[u8]) -> Result<f32, FormatError>,
    ) -> Result<Weight<'_>, FormatError> {
        let tensor = self.file.table.tensor(matrix.tensor);
        let bytes = self.file.table.bytes(tensor);
        let &Matrix { rows, cols, row_order, .. } = matrix;
        let name = tensor.name.as_str();
        let (form, place, bit1) = match matrix.form {
            Form::Dense(dtype) => return Ok(Weight::Dense(DenseTensor { name, rows, cols, dtype, bytes, row_order })),
            Form::Ternary { form: TernaryForm::I2S(_), scales, bit1 } => {
                (TernaryForm::I2S(self.i2s_layout), scales, bit1)
            }
            Form::Ternary { form, scales, bit1 } => (form, scales, bit1),
        };
        let scales = match (place, form) {
            (ScalePlace::Known(scale), _) => Scales::Tensor(scale),
            (ScalePlace::Absmean, TernaryForm::Master(dtype)) => Scales::Tensor(master_scale(name, dtype, bytes)?),
            (ScalePlace::Inside | ScalePlace::Absmean, _) => self.inner_scales(form, name, (rows, cols), bytes)?,
            (ScalePlace::Tensor(id), _) => self.scale_tensor(id, (rows, cols))?,
        };
        let bit1 = bit1.map_or(&[][..], |id| self.file.table.bytes(self.file.table.tensor(id)));
        Ok(Weight::Ternary(TernaryTensor { name, rows, cols, form, bytes, bit1, scales, row_order }))
    }

    /// Scales among the weights, exact where the file's metadata has them so.
    fn inner_scales(
        &self,
        form: TernaryForm,
        name: &str,
        shape: (usize, usize),
        bytes: &[u8],
    ) -> Result<Scales, FormatError> {
        let stored = forms::inner_scales(form, name, shape, bytes)?;
        let Contents::Gguf(metadata) = &self.file.contents else { return Ok(stored) };
        let exact = match metadata.get(&exact_scales_key(name)) {
            Some(Value::F32(scale)) => vec![*scale],
            Some(Value::Array(Array::F32(scales))) => scales.clone(),
            _ => return Ok(stored),
        };
        Ok(forms::exact_scales(stored, shape, exact))
    }

    /// Scales in a tensor of their own.
    fn scale_tensor(&self, id: TensorId, (rows, cols): (usize, usize)) -> Result<Scales, FormatError> {
        let values = self.file.table.decode(id)?;
        let what = || format!("scales in tensor {:?}", self.file.table.tensor(id).name);
        if let Some(bad) = values.iter().find(|scale| !scale.is_finite()) {
            return Err(FormatError::invalid(what(), "finite numbers", bad));
        }
        let found = values.len();
        let expected = || format!("1, {rows}, or a number for each of equal groups of {cols} columns");
        Scales::from_values(rows, cols, values).ok_or_else(|| FormatError::invalid(what(), expected(), found))
    }

    /// What a tokenizer is built from; `None` where the source has none.
    ///
    /// # Errors
    ///
    /// [`FormatError::Io`] for a tokenizer file that cannot be read, [`FormatError::Invalid`] for keys of the wrong type.
    pub fn tokenizer(&self) -> Result<Option<TokenizerSource>, FormatError> {
        self.file.tokenizer()
    }

    /// What the model says about its tokenizer, with every default resolved; `None` where it says nothing.
    ///
    /// # Errors
    ///
    /// Where the tokenizer cannot be read, or is of a kind that rotor does not know.
    pub fn tokenizer_description(&self) -> Result<Option<TokenizerDescription>, TokenizerError> {
        let source = self.tokenizer()?;
        source.map(|source| TokenizerDescription::read(&source, self.config.vocab_size)).transpose()
    }

    /// The chat template as the file has it, in Jinja; `None` where there is none.
    ///
    /// # Errors
    ///
    /// As [`ModelFile::chat_template`].
    pub fn chat_template(&self) -> Result<Option<String>, FormatError> {
        self.file.chat_template()
    }

    /// Tells the system that these bytes of the source need not stay in memory. Reading them again still works.
    ///
    /// Does nothing where the file is not mapped or the bytes are not the source's.
    pub fn release(&self, bytes: &[u8]) {
        self.file.table.release(bytes);
    }

    /// All tensors in file order, those that no role needs included.
    pub fn tensors(&self) -> impl Iterator<Item = TensorSummary<'_>> {
        self.file.tensors()
    }

    /// What the file says about itself.
    pub fn metadata(&self) -> SourceMetadata<'_> {
        self.file.metadata()
    }
}
