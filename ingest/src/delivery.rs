//! One request's body on its way into the journal: split as it streams, appended in batches, answered at its end.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};
use vedette_journal::{Record, Topic};

use crate::body::{BodyError, Chunks};
use crate::limits::Hold;
use crate::receiver::{DISCARD, Receiver};
use crate::sources::{Rejection, Sender};
use crate::split::{Piece, Splitter};
use crate::telemetry::{self, Counts};

/// A batch of this many events or bytes goes to the journal while the body still streams.
const FLUSH_EVENTS: usize = 1000;
pub(crate) const FLUSH_BYTES: usize = 8 << 20;
/// What a record takes beside its bytes. Of the smallest events it is nearly all.
const RECORD_BYTES: usize = size_of::<Record>();
/// API servers hang up 30 seconds after a request's start; an answer later than this goes unread.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(28);
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
    /// When the body has to be there.
    deadline: Instant,
    /// How long it may still wait for room, if its sender does not send again.
    patience: Duration,
    /// Bytes of the body so far, decompressed.
    body_bytes: usize,
    events: Vec<Record>,
    dead: Vec<Record>,
    /// Memory that the records take.
    batch_bytes: usize,
}

impl<'a> Delivery<'a> {
    pub fn new(receiver: &'a Receiver, sender: Sender, cluster: &str, counts: Arc<Counts>, hold: Hold) -> Self {
        let started = Instant::now();
        Self {
            receiver,
            sender,
            cluster: cluster.into(),
            counts,
            hold,
            started,
            deadline: started + receiver.body_timeout,
            patience: receiver.append_timeout,
            body_bytes: 0,
            events: Vec::new(),
            dead: Vec::new(),
            batch_bytes: 0,
        }
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
        let opening = Chunks::open(body, self.receiver.max_body_bytes, self.receiver.max_event_bytes);
        let opened = timeout_at(self.deadline, opening).await.map_err(|_| Outcome::TooSlow)?;
        let mut chunks = opened.map_err(|_| Outcome::Broken)?;
        let fed = self.feed(&mut chunks).await;
        if let Err(outcome @ (Outcome::Overload | Outcome::Unavailable)) = fed {
            self.give_up(outcome, &mut chunks).await;
        }
        fed
    }

    async fn feed(&mut self, chunks: &mut Chunks) -> Result<(), Outcome> {
        let mut splitter = self.sender.splitter(self.receiver.max_event_bytes);
        loop {
            self.make_room(splitter.buffered() + chunks.takes()).await?;
            let next = timeout_at(self.deadline, chunks.next()).await.map_err(|_| Outcome::TooSlow)?;
            let chunk = match next {
                Some(Ok(chunk)) => chunk,
                Some(Err(BodyError::Broken(_))) => return Err(Outcome::Broken),
                Some(Err(BodyError::Cut)) => return self.end_long_body(splitter, chunks).await,
                Some(Err(error)) => return self.end_undecodable(error, chunks).await,
                None if chunks.cut() => return self.end_long_body(splitter, chunks).await,
                None => break,
            };
            let fits = chunk.len().min(self.receiver.max_body_bytes - self.body_bytes);
            self.body_bytes += fits;
            self.counts.bytes.increment(fits as u64);
            splitter.add(&chunk[..fits]);
            self.split(&mut splitter, chunks.takes()).await?;
            if fits < chunk.len() {
                return self.end_long_body(splitter, chunks).await;
            }
        }
        splitter.end();
        self.split(&mut splitter, chunks.takes()).await?;
        self.flush().await
    }

    /// The body is longer than allowed: what came so far counts, and the rest is read and dropped.
    async fn end_long_body(&mut self, mut splitter: Splitter, chunks: &mut Chunks) -> Result<(), Outcome> {
        let limit = self.receiver.max_body_bytes;
        self.note_cut(limit, "a body is longer than max_body_bytes");
        splitter.cut(format!("the body is longer than max_body_bytes, {limit}: cut off here"));
        self.split(&mut splitter, chunks.takes()).await?;
        self.flush().await?;
        let _ = timeout_at(self.deadline, chunks.discard()).await;
        Ok(())
    }

    /// The body can't be decompressed: it goes to the dead letters as it was sent.
    async fn end_undecodable(&mut self, error: BodyError, chunks: &mut Chunks) -> Result<(), Outcome> {
        while timeout_at(self.deadline, chunks.read_on()).await.map_err(|_| Outcome::TooSlow)? {
            self.make_room(chunks.takes()).await?;
        }
        let (bytes, more) = chunks.take_kept();
        let mut reason = format!("{error}; the body as it was sent");
        if more {
            reason += &format!(", cut off after {} bytes", bytes.len());
            self.note_cut(bytes.len(), "a body that can't be decompressed is too long to be kept whole");
        }
        self.reject(Rejection { bytes, reason: reason.into() }, now());
        self.flush().await?;
        let _ = timeout_at(self.deadline, chunks.discard()).await;
        Ok(())
    }

