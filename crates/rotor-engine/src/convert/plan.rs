//! The tensors of the file to be written, and how each gets its bytes.

use super::options::Target;
use super::pieces::{Content, Piece};
use crate::error::FormatError;
use crate::formats::{DenseTensor, RowOrder, Source};
use crate::forms::{Encoder, Scales, TernaryForm, TernaryTensor};
use crate::planes;
use crate::threads::over_rows;
use crate::write::{Progress, TensorFile, write_strips};
use rotor_kernels::DenseType;
use rotor_kernels::encode::{ENCODABLE, encode_row};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the source that are read before their pages are let go.
const RELEASE_AFTER: usize = 16 << 20;

/// A tensor of the file.
///
/// The two planes of [`TernaryForm::Rotor`] are made together: `bit1` follows whatever is planned under `bit0`.
#[derive(Debug)]
pub(super) struct Planned<'a> {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) stored: Stored,
    pub(super) bytes: u64,
    data: Data<'a>,
}

/// What a tensor's bytes are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stored {
    Dense(DenseType),
    Ternary(TernaryForm),
}

#[derive(Debug)]
enum Data<'a> {
    Dense {
        tensor: DenseTensor<'a>,
        row_order: RowOrder,
    },
    Trits(Box<Trits<'a>>),
    /// Written with the plane before.
    SecondPlane,
    Bytes(Vec<u8>),
}

/// Trits to be encoded.
#[derive(Debug)]
pub(super) struct Trits<'a> {
    pub(super) tensor: TernaryTensor<'a>,
    /// The scales before they were rounded to what the form holds.
    pub(super) scales: Scales,
    pub(super) encoder: Encoder,
    row_order: RowOrder,
    zeros: AtomicU64,
}

impl Trits<'_> {
    /// How many were 0, once they are written.
    pub(super) fn zeros(&self) -> u64 {
        self.zeros.load(Ordering::Relaxed)
    }
}

/// The tensors that the pieces become in a file of `target`'s kind.
pub(super) fn plan<'a>(pieces: Vec<Piece<'a>>, target: Target) -> Result<Vec<Planned<'a>>, FormatError> {
    let mut planned = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let Piece { name, shape, row_order, content, .. } = piece;
        match content {
            Content::Ternary { tensor, scales } => {
                let encoder = Encoder::new(tensor.name, target.form(), tensor.rows, tensor.cols, scales.clone())?;
                let scale_name = match target.form() {
                    TernaryForm::HfPacked => Some(format!("{name}_scale")),
                    TernaryForm::Rotor | TernaryForm::BitNet => Some(format!("{}.scale", stem(&name)?)),
                    _ => None, // Among the weights.
                };
                planned.extend(
                    scale_name.map(|name| Planned::numbers(name, scales_shape(&scales, tensor.rows), scales.values())),
                );
                let trits = Trits { tensor, scales, encoder, row_order, zeros: AtomicU64::new(0) };
                match target.form() {
                    TernaryForm::Rotor => {
                        planned.push(Planned::trits(format!("{}.bit0", stem(&name)?), trits));
                        planned.extend(planned.last().map(Planned::second_plane));
                    }
                    TernaryForm::BitNet => planned.push(Planned::trits(format!("{}.codes", stem(&name)?), trits)),
                    _ => planned.push(Planned::trits(name, trits)),
                }
            }
            Content::Values(ref values) => planned.push(Planned::numbers(name, shape, values)),
            Content::Dense { tensor, dtype } => planned.push(Planned::dense(name, shape, row_order, tensor, dtype)?),
        }
    }
    Ok(planned)
}

/// A weight's name less its ending, to which others are put.
pub(super) fn stem(name: &str) -> Result<&str, FormatError> {
    name.strip_suffix(".weight").ok_or_else(|| {
        FormatError::unsupported(format!("tensor {name:?} in a Rotor file"), "its name ends otherwise than .weight")
    })
}

/// `[1]`, `[rows]` or `[rows, groups]`.
fn scales_shape(scales: &Scales, rows: usize) -> Vec<usize> {
    match scales {
        Scales::Tensor(_) => vec![1],
        Scales::Rows(_) => vec![rows],
        Scales::Groups { groups, .. } => vec![rows, *groups],
    }
}

