//! Models in Hugging Face layout: `config.json` beside one safetensors file or a sharded set of them.

mod files;
mod hints;
mod hyper;
pub(crate) mod json;
mod quantization;
pub(super) mod safetensors;
#[cfg(test)]
mod tests;
mod tokenizer;

pub(super) use files::{CONFIG, Files};
pub(super) use safetensors::{Texts, contents, looks_sound};
pub(super) use tokenizer::{chat_template, tokenizer};

use super::graph::{Binder, Form, Graph, Linear, Matrix, ScalePlace};
use super::options::OpenOptions;
use super::parts::{Part, Role};
use super::table::{Storage, TensorId, TensorTable};
use super::{RowOrder, keys};
use crate::architectures::ArchitectureInfo;
use crate::config::{Config, Pooling};
use crate::error::FormatError;
use crate::forms::{TernaryForm, unpacked};
use files::SINGLE_FILE;
use json::Object;
use quantization::{Quantization, Scheme};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Files that say how a folder's weights were rotated.
const ROTATIONS: [&str; 2] = ["hadamard.json", "hadamard_packing.json"];
/// How sentence-transformers pools a model's hidden states.
const POOLING: &str = "1_Pooling/config.json";

/// The files beside a folder's weights and its config.json that are read, or copied with the model.
pub(crate) const COPIED: [&str; 12] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "README.md",
    "LICENSE",
    "NOTICE",
];

/// A folder's contents.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) files: Files,
    /// `config.json` as it is; empty where the folder has none, which is a flaw of its table.
    pub(super) config: Map<String, Value>,
    /// `__metadata__` of the safetensors files.
    pub(super) texts: Texts,
}

impl Folder {
    /// A folder whose files are in memory.
    pub(super) fn in_memory(files: BTreeMap<String, Vec<u8>>, texts: Texts) -> Result<Self, FormatError> {
        let files = Files::Memory(files);
        let Some(config) = files.read_json(CONFIG)? else { return Err(FormatError::missing(CONFIG)) };
        Ok(Self { files, config, texts })
    }

    /// Tokens of the vocabulary, where config.json has their number.
    pub(super) fn vocab_size(&self) -> Option<usize> {
        Object::new(&self.config, CONFIG).usize("vocab_size").ok().flatten()
    }

    /// Names config.json in an error about it, where it is a file.
    fn in_config(&self) -> impl Fn(FormatError) -> FormatError + '_ {
        |error| match &self.files {
            Files::Folder(_) => error.in_file(self.files.name(CONFIG)),
            Files::Memory(_) => error,
        }
    }
}

/// Everything that opening a folder finds.
pub(super) struct Opened {
    pub(super) folder: Folder,
    pub(super) table: TensorTable,
}

/// Opens a folder, or one safetensors file with the `config.json` beside it. What the folder lacks is a flaw of its table,
/// unless it has nothing that could be shown.
pub(super) fn open(path: &Path, no_mmap: bool) -> Result<Opened, FormatError> {
    let is_folder = path.is_dir();
    let folder = if is_folder { path } else { path.parent().unwrap_or(Path::new("")) };
    let files = Files::Folder(folder.to_path_buf());
    let mut table = TensorTable::default();
    let config = files.read_json(CONFIG)?;
    if config.is_none() {
        let flaw = hints::no_config(folder);
        if is_folder && !hints::has_parts_of_a_model(folder) {
            return Err(flaw);
        }
        table.set_flaw(flaw);
    }
    let texts = if is_folder {
        add_weights(&mut table, folder, no_mmap)
    } else {
        safetensors::add_file(&mut table, path, no_mmap)?
    };
    Ok(Opened { folder: Folder { files, config: config.unwrap_or_default(), texts }, table })
}

/// Adds the weights of a folder. What is wrong with them is a flaw of the table.
fn add_weights(table: &mut TensorTable, folder: &Path, no_mmap: bool) -> Texts {
    let single = folder.join(SINGLE_FILE);
    let added = if single.exists() {
        safetensors::add_file(table, &single, no_mmap)
    } else if folder.join(safetensors::INDEX).exists() {
        safetensors::add_shards(table, folder, no_mmap)
    } else {
        Err(hints::no_weights(folder))
    };
    added.unwrap_or_else(|flaw| {
        table.set_flaw(flaw);
        Texts::new()
    })
}

