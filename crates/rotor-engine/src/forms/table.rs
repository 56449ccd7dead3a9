//! The table of forms: what each is called, takes, can hold, and who reads and writes it.

use super::blocks::{self, Block};
use super::form::{I2sLayout, TernaryForm, TernaryTensor};
use super::row::RowError;
use super::scales::Scales;
use super::{hf_packed, i2s, iq_bn, master, mlx, ptq1_0, stq1_0, tl, unpacked};
use crate::error::FormatError;
use crate::planes;

/// What scales a form can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleCapability {
    /// One f32 for the tensor.
    Tensor,
    /// One for each row; f16 where `half`.
    Rows {
        /// Whether scales are rounded to f16.
        half: bool,
    },
    /// One f16 for every so many weights of a row.
    Blocks {
        /// Weights of a block.
        weights: usize,
    },
    /// Any, as f32 in an array beside the weights.
    Any,
}

/// Decodes a stored row of a tensor.
type DecodeRow = fn(&TernaryTensor<'_>, usize, &mut [i8]) -> Result<(), RowError>;

/// How a form is written; [`super::Encoder`] does it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Writer {
    /// Blocks of four times so many bytes' weights, flat over the tensor, with a tail.
    I2S(I2sLayout),
    HfPacked,
    Blocks(&'static Block),
    Codes,
    Planes,
}

/// A form's row of the table.
#[derive(Debug)]
pub struct FormInfo {
    /// The name people type and read.
    pub name: &'static str,
    /// Bits of storage for each weight, without the scales beside the tensor and the tail of I2_S.
    pub bits_per_weight: f64,
    /// What the number of columns has to be a multiple of.
    pub cols_multiple: usize,
    /// What the number of weights has to be a multiple of.
    pub weights_multiple: usize,
    /// The scales it can hold.
    pub scales: ScaleCapability,
    /// The type id in GGUF files, where it occurs in them.
    pub gguf_type: Option<u32>,
    /// A form of this row; the layout and tiles of a tensor's own come from its file.
    pub form: Option<TernaryForm>,
    pub(super) packed_len: fn(TernaryForm, usize, usize) -> Option<usize>,
    pub(super) decode_row: DecodeRow,
    pub(super) writer: Option<Writer>,
}

impl FormInfo {
    /// Whether rotor writes the form.
    pub fn is_written(&self) -> bool {
        self.writer.is_some()
    }

    /// Whether a `[rows, cols]` matrix can have this form, as far as its shape goes.
    pub fn fits(&self, rows: usize, cols: usize) -> bool {
        rows > 0
            && cols > 0
            && cols.is_multiple_of(self.cols_multiple)
            && rows.checked_mul(cols).is_some_and(|weights| weights.is_multiple_of(self.weights_multiple))
    }

    /// The row of the form called `name`.
    pub fn named(name: &str) -> Option<&'static FormInfo> {
        FORMS.iter().find(|info| info.name == name)
    }
}

/// A row for a form without demands on the shape, read only; the rows of the table say what differs.
const PLAIN: FormInfo = FormInfo {
    name: "",
    bits_per_weight: 2.0,
    cols_multiple: 1,
    weights_multiple: 1,
    scales: ScaleCapability::Tensor,
    gguf_type: None,
    form: None,
    packed_len: |_, _, _| None,
    decode_row: |_, _, _| Err(RowError::Truncated),
    writer: None,
};

const fn i2s(name: &'static str, layout: I2sLayout, writer: Option<Writer>) -> FormInfo {
    FormInfo {
        name,
        weights_multiple: i2s::STREAM_UNIT,
        gguf_type: Some(36),
        form: Some(TernaryForm::I2S(layout)),
        packed_len: |form, rows, cols| match form {
            TernaryForm::I2S(layout) => i2s::packed_len(layout, rows, cols),
            _ => None,
        },
        decode_row: |tensor, row, out| match tensor.form {
            TernaryForm::I2S(layout) => complete(i2s::decode_row(layout, tensor.bytes, row, out)),
            _ => Err(RowError::Truncated),
        },
        writer,
        ..PLAIN
    }
}

