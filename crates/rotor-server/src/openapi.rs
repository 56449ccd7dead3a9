//! The description of the server: its routes and the errors that each may give.

use std::collections::BTreeMap;
use utoipa::openapi::{Content, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, OpenApi, ToSchema};

/// What `/openapi.json` says about the server as a whole; the routes add themselves.
#[derive(OpenApi)]
#[openapi(
    info(title = "rotor", description = "Ternary language models over the OpenAI and Anthropic dialects.", license(name = "MIT OR Apache-2.0")),
    tags(
        (name = "openai", description = "OpenAI's dialect"),
        (name = "anthropic", description = "Anthropic's dialect"),
        (name = "server", description = "The server itself, in llama-server's shapes"),
        (name = "page", description = "What the web page asks for"),
    ),
    components(schemas(ErrorBody)),
)]
pub(crate) struct Description;

/// An error.
#[derive(ToSchema)]
#[schema(value_type = Object)]
#[expect(dead_code, reason = "stands for the shapes that errors have in the description")]
pub(crate) struct ErrorBody(serde_json::Value);

/// An event of a stream.
#[derive(ToSchema)]
#[expect(dead_code, reason = "stands for the events that streams have in the description")]
pub(crate) struct StreamEvent {
    /// Its kind, where the dialect names its events.
    event: Option<String>,
    /// JSON, or what ends the stream.
    data: String,
}

/// The errors that any operation may give.
pub(crate) struct Errors;

impl IntoResponses for Errors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let error = |(status, description): (&str, &str)| {
            let content = Content::new(Some(RefOr::Ref(utoipa::openapi::Ref::from_schema_name("ErrorBody"))));
            let response = ResponseBuilder::new().description(description).content("application/json", content).build();
            (status.to_owned(), RefOr::T(response))
        };
        [
            ("400", "A field is wrong; the error names it"),
            ("401", "The key is missing or wrong"),
            ("403", "Not from here"),
            ("404", "There is no such thing"),
            ("405", "Not with this method"),
            ("408", "The body did not come in time"),
            ("409", "Not in this state"),
            ("413", "The body is too large"),
            ("415", "The body is not JSON"),
            ("429", "Every place is taken; Retry-After says when to try again"),
            ("500", "The model could not compute an answer"),
            ("503", "The model is not loaded yet, or the server is shutting down"),
        ]
        .into_iter()
        .map(error)
        .collect()
    }
}
