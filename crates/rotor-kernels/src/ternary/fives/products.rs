//! Products of matrices in fives, shared out over the threads.

use super::matrix::row_lines;
use super::{AHEAD, Active, BLOCK_ROWS, FivesMatrix, LINE, LINE_WEIGHTS, MAX_TOKENS, MOST_FEW, Skips};
use crate::buffer::Buffer;
use crate::dispatch::Kernels;
use crate::epilogue::{Epilogue, Finish};
use crate::lines::Lines;
use crate::pool::{Pool, SharedMut};
use crate::ternary::kernel::TernaryKernel;
use crate::ternary::{Activations, Precision, RowScales, Scratch, TILE_ROWS, TernaryLinear, TernaryMatrix};
use std::ops::Range;

/// Where more of the rows or columns than this are needed, all are read, in the order of their places. Memory in order is
/// faster by some, whatever the machine; both ways give the same integers.
const SPARSE: f64 = 0.7;

/// A linear in fives, and what becomes of its outputs.
#[derive(Clone, Copy, Debug)]
pub struct FivesLinear<'a> {
    /// The weights.
    pub matrix: &'a FivesMatrix,
    /// Their scales, one for each row or one for all.
    pub scales: &'a RowScales,
    /// What takes the outputs to where they are kept.
    pub epilogue: Epilogue,
}

/// How many rows and columns there were to read for single tokens, and how many of them were read.
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

/// Memory for products of fives, grown to the largest matrix met and reused for all.
#[derive(Debug, Default)]
pub(crate) struct FivesScratch {
    workers: Vec<Worker>,
    active: Active,
    /// `[tokens][320 lines]`: activations of rows.
    x: Lines<i8>,
    /// `[parts][slices][tokens][320]`.
    sums: Vec<[i32; LINE_WEIGHTS]>,
    /// A matrix as codes.
    codes: Option<Buffer<u8>>,
    pub(crate) counts: SkipCounts,
}

/// One worker's memory.
#[derive(Debug, Default)]
struct Worker {
    rows: Vec<u32>,
    places: Vec<u32>,
    listed: Vec<i32>,
    sums: Vec<i32>,
    read: u64,
}

impl FivesScratch {
    fn reserve(&mut self, threads: usize) {
        self.workers.resize_with(threads.max(self.workers.len()), Worker::default);
    }

    /// Rows read since this was called last.
    fn take_read(&mut self) -> u64 {
        self.workers.iter_mut().map(|worker| std::mem::take(&mut worker.read)).sum()
    }
}

/// `out = max(gate, 0)^2 * up` of one token, `gate` and `up` being linears of the same input and shape: rows of `up` are read only
/// where the gate is above zero. Returns `false`, and leaves `out` as it is, where these kernels or these activations allow no
/// such product in one job: several tokens, or activations that are not int8.
///
/// The outputs have the bits that the two linears after each other give them, but for the sign of zeros.
///
/// # Why that holds
/// Where the gate is not above zero, its square is zero, and so is the product, if `up` is a finite number. It is: `up` is
/// `dot * scale / s`, rounded twice, and rounding is monotonic; so it is computed from the largest `dot`, `128 * cols`, the largest
/// scale and the token's factor `s`. Where that is not finite, or `s` is not a positive number, all rows are multiplied; and so is
/// the row of a gate that is not a number.
///
/// # Panics
/// If the shapes do not fit, or `up` cannot leave rows unread.
pub fn gate_up(
    kernels: &Kernels,
    pool: &Pool,
    x: &mut Activations,
    scratch: &mut Scratch,
    (gate, up): (TernaryLinear<'_>, FivesLinear<'_>),
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
    let by_tiles = gate.matrix.kernel().lookup(x.rows()).is_none() && gate.matrix.kernel().panel(x.rows()).is_none();
    let plain = |scales: &RowScales| !matches!(scales, RowScales::Grouped(_));
    if x.tokens() != 1 || x.precision() != Precision::Int8 || !by_tiles || !plain(gate.scales) || !plain(up.scales) {
        return false;
    }
    x.prepare(gate.matrix.kernel(), None, pool);
    let scratch = &mut scratch.fives;
    scratch.reserve(pool.threads());
    copy_padded(x, 0..1, up.matrix.cols, &mut scratch.x);
    let (workers, input) = (SharedMut::new(&mut scratch.workers), &scratch.x[..]);
    let job = GateUp { kernels, gate, up, x, input, factor: x.factors()[0] };
    let shared = SharedMut::new(out);
    pool.run_ranges(rows.div_ceil(BLOCK_ROWS), |worker, blocks| {
        let rows = blocks.start * BLOCK_ROWS..(blocks.end * BLOCK_ROWS).min(rows);
        // SAFETY: a worker runs one task at a time, and each task owns its rows.
        let (worker, out) = unsafe { (&mut workers.slice(worker, 1)[0], shared.slice(rows.start, rows.len())) };
        job.run(rows, worker, out);
    });
    let read = scratch.take_read();
    scratch.counts.rows += rows as u64;
    scratch.counts.rows_read += read;
    true
}