/// The hyper-parameters and the graph of an opened folder, and warnings.
pub(super) fn bind(
    folder: &Folder,
    table: &TensorTable,
    options: &OpenOptions,
) -> Result<(Config, Graph, Vec<String>), FormatError> {
    for name in ROTATIONS {
        if folder.files.read(name)?.is_some() {
            return Err(FormatError::unsupported(format!("a folder with {name}"), keys::ROTATED));
        }
    }
    let object = Object::new(&folder.config, CONFIG);
    let (mut config, quantization) = hyper_parameters(&object, options).map_err(folder.in_config())?;
    if let (None, Some(pooling)) = (config.pooling, folder.files.read_json(POOLING)?) {
        config.pooling = Pooling::of_sentence_transformers(&Object::new(&pooling, POOLING))?;
    }
    let tied = object.bool("tie_word_embeddings").map_err(folder.in_config())?;
    let unknown = keys::check_config(&object, config.architecture.info()).map_err(folder.in_config())?;
    let (graph, mut warnings) = graph(table, &config, &quantization, tied)?;
    warnings.extend(unknown);
    Ok((config, graph, warnings))
}

fn hyper_parameters(file: &Object<'_>, options: &OpenOptions) -> Result<(Config, Quantization), FormatError> {
    let config = hyper::config(file, options.hidden_act)?;
    let quantization = Quantization::read(file, config.architecture.info().master_weights)?;
    Ok((config, quantization))
}

/// What the names of a model's tensors begin with: nothing in a class without a head.
fn prefix(table: &TensorTable) -> &'static str {
    if table.find("embed_tokens.weight").is_some() { "" } else { "model." }
}

/// Finds and checks every tensor of the graph; the second part of the result is warnings.
fn graph(
    table: &TensorTable,
    config: &Config,
    quantization: &Quantization,
    tied: Option<bool>,
) -> Result<(Graph, Vec<String>), FormatError> {
    let names = Names { info: config.architecture.info(), prefix: prefix(table) };
    let quantization = &names.with_norms(table, quantization);
    let mut binder = Binder::new(table, config);
    let mut graph = Graph::default();
    let embedding = bind_plain(&mut binder, &names, Role::TokenEmbedding, quantization.scheme)?;
    graph.matrices.insert(Role::TokenEmbedding, embedding);
    let head = binder.find(&names.weights(Role::Output));
    // A tied model may carry a copy of its embedding as head; transformers ignores it too.
    let tied = tied.or(names.info.defaults.tied);
    if tied == Some(false) || (tied.is_none() && head.is_some()) {
        let is_bitnet = matches!(quantization.scheme, Scheme::Master | Scheme::Packed { .. });
        if is_bitnet && !quantization.skips("lm_head") {
            return Err(FormatError::unsupported("a ternary lm_head", "list it in modules_to_not_convert"));
        }
        let head = bind_plain(&mut binder, &names, Role::Output, quantization.scheme)?;
        graph.matrices.insert(Role::Output, head);
    }
    let norm = |binder: &mut Binder<'_>, role: Role| {
        binder.vector(&names.weights(role), role.shape(config).1).map(|id| (role, id))
    };
    graph.vectors.extend([norm(&mut binder, Role::OutputNorm)?]);
    for layer in 0..config.num_hidden_layers {
        for part in names.info.norm_parts() {
            graph.vectors.extend([norm(&mut binder, Role::Layer(layer, part))?]);
        }
        for part in Part::LINEARS {
            let role = Role::Layer(layer, part);
            graph.linears.insert(role, bind_linear(&mut binder, &names, role, quantization)?);
        }
    }
    let warnings = refuse_leftovers(&binder)?;
    Ok((graph, warnings))
}

/// What the tensors of a checkpoint are called.
struct Names {
    info: &'static ArchitectureInfo,
    prefix: &'static str,
}

impl Names {
    /// The modules a role may be in.
    fn modules(&self, role: Role) -> Vec<String> {
        self.info.modules(self.prefix, role)
    }

    fn weights(&self, role: Role) -> Vec<String> {
        self.modules(role).into_iter().map(|module| module + ".weight").collect()
    }

