//! Rows as a table, JSON, CSV or Parquet.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow::util::pretty::pretty_format_batches_with_schema;
use futures::{Stream, StreamExt};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use vedette_schemas::{Table, rebuild_audit, rebuild_falco};

use super::Format;
use crate::commands::printable;

/// Where rows go and how.
#[derive(Clone, Debug)]
pub struct Output {
    pub format: Format,
    pub file: Option<PathBuf>,
    /// Rows that a table shows at most.
    pub rows: usize,
}

impl Output {
    /// Writes rows as they come; a table is held whole, up to its limit.
    pub async fn write<E>(
        &self,
        schema: SchemaRef,
        mut rows: impl Stream<Item = Result<RecordBatch, E>> + Unpin,
    ) -> anyhow::Result<()>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        // The rows know best: a plan's schema can differ from theirs in what may be null.
        let mut next = rows.next().await.transpose()?;
        let schema = next.as_ref().map_or(schema, RecordBatch::schema);
        let mut sink = Sink::open(self, schema)?;
        while let Some(batch) = next {
            match sink.take(&batch) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if reader_is_gone(&error) => return Ok(()),
                Err(error) => return Err(error.context("can't write the rows")),
            }
            next = rows.next().await.transpose()?;
        }
        match sink.finish() {
            Err(error) if reader_is_gone(&error) => Ok(()),
            other => other.context("can't write the rows"),
        }
    }

    fn destination(&self) -> anyhow::Result<Box<dyn Write + Send>> {
        Ok(match &self.file {
            Some(path) => {
                let file = File::create(path).with_context(|| format!("can't write {}", path.display()))?;
                Box::new(BufWriter::new(file))
            }
            None => Box::new(BufWriter::new(std::io::stdout())),
        })
    }
}

/// `vedette query … | head` ends when `head` does, and that is no failure.
fn reader_is_gone(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        let arrow = match cause.downcast_ref::<ArrowError>() {
            Some(ArrowError::IoError(_, io)) => Some(io),
            _ => None,
        };
        io.or(arrow).is_some_and(|io| io.kind() == ErrorKind::BrokenPipe)
    })
}

type Destination = Box<dyn Write + Send>;

enum Sink {
    Table { out: Destination, schema: SchemaRef, batches: Vec<RecordBatch>, room: usize, more: bool },
    Json(Box<arrow::json::LineDelimitedWriter<Destination>>),
    Csv { writer: Box<arrow::csv::Writer<Destination>>, schema: SchemaRef },
    Parquet(Box<ArrowWriter<Destination>>),
    Events(Destination),
}

impl Sink {
    fn open(output: &Output, schema: SchemaRef) -> anyhow::Result<Self> {
        let mut out = output.destination()?;
        Ok(match output.format {
            Format::Table => Sink::Table { out, schema, batches: Vec::new(), room: output.rows, more: false },
            Format::Json => Sink::Json(Box::new(arrow::json::LineDelimitedWriter::new(out))),
            Format::Csv => {
                // Written here, so that an answer without rows has its header too.
                let names: Vec<_> = schema.fields().iter().map(|field| quoted(field.name())).collect();
                writeln!(out, "{}", names.join(","))?;
                let writer = Box::new(arrow::csv::WriterBuilder::new().with_header(false).build(out));
                Sink::Csv { writer, schema: Arc::new(flat(&schema)) }
            }
            Format::Parquet => {
                let zstd = Compression::ZSTD(ZstdLevel::default());
                let properties = WriterProperties::builder().set_compression(zstd).build();
                Sink::Parquet(Box::new(ArrowWriter::try_new(out, schema, Some(properties))?))
            }
            Format::Events => Sink::Events(out),
        })
    }

    /// Takes a batch; false when no more are wanted.
    fn take(&mut self, batch: &RecordBatch) -> anyhow::Result<bool> {
        match self {
            Sink::Table { batches, room, more, .. } => {
                *more = batch.num_rows() > *room;
                let shown = batch.num_rows().min(*room);
                batches.push(batch.slice(0, shown));
                *room -= shown;
                return Ok(!*more);
            }
            Sink::Json(writer) => writer.write(batch)?,
            Sink::Csv { writer, schema } => writer.write(&flattened(batch, schema)?)?,
            Sink::Parquet(writer) => writer.write(batch)?,
            Sink::Events(out) => {
                for row in 0..batch.num_rows() {
                    serde_json::to_writer(&mut *out, &event(batch, row)?).map_err(std::io::Error::from)?;
                    out.write_all(b"\n")?;
                }
            }
        }
        Ok(true)
    }

    fn finish(self) -> anyhow::Result<()> {
        match self {
            Sink::Table { mut out, schema, batches, more, .. } => {
                let count: usize = batches.iter().map(RecordBatch::num_rows).sum();
                let table = pretty_format_batches_with_schema(schema, &batches)?.to_string();
                let rest = if more { "; there are more, --rows shows them" } else { "" };
                let noun = if count == 1 { "row" } else { "rows" };
                writeln!(out, "{}\n{count} {noun}{rest}", printable(&table))?;
                out.flush()?;
            }
            Sink::Json(mut writer) => {
                writer.finish()?;
                writer.into_inner().flush()?;
            }
            Sink::Csv { writer, .. } => writer.into_inner().flush()?,
            Sink::Parquet(writer) => writer.into_inner()?.flush()?,
            Sink::Events(mut out) => out.flush()?,
        }
        Ok(())
    }
}

