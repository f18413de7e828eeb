//! The lake: one Delta table for each of our tables, in a folder or an object store, that other engines read too.

mod error;
mod files;
mod maintain;
mod merge;
mod migrate;
mod objects;
mod read;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError, ensure_table_uri};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use vedette_schemas::{EventId, Table};

use super::{Store, StoreError, Write};
use error::{rejected, store_error, unavailable};
use writer::{Positions, Writer};

/// The lake's settings.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the tables are: a folder, or the URL of an object store's folder (`s3://…`, `gs://…`, `az://…`).
    pub url: String,
    /// Options of the object store, such as `region` or `endpoint`. Credentials belong in the cloud's environment variables
    /// (`AWS_…`, `GOOGLE_…`, `AZURE_…`).
    pub storage_options: BTreeMap<String, String>,
    /// Days that events are kept, by day of receipt.
    pub retention_days: u32,
    /// Days that alerts, and the history of scheduled rules' runs, are kept.
    pub alerts_retention_days: u32,
    /// Size that compaction aims at: files beyond half of it are left alone. While it writes one, it holds it in memory.
    pub target_file_bytes: u64,
    /// Small files of one size class that a day needs before they become one. At most 8 are merged at a time.
    pub compaction_files: usize,
    /// Commits between checkpoints.
    pub checkpoint_interval: u64,
    /// Hours that files stay after they left the table, for readers that still use them; at least 1.
    pub vacuum_after_hours: u32,
    /// Level of zstd in merged files. Fresh ones have level 1.
    pub zstd_level: i32,
    /// Seconds that a round of housekeeping may take.
    pub maintain_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: "data/lake".into(),
            storage_options: BTreeMap::new(),
            retention_days: 90,
            alerts_retention_days: 400,
            target_file_bytes: 64 << 20,
            compaction_files: 8,
            checkpoint_interval: 50,
            vacuum_after_hours: 2,
            zstd_level: 3,
            maintain_seconds: 60,
        }
    }
}

impl Config {
    /// Names the first key whose value can't work, and why.
    pub fn check(&self) -> Result<(), String> {
        if self.url.trim().is_empty() {
            return Err("url: is empty".into());
        }
        if let Some((scheme, _)) = self.url.split_once("://")
            && scheme != "file"
            && !objects::SCHEMES.contains(&scheme)
        {
            return Err(format!("url: {scheme} is none of file, {}", objects::SCHEMES.join(", ")));
        }
        if !(1..=22).contains(&self.zstd_level) {
            return Err(format!("zstd_level: {} is not between 1 and 22", self.zstd_level));
        }
        if self.compaction_files < 2 {
            return Err(format!("compaction_files: {} is below 2", self.compaction_files));
        }
        for (key, value) in [
            ("target_file_bytes", self.target_file_bytes),
            ("checkpoint_interval", self.checkpoint_interval),
            ("maintain_seconds", self.maintain_seconds),
        ] {
            if value == 0 {
                return Err(format!("{key}: is 0"));
            }
        }
        Ok(())
    }

    /// Whether the lake is a folder of this machine that isn't there.
    pub fn is_missing(&self) -> bool {
        !self.url.contains("://") && !std::path::Path::new(&self.url).exists()
    }

    /// Opens the lake. Its tables need not exist yet: `migrate` creates them.
    pub async fn open(&self) -> Result<Arc<Lake>, StoreError> {
        let slots: Result<Vec<Slot>, StoreError> = Table::ALL.into_iter().map(|table| self.slot(table)).collect();
        let slots = slots?;
        for slot in &slots {
            slot.load().await?;
        }
        Ok(Arc::new(Lake { config: self.clone(), slots, turn: AtomicUsize::new(0) }))
    }

    fn slot(&self, table: Table) -> Result<Slot, StoreError> {
        objects::register();
        let location = format!("{}/{}", self.url.trim_end_matches('/'), table.name());
        let open = || -> Result<DeltaTable, DeltaTableError> {
            let options = self.storage_options.clone().into_iter().collect();
            DeltaTableBuilder::from_url(ensure_table_uri(&location)?)?.with_storage_options(options).build()
        };
        let delta = open().map_err(|error| rejected(format!("{location}: {error}")))?;
        Ok(Slot {
            table,
            writer: Mutex::new(Writer::new(delta.clone())),
            reader: Mutex::new(delta),
            last_vacuum: Mutex::new(None),
        })
    }

