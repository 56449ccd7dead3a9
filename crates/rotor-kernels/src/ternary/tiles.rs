//! Tiles shared out over the threads, of one matrix or of several that multiply the same activations.

use super::activations::Pass;
use super::grouped::Groups;
use super::kernel::{MAX_PASS, PanelKernels, PanelTokens, TernaryKernel};
use super::matrix::Scratch;
use super::{Activations, TILE_ROWS};
use crate::lines::Lines;
use crate::pool::{Pool, SharedMut};
use std::cell::RefCell;
use std::ops::Range;

/// Tiles that all passes take before the next: they stay in the L2 cache.
const RUN: usize = 4;
/// Bytes that unpacked tiles may have of the L2 cache.
const PANEL_BYTES: usize = 448 << 10;
/// Columns that are unpacked at a time where no other pass needs them: their panel stays in the L1 cache. Whole blocks of
/// every layout, and whole steps of every kernel.
const CHUNK_COLS: usize = 768;

/// Dot products of a tile's rows with each row of a pass's activations.
pub(super) type PassSums = [[i32; TILE_ROWS]; MAX_PASS];

/// What a thread keeps of a tile and a pass.
pub(super) struct PassMemory {
    pub sums: PassSums,
    /// Outputs of each token, where they are added up group by group.
    pub totals: [[f32; TILE_ROWS]; MAX_PASS],
}

impl PassMemory {
    fn new() -> PassMemory {
        PassMemory { sums: [[0; TILE_ROWS]; MAX_PASS], totals: [[0.0; TILE_ROWS]; MAX_PASS] }
    }
}

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
    /// Runs `task(step, tile, weights, pass, memory)` for every pass of the tokens and every tile that has
    /// weights, a tile's steps in order: the weights as they are packed where tokens are few, unpacked where they are many.
    pub(super) fn multiply(
        &self,
        pool: &Pool,
        x: &Activations,
        scratch: &mut Scratch,
        task: impl Fn(usize, usize, &Weights<'_>, &Pass<'_>, &mut PassMemory) + Sync,
    ) {
        match self.kernel.panel(x.rows()) {
            Some(panel) if x.passes(self.kernel) == 1 => self.chunk_by_chunk(panel, pool, x, scratch, task),
            Some(panel) => self.panels(panel).multiply(pool, x, scratch, task),
            None => self.as_packed(pool, x, task),
        }
    }

    fn weights<'a>(&self, form: Form<'a>) -> Weights<'a> {
        Weights { kernel: self.kernel, cols: self.kernel.layout.padded(self.cols), form }
    }

    fn as_packed(
        &self,
        pool: &Pool,
        x: &Activations,
        task: impl Fn(usize, usize, &Weights<'_>, &Pass<'_>, &mut PassMemory) + Sync,
    ) {
        let passes = x.passes(self.kernel);
        pool.run_ranges(self.count, |_, tiles| {
            let mut memory = PassMemory::new();
            let run = if passes == 1 { tiles.len() } else { RUN };
            for start in tiles.clone().step_by(run) {
                for (step, pass) in (0..self.steps).flat_map(|step| (0..passes).map(move |pass| (step, pass))) {
                    let pass = x.pass(pass, self.kernel);
                    for tile in start..(start + run).min(tiles.end) {
                        let Some(packed) = (self.packed)(step, tile) else { continue };
                        task(step, tile, &self.weights(Form::Packed(packed)), &pass, &mut memory);
                    }
                }
            }
        });
    }

    fn chunk_by_chunk(
        &self,
        panel: &PanelKernels,
        pool: &Pool,
        x: &Activations,
        scratch: &mut Scratch,
        task: impl Fn(usize, usize, &Weights<'_>, &Pass<'_>, &mut PassMemory) + Sync,
    ) {
        let panels = panels(pool, scratch);
        let pass = &x.pass(0, self.kernel);
        pool.run_ranges(self.count, |worker, tiles| {
            // SAFETY: a worker runs one task at a time.
            let buffer = unsafe { &mut panels.slice(worker, 1)[0] };
            buffer.resize(buffer.len().max(CHUNK_COLS * TILE_ROWS));
            let mut memory = PassMemory::new();
            for (tile, step) in tiles.flat_map(|tile| (0..self.steps).map(move |step| (tile, step))) {
                let Some(packed) = (self.packed)(step, tile) else { continue };
                let form = Form::ChunkByChunk(panel, packed, RefCell::new(&mut *buffer));
                task(step, tile, &self.weights(form), pass, &mut memory);
            }
        });
    }

    fn panels(&self, panel: &'static PanelKernels) -> Panels<impl Fn(usize, usize, &mut [u8]) -> bool + Sync> {
        let cols = self.kernel.layout.padded(self.cols);
        let unpack = move |step: usize, tile: usize, bytes: &mut [u8]| {
            let packed = (self.packed)(step, tile);
            // SAFETY: the CPU has the ISA of the kernel (`TernaryKernel`); tile and panel of the same columns.
            packed.inspect(|packed| unsafe { (panel.unpack)(packed, cols, bytes) }).is_some()
        };
        Panels { kernel: self.kernel, panel, cols, count: self.count, steps: self.steps, unpack }
    }
}

