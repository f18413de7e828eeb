//! The journal as segment files of our own, for a deployment of one process.
//!
//! ```text
//! <path>/LOCK                          held while a process has the journal open
//! <path>/ID                            the journal's name
//! <path>/<topic>/<first offset>.log    segments of frames
//! <path>/groups/<group>.json           what a group has committed: {"audit": 1234}
//! ```
//!
//! An append returns once its records are synced. Old segments go when they are past the age or size limit, but never
//! before every group has read them: a journal full of unread records refuses more, which tells the senders to wait.
//! A topic that no group reads is kept by age and size alone. A group that is given up for good stands in the way of
//! deletion until its file is removed, with the process stopped.
//!
//! When the disk refuses a write, for instance because it is full, the append fails and is taken back. The journal is
//! then not ready until a write succeeds: the next append, or the writer's own attempt every few seconds.
//!
//! A crash leaves a torn tail at most, which was never acknowledged: opening cuts it off, and syncs what is whole. Any
//! other damage is an error that names file and byte, and nothing is cut, skipped or moved aside for it. In a topic's
//! last segment opening fails; in an older one the groups that come to it stop there, while other topics and new records
//! go on. To go on without the damaged segment, remove its file with the process stopped: groups then start after it,
//! and say how many records are missing.

mod consumer;
mod encoders;
mod frame;
mod groups;
mod log;
mod reader;
mod segment;
mod writer;

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot};

use self::consumer::EmbeddedConsumer;
use self::encoders::Encoders;
use self::frame::{MAX_RECORD, encoded_size};
use self::groups::Groups;
use self::log::Log;
use self::reader::Reader;
use self::segment::{at, sync_dir};
use self::writer::{Append, Command, Writer};
use crate::record::{Record, Topic};
use crate::{Consumer, Journal, JournalError, Positions};

/// One process reads it, so there is nothing to share.
const TOPICS: [Topic; 4] = [Topic::Audit, Topic::Falco, Topic::Alerts, Topic::DeadLetters];

/// What may wait for the disk, a topic. Appends beyond it wait before they are encoded.
const BUDGET_BYTES: u32 = 64 << 20;

/// Where the embedded journal lives and how much it keeps.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The folder. One process at a time may use it.
    pub path: PathBuf,
    /// A segment file is closed at this size. Space is freed a segment at a time, so it is at most a quarter of
    /// `retention_bytes`.
    pub segment_bytes: u64,
    /// How much a topic may take on disk. What all groups have read is deleted to stay below it; when there is no such
    /// thing, new records are refused.
    pub retention_bytes: u64,
    /// How long records are kept that all groups have read.
    pub retention_hours: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            path: PathBuf::from("data/journal"),
            segment_bytes: 128 << 20,
            retention_bytes: 8 << 30,
            retention_hours: 72,
        }
    }
}

impl Config {
    /// Opens the journal, or creates it. Blocks while the last segments are checked.
    pub fn open(&self) -> Result<Arc<Embedded>, JournalError> {
        std::fs::create_dir_all(&self.path).map_err(at(&self.path))?;
        let lock = lock(&self.path)?;
        let id = identify(&self.path)?;
        let groups = Arc::new(Groups::load(self.path.join("groups"))?);
        let topics = TOPICS.iter().map(|&topic| self.open_topic(topic, &groups)).collect::<Result<_, _>>()?;
        sync_dir(&self.path)?;
        let inner = Inner { id, groups, topics, encoders: Encoders::new(), _lock: lock };
        Ok(Arc::new(Embedded { inner: Arc::new(inner) }))
    }

    fn open_topic(&self, topic: Topic, groups: &Arc<Groups>) -> Result<OpenTopic, JournalError> {
        let dir = self.path.join(topic.name());
        std::fs::create_dir_all(&dir).map_err(at(&dir))?;
        let recovered = segment::recover(&dir, groups.fastest(topic))?;
        let log = Arc::new(Log::new(topic, dir.clone(), recovered.segments.clone(), recovered.next));
        let writer = Writer::new(log.clone(), groups.clone(), self.limits(), recovered);
        let (commands, received) = channel();
        let thread = std::thread::Builder::new().name(format!("journal-{topic}"));
        let thread = thread.spawn(move || writer.run(&received)).map_err(at(&dir))?;
        let budget = Arc::new(Semaphore::new(BUDGET_BYTES as usize));
        Ok(OpenTopic { log, budget, commands: Some(commands), thread: Some(thread) })
    }

    fn limits(&self) -> writer::Limits {
        writer::Limits {
            segment_bytes: self.segment_bytes.min(self.retention_bytes / 4),
            retention_bytes: self.retention_bytes,
            retention: Duration::from_secs(self.retention_hours.saturating_mul(3600)),
        }
    }
}

fn lock(dir: &Path) -> Result<File, JournalError> {
    let path = dir.join("LOCK");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(JournalError::Locked { path: dir.display().to_string() }),
        Err(std::fs::TryLockError::Error(e)) => Err(at(&path)(e)),
    }
}

