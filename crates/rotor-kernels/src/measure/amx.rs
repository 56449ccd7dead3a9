//! How fast the tiles of int8 dot products of AMX are, with their operands at hand.

use super::PEAK_BYTES;
use std::arch::asm;

/// Multiply-adds of a round: four multiplications of 16 rows by 16, 64 deep.
pub(super) const PRODUCTS: usize = 4 * 16 * 16 * 64;

/// Eight registers of 16 rows of 64 bytes: the memory operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Configuration([u8; 64]);

static CONFIGURATION: Configuration = {
    let (mut bytes, mut register) = ([0; 64], 0);
    bytes[0] = 1;
    while register < 8 {
        (bytes[16 + 2 * register], bytes[48 + register]) = (64, 16);
        register += 1;
    }
    Configuration(bytes)
};

pub(super) fn peak(x: &[i8; PEAK_BYTES], rounds: usize) -> i32 {
    let mut sums = [[0i32; 16]; 16];
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
            configuration = in(reg) &raw const CONFIGURATION,
            x = in(reg) x.as_ptr(),
            stride = in(reg) 64usize,
            sums = in(reg) sums.as_mut_ptr(),
            rounds = inout(reg) rounds.max(1) => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
    sums.as_flattened().iter().fold(0, |all, sum| all.wrapping_add(*sum))
}
