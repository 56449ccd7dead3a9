//! `POST /v1/completions`.

use super::sampling::{MAX_TOKENS, Sampling};
use super::{Usage, finite, stream, token};
use crate::app::App;
use crate::body::{Int, Json, integer};
use crate::error::{ApiError, Dialect};
use crate::generation::{Ask, Logprob, Piece, Running, timings_of};
use crate::models::Loaded;
use crate::parts::Part;
use crate::requests::Caller;
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
    /// Log-probabilities with so many alternatives.
    #[schema(minimum = 0, maximum = 20)]
    pub(crate) logprobs: Option<Int>,
    /// Sends the answer as it is made.
    pub(crate) stream: Option<bool>,
    /// Of the stream.
    pub(crate) stream_options: Option<super::chat::StreamOptions>,
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
        (status = 200, description = "The continuation, or a stream of its pieces", content((Object = "application/json"), (String = "text/event-stream"))),
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
    let choices = request.sampling.choices()?;
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
    let answer = Answer {
        id: crate::ids::unique("cmpl-"),
        created: crate::requests::now() as u64,
        running: crate::generation::begin(model, ask, tracked)?,
        top,
        include_usage: request.stream_options.is_some_and(|options| options.include_usage == Some(true)),
        request_id: caller.id.clone(),
        usage: Usage::default(),
        offsets: vec![0; choices],
        timings: Value::Null,
        ended: false,
    };
    if request.stream == Some(true) { Ok(answer.stream()) } else { answer.whole().await }
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

/// A continuation on its way.
struct Answer {
    id: String,
    created: u64,
    running: Running,
    top: Option<usize>,
    include_usage: bool,
    request_id: String,
    usage: Usage,
    /// Characters of each choice so far.
    offsets: Vec<usize>,
    timings: Value,
    ended: bool,
}

impl Answer {
    async fn whole(mut self) -> Result<Response, ApiError> {
        let mut texts = vec![(String::new(), Vec::new(), ""); self.running.choices];
        while let Some(piece) = self.running.next().await {
            match piece {
                Piece::Progress { .. } => {}
                Piece::Parts { choice, parts, logprobs } => {
                    texts[choice].0.extend(parts.into_iter().filter_map(text_of));
                    texts[choice].1.extend(logprobs);
                }
                Piece::End { choice, finish, generation, .. } => {
                    texts[choice].2 = finish.openai();
                    self.usage.add(&generation);
                    self.timings = timings_of(&generation);
                }
                Piece::Failed(error) => return Err(error),
            }
        }
        let choices: Vec<_> = texts
            .into_iter()
            .enumerate()
            .map(|(index, (text, logprobs, finish))| {
                let logprobs = self.logprobs(index, &logprobs);
                json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": finish })
            })
            .collect();
        let mut body = self.frame(choices);
        body["usage"] = self.usage.json();
        body["timings"] = self.timings;
        Ok(axum::Json(body).into_response())
    }

    fn stream(self) -> Response {
        stream::response(stream::unfold(self, |mut answer| async move {
            if answer.ended {
                return None;
            }
            let events = answer.events().await;
            Some((events, answer))
        }))
    }

    async fn events(&mut self) -> Vec<Event> {
        match self.running.next().await {
            Some(Piece::Progress { .. }) => Vec::new(),
            Some(Piece::Parts { choice, parts, logprobs }) => {
                let text: String = parts.into_iter().filter_map(text_of).collect();
                let logprobs = self.logprobs(choice, &logprobs);
                let choice = json!({ "index": choice, "text": text, "logprobs": logprobs, "finish_reason": null });
                vec![stream::data(&self.frame(vec![choice]))]
            }
            Some(Piece::End { choice, finish, generation, .. }) => {
                self.usage.add(&generation);
                let choice = json!({ "index": choice, "text": "", "logprobs": null, "finish_reason": finish.openai() });
                let mut chunk = self.frame(vec![choice]);
                self.timings = timings_of(&generation);
                chunk["timings"] = self.timings.clone();
                vec![stream::data(&chunk)]
            }
            Some(Piece::Failed(error)) => {
                self.ended = true;
                vec![stream::data(&error.body(Dialect::OpenAi, &self.request_id))]
            }
            None => {
                self.ended = true;
                let mut events = Vec::new();
                if self.include_usage {
                    let mut chunk = self.frame(Vec::new());
                    chunk["usage"] = self.usage.json();
                    events.push(stream::data(&chunk));
                }
                events.push(stream::done());
                events
            }
        }
    }

    fn frame(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id, "object": "text_completion", "created": self.created, "model": self.running.model.id,
            "system_fingerprint": crate::FINGERPRINT, "choices": choices,
        })
    }

    /// The older shape of log-probabilities: one list for each kind of thing.
    fn logprobs(&mut self, choice: usize, logprobs: &[Logprob]) -> Value {
        let Some(top) = self.top else { return Value::Null };
        let engine = self.running.model.engine();
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

fn text_of(part: Part) -> Option<String> {
    match part {
        Part::Content(text) | Part::Reasoning(text) => Some(text),
        Part::Call { .. } | Part::Arguments { .. } => None,
    }
}
