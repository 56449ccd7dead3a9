//! Products of matrices of which something can be left unread, shared out over the threads.

use super::layout::{ByteLayout, MAX_LINE_WEIGHTS};
use super::{
    AHEAD, Active, BLOCK_ROWS, LINE, MAX_TOKENS, MOST_FEW, SkippingKernel, SkippingMatrix, SkippingPanels, Skips,
};
use crate::buffer::Buffer;
use crate::dispatch::Kernels;
use crate::epilogue::{Epilogue, Finish};
use crate::lines::Lines;
use crate::pool::{Pool, SharedMut};
use crate::ternary::kernel::{PanelKernels, TernaryKernel};
use crate::ternary::lookup::multiply_by_lookup;
use crate::ternary::tiles::Panels;
use crate::ternary::{Activations, Precision, RowScales, Scratch, TILE_ROWS, TernaryLinear, TernaryMatrix};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Columns that are not shared out among threads, where all are read.
const UNIT: usize = 128;

/// A linear of which something can be left unread, and what becomes of its outputs.
#[derive(Clone, Copy, Debug)]
pub struct SkippingLinear<'a> {
    /// The weights.
    pub matrix: &'a SkippingMatrix,
    /// Their scales, one for each row or one for all.
    pub scales: &'a RowScales,
    /// What takes the outputs to where they are kept.
    pub epilogue: Epilogue,
}

/// How many rows and columns there were to read, for a few tokens at a time, and how many of them were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SkipCounts {
    /// Rows of the linears behind gates.
    pub rows: u64,
    /// Those that were read.
    pub rows_read: u64,
    /// Columns of the linears behind these.
    pub columns: u64,
    /// Those that were read.
    pub columns_read: u64,
}

impl std::ops::AddAssign for SkipCounts {
    fn add_assign(&mut self, other: SkipCounts) {
        self.rows += other.rows;
        self.rows_read += other.rows_read;
        self.columns += other.columns;
        self.columns_read += other.columns_read;
    }
}

impl std::ops::Sub for SkipCounts {
    type Output = SkipCounts;
    fn sub(self, before: SkipCounts) -> SkipCounts {
        SkipCounts {
            rows: self.rows - before.rows,
            rows_read: self.rows_read - before.rows_read,
            columns: self.columns - before.columns,
            columns_read: self.columns_read - before.columns_read,
        }
    }
}

/// Memory for products, grown to the largest matrix met and reused for all.
#[derive(Debug, Default)]
pub(crate) struct SkippingScratch {
    workers: Vec<Worker>,
    /// The number of the last product by columns.
    job: u64,
    /// `[tokens]`, each as long as a row's lines: activations of rows, or in the order of codes.
    x: Lines<i8>,
    /// `[pieces][tokens][MAX_LINE_WEIGHTS]`.
    sums: Lines<i32>,
    /// For each slice how many of its units are done.
    done: Vec<AtomicUsize>,
    /// A matrix as tiles of codes.
    tiles: Option<Buffer<u8>>,
    pub(crate) counts: SkipCounts,
}

/// One worker's memory.
#[derive(Debug, Default)]
struct Worker {
    /// The rows or columns to be read.
    active: Active,
    /// The product by columns that `active` is for.
    active_for: u64,
    /// Whether a gate lets something through, for each row.
    open: Vec<i8>,
    /// The place of each row.
    places: Vec<u32>,
    /// `[tokens][places]`.
    listed: Vec<i32>,
    sums: Vec<i32>,
    read: u64,
}

impl SkippingScratch {
    fn reserve(&mut self, threads: usize) {
        self.workers.resize_with(threads.max(self.workers.len()), Worker::default);
    }

    /// Rows read since this was called last.
    fn take_read(&mut self) -> u64 {
        self.workers.iter_mut().map(|worker| std::mem::take(&mut worker.read)).sum()
    }
}

