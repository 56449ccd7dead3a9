//! Kernels prove themselves before they are used.
//!
//! A CPU that claims an extension, an emulator, a hypervisor, a compiler: each can be wrong, and a wrong kernel writes
//! plausible text. So the kernels chosen at start first compute small cases, tails and worst cases included, and are held
//! against the definition and the scalar reference. Where they differ, the next lower ISA takes their place. It costs a few
//! milliseconds, once.
//!
//! An instruction the CPU does not have ends the process; to find that out, run the tests in a child first.

use crate::attention::{AttentionScratch, KvBlock, KvShape, KvType, Sequence, Sequences, attention};
use crate::dense::DenseType;
use crate::dispatch::Kernels;
use crate::epilogue::{Epilogue, Finish, RowScale};
use crate::isa::Isa;
use crate::noise::Noise;
use crate::planes::Strided;
use crate::pool::Pool;
use crate::quantized::bounds::{KNOWN, RowErrors, TokenFactors};
use crate::quantized::{BlockActivations, takes_blocks};
use crate::ternary::{
    Activations, Planes, Scratch, SkippingKernel, SkippingMatrix, Skips, TernaryKernel, TernaryMatrix,
};
use std::fmt;
use std::sync::{Arc, OnceLock};

/// Computes a small case; the error says what differs.
type Test = fn(&Kernels) -> Result<(), String>;

/// A test of some kernels, and what was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfTest {
    /// Which kernels.
    pub kernel: String,
    /// What differs, where something does.
    pub failure: Option<String>,
}

/// Kernels whose results are wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfTestError {
    /// Whose kernels.
    pub isa: Isa,
    /// The first that failed.
    pub kernel: String,
    /// What differs.
    pub failure: String,
}

impl fmt::Display for SelfTestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} kernels of {} compute wrong results on this CPU: {}", self.kernel, self.isa, self.failure)
    }
}

impl std::error::Error for SelfTestError {}

impl Kernels {
    /// Computes small cases with every kernel of this ISA.
    pub fn self_tests(&self) -> Vec<SelfTest> {
        let ternary = self.ternary_kernels().iter().map(|kernel| {
            let name = format!("ternary {}", kernel.name());
            SelfTest { kernel: name, failure: products(self, kernel).err() }
        });
        let others: [(&str, Test); 10] = [
            ("rows and columns left out", skipping),
            ("stored planes", stored_planes),
            ("codes and planes", codes_and_planes),
            ("quantisation", quantisation),
            ("float", floats),
            ("outputs", outputs),
            ("stored rows", stored_rows),
            ("stored rows in blocks", stored_blocks),
            ("bounds", bounds_of_products),
            ("attention", attention_of_two_segments),
        ];
        let others = others.map(|(name, test)| SelfTest { kernel: name.to_owned(), failure: test(self).err() });
        ternary.chain(others).collect()
    }

    /// Whether all of [`Kernels::self_tests`] pass.
    ///
    /// # Errors
    /// The first that does not.
    pub fn self_test(&self) -> Result<(), SelfTestError> {
        let failed = self.self_tests().into_iter().find_map(|test| Some((test.kernel, test.failure?)));
        match failed {
            None => Ok(()),
            Some((kernel, failure)) => Err(SelfTestError { isa: self.isa, kernel, failure }),
        }
    }

    /// The best kernels, `preferred` or of a lower ISA, that pass their self-test. Tested once in a process.
    pub(crate) fn sound(preferred: Isa) -> &'static Kernels {
        let lower = Isa::ALL.into_iter().rev().skip_while(|isa| *isa != preferred);
        let candidates = lower.filter_map(Kernels::for_isa);
        first_sound(candidates, |kernels| outcome(kernels).is_ok()).unwrap_or_else(Kernels::reference)
    }

    /// What was wrong with the kernels that were to be used, and were not.
    pub fn rejected() -> Vec<SelfTestError> {
        OUTCOMES.iter().filter_map(|outcome| outcome.get()?.as_ref().err().cloned()).collect()
    }
}

