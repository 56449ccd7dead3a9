//! A model's text, taken apart as it comes: thinking, content, and calls of tools in the family's own form.
//!
//! Text is held back while it may be the beginning of a mark. The name of a call goes out as soon as it is complete and its
//! arguments as they are written, where the form is JSON; forms that are not are translated when the call is complete.

use serde_json::{Map, Value};

/// How a family writes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallForm {
    /// JSON objects with `name` and `arguments` (or `parameters`), or an array of such, between two marks.
    Json {
        /// What comes before.
        open: &'static str,
        /// What comes after.
        close: &'static str,
    },
    /// The whole answer is such an object, perhaps behind `<|python_tag|>`: Llama 3.
    Bare,
    /// `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`: Qwen 3.5.
    QwenXml,
    /// `<function name="NAME"><param name="KEY">VALUE</param></function>`: MiniCPM 5.
    MiniCpmXml,
    /// Python calls between `<|tool_call_start|>` and `<|tool_call_end|>`: MiniCPM 3 and 4.
    Python,
}

/// Qwen's form, which Falcon 3 uses with arrays, and which models without a form of their own are asked for.
pub(crate) const TAGGED: CallForm = CallForm::Json { open: "<tool_call>", close: "</tool_call>" };

impl CallForm {
    /// The form that a chat template shows to its model.
    pub(crate) fn of_template(template: &str) -> Option<CallForm> {
        if template.contains("<tool_call>") && template.contains("<function=") {
            return Some(CallForm::QwenXml);
        }
        let marks = [
            ("<tool_call>", TAGGED),
            ("<tool_calls>", CallForm::Json { open: "<tool_calls>", close: "</tool_calls>" }),
            ("<|tool_call_start|>", CallForm::Python),
            ("<function name=", CallForm::MiniCpmXml),
            ("<|python_tag|>", CallForm::Bare),
            ("\"parameters\":", CallForm::Bare),
        ];
        marks.into_iter().find(|(mark, _)| template.contains(mark)).map(|(_, form)| form)
    }

    fn marks(self) -> (&'static str, &'static str) {
        match self {
            CallForm::Json { open, close } => (open, close),
            CallForm::Bare => ("<|python_tag|>", "\u{0}"),
            CallForm::QwenXml => ("<tool_call>", "</tool_call>"),
            CallForm::MiniCpmXml => ("<function name=", "</function>"),
            CallForm::Python => ("<|tool_call_start|>", "<|tool_call_end|>"),
        }
    }
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Text for the reader.
    Content(String),
    /// A thinking part.
    Reasoning(String),
    /// A call begins.
    Call {
        /// Of how many it is which, from 0.
        index: usize,
        /// The tool.
        name: String,
    },
    /// A further piece of its arguments, JSON.
    Arguments {
        /// The call.
        index: usize,
        /// The piece.
        text: String,
    },
}

/// What is told apart in an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Splitting {
    /// Calls in this form, where tools were given.
    pub(crate) calls: Option<CallForm>,
    /// The marks of thinking.
    pub(crate) thinking: Option<(&'static str, &'static str)>,
    /// The prompt has begun to think already.
    pub(crate) begins_thinking: bool,
}

/// The marks of thinking that a template knows.
pub(crate) fn thinking_marks(template: &str) -> Option<(&'static str, &'static str)> {
    let marks = [("<think>", "</think>"), ("<|thought_start|>", "<|thought_end|>")];
    marks.into_iter().find(|(_, close)| template.contains(close))
}

/// Takes one answer apart.
#[derive(Clone, Debug)]
pub(crate) struct Splitter {
    splitting: Splitting,
    state: State,
    /// Text that is not decided.
    held: String,
    /// Calls so far.
    calls: usize,
    /// Bytes of a call's arguments that went out.
    sent: usize,
    named: bool,
    /// Something that is no white space has come.
    begun: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Content,
    Thinking,
    /// Between the marks of a call.
    Call,
    /// Behind a mark: white space belongs to it.
    AfterMark,
}

impl Splitter {
    pub(crate) fn new(splitting: Splitting) -> Splitter {
        let state =
            if splitting.begins_thinking && splitting.thinking.is_some() { State::Thinking } else { State::Content };
        Splitter { splitting, state, held: String::new(), calls: 0, sent: 0, named: false, begun: false }
    }

    /// How many calls there were.
    pub(crate) fn calls(&self) -> usize {
        self.calls
    }

