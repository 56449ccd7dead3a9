//! Ternary forms: how published files store trits, one file per form.
//!
//! Every form answers one question: which trits does row `r` hold? Packing, conversion and inspection are written
//! against that answer, so a form is one file here and one row in [`TernaryForm`].

use crate::formats::RowOrder;

/// How the trits of a tensor are stored. docs/formats.md draws each layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TernaryForm {
    /// Microsoft's I2_S in one of its layouts.
    I2S(I2sLayout),
    /// Hugging Face packed U8 `[ceil(rows/4), cols]`, four row quarters to a byte.
    HfPacked,
    /// Float master weights, quantised by their absolute mean when read.
    Master(rotor_kernels::DenseType),
}

/// Where I2_S keeps which element; nothing in the file says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum I2sLayout {
    /// 128 elements to 32 bytes, as x86 builds and the Python packers write.
    Blocks128,
    /// 64 elements to 16 bytes, as NEON builds write.
    Blocks64,
}

/// Scales of a ternary tensor; they always multiply.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// One for the whole tensor.
    Tensor(f32),
    /// One per row.
    Rows(Vec<f32>),
    /// `groups` per row, row-major: each covers `cols / groups` columns.
    Groups {
        /// Groups per row.
        groups: usize,
        /// `rows * groups` scales.
        values: Vec<f32>,
    },
}

/// A ternary tensor as stored: borrowed bytes, their form, and its scales.
#[derive(Clone, Debug)]
pub struct TernaryTensor<'a> {
    /// The name in its file.
    pub name: &'a str,
    /// Rows (output features).
    pub rows: usize,
    /// Columns (input features).
    pub cols: usize,
    /// Layout of `bytes`.
    pub form: TernaryForm,
    /// The packed trits, checked to be long enough for the shape.
    pub bytes: &'a [u8],
    /// Scales.
    pub scales: Scales,
    /// How rows must be permuted to come out in the order the graph wants.
    pub row_order: RowOrder,
}