/// The outcome of each ISA's test.
static OUTCOMES: [OnceLock<Result<(), SelfTestError>>; Isa::ALL.len()] = [const { OnceLock::new() }; Isa::ALL.len()];

fn outcome(kernels: &Kernels) -> &'static Result<(), SelfTestError> {
    let place = Isa::ALL.iter().position(|isa| *isa == kernels.isa).unwrap_or(0);
    OUTCOMES[place].get_or_init(|| kernels.self_test())
}

fn first_sound<'a>(
    mut candidates: impl Iterator<Item = &'a Kernels>,
    is_sound: impl Fn(&Kernels) -> bool,
) -> Option<&'a Kernels> {
    candidates.find(|kernels| is_sound(kernels))
}

/// Rows and columns of the ternary case: a whole tile and a part of one, a flush of int16 sums and a tail.
const SHAPE: (usize, usize) = (37, 786);

fn products(kernels: &Kernels, kernel: &'static TernaryKernel) -> Result<(), String> {
    let (rows, cols) = SHAPE;
    let pool = Pool::new(1);
    let mut noise = Noise::new(1);
    let mut trits = noise.trits(rows * cols);
    // The worst case of every int16 and int8 sum: all weights of one sign.
    trits[..cols].fill(1);
    trits[cols..2 * cols].fill(-1);
    let matrix = TernaryMatrix::pack(
        SHAPE,
        kernels,
        kernel,
        &pool,
        |error| error.to_string(),
        |row, out| {
            out.copy_from_slice(&trits[row * cols..(row + 1) * cols]);
            Ok(())
        },
    )?;
    // A few, more than a pass takes, enough for the weights to be unpacked or looked up in tables, and for a panel's passes.
    for tokens in [1, 2, 5, 8, 13, 19, 26, 45, 75] {
        let mut x: Vec<i8> = noise.bytes(tokens * cols).into_iter().map(u8::cast_signed).collect();
        x[..cols].fill(if tokens == 1 { 127 } else { -128 });
        let mut activations = Activations::new(kernels);
        activations.set(kernels, &x, cols);
        let mut out = vec![i32::MIN; tokens * rows];
        matrix.dot(kernels, &pool, &mut activations, &mut Scratch::default(), &mut out);
        equal(&format!("{tokens} tokens"), &definition(&trits, &x, cols), &out)?;
    }
    Ok(())
}

/// Rows, and columns of which many meet zeros, for one token, for a few and for many.
fn skipping(kernels: &Kernels) -> Result<(), String> {
    let all = kernels.ternary_kernels().iter().filter_map(|dense| SkippingKernel::new(kernels, dense));
    let (rows, cols) = SHAPE;
    let (pool, mut noise) = (Pool::new(1), Noise::new(4));
    let mut trits = noise.trits(rows * cols);
    trits[..cols].fill(1);
    let read_row = |row: usize, out: &mut [i8]| {
        out.copy_from_slice(&trits[row * cols..(row + 1) * cols]);
        Ok(())
    };
    for (kernel, skips) in all.flat_map(|kernel| [(kernel, Skips::Rows), (kernel, Skips::Columns)]) {
        let matrix = SkippingMatrix::pack(SHAPE, skips, kernel, &pool, |error| error.to_string(), read_row)?;
        for tokens in [1, 2, 3, 4, 5, 22] {
            let mut x = noise.gated_activations(tokens * cols);
            x[..7].fill(-128);
            let mut activations = Activations::new(kernels);
            activations.set(kernels, &x, cols);
            let mut out = vec![i32::MIN; tokens * rows];
            matrix.dot(kernels, &pool, &mut activations, &mut Scratch::default(), &mut out);
            equal(&format!("{tokens} tokens"), &definition(&trits, &x, cols), &out)?;
        }
    }
    Ok(())
}

