//! What should have come and did not: rows that wait for an answer until their time is up.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, TimeUnit};
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;

use super::kept::{ByHash, keys, named, text, texts, times};
use super::{Clock, Hits, event_id};

/// A row that waits.
struct Waiting {
    cluster: Arc<str>,
    /// The first of the rows that it ends, each of which is answered by the next; its own time if there are none.
    since: i64,
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

impl Subject {
    /// Lets a row wait that ends others since a time. Where rows answer each other, within so many microseconds, it and what waits
    /// become one if they are so near, in whatever order they come: the last goes on waiting.
    fn wait(
        &mut self,
        time: (i64, u128),
        mut since: i64,
        span: Option<i64>,
        waiting: impl FnOnce() -> Result<Waiting>,
    ) -> Result<()> {
        let mut last = None;
        if let Some(span) = span {
            let near = (since.saturating_sub(span), 0)..;
            let reach = time.0.saturating_add(span);
            let near = self.waiting.range(near).take_while(|(_, other)| other.since <= reach).map(|(time, _)| *time);
            for other in near.collect::<Vec<_>>() {
                last = self.waiting.remove(&other).map(|waiting| (other, waiting));
                since = since.min(last.as_ref().map_or(since, |(_, other)| other.since));
            }
        }
        let (time, waiting) = match last {
            Some((other, waiting)) if other > time => (other, waiting),
            _ => (time, waiting()?),
        };
        self.waiting.insert(time, Waiting { since, ..waiting });
        Ok(())
    }
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
        let (ids, clusters) = (texts(rows, "event_id")?, texts(rows, "cluster")?);
        let id = |row: usize| event_id(text(&ids, row)).map_or(0, |id| id.0);
        let usable = (0..count).filter(|row| usable[*row]).collect();
        for (since, row) in self.unanswered(usable, &keys, &times, id) {
            let subject = self.subjects.entry(keys[row]).or_default();
            let before = subject.waiting.len();
            let waiting = || {
                let own = take_record_batch(rows, &UInt32Array::from(vec![row as u32]))?;
                Ok(Waiting { cluster: text(&clusters, row).unwrap_or_default().into(), since, row: own })
            };
            subject.wait((times[row], id(row)), since, self.own.then_some(self.span), waiting)?;
            self.rows = self.rows + subject.waiting.len() - before;
        }
        Ok(())
    }

    /// The rows that no other of them answers, each with the time of the first of those that it ends.
    fn unanswered(
        &self,
        mut rows: Vec<usize>,
        keys: &[u64],
        times: &[i64],
        id: impl Fn(usize) -> u128,
    ) -> Vec<(i64, usize)> {
        if !self.own {
            return rows.into_iter().map(|row| (times[row], row)).collect();
        }
        rows.sort_by_key(|row| (keys[*row], times[*row]));
        let answers = |one: &usize, next: &usize| keys[*one] == keys[*next] && times[*next] - times[*one] <= self.span;
        let chains = rows.chunk_by(answers).filter_map(|chain| {
            let last = times[*chain.last()?];
            // Of several at one time it is the same in any order.
            let peers = chain.iter().rev().take_while(|row| times[**row] == last);
            Some((times[*chain.first()?], *peers.max_by_key(|row| id(**row))?))
        });
        chains.collect()
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

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;

    use super::*;

    fn rows(times: &[i64]) -> RecordBatch {
        let texts = |text: &dyn Fn(i64) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(times.iter().map(|time| text(*time))))
        };
        let time = TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC");
        let columns: [(&str, ArrayRef); 3] = [
            ("cluster", texts(&|_| "c".into())),
            ("event_id", texts(&|time| format!("{:032x}", time + 1))),
            ("event_time", Arc::new(time)),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    /// When it is certain that nothing came after rows at these times, each of which comes alone.
    fn silent(times: &[i64]) -> Vec<i64> {
        let mut absence = Absence::new(vec!["cluster".into()], 10, true);
        for time in times {
            absence.push(0, &rows(&[*time])).unwrap();
        }
        let mut clock = Clock::new(0);
        clock.pass(1_000);
        let hits = absence.advance(&clock).unwrap();
        assert_eq!((absence.rows, absence.subjects.len()), (0, 0));
        hits.iter().flat_map(|hits| super::super::kept::times(&hits.rows, "event_time").unwrap()).collect()
    }

    #[test]
    fn rows_answer_each_other_in_any_order() {
        let expected = [50, 71, 110];
        assert_eq!(silent(&[20, 30, 40, 61, 90, 100]), expected);
        assert_eq!(silent(&[100, 90, 61, 40, 30, 20]), expected);
        // One comes between two that are too far from each other.
        assert_eq!(silent(&[20, 40, 100, 61, 30, 90]), expected);
        // What the second answers has not been answered by the last, which is all that waits.
        assert_eq!(silent(&[30, 40, 61, 90, 100, 20]), expected);
    }
}