    fn retention_of(&self, table: Table) -> u32 {
        if table.is_streamed() { self.retention_days } else { self.alerts_retention_days }
    }
}

/// One table. Writing, reading and housekeeping each hold their own snapshot, so that none waits for another.
struct Slot {
    table: Table,
    writer: Mutex<Writer>,
    reader: Mutex<DeltaTable>,
    last_vacuum: Mutex<Option<Instant>>,
}

impl Slot {
    /// Loads the table if it exists.
    async fn load(&self) -> Result<(), StoreError> {
        let mut reader = self.reader.lock().await;
        let exists = reader.verify_deltatable_existence().await;
        if !exists.map_err(|error| store_error(self.table, &error))? {
            return Ok(());
        }
        reader.load().await.map_err(|error| store_error(self.table, &error))?;
        self.writer.lock().await.renew(reader.clone());
        Ok(())
    }

    /// The table as of now.
    async fn current(&self) -> Result<DeltaTable, StoreError> {
        let mut reader = self.reader.lock().await;
        reader.update_incremental(None).await.map_err(|error| store_error(self.table, &error))?;
        Ok(reader.clone())
    }
}

/// An open lake.
pub struct Lake {
    config: Config,
    slots: Vec<Slot>,
    /// The table that the next round of housekeeping starts with, so that none is starved by the ones before it.
    turn: AtomicUsize,
}

impl Lake {
    fn slot(&self, table: Table) -> Result<&Slot, StoreError> {
        let slot = self.slots.iter().find(|slot| slot.table == table);
        slot.ok_or_else(|| rejected(format!("no table {}", table.name())))
    }
}

#[async_trait]
impl Store for Lake {
    async fn migrate(&self) -> Result<(), StoreError> {
        for slot in &self.slots {
            let migrated = migrate::migrate(&self.config, slot.table, slot.reader.lock().await.clone()).await?;
            slot.writer.lock().await.renew(migrated.clone());
            *slot.reader.lock().await = migrated;
        }
        Ok(())
    }

    async fn write(&self, write: Write) -> Result<(), StoreError> {
        let rows: usize = write.batches.iter().map(|batch| batch.num_rows()).sum();
        if rows == 0 {
            return Ok(());
        }
        let started = Instant::now();
        let slot = self.slot(write.table)?;
        let mut writer = slot.writer.lock().await;
        let mut stored = writer.write(&self.config, &write, Positions::Count).await?;
        // A topic that was made anew counts from 0 again, below the position that is known of the old one.
        if !stored
            && !read::holds(&slot.current().await?, &write, maintain::oldest_day(&self.config, write.table)).await?
        {
            stored = writer.write(&self.config, &write, Positions::AreOfAnother).await?;
        }
        drop(writer);
        let outcome = if stored { "stored" } else { "redelivered" };
        metrics::counter!("vedette_lake_rows_total", "table" => write.table.name(), "outcome" => outcome)
            .increment(rows as u64);
        metrics::histogram!("vedette_lake_write_seconds", "table" => write.table.name())
            .record(started.elapsed().as_secs_f64());
        Ok(())
    }

    async fn recent_ids(&self, table: Table, since: i64, limit: usize) -> Result<Vec<EventId>, StoreError> {
        read::recent_ids(table, &self.slot(table)?.current().await?, since, limit).await
    }

    async fn provider(&self, table: Table) -> Result<Arc<dyn TableProvider>, StoreError> {
        let failed = |error: &dyn std::fmt::Display| unavailable(format!("{}: {error}", table.name()));
        let current = self.slot(table)?.current().await?;
        let provider = current.table_provider().await.map_err(|error| failed(&error))?;
        if table == Table::Alerts { read::latest(provider).map_err(|error| failed(&error)) } else { Ok(provider) }
    }

    async fn maintain(&self) -> Result<(), StoreError> {
        maintain::maintain(self).await
    }

    async fn ready(&self) -> Result<(), StoreError> {
        for slot in &self.slots {
            let delta = slot.reader.lock().await.clone();
            let exists = delta.verify_deltatable_existence().await;
            if !exists.map_err(|error| store_error(slot.table, &error))? {
                return Err(unavailable(format!("table {} does not exist yet", slot.table.name())));
            }
        }
        Ok(())
    }
}