    fn note_cut(&self, limit: usize, what: &'static str) {
        let (cluster, source) = (&*self.cluster, self.sender.source);
        tracing::error!(cluster, source = source.name(), limit, "{what}: what is behind is lost");
        telemetry::body_cut(source, cluster);
    }

    /// Ends a delivery that is refused, maybe in mid-body: the rest is read for a while, so that its sender reads the
    /// answer.
    async fn give_up(&mut self, outcome: Outcome, chunks: &mut Chunks) {
        if outcome == Outcome::Overload {
            if !self.sender.retries {
                // What does not come again is stored as far as it is here. If that fails too, it is counted there.
                let _ = self.flush().await;
            }
            self.receiver.note_overload(self.sender, &self.cluster);
        }
        (self.events, self.dead) = (Vec::new(), Vec::new());
        let until = answer_by(self.sender, self.started, Instant::now() + DISCARD);
        let _ = timeout_at(until, chunks.discard()).await;
    }

    /// Room for the batch and so many bytes beside it. Whoever sends again is told to; whoever does not is kept
    /// waiting, and the time for its body stands still.
    async fn make_room(&mut self, bytes: usize) -> Result<(), Outcome> {
        let (budget, bytes) = (&self.receiver.budget, bytes + self.batch_bytes);
        if budget.grow(&mut self.hold, bytes) {
            return Ok(());
        }
        if self.sender.retries {
            return Err(Outcome::Overload);
        }
        let began = Instant::now();
        let grown = budget.grow_within(&mut self.hold, bytes, self.patience).await;
        self.patience = self.patience.saturating_sub(began.elapsed());
        self.deadline += began.elapsed();
        if grown { Ok(()) } else { Err(Outcome::Overload) }
    }

    /// Turns what the splitter has into records, some at a time, with so many bytes in memory beside it.
    async fn split(&mut self, splitter: &mut Splitter, beside: usize) -> Result<(), Outcome> {
        let mut pieces = Vec::new();
        loop {
            let more = splitter.proceed(FLUSH_EVENTS, &mut pieces);
            let waiting: usize = pieces.iter().map(|piece| piece.footprint() + RECORD_BYTES).sum();
            let room = self.make_room(splitter.buffered() + waiting + beside).await;
            // What does not come again is taken in any case: it is in memory already.
            if room.is_ok() || !self.sender.retries {
                self.take(&mut pieces).await?;
            }
            room?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Turns pieces into records, and makes them durable batch by batch.
    async fn take(&mut self, pieces: &mut Vec<Piece>) -> Result<(), Outcome> {
        let received_at = now();
        let mut pieces = pieces.drain(..);
        while let Some(piece) = pieces.next() {
            match self.sender.judge(piece) {
                Ok(event) => {
                    self.batch_bytes += event.len() + RECORD_BYTES;
                    let record = self.record(event, None, received_at);
                    self.events.push(record);
                }
                Err(rejection) => self.reject(rejection, received_at),
            }
            let full = self.events.len() + self.dead.len() >= FLUSH_EVENTS || self.batch_bytes >= FLUSH_BYTES;
            if full && let Err(outcome) = self.flush().await {
                self.counts.received.increment(pieces.len() as u64);
                self.counts.rejected.increment(pieces.len() as u64);
                return Err(outcome);
            }
        }
        Ok(())
    }

    fn reject(&mut self, rejection: Rejection, received_at: i64) {
        let (cluster, source) = (&*self.cluster, self.sender.source.name());
        tracing::debug!(cluster, source, reason = %rejection.reason, bytes = rejection.bytes.len(), "dead letter");
        self.batch_bytes += rejection.bytes.len() + rejection.reason.len() + RECORD_BYTES;
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
        let until = answer_by(self.sender, self.started, began + self.receiver.append_timeout);
        let appended = timeout_at(until, self.append_until(topic, records, until)).await.unwrap_or_else(|_| {
            telemetry::append_failed(topic);
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
            telemetry::append_failed(topic);
            tracing::error!(cluster = &*self.cluster, %topic, %error, "the journal does not take events");
            if again.is_empty() || Instant::now() + APPEND_AGAIN >= until {
                return Err(Outcome::Unavailable);
            }
            sleep(APPEND_AGAIN).await;
            records = again;
        }
    }
}

/// This time, or sooner where the sender of a request that started then hangs up before: who sends again does.
fn answer_by(sender: Sender, started: Instant, time: Instant) -> Instant {
    if sender.retries { time.min(started + ANSWER_WITHIN) } else { time }
}

/// Microseconds since 1970, UTC.
fn now() -> i64 {
    chrono::Utc::now().timestamp_micros()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::{audit, falco};

    #[test]
    fn only_senders_that_hang_up_are_answered_in_a_hurry() {
        let started = Instant::now();
        let late = started + 2 * ANSWER_WITHIN;
        assert_eq!(answer_by(audit::SENDER, started, late), started + ANSWER_WITHIN);
        assert_eq!(answer_by(audit::SENDER, started, started), started);
        assert_eq!(answer_by(falco::SENDER, started, late), late);
    }
}
