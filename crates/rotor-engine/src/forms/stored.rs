//! Scales that are stored among the weights: in blocks, or in front of rows.

use super::blocks::Block;
use super::form::TernaryForm;
use super::scales::Scales;
use super::{iq_bn, table, unpacked};
use crate::error::FormatError;
use half::f16;

/// The scales inside a `[rows, cols]` tensor's bytes, by the rules of [`Scales::collapse`].
///
/// # Errors
///
/// [`FormatError::Invalid`] for a scale that is not finite on weights that are not all zero, [`FormatError::Truncated`]
/// where the bytes end too early, [`FormatError::Unsupported`] for a form that has its scales elsewhere; each names `name`.
pub fn inner_scales(
    form: TernaryForm,
    name: &str,
    (rows, cols): (usize, usize),
    bytes: &[u8],
) -> Result<Scales, FormatError> {
    let stored = Stored { form, name, rows, cols, bytes: stored_bytes(form, name, (rows, cols), bytes)? };
    match (table::block_of(form), form) {
        (Some(block), _) => stored.of_blocks(block),
        (None, TernaryForm::Iq1Bn) => stored.of_rows(iq_bn::iq1_scale, iq_bn::decode_iq1),
        (None, TernaryForm::Iq2Bn) => stored.of_rows(iq_bn::iq2_scale, iq_bn::decode_iq2),
        (None, TernaryForm::Unpacked(dtype)) => unpacked::scales(dtype, (rows, cols), stored.bytes).ok_or_else(|| {
            FormatError::unsupported(format!("tensor {name:?}"), "its weights are not -s, 0 and +s alone")
        }),
        (None, _) => Err(FormatError::unsupported(format!("tensor {name:?}"), "its scales are not among its weights")),
    }
}

fn stored_bytes<'a>(
    form: TernaryForm,
    name: &str,
    (rows, cols): (usize, usize),
    bytes: &'a [u8],
) -> Result<&'a [u8], FormatError> {
    let Some(len) = form.packed_len(rows, cols) else {
        let expected = format!("rows of a multiple of {}", form.info().cols_multiple);
        return Err(FormatError::invalid(format!("shape of tensor {name:?} (type {})", form.name()), expected, cols));
    };
    bytes.get(..len).ok_or_else(|| FormatError::Truncated {
        what: format!("tensor {name:?}"),
        needed: len as u64,
        found: bytes.len() as u64,
    })
}

/// A tensor's whole bytes.
struct Stored<'a> {
    form: TernaryForm,
    name: &'a str,
    rows: usize,
    cols: usize,
    bytes: &'a [u8],
}

impl Stored<'_> {
    fn of_blocks(&self, block: &Block) -> Result<Scales, FormatError> {
        let blocks = || self.bytes.chunks_exact(block.bytes);
        let per_row = self.cols / block.weights;
        if let Some(scale) = the_same(blocks().map(|bytes| block.scale(bytes))) {
            return Ok(Scales::Tensor(scale));
        }
        let mut trits = vec![0; block.weights];
        let own = blocks().enumerate().map(|(index, bytes)| {
            (block.decode)(bytes, &mut trits);
            self.own(block.scale(bytes), &trits, (index / per_row, index % per_row * block.weights))
        });
        self.collapse(own.collect::<Result<_, _>>()?, per_row, blocks().next().map(|bytes| block.scale(bytes)))
    }

    fn of_rows(
        &self,
        scale: fn(&[u8], usize, usize) -> Option<f32>,
        decode: fn(&[u8], usize, &mut [i8]) -> Option<()>,
    ) -> Result<Scales, FormatError> {
        let scale = |row| scale(self.bytes, row, self.cols).unwrap_or(f32::NAN);
        if let Some(scale) = the_same((0..self.rows).map(scale)) {
            return Ok(Scales::Tensor(scale));
        }
        let mut trits = vec![0; self.cols];
        let own = (0..self.rows).map(|row| {
            // A row that cannot be decoded has been ruled out by the length of the bytes.
            let _ = decode(self.bytes, row, &mut trits);
            self.own(scale(row), &trits, (row, 0))
        });
        self.collapse(own.collect::<Result<_, _>>()?, 1, Some(scale(0)))
    }

    /// The scale of some weights if they have one of their own, that is if they are not all zero.
    fn own(&self, scale: f32, trits: &[i8], (row, col): (usize, usize)) -> Result<Option<f32>, FormatError> {
        if trits.iter().all(|&trit| trit == 0) {
            return Ok(None);
        }
        if scale.is_finite() {
            return Ok(Some(scale));
        }
        let what = format!("scale of tensor {:?} ({}) at row {row}, column {col}", self.name, self.form.name());
        Err(FormatError::invalid(what, "a finite number", scale))
    }

    fn collapse(&self, own: Vec<Option<f32>>, per_row: usize, first: Option<f32>) -> Result<Scales, FormatError> {
        let otherwise = first.filter(|scale| scale.is_finite()).unwrap_or(0.0);
        Ok(Scales::collapse(&own, per_row, otherwise))
    }
}

