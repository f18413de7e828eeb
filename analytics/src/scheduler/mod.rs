//! Scheduled rules by the clock: one process of the consumer group runs each for every period of its schedule, catches up on
//! what was missed, and runs a period again when rows of it came late.

mod due;
mod history;
mod run;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vedette_detections::{Rule, RuleKind, Ruleset, Schedule};

use crate::engine::HistoryError;
use crate::pipeline::Config;
use crate::store::Store;
use due::{Job, Past, Reach, Why};
pub use history::Run;
use run::micros;
pub use run::{RunError, Runner};

/// How often is looked whether anything is due.
const TICK: Duration = Duration::from_secs(5);

/// How long nothing is tried after the store or the journal failed.
const PAUSE: Duration = Duration::from_secs(60);

/// Runs scheduled rules beside the pipeline, so that their SQL holds up no events.
pub struct Scheduler {
    store: Arc<dyn Store>,
    runner: Runner,
    rules: watch::Receiver<Arc<Ruleset>>,
    elected: watch::Receiver<bool>,
    reach: Reach,
    /// What is known of each rule's runs; nothing before the store was asked, and where another process runs the schedule.
    pasts: Option<BTreeMap<String, Past>>,
}

impl Scheduler {
    /// `rules` are looked up anew each time; nothing runs while `elected` is false.
    pub fn new(
        config: &Config,
        store: Arc<dyn Store>,
        runner: Runner,
        rules: watch::Receiver<Arc<Ruleset>>,
        elected: watch::Receiver<bool>,
    ) -> Self {
        let reach = Reach {
            lateness: i64::from(config.lateness_seconds) * 1_000_000,
            overlap: i64::from(config.schedule_overlap_hours) * 3_600_000_000,
        };
        Self { store, runner, rules, elected, reach, pasts: None }
    }

    /// Runs until the token is cancelled. A run under way is given up then: it is not recorded, and so is done again.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut wait = TICK;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = tokio::select! {
                () = stop.cancelled() => return,
                turn = self.turn(chrono::Utc::now().timestamp_micros()) => match turn {
                    Ok(()) => TICK,
                    Err(error) => {
                        tracing::error!(%error, "scheduled rules can't run; trying again");
                        PAUSE
                    }
                }
            };
        }
    }

    /// Runs all that is due at `now`, in microseconds since 1970, one after the other, the oldest period first. A rule that
    /// fails stops no other; the error is that of the store or the journal, without which none can run.
    pub async fn turn(&mut self, now: i64) -> Result<(), RunError> {
        if self.elected.has_changed().unwrap_or(false) {
            // Another process may have been at it meanwhile.
            self.pasts = None;
        }
        let elected = *self.elected.borrow_and_update();
        metrics::gauge!("vedette_schedule_elected").set(if elected { 1.0 } else { 0.0 });
        if !elected {
            return Ok(());
        }
        let started = Instant::now();
        let ruleset = self.rules.borrow().clone();
        let mut pasts = match self.pasts.take() {
            Some(pasts) => pasts,
            None => history::read(&self.store, now - self.reach.overlap).await?,
        };
        let result = self.work(&ruleset, &mut pasts, now, started).await;
        self.pasts = Some(pasts);
        result
    }

    async fn work(
        &mut self,
        ruleset: &Ruleset,
        pasts: &mut BTreeMap<String, Past>,
        now: i64,
        started: Instant,
    ) -> Result<(), RunError> {
        let mut jobs = Vec::new();
        for rule in ruleset.rules.iter().filter(|rule| rule.kind == RuleKind::Scheduled) {
            // The engine refuses a rule whose schedule can't be read.
            let Some(Ok(schedule)) = rule.schedule.as_ref().map(|text| text.parse::<Schedule>()) else { continue };
            let past = pasts.entry(rule.id.clone()).or_insert_with(|| Past::new(now - self.reach.lateness));
            past.prune(now, self.reach.overlap);
            let (due, left_out) = past.due(&schedule, rule.version, now, self.reach);
            if left_out > 0 {
                say_left_out(rule, past.until, left_out);
            }
            jobs.extend(due.into_iter().map(|job| (job, rule)));
        }
        jobs.sort_by_key(|(job, _)| job.end);
        for (job, rule) in jobs {
            if !*self.elected.borrow() {
                return Ok(());
            }
            let Some(past) = pasts.get_mut(&rule.id) else { continue };
            self.one(ruleset, rule, job, past, now + micros(started.elapsed())).await?;
        }
        Ok(())
    }

    async fn one(
        &mut self,
        ruleset: &Ruleset,
        rule: &Rule,
        job: Job,
        past: &mut Past,
        now: i64,
    ) -> Result<(), RunError> {
        let period = (job.start, job.end);
        if let Why::Look { rows } = job.why {
            let rows_now = match self.runner.period_rows(rule, &ruleset.lists, period).await {
                Ok(rows) => rows,
                Err(HistoryError::Store(error)) => return Err(error.into()),
                // Running it says what is wrong with it.
                Err(_) => i64::MAX,
            };
            if rows_now <= rows {
                past.attempts.entry(job.end).and_modify(|attempt| attempt.looked_at = now);
                return Ok(());
            }
            tracing::info!(rule = %rule.id, rows, rows_now, "rows of a period came late; it runs again");
        }
        let (run, new) = self.runner.run(rule, &ruleset.lists, period, now).await?;
        past.ran(job.end, job.start, run.rule_version, run.period_rows, now, run.error.is_none());
        tracing::info!(rule = %rule.id, outcome = run.outcome(), findings = run.findings, new = new.len(), "scheduled rule ran");
        Ok(())
    }
}

/// Says when a rule last succeeded, in microseconds since 1970.
fn metric_of_success(rule: &str, time: i64) {
    metrics::gauge!("vedette_scheduled_last_success_timestamp_seconds", "rule" => rule.to_owned())
        .set(time as f64 / 1e6);
}

fn say_left_out(rule: &Rule, until: i64, periods: usize) {
    let since = chrono::DateTime::from_timestamp_micros(until).unwrap_or_default().to_rfc3339();
    tracing::warn!(rule = %rule.id, periods, since, "missed periods are further back than analytics.schedule_overlap_hours: they are left out");
    metrics::counter!("vedette_scheduled_periods_left_out_total", "rule" => rule.id.clone()).increment(periods as u64);
}
