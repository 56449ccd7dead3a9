//! The dispatch point: which kernels an ISA has, and the checked way to call them.
//!
//! x86-64:
//!
//! | operation | scalar | avx2 | avx-vnni | avx512 | avx512-vnni | avx512-vbmi | amx |
//! |---|---|---|---|---|---|---|---|
//! | ternary, few tokens | by eye | planes: 16-entry tables | codes: dot products | planes: 16-entry tables | codes: dot products | trios and codes: dot products | as avx512-vbmi |
//! | ternary, many tokens | as few | planes, unpacked; from 16 on 81-entry tables of 16 tokens | codes, unpacked | planes: 81-entry tables of 32 tokens | codes, unpacked, or those tables | trios and codes, unpacked, or those tables, or 27-entry ones, which take exact activations in two digits | trios and codes, unpacked, in tiles |
//! | float operations | plain | 8 lanes | as avx2 | 16 lanes | as avx512 | as avx512 | as avx512 |
//! | attention | plain | 8 lanes, 4 heads | as avx2 | 16 lanes, 4 heads | as avx512 | as avx512 | as avx512 |
//! | quantised rows | half a block | 32 codes | as avx2 | as avx2 | 64 codes: dot products | as avx512-vnni | as avx512-vnni |
//! | bounds of products | plain | 8 lanes | as avx2 | as avx2 | 16 lanes | as avx512-vnni | as avx512-vnni |
//! | codes, planes and trits | 2 to 8 bytes | 32 bytes | as avx2 | as avx2 | as avx2 | as avx2 | as avx2 |
//!
//! aarch64:
//!
//! | operation | neon | neon-dotprod |
//! |---|---|---|
//! | ternary, few tokens | planes: 16-entry tables | codes: dot products |
//! | ternary, many tokens | planes: 81-entry tables of 16 tokens | codes, unpacked |
//! | float operations | 4 lanes | as neon |
//! | attention | 8 numbers, 4 heads | as neon |
//! | quantised rows | 16 codes | as neon |
//! | bounds of products | as scalar | as scalar |
//! | codes, planes and trits | as scalar | as scalar |
//!
//! Adding an ISA is one file in each family and one row in [`Kernels::for_isa`].

use crate::attention::{self, AttentionKernels, BLOCK, Next, Numbers, Softmax};
use crate::dense::DenseType;
use crate::encode::Scales;
use crate::epilogue::{Finish, RowScale};
use crate::float::{self, FloatKernels};
use crate::isa::{Isa, IsaError};
use crate::planes::{self, PlaneKernels};
use crate::quantized::bounds::{KNOWN, RowErrors, TokenFactors};
use crate::quantized::{self, Panel, QuantizedKernels};
use crate::ternary::kernel::TernaryFamily;
use crate::ternary::{self, DigitSums, MAX_DIGITS, TernaryKernel};

/// The kernels of one ISA that this CPU has.
pub struct Kernels {
    pub(crate) isa: Isa,
    pub(crate) ternary: &'static TernaryFamily,
    pub(crate) float: FloatKernels,
    pub(crate) attention: &'static AttentionKernels,
    pub(crate) quantized: &'static QuantizedKernels,
    pub(crate) planes: PlaneKernels,
}

static SCALAR: Kernels = scalar();

/// The plain kernels, which every CPU executes.
pub(crate) const fn scalar() -> Kernels {
    Kernels {
        isa: Isa::Scalar,
        ternary: &ternary::scalar::FAMILY,
        float: float::scalar::KERNELS,
        attention: &attention::scalar::KERNELS,
        quantized: &quantized::scalar::KERNELS,
        planes: planes::scalar::KERNELS,
    }
}
#[cfg(target_arch = "x86_64")]
static AVX2: Kernels = narrow(Isa::Avx2, &ternary::avx2::FAMILY);
#[cfg(target_arch = "x86_64")]
static AVX_VNNI: Kernels = narrow(Isa::AvxVnni, &ternary::avx_vnni::FAMILY);
#[cfg(target_arch = "x86_64")]
static AVX512: Kernels = wide(Isa::Avx512, &ternary::avx512::FAMILY, &quantized::avx2::KERNELS);
#[cfg(target_arch = "x86_64")]
static AVX512_VNNI: Kernels = wide(Isa::Avx512Vnni, &ternary::avx512_vnni::FAMILY, &quantized::avx512::KERNELS);
#[cfg(target_arch = "x86_64")]
static AVX512_VBMI: Kernels = wide(Isa::Avx512Vbmi, &ternary::avx512_vbmi::FAMILY, &quantized::avx512::KERNELS);
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
static AMX: Kernels = wide(Isa::Amx, &ternary::amx::FAMILY, &quantized::avx512::KERNELS);