/// `out = max(gate, 0)^2 * up` of a few tokens, `[tokens, rows]`, `gate` and `up` being linears of the same input and shape: rows of
/// `up` are read only where the gate of one of the tokens is above zero. Returns `false`, and leaves `out` as it is, where these
/// kernels or these activations allow no such product in one job: more tokens, or activations that are not int8.
///
/// The outputs have the bits that the two linears after each other give them, but for the sign of zeros.
///
/// # Why that holds
/// Where the gate is not above zero, its square is zero, and so is the product, if `up` is a finite number. It is: `up` is
/// `dot * scale / s`, rounded twice, and rounding is monotonic; so it is computed from the largest `dot`, `128 * cols`, the largest
/// scale and the token's factor `s`. Where that is not finite, or `s` is not a positive number, all rows are multiplied; and so is
/// the row of a gate that is not a number. Rows that are read for another token's sake are multiplied for all.
///
/// # Panics
/// If the shapes do not fit, or `up` cannot leave rows unread.
pub fn gate_up(
    kernels: &Kernels,
    pool: &Pool,
    x: &mut Activations,
    scratch: &mut Scratch,
    (gate, up): (TernaryLinear<'_>, SkippingLinear<'_>),
    out: &mut [f32],
) -> bool {
    let (rows, cols) = (up.matrix.rows, up.matrix.cols);
    gate.matrix.check(kernels, x, out.len());
    assert!((gate.matrix.rows(), gate.matrix.cols()) == (rows, cols), "gate and up of one shape");
    assert!(gate.epilogue == Epilogue::Store && up.epilogue == Epilogue::Relu2Mul, "a gate that is squared");
    assert!(
        up.matrix.skips == Skips::Rows && up.scales.fit(rows, cols),
        "rows that can be left unread, and their scales"
    );
    let kernel = gate.matrix.kernel();
    let by_tiles = kernel.lookup(x.rows()).is_none() && kernel.panel(x.rows()).is_none();
    let few = x.tokens() <= MAX_TOKENS.min(kernel.few_tokens) && x.precision() == Precision::Int8;
    let plain = |scales: &RowScales| !matches!(scales, RowScales::Grouped(_));
    if !few || !by_tiles || !plain(gate.scales) || !plain(up.scales) {
        return false;
    }
    x.prepare(kernel, None, pool);
    let scratch = &mut scratch.skipping;
    scratch.reserve(pool.threads());
    let width = copy_padded(x, 0..x.tokens(), up.matrix.layout(), &mut scratch.x);
    let (workers, input) = (SharedMut::new(&mut scratch.workers), scratch.x.chunks_exact(width));
    let job = GateUp { kernels, gate, up, x, inputs: of_tokens(input) };
    let shared = SharedMut::new(out);
    pool.run_ranges(rows.div_ceil(BLOCK_ROWS), |worker, blocks| {
        let part = blocks.start * BLOCK_ROWS..(blocks.end * BLOCK_ROWS).min(rows);
        let mut out: [&mut [f32]; MAX_TOKENS] = Default::default();
        for (token, out) in out.iter_mut().enumerate().take(x.tokens()) {
            // SAFETY: each task owns its rows.
            *out = unsafe { shared.slice(token * rows + part.start, part.len()) };
        }
        // SAFETY: a worker runs one task at a time.
        let worker = unsafe { &mut workers.slice(worker, 1)[0] };
        job.run(part, worker, &mut out[..x.tokens()]);
    });
    let read = scratch.take_read();
    scratch.counts.rows += rows as u64;
    scratch.counts.rows_read += read;
    true
}

/// Gates of a few tokens and what they let through.
struct GateUp<'a> {
    kernels: &'a Kernels,
    gate: TernaryLinear<'a>,
    up: SkippingLinear<'a>,
    x: &'a Activations,
    /// The activations in whole lines.
    inputs: [&'a [i8]; MAX_TOKENS],
}

