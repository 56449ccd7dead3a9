//! From trits to the bytes of a form, without ever holding a tensor unpacked.
//!
//! A *strip* is the smallest piece of a tensor's bytes that some of its rows fill alone. Strips are independent, so
//! threads can fill different ones, and a writer needs no more memory than the strips in flight.

use super::{I2sLayout, Scales, TernaryForm, hf_packed, i2s};
use crate::error::FormatError;

/// Writes a stored row's trits to the slice, which is as long as a row.
pub type ReadRow<'a> = dyn FnMut(usize, &mut [i8]) -> Result<(), FormatError> + 'a;

/// The encoder of one tensor.
#[derive(Clone, Debug)]
pub struct Encoder {
    form: Target,
    rows: usize,
    cols: usize,
    scale: f32,
}

/// The forms that can be written.
#[derive(Clone, Copy, Debug)]
enum Target {
    I2S(I2sLayout),
    HfPacked,
}

impl Encoder {
    /// An encoder of the `[rows, cols]` tensor `name` to `form`.
    ///
    /// # Errors
    ///
    /// [`FormatError::Unsupported`], naming the tensor and the reason, where the form cannot hold the shape or the scales, or
    /// is not one that can be written.
    pub fn new(name: &str, form: TernaryForm, rows: usize, cols: usize, scales: Scales) -> Result<Self, FormatError> {
        let refuse =
            |why: String| FormatError::unsupported(format!("tensor {name:?} [{rows}, {cols}] as {}", form.name()), why);
        let target = match form {
            TernaryForm::I2S(layout) => Target::I2S(layout),
            TernaryForm::HfPacked => Target::HfPacked,
            TernaryForm::Master(_) => return Err(refuse("master weights are only read".into())),
        };
        let Scales::Tensor(scale) = scales else {
            return Err(refuse("it holds one scale for the whole tensor, and this tensor has several".into()));
        };
        if rows == 0 || cols == 0 || form.packed_len(rows, cols).is_none() {
            return Err(refuse("it holds whole blocks of 128 weights".into()));
        }
        Ok(Self { form: target, rows, cols, scale })
    }

    /// Rows that share a strip.
    fn strip_rows(&self) -> usize {
        match self.form {
            Target::I2S(_) => i2s::strip_rows(self.cols),
            Target::HfPacked => 4,
        }
    }

    /// Number of strips.
    pub fn strips(&self) -> usize {
        self.rows.div_ceil(self.strip_rows())
    }

    /// Bytes of a strip.
    pub fn strip_bytes(&self) -> usize {
        self.strip_rows() * self.cols / 4
    }

    /// Encodes strip `strip` into `out`, asking `read` for the stored rows it holds.
    ///
    /// # Errors
    ///
    /// Those of `read`.
    ///
    /// # Panics
    ///
    /// If `strip` is not below [`strips`](Self::strips) or `out` is not [`strip_bytes`](Self::strip_bytes) long.
    pub fn encode_strip(&self, strip: usize, read: &mut ReadRow<'_>, out: &mut [u8]) -> Result<(), FormatError> {
        assert!(strip < self.strips(), "strip {strip} of {}", self.strips());
        assert_eq!(out.len(), self.strip_bytes(), "length of a strip");
        match self.form {
            Target::I2S(layout) => {
                let rows = self.strip_rows();
                let mut trits = vec![0; rows * self.cols];
                for (row, trits) in trits.chunks_exact_mut(self.cols).enumerate() {
                    read(strip * rows + row, trits)?;
                }
                i2s::encode(layout, &trits, out);
            }
            Target::HfPacked => {
                let mut trits = vec![0; self.cols];
                out.fill(0);
                let stored = (strip..self.rows).step_by(hf_packed::packed_rows(self.rows));
                for (quarter, row) in stored.enumerate() {
                    read(row, &mut trits)?;
                    hf_packed::encode_quarter(quarter, &trits, out);
                }
            }
        }
        Ok(())
    }

    /// What follows the last strip inside the tensor's bytes: for I2_S the scale and its filler, else nothing.
    pub fn tail(&self) -> Vec<u8> {
        match self.form {
            Target::I2S(_) => {
                let mut tail = self.scale.to_le_bytes().to_vec();
                tail.resize(i2s::TAIL, 0);
                tail
            }
            Target::HfPacked => Vec::new(),
        }
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
        let rows = Scales::Rows(vec![1.0, 2.0]);
        for (form, rows, cols, scales, why) in [
            (i2s, 2, 100, Scales::Tensor(1.0), "whole blocks of 128"),
            (i2s, 0, 128, Scales::Tensor(1.0), "whole blocks of 128"),
            (TernaryForm::HfPacked, 2, 128, rows, "one scale"),
            (TernaryForm::Master(DenseType::F32), 2, 128, Scales::Tensor(1.0), "only read"),
        ] {
            let error = Encoder::new("blk.3.ffn_down.weight", form, rows, cols, scales).unwrap_err().to_string();
            assert!(error.contains("blk.3.ffn_down.weight") && error.contains(why), "{error}");
        }
    }
}
