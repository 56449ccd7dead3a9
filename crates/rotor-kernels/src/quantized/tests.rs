//! Every available ISA against the definition: integers bit for bit, sums of floats within their rounding.

use super::scalar::runs;
use super::{BLOCK, BlockActivations, LARGEST, PANEL, Panel, takes_blocks};
use crate::matrix::DenseMatrix;
use crate::{DenseType, Isa, Kernels, Pool};
use proptest::prelude::*;

fn kernels() -> impl Iterator<Item = &'static Kernels> {
    Isa::available().filter_map(Kernels::for_isa)
}

fn types() -> impl Iterator<Item = DenseType> {
    DenseType::ALL.into_iter().filter(|dtype| takes_blocks(*dtype))
}

const ONE: [u8; 2] = [0x00, 0x3c];

/// Where a block keeps its binary16 numbers.
fn halves(dtype: DenseType) -> &'static [usize] {
    match dtype {
        DenseType::Q4_1 | DenseType::Q5_1 | DenseType::Q4K | DenseType::Q5K => &[0, 2],
        DenseType::Q6K => &[208],
        _ => &[0],
    }
}

/// Random blocks whose binary16 numbers are `half`.
fn random_row(
    dtype: DenseType,
    cols: usize,
    rng: &mut fastrand::Rng,
    half: impl Fn(&mut fastrand::Rng) -> [u8; 2],
) -> Vec<u8> {
    let mut row: Vec<u8> = (0..dtype.row_bytes(cols).unwrap()).map(|_| rng.u8(..)).collect();
    for block in row.chunks_exact_mut(dtype.block_bytes()) {
        for &at in halves(dtype) {
            block[at..at + 2].copy_from_slice(&half(rng));
        }
    }
    row
}

/// Stored scales and minima small enough for sums of integers to stay exact in f32.
fn tame(dtype: DenseType, row: &mut [u8]) {
    for block in row.chunks_exact_mut(dtype.block_bytes()) {
        match dtype {
            DenseType::Q4K | DenseType::Q5K => block[4..16].iter_mut().for_each(|byte| *byte &= 3),
            DenseType::Q6K => block[192..208].iter_mut().for_each(|scale| *scale = (*scale % 7).wrapping_sub(3)),
            _ => {}
        }
    }
}

/// Whole numbers, small but for one in each panel, the largest there is: then all scales are 1.
fn whole_numbers(rng: &mut fastrand::Rng, cols: usize) -> Vec<f32> {
    let mut x: Vec<f32> = (0..cols).map(|_| f32::from(rng.i8(-127..=127))).collect();
    for panel in x.chunks_mut(PANEL) {
        let largest = f32::from(LARGEST);
        panel[rng.usize(0..panel.len())] = if rng.bool() { largest } else { -largest };
    }
    x
}

fn activations(x: &[f32], cols: usize) -> BlockActivations {
    let mut activations = BlockActivations::default();
    activations.quantize(&Pool::new(1), x, cols);
    activations
}

fn products(kernels: &Kernels, dtype: DenseType, rows: &[u8], x: &BlockActivations) -> Vec<f32> {
    let count = rows.len() / dtype.row_bytes(x.cols()).unwrap();
    let panels: Vec<&[Panel]> = (0..x.tokens()).map(|token| x.token(token)).collect();
    let mut out = vec![f32::NAN; count * panels.len()];
    kernels.block_products((dtype, x.cols()), rows, &panels, &mut out);
    out
}

/// The definition in i64, for scales of 1: `out[row][token]`.
fn exact(dtype: DenseType, rows: &[u8], x: &[f32], cols: usize) -> Vec<f32> {
    let mut out = Vec::new();
    for row in rows.chunks_exact(dtype.row_bytes(cols).unwrap()) {
        let weights: Vec<(i64, i64, i64)> =
            weights(dtype, row).map(|(a, c, m)| (a as i64, i64::from(c), m as i64)).collect();
        for x in x.chunks_exact(cols) {
            let sum: i64 = weights.iter().zip(x).map(|((a, code, m), x)| (a * code + m) * *x as i64).sum();
            assert_eq!(sum as f32 as i64, sum, "a sum that f32 holds");
            out.push(sum as f32);
        }
    }
    out
}

/// `(a, code, m)` of every weight.
fn weights(dtype: DenseType, row: &[u8]) -> impl Iterator<Item = (f32, i16, f32)> {
    let parts = dtype.block_len() / BLOCK;
    row.chunks_exact(dtype.block_bytes()).flat_map(move |block| {
        (0..parts).flat_map(move |part| {
            runs(dtype, block, part).into_iter().flat_map(|run| run.codes.map(|code| (run.a, code, run.m)))
        })
    })
}

