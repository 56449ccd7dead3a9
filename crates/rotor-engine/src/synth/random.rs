//! Random numbers that depend on nothing but the seed, the tensor and the row, so that any thread can make any row and
//! every form of a model holds the same numbers.

/// Share of zeros among the trits of models, of 2^16.
const ZEROS: u32 = 26_214;

/// Fills `out` with trits, each 0 with probability `zeros` (to 1/65536) and otherwise evenly -1 and +1. The same seed and
/// share give the same trits for ever.
///
/// # Panics
///
/// If `zeros` is not between 0 and 1.
pub fn random_trits(seed: u64, zeros: f64, out: &mut [i8]) {
    assert!((0.0..=1.0).contains(&zeros), "a share of zeros between 0 and 1, not {zeros}");
    Stream { state: seed }.trits_with((zeros * 65_536.0) as u32, out);
}

/// SplitMix64 (Steele, Lea and Flood 2014): one multiplication chain per 64 bits, any start is a good one.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    state: u64,
}

impl Stream {
    /// The stream of one row of the tensor that GGUF calls `tensor`.
    pub(super) fn new(seed: u64, tensor: &str, row: usize) -> Self {
        let mut stream = Self { state: seed };
        for &byte in tensor.as_bytes() {
            stream.state ^= stream.next().wrapping_add(u64::from(byte));
        }
        stream.state ^= stream.next().wrapping_add(row as u64);
        Self { state: stream.next() }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Four numbers below 2^16.
    fn next_four(&mut self) -> [u16; 4] {
        let bits = self.next();
        [bits as u16, (bits >> 16) as u16, (bits >> 32) as u16, (bits >> 48) as u16]
    }

    /// Trits, 40 % of them 0 and the rest evenly -1 and +1.
    pub(super) fn trits(&mut self, out: &mut [i8]) {
        self.trits_with(ZEROS, out);
    }

    fn trits_with(&mut self, zeros: u32, out: &mut [i8]) {
        for out in out.chunks_mut(4) {
            for (out, bits) in out.iter_mut().zip(self.next_four()) {
                *out = if u32::from(bits) < zeros { 0 } else { (bits & 1) as i8 * 2 - 1 };
            }
        }
    }

    /// Numbers of a standard normal distribution, looked up by quantile.
    pub(super) fn normal(&mut self, quantiles: &[f32; 1 << 16], out: &mut [f32]) {
        for out in out.chunks_mut(4) {
            for (out, bits) in out.iter_mut().zip(self.next_four()) {
                *out = quantiles[usize::from(bits)];
            }
        }
    }

    /// Numbers from 0 on, below 1.
    pub(super) fn uniform(&mut self, out: &mut [f32]) {
        for out in out {
            *out = (self.next() >> 40) as f32 / (1 << 24) as f32;
        }
    }

    /// Multiples of 1/128 from 0.75 to 1.25, so that bf16 and f16 hold them exactly.
    pub(super) fn near_one(&mut self, out: &mut [f32]) {
        for out in out {
            *out = (96 + self.next() % 65) as f32 / 128.0;
        }
    }
}

/// The quantiles of a normal distribution of deviation `sigma` at (i + 1/2) / 2^16, rounded to what bf16 and f16 both hold.
pub(super) fn normal_quantiles(sigma: f32) -> Box<[f32; 1 << 16]> {
    const STEP: f64 = 1e-4;
    let mut quantiles = Box::new([0f32; 1 << 16]);
    let density = |x: f64| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
    let (mut x, mut cumulative) = (0f64, 0.5f64);
    // The upper half by walking the integral of the density; the lower half is its mirror image.
    for i in 1 << 15..1 << 16 {
        let target = (i as f64 + 0.5) / f64::from(1 << 16);
        while cumulative < target {
            cumulative += STEP * density(x + STEP / 2.0);
            x += STEP;
        }
        let value = half::bf16::from_f32(x as f32 * sigma).to_f32();
        // Below this a bf16 has bits that no f16 has.
        let value = if value < f32::from(half::f16::MIN_POSITIVE) { 0.0 } else { value };
        quantiles[i] = value;
        quantiles[(1 << 16) - 1 - i] = -value;
    }
    quantiles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forty_per_cent_are_zeros_and_the_signs_balance() {
        let mut trits = vec![9; 1_000_003];
        Stream::new(7, "blk.0.attn_q.weight", 3).trits(&mut trits);
        let count = |wanted| trits.iter().filter(|&&trit| trit == wanted).count() as f64 / trits.len() as f64;
        assert!((count(0) - 0.4).abs() < 0.003, "{}", count(0));
        assert!((count(1) - 0.3).abs() < 0.003 && (count(-1) - 0.3).abs() < 0.003);
    }

    #[test]
    fn the_share_of_zeros_can_be_chosen() {
        for (zeros, bounds) in [(0.0, 0.0..=0.0), (0.25, 0.247..=0.253), (0.4, 0.397..=0.403), (1.0, 1.0..=1.0)] {
            let mut trits = vec![9; 1_000_001];
            random_trits(3, zeros, &mut trits);
            let found = trits.iter().filter(|&&trit| trit == 0).count() as f64 / trits.len() as f64;
            assert!(bounds.contains(&found) && trits.iter().all(|trit| (-1..=1).contains(trit)), "{zeros}: {found}");
        }
    }

    #[test]
    fn rows_tensors_and_seeds_have_streams_of_their_own() {
        let first = |seed, tensor, row| Stream::new(seed, tensor, row).next();
        let streams = [first(1, "a", 0), first(2, "a", 0), first(1, "b", 0), first(1, "a", 1), first(1, "aa", 0)];
        for (i, stream) in streams.iter().enumerate() {
            assert!(!streams[..i].contains(stream));
        }
    }

    #[test]
    fn a_seed_gives_the_same_numbers_for_ever() {
        let mut trits = [0; 12];
        Stream::new(42, "blk.0.attn_q.weight", 0).trits(&mut trits);
        assert_eq!(trits, [1, 0, 0, 0, 0, 0, 0, 1, 1, 0, -1, 1]);
    }

    #[test]
    fn quantiles_are_those_of_the_normal_distribution() {
        let quantiles = normal_quantiles(1.0);
        let at = |share: f64| quantiles[(share * 65_536.0) as usize];
        for (share, expected) in [(0.5, 0.0), (0.841_345, 1.0), (0.977_25, 2.0), (0.158_655, -1.0), (0.998_65, 3.0)] {
            assert!((at(share) - expected).abs() < 0.01, "{share}: {}", at(share));
        }
        let square = quantiles.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / 65_536.0;
        assert!((square - 1.0).abs() < 0.002, "{square}");
        let exact = |x: f32| half::f16::from_f32(x).to_f32() == x && half::bf16::from_f32(x).to_f32() == x;
        assert!(normal_quantiles(0.06).iter().all(|&x| exact(x)));
    }
}
