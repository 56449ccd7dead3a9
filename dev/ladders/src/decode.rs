//! One token times matrices that no cache holds: what a generated token costs, so memory is what it should wait for.
//!
//! Written here are the steps that were replaced: the kernels of `ternary/avx2.rs` and `ternary/avx512_vnni.rs` for one token,
//! which say why they are exact, before weights were asked for as early as they are now. The packed layouts are those of
//! `ternary/layout.rs`.

use crate::ladder::{self, HALF, LINE, Prepared, ROWS, Step, VNNI, Work};
use anyhow::Result;
use rotor_kernels::{Buffer, Isa, Kernels};
use std::arch::x86_64::*;

/// Rows and columns of a matrix: those of BitNet-b1.58-2B-4T's attention.
const SIDE: usize = 2560;
/// Matrices that take turns, each with memory of its own: 79 MB at 2 bits for each step that has its own.
const MATRICES: usize = 48;
/// Matrices of the plain step, which is too slow to wait for memory.
const PLAIN_MATRICES: usize = 2;

const VBMI: Isa = Isa::Avx512Vbmi;
/// Columns of a block of planes or of codes, 128 bytes of 32 rows either way.
const BLOCK_COLS: usize = 16;
const BLOCK_BYTES: usize = BLOCK_COLS * ROWS / 4;
/// Blocks of planes whose sums fit int16.
const BLOCKS_PER_FLUSH: usize = 15;
/// Bytes of a table of 16 sums: their low halves, their high halves.
const TABLE_BYTES: usize = 32;

/// A matrix in the packed forms of the steps written here, once for each turn, and the token.
struct Case {
    cols: usize,
    weights: Vec<i8>,
    x: Vec<i8>,
    planes: Vec<Buffer<u8>>,
    codes: Vec<Buffer<u8>>,
}

/// Checks the steps, times them and prints the ladder.
pub(crate) fn climb(rounds: usize) -> Result<()> {
    check()?;
    let case = Case::new(ladder::random(SIDE * SIDE, SIDE), MATRICES)?;
    println!(
        "\ndecode: one token times {MATRICES} matrices of {SIDE} rows and {SIDE} columns in turn, each from memory"
    );
    ladder::time(&mut case.steps()?, &case.expected(), SIDE * SIDE, rounds)
}

/// Whether every step is exact: on columns that are no whole blocks of trios, and no whole number of flushes.
pub(crate) fn check() -> Result<()> {
    let (rows, cols) = (3 * ROWS, 63 * BLOCK_COLS);
    for (weights, x) in ladder::cases(rows * cols, cols) {
        let case = Case::new((weights, x), PLAIN_MATRICES)?;
        ladder::check(&mut case.steps()?, &case.expected())?;
    }
    Ok(())
}

impl Case {
    fn new((weights, x): (Vec<i8>, Vec<i8>), matrices: usize) -> Result<Case> {
        let cols = x.len();
        let pack = |pack: fn(&[i8; BLOCK_COLS], usize, &mut [u8; BLOCK_BYTES])| {
            let mut packed = vec![0; weights.len() / 4];
            for (row, weights) in weights.chunks_exact(cols).enumerate() {
                let tile = &mut packed[row / ROWS * ROWS * cols / 4..][..ROWS * cols / 4];
                for (block, weights) in tile.as_chunks_mut().0.iter_mut().zip(weights.as_chunks().0) {
                    pack(weights, row % ROWS, block);
                }
            }
            // Memory of the kind that packed matrices have.
            let copy = |_| {
                let mut buffer = Buffer::zeroed(packed.len())?;
                buffer.copy_from_slice(&packed);
                Ok(buffer)
            };
            (0..matrices).map(copy).collect::<Result<Vec<_>>>()
        };
        let (planes, codes) = (pack(pack_planes)?, pack(pack_codes)?);
        Ok(Case { cols, weights, x, planes, codes })
    }

    fn expected(&self) -> Vec<i32> {
        ladder::by_definition(&self.weights, &self.x, self.cols)
    }

