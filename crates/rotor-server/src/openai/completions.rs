//! `POST /v1/completions`.

use super::answer::{Frame, StreamOptions};
use super::sampling::{MAX_TOKENS, Sampling, choices};
use super::{finite, token};
use crate::app::App;
use crate::body::{Int, Json, integer};
use crate::error::ApiError;
use crate::generation::{Ask, Logprob, Piece};
use crate::models::Loaded;
use crate::parts::Part;
use crate::requests::Caller;
use crate::stream;
use axum::Extension;
use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use utoipa::ToSchema;

/// Tokens of an answer unless asked otherwise, as at OpenAI.
const DEFAULT_TOKENS: usize = 16;

/// One prompt: a text, or its ids.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Prompt {
    /// A text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// The ids of a text.
    Ids(Vec<u32>),
    /// Those of several texts.
    ManyIds(Vec<Vec<u32>>),
}

/// A text that is to be continued. Fields that are not listed are ignored.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct CompletionRequest {
    /// The model; with one model on the server any name will do.
    pub(crate) model: Option<String>,
    /// The text.
    pub(crate) prompt: Prompt,
    /// Tokens of the answer at most.
    #[schema(minimum = 1, maximum = 16777216)]
    pub(crate) max_tokens: Option<Int>,
    #[serde(flatten)]
    pub(crate) sampling: Sampling,
    /// How many continuations.
    #[schema(minimum = 1, maximum = 16)]
    pub(crate) n: Option<Int>,
    /// Log-probabilities with so many alternatives.
    #[schema(minimum = 0, maximum = 20)]
    pub(crate) logprobs: Option<Int>,
    /// Sends the answer as it is made.
    pub(crate) stream: Option<bool>,
    /// Of the stream.
    pub(crate) stream_options: Option<StreamOptions>,
    /// Not supported.
    #[schema(ignore)]
    pub(crate) suffix: Option<Value>,
    /// Not supported, except as false.
    #[schema(ignore)]
    pub(crate) echo: Option<Value>,
    /// Not supported beyond `n`.
    #[schema(ignore)]
    pub(crate) best_of: Option<Int>,
}

/// Continues a text.
#[utoipa::path(
    post, path = "/v1/completions", tag = "openai", request_body = CompletionRequest,
    responses(
        (status = 200, description = "The continuation, or a stream of its pieces", content((Object = "application/json"), (crate::openapi::StreamEvent = "text/event-stream"))),
        crate::openapi::Errors,
    ),
)]
pub(crate) async fn completions(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Json(request): Json<CompletionRequest>,
) -> Result<Response, ApiError> {
    let given =
        |value: &Option<Value>| value.as_ref().is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)));
    if given(&request.suffix) {
        return Err(ApiError::unsupported("suffix", "suffix"));
    }
    if given(&request.echo) {
        return Err(ApiError::unsupported("echo", "echo"));
    }
    let choices = choices(request.n)?;
    if request.best_of.is_some_and(|best| best.0 != choices as i64) {
        return Err(ApiError::unsupported("best_of", "best_of other than n"));
    }
    let tracked = app.track(&caller, request.model.as_deref(), "openai.completions");
    let model = app.models.get(request.model.as_deref()).await?;
    let max_tokens = integer("max_tokens", request.max_tokens, 1, MAX_TOKENS)?.unwrap_or(DEFAULT_TOKENS);
    let options = request.sampling.options(&model, Some(max_tokens))?;
    let prompt = one_prompt(&model, request.prompt)?;
    let top = integer("logprobs", request.logprobs, 0, 20)?;
    let mut ask = Ask::new(prompt, options, "prompt");
    ask.request.choices = choices;
    ask.request.logprobs = top.map(|top| top.max(1));
    let running = crate::generation::begin(model, ask, tracked)?;
    let answer =
        Answer { frame: Frame::new("cmpl-", running, &caller, request.stream_options), top, offsets: vec![0; choices] };
    if request.stream == Some(true) { Ok(stream::response(answer)) } else { answer.whole().await }
}

