//! Weights as they are stored: borrowed bytes, and how they are laid out.

use crate::forms::{RowOrder, TernaryTensor};
use rotor_kernels::DenseType;

/// A dense tensor as stored: borrowed bytes and their type.
#[derive(Clone, Copy, Debug)]
pub struct DenseTensor<'a> {
    /// The name in its file.
    pub name: &'a str,
    /// Rows; 1 for a vector.
    pub rows: usize,
    /// Columns (the fastest-varying dimension).
    pub cols: usize,
    /// Storage type.
    pub dtype: DenseType,
    /// `rows * dtype.row_bytes(cols)` bytes.
    pub bytes: &'a [u8],
    /// How rows must be permuted to come out in the order the graph wants.
    pub row_order: RowOrder,
}

/// The weight of a linear layer, or any matrix, still in its source layout.
#[derive(Clone, Debug)]
pub enum Weight<'a> {
    /// Every weight is -1, 0 or +1 times a scale.
    Ternary(TernaryTensor<'a>),
    /// Ordinary numbers.
    Dense(DenseTensor<'a>),
}

/// A linear layer as stored.
#[derive(Clone, Debug)]
pub struct SourceLinear<'a> {
    /// The matrix.
    pub weight: Weight<'a>,
    /// Multiplies the product (`blk.N.attn_q.scale` in some GGUF files), 1 where absent.
    pub output_scale: f32,
    /// RMSNorm over the input, before quantisation (`use_rms_norm`), with epsilon [`Config::linear_norm_eps`](crate::Config::linear_norm_eps).
    pub input_norm: Option<Vec<f32>>,
}
