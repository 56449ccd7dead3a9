//! GGUF metadata: typed values, and the one place that turns them into the numbers the program wants.
//!
//! Converters do not agree on widths: a count may come as u32, i32, u64 or even f32. Every reader here accepts whatever
//! holds the value without loss and names the key where it does not.

use crate::error::FormatError;
use std::collections::HashMap;

/// A metadata value, as typed in the file.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the variants are the types they hold")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    /// Usually UTF-8, not always.
    String(Vec<u8>),
    Array(Array),
}

/// An array of values of one type. Arrays do not nest.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the variants are the types they hold")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Strings),
}

/// Byte strings in one allocation: a vocabulary has a few hundred thousand of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strings {
    text: Vec<u8>,
    /// Where each string ends in `text`.
    ends: Vec<usize>,
}

impl Strings {
    /// Appends a string.
    pub fn push(&mut self, string: &[u8]) {
        self.text.extend_from_slice(string);
        self.ends.push(self.text.len());
    }

    /// How many strings there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.ends.iter().enumerate().map(|(i, &end)| {
            let start = i.checked_sub(1).map_or(0, |before| self.ends[before]);
            &self.text[start..end]
        })
    }
}

impl<S: AsRef<[u8]>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let mut all = Self::default();
        strings.into_iter().for_each(|string| all.push(string.as_ref()));
        all
    }
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Array::U8(v) => v.len(),
            Array::I8(v) => v.len(),
            Array::U16(v) => v.len(),
            Array::I16(v) => v.len(),
            Array::U32(v) => v.len(),
            Array::I32(v) => v.len(),
            Array::U64(v) => v.len(),
            Array::I64(v) => v.len(),
            Array::F32(v) => v.len(),
            Array::F64(v) => v.len(),
            Array::Bool(v) => v.len(),
            Array::String(v) => v.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element `index` as a value of its own.
    pub fn get(&self, index: usize) -> Option<Value> {
        Some(match self {
            Array::U8(v) => Value::U8(*v.get(index)?),
            Array::I8(v) => Value::I8(*v.get(index)?),
            Array::U16(v) => Value::U16(*v.get(index)?),
            Array::I16(v) => Value::I16(*v.get(index)?),
            Array::U32(v) => Value::U32(*v.get(index)?),
            Array::I32(v) => Value::I32(*v.get(index)?),
            Array::U64(v) => Value::U64(*v.get(index)?),
            Array::I64(v) => Value::I64(*v.get(index)?),
            Array::F32(v) => Value::F32(*v.get(index)?),
            Array::F64(v) => Value::F64(*v.get(index)?),
            Array::Bool(v) => Value::Bool(*v.get(index)?),
            Array::String(v) => Value::String(v.iter().nth(index)?.to_vec()),
        })
    }
}

impl Value {
    /// The value for people: arrays as their length, strings cut after 60 characters.
    pub fn preview(&self) -> String {
        match self {
            Value::U8(v) => v.to_string(),
            Value::I8(v) => v.to_string(),
            Value::U16(v) => v.to_string(),
            Value::I16(v) => v.to_string(),
            Value::U32(v) => v.to_string(),
            Value::I32(v) => v.to_string(),
            Value::U64(v) => v.to_string(),
            Value::I64(v) => v.to_string(),
            Value::F32(v) => v.to_string(),
            Value::F64(v) => v.to_string(),
            Value::Bool(v) => v.to_string(),
            Value::String(v) => {
                let text = String::from_utf8_lossy(v);
                let cut: String = text.chars().take(60).collect();
                if cut.len() < text.len() { format!("{cut:?}...") } else { format!("{cut:?}") }
            }
            Value::Array(v) => format!("array of {}", v.len()),
        }
    }

