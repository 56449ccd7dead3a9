//! From a path to generated text: the life of a model and of a request.
//!
//! An [`Engine`] is a model, its tokenizer and its chat template, loaded side by side. A request ([`crate::request`]) becomes
//! a sequence ([`crate::sequence`]) of a batch ([`crate::batch`]), whose steps compute some tokens of many sequences
//! ([`crate::model`]) and yield events. Whoever serves several callers gives the engine and its batch to a thread of their own
//! ([`crate::actor`]); whoever generates one text after the other uses a [`Session`] and takes the events as an iterator
//! ([`Engine::events`]). What was computed is kept, so a prompt that begins like an earlier one only pays for what is new.

use crate::batch::{Batch, BatchOptions, RequestId};
use crate::chat::{ChatError, ChatTemplate, Conversation, Message, encode_chat};
use crate::error::FormatError;
use crate::formats::{OpenOptions, Source};
use crate::head::{HeadCounts, calibration};
use crate::model::{Model, Step, Wanted};
use crate::plan::MemoryPlan;
use crate::request::{Event, Finished, Request};
use crate::runtime::Runtime;
use crate::threads;
use crate::tokenizer::{Tokenizer, TokenizerError};
use rotor_kernels::Pool;
use rotor_kernels::attention::KvType;
use rotor_kernels::ternary::SkipCounts;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

pub use crate::cost::PREFILL_CHUNK;
pub use crate::request::{FinishReason, GenerateError, GenerateOptions, Generation};

/// Rows of logits that are held at once; a row is as wide as the vocabulary.
const LOGIT_ROWS: usize = 128;

/// Context of a session unless asked otherwise: the model's own, but no more than this.
pub const DEFAULT_CONTEXT: usize = 4096;

/// Why a model cannot be loaded for generating text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file or folder.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// A model ready to generate.
#[derive(Debug)]
pub struct Engine {
    model: Model,
    tokenizer: Option<Tokenizer>,
    /// Why there is no tokenizer, where the model has one that cannot be used.
    broken_tokenizer: Option<Arc<TokenizerError>>,
    chat_template: Option<Result<ChatTemplate, Arc<ChatError>>>,
    warnings: Vec<String>,
}

/// A batch of one sequence, for those who generate one text after the other.
#[derive(Debug)]
pub struct Session {
    batch: Batch,
    tokens: Vec<u32>,
}

impl Session {
    /// The tokens computed for the last text.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens there is room for.
    pub fn context(&self) -> usize {
        self.batch.options().context
    }

    /// What choosing tokens from bounds of the logits has taken, of all texts so far.
    pub fn head_counts(&self) -> HeadCounts {
        self.batch.head_counts()
    }

    /// What a few tokens at a time have read of linears that can leave rows and columns unread, of all texts so far.
    pub fn skip_counts(&self) -> SkipCounts {
        self.batch.skip_counts()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.batch.forget();
        self.tokens.clear();
    }
}

impl Engine {
    /// Opens and packs a model. `progress` is told the bytes of weights in memory so far.
    ///
    /// # Errors
    /// Where the model or its template cannot be used. A tokenizer that cannot is an error for those who need text.
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
        let tokenizer = || -> Result<Option<Tokenizer>, TokenizerError> {
            let description = source.tokenizer_description()?;
            description.map(|description| Tokenizer::from_description(&description)).transpose()
        };
        let (model, tokenizer) = threads::both(|| Model::load(source, runtime, progress), tokenizer);
        let mut model = model?;
        let mut warnings = source.warnings().to_vec();
        // A tokenizer that cannot be used stops those who need text, and nobody else.
        let (tokenizer, broken_tokenizer) = match tokenizer {
            Ok(tokenizer) => (tokenizer, None),
            Err(error) => {
                warnings.push(format!("the tokenizer cannot be used, token ids can: {error}"));
                (None, Some(Arc::new(error)))
            }
        };
        warnings.extend(tokenizer.iter().flat_map(|tokenizer| tokenizer.warnings().iter().cloned()));
        let chat_template = tokenizer.as_ref().and_then(|tokenizer| chat_template(source, tokenizer, &mut warnings));
        if MemoryPlan::sketch_of(source)?.is_some() {
            // Without one everything works, and reads more.
            let ids = calibration(tokenizer.as_ref(), model.config().vocab_size);
            warnings.extend(model.sketch_head(&ids).err().map(|error| error.to_string()));
            progress(model.weight_bytes() as u64);
        }
        Ok(Engine { model, tokenizer, broken_tokenizer, chat_template, warnings })
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
    /// Where the model has none, or one that cannot be used.
    pub fn tokenizer(&self, purpose: &'static str) -> Result<&Tokenizer, GenerateError> {
        self.tokenizer.as_ref().ok_or_else(|| match &self.broken_tokenizer {
            Some(error) => GenerateError::BrokenTokenizer { purpose, source: Arc::clone(error) },
            None => GenerateError::NoTokenizer(purpose),
        })
    }