impl<'a> Planned<'a> {
    fn numbers(name: String, shape: Vec<usize>, values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let stored = Stored::Dense(DenseType::F32);
        Self { name, shape, stored, bytes: bytes.len() as u64, data: Data::Bytes(bytes) }
    }

    fn trits(name: String, trits: Trits<'a>) -> Self {
        let Trits { tensor, encoder, .. } = &trits;
        let (form, strips) = (encoder.form(), encoder.strips() / encoder.tensors());
        let bytes = (strips * encoder.strip_bytes() + encoder.tail().len()) as u64;
        let shape = match form {
            // Arrays of bytes, where a GGUF has the shape of the matrix.
            TernaryForm::HfPacked | TernaryForm::Rotor | TernaryForm::BitNet => vec![strips, encoder.strip_bytes()],
            _ => vec![tensor.rows, tensor.cols],
        };
        Self { name, shape, stored: Stored::Ternary(form), bytes, data: Data::Trits(Box::new(trits)) }
    }

    /// The plane after this one.
    fn second_plane(&self) -> Self {
        let name = self.name.trim_end_matches('0').to_owned() + "1";
        Self { name, shape: self.shape.clone(), data: Data::SecondPlane, ..*self }
    }

    fn dense(
        name: String,
        shape: Vec<usize>,
        row_order: RowOrder,
        tensor: DenseTensor<'a>,
        dtype: DenseType,
    ) -> Result<Self, FormatError> {
        let refuse = |why: String| {
            FormatError::unsupported(
                format!("tensor {:?} [{}, {}] as {}", tensor.name, tensor.rows, tensor.cols, dtype.name()),
                why,
            )
        };
        if dtype != tensor.dtype && !ENCODABLE.contains(&dtype) {
            return Err(refuse("that type is only read".into()));
        }
        let Some(row) = dtype.row_bytes(tensor.cols) else {
            return Err(refuse(format!("its rows are no multiple of {}", dtype.block_len())));
        };
        let bytes = row as u64 * tensor.rows as u64;
        Ok(Self { name, shape, stored: Stored::Dense(dtype), bytes, data: Data::Dense { tensor, row_order } })
    }

    /// The trits, if these are some and not the second plane of others.
    pub(super) fn ternary(&self) -> Option<&Trits<'a>> {
        match &self.data {
            Data::Trits(trits) => Some(trits),
            Data::Dense { .. } | Data::SecondPlane | Data::Bytes(_) => None,
        }
    }

    /// Rows and columns where these are numbers.
    pub(super) fn dense_shape(&self) -> Option<(usize, usize)> {
        match &self.data {
            Data::Dense { tensor, .. } => Some((tensor.rows, tensor.cols)),
            Data::Trits(_) | Data::SecondPlane | Data::Bytes(_) => None,
        }
    }

    /// The dense tensor of the source and the type it gets.
    pub(super) fn recoded(&self) -> Option<(&DenseTensor<'a>, DenseType)> {
        match (&self.data, self.stored) {
            (Data::Dense { tensor, .. }, Stored::Dense(dtype)) if tensor.dtype != dtype => Some((tensor, dtype)),
            _ => None,
        }
    }

    /// Makes the tensor's bytes and writes them.
    pub(super) fn write(
        &self,
        source: &Source,
        file: &mut TensorFile,
        progress: &mut Progress<'_>,
    ) -> Result<(), FormatError> {
        match (&self.data, self.stored) {
            (Data::Bytes(bytes), _) => progress.write(file, bytes.as_slice()),
            (Data::SecondPlane, _) => Ok(()),
            (Data::Trits(trits), Stored::Ternary(TernaryForm::Rotor)) => trits.write_planes(source, file, progress),
            (Data::Trits(trits), _) => trits.write(source, file, progress),
            (Data::Dense { tensor, row_order }, Stored::Dense(dtype)) => {
                write_dense(source, tensor, *row_order, dtype, file, progress)
            }
            (Data::Dense { tensor, .. }, Stored::Ternary(form)) => {
                Err(FormatError::invalid(format!("tensor {:?}", tensor.name), form.name(), tensor.dtype.name()))
            }
        }
    }
}

