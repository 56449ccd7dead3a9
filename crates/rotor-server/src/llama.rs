//! What llama-server has beside OpenAI's dialect: health, properties, slots, tokens; and what the page asks for.

use crate::app::App;
use crate::body::Json;
use crate::error::ApiError;
use crate::prompt::{ChatPrompt, Tools, conversation};
use crate::requests::now;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use rotor::tokenizer::SpecialTokens;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Whether the server can answer: 503 while its first model is loading.
#[utoipa::path(
    get, path = "/health", tag = "server",
    responses((status = 200, description = "It can", body = Object), crate::openapi::Errors),
)]
pub(crate) async fn health(State(app): State<Arc<App>>) -> Result<axum::Json<Value>, ApiError> {
    if app.models.is_ready() {
        return Ok(axum::Json(json!({ "status": "ok" })));
    }
    Err(ApiError::loading("Loading model"))
}

/// As `/health`; 503 also while the server is shutting down.
#[utoipa::path(
    get, path = "/ready", tag = "server",
    responses((status = 200, description = "It takes requests", body = Object), crate::openapi::Errors),
)]
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<axum::Json<Value>, ApiError> {
    if app.is_draining() {
        return Err(ApiError::loading("the server is shutting down"));
    }
    health(State(app)).await
}

/// Numbers for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "server",
    responses((status = 200, description = "The text that Prometheus reads", body = String, content_type = "text/plain"), crate::openapi::Errors),
)]
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = app.metrics.text(&app.requests, &app.models);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// Which model is meant.
#[derive(Debug, Deserialize, IntoParams)]
pub(crate) struct OfModel {
    /// Name of the model; without it the first one.
    model: Option<String>,
}

/// The properties of a model, in llama-server's shape, with the defaults of everything a request may leave out.
#[utoipa::path(
    get, path = "/props", tag = "server", params(OfModel),
    responses((status = 200, description = "The properties", body = Object), crate::openapi::Errors),
)]
pub(crate) async fn props(
    State(app): State<Arc<App>>,
    Query(of): Query<OfModel>,
) -> Result<axum::Json<Value>, ApiError> {
    let name = match of.model {
        Some(name) => name,
        None => app.models.list().next().map(|(spec, _)| spec.id.clone()).unwrap_or_default(),
    };
    let (_, state) = app.models.find(&name)?;
    let mut props = json!({
        "total_slots": app.models.options().parallel, "build_info": format!("rotor {}", env!("CARGO_PKG_VERSION")),
        "modalities": { "vision": false, "audio": false }, "model_alias": name,
    });
    let crate::models::State::Loaded(model) = state else {
        props["default_generation_settings"] = json!({ "params": {} });
        return Ok(axum::Json(props));
    };
    let defaults = &model.defaults;
    props["default_generation_settings"] = json!({
        "n_ctx": model.context,
        "params": {
            "temperature": defaults.temperature, "top_k": defaults.top_k, "top_p": defaults.top_p, "min_p": defaults.min_p,
            "repeat_penalty": defaults.repeat_penalty, "repeat_last_n": defaults.repeat_last_n,
            "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": -1, "max_tokens": -1,
        },
    });
    props["chat_template"] = model.engine().chat_template().map_or(Value::Null, |template| template.source().into());
    Ok(axum::Json(props))
}

/// The sequences of a model, without their texts.
#[utoipa::path(
    get, path = "/slots", tag = "server", params(OfModel),
    responses((status = 200, description = "One object for each place", body = Vec<Object>), crate::openapi::Errors),
)]
pub(crate) async fn slots(
    State(app): State<Arc<App>>,
    Query(of): Query<OfModel>,
) -> Result<axum::Json<Value>, ApiError> {
    let model = app.models.get(of.model.as_deref()).await?;
    let statistics = model.actor.statistics();
    let running = statistics.sequences.iter().filter(|sequence| sequence.state != rotor::batch::SequenceState::Waiting);
    let mut slots: Vec<_> = running
        .enumerate()
        .map(|(id, sequence)| {
            json!({
                "id": id, "n_ctx": model.context, "is_processing": true, "n_prompt_tokens": sequence.prompt_tokens,
                "n_prompt_tokens_cache": sequence.cached_tokens,
                "next_token": { "has_next_token": true, "n_decoded": sequence.generated_tokens },
            })
        })
        .collect();
    for id in slots.len()..app.models.options().parallel {
        slots.push(json!({ "id": id, "n_ctx": model.context, "is_processing": false }));
    }
    Ok(axum::Json(slots.into()))
}

/// A text that is to become tokens.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct TokenizeRequest {
    /// The model.
    model: Option<String>,
    /// The text.
    content: String,
    /// Begins with the beginning-of-sequence token, where the model wants one.
    add_special: Option<bool>,
    /// Takes control tokens in the text as such.
    parse_special: Option<bool>,
    /// Answers with the pieces too.
    with_pieces: Option<bool>,
}

