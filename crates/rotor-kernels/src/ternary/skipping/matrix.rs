//! Packing a matrix, and reading it back.

use super::coded::SkippingTables;
use super::layout::{ByteLayout, MAX_DIGITS};
use super::places::Places;
use super::{BLOCK_ROWS, LINE, MAX_SIDE, SkippingKernels, SkippingPanels};
use crate::buffer::Buffer;
use crate::dispatch::Kernels;
use crate::pool::{Pool, SharedMut};
use crate::ternary::TernaryKernel;
use std::sync::{Arc, Mutex, PoisonError};

/// What is not read where it does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skips {
    /// Rows whose gate, that of `max(gate, 0)^2 * up`, is not above zero.
    Rows,
    /// Columns whose activation is zero.
    Columns,
}

/// How a matrix of which rows or columns can be left unread is packed, and how many tokens are multiplied by it. It can only be had
/// of kernels whose CPU this is.
#[derive(Clone, Copy)]
pub struct SkippingKernel {
    pub(super) kernels: &'static SkippingKernels,
    /// What multiplies many tokens.
    pub(super) dense: &'static TernaryKernel,
    /// The share of rows or columns from which on all are read, in the order of their places; both ways give the same integers.
    pub(super) dense_from: f64,
}

/// [`SkippingKernel::dense_from`] where nothing was measured.
const DENSE_FROM: f64 = 0.7;

impl SkippingKernel {
    /// Of these kernels, where they can leave anything unread; many tokens are multiplied by `dense` or as `dense` would: one for
    /// codes, or the one whose tables theirs are for.
    ///
    /// # Panics
    /// If `dense` is not one of theirs.
    pub(crate) fn new(kernels: &Kernels, dense: &'static TernaryKernel) -> Option<SkippingKernel> {
        assert!(kernels.ternary_kernels().iter().any(|own| std::ptr::eq(*own, dense)), "a kernel of {}", kernels.isa);
        let own = SkippingKernel { kernels: kernels.ternary.skipping?, dense, dense_from: DENSE_FROM };
        let by_tiles = dense.packs_codes() && own.kernels.tiles.is_some();
        (by_tiles || own.is_direct()).then_some(own)
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        self.kernels.layout.name
    }

    /// How weights become codes for the tables of `dense`, where they do without a detour.
    pub(super) fn tables(self) -> Option<&'static SkippingTables> {
        self.kernels.tables.filter(|tables| std::ptr::eq(tables.kernel, self.dense))
    }

    /// How weights become panels for `dense`, where they do without a detour.
    pub(super) fn panels(self) -> Option<&'static SkippingPanels> {
        self.kernels.panels.filter(|panels| std::ptr::eq(panels.kernel, self.dense))
    }

    /// Whether there is no detour, so that many tokens are multiplied about as fast as by `dense` alone.
    pub(super) fn is_direct(self) -> bool {
        self.tables().is_some() || self.panels().is_some()
    }

    /// Whether many tokens are multiplied as `usual` multiplies them, and about as fast.
    pub(crate) fn goes_as(self, usual: &TernaryKernel) -> bool {
        self.is_direct() && self.dense.way() == usual.way()
    }

    /// Replaces the share of needed rows or columns above which a product reads all of them.
    pub(crate) fn with_dense_from(self, dense_from: f64) -> SkippingKernel {
        SkippingKernel { dense_from, ..self }
    }

    /// Whether anything is ever left unread.
    pub(crate) fn pays(self) -> bool {
        self.dense_from > 0.0
    }

    /// Returns a kernel that never reads a row or column that a product does not need, however slow that is.
    pub fn reading_least(self) -> SkippingKernel {
        self.with_dense_from(1.0)
    }

    /// Bytes of a packed matrix `[rows, cols]`; `None` where sums of such a matrix could overflow.
    pub fn packed_bytes(self, (rows, cols): (usize, usize), skips: Skips) -> Option<usize> {
        if rows > MAX_SIDE || cols > MAX_SIDE {
            return None;
        }
        let (parts, bytes) = self.pack_sizes((rows, cols), skips);
        parts.checked_mul(bytes)
    }

    /// Blocks of rows or slices, and bytes of each.
    pub(super) fn pack_sizes(self, (rows, cols): (usize, usize), skips: Skips) -> (usize, usize) {
        let parts = rows.div_ceil(self.part_rows(skips));
        match skips {
            Skips::Rows => (parts, BLOCK_ROWS * self.kernels.layout.row_lines(cols) * LINE),
            Skips::Columns => (parts, cols * LINE),
        }
    }

    /// Rows of a block or a slice.
    pub(super) fn part_rows(self, skips: Skips) -> usize {
        match skips {
            Skips::Rows => BLOCK_ROWS,
            Skips::Columns => self.kernels.layout.line_weights(),
        }
    }
}

