//! Kinds of rules that look at more than one row: the same findings however events are batched and ordered.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use vedette_analytics::backtest::backtest;
use vedette_analytics::engine::{Engine, Finding, RULE_FAILED, Tables, check};
use vedette_analytics::pipeline::batch;
use vedette_analytics::store::{Store, Write, lake};
use vedette_detections::rule::{RuleTest, TestEvent};
use vedette_detections::{CASE_START, CaseEvent, Rule, RuleKind, Span, builtin, case_events};
use vedette_schemas::{AuditDecoder, EventId, FalcoDecoder, Table, derive};

/// A year after the start of every case.
pub const END: i64 = CASE_START + 365 * 86_400_000_000;

fn stateful() -> Vec<Rule> {
    builtin().unwrap().into_iter().filter(|rule| !matches!(rule.kind, RuleKind::Match | RuleKind::Scheduled)).collect()
}

#[tokio::test]
async fn the_packs_rules_of_every_kind_are_well() {
    let mut kinds = BTreeSet::new();
    for rule in stateful() {
        kinds.insert(rule.kind.name());
        for outcome in check::run(&rule, &Arc::default()).await.unwrap() {
            assert!(outcome.passed(), "{}: {outcome:#?}", rule.id);
        }
    }
    assert_eq!(kinds.len(), 4, "{kinds:?}");
}

/// Numbers that look random and are always the same.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

pub fn decode(events: &[CaseEvent]) -> Tables {
    let (mut audit, mut falco) = (AuditDecoder::new(), FalcoDecoder::new());
    for event in events {
        let (at, bytes) = (event.at.unwrap(), &event.bytes);
        let decoded =
            if event.source == "falco" { falco.push("test", at, bytes) } else { audit.push("test", at, bytes) };
        decoded.unwrap();
    }
    let mut tables = derive::tables(audit.finish());
    tables.insert(Table::Falco, falco.finish());
    tables
}

/// The events of all cases of a rule whose events say when they happen, one case after the other.
pub fn history(rule: &Rule) -> Vec<CaseEvent> {
    let mut events: Vec<CaseEvent> = rule
        .tests
        .iter()
        .flat_map(|test| case_events(test, rule).unwrap())
        .filter(|event| event.at.is_some())
        .collect();
    events.sort_by_key(|event| event.at);
    events
}

/// Each finding with its last count.
pub fn counted(findings: &[Finding]) -> BTreeMap<EventId, i64> {
    assert!(findings.iter().all(|finding| finding.rule_id != RULE_FAILED), "{findings:#?}");
    findings.iter().map(|finding| (finding.alert_id, finding.count)).collect()
}

/// The events in batches of any size; each comes up to fifty seconds late: what is out of order is so by less than the engine
/// waits.
fn jumbled(events: &[CaseEvent], seed: u64) -> Vec<Vec<CaseEvent>> {
    let mut random = Random(seed);
    let late = |random: &mut Random| random.below(50_000_000) as i64;
    let mut jumbled: Vec<_> = events.iter().map(|e| (e.at.unwrap() + late(&mut random), e.clone())).collect();
    jumbled.sort_by_key(|(at, _)| *at);
    let mut batches = vec![Vec::new()];
    for (_, event) in jumbled {
        batches.last_mut().unwrap().push(event);
        if random.below(4) == 0 {
            batches.push(Vec::new());
        }
    }
    batches
}

async fn run(rules: Vec<Rule>, batches: &[Vec<CaseEvent>]) -> BTreeMap<EventId, i64> {
    counted(&found(rules, batches).await)
}

/// What a finding says at the end: its time, its summary and its count.
fn said(findings: &[Finding]) -> BTreeMap<EventId, (i64, &str, i64)> {
    let counts = counted(findings);
    findings.iter().map(|f| (f.alert_id, (f.event_time, f.summary.as_str(), counts[&f.alert_id]))).collect()
}

async fn found(rules: Vec<Rule>, batches: &[Vec<CaseEvent>]) -> Vec<Finding> {
    let mut engine = Engine::new(rules).await.unwrap();
    let mut findings = Vec::new();
    for batch in batches {
        let now = batch.iter().filter_map(|event| event.at).max().unwrap_or(CASE_START);
        findings.extend(engine.evaluate(&decode(batch), now).await);
        findings.extend(engine.repeats());
    }
    findings.extend(engine.pass(END, END).await);
    findings.extend(engine.repeats());
    findings
}

