//! A request's body as chunks of plain bytes. Gzip and zstd are known by their first bytes, whatever the headers say, since
//! no JSON starts like them.

use std::future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

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
/// What gzip takes, generously.
const GZIP_BYTES: usize = 64 << 10;
/// What is decompressed at a time.
const CHUNK_BYTES: usize = 128 << 10;

/// Why no more chunks come.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The sender went away, or broke HTTP.
    #[error("the body broke off: {0}")]
    Broken(String),
    /// What the sender sent can't be decompressed.
    #[error("{encoding}: {reason}")]
    Encoding { encoding: &'static str, reason: String },
    /// What the sender sent is longer than is read, and to be decompressed it has to be whole.
    #[error("the body is cut off")]
    Cut,
}

/// A body, decompressed.
pub struct Chunks {
    plain: BoxStream<'static, Result<Bytes, BodyError>>,
    sent: Sent,
    /// Memory that decompressing takes.
    overhead: usize,
}

impl Chunks {
    /// Reads the first bytes, and chooses by them. What the sender sends beyond `longest` bytes is not read. Of a
    /// compressed body, what was sent is kept up to `keep` bytes, so that it can go to the dead letters as it is.
    pub async fn open(body: Body, longest: usize, keep: usize) -> Result<Self, BodyError> {
        let mut sent = Sent::new(body, longest, keep);
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
        let reader = StreamReader::new(stream::once(async { Ok(head.freeze()) }).chain(sent.accounted()));
        let (decoder, overhead): (Pin<Box<dyn AsyncRead + Send>>, usize) = if encoding == "gzip" {
            let mut decoder = GzipDecoder::new(reader);
            decoder.multiple_members(true);
            (Box::pin(decoder), GZIP_BYTES + CHUNK_BYTES)
        } else {
            let mut decoder = ZstdDecoder::with_params(reader, &[DParameter::window_log_max(WINDOW_LOG)]);
            decoder.multiple_members(true);
            (Box::pin(decoder), (1 << WINDOW_LOG) + CHUNK_BYTES)
        };
        let watched = sent.clone();
        let plain = ReaderStream::with_capacity(decoder, CHUNK_BYTES)
            .map(move |chunk| chunk.map_err(|error| watched.explain(encoding, &error)));
        Ok(Self { plain: plain.boxed(), sent, overhead })
    }

    /// The next bytes. They are none when what was sent has given none yet, and takes more memory than it did: whoever
    /// calls again has accounted for `takes`.
    pub async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        let (plain, sent) = (&mut self.plain, &self.sent);
        sent.with(|passing| passing.accounted = passing.kept.capacity());
        future::poll_fn(|context| match plain.poll_next_unpin(context) {
            Poll::Pending if sent.with(|passing| passing.unaccounted()) => Poll::Ready(Some(Ok(Bytes::new()))),
            polled => polled,
        })
        .await
    }

    /// Memory that decompressing and keeping take.
    pub fn takes(&self) -> usize {
        self.overhead + self.sent.with(|passing| passing.kept.capacity())
    }

    /// Whether the sender sent more than is read.
    pub fn cut(&self) -> bool {
        self.sent.with(|passing| passing.cut)
    }

    /// Reads on without decoding, and keeps what is kept; false at the end.
    pub async fn read_on(&mut self) -> bool {
        matches!(self.sent.next().await, Some(Ok(_)))
    }

    /// The body as it was sent, as far as it was read and kept, and whether there was more.
    pub fn take_kept(&mut self) -> (Bytes, bool) {
        self.sent.with(|passing| {
            let more = passing.cut || passing.passed > passing.kept.len();
            (std::mem::take(&mut passing.kept).freeze(), more)
        })
    }

    /// Reads what is left without use for it, so that the sender gets to read the answer.
    pub async fn discard(&mut self) {
        let sent = &self.sent;
        sent.keep_none();
        let next = |context: &mut Context<'_>| sent.with(|passing| passing.stream.poll_next_unpin(context));
        while let Some(Ok(_)) = future::poll_fn(next).await {}
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
    /// So many bytes may pass.
    longest: usize,
    passed: usize,
    /// There were more.
    cut: bool,
    /// So many bytes are kept.
    keep: usize,
    kept: BytesMut,
    /// How much memory of what is kept is accounted for.
    accounted: usize,
    broken: bool,
}

impl Sent {
    fn new(body: Body, longest: usize, keep: usize) -> Self {
        Self(Arc::new(Mutex::new(Passing {
            stream: body.into_data_stream(),
            longest,
            passed: 0,
            cut: false,
            keep,
            kept: BytesMut::new(),
            accounted: 0,
            broken: false,
        })))
    }

    fn with<T>(&self, f: impl FnOnce(&mut Passing) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Why decompressing stopped.
    fn explain(&self, encoding: &'static str, error: &io::Error) -> BodyError {
        let (broken, cut) = self.with(|passing| (passing.broken, passing.cut));
        match error.kind() {
            _ if broken => BodyError::Broken(error.to_string()),
            io::ErrorKind::UnexpectedEof if cut => BodyError::Cut,
            _ => BodyError::Encoding { encoding, reason: error.to_string() },
        }
    }

    fn keep_none(&self) {
        self.with(|passing| {
            passing.keep = 0;
            passing.kept = BytesMut::new();
        });
    }

    /// The same bytes, which pause while what is kept is not accounted for: a compressed body can be long and give
    /// nothing.
    fn accounted(&self) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let sent = self.clone();
        stream::poll_fn(move |context| {
            sent.with(|passing| match passing.unaccounted() {
                true => Poll::Pending,
                false => passing.poll(context),
            })
        })
    }
}

impl Stream for Sent {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.with(|passing| passing.poll(context))
    }
}

impl Passing {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.cut {
            return Poll::Ready(None);
        }
        let next = ready!(self.stream.poll_next_unpin(context));
        self.broken |= matches!(next, Some(Err(_)));
        Poll::Ready(next.map(|chunk| chunk.map(|chunk| self.pass(chunk)).map_err(io::Error::other)))
    }

    fn pass(&mut self, mut chunk: Bytes) -> Bytes {
        let fits = self.longest.saturating_sub(self.passed);
        self.cut = chunk.len() > fits;
        chunk.truncate(fits);
        self.passed += chunk.len();
        let kept = chunk.len().min(self.keep.saturating_sub(self.kept.len()));
        self.kept.extend_from_slice(&chunk[..kept]);
        chunk
    }

    fn unaccounted(&self) -> bool {
        self.kept.capacity() > self.accounted
    }
}
