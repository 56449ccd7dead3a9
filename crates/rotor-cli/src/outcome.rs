//! How a command ends: its exit code, and one sentence where it failed.

use crate::terminal::{self, StdoutError};
use std::fmt;
use std::io;
use std::process::ExitCode;

/// The arguments are wrong in a way that only shows when they are seen together: exit code 2.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Ended by Ctrl-C, as a shell reports a process that SIGINT killed.
pub(crate) const INTERRUPTED: u8 = 130;

/// Tells the error to people and picks the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let code = exit_code(error);
    if code != 0 {
        terminal::message(format_args!("error: {}", sentence(error)));
    }
    ExitCode::from(code)
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        // Whoever read our output has seen enough.
        Some(StdoutError(cause)) if cause.kind() == io::ErrorKind::BrokenPipe => 0,
        _ if error.is::<UsageError>() => 2,
        _ => 1,
    }
}

/// The error and its causes in one line. Many errors quote their cause themselves; nothing is said twice.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    let text = without_error_numbers(&text);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    terminal::printable(&lines.join("; ")).into_owned()
}

/// Text without the "(os error 2)" that the standard library appends to the system's words.
fn without_error_numbers(text: &str) -> String {
    let mut pieces = text.split(" (os error ");
    let mut kept = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        kept.push_str(piece.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-').trim_start_matches(')'));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_cause_is_said_once() {
        let quoting = Err::<(), _>(io::Error::other("disk full")).context("cannot write x: disk full").unwrap_err();
        assert_eq!(sentence(&quoting), "cannot write x: disk full");
        let silent = Err::<(), _>(io::Error::other("disk full")).context("cannot write x").unwrap_err();
        assert_eq!(sentence(&silent), "cannot write x: disk full");
    }

    #[test]
    fn a_sentence_is_one_line_without_control_characters() {
        assert_eq!(sentence(&anyhow::anyhow!("bad\n  \x1b[31mred\n")), "bad; \u{fffd}[31mred");
    }

    #[test]
    fn the_systems_words_stay_without_its_numbers() {
        let error = io::Error::from_raw_os_error(2);
        let told = sentence(&anyhow::anyhow!("cannot open a: {error}; b too: {error}"));
        assert!(told.starts_with("cannot open a: ") && told.contains("; b too: "), "{told}");
        assert!(!told.contains("os error") && !told.contains(')'), "{told}");
    }

    #[test]
    fn a_closed_pipe_is_success_and_a_full_disk_is_not() {
        let code = |kind: io::ErrorKind| exit_code(&StdoutError(kind.into()).into());
        assert_eq!(code(io::ErrorKind::BrokenPipe), 0);
        assert_eq!(code(io::ErrorKind::StorageFull), 1);
        assert_eq!(exit_code(&UsageError("x".into()).into()), 2);
    }
}
