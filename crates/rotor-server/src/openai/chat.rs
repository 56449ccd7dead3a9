//! `POST /v1/chat/completions`.

use super::answer::{Frame, StreamOptions};
use super::content_logprobs;
use super::sampling::{MAX_TOKENS, MAX_TOP_LOGPROBS, Sampling, choices};
use crate::app::App;
use crate::body::{Int, Json, integer};
use crate::error::ApiError;
use crate::generation::Piece;
use crate::parts::Part;
use crate::prompt::{self, ChatPrompt, Tools};
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

/// A conversation that is to be answered. Fields that are not listed are ignored.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ChatRequest {
    /// The model; with one model on the server any name will do.
    pub(crate) model: Option<String>,
    /// The conversation, oldest first: objects with `role` and `content`.
    #[schema(min_items = 1, value_type = Vec<Object>)]
    pub(crate) messages: Vec<Value>,
    /// Tokens of the answer at most.
    #[schema(minimum = 1, maximum = 16777216)]
    pub(crate) max_completion_tokens: Option<Int>,
    /// The older name of `max_completion_tokens`.
    #[schema(minimum = 1, maximum = 16777216)]
    pub(crate) max_tokens: Option<Int>,
    #[serde(flatten)]
    pub(crate) sampling: Sampling,
    /// How many answers.
    #[schema(minimum = 1, maximum = 16)]
    pub(crate) n: Option<Int>,
    /// Log-probabilities of the tokens.
    pub(crate) logprobs: Option<bool>,
    /// So many alternatives of each token.
    #[schema(minimum = 0, maximum = 20)]
    pub(crate) top_logprobs: Option<Int>,
    /// Sends the answer as it is made.
    pub(crate) stream: Option<bool>,
    /// Of the stream.
    pub(crate) stream_options: Option<StreamOptions>,
    /// Functions that the model may call.
    #[schema(value_type = Option<Vec<Object>>)]
    pub(crate) tools: Option<Vec<Value>>,
    /// "none", "auto", "required", or the function to call.
    #[schema(value_type = Option<Object>)]
    pub(crate) tool_choice: Option<Value>,
    /// Whether several functions may be called at once.
    pub(crate) parallel_tool_calls: Option<bool>,
    /// The form that the answer must have.
    #[schema(value_type = Option<Object>)]
    pub(crate) response_format: Option<Value>,
    /// "none" asks the model not to think.
    pub(crate) reasoning_effort: Option<String>,
    /// Further arguments of the model's chat template.
    #[schema(value_type = Option<Object>)]
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
    /// Goes on with the last message, which is the assistant's.
    pub(crate) continue_final_message: Option<bool>,
    /// Begins an answer behind the last message.
    pub(crate) add_generation_prompt: Option<bool>,
    /// Tells in the stream how far the prompt is.
    pub(crate) return_progress: Option<bool>,
    /// Sends timings with every token.
    pub(crate) timings_per_token: Option<bool>,
    /// Not supported.
    #[schema(ignore)]
    pub(crate) audio: Option<Value>,
    /// Not supported.
    #[schema(ignore)]
    pub(crate) functions: Option<Value>,
    /// Not supported.
    #[schema(ignore)]
    pub(crate) function_call: Option<Value>,
}

