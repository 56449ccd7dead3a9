//! From a path to generated text: the life of a model and of a request.
//!
//! An [`Engine`] is a model, its tokenizer and its chat template, loaded side by side. A [`Session`] is one sequence with
//! its cache; what it has computed is kept, so a prompt that begins like the last one only pays for what is new.

use crate::cache::SequenceCache;
use crate::chat::{ChatError, ChatTemplate, Message, encode_chat};
use crate::error::FormatError;
use crate::formats::{OpenOptions, Source};
use crate::model::{ForwardError, Model, Step, Wanted, Workspace};
use crate::runtime::Runtime;
use crate::sample::{Sampler, SamplingError, SamplingOptions, StopMatcher};
use crate::tokenizer::{TextStream, Tokenizer, TokenizerError};
use rotor_kernels::Pool;
use rotor_kernels::attention::KvType;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use crate::cost::PREFILL_CHUNK;

/// Context of a session unless asked otherwise: the model's own, but no more than this.
pub const DEFAULT_CONTEXT: usize = 4096;

/// Why a model cannot be loaded for generating text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file or folder.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The vocabulary.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template.
    #[error(transparent)]
    Chat(#[from] ChatError),
}

/// Why text could not be generated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The model has no tokenizer.
    #[error(
        "the model has no tokenizer: {0} needs tokenizer.json in its folder, or tokenizer.ggml keys in its metadata"
    )]
    NoTokenizer(&'static str),
    /// The model has no chat template.
    #[error("the model has no chat template: use it to complete text")]
    NoChatTemplate,
    /// Nothing to go on from.
    #[error("the prompt is empty, and the model has no beginning-of-sequence token to start from")]
    EmptyPrompt,
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {tokens} tokens, but the context holds {context}: shorten it, or raise --ctx")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Room.
        context: usize,
    },
    /// Logits that are not numbers.
    #[error("the model computed {0} for a logit: its weights are broken, or of a kind that was misread")]
    NotFinite(f32),
    /// A forward pass was refused.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The prompt could not be tokenised.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The conversation could not be rendered.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// An option is out of range.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
}

/// A model ready to generate.
#[derive(Debug)]
pub struct Engine {
    model: Model,
    tokenizer: Option<Tokenizer>,
    chat_template: Option<ChatTemplate>,
    warnings: Vec<String>,
}

/// What to generate.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Most tokens to generate; `None` goes on to the end of the context.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
    /// Strings that end the text; they are not part of it.
    pub stop: Vec<String>,
    /// Goes on past end-of-turn tokens.
    pub ignore_eos: bool,
    /// Drops whitespace at the start of the answer.
    pub trim_start: bool,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        let sampling = SamplingOptions::default();
        GenerateOptions { max_tokens: None, sampling, stop: Vec::new(), ignore_eos: false, trim_start: false }
    }
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn, or a stop string came.
    Stop,
    /// `max_tokens` were generated.
    Length,
    /// The context is full.
    ContextFull,
    /// The caller broke off.
    Cancelled,
}

/// What a generation did.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The generated ids, an end-of-turn token included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them were in the cache already.
    pub cached_tokens: usize,
    /// Time for the rest of the prompt.
    pub prefill: Duration,
    /// Time for the generated tokens after the first.
    pub decode: Duration,
}

impl Generation {
    /// Prompt tokens computed per second, or `None` where none were.
    pub fn prefill_rate(&self) -> Option<f64> {
        let tokens = self.prompt_tokens - self.cached_tokens;
        (tokens > 0).then(|| tokens as f64 / self.prefill.as_secs_f64())
    }

    /// Generated tokens per second after the first, or `None` where there is no second.
    pub fn decode_rate(&self) -> Option<f64> {
        let tokens = self.tokens.len().saturating_sub(1);
        (tokens > 0).then(|| tokens as f64 / self.decode.as_secs_f64())
    }
}

/// Is shown a token that was chosen and the logits it was chosen from.
pub type OnToken<'a> = dyn FnMut(u32, &[f32]) + 'a;

/// One sequence: its cache and the numbers in flight.
#[derive(Debug)]
pub struct Session {
    cache: SequenceCache,
    workspace: Workspace,
}

impl Session {
    /// The tokens computed so far.
    pub fn tokens(&self) -> &[u32] {
        self.cache.tokens()
    }

    /// Tokens there is room for.
    pub fn context(&self) -> usize {
        self.cache.capacity()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.cache.truncate(0);
    }
}

