//! GGUF key-values as JSON that gives every value back with its type, bit for bit.
//!
//! A pair is `"key": {"u32": 30}`; the inner name is the type, `"string[]"` that of an array. A string that is not UTF-8 is
//! `{"hex": "ff00"}`, a number that is not finite `{"bits": 2143289344}`.

use super::metadata::{Array, Metadata, Strings, Value};
use crate::error::FormatError;
use serde_json::{Map, Value as Json, json};

/// As long as a key of a GGUF can be.
const LONGEST_KEY: usize = 65_535;

/// The pairs in order.
pub(crate) fn to_json(metadata: &Metadata) -> Json {
    Json::Object(metadata.iter().map(|(key, value)| (key.to_owned(), value_json(value))).collect())
}

fn value_json(value: &Value) -> Json {
    match value {
        Value::U8(v) => json!({ "u8": v }),
        Value::I8(v) => json!({ "i8": v }),
        Value::U16(v) => json!({ "u16": v }),
        Value::I16(v) => json!({ "i16": v }),
        Value::U32(v) => json!({ "u32": v }),
        Value::I32(v) => json!({ "i32": v }),
        Value::U64(v) => json!({ "u64": v }),
        Value::I64(v) => json!({ "i64": v }),
        Value::F32(v) => json!({ "f32": single(*v) }),
        Value::F64(v) => json!({ "f64": double(*v) }),
        Value::Bool(v) => json!({ "bool": v }),
        Value::String(v) => json!({ "string": text(v) }),
        Value::Array(array) => array_json(array),
    }
}

fn array_json(array: &Array) -> Json {
    match array {
        Array::U8(v) => json!({ "u8[]": v }),
        Array::I8(v) => json!({ "i8[]": v }),
        Array::U16(v) => json!({ "u16[]": v }),
        Array::I16(v) => json!({ "i16[]": v }),
        Array::U32(v) => json!({ "u32[]": v }),
        Array::I32(v) => json!({ "i32[]": v }),
        Array::U64(v) => json!({ "u64[]": v }),
        Array::I64(v) => json!({ "i64[]": v }),
        Array::F32(v) => json!({ "f32[]": v.iter().map(|&v| single(v)).collect::<Vec<_>>() }),
        Array::F64(v) => json!({ "f64[]": v.iter().map(|&v| double(v)).collect::<Vec<_>>() }),
        Array::Bool(v) => json!({ "bool[]": v }),
        Array::String(v) => json!({ "string[]": v.iter().map(text).collect::<Vec<_>>() }),
    }
}

fn single(value: f32) -> Json {
    if value.is_finite() { f64::from(value).into() } else { json!({ "bits": value.to_bits() }) }
}

fn double(value: f64) -> Json {
    if value.is_finite() { value.into() } else { json!({ "bits": value.to_bits() }) }
}

fn text(bytes: &[u8]) -> Json {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    }
}

/// The pairs that [`to_json`] wrote.
///
/// # Errors
///
/// [`FormatError::Invalid`], naming the key, for what it does not write.
pub(crate) fn from_json(pairs: Map<String, Json>) -> Result<Metadata, FormatError> {
    let mut metadata = Metadata::default();
    for (key, tagged) in pairs {
        if key.is_empty() || key.len() > LONGEST_KEY {
            let expected = format!("1 to {LONGEST_KEY} bytes, as a GGUF holds them");
            return Err(FormatError::invalid("metadata key", expected, key.len()));
        }
        let value = read_value(tagged).ok_or_else(|| {
            let expected = "one value beside the name of its type";
            FormatError::invalid(format!("metadata key {key}"), expected, "something else")
        })?;
        metadata.insert(key, value)?;
    }
    Ok(metadata)
}

fn read_value(tagged: Json) -> Option<Value> {
    let Json::Object(tagged) = tagged else { return None };
    let mut entries = tagged.into_iter();
    let (Some((kind, value)), None) = (entries.next(), entries.next()) else { return None };
    if let Some(kind) = kind.strip_suffix("[]") {
        let Json::Array(elements) = value else { return None };
        return read_array(kind, elements).map(Value::Array);
    }
    Some(match kind.as_str() {
        "u8" => Value::U8(whole(&value)?),
        "i8" => Value::I8(whole(&value)?),
        "u16" => Value::U16(whole(&value)?),
        "i16" => Value::I16(whole(&value)?),
        "u32" => Value::U32(whole(&value)?),
        "i32" => Value::I32(whole(&value)?),
        "u64" => Value::U64(whole(&value)?),
        "i64" => Value::I64(whole(&value)?),
        "f32" => Value::F32(read_single(&value)?),
        "f64" => Value::F64(read_double(&value)?),
        "bool" => Value::Bool(value.as_bool()?),
        "string" => Value::String(read_text(&value)?),
        _ => return None,
    })
}

fn read_array(kind: &str, elements: Vec<Json>) -> Option<Array> {
    fn all<T>(elements: &[Json], read: impl Fn(&Json) -> Option<T>) -> Option<Vec<T>> {
        elements.iter().map(read).collect()
    }
    let elements = elements.as_slice();
    Some(match kind {
        "u8" => Array::U8(all(elements, whole)?),
        "i8" => Array::I8(all(elements, whole)?),
        "u16" => Array::U16(all(elements, whole)?),
        "i16" => Array::I16(all(elements, whole)?),
        "u32" => Array::U32(all(elements, whole)?),
        "i32" => Array::I32(all(elements, whole)?),
        "u64" => Array::U64(all(elements, whole)?),
        "i64" => Array::I64(all(elements, whole)?),
        "f32" => Array::F32(all(elements, read_single)?),
        "f64" => Array::F64(all(elements, read_double)?),
        "bool" => Array::Bool(all(elements, Json::as_bool)?),
        "string" => {
            let mut strings = Strings::default();
            for element in elements {
                match element {
                    Json::String(text) => strings.push(text.as_bytes()),
                    other => strings.push(&read_text(other)?),
                }
            }
            Array::String(strings)
        }
        _ => return None,
    })
}

