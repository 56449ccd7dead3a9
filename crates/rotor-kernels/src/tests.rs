//! Every available ISA against the scalar reference: integers bit for bit, floats within the numeric contract.

use crate::attention::{
    AttentionScratch, BLOCK, KvBlock, KvShape, KvType, Numbers, Sequence, Sequences, Softmax, attention,
};
use crate::dense::DenseType;
use crate::matrix::{DenseMatrix, DenseScratch};
use crate::planes::Strided;
use crate::ternary::{
    Activations, GroupScales, Precision, Product, RowScales, Scratch, TernaryKernel, TernaryLinear, TernaryMatrix,
    linears,
};
use crate::{Epilogue, Isa, Kernels, Pool};
use proptest::prelude::*;
use std::sync::Arc;

fn kernels() -> Vec<&'static Kernels> {
    Isa::available().filter_map(Kernels::for_isa).collect()
}

/// Says which ISAs these tests ran, so that a pass is not mistaken for more than it is.
#[test]
fn isas_exercised() {
    let ran: Vec<_> = Isa::available().map(Isa::name).collect();
    let not_run: Vec<_> = Isa::ALL.iter().filter(|isa| !isa.is_available()).map(|isa| isa.name()).collect();
    println!("ISAs exercised: {}; compiled or known but not run here: {}", ran.join(", "), not_run.join(", "));
    if cfg!(target_arch = "x86_64") {
        assert!(ran.contains(&"avx2"), "this machine lacks AVX2, so a pass would say nothing about the AVX2 kernels");
    }
    if cfg!(target_arch = "aarch64") {
        assert!(ran.contains(&"neon"), "this machine lacks NEON, so a pass would say nothing about the NEON kernels");
    }
}

/// Every kernel for ternary matrices, with the table it is from.
fn ternary_kernels() -> Vec<(&'static Kernels, &'static TernaryKernel)> {
    kernels().into_iter().flat_map(|all| all.ternary_kernels().iter().map(move |kernel| (all, *kernel))).collect()
}

