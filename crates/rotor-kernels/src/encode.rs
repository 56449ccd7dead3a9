//! Writes rows of numbers in the dense types that embeddings and heads are stored in.
//!
//! Q8_0 rounds exactly as ggml's reference does. Q6_K and Q4_K leave the choice of scales open: here a short search takes,
//! for each sub-block, the scale (and minimum) of least squared error, larger weights counting for more, as ggml's own
//! quantisers do. The layouts are in docs/formats.md.
//!
//! The search is what takes the time: some twenty trials of every weight. A super-block's sub-blocks are searched side by
//! side, one to a lane, so that every sum runs down the lanes and no instruction works across them. The code is the same
//! on every ISA, compiled for each, and without fused multiply-adds: a row has the same bytes wherever it was encoded.

use crate::DenseType;
use crate::dispatch::Kernels;
use half::{bf16, f16};
use std::ops::RangeInclusive;

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
    if !ENCODABLE.contains(&dtype) {
        return None;
    }
    Kernels::best().encode_row(dtype, Scales::Searched, values, out);
    Some(())
}

/// How the scales of Q6_K and Q4_K are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scales {
    /// Those of least squared error among some twenty.
    Searched,
    /// Those with which the largest value takes the last code: an error about a twentieth larger (1.05 and 1.06 times on
    /// normally distributed weights), in a fraction of the time.
    Covering,
}

impl Scales {
    /// Which of the trials `searched` to make, of which `covering` is the scale with which the largest value takes the last code.
    #[inline(always)]
    fn trials(self, searched: RangeInclusive<i8>, covering: i8) -> RangeInclusive<i8> {
        match self {
            Scales::Searched => searched,
            Scales::Covering => covering..=covering,
        }
    }
}

/// [`encode_row`] for any CPU.
pub(crate) fn plain(dtype: DenseType, scales: Scales, values: &[f32], out: &mut [u8]) {
    encode(dtype, scales, values, out);
}

/// [`encode_row`] with vectors of eight lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(crate) fn avx2(dtype: DenseType, scales: Scales, values: &[f32], out: &mut [u8]) {
    encode(dtype, scales, values, out);
}

/// [`encode_row`] with vectors of sixteen lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(crate) fn avx512(dtype: DenseType, scales: Scales, values: &[f32], out: &mut [u8]) {
    encode(dtype, scales, values, out);
}

/// Inlined into the functions above, and so compiled for their ISAs.
#[inline(always)]
fn encode(dtype: DenseType, scales: Scales, values: &[f32], out: &mut [u8]) {
    match dtype {
        DenseType::F32 => each(values, out, f32::to_le_bytes),
        DenseType::F16 => each(values, out, |value| f16::from_f32(value).to_le_bytes()),
        DenseType::Bf16 => each(values, out, |value| bf16::from_f32(value).to_le_bytes()),
        DenseType::Q8_0 => {
            for (values, out) in values.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
                q8_0(values, out);
            }
        }
        DenseType::Q6K => {
            for (values, out) in values.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
                q6_k(values, scales, out);
            }
        }
        DenseType::Q4K => {
            for (values, out) in values.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
                q4_k(values, scales, out);
            }
        }
        DenseType::Q4_0 | DenseType::Q4_1 | DenseType::Q5_0 | DenseType::Q5_1 | DenseType::Q5K => {
            unreachable!("{} is not written", dtype.name())
        }
    }
}

#[inline(always)]
fn each<const SIZE: usize>(values: &[f32], out: &mut [u8], encode: impl Fn(f32) -> [u8; SIZE]) {
    for (&value, out) in values.iter().zip(out.as_chunks_mut().0) {
        *out = encode(value);
    }
}

