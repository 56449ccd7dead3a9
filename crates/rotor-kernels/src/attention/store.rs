//! The memory of attention: keys and values of one sequence, all layers.
//!
//! A block holds 64 positions of every layer and head, `[layer][head][keys, values]`, and blocks follow one another. So
//! memory is used from the front however long the context it is reserved for, huge pages waste less than one page, two where
//! scales are kept beside the numbers, and the first positions of a sequence are one stretch to copy.

use super::{BLOCK, Numbers};
use crate::buffer::Buffer;
use crate::dispatch::Kernels;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvType {
    /// Two bytes per number; the rounding is below the activations' own quantisation.
    F16,
    /// Four bytes per number, for comparing with a reference.
    F32,
    /// One byte per number, and an f32 scale per head and position.
    Int8,
}

impl KvType {
    /// Bytes of one head's keys, or values, at one position.
    pub const fn row_bytes(self, head_dim: usize) -> usize {
        match self {
            KvType::F16 => 2 * head_dim,
            KvType::F32 => 4 * head_dim,
            KvType::Int8 => head_dim + size_of::<f32>(),
        }
    }
}

/// What is remembered of each position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Layers.
    pub layers: usize,
    /// Heads of keys and values in a layer.
    pub heads: usize,
    /// Numbers of a head.
    pub head_dim: usize,
}

#[derive(Debug)]
enum Stored {
    F16(Buffer<u16>),
    F32(Buffer<f32>),
    Int8 { q: Buffer<i8>, scales: Buffer<f32> },
}

/// Keys and values of one sequence. Memory is taken as it is written.
#[derive(Debug)]
pub struct KvStore {
    stored: Stored,
    shape: KvShape,
    /// Positions there is room for, in whole blocks.
    capacity: usize,
}

/// Which of a head's two halves of a block.
#[derive(Clone, Copy, Debug)]
enum Half {
    /// `[dim][position]`.
    Keys,
    /// `[position][dim]`.
    Values,
}

/// Stored numbers and the scales of their positions, where they have such.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub(super) numbers: Numbers<'a>,
    scales: Option<&'a [f32]>,
}

impl Block<'_> {
    /// Multiplies what belongs to each position by the position's scale.
    pub(super) fn scale(&self, per_position: &mut [f32; BLOCK]) {
        for (value, scale) in per_position.iter_mut().zip(self.scales.unwrap_or_default()) {
            *value *= scale;
        }
    }
}

impl KvStore {
    /// Room for `capacity` positions.
    ///
    /// # Errors
    /// Where the system refuses to reserve the memory.
    pub fn new(kind: KvType, shape: KvShape, capacity: usize) -> std::io::Result<KvStore> {
        let too_much = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        let capacity = capacity.checked_next_multiple_of(BLOCK).ok_or_else(too_much)?;
        let rows = [shape.layers, shape.heads, 2].into_iter().try_fold(capacity, usize::checked_mul);
        let rows = rows.ok_or_else(too_much)?;
        let len = rows.checked_mul(shape.head_dim).ok_or_else(too_much)?;
        let stored = match kind {
            KvType::F16 => Stored::F16(Buffer::zeroed(len)?),
            KvType::F32 => Stored::F32(Buffer::zeroed(len)?),
            KvType::Int8 => Stored::Int8 { q: Buffer::zeroed(len)?, scales: Buffer::zeroed(rows)? },
        };
        Ok(KvStore { stored, shape, capacity })
    }

    pub(super) fn shape(&self) -> KvShape {
        self.shape
    }

    /// Index of the first scale of a half of a block; its first number is at `head_dim` times that.
    fn place(&self, layer: usize, head: usize, block: usize, half: Half) -> usize {
        let KvShape { layers, heads, .. } = self.shape;
        assert!(layer < layers && head < heads, "layer {layer} of {layers}, head {head} of {heads}");
        (((block * layers + layer) * heads + head) * 2 + half as usize) * BLOCK
    }

