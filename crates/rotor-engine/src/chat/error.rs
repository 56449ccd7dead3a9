//! Why a conversation cannot become a prompt.

use crate::error::FormatError;
use crate::tokenizer::TokenizerError;
use minijinja::Error;

/// Longest template, in bytes. The longest published ones have about 20 kB.
pub(super) const MAX_TEMPLATE_BYTES: usize = 1 << 20;

/// Why a conversation cannot become a prompt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The template is larger than any honest one.
    #[error("the chat template is {found} bytes long; at most {MAX_TEMPLATE_BYTES} are taken")]
    TemplateTooLong {
        /// Its length.
        found: usize,
    },
    /// The file that has the template is broken.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The template is not valid Jinja.
    #[error("the chat template cannot be read: {0}")]
    Template(#[source] Error),
    /// The template refuses these messages, or does not come to an end.
    #[error("the chat template fails on these messages: {0}")]
    Render(#[source] Error),
    /// A message is not what OpenAI's API and transformers take.
    #[error("message {index} {why}")]
    Message {
        /// The message, counted from 0.
        index: usize,
        /// What is wrong with it, as the end of a sentence.
        why: String,
    },
    /// A role that could smuggle text into the prompt.
    #[error("a message's role must be 1 to 64 letters, digits, '_' or '-', not {found:?}")]
    Role {
        /// The role.
        found: String,
    },
    /// Tools for a template that has no place for them.
    #[error("the model's chat template does not mention tools, so the model was not trained to call any")]
    NoTools,
    /// An argument for the template has the name of something it is given anyway.
    #[error("{name:?} cannot be given to the chat template as an argument: it is part of the conversation")]
    Argument {
        /// The argument.
        name: String,
    },
    /// The last message cannot be continued.
    #[error("the last message cannot be continued: {why}")]
    Continue {
        /// Why, as a sentence.
        why: &'static str,
    },
    /// The template changes what people wrote, so control tokens in it cannot be told from the template's own.
    #[error("{place} contains a control token of the model, and the chat template rewrites the text around it")]
    ControlToken {
        /// "message 0", "a tool".
        place: String,
    },
    /// The rendered text cannot be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}
