//! Between merging by score (SentencePiece in a GGUF) and a list of merges (the same vocabulary in a tokenizer.json).
//!
//! A score orders pieces: the pair whose concatenation scores highest merges first, the leftmost among equals. A list
//! orders pairs. The two agree where the list has, for each piece in the order of the scores, every way to put it together
//! from two pieces, one after the other:
//!
//! ```text
//! scores: "ab" -1, "abc" -2          merges: a b | ab c | a bc       ("bc" -3 comes later: b c)
//! ```
//!
//! What is left is the order inside a piece. Three neighbours `s t u` with `st = tu` can merge in two ways, of which the
//! leftmost is the right one, so the way that begins with a period of the piece comes first.

use super::description::{BytePairs, Encoding, Scores, Spelling};
use super::merges::Merges;
use super::steps::{self, Normalizer, Pattern, PreTokenizer, PrependScheme};
use super::vocabulary::{Kind, Vocabulary};
use std::collections::{HashMap, HashSet};

/// SentencePiece's sign for a space.
pub(crate) const SPACE: &str = "\u{2581}";

/// Merging by score without what scores say beyond an order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Canonical {
    /// Whether every stretch of text gets a space in front.
    pub(crate) space_prefix: bool,
    /// Pieces that two others make, those to be merged first in front; equals side by side, in order of id.
    pub(crate) order: Vec<Vec<u32>>,
}

/// The order of merging, where it is by piece; `None` for a list of merges that no scores stand for.
pub(crate) fn canonical(vocabulary: &Vocabulary, encoding: &Encoding) -> Option<Canonical> {
    match encoding {
        Encoding::SentencePiece(Scores { scores, space_prefix }) => {
            Some(Canonical { space_prefix: *space_prefix, order: order_of(&Pieces::new(vocabulary), scores) })
        }
        Encoding::BytePairs(pairs) if pairs.spelling == Spelling::ByteLevel => None,
        Encoding::BytePairs(pairs) => {
            let mut lost = Vec::new();
            let space_prefix = space_prefix(vocabulary, pairs, &mut lost);
            let order = order_of_merges(&Pieces::new(vocabulary), &pairs.merges, &mut lost);
            let order = order.into_iter().map(|id| vec![id]).collect();
            lost.is_empty().then_some(Canonical { space_prefix, order })
        }
    }
}

/// Scores for a list of merges; `lost` gets what scores cannot hold.
pub(crate) fn from_merges(vocabulary: &Vocabulary, pairs: &BytePairs, lost: &mut Vec<String>) -> Scores {
    let space_prefix = space_prefix(vocabulary, pairs, lost);
    let order = order_of_merges(&Pieces::new(vocabulary), &pairs.merges, lost);
    // Pieces of one character are never merged to; they come last.
    let last = -(order.len() as f32);
    let kind = |id: usize| u32::try_from(id).ok().and_then(|id| vocabulary.kind(id));
    let unordered = |id| if kind(id) == Some(Kind::Normal) { last } else { 0.0 };
    let mut scores: Vec<f32> = (0..vocabulary.len()).map(unordered).collect();
    for (rank, id) in order.into_iter().enumerate() {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = -(rank as f32);
        }
    }
    Scores { scores, space_prefix }
}

/// The list of merges for scores; `lost` gets what a list cannot hold.
pub(crate) fn to_merges(vocabulary: &Vocabulary, scores: &[f32], lost: &mut Vec<String>) -> Merges {
    let pieces = Pieces::new(vocabulary);
    let mut merges = Merges::default();
    for equals in order_of(&pieces, scores) {
        if let [first, second, ..] = equals.as_slice() {
            let text = |id: u32| vocabulary.piece(id).unwrap_or_default();
            lost.push(format!("scores that are equal, as of {:?} and {:?}", text(*first), text(*second)));
        }
        for piece in equals.into_iter().filter_map(|id| vocabulary.piece(id)) {
            let mut splits = pieces.splits(piece);
            // A cut at a period leaves on the right what the piece begins with.
            splits.sort_by_key(|&(left, right)| (!piece.starts_with(right), left.len()));
            splits.into_iter().for_each(|(left, right)| merges.push(left, right));
        }
    }
    merges
}

