//! Dense (not ternary) storage types: embeddings, heads, norms, and linears of ordinary models.
//!
//! The layouts are ggml's; docs/formats.md gives each byte. The decoders here are the reference: one value at a time, short
//! enough to be held against the layout by eye. Whatever decodes faster is tested against them.

use half::{bf16, f16};

/// How the numbers of a dense tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenseType {
    /// IEEE binary32, little-endian.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// 32 weights: f16 scale, 16 bytes of nibbles, offset 8.
    Q4_0,
    /// 32 weights: f16 scale, f16 minimum, 16 bytes of nibbles.
    Q4_1,
    /// 32 weights: f16 scale, 32 fifth bits, 16 bytes of nibbles, offset 16.
    Q5_0,
    /// 32 weights: f16 scale, f16 minimum, 32 fifth bits, 16 bytes of nibbles.
    Q5_1,
    /// 32 weights: f16 scale, 32 signed bytes.
    Q8_0,
    /// 256 weights in 8 sub-blocks: two f16, 6-bit scales and minima, nibbles.
    Q4K,
    /// As [`DenseType::Q4K`] with a fifth bit per weight.
    Q5K,
    /// 256 weights in 16 sub-blocks: 6-bit weights, 8-bit scales, one f16.
    Q6K,
}

impl DenseType {
    /// Every dense type, in the order of their ggml ids.
    pub const ALL: [DenseType; 11] = [
        DenseType::F32,
        DenseType::F16,
        DenseType::Q4_0,
        DenseType::Q4_1,
        DenseType::Q5_0,
        DenseType::Q5_1,
        DenseType::Q8_0,
        DenseType::Q4K,
        DenseType::Q5K,
        DenseType::Q6K,
        DenseType::Bf16,
    ];

    /// Weights per block; a row's length must be a multiple of it.
    pub const fn block_len(self) -> usize {
        match self {
            DenseType::F32 | DenseType::F16 | DenseType::Bf16 => 1,
            DenseType::Q4_0 | DenseType::Q4_1 | DenseType::Q5_0 | DenseType::Q5_1 | DenseType::Q8_0 => 32,
            DenseType::Q4K | DenseType::Q5K | DenseType::Q6K => 256,
        }
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        match self {
            DenseType::F32 => 4,
            DenseType::F16 | DenseType::Bf16 => 2,
            DenseType::Q4_0 => 18,
            DenseType::Q4_1 => 20,
            DenseType::Q5_0 => 22,
            DenseType::Q5_1 => 24,
            DenseType::Q8_0 => 34,
            DenseType::Q4K => 144,
            DenseType::Q5K => 176,
            DenseType::Q6K => 210,
        }
    }

    /// Bytes of a row of `cols` weights, or `None` where the block length does not divide it.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        cols.is_multiple_of(self.block_len())
            .then(|| cols / self.block_len())
            .and_then(|n| n.checked_mul(self.block_bytes()))
    }

    /// The name used by ggml, in lower case (`f16`, `q6_k`).
    pub const fn name(self) -> &'static str {
        match self {
            DenseType::F32 => "f32",
            DenseType::F16 => "f16",
            DenseType::Bf16 => "bf16",
            DenseType::Q4_0 => "q4_0",
            DenseType::Q4_1 => "q4_1",
            DenseType::Q5_0 => "q5_0",
            DenseType::Q5_1 => "q5_1",
            DenseType::Q8_0 => "q8_0",
            DenseType::Q4K => "q4_k",
            DenseType::Q5K => "q5_k",
            DenseType::Q6K => "q6_k",
        }
    }

    /// Decodes whole blocks into `out`.
    ///
    /// # Panics
    ///
    /// If `bytes` is not a whole number of blocks, or `out` has not room for exactly their weights.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        let (blocks, rest) = (bytes.len() / self.block_bytes(), bytes.len() % self.block_bytes());
        assert_eq!(rest, 0, "{} bytes are no whole number of {} blocks", bytes.len(), self.name());
        assert_eq!(out.len(), blocks * self.block_len(), "weights in {blocks} blocks of {}", self.name());
        match self {
            DenseType::F32 => decode_blocks(bytes, out, |b: &[u8; 4], y: &mut [f32; 1]| y[0] = f32::from_le_bytes(*b)),
            DenseType::F16 => decode_blocks(bytes, out, |b: &[u8; 2], y: &mut [f32; 1]| y[0] = half_at(b, 0)),
            DenseType::Bf16 => {
                decode_blocks(bytes, out, |b: &[u8; 2], y: &mut [f32; 1]| y[0] = bf16::from_le_bytes(*b).to_f32());
            }
            DenseType::Q4_0 => decode_blocks(bytes, out, q4_0),
            DenseType::Q4_1 => decode_blocks(bytes, out, q4_1),
            DenseType::Q5_0 => decode_blocks(bytes, out, q5_0),
            DenseType::Q5_1 => decode_blocks(bytes, out, q5_1),
            DenseType::Q8_0 => decode_blocks(bytes, out, q8_0),
            DenseType::Q4K => decode_blocks(bytes, out, q4_k),
            DenseType::Q5K => decode_blocks(bytes, out, q5_k),
            DenseType::Q6K => decode_blocks(bytes, out, q6_k),
        }
    }
}

