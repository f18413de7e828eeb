//! Event time: how far each cluster's events have come.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;

/// Watermarks. No event of a cluster older than its watermark is waited for; one that comes all the same is evaluated against
/// what is still kept.
#[derive(Clone, Debug)]
pub struct Clock {
    lateness: i64,
    /// The newest event of each cluster, in microseconds since 1970.
    newest: BTreeMap<String, i64>,
    /// No watermark is below it.
    floor: i64,
}

impl Clock {
    /// `lateness`: how long events are waited for, in microseconds.
    pub fn new(lateness: i64) -> Self {
        Self { lateness, newest: BTreeMap::new(), floor: i64::MIN }
    }

    /// Takes note of a batch of events. An event from the future counts as of its receipt, so that one wrong clock can't move
    /// the watermark past every other event.
    pub fn observe(&mut self, batch: &RecordBatch) {
        let column = |name: &str| batch.column_by_name(name);
        let times = |name| column(name).and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
        let clusters = column("cluster").and_then(|c| c.as_dictionary_opt::<Int32Type>());
        let (Some(event), Some(receipt), Some(clusters)) = (times("event_time"), times("received_at"), clusters) else {
            return;
        };
        let Some(names) = clusters.values().as_string_opt::<i32>() else { return };
        let mut newest = vec![i64::MIN; names.len()];
        let rows = clusters.keys().values().iter().zip(event.values()).zip(receipt.values());
        for ((cluster, event), receipt) in rows {
            if let Some(newest) = newest.get_mut(*cluster as usize) {
                *newest = (*newest).max(*event.min(receipt));
            }
        }
        for (cluster, time) in names.iter().zip(newest).filter(|(_, time)| *time > i64::MIN) {
            self.reach(cluster.unwrap_or_default(), time);
        }
    }

    /// A cluster's events have come as far as this.
    pub fn reach(&mut self, cluster: &str, time: i64) {
        match self.newest.get_mut(cluster) {
            Some(newest) => *newest = (*newest).max(time),
            None => drop(self.newest.insert(cluster.to_owned(), time)),
        }
    }

    /// Nothing older than this is on its way from any cluster.
    pub fn pass(&mut self, time: i64) {
        self.floor = self.floor.max(time);
    }

    /// A cluster's watermark; the start of time for one that has sent nothing.
    pub fn watermark(&self, cluster: &str) -> i64 {
        let own = self.newest.get(cluster).map_or(i64::MIN, |newest| newest.saturating_sub(self.lateness));
        own.max(self.floor)
    }

    /// The watermark of the cluster that is furthest behind.
    pub fn least(&self) -> i64 {
        let own = self.newest.values().min().map_or(i64::MIN, |newest| newest.saturating_sub(self.lateness));
        own.max(self.floor)
    }
}
