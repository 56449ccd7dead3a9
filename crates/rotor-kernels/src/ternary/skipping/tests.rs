//! Every ISA's kernels against the plain product, integers bit for bit.

use super::layout::{FIVES, FOURS, MAX_LINE_WEIGHTS};
use super::order::BYTES;
use super::threes::{ORDER, THREES};
use super::{
    AHEAD, BLOCK_ROWS, LINE, MultiplyColumns, MultiplyRows, SkippingKernel, SkippingLinear, SkippingMatrix,
    SkippingPanels, Skips, gate_up, scalar,
};
use crate::ternary::{
    Activations, Precision, RowScales, Scratch, TILE_ROWS, TernaryKernel, TernaryLinear, TernaryMatrix,
};
use crate::{Epilogue, Isa, Kernels, Pool};
use proptest::prelude::*;

fn kernels() -> Vec<&'static Kernels> {
    let all: Vec<_> = Isa::available().filter_map(Kernels::for_isa).filter(|kernels| kernels.can_skip()).collect();
    println!(
        "rows and columns left out: {}",
        all.iter().map(|kernels| kernels.isa().name()).collect::<Vec<_>>().join(", ")
    );
    all
}

/// What may multiply many tokens.
fn dense_kernels(kernels: &Kernels) -> Vec<&'static TernaryKernel> {
    kernels.ternary_kernels().iter().copied().filter(|dense| SkippingKernel::new(kernels, dense).is_some()).collect()
}

fn random_trits(rng: &mut fastrand::Rng, len: usize) -> Vec<i8> {
    (0..len).map(|_| rng.i8(-1..=1)).collect()
}

fn pack(kernels: &Kernels, shape: (usize, usize), skips: Skips, trits: &[i8], pool: &Pool) -> SkippingMatrix {
    pack_for(kernels, dense_kernels(kernels)[0], shape, skips, trits, pool)
}

fn pack_for(
    kernels: &Kernels,
    dense: &'static TernaryKernel,
    (rows, cols): (usize, usize),
    skips: Skips,
    trits: &[i8],
    pool: &Pool,
) -> SkippingMatrix {
    let read_row = |row: usize, out: &mut [i8]| {
        out.copy_from_slice(&trits[row * cols..(row + 1) * cols]);
        Ok(())
    };
    SkippingMatrix::pack(
        (rows, cols),
        skips,
        SkippingKernel::new(kernels, dense).unwrap(),
        pool,
        |error| error,
        read_row,
    )
    .unwrap()
}

/// The definition.
fn product((rows, cols): (usize, usize), trits: &[i8], x: &[i8]) -> Vec<i32> {
    let dot = |x: &[i8], row: usize| -> i32 {
        trits[row * cols..][..cols].iter().zip(x).map(|(w, x)| i32::from(*w) * i32::from(*x)).sum()
    };
    x.chunks_exact(cols).flat_map(|x| (0..rows).map(move |row| dot(x, row))).collect()
}

fn check_dot(kernels: &Kernels, shape: (usize, usize), threads: usize, trits: &[i8], x: &[i8]) {
    check_dot_by(kernels, dense_kernels(kernels)[0], shape, threads, trits, x);
}

/// Many tokens by `dense`.
fn check_dot_by(
    kernels: &Kernels,
    dense: &'static TernaryKernel,
    (rows, cols): (usize, usize),
    threads: usize,
    trits: &[i8],
    x: &[i8],
) {
    let (pool, expected) = (Pool::new(threads), product((rows, cols), trits, x));
    for skips in [Skips::Rows, Skips::Columns] {
        let matrix = pack_for(kernels, dense, (rows, cols), skips, trits, &pool);
        let mut activations = Activations::new(kernels);
        activations.set(kernels, x, cols);
        let mut out = vec![i32::MIN; expected.len()];
        matrix.dot(kernels, &pool, &mut activations, &mut Scratch::default(), &mut out);
        assert!(out == expected, "{skips:?} on {}, {rows} x {cols}, {} tokens", kernels.isa(), x.len() / cols);
    }
}

/// Activations of which so many in a hundred are not zero.
fn sparse(rng: &mut fastrand::Rng, len: usize, density: u32) -> Vec<i8> {
    (0..len).map(|_| if rng.u32(0..100) < density { rng.i8(..) } else { 0 }).collect()
}

#[test]
fn a_byte_is_its_trits_and_every_row_has_a_place() {
    for layout in [&FIVES, &FOURS] {
        for (value, byte) in layout.encode.iter().enumerate().take(3usize.pow(layout.digits as u32)) {
            let codes = &layout.decode[usize::from(*byte)][..layout.digits];
            assert_eq!(codes.iter().rev().fold(0, |value, code| 3 * value + usize::from(*code)), value);
        }
        assert!(layout.decode[usize::from(layout.zeros())].iter().all(|code| *code == 1));
        let all = (0..LINE).flat_map(|byte| (0..layout.digits).map(move |digit| layout.row_of(byte, digit)));
        let mut rows: Vec<usize> = all.collect();
        rows.sort_unstable();
        assert!(rows.into_iter().eq(0..layout.line_weights()));
    }
}