/// An integer that its type holds.
fn whole<T: TryFrom<u64> + TryFrom<i64>>(value: &Json) -> Option<T> {
    match (value.as_u64(), value.as_i64()) {
        (Some(value), _) => T::try_from(value).ok(),
        (None, Some(value)) => T::try_from(value).ok(),
        (None, None) => None,
    }
}

/// The f32 whose exact value was written.
fn read_single(value: &Json) -> Option<f32> {
    match value.get("bits") {
        Some(bits) => whole(bits).map(f32::from_bits),
        None => value.as_f64().map(|value| value as f32).filter(|value| value.is_finite()),
    }
}

fn read_double(value: &Json) -> Option<f64> {
    match value.get("bits") {
        Some(bits) => whole(bits).map(f64::from_bits),
        None => value.as_f64(),
    }
}

fn read_text(value: &Json) -> Option<Vec<u8>> {
    if let Json::String(text) = value {
        return Some(text.as_bytes().to_vec());
    }
    let digits = value.get("hex")?.as_str()?.as_bytes();
    let (pairs, rest) = digits.as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strings(values: &[Vec<u8>]) -> Value {
        let mut strings = Strings::default();
        values.iter().for_each(|value| strings.push(value));
        Value::Array(Array::String(strings))
    }

    /// Through text, as in a file.
    fn there_and_back(value: Value) -> Value {
        let mut metadata = Metadata::default();
        metadata.insert("k".into(), value).unwrap();
        let text = to_json(&metadata).to_string();
        let Json::Object(pairs) = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
        from_json(pairs).unwrap().get("k").unwrap().clone()
    }

    /// Values as their bits, since NaN is not equal to itself.
    fn bits(value: &Value) -> String {
        match value {
            Value::F32(v) => format!("f32 {:x}", v.to_bits()),
            Value::F64(v) => format!("f64 {:x}", v.to_bits()),
            Value::Array(Array::F32(v)) => format!("f32s {:?}", v.iter().map(|v| v.to_bits()).collect::<Vec<_>>()),
            Value::Array(Array::F64(v)) => format!("f64s {:?}", v.iter().map(|v| v.to_bits()).collect::<Vec<_>>()),
            other => format!("{other:?}"),
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..5);
        prop_oneof![
            any::<u8>().prop_map(Value::U8),
            any::<i8>().prop_map(Value::I8),
            any::<u16>().prop_map(Value::U16),
            any::<i16>().prop_map(Value::I16),
            any::<u32>().prop_map(Value::U32),
            any::<i32>().prop_map(Value::I32),
            any::<u64>().prop_map(Value::U64),
            any::<i64>().prop_map(Value::I64),
            any::<u32>().prop_map(|bits| Value::F32(f32::from_bits(bits))),
            any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits))),
            any::<bool>().prop_map(Value::Bool),
            bytes.clone().prop_map(Value::String),
            proptest::collection::vec(bytes, 0..4).prop_map(|values| strings(&values)),
            proptest::collection::vec(any::<i64>(), 0..4).prop_map(|v| Value::Array(Array::I64(v))),
            proptest::collection::vec(any::<u8>(), 0..4).prop_map(|v| Value::Array(Array::U8(v))),
            proptest::collection::vec(any::<bool>(), 0..4).prop_map(|v| Value::Array(Array::Bool(v))),
            proptest::collection::vec(any::<u32>(), 0..4)
                .prop_map(|v| Value::Array(Array::F32(v.into_iter().map(f32::from_bits).collect()))),
            proptest::collection::vec(any::<u64>(), 0..4)
                .prop_map(|v| Value::Array(Array::F64(v.into_iter().map(f64::from_bits).collect()))),
        ]
    }

    proptest! {
        #[test]
        fn every_value_comes_back_with_its_type_and_bits(value in any_value()) {
            prop_assert_eq!(bits(&there_and_back(value.clone())), bits(&value));
        }
    }

    #[test]
    fn what_was_not_written_by_this_is_refused() {
        for broken in [
            r#"{"k": 5}"#,
            r#"{"k": {}}"#,
            r#"{"k": {"u8": 256}}"#,
            r#"{"k": {"u8": -1}}"#,
            r#"{"k": {"u8": 1, "i8": 1}}"#,
            r#"{"k": {"f32": 1e300}}"#,
            r#"{"k": {"string": {"hex": "f"}}}"#,
            r#"{"k": {"string": {"hex": "zz"}}}"#,
            r#"{"k": {"string[]": "abc"}}"#,
            r#"{"k": {"array[]": []}}"#,
            r#"{"k": {"u128": 1}}"#,
        ] {
            let pairs = serde_json::from_str(broken).unwrap();
            let error = from_json(pairs).unwrap_err().to_string();
            assert!(error.starts_with("metadata key k: expected one value"), "{broken}: {error}");
        }
    }
}