/// `[token][row]`, product by product.
fn definition(trits: &[i8], x: &[i8], cols: usize) -> Vec<i32> {
    let dot = |x: &[i8], row: &[i8]| x.iter().zip(row).map(|(x, w)| i32::from(*x) * i32::from(*w)).sum();
    x.chunks_exact(cols).flat_map(|x| trits.chunks_exact(cols).map(move |row| dot(x, row))).collect()
}

fn stored_planes(kernels: &Kernels) -> Result<(), String> {
    let (rows, cols) = (19, 8 * 37);
    let mut noise = Noise::new(2);
    let trits = noise.trits(rows * cols);
    let x: Vec<i8> = noise.bytes(cols).into_iter().map(u8::cast_signed).collect();
    let plane = |sign: i8| -> Vec<u8> {
        trits.chunks_exact(8).map(|eight| (0..8).map(|bit| u8::from(eight[bit] == sign) << bit).sum()).collect()
    };
    let (plus, minus) = (plane(1), plane(-1));
    let mut out = vec![i32::MIN; rows];
    let overlap = Planes::new((rows, cols), &plus, &minus).dot(kernels, &Pool::new(1), &x, &mut out);
    equal("a weight in both planes", &[false], &[overlap])?;
    equal("products", &definition(&trits, &x, cols), &out)
}

fn codes_and_planes(kernels: &Kernels) -> Result<(), String> {
    let mut noise = Noise::new(3);
    let plane_bytes = 96;
    let (codes, planes) = (noise.bytes(2 * plane_bytes), [noise.bytes(plane_bytes), noise.bytes(plane_bytes)]);
    let trits: Vec<i8> = noise.trits(8 * plane_bytes);
    let run = |kernels: &Kernels| {
        let mut out = vec![vec![0u8; plane_bytes]; 10];
        let mut flags = Vec::new();
        let (mut joined, mut unpacked) = (vec![0u8; 2 * plane_bytes], vec![0i8; 8 * plane_bytes]);
        for (pair, case) in out.chunks_exact_mut(2).zip(0..) {
            let [bit0, bit1] = pair else { continue };
            flags.push(match case {
                0 => kernels.split_codes(&codes, bit0, bit1),
                1 => kernels.pack_trits(&trits, bit0, bit1),
                2 => kernels.unstride(Strided::High32, &codes, bit0, bit1),
                3 => kernels.unstride(Strided::High16, &codes, bit0, bit1),
                _ => kernels.unstride(Strided::Low32, &codes, bit0, bit1),
            });
        }
        flags.push(kernels.join_planes(&planes[0], &planes[1], &mut joined));
        flags.push(kernels.unpack_trits(&planes[0], &planes[1], &mut unpacked));
        let zeros = kernels.count_trits(&trits, 0);
        (out.concat(), flags, joined, unpacked, zeros)
    };
    let (expected, found) = (run(Kernels::reference()), run(kernels));
    equal("planes", &expected.0, &found.0)?;
    equal("invalid weights", &expected.1, &found.1)?;
    equal("codes", &expected.2, &found.2)?;
    equal("trits", &expected.3, &found.3)?;
    equal("zeros", &[expected.4], &[found.4])
}

fn quantisation(kernels: &Kernels) -> Result<(), String> {
    let mut x = Noise::new(4).floats(101);
    // A scale of 1 and ties: 0.5 rounds to 0, 1.5 to 2, -2.5 to -2.
    x[..5].copy_from_slice(&[127.0, 0.5, 1.5, -2.5, -127.0]);
    let mut not_finite = x.clone();
    not_finite[50] = f32::INFINITY;
    for x in [x, vec![0.0; 9], not_finite] {
        let run = |kernels: &Kernels| {
            let mut q = vec![1; x.len()];
            let factor = kernels.quantize(&x, &mut q);
            (if factor.is_nan() { f32::NAN.to_bits() } else { factor.to_bits() }, q)
        };
        let (expected, found) = (run(Kernels::reference()), run(kernels));
        equal("factor (bits)", &[expected.0], &[found.0])?;
        equal("int8", &expected.1, &found.1)?;
    }
    Ok(())
}

