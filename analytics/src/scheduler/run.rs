//! One run of a scheduled rule: its findings go to the alert topic, then to the store, and the run is recorded last. What a
//! crash leaves half done is done again, under the same ids.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::config::Dialect;
use datafusion::error::DataFusionError;
use datafusion::prelude::{SessionContext, col, lit};
use datafusion::scalar::ScalarValue;
use futures::FutureExt;
use tokio::sync::mpsc::UnboundedSender;
use vedette_detections::{Lists, Rule, Span};
use vedette_journal::{Journal, JournalError, Positions, Topic};
use vedette_schemas::{EventId, Table};

use super::history::Run;
use crate::engine::{Finding, HistoryError, RULE_FAILED, history, report};
use crate::pipeline::{Seen, announce, batch, records};
use crate::store::{Store, StoreError, Write};

const DAY: i64 = 86_400_000_000;

/// How long a rule's SQL may take.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Most findings whose ids are asked for or remembered.
const MOST_FINDINGS: usize = 10_000_000;

/// What keeps any rule from running.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Journal(JournalError),
    #[error("the history of runs: {0}")]
    History(#[from] HistoryError),
}

/// Why a run did not come about.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The rule is at fault, or what it found.
    #[error("{0}")]
    Rule(String),
    #[error(transparent)]
    Other(#[from] RunError),
}

impl From<HistoryError> for Failure {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Store(error) => Failure::Other(error.into()),
            error => Failure::Rule(error.to_string()),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::Other(error.into())
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::TooLarge { .. } => Failure::Rule(format!("its findings: {error}")),
            error => Failure::Other(RunError::Journal(error)),
        }
    }
}

impl From<DataFusionError> for Failure {
    fn from(error: DataFusionError) -> Self {
        Failure::Rule(error.strip_backtrace())
    }
}

impl From<ArrowError> for Failure {
    fn from(error: ArrowError) -> Self {
        Failure::Rule(error.to_string())
    }
}

/// Runs scheduled rules, one at a time.
pub struct Runner {
    journal: Arc<dyn Journal>,
    store: Arc<dyn Store>,
    on_finding: Option<UnboundedSender<Finding>>,
    /// Findings that the alert topic has from here. They are not told again when the store did not take them.
    told: Seen,
}

impl Runner {
    /// `on_finding` sees each finding once the alert topic has it.
    pub fn new(journal: Arc<dyn Journal>, store: Arc<dyn Store>, on_finding: Option<UnboundedSender<Finding>>) -> Self {
        Self { journal, store, on_finding, told: Seen::new(100_000) }
    }

    /// Runs a rule for the period from `start` to before `end`, and records the run. Returns it with the findings that are new;
    /// a rule that fails has one about itself a day. Times are microseconds since 1970; `now` is the present.
    pub async fn run(
        &mut self,
        rule: &Rule,
        lists: &Arc<Lists>,
        (start, end): (i64, i64),
        now: i64,
    ) -> Result<(Run, Vec<Finding>), RunError> {
        let began = Instant::now();
        let mut run = Run {
            rule_id: rule.id.clone(),
            rule_version: rule.version,
            period_start: start,
            period_end: end,
            began: now,
            ended: now,
            period_rows: 0,
            findings: 0,
            new_findings: 0,
            error: None,
        };
        let new = match self.found(rule, lists, &mut run).await {
            Ok(new) => new,
            Err(Failure::Other(error)) => return Err(error),
            Err(Failure::Rule(error)) => {
                tracing::error!(rule = %rule.id, error, "scheduled rule failed");
                metrics::counter!("vedette_rule_errors_total", "rule" => rule.id.clone()).increment(1);
                let about = failed(rule, error.clone(), now);
                run.error = Some(error);
                match self.raise(vec![about], now.div_euclid(DAY) * DAY, now).await {
                    Ok(new) => new,
                    Err(Failure::Other(error)) => return Err(error),
                    Err(Failure::Rule(error)) => {
                        tracing::error!(rule = %rule.id, error, "can't tell that it failed");
                        Vec::new()
                    }
                }
            }
        };
        run.ended = now + micros(began.elapsed());
        self.record(&run).await?;
        count(&run, began.elapsed());
        Ok((run, new))
    }

    /// Rows of the period, by event time, in the tables that the rule reads, as of now.
    pub async fn period_rows(
        &self,
        rule: &Rule,
        lists: &Arc<Lists>,
        (start, end): (i64, i64),
    ) -> Result<i64, HistoryError> {
        let context = history::session(&self.store, lists, i64::MIN, i64::MAX).await?;
        Ok(period_rows(&context, rule, (start, end)).await?)
    }

