//! Python's string, list and dict methods, and its `%`, for templates that call them.
//!
//! Templates are written for Jinja2, where a value has the methods of its Python type. What is here does what CPython does or
//! raises, as CPython does for a wrong argument: an argument that is ignored would change a prompt without a word. Methods
//! that change a value are missing because transformers' sandbox forbids them.

use minijinja::value::{Kwargs, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// The methods that minijinja's values do not have of themselves.
pub(super) fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        return string_method(state, text, value, name, args);
    }
    match (value.kind(), name) {
        (ValueKind::Seq, "index") => {
            let [wanted] = arguments(name, args, ["value"])?;
            let wanted = required(name, wanted)?;
            let place = value.try_iter()?.position(|item| item == wanted);
            place.map(Value::from).ok_or_else(|| invalid(format!("{wanted} is not in the list")))
        }
        (ValueKind::Seq | ValueKind::Map, "copy") => {
            let [] = arguments(name, args, [])?;
            Ok(value.clone())
        }
        (ValueKind::Number, "is_integer") => {
            let [] = arguments(name, args, [])?;
            Ok(f64::try_from(value.clone())?.fract().eq(&0.0).into())
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

fn string_method(
    state: &mut State<'_, '_>,
    text: &str,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match name {
        "upper" | "lower" | "capitalize" | "title" | "swapcase" => {
            let [] = arguments(name, args, [])?;
            Ok(recased(name, text).into())
        }
        "isspace" | "isdigit" | "isdecimal" | "isnumeric" | "isalpha" | "isalnum" | "isascii" | "islower"
        | "isupper" | "istitle" | "isidentifier" => {
            let [] = arguments(name, args, [])?;
            Ok(is(name, text)?.into())
        }
        "strip" | "lstrip" | "rstrip" => {
            let [characters] = arguments(name, args, ["chars"])?;
            Ok(stripped(name, text, string_or_none(name, characters)?.as_deref()).into())
        }
        "removeprefix" | "removesuffix" => {
            let [affix] = arguments(name, args, ["affix"])?;
            let affix = string(name, affix)?;
            let rest = if name == "removeprefix" { text.strip_prefix(&*affix) } else { text.strip_suffix(&*affix) };
            Ok(rest.unwrap_or(text).into())
        }
        "split" | "rsplit" => {
            let [separator, limit] = arguments(name, args, ["sep", "maxsplit"])?;
            let separator = string_or_none(name, separator)?;
            let limit = usize::try_from(integer_or(name, limit, -1)?).unwrap_or(usize::MAX);
            split(name == "rsplit", text, separator.as_deref(), limit)
        }
        "splitlines" => {
            let [keep_ends] = arguments(name, args, ["keepends"])?;
            Ok(lines(text, keep_ends.is_some_and(|keep| keep.is_true())).into_iter().collect())
        }
        "partition" | "rpartition" => {
            let [separator] = arguments(name, args, ["sep"])?;
            let separator = string(name, separator)?;
            partition(name == "rpartition", text, &separator)
        }
        "find" | "rfind" | "index" | "rindex" | "count" | "startswith" | "endswith" => search(text, name, args),
        "replace" => {
            let [old, new, count] = arguments(name, args, ["old", "new", "count"])?;
            let (old, new) = (string(name, old)?, string(name, new)?);
            let count = usize::try_from(integer_or(name, count, -1)?).unwrap_or(usize::MAX);
            let most = if old.is_empty() { text.len() + 1 } else { text.len() / old.len() }.min(count);
            charge(state, most.saturating_mul(new.len()))?;
            Ok(text.replacen(&*old, &new, count).into())
        }
        "join" => {
            let [items] = arguments(name, args, ["iterable"])?;
            join(state, text, &required(name, items)?)
        }
        "center" | "ljust" | "rjust" | "zfill" => {
            let [width, fill] = arguments(name, args, ["width", "fillchar"])?;
            let width = usize::try_from(integer(name, width)?).unwrap_or(0);
            justified(state, text, name, width, string_or_none(name, fill)?.as_deref())
        }
        "format" => {
            charge(state, widths(text))?;
            minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
        }
        "expandtabs" => {
            let [size] = arguments(name, args, ["tabsize"])?;
            let size = usize::try_from(integer_or(name, size, 8)?).unwrap_or(0);
            charge(state, text.matches('\t').count().saturating_mul(size))?;
            Ok(expanded_tabs(text, size).into())
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// The arguments in the order of `names`, each by place or by name.
fn arguments<const N: usize>(method: &str, args: &[Value], names: [&str; N]) -> Result<[Option<Value>; N], Error> {
    let (by_place, by_name) = match args.split_last() {
        Some((last, rest)) if last.is_kwargs() => (rest, Kwargs::try_from(last.clone())?),
        _ => (args, Kwargs::try_from(Value::UNDEFINED)?),
    };
    if by_place.len() > N {
        let given = by_place.len();
        return Err(Error::new(ErrorKind::TooManyArguments, format!("{method}() takes at most {N}, not {given}")));
    }
    let mut found = [const { None }; N];
    for (index, name) in names.into_iter().enumerate() {
        let named = if by_name.has(name) { by_name.get::<Option<Value>>(name)? } else { None };
        if named.is_some() && index < by_place.len() {
            return Err(invalid(format!("{method}() got {name} twice")));
        }
        found[index] = by_place.get(index).cloned().or(named);
    }
    by_name.assert_all_used()?;
    Ok(found)
}

fn invalid(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, text)
}

fn required(method: &str, argument: Option<Value>) -> Result<Value, Error> {
    argument.ok_or_else(|| Error::new(ErrorKind::MissingArgument, format!("{method}() takes another argument")))
}

fn string(method: &str, argument: Option<Value>) -> Result<String, Error> {
    let value = required(method, argument)?;
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| invalid(format!("{method}() takes a string, not {}", value.kind())))
}

fn string_or_none(method: &str, argument: Option<Value>) -> Result<Option<String>, Error> {
    match argument {
        Some(value) if !value.is_none() => string(method, Some(value)).map(Some),
        _ => Ok(None),
    }
}

fn integer(method: &str, argument: Option<Value>) -> Result<i64, Error> {
    let value = required(method, argument)?;
    if !value.is_integer() {
        return Err(invalid(format!("{method}() takes an integer, not {}", value.kind())));
    }
    i64::try_from(value)
}

fn integer_or(method: &str, argument: Option<Value>, default: i64) -> Result<i64, Error> {
    match argument {
        Some(value) => integer(method, Some(value)),
        None => Ok(default),
    }
}

/// Pays for text before it is made: what minijinja charges for, too.
fn charge(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel((bytes / 64) as u64)
}

/// What Python counts as white space.
fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}')
}

fn recased(name: &str, text: &str) -> String {
    match name {
        "upper" => text.to_uppercase(),
        "lower" => text.to_lowercase(),
        "swapcase" => {
            let mut result = String::with_capacity(text.len());
            for character in text.chars() {
                if character.is_uppercase() {
                    result.extend(character.to_lowercase());
                } else {
                    result.extend(character.to_uppercase());
                }
            }
            result
        }
        "capitalize" => {
            let mut characters = text.chars();
            characters.next().map_or_else(String::new, title_case) + &characters.as_str().to_lowercase()
        }
        _ => {
            let mut result = String::with_capacity(text.len());
            let mut in_word = false;
            for character in text.chars() {
                let is_letter = character.is_alphabetic();
                match (is_letter, in_word) {
                    (true, false) => result.push_str(&title_case(character)),
                    (true, true) => result.extend(character.to_lowercase()),
                    (false, _) => result.push(character),
                }
                in_word = is_letter;
            }
            result
        }
    }
}

/// A letter as it begins a word: of a capital of two letters only the first is large.
fn title_case(character: char) -> String {
    let mut upper = character.to_uppercase();
    upper.next().into_iter().chain(upper.flat_map(char::to_lowercase)).collect()
}

fn is(name: &str, text: &str) -> Result<bool, Error> {
    let all = |test: fn(char) -> bool| !text.is_empty() && text.chars().all(test);
    Ok(match name {
        "isspace" => all(is_space),
        "isnumeric" => all(char::is_numeric),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isascii" => text.is_ascii(),
        "islower" => text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase),
        "isupper" => text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase),
        "istitle" => text.chars().any(char::is_alphabetic) && recased("title", text) == text,
        "isidentifier" => {
            let mut characters = text.chars();
            characters.next().is_some_and(|first| first.is_alphabetic() || first == '_')
                && characters.all(|rest| rest.is_alphanumeric() || rest == '_')
        }
        _ => {
            // Which numerals are digits is in no table here.
            if let Some(numeral) = text.chars().find(|c| c.is_numeric() && !c.is_ascii()) {
                return Err(invalid(format!("{name}() knows the digits 0 to 9, not {numeral:?}")));
            }
            all(|character| character.is_ascii_digit())
        }
    })
}

