//! From an event's JSON bytes straight to Arrow columns, so that the event can be rebuilt from its row.

mod audit;
mod builders;
mod falco;
mod index;
mod labels;
pub(crate) mod layout;
pub mod paths;
pub(crate) mod rest;
mod row;
mod scan;
pub(crate) mod time;

use std::borrow::Cow;

use arrow::array::RecordBatch;

use self::builders::Columns;
use self::layout::Layout;
use self::row::{Row, Value};
use self::scan::{Malformed, Scanner};
use crate::identity::EventId;

pub(crate) use self::audit::LAYOUT as AUDIT_LAYOUT;
pub(crate) use self::falco::LAYOUT as FALCO_LAYOUT;
pub(crate) use self::scan::mend_surrogates;
pub use self::{audit::AuditDecoder, falco::FalcoDecoder};

/// Why bytes are not an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("invalid UTF-8 at byte {at}")]
    Utf8 { at: usize },
    #[error("invalid JSON at byte {at}: {reason}")]
    Json { at: usize, reason: &'static str },
    #[error("not a JSON object")]
    NotObject,
    #[error("not an audit event: no auditID, verb, stage or requestURI")]
    NotAudit,
    #[error("not a Falco event: no rule, output or output_fields")]
    NotFalco,
}

impl From<Malformed> for DecodeError {
    fn from(malformed: Malformed) -> Self {
        Self::Json { at: malformed.at, reason: malformed.reason }
    }
}

/// The first columns of every table.
const EVENT_ID: usize = 0;
const CLUSTER: usize = 1;
const DAY: usize = 2;
const RECEIVED_AT: usize = 3;
const EVENT_TIME: usize = 4;

/// What both decoders share.
struct Decoder {
    layout: &'static Layout,
    columns: Columns,
    /// Kept from event to event for their memory.
    row: row::Scratch,
    scan: scan::Scratch,
}

impl Decoder {
    fn new(layout: &'static Layout, rows: usize) -> Self {
        Self { layout, columns: Columns::new(layout.table, rows), row: Default::default(), scan: Default::default() }
    }

    /// `complete` fills the columns that follow from others and returns the event's own time.
    fn push(
        &mut self,
        id: EventId,
        cluster: &str,
        received_at: i64,
        payload: &[u8],
        stranger: DecodeError,
        complete: impl FnOnce(&mut Row<'_>) -> Option<i64>,
    ) -> Result<(), DecodeError> {
        let text = simdutf8::basic::from_utf8(payload).or_else(|_| {
            // Says where, which the fast check can't.
            std::str::from_utf8(payload).map_err(|e| DecodeError::Utf8 { at: e.valid_up_to() })
        })?;
        let mut row = self.read(text, stranger)?;
        let event_time = complete(&mut row).unwrap_or(received_at);
        let Row { scanner, mut values, elements, mut rest, whole, .. } = row;
        if whole {
            rest.keep_whole(text.trim_matches([' ', '\n', '\r', '\t']));
        }
        let hex = id.hex();
        values[EVENT_ID] = Value::Text(String::from_utf8_lossy(&hex));
        values[CLUSTER] = Value::Text(Cow::Borrowed(cluster));
        values[DAY] = Value::Int(time::day(received_at));
        values[RECEIVED_AT] = Value::Int(received_at);
        values[EVENT_TIME] = Value::Int(event_time);
        values[self.layout.rest] = rest.finish().map_or(Value::Null, |rest| Value::Text(Cow::Borrowed(rest)));
        self.columns.append(&values, &elements);
        self.row = row::Scratch { values: row::emptied(values), elements: row::emptied(elements), rest };
        self.scan = scanner.into_scratch();
        Ok(())
    }

    fn read<'a>(&mut self, text: &'a str, stranger: DecodeError) -> Result<Row<'a>, DecodeError> {
        let scanner = Scanner::new(text, std::mem::take(&mut self.scan))?;
        let columns = self.layout.table.columns().len();
        let mut row = Row::new(scanner, columns, std::mem::take(&mut self.row));
        if row.scanner.peek() != b'{' {
            row.scanner.value()?;
            row.scanner.end()?;
            return Err(DecodeError::NotObject);
        }
        let (seen, _) = row.object(self.layout.fields)?;
        row.scanner.end()?;
        if seen & self.layout.marks == 0 { Err(stranger) } else { Ok(row) }
    }

    fn len(&self) -> usize {
        self.columns.rows()
    }

    fn finish(&mut self) -> RecordBatch {
        self.columns.finish()
    }
}

#[cfg(test)]
mod tests;
