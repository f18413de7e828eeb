//! A consumer group's member: reads several topics, in turn, and keeps the group's positions.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use async_trait::async_trait;
use futures::future::select_all;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};

use super::Inner;
use super::reader::Reader;
use crate::record::Topic;
use crate::{Consumer, Delivered, JournalError, Limits, Partition, Polled, Positions};

pub struct EmbeddedConsumer {
    journal: Arc<Inner>,
    group: String,
    topics: Vec<Topic>,
    /// Shared with the thread that fills them, and kept whole when a poll is given up half way.
    readers: Arc<Mutex<Vec<Reader>>>,
    filler: mpsc::Sender<Fill>,
    durable: Vec<watch::Receiver<u64>>,
    assigned: bool,
    /// The reader that the next poll serves first.
    turn: usize,
}

impl EmbeddedConsumer {
    pub(super) fn start(
        journal: Arc<Inner>,
        group: String,
        topics: Vec<Topic>,
        readers: Vec<Reader>,
    ) -> io::Result<Self> {
        let durable = topics.iter().map(|&topic| journal.log(topic).watch()).collect();
        let readers = Arc::new(Mutex::new(readers));
        let filler = start_filler(&group, readers.clone())?;
        Ok(EmbeddedConsumer { journal, group, topics, readers, filler, durable, assigned: false, turn: 0 })
    }

    /// Reads ahead what the next poll may bring.
    async fn fill(&self, limits: Limits) -> Result<(), JournalError> {
        let (done, filled) = oneshot::channel();
        self.filler.send(Fill { limits, done }).map_err(|_| JournalError::Closed)?;
        filled.await.map_err(|_| JournalError::Closed)?
    }

    fn take(&mut self, limits: Limits) -> Vec<Delivered> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut taken, mut taken_bytes) = (Vec::new(), 0);
        let count = readers.len();
        self.turn = (self.turn + 1) % count.max(1);
        for place in 0..count {
            let (turns_left, reader) = (count - place, &mut readers[(self.turn + place) % count]);
            let records = taken.len() + (limits.records - taken.len()).div_ceil(turns_left);
            let bytes = taken_bytes + limits.bytes.saturating_sub(taken_bytes).div_ceil(turns_left);
            reader.take(records, bytes, &mut taken, &mut taken_bytes);
        }
        // What some topics left of their share goes to the others.
        for place in 0..count {
            readers[(self.turn + place) % count].take(limits.records, limits.bytes, &mut taken, &mut taken_bytes);
        }
        taken
    }

    /// Waits until more is durable in any topic than when it was last looked at.
    async fn more(&mut self) {
        let changes: Vec<_> = self.durable.iter_mut().map(|durable| Box::pin(durable.changed())).collect();
        if changes.is_empty() {
            return std::future::pending().await;
        }
        // An error would mean that the journal is gone, which this consumer holds.
        let _ = select_all(changes).await;
    }
}

struct Fill {
    limits: Limits,
    done: oneshot::Sender<Result<(), JournalError>>,
}

/// Unpacks frames on one thread for as long as the consumer lives. Were it a different thread for each poll, an allocator
/// that keeps memory by thread would hold a poll's worth for each of them.
fn start_filler(group: &str, readers: Arc<Mutex<Vec<Reader>>>) -> io::Result<mpsc::Sender<Fill>> {
    let (filler, asked) = mpsc::channel::<Fill>();
    let work = move || {
        for Fill { limits, done } in asked {
            // A poll that was given up finds what was read the next time.
            let _ = done.send(fill(&mut readers.lock().unwrap_or_else(PoisonError::into_inner), limits));
        }
    };
    std::thread::Builder::new().name(format!("journal-{group}")).spawn(work)?;
    Ok(filler)
}

/// Gives each topic its share first, then lets those with more to read use what is left.
fn fill(readers: &mut [Reader], limits: Limits) -> Result<(), JournalError> {
    let count = readers.len().max(1);
    let mut outcome = Ok(());
    for reader in readers.iter_mut() {
        // Damage in one topic does not hold the others up.
        outcome = outcome.and(reader.fill(limits.records.div_ceil(count), limits.bytes.div_ceil(count)));
    }
    for place in 0..readers.len() {
        let waiting = readers.iter().map(Reader::pending);
        let (records, bytes) = waiting.fold((0, 0), |sum, pending| (sum.0 + pending.0, sum.1 + pending.1));
        if outcome.is_err() || records >= limits.records || bytes >= limits.bytes {
            break;
        }
        let (own_records, own_bytes) = readers[place].pending();
        outcome = readers[place].fill(own_records + limits.records - records, own_bytes + limits.bytes - bytes);
    }
    outcome
}

#[async_trait]
impl Consumer for EmbeddedConsumer {
    async fn poll(&mut self, limits: Limits) -> Result<Polled, JournalError> {
        if !self.assigned {
            self.assigned = true;
            let partitions = self.topics.iter().map(|&topic| Partition { topic, number: 0 });
            return Ok(Polled::Assigned(partitions.collect()));
        }
        let limits = Limits { records: limits.records.max(1), bytes: limits.bytes.max(1), ..limits };
        let started = Instant::now();
        loop {
            // Before reading, so that what comes after it wakes.
            self.durable.iter_mut().for_each(watch::Receiver::mark_unchanged);
            let filled = self.fill(limits).await;
            let taken = self.take(limits);
            if !taken.is_empty() {
                return Ok(Polled::Records(taken));
            }
            filled?;
            let left = limits.wait.saturating_sub(started.elapsed());
            if timeout(left, self.more()).await.is_err() {
                return Ok(Polled::Idle);
            }
        }
    }

    async fn commit(&mut self, positions: &Positions) -> Result<(), JournalError> {
        let (journal, group, positions) = (self.journal.clone(), self.group.clone(), positions.clone());
        let commit = move || journal.commit(&group, &positions);
        tokio::task::spawn_blocking(commit).await.map_err(|_| JournalError::Closed)?
    }

    async fn lag(&mut self) -> Result<u64, JournalError> {
        let readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(readers.iter().map(Reader::lag).sum())
    }
}