/// Whether every stretch gets a space in front; `lost` gets what merging by score has no place for.
fn space_prefix(vocabulary: &Vocabulary, pairs: &BytePairs, lost: &mut Vec<String>) -> bool {
    let BytePairs {
        // The caller's part.
        spelling: _,
        merges: _,
        normalizer,
        pre_tokenizer,
        ignore_merges,
        byte_fallback,
        unknown,
        fuse_unknown,
    } = pairs;
    let prepend = Normalizer::Prepend { prepend: SPACE.into() };
    let replace = Normalizer::Replace { pattern: Pattern::String(" ".into()), content: SPACE.into() };
    let is_usual = match normalizer.as_slice() {
        [first, second] => *first == prepend && *second == replace,
        [only] => *only == replace,
        _ => false,
    };
    if !is_usual {
        lost.push(format!("the normalizer {}", steps::to_json(normalizer, "normalizers")));
    }
    if !pre_tokenizer.is_empty() {
        lost.push(format!("the pre-tokenizer {}", steps::to_json(pre_tokenizer, "pretokenizers")));
    }
    if *ignore_merges {
        lost.push("that a piece which is a token is not put together by merges (ignore_merges)".into());
    }
    let has_bytes = vocabulary.iter().any(|(_, _, kind)| kind == Kind::Byte);
    // Where every byte has a token, nothing is ever unknown.
    let spells_all = *byte_fallback && vocabulary.has_every_byte(Kind::Byte);
    if !spells_all && (unknown.is_none() || *fuse_unknown || *byte_fallback != has_bytes) {
        lost.push("what becomes of characters without a token".into());
    }
    normalizer.contains(&prepend)
        || pre_tokenizer.iter().any(|step| {
            matches!(step, PreTokenizer::Metaspace { prepend_scheme, .. } if *prepend_scheme != PrependScheme::Never)
        })
}

/// The ordinary pieces by their text, the lowest id for each.
struct Pieces<'a> {
    ids: HashMap<&'a str, u32>,
    vocabulary: &'a Vocabulary,
}

impl<'a> Pieces<'a> {
    fn new(vocabulary: &'a Vocabulary) -> Self {
        let mut ids = HashMap::with_capacity(vocabulary.len());
        for (id, piece, _) in vocabulary.iter().filter(|(_, piece, kind)| *kind == Kind::Normal && !piece.is_empty()) {
            ids.entry(piece).or_insert(id);
        }
        Self { ids, vocabulary }
    }

    /// Every way to put a piece together from two.
    fn splits<'b>(&self, piece: &'b str) -> Vec<(&'b str, &'b str)> {
        let cuts = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
        cuts.filter(|(left, right)| self.ids.contains_key(left) && self.ids.contains_key(right)).collect()
    }

    /// The pieces that can be merged to.
    fn merged(&self) -> Vec<u32> {
        let mut ids: Vec<u32> =
            self.ids.iter().filter(|(piece, _)| !self.splits(piece).is_empty()).map(|(_, &id)| id).collect();
        ids.sort_unstable();
        ids
    }

    /// Whether one of these pieces ends in what another begins with, so that only one of two merges can happen.
    fn overlap(&self, ids: &[u32]) -> bool {
        let text = |id: u32| self.vocabulary.piece(id).unwrap_or_default();
        let mut ends: HashMap<&str, Vec<u32>> = HashMap::new();
        for &id in ids {
            for (_, right) in self.splits(text(id)) {
                ends.entry(right).or_default().push(id);
            }
        }
        let meets = |id: u32, left: &str| ends.get(left).is_some_and(|others| others.iter().any(|&other| other != id));
        ids.iter().any(|&id| self.splits(text(id)).into_iter().any(|(left, _)| meets(id, left)))
    }
}

/// Pieces by score, the highest first. Equals stay together only where it matters which of them comes first.
fn order_of(pieces: &Pieces<'_>, scores: &[f32]) -> Vec<Vec<u32>> {
    // Adding zero turns -0 into 0, which must tie with it.
    let score = |id: u32| scores.get(id as usize).copied().unwrap_or(0.0) + 0.0;
    let mut ids = pieces.merged();
    ids.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
    let mut order = Vec::new();
    for equals in ids.chunk_by(|&a, &b| score(a) == score(b)) {
        match equals.len() > 1 && pieces.overlap(equals) {
            true => order.push(equals.to_vec()),
            false => order.extend(equals.iter().map(|&id| vec![id])),
        }
    }
    order
}

/// Pieces in the order of their merges; `lost` gets the first that does not have all of its merges side by side.
fn order_of_merges(pieces: &Pieces<'_>, merges: &Merges, lost: &mut Vec<String>) -> Vec<u32> {
    let mut order = Vec::new();
    let mut missing: HashSet<u32> = pieces.merged().into_iter().collect();
    let mut odd = None;
    let mut list = merges.iter().peekable();
    while let Some((left, right)) = list.next() {
        let piece = [left, right].concat();
        let mut ways = vec![left.len()];
        while let Some((left, _)) = list.next_if(|(left, right)| piece.strip_prefix(left) == Some(right)) {
            ways.push(left.len());
        }
        ways.sort_unstable();
        let every: Vec<usize> = pieces.splits(&piece).iter().map(|(left, _)| left.len()).collect();
        let first_time = pieces.ids.get(piece.as_str()).filter(|id| missing.remove(id));
        order.extend(first_time);
        if ways != every || first_time.is_none() {
            odd = odd.or(Some(piece));
        }
    }
    let unmade = missing.iter().min().and_then(|&id| pieces.vocabulary.piece(id));
    if let Some(piece) = odd.as_deref().or(unmade) {
        lost.push(format!("the order of the merges, which no scores give: {piece:?} is an example"));
    }
    order
}