/// A level of 256-bit registers: its own ternary kernels, and those of AVX2 for the rest.
#[cfg(target_arch = "x86_64")]
const fn narrow(isa: Isa, ternary: &'static TernaryFamily) -> Kernels {
    Kernels {
        isa,
        ternary,
        float: float::avx2::KERNELS,
        attention: &attention::avx2::KERNELS,
        quantized: &quantized::avx2::KERNELS,
        planes: planes::avx2::KERNELS,
    }
}

/// A level of 512-bit registers.
#[cfg(target_arch = "x86_64")]
const fn wide(isa: Isa, ternary: &'static TernaryFamily, quantized: &'static QuantizedKernels) -> Kernels {
    let (float, attention) = (float::avx512::KERNELS, &attention::avx512::KERNELS);
    Kernels { isa, ternary, float, attention, quantized, planes: planes::avx2::KERNELS }
}

#[cfg(target_arch = "aarch64")]
static NEON: Kernels = aarch64(Isa::Neon, &ternary::neon::FAMILY);
#[cfg(target_arch = "aarch64")]
static NEON_DOTPROD: Kernels = aarch64(Isa::NeonDotprod, &ternary::neon_dotprod::FAMILY);

/// A level of aarch64: NEON's float kernels, and the plain ones for planes.
#[cfg(target_arch = "aarch64")]
const fn aarch64(isa: Isa, ternary: &'static TernaryFamily) -> Kernels {
    Kernels {
        isa,
        ternary,
        float: float::neon::KERNELS,
        attention: &attention::neon::KERNELS,
        quantized: &quantized::neon::KERNELS,
        planes: planes::scalar::KERNELS,
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernels({})", self.isa)
    }
}

