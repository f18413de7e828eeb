//! Rows kept for later, by key: compact, counted in bytes, and let go by time.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use arrow::array::{Array, ArrayRef, AsArray, StringViewArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::hash_utils::{RandomState, create_hashes};
use datafusion::common::{Result, exec_datafusion_err, exec_err};

/// Rows a chunk: what is let go is let go a chunk at a time.
const CHUNK: usize = 2_048;

/// Keys are hashes already.
#[derive(Default)]
pub struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// A map by hash.
pub type ByHash<T> = HashMap<u64, T, BuildHasherDefault<Plain>>;

/// Where a row is kept, and its time in microseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub time: i64,
    chunk: u32,
    row: u32,
}

#[cfg(test)]
impl Place {
    /// A place that no row is at.
    pub fn at(time: i64) -> Self {
        Self { time, chunk: 0, row: 0 }
    }
}

struct Chunk {
    rows: Rows,
    keys: Vec<u64>,
    latest: i64,
}

/// Rows of one schema.
pub struct Kept {
    schema: SchemaRef,
    converter: RowConverter,
    chunks: VecDeque<Chunk>,
    /// The number of the first chunk.
    first: u32,
    places: ByHash<Vec<Place>>,
    bytes: usize,
}

impl Kept {
    pub fn new(schema: SchemaRef) -> Result<Self> {
        let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let (chunks, places) = Default::default();
        Ok(Self { converter: RowConverter::new(fields)?, schema, chunks, first: 0, places, bytes: 0 })
    }

    /// Keeps rows under their keys.
    pub fn push(&mut self, rows: &RecordBatch, keys: &[u64], times: &[i64]) -> Result<()> {
        if self.chunks.back().is_none_or(|chunk| chunk.keys.len() >= CHUNK) {
            let rows = self.converter.empty_rows(CHUNK.min(rows.num_rows().max(64)), 0);
            self.chunks.push_back(Chunk { rows, keys: Vec::new(), latest: i64::MIN });
        }
        let number = self.first + (self.chunks.len() - 1) as u32;
        let Some(chunk) = self.chunks.back_mut() else { return Ok(()) };
        let before = chunk.rows.size() + chunk.keys.capacity() * 8;
        self.converter.append(&mut chunk.rows, rows.columns())?;
        for (key, time) in keys.iter().zip(times) {
            let place = Place { time: *time, chunk: number, row: chunk.keys.len() as u32 };
            chunk.keys.push(*key);
            chunk.latest = chunk.latest.max(*time);
            self.places.entry(*key).or_default().push(place);
        }
        self.bytes += (chunk.rows.size() + chunk.keys.capacity() * 8).saturating_sub(before);
        Ok(())
    }

    /// The places of a key's rows, in the order in which they came.
    pub fn places(&self, key: u64) -> &[Place] {
        self.places.get(&key).map_or(&[], Vec::as_slice)
    }

    /// The rows at these places.
    pub fn rows(&self, places: &[Place]) -> Result<RecordBatch> {
        let rows = places.iter().filter_map(|place| {
            let chunk = self.chunks.get(place.chunk.checked_sub(self.first)? as usize)?;
            (place.row as usize).lt(&chunk.rows.num_rows()).then(|| chunk.rows.row(place.row as usize))
        });
        let columns = self.converter.convert_rows(rows)?;
        let columns =
            columns.iter().zip(self.schema.fields()).map(|(column, field)| Ok(cast(column, field.data_type())?));
        Ok(RecordBatch::try_new(self.schema.clone(), columns.collect::<Result<_>>()?)?)
    }

    /// Lets go of chunks whose rows are all older than this.
    pub fn forget_before(&mut self, time: i64) {
        while self.chunks.front().is_some_and(|chunk| chunk.latest < time) {
            self.forget_oldest();
        }
    }

    /// Lets go of the oldest chunk. Returns the time of its newest row.
    pub fn forget_oldest(&mut self) -> Option<i64> {
        let chunk = self.chunks.pop_front()?;
        let number = self.first;
        self.first += 1;
        self.bytes = self.bytes.saturating_sub(chunk.rows.size() + chunk.keys.capacity() * 8);
        for key in chunk.keys {
            let Some(places) = self.places.get_mut(&key) else { continue };
            places.retain(|place| place.chunk != number);
            if places.is_empty() {
                self.places.remove(&key);
            }
        }
        Some(chunk.latest)
    }

    /// Bytes held, nearly.
    pub fn bytes(&self) -> usize {
        const PLACE: usize = size_of::<Place>();
        let rows: usize = self.chunks.iter().map(|chunk| chunk.keys.len()).sum();
        self.bytes + rows * PLACE * 2 + self.places.capacity() * (8 + size_of::<Vec<Place>>() + 1)
    }
}

/// A hash of some columns for each row, by their values as text; the same text in columns of different types is one key. A
/// row with a null among them has none if `complete` is asked for.
pub fn keys(columns: &[ArrayRef], rows: usize, complete: bool) -> Result<(Vec<u64>, Vec<bool>)> {
    let columns: Vec<ArrayRef> =
        columns.iter().map(|column| Ok(cast(column, &DataType::Utf8View)?)).collect::<Result<_>>()?;
    let mut hashes = vec![0; rows];
    if !columns.is_empty() {
        create_hashes(&columns, &RandomState::with_seed(0), &mut hashes)?;
    }
    let usable = (0..rows).map(|row| !complete || columns.iter().all(|column| column.is_valid(row))).collect();
    Ok((hashes, usable))
}

/// The columns of these names.
pub fn named(rows: &RecordBatch, names: &[String]) -> Result<Vec<ArrayRef>> {
    let column = |name: &String| rows.column_by_name(name).cloned();
    names.iter().map(|name| column(name).ok_or_else(|| exec_datafusion_err!("there is no column {name}"))).collect()
}

/// A time column's values, in microseconds since 1970; a null is the start of 1970.
pub fn times(rows: &RecordBatch, name: &str) -> Result<Vec<i64>> {
    let Some(column) = rows.column_by_name(name) else { return exec_err!("there is no column {name}") };
    let utc = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()));
    let column = cast(column, &utc)?;
    Ok(column.as_primitive::<TimestampMicrosecondType>().iter().map(Option::unwrap_or_default).collect())
}

/// A column's values as text.
pub fn texts(rows: &RecordBatch, name: &str) -> Result<StringViewArray> {
    let Some(column) = rows.column_by_name(name) else { return exec_err!("there is no column {name}") };
    Ok(cast(column, &DataType::Utf8View)?.as_string_view().clone())
}

/// One of them; none if it is null.
pub fn text(texts: &StringViewArray, row: usize) -> Option<&str> {
    texts.is_valid(row).then(|| texts.value(row))
}
