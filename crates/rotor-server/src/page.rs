//! The web page, as it lies in `web/`: served from memory, with a policy that lets it ask nobody but this server.

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::LazyLock;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Paths and contents.
const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/page_files.rs"));

/// Contents and tags, by path.
static PAGE: LazyLock<BTreeMap<&str, (&[u8], String)>> = LazyLock::new(|| {
    let tag =
        |bytes: &[u8]| Sha256::digest(bytes).iter().take(12).map(|byte| format!("{byte:02x}")).collect::<String>();
    FILES.iter().map(|(path, bytes)| (*path, (*bytes, format!("\"{}\"", tag(bytes))))).collect()
});

fn name(path: &str) -> &str {
    if path == "/" { "/index.html" } else { path }
}

/// Whether a path is one of the page's files.
pub(crate) fn has(path: &str) -> bool {
    PAGE.contains_key(name(path))
}

/// The paths of all files, and `/`.
pub(crate) fn paths() -> impl Iterator<Item = &'static str> {
    std::iter::once("/").chain(FILES.iter().map(|(path, _)| *path))
}

/// One of the page's files.
pub(crate) async fn file(request: Request) -> Response {
    let path = name(request.uri().path());
    let Some((bytes, tag)) = PAGE.get(path) else { return StatusCode::NOT_FOUND.into_response() };
    let known = request.headers().get(header::IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == tag.as_bytes());
    let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { (*bytes).into_response() };
    let headers = response.headers_mut();
    let kind = match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    };
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}
