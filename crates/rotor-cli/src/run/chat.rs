//! A conversation, without the terminal it is held on.

use super::command::{Command, HELP, Input, parse};
use super::options::{check, token_limit};
use super::{COMPLETION_TOKENS, Run, Totals, shown};
use crate::terminal::{StdoutError, printable};
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
            Ok(template) => options.trim_start = template.trims_answer(),
            Err(GenerateError::NoChatTemplate) if system.is_none() => {
                options.max_tokens = if limited { options.max_tokens } else { Some(COMPLETION_TOKENS) };
            }
            Err(error) => return Err(error),
        }
        let system = system.map(|text| Message::new("system", text));
        let (messages, last, totals) = (Vec::new(), None, Totals::default());
        Ok(Chat { engine, session, options, system, messages, last, totals })
    }

    /// Whether the model can chat at all.
    pub(super) fn has_template(&self) -> bool {
        self.engine.chat_template().is_ok()
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

    /// Answers the last message again, by other random numbers. Where that yields nothing, the answer it had stays.
    fn regenerate(&mut self, screen: &mut Screen<'_>) -> Result<(), StdoutError> {
        let before = self.messages.clone();
        self.messages.pop_if(|message| message.role == "assistant");
        if self.messages.is_empty() {
            screen.note("there is nothing to answer yet");
            return Ok(());
        }
        let seed = self.options.sampling.seed.take();
        let answered = self.answer(screen);
        self.options.sampling.seed = seed;
        if self.messages.len() < before.len() {
            screen.note("[the answer before stays]");
            self.messages = before;
        }
        answered
    }

    /// Answers the last message. Where that fails or yields nothing, the message is taken back.
    fn answer(&mut self, screen: &mut Screen<'_>) -> Result<(), StdoutError> {
        let mut text = String::new();
        let mut failed = None;
        let generated = self.prompt().and_then(|prompt| {
            let mut on_text = |piece: &str| {
                text.push_str(piece);
                if failed.is_none() && !piece.is_empty() {
                    failed = screen.answer(piece).err();
                }
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
                if let Some(note) = self.ending(generation.finish_reason, text.is_empty()) {
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

    fn ending(&self, reason: FinishReason, empty: bool) -> Option<String> {
        match reason {
            FinishReason::Stop if empty => Some("[an empty answer]".into()),
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
        let cached = last.cached_tokens;
        format!("{held}, {cached} known before the last answer\nlast answer: {turn}\nall answers: {}", self.totals)
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

#[cfg(test)]
mod tests {
    use super::*;
    use rotor::KvType;
    use rotor::formats::{OpenOptions, Source};
    use rotor::runtime::Runtime;
    use rotor::sample::SamplingOptions;
    use rotor::synth::{Preset, SynthOptions, synthesize};
    use std::cell::Cell;
    use std::time::Duration;

    /// A conversation with a synthetic model that stops after 8 tokens.
    struct Talk {
        chat: Chat,
        folder: tempfile::TempDir,
        /// Pieces of text after which Ctrl-C is pressed.
        patience: Cell<usize>,
    }

    impl Talk {
        fn new(context: usize) -> Talk {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("tiny.gguf");
            synthesize(Preset::Tiny, &path, &SynthOptions::default(), &mut |_, _| {}).unwrap();
            let source = Source::open(&path, &OpenOptions::default()).unwrap();
            let engine = Engine::from_source(&source, &Runtime::new(1).unwrap(), &mut |_| {}).unwrap();
            let session = engine.session(context, KvType::F16);
            // Noise is to be visible: control tokens, line ends and spaces are forbidden.
            let unseen = (768..1024).chain([198, 220]).map(|id| (id, f32::NEG_INFINITY)).collect();
            let sampling = SamplingOptions { logit_bias: unseen, ..SamplingOptions::default() };
            let options = GenerateOptions { max_tokens: Some(8), sampling, ..GenerateOptions::default() };
            let run = Run { engine, session, options, constraint: None, load_time: Duration::ZERO };
            Talk { chat: Chat::new(run, None, true).unwrap(), folder, patience: Cell::new(usize::MAX) }
        }

        /// What appears on stdout and on stderr.
        fn say(&mut self, line: &str) -> (String, String) {
            let (mut answers, mut notes) = (Vec::new(), Vec::new());
            let interrupted = || {
                self.patience.set(self.patience.get().saturating_sub(1));
                self.patience.get() == 0
            };
            let (answers_to, notes_to) = (&mut answers, &mut notes);
            let mut screen =
                Screen { answers: answers_to, notes: notes_to, on_terminal: true, interrupted: &interrupted };
            self.chat.input(line, &mut screen).unwrap();
            (String::from_utf8(answers).unwrap(), String::from_utf8(notes).unwrap())
        }
    }

    #[test]
    fn a_conversation_grows_and_its_beginning_is_not_computed_again() {
        let mut talk = Talk::new(512);
        let (answer, _) = talk.say("hello");
        assert!(answer.ends_with('\n'), "{answer:?}");
        let first_prompt = talk.chat.last.as_ref().unwrap().prompt_tokens;
        talk.say("and now?");
        let roles: Vec<&str> = talk.chat.messages.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
        assert!(talk.chat.last.as_ref().unwrap().cached_tokens >= first_prompt - 1, "{:?}", talk.chat.last);
        let (_, stats) = talk.say("/stats");
        assert!(stats.starts_with("context: ") && stats.contains("of 512 tokens, "), "{stats}");
    }

    #[test]
    fn an_answer_can_be_had_again() {
        let mut talk = Talk::new(512);
        assert_eq!(talk.say("/regen"), (String::new(), "there is nothing to answer yet\n".into()));
        let (first, _) = talk.say("hello");
        let (again, _) = talk.say("/regen");
        assert_eq!(first, again, "greedy answers are the same each time");
        assert_eq!(talk.chat.messages.len(), 2);
    }

    #[test]
    fn an_answer_that_comes_to_nothing_leaves_the_one_before() {
        let mut talk = Talk::new(512);
        let (first, _) = talk.say("hello");
        talk.say("/set max-tokens 0");
        let (nothing, notes) = talk.say("/regen");
        assert!(nothing.is_empty() && notes.ends_with("[the answer before stays]\n"), "{notes}");
        let kept: Vec<&str> = talk.chat.messages.iter().map(|message| message.content.as_str()).collect();
        assert_eq!(kept, ["hello", first.strip_suffix('\n').unwrap()]);
        talk.say("/set max-tokens 8");
        assert_eq!(talk.say("/regen").0, first);
    }

    #[test]
    fn what_was_held_back_for_a_stop_string_is_told_when_an_answer_is_stopped() {
        let mut talk = Talk::new(512);
        let (whole, _) = talk.say("hello");
        talk.say("/clear");
        // Everything may yet become the stop string.
        talk.chat.options.stop = vec![format!("{}and no more", whole.trim_end())];
        talk.patience.set(6);
        let (part, notes) = talk.say("hello");
        assert_eq!(notes, "[stopped]\n");
        assert!(part.trim_end().len() > 1 && whole.starts_with(part.trim_end()), "{part:?} of {whole:?}");
    }

    #[test]
    fn a_stopped_answer_is_kept_as_far_as_it_came() {
        let mut talk = Talk::new(512);
        let (whole, _) = talk.say("hello");
        talk.say("/clear");
        talk.patience.set(3);
        let (part, notes) = talk.say("hello");
        assert_eq!(notes, "[stopped]\n");
        assert!(whole.starts_with(part.trim_end()) && part.len() < whole.len(), "{part:?} of {whole:?}");
        talk.patience.set(usize::MAX);
        let (_, notes) = talk.say("go on");
        assert!(!notes.contains("error"), "{notes}");
    }

    #[test]
    fn a_full_context_is_told_and_the_message_taken_back() {
        let mut talk = Talk::new(64);
        let (answer, notes) = talk.say(&"far too long ".repeat(20));
        assert_eq!(answer, "");
        assert!(notes.starts_with("error: the conversation has ") && notes.contains("holds 64"), "{notes}");
        assert!(talk.chat.messages.is_empty());
        talk.say("/set max-tokens -1");
        let (_, notes) = talk.say("short");
        assert_eq!(notes, "[the context of 64 tokens is full; /clear starts anew]\n");
    }

    #[test]
    fn options_change_and_wrong_ones_do_not() {
        let mut talk = Talk::new(64);
        assert_eq!(talk.say("/set temp 0.5").1, "");
        assert_eq!(talk.chat.options.sampling.temperature, 0.5);
        for (line, told) in [
            ("/set temp hot", "temp is a number, not \"hot\"\n"),
            ("/set temp -1", "temperature must be between 0 and 100, not -1\n"),
            ("/set size 3", "there is no option \"size\"; /set shows them all\n"),
            ("/set max-tokens -2", "max-tokens: expected a whole number of tokens, or -1 for no limit\n"),
            ("/nope", "there is no command /nope; /help lists them\n"),
        ] {
            assert_eq!(talk.say(line), (String::new(), told.to_owned()), "{line}");
        }
        let (_, settings) = talk.say("/set");
        assert!(
            settings.contains("temp              0.5\n") && settings.contains("seed              random\n"),
            "{settings}"
        );
    }

    #[test]
    fn every_option_that_is_shown_can_be_set_to_what_is_shown() {
        let mut talk = Talk::new(64);
        let (_, settings) = talk.say("/set");
        assert_eq!(settings.lines().count(), 9);
        for line in settings.lines() {
            assert_eq!(talk.say(&format!("/set {line}")).1, "", "{line}");
        }
        assert_eq!(talk.say("/set").1, settings);
    }

    #[test]
    fn a_conversation_is_saved_as_text_or_json() {
        let mut talk = Talk::new(512);
        talk.say("/system Answer in verse.");
        talk.say("hello");
        let (text, json) = (talk.folder.path().join("talk.txt"), talk.folder.path().join("talk.json"));
        talk.say(&format!("/save {}", text.display()));
        talk.say(&format!("/save {}", json.display()));
        let text = std::fs::read_to_string(text).unwrap();
        assert!(text.starts_with("system:\nAnswer in verse.\n\nuser:\nhello\n\nassistant:\n"), "{text}");
        let saved: Vec<Message> = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
        assert_eq!(
            saved.iter().map(|message| message.role.as_str()).collect::<Vec<_>>(),
            ["system", "user", "assistant"]
        );
        let (_, told) = talk.say("/save /no/such/folder/talk.txt");
        assert!(told.starts_with("error: cannot write /no/such/folder/talk.txt"), "{told}");
    }
}
