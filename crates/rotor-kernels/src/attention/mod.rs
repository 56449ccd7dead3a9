//! Causal attention over a KV cache, with a streaming softmax.
//!
//! Positions are taken in blocks of 64: a block's keys are converted to f32 and transposed once for all the query heads
//! (and tokens) that read them, so that scores come out eight positions at a time. Four blocks make a segment with a
//! softmax of its own; segments are merged in ascending order. So a long context can be split over threads by segments or
//! walked by one thread, and the sums run in the same order: a token's numbers depend on neither threads nor batch.

use crate::buffer::{Buffer, Pages};
use crate::dispatch::Kernels;
use crate::float::{BLOCK, Rows, Softmax};
use crate::pool::{Pool, SharedMut};
use std::ops::Range;

/// Positions whose softmax is complete before it is merged: four blocks.
const SEGMENT: usize = 4 * BLOCK;
/// Tokens of a prompt that share a block's conversion.
const TOKENS_PER_TASK: usize = 16;
/// Context from which few tokens are split over threads by segments as well.
const SPLIT_CONTEXT: usize = 2 * SEGMENT;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvType {
    /// Two bytes per number; the rounding is below the activations' own quantisation.
    F16,
    /// Four bytes per number, for comparing with a reference.
    F32,
}

impl KvType {
    /// Bytes of one number.
    pub const fn bytes(self) -> usize {
        match self {
            KvType::F16 => 2,
            KvType::F32 => 4,
        }
    }
}

#[derive(Debug)]
enum Store {
    F16(Buffer<u16>),
    F32(Buffer<f32>),
}

/// One layer's keys (or values) of one sequence: `[kv_heads][capacity][head_dim]`. Memory is taken as it is written.
#[derive(Debug)]
pub struct KvRows {
    store: Store,
    heads: usize,
    capacity: usize,
    head_dim: usize,
}

impl KvRows {
    /// Room for `capacity` positions.
    ///
    /// # Errors
    /// Where the system refuses to reserve the memory.
    pub fn new(kind: KvType, heads: usize, capacity: usize, head_dim: usize) -> std::io::Result<KvRows> {
        let len = heads
            .checked_mul(capacity)
            .and_then(|n| n.checked_mul(head_dim))
            .ok_or(std::io::Error::from(std::io::ErrorKind::OutOfMemory))?;
        let store = match kind {
            KvType::F16 => Store::F16(Buffer::zeroed(len, Pages::Small)?),
            KvType::F32 => Store::F32(Buffer::zeroed(len, Pages::Small)?),
        };
        Ok(KvRows { store, heads, capacity, head_dim })
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Stores one position's rows, `[kv_heads * head_dim]`.
    ///
    /// # Panics
    /// If the position is beyond the capacity or the length is not that of all heads.
    pub fn write(&mut self, kernels: &Kernels, position: usize, rows: &[f32]) {
        assert!(position < self.capacity, "position {position} of {}", self.capacity);
        assert_eq!(rows.len(), self.heads * self.head_dim, "one row per head");
        for (head, row) in rows.chunks_exact(self.head_dim).enumerate() {
            let at = (head * self.capacity + position) * self.head_dim;
            match &mut self.store {
                Store::F16(bits) => kernels.encode_f16(row, &mut bits[at..at + self.head_dim]),
                Store::F32(values) => values[at..at + self.head_dim].copy_from_slice(row),
            }
        }
    }

    fn rows(&self, head: usize, positions: Range<usize>) -> Rows<'_> {
        let start = (head * self.capacity + positions.start) * self.head_dim;
        let range = start..start + positions.len() * self.head_dim;
        match &self.store {
            Store::F16(bits) => Rows::F16(bits).slice(range),
            Store::F32(values) => Rows::F32(values).slice(range),
        }
    }