/// A token's gate and what it lets through.
struct GateUp<'a> {
    kernels: &'a Kernels,
    gate: TernaryLinear<'a>,
    up: FivesLinear<'a>,
    x: &'a Activations,
    input: &'a [i8],
    factor: f32,
}

impl GateUp<'_> {
    /// Whole blocks of rows, all gates first.
    fn run(&self, rows: Range<usize>, worker: &mut Worker, out: &mut [f32]) {
        let Worker { rows: listed_rows, places, listed, sums, read } = worker;
        let up = &self.up;
        self.gates(rows.clone(), out);
        let all = !self.is_bounded(rows.clone());
        listed_rows.resize(rows.len(), 0);
        let mut count = 0;
        for (row, gate) in (rows.start as u32..).zip(&*out) {
            listed_rows[count] = row;
            // A gate that is not a number is not at most zero.
            let idle = *gate <= 0.0 && !all;
            count += usize::from(!idle);
        }
        listed_rows.truncate(count);
        up.matrix.places_of(rows.clone(), listed_rows, places);
        listed.resize(places.len(), 0);
        sums.clear();
        sums.resize(rows.len(), 0);
        if !places.is_empty() {
            let lines = row_lines(up.matrix.cols);
            let x = &self.input[..lines * LINE_WEIGHTS];
            // SAFETY: the CPU has the ISA of the matrix's kernels, which come from a `Kernels` value; places are of rows of the
            // matrix.
            unsafe { (up.matrix.kernels.rows)(&up.matrix.bytes, lines, places, &[x], listed) };
        }
        let sum = self.x.sum(0);
        for (row, total) in listed_rows.iter().zip(&*listed) {
            sums[*row as usize - rows.start] = total - sum;
        }
        *read += places.len() as u64;
        let how = Finish { scales: up.scales.of_rows(rows), factor: self.factor, epilogue: Epilogue::Relu2Mul };
        self.kernels.finish(how, sums, out);
    }

    /// The gates of some rows.
    fn gates(&self, rows: Range<usize>, out: &mut [f32]) {
        let (matrix, kernel): (_, &TernaryKernel) = (self.gate.matrix, self.gate.matrix.kernel());
        let pass = self.x.pass(0, kernel);
        let mut sums = [[0; TILE_ROWS]];
        for (tile, out) in (rows.start / TILE_ROWS..).zip(out.chunks_mut(TILE_ROWS)) {
            let cols = kernel.layout.padded(matrix.cols());
            // SAFETY: the CPU has the ISA of the kernel (`TernaryKernel`); one token of these columns, and a place for it.
            unsafe { (kernel.few)(matrix.tiles(tile..tile + 1), cols, pass.one_by_one(), &mut sums) };
            let scales = self.gate.scales.of_rows(matrix.rows_of(tile));
            let how = Finish { scales, factor: self.factor, epilogue: Epilogue::Store };
            self.kernels.finish(how, &sums[0][..out.len()], out);
        }
    }

    /// Whether no output of these rows of `up` can be anything but a finite number.
    fn is_bounded(&self, rows: Range<usize>) -> bool {
        let largest = match self.up.scales {
            RowScales::Uniform(scale) => scale.abs(),
            // A scale that is not a number makes the sum none, where a maximum would pass over it.
            RowScales::PerRow(scales) => scales[rows].iter().map(|scale| scale.abs()).sum(),
            RowScales::Grouped(_) => f32::NAN,
        };
        (128.0 * self.up.matrix.cols as f32 * largest / self.factor).is_finite() && self.factor > 0.0
    }
}

