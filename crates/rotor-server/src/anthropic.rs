//! Anthropic's dialect: `POST /v1/messages` and `/v1/messages/count_tokens`.
//!
//! A request becomes a conversation in OpenAI's shape, the one that chat templates are given, and the pieces of the answer become
//! content blocks: thinking, text, and a block for each call.

use crate::app::App;
use crate::body::{Int, Json, integer, number};
use crate::error::{ApiError, Dialect};
use crate::generation::{Finish, Piece, Running, timings_of};
use crate::openai::sampling::{MAX_TOKENS, Sampling, check_stops};
use crate::parts::Part;
use crate::prompt::{self, ChatPrompt, Tools};
use crate::requests::Caller;
use crate::stream::{self, named as event};
use axum::Extension;
use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use rotor::engine::Generation;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use utoipa::ToSchema;

/// A text, or blocks of it.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Content {
    /// A text.
    Text(String),
    /// Blocks.
    #[schema(value_type = Vec<Object>)]
    Blocks(Vec<Value>),
}

/// A turn of the conversation.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct Message {
    /// "user", "assistant" or "system".
    role: String,
    /// What was said.
    content: Content,
}

/// A conversation that is to be answered. Fields that are not listed are ignored.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct MessagesRequest {
    /// The model; with one model on the server any name will do.
    model: Option<String>,
    /// The conversation, oldest first.
    #[schema(min_items = 1)]
    messages: Vec<Message>,
    /// Tokens of the answer at most.
    #[schema(minimum = 1, maximum = 16777216)]
    max_tokens: Int,
    #[serde(flatten)]
    common: Common,
    /// Divides the logits; 0 takes the likeliest token.
    #[schema(minimum = 0, maximum = 1)]
    temperature: Option<f64>,
    /// Keeps the fewest likeliest tokens that together have this probability.
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    /// Keeps so many of the likeliest tokens.
    #[schema(minimum = 0, maximum = 1000000)]
    top_k: Option<Int>,
    /// Texts that end the answer.
    stop_sequences: Option<Vec<String>>,
    /// Sends the answer as it is made.
    stream: Option<bool>,
}

/// What counts as part of the prompt.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub(crate) struct Common {
    /// What the model is told before the conversation.
    system: Option<Content>,
    /// Functions that the model may call.
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Vec<Value>>,
    /// Which of them.
    #[schema(value_type = Option<Object>)]
    tool_choice: Option<Value>,
    /// Whether the model is to think.
    #[schema(value_type = Option<Object>)]
    thinking: Option<Value>,
    /// The form that the answer must have.
    #[schema(value_type = Option<Object>)]
    output_config: Option<Value>,
}

/// A conversation whose tokens are to be counted.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct CountRequest {
    /// The model.
    model: Option<String>,
    /// The conversation.
    #[schema(min_items = 1)]
    messages: Vec<Message>,
    #[serde(flatten)]
    common: Common,
}

/// A request in OpenAI's shape.
struct Translated {
    messages: Vec<Value>,
    tools: Tools,
    format: Option<Value>,
    thinking: Option<bool>,
    /// The last message is the beginning of the answer.
    prefill: bool,
}

impl Translated {
    fn new(messages: &[Message], common: &Common) -> Result<Translated, ApiError> {
        let mut out = Vec::new();
        if let Some(system) = &common.system {
            out.push(json!({ "role": "system", "content": text_of(system, "system")? }));
        }
        for (at, message) in messages.iter().enumerate() {
            translate(message, &format!("messages[{at}]"), &mut out)?;
        }
        let prefill = messages.last().is_some_and(|message| message.role == "assistant");
        let format =
            common.output_config.as_ref().and_then(|config| config.get("format")).filter(|format| !format.is_null());
        let thinking = common.thinking.as_ref().and_then(|thinking| thinking.get("type")).and_then(Value::as_str);
        Ok(Translated {
            messages: out,
            tools: tools(common)?,
            format: format.map(|format| json!({ "type": "json_schema", "json_schema": format })),
            thinking: thinking.map(|kind| kind != "disabled"),
            prefill,
        })
    }

