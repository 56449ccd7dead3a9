//! Requests to a hub: redirects, the token, errors in words, and trying again.
//!
//! Redirects are followed here rather than by the HTTP library because three rules depend on each step: the token goes to
//! the endpoint's own origin only, an address that was secure stays so, and what the hub says about a file stands in the
//! headers of its redirect, not in those of the storage it leads to.

use crate::address::{Address, Origin};
use crate::error::HubError;
use crate::name::steers;
use crate::settings::Settings;
use std::io::{self, Read};
use std::time::{Duration, Instant};
use ureq::http::{HeaderMap, Method, Request, StatusCode};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, BodyReader};

/// Redirects of one request.
const MAX_REDIRECTS: usize = 10;

/// Bytes of an answer in JSON: a thousand files take some 300 kB.
const MAX_JSON: u64 = 32 << 20;

/// How long a whole answer in JSON may take, however it trickles.
const JSON_TIME: Duration = Duration::from_secs(120);

/// Bytes of an answer that says what is wrong.
const MAX_ERROR: usize = 4096;

/// How long such an answer may take.
const ERROR_TIME: Duration = Duration::from_secs(10);

/// Attempts at anything that fails for reasons that pass.
pub(crate) const ATTEMPTS: u32 = 5;

/// The longest wait between two attempts, as a multiple of the first.
const MAX_BACK_OFF: u32 = 8;

/// A wait that a hub may ask for; whoever is asked to wait longer is told so instead.
const MAX_PATIENCE: Duration = Duration::from_secs(300);

/// Talks to one hub.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    base: Address,
    origin: Origin,
    endpoint: String,
    token: Option<String>,
    back_off: Duration,
}

/// An answer whose body has not been read.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// Of the answer itself.
    pub(crate) headers: HeaderMap,
    /// Of the endpoint's redirect to the answer, where there was one.
    pub(crate) redirect: Option<HeaderMap>,
    pub(crate) from: Address,
    body: Body,
}

/// Why an attempt failed, and whether another may succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It makes no sense to try again.
    Final(HubError),
    /// Trying again may help, after `wait` where the hub asks for it.
    Passing { error: HubError, wait: Option<Duration> },
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Failure::Final(error)
    }
}

/// Says that something is tried again, why, and after how long.
pub(crate) type OnRetry<'a> = dyn FnMut(&HubError, Duration) + 'a;

impl Client {
    pub(crate) fn new(settings: &Settings) -> Result<Client, HubError> {
        let base = crate::address::endpoint(&settings.endpoint, "")?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("rotor/", env!("CARGO_PKG_VERSION")))
            // A compressed answer has no ranges and another length than the file.
            .accept_encoding("identity")
            .max_response_header_size(64 << 10)
            .input_buffer_size(1 << 20)
            .timeout_connect(Some(settings.stall))
            .timeout_recv_response(Some(settings.stall * 3))
            .timeout_per_read(Some(settings.stall))
            .tls_config(TlsConfig::builder().root_certs(roots(settings)?).build());
        Ok(Client {
            agent: config.build().new_agent(),
            origin: base.origin(),
            base,
            endpoint: settings.endpoint.clone(),
            token: settings.token.clone(),
            back_off: settings.back_off,
        })
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(crate) fn host(&self) -> String {
        self.base.host()
    }

    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The answer to a request after all its redirects, from byte `from` on where that is not 0.
    pub(crate) fn get(&self, address: &Address, from: u64) -> Result<Answer, Failure> {
        self.request(&Method::GET, address, from)
    }

    /// What the hub says about a file; a redirect to another origin is not followed, because the endpoint has spoken.
    pub(crate) fn head(&self, address: &Address) -> Result<Answer, Failure> {
        self.request(&Method::HEAD, address, 0)
    }

    fn request(&self, method: &Method, address: &Address, from: u64) -> Result<Answer, Failure> {
        let (mut address, mut redirect) = (address.clone(), None);
        for _ in 0..=MAX_REDIRECTS {
            let mut answer = self.single(method, &address, from)?;
            if !answer.status.is_redirection() || !answer.headers.contains_key("location") {
                answer.redirect = redirect;
                return Ok(answer);
            }
            let target = self.target(&answer, &address)?;
            let leaves = target.origin() != self.origin;
            if leaves && *method == Method::HEAD {
                return Ok(answer);
            }
            if address.origin() == self.origin && (leaves || redirect.is_none()) {
                redirect = Some(answer.headers);
            }
            address = target;
        }
        let found = format!("{MAX_REDIRECTS} times from one address to the next");
        Err(Failure::Final(HubError::Answer {
            host: self.host(),
            what: "a file has to be somewhere, and it sent rotor",
            found,
        }))
    }