impl FivesMatrix {
    /// The places of listed rows of a range; where most are listed, all of them in the order of their places.
    fn places_of(&self, range: Range<usize>, rows: &mut Vec<u32>, places: &mut Vec<u32>) {
        if rows.len() as f64 > SPARSE * range.len() as f64 {
            self.in_order(range, rows);
        }
        places.clear();
        places.extend(rows.iter().map(|row| self.places.row(*row)));
    }

    /// Rows of whole blocks in the order of their places.
    fn in_order(&self, range: Range<usize>, rows: &mut Vec<u32>) {
        rows.clear();
        for block in (range.start as u32..range.end as u32).step_by(BLOCK_ROWS) {
            let of_block = self.places.at.iter().map(|within| block + within);
            rows.extend(of_block.filter(|row| (*row as usize) < range.end));
        }
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
        if x.tokens() > MOST_FEW
            && let Some(codes) = self.as_codes(pool, &mut scratch.fives)
        {
            codes.linear(kernels, pool, x, scales, scratch, (epilogue, out));
            scratch.fives.codes = Some(codes.into_tiles());
            return;
        }
        let x = &*x;
        self.products(kernels, pool, x, &mut scratch.fives, out, |token, rows, sums, out| {
            let how = Finish { scales: scales.of_rows(rows), factor: x.factors()[token], epilogue };
            kernels.finish(how, sums, out);
        });
    }

    /// The exact products `out[token][row]`.
    ///
    /// # Panics
    /// If the shapes do not fit, or the activations are not int8.
    pub fn dot(&self, kernels: &Kernels, pool: &Pool, x: &mut Activations, scratch: &mut Scratch, out: &mut [i32]) {
        if x.tokens() > MOST_FEW
            && let Some(codes) = self.as_codes(pool, &mut scratch.fives)
        {
            codes.dot(kernels, pool, x, scratch, out);
            scratch.fives.codes = Some(codes.into_tiles());
            return;
        }
        self.products(kernels, pool, x, &mut scratch.fives, out, |_, _, sums, out| out.copy_from_slice(sums));
    }

    /// `finish(token, rows, their sums, their part of out)` for all rows of all tokens.
    fn products<T: Send>(
        &self,
        kernels: &Kernels,
        pool: &Pool,
        x: &Activations,
        scratch: &mut FivesScratch,
        out: &mut [T],
        finish: impl Fn(usize, Range<usize>, &[i32], &mut [T]) + Sync,
    ) {
        assert_eq!(x.cols(), self.cols, "columns of the matrix and the activations");
        assert_eq!(out.len(), x.tokens() * self.rows, "outputs of {} tokens and {} rows", x.tokens(), self.rows);
        assert!(kernels.isa == x.isa() && x.precision() == Precision::Int8, "int8 activations of these kernels");
        scratch.reserve(pool.threads());
        let out = SharedMut::new(out);
        for first in (0..x.tokens()).step_by(MAX_TOKENS) {
            let tokens = first..(first + MAX_TOKENS).min(x.tokens());
            match self.skips {
                Skips::Rows => self.all_rows(pool, x, tokens, scratch, &out, &finish),
                Skips::Columns => self.active_columns(pool, x, tokens, scratch, &out, &finish),
            }
        }
    }

