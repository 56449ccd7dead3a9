//! `rotor run`: complete a text, or chat.

#[cfg(feature = "interactive")]
mod chat;
#[cfg(feature = "interactive")]
mod command;
#[cfg(feature = "interactive")]
mod interactive;
mod once;
mod options;
#[cfg(feature = "grammar")]
mod schema;

use crate::args::{KvMemoryArgs, LoadArgs, OptionalModelArg, ReadArgs, SpeculateArgs, ThreadArgs};
use crate::load;
use crate::outcome::UsageError;
use crate::terminal::{printable, read_stdin};
use crate::units;
use crate::values::{KvName, context};
use anyhow::bail;
use clap::builder::FalseyValueParser;
use options::{SamplingArgs, TokenLimit, token_limit};
use rotor::batch::BatchOptions;
use rotor::constraint::Constraint;
use rotor::engine::{Engine, GenerateError, GenerateOptions, Generation, Session};
use rotor::formats::DenseActivations;
use rotor::tokenizer::MAX_TEXT_BYTES;
use std::io::IsTerminal;
#[cfg(feature = "grammar")]
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Tokens a completion may have unless told otherwise. A model that was not trained to chat rarely ends by itself.
const COMPLETION_TOKENS: usize = 256;

/// Temperature of a chat on a terminal; one-shot runs are greedy, so that they can be repeated.
#[cfg(feature = "interactive")]
const CHAT_TEMPERATURE: f32 = 0.8;

/// Tokens of an answer of the built-in model, which never ends its text: a few turns fit into its context.
const STORY_TOKENS: usize = 128;

/// Complete a text, or chat.
///
/// With `-p`, or with text piped to stdin: completes the text as it is and prints the continuation alone. With `--chat` or
/// `-s` the text is a message, and the model's chat template is applied. On a terminal without `-p`: a chat; /help lists its
/// commands.
///
/// One-shot runs take the likeliest token each time (`--temp 0`), so the same command prints the same text; a chat on a
/// terminal samples at temperature 0.8. So does the built-in model, which loops otherwise: with a seed of its own, unless
/// --temp or --seed is given, so its text is the same each time too.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: OptionalModelArg,
    /// The text [default: stdin where it is no terminal].
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, env = "ROTOR_PROMPT", hide_env = true)]
    prompt: Option<String>,
    /// Apply the chat template to the text.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_CHAT", hide_env = true)]
    chat: bool,
    /// The system message of the chat.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, env = "ROTOR_SYSTEM", hide_env = true)]
    system: Option<String>,
    /// Take control tokens that the text spells as such, instead of as ordinary characters.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_SPECIAL", hide_env = true)]
    special: bool,
    /// Show the prompt as the model gets it, with its tokens, on stderr.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_SHOW_PROMPT", hide_env = true)]
    show_prompt: bool,
    /// Most tokens to generate, -1 for no limit [default: 256 for a completion, no limit for a chat].
    #[arg(short = 'n', long, value_name = "N", value_parser = token_limit)]
    #[arg(env = "ROTOR_MAX_TOKENS", hide_env = true)]
    max_tokens: Option<TokenLimit>,
    /// Tokens of context, 0 for all the model was trained for [default: that, but at most 4096].
    #[arg(short, long, value_name = "N", value_parser = context, env = "ROTOR_CTX", hide_env = true)]
    ctx: Option<usize>,
    /// Print one JSON object: text, tokens, finish_reason, timings.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_JSON", hide_env = true)]
    json: bool,
    /// End the text before this string; may be given several times.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, env = "ROTOR_STOP", hide_env = true)]
    stop: Vec<String>,
    /// Have the text be JSON that the schema in this file allows.
    #[cfg(feature = "grammar")]
    #[arg(long, value_name = "FILE", env = "ROTOR_JSON_SCHEMA", hide_env = true)]
    json_schema: Option<PathBuf>,
    /// Go on after the model has ended its text.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_IGNORE_EOS", hide_env = true)]
    ignore_eos: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// How keys and values are stored.
    #[arg(long, value_name = "TYPE", default_value = "f16", help_heading = "Computing")]
    #[arg(env = "ROTOR_KV", hide_env = true)]
    kv: KvName,
    #[command(flatten)]
    kv_memory: KvMemoryArgs,
    #[command(flatten)]
    speculate: SpeculateArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    read: ReadArgs,
    #[command(flatten)]
    load: LoadArgs,
}

/// What is to be done with the model.
enum Task {
    /// Complete or answer this text.
    Once(String),
    /// Chat on the terminal.
    Interactive,
}

/// A loaded model and what to do with it.
struct Run {
    engine: Engine,
    session: Session,
    options: GenerateOptions,
    /// What the text is kept to.
    constraint: Option<Box<dyn Constraint>>,
    load_time: Duration,
}