    fn target(&self, answer: &Answer, from: &Address) -> Result<Address, HubError> {
        let wrong = |what, found| HubError::Answer { host: from.host(), what, found };
        let location = text(&answer.headers, "location").unwrap_or_default();
        let target = from.join(&location);
        // What follows a question mark may be a signature.
        let shown = location.split('?').next().unwrap_or_default().chars().take(crate::address::SHOWN).collect();
        let target = target.ok_or_else(|| wrong("a redirect has to lead to an http or https address, not", shown))?;
        if !from.origin().may_lead_to(&target.origin()) {
            return Err(wrong("a secure address must not lead to an insecure one such as", target.shown()));
        }
        Ok(target)
    }

    fn single(&self, method: &Method, address: &Address, from: u64) -> Result<Answer, Failure> {
        let mut request = Request::builder().method(method).uri(address.uri());
        if let Some(token) = self.token.as_ref().filter(|_| address.origin() == self.origin) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        let request = request.body(()).map_err(|_| HubError::Setting {
            name: "HF_TOKEN",
            value: "(not shown)".into(),
            expected: "letters, digits and _",
        })?;
        let response = self.agent.run(request).map_err(|error| failure(address, &error))?;
        let (parts, body) = response.into_parts();
        Ok(Answer { status: parts.status, headers: parts.headers, redirect: None, from: address.clone(), body })
    }

    /// Tries until it succeeds, fails for good, or has failed too often.
    pub(crate) fn retrying<T>(
        &self,
        on_retry: &mut OnRetry<'_>,
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, HubError> {
        let mut failed = 0;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing { error, wait }) => {
                    failed += 1;
                    if failed >= ATTEMPTS {
                        return Err(error);
                    }
                    self.wait(failed, wait, error, on_retry)?;
                }
            }
        }
    }

    /// Waits after the `failed`th failure in a row: as long as the hub asks for, else 1, 2, 4, 8, 8, ... times the first wait.
    pub(crate) fn wait(
        &self,
        failed: u32,
        asked: Option<Duration>,
        error: HubError,
        on_retry: &mut OnRetry<'_>,
    ) -> Result<(), HubError> {
        let doubled = self.back_off * 2_u32.saturating_pow(failed.saturating_sub(1)).min(MAX_BACK_OFF);
        // One second more than asked for: both clocks round.
        let wait = asked.map_or(doubled, |asked| asked.saturating_add(self.back_off));
        if wait > MAX_PATIENCE {
            let hint = if self.has_token() { "" } else { ", or set HF_TOKEN, which raises the limit" };
            return Err(HubError::RateLimited { host: self.host(), seconds: wait.as_secs(), hint });
        }
        on_retry(&error, wait);
        std::thread::sleep(wait);
        Ok(())
    }

    /// An answer in JSON, parsed, with its headers.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, address: &Address) -> Result<(T, HeaderMap), Failure> {
        let answer = self.get(address, 0)?;
        let wrong = |what, found| HubError::Answer { host: address.host(), what, found };
        if !answer.status.is_success() {
            return Err(self.refusal(answer));
        }
        let headers = answer.headers.clone();
        let started = Instant::now();
        let (mut reader, mut bytes) = (answer.reader().take(MAX_JSON + 1), Vec::new());
        let mut buffer = vec![0; 64 << 10];
        loop {
            match reader.read(&mut buffer).map_err(|error| read_failure(address, &error))? {
                0 => break,
                count => bytes.extend_from_slice(&buffer[..count]),
            }
            if bytes.len() as u64 > MAX_JSON {
                return Err(wrong("a list of files has to end before", format!("{MAX_JSON} bytes")).into());
            }
            if started.elapsed() > JSON_TIME {
                return Err(wrong("a list of files has to end before", format!("{} s", JSON_TIME.as_secs())).into());
            }
        }
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok((value, headers)),
            // A proxy's sign-in page, most often.
            Err(error) => Err(wrong("a list of files has to be JSON as the hub writes it:", error.to_string()).into()),
        }
    }

    /// What an answer other than success means.
    pub(crate) fn refusal(&self, answer: Answer) -> Failure {
        let status = answer.status.as_u16();
        let wait = retry_after(&answer.headers);
        let (from, code) = (answer.from.clone(), text(&answer.headers, "x-error-code").unwrap_or_default());
        let foreign = from.origin() != self.origin;
        let error = HubError::Status { url: from.shown(), status, message: message(answer, &code) };
        match status {
            408 | 429 | 500..=599 => Failure::Passing { error, wait },
            // Signed addresses are good for a while only; the next attempt asks the hub for a new one.
            401 | 403 if foreign => Failure::Passing { error, wait },
            _ => Failure::Final(error),
        }
    }
}

