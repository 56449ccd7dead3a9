//! Numbers that look random and are the same everywhere: for self-tests and trials.

/// A sequence of such numbers.
pub(crate) struct Noise(u32);

impl Noise {
    /// The sequence that begins with `seed`.
    pub(crate) fn new(seed: u32) -> Noise {
        Noise(seed)
    }

    /// 24 bits.
    pub(crate) fn next(&mut self) -> u32 {
        // The generator of Numerical Recipes; its high bits are good enough here.
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 8
    }

    pub(crate) fn trits(&mut self, len: usize) -> Vec<i8> {
        let mut trits = vec![0; len];
        self.fill_trits(&mut trits);
        trits
    }

    pub(crate) fn fill_trits(&mut self, trits: &mut [i8]) {
        trits.fill_with(|| (self.next() % 3) as i8 - 1);
    }

    /// Most of them small, as a model's are.
    pub(crate) fn activations(&mut self, len: usize) -> Vec<i8> {
        let mut factor = || i32::from(self.next() as i8);
        (0..len).map(|_| (factor() * factor() / 128) as i8).collect()
    }

    /// As behind a squared ReLU that is a gate: most of them zeros or next to it.
    pub(crate) fn gated_activations(&mut self, len: usize) -> Vec<i8> {
        let (gate, up) = (self.activations(len), self.activations(len));
        let product = |(gate, up): (i8, i8)| (i32::from(gate.max(0)).pow(2) * i32::from(up) / 128 / 128) as i8;
        gate.into_iter().zip(up).map(product).collect()
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// Between -4 and 4.
    pub(crate) fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.next() % 8192) as f32 / 1024.0 - 4.0).collect()
    }
}