const fn in_blocks(name: &'static str, form: TernaryForm, block: &'static Block, gguf_type: u32) -> FormInfo {
    FormInfo {
        name,
        bits_per_weight: (8 * block.bytes) as f64 / block.weights as f64,
        cols_multiple: block.weights,
        scales: ScaleCapability::Blocks { weights: block.weights },
        gguf_type: Some(gguf_type),
        form: Some(form),
        packed_len: |form, rows, cols| block_of(form)?.row_bytes(cols)?.checked_mul(rows),
        decode_row: |tensor, row, out| {
            complete(block_of(tensor.form).and_then(|block| block.decode_row(tensor.bytes, row, out)))
        },
        writer: Some(Writer::Blocks(block)),
        ..PLAIN
    }
}

/// The blocks of a form that has such.
pub(super) const fn block_of(form: TernaryForm) -> Option<&'static Block> {
    match form {
        TernaryForm::Tq1_0 => Some(&blocks::TQ1_0),
        TernaryForm::Tq2_0 => Some(&blocks::TQ2_0),
        TernaryForm::Q1_0 => Some(&blocks::Q1_0),
        TernaryForm::Q2_0 => Some(&blocks::Q2_0),
        TernaryForm::Q2_0Group128 => Some(&blocks::Q2_0_128),
        TernaryForm::Ptq1_0 => Some(&ptq1_0::PTQ1_0),
        TernaryForm::Stq1_0 => Some(&stq1_0::STQ1_0),
        _ => None,
    }
}