    /// Whether what comes next belongs to a thinking part.
    pub(crate) fn is_thinking(&self) -> bool {
        self.state == State::Thinking
    }

    /// Takes the next piece of text.
    pub(crate) fn push(&mut self, text: &str, parts: &mut Vec<Part>) {
        self.held.push_str(text);
        while self.step(parts, false) {}
    }

    /// Gives out what was held: the text is over.
    pub(crate) fn finish(&mut self, parts: &mut Vec<Part>) {
        while self.step(parts, true) {}
        if self.state == State::Call {
            // A call that was cut off goes out as far as it is.
            self.call(parts, true);
            self.held.clear();
        }
    }

    /// Decides a piece of what is held; whether there may be another.
    fn step(&mut self, parts: &mut Vec<Part>, is_last: bool) -> bool {
        match self.state {
            State::Content | State::AfterMark => self.content(parts, is_last),
            State::Thinking => self.thinking(parts, is_last),
            State::Call => self.call(parts, is_last),
        }
    }

    fn content(&mut self, parts: &mut Vec<Part>, is_last: bool) -> bool {
        if self.state == State::AfterMark {
            let trimmed = self.held.trim_start().len();
            self.held.drain(..self.held.len() - trimmed);
            if self.held.is_empty() {
                return false;
            }
            self.state = State::Content;
        }
        // Thinking comes first or not at all.
        let think = self.splitting.thinking.filter(|_| !self.begun).map(|(open, _)| open);
        let form = self.splitting.calls;
        if form == Some(CallForm::Bare) && !self.begun && self.held.trim_start().starts_with('{') {
            self.state = State::Call;
            self.begun = true;
            return true;
        }
        let call = form.map(|form| form.marks().0);
        let marks = [(think, State::Thinking), (call, State::Call)];
        // What thinks has said nothing before.
        let opens = |at: usize, state: State| state != State::Thinking || self.held[..at].trim().is_empty();
        let found = marks.iter().filter_map(|&(mark, state)| {
            let at = self.held.find(mark?)?;
            opens(at, state).then_some((at, mark?, state))
        });
        let found = found.min_by_key(|(at, ..)| *at);
        if let Some((at, mark, state)) = found {
            let before: String = self.held.drain(..at).collect();
            // The name of MiniCPM's function stands within the mark.
            let keeps_mark = form == Some(CallForm::MiniCpmXml) && state == State::Call;
            self.held.drain(..if keeps_mark { 0 } else { mark.len() });
            self.emit(before.trim_end(), parts);
            (self.state, self.begun, self.sent, self.named) = (state, true, 0, false);
            return true;
        }
        let keep = if is_last {
            0
        } else {
            marks.iter().filter_map(|(mark, _)| Some(overlap(&self.held, (*mark)?))).max().unwrap_or(0)
        };
        // White space in front of a mark belongs to it.
        let certain = &self.held[..self.held.len() - keep];
        let certain =
            if is_last || (think.is_none() && call.is_none()) { certain.len() } else { certain.trim_end().len() };
        let text: String = self.held.drain(..certain).collect();
        self.emit(&text, parts);
        false
    }

    fn emit(&mut self, text: &str, parts: &mut Vec<Part>) {
        if text.is_empty() {
            return;
        }
        self.begun |= !text.trim().is_empty();
        parts.push(Part::Content(text.to_owned()));
    }

    fn thinking(&mut self, parts: &mut Vec<Part>, is_last: bool) -> bool {
        let Some((_, close)) = self.splitting.thinking else { return false };
        let end = self.held.find(close);
        let keep = if is_last { 0 } else { overlap(&self.held, close) };
        // White space in front of the mark belongs to it.
        let certain = &self.held[..end.unwrap_or(self.held.len() - keep)];
        let certain = if is_last && end.is_none() { certain.len() } else { certain.trim_end().len() };
        let text: String = self.held.drain(..certain).collect();
        if !text.is_empty() {
            parts.push(Part::Reasoning(text));
        }
        if end.is_some() {
            let behind = self.held.find(close).map_or(self.held.len(), |at| at + close.len());
            self.held.drain(..behind);
            self.state = State::AfterMark;
        }
        end.is_some()
    }

