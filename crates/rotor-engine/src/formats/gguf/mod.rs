//! GGUF files: from bytes to tensors, hyper-parameters and the graph.

pub(crate) mod file;
mod header;
mod hyper;
mod split;
mod types;
mod vocabulary;

pub(super) use header::alignment;
pub(super) use hyper::config;
pub(super) use split::{File, open, single};
pub(crate) use vocabulary::key as tokenizer_key;
pub(super) use vocabulary::vocabulary;

use super::RowOrder;
use super::graph::{Binder, Form, Graph, Linear, Matrix, ScalePlace};
use super::parts::{Part, Role};
use super::table::{Storage, Tensor, TensorId, TensorTable, TlKind};
use crate::architectures::{Architecture, RopeRows};
use crate::config::Config;
use crate::error::FormatError;
use crate::forms::{KernelConfig, TernaryForm, TlTile};
use crate::rope::scaling;

/// Bytes behind the packed trits of an I2_S, TL1 or TL2 tensor; the first four are its scale.
const TAIL: usize = 32;

/// What the `.scale` tensor of a linear's output is called in a Rotor file.
pub(super) const OUTPUT_SCALE: &str = ".output_scale";

/// The ending of the norm in front of a linear.
pub(crate) const NORM_IN: &str = "_norm_in.weight";

/// The name of a role's tensor, less its ending.
pub(crate) fn stem(role: Role) -> String {
    match role {
        Role::TokenEmbedding => "token_embd".into(),
        Role::OutputNorm => "output_norm".into(),
        Role::Output => "output".into(),
        Role::Layer(layer, part) => format!("blk.{layer}.{}", part_stem(part)),
    }
}

const fn part_stem(part: Part) -> &'static str {
    match part {
        Part::AttnNorm => "attn_norm",
        Part::AttnQ => "attn_q",
        Part::AttnK => "attn_k",
        Part::AttnV => "attn_v",
        Part::AttnQNorm => "attn_q_norm",
        Part::AttnKNorm => "attn_k_norm",
        Part::AttnSubNorm => "attn_sub_norm",
        Part::AttnOutput => "attn_output",
        Part::AttnPostNorm => "post_attention_norm",
        Part::FfnNorm => "ffn_norm",
        Part::FfnGate => "ffn_gate",
        Part::FfnUp => "ffn_up",
        Part::FfnSubNorm => "ffn_sub_norm",
        Part::FfnDown => "ffn_down",
        Part::FfnPostNorm => "post_ffw_norm",
    }
}

/// Whether the family's training has ternary embeddings and heads: Bonsai's does, and every model of this graph that is
/// ternary is one.
fn trains_ternary_embeddings(config: &Config) -> bool {
    matches!(config.architecture, Architecture::Qwen3)
}

/// Finds and checks every tensor of the graph; the second part of the result is warnings.
pub(super) fn graph(
    table: &TensorTable,
    config: &Config,
    kernels: &KernelConfig,
) -> Result<(Graph, Vec<String>), FormatError> {
    let mut binder = Binder::new(table, config);
    let mut graph = Graph::default();
    let mut warnings = Vec::new();
    for role in [Role::TokenEmbedding, Role::Output] {
        if let Some(matrix) = bind_matrix(&mut binder, role, kernels)? {
            if let Form::Ternary { .. } = matrix.form
                && !trains_ternary_embeddings(config)
            {
                let name = &table.tensor(matrix.tensor).name;
                warnings.push(format!("tensor {name:?} is ternary, which destroys the quality of the text"));
            }
            graph.matrices.insert(role, matrix);
        } else if role == Role::TokenEmbedding {
            return Err(FormatError::missing("tensor \"token_embd.weight\""));
        }
    }
    let norm = |binder: &mut Binder<'_>, role: Role| {
        binder.vector(&[stem(role) + ".weight"], role.shape(config).1).map(|id| (role, id))
    };
    graph.vectors.extend([norm(&mut binder, Role::OutputNorm)?]);
    for layer in 0..config.num_hidden_layers {
        for part in config.architecture.info().norm_parts() {
            graph.vectors.extend([norm(&mut binder, Role::Layer(layer, part))?]);
        }
        for part in Part::LINEARS {
            let role = Role::Layer(layer, part);
            graph.linears.insert(role, bind_linear(&mut binder, role, kernels)?);
        }
    }
    warnings.extend(warn_of_plain_linears(&graph, config));
    // Their values are in the configuration already.
    for name in [scaling::DIVISORS, scaling::SHORT_FACTORS, scaling::LONG_FACTORS] {
        let _ = binder.find(&[name.into()]);
    }
    refuse_leftovers(&binder, &mut warnings)?;
    Ok((graph, warnings))
}

/// A BitNet model quantises the inputs of its ternary linears; those of ordinary numbers are multiplied as they are.
fn warn_of_plain_linears(graph: &Graph, config: &Config) -> Option<String> {
    let plain = graph.linears.values().filter(|linear| matches!(linear.matrix.form, Form::Dense(_))).count();
    let unusual = config.architecture.info().master_weights && plain > 0;
    unusual.then(|| format!("{plain} linears are stored as ordinary numbers; their inputs are not quantised"))
}

