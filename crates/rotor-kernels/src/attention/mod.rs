//! Causal attention over a KV cache, with a streaming softmax.
//!
//! Positions are taken in blocks of 64. The cache keeps a block's keys by dimension, so that scores come out many positions
//! at a time without any transposing, and the query heads that share them are scored while a vector of keys is in a
//! register. Four blocks make a segment with a softmax of its own; segments are merged in ascending order. So a long
//! context can be split over threads by segments or walked by one thread, and the sums run in the same order: a token's
//! numbers depend on neither threads nor batch.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod scalar;
mod store;

pub use store::{KvBlock, KvShape, KvType};

use crate::dispatch::Kernels;
use crate::pool::{Pool, SharedMut};
use std::ops::Range;
use std::sync::Arc;

/// Positions that are scored together.
pub(crate) const BLOCK: usize = 64;
/// Positions whose softmax is complete before it is merged: four blocks.
const SEGMENT: usize = 4 * BLOCK;
/// Tokens of a prompt that share a block's conversion.
const TOKENS_PER_TASK: usize = 32;
/// Numbers that segments may keep until they are merged, 16 MiB of them: for one token of each of many sequences all segments
/// of a long context, for the last tokens of a long prompt some of them at a time.
const UNMERGED: usize = if cfg!(test) { 512 } else { 4 << 20 };
/// Tokens from which converting a block once is cheaper than converting it for each.
const CONVERT_FOR: usize = 3;

/// Running maximum and sum of a streaming softmax.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Softmax {
    pub max: f32,
    pub sum: f32,
}

impl Softmax {
    pub(crate) const EMPTY: Softmax = Softmax { max: f32::NEG_INFINITY, sum: 0.0 };
}