impl GateUp<'_> {
    /// Whole blocks of rows, all gates first; `out` has each token's part.
    fn run(&self, rows: Range<usize>, worker: &mut Worker, out: &mut [&mut [f32]]) {
        let up = &self.up;
        self.gates(rows.clone(), out);
        let all = (0..out.len()).any(|token| !self.is_bounded(token, rows.clone()));
        worker.open.clear();
        worker.open.resize(rows.len(), i8::from(all));
        for out in &*out {
            // A gate that is not a number is not at most zero.
            let is_open = |gate: f32| i8::from(gate > 0.0 || gate.is_nan());
            worker.open.iter_mut().zip(out.iter()).for_each(|(open, gate)| *open |= is_open(*gate));
        }
        up.matrix.choose_rows(rows.clone(), worker);
        up.matrix.listed_rows(&self.inputs[..out.len()], worker);
        for (token, out) in out.iter_mut().enumerate() {
            let sums = up.matrix.sums_of_rows(rows.clone(), (token, self.x.sum(token)), worker);
            let scales = up.scales.of_rows(rows.clone());
            let how = Finish { scales, factor: self.x.factors()[token], epilogue: Epilogue::Relu2Mul };
            self.kernels.finish(how, sums, out);
        }
        worker.read += worker.active.places.len() as u64;
    }

    /// The gates of some rows.
    fn gates(&self, rows: Range<usize>, out: &mut [&mut [f32]]) {
        let (matrix, kernel): (_, &TernaryKernel) = (self.gate.matrix, self.gate.matrix.kernel());
        let (pass, cols) = (self.x.pass(0, kernel), kernel.layout.padded(matrix.cols()));
        let mut sums = [[0; TILE_ROWS]; MAX_TOKENS];
        for tile in rows.start / TILE_ROWS..rows.end.div_ceil(TILE_ROWS) {
            // SAFETY: the CPU has the ISA of the kernel (`TernaryKernel`); a few tokens of these columns, and a place for each.
            unsafe { (kernel.few)(matrix.tiles(tile..tile + 1), cols, pass.one_by_one(), &mut sums[..out.len()]) };
            let of_tile = matrix.rows_of(tile);
            for (token, out) in out.iter_mut().enumerate() {
                let scales = self.gate.scales.of_rows(of_tile.clone());
                let how = Finish { scales, factor: self.x.factors()[token], epilogue: Epilogue::Store };
                let out = &mut out[of_tile.start - rows.start..of_tile.end - rows.start];
                self.kernels.finish(how, &sums[token][..out.len()], out);
            }
        }
    }

    /// Whether no output of these rows of `up` can be anything but a finite number.
    fn is_bounded(&self, token: usize, rows: Range<usize>) -> bool {
        let largest = match self.up.scales {
            RowScales::Uniform(scale) => scale.abs(),
            // A scale that is not a number makes the sum none, where a maximum would pass over it.
            RowScales::PerRow(scales) => scales[rows].iter().map(|scale| scale.abs()).sum(),
            RowScales::Grouped(_) => f32::NAN,
        };
        let factor = self.x.factors()[token];
        (128.0 * self.up.matrix.cols as f32 * largest / factor).is_finite() && factor > 0.0
    }
}

impl SkippingMatrix {
    /// The places of the open rows of a range of whole blocks; where most are open, of all of them.
    fn choose_rows(&self, range: Range<usize>, worker: &mut Worker) {
        let Worker { open, places, active, .. } = worker;
        places.clear();
        for block in (range.start as u32..range.end as u32).step_by(BLOCK_ROWS) {
            places.extend(self.places.of.iter().map(|within| block + within));
        }
        active.begin(open.len(), 1);
        // SAFETY: the CPU has the ISA of the matrix's kernels, which come from a `Kernels` value; a place for each row.
        unsafe { (self.kernel.kernels.active)(&[open], &places[..open.len()], active) };
        if active.places.len() as f64 > self.kernel.dense_from * range.len() as f64 {
            self.all_places(range, &mut active.places);
        }
    }

    /// The places of the rows of a range of whole blocks, in their order.
    fn all_places(&self, range: Range<usize>, places: &mut Vec<u32>) {
        places.clear();
        let all = range.start as u32..range.end.next_multiple_of(BLOCK_ROWS) as u32;
        places.extend(all.filter(|place| self.row_at(*place) < range.end));
    }

    /// The row that lies in a place.
    fn row_at(&self, place: u32) -> usize {
        let within = place as usize % BLOCK_ROWS;
        place as usize - within + self.places.at[within] as usize
    }

    /// Multiplies the rows at the worker's list of places.
    fn listed_rows(&self, inputs: &[&[i8]], worker: &mut Worker) {
        let Worker { active, listed, .. } = worker;
        listed.resize(active.places.len() * inputs.len(), 0);
        if !active.places.is_empty() {
            let lines = self.layout().row_lines(self.cols);
            // SAFETY: the CPU has the ISA of the matrix's kernels, which come from a `Kernels` value; places are of rows of the
            // matrix, and inputs are padded.
            unsafe { (self.kernel.kernels.rows)(&self.bytes, lines, &active.places, inputs, listed) };
        }
    }