    fn call(&mut self, parts: &mut Vec<Part>, is_last: bool) -> bool {
        let Some(form) = self.splitting.calls else { return false };
        let (_, close) = form.marks();
        match form {
            CallForm::Json { .. } | CallForm::Bare => self.json_call(close, parts, is_last),
            CallForm::QwenXml | CallForm::MiniCpmXml | CallForm::Python => {
                let Some(end) = self.held.find(close) else { return false };
                let text: String = self.held.drain(..end + close.len()).collect();
                let calls = match form {
                    CallForm::QwenXml => qwen_calls(&text),
                    CallForm::MiniCpmXml => minicpm_calls(&text),
                    _ => python_calls(&text),
                };
                for (name, arguments) in calls {
                    let index = self.calls;
                    self.calls += 1;
                    parts.push(Part::Call { index, name });
                    parts.push(Part::Arguments { index, text: Value::Object(arguments).to_string() });
                }
                self.state = State::AfterMark;
                true
            }
        }
    }

    /// Objects of a name and arguments, one after the other, as far as they have come.
    fn json_call(&mut self, close: &str, parts: &mut Vec<Part>, is_last: bool) -> bool {
        let start = self
            .held
            .find(|c: char| !(c.is_whitespace() || matches!(c, '[' | ',' | ']' | ';')))
            .unwrap_or(self.held.len());
        let rest = &self.held[start..];
        if rest.starts_with(close) {
            self.held.drain(..start + close.len());
            self.state = State::AfterMark;
            return true;
        }
        if !rest.starts_with('{') {
            if rest.is_empty() || (!is_last && close.starts_with(rest)) {
                return false;
            }
            // No call at all: it was text.
            let text = std::mem::take(&mut self.held);
            self.emit(&text, parts);
            self.state = State::Content;
            return false;
        }
        let object = rest.to_owned();
        let scan = Scan::of(&object);
        if let (false, Some(name)) = (self.named, &scan.name) {
            parts.push(Part::Call { index: self.calls, name: name.clone() });
            self.named = true;
        }
        if self.named
            && let Some(arguments) = scan.arguments
            && arguments.len() > self.sent
        {
            parts.push(Part::Arguments { index: self.calls, text: arguments[self.sent..].to_owned() });
            self.sent = arguments.len();
        }
        let Some(end) = scan.end else { return false };
        if self.named {
            if self.sent == 0 {
                parts.push(Part::Arguments { index: self.calls, text: "{}".into() });
            }
            self.calls += 1;
        } else {
            self.emit(&object[..end], parts);
        }
        self.held.drain(..start + end);
        (self.sent, self.named) = (0, false);
        if close == "\u{0}" && self.held.trim().is_empty() {
            return false;
        }
        true
    }
}

/// Bytes at the end of a text that may be the beginning of a mark.
fn overlap(text: &str, mark: &str) -> usize {
    let longest = mark.len().min(text.len() + 1).saturating_sub(1);
    (1..=longest)
        .rev()
        .find(|&len| {
            text.is_char_boundary(text.len() - len) && mark.as_bytes().starts_with(&text.as_bytes()[text.len() - len..])
        })
        .unwrap_or(0)
}

/// What is known of a call's object that may be incomplete.
struct Scan<'a> {
    name: Option<String>,
    /// The text of the arguments, as far as they have come.
    arguments: Option<&'a str>,
    /// Where the object ends, if it does.
    end: Option<usize>,
}

impl<'a> Scan<'a> {
    fn of(text: &'a str) -> Scan<'a> {
        let mut scan = Scan { name: None, arguments: None, end: None };
        let bytes = text.as_bytes();
        let mut at = 1;
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'}' => {
                    scan.end = Some(at + 1);
                    break;
                }
                b'"' => {
                    let Some(key_end) = value_end(text, at) else { break };
                    let key = &text[at..key_end];
                    let Some(colon) = text[key_end..].find(|c: char| !c.is_whitespace()).map(|skip| key_end + skip)
                    else {
                        break;
                    };
                    let Some(skip) = text.get(colon + 1..).and_then(|rest| rest.find(|c: char| !c.is_whitespace()))
                    else {
                        break;
                    };
                    let value = colon + 1 + skip;
                    let end = value_end(text, value);
                    let raw = &text[value..end.unwrap_or(text.len())];
                    match key {
                        "\"name\"" if end.is_some() => scan.name = serde_json::from_str(raw).ok(),
                        "\"arguments\"" | "\"parameters\"" => scan.arguments = Some(raw),
                        _ => {}
                    }
                    let Some(end) = end else { break };
                    at = end;
                }
                _ => at += 1,
            }
        }
        scan
    }
}