fn pack(
    (kernels, kernel): (&Kernels, &'static TernaryKernel),
    (rows, cols): (usize, usize),
    trits: &[i8],
    pool: &Pool,
) -> TernaryMatrix {
    let read_row = |row: usize, out: &mut [i8]| {
        out.copy_from_slice(&trits[row * cols..(row + 1) * cols]);
        Ok(())
    };
    TernaryMatrix::pack((rows, cols), kernels, kernel, pool, |e| e, read_row).unwrap()
}

/// The definition, in i64.
fn product(rows: usize, cols: usize, trits: &[i8], x: &[i8]) -> Vec<i32> {
    let dot = |x: &[i8], row: usize| -> i64 {
        trits[row * cols..][..cols].iter().zip(x).map(|(w, x)| i64::from(*w) * i64::from(*x)).sum()
    };
    x.chunks_exact(cols).flat_map(|x| (0..rows).map(move |row| i32::try_from(dot(x, row)).unwrap())).collect()
}

fn check_dot(
    kernel: (&Kernels, &'static TernaryKernel),
    pool: &Pool,
    (rows, cols): (usize, usize),
    trits: &[i8],
    x: &[i8],
) {
    let matrix = pack(kernel, (rows, cols), trits, pool);
    let mut activations = Activations::new(kernel.0);
    activations.set(kernel.0, x, cols);
    let mut out = vec![i32::MIN; x.len() / cols * rows];
    matrix.dot(kernel.0, pool, &mut activations, &mut Scratch::default(), &mut out);
    let name = format!("{} on {}", kernel.1.name(), kernel.0.isa());
    assert_eq!(out, product(rows, cols, trits, x), "{name}, {rows} x {cols}, {} tokens", x.len() / cols);
}

fn random_trits(rng: &mut fastrand::Rng, len: usize) -> Vec<i8> {
    (0..len).map(|_| rng.i8(-1..=1)).collect()
}

/// Holds the outputs of every kernel that can take these scales against the definition of exact activations, bit for bit.
fn check_exact((rows, cols): (usize, usize), trits: &[i8], x: &[f32], scales: &RowScales, pool: &Pool) {
    let (grouped, cut) = match scales {
        RowScales::Grouped(scales) => (true, scales.cols()),
        RowScales::Uniform(_) | RowScales::PerRow(_) => (false, cols),
    };
    for (kernels, kernel) in ternary_kernels().into_iter().filter(|(_, kernel)| !grouped || kernel.can_scale(cut)) {
        let matrix = pack((kernels, kernel), (rows, cols), trits, pool);
        let mut activations = Activations::new(kernels);
        activations.quantize(kernels, pool, Precision::Exact, x, cols);
        let mut out = vec![f32::NAN; x.len() / cols * rows];
        matrix.linear(kernels, pool, &mut activations, scales, &mut Scratch::default(), (Epilogue::Store, &mut out));
        for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact(rows)) {
            let mut digits = [(); 3].map(|()| vec![0; cols]);
            let step = kernels.quantize_exact(x, digits.each_mut().map(|digits| &mut digits[..]));
            for (row, found) in out.iter().enumerate() {
                let mut expected = 0f32;
                for start in (0..cols).step_by(cut) {
                    let dot = |q: &Vec<i8>| -> i64 {
                        let products =
                            (start..start + cut).map(|col| i32::from(trits[row * cols + col]) * i32::from(q[col]));
                        products.sum::<i32>().into()
                    };
                    let [high, middle, low] = digits.each_ref().map(dot);
                    let sum = (high * 65536 + middle * 256 + low) as f32;
                    expected += if grouped { sum * scales.get(row, start) } else { sum };
                }
                let expected = if grouped { expected * step } else { expected * step * scales.get(row, 0) };
                assert_eq!(found.to_bits(), expected.to_bits(), "{} on {}", kernel.name(), kernels.isa());
            }
        }
    }
}

/// All of a token's size in one group of columns, whose values are the largest there are.
#[test]
fn exact_groups_hold_at_the_bounds() {
    let mut rng = fastrand::Rng::with_seed(11);
    for group_cols in [64, 128, 256, 512] {
        let (rows, groups) = (33, 32);
        let cols = group_cols * groups;
        let values: Vec<f32> = (0..rows * groups).map(|_| rng.f32() + 0.1).collect();
        let scales = RowScales::Grouped(GroupScales::new(rows, group_cols, &values).unwrap());
        for trits in [vec![1; rows * cols], vec![-1; rows * cols], random_trits(&mut rng, rows * cols)] {
            let mut x: Vec<f32> = (0..9 * cols).map(|_| rng.f32() * 1e-3).collect();
            for (token, x) in x.chunks_exact_mut(cols).enumerate() {
                let sign = if token % 2 == 0 { 1.0 } else { -1.0 };
                x[token * group_cols..(token + 1) * group_cols].fill(1e4 * sign);
            }
            check_exact((rows, cols), &trits, &x, &scales, &Pool::new(2));
        }
    }
}

#[test]
fn ternary_products_are_exact_at_the_bounds() {
    let pool = Pool::new(2);
    for kernel in ternary_kernels() {
        for (rows, cols) in [(33, 2560), (32, 6912), (64, 256), (5, 240), (1, 241), (3, 96), (2, 97)] {
            for x in [127, -128i8] {
                for fill in [1, -1, 0] {
                    let trits = vec![fill; rows * cols];
                    for tokens in [1, 4, 8, 13, 17, 25, 40, 60, 75] {
                        check_dot(kernel, &pool, (rows, cols), &trits, &vec![x; tokens * cols]);
                    }
                }
                // The largest difference of a table's halves: plus and minus alternate under equal activations.
                let trits: Vec<i8> = (0..rows * cols).map(|i| if i % 2 == 0 { 1 } else { -1 }).collect();
                let signs: Vec<i8> =
                    (0..cols).map(|i| if i % 2 == 0 { x } else { (-i16::from(x)).clamp(-128, 127) as i8 }).collect();
                check_dot(kernel, &pool, (rows, cols), &trits, &signs);
                check_dot(kernel, &pool, (rows, cols), &trits, &signs.repeat(8));
                check_dot(kernel, &pool, (rows, cols), &trits, &signs.repeat(26));
                check_dot(kernel, &pool, (rows, cols), &trits, &signs.repeat(70));
            }
        }
    }
}

/// As behind a squared ReLU: most activations are zero, and all of some tokens.
#[test]
fn ternary_products_are_exact_where_most_activations_are_zero() {
    let pool = Pool::new(2);
    let mut rng = fastrand::Rng::with_seed(11);
    for (rows, cols) in [(545, 300), (1030, 97)] {
        let trits = random_trits(&mut rng, rows * cols);
        for tokens in [1, 5, 24, 37] {
            let mut x = vec![0i8; tokens * cols];
            for (token, x) in x.chunks_exact_mut(cols).enumerate().filter(|(token, _)| token % 7 != 3) {
                let loud = if token % 2 == 0 { -128 } else { 127 };
                x.iter_mut().filter(|_| rng.u8(..100) < 15).for_each(|x| *x = loud);
            }
            for kernel in ternary_kernels() {
                check_dot(kernel, &pool, (rows, cols), &trits, &x);
            }
        }
    }
}

/// Up to the largest activations whose sums some kernel adds as int8 (12 of them in two lanes of 24 columns), and one further.
#[test]
fn ternary_products_are_exact_where_activations_are_small() {
    let pool = Pool::new(2);
    let mut rng = fastrand::Rng::with_seed(12);
    for (rows, cols) in [(97, 288), (130, 97)] {
        let random = random_trits(&mut rng, rows * cols);
        for (most, first) in [(2, 2), (10, 10), (10, 17), (10, 18), (10, -128), (42, 42)] {
            for tokens in [4, 24, 37] {
                // Every fifth run of 24 columns is louder.
                let loud = |i: usize| if i % cols / 24 % 5 == 4 { 3 } else { 1 };
                let size = |i: usize| if i % cols % 24 < 2 { first } else { loud(i) * most };
                let largest: Vec<i8> = (0..tokens * cols).map(size).collect();
                let x: Vec<i8> = largest.iter().map(|x| rng.i8(-x.saturating_abs()..=x.saturating_abs())).collect();
                for kernel in ternary_kernels() {
                    check_dot(kernel, &pool, (rows, cols), &random, &x);
                    check_dot(kernel, &pool, (rows, cols), &random, &largest);
                    check_dot(kernel, &pool, (rows, cols), &vec![1; rows * cols], &largest);
                    check_dot(kernel, &pool, (rows, cols), &vec![-1; rows * cols], &largest);
                }
            }
        }
    }
}

/// Rows so long that scaled accumulators would overflow if they were not emptied in between.
#[test]
fn very_long_rows_are_exact() {
    let pool = Pool::new(1);
    let cols = 800_000;
    for kernel in ternary_kernels().into_iter().filter(|(kernels, _)| kernels.isa() != Isa::Scalar) {
        for fill in [1, -1] {
            check_dot(kernel, &pool, (1, cols), &vec![fill; cols], &vec![-128; cols]);
        }
    }
}

/// More threads than whole tiles to share out: found by the property test below.
#[test]
fn parts_of_the_rows_may_be_empty() {
    let pool = Pool::new(4);
    for kernel in ternary_kernels() {
        for rows in [33, 70, 98, 130] {
            let trits = random_trits(&mut fastrand::Rng::with_seed(1), rows * 64);
            check_dot(kernel, &pool, (rows, 64), &trits, &[7; 14 * 64]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn ternary_products_equal_the_definition(
        rows in 1usize..100, cols in 1usize..700, tokens in 1usize..90, threads in 1usize..4, seed in any::<u64>(),
    ) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let trits = random_trits(&mut rng, rows * cols);
        let x: Vec<i8> = (0..tokens * cols).map(|_| rng.i8(..)).collect();
        let pool = Pool::new(threads);
        for kernel in ternary_kernels() {
            check_dot(kernel, &pool, (rows, cols), &trits, &x);
        }
    }

    #[test]
    fn packing_keeps_every_trit(rows in 1usize..70, cols in 1usize..200, seed in any::<u64>()) {
        let trits = random_trits(&mut fastrand::Rng::with_seed(seed), rows * cols);
        for kernel in ternary_kernels() {
            let pool = Pool::new(1);
            let matrix = pack(kernel, (rows, cols), &trits, &pool);
            let transposed = matrix.transposed(kernel.0, &pool).unwrap();
            for row in 0..rows {
                for col in 0..cols {
                    prop_assert_eq!(matrix.trit(row, col), trits[row * cols + col]);
                    prop_assert_eq!(transposed.trit(col, row), trits[row * cols + col]);
                }
            }
        }
    }

    #[test]
    fn quantisation_is_the_same_on_every_isa(len in 1usize..300, scale in -30f32..30.0, seed in any::<u64>()) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let x: Vec<f32> = (0..len).map(|_| (rng.f32() - 0.5) * scale.exp2()).collect();
        let run = |kernels: &Kernels| {
            let mut q = vec![0; len];
            (kernels.quantize(&x, &mut q).to_bits(), q)
        };
        let scalar = run(Kernels::for_isa(Isa::Scalar).unwrap());
        for kernels in kernels() {
            prop_assert_eq!(&run(kernels), &scalar);
        }
    }

    /// The definition, in f64: no value is further from its integer than rounding takes it, the roundings of the step and of
    /// its inverse included.
    #[test]
    fn exact_quantisation_is_its_definition_on_every_isa(
        len in 1usize..900, scale in -90f32..107.0, outlier in 0f32..20.0, seed in any::<u64>(),
    ) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut x: Vec<f32> = (0..len).map(|_| (rng.f32() - 0.5) * scale.exp2()).collect();
        x[len / 2] *= outlier.exp2();
        let run = |kernels: &Kernels| {
            let mut digits = [(); 3].map(|()| vec![0; len]);
            (kernels.quantize_exact(&x, digits.each_mut().map(|digits| &mut digits[..])), digits)
        };
        let (step, digits) = run(Kernels::for_isa(Isa::Scalar).unwrap());
        let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        let mean = x.iter().map(|x| f64::from(x.abs())).sum::<f64>() / len as f64;
        let expected = f64::max(mean / 131_072.0, f64::from(largest) / 4_194_000.0);
        prop_assert!(step == 0.0 && largest < 1e-30 || (f64::from(step) / expected - 1.0).abs() < 1e-4, "{step} for {expected}");
        for (col, x) in x.iter().enumerate() {
            let [high, middle, low] = digits.each_ref().map(|digits| i32::from(digits[col]));
            let q = 65536 * high + 256 * middle + low;
            let error = (f64::from(*x) - f64::from(q) * f64::from(step)).abs();
            // A large integer has the roundings of f32 of its own.
            let bound = (0.51 + f64::from(q.abs()) * 2f64.powi(-22)) * f64::from(step);
            prop_assert!(error <= if step == 0.0 { 1e-30 } else { bound }, "{x} as {q} times {step}");
        }
        for kernels in kernels() {
            prop_assert_eq!(&run(kernels), &(step, digits.clone()));
        }
    }

    /// An activation that is not a number, or infinite, makes the step NaN, so that no logit behind it looks like one.
    #[test]
    fn what_is_not_finite_has_no_exact_step(len in 1usize..200, place in any::<prop::sample::Index>(), seed in any::<u64>()) {
        let mut rng = fastrand::Rng::with_seed(seed);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x: Vec<f32> = (0..len).map(|_| rng.f32() - 0.5).collect();
            x[place.index(len)] = bad;
            for kernels in kernels() {
                let mut digits = [(); 3].map(|()| vec![1; len]);
                let step = kernels.quantize_exact(&x, digits.each_mut().map(|digits| &mut digits[..]));
                prop_assert!(step.is_nan() && digits.iter().flatten().all(|digit| *digit == 0), "{bad} on {}", kernels.isa());
            }
        }
    }

    #[test]
    fn float_kernels_agree(len in 1usize..200, seed in any::<u64>()) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let a: Vec<f32> = (0..len).map(|_| (rng.f32() - 0.5) * 8.0).collect();
        let b: Vec<f32> = (0..len).map(|_| rng.f32() - 0.5).collect();
        let reference = Kernels::for_isa(Isa::Scalar).unwrap();
        for kernels in kernels() {
            let both = |f: &dyn Fn(&Kernels) -> Vec<f32>| -> Result<(), TestCaseError> {
                let (expected, found) = (f(reference), f(kernels));
                let largest = expected.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
                for (e, f) in expected.iter().zip(&found) {
                    prop_assert!((e - f).abs() <= 2e-6 * largest * (1.0 + (len as f32).sqrt() / 8.0), "{e} and {f}");
                }
                Ok(())
            };
            both(&|k| { let mut out = vec![0.0; len]; k.rms_norm(&a, &b, 1e-5, &mut out); out })?;
            both(&|k| { let mut g = a.clone(); k.silu_mul(&mut g, &b); g })?;
            both(&|k| { let mut g = a.clone(); k.relu2_mul(&mut g, &b); g })?;
            both(&|k| { let mut g = a.clone(); k.add(&mut g, &b); g })?;
            // A sum may cancel: its error is measured against the sum of the magnitudes.
            let magnitude: f32 = a.iter().zip(&b).map(|(a, b)| (a * b).abs()).sum();
            prop_assert!((kernels.dot(&a, &b) - reference.dot(&a, &b)).abs() <= 1e-6 * magnitude);
            both(&|k| { let mut x = [a.clone(), b.clone()].concat(); k.rotate(&mut x, &a, &b); x })?;
            let f16: Vec<u16> = a.iter().map(|v| half::f16::from_f32(*v).to_bits()).collect();
            let mut encoded = vec![0; len];
            kernels.encode_f16(&a, &mut encoded);
            prop_assert_eq!(&encoded, &f16);
        }
    }
}

