//! Senders to journal: HTTP receivers that split bodies into events as they stream, and answer success once the journal
//! has every one of them durably.

pub mod auth;
mod body;
mod certificate;
mod config;
mod delivery;
pub mod limits;
mod receiver;
mod server;
pub mod sources;
pub mod split;
mod telemetry;
mod tls;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use tokio_util::sync::CancellationToken;

pub use config::{Certificate, ClientAuth, Config, Tls, Token};
use receiver::Receiver;

/// What can go wrong on the way to serving.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// A key of the configuration is wrong.
    #[error("ingest.{key} {reason}")]
    Config { key: String, reason: String },
    /// A file that the configuration names is wrong.
    #[error("ingest.{key}: {}: {reason}", path.display())]
    File { key: &'static str, path: PathBuf, reason: String },
    #[error("ingest.listen: can't listen at {listen}: {source}")]
    Bind { listen: SocketAddr, source: std::io::Error },
    #[error("ingest: {0}")]
    Io(#[from] std::io::Error),
}

impl IngestError {
    fn config(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Config { key: key.into(), reason: reason.into() }
    }
}

/// The receivers, listening but not yet answering.
pub struct Ingest {
    config: Config,
    receiver: Arc<Receiver>,
    listener: TcpListener,
    local_addr: SocketAddr,
    tls: Option<tokio_rustls::TlsAcceptor>,
}

impl Ingest {
    /// Where it listens: the port is known even if port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The receivers' routes, `/v1/audit/{cluster}` and `/v1/falco/{cluster}`.
    pub fn router(&self) -> Router {
        receiver::router(Arc::clone(&self.receiver))
    }

    /// Serves the receivers and `extra` routes until `shutdown`, then lets requests end for as long as `drain_seconds`.
    pub async fn serve(self, extra: Router, shutdown: CancellationToken) -> Result<(), IngestError> {
        let router = self.router().merge(extra);
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        server::serve(listener, self.tls, router, &self.config, shutdown).await;
        Ok(())
    }
}
