//! Linears that share an input, multiplied together.
//!
//! Query, key and value are one job, and so are gate and up, where each used to wait for the last thread of the one before:
//! a token is a few hundred jobs of some ten microseconds, so waits are felt.

use super::activations::Activations;
use super::grouped::group_cols;
use super::matrix::{RowScales, Scratch, TernaryMatrix, Way};
use super::tiles::Tiles;
use crate::dispatch::Kernels;
use crate::epilogue::{Epilogue, Finish};
use crate::pool::{Pool, SharedMut};

/// The most products of one call.
pub const MAX_PRODUCTS: usize = 3;

/// A linear, and what becomes of its outputs.
#[derive(Clone, Copy, Debug)]
pub struct TernaryLinear<'a> {
    /// The weights.
    pub matrix: &'a TernaryMatrix,
    /// Their scales.
    pub scales: &'a RowScales,
    /// What takes the outputs to where they are kept.
    pub epilogue: Epilogue,
}

/// A linear, perhaps a second one of the same shape whose outputs meet those of the first (a gate, then what it lets
/// through), and where they are kept, `[tokens, rows]`.
#[derive(Debug)]
pub struct Product<'a> {
    /// What is multiplied first.
    pub first: TernaryLinear<'a>,
    /// What is multiplied next.
    pub second: Option<TernaryLinear<'a>>,
    /// Where the outputs go.
    pub out: &'a mut [f32],
}

impl<'a> Product<'a> {
    fn steps(&self) -> impl Iterator<Item = TernaryLinear<'a>> + use<'a> {
        std::iter::once(self.first).chain(self.second)
    }
}

/// A product whose outputs several threads write.
struct Part<'a> {
    first: TernaryLinear<'a>,
    second: Option<TernaryLinear<'a>>,
    out: SharedMut<'a, f32>,
}

impl<'a> Part<'a> {
    fn tiles(&self) -> usize {
        self.first.matrix.tile_count()
    }

    fn step(&self, step: usize) -> Option<TernaryLinear<'a>> {
        if step == 0 { Some(self.first) } else { self.second }
    }
}

/// What [`TernaryMatrix::linear`] computes, for every linear of every product, in one job where the kernels allow it.
///
/// # Panics
/// As [`TernaryMatrix::linear`]; and if there are more than [`MAX_PRODUCTS`].
pub fn linears(
    kernels: &Kernels,
    pool: &Pool,
    x: &mut Activations,
    scratch: &mut Scratch,
    products: &mut [Product<'_>],
) {
    assert!(products.len() <= MAX_PRODUCTS, "{} products, at most {MAX_PRODUCTS}", products.len());
    let Some(kernel) = products.first().map(|product| product.first.matrix.kernel()) else { return };
    for product in products.iter() {
        for TernaryLinear { matrix, scales, .. } in product.steps() {
            matrix.check(kernels, x, product.out.len());
            assert!(scales.fit(matrix.rows(), matrix.cols()), "scales for [{}, {}]", matrix.rows(), matrix.cols());
        }
    }
    let groups_of = |linear: TernaryLinear<'_>| group_cols(linear.scales);
    let groups = groups_of(products[0].first);
    let together = products.iter().flat_map(Product::steps).all(|linear| {
        let by_tiles = matches!(linear.matrix.way(x, linear.scales), Way::Tiles);
        by_tiles && std::ptr::eq(linear.matrix.kernel(), kernel) && groups_of(linear) == groups
    });
    if together {
        x.prepare(kernel, groups, pool);
        return by_tiles(kernels, pool, x, scratch, products);
    }
    for product in products {
        for linear in product.steps() {
            let TernaryLinear { matrix, scales, epilogue } = linear;
            let out = &mut *product.out;
            match matrix.way(x, scales) {
                Way::Tiles => {
                    x.prepare(matrix.kernel(), group_cols(scales), pool);
                    by_tiles(kernels, pool, x, scratch, &mut [Product { first: linear, second: None, out }]);
                }
                Way::Lookup(lookup) => {
                    matrix.linear_by_lookup((kernels, lookup), pool, x, scales, scratch, (epilogue, out));
                }
                Way::GroupTables(tables, groups) => {
                    matrix.linear_by_group_tables(kernels, tables, pool, groups, &mut scratch.lookup, (epilogue, out));
                }
            }
        }
    }
}

fn by_tiles(kernels: &Kernels, pool: &Pool, x: &Activations, scratch: &mut Scratch, products: &mut [Product<'_>]) {
    let first = products[0].first.matrix;
    let mut products = products.iter_mut();
    let parts: [Option<Part<'_>>; MAX_PRODUCTS] = std::array::from_fn(|_| {
        let Product { first, second, out } = products.next()?;
        Some(Part { first: *first, second: *second, out: SharedMut::new(out) })
    });
    let parts = || parts.iter().flatten();
    // The product a tile belongs to, its linear of this step, and its number in their matrices.
    let place = |step: usize, mut tile: usize| {
        let part = parts().find(|part| {
            let is_here = tile < part.tiles();
            tile -= if is_here { 0 } else { part.tiles() };
            is_here
        })?;
        Some((part, part.step(step)?, tile))
    };
    let tiles = Tiles {
        kernel: first.kernel(),
        cols: first.cols(),
        count: parts().map(Part::tiles).sum(),
        steps: if parts().any(|part| part.second.is_some()) { 2 } else { 1 },
        packed: |step, tile| place(step, tile).map(|(_, linear, tile)| linear.matrix.tiles(tile..tile + 1)),
    };
    tiles.multiply(pool, x, scratch, |step, tile, weights, pass, memory| {
        let (part, linear, tile) = place(step, tile).expect("a tile that has weights");
        let rows = linear.matrix.rows_of(tile);
        // SAFETY: each task owns its rows of its tokens.
        let out = |token: usize| unsafe { part.out.slice(token * linear.matrix.rows() + rows.start, rows.len()) };
        if let Some(groups) = linear.matrix.groups(x, linear.scales) {
            let totals = linear.matrix.totals(kernels, weights, &rows, pass, memory, groups);
            for (totals, token) in totals.iter().zip(pass.tokens.clone()) {
                linear.epilogue.apply(kernels, &totals[..rows.len()], out(token));
            }
            return;
        }
        let scales = linear.scales.of_rows(rows.clone());
        for (sums, token) in weights.products(pass, &mut memory.sums).iter().zip(pass.tokens.clone()) {
            let how = Finish { scales, factor: x.factors()[token], epilogue: linear.epilogue };
            kernels.finish(how, &sums[..rows.len()], out(token));
        }
    });
}
