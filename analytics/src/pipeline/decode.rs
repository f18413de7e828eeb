//! Records of the journal to rows of the tables.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray};
use arrow::compute::filter_record_batch;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use vedette_journal::{Delivered, Record, Source};
use vedette_schemas::{AuditDecoder, EventId, FalcoDecoder, Received, Table, derive};

use super::seen::{Ahead, Seen};
use super::{Counts, PipelineError, source};
use crate::engine::Tables;

/// A decoded event: its id and its cluster.
type Row = (EventId, Arc<str>);

/// What a delivery decodes to.
#[derive(Default)]
pub struct Decoded {
    pub tables: Tables,
    /// For each row of `audit` and of `falco`, in order: its id and its cluster.
    rows: Vec<(Table, Vec<Row>)>,
    pub dead: Vec<Record>,
}

/// Rows not seen before, with the rows derived from them.
#[derive(Default)]
pub struct Fresh {
    pub tables: Tables,
    pub counts: Counts,
    /// Rows that were seen before and left out.
    pub again: BTreeMap<Table, u64>,
}

/// Decodes off the runtime's own threads.
pub async fn decode(records: Vec<Delivered>) -> Result<Decoded, PipelineError> {
    let decoding = tokio::task::spawn_blocking(move || decode_now(records));
    decoding.await.map_err(|panic| PipelineError::Decode(panic.to_string()))
}

fn decode_now(records: Vec<Delivered>) -> Decoded {
    let mut decoded = Decoded::default();
    let (mut audit, mut falco) = (AuditDecoder::with_capacity(records.len()), FalcoDecoder::new());
    let (mut audit_rows, mut falco_rows) = (Vec::new(), Vec::new());
    for Delivered { partition, record, text, .. } in records {
        let Record { id, cluster, received_at, payload, .. } = &record;
        let row = (*id, cluster.clone());
        let event = Received { id: *id, cluster, at: *received_at, payload, text: Some(&text) };
        let result = match source(partition.topic).unwrap_or(record.source) {
            Source::Falco => falco.push_as(event).map(|()| falco_rows.push(row)),
            _ => audit.push_as(event).map(|()| audit_rows.push(row)),
        };
        if let Err(error) = result {
            decoded.dead.push(Record { reason: Some(error.to_string()), ..record });
        }
    }
    if !audit_rows.is_empty() {
        decoded.tables.insert(Table::Audit, audit.finish());
        decoded.rows.push((Table::Audit, audit_rows));
    }
    if !falco_rows.is_empty() {
        decoded.tables.insert(Table::Falco, falco.finish());
        decoded.rows.push((Table::Falco, falco_rows));
    }
    decoded
}

impl Decoded {
    /// Leaves out rows whose event was seen before, and derives what the others carry, as far as it is not stored.
    pub fn only_fresh(mut self, seen: &mut Seen, ahead: &Ahead) -> Result<Fresh, PipelineError> {
        let mut fresh = Fresh::default();
        for (table, rows) in std::mem::take(&mut self.rows) {
            let Some(batch) = self.tables.remove(&table) else { continue };
            let new: Vec<bool> = rows.iter().map(|(id, _)| seen.insert(*id)).collect();
            for ((_, cluster), _) in rows.iter().zip(&new).filter(|(_, new)| **new) {
                *fresh.counts.entry(cluster.clone()).or_default() += 1;
            }
            let again = new.iter().filter(|new| !**new).count();
            if again == 0 {
                fresh.tables.insert(table, batch);
                continue;
            }
            fresh.again.insert(table, again as u64);
            let batch = filter_record_batch(&batch, &BooleanArray::from(new))
                .map_err(|error| PipelineError::Decode(error.to_string()))?;
            if batch.num_rows() > 0 {
                fresh.tables.insert(table, batch);
            }
        }
        if let Some(audit) = fresh.tables.get(&Table::Audit) {
            for (table, batch) in derive::derive(audit).tables() {
                let batch = match ahead.get(&table).filter(|stored| !stored.is_empty()) {
                    Some(stored) => without(&batch, stored).map_err(|e| PipelineError::Decode(e.to_string()))?,
                    None => batch,
                };
                if batch.num_rows() > 0 {
                    fresh.tables.insert(table, batch);
                }
            }
        }
        Ok(fresh)
    }
}

/// The rows of other events than these.
fn without(batch: &RecordBatch, events: &HashSet<EventId>) -> Result<RecordBatch, ArrowError> {
    let ids = batch.column_by_name("event_id").and_then(|column| column.as_string_view_opt());
    let ids = ids.ok_or_else(|| ArrowError::SchemaError("event_id is not text".into()))?;
    let other = |id: Option<&str>| !id.and_then(EventId::parse).is_some_and(|id| events.contains(&id));
    filter_record_batch(batch, &ids.iter().map(|id| Some(other(id))).collect())
}
