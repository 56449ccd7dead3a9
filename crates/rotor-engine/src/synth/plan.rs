//! Which tensors a synthetic model has, in which order, and how they are written.

use super::values::Values;
use crate::config::Config;
use crate::error::FormatError;
use crate::formats::{NORM_IN, Part, Role, RowOrder, gguf_row_order, gguf_stem};
use crate::forms::{Encoder, TernaryForm};
use crate::write::{Progress, TensorFile, names, write_strips};
use rotor_kernels::DenseType;
use rotor_kernels::encode::encode_row;

/// What a tensor of the file holds.
#[derive(Clone, Debug)]
pub(super) enum Data {
    /// `[vocab, hidden]`.
    Normal(DenseType),
    /// A norm.
    Norm(DenseType),
    /// The norm in front of a linear.
    NormIn,
    /// A linear's trits; rows in the file's order.
    Trits(Encoder, RowOrder),
    /// A linear's scale, as Hugging Face stores it.
    StoredScale,
}

/// A tensor to be written.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) data: Data,
}

/// Whether a role is a linear, and so ternary.
pub(super) fn is_linear(role: Role) -> bool {
    matches!(role, Role::Layer(_, part) if Part::LINEARS.contains(&part))
}

/// The roles of a model in the order of the graph.
pub(super) fn roles(config: &Config, tied: bool) -> Vec<Role> {
    let info = config.architecture.info();
    let in_layer = |layer| info.parts().map(move |part| Role::Layer(layer, part));
    let mut roles = vec![Role::TokenEmbedding];
    roles.extend((0..config.num_hidden_layers).flat_map(in_layer));
    roles.push(Role::OutputNorm);
    roles.extend((!tied).then_some(Role::Output));
    roles
}

/// A tensor that is not a linear.
pub(super) fn dense(
    role: Role,
    name: String,
    config: &Config,
    matrix: DenseType,
    vector: DenseType,
) -> Result<Planned, FormatError> {
    let (rows, cols) = role.shape(config);
    let data = match role {
        Role::TokenEmbedding | Role::Output => Data::Normal(matrix),
        _ => Data::Norm(vector),
    };
    if matches!(data, Data::Normal(_)) && matrix.row_bytes(cols).is_none() {
        let why = format!("{} does not divide its rows of {cols} into blocks of {}", matrix.name(), matrix.block_len());
        return Err(FormatError::unsupported(format!("tensor {name:?} as {}", matrix.name()), why));
    }
    Ok(Planned { name, role, rows, cols, data })
}

/// A linear as GGUF stores it: the rows of a Llama's q and k are interleaved.
pub(super) fn linear(
    role: Role,
    name: String,
    config: &Config,
    form: TernaryForm,
    values: &Values,
) -> Result<Planned, FormatError> {
    let (rows, cols) = role.shape(config);
    let row_order = match form {
        TernaryForm::HfPacked => RowOrder::AsStored,
        _ => gguf_row_order(config, role),
    };
    let scales = values.scales(role, rows, cols).reordered(rows, |stored| row_order.graph_row(stored));
    let encoder = Encoder::new(&name, form, rows, cols, scales)?;
    Ok(Planned { name, role, rows, cols, data: Data::Trits(encoder, row_order) })
}

/// The norm in front of a linear, as GGUF stores it.
pub(super) fn norm_in(role: Role, config: &Config) -> Planned {
    let (_, cols) = role.shape(config);
    Planned { name: gguf_stem(role) + NORM_IN, role, rows: 1, cols, data: Data::NormIn }
}

impl Planned {
    /// Bytes in the file.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = match &self.data {
            Data::Normal(dtype) | Data::Norm(dtype) => self.rows * dtype.row_bytes(self.cols).unwrap_or(0),
            Data::Trits(encoder, _) => encoder.strips() * encoder.strip_bytes() + encoder.tail().len(),
            Data::NormIn => 4 * self.cols,
            Data::StoredScale => 2,
        };
        bytes as u64
    }

    /// Makes the tensor's data and writes it.
    pub(super) fn write(
        &self,
        values: &Values,
        file: &mut TensorFile,
        progress: &mut Progress<'_>,
    ) -> Result<(), FormatError> {
        let encode = |dtype, numbers: &[f32], out: &mut [u8]| {
            encode_row(dtype, numbers, out).ok_or_else(|| FormatError::unsupported(dtype.name(), "it is only read"))
        };
        match &self.data {
            Data::Norm(dtype) => {
                let mut bytes = vec![0; self.bytes() as usize];
                encode(*dtype, &values.norm(self.role, self.cols), &mut bytes)?;
                progress.write(file, bytes)
            }
            Data::NormIn => {
                let norm = values.norm_in(self.role, self.cols);
                progress.write(file, norm.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
            }
            Data::StoredScale => progress.write(file, values.scale(self.role, self.cols).stored.to_le_bytes()),
            Data::Normal(dtype) => {
                let normal = values.normal(self.role);
                let row_bytes = self.bytes() as usize / self.rows;
                write_strips(file, progress, self.rows, row_bytes, &|row, out| {
                    let mut numbers = vec![0.0; self.cols];
                    normal.row(row, &mut numbers);
                    encode(*dtype, &numbers, out)
                })
            }
            Data::Trits(encoder, row_order) => {
                let name = names::gguf(self.role);
                write_strips(file, progress, encoder.strips(), encoder.strip_bytes(), &|strip, out| {
                    let mut read = |stored, trits: &mut [i8]| {
                        values.trits(self.role, &name, row_order.graph_row(stored), trits);
                        Ok(())
                    };
                    encoder.encode_strip(strip, &mut read, out)
                })?;
                let tail = encoder.tail();
                if tail.is_empty() { Ok(()) } else { progress.write(file, tail) }
            }
        }
    }
}
