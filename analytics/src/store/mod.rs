//! Where events and findings are kept: ClickHouse, or a lake of Delta tables. One interface.

pub mod clickhouse;
pub mod lake;

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use vedette_journal::Positions;
use vedette_schemas::{EventId, Table};

/// What can go wrong in a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Trying again may help: the store is away, busy or over a limit.
    #[error("{store}: {reason}")]
    Unavailable { store: &'static str, reason: String },
    /// Trying again does not help: schema, rights or configuration.
    #[error("{store}: {reason}")]
    Rejected { store: &'static str, reason: String },
}

/// Rows of one table, with the journal position behind them.
#[derive(Clone, Debug)]
pub struct Write {
    pub table: Table,
    /// Batches in the table's own schema (`Table::schema`).
    pub batches: Vec<RecordBatch>,
    /// The journal's name, `Journal::id`.
    pub journal: Arc<str>,
    /// The first offset behind these rows, for each partition.
    pub from: Positions,
    /// The offset after the last behind these rows, for each partition.
    pub to: Positions,
}

/// A store of tables.
#[async_trait]
pub trait Store: Send + Sync {
    /// Creates or migrates the tables. Safe to repeat.
    async fn migrate(&self) -> Result<(), StoreError>;

    /// Stores rows durably. The same `journal`, `from` and `to` a second time change nothing.
    async fn write(&self, write: Write) -> Result<(), StoreError>;

    /// Ids (`Table::id`) of rows received at or after `since` (microseconds since 1970), newest
    /// `limit` of them, oldest first: what a restart must know to recognise a redelivery. An event with several rows may be
    /// there several times.
    async fn recent_ids(&self, table: Table, since: i64, limit: usize) -> Result<Vec<EventId>, StoreError>;

    /// The table as a source of DataFusion queries, as of now.
    async fn provider(&self, table: Table) -> Result<Arc<dyn TableProvider>, StoreError>;

    /// Housekeeping: compaction, checkpoints, retention. Bounded in time and memory; safe to stop at any point.
    async fn maintain(&self) -> Result<(), StoreError>;

    /// Whether the store can take rows now; the error says why not.
    async fn ready(&self) -> Result<(), StoreError>;
}