fn stripped<'t>(name: &str, text: &'t str, characters: Option<&str>) -> &'t str {
    let strips = |c: char| characters.map_or_else(|| is_space(c), |characters| characters.contains(c));
    let text = if name == "rstrip" { text } else { text.trim_start_matches(strips) };
    if name == "lstrip" { text } else { text.trim_end_matches(strips) }
}

fn split(from_right: bool, text: &str, separator: Option<&str>, limit: usize) -> Result<Value, Error> {
    let most = limit.saturating_add(1);
    let mut parts: Vec<&str> = match separator {
        Some("") => return Err(invalid("split() takes a separator that is not empty")),
        Some(separator) if from_right => text.rsplitn(most, separator).collect(),
        Some(separator) => text.splitn(most, separator).collect(),
        None => words(from_right, text, limit),
    };
    if from_right {
        parts.reverse();
    }
    Ok(parts.into_iter().collect())
}

/// Runs without white space; once `limit` are split off, the rest as it is. From the right, the last one comes first.
fn words(from_right: bool, text: &str, limit: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = if from_right { text.trim_end_matches(is_space) } else { text.trim_start_matches(is_space) };
    while !rest.is_empty() {
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(at) = cut.filter(|_| parts.len() < limit) else {
            parts.push(if from_right { rest.trim_start_matches(is_space) } else { rest.trim_end_matches(is_space) });
            break;
        };
        if from_right {
            let space = rest[at..].chars().next().map_or(0, char::len_utf8);
            parts.push(&rest[at + space..]);
            rest = rest[..at].trim_end_matches(is_space);
        } else {
            parts.push(&rest[..at]);
            rest = rest[at..].trim_start_matches(is_space);
        }
    }
    parts
}

