//! What went wrong with a request, and how each dialect says so.
//!
//! Handlers return an [`ApiError`]. It becomes a response without a body that carries the error; the outermost layer
//! ([`render`]) writes the body, because only there the path, and so the dialect, is known for every error: those of handlers,
//! of the body's reading, of keys and limits, and of paths that nobody has.

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use rotor::engine::GenerateError;
use rotor::model::ForwardError;
use serde_json::{Map, Value, json};

/// The shapes that errors have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `{"error": {"message", "type", "param", "code"}}`.
    OpenAi,
    /// `{"type": "error", "error": {"type", "message"}, "request_id"}`.
    Anthropic,
}

impl Dialect {
    /// The dialect that a path belongs to.
    pub(crate) fn of_path(path: &str) -> Dialect {
        if path == "/v1/messages" || path.starts_with("/v1/messages/") { Dialect::Anthropic } else { Dialect::OpenAi }
    }
}

/// An error that a client can read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    /// The field of the request that is wrong.
    pub(crate) param: Option<String>,
    pub(crate) code: Option<&'static str>,
    /// Tokens of a prompt that is too long, and of the context.
    pub(crate) overflow: Option<(usize, usize)>,
    /// Seconds after which it is worth trying again.
    pub(crate) retry_after: Option<u64>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError { status, message: message.into(), param: None, code: None, overflow: None, retry_after: None }
    }

    /// A field that is wrong.
    pub(crate) fn field(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError { param: Some(param.into()), ..ApiError::new(StatusCode::BAD_REQUEST, message) }
    }

    /// Something that this server does not have, named by the field that asks for it.
    pub(crate) fn unsupported(param: impl Into<String>, what: &str) -> ApiError {
        ApiError::field(param, format!("{what} is not supported"))
    }

    /// A model that is not here.
    pub(crate) fn no_model(name: &str, known: &str) -> ApiError {
        let message = format!("the model {name:?} does not exist; there are: {known}");
        ApiError {
            param: Some("model".into()),
            code: Some("model_not_found"),
            ..ApiError::new(StatusCode::NOT_FOUND, message)
        }
    }

    /// Every place is taken.
    pub(crate) fn busy(message: impl Into<String>) -> ApiError {
        ApiError {
            code: Some("rate_limit_exceeded"),
            retry_after: Some(1),
            ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, message)
        }
    }

    /// The model is not there yet.
    pub(crate) fn loading(message: impl Into<String>) -> ApiError {
        ApiError { retry_after: Some(1), ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// The prompt, or the prompt and the answer that is asked for, do not fit. The words are those that clients look for.
    pub(crate) fn overflow(param: &str, tokens: usize, context: usize) -> ApiError {
        let message =
            format!("This model's maximum context length is {context} tokens, and the {param} have {tokens}.");
        ApiError {
            code: Some("context_length_exceeded"),
            overflow: Some((tokens, context)),
            ..ApiError::field(param, message)
        }
    }

    /// What a generation that began, or was to begin, failed with.
    pub(crate) fn of_generation(error: &GenerateError, prompt_field: &str) -> ApiError {
        match error {
            GenerateError::PromptTooLong { tokens, context } => ApiError::overflow(prompt_field, *tokens, *context),
            GenerateError::EmptyPrompt
            | GenerateError::NoTokenizer(_)
            | GenerateError::NoChatTemplate
            | GenerateError::Tokenizer(_)
            | GenerateError::Chat(_) => ApiError::field(prompt_field, error.to_string()),
            GenerateError::MemoryTooSmall { .. }
            | GenerateError::Forward(ForwardError::TokenOutOfRange { .. } | ForwardError::BeyondRope { .. }) => {
                ApiError::field(prompt_field, error.to_string())
            }
            GenerateError::Sampling(sampling) => ApiError::field(sampling.option, error.to_string()),
            GenerateError::Choices { .. } | GenerateError::ConstraintNotCopied => {
                ApiError::field("n", error.to_string())
            }
            _ => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    /// OpenAI's `type`.
    fn openai_type(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_exceeded",
            StatusCode::SERVICE_UNAVAILABLE => "unavailable_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// Anthropic's `type`.
    fn anthropic_type(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            status if status.is_server_error() => "api_error",
            _ => "invalid_request_error",
        }
    }

    /// The body in a dialect; also what a stream that has begun ends with.
    pub(crate) fn body(&self, dialect: Dialect, request_id: &str) -> Value {
        match dialect {
            Dialect::OpenAi => {
                let mut error = Map::new();
                error.insert("message".into(), self.message.as_str().into());
                error.insert("type".into(), self.openai_type().into());
                error.insert("param".into(), self.param.as_deref().map_or(Value::Null, Value::from));
                error.insert("code".into(), self.code.map_or(Value::Null, Value::from));
                if let Some((tokens, context)) = self.overflow {
                    error.insert("n_prompt_tokens".into(), tokens.into());
                    error.insert("n_ctx".into(), context.into());
                }
                json!({ "error": error })
            }
            Dialect::Anthropic => {
                let message = match self.overflow {
                    Some((tokens, context)) => format!("prompt is too long: {tokens} tokens > {context} maximum"),
                    None => self.message.clone(),
                };
                let error = json!({ "type": self.anthropic_type(), "message": message });
                json!({ "type": "error", "error": error, "request_id": request_id })
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The number of a request, sent back as `x-request-id` and named in logs.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

/// Writes the bodies of errors, in the dialect of the path.
pub(crate) async fn render(request: Request, next: Next) -> Response {
    let dialect = Dialect::of_path(request.uri().path());
    let id = request.extensions().get::<RequestId>().map_or_else(String::new, |id| id.0.clone());
    let mut response = next.run(request).await;
    let Some(error) = response.extensions_mut().remove::<ApiError>() else { return response };
    let mut rendered = (error.status, axum::Json(error.body(dialect, &id))).into_response();
    let headers = rendered.headers_mut();
    // What the layers within have set stays: `Allow` of a 405, for one.
    for (name, value) in response.headers() {
        if name != header::CONTENT_LENGTH && name != header::CONTENT_TYPE {
            headers.append(name, value.clone());
        }
    }
    if let Some(seconds) = error.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if error.status == StatusCode::INTERNAL_SERVER_ERROR {
        // Clients try again after a 5xx, but a model that cannot compute something will not the second time.
        headers.insert("x-should-retry", HeaderValue::from_static("false"));
    }
    rendered
}
