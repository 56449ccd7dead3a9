//! The terminal of a chat: line editing, history, Ctrl-C and Ctrl-D.

use super::Run;
use super::chat::{Chat, Next, Screen};
use super::command::Lines;
use crate::interrupt::{self, Catch};
use crate::terminal::{message, printable};
use anyhow::Context;
use rustyline::config::{Behavior, Config};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{DefaultEditor, Editor};
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

/// Texts that the history remembers.
const HISTORY_LENGTH: usize = 1000;

/// Chats until the person leaves. `limited` tells whether the number of tokens was chosen by a person.
pub(super) fn execute(run: Run, system: Option<String>, limited: bool) -> anyhow::Result<ExitCode> {
    let mut chat = Chat::new(run, system, limited)?;
    greet(&chat);
    let mut line = Prompt::new()?;
    let catch = Catch::always();
    let mut stdout = io::stdout();
    let mut stderr = io::stderr();
    let mut screen = Screen {
        on_terminal: stdout.is_terminal(),
        answers: &mut stdout,
        notes: &mut stderr,
        interrupted: &interrupt::requested,
    };
    while let Some(text) = line.read()? {
        catch.reset();
        if chat.input(&text, &mut screen)? == Next::End {
            break;
        }
    }
    if chat.totals().generated_tokens > 0 {
        message(format_args!("{}", chat.totals()));
    }
    Ok(ExitCode::SUCCESS)
}

fn greet(chat: &Chat) {
    message(format_args!("{}, {} tokens of context", printable(chat.model_name()), chat.context()));
    if !chat.has_template() {
        message(format_args!("The model has no chat template: every text you type is completed on its own."));
    }
    message(format_args!("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves."));
}

/// Reads what a person types.
struct Prompt {
    editor: Editor<(), FileHistory>,
    history: Option<PathBuf>,
}

impl Prompt {
    fn new() -> anyhow::Result<Self> {
        // The terminal itself, so that answers can be redirected while one types.
        let config = Config::builder().behavior(Behavior::PreferTerm).max_history_size(HISTORY_LENGTH)?;
        let config = config.history_ignore_dups(true)?.build();
        let mut editor = DefaultEditor::with_config(config).context("cannot use the terminal")?;
        let history = history_path();
        if let Some(path) = &history {
            // The first time there is none, and a chat without a history is still a chat.
            let _ = editor.load_history(path);
        }
        Ok(Self { editor, history })
    }

    /// The next text, of one or several lines; `None` where the person leaves.
    fn read(&mut self) -> anyhow::Result<Option<String>> {
        let mut lines = Lines::default();
        loop {
            match self.editor.readline(if lines.is_open() { ". " } else { "> " }) {
                Ok(line) => {
                    if let Some(text) = lines.push(&line) {
                        self.remember(&text);
                        return Ok(Some(text));
                    }
                }
                // Ctrl-C at the prompt takes back what was typed.
                Err(ReadlineError::Interrupted) => lines = Lines::default(),
                Err(ReadlineError::Eof) => return Ok(None),
                Err(error) => return Err(error).context("cannot read from the terminal"),
            }
        }
    }

    fn remember(&mut self, text: &str) {
        // As above: a history that cannot be kept is no reason to stop.
        if self.editor.add_history_entry(text).unwrap_or(false)
            && let Some(path) = &self.history
            && path.parent().is_some_and(|folder| std::fs::create_dir_all(folder).is_ok())
        {
            let _ = self.editor.append_history(path);
        }
    }
}

/// Where the platform wants programs to keep such things.
fn history_path() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = folder("XDG_STATE_HOME")
        .or_else(|| folder("LOCALAPPDATA"))
        .or_else(|| folder("HOME").map(|home| home.join(".local").join("state")))?;
    Some(state.join("rotor").join("history"))
}
