//! Products with bit planes as people store them, and packing from them, without a detour through trits.
//!
//! A plane has a row's bytes side by side, a unit of the packed form has those of 32 rows: packing planes is transposing
//! bytes, sixteen rows by sixteen bytes at a time. For the transposed matrix the bits of 8 rows are transposed as well,
//! 8 x 8 at a time in one 64-bit word.
//!
//! A product with planes as they are stored goes along their rows: packing first would cost more than it saves. A product
//! with the transposed matrix fills one tile after the other in a buffer that stays in the cache, and multiplies it there.

use super::kernel::{MAX_FEW, TernaryKernel, Token};
use super::{Activations, Precision, TILE_ROWS, TernaryMatrix, UNIT_BYTES, UNIT_COLS, padded_cols};
use crate::dispatch::Kernels;
use crate::pool::{Pool, SharedMut};
use std::sync::atomic::{AtomicBool, Ordering};

/// Columns that a vector of 32 plane bytes holds.
pub(super) const ROW_CHUNK: usize = 256;

/// Rows and bytes that are transposed together.
const SQUARE: usize = 16;

/// The bit planes of a ternary matrix `[rows, cols]`: `bit0` marks +1, `bit1` marks -1, each `[rows, ceil(cols / 8)]`,
/// weight `i` of a row in bit `i % 8` of byte `i / 8`.
///
/// A weight set in both planes counts as 0. What a row's last byte has beyond the last column is ignored.
#[derive(Clone, Copy, Debug)]
pub struct Planes<'a> {
    rows: usize,
    cols: usize,
    bit0: &'a [u8],
    bit1: &'a [u8],
}

/// A matrix as it is, or transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orientation {
    /// `W x`.
    AsStored,
    /// `x W`, that is the transposed matrix times `x`.
    Transposed,
}

/// Memory for products with planes: one tile per thread.
#[derive(Debug, Default)]
pub struct TileScratch(Vec<Vec<u8>>);

