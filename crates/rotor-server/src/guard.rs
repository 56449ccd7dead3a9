//! Who may ask: the Host header, keys, pages of other origins, and the number every request gets.
//!
//! A web page that anybody reads may send requests to 127.0.0.1. So a server on loopback answers only to loopback names (a
//! page that has its own name point to 127.0.0.1 is still known by it), JSON has to be called JSON, and without a list of
//! origins no page of another origin may read an answer.

use crate::app::App;
use crate::error::{ApiError, RequestId};
use crate::requests::Caller;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;
use subtle::ConstantTimeEq;

/// A key that clients must send. Only its hash is kept, so that comparing takes the same time for every key of any length.
#[derive(Clone)]
pub struct ApiKey([u8; 32]);

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(...)")
    }
}

impl ApiKey {
    /// A key.
    pub fn new(key: &str) -> ApiKey {
        ApiKey(Sha256::digest(key.as_bytes()).into())
    }

    fn is(&self, key: &str) -> bool {
        let found: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        self.0.ct_eq(&found).into()
    }
}

/// Gives each request its number, and logs how it was answered.
pub(crate) async fn number(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let id = crate::ids::unique("req_");
    let begun = Instant::now();
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let caller = Caller::new(&id, request.headers(), address);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    request.extensions_mut().insert(caller);
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    let status = response.status().as_u16();
    app.metrics.answered(status);
    let milliseconds = begun.elapsed().as_millis() as u64;
    tracing::info!(id, %method, path, status, milliseconds, "answered");
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", value.clone());
        response.headers_mut().insert("request-id", value);
    }
    response
}

/// Refuses names of other hosts on loopback.
pub(crate) async fn host(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if app.is_loopback {
        let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
        if !host.is_none_or(is_loopback_name) {
            let message = "this server answers on loopback only, and the Host header names another host";
            return ApiError::new(StatusCode::FORBIDDEN, message).into_response();
        }
    }
    next.run(request).await
}

fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Answers preflights, and lets listed origins read answers.
pub(crate) async fn origins(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let allowed = origin.filter(|origin| app.origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()));
    let Some(origin) = allowed else { return next.run(request).await };
    let is_preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if is_preflight {
        let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE, OPTIONS"));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        if let Some(asked) = asked {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked);
        }
        response
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("x-request-id"));
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    response
}

/// Demands the key, where there is one. The page's files, the health checks and the description hold no secrets.
pub(crate) async fn key(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let open = matches!(path, "/health" | "/v1/health" | "/ready" | "/openapi.json") || crate::page::has(path);
    if !open && let Some(key) = &app.key {
        let known = sent_key(request.headers()).is_some_and(|sent| key.is(sent));
        if !known {
            let error = ApiError::new(StatusCode::UNAUTHORIZED, "the API key is missing or wrong");
            return ApiError { code: Some("invalid_api_key"), ..error }.into_response();
        }
    }
    next.run(request).await
}

fn sent_key(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text(header::AUTHORIZATION.as_str()).and_then(|value| value.split_once(' '));
    let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, key)| key.trim());
    bearer.or_else(|| text("x-api-key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_loopback() {
        for name in ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "127.1.2.3", "[::1]:8080", "a.localhost:3"] {
            assert!(is_loopback_name(name), "{name}");
        }
        for name in ["example.com", "127.0.0.1.example.com", "localhost.example.com:80", "10.0.0.1", "[::2]:1", ""] {
            assert!(!is_loopback_name(name), "{name}");
        }
    }

    #[test]
    fn keys() {
        let key = ApiKey::new("secret");
        assert!(key.is("secret") && !key.is("secre") && !key.is("") && !key.is("secret "));
        assert_eq!(format!("{key:?}"), "ApiKey(...)");
        let mut headers = HeaderMap::new();
        assert_eq!(sent_key(&headers), None);
        headers.insert("x-api-key", HeaderValue::from_static("a"));
        assert_eq!(sent_key(&headers), Some("a"));
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("bearer b"));
        assert_eq!(sent_key(&headers), Some("b"));
    }
}
