//! One request's body on its way into the journal: split as it streams, appended in batches, answered at its end.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};
use vedette_journal::{Record, Topic};

use crate::body::{BodyError, Chunks};
use crate::limits::Hold;
use crate::receiver::Receiver;
use crate::sources::{Rejection, Sender};
use crate::split::{Piece, Splitter};
use crate::telemetry::Counts;

/// A batch of this many events or bytes goes to the journal while the body still streams.
const FLUSH_EVENTS: usize = 1000;
pub(crate) const FLUSH_BYTES: usize = 8 << 20;
/// API servers hang up 30 seconds after a request's start; an answer later than this goes unread.
const ANSWER_WITHIN: Duration = Duration::from_secs(28);
/// How soon an append is tried again for a sender that does not send again itself.
const APPEND_AGAIN: Duration = Duration::from_millis(250);

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The journal has every event and every dead letter.
    Durable,
    /// There is no room in memory.
    Overload,
    /// The journal did not take the events, or not in time.
    Unavailable,
    /// The body did not arrive in time.
    TooSlow,
    /// The connection broke in mid-body.
    Broken,
}

/// A delivery under way.
pub(crate) struct Delivery<'a> {
    receiver: &'a Receiver,
    sender: Sender,
    cluster: Arc<str>,
    counts: Arc<Counts>,
    hold: Hold,
    started: Instant,
    /// Bytes of the body so far, decompressed.
    body_bytes: usize,
    events: Vec<Record>,
    dead: Vec<Record>,
    batch_bytes: usize,
}

impl<'a> Delivery<'a> {
    pub fn new(
        receiver: &'a Receiver,
        sender: Sender,
        cluster: &str,
        counts: Arc<Counts>,
        hold: Hold,
        started: Instant,
    ) -> Self {
        let cluster = cluster.into();
        let (events, dead) = (Vec::new(), Vec::new());
        Self { receiver, sender, cluster, counts, hold, started, body_bytes: 0, events, dead, batch_bytes: 0 }
    }

    pub async fn run(mut self, body: Body) -> Outcome {
        match self.stream(body).await {
            Ok(()) => Outcome::Durable,
            Err(outcome) => {
                let (cluster, source) = (&*self.cluster, self.sender.source.name());
                tracing::warn!(cluster, source, ?outcome, bytes = self.body_bytes, "a delivery failed");
                outcome
            }
        }
    }

    async fn stream(&mut self, body: Body) -> Result<(), Outcome> {
        let deadline = self.started + self.receiver.body_timeout;
        let keep = self.receiver.max_event_bytes;
        let opened = timeout_at(deadline, Chunks::open(body, keep)).await.map_err(|_| Outcome::TooSlow)?;
        let mut chunks = opened.map_err(|_| Outcome::Broken)?;
        let mut splitter = self.sender.splitter(self.receiver.max_event_bytes);
        let mut pieces = Vec::new();
        while let Some(chunk) = timeout_at(deadline, chunks.next()).await.map_err(|_| Outcome::TooSlow)? {
            match chunk {
                Ok(chunk) if self.body_bytes + chunk.len() > self.receiver.max_body_bytes => {
                    let fits = chunk.slice(..self.receiver.max_body_bytes - self.body_bytes);
                    splitter.push(&fits, &mut pieces);
                    return self.end_long_body(splitter, pieces, chunks, deadline).await;
                }
                Ok(chunk) => {
                    self.body_bytes += chunk.len();
                    self.counts.bytes.increment(chunk.len() as u64);
                    splitter.push(&chunk, &mut pieces);
                }
                Err(BodyError::Broken(_)) => return Err(Outcome::Broken),
                Err(error) => return self.end_undecodable(error, pieces, chunks, deadline).await,
            }
            self.take(&mut pieces);
            let buffered = splitter.buffered() + self.batch_bytes + chunks.kept() + chunks.overhead;
            if !self.receiver.budget.grow(&mut self.hold, buffered) {
                return Err(Outcome::Overload);
            }
            if self.events.len() + self.dead.len() >= FLUSH_EVENTS || self.batch_bytes >= FLUSH_BYTES {
                self.flush().await?;
            }
        }
        splitter.finish(&mut pieces);
        self.take(&mut pieces);
        self.flush().await
    }

