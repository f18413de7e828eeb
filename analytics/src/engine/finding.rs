//! A finding: what a rule's row says, to people and to machines.

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use serde::Deserialize;
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
    /// How dangerous it is, 0 to 100.
    pub risk_score: i32,
    pub user_name: Option<String>,
    pub pod: Option<String>,
    pub node: Option<String>,
    /// How often the rule has found this so far, the first time included.
    pub count: i64,
    /// The newest event time among what was found.
    pub last_event_time: i64,
    pub evidence: Vec<EventId>,
    /// The row: every selected column that is not null.
    pub details: Value,
}

impl Finding {
    /// A finding about a rule rather than about what it looks for.
    pub fn about_rule(id: &str, title: &str, rule: &Rule, what: String, now: i64) -> Self {
        Self {
            alert_id: EventId::of_parts(&[id, &rule.id, &rule.version.to_string(), &now.to_string()]),
            rule_id: id.to_owned(),
            rule_version: 1,
            title: title.to_owned(),
            severity: Severity::High,
            cluster: String::new(),
            event_time: now,
            received_at: now,
            raised_at: now,
            summary: format!("Rule {}: {what}", rule.id),
            actor: None,
            target: Some(rule.id.clone()),
            namespace: None,
            source_ip: None,
            attack: Vec::new(),
            tags: Vec::new(),
            risk_score: 73,
            user_name: None,
            pod: None,
            node: None,
            count: 1,
            last_event_time: now,
            evidence: Vec::new(),
            details: serde_json::json!({ "rule": rule.id, "reason": what }),
        }
    }
}

/// Columns that, beside the event, tell several findings of one rule on one event apart.
const PARTS: [&str; 4] = ["container_kind", "container_name", "rule_index", "subject_index"];

/// What makes findings one: rows that agree in these columns, within a stretch of event time, in microseconds.
#[derive(Clone, Debug)]
pub struct Subject {
    pub columns: Vec<String>,
    pub suppress: i64,
}

/// One finding a row of what a rule selected. `evidence` gives each row's events; without it, a row's event is its own.
pub fn from_rows(
    rule: &Rule,
    subject: Option<&Subject>,
    rows: &RecordBatch,
    evidence: Option<Vec<Vec<EventId>>>,
    now: i64,
) -> Result<Vec<Finding>, ArrowError> {
    let times = ["event_time", "received_at"].map(|name| micros(rows, name));
    let details = json_rows(rows)?;
    let mut evidence = evidence.map(Vec::into_iter);
    let findings = details.into_iter().enumerate().map(|(row, details)| {
        let [event_time, received_at] =
            [&times[0], &times[1]].map(|t| t.as_ref().and_then(|t| t.get(row).copied().flatten()));
        let times = (event_time.unwrap_or(now), received_at.unwrap_or(now), now);
        let events = match &mut evidence {
            Some(evidence) => evidence.next().unwrap_or_default(),
            None => details.get("event_id").and_then(|id| EventId::parse(id.as_str()?)).into_iter().collect(),
        };
        one(rule, subject, details, events, times)
    });
    Ok(findings.collect())
}

fn one(
    rule: &Rule,
    subject: Option<&Subject>,
    details: Map<String, Value>,
    evidence: Vec<EventId>,
    (event_time, received_at, now): (i64, i64, i64),
) -> Finding {
    let text = |name: &str| details.get(name).map(plain);
    let raised: Option<Severity> = details.get("severity").and_then(|name| Severity::deserialize(name).ok());
    let severity = raised.map_or(rule.severity, |raised| raised.max(rule.severity));
    let risk = details.get("risk_score").and_then(Value::as_f64).unwrap_or_default().clamp(0.0, 100.0).round() as i32;
    Finding {
        alert_id: identity(rule, subject, &details, event_time),
        rule_id: rule.id.clone(),
        rule_version: rule.version,
        title: rule.title.clone(),
        severity,
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
        risk_score: i32::from(rule.risk_at(severity)).max(risk),
        user_name: text("user_name"),
        pod: text("pod").or_else(|| text("name").filter(|_| text("resource").as_deref() == Some("pods"))),
        node: text("node").or_else(|| text("node_name")),
        count: 1,
        last_event_time: event_time,
        evidence,
        details: Value::Object(details),
    }
}

/// The same events give the same id, in whatever order and batches they come.
fn identity(rule: &Rule, subject: Option<&Subject>, details: &Map<String, Value>, event_time: i64) -> EventId {
    let text = |name: &str| details.get(name).map(plain);
    let mut key = vec![rule.id.clone(), rule.version.to_string()];
    match subject {
        None => {
            key.push(text("event_id").unwrap_or_default());
            key.extend(PARTS.iter().filter_map(|part| text(part)));
        }
        Some(subject) => {
            // A null differs from any text.
            key.extend(
                subject.columns.iter().map(|name| text(name).map_or_else(String::new, |text| format!("={text}"))),
            );
            key.push(event_time.div_euclid(subject.suppress).to_string());
        }
    }
    let key: Vec<&str> = key.iter().map(String::as_str).collect();
    EventId::of_parts(&key)
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
    fn a_selected_risk_score_raises_the_risk_and_never_lowers_it() {
        let rule = Rule { severity: Severity::Low, risk: None, ..vedette_detections::builtin().unwrap().remove(0) };
        let risk = |selected: Value| {
            let details = Map::from_iter([("risk_score".to_owned(), selected)]);
            one(&rule, None, details, Vec::new(), (0, 0, 0)).risk_score
        };
        let low = risk(Value::Null);
        assert_eq!(low, i32::from(rule.risk_at(Severity::Low)));
        assert_eq!([60.into(), 60.5.into(), 1e9.into(), (-3).into()].map(risk), [60, 61, 100, low]);
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
