//! `rotor serve`: HTTP over an engine's thread.
//!
//! A request's way: the connection (`accept`), who may ask (`guard`), a typed body (`body`), its dialect's handler
//! (`openai`), which finds the model (`models`), turns a conversation into tokens (`prompt`) and hands them to the model's
//! thread (`generation`); the pieces that come back are taken apart (`parts`) and written in the dialect's shape. Errors of all
//! of them become bodies in one place (`error`). There is no model code here: everything is asked of `rotor::actor`.

#![forbid(unsafe_code)]

mod accept;
mod anthropic;
mod app;
mod body;
mod error;
mod generation;
mod guard;
mod ids;
mod llama;
mod metrics;
mod models;
mod openai;
mod openapi;
mod page;
mod parts;
mod prompt;
mod requests;
mod statistics;
mod stream;

pub use guard::ApiKey;
pub use models::{ModelOptions, ModelSource, ModelSpec};

use app::App;
use models::Models;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::net::TcpListener;

/// What `system_fingerprint` says.
pub(crate) const FINGERPRINT: &str = concat!("rotor-", env!("CARGO_PKG_VERSION"));

/// How often models are looked at that nobody uses.
const IDLE_CHECK: Duration = Duration::from_secs(5);

/// How a server is run.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The models; the first is loaded at once.
    pub models: Vec<ModelSpec>,
    /// How models are loaded.
    pub loading: ModelOptions,
    /// The key that clients must send.
    pub key: Option<ApiKey>,
    /// Origins of web pages that may read answers.
    pub origins: Vec<String>,
    /// How long running answers may take to finish when the server stops.
    pub drain: Duration,
    /// What a client may take of the server.
    pub limits: Limits,
}

/// What a client may take of the server before anything is computed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; further ones wait to be accepted.
    pub connections: usize,
    /// The header of a request that has not come by then ends its connection.
    pub header_time: Duration,
    /// A body that has not come by then is given up.
    pub body_time: Duration,
    /// Bytes of a body at most.
    pub body_bytes: usize,
}

impl Default for Limits {
    /// 512 connections, 15 s for a header, 30 s for a body of 32 MiB: ten times the longest context of a published model.
    fn default() -> Self {
        Limits {
            connections: 512,
            header_time: Duration::from_secs(15),
            body_time: Duration::from_secs(30),
            body_bytes: 32 << 20,
        }
    }
}

/// Why a server cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Everybody could use it.
    #[error("{0} is not a loopback address, so others can reach it: give --api-key-file (or --api-key)")]
    OpenToAll(SocketAddr),
    /// The network.
    #[error("the server broke off: {0}")]
    Io(#[from] std::io::Error),
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    options: ServerOptions,
}

impl Server {
    /// Listens on an address; port 0 takes a free one.
    ///
    /// # Errors
    /// If the address cannot be had, or is not loopback and there is no key.
    pub async fn bind(address: SocketAddr, options: ServerOptions) -> Result<Server, ServeError> {
        if !address.ip().is_loopback() && options.key.is_none() {
            return Err(ServeError::OpenToAll(address));
        }
        let listener = TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })?;
        let address = listener.local_addr()?;
        Ok(Server { listener, address, options })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` is done, then until what runs has finished or the time for that is over.
    ///
    /// # Errors
    /// If the system takes the listener away.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        let ServerOptions { models, loading, key, origins, drain, limits } = self.options;
        let app = Arc::new(App {
            models: Arc::new(Models::new(models, loading)),
            requests: Arc::default(),
            metrics: Arc::default(),
            key,
            origins,
            is_loopback: self.address.ip().is_loopback(),
            limits,
            draining: AtomicBool::new(false),
        });
        app.models.load_first();
        let models = Arc::clone(&app.models);
        let idle = tokio::spawn(async move {
            loop {
                tokio::time::sleep(IDLE_CHECK).await;
                models.unload_idle();
            }
        });
        let router = app::router(Arc::clone(&app));
        let result = accept::serve(self.listener, &app, router, stop, drain).await;
        idle.abort();
        // Threads of models end when their last handle goes.
        for model in app.models.loaded() {
            model.actor.shutdown();
        }
        Ok(result?)
    }
}