    async fn found(&mut self, rule: &Rule, lists: &Arc<Lists>, run: &mut Run) -> Result<Vec<Finding>, Failure> {
        let period = (run.period_start, run.period_end);
        let context = history::session(&self.store, lists, i64::MIN, i64::MAX).await?;
        // Counted before: what comes in between is found by another run at worst.
        let found = async {
            run.period_rows = period_rows(&context, rule, period).await?;
            report(&context, rule, period.0, period.1).await
        };
        // What a rule's SQL can bring down must not be the schedule.
        let found = tokio::time::timeout(LONGEST, AssertUnwindSafe(found).catch_unwind()).await;
        let found = found.map_err(|_| Failure::Rule(format!("it took more than {} s", LONGEST.as_secs())))?;
        let found = found.map_err(|_| Failure::Rule("it panicked; the log says where".into()))??;
        let suppress = rule.suppress.map_or(0, Span::micros);
        // The same finding may have been received at another time in an earlier run, but not before its period.
        let oldest = found.iter().map(|finding| finding.received_at.min(finding.event_time - suppress)).min();
        let since = oldest.unwrap_or(period.0).min(period.0) - DAY;
        run.findings = found.len();
        let new = self.raise(found, since, run.began).await?;
        run.new_findings = new.len();
        metrics::counter!("vedette_rule_hits_total", "rule" => rule.id.clone()).increment(new.len() as u64);
        Ok(new)
    }

    /// Tells and stores the findings that the store does not have, and returns them. None of the others was received before
    /// `since`, in microseconds since 1970.
    async fn raise(&mut self, mut findings: Vec<Finding>, since: i64, now: i64) -> Result<Vec<Finding>, Failure> {
        if findings.is_empty() {
            return Ok(findings);
        }
        let known = self.store.recent_ids(Table::Alerts, since, MOST_FINDINGS).await?;
        let mut known: HashSet<EventId> = known.into_iter().collect();
        findings.retain(|finding| known.insert(finding.alert_id));
        findings.iter_mut().for_each(|finding| finding.raised_at = now);
        let untold: Vec<Finding> =
            findings.iter().filter(|finding| !self.told.contains(finding.alert_id)).cloned().collect();
        self.journal.append(Topic::Alerts, records(&untold)?).await?;
        for finding in &untold {
            self.told.insert(finding.alert_id);
        }
        announce(untold, self.on_finding.as_ref());
        if !findings.is_empty() {
            self.write(Table::Alerts, batch(&findings)?).await?;
        }
        Ok(findings)
    }

    async fn record(&self, run: &Run) -> Result<(), RunError> {
        let row = run.batch();
        let row = row.map_err(|error| StoreError::Rejected { store: "runs", reason: error.to_string() })?;
        Ok(self.write(Table::Runs, row).await?)
    }

    async fn write(&self, table: Table, rows: RecordBatch) -> Result<(), StoreError> {
        let (from, to) = (Positions::new(), Positions::new());
        self.store.write(Write { table, batches: vec![rows], journal: self.journal.id().into(), from, to }).await
    }
}

async fn period_rows(context: &SessionContext, rule: &Rule, (start, end): (i64, i64)) -> Result<i64, DataFusionError> {
    let state = context.state();
    let statement = state.sql_to_statement(&rule.sql, &Dialect::PostgreSQL)?;
    let named = state.resolve_table_references(&statement)?;
    let named: HashSet<Table> = named.iter().filter_map(|name| Table::parse(name.table())).collect();
    let utc = |micros| lit(ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into())));
    // Nothing is received before it happens, but for clocks that differ.
    let day = lit(ScalarValue::Date32(i32::try_from((start - DAY).div_euclid(DAY)).ok()));
    let mut all = 0;
    // A run adds to `runs` itself, and its findings to the alerts.
    for table in named.into_iter().filter(|table| *table != Table::Runs) {
        let time = col("event_time");
        let mut within = col("day").gt_eq(day.clone()).and(time.clone().gt_eq(utc(start))).and(time.lt(utc(end)));
        if table == Table::Alerts {
            within = within.and(col("rule_id").not_eq(lit(rule.id.as_str())));
        }
        let rows = context.table(table.name()).await?.filter(within)?.count().await?;
        all += i64::try_from(rows).unwrap_or(i64::MAX);
    }
    Ok(all)
}

/// A finding that a rule failed, the same for all of a day.
fn failed(rule: &Rule, error: String, now: i64) -> Finding {
    let today = now.div_euclid(DAY) * DAY;
    let about = Finding::about_rule(RULE_FAILED, "A scheduled detection rule failed", rule, error, today);
    Finding { event_time: now, received_at: now, raised_at: now, last_event_time: now, ..about }
}

fn count(run: &Run, took: Duration) {
    let rule = || run.rule_id.clone();
    metrics::counter!("vedette_scheduled_runs_total", "rule" => rule(), "outcome" => run.outcome()).increment(1);
    metrics::histogram!("vedette_scheduled_run_seconds", "rule" => rule()).record(took.as_secs_f64());
    if run.error.is_none() {
        super::metric_of_success(&run.rule_id, run.began);
    }
}

pub(super) fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
