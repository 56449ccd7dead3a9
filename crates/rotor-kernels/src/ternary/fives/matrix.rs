//! A matrix in fives: packing it, and reading it back.

use super::places::Places;
use super::{BLOCK_ROWS, DECODE, DIGITS, ENCODE, FivesKernels, LINE, LINE_WEIGHTS, MAX_SIDE, row_of};
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

/// A ternary matrix `[rows, cols]` of which rows or columns can be left unread.
pub struct FivesMatrix {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) skips: Skips,
    pub(super) kernels: &'static FivesKernels,
    /// What multiplies many tokens: a kernel for codes.
    pub(super) dense: &'static TernaryKernel,
    pub(super) places: Arc<Places>,
    pub(super) bytes: Buffer<u8>,
}

/// Blocks of 64 rows or slices of 320, and bytes of each.
fn pack_sizes((rows, cols): (usize, usize), skips: Skips) -> (usize, usize) {
    match skips {
        Skips::Rows => (rows.div_ceil(BLOCK_ROWS), BLOCK_ROWS * row_lines(cols) * LINE),
        Skips::Columns => (rows.div_ceil(LINE_WEIGHTS), cols * LINE),
    }
}

/// Lines of a row.
pub(super) fn row_lines(cols: usize) -> usize {
    cols.div_ceil(LINE_WEIGHTS)
}

/// What a thread needs to pack.
#[derive(Default)]
struct Packing {
    trits: Vec<i8>,
    /// `c0 + 3 c1 + ..` of a row's bytes, or `[64 bytes of a line][cols]`.
    values: Vec<u8>,
}

impl FivesMatrix {
    /// Bytes of a packed matrix `[rows, cols]`; `None` where sums of such a matrix could overflow.
    pub fn packed_bytes_of((rows, cols): (usize, usize), skips: Skips) -> Option<usize> {
        if rows > MAX_SIDE || cols > MAX_SIDE {
            return None;
        }
        let (parts, bytes) = pack_sizes((rows, cols), skips);
        parts.checked_mul(bytes)
    }

