//! `rotor serve`: models over HTTP.

use crate::args::{LoadArgs, ModelsArg, ReadArgs, SpeculateArgs, ThreadArgs};
use crate::interrupt;
use crate::outcome::UsageError;
use crate::terminal::{StdoutError, message};
use crate::values::{KvName, context, memory_size, whole_number};
use anyhow::{Context as _, bail};
use clap::ValueEnum;
use clap::builder::FalseyValueParser;
use rotor::formats::DenseActivations;
use rotor_server::{ApiKey, Limits, ModelOptions, ModelSpec, Server, ServerOptions};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Serve models over HTTP.
///
/// Speaks the dialects of OpenAI (/v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models), of Anthropic
/// (/v1/messages) and of llama-server (/props, /slots, /tokenize, /metrics), and shows a page to browsers. Without MODEL the
/// model inside the program, which tells stories.
///
/// Listens on 127.0.0.1 unless told otherwise; any other address needs a key. SIGTERM and Ctrl-C let running answers finish.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    models: ModelsArg,
    /// The address to listen on.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1", env = "ROTOR_HOST", hide_env = true)]
    host: IpAddr,
    /// The port to listen on; 0 takes a free one.
    #[arg(long, value_name = "N", default_value_t = 8080, env = "ROTOR_PORT", hide_env = true)]
    port: u16,
    /// Serve every model in this folder too.
    #[arg(long, value_name = "DIR", env = "ROTOR_MODELS_DIR", hide_env = true)]
    models_dir: Option<PathBuf>,
    /// Models that may be in memory at a time.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = places, env = "ROTOR_MAX_MODELS", hide_env = true)]
    max_models: usize,
    /// Unload a model that nobody used for so many seconds [default: never].
    #[arg(long, value_name = "SECONDS", value_parser = seconds, env = "ROTOR_IDLE_UNLOAD", hide_env = true)]
    idle_unload: Option<Duration>,
    /// Tokens of context of each sequence, 0 for all the model was trained for [default: that, but at most 4096].
    #[arg(short, long, value_name = "N", value_parser = context, env = "ROTOR_CTX", hide_env = true)]
    ctx: Option<usize>,
    /// Sequences that are computed together.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = places, env = "ROTOR_PARALLEL", hide_env = true)]
    parallel: usize,
    /// Requests that may wait for a place; further ones are answered with 429.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = places, env = "ROTOR_QUEUE", hide_env = true)]
    queue: usize,
    /// The key that clients must send. Other users of this machine can see it: better give a file.
    #[arg(long, value_name = "KEY", conflicts_with = "api_key_file", env = "ROTOR_API_KEY", hide_env = true)]
    api_key: Option<String>,
    /// A file whose first line is the key that clients must send.
    #[arg(long, value_name = "FILE", env = "ROTOR_API_KEY_FILE", hide_env = true)]
    api_key_file: Option<PathBuf>,
    /// An origin (as https://example.com) whose web pages may read answers; may be given several times.
    #[arg(long, value_name = "ORIGIN", env = "ROTOR_ALLOW_ORIGIN", hide_env = true)]
    allow_origin: Vec<String>,
    /// Seconds that running answers may take to finish when the server is asked to end.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds, env = "ROTOR_DRAIN", hide_env = true)]
    drain: Duration,
    /// Form of the log on stderr.
    #[arg(long, value_name = "FORM", default_value = "text", env = "ROTOR_LOG_FORMAT", hide_env = true)]
    log_format: LogFormat,
    /// Print one JSON line with the address when the server listens.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_JSON", hide_env = true)]
    json: bool,
    /// Ask a running server whether it is well, and end: 0 if so, 1 if not. A health check for images without a shell.
    #[arg(long, value_name = "URL", env = "ROTOR_CHECK", hide_env = true)]
    check: Option<String>,
    /// How keys and values are stored.
    #[arg(long, value_name = "TYPE", default_value = "f16", help_heading = "Computing")]
    #[arg(env = "ROTOR_KV", hide_env = true)]
    kv: KvName,
    /// Memory for the keys and values of each model, as 512M or 2G; what the texts at hand leave of it keeps beginnings that were
    /// computed before [default: half of the memory that is free when the model is loaded].
    #[arg(long, value_name = "SIZE", value_parser = memory_size, help_heading = "Computing")]
    #[arg(env = "ROTOR_KV_MEMORY", hide_env = true)]
    kv_memory: Option<u64>,
    #[command(flatten)]
    speculate: SpeculateArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    read: ReadArgs,
    #[command(flatten)]
    load: LoadArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn places(text: &str) -> Result<usize, String> {
    whole_number(text, 1, 4096)
}

