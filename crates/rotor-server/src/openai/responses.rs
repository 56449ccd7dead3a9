//! `POST /v1/responses`, without a memory: every request brings its whole conversation along.
//!
//! Input items become the messages that chat templates are given, and the pieces of the answer become output items: thinking, a
//! message, and an item for each call. What would have to be stored is refused by name.

use super::content_logprobs;
use super::sampling::{MAX_TOKENS, MAX_TOP_LOGPROBS, Sampling};
use crate::app::App;
use crate::body::{Int, Json, integer};
use crate::error::ApiError;
use crate::generation::{Ask, Finish, Logprob, Piece, Running, timings_of};
use crate::models::Loaded;
use crate::parts::Part;
use crate::prompt::{self, ChatPrompt, Tools};
use crate::requests::{Caller, now};
use crate::stream;
use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use rotor::engine::{GenerateOptions, Generation};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use utoipa::ToSchema;

/// What asks for the log-probabilities of the text.
const INCLUDE_LOGPROBS: &str = "message.output_text.logprobs";

/// A text, or the items of a conversation.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Input {
    /// What the user says.
    Text(String),
    /// Messages, calls, and what they returned.
    #[schema(value_type = Vec<Object>)]
    Items(Vec<Value>),
}

/// A conversation that is to be answered. Fields that are not listed are ignored.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ResponsesRequest {
    #[serde(flatten)]
    conversation: Common,
    /// Tokens of the answer at most.
    #[schema(minimum = 1, maximum = 16777216)]
    max_output_tokens: Option<Int>,
    #[serde(flatten)]
    sampling: Sampling,
    /// What to tell beside the answer: "message.output_text.logprobs" is known, all else is ignored.
    include: Option<Vec<String>>,
    /// So many alternatives of each token, where log-probabilities are included.
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<Int>,
    /// Sends the answer as it is made.
    stream: Option<bool>,
    /// Sent back as it is.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
    /// "auto" or "disabled": a conversation that does not fit is refused either way.
    truncation: Option<Truncation>,
    /// Not supported: nothing is stored.
    #[schema(ignore)]
    previous_response_id: Option<Value>,
    /// Not supported: nothing is stored.
    #[serde(rename = "conversation")]
    #[schema(ignore)]
    stored_conversation: Option<Value>,
    /// Not supported: nothing is stored.
    #[schema(ignore)]
    prompt: Option<Value>,
    /// Not supported, except as false.
    #[schema(ignore)]
    background: Option<Value>,
}

/// What to do with a conversation that does not fit.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Truncation {
    /// Refuse it.
    Auto,
    /// Refuse it.
    Disabled,
}

/// What counts as part of the prompt.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct Common {
    /// The model; with one model on the server any name will do.
    model: Option<String>,
    /// The conversation, oldest first, or what the user says.
    input: Input,
    /// What the model is told before the conversation.
    instructions: Option<String>,
    /// Functions that the model may call. Tools of other types are left out: there are none here.
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Vec<Value>>,
    /// "none", "auto", "required", or the function to call.
    #[schema(value_type = Option<Object>)]
    tool_choice: Option<Value>,
    /// Whether several functions may be called at once.
    parallel_tool_calls: Option<bool>,
    /// The form that the answer must have, as `format`.
    #[schema(value_type = Option<Object>)]
    text: Option<Value>,
    /// An `effort` of "none" asks the model not to think.
    #[schema(value_type = Option<Object>)]
    reasoning: Option<Value>,
}

/// A conversation whose tokens are to be counted.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct CountRequest {
    #[serde(flatten)]
    conversation: Common,
}

impl Common {
    /// The conversation as chat templates are given it.
    fn messages(&self) -> Result<Vec<Value>, ApiError> {
        let mut messages = Vec::new();
        if let Some(instructions) = &self.instructions {
            messages.push(json!({ "role": "system", "content": instructions }));
        }
        match &self.input {
            Input::Text(text) => messages.push(json!({ "role": "user", "content": text })),
            Input::Items(items) if items.is_empty() => return Err(ApiError::field("input", "input holds no item")),
            Input::Items(items) => {
                for (at, item) in items.iter().enumerate() {
                    add_item(item, &format!("input[{at}]"), &mut messages)?;
                }
            }
        }
        Ok(messages)
    }