#[test]
fn products_are_exact_at_the_bounds() {
    for kernels in kernels() {
        for (rows, cols) in [(65, 2560), (321, 1700), (5, 240), (1, 1), (2, 321), (640, 64)] {
            for x in [127, -128i8] {
                for fill in [1, -1, 0] {
                    for tokens in [1, 2, 4] {
                        check_dot(kernels, (rows, cols), 2, &vec![fill; rows * cols], &vec![x; tokens * cols]);
                    }
                }
            }
        }
    }
}

/// Kernels for rows and columns beside the plain ones of the same layout, on bytes that no matrix made.
#[test]
fn kernels_equal_their_plain_twins() {
    let mut rng = fastrand::Rng::with_seed(8);
    for kernels in kernels() {
        let skipping = kernels.ternary.skipping.unwrap();
        let (layout, plain) = (skipping.layout, if skipping.layout.digits == 5 { twins::<5>() } else { twins::<4>() });
        for (lines, tokens) in [(1, 1), (3, 2), (2, 3), (5, 4), (17, 1), (40, 4)] {
            let (rows, values) = (7, 3usize.pow(layout.digits as u32));
            let bytes: Vec<u8> = (0..rows * lines * LINE).map(|_| layout.encode[rng.usize(0..values)]).collect();
            let width = lines * layout.line_weights();
            let x: Vec<Vec<i8>> = (0..tokens).map(|_| (0..width).map(|_| rng.i8(..)).collect()).collect();
            let x: Vec<&[i8]> = x.iter().map(|x| &x[..]).collect();
            let list: Vec<u32> = (0..11).map(|_| rng.u32(0..rows as u32)).collect();
            let product = |rows: MultiplyRows| {
                let mut out = vec![i32::MIN; tokens * list.len()];
                // SAFETY: the CPU has the ISA; places are of the rows, tokens have as many activations as these have columns.
                unsafe { rows(&bytes, lines, &list, &x, &mut out) };
                out
            };
            assert_eq!(product(skipping.rows), product(plain.0), "rows on {}", kernels.isa());
            let columns = 4 * lines;
            let places: Vec<u32> = (0..columns + AHEAD).map(|_| rng.u32(0..(rows * lines) as u32)).collect();
            let x: Vec<&[i8]> = x.iter().map(|x| &x[..columns]).collect();
            let product = |columns: MultiplyColumns| {
                let mut sums = vec![[i32::MIN; MAX_LINE_WEIGHTS]; tokens];
                // SAFETY: the CPU has the ISA; places are of lines, and go on beyond the activations.
                unsafe { columns(&bytes, &places, &x, &mut sums) };
                sums.into_iter().map(|sums| sums[..layout.line_weights()].to_vec()).collect::<Vec<_>>()
            };
            assert_eq!(product(skipping.columns), product(plain.1), "columns on {}", kernels.isa());
        }
    }
}

/// Panels of rows and of columns beside the plain ones, on bytes that no matrix made.
#[test]
fn panels_equal_their_plain_twins() {
    let all = Isa::available().filter_map(Kernels::for_isa).filter_map(|kernels| kernels.ternary.skipping?.panels);
    let mut all: Vec<&SkippingPanels> = all.collect();
    // These have no instruction that AVX2 lacks.
    #[cfg(target_arch = "x86_64")]
    if Isa::available().any(|isa| isa == Isa::Avx2) {
        all.push(&super::avx_vnni::PANELS);
    }
    println!("panels of rows and of columns: {}", all.len());
    let mut rng = fastrand::Rng::with_seed(9);
    for panels in all {
        for cols in [1usize, 16, 17, 63, 64, 100, 256, 257, 300, 1024, 1033] {
            let bytes = |lines: usize, rng: &mut fastrand::Rng| -> Vec<u8> {
                (0..lines * LINE).map(|_| FOURS.encode[rng.usize(0..81)]).collect()
            };
            let len = cols.next_multiple_of(16) * TILE_ROWS;
            let block = bytes(BLOCK_ROWS * FOURS.row_lines(cols), &mut rng);
            for tile in 0..BLOCK_ROWS / TILE_ROWS {
                let (mut expected, mut found) = (vec![7; len], vec![9; len]);
                scalar::panel_of_rows::<4>(&block, tile, &mut expected);
                // SAFETY: the CPU has the instructions; a block of rows of at least as many columns.
                unsafe { (panels.of_rows)(&block, tile, &mut found) };
                assert!(found == expected, "rows of {cols} columns, tile {tile}");
            }
            let slice = bytes(cols, &mut rng);
            let mut places: Vec<u32> = (0..cols as u32).collect();
            rng.shuffle(&mut places);
            for tile in 0..FOURS.line_weights() / TILE_ROWS {
                let (mut expected, mut found) = (vec![7; len], vec![9; len]);
                scalar::panel_of_columns::<4>(&slice, &places, tile, &mut expected);
                // SAFETY: the CPU has the instructions; places are lines of the slice, one for each column.
                unsafe { (panels.of_columns)(&slice, &places, tile, &mut found) };
                assert!(found == expected, "{cols} columns, tile {tile}");
            }
        }
    }
}