    /// The value as an integer, if that loses nothing.
    pub fn as_i128(&self) -> Option<i128> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::I8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::I16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::I32(v) => Some(v.into()),
            Value::U64(v) => Some(v.into()),
            Value::I64(v) => Some(v.into()),
            Value::F32(v) => integral(v.into()),
            Value::F64(v) => integral(v),
            Value::Bool(_) | Value::String(_) | Value::Array(_) => None,
        }
    }

    /// The value as a count, if that loses nothing.
    pub fn as_usize(&self) -> Option<usize> {
        usize::try_from(self.as_i128()?).ok()
    }

    /// The value as the nearest f32, if it is a finite number.
    pub fn as_f32(&self) -> Option<f32> {
        let value = match *self {
            Value::F32(v) => v,
            Value::F64(v) => v as f32,
            _ => self.as_i128()? as f32,
        };
        value.is_finite().then_some(value)
    }

    /// The value as a truth value: a bool, or the integer 0 or 1.
    pub fn as_bool(&self) -> Option<bool> {
        match (self, self.as_i128()) {
            (&Value::Bool(v), _) => Some(v),
            (_, Some(0)) => Some(false),
            (_, Some(1)) => Some(true),
            _ => None,
        }
    }

    /// The value as text, if it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(v) => std::str::from_utf8(v).ok(),
            _ => None,
        }
    }
}

/// A float without fraction, within the range where f64 holds every integer.
fn integral(value: f64) -> Option<i128> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    (value.fract() == 0.0 && value.abs() <= EXACT).then_some(value as i128)
}

/// The key-value pairs of a GGUF file in file order; keys are unique.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    by_key: HashMap<String, usize>,
}

impl Metadata {
    /// Appends a pair.
    ///
    /// # Errors
    ///
    /// [`FormatError::Duplicate`] if the key is there already.
    pub fn insert(&mut self, key: String, value: Value) -> Result<(), FormatError> {
        if self.by_key.contains_key(&key) {
            return Err(FormatError::Duplicate { what: "metadata key", name: key });
        }
        self.by_key.insert(key.clone(), self.entries.len());
        self.entries.push((key, value));
        Ok(())
    }

    /// Sets a key, in its place if it is there.
    pub fn set(&mut self, key: &str, value: Value) {
        match self.by_key.get(key) {
            Some(&index) => self.entries[index].1 = value,
            None => {
                self.by_key.insert(key.to_owned(), self.entries.len());
                self.entries.push((key.to_owned(), value));
            }
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.by_key.get(key).map(|&index| &self.entries[index].1)
    }

    /// All pairs in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Reads `key` with `cast`, or says what it should have been.
    fn cast<T>(
        &self,
        key: &str,
        expected: &'static str,
        cast: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, FormatError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match cast(value) {
            Some(cast) => Ok(Some(cast)),
            None => Err(FormatError::invalid(format!("metadata key {key}"), expected, value.preview())),
        }
    }

    /// A count. An array whose elements are all equal counts as one value: some converters write one per layer.
    ///
    /// # Errors
    ///
    /// [`FormatError::Unsupported`] for counts that differ by layer, [`FormatError::Invalid`] for what is no count.
    pub fn usize(&self, key: &str) -> Result<Option<usize>, FormatError> {
        if let Some(Value::Array(array)) = self.get(key)
            && let Some(counts) = (0..array.len()).map(|i| array.get(i)?.as_usize()).collect::<Option<Vec<_>>>()
            && counts.iter().any(|count| Some(count) != counts.first())
        {
            return Err(differs_by_layer(&format!("metadata key {key}"), &counts));
        }
        self.cast(key, "a whole number that is not negative", |value| match value {
            Value::Array(array) => {
                let first = array.get(0)?.as_usize()?;
                (1..array.len()).all(|i| array.get(i).and_then(|v| v.as_usize()) == Some(first)).then_some(first)
            }
            single => single.as_usize(),
        })
    }

    /// A count that must be there.
    pub fn require_usize(&self, key: &str) -> Result<usize, FormatError> {
        self.usize(key)?.ok_or_else(|| FormatError::missing(format!("metadata key {key}")))
    }

    /// A finite number.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, FormatError> {
        self.cast(key, "a finite number", Value::as_f32)
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, FormatError> {
        self.cast(key, "true or false", Value::as_bool)
    }

    /// Text.
    pub fn str(&self, key: &str) -> Result<Option<&str>, FormatError> {
        if let Some(value) = self.get(key)
            && value.as_str().is_none()
        {
            return Err(FormatError::invalid(format!("metadata key {key}"), "UTF-8 text", value.preview()));
        }
        Ok(self.get(key).and_then(Value::as_str))
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<&Strings>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::String(strings))) => Ok(Some(strings)),
            Some(other) => {
                Err(FormatError::invalid(format!("metadata key {key}"), "an array of strings", other.preview()))
            }
        }
    }

    /// Every element of an array, cast one by one; `None` where the key is absent.
    pub fn array<T>(
        &self,
        key: &str,
        expected: &'static str,
        cast: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, FormatError> {
        self.cast(key, expected, |value| match value {
            // Strings cost a walk each; no caller wants them element by element.
            Value::Array(Array::String(_)) => None,
            Value::Array(array) => (0..array.len()).map(|i| cast(&array.get(i)?)).collect(),
            _ => None,
        })
    }
}

