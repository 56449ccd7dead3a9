//! Every bound holds for every row, whatever the numbers; and the bounds of all ISAs are those of the plain code.

use super::*;
use crate::Isa;

fn kernels() -> impl Iterator<Item = &'static Kernels> {
    Isa::available().filter_map(Kernels::for_isa)
}

fn matrix(rows: &[Vec<f32>], dtype: DenseType) -> DenseMatrix {
    let (count, cols) = (rows.len(), rows[0].len());
    let bytes = dtype.row_bytes(cols).unwrap();
    let load = |first: usize, out: &mut [u8]| {
        for (row, out) in rows[first..].iter().zip(out.chunks_exact_mut(bytes)) {
            crate::encode::encode_row(dtype, row, out).unwrap();
        }
        Ok::<(), std::io::Error>(())
    };
    DenseMatrix::load((count, cols), dtype, &Pool::new(1), |error| error, load).unwrap()
}

fn normal(random: &mut fastrand::Rng) -> f32 {
    (0..6).map(|_| random.f32() - 0.5).sum::<f32>() * 1.4
}

/// Rows of every kind: ordinary, alike, zeros, huge, tiny, with an outlier, of one column.
fn rows(random: &mut fastrand::Rng, count: usize, cols: usize) -> Vec<Vec<f32>> {
    let mut rows: Vec<Vec<f32>> = Vec::new();
    for row in 0..count {
        let scale = [1.0, 0.02, 300.0, 1e-6, 0.0][random.usize(0..5)];
        let mut one: Vec<f32> = (0..cols).map(|_| normal(random) * scale).collect();
        match row % 7 {
            3 => one[random.usize(0..cols)] = 30_000.0,
            4 => one = rows[row - 1].clone(),
            5 => {
                one.fill(0.0);
                one[random.usize(0..cols)] = scale;
            }
            _ => {}
        }
        rows.push(one);
    }
    rows
}

/// Activations as a model has them, some columns large.
fn activations(random: &mut fastrand::Rng, cols: usize, known: &[usize; KNOWN]) -> Vec<f32> {
    let scale = [1.0, 1e-12, 1e-33, 1e5][random.usize(0..4)];
    let mut x: Vec<f32> = (0..cols).map(|_| normal(random) * scale).collect();
    if random.bool() {
        known.iter().for_each(|&column| x[column] *= 20.0);
    }
    x
}

fn known(random: &mut fastrand::Rng, cols: usize) -> [usize; KNOWN] {
    let mut columns: Vec<usize> = (0..cols).collect();
    random.shuffle(&mut columns);
    std::array::from_fn(|i| columns[i])
}

/// Checks that no product is outside its bounds; returns the largest share of a radius that was used.
fn check(kernels: &Kernels, exact: &DenseMatrix, sketch: &Sketch, x: &[f32]) -> f64 {
    let (rows, cols) = (exact.rows(), exact.cols());
    let mut bounds = Bounds::default();
    sketch.bound(kernels, &Pool::new(2), x, &mut bounds);
    let mut most: f64 = 0.0;
    for (token, x) in x.chunks_exact(cols).enumerate() {
        let bounds = bounds.token(token).expect("a token with bounds");
        let all: Vec<u32> = (0..rows as u32).collect();
        let mut products = vec![0.0; rows];
        exact.rows_linear(kernels, &Pool::new(1), &all, x, &mut products);
        for (row, product) in products.into_iter().enumerate() {
            let [product, middle, upper] = [product, bounds.middle(row), bounds.upper(row)].map(f64::from);
            assert!(product <= upper, "row {row} on {}: {product} is above {upper}", kernels.isa());
            // The radius is the same to both sides, but for the rounding of one sum.
            let radius = upper - middle;
            assert!(middle - product <= radius * 1.001 + upper.abs() * 1e-6, "row {row} on {}", kernels.isa());
            most = most.max((product - middle).abs() / radius);
        }
    }
    most
}

#[test]
fn no_product_is_above_its_bound() {
    let mut random = fastrand::Rng::with_seed(31);
    for case in 0..60 {
        let cols = [32, 96, 256, 576, 768][case % 5];
        let count = random.usize(1..100);
        let known = known(&mut random, cols);
        let all = rows(&mut random, count, cols);
        let x: Vec<f32> = (0..3).flat_map(|_| activations(&mut random, cols, &known)).collect();
        for dtype in [DenseType::F16, DenseType::Bf16, DenseType::F32] {
            let exact = matrix(&all, dtype);
            for kernels in kernels() {
                let sketch = Sketch::new(&exact, known, kernels, &Pool::new(2)).unwrap().unwrap();
                assert_eq!(Some(sketch.bytes()), Sketch::bytes_of(dtype, count, cols));
                check(kernels, &exact, &sketch, &x);
            }
        }
    }
}

/// Activations along a row's own error use up nearly all of its radius: a bound that forgot a term would break.
#[test]
fn activations_along_what_is_lost_come_near_the_bound() {
    let mut random = fastrand::Rng::with_seed(32);
    let cols = 512;
    let known = known(&mut random, cols);
    let all: Vec<Vec<f32>> = (0..40).map(|_| (0..cols).map(|_| normal(&mut random)).collect()).collect();
    let exact = matrix(&all, DenseType::F16);
    for kernels in kernels() {
        let sketch = Sketch::new(&exact, known, kernels, &Pool::new(1)).unwrap().unwrap();
        let (mut row, mut copy, mut most) = (vec![0.0; cols], vec![0.0; cols], f64::INFINITY);
        for number in 0..all.len() {
            exact.row(kernels, number, &mut row);
            sketch.copy.row(kernels, number, &mut copy);
            let mut along: Vec<f32> = row.iter().zip(&copy).map(|(row, copy)| (row - copy) * 100.0).collect();
            known.iter().for_each(|&column| along[column] = 0.0);
            most = most.min(check(kernels, &exact, &sketch, &along));
        }
        assert!(most > 0.9, "{most} of the radius on {}", kernels.isa());
    }
}