impl Kernels {
    /// The kernels of `isa`, or `None` where this CPU cannot execute them.
    ///
    /// Holding the result is the proof that the CPU has the ISA; every call below rests on it.
    pub fn for_isa(isa: Isa) -> Option<&'static Kernels> {
        if !isa.is_available() {
            return None;
        }
        match isa {
            Isa::Scalar => Some(&SCALAR),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Some(&AVX2),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Some(&AVX_VNNI),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Some(&AVX512),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Some(&AVX512_VNNI),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vbmi => Some(&AVX512_VBMI),
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Isa::Amx => Some(&AMX),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Some(&NEON),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod => Some(&NEON_DOTPROD),
            // Those of other architectures, which are not available.
            _ => None,
        }
    }

    /// The kernels of this CPU's best ISA.
    pub fn best() -> &'static Kernels {
        Kernels::for_isa(Isa::best()).unwrap_or(&SCALAR)
    }

    /// The kernels of the ISA named by `ROTOR_ISA`, else of the best one; where they fail their self-test, those of the next
    /// lower ISA that pass. [`Kernels::rejected`] tells which failed.
    ///
    /// # Errors
    /// Where `ROTOR_ISA` names an unknown ISA or one this CPU cannot execute.
    pub fn from_env() -> Result<&'static Kernels, IsaError> {
        Ok(Kernels::sound(Isa::from_env()?))
    }

    /// The scalar kernels: what all others are held against.
    pub(crate) fn reference() -> &'static Kernels {
        &SCALAR
    }

    /// Whose kernels these are.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The kernels for ternary matrices, the one to take where nothing was measured first.
    pub fn ternary_kernels(&self) -> &'static [&'static TernaryKernel] {
        self.ternary.kernels
    }

    /// The kernel for ternary matrices of this name, if this ISA has it.
    pub fn ternary_kernel(&self, name: &str) -> Option<&'static TernaryKernel> {
        self.ternary.kernels.iter().find(|kernel| kernel.name() == name).copied()
    }

    /// Whether there are kernels for [`SkippingMatrix`](crate::ternary::SkippingMatrix).
    pub fn can_skip(&self) -> bool {
        self.ternary.skipping.is_some()
    }

    /// Quantises one token's features: `s = 127 / max(|x|, 1e-5)`, `q = round_half_even(x * s)`; returns `s`.
    ///
    /// Where `x` holds a NaN or an infinity, `s` is NaN and `q` all zeros.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn quantize(&self, x: &[f32], q: &mut [i8]) -> f32 {
        assert_eq!(x.len(), q.len(), "features and their int8 values");
        // SAFETY: the CPU has the ISA (`for_isa`); lengths checked. The same holds for every call in this block.
        unsafe { (self.float.quantize)(x, q) }
    }

    /// Quantises one token's features to three int8 digits; returns the step
    /// ([`Precision::Exact`](crate::ternary::Precision::Exact)).
    pub(crate) fn quantize_exact(&self, x: &[f32], digits: [&mut [i8]; MAX_DIGITS]) -> f32 {
        assert!(digits.iter().all(|digits| digits.len() == x.len()), "features and their digits");
        // SAFETY: as in `quantize`.
        unsafe { (self.float.quantize_exact)(x, digits) }
    }

    /// `out = x / sqrt(mean(x^2) + eps) * weight`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len(), "input, weight and output of one length");
        // SAFETY: as in `quantize`.
        unsafe { (self.float.rms_norm)(x, weight, eps, out) }
    }

    /// What becomes of a token's dot products with consecutive rows.
    pub(crate) fn finish(&self, how: Finish<'_>, sums: &[i32], out: &mut [f32]) {
        assert_eq!(sums.len(), out.len(), "an output for each dot product");
        if let RowScale::Each(scales) = how.scales {
            assert_eq!(scales.len(), out.len(), "a scale for each row");
        }
        // SAFETY: as in `quantize`.
        unsafe { (self.float.finish)(how, sums, out) }
    }

    /// Adds the products of a group of `cols` columns to a token's outputs of consecutive rows, times the rows' `scales`.
    pub(crate) fn add_group(&self, scales: Option<&[f32]>, cols: usize, sums: DigitSums<'_>, totals: &mut [f32]) {
        let [high, lower @ ..] = sums;
        assert_eq!(high.len(), totals.len(), "an output for each dot product");
        assert!(lower.iter().all(|low| low.is_empty() || low.len() == totals.len()), "lower digits for each high one");
        assert!(scales.is_none_or(|scales| scales.len() == totals.len()), "a scale for each row");
        // SAFETY: as in `quantize`.
        unsafe { (self.float.add_group)(scales, cols, sums, totals) }
    }

    /// `gate = silu(gate) * up`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn silu_mul(&self, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len(), "gate and up");
        // SAFETY: as in `quantize`.
        unsafe { (self.float.silu_mul)(gate, up) }
    }

    /// `gate = max(gate, 0)^2 * up`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn relu2_mul(&self, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len(), "gate and up");
        // SAFETY: as in `quantize`.
        unsafe { (self.float.relu2_mul)(gate, up) }
    }

    /// `x += y`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len(), "summands");
        // SAFETY: as in `quantize`.
        unsafe { (self.float.add)(x, y) }
    }

    /// Rotates one head's pairs `(x[j], x[j + half])` by angle `j` (RoPE, half-split).
    ///
    /// # Panics
    /// If `cos` and `sin` are not half as long as `x`.
    pub fn rotate(&self, x: &mut [f32], cos: &[f32], sin: &[f32]) {
        assert!(x.len() == 2 * cos.len() && x.len() == 2 * sin.len(), "one angle per pair");
        // SAFETY: as in `quantize`.
        unsafe { (self.float.rotate)(x, cos, sin) }
    }

    /// Dot product.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn dot(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len(), "factors of a dot product");
        // SAFETY: as in `quantize`.
        unsafe { (self.float.dot)(a, b) }
    }

    /// Decodes a row of whole blocks: what [`DenseType::decode`] gives, bit for bit.
    ///
    /// # Panics
    /// If `row` is not the bytes of `out.len()` weights.
    pub fn decode_row(&self, dtype: DenseType, row: &[u8], out: &mut [f32]) {
        assert_eq!(Some(row.len()), dtype.row_bytes(out.len()), "bytes of {} {} weights", out.len(), dtype.name());
        // SAFETY: as in `quantize`.
        unsafe { (self.float.decode_row)(dtype, row, out) }
    }

    /// Dot product of a stored row and f32: the bits of [`Kernels::decode_row`] followed by [`Kernels::dot`].
    ///
    /// # Panics
    /// If `row` is not the bytes of `x.len()` weights.
    pub fn dot_row(&self, dtype: DenseType, row: &[u8], x: &[f32]) -> f32 {
        assert_eq!(Some(row.len()), dtype.row_bytes(x.len()), "bytes of {} {} weights", x.len(), dtype.name());
        // SAFETY: as in `quantize`.
        unsafe { (self.float.dot_row)(dtype, row, x) }
    }

    /// `out[row][token]`: products of consecutive stored rows with each token's panels.
    pub(crate) fn block_products(
        &self,
        (dtype, cols): (DenseType, usize),
        rows: &[u8],
        x: &[&[Panel]],
        out: &mut [f32],
    ) {
        let row_bytes = dtype.row_bytes(cols).filter(|_| quantized::takes_blocks(dtype)).expect("rows of whole blocks");
        assert!(row_bytes > 0 && rows.len().is_multiple_of(row_bytes), "whole rows");
        assert_eq!(out.len(), rows.len() / row_bytes * x.len(), "an output per row and token");
        assert!(x.iter().all(|panels| panels.len() == cols.div_ceil(quantized::PANEL)), "panels of a row");
        // SAFETY: as in `quantize`.
        unsafe { (self.quantized.products)(dtype, rows, row_bytes, x, out) }
    }

    /// Encodes a row in one of the types of [`ENCODABLE`](crate::encode::ENCODABLE): the same bytes on every ISA.
    pub(crate) fn encode_row(&self, dtype: DenseType, scales: Scales, values: &[f32], out: &mut [u8]) {
        assert_eq!(dtype.row_bytes(values.len()), Some(out.len()), "bytes of {} {} values", values.len(), dtype.name());
        // SAFETY: as in `quantize`.
        unsafe { (self.quantized.encode)(dtype, scales, values, out) }
    }

    /// Bounds of consecutive rows' products; returns the largest middle and the largest bound.
    pub(crate) fn bounds(
        &self,
        rows: RowErrors<'_>,
        token: &TokenFactors,
        middles: &mut [f32],
        uppers: &mut [f32],
    ) -> [f32; 2] {
        let count = middles.len();
        assert!(uppers.len() == count && rows.lost.len() == count && rows.size.len() == count, "rows as middles");
        assert_eq!(rows.errors.len(), count.next_multiple_of(KNOWN) * KNOWN, "errors of the known columns");
        // SAFETY: as in `quantize`.
        unsafe { (self.quantized.bounds)(rows, token, middles, uppers) }
    }

    /// f32 to f16 bits, to nearest even.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn encode_f16(&self, from: &[f32], to: &mut [u16]) {
        assert_eq!(from.len(), to.len(), "as many out as in");
        // SAFETY: as in `quantize`.
        unsafe { (self.float.encode_f16)(from, to) }
    }

    /// Scores of some heads' queries against a block of keys.
    pub(crate) fn scores(&self, q: &[f32], keys: Numbers<'_>, next: Next<'_>, scores: &mut [[f32; BLOCK]]) {
        assert_eq!(q.len() * BLOCK, keys.len() * scores.len(), "queries as wide as the keys");
        // SAFETY: as in `quantize`.
        unsafe { (self.attention.scores)(q, keys, next, scores) }
    }

    /// One step of a streaming softmax over the first `n` scores; see [`AttentionKernels::softmax`].
    pub(crate) fn softmax(&self, scores: &mut [f32; BLOCK], n: usize, scale: f32, state: &mut Softmax) -> f32 {
        assert!(n <= BLOCK, "{n} scores of {BLOCK}");
        // SAFETY: as in `quantize`.
        unsafe { (self.attention.softmax)(scores, n, scale, state) }
    }

    /// Adds a block's weighted values to the outputs of some heads; see [`AttentionKernels::accumulate`].
    pub(crate) fn accumulate(
        &self,
        out: &mut [f32],
        shrink: &[f32],
        p: &[[f32; BLOCK]],
        values: Numbers<'_>,
        next: Next<'_>,
    ) {
        let dims = out.len() / shrink.len().max(1);
        assert!(p.len() == shrink.len() && out.len() == dims * p.len(), "an output and a factor per head");
        assert!(dims > 0 && values.len().is_multiple_of(dims) && values.len() <= dims * BLOCK, "whole rows of a block");
        // SAFETY: as in `quantize`.
        unsafe { (self.attention.accumulate)(out, shrink, p, values, next) }
    }

    /// Stored numbers as f32.
    pub(crate) fn decode_numbers(&self, from: Numbers<'_>, to: &mut [f32]) {
        assert_eq!(from.len(), to.len(), "as many out as in");
        // SAFETY: as in `quantize`.
        unsafe { (self.attention.decode)(from, to) }
    }
}