    /// The body is longer than allowed: what came so far counts, and the rest is read and dropped.
    async fn end_long_body(
        &mut self,
        splitter: Splitter,
        mut pieces: Vec<Piece>,
        chunks: Chunks,
        deadline: Instant,
    ) -> Result<(), Outcome> {
        let limit = self.receiver.max_body_bytes;
        let (cluster, source) = (&*self.cluster, self.sender.source.name());
        tracing::error!(cluster, source, limit, "a body is longer than max_body_bytes: what is behind is lost");
        metrics::counter!("vedette_ingest_bodies_cut_total", "cluster" => cluster.to_owned(), "source" => source)
            .increment(1);
        splitter.cut(format!("the body is longer than max_body_bytes, {limit}: cut off here"), &mut pieces);
        self.take(&mut pieces);
        self.flush().await?;
        let _ = timeout_at(deadline, chunks.discard()).await;
        Ok(())
    }

    /// The body can't be decompressed: it goes to the dead letters as it was sent.
    async fn end_undecodable(
        &mut self,
        error: BodyError,
        mut pieces: Vec<Piece>,
        chunks: Chunks,
        deadline: Instant,
    ) -> Result<(), Outcome> {
        self.take(&mut pieces);
        let bytes = timeout_at(deadline, chunks.into_sent()).await.map_err(|_| Outcome::TooSlow)?;
        self.reject(Rejection { bytes, reason: format!("{error}; the body as it was sent").into() }, now());
        self.flush().await
    }

    /// Turns pieces into records.
    fn take(&mut self, pieces: &mut Vec<Piece>) {
        let received_at = now();
        for piece in pieces.drain(..) {
            match self.sender.judge(piece) {
                Ok(event) => {
                    self.batch_bytes += event.len();
                    let record = self.record(event, None, received_at);
                    self.events.push(record);
                }
                Err(rejection) => self.reject(rejection, received_at),
            }
        }
    }

    fn reject(&mut self, rejection: Rejection, received_at: i64) {
        let (cluster, source) = (&*self.cluster, self.sender.source.name());
        tracing::debug!(cluster, source, reason = %rejection.reason, bytes = rejection.bytes.len(), "dead letter");
        self.batch_bytes += rejection.bytes.len();
        let record = self.record(rejection.bytes, Some(rejection.reason.into_owned()), received_at);
        self.dead.push(record);
    }

    fn record(&self, payload: Bytes, reason: Option<String>, received_at: i64) -> Record {
        let record = Record::new(Arc::clone(&self.cluster), self.sender.source, received_at, payload);
        Record { reason, ..record }
    }

    /// Makes the batch durable.
    async fn flush(&mut self) -> Result<(), Outcome> {
        self.batch_bytes = 0;
        let events = std::mem::take(&mut self.events);
        let dead = std::mem::take(&mut self.dead);
        let (event_count, dead_count) = (events.len() as u64, dead.len() as u64);
        self.counts.received.increment(event_count + dead_count);
        let appended = self.append(self.sender.topic, events).await;
        match appended {
            Ok(()) => self.counts.accepted.increment(event_count),
            Err(outcome) => {
                self.counts.rejected.increment(event_count + dead_count);
                return Err(outcome);
            }
        }
        self.counts.rejected.increment(dead_count);
        self.append(Topic::DeadLetters, dead).await?;
        self.counts.dead_letters.increment(dead_count);
        Ok(())
    }

    async fn append(&self, topic: Topic, records: Vec<Record>) -> Result<(), Outcome> {
        if records.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let until = (began + self.receiver.append_timeout).min(self.started + ANSWER_WITHIN);
        let appended = timeout_at(until, self.append_until(topic, records, until)).await.unwrap_or_else(|_| {
            tracing::error!(cluster = &*self.cluster, %topic, "the journal does not take events in time");
            Err(Outcome::Unavailable)
        });
        self.counts.append_seconds.record(began.elapsed());
        appended
    }

    /// A sender that does not send again has its events appended again until time is up: a repeated event is recognised.
    async fn append_until(&self, topic: Topic, mut records: Vec<Record>, until: Instant) -> Result<(), Outcome> {
        loop {
            let again = if self.sender.retries { Vec::new() } else { records.clone() };
            let Err(error) = self.receiver.journal.append(topic, records).await else { return Ok(()) };
            tracing::error!(cluster = &*self.cluster, %topic, %error, "the journal does not take events");
            if again.is_empty() || Instant::now() + APPEND_AGAIN >= until {
                return Err(Outcome::Unavailable);
            }
            sleep(APPEND_AGAIN).await;
            records = again;
        }
    }
}

/// Microseconds since 1970, UTC.
fn now() -> i64 {
    chrono::Utc::now().timestamp_micros()
}
