//! From trits to the bytes of a form, without ever holding a tensor unpacked.
//!
//! A *strip* is the smallest piece of a tensor's bytes that some of its rows fill alone. Strips are independent, so
//! threads can fill different ones, and a writer needs no more memory than the strips in flight.

use super::form::{I2sLayout, TernaryForm};
use super::scales::Scales;
use super::table::{ScaleCapability, Writer};
use super::{hf_packed, i2s};
use crate::error::FormatError;
use crate::planes;
use half::f16;

/// Writes a stored row's trits to the slice, which is as long as a row.
pub type ReadRow<'a> = dyn FnMut(usize, &mut [i8]) -> Result<(), FormatError> + 'a;

/// The encoder of one tensor.
#[derive(Clone, Debug)]
pub struct Encoder {
    name: String,
    form: TernaryForm,
    writer: Writer,
    rows: usize,
    cols: usize,
    scales: Scales,
}

impl Encoder {
    /// An encoder of the `[rows, cols]` tensor `name` to `form`, with scales in the order the rows are written.
    ///
    /// # Errors
    ///
    /// [`FormatError::Unsupported`], naming the tensor and the reason, where the form cannot hold the shape or the scales, or
    /// is not one that can be written.
    pub fn new(name: &str, form: TernaryForm, rows: usize, cols: usize, scales: Scales) -> Result<Self, FormatError> {
        let refuse =
            |why: String| FormatError::unsupported(format!("tensor {name:?} [{rows}, {cols}] as {}", form.name()), why);
        let info = form.info();
        let Some(writer) = info.writer else { return Err(refuse(format!("{} is only read", info.name))) };
        if rows == 0 || cols == 0 || form.packed_len(rows, cols).is_none() {
            return Err(refuse(match (info.cols_multiple, info.weights_multiple) {
                (1, weights) => format!("it holds whole blocks of {weights} weights"),
                (cols, _) => format!("it holds rows of whole blocks of {cols} weights"),
            }));
        }
        let scales = held_scales(info.scales, (rows, cols), scales).map_err(refuse)?;
        Ok(Self { name: name.to_owned(), form, writer, rows, cols, scales })
    }

    /// The form that is written.
    pub fn form(&self) -> TernaryForm {
        self.form
    }

    /// The scales as a reader of the form finds them: rounded where the form holds f16.
    pub fn scales(&self) -> &Scales {
        &self.scales
    }

    /// How many tensors the bytes are, of equal length and one after the other: 2 for the planes of
    /// [`TernaryForm::Rotor`], all strips of `bit0` coming before those of `bit1`, else 1.
    pub fn tensors(&self) -> usize {
        if matches!(self.writer, Writer::Planes) { 2 } else { 1 }
    }

    /// Rows that share a strip.
    fn strip_rows(&self) -> usize {
        match self.writer {
            Writer::I2S(_) => i2s::strip_rows(self.cols),
            Writer::HfPacked => 4,
            Writer::Blocks(_) | Writer::Codes | Writer::Planes => 1,
        }
    }

    /// Number of strips, those of all [`tensors`](Self::tensors) together.
    pub fn strips(&self) -> usize {
        self.rows.div_ceil(self.strip_rows()) * self.tensors()
    }

    /// Bytes of a strip.
    pub fn strip_bytes(&self) -> usize {
        match self.writer {
            Writer::I2S(_) => self.strip_rows() * self.cols / 4,
            Writer::HfPacked => self.cols,
            Writer::Blocks(block) => self.cols / block.weights * block.bytes,
            Writer::Codes => planes::code_bytes(self.cols),
            Writer::Planes => planes::plane_bytes(self.cols),
        }
    }

