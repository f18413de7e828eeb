//! A rule: what it looks for as SQL, what it says, and the cases that prove it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::given::{filled, some_whole, whole, words};
use crate::span::{Span, some_or_zero};

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

/// A rule as its file states it. docs/writing-rules.md explains each field with examples.
///
/// Columns that findings understand by name are `cluster`, `event_id`, `event_time`, `received_at`, `user_name`,
/// `impersonated_user_name`, `source_ip`, `namespace`, `resource`, `subresource`, `name`, `pod`, `node`, `severity` and
/// `risk_score`; every column selected goes into the finding's details, and can stand in the summary as `{column}`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Equal to the file's name without `.yaml`.
    pub id: String,
    /// Part of every finding's identity: raise it when what the rule finds changes.
    #[serde(default = "first_version", deserialize_with = "whole")]
    pub version: i32,
    #[serde(deserialize_with = "words")]
    pub title: String,
    #[serde(deserialize_with = "words")]
    pub description: String,
    pub severity: Severity,
    /// How dangerous a finding is beside others of its severity, 0 to 100. Default by severity: 5, 21, 47, 73, 99.
    #[serde(default, deserialize_with = "some_whole")]
    pub risk: Option<u8>,
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
    /// What is looked for. Of a `sequence`, `steps` say it instead.
    #[serde(default, deserialize_with = "filled")]
    pub sql: String,
    /// Of a `sequence`: what follows on what.
    #[serde(default, deserialize_with = "filled")]
    pub steps: Vec<Step>,
    /// Of a `sequence`: a condition over the steps' columns, such as `used.source_ip <> minted.source_ip`.
    #[serde(default, rename = "where")]
    pub condition: Option<String>,
    /// Of an `absence`: the rows that should come after each row of `sql`. Default: another row of `sql`.
    #[serde(default)]
    pub expects: Option<String>,
    /// How far a `window` looks back, how long a `sequence` may take, how long an `absence` waits, and for how long
    /// `new_terms` remembers.
    #[serde(default)]
    pub window: Option<Span>,
    /// Of a `sequence`: how much earlier than the step before a step may seem to be, where two machines' clocks tell.
    #[serde(default)]
    pub slack: Option<Span>,
    /// The columns that say whom or what a finding is about. Rows that agree in them are one subject. Of a `window` they are
    /// the SQL's GROUP BY.
    #[serde(default, deserialize_with = "filled")]
    pub group_by: Vec<String>,
    /// Of `new_terms`: the columns whose combination is new for the subject.
    #[serde(default, deserialize_with = "filled")]
    pub terms: Vec<String>,
    /// Of `new_terms`: how long a subject must have been known before anything of it is new.
    #[serde(default)]
    pub learning: Option<Span>,
    /// For so long, what is found of one subject is one finding, whose counter goes up.
    #[serde(default)]
    pub suppress: Option<Span>,
    /// When a `scheduled` rule runs: minute, hour, day of month, month, day of week, in UTC.
    #[serde(default)]
    pub schedule: Option<String>,
    /// One line for people, with `{column}` for each value.
    #[serde(deserialize_with = "words")]
    pub summary: String,
    #[serde(default)]
    pub tests: Vec<RuleTest>,
    /// The file it was loaded from; `None` for a rule of the built-in pack.
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

/// Kinds of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleKind {
    /// Every row is a finding.
    #[default]
    Match,
    /// An aggregate over the rows of a subject, up to `window` back from each of them.
    Window,
    /// Steps that follow each other within `window`.
    Sequence,
    /// A combination of columns that the subject has not had within `window`.
    NewTerms,
    /// Something that should have come within `window` and did not.
    Absence,
    /// SQL over the store, run by the clock; every row is a finding.
    Scheduled,
}

impl RuleKind {
    pub fn name(self) -> &'static str {
        match self {
            RuleKind::Match => "match",
            RuleKind::Window => "window",
            RuleKind::Sequence => "sequence",
            RuleKind::NewTerms => "new_terms",
            RuleKind::Absence => "absence",
            RuleKind::Scheduled => "scheduled",
        }
    }
}

/// A step of a sequence.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// By which the other steps' conditions and the findings' columns know it.
    pub name: String,
    pub sql: String,
}

impl Rule {
    /// The SELECTs over tables that the rule is made of, each with the field that states it.
    pub fn selects(&self) -> Vec<(String, &str)> {
        let steps = self.steps.iter().map(|step| (format!("steps.{}", step.name), step.sql.as_str()));
        let sql = (!self.sql.is_empty()).then(|| ("sql".to_owned(), self.sql.as_str()));
        let expects = self.expects.as_deref().map(|sql| ("expects".to_owned(), sql));
        sql.into_iter().chain(expects).chain(steps).collect()
    }

    /// How dangerous its findings are, 0 to 100, at a severity.
    pub fn risk_at(&self, severity: Severity) -> u8 {
        let default = |severity| match severity {
            Severity::Info => 5,
            Severity::Low => 21,
            Severity::Medium => 47,
            Severity::High => 73,
            Severity::Critical => 99,
        };
        match self.risk {
            Some(risk) if severity == self.severity => risk,
            Some(risk) => risk.max(default(severity)),
            None => default(severity),
        }
    }
}

/// A case: events in, expected rows out.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleTest {
    pub name: String,
    /// Events, each a base event's name with overrides.
    pub events: Vec<TestEvent>,
    /// How long after the first event the case ends: an `absence` waits for that. Default: with the last event.
    #[serde(default)]
    pub until: Option<Span>,
    /// Expected findings in order, each a map of selected columns to values; empty for a quiet case.
    #[serde(default)]
    pub expect: Vec<serde_json::Map<String, serde_json::Value>>,
}

/// An event of a case: a recorded event, with some of its fields set anew.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestEvent {
    /// Name of a base event: a file in the events folder, without `.json`.
    pub base: String,
    #[serde(default = "audit")]
    pub source: String,
    /// How long after the case's start it happens, 0s included. Default: at once, if the case says anything of time; else the
    /// event keeps the time at which it was recorded.
    #[serde(default, deserialize_with = "some_or_zero")]
    pub at: Option<Span>,
    /// How many such events there are, each with an id of its own. Default 1.
    #[serde(default, deserialize_with = "some_whole")]
    pub times: Option<u32>,
    /// Between two of them. Default 1s.
    #[serde(default)]
    pub every: Option<Span>,
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
