//! An opened model: one type over both containers, with everything but the weights checked.

use super::graph::{Form, Graph, Matrix, ScalePlace};
use super::i2s_layout::Detection;
use super::map::FileBytes;
use super::metadata::{Array, Metadata, Value};
use super::model_file::{Contents, ModelFile};
use super::table::{TensorId, TensorTable};
use super::{DenseTensor, Role, SourceLinear, TokenizerSource, Weight, gguf, hf, i2s_layout, keys};
use crate::config::{
    ACTIVATIONS_JSON_KEY, ACTIVATIONS_KEY, Activation, Activations, Config, HIDDEN_ACT_KEY, Traits, of_family,
};
use crate::error::FormatError;
use crate::forms::{
    self, I2sLayout, KernelConfig, Scales, TernaryForm, TernaryTensor, absmean_scale, exact_scales_key,
};
use crate::tokenizer::{TokenizerDescription, TokenizerError};
use rotor_kernels::DenseType;
use rotor_kernels::ternary::Precision;
use std::path::Path;

/// How to open a model.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// The I2_S layout; `None` looks at the weights.
    pub i2s_layout: Option<I2sLayout>,
    /// The gate's activation function; `None` follows the file. What is given takes the place of what the file says, and goes
    /// into whatever the model is converted to.
    pub hidden_act: Option<Activation>,
    /// The tiles of the build that wrote TL1 and TL2 tensors; without its matrices those cannot be read.
    pub kernel_config: KernelConfig,
    /// Reads files into memory instead of mapping them, for files that may change while they are open.
    pub no_mmap: bool,
    /// The form the weights are to have in memory.
    pub load: LoadOptions,
}

/// The form weights have in memory, where it is not that of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Encodes the embedding and the head anew, as `rotor convert --head` does; `None` leaves them as they are.
    pub head: Option<DenseType>,
    /// What quantised dense matrices are multiplied by.
    pub dense_activations: DenseActivations,
    /// How finely the inputs of ternary linears are kept; `None` is as the model was trained.
    pub activations: Option<Activations>,
    /// How much of the head is read for a token, where a part may do.
    pub read: Read,
}

/// What quantised dense matrices are multiplied by. Matrices of f32, f16 and bf16 take f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DenseActivations {
    /// f32, as they are.
    F32,
    /// int16, 15 bits of it, a scale to every 256: several times as fast as f32.
    #[default]
    Int16,
}

/// How much of a model's head is read for a token. The tokens are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Read {
    /// What the choice of a token can depend on, where that is faster; a sketch of the head tells (see [`crate::head`]).
    #[default]
    Auto,
    /// All of it.
    All,
    /// What the choice can depend on, also where that is not faster.
    Least,
}

/// The container a model came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A GGUF file, possibly split.
    Gguf,
    /// A folder or file in Hugging Face layout.
    HuggingFace,
    /// A Rotor file: planes or codes in one safetensors file.
    Rotor,
}

impl SourceKind {
    /// The name printed to people.
    pub const fn name(self) -> &'static str {
        match self {
            SourceKind::Gguf => "GGUF",
            SourceKind::HuggingFace => "Hugging Face",
            SourceKind::Rotor => "Rotor",
        }
    }
}

/// What a file says about itself beyond its tensors.
#[derive(Clone, Copy, Debug)]
pub enum SourceMetadata<'a> {
    /// Key-value pairs.
    Gguf(&'a Metadata),
    /// `config.json`.
    HuggingFace(&'a serde_json::Map<String, serde_json::Value>),
}

/// A tensor as it lies in its file.
#[derive(Clone, Debug)]
pub struct TensorSummary<'a> {
    /// The name in the file.
    pub name: &'a str,
    /// Row-major: the last dimension varies fastest.
    pub shape: &'a [usize],
    /// The storage type (`i2_s`, `f16`, ...).
    pub type_name: &'a str,
    /// The stored bytes; empty for a type of unknown size.
    pub bytes: &'a [u8],
}

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

/// What binding finds in a file: hyper-parameters, the place of every tensor of the graph, and what is odd.
pub(super) struct Bound {
    config: Config,
    graph: Graph,
    i2s_layout: I2sLayout,
    activations_reason: &'static str,
    warnings: Vec<String>,
}