    /// A folder without `quantization_config` whose linears have norms of their own, `q_proj.norm.weight`, is a BitNet embedding
    /// model: it holds master weights.
    fn with_norms(&self, table: &TensorTable, quantization: &Quantization) -> Quantization {
        let module = self.modules(Role::Layer(0, Part::AttnQ)).swap_remove(0);
        let mut quantization = quantization.clone();
        if table.find(&(module + NORMS_IN_LINEARS[0])).is_some() {
            quantization.use_rms_norm = true;
            if quantization.scheme == Scheme::Dense {
                quantization.scheme = Scheme::Master;
            }
        }
        quantization
    }
}

/// What the norm in front of a linear is called, behind the linear's name: in embedding models, and in transformers.
const NORMS_IN_LINEARS: [&str; 2] = [".norm.weight", ".rms_norm.weight"];

/// A matrix that BitNet's quantiser does not touch: of ordinary numbers, of MLX's codes, or of numbers that are ternary as they
/// stand, which only a look at them tells. Those of BitNet's own checkpoints are what they say they are.
fn bind_plain(binder: &mut Binder<'_>, names: &Names, role: Role, scheme: Scheme) -> Result<Matrix, FormatError> {
    let module = names.modules(role).swap_remove(0);
    if has_planes(binder, names, role) {
        return bind_planes(binder, names, role, &module);
    }
    let id = binder.require(&names.weights(role))?;
    if let (Scheme::Mlx { group_cols }, Storage::U32) = (scheme, binder.table.tensor(id).storage) {
        return bind_mlx(binder, (id, &module), role, group_cols);
    }
    let mut matrix = bind_dense(binder, names, role)?;
    if let (Scheme::Dense, Form::Dense(dtype)) = (scheme, matrix.form) {
        let bytes = binder.table.bytes(binder.table.tensor(id));
        if unpacked::scales(dtype, (matrix.rows, matrix.cols), bytes).is_some() {
            let form = TernaryForm::Unpacked(dtype);
            matrix.form = Form::Ternary { form, scales: ScalePlace::Inside, bit1: None };
        }
    }
    Ok(matrix)
}

/// MLX's codes, whose biases have to be their scales negated: other packs of 2 bits have four values, and are not ternary.
fn bind_mlx(
    binder: &mut Binder<'_>,
    (id, module): (TensorId, &str),
    role: Role,
    group_cols: usize,
) -> Result<Matrix, FormatError> {
    let (rows, cols) = role.shape(binder.config);
    let tensor = binder.table.tensor(id);
    if !cols.is_multiple_of(group_cols) || !cols.is_multiple_of(16) {
        let what = format!("tensor {:?} in groups of {group_cols}", tensor.name);
        return Err(FormatError::invalid(what, "columns in whole groups and words of 16", cols));
    }
    tensor.expect_shape(rows, cols / 16)?;
    let [scales, biases] = ["scales", "biases"].map(|what| format!("{module}.{what}"));
    let (scales, biases) = (binder.require(&[scales])?, binder.require(&[biases])?);
    for part in [scales, biases] {
        binder.table.tensor(part).expect_shape(rows, cols / group_cols)?;
    }
    let pairs = binder.table.decode(scales)?.into_iter().zip(binder.table.decode(biases)?);
    if let Some((at, (scale, bias))) = pairs.enumerate().find(|(_, (scale, bias))| -scale != *bias) {
        let (row, group) = (at / (cols / group_cols), at % (cols / group_cols));
        let what =
            format!("tensor {:?}, whose bias is {bias} in row {row}, group {group},", binder.table.tensor(id).name);
        return Err(FormatError::unsupported(what, format!("a ternary pack has the scale negated, {}, there", -scale)));
    }
    let form = Form::Ternary { form: TernaryForm::Mlx, scales: ScalePlace::Tensor(scales), bit1: None };
    Ok(Matrix { tensor: id, rows, cols, form, row_order: RowOrder::AsStored })
}

/// A matrix of ordinary numbers.
fn bind_dense(binder: &mut Binder<'_>, names: &Names, role: Role) -> Result<Matrix, FormatError> {
    let id = binder.require(&names.weights(role))?;
    let (rows, cols) = role.shape(binder.config);
    let tensor = binder.table.tensor(id);
    tensor.expect_shape(rows, cols)?;
    let form = Form::Dense(tensor.expect_dense()?);
    Ok(Matrix { tensor: id, rows, cols, form, row_order: RowOrder::AsStored })
}

