//! Events of Falco and falcosidekick to rows of the `falco` table.

use arrow::array::RecordBatch;

use super::layout::Shape::{Copied, Int64, Moment, Nanoseconds, Text, TextList};
use super::layout::{Field, Layout, Shape, columnless, field, marks, place};
use super::{DecodeError, Decoder, Received, time};
use crate::identity::EventId;
use crate::table::{FALCO, Table};

const fn own(key: &'static str, shape: Shape, column: &str) -> Field {
    field(FALCO, key, shape, column)
}

/// In the order of the alphabet, which is Falco's own.
const OUTPUT_FIELDS: &[Field] = &[
    own("container.id", Text, "container_id"),
    own("container.image.repository", Text, "image_repository"),
    own("container.image.tag", Text, "image_tag"),
    own("container.name", Text, "container_name"),
    columnless("evt.time", Nanoseconds),
    own("evt.type", Text, "event_type"),
    own("fd.name", Text, "file_name"),
    own("k8s.node.name", Text, "node"),
    own("k8s.ns.name", Text, "namespace"),
    own("k8s.pod.name", Text, "pod"),
    own("proc.cmdline", Text, "process_cmdline"),
    own("proc.exepath", Text, "process_exepath"),
    own("proc.name", Text, "process_name"),
    own("proc.pid", Int64, "process_pid"),
    own("proc.pname", Text, "parent_name"),
    own("proc.tty", Int64, "terminal"),
    own("user.name", Text, "user_name"),
    own("user.uid", Int64, "user_uid"),
];

const EVENT: &[Field] = &[
    own("hostname", Text, "hostname"),
    own("output", Text, "output"),
    own("output_fields", Copied(OUTPUT_FIELDS), "output_fields"),
    own("priority", Text, "priority"),
    own("rule", Text, "rule"),
    own("source", Text, "source"),
    own("tags", TextList, "tags"),
    // Written to the nanosecond, which the column can't hold.
    columnless("time", Moment),
];

pub const LAYOUT: Layout = Layout {
    table: Table::Falco,
    fields: EVENT,
    rest: place(FALCO, "rest"),
    marks: marks(EVENT, &["rule", "output", "output_fields"]),
};

/// Falco events on their way to a batch.
pub struct FalcoDecoder(Decoder);

impl Default for FalcoDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl FalcoDecoder {
    pub fn new() -> Self {
        Self::with_capacity(0)
    }

    pub fn with_capacity(rows: usize) -> Self {
        Self(Decoder::new(&LAYOUT, rows))
    }

    /// Appends one event as it was received, and gives it its identity. On error nothing is appended.
    pub fn push(&mut self, cluster: &str, received_at: i64, payload: &[u8]) -> Result<EventId, DecodeError> {
        let id = EventId::of(cluster, payload);
        self.push_as(Received { id, cluster, at: received_at, payload, text: None }).map(|()| id)
    }

    /// Appends one event whose identity is known. On error nothing is appended.
    pub fn push_as(&mut self, event: Received<'_>) -> Result<(), DecodeError> {
        self.0.push(event, DecodeError::NotFalco, |row| {
            // Go's zero time says that a time is unset.
            row.moment.filter(|micros| *micros != time::ZERO).or(row.copied_moment)
        })
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The events so far, with the schema of `Table::Falco`; the decoder is empty afterwards.
    pub fn finish(&mut self) -> RecordBatch {
        self.0.finish()
    }
}
