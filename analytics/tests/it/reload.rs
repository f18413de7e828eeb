//! Rules that change while the pipeline runs: what they know, and that nothing of the others is lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vedette_analytics::engine::Finding;
use vedette_analytics::pipeline::{Config, Pipeline};
use vedette_detections::event::base_event;
use vedette_detections::{Lists, Rule, RuleKind, Ruleset, builtin};
use vedette_journal::{Record, Source, Topic};

use crate::engine::rule;
use crate::pipeline::{generated, place, record, rows};

/// Six reads by one user within an hour.
fn six(id: &str) -> Rule {
    let sql = "SELECT cluster, user_name, count(*) AS n FROM audit WHERE stage = 'ResponseComplete' AND verb = 'get' \
               GROUP BY cluster, user_name HAVING count(*) >= 6";
    let window = Some(vedette_detections::Span::from_seconds(3_600));
    Rule { kind: RuleKind::Window, window, ..rule(id, sql) }
}

fn each(id: &str, condition: &str) -> Rule {
    let sql = "SELECT cluster, event_id, event_time, received_at, user_name FROM audit WHERE ";
    rule(id, &format!("{sql}{condition}"))
}

fn set(rules: Vec<Rule>) -> Arc<Ruleset> {
    Arc::new(Ruleset { rules, ..Ruleset::default() })
}

fn read(number: usize) -> Record {
    let mut event: serde_json::Value = serde_json::from_str(base_event("secret_get").unwrap()).unwrap();
    event["auditID"] = format!("read-{number}").into();
    record(Source::Audit, event.to_string())
}

/// Findings in time: that many, by rule.
async fn findings(heard: &mut UnboundedReceiver<Finding>, count: usize) -> Vec<Finding> {
    let mut found = Vec::new();
    while found.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(60), heard.recv()).await;
        found.push(next.unwrap_or_else(|_| panic!("only {found:?}")).unwrap());
    }
    found
}

