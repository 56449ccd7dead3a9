//! `rotor serve`, over sockets, with the built-in model.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server on a free port; it ends with the test.
struct Server {
    child: Child,
    port: u64,
}

impl Server {
    fn start(arguments: &[&str]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rotor"));
        command.args(["serve", "--port", "0", "--json", "--threads", "2"]).args(arguments);
        for variable in ["ROTOR_MODEL", "ROTOR_API_KEY"] {
            command.env_remove(variable);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let event: Value = serde_json::from_str(&line).expect("the first line is JSON");
        assert_eq!(event["event"], "listening");
        let server = Server { child, port: event["port"].as_u64().unwrap() };
        server.ask("POST", "/tokenize", &json!({ "content": "a" }));
        server
    }

    /// Sends bytes as they are and reads the answer to its end: status, headers, body.
    fn raw(&self, request: &[u8]) -> (u16, String, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port as u16)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body =
            if head.to_lowercase().contains("transfer-encoding: chunked") { unchunked(body) } else { body.into() };
        (status, head.to_owned(), body)
    }

    fn with_headers(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String, String) {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        self.raw(request.as_bytes())
    }

    /// Sends JSON and reads JSON.
    fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let headers = "Content-Type: application/json\r\n";
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let (status, _, body) = self.with_headers(method, path, headers, &text);
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    /// Sends JSON and reads the data of a stream's events.
    fn events(&self, path: &str, body: &Value) -> Vec<String> {
        let headers = "Content-Type: application/json\r\n";
        let (status, head, body) = self.with_headers("POST", path, headers, &body.to_string());
        assert_eq!(status, 200, "{body}");
        assert!(head.to_lowercase().contains("content-type: text/event-stream"), "{head}");
        body.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unchunked(body: &str) -> String {
    let (mut rest, mut text) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        text.push_str(&after[..size]);
        rest = after.get(size + 2..).unwrap_or("");
    }
    text
}

fn chat(more: Value) -> Value {
    let mut request = json!({
        "model": "rotor-tiny", "messages": [{ "role": "user", "content": "Once upon a time" }], "max_tokens": 24, "seed": 5,
    });
    for (key, value) in more.as_object().unwrap() {
        request[key] = value.clone();
    }
    request
}

#[test]
fn a_chat_is_the_same_whole_and_in_pieces() {
    let server = Server::start(&[]);
    let (status, whole) =
        server.ask("POST", "/v1/chat/completions", &chat(json!({ "logprobs": true, "top_logprobs": 2 })));
    assert_eq!(status, 200, "{whole}");
    let choice = &whole["choices"][0];
    let text = choice["message"]["content"].as_str().unwrap();
    assert!(!text.is_empty());
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(whole["usage"]["completion_tokens"], 24);
    let logprobs = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(logprobs.len(), 24);
    assert!(logprobs.iter().all(|token| token["top_logprobs"].as_array().unwrap().len() == 2));
    assert!(logprobs.iter().all(|token| token["logprob"].as_f64().unwrap() <= 0.0));

    let events = server.events(
        "/v1/chat/completions",
        &chat(json!({ "stream": true, "stream_options": { "include_usage": true }, "n": 2 })),
    );
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let roles: Vec<_> = chunks[..2].iter().map(|chunk| &chunk["choices"][0]).collect();
    assert!(
        roles.iter().enumerate().all(|(at, choice)| choice["index"] == at && choice["delta"]["role"] == "assistant")
    );
    let of = |index: usize| -> String {
        let choices =
            chunks.iter().filter_map(|chunk| chunk["choices"].get(0)).filter(|choice| choice["index"] == index);
        choices.filter_map(|choice| choice["delta"]["content"].as_str()).collect()
    };
    assert_eq!(of(0), text, "the first of several choices is what one alone would be");
    assert_ne!(of(1), text);
    let last = chunks.last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(48)));
    assert!(chunks[..chunks.len() - 1].iter().all(|chunk| chunk["usage"].is_null()));
}

