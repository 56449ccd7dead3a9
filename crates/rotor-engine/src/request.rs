//! What is asked of an engine, and what comes back: plain values that every interface shares.

use crate::chat::ChatError;
pub use crate::config::Pooling;
use crate::constraint::{Constraint, ConstraintError};
use crate::model::ForwardError;
use crate::sample::{SamplingError, SamplingOptions};
use crate::tokenizer::TokenizerError;
use std::sync::Arc;
use std::time::Duration;

/// Why text could not be generated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The model has no tokenizer.
    #[error(
        "the model has no tokenizer: {0} needs tokenizer.json in its folder, or tokenizer.ggml keys in its metadata"
    )]
    NoTokenizer(&'static str),
    /// The model has a tokenizer that cannot be used.
    #[error("{purpose} needs the model's tokenizer, which cannot be used: {source}")]
    BrokenTokenizer {
        /// What was to be done.
        purpose: &'static str,
        /// Why it cannot be used.
        source: Arc<TokenizerError>,
    },
    /// The model has no chat template.
    #[error("the model has no chat template: use it to complete text")]
    NoChatTemplate,
    /// The model has a chat template that cannot be used.
    #[error("{0}")]
    ChatTemplate(Arc<ChatError>),
    /// A stop string that can never match.
    #[error(
        "the stop string {stop:?} has the control token {token:?} in it, which is never printed, so it cannot match: give \
         {token:?} alone, or the text without it"
    )]
    StopString {
        /// The stop string.
        stop: String,
        /// The control token.
        token: String,
    },
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
    /// The memory for keys and values holds less than the request may need.
    #[error(
        "the request may need {needed} bytes for keys and values, but there are {budget}: shorten it, or raise --kv-memory"
    )]
    MemoryTooSmall {
        /// Bytes of the longest the request can become.
        needed: u64,
        /// Bytes of the budget.
        budget: u64,
    },
    /// A number of choices that cannot be computed together.
    #[error("{choices} choices are asked for, but from 1 to {most} sequences can be computed together")]
    Choices {
        /// Choices asked for.
        choices: usize,
        /// Sequences that share a step.
        most: usize,
    },
    /// Choices that a constraint cannot be copied for.
    #[error("several choices are asked for under a constraint that cannot be copied")]
    ConstraintNotCopied,
    /// Logits that are not numbers.
    #[error("the model computed {0} for a logit: its weights are broken, or of a kind that was misread")]
    NotFinite(f32),
    /// A constraint allows no token.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
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

/// What to generate.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Most tokens to generate; `None` goes on to the end of the context.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
    /// Strings that end the text; they are not part of it. One that is the text of a control token ends it at that token.
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

/// A prompt, and what is to follow it.
#[derive(Debug)]
pub struct Request {
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// What to generate.
    pub options: GenerateOptions,
    /// Reports each token's log-probability and those of so many of the likeliest tokens; `None` for no report.
    pub logprobs: Option<usize>,
    /// How many continuations of the prompt to generate, at least one. The prompt is computed once. Choice `i` is what a
    /// request of its own whose seed is `seed + i` would give.
    pub choices: usize,
    /// Which tokens may follow which, for instance those of a grammar.
    pub constraint: Option<Box<dyn Constraint>>,
}

impl Request {
    /// A request for one continuation.
    pub fn new(prompt: Vec<u32>, options: GenerateOptions) -> Request {
        Request { prompt, options, logprobs: None, choices: 1, constraint: None }
    }
}

/// A text whose meaning is wanted as a vector.
#[derive(Clone, Debug)]
pub struct EmbedRequest {
    /// Token ids, at least one.
    pub tokens: Vec<u32>,
    /// How the tokens' hidden states, after the final norm, become one vector.
    pub pooling: Pooling,
    /// Divides the vector by its length.
    pub normalize: bool,
}

/// What happens to a request, in order.
#[derive(Debug)]
pub enum Event {
    /// A further part of the prompt was computed.
    Prompt {
        /// Tokens of the prompt that are done, those found in the cache included.
        done: usize,
        /// Tokens of the prompt.
        of: usize,
        /// Tokens of the prompt that were found in the cache.
        cached: usize,
    },
    /// A token was generated.
    Token(Token),
    /// A choice is complete. The request has ended when all its choices have.
    Finished(Finished),
    /// A choice could not go on. Other choices and requests are not affected.
    Failed {
        /// Which choice.
        choice: usize,
        /// Why.
        error: GenerateError,
    },
    /// The vector that was asked for, `[hidden]`. The request has ended.
    Embedding(Vec<f32>),
}

/// A generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Which choice it belongs to.
    pub choice: usize,
    /// Its id.
    pub id: u32,
    /// The text that is certain now: whole characters, never part of a stop string. Often empty, or more than this token's,
    /// and always empty where the model has no tokenizer.
    pub text: String,
    /// Whether it had been guessed and computed ahead.
    pub drafted: bool,
    /// Log-probabilities, if they were asked for.
    pub logprobs: Option<TokenLogprobs>,
}

/// Natural logarithms of probabilities as the model computed them, before bias, penalties and constraints.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Of the token that was chosen.
    pub logprob: f64,
    /// Ids and log-probabilities of the likeliest tokens, the likeliest first, ties by the lower id.
    pub top: Vec<(u32, f64)>,
}

/// The end of a choice.
#[derive(Clone, Debug, Default)]
pub struct Finished {
    /// Which choice.
    pub choice: usize,
    /// Text that was held back and belongs to the answer after all; it follows the last token's.
    pub text: String,
    /// The stop string that ended the text, if one did.
    pub stop: Option<String>,
    /// What was done.
    pub generation: Generation,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn, or a stop string came, or a constraint is satisfied.
    Stop,
    /// `max_tokens` were generated.
    Length,
    /// The context is full.
    ContextFull,
    /// The caller broke off.
    #[default]
    Cancelled,
}

impl FinishReason {
    /// Its name: OpenAI's where it has one.
    pub const fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::ContextFull => "context_full",
            FinishReason::Cancelled => "cancelled",
        }
    }
}

/// What a generation did.
#[derive(Clone, Debug, Default)]
pub struct Generation {
    /// The generated ids, an end-of-turn token included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them were in the cache already.
    pub cached_tokens: usize,
    /// The seed that tokens were chosen with; it gives the same tokens again.
    pub seed: u64,
    /// Tokens that were guessed and computed ahead.
    pub draft_tokens: usize,
    /// How many of them were chosen then.
    pub accepted_tokens: usize,
    /// Time from the request to the first step that computed something of it.
    pub queued: Duration,
    /// Time from there to the first token.
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
