//! A finding: what a rule's row says, to people and to machines.

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use serde_json::{Map, Value};
use vedette_detections::{Rule, Severity};
use vedette_schemas::EventId;

/// One finding. Times are microseconds since 1970, UTC.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub alert_id: EventId,
    pub rule_id: String,
    pub rule_version: i32,
    pub title: String,
    pub severity: Severity,
    pub cluster: String,
    pub event_time: i64,
    pub received_at: i64,
    pub raised_at: i64,
    pub summary: String,
    pub actor: Option<String>,
    pub target: Option<String>,
    pub namespace: Option<String>,
    pub source_ip: Option<String>,
    pub attack: Vec<String>,
    pub tags: Vec<String>,
    pub evidence: Vec<EventId>,
    /// The row: every selected column that is not null.
    pub details: Value,
}

/// Columns that, beside the event, tell several findings of one rule on one event apart.
const PARTS: [&str; 4] = ["container_kind", "container_name", "rule_index", "subject_index"];

/// One finding a row of what a rule's SQL returned.
pub fn from_rows(rule: &Rule, rows: &RecordBatch, now: i64) -> Result<Vec<Finding>, ArrowError> {
    let times = ["event_time", "received_at"].map(|name| micros(rows, name));
    let details = json_rows(rows)?;
    let findings = details.into_iter().enumerate().map(|(row, details)| {
        let [event_time, received_at] =
            [&times[0], &times[1]].map(|t| t.as_ref().and_then(|t| t.get(row).copied().flatten()));
        one(rule, details, event_time.unwrap_or(now), received_at.unwrap_or(now), now)
    });
    Ok(findings.collect())
}

fn one(rule: &Rule, details: Map<String, Value>, event_time: i64, received_at: i64, now: i64) -> Finding {
    let text = |name: &str| details.get(name).map(plain);
    let event_id = text("event_id").unwrap_or_default();
    let mut key = vec![rule.id.clone(), rule.version.to_string(), event_id.clone()];
    key.extend(PARTS.iter().filter_map(|part| text(part)));
    let key: Vec<&str> = key.iter().map(String::as_str).collect();
    Finding {
        alert_id: EventId::of_parts(&key),
        rule_id: rule.id.clone(),
        rule_version: rule.version,
        title: rule.title.clone(),
        severity: rule.severity,
        cluster: text("cluster").unwrap_or_default(),
        event_time,
        received_at,
        raised_at: now,
        summary: render(&rule.summary, &details),
        actor: actor(&details),
        target: target(&details),
        namespace: text("namespace"),
        source_ip: text("source_ip"),
        attack: rule.attack.clone(),
        tags: rule.checklist.clone(),
        evidence: EventId::parse(&event_id).into_iter().collect(),
        details: Value::Object(details),
    }
}

fn micros(rows: &RecordBatch, name: &str) -> Option<Vec<Option<i64>>> {
    let column = rows.column_by_name(name)?;
    let utc = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()));
    let column = cast(column, &utc).ok()?;
    Some(column.as_primitive::<TimestampMicrosecondType>().iter().collect())
}

/// Rows as JSON objects, nulls left out.
pub fn json_rows(rows: &RecordBatch) -> Result<Vec<Map<String, Value>>, ArrowError> {
    let mut writer = arrow::json::ArrayWriter::new(Vec::new());
    writer.write(rows)?;
    writer.finish()?;
    let bytes = writer.into_inner();
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_slice(&bytes).map_err(|e| ArrowError::JsonError(e.to_string()))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The summary with `{column}` replaced by the row's value; `-` where it has none.
pub fn render(template: &str, row: &Map<String, Value>) -> String {
    let mut out = String::with_capacity(template.len() + 64);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            out.push('{');
            rest = after;
            continue;
        };
        out.push_str(&row.get(name).map_or_else(|| "-".into(), plain));
        rest = after;
    }
    out.push_str(rest);
    out
}

fn actor(row: &Map<String, Value>) -> Option<String> {
    let user = row.get("user_name").map(plain);
    match (user, row.get("impersonated_user_name").map(plain)) {
        (Some(user), Some(target)) => Some(format!("{user} as {target}")),
        (user, target) => user.or(target),
    }
}

fn target(row: &Map<String, Value>) -> Option<String> {
    let text = |name: &str| row.get(name).map(plain);
    let kind = match (text("resource"), text("subresource")) {
        (Some(resource), Some(subresource)) => Some(format!("{resource}/{subresource}")),
        (resource, _) => resource,
    };
    let object = match (text("namespace"), text("name").or_else(|| text("pod"))) {
        (Some(namespace), Some(name)) => Some(format!("{namespace}/{name}")),
        (Some(namespace), None) => Some(format!("{namespace}/*")),
        (None, name) => name,
    };
    match (kind, object) {
        (Some(kind), Some(object)) => Some(format!("{kind} {object}")),
        (kind, object) => kind.or(object),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_take_values_by_name() {
        let row = serde_json::json!({"user_name": "eve", "n": 3});
        let row = row.as_object().unwrap();
        assert_eq!(render("{user_name} did {n} of {gone}", row), "eve did 3 of -");
        assert_eq!(render("open { brace", row), "open { brace");
        assert_eq!(render("no braces", row), "no braces");
    }

    #[test]
    fn targets_read_like_kubectl() {
        let row = serde_json::json!({"resource": "pods", "subresource": "exec", "namespace": "prod", "name": "web"});
        assert_eq!(target(row.as_object().unwrap()).unwrap(), "pods/exec prod/web");
        let row = serde_json::json!({"resource": "secrets"});
        assert_eq!(target(row.as_object().unwrap()).unwrap(), "secrets");
        assert_eq!(target(&Map::new()), None);
    }

    #[test]
    fn actors_say_whom_they_act_as() {
        let row = serde_json::json!({"user_name": "dana", "impersonated_user_name": "root"});
        assert_eq!(actor(row.as_object().unwrap()).unwrap(), "dana as root");
    }
}
