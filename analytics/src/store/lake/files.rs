//! Batches to Parquet files, straight through Delta's own writer: sorted, compressed, and small in memory.

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::{SortColumn, cast, concat, interleave_record_batch, lexsort_to_indices};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use deltalake::kernel::Add;
use deltalake::writer::{DeltaWriter, RecordBatchWriter};
use deltalake::{DeltaTable, DeltaTableError};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use std::sync::Arc;
use vedette_schemas::{Kind, Table};

/// Rows are cast and encoded this many at a time, so that only as many exist twice.
const SLICE_ROWS: usize = 4096;

/// The order of rows within a file: queries name a cluster and a time.
pub(super) const ORDER: [&str; 2] = ["cluster", "event_time"];

/// Who reads a file holds a row group of it in memory, compressed, and so does who writes one. Housekeeping reads several
/// files at a time.
const ROW_GROUP_ROWS: usize = 128 << 10;
const ROW_GROUP_BYTES: usize = 8 << 20;

/// Level of zstd for rows on their way in, which have to keep up with the stream. Merging compresses them better.
pub(super) const FRESH_ZSTD_LEVEL: i32 = 1;

/// How a table's files are encoded. Dictionaries and statistics are left out where every value differs.
pub(super) fn properties(table: Table, zstd_level: i32) -> WriterProperties {
    let level = ZstdLevel::try_new(zstd_level).unwrap_or_default();
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES));
    for column in table.columns() {
        let path = ColumnPath::from(column.name);
        if column.kind == Kind::Json {
            builder = builder.set_column_statistics_enabled(path.clone(), EnabledStatistics::None);
        }
        if column.kind == Kind::Json || column.name == table.id() || column.name == "audit_id" {
            builder = builder.set_column_dictionary_enabled(path, false);
        }
    }
    builder.build()
}

/// Files being written, not yet in the table.
pub(super) struct Files {
    writer: RecordBatchWriter,
    schema: SchemaRef,
}

impl Files {
    pub(super) fn new(delta: &DeltaTable, properties: WriterProperties) -> Result<Self, DeltaTableError> {
        let writer = RecordBatchWriter::for_table(delta)?.with_writer_properties(properties);
        Ok(Self { schema: writer.arrow_schema(), writer })
    }

    /// A file ends, and another begins, once it is about so large.
    pub(super) fn with_target(mut self, bytes: u64) -> Self {
        self.writer = self.writer.with_target_file_size(bytes);
        self
    }

    /// Appends rows in the order they come.
    pub(super) async fn push(&mut self, batch: &RecordBatch) -> Result<(), DeltaTableError> {
        self.writer.write(conform(batch, &self.schema)?).await
    }

    pub(super) async fn finish(mut self) -> Result<Vec<Add>, DeltaTableError> {
        self.writer.flush().await
    }
}

/// Writes batches of one table, sorted by day and `ORDER`, as one file a day unless the target size is exceeded.
pub(super) async fn write_sorted(files: Files, batches: &[RecordBatch]) -> Result<Vec<Add>, DeltaTableError> {
    let mut files = files;
    let batches: Vec<RecordBatch> =
        batches.iter().filter(|batch| batch.num_rows() > 0).map(plain).collect::<Result<_, _>>()?;
    let order = sorted_rows(&batches)?;
    let batches: Vec<&RecordBatch> = batches.iter().collect();
    for rows in order.chunks(SLICE_ROWS) {
        files.push(&interleave_record_batch(&batches, rows)?).await?;
    }
    files.finish().await
}

/// Dictionaries as views into their values: cheap to make, and cheap to gather rows from across batches.
fn plain(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let mut fields: Vec<Arc<Field>> = Vec::with_capacity(batch.num_columns());
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if matches!(column.data_type(), DataType::Dictionary(_, _)) {
            fields.push(Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View)));
            columns.push(cast(column, &DataType::Utf8View)?);
        } else {
            fields.push(field.clone());
            columns.push(column.clone());
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// Every row of the batches as (batch, row), in the order that files have.
fn sorted_rows(batches: &[RecordBatch]) -> Result<Vec<(usize, usize)>, ArrowError> {
    let mut keys = Vec::new();
    for name in [super::migrate::PARTITION].into_iter().chain(ORDER) {
        let parts: Result<Vec<&dyn Array>, ArrowError> = batches.iter().map(|batch| named(batch, name)).collect();
        keys.push(SortColumn { values: concat(&parts?)?, options: None });
    }
    let places: Vec<(usize, usize)> =
        batches.iter().enumerate().flat_map(|(at, batch)| (0..batch.num_rows()).map(move |row| (at, row))).collect();
    let sorted = lexsort_to_indices(&keys, None)?;
    Ok(sorted.values().iter().map(|place| places[*place as usize]).collect())
}

fn named<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a dyn Array, ArrowError> {
    let column = batch.column_by_name(name);
    column.map(|column| column.as_ref()).ok_or_else(|| ArrowError::SchemaError(format!("batch lacks column {name}")))
}

/// The batch in the table's own types. A column that the batch lacks is null, if it may be.
fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        columns.push(match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => column.clone(),
            Some(column) => cast(column, field.data_type())?,
            None => arrow::array::new_null_array(field.data_type(), batch.num_rows()),
        });
    }
    RecordBatch::try_new(schema.clone(), columns)
}
