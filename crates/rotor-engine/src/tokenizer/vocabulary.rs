//! What each token id is and prints, in one block of memory.
//!
//! The encoder needs text to id; everything after the model needs id to bytes, for every token, quickly and without
//! knowing which kind of tokenizer it was. A vocabulary of 128,256 tokens is two strings and two index lists here
//! instead of a quarter of a million small allocations.

use std::collections::HashMap;
use std::sync::LazyLock;

/// What a token is for (the numbers are `tokenizer.ggml.token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ordinary text.
    Normal,
    /// Stands for what the vocabulary cannot spell; prints nothing.
    Unknown,
    /// Steers the model; prints nothing and is never made from a user's text.
    Control,
    /// A text that is always one token.
    UserDefined,
    /// A row without meaning; prints nothing.
    Unused,
    /// One byte, `<0xHH>`.
    Byte,
}

impl Kind {
    /// The kind of a GGUF token type.
    pub(crate) fn from_gguf(token_type: i32) -> Option<Kind> {
        Some(match token_type {
            1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => return None,
        })
    }

    /// Whether the token is invisible in a text and matched only where special tokens are parsed.
    pub(crate) fn is_special(self) -> bool {
        matches!(self, Kind::Control | Kind::Unknown)
    }
}

/// The tokens by id: piece, printed bytes, kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vocabulary {
    pieces: String,
    piece_ends: Vec<usize>,
    bytes: Vec<u8>,
    byte_ends: Vec<usize>,
    kinds: Vec<Kind>,
}

impl Vocabulary {
    /// An empty vocabulary with room for `tokens` tokens.
    pub(crate) fn with_capacity(tokens: usize) -> Self {
        Self {
            pieces: String::with_capacity(tokens.saturating_mul(8)),
            piece_ends: Vec::with_capacity(tokens),
            bytes: Vec::with_capacity(tokens.saturating_mul(8)),
            byte_ends: Vec::with_capacity(tokens),
            kinds: Vec::with_capacity(tokens),
        }
    }

    /// Adds the next id. Tokens that print nothing keep their piece and get no bytes, whatever `bytes` holds. An empty token
    /// that is not special is found in no text and prints nothing: it is unused, whatever its file calls it.
    pub(crate) fn push(&mut self, piece: &str, bytes: impl IntoIterator<Item = u8>, kind: Kind) {
        let before = self.bytes.len();
        self.pieces.push_str(piece);
        self.piece_ends.push(self.pieces.len());
        if !kind.is_special() && kind != Kind::Unused {
            self.bytes.extend(bytes);
        }
        self.byte_ends.push(self.bytes.len());
        let is_empty = piece.is_empty() && self.bytes.len() == before && !kind.is_special();
        self.kinds.push(if is_empty { Kind::Unused } else { kind });
    }

    /// Adds ids that nothing means until there are `len`.
    pub(crate) fn pad(&mut self, len: usize) {
        while self.len() < len {
            self.push("", [], Kind::Unused);
        }
    }

    /// Number of ids.
    pub(crate) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The piece as the vocabulary writes it.
    pub(crate) fn piece(&self, id: u32) -> Option<&str> {
        let (start, end) = span(&self.piece_ends, id)?;
        self.pieces.get(start..end)
    }

    /// The bytes the token prints.
    pub(crate) fn bytes(&self, id: u32) -> Option<&[u8]> {
        let (start, end) = span(&self.byte_ends, id)?;
        self.bytes.get(start..end)
    }

    /// What the token is for.
    pub(crate) fn kind(&self, id: u32) -> Option<Kind> {
        self.kinds.get(usize::try_from(id).ok()?).copied()
    }

    /// Whether each of the 256 bytes is what a token of this kind prints, so that no text is unknown.
    pub(crate) fn has_every_byte(&self, kind: Kind) -> bool {
        let mut seen = [false; 256];
        for (id, _, _) in self.iter().filter(|entry| entry.2 == kind) {
            if let Some(&[byte]) = self.bytes(id) {
                seen[usize::from(byte)] = true;
            }
        }
        seen.iter().all(|&seen| seen)
    }

    /// Every token in order of id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &str, Kind)> {
        (0u32..).zip(&self.kinds).filter_map(|(id, &kind)| Some((id, self.piece(id)?, kind)))
    }
}

/// Start and end of entry `id`, given where each entry ends.
fn span(ends: &[usize], id: u32) -> Option<(usize, usize)> {
    let index = usize::try_from(id).ok()?;
    let end = *ends.get(index)?;
    let start = index.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or(0);
    Some((start, end))
}

/// The character that stands for a byte in byte-level vocabularies (GPT-2's table).
pub(crate) fn byte_to_char(byte: u8) -> char {
    match byte {
        33..=126 | 161..=172 | 174..=255 => char::from(byte),
        // The other 68 bytes take the code points from U+0100 on, in increasing order.
        0..=32 => offset_char(u32::from(byte)),
        127..=160 => offset_char(u32::from(byte) - 127 + 33),
        173 => offset_char(67),
    }
}

fn offset_char(index: u32) -> char {
    char::from_u32(0x100 + index).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that a character of the byte-level alphabet stands for.
pub(crate) fn char_to_byte(character: char) -> Option<u8> {
    static BYTES: LazyLock<HashMap<char, u8>> =
        LazyLock::new(|| (0..=255).map(|byte| (byte_to_char(byte), byte)).collect());
    BYTES.get(&character).copied()
}

/// The bytes of a byte-level piece; a character outside the alphabet stands for itself.
pub(crate) fn byte_level_bytes(piece: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(piece.len());
    for character in piece.chars() {
        match char_to_byte(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

/// The bytes of a SentencePiece piece: U+2581 prints as a space.
pub(crate) fn sentencepiece_bytes(piece: &str) -> Vec<u8> {
    piece.replace('\u{2581}', " ").into_bytes()
}

/// The byte of a `<0xHH>` token. Anything else that looks like one (`<0x-1>`, `<0xZZ>`, `<0x1FF>`) is `None`.
pub(crate) fn byte_token(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}