fn bind_linear(binder: &mut Binder<'_>, role: Role, kernels: &KernelConfig) -> Result<Linear, FormatError> {
    let Some(matrix) = bind_matrix(binder, role, kernels)? else {
        return Err(FormatError::missing(format!("tensor \"{}.weight\"", stem(role))));
    };
    // Beside planes and codes, `.scale` is the scale of the weights.
    let is_beside = matches!(matrix.form, Form::Ternary { scales: ScalePlace::Tensor(_), .. });
    let ending = if is_beside { OUTPUT_SCALE } else { ".scale" };
    let output_scale = match binder.find(&[stem(role) + ending]) {
        Some(id) => binder.scalar(id)?,
        None => 1.0,
    };
    let has_norm = has_norms_in_linears(binder.table, binder.config);
    let input_norm = has_norm.then(|| binder.vector(&[stem(role) + NORM_IN], matrix.cols)).transpose()?;
    Ok(Linear { matrix, output_scale, input_norm })
}

/// Whether every linear has a norm of its own in front of it; the first one tells.
fn has_norms_in_linears(table: &TensorTable, config: &Config) -> bool {
    let first = stem(Role::Layer(0, Part::AttnQ)) + NORM_IN;
    config.architecture.info().norms_in_linears && table.find(&first).is_some()
}

/// The matrix of a role, if it is there.
fn bind_matrix(binder: &mut Binder<'_>, role: Role, kernels: &KernelConfig) -> Result<Option<Matrix>, FormatError> {
    let Some(id) = binder.find(&[stem(role) + ".weight"]) else { return Ok(None) };
    let tensor = binder.table.tensor(id);
    let (rows, cols) = role.shape(binder.config);
    tensor.expect_shape(rows, cols)?;
    let form = match tensor.storage {
        Storage::Dense(dtype) => Form::Dense(dtype),
        Storage::Ternary(form @ TernaryForm::I2S(_)) => {
            let scales = ScalePlace::Known(scale_in_tail(binder.table, id)?);
            Form::Ternary { form, scales, bit1: None }
        }
        Storage::Ternary(form @ (TernaryForm::Rotor | TernaryForm::BitNet)) => binder.beside(id, form, &stem(role))?,
        Storage::Ternary(form) => Form::Ternary { form, scales: ScalePlace::Inside, bit1: None },
        Storage::Tl(kind) => {
            let form = tl_form(kind, tensor, (rows, cols), kernels)?;
            let scales = ScalePlace::Known(scale_in_tail(binder.table, id)?);
            Form::Ternary { form, scales, bit1: None }
        }
        Storage::U8 | Storage::U32 | Storage::Unreadable => return Err(tensor.unreadable()),
    };
    let row_order = row_order(binder.config, role);
    Ok(Some(Matrix { tensor: id, rows, cols, form, row_order }))
}

/// The order of a role's rows in a GGUF.
pub(crate) fn row_order(config: &Config, role: Role) -> RowOrder {
    let is_rotated = matches!(role, Role::Layer(_, Part::AttnQ | Part::AttnK));
    match config.architecture.info().rope_rows {
        RopeRows::Neighbours if is_rotated => RowOrder::RopeInterleaved { head_dim: config.head_dim },
        RopeRows::Neighbours | RopeRows::Halves => RowOrder::AsStored,
    }
}

/// The form of a TL1 or TL2 tensor, by the kernel config of the build that wrote it.
fn tl_form(
    kind: TlKind,
    tensor: &Tensor,
    (rows, cols): (usize, usize),
    kernels: &KernelConfig,
) -> Result<TernaryForm, FormatError> {
    let what = || format!("type {} of tensor {:?} [{rows}, {cols}]", tensor.type_name, tensor.name);
    let Some(tile) = kernels.tile(rows, cols) else {
        let why = "its layout depends on the build that wrote it: name that build's kernel_config.ini with this shape";
        return Err(FormatError::unsupported(what(), why));
    };
    let form = match kind {
        TlKind::Tl1 => TernaryForm::Tl1(tile),
        TlKind::Tl2 => TernaryForm::Tl2(tile),
    };
    match form.packed_len(rows, cols) {
        Some(len) if len <= tensor.range.len().saturating_sub(TAIL) => Ok(form),
        _ => {
            let TlTile { rows, cols, step_rows } = tile;
            let found = format!("bm = {rows}, bk = {cols}, bmm = {step_rows}");
            Err(FormatError::invalid(what(), "a kernel config whose tiles divide it", found))
        }
    }
}

/// The scale behind the packed trits.
fn scale_in_tail(table: &TensorTable, id: TensorId) -> Result<f32, FormatError> {
    let tensor = table.tensor(id);
    let what = || format!("scale of tensor {:?}", tensor.name);
    let bytes = table.bytes(tensor);
    let tail = bytes.len().checked_sub(TAIL).and_then(|start| bytes[start..].first_chunk());
    let Some(&tail) = tail else {
        return Err(FormatError::Truncated { what: what(), needed: TAIL as u64, found: bytes.len() as u64 });
    };
    let scale = f32::from_le_bytes(tail);
    if scale.is_finite() { Ok(scale) } else { Err(FormatError::invalid(what(), "a finite number", scale)) }
}

/// Tensors that would change the result and that nobody applies.
fn refuse_leftovers(binder: &Binder<'_>, warnings: &mut Vec<String>) -> Result<(), FormatError> {
    for name in binder.unused() {
        let changes_the_graph = name.starts_with("blk.")
            || name.ends_with(".bias")
            || ["token_embd_norm.weight", "position_embd.weight", "token_types.weight"].contains(&name);
        if changes_the_graph {
            let why = format!("the {} graph has no place for it", binder.config.architecture.name());
            return Err(FormatError::unsupported(format!("tensor {name:?}"), why));
        }
        warnings.push(format!("tensor {name:?} is not used"));
    }
    Ok(())
}