/// The tokens of a text.
#[utoipa::path(
    post, path = "/tokenize", tag = "server", request_body = TokenizeRequest,
    responses((status = 200, description = "The tokens", body = Object), crate::openapi::Errors),
)]
pub(crate) async fn tokenize(
    State(app): State<Arc<App>>,
    Json(request): Json<TokenizeRequest>,
) -> Result<axum::Json<Value>, ApiError> {
    let model = app.models.get(request.model.as_deref()).await?;
    let tokenizer = model.engine().tokenizer("a text").map_err(|error| ApiError::of_generation(&error, "content"))?;
    let special = if request.parse_special == Some(false) { SpecialTokens::AsText } else { SpecialTokens::Parse };
    let ids = match request.add_special {
        Some(true) => tokenizer.encode_with_bos(&request.content, special),
        _ => tokenizer.encode(&request.content, special),
    };
    let ids = ids.map_err(|error| ApiError::field("content", error.to_string()))?;
    if request.with_pieces != Some(true) {
        return Ok(axum::Json(json!({ "tokens": ids })));
    }
    let pieces: Vec<_> = ids
        .iter()
        .map(|id| {
            let bytes = tokenizer.token_bytes(*id).unwrap_or_default();
            let piece = std::str::from_utf8(bytes).map_or_else(|_| json!(bytes), Value::from);
            json!({ "id": id, "piece": piece })
        })
        .collect();
    Ok(axum::Json(json!({ "tokens": pieces })))
}

/// Tokens that are to become a text.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct DetokenizeRequest {
    /// The model.
    model: Option<String>,
    /// The tokens.
    tokens: Vec<u32>,
}

/// The text of some tokens.
#[utoipa::path(
    post, path = "/detokenize", tag = "server", request_body = DetokenizeRequest,
    responses((status = 200, description = "The text", body = Object), crate::openapi::Errors),
)]
pub(crate) async fn detokenize(
    State(app): State<Arc<App>>,
    Json(request): Json<DetokenizeRequest>,
) -> Result<axum::Json<Value>, ApiError> {
    let model = app.models.get(request.model.as_deref()).await?;
    let tokenizer = model.engine().tokenizer("a text").map_err(|error| ApiError::of_generation(&error, "tokens"))?;
    let vocab_size = model.engine().model().config().vocab_size;
    if let Some(id) = request.tokens.iter().find(|id| **id as usize >= vocab_size) {
        return Err(ApiError::field(
            "tokens",
            format!("the vocabulary has {vocab_size} tokens, so {id} is none of them"),
        ));
    }
    Ok(axum::Json(json!({ "content": tokenizer.decode(&request.tokens) })))
}

/// A conversation that is to be rendered.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct TemplateRequest {
    /// The model.
    model: Option<String>,
    /// The conversation.
    #[schema(value_type = Vec<Object>, min_items = 1)]
    messages: Vec<Value>,
    /// Tools.
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Vec<Value>>,
    /// Further arguments of the template.
    #[schema(value_type = Option<Object>)]
    chat_template_kwargs: Option<Map<String, Value>>,
    /// Begins an answer behind the last message.
    add_generation_prompt: Option<bool>,
}

/// A conversation as the model's chat template renders it.
#[utoipa::path(
    post, path = "/apply-template", tag = "server", request_body = TemplateRequest,
    responses((status = 200, description = "The prompt", body = Object), crate::openapi::Errors),
)]
pub(crate) async fn apply_template(
    State(app): State<Arc<App>>,
    Json(request): Json<TemplateRequest>,
) -> Result<axum::Json<Value>, ApiError> {
    let model = app.models.get(request.model.as_deref()).await?;
    let chat = ChatPrompt {
        messages: &request.messages,
        tools: Tools::read(request.tools.as_deref(), None, None)?,
        format: None,
        format_field: "",
        thinking: None,
        arguments: request.chat_template_kwargs.unwrap_or_default(),
        continue_final_message: false,
        add_generation_prompt: request.add_generation_prompt,
    };
    let conversation = conversation(&model, &chat)?;
    let template = model.engine().chat_template().map_err(|error| ApiError::of_generation(&error, "messages"))?;
    let prompt = template.render(&conversation).map_err(|error| ApiError::field("messages", error.to_string()))?;
    Ok(axum::Json(json!({ "prompt": prompt })))
}

/// What runs and what waits.
#[utoipa::path(
    get, path = "/rotor/requests", tag = "page",
    responses((status = 200, description = "The requests under way, without their texts", body = Object), crate::openapi::Errors),
)]
pub(crate) async fn requests(State(app): State<Arc<App>>) -> axum::Json<Value> {
    let (running, waiting) = app.requests.list();
    let options = app.models.options();
    let kv: Vec<_> = app
        .models
        .loaded()
        .map(|model| {
            let statistics = model.actor.statistics();
            json!({
                "model": model.id, "block_tokens": statistics.block_tokens, "total": statistics.blocks,
                "used": statistics.used_blocks.saturating_sub(statistics.kept_blocks), "cached": statistics.kept_blocks,
            })
        })
        .collect();
    axum::Json(json!({
        "object": "rotor.requests", "now": now(), "limits": { "running": options.parallel, "waiting": options.queue },
        "running": running, "waiting": waiting, "kv": kv, "history": app.requests.history(),
    }))
}

/// Ends a request.
#[utoipa::path(
    delete, path = "/rotor/requests/{id}", tag = "page", params(("id" = String, Path, description = "The request, as in x-request-id")),
    responses((status = 204, description = "It ends"), crate::openapi::Errors),
)]
pub(crate) async fn cancel_request(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    app.requests.cancel(&id)?;
    Ok(StatusCode::NO_CONTENT)
}