    fn steps(&self) -> Result<Vec<Step<'_>>> {
        let step = |name, change, needs, work| Step { name, change, needs, work };
        // What is in use. As in the other steps, what a kernel prepares of the activations counts, for every matrix.
        let product = |isa, kernel, matrices| {
            ladder::product((isa, kernel), (&self.weights, &self.x, self.cols), matrices, Prepared::ForEach)
        };
        let (matrices, planes, codes) = (self.planes.len(), "planes", "codes");
        Ok(vec![
            step("plain", "a bit at a time", Isa::Scalar, product(Isa::Scalar, planes, PLAIN_MATRICES)?),
            step("planes", "AVX2: 16 sums of 4 columns in a table", Isa::Avx2, self.look_up::<0>()),
            step("planes, L1", "weights asked for 1.5 KB ahead, into L1", Isa::Avx2, self.look_up::<1536>()),
            step("planes, L2", "8 KB ahead, into L2", Isa::Avx2, product(Isa::Avx2, planes, matrices)?),
            step("codes", "AVX-512 VNNI: dot products; nothing asked for ahead", VNNI, self.dot_products()),
            step("codes, L2", "8 KB ahead, into L2", VNNI, product(VNNI, codes, matrices)?),
            step("trios, L2", "VBMI: 1.67 bits a weight", VBMI, product(VBMI, "trios", matrices)?),
        ])
    }

    /// Tables over planes, weights asked for `AHEAD` bytes ahead.
    fn look_up<const AHEAD: usize>(&self) -> Option<Work<'_>> {
        Kernels::for_isa(Isa::Avx2)?;
        let mut tables = vec![[0; TABLE_BYTES]; self.cols / 4];
        Some(self.by_tiles(&self.planes, move |x, tiles, out| {
            // SAFETY: the CPU has AVX2: there are kernels for it.
            unsafe {
                prepare(x, &mut tables);
                look_up::<AHEAD>(tiles, &tables, out);
            }
        }))
    }

    /// Dot products over codes, nothing asked for ahead.
    fn dot_products(&self) -> Option<Work<'_>> {
        Kernels::for_isa(VNNI)?;
        // SAFETY: the CPU has AVX-512 VNNI: there are kernels for it.
        Some(self.by_tiles(&self.codes, |x, tiles, out| unsafe { dot_products(tiles, x, out) }))
    }

    fn by_tiles<'a>(
        &'a self,
        packed: &'a [Buffer<u8>],
        mut multiply: impl FnMut(&[i8], &[u8], &mut [[i32; ROWS]]) + 'a,
    ) -> Work<'a> {
        let rows = self.weights.len() / self.cols;
        Work::new(packed.len(), move |out| {
            for (tiles, out) in packed.iter().zip(out.chunks_exact_mut(rows)) {
                multiply(&self.x, tiles, out.as_chunks_mut().0);
            }
        })
    }
}

/// A row's bits of +1 and of -1, each in two units of 8 columns.
fn pack_planes(weights: &[i8; BLOCK_COLS], row: usize, block: &mut [u8; BLOCK_BYTES]) {
    for (col, weight) in weights.iter().enumerate() {
        let unit = &mut block[col / 8 * LINE..];
        unit[row] |= u8::from(*weight > 0) << (col % 8);
        unit[ROWS + row] |= u8::from(*weight < 0) << (col % 8);
    }
}

/// A row's weights plus one, four columns to a field of its four bytes.
fn pack_codes(weights: &[i8; BLOCK_COLS], row: usize, block: &mut [u8; BLOCK_BYTES]) {
    for (col, weight) in weights.iter().enumerate() {
        block[4 * row + col % 4] |= (weight + 1).cast_unsigned() << (2 * (col / 4));
    }
}

/// The 16 subset sums of each 4 activations, as `31 * high + low`.
#[target_feature(enable = "avx2")]
fn prepare(x: &[i8], tables: &mut [[u8; TABLE_BYTES]]) {
    let entries = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    // All ones in the entries whose sums take an activation in.
    let members = [1, 2, 4, 8].map(|bit| {
        let bit = _mm256_set1_epi16(bit);
        _mm256_cmpeq_epi16(_mm256_and_si256(entries, bit), bit)
    });
    for (x, table) in x.as_chunks::<4>().0.iter().zip(tables) {
        let mut sums = _mm256_setzero_si256();
        for (members, x) in members.iter().zip(x) {
            sums = _mm256_add_epi16(sums, _mm256_and_si256(*members, _mm256_set1_epi16(i16::from(*x))));
        }
        let high = _mm256_mulhrs_epi16(sums, _mm256_set1_epi16(1057));
        let low = _mm256_sub_epi16(sums, _mm256_mullo_epi16(high, _mm256_set1_epi16(31)));
        let halves = _mm256_permute4x64_epi64::<0xd8>(_mm256_packs_epi16(low, high));
        // SAFETY: 32 writable bytes; the store needs no alignment.
        unsafe { _mm256_storeu_si256(table.as_mut_ptr().cast(), halves) };
    }
}