    fn chat(&self) -> ChatPrompt<'_> {
        ChatPrompt {
            messages: &self.messages,
            tools: self.tools.clone(),
            format: self.format.as_ref(),
            format_field: "output_config.format",
            thinking: self.thinking,
            arguments: Map::new(),
            continue_final_message: self.prefill,
            add_generation_prompt: None,
        }
    }
}

/// The text of a content that may only be text.
fn text_of(content: &Content, place: &str) -> Result<String, ApiError> {
    match content {
        Content::Text(text) => Ok(text.clone()),
        Content::Blocks(blocks) => blocks
            .iter()
            .enumerate()
            .map(|(at, block)| {
                let text = block.get("text").and_then(Value::as_str);
                text.filter(|_| block["type"] == "text").map(str::to_owned).ok_or_else(|| {
                    let place = format!("{place}[{at}]");
                    ApiError::field(place.clone(), format!("{place} must be a text block"))
                })
            })
            .collect(),
    }
}

/// One message as one or several of OpenAI's.
fn translate(message: &Message, place: &str, out: &mut Vec<Value>) -> Result<(), ApiError> {
    let role = message.role.as_str();
    if !matches!(role, "user" | "assistant" | "system") {
        return Err(ApiError::field(place, format!("{place}.role must be user, assistant or system, not {role:?}")));
    }
    let blocks = match &message.content {
        Content::Text(text) => {
            out.push(json!({ "role": role, "content": text }));
            return Ok(());
        }
        Content::Blocks(blocks) => blocks,
    };
    let (mut text, mut thinking, mut calls) = (String::new(), String::new(), Vec::new());
    for (at, block) in blocks.iter().enumerate() {
        let field = |name: &str| block.get(name).and_then(Value::as_str);
        let wrong = |why: &str| {
            let place = format!("{place}.content[{at}]");
            ApiError::field(place.clone(), format!("{place} {why}"))
        };
        match field("type") {
            Some("text") => text.push_str(field("text").ok_or_else(|| wrong("has no text"))?),
            Some("thinking") => thinking.push_str(field("thinking").unwrap_or_default()),
            Some("redacted_thinking") => {}
            Some("tool_use") => {
                let name = field("name").ok_or_else(|| wrong("has no name"))?;
                let arguments = block.get("input").cloned().unwrap_or_else(|| json!({}));
                let function = json!({ "name": name, "arguments": arguments.to_string() });
                calls.push(json!({ "id": block["id"], "type": "function", "function": function }));
            }
            Some("tool_result") => {
                let content = match block.get("content") {
                    None | Some(Value::Null) => String::new(),
                    Some(content) => {
                        let content = serde_json::from_value(content.clone())
                            .map_err(|_| wrong("has a content that is no text"))?;
                        text_of(&content, &format!("{place}.content[{at}].content"))?
                    }
                };
                out.push(json!({ "role": "tool", "tool_call_id": block["tool_use_id"], "content": content }));
            }
            Some(other) => return Err(wrong(&format!("is of type {other:?}, which is not supported"))),
            None => return Err(wrong("has no type")),
        }
    }
    let only_results = role == "user" && text.is_empty() && blocks.iter().any(|block| block["type"] == "tool_result");
    if only_results {
        return Ok(());
    }
    let mut translated = json!({ "role": role, "content": text });
    if !thinking.is_empty() {
        translated["reasoning_content"] = thinking.into();
    }
    if !calls.is_empty() {
        translated["tool_calls"] = calls.into();
    }
    out.push(translated);
    Ok(())
}

