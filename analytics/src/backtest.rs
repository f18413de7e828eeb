//! Rules over history: what they would have found, had they run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::error::DataFusionError;
use vedette_detections::{Lists, Rule, RuleKind, Schedule};

use crate::engine::{Engine, Finding, HistoryError, Options, RULE_FAILED, history, reach, report};
use crate::store::Store;

/// A stretch of event time is read at once: so much of it in microseconds, an hour.
const STRETCH: i64 = 3_600_000_000;

/// What a rule would have found.
#[derive(Debug)]
pub struct Outcome {
    pub rule: Rule,
    /// In the order of their first event; each with its last count.
    pub findings: Vec<Finding>,
    pub took: Duration,
}

/// Runs one rule over the store's events from `from` to before `to`, in microseconds since 1970, with the engine that runs it on
/// the stream. `progress` is told how much is done, from 0 to 1. A rule that fails is an error.
pub async fn backtest(
    store: &Arc<dyn Store>,
    lists: &Arc<Lists>,
    rule: Rule,
    (from, to): (i64, i64),
    progress: impl Fn(f64),
) -> Result<Outcome, HistoryError> {
    let started = Instant::now();
    let mut findings = if rule.kind == RuleKind::Scheduled {
        scheduled(store, lists, &rule, (from, to), &progress).await?
    } else {
        stretches(store, lists, &rule, (from, to), &progress).await?
    };
    findings.retain(|finding| {
        finding.last_event_time >= from && finding.event_time < to || rule.kind == RuleKind::Scheduled
    });
    findings.sort_by_key(|finding| (finding.event_time, finding.alert_id.0));
    progress(1.0);
    Ok(Outcome { rule, findings, took: started.elapsed() })
}

/// Every run that falls due in the time.
async fn scheduled(
    store: &Arc<dyn Store>,
    lists: &Arc<Lists>,
    rule: &Rule,
    (from, to): (i64, i64),
    progress: &impl Fn(f64),
) -> Result<Vec<Finding>, HistoryError> {
    let schedule: Schedule = rule.schedule.as_deref().unwrap_or_default().parse().map_err(DataFusionError::Plan)?;
    let mut findings = BTreeMap::new();
    for (start, end) in schedule.periods(from, to) {
        let context = history::session(store, lists, i64::MIN, i64::MAX).await?;
        for finding in report(&context, rule, start, end).await? {
            // What is found again is not told again.
            findings.entry(finding.alert_id).or_insert(finding);
        }
        progress((end - from) as f64 / (to - from) as f64);
    }
    Ok(findings.into_values().collect())
}

async fn stretches(
    store: &Arc<dyn Store>,
    lists: &Arc<Lists>,
    rule: &Rule,
    (from, to): (i64, i64),
    progress: &impl Fn(f64),
) -> Result<Vec<Finding>, HistoryError> {
    let options = Options { lists: lists.clone(), ..Options::default() };
    let mut engine = Engine::with(vec![rule.clone()], options).await?;
    // What the rule would know at the start.
    let begin = from.saturating_sub(reach(rule).unwrap_or(0));
    engine.remember_terms(&history::Opened::now(store).await?, 0, begin).await?;
    let mut findings = BTreeMap::new();
    let mut at = begin;
    while at < to {
        let until = (at + STRETCH).min(to);
        let context = history::session(store, lists, at, until).await?;
        let mut found = Vec::new();
        engine.read(&context, 0, until, &mut found).await?;
        found.extend(engine.pass(until, until).await);
        if let Some(failure) = found.iter().find(|finding| finding.rule_id == RULE_FAILED) {
            let reason = failure.details["reason"].as_str().unwrap_or(&failure.summary);
            return Err(HistoryError::Rule(reason.to_owned()));
        }
        found.extend(engine.repeats());
        findings.extend(found.into_iter().map(|finding| (finding.alert_id, finding)));
        at = until;
        progress((at - begin) as f64 / (to - begin) as f64);
    }
    Ok(findings.into_values().collect())
}