impl Trits<'_> {
    /// The trits of the target's row `row`, counted.
    fn read(&self, row: usize, trits: &mut [i8]) -> Result<(), FormatError> {
        self.tensor.read_row(self.row_order.graph_row(row), trits)?;
        self.zeros.fetch_add(planes::kernels().count_trits(trits, 0), Ordering::Relaxed);
        Ok(())
    }

    fn write(&self, source: &Source, file: &mut TensorFile, progress: &mut Progress<'_>) -> Result<(), FormatError> {
        let encoder = &self.encoder;
        write_strips(file, progress, encoder.strips(), encoder.strip_bytes(), &|strip, out| {
            encoder.encode_strip(strip, &mut |row, trits| self.read(row, trits), out)
        })?;
        self.release(source);
        let tail = encoder.tail();
        if tail.is_empty() { Ok(()) } else { progress.write(file, tail) }
    }

    /// Both planes in one pass over the trits. They are in memory meanwhile, a quarter of a byte for each weight of one tensor.
    fn write_planes(
        &self,
        source: &Source,
        file: &mut TensorFile,
        progress: &mut Progress<'_>,
    ) -> Result<(), FormatError> {
        let (rows, cols, row_bytes) = (self.tensor.rows, self.tensor.cols, self.encoder.strip_bytes());
        let parts = over_rows(0..rows, |rows| {
            let (mut bit0, mut bit1) = (vec![0; rows.len() * row_bytes], vec![0; rows.len() * row_bytes]);
            let mut trits = vec![0; cols];
            let planes = bit0.chunks_exact_mut(row_bytes).zip(bit1.chunks_exact_mut(row_bytes));
            for (row, (bit0, bit1)) in rows.zip(planes) {
                self.read(row, &mut trits)?;
                planes::trits_to_planes((1, cols), &trits, bit0, bit1).map_err(|invalid| {
                    FormatError::invalid(format!("tensor {:?}", self.tensor.name), "only -1, 0 and +1", invalid)
                })?;
            }
            Ok((bit0, bit1))
        })?;
        self.release(source);
        let (bit0, bit1): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        bit0.into_iter().chain(bit1).try_for_each(|plane| progress.write(file, plane))
    }

    fn release(&self, source: &Source) {
        source.release(self.tensor.bytes);
        source.release(self.tensor.bit1);
    }
}

fn write_dense(
    source: &Source,
    tensor: &DenseTensor<'_>,
    row_order: RowOrder,
    dtype: DenseType,
    file: &mut TensorFile,
    progress: &mut Progress<'_>,
) -> Result<(), FormatError> {
    let (Some(from), Some(to)) = (tensor.dtype.row_bytes(tensor.cols), dtype.row_bytes(tensor.cols)) else {
        return Err(FormatError::invalid(format!("tensor {:?}", tensor.name), "whole blocks", tensor.cols));
    };
    let stored = |row: usize| {
        let begin = tensor.row_order.stored_row(row_order.graph_row(row)) * from;
        &tensor.bytes[begin..begin + from]
    };
    let rows_at_once = (RELEASE_AFTER / from.max(1)).max(1);
    for first in (0..tensor.rows).step_by(rows_at_once) {
        let rows = rows_at_once.min(tensor.rows - first);
        write_strips(file, progress, rows, to, &|row, out| {
            if dtype == tensor.dtype {
                out.copy_from_slice(stored(first + row));
                return Ok(());
            }
            let mut values = vec![0.0; tensor.cols];
            tensor.dtype.decode(stored(first + row), &mut values);
            encode_row(dtype, &values, out).ok_or_else(|| FormatError::unsupported(dtype.name(), "it is only read"))
        })?;
        if tensor.row_order == row_order {
            source.release(&tensor.bytes[first * from..(first + rows) * from]);
        }
    }
    source.release(tensor.bytes);
    Ok(())
}
