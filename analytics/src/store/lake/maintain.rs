//! Housekeeping: drops old days, turns small files into large ones, and removes what no reader needs any more.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::Utc;
use deltalake::checkpoints::cleanup_metadata;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::kernel::{Action, LogicalFileView};
use deltalake::operations::vacuum::VacuumMode;
use deltalake::protocol::DeltaOperation;
use deltalake::{DeltaTable, DeltaTableError};
use tokio::time::Instant;
use vedette_schemas::Table;

use super::error::{is_conflict, store_error};
use super::migrate::PARTITION;
use super::read::day_of;
use super::{Config, Lake, Slot, StoreError, merge};

/// Files merged at a time: each is read through a buffer of its own.
const MERGED_FILES: usize = 8;

/// Time between two removals of files from a table's folder, which lists all of it.
const VACUUM_EVERY: Duration = Duration::from_secs(3600);

/// Each step commits by itself or not at all, so a stop at any point leaves a whole table behind.
pub(super) async fn maintain(lake: &Lake) -> Result<(), StoreError> {
    let deadline = Instant::now() + Duration::from_secs(lake.config.maintain_seconds);
    let first = lake.turn.fetch_add(1, Ordering::Relaxed);
    for at in 0..lake.slots.len() {
        let slot = &lake.slots[(first + at) % lake.slots.len()];
        match tokio::time::timeout_at(deadline, maintain_table(&lake.config, slot)).await {
            Ok(done) => done?,
            Err(_) => {
                tracing::info!(table = slot.table.name(), "housekeeping goes on in its next round");
                metrics::counter!("vedette_lake_maintain_timeouts_total").increment(1);
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn maintain_table(config: &Config, slot: &Slot) -> Result<(), StoreError> {
    let outcome = match expire(config, slot).await {
        Ok(()) => compact(config, slot).await,
        error => error,
    };
    match outcome {
        Ok(()) => {}
        // Somebody else's housekeeping came first; the next round sees what it left.
        Err(error) if is_conflict(&error) => {
            tracing::debug!(table = slot.table.name(), %error, "housekeeping met another writer");
        }
        Err(error) => return Err(store_error(slot.table, &error)),
    }
    vacuum(config, slot).await.map_err(|error| store_error(slot.table, &error))
}

/// A snapshot of its own: the reader's lock is not held while files are read.
async fn snapshot(slot: &Slot) -> Result<DeltaTable, DeltaTableError> {
    let mut reader = slot.reader.lock().await;
    reader.update_incremental(None).await?;
    Ok(reader.clone())
}

/// Takes the days out of the table whose time has passed. The files themselves go with the vacuum.
/// The first day of receipt that a table keeps.
pub(super) fn oldest_day(config: &Config, table: Table) -> i32 {
    today() - i32::try_from(config.retention_of(table)).unwrap_or(i32::MAX / 2)
}

async fn expire(config: &Config, slot: &Slot) -> Result<(), DeltaTableError> {
    let delta = snapshot(slot).await?;
    let oldest = oldest_day(config, slot.table);
    let log = delta.snapshot()?.log_data();
    let expired = log.iter().filter(|file| day_of(file).is_some_and(|day| day < oldest));
    let removes: Vec<Action> = expired.map(|file| Action::Remove(file.remove_action(true))).collect();
    if removes.is_empty() {
        return Ok(());
    }
    tracing::info!(table = slot.table.name(), files = removes.len(), "days beyond the retention are dropped");
    let date = chrono::NaiveDate::default() + chrono::Duration::days(i64::from(oldest));
    let operation = DeltaOperation::Delete { predicate: Some(format!("{PARTITION} < '{date}'")) };
    commit(&delta, removes, operation).await
}

/// Merges small files until none are left to merge.
async fn compact(config: &Config, slot: &Slot) -> Result<(), DeltaTableError> {
    loop {
        let delta = snapshot(slot).await?;
        let Some(bin) = next_bin(config, delta.snapshot()?.log_data().iter()) else { return Ok(()) };
        let files = bin.len();
        let adds = merge::merge(config, slot.table, &delta, &bin).await?;
        let mut actions: Vec<Action> = bin.iter().map(|file| Action::Remove(file.remove_action(false))).collect();
        actions.extend(adds.into_iter().map(Action::Add));
        let target_size = i64::try_from(config.target_file_bytes).unwrap_or(i64::MAX);
        commit(&delta, actions, DeltaOperation::Optimize { predicate: None, target_size }).await?;
        tracing::debug!(table = slot.table.name(), files, "small files became one");
        metrics::counter!("vedette_lake_compacted_files_total", "table" => slot.table.name()).increment(files as u64);
    }
}

/// The next files to merge: of one day, and while the day grows, of one size class, so that a row is rewritten only a
/// few times. A day that is over is merged whatever the sizes.
fn next_bin(config: &Config, files: impl Iterator<Item = LogicalFileView>) -> Option<Vec<LogicalFileView>> {
    let today = today();
    let small = config.target_file_bytes / 2;
    let mut groups: BTreeMap<(i32, u32), Vec<LogicalFileView>> = BTreeMap::new();
    for file in files {
        let size = u64::try_from(file.size()).unwrap_or(0);
        let Some(day) = day_of(&file).filter(|_| size < small) else { continue };
        let growing = day >= today - 1;
        let class = if growing { size.max(1).ilog(MERGED_FILES as u64) } else { 0 };
        groups.entry((day, class)).or_default().push(file);
    }
    let enough = |day: i32, files: usize| files >= if day >= today - 1 { config.compaction_files.max(2) } else { 2 };
    let (_, mut files) = groups.into_iter().find(|((day, _), files)| enough(*day, files.len()))?;
    files.sort_by_key(|file| (file.size(), file.modification_time()));
    let mut bytes = 0;
    let target = i64::try_from(config.target_file_bytes).unwrap_or(i64::MAX);
    let fits = files.iter().take(MERGED_FILES).take_while(|file| {
        bytes += file.size();
        bytes <= target
    });
    let count = fits.count().max(2);
    files.truncate(count);
    Some(files)
}

async fn commit(delta: &DeltaTable, actions: Vec<Action>, operation: DeltaOperation) -> Result<(), DeltaTableError> {
    let properties = CommitProperties::default().with_create_checkpoint(true).with_cleanup_expired_logs(Some(false));
    let snapshot = delta.snapshot()?.clone();
    CommitBuilder::from(properties).with_actions(actions).build(Some(&snapshot), delta.log_store(), operation).await?;
    Ok(())
}

/// Deletes files that left the table long enough ago, or never were in it, and the log's expired part.
async fn vacuum(config: &Config, slot: &Slot) -> Result<(), DeltaTableError> {
    let mut last = slot.last_vacuum.lock().await;
    if last.is_some_and(|last| last.elapsed() < VACUUM_EVERY) {
        return Ok(());
    }
    let hours = i64::from(config.vacuum_after_hours.max(1));
    let delta = snapshot(slot).await?;
    let (delta, removed) = delta
        .vacuum()
        .with_mode(VacuumMode::Full)
        .with_retention_period(chrono::Duration::hours(hours))
        .with_enforce_retention_duration(false)
        .await?;
    let logs = cleanup_metadata(&delta, None).await?;
    tracing::debug!(table = slot.table.name(), files = removed.files_deleted.len(), logs, "vacuum");
    *last = Some(std::time::Instant::now());
    Ok(())
}

/// Days since 1970, UTC.
fn today() -> i32 {
    i32::try_from(Utc::now().timestamp().div_euclid(86_400)).unwrap_or(i32::MAX)
}