    /// The functions among the tools, as they were sent.
    fn functions(&self) -> Vec<&Value> {
        self.tools.iter().flatten().filter(|tool| tool["type"] == "function").collect()
    }

    /// The functions that may be called, in the shape of chats.
    fn chat_tools(&self) -> Result<Tools, ApiError> {
        if let Some(at) = self.tools.iter().flatten().position(|tool| !tool["type"].is_string()) {
            return Err(ApiError::field(format!("tools[{at}]"), format!("tools[{at}] has no type")));
        }
        let function = |tool: &Value| {
            let mut function = tool.as_object().cloned().unwrap_or_default();
            function.remove("type");
            json!({ "type": "function", "function": function })
        };
        let tools: Vec<_> = self.functions().into_iter().map(function).collect();
        let choice = match &self.tool_choice {
            Some(Value::Object(choice)) => Some(chat_choice(choice)),
            other => other.clone(),
        };
        Tools::read(Some(&tools), choice.as_ref(), self.parallel_tool_calls)
    }

    fn format(&self) -> Option<&Value> {
        self.text.as_ref()?.get("format").filter(|format| !format.is_null())
    }

    fn effort(&self) -> Option<&str> {
        self.reasoning.as_ref()?.get("effort")?.as_str()
    }

    fn ask(&self, model: &Loaded, options: GenerateOptions) -> Result<Ask, ApiError> {
        let chat = ChatPrompt {
            messages: &self.messages()?,
            tools: self.chat_tools()?,
            format: self.format(),
            format_field: "text.format",
            thinking: self.effort().map(|effort| effort != "none"),
            arguments: Map::new(),
            continue_final_message: false,
            add_generation_prompt: None,
        };
        prompt::ask(model, chat, options)
    }
}

/// A choice of tools, which chats write one level deeper.
fn chat_choice(choice: &Map<String, Value>) -> Value {
    match choice.get("type").and_then(Value::as_str) {
        Some("function") => json!({ "type": "function", "function": { "name": choice.get("name") } }),
        Some("allowed_tools") => {
            let tools = choice.get("tools").and_then(Value::as_array);
            let named = |tool: &Value| json!({ "type": "function", "function": { "name": tool["name"] } });
            let tools: Vec<_> = tools.into_iter().flatten().map(named).collect();
            json!({ "type": "allowed_tools", "allowed_tools": { "mode": choice.get("mode"), "tools": tools } })
        }
        _ => Value::Object(choice.clone()),
    }
}

/// Adds what an item says to the conversation.
fn add_item(item: &Value, place: &str, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    let wrong = |why: &str| ApiError::field(place, format!("{place} {why}"));
    let text = |name: &str| item.get(name).and_then(Value::as_str);
    match text("type") {
        None | Some("message") => {
            let role = text("role").ok_or_else(|| wrong("has no role"))?;
            if !matches!(role, "user" | "assistant" | "system" | "developer") {
                return Err(wrong(&format!("has the role {role:?}; it must be user, assistant, system or developer")));
            }
            let content = content_text(&item["content"], &format!("{place}.content"))?;
            messages.push(json!({ "role": role, "content": content }));
        }
        Some("function_call") => {
            let name = text("name").ok_or_else(|| wrong("has no name"))?;
            let id = text("call_id").ok_or_else(|| wrong("has no call_id"))?;
            let function = json!({ "name": name, "arguments": text("arguments").unwrap_or("{}") });
            let call = json!({ "id": id, "type": "function", "function": function });
            // A turn of the assistant is one message: what it said, and all its calls.
            match messages.last_mut().filter(|last| last["role"] == "assistant") {
                Some(last) => match last["tool_calls"].as_array_mut() {
                    Some(calls) => calls.push(call),
                    None => last["tool_calls"] = json!([call]),
                },
                None => messages.push(json!({ "role": "assistant", "content": "", "tool_calls": [call] })),
            }
        }
        Some("function_call_output") => {
            let id = text("call_id").ok_or_else(|| wrong("has no call_id"))?;
            let output = content_text(&item["output"], &format!("{place}.output"))?;
            messages.push(json!({ "role": "tool", "tool_call_id": id, "content": output }));
        }
        // Thoughts of earlier turns are not shown to a model again.
        Some("reasoning") => {}
        Some(other) => return Err(ApiError::unsupported(place, &format!("an item of type {other:?}"))),
    }
    Ok(())
}