#[test]
fn grammars_hold_and_calls_are_parsed() {
    let server = Server::start(&[]);
    let schema = json!({
        "type": "object", "properties": { "name": { "type": "string", "maxLength": 8 }, "age": { "type": "integer" } },
        "required": ["name", "age"], "additionalProperties": false,
    });
    let format =
        json!({ "type": "json_schema", "json_schema": { "name": "person", "strict": true, "schema": schema } });
    let (status, answer) = server.ask(
        "POST",
        "/v1/chat/completions",
        &chat(json!({ "response_format": format, "max_tokens": 120, "temperature": 0.5 })),
    );
    assert_eq!(status, 200, "{answer}");
    let choice = &answer["choices"][0];
    if choice["finish_reason"] == "stop" {
        let person: Value = serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
        assert!(person["name"].is_string() && person["age"].is_number(), "{person}");
    }
    let parameters = json!({
        "type": "object", "properties": { "where": { "enum": ["here", "there"] } }, "required": ["where"],
        "additionalProperties": false,
    });
    let tools = json!([{ "type": "function", "function": { "name": "look", "parameters": parameters } }]);
    let called = json!({ "tools": tools, "tool_choice": "required", "parallel_tool_calls": false, "max_tokens": 100 });
    let (status, answer) = server.ask("POST", "/v1/chat/completions", &chat(called.clone()));
    assert_eq!(status, 200, "{answer}");
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"]["name"], "look");
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert!(["here", "there"].iter().any(|place| arguments["where"] == *place), "{arguments}");

    let mut messages = json!({
        "model": "rotor-tiny", "max_tokens": 100, "messages": [{ "role": "user", "content": "Look." }],
        "tools": [{ "name": "look", "input_schema": parameters }], "tool_choice": { "type": "any", "disable_parallel_tool_use": true },
    });
    let (status, answer) = server.ask("POST", "/v1/messages", &messages);
    assert_eq!((status, &answer["stop_reason"]), (200, &json!("tool_use")), "{answer}");
    let block = answer["content"].as_array().unwrap().iter().find(|block| block["type"] == "tool_use").unwrap();
    assert!(block["input"]["where"].is_string());
    messages["stream"] = true.into();
    let events: Vec<Value> =
        server.events("/v1/messages", &messages).iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let kinds: Vec<_> =
        events.iter().map(|event| event["type"].as_str().unwrap()).filter(|kind| *kind != "ping").collect();
    assert_eq!((kinds[0], kinds[1]), ("message_start", "content_block_start"));
    assert_eq!(kinds[kinds.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
}

#[test]
fn the_other_endpoints_answer() {
    let server = Server::start(&[]);
    assert_eq!(server.ask("GET", "/health", &Value::Null), (200, json!({ "status": "ok" })));
    let (_, models) = server.ask("GET", "/v1/models", &Value::Null);
    assert_eq!(
        (&models["data"][0]["id"], &models["data"][0]["status"]["value"]),
        (&json!("rotor-tiny"), &json!("loaded"))
    );
    let (status, props) = server.ask("GET", "/props", &Value::Null);
    assert_eq!((status, &props["default_generation_settings"]["params"]["top_k"]), (200, &json!(40)));
    let (_, tokens) = server.ask("POST", "/tokenize", &json!({ "content": "Hello there" }));
    let (_, text) = server.ask("POST", "/detokenize", &tokens);
    assert_eq!(text["content"], "Hello there");
    let (status, answer) =
        server.ask("POST", "/v1/completions", &json!({ "prompt": "The king", "temperature": 0, "logprobs": 1 }));
    assert_eq!((status, &answer["usage"]["completion_tokens"]), (200, &json!(16)), "{answer}");
    let (_, again) = server.ask("POST", "/v1/completions", &json!({ "prompt": "The king", "temperature": 0 }));
    assert_eq!(again["choices"][0]["text"], answer["choices"][0]["text"]);
    let (status, vectors) = server.ask("POST", "/v1/embeddings", &json!({ "input": ["a king", "a queen"] }));
    assert_eq!(status, 200, "{vectors}");
    for vector in vectors["data"].as_array().unwrap() {
        let length: f64 =
            vector["embedding"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap().powi(2)).sum();
        assert!((length - 1.0).abs() < 1e-4, "{length}");
    }
    let (status, counted) = server.ask(
        "POST",
        "/v1/messages/count_tokens",
        &json!({ "messages": [{ "role": "user", "content": "Hello" }] }),
    );
    assert!(status == 200 && counted["input_tokens"].as_u64().unwrap() > 0, "{counted}");
    let (status, _, metrics) = server.with_headers("GET", "/metrics", "", "");
    assert!(status == 200 && metrics.contains("rotor:tokens_predicted_total"), "{metrics}");
    let (status, head, page) = server.with_headers("GET", "/", "", "");
    assert!(status == 200 && page.contains("<!doctype html>") || page.contains("<!DOCTYPE html>"), "{page}");
    assert!(head.to_lowercase().contains("content-security-policy: default-src 'none'"), "{head}");
    let (status, description) = server.ask("GET", "/openapi.json", &Value::Null);
    assert!(status == 200 && description["paths"]["/v1/chat/completions"].is_object());
}

#[test]
fn what_is_wrong_is_said_in_the_dialects_shape() {
    let server = Server::start(&[]);
    for (request, param) in [
        (chat(json!({ "temperature": 3 })), "temperature"),
        (chat(json!({ "top_p": -0.1 })), "top_p"),
        (chat(json!({ "max_tokens": 0 })), "max_tokens"),
        (chat(json!({ "n": 1_000_000 })), "n"),
        (chat(json!({ "stop": "" })), "stop"),
        (chat(json!({ "logit_bias": { "999999": 1 } })), "logit_bias"),
        (chat(json!({ "messages": [] })), "messages"),
        (chat(json!({ "tools": [{ "type": "x" }] })), "tools[0]"),
        (chat(json!({ "response_format": { "type": "x" } })), "response_format"),
        (chat(json!({ "messages": [{ "role": "user", "content": "word ".repeat(2000) }] })), "messages"),
    ] {
        let (status, answer) = server.ask("POST", "/v1/chat/completions", &request);
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{answer}");
        assert_eq!(answer["error"]["type"], "invalid_request_error");
    }
    let (status, answer) = server.ask("POST", "/v1/messages", &json!({ "messages": [], "max_tokens": 5 }));
    assert_eq!(
        (status, &answer["type"], &answer["error"]["type"]),
        (400, &json!("error"), &json!("invalid_request_error"))
    );
    assert_eq!(server.ask("GET", "/v1/nothing", &Value::Null).0, 404);
    assert_eq!(server.ask("GET", "/v1/models/nothing", &Value::Null).1["error"]["code"], "model_not_found");
    let (status, head, _) = server.with_headers("GET", "/v1/chat/completions", "", "");
    assert!(status == 405 && head.to_lowercase().contains("allow: post"), "{head}");
    assert_eq!(server.with_headers("POST", "/v1/chat/completions", "Content-Type: text/plain\r\n", "{}").0, 415);
    assert_eq!(server.with_headers("POST", "/v1/chat/completions", "Content-Type: application/json\r\n", "{").0, 400);
    let other = b"GET /health HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n";
    assert_eq!(server.raw(other).0, 403, "a page whose name points to this machine");
    assert_eq!(server.ask("GET", "/health", &Value::Null).0, 200, "and nothing of it disturbed the server");
}

#[test]
fn a_key_is_asked_for_where_there_is_one() {
    let server = Server::start(&["--api-key", "secret"]);
    let body = json!({ "content": "a" }).to_string();
    let ask = |key: &str| {
        server.with_headers("POST", "/tokenize", &format!("Content-Type: application/json\r\n{key}"), &body).0
    };
    assert_eq!(ask(""), 401);
    assert_eq!(ask("Authorization: Bearer wrong\r\n"), 401);
    assert_eq!(ask("Authorization: Bearer secret\r\n"), 200);
    assert_eq!(ask("x-api-key: secret\r\n"), 200);
    assert_eq!(server.ask("GET", "/health", &Value::Null).0, 200);
    let refused = Command::new(env!("CARGO_BIN_EXE_rotor"))
        .args(["serve", "--host", "0.0.0.0", "--port", "0"])
        .env_remove("ROTOR_API_KEY")
        .output();
    let refused = refused.unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--api-key"));
}

/// The same prompt and seed give the same bytes, whatever runs beside.
#[test]
fn many_requests_at_once_each_get_what_they_get_alone() {
    let server = Server::start(&[]);
    let request = |seed: usize| {
        let content = "Tell me of the ".to_owned() + &"old ".repeat(seed % 7) + "house";
        chat(
            json!({ "seed": seed, "temperature": 0.9, "max_tokens": 12 + seed % 5, "messages": [{ "role": "user", "content": content }] }),
        )
    };
    let text = |seed: usize| {
        let (status, answer) = server.ask("POST", "/v1/chat/completions", &request(seed));
        assert_eq!(status, 200, "{answer}");
        answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    };
    let alone: Vec<String> = (0..64).map(text).collect();
    let together: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..64).map(|seed| scope.spawn(move || text(seed))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(together, alone);
}

#[cfg(unix)]
#[test]
fn a_request_to_terminate_lets_answers_finish() {
    let mut server = Server::start(&[]);
    let port = server.port as u16;
    let id = server.child.id().to_string();
    let answer = std::thread::spawn(move || {
        let body = chat(json!({ "max_tokens": 200 })).to_string();
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    std::thread::sleep(Duration::from_millis(150));
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let answer = answer.join().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}
