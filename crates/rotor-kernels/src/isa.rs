//! Which instruction sets this CPU has, and which one is used.

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
use std::fmt;

/// A kernel family: an instruction set with every extension its kernels rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust: the reference and the fallback on every CPU.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C (Haswell, Zen and later).
    Avx2,
    /// AVX2 with 256-bit integer dot products (Alder Lake and later).
    AvxVnni,
    /// AVX-512 F, BW, DQ and VL (Skylake-X and later).
    Avx512,
    /// AVX-512 with integer dot products (Cascade Lake, Zen 4 and later).
    Avx512Vnni,
    /// AVX-512 VNNI with byte permutations (VBMI; Ice Lake, Zen 4 and later).
    Avx512Vbmi,
    /// AVX-512 VBMI with tiles of int8 dot products (AMX; Sapphire Rapids and later), on Linux.
    Amx,
    /// aarch64 with NEON, that is any.
    Neon,
    /// NEON with dot products of int8 (Cortex-A75, Neoverse N1, Apple A13 and later).
    NeonDotprod,
}

impl Isa {
    /// Every ISA this build knows, the preferred ones last.
    pub const ALL: [Isa; 9] = [
        Isa::Scalar,
        Isa::Avx2,
        Isa::AvxVnni,
        Isa::Avx512,
        Isa::Avx512Vnni,
        Isa::Avx512Vbmi,
        Isa::Amx,
        Isa::Neon,
        Isa::NeonDotprod,
    ];

    /// The name accepted by `ROTOR_ISA`.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avx-vnni",
            Isa::Avx512 => "avx512",
            Isa::Avx512Vnni => "avx512-vnni",
            Isa::Avx512Vbmi => "avx512-vbmi",
            Isa::Amx => "amx",
            Isa::Neon => "neon",
            Isa::NeonDotprod => "neon-dotprod",
        }
    }

    /// Whether this CPU can execute it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Isa::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Isa::Avx512.is_available() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vbmi => Isa::Avx512Vnni.is_available() && is_x86_feature_detected!("avx512vbmi"),
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Isa::Amx => Isa::Avx512Vbmi.is_available() && crate::cpu::has_amx(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod => Isa::Neon.is_available() && is_aarch64_feature_detected!("dotprod"),
            // Those of other architectures.
            _ => false,
        }
    }

    /// The ISAs this CPU can execute, the preferred ones last.
    pub fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// The best ISA of this CPU.
    pub fn best() -> Isa {
        Isa::available().last().unwrap_or(Isa::Scalar)
    }

    /// The ISA asked for by the environment variable `ROTOR_ISA`, else the best one.
    ///
    /// # Errors
    /// Where the variable names an unknown ISA, or one this CPU cannot execute.
    pub fn from_env() -> Result<Isa, IsaError> {
        match std::env::var("ROTOR_ISA") {
            Err(_) => Ok(Isa::best()),
            Ok(name) if name.is_empty() => Ok(Isa::best()),
            Ok(name) => Isa::from_name(&name),
        }
    }

    /// The ISA called `name`.
    ///
    /// # Errors
    /// Where no ISA is called so, or this CPU cannot execute it.
    pub fn from_name(name: &str) -> Result<Isa, IsaError> {
        let isa = Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| IsaError::Unknown(name.into()))?;
        if isa.is_available() { Ok(isa) } else { Err(IsaError::Unavailable(isa)) }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why an ISA asked for by name cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IsaError {
    /// No such name.
    Unknown(String),
    /// The CPU lacks it.
    Unavailable(Isa),
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |isas: &mut dyn Iterator<Item = Isa>| isas.map(Isa::name).collect::<Vec<_>>().join(", ");
        match self {
            IsaError::Unknown(name) => {
                write!(f, "ROTOR_ISA: expected one of {}, found {name:?}", list(&mut Isa::ALL.into_iter()))
            }
            IsaError::Unavailable(isa) => {
                write!(f, "ROTOR_ISA: this CPU cannot execute {isa}; it has {}", list(&mut Isa::available()))
            }
        }
    }
}

impl std::error::Error for IsaError {}
