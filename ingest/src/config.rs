//! The receivers' configuration: where to listen, what to bear, and who may write which clusters.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vedette_journal::Journal;
use vedette_journal::kafka::MAX_MESSAGE_BYTES;

use crate::auth::Auth;
use crate::delivery::ANSWER_WITHIN;
use crate::receiver::Receiver;
use crate::{Ingest, IngestError, tls};

/// The longest event that can be configured. Either journal refuses a record beyond its limit however often it is sent,
/// and a record is larger than its event.
const MOST_EVENT_BYTES: u64 = (MAX_MESSAGE_BYTES - (64 << 10)) as u64;
/// A body that takes until the sender is to be answered leaves no time to store it.
const MOST_BODY_SECONDS: u64 = ANSWER_WITHIN.as_secs() - 1;
/// Nobody waits longer than that for an answer.
const MOST_APPEND_SECONDS: u64 = 3600;

/// The receivers. With neither tokens nor certificates, whoever reaches them may write every cluster.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port to listen at.
    pub listen: SocketAddr,
    /// The longest body, before and after decompression. Of a longer one, the events up to here are accepted and an
    /// event that is cut off goes to the dead letters; what is behind is dropped, counted and logged as an error, since
    /// refusing the body would only make the sender repeat it and then lose all of it.
    pub max_body_bytes: usize,
    /// The longest event; it has to fit the journal's records. A longer one goes to the dead letters in parts, and of a
    /// body that can't be decompressed as much as this is kept.
    pub max_event_bytes: usize,
    /// Bytes that all requests together may hold in memory. Beyond it senders are answered 429.
    pub in_flight_bytes: usize,
    /// Connections at a time; further ones wait until one ends. Each takes a file descriptor, of which a process often
    /// has 1024. The journal and the lake need theirs, so half of them is the default.
    pub max_connections: usize,
    /// How long a connection's first request may take to begin, its head included, and a TLS handshake before it.
    pub header_timeout_seconds: u64,
    /// How long a connection is kept without a request. API servers send a batch at least every 30 seconds by default,
    /// and keep their connections in between.
    pub idle_timeout_seconds: u64,
    /// How long a body may take to arrive, in all. API servers hang up after 30 seconds.
    pub body_timeout_seconds: u64,
    /// How long the journal may take to make a request's events durable. API servers are answered before they hang up,
    /// however long this is; Falco does not hang up.
    pub append_timeout_seconds: u64,
    /// How long requests may go on after the signal to stop.
    pub drain_seconds: u64,
    /// Serve TLS with this certificate.
    pub tls: Option<Tls>,
    /// Bearer tokens.
    pub tokens: Vec<Token>,
    /// Client certificates; they need `tls.client_ca`.
    pub certificates: Vec<Certificate>,
}

/// The server's TLS identity, and whose client certificates it trusts.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the certificate chain, the server's own first.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
    /// PEM file with the authorities that sign client certificates. Without it none is asked for.
    pub client_ca: Option<PathBuf>,
    /// Whether a client must have a certificate, or only may.
    pub client_auth: ClientAuth,
}

/// Whether a TLS client needs a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    #[default]
    Optional,
    Required,
}

/// A bearer token and what it may write. It is also taken as the password of basic authentication, whatever the user,
/// for senders such as Falco that can carry a secret only in their URL.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Token {
    /// Its name in logs.
    pub name: String,
    /// Its SHA-256, as `printf %s "$TOKEN" | sha256sum` prints it. Tokens are random and long, so a plain hash does.
    pub sha256: String,
    /// The clusters it may write; `*` is all of them.
    pub clusters: Vec<String>,
}

/// A client certificate, by its subject's common name or one of its alternative names, and what it may write.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Certificate {
    /// The subject's common name.
    pub subject_cn: Option<String>,
    /// A DNS name, e-mail address or URI among the alternative names.
    pub san: Option<String>,
    /// The clusters it may write; `*` is all of them.
    pub clusters: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            max_body_bytes: 256 << 20,
            max_event_bytes: 16 << 20,
            in_flight_bytes: 256 << 20,
            max_connections: 512,
            header_timeout_seconds: 10,
            idle_timeout_seconds: 300,
            body_timeout_seconds: 25,
            append_timeout_seconds: 20,
            drain_seconds: 20,
            tls: None,
            tokens: Vec::new(),
            certificates: Vec::new(),
        }
    }
}

impl Config {
    /// Reads the TLS files and opens the socket. Nothing is answered before `Ingest::serve`.
    pub fn build(self, journal: Arc<dyn Journal>) -> Result<Ingest, IngestError> {
        self.check()?;
        let auth = Auth::new(&self.tokens, &self.certificates)?;
        let tls = self.tls.as_ref().map(tls::acceptor).transpose()?;
        if auth.open() && !self.listen.ip().is_loopback() {
            tracing::warn!(
                listen = %self.listen,
                "neither tokens nor certificates are configured: whoever reaches this address may write every cluster"
            );
        }
        let bind_error = |source| IngestError::Bind { listen: self.listen, source };
        let listener = TcpListener::bind(self.listen).map_err(bind_error)?;
        listener.set_nonblocking(true).map_err(bind_error)?;
        let local_addr = listener.local_addr().map_err(bind_error)?;
        let receiver = Arc::new(Receiver::new(&self, auth, journal));
        Ok(Ingest { config: self, receiver, listener, local_addr, tls })
    }

    fn check(&self) -> Result<(), IngestError> {
        let positive = [
            ("max_body_bytes", self.max_body_bytes as u64),
            ("max_event_bytes", self.max_event_bytes as u64),
            ("in_flight_bytes", self.in_flight_bytes as u64),
            ("max_connections", self.max_connections as u64),
            ("header_timeout_seconds", self.header_timeout_seconds),
            ("idle_timeout_seconds", self.idle_timeout_seconds),
            ("body_timeout_seconds", self.body_timeout_seconds),
            ("append_timeout_seconds", self.append_timeout_seconds),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(IngestError::config(key, "is 0"));
            }
        }
        self.check_bounds()?;
        let client_ca = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if !self.certificates.is_empty() && !client_ca {
            return Err(IngestError::config("certificates", "need tls.client_ca, which is not set"));
        }
        Ok(())
    }

    /// Beyond these, events are lost however well everything works.
    fn check_bounds(&self) -> Result<(), IngestError> {
        let event_bytes = self.max_event_bytes as u64;
        let bounded = [
            ("max_event_bytes", event_bytes, MOST_EVENT_BYTES, "a longer event does not fit the journal"),
            ("body_timeout_seconds", self.body_timeout_seconds, MOST_BODY_SECONDS, "API servers hang up after 30"),
            ("append_timeout_seconds", self.append_timeout_seconds, MOST_APPEND_SECONDS, "nobody waits that long"),
        ];
        for (key, value, most, reason) in bounded {
            if value > most {
                return Err(IngestError::config(key, format!("is {value}, and {most} is the most: {reason}")));
            }
        }
        Ok(())
    }

    pub(crate) fn header_timeout(&self) -> Duration {
        Duration::from_secs(self.header_timeout_seconds)
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_seconds)
    }
}