/// 32 values: f16 scale, signed bytes. Ties round away from zero, as C's `roundf` does.
#[inline(always)]
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
#[inline(always)]
fn q6_k(values: &[f32; 256], scales: Scales, out: &mut [u8; 210]) {
    let (sub_blocks, _) = values.as_chunks::<16>();
    let ideal = symmetric_scales(&side_by_side(values), scales);
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
#[inline(always)]
fn q4_k(values: &[f32; 256], how: Scales, out: &mut [u8; 144]) {
    let (sub_blocks, _) = values.as_chunks::<32>();
    let (ideal_scales, ideal_minima) = affine_scales(&side_by_side(values), how);
    let d = f16::from_f32(ideal_scales.iter().fold(0f32, |largest, scale| largest.max(*scale)) / 63.0);
    let dmin = f16::from_f32(ideal_minima.iter().fold(0f32, |largest, minimum| largest.max(*minimum)) / 63.0);
    out[..2].copy_from_slice(&d.to_le_bytes());
    out[2..4].copy_from_slice(&dmin.to_le_bytes());
    let (scales, codes) = out[4..].split_at_mut(12);
    scales.fill(0);
    codes.fill(0);
    for (j, (values, (scale, minimum))) in sub_blocks.iter().zip(ideal_scales.into_iter().zip(ideal_minima)).enumerate()
    {
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
#[inline(always)]
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

/// `LANES` sub-blocks of `LEN` values: `[value][sub-block]`.
#[inline(always)]
fn side_by_side<const LANES: usize, const LEN: usize>(values: &[f32; 256]) -> [[f32; LANES]; LEN] {
    let mut lanes = [[0.0; LANES]; LEN];
    for (lane, values) in values.as_chunks::<LEN>().0.iter().enumerate() {
        for (lanes, value) in lanes.iter_mut().zip(values) {
            lanes[lane] = *value;
        }
    }
    lanes
}

/// Per sub-block, the scale of least squared error for codes -32 to 31, each value weighted by its square.
///
/// Starts where the largest magnitude takes about -32 and tries a few steps to either side.
#[inline(always)]
fn symmetric_scales(values: &[[f32; 16]; 16], scales: Scales) -> [f32; 16] {
    let mut largest = [0f32; 16];
    for values in values {
        for (largest, value) in largest.iter_mut().zip(values) {
            *largest = if value.abs() > largest.abs() { *value } else { *largest };
        }
    }
    let (mut best_scale, mut best_merit) = ([0f32; 16], [0f32; 16]);
    for step in scales.trials(-9..=9, 0) {
        let mut inverse = [0f32; 16];
        for (inverse, largest) in inverse.iter_mut().zip(&largest) {
            *inverse = if *largest == 0.0 { 0.0 } else { -(32.0 + 0.1 * f32::from(step)) / largest };
        }
        let (mut along, mut square) = ([0f32; 16], [0f32; 16]);
        for values in values {
            for lane in 0..16 {
                let value = values[lane];
                let code = nearest(value * inverse[lane]).clamp(-32.0, 31.0);
                let weighted = value * value * code;
                along[lane] += weighted * value;
                square[lane] += weighted * code;
            }
        }
        for lane in 0..16 {
            // The error is what is left of the values after their projection on the codes, along^2 / square.
            let (along, square) = (along[lane], square[lane]);
            let better = square > 0.0 && along * along > best_merit[lane] * square;
            best_scale[lane] = if better { along / square } else { best_scale[lane] };
            best_merit[lane] = if better { along * along / square } else { best_merit[lane] };
        }
    }
    best_scale
}

/// Per sub-block, scale and (negated) minimum of least squared error for codes 0 to 15, larger values weighted more.
#[inline(always)]
fn affine_scales(values: &[[f32; 8]; 32], how: Scales) -> ([f32; 8], [f32; 8]) {
    let (mut smallest, mut largest, mut squares) = ([0f32; 8], [f32::MIN; 8], [0f32; 8]);
    for values in values {
        for lane in 0..8 {
            smallest[lane] = smallest[lane].min(values[lane]);
            largest[lane] = largest[lane].max(values[lane]);
            squares[lane] += values[lane] * values[lane];
        }
    }
    // Heights above the smallest value, and weights.
    let (mut heights, mut weights) = ([[0f32; 8]; 32], [[0f32; 8]; 32]);
    let mut sums = LineSums::default();
    for ((values, heights), weights) in values.iter().zip(&mut heights).zip(&mut weights) {
        for lane in 0..8 {
            heights[lane] = values[lane] - smallest[lane];
            weights[lane] = (squares[lane] / 32.0).sqrt() + values[lane].abs();
            sums.w[lane] += weights[lane];
            sums.x[lane] += weights[lane] * heights[lane];
            sums.xx[lane] += weights[lane] * heights[lane] * heights[lane];
        }
    }
    let (mut scales, mut minima, mut errors) = ([0f32; 8], smallest.map(|smallest| -smallest), [f32::INFINITY; 8]);
    for step in how.trials(0..=20, 10) {
        let mut inverse = [0f32; 8];
        for lane in 0..8 {
            let range = largest[lane] - smallest[lane];
            inverse[lane] = if range > 0.0 { (14.0 + 0.1 * f32::from(step)) / range } else { 0.0 };
        }
        (sums.l, sums.ll, sums.xl) = ([0.0; 8], [0.0; 8], [0.0; 8]);
        for (heights, weights) in heights.iter().zip(&weights) {
            for lane in 0..8 {
                let code = nearest(heights[lane] * inverse[lane]).min(15.0);
                let weighted = weights[lane] * code;
                sums.l[lane] += weighted;
                sums.ll[lane] += weighted * code;
                sums.xl[lane] += weighted * heights[lane];
            }
        }
        for lane in 0..8 {
            let (scale, minimum, error) = sums.line(lane, smallest[lane]);
            let better = error < errors[lane];
            scales[lane] = if better { scale } else { scales[lane] };
            minima[lane] = if better { minimum } else { minima[lane] };
            errors[lane] = if better { error } else { errors[lane] };
        }
    }
    (scales, minima)
}

/// Weighted sums of heights `x` above the smallest value and of their codes `l`.
#[derive(Default)]
struct LineSums {
    w: [f32; 8],
    x: [f32; 8],
    xx: [f32; 8],
    l: [f32; 8],
    ll: [f32; 8],
    xl: [f32; 8],
}

impl LineSums {
    /// The line `scale * code - minimum` through the values of least squared error with `minimum >= 0` (the format holds no
    /// other), and that error: infinite where all codes are 0.
    #[inline(always)]
    fn line(&self, lane: usize, smallest: f32) -> (f32, f32, f32) {
        let (w, x, xx) = (self.w[lane], self.x[lane], self.xx[lane]);
        let (l, ll, xl) = (self.l[lane], self.ll[lane], self.xl[lane]);
        let determinant = w * ll - l * l;
        let free = (ll * x - l * xl) / determinant;
        // Heights begin at the smallest value: a line without a minimum begins as far below them.
        let fits = determinant > 0.0 && free + smallest <= 0.0;
        let (scale, base) =
            if fits { ((w * xl - x * l) / determinant, free) } else { ((xl + smallest * l) / ll, -smallest) };
        let error = scale * (scale * ll + 2.0 * (base * l - xl)) + base * (base * w - 2.0 * x) + xx;
        let error = if ll > 0.0 { error } else { f32::INFINITY };
        (scale, -(base + smallest), error)
    }
}

#[inline(always)]
fn reciprocal(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// Rounds to the nearest integer, for magnitudes below 2^22: adding 1.5 * 2^23 leaves no fraction bits. A vector
/// instruction everywhere, where `round` is a function call.
#[inline(always)]
fn nearest(x: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    x + NO_FRACTION - NO_FRACTION
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

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
        error_of(dtype, values, &encode(dtype, values))
    }

    fn error_of(dtype: DenseType, values: &[f32], bytes: &[u8]) -> f32 {
        let error: f32 = values.iter().enumerate().map(|(i, value)| (value - decode(dtype, bytes, i)).powi(2)).sum();
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
    fn covering_scales_are_little_worse_than_searched_ones() {
        let values = normal(3, 256 * 40);
        for dtype in [DenseType::Q6K, DenseType::Q4K] {
            let mut covering = vec![0; dtype.row_bytes(values.len()).unwrap()];
            Kernels::best().encode_row(dtype, Scales::Covering, &values, &mut covering);
            let ratio = error_of(dtype, &values, &covering) / relative_error(dtype, &values);
            assert!((0.99..1.1).contains(&ratio), "{dtype:?}: {ratio}");
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
    fn a_row_has_the_same_bytes_on_every_isa() {
        let mut values = normal(5, 256 * 12);
        values[..256].fill(0.0);
        values[256..300].fill(-0.25);
        values.iter_mut().skip(512).step_by(97).for_each(|value| *value *= 40.0);
        values[768..1024].iter_mut().for_each(|value| *value = value.abs() * 1e-9);
        for (dtype, scales) in
            ENCODABLE.into_iter().flat_map(|dtype| [Scales::Searched, Scales::Covering].map(|how| (dtype, how)))
        {
            let run = |kernels: &Kernels| {
                let mut out = vec![0xee; dtype.row_bytes(values.len()).unwrap()];
                kernels.encode_row(dtype, scales, &values, &mut out);
                out
            };
            let expected = run(Kernels::for_isa(Isa::Scalar).unwrap());
            for kernels in Isa::available().filter_map(Kernels::for_isa) {
                assert!(run(kernels) == expected, "{} on {}", dtype.name(), kernels.isa());
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
