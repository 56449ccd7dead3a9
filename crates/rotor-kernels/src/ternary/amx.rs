//! Ternary kernels for AMX: many tokens by tiles of int8 dot products. Few tokens go the way of [`super::avx512_vbmi`].
//!
//! A tile register has 16 rows of 64 bytes. `tdpbsud` multiplies 16 tokens by 16 rows of weights, 64 columns deep: 16,384
//! multiply-adds in 16 cycles, eight times what a cycle of the two AVX-512 units does. It takes the tokens as they are, 64
//! int8 of each in a row of the first operand, and wants of the second operand 4 columns of 16 rows of weights in a row,
//! which is how a panel lies. So tokens are not laid out anew, and sums come as `[token][row]`.
//!
//! With 17 to 32 tokens, four registers hold the sums of two tiles of tokens with two of weights, so that each load serves
//! two multiplications. With 16 and fewer, a multiplication would wait for the one before to the same sums (52 cycles);
//! there two of the four registers hold the sums of every other 64 columns.
//!
//! Bounds. `tdpbsud` adds int32 without saturating; the sum of a row is at most `2 * 128` per column, so int32 holds 2^23.
//!
//! Rust has no stable intrinsics for these registers, so each loop is one block of assembly, which configures them and
//! gives them back: nothing of them lives on between blocks, and a thread that does something else carries no tiles.

use super::TILE_ROWS;
use super::avx512::PLANES;
use super::kernel::{Arrangement, Many, PanelKernels, PanelTokens, TernaryFamily, TernaryKernel, UnpackPanel};
use super::{avx512_vbmi, avx512_vnni, layout};
use std::arch::asm;

pub(crate) static FAMILY: TernaryFamily = TernaryFamily { kernels: &[&TRIOS, &CODES, &PLANES], ..avx512_vbmi::FAMILY };

static TRIOS: TernaryKernel = TernaryKernel {
    name: "trios",
    layout: &layout::TRIOS,
    preparation: None,
    few_tokens: 6,
    few: avx512_vbmi::few,
    few_groups: None,
    many: &[Many::Panel(panel(avx512_vbmi::unpack))],
    many_groups: &[],
    many_exact: None,
};

static CODES: TernaryKernel = TernaryKernel {
    name: "codes",
    layout: &layout::CODES,
    preparation: None,
    few_tokens: 6,
    few: avx512_vnni::few,
    few_groups: Some(avx512_vnni::few_groups),
    many: &[Many::Panel(panel(avx512_vnni::unpack))],
    many_groups: &[],
    many_exact: None,
};

const fn panel(unpack: UnpackPanel) -> PanelKernels {
    PanelKernels {
        min_tokens: 7,
        tokens: 2 * ROWS,
        arrangement: Arrangement::Rows,
        input_bytes: 1 << 20,
        unpack,
        multiply,
    }
}

/// Rows of a tile register.
pub(crate) const ROWS: usize = 16;
/// Columns that a multiplication takes of a token.
pub(crate) const DEPTH: usize = 64;
/// Bytes of four columns of a panel.
const QUAD: usize = 4 * TILE_ROWS;

/// What the eight registers hold: the memory operand of `ldtilecfg`.
#[repr(C, align(64))]
pub(crate) struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

impl Configuration {
    /// For `depth` columns, a multiple of 4, of tokens in two tiles: sums in registers 0 to 3, tokens in 4 and 5, weights in
    /// 6 and 7.
    pub(crate) fn new(depth: usize, tokens: [usize; 2]) -> Configuration {
        let ([first, second], quads) = (tokens.map(|tokens| tokens as u8), (depth / 4) as u8);
        let (mut bytes_per_row, mut rows) = ([0; 16], [0; 16]);
        bytes_per_row[..8].copy_from_slice(&[64, 64, 64, 64, depth as u16, depth as u16, 64, 64]);
        rows[..8].copy_from_slice(&[first, first, second, second, first, second, quads, quads]);
        Configuration { palette: 1, start_row: 0, reserved: [0; 14], bytes_per_row, rows }
    }
}

/// Adds the products of a panel's columns `from` on to sums.
#[derive(Clone, Copy)]
struct Columns<'a> {
    panel: &'a [u8],
    input: PanelTokens<'a>,
    from: usize,
    /// Columns of a step.
    depth: usize,
    steps: usize,
}