fn bind_linear(
    binder: &mut Binder<'_>,
    names: &Names,
    role: Role,
    quantization: &Quantization,
) -> Result<Linear, FormatError> {
    let module = names.modules(role).swap_remove(0);
    let skipped = quantization.skips(&module);
    let mut matrix = match quantization.scheme {
        _ if has_planes(binder, names, role) => bind_planes(binder, names, role, &module)?,
        Scheme::Packed { divides } if !skipped => bind_packed(binder, names, role, &module, divides)?,
        Scheme::Dense | Scheme::Mlx { .. } => bind_plain(binder, names, role, quantization.scheme)?,
        Scheme::Packed { .. } | Scheme::Master => bind_dense(binder, names, role)?,
    };
    if let (Scheme::Master, false, Form::Dense(dtype)) = (quantization.scheme, skipped, matrix.form) {
        let form = TernaryForm::Master(dtype);
        matrix.form = Form::Ternary { form, scales: ScalePlace::Absmean, bit1: None };
    }
    let input_norm = if quantization.use_rms_norm && !skipped && quantization.scheme != Scheme::Dense {
        Some(binder.vector(&NORMS_IN_LINEARS.map(|ending| module.clone() + ending), matrix.cols)?)
    } else {
        None
    };
    Ok(Linear { matrix, output_scale: 1.0, input_norm })
}

/// Whether a role's trits are in the form of a Rotor file, whatever the scheme says.
fn has_planes(binder: &mut Binder<'_>, names: &Names, role: Role) -> bool {
    let id = binder.find(&names.weights(role));
    let storage = id.map(|id| binder.table.tensor(id).storage);
    matches!(storage, Some(Storage::Ternary(TernaryForm::Rotor | TernaryForm::BitNet)))
}

fn bind_planes(binder: &mut Binder<'_>, names: &Names, role: Role, module: &str) -> Result<Matrix, FormatError> {
    let id = binder.require(&names.weights(role))?;
    let (rows, cols) = role.shape(binder.config);
    let tensor = binder.table.tensor(id);
    tensor.expect_shape(rows, cols)?;
    let Storage::Ternary(form) = tensor.storage else { return Err(tensor.unreadable()) };
    let form = binder.beside(id, form, module)?;
    Ok(Matrix { tensor: id, rows, cols, form, row_order: RowOrder::AsStored })
}

fn bind_packed(
    binder: &mut Binder<'_>,
    names: &Names,
    role: Role,
    module: &str,
    divides: bool,
) -> Result<Matrix, FormatError> {
    let id = binder.require(&names.weights(role))?;
    let (rows, cols) = role.shape(binder.config);
    let tensor = binder.table.tensor(id);
    if tensor.storage != Storage::U8 {
        let what = format!("type of tensor {:?}", tensor.name);
        return Err(FormatError::invalid(what, "u8, four packed weights to a byte", &tensor.type_name));
    }
    if tensor.shape == [rows, cols.div_ceil(4)] && rows.div_ceil(4) != rows {
        let what = format!("tensor {:?} of shape {:?}", tensor.name, tensor.shape);
        return Err(FormatError::unsupported(what, "weights packed along the input have no agreed codes"));
    }
    tensor.expect_shape(rows.div_ceil(4), cols)?;
    let scale_id = binder.require(&[format!("{module}.weight_scale")])?;
    let stored = binder.scalar(scale_id)?;
    let scale = if divides { (1.0 / f64::from(stored)) as f32 } else { stored };
    if !scale.is_finite() {
        let what = format!("tensor {:?}", binder.table.tensor(scale_id).name);
        return Err(FormatError::invalid(what, "a scale to divide by", stored));
    }
    let form = Form::Ternary { form: TernaryForm::HfPacked, scales: ScalePlace::Known(scale), bit1: None };
    Ok(Matrix { tensor: id, rows, cols, form, row_order: RowOrder::AsStored })
}

/// Tensors that would change the result and that nobody applies.
fn refuse_leftovers(binder: &Binder<'_>) -> Result<Vec<String>, FormatError> {
    let mut warnings = Vec::new();
    for name in binder.unused() {
        // A buffer that old versions saved; the frequencies follow from the configuration.
        if name.ends_with("rotary_emb.inv_freq") {
            continue;
        }
        if name.starts_with("model.layers.") || name.starts_with("layers.") || name.ends_with(".bias") {
            let why = format!("the {} graph has no place for it", binder.config.architecture.name());
            return Err(FormatError::unsupported(format!("tensor {name:?}"), why));
        }
        warnings.push(format!("tensor {name:?} is not used"));
    }
    Ok(warnings)
}
