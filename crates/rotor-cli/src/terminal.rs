//! Writing to stdout and stderr, and reading text from stdin.

use anyhow::{Context, bail};
use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

/// A result could not be written to stdout.
#[derive(Debug)]
pub(crate) struct StdoutError(pub(crate) io::Error);

impl fmt::Display for StdoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot write to the standard output: {}", self.0)
    }
}

impl std::error::Error for StdoutError {}

/// Says something on stderr. Where nobody can hear it, nothing is lost.
pub(crate) fn message(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes results to stdout and hands them on at once.
pub(crate) fn print(text: &str) -> Result<(), StdoutError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(StdoutError)
}

/// As [`print`], with a newline.
pub(crate) fn print_line(text: &str) -> Result<(), StdoutError> {
    print(&format!("{text}\n"))
}

/// Prints JSON for programs: one line, or indented where a person reads it.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<(), StdoutError> {
    print_line(&if io::stdout().is_terminal() { format!("{value:#}") } else { value.to_string() })
}

/// Text without control characters other than newline and tab: what a model writes, or a file has in it, must not steer
/// the terminal.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace(steers, "\u{fffd}"))
}

/// The text of a file, `-` being stdin; at most `most` bytes.
pub(crate) fn read_text(path: &Path, most: usize) -> anyhow::Result<String> {
    if path == Path::new("-") {
        return read_all(io::stdin().lock(), "the standard input", most);
    }
    let name = path.display().to_string();
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {name}"))?;
    read_all(file, &name, most)
}

/// The text on stdin; at most `most` bytes.
pub(crate) fn read_stdin(most: usize) -> anyhow::Result<String> {
    read_text(Path::new("-"), most)
}

fn read_all(reader: impl Read, name: &str, most: usize) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    // One byte more than is taken tells a text that is too long from one that just fits.
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(limit).read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
    if bytes.len() > most {
        bail!("{name} has more than {most} bytes of text, which is the most that is taken at once");
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("{name} is not valid UTF-8: the first invalid byte is number {at}, counted from 0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\tb\nc é 🦙"), "a\tb\nc é 🦙");
        assert_eq!(printable("\x1b]0;title\x07\r\u{9b}2J"), "\u{fffd}]0;title\u{fffd}\u{fffd}\u{fffd}2J");
    }

    #[test]
    fn text_is_taken_as_it_is_or_refused() {
        assert_eq!(read_all(&b"a\r\n\0 "[..], "x", 5).unwrap(), "a\r\n\0 ");
        let invalid = read_all(&b"ab\xff"[..], "the standard input", 9).unwrap_err().to_string();
        assert_eq!(
            invalid,
            "the standard input is not valid UTF-8: the first invalid byte is number 2, counted from 0"
        );
        let long = read_all(&b"abc"[..], "x", 2).unwrap_err().to_string();
        assert_eq!(long, "x has more than 2 bytes of text, which is the most that is taken at once");
    }
}
