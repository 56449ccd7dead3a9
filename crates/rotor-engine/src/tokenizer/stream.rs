//! Token ids back to text, a token at a time.
//!
//! One character can span several tokens (byte-level pieces, byte fallback), so a stream holds the bytes of an
//! unfinished character back until the rest has come. What it hands out, joined, is what decoding everything at once
//! gives.

use super::vocabulary::Vocabulary;
use std::sync::Arc;

/// Decodes a stream of token ids into whole characters.
#[derive(Clone, Debug)]
pub struct TextStream {
    vocabulary: Arc<Vocabulary>,
    drop_space: bool,
    pending: Vec<u8>,
    text: String,
}

impl TextStream {
    /// A stream that drops a space at its very beginning if `drop_space`.
    pub(super) fn new(vocabulary: Arc<Vocabulary>, drop_space: bool) -> Self {
        Self { vocabulary, drop_space, pending: Vec::new(), text: String::new() }
    }

    /// Takes the next token and returns the characters it completes, if it completes any.
    ///
    /// An id outside the vocabulary prints nothing. Bytes that can never become a character come out as U+FFFD.
    pub fn push(&mut self, id: u32) -> Option<&str> {
        let bytes = self.vocabulary.bytes(id).unwrap_or_default();
        let skip = usize::from(self.drop_space && bytes.first() == Some(&b' '));
        if !bytes.is_empty() {
            self.drop_space = false;
        }
        self.pending.extend_from_slice(bytes.get(skip..).unwrap_or_default());
        self.text.clear();
        let taken = take_characters(&self.pending, &mut self.text);
        self.pending.drain(..taken);
        self.completed()
    }

    /// Ends the stream: the bytes of a character that never became whole come out as U+FFFD.
    pub fn finish(&mut self) -> Option<&str> {
        self.text.clear();
        self.text.push_str(&String::from_utf8_lossy(&self.pending));
        self.pending.clear();
        self.completed()
    }

    fn completed(&self) -> Option<&str> {
        (!self.text.is_empty()).then_some(self.text.as_str())
    }
}

/// Appends the whole characters at the front of `bytes` to `text` and returns how many bytes they were. What is left
/// is empty or the beginning of a character.
fn take_characters(bytes: &[u8], text: &mut String) -> usize {
    let mut taken = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        taken += chunk.valid().len();
        let invalid = chunk.invalid();
        let unfinished = std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
        if unfinished && taken + invalid.len() == bytes.len() {
            return taken;
        }
        if !invalid.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            taken += invalid.len();
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::super::vocabulary::Kind;
    use super::*;
    use proptest::prelude::*;

    fn bytes_vocabulary() -> Arc<Vocabulary> {
        let mut vocabulary = Vocabulary::with_capacity(256);
        (0..=255u8).for_each(|byte| vocabulary.push("", [byte], Kind::Normal));
        Arc::new(vocabulary)
    }

    fn stream(bytes: &[u8]) -> Vec<String> {
        let mut stream = TextStream::new(bytes_vocabulary(), false);
        let mut pieces: Vec<String> =
            bytes.iter().filter_map(|&byte| stream.push(u32::from(byte)).map(str::to_owned)).collect();
        pieces.extend(stream.finish().map(str::to_owned));
        pieces
    }

    #[test]
    fn a_character_comes_out_whole() {
        assert_eq!(stream("é🦙a".as_bytes()), ["é", "🦙", "a"]);
    }

    #[test]
    fn an_unfinished_character_is_replaced_at_the_end_only() {
        assert_eq!(stream(&[b'a', 0xf0, 0x9f]), ["a", "\u{fffd}"]);
        assert_eq!(stream(&[0xf0, 0x9f, b'a']), ["\u{fffd}a"]);
    }

    proptest! {
        #[test]
        fn streaming_equals_decoding_at_once(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(stream(&bytes).concat(), String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn streaming_text_gives_it_back(text in "\\PC{0,32}") {
            prop_assert_eq!(stream(text.as_bytes()).concat(), text);
        }
    }
}
