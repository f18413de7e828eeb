//! The events of rules' tests: recorded ones, with some of their fields set anew.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::pack;
use crate::rule::{Rule, RuleTest, TestEvent};
use crate::span::Span;

/// How far above a rule's file its `events` folder may lie: `events/` beside `rules/<area>/<id>.yaml` is found.
const LEVELS: usize = 4;

/// Why a test's event could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TestEventError {
    #[error("no base event {0}: neither built in nor in an events folder at or above the rule's")]
    Unknown(String),
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("base event {base}: {source}")]
    Json { base: String, source: serde_json::Error },
}

/// The text of a built-in base event.
pub fn base_event(name: &str) -> Option<&'static str> {
    pack::EVENTS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// The names of the built-in base events, sorted.
pub fn base_events() -> impl Iterator<Item = &'static str> {
    pack::EVENTS.iter().map(|(name, _)| *name)
}

/// A built-in base event with each of `sets` merged into it in turn (RFC 7396).
pub fn recorded(base: &str, sets: &[&Map<String, Value>]) -> Result<Value, TestEventError> {
    let text = base_event(base).ok_or_else(|| TestEventError::Unknown(base.to_owned()))?;
    let mut value =
        serde_json::from_str(text).map_err(|source| TestEventError::Json { base: base.to_owned(), source })?;
    sets.iter().filter(|set| !set.is_empty()).for_each(|set| merge(&mut value, set));
    Ok(value)
}

/// An event of a case, as a sender would send it.
#[derive(Clone, Debug)]
pub struct CaseEvent {
    /// `audit` or `falco`.
    pub source: String,
    /// The name of its base.
    pub base: String,
    pub bytes: Vec<u8>,
    /// When it happens, if the case says so, in microseconds since 1970.
    pub at: Option<i64>,
}

/// When cases begin whose events say when they happen: 2026-01-01T00:00:00Z.
pub const CASE_START: i64 = 1_767_225_600_000_000;

/// The events of a case, in its order.
pub fn case_events(test: &RuleTest, rule: &Rule) -> Result<Vec<CaseEvent>, TestEventError> {
    let timed = test.until.is_some() || test.events.iter().any(|e| e.at.is_some() || e.times.is_some());
    let mut events = Vec::new();
    for event in &test.events {
        let every = event.every.map_or(1_000_000, Span::micros);
        for nth in 0..event.times.unwrap_or(1) {
            let at = CASE_START + event.at.map_or(0, Span::micros) + i64::from(nth) * every;
            let at = timed.then_some(at);
            let bytes = event_bytes(event, rule, at, nth)?;
            events.push(CaseEvent { source: event.source.clone(), base: event.base.clone(), bytes, at });
        }
    }
    Ok(events)
}

/// An event's base, from an `events` folder beside or above the rule's file or else built in, with `set` merged into it
/// (RFC 7396), at a time, the nth of several.
fn event_bytes(event: &TestEvent, rule: &Rule, at: Option<i64>, nth: u32) -> Result<Vec<u8>, TestEventError> {
    let failed = |source| TestEventError::Json { base: event.base.clone(), source };
    let mut value: Value = serde_json::from_str(&base_text(&event.base, rule)?).map_err(failed)?;
    if let Some(time) = at.and_then(chrono::DateTime::from_timestamp_micros) {
        let time = Value::from(time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true));
        let keys: &[&str] =
            if event.source == "falco" { &["time"] } else { &["requestReceivedTimestamp", "stageTimestamp"] };
        for key in keys {
            value[*key] = time.clone();
        }
    }
    if let Some(id) = value.get("auditID").and_then(Value::as_str).filter(|_| nth > 0).map(|id| format!("{id}-{nth}")) {
        value["auditID"] = id.into();
    }
    if !event.set.is_empty() {
        merge(&mut value, &event.set);
    }
    serde_json::to_vec(&value).map_err(failed)
}

fn base_text(name: &str, rule: &Rule) -> Result<Cow<'static, str>, TestEventError> {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let folders = rule.file.iter().flat_map(|file| file.ancestors().skip(1).take(LEVELS));
    for folder in folders.filter(|_| plain) {
        let path = folder.join("events").join(format!("{name}.json"));
        match fs::read_to_string(&path) {
            Ok(text) => return Ok(text.into()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(source) => return Err(TestEventError::Read { path, source }),
        }
    }
    base_event(name).map(Cow::Borrowed).ok_or_else(|| TestEventError::Unknown(name.to_owned()))
}

/// RFC 7396: null removes, objects merge, everything else replaces.
fn merge(target: &mut Value, patch: &Map<String, Value>) {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (key, value) in patch {
        match value {
            Value::Null => {
                fields.remove(key);
            }
            Value::Object(inner) => merge(fields.entry(key.clone()).or_insert(Value::Null), inner),
            other => {
                fields.insert(key.clone(), other.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merging_follows_the_examples_of_the_rfc() {
        for (target, patch, want) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a"]), json!({"a": {"b": {"c": null}}}), json!({"a": {"b": {}}})),
        ] {
            let mut merged = target.clone();
            merge(&mut merged, patch.as_object().unwrap());
            assert_eq!(merged, want, "{target} with {patch}");
        }
    }

    fn rule(file: Option<PathBuf>) -> Rule {
        let text = "id: a\ntitle: t\ndescription: d\nseverity: low\nsql: SELECT 1\nsummary: s\n";
        Rule { file, ..serde_saphyr::from_str(text).unwrap() }
    }

    fn event(base: &str, set: Value) -> TestEvent {
        serde_json::from_value(json!({"base": base, "set": set})).unwrap()
    }

    #[test]
    fn a_rules_own_events_are_found_beside_and_above_it() {
        let folder = tempfile::tempdir().unwrap();
        for (place, who) in [("events", "far"), ("rules/area/events", "near")] {
            fs::create_dir_all(folder.path().join(place)).unwrap();
            fs::write(folder.path().join(place).join("own.json"), json!({"user": {"username": who}}).to_string())
                .unwrap();
        }
        for (file, who) in [("rules/area/a.yaml", "near"), ("rules/other/a.yaml", "far")] {
            let event = event("own", json!({"verb": "get"}));
            let bytes = event_bytes(&event, &rule(Some(folder.path().join(file))), None, 0);
            let value: Value = serde_json::from_slice(&bytes.unwrap()).unwrap();
            assert_eq!(value, json!({"user": {"username": who}, "verb": "get"}));
        }
    }

    #[test]
    fn sets_are_merged_in_turn_into_a_built_in_event() {
        let (first, second) = (json!({"verb": "get", "user": {"uid": null}}), json!({"verb": "list"}));
        let event = recorded("secret_get", &[first.as_object().unwrap(), second.as_object().unwrap()]).unwrap();
        assert_eq!(event["verb"], "list");
        assert_eq!(event["user"]["username"], "oidc:dana@example.com");
        assert!(event["user"].get("uid").is_none());
        assert!(matches!(recorded("nothing", &[]), Err(TestEventError::Unknown(_))));
    }

    #[test]
    fn names_that_leave_the_folder_and_unknown_ones_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("events")).unwrap();
        fs::write(folder.path().join("out.json"), "{}").unwrap();
        for name in ["../out", "nothing"] {
            let made = event_bytes(&event(name, json!({})), &rule(Some(folder.path().join("a.yaml"))), None, 0);
            assert!(matches!(made, Err(TestEventError::Unknown(_))), "{name}");
        }
    }
}
