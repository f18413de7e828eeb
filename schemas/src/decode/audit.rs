//! Kubernetes audit events to rows of the `audit` table.

use arrow::array::RecordBatch;

use super::layout::Shape::{Any, Copied, Int32, Moment, Nested, Object, Rest, Text, TextList, Time};
use super::layout::{Field, Layout, Shape, columnless, field, marks, place};
use super::{DecodeError, Decoder, Received, time};
use crate::identity::EventId;
use crate::table::{AUDIT, Table};

const fn own(key: &'static str, shape: Shape, column: &str) -> Field {
    field(AUDIT, key, shape, column)
}

const USER: &[Field] = &[
    own("username", Text, "user_name"),
    own("uid", Text, "user_uid"),
    own("groups", TextList, "user_groups"),
    own("extra", Object, "user_extra"),
];

const IMPERSONATED_USER: &[Field] = &[
    own("username", Text, "impersonated_user_name"),
    own("uid", Text, "impersonated_user_uid"),
    own("groups", TextList, "impersonated_user_groups"),
    own("extra", Object, "impersonated_user_extra"),
];

const AUTHENTICATION: &[Field] = &[own("impersonationConstraint", Text, "impersonation_constraint")];

const OBJECT_REF: &[Field] = &[
    own("resource", Text, "resource"),
    own("namespace", Text, "namespace"),
    own("name", Text, "name"),
    own("uid", Text, "object_uid"),
    own("apiGroup", Text, "api_group"),
    own("apiVersion", Text, "api_version"),
    own("resourceVersion", Text, "resource_version"),
    own("subresource", Text, "subresource"),
];

const RESPONSE_STATUS: &[Field] = &[
    columnless("metadata", Rest),
    own("status", Text, "response_status"),
    own("message", Text, "response_message"),
    own("reason", Text, "response_reason"),
    columnless("details", Rest),
    own("code", Int32, "response_code"),
];

const ANNOTATIONS: &[Field] = &[
    own("authorization.k8s.io/decision", Text, "decision"),
    own("authorization.k8s.io/reason", Text, "decision_reason"),
];

const EVENT: &[Field] = &[
    columnless("kind", Rest),
    columnless("apiVersion", Rest),
    own("level", Text, "level"),
    own("auditID", Text, "audit_id"),
    own("stage", Text, "stage"),
    own("requestURI", Text, "request_uri"),
    own("verb", Text, "verb"),
    columnless("user", Nested(USER)),
    columnless("impersonatedUser", Nested(IMPERSONATED_USER)),
    columnless("authenticationMetadata", Nested(AUTHENTICATION)),
    own("sourceIPs", TextList, "source_ips"),
    own("userAgent", Text, "user_agent"),
    columnless("objectRef", Nested(OBJECT_REF)),
    columnless("responseStatus", Nested(RESPONSE_STATUS)),
    own("requestObject", Any, "request_object"),
    own("responseObject", Any, "response_object"),
    own("requestReceivedTimestamp", Time, "request_received_timestamp"),
    own("stageTimestamp", Time, "stage_timestamp"),
    own("annotations", Copied(ANNOTATIONS), "annotations"),
    columnless("timestamp", Moment),
];

pub const LAYOUT: Layout = Layout {
    table: Table::Audit,
    fields: EVENT,
    rest: place(AUDIT, "rest"),
    marks: marks(EVENT, &["auditID", "verb", "stage", "requestURI"]),
};

const SOURCE_IP: usize = place(AUDIT, "source_ip");
const SOURCE_IPS: usize = place(AUDIT, "source_ips");
const STAGE_TIMESTAMP: usize = place(AUDIT, "stage_timestamp");
const REQUEST_RECEIVED_TIMESTAMP: usize = place(AUDIT, "request_received_timestamp");

/// Audit events on their way to a batch.
pub struct AuditDecoder(Decoder);

impl Default for AuditDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl AuditDecoder {
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
        self.0.push(event, DecodeError::NotAudit, |row| {
            row.copy_last(SOURCE_IPS, SOURCE_IP);
            // Go's zero time says that a time is unset.
            let set = |micros: &i64| *micros != time::ZERO;
            let times = [row.time(STAGE_TIMESTAMP), row.time(REQUEST_RECEIVED_TIMESTAMP), row.moment];
            times.into_iter().flatten().find(set)
        })
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The events so far, with the schema of `Table::Audit`; the decoder is empty afterwards.
    pub fn finish(&mut self) -> RecordBatch {
        self.0.finish()
    }
}
