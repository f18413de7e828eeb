//! The durable log between stages. One small interface, two implementations: Kafka, and segment files of our own.

pub mod embedded;
pub mod kafka;
pub mod record;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use record::{Record, Source, Topic};

/// What can go wrong in a journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("journal {path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("journal {path} is corrupt: {reason}")]
    Corrupt { path: String, reason: String },
    /// Whole, but in a format that only a later version reads.
    #[error("journal {path}: the frame at byte {at} has format {format}, which this version does not read")]
    Format { path: String, at: u64, format: u8 },
    /// Another process holds the data folder.
    #[error("journal {path} is in use by another process")]
    Locked { path: String },
    /// The size limit is reached, and the oldest records have yet to be read. Refusing new ones tells the senders to wait;
    /// dropping old ones would lose evidence.
    #[error("journal {path} is full: it takes more once its consumer groups have read on")]
    Full { path: String },
    #[error("kafka: {0}")]
    Kafka(String),
    /// A record is larger than the journal takes; nothing of its append was written. Sending it again does not help.
    #[error("a record of {bytes} bytes is over the journal's limit of {limit}")]
    TooLarge { bytes: usize, limit: usize },
    /// A consumer that its group has thrown out for good; a new one may go on.
    #[error("kafka: the consumer is lost: {0}")]
    Lost(String),
    #[error("this journal has no topic {0}")]
    NoTopic(Topic),
    #[error("journal is shutting down")]
    Closed,
}

/// A topic's partition. The embedded journal has one partition, 0, a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    pub topic: Topic,
    pub number: i32,
}

/// For each partition the offset that comes next: one more than the last offset dealt with.
pub type Positions = BTreeMap<Partition, u64>;

/// A record as it comes out of the journal.
#[derive(Clone, Debug)]
pub struct Delivered {
    pub partition: Partition,
    pub offset: u64,
    pub record: Record,
    /// What came in one piece and the record's payload is a slice of, or the payload itself.
    pub text: Bytes,
}

/// How much a poll may bring, and how long it may wait for the first record.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub records: usize,
    pub bytes: usize,
    pub wait: Duration,
}

/// What a poll brings.
#[derive(Debug)]
pub enum Polled {
    /// Records, in order within each partition. Never empty.
    Records(Vec<Delivered>),
    /// Nothing came within the wait.
    Idle,
    /// Partitions that another consumer of the group takes over. The caller stores and commits what it holds of them;
    /// its next poll lets the hand-over go on.
    Revoking(Vec<Partition>),
    /// Partitions newly given to this consumer, which start at the group's committed offsets.
    Assigned(Vec<Partition>),
}

/// The durable log.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Appends records to a topic. Returns once all of them are durable: synced to disk, or acknowledged with acks=all.
    /// After an error any of them may be in the log or not; the sender sends them again.
    async fn append(&self, topic: Topic, records: Vec<Record>) -> Result<(), JournalError>;

    /// A new member of a consumer group over some topics. It starts where the group last committed, or at the start.
    async fn subscribe(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Consumer>, JournalError>;

    /// Whether the journal can take records now; the error says why not.
    async fn ready(&self) -> Result<(), JournalError>;

    /// Whether several processes may share the work of a consumer group. Only then is there a topic `shared`.
    fn is_shared(&self) -> bool {
        false
    }

    /// How many partitions a topic has.
    async fn partitions(&self, _topic: Topic) -> Result<i32, JournalError> {
        Ok(1)
    }

    /// A name that tells this journal from any other, for the positions that stores keep.
    fn id(&self) -> String;
}

/// A member of a consumer group.
#[async_trait]
pub trait Consumer: Send {
    async fn poll(&mut self, limits: Limits) -> Result<Polled, JournalError>;

    /// Moves the group's offsets, durably. Positions may only move forward. Those in partitions that another member has
    /// taken over are left out: the records before them come again, to that member.
    async fn commit(&mut self, positions: &Positions) -> Result<(), JournalError>;

    /// Records in the partitions held that this consumer has not been given yet.
    async fn lag(&mut self) -> Result<u64, JournalError>;
}
