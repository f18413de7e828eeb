//! The event back from its row.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field as ArrowField, Int32Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use serde_json::{Map, Value};

use crate::decode::layout::{Field, Layout, Shape};
use crate::decode::rest::WHOLE;
use crate::decode::{AUDIT_LAYOUT, FALCO_LAYOUT, time};
use crate::table::Kind;

/// Why a row does not give its event back.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error("no row {row} in a batch of {rows}")]
    NoRow { row: usize, rows: usize },
    #[error("no column {0}")]
    NoColumn(&'static str),
    #[error("column {column} has the wrong type: {source}")]
    Type { column: &'static str, source: ArrowError },
    /// Also text that is JSON but no value of serde_json's: nested beyond 127, half a surrogate pair, a number beyond f64.
    #[error("column {column} is not readable JSON: {source}")]
    Json { column: &'static str, source: serde_json::Error },
    #[error("column {0} holds a time outside the years 1 to 9999")]
    Time(&'static str),
}

/// The audit event of a row, equal as a JSON value to the one received.
///
/// Text columns may come as any of Arrow's text types, as stores give them back.
pub fn rebuild_audit(batch: &RecordBatch, row: usize) -> Result<Value, RebuildError> {
    rebuild(&AUDIT_LAYOUT, batch, row)
}

/// The Falco event of a row, equal as a JSON value to the one received.
pub fn rebuild_falco(batch: &RecordBatch, row: usize) -> Result<Value, RebuildError> {
    rebuild(&FALCO_LAYOUT, batch, row)
}

fn rebuild(layout: &Layout, batch: &RecordBatch, row: usize) -> Result<Value, RebuildError> {
    if row >= batch.num_rows() {
        return Err(RebuildError::NoRow { row, rows: batch.num_rows() });
    }
    let source = Source { layout, batch, row };
    let rest = source.json(layout.rest)?;
    if let Some(Value::Object(mut members)) = rest {
        if let Some(whole) = members.remove(WHOLE) {
            return Ok(whole);
        }
        let mut event = Value::Object(source.object(layout.fields)?);
        merge(&mut event, Value::Object(members));
        return Ok(event);
    }
    Ok(Value::Object(source.object(layout.fields)?))
}

/// Lays `over` upon `base`: objects member by member, anything else in its place.
fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                match base.get_mut(&key) {
                    Some(member) => merge(member, value),
                    None => {
                        base.insert(key, value);
                    }
                }
            }
        }
        (base, over) => *base = over,
    }
}

/// One row of a batch.
struct Source<'a> {
    layout: &'a Layout,
    batch: &'a RecordBatch,
    row: usize,
}

impl Source<'_> {
    fn object(&self, fields: &'static [Field]) -> Result<Map<String, Value>, RebuildError> {
        let mut members = Map::new();
        for field in fields {
            if let Some(value) = self.field(field)? {
                members.insert(field.key.to_owned(), value);
            }
        }
        Ok(members)
    }

    fn field(&self, field: &Field) -> Result<Option<Value>, RebuildError> {
        match field.shape {
            Shape::Text => Ok(self.text(field.column)?.map(Value::String)),
            Shape::Object | Shape::Any | Shape::Copied(_) => self.json(field.column),
            Shape::TextList => self.list(field.column),
            Shape::Time => self.time(field.column),
            Shape::Int32 => {
                let cell = self.cell(field.column, &DataType::Int32)?;
                Ok(cell.map(|cell| Value::from(cell.as_primitive::<Int32Type>().value(0))))
            }
            Shape::Nested(fields) => {
                let members = self.object(fields)?;
                Ok((!members.is_empty()).then_some(Value::Object(members)))
            }
            Shape::Int64 | Shape::Rest | Shape::Moment | Shape::Nanoseconds => Ok(None),
        }
    }

    fn text(&self, column: usize) -> Result<Option<String>, RebuildError> {
        let cell = self.cell(column, &DataType::Utf8)?;
        Ok(cell.map(|cell| cell.as_string::<i32>().value(0).to_owned()))
    }

    fn json(&self, column: usize) -> Result<Option<Value>, RebuildError> {
        let text = self.text(column)?;
        let parsed = text.map(|text| serde_json::from_str(&text)).transpose();
        parsed.map_err(|source| RebuildError::Json { column: self.name(column), source })
    }

    /// An empty list stands for none: one that was there empty is in `rest`.
    fn list(&self, column: usize) -> Result<Option<Value>, RebuildError> {
        let plain = DataType::List(ArrowField::new("item", DataType::Utf8, true).into());
        let Some(cell) = self.cell(column, &plain)? else { return Ok(None) };
        let elements = cell.as_list::<i32>().value(0);
        let elements: Vec<Value> = elements.as_string::<i32>().iter().map(Value::from).collect();
        Ok((!elements.is_empty()).then_some(Value::Array(elements)))
    }

    fn time(&self, column: usize) -> Result<Option<Value>, RebuildError> {
        let Some(cell) = self.cell(column, &Kind::Time.arrow())? else { return Ok(None) };
        let micros = cell.as_primitive::<TimestampMicrosecondType>().value(0);
        let text = time::format(micros).ok_or(RebuildError::Time(self.name(column)))?;
        Ok(Some(Value::String(String::from_utf8_lossy(&text).into_owned())))
    }

    /// The row's value alone, as an array of one of that type; `None` if it is null.
    fn cell(&self, column: usize, data_type: &DataType) -> Result<Option<ArrayRef>, RebuildError> {
        let name = self.name(column);
        let array = self.batch.column_by_name(name).ok_or(RebuildError::NoColumn(name))?;
        let cell = array.slice(self.row, 1);
        let cell = cast(&cell, data_type).map_err(|source| RebuildError::Type { column: name, source })?;
        Ok(cell.is_valid(0).then_some(cell))
    }

    fn name(&self, column: usize) -> &'static str {
        self.layout.table.columns().get(column).map_or("?", |column| column.name)
    }
}
