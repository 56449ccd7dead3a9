//! Float master weights, quantised when read by the absmean rule of BitNet b1.58 (arXiv 2402.17764).
//!
//! `scale = max(mean |W|, 1e-5)` over the whole matrix; `trit = clamp(round_half_even(W * (1 / scale)), -1, 1)`, in f32 as
//! transformers computes it. The mean is taken in f64: a plain f32 sum over 17.7 million weights is visibly off.

use super::row::INVALID;
use crate::error::FormatError;
use half::{bf16, f16};
use rotor_kernels::DenseType;

/// The smallest scale: a matrix of zeros still has one.
const SMALLEST_SCALE: f64 = 1e-5;

/// The scale of the master weights in `bytes`, stored as F32, F16 or BF16.
///
/// # Errors
///
/// [`FormatError::Unsupported`] for another type, [`FormatError::Invalid`] where the mean is not finite (a weight is NaN
/// or infinite) or there is no weight at all; each names `name`.
pub fn absmean_scale(name: &str, dtype: DenseType, bytes: &[u8]) -> Result<f32, FormatError> {
    let (mut sum, mut count) = (0f64, 0usize);
    let mut add = |magnitude: f32| {
        sum += f64::from(magnitude);
        count += 1;
    };
    match dtype {
        DenseType::F32 => bytes.as_chunks().0.iter().for_each(|&w| add(f32::from_le_bytes(w).abs())),
        DenseType::F16 => bytes.as_chunks().0.iter().for_each(|&w| add(f16::from_le_bytes(w).to_f32().abs())),
        DenseType::Bf16 => bytes.as_chunks().0.iter().for_each(|&w| add(bf16::from_le_bytes(w).to_f32().abs())),
        other => return Err(not_a_master(name, other)),
    }
    let scale = (sum / count as f64).max(SMALLEST_SCALE) as f32;
    if !sum.is_finite() || count == 0 || !scale.is_finite() {
        let found = format!("a mean magnitude of {} over {count} weights", sum / count as f64);
        return Err(FormatError::invalid(format!("tensor {name:?}"), "finite master weights", found));
    }
    Ok(scale)
}

/// Decodes a row of `out.len()` columns; `Ok(None)` where `bytes` ends before it. NaN comes out as [`INVALID`].
pub(super) fn decode_row(
    name: &str,
    dtype: DenseType,
    scale: f32,
    bytes: &[u8],
    row: usize,
    out: &mut [i8],
) -> Result<Option<()>, FormatError> {
    let inverse = 1.0 / scale;
    match dtype {
        DenseType::F32 => Ok(decode(bytes, row, out, |w| quantise(f32::from_le_bytes(w) * inverse))),
        DenseType::F16 => Ok(decode(bytes, row, out, |w| quantise(f16::from_le_bytes(w).to_f32() * inverse))),
        DenseType::Bf16 => Ok(decode(bytes, row, out, |w| quantise(bf16::from_le_bytes(w).to_f32() * inverse))),
        other => Err(not_a_master(name, other)),
    }
}

fn decode<const SIZE: usize>(bytes: &[u8], row: usize, out: &mut [i8], trit: impl Fn([u8; SIZE]) -> i8) -> Option<()> {
    let row_bytes = out.len().checked_mul(SIZE)?;
    let begin = row.checked_mul(row_bytes)?;
    let (weights, _) = bytes.get(begin..begin.checked_add(row_bytes)?)?.as_chunks::<SIZE>();
    for (out, &weight) in out.iter_mut().zip(weights) {
        *out = trit(weight);
    }
    Some(())
}

/// `clamp(round_half_even(x), -1, 1)`: half-even takes 0.5 to 0, and what is beyond is 1.
fn quantise(x: f32) -> i8 {
    if x.is_nan() { INVALID } else { i8::from(x > 0.5) - i8::from(x < -0.5) }
}

fn not_a_master(name: &str, dtype: DenseType) -> FormatError {
    FormatError::unsupported(
        format!("tensor {name:?}"),
        format!("master weights of type {} (f32, f16 and bf16 are read)", dtype.name()),
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::{read_all, tensor};
    use super::*;
    use crate::forms::{Scales, TernaryForm};

    fn f32_bytes(weights: &[f32]) -> Vec<u8> {
        weights.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    #[test]
    fn worked_example() {
        let bytes = f32_bytes(&[0.9, -0.1, 0.3, -0.5]);
        let scale = absmean_scale("w", DenseType::F32, &bytes).unwrap();
        assert_eq!(scale, 0.45);
        let mut master = tensor(TernaryForm::Master(DenseType::F32), 2, 2, &bytes);
        master.scales = Scales::Tensor(scale);
        assert_eq!(read_all(&master).unwrap(), [1, 0, 1, -1]);
    }

    #[test]
    fn half_precision_masters_give_the_trits_of_their_values() {
        let weights = [1.0, -0.25, 0.5, -2.0, 0.0, 0.125];
        let f16_bytes: Vec<u8> = weights.iter().flat_map(|&w| f16::from_f32(w).to_le_bytes()).collect();
        let bf16_bytes: Vec<u8> = weights.iter().flat_map(|&w| bf16::from_f32(w).to_le_bytes()).collect();
        for (dtype, bytes) in [(DenseType::F16, &f16_bytes), (DenseType::Bf16, &bf16_bytes)] {
            let scale = absmean_scale("w", dtype, bytes).unwrap();
            assert_eq!(scale, 3.875 / 6.0);
            let mut master = tensor(TernaryForm::Master(dtype), 2, 3, bytes);
            master.scales = Scales::Tensor(scale);
            assert_eq!(read_all(&master).unwrap(), [1, 0, 1, -1, 0, 0], "{dtype:?}");
        }
    }

    #[test]
    fn ties_go_to_even() {
        for (x, trit) in [(0.5, 0), (-0.5, 0), (0.500_000_1, 1), (-0.500_000_1, -1), (1.5, 1), (-9.0, -1), (0.0, 0)] {
            assert_eq!(quantise(x), trit, "{x}");
            assert_eq!(f32::from(quantise(x)), x.round_ties_even().clamp(-1.0, 1.0), "{x}");
        }
    }

    #[test]
    fn a_matrix_of_zeros_has_the_smallest_scale() {
        let bytes = f32_bytes(&[0.0; 4]);
        assert_eq!(absmean_scale("w", DenseType::F32, &bytes).unwrap(), 1e-5);
    }

    #[test]
    fn weights_that_are_no_numbers_are_refused() {
        for bad in [f32::NAN, f32::INFINITY] {
            let error = absmean_scale("w", DenseType::F32, &f32_bytes(&[1.0, bad])).unwrap_err();
            assert!(error.to_string().starts_with("tensor \"w\": expected finite master weights"), "{error}");
        }
        assert!(absmean_scale("w", DenseType::F32, &[]).is_err());
        let bytes = f32_bytes(&[1.0, f32::NAN]);
        let error = read_all(&tensor(TernaryForm::Master(DenseType::F32), 1, 2, &bytes)).unwrap_err();
        assert!(error.to_string().ends_with("1 invalid, the first at row 0, column 1"), "{error}");
        let error = absmean_scale("w", DenseType::Q8_0, &[0; 34]).unwrap_err();
        assert!(error.to_string().contains("q8_0"), "{error}");
    }
}
