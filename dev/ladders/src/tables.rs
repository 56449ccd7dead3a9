//! Many tokens times many rows: dot products beside tables of sums, which need rows to pay for the tables.
//!
//! The steps are whole products as they are in use, because what decides is how tables, partial sums and codes share the
//! caches. An integer dot product of a vector is 64 multiply-adds; a load and an addition of a table's entry are 4 for each
//! token that it holds; a permutation of a register and an addition are 3 for each of 32 rows.

use crate::ladder::{self, Prepared, Step, VNNI};
use anyhow::Result;
use rotor_kernels::Isa;

/// Eight tiles of 16 tokens, or four of 32.
const TOKENS: usize = 128;
const MATRIX_ROWS: usize = 2560;
const COLS: usize = 2560;

/// Checks the steps, times them and prints the ladder.
pub(crate) fn climb(rounds: usize) -> Result<()> {
    check()?;
    let (weights, random) = ladder::random(MATRIX_ROWS * COLS, TOKENS * COLS);
    for (what, x) in [
        ("evenly spread", random),
        ("bell-shaped, as behind a norm", quantized(TOKENS, COLS, bell)),
        ("mostly small, as behind a squared ReLU", quantized(TOKENS, COLS, squared_relu)),
    ] {
        println!("\ntables: {TOKENS} tokens times {MATRIX_ROWS} rows of {COLS} columns, activations {what}");
        let expected = ladder::by_definition(&weights, &x, COLS);
        ladder::time(&mut steps((&weights, &x, COLS))?, &expected, TOKENS * MATRIX_ROWS * COLS, rounds)?;
    }
    Ok(())
}

/// About normal.
fn bell(rng: &mut fastrand::Rng) -> f32 {
    (0..12).map(|_| rng.f32()).sum::<f32>() - 6.0
}

/// A squared ReLU of one projection times another.
fn squared_relu(rng: &mut fastrand::Rng) -> f32 {
    bell(rng).max(0.0).powi(2) * bell(rng)
}

/// Activations `[tokens, cols]`, each token's quantised by its largest.
fn quantized(tokens: usize, cols: usize, number: fn(&mut fastrand::Rng) -> f32) -> Vec<i8> {
    let mut rng = fastrand::Rng::with_seed(2);
    let mut token = || {
        let x: Vec<f32> = (0..cols).map(|_| number(&mut rng)).collect();
        let largest = x.iter().fold(f32::MIN_POSITIVE, |largest, x| largest.max(x.abs()));
        x.into_iter().map(move |x| (127.0 * x / largest).round() as i8)
    };
    (0..tokens).flat_map(|_| token()).collect()
}

/// Whether every step is exact.
pub(crate) fn check() -> Result<()> {
    let (rows, tokens, cols) = (544, 64, 288);
    let mut cases = ladder::cases(rows * cols, tokens * cols);
    cases.push((cases[0].0.clone(), quantized(tokens, cols, squared_relu)));
    for (weights, x) in cases {
        let expected = ladder::by_definition(&weights, &x, cols);
        ladder::check(&mut steps((&weights, &x, cols))?, &expected)?;
    }
    Ok(())
}

fn steps<'a>(case: (&'a [i8], &'a [i8], usize)) -> Result<Vec<Step<'a>>> {
    let product = |isa, kernel| ladder::product((isa, kernel), case, 1, Prepared::ForEach);
    let step = |name, change, needs, work| Step { name, change, needs, work };
    Ok(vec![
        step(
            "16 tokens",
            "AVX2: 81 sums of 4 columns in a table, for 16 tokens",
            Isa::Avx2,
            product(Isa::Avx2, "planes")?,
        ),
        step("dot products", "AVX-512 VNNI: no tables", VNNI, product(VNNI, "codes")?),
        step("32 tokens", "AVX-512: tables again, for 32 tokens", VNNI, product(VNNI, "codes-lookup")?),
        step(
            "registers",
            "AVX-512 VBMI: 27 sums of 3 columns in a register, looked up for 32 rows; twice 27 where they fit bytes",
            Isa::Avx512Vbmi,
            product(Isa::Avx512Vbmi, "codes-permute")?,
        ),
    ])
}
