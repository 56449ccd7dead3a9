//! Short, slow tokenizers, written from the published definitions alone, that the library's have to agree with.

use crate::text::{DIGITS, LETTERS, PUNCTUATION};
use std::collections::HashMap;

pub(crate) fn is_letter(character: char) -> bool {
    character.is_ascii_alphabetic()
        || (!character.is_ascii() && LETTERS.contains(character))
        || "ïệ".contains(character)
}

pub(crate) fn is_number(character: char) -> bool {
    DIGITS.contains(character)
}

fn is_other(character: char) -> bool {
    !is_letter(character) && !is_number(character) && !character.is_whitespace()
}

fn is_newline(character: char) -> bool {
    matches!(character, '\r' | '\n')
}

/// Cuts text into pieces; returns the length in characters of the piece at the front.
type Scanner = fn(&[char]) -> usize;

pub(crate) fn split(text: &str, scanner: Scanner) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    let mut rest = characters.as_slice();
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let length = scanner(rest);
        pieces.push(rest[..length].iter().collect());
        rest = &rest[length..];
    }
    pieces
}

/// The pieces of a pre-tokenizer by its GGUF name.
pub(crate) fn pieces(pre: &str, text: &str) -> Vec<String> {
    let again = |pieces: Vec<String>, scanner: Scanner| -> Vec<String> {
        pieces.iter().flat_map(|piece| split(piece, scanner)).collect()
    };
    match pre {
        "llama-bpe" => split(text, |rest| llama3(rest, 3)),
        "qwen2" => split(text, |rest| llama3(rest, 1)),
        "gpt-2" => split(text, gpt2),
        "smollm" => again(split(text, |rest| run_of_class(rest, is_number, 1)), gpt2),
        "default" => {
            let pieces = split(text, |rest| run_of_class(rest, |c| is_punctuation(c) && c != '`', usize::MAX));
            let pieces = again(again(pieces, gpt2), |rest| run_of_class(rest, is_number, usize::MAX));
            again(pieces, three_digits)
        }
        "falcon_e" => {
            let pieces = split(text, |rest| run_of_class(rest, is_punctuation, usize::MAX));
            again(again(pieces, gpt2), |rest| run_of_class(rest, |c| c.is_ascii_digit(), 1))
        }
        other => panic!("no reference for {other}"),
    }
}

fn is_punctuation(character: char) -> bool {
    PUNCTUATION.contains(character) || "$+<=>^~|`".contains(character)
}

fn count(rest: &[char], class: impl Fn(char) -> bool) -> usize {
    rest.iter().take_while(|&&character| class(character)).count()
}

/// Up to `limit` characters of a class are one piece, and so is everything up to the next of them.
fn run_of_class(rest: &[char], class: fn(char) -> bool, limit: usize) -> usize {
    match count(rest, class) {
        0 => count(rest, |character| !class(character)),
        run => run.min(limit),
    }
}

fn three_digits(rest: &[char]) -> usize {
    let is_three = |at: &[char]| at.len() >= 3 && at[..3].iter().all(char::is_ascii_digit);
    if is_three(rest) { 3 } else { (1..rest.len()).find(|&at| is_three(&rest[at..])).unwrap_or(rest.len()) }
}

fn contraction(rest: &[char], fold: bool) -> Option<usize> {
    let lower: String =
        rest.iter().take(3).flat_map(|c| if fold { c.to_lowercase().collect() } else { vec![*c] }).collect();
    // Under full case folding the long s is an s.
    let lower = if fold { lower.replace('ſ', "s") } else { lower };
    ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"]
        .iter()
        .find(|ending| lower.starts_with(**ending))
        .map(|ending| ending.len())
}

/// Whitespace that the word rules left: all of it at the end of the text, otherwise all but the last character.
fn whitespace(rest: &[char]) -> usize {
    let run = count(rest, char::is_whitespace);
    if run == rest.len() || run == 1 { run } else { run - 1 }
}

fn llama3(rest: &[char], digits: usize) -> usize {
    if let Some(length) = contraction(rest, true) {
        return length;
    }
    let first = rest[0];
    let glue = usize::from(!is_newline(first) && !is_letter(first) && !is_number(first));
    let letters = count(&rest[glue..], is_letter);
    if letters > 0 {
        return glue + letters;
    }
    if is_number(first) {
        return count(rest, is_number).min(digits);
    }
    let space = usize::from(first == ' ');
    let others = count(&rest[space..], is_other);
    if others > 0 {
        return space + others + count(&rest[space + others..], is_newline);
    }
    let run = count(rest, char::is_whitespace);
    match rest[..run].iter().rposition(|&character| is_newline(character)) {
        Some(last) => last + 1,
        None => whitespace(rest),
    }
}

fn gpt2(rest: &[char]) -> usize {
    if let Some(length) = contraction(rest, false) {
        return length;
    }
    let space = usize::from(rest[0] == ' ');
    for class in [is_letter, is_number, is_other] {
        let run = count(&rest[space..], class);
        if run > 0 {
            return space + run;
        }
    }
    whitespace(rest)
}