impl<'a> Planes<'a> {
    /// Borrows the planes of a `[rows, cols]` matrix.
    ///
    /// # Panics
    /// If a plane is not `rows * ceil(cols / 8)` bytes long.
    pub fn new((rows, cols): (usize, usize), bit0: &'a [u8], bit1: &'a [u8]) -> Planes<'a> {
        let bytes = rows.checked_mul(cols.div_ceil(UNIT_COLS));
        assert!(bytes == Some(bit0.len()) && bytes == Some(bit1.len()), "planes of [{rows}, {cols}]");
        Planes { rows, cols, bit0, bit1 }
    }

    /// Rows and columns as seen in `orientation`.
    pub fn shape(&self, orientation: Orientation) -> (usize, usize) {
        match orientation {
            Orientation::AsStored => (self.rows, self.cols),
            Orientation::Transposed => (self.cols, self.rows),
        }
    }

    /// The exact products `out[row] = sum over columns of weight * x`, int32. Returns whether a weight is set in both planes.
    ///
    /// Made for a single product: for several or repeated ones, [`TernaryMatrix::from_planes`] is faster.
    ///
    /// # Panics
    /// If the shapes do not fit: `x.len() == cols`, `out.len() == rows`.
    pub fn dot(&self, kernels: &Kernels, pool: &Pool, x: &[i8], out: &mut [i32]) -> bool {
        assert_eq!(x.len(), self.cols, "columns of the matrix and activations");
        assert_eq!(out.len(), self.rows, "rows of the matrix and outputs");
        let width = self.cols.div_ceil(UNIT_COLS);
        let x = arrange(x);
        let overlap = AtomicBool::new(false);
        pool.for_each_chunk(out, TILE_ROWS, |chunk, out| {
            let bytes = chunk * TILE_ROWS * width..(chunk * TILE_ROWS + out.len()) * width;
            // SAFETY: the CPU has the ISA of these kernels; the planes hold these rows, and `x` is arranged for their width.
            if unsafe { (kernels.ternary.dot_rows)(&self.bit0[bytes.clone()], &self.bit1[bytes], width, &x, out) } {
                overlap.store(true, Ordering::Relaxed);
            }
        });
        overlap.into_inner()
    }

    /// The exact products `out[token][col] = sum over rows of weight * activation`, int32, of the transposed matrix. Returns
    /// whether a weight is set in both planes.
    ///
    /// Made for a single product: for several or repeated ones, [`TernaryMatrix::from_planes`] is faster.
    ///
    /// # Panics
    /// If the shapes do not fit: `x.cols()` rows, `out.len() == x.tokens() * cols`.
    pub fn dot_transposed(
        &self,
        kernels: &Kernels,
        pool: &Pool,
        x: &mut Activations,
        scratch: &mut TileScratch,
        out: &mut [i32],
    ) -> bool {
        let (rows, cols) = (self.cols, self.rows);
        assert_eq!(x.cols(), cols, "rows of the matrix and the activations");
        assert_eq!(out.len(), x.tokens() * rows, "outputs of {} tokens and {rows} columns", x.tokens());
        assert!(kernels.isa == x.isa(), "activations prepared for {}, kernels of {}", x.isa(), kernels.isa);
        assert!(x.precision() == Precision::Int8, "int8 activations");
        let kernel = kernels.ternary.planes;
        x.prepare(kernel, None, pool);
        let x = &*x;
        let tile_bytes = kernel.layout.tile_bytes(cols);
        scratch.0.resize_with(scratch.0.len().max(pool.threads()), Vec::new);
        let (buffers, out) = (SharedMut::new(&mut scratch.0), SharedMut::new(out));
        let overlap = AtomicBool::new(false);
        pool.run(rows.div_ceil(TILE_ROWS), |worker, tile| {
            // SAFETY: a worker runs one task at a time.
            let buffer = unsafe { &mut buffers.slice(worker, 1)[0] };
            buffer.clear();
            buffer.resize(tile_bytes, 0);
            if self.fill_tile_transposed(tile, buffer) {
                overlap.store(true, Ordering::Relaxed);
            }
            let live = tile * TILE_ROWS..((tile + 1) * TILE_ROWS).min(rows);
            for first in (0..x.tokens()).step_by(kernel.few_tokens) {
                let (mut inputs, mut sums) = ([Token::default(); MAX_FEW], [[0; TILE_ROWS]; MAX_FEW]);
                let count = kernel.few_tokens.min(x.tokens() - first);
                for (input, token) in inputs.iter_mut().zip(first..first + count) {
                    *input = x.token(token, kernel);
                }
                // SAFETY: the CPU has the ISA of the kernel (`TernaryKernel`); tile and tokens have the same padded columns.
                unsafe { (kernel.few)(buffer, padded_cols(cols), &inputs[..count], &mut sums[..count]) };
                for (sums, token) in sums[..count].iter().zip(first..) {
                    // SAFETY: each task owns its rows of every token.
                    let out = unsafe { out.slice(token * rows + live.start, live.len()) };
                    out.copy_from_slice(&sums[..live.len()]);
                }
            }
        });
        overlap.into_inner()
    }

    /// Fills a zeroed tile; returns whether a weight of it is set in both planes.
    fn fill_tile(&self, orientation: Orientation, tile: usize, packed: &mut [u8]) -> bool {
        match orientation {
            Orientation::AsStored => self.fill_tile_as_stored(tile, packed),
            Orientation::Transposed => self.fill_tile_transposed(tile, packed),
        }
    }

    fn fill_tile_as_stored(&self, tile: usize, packed: &mut [u8]) -> bool {
        let width = self.cols.div_ceil(UNIT_COLS);
        let mut overlap = 0u8;
        for half in [0, SQUARE] {
            let first_row = tile * TILE_ROWS + half;
            for first in (0..width).step_by(SQUARE) {
                let square = |plane| read_square(plane, width, first_row..(first_row + SQUARE).min(self.rows), first);
                let (mut plus, mut minus) = (square(self.bit0), square(self.bit1));
                for (plus, minus) in plus.iter_mut().flatten().zip(minus.iter_mut().flatten()) {
                    let both = *plus & *minus;
                    overlap |= both;
                    (*plus, *minus) = (*plus & !both, *minus & !both);
                }
                let units = packed[first * UNIT_BYTES..].chunks_exact_mut(UNIT_BYTES);
                for ((unit, plus), minus) in units.zip(transpose_bytes(plus)).zip(transpose_bytes(minus)) {
                    unit[half..half + SQUARE].copy_from_slice(&plus);
                    unit[TILE_ROWS + half..TILE_ROWS + half + SQUARE].copy_from_slice(&minus);
                }
            }
        }
        overlap != 0
    }

    /// Row `r` of the transposed tile is column `32 tile + r` of the matrix, unit `u` its rows `8u .. 8u + 8`.
    fn fill_tile_transposed(&self, tile: usize, packed: &mut [u8]) -> bool {
        const BYTES: usize = TILE_ROWS / UNIT_COLS;
        let width = self.cols.div_ceil(UNIT_COLS);
        let bytes = tile * BYTES..((tile + 1) * BYTES).min(width);
        let mut overlap = 0u64;
        for (u, unit) in packed.chunks_exact_mut(UNIT_BYTES).enumerate().take(self.rows.div_ceil(UNIT_COLS)) {
            let rows = u * UNIT_COLS..((u + 1) * UNIT_COLS).min(self.rows);
            let (plus_out, minus_out) = unit.split_at_mut(TILE_ROWS);
            for (at, byte) in (0..TILE_ROWS).step_by(UNIT_COLS).zip(bytes.clone()) {
                let (mut plus, mut minus) = (0u64, 0u64);
                for (i, row) in rows.clone().enumerate() {
                    plus |= u64::from(self.bit0[row * width + byte]) << (8 * i);
                    minus |= u64::from(self.bit1[row * width + byte]) << (8 * i);
                }
                let both = plus & minus;
                overlap |= both;
                plus_out[at..at + UNIT_COLS].copy_from_slice(&transpose_bits(plus & !both).to_le_bytes());
                minus_out[at..at + UNIT_COLS].copy_from_slice(&transpose_bits(minus & !both).to_le_bytes());
            }
        }
        overlap != 0
    }
}

