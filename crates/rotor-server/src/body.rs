//! Bodies of requests: read within limits, then typed, with the field that is wrong in the error.

use crate::Limits;
use crate::app::App;
use crate::error::ApiError;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use std::fmt;
use std::sync::Arc;
use utoipa::ToSchema;

/// Deepest nesting: parsers of JSON schemas and templates walk what a request holds.
const MAX_DEPTH: usize = 100;

/// A JSON body.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let Limits { body_time, body_bytes, .. } = app.limits;
        let is_json =
            request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|kind| {
                kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
            });
        if !is_json {
            // A page of another origin may send text/plain without asking; JSON it may not.
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be sent as application/json"));
        }
        let bytes = tokio::time::timeout(body_time, axum::body::to_bytes(request.into_body(), body_bytes)).await;
        let bytes = bytes.map_err(|_| {
            let message = format!("the body did not come within {} s", body_time.as_secs_f32());
            ApiError::new(StatusCode::REQUEST_TIMEOUT, message)
        })?;
        let bytes = bytes.map_err(|error| {
            let too_large =
                std::error::Error::source(&error).is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>());
            if too_large {
                return ApiError::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!("the body is larger than {body_bytes} bytes"),
                );
            }
            ApiError::new(StatusCode::BAD_REQUEST, "the body ended before it was complete")
        })?;
        parse(&bytes).map(Json)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let invalid = |message: String| ApiError::new(StatusCode::BAD_REQUEST, message);
    // serde passes over fields that it does not know without looking at their bytes or their depth.
    let text = std::str::from_utf8(bytes).map_err(|error| invalid(format!("the body is not UTF-8: {error}")))?;
    if depth(text) > MAX_DEPTH {
        return Err(invalid(format!("the body is nested deeper than {MAX_DEPTH} levels")));
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let message = error.inner().to_string();
        match path.as_str() {
            "." | "?" => invalid(format!("the body is not the JSON that is expected: {message}")),
            _ => ApiError::field(path.clone(), format!("{path}: {message}")),
        }
    })?;
    reader.end().map_err(|error| invalid(format!("the body is not one JSON value: {error}")))?;
    Ok(value)
}

/// Levels of arrays and objects.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// A whole number, however it is written: JSON Schema's integers include `1.0` and `1e3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(value_type = i64)]
pub(crate) struct Int(pub(crate) i64);

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;
        impl Visitor<'_> for Whole {
            type Value = Int;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Int, E> {
                Ok(Int(value))
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Int, E> {
                // Out of every range there is, so clamping keeps the error.
                Ok(Int(i64::try_from(value).unwrap_or(i64::MAX)))
            }

            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Int, E> {
                if value.fract() != 0.0 {
                    return Err(E::custom(format_args!("expected a whole number, found {value}")));
                }
                Ok(Int(value as i64))
            }
        }
        deserializer.deserialize_any(Whole).map_err(D::Error::custom)
    }
}

/// A number within its range, or the field's error.
pub(crate) fn number(field: &str, value: Option<f64>, low: f64, high: f64) -> Result<Option<f32>, ApiError> {
    match value {
        Some(value) if !(low..=high).contains(&value) => {
            Err(ApiError::field(field, format!("{field} must be between {low} and {high}, not {value}")))
        }
        value => Ok(value.map(|value| value as f32)),
    }
}

/// A whole number within its range, or the field's error.
pub(crate) fn integer(field: &str, value: Option<Int>, low: i64, high: i64) -> Result<Option<usize>, ApiError> {
    match value {
        Some(Int(value)) if !(low..=high).contains(&value) => {
            Err(ApiError::field(field, format!("{field} must be from {low} to {high}, not {value}")))
        }
        value => Ok(value.map(|value| value.0 as usize)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Body {
        #[allow(dead_code, reason = "read by the derived Debug")]
        n: Option<Int>,
        #[serde(default)]
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    struct Inner {
        text: String,
    }

    #[test]
    fn errors_name_the_field() {
        let error = parse::<Body>(br#"{"inner": [{"text": "a"}, {"text": 1}]}"#).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("inner[1].text"));
        assert!(error.message.contains("expected a string"), "{}", error.message);
        let good = parse::<Body>(br#"{"inner": [{"text": "a"}], "more": {"x": [1]}}"#).unwrap();
        assert_eq!(good.inner[0].text, "a");
    }

    #[test]
    fn whole_numbers_may_be_written_as_floats() {
        for (text, expected) in [("3", 3), ("3.0", 3), ("3e2", 300), ("-1", -1)] {
            assert_eq!(serde_json::from_str::<Int>(text).unwrap(), Int(expected), "{text}");
        }
        for wrong in ["1.5", "\"1\"", "true", "[]"] {
            assert!(serde_json::from_str::<Int>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hostile_bodies_are_refused() {
        let deep = format!("{{\"x\": {}{}}}", "[".repeat(200), "]".repeat(200));
        for (body, word) in [
            (deep.as_bytes(), "nested"),
            (b"{\"x\": \"\xff\"}", "UTF-8"),
            (b"", "JSON"),
            (b"{} {}", "one JSON value"),
            (b"{\"n\": 1e999}", "n"),
        ] {
            let error = parse::<Body>(body).unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_REQUEST);
            assert!(error.message.contains(word), "{}", error.message);
        }
    }
}