/// A lake that holds these events.
pub async fn lake(folder: &Path, events: &[CaseEvent]) -> Arc<dyn Store> {
    let config =
        lake::Config { url: folder.to_str().unwrap().to_owned(), retention_days: 100_000, ..Default::default() };
    let store = config.open().await.unwrap();
    store.migrate().await.unwrap();
    let store: Arc<dyn Store> = store;
    keep(&store, decode(events)).await;
    store
}

/// Stores rows.
pub async fn keep(store: &Arc<dyn Store>, tables: Tables) {
    for (table, batch) in tables.into_iter().filter(|(_, batch)| batch.num_rows() > 0) {
        let (from, to) = Default::default();
        store.write(Write { table, batches: vec![batch], journal: "test".into(), from, to }).await.unwrap();
    }
}

#[tokio::test]
async fn a_backtest_finds_what_the_stream_found() {
    for rule in stateful() {
        let folder = tempfile::tempdir().unwrap();
        let events = history(&rule);
        let store = lake(folder.path(), &events).await;
        let last = events.iter().filter_map(|event| event.at).max().unwrap() + 3 * 86_400_000_000;
        let outcome = backtest(&store, &Arc::default(), rule.clone(), (CASE_START, last), |_| {}).await.unwrap();
        let expected = found(vec![rule.clone()], &[events]).await;
        assert_eq!(said(&outcome.findings), said(&expected), "{}", rule.id);
    }
}

#[tokio::test]
async fn order_and_batches_do_not_matter() {
    for rule in stateful() {
        let events = history(&rule);
        let expected = run(vec![rule.clone()], std::slice::from_ref(&events)).await;
        assert!(!expected.is_empty(), "{}", rule.id);
        for seed in 0..2 {
            let batches = jumbled(&events, seed);
            assert_eq!(run(vec![rule.clone()], &batches).await, expected, "{}, seed {seed}", rule.id);
        }
    }
}

#[tokio::test]
async fn match_rules_find_the_same_in_any_batches_and_in_a_backtest() {
    let rules: Vec<Rule> = builtin().unwrap().into_iter().filter(|rule| rule.kind == RuleKind::Match).collect();
    // Several rules' cases share events, and recorded ones are of many days.
    let mut events = BTreeMap::new();
    for (rule, test) in rules.iter().flat_map(|rule| rule.tests.iter().map(move |test| (rule, test))) {
        let timed = RuleTest { until: test.until.or(Some(Span::from_seconds(3_600))), ..test.clone() };
        events.extend(case_events(&timed, rule).unwrap().into_iter().map(|event| (event.bytes.clone(), event)));
    }
    let events: Vec<_> = events.into_values().collect();
    let told = found(rules.clone(), std::slice::from_ref(&events)).await;
    let expected = counted(&told);
    assert!(expected.len() >= rules.len(), "{} findings", expected.len());
    for seed in 0..2 {
        assert_eq!(run(rules.clone(), &jumbled(&events, seed)).await, expected, "seed {seed}");
    }
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), &events).await;
    let last = events.iter().filter_map(|event| event.at).max().unwrap() + 1;
    let mut found = Vec::new();
    for rule in rules {
        found.extend(backtest(&store, &Arc::default(), rule, (CASE_START, last), |_| {}).await.unwrap().findings);
    }
    assert_eq!(said(&found), said(&told));
}

/// A rule that makes one finding of what a user reads within an hour.
fn reads() -> Rule {
    let sql = "SELECT cluster, event_id, event_time, user_name, source_ip, name FROM audit WHERE verb = 'get'";
    Rule {
        group_by: vec!["cluster".into(), "user_name".into()],
        suppress: Some(Span::from_seconds(3_600)),
        summary: "{user_name} read {name}".into(),
        ..crate::engine::rule("reads", sql)
    }
}

/// Somebody reads secrets of these names, a minute after the other.
fn read(names: &[&str]) -> Vec<CaseEvent> {
    let event = |(minute, name): (usize, &&str)| TestEvent {
        base: "secret_get".into(),
        source: "audit".into(),
        at: Some(Span::from_seconds(60 * minute as u32)),
        times: None,
        every: None,
        set: serde_json::json!({"objectRef": {"name": name}, "auditID": name}).as_object().unwrap().clone(),
    };
    let events = names.iter().enumerate().map(event).collect();
    case_events(&RuleTest { name: String::new(), events, until: None, expect: Vec::new() }, &reads()).unwrap()
}

