//! From an event's JSON bytes straight to Arrow columns, so that the event can be rebuilt from its row.

mod audit;
mod block;
mod builders;
mod escape;
mod falco;
mod index;
mod labels;
mod lanes;
pub(crate) mod layout;
mod lists;
mod outline;
pub mod paths;
mod pool;
pub(crate) mod rest;
mod row;
mod scan;
mod skip;
mod strings;
mod texts;
pub(crate) mod time;
mod walk;
mod words;

use arrow::array::RecordBatch;
use bytes::Bytes;

use self::builders::Columns;
use self::index::LONGEST;
use self::layout::Layout;
use self::row::Row;
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

/// An event as it was received.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    pub id: EventId,
    pub cluster: &'a str,
    /// Microseconds since 1970, UTC.
    pub at: i64,
    pub payload: &'a [u8],
    /// A text that the payload may be a part of. If it is, and the text is no small one, the columns refer to it, which keeps it in
    /// memory as long as them; else they have a copy.
    pub text: Option<&'a Bytes>,
}

/// What both decoders share.
struct Decoder {
    layout: &'static Layout,
    columns: Columns,
    /// Kept from event to event for their memory.
    row: Row,
    scan: scan::Scratch,
}

impl Decoder {
    fn new(layout: &'static Layout, rows: usize) -> Self {
        let columns = Columns::new(layout.table, rows);
        Self { layout, columns, row: Row::default(), scan: Default::default() }
    }

    /// `complete` fills the columns that follow from others and returns the event's own time.
    fn push(
        &mut self,
        event: Received<'_>,
        stranger: DecodeError,
        complete: impl FnOnce(&mut Row) -> Option<i64>,
    ) -> Result<(), DecodeError> {
        let (seen, text) = self.read(event.payload)?;
        if seen & self.layout.marks == 0 {
            return Err(stranger);
        }
        let row = &mut self.row;
        let event_time = complete(row).unwrap_or(event.at);
        row.put_rest(self.layout.rest, text);
        row.put(EVENT_ID, std::str::from_utf8(&event.id.hex()).unwrap_or_default());
        row.put(CLUSTER, event.cluster);
        row.put_number(DAY, time::day(event.at));
        row.put_number(RECEIVED_AT, event.at);
        row.put_number(EVENT_TIME, event_time);
        self.columns.append(row, text, event.text);
        Ok(())
    }

    /// Reads the row of an object. Returns the fields seen, as bits of their places, and the text that the row's spans are
    /// of.
    fn read<'a>(&mut self, payload: &'a [u8]) -> Result<(u64, &'a str), DecodeError> {
        let Self { layout, row, .. } = self;
        // Looked at from its start on, the event is in the cache when it is asked how it ends.
        let mut plain = block::are_plain(payload);
        let event = trimmed(payload);
        if event.len() < payload.len() {
            plain = block::are_plain(event);
        }
        let (is_ascii, no_controls) = plain;
        if no_controls && event.starts_with(b"{") && event.len() <= LONGEST {
            #[expect(unsafe_code, reason = "the bytes have been looked at, which need not be done again")]
            let event = match is_ascii {
                // SAFETY: ASCII is UTF-8.
                true => Ok(unsafe { str::from_utf8_unchecked(event) }),
                false => simdutf8::basic::from_utf8(event),
            };
            if let Ok(event) = event {
                row.clear(event);
                let mut walker = Walker::new(event);
                if let Ok((seen, _)) = row.object(&mut walker, layout.fields)
                    && walker.ended()
                {
                    return Ok((seen, event));
                }
            }
        }
        let text = utf8(payload)?;
        // Whatever is odd about a text, the scanner has the last word on it.
        let mut scanner = Scanner::new(text, std::mem::take(&mut self.scan))?;
        if scanner.peek() != b'{' {
            scanner.value()?;
            scanner.end()?;
            return Err(DecodeError::NotObject);
        }
        row.clear(text);
        let (seen, _) = row.object(&mut scanner, layout.fields)?;
        scanner.end()?;
        self.scan = scanner.into_scratch();
        Ok((seen, text))
    }

    fn len(&self) -> usize {
        self.columns.rows()
    }

    fn finish(&mut self) -> RecordBatch {
        self.columns.finish()
    }
}

/// The bytes as text.
fn utf8(payload: &[u8]) -> Result<&str, DecodeError> {
    simdutf8::basic::from_utf8(payload).or_else(|_| {
        // Says where, which the fast check can't.
        std::str::from_utf8(payload).map_err(|e| DecodeError::Utf8 { at: e.valid_up_to() })
    })
}

/// The bytes without JSON's white space around them.
fn trimmed(payload: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    let start = payload.iter().position(|byte| !blank(byte)).unwrap_or(payload.len());
    let end = payload.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    &payload[start..end]
}

#[cfg(test)]
mod tests;
