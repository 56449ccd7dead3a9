//! Server-sent events.

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use std::convert::Infallible;
use std::time::Duration;

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

/// An event with its name, which is also the `type` in its data.
pub(crate) fn named(name: &'static str, mut data: Value) -> Event {
    data["type"] = name.into();
    Event::default().event(name).data(data.to_string())
}

/// An answer that is sent as it is made.
pub(crate) trait Answer: Send + 'static {
    /// The next events, perhaps none; `None` when all were sent.
    fn events(&mut self) -> impl Future<Output = Option<Vec<Event>>> + Send;
}

/// Sends an answer. Whoever reads may leave at any time: the answer is dropped then, and what it asked for ends.
pub(crate) fn response(mut answer: impl Answer) -> Response {
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        loop {
            let events = tokio::select! {
                events = answer.events() => events,
                () = sender.closed() => return,
            };
            let Some(events) = events else { return };
            for event in events {
                if sender.send(Ok::<_, Infallible>(event)).await.is_err() {
                    return;
                }
            }
        }
    });
    let events = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // nginx would collect the events before it hands them on.
    response.headers_mut().insert("x-accel-buffering", axum::http::HeaderValue::from_static("no"));
    response
}
