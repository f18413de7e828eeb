//! What a subject has not had before: the days on which each subject and each of its combinations was seen.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::UInt32Array;
use arrow::compute::{concat_batches, take_record_batch};
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;

use super::kept::{ByHash, keys, named, text, texts, times};
use super::{Clock, Hits, event_id};

const DAY_MICROS: i64 = 86_400_000_000;
/// Days that are remembered at most.
const MOST_DAYS: i64 = 127;

/// The days on which something was seen: `bits` counts back from `last`.
#[derive(Clone, Copy, Default)]
struct Days {
    last: i64,
    bits: u128,
}

impl Days {
    fn add(&mut self, day: i64) {
        if self.bits == 0 || day - self.last > MOST_DAYS {
            *self = Self { last: day, bits: 1 };
        } else if day > self.last {
            *self = Self { last: day, bits: self.bits << (day - self.last) | 1 };
        } else if self.last - day <= MOST_DAYS {
            self.bits |= 1 << (self.last - day);
        }
    }

    /// Whether it was seen on one of these days.
    fn any(&self, from: i64, to: i64) -> bool {
        let newest = (self.last - to).max(0);
        let oldest = (self.last - from).min(MOST_DAYS);
        if self.bits == 0 || newest > oldest {
            return false;
        }
        let width = oldest - newest + 1;
        let mask = if width > MOST_DAYS { u128::MAX } else { (1_u128 << width) - 1 };
        self.bits >> newest & mask != 0
    }
}

/// A row whose combination may be new, until its time has passed the watermark.
struct Waiting {
    cluster: Arc<str>,
    subject: u64,
    term: u64,
    rows: Arc<RecordBatch>,
    row: u32,
}

pub struct NewTerms {
    group_by: Vec<String>,
    /// The subject's columns and the combination's.
    all: Vec<String>,
    history: i64,
    learning: i64,
    subjects: ByHash<Days>,
    terms: ByHash<Days>,
    /// By time and event: of each combination and day the first row alone, which is all that can be news.
    waiting: BTreeMap<(i64, u128, u64), Waiting>,
    /// The time and event of these rows, by combination, which is of one cluster, and day.
    first: HashMap<(u64, i64), (i64, u128)>,
}

impl NewTerms {
    /// `history` and `learning` in days.
    pub fn new(group_by: Vec<String>, terms: &[String], history: i64, learning: i64) -> Self {
        let all = group_by.iter().chain(terms).cloned().collect();
        let (subjects, terms) = Default::default();
        let (waiting, first) = Default::default();
        Self { group_by, all, history: history.min(MOST_DAYS), learning, subjects, terms, waiting, first }
    }

    pub fn push(&mut self, rows: &RecordBatch) -> Result<()> {
        let count = rows.num_rows();
        let (subjects, _) = keys(&named(rows, &self.group_by)?, count, false)?;
        let (terms, complete) = keys(&named(rows, &self.all)?, count, true)?;
        let (times, ids, clusters) = (times(rows, "event_time")?, texts(rows, "event_id")?, texts(rows, "cluster")?);
        let mut shared = None;
        for row in (0..count).filter(|row| complete[*row]) {
            let day = times[row].div_euclid(DAY_MICROS);
            let known = self.terms.get(&terms[row]).is_some_and(|days| days.any(day - self.history, day - 1));
            if known {
                self.note(subjects[row], terms[row], day);
                continue;
            }
            let id = event_id(text(&ids, row)).map_or(0, |id| id.0);
            let first = self.first.entry((terms[row], day)).or_insert((times[row], id));
            if *first < (times[row], id) {
                continue;
            }
            self.waiting.remove(&(first.0, first.1, terms[row]));
            *first = (times[row], id);
            // Whether it is the first of its day is known once the watermark has passed it.
            let rows = shared.get_or_insert_with(|| Arc::new(rows.clone())).clone();
            let cluster = text(&clusters, row).unwrap_or_default().into();
            let waiting = Waiting { cluster, subject: subjects[row], term: terms[row], rows, row: row as u32 };
            self.waiting.insert((times[row], id, terms[row]), waiting);
        }
        Ok(())
    }

    /// Takes rows whose news were told before: of a subject and a combination, one a day.
    pub fn remember(&mut self, rows: &RecordBatch) -> Result<()> {
        let (subjects, _) = keys(&named(rows, &self.group_by)?, rows.num_rows(), false)?;
        let (terms, complete) = keys(&named(rows, &self.all)?, rows.num_rows(), true)?;
        for (row, time) in times(rows, "event_time")?.into_iter().enumerate().filter(|(row, _)| complete[*row]) {
            self.note(subjects[row], terms[row], time.div_euclid(DAY_MICROS));
        }
        Ok(())
    }

    fn note(&mut self, subject: u64, term: u64, day: i64) {
        self.subjects.entry(subject).or_default().add(day);
        self.terms.entry(term).or_default().add(day);
    }

    pub fn advance(&mut self, clock: &Clock) -> Result<Vec<Hits>> {
        let mut hits = Vec::new();
        let due: Vec<_> = self
            .waiting
            .iter()
            .filter(|((time, ..), waiting)| *time <= clock.watermark(&waiting.cluster))
            .map(|(key, _)| *key)
            .collect();
        for key in due {
            let Some(waiting) = self.waiting.remove(&key) else { continue };
            let day = key.0.div_euclid(DAY_MICROS);
            self.first.remove(&(waiting.term, day));
            let seen = self.terms.get(&waiting.term).is_some_and(|days| days.any(day - self.history, day));
            let learned = self
                .subjects
                .get(&waiting.subject)
                .is_some_and(|days| days.any(day - self.history, day - self.learning));
            self.note(waiting.subject, waiting.term, day);
            if learned && !seen {
                let row = take_record_batch(&waiting.rows, &UInt32Array::from(vec![waiting.row]))?;
                let id = (key.1 != 0).then_some(vedette_schemas::EventId(key.1));
                hits.push((row, id.into_iter().collect()));
            }
        }
        let Some((first, _)) = hits.first() else { return Ok(Vec::new()) };
        let rows = concat_batches(&first.schema(), hits.iter().map(|(row, _)| row))?;
        Ok(vec![Hits { rows, evidence: hits.into_iter().map(|(_, evidence)| evidence).collect() }])
    }

    pub fn bytes(&self) -> usize {
        const ENTRY: usize = 8 + size_of::<Days>() + 1;
        let waiting: usize = self.waiting.len() * (size_of::<Waiting>() + 256 + 48);
        (self.terms.capacity() + self.subjects.capacity()) * ENTRY + waiting
    }

    /// Forgets the combinations that were not seen for longest.
    pub fn shed(&mut self) -> Option<i64> {
        let mut last: Vec<i64> = self.terms.values().map(|days| days.last).collect();
        last.sort_unstable();
        let oldest = *last.get(last.len() / 8)?;
        self.terms.retain(|_, days| days.last > oldest);
        self.terms.shrink_to_fit();
        Some((oldest + 1) * DAY_MICROS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_remembered_in_any_order() {
        let mut days = Days::default();
        assert!(!days.any(0, 1000));
        for day in [100, 90, 103, 400, 300] {
            days.add(day);
        }
        assert!(days.any(300, 300) && days.any(301, 400) && days.any(250, 350));
        assert!(!days.any(301, 399) && !days.any(401, 500) && !days.any(90, 103));
        assert!(days.any(i64::MIN / 2, i64::MAX / 2));
    }
}
