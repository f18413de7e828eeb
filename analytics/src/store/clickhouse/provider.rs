//! A ClickHouse table as a source of DataFusion queries: projection, limit and the filters that mean the same there go out
//! as ClickHouse SQL; Arrow comes back.

use std::fmt;
use std::sync::Arc;

use arrow::buffer::Buffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::reader::StreamDecoder;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use async_trait::async_trait;
use clickhouse::Client;
use clickhouse::query::BytesCursor;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::TryStreamExt;
use vedette_schemas::Table;

use super::filter;

/// The table.
pub struct ClickHouseTable {
    client: Client,
    table: Table,
    schema: SchemaRef,
}

impl ClickHouseTable {
    pub fn new(client: Client, table: Table) -> Self {
        let text = |field: &Field| match field.data_type() {
            DataType::Utf8View | DataType::Dictionary(_, _) => field.clone().with_data_type(DataType::Utf8),
            _ => field.clone(),
        };
        let schema = Schema::new(table.schema().fields().iter().map(|field| text(field)).collect::<Vec<_>>());
        Self { client, table, schema: Arc::new(schema) }
    }

    fn sql(&self, schema: &Schema, filters: &[Expr], limit: Option<usize>) -> String {
        let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let columns = if columns.is_empty() { "1".to_owned() } else { columns.join(", ") };
        // FINAL: rows that replace each other and are not merged yet count once.
        let mut sql = format!("SELECT {columns} FROM {} FINAL", self.table.name());
        let conditions: Vec<String> = filters.iter().filter_map(filter::to_sql).collect();
        if !conditions.is_empty() {
            sql += &format!(" WHERE {}", conditions.join(" AND "));
        }
        if let Some(limit) = limit {
            sql += &format!(" LIMIT {limit}");
        }
        sql
    }
}

/// Takes a length out of the room that is left, if it fits.
fn takes(room: &mut usize, length: usize) -> bool {
    let left = room.checked_sub(length);
    *room = left.unwrap_or(*room);
    left.is_some()
}

impl fmt::Debug for ClickHouseTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClickHouseTable({})", self.table.name())
    }
}

#[async_trait]
impl TableProvider for ClickHouseTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // ClickHouse takes no query of more than 256 KiB.
        let mut room = 128 << 10;
        let support = |filter: &&Expr| match filter::to_sql(filter).filter(|sql| takes(&mut room, sql.len())) {
            Some(_) => TableProviderFilterPushDown::Exact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        _session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(projection) => Arc::new(self.schema.project(projection)?),
            None => self.schema.clone(),
        };
        let sql = self.sql(&schema, filters, limit);
        tracing::debug!(%sql, "scan in ClickHouse");
        let scan = Scan { client: self.client.clone(), schema: schema.clone(), sql };
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(scan)], None, vec![], false, None)?))
    }
}

/// One query under way.
struct Scan {
    client: Client,
    schema: SchemaRef,
    sql: String,
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scan({})", self.sql)
    }
}

impl PartitionStream for Scan {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let schema = self.schema.clone();
        let batches = stream(self.client.clone(), self.sql.clone()).and_then(move |batch| {
            let batch = conform(&batch, &schema);
            async move { batch }
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches))
    }
}

/// All rows of a query.
pub async fn fetch(client: Client, sql: &str) -> Result<Vec<RecordBatch>> {
    stream(client, sql.to_owned()).try_collect().await
}

/// The rows of a query as they come.
pub fn stream(client: Client, sql: String) -> impl futures::Stream<Item = Result<RecordBatch>> + Send {
    let start = Reading { cursor: None, decoder: StreamDecoder::new(), buffer: Buffer::from(Vec::<u8>::new()) };
    futures::stream::try_unfold(start, move |mut reading| {
        let opened = match reading.cursor {
            Some(_) => Ok(()),
            None => client.query_raw(&sql).fetch_bytes("ArrowStream").map(|cursor| reading.cursor = Some(cursor)),
        };
        async move {
            opened.map_err(external)?;
            Ok(reading.next().await?.map(|batch| (batch, reading)))
        }
    })
}

struct Reading {
    cursor: Option<BytesCursor>,
    decoder: StreamDecoder,
    buffer: Buffer,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let Some(cursor) = &mut self.cursor else { return Ok(None) };
        loop {
            if !self.buffer.is_empty()
                && let Some(batch) = self.decoder.decode(&mut self.buffer)?
            {
                return Ok(Some(batch));
            }
            if self.buffer.is_empty() {
                match cursor.next().await.map_err(external)? {
                    Some(bytes) => self.buffer = Buffer::from_vec(bytes.to_vec()),
                    None => break,
                }
            }
        }
        self.decoder.finish()?;
        Ok(None)
    }
}

fn external(error: clickhouse::error::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// A batch in the schema that was promised.
fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| cast(column, field.data_type()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns.collect::<Result<_, _>>()?, &options)?)
}