pub(crate) fn execute(args: Args) -> anyhow::Result<ExitCode> {
    match args.task()? {
        Task::Once(text) => {
            let options = args.options(0.0, (!args.is_chat()).then_some(COMPLETION_TOKENS))?;
            #[cfg(feature = "grammar")]
            let schema = args.json_schema.as_deref().map(schema::Schema::read).transpose()?;
            #[cfg_attr(not(feature = "grammar"), expect(unused_mut, reason = "only a schema changes it"))]
            let mut run = Run::load(&args, options)?;
            #[cfg(feature = "grammar")]
            if let Some(schema) = schema {
                run.constraint = Some(schema.constraint(&run.engine)?);
            }
            once::execute(run, &args, &text)
        }
        #[cfg(not(feature = "interactive"))]
        Task::Interactive => bail!("this build of rotor has no chat on a terminal: give -p, or pipe a text to stdin"),
        #[cfg(feature = "interactive")]
        Task::Interactive => {
            let options = args.options(CHAT_TEMPERATURE, None)?;
            interactive::execute(Run::load(&args, options)?, args.system, args.max_tokens.is_some())
        }
    }
}

impl Args {
    /// Whether the text is a message.
    fn is_chat(&self) -> bool {
        self.chat || self.system.is_some()
    }

    fn task(&self) -> anyhow::Result<Task> {
        if self.special && self.is_chat() {
            let why = "--special is for texts to be completed; in a chat the template writes the control tokens";
            return Err(UsageError(why.into()).into());
        }
        if let Some(prompt) = &self.prompt {
            return Ok(Task::Once(prompt.clone()));
        }
        if std::io::stdin().is_terminal() {
            for (given, name) in [
                (self.json, "--json"),
                (self.special, "--special"),
                (self.show_prompt, "--show-prompt"),
                #[cfg(feature = "grammar")]
                (self.json_schema.is_some(), "--json-schema"),
            ] {
                if given {
                    return Err(UsageError(format!("{name} needs a text: give -p, or pipe it to stdin")).into());
                }
            }
            return Ok(Task::Interactive);
        }
        let text = read_stdin(MAX_TEXT_BYTES)?;
        if text.is_empty() {
            bail!("there is no text: the standard input is empty, and no -p is given");
        }
        Ok(Task::Once(text))
    }

    /// `temperature` and `max_tokens` are what counts where the arguments say nothing.
    fn options(&self, temperature: f32, max_tokens: Option<usize>) -> Result<GenerateOptions, UsageError> {
        let is_built_in = self.model.path().is_none();
        let max_tokens = max_tokens.or(is_built_in.then_some(STORY_TOKENS));
        let mut sampling = self.sampling.options(temperature)?;
        if is_built_in && temperature == 0.0 && self.sampling.is_left_open() {
            sampling.temperature = rotor::demo::TEMPERATURE;
            sampling.seed = Some(rotor::demo::SEED);
        }
        Ok(GenerateOptions {
            max_tokens: self.max_tokens.map_or(max_tokens, |limit| limit.0),
            sampling,
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            trim_start: false,
        })
    }
}

impl Run {
    fn load(args: &Args, options: GenerateOptions) -> anyhow::Result<Run> {
        let start = Instant::now();
        let source =
            load::open_or_demo(args.model.path(), &args.load.options(DenseActivations::default(), args.read.read())?)?;
        if source.tokenizer()?.is_none() {
            return Err(GenerateError::NoTokenizer("run").into());
        }
        let engine = load::load(&source, args.threads.threads())?;
        let context = match args.ctx {
            None => engine.default_context(),
            Some(0) => engine.model().config().max_position_embeddings,
            Some(context) => context,
        };
        load::warn_of_context(&engine, context);
        let (kv, kv_memory) = (args.kv.kind(), args.kv_memory.kv_memory);
        let speculate = args.speculate.speculate.kind();
        let session = engine.session_with(BatchOptions { kv, kv_memory, speculate, ..BatchOptions::new(context) });
        Ok(Run { engine, session, options, constraint: None, load_time: start.elapsed() })
    }
}

/// What generations have taken so far.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    prompt_tokens: usize,
    prefill: Duration,
    generated_tokens: usize,
    /// Generated tokens that `decode` is the time of: the first of each generation comes out of the prompt.
    decoded_tokens: usize,
    decode: Duration,
    draft_tokens: usize,
    accepted_tokens: usize,
}

impl Totals {
    fn add(&mut self, generation: &Generation) {
        self.prompt_tokens += generation.prompt_tokens - generation.cached_tokens;
        self.prefill += generation.prefill;
        self.generated_tokens += generation.tokens.len();
        self.decoded_tokens += generation.tokens.len().saturating_sub(1);
        self.decode += generation.decode;
        self.draft_tokens += generation.draft_tokens;
        self.accepted_tokens += generation.accepted_tokens;
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = |tokens: usize, time: Duration| {
            units::rate((tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64()))
        };
        let prompt = rate(self.prompt_tokens, self.prefill);
        let generated = rate(self.decoded_tokens, self.decode);
        write!(
            f,
            "prompt: {} tokens{prompt}; generated: {} tokens{generated}",
            self.prompt_tokens, self.generated_tokens
        )?;
        match (self.accepted_tokens, self.draft_tokens) {
            (_, 0) => Ok(()),
            (accepted, drafted) => write!(f, "; guessed: {drafted} tokens, {accepted} of them right"),
        }
    }
}

/// Text for stdout: as it is for a program, without control characters for a terminal.
fn shown(piece: &str, on_terminal: bool) -> std::borrow::Cow<'_, str> {
    if on_terminal { printable(piece) } else { piece.into() }
}