/// Tiles that are unpacked to panels, each once for some passes of the tokens.
pub(super) struct Panels<U> {
    pub kernel: &'static TernaryKernel,
    pub panel: &'static PanelKernels,
    /// Columns, in whole blocks of the kernel's layout.
    pub cols: usize,
    /// Tiles.
    pub count: usize,
    pub steps: usize,
    /// `unpack(step, tile, panel)` fills the panel; `false` where there are no such weights.
    pub unpack: U,
}

impl<U: Fn(usize, usize, &mut [u8]) -> bool + Sync> Panels<U> {
    /// As [`Tiles::multiply`].
    pub(super) fn multiply(
        &self,
        pool: &Pool,
        x: &Activations,
        scratch: &mut Scratch,
        task: impl Fn(usize, usize, &Weights<'_>, &Pass<'_>, &mut PassMemory) + Sync,
    ) {
        let bytes = self.cols * TILE_ROWS;
        let run = (PANEL_BYTES / bytes.max(1)).clamp(1, RUN);
        let panels = panels(pool, scratch);
        let passes = x.passes(self.kernel);
        let passes_per_part = (self.panel.input_bytes / (self.cols * self.panel.tokens).max(1)).max(1);
        for part in (0..passes).step_by(passes_per_part) {
            let passes = part..(part + passes_per_part).min(passes);
            pool.run_ranges(self.count, |worker, tiles| {
                // SAFETY: a worker runs one task at a time.
                let buffer = unsafe { &mut panels.slice(worker, 1)[0] };
                buffer.resize(buffer.len().max(bytes * run));
                let mut memory = PassMemory::new();
                for (start, step) in tiles.clone().step_by(run).flat_map(|s| (0..self.steps).map(move |step| (s, step)))
                {
                    let tiles = start..(start + run).min(tiles.end);
                    let unpacked = self.unpacked(step, tiles.clone(), buffer);
                    for pass in passes.clone() {
                        let pass = x.pass(pass, self.kernel);
                        for (tile, weights) in tiles.clone().zip(&unpacked) {
                            if let Some(weights) = weights {
                                task(step, tile, weights, &pass, &mut memory);
                            }
                        }
                    }
                }
            });
        }
    }

    /// The tiles, at most [`RUN`], as panels.
    fn unpacked<'a>(&self, step: usize, tiles: Range<usize>, buffer: &'a mut [u8]) -> [Option<Weights<'a>>; RUN] {
        let mut unpacked = [const { None }; RUN];
        let places = unpacked.iter_mut().zip(buffer.chunks_exact_mut((self.cols * TILE_ROWS).max(1)));
        for ((unpacked, panel), tile) in places.zip(tiles) {
            if (self.unpack)(step, tile, panel) {
                let form = Form::Panel(self.panel, panel);
                *unpacked = Some(Weights { kernel: self.kernel, cols: self.cols, form });
            }
        }
        unpacked
    }
}

