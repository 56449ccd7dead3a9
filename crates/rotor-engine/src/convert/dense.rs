//! Which type the numbers that are not ternary get: nothing is rounded unless it was asked for.

use super::options::Target;
use super::pieces::{Content, Piece};
use crate::error::FormatError;
use crate::formats::{DenseTensor, Source};
use crate::forms::{TernaryForm, TernaryTensor};
use crate::write::safetensors;
use half::f16;
use rotor_kernels::DenseType;
use std::num::NonZeroUsize;
use std::thread;

/// Sets the types of all pieces. `renamed` tells whether the target names tensors otherwise than the source, and so is a
/// file of another kind.
pub(super) fn choose(
    source: &Source,
    pieces: &mut [Piece<'_>],
    target: Target,
    renamed: bool,
    head: Option<DenseType>,
) -> Result<(), FormatError> {
    for piece in pieces {
        let (is_head, is_vector) = (piece.is_head(), piece.shape.len() == 1);
        let (tensor, dtype) = match &mut piece.content {
            Content::Dense { tensor, dtype } => (tensor, dtype),
            Content::Ternary { tensor, .. } if is_head => {
                refuse_ternary_head(tensor, target, head)?;
                continue;
            }
            Content::Ternary { .. } | Content::Values(_) => continue,
        };
        *dtype = match head {
            Some(head) if is_head => head,
            _ if target.is_gguf() && renamed && is_vector => DenseType::F32,
            _ if target.is_gguf() && renamed && is_head && fits_f16(source, tensor) => DenseType::F16,
            _ => tensor.dtype,
        };
        if target.form() == TernaryForm::HfPacked && safetensors::dtype(*dtype).is_none() {
            let hint = if is_head { "; ask for one of them for the head" } else { "" };
            let why = format!("a Hugging Face folder holds f32, f16 and bf16{hint}");
            return Err(FormatError::unsupported(format!("tensor {:?} as {}", tensor.name, dtype.name()), why));
        }
    }
    Ok(())
}

/// An embedding or head that is ternary stays so, where the target can have one.
fn refuse_ternary_head(tensor: &TernaryTensor<'_>, target: Target, head: Option<DenseType>) -> Result<(), FormatError> {
    let refuse = |to: &str, why| Err(FormatError::unsupported(format!("tensor {:?} as {to}", tensor.name), why));
    match head {
        Some(head) => refuse(head.name(), "it is ternary, and has no numbers to encode"),
        None if target.form() == TernaryForm::HfPacked => refuse("hf", "only linears are ternary in such a folder"),
        None => Ok(()),
    }
}

/// Whether f16 holds every number exactly.
fn fits_f16(source: &Source, tensor: &DenseTensor<'_>) -> bool {
    if !matches!(tensor.dtype, DenseType::F32 | DenseType::Bf16) {
        return false;
    }
    let Some(row_bytes) = tensor.dtype.row_bytes(tensor.cols).filter(|&bytes| bytes > 0) else { return false };
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let part = tensor.bytes.len().div_ceil(row_bytes).div_ceil(threads) * row_bytes;
    let is_exact = |bytes: &[u8]| {
        let mut values = vec![0.0; tensor.cols];
        let exact = bytes.chunks_exact(row_bytes).all(|row| {
            tensor.dtype.decode(row, &mut values);
            values.iter().all(|&value| f16::from_f32(value).to_f32().to_bits() == value.to_bits())
        });
        source.release(bytes);
        exact
    };
    thread::scope(|scope| {
        let parts: Vec<_> =
            tensor.bytes.chunks(part.max(1)).map(|bytes| scope.spawn(move || is_exact(bytes))).collect();
        parts.into_iter().all(|part| part.join().unwrap_or(false))
    })
}
