//! Byte-pair merges in the order they apply, in one block of memory.
//!
//! Llama 3 has 280,147 of them: as pairs of strings they would be half a million small allocations.

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

/// Pairs of pieces, the first to be merged first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Merges {
    text: String,
    /// Where the left and the right piece of each pair end in `text`.
    ends: Vec<(usize, usize)>,
}

impl Merges {
    /// No merges, with room for `pairs` of them.
    pub(crate) fn with_capacity(pairs: usize) -> Self {
        Self { text: String::with_capacity(pairs.saturating_mul(10)), ends: Vec::with_capacity(pairs) }
    }

    /// Appends a pair.
    pub(crate) fn push(&mut self, left: &str, right: &str) {
        self.text.push_str(left);
        let middle = self.text.len();
        self.text.push_str(right);
        self.ends.push((middle, self.text.len()));
    }

    /// Appends a pair written "left right": cut at the first space that is not the first character. `None`, with nothing
    /// appended, for anything else.
    pub(crate) fn push_written(&mut self, written: &str) -> Option<()> {
        let first = written.chars().next()?.len_utf8();
        let space = written.get(first..)?.find(' ')? + first;
        self.push(written.get(..space)?, written.get(space + 1..)?);
        Some(())
    }

    /// How many pairs there are.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The pairs in order.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + Clone {
        let start = |index: usize| index.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |end| end.1);
        self.ends.iter().enumerate().map(move |(index, &(middle, end))| {
            let part = |range| self.text.get(range).unwrap_or_default();
            (part(start(index)..middle), part(middle..end))
        })
    }
}

/// From tokenizer.json, where a merge is "left right" or, in newer files, a list of two.
impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Merges;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of merges")
            }

            fn visit_unit<E>(self) -> Result<Merges, E> {
                Ok(Merges::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merges, A::Error> {
                let mut merges = Merges::with_capacity(list.size_hint().unwrap_or(0).min(1 << 20));
                while let Some(()) = list.next_element_seed(Pair(&mut merges))? {}
                Ok(merges)
            }
        }

        deserializer.deserialize_any(Pairs)
    }
}

/// Appends one merge of a tokenizer.json.
struct Pair<'a>(&'a mut Merges);

impl<'de> serde::de::DeserializeSeed<'de> for Pair<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pair<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a merge: two tokens in a list or with a space between")
    }

    fn visit_str<E: serde::de::Error>(self, written: &str) -> Result<(), E> {
        // The first line of the merges.txt that some files carry along.
        if self.0.is_empty() && written.starts_with("#version") {
            return Ok(());
        }
        self.0.push_written(written).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(written), &self))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let (left, right): (Option<String>, Option<String>) = (list.next_element()?, list.next_element()?);
        let (Some(left), Some(right), None) = (left, right, list.next_element::<String>()?) else {
            return Err(serde::de::Error::custom("a merge is of two tokens"));
        };
        self.0.push(&left, &right);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Merges, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn merges_are_read_in_both_spellings() {
        let written = read(r##"["#version: 0.2", "a b", "ab  c", "\u0120 the"]"##).unwrap();
        let listed = read(r#"[["a", "b"], ["ab", " c"], ["\u0120", "the"]]"#).unwrap();
        assert_eq!(written, listed);
        assert_eq!(listed.iter().collect::<Vec<_>>(), [("a", "b"), ("ab", " c"), ("Ġ", "the")]);
        assert_eq!(read("null").unwrap(), Merges::default());
    }

    #[test]
    fn what_is_no_merge_is_refused() {
        for json in [r#"["a"]"#, r#"[" a"]"#, r#"[""]"#, r#"[["a"]]"#, r#"[["a", "b", "c"]]"#, "[1]", "7"] {
            assert!(read(json).unwrap_err().contains("merge"), "{json}");
        }
    }
}