#[test]
fn what_is_not_finite_has_no_bounds() {
    let mut random = fastrand::Rng::with_seed(33);
    let cols = 256;
    let known = known(&mut random, cols);
    let mut all: Vec<Vec<f32>> = (0..33).map(|_| (0..cols).map(|_| normal(&mut random)).collect()).collect();
    let sketch =
        |all: &[Vec<f32>], dtype| Sketch::new(&matrix(all, dtype), known, Kernels::best(), &Pool::new(1)).unwrap();
    let whole = sketch(&all, DenseType::F32).unwrap();
    let mut bounds = Bounds::default();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e35] {
        let mut x = vec![1.0; 3 * cols];
        x[cols + 7] = bad;
        whole.bound(Kernels::best(), &Pool::new(1), &x, &mut bounds);
        assert!(bounds.token(0).is_some() && bounds.token(1).is_none() && bounds.token(2).is_some(), "{bad}");
    }
    // Numbers that no f16 scale holds: the row is bounded by its length alone, the others as ever.
    all[5][9] = 1e20;
    let huge = sketch(&all, DenseType::F32).unwrap();
    check(Kernels::best(), &matrix(&all, DenseType::F32), &huge, &vec![0.5; cols]);
    for bad in [f32::NAN, f32::INFINITY] {
        all[5][9] = bad;
        assert!(sketch(&all, DenseType::F32).is_none(), "{bad}");
    }
    let quantised = matrix(&[vec![0.5; cols]], DenseType::Q8_0);
    assert!(Sketch::new(&quantised, known, Kernels::best(), &Pool::new(1)).unwrap().is_none());
    assert!(sketch(&[vec![0.5; 40]], DenseType::F16).is_none(), "no whole blocks");
}

/// The plain code is the twin of each compiled one.
#[test]
fn bounds_have_the_same_bits_on_every_isa() {
    let mut random = fastrand::Rng::with_seed(34);
    for count in [1usize, 15, 16, 17, 32] {
        let mut numbers = |len: usize| (0..len).map(|_| normal(&mut random)).collect::<Vec<f32>>();
        let errors: Vec<u16> =
            numbers(count.next_multiple_of(KNOWN) * KNOWN).iter().map(|x| bf16::from_f32(*x).to_bits()).collect();
        let (lost, size, middles) = (numbers(count), numbers(count), numbers(count));
        let token =
            TokenFactors { known: numbers(KNOWN).try_into().unwrap(), rest: 1.7, rounding: 0.3, underflow: 1e-30 };
        let found = |kernels: &Kernels| {
            let (mut middles, mut uppers) = (middles.clone(), vec![0.0; count]);
            let rows = RowErrors { errors: &errors, lost: &lost, size: &size };
            let highest = kernels.bounds(rows, &token, &mut middles, &mut uppers);
            let largest = |x: &[f32]| x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(highest, [largest(&middles), largest(&uppers)]);
            (middles, uppers)
        };
        let expected = found(Kernels::reference());
        for (row, middle) in expected.0.iter().enumerate() {
            let known =
                |which: usize| f32::from(bf16::from_bits(errors[(row / KNOWN * KNOWN + which) * KNOWN + row % KNOWN]));
            let exact = f64::from(middles[row])
                + (0..KNOWN).map(|which| f64::from(known(which)) * f64::from(token.known[which])).sum::<f64>();
            assert!((f64::from(*middle) - exact).abs() < 1e-5);
        }
        for kernels in kernels() {
            assert_eq!(found(kernels), expected, "{count} rows on {}", kernels.isa());
        }
    }
}

#[test]
fn rows_are_found_by_their_bounds() {
    let mut random = fastrand::Rng::with_seed(35);
    let (count, cols) = (333, 256);
    let known = known(&mut random, cols);
    let exact = matrix(&rows(&mut random, count, cols), DenseType::F16);
    let sketch = Sketch::new(&exact, known, Kernels::best(), &Pool::new(1)).unwrap().unwrap();
    let mut bounds = Bounds::default();
    sketch.bound(Kernels::best(), &Pool::new(1), &activations(&mut random, cols, &known), &mut bounds);
    let bounds = bounds.token(0).unwrap();
    for wanted in [0, 1, 2, 40, 332, 333, 400] {
        let allowed = |row: u32| !row.is_multiple_of(3);
        let mut order: Vec<u32> = (0..count as u32).filter(|row| allowed(*row)).collect();
        order.sort_by(|a, b| bounds.middle(*b as usize).total_cmp(&bounds.middle(*a as usize)));
        order.truncate(wanted);
        let mut found = Vec::new();
        bounds.likeliest(wanted, allowed, &mut found);
        let middles = |rows: &[u32]| {
            let mut middles: Vec<f32> = rows.iter().map(|row| bounds.middle(*row as usize)).collect();
            middles.sort_by(f32::total_cmp);
            middles
        };
        assert_eq!(middles(&found), middles(&order), "{wanted}");
        let least = order.last().map_or(f32::NEG_INFINITY, |row| bounds.upper(*row as usize));
        let mut found = Vec::new();
        bounds.reaching(least, allowed, &mut found);
        let expected: Vec<u32> =
            (0..count as u32).filter(|row| allowed(*row) && bounds.upper(*row as usize) >= least).collect();
        assert_eq!(found, expected);
    }
}