/// Where the JSON value that begins at `start` ends, if it has come to its end.
fn value_end(text: &str, start: usize) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (at, byte) in text.bytes().enumerate().skip(start) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => {
                in_string = !in_string;
                if !in_string && depth == 0 {
                    return Some(at + 1);
                }
            }
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            b',' | b'}' | b']' if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

type Call = (String, Map<String, Value>);

/// A value written as text: JSON where it is such, else a string.
fn typed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

fn qwen_calls(text: &str) -> Vec<Call> {
    let calls = text.split("<function=").skip(1).filter_map(|call| {
        let (name, rest) = call.split_once('>')?;
        let parameters = rest.split("<parameter=").skip(1).filter_map(|parameter| {
            let (key, value) = parameter.split_once('>')?;
            let value = value.split("</parameter>").next()?;
            let value = value.strip_prefix('\n').unwrap_or(value);
            Some((key.to_owned(), typed(value.strip_suffix('\n').unwrap_or(value))))
        });
        Some((name.trim().to_owned(), parameters.collect()))
    });
    calls.collect()
}

fn minicpm_calls(text: &str) -> Vec<Call> {
    let calls = text.split("<function name=\"").skip(1).filter_map(|call| {
        let (name, rest) = call.split_once('"')?;
        let parameters = rest.split("<param name=\"").skip(1).filter_map(|parameter| {
            let (key, value) = parameter.split_once("\">")?;
            let value = match value.strip_prefix("<![CDATA[") {
                Some(data) => data.split("]]>").next()?,
                None => value.split("</param>").next()?,
            };
            Some((key.to_owned(), typed(value)))
        });
        Some((name.to_owned(), parameters.collect()))
    });
    calls.collect()
}

/// `f(a="x", b=[1, 2])`, one to a line, perhaps within a code block.
fn python_calls(text: &str) -> Vec<Call> {
    let calls = text.lines().filter_map(|line| {
        let (name, rest) = line.trim().split_once('(')?;
        let inner = rest.rfind(')').map(|end| &rest[..end])?;
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
        is_name.then(|| (name.to_owned(), python_arguments(inner)))
    });
    calls.collect()
}

fn python_arguments(text: &str) -> Map<String, Value> {
    let mut arguments = Map::new();
    let mut rest = text;
    while let Some((key, value)) = rest.split_once('=') {
        let end = python_value_end(value);
        arguments.insert(key.trim().trim_start_matches(',').trim().to_owned(), python_value(value[..end].trim()));
        rest = value.get(end..).unwrap_or("").trim_start_matches(',');
    }
    arguments
}

fn python_value_end(text: &str) -> usize {
    let (mut depth, mut quote, mut escaped) = (0usize, None, false);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{' | '(') => depth += 1,
            (None, ']' | '}' | ')') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => return at,
            _ => {}
        }
    }
    text.len()
}