impl TernaryMatrix {
    /// Packs planes for `kernel`, and says whether a weight is set in both of them.
    ///
    /// # Errors
    /// Where the system refuses the memory.
    ///
    /// # Panics
    /// If `kernel` is not one of `kernels`.
    pub fn from_planes(
        planes: Planes<'_>,
        orientation: Orientation,
        kernels: &Kernels,
        kernel: &'static TernaryKernel,
        pool: &Pool,
    ) -> std::io::Result<(TernaryMatrix, bool)> {
        let overlap = AtomicBool::new(false);
        let shape = planes.shape(orientation);
        let matrix = TernaryMatrix::fill(shape, kernels, kernel, pool, |_, tile, packed| {
            if planes.fill_tile(orientation, tile, packed) {
                overlap.store(true, Ordering::Relaxed);
            }
        })?;
        Ok((matrix, overlap.into_inner()))
    }
}

/// Activations in the order that rows of planes meet them: for every 32 bytes, that is 256 columns, those of bit 0, of bit 1
/// and so on, 32 each. Zeros fill the last 256.
fn arrange(x: &[i8]) -> Vec<i8> {
    let mut arranged = vec![0; x.len().next_multiple_of(ROW_CHUNK)];
    for (x, arranged) in x.chunks(ROW_CHUNK).zip(arranged.chunks_exact_mut(ROW_CHUNK)) {
        for (byte, x) in x.chunks(UNIT_COLS).enumerate() {
            for (bit, x) in x.iter().enumerate() {
                arranged[bit * (ROW_CHUNK / UNIT_COLS) + byte] = *x;
            }
        }
    }
    arranged
}