    /// Packs a matrix, `read_row(row, trits)` filling each row's `cols` values of -1, 0 and +1. Many tokens will be multiplied
    /// by `dense`, a kernel for codes.
    ///
    /// # Errors
    /// The error of a `read_row`, or the system's refusal of memory through `memory`.
    ///
    /// # Panics
    /// If the kernels have none for fives ([`Kernels::has_fives`]), `dense` is not one of theirs for codes, or the matrix is too
    /// large ([`FivesMatrix::packed_bytes_of`]).
    pub fn pack<E: Send>(
        (rows, cols): (usize, usize),
        skips: Skips,
        (kernels, dense): (&Kernels, &'static TernaryKernel),
        pool: &Pool,
        memory: impl FnOnce(std::io::Error) -> E,
        read_row: impl Fn(usize, &mut [i8]) -> Result<(), E> + Sync,
    ) -> Result<FivesMatrix, E> {
        let own = kernels.ternary_kernels().iter().any(|own| std::ptr::eq(*own, dense));
        assert!(own && dense.packs_codes(), "a kernel of {} for codes, not {}", kernels.isa, dense.name());
        let size = FivesMatrix::packed_bytes_of((rows, cols), skips).expect("a matrix whose sums fit");
        let fives = kernels.ternary.fives.expect("kernels for fives");
        let places = match skips {
            Skips::Rows => Places::of_block(),
            Skips::Columns => Places::shared(cols),
        };
        let mut bytes = match Buffer::zeroed(size) {
            Ok(bytes) => bytes,
            Err(error) => return Err(memory(error)),
        };
        let (parts, part_bytes) = pack_sizes((rows, cols), skips);
        let failure = Mutex::new(None::<(usize, E)>);
        let mut packing: Vec<Packing> = Vec::new();
        packing.resize_with(pool.threads(), Packing::default);
        let (packing, out) = (SharedMut::new(&mut packing), SharedMut::new(&mut bytes));
        pool.run(parts, |worker, part| {
            // SAFETY: a worker runs one task at a time, and each task owns its part.
            let (packing, out) =
                unsafe { (&mut packing.slice(worker, 1)[0], out.slice(part * part_bytes, part_bytes)) };
            let packed = match skips {
                Skips::Rows => packing.rows((rows, cols), part, &places, &read_row, out),
                Skips::Columns => packing.columns((rows, cols), part, &places, &read_row, out),
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
            None => Ok(FivesMatrix { rows, cols, skips, kernels: fives, dense, places, bytes }),
        }
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
        let (byte, digit) = match self.skips {
            Skips::Rows => {
                let at = self.places.row(row as u32) as usize * row_lines(self.cols) * LINE;
                (self.bytes[at + col / LINE_WEIGHTS * LINE + col % LINE], col % LINE_WEIGHTS / LINE)
            }
            Skips::Columns => {
                let line = self.part(row / LINE_WEIGHTS)[self.places.of[col] as usize * LINE..].iter();
                let (digit, within) = (row % LINE_WEIGHTS / 64, row % 64);
                let byte = 16 * (within % 16 / 4) + 4 * (within / 16) + within % 4;
                (*line.as_slice().get(byte).expect("a line for each column"), digit)
            }
        };
        DECODE[usize::from(byte)][digit].cast_signed() - 1
    }

    /// A block of rows, or a slice.
    pub(super) fn part(&self, part: usize) -> &[u8] {
        let (_, bytes) = pack_sizes((self.rows, self.cols), self.skips);
        &self.bytes[part * bytes..(part + 1) * bytes]
    }
}

impl std::fmt::Debug for FivesMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FivesMatrix([{}, {}], {:?})", self.rows, self.cols, self.skips)
    }
}

impl Packing {
    /// Packs a block of rows.
    fn rows<E>(
        &mut self,
        (rows, cols): (usize, usize),
        block: usize,
        places: &Places,
        read_row: impl Fn(usize, &mut [i8]) -> Result<(), E>,
        out: &mut [u8],
    ) -> Result<(), E> {
        let lines = row_lines(cols);
        self.trits.clear();
        self.trits.resize(lines * LINE_WEIGHTS, 0);
        for within in 0..BLOCK_ROWS {
            let row = block * BLOCK_ROWS + within;
            if row < rows {
                read_row(row, &mut self.trits[..cols])?;
            } else {
                self.trits.fill(0);
            }
            let bytes = &mut out[places.of[within] as usize * lines * LINE..][..lines * LINE];
            for (line, trits) in bytes.as_chunks_mut::<LINE>().0.iter_mut().zip(self.trits.chunks_exact(LINE_WEIGHTS)) {
                line.fill(0);
                for (trits, power) in trits.chunks_exact(LINE).zip(POWERS) {
                    add_codes(trits, power, line);
                }
                line.iter_mut().for_each(|value| *value = ENCODE[usize::from(*value)]);
            }
        }
        Ok(())
    }

    /// Packs a slice.
    fn columns<E>(
        &mut self,
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
            for (digit, power) in POWERS.into_iter().enumerate() {
                let row = slice * LINE_WEIGHTS + row_of(byte, digit);
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
                    *byte = ENCODE[usize::from(values[col])];
                }
            }
        }
        Ok(())
    }
}

/// What a digit of a byte's value is multiplied by.
const POWERS: [u8; DIGITS] = [1, 3, 9, 27, 81];

/// `values += (trits + 1) * power`.
fn add_codes(trits: &[i8], power: u8, values: &mut [u8]) {
    for (value, trit) in values.iter_mut().zip(trits) {
        debug_assert!((-1..=1).contains(trit), "a trit, not {trit}");
        *value = value.wrapping_add((trit + 1).cast_unsigned().wrapping_mul(power));
    }
}