    /// Copies the first `positions` positions of `from`.
    ///
    /// # Panics
    /// If the two differ in type or shape, or `positions` exceeds either capacity.
    pub fn copy_prefix(&mut self, from: &KvRows, positions: usize) {
        assert!(self.heads == from.heads && self.head_dim == from.head_dim, "caches of one shape");
        assert!(positions <= self.capacity.min(from.capacity), "{positions} positions");
        for head in 0..self.heads {
            let (to, start) = (head * self.capacity * self.head_dim, head * from.capacity * from.head_dim);
            let len = positions * self.head_dim;
            match (&mut self.store, &from.store) {
                (Store::F16(a), Store::F16(b)) => a[to..to + len].copy_from_slice(&b[start..start + len]),
                (Store::F32(a), Store::F32(b)) => a[to..to + len].copy_from_slice(&b[start..start + len]),
                _ => panic!("caches of one type"),
            }
        }
    }
}

/// Some consecutive tokens of one sequence, in a batch that may hold several.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// Keys of this layer, these tokens' included.
    pub keys: &'a KvRows,
    /// Values of this layer, these tokens' included.
    pub values: &'a KvRows,
    /// Position of the first token.
    pub position: usize,
    /// Row of the first token in the batch.
    pub row: usize,
    /// Number of tokens.
    pub tokens: usize,
}

/// The sequences of a batch, given by number so that a caller need not collect them anew for each layer.
#[derive(Clone, Copy)]
pub struct Sequences<'a> {
    count: usize,
    by_number: &'a (dyn Fn(usize) -> Sequence<'a> + Sync),
}

impl<'a> Sequences<'a> {
    /// `count` sequences; `by_number` gives each.
    pub fn new(count: usize, by_number: &'a (dyn Fn(usize) -> Sequence<'a> + Sync)) -> Self {
        Sequences { count, by_number }
    }

    fn get(&self, number: usize) -> Sequence<'a> {
        (self.by_number)(number)
    }

    fn iter(&self) -> impl Iterator<Item = Sequence<'a>> {
        (0..self.count).map(|number| self.get(number))
    }
}

/// One worker's memory.
#[derive(Debug, Default)]
struct Work {
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Softmax states and outputs of the segment at hand, `[tokens][group]`.
    states: Vec<Softmax>,
    outputs: Vec<f32>,
    /// The same, merged over all segments.
    merged: Vec<Softmax>,
}

/// Memory for attention, grown as needed and reused.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    work: Vec<Work>,
    parts: Vec<Part>,
    part_states: Vec<Softmax>,
    part_outputs: Vec<f32>,
}

/// One task: some tokens of a sequence against the positions of one kv head.
#[derive(Clone, Copy, Debug)]
struct Part {
    sequence: usize,
    head: usize,
    first: usize,
    tokens: usize,
}

/// What every task needs to know.
struct Shape<'a> {
    kernels: &'a Kernels,
    head_dim: usize,
    group: usize,
    width: usize,
    scale: f32,
    q: &'a [f32],
}