/// The plain way along rows of planes: the reference and the fallback.
pub(super) fn dot_rows(bit0: &[u8], bit1: &[u8], width: usize, x: &[i8], out: &mut [i32]) -> bool {
    let mut overlap = 0;
    for (row, out) in out.iter_mut().enumerate() {
        let bytes = row * width..(row + 1) * width;
        *out = 0;
        for (byte, (plus, minus)) in bit0[bytes.clone()].iter().zip(&bit1[bytes]).enumerate() {
            overlap |= plus & minus;
            let chunk = &x[byte / 32 * ROW_CHUNK..][..ROW_CHUNK];
            for bit in 0..UNIT_COLS {
                let weight = i32::from(plus >> bit & 1) - i32::from(minus >> bit & 1);
                *out += weight * i32::from(chunk[bit * 32 + byte % 32]);
            }
        }
    }
    overlap != 0
}

/// 16 bytes from column byte `first` of each of the rows, zeros where the plane ends.
#[inline]
fn read_square(plane: &[u8], width: usize, rows: std::ops::Range<usize>, first: usize) -> [[u8; SQUARE]; SQUARE] {
    let mut square = [[0; SQUARE]; SQUARE];
    let len = SQUARE.min(width - first);
    for (to, row) in square.iter_mut().zip(rows) {
        let from = &plane[row * width + first..][..len];
        match from.as_array() {
            Some(whole) => *to = *whole,
            None => to[..len].copy_from_slice(from),
        }
    }
    square
}

/// Transposes a square of bytes. Interleaving row `i` with row `i + 8` rotates the bits of a byte's index by one, so that
/// after four times rows and columns have changed places.
#[inline]
fn transpose_bytes(mut square: [[u8; SQUARE]; SQUARE]) -> [[u8; SQUARE]; SQUARE] {
    for _ in 0..4 {
        let rows = square;
        for i in 0..SQUARE / 2 {
            [square[2 * i], square[2 * i + 1]] = interleave(rows[i], rows[i + SQUARE / 2]);
        }
    }
    square
}

/// `a0 b0 a1 b1 ..`, 32 bytes.
#[cfg(target_arch = "x86_64")]
#[inline]
fn interleave(a: [u8; SQUARE], b: [u8; SQUARE]) -> [[u8; SQUARE]; 2] {
    use std::arch::x86_64::*;
    let mut mixed = [[0; SQUARE]; 2];
    // SAFETY: 16 readable or writable bytes each; neither loads nor stores need alignment. Every x86-64 has SSE2.
    unsafe {
        let (a, b) = (_mm_loadu_si128(a.as_ptr().cast()), _mm_loadu_si128(b.as_ptr().cast()));
        _mm_storeu_si128(mixed[0].as_mut_ptr().cast(), _mm_unpacklo_epi8(a, b));
        _mm_storeu_si128(mixed[1].as_mut_ptr().cast(), _mm_unpackhi_epi8(a, b));
    }
    mixed
}

/// `a0 b0 a1 b1 ..`, 32 bytes.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn interleave(a: [u8; SQUARE], b: [u8; SQUARE]) -> [[u8; SQUARE]; 2] {
    let mixed = |half: usize| std::array::from_fn(|j| if j % 2 == 0 { a[half + j / 2] } else { b[half + j / 2] });
    [mixed(0), mixed(SQUARE / 2)]
}

