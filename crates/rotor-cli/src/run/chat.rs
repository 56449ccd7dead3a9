//! A conversation, without the terminal it is held on.

use super::command::{Command, HELP, Input, parse};
use super::options::{check, token_limit};
use super::{COMPLETION_TOKENS, Run, Totals, shown};
use crate::outcome::StdoutError;
use crate::terminal::printable;
use rotor::chat::Message;
use rotor::engine::{Engine, FinishReason, GenerateError, GenerateOptions, Generation, Session};
use rotor::write::AtomicFile;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

/// Where a conversation appears.
pub(super) struct Screen<'a> {
    /// The model's words.
    pub(super) answers: &'a mut dyn Write,
    /// Everything else.
    pub(super) notes: &'a mut dyn Write,
    /// Whether the model's words go to a terminal.
    pub(super) on_terminal: bool,
    /// Asks whether the answer is to be broken off.
    pub(super) interrupted: &'a dyn Fn() -> bool,
}

impl Screen<'_> {
    fn note(&mut self, text: &str) {
        // There is nobody to tell where this fails.
        let _ = writeln!(self.notes, "{text}");
    }

    fn answer(&mut self, piece: &str) -> Result<(), StdoutError> {
        let text = shown(piece, self.on_terminal);
        self.answers.write_all(text.as_bytes()).and_then(|()| self.answers.flush()).map_err(StdoutError)
    }
}

/// Whether the conversation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Input,
    End,
}

/// A conversation with a model. A model without a chat template completes every message on its own.
pub(super) struct Chat {
    engine: Engine,
    session: Session,
    options: GenerateOptions,
    system: Option<Message>,
    messages: Vec<Message>,
    last: Option<Generation>,
    totals: Totals,
}

impl Chat {
    /// `limited` tells whether the number of tokens was chosen by a person.
    pub(super) fn new(run: Run, system: Option<String>, limited: bool) -> Result<Chat, GenerateError> {
        let Run { engine, session, mut options, .. } = run;
        match engine.chat_template() {
            Some(template) => options.trim_start = template.trims_answer(),
            None if system.is_some() => return Err(GenerateError::NoChatTemplate),
            None if !limited => options.max_tokens = Some(COMPLETION_TOKENS),
            None => {}
        }
        let system = system.map(|text| Message::new("system", text));
        let (messages, last, totals) = (Vec::new(), None, Totals::default());
        Ok(Chat { engine, session, options, system, messages, last, totals })
    }

    /// Whether the model can chat at all.
    pub(super) fn has_template(&self) -> bool {
        self.engine.chat_template().is_some()
    }

    /// What the model calls itself.
    pub(super) fn model_name(&self) -> &str {
        let config = self.engine.model().config();
        config.name.as_deref().unwrap_or(config.architecture.name())
    }

    /// Tokens of context.
    pub(super) fn context(&self) -> usize {
        self.session.context()
    }

    /// What all answers have taken.
    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// Does what was typed. Only stdout failing is an error; everything else is told as a note.
    pub(super) fn input(&mut self, line: &str, screen: &mut Screen<'_>) -> Result<Next, StdoutError> {
        match parse(line) {
            Ok(Input::Nothing) => {}
            Ok(Input::Message(text)) => {
                self.messages.push(Message::new("user", text));
                self.answer(screen)?;
            }
            Ok(Input::Command(Command::Exit)) => return Ok(Next::End),
            Ok(Input::Command(command)) => self.command(command, screen)?,
            Err(wrong) => screen.note(&wrong),
        }
        Ok(Next::Input)
    }

    fn command(&mut self, command: Command, screen: &mut Screen<'_>) -> Result<(), StdoutError> {
        match command {
            Command::Help => screen.note(HELP),
            Command::Regenerate => return self.regenerate(screen),
            Command::Clear => {
                self.messages.clear();
                self.session.clear();
                screen.note("a new conversation");
            }
            Command::System(_) if !self.has_template() => screen.note(&GenerateError::NoChatTemplate.to_string()),
            Command::System(text) => {
                screen.note(if text.is_some() { "the system message is set" } else { "no system message" });
                self.system = text.map(|text| Message::new("system", text));
            }
            Command::Show => screen.note(&self.settings()),
            Command::Set { key, value } => match set(&self.options, &key, &value) {
                Ok(options) => self.options = options,
                Err(wrong) => screen.note(&wrong),
            },
            Command::Save(path) => match self.save(&path) {
                Ok(()) => screen.note(&format!("saved to {}", path.display())),
                Err(error) => screen.note(&format!("error: {error}")),
            },
            Command::Stats => screen.note(&self.stats()),
            Command::Exit => {}
        }
        Ok(())
    }

    /// Answers the last message again, by other random numbers.
    fn regenerate(&mut self, screen: &mut Screen<'_>) -> Result<(), StdoutError> {
        self.messages.pop_if(|message| message.role == "assistant");
        if self.messages.is_empty() {
            screen.note("there is nothing to answer yet");
            return Ok(());
        }
        let seed = self.options.sampling.seed.take();
        let answered = self.answer(screen);
        self.options.sampling.seed = seed;
        answered
    }