impl Shape<'_> {
    fn query(&self, row: usize, head: usize, member: usize) -> &[f32] {
        let at = row * self.width + (head * self.group + member) * self.head_dim;
        &self.q[at..at + self.head_dim]
    }

    /// Attends the tokens of `part` to the positions of one segment, leaving states and outputs in `work`.
    fn segment(&self, sequence: &Sequence<'_>, part: Part, segment: usize, work: &mut Work) {
        let lanes = part.tokens * self.group;
        work.states.clear();
        work.states.resize(lanes, Softmax::EMPTY);
        work.outputs.clear();
        work.outputs.resize(lanes * self.head_dim, 0.0);
        let last = sequence.position + part.first + part.tokens;
        let end = ((segment + 1) * SEGMENT).min(last);
        for start in (segment * SEGMENT..end).step_by(BLOCK) {
            self.block(sequence, part, start..end.min(start + BLOCK), work);
        }
    }

    fn block(&self, sequence: &Sequence<'_>, part: Part, positions: Range<usize>, work: &mut Work) {
        let Work { keys, values, states, outputs, .. } = work;
        keys.resize(self.head_dim * BLOCK, 0.0);
        self.kernels.transpose_keys(sequence.keys.rows(part.head, positions.clone()), self.head_dim, keys);
        let values = match sequence.values.rows(part.head, positions.clone()) {
            Rows::F32(values) => values,
            Rows::F16(bits) => {
                values.resize(self.head_dim * BLOCK, 0.0);
                self.kernels.decode_f16(bits, &mut values[..bits.len()]);
                &values[..bits.len()]
            }
        };
        let mut scores = [0.0; BLOCK];
        for token in 0..part.tokens {
            // Causal: a token sees positions up to its own.
            let own = sequence.position + part.first + token;
            let Some(seen) = (own + 1).checked_sub(positions.start).filter(|seen| *seen > 0) else { continue };
            let seen = seen.min(positions.len());
            for member in 0..self.group {
                let lane = token * self.group + member;
                self.kernels.scores(
                    self.query(sequence.row + part.first + token, part.head, member),
                    keys,
                    &mut scores,
                );
                let shrink = self.kernels.softmax(&mut scores, seen, self.scale, &mut states[lane]);
                let out = &mut outputs[lane * self.head_dim..(lane + 1) * self.head_dim];
                self.kernels.accumulate(out, shrink, &scores[..seen], values);
            }
        }
    }

    /// Merges a later segment's `state` and `output` into those of all earlier ones.
    fn merge(&self, merged: &mut Softmax, out: &mut [f32], state: Softmax, output: &[f32]) {
        if state.max == f32::NEG_INFINITY && state.sum == 0.0 {
            return;
        }
        let max = merged.max.max(state.max);
        let (before, now) = ((merged.max - max).exp(), (state.max - max).exp());
        *merged = Softmax { max, sum: merged.sum * before + state.sum * now };
        for (out, value) in out.iter_mut().zip(output) {
            *out = *out * before + value * now;
        }
    }
}

fn segments(sequence: &Sequence<'_>, part: Part) -> usize {
    (sequence.position + part.first + part.tokens).div_ceil(SEGMENT)
}

/// `out[row] = softmax(q k / sqrt(head_dim)) v` for every token of every sequence; `q` and `out` are `[rows, heads * head_dim]`.
///
/// # Panics
/// If the shapes do not fit: `group` query heads per kv head, all sequences' caches of one shape, rows in range.
pub fn attention(
    kernels: &Kernels,
    pool: &Pool,
    sequences: Sequences<'_>,
    group: usize,
    q: &[f32],
    scratch: &mut AttentionScratch,
    out: &mut [f32],
) {
    if sequences.count == 0 {
        return;
    }
    let (heads, head_dim) = (sequences.get(0).keys.heads, sequences.get(0).keys.head_dim);
    let width = heads * group * head_dim;
    assert!(q.len() == out.len() && q.len().is_multiple_of(width), "queries and outputs of {width} per token");
    let shape = Shape { kernels, head_dim, group, width, scale: 1.0 / (head_dim as f32).sqrt(), q };
    let AttentionScratch { work, parts, part_states, part_outputs } = scratch;
    work.resize_with(pool.threads().max(work.len()), Work::default);
    parts.clear();
    for (index, sequence) in sequences.iter().enumerate() {
        assert!((sequence.row + sequence.tokens) * width <= q.len(), "rows of the batch");
        for rows in [sequence.keys, sequence.values] {
            assert!(rows.heads == heads && rows.head_dim == head_dim, "caches of one shape");
        }
        for first in (0..sequence.tokens).step_by(TOKENS_PER_TASK) {
            let tokens = TOKENS_PER_TASK.min(sequence.tokens - first);
            parts.extend((0..heads).map(|head| Part { sequence: index, head, first, tokens }));
        }
    }
    // The costly parts first: with few threads the last tasks to start decide when all are done.
    parts.sort_by_key(|part| std::cmp::Reverse(sequences.get(part.sequence).position + part.first));
    let (work, out) = (SharedMut::new(work), SharedMut::new(out));
    let longest = sequences.iter().map(|s| s.position + s.tokens).max().unwrap_or(0);
    if parts.len() < 4 * pool.threads() && pool.threads() > 1 && longest >= SPLIT_CONTEXT {
        return by_segments(&shape, pool, sequences, parts, part_states, part_outputs, &work, &out);
    }
    pool.run(parts.len(), |worker, task| {
        let part = parts[task];
        let sequence = &sequences.get(part.sequence);
        // SAFETY: a worker runs one task at a time.
        let work = unsafe { &mut work.slice(worker, 1)[0] };
        work.merged.clear();
        work.merged.resize(part.tokens * group, Softmax::EMPTY);
        for segment in 0..segments(sequence, part) {
            shape.segment(sequence, part, segment, work);
            for lane in 0..part.tokens * group {
                let out = output(&shape, &out, sequence, part, lane);
                if segment == 0 {
                    out.fill(0.0);
                }
                let output = &work.outputs[lane * head_dim..(lane + 1) * head_dim];
                shape.merge(&mut work.merged[lane], out, work.states[lane], output);
            }
        }
        for lane in 0..part.tokens * group {
            divide(output(&shape, &out, sequence, part, lane), work.merged[lane].sum);
        }
    });
}

