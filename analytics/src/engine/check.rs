//! A rule's own cases, run through the production engine.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use serde_json::{Map, Value};
use vedette_detections::rule::RuleTest;
use vedette_detections::sql::session_with_lists;
use vedette_detections::{CASE_START, CaseEvent, Lists, Rule, RuleKind, Schedule, Span, builtin, case_events};
use vedette_schemas::{AuditDecoder, FalcoDecoder, Table, derive};

use super::{Engine, EngineError, Finding, Options, Tables};

/// How a case ended.
#[derive(Clone, Debug, PartialEq)]
pub struct CaseOutcome {
    pub case: String,
    /// Findings' columns that the case expects, in order.
    pub expected: Vec<Map<String, Value>>,
    /// What came instead: for a finding that answers an expected one, the columns that it names; for any other, all.
    /// Empty vector with `error` set if the case could not be run.
    pub found: Vec<Map<String, Value>>,
    pub error: Option<String>,
}

impl CaseOutcome {
    pub fn passed(&self) -> bool {
        self.error.is_none() && self.expected == self.found
    }
}

/// What makes a rule dearer than it needs to be, in lines for people.
pub async fn advice(rule: &Rule, lists: &Arc<Lists>) -> Result<Vec<String>, EngineError> {
    Ok(Engine::with(vec![rule.clone()], options(lists)).await?.advice())
}

fn options(lists: &Arc<Lists>) -> Options {
    Options { lists: lists.clone(), ..Options::default() }
}

/// Runs every case of a rule, whose SQL may name these lists.
pub async fn run(rule: &Rule, lists: &Arc<Lists>) -> Result<Vec<CaseOutcome>, EngineError> {
    let mut outcomes = Vec::with_capacity(rule.tests.len());
    for test in &rule.tests {
        // A new engine a case: a rule that failed in one is live again in the next.
        let mut engine = Engine::with(vec![rule.clone()], options(lists)).await?;
        outcomes.push(case(&mut engine, rule, lists, test).await);
    }
    Ok(outcomes)
}

async fn case(engine: &mut Engine, rule: &Rule, lists: &Arc<Lists>, test: &RuleTest) -> CaseOutcome {
    let mut outcome =
        CaseOutcome { case: test.name.clone(), expected: test.expect.clone(), found: Vec::new(), error: None };
    let findings = match findings(engine, rule, lists, test).await {
        Ok(findings) => findings,
        Err(error) => return CaseOutcome { error: Some(error), ..outcome },
    };
    for (index, finding) in findings.into_iter().enumerate() {
        if finding.rule_id == super::RULE_FAILED {
            return CaseOutcome { error: Some(finding.summary), ..outcome };
        }
        let Value::Object(row) = finding.details else { continue };
        outcome.found.push(match test.expect.get(index) {
            Some(expected) => {
                expected.keys().map(|key| (key.clone(), row.get(key).cloned().unwrap_or(Value::Null))).collect()
            }
            None => row,
        });
    }
    outcome
}

/// What a case's events raise, and the end of its time.
async fn findings(
    engine: &mut Engine,
    rule: &Rule,
    lists: &Arc<Lists>,
    test: &RuleTest,
) -> Result<Vec<Finding>, String> {
    let events = case_events(test, rule).map_err(|error| error.to_string())?;
    let last = events.iter().filter_map(|event| event.at).max().unwrap_or(CASE_START);
    let tables = decode(&events)?;
    if rule.kind == RuleKind::Scheduled {
        let end = CASE_START + test.until.map_or(DAY, Span::micros);
        return scheduled(rule, lists, tables, end).await;
    }
    let mut findings = engine.evaluate(&tables, last).await;
    let end = test.until.map_or(last, |until| CASE_START + until.micros());
    findings.extend(engine.pass(end, end).await);
    Ok(findings)
}

/// A scheduled rule over a case's events, run whenever it is due before the case ends, or within a day. Its alerts are those
/// that the pack's other rules raise.
async fn scheduled(rule: &Rule, lists: &Arc<Lists>, mut tables: Tables, end: i64) -> Result<Vec<Finding>, String> {
    let schedule: Schedule = rule.schedule.as_deref().unwrap_or_default().parse()?;
    if rule.sql.contains("alerts") {
        let pack = builtin().map_err(|error| error.to_string())?;
        let mut engine = Engine::new(pack).await.map_err(|error| error.to_string())?;
        let mut findings = engine.evaluate(&tables, end).await;
        findings.extend(engine.pass(end, end).await);
        let alerts = crate::pipeline::batch(&findings).map_err(|error| error.to_string())?;
        tables.insert(Table::Alerts, alerts);
    }
    let mut findings = Vec::new();
    for (start, end) in schedule.periods(CASE_START, end) {
        findings.extend(run_once(rule, lists, &tables, start, end).await.map_err(|error| error.to_string())?);
    }
    let mut known = HashSet::new();
    findings.retain(|finding: &Finding| known.insert(finding.alert_id));
    Ok(findings)
}

async fn run_once(
    rule: &Rule,
    lists: &Arc<Lists>,
    tables: &Tables,
    start: i64,
    end: i64,
) -> Result<Vec<Finding>, DataFusionError> {
    let context = session_with_lists(lists.clone(), |config| config.with_target_partitions(1))?;
    for table in Table::ALL {
        let empty = || RecordBatch::new_empty(table.schema());
        let rows = tables.get(&table).cloned().unwrap_or_else(empty);
        context.register_table(table.name(), Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]])?))?;
    }
    super::report(&context, rule, start, end).await
}

const DAY: i64 = 86_400_000_000;

fn decode(events: &[CaseEvent]) -> Result<Tables, String> {
    let (mut audit, mut falco) = (AuditDecoder::new(), FalcoDecoder::new());
    for event in events {
        let received_at = event.at.unwrap_or(CASE_START);
        let decoded = match event.source.as_str() {
            "audit" => audit.push("test", received_at, &event.bytes),
            "falco" => falco.push("test", received_at, &event.bytes),
            other => return Err(format!("source {other}: expected audit or falco")),
        };
        decoded.map_err(|error| format!("event {}: {error}", event.base))?;
    }
    let mut tables = derive::tables(audit.finish());
    tables.insert(Table::Falco, falco.finish());
    Ok(tables)
}
