//! Reads back which events are stored, newest first, from the two columns that tell.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use datafusion::catalog::TableProvider;
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::expr_fn::first_value;
use datafusion::prelude::{SessionConfig, SessionContext, col, ident, lit};
use datafusion::scalar::ScalarValue;
use deltalake::kernel::LogicalFileView;
use deltalake::{DeltaTable, DeltaTableError};
use futures::TryStreamExt;
use vedette_schemas::{EventId, Table};

use super::error::{store_error, unavailable};
use super::migrate::PARTITION;
use crate::store::{StoreError, Write};

const DAY_MICROS: i64 = 86_400_000_000;

/// The newest ids, as (received_at, id), the oldest of them on top.
type Newest = BinaryHeap<Reverse<(i64, u128)>>;

pub(super) async fn recent_ids(
    table: Table,
    delta: &DeltaTable,
    since: i64,
    limit: usize,
) -> Result<Vec<EventId>, StoreError> {
    let first_day = since.div_euclid(DAY_MICROS);
    let days = days(delta).map_err(|error| store_error(table, &error))?;
    let mut newest = Newest::new();
    // Days are days of receipt: once the limit is reached, an older day can't hold newer rows.
    for day in days.into_iter().rev().filter(|day| i64::from(*day) >= first_day) {
        if newest.len() >= limit {
            break;
        }
        let read = read_day(table, delta, day, since, limit, &mut newest).await;
        read.map_err(|error| unavailable(format!("{}: {error}", table.name())))?;
    }
    Ok(newest.into_sorted_vec().into_iter().rev().map(|Reverse((_, id))| EventId(id)).collect())
}

/// Whether every row of a write is in the table, or was until the table let its day go.
pub(super) async fn holds(delta: &DeltaTable, write: &Write, oldest_day: i32) -> Result<bool, StoreError> {
    let oldest = i64::from(oldest_day) * DAY_MICROS;
    let (mut since, mut wanted) = (i64::MAX, HashSet::new());
    for batch in &write.batches {
        let times = batch
            .column_by_name("received_at")
            .and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
        let ids = batch.column_by_name(write.table.id()).and_then(|column| column.as_string_view_opt());
        let (Some(times), Some(ids)) = (times, ids) else { continue };
        let kept = times.values().iter().zip(ids).filter(|(time, _)| **time >= oldest);
        for (time, id) in kept.filter_map(|(time, id): (&i64, _)| Some((*time, EventId::parse(id?)?))) {
            since = since.min(time);
            wanted.insert(id);
        }
    }
    for id in recent_ids(write.table, delta, since, usize::MAX).await? {
        wanted.remove(&id);
    }
    Ok(wanted.is_empty())
}

/// Findings as they were told last: one that is found again has a row for each time, with a higher count. What identifies a
/// finding, and what partitions are pruned by, is grouped by, so that conditions on it reach the files.
pub(super) fn latest(alerts: Arc<dyn TableProvider>) -> Result<Arc<dyn TableProvider>, DataFusionError> {
    let same = ["alert_id", "day", "cluster"];
    let last = vec![col("count").sort(false, false)];
    let columns = || Table::Alerts.columns().iter().map(|column| column.name);
    let others = columns().filter(|name| !same.contains(name));
    let told = others.map(|name| first_value(col(name), last.clone()).alias(name)).collect();
    let rows = SessionContext::new().read_table(alerts)?.aggregate(same.map(col).to_vec(), told)?;
    Ok(rows.select(columns().map(ident).collect::<Vec<_>>())?.into_view())
}

async fn read_day(
    table: Table,
    delta: &DeltaTable,
    day: i32,
    since: i64,
    limit: usize,
    newest: &mut Newest,
) -> Result<(), DataFusionError> {
    let id = table.id();
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    let since = ScalarValue::TimestampMicrosecond(Some(since), Some("UTC".into()));
    let wanted = col(PARTITION).eq(lit(ScalarValue::Date32(Some(day)))).and(col("received_at").gt_eq(lit(since)));
    let frame =
        context.read_table(delta.table_provider().await?)?.filter(wanted)?.select_columns(&[id, "received_at"])?;
    let mut batches = frame.execute_stream().await?;
    while let Some(batch) = batches.try_next().await? {
        gather(&batch, limit, newest)?;
    }
    Ok(())
}

fn gather(batch: &RecordBatch, limit: usize, newest: &mut Newest) -> Result<(), DataFusionError> {
    let ids = cast(batch.column(0), &DataType::Utf8View)?;
    let ids = ids.as_string_view();
    let Some(times) = batch.column(1).as_primitive_opt::<TimestampMicrosecondType>() else {
        return Err(DataFusionError::Internal("received_at is not a time in microseconds".into()));
    };
    for row in 0..batch.num_rows() {
        // Derived tables have several rows an event; what is not an id is not ours.
        let Some(id) = ids.is_valid(row).then(|| EventId::parse(ids.value(row))).flatten() else { continue };
        newest.push(Reverse((times.value(row), id.0)));
        if newest.len() > limit {
            newest.pop();
        }
    }
    Ok(())
}

/// The days that hold rows, as days since 1970.
fn days(delta: &DeltaTable) -> Result<BTreeSet<i32>, DeltaTableError> {
    Ok(delta.snapshot()?.log_data().iter().filter_map(|file| day_of(&file)).collect())
}

/// The day of a file's partition.
pub(super) fn day_of(file: &LogicalFileView) -> Option<i32> {
    let values = file.partition_values_map();
    let text = values.get(PARTITION)?.as_deref()?;
    let date = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    i32::try_from((date - chrono::NaiveDate::default()).num_days()).ok()
}
