//! Connections: HTTP/1.1 and HTTP/2, plain or TLS, with every wait bounded, and a drain at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::certificate::Names;
use crate::config::Config;

/// An API server sends all its batches over one connection, fifteen at a time and more, each of many megabytes.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const STREAMS: u32 = 250;
const PING_EVERY: Duration = Duration::from_secs(20);
const PONG_WITHIN: Duration = Duration::from_secs(10);
const HEADER_BYTES: u32 = 64 << 10;

/// Serves until `shutdown`, then for as long as the drain lasts.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    config: &Config,
    shutdown: CancellationToken,
) {
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let peer = Peer { tls, router, builder: builder(config.header_timeout()), patience: config.header_timeout() };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(peer.clone().serve(stream, graceful.watcher()));
                }
                Err(error) => {
                    // Out of file descriptors, mostly: those in use come back.
                    tracing::warn!(%error, "can't accept a connection");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    let drain = Duration::from_secs(config.drain_seconds);
    if timeout(drain, graceful.shutdown()).await.is_err() {
        tracing::warn!(seconds = config.drain_seconds, "requests were still going on at the end of the drain");
    }
    connections.shutdown().await;
}

fn builder(header_timeout: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout).max_buf_size(512 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADER_BYTES)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN);
    builder
}

/// What it takes to serve one peer.
#[derive(Clone)]
struct Peer {
    tls: Option<TlsAcceptor>,
    router: Router,
    builder: Builder<TokioExecutor>,
    /// How long a handshake, and then the first request's head, may take.
    patience: Duration,
}

impl Peer {
    async fn serve(self, stream: TcpStream, watcher: Watcher) {
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return self.connection(stream, None, watcher).await;
        };
        match timeout(self.patience, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let names = certificate.map(|der| Arc::new(Names::of(der)));
                self.connection(stream, names, watcher).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    async fn connection<S>(self, stream: S, names: Option<Arc<Names>>, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let requested = Arc::new(AtomicBool::new(false));
        let (router, seen) = (self.router, Arc::clone(&requested));
        let service = service_fn(move |request: Request<Incoming>| {
            seen.store(true, Ordering::Relaxed);
            let mut request = request.map(axum::body::Body::new);
            if let Some(names) = &names {
                request.extensions_mut().insert(Arc::clone(names));
            }
            TowerToHyperService::new(router.clone()).call(request)
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let mut connection = std::pin::pin!(watcher.watch(connection));
        // hyper's own timeout starts only when it knows the protocol, which takes a first few bytes.
        let silence = async {
            sleep(self.patience + Duration::from_millis(500)).await;
            if requested.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            ended = &mut connection => if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended");
            },
            () = silence => tracing::debug!("a connection without a request is closed"),
        }
    }
}
