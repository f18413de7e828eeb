//! A rule: what it looks for as SQL, what it says, and the cases that prove it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Info,
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Low => "low",
            Severity::Medium => "medium",
            Severity::High => "high",
            Severity::Critical => "critical",
        }
    }
}

/// A rule as its file states it.
///
/// The SQL selects from one table and must return `event_id`. Columns that findings understand by name are `cluster`,
/// `event_time`, `received_at`, `user_name`, `impersonated_user_name`, `namespace`, `resource`, `subresource`, `name`,
/// `source_ip`; every column selected goes into the finding's details, and can stand in the summary as `{column}`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Equal to the file's name without `.yaml`.
    pub id: String,
    /// Part of every finding's identity: raise it when what the rule finds changes.
    #[serde(default = "first_version")]
    pub version: i32,
    pub title: String,
    pub description: String,
    pub severity: Severity,
    /// What kind of rule it is. `match`: every row is a finding.
    #[serde(default)]
    pub kind: RuleKind,
    /// ATT&CK technique ids, such as T1552.007.
    #[serde(default)]
    pub attack: Vec<String>,
    /// Checklist ids, such as SEC-01.
    #[serde(default)]
    pub checklist: Vec<String>,
    #[serde(default)]
    pub references: Vec<String>,
    #[serde(default)]
    pub false_positives: Vec<String>,
    /// What to do when it fires, step by step.
    #[serde(default)]
    pub response: Vec<String>,
    pub sql: String,
    /// One line for people, with `{column}` for each value.
    pub summary: String,
    #[serde(default)]
    pub tests: Vec<RuleTest>,
    /// The file it was loaded from; `None` for a rule of the built-in pack.
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

/// Kinds of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleKind {
    #[default]
    Match,
}

/// A case: events in, expected rows out.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleTest {
    pub name: String,
    /// Events, each a base event's name with overrides.
    pub events: Vec<TestEvent>,
    /// Expected findings in order, each a map of selected columns to values; empty for a quiet case.
    #[serde(default)]
    pub expect: Vec<serde_json::Map<String, serde_json::Value>>,
}

/// An event of a case: a recorded event, with some of its fields set anew.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestEvent {
    /// Name of a base event: a file in the events folder, without `.json`.
    pub base: String,
    #[serde(default = "audit")]
    pub source: String,
    /// Merged into the base as RFC 7396 JSON merge patch: null removes a field.
    #[serde(default)]
    pub set: serde_json::Map<String, serde_json::Value>,
}

fn first_version() -> i32 {
    1
}

fn audit() -> String {
    "audit".into()
}