    /// The products of a token, whose activations have this sum, with a range of rows; zeros for those that are not listed.
    fn sums_of_rows<'w>(&self, range: Range<usize>, (token, sum): (usize, i32), worker: &'w mut Worker) -> &'w [i32] {
        let Worker { active, listed, sums, .. } = worker;
        sums.clear();
        sums.resize(range.len(), 0);
        let listed = &listed[token * active.places.len()..];
        for (place, total) in active.places.iter().zip(listed) {
            sums[self.row_at(*place) - range.start] = total - sum;
        }
        sums
    }

    /// `y[token][row] = dot * scale / s`, which `epilogue` takes to `out`.
    ///
    /// # Panics
    /// If the shapes do not fit, the activations are not int8, or the scales are of groups of columns.
    pub fn linear(
        &self,
        kernels: &Kernels,
        pool: &Pool,
        x: &mut Activations,
        scales: &RowScales,
        scratch: &mut Scratch,
        (epilogue, out): (Epilogue, &mut [f32]),
    ) {
        assert!(scales.fit(self.rows, self.cols), "scales for [{}, {}]", self.rows, self.cols);
        assert!(!matches!(scales, RowScales::Grouped(_)), "scales of rows");
        self.check(kernels, x, out.len());
        if let Some(codes) = self.as_tiles(pool, x, &mut scratch.skipping) {
            codes.linear(kernels, pool, x, scales, scratch, (epilogue, out));
            scratch.skipping.tiles = Some(codes.into_tiles());
            return;
        }
        self.prepare(pool, x);
        let x = &*x;
        self.products(pool, x, scratch, out, |token, rows, sums, out| {
            let how = Finish { scales: scales.of_rows(rows), factor: x.factors()[token], epilogue };
            kernels.finish(how, sums, out);
        });
    }

    /// The exact products `out[token][row]`.
    ///
    /// # Panics
    /// If the shapes do not fit, or the activations are not int8.
    pub fn dot(&self, kernels: &Kernels, pool: &Pool, x: &mut Activations, scratch: &mut Scratch, out: &mut [i32]) {
        self.check(kernels, x, out.len());
        if let Some(codes) = self.as_tiles(pool, x, &mut scratch.skipping) {
            codes.dot(kernels, pool, x, scratch, out);
            scratch.skipping.tiles = Some(codes.into_tiles());
            return;
        }
        self.prepare(pool, x);
        self.products(pool, x, scratch, out, |_, _, sums, out| out.copy_from_slice(sums));
    }

    fn check(&self, kernels: &Kernels, x: &Activations, outputs: usize) {
        assert_eq!(x.cols(), self.cols, "columns of the matrix and the activations");
        assert_eq!(outputs, x.tokens() * self.rows, "outputs of {} tokens and {} rows", x.tokens(), self.rows);
        assert!(kernels.isa == x.isa() && x.precision() == Precision::Int8, "int8 activations of these kernels");
    }

    /// How panels are made and multiplied, where these tokens are enough for them.
    fn panels(&self, x: &Activations) -> Option<(&'static SkippingPanels, &'static PanelKernels)> {
        self.kernel.panels().zip(self.kernel.dense.panel(x.rows()))
    }

    /// Makes of the activations what panels want.
    fn prepare(&self, pool: &Pool, x: &mut Activations) {
        if self.panels(x).is_some() {
            x.prepare(self.kernel.dense, None, pool);
        }
    }

    /// `finish(token, rows, their sums, their part of out)` for all rows of all tokens: by tables or panels where tokens are many
    /// enough for them, as the weights are packed otherwise.
    fn products<T: Send>(
        &self,
        pool: &Pool,
        x: &Activations,
        scratch: &mut Scratch,
        out: &mut [T],
        finish: impl Fn(usize, Range<usize>, &[i32], &mut [T]) + Sync,
    ) {
        if let Some((lookup, coded)) = self.kernel.dense.lookup(x.rows()).zip(self.coded()) {
            let rows = coded.activations(pool, x, &mut scratch.skipping.x);
            return multiply_by_lookup(&coded, lookup, pool, rows, &mut scratch.lookup, out, |sums, out| {
                finish(sums.token, sums.row..sums.row + sums.sums.len(), sums.sums, out);
            });
        }
        let out = SharedMut::new(out);
        if let Some((panels, multiply)) = self.panels(x) {
            return self.unpacked(panels, multiply).multiply(pool, x, scratch, |_, tile, weights, pass, memory| {
                let rows = tile * TILE_ROWS..((tile + 1) * TILE_ROWS).min(self.rows);
                for (sums, token) in weights.products(pass, &mut memory.sums).iter().zip(pass.tokens.clone()) {
                    // SAFETY: each task owns its rows of its tokens.
                    let out = unsafe { out.slice(token * self.rows + rows.start, rows.len()) };
                    finish(token, rows.clone(), &sums[..rows.len()], out);
                }
            });
        }
        let scratch = &mut scratch.skipping;
        scratch.reserve(pool.threads());
        for first in (0..x.tokens()).step_by(MAX_TOKENS) {
            let tokens = first..(first + MAX_TOKENS).min(x.tokens());
            match self.skips {
                Skips::Rows => {
                    let all =
                        |rows: Range<usize>, worker: &mut Worker| self.all_places(rows, &mut worker.active.places);
                    self.chosen_rows(pool, (x, tokens), scratch, &out, all, &finish);
                }
                Skips::Columns => self.active_columns(pool, x, tokens, scratch, &out, &finish),
            }
        }
    }

    /// The tiles, unpacked to panels.
    fn unpacked(
        &self,
        panels: &'static SkippingPanels,
        panel: &'static PanelKernels,
    ) -> Panels<impl Fn(usize, usize, &mut [u8]) -> bool + Sync> {
        let (kernel, of_part) = (self.kernel.dense, self.kernel.part_rows(self.skips) / TILE_ROWS);
        let cols = kernel.layout.padded(self.cols);
        let unpack = move |_: usize, tile: usize, bytes: &mut [u8]| {
            let (part, tile, bytes) = (self.part(tile / of_part), tile % of_part, &mut bytes[..cols * TILE_ROWS]);
            // SAFETY: the CPU has the ISA of the matrix's kernels, which come from a `Kernels` value; a block or a slice, the
            // places of its columns, and a panel of as many, in whole blocks of codes.
            unsafe {
                match self.skips {
                    Skips::Rows => (panels.of_rows)(part, tile, bytes),
                    Skips::Columns => (panels.of_columns)(part, &self.places.of, tile, bytes),
                }
            }
            true
        };
        Panels { kernel, panel, cols, count: self.rows.div_ceil(TILE_ROWS), steps: 1, unpack }
    }

    /// The rows of every range of whole blocks that `choose(rows, worker)` has listed.
    fn chosen_rows<T: Send>(
        &self,
        pool: &Pool,
        (x, tokens): (&Activations, Range<usize>),
        scratch: &mut SkippingScratch,
        out: &SharedMut<'_, T>,
        choose: impl Fn(Range<usize>, &mut Worker) + Sync,
        finish: impl Fn(usize, Range<usize>, &[i32], &mut [T]) + Sync,
    ) {
        let width = copy_padded(x, tokens.clone(), self.layout(), &mut scratch.x);
        let inputs = of_tokens(scratch.x.chunks_exact(width));
        let (inputs, workers) = (&inputs[..tokens.len()], SharedMut::new(&mut scratch.workers));
        pool.run_ranges(self.rows.div_ceil(BLOCK_ROWS), |worker, blocks| {
            let rows = blocks.start * BLOCK_ROWS..(blocks.end * BLOCK_ROWS).min(self.rows);
            // SAFETY: a worker runs one task at a time.
            let worker = unsafe { &mut workers.slice(worker, 1)[0] };
            choose(rows.clone(), worker);
            self.listed_rows(inputs, worker);
            for token in tokens.clone() {
                let sums = self.sums_of_rows(rows.clone(), (token - tokens.start, x.sum(token)), worker);
                // SAFETY: each task owns its rows.
                let out = unsafe { out.slice(token * self.rows + rows.start, rows.len()) };
                finish(token, rows.clone(), sums, out);
            }
        });
    }

    /// The products of a token with the rows that are open, zeros for others, for trials.
    pub(super) fn open_rows(&self, pool: &Pool, x: &Activations, open: &[i8], scratch: &mut Scratch, out: &mut [i32]) {
        let scratch = &mut scratch.skipping;
        scratch.reserve(pool.threads());
        let choose = |rows: Range<usize>, worker: &mut Worker| {
            worker.open.clear();
            worker.open.extend_from_slice(&open[rows.clone()]);
            self.choose_rows(rows, worker);
        };
        self.chosen_rows(pool, (x, 0..1), scratch, &SharedMut::new(out), choose, |_, _, sums, out| {
            out.copy_from_slice(sums);
        });
    }

    /// The columns that one of the tokens needs.
    fn active_columns<T: Send>(
        &self,
        pool: &Pool,
        x: &Activations,
        tokens: Range<usize>,
        scratch: &mut SkippingScratch,
        out: &SharedMut<'_, T>,
        finish: &(impl Fn(usize, Range<usize>, &[i32], &mut [T]) + Sync),
    ) {
        let SkippingScratch { workers, job, sums, done, counts, .. } = scratch;
        *job += 1;
        let (job, count, read) = (*job, tokens.len(), AtomicUsize::new(0));
        let width = self.layout().line_weights();
        let pieces = Pieces { slices: self.rows.div_ceil(width), units: self.cols.div_ceil(UNIT).max(1) };
        let shares = pool.shares(pieces.slices * pieces.units);
        sums.resize((shares.count() + pieces.slices) * count * MAX_LINE_WEIGHTS);
        done.clear();
        done.resize_with(pieces.slices, AtomicUsize::default);
        let (sums, workers, done) = (sums.as_chunks_mut().0, SharedMut::new(workers), &*done);
        let sums: SharedMut<'_, [i32; MAX_LINE_WEIGHTS]> = SharedMut::new(sums);
        pool.run(shares.count(), |worker, share| {
            // SAFETY: a worker runs one task at a time.
            let Worker { active, active_for, .. } = unsafe { &mut workers.slice(worker, 1)[0] };
            if *active_for != job {
                // Each worker for itself: to fetch the list of another would take longer than to make it.
                read.store(self.choose_columns(x, tokens.clone(), active), Ordering::Relaxed);
                *active_for = job;
            }
            for (slice, units) in pieces.of_range(shares.get(share)) {
                let range = pieces.columns(units.start, active)..pieces.columns(units.end, active);
                let inputs = of_tokens(active.x[..count].iter().map(|x| &x[range.clone()]));
                // SAFETY: this piece's own sums, see `Pieces`.
                let of_piece = unsafe { sums.slice((share + slice) * count, count) };
                // SAFETY: the CPU has the ISA of the matrix's kernels, which come from a `Kernels` value; places are of columns
                // of the matrix and go on beyond these activations, in fours.
                unsafe {
                    let places = &active.places[range.start..range.end + AHEAD];
                    (self.kernel.kernels.columns)(self.part(slice), places, &inputs[..count], of_piece);
                }
                if done[slice].fetch_add(units.len(), Ordering::AcqRel) + units.len() < pieces.units {
                    continue;
                }
                // All pieces of the slice are there.
                let mut totals = [[0; MAX_LINE_WEIGHTS]; MAX_TOKENS];
                for share in (0..shares.count()).filter(|share| pieces.meets(shares.get(*share), slice)) {
                    // SAFETY: nobody writes these sums any more.
                    let of_piece = unsafe { sums.slice((share + slice) * count, count) };
                    for (total, sum) in totals.as_flattened_mut().iter_mut().zip(of_piece.as_flattened()) {
                        *total += sum;
                    }
                }
                let rows = slice * width..((slice + 1) * width).min(self.rows);
                for (token, totals) in tokens.clone().zip(&mut totals) {
                    totals.iter_mut().for_each(|total| *total -= x.sum(token));
                    // SAFETY: who finishes a slice owns its rows.
                    let out = unsafe { out.slice(token * self.rows + rows.start, rows.len()) };
                    finish(token, rows.clone(), &totals[..rows.len()], out);
                }
            }
        });
        counts.columns_read += read.into_inner() as u64;
        counts.columns += self.cols as u64;
    }

    /// The columns that one of the tokens needs, or all of them in the order of their places where they need most; returns how
    /// many.
    fn choose_columns(&self, x: &Activations, tokens: Range<usize>, active: &mut Active) -> usize {
        let inputs = of_tokens(tokens.clone().map(|token| x.row(token)));
        let inputs = &inputs[..tokens.len()];
        active.begin(self.cols, inputs.len());
        // SAFETY: the CPU has the ISA of the matrix's kernels, which come from a `Kernels` value; a place for each column.
        unsafe { (self.kernel.kernels.active)(inputs, &self.places.of, active) };
        if active.places.len() as f64 > self.kernel.dense_from * self.cols as f64 {
            active.begin(self.cols, inputs.len());
            active.places.extend(0..self.cols as u32);
            for (x, active) in inputs.iter().zip(&mut active.x) {
                active.extend(self.places.at.iter().map(|col| x[*col as usize]));
            }
        }
        let read = active.places.len();
        active.complete(inputs.len());
        read
    }

    /// The matrix packed as tiles of codes, where tokens are many, neither tables nor panels do with less and there is memory for it;
    /// the memory goes back to the scratch afterwards.
    fn as_tiles(&self, pool: &Pool, x: &Activations, scratch: &mut SkippingScratch) -> Option<TernaryMatrix> {
        let SkippingKernel { kernels, dense, .. } = self.kernel;
        let is_wanted = x.tokens() > MOST_FEW && !self.kernel.is_direct();
        let pack = kernels.tiles.as_ref().filter(|_| is_wanted)?;
        let tile_bytes = dense.layout.tile_bytes(self.cols);
        let bytes = self.rows.div_ceil(TILE_ROWS) * tile_bytes;
        let known = scratch.tiles.take().filter(|tiles| tiles.len() >= bytes);
        let mut tiles = known.or_else(|| Buffer::zeroed(bytes).ok())?;
        let rows = self.kernel.part_rows(self.skips);
        pool.for_each_chunk(&mut tiles[..bytes], rows / TILE_ROWS * tile_bytes, |part, tiles| {
            // SAFETY: the CPU has the ISA of the matrix's kernels, which come from a `Kernels` value; tiles of these rows, of
            // which the last part may have fewer.
            unsafe {
                match self.skips {
                    Skips::Rows => (pack.of_rows)(self.part(part), self.cols, tiles),
                    Skips::Columns => (pack.of_columns)(self.part(part), &self.places.of, tiles),
                }
            }
        });
        Some(TernaryMatrix::of_tiles((self.rows, self.cols), dense, tiles))
    }
}