/// Memory for a panel of each thread.
fn panels<'s>(pool: &Pool, scratch: &'s mut Scratch) -> SharedMut<'s, Lines<u8>> {
    scratch.panels.resize_with(scratch.panels.len().max(pool.threads()), Lines::default);
    SharedMut::new(&mut scratch.panels)
}

/// The weights of a tile.
pub(super) struct Weights<'a> {
    kernel: &'static TernaryKernel,
    /// Columns, in whole blocks.
    cols: usize,
    form: Form<'a>,
}

enum Form<'a> {
    /// As they lie in memory.
    Packed(&'a [u8]),
    /// All columns unpacked.
    Panel(&'static PanelKernels, &'a [u8]),
    /// As they lie in memory, and a place for some columns at a time, which are unpacked when they are multiplied.
    ChunkByChunk(&'a PanelKernels, &'a [u8], RefCell<&'a mut [u8]>),
}

impl Weights<'_> {
    /// Products of all columns with a pass.
    pub(super) fn products<'o>(&self, pass: &Pass<'_>, out: &'o mut PassSums) -> &'o [[i32; TILE_ROWS]] {
        let out = &mut out[..pass.rows.len()];
        self.multiply(0..self.cols, pass, out);
        out
    }

    /// Adds what all groups of columns give the outputs of a pass, where the kernel has a way for all of them at once; returns
    /// whether it has.
    pub(super) fn add_groups(
        &self,
        groups: Groups<'_>,
        rows: &Range<usize>,
        pass: &Pass<'_>,
        totals: &mut [[f32; TILE_ROWS]],
    ) -> bool {
        let (Form::Packed(tile), Some(few_groups)) = (&self.form, self.kernel.few_groups) else { return false };
        let Some(groups) = groups.of_tile(rows, &pass.rows) else { return false };
        // SAFETY: the CPU has the ISA of the kernel (`TernaryKernel`); a pass has at most `few_tokens` rows of all columns, and
        // `totals` has a place for each token.
        unsafe { few_groups(tile, &groups, pass.one_by_one(), totals) };
        true
    }

    /// Products of some columns, whole blocks, with a pass that holds these columns.
    pub(super) fn multiply(&self, columns: Range<usize>, pass: &Pass<'_>, out: &mut [[i32; TILE_ROWS]]) {
        let layout = self.kernel.layout;
        let bytes = |columns: &Range<usize>| layout.tile_bytes(columns.start)..layout.tile_bytes(columns.end);
        match &self.form {
            Form::Packed(tile) => {
                // SAFETY: the CPU has the ISA of the kernel (`TernaryKernel`); a pass has at most `few_tokens` tokens of
                // these columns, and `out` has a place for each.
                unsafe { (self.kernel.few)(&tile[bytes(&columns)], columns.len(), pass.one_by_one(), out) };
            }
            Form::Panel(panel, unpacked) => {
                let input = begin(pass, out);
                let unpacked = &unpacked[columns.start * TILE_ROWS..columns.end * TILE_ROWS];
                // SAFETY: as above; panel and tokens hold the same columns.
                unsafe { (panel.multiply)(unpacked, input, out) };
            }
            Form::ChunkByChunk(panel, tile, buffer) => {
                let input = begin(pass, out);
                let buffer = &mut **buffer.borrow_mut();
                for start in columns.clone().step_by(CHUNK_COLS) {
                    let chunk = start..(start + CHUNK_COLS).min(columns.end);
                    let unpacked = &mut buffer[..chunk.len() * TILE_ROWS];
                    let input = input.columns(start - columns.start..chunk.end - columns.start);
                    // SAFETY: as above; a chunk is whole blocks.
                    unsafe {
                        (panel.unpack)(&tile[bytes(&chunk)], chunk.len(), unpacked);
                        (panel.multiply)(unpacked, input, out);
                    }
                }
            }
        }
    }
}

/// Starts sums of codes times activations: a code is its weight plus one.
fn begin<'a>(pass: &'a Pass<'_>, out: &mut [[i32; TILE_ROWS]]) -> PanelTokens<'a> {
    let (input, sums) = pass.together();
    for (out, sum) in out.iter_mut().zip(sums) {
        out.fill(-sum);
    }
    input
}