impl Columns<'_> {
    /// What the assembly reads is inside the panel and the activations, and what it writes inside the sums.
    fn check(&self, out: &[[i32; TILE_ROWS]]) {
        let (to, tokens) = (self.from + self.depth * self.steps, self.input.tokens);
        assert!(self.depth <= DEPTH && self.depth.is_multiple_of(4), "{} columns of a token", self.depth);
        assert!(to * TILE_ROWS <= self.panel.len() && tokens <= out.len(), "a panel of {to} columns, {tokens} outputs");
        assert!((tokens - 1) * self.input.stride + to <= self.input.x.len(), "{tokens} tokens of {to} columns");
    }

    fn weights(&self) -> *const u8 {
        self.panel[self.from * TILE_ROWS..].as_ptr()
    }

    fn tokens(&self) -> *const i8 {
        self.input.x[self.from..].as_ptr()
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn multiply(panel: &[u8], input: PanelTokens<'_>, out: &mut [[i32; TILE_ROWS]]) {
    let cols = panel.len() / TILE_ROWS;
    let (steps, rest) = (cols / DEPTH, cols % DEPTH);
    let columns = Columns { panel, input, from: 0, depth: DEPTH, steps };
    let tail = Columns { from: steps * DEPTH, depth: rest, steps: 1, ..columns };
    for columns in [columns, tail] {
        if columns.steps * columns.depth == 0 {
            continue;
        }
        columns.check(out);
        if input.tokens > ROWS {
            two_tiles(columns, out);
        } else {
            one_tile(columns, out);
        }
    }
}

/// 17 to 32 tokens.
fn two_tiles(columns: Columns<'_>, out: &mut [[i32; TILE_ROWS]]) {
    let configuration = Configuration::new(columns.depth, [ROWS, columns.input.tokens - ROWS]);
    let (upper, lower) = out.split_at_mut(ROWS);
    // SAFETY: the CPU has AMX and the process may use it (`Isa::Amx`). `Columns::check` holds: the loads read `depth`
    // columns in each of `steps` of as many tokens as there are sums, and of both halves of the panel's rows; the sums are
    // those of 32 rows for each token. The registers are named, and released in the end.
    unsafe {
        asm!(
            "ldtilecfg [{configuration}]",
            "tileloadd tmm0, [{upper} + {quad}]",
            "tileloadd tmm1, [{upper} + {quad} + 64]",
            "tileloadd tmm2, [{lower} + {quad}]",
            "tileloadd tmm3, [{lower} + {quad} + 64]",
            "2:",
            "tileloadd tmm4, [{first} + {stride}]",
            "tileloadd tmm6, [{weights} + {quad}]",
            "tdpbsud tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{weights} + {quad} + 64]",
            "tdpbsud tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{second} + {stride}]",
            "tdpbsud tmm2, tmm5, tmm6",
            "tdpbsud tmm3, tmm5, tmm7",
            "add {first}, {depth}",
            "add {second}, {depth}",
            "add {weights}, {step}",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{upper} + {quad}], tmm0",
            "tilestored [{upper} + {quad} + 64], tmm1",
            "tilestored [{lower} + {quad}], tmm2",
            "tilestored [{lower} + {quad} + 64], tmm3",
            "tilerelease",
            configuration = in(reg) &raw const configuration,
            upper = in(reg) upper.as_mut_ptr(),
            lower = in(reg) lower.as_mut_ptr(),
            quad = in(reg) QUAD,
            stride = in(reg) columns.input.stride,
            depth = const DEPTH,
            step = const DEPTH * TILE_ROWS,
            first = inout(reg) columns.tokens() => _,
            second = inout(reg) columns.tokens().add(ROWS * columns.input.stride) => _,
            weights = inout(reg) columns.weights() => _,
            steps = inout(reg) columns.steps => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// 1 to 16 tokens.
fn one_tile(columns: Columns<'_>, out: &mut [[i32; TILE_ROWS]]) {
    let tokens = columns.input.tokens;
    let configuration = Configuration::new(columns.depth, [tokens, tokens]);
    let mut odd = [[0i32; TILE_ROWS]; ROWS];
    // SAFETY: as in `two_tiles`; the second of a pair of steps is left out where the number of steps is odd.
    unsafe {
        asm!(
            "ldtilecfg [{configuration}]",
            "tileloadd tmm0, [{even} + {quad}]",
            "tileloadd tmm1, [{even} + {quad} + 64]",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{tokens} + {stride}]",
            "tileloadd tmm6, [{weights} + {quad}]",
            "tdpbsud tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{weights} + {quad} + 64]",
            "tdpbsud tmm1, tmm4, tmm7",
            "dec {steps}",
            "jz 3f",
            "tileloadd tmm5, [{tokens} + {stride} + {depth}]",
            "tileloadd tmm6, [{weights} + {quad} + {step}]",
            "tdpbsud tmm2, tmm5, tmm6",
            "tileloadd tmm7, [{weights} + {quad} + {step} + 64]",
            "tdpbsud tmm3, tmm5, tmm7",
            "add {tokens}, 2 * {depth}",
            "add {weights}, 2 * {step}",
            "dec {steps}",
            "jnz 2b",
            "3:",
            "tilestored [{even} + {quad}], tmm0",
            "tilestored [{even} + {quad} + 64], tmm1",
            "tilestored [{odd} + {quad}], tmm2",
            "tilestored [{odd} + {quad} + 64], tmm3",
            "tilerelease",
            configuration = in(reg) &raw const configuration,
            even = in(reg) out.as_mut_ptr(),
            odd = in(reg) odd.as_mut_ptr(),
            quad = in(reg) QUAD,
            stride = in(reg) columns.input.stride,
            depth = const DEPTH,
            step = const DEPTH * TILE_ROWS,
            tokens = inout(reg) columns.tokens() => _,
            weights = inout(reg) columns.weights() => _,
            steps = inout(reg) columns.steps => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
    for (out, odd) in out.as_flattened_mut().iter_mut().zip(odd.as_flattened()) {
        *out += odd;
    }
}