/// Answers a conversation.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "openai", request_body = ChatRequest,
    responses(
        (status = 200, description = "The answer, or a stream of its pieces", content((Object = "application/json"), (crate::openapi::StreamEvent = "text/event-stream"))),
        crate::openapi::Errors,
    ),
)]
pub(crate) async fn chat_completions(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Json(request): Json<ChatRequest>,
) -> Result<Response, ApiError> {
    for (name, value) in
        [("audio", &request.audio), ("functions", &request.functions), ("function_call", &request.function_call)]
    {
        if value.as_ref().is_some_and(|value| !value.is_null()) {
            return Err(ApiError::unsupported(name, name));
        }
    }
    let tracked = app.track(&caller, request.model.as_deref(), "openai.chat");
    let model = app.models.get(request.model.as_deref()).await?;
    let max_tokens = match request.max_completion_tokens {
        Some(_) => integer("max_completion_tokens", request.max_completion_tokens, 1, MAX_TOKENS)?,
        None => integer("max_tokens", request.max_tokens, 1, MAX_TOKENS)?,
    };
    let top = integer("top_logprobs", request.top_logprobs, 0, MAX_TOP_LOGPROBS)?;
    if top.is_some_and(|top| top > 0) && request.logprobs != Some(true) {
        return Err(ApiError::field("top_logprobs", "top_logprobs needs logprobs to be true"));
    }
    let options = request.sampling.options(&model, max_tokens)?;
    let chat = ChatPrompt {
        messages: &request.messages,
        tools: Tools::read(request.tools.as_deref(), request.tool_choice.as_ref(), request.parallel_tool_calls)?,
        format: request.response_format.as_ref(),
        format_field: "response_format",
        thinking: request.reasoning_effort.as_deref().map(|effort| effort != "none"),
        arguments: request.chat_template_kwargs.clone().unwrap_or_default(),
        continue_final_message: request.continue_final_message.unwrap_or(false),
        add_generation_prompt: request.add_generation_prompt,
    };
    let mut ask = prompt::ask(&model, chat, options)?;
    ask.request.choices = choices(request.n)?;
    ask.request.logprobs = (request.logprobs == Some(true)).then(|| top.unwrap_or(0).max(1));
    let running = crate::generation::begin(model, ask, tracked)?;
    let answer = Answer {
        frame: Frame::new("chatcmpl-", running, &caller, request.stream_options),
        top: (request.logprobs == Some(true)).then(|| top.unwrap_or(0)),
        progress: request.return_progress == Some(true),
        timings: request.timings_per_token == Some(true),
        begun: false,
    };
    if request.stream == Some(true) { Ok(stream::response(answer)) } else { answer.whole().await }
}

/// What the pieces of a stream are.
const CHUNK: &str = "chat.completion.chunk";

/// A chat's answer on its way.
struct Answer {
    frame: Frame,
    /// Alternatives of each token, where log-probabilities are wanted.
    top: Option<usize>,
    progress: bool,
    timings: bool,
    /// The roles were sent.
    begun: bool,
}

/// A choice, put together.
#[derive(Clone, Debug, Default)]
struct Choice {
    content: String,
    reasoning: String,
    /// Names and arguments.
    calls: Vec<(String, String)>,
    logprobs: Vec<Value>,
    finish: &'static str,
}

impl Answer {
    async fn whole(mut self) -> Result<Response, ApiError> {
        let mut choices = vec![Choice::default(); self.frame.running.choices];
        while let Some(piece) = self.frame.running.next().await {
            match piece {
                Piece::Progress { .. } => {}
                Piece::Parts { choice, parts, logprobs } => {
                    let choice = &mut choices[choice];
                    if let Some(top) = self.top {
                        choice.logprobs.extend(content_logprobs(self.frame.running.model.engine(), &logprobs, top));
                    }
                    parts.into_iter().for_each(|part| choice.add(part));
                }
                Piece::End { choice, finish, generation, .. } => {
                    choices[choice].finish = finish.openai();
                    self.frame.ended(&generation);
                }
                Piece::Failed(error) => return Err(error),
            }
        }
        let choices: Value =
            choices.into_iter().enumerate().map(|(index, choice)| choice.json(index, self.top)).collect();
        Ok(axum::Json(self.frame.whole("chat.completion", choices)).into_response())
    }

    /// The events of a piece of text.
    fn parts(&self, choice: usize, parts: Vec<Part>, logprobs: Value) -> Vec<Event> {
        if parts.is_empty() {
            return vec![self.chunk(choice, json!({}), logprobs, Value::Null)];
        }
        let mut logprobs = logprobs;
        parts.into_iter().map(|part| self.chunk(choice, delta(part), logprobs.take(), Value::Null)).collect()
    }