/// The byte-level alphabet, byte by byte.
pub(crate) fn alphabet() -> Vec<char> {
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut next = 0x100;
    (0..256u32)
        .map(|byte| {
            let code = if printable(byte) { byte } else { next };
            next += u32::from(!printable(byte));
            char::from_u32(code).unwrap()
        })
        .collect()
}

pub(crate) fn to_alphabet(bytes: &[u8]) -> String {
    let alphabet = alphabet();
    bytes.iter().map(|&byte| alphabet[usize::from(byte)]).collect()
}

type Pair = (Vec<u8>, Vec<u8>);

/// Byte-pair merging over bytes.
#[derive(Default)]
pub(crate) struct Bpe {
    pub(crate) ids: HashMap<Vec<u8>, u32>,
    pub(crate) ranks: HashMap<Pair, usize>,
    pub(crate) ignore_merges: bool,
}

impl Bpe {
    pub(crate) fn encode(&self, pieces: &[String]) -> Vec<u32> {
        pieces.iter().flat_map(|piece| self.encode_piece(piece.as_bytes())).collect()
    }

    fn encode_piece(&self, piece: &[u8]) -> Vec<u32> {
        if let Some(&id) = self.ids.get(piece).filter(|_| self.ignore_merges) {
            return vec![id];
        }
        let mut symbols: Vec<Vec<u8>> = piece.iter().map(|&byte| vec![byte]).collect();
        loop {
            let rank = |at: usize| self.ranks.get(&(symbols[at].clone(), symbols[at + 1].clone()));
            let best = (0..symbols.len().saturating_sub(1)).filter_map(|at| Some((*rank(at)?, at))).min();
            let Some((_, at)) = best else { break };
            let right = symbols.remove(at + 1);
            symbols[at].extend(right);
        }
        // A byte without a token is left out.
        symbols.iter().filter_map(|symbol| self.ids.get(symbol).copied()).collect()
    }

    /// The most frequent neighbours of the pieces become the next token, `merges` times.
    pub(crate) fn train(pieces: &[String], merges: usize) -> (Self, Vec<Pair>) {
        let mut bpe = Self { ids: (0..=255).map(|byte| (vec![byte], u32::from(byte))).collect(), ..Self::default() };
        let mut words: Vec<Vec<Vec<u8>>> =
            pieces.iter().map(|piece| piece.bytes().map(|byte| vec![byte]).collect()).collect();
        let mut list = Vec::new();
        while list.len() < merges {
            let mut counts: HashMap<(&[u8], &[u8]), usize> = HashMap::new();
            for pair in words.iter().flat_map(|word| word.windows(2)) {
                *counts.entry((&pair[0], &pair[1])).or_default() += 1;
            }
            let new = |pair: &(&[u8], &[u8])| !bpe.ids.contains_key(&[pair.0, pair.1].concat());
            let best = counts.into_iter().filter(|(pair, _)| new(pair)).max_by_key(|&(pair, count)| (count, pair));
            let ((left, right), _) = best.expect("the text has enough pairs");
            let pair = (left.to_vec(), right.to_vec());
            let joined = [left, right].concat();
            for word in &mut words {
                let mut at = 0;
                while at + 1 < word.len() {
                    if word[at] == pair.0 && word[at + 1] == pair.1 {
                        word[at] = joined.clone();
                        word.remove(at + 1);
                    }
                    at += 1;
                }
            }
            bpe.ids.insert(joined, 256 + u32::try_from(list.len()).unwrap());
            bpe.ranks.insert(pair.clone(), list.len());
            list.push(pair);
        }
        (bpe, list)
    }
}

/// SentencePiece merging: again and again the best-scored neighbours, leftmost among equals.
pub(crate) struct SentencePiece {
    pub(crate) pieces: HashMap<String, (u32, f32)>,
    /// Id of the token of byte 0; the others follow.
    pub(crate) first_byte: u32,
}

impl SentencePiece {
    pub(crate) fn encode(&self, text: &str, space_prefix: bool) -> Vec<u32> {
        let text = format!("{}{text}", if space_prefix && !text.is_empty() { " " } else { "" }).replace(' ', "▁");
        let mut symbols: Vec<String> = text.chars().map(String::from).collect();
        loop {
            let mut best: Option<(f32, usize)> = None;
            for at in 0..symbols.len().saturating_sub(1) {
                if let Some(&(_, score)) = self.pieces.get(&(symbols[at].clone() + &symbols[at + 1]))
                    && best.is_none_or(|(highest, _)| score > highest)
                {
                    best = Some((score, at));
                }
            }
            let Some((_, at)) = best else { break };
            let right = symbols.remove(at + 1);
            symbols[at].push_str(&right);
        }
        symbols.iter().flat_map(|symbol| self.ids(symbol)).collect()
    }

    fn ids(&self, symbol: &str) -> Vec<u32> {
        match self.pieces.get(symbol) {
            Some(&(id, _)) => vec![id],
            None => symbol.bytes().map(|byte| self.first_byte + u32::from(byte)).collect(),
        }
    }
}