fn floats(kernels: &Kernels) -> Result<(), String> {
    let mut noise = Noise::new(5);
    let (a, b) = (noise.floats(83), noise.floats(83));
    let run = |kernels: &Kernels| {
        let mut out = vec![vec![0.0; a.len()], a.clone(), a.clone(), a.clone(), [&a[..], &b[..]].concat(), Vec::new()];
        kernels.rms_norm(&a, &b, 1e-5, &mut out[0]);
        kernels.silu_mul(&mut out[1], &b);
        kernels.relu2_mul(&mut out[2], &b);
        kernels.add(&mut out[3], &b);
        kernels.rotate(&mut out[4], &a, &b);
        out[5].push(kernels.dot(&a, &b));
        out
    };
    let names = ["RMS norm", "SiLU", "squared ReLU", "sum", "rotation", "dot product"];
    for ((name, expected), found) in names.iter().zip(run(Kernels::reference())).zip(run(kernels)) {
        near(name, &expected, &found)?;
    }
    Ok(())
}

/// Scales of one kind and the other, divisors that may be multiplied by and one that may not.
fn outputs(kernels: &Kernels) -> Result<(), String> {
    let mut noise = Noise::new(8);
    let sums: Vec<i32> = (0..53).map(|_| noise.next().cast_signed() % 40_000 - 20_000).collect();
    let (before, scales) = (noise.floats(sums.len()), noise.floats(sums.len()));
    for epilogue in [Epilogue::Store, Epilogue::Add, Epilogue::SiluMul, Epilogue::Relu2Mul, Epilogue::GeluMul] {
        for (scales, factor) in
            [(RowScale::Same(0.7), 31.7), (RowScale::Same(-0.7), 31.7), (RowScale::Each(&scales), 0.37)]
        {
            let run = |kernels: &Kernels| {
                let mut out = before.clone();
                kernels.finish(Finish { scales, factor, epilogue }, &sums, &mut out);
                out
            };
            near(&format!("{epilogue:?}"), &run(Kernels::reference()), &run(kernels))?;
        }
    }
    Ok(())
}

/// Rows of every type that is multiplied in blocks, for more tokens than share an unpacking.
fn stored_blocks(kernels: &Kernels) -> Result<(), String> {
    let (mut noise, cols, tokens) = (Noise::new(9), 512, 5);
    let x = noise.floats(tokens * cols);
    for dtype in DenseType::ALL.into_iter().filter(|dtype| takes_blocks(*dtype)) {
        let bytes = 2 * dtype.row_bytes(cols).unwrap_or(0);
        // As in `stored_rows`: no byte of a float's exponent is large.
        let rows: Vec<u8> = noise.bytes(bytes).into_iter().map(|byte| byte & 0x3f).collect();
        let run = |kernels: &Kernels| {
            let mut activations = BlockActivations::default();
            activations.quantize(&Pool::new(1), &x, cols);
            let panels: Vec<_> = (0..tokens).map(|token| activations.token(token)).collect();
            let mut out = vec![f32::NAN; 2 * tokens];
            kernels.block_products((dtype, cols), &rows, &panels, &mut out);
            out
        };
        near(dtype.name(), &run(Kernels::reference()), &run(kernels))?;
    }
    Ok(())
}

