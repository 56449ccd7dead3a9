//! What all handlers share, and the routes.

use crate::error::{self, ApiError};
use crate::guard::{self, ApiKey};
use crate::metrics::Metrics;
use crate::models::Models;
use crate::openai::{chat, completions, embeddings, models, responses};
use crate::openapi::Description;
use crate::requests::{Caller, Requests, Tracked};
use crate::{Limits, anthropic, llama, page, statistics};
use axum::Router;
use axum::http::StatusCode;
use axum::middleware;
use axum::routing::get;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The server's state.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) models: Arc<Models>,
    pub(crate) requests: Arc<Requests>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) key: Option<ApiKey>,
    /// Origins of pages that may read answers.
    pub(crate) origins: Vec<String>,
    pub(crate) is_loopback: bool,
    pub(crate) limits: Limits,
    pub(crate) draining: AtomicBool,
}

impl App {
    /// Puts a request on the list; its model is what it asks for until that is known better.
    pub(crate) fn track(&self, caller: &Caller, model: Option<&str>, dialect: &'static str) -> Tracked {
        self.requests.track(&self.metrics, caller.clone(), model.unwrap_or_default(), dialect)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// All routes, and their description.
pub(crate) fn router(app: Arc<App>) -> Router {
    let (routes, mut description) = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(chat::chat_completions))
        .routes(routes!(completions::completions))
        .routes(routes!(responses::responses))
        .routes(routes!(responses::input_tokens))
        .routes(routes!(embeddings::embeddings))
        .routes(routes!(models::list_models))
        .routes(routes!(anthropic::messages))
        .routes(routes!(anthropic::count_tokens))
        .routes(routes!(llama::health))
        .routes(routes!(llama::ready))
        .routes(routes!(llama::metrics))
        .routes(routes!(llama::props))
        .routes(routes!(llama::slots))
        .routes(routes!(llama::tokenize))
        .routes(routes!(llama::detokenize))
        .routes(routes!(llama::apply_template))
        .routes(routes!(statistics::statistics))
        .routes(routes!(llama::requests))
        .routes(routes!(llama::cancel_request))
        .split_for_parts();
    description.info.version = env!("CARGO_PKG_VERSION").to_owned();
    let mut routes = routes
        // A name with slashes is more than the description can say.
        .route("/v1/models/{*id}", get(models::get_model))
        .route("/v1/health", get(llama::health))
        .route(
            "/v1/responses/{*id}",
            get(responses::not_stored).delete(responses::not_stored).post(responses::not_stored),
        )
        .route("/openapi.json", get(move || async move { axum::Json(description) }));
    for path in page::paths() {
        routes = routes.route(path, get(page::file));
    }
    let no_path = || async {
        ApiError::new(StatusCode::NOT_FOUND, "there is nothing at this path; /openapi.json lists what there is")
    };
    let no_method = || async { ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method") };
    routes
        .fallback(no_path)
        .method_not_allowed_fallback(no_method)
        // The last layer is the outermost.
        .layer(middleware::from_fn_with_state(Arc::clone(&app), guard::key))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), guard::origins))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), guard::host))
        .layer(middleware::from_fn(error::render))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), guard::number))
        .with_state(app)
}
