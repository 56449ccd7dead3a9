//! Whatever the numbers: the logits that are found are those of the whole head, and the choice is the one that all give.

use super::*;
use crate::sample::{Sampler, SamplingOptions};
use rotor_kernels::encode::encode_row;
use rotor_kernels::{Isa, Kernels, Pool};

/// A head of every kind of row: ordinary ones, rows alike or nearly so, zeros, huge ones.
fn head(random: &mut fastrand::Rng, (rows, cols): (usize, usize), dtype: DenseType) -> DenseMatrix {
    let mut all: Vec<Vec<f32>> = Vec::new();
    for row in 0..rows {
        let mut one: Vec<f32> = (0..cols).map(|_| random.f32() - 0.5).collect();
        match random.usize(0..12) {
            0 => one.fill(0.0),
            1 => one.iter_mut().for_each(|x| *x *= 20_000.0),
            2 | 3 if row > 0 => one.clone_from(&all[random.usize(0..row)]),
            4 if row > 0 => {
                one.clone_from(&all[random.usize(0..row)]);
                one[random.usize(0..cols)] += 1e-3;
            }
            _ => {}
        }
        all.push(one);
    }
    let bytes = dtype.row_bytes(cols).unwrap();
    let load = |first: usize, out: &mut [u8]| {
        for (row, out) in all[first..].iter().zip(out.chunks_exact_mut(bytes)) {
            encode_row(dtype, row, out).unwrap();
        }
        Ok::<(), std::io::Error>(())
    };
    DenseMatrix::load((rows, cols), dtype, &Pool::new(1), |error| error, load).unwrap()
}

/// Hidden states: ordinary ones, along a row, zeros, tiny, not finite.
fn hidden(random: &mut fastrand::Rng, exact: &DenseMatrix, kernels: &Kernels) -> Vec<f32> {
    let mut x: Vec<f32> = (0..exact.cols()).map(|_| random.f32() - 0.5).collect();
    match random.usize(0..8) {
        0 => exact.row(kernels, random.usize(0..exact.rows()), &mut x),
        1 => x.fill(0.0),
        2 => x.iter_mut().for_each(|x| *x *= 1e-35),
        3 => x[random.usize(0..exact.cols())] = [f32::NAN, f32::INFINITY, f32::MAX][random.usize(0..3)],
        4 => x[3] = 500.0,
        _ => {}
    }
    x
}

fn options(random: &mut fastrand::Rng, vocab_size: usize) -> SamplingOptions {
    let mut one_of = |choices: &[f32]| choices[random.usize(0..choices.len())];
    let (temperature, top_p) = (one_of(&[0.0, 0.3, 1.0, 5.0]), one_of(&[1.0, 1.0, 0.9]));
    let (min_p, repeat_penalty) = (one_of(&[0.0, 0.05, 0.9, 1.0]), one_of(&[1.0, 1.3, 0.7]));
    let frequency_penalty = one_of(&[0.0, 0.5, -1.0]);
    let mut bias = |_| (random.u32(0..vocab_size as u32), [f32::NEG_INFINITY, 3.0, -3.0, 90.0][random.usize(0..4)]);
    let logit_bias = (0..2).map(&mut bias).collect();
    let (top_k, repeat_last_n) = ([1, 2, 7, 40, 0][random.usize(0..5)], [8, usize::MAX][random.usize(0..2)]);
    SamplingOptions {
        temperature,
        top_k,
        top_p,
        min_p,
        repeat_penalty,
        repeat_last_n,
        frequency_penalty,
        logit_bias: if random.bool() { logit_bias } else { Vec::new() },
        seed: Some(random.u64(..)),
        ..SamplingOptions::default()
    }
}

/// One choice by bounds, held against all logits. Whether there were bounds, and few enough rows.
fn compare(random: &mut fastrand::Rng, bounded: &mut Bounded<'_>, row: usize) -> bool {
    let vocab_size = bounded.vocab_size();
    let all = bounded.all(row).to_vec();
    let options = options(random, vocab_size);
    let history: Vec<u32> = (0..20).map(|_| random.u32(0..vocab_size as u32)).collect();
    let mut whole = Sampler::new(options.clone(), vocab_size).unwrap();
    let mut part = Sampler::new(options, vocab_size).unwrap();
    let Some(reach) = part.reach() else { return false };
    let mut mask = vec![0.0; vocab_size];
    let masked = [0, 3, vocab_size][random.usize(0..3)];
    (0..masked).for_each(|_| mask[random.usize(0..vocab_size)] = f32::NEG_INFINITY);
    let changed = part.changed(&history);
    let want = Want { reach, changed: &changed, mask: Some(&mask) };
    let has_bounds = bounded.has_bounds(row);
    let Some(found) = bounded.among(row, &want) else { return false };
    assert!(has_bounds, "a row that is not finite was chosen from");
    for (token, logit) in &*found {
        assert_eq!(logit.to_bits(), all[*token as usize].to_bits(), "the logit of token {token}");
        assert!(mask[*token as usize] == 0.0, "token {token} is left out");
    }
    let mut allowed: Vec<f32> = all.iter().zip(&mask).map(|(logit, mask)| logit + mask).collect();
    let expected = whole.sample(&mut allowed, &history);
    assert_eq!(part.sample_among(found, &history), expected, "{reach:?}");
    true
}