    fn chunk(&self, index: usize, delta: Value, logprobs: Value, finish: Value) -> Event {
        let ends = !finish.is_null();
        let choice = json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish });
        let mut chunk = self.frame.chunk(CHUNK, json!([choice]));
        if ends {
            chunk["timings"] = self.frame.timings().clone();
        } else if self.timings {
            chunk["timings"] = self.frame.running.timings();
        }
        stream::data(&chunk)
    }
}

impl stream::Answer for Answer {
    async fn events(&mut self) -> Option<Vec<Event>> {
        if self.frame.is_over() {
            return None;
        }
        if !std::mem::replace(&mut self.begun, true) {
            // Clients want every choice to begin in order.
            let role = json!({ "role": "assistant", "content": "" });
            let choices = 0..self.frame.running.choices;
            return Some(choices.map(|index| self.chunk(index, role.clone(), Value::Null, Value::Null)).collect());
        }
        Some(match self.frame.running.next().await {
            Some(Piece::Progress { done, of }) if self.progress && done < of => {
                let mut chunk = self.frame.chunk(CHUNK, json!([]));
                chunk["prompt_progress"] = self.frame.running.progress(done, of);
                vec![stream::data(&chunk)]
            }
            Some(Piece::Progress { .. }) => Vec::new(),
            Some(Piece::Parts { choice, parts, logprobs }) => {
                let logprobs = match self.top {
                    Some(top) => {
                        let content = content_logprobs(self.frame.running.model.engine(), &logprobs, top);
                        json!({ "content": content, "refusal": null })
                    }
                    None => Value::Null,
                };
                self.parts(choice, parts, logprobs)
            }
            Some(Piece::End { choice, finish, generation, .. }) => {
                self.frame.ended(&generation);
                vec![self.chunk(choice, json!({}), Value::Null, finish.openai().into())]
            }
            Some(Piece::Failed(error)) => self.frame.failed(&error),
            None => self.frame.last(CHUNK),
        })
    }
}

/// A piece as the client adds it to what it has.
fn delta(part: Part) -> Value {
    match part {
        Part::Content(text) => json!({ "content": text }),
        Part::Reasoning(text) => json!({ "reasoning_content": text }),
        Part::Call { index, name } => {
            let function = json!({ "name": name, "arguments": "" });
            let call =
                json!({ "index": index, "id": crate::ids::unique("call_"), "type": "function", "function": function });
            json!({ "tool_calls": [call] })
        }
        Part::Arguments { index, text } => {
            json!({ "tool_calls": [{ "index": index, "function": { "arguments": text } }] })
        }
    }
}

impl Choice {
    fn add(&mut self, part: Part) {
        match part {
            Part::Content(text) => self.content.push_str(&text),
            Part::Reasoning(text) => self.reasoning.push_str(&text),
            Part::Call { name, .. } => self.calls.push((name, String::new())),
            Part::Arguments { index, text } => self.calls[index].1.push_str(&text),
        }
    }

    fn json(self, index: usize, top: Option<usize>) -> Value {
        let content = if self.content.is_empty() && !self.calls.is_empty() { Value::Null } else { self.content.into() };
        let mut message = json!({ "role": "assistant", "content": content, "refusal": null, "annotations": [] });
        if !self.reasoning.is_empty() {
            message["reasoning_content"] = self.reasoning.into();
        }
        if !self.calls.is_empty() {
            let calls = self.calls.into_iter().map(|(name, arguments)| {
                let id = crate::ids::unique("call_");
                json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } })
            });
            message["tool_calls"] = calls.collect();
        }
        let logprobs = top.map_or(Value::Null, |_| json!({ "content": self.logprobs, "refusal": null }));
        json!({ "index": index, "message": message, "logprobs": logprobs, "finish_reason": self.finish })
    }
}
