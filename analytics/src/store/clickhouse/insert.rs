//! Rows in: one Arrow stream an insert, with a token that names the journal's range.

use std::collections::HashSet;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int32Type, Int64Type, Schema};
use arrow::error::ArrowError;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow::record_batch::RecordBatch;
use clickhouse::{Client, Compression};
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
    // The stream itself is compressed.
    let mut insert = database
        .clone()
        .with_compression(Compression::None)
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
    // A topic that was made anew has the same ranges again, and other rows.
    let first_batch = write.batches.iter().find(|batch| batch.num_rows() > 0);
    let first = first_batch.and_then(|batch| batch.column(0).as_string_view_opt()).map_or("", |ids| ids.value(0));
    // A finding that is told again has the same id, and a higher count.
    let counts = first_batch.and_then(|batch| batch.column_by_name("count")?.as_primitive_opt::<Int64Type>());
    let count = counts.map_or(0, |counts| counts.value(0)).to_string();
    EventId::of_parts(&[write.table.name(), &write.journal, &range.join(","), first, &count]).to_string()
}

/// The batches as one Arrow stream, views as plain text, which every ClickHouse reads.
fn stream(table: Table, batches: &[RecordBatch]) -> Result<Vec<u8>, ArrowError> {
    let plain = |field: &Field| match field.data_type() {
        DataType::Utf8View => field.clone().with_data_type(DataType::Utf8),
        _ => field.clone(),
    };
    let schema = Schema::new(table.schema().fields().iter().map(|field| plain(field)).collect::<Vec<_>>());
    let schema = std::sync::Arc::new(schema);
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &schema, options)?;
    for batch in batches {
        let plain = |(column, field): (&ArrayRef, &FieldRef)| distinct(cast(column, field.data_type())?);
        let columns = batch.columns().iter().zip(schema.fields()).map(plain);
        writer.write(&RecordBatch::try_new(schema.clone(), columns.collect::<Result<_, _>>()?)?)?;
    }
    writer.finish()?;
    writer.into_inner()
}

/// The column with each value of its dictionary there once. Decoding may enter a label twice, and ClickHouse refuses that.
fn distinct(column: ArrayRef) -> Result<ArrayRef, ArrowError> {
    let Some(labels) = column.as_dictionary_opt::<Int32Type>() else { return Ok(column) };
    let Some(values) = labels.values().as_string_opt::<i32>() else { return Ok(column) };
    let mut met = HashSet::with_capacity(values.len());
    if values.iter().all(|value| met.insert(value)) {
        return Ok(column);
    }
    cast(&cast(&column, values.data_type())?, column.data_type())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{DictionaryArray, Int32Array, StringArray};

    use super::*;

    #[test]
    fn labels_are_there_once_and_mean_the_same() {
        let labels = |keys: Vec<Option<i32>>, values: Vec<&str>| -> ArrayRef {
            let values = Arc::new(StringArray::from(values));
            Arc::new(DictionaryArray::<Int32Type>::try_new(Int32Array::from(keys), values).unwrap())
        };
        let twice = labels(vec![Some(0), Some(1), None, Some(2)], vec!["get", "list", "get"]);
        let once = distinct(twice.clone()).unwrap();
        assert_eq!(once.data_type(), twice.data_type());
        assert_eq!(once.as_dictionary::<Int32Type>().values().len(), 2);
        assert_eq!(&cast(&once, &DataType::Utf8).unwrap(), &cast(&twice, &DataType::Utf8).unwrap());

        let fine = labels(vec![Some(1), None], vec!["get", "list"]);
        assert!(Arc::ptr_eq(&distinct(fine.clone()).unwrap(), &fine));
    }
}