/// The finite number that all are, without a look at the weights: what nearly every tensor has.
fn the_same(mut scales: impl Iterator<Item = f32>) -> Option<f32> {
    let first = scales.next().filter(|scale| scale.is_finite())?;
    scales.all(|scale| scale == first).then_some(first)
}

/// The key under which a GGUF holds a tensor's exact scales where its blocks hold them as f16: an f32, or an array of f32
/// with one number for each row, or for each group of each row.
pub fn exact_scales_key(tensor: &str) -> String {
    format!("rotor.scale.{tensor}")
}

/// `exact` in place of what the blocks hold, where each of its numbers rounds to that.
pub(crate) fn exact_scales(stored: Scales, (rows, cols): (usize, usize), exact: Vec<f32>) -> Scales {
    let Some(exact) = Scales::from_values(rows, cols, exact) else { return stored };
    let (groups, per_group) = (exact.groups(), exact.groups().checked_div(stored.groups()).unwrap_or(0));
    let is_finer = per_group * stored.groups() == groups && exact.values().len() >= stored.values().len();
    let rounds = |row: usize, group: usize| {
        let held = stored.get(row, group / per_group);
        // A group without a scale of its own was read as 0.
        held == 0.0 || f16::from_f32(exact.get(row, group)).to_f32() == held
    };
    let agrees = is_finer && (0..rows).all(|row| (0..groups).all(|group| rounds(row, group)));
    if agrees { exact } else { stored }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forms::Encoder;

    /// Two rows of two Q2_0 blocks with these scales, the second block of each row zero.
    fn q2_0(scales: [f32; 4]) -> Vec<u8> {
        let scales = Scales::Groups { groups: 2, values: scales.to_vec() };
        let encoder = Encoder::new("t", TernaryForm::Q2_0, 2, 128, scales).unwrap();
        let mut bytes = vec![0; encoder.strips() * encoder.strip_bytes()];
        for (strip, out) in bytes.chunks_exact_mut(encoder.strip_bytes()).enumerate() {
            let mut read = |_: usize, trits: &mut [i8]| {
                trits.fill(0);
                trits[3] = -1;
                Ok(())
            };
            encoder.encode_strip(strip, &mut read, out).unwrap();
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Scales, FormatError> {
        inner_scales(TernaryForm::Q2_0, "t", (2, 128), bytes)
    }

    #[test]
    fn blocks_of_zeros_have_no_scale_of_their_own() {
        assert_eq!(read(&q2_0([0.5, 0.5, 0.5, 0.5])).unwrap(), Scales::Tensor(0.5));
        assert_eq!(read(&q2_0([0.5, 0.0, 0.5, 7.0])).unwrap(), Scales::Tensor(0.5));
        assert_eq!(read(&q2_0([0.5, 0.0, 0.25, 7.0])).unwrap(), Scales::Rows(vec![0.5, 0.25]));
    }

    #[test]
    fn a_scale_that_is_no_number_matters_where_a_weight_has_it() {
        let mut bytes = q2_0([0.5, 0.5, 0.5, 0.5]);
        bytes[18..20].copy_from_slice(&f16::NAN.to_le_bytes());
        assert_eq!(read(&bytes).unwrap(), Scales::Tensor(0.5));
        bytes[36..38].copy_from_slice(&f16::INFINITY.to_le_bytes());
        let error = read(&bytes).unwrap_err().to_string();
        assert_eq!(error, "scale of tensor \"t\" (q2_0) at row 1, column 0: expected a finite number, found inf");
        assert!(matches!(read(&bytes[..71]), Err(FormatError::Truncated { needed: 72, found: 71, .. })));
    }

    #[test]
    fn exact_scales_come_back_when_they_round_to_what_is_stored() {
        let stored = || Scales::Tensor(f16::from_f32(0.1).to_f32());
        assert_eq!(exact_scales(stored(), (2, 128), vec![0.1]), Scales::Tensor(0.1));
        assert_eq!(exact_scales(stored(), (2, 128), vec![0.1, 0.100_001]), Scales::Rows(vec![0.1, 0.100_001]));
        for wrong in [vec![0.2], vec![0.1, 0.2], vec![0.1; 3], vec![]] {
            assert_eq!(exact_scales(stored(), (2, 128), wrong), stored());
        }
        let rows = Scales::Rows(vec![0.5, 0.0]);
        assert_eq!(exact_scales(rows.clone(), (2, 128), vec![0.5]), rows);
        assert_eq!(exact_scales(rows, (2, 128), vec![0.500_01, 3.0]), Scales::Rows(vec![0.500_01, 3.0]));
    }
}