    /// The chat template.
    ///
    /// # Errors
    /// Where the model has none, or one that is broken: everything but chats works without.
    pub fn chat_template(&self) -> Result<&ChatTemplate, GenerateError> {
        let template = self.chat_template.as_ref().ok_or(GenerateError::NoChatTemplate)?;
        template.as_ref().map_err(|error| GenerateError::ChatTemplate(Arc::clone(error)))
    }

    /// The context a session gets unless asked otherwise.
    pub fn default_context(&self) -> usize {
        self.model.config().max_position_embeddings.min(DEFAULT_CONTEXT)
    }

    /// Sequences that will share steps.
    pub fn batch(&self, options: BatchOptions) -> Batch {
        Batch::new(&self.model, options)
    }

    /// A batch of one sequence with room for `context` tokens and memory for that many. It is taken as it is used.
    pub fn session(&self, context: usize, kv: KvType) -> Session {
        self.session_with(BatchOptions { kv, ..BatchOptions::new(context) })
    }

    /// A batch of one sequence. Without `kv_memory` there is memory for one context.
    pub fn session_with(&self, options: BatchOptions) -> Session {
        let kv_memory = options.kv_memory.unwrap_or_else(|| options.context_bytes(self.model.config()));
        let options = BatchOptions { kv_memory: Some(kv_memory), sequences: 1, ..options };
        Session { batch: self.batch(options), tokens: Vec::new() }
    }

    /// Gives a request to a batch; [`Batch::step`] computes it.
    ///
    /// # Errors
    /// As [`Batch::add`].
    pub fn submit(&self, batch: &mut Batch, request: Request) -> Result<RequestId, GenerateError> {
        batch.add(request, self.optional_tokenizer()?)
    }