    /// Encodes strip `strip` into `out`, asking `read` for the stored rows it holds.
    ///
    /// # Errors
    ///
    /// Those of `read`; [`FormatError::Unsupported`] for a zero where the form has none (Q1_0), and for what is no trit.
    ///
    /// # Panics
    ///
    /// If `strip` is not below [`strips`](Self::strips) or `out` is not [`strip_bytes`](Self::strip_bytes) long.
    pub fn encode_strip(&self, strip: usize, read: &mut ReadRow<'_>, out: &mut [u8]) -> Result<(), FormatError> {
        assert!(strip < self.strips(), "strip {strip} of {}", self.strips());
        assert_eq!(out.len(), self.strip_bytes(), "length of a strip");
        let mut trits = vec![0; self.cols];
        match self.writer {
            Writer::I2S(layout) => {
                let rows = self.strip_rows();
                trits.resize(rows * self.cols, 0);
                for (row, trits) in trits.chunks_exact_mut(self.cols).enumerate() {
                    read(strip * rows + row, trits)?;
                }
                match layout {
                    I2sLayout::Blocks64 => i2s::encode::<16>(&trits, out),
                    _ => i2s::encode::<32>(&trits, out),
                }
            }
            Writer::HfPacked => {
                out.fill(0);
                let stored = (strip..self.rows).step_by(hf_packed::packed_rows(self.rows));
                for (quarter, row) in stored.enumerate() {
                    read(row, &mut trits)?;
                    hf_packed::encode_quarter(quarter, &trits, out);
                }
            }
            Writer::Blocks(block) => {
                read(strip, &mut trits)?;
                self.expect_encodable(strip, &trits)?;
                let group_cols = self.cols / self.scales.groups();
                let scale = |index| f16::from_f32(self.scales.get(strip, index * block.weights / group_cols));
                block.encode_row(&trits, scale, out);
            }
            Writer::Codes => {
                read(strip, &mut trits)?;
                let encoded = planes::encode_codes((1, self.cols), &trits, out);
                encoded.map_err(|invalid| self.not_encodable(format!("row {strip} has {invalid}")))?;
            }
            Writer::Planes => {
                let (plane, row) = (strip / self.rows, strip % self.rows);
                read(row, &mut trits)?;
                let mut other = vec![0; out.len()];
                let (bit0, bit1) = if plane == 0 { (out, other.as_mut_slice()) } else { (other.as_mut_slice(), out) };
                let encoded = planes::trits_to_planes((1, self.cols), &trits, bit0, bit1);
                encoded.map_err(|invalid| self.not_encodable(format!("row {row} has {invalid}")))?;
            }
        }
        Ok(())
    }

    /// Refuses a zero where the form has none.
    fn expect_encodable(&self, row: usize, trits: &[i8]) -> Result<(), FormatError> {
        if self.form != TernaryForm::Q1_0 {
            return Ok(());
        }
        match trits.iter().position(|&trit| trit == 0) {
            Some(col) => Err(self.not_encodable(format!("it has no zero, and row {row}, column {col} is one"))),
            None => Ok(()),
        }
    }

    fn not_encodable(&self, why: String) -> FormatError {
        let Self { name, rows, cols, form, .. } = self;
        FormatError::unsupported(format!("tensor {name:?} [{rows}, {cols}] as {}", form.name()), why)
    }

    /// What follows the last strip inside the tensor's bytes: for I2_S the scale and its filler, else nothing.
    pub fn tail(&self) -> Vec<u8> {
        match self.writer {
            Writer::I2S(_) => {
                let mut tail = self.scales.get(0, 0).to_le_bytes().to_vec();
                tail.resize(i2s::TAIL, 0);
                tail
            }
            _ => Vec::new(),
        }
    }
}

/// The scales as a form of this capability holds them, or why it cannot.
fn held_scales(can: ScaleCapability, (rows, cols): (usize, usize), scales: Scales) -> Result<Scales, String> {
    let expected = match &scales {
        Scales::Tensor(_) => 1,
        Scales::Rows(_) => rows,
        Scales::Groups { groups, .. } => rows * groups,
    };
    if scales.values().len() != expected || !cols.is_multiple_of(scales.groups().max(1)) || scales.groups() == 0 {
        return Err(format!("its {} scales do not fit the shape", scales.values().len()));
    }
    if let Some(bad) = scales.values().iter().find(|scale| !scale.is_finite()) {
        return Err(format!("its scale {bad} is not finite"));
    }
    match can {
        ScaleCapability::Any => Ok(scales),
        ScaleCapability::Tensor if matches!(scales, Scales::Tensor(_)) => Ok(scales),
        ScaleCapability::Tensor => Err("it holds one scale for the whole tensor, and this tensor has several".into()),
        ScaleCapability::Rows { .. } if matches!(scales, Scales::Groups { .. }) => {
            Err("it holds one scale for a row, and this tensor has several".into())
        }
        ScaleCapability::Rows { half: false } => Ok(scales),
        ScaleCapability::Rows { half: true } => rounded(scales),
        ScaleCapability::Blocks { weights } => match cols / scales.groups() {
            group if group.is_multiple_of(weights) => rounded(scales),
            group => {
                Err(format!("it holds a scale for every {weights} weights, and this tensor has one for every {group}"))
            }
        },
    }
}

