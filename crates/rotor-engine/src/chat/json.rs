//! transformers' `tojson`: Python's `json.dumps`, with its spaces, its escapes and its options.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use serde_json::Value as Json;

/// Widest indentation by a number; Python has no limit.
const MAX_INDENT: usize = 64;

/// The options of `json.dumps` that transformers' filter hands on.
struct Dumps {
    ensure_ascii: bool,
    /// What each level is indented by; `None` for a single line.
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// `value | tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`; arguments may be given by place too.
///
/// Other arguments are errors, and so is an undefined value.
pub(super) fn to_json(
    state: &mut State<'_, '_>,
    value: Value,
    arguments: Rest<Value>,
    options: Kwargs,
) -> Result<String, Error> {
    const NAMES: [&str; 4] = ["ensure_ascii", "indent", "separators", "sort_keys"];
    if arguments.len() > NAMES.len() {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let mut given: [Option<Value>; 4] = [const { None }; 4];
    for (place, name) in NAMES.into_iter().enumerate() {
        let by_name: Option<Value> = options.get(name)?;
        given[place] = arguments.get(place).cloned().or(by_name).filter(|value| !value.is_none());
    }
    options.assert_all_used()?;
    let [ensure_ascii, indent, separators, sort_keys] = given;
    let indent = indent.map(indentation).transpose()?;
    // Python leaves the space after the comma off where a line ends there.
    let mut item_separator = if indent.is_some() { "," } else { ", " }.to_owned();
    let mut key_separator = ": ".to_owned();
    if let Some(separators) = separators {
        let parts: Vec<Value> = separators.try_iter()?.collect();
        let [item, key] = parts.as_slice() else {
            return Err(invalid("tojson: separators are two strings"));
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        (item_separator, key_separator) =
            text(item).zip(text(key)).ok_or_else(|| invalid("tojson: separators are two strings"))?;
    }
    let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let (ensure_ascii, sort_keys) = (is_true(ensure_ascii), is_true(sort_keys));
    if value.is_undefined() {
        return Err(invalid("tojson: the value is undefined"));
    }
    let json = serde_json::to_value(&value)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, format!("tojson: {error}")))?;
    let mut text = String::new();
    let dumps = Dumps { ensure_ascii, indent, item_separator, key_separator, sort_keys };
    dumps.value(&json, 0, &mut text);
    // What a small template makes of a large value costs as much as writing it did.
    state.consume_fuel((text.len() / 64) as u64)?;
    Ok(text)
}

fn invalid(text: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, text)
}

/// Python takes a number of spaces, or the text itself.
fn indentation(value: Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    match value.kind() {
        ValueKind::Number | ValueKind::Bool => {
            let width = i64::try_from(value)?.max(0);
            let width = usize::try_from(width).ok().filter(|&width| width <= MAX_INDENT);
            width.map(|width| " ".repeat(width)).ok_or_else(|| invalid("tojson: indent is at most 64"))
        }
        _ => Err(invalid("tojson: indent is a number or a string")),
    }
}

impl Dumps {
    fn value(&self, value: &Json, depth: usize, text: &mut String) {
        match value {
            Json::Null => text.push_str("null"),
            Json::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
            Json::Number(number) => text.push_str(&python_number(number)),
            Json::String(string) => self.string(string, text),
            Json::Array(items) => {
                self.sequence(['[', ']'], items.iter(), depth, text, |item, text| self.value(item, depth + 1, text));
            }
            Json::Object(map) => {
                let mut entries: Vec<(&String, &Json)> = map.iter().collect();
                if self.sort_keys {
                    entries.sort_by_key(|&(key, _)| key);
                }
                self.sequence(['{', '}'], entries.into_iter(), depth, text, |(key, value), text| {
                    self.string(key, text);
                    text.push_str(&self.key_separator);
                    self.value(value, depth + 1, text);
                });
            }
        }
    }

    fn sequence<T>(
        &self,
        [open, close]: [char; 2],
        items: impl ExactSizeIterator<Item = T>,
        depth: usize,
        text: &mut String,
        mut write: impl FnMut(T, &mut String),
    ) {
        text.push(open);
        let is_empty = items.len() == 0;
        for (index, item) in items.enumerate() {
            if index > 0 {
                text.push_str(&self.item_separator);
            }
            self.line(depth + 1, text);
            write(item, text);
        }
        if !is_empty {
            self.line(depth, text);
        }
        text.push(close);
    }

    fn line(&self, depth: usize, text: &mut String) {
        if let Some(indent) = &self.indent {
            text.push('\n');
            text.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn string(&self, string: &str, text: &mut String) {
        text.push('"');
        for character in string.chars() {
            match character {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\u{8}' => text.push_str("\\b"),
                '\u{c}' => text.push_str("\\f"),
                '\0'..='\u{1f}' => text.push_str(&format!("\\u{:04x}", u32::from(character))),
                '\u{7f}'.. if self.ensure_ascii => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        text.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                character => text.push(character),
            }
        }
        text.push('"');
    }
}

/// A number as Python's `repr` writes it: `1e-07` and `1e+22` where others write `1e-7` and `1e22`.
fn python_number(number: &serde_json::Number) -> String {
    match number.as_f64().filter(|_| number.is_f64()) {
        Some(float) => super::python::float_repr(float),
        None => number.to_string(),
    }
}
