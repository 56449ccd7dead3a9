//! SentencePiece's byte-pair merging by score (tokenizer model "llama").
//!
//! The merge order comes from the scores of the results, not from a list of pairs, so this is not the BPE of the
//! `tokenizers` library: two different pairs that spell the same piece have the same rank here. Symbols are a linked
//! list over the characters; a heap holds the neighbours that may merge, and entries that no longer describe two
//! neighbours are skipped when they come up.

use super::description::Scores;
use super::error::TokenizerError;
use super::vocabulary::{Kind, Vocabulary, byte_token};
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

/// The pieces that text can become, with their scores.
#[derive(Debug)]
pub(crate) struct SentencePiece {
    pieces: HashMap<Box<str>, (u32, f32)>,
    bytes: [Option<u32>; 256],
    unknown: Option<u32>,
    add_space_prefix: bool,
}

/// Two neighbouring symbols whose concatenation is a piece.
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    length: usize,
}

impl Ord for Candidate {
    /// Highest score first, leftmost on ties. Scores are finite.
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// A run of characters of the text; empty once merged into its left neighbour.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    end: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

impl SentencePiece {
    /// The pieces of a vocabulary with their scores, which are finite.
    pub(crate) fn new(scores: &Scores, vocabulary: &Vocabulary, unknown: Option<u32>) -> Self {
        let mut pieces = HashMap::with_capacity(vocabulary.len());
        let mut bytes = [None; 256];
        for ((id, piece, kind), &score) in vocabulary.iter().zip(&scores.scores) {
            match kind {
                // Adding zero turns -0 into 0, which must tie with it.
                Kind::Normal if !piece.is_empty() => _ = pieces.entry(piece.into()).or_insert((id, score + 0.0)),
                Kind::Byte => _ = byte_token(piece).map(|byte| bytes[usize::from(byte)].get_or_insert(id)),
                _ => {}
            }
        }
        Self { pieces, bytes, unknown, add_space_prefix: scores.space_prefix }
    }

    /// Appends the ids of a fragment without special tokens.
    pub(crate) fn encode(&self, fragment: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if fragment.is_empty() {
            return Ok(());
        }
        let mut text = String::with_capacity(fragment.len() + 3);
        if self.add_space_prefix {
            text.push('\u{2581}');
        }
        text.extend(fragment.chars().map(|character| if character == ' ' { '\u{2581}' } else { character }));
        for symbol in self.merge(&text) {
            self.push_ids(text.get(symbol.start..symbol.end).unwrap_or_default(), ids)?;
        }
        Ok(())
    }

    /// The symbols of the text after every merge.
    fn merge(&self, text: &str) -> Vec<Symbol> {
        let mut symbols = characters(text);
        let mut heap = BinaryHeap::new();
        for right in 1..symbols.len() {
            heap.extend(self.candidate(text, &symbols, right - 1, right));
        }
        while let Some(Candidate { left, right, length, .. }) = heap.pop() {
            let (Some(&a), Some(&b)) = (symbols.get(left), symbols.get(right)) else { continue };
            let stale = a.start == a.end || a.next != Some(right) || b.end - a.start != length;
            if stale {
                continue;
            }
            join(&mut symbols, left, right);
            heap.extend(a.previous.and_then(|before| self.candidate(text, &symbols, before, left)));
            heap.extend(b.next.and_then(|after| self.candidate(text, &symbols, left, after)));
        }
        symbols.retain(|symbol| symbol.start < symbol.end);
        symbols
    }

    /// The merge of two neighbours, if their concatenation is a piece.
    fn candidate(&self, text: &str, symbols: &[Symbol], left: usize, right: usize) -> Option<Candidate> {
        let (start, end) = (symbols.get(left)?.start, symbols.get(right)?.end);
        let &(_, score) = self.pieces.get(text.get(start..end)?)?;
        Some(Candidate { score, left, right, length: end - start })
    }

    /// The id of a final symbol, or those of its bytes, or the unknown token.
    fn push_ids(&self, symbol: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if let Some(&(id, _)) = self.pieces.get(symbol) {
            ids.push(id);
            return Ok(());
        }
        let before = ids.len();
        ids.extend(symbol.bytes().filter_map(|byte| self.bytes.get(usize::from(byte)).copied().flatten()));
        if ids.len() - before == symbol.len() {
            return Ok(());
        }
        ids.truncate(before);
        let unknown = self.unknown.ok_or_else(|| TokenizerError::Text {
            why: format!("holds {symbol:?}, for which the vocabulary has neither a token nor byte tokens"),
        })?;
        ids.push(unknown);
        Ok(())
    }
}

/// One symbol per character, linked to its neighbours.
fn characters(text: &str) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = text
        .char_indices()
        .enumerate()
        .map(|(index, (start, character))| Symbol {
            start,
            end: start + character.len_utf8(),
            previous: index.checked_sub(1),
            next: Some(index + 1),
        })
        .collect();
    if let Some(last) = symbols.last_mut() {
        last.next = None;
    }
    symbols
}

/// Merges `right` into `left`, its neighbour.
fn join(symbols: &mut [Symbol], left: usize, right: usize) {
    let Some(absorbed) = symbols.get(right).copied() else { return };
    if let Some(symbol) = symbols.get_mut(right) {
        symbol.end = symbol.start;
    }
    if let Some(symbol) = symbols.get_mut(left) {
        symbol.end = absorbed.end;
        symbol.next = absorbed.next;
    }
    if let Some(after) = absorbed.next.and_then(|next| symbols.get_mut(next)) {
        after.previous = Some(left);
    }
}