impl Bound {
    /// Decides how finely the inputs of ternary linears are kept, where the file does not say, and notes it among the
    /// model's keys, so that whatever it is converted to says it.
    fn choose_activations(&mut self, contents: &mut Contents) -> Result<(), FormatError> {
        let linears = self.graph.linears.values().map(|linear| linear.matrix.form);
        let forms: Vec<_> = linears.chain(self.graph.matrices.values().map(|matrix| matrix.form)).collect();
        let ternary = || {
            forms.iter().filter_map(|form| match form {
                Form::Ternary { form, .. } => Some(*form),
                Form::Dense(_) => None,
            })
        };
        if ternary().next().is_none() {
            self.config.activations = None;
            return Ok(());
        }
        let (activations, reason) = match self.config.activations {
            Some(declared) => (declared, "the file says so"),
            None => {
                let norms_in_linears = self.graph.linears.values().any(|linear| linear.input_norm.is_some());
                let int8_forms = ternary()
                    .any(|form| matches!(form, TernaryForm::I2S(_) | TernaryForm::Tl1(_) | TernaryForm::Tl2(_)));
                let weight_only_forms =
                    ternary().any(|form| matches!(form, TernaryForm::Mlx | TernaryForm::Unpacked(_)));
                let traits = Traits { norms_in_linears, int8_forms, weight_only_forms, ..Traits::default() };
                contents.with_traits(traits, of_family)?
            }
        };
        (self.config.activations, self.activations_reason) = (Some(activations), reason);
        match contents {
            Contents::Gguf(metadata) => metadata.set(ACTIVATIONS_KEY, Value::String(activations.name().into())),
            Contents::HuggingFace(folder) => {
                folder.config.insert(ACTIVATIONS_JSON_KEY.into(), activations.name().into());
            }
        }
        Ok(())
    }
}

/// Binds the keys and tensors of a file. What is given in place of what the file says, or told by the kind of its tensors,
/// is noted among its keys.
pub(super) fn bind(contents: &mut Contents, table: &TensorTable, options: &OpenOptions) -> Result<Bound, FormatError> {
    let mut bound = match contents {
        Contents::Gguf(metadata) => bind_gguf(metadata, table, options)?,
        Contents::HuggingFace(folder) => bind_folder(folder, table, options)?,
    };
    bound.choose_activations(contents)?;
    Ok(bound)
}

/// Binds the keys and tensors of a GGUF. An activation function that is given takes the place of the file's.
fn bind_gguf(metadata: &mut Metadata, table: &TensorTable, options: &OpenOptions) -> Result<Bound, FormatError> {
    let (config, mut warnings) = gguf::config(metadata, table, options.hidden_act)?;
    let architecture = metadata.str("general.architecture")?.unwrap_or_default();
    warnings.extend(keys::check_gguf(metadata, architecture, config.architecture.info())?);
    let (graph, graph_warnings) = gguf::graph(table, &config, &options.kernel_config)?;
    warnings.extend(graph_warnings);
    if let Some(given) = options.hidden_act {
        metadata.set(HIDDEN_ACT_KEY, Value::String(given.name().into()));
    }
    let named = i2s_layout::named(metadata)?;
    let i2s_layout = match options.i2s_layout.or(named) {
        Some(known) => known,
        None => match i2s_layout::detect(table, &graph) {
            Detection::Found(layout) => layout,
            Detection::Unclear { doubtful } => {
                let doubt = "the weights fit the I2_S layout 64/16 a little better than 128/32, which is assumed";
                warnings.extend(doubtful.then(|| doubt.to_owned()));
                i2s_layout::DEFAULT
            }
        },
    };
    Ok(Bound { config, graph, i2s_layout, activations_reason: "", warnings })
}

/// Binds the configuration and tensors of a folder. An activation function that is given takes the place of the file's.
fn bind_folder(folder: &mut hf::Folder, table: &TensorTable, options: &OpenOptions) -> Result<Bound, FormatError> {
    let (config, graph, warnings) = hf::bind(folder, table, options)?;
    if let Some(given) = options.hidden_act {
        folder.config.insert("hidden_act".into(), given.name().into());
    }
    let i2s_layout = options.i2s_layout.unwrap_or(i2s_layout::DEFAULT);
    Ok(Bound { config, graph, i2s_layout, activations_reason: "", warnings })
}

impl Contents {
    /// Completes the traits of a model's family by what its keys say.
    fn with_traits<R>(&self, traits: Traits<'_>, choose: impl FnOnce(Traits<'_>) -> R) -> Result<R, FormatError> {
        match self {
            Contents::Gguf(metadata) => {
                let architecture = metadata.str("general.architecture")?.unwrap_or_default();
                let is_name = |key: &str| {
                    let base_model = key.starts_with("general.base_model.") && key.ends_with(".name");
                    base_model || matches!(key, "general.name" | "general.basename")
                };
                let names = metadata.iter().filter(|(key, _)| is_name(key)).filter_map(|(_, value)| value.as_str());
                let names = names.collect::<Vec<_>>().join("\n");
                let (is_bitnet, is_llama_gguf) = (architecture.starts_with("bitnet"), architecture == "llama");
                Ok(choose(Traits { is_bitnet, is_llama_gguf, names: &names, ..traits }))
            }
            // Other checkpoints have ternary linears only where their configuration says BitNet.
            Contents::HuggingFace(_) => Ok(choose(Traits { is_bitnet: !traits.weight_only_forms, ..traits })),
        }
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

    pub(super) fn new(file: ModelFile, bound: Bound, options: &OpenOptions) -> Self {
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
    pub(crate) fn ternary_shapes(&self) -> impl Iterator<Item = (usize, usize)> {
        let matrices = self.graph.linears.values().map(|linear| &linear.matrix);
        matrices.filter(|matrix| matches!(matrix.form, Form::Ternary { .. })).map(|matrix| (matrix.rows, matrix.cols))
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
