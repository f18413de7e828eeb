//! From an event's JSON bytes straight to Arrow columns, so that the event can be rebuilt from its row.

mod audit;
mod block;
mod builders;
mod escape;
mod falco;
mod index;
mod labels;
pub(crate) mod layout;
mod outline;
pub mod paths;
pub(crate) mod rest;
mod row;
mod scan;
pub(crate) mod time;
mod walk;

use arrow::array::RecordBatch;

use self::builders::Columns;
use self::layout::Layout;
use self::outline::Outline;
use self::row::{Row, Text, Value};
use self::scan::{Malformed, Scanner, Tokens};
use self::walk::Walker;
use crate::identity::EventId;

pub(crate) use self::audit::LAYOUT as AUDIT_LAYOUT;
pub(crate) use self::escape::mend_surrogates;
pub(crate) use self::falco::LAYOUT as FALCO_LAYOUT;
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
    outline: Outline,
    scan: scan::Scratch,
}

impl Decoder {
    fn new(layout: &'static Layout, rows: usize) -> Self {
        let columns = Columns::new(layout.table, rows);
        Self { layout, columns, row: Default::default(), outline: Outline::default(), scan: Default::default() }
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
        let (mut row, seen) = self.read(text)?;
        if seen & self.layout.marks == 0 {
            return Err(stranger);
        }
        let event_time = complete(&mut row).unwrap_or(received_at);
        if row.whole {
            row.rest.keep_whole(trimmed(text));
        }
        let hex = id.hex();
        row.values[EVENT_ID] = Value::Text(Text::Plain(std::str::from_utf8(&hex).unwrap_or_default()));
        row.values[CLUSTER] = Value::Text(Text::Plain(cluster));
        row.values[DAY] = Value::Int(time::day(received_at));
        row.values[RECEIVED_AT] = Value::Int(received_at);
        row.values[EVENT_TIME] = Value::Int(event_time);
        row.keep_rest(self.layout.rest);
        self.columns.append(&row);
        self.row = row.into_scratch();
        Ok(())
    }

    /// The row of an object, and its fields seen, as bits of their places.
    fn read<'a>(&mut self, text: &'a str) -> Result<(Row<'a>, u64), DecodeError> {
        let columns = self.layout.table.columns().len();
        let compact = trimmed(text);
        if self.outline.fill(compact) {
            let mut row = Row::new(columns, std::mem::take(&mut self.row));
            if let Ok((seen, _)) = row.object(&mut Walker::new(compact, &self.outline), self.layout.fields) {
                return Ok((row, seen));
            }
        }
        // Whatever is odd about a text, the scanner has the last word on it.
        let mut scanner = Scanner::new(text, std::mem::take(&mut self.scan))?;
        if scanner.peek() != b'{' {
            scanner.value()?;
            scanner.end()?;
            return Err(DecodeError::NotObject);
        }
        let mut row = Row::new(columns, std::mem::take(&mut self.row));
        let (seen, _) = row.object(&mut scanner, self.layout.fields)?;
        scanner.end()?;
        self.scan = scanner.into_scratch();
        Ok((row, seen))
    }

    fn len(&self) -> usize {
        self.columns.rows()
    }

    fn finish(&mut self) -> RecordBatch {
        self.columns.finish()
    }
}

/// The text without JSON's white space around it.
fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\n', '\r', '\t'])
}

#[cfg(test)]
mod tests;