fn seconds(text: &str) -> Result<Duration, String> {
    Ok(Duration::from_secs(whole_number(text, 0, 7 * 24 * 3600)? as u64))
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(url) = &args.check {
        return check(url);
    }
    let options = args.options()?;
    log(args.log_format);
    // Sockets and JSON are little work beside the kernels, which have threads of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("cannot start the threads that listen")?;
    let asked = interrupt::Catch::server();
    runtime.block_on(async {
        let server = Server::bind(SocketAddr::new(args.host, args.port), options).await?;
        announce(server.address(), args.json)?;
        server.run(stop()).await?;
        anyhow::Ok(())
    })?;
    drop(asked);
    Ok(ExitCode::SUCCESS)
}

/// Waits until somebody asks the server to end.
async fn stop() {
    while !interrupt::requested() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn announce(address: SocketAddr, json: bool) -> anyhow::Result<()> {
    message(format_args!("listening on http://{address}"));
    if json {
        let line =
            serde_json::json!({ "event": "listening", "host": address.ip().to_string(), "port": address.port() });
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(StdoutError)?;
    }
    Ok(())
}

/// Writes what happens to stderr.
fn log(format: LogFormat) {
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false);
    // A program that has a log already keeps it.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

impl Args {
    fn options(&self) -> anyhow::Result<ServerOptions> {
        let mut models: Vec<_> = self.models.paths().iter().map(|path| ModelSpec::of_path(path)).collect();
        for path in self.models_dir.as_deref().map(models_in).transpose()?.unwrap_or_default() {
            models.push(ModelSpec::of_path(&path));
        }
        if let Some(missing) = self.models.paths().iter().find(|path| !path.exists()) {
            bail!("there is no file or folder {}", missing.display());
        }
        if models.is_empty() {
            models.push(ModelSpec::built_in());
        }
        for (at, model) in models.iter().enumerate() {
            if models[..at].iter().any(|other| other.id == model.id) {
                return Err(UsageError(format!(
                    "two models are called {:?}: rename a file, or leave one out",
                    model.id
                ))
                .into());
            }
        }
        Ok(ServerOptions {
            models,
            loading: ModelOptions {
                open: self.load.options(DenseActivations::default(), self.read.read())?,
                threads: self.threads.threads(),
                context: self.ctx,
                kv: self.kv.kind(),
                kv_memory: self.kv_memory,
                speculate: self.speculate.speculate.kind(),
                parallel: self.parallel,
                queue: self.queue,
                max_models: self.max_models,
                idle_unload: self.idle_unload,
            },
            key: self.key()?,
            origins: self.allow_origin.clone(),
            drain: self.drain,
            limits: Limits::default(),
        })
    }

    fn key(&self) -> anyhow::Result<Option<ApiKey>> {
        let text = match (&self.api_key, &self.api_key_file) {
            (Some(key), _) => key.clone(),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
                text.lines().next().unwrap_or_default().to_owned()
            }
            (None, None) => return Ok(None),
        };
        let key = text.trim();
        if key.is_empty() {
            return Err(UsageError("the API key is empty".into()).into());
        }
        Ok(Some(ApiKey::new(key)))
    }
}

/// The models in a folder: GGUF files that are not later parts of a split one, and folders with a config.json.
fn models_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut models = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        let is_gguf = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let is_later_part = name.contains("-of-") && !name.contains("-00001-of-");
        if (is_gguf && path.is_file() && !is_later_part) || path.join("config.json").is_file() {
            models.push(path);
        }
    }
    models.sort();
    if models.is_empty() {
        bail!("there is no model in {}: expected .gguf files, or folders with a config.json", folder.display());
    }
    Ok(models)
}

/// `GET /health` of a running server.
fn check(url: &str) -> anyhow::Result<ExitCode> {
    const TIME: Duration = Duration::from_secs(5);
    let rest = url.strip_prefix("http://").ok_or_else(|| UsageError(format!("{url:?} must begin with http://")))?;
    let host = rest.split('/').next().unwrap_or_default();
    let target = if host.rsplit(']').next().is_some_and(|end| end.contains(':')) {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let unreachable = || format!("the server at {host} does not answer");
    let addresses = std::net::ToSocketAddrs::to_socket_addrs(&target).with_context(unreachable)?;
    let address = addresses.into_iter().next().with_context(unreachable)?;
    let mut stream = TcpStream::connect_timeout(&address, TIME).with_context(unreachable)?;
    stream
        .set_read_timeout(Some(TIME))
        .and_then(|()| stream.set_write_timeout(Some(TIME)))
        .with_context(unreachable)?;
    write!(stream, "GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").with_context(unreachable)?;
    let mut answer = String::new();
    stream.take(64 << 10).read_to_string(&mut answer).with_context(unreachable)?;
    let status = answer.split(' ').nth(1).unwrap_or("no status");
    if status == "200" {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("the server at {host} is not well: it answered {status}");
}