fn tools(common: &Common) -> Result<Tools, ApiError> {
    let convert = |(at, tool): (usize, &Value)| {
        if let Some(kind) = tool.get("type").and_then(Value::as_str).filter(|kind| *kind != "custom") {
            return Err(ApiError::unsupported(format!("tools[{at}]"), &format!("the tool type {kind:?}")));
        }
        Ok(json!({
            "type": "function",
            "function": { "name": tool["name"], "description": tool["description"], "parameters": tool["input_schema"] },
        }))
    };
    let tools: Vec<_> = common.tools.iter().flatten().enumerate().map(convert).collect::<Result<_, _>>()?;
    let choice = common.tool_choice.as_ref();
    let parallel = choice.and_then(|choice| choice.get("disable_parallel_tool_use")).and_then(Value::as_bool);
    let mode = match choice.and_then(|choice| choice.get("type")).and_then(Value::as_str) {
        None | Some("auto") => json!("auto"),
        Some("any") => json!("required"),
        Some("none") => json!("none"),
        Some("tool") => {
            let name = choice.and_then(|choice| choice.get("name")).cloned().unwrap_or_default();
            json!({ "type": "function", "function": { "name": name } })
        }
        Some(other) => {
            return Err(ApiError::field(
                "tool_choice",
                format!("tool_choice.type must be auto, any, tool or none, not {other:?}"),
            ));
        }
    };
    Tools::read(Some(&tools), Some(&mode), parallel.map(|disabled| !disabled))
}

/// Answers a conversation.
#[utoipa::path(
    post, path = "/v1/messages", tag = "anthropic", request_body = MessagesRequest,
    responses(
        (status = 200, description = "The answer, or a stream of its events", content((Object = "application/json"), (crate::openapi::StreamEvent = "text/event-stream"))),
        crate::openapi::Errors,
    ),
)]
pub(crate) async fn messages(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Json(request): Json<MessagesRequest>,
) -> Result<Response, ApiError> {
    let tracked = app.track(&caller, request.model.as_deref(), "anthropic.messages");
    let model = app.models.get(request.model.as_deref()).await?;
    let translated = Translated::new(&request.messages, &request.common)?;
    let stops = request.stop_sequences.clone().unwrap_or_default();
    check_stops("stop_sequences", &stops)?;
    number("temperature", request.temperature, 0.0, 1.0)?;
    let sampling = Sampling {
        temperature: request.temperature,
        top_p: request.top_p,
        top_k: request.top_k,
        ..Sampling::default()
    };
    let max_tokens = integer("max_tokens", Some(request.max_tokens), 1, MAX_TOKENS)?;
    let mut options = sampling.options(&model, max_tokens)?;
    options.stop = stops;
    let ask = prompt::ask(&model, translated.chat(), options)?;
    let answer = Answer {
        id: crate::ids::unique("msg_"),
        running: crate::generation::begin(model, ask, tracked)?,
        request_id: caller.id.clone(),
        blocks: Vec::new(),
        is_open: false,
        begun: false,
        end: None,
        is_over: false,
    };
    if request.stream == Some(true) { Ok(stream::response(answer)) } else { answer.whole().await }
}

/// Counts the tokens of a conversation.
#[utoipa::path(
    post, path = "/v1/messages/count_tokens", tag = "anthropic", request_body = CountRequest,
    responses((status = 200, description = "The number of tokens", body = Object), crate::openapi::Errors),
)]
pub(crate) async fn count_tokens(
    State(app): State<Arc<App>>,
    Json(request): Json<CountRequest>,
) -> Result<axum::Json<Value>, ApiError> {
    let model = app.models.get(request.model.as_deref()).await?;
    let translated = Translated::new(&request.messages, &request.common)?;
    let ask = prompt::ask(&model, translated.chat(), Default::default())?;
    Ok(axum::Json(json!({ "input_tokens": ask.request.prompt.len() })))
}

/// A block of the answer.
enum Block {
    Text(String),
    Thinking(String),
    Call { id: String, name: String, input: String },
}

