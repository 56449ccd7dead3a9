//! Clients that mean harm, or know no better: whatever they do is answered, or their connection ends within the limits, and the
//! server goes on answering others.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use rotor::KvType;
use rotor::formats::OpenOptions;
use rotor::speculate::Speculate;
use rotor_server::{Limits, ModelOptions, ModelSpec, Server, ServerOptions};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest that a test waits for an answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Limits as they are in these tests.
const LIMITS: Limits = Limits {
    connections: 64,
    header_time: Duration::from_millis(400),
    body_time: Duration::from_millis(600),
    body_bytes: 1 << 20,
};

/// A server with the built-in model in a thread of this process; it ends with the test.
struct Running {
    address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(drain: Duration) -> Running {
        let options = ServerOptions {
            models: vec![ModelSpec::built_in()],
            loading: ModelOptions {
                open: OpenOptions::default(),
                threads: 2,
                context: None,
                kv: KvType::F16,
                kv_memory: None,
                speculate: Speculate::default(),
                parallel: 16,
                queue: 32,
                max_models: 1,
                idle_unload: None,
            },
            key: None,
            origins: Vec::new(),
            drain,
            limits: LIMITS,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let server = runtime.block_on(Server::bind(([127, 0, 0, 1], 0).into(), options)).unwrap();
        let address = server.address();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let stopped = async {
                // Dropping the sender stops it too.
                let _ = stopped.await;
            };
            runtime.block_on(server.run(stopped)).unwrap();
        });
        let running = Running { address, stop: Some(stop), thread: Some(thread) };
        assert_eq!(running.ask("POST", "/tokenize", json!({ "content": "a" }).to_string().as_bytes()).0, 200);
        running
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends a body as JSON and reads the answer to its end: status and all that follows the header.
    fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let mut stream = self.connect();
        stream.write_all(&request(method, path, body)).unwrap();
        answer(stream)
    }

    fn is_well(&self) -> bool {
        self.ask("GET", "/health", b"").0 == 200
    }

    /// What runs and waits, and the blocks in use.
    fn busy(&self) -> (usize, usize) {
        let (_, body) = self.ask("GET", "/rotor/requests", b"");
        let state: Value = serde_json::from_str(&body).unwrap();
        let under_way = state["running"].as_array().unwrap().len() + state["waiting"].as_array().unwrap().len();
        (under_way, state["kv"][0]["used"].as_u64().unwrap() as usize)
    }

    /// Waits until nothing runs and no block is in use.
    fn settles(&self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.busy() == (0, 0) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Reads to the end: status and body. 0 where the connection ended without an answer.
fn answer(mut stream: TcpStream) -> (u16, String) {
    let mut bytes = Vec::new();
    // A connection that is reset has ended too.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return (0, text) };
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn chat(tokens: usize) -> Value {
    json!({ "messages": [{ "role": "user", "content": "Once upon a time" }], "max_tokens": tokens, "ignore_eos": true })
}

#[test]
fn connections_that_say_too_little_end_in_time() {
    let server = Running::start(Duration::from_secs(5));
    let begun = Instant::now();
    let body_without_end = {
        let mut stream = server.connect();
        let head = "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{";
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let half_a_header = {
        let mut stream = server.connect();
        stream.write_all(b"GET /health HTTP/1.1\r\nHos").unwrap();
        stream
    };
    let nothing = server.connect();
    assert!(server.is_well(), "others are answered meanwhile");
    assert_eq!(answer(body_without_end).0, 408);
    assert!(matches!(answer(half_a_header).0, 0 | 408));
    assert!(matches!(answer(nothing).0, 0 | 408));
    assert!(begun.elapsed() < Duration::from_secs(20), "they ended by themselves");
    // A body that breaks off is no request at all.
    let mut stream = server.connect();
    stream.write_all(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(matches!(answer(stream).0, 0 | 400 | 408));
    assert!(server.is_well());
}

#[test]
fn more_connections_than_may_be_wait_for_their_turn() {
    let server = Running::start(Duration::from_secs(5));
    let idle: Vec<_> = (0..LIMITS.connections).map(|_| server.connect()).collect();
    assert!(server.is_well(), "those that say nothing make room");
    drop(idle);
}

#[test]
fn bodies_that_are_no_requests_are_refused() {
    let server = Running::start(Duration::from_secs(5));
    let deep = format!("{{\"messages\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_unknown = format!("{{\"content\": \"a\", \"x\": {}{}}}", "{\"a\":".repeat(5000), "}".repeat(5000));
    let large = format!("{{\"content\": \"{}\"}}", "a".repeat(LIMITS.body_bytes));
    for (path, body, expected) in [
        ("/tokenize", &b"{\"content\": \"\xff\xfe\"}"[..], 400),
        ("/tokenize", b"{\"content\": \"a\", \"x\": \"\xff\"}", 400),
        ("/tokenize", b"{\"content\": \"\\ud800\"}", 400),
        ("/tokenize", b"{\"content\": NaN}", 400),
        ("/tokenize", b"[]", 400),
        ("/tokenize", b"", 400),
        ("/tokenize", b"\0\0\0\0", 400),
        ("/tokenize", deep_unknown.as_bytes(), 400),
        ("/tokenize", large.as_bytes(), 413),
        ("/v1/chat/completions", deep.as_bytes(), 400),
        ("/v1/messages", deep.as_bytes(), 400),
        ("/v1/responses", deep.as_bytes(), 400),
    ] {
        let (status, answer) = server.ask("POST", path, body);
        assert_eq!(status, expected, "{path}: {answer}");
        assert!(serde_json::from_str::<Value>(&answer).unwrap()["error"].is_object(), "{answer}");
    }
    assert!(server.is_well());
}

/// Every field that is a number, of every path that has some.
const NUMBERS: [(&str, &[&str]); 6] = [
    (
        "/v1/chat/completions",
        &[
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "frequency_penalty",
            "presence_penalty",
            "repeat_penalty",
            "repeat_last_n",
            "seed",
            "n",
            "max_tokens",
            "max_completion_tokens",
            "top_logprobs",
        ],
    ),
    ("/v1/completions", &["temperature", "top_p", "top_k", "seed", "n", "max_tokens", "logprobs", "best_of"]),
    ("/v1/responses", &["temperature", "top_p", "max_output_tokens", "top_logprobs"]),
    ("/v1/messages", &["temperature", "top_p", "top_k", "max_tokens"]),
    ("/v1/embeddings", &["dimensions"]),
    ("/detokenize", &["tokens"]),
];

#[test]
fn numbers_of_any_size_are_taken_or_refused_by_name() {
    let server = Running::start(Duration::from_secs(5));
    let values = [
        "-1",
        "0",
        "-9223372036854775808",
        "9223372036854775807",
        "1e308",
        "-1e308",
        "1e-320",
        "0.5",
        "\"1\"",
        "[]",
        "true",
    ];
    for (path, fields) in NUMBERS {
        for field in fields {
            for value in values {
                let asked = if path == "/v1/completions" { "prompt" } else { "input" };
                let others = ["\"max_tokens\":2", "\"max_output_tokens\":2"];
                let others = others.iter().filter(|other| !other.contains(&format!("\"{field}\"")));
                let others: Vec<_> = others.copied().collect();
                let body = format!(
                    "{{\"messages\":[{{\"role\":\"user\",\"content\":\"a\"}}],\"{asked}\":\"a\",{},\"{field}\":{value}}}",
                    others.join(",")
                );
                let (status, answer) = server.ask("POST", path, body.as_bytes());
                // What is not limited by this field would generate all the context holds, which is an answer too.
                assert!(matches!(status, 200 | 400), "{path} {field}={value}: {status} {answer}");
                if status == 400 {
                    assert!(
                        answer.contains(field) || answer.contains("tokens") || answer.contains("body"),
                        "{path} {field}={value}: {answer}"
                    );
                }
            }
        }
    }
    // What no double can hold is not JSON that is expected here.
    assert_eq!(server.ask("POST", "/v1/completions", b"{\"prompt\":\"a\",\"temperature\":1e999}").0, 400);
    assert!(server.settles());
}

#[test]
fn schemas_of_any_size_are_followed_or_refused() {
    let server = Running::start(Duration::from_secs(5));
    let branches: Vec<_> = (0..10_000)
        .map(|index| json!({ "type": "object", "properties": { format!("p{index}"): { "type": "string" } } }))
        .collect();
    let consts: Vec<_> = (0..10_000).map(|index| json!({ "const": format!("value {index}") })).collect();
    let mut nested = json!({ "type": "string" });
    for _ in 0..30 {
        nested = json!({ "type": "object", "properties": { "a": nested }, "required": ["a"] });
    }
    for schema in [
        json!({ "anyOf": branches }),
        json!({ "anyOf": consts }),
        nested,
        json!({ "type": "string", "maxLength": 1_000_000_000 }),
        json!({ "type": "array", "minItems": 100_000, "items": { "type": "integer" } }),
        json!({ "type": "string", "pattern": "(a+)+$" }),
        json!({ "$ref": "#/$defs/a", "$defs": { "a": { "$ref": "#/$defs/a" } } }),
        json!({ "$ref": "https://example.com/schema.json" }),
        json!({ "not": {} }),
    ] {
        let mut request = chat(8);
        request["response_format"] = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
        let begun = Instant::now();
        let (status, answer) = server.ask("POST", "/v1/chat/completions", request.to_string().as_bytes());
        assert!(matches!(status, 200 | 400), "{status} {answer}");
        assert!(status == 200 || answer.contains("\"response_format\""), "{answer}");
        assert!(begun.elapsed() < Duration::from_secs(60), "a schema held the server up");
    }
    assert!(server.settles());
}

#[test]
fn clients_that_leave_free_their_places() {
    let server = Running::start(Duration::from_secs(5));
    let mut request_body = chat(400);
    request_body["stream"] = true.into();
    for path in ["/v1/chat/completions", "/v1/messages"] {
        let leaving: Vec<_> = (0..16)
            .map(|_| {
                let mut stream = server.connect();
                stream.write_all(&request("POST", path, request_body.to_string().as_bytes())).unwrap();
                let mut beginning = [0; 64];
                stream.read_exact(&mut beginning).unwrap();
                stream
            })
            .collect();
        // What was not read yet makes the system reset the connections, as it does for a client that is killed.
        drop(leaving);
        assert!(server.settles(), "requests of clients that have left go on");
    }
    // Those that wait for a whole answer leave too.
    request_body["stream"] = false.into();
    for _ in 0..4 {
        let mut stream = server.connect();
        stream.write_all(&request("POST", "/v1/chat/completions", request_body.to_string().as_bytes())).unwrap();
    }
    assert!(server.settles());
}

#[test]
fn a_server_that_stops_ends_every_stream_in_time() {
    let mut server = Running::start(Duration::from_secs(60));
    let streams = |server: &Running| -> Vec<TcpStream> {
        let mut request_body = chat(200);
        request_body["stream"] = true.into();
        let open = |_| {
            let mut stream = server.connect();
            stream.write_all(&request("POST", "/v1/chat/completions", request_body.to_string().as_bytes())).unwrap();
            let mut beginning = [0; 15];
            stream.read_exact(&mut beginning).unwrap();
            assert_eq!(&beginning, b"HTTP/1.1 200 OK");
            stream
        };
        (0..16).map(open).collect()
    };
    let open = streams(&server);
    drop(server.stop.take());
    for stream in open {
        let mut stream = stream;
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("data: [DONE]") && rest.contains("\"finish_reason\":\"length\""), "{rest}");
    }
    server.thread.take().unwrap().join().unwrap();

    // Without time for that they are cut off, and the server ends all the same.
    let mut server = Running::start(Duration::ZERO);
    let open = streams(&server);
    let begun = Instant::now();
    drop(server.stop.take());
    server.thread.take().unwrap().join().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(30));
    drop(open);
}
