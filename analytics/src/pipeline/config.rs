//! The pipeline's settings.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use vedette_journal::Limits;

use crate::engine::Options;

/// How much is evaluated and stored at once.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Consumer group: processes with the same one share the work. Default `vedette`.
    pub group: String,
    /// Most events evaluated at once. Default 8192.
    pub batch_events: usize,
    /// Most bytes of events evaluated at once. Default 32 MiB.
    pub batch_bytes: usize,
    /// Longest wait for a first event, in milliseconds; shutdown is noticed within it. Default 200.
    pub batch_wait_ms: u64,
    /// Rows go to the store after this many seconds at the latest. Default 5.
    pub flush_seconds: u64,
    /// Rows go to the store when they take this much memory. Default 48 MiB; twice as much can be held,
    /// while a flush is under way.
    pub flush_bytes: usize,
    /// Event ids remembered, to recognise an event that is delivered again. 16 bytes each, twice. Default 1,000,000.
    pub seen_events: usize,
    /// Finding ids remembered likewise. Default 100,000.
    pub seen_alerts: usize,
    /// How long events that come out of order are waited for, in seconds: by rules for which more events can make an answer
    /// untrue. Default 60, since API servers send what they hold after 30 at the latest.
    pub lateness_seconds: u32,
    /// Bytes that rules may keep of what they look back on, together. Beyond them the rule that keeps most lets go of its
    /// oldest rows, and a finding says so. Default 1 GiB.
    pub state_bytes: usize,
    /// After a restart, how far before the first redelivered event the store is asked for ids, in minutes: as long as a
    /// sender may take to send a batch again. Default 10.
    pub seen_minutes: u32,
    /// Whether scheduled rules run here; of several processes one runs them. Without it they wait for `vedette run`. Default
    /// true.
    pub schedule: bool,
    /// How far back missed runs of scheduled rules are caught up on, and for how long a period that ran is looked at again,
    /// for events that came late, in hours. Default 24.
    pub schedule_overlap_hours: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            group: "vedette".into(),
            batch_events: 8192,
            batch_bytes: 32 << 20,
            batch_wait_ms: 200,
            flush_seconds: 5,
            flush_bytes: 48 << 20,
            seen_events: 1_000_000,
            seen_alerts: 100_000,
            lateness_seconds: 60,
            state_bytes: 1 << 30,
            seen_minutes: 10,
            schedule: true,
            schedule_overlap_hours: 24,
        }
    }
}

impl Config {
    /// Names the first key whose value can't work, and why.
    pub fn check(&self) -> Result<(), String> {
        if self.group.is_empty() {
            return Err("group: is empty".into());
        }
        let positive = [
            ("batch_events", self.batch_events),
            ("batch_bytes", self.batch_bytes),
            ("flush_bytes", self.flush_bytes),
            ("seen_events", self.seen_events),
            ("seen_alerts", self.seen_alerts),
            ("state_bytes", self.state_bytes),
        ];
        match positive.into_iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(format!("{key}: is 0")),
            None => Ok(()),
        }
    }

    pub(super) fn engine(&self) -> Options {
        let lateness = i64::from(self.lateness_seconds) * 1_000_000;
        Options { lateness, state_bytes: self.state_bytes, ..Options::default() }
    }

    pub(super) fn limits(&self) -> Limits {
        let wait = Duration::from_millis(self.batch_wait_ms);
        Limits { records: self.batch_events, bytes: self.batch_bytes, wait }
    }
}