fn python_value(text: &str) -> Value {
    match text {
        "True" => Value::Bool(true),
        "False" => Value::Bool(false),
        "None" => Value::Null,
        _ => match text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')) {
            Some(inner) => Value::from(inner.replace("\\'", "'")),
            None => typed(text),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// An answer taken apart, pieces of a kind joined: content, reasoning, calls.
    fn split(splitting: Splitting, text: &str, size: usize) -> (String, String, Vec<(String, String)>) {
        let mut splitter = Splitter::new(splitting);
        let mut parts = Vec::new();
        let chars: Vec<char> = text.chars().collect();
        for piece in chars.chunks(size) {
            splitter.push(&piece.iter().collect::<String>(), &mut parts);
        }
        splitter.finish(&mut parts);
        let (mut content, mut reasoning, mut calls) = (String::new(), String::new(), Vec::new());
        for part in parts {
            match part {
                Part::Content(text) => content.push_str(&text),
                Part::Reasoning(text) => reasoning.push_str(&text),
                Part::Call { index, name } => {
                    assert_eq!(index, calls.len(), "calls in order");
                    calls.push((name, String::new()));
                }
                Part::Arguments { index, text } => {
                    assert_eq!(index + 1, calls.len(), "arguments of the call at hand");
                    calls[index].1.push_str(&text);
                }
            }
        }
        (content, reasoning, calls)
    }

    fn everywhere(splitting: Splitting, text: &str, content: &str, reasoning: &str, calls: &[(&str, Value)]) {
        for size in 1..=text.chars().count() {
            let (found, thought, made) = split(splitting, text, size);
            assert_eq!((found.as_str(), thought.as_str()), (content, reasoning), "in pieces of {size}");
            let made: Vec<_> =
                made.iter().map(|(name, text)| (name.as_str(), serde_json::from_str(text).unwrap())).collect();
            assert_eq!(made, calls, "in pieces of {size}");
        }
    }

    #[test]
    fn text_without_marks_is_text() {
        everywhere(Splitting::default(), " a <b> {\"name\": 1} c ", " a <b> {\"name\": 1} c ", "", &[]);
        let calls = Splitting { calls: Some(TAGGED), thinking: Some(("<think>", "</think>")), begins_thinking: false };
        everywhere(calls, "1 < 2 <tool> ä <think>x", "1 < 2 <tool> ä <think>x", "", &[]);
    }

    #[test]
    fn qwen_thinks_talks_and_calls() {
        let splitting =
            Splitting { calls: Some(TAGGED), thinking: Some(("<think>", "</think>")), begins_thinking: false };
        let text = "<think>\nhm, a }\n</think>\n\nI look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}\\\"\", \"b\": [1]}}\n</tool_call>\n<tool_call>\n{\"arguments\": {}, \"name\": \"g\"}\n</tool_call>";
        everywhere(splitting, text, "I look.", "\nhm, a }", &[("f", json!({"a": "}\"", "b": [1]})), ("g", json!({}))]);
        let begun = Splitting { begins_thinking: true, calls: None, ..splitting };
        everywhere(begun, "so</think>\n\nyes", "yes", "so", &[]);
    }

    #[test]
    fn arguments_go_out_as_they_come() {
        let mut splitter = Splitter::new(Splitting { calls: Some(TAGGED), ..Splitting::default() });
        let mut parts = Vec::new();
        splitter.push("<tool_call>{\"name\": \"f\", \"arguments\": {\"a", &mut parts);
        assert_eq!(
            parts,
            [Part::Call { index: 0, name: "f".into() }, Part::Arguments { index: 0, text: "{\"a".into() }]
        );
        splitter.finish(&mut parts);
        assert_eq!(parts.len(), 2);
    }

    #[test]
    fn the_forms_of_the_families() {
        let with = |form| Splitting { calls: Some(form), ..Splitting::default() };
        let array = "<tool_call>\n[\n {\"name\": \"f\", \"arguments\": {\"a\": 1}},\n {\"name\": \"g\", \"arguments\": {}}]\n</tool_call>";
        everywhere(with(TAGGED), array, "", "", &[("f", json!({"a": 1})), ("g", json!({}))]);
        let bare = "{\"name\": \"f\", \"parameters\": {\"a\": true}}";
        everywhere(with(CallForm::Bare), bare, "", "", &[("f", json!({"a": true}))]);
        everywhere(with(CallForm::Bare), "Hello {x}", "Hello {x}", "", &[]);
        let xml = "ok\n<tool_call>\n<function=f>\n<parameter=a>\nx y\n</parameter>\n<parameter=b>\n3\n</parameter>\n</function>\n</tool_call>";
        everywhere(with(CallForm::QwenXml), xml, "ok", "", &[("f", json!({"a": "x y", "b": 3}))]);
        let minicpm =
            "<function name=\"f\"><param name=\"a\"><![CDATA[<x>]]></param><param name=\"b\">2</param></function>";
        everywhere(with(CallForm::MiniCpmXml), minicpm, "", "", &[("f", json!({"a": "<x>", "b": 2}))]);
        let python =
            "<|tool_call_start|>\n```python\nf(a=\"x, (y)\", b=[1, 2], c=True, d='it\\'s')\n```\n<|tool_call_end|>";
        everywhere(
            with(CallForm::Python),
            python,
            "",
            "",
            &[("f", json!({"a": "x, (y)", "b": [1, 2], "c": true, "d": "it's"}))],
        );
    }

    #[test]
    fn templates_tell_their_form() {
        assert_eq!(CallForm::of_template("{{ '<tool_call>' }}"), Some(TAGGED));
        assert_eq!(CallForm::of_template("<tool_call><function=x>"), Some(CallForm::QwenXml));
        assert_eq!(CallForm::of_template("{{ messages }}"), None);
        assert_eq!(thinking_marks("{% if '</think>' in content %}"), Some(("<think>", "</think>")));
    }
}
