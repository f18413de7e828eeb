//! The columns of a batch under construction.

use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::error::ArrowError;
use bytes::Bytes;

use super::labels::Labels;
use super::lists::Lists;
use super::row::Row;
use super::texts::{Blocks, Texts};
use crate::table::{Column, Kind, Table};

/// Rows that columns make room for at a time. What a row has no value for, it never touches.
const ROOM: usize = 64;

/// All columns of a table, sorted by what they are made of.
pub struct Columns {
    table: Table,
    /// For each row which columns have a value, as bits of their places.
    set: Vec<u64>,
    blocks: Blocks,
    texts: Group<Texts>,
    labels: Group<Labels>,
    lists: Vec<(usize, Lists)>,
    numbers: Group<Vec<i64>>,
}

/// Columns of a kind, by their places in the table.
struct Group<C> {
    places: u64,
    columns: Vec<Option<C>>,
}

impl<C> Group<C> {
    fn new(table: Table, new: impl Fn() -> C, takes: impl Fn(Kind) -> bool) -> Self {
        let columns = table.columns().iter().map(|column| takes(column.kind).then(&new));
        let columns: Vec<Option<C>> = columns.collect();
        let places = columns.iter().rev().fold(0, |places, column| places << 1 | u64::from(column.is_some()));
        Self { places, columns }
    }

    fn each(&mut self) -> impl Iterator<Item = (usize, &mut C)> {
        self.columns.iter_mut().enumerate().filter_map(|(place, column)| Some((place, column.as_mut()?)))
    }

    /// Those among the places in `set`.
    #[inline(always)]
    fn among(&mut self, set: u64, mut each: impl FnMut(usize, &mut C)) {
        let mut left = self.places & set;
        while left != 0 {
            let place = left.trailing_zeros() as usize;
            left &= left - 1;
            if let Some(Some(column)) = self.columns.get_mut(place) {
                each(place, column);
            }
        }
    }
}

impl Columns {
    pub fn new(table: Table, rows: usize) -> Self {
        let rows = rows.next_multiple_of(ROOM);
        let column = |(place, column): (usize, &Column)| {
            (column.kind == Kind::TextList).then(|| (place, Lists::with_capacity(rows)))
        };
        let is_number = |kind| matches!(kind, Kind::Int32 | Kind::Int64 | Kind::Bool | Kind::Time | Kind::Day);
        Self {
            table,
            set: Vec::with_capacity(rows),
            blocks: Blocks::default(),
            texts: Group::new(table, || Texts::with_capacity(rows), |kind| matches!(kind, Kind::Text | Kind::Json)),
            labels: Group::new(table, || Labels::with_capacity(rows), |kind| kind == Kind::Label),
            lists: table.columns().iter().enumerate().filter_map(column).collect(),
            numbers: Group::new(table, || Vec::with_capacity(rows), is_number),
        }
    }

    pub fn rows(&self) -> usize {
        self.set.len()
    }

    /// Appends a row, read from that event; `text` is what the event may be a part of.
    pub fn append(&mut self, row: &Row, event: &str, text: Option<&Bytes>) {
        let (number, set) = (self.set.len(), row.set());
        if number.is_multiple_of(ROOM) {
            self.make_room(number + ROOM);
        }
        let placed = self.blocks.put(event, text, &row.own);
        self.texts.among(set, |place, texts| texts.put(number, row.span(place), placed));
        self.labels.among(set, |place, labels| labels.put(number, placed.text(row.span(place))));
        self.numbers.among(set, |place, numbers| {
            if let Some(cell) = numbers.get_mut(number) {
                *cell = row.number(place);
            }
        });
        for (place, lists) in &mut self.lists {
            let elements = row.span(*place);
            lists.append(row.elements.get(elements.start..elements.end).unwrap_or_default(), placed);
        }
        self.set.push(set);
    }

    fn make_room(&mut self, rows: usize) {
        self.texts.each().for_each(|(_, texts)| texts.resize(rows));
        self.labels.each().for_each(|(_, labels)| labels.resize(rows));
        self.numbers.each().for_each(|(_, numbers)| numbers.resize(rows, 0));
    }

    /// The batch, leaving the columns empty.
    #[expect(clippy::expect_used, reason = "columns and schema are of one table; no batch comes near 2 GiB of lists")]
    pub fn finish(&mut self) -> RecordBatch {
        self.arrays().expect("columns of the table's schema")
    }

    fn arrays(&mut self) -> Result<RecordBatch, ArrowError> {
        let set = std::mem::take(&mut self.set);
        self.make_room(set.len());
        let everywhere = set.iter().fold(u64::MAX, |all, row| all & row);
        let nulls = |place: usize| {
            let is_set = |row: usize| set[row] >> place & 1 == 1;
            (everywhere >> place & 1 == 0).then(|| NullBuffer::new(BooleanBuffer::collect_bool(set.len(), is_set)))
        };
        let blocks = self.blocks.finish();
        let mut arrays: Vec<(usize, ArrayRef)> = Vec::with_capacity(self.table.columns().len());
        for (place, texts) in self.texts.each() {
            arrays.push((place, Arc::new(texts.finish(blocks.clone(), nulls(place)))));
        }
        for (place, labels) in self.labels.each() {
            arrays.push((place, labels.finish()?));
        }
        for (place, lists) in &mut self.lists {
            arrays.push((*place, Arc::new(lists.finish()?)));
        }
        for (place, numbers) in self.numbers.each() {
            let array = number_array(self.table.columns()[place].kind, std::mem::take(numbers), nulls(place))?;
            arrays.push((place, array));
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