impl Block {
    /// As it is when it begins, or when it is complete.
    fn json(&self, complete: bool) -> Value {
        let text = |text: &String| if complete { text.as_str() } else { "" }.to_owned();
        match self {
            Block::Text(value) => json!({ "type": "text", "text": text(value) }),
            Block::Thinking(value) => json!({ "type": "thinking", "thinking": text(value), "signature": "" }),
            Block::Call { id, name, input } => {
                let input: Value =
                    if complete { serde_json::from_str(input).unwrap_or_else(|_| json!({})) } else { json!({}) };
                json!({ "type": "tool_use", "id": id, "name": name, "input": input })
            }
        }
    }
}

/// A message's answer on its way.
struct Answer {
    id: String,
    running: Running,
    request_id: String,
    blocks: Vec<Block>,
    /// The last block may grow.
    is_open: bool,
    begun: bool,
    end: Option<(Finish, Option<String>, Box<Generation>)>,
    is_over: bool,
}

impl Answer {
    async fn whole(mut self) -> Result<Response, ApiError> {
        while let Some(piece) = self.running.next().await {
            match piece {
                Piece::Progress { .. } => {}
                Piece::Parts { parts, .. } => parts.into_iter().for_each(|part| drop(self.add(part))),
                Piece::End { finish, stop, generation, .. } => self.end = Some((finish, stop, generation)),
                Piece::Failed(error) => return Err(error),
            }
        }
        let mut message = self.message();
        message["content"] = self.blocks.iter().map(|block| block.json(true)).collect();
        Ok(axum::Json(message).into_response())
    }

    /// Takes a piece in; the events that tell of it.
    fn add(&mut self, part: Part) -> Vec<Event> {
        let (begins, delta) = match part {
            Part::Content(text) => {
                let begins = !matches!(self.blocks.last(), Some(Block::Text(_)) if self.is_open);
                (begins.then(|| Block::Text(String::new())), json!({ "type": "text_delta", "text": text }))
            }
            Part::Reasoning(text) => {
                let begins = !matches!(self.blocks.last(), Some(Block::Thinking(_)) if self.is_open);
                (begins.then(|| Block::Thinking(String::new())), json!({ "type": "thinking_delta", "thinking": text }))
            }
            Part::Call { name, .. } => {
                let block = Block::Call { id: crate::ids::unique("toolu_"), name, input: String::new() };
                (Some(block), Value::Null)
            }
            Part::Arguments { text, .. } => (None, json!({ "type": "input_json_delta", "partial_json": text })),
        };
        let mut events = Vec::new();
        if let Some(block) = begins {
            events.extend(self.close());
            let start = json!({ "index": self.blocks.len(), "content_block": block.json(false) });
            events.push(event("content_block_start", start));
            self.blocks.push(block);
            self.is_open = true;
        }
        if !delta.is_null() {
            let text = |name: &str| delta[name].as_str().unwrap_or_default();
            match self.blocks.last_mut() {
                Some(Block::Text(whole)) => whole.push_str(text("text")),
                Some(Block::Thinking(whole)) => whole.push_str(text("thinking")),
                Some(Block::Call { input, .. }) => input.push_str(text("partial_json")),
                None => {}
            }
            events.push(event(
                "content_block_delta",
                json!({ "index": self.blocks.len().saturating_sub(1), "delta": delta }),
            ));
        }
        events
    }

    /// Ends the block at hand.
    fn close(&mut self) -> Vec<Event> {
        if !std::mem::take(&mut self.is_open) {
            return Vec::new();
        }
        vec![event("content_block_stop", json!({ "index": self.blocks.len() - 1 }))]
    }