/// New rules come to know what was stored before them, or evaluated and not stored; the others go on with what they know.
async fn changed_in_mid_window(flush_seconds: u64) {
    let folder = tempfile::tempdir().unwrap();
    let (journal, store) = place(folder.path()).await;
    let config = Config { flush_seconds, ..Config::default() };
    let first = set(vec![six("kept"), each("each", "verb = 'get'")]);
    let (sender, reloads) = watch::channel(Ok(first.clone()));
    let (listener, mut heard) = unbounded_channel();
    let pipeline = Pipeline::new(config, journal.clone(), store.clone(), first).await.unwrap().following(reloads);
    let mut live = pipeline.live();
    let stop = CancellationToken::new();
    let running = tokio::spawn(pipeline.run(stop.clone(), Some(listener)));

    journal.append(Topic::Audit, (0..3).map(read).collect()).await.unwrap();
    findings(&mut heard, 3).await;
    if flush_seconds == 1 {
        while rows(&store, "SELECT event_id FROM audit").await.iter().map(|batch| batch.num_rows()).sum::<usize>() < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // What can't be used changes nothing.
    sender.send(Err("broken".into())).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    sender.send(Ok(set(vec![each("wrong", "no_such_column = 1")]))).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!live.has_changed().unwrap());

    sender.send(Ok(set(vec![six("added"), six("kept"), each("each", "verb = 'get'")]))).unwrap();
    // Some come while the new rules learn.
    journal.append(Topic::Audit, (3..5).map(read).collect()).await.unwrap();
    findings(&mut heard, 2).await;
    tokio::time::timeout(Duration::from_secs(60), live.changed()).await.unwrap().unwrap();
    journal.append(Topic::Audit, vec![read(5)]).await.unwrap();
    let found = findings(&mut heard, 3).await;
    let found: BTreeSet<_> =
        found.iter().map(|finding| (finding.rule_id.as_str(), finding.details["n"].as_i64())).collect();
    assert_eq!(found, BTreeSet::from([("added", Some(6)), ("each", None), ("kept", Some(6))]));
    stop.cancel();
    running.await.unwrap().unwrap();
    assert!(heard.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn new_rules_know_what_is_stored() {
    changed_in_mid_window(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_rules_know_what_is_not_stored_yet() {
    changed_in_mid_window(600).await;
}

/// What a process has not read itself it knows of from the store, whatever rules it starts with.
async fn changed_after_a_start(first: Vec<Rule>) {
    let folder = tempfile::tempdir().unwrap();
    let (journal, store) = place(folder.path()).await;
    let with = |more: &[&str]| set(first.iter().cloned().chain(more.iter().map(|id| six(id))).collect());
    let config = Config { flush_seconds: 600, ..Config::default() };
    let (sender, reloads) = watch::channel(Ok(with(&[])));
    let start = async |listener| {
        let pipeline = Pipeline::new(config.clone(), journal.clone(), store.clone(), with(&[])).await.unwrap();
        let pipeline = pipeline.following(reloads.clone());
        let (live, stop) = (pipeline.live(), CancellationToken::new());
        (live, stop.clone(), tokio::spawn(pipeline.run(stop, Some(listener))))
    };

    let (listener, mut heard) = unbounded_channel();
    let (_, stop, running) = start(listener).await;
    journal.append(Topic::Audit, (0..5).map(read).collect()).await.unwrap();
    findings(&mut heard, 5).await;
    stop.cancel();
    running.await.unwrap().unwrap();

    let (listener, mut heard) = unbounded_channel();
    let (mut live, stop, running) = start(listener).await;
    // From another cluster, so that this process has read nothing of the first.
    let other = Record { cluster: "other".into(), ..read(5) };
    journal.append(Topic::Audit, vec![other]).await.unwrap();
    findings(&mut heard, 1).await;
    for more in [&["one"][..], &["one", "another"]] {
        sender.send(Ok(with(more))).unwrap();
        tokio::time::timeout(Duration::from_secs(60), live.changed()).await.unwrap().unwrap();
    }
    journal.append(Topic::Audit, vec![read(6)]).await.unwrap();
    let found = findings(&mut heard, first.len() + 2).await;
    let found: BTreeSet<_> = found.iter().map(|finding| finding.rule_id.as_str()).collect();
    assert_eq!(found, first.iter().map(|rule| rule.id.as_str()).chain(["one", "another"]).collect());
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn new_rules_know_what_was_stored_before_a_start() {
    changed_after_a_start(vec![six("kept"), each("each", "verb = 'get'")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_rules_know_what_was_stored_before_a_start_that_learned_nothing() {
    changed_after_a_start(vec![each("each", "verb = 'get'")]).await;
}

/// The findings of the built-in rules over a stream, with that many reloads on the way.
async fn over_a_stream(reloads: usize) -> BTreeSet<String> {
    let folder = tempfile::tempdir().unwrap();
    let (journal, store) = place(folder.path()).await;
    let rules = builtin().unwrap();
    let (sender, follow) = watch::channel(Ok(set(rules.clone())));
    let config = Config { batch_events: 200, flush_seconds: 1, ..Config::default() };
    let pipeline = Pipeline::new(config, journal.clone(), store.clone(), set(rules.clone())).await.unwrap();
    let pipeline = pipeline.following(follow);
    let mut live = pipeline.live();
    let stop = CancellationToken::new();
    let running = tokio::spawn(pipeline.run(stop.clone(), None));
    let events = generated(7, 4_000);
    for (number, some) in events.chunks(400).enumerate() {
        journal.append(Topic::Audit, some.to_vec()).await.unwrap();
        if number < reloads {
            let mut rules = rules.clone();
            // One is added, and all but the first are moved.
            rules.insert(number, each(&format!("added_{number}"), "verb = 'watch'"));
            sender.send(Ok(set(rules))).unwrap();
            tokio::time::timeout(Duration::from_secs(60), live.changed()).await.unwrap().unwrap();
        }
    }
    let stored = "SELECT event_id FROM audit";
    while rows(&store, stored).await.iter().map(|batch| batch.num_rows()).sum::<usize>() < events.len() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.cancel();
    running.await.unwrap().unwrap();
    let alerts = "SELECT rule_id || ' ' || alert_id || ' ' || CAST(count AS VARCHAR) AS told FROM alerts \
                  WHERE rule_id NOT LIKE 'added%'";
    let told = rows(&store, alerts).await;
    told.iter().flat_map(texts).collect()
}

fn texts(batch: &arrow::array::RecordBatch) -> Vec<String> {
    let column = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8).unwrap();
    let column = arrow::array::AsArray::as_string::<i32>(&column).clone();
    column.iter().map(|text| text.unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_lose_nothing_of_rules_that_stay() {
    let undisturbed = over_a_stream(0).await;
    assert!(undisturbed.len() > 20, "{undisturbed:?}");
    let disturbed = over_a_stream(5).await;
    let differing: Vec<_> = undisturbed.symmetric_difference(&disturbed).collect();
    assert!(differing.is_empty(), "{differing:?}");
}

#[test]
fn a_rule_is_changed_by_its_text_and_by_the_lists_it_looks_into() {
    let looking = each("looking", "in_list('a', user_name)");
    let other = each("other", "verb = 'get'");
    let lists = |entry: &str| {
        let mut lists = Lists::default();
        lists.insert("a", vec![entry.into()]).unwrap();
        Arc::new(lists)
    };
    let old = Ruleset { rules: vec![looking.clone(), other.clone()], lists: lists("x"), notes: Vec::new() };
    let changed = |rules: Vec<Rule>, list: &str| {
        let new = Ruleset { rules, lists: lists(list), notes: Vec::new() };
        new.changed_since(&old).into_iter().map(|rule| rule.id).collect::<Vec<_>>()
    };
    assert_eq!(changed(vec![looking.clone(), other.clone()], "x"), [""; 0]);
    assert_eq!(changed(vec![other.clone(), looking.clone()], "y"), ["looking"]);
    let severe = Rule { severity: vedette_detections::Severity::Critical, ..other };
    assert_eq!(changed(vec![looking, severe, six("new")], "x"), ["other", "new"]);
}