fn divide(out: &mut [f32], sum: f32) {
    for out in out {
        *out /= sum;
    }
}

/// The output row of `lane` (a token and a member of the head's group) of a part.
#[expect(clippy::mut_from_ref, reason = "parts are disjoint; see below")]
fn output<'a>(
    shape: &Shape<'_>,
    out: &'a SharedMut<'_, f32>,
    sequence: &Sequence<'_>,
    part: Part,
    lane: usize,
) -> &'a mut [f32] {
    let row = sequence.row + part.first + lane / shape.group;
    let at = row * shape.width + (part.head * shape.group + lane % shape.group) * shape.head_dim;
    // SAFETY: parts are disjoint in (row, head), and callers hold one lane's slice at a time.
    unsafe { out.slice(at, shape.head_dim) }
}

/// As [`attention`], each segment of each part being a task; the merge follows in the same ascending order.
#[expect(clippy::too_many_arguments, reason = "the pieces of a scratch that is already borrowed apart")]
fn by_segments(
    shape: &Shape<'_>,
    pool: &Pool,
    sequences: Sequences<'_>,
    parts: &[Part],
    part_states: &mut Vec<Softmax>,
    part_outputs: &mut Vec<f32>,
    work: &SharedMut<'_, Work>,
    out: &SharedMut<'_, f32>,
) {
    let most = parts.iter().map(|part| segments(&sequences.get(part.sequence), *part)).max().unwrap_or(0);
    let lanes = parts.iter().map(|part| part.tokens * shape.group).max().unwrap_or(0);
    part_states.clear();
    part_states.resize(parts.len() * most * lanes, Softmax::EMPTY);
    part_outputs.resize((parts.len() * most * lanes * shape.head_dim).max(part_outputs.len()), 0.0);
    let (states, outputs) = (SharedMut::new(part_states), SharedMut::new(part_outputs));
    pool.run(parts.len() * most, |worker, task| {
        let part = parts[task / most];
        let sequence = &sequences.get(part.sequence);
        if task % most >= segments(sequence, part) {
            return;
        }
        // SAFETY: a worker runs one task at a time, and each task owns the lanes of its own number.
        let (work, states, outputs) = unsafe {
            (
                &mut work.slice(worker, 1)[0],
                states.slice(task * lanes, part.tokens * shape.group),
                outputs.slice(task * lanes * shape.head_dim, part.tokens * shape.group * shape.head_dim),
            )
        };
        shape.segment(sequence, part, task % most, work);
        states.copy_from_slice(&work.states);
        outputs.copy_from_slice(&work.outputs);
    });
    pool.run(parts.len(), |_, index| {
        let part = parts[index];
        let sequence = &sequences.get(part.sequence);
        for lane in 0..part.tokens * shape.group {
            let out = output(shape, out, sequence, part, lane);
            out.fill(0.0);
            let mut merged = Softmax::EMPTY;
            for segment in 0..segments(sequence, part) {
                let at = (index * most + segment) * lanes + lane;
                // SAFETY: the first run is over; here each task only reads, and reads its own part.
                let (state, output) =
                    unsafe { (states.slice(at, 1)[0], outputs.slice(at * shape.head_dim, shape.head_dim)) };
                shape.merge(&mut merged, out, state, output);
            }
            divide(out, merged.sum);
        }
    });
}