    /// All rows, in the order of their places.
    fn all_rows<T: Send>(
        &self,
        pool: &Pool,
        x: &Activations,
        tokens: Range<usize>,
        scratch: &mut FivesScratch,
        out: &SharedMut<'_, T>,
        finish: &(impl Fn(usize, Range<usize>, &[i32], &mut [T]) + Sync),
    ) {
        let width = copy_padded(x, tokens.clone(), self.cols, &mut scratch.x);
        let mut inputs = [&[][..]; MAX_TOKENS];
        inputs.iter_mut().zip(scratch.x.chunks_exact(width)).for_each(|(input, x)| *input = x);
        let (inputs, workers) = (&inputs[..tokens.len()], SharedMut::new(&mut scratch.workers));
        pool.run_ranges(self.rows.div_ceil(BLOCK_ROWS), |worker, blocks| {
            let rows = blocks.start * BLOCK_ROWS..(blocks.end * BLOCK_ROWS).min(self.rows);
            // SAFETY: a worker runs one task at a time.
            let worker = unsafe { &mut workers.slice(worker, 1)[0] };
            self.in_order(rows.clone(), &mut worker.rows);
            worker.places.clear();
            worker.places.extend(worker.rows.iter().map(|row| self.places.row(*row)));
            worker.listed.resize(rows.len() * tokens.len(), 0);
            // SAFETY: the CPU has the ISA of the matrix's kernels, which come from a `Kernels` value; places are of rows of the
            // matrix, and inputs are padded.
            unsafe {
                (self.kernels.rows)(&self.bytes, row_lines(self.cols), &worker.places, inputs, &mut worker.listed)
            };
            worker.sums.resize(rows.len(), 0);
            for (token, listed) in tokens.clone().zip(worker.listed.chunks_exact(rows.len())) {
                for (row, total) in worker.rows.iter().zip(listed) {
                    worker.sums[*row as usize - rows.start] = total - x.sum(token);
                }
                // SAFETY: each task owns its rows.
                let out = unsafe { out.slice(token * self.rows + rows.start, rows.len()) };
                finish(token, rows.clone(), &worker.sums, out);
            }
        });
    }

