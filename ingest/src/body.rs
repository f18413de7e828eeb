//! A request's body as chunks of plain bytes. Gzip and zstd are known by their first bytes, whatever the headers say, since
//! no JSON starts like them.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

/// The largest zstd window, as a power of two: all of zstd's ordinary levels stay within it.
const WINDOW_LOG: u32 = 23;

/// Why no more chunks come.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The sender went away, or broke HTTP.
    #[error("the body broke off: {0}")]
    Broken(String),
    /// What the sender sent can't be decompressed.
    #[error("{encoding}: {reason}")]
    Encoding { encoding: &'static str, reason: String },
}

/// A body, decompressed.
pub struct Chunks {
    plain: BoxStream<'static, Result<Bytes, BodyError>>,
    sent: Sent,
    /// Memory that decompressing takes.
    pub overhead: usize,
}

impl Chunks {
    /// Reads the first bytes, and chooses by them. Of a compressed body, what was sent is kept up to `keep` bytes, so
    /// that it can go to the dead letters as it is.
    pub async fn open(body: Body, keep: usize) -> Result<Self, BodyError> {
        let mut sent = Sent::new(body, keep);
        let mut head = BytesMut::new();
        while head.len() < 4 {
            match sent.next().await {
                Some(chunk) => head.extend_from_slice(&chunk.map_err(|error| BodyError::Broken(error.to_string()))?),
                None => break,
            }
        }
        let encoding = match &head[..] {
            [0x1f, 0x8b, ..] => "gzip",
            [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
            _ => {
                sent.keep_none();
                let rest = sent.clone().map(|chunk| chunk.map_err(|error| BodyError::Broken(error.to_string())));
                let plain = stream::once(async { Ok(head.freeze()) }).chain(rest).boxed();
                return Ok(Self { plain, sent, overhead: 0 });
            }
        };
        let reader = StreamReader::new(stream::once(async { Ok(head.freeze()) }).chain(sent.clone()));
        let (decoder, overhead): (Pin<Box<dyn AsyncRead + Send>>, usize) = if encoding == "gzip" {
            let mut decoder = GzipDecoder::new(reader);
            decoder.multiple_members(true);
            (Box::pin(decoder), 64 << 10)
        } else {
            let mut decoder = ZstdDecoder::with_params(reader, &[DParameter::window_log_max(WINDOW_LOG)]);
            decoder.multiple_members(true);
            (Box::pin(decoder), 1 << WINDOW_LOG)
        };
        let watched = sent.clone();
        let plain = ReaderStream::with_capacity(decoder, 128 << 10).map(move |chunk| {
            chunk.map_err(|error| match watched.broken() {
                true => BodyError::Broken(error.to_string()),
                false => BodyError::Encoding { encoding, reason: error.to_string() },
            })
        });
        Ok(Self { plain: plain.boxed(), sent, overhead })
    }

    pub async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        self.plain.next().await
    }

    /// Bytes held for the dead letters.
    pub fn kept(&self) -> usize {
        self.sent.kept()
    }

    /// The body as it was sent, read to its end, as far as it is kept.
    pub async fn into_sent(mut self) -> Bytes {
        while let Some(Ok(_)) = self.sent.next().await {}
        self.sent.take_kept()
    }

    /// Reads what is left without decoding it, so that the sender gets to read the answer.
    pub async fn discard(mut self) {
        self.sent.keep_none();
        while let Some(Ok(_)) = self.sent.next().await {}
    }
}

/// Reads a body without use for it.
pub async fn discard(body: Body) {
    let mut stream = body.into_data_stream();
    while let Some(Ok(_)) = stream.next().await {}
}

/// The bytes as they come from the sender, kept as they pass.
#[derive(Clone)]
struct Sent(Arc<Mutex<Passing>>);

struct Passing {
    stream: BodyDataStream,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    keep: usize,
    broken: bool,
}

impl Sent {
    fn new(body: Body, keep: usize) -> Self {
        let stream = body.into_data_stream();
        Self(Arc::new(Mutex::new(Passing { stream, kept: Vec::new(), kept_bytes: 0, keep, broken: false })))
    }

    fn with<T>(&self, f: impl FnOnce(&mut Passing) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn broken(&self) -> bool {
        self.with(|passing| passing.broken)
    }

    fn kept(&self) -> usize {
        self.with(|passing| passing.kept_bytes)
    }

    fn keep_none(&self) {
        self.with(|passing| {
            passing.keep = 0;
            passing.kept = Vec::new();
            passing.kept_bytes = 0;
        });
    }

    fn take_kept(&self) -> Bytes {
        self.with(|passing| std::mem::take(&mut passing.kept).concat().into())
    }
}

impl Stream for Sent {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.with(|passing| {
            let polled = std::task::ready!(passing.stream.poll_next_unpin(context));
            match &polled {
                Some(Ok(chunk)) if passing.kept_bytes < passing.keep => {
                    let kept = chunk.slice(..chunk.len().min(passing.keep - passing.kept_bytes));
                    passing.kept_bytes += kept.len();
                    passing.kept.push(kept);
                }
                Some(Err(_)) => passing.broken = true,
                _ => {}
            }
            Poll::Ready(polled.map(|chunk| chunk.map_err(io::Error::other)))
        })
    }
}
