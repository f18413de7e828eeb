//! What a topic's writer and its readers share: which segments there are, and how far they are durable.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::segment::Segment;
use crate::JournalError;
use crate::record::Topic;

/// Why a topic takes no records.
#[derive(Clone, Debug)]
pub enum Trouble {
    Full,
    /// A write was refused, as on a full disk, and taken back. The next one may succeed.
    Refused(String),
    /// A write or sync failed in a way that leaves the file's state unknown. Only opening the journal again helps.
    Failed(String),
}

pub struct Log {
    pub topic: Topic,
    pub dir: PathBuf,
    state: Mutex<State>,
    durable: watch::Sender<u64>,
}

struct State {
    segments: Vec<Segment>,
    trouble: Option<Trouble>,
}

impl Log {
    pub fn new(topic: Topic, dir: PathBuf, segments: Vec<Segment>, next: u64) -> Self {
        let state = Mutex::new(State { segments, trouble: None });
        Log { topic, dir, state, durable: watch::Sender::new(next) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The offset after the last durable record.
    pub fn durable(&self) -> u64 {
        *self.durable.borrow()
    }

    /// Wakes when more is durable.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.durable.subscribe()
    }

    /// The last segment now has this much on disk, up to this offset. Readers may go that far. A topic that takes records
    /// is in no trouble.
    pub fn publish(&self, bytes: u64, next: u64) {
        let mut state = self.state();
        if let Some(last) = state.segments.last_mut() {
            last.bytes = bytes;
        }
        state.trouble = None;
        drop(state);
        self.durable.send_replace(next);
    }

    pub fn add_segment(&self, base: u64) {
        self.state().segments.push(Segment { base, bytes: 0 });
    }

    /// Forgets the oldest segment. Readers that have it open go on reading it.
    pub fn remove_oldest(&self) {
        self.state().segments.remove(0);
    }

    /// The oldest segment, and the offset at which the next one starts. Never the one being written.
    pub fn oldest_closed(&self) -> Option<(Segment, u64)> {
        let state = self.state();
        Some((*state.segments.first()?, state.segments.get(1)?.base))
    }

    /// The first offset that is kept.
    pub fn oldest(&self) -> u64 {
        self.state().segments.first().map_or(0, |segment| segment.base)
    }

    pub fn size(&self) -> u64 {
        self.state().segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The segment of that base, if it is still kept.
    pub fn segment(&self, base: u64) -> Option<Segment> {
        self.state().segments.iter().find(|segment| segment.base == base).copied()
    }

    /// The segment that holds an offset, or the oldest when that is gone.
    pub fn segment_for(&self, offset: u64) -> Option<Segment> {
        let state = self.state();
        let holder = state.segments.iter().rev().find(|segment| segment.base <= offset);
        holder.or(state.segments.first()).copied()
    }

    /// The segment after the one of that base.
    pub fn segment_after(&self, base: u64) -> Option<Segment> {
        self.state().segments.iter().find(|segment| segment.base > base).copied()
    }

    pub fn set_trouble(&self, trouble: Option<Trouble>) {
        self.state().trouble = trouble;
    }

    pub fn is_full(&self) -> bool {
        matches!(self.state().trouble, Some(Trouble::Full))
    }

    pub fn is_refused(&self) -> bool {
        matches!(self.state().trouble, Some(Trouble::Refused(_)))
    }

    /// The error to answer with while the topic takes no records.
    pub fn check(&self) -> Result<(), JournalError> {
        let path = self.dir.display().to_string();
        match self.state().trouble.clone() {
            None => Ok(()),
            Some(Trouble::Full) => Err(JournalError::Full { path }),
            Some(Trouble::Refused(reason) | Trouble::Failed(reason)) => {
                Err(JournalError::Io { path, source: std::io::Error::other(reason) })
            }
        }
    }
}