impl std::fmt::Debug for SkippingKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SkippingKernel({}, {:?})", self.name(), self.dense)
    }
}

/// A ternary matrix `[rows, cols]` of which rows or columns can be left unread.
pub struct SkippingMatrix {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) skips: Skips,
    pub(super) kernel: SkippingKernel,
    pub(super) places: Arc<Places>,
    pub(super) bytes: Buffer<u8>,
}

/// What a thread needs to pack.
#[derive(Default)]
struct Packing {
    trits: Vec<i8>,
    /// `c0 + 3 c1 + ..` of a row's bytes, or `[64 bytes of a line][cols]`.
    values: Vec<u8>,
}

impl SkippingMatrix {
    /// Packs a matrix, `read_row(row, trits)` filling each row's `cols` values of -1, 0 and +1.
    ///
    /// # Errors
    /// The error of a `read_row`, or the system's refusal of memory through `memory`.
    ///
    /// # Panics
    /// If the matrix is too large ([`SkippingKernel::packed_bytes`]).
    pub fn pack<E: Send>(
        (rows, cols): (usize, usize),
        skips: Skips,
        kernel: SkippingKernel,
        pool: &Pool,
        memory: impl FnOnce(std::io::Error) -> E,
        read_row: impl Fn(usize, &mut [i8]) -> Result<(), E> + Sync,
    ) -> Result<SkippingMatrix, E> {
        let size = kernel.packed_bytes((rows, cols), skips).expect("a matrix whose sums fit");
        let places = places(cols, skips);
        let mut bytes = match Buffer::zeroed(size) {
            Ok(bytes) => bytes,
            Err(error) => return Err(memory(error)),
        };
        let (parts, part_bytes) = kernel.pack_sizes((rows, cols), skips);
        let layout = kernel.kernels.layout;
        let failure = Mutex::new(None::<(usize, E)>);
        let mut packing: Vec<Packing> = Vec::new();
        packing.resize_with(pool.threads(), Packing::default);
        let (packing, out) = (SharedMut::new(&mut packing), SharedMut::new(&mut bytes));
        pool.run(parts, |worker, part| {
            // SAFETY: a worker runs one task at a time, and each task owns its part.
            let (packing, out) =
                unsafe { (&mut packing.slice(worker, 1)[0], out.slice(part * part_bytes, part_bytes)) };
            let packed = match skips {
                Skips::Rows => packing.rows(layout, (rows, cols), part, &places, &read_row, out),
                Skips::Columns => packing.columns(layout, (rows, cols), part, &places, &read_row, out),
            };
            if let Err(error) = packed {
                let mut first = failure.lock().unwrap_or_else(PoisonError::into_inner);
                if first.as_ref().is_none_or(|(lowest, _)| part < *lowest) {
                    *first = Some((part, error));
                }
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((_, error)) => Err(error),
            None => Ok(SkippingMatrix { rows, cols, skips, kernel, places, bytes }),
        }
    }

    /// A matrix of what `bytes` holds, for trials.
    pub(super) fn of_bytes(
        (rows, cols): (usize, usize),
        skips: Skips,
        kernel: SkippingKernel,
        bytes: Buffer<u8>,
    ) -> SkippingMatrix {
        let (parts, part_bytes) = kernel.pack_sizes((rows, cols), skips);
        assert!(parts * part_bytes <= bytes.len(), "memory for [{rows}, {cols}]");
        SkippingMatrix { rows, cols, skips, kernel, places: places(cols, skips), bytes }
    }

    /// The memory of a matrix that is not needed any more.
    pub(super) fn into_bytes(self) -> Buffer<u8> {
        self.bytes
    }

    /// Rows (output features).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns (input features).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// What can be left unread.
    pub fn skips(&self) -> Skips {
        self.skips
    }

    /// Bytes of packed weights.
    pub fn packed_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The trit at `(row, col)`, read back.
    ///
    /// # Panics
    /// If it is out of bounds.
    pub fn trit(&self, row: usize, col: usize) -> i8 {
        assert!(row < self.rows && col < self.cols, "({row}, {col}) of [{}, {}]", self.rows, self.cols);
        let (layout, width) = (self.layout(), self.layout().line_weights());
        let (byte, digit) = match self.skips {
            Skips::Rows => {
                let at = self.places.row(row as u32) as usize * layout.row_lines(self.cols) * LINE;
                (self.bytes[at + col / width * LINE + col % LINE], col % width / LINE)
            }
            Skips::Columns => {
                let line = &self.part(row / width)[self.places.of[col] as usize * LINE..][..LINE];
                let of_row = layout.rows.iter().position(|within| usize::from(*within) == row % LINE);
                (line[of_row.expect("a byte for each row")], row % width / LINE)
            }
        };
        layout.decode[usize::from(byte)][digit].cast_signed() - 1
    }

    pub(super) fn layout(&self) -> &'static ByteLayout {
        self.kernel.kernels.layout
    }

    /// The kernel that it is packed for.
    pub fn kernel(&self) -> SkippingKernel {
        self.kernel
    }

    /// A block of rows, or a slice.
    pub(super) fn part(&self, part: usize) -> &[u8] {
        let (_, bytes) = self.kernel.pack_sizes((self.rows, self.cols), self.skips);
        &self.bytes[part * bytes..(part + 1) * bytes]
    }
}

impl std::fmt::Debug for SkippingMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SkippingMatrix([{}, {}], {:?}, {:?})", self.rows, self.cols, self.skips, self.kernel)
    }
}

