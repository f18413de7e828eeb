//! Scheduled rules by the clock: every period once, missed ones and late events caught up on, findings told once.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::watch;
use vedette_analytics::backtest::backtest;
use vedette_analytics::engine::{Engine, RULE_FAILED, Tables, json_rows};
use vedette_analytics::pipeline::{Config, batch};
use vedette_analytics::scheduler::{Runner, Scheduler};
use vedette_analytics::store::Store;
use vedette_detections::rule::{RuleTest, TestEvent};
use vedette_detections::{CASE_START, CaseEvent, Rule, RuleKind, Ruleset, Span, builtin, case_events};
use vedette_journal::{Journal, Topic, embedded};
use vedette_schemas::Table;

use crate::engine::rule;
use crate::kinds::{decode, keep, lake};
use crate::pipeline::{Flaky, number, read, rows};

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;

/// A rule that says every hour who was refused how often.
fn hourly() -> Rule {
    let sql = "SELECT cluster, user_name, count(*) AS refused FROM audit \
        WHERE event_time >= period_start() AND event_time < period_end() AND response_code = 403 GROUP BY cluster, user_name";
    Rule {
        kind: RuleKind::Scheduled,
        schedule: Some("0 * * * *".into()),
        group_by: vec!["cluster".into(), "user_name".into()],
        ..rule("hourly", sql)
    }
}

/// Somebody is refused, so many minutes after the start.
fn refused(user: &str, minutes: u32) -> Vec<CaseEvent> {
    let set = serde_json::json!({"user": {"username": user}}).as_object().unwrap().clone();
    let (base, source) = ("secret_get_refused".into(), "audit".into());
    let event = TestEvent { base, source, at: Some(Span::from_seconds(minutes * 60)), times: None, every: None, set };
    let test = RuleTest { name: String::new(), events: vec![event], until: None, expect: Vec::new() };
    case_events(&test, &hourly()).unwrap()
}

/// A scheduler with what it works on.
struct Place {
    journal: Arc<dyn Journal>,
    store: Arc<dyn Store>,
    elected: watch::Sender<bool>,
    rules: watch::Sender<Arc<Ruleset>>,
    overlap: u32,
}

impl Place {
    async fn new(folder: &Path, rules: Vec<Rule>, events: &[CaseEvent]) -> Self {
        let journal = embedded::Config { path: folder.join("journal"), ..Default::default() }.open().unwrap();
        let store = lake(&folder.join("lake"), events).await;
        let rules = watch::Sender::new(Arc::new(Ruleset { rules, ..Ruleset::default() }));
        Self { journal, store, elected: watch::Sender::new(true), rules, overlap: 24 }
    }

    /// As after a start of the program.
    fn scheduler(&self) -> Scheduler {
        let config = Config { schedule_overlap_hours: self.overlap, ..Config::default() };
        let runner = Runner::new(self.journal.clone(), self.store.clone(), None);
        Scheduler::new(&config, self.store.clone(), runner, self.rules.subscribe(), self.elected.subscribe())
    }

    /// Every run, oldest first, as its rule, the end of its period in hours after the start, its findings, the new ones
    /// among them, and how it ended.
    async fn runs(&self) -> Vec<(String, i64, i64, i64, String)> {
        let sql = "SELECT rule_id, CAST(period_end AS BIGINT) AS end_at, findings, new_findings, outcome FROM runs \
            ORDER BY event_time, period_end, rule_id";
        let mut runs = Vec::new();
        for batch in rows(&self.store, sql).await {
            for row in json_rows(&batch).unwrap() {
                let text = |name: &str| row[name].as_str().unwrap().to_owned();
                let number = |name: &str| row[name].as_i64().unwrap();
                let end = (number("end_at") - CASE_START) / HOUR;
                runs.push((text("rule_id"), end, number("findings"), number("new_findings"), text("outcome")));
            }
        }
        runs
    }

