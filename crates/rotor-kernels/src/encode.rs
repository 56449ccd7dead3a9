//! Writes rows of numbers in the dense types that embeddings and heads are stored in.
//!
//! Q8_0 rounds exactly as ggml's reference does. Q6_K and Q4_K leave the choice of scales open: here a short search takes,
//! for each sub-block, the scale (and minimum) of least squared error, larger weights counting for more, as ggml's own
//! quantisers do. The layouts are in docs/formats.md.

use crate::DenseType;
use half::{bf16, f16};

/// The types [`encode_row`] writes.
pub const ENCODABLE: [DenseType; 6] =
    [DenseType::F32, DenseType::F16, DenseType::Bf16, DenseType::Q8_0, DenseType::Q6K, DenseType::Q4K];

/// Encodes a row; `None`, and `out` untouched, for a type that is not [`ENCODABLE`].
///
/// # Panics
///
/// If the type's block length does not divide `values.len()`, or `out` is not `dtype.row_bytes(values.len())` long.
pub fn encode_row(dtype: DenseType, values: &[f32], out: &mut [u8]) -> Option<()> {
    assert_eq!(dtype.row_bytes(values.len()), Some(out.len()), "bytes of {} {} values", values.len(), dtype.name());
    match dtype {
        DenseType::F32 => each(values, out, f32::to_le_bytes),
        DenseType::F16 => each(values, out, |value| f16::from_f32(value).to_le_bytes()),
        DenseType::Bf16 => each(values, out, |value| bf16::from_f32(value).to_le_bytes()),
        DenseType::Q8_0 => blocks(values, out, q8_0),
        DenseType::Q6K => blocks(values, out, q6_k),
        DenseType::Q4K => blocks(values, out, q4_k),
        DenseType::Q4_0 | DenseType::Q4_1 | DenseType::Q5_0 | DenseType::Q5_1 | DenseType::Q5K => return None,
    }
    Some(())
}

fn each<const SIZE: usize>(values: &[f32], out: &mut [u8], encode: impl Fn(f32) -> [u8; SIZE]) {
    for (&value, out) in values.iter().zip(out.as_chunks_mut().0) {
        *out = encode(value);
    }
}

fn blocks<const LEN: usize, const BYTES: usize>(
    values: &[f32],
    out: &mut [u8],
    encode: impl Fn(&[f32; LEN], &mut [u8; BYTES]),
) {
    for (values, out) in values.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        encode(values, out);
    }
}