/// Applies `decode` to every block of `B` bytes and `N` weights.
fn decode_blocks<const B: usize, const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; B], &mut [f32; N]),
) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode(block, out);
    }
}

/// The binary16 at byte `at`.
fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Weight `i` of 32 whose low nibbles come first.
fn nibble(qs: &[u8], i: usize) -> u8 {
    if i < 16 { qs[i] & 15 } else { qs[i - 16] >> 4 }
}

/// The fifth bit of weight `i`, in its place.
fn fifth_bit(qh: &[u8], i: usize) -> u8 {
    (qh[i / 8] >> (i % 8) & 1) << 4
}

fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (i, y) in out.iter_mut().enumerate() {
        *y = d * (f32::from(nibble(&block[2..], i)) - 8.0);
    }
}

fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (i, y) in out.iter_mut().enumerate() {
        *y = d * f32::from(nibble(&block[4..], i)) + m;
    }
}

fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (i, y) in out.iter_mut().enumerate() {
        *y = d * (f32::from(nibble(&block[6..], i) | fifth_bit(&block[2..], i)) - 16.0);
    }
}

fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (i, y) in out.iter_mut().enumerate() {
        *y = d * f32::from(nibble(&block[8..], i) | fifth_bit(&block[4..], i)) + m;
    }
}

fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (y, &q) in out.iter_mut().zip(&block[2..]) {
        *y = d * f32::from(q.cast_signed());
    }
}

/// The 6-bit scale and minimum of sub-block `j` of 8, as Q4_K and Q5_K pack them into 12 bytes.
pub(crate) fn scale_and_minimum(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, minimum) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        // The low four bits stand together; the high two bits are the spare ones of the first eight bytes.
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    };
    (scale.into(), minimum.into())
}

/// Byte `i` of 256 weights stored as nibbles: each 32 bytes hold one sub-block low and the next one high.
fn sub_block_nibble(qs: &[u8], i: usize) -> u8 {
    let byte = qs[32 * (i / 64) + i % 32];
    if (i / 32).is_multiple_of(2) { byte & 15 } else { byte >> 4 }
}

fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(&block[4..16], j);
        for (i, y) in out.iter_mut().enumerate() {
            let q = sub_block_nibble(&block[16..], 32 * j + i);
            *y = d * scale * f32::from(q) - dmin * minimum;
        }
    }
}

fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(&block[4..16], j);
        for (i, y) in out.iter_mut().enumerate() {
            let high = block[16 + i] >> j & 1;
            let q = sub_block_nibble(&block[48..], 32 * j + i) | high << 4;
            *y = d * scale * f32::from(q) - dmin * minimum;
        }
    }
}

fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (ql, rest) = block.split_at(128);
    let (qh, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(16);
    let d = half_at(d, 0);
    for (i, y) in out.iter_mut().enumerate() {
        // Halves of 128; in each, four quarters share 64 bytes of low and 32 of high bits.
        let (half, quarter, within) = (i / 128, i % 128 / 32, i % 32);
        let byte = ql[64 * half + 32 * (quarter & 1) + within];
        let low = if quarter < 2 { byte & 15 } else { byte >> 4 };
        let high = qh[32 * half + within] >> (2 * quarter) & 3;
        let q = f32::from(low | high << 4) - 32.0;
        *y = d * f32::from(scales[i / 16].cast_signed()) * q;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(dtype: DenseType, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![f32::NAN; bytes.len() / dtype.block_bytes() * dtype.block_len()];
        dtype.decode(bytes, &mut out);
        out
    }

    /// A block whose bytes are all `fill` but for those listed.
    fn block(dtype: DenseType, fill: u8, set: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![fill; dtype.block_bytes()];
        for &(at, values) in set {
            bytes[at..at + values.len()].copy_from_slice(values);
        }
        bytes
    }

    const ONE: &[u8] = &[0x00, 0x3c];
    const HALF: &[u8] = &[0x00, 0x38];
    const TWO: &[u8] = &[0x00, 0x40];
    const ZERO: &[u8] = &[0, 0];

    #[test]
    fn plain_floats() {
        assert_eq!(decode(DenseType::F32, &[0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]), [1.0, -2.0]);
        // 7.0, the smallest subnormal, -0.5.
        assert_eq!(decode(DenseType::F16, &[0x00, 0x47, 0x01, 0x00, 0x00, 0xb8]), [7.0, 2f32.powi(-24), -0.5]);
        assert_eq!(decode(DenseType::Bf16, &[0x80, 0x3f, 0xea, 0xbe]), [1.0, -0.457_031_25]);
    }

    #[test]
    fn q4_0_keeps_the_first_half_in_low_nibbles() {
        let y = decode(DenseType::Q4_0, &block(DenseType::Q4_0, 0x88, &[(0, HALF), (2, &[0x1f]), (17, &[0x70])]));
        assert_eq!((y[0], y[16], y[15], y[31], y[1]), (3.5, -3.5, -4.0, -0.5, 0.0));
    }

    #[test]
    fn q4_1_adds_its_minimum() {
        let y = decode(DenseType::Q4_1, &block(DenseType::Q4_1, 0, &[(0, HALF), (2, TWO), (4, &[0x2f])]));
        assert_eq!((y[0], y[16], y[1]), (9.5, 3.0, 2.0));
    }

    #[test]
    fn q5_0_and_q5_1_take_the_fifth_bit_by_weight() {
        // Fifth bits of weights 0, 9 and 31.
        let high = 1u32 | 1 << 9 | 1 << 31;
        let y =
            decode(DenseType::Q5_0, &block(DenseType::Q5_0, 0, &[(0, ONE), (2, &high.to_le_bytes()), (6, &[0x25])]));
        assert_eq!((y[0], y[16], y[9], y[31], y[1]), (5.0, -14.0, 0.0, 0.0, -16.0));
        let y = decode(
            DenseType::Q5_1,
            &block(DenseType::Q5_1, 0, &[(0, ONE), (2, HALF), (4, &high.to_le_bytes()), (8, &[0x25])]),
        );
        assert_eq!((y[0], y[16], y[9], y[31], y[1]), (21.5, 2.5, 16.5, 16.5, 0.5));
    }

    #[test]
    fn q8_0_is_signed() {
        let y = decode(DenseType::Q8_0, &block(DenseType::Q8_0, 0, &[(0, TWO), (2, &[127, 0x80]), (33, &[0xff])]));
        assert_eq!((y[0], y[1], y[31], y[2]), (254.0, -256.0, -2.0, 0.0));
    }

    /// Scales and minima of all eight sub-blocks, packed by the definition.
    fn packed_scales(scales: [u8; 8], minima: [u8; 8]) -> [u8; 12] {
        let mut packed = [0; 12];
        for j in 0..4 {
            packed[j] = scales[j] | scales[j + 4] >> 4 << 6;
            packed[j + 4] = minima[j] | minima[j + 4] >> 4 << 6;
            packed[j + 8] = scales[j + 4] & 15 | (minima[j + 4] & 15) << 4;
        }
        packed
    }

    #[test]
    fn q4_k_and_q5_k_by_their_definition() {
        let (scales, minima) = ([1, 2, 33, 63, 4, 21, 42, 60], [0, 3, 17, 63, 5, 40, 22, 59]);
        let packed = packed_scales(scales, minima);
        let mut rng = fastrand::Rng::with_seed(7);
        let q: Vec<u8> = (0..256).map(|_| rng.u8(0..32)).collect();
        let mut nibbles = [0u8; 128];
        let mut high = [0u8; 32];
        for (i, &q) in q.iter().enumerate() {
            nibbles[i / 64 * 32 + i % 32] |= (q & 15) << if i / 32 % 2 == 0 { 0 } else { 4 };
            high[i % 32] |= (q >> 4) << (i / 32);
        }
        let q4 = block(DenseType::Q4K, 0, &[(0, HALF), (2, TWO), (4, &packed), (16, &nibbles)]);
        let q5 = block(DenseType::Q5K, 0, &[(0, HALF), (2, TWO), (4, &packed), (16, &high), (48, &nibbles)]);
        let (q4, q5) = (decode(DenseType::Q4K, &q4), decode(DenseType::Q5K, &q5));
        for (i, &q) in q.iter().enumerate() {
            let (scale, minimum) = (f32::from(scales[i / 32]) * 0.5, f32::from(minima[i / 32]) * 2.0);
            assert_eq!(q4[i], scale * f32::from(q & 15) - minimum, "weight {i} of q4_k");
            assert_eq!(q5[i], scale * f32::from(q) - minimum, "weight {i} of q5_k");
        }
    }

    #[test]
    fn q6_k_by_its_definition() {
        let mut rng = fastrand::Rng::with_seed(8);
        let q: Vec<u8> = (0..256).map(|_| rng.u8(0..64)).collect();
        let scales: Vec<i8> = (0..16).map(|_| rng.i8(..)).collect();
        let mut bytes = [0u8; 210];
        for (i, &q) in q.iter().enumerate() {
            let (half, quarter, within) = (i / 128, i % 128 / 32, i % 32);
            bytes[64 * half + 32 * (quarter % 2) + within] |= (q & 15) << (quarter / 2 * 4);
            bytes[128 + 32 * half + within] |= (q >> 4) << (2 * quarter);
        }
        for (byte, &scale) in bytes[192..].iter_mut().zip(&scales) {
            *byte = scale.cast_unsigned();
        }
        bytes[208..].copy_from_slice(HALF);
        for (i, y) in decode(DenseType::Q6K, &bytes).into_iter().enumerate() {
            let expected = 0.5 * f32::from(scales[i / 16]) * (f32::from(q[i]) - 32.0);
            assert_eq!(y, expected, "weight {i}");
        }
    }

    #[test]
    fn several_blocks_come_out_in_order() {
        for dtype in DenseType::ALL {
            let mut rng = fastrand::Rng::with_seed(9);
            let bytes: Vec<u8> = (0..3 * dtype.block_bytes()).map(|_| rng.u8(0x30..0x3c)).collect();
            let whole = decode(dtype, &bytes);
            let apart: Vec<f32> = bytes.chunks(dtype.block_bytes()).flat_map(|block| decode(dtype, block)).collect();
            assert_eq!(whole, apart, "{}", dtype.name());
            assert_eq!(dtype.row_bytes(whole.len()), Some(bytes.len()), "{}", dtype.name());
            assert_eq!(dtype.row_bytes(dtype.block_len() / 2 + dtype.block_len()).is_some(), dtype.block_len() == 1);
        }
    }

    #[test]
    fn a_scale_of_zero_gives_zeros() {
        let y = decode(DenseType::Q4K, &block(DenseType::Q4K, 0xff, &[(0, ZERO), (2, ZERO)]));
        assert!(y.iter().all(|&y| y == 0.0), "{y:?}");
    }

    #[test]
    #[should_panic(expected = "5 bytes are no whole number of f16 blocks")]
    fn half_a_block_is_refused() {
        DenseType::F16.decode(&[0; 5], &mut [0.0; 2]);
    }
}
