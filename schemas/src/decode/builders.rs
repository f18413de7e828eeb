//! The columns of a batch under construction.

use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::error::ArrowError;

use super::labels::Labels;
use super::lists::Lists;
use super::row::Row;
use super::texts::{Blocks, Texts};
use crate::table::{Kind, Table};

/// All columns of a table, sorted by what they are made of; each with its place in the table.
pub struct Columns {
    table: Table,
    /// For each row which columns have a value, as bits of their places.
    set: Vec<u64>,
    blocks: Blocks,
    texts: Vec<(usize, Texts)>,
    labels: Vec<(usize, Labels)>,
    lists: Vec<(usize, Lists)>,
    numbers: Vec<(usize, Vec<i64>)>,
}

impl Columns {
    pub fn new(table: Table, rows: usize) -> Self {
        let (texts, labels, lists, numbers) = Default::default();
        let set = Vec::with_capacity(rows);
        let mut columns = Self { table, set, blocks: Blocks::default(), texts, labels, lists, numbers };
        for (place, column) in table.columns().iter().enumerate() {
            match column.kind {
                Kind::Text | Kind::Json => columns.texts.push((place, Texts::with_capacity(rows))),
                Kind::Label => columns.labels.push((place, Labels::with_capacity(rows))),
                Kind::TextList => columns.lists.push((place, Lists::with_capacity(rows))),
                Kind::Int32 | Kind::Int64 | Kind::Bool | Kind::Time | Kind::Day => {
                    columns.numbers.push((place, Vec::with_capacity(rows)));
                }
            }
        }
        columns
    }

    pub fn rows(&self) -> usize {
        self.set.len()
    }

    /// Appends a row, read from that event.
    pub fn append(&mut self, row: &Row, event: &str) {
        let placed = self.blocks.put(event, &row.own);
        for (place, texts) in &mut self.texts {
            texts.append(row.span(*place), placed);
        }
        for (place, labels) in &mut self.labels {
            let label = row.has(*place).then(|| placed.text(row.span(*place)));
            labels.append(label);
        }
        for (place, lists) in &mut self.lists {
            let elements = row.span(*place);
            lists.append(row.elements.get(elements.start..elements.end).unwrap_or_default(), placed);
        }
        for (place, numbers) in &mut self.numbers {
            numbers.push(row.number(*place));
        }
        self.set.push(row.set());
    }

    /// The batch, leaving the columns empty.
    #[expect(clippy::expect_used, reason = "columns and schema are of one table; no batch comes near 2 GiB of lists")]
    pub fn finish(&mut self) -> RecordBatch {
        self.arrays().expect("columns of the table's schema")
    }

    fn arrays(&mut self) -> Result<RecordBatch, ArrowError> {
        let set = std::mem::take(&mut self.set);
        let everywhere = set.iter().fold(u64::MAX, |all, row| all & row);
        let nulls = |place: usize| {
            let is_set = |row: usize| set[row] >> place & 1 == 1;
            (everywhere >> place & 1 == 0).then(|| NullBuffer::new(BooleanBuffer::collect_bool(set.len(), is_set)))
        };
        let blocks = self.blocks.finish();
        let mut arrays: Vec<(usize, ArrayRef)> = Vec::with_capacity(self.table.columns().len());
        for (place, texts) in &mut self.texts {
            arrays.push((*place, Arc::new(texts.finish(blocks.clone(), nulls(*place)))));
        }
        for (place, labels) in &mut self.labels {
            arrays.push((*place, labels.finish()?));
        }
        for (place, lists) in &mut self.lists {
            arrays.push((*place, Arc::new(lists.finish()?)));
        }
        for (place, numbers) in &mut self.numbers {
            let array = number_array(self.table.columns()[*place].kind, std::mem::take(numbers), nulls(*place))?;
            arrays.push((*place, array));
        }
        arrays.sort_unstable_by_key(|(place, _)| *place);
        RecordBatch::try_new(self.table.schema(), arrays.into_iter().map(|(_, array)| array).collect())
    }
}

/// A column of a kind that is a number. Those that are kept in 32 bits were read as such.
fn number_array(kind: Kind, numbers: Vec<i64>, nulls: Option<NullBuffer>) -> Result<ArrayRef, ArrowError> {
    let short = || numbers.iter().map(|number| *number as i32).collect();
    Ok(match kind {
        Kind::Int32 => Arc::new(Int32Array::try_new(short(), nulls)?),
        Kind::Day => Arc::new(Date32Array::try_new(short(), nulls)?),
        Kind::Time => Arc::new(TimestampMicrosecondArray::try_new(numbers.into(), nulls)?.with_timezone("UTC")),
        _ => Arc::new(Int64Array::try_new(numbers.into(), nulls)?),
    })
}