/// 32 values: f16 scale, signed bytes. Ties round away from zero, as C's `roundf` does.
fn q8_0(values: &[f32; 32], out: &mut [u8; 34]) {
    let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    out[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    for (value, out) in values.iter().zip(&mut out[2..]) {
        *out = (value * inverse).round() as i8 as u8;
    }
}

/// 256 values in 16 sub-blocks: `ql[128], qh[64], i8 scales[16], f16 d`, value = `d * scale * (q - 32)`.
fn q6_k(values: &[f32; 256], out: &mut [u8; 210]) {
    let (sub_blocks, _) = values.as_chunks::<16>();
    let ideal: [f32; 16] = std::array::from_fn(|i| symmetric_scale(&sub_blocks[i]));
    let largest = ideal.iter().fold(0f32, |largest, &scale| if scale.abs() > largest.abs() { scale } else { largest });
    // The largest takes -128, the longer end of an i8.
    let d = f16::from_f32(largest / -128.0);
    let mut codes = [0u8; 256];
    for ((values, codes), (&ideal, stored)) in
        sub_blocks.iter().zip(codes.as_chunks_mut::<16>().0).zip(ideal.iter().zip(&mut out[192..208]))
    {
        let scale = if d.to_f32() == 0.0 { 0.0 } else { nearest(ideal / d.to_f32()).clamp(-128.0, 127.0) };
        *stored = scale as i8 as u8;
        let inverse = reciprocal(d.to_f32() * scale);
        for (code, value) in codes.iter_mut().zip(values) {
            *code = (nearest(value * inverse).clamp(-32.0, 31.0) + 32.0) as u8;
        }
    }
    for half in 0..2 {
        let codes = &codes[128 * half..];
        for m in 0..32 {
            let quarter = [codes[m], codes[m + 32], codes[m + 64], codes[m + 96]];
            out[64 * half + m] = quarter[0] & 15 | quarter[2] << 4;
            out[64 * half + m + 32] = quarter[1] & 15 | quarter[3] << 4;
            out[128 + 32 * half + m] =
                quarter[0] >> 4 | quarter[1] >> 4 << 2 | quarter[2] >> 4 << 4 | quarter[3] >> 4 << 6;
        }
    }
    out[208..].copy_from_slice(&d.to_le_bytes());
}

/// 256 values in 8 sub-blocks: `f16 d, f16 dmin, scales[12], qs[128]`, value = `d * scale * q - dmin * minimum`.
fn q4_k(values: &[f32; 256], out: &mut [u8; 144]) {
    let (sub_blocks, _) = values.as_chunks::<32>();
    let ideal: [(f32, f32); 8] = std::array::from_fn(|i| affine_scale(&sub_blocks[i]));
    let d = f16::from_f32(ideal.iter().fold(0f32, |largest, &(scale, _)| largest.max(scale)) / 63.0);
    let dmin = f16::from_f32(ideal.iter().fold(0f32, |largest, &(_, minimum)| largest.max(minimum)) / 63.0);
    out[..2].copy_from_slice(&d.to_le_bytes());
    out[2..4].copy_from_slice(&dmin.to_le_bytes());
    let (scales, codes) = out[4..].split_at_mut(12);
    scales.fill(0);
    codes.fill(0);
    for (j, (values, &(scale, minimum))) in sub_blocks.iter().zip(&ideal).enumerate() {
        let scale = nearest(scale * reciprocal(d.to_f32())).clamp(0.0, 63.0);
        let minimum = nearest(minimum * reciprocal(dmin.to_f32())).clamp(0.0, 63.0);
        put_six_bits(scales, j, scale as u8, minimum as u8);
        let (inverse, minimum) = (reciprocal(d.to_f32() * scale), dmin.to_f32() * minimum);
        for (byte, value) in codes[32 * (j / 2)..].iter_mut().zip(values) {
            let code = nearest((value + minimum) * inverse).clamp(0.0, 15.0) as u8;
            *byte |= code << (4 * (j % 2));
        }
    }
}

/// Stores the 6-bit scale and minimum of sub-block `j` where Q4_K keeps them.
fn put_six_bits(scales: &mut [u8], j: usize, scale: u8, minimum: u8) {
    if j < 4 {
        scales[j] |= scale;
        scales[j + 4] |= minimum;
    } else {
        scales[j + 4] |= scale & 15 | (minimum & 15) << 4;
        scales[j - 4] |= scale >> 4 << 6;
        scales[j] |= minimum >> 4 << 6;
    }
}

/// The scale of least squared error for codes -32 to 31, each value weighted by its square.
///
/// Starts where the largest magnitude takes about -32 and tries a few steps to either side.
fn symmetric_scale(values: &[f32; 16]) -> f32 {
    let largest = values.iter().fold(0f32, |largest, &value| if value.abs() > largest.abs() { value } else { largest });
    let (mut best_scale, mut best_merit) = (0.0, 0.0);
    if largest == 0.0 {
        return best_scale;
    }
    let squares = values.map(|value| value * value);
    for step in -9i8..=9 {
        let inverse = -(32.0 + 0.1 * f32::from(step)) / largest;
        let codes = values.map(|value| nearest(value * inverse).clamp(-32.0, 31.0));
        let along = sum::<16>(|i| squares[i] * values[i] * codes[i]);
        let square = sum::<16>(|i| squares[i] * codes[i] * codes[i]);
        // The error is what is left of the values after their projection on the codes, along^2 / square.
        if square > 0.0 && along * along > best_merit * square {
            (best_scale, best_merit) = (along / square, along * along / square);
        }
    }
    best_scale
}

/// Scale and (negated) minimum of least squared error for codes 0 to 15, larger values weighted more.
fn affine_scale(values: &[f32; 32]) -> (f32, f32) {
    let smallest = values.iter().fold(0f32, |smallest, &value| smallest.min(value));
    let largest = values.iter().fold(f32::MIN, |largest, &value| largest.max(value));
    if largest <= smallest {
        return (0.0, -smallest);
    }
    let mean_square = values.iter().map(|value| value * value).sum::<f32>() / 32.0;
    let weights = values.map(|value| mean_square.sqrt() + value.abs());
    let (mut best, mut best_error) = ((0.0, -smallest), f32::INFINITY);
    for step in 0u8..=20 {
        let inverse = (14.0 + 0.1 * f32::from(step)) / (largest - smallest);
        let codes = values.map(|value| nearest((value - smallest) * inverse).clamp(0.0, 15.0));
        let Some((scale, minimum)) = weighted_line(&weights, values, &codes) else {
            continue;
        };
        let residual = |i: usize| scale * codes[i] + minimum - values[i];
        let error = sum::<32>(|i| weights[i] * residual(i) * residual(i));
        if error < best_error {
            (best, best_error) = ((scale, -minimum), error);
        }
    }
    best
}

/// The line `scale * code + minimum` through the values of least weighted squared error, with `minimum <= 0` (the format
/// holds no other). `None` where all codes are 0.
fn weighted_line(weights: &[f32; 32], values: &[f32; 32], codes: &[f32; 32]) -> Option<(f32, f32)> {
    let w = sum::<32>(|i| weights[i]);
    let x = sum::<32>(|i| weights[i] * values[i]);
    let l = sum::<32>(|i| weights[i] * codes[i]);
    let ll = sum::<32>(|i| weights[i] * codes[i] * codes[i]);
    let xl = sum::<32>(|i| weights[i] * values[i] * codes[i]);
    let determinant = w * ll - l * l;
    let minimum = (ll * x - l * xl) / determinant;
    if determinant > 0.0 && minimum <= 0.0 {
        return Some(((w * xl - x * l) / determinant, minimum));
    }
    (ll > 0.0).then(|| (xl / ll, 0.0))
}

/// The sum of `N` terms in eight lanes: one running total would leave the vector units idle.
fn sum<const N: usize>(term: impl Fn(usize) -> f32) -> f32 {
    let terms: [f32; N] = std::array::from_fn(term);
    let mut lanes = [0f32; 8];
    for terms in terms.as_chunks::<8>().0 {
        for (total, term) in lanes.iter_mut().zip(terms) {
            *total += term;
        }
    }
    lanes.iter().sum()
}

fn reciprocal(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// Rounds to the nearest integer, for magnitudes below 2^22: adding 1.5 * 2^23 leaves no fraction bits. A vector
/// instruction everywhere, where `round` is a function call.
fn nearest(x: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    x + NO_FRACTION - NO_FRACTION
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(seed: u64, n: usize) -> Vec<f32> {
        let mut rng = fastrand::Rng::with_seed(seed);
        std::iter::repeat_with(|| (0..12).map(|_| rng.f32()).sum::<f32>() - 6.0).take(n).collect()
    }

    fn encode(dtype: DenseType, values: &[f32]) -> Vec<u8> {
        let mut out = vec![0xee; dtype.row_bytes(values.len()).unwrap()];
        encode_row(dtype, values, &mut out).unwrap();
        out
    }

    fn half_at(block: &[u8], at: usize) -> f32 {
        f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
    }

    /// The formulas of docs/formats.md, element by element.
    fn decode(dtype: DenseType, bytes: &[u8], i: usize) -> f32 {
        let block = &bytes[i / dtype.block_len() * dtype.block_bytes()..];
        let i = i % dtype.block_len();
        match dtype {
            DenseType::Q8_0 => half_at(block, 0) * f32::from(block[2 + i] as i8),
            DenseType::Q6K => {
                let (h, t, m) = (i / 128, (i % 128) / 32, i % 32);
                let low = block[64 * h + 32 * (t & 1) + m] >> (4 * (t / 2)) & 15;
                let high = block[128 + 32 * h + m] >> (2 * t) & 3;
                let code = f32::from(low | high << 4) - 32.0;
                half_at(block, 208) * f32::from(block[192 + i / 16] as i8) * code
            }
            DenseType::Q4K => {
                let (j, sc) = (i / 32, &block[4..16]);
                let (scale, minimum) = if j < 4 {
                    (sc[j] & 63, sc[j + 4] & 63)
                } else {
                    ((sc[j + 4] & 15) | sc[j - 4] >> 6 << 4, sc[j + 4] >> 4 | sc[j] >> 6 << 4)
                };
                let code = block[16 + 32 * (j / 2) + i % 32] >> (4 * (j % 2)) & 15;
                half_at(block, 0) * f32::from(scale) * f32::from(code) - half_at(block, 2) * f32::from(minimum)
            }
            other => panic!("no decoder for {other:?} here"),
        }
    }

    /// Root mean square of the error over that of the values.
    fn relative_error(dtype: DenseType, values: &[f32]) -> f32 {
        let bytes = encode(dtype, values);
        let error: f32 = values.iter().enumerate().map(|(i, value)| (value - decode(dtype, &bytes, i)).powi(2)).sum();
        (error / values.iter().map(|value| value * value).sum::<f32>()).sqrt()
    }

    #[test]
    fn floats_are_stored_as_they_are() {
        assert_eq!(encode(DenseType::F32, &[1.5, -2.0]), [0, 0, 0xc0, 0x3f, 0, 0, 0, 0xc0]);
        assert_eq!(encode(DenseType::F16, &[7.0, -0.5]), [0x00, 0x47, 0x00, 0xb8]);
        assert_eq!(encode(DenseType::Bf16, &[1.0, -2.0]), [0x80, 0x3f, 0x00, 0xc0]);
    }

    #[test]
    fn q8_0_rounds_as_ggml_does() {
        let mut values = [0.0; 32];
        values[..5].copy_from_slice(&[127.0, -127.0, 0.5, -2.5, 1.49]);
        let bytes = encode(DenseType::Q8_0, &values);
        assert_eq!(bytes[..7], [0x00, 0x3c, 127, 129, 1, 253, 1]);
        assert_eq!(bytes[7..], [0; 27]);
    }

    #[test]
    fn errors_are_near_what_the_bits_allow() {
        let values = normal(3, 256 * 40);
        for (dtype, bound) in [(DenseType::Q8_0, 0.0062), (DenseType::Q6K, 0.0175), (DenseType::Q4K, 0.075)] {
            let error = relative_error(dtype, &values);
            assert!(error < bound, "{dtype:?}: {error}");
            // Bits a weight carries limit how small the error can be: nonsense on the other side would show too.
            assert!(error > bound / 2.0, "{dtype:?}: {error}");
        }
    }

    #[test]
    fn a_shifted_distribution_uses_the_minimum() {
        let values: Vec<f32> = normal(4, 512).iter().map(|value| value * 0.1 - 1.0).collect();
        assert!(relative_error(DenseType::Q4K, &values) < 0.01);
    }

    #[test]
    fn zeros_and_constants_survive() {
        for dtype in [DenseType::Q8_0, DenseType::Q6K, DenseType::Q4K] {
            let zeros = encode(dtype, &[0.0; 256]);
            let constant = encode(dtype, &[0.75; 256]);
            let negative = encode(dtype, &[-0.75; 256]);
            for i in 0..256 {
                assert_eq!(decode(dtype, &zeros, i), 0.0, "{dtype:?}");
                assert!((decode(dtype, &constant, i) - 0.75).abs() < 0.002, "{dtype:?}");
                assert!((decode(dtype, &negative, i) + 0.75).abs() < 0.002, "{dtype:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_encoded_says_so() {
        for dtype in DenseType::ALL {
            let mut out = vec![0; dtype.block_bytes()];
            let written = encode_row(dtype, &vec![1.0; dtype.block_len()], &mut out).is_some();
            assert_eq!(written, ENCODABLE.contains(&dtype), "{dtype:?}");
        }
    }
}
