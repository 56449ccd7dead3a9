//! What a converted file is made of: the source's tensors under the names of the target.
//!
//! Between files that name tensors alike, every tensor goes over under its own name and with its rows as they are. Between
//! GGUF and Hugging Face the roles of the graph are the dictionary, and the rows of a Llama's q and k change their order.

use super::options::Target;
use crate::config::Config;
use crate::error::FormatError;
use crate::formats::{
    DenseTensor, NORM_IN, Naming, Role, RowOrder, Source, SourceLinear, TensorSummary, Weight, gguf_row_order,
    gguf_stem,
};
use crate::forms::{Scales, TernaryTensor};
use crate::rope::{self, RopeScaling};
use crate::write::names;
use rotor_kernels::DenseType;
use std::collections::HashSet;

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
            Naming::HuggingFace => names::hugging_face(config.architecture.info(), role),
        };
        let row_order = match naming {
            Naming::Gguf => gguf_row_order(config, role),
            Naming::HuggingFace => RowOrder::AsStored,
        };
        let content = if role.is_linear() {
            let linear = linear(source, role)?;
            pieces.extend(input_norm(source, role, naming, &linear)?);
            joined += usize::from(linear.output_scale != 1.0);
            linear_content(linear, row_order)?
        } else {
            other_content(source, role, naming)?
        };
        let (rows, cols) = role.shape(config);
        let is_vector = matches!(&content, Content::Dense { tensor, .. } if tensor.rows == 1);
        let shape = if is_vector { vec![cols] } else { vec![rows, cols] };
        pieces.push(Piece { name, shape, role: Some(role), row_order, content });
    }
    pieces.extend(rope_tensors(config, naming)?);
    let mut notes = left_behind(source);
    if joined > 0 {
        notes.push(format!("what multiplies the outputs of {joined} linears joins the scales of their weights"));
    }
    Ok((pieces, notes))
}

/// The tensor of a role that is no linear.
fn other_content(source: &Source, role: Role, naming: Naming) -> Result<Content<'_>, FormatError> {
    // Norms that checkpoints store less 1 are whole in a GGUF.
    let is_norm = !matches!(role, Role::TokenEmbedding | Role::Output);
    if is_norm && source.config().architecture.info().norms_less_one {
        let mut weights =
            source.vector(role)?.ok_or_else(|| FormatError::missing(format!("the tensor of {role:?}")))?;
        if naming == Naming::HuggingFace {
            let name = names::gguf(role);
            if let Some(weight) = weights.iter().find(|&weight| (weight - 1.0) + 1.0 != *weight) {
                let why = "a checkpoint stores it less 1, which f32 cannot hold exactly";
                return Err(FormatError::unsupported(format!("{weight} in tensor {name:?}"), why));
            }
            weights.iter_mut().for_each(|weight| *weight -= 1.0);
        }
        return Ok(Content::Values(weights));
    }
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

/// The norm in front of a linear, where there is one.
fn input_norm<'a>(
    source: &'a Source,
    role: Role,
    naming: Naming,
    linear: &SourceLinear<'_>,
) -> Result<Option<Piece<'a>>, FormatError> {
    let (Some(stored), Some(values)) = (source.input_norm_name(role), &linear.input_norm) else { return Ok(None) };
    let info = source.config().architecture.info();
    let name = match naming {
        Naming::Gguf if !info.norms_in_linears => {
            return Err(FormatError::unsupported(
                format!("tensor {stored:?} in a GGUF"),
                "a norm inside a linear has no place in that architecture",
            ));
        }
        Naming::Gguf => gguf_stem(role) + NORM_IN,
        Naming::HuggingFace => names::hugging_face(info, role).replace(".weight", ".rms_norm.weight"),
    };
    let (shape, content) = (vec![values.len()], dense(source.dense(stored)?));
    Ok(Some(Piece { name, shape, role: None, row_order: RowOrder::AsStored, content }))
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

/// Divisors of the rotary frequencies, which a GGUF has as tensors and a folder as numbers of its config.json.
fn rope_tensors<'a>(config: &Config, naming: Naming) -> Result<Vec<Piece<'a>>, FormatError> {
    match (naming, &config.rope_scaling) {
        (Naming::HuggingFace, RopeScaling::Divisors(_)) => Err(FormatError::unsupported(
            format!("tensor {:?} in a Hugging Face folder", rope::scaling::DIVISORS),
            "config.json has a formula for such divisors, and a tensor does not tell which",
        )),
        (Naming::HuggingFace, _) => Ok(Vec::new()),
        (Naming::Gguf, _) => Ok(rope::tensors(config)
            .into_iter()
            .map(|(name, values)| Piece {
                name: name.into(),
                shape: vec![values.len()],
                role: None,
                row_order: RowOrder::AsStored,
                content: Content::Values(values),
            })
            .collect()),
    }
}

/// Tensors without a role. Opening refuses those that would change a result.
fn left_behind(source: &Source) -> Vec<String> {
    let (roles, companions) = (source.role_names(), source.companions());
    let norms: HashSet<&str> = source.roles().into_iter().filter_map(|role| source.input_norm_name(role)).collect();
    let has_place = |name: &str| {
        roles.contains_key(name)
            || [rope::scaling::DIVISORS, rope::scaling::SHORT_FACTORS, rope::scaling::LONG_FACTORS].contains(&name)
            || companions.contains(name)
            || name
                .strip_suffix(".scale")
                .or(name.strip_suffix(OUTPUT_SCALE))
                .is_some_and(|stem| roles.contains_key(format!("{stem}.weight").as_str()))
            || norms.contains(name)
    };
    let tensors = source.tensors().filter(|tensor| !has_place(tensor.name));
    tensors.map(|tensor| format!("tensor {:?}, which the model does not use, is left out", tensor.name)).collect()
}
