//! Findings as rows of the `alerts` table and as records of the alert topic.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Array, Int32Array, Int64Array, ListBuilder, StringBuilder, StringDictionaryBuilder,
    StringViewArray, TimestampMicrosecondArray,
};
use arrow::datatypes::Int32Type;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use serde_json::{Map, Value};
use tokio::sync::mpsc::UnboundedSender;
use vedette_journal::{Record, Source};
use vedette_schemas::table::list_item;
use vedette_schemas::{EventId, Table};

use crate::engine::Finding;

const DAY_MICROS: i64 = 86_400_000_000;

/// Rows of `alerts`, in the table's schema.
pub fn batch(findings: &[Finding]) -> Result<RecordBatch, ArrowError> {
    let times = |get: fn(&Finding) -> i64| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from_iter_values(findings.iter().map(get)).with_timezone("UTC"))
    };
    let days = findings.iter().map(|f| i32::try_from(f.received_at.div_euclid(DAY_MICROS)).unwrap_or_default());
    let columns: Vec<ArrayRef> = vec![
        texts(findings, |f| Some(f.alert_id.to_string())),
        labels(findings, |f| &f.cluster),
        Arc::new(Date32Array::from_iter_values(days)),
        times(|f| f.received_at),
        times(|f| f.event_time),
        times(|f| f.raised_at),
        labels(findings, |f| &f.rule_id),
        Arc::new(Int32Array::from_iter_values(findings.iter().map(|f| f.rule_version))),
        labels(findings, |f| &f.title),
        labels(findings, |f| f.severity.name()),
        texts(findings, |f| Some(f.summary.clone())),
        texts(findings, |f| f.actor.clone()),
        texts(findings, |f| f.target.clone()),
        nullable_labels(findings, |f| f.namespace.as_deref()),
        texts(findings, |f| f.source_ip.clone()),
        lists(findings, |f| f.attack.clone()),
        lists(findings, |f| f.tags.clone()),
        lists(findings, |f| f.evidence.iter().map(EventId::to_string).collect()),
        texts(findings, |f| Some(f.details.to_string())),
        Arc::new(Int32Array::from_iter_values(findings.iter().map(|f| f.risk_score))),
        nullable_labels(findings, |f| f.user_name.as_deref()),
        texts(findings, |f| f.pod.clone()),
        nullable_labels(findings, |f| f.node.as_deref()),
        Arc::new(Int64Array::from_iter_values(findings.iter().map(|f| f.count))),
        times(|f| f.last_event_time),
    ];
    RecordBatch::try_new(Table::Alerts.schema(), columns)
}

/// Findings as JSON objects in the shape of their rows.
pub fn rows(findings: &[Finding]) -> Result<Vec<Map<String, Value>>, ArrowError> {
    let mut rows = crate::engine::json_rows(&batch(findings)?)?;
    for (finding, row) in findings.iter().zip(&mut rows) {
        row.insert("details".into(), finding.details.clone());
    }
    Ok(rows)
}

/// Records of the alert topic.
pub fn records(findings: &[Finding]) -> Result<Vec<Record>, ArrowError> {
    let records = findings.iter().zip(rows(findings)?).map(|(finding, row)| {
        let payload = Value::Object(row).to_string().into();
        Record::new(finding.cluster.as_str().into(), Source::Vedette, finding.raised_at, payload)
    });
    Ok(records.collect())
}

/// Counts findings that the alert topic has, and passes them on to whoever listens.
pub fn announce(findings: Vec<Finding>, listener: Option<&UnboundedSender<Finding>>) {
    for finding in findings {
        metrics::counter!("vedette_findings_total", "severity" => finding.severity.name()).increment(1);
        if let Some(listener) = listener {
            // A listener that went away is no reason to stop.
            let _ = listener.send(finding);
        }
    }
}

fn texts(findings: &[Finding], get: impl Fn(&Finding) -> Option<String>) -> ArrayRef {
    Arc::new(StringViewArray::from_iter(findings.iter().map(get)))
}

fn labels<'a>(findings: &'a [Finding], get: impl Fn(&'a Finding) -> &'a str) -> ArrayRef {
    nullable_labels(findings, |finding| Some(get(finding)))
}

fn nullable_labels<'a>(findings: &'a [Finding], get: impl Fn(&'a Finding) -> Option<&'a str>) -> ArrayRef {
    let mut builder = StringDictionaryBuilder::<Int32Type>::new();
    findings.iter().for_each(|finding| builder.append_option(get(finding)));
    Arc::new(builder.finish())
}

fn lists(findings: &[Finding], get: impl Fn(&Finding) -> Vec<String>) -> ArrayRef {
    let mut builder = ListBuilder::new(StringBuilder::new()).with_field(Arc::new(list_item()));
    for finding in findings {
        get(finding).iter().for_each(|item| builder.values().append_value(item));
        builder.append(true);
    }
    Arc::new(builder.finish())
}
