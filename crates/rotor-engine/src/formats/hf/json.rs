//! Reading JSON objects whose fields may be absent, null, or of another type than expected.

use super::super::metadata::differs_by_layer;
use crate::error::FormatError;
use serde_json::{Map, Value};

/// An object and what it is called in messages.
#[derive(Clone, Debug)]
pub(crate) struct Object<'a> {
    pub(crate) map: &'a Map<String, Value>,
    pub(crate) what: String,
}

impl<'a> Object<'a> {
    pub(crate) fn new(map: &'a Map<String, Value>, what: impl Into<String>) -> Self {
        Self { map, what: what.into() }
    }

    /// A field; null counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn cast<T>(
        &self,
        key: &str,
        expected: &'static str,
        cast: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, FormatError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match cast(value) {
            Some(cast) => Ok(Some(cast)),
            None => Err(FormatError::invalid(format!("{key} in {}", self.what), expected, preview(value))),
        }
    }

    /// A count; `30.0` is one too, and so is a list of counts, one for each layer, that are all the same.
    pub(crate) fn usize(&self, key: &str) -> Result<Option<usize>, FormatError> {
        let counts = |value: &Value| value.as_array()?.iter().map(count).collect::<Option<Vec<_>>>();
        match self.get(key).and_then(counts).as_deref() {
            Some(&[first, ref others @ ..]) if others.iter().all(|&other| other == first) => Ok(Some(first)),
            Some(counts @ [_, ..]) => Err(differs_by_layer(&format!("{key} in {}", self.what), counts)),
            _ => self.cast(key, "a whole number that is not negative", count),
        }
    }

    /// A count that must be there.
    pub(crate) fn require_usize(&self, key: &str) -> Result<usize, FormatError> {
        self.usize(key)?.ok_or_else(|| self.missing(key))
    }

    /// The error for a field that has to be there.
    pub(crate) fn missing(&self, key: &str) -> FormatError {
        FormatError::missing(format!("{key} in {}", self.what))
    }

    /// A finite number.
    pub(crate) fn f32(&self, key: &str) -> Result<Option<f32>, FormatError> {
        self.cast(key, "a finite number", |value| value.as_f64().map(|v| v as f32).filter(|v| v.is_finite()))
    }

    /// A finite number that f32 would round.
    pub(crate) fn f64(&self, key: &str) -> Result<Option<f64>, FormatError> {
        self.cast(key, "a finite number", |value| value.as_f64().filter(|v| v.is_finite()))
    }

    /// A list of finite numbers.
    pub(crate) fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>, FormatError> {
        let number = |value: &Value| value.as_f64().map(|v| v as f32).filter(|v| v.is_finite());
        self.cast(key, "a list of finite numbers", |value| value.as_array()?.iter().map(number).collect())
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, FormatError> {
        self.cast(key, "true or false", Value::as_bool)
    }

    pub(crate) fn str(&self, key: &str) -> Result<Option<&'a str>, FormatError> {
        self.cast(key, "text", Value::as_str)
    }

    pub(crate) fn object(&self, key: &str) -> Result<Option<Object<'a>>, FormatError> {
        let map = self.cast(key, "an object", Value::as_object)?;
        Ok(map.map(|map| Object::new(map, format!("{key} of {}", self.what))))
    }

    /// A list of texts.
    pub(crate) fn strings(&self, key: &str) -> Result<Option<Vec<&'a str>>, FormatError> {
        self.cast(key, "a list of texts", |value| value.as_array()?.iter().map(Value::as_str).collect())
    }

    /// A token id or a list of them. What is no id is left out, with a sentence among the warnings.
    pub(super) fn ids(&self, key: &str, warnings: &mut Vec<String>) -> Vec<u32> {
        let values = match self.map.get(key) {
            None | Some(Value::Null) => &[],
            Some(Value::Array(ids)) => ids.as_slice(),
            Some(single) => std::slice::from_ref(single),
        };
        let id = |value: &Value| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            if id.is_none() {
                let value = preview(value);
                warnings.push(format!("{key} in {} is {value}, which is no token id: it is left out", self.what));
            }
            id
        };
        values.iter().filter_map(id).collect()
    }
}

/// A whole number that is not negative, written as an integer or as a float.
fn count(value: &Value) -> Option<usize> {
    let exact = value.as_u64().or_else(|| {
        let float = value.as_f64()?;
        // Below 2^53 every whole f64 is the integer it shows.
        (float.fract() == 0.0 && (0.0..9e15).contains(&float)).then_some(float as u64)
    })?;
    usize::try_from(exact).ok()
}

/// The value for people, cut after 60 characters.
fn preview(value: &Value) -> String {
    let text = value.to_string();
    let cut: String = text.chars().take(60).collect();
    if cut.len() < text.len() { cut + "..." } else { cut }
}