    /// Stores one layer's keys and values of a position, `[heads * head_dim]` each.
    ///
    /// # Panics
    /// If the layer or the position is out of range or a length is not that of all heads.
    pub fn write(&mut self, kernels: &Kernels, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        let KvShape { heads, head_dim, .. } = self.shape;
        assert!(position < self.capacity, "position {position} of {}", self.capacity);
        let (block, at) = (position / BLOCK, position % BLOCK);
        for (half, rows) in [(Half::Keys, keys), (Half::Values, values)] {
            assert_eq!(rows.len(), heads * head_dim, "one row per head");
            for (head, row) in rows.chunks_exact(head_dim).enumerate() {
                let place = self.place(layer, head, block, half);
                let (first, stride) = match half {
                    Half::Keys => (place * head_dim + at, BLOCK),
                    Half::Values => ((place + at) * head_dim, 1),
                };
                match &mut self.stored {
                    Stored::F16(bits) if stride == 1 => {
                        kernels.encode_f16(row, &mut bits[first..first + row.len()]);
                    }
                    Stored::F16(bits) => {
                        for (row, at) in row.chunks(16).zip((first..).step_by(16 * stride)) {
                            let mut encoded = [0; 16];
                            kernels.encode_f16(row, &mut encoded[..row.len()]);
                            scatter(&encoded[..row.len()], &mut bits[at..], stride);
                        }
                    }
                    Stored::F32(values) => scatter(row, &mut values[first..], stride),
                    Stored::Int8 { q, scales } => scales[place + at] = write_int8(row, &mut q[first..], stride),
                }
            }
        }
    }

    /// A head's keys of a block, `[dim][BLOCK]`.
    pub(super) fn keys(&self, layer: usize, head: usize, block: usize) -> Block<'_> {
        self.half(layer, head, block, Half::Keys)
    }

    /// A head's values of a block, `[BLOCK][dim]`.
    pub(super) fn values(&self, layer: usize, head: usize, block: usize) -> Block<'_> {
        self.half(layer, head, block, Half::Values)
    }

    fn half(&self, layer: usize, head: usize, block: usize, half: Half) -> Block<'_> {
        let rows = self.place(layer, head, block, half);
        let rows = rows..rows + BLOCK;
        let range = rows.start * self.shape.head_dim..rows.end * self.shape.head_dim;
        let (numbers, scales) = match &self.stored {
            Stored::F16(bits) => (Numbers::F16(&bits[range]), None),
            Stored::F32(values) => (Numbers::F32(&values[range]), None),
            Stored::Int8 { q, scales } => (Numbers::Int8(&q[range]), Some(&scales[rows])),
        };
        Block { numbers, scales }
    }

    /// Copies the first `positions` positions of `from`.
    ///
    /// # Panics
    /// If the two differ in type or shape, or `positions` exceeds either capacity.
    pub fn copy_prefix(&mut self, from: &KvStore, positions: usize) {
        assert_eq!(self.shape, from.shape, "caches of one shape");
        assert!(positions <= self.capacity.min(from.capacity), "{positions} positions");
        // Whole blocks: what is past the last position is overwritten before it is read.
        let KvShape { layers, heads, head_dim } = self.shape;
        let rows = positions.next_multiple_of(BLOCK) * layers * heads * 2;
        let len = rows * head_dim;
        match (&mut self.stored, &from.stored) {
            (Stored::F16(to), Stored::F16(from)) => to[..len].copy_from_slice(&from[..len]),
            (Stored::F32(to), Stored::F32(from)) => to[..len].copy_from_slice(&from[..len]),
            (Stored::Int8 { q, scales }, Stored::Int8 { q: from, scales: from_scales }) => {
                q[..len].copy_from_slice(&from[..len]);
                scales[..rows].copy_from_slice(&from_scales[..rows]);
            }
            _ => panic!("caches of one type"),
        }
    }
}

fn scatter<T: Copy>(row: &[T], to: &mut [T], stride: usize) {
    for (value, to) in row.iter().zip(to.iter_mut().step_by(stride)) {
        *to = *value;
    }
}

/// `scale = max |x| / 127`, `q = round_half_even(x / scale)`; a row that is not finite has a scale of NaN.
fn write_int8(row: &[f32], q: &mut [i8], stride: usize) -> f32 {
    let finite = row.iter().all(|x| x.is_finite());
    let largest = row.iter().fold(1e-30f32, |largest, x| largest.max(x.abs()));
    let inverse = if finite { 127.0 / largest } else { 0.0 };
    for (x, q) in row.iter().zip(q.iter_mut().step_by(stride)) {
        *q = if finite { (x * inverse).round_ties_even() as i8 } else { 0 };
    }
    if finite { largest / 127.0 } else { f32::NAN }
}