/// Numbers as they are stored: f16 bits, f32, or int8 whose scale is applied elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Numbers<'a> {
    F16(&'a [u16]),
    F32(&'a [f32]),
    Int8(&'a [i8]),
}

impl<'a> Numbers<'a> {
    pub(crate) fn len(self) -> usize {
        match self {
            Numbers::F16(values) => values.len(),
            Numbers::F32(values) => values.len(),
            Numbers::Int8(values) => values.len(),
        }
    }

    pub(crate) fn get(self, index: usize) -> f32 {
        match self {
            Numbers::F16(values) => half::f16::from_bits(values[index]).to_f32(),
            Numbers::F32(values) => values[index],
            Numbers::Int8(values) => values[index].into(),
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn address(self) -> *const u8 {
        match self {
            Numbers::F16(values) => values.as_ptr().cast(),
            Numbers::F32(values) => values.as_ptr().cast(),
            Numbers::Int8(values) => values.as_ptr().cast(),
        }
    }

    fn first(self, len: usize) -> Numbers<'a> {
        match self {
            Numbers::F16(values) => Numbers::F16(&values[..len]),
            Numbers::F32(values) => Numbers::F32(&values[..len]),
            Numbers::Int8(values) => Numbers::Int8(&values[..len]),
        }
    }
}

/// What will be read next, of the type of what is at hand, for a kernel to ask for while it computes: a block is a short
/// stretch of memory, of which the CPU foresees neither the beginning nor the end.
pub(crate) type Next<'a> = Option<Numbers<'a>>;

/// Scores of some heads' queries.
type Scores = unsafe fn(q: &[f32], keys: Numbers<'_>, next: Next<'_>, scores: &mut [[f32; BLOCK]]);

/// Adds a block's weighted values to the outputs of some heads.
type Accumulate = unsafe fn(out: &mut [f32], shrink: &[f32], p: &[[f32; BLOCK]], values: Numbers<'_>, next: Next<'_>);

/// The attention kernels of one ISA. Lengths are the callers' (dispatch.rs) to check.
pub(crate) struct AttentionKernels {
    /// `scores[head][j] = sum over dims of q[head][dim] * keys[dim][j]`, for all positions of a block.
    pub scores: Scores,
    /// Replaces the first `n` scores `s` by `exp(s * scale - max)` with the new running maximum, the rest by zeros; returns
    /// the factor by which what was accumulated so far must shrink.
    pub softmax: unsafe fn(scores: &mut [f32; BLOCK], n: usize, scale: f32, state: &mut Softmax) -> f32,
    /// `out[head] = out[head] * shrink[head] + sum over positions of p[head][j] * values[j]`.
    pub accumulate: Accumulate,
    /// As f32.
    pub decode: unsafe fn(from: Numbers<'_>, to: &mut [f32]),
}

/// Some consecutive tokens of one sequence, in a batch that may hold several.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// Keys and values, these tokens' included, in the order of positions.
    pub blocks: &'a [Arc<KvBlock>],
    /// Which layer's to attend to.
    pub layer: usize,
    /// How many of the last positions a token sees, its own included; `None` for all.
    pub window: Option<usize>,
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
    /// A block's keys and values as f32.
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Scores of a block, and by what the outputs shrink, `[tokens][group]`.
    scores: Vec<[f32; BLOCK]>,
    shrinks: Vec<f32>,
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
    unmerged: Unmerged,
}

/// Segments of all parts that wait to be merged.
#[derive(Debug, Default)]
struct Unmerged {
    /// `[parts][segments][lanes]`.
    states: Vec<Softmax>,
    /// `[parts][segments][lanes][head_dim]`.
    outputs: Vec<f32>,
    /// What earlier segments came to, `[parts][lanes]`; their outputs are in the caller's.
    merged: Vec<Softmax>,
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
    /// The query heads of one token that share a kv head.
    fn queries(&self, row: usize, head: usize) -> &[f32] {
        let at = row * self.width + head * self.group * self.head_dim;
        &self.q[at..at + self.group * self.head_dim]
    }

    /// Attends the tokens of `part` to the positions of one segment, leaving states and outputs in `work`. `next` are the keys
    /// that this worker is likely to read then.
    fn segment(&self, sequence: &Sequence<'_>, part: Part, segment: usize, next: Next<'_>, work: &mut Work) {
        let lanes = part.tokens * self.group;
        work.states.clear();
        work.states.resize(lanes, Softmax::EMPTY);
        work.outputs.clear();
        work.outputs.resize(lanes * self.head_dim, 0.0);
        let last = sequence.position + part.first + part.tokens;
        let end = ((segment + 1) * SEGMENT).min(last);
        // The part's first token sees furthest back.
        let first = sequence.window.map_or(0, |window| (sequence.position + part.first + 1).saturating_sub(window));
        let begin = (segment * SEGMENT).max(first / BLOCK * BLOCK);
        for start in (begin..end).step_by(BLOCK) {
            let next = if start + BLOCK < end { first_keys(sequence, part, start + BLOCK) } else { next };
            self.block(sequence, part, start..end.min(start + BLOCK), next, work);
        }
    }

    fn block(&self, sequence: &Sequence<'_>, part: Part, positions: Range<usize>, next: Next<'_>, work: &mut Work) {
        let Work { keys, values, scores, shrinks, states, outputs, .. } = work;
        let (group, head_dim) = (self.group, self.head_dim);
        let stored = &sequence.blocks[positions.start / BLOCK];
        let stored_keys = stored.keys(sequence.layer, part.head);
        let stored_values = stored.values(sequence.layer, part.head);
        // Where many tokens share a block, little of the time is spent reading it.
        let (mut values_next, mut keys_next) =
            if part.tokens < CONVERT_FOR { (Some(stored_values.numbers), next) } else { (None, None) };
        let keys = self.converted(stored_keys.numbers, part.tokens, keys);
        let values = self.converted(stored_values.numbers, part.tokens, values);
        scores.resize(part.tokens * group, [0.0; BLOCK]);
        shrinks.resize(part.tokens * group, 1.0);
        // Keys stay in the L1 cache while all tokens are scored, then values while all are summed.
        for token in 0..part.tokens {
            let lanes = token * group..(token + 1) * group;
            let seen = seen(sequence, part, token, &positions);
            if seen.is_empty() {
                continue;
            }
            let queries = self.queries(sequence.row + part.first + token, part.head);
            self.kernels.scores(queries, keys, values_next.take(), &mut scores[lanes.clone()]);
            for lane in lanes {
                stored_keys.scale(&mut scores[lane]);
                scores[lane][..seen.start].fill(f32::NEG_INFINITY);
                shrinks[lane] = self.kernels.softmax(&mut scores[lane], seen.end, self.scale, &mut states[lane]);
                stored_values.scale(&mut scores[lane]);
            }
        }
        for token in 0..part.tokens {
            let lanes = token * group..(token + 1) * group;
            let seen = seen(sequence, part, token, &positions);
            if !seen.is_empty() {
                let out = &mut outputs[lanes.start * head_dim..lanes.end * head_dim];
                let values = values.first(seen.end * head_dim);
                self.kernels.accumulate(out, &shrinks[lanes.clone()], &scores[lanes], values, keys_next.take());
            }
        }
    }

    /// A block as it is for a token or two, as f32 for more. Converting loses nothing, so results are the same.
    fn converted<'a>(&self, stored: Numbers<'a>, tokens: usize, memory: &'a mut Vec<f32>) -> Numbers<'a> {
        if tokens < CONVERT_FOR || matches!(stored, Numbers::F32(_)) {
            return stored;
        }
        memory.resize(self.head_dim * BLOCK, 0.0);
        let memory = &mut memory[..stored.len()];
        self.kernels.decode_numbers(stored, memory);
        Numbers::F32(memory)
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

/// Which positions of a block a token sees, counted from the block's first: causal, up to its own, and not before its window.
fn seen(sequence: &Sequence<'_>, part: Part, token: usize, positions: &Range<usize>) -> Range<usize> {
    let end = sequence.position + part.first + token + 1;
    let start = sequence.window.map_or(0, |window| end.saturating_sub(window));
    let within = |position: usize| position.saturating_sub(positions.start).min(positions.len());
    within(start)..within(end)
}

/// A head's keys from `position` on, as far as their block goes.
fn first_keys<'a>(sequence: &Sequence<'a>, part: Part, position: usize) -> Next<'a> {
    Some(sequence.blocks[position / BLOCK].keys(sequence.layer, part.head).numbers)
}

fn segments(sequence: &Sequence<'_>, part: Part) -> usize {
    (sequence.position + part.first + part.tokens).div_ceil(SEGMENT)
}

/// `out[row] = softmax(q k / sqrt(scalar)) v` for every token of every sequence; `q` and `out` are `[rows, heads * head_dim]`,
/// and `scalar` is `head_dim` where none is given.
///
/// # Panics
/// If the shapes do not fit: `group` query heads per kv head, all sequences' caches of one shape, rows in range.
pub fn attention(
    kernels: &Kernels,
    pool: &Pool,
    sequences: Sequences<'_>,
    (group, scalar): (usize, Option<f32>),
    q: &[f32],
    scratch: &mut AttentionScratch,
    out: &mut [f32],
) {
    let Some(first) = sequences.iter().find(|sequence| sequence.tokens > 0) else { return };
    let KvShape { heads, head_dim, .. } = first.blocks[0].shape();
    let width = heads * group * head_dim;
    assert!(q.len() == out.len() && q.len().is_multiple_of(width), "queries and outputs of {width} per token");
    let shape = Shape { kernels, head_dim, group, width, scale: 1.0 / scalar.unwrap_or(head_dim as f32).sqrt(), q };
    let AttentionScratch { work, parts, unmerged } = scratch;
    work.resize_with(pool.threads().max(work.len()), Work::default);
    parts.clear();
    for (index, sequence) in sequences.iter().enumerate() {
        assert!((sequence.row + sequence.tokens) * width <= q.len(), "rows of the batch");
        let held = sequence.blocks.len() * BLOCK;
        assert!(sequence.position + sequence.tokens <= held, "blocks for every position of sequence {index}");
        assert!(sequence.blocks.iter().all(|block| block.shape() == first.blocks[0].shape()), "blocks of one shape");
        for first in (0..sequence.tokens).step_by(TOKENS_PER_TASK) {
            let tokens = TOKENS_PER_TASK.min(sequence.tokens - first);
            parts.extend((0..heads).map(|head| Part { sequence: index, head, first, tokens }));
        }
    }
    // The costly parts first: with few threads the last tasks to start decide when all are done.
    parts.sort_unstable_by_key(|part| std::cmp::Reverse(sequences.get(part.sequence).position + part.first));
    let (work, out) = (SharedMut::new(work), SharedMut::new(out));
    let longest = sequences.iter().map(|s| s.position + s.tokens).max().unwrap_or(0);
    if parts.len() < 4 * pool.threads() && pool.threads() > 1 && longest > SEGMENT {
        return by_segments(&shape, pool, sequences, parts, unmerged, &work, &out);
    }
    // One at a time, because parts differ in cost: what a worker takes next is likely as far on as there are threads.
    pool.run(parts.len(), |worker, task| {
        let part = parts[task];
        let sequence = &sequences.get(part.sequence);
        let following = parts.get(task + pool.threads());
        let following = following.and_then(|part| first_keys(&sequences.get(part.sequence), *part, 0));
        // SAFETY: a worker runs one task at a time.
        let work = unsafe { &mut work.slice(worker, 1)[0] };
        work.merged.clear();
        work.merged.resize(part.tokens * group, Softmax::EMPTY);
        let segments = segments(sequence, part);
        for segment in 0..segments {
            let later = (segment + 1) * SEGMENT;
            let next = if segment + 1 < segments { first_keys(sequence, part, later) } else { following };
            shape.segment(sequence, part, segment, next, work);
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

/// As [`attention`], each segment of each part being a task. Some segments of every part are computed, then merged in
/// ascending order, then the next; how many there are at a time changes no sum.
fn by_segments(
    shape: &Shape<'_>,
    pool: &Pool,
    sequences: Sequences<'_>,
    parts: &[Part],
    unmerged: &mut Unmerged,
    work: &SharedMut<'_, Work>,
    out: &SharedMut<'_, f32>,
) {
    let most = parts.iter().map(|part| segments(&sequences.get(part.sequence), *part)).max().unwrap_or(0);
    let lanes = parts.iter().map(|part| part.tokens * shape.group).max().unwrap_or(0);
    let together = (UNMERGED / (parts.len() * lanes * shape.head_dim)).clamp(1, most);
    let Unmerged { states, outputs, merged } = unmerged;
    states.resize((parts.len() * together * lanes).max(states.len()), Softmax::EMPTY);
    outputs.resize((parts.len() * together * lanes * shape.head_dim).max(outputs.len()), 0.0);
    merged.clear();
    merged.resize(parts.len() * lanes, Softmax::EMPTY);
    let (states, outputs, merged) = (SharedMut::new(states), SharedMut::new(outputs), SharedMut::new(merged));
    for begin in (0..most).step_by(together) {
        // A part's segments of this round.
        let round = |part: Part| begin..segments(&sequences.get(part.sequence), part).clamp(begin, begin + together);
        // Tasks cost about the same, so a worker takes a range of them, and what it reads next is known.
        let total = parts.iter().map(|part| round(*part).len()).sum();
        // Of a task with this number, if there is one: index of the part, the part, the segment.
        let task_at = |mut task: usize| {
            parts.iter().enumerate().find_map(|(index, part)| {
                let segments = round(*part);
                let found = (task < segments.len()).then_some((index, *part, begin + task));
                task = task.saturating_sub(segments.len());
                found
            })
        };
        pool.run_ranges(total, |worker, range| {
            for task in range {
                let Some((index, part, segment)) = task_at(task) else { return };
                let sequence = &sequences.get(part.sequence);
                let next = task_at(task + 1)
                    .and_then(|(_, part, segment)| first_keys(&sequences.get(part.sequence), part, segment * SEGMENT));
                let at = (index * together + segment - begin) * lanes;
                // SAFETY: a worker runs one task at a time, and each task owns the lanes of its own part and segment.
                let (work, states, outputs) = unsafe {
                    (
                        &mut work.slice(worker, 1)[0],
                        states.slice(at, part.tokens * shape.group),
                        outputs.slice(at * shape.head_dim, part.tokens * shape.group * shape.head_dim),
                    )
                };
                shape.segment(sequence, part, segment, next, work);
                states.copy_from_slice(&work.states);
                outputs.copy_from_slice(&work.outputs);
            }
        });
        pool.run(parts.len(), |_, index| {
            let part = parts[index];
            let sequence = &sequences.get(part.sequence);
            let round = round(part);
            for lane in 0..part.tokens * shape.group {
                let out = output(shape, out, sequence, part, lane);
                // SAFETY: the run before is over; each task of this one takes what belongs to its own part.
                let merged = unsafe { &mut merged.slice(index * lanes + lane, 1)[0] };
                if begin == 0 {
                    out.fill(0.0);
                }
                for segment in round.clone() {
                    let at = (index * together + segment - begin) * lanes + lane;
                    // SAFETY: as above.
                    let (state, output) =
                        unsafe { (states.slice(at, 1)[0], outputs.slice(at * shape.head_dim, shape.head_dim)) };
                    shape.merge(merged, out, state, output);
                }
                if round.end == segments(sequence, part) && !round.is_empty() {
                    divide(out, merged.sum);
                }
            }
        });
    }
}
