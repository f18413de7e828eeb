//! What should have come and did not: rows that wait for an answer until their time is up.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{ArrayRef, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, TimeUnit};
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;

use super::kept::{ByHash, keys, named, texts, times};
use super::{Clock, Hits, event_id};

/// A row that waits.
struct Waiting {
    cluster: Arc<str>,
    /// It alone.
    row: RecordBatch,
}

/// Of one subject.
#[derive(Default)]
struct Subject {
    /// By time and event.
    waiting: BTreeMap<(i64, u128), Waiting>,
    answers: Vec<i64>,
}

pub struct Absence {
    group_by: Vec<String>,
    span: i64,
    /// Rows answer each other, rather than another input's rows.
    own: bool,
    subjects: ByHash<Subject>,
    rows: usize,
}

impl Absence {
    /// `span` in microseconds. `own`: a row of the subject is answered by its next.
    pub fn new(group_by: Vec<String>, span: i64, own: bool) -> Self {
        Self { group_by, span, own, subjects: ByHash::default(), rows: 0 }
    }

    /// Input 0 waits, input 1 answers.
    pub fn push(&mut self, input: usize, rows: &RecordBatch) -> Result<()> {
        let count = rows.num_rows();
        let (keys, usable) = keys(&named(rows, &self.group_by)?, count, true)?;
        let times = times(rows, "event_time")?;
        if input == 1 {
            for row in (0..count).filter(|row| usable[*row]) {
                self.subjects.entry(keys[row]).or_default().answers.push(times[row]);
            }
            return Ok(());
        }
        let mut left: Vec<usize> = (0..count).filter(|row| usable[*row]).collect();
        if self.own {
            left = self.answer(left, &keys, &times);
        }
        let rows = &take_record_batch(rows, &UInt32Array::from_iter_values(left.iter().map(|row| *row as u32)))?;
        let (keys, times): (Vec<u64>, Vec<i64>) = left.iter().map(|row| (keys[*row], times[*row])).unzip();
        let (ids, clusters) = (texts(rows, "event_id")?, texts(rows, "cluster")?);
        for row in 0..rows.num_rows() {
            let subject = self.subjects.entry(keys[row]).or_default();
            let time = (times[row], event_id(ids[row].as_deref()).map_or(0, |id| id.0));
            let after = (Bound::Excluded(time), Bound::Included((time.0.saturating_add(self.span), u128::MAX)));
            if self.own && subject.waiting.range(after).next().is_some() {
                continue;
            }
            let cluster = clusters[row].clone().unwrap_or_default();
            let own = take_record_batch(rows, &UInt32Array::from(vec![row as u32]))?;
            subject.waiting.insert(time, Waiting { cluster, row: own });
            self.rows += 1;
        }
        Ok(())
    }

    /// Lets rows answer those that wait, and each other. Returns the few that no other has answered.
    fn answer(&mut self, mut rows: Vec<usize>, keys: &[u64], times: &[i64]) -> Vec<usize> {
        rows.sort_by_key(|row| (keys[*row], times[*row]));
        let span = self.span;
        let mut left = Vec::new();
        for same in rows.chunk_by(|one, other| keys[*one] == keys[*other]) {
            if let Some(subject) = self.subjects.get_mut(&keys[same[0]]) {
                let before = subject.waiting.len();
                subject.waiting.retain(|(time, _), _| {
                    let next = same.partition_point(|row| times[*row] <= *time);
                    same.get(next).is_none_or(|row| times[*row] - time > span)
                });
                self.rows -= before - subject.waiting.len();
            }
            let last = |place: &usize| same.get(place + 1).is_none_or(|next| times[*next] - times[same[*place]] > span);
            left.extend((0..same.len()).filter(last).map(|place| same[place]));
        }
        left
    }

    pub fn advance(&mut self, clock: &Clock) -> Result<Vec<Hits>> {
        let (span, own) = (self.span, self.own);
        let mut found = Vec::new();
        // Longer than anything waits, for what comes late.
        let least = clock.horizon().saturating_sub(2 * span);
        let mut let_go = 0;
        self.subjects.retain(|_, subject| {
            let due = |((time, _), waiting): (&(i64, u128), &Waiting)| {
                clock.watermark(&waiting.cluster) >= time.saturating_add(span)
            };
            let ready: Vec<_> = subject.waiting.iter().filter(|entry| due(*entry)).map(|(key, _)| *key).collect();
            for key in ready {
                let answered = |time: &i64| (key.0..=key.0.saturating_add(span)).contains(time);
                let Some(waiting) = subject.waiting.remove(&key) else { continue };
                let_go += 1;
                if own || !subject.answers.iter().any(answered) {
                    found.push((key, waiting));
                }
            }
            subject.answers.retain(|time| *time > least);
            !subject.waiting.is_empty() || !subject.answers.is_empty()
        });
        self.rows -= let_go;
        found.sort_by_key(|(key, _)| *key);
        self.hits(found)
    }

    /// The rows that were not answered, with the time at which that was certain.
    fn hits(&self, found: Vec<((i64, u128), Waiting)>) -> Result<Vec<Hits>> {
        let mut rows = Vec::new();
        for ((time, _), waiting) in &found {
            rows.push(at(&waiting.row, time.saturating_add(self.span))?);
        }
        let Some(first) = rows.first() else { return Ok(Vec::new()) };
        let rows = concat_batches(&first.schema(), &rows)?;
        let evidence = found.iter().map(|((_, id), _)| (*id != 0).then_some(vedette_schemas::EventId(*id)));
        Ok(vec![Hits { rows, evidence: evidence.map(|id| id.into_iter().collect()).collect() }])
    }

    pub fn bytes(&self) -> usize {
        let answers: usize = self.subjects.values().map(|subject| subject.answers.capacity() * 8).sum();
        self.rows * 1_024 + answers + self.subjects.capacity() * (size_of::<Subject>() + 9)
    }

    /// Gives up waiting for the oldest eighth of the rows.
    pub fn shed(&mut self) -> Option<i64> {
        let mut waiting: Vec<i64> = self.subjects.values().flat_map(|s| s.waiting.keys().map(|key| key.0)).collect();
        waiting.sort_unstable();
        let oldest = *waiting.get(waiting.len() / 8)?;
        for subject in self.subjects.values_mut() {
            let before = subject.waiting.len();
            subject.waiting.retain(|key, _| key.0 > oldest);
            self.rows -= before - subject.waiting.len();
        }
        Some(oldest)
    }
}

/// A row with another `event_time`; the one it had is `since`.
fn at(row: &RecordBatch, time: i64) -> Result<RecordBatch> {
    let index = row.schema().index_of("event_time")?;
    let mut columns = row.columns().to_vec();
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let time: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![time]).with_timezone("UTC"));
    let since = std::mem::replace(&mut columns[index], time);
    let mut fields: Vec<_> = row.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    fields[index] = fields[index].clone().with_data_type(utc);
    if row.schema().column_with_name("since").is_none() {
        fields.push(fields[index].clone().with_name("since"));
        columns.push(since);
    }
    Ok(RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns)?)
}