impl Engine {
    /// Opens and packs a model. `progress` is told the bytes of weights in memory so far.
    ///
    /// # Errors
    /// Where the model, its vocabulary or its template cannot be used.
    pub fn load(
        path: &Path,
        options: &OpenOptions,
        runtime: &Runtime,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Engine, LoadError> {
        Engine::from_source(&Source::open(path, options)?, runtime, progress)
    }

    /// As [`Engine::load`], from a source that is open already. The source may be dropped afterwards.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn from_source(source: &Source, runtime: &Runtime, progress: &mut dyn FnMut(u64)) -> Result<Engine, LoadError> {
        // A vocabulary of 128,256 tokens and 280,147 merges takes a while: it is built beside the packing.
        let (model, tokenizer) = std::thread::scope(|scope| {
            let tokenizer = scope.spawn(|| -> Result<Option<Tokenizer>, LoadError> {
                let Some(vocabulary) = source.tokenizer()? else { return Ok(None) };
                Ok(Some(Tokenizer::new(&vocabulary, source.config().vocab_size)?))
            });
            let model = Model::load(source, runtime, progress);
            let tokenizer = tokenizer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (model, tokenizer)
        });
        let (model, tokenizer) = (model?, tokenizer?);
        let template = source.chat_template();
        let chat_template = match &tokenizer {
            Some(tokenizer) => ChatTemplate::for_model(template.as_deref(), tokenizer)?,
            None => None,
        };
        Ok(Engine { model, tokenizer, chat_template, warnings: source.warnings().to_vec() })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Computes on `threads` threads from now on, 0 meaning one per core. Results do not depend on it.
    pub fn set_threads(&mut self, threads: usize) {
        self.model.set_pool(Arc::new(Pool::new(threads)));
    }

    /// What was odd about the file, in sentences for people.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The tokenizer; `purpose` names, in the error, what needs one.
    ///
    /// # Errors
    /// Where the model has none.
    pub fn tokenizer(&self, purpose: &'static str) -> Result<&Tokenizer, GenerateError> {
        self.tokenizer.as_ref().ok_or(GenerateError::NoTokenizer(purpose))
    }

    /// The chat template, if the model has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }

    /// The context a session gets unless asked otherwise.
    pub fn default_context(&self) -> usize {
        self.model.config().max_position_embeddings.min(DEFAULT_CONTEXT)
    }

    /// A new sequence with room for `context` tokens. Memory is taken as it is used.
    ///
    /// # Errors
    /// Where the system refuses to reserve the memory.
    pub fn session(&self, context: usize, kind: KvType) -> Result<Session, GenerateError> {
        let config = self.model.config();
        let cache = SequenceCache::new(config, context, kind);
        Ok(Session { cache, workspace: Workspace::new(self.model.runtime()) })
    }

    /// The ids of a text to be completed: the beginning-of-sequence token as the model wants it, then the text, in which
    /// special tokens are ordinary characters.
    ///
    /// # Errors
    /// Where the model has no tokenizer, or it refuses the text.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, GenerateError> {
        Ok(self.tokenizer("text")?.encode_prompt(text)?)
    }