/// The text of a content: a text, or parts of it.
fn content_text(content: &Value, place: &str) -> Result<String, ApiError> {
    let wrong = |place: &str, why: &str| ApiError::field(place, format!("{place} {why}"));
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => parts
            .iter()
            .enumerate()
            .map(|(at, part)| {
                let place = format!("{place}[{at}]");
                let text = match part["type"].as_str() {
                    Some("input_text" | "output_text" | "text") => part["text"].as_str(),
                    Some("refusal") => part["refusal"].as_str(),
                    Some(other) => return Err(ApiError::unsupported(place, &format!("a part of type {other:?}"))),
                    None => return Err(wrong(&place, "has no type")),
                };
                text.map(str::to_owned).ok_or_else(|| wrong(&place, "has no text"))
            })
            .collect(),
        _ => Err(wrong(place, "must be a text or a list of parts")),
    }
}

/// Answers a conversation, and remembers nothing of it.
#[utoipa::path(
    post, path = "/v1/responses", tag = "openai", request_body = ResponsesRequest,
    responses(
        (status = 200, description = "The answer, or a stream of its events", content((Object = "application/json"), (crate::openapi::StreamEvent = "text/event-stream"))),
        crate::openapi::Errors,
    ),
)]
pub(crate) async fn responses(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Json(request): Json<ResponsesRequest>,
) -> Result<Response, ApiError> {
    request.refuse_memory()?;
    let conversation = &request.conversation;
    let tracked = app.track(&caller, conversation.model.as_deref(), "openai.responses");
    let model = app.models.get(conversation.model.as_deref()).await?;
    let max_tokens = integer("max_output_tokens", request.max_output_tokens, 1, MAX_TOKENS)?;
    let top = integer("top_logprobs", request.top_logprobs, 0, MAX_TOP_LOGPROBS)?.unwrap_or(0);
    let options = request.sampling.options(&model, max_tokens)?;
    let settings = request.settings(&options);
    let mut ask = conversation.ask(&model, options)?;
    let with_logprobs = request.include.iter().flatten().any(|what| what == INCLUDE_LOGPROBS);
    ask.request.logprobs = with_logprobs.then(|| top.max(1));
    let answer = Answer {
        id: crate::ids::unique("resp_"),
        created: now(),
        settings,
        running: crate::generation::begin(model, ask, tracked)?,
        top: with_logprobs.then_some(top),
        items: Vec::new(),
        is_open: false,
        sequence: 0,
        end: None,
        failure: None,
        is_over: false,
    };
    if request.stream == Some(true) { Ok(stream::response(answer)) } else { answer.whole().await }
}

/// Counts the tokens of a conversation.
#[utoipa::path(
    post, path = "/v1/responses/input_tokens", tag = "openai", request_body = CountRequest,
    responses((status = 200, description = "The number of tokens", body = Object), crate::openapi::Errors),
)]
pub(crate) async fn input_tokens(
    State(app): State<Arc<App>>,
    Json(request): Json<CountRequest>,
) -> Result<axum::Json<Value>, ApiError> {
    let model = app.models.get(request.conversation.model.as_deref()).await?;
    let ask = request.conversation.ask(&model, GenerateOptions::default())?;
    Ok(axum::Json(json!({ "object": "response.input_tokens", "input_tokens": ask.request.prompt.len() })))
}

