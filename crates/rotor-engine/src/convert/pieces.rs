//! What a converted file is made of: the source's tensors under the names of the target.
//!
//! Between files that name tensors alike, every tensor goes over under its own name and with its rows as they are. Between
//! GGUF and Hugging Face the roles of the graph are the dictionary, and the rows of a Llama's q and k change their order.

use super::Target;
use crate::config::{Architecture, Config};
use crate::error::FormatError;
use crate::formats::{DenseTensor, Naming, Part, Role, RowOrder, Source, SourceLinear, TensorSummary, Weight};
use crate::forms::{Scales, TernaryTensor};
use crate::write::names;
use rotor_kernels::DenseType;
use std::collections::HashSet;

/// The divisors of rotary frequencies in a GGUF.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// What a GGUF's `.scale` tensors are called in a Rotor file.
const OUTPUT_SCALE: &str = ".output_scale";

/// A tensor on its way.
#[derive(Clone, Debug)]
pub(super) struct Piece<'a> {
    /// The name of the weight in the target.
    pub(super) name: String,
    /// Slowest-varying dimension first.
    pub(super) shape: Vec<usize>,
    pub(super) role: Option<Role>,
    /// The order of the rows in the target.
    pub(super) row_order: RowOrder,
    pub(super) content: Content<'a>,
}

#[derive(Clone, Debug)]
pub(super) enum Content<'a> {
    /// Trits, with their scales in the order of the target's rows.
    Ternary { tensor: TernaryTensor<'a>, scales: Scales },
    /// Numbers, and the type they are to have.
    Dense { tensor: DenseTensor<'a>, dtype: DenseType },
    /// Numbers that the source has in another place than a tensor.
    Values(Vec<f32>),
}

impl Piece<'_> {
    /// Whether this is the embedding or the head.
    pub(super) fn is_head(&self) -> bool {
        matches!(self.role, Some(Role::TokenEmbedding | Role::Output))
    }
}

/// The pieces, and sentences about what does not go over.
pub(super) type Pieces<'a> = (Vec<Piece<'a>>, Vec<String>);

/// Every tensor of `source` for a file of `target`'s kind.
pub(super) fn pieces(source: &Source, target: Target) -> Result<Pieces<'_>, FormatError> {
    let naming = target.naming(source);
    let (pieces, notes) =
        if naming == source.naming() { (kept(source, target)?, Vec::new()) } else { renamed(source, naming)? };
    if pieces.iter().any(|piece| matches!(piece.content, Content::Ternary { .. })) {
        return Ok((pieces, notes));
    }
    Err(FormatError::unsupported("a model without ternary weights", "there is nothing to convert losslessly"))
}

/// Every tensor under its own name, in the order of the file.
fn kept(source: &Source, target: Target) -> Result<Vec<Piece<'_>>, FormatError> {
    let (roles, companions) = (source.role_names(), source.companions());
    let mut pieces = Vec::new();
    for tensor in source.tensors().filter(|tensor| !companions.contains(tensor.name)) {
        let role = roles.get(tensor.name).copied();
        let weight = match role {
            Some(role) => weight(source, role)?,
            None => None,
        };
        let TensorSummary { name, shape, .. } = tensor;
        pieces.push(match weight {
            Some(Weight::Ternary(tensor)) => Piece {
                name: name.to_owned(),
                shape: vec![tensor.rows, tensor.cols],
                role,
                row_order: tensor.row_order,
                content: Content::Ternary { scales: tensor.scales.clone(), tensor },
            },
            // A dense tensor by name, since a role's rows may come in another order.
            _ => Piece {
                name: name.to_owned(),
                shape: shape.to_vec(),
                role,
                row_order: RowOrder::AsStored,
                content: dense(source.dense(name)?),
            },
        });
    }
    if source.naming() == Naming::Gguf {
        name_output_scales(&mut pieces, target);
    }
    Ok(pieces)
}

/// What multiplies a linear's output is `NAME.scale` in a GGUF. Beside planes and codes that is the name of the scale of the
/// weights, and the other is `NAME.output_scale`.
fn name_output_scales(pieces: &mut [Piece<'_>], target: Target) {
    let is_ternary = |piece: &&Piece<'_>| matches!(piece.content, Content::Ternary { .. });
    let ternary = pieces.iter().filter(is_ternary);
    let stems: HashSet<String> =
        ternary.filter_map(|piece| Some(piece.name.strip_suffix(".weight")?.to_owned())).collect();
    let (from, to) = if target.is_gguf() { (OUTPUT_SCALE, ".scale") } else { (".scale", OUTPUT_SCALE) };
    for piece in pieces {
        if let Some(stem) = piece.name.strip_suffix(from).filter(|stem| stems.contains(*stem)) {
            piece.name = format!("{stem}{to}");
        }
    }
}

fn dense(tensor: DenseTensor<'_>) -> Content<'_> {
    Content::Dense { dtype: tensor.dtype, tensor }
}

/// The matrix of a role; `None` for a norm.
fn weight(source: &Source, role: Role) -> Result<Option<Weight<'_>>, FormatError> {
    match role {
        role if role.is_linear() => linear(source, role).map(|linear| Some(linear.weight)),
        Role::TokenEmbedding | Role::Output => source.matrix(role),
        _ => Ok(None),
    }
}

/// A linear. Where its scales are among the weights, or are their mean, finding them has read them all, and the pages of a
/// whole model would stay until it is written.
fn linear(source: &Source, role: Role) -> Result<SourceLinear<'_>, FormatError> {
    let linear = source.linear(role)?;
    if let Weight::Ternary(tensor) = &linear.weight {
        source.release(tensor.bytes);
    }
    Ok(linear)
}

