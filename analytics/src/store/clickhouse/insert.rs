//! Rows in: one Arrow stream an insert, with a token that names the journal's range.

use std::time::Duration;

use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow::record_batch::RecordBatch;
use clickhouse::Client;
use vedette_schemas::{EventId, Table};

use super::{StoreError, Write, classify, rejected};

/// Bytes of Arrow stream handed to the client at once.
const CHUNK: usize = 1 << 20;

pub async fn insert(database: &Client, timeout: Duration, write: Write) -> Result<(), StoreError> {
    let token = token(&write);
    let table = write.table;
    let body = tokio::task::spawn_blocking(move || stream(table, &write.batches))
        .await
        .map_err(|panic| rejected(panic.to_string()))?
        .map_err(|error| rejected(error.to_string()))?;
    let columns: Vec<&str> = table.columns().iter().map(|column| column.name).collect();
    let sql = format!("INSERT INTO {} ({}) FORMAT ArrowStream", table.name(), columns.join(", "));
    // Every setting that its default could change is stated: the answer must mean that the rows are stored, once.
    let mut insert = database
        .insert_formatted_with(sql)
        .with_timeouts(Some(timeout), Some(timeout))
        .with_setting("async_insert", "0")
        .with_setting("insert_deduplicate", "1")
        .with_setting("insert_deduplication_token", token)
        .with_setting("wait_end_of_query", "1");
    let mut body = bytes::Bytes::from(body);
    while !body.is_empty() {
        let chunk = body.split_to(CHUNK.min(body.len()));
        insert.send(chunk).await.map_err(classify)?;
    }
    insert.end().await.map_err(classify)
}

/// Names the journal's range behind the rows, so that the same insert a second time changes nothing.
fn token(write: &Write) -> String {
    let range: Vec<String> = write
        .to
        .iter()
        .map(|(partition, to)| {
            let from = write.from.get(partition).copied().unwrap_or(0);
            format!("{}/{}:{from}-{to}", partition.topic, partition.number)
        })
        .collect();
    EventId::of_parts(&[write.table.name(), &write.journal, &range.join(",")]).to_string()
}

/// The batches as one Arrow stream, views as plain text, which every ClickHouse reads.
fn stream(table: Table, batches: &[RecordBatch]) -> Result<Vec<u8>, arrow::error::ArrowError> {
    let plain = |field: &Field| match field.data_type() {
        DataType::Utf8View => field.clone().with_data_type(DataType::Utf8),
        _ => field.clone(),
    };
    let schema = Schema::new(table.schema().fields().iter().map(|field| plain(field)).collect::<Vec<_>>());
    let schema = std::sync::Arc::new(schema);
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &schema, options)?;
    for batch in batches {
        let columns =
            batch.columns().iter().zip(schema.fields()).map(|(column, field)| cast(column, field.data_type()));
        writer.write(&RecordBatch::try_new(schema.clone(), columns.collect::<Result<_, _>>()?)?)?;
    }
    writer.finish()?;
    writer.into_inner()
}
