//! The memory of attention: one layer's keys or values of one sequence.

use super::{BLOCK, Numbers};
use crate::buffer::{Buffer, Pages};
use crate::dispatch::Kernels;
use std::ops::Range;

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

#[derive(Debug)]
enum Store {
    F16(Buffer<u16>),
    F32(Buffer<f32>),
    Int8 { q: Buffer<i8>, scales: Buffer<f32> },
}

/// How a head's numbers lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Blocks of positions, in each `[dim][position]`: keys.
    ByDimension,
    /// `[position][dim]`: values.
    ByPosition,
}

/// One layer's keys (or values) of one sequence, head by head. Memory is taken as it is written.
#[derive(Debug)]
pub struct KvRows {
    store: Store,
    order: Order,
    heads: usize,
    /// Positions there is room for, in whole blocks.
    capacity: usize,
    head_dim: usize,
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

impl KvRows {
    /// Room for the keys of `capacity` positions.
    ///
    /// # Errors
    /// Where the system refuses to reserve the memory.
    pub fn keys(kind: KvType, heads: usize, capacity: usize, head_dim: usize) -> std::io::Result<KvRows> {
        KvRows::new(kind, Order::ByDimension, heads, capacity, head_dim)
    }

    /// Room for the values of `capacity` positions.
    ///
    /// # Errors
    /// Where the system refuses to reserve the memory.
    pub fn values(kind: KvType, heads: usize, capacity: usize, head_dim: usize) -> std::io::Result<KvRows> {
        KvRows::new(kind, Order::ByPosition, heads, capacity, head_dim)
    }

    fn new(kind: KvType, order: Order, heads: usize, capacity: usize, head_dim: usize) -> std::io::Result<KvRows> {
        let too_much = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        let capacity = capacity.checked_next_multiple_of(BLOCK).ok_or_else(too_much)?;
        let positions = heads.checked_mul(capacity).ok_or_else(too_much)?;
        let len = positions.checked_mul(head_dim).ok_or_else(too_much)?;
        let store = match kind {
            KvType::F16 => Store::F16(Buffer::zeroed(len, Pages::Small)?),
            KvType::F32 => Store::F32(Buffer::zeroed(len, Pages::Small)?),
            KvType::Int8 => {
                Store::Int8 { q: Buffer::zeroed(len, Pages::Small)?, scales: Buffer::zeroed(positions, Pages::Small)? }
            }
        };
        Ok(KvRows { store, order, heads, capacity, head_dim })
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn heads(&self) -> usize {
        self.heads
    }

    pub(super) fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Index of dimension 0 of a head's position, and how far apart its dimensions are.
    fn place(&self, head: usize, position: usize) -> (usize, usize) {
        let head = head * self.capacity * self.head_dim;
        match self.order {
            Order::ByDimension => (head + position / BLOCK * BLOCK * self.head_dim + position % BLOCK, BLOCK),
            Order::ByPosition => (head + position * self.head_dim, 1),
        }
    }

    /// Stores one position's rows, `[kv_heads * head_dim]`.
    ///
    /// # Panics
    /// If the position is beyond the capacity or the length is not that of all heads.
    pub fn write(&mut self, kernels: &Kernels, position: usize, rows: &[f32]) {
        assert!(position < self.capacity, "position {position} of {}", self.capacity);
        assert_eq!(rows.len(), self.heads * self.head_dim, "one row per head");
        for (head, row) in rows.chunks_exact(self.head_dim).enumerate() {
            let (at, stride) = self.place(head, position);
            match &mut self.store {
                Store::F16(bits) if stride == 1 => kernels.encode_f16(row, &mut bits[at..at + row.len()]),
                Store::F16(bits) => {
                    for (row, at) in row.chunks(16).zip((at..).step_by(16 * stride)) {
                        let mut encoded = [0; 16];
                        kernels.encode_f16(row, &mut encoded[..row.len()]);
                        scatter(&encoded[..row.len()], &mut bits[at..], stride);
                    }
                }
                Store::F32(values) => scatter(row, &mut values[at..], stride),
                Store::Int8 { q, scales } => {
                    scales[head * self.capacity + position] = write_int8(row, &mut q[at..], stride);
                }
            }
        }
    }

    /// The block that holds positions `number * BLOCK ..`, of keys: `[dim][BLOCK]`.
    pub(super) fn block(&self, head: usize, number: usize) -> Block<'_> {
        assert_eq!(self.order, Order::ByDimension, "keys");
        self.stored(head, number * BLOCK..(number + 1) * BLOCK)
    }

    /// The rows of some positions, of values.
    pub(super) fn rows(&self, head: usize, positions: Range<usize>) -> Block<'_> {
        assert_eq!(self.order, Order::ByPosition, "values");
        self.stored(head, positions)
    }

    fn stored(&self, head: usize, positions: Range<usize>) -> Block<'_> {
        let start = (head * self.capacity + positions.start) * self.head_dim;
        let range = start..start + positions.len() * self.head_dim;
        let (numbers, scales) = match &self.store {
            Store::F16(bits) => (Numbers::F16(&bits[range]), None),
            Store::F32(values) => (Numbers::F32(&values[range]), None),
            Store::Int8 { q, scales } => {
                let first = head * self.capacity;
                (Numbers::Int8(&q[range]), Some(&scales[first + positions.start..first + positions.end]))
            }
        };
        Block { numbers, scales }
    }

    /// Copies the first `positions` positions of `from`.
    ///
    /// # Panics
    /// If the two differ in type or shape, or `positions` exceeds either capacity.
    pub fn copy_prefix(&mut self, from: &KvRows, positions: usize) {
        assert!(self.heads == from.heads && self.head_dim == from.head_dim, "caches of one shape");
        assert!(self.order == from.order, "keys to keys, values to values");
        assert!(positions <= self.capacity.min(from.capacity), "{positions} positions");
        // Whole blocks: what is past the last position is overwritten before it is read.
        let positions = positions.next_multiple_of(BLOCK);
        for head in 0..self.heads {
            let (to, start) = (head * self.capacity, head * from.capacity);
            let len = positions * self.head_dim;
            let (to_at, from_at) = (to * self.head_dim, start * self.head_dim);
            match (&mut self.store, &from.store) {
                (Store::F16(a), Store::F16(b)) => a[to_at..to_at + len].copy_from_slice(&b[from_at..from_at + len]),
                (Store::F32(a), Store::F32(b)) => a[to_at..to_at + len].copy_from_slice(&b[from_at..from_at + len]),
                (Store::Int8 { q: a, scales }, Store::Int8 { q: b, scales: from_scales }) => {
                    a[to_at..to_at + len].copy_from_slice(&b[from_at..from_at + len]);
                    scales[to..to + positions].copy_from_slice(&from_scales[start..start + positions]);
                }
                _ => panic!("caches of one type"),
            }
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