    /// The tokenizer, if the model has one.
    pub(crate) fn optional_tokenizer(&self) -> Result<Option<&Tokenizer>, GenerateError> {
        match self.tokenizer("text") {
            Ok(tokenizer) => Ok(Some(tokenizer)),
            Err(GenerateError::NoTokenizer(_)) => Ok(None),
            Err(error) => Err(error),
        }
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
    /// As [`Engine::encode_conversation`].
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>, GenerateError> {
        self.encode_conversation(&messages.into())
    }

    /// The ids of a conversation in the shape of OpenAI's API, with tools and the template's arguments.
    ///
    /// # Errors
    /// Where the model has no tokenizer or template, or the template refuses the conversation.
    pub fn encode_conversation(&self, conversation: &Conversation) -> Result<Vec<u32>, GenerateError> {
        Ok(encode_chat(self.tokenizer("chat")?, self.chat_template()?, conversation)?)
    }

    /// Generates after `prompt`, handing each piece of text (whole characters, never part of a stop string) to `on_text`,
    /// which may break off; what was held back for a stop string comes after that, as the last piece. Works without a tokenizer too: then no text is handed out.
    ///
    /// The session keeps what was computed; a prompt that begins with the same tokens is not computed again.
    ///
    /// # Errors
    /// As [`Engine::events`].
    pub fn generate(
        &self,
        session: &mut Session,
        prompt: &[u32],
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation, GenerateError> {
        self.complete(session, Request::new(prompt.to_vec(), options.clone()), on_text)
    }

    /// As [`Engine::generate`], for a request of one choice, which may have a constraint.
    ///
    /// # Errors
    /// As [`Engine::events`].
    pub fn complete(
        &self,
        session: &mut Session,
        request: Request,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation, GenerateError> {
        let mut events = self.events(session, request)?;
        for event in events.by_ref() {
            let text = match event? {
                Event::Token(token) => token.text,
                Event::Finished(finished) => {
                    // The generation is over, whatever the answer.
                    let _ = on_text(&finished.text);
                    return Ok(finished.generation);
                }
                // An empty text asks the caller whether to go on.
                _ => String::new(),
            };
            if on_text(&text).is_break() {
                break;
            }
        }
        let finished = events.end();
        if !finished.text.is_empty() {
            // As above.
            let _ = on_text(&finished.text);
        }
        Ok(finished.generation)
    }

    /// Begins to generate: computes as the events are taken. Dropping the iterator breaks off.
    ///
    /// # Errors
    /// If the prompt is empty or too long, or an option is out of range. An item is an error if the model's logits are not
    /// numbers, or memory is refused.
    pub fn events<'a>(&'a self, session: &'a mut Session, request: Request) -> Result<Events<'a>, GenerateError> {
        session.tokens.clone_from(&request.prompt);
        let id = self.submit(&mut session.batch, request)?;
        Ok(Events { model: &self.model, session, id, ready: VecDeque::new() })
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
        let hidden_size = self.model.config().hidden_size;
        let (mut cache, workspace) = session.batch.lend();
        for (index, tokens) in ids.chunks(PREFILL_CHUNK).enumerate() {
            let first = index * PREFILL_CHUNK;
            let unwanted = from.saturating_sub(first).min(tokens.len());
            let step = Step { cache: &mut cache, tokens, wanted: Wanted::From(unwanted) };
            let rows = self.model.hidden(&mut [step], workspace)?.len() / hidden_size;
            for row in (0..rows).step_by(LOGIT_ROWS) {
                let logits = self.model.head(row..rows.min(row + LOGIT_ROWS), workspace);
                on_logits(first + unwanted + row, logits);
            }
        }
        Ok(())
    }
}

/// The source's chat template, compiled. What is wrong with it is a warning; it is an error only for those who chat.
fn chat_template(
    source: &Source,
    tokenizer: &Tokenizer,
    warnings: &mut Vec<String>,
) -> Option<Result<ChatTemplate, Arc<ChatError>>> {
    let text = source.chat_template().map_err(ChatError::from);
    match text.and_then(|text| ChatTemplate::for_model(text.as_deref(), tokenizer)) {
        Ok(None) => None,
        Ok(Some(template)) => {
            let spelled = template.spelled_tokens(tokenizer);
            if !spelled.is_empty() {
                warnings.push(format!(
                    "the chat template writes {}, which the file has as ordinary tokens: the model sees their characters, \
                     and may not end its answers",
                    spelled.join(", ")
                ));
            }
            Some(Ok(template))
        }
        Err(error) => {
            warnings.push(format!("{error}: chats will not work, everything else does"));
            Some(Err(Arc::new(error)))
        }
    }
}

/// A text as it is generated.
#[derive(Debug)]
pub struct Events<'a> {
    model: &'a Model,
    session: &'a mut Session,
    id: RequestId,
    ready: VecDeque<Event>,
}

impl Iterator for Events<'_> {
    type Item = Result<Event, GenerateError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && self.session.batch.contains(self.id) {
            let events = self.session.batch.step(self.model);
            self.ready.extend(events.into_iter().map(|(_, event)| event));
        }
        let event = self.ready.pop_front()?;
        match event {
            Event::Failed { error, .. } => Some(Err(error)),
            event => {
                if let Event::Token(token) = &event {
                    self.session.tokens.push(token.id);
                }
                Some(Ok(event))
            }
        }
    }
}

impl Events<'_> {
    /// Breaks off and returns what was done so far.
    pub fn cancel(self) -> Generation {
        self.end().generation
    }

    /// As [`Events::cancel`], with the text that was held back for a stop string.
    fn end(mut self) -> Finished {
        let cancelled = self.session.batch.cancel(self.id);
        let (mut untaken, mut finished) = (0, Finished::default());
        for event in self.ready.drain(..).chain(cancelled) {
            match event {
                Event::Token(_) => untaken += 1,
                Event::Finished(end) => finished = end,
                _ => {}
            }
        }
        // Tokens that the last step chose and nobody took are no part of the text, nor is what follows them.
        if untaken > 0 {
            finished.text.clear();
            let tokens = &mut finished.generation.tokens;
            tokens.truncate(tokens.len() - untaken.min(tokens.len()));
        }
        finished.generation.finish_reason = FinishReason::Cancelled;
        finished
    }
}

impl Drop for Events<'_> {
    fn drop(&mut self) {
        self.session.batch.cancel(self.id);
    }
}
