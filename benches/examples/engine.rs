//! What rules that look back cost, and what a reload costs: figures that need memory, time and a journal, not repetitions.
//!
//! `cargo run --release --workspace --example engine -- keys|windows|reload`

#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vedette_analytics::engine::{Engine, Tables};
use vedette_analytics::pipeline::{Config, Pipeline};
use vedette_analytics::store::{Store, lake};
use vedette_benches::{Generator, typical};
use vedette_detections::{Rule, RuleKind, Ruleset, Span, builtin};
use vedette_journal::{Journal, Record, Source, Topic, embedded};
use vedette_schemas::{AuditDecoder, Table, derive};

/// As in the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const BATCH: usize = 8_192;
const NOW: i64 = 1_772_323_200_000_000;

#[tokio::main]
async fn main() {
    match std::env::args().nth(1).unwrap_or_default().as_str() {
        "keys" => keys().await,
        "windows" => windows().await,
        "reload" => reload().await,
        other => panic!("{other:?} is not keys, windows or reload"),
    }
}

fn matching(id: String, condition: &str) -> Rule {
    static FIRST: LazyLock<Rule> = LazyLock::new(|| {
        let plain = |rule: &Rule| rule.kind == RuleKind::Match && rule.group_by.is_empty();
        builtin().unwrap().into_iter().find(plain).unwrap()
    });
    let columns = "cluster, event_id, event_time, received_at, user_name, verb, resource, namespace, name";
    Rule { id, sql: format!("SELECT {columns} FROM audit WHERE {condition}"), ..FIRST.clone() }
}

fn counting(id: String, condition: &str, least: usize) -> Rule {
    let sql = format!(
        "SELECT cluster, user_name, count(*) AS n FROM audit WHERE stage = 'ResponseComplete' AND {condition} \
         GROUP BY cluster, user_name HAVING count(*) >= {least}"
    );
    Rule { kind: RuleKind::Window, window: Some(Span::from_seconds(3_600)), sql, ..matching(id, "true") }
}

fn decoded(events: impl Iterator<Item = String>) -> Tables {
    let mut decoder = AuditDecoder::with_capacity(BATCH);
    for event in events {
        decoder.push("prod", NOW, event.as_bytes()).unwrap();
    }
    derive::tables(decoder.finish())
}

/// Resident memory in MiB.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096.0 / f64::from(1 << 20)
}

/// A window rule with a million subjects.
async fn keys() {
    const KEYS: usize = 1_000_000;
    let mut engine = Engine::new(vec![counting("many".into(), "verb = 'get'", 5)]).await.unwrap();
    let event = |key: usize| {
        let mut event = String::new();
        write!(
            event,
            r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"{key:036}","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/team-{}/secrets/s","verb":"get","user":{{"username":"oidc:person-{key}@example.com"}},"sourceIPs":["10.0.0.1"],"objectRef":{{"resource":"secrets","namespace":"team-1","name":"s"}},"responseStatus":{{"code":200}},"requestReceivedTimestamp":"2026-03-01T00:00:00.000000Z","stageTimestamp":"2026-03-01T00:00:00.{:06}Z"}}"#,
            key % 100,
            key
        )
        .unwrap();
        event
    };
    // What decoding and the first batch need is there before.
    engine.evaluate(&decoded((0..BATCH).map(event)), NOW).await;
    let before = resident();
    let (mut key, mut spent) = (BATCH, Duration::ZERO);
    while key < KEYS {
        let tables = decoded((key..KEYS.min(key + BATCH)).map(event));
        let started = Instant::now();
        engine.evaluate(&tables, NOW).await;
        spent += started.elapsed();
        key += BATCH;
    }
    println!(
        "{KEYS} live keys: {:.0} MiB by the engine's count, {:.0} MiB resident more than with {BATCH} keys, {:.0}k rows/s",
        engine.state_bytes() as f64 / f64::from(1 << 20),
        resident() - before,
        (KEYS - BATCH) as f64 / spent.as_secs_f64() / 1e3
    );
}