/// Python's lines end at more than `\n`.
fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let ends = |c: char| matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ends) {
        let end = if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(0, char::len_utf8) };
        lines.push(&rest[..if keep_ends { at + end } else { at }]);
        rest = &rest[at + end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

fn partition(from_right: bool, text: &str, separator: &str) -> Result<Value, Error> {
    if separator.is_empty() {
        return Err(invalid("partition() takes a separator that is not empty"));
    }
    let found = if from_right { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match found {
        Some((before, after)) => [before, separator, after],
        None if from_right => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

/// `find` and its like: what, and from where to where, in characters.
fn search(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let [what, start, end] = arguments(name, args, ["sub", "start", "end"])?;
    let what = required(name, what)?;
    let bound = |value: Option<Value>| match value {
        Some(value) if !value.is_none() => integer(name, Some(value)).map(Some),
        _ => Ok(None),
    };
    let length = text.chars().count();
    let place = |at: i64| {
        let at = if at < 0 { at.saturating_add_unsigned(length as u64) } else { at };
        usize::try_from(at).unwrap_or(0)
    };
    let start = bound(start)?.map_or(0, place);
    let end = bound(end)?.map_or(length, place).min(length);
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    // Where the start lies behind the end not even an empty string is found.
    let part = (start <= end).then(|| &text[byte(start)..byte(end)]);
    if let "startswith" | "endswith" = name {
        let matches = |affix: &str| {
            part.is_some_and(|part| if name == "startswith" { part.starts_with(affix) } else { part.ends_with(affix) })
        };
        if what.is_tuple() {
            let affixes: Vec<String> =
                what.try_iter()?.map(|affix| string(name, Some(affix))).collect::<Result<_, Error>>()?;
            return Ok(affixes.iter().any(|affix| matches(affix)).into());
        }
        return Ok(matches(&string(name, Some(what))?).into());
    }
    let what = string(name, Some(what))?;
    if name == "count" {
        let count = part.map_or(0, |part| if what.is_empty() { end - start + 1 } else { part.matches(&*what).count() });
        return Ok(count.into());
    }
    let from_right = name.starts_with('r');
    let found = part.and_then(|part| {
        let at = if from_right { part.rfind(&*what) } else { part.find(&*what) };
        at.map(|at| start + part[..at].chars().count())
    });
    match found {
        Some(at) => Ok(at.into()),
        None if name.ends_with("find") => Ok((-1).into()),
        None => Err(invalid(format!("{name}(): {what:?} is not in the string"))),
    }
}

fn join(state: &State<'_, '_>, separator: &str, items: &Value) -> Result<Value, Error> {
    let mut text = String::new();
    for (index, item) in items.try_iter()?.enumerate() {
        let Some(item) = item.as_str() else {
            return Err(invalid(format!("join() takes strings; item {index} is {}", item.kind())));
        };
        charge(state, separator.len() + item.len())?;
        if index > 0 {
            text.push_str(separator);
        }
        text.push_str(item);
    }
    Ok(text.into())
}

fn justified(state: &State<'_, '_>, text: &str, name: &str, width: usize, fill: Option<&str>) -> Result<Value, Error> {
    let fill = match (name, fill) {
        ("zfill", None) => '0',
        ("zfill", Some(_)) => return Err(Error::from(ErrorKind::TooManyArguments)),
        (_, None) => ' ',
        (_, Some(fill)) => {
            let mut characters = fill.chars();
            let single = characters.next().filter(|_| characters.next().is_none());
            single.ok_or_else(|| invalid(format!("{name}() fills with one character, not {fill:?}")))?
        }
    };
    let missing = width.saturating_sub(text.chars().count());
    charge(state, missing.saturating_mul(fill.len_utf8()))?;
    let filled = |count: usize| fill.to_string().repeat(count);
    Ok(match name {
        "ljust" => format!("{text}{}", filled(missing)),
        "rjust" => format!("{}{text}", filled(missing)),
        "zfill" => {
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            format!("{sign}{}{digits}", filled(missing))
        }
        _ => {
            // CPython puts the odd one on the left where the width is odd too.
            let left = missing / 2 + (missing & width & 1);
            format!("{}{text}{}", filled(left), filled(missing - left))
        }
    }
    .into())
}

/// All numbers within the braces of a format, added up: no field is padded to more than that.
fn widths(format: &str) -> usize {
    let (mut sum, mut number, mut depth) = (0usize, 0usize, 0usize);
    for character in format.chars() {
        match character.to_digit(10) {
            Some(digit) if depth > 0 => number = number.saturating_mul(10).saturating_add(digit as usize),
            _ => sum = sum.saturating_add(std::mem::take(&mut number)),
        }
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    sum
}

fn expanded_tabs(text: &str, size: usize) -> String {
    let mut result = String::new();
    let mut column = 0;
    for character in text.chars() {
        match character {
            '\t' if size > 0 => {
                let spaces = size - column % size;
                result.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            '\t' => {}
            character => {
                result.push(character);
                column = if matches!(character, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    result
}

/// `left % right`: a remainder for numbers, formatting for strings. [`super::source`] writes calls of it into templates.
pub(super) fn modulo(state: &mut State<'_, '_>, left: Value, right: Value) -> Result<Value, Error> {
    if let Some(format) = left.as_str() {
        return formatted(state, format, right);
    }
    let impossible = || invalid(format!("there is no % of {} and {}", left.kind(), right.kind()));
    let is_whole = |value: &Value| value.is_integer() || value.kind() == ValueKind::Bool;
    if is_whole(&left) && is_whole(&right) {
        let (left, right) = (i128::try_from(left.clone())?, i128::try_from(right.clone())?);
        let remainder = left.checked_rem(right).ok_or_else(|| invalid("a remainder of a division by zero"))?;
        let is_opposite = remainder != 0 && (remainder < 0) != (right < 0);
        return Ok(Value::from(if is_opposite { remainder + right } else { remainder }));
    }
    let number = |value: &Value| match value.kind() {
        ValueKind::Number | ValueKind::Bool => f64::try_from(value.clone()).ok(),
        _ => None,
    };
    let (Some(left), Some(right)) = (number(&left), number(&right)) else { return Err(impossible()) };
    if right == 0.0 {
        return Err(invalid("a remainder of a division by zero"));
    }
    let remainder = left % right;
    let is_opposite = remainder != 0.0 && (remainder < 0.0) != (right < 0.0);
    Ok(Value::from(if is_opposite { remainder + right } else { remainder }))
}

/// Python's printf-style formatting, by minijinja's filter of that kind.
fn formatted(state: &mut State<'_, '_>, format: &str, right: Value) -> Result<Value, Error> {
    let mut args = vec![Value::from(format)];
    let fields = fields(format);
    let is_mapping = right.kind() == ValueKind::Map;
    let given = if right.is_tuple() {
        args.extend(right.try_iter()?);
        args.len() - 1
    } else if is_mapping && format.contains("%(") {
        let pairs = right.try_iter()?.map(|key| {
            let value = right.get_item(&key)?;
            Ok((key.to_string(), value))
        });
        let pairs: Vec<(String, Value)> = pairs.collect::<Result<_, Error>>()?;
        args.push(pairs.into_iter().collect::<Kwargs>().into());
        fields
    } else {
        args.push(right);
        1
    };
    if given > fields && !is_mapping {
        return Err(invalid(format!("{format:?} formats {fields} values, but there are {given}")));
    }
    state.apply_filter("format", &args)
}

/// The number of values that a format takes.
fn fields(format: &str) -> usize {
    let mut count = 0;
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            continue;
        }
        count += 1;
        for character in characters.by_ref() {
            match character {
                '*' => count += 1,
                '%' => {
                    count -= 1;
                    break;
                }
                character if character.is_ascii_alphabetic() && !matches!(character, 'h' | 'l' | 'L') => break,
                _ => {}
            }
        }
    }
    count
}

/// Python's `repr` of a float: the shortest digits that come back, with an exponent from 1e16 on and below 1e-4.
pub(super) fn float_repr(float: f64) -> String {
    let scientific = format!("{float:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if float != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.unsigned_abs());
    }
    let plain = format!("{float}");
    if plain.contains('.') { plain } else { plain + ".0" }
}
