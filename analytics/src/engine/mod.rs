//! The detection engine: rules planned once by DataFusion, their filters evaluated together over decoded batches.

mod atom;
pub mod check;
mod compiled;
mod finding;
mod slot;

use std::collections::BTreeMap;
use std::time::Instant;

use arrow::compute::filter_record_batch;
use arrow::record_batch::RecordBatch;
use datafusion::common::DFSchema;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use vedette_detections::sql::session;
use vedette_detections::{Rule, Severity};
use vedette_schemas::{EventId, Table};

use atom::Atoms;
use compiled::Compiled;
pub use finding::{Finding, json_rows};

/// The id of the rule behind findings about failing rules.
pub const RULE_FAILED: &str = "vedette_rule_failed";

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("rule {rule}: {reason}")]
    Rule { rule: String, reason: String },
    #[error("engine: {0}")]
    Context(#[from] DataFusionError),
}

/// Decoded rows of one batch, by table. Tables without rows may be absent.
pub type Tables = BTreeMap<Table, RecordBatch>;

/// The rules of one table, evaluated together.
#[derive(Default)]
struct Room {
    atoms: Atoms,
    rules: Vec<Compiled>,
}

/// Rules, compiled.
pub struct Engine {
    context: SessionContext,
    rooms: BTreeMap<Table, Room>,
}

impl Engine {
    /// Plans every rule. The first that doesn't plan is the error.
    pub async fn new(rules: Vec<Rule>) -> Result<Self, EngineError> {
        let context = session()?;
        let mut rooms: BTreeMap<Table, Room> = BTreeMap::new();
        for rule in rules {
            let id = rule.id.clone();
            let failed = |reason: DataFusionError| EngineError::Rule { rule: id, reason: reason.to_string() };
            Self::add(&context, &mut rooms, rule).await.map_err(failed)?;
        }
        Ok(Self { context, rooms })
    }

    async fn add(
        context: &SessionContext,
        rooms: &mut BTreeMap<Table, Room>,
        rule: Rule,
    ) -> Result<(), DataFusionError> {
        let (mut compiled, filters) = Compiled::plan(context, rule).await?;
        let room = rooms.entry(compiled.table).or_default();
        let schema = DFSchema::try_from(compiled.table.schema().as_ref().clone())?;
        compiled.program = room.atoms.add(context, &schema, &filters)?;
        room.rules.push(compiled);
        Ok(())
    }

    /// How many rules are live.
    pub fn len(&self) -> usize {
        self.rooms.values().map(|room| room.rules.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The findings of one batch. A rule that fails is taken out, and a finding says so; the others go on.
    pub async fn evaluate(&mut self, tables: &Tables, now: i64) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (table, batch) in tables {
            let Some(room) = self.rooms.get_mut(table).filter(|_| batch.num_rows() > 0) else { continue };
            room.atoms.reset();
            let mut failed = Vec::new();
            for (index, compiled) in room.rules.iter().enumerate() {
                let started = Instant::now();
                match run(&self.context, &mut room.atoms, compiled, batch, now).await {
                    Ok(mut found) => {
                        metrics::counter!("vedette_rule_hits_total", "rule" => compiled.rule.id.clone())
                            .increment(found.len() as u64);
                        findings.append(&mut found);
                    }
                    Err(error) => failed.push((index, error)),
                }
                metrics::counter!("vedette_rule_microseconds_total", "rule" => compiled.rule.id.clone())
                    .increment(started.elapsed().as_micros() as u64);
            }
            for (index, error) in failed.into_iter().rev() {
                let compiled = room.rules.remove(index);
                findings.push(rule_failed(&compiled.rule, &error, now));
            }
        }
        findings
    }
}

async fn run(
    context: &SessionContext,
    atoms: &mut Atoms,
    compiled: &Compiled,
    batch: &RecordBatch,
    now: i64,
) -> Result<Vec<Finding>, DataFusionError> {
    let Some(selected) = atoms.select(batch, &compiled.program)? else { return Ok(Vec::new()) };
    let input = filter_record_batch(&batch.project(&compiled.projection)?, &selected)?;
    let mut findings = Vec::new();
    for rows in compiled.finish(context, input).await? {
        findings.extend(finding::from_rows(&compiled.rule, &rows, now)?);
    }
    Ok(findings)
}

fn rule_failed(rule: &Rule, error: &DataFusionError, now: i64) -> Finding {
    tracing::error!(rule = %rule.id, %error, "rule failed and is disabled");
    metrics::counter!("vedette_rule_errors_total", "rule" => rule.id.clone()).increment(1);
    Finding {
        alert_id: EventId::of_parts(&[RULE_FAILED, &rule.id, &rule.version.to_string(), &now.to_string()]),
        rule_id: RULE_FAILED.into(),
        rule_version: 1,
        title: "A detection rule failed and is disabled".into(),
        severity: Severity::High,
        cluster: String::new(),
        event_time: now,
        received_at: now,
        raised_at: now,
        summary: format!("Rule {} is disabled until it is loaded again: {error}", rule.id),
        actor: None,
        target: Some(rule.id.clone()),
        namespace: None,
        source_ip: None,
        attack: Vec::new(),
        tags: Vec::new(),
        evidence: Vec::new(),
        details: serde_json::json!({ "rule": rule.id, "error": error.to_string() }),
    }
}