/// The columns of all slices, slice by slice, in units that threads share out in ranges. What a range has of a slice is a piece,
/// with sums of its own. The piece of range `r` and slice `s` has the number `r + s`, which no other has: from piece to piece one
/// of them grows.
#[derive(Clone, Copy)]
struct Pieces {
    slices: usize,
    /// Units of a slice.
    units: usize,
}

impl Pieces {
    /// Where the columns of a unit begin, or where those of the last one end: at fours of columns.
    fn columns(self, unit: usize, active: &Active) -> usize {
        unit * (active.x[0].len() / 4) / self.units * 4
    }

    /// The slices that a range meets, and which units of them.
    fn of_range(self, range: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let slices = range.start / self.units..range.end.div_ceil(self.units);
        slices.map(move |slice| {
            let first = slice * self.units;
            (slice, range.start.max(first) - first..range.end.min(first + self.units) - first)
        })
    }

    /// Whether a range has a piece of a slice.
    fn meets(self, range: Range<usize>, slice: usize) -> bool {
        !range.is_empty() && range.start < (slice + 1) * self.units && range.end > slice * self.units
    }
}

/// A few tokens' activations, nothing for those that are not there.
fn of_tokens<'a>(tokens: impl Iterator<Item = &'a [i8]>) -> [&'a [i8]; MAX_TOKENS] {
    let mut of_tokens = [&[][..]; MAX_TOKENS];
    of_tokens.iter_mut().zip(tokens).for_each(|(of_token, x)| *of_token = x);
    of_tokens
}

/// Copies tokens' activations to rows of whole lines; returns the length of these rows.
fn copy_padded(x: &Activations, tokens: Range<usize>, layout: &ByteLayout, to: &mut Lines<i8>) -> usize {
    let (cols, width) = (x.cols(), (layout.row_lines(x.cols()) * layout.line_weights()).max(LINE));
    to.resize(width * tokens.len());
    for (token, to) in tokens.zip(to.chunks_exact_mut(width)) {
        to[..cols].copy_from_slice(x.row(token));
        to[cols..].fill(0);
    }
    width
}
