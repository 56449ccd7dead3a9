//! Messages to the prompt a model was trained on, by the Jinja template it comes with.
//!
//! A template comes from a file and may be hostile: its size, its running time and its nesting are limited, and it sees
//! nothing but the conversation. What people wrote is protected when the rendered text becomes token ids ([`encode_chat`]):
//! control tokens count only where the template itself wrote them.
//!
//! A [`Conversation`] has the shape of OpenAI's API, tools and tool calls included, and reaches the template as transformers
//! would hand it over.

mod conversation;
mod encode;
mod environment;
mod error;
mod json;
mod prepared;
mod python;
mod source;
mod strftime;
mod template;

pub use conversation::{Conversation, Message};
pub use encode::encode_chat;
pub use error::ChatError;
#[cfg(feature = "convert")]
pub(crate) use template::BITNET;
pub use template::ChatTemplate;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod tests;