/// Every form rotor reads.
pub static FORMS: [FormInfo; 21] = [
    i2s("i2_s", I2sLayout::Blocks128, Some(Writer::I2S(I2sLayout::Blocks128))),
    i2s("i2_s_64", I2sLayout::Blocks64, Some(Writer::I2S(I2sLayout::Blocks64))),
    i2s("i2_s_1x4", I2sLayout::Rows4, None),
    i2s("i2_s_seq", I2sLayout::Sequential, None),
    in_blocks("tq1_0", TernaryForm::Tq1_0, &blocks::TQ1_0, 34),
    in_blocks("tq2_0", TernaryForm::Tq2_0, &blocks::TQ2_0, 35),
    in_blocks("q1_0", TernaryForm::Q1_0, &blocks::Q1_0, 41),
    in_blocks("q2_0", TernaryForm::Q2_0, &blocks::Q2_0, 42),
    // Under the id that ggml has given to blocks of 64 it is read, and not written: nobody else could tell the two apart.
    FormInfo { writer: None, ..in_blocks("q2_0_128", TernaryForm::Q2_0Group128, &blocks::Q2_0_128, 42) },
    FormInfo {
        name: "iq1_bn",
        bits_per_weight: 1.625,
        cols_multiple: 64,
        scales: ScaleCapability::Rows { half: true },
        gguf_type: Some(134),
        form: Some(TernaryForm::Iq1Bn),
        packed_len: |_, rows, cols| iq_bn::iq1_packed_len(rows, cols),
        decode_row: |tensor, row, out| complete(iq_bn::decode_iq1(tensor.bytes, row, out)),
        ..PLAIN
    },
    FormInfo {
        name: "iq2_bn",
        cols_multiple: 64,
        scales: ScaleCapability::Rows { half: false },
        gguf_type: Some(135),
        form: Some(TernaryForm::Iq2Bn),
        packed_len: |_, rows, cols| iq_bn::iq2_packed_len(rows, cols),
        decode_row: |tensor, row, out| complete(iq_bn::decode_iq2(tensor.bytes, row, out)),
        ..PLAIN
    },
    FormInfo {
        name: "tl1",
        gguf_type: Some(38),
        packed_len: |form, rows, cols| {
            if let TernaryForm::Tl1(tile) = form { tl::tl1_packed_len(tile, rows, cols) } else { None }
        },
        decode_row: |tensor, row, out| match tensor.form {
            TernaryForm::Tl1(tile) => complete(tl::decode_tl1(tile, tensor.rows, tensor.bytes, row, out)),
            _ => Err(RowError::Truncated),
        },
        ..PLAIN
    },
    FormInfo {
        name: "tl2",
        bits_per_weight: 5.0 / 3.0,
        gguf_type: Some(39),
        packed_len: |form, rows, cols| {
            if let TernaryForm::Tl2(tile) = form { tl::tl2_packed_len(tile, rows, cols) } else { None }
        },
        decode_row: |tensor, row, out| match tensor.form {
            TernaryForm::Tl2(tile) => complete(tl::decode_tl2(tile, tensor.rows, tensor.bytes, row, out)),
            _ => Err(RowError::Truncated),
        },
        ..PLAIN
    },
    FormInfo {
        name: "hf",
        form: Some(TernaryForm::HfPacked),
        packed_len: |_, rows, cols| hf_packed::packed_len(rows, cols),
        decode_row: |tensor, row, out| complete(hf_packed::decode_row(tensor.rows, tensor.bytes, row, out)),
        writer: Some(Writer::HfPacked),
        ..PLAIN
    },
    FormInfo {
        name: "bitnet",
        scales: ScaleCapability::Any,
        form: Some(TernaryForm::BitNet),
        packed_len: |_, rows, cols| rows.checked_mul(planes::code_bytes(cols)),
        decode_row: decode_codes,
        writer: Some(Writer::Codes),
        ..PLAIN
    },
    FormInfo {
        name: "rotor",
        scales: ScaleCapability::Any,
        form: Some(TernaryForm::Rotor),
        packed_len: |_, rows, cols| rows.checked_mul(planes::plane_bytes(cols)),
        decode_row: decode_planes,
        writer: Some(Writer::Planes),
        ..PLAIN
    },
    FormInfo {
        name: "master",
        bits_per_weight: 16.0,
        packed_len: |form, rows, cols| match form {
            TernaryForm::Master(dtype) => dtype.row_bytes(cols)?.checked_mul(rows),
            _ => None,
        },
        decode_row: decode_master,
        ..PLAIN
    },
    FormInfo { writer: None, ..in_blocks("ptq1_0", TernaryForm::Ptq1_0, &ptq1_0::PTQ1_0, 143) },
    FormInfo { writer: None, ..in_blocks("stq1_0", TernaryForm::Stq1_0, &stq1_0::STQ1_0, 43) },
    FormInfo {
        name: "mlx",
        cols_multiple: 16,
        scales: ScaleCapability::Any,
        form: Some(TernaryForm::Mlx),
        packed_len: |_, rows, cols| mlx::packed_len(rows, cols),
        decode_row: |tensor, row, out| complete(mlx::decode_row(tensor.bytes, row, out)),
        ..PLAIN
    },
    FormInfo {
        name: "unpacked",
        bits_per_weight: 16.0,
        scales: ScaleCapability::Any,
        packed_len: |form, rows, cols| match form {
            TernaryForm::Unpacked(dtype) => dtype.row_bytes(cols)?.checked_mul(rows),
            _ => None,
        },
        decode_row: |tensor, row, out| match tensor.form {
            TernaryForm::Unpacked(dtype) => complete(unpacked::decode_row(dtype, tensor.bytes, row, out)),
            _ => Err(RowError::Truncated),
        },
        ..PLAIN
    },
];