#[test]
fn any_head_and_hidden_state_give_the_choice_of_all_logits() {
    let mut random = fastrand::Rng::with_seed(51);
    let mut by_bounds = 0;
    for case in 0..40 {
        let shape = (random.usize(50..700), [32, 96, 256, 512][case % 4]);
        let dtype = [DenseType::F16, DenseType::Bf16, DenseType::F32][case % 3];
        let exact = head(&mut random, shape, dtype);
        for kernels in Isa::available().filter_map(Kernels::for_isa) {
            let runtime = Runtime::with_kernels(kernels, 1 + case % 2);
            let known = std::array::from_fn(|which| which * 2);
            let sketch = Sketch::new(&exact, known, kernels, &runtime.pool).unwrap().unwrap();
            let mut scratch = HeadScratch::default();
            let rows = 6;
            scratch.x = (0..rows).flat_map(|_| hidden(&mut random, &exact, kernels)).collect();
            sketch.bound(kernels, &runtime.pool, &scratch.x, &mut scratch.bounds);
            let mut bounded = Bounded { exact: &exact, runtime: &runtime, rows: 0..rows, scratch: &mut scratch };
            for row in 0..rows {
                by_bounds += usize::from(compare(&mut random, &mut bounded, row));
            }
            let mut part = bounded.part(2..rows);
            let bits = |logits: &mut [f32]| logits.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>();
            assert_eq!((part.len(), bits(part.all(1))), (rows - 2, bits(bounded.all(3))));
        }
    }
    assert!(by_bounds > 100, "{by_bounds} choices were made by bounds");
}

/// Sharp bounds leave few rows to multiply.
#[test]
fn few_rows_are_multiplied() {
    let mut random = fastrand::Rng::with_seed(52);
    let exact = head(&mut random, (4000, 512), DenseType::F16);
    let runtime = Runtime::new(1).unwrap();
    let sketch =
        Sketch::new(&exact, std::array::from_fn(|which| which), runtime.kernels, &runtime.pool).unwrap().unwrap();
    let mut scratch = HeadScratch { x: vec![0.0; 512], ..HeadScratch::default() };
    exact.row(runtime.kernels, 77, &mut scratch.x);
    scratch.x.iter_mut().for_each(|x| *x += random.f32() - 0.5);
    sketch.bound(runtime.kernels, &runtime.pool, &scratch.x, &mut scratch.bounds);
    let mut bounded = Bounded { exact: &exact, runtime: &runtime, rows: 0..1, scratch: &mut scratch };
    let found = bounded.among(0, &Want::LARGEST).map(|found| found.len());
    assert!(found.is_some_and(|found| found < 200), "{found:?} of 4000");
    assert_eq!(scratch.counts, HeadCounts { tokens: 1, rows: found.unwrap_or(0) as u64 });
}

#[test]
fn the_largest_columns_are_found() {
    let mut x = vec![0.1; 3 * 64];
    let expected: [usize; Sketch::KNOWN] = std::array::from_fn(|which| 3 * which + 2);
    for (which, column) in expected.iter().enumerate() {
        x[(which % 3) * 64 + column] = -5.0 - which as f32;
    }
    assert_eq!(largest_columns(&x, 64), expected);
}

#[test]
fn a_sketch_is_for_large_heads_of_floats() {
    let large = (128_256, 2560);
    assert_eq!(sketch_bytes(Read::Auto, large, DenseType::F16), Some(274_467_840));
    assert_eq!(sketch_bytes(Read::Auto, large, DenseType::Bf16), Some(274_467_840));
    assert_eq!(sketch_bytes(Read::Auto, large, DenseType::Q6K), None);
    assert_eq!(sketch_bytes(Read::All, large, DenseType::F16), None);
    assert_eq!(sketch_bytes(Read::Auto, (4096, 256), DenseType::F16), None);
    assert!(sketch_bytes(Read::Least, (4096, 256), DenseType::F16).is_some());
    assert_eq!(sketch_bytes(Read::Least, (4096, 100), DenseType::F16), None);
}