/// Transposes 8 x 8 bits, bit `j` of byte `i` becoming bit `i` of byte `j` (Warren, Hacker's Delight, 7-3).
#[inline]
fn transpose_bits(mut square: u64) -> u64 {
    for (shift, mask) in [(7, 0x00aa_00aa_00aa_00aa), (14, 0x0000_cccc_0000_cccc), (28, 0x0000_0000_f0f0_f0f0)] {
        let changed = (square ^ square >> shift) & mask;
        square ^= changed ^ changed << shift;
    }
    square
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::ternary::Scratch;
    use proptest::prelude::*;

    /// Planes of a matrix, padding included, from a density of set bits.
    fn random_planes(rng: &mut fastrand::Rng, rows: usize, cols: usize, overlap: bool) -> (Vec<u8>, Vec<u8>) {
        let len = rows * cols.div_ceil(8);
        let bit0: Vec<u8> = (0..len).map(|_| rng.u8(..)).collect();
        let bit1 = bit0.iter().map(|plus| rng.u8(..) & if overlap { 0xff } else { !plus }).collect();
        (bit0, bit1)
    }

    /// The largest sums there are, over enough columns that narrower sums have to be widened several times.
    #[test]
    fn extreme_sums_are_exact() {
        let pool = Pool::new(1);
        for kernels in Isa::available().filter_map(Kernels::for_isa) {
            for (weight, x) in [(1, -128), (-1, -128), (1, 127), (-1, 127)] {
                let cols = 5000;
                let (ones, zeros) = (vec![0xff; cols / 8], vec![0; cols / 8]);
                let (bit0, bit1) = if weight > 0 { (&ones, &zeros) } else { (&zeros, &ones) };
                let mut out = [0];
                Planes::new((1, cols), bit0, bit1).dot(kernels, &pool, &vec![x; cols], &mut out);
                assert_eq!(out[0], weight * i32::from(x) * cols as i32, "{weight} * {x} on {}", kernels.isa());
            }
        }
    }

    fn trit(planes: &Planes<'_>, row: usize, col: usize) -> i32 {
        let bit = |plane: &[u8]| i32::from(plane[row * planes.cols.div_ceil(8) + col / 8] >> (col % 8) & 1);
        bit(planes.bit0) - bit(planes.bit1)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn products_follow_the_definition(rows in 1usize..100, cols in 1usize..300, tokens in 1usize..4, seed: u64) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let overlap = rng.bool();
            let (bit0, bit1) = random_planes(&mut rng, rows, cols, overlap);
            let planes = Planes::new((rows, cols), &bit0, &bit1);
            let any = bit0.iter().zip(&bit1).any(|(plus, minus)| plus & minus != 0);
            let pool = Pool::new(2);
            for kernels in Isa::available().filter_map(Kernels::for_isa) {
                for orientation in [Orientation::AsStored, Orientation::Transposed] {
                    let (m, n) = planes.shape(orientation);
                    let x: Vec<i8> = (0..tokens * n).map(|_| rng.i8(..)).collect();
                    let weight = |r, c| match orientation {
                        Orientation::AsStored => trit(&planes, r, c),
                        Orientation::Transposed => trit(&planes, c, r),
                    };
                    let product = |at: usize| (0..n).map(|c| weight(at % m, c) * i32::from(x[at / m * n + c])).sum();
                    let expected: Vec<i32> = (0..tokens * m).map(product).collect();
                    let mut activations = Activations::new(kernels);
                    activations.set(kernels, &x, n);
                    let mut out = vec![7; tokens * m];
                    let found = match orientation {
                        Orientation::AsStored => out.chunks_exact_mut(m).zip(x.chunks_exact(n)).fold(false, |found, (out, x)| {
                            planes.dot(kernels, &pool, x, out) || found
                        }),
                        Orientation::Transposed => {
                            planes.dot_transposed(kernels, &pool, &mut activations, &mut TileScratch::default(), &mut out)
                        }
                    };
                    prop_assert_eq!(&out, &expected, "{:?} on {}", orientation, kernels.isa());
                    prop_assert_eq!(found, any);
                    for kernel in kernels.ternary_kernels() {
                        let (packed, _) =
                            TernaryMatrix::from_planes(planes, orientation, kernels, kernel, &pool).unwrap();
                        packed.dot(kernels, &pool, &mut activations, &mut Scratch::default(), &mut out);
                        prop_assert_eq!(&out, &expected, "{} on {}", kernel.name(), kernels.isa());
                    }
                }
            }
        }
    }

    #[test]
    fn transposing_swaps_rows_and_columns() {
        let square: [[u8; 16]; 16] = std::array::from_fn(|i| std::array::from_fn(|j| (16 * i + j) as u8));
        for (i, row) in transpose_bytes(square).into_iter().enumerate() {
            assert_eq!(row, std::array::from_fn(|j| (16 * j + i) as u8));
        }
        for at in 0..64 {
            assert_eq!(transpose_bits(1 << at), 1 << (at % 8 * 8 + at / 8));
        }
    }
}