impl Packing {
    /// Packs a block of rows.
    fn rows<E>(
        &mut self,
        layout: &ByteLayout,
        (rows, cols): (usize, usize),
        block: usize,
        places: &Places,
        read_row: impl Fn(usize, &mut [i8]) -> Result<(), E>,
        out: &mut [u8],
    ) -> Result<(), E> {
        let (lines, width) = (layout.row_lines(cols), layout.line_weights());
        self.trits.clear();
        self.trits.resize(lines * width, 0);
        for within in 0..BLOCK_ROWS {
            let row = block * BLOCK_ROWS + within;
            if row < rows {
                read_row(row, &mut self.trits[..cols])?;
            } else {
                self.trits.fill(0);
            }
            let bytes = &mut out[places.of[within] as usize * lines * LINE..][..lines * LINE];
            for (line, trits) in bytes.as_chunks_mut::<LINE>().0.iter_mut().zip(self.trits.chunks_exact(width)) {
                line.fill(0);
                for (trits, power) in trits.chunks_exact(LINE).zip(POWERS) {
                    add_codes(trits, power, line);
                }
                line.iter_mut().for_each(|value| *value = layout.encode[usize::from(*value)]);
            }
        }
        Ok(())
    }

    /// Packs a slice.
    fn columns<E>(
        &mut self,
        layout: &ByteLayout,
        (rows, cols): (usize, usize),
        slice: usize,
        places: &Places,
        read_row: impl Fn(usize, &mut [i8]) -> Result<(), E>,
        out: &mut [u8],
    ) -> Result<(), E> {
        let Packing { trits, values } = self;
        trits.resize(cols, 0);
        values.clear();
        values.resize(LINE * cols, 0);
        for (byte, values) in values.chunks_exact_mut(cols.max(1)).enumerate() {
            for (digit, power) in POWERS.into_iter().enumerate().take(layout.digits) {
                let row = slice * layout.line_weights() + layout.row_of(byte, digit);
                if row < rows {
                    read_row(row, trits)?;
                } else {
                    trits.fill(0);
                }
                add_codes(trits, power, values);
            }
        }
        // A few columns at a time, so that the lines of all 64 rows stay in the L1 cache.
        for first in (0..cols).step_by(LINE) {
            for col in first..(first + LINE).min(cols) {
                let line = &mut out[places.of[col] as usize * LINE..][..LINE];
                for (byte, values) in line.iter_mut().zip(values.chunks_exact(cols)) {
                    *byte = layout.encode[usize::from(values[col])];
                }
            }
        }
        Ok(())
    }
}

/// Where the rows of a block or the columns lie.
fn places(cols: usize, skips: Skips) -> Arc<Places> {
    match skips {
        Skips::Rows => Places::of_block(),
        Skips::Columns => Places::shared(cols),
    }
}

/// What a digit of a byte's value is multiplied by.
const POWERS: [u8; MAX_DIGITS] = [1, 3, 9, 27, 81];

/// `values += (trits + 1) * power`.
fn add_codes(trits: &[i8], power: u8, values: &mut [u8]) {
    for (value, trit) in values.iter_mut().zip(trits) {
        debug_assert!((-1..=1).contains(trit), "a trit, not {trit}");
        *value = value.wrapping_add((trit + 1).cast_unsigned().wrapping_mul(power));
    }
}