#[test]
fn the_codes_are_those_of_the_decoder() {
    let mut rng = fastrand::Rng::with_seed(21);
    for dtype in types() {
        let row = random_row(dtype, 1024, &mut rng, |rng| [rng.u8(..), 0x38 | rng.u8(..) & 0x83]);
        let mut decoded = vec![0.0; 1024];
        dtype.decode(&row, &mut decoded);
        for ((a, code, m), expected) in weights(dtype, &row).zip(decoded) {
            let tolerance = 1e-6 * (a.abs() * f32::from(code.abs()) + m.abs());
            assert!((a * f32::from(code) + m - expected).abs() <= tolerance, "{}", dtype.name());
        }
    }
}

/// The largest activations and weights there are: an int32 that overflowed would be far off.
#[test]
fn products_are_right_at_the_bounds() {
    for dtype in types() {
        let cols = PANEL;
        let mut rng = fastrand::Rng::with_seed(22);
        for fill in [0x00, 0xff, 0x80, 0x7f, 0xf0, 0x0f] {
            let mut row = random_row(dtype, cols, &mut rng, |_| ONE);
            for block in row.chunks_exact_mut(dtype.block_bytes()) {
                for (at, byte) in block.iter_mut().enumerate() {
                    let is_half = halves(dtype).iter().any(|&half| at == half || at == half + 1);
                    match dtype {
                        _ if is_half => {}
                        DenseType::Q4K | DenseType::Q5K if (4..16).contains(&at) => *byte = 0xff,
                        DenseType::Q6K if (192..208).contains(&at) => *byte = 0x80,
                        _ => *byte = fill,
                    }
                }
            }
            let x: Vec<f32> = [1.0, -1.0].iter().flat_map(|sign| vec![sign * f32::from(LARGEST); cols]).collect();
            for kernels in kernels() {
                let found = products(kernels, dtype, &row, &activations(&x, cols));
                for (found, x) in found.into_iter().zip(x.chunks_exact(cols)) {
                    let terms = weights(dtype, &row).zip(x);
                    let terms = terms.map(|((a, c, m), x)| (f64::from(a) * f64::from(c), f64::from(m), f64::from(*x)));
                    let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), (w, m, x)| {
                        (sum + (w + m) * x, size + (w.abs() + m.abs()) * x.abs())
                    });
                    let off = (f64::from(found) - sum).abs();
                    assert!(off <= 1e-6 * size, "{} of {fill:#x} on {}: {found}, {sum}", dtype.name(), kernels.isa());
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// With scales of 1 a product is an integer: every ISA finds it, for every number of tokens, rows and blocks.
    #[test]
    fn products_are_exact(kind in 0usize..8, blocks in 1usize..12, rows in 1usize..4, tokens in 1usize..20, seed in any::<u64>()) {
        let dtype = types().nth(kind).unwrap();
        let cols = if dtype.block_len() == PANEL { PANEL * blocks.div_ceil(6) } else { BLOCK * blocks };
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut stored: Vec<u8> = (0..rows).flat_map(|_| random_row(dtype, cols, &mut rng, |_| ONE)).collect();
        tame(dtype, &mut stored);
        let x: Vec<f32> = (0..tokens).flat_map(|_| whole_numbers(&mut rng, cols)).collect();
        let expected = exact(dtype, &stored, &x, cols);
        for kernels in kernels() {
            let found = products(kernels, dtype, &stored, &activations(&x, cols));
            prop_assert_eq!(&found, &expected, "{} on {}", dtype.name(), kernels.isa());
        }
    }

    /// With any scales, the floats agree within their rounding, and a token has the same bits in any company.
    #[test]
    fn products_agree(kind in 0usize..8, blocks in 1usize..40, tokens in 1usize..20, seed in any::<u64>()) {
        let dtype = types().nth(kind).unwrap();
        let cols = if dtype.block_len() == PANEL { PANEL * blocks.div_ceil(8) } else { BLOCK * blocks };
        let mut rng = fastrand::Rng::with_seed(seed);
        let row = random_row(dtype, cols, &mut rng, |rng| [rng.u8(..), 0x30 | rng.u8(..) & 0x83]);
        let x: Vec<f32> = (0..tokens * cols).map(|_| (rng.f32() - 0.5) * 8.0).collect();
        let scalar = Kernels::for_isa(Isa::Scalar).unwrap();
        let expected = products(scalar, dtype, &row, &activations(&x, cols));
        for kernels in kernels() {
            let found = products(kernels, dtype, &row, &activations(&x, cols));
            for (token, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let x = &x[token * cols..][..cols];
                let size: f32 = weights(dtype, &row).zip(x).map(|((a, c, m), x)| ((a * f32::from(c)).abs() + m.abs()) * x.abs()).sum();
                prop_assert!((found - expected).abs() <= 1e-6 * size, "{} on {}: {found} and {expected}", dtype.name(), kernels.isa());
                let alone = products(kernels, dtype, &row, &activations(x, cols));
                prop_assert_eq!(alone[0].to_bits(), found.to_bits(), "{} on {}", dtype.name(), kernels.isa());
            }
        }
    }
}

#[test]
fn what_is_quantised_is_near_what_was_given() {
    for scale in [1e-20, 0.3, 5e30] {
        let x: Vec<f32> = (0..288).map(|i| (i as f32 * 0.37).sin() * scale).collect();
        let activations = activations(&x, 288);
        for (panel, x) in activations.token(0).iter().zip(x.chunks(PANEL)) {
            for (column, x) in x.iter().enumerate() {
                let found = f32::from(panel.x(column)) * panel.scale;
                assert!((found - x).abs() <= panel.scale * 0.51, "{x} became {found}");
            }
            assert!((0..PANEL).any(|column| panel.x(column).abs() == LARGEST));
            assert!((x.len()..PANEL).all(|column| panel.x(column) == 0));
            for (half, sum) in panel.half_sums.iter().enumerate() {
                let expected: i32 = (16 * half..16 * half + 16).map(|column| i32::from(panel.x(column))).sum();
                assert_eq!(*sum, expected as f32 * panel.scale);
            }
        }
    }
    let near = [f32::from(LARGEST), 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.499, 64.0, -64.0, -65.0];
    let x: Vec<f32> = near.into_iter().chain([0.0; 21]).collect();
    let panel = activations(&x, 32).token(0)[0];
    let found: [i16; 11] = std::array::from_fn(|column| panel.x(column));
    assert_eq!(found, [LARGEST, 0, 2, 2, 0, -2, -2, 0, 64, -64, -65]);
    let nothing = activations(&[1e-35; 32], 32).token(0)[0];
    assert!(nothing.scale == 0.0 && (0..PANEL).all(|column| nothing.x(column) == 0));
}

/// One large activation leaves the others beside it the precision of a 32,000th of it.
#[test]
fn small_activations_are_not_swallowed_by_a_large_neighbour() {
    let mut rng = fastrand::Rng::with_seed(29);
    let x: Vec<f32> = (0..512).map(|i| if i % 32 == 7 { 1000.0 } else { rng.f32() - 0.5 }).collect();
    for (panel, x) in activations(&x, 512).token(0).iter().zip(x.chunks(PANEL)) {
        for (column, x) in x.iter().enumerate() {
            let found = f32::from(panel.x(column)) * panel.scale;
            assert!((found - x).abs() <= 1000.0 / 32_000.0, "{x} became {found}");
        }
    }
}

#[test]
fn what_is_no_number_is_carried_on() {
    for kernels in kernels() {
        for dtype in types() {
            let row = random_row(dtype, 256, &mut fastrand::Rng::with_seed(5), |_| ONE);
            let mut x = vec![1.0; 512];
            x[300] = f32::NAN;
            let found = products(kernels, dtype, &row, &activations(&x, 256));
            assert!(found[0].is_finite() && found[1].is_nan(), "{} on {}: {found:?}", dtype.name(), kernels.isa());
        }
    }
}

#[test]
fn a_matrix_does_not_depend_on_threads_or_tokens() {
    let mut rng = fastrand::Rng::with_seed(23);
    for (dtype, cols, rows) in [(DenseType::Q8_0, 96, 71), (DenseType::Q6K, 512, 40), (DenseType::Q4K, 256, 33)] {
        let stored: Vec<u8> =
            (0..rows).flat_map(|_| random_row(dtype, cols, &mut rng, |rng| [rng.u8(..), 0x30])).collect();
        let row_bytes = dtype.row_bytes(cols).unwrap();
        let x: Vec<f32> = (0..37 * cols).map(|_| rng.f32() - 0.5).collect();
        let read = |row: usize, out: &mut [u8]| {
            out.copy_from_slice(&stored[row * row_bytes..][..out.len()]);
            Ok::<(), std::io::Error>(())
        };
        let matrix = DenseMatrix::load((rows, cols), dtype, &Pool::new(1), |e| e, read).unwrap();
        assert!(matrix.takes_blocks());
        for kernels in kernels() {
            let mut all = vec![f32::NAN; 37 * rows];
            matrix.linear_blocks(kernels, &Pool::new(3), &activations(&x, cols), &mut all);
            let mut decoded = vec![0.0; cols];
            for (token, x) in x.chunks_exact(cols).enumerate() {
                let mut one = vec![f32::NAN; rows];
                matrix.linear_blocks(kernels, &Pool::new(1), &activations(x, cols), &mut one);
                assert_eq!(one, all[token * rows..][..rows], "{} on {}", dtype.name(), kernels.isa());
                for (row, found) in one.iter().enumerate() {
                    matrix.row(kernels, row, &mut decoded);
                    let size =
                        decoded.iter().map(|w| w * w).sum::<f32>().sqrt() * x.iter().map(|x| x * x).sum::<f32>().sqrt();
                    let expected: f32 = decoded.iter().zip(x).map(|(w, x)| w * x).sum();
                    assert!((expected - found).abs() < 2e-5 * size, "{}: {expected} and {found}", dtype.name());
                }
            }
        }
    }
}