#[test]
fn every_f16_is_converted_alike_everywhere() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    for kernels in kernels() {
        let (mut decoded, mut encoded) = (vec![0.0; all.len()], vec![0; all.len()]);
        kernels.decode_numbers(crate::attention::Numbers::F16(&all), &mut decoded);
        kernels.encode_f16(&decoded, &mut encoded);
        for ((bits, decoded), encoded) in all.iter().zip(&decoded).zip(encoded) {
            let expected = half::f16::from_bits(*bits).to_f32();
            if expected.is_nan() {
                assert!(decoded.is_nan() && half::f16::from_bits(encoded).is_nan(), "{bits:#x} on {}", kernels.isa());
            } else {
                assert_eq!((decoded.to_bits(), encoded), (expected.to_bits(), *bits), "{bits:#x} on {}", kernels.isa());
            }
        }
    }
}

/// Stored rows: decoding and multiplying give the bits of the plain decoder and the plain product.
#[test]
fn stored_rows_decode_alike_everywhere() {
    let mut rng = fastrand::Rng::with_seed(12);
    for dtype in DenseType::ALL {
        for blocks in [1, 2, 5, 37] {
            let len = blocks * dtype.block_len();
            // Random bytes but for finite scales: exponents of f16, bf16 and f32 fields stay in range.
            let mut row: Vec<u8> = (0..blocks * dtype.block_bytes()).map(|_| rng.u8(..)).collect();
            for block in row.chunks_exact_mut(dtype.block_bytes()) {
                let fields: &[usize] = match dtype {
                    DenseType::F32 => &[3],
                    DenseType::F16 | DenseType::Bf16 | DenseType::Q4_0 | DenseType::Q5_0 | DenseType::Q8_0 => &[1],
                    DenseType::Q4_1 | DenseType::Q5_1 | DenseType::Q4K | DenseType::Q5K => &[1, 3],
                    DenseType::Q6K => &[209],
                };
                fields.iter().for_each(|at| block[*at] = block[*at] & 0x80 | 0x3c);
            }
            let x: Vec<f32> = (0..len).map(|_| rng.f32() - 0.5).collect();
            let mut expected = vec![0.0; len];
            dtype.decode(&row, &mut expected);
            for kernels in kernels() {
                let mut found = vec![f32::NAN; len];
                kernels.decode_row(dtype, &row, &mut found);
                let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&found), bits(&expected), "{} on {}", dtype.name(), kernels.isa());
                let products = (kernels.dot_row(dtype, &row, &x), kernels.dot(&expected, &x));
                assert_eq!(products.0.to_bits(), products.1.to_bits(), "{} on {}", dtype.name(), kernels.isa());
            }
        }
    }
}