    #[track_caller]
    fn check(runs: &[(String, i64, i64, i64, String)], expected: &[(i64, i64, i64)]) {
        let found: Vec<_> = runs.iter().map(|(_, end, findings, new, _)| (*end, *findings, *new)).collect();
        assert_eq!(found, expected, "{runs:?}");
        assert!(runs.iter().all(|(_, _, _, _, outcome)| outcome == "ok"), "{runs:?}");
    }

    /// Whom the alert topic tells of, in its order.
    async fn told(&self) -> Vec<String> {
        let findings = read(&self.journal, Topic::Alerts).await.into_iter().map(|record| {
            let finding: serde_json::Value = serde_json::from_slice(&record.payload).unwrap();
            finding["actor"].as_str().or(finding["target"].as_str()).unwrap().to_owned()
        });
        findings.collect()
    }

    async fn alerts(&self) -> i64 {
        number(&self.store, "SELECT count(*) FROM alerts").await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_runs_from_when_it_is_met_once_for_each_period() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), vec![hourly()], &refused("eve", 20)).await;
    let mut scheduler = place.scheduler();
    for minute in [10, 60] {
        scheduler.turn(CASE_START + minute * MINUTE).await.unwrap();
        assert!(place.runs().await.is_empty(), "at {minute}: events of the hour may still be on their way");
    }
    scheduler.turn(CASE_START + 61 * MINUTE).await.unwrap();
    scheduler.turn(CASE_START + 62 * MINUTE).await.unwrap();
    // A restart goes on from what is recorded; so does one whose look at the period finds nothing new.
    for minute in [63, 70] {
        place.scheduler().turn(CASE_START + minute * MINUTE).await.unwrap();
    }
    Place::check(&place.runs().await, &[(1, 1, 1)]);
    assert_eq!((place.told().await, place.alerts().await), (vec!["eve".to_owned()], 1));
    let raised =
        "SELECT count(*) FROM alerts WHERE raised_at >= '2026-01-01T01:01:00Z' AND event_time = '2026-01-01T01:00:00Z'";
    assert_eq!(number(&place.store, raised).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn missed_periods_are_caught_up_on_as_far_back_as_the_overlap() {
    let folder = tempfile::tempdir().unwrap();
    let mut place = Place::new(folder.path(), vec![hourly()], &refused("eve", 150)).await;
    place.overlap = 2;
    let mut scheduler = place.scheduler();
    for hours in [0, 1] {
        scheduler.turn(CASE_START + hours * HOUR + MINUTE).await.unwrap();
    }
    place.scheduler().turn(CASE_START + 4 * HOUR + MINUTE).await.unwrap();
    let expected = [(1, 0, 0), (3, 1, 1), (4, 0, 0)];
    Place::check(&place.runs().await, &expected);
    // However long it was down, the newest period runs.
    place.overlap = 0;
    place.scheduler().turn(CASE_START + 9 * HOUR + 30 * MINUTE).await.unwrap();
    Place::check(&place.runs().await, &[&expected[..], &[(9, 0, 0)]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_period_runs_again_when_rows_of_it_come_late_and_tells_only_what_is_new() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), vec![hourly()], &refused("eve", 20)).await;
    let mut scheduler = place.scheduler();
    scheduler.turn(CASE_START + MINUTE).await.unwrap();
    scheduler.turn(CASE_START + 61 * MINUTE).await.unwrap();
    // Received within the hour, but stored after the run: the store was away, or detection lagged behind.
    keep(&place.store, decode(&refused("mallory", 40))).await;
    scheduler.turn(CASE_START + 65 * MINUTE).await.unwrap();
    Place::check(&place.runs().await, &[(1, 1, 1)]);
    scheduler.turn(CASE_START + 67 * MINUTE).await.unwrap();
    Place::check(&place.runs().await, &[(1, 1, 1), (1, 2, 1)]);
    // More of what is known changes no finding.
    keep(&place.store, decode(&refused("eve", 50))).await;
    place.scheduler().turn(CASE_START + 73 * MINUTE).await.unwrap();
    place.scheduler().turn(CASE_START + 85 * MINUTE).await.unwrap();
    Place::check(&place.runs().await, &[(1, 1, 1), (1, 2, 1), (1, 2, 0)]);
    assert_eq!(place.told().await, ["eve", "mallory"]);
    assert_eq!(place.alerts().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_fails_is_recorded_said_once_a_day_and_tried_again_while_others_run() {
    let folder = tempfile::tempdir().unwrap();
    let sql = "SELECT cluster, CAST(user_name AS BIGINT) AS number FROM audit WHERE event_time >= period_start()";
    let failing = Rule { id: "failing".into(), sql: sql.into(), group_by: Vec::new(), ..hourly() };
    let place = Place::new(folder.path(), vec![failing, hourly()], &refused("eve", 20)).await;
    let mut scheduler = place.scheduler();
    for minute in [1, 61, 61, 63] {
        scheduler.turn(CASE_START + minute * MINUTE).await.unwrap();
    }
    let outcomes = |runs: &[(String, i64, i64, i64, String)]| -> Vec<(String, i64, String)> {
        runs.iter().map(|(rule, _, _, new, outcome)| (rule.clone(), *new, outcome.clone())).collect()
    };
    let run = |rule: &str, new: i64, outcome: &str| (rule.to_owned(), new, outcome.to_owned());
    let expected = [run("failing", 0, "failed"), run("hourly", 1, "ok"), run("failing", 0, "failed")];
    assert_eq!(outcomes(&place.runs().await), expected);
    // A restart says it no second time.
    place.scheduler().turn(CASE_START + 90 * MINUTE).await.unwrap();
    assert_eq!(place.runs().await.len(), 4);
    let about = format!("SELECT count(*) FROM alerts WHERE rule_id = '{RULE_FAILED}' AND target = 'failing'");
    assert_eq!(number(&place.store, &about).await, 1);
    assert_eq!(number(&place.store, "SELECT count(*) FROM runs WHERE error LIKE '%cast%'").await, 3);
    let mut told = place.told().await;
    told.sort();
    assert_eq!(told, ["eve", "failing"]);
    // A reload that puts it right makes up for the period.
    let repaired = Rule { id: "failing".into(), version: 2, ..hourly() };
    place.rules.send_replace(Arc::new(Ruleset { rules: vec![repaired], ..Ruleset::default() }));
    place.scheduler().turn(CASE_START + 110 * MINUTE).await.unwrap();
    let repaired = "SELECT rule_version, outcome FROM runs WHERE rule_id = 'failing' ORDER BY event_time DESC LIMIT 1";
    let row = json_rows(&rows(&place.store, repaired).await[0]).unwrap().remove(0);
    assert_eq!(serde_json::json!(row), serde_json::json!({"rule_version": 2, "outcome": "ok"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_elected_runs_nothing_and_who_is_goes_on_from_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path(), vec![hourly()], &refused("eve", 80)).await;
    let (first, mut second) = (place.elected.subscribe(), place.scheduler());
    assert!(*first.borrow());
    second.turn(CASE_START + MINUTE).await.unwrap();
    place.elected.send_replace(false);
    second.turn(CASE_START + 61 * MINUTE).await.unwrap();
    assert!(place.runs().await.is_empty());
    // Another process does the first hour.
    place.elected.send_replace(true);
    let mut other = place.scheduler();
    for minute in [60, 61] {
        other.turn(CASE_START + minute * MINUTE).await.unwrap();
    }
    second.turn(CASE_START + 121 * MINUTE).await.unwrap();
    Place::check(&place.runs().await, &[(1, 0, 0), (2, 1, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_holds_runs_up_and_nothing_is_told_twice() {
    let folder = tempfile::tempdir().unwrap();
    let mut place = Place::new(folder.path(), vec![hourly()], &refused("eve", 20)).await;
    let (failures, failed_ids) = (AtomicUsize::new(1), AtomicBool::new(true));
    let flaky = Arc::new(Flaky { lake: place.store.clone(), failures, failed_ids });
    place.store = flaky.clone();
    let mut scheduler = place.scheduler();
    scheduler.turn(CASE_START + MINUTE).await.unwrap();
    let away = scheduler.turn(CASE_START + 61 * MINUTE).await.unwrap_err();
    assert!(away.to_string().contains("away"), "{away}");
    assert_eq!((place.told().await.len(), place.alerts().await, place.runs().await.len()), (1, 0, 0));
    scheduler.turn(CASE_START + 62 * MINUTE).await.unwrap();
    Place::check(&place.runs().await, &[(1, 1, 1)]);
    assert_eq!((place.told().await.len(), place.alerts().await), (1, 1));
    // A run that is not recorded has not been.
    flaky.failures.store(1, Ordering::SeqCst);
    scheduler.turn(CASE_START + 121 * MINUTE).await.unwrap_err();
    Place::check(&place.runs().await, &[(1, 1, 1)]);
    scheduler.turn(CASE_START + 123 * MINUTE).await.unwrap();
    Place::check(&place.runs().await, &[(1, 1, 1), (2, 0, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_again_is_one_finding_by_the_clock_and_in_a_backtest() {
    let folder = tempfile::tempdir().unwrap();
    // Two rows of one subject in the first hour, one in the second, and one subject's stretch is a day.
    let sql = "SELECT cluster, user_name, event_time FROM audit \
        WHERE event_time >= period_start() AND event_time < period_end() AND response_code = 403 ORDER BY event_time";
    let rule = Rule { sql: sql.into(), suppress: Some(Span::from_seconds(86_400)), ..hourly() };
    let events = [refused("eve", 20), refused("eve", 30), refused("eve", 80)].concat();
    let place = Place::new(folder.path(), vec![rule.clone()], &events).await;
    let hours = (CASE_START, CASE_START + 3 * HOUR);
    let outcome = backtest(&place.store, &Arc::default(), rule, hours, |_| {}).await.unwrap();
    let times: Vec<i64> = outcome.findings.iter().map(|finding| finding.event_time).collect();
    assert_eq!(times, [CASE_START + 20 * MINUTE]);
    let mut scheduler = place.scheduler();
    for hours in 0..3 {
        scheduler.turn(CASE_START + hours * HOUR + MINUTE).await.unwrap();
    }
    Place::check(&place.runs().await, &[(1, 1, 1), (2, 1, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schedule_finds_what_a_backtest_finds() {
    let scheduled = builtin().unwrap().into_iter().filter(|rule| rule.kind == RuleKind::Scheduled);
    for rule in scheduled {
        let folder = tempfile::tempdir().unwrap();
        let events = case_events(&rule.tests[0], &rule).unwrap();
        let mut place = Place::new(folder.path(), vec![rule.clone()], &events).await;
        // What the other rules found, for rules that look at findings.
        let mut engine = Engine::new(builtin().unwrap()).await.unwrap();
        let mut found = engine.evaluate(&decode(&events), CASE_START).await;
        found.retain(|finding| !finding.cluster.is_empty());
        keep(&place.store, Tables::from([(Table::Alerts, batch(&found).unwrap())])).await;

        let end = CASE_START + rule.tests[0].until.unwrap().micros();
        let expected = backtest(&place.store, &Arc::default(), rule.clone(), (CASE_START, end), |_| {}).await.unwrap();
        let expected: BTreeSet<String> = expected.findings.iter().map(|finding| finding.alert_id.to_string()).collect();
        assert!(!expected.is_empty(), "{}", rule.id);

        place.overlap = 365 * 24;
        let mut scheduler = place.scheduler();
        scheduler.turn(CASE_START + MINUTE).await.unwrap();
        scheduler.turn(end + MINUTE).await.unwrap();
        let mut ids = BTreeSet::new();
        for batch in rows(&place.store, &format!("SELECT alert_id FROM alerts WHERE rule_id = '{}'", rule.id)).await {
            ids.extend(json_rows(&batch).unwrap().iter().map(|row| row["alert_id"].as_str().unwrap().to_owned()));
        }
        assert_eq!(ids, expected, "{}", rule.id);
        assert_eq!(read(&place.journal, Topic::Alerts).await.len(), expected.len(), "{}", rule.id);
    }
}