/// In the shape of the kernel in use, so that the distance is all that they differ in.
#[target_feature(enable = "avx2")]
fn look_up<const AHEAD: usize>(tiles: &[u8], tables: &[[u8; TABLE_BYTES]], out: &mut [[i32; ROWS]]) {
    let blocks = tiles.as_chunks::<BLOCK_BYTES>().0;
    let tables = tables.as_chunks::<4>().0;
    for (blocks, out) in blocks.chunks_exact(tables.len()).zip(out) {
        let mut sums32 = [_mm256_setzero_si256(); 4];
        for (blocks, tables) in blocks.chunks(BLOCKS_PER_FLUSH).zip(tables.chunks(BLOCKS_PER_FLUSH)) {
            let mut sums16 = [_mm256_setzero_si256(); 2];
            for (block, tables) in blocks.iter().zip(tables) {
                let (low, high) = look_up_block::<AHEAD>(block, tables);
                let weights = _mm256_set1_epi16(1 | 31 << 8);
                let halves = [_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)];
                for (sums, halves) in sums16.iter_mut().zip(halves) {
                    *sums = _mm256_add_epi16(*sums, _mm256_maddubs_epi16(weights, halves));
                }
            }
            flush(&mut sums32, sums16);
        }
        for (sums, out) in sums32.into_iter().zip(out.as_chunks_mut::<8>().0) {
            // SAFETY: 8 writable int32; the store needs no alignment.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), sums) };
        }
    }
}

/// Adds sums of rows 0-7 and 16-23 and of rows 8-15 and 24-31.
#[inline]
#[target_feature(enable = "avx2")]
fn flush(sums32: &mut [__m256i; 4], sums16: [__m256i; 2]) {
    for (half, sums) in sums16.into_iter().enumerate() {
        let (a, b) = (_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
        sums32[half] = _mm256_add_epi32(sums32[half], _mm256_cvtepi16_epi32(a));
        sums32[2 + half] = _mm256_add_epi32(sums32[2 + half], _mm256_cvtepi16_epi32(b));
    }
}

/// Low and high halves of 32 rows' sums over 16 columns.
#[inline]
#[target_feature(enable = "avx2")]
fn look_up_block<const AHEAD: usize>(block: &[u8; BLOCK_BYTES], tables: &[[u8; TABLE_BYTES]; 4]) -> (__m256i, __m256i) {
    let nibble = _mm256_set1_epi8(15);
    let (mut low, mut high) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    for (unit, tables) in block.as_chunks::<LINE>().0.iter().zip(tables.as_chunks::<2>().0) {
        if AHEAD > 0 {
            _mm_prefetch::<_MM_HINT_T0>(unit.as_ptr().wrapping_add(AHEAD).cast());
        }
        // SAFETY: 32 readable bytes of each plane; the loads need no alignment.
        let planes = unsafe { [0, ROWS].map(|at| _mm256_loadu_si256(unit.as_ptr().add(at).cast())) };
        for (shifted, table) in tables.iter().enumerate() {
            let bits = |v| if shifted == 0 { v } else { _mm256_srli_epi16::<4>(v) };
            let [plus, minus] = planes.map(|v| _mm256_and_si256(bits(v), nibble));
            // SAFETY: 16 readable bytes of each half; the loads need no alignment.
            let halves = unsafe { [0, 16].map(|at| _mm_loadu_si128(table.as_ptr().add(at).cast())) };
            let [l, h] = halves.map(|half| _mm256_broadcastsi128_si256(half));
            low = _mm256_add_epi8(low, _mm256_shuffle_epi8(l, plus));
            high = _mm256_add_epi8(high, _mm256_shuffle_epi8(h, plus));
            low = _mm256_sub_epi8(low, _mm256_shuffle_epi8(l, minus));
            high = _mm256_sub_epi8(high, _mm256_shuffle_epi8(h, minus));
        }
    }
    (low, high)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn dot_products(tiles: &[u8], x: &[i8], out: &mut [[i32; ROWS]]) {
    let sum = _mm512_set1_epi32(x.iter().map(|x| i32::from(*x)).sum());
    let x = x.as_chunks::<BLOCK_COLS>().0;
    let blocks = tiles.as_chunks::<BLOCK_BYTES>().0;
    for (blocks, out) in blocks.chunks_exact(x.len()).zip(out) {
        let mut sums = [[_mm512_setzero_si512(); 4]; 2];
        for (block, x) in blocks.iter().zip(x) {
            for (line, sums) in block.as_chunks::<LINE>().0.iter().zip(&mut sums) {
                // SAFETY: 64 readable bytes; the load needs no alignment.
                let codes = unsafe { _mm512_loadu_si512(line.as_ptr().cast()) };
                for (f, (x, sum)) in x.as_chunks::<4>().0.iter().zip(sums).enumerate() {
                    let codes = _mm512_and_si512(codes, _mm512_set1_epi32(0x0303_0303 << (2 * f)));
                    let x = _mm512_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned)));
                    *sum = _mm512_dpbusd_epi32(*sum, codes, x);
                }
            }
        }
        for ([a, b, c, d], out) in sums.into_iter().zip(out.as_chunks_mut::<HALF>().0) {
            let ab = _mm512_add_epi32(a, _mm512_srai_epi32::<2>(b));
            let cd = _mm512_add_epi32(_mm512_srai_epi32::<4>(c), _mm512_srai_epi32::<6>(d));
            let total = _mm512_sub_epi32(_mm512_add_epi32(ab, cd), sum);
            // SAFETY: 16 writable int32; the store needs no alignment.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), total) };
        }
    }
}