#[test]
fn non_finite_activations_are_told() {
    for kernels in kernels() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 7, 8, 40, 41] {
                let mut x = vec![1.0; 42];
                x[at] = bad;
                let mut q = vec![5; 42];
                assert!(kernels.quantize(&x, &mut q).is_nan(), "{bad} at {at}");
                assert!(q.iter().all(|q| *q == 0));
            }
        }
        let mut q = [9; 3];
        assert_eq!(kernels.quantize(&[0.0; 3], &mut q), 127.0 / 1e-5);
        assert_eq!(q, [0; 3]);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut digits = [[5; 42]; 3];
            let mut x = [1.0; 42];
            x[17] = bad;
            assert!(kernels.quantize_exact(&x, digits.each_mut().map(|digits| &mut digits[..])).is_nan(), "{bad}");
            assert_eq!(digits, [[0; 42]; 3]);
        }
    }
}

/// The largest values, ties, zeros and what is too small to divide by, by hand.
#[test]
fn exact_activations_have_three_digits() {
    for kernels in kernels() {
        let mut digits = [[9; 6]; 3];
        let mut quantize = |x: [f32; 6]| {
            let step = kernels.quantize_exact(&x, digits.each_mut().map(|digits| &mut digits[..]));
            (step, digits)
        };
        // The mean magnitude is 131072, so the step is 1.
        let (step, [high, middle, low]) = quantize([524_287.0, -260_976.0, 128.0, 127.5, -128.5, -785.0]);
        assert_eq!(step, 1.0);
        assert_eq!(high, [8, -4, 0, 0, 0, 0]);
        assert_eq!(middle, [0, 5, 1, 1, 0, -3]);
        assert_eq!(low, [-1, -112, -128, -128, -128, -17]);
        // One that is much larger than the rest has all three digits.
        let (step, [high, middle, low]) = quantize([4_194_000.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        let mean = 4_194_001.0 / 6.0;
        assert_eq!(step, mean / 131_072.0);
        assert_eq!((high[0], middle[0], low[0]), (12, 0, 0));
        assert_eq!((high[5], middle[5], low[5]), (0, 0, 0));
        assert_eq!(quantize([0.0, -1e-31, 0.0, 1e-38, 0.0, 0.0]), (0.0, [[0; 6]; 3]));
    }
}

/// Ties, a row of zeros and the largest value, by hand.
#[test]
fn quantisation_rounds_half_to_even() {
    for kernels in kernels() {
        let mut q = [0; 5];
        assert_eq!(kernels.quantize(&[0.5, -1.27, 0.005, 0.015, 0.0251], &mut q), 127.0 / 1.27);
        assert_eq!(q, [50, -127, 0, 2, 3]);
        let pool = Pool::new(1);
        let kernel = kernels.ternary_kernels()[0];
        let matrix = pack((kernels, kernel), (2, 4), &[1, -1, 0, 1, 0, 1, 1, -1], &pool);
        let mut x = Activations::new(kernels);
        x.quantize(kernels, &pool, Precision::Int8, &[0.5, -1.27, 0.3, 0.02], 4);
        assert_eq!(x.row(0), [50, -127, 30, 2]);
        let mut y = [0.0; 2];
        matrix.linear(
            kernels,
            &pool,
            &mut x,
            &RowScales::Uniform(0.25),
            &mut Scratch::default(),
            (Epilogue::Store, &mut y),
        );
        assert_eq!(y, [179.0 * 0.25 / (127.0f32 / 1.27), -99.0 * 0.25 / (127.0f32 / 1.27)]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Outputs added or gated where they are made are those that were stored first, bit for bit.
    #[test]
    fn epilogues_are_what_is_done_after_storing(
        rows in 1usize..100, cols_of_32 in 1usize..5, tokens in 1usize..90, grouped in any::<bool>(), exact in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let precision = if exact { Precision::Exact } else { Precision::Int8 };
        let mut rng = fastrand::Rng::with_seed(seed);
        let cols = 32 * cols_of_32;
        let trits = random_trits(&mut rng, rows * cols);
        let x: Vec<f32> = (0..tokens * cols).map(|_| rng.f32() - 0.5).collect();
        let before: Vec<f32> = (0..tokens * rows).map(|_| rng.f32() - 0.5).collect();
        let values: Vec<f32> = (0..rows).map(|_| rng.f32() + 0.1).collect();
        let scales = match grouped {
            true => RowScales::Grouped(GroupScales::new(rows, cols, &values).unwrap()),
            false => RowScales::PerRow(values),
        };
        let pool = Pool::new(2);
        let cut = grouped.then_some(cols);
        let fits = |kernel: &TernaryKernel| cut.is_none_or(|cols| kernel.can_scale(cols));
        for (kernels, kernel) in ternary_kernels().into_iter().filter(|(_, kernel)| fits(kernel)) {
            let matrix = pack((kernels, kernel), (rows, cols), &trits, &pool);
            let mut activations = Activations::new(kernels);
            activations.quantize(kernels, &pool, precision, &x, cols);
            let mut scratch = Scratch::default();
            let mut stored = vec![f32::NAN; tokens * rows];
            matrix.linear(kernels, &pool, &mut activations, &scales, &mut scratch, (Epilogue::Store, &mut stored));
            for epilogue in [Epilogue::Add, Epilogue::SiluMul, Epilogue::Relu2Mul, Epilogue::GeluMul] {
                let (mut found, mut expected) = (before.clone(), before.clone());
                matrix.linear(kernels, &pool, &mut activations, &scales, &mut scratch, (epilogue, &mut found));
                epilogue.apply(kernels, &stored, &mut expected);
                prop_assert!(found == expected, "{epilogue:?} after {} of {}", kernel.name(), kernels.isa());
            }
        }
    }

    /// Linears of one input give the same bits in one job as one after the other, with kernels and scales that may go together
    /// and such that may not.
    #[test]
    fn linears_together_are_linears_alone(
        rows in prop::array::uniform3(1usize..80), cols_of_32 in 1usize..5, tokens in 1usize..90, threads in 1usize..4,
        grouped in any::<bool>(), exact in any::<bool>(), seed in any::<u64>(),
    ) {
        let precision = if exact { Precision::Exact } else { Precision::Int8 };
        let mut rng = fastrand::Rng::with_seed(seed);
        let cols = 32 * cols_of_32;
        let x: Vec<f32> = (0..tokens * cols).map(|_| rng.f32() - 0.5).collect();
        let pool = Pool::new(threads);
        for kernels in kernels() {
            let mut matrix = |rows: usize| {
                let kernel = kernels.ternary_kernels()[rng.usize(0..kernels.ternary_kernels().len())];
                let values: Vec<f32> = (0..rows).map(|_| rng.f32() + 0.1).collect();
                let scales = match rng.u32(0..3) {
                    0 if grouped && kernel.can_scale(cols) => {
                        RowScales::Grouped(GroupScales::new(rows, cols, &values).unwrap())
                    }
                    1 => RowScales::Uniform(values[0]),
                    _ => RowScales::PerRow(values),
                };
                (pack((kernels, kernel), (rows, cols), &random_trits(&mut rng, rows * cols), &pool), scales)
            };
            // The second product has two steps, as a gate and what it lets through.
            let matrices = [matrix(rows[0]), matrix(rows[1]), matrix(rows[2]), matrix(rows[1])];
            let linear = |index: usize, epilogue| {
                let (matrix, scales) = &matrices[index];
                TernaryLinear { matrix, scales, epilogue }
            };
            let steps = [
                (linear(0, Epilogue::Store), None),
                (linear(1, Epilogue::Store), Some(linear(3, Epilogue::SiluMul))),
                (linear(2, Epilogue::Add), None),
            ];
            let mut activations = Activations::new(kernels);
            activations.quantize(kernels, &pool, precision, &x, cols);
            let mut scratch = Scratch::default();
            let (mut found, mut expected) = (rows.map(|rows| vec![0.5; tokens * rows]), rows.map(|rows| vec![0.5; tokens * rows]));
            for ((first, second), out) in steps.iter().zip(&mut expected) {
                for step in [Some(first), second.as_ref()].into_iter().flatten() {
                    let out = (step.epilogue, &mut out[..]);
                    step.matrix.linear(kernels, &pool, &mut activations, step.scales, &mut scratch, out);
                }
            }
            let [a, b, c] = &mut found;
            let product = |index: usize, out| Product { first: steps[index].0, second: steps[index].1, out };
            let mut products = [product(0, &mut a[..]), product(1, b), product(2, c)];
            linears(kernels, &pool, &mut activations, &mut scratch, &mut products);
            prop_assert!(found == expected, "{}", kernels.isa());
        }
    }

    /// Bit for bit the definition of exact activations, with one scale of the weights for a row, or one for each group of
    /// columns, on every ISA, for few tokens and many, whatever the number of threads.
    #[test]
    fn exact_activations_are_scaled_and_added_in_order(
        rows in 1usize..80, cols_of_16 in 1usize..70, groups in 1usize..4, tokens in 1usize..60, threads in 1usize..4,
        grouped in any::<bool>(), seed in any::<u64>(),
    ) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let cols = if grouped { 32 * cols_of_16.min(12) * groups } else { 16 * cols_of_16 - rng.usize(0..3) };
        let trits = random_trits(&mut rng, rows * cols);
        let x: Vec<f32> = (0..tokens * cols).map(|_| (rng.f32() - 0.5) * if rng.u32(0..50) == 0 { 40.0 } else { 1.0 }).collect();
        let values: Vec<f32> = (0..rows * groups).map(|_| rng.f32() + 0.1).collect();
        let scales = match grouped {
            true => RowScales::Grouped(GroupScales::new(rows, cols / groups, &values).unwrap()),
            false => RowScales::PerRow(values[..rows].to_vec()),
        };
        check_exact((rows, cols), &trits, &x, &scales, &Pool::new(threads));
    }

    /// Bit for bit the definition, on every ISA, for few tokens and many, whatever the number of threads.
    #[test]
    fn groups_of_columns_are_scaled_and_added_in_order(
        rows in 1usize..80, groups in 1usize..6, of_32 in 1usize..5, tokens in 1usize..90, threads in 1usize..4,
        seed in any::<u64>(),
    ) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (group_cols, cols) = (32 * of_32, 32 * of_32 * groups);
        let trits = random_trits(&mut rng, rows * cols);
        let q: Vec<i8> = (0..tokens * cols).map(|_| rng.i8(..)).collect();
        let x: Vec<f32> = q.iter().map(|q| f32::from(*q) * 0.37).collect();
        let values: Vec<f32> = (0..rows * groups).map(|_| rng.f32() + 0.1).collect();
        let scales = RowScales::Grouped(GroupScales::new(rows, group_cols, &values).unwrap());
        let pool = Pool::new(threads);
        for (kernels, kernel) in ternary_kernels().into_iter().filter(|(_, kernel)| kernel.can_scale(group_cols)) {
            let matrix = pack((kernels, kernel), (rows, cols), &trits, &pool);
            let mut activations = Activations::new(kernels);
            activations.quantize(kernels, &pool, Precision::Int8, &x, cols);
            let mut out = vec![f32::NAN; tokens * rows];
            matrix.linear(kernels, &pool, &mut activations, &scales, &mut Scratch::default(), (Epilogue::Store, &mut out));
            for (at, found) in out.iter().enumerate() {
                let (token, row) = (at / rows, at % rows);
                let dot = |group: usize| -> i32 {
                    let (trits, q) = (&trits[row * cols..][..cols], activations.row(token));
                    let range = group * group_cols..(group + 1) * group_cols;
                    range.map(|col| i32::from(trits[col]) * i32::from(q[col])).sum()
                };
                let sum = (0..groups).fold(0f32, |sum, group| sum + dot(group) as f32 * values[row * groups + group]);
                let expected = sum / activations.factors()[token];
                prop_assert_eq!(found.to_bits(), expected.to_bits(), "{} on {}", kernel.name(), kernels.isa());
            }
        }
    }
}

proptest! {
    /// Random bytes: what the scalar kernels make of them, everywhere.
    #[test]
    fn codes_and_planes_are_the_same_on_every_isa(bytes in 0usize..200, sound in any::<bool>(), seed in any::<u64>()) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let codes: Vec<u8> = (0..2 * bytes).map(|_| rng.u8(..) & if sound { 0xaa } else { 0xff }).collect();
        let mut plane = |mask: u8| (0..bytes).map(|_| rng.u8(..) & mask).collect::<Vec<u8>>();
        let (plus, minus) = (plane(0x5a), plane(if sound { 0xa5 } else { 0xff }));
        let trits: Vec<i8> = (0..8 * bytes).map(|_| rng.i8(if sound { -1..=1 } else { -3..=3 })).collect();
        let blocks: Vec<u8> = (0..bytes / 32 * 64).map(|_| rng.u8(..) & if sound { 0x55 } else { 0xff }).collect();
        let run = |kernels: &Kernels| {
            let empty = || (vec![9u8; bytes], vec![9u8; bytes]);
            let mut out = Vec::new();
            let (mut p, mut m) = empty();
            let bad = kernels.split_codes(&codes, &mut p, &mut m);
            out.push((bad, p, m));
            let mut joined = vec![9; 2 * bytes];
            let bad = kernels.join_planes(&plus, &minus, &mut joined);
            out.push((bad, joined, vec![]));
            let (mut p, mut m) = empty();
            let bad = kernels.pack_trits(&trits, &mut p, &mut m);
            out.push((bad, p, m));
            let mut unpacked = vec![9; 8 * bytes];
            let bad = kernels.unpack_trits(&plus, &minus, &mut unpacked);
            out.push((bad, unpacked.iter().map(|trit| trit.cast_unsigned()).collect(), vec![]));
            for wanted in -1..=1 {
                let count = kernels.count_trits(&trits[bytes.min(trits.len())..], wanted);
                out.push((false, count.to_le_bytes().to_vec(), vec![]));
            }
            for layout in [Strided::High32, Strided::High16, Strided::Low32] {
                let (mut p, mut m) = (vec![9; blocks.len() / 2], vec![9; blocks.len() / 2]);
                let bad = kernels.unstride(layout, &blocks, &mut p, &mut m);
                out.push((bad, p, m));
            }
            out
        };
        let scalar = run(Kernels::for_isa(Isa::Scalar).unwrap());
        prop_assert!(!sound || scalar.iter().all(|(bad, ..)| !bad));
        for kernels in kernels() {
            prop_assert_eq!(&run(kernels), &scalar, "{}", kernels.isa());
        }
    }
}

#[test]
fn counts_are_right_beyond_what_a_byte_holds() {
    let mut trits = vec![1i8; 32 * 600 + 7];
    (0..trits.len()).step_by(3).for_each(|at| trits[at] = 0);
    for kernels in kernels() {
        let counts = [-1, 0, 1].map(|wanted| kernels.count_trits(&trits, wanted));
        assert_eq!(counts, [0, 6403, 12804], "{}", kernels.isa());
    }
}

#[test]
fn groups_must_be_whole_chunks_of_columns() {
    assert!(GroupScales::new(2, 16, &[1.0; 4]).is_none());
    assert!(GroupScales::new(2, 64, &[1.0; 5]).is_none());
    assert!(GroupScales::new(0, 64, &[]).is_none());
    let scales = GroupScales::new(2, 64, &[1.0, 2.0, 3.0, 4.0]).unwrap();
    assert_eq!((scales.get(0, 127), scales.get(1, 0), scales.cols()), (2.0, 3.0, 64));
}

#[test]
fn exp_is_accurate_over_its_range() {
    for kernels in kernels() {
        // silu(x) / x = 1 / (1 + exp(-x)) exposes exp; up = 1 / x where x is not 0.
        for i in -8000..8000 {
            let x = i as f32 / 100.0 + 0.005;
            let mut gate = [x; 8];
            kernels.silu_mul(&mut gate, &[1.0 / x; 8]);
            let expected = 1.0 / (1.0 + (-f64::from(x)).exp());
            assert!((f64::from(gate[3]) - expected).abs() <= 4e-7 * expected.max(1e-30), "{}: {x}", kernels.isa());
        }
    }
}

struct Attended {
    blocks: Vec<Arc<KvBlock>>,
    q: Vec<f32>,
    window: Option<usize>,
    scalar: Option<f32>,
}

const LAYERS: usize = 3;
/// The layer that is attended to; what the others hold must not matter.
const LAYER: usize = 1;

const HEADS: usize = 2;
/// Four heads that are taken together, and one that is left.
const GROUP: usize = 5;

fn empty(kind: KvType, positions: usize, head_dim: usize) -> Vec<Arc<KvBlock>> {
    let block = || Arc::new(KvBlock::new(kind, KvShape { layers: LAYERS, heads: HEADS, head_dim }).unwrap());
    (0..positions.div_ceil(BLOCK)).map(|_| block()).collect()
}

fn write(blocks: &mut [Arc<KvBlock>], kernels: &Kernels, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
    let block = Arc::get_mut(&mut blocks[position / BLOCK]).unwrap();
    block.write(kernels, layer, position % BLOCK, keys, values);
}

fn attended(kernels: &Kernels, kind: KvType, positions: usize, dim: usize) -> Attended {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut numbers = |n: usize| -> Vec<f32> { (0..n).map(|_| (rng.f32() - 0.5) * 4.0).collect() };
    let mut blocks = empty(kind, positions, dim);
    let nothing = vec![f32::NAN; HEADS * dim];
    for position in 0..positions {
        let (keys, values) = (numbers(HEADS * dim), numbers(HEADS * dim));
        write(&mut blocks, kernels, LAYER, position, &keys, &values);
        write(&mut blocks, kernels, LAYER - 1, position, &nothing, &nothing);
        write(&mut blocks, kernels, LAYER + 1, position, &nothing, &nothing);
    }
    let q = numbers(positions * HEADS * GROUP * dim);
    Attended { blocks, q, window: None, scalar: None }
}

impl Attended {
    fn run(&self, kernels: &Kernels, pool: &Pool, dim: usize, positions: std::ops::Range<usize>) -> Vec<f32> {
        let width = HEADS * GROUP * dim;
        let q = &self.q[positions.start * width..positions.end * width];
        let (position, tokens) = (positions.start, positions.len());
        let (blocks, window) = (&self.blocks[..], self.window);
        let sequence = Sequence { blocks, layer: LAYER, window, position, row: 0, tokens };
        let mut out = vec![f32::NAN; q.len()];
        attention(
            kernels,
            pool,
            Sequences::new(1, &|_| sequence),
            (GROUP, self.scalar),
            q,
            &mut AttentionScratch::default(),
            &mut out,
        );
        out
    }

    /// Softmax attention of one position in f64, from rows read back through a one-position query.
    fn reference(&self, keys: &[f32], values: &[f32], dim: usize, position: usize, head: usize) -> Vec<f64> {
        let q = &self.q[(position * HEADS * GROUP + head) * dim..][..dim];
        let row = |rows: &[f32], p: usize| rows[(p * HEADS + head / GROUP) * dim..][..dim].to_vec();
        let score = |p: usize| -> f64 {
            let sum = row(keys, p).iter().zip(q).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            sum / self.scalar.map_or(dim as f64, f64::from).sqrt()
        };
        let first = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let weights: Vec<f64> = (0..=position).map(|p| if p < first { 0.0 } else { score(p).exp() }).collect();
        let sum: f64 = weights.iter().sum();
        let mut out = vec![0.0; dim];
        for (p, weight) in weights.iter().enumerate() {
            for (out, value) in out.iter_mut().zip(row(values, p)) {
                *out += weight / sum * f64::from(value);
            }
        }
        out
    }
}

#[test]
fn attention_equals_the_definition() {
    for (positions, dim) in [(1, 8), (70, 16), (300, 12), (65, 100)] {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut numbers = |n: usize| -> Vec<f32> { (0..n).map(|_| (rng.f32() - 0.5) * 4.0).collect() };
        let (mut keys, mut values) = (vec![], vec![]);
        for _ in 0..positions {
            keys.extend(numbers(HEADS * dim));
            values.extend(numbers(HEADS * dim));
        }
        let windows = [(None, None), (Some(1), None), (Some(16), Some(64.0)), (Some(100), None), (Some(1000), None)];
        for (kernels, (window, scalar)) in kernels().into_iter().flat_map(|k| windows.map(|window| (k, window))) {
            let attended = Attended { window, scalar, ..attended(kernels, KvType::F32, positions, dim) };
            let out = attended.run(kernels, &Pool::new(1), dim, 0..positions);
            // Neither threads nor the way a prompt is cut change a bit.
            let last = attended.run(kernels, &Pool::new(3), dim, positions - 1..positions);
            assert!(out.ends_with(&last), "{window:?} on {}", kernels.isa());
            for position in [0, positions / 2, positions - 1] {
                for head in 0..HEADS * GROUP {
                    let expected = attended.reference(&keys, &values, dim, position, head);
                    let found = &out[(position * HEADS * GROUP + head) * dim..][..dim];
                    for (e, f) in expected.iter().zip(found) {
                        assert!(
                            (e - f64::from(*f)).abs() < 1e-5,
                            "{}: position {position}: {e} and {f}",
                            kernels.isa()
                        );
                    }
                }
            }
        }
    }
}

/// Blocks that are shared and a last one that is a copy are attended to as the originals are.
#[test]
fn shared_and_copied_blocks_give_the_same_attention() {
    let (positions, dim) = (600, 16);
    for kernels in kernels() {
        for kind in [KvType::F16, KvType::F32, KvType::Int8] {
            let from = attended(kernels, kind, positions, dim);
            let mut last = empty(kind, 1, dim);
            Arc::get_mut(&mut last[0]).unwrap().copy_from(from.blocks.last().unwrap());
            let blocks = from.blocks[..positions / BLOCK].iter().chain(&last).cloned().collect();
            let copy = Attended { blocks, q: from.q.clone(), ..attended(kernels, kind, 1, dim) };
            let run = |attended: &Attended| attended.run(kernels, &Pool::new(1), dim, positions - 1..positions);
            assert!(run(&copy) == run(&from), "{kind:?} on {}", kernels.isa());
        }
    }
}

/// What is stored in fewer bits gives what the same rounded numbers give in f32, on every ISA.
#[test]
fn stored_numbers_are_what_they_were_rounded_to() {
    let (positions, dim) = (150, 40);
    for kind in [KvType::F16, KvType::Int8] {
        let rounded = |x: &[f32]| -> Vec<f32> {
            let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            let int8 = |x: f32| (x * (127.0 / largest)).round_ties_even() * (largest / 127.0);
            x.iter().map(|x| if kind == KvType::F16 { half::f16::from_f32(*x).to_f32() } else { int8(*x) }).collect()
        };
        for kernels in kernels() {
            let mut rng = fastrand::Rng::with_seed(31);
            let mut numbers = |n: usize| -> Vec<f32> { (0..n).map(|_| (rng.f32() - 0.5) * 4.0).collect() };
            let (mut stored, mut plain) = (empty(kind, positions, dim), empty(KvType::F32, positions, dim));
            for position in 0..positions {
                let rows = [numbers(HEADS * dim), numbers(HEADS * dim)];
                write(&mut stored, kernels, LAYER, position, &rows[0], &rows[1]);
                let rows = rows.map(|rows| rows.chunks(dim).flat_map(rounded).collect::<Vec<f32>>());
                write(&mut plain, kernels, LAYER, position, &rows[0], &rows[1]);
            }
            let q = numbers(positions * HEADS * GROUP * dim);
            let (window, scalar) = (None, None);
            let stored = Attended { blocks: stored, q: q.clone(), window, scalar };
            let plain = Attended { blocks: plain, q, window, scalar };
            let run = |attended: &Attended| attended.run(kernels, &Pool::new(1), dim, 0..positions);
            for (found, expected) in run(&stored).iter().zip(run(&plain)) {
                assert!((found - expected).abs() < 2e-5, "{kind:?} on {}: {found} and {expected}", kernels.isa());
            }
        }
    }
}

/// The kernels against the scalar ones: every type, every number of heads, every width.
#[test]
fn attention_kernels_agree() {
    let mut rng = fastrand::Rng::with_seed(32);
    let scalar = Kernels::for_isa(Isa::Scalar).unwrap();
    for (heads, dims, positions) in [(1, 64, 64), (4, 128, 64), (5, 100, 33), (8, 8, 1), (3, 17, 7), (6, 80, 50)] {
        let f16: Vec<u16> = (0..dims * BLOCK).map(|_| half::f16::from_f32(rng.f32() * 4.0 - 2.0).to_bits()).collect();
        let f32: Vec<f32> = (0..dims * BLOCK).map(|_| rng.f32() * 4.0 - 2.0).collect();
        let int8: Vec<i8> = (0..dims * BLOCK).map(|_| rng.i8(-127..=127)).collect();
        let q: Vec<f32> = (0..heads * dims).map(|_| rng.f32() - 0.5).collect();
        let p: Vec<[f32; BLOCK]> = (0..heads).map(|_| std::array::from_fn(|_| rng.f32())).collect();
        let shrink: Vec<f32> = (0..heads).map(|_| rng.f32()).collect();
        let seen = positions * dims;
        let all = [Numbers::F16(&f16), Numbers::F32(&f32), Numbers::Int8(&int8)];
        let some = [Numbers::F16(&f16[..seen]), Numbers::F32(&f32[..seen]), Numbers::Int8(&int8[..seen])];
        for (keys, values) in all.into_iter().zip(some) {
            let run = |kernels: &Kernels| {
                let mut scores = vec![[f32::NAN; BLOCK]; heads];
                kernels.scores(&q, keys, Some(values), &mut scores);
                let mut out = q.clone();
                kernels.accumulate(&mut out, &shrink, &p, values, Some(keys));
                let mut decoded = vec![f32::NAN; values.len()];
                kernels.decode_numbers(values, &mut decoded);
                let (raw, mut weights) = (scores.clone(), Vec::new());
                for scores in &mut scores {
                    let mut state = Softmax { max: 0.5, sum: 2.0 };
                    let shrink = kernels.softmax(scores, positions, 0.01, &mut state);
                    weights.extend_from_slice(scores);
                    weights.extend([shrink, state.sum]);
                }
                (raw, out, decoded, weights)
            };
            let expected = run(scalar);
            for kernels in kernels() {
                let found = run(kernels);
                assert_eq!(found.2, expected.2, "{}", kernels.isa());
                let near = |found: &[f32], expected: &[f32]| {
                    let largest = expected.iter().fold(1f32, |largest, x| largest.max(x.abs()));
                    found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-5 * largest)
                };
                assert!(near(found.0.as_flattened(), expected.0.as_flattened()), "{}: scores", kernels.isa());
                assert!(near(&found.1, &expected.1), "{}: sums", kernels.isa());
                assert!(near(&found.3, &expected.3), "{}: weights", kernels.isa());
            }
        }
    }
}