    /// The message without its content, as far as it is known.
    fn message(&self) -> Value {
        let (mut reason, mut stop, mut usage) = (Value::Null, Value::Null, (self.running.prompt_tokens, 0, 0));
        let mut timings = Value::Null;
        if let Some((finish, text, generation)) = &self.end {
            reason = match finish {
                Finish::Length => "max_tokens",
                Finish::Context => "model_context_window_exceeded",
                Finish::ToolCalls => "tool_use",
                Finish::Stop if text.is_some() => "stop_sequence",
                Finish::Stop => "end_turn",
            }
            .into();
            stop = json!(text);
            let computed = generation.prompt_tokens - generation.cached_tokens;
            usage = (computed, generation.cached_tokens, generation.tokens.len());
            timings = timings_of(generation);
        }
        json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.running.model.id, "content": [],
            "stop_reason": reason, "stop_sequence": stop, "timings": timings,
            "usage": {
                "input_tokens": usage.0, "cache_read_input_tokens": usage.1, "cache_creation_input_tokens": 0,
                "output_tokens": usage.2,
            },
        })
    }
}

impl stream::Answer for Answer {
    async fn events(&mut self) -> Option<Vec<Event>> {
        if self.is_over {
            return None;
        }
        if !std::mem::replace(&mut self.begun, true) {
            return Some(vec![event("message_start", json!({ "message": self.message() }))]);
        }
        Some(match self.running.next().await {
            Some(Piece::Progress { .. }) => vec![event("ping", json!({}))],
            Some(Piece::Parts { parts, .. }) => parts.into_iter().flat_map(|part| self.add(part)).collect(),
            Some(Piece::End { finish, stop, generation, .. }) => {
                self.end = Some((finish, stop, generation));
                Vec::new()
            }
            Some(Piece::Failed(error)) => {
                self.is_over = true;
                let body = error.body(Dialect::Anthropic, &self.request_id);
                vec![Event::default().event("error").data(body.to_string())]
            }
            None => {
                self.is_over = true;
                let mut events = self.close();
                let message = self.message();
                let delta = json!({ "stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"] });
                let end = json!({ "delta": delta, "usage": message["usage"], "timings": message["timings"] });
                events.push(event("message_delta", end));
                events.push(event("message_stop", json!({})));
                events
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(value: Value) -> Message {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn blocks_become_messages() {
        let messages = [
            message(json!({ "role": "user", "content": "hi" })),
            message(json!({ "role": "assistant", "content": [
                { "type": "thinking", "thinking": "hm", "signature": "" }, { "type": "text", "text": "I look." },
                { "type": "tool_use", "id": "toolu_1", "name": "f", "input": { "a": 1 } },
            ] })),
            message(json!({ "role": "user", "content": [
                { "type": "tool_result", "tool_use_id": "toolu_1", "content": [{ "type": "text", "text": "42" }] },
                { "type": "text", "text": "and?", "cache_control": { "type": "ephemeral" } },
            ] })),
        ];
        let common = Common { system: Some(Content::Text("be brief".into())), ..Common::default() };
        let translated = Translated::new(&messages, &common).unwrap();
        assert_eq!(
            translated.messages,
            [
                json!({ "role": "system", "content": "be brief" }),
                json!({ "role": "user", "content": "hi" }),
                json!({ "role": "assistant", "content": "I look.", "reasoning_content": "hm", "tool_calls": [
                { "id": "toolu_1", "type": "function", "function": { "name": "f", "arguments": "{\"a\":1}" } }] }),
                json!({ "role": "tool", "tool_call_id": "toolu_1", "content": "42" }),
                json!({ "role": "user", "content": "and?" }),
            ]
        );
        assert!(!translated.prefill);
    }

    #[test]
    fn what_is_not_text_is_refused_by_its_place() {
        for (content, place) in [
            (json!([{ "type": "image", "source": {} }]), "messages[0].content[0]"),
            (json!([{ "text": "x" }]), "messages[0].content[0]"),
            (json!([{ "type": "text" }]), "messages[0].content[0]"),
        ] {
            let error = Translated::new(&[message(json!({ "role": "user", "content": content }))], &Common::default())
                .err()
                .unwrap();
            assert_eq!(error.param.as_deref(), Some(place));
        }
        let error =
            Translated::new(&[message(json!({ "role": "bot", "content": "x" }))], &Common::default()).err().unwrap();
        assert!(error.message.contains("user, assistant or system"));
    }
}
