//! Server-sent events.

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use std::convert::Infallible;
use std::time::Duration;
use tokio_stream::Stream;

/// A connection that is silent for so long gets a comment: proxies cut off those that are silent for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A JSON value as an event without a name.
pub(crate) fn data(value: &Value) -> Event {
    Event::default().data(value.to_string())
}

/// The end of OpenAI's streams.
pub(crate) fn done() -> Event {
    Event::default().data("[DONE]")
}

/// The response for a stream of events.
pub(crate) fn response(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let events = tokio_stream::StreamExt::map(events, Ok::<_, Infallible>);
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // nginx would collect the events before it hands them on.
    response.headers_mut().insert("x-accel-buffering", axum::http::HeaderValue::from_static("no"));
    response
}

/// A stream of what `next` yields, one state after the other.
pub(crate) fn unfold<S: Send + 'static, F>(
    state: S,
    next: impl Fn(S) -> F + Send + 'static,
) -> impl Stream<Item = Event> + Send + 'static
where
    F: Future<Output = Option<(Vec<Event>, S)>> + Send + 'static,
{
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        let mut state = state;
        loop {
            // Whoever reads has left: what is in `state` ends with it.
            let step = tokio::select! {
                step = next(state) => step,
                () = sender.closed() => return,
            };
            let Some((events, after)) = step else { return };
            for event in events {
                if sender.send(event).await.is_err() {
                    return;
                }
            }
            state = after;
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}