/// A token's attention is the same alone, in any chunk, on any number of threads (which also decides how work is split).
#[test]
fn attention_does_not_depend_on_company() {
    let (positions, dim) = (1300, 24);
    for kernels in kernels() {
        for kind in [KvType::F16, KvType::F32, KvType::Int8] {
            let attended = attended(kernels, kind, positions, dim);
            let all = attended.run(kernels, &Pool::new(1), dim, 0..positions);
            let width = HEADS * GROUP * dim;
            for threads in [1, 2, 5] {
                let pool = Pool::new(threads);
                for range in [0..1, 63..65, 250..300, 1024..1025, 1299..1300, 700..1300] {
                    let expected = &all[range.start * width..range.end * width];
                    assert!(
                        attended.run(kernels, &pool, dim, range.clone()) == expected,
                        "{threads} threads, {range:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn dense_products_do_not_depend_on_company() {
    let mut rng = fastrand::Rng::with_seed(3);
    let (rows, cols, tokens) = (37, 67, 5);
    let weights: Vec<f32> = (0..rows * cols).map(|_| half::f16::from_f32(rng.f32() - 0.5).to_f32()).collect();
    let x: Vec<f32> = (0..tokens * cols).map(|_| rng.f32() - 0.5).collect();
    for dtype in [DenseType::F32, DenseType::F16] {
        let encode = |v: &f32| match dtype {
            DenseType::F16 => half::f16::from_f32(*v).to_le_bytes().to_vec(),
            _ => v.to_le_bytes().to_vec(),
        };
        let bytes: Vec<u8> = weights.iter().flat_map(encode).collect();
        let row_bytes = dtype.row_bytes(cols).unwrap();
        for kernels in kernels() {
            let pool = Pool::new(3);
            let matrix = DenseMatrix::load(
                (rows, cols),
                dtype,
                &pool,
                |e| e,
                |row, out| {
                    out.copy_from_slice(&bytes[row * row_bytes..][..out.len()]);
                    Ok::<(), std::io::Error>(())
                },
            )
            .unwrap();
            let mut scratch = DenseScratch::default();
            let mut all = vec![0.0; tokens * rows];
            matrix.linear(kernels, &pool, &x, &mut scratch, &mut all);
            for token in 0..tokens {
                let mut one = vec![0.0; rows];
                let x = &x[token * cols..(token + 1) * cols];
                matrix.linear(kernels, &Pool::new(1), x, &mut scratch, &mut one);
                assert_eq!(one, all[token * rows..(token + 1) * rows], "{}", kernels.isa());
                for (row, found) in one.iter().enumerate() {
                    let expected: f32 = weights[row * cols..][..cols].iter().zip(x).map(|(w, x)| w * x).sum();
                    assert!((expected - found).abs() < 1e-5);
                }
            }
        }
    }
}