/// A store gives its rows in any order.
fn backwards(events: &[CaseEvent]) -> Vec<CaseEvent> {
    events.iter().rev().cloned().collect()
}

#[tokio::test]
async fn a_finding_stays_as_it_was_told_first() {
    let events = read(&["first", "second", "third", "fourth"]);
    let (before, after) = events.split_at(3);
    let mut saw = Engine::new(vec![reads()]).await.unwrap();
    let mut told = Vec::new();
    for event in before {
        told.extend(saw.evaluate(&decode(std::slice::from_ref(event)), event.at.unwrap() + 5).await);
        told.extend(saw.repeats());
    }
    assert_eq!(told.iter().map(|finding| finding.count).collect::<Vec<_>>(), [1, 2, 3]);
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), &backwards(before)).await;
    keep(&store, Tables::from([(Table::Alerts, batch(&told).unwrap())])).await;
    let mut learned = Engine::new(vec![reads()]).await.unwrap();
    learned.learn(&store, before[2].at.unwrap() + 10).await.unwrap();
    assert!(learned.open_since().unwrap() <= told[0].received_at);
    learned.repeats();
    let mut repeats = Vec::new();
    for mut engine in [saw, learned] {
        assert!(engine.evaluate(&decode(after), after[0].at.unwrap() + 15).await.is_empty());
        repeats.extend(engine.repeats());
    }
    repeats.iter_mut().for_each(|finding| finding.evidence.sort());
    assert_eq!(repeats[0].summary, format!("{} read first", repeats[0].user_name.as_deref().unwrap()));
    assert_eq!(repeats[0], repeats[1]);
}

#[tokio::test]
async fn a_backtest_tells_what_came_first_in_whatever_order_it_is_stored() {
    let events = read(&["first", "second", "third"]);
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), &backwards(&events)).await;
    let hour = (CASE_START, CASE_START + 3_600_000_000);
    let received = reads().sql.replace("event_time,", "event_time, received_at,");
    // Not every SQL leaves what it does not select to be sorted by.
    let nested = format!("SELECT * FROM ({}) AS some", reads().sql);
    for sql in [reads().sql, received, nested] {
        let rule = Rule { sql, ..reads() };
        let outcome = backtest(&store, &Arc::default(), rule.clone(), hour, |_| {}).await.unwrap();
        assert_eq!(
            said(&outcome.findings),
            said(&found(vec![rule.clone()], std::slice::from_ref(&events)).await),
            "{}",
            rule.sql
        );
    }
}

