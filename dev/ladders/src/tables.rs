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
    let (weights, mut x) = ladder::random(MATRIX_ROWS * COLS, TOKENS * COLS);
    for (percent, what) in [(100, ""), (15, ", 85 % of the activations being zero")] {
        keep(percent, &mut x);
        println!("\ntables: {TOKENS} tokens times {MATRIX_ROWS} rows of {COLS} columns{what}");
        let expected = ladder::by_definition(&weights, &x, COLS);
        ladder::time(&mut steps((&weights, &x, COLS))?, &expected, TOKENS * MATRIX_ROWS * COLS, rounds)?;
    }
    Ok(())
}

/// Keeps about so many of a hundred numbers; the others become zeros, as most do behind a squared ReLU.
fn keep(percent: u8, x: &mut [i8]) {
    let mut rng = fastrand::Rng::with_seed(2);
    x.iter_mut().filter(|_| rng.u8(..100) >= percent).for_each(|x| *x = 0);
}

/// Whether every step is exact.
pub(crate) fn check() -> Result<()> {
    let (rows, tokens, cols) = (544, 64, 288);
    for (weights, mut x) in ladder::cases(rows * cols, tokens * cols) {
        for percent in [100, 15] {
            keep(percent, &mut x);
            let expected = ladder::by_definition(&weights, &x, cols);
            ladder::check(&mut steps((&weights, &x, cols))?, &expected)?;
        }
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
            "AVX-512: 27 sums of 3 columns in a register, looked up for 32 rows",
            VNNI,
            product(VNNI, "codes-permute")?,
        ),
    ])
}
