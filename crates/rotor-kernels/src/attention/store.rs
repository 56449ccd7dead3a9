//! The memory of attention: keys and values of 64 positions, all layers.
//!
//! A sequence is a table of such blocks. A block holds every layer and head, `[layer][head][keys, values]`, so that a block
//! is what sequences with a common beginning share, what is copied when one of them goes its own way, and what is taken
//! from and given back to the system. For models of a billion weights it is a few MiB, which keeps huge pages worth having.

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

/// Keys and values of 64 consecutive positions of a sequence, all layers. The system gives the memory as it is written.
#[derive(Debug)]
pub struct KvBlock {
    stored: Stored,
    shape: KvShape,
}

/// Which of a head's two halves of a block.
#[derive(Clone, Copy, Debug)]
enum Half {
    /// `[dim][position]`.
    Keys,
    /// `[position][dim]`.
    Values,
}

/// One head's keys, or values: the stored numbers, and the scales of their positions where the type has such.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) numbers: Numbers<'a>,
    scales: Option<&'a [f32]>,
}

impl Head<'_> {
    /// Multiplies what belongs to each position by the position's scale.
    pub(super) fn scale(&self, per_position: &mut [f32; BLOCK]) {
        for (value, scale) in per_position.iter_mut().zip(self.scales.unwrap_or_default()) {
            *value *= scale;
        }
    }
}

impl KvBlock {
    /// Positions of a block.
    pub const POSITIONS: usize = BLOCK;

    /// A block of nothing yet.
    ///
    /// # Errors
    /// If the system refuses the memory, or the bytes cannot be counted.
    pub fn new(kind: KvType, shape: KvShape) -> std::io::Result<KvBlock> {
        let rows = [shape.layers, shape.heads, 2].into_iter().try_fold(BLOCK, usize::checked_mul);
        let len = rows.and_then(|rows| rows.checked_mul(shape.head_dim));
        let (Some(rows), Some(len)) = (rows, len) else { return Err(std::io::ErrorKind::OutOfMemory.into()) };
        let stored = match kind {
            KvType::F16 => Stored::F16(Buffer::zeroed(len)?),
            KvType::F32 => Stored::F32(Buffer::zeroed(len)?),
            KvType::Int8 => Stored::Int8 { q: Buffer::zeroed(len)?, scales: Buffer::zeroed(rows)? },
        };
        Ok(KvBlock { stored, shape })
    }

    pub(super) fn shape(&self) -> KvShape {
        self.shape
    }

    /// Index of the first scale of one of a head's halves; its first number is at `head_dim` times that.
    fn place(&self, layer: usize, head: usize, half: Half) -> usize {
        let KvShape { layers, heads, .. } = self.shape;
        assert!(layer < layers && head < heads, "layer {layer} of {layers}, head {head} of {heads}");
        ((layer * heads + head) * 2 + half as usize) * BLOCK
    }

    /// Stores one layer's keys and values of the position `at` of this block, `[heads * head_dim]` each.
    ///
    /// # Panics
    /// If the layer or the position is out of range or a length is not that of all heads.
    pub fn write(&mut self, kernels: &Kernels, layer: usize, at: usize, keys: &[f32], values: &[f32]) {
        let KvShape { heads, head_dim, .. } = self.shape;
        assert!(at < BLOCK, "position {at} of {BLOCK}");
        for (half, rows) in [(Half::Keys, keys), (Half::Values, values)] {
            assert_eq!(rows.len(), heads * head_dim, "one row per head");
            for (head, row) in rows.chunks_exact(head_dim).enumerate() {
                let place = self.place(layer, head, half);
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

    /// A head's keys, `[dim][BLOCK]`.
    pub(super) fn keys(&self, layer: usize, head: usize) -> Head<'_> {
        self.half(layer, head, Half::Keys)
    }

    /// A head's values, `[BLOCK][dim]`.
    pub(super) fn values(&self, layer: usize, head: usize) -> Head<'_> {
        self.half(layer, head, Half::Values)
    }

    fn half(&self, layer: usize, head: usize, half: Half) -> Head<'_> {
        let rows = self.place(layer, head, half);
        let rows = rows..rows + BLOCK;
        let range = rows.start * self.shape.head_dim..rows.end * self.shape.head_dim;
        let (numbers, scales) = match &self.stored {
            Stored::F16(bits) => (Numbers::F16(&bits[range]), None),
            Stored::F32(values) => (Numbers::F32(&values[range]), None),
            Stored::Int8 { q, scales } => (Numbers::Int8(&q[range]), Some(&scales[rows])),
        };
        Head { numbers, scales }
    }

    /// Becomes a copy of `from`.
    ///
    /// # Panics
    /// If the two differ in type or shape.
    pub fn copy_from(&mut self, from: &KvBlock) {
        assert_eq!(self.shape, from.shape, "blocks of one shape");
        match (&mut self.stored, &from.stored) {
            (Stored::F16(to), Stored::F16(from)) => to.copy_from_slice(from),
            (Stored::F32(to), Stored::F32(from)) => to.copy_from_slice(from),
            (Stored::Int8 { q, scales }, Stored::Int8 { q: from, scales: from_scales }) => {
                q.copy_from_slice(from);
                scales.copy_from_slice(from_scales);
            }
            _ => panic!("blocks of one type"),
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
