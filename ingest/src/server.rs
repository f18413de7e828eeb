//! Connections: HTTP/1.1 and HTTP/2, plain or TLS, so many at a time, with every wait bounded, and a drain at the end.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
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
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(config.max_connections.min(Semaphore::MAX_PERMITS)));
    let (patience, idle) = (config.header_timeout(), config.idle_timeout());
    let peer = Peer { tls, router, builder: builder(), patience, idle, shutdown: shutdown.clone() };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &places) => match accepted {
                Ok((stream, place)) => {
                    let peer = peer.clone();
                    connections.spawn(async move {
                        peer.serve(stream).await;
                        drop(place);
                    });
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
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(drain, drained).await.is_err() {
        tracing::warn!(seconds = config.drain_seconds, "requests were still going on at the end of the drain");
    }
    connections.shutdown().await;
}

/// The next connection, once there is a place for it. Until then it waits outside, where it takes no file descriptor.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = match Arc::clone(places).try_acquire_owned() {
        Ok(place) => place,
        Err(_) => {
            tracing::warn!("as many connections as max_connections are open: further ones wait");
            Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?
        }
    };
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // `Peer::connection` watches the time: hyper's own limit for a head starts only once it knows the protocol, and is
    // also the limit between two requests.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None::<Duration>).max_buf_size(512 << 10);
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
    /// How long a handshake, and then the first request's head, may take, and an end that was announced.
    patience: Duration,
    /// How long the connection is kept without a request.
    idle: Duration,
    shutdown: CancellationToken,
}

impl Peer {
    async fn serve(self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return self.connection(stream, None).await;
        };
        match timeout(self.patience, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let names = certificate.map(|der| Arc::new(Names::of(der)));
                self.connection(stream, names).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    async fn connection<S>(self, stream: S, names: Option<Arc<Names>>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Peer { router, builder, patience, idle, shutdown, .. } = self;
        let requests = Requests::default();
        let counted = requests.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let under_way = counted.begin();
            let mut request = request.map(axum::body::Body::new);
            if let Some(names) = &names {
                request.extensions_mut().insert(Arc::clone(names));
            }
            let answer = TowerToHyperService::new(router.clone()).call(request);
            async move {
                let answer = answer.await;
                drop(under_way);
                answer
            }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let mut connection = std::pin::pin!(connection);
        let silence = async {
            let requested = timeout(patience, requests.first()).await.is_ok();
            if requested {
                requests.rest(idle).await;
            }
            requested
        };
        // In this order, so that a request that is here is not taken for silence.
        tokio::select! {
            biased;
            ended = &mut connection => return note_end(ended),
            requested = silence => if !requested {
                return tracing::debug!("a connection without a request is closed");
            },
            () = shutdown.cancelled() => {}
        }
        // Requests that are under way, or on their way while the peer is told, still end.
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            biased;
            ended = &mut connection => note_end(ended),
            () = requests.rest(patience) => tracing::debug!("a peer that holds on to its connection is cut off"),
        }
    }
}

fn note_end(ended: Result<(), impl Display>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// The requests of one connection.
#[derive(Clone, Default)]
struct Requests(watch::Sender<Tally>);

#[derive(Default)]
struct Tally {
    begun: u64,
    ended: u64,
}

impl Requests {
    fn begin(&self) -> UnderWay {
        self.0.send_modify(|tally| tally.begun += 1);
        UnderWay(self.0.clone())
    }

    /// Waits for the first request.
    async fn first(&self) {
        let mut tally = self.0.subscribe();
        let _ = tally.wait_for(|tally| tally.begun > 0).await;
    }

    /// Waits until for so long there has been no request.
    async fn rest(&self, wait: Duration) {
        let mut tally = self.0.subscribe();
        loop {
            let none_under_way = {
                let tally = tally.borrow_and_update();
                tally.begun == tally.ended
            };
            tokio::select! {
                biased;
                _ = tally.changed() => {}
                () = sleep(wait), if none_under_way => return,
            }
        }
    }
}

/// A request that has not been answered.
struct UnderWay(watch::Sender<Tally>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|tally| tally.ended += 1);
    }
}
