//! Trits between their small forms: bytes of -1, 0 and +1, 2-bit codes, and bit planes.
//!
//! A plane has 8 weights a byte, the first in the lowest bit: `bit0` marks +1, `bit1` marks -1. Codes have 4 weights a byte,
//! the first in the lowest bits: 10 is +1, 01 is -1, 00 is 0. What is invalid (code 11, a bit in both planes, another
//! number) comes out as 0, and the return value says whether there was any.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
pub(crate) mod scalar;

use crate::dispatch::Kernels;

/// The kernels of one ISA. Lengths fit each other, as [`Kernels`]' methods check.
pub(crate) struct PlaneKernels {
    pub(crate) split_codes: unsafe fn(codes: &[u8], bit0: &mut [u8], bit1: &mut [u8]) -> bool,
    pub(crate) join_planes: unsafe fn(bit0: &[u8], bit1: &[u8], codes: &mut [u8]) -> bool,
    pub(crate) pack_trits: unsafe fn(trits: &[i8], bit0: &mut [u8], bit1: &mut [u8]) -> bool,
    pub(crate) unpack_trits: unsafe fn(bit0: &[u8], bit1: &[u8], trits: &mut [i8]) -> bool,
    pub(crate) count_trits: unsafe fn(trits: &[i8], wanted: i8) -> u64,
    pub(crate) unstride: unsafe fn(layout: Strided, packed: &[u8], bit0: &mut [u8], bit1: &mut [u8]) -> bool,
}

/// Where blocks of offset codes (trit + 1, two bits) keep their weights: weight `r` in byte `r % block` of the block, and
/// in its bits 7:6, 5:4, 3:2 or 1:0 for `r / block` = 0, 1, 2, 3, or in the reverse order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strided {
    /// Blocks of 32 bytes, the high bits first: I2_S as x86 builds write it.
    High32,
    /// Blocks of 16 bytes, the high bits first: I2_S as NEON builds write it.
    High16,
    /// Blocks of 32 bytes, the low bits first: TQ2_0.
    Low32,
}

impl Kernels {
    /// Codes to planes; whether any code was 11.
    ///
    /// # Panics
    /// If the planes are not half as long as the codes.
    #[must_use]
    pub fn split_codes(&self, codes: &[u8], bit0: &mut [u8], bit1: &mut [u8]) -> bool {
        assert!(
            codes.len() == 2 * bit0.len() && codes.len() == 2 * bit1.len(),
            "two bytes of codes per byte of planes"
        );
        // SAFETY: the CPU has the ISA (`for_isa`); lengths checked. The same holds for every call in this block.
        unsafe { (self.planes.split_codes)(codes, bit0, bit1) }
    }

    /// Planes to codes; whether any bit was in both.
    ///
    /// # Panics
    /// If the planes are not half as long as the codes.
    #[must_use]
    pub fn join_planes(&self, bit0: &[u8], bit1: &[u8], codes: &mut [u8]) -> bool {
        assert!(
            codes.len() == 2 * bit0.len() && codes.len() == 2 * bit1.len(),
            "two bytes of codes per byte of planes"
        );
        // SAFETY: as in `split_codes`.
        unsafe { (self.planes.join_planes)(bit0, bit1, codes) }
    }

    /// Trits to planes; whether any number was no trit.
    ///
    /// # Panics
    /// If there are not 8 trits for each byte of a plane.
    #[must_use]
    pub fn pack_trits(&self, trits: &[i8], bit0: &mut [u8], bit1: &mut [u8]) -> bool {
        assert!(trits.len() == 8 * bit0.len() && trits.len() == 8 * bit1.len(), "8 trits per byte of planes");
        // SAFETY: as in `split_codes`.
        unsafe { (self.planes.pack_trits)(trits, bit0, bit1) }
    }

    /// Planes to trits; whether any bit was in both.
    ///
    /// # Panics
    /// If there are not 8 trits for each byte of a plane.
    #[must_use]
    pub fn unpack_trits(&self, bit0: &[u8], bit1: &[u8], trits: &mut [i8]) -> bool {
        assert!(trits.len() == 8 * bit0.len() && trits.len() == 8 * bit1.len(), "8 trits per byte of planes");
        // SAFETY: as in `split_codes`.
        unsafe { (self.planes.unpack_trits)(bit0, bit1, trits) }
    }

    /// How many of the numbers are `wanted`.
    #[must_use]
    pub fn count_trits(&self, trits: &[i8], wanted: i8) -> u64 {
        // SAFETY: as in `split_codes`; any length will do.
        unsafe { (self.planes.count_trits)(trits, wanted) }
    }

    /// Blocks of strided offset codes to planes; whether any code was 3.
    ///
    /// # Panics
    /// If the codes are not whole blocks of 32 bytes, or the planes not half as long.
    #[must_use]
    pub fn unstride(&self, layout: Strided, packed: &[u8], bit0: &mut [u8], bit1: &mut [u8]) -> bool {
        assert!(packed.len().is_multiple_of(32), "{} bytes are not whole blocks", packed.len());
        assert!(
            packed.len() == 2 * bit0.len() && packed.len() == 2 * bit1.len(),
            "two bytes of codes per byte of planes"
        );
        // SAFETY: as in `split_codes`.
        unsafe { (self.planes.unstride)(layout, packed, bit0, bit1) }
    }
}