/// What clients that store responses ask for.
pub(crate) async fn not_stored(Path(id): Path<String>) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("there is no response {id:?}: this server stores none"))
}

impl ResponsesRequest {
    /// Refuses what asks for something that was stored, or is to be.
    fn refuse_memory(&self) -> Result<(), ApiError> {
        let refused = [
            ("previous_response_id", &self.previous_response_id),
            ("conversation", &self.stored_conversation),
            ("prompt", &self.prompt),
            ("background", &self.background),
        ];
        let is_given = |value: &Value| !matches!(value, Value::Null | Value::Bool(false));
        match refused.into_iter().find(|(_, value)| value.as_ref().is_some_and(is_given)) {
            Some((name, _)) => {
                Err(ApiError::field(name, format!("{name} is not supported: this server stores no responses")))
            }
            None => Ok(()),
        }
    }

    /// What the answer repeats of the request.
    fn settings(&self, options: &GenerateOptions) -> Map<String, Value> {
        let Common { instructions, tool_choice, parallel_tool_calls, text, reasoning, .. } = &self.conversation;
        let text = match text {
            Some(text) if text.get("format").is_some() => text.clone(),
            _ => json!({ "format": { "type": "text" } }),
        };
        let part = |name: &str| reasoning.as_ref().and_then(|reasoning| reasoning.get(name)).cloned();
        let truncation = if matches!(self.truncation, Some(Truncation::Auto)) { "auto" } else { "disabled" };
        let settings = json!({
            "instructions": instructions, "max_output_tokens": options.max_tokens, "metadata": self.metadata.clone().unwrap_or_default(),
            "parallel_tool_calls": parallel_tool_calls.unwrap_or(true), "previous_response_id": null, "background": false,
            "reasoning": { "effort": part("effort"), "summary": part("summary") }, "store": false, "text": text,
            "temperature": options.sampling.temperature, "top_p": options.sampling.top_p,
            "tool_choice": tool_choice.clone().unwrap_or_else(|| "auto".into()), "tools": self.conversation.functions(),
            "truncation": truncation, "user": null,
        });
        settings.as_object().cloned().unwrap_or_default()
    }
}

/// An item of the answer.
enum Item {
    Message { text: String, logprobs: Vec<Value> },
    Reasoning { text: String },
    Call { call_id: String, name: String, arguments: String },
}

/// An item and its name.
struct Output {
    id: String,
    item: Item,
}

impl Output {
    fn message() -> Output {
        let item = Item::Message { text: String::new(), logprobs: Vec::new() };
        Output { id: crate::ids::unique("msg_"), item }
    }

    fn reasoning() -> Output {
        Output { id: crate::ids::unique("rs_"), item: Item::Reasoning { text: String::new() } }
    }

    fn call(name: String) -> Output {
        let item = Item::Call { call_id: crate::ids::unique("call_"), name, arguments: String::new() };
        Output { id: crate::ids::unique("fc_"), item }
    }

    /// The item as it is when it begins (`in_progress`) or when it is done.
    fn json(&self, status: &str) -> Value {
        let begins = status == "in_progress";
        let id = &self.id;
        match &self.item {
            Item::Message { .. } => {
                let content = if begins { json!([]) } else { json!([self.part()]) };
                json!({ "id": id, "type": "message", "role": "assistant", "status": status, "content": content })
            }
            Item::Reasoning { .. } => {
                let content = if begins { json!([]) } else { json!([self.part()]) };
                json!({ "id": id, "type": "reasoning", "status": status, "summary": [], "content": content })
            }
            Item::Call { call_id, name, arguments } => json!({
                "id": id, "type": "function_call", "call_id": call_id, "name": name, "status": status,
                "arguments": if begins { "" } else { arguments },
            }),
        }
    }

