//! How a model's hidden states become one vector for a text, where its file says.

use crate::error::FormatError;
use crate::formats::hf::json::Object as JsonObject;

/// How the hidden states of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over all tokens.
    Mean,
    /// The first token's.
    First,
    /// The last token's.
    Last,
}

impl Pooling {
    /// Every way.
    pub const ALL: [Pooling; 3] = [Pooling::Mean, Pooling::First, Pooling::Last];

    /// The name people type.
    pub const fn name(self) -> &'static str {
        match self {
            Pooling::Mean => "mean",
            Pooling::First => "cls",
            Pooling::Last => "last",
        }
    }

    /// The number in a GGUF, as llama.cpp has it.
    pub(super) const fn id(self) -> usize {
        match self {
            Pooling::Mean => 1,
            Pooling::First => 2,
            Pooling::Last => 3,
        }
    }

    /// What the file of sentence-transformers says, `1_Pooling/config.json`; the first of several ways that are on.
    pub(crate) fn of_sentence_transformers(file: &JsonObject<'_>) -> Result<Option<Pooling>, FormatError> {
        for (key, pooling) in [
            ("pooling_mode_lasttoken", Pooling::Last),
            ("pooling_mode_cls_token", Pooling::First),
            ("pooling_mode_mean_tokens", Pooling::Mean),
        ] {
            if file.bool(key)?.unwrap_or(false) {
                return Ok(Some(pooling));
            }
        }
        Ok(None)
    }
}
