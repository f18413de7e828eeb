//! What the receivers count. Per cluster, received = accepted + rejected, where a dead letter is rejected, and so is an
//! event that could not be made durable, which is received again when its sender repeats it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use metrics::{Counter, Histogram, counter, histogram};
use vedette_journal::{Source, Topic};

/// Beyond so many clusters, the rest are counted together, so that nobody can fill the memory with names.
const CLUSTERS: usize = 1000;

/// One cluster's counters.
pub struct Counts {
    pub received: Counter,
    pub accepted: Counter,
    pub rejected: Counter,
    pub dead_letters: Counter,
    pub bytes: Counter,
    pub append_seconds: Histogram,
}

impl Counts {
    fn new(source: Source, cluster: &str) -> Self {
        let of = |name| counter!(name, "cluster" => cluster.to_owned(), "source" => source.name());
        Self {
            received: of("vedette_events_received_total"),
            accepted: of("vedette_events_accepted_total"),
            rejected: of("vedette_events_rejected_total"),
            bytes: of("vedette_ingest_bytes_total"),
            dead_letters: counter!(
                "vedette_dead_letters_total",
                "cluster" => cluster.to_owned(), "source" => source.name(), "stage" => "ingest"
            ),
            append_seconds: histogram!("vedette_ingest_append_seconds", "source" => source.name()),
        }
    }
}

/// The counters of all clusters.
#[derive(Default)]
pub struct Telemetry {
    counts: RwLock<HashMap<(&'static str, String), Arc<Counts>>>,
}

impl Telemetry {
    /// A cluster's counters. Only for clusters that the sender may write.
    pub fn of(&self, source: Source, cluster: &str) -> Arc<Counts> {
        let mut key = (source.name(), cluster.to_owned());
        let known = self.counts.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = known.get(&key) {
            return Arc::clone(counts);
        }
        let full = known.len() >= CLUSTERS;
        drop(known);
        if full {
            key.1 = "(other)".to_owned();
        }
        let mut counts = self.counts.write().unwrap_or_else(PoisonError::into_inner);
        let (source_name, cluster) = (key.0, key.1.clone());
        let new = || Arc::new(Counts::new(Source::parse(source_name).unwrap_or(source), &cluster));
        Arc::clone(counts.entry(key).or_insert_with(new))
    }
}

/// Counts an append that failed or was not done in time.
pub fn append_failed(topic: Topic) {
    counter!("vedette_journal_append_errors_total", "topic" => topic.name()).increment(1);
}

/// Counts a body whose end was dropped.
pub fn body_cut(source: Source, cluster: &str) {
    counter!("vedette_ingest_bodies_cut_total", "cluster" => cluster.to_owned(), "source" => source.name())
        .increment(1);
}

/// Counts a request by its status code when it ends, or as 499 when the sender goes away before.
pub struct Answer {
    source: Source,
    code: u16,
}

impl Answer {
    pub fn pending(source: Source) -> Self {
        Self { source, code: 499 }
    }

    pub fn with(mut self, code: u16) {
        self.code = code;
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let code = self.code.to_string();
        counter!("vedette_ingest_requests_total", "source" => self.source.name(), "code" => code).increment(1);
    }
}