impl Answer {
    /// A header of the endpoint's own answer: of its redirect where there was one.
    pub(crate) fn hub_header(&self, name: &str) -> Option<String> {
        self.redirect.as_ref().and_then(|headers| text(headers, name)).or_else(|| text(&self.headers, name))
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        text(&self.headers, name)
    }

    /// The body, without a limit.
    pub(crate) fn reader(self) -> BodyReader<'static> {
        self.body.into_reader()
    }
}

/// The certificates that a connection is checked against.
fn roots(settings: &Settings) -> Result<RootCerts, HubError> {
    let Some(path) = &settings.certificates else { return Ok(RootCerts::WebPki) };
    let pem = std::fs::read(path).map_err(HubError::io("read", path))?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(HubError::Setting {
            name: "SSL_CERT_FILE",
            value: path.display().to_string(),
            expected: "a file with certificates in PEM",
        });
    }
    Ok(certificates.into())
}

/// A header as text, without control characters.
pub(crate) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

/// How long a hub asks to wait, from either of the two headers that say so.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let plain = text(headers, "retry-after").and_then(|text| text.parse::<u64>().ok());
    let limit = text(headers, "ratelimit").and_then(|text| {
        let seconds = text.split(';').find_map(|part| part.trim().strip_prefix("t="))?;
        seconds.parse::<u64>().ok()
    });
    plain.max(limit).map(Duration::from_secs)
}

/// The hub's own words about an error, quoted; they come from outside, so they are cut.
fn message(answer: Answer, code: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Error {
        error: String,
    }
    let quoted = text(&answer.headers, "x-error-message");
    let id = text(&answer.headers, "x-request-id").map(|id| format!(" (request {id})")).unwrap_or_default();
    let words = quoted.or_else(|| {
        let body = beginning(answer.reader(), MAX_ERROR, ERROR_TIME);
        serde_json::from_slice::<Error>(&body).ok().map(|error| error.error)
    });
    let words: String = words.unwrap_or_default().chars().filter(|c| !steers(*c)).take(300).collect();
    let code = if code.is_empty() { String::new() } else { format!(" {code}") };
    if words.is_empty() { format!("{code}{id}") } else { format!("{code}: {words}{id}") }
}

/// What of a body comes in some time, up to some bytes.
fn beginning(mut reader: impl Read, most: usize, time: Duration) -> Vec<u8> {
    let (started, mut bytes, mut buffer) = (Instant::now(), Vec::new(), vec![0; most]);
    while bytes.len() < most && started.elapsed() < time {
        match reader.read(&mut buffer) {
            Ok(count @ 1..) => bytes.extend_from_slice(&buffer[..count]),
            // What has come may be enough, and the error that is told is the hub's.
            Ok(0) | Err(_) => break,
        }
    }
    bytes.truncate(most);
    bytes
}

/// A request that got no answer.
fn failure(address: &Address, error: &ureq::Error) -> Failure {
    let network = |why: String| HubError::Network { host: address.host(), why };
    match error {
        ureq::Error::LargeResponseHeader(..) => Failure::Final(HubError::Answer {
            host: address.host(),
            what: "the headers of an answer have to be shorter than 64 kB:",
            found: error.to_string(),
        }),
        ureq::Error::Http(_) | ureq::Error::Protocol(_) | ureq::Error::BadUri(_) => Failure::Final(HubError::Answer {
            host: address.host(),
            what: "an answer has to be HTTP:",
            found: error.to_string(),
        }),
        ureq::Error::HostNotFound => Failure::Final(network("no such host; is there a network?".into())),
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) | ureq::Error::Pem(_) => Failure::Final(network(format!(
            "no secure connection: {error}; SSL_CERT_FILE names other certificates to trust"
        ))),
        ureq::Error::Timeout(_) => Failure::Passing { error: network("no answer in time".into()), wait: None },
        ureq::Error::Io(error) => Failure::Passing { error: network(broken(error)), wait: None },
        other => Failure::Passing { error: network(other.to_string()), wait: None },
    }
}

/// What the system says about a connection, in words that need no knowledge of sockets where there are some.
fn broken(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            "the connection was cut".into()
        }
        io::ErrorKind::ConnectionRefused => "nobody answers there".into(),
        _ => error.to_string(),
    }
}

/// A body that broke off.
pub(crate) fn read_failure(address: &Address, error: &io::Error) -> Failure {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    let why = match inner {
        Some(ureq::Error::Timeout(_)) => "nothing came any more".to_owned(),
        Some(ureq::Error::Protocol(error)) => format!("the answer is no HTTP: {error}"),
        _ => broken(error),
    };
    Failure::Passing { error: HubError::Network { host: address.host(), why }, wait: None }
}
