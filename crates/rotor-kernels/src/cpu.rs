//! What the processor says of itself.

/// The processor's name, where it has one that can be asked for.
pub fn cpu_name() -> Option<String> {
    #[cfg(target_arch = "x86_64")]
    let name = brand_string();
    #[cfg(not(target_arch = "x86_64"))]
    let name = linux_name();
    name.filter(|name| !name.is_empty())
}

/// The extensions that kernels of this architecture ask about, and whether this processor has them.
pub fn cpu_features() -> Vec<(&'static str, bool)> {
    macro_rules! ask {
        ($detected:ident: $($feature:tt)*) => { vec![$(($feature, std::arch::$detected!($feature))),*] };
    }
    #[cfg(target_arch = "x86_64")]
    let mut features = ask!(is_x86_feature_detected: "ssse3" "sse4.1" "avx" "f16c" "fma" "bmi2" "avx2" "avxvnni" "avxvnniint8"
        "avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl" "avx512vnni" "avx512vbmi" "avx512vbmi2" "avx512bitalg"
        "avx512vpopcntdq" "avx512bf16" "avx512fp16");
    // Rust does not ask about these yet.
    #[cfg(target_arch = "x86_64")]
    features.extend([("amx-tile", leaf_7() & AMX_TILE != 0), ("amx-int8", leaf_7() & AMX_INT8 != 0)]);
    #[cfg(target_arch = "aarch64")]
    let features = ask!(is_aarch64_feature_detected: "neon" "fp16" "dotprod" "i8mm" "bf16" "sve" "sve2");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let features = Vec::new();
    features
}

/// The bit of tile registers in [`leaf_7`].
#[cfg(target_arch = "x86_64")]
const AMX_TILE: u32 = 1 << 24;
/// The bit of their int8 dot products.
#[cfg(target_arch = "x86_64")]
const AMX_INT8: u32 = 1 << 25;

/// `edx` of CPUID leaf 7, or zero where there is no such leaf.
#[cfg(target_arch = "x86_64")]
fn leaf_7() -> u32 {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    if __cpuid(0).eax < 7 { 0 } else { __cpuid_count(7, 0).edx }
}

/// Whether the CPU has tiles of int8 dot products, and the system lets this process use them.
///
/// Tile registers are 8 KB that a process has to ask for, once, for all its threads, before it may touch them.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) fn has_amx() -> bool {
    /// `arch/x86/include/uapi/asm/prctl.h`.
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    /// The number of the tile registers among the states that a context switch saves.
    const TILE_DATA: libc::c_long = 18;
    static ANSWER: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        if leaf_7() & AMX_TILE == 0 || leaf_7() & AMX_INT8 == 0 {
            return false;
        }
        // SAFETY: the call takes two integers and changes no memory. A kernel that knows no tiles, or does not want them
        // used, refuses.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
    });
    *ANSWER
}

/// The 48 bytes of CPUID leaves 0x80000002 to 0x80000004, without what pads them.
#[cfg(target_arch = "x86_64")]
fn brand_string() -> Option<String> {
    use std::arch::x86_64::__cpuid;
    const LEAVES: std::ops::RangeInclusive<u32> = 0x8000_0002..=0x8000_0004;
    if __cpuid(0x8000_0000).eax < *LEAVES.end() {
        return None;
    }
    let registers = LEAVES.map(__cpuid).flat_map(|leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]);
    let bytes: Vec<u8> = registers.flat_map(u32::to_le_bytes).take_while(|byte| *byte != 0).collect();
    let text = String::from_utf8_lossy(&bytes);
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Linux names x86-64 processors only; elsewhere it may know the board.
#[cfg(not(target_arch = "x86_64"))]
fn linux_name() -> Option<String> {
    let board = std::fs::read_to_string("/sys/firmware/devicetree/base/model").ok()?;
    Some(board.trim_matches(['\0', '\n', ' ']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_agree_with_the_isas() {
        let has = |name: &str| cpu_features().iter().any(|(feature, has)| *feature == name && *has);
        assert!(!crate::Isa::Amx.is_available() || (has("amx-tile") && has("amx-int8")));
        assert!(!crate::Isa::Avx2.is_available() || (has("avx2") && has("fma") && has("f16c")));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn an_x86_processor_has_a_printable_name() {
        let name = cpu_name().unwrap();
        assert!(!name.is_empty() && name.len() <= 48 && !name.contains('\0'), "{name:?}");
    }
}
