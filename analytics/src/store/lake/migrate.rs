//! Creates the Delta tables, and adds the columns that an older lake lacks.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use deltalake::kernel::engine::arrow_conversion::{TryIntoArrow, TryIntoKernel};
use deltalake::kernel::{StructField, StructType};
use deltalake::protocol::SaveMode;
use deltalake::{DeltaTable, DeltaTableError};
use vedette_schemas::{Column, Kind, Table};

use super::error::{is_conflict, rejected, store_error};
use super::{Config, StoreError};

/// The column that every table is partitioned by.
pub(super) const PARTITION: &str = "day";

/// Columns whose least and greatest values go into the log, for skipping files. Bodies and names would only swell it.
const INDEXED: &str = "cluster,received_at,event_time";

/// Processes that start together create the same tables, and one of them wins.
const ATTEMPTS: usize = 5;

pub(super) async fn migrate(config: &Config, table: Table, mut delta: DeltaTable) -> Result<DeltaTable, StoreError> {
    let mut attempt = 1;
    loop {
        match ensure(config, table, &mut delta).await {
            Ok(()) => return Ok(delta),
            Err(Problem::Delta(error)) if is_conflict(&error) && attempt < ATTEMPTS => attempt += 1,
            Err(Problem::Delta(error)) => return Err(store_error(table, &error)),
            Err(Problem::Schema(reason)) => return Err(rejected(format!("{}: {reason}", table.name()))),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Delta(#[from] DeltaTableError),
    #[error("{0}")]
    Schema(String),
}

async fn ensure(config: &Config, table: Table, delta: &mut DeltaTable) -> Result<(), Problem> {
    if !delta.verify_deltatable_existence().await? {
        return create(config, table, delta).await;
    }
    delta.load().await?;
    evolve(table, delta).await
}

async fn create(config: &Config, table: Table, delta: &mut DeltaTable) -> Result<(), Problem> {
    let fields: Vec<Field> = table.columns().iter().map(field).collect();
    let schema: StructType =
        (&Schema::new(fields)).try_into_kernel().map_err(|error| Problem::Schema(error.to_string()))?;
    let hours = config.vacuum_after_hours.max(1);
    let properties = [
        ("delta.dataSkippingStatsColumns", INDEXED.to_owned()),
        ("delta.checkpointInterval", config.checkpoint_interval.max(1).to_string()),
        ("delta.logRetentionDuration", "interval 1 days".to_owned()),
        ("delta.deletedFileRetentionDuration", format!("interval {hours} hours")),
    ];
    *delta = delta
        .create()
        .with_table_name(table.name())
        .with_comment(table.description())
        .with_columns(schema.fields().cloned())
        .with_partition_columns([PARTITION])
        .with_configuration(properties.map(|(key, value)| (key, Some(value))))
        .with_save_mode(SaveMode::Ignore)
        .await?;
    Ok(())
}

/// Adds nullable columns that the table lacks. Any other difference is for people to settle.
async fn evolve(table: Table, delta: &mut DeltaTable) -> Result<(), Problem> {
    let stored: Schema = delta
        .snapshot()?
        .schema()
        .as_ref()
        .try_into_arrow()
        .map_err(|error: arrow::error::ArrowError| Problem::Schema(error.to_string()))?;
    let mut added: Vec<StructField> = Vec::new();
    let mut wrong: Vec<String> = Vec::new();
    for column in table.columns() {
        let wanted = field(column);
        match stored.field_with_name(column.name) {
            Ok(found) if same_type(found.data_type(), wanted.data_type()) => {}
            Ok(found) => wrong.push(format!("{} is {} and not {}", column.name, found.data_type(), wanted.data_type())),
            Err(_) if !column.nullable => wrong.push(format!("{} is missing", column.name)),
            Err(_) => {
                let converted: Result<StructField, _> = (&wanted).try_into_kernel();
                added.push(converted.map_err(|error| Problem::Schema(error.to_string()))?);
            }
        }
    }
    if delta.snapshot()?.metadata().partition_columns() != [PARTITION.to_owned()] {
        wrong.push(format!("the table is not partitioned by {PARTITION}"));
    }
    if !wrong.is_empty() {
        return Err(Problem::Schema(wrong.join("; ")));
    }
    if !added.is_empty() {
        *delta = delta.clone().add_columns().with_fields(added).await?;
    }
    Ok(())
}

/// The column as Delta keeps it: no dictionaries, no views.
fn field(column: &Column) -> Field {
    let data_type = match column.kind {
        Kind::Text | Kind::Json | Kind::Label => DataType::Utf8,
        Kind::TextList => DataType::List(Arc::new(Field::new("element", DataType::Utf8, false))),
        Kind::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Kind::Int32 | Kind::Int64 | Kind::Bool | Kind::Day => column.kind.arrow(),
    };
    Field::new(column.name, data_type, column.nullable)
}

/// Whether two types hold the same values; the names and nullability of list elements don't matter.
fn same_type(found: &DataType, wanted: &DataType) -> bool {
    match (found, wanted) {
        (DataType::List(found), DataType::List(wanted)) => same_type(found.data_type(), wanted.data_type()),
        _ => found == wanted,
    }
}
