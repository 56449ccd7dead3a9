//! What a line typed in a chat means.

use std::path::PathBuf;

/// Shown by /help.
pub(super) const HELP: &str = "\
/help             this list
/regen            answer the last message again
/clear            start anew, the system message stays
/system [TEXT]    set the system message; without TEXT, remove it
/set [KEY VALUE]  change an option; without one, show them all
/save FILE        write the conversation, as JSON if FILE ends in .json
/stats            tokens and speed
/exit             leave, as Ctrl-D does

Ctrl-C stops an answer. A line that ends in \\ goes on in the next one.
A space in front sends a text that begins with /.";

/// A line with a meaning of its own.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Help,
    Regenerate,
    Clear,
    System(Option<String>),
    Show,
    Set { key: String, value: String },
    Save(PathBuf),
    Stats,
    Exit,
}

/// What a person sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    Nothing,
    Command(Command),
    Message(String),
}

/// Tells commands from messages.
pub(super) fn parse(line: &str) -> Result<Input, String> {
    if line.trim().is_empty() {
        return Ok(Input::Nothing);
    }
    let Some(command) = line.strip_prefix('/') else {
        return Ok(Input::Message(line.trim().to_owned()));
    };
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let rest = rest.trim();
    let alone = |command| if rest.is_empty() { Ok(command) } else { Err(format!("/{name} takes nothing after it")) };
    let command = match name {
        "help" | "?" => alone(Command::Help)?,
        "regen" => alone(Command::Regenerate)?,
        "clear" => alone(Command::Clear)?,
        "system" => Command::System((!rest.is_empty()).then(|| rest.to_owned())),
        "set" if rest.is_empty() => Command::Show,
        "set" => match rest.split_once(char::is_whitespace) {
            Some((key, value)) => Command::Set { key: key.to_owned(), value: value.trim().to_owned() },
            None => return Err("/set takes a key and a value; /set alone shows them".into()),
        },
        "save" if rest.is_empty() => return Err("/save takes the name of a file".into()),
        "save" => Command::Save(rest.into()),
        "stats" => alone(Command::Stats)?,
        "exit" | "quit" | "bye" => alone(Command::Exit)?,
        _ => return Err(format!("there is no command /{name}; /help lists them")),
    };
    Ok(Input::Command(command))
}

/// Lines that end in a backslash, joined with those that follow.
#[derive(Debug, Default)]
pub(super) struct Lines(String);

impl Lines {
    /// Takes a line; returns the whole text once it has come to an end.
    pub(super) fn push(&mut self, line: &str) -> Option<String> {
        if let Some(line) = line.strip_suffix('\\') {
            self.0.push_str(line);
            self.0.push('\n');
            return None;
        }
        self.0.push_str(line);
        Some(std::mem::take(&mut self.0))
    }

    /// Whether a text has begun and not ended.
    pub(super) fn is_open(&self) -> bool {
        !self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_begin_with_a_slash() {
        let command = |line| match parse(line) {
            Ok(Input::Command(command)) => command,
            other => panic!("{other:?}"),
        };
        assert_eq!(command("/help"), Command::Help);
        assert_eq!(command("/system  Be brief. "), Command::System(Some("Be brief.".into())));
        assert_eq!(command("/system"), Command::System(None));
        assert_eq!(command("/set"), Command::Show);
        assert_eq!(command("/set temp 0.5"), Command::Set { key: "temp".into(), value: "0.5".into() });
        assert_eq!(command("/save a b.json"), Command::Save("a b.json".into()));
        assert_eq!(command("/quit"), Command::Exit);
        for wrong in ["/", "/nope", "/set temp", "/save", "/clear all"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn everything_else_is_a_message() {
        assert_eq!(parse("hello\nthere "), Ok(Input::Message("hello\nthere".into())));
        assert_eq!(parse(" /etc/passwd is a file"), Ok(Input::Message("/etc/passwd is a file".into())));
        assert_eq!(parse(" \n"), Ok(Input::Nothing));
    }

    #[test]
    fn a_backslash_at_the_end_goes_on_in_the_next_line() {
        let mut lines = Lines::default();
        assert_eq!(lines.push("a\\"), None);
        assert!(lines.is_open());
        assert_eq!(lines.push("\\"), None);
        assert_eq!(lines.push("b"), Some("a\n\nb".into()));
        assert!(!lines.is_open());
        assert_eq!(lines.push("c\\d"), Some("c\\d".into()));
    }
}