#[tokio::test]
async fn a_backtest_of_a_rule_that_fails_is_an_error() {
    let sql = "SELECT cluster, event_id, event_time, CAST(user_name AS BIGINT) AS number FROM audit WHERE verb = 'get'";
    let window = Some(Span::from_seconds(60));
    let absence = Rule { kind: RuleKind::Absence, suppress: None, window, sql: sql.into(), ..reads() };
    let counting = "SELECT cluster, user_name, 1 / (count(*) - 1) AS n FROM audit GROUP BY cluster, user_name";
    let counting = Rule { kind: RuleKind::Window, suppress: None, window, sql: counting.into(), ..reads() };
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), &read(&["first", "second"])).await;
    let hour = (CASE_START, CASE_START + 3_600_000_000);
    for (rule, reason) in [(absence, "cast"), (counting, "ivide by zero")] {
        let error = backtest(&store, &Arc::default(), rule, hour, |_| {}).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[tokio::test]
async fn what_is_learned_is_as_good_as_what_was_seen() {
    let rules = stateful();
    let mut events: Vec<CaseEvent> = rules.iter().flat_map(history).collect();
    events.sort_by_key(|event| event.at);
    for third in [1, 2] {
        let (before, after) = events.split_at(events.len() * third / 3);
        let now = before.iter().filter_map(|event| event.at).max().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = lake(folder.path(), before).await;
        let mut saw = Engine::new(rules.clone()).await.unwrap();
        saw.evaluate(&decode(before), now).await;
        let mut learned = Engine::new(rules.clone()).await.unwrap();
        learned.learn(&store, now).await.unwrap();
        let mut told = Vec::new();
        for mut engine in [saw, learned] {
            // What was found before is told by now.
            engine.repeats();
            let mut findings = engine.evaluate(&decode(after), END).await;
            findings.extend(engine.pass(END, END).await);
            findings.extend(engine.repeats());
            told.push(counted(&findings));
        }
        assert!(told[0].len() > 10, "{:?}", told[0]);
        assert_eq!(told[0], told[1], "after {third} thirds");
    }
}

/// Two people read secrets for a quarter of an hour, now these and now those, and are refused now and then.
fn busy() -> Vec<CaseEvent> {
    let mut random = Random(3);
    let event = |number: usize| {
        let (second, user) = (number / 4, ["anna", "ben"][number % 2]);
        let name = random.below(if (second / 300).is_multiple_of(2) { 5 } else { 60 });
        let code = if random.below(100) < (second as u64 / 10) % 100 { 403 } else { 200 };
        let set = serde_json::json!({
            "user": {"username": user}, "objectRef": {"name": format!("s{name}")}, "responseStatus": {"code": code},
            "auditID": format!("{number}"),
        });
        TestEvent {
            base: "secret_get".into(),
            source: "audit".into(),
            at: Some(Span::from_seconds(second as u32)),
            times: None,
            every: None,
            set: set.as_object().unwrap().clone(),
        }
    };
    let events = (0..4 * 900).map(event).collect();
    case_events(&RuleTest { name: String::new(), events, until: None, expect: Vec::new() }, &reads()).unwrap()
}

/// How often a person's reads of the five minutes up to one of them were more than so many, of so many things, and more of them
/// refused than this share: by person and stretch of five minutes, as the events themselves say.
fn often(events: &[CaseEvent], (least, things, share): (usize, usize, f64)) -> BTreeMap<(String, i64), i64> {
    let decoded: Vec<(String, i64, String, f64)> = events
        .iter()
        .map(|event| {
            let json: serde_json::Value = serde_json::from_slice(&event.bytes).unwrap();
            let text = |path: &str| json.pointer(path).unwrap().as_str().unwrap().to_owned();
            let refused = json.pointer("/responseStatus/code").unwrap() == 403;
            (text("/user/username"), event.at.unwrap(), text("/objectRef/name"), f64::from(u8::from(refused)))
        })
        .collect();
    let mut often = BTreeMap::new();
    for (user, time, ..) in &decoded {
        let within =
            |row: &&(String, i64, String, f64)| (time - 300_000_000..=*time).contains(&row.1) && row.0 == *user;
        let rows: Vec<_> = decoded.iter().filter(within).collect();
        let names: BTreeSet<&str> = rows.iter().map(|row| row.2.as_str()).collect();
        let refused = rows.iter().map(|row| row.3).sum::<f64>() / rows.len() as f64;
        if rows.len() >= least && names.len() >= things && refused > share {
            *often.entry((user.clone(), time.div_euclid(300_000_000))).or_default() += 1;
        }
    }
    often
}

#[tokio::test]
async fn the_aggregates_of_many_rows_stand_as_if_begun_anew() {
    let events = busy();
    let rule = |having: &str| Rule {
        kind: RuleKind::Window,
        window: Some(Span::from_seconds(300)),
        ..crate::engine::rule(
            "often",
            &format!(
                "SELECT cluster, user_name, count(*) AS n FROM audit WHERE verb = 'get' GROUP BY cluster, user_name \
                 HAVING {having}"
            ),
        )
    };
    let share = "avg(CASE WHEN response_code = 403 THEN 1.0 ELSE 0.0 END) > 0.4";
    let things = "count(DISTINCT name) >= 58";
    for (having, bounds) in [
        // Told at once, and when the watermark has passed.
        (format!("count(*) >= 500 AND {things}"), (500, 58, -1.0)),
        (format!("count(*) >= 290 AND {things} AND {share}"), (290, 58, 0.4)),
    ] {
        let expected = often(&events, bounds);
        // Of each stretch's 600 reads some are.
        assert!(expected.len() > 3 && expected.values().all(|count| *count < 600), "{expected:?}");
        for batches in [jumbled(&events, 1), events.chunks(700).map(<[CaseEvent]>::to_vec).collect()] {
            let told = found(vec![rule(&having)], &batches).await;
            let counts = counted(&told);
            let told: BTreeMap<(String, i64), i64> = told
                .iter()
                .map(|finding| {
                    let stretch = finding.event_time.div_euclid(300_000_000);
                    ((finding.user_name.clone().unwrap(), stretch), counts[&finding.alert_id])
                })
                .collect();
            assert_eq!(told, expected, "{having}");
        }
    }
}