/// The nearest f16 of each scale; a scale that f16 cannot hold is refused.
fn rounded(scales: Scales) -> Result<Scales, String> {
    let nearest = |scale: f32| f16::from_f32(scale).to_f32();
    let held = |scale: f32| nearest(scale).is_finite() && (nearest(scale) != 0.0 || scale == 0.0);
    match scales.values().iter().find(|&&scale| !held(scale)) {
        Some(scale) => Err(format!("its scale {scale:e} is beyond f16, which the form stores")),
        None => Ok(scales.map(nearest)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::encode;
    use super::*;
    use rotor_kernels::DenseType;

    #[test]
    fn i2s_ends_with_its_scale() {
        let bytes = encode(TernaryForm::I2S(I2sLayout::Blocks128), 2, 128, &[0; 256]);
        assert_eq!(bytes.len(), 96);
        assert_eq!(bytes[..64], [0x55; 64]);
        assert_eq!(bytes[64..68], 1f32.to_le_bytes());
        assert_eq!(bytes[68..], [0; 28]);
    }

    #[test]
    fn what_a_form_cannot_hold_is_refused_by_name() {
        let i2s = TernaryForm::I2S(I2sLayout::Blocks128);
        let rows = || Scales::Rows(vec![1.0, 2.0]);
        let groups = |groups| Scales::Groups { groups, values: (0..2 * groups).map(|i| i as f32).collect() };
        let tensor = Scales::Tensor;
        for (form, rows, cols, scales, why) in [
            (i2s, 2, 100, tensor(1.0), "whole blocks of 128"),
            (i2s, 0, 128, tensor(1.0), "whole blocks of 128"),
            (TernaryForm::HfPacked, 2, 128, rows(), "one scale"),
            (TernaryForm::HfPacked, 2, 128, tensor(f32::NAN), "not finite"),
            (TernaryForm::Master(DenseType::F32), 2, 128, tensor(1.0), "only read"),
            (TernaryForm::Iq2Bn, 2, 128, tensor(1.0), "only read"),
            (TernaryForm::Tq1_0, 2, 128, tensor(1.0), "rows of whole blocks of 256"),
            (TernaryForm::Tq2_0, 2, 256, tensor(1e6), "1e6 is beyond f16"),
            (TernaryForm::Tq2_0, 2, 256, tensor(1e-9), "1e-9 is beyond f16"),
            (TernaryForm::Tq2_0, 2, 256, groups(4), "every 256 weights, and this tensor has one for every 64"),
            (TernaryForm::Rotor, 2, 256, groups(3), "do not fit the shape"),
            (TernaryForm::BitNet, 3, 256, rows(), "do not fit the shape"),
        ] {
            let error = Encoder::new("blk.3.ffn_down.weight", form, rows, cols, scales).unwrap_err().to_string();
            assert!(error.contains("blk.3.ffn_down.weight") && error.contains(why), "{error}");
        }
    }

    #[test]
    fn half_precision_scales_are_rounded_to_the_nearest() {
        let encoder = Encoder::new("t", TernaryForm::Tq2_0, 1, 512, Scales::Tensor(0.1)).unwrap();
        assert_eq!(encoder.scales(), &Scales::Tensor(0.099_975_586));
    }

    #[test]
    fn a_form_without_zero_refuses_one_by_its_place() {
        let encoder = Encoder::new("t", TernaryForm::Q1_0, 2, 128, Scales::Tensor(1.0)).unwrap();
        let mut read = |_: usize, out: &mut [i8]| {
            out.fill(1);
            out[5] = 0;
            Ok(())
        };
        let error = encoder.encode_strip(1, &mut read, &mut [0; 18]).unwrap_err().to_string();
        assert!(error.ends_with("it has no zero, and row 1, column 5 is one"), "{error}");
    }
}
