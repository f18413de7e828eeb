//! How far the processes that share the work have read: what each tells, and how far time may go for all.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use vedette_journal::{Partition, Record, Source, Topic};

/// Topics whose partitions are shared out.
const TOPICS: [Topic; 2] = [Topic::Audit, Topic::Falco];

/// What a process tells, as JSON. Times are microseconds since 1970.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Topic, partition, and the receipt up to which it is read. What rules look back on of it stands before this record.
    read: Vec<(String, i32, i64)>,
    /// Cluster, its newest event's time, and its last receipt.
    pub clusters: Vec<(String, i64, i64)>,
}

impl Progress {
    /// The error says what is wrong with the record.
    pub fn parse(record: &Record) -> Result<Self, String> {
        serde_json::from_slice(&record.payload).map_err(|error| format!("a process's progress: {error}"))
    }

    /// The partitions, and how far each is read. Those of topics that are not known are left out.
    pub fn read(&self) -> impl Iterator<Item = (Partition, i64)> {
        self.read.iter().filter_map(|(topic, number, read)| {
            let topic = TOPICS.into_iter().find(|known| known.name() == topic)?;
            Some((Partition { topic, number: *number }, *read))
        })
    }
}

/// What this process tells.
#[derive(Default)]
pub struct Teller {
    held: BTreeSet<Partition>,
    /// What was told of clusters.
    told: BTreeMap<String, (i64, i64)>,
}

impl Teller {
    /// Holds these partitions from now on. All is told anew, since whoever listens may be another.
    pub fn hold(&mut self, partitions: &[Partition]) {
        self.held = partitions.iter().filter(|partition| TOPICS.contains(&partition.topic)).copied().collect();
        self.told.clear();
    }

    /// What there is to tell at `now`: up to which receipt all is read, if that is known, and for each cluster the newest event's
    /// time and the last receipt, as far as they are news.
    pub fn tell<'a>(
        &mut self,
        read: Option<i64>,
        come: impl Iterator<Item = (&'a str, i64, i64)>,
        now: i64,
    ) -> Option<Record> {
        let held = self.held.iter().filter(|_| read.is_some());
        let read = held.map(|held| (held.topic.name().to_owned(), held.number, read.unwrap_or_default())).collect();
        let mut clusters = Vec::new();
        for (cluster, newest, received) in come {
            if self.told.get(cluster) != Some(&(newest, received)) {
                self.told.insert(cluster.to_owned(), (newest, received));
                clusters.push((cluster.to_owned(), newest, received));
            }
        }
        let progress = Progress { read, clusters };
        if progress.read.is_empty() && progress.clusters.is_empty() {
            return None;
        }
        let payload = serde_json::to_vec(&progress).ok()?;
        Some(Record::new("".into(), Source::Vedette, now, payload.into()))
    }
}

/// How far all have read.
pub struct Least {
    read: BTreeMap<Partition, Option<i64>>,
}

impl Least {
    /// Of topics with so many partitions each.
    pub fn new(audit: i32, falco: i32) -> Self {
        let numbers = TOPICS.into_iter().zip([audit, falco]);
        let all = numbers.flat_map(|(topic, count)| (0..count).map(move |number| Partition { topic, number }));
        Self { read: all.map(|partition| (partition, None)).collect() }
    }

    /// What was read stays read, whoever goes on with the partition.
    pub fn take(&mut self, progress: &Progress) {
        for (partition, read) in progress.read() {
            let known = self.read.entry(partition).or_default();
            *known = (*known).max(Some(read));
        }
    }

    /// The receipt up to which everything is read; `None` while a partition is left of which nobody has told.
    pub fn get(&self) -> Option<i64> {
        self.read.values().copied().min().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(topic: Topic, number: i32) -> Partition {
        Partition { topic, number }
    }

    fn told(partitions: &[Partition], read: i64) -> Progress {
        let mut teller = Teller::default();
        teller.hold(partitions);
        Progress::parse(&teller.tell(Some(read), std::iter::empty(), 0).unwrap()).unwrap()
    }

    #[test]
    fn the_slowest_partition_and_one_that_nobody_told_of_hold_time_back() {
        let mut least = Least::new(2, 1);
        assert_eq!(least.get(), None);
        least.take(&told(&[partition(Topic::Audit, 0), partition(Topic::Falco, 0)], 100));
        assert_eq!(least.get(), None, "audit/1 is missing");
        least.take(&told(&[partition(Topic::Audit, 1)], 40));
        assert_eq!(least.get(), Some(40));
        // Its next owner begins with older records.
        least.take(&told(&[partition(Topic::Audit, 1)], 30));
        assert_eq!(least.get(), Some(40));
        least.take(&told(&[partition(Topic::Audit, 1)], 200));
        assert_eq!(least.get(), Some(100));
    }

    #[test]
    fn clusters_are_told_when_there_is_news_and_to_each_new_listener() {
        let mut teller = Teller::default();
        let held = [partition(Topic::Audit, 3), partition(Topic::Shared, 0)];
        teller.hold(&held);
        let tell = |teller: &mut Teller, read, come: &[(&str, i64, i64)]| {
            let record = teller.tell(read, come.iter().copied(), 7)?;
            assert_eq!((record.source, record.received_at), (Source::Vedette, 7));
            Some(Progress::parse(&record).unwrap())
        };
        let first = tell(&mut teller, Some(5), &[("a", 1, 2), ("b", 3, 4)]).unwrap();
        assert_eq!(first.read().collect::<Vec<_>>(), [(held[0], 5)]);
        assert_eq!(first.clusters.len(), 2);
        let second = tell(&mut teller, None, &[("a", 1, 2), ("b", 3, 5)]).unwrap();
        assert_eq!((second.read().count(), second.clusters), (0, vec![("b".to_owned(), 3, 5)]));
        assert_eq!(tell(&mut teller, None, &[("a", 1, 2), ("b", 3, 5)]), None);
        teller.hold(&held);
        assert_eq!(tell(&mut teller, None, &[("a", 1, 2), ("b", 3, 5)]).unwrap().clusters.len(), 2);
    }

    #[test]
    fn what_is_no_progress_is_an_error() {
        let record = Record::new("".into(), Source::Vedette, 0, "{}".into());
        assert!(Progress::parse(&record).unwrap_err().contains("missing field"));
    }
}
