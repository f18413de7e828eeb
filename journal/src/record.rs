//! What travels through the journal: one event a record, with where it came from and when.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use vedette_schemas::EventId;

/// A stream of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Audit events, as received.
    Audit,
    /// Falco's events, as received.
    Falco,
    /// Findings, as JSON objects in the shape of the `alerts` table.
    Alerts,
    /// What could not be parsed, whole, each with its reason.
    DeadLetters,
    /// Where several processes share the work: events that pass the filters of rules which look back, as they were received,
    /// and how far each process has read. One partition, so that one process sees all of it.
    Shared,
}

impl Topic {
    pub const ALL: [Topic; 5] = [Topic::Audit, Topic::Falco, Topic::Alerts, Topic::DeadLetters, Topic::Shared];

    /// The topic's name in files, metrics and, behind a prefix, in Kafka.
    pub fn name(self) -> &'static str {
        match self {
            Topic::Audit => "audit",
            Topic::Falco => "falco",
            Topic::Alerts => "alerts",
            Topic::DeadLetters => "dead-letters",
            Topic::Shared => "shared",
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What kind of sender a record came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// An API server's audit webhook.
    Audit,
    /// Falco or falcosidekick.
    Falco,
    /// Vedette itself: findings, and how far a process has read.
    Vedette,
}

impl Source {
    pub fn name(self) -> &'static str {
        match self {
            Source::Audit => "audit",
            Source::Falco => "falco",
            Source::Vedette => "vedette",
        }
    }

    /// The source of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Source::Audit, Source::Falco, Source::Vedette].into_iter().find(|source| source.name() == name)
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The event's identity. Whoever receives the event computes it, once.
    pub id: EventId,
    /// The cluster it came from.
    pub cluster: Arc<str>,
    pub source: Source,
    /// When it was received: microseconds since 1970, UTC.
    pub received_at: i64,
    /// Why it is a dead letter; `None` elsewhere.
    pub reason: Option<String>,
    /// The event's own bytes, unchanged.
    pub payload: Bytes,
}

impl Record {
    /// An event as it was received, with its identity.
    pub fn new(cluster: Arc<str>, source: Source, received_at: i64, payload: Bytes) -> Self {
        let id = EventId::of(&cluster, &payload);
        Self { id, cluster, source, received_at, reason: None, payload }
    }
}
