//! Which field of an event goes to which column. Decoding and rebuilding walk the same layout.

use super::words::{Name, ends};
use crate::table::{Column, Table};

/// How a field is kept.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Text in its column.
    Text,
    /// A list of text in its column.
    TextList,
    /// An object, in its column as it was received.
    Object,
    /// Any value but null, in its column as it was received.
    Any,
    /// A time in its column.
    Time,
    /// An `i32` in its column.
    Int32,
    /// An `i64`; only ever copied.
    Int64,
    /// An object whose fields have columns.
    Nested(&'static [Field]),
    /// An object in its column as it was received, some of whose fields are copied to columns as well.
    Copied(&'static [Field]),
    /// Any value. It stays in `rest`, which senders are known to fill with it.
    Rest,
    /// A time that `event_time` may be taken from. It stays in `rest`.
    Moment,
    /// The same as whole nanoseconds; only ever copied.
    Nanoseconds,
}

/// A field of an event.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub key: &'static str,
    /// The key's ends, to compare it by.
    ends: [u64; 2],
    pub name: Name,
    pub shape: Shape,
    /// Place of its column in the table; meaningless for `Nested`, `Rest`, `Moment` and `Nanoseconds`.
    pub column: usize,
}

/// The layout of a table's events.
#[derive(Debug)]
pub struct Layout {
    pub table: Table,
    pub fields: &'static [Field],
    /// Place of `rest` in the table.
    pub rest: usize,
    /// Fields of which an event has at least one, as bits of their places.
    pub marks: u64,
}

/// A field with a column.
pub const fn field(columns: &[Column], key: &'static str, shape: Shape, column: &str) -> Field {
    Field { column: place(columns, column), ..columnless(key, shape) }
}

/// A field without a column of its own.
pub const fn columnless(key: &'static str, shape: Shape) -> Field {
    Field { key, ends: ends(key.as_bytes()), name: Name::new(key), shape, column: usize::MAX }
}

/// The place of a column. A wrong name stops the compiler.
pub const fn place(columns: &[Column], name: &str) -> usize {
    let mut at = 0;
    while at < columns.len() {
        if same(columns[at].name, name) {
            return at;
        }
        at += 1;
    }
    panic!("no such column")
}

/// The field of that name, looked for from the expected one on.
#[inline(always)]
pub fn find(fields: &[Field], name: &[u8], expected: usize) -> Option<usize> {
    let ends = ends(name);
    let is = |field: &Field| {
        field.ends == ends && field.key.len() == name.len() && (name.len() <= 16 || field.key.as_bytes() == name)
    };
    if fields.get(expected).is_some_and(is) {
        return Some(expected);
    }
    let after = (expected + 1).min(fields.len());
    let found = fields[after..].iter().position(is).map(|place| place + after);
    found.or_else(|| fields[..after].iter().position(is))
}

/// The bits of the fields with these keys.
pub const fn marks(fields: &[Field], keys: &[&str]) -> u64 {
    let (mut bits, mut at) = (0, 0);
    while at < fields.len() {
        let mut key = 0;
        while key < keys.len() {
            if same(fields[at].key, keys[key]) {
                bits |= 1 << at;
            }
            key += 1;
        }
        at += 1;
    }
    bits
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}
