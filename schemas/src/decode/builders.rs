//! The columns of a batch under construction.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Date32Builder, Int32Builder, Int64Builder, ListBuilder, RecordBatch, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::error::ArrowError;

use super::labels::Labels;
use super::row::{Row, Value};
use super::texts::Texts;
use crate::table::{Kind, Table, list_item};

/// One column.
enum Builder {
    Text(Texts),
    Label(Labels),
    TextList(ListBuilder<StringBuilder>),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Bool(BooleanBuilder),
    Time(TimestampMicrosecondBuilder),
    Day(Date32Builder),
}

impl Builder {
    fn new(kind: Kind, rows: usize) -> Self {
        match kind {
            Kind::Text | Kind::Json => Self::Text(Texts::with_capacity(rows)),
            Kind::Label => Self::Label(Labels::with_capacity(rows)),
            Kind::TextList => Self::TextList(ListBuilder::new(StringBuilder::new()).with_field(list_item())),
            Kind::Int32 => Self::Int32(Int32Builder::with_capacity(rows)),
            Kind::Int64 => Self::Int64(Int64Builder::with_capacity(rows)),
            Kind::Bool => Self::Bool(BooleanBuilder::with_capacity(rows)),
            Kind::Time => Self::Time(TimestampMicrosecondBuilder::with_capacity(rows).with_timezone("UTC")),
            Kind::Day => Self::Day(Date32Builder::with_capacity(rows)),
        }
    }

    #[inline(always)]
    fn append(&mut self, value: Value, row: &Row, event: &str) {
        let text = if let Value::Text(text) = value { Some(row.read(text, event)) } else { None };
        let int = if let Value::Int(int) = value { Some(int) } else { None };
        match self {
            Self::Text(builder) => builder.append(text),
            Self::Label(builder) => builder.append(text),
            Self::TextList(builder) => {
                if let Value::List(start, end) = value {
                    let values = builder.values();
                    row.elements[start..end].iter().for_each(|text| values.append_value(row.read(*text, event)));
                }
                builder.append(true);
            }
            Self::Int32(builder) => builder.append_option(int.and_then(|int| i32::try_from(int).ok())),
            Self::Int64(builder) => builder.append_option(int),
            Self::Bool(builder) => builder.append_option(int.map(|int| int != 0)),
            Self::Time(builder) => builder.append_option(int),
            Self::Day(builder) => builder.append_option(int.and_then(|int| i32::try_from(int).ok())),
        }
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Text(builder) => Arc::new(builder.finish()),
            Self::Label(builder) => builder.finish()?,
            Self::TextList(builder) => Arc::new(builder.finish()),
            Self::Int32(builder) => Arc::new(builder.finish()),
            Self::Int64(builder) => Arc::new(builder.finish()),
            Self::Bool(builder) => Arc::new(builder.finish()),
            Self::Time(builder) => Arc::new(builder.finish()),
            Self::Day(builder) => Arc::new(builder.finish()),
        })
    }
}

/// All columns of a table.
pub struct Columns {
    table: Table,
    builders: Vec<Builder>,
    rows: usize,
}

impl Columns {
    pub fn new(table: Table, rows: usize) -> Self {
        let builders = table.columns().iter().map(|column| Builder::new(column.kind, rows)).collect();
        Self { table, builders, rows: 0 }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Appends a row, read from that event, whose values are in the table's order.
    pub fn append(&mut self, row: &Row, event: &str) {
        for (builder, value) in self.builders.iter_mut().zip(&row.values) {
            builder.append(*value, row, event);
        }
        self.rows += 1;
    }

    /// The batch, leaving the columns empty.
    #[expect(clippy::expect_used, reason = "columns and schema come from one table; no event can make them differ")]
    pub fn finish(&mut self) -> RecordBatch {
        self.rows = 0;
        let arrays: Result<Vec<_>, _> = self.builders.iter_mut().map(Builder::finish).collect();
        let batch = arrays.and_then(|arrays| RecordBatch::try_new(self.table.schema(), arrays));
        batch.expect("columns of the table's schema")
    }
}