/// The built-in match rules alone, and with ten window rules that take a twentieth of the events and rarely fire.
async fn windows() {
    let mut rules = builtin().unwrap();
    rules.retain(|rule| rule.kind == RuleKind::Match && rule.group_by.is_empty());
    let alone_rules = rules.len();
    let mut alone = Engine::new(rules.clone()).await.unwrap();
    let conditions = [
        "verb = 'get' AND resource = 'secrets' AND user_name LIKE 'oidc:%'",
        "verb = 'list' AND resource = 'secrets'",
        "verb = 'delete'",
        "response_code = 403",
        "verb = 'create' AND resource = 'pods' AND user_name LIKE 'oidc:%'",
        "subresource = 'exec'",
        "response_code = 401",
        "verb = 'patch' AND resource = 'deployments'",
        "verb = 'create' AND resource = 'rolebindings'",
        "verb = 'create' AND resource = 'clusterroles'",
    ];
    let windows = conditions.iter().enumerate().map(|(n, c)| counting(format!("w{n}"), c, 2_000));
    rules.extend(windows);
    let mut both = Engine::new(rules).await.unwrap();
    let mut generator = Generator::new(1);
    let event = |_| {
        let mut event = String::new();
        generator.event(&mut event);
        event
    };
    let mut events = (0..40 * BATCH).map(event).collect::<Vec<_>>().into_iter();
    let (mut first, mut second, mut taken, mut seen) = (Duration::ZERO, Duration::ZERO, 0, 0);
    for batch in 0..40 {
        let tables = decoded(events.by_ref().take(BATCH));
        let mut times = [Duration::ZERO; 2];
        // In turns, so that neither always finds the batch in the cache.
        for turn in [batch % 2, (batch + 1) % 2] {
            let engine = if turn == 0 { &mut alone } else { &mut both };
            let started = Instant::now();
            engine.evaluate(&tables, NOW).await;
            times[turn] = started.elapsed();
        }
        if batch >= 8 {
            first += times[0];
            second += times[1];
        }
        let selected = both.select(&tables).await.unwrap();
        let rows = |(id, rows): &(String, Vec<_>)| {
            let count: usize = rows.iter().map(arrow::record_batch::RecordBatch::num_rows).sum();
            if id.starts_with('w') { count } else { 0 }
        };
        taken += selected.iter().map(rows).sum::<usize>();
        seen += tables[&Table::Audit].num_rows();
    }
    let rate = |time: Duration| (32 * BATCH) as f64 / time.as_secs_f64() / 1e3;
    println!(
        "{alone_rules} match rules {:.0}k events/s, with 10 window rules {:.0}k: {:.2}; {:.1} % of the events are kept by windows",
        rate(first),
        rate(second),
        first.as_secs_f64() / second.as_secs_f64(),
        taken as f64 / seen as f64 * 100.0
    );
}

/// Five hundred rules, all of them changed, while events come.
async fn reload() {
    const PER_TURN: usize = 100;
    let folder = tempfile::tempdir().unwrap();
    let journal: Arc<dyn Journal> =
        embedded::Config { path: folder.path().join("journal"), ..Default::default() }.open().unwrap();
    let url = folder.path().join("lake").display().to_string();
    let store: Arc<dyn Store> = lake::Config { url, ..Default::default() }.open().await.unwrap();
    let rules = |version: i32, all: bool| {
        let mut rules = builtin().unwrap();
        let more = 499 - rules.len();
        // Typical conditions, which hold for many events, for nobody: a finding for every other event would be all there is.
        let nobody = |(n, c): (usize, &String)| matching(format!("m{n}"), &format!("({c}) AND name = 'nobody-{n}'"));
        rules.extend(typical(more).iter().enumerate().map(nobody));
        let keeps = |rule: &Rule| rule.kind != RuleKind::Match || !rule.group_by.is_empty();
        rules.iter_mut().filter(|rule| all || !keeps(rule)).for_each(|rule| rule.version = version);
        // Says of every event when it was evaluated.
        rules.push(matching("each".into(), "stage = 'ResponseComplete' AND verb = 'get' AND resource = 'secrets'"));
        Arc::new(Ruleset { rules, ..Ruleset::default() })
    };
    let first = rules(1, true);
    let (sender, reloads) = watch::channel(Ok(first.clone()));
    let (listener, mut heard) = unbounded_channel();
    let pipeline = Pipeline::new(Config::default(), journal.clone(), store, first).await.unwrap().following(reloads);
    let mut live = pipeline.live();
    let stop = CancellationToken::new();
    let running = tokio::spawn(pipeline.run(stop.clone(), Some(listener)));
    let sending = tokio::spawn({
        let (journal, stop) = (journal.clone(), stop.clone());
        async move {
            let mut generator = Generator::new(1);
            while !stop.is_cancelled() {
                let record = |_| {
                    let mut event = String::new();
                    generator.event(&mut event);
                    let now = chrono::Utc::now().timestamp_micros();
                    Record::new("prod".into(), Source::Audit, now, event.into_bytes().into())
                };
                journal.append(Topic::Audit, (0..PER_TURN).map(record).collect()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let worst = async |heard: &mut tokio::sync::mpsc::UnboundedReceiver<_>, until: Instant| {
        let mut worst = 0;
        while Instant::now() < until {
            let next = tokio::time::timeout(Duration::from_millis(50), heard.recv()).await;
            let Ok(Some(finding)) = next else { continue };
            let finding: vedette_analytics::engine::Finding = finding;
            if finding.rule_id == "each" {
                worst = worst.max(chrono::Utc::now().timestamp_micros() - finding.received_at);
            }
        }
        worst as f64 / 1e3
    };
    worst(&mut heard, Instant::now() + Duration::from_secs(10)).await;
    let quiet = worst(&mut heard, Instant::now() + Duration::from_secs(15)).await;
    for (version, all) in [(2, false), (3, false), (4, true)] {
        let new = rules(version, all);
        let started = Instant::now();
        sender.send(Ok(new)).unwrap();
        let changed = tokio::spawn({
            let mut live = live.clone();
            async move {
                live.changed().await.unwrap();
                started.elapsed()
            }
        });
        let during = worst(&mut heard, started + Duration::from_secs(15)).await;
        println!(
            "500 rules, {} changed: live after {:.2} s; the longest from receipt to finding {during:.0} ms, {quiet:.0} ms without",
            if all { "all" } else { "all that keep nothing" },
            changed.await.unwrap().as_secs_f64()
        );
        live.mark_unchanged();
    }
    stop.cancel();
    sending.await.unwrap();
    running.await.unwrap().unwrap();
}