/// Bounds of more rows than stand side by side, and a tail.
fn bounds_of_products(kernels: &Kernels) -> Result<(), String> {
    let (mut noise, rows) = (Noise::new(10), 2 * KNOWN + 5);
    let halves = noise.floats(rows.next_multiple_of(KNOWN) * KNOWN);
    let errors: Vec<u16> = halves.iter().map(|half| (half.to_bits() >> 16) as u16).collect();
    let [lost, size, products] = [(); 3].map(|()| noise.floats(rows));
    let known = std::array::from_fn(|which| products[which] * 0.7);
    let token = TokenFactors { known, rest: 1.5, rounding: 0.25, underflow: 1e-3 };
    let run = |kernels: &Kernels| {
        let (mut middles, mut uppers) = (products.clone(), vec![f32::NAN; rows]);
        let errors = RowErrors { errors: &errors, lost: &lost, size: &size };
        let highest = kernels.bounds(errors, &token, &mut middles, &mut uppers);
        [middles, uppers, highest.to_vec()].concat().into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    equal("bounds (bits)", &run(Kernels::reference()), &run(kernels))
}

fn stored_rows(kernels: &Kernels) -> Result<(), String> {
    let mut noise = Noise::new(6);
    for dtype in DenseType::ALL {
        let (blocks, len) = (3, 3 * dtype.block_len());
        // Exponents of every field that may be a float stay small: bytes below 0x40 at odd places, wherever it begins.
        let row: Vec<u8> = noise.bytes(blocks * dtype.block_bytes()).into_iter().map(|byte| byte & 0x3f).collect();
        let (mut expected, mut found) = (vec![0.0; len], vec![0.0; len]);
        dtype.decode(&row, &mut expected);
        kernels.decode_row(dtype, &row, &mut found);
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        equal(&format!("{} (bits)", dtype.name()), &bits(&expected), &bits(&found))?;
        let product = kernels.dot_row(dtype, &row, &expected);
        let twin = kernels.dot(&found, &expected);
        equal(&format!("product with {} (bits)", dtype.name()), &[twin.to_bits()], &[product.to_bits()])?;
    }
    let values = noise.floats(77);
    let mut halves = (vec![0u16; values.len()], vec![0u16; values.len()]);
    Kernels::reference().encode_f16(&values, &mut halves.0);
    kernels.encode_f16(&values, &mut halves.1);
    equal("f16", &halves.0, &halves.1)
}

/// One kv head of two query heads, with enough positions for the streaming softmax to merge.
fn attention_of_two_segments(kernels: &Kernels) -> Result<(), String> {
    let (positions, dims, group) = (260, 40, 2);
    let run = |kernels: &Kernels| -> Result<Vec<f32>, String> {
        let mut noise = Noise::new(7);
        let failed = |error: std::io::Error| error.to_string();
        let shape = KvShape { layers: 1, heads: 1, head_dim: dims };
        let mut blocks = Vec::new();
        for first in (0..positions).step_by(KvBlock::POSITIONS) {
            let mut block = KvBlock::new(KvType::F16, shape).map_err(failed)?;
            for at in 0..KvBlock::POSITIONS.min(positions - first) {
                block.write(kernels, 0, at, &noise.floats(dims), &noise.floats(dims));
            }
            blocks.push(Arc::new(block));
        }
        let q = noise.floats(group * dims);
        let mut out = vec![0.0; group * dims];
        let sequence =
            |_| Sequence { blocks: &blocks, layer: 0, window: None, position: positions - 1, row: 0, tokens: 1 };
        let sequences = Sequences::new(1, &sequence);
        attention(kernels, &Pool::new(1), sequences, (group, None), &q, &mut AttentionScratch::default(), &mut out);
        Ok(out)
    };
    near("outputs", &run(Kernels::reference())?, &run(kernels)?)
}

fn equal<T: PartialEq + fmt::Debug>(what: &str, expected: &[T], found: &[T]) -> Result<(), String> {
    let pairs = expected.iter().zip(found).enumerate();
    match pairs.into_iter().find(|(_, (expected, found))| expected != found) {
        Some((at, (expected, found))) => Err(format!("{what}, number {at}: expected {expected:?}, found {found:?}")),
        None => Ok(()),
    }
}

/// Equal within what another order of summation changes.
fn near(what: &str, expected: &[f32], found: &[f32]) -> Result<(), String> {
    let largest = expected.iter().fold(1e-3f32, |largest, value| largest.max(value.abs()));
    let differs = |(expected, found): &(&f32, &f32)| {
        let difference = (**expected - **found).abs();
        difference.is_nan() || difference > 1e-5 * largest
    };
    match expected.iter().zip(found).find(differs) {
        Some((expected, found)) => Err(format!("{what}: expected {expected}, found {found}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::{self, FloatKernels};
    use crate::ternary::kernel::{TernaryFamily, Token};

    #[test]
    fn every_isa_of_this_cpu_passes() {
        for kernels in Isa::available().filter_map(Kernels::for_isa) {
            for test in kernels.self_tests() {
                assert_eq!(test.failure, None, "{} of {}", test.kernel, kernels.isa());
            }
        }
        assert_eq!(Kernels::sound(Isa::best()).isa(), Isa::best());
        assert_eq!(Kernels::rejected(), []);
    }

    /// Right but for the last row of every tile, which is one too large.
    fn off_by_one(tile: &[u8], cols: usize, tokens: &[Token<'_>], out: &mut [[i32; 32]]) {
        let right = Kernels::reference().ternary_kernels()[0];
        // SAFETY: the scalar kernel asks for nothing but fitting lengths, which are the caller's.
        unsafe { (right.few)(tile, cols, tokens, out) };
        out.iter_mut().for_each(|sums| sums[31] += 1);
    }

    fn wrong_sum(x: &mut [f32], y: &[f32]) {
        x.iter_mut().zip(y).for_each(|(x, y)| *x -= y);
    }

    fn kernels_of(ternary: &'static TernaryFamily, float: FloatKernels) -> Kernels {
        Kernels { ternary, float, ..crate::dispatch::scalar() }
    }

    #[test]
    fn a_wrong_ternary_kernel_is_found_and_stepped_down_from() {
        let right = Kernels::reference();
        let kernel = right.ternary_kernels()[0];
        let wrong: &TernaryKernel = Box::leak(Box::new(TernaryKernel {
            name: kernel.name,
            layout: kernel.layout,
            preparation: None,
            few_tokens: kernel.few_tokens,
            few: off_by_one,
            few_groups: None,
            many: &[],
            many_groups: &[],
            many_exact: None,
        }));
        let TernaryFamily { pack_row, dot_rows, sum, planes, .. } = *right.ternary;
        let kernels = Box::leak(Box::new([wrong]));
        let family = TernaryFamily { pack_row, dot_rows, sum, planes, kernels, skipping: None };
        let broken = kernels_of(Box::leak(Box::new(family)), float::scalar::KERNELS);
        let error = broken.self_test().unwrap_err();
        assert_eq!(error.kernel, format!("ternary {}", wrong.name()));
        assert!(error.to_string().contains("1 tokens, number 31: expected "), "{error}");

        let chosen = first_sound([&broken, right].into_iter(), |kernels| kernels.self_test().is_ok());
        assert!(std::ptr::eq(chosen.unwrap(), right));
    }

    #[test]
    fn a_wrong_float_kernel_is_found() {
        let float = FloatKernels { add: wrong_sum, ..float::scalar::KERNELS };
        let error = kernels_of(Kernels::reference().ternary, float).self_test().unwrap_err();
        assert_eq!(error.kernel, "float");
        assert!(error.failure.starts_with("sum: expected "), "{error}");
    }

    #[test]
    fn numbers_that_are_none_differ() {
        assert!(near("x", &[1.0], &[f32::NAN]).is_err() && near("x", &[1.0], &[1.000_001]).is_ok());
        assert!(equal("x", &[1, 2], &[1, 3]).is_err());
    }
}
