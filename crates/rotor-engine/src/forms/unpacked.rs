//! Float matrices that hold nothing but -s, 0 and +s, with one s to a group of columns, a row or the tensor: what a quantised
//! model looks like when it is published unpacked. They are ternary as they stand; a quantiser by the mean magnitude would
//! shrink them by their share of zeros.

use super::row::INVALID;
use super::scales::Scales;
use half::{bf16, f16};
use rotor_kernels::DenseType;

/// The fewest columns that can have a scale of their own: what the kernels can cut at.
const UNIT: usize = rotor_kernels::ternary::GROUP_ALIGN;

/// The scales of a matrix in F32, F16 or BF16 that is ternary as it stands; `None` for any other, for zeros alone, and for bytes
/// that are not the matrix's.
pub(crate) fn scales(dtype: DenseType, (rows, cols): (usize, usize), bytes: &[u8]) -> Option<Scales> {
    let unit = if cols.is_multiple_of(UNIT) { UNIT } else { cols };
    if cols == 0 || dtype.row_bytes(cols)?.checked_mul(rows)? != bytes.len() {
        return None;
    }
    let units = match dtype {
        DenseType::F32 => units(bytes, unit, |w| u32::from_le_bytes(w) & 0x7fff_ffff, f32::from_bits),
        DenseType::F16 => units(bytes, unit, |w| u16::from_le_bytes(w) & 0x7fff, |bits| f16::from_bits(bits).to_f32()),
        DenseType::Bf16 => {
            units(bytes, unit, |w| u16::from_le_bytes(w) & 0x7fff, |bits| bf16::from_bits(bits).to_f32())
        }
        _ => None,
    }?;
    let is_zero = units.iter().all(Option::is_none);
    (!is_zero).then(|| Scales::collapse(&units, cols / unit, 0.0))
}

/// The one magnitude of each unit's weights that are not zero; `None` where a unit has several or one that is not finite. Most
/// matrices that are not ternary end in their first unit.
fn units<const SIZE: usize, B: Copy + Default + PartialEq>(
    bytes: &[u8],
    unit: usize,
    magnitude: impl Fn([u8; SIZE]) -> B,
    value: impl Fn(B) -> f32,
) -> Option<Vec<Option<f32>>> {
    let zero = B::default();
    let of_unit = |weights: &[[u8; SIZE]]| {
        let mut own = weights.iter().map(|weight| magnitude(*weight)).filter(|bits| *bits != zero);
        let Some(first) = own.next() else { return Some(None) };
        (own.all(|bits| bits == first) && value(first).is_finite()).then(|| Some(value(first)))
    };
    bytes.as_chunks::<SIZE>().0.chunks_exact(unit).map(of_unit).collect()
}

/// Decodes row `row`, the signs of its weights; `None` where `bytes` ends before it or the type is another.
pub(super) fn decode_row(dtype: DenseType, bytes: &[u8], row: usize, out: &mut [i8]) -> Option<()> {
    let width = dtype.row_bytes(out.len())?;
    let begin = row.checked_mul(width)?;
    let stored = bytes.get(begin..begin.checked_add(width)?)?;
    let sign = |weight: f32| if weight.is_nan() { INVALID } else { i8::from(weight > 0.0) - i8::from(weight < 0.0) };
    match dtype {
        DenseType::F32 => fill(stored, out, |weight| sign(f32::from_le_bytes(weight))),
        DenseType::F16 => fill(stored, out, |weight| sign(f16::from_le_bytes(weight).to_f32())),
        DenseType::Bf16 => fill(stored, out, |weight| sign(bf16::from_le_bytes(weight).to_f32())),
        _ => return None,
    }
    Some(())
}

fn fill<const SIZE: usize>(stored: &[u8], out: &mut [i8], trit: impl Fn([u8; SIZE]) -> i8) {
    out.iter_mut().zip(stored.as_chunks::<SIZE>().0).for_each(|(out, weight)| *out = trit(*weight));
}

#[cfg(test)]
mod tests {
    use super::super::tests::{read_all, tensor};
    use super::*;
    use crate::forms::TernaryForm;

    fn bytes(weights: &[f32]) -> Vec<u8> {
        weights.iter().flat_map(|weight| weight.to_le_bytes()).collect()
    }

    fn found(cols: usize, weights: &[f32]) -> Option<Scales> {
        scales(DenseType::F32, (weights.len() / cols, cols), &bytes(weights))
    }

    #[test]
    fn worked_example() {
        let weights = [0.5, -0.5, 0.0, 0.5, -0.0, 0.25, 0.0, -0.25];
        assert_eq!(found(4, &weights), Some(Scales::Rows(vec![0.5, 0.25])));
        let bytes = bytes(&weights);
        let found = read_all(&tensor(TernaryForm::Unpacked(DenseType::F32), 2, 4, &bytes)).unwrap();
        assert_eq!(found, [1, -1, 0, 1, 0, 1, 0, -1]);
    }

    #[test]
    fn groups_are_as_wide_as_they_can_be() {
        let mut weights = vec![0.5f32; 256];
        weights[128..].fill(-0.25);
        assert_eq!(found(256, &weights), Some(Scales::Groups { groups: 2, values: vec![0.5, 0.25] }));
        weights[64..128].fill(0.0);
        assert_eq!(found(256, &weights), Some(Scales::Groups { groups: 2, values: vec![0.5, 0.25] }));
        weights[..64].fill(0.25);
        assert_eq!(found(256, &weights), Some(Scales::Tensor(0.25)));
    }

    #[test]
    fn what_is_not_ternary_stays_as_it_is() {
        let mut weights = vec![0.5f32; 64];
        weights[40] = 0.25;
        assert_eq!(found(64, &weights), None);
        weights[40] = f32::INFINITY;
        assert_eq!(found(64, &weights), None);
        assert_eq!(found(64, &[0.0; 64]), None, "zeros have no scale to tell");
        assert_eq!(scales(DenseType::F32, (1, 64), &[0; 8]), None, "too few bytes");
    }

    #[test]
    fn half_precision_is_read_too() {
        let weights = [0.5f32, -0.5, 0.0, 0.5];
        let half: Vec<u8> = weights.iter().flat_map(|w| f16::from_f32(*w).to_le_bytes()).collect();
        let brain: Vec<u8> = weights.iter().flat_map(|w| bf16::from_f32(*w).to_le_bytes()).collect();
        for (dtype, bytes) in [(DenseType::F16, half), (DenseType::Bf16, brain)] {
            assert_eq!(scales(dtype, (1, 4), &bytes), Some(Scales::Tensor(0.5)), "{}", dtype.name());
            assert_eq!(read_all(&tensor(TernaryForm::Unpacked(dtype), 1, 4, &bytes)).unwrap(), [1, -1, 0, 1]);
        }
    }
}