    /// The only part of an item's content, as far as it has come.
    fn part(&self) -> Value {
        match &self.item {
            Item::Message { text, logprobs } => {
                json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": logprobs })
            }
            Item::Reasoning { text } => json!({ "type": "reasoning_text", "text": text }),
            Item::Call { .. } => Value::Null,
        }
    }

    /// The item that a piece of text belongs to, if the last one is not of that kind.
    fn begun_by(part: &Part, last: Option<&Output>) -> Option<Output> {
        match (part, last.map(|last| &last.item)) {
            (Part::Content(_), Some(Item::Message { .. })) | (Part::Reasoning(_), Some(Item::Reasoning { .. })) => None,
            (Part::Content(_), _) => Some(Output::message()),
            (Part::Reasoning(_), _) => Some(Output::reasoning()),
            (Part::Call { name, .. }, _) => Some(Output::call(name.clone())),
            (Part::Arguments { .. }, _) => None,
        }
    }
}

/// A response on its way.
struct Answer {
    id: String,
    created: f64,
    settings: Map<String, Value>,
    running: Running,
    /// Alternatives of each token, where log-probabilities are wanted.
    top: Option<usize>,
    items: Vec<Output>,
    /// The last item may grow.
    is_open: bool,
    /// Events sent.
    sequence: u64,
    end: Option<(Finish, Box<Generation>)>,
    failure: Option<ApiError>,
    is_over: bool,
}

impl Answer {
    async fn whole(mut self) -> Result<Response, ApiError> {
        while let Some(piece) = self.running.next().await {
            match piece {
                Piece::Progress { .. } => {}
                Piece::Parts { parts, logprobs, .. } => drop(self.add(parts, &logprobs)),
                Piece::End { finish, generation, .. } => self.end = Some((finish, generation)),
                Piece::Failed(error) => return Err(error),
            }
        }
        self.close();
        Ok(axum::Json(self.response()).into_response())
    }

    fn event(&mut self, name: &'static str, mut data: Value) -> Event {
        data["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        stream::named(name, data)
    }

    /// An event about the last item.
    fn about_item(&mut self, name: &'static str, mut data: Value) -> Event {
        let at = self.items.len().saturating_sub(1);
        data["output_index"] = at.into();
        if let Some(output) = self.items.get(at)
            && data.get("item").is_none()
        {
            data["item_id"] = output.id.as_str().into();
            if !matches!(output.item, Item::Call { .. }) {
                data["content_index"] = 0.into();
            }
        }
        self.event(name, data)
    }

    /// Takes pieces in; the events that tell of them.
    fn add(&mut self, parts: Vec<Part>, logprobs: &[Logprob]) -> Vec<Event> {
        let mut logprobs = match self.top {
            Some(top) => content_logprobs(self.running.model.engine(), logprobs, top),
            None => Vec::new(),
        };
        let mut events = Vec::new();
        for part in parts {
            if let Some(output) = Output::begun_by(&part, self.items.last().filter(|_| self.is_open)) {
                events.extend(self.close());
                events.extend(self.open(output));
            }
            let Some(Output { item, .. }) = self.items.last_mut() else { continue };
            let (name, data) = match (item, part) {
                (Item::Message { text, logprobs: all }, Part::Content(piece)) => {
                    text.push_str(&piece);
                    all.extend(logprobs.iter().cloned());
                    let logprobs = std::mem::take(&mut logprobs);
                    ("response.output_text.delta", json!({ "delta": piece, "logprobs": logprobs }))
                }
                (Item::Reasoning { text }, Part::Reasoning(piece)) => {
                    text.push_str(&piece);
                    ("response.reasoning_text.delta", json!({ "delta": piece }))
                }
                (Item::Call { arguments, .. }, Part::Arguments { text, .. }) => {
                    arguments.push_str(&text);
                    ("response.function_call_arguments.delta", json!({ "delta": text }))
                }
                _ => continue,
            };
            events.push(self.about_item(name, data));
        }
        events
    }

    /// Begins an item.
    fn open(&mut self, output: Output) -> Vec<Event> {
        let (item, part) = (output.json("in_progress"), output.part());
        let is_message = matches!(output.item, Item::Message { .. });
        self.items.push(output);
        self.is_open = true;
        let mut events = vec![self.about_item("response.output_item.added", json!({ "item": item }))];
        if is_message {
            events.push(self.about_item("response.content_part.added", json!({ "part": part })));
        }
        events
    }

    /// Ends the item at hand.
    fn close(&mut self) -> Vec<Event> {
        if !std::mem::take(&mut self.is_open) {
            return Vec::new();
        }
        let status = self.status_of(self.items.len() - 1);
        let Some(output) = self.items.last() else { return Vec::new() };
        let (item, part) = (output.json(status), output.part());
        let done = match &output.item {
            Item::Message { text, logprobs } => {
                let text = json!({ "text": text, "logprobs": logprobs });
                vec![("response.output_text.done", text), ("response.content_part.done", json!({ "part": part }))]
            }
            Item::Reasoning { text } => vec![("response.reasoning_text.done", json!({ "text": text }))],
            Item::Call { name, arguments, .. } => {
                vec![("response.function_call_arguments.done", json!({ "name": name, "arguments": arguments }))]
            }
        };
        let done = done.into_iter().chain([("response.output_item.done", json!({ "item": item }))]);
        done.map(|(name, data)| self.about_item(name, data)).collect()
    }

    fn is_incomplete(&self) -> bool {
        matches!(&self.end, Some((Finish::Length | Finish::Context, _)))
    }

    /// Only the last item of an answer that was cut off is incomplete.
    fn status_of(&self, index: usize) -> &'static str {
        if self.is_incomplete() && index + 1 == self.items.len() { "incomplete" } else { "completed" }
    }