    /// The columns of a single token that are not zero, or all columns of several tokens.
    fn active_columns<T: Send>(
        &self,
        pool: &Pool,
        x: &Activations,
        tokens: Range<usize>,
        scratch: &mut FivesScratch,
        out: &SharedMut<'_, T>,
        finish: &(impl Fn(usize, Range<usize>, &[i32], &mut [T]) + Sync),
    ) {
        let FivesScratch { active, sums, counts, .. } = scratch;
        if x.tokens() == 1 {
            let read = self.choose_columns(x.row(0), active);
            counts.columns += self.cols as u64;
            counts.columns_read += read as u64;
        } else {
            active.clear(self.cols);
            active.places.extend_from_slice(&self.places.of);
            active.x.resize(self.cols, 0);
            active.complete();
        }
        let columns = active.x.len();
        let mut inputs = [&[][..]; MAX_TOKENS];
        for (input, token) in inputs.iter_mut().zip(tokens.clone()) {
            // Rows of activations are padded with zeros to more than fours.
            *input = if x.tokens() == 1 { &active.x } else { &x.quantized_from(token)[..columns] };
        }
        let (inputs, places) = (&inputs[..tokens.len()], &active.places[..]);
        let slices = self.rows.div_ceil(LINE_WEIGHTS);
        let parts = parts(slices, pool.threads(), columns);
        sums.resize(sums.len().max(parts * slices * tokens.len()), [0; LINE_WEIGHTS]);
        let (shared, width) = (SharedMut::new(sums), columns.div_ceil(4 * parts) * 4);
        let put = |slice: usize, sums: &mut [[i32; LINE_WEIGHTS]]| {
            let rows = slice * LINE_WEIGHTS..((slice + 1) * LINE_WEIGHTS).min(self.rows);
            for (token, sums) in tokens.clone().zip(sums) {
                sums.iter_mut().for_each(|sum| *sum -= x.sum(token));
                // SAFETY: each task owns its rows.
                let out = unsafe { out.slice(token * self.rows + rows.start, rows.len()) };
                finish(token, rows.clone(), &sums[..rows.len()], out);
            }
        };
        pool.run(parts * slices, |_, task| {
            let (part, slice) = (task / slices, task % slices);
            let range = (part * width).min(columns)..((part + 1) * width).min(columns);
            let mut own = [&[][..]; MAX_TOKENS];
            own.iter_mut().zip(inputs).for_each(|(own, input)| *own = &input[range.clone()]);
            // SAFETY: each task owns its sums.
            let sums = unsafe { shared.slice(task * inputs.len(), inputs.len()) };
            // SAFETY: the CPU has the ISA of the matrix's kernels, which come from a `Kernels` value; places are of columns of
            // the matrix and go on beyond these activations, in fours.
            unsafe {
                let places = &places[range.start..range.end + AHEAD];
                (self.kernels.columns)(self.part(slice), places, &own[..inputs.len()], sums);
            }
            if parts == 1 {
                put(slice, sums);
            }
        });
        if parts > 1 {
            pool.run(slices, |_, slice| {
                let mut totals = [[0; LINE_WEIGHTS]; MAX_TOKENS];
                for part in 0..parts {
                    // SAFETY: nobody writes these sums any more.
                    let sums = unsafe { shared.slice((part * slices + slice) * inputs.len(), inputs.len()) };
                    for (total, sum) in totals.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
                        *total += sum;
                    }
                }
                put(slice, &mut totals[..inputs.len()]);
            });
        }
    }

    /// The columns that a token needs, or all of them in the order of their places where it needs most; returns how many.
    fn choose_columns(&self, x: &[i8], active: &mut Active) -> usize {
        active.clear(self.cols);
        // SAFETY: the CPU has the ISA of the matrix's kernels, which come from a `Kernels` value; a place for each column.
        unsafe { (self.kernels.active)(x, &self.places.of, active) };
        if active.x.len() as f64 > SPARSE * self.cols as f64 {
            active.clear(self.cols);
            active.places.extend(0..self.cols as u32);
            active.x.extend(self.places.at.iter().map(|col| x[*col as usize]));
        }
        let read = active.x.len();
        active.complete();
        read
    }

    /// The matrix packed as codes, where there is memory for it; the memory goes back to the scratch afterwards.
    fn as_codes(&self, pool: &Pool, scratch: &mut FivesScratch) -> Option<TernaryMatrix> {
        let tile_bytes = self.dense.layout.tile_bytes(self.cols);
        let bytes = self.rows.div_ceil(TILE_ROWS) * tile_bytes;
        let known = scratch.codes.take().filter(|tiles| tiles.len() >= bytes);
        let mut tiles = known.or_else(|| Buffer::zeroed(bytes).ok())?;
        let rows = if self.skips == Skips::Rows { BLOCK_ROWS } else { LINE_WEIGHTS };
        pool.for_each_chunk(&mut tiles[..bytes], rows / TILE_ROWS * tile_bytes, |part, tiles| {
            // SAFETY: the CPU has the ISA of the matrix's kernels, which come from a `Kernels` value; tiles of these rows, of
            // which the last part may have fewer.
            unsafe {
                match self.skips {
                    Skips::Rows => (self.kernels.codes_of_rows)(self.part(part), self.cols, tiles),
                    Skips::Columns => (self.kernels.codes_of_columns)(self.part(part), &self.places.of, tiles),
                }
            }
        });
        Some(TernaryMatrix::of_tiles((self.rows, self.cols), self.dense, tiles))
    }
}

/// How many parts the columns of a slice are shared out in: one, unless slices are too few for the threads.
fn parts(slices: usize, threads: usize, columns: usize) -> usize {
    if slices.is_multiple_of(threads) || slices >= 8 * threads {
        return 1;
    }
    (4 * threads).div_ceil(slices.max(1)).min(columns / (4 * AHEAD)).max(1)
}

/// Copies tokens' activations to rows of whole lines; returns the length of these rows.
fn copy_padded(x: &Activations, tokens: Range<usize>, cols: usize, to: &mut Lines<i8>) -> usize {
    let width = (row_lines(cols) * LINE_WEIGHTS).max(LINE);
    to.resize(width * tokens.len());
    for (token, to) in tokens.zip(to.chunks_exact_mut(width)) {
        to[..cols].copy_from_slice(x.row(token));
        to[cols..].fill(0);
    }
    width
}
