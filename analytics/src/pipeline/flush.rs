//! Rows on their way to the store, and the offsets that may move once they are there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;
use datafusion::common::utils::memory::get_record_batch_memory_size;
use tokio::task::JoinHandle;
use vedette_journal::{Consumer, Delivered, JournalError, Positions};
use vedette_schemas::Table;

use super::decode::Fresh;
use super::{Config, Counts, Pipeline, PipelineError};
use crate::engine::{Newest, Tables};
use crate::store::{Store, Write};

/// The order in which tables are stored. Events come last: an event that the store holds counts as dealt with, so what
/// belongs to it must be there before.
const ORDER: [Table; 6] =
    [Table::Alerts, Table::Containers, Table::RoleRules, Table::RoleSubjects, Table::Falco, Table::Audit];

/// Rows that wait.
pub struct Pending {
    journal: Arc<str>,
    batches: BTreeMap<Table, Vec<RecordBatch>>,
    counts: Counts,
    bytes: usize,
    since: Option<Instant>,
    from: Positions,
    to: Positions,
}

impl Pending {
    pub fn new(journal: String) -> Self {
        let (batches, counts) = Default::default();
        let (from, to) = Default::default();
        Self { journal: journal.into(), batches, counts, bytes: 0, since: None, from, to }
    }

    /// Notes the offsets of a delivery.
    pub fn cover(&mut self, records: &[Delivered]) {
        self.since.get_or_insert_with(Instant::now);
        for Delivered { partition, offset, .. } in records {
            self.from.entry(*partition).or_insert(*offset);
            self.to.insert(*partition, offset + 1);
        }
    }

    pub fn add(&mut self, fresh: Fresh, alerts: Option<RecordBatch>) {
        self.since.get_or_insert_with(Instant::now);
        for (table, batch) in fresh.tables.into_iter().chain(alerts.map(|batch| (Table::Alerts, batch))) {
            // Columns share blocks of text, which count once.
            self.bytes += get_record_batch_memory_size(&batch);
            self.batches.entry(table).or_default().push(batch);
        }
        for (cluster, events) in fresh.counts {
            *self.counts.entry(cluster).or_default() += events;
        }
    }

    /// The events and derived rows that wait.
    pub fn tables(&self) -> impl Iterator<Item = Tables> {
        let batches = self.batches.iter().filter(|(table, _)| **table != Table::Alerts);
        batches.flat_map(|(table, batches)| batches.iter().map(|batch| Tables::from([(*table, batch.clone())])))
    }

    pub fn is_empty(&self) -> bool {
        self.to.is_empty() && self.batches.is_empty()
    }

    pub fn is_due(&self, config: &Config) -> bool {
        let age = self.since.map(|since| since.elapsed()).unwrap_or_default();
        self.bytes >= config.flush_bytes || age >= Duration::from_secs(config.flush_seconds)
    }

    /// Sends what waits to the store, in the background.
    pub fn start(&mut self, store: Arc<dyn Store>) -> Flush {
        let empty = Self::new(self.journal.to_string());
        let Self { journal, mut batches, counts, from, to, .. } = std::mem::replace(self, empty);
        let positions = to.clone();
        let task = tokio::spawn(async move {
            for table in ORDER {
                let Some(batches) = batches.remove(&table) else { continue };
                let write = Write { table, batches, journal: journal.clone(), from: from.clone(), to: to.clone() };
                store_until_done(store.as_ref(), write).await;
            }
            for (cluster, events) in counts {
                metrics::counter!("vedette_events_stored_total", "cluster" => cluster.to_string()).increment(events);
            }
        });
        Flush { task, positions }
    }
}

/// Tries until the store takes it: offsets must not move past rows that are not stored, and no row is given up.
async fn store_until_done(store: &dyn Store, write: Write) {
    let mut wait = Duration::from_millis(200);
    let started = Instant::now();
    let rows: usize = write.batches.iter().map(RecordBatch::num_rows).sum();
    while let Err(error) = store.write(write.clone()).await {
        tracing::error!(table = write.table.name(), rows, %error, "store does not take rows; trying again");
        metrics::counter!("vedette_store_errors_total", "table" => write.table.name()).increment(1);
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(30));
    }
    metrics::histogram!("vedette_store_seconds", "table" => write.table.name()).record(started.elapsed().as_secs_f64());
    metrics::counter!("vedette_rows_stored_total", "table" => write.table.name()).increment(rows as u64);
}

/// A write to the store under way.
pub struct Flush {
    task: JoinHandle<()>,
    positions: Positions,
}

impl Flush {
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits for the store; the positions may then be committed.
    pub async fn finish(&mut self) -> Result<Positions, PipelineError> {
        (&mut self.task).await.map_err(|panic| PipelineError::Decode(format!("storing stopped: {panic}")))?;
        Ok(std::mem::take(&mut self.positions))
    }
}

/// What is let go of is not stored later, behind the back of whoever reads it again.
impl Drop for Flush {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pipeline {
    /// Starts a flush that is due and commits one that is done.
    pub(super) async fn turn(&mut self, consumer: &mut dyn Consumer) -> Result<(), PipelineError> {
        let left_over = self.flush.is_none() && !self.uncommitted.is_empty();
        if left_over || self.flush.as_ref().is_some_and(Flush::is_finished) {
            self.commit(consumer).await?;
        }
        if self.pending.is_due(&self.config) {
            self.tell_repeats().await?;
            // One flush at a time: waiting here is what keeps memory bounded when the store is slow.
            self.commit(consumer).await?;
            self.flush();
        }
        Ok(())
    }

    /// Sends all that waits to the store.
    fn flush(&mut self) {
        self.stored = self.come();
        self.flush = Some(self.pending.start(self.store.clone()));
    }

    /// How far the events have come that were evaluated here or learned of. Without rules that look back nothing was learned of
    /// clusters that have been silent since the start, and where processes share the work others evaluate, too: `None`.
    pub(super) fn come(&self) -> Option<Newest> {
        let come = self.engine.come().map(|(cluster, newest, received)| (cluster.to_owned(), (newest, received)));
        self.engine.looks_back().then(|| come.collect())
    }

    /// Stores and commits all that is held.
    pub(super) async fn settle(&mut self, consumer: &mut dyn Consumer) -> Result<(), PipelineError> {
        self.tell_repeats().await?;
        self.commit(consumer).await?;
        if !self.pending.is_empty() {
            self.flush();
        }
        self.commit(consumer).await
    }

    /// Waits for a flush under way, and commits what is stored.
    async fn commit(&mut self, consumer: &mut dyn Consumer) -> Result<(), PipelineError> {
        if let Some(flush) = &mut self.flush {
            self.uncommitted.extend(flush.finish().await?);
            self.flush = None;
        }
        if self.uncommitted.is_empty() {
            return Ok(());
        }
        match consumer.commit(&self.uncommitted).await {
            Ok(()) => self.uncommitted.clear(),
            Err(JournalError::Closed) => return Err(JournalError::Closed.into()),
            // The next commit takes these positions along. What is read again in between is recognised.
            Err(error) => tracing::warn!(%error, "the journal does not take a position; it is committed with the next"),
        }
        Ok(())
    }
}