    /// The ids of a conversation that the model is to continue with its answer.
    ///
    /// # Errors
    /// Where the model has no tokenizer or template, or the template refuses the messages.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>, GenerateError> {
        let tokenizer = self.tokenizer("chat")?;
        let template = self.chat_template.as_ref().ok_or(GenerateError::NoChatTemplate)?;
        Ok(encode_chat(tokenizer, template, messages, true)?)
    }

    /// Generates after `prompt`, handing each piece of text (whole characters, never part of a stop string) to `on_text`,
    /// which may break off. Works without a tokenizer too: then no text is handed out.
    ///
    /// The session keeps what was computed; a prompt that begins with the same tokens is not computed again.
    ///
    /// # Errors
    /// Where the prompt is empty or too long, an option is out of range, or the model's logits are no numbers.
    pub fn generate(
        &self,
        session: &mut Session,
        prompt: &[u32],
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation, GenerateError> {
        self.generate_observed(session, prompt, options, None, on_text)
    }

    /// As [`Engine::generate`], showing `on_token` each token that is chosen and the logits as the model computed them,
    /// before bias and penalties.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub fn generate_observed(
        &self,
        session: &mut Session,
        prompt: &[u32],
        options: &GenerateOptions,
        mut on_token: Option<&mut OnToken<'_>>,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation, GenerateError> {
        let mut sampler = Sampler::new(options.sampling.clone(), self.model.config().vocab_size)?;
        let context = session.context();
        if prompt.is_empty() {
            return Err(GenerateError::EmptyPrompt);
        }
        if prompt.len() >= context {
            return Err(GenerateError::PromptTooLong { tokens: prompt.len(), context });
        }
        let start = Instant::now();
        // The last token is computed again even if it is cached: its logits are what generation starts from.
        let cached = session.cache.common_prefix(prompt).min(prompt.len() - 1);
        session.cache.truncate(cached);
        let mut writer = Writer::new(self.tokenizer.as_ref(), options);
        let mut report = Generation {
            tokens: Vec::new(),
            finish_reason: FinishReason::Length,
            prompt_tokens: prompt.len(),
            cached_tokens: cached,
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
        };
        let (body, last) = prompt[cached..].split_at(prompt.len() - cached - 1);
        for chunk in body.chunks(PREFILL_CHUNK) {
            self.step(session, chunk, Wanted::None)?;
            // An empty text asks the caller whether to go on.
            if on_text("").is_break() {
                report.finish_reason = FinishReason::Cancelled;
                report.prefill = start.elapsed();
                return Ok(report);
            }
        }
        let mut history = prompt.to_vec();
        let mut next = last[0];
        let mut decode_start = start;
        report.finish_reason = loop {
            if report.tokens.len() >= options.max_tokens.unwrap_or(usize::MAX) {
                break FinishReason::Length;
            }
            if session.cache.len() == context {
                break FinishReason::ContextFull;
            }
            let logits = self.step(session, &[next], Wanted::Last)?;
            if let Some(bad) = logits.iter().find(|logit| logit.is_nan()) {
                return Err(GenerateError::NotFinite(*bad));
            }
            let observed = on_token.is_some().then(|| logits.to_vec());
            next = sampler.sample(logits, &history);
            if let (Some(on_token), Some(logits)) = (&mut on_token, observed) {
                on_token(next, &logits);
            }
            if report.tokens.is_empty() {
                decode_start = Instant::now();
                report.prefill = decode_start - start;
            }
            report.tokens.push(next);
            history.push(next);
            if !options.ignore_eos && self.tokenizer.as_ref().is_some_and(|t| t.end_of_generation().contains(&next)) {
                break FinishReason::Stop;
            }
            match writer.token(next, on_text) {
                Written::More => {}
                Written::StopString => break FinishReason::Stop,
                Written::Cancelled => break FinishReason::Cancelled,
            }
        };
        if report.finish_reason != FinishReason::Cancelled {
            writer.finish(on_text);
        }
        report.decode = decode_start.elapsed();
        Ok(report)
    }

    fn step<'s>(
        &self,
        session: &'s mut Session,
        tokens: &[u32],
        wanted: Wanted,
    ) -> Result<&'s mut [f32], ForwardError> {
        let Session { cache, workspace } = session;
        self.model.forward(&mut [Step { cache, tokens, wanted }], workspace)
    }

    /// Logits of every token of `ids`, `[tokens, vocab]` in pieces: `on_logits(first token, rows)`.
    ///
    /// # Errors
    /// Where the ids do not fit the session's context or the vocabulary.
    pub fn logits(
        &self,
        session: &mut Session,
        ids: &[u32],
        from: usize,
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), GenerateError> {
        session.clear();
        // Rows of logits are as wide as the vocabulary, so fewer are kept at once than tokens are computed.
        const CHUNK: usize = 128;
        for (index, chunk) in ids.chunks(CHUNK).enumerate() {
            let first = index * CHUNK;
            let wanted = from.saturating_sub(first).min(chunk.len());
            let rows = self.step(session, chunk, Wanted::From(wanted))?;
            on_logits(first + wanted, rows);
        }
        Ok(())
    }
}

/// Turns generated ids into text for the caller.
struct Writer {
    stream: Option<TextStream>,
    stops: StopMatcher,
    trim_start: bool,
}

enum Written {
    More,
    StopString,
    Cancelled,
}

impl Writer {
    fn new(tokenizer: Option<&Tokenizer>, options: &GenerateOptions) -> Self {
        Writer {
            stream: tokenizer.map(Tokenizer::continuation_decoder),
            stops: StopMatcher::new(&options.stop),
            trim_start: options.trim_start,
        }
    }

    fn token(&mut self, id: u32, on_text: &mut dyn FnMut(&str) -> ControlFlow<()>) -> Written {
        let Some(stream) = &mut self.stream else {
            return if on_text("").is_break() { Written::Cancelled } else { Written::More };
        };
        let emitted = self.stops.push(stream.push(id).unwrap_or(""));
        if self.emit(&emitted.text, on_text).is_break() {
            return Written::Cancelled;
        }
        if emitted.stopped { Written::StopString } else { Written::More }
    }

    fn finish(&mut self, on_text: &mut dyn FnMut(&str) -> ControlFlow<()>) {
        let Some(stream) = &mut self.stream else { return };
        let mut text = self.stops.push(stream.finish().unwrap_or("")).text;
        text.push_str(&self.stops.finish());
        // The generation is over either way.
        let _ = self.emit(&text, on_text);
    }

    fn emit(&mut self, text: &str, on_text: &mut dyn FnMut(&str) -> ControlFlow<()>) -> ControlFlow<()> {
        let text = if self.trim_start { text.trim_start() } else { text };
        self.trim_start &= text.is_empty();
        on_text(text)
    }
}
