//! Appends to one table. The journal's position goes into each commit, so that a redelivery is recognised.

use std::collections::HashMap;

use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::kernel::{Action, Add, Transaction, Version};
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::{DeltaTable, DeltaTableError};
use vedette_journal::Partition;

use super::error::{is_conflict, store_error, unavailable};
use super::files::{self, Files};
use super::migrate::PARTITION;
use super::{Config, StoreError};
use crate::store::Write;

/// Times that a commit is tried against a newer snapshot after another writer came first.
const ATTEMPTS: usize = 10;

/// What a table's positions say about a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Positions {
    /// How far the write's journal is stored.
    Count,
    /// Nothing: they were left by another topic of the same name. The write's own take their place.
    AreOfAnother,
}

/// A table's appender, with what it knows of the positions stored so far.
pub(super) struct Writer {
    delta: DeltaTable,
    /// Application transactions as of `version`. Reading them back costs a replay of the log.
    positions: HashMap<String, Option<i64>>,
    version: Option<Version>,
}

impl Writer {
    pub(super) fn new(delta: DeltaTable) -> Self {
        Self { delta, positions: HashMap::new(), version: None }
    }

    /// Goes on from another snapshot of the same table.
    pub(super) fn renew(&mut self, delta: DeltaTable) {
        *self = Self::new(delta);
    }

    /// Stores the rows, unless the positions say that they are stored already. Answers whether it did.
    pub(super) async fn write(
        &mut self,
        config: &Config,
        write: &Write,
        positions: Positions,
    ) -> Result<bool, StoreError> {
        let failed = |error: DeltaTableError| store_error(write.table, &error);
        self.refresh().await.map_err(failed)?;
        if positions == Positions::Count && self.covers(write).await.map_err(failed)? {
            return Ok(false);
        }
        let adds = self.write_files(config, write).await?;
        self.commit(adds, write, positions).await
    }

    /// Encoding is work for a processor, so it leaves the threads that serve everybody.
    async fn write_files(&self, config: &Config, write: &Write) -> Result<Vec<Add>, StoreError> {
        let properties = files::properties(write.table, files::FRESH_ZSTD_LEVEL.min(config.zstd_level));
        let files = Files::new(&self.delta, properties).map_err(|error| store_error(write.table, &error))?;
        let files = files.with_target(config.target_file_bytes);
        let batches = write.batches.clone();
        let runtime = tokio::runtime::Handle::current();
        let task = tokio::task::spawn_blocking(move || runtime.block_on(files::write_sorted(files, &batches)));
        let written = task.await.map_err(|error| unavailable(format!("{}: {error}", write.table.name())))?;
        written.map_err(|error| store_error(write.table, &error))
    }

    async fn commit(&mut self, adds: Vec<Add>, write: &Write, positions: Positions) -> Result<bool, StoreError> {
        let failed = |error: DeltaTableError| store_error(write.table, &error);
        for _ in 0..ATTEMPTS {
            match self.try_commit(&adds, write, positions).await {
                Ok(()) => return Ok(true),
                Err(error) if is_conflict(&error) => {
                    tracing::debug!(table = write.table.name(), %error, "another writer committed first");
                    metrics::counter!("vedette_lake_conflicts_total", "table" => write.table.name()).increment(1);
                    self.refresh().await.map_err(failed)?;
                    if positions == Positions::Count && self.covers(write).await.map_err(failed)? {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Err(unavailable(format!("{}: {ATTEMPTS} commits lost against other writers", write.table.name())))
    }

    async fn try_commit(&mut self, adds: &[Add], write: &Write, positions: Positions) -> Result<(), DeltaTableError> {
        let mut transactions = Vec::with_capacity(write.to.len());
        for (partition, to) in &write.to {
            let app = app_id(&write.journal, partition);
            let stored = match positions {
                Positions::Count => self.position(&app).await?.unwrap_or(0),
                Positions::AreOfAnother => 0,
            };
            transactions.push(Transaction::new(app, signed(*to).max(stored)));
        }
        let properties = CommitProperties::default()
            .with_application_transactions(transactions.clone())
            .with_create_checkpoint(true)
            .with_cleanup_expired_logs(Some(false));
        let operation = DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: Some(vec![PARTITION.to_owned()]),
            predicate: None,
        };
        let actions = adds.iter().cloned().map(Action::Add).collect();
        let snapshot = self.delta.snapshot()?.clone();
        let done = CommitBuilder::from(properties)
            .with_actions(actions)
            .build(Some(&snapshot), self.delta.log_store(), operation)
            .await?;
        self.delta.state = Some(done.snapshot());
        if self.version.map(|version| version + 1) == Some(done.version()) {
            self.positions.extend(transactions.into_iter().map(|txn| (txn.app_id, Some(txn.version))));
        } else {
            self.positions.clear();
        }
        self.version = Some(done.version());
        Ok(())
    }

    /// Catches up with other writers, and forgets the positions that they may have moved.
    async fn refresh(&mut self) -> Result<(), DeltaTableError> {
        self.delta.update_incremental(None).await?;
        if self.version != self.delta.version() {
            self.positions.clear();
            self.version = self.delta.version();
        }
        Ok(())
    }

    /// Whether all of it is stored already. A part can't be cut out, since rows carry no offsets.
    async fn covers(&mut self, write: &Write) -> Result<bool, DeltaTableError> {
        for (partition, to) in &write.to {
            let stored = self.position(&app_id(&write.journal, partition)).await?;
            if stored.is_none_or(|stored| stored < signed(*to)) {
                return Ok(false);
            }
        }
        Ok(!write.to.is_empty())
    }

    async fn position(&mut self, app: &str) -> Result<Option<i64>, DeltaTableError> {
        if let Some(known) = self.positions.get(app) {
            return Ok(*known);
        }
        let log_store = self.delta.log_store();
        let stored = self.delta.snapshot()?.transaction_version(log_store.as_ref(), app).await?;
        self.positions.insert(app.to_owned(), stored);
        Ok(stored)
    }
}

/// The name under which a partition's position is kept.
fn app_id(journal: &str, partition: &Partition) -> String {
    format!("{journal}/{}/{}", partition.topic, partition.number)
}

fn signed(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}
