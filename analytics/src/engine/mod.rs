//! The detection engine: rules planned once by DataFusion, their filters evaluated together over decoded batches.

pub mod check;
mod conditions;
mod finding;
mod input;
mod slot;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use metrics::Counter;
use vedette_detections::sql::session;
use vedette_detections::{Rule, Severity};
use vedette_schemas::{EventId, Table};

use conditions::{Conditions, Rows};
pub use finding::{Finding, json_rows};
use input::Input;
use slot::Slot;

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

/// A rule as the engine runs it.
struct Live {
    rule: Rule,
    input: Input,
    hits: Counter,
    micros: Counter,
    /// Time spent on it so far, in nanoseconds.
    spent: AtomicU64,
}

/// The rules of one table, evaluated together.
struct Room {
    conditions: Conditions,
    rules: Vec<Live>,
    /// Time spent on looking into bodies so far, which the rules that ask for it share.
    looking: Duration,
}

/// What a rule has cost so far.
#[derive(Clone, Debug)]
pub struct Cost {
    pub rule: String,
    /// Spent on its conditions, on what it selects, and on its share of looking into bodies.
    pub spent: Duration,
}

/// Rules, compiled.
pub struct Engine {
    context: SessionContext,
    rooms: BTreeMap<Table, Room>,
}

/// What one rule selected of one batch, or why it could not.
type Outcome = Result<Vec<RecordBatch>, DataFusionError>;

impl Engine {
    /// Plans every rule. The first that doesn't plan is the error.
    pub async fn new(rules: Vec<Rule>) -> Result<Self, EngineError> {
        let mut engine = Self { context: session()?, rooms: BTreeMap::new() };
        for rule in rules {
            let id = rule.id.clone();
            let failed = |reason: DataFusionError| EngineError::Rule { rule: id, reason: reason.to_string() };
            engine.add(rule).await.map_err(failed)?;
        }
        Ok(engine)
    }

    async fn add(&mut self, rule: Rule) -> Result<(), DataFusionError> {
        let slot = Slot::default();
        input::register(&self.context, &slot)?;
        let state = self.context.state();
        let logical = state.optimize(&state.create_logical_plan(&rule.sql).await?)?;
        let (mut input, filters) = Input::plan(&self.context, slot, &logical).await?;
        let new =
            || Room { conditions: Conditions::new(input.table.schema()), rules: Vec::new(), looking: Duration::ZERO };
        let room = self.rooms.entry(input.table).or_insert_with(new);
        input.program = room.conditions.add(&self.context, &filters)?;
        let hits = metrics::counter!("vedette_rule_hits_total", "rule" => rule.id.clone());
        let micros = metrics::counter!("vedette_rule_microseconds_total", "rule" => rule.id.clone());
        room.rules.push(Live { rule, input, hits, micros, spent: AtomicU64::new(0) });
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
            let outcomes = room.outcomes(&self.context, batch).await;
            let mut failed = Vec::new();
            for (index, outcome) in outcomes {
                let live = &room.rules[index];
                let found = outcome.and_then(|rows| {
                    let mut found = Vec::new();
                    for rows in rows {
                        found.extend(finding::from_rows(&live.rule, &rows, now)?);
                    }
                    Ok(found)
                });
                match found {
                    Ok(found) => {
                        live.hits.increment(found.len() as u64);
                        findings.extend(found);
                    }
                    Err(error) => failed.push((index, error)),
                }
            }
            for (index, error) in failed.into_iter().rev() {
                let live = room.rules.remove(index);
                findings.push(rule_failed(&live.rule, &error, now));
            }
        }
        findings
    }

    /// What each rule has cost so far, the dearest first.
    pub fn costs(&self) -> Vec<Cost> {
        let mut costs = Vec::new();
        for room in self.rooms.values() {
            let asking = room.rules.iter().filter(|live| live.input.program.looks_into_bodies()).count().max(1) as u32;
            costs.extend(room.rules.iter().map(|live| {
                let own = Duration::from_nanos(live.spent.load(Ordering::Relaxed));
                let shared =
                    if live.input.program.looks_into_bodies() { room.looking / asking } else { Duration::ZERO };
                Cost { rule: live.rule.id.clone(), spent: own + shared }
            }));
        }
        costs.sort_by_key(|cost| std::cmp::Reverse(cost.spent));
        costs
    }

    /// The rows that each rule selects of one batch, by the rule's id, as far as there are any.
    pub async fn select(&mut self, tables: &Tables) -> Result<Vec<(String, Vec<RecordBatch>)>, DataFusionError> {
        let mut selected = Vec::new();
        for (table, batch) in tables {
            let Some(room) = self.rooms.get_mut(table).filter(|_| batch.num_rows() > 0) else { continue };
            for (index, rows) in room.outcomes(&self.context, batch).await {
                selected.push((room.rules[index].rule.id.clone(), rows?));
            }
        }
        Ok(selected)
    }
}

impl Room {
    /// What the rules select of a batch, in their order; rules that select nothing are left out.
    async fn outcomes(&mut self, context: &SessionContext, batch: &RecordBatch) -> Vec<(usize, Outcome)> {
        let Self { conditions, rules, looking } = self;
        conditions.begin();
        let mut bodies = Rows::none(batch.num_rows());
        let mut passed = Vec::with_capacity(rules.len());
        let mut started = Instant::now();
        for live in rules.iter() {
            let rows = conditions.before_bodies(batch, &live.input.program);
            if let Ok(rows) = &rows
                && live.input.program.looks_into_bodies()
            {
                bodies.unite(rows);
            }
            passed.push(rows);
            live.took(&mut started);
        }
        let looked = if bodies.is_empty() { Ok(()) } else { conditions.look_into_bodies(batch, bodies) };
        *looking += started.elapsed();
        started = Instant::now();
        let mut outcomes = Vec::new();
        for (index, (live, rows)) in rules.iter().zip(passed).enumerate() {
            let rows = rows.and_then(|mut rows| {
                if live.input.program.looks_into_bodies() && !rows.is_empty() {
                    looked.as_ref().map_err(|error| DataFusionError::Execution(error.to_string()))?;
                    conditions.in_bodies(batch, &live.input.program, &mut rows)?;
                }
                Ok(rows)
            });
            match rows {
                Ok(rows) if rows.is_empty() => {}
                Ok(rows) => outcomes.push((index, live.input.rows(context, batch, &rows).await)),
                Err(error) => outcomes.push((index, Err(error))),
            }
            live.took(&mut started);
        }
        outcomes
    }
}

impl Live {
    /// Adds the time since `started` to what the rule has cost, and starts anew.
    fn took(&self, started: &mut Instant) {
        let now = Instant::now();
        let nanos = (now - *started).as_nanos() as u64;
        let spent = self.spent.fetch_add(nanos, Ordering::Relaxed) + nanos;
        self.micros.absolute(spent / 1000);
        *started = now;
    }
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
