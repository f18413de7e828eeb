//! Event time: how far each cluster's events have come.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;

/// Watermarks. No event of a cluster older than its watermark is waited for; one that comes all the same is evaluated against
/// what is still kept.
///
/// A watermark follows a cluster's events. When none come, it goes on from where they stopped, at the speed of time, so that
/// what waits is told; a log of last week, sent today, is looked at like any other. Rows are kept by the events' own time alone.
#[derive(Clone, Debug)]
pub struct Clock {
    lateness: i64,
    clusters: BTreeMap<String, Come>,
    /// No watermark is below it.
    floor: i64,
    /// Up to which receipt everything has been read, as far as others tell; the end of time where it is read here.
    read: i64,
    /// What came of clusters beyond it: the newest event by the last receipt and cluster.
    beyond: BTreeMap<(i64, String), i64>,
}

/// How far a cluster's events have come. Times are microseconds since 1970.
#[derive(Clone, Copy, Debug)]
struct Come {
    newest: i64,
    /// When the last event was received.
    received: i64,
    /// How far the watermark went without events.
    told: i64,
}

/// A cluster that has sent nothing for so long does not hold up what is kept of others, in microseconds.
const GONE: i64 = 3_600_000_000;

impl Clock {
    /// `lateness`: how long events are waited for, in microseconds.
    pub fn new(lateness: i64) -> Self {
        Self { lateness, clusters: BTreeMap::new(), floor: i64::MIN, read: i64::MAX, beyond: BTreeMap::new() }
    }

    /// The same for events that others read: what they tell of clusters counts once `go_on` has come to its receipt.
    pub fn led(lateness: i64) -> Self {
        Self { read: i64::MIN, ..Self::new(lateness) }
    }

    /// For each cluster the time of its newest event and the last receipt.
    pub fn come(&self) -> impl Iterator<Item = (&str, i64, i64)> {
        self.clusters.iter().map(|(cluster, come)| (cluster.as_str(), come.newest, come.received))
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
        let mut newest = vec![(i64::MIN, i64::MIN); names.len()];
        let rows = clusters.keys().values().iter().zip(event.values()).zip(receipt.values());
        for ((cluster, event), receipt) in rows {
            if let Some(newest) = newest.get_mut(*cluster as usize) {
                *newest = (newest.0.max(*event.min(receipt)), newest.1.max(*receipt));
            }
        }
        for (cluster, (time, received)) in names.iter().zip(newest).filter(|(_, (time, _))| *time > i64::MIN) {
            self.reach(cluster.unwrap_or_default(), time, received);
        }
    }

    /// A cluster's events have come as far as this, the last of them received then.
    pub fn reach(&mut self, cluster: &str, newest: i64, received: i64) {
        if received > self.read {
            let beyond = self.beyond.entry((received, cluster.to_owned())).or_insert(newest);
            *beyond = newest.max(*beyond);
            return;
        }
        match self.clusters.get_mut(cluster) {
            Some(come) => {
                come.newest = come.newest.max(newest);
                come.received = come.received.max(received);
            }
            None => drop(self.clusters.insert(cluster.to_owned(), Come { newest, received, told: i64::MIN })),
        }
    }

    /// Everything that was received up to now has been read.
    pub fn go_on(&mut self, now: i64) {
        self.read = self.read.max(now);
        while let Some(first) = self.beyond.first_entry().filter(|first| first.key().0 <= self.read) {
            let ((received, cluster), newest) = first.remove_entry();
            self.reach(&cluster, newest, received);
        }
        for come in self.clusters.values_mut() {
            let since = now.saturating_sub(come.received).max(0);
            come.told = come.told.max(come.newest.saturating_add(since).saturating_sub(self.lateness));
        }
    }

    /// Time has come as far as another clock says, too.
    pub fn unite(&mut self, other: &Clock) {
        self.read = self.read.max(other.read);
        for ((received, cluster), newest) in &other.beyond {
            self.reach(cluster, *newest, *received);
        }
        for (cluster, come) in &other.clusters {
            self.reach(cluster, come.newest, come.received);
            if let Some(own) = self.clusters.get_mut(cluster) {
                own.told = own.told.max(come.told);
            }
        }
        self.pass(other.floor);
    }

    /// Nothing older than this is on its way from any cluster.
    pub fn pass(&mut self, time: i64) {
        self.floor = self.floor.max(time);
    }

    /// No watermark is below this.
    pub fn floor(&self) -> i64 {
        self.floor
    }

    /// A cluster's watermark; the start of time for one that has sent nothing.
    pub fn watermark(&self, cluster: &str) -> i64 {
        let own = |come: &Come| come.newest.saturating_sub(self.lateness).max(come.told);
        self.clusters.get(cluster).map_or(i64::MIN, own).max(self.floor)
    }

    /// No row older than this is looked back on, but for how far a rule looks back itself.
    pub fn horizon(&self) -> i64 {
        let last = self.clusters.values().map(|come| come.received).max();
        let Some(last) = last else { return self.floor };
        let alive = self.clusters.values().filter(|come| come.received > last - GONE);
        alive.map(|come| come.newest).min().map_or(self.floor, |newest| newest.saturating_sub(self.lateness))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_others_tell_counts_once_all_of_them_have_read_so_far() {
        let mut clock = Clock::led(10);
        clock.reach("a", 1_000, 1_005);
        clock.reach("a", 900, 905);
        assert_eq!(clock.watermark("a"), i64::MIN);
        clock.go_on(905);
        assert_eq!(clock.watermark("a"), 890);
        // It goes on at the speed of time, but not to what is beyond.
        clock.go_on(950);
        assert_eq!(clock.watermark("a"), 935);
        clock.go_on(1_005);
        assert_eq!(clock.watermark("a"), 990);
    }

    #[test]
    fn what_is_beyond_stays_beyond_in_another_clock() {
        let mut clock = Clock::led(10);
        clock.reach("a", 1_000, 1_005);
        clock.go_on(900);
        let mut other = Clock::led(10);
        other.unite(&clock);
        other.go_on(1_004);
        assert_eq!(other.watermark("a"), i64::MIN);
        other.go_on(1_005);
        assert_eq!(other.watermark("a"), 990);
    }
}
