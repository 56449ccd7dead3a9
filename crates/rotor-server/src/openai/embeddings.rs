//! `POST /v1/embeddings`: hidden states pooled to one vector for each text.

use crate::app::App;
use crate::body::{Int, Json};
use crate::error::ApiError;
use crate::generation::refused;
use crate::requests::Caller;
use axum::Extension;
use axum::extract::State;
use base64::Engine as _;
use rotor::request::{EmbedRequest, Event, Pooling};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use utoipa::ToSchema;

/// Texts of one request at most, as at OpenAI.
const MAX_INPUTS: usize = 2048;

/// Texts, or their ids.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Input {
    /// A text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// The ids of a text.
    Ids(Vec<u32>),
    /// Those of several texts.
    ManyIds(Vec<Vec<u32>>),
}

/// How a vector is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EncodingFormat {
    /// A list of numbers.
    #[default]
    Float,
    /// The bytes of little-endian f32 in base64.
    Base64,
}

/// How the tokens' vectors become one; without it as the model's file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PoolingName {
    /// Their mean.
    Mean,
    /// The last token's.
    Last,
    /// The first token's.
    Cls,
}

/// Texts whose vectors are wanted. Fields that are not listed are ignored.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct EmbeddingRequest {
    /// The model; with one model on the server any name will do.
    pub(crate) model: Option<String>,
    /// The texts.
    pub(crate) input: Input,
    /// How a vector is written.
    pub(crate) encoding_format: Option<EncodingFormat>,
    /// How the tokens' vectors become one.
    pub(crate) pooling: Option<PoolingName>,
    /// Not supported: no model here was trained for shorter vectors.
    #[schema(ignore)]
    pub(crate) dimensions: Option<Int>,
}

/// Embeds texts: their hidden states after the last norm, pooled and divided by their length.
#[utoipa::path(
    post, path = "/v1/embeddings", tag = "openai", request_body = EmbeddingRequest,
    responses((status = 200, description = "A vector for each text", body = Object), crate::openapi::Errors),
)]
pub(crate) async fn embeddings(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Json(request): Json<EmbeddingRequest>,
) -> Result<axum::Json<Value>, ApiError> {
    let tracked = app.track(&caller, request.model.as_deref(), "openai.embeddings");
    let model = app.models.get(request.model.as_deref()).await?;
    let engine = model.engine();
    let width = engine.model().config().hidden_size;
    if request.dimensions.is_some_and(|dimensions| dimensions.0 != width as i64) {
        return Err(ApiError::unsupported(
            "dimensions",
            &format!("a number of dimensions other than the model's {width}"),
        ));
    }
    let encode = |text: &String| engine.encode_prompt(text).map_err(|error| ApiError::of_generation(&error, "input"));
    let texts: Vec<Vec<u32>> = match &request.input {
        Input::Text(text) => vec![encode(text)?],
        Input::Texts(texts) => texts.iter().map(encode).collect::<Result<_, _>>()?,
        Input::Ids(ids) => vec![ids.clone()],
        Input::ManyIds(many) => many.clone(),
    };
    if texts.is_empty() || texts.len() > MAX_INPUTS {
        return Err(ApiError::field(
            "input",
            format!("input must hold from 1 to {MAX_INPUTS} texts, not {}", texts.len()),
        ));
    }
    let tokens: usize = texts.iter().map(Vec::len).sum();
    tracked.model(&model.id);
    tracked.queued(tokens, None);
    let pooling = match request.pooling {
        None => engine.pooling(),
        Some(PoolingName::Mean) => Pooling::Mean,
        Some(PoolingName::Last) => Pooling::Last,
        Some(PoolingName::Cls) => Pooling::First,
    };
    let mut data = Vec::with_capacity(texts.len());
    // A few at a time share their steps, and one request cannot fill the queue.
    for (part, texts) in texts.chunks(app.models.options().parallel.max(1)).enumerate() {
        let mut running = Vec::new();
        for tokens in texts {
            let request = EmbedRequest { tokens: tokens.clone(), pooling, normalize: true };
            running.push(model.actor.embed(request).map_err(|error| refused(&error, "input"))?);
        }
        for (at, mut events) in running.into_iter().enumerate() {
            let vector = loop {
                match events.next().await {
                    Some(Event::Embedding(vector)) => break vector,
                    Some(Event::Failed { error, .. }) => return Err(ApiError::of_generation(&error, "input")),
                    Some(_) => {}
                    None => return Err(ApiError::loading("the server is shutting down")),
                }
            };
            let index = part * app.models.options().parallel.max(1) + at;
            let vector = written(&vector, request.encoding_format.unwrap_or_default());
            data.push(json!({ "object": "embedding", "index": index, "embedding": vector }));
        }
    }
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    Ok(axum::Json(json!({ "object": "list", "data": data, "model": model.id, "usage": usage })))
}

fn written(vector: &[f32], format: EncodingFormat) -> Value {
    match format {
        EncodingFormat::Float => json!(vector),
        EncodingFormat::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
            base64::engine::general_purpose::STANDARD.encode(bytes).into()
        }
    }
}