fn twins<const DIGITS: usize>() -> (MultiplyRows, MultiplyColumns) {
    (scalar::rows::<DIGITS>, scalar::columns::<DIGITS>)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn products_equal_the_definition(
        rows in 1usize..700, cols in 1usize..700, tokens in 1usize..7, density in 0u32..=100, threads in 1usize..4,
        seed in any::<u64>(),
    ) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let trits = random_trits(&mut rng, rows * cols);
        let x = sparse(&mut rng, tokens * cols, density);
        for kernels in kernels() {
            check_dot(kernels, (rows, cols), threads, &trits, &x);
        }
    }

    #[test]
    fn packing_keeps_every_trit(rows in 1usize..400, cols in 1usize..400, seed in any::<u64>()) {
        let trits = random_trits(&mut fastrand::Rng::with_seed(seed), rows * cols);
        let kernels = Kernels::for_isa(Isa::Scalar).unwrap();
        for skips in [Skips::Rows, Skips::Columns] {
            let matrix = pack(kernels, (rows, cols), skips, &trits, &Pool::new(2));
            for (at, trit) in trits.iter().enumerate() {
                prop_assert_eq!(matrix.trit(at / cols, at % cols), *trit);
            }
        }
    }

    /// Gates, and what they let through: the bits of two linears, one after the other, but for the sign of zeros.
    #[test]
    fn what_a_gate_lets_through_is_the_same(
        rows in 1usize..500, cols in 1usize..700, tokens in 1usize..5, negative in 0u32..=100, threads in 1usize..4,
        each in any::<bool>(), wild in 0u32..6, seed in any::<u64>(),
    ) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut gate_trits = random_trits(&mut rng, rows * cols);
        let up_trits = random_trits(&mut rng, rows * cols);
        let mut x: Vec<f32> = (0..tokens * cols).map(|_| rng.f32() * 2.0 - 1.0).collect();
        // One column tells the sign of most gates.
        x.iter_mut().step_by(cols).for_each(|x| *x = cols as f32 * [1.0, 1.0, -1.0][rng.usize(0..3)]);
        for gate in gate_trits.chunks_exact_mut(cols) {
            gate[0] = if rng.u32(0..100) < negative { -1 } else { 1 };
        }
        let mut scales: Vec<f32> = (0..rows).map(|_| rng.f32() - 0.3).collect();
        match wild {
            0 => x[rng.usize(0..tokens) * cols + cols / 2] = [f32::NAN, f32::INFINITY][rng.usize(0..2)],
            1 => scales[rows / 2] = [f32::NAN, f32::INFINITY, f32::MAX][rng.usize(0..3)],
            2 => x.fill(0.0),
            3 => x.iter_mut().for_each(|x| *x *= 1e36),
            _ => {}
        }
        let scale = [0.01, -0.01, f32::MAX, f32::INFINITY, f32::NAN][rng.usize(0..5)];
        let up_scales = if each { RowScales::PerRow(scales) } else { RowScales::Uniform(scale) };
        let gate_scales = RowScales::Uniform([0.02, 1e30][rng.usize(0..2)]);
        let pool = Pool::new(threads);
        for kernels in kernels() {
            let up = pack(kernels, (rows, cols), Skips::Rows, &up_trits, &pool);
            for kernel in kernels.ternary_kernels() {
                let read = |trits: &[i8], row: usize, out: &mut [i8]| {
                    out.copy_from_slice(&trits[row * cols..(row + 1) * cols]);
                    Ok::<(), std::io::Error>(())
                };
                let packed = |trits: &[i8]| {
                    let read_row = |row: usize, out: &mut [i8]| read(trits, row, out);
                    TernaryMatrix::pack((rows, cols), kernels, kernel, &pool, |error| error, read_row).unwrap()
                };
                let (gate, dense) = (packed(&gate_trits), packed(&up_trits));
                let mut activations = Activations::new(kernels);
                activations.quantize(kernels, &pool, Precision::Int8, &x, cols);
                let outputs = tokens * rows;
                let (mut scratch, mut expected, mut found) = (Scratch::default(), vec![0.0; outputs], vec![7.0; outputs]);
                gate.linear(kernels, &pool, &mut activations, &gate_scales, &mut scratch, (Epilogue::Store, &mut expected));
                dense.linear(kernels, &pool, &mut activations, &up_scales, &mut scratch, (Epilogue::Relu2Mul, &mut expected));
                let gate = TernaryLinear { matrix: &gate, scales: &gate_scales, epilogue: Epilogue::Store };
                let up = SkippingLinear { matrix: &up, scales: &up_scales, epilogue: Epilogue::Relu2Mul };
                let in_one_job = gate_up(kernels, &pool, &mut activations, &mut scratch, (gate, up), &mut found);
                prop_assert!(in_one_job || tokens > 2, "{tokens} tokens by {}", kernel.name());
                for (expected, found) in expected.iter().zip(&found).filter(|_| in_one_job) {
                    let is_same = expected.to_bits() == found.to_bits() || (*expected == 0.0 && *found == 0.0);
                    prop_assert!(is_same || expected.is_nan() && found.is_nan(), "{expected} and {found}");
                }
            }
        }
    }
}