/// Reads the journal's name, or gives it one. It tells positions in this journal from positions in one that lay in the
/// same folder before.
fn identify(dir: &Path) -> Result<String, JournalError> {
    let path = dir.join("ID");
    match std::fs::read_to_string(&path) {
        Ok(id) => Ok(id.trim().to_owned()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let id = format!("embedded-{:016x}", RandomState::new().hash_one(std::time::SystemTime::now()));
            groups::replace(&path, id.as_bytes())?;
            Ok(id)
        }
        Err(e) => Err(at(&path)(e)),
    }
}

/// The embedded journal.
pub struct Embedded {
    inner: Arc<Inner>,
}

/// What the journal and its consumers hold together; the folder is free again once all of them are gone.
struct Inner {
    id: String,
    groups: Arc<Groups>,
    topics: Vec<OpenTopic>,
    encoders: Arc<Encoders>,
    _lock: File,
}

struct OpenTopic {
    log: Arc<Log>,
    budget: Arc<Semaphore>,
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl OpenTopic {
    fn send(&self, command: Command) -> Result<(), JournalError> {
        let commands = self.commands.as_ref().ok_or(JournalError::Closed)?;
        commands.send(command).map_err(|_| JournalError::Closed)
    }
}

impl Drop for OpenTopic {
    /// Waits for the writer, so that the lock is let go only after the last write.
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(topic = %self.log.topic, "the journal's writer panicked");
        }
    }
}

impl Inner {
    /// `TOPICS` and the open topics are in the same order.
    fn topic(&self, topic: Topic) -> &OpenTopic {
        let place = TOPICS.iter().position(|&other| other == topic).unwrap_or(0);
        &self.topics[place]
    }

    fn log(&self, topic: Topic) -> &Arc<Log> {
        &self.topic(topic).log
    }

    fn commit(&self, group: &str, positions: &Positions) -> Result<(), JournalError> {
        for (partition, &position) in positions {
            let log = self.log(partition.topic);
            if partition.number != 0 || position > log.durable() {
                let reason = format!("position {position} of partition {} is not in the log", partition.number);
                return Err(at(&log.dir)(io::Error::new(io::ErrorKind::InvalidInput, reason)));
            }
        }
        self.groups.commit(group, positions)?;
        for partition in positions.keys() {
            let topic = self.topic(partition.topic);
            if topic.log.is_full() {
                topic.send(Command::Retain)?;
            }
        }
        Ok(())
    }

    fn join(&self, group: &str, topics: &[Topic]) -> Result<Vec<Reader>, JournalError> {
        let starts: Vec<_> = topics.iter().map(|&topic| (topic, self.log(topic).oldest())).collect();
        let starts = self.groups.join(group, &starts)?;
        let readers = topics.iter().zip(starts);
        Ok(readers.map(|(&topic, start)| Reader::new(self.log(topic).clone(), group.to_owned(), start)).collect())
    }
}

#[async_trait]
impl Journal for Embedded {
    async fn append(&self, topic: Topic, records: Vec<Record>) -> Result<(), JournalError> {
        if records.is_empty() {
            return Ok(());
        }
        if !TOPICS.contains(&topic) {
            return Err(JournalError::NoTopic(topic));
        }
        let largest = records.iter().map(encoded_size).max().unwrap_or(0);
        if largest > MAX_RECORD {
            return Err(JournalError::TooLarge { bytes: largest, limit: MAX_RECORD });
        }
        let topic = self.inner.topic(topic);
        let size = records.iter().map(encoded_size).sum::<usize>();
        let permits = u32::try_from(size).unwrap_or(u32::MAX).min(BUDGET_BYTES);
        let mut budget = topic.budget.clone().acquire_many_owned(permits).await.map_err(|_| JournalError::Closed)?;
        let frames = self.inner.encoders.encode(records, size).await.map_err(at(&topic.log.dir))?;
        // Compressed, it takes less room while it waits.
        let stored = frames.iter().map(|frame| frame.bytes().len()).sum::<usize>();
        drop(budget.split(budget.num_permits().saturating_sub(stored)));
        let (done, acknowledged) = oneshot::channel();
        topic.send(Command::Append(Append { frames, done, _budget: budget }))?;
        acknowledged.await.map_err(|_| JournalError::Closed)?
    }

    async fn subscribe(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Consumer>, JournalError> {
        if let Some(topic) = topics.iter().find(|topic| !TOPICS.contains(topic)) {
            return Err(JournalError::NoTopic(*topic));
        }
        let (journal, name, wanted) = (self.inner.clone(), group.to_owned(), topics.to_vec());
        let join = move || journal.join(&name, &wanted);
        let readers = tokio::task::spawn_blocking(join).await.map_err(|_| JournalError::Closed)??;
        let consumer = EmbeddedConsumer::start(self.inner.clone(), group.to_owned(), topics.to_vec(), readers);
        Ok(Box::new(consumer.map_err(at(&self.inner.groups.path_of(group)))?))
    }

    async fn ready(&self) -> Result<(), JournalError> {
        self.inner.topics.iter().try_for_each(|topic| topic.log.check())
    }

    fn id(&self) -> String {
        self.inner.id.clone()
    }
}