    /// The response as far as it has come.
    fn response(&self) -> Value {
        let status = match (&self.failure, &self.end) {
            (Some(_), _) => "failed",
            (None, None) => "in_progress",
            _ if self.is_incomplete() => "incomplete",
            _ => "completed",
        };
        let ended = status != "in_progress";
        let items = self.items.iter().enumerate().filter(|_| ended);
        let output: Vec<_> = items.map(|(index, output)| output.json(self.status_of(index))).collect();
        let usage = self.end.as_ref().map(|(_, generation)| usage(generation, self.running.reasoning_tokens));
        let mut response = json!({
            "id": self.id, "object": "response", "created_at": self.created, "status": status, "model": self.running.model.id,
            "completed_at": (status == "completed").then(now),
            "error": self.failure.as_ref().map(|error| json!({ "code": "server_error", "message": error.message })),
            "incomplete_details": self.is_incomplete().then(|| json!({ "reason": "max_output_tokens" })),
            "output": output, "usage": usage, "timings": self.end.as_ref().map(|(_, generation)| timings_of(generation)),
        });
        if let Value::Object(response) = &mut response {
            response.extend(self.settings.clone());
        }
        response
    }

    /// The events that an answer ends with.
    fn last(&mut self) -> Vec<Event> {
        self.is_over = true;
        let mut events = Vec::new();
        if self.items.is_empty() {
            // Nothing was said, which is a message too.
            events.extend(self.open(Output::message()));
        }
        events.extend(self.close());
        let name = if self.is_incomplete() { "response.incomplete" } else { "response.completed" };
        let response = self.response();
        events.push(self.event(name, json!({ "response": response })));
        events
    }
}

impl stream::Answer for Answer {
    async fn events(&mut self) -> Option<Vec<Event>> {
        if self.is_over {
            return None;
        }
        if self.sequence == 0 {
            let response = self.response();
            let names = ["response.created", "response.in_progress"];
            return Some(names.map(|name| self.event(name, json!({ "response": response }))).into());
        }
        Some(match self.running.next().await {
            Some(Piece::Progress { .. }) => Vec::new(),
            Some(Piece::Parts { parts, logprobs, .. }) => self.add(parts, &logprobs),
            Some(Piece::End { finish, generation, .. }) => {
                self.end = Some((finish, generation));
                Vec::new()
            }
            Some(Piece::Failed(error)) => {
                self.is_over = true;
                self.failure = Some(error);
                let response = self.response();
                vec![self.event("response.failed", json!({ "response": response }))]
            }
            None => self.last(),
        })
    }
}