/// Enough tokens for the weights to be packed as codes, or to become codes for tables, by each kernel for codes.
#[test]
fn many_tokens_are_multiplied_as_codes() {
    let mut rng = fastrand::Rng::with_seed(3);
    for kernels in kernels() {
        for kernel in dense_kernels(kernels) {
            for (rows, cols) in [(70, 333), (330, 641), (641, 96), (33, 1000), (1, 1), (64, 960), (320, 1920)] {
                for tokens in [22, 40] {
                    let trits = random_trits(&mut rng, rows * cols);
                    let x = sparse(&mut rng, tokens * cols, 60);
                    check_dot_by(kernels, kernel, (rows, cols), 2, &trits, &x);
                }
                // The largest sums that tables meet.
                for x in [127, -128i8] {
                    check_dot_by(kernels, kernel, (rows, cols), 1, &vec![1; rows * cols], &vec![x; 22 * cols]);
                }
            }
        }
    }
}

/// Shapes that do not fit are told before anything is written, for few tokens and for many.
#[test]
fn outputs_have_a_place_for_every_row_of_every_token() {
    for kernels in kernels() {
        for (skips, tokens) in [(Skips::Rows, 1), (Skips::Rows, 40), (Skips::Columns, 1), (Skips::Columns, 40)] {
            let (rows, cols) = (70, 96);
            let (pool, dense) = (Pool::new(1), *dense_kernels(kernels).last().unwrap());
            let matrix = pack_for(kernels, dense, (rows, cols), skips, &vec![1; rows * cols], &pool);
            let mut activations = Activations::new(kernels);
            activations.set(kernels, &vec![1; tokens * cols], cols);
            let mut out = vec![7; tokens * rows - 1];
            let product = std::panic::AssertUnwindSafe(|| {
                matrix.dot(kernels, &pool, &mut activations, &mut Scratch::default(), &mut out);
            });
            let told = std::panic::catch_unwind(product).unwrap_err();
            let told = told.downcast_ref::<String>().unwrap();
            assert!(told.contains(&format!("outputs of {tokens} tokens and {rows} rows")), "{told}");
            assert!(out.iter().all(|out| *out == 7));
        }
    }
}

/// What the orders of a row's codes are, spelled out: every column has one place, and activations go there.
#[test]
fn activations_are_put_in_the_order_of_the_codes() {
    for cols in [1usize, 4, 63, 320, 333, 960, 2560] {
        for (order, layout) in [(&THREES, &FIVES), (&BYTES, &FOURS)] {
            let lines = layout.row_lines(cols);
            let padded = lines * layout.line_weights();
            let x: Vec<i8> = (0..padded).map(|col| if col < cols { (col % 127) as i8 + 1 } else { 0 }).collect();
            let mut out = vec![99; (order.cols)(lines)];
            (order.reorder)(&x, lines, &mut out);
            let mut seen = vec![0; cols];
            for (at, value) in out.into_iter().enumerate() {
                let (byte, digit) = if std::ptr::eq(layout, &raw const FOURS) {
                    (at / 4, at % 4)
                } else {
                    let (code, place, within) = (at / 12, at % 12 / 4, at % 4);
                    let (byte, digit) = ORDER[code % 5][place];
                    (4 * (code / 5 * 3 + byte) + within, digit)
                };
                let col = layout.column_of(byte, digit);
                assert_eq!(value, x.get(col).copied().unwrap_or(0), "column {col} of {cols}");
                if col < cols {
                    seen[col] += 1;
                }
            }
            assert!(seen.iter().all(|count| *count == 1), "{cols} columns");
        }
    }
}