/// The event of a row of `audit` or of `falco`.
fn event(batch: &RecordBatch, row: usize) -> anyhow::Result<serde_json::Value> {
    let whole = |table: Table| table.columns().iter().all(|column| batch.column_by_name(column.name).is_some());
    if whole(Table::Audit) {
        return Ok(rebuild_audit(batch, row)?);
    }
    if whole(Table::Falco) {
        return Ok(rebuild_falco(batch, row)?);
    }
    bail!("--format events needs every column of audit or of falco: SELECT * FROM audit WHERE …")
}

fn quoted(name: &str) -> String {
    let plain = !name.contains([',', '"', '\n', '\r']);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// The schema with text in the place of lists, maps and structs, which CSV has no room for.
fn flat(schema: &Schema) -> Schema {
    let fields = schema.fields().iter().map(|field| match field.data_type().is_nested() {
        true => Arc::new(Field::new(field.name(), DataType::Utf8, true)),
        false => Arc::clone(field),
    });
    Schema::new(fields.collect::<Vec<_>>())
}

fn flattened(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns: Result<Vec<ArrayRef>, ArrowError> = batch.columns().iter().map(as_text_if_nested).collect();
    RecordBatch::try_new(Arc::clone(schema), columns?)
}

fn as_text_if_nested(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if !column.data_type().is_nested() {
        return Ok(Arc::clone(column));
    }
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(column, &options)?;
    let text = (0..column.len()).map(|row| column.is_valid(row).then(|| formatter.value(row).to_string()));
    Ok(Arc::new(text.collect::<StringArray>()))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, ListArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    fn batch() -> RecordBatch {
        let names: ArrayRef = Arc::new(StringArray::from(vec![Some("a\u{1b}[31m"), None, Some("c, \"d\"")]));
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let lists = [Some(vec![Some(1), Some(2)]), None, Some(vec![])];
        let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists));
        RecordBatch::try_from_iter([("name", names), ("number", numbers), ("list", lists)]).unwrap()
    }

    async fn written(format: Format, rows: usize, batches: Vec<RecordBatch>) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let output = Output { format, file: Some(path.clone()), rows };
        let stream = futures::stream::iter(batches.into_iter().map(Ok::<_, ArrowError>));
        output.write(batch().schema(), stream).await.unwrap();
        std::fs::read(path).unwrap()
    }

    async fn text(format: Format, rows: usize, batches: Vec<RecordBatch>) -> String {
        String::from_utf8(written(format, rows, batches).await).unwrap()
    }

    #[tokio::test]
    async fn tables_are_bounded_and_harmless() {
        let table = text(Format::Table, 10, vec![batch()]).await;
        assert!(table.contains("a\\u{1b}[31m") && !table.contains('\u{1b}'), "{table}");
        assert!(table.ends_with("3 rows\n"), "{table}");
        let cut = text(Format::Table, 4, vec![batch(), batch()]).await;
        assert!(cut.contains("4 rows; there are more"), "{cut}");
        let empty = text(Format::Table, 4, vec![]).await;
        assert!(empty.contains("number") && empty.contains("0 rows"), "{empty}");
    }

    #[tokio::test]
    async fn json_is_an_object_a_line() {
        let json = text(Format::Json, 1, vec![batch(), batch()]).await;
        let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 6);
        assert_eq!(lines[0]["list"], serde_json::json!([1, 2]));
    }

    #[tokio::test]
    async fn csv_has_a_header_and_lists_as_text() {
        let csv = text(Format::Csv, 1, vec![batch()]).await;
        assert_eq!(csv, "name,number,list\na\u{1b}[31m,1,\"[1, 2]\"\n,2,\n\"c, \"\"d\"\"\",3,[]\n");
        assert_eq!(text(Format::Csv, 1, vec![]).await, "name,number,list\n");
    }

    #[tokio::test]
    async fn events_come_out_as_they_came_in() {
        let sent = r#"{"kind":"Event","auditID":"1","verb":"get","user":{"username":"eve"},"odd":[1,{"a":null}]}"#;
        let mut decoder = vedette_schemas::AuditDecoder::new();
        decoder.push("prod", 0, sent.as_bytes()).unwrap();
        let json = text(Format::Events, 1, vec![decoder.finish()]).await;
        let [found, sent] = [json.trim(), sent].map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap());
        assert_eq!(found, sent);
        assert!(event(&batch(), 0).unwrap_err().to_string().contains("SELECT *"));
    }

    #[tokio::test]
    async fn parquet_reads_back() {
        let bytes = bytes::Bytes::from(written(Format::Parquet, 1, vec![batch(), batch()]).await);
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(bytes, 100).unwrap();
        let read: Vec<_> = reader.map(Result::unwrap).collect();
        assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), 6);
        assert_eq!(read[0].slice(0, 3), batch());
    }
}