    /// Answers the last message. Where that fails or yields nothing, the message is taken back.
    fn answer(&mut self, screen: &mut Screen<'_>) -> Result<(), StdoutError> {
        let mut text = String::new();
        let mut failed = None;
        let generated = self.prompt().and_then(|prompt| {
            let mut on_text = |piece: &str| {
                text.push_str(piece);
                failed = if piece.is_empty() { None } else { screen.answer(piece).err() };
                if failed.is_some() || (screen.interrupted)() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            };
            self.engine.generate(&mut self.session, &prompt, &self.options, &mut on_text)
        });
        if let Some(error) = failed {
            return Err(error);
        }
        if !text.is_empty() && !text.ends_with('\n') {
            screen.answer("\n")?;
        }
        match generated {
            Ok(generation) => {
                if let Some(note) = self.ending(generation.finish_reason) {
                    screen.note(&note);
                }
                self.totals.add(&generation);
                self.last = Some(generation);
            }
            Err(error) => screen.note(&format!("error: {}", printable(&self.advice(error)))),
        }
        if text.is_empty() {
            self.messages.pop();
        } else {
            self.messages.push(Message::new("assistant", text));
        }
        Ok(())
    }

    fn prompt(&self) -> Result<Vec<u32>, GenerateError> {
        if !self.has_template() {
            return self.engine.encode_prompt(self.messages.last().map_or("", |message| &message.content));
        }
        let messages: Vec<Message> = self.system.iter().chain(&self.messages).cloned().collect();
        self.engine.encode_chat(&messages)
    }

    fn ending(&self, reason: FinishReason) -> Option<String> {
        match reason {
            FinishReason::Stop => None,
            FinishReason::Length => {
                Some(format!("[{} tokens; /set max-tokens N changes that]", self.options.max_tokens.unwrap_or(0)))
            }
            FinishReason::ContextFull => {
                Some(format!("[the context of {} tokens is full; /clear starts anew]", self.context()))
            }
            FinishReason::Cancelled => Some("[stopped]".into()),
        }
    }

    fn advice(&self, error: GenerateError) -> String {
        match error {
            GenerateError::PromptTooLong { tokens, context } => format!(
                "the conversation has {tokens} tokens, but the context holds {context}: /clear starts anew, --ctx makes room"
            ),
            other => other.to_string(),
        }
    }

    fn settings(&self) -> String {
        let GenerateOptions { max_tokens, sampling, .. } = &self.options;
        let number = |n: Option<u64>, none: &str| n.map_or(none.to_owned(), |n| n.to_string());
        let rows = [
            ("temp", sampling.temperature.to_string()),
            ("top-k", sampling.top_k.to_string()),
            ("top-p", sampling.top_p.to_string()),
            ("min-p", sampling.min_p.to_string()),
            ("repeat-penalty", sampling.repeat_penalty.to_string()),
            ("presence-penalty", sampling.presence_penalty.to_string()),
            ("frequency-penalty", sampling.frequency_penalty.to_string()),
            ("seed", number(sampling.seed, "random")),
            ("max-tokens", number(max_tokens.map(|n| n as u64), "-1")),
        ];
        rows.map(|(key, value)| format!("{key:18}{value}")).join("\n")
    }

    fn stats(&self) -> String {
        let held = format!("context: {} of {} tokens", self.session.tokens().len(), self.context());
        let Some(last) = &self.last else { return held };
        let mut turn = Totals::default();
        turn.add(last);
        format!("{held}\nlast answer: {turn}; {} tokens were known\nall answers: {}", last.cached_tokens, self.totals)
    }

    fn save(&self, path: &Path) -> anyhow::Result<()> {
        let messages: Vec<&Message> = self.system.iter().chain(&self.messages).collect();
        let text = if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json")) {
            serde_json::to_string_pretty(&messages)? + "\n"
        } else {
            messages.iter().map(|message| format!("{}:\n{}\n\n", message.role, message.content.trim_end())).collect()
        };
        let mut file = AtomicFile::create(path)?;
        file.write(text.as_bytes())?;
        Ok(file.commit()?)
    }
}

/// The options with one of them changed.
fn set(options: &GenerateOptions, key: &str, value: &str) -> Result<GenerateOptions, String> {
    let mut options = options.clone();
    let sampling = &mut options.sampling;
    let number = || value.parse::<f32>().map_err(|_| format!("{key} is a number, not {value:?}"));
    match key {
        "temp" => sampling.temperature = number()?,
        "top-k" => sampling.top_k = value.parse().map_err(|_| format!("{key} is a whole number, not {value:?}"))?,
        "top-p" => sampling.top_p = number()?,
        "min-p" => sampling.min_p = number()?,
        "repeat-penalty" => sampling.repeat_penalty = number()?,
        "presence-penalty" => sampling.presence_penalty = number()?,
        "frequency-penalty" => sampling.frequency_penalty = number()?,
        "seed" if value == "random" => sampling.seed = None,
        "seed" => {
            let seed = value.parse().map_err(|_| format!("seed is a whole number or 'random', not {value:?}"))?;
            sampling.seed = Some(seed);
        }
        "max-tokens" => options.max_tokens = token_limit(value).map_err(|why| format!("{key}: {why}"))?.0,
        _ => return Err(format!("there is no option {key:?}; /set shows them all")),
    }
    check(&options.sampling)?;
    Ok(options)
}