/// Every role's tensor under the name that `naming` has for it.
fn renamed(source: &Source, naming: Naming) -> Result<Pieces<'_>, FormatError> {
    let config = source.config();
    let (mut pieces, mut joined) = (Vec::new(), 0);
    for role in source.roles() {
        let name = match naming {
            Naming::Gguf => names::gguf(role),
            Naming::HuggingFace => names::hugging_face(role),
        };
        let row_order = target_order(naming, config, role);
        let content = if role.is_linear() {
            refuse_input_norm(source, role, naming)?;
            let linear = linear(source, role)?;
            joined += usize::from(linear.output_scale != 1.0);
            linear_content(linear, row_order)?
        } else {
            other_content(source, role)?
        };
        let (rows, cols) = role.shape(config);
        let is_vector = matches!(&content, Content::Dense { tensor, .. } if tensor.rows == 1);
        let shape = if is_vector { vec![cols] } else { vec![rows, cols] };
        pieces.push(Piece { name, shape, role: Some(role), row_order, content });
    }
    pieces.extend(rope_factors(config, naming)?);
    let mut notes = left_behind(source);
    if joined > 0 {
        notes.push(format!("what multiplies the outputs of {joined} linears joins the scales of their weights"));
    }
    Ok((pieces, notes))
}

/// The tensor of a role that is no linear.
fn other_content(source: &Source, role: Role) -> Result<Content<'_>, FormatError> {
    let weight = match role {
        Role::TokenEmbedding | Role::Output => source.matrix(role)?,
        _ => source.stored_vector(role).map(Weight::Dense),
    };
    match weight {
        Some(Weight::Ternary(tensor)) => Ok(Content::Ternary { scales: tensor.scales.clone(), tensor }),
        Some(Weight::Dense(tensor)) => Ok(dense(tensor)),
        None => Err(FormatError::missing(format!("the tensor of {role:?}"))),
    }
}

/// Rows of q and k are interleaved in a llama GGUF, and nowhere else.
fn target_order(naming: Naming, config: &Config, role: Role) -> RowOrder {
    let rotated = matches!(role, Role::Layer(_, Part::AttnQ | Part::AttnK));
    if naming == Naming::Gguf && rotated && config.architecture == Architecture::Llama {
        RowOrder::RopeInterleaved { head_dim: config.head_dim }
    } else {
        RowOrder::AsStored
    }
}

fn refuse_input_norm(source: &Source, role: Role, naming: Naming) -> Result<(), FormatError> {
    match source.input_norm_name(role) {
        Some(name) if naming == Naming::Gguf => Err(FormatError::unsupported(
            format!("tensor {name:?} in a GGUF"),
            "a norm inside a linear has no place in that architecture",
        )),
        _ => Ok(()),
    }
}

/// A linear whose rows change to `order`. A multiplier of its output has no name outside GGUF: it joins the scales, which is
/// what the engine does when it loads one.
fn linear_content(linear: SourceLinear<'_>, order: RowOrder) -> Result<Content<'_>, FormatError> {
    match linear.weight {
        Weight::Ternary(tensor) => {
            let scales = scales_in(&tensor, order, linear.output_scale);
            Ok(Content::Ternary { tensor, scales })
        }
        Weight::Dense(tensor) if linear.output_scale == 1.0 => Ok(dense(tensor)),
        Weight::Dense(tensor) => Err(FormatError::unsupported(
            format!("the .scale of dense tensor {:?}", tensor.name),
            "it has no place in a Hugging Face folder",
        )),
    }
}

/// The scales of a tensor for rows in `order`, times `factor`.
fn scales_in(tensor: &TernaryTensor<'_>, order: RowOrder, factor: f32) -> Scales {
    let ordered = tensor.scales.reordered(tensor.rows, |row| tensor.row_order.stored_row(order.graph_row(row)));
    if factor == 1.0 { ordered } else { ordered.map(|scale| scale * factor) }
}

/// Divisors of the rotary frequencies: a tensor in a GGUF where one number does not say it all.
fn rope_factors<'a>(config: &Config, naming: Naming) -> Result<Option<Piece<'a>>, FormatError> {
    let Some(factors) = &config.rope_factors else { return Ok(None) };
    if uniform(factors).is_some() {
        return Ok(None); // A key says it.
    }
    match naming {
        Naming::Gguf => Ok(Some(Piece {
            name: ROPE_FACTORS.into(),
            shape: vec![factors.len()],
            role: None,
            row_order: RowOrder::AsStored,
            content: Content::Values(factors.clone()),
        })),
        Naming::HuggingFace => Err(FormatError::unsupported(
            format!("tensor {ROPE_FACTORS:?} in a Hugging Face folder"),
            "config.json has a formula for such divisors, and a tensor does not tell which",
        )),
    }
}

/// The one value of all divisors.
pub(super) fn uniform(factors: &[f32]) -> Option<f32> {
    let first = *factors.first()?;
    factors.iter().all(|&factor| factor == first).then_some(first)
}

/// Tensors without a role. Opening refuses those that would change a result.
fn left_behind(source: &Source) -> Vec<String> {
    let (roles, companions) = (source.role_names(), source.companions());
    let has_place = |name: &str| {
        roles.contains_key(name)
            || name == ROPE_FACTORS
            || companions.contains(name)
            || name
                .strip_suffix(".scale")
                .or(name.strip_suffix(OUTPUT_SCALE))
                .is_some_and(|stem| roles.contains_key(format!("{stem}.weight").as_str()))
            || name.ends_with(".rms_norm.weight")
    };
    let tensors = source.tensors().filter(|tensor| !has_place(tensor.name));
    tensors.map(|tensor| format!("tensor {:?}, which the model does not use, is left out", tensor.name)).collect()
}