fn usage(generation: &Generation, reasoning: usize) -> Value {
    let (prompt, tokens) = (generation.prompt_tokens, generation.tokens.len());
    json!({
        "input_tokens": prompt, "output_tokens": tokens, "total_tokens": prompt + tokens,
        "input_tokens_details": { "cached_tokens": generation.cached_tokens, "cache_write_tokens": 0 },
        "output_tokens_details": { "reasoning_tokens": reasoning },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(value: Value) -> Common {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn items_become_messages() {
        let conversation = common(json!({ "instructions": "be brief", "input": [
            { "role": "user", "content": [{ "type": "input_text", "text": "a" }, { "type": "input_text", "text": "b" }] },
            { "type": "reasoning", "id": "rs_1", "summary": [] },
            { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "I look.", "annotations": [] }] },
            { "type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{\"x\":1}" },
            { "type": "function_call", "call_id": "call_2", "name": "g", "arguments": "{}" },
            { "type": "function_call_output", "call_id": "call_1", "output": "42" },
        ] }));
        let call = |id: &str, name: &str, arguments: &str| json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } });
        let expected = [
            json!({ "role": "system", "content": "be brief" }),
            json!({ "role": "user", "content": "ab" }),
            json!({ "role": "assistant", "content": "I look.", "tool_calls": [call("call_1", "f", "{\"x\":1}"), call("call_2", "g", "{}")] }),
            json!({ "role": "tool", "tool_call_id": "call_1", "content": "42" }),
        ];
        assert_eq!(conversation.messages().unwrap(), expected);
        assert_eq!(common(json!({ "input": "hi" })).messages().unwrap(), [json!({ "role": "user", "content": "hi" })]);
    }

    #[test]
    fn what_cannot_be_taken_is_named_by_its_place() {
        for (item, place) in [
            (json!({ "type": "item_reference", "id": "x" }), "input[0]"),
            (json!({ "role": "user", "content": [{ "type": "input_image" }] }), "input[0].content[0]"),
            (json!({ "role": "user" }), "input[0].content"),
            (json!({ "role": "bot", "content": "x" }), "input[0]"),
            (json!({ "type": "function_call", "name": "f" }), "input[0]"),
            (json!(1), "input[0]"),
        ] {
            let error = common(json!({ "input": [item] })).messages().unwrap_err();
            assert_eq!(error.param.as_deref(), Some(place), "{error}");
        }
        assert!(common(json!({ "input": [] })).messages().is_err());
    }

    #[test]
    fn tools_are_flat_and_those_of_other_types_are_left_out() {
        let mut conversation = common(json!({ "input": "hi", "tools": [
            { "type": "web_search" }, { "type": "function", "name": "f", "parameters": { "type": "object" } },
            { "type": "function", "name": "g" },
        ] }));
        let tools = conversation.chat_tools().unwrap();
        assert_eq!((tools.tools.len(), tools.required), (2, false));
        assert_eq!(tools.tools[0]["function"], json!({ "name": "f", "parameters": { "type": "object" } }));
        conversation.tool_choice = Some(json!({ "type": "function", "name": "g" }));
        let tools = conversation.chat_tools().unwrap();
        assert_eq!((&tools.tools[0]["function"]["name"], tools.required), (&json!("g"), true));
        conversation.tool_choice = Some(
            json!({ "type": "allowed_tools", "mode": "required", "tools": [{ "type": "function", "name": "f" }] }),
        );
        let tools = conversation.chat_tools().unwrap();
        assert_eq!((tools.tools.len(), tools.required), (1, true));
        conversation.tool_choice = Some(json!({ "type": "web_search" }));
        assert_eq!(conversation.chat_tools().unwrap_err().param.as_deref(), Some("tool_choice"));
    }
}