/// The row of a form.
pub(super) fn info(form: TernaryForm) -> &'static FormInfo {
    let row = match form {
        TernaryForm::I2S(I2sLayout::Blocks128) => 0,
        TernaryForm::I2S(I2sLayout::Blocks64) => 1,
        TernaryForm::I2S(I2sLayout::Rows4) => 2,
        TernaryForm::I2S(I2sLayout::Sequential) => 3,
        TernaryForm::Tq1_0 => 4,
        TernaryForm::Tq2_0 => 5,
        TernaryForm::Q1_0 => 6,
        TernaryForm::Q2_0 => 7,
        TernaryForm::Q2_0Group128 => 8,
        TernaryForm::Iq1Bn => 9,
        TernaryForm::Iq2Bn => 10,
        TernaryForm::Tl1(_) => 11,
        TernaryForm::Tl2(_) => 12,
        TernaryForm::HfPacked => 13,
        TernaryForm::BitNet => 14,
        TernaryForm::Rotor => 15,
        TernaryForm::Master(_) => 16,
        TernaryForm::Ptq1_0 => 17,
        TernaryForm::Stq1_0 => 18,
        TernaryForm::Mlx => 19,
        TernaryForm::Unpacked(_) => 20,
    };
    &FORMS[row]
}

fn complete(decoded: Option<()>) -> Result<(), RowError> {
    decoded.ok_or(RowError::Truncated)
}

/// Row `row` of `width` bytes each.
fn row_of(bytes: &[u8], row: usize, width: usize) -> Result<&[u8], RowError> {
    let begin = row.checked_mul(width);
    let range = begin.and_then(|begin| Some(begin..begin.checked_add(width)?));
    range.and_then(|range| bytes.get(range)).ok_or(RowError::Truncated)
}

fn decode_codes(tensor: &TernaryTensor<'_>, row: usize, out: &mut [i8]) -> Result<(), RowError> {
    let codes = row_of(tensor.bytes, row, planes::code_bytes(out.len()))?;
    planes::decode_codes((1, out.len()), codes, out).map_err(|_| RowError::Invalid)
}

fn decode_planes(tensor: &TernaryTensor<'_>, row: usize, out: &mut [i8]) -> Result<(), RowError> {
    let width = planes::plane_bytes(out.len());
    let (bit0, bit1) = (row_of(tensor.bytes, row, width)?, row_of(tensor.bit1, row, width)?);
    planes::planes_to_trits((1, out.len()), bit0, bit1, out).map_err(|_| RowError::Invalid)
}

fn decode_master(tensor: &TernaryTensor<'_>, row: usize, out: &mut [i8]) -> Result<(), RowError> {
    let (TernaryForm::Master(dtype), Scales::Tensor(scale)) = (tensor.form, &tensor.scales) else {
        return Err(RowError::Other(FormatError::unsupported(
            format!("tensor {:?}", tensor.name),
            "master weights are quantised by one scale for the whole tensor",
        )));
    };
    match master::decode_row(tensor.name, dtype, *scale, tensor.bytes, row, out) {
        Ok(decoded) => complete(decoded),
        Err(error) => Err(RowError::Other(error)),
    }
}

impl TernaryForm {
    /// The name people type and read (`i2_s`, `hf`).
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// The form's row of [`FORMS`].
    pub fn info(self) -> &'static FormInfo {
        info(self)
    }

    /// Bytes of the packed trits of a `[rows, cols]` tensor, without the scale that I2_S appends and of one plane only.
    ///
    /// `None` where the form cannot hold the shape, or the size exceeds what this machine can address.
    pub fn packed_len(self, rows: usize, cols: usize) -> Option<usize> {
        (self.info().packed_len)(self, rows, cols)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rotor_kernels::DenseType;

    #[test]
    fn every_form_has_its_own_row() {
        let tile = tl::TlTile { rows: 32, cols: 24, step_rows: 32 };
        for (form, name) in [
            (TernaryForm::Tl1(tile), "tl1"),
            (TernaryForm::Tl2(tile), "tl2"),
            (TernaryForm::Master(DenseType::F16), "master"),
            (TernaryForm::Unpacked(DenseType::F16), "unpacked"),
        ] {
            assert_eq!(info(form).name, name);
        }
        for row in &FORMS {
            assert!(row.form.is_none_or(|form| info(form).name == row.name), "{}", row.name);
            assert_eq!(FormInfo::named(row.name).map(|found| found.name), Some(row.name));
        }
    }
}
