//! A template's source, made ready for minijinja.
//!
//! Three things that Jinja2 does and minijinja does not are done to the text before it is compiled: line ends become `\n`;
//! `{% generation %}` blocks, with which transformers marks text for training, become blocks that do nothing; and `a % b`
//! becomes a call, because minijinja's `%` knows numbers only and Python's formats strings too. All of it looks at tags
//! alone: text, comments, raw blocks and string literals stay as they are, and no line is added, so errors name the right one.

/// What `a % b` is called. No template has a name like it.
pub(super) const MODULO: &str = "python_modulo";

/// The source as minijinja is to see it. What cannot be understood stays, for minijinja to refuse.
pub(super) fn prepared(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut result = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(start) = rest.find('{') {
        let (before, tag) = rest.split_at(start);
        result.push_str(before);
        let end = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map_or(tag.len(), |end| end + 2),
            Some(b'{') => expression(tag, "}}", &mut result),
            Some(b'%') => statement(tag, &mut result),
            _ => 1,
        };
        if !matches!(tag.as_bytes().get(1), Some(b'{' | b'%')) {
            result.push_str(&tag[..end]);
        }
        rest = &tag[end..];
    }
    result.push_str(rest);
    result
}

/// Writes the statement at the beginning of `text`, with all that a raw block holds; returns its length.
fn statement(text: &str, result: &mut String) -> usize {
    let word = text[2..].trim_start_matches(['-', '+']).trim_start();
    let name: &str = &word[..word.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(word.len())];
    match name {
        "raw" => {
            let end = end_of_raw(text);
            let (tag, held) = text[..end].split_at(text.find("%}").map_or(end, |end| end + 2));
            result.push_str(tag);
            // minijinja takes a line end behind this tag for the tag's, Jinja2 for the text's.
            if !tag.ends_with("-%}") && held.starts_with('\n') {
                result.push('\n');
            }
            result.push_str(held);
            end
        }
        "generation" | "endgeneration" => {
            let end = text.find("%}").map_or(text.len(), |end| end + 2);
            let replacement = if name == "generation" { "if true" } else { "endif" };
            result.push_str(&text[..end].replacen(name, replacement, 1));
            end
        }
        _ => expression(text, "%}", result),
    }
}

/// The length of a raw block with its two tags.
fn end_of_raw(text: &str) -> usize {
    let mut at = 2;
    while let Some(next) = text[at..].find("{%") {
        at += next + 2;
        let inside = text[at..].trim_start_matches(['-', '+']).trim_start();
        if inside.starts_with("endraw") {
            return text[at..].find("%}").map_or(text.len(), |end| at + end + 2);
        }
    }
    text.len()
}

/// Writes the tag at the beginning of `text`, which ends in `close`; returns its length.
fn expression(text: &str, close: &str, result: &mut String) -> usize {
    let mut rewriter = Rewriter::new(&text[..2]);
    let mut at = 2;
    while at < text.len() {
        let rest = &text[at..];
        // A minus sign in front of the end belongs to it.
        if rewriter.levels.len() == 1 && rest.trim_start_matches(['-', '+']).starts_with(close) {
            let end = rest.find(close).map_or(text.len(), |end| at + end + close.len());
            rewriter.boundary(&text[at..end]);
            result.push_str(&rewriter.out);
            return end;
        }
        let length = token(rest);
        rewriter.token(&rest[..length]);
        at += length;
    }
    // Without an end: minijinja says so.
    result.push_str(text);
    text.len()
}

/// The length of the token that `text`, which is not empty, begins with.
fn token(text: &str) -> usize {
    let first = text.chars().next().unwrap_or_default();
    if matches!(first, '\'' | '"') {
        let mut escaped = false;
        for (at, character) in text.char_indices().skip(1) {
            match character {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                character if character == first => return at + 1,
                _ => {}
            }
        }
        return text.len();
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    if is_word(first) {
        return text.find(|c| !is_word(c)).unwrap_or(text.len());
    }
    if first.is_whitespace() {
        return text.find(|c: char| !c.is_whitespace()).unwrap_or(text.len());
    }
    let double = ["**", "//", "==", "!=", "<=", ">="].iter().any(|operator| text.starts_with(operator));
    if double { 2 } else { first.len_utf8() }
}

/// Names that end an operand where they do not follow a dot.
const KEYWORDS: [&str; 12] = ["and", "or", "not", "in", "is", "if", "else", "elif", "for", "set", "recursive", "call"];

/// A bracket that is open, or the tag itself.
#[derive(Default)]
struct Level {
    /// Where the factors at hand began, in the output. `%` binds as tightly as `*` and takes all of them, from the left.
    factors: Option<usize>,
    /// A call of [`MODULO`] waits for its closing parenthesis.
    open: bool,
}

struct Rewriter {
    out: String,
    levels: Vec<Level>,
    after_dot: bool,
    /// What came last is a value, so a sign that follows is an operator.
    after_value: bool,
}

impl Rewriter {
    fn new(open: &str) -> Self {
        Rewriter { out: open.to_owned(), levels: vec![Level::default()], after_dot: false, after_value: false }
    }

    fn token(&mut self, token: &str) {
        let first = token.chars().next().unwrap_or_default();
        if first.is_whitespace() {
            self.out.push_str(token);
            return;
        }
        let is_name = first.is_alphabetic() || first == '_';
        match token {
            "%" => self.modulo(),
            "*" | "/" | "//" => {
                self.close();
                self.out.push_str(token);
                self.after_value = false;
            }
            "(" | "[" | "{" => {
                self.begin();
                self.out.push_str(token);
                self.levels.push(Level::default());
                self.after_value = false;
            }
            ")" | "]" | "}" => {
                self.close();
                self.out.push_str(token);
                if self.levels.len() > 1 {
                    self.levels.pop();
                }
                self.after_value = true;
            }
            "+" | "-" if self.after_value => self.boundary(token),
            "," | ":" | "=" | "==" | "!=" | "<" | ">" | "<=" | ">=" | "~" => self.boundary(token),
            _ if is_name && !self.after_dot && KEYWORDS.contains(&token) => self.boundary(token),
            _ if matches!(first, '\'' | '"') && token.contains("\\\n") => {
                self.begin();
                // A line end behind a backslash is no part of a string.
                self.out.push_str(&token.replace("\\\n", ""));
                self.after_value = true;
            }
            _ => {
                self.begin();
                self.out.push_str(token);
                self.after_value = !matches!(token, "+" | "-" | "**" | "|" | ".");
            }
        }
        self.after_dot = token == ".";
    }

    /// A token that no factor reaches across.
    fn boundary(&mut self, token: &str) {
        self.close();
        self.out.push_str(token);
        if let Some(level) = self.levels.last_mut() {
            level.factors = None;
        }
        self.after_value = false;
    }

    fn begin(&mut self) {
        let here = self.out.len();
        if let Some(level) = self.levels.last_mut() {
            level.factors.get_or_insert(here);
        }
    }

    fn close(&mut self) {
        let Some(level) = self.levels.last_mut() else { return };
        if std::mem::take(&mut level.open) {
            let written = self.out.trim_end().len();
            self.out.insert(written, ')');
        }
    }

    fn modulo(&mut self) {
        self.close();
        self.after_value = false;
        let Some(level) = self.levels.last_mut() else { return };
        match level.factors {
            Some(start) => {
                level.open = true;
                self.out.insert_str(start, &format!("{MODULO}("));
                self.out.push(',');
            }
            // Nothing to the left of it: minijinja says so.
            None => self.out.push('%'),
        }
    }
}