/// The error for a hyper-parameter with a value for each layer.
pub(super) fn differs_by_layer(what: &str, counts: &[usize]) -> FormatError {
    const SHOWN: usize = 8;
    let shown: Vec<String> = counts.iter().take(SHOWN).map(usize::to_string).collect();
    let more = if counts.len() > SHOWN { ", ..." } else { "" };
    let what = format!("{what} = [{}{more}], which differs by layer,", shown.join(", "));
    FormatError::unsupported(what, "every layer has the same shape here")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(value: Value) -> Metadata {
        let mut metadata = Metadata::default();
        metadata.insert("k".into(), value).unwrap();
        metadata
    }

    #[test]
    fn a_count_is_read_from_any_type_that_holds_it() {
        for value in [
            Value::U8(30),
            Value::I8(30),
            Value::U16(30),
            Value::I16(30),
            Value::U32(30),
            Value::I32(30),
            Value::U64(30),
            Value::I64(30),
            Value::F32(30.0),
            Value::F64(30.0),
            Value::Array(Array::I32(vec![30, 30, 30])),
        ] {
            assert_eq!(metadata(value.clone()).usize("k").unwrap(), Some(30), "{value:?}");
        }
    }

    #[test]
    fn a_count_that_would_lose_something_is_an_error() {
        for value in [
            Value::I32(-1),
            Value::F32(1.5),
            Value::F64(f64::NAN),
            Value::F64(f64::INFINITY),
            Value::F64(1e300),
            Value::Bool(true),
            Value::String(b"30".to_vec()),
            Value::Array(Array::U32(vec![])),
            Value::Array(Array::String(Strings::default())),
        ] {
            let error = metadata(value.clone()).usize("k").unwrap_err().to_string();
            assert!(error.starts_with("metadata key k: expected a whole number"), "{value:?}: {error}");
        }
    }

    #[test]
    fn counts_that_differ_by_layer_are_told_from_what_is_no_count() {
        let error = metadata(Value::Array(Array::U32(vec![4, 4, 2]))).usize("k").unwrap_err().to_string();
        let expected =
            "metadata key k = [4, 4, 2], which differs by layer, is not supported: every layer has the same shape here";
        assert_eq!(error, expected);
        let many = metadata(Value::Array(Array::U16((0..40).collect()))).usize("k").unwrap_err().to_string();
        assert!(many.contains("= [0, 1, 2, 3, 4, 5, 6, 7, ...], which differs by layer"), "{many}");
    }

    #[test]
    fn floats_bools_and_text_are_read_leniently_and_checked() {
        assert_eq!(metadata(Value::U32(500_000)).f32("k").unwrap(), Some(5e5));
        assert_eq!(metadata(Value::F64(1e-5)).f32("k").unwrap(), Some(1e-5));
        assert!(metadata(Value::F32(f32::NAN)).f32("k").is_err());
        assert!(metadata(Value::F64(1e300)).f32("k").is_err());
        assert_eq!(metadata(Value::U8(1)).bool("k").unwrap(), Some(true));
        assert!(metadata(Value::U8(2)).bool("k").is_err());
        assert_eq!(metadata(Value::String(b"llama".to_vec())).str("k").unwrap(), Some("llama"));
        assert!(metadata(Value::String(vec![0xff])).str("k").is_err());
        assert!(metadata(Value::U8(2)).str("k").is_err());
        assert_eq!(metadata(Value::U8(2)).str("absent").unwrap(), None);
    }

    #[test]
    fn strings_keep_their_bounds() {
        let mut strings = Strings::default();
        for s in [&b"a"[..], b"", b"\xff\x00", b"bc"] {
            strings.push(s);
        }
        assert_eq!(strings.iter().collect::<Vec<_>>(), [&b"a"[..], b"", b"\xff\x00", b"bc"]);
    }

    #[test]
    fn a_key_occurs_once() {
        let error = metadata(Value::U8(1)).insert("k".into(), Value::U8(2)).unwrap_err();
        assert_eq!(error.to_string(), "metadata key \"k\" occurs twice");
    }
}
