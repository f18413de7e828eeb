//! Building a derived table row by row: its own columns by kind, the columns of the write copied from the audit batch.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanBuilder, Int32Builder, Int64Builder, ListBuilder, StringBuilder,
    StringDictionaryBuilder, StringViewBuilder, UInt32Array,
};
use arrow::compute::take;
use arrow::datatypes::{DataType, Int32Type};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use crate::table::{Column, Kind, Table, list_item};

/// The last column that tells of the write; a table's own columns follow it.
const LAST_OF_WRITE: &str = "body";

/// Rows of a derived table in the making.
pub struct Rows {
    table: Table,
    events: Vec<u32>,
    names: StringViewBuilder,
    bodies: StringDictionaryBuilder<Int32Type>,
    own: Vec<Cells>,
}

enum Cells {
    Text(StringViewBuilder),
    Label(StringDictionaryBuilder<Int32Type>),
    TextList(ListBuilder<StringBuilder>),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Bool(BooleanBuilder),
}

impl Rows {
    pub fn new(table: Table) -> Self {
        let is_own = |column: &&Column| column.name != LAST_OF_WRITE;
        let write_columns = table.columns().iter().take_while(is_own).count() + 1;
        Self {
            table,
            events: Vec::new(),
            names: StringViewBuilder::new(),
            bodies: StringDictionaryBuilder::new(),
            own: table.columns()[write_columns..].iter().map(Cells::of).collect(),
        }
    }

    /// Starts a row from the event in that row of the audit batch. Its own cells must follow in the order of columns.
    pub fn start(&mut self, event: usize, name: Option<&str>, body: &str) -> Row<'_> {
        self.events.push(event as u32);
        self.names.append_option(name);
        self.bodies.append_value(body);
        Row { cells: self.own.iter_mut() }
    }

    pub fn finish(mut self, audit: &RecordBatch) -> RecordBatch {
        let schema = self.table.schema();
        if self.events.is_empty() {
            return RecordBatch::new_empty(schema);
        }
        let events = UInt32Array::from(self.events);
        let mut own = self.own.into_iter().map(Cells::finish);
        let mut past_write = false;
        let column = |column: &Column| -> ArrayRef {
            match column.name {
                "name" => Arc::new(self.names.finish()),
                LAST_OF_WRITE => {
                    past_write = true;
                    Arc::new(self.bodies.finish())
                }
                name if !past_write => copy(audit, name, &events),
                name => own.next().unwrap_or_else(|| panic!("no cells for {name}")),
            }
        };
        let columns = self.table.columns().iter().map(column).collect();
        follows_schema(RecordBatch::try_new(schema, columns))
    }
}

/// The cells of one row, filled in the order of columns.
pub struct Row<'a> {
    cells: std::slice::IterMut<'a, Cells>,
}

impl Row<'_> {
    /// A text, label or JSON cell.
    pub fn text(&mut self, value: Option<&str>) -> &mut Self {
        match self.cells.next() {
            Some(Cells::Text(cells)) => cells.append_option(value),
            Some(Cells::Label(cells)) => cells.append_option(value),
            _ => out_of_order(),
        }
        self
    }

    pub fn list<T: AsRef<str>>(&mut self, values: impl IntoIterator<Item = T>) -> &mut Self {
        match self.cells.next() {
            Some(Cells::TextList(cells)) => {
                for value in values {
                    cells.values().append_value(value);
                }
                cells.append(true);
            }
            _ => out_of_order(),
        }
        self
    }

    pub fn boolean(&mut self, value: Option<bool>) -> &mut Self {
        match self.cells.next() {
            Some(Cells::Bool(cells)) => cells.append_option(value),
            _ => out_of_order(),
        }
        self
    }

    /// An integer cell, null if the number is out of its range.
    pub fn integer(&mut self, value: Option<i64>) -> &mut Self {
        match self.cells.next() {
            Some(Cells::Int64(cells)) => cells.append_option(value),
            Some(Cells::Int32(cells)) => cells.append_option(value.and_then(|value| i32::try_from(value).ok())),
            _ => out_of_order(),
        }
        self
    }
}

/// The order is fixed in code, the same for every row: the first row of any test meets this.
fn out_of_order() -> ! {
    panic!("cells of a derived row are filled in the order of the table's columns")
}

impl Cells {
    fn of(column: &Column) -> Self {
        match column.kind {
            Kind::Text | Kind::Json => Cells::Text(StringViewBuilder::new()),
            Kind::Label => Cells::Label(StringDictionaryBuilder::new()),
            Kind::TextList => Cells::TextList(ListBuilder::new(StringBuilder::new()).with_field(list_item())),
            Kind::Int32 => Cells::Int32(Int32Builder::new()),
            Kind::Int64 => Cells::Int64(Int64Builder::new()),
            Kind::Bool => Cells::Bool(BooleanBuilder::new()),
            Kind::Time | Kind::Day => panic!("{}: a derived table takes times from the event", column.name),
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Cells::Text(mut cells) => Arc::new(cells.finish()),
            Cells::Label(mut cells) => Arc::new(cells.finish()),
            Cells::TextList(mut cells) => Arc::new(cells.finish()),
            Cells::Int32(mut cells) => Arc::new(cells.finish()),
            Cells::Int64(mut cells) => Arc::new(cells.finish()),
            Cells::Bool(mut cells) => Arc::new(cells.finish()),
        }
    }
}

/// The audit column's cells of those events.
fn copy(audit: &RecordBatch, name: &str, events: &UInt32Array) -> ArrayRef {
    let Some(column) = audit.column_by_name(name) else { panic!("a batch of the audit table has a column {name}") };
    let taken = follows_schema(take(column, events, None));
    match taken.data_type() {
        // A view keeps its whole buffer alive, and whoever writes the column writes the buffer: all of the bodies.
        DataType::Utf8View => Arc::new(taken.as_string_view().gc()),
        _ => taken,
    }
}

fn follows_schema<T>(result: Result<T, ArrowError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("columns are built from the table's schema: {error}"),
    }
}