fn one_prompt(model: &Loaded, prompt: Prompt) -> Result<Vec<u32>, ApiError> {
    let several =
        || ApiError::field("prompt", "several prompts in one request are not supported: send one request for each");
    let text = match prompt {
        Prompt::Ids(ids) => return Ok(ids),
        Prompt::ManyIds(mut prompts) => {
            return if prompts.len() == 1 { Ok(prompts.swap_remove(0)) } else { Err(several()) };
        }
        Prompt::Text(text) => text,
        Prompt::Texts(mut texts) if texts.len() == 1 => texts.swap_remove(0),
        Prompt::Texts(_) => return Err(several()),
    };
    model.engine().encode_prompt(&text).map_err(|error| ApiError::of_generation(&error, "prompt"))
}

/// What an answer, and each piece of a stream, is.
const OBJECT: &str = "text_completion";

/// A continuation on its way.
struct Answer {
    frame: Frame,
    /// Alternatives of each token, where log-probabilities are wanted.
    top: Option<usize>,
    /// Characters of each choice so far.
    offsets: Vec<usize>,
}

impl Answer {
    async fn whole(mut self) -> Result<Response, ApiError> {
        let mut texts = vec![(String::new(), Vec::new(), ""); self.frame.running.choices];
        while let Some(piece) = self.frame.running.next().await {
            match piece {
                Piece::Progress { .. } => {}
                Piece::Parts { choice, parts, logprobs } => {
                    texts[choice].0.extend(parts.into_iter().filter_map(text_of));
                    texts[choice].1.extend(logprobs);
                }
                Piece::End { choice, finish, generation, .. } => {
                    texts[choice].2 = finish.openai();
                    self.frame.ended(&generation);
                }
                Piece::Failed(error) => return Err(error),
            }
        }
        let choices: Value = texts
            .into_iter()
            .enumerate()
            .map(|(index, (text, logprobs, finish))| {
                let logprobs = self.logprobs(index, &logprobs);
                json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": finish })
            })
            .collect();
        Ok(axum::Json(self.frame.whole(OBJECT, choices)).into_response())
    }

    /// The older shape of log-probabilities: one list for each kind of thing.
    fn logprobs(&mut self, choice: usize, logprobs: &[Logprob]) -> Value {
        let Some(top) = self.top else { return Value::Null };
        let engine = self.frame.running.model.engine();
        let (mut tokens, mut values, mut tops, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for Logprob { id, logprobs, .. } in logprobs {
            let (text, _) = token(engine, *id);
            offsets.push(self.offsets[choice]);
            self.offsets[choice] += text.chars().count();
            let alternatives: Map<String, Value> = logprobs
                .top
                .iter()
                .take(top)
                .map(|(id, logprob)| (token(engine, *id).0, finite(*logprob).into()))
                .collect();
            tokens.push(text);
            values.push(finite(logprobs.logprob));
            tops.push(alternatives);
        }
        json!({ "tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets })
    }
}

impl stream::Answer for Answer {
    async fn events(&mut self) -> Option<Vec<Event>> {
        if self.frame.is_over() {
            return None;
        }
        Some(match self.frame.running.next().await {
            Some(Piece::Progress { .. }) => Vec::new(),
            Some(Piece::Parts { choice, parts, logprobs }) => {
                let text: String = parts.into_iter().filter_map(text_of).collect();
                let logprobs = self.logprobs(choice, &logprobs);
                let choice = json!({ "index": choice, "text": text, "logprobs": logprobs, "finish_reason": null });
                vec![stream::data(&self.frame.chunk(OBJECT, json!([choice])))]
            }
            Some(Piece::End { choice, finish, generation, .. }) => {
                self.frame.ended(&generation);
                let choice = json!({ "index": choice, "text": "", "logprobs": null, "finish_reason": finish.openai() });
                let mut chunk = self.frame.chunk(OBJECT, json!([choice]));
                chunk["timings"] = self.frame.timings().clone();
                vec![stream::data(&chunk)]
            }
            Some(Piece::Failed(error)) => self.frame.failed(&error),
            None => self.frame.last(OBJECT),
        })
    }
}

fn text_of(part: Part) -> Option<String> {
    match part {
        Part::Content(text) | Part::Reasoning(text) => Some(text),
        Part::Call { .. } | Part::Arguments { .. } => None,
    }
}
