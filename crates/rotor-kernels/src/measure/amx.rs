//! How fast the tiles of int8 dot products of AMX are, with their operands at hand.

use super::PEAK_BYTES;
use crate::ternary::amx::{Configuration, DEPTH, ROWS};
use std::arch::asm;

/// Multiply-adds of a round: four multiplications of all rows of two tiles.
pub(super) const PRODUCTS: usize = 4 * ROWS * ROWS * DEPTH;

pub(super) fn peak(x: &[i8; PEAK_BYTES], rounds: usize) -> i32 {
    let configuration = Configuration::new(DEPTH, [ROWS, ROWS]);
    let mut sums = [[0i32; ROWS]; ROWS];
    // SAFETY: the CPU has AMX and the process may use it (`Isa::Amx`). Two tiles of 1,024 bytes are read of the 3,072
    // of `x`, and one of as many is written to `sums`. The registers are named, and released in the end.
    unsafe {
        asm!(
            "ldtilecfg [{configuration}]",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "tileloadd tmm4, [{x} + {stride}]",
            "tileloadd tmm5, [{x} + {stride} + 1024]",
            "tileloadd tmm6, [{x} + {stride}]",
            "tileloadd tmm7, [{x} + {stride} + 1024]",
            "2:",
            "tdpbsud tmm0, tmm4, tmm6",
            "tdpbsud tmm1, tmm4, tmm7",
            "tdpbsud tmm2, tmm5, tmm6",
            "tdpbsud tmm3, tmm5, tmm7",
            "dec {rounds}",
            "jnz 2b",
            "tilestored [{sums} + {stride}], tmm3",
            "tilerelease",
            configuration = in(reg) &raw const configuration,
            x = in(reg) x.as_ptr(),
            stride = in(reg) DEPTH,
            sums = in(reg) sums.as_mut_ptr(),
            rounds = inout(reg) rounds.max(1) => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
    sums.as_flattened().iter().fold(0, |all, sum| all.wrapping_add(*sum))
}
