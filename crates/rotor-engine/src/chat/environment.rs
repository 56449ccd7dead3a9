//! Jinja as transformers sets it up for chat templates, with limits, as far as minijinja is not so already.
//!
//! `tests/data/jinja.json` holds what Jinja2 makes of some hundred templates; the tests hold every one of them against this
//! environment.

use super::{json, python, source, strftime};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, escape_formatter, filters};

/// Steps a template may take; minijinja also charges for the text it handles.
const FUEL: u64 = 10_000_000;
/// Nesting of macros, includes and blocks.
const RECURSION: usize = 64;

/// The environment that templates are compiled in.
pub(super) fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    environment.set_unknown_method_callback(python::method);
    environment.add_function(source::MODULO, python::modulo);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime::now);
    environment.add_filter("tojson", json::to_json);
    environment.add_filter("wordcount", word_count);
    environment.add_filter("center", center);
    environment.add_filter("truncate", truncate);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("int", |state: &State<'_, '_>, value: &Value, arguments: Rest<Value>, options: Kwargs| {
        let (default, options) = with_default(Value::from(0), &arguments, options)?;
        filters::int(
            state,
            value,
            Some(default),
            arguments.get(1).map(|base| u32::try_from(base.clone())).transpose()?,
            options,
        )
    });
    environment.add_filter("float", |state: &State<'_, '_>, value: &Value, arguments: Rest<Value>, options: Kwargs| {
        let (default, options) = with_default(Value::from(0.0), &arguments, options)?;
        filters::float(state, value, Some(default), options)
    });
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    environment.add_filter("attr", attr);
    environment.add_test("sequence", is_sequence);
    environment.set_formatter(|output, state, value| match value.kind() {
        ValueKind::Number if !value.is_integer() => {
            output.write_str(&python::float_repr(f64::try_from(value.clone())?)).map_err(Error::from)
        }
        _ => escape_formatter(output, state, value),
    });
    Ok(environment)
}

/// `value | default(default_value='', boolean=False)`.
fn default(value: &Value, arguments: Rest<Value>, options: Kwargs) -> Result<Value, Error> {
    if arguments.len() > 2 {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let by_name: Option<Value> = options.get("default_value")?;
    let other = arguments.first().cloned().or(by_name).unwrap_or_else(|| Value::from(""));
    let by_name: Option<Value> = options.get("boolean")?;
    options.assert_all_used()?;
    let replaces_false = arguments.get(1).cloned().or(by_name).is_some_and(|flag| flag.is_true());
    Ok(if value.is_undefined() || (replaces_false && !value.is_true()) { other } else { value.clone() })
}

/// The default of `int` and `float`, which is 0 in Jinja2, and the arguments that are left.
fn with_default(zero: Value, arguments: &[Value], options: Kwargs) -> Result<(Value, Kwargs), Error> {
    let by_name: Option<Value> = options.get("default")?;
    let rest = options.args().filter(|&name| name != "default");
    let rest: Vec<(String, Value)> =
        rest.map(|name| Ok((name.to_owned(), options.peek(name)?))).collect::<Result<_, Error>>()?;
    Ok((arguments.first().cloned().or(by_name).unwrap_or(zero), rest.into_iter().collect()))
}

/// HTML escapes as MarkupSafe writes them.
fn escape(value: &Value) -> String {
    let text = value.to_string();
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&#34;").replace('\'', "&#39;")
}

/// Jinja2's filter sees attributes of Python objects, which nothing here is.
fn attr(_value: &Value, name: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("the filter attr({name:?}) is not supported")))
}

/// What has a length and items is a sequence to Jinja2: strings and dicts too.
fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Words as Python's `\w+` finds them.
fn word_count(text: &str) -> usize {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).count()
}

/// `value | center(width=80)`.
fn center(state: &mut State<'_, '_>, value: &Value, width: Option<i64>) -> Result<Value, Error> {
    value.call_method(state, "center", &[Value::from(width.unwrap_or(80))])
}

/// `value | truncate(length=255, killwords=False, end='...', leeway=5)`; arguments may be given by place too.
fn truncate(state: &mut State<'_, '_>, value: &Value, arguments: Rest<Value>, options: Kwargs) -> Result<Value, Error> {
    const NAMES: [&str; 4] = ["length", "killwords", "end", "leeway"];
    if arguments.len() > NAMES.len() {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let mut by_name: Vec<(&str, Value)> = Vec::new();
    for name in options.args() {
        by_name.push((name, options.peek(name)?));
    }
    by_name.extend(NAMES.into_iter().zip(arguments.iter().cloned()));
    let options: Kwargs = by_name.into_iter().collect();
    minijinja_contrib::filters::truncate(state, value, options)
}
