//! Tiles shared out over the threads, of one matrix or of several that multiply the same activations.

use super::activations::Pass;
use super::kernel::{MAX_PASS, PanelKernels, TernaryKernel};
use super::matrix::Scratch;
use super::{Activations, TILE_ROWS};
use crate::lines::Lines;
use crate::pool::{Pool, SharedMut};
use std::ops::Range;

/// Tiles that all passes take before the next: they stay in the L2 cache.
const RUN: usize = 4;
/// Bytes that unpacked tiles may have of the L2 cache.
const PANEL_BYTES: usize = 448 << 10;
/// Tokens that share a panel: enough to make unpacking it cheap.
const PANEL_TOKENS: usize = 512;

/// Dot products of a tile's rows with each token of a pass.
pub(super) type PassSums = [[i32; TILE_ROWS]; MAX_PASS];

/// Tiles of `cols` columns, packed for one kernel. In each of `steps`, a tile has other weights, or none.
pub(super) struct Tiles<P> {
    pub kernel: &'static TernaryKernel,
    pub cols: usize,
    pub count: usize,
    pub steps: usize,
    /// `packed(step, tile)`.
    pub packed: P,
}

impl<'k, P: Fn(usize, usize) -> Option<&'k [u8]> + Sync> Tiles<P> {
    /// Runs `task(step, tile, weights, pass, memory for its sums)` for every pass of the tokens and every tile that has
    /// weights, a tile's steps in order: the weights as they are packed where tokens are few, unpacked where they are many.
    pub(super) fn multiply(
        &self,
        pool: &Pool,
        x: &Activations,
        scratch: &mut Scratch,
        task: impl Fn(usize, usize, &Weights<'_>, &Pass<'_>, &mut PassSums) + Sync,
    ) {
        match self.kernel.panel(x.tokens()) {
            Some(panel) => self.unpacked(panel, pool, x, scratch, task),
            None => self.as_packed(pool, x, task),
        }
    }

    fn weights<'a>(&self, packed: &'a [u8]) -> Weights<'a> {
        Weights { kernel: self.kernel, tile: packed, panel: None, cols: self.kernel.layout.padded(self.cols) }
    }

    fn as_packed(
        &self,
        pool: &Pool,
        x: &Activations,
        task: impl Fn(usize, usize, &Weights<'_>, &Pass<'_>, &mut PassSums) + Sync,
    ) {
        let passes = x.passes(self.kernel);
        pool.run_ranges(self.count, |_, tiles| {
            let mut sums = [[0; TILE_ROWS]; MAX_PASS];
            let run = if passes == 1 { tiles.len() } else { RUN };
            for start in tiles.clone().step_by(run) {
                for (step, pass) in (0..self.steps).flat_map(|step| (0..passes).map(move |pass| (step, pass))) {
                    let pass = x.pass(pass, self.kernel);
                    for tile in start..(start + run).min(tiles.end) {
                        let Some(packed) = (self.packed)(step, tile) else { continue };
                        task(step, tile, &self.weights(packed), &pass, &mut sums);
                    }
                }
            }
        });
    }

    fn unpacked(
        &self,
        panel: &PanelKernels,
        pool: &Pool,
        x: &Activations,
        scratch: &mut Scratch,
        task: impl Fn(usize, usize, &Weights<'_>, &Pass<'_>, &mut PassSums) + Sync,
    ) {
        let bytes = self.kernel.layout.padded(self.cols) * TILE_ROWS;
        let run = (PANEL_BYTES / bytes.max(1)).clamp(1, RUN);
        scratch.panels.resize_with(scratch.panels.len().max(pool.threads()), Lines::new);
        let panels = SharedMut::new(&mut scratch.panels);
        let passes = x.passes(self.kernel);
        let passes_per_part = PANEL_TOKENS.div_ceil(panel.tokens);
        for part in (0..passes).step_by(passes_per_part) {
            let passes = part..(part + passes_per_part).min(passes);
            pool.run_ranges(self.count, |worker, tiles| {
                // SAFETY: a worker runs one task at a time.
                let buffer = unsafe { &mut panels.slice(worker, 1)[0] };
                buffer.resize(buffer.len().max(bytes * run));
                let mut sums = [[0; TILE_ROWS]; MAX_PASS];
                for (start, step) in tiles.clone().step_by(run).flat_map(|s| (0..self.steps).map(move |step| (s, step)))
                {
                    let tiles = start..(start + run).min(tiles.end);
                    let unpacked = self.unpack(panel, step, tiles.clone(), buffer);
                    for pass in passes.clone() {
                        let pass = x.pass(pass, self.kernel);
                        for (tile, weights) in tiles.clone().zip(&unpacked) {
                            if let Some(weights) = weights {
                                task(step, tile, weights, &pass, &mut sums);
                            }
                        }
                    }
                }
            });
        }
    }

    /// The tiles, at most [`RUN`], unpacked to panels.
    fn unpack<'a>(
        &'a self,
        panel: &'a PanelKernels,
        step: usize,
        tiles: Range<usize>,
        buffer: &'a mut [u8],
    ) -> [Option<Weights<'a>>; RUN]
    where
        'k: 'a,
    {
        let cols = self.kernel.layout.padded(self.cols);
        let mut unpacked = [const { None }; RUN];
        let places = unpacked.iter_mut().zip(buffer.chunks_exact_mut((cols * TILE_ROWS).max(1)));
        for ((unpacked, buffer), tile) in places.zip(tiles) {
            let Some(packed) = (self.packed)(step, tile) else { continue };
            // SAFETY: the CPU has the ISA of the kernel (`TernaryKernel`); tile and panel of the same columns.
            unsafe { (panel.unpack)(packed, cols, buffer) };
            *unpacked = Some(Weights { panel: Some((panel, &*buffer)), ..self.weights(packed) });
        }
        unpacked
    }
}

/// The weights of a tile: packed, and unpacked to a panel where that was worth it.
pub(super) struct Weights<'a> {
    kernel: &'static TernaryKernel,
    tile: &'a [u8],
    panel: Option<(&'a PanelKernels, &'a [u8])>,
    /// Columns, in whole blocks.
    cols: usize,
}

impl Weights<'_> {
    /// Products of all columns with a pass.
    pub(super) fn products<'o>(&self, pass: &Pass<'_>, out: &'o mut PassSums) -> &'o [[i32; TILE_ROWS]] {
        let out = &mut out[..pass.tokens.len()];
        self.multiply(0..self.cols, pass, out);
        out
    }

    /// Products of some columns, whole blocks, with a pass that holds these columns.
    pub(super) fn multiply(&self, columns: Range<usize>, pass: &Pass<'_>, out: &mut [[i32; TILE_ROWS]]) {
        match self.panel {
            Some((panel, bytes)) => {
                let bytes = &bytes[columns.start * TILE_ROWS..columns.end * TILE_ROWS];
                // SAFETY: the CPU has the ISA of the kernel (`TernaryKernel`); panel and tokens hold the same columns.
                unsafe { (panel.multiply)(bytes, pass.together(), out) };
            }
            None => {
                let at = |col| self.kernel.layout.tile_bytes(col);
                let tile = &self.tile[at(columns.start)..at(columns.end)];
                // SAFETY: as above; a pass has at most `few_tokens` tokens, and `out` has a place for each.
                unsafe { (self.kernel.few)(tile, columns.len(), pass.one_by_one(), out) };
            }
        }
    }
}
