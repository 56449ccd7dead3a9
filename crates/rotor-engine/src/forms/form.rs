//! What a ternary tensor is: the ways in which trits are stored, and the bytes that are stored so.

use super::row_order::RowOrder;
use super::scales::Scales;
use super::tl::TlTile;
use rotor_kernels::DenseType;

/// How the trits of a tensor are stored. docs/formats.md draws each layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TernaryForm {
    /// Microsoft's I2_S in one of its layouts.
    I2S(I2sLayout),
    /// Blocks of 256 with an f16 scale, five trits to a byte.
    Tq1_0,
    /// Blocks of 256 with an f16 scale, four trits to a byte.
    Tq2_0,
    /// Blocks of 128 with an f16 scale, eight weights to a byte; -1 and +1 only.
    Q1_0,
    /// Blocks of 64 with an f16 scale, four weights to a byte.
    Q2_0,
    /// As [`TernaryForm::Q2_0`] with blocks of 128, as the first Bonsai models were published.
    Q2_0Group128,
    /// Blocks of 128 with an f16 scale, five trits to a byte.
    Ptq1_0,
    /// Blocks of 256 with an f16 scale; every four weights have exactly one zero.
    Stq1_0,
    /// Rows with an f16 scale, five trits to a byte.
    Iq1Bn,
    /// Rows with an f32 scale, four trits to a byte.
    Iq2Bn,
    /// Pairs of weights in the tiles of a lookup kernel.
    Tl1(TlTile),
    /// Triples of weights in the tiles of a lookup kernel.
    Tl2(TlTile),
    /// Hugging Face packed U8 `[ceil(rows/4), cols]`, four row quarters to a byte.
    HfPacked,
    /// BitNet's 2-bit codes, each row on a new byte.
    BitNet,
    /// Rotor planes: `bit0` in [`TernaryTensor::bytes`], `bit1` in [`TernaryTensor::bit1`], each row on a new byte.
    Rotor,
    /// Float master weights, quantised by their absolute mean when read.
    Master(DenseType),
    /// MLX's packs of 2 bits, four weights to a byte, the scales beside them.
    Mlx,
    /// Floats that are ternary as they stand.
    Unpacked(DenseType),
}

/// Where I2_S keeps which element; nothing in the file says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum I2sLayout {
    /// 128 elements to 32 bytes, as x86 builds and the Python packers write.
    Blocks128,
    /// 64 elements to 16 bytes, as NEON builds write.
    Blocks64,
    /// Four rows to a row of bytes, as x86 builds without activation parallelism write.
    Rows4,
    /// Four consecutive elements to a byte, as one revision of the quantiser writes.
    Sequential,
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
    /// The second plane of [`TernaryForm::Rotor`]; empty in every other form.
    pub bit1: &'a [u8],
    /// Scales, rows in the order of the file.
    pub scales: Scales,
    /// How rows must be permuted to come out in the order the graph wants.
    pub row_order: RowOrder,
}
