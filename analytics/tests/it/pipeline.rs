//! The pipeline between a real journal and a real lake: nothing lost, nothing twice.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use tokio_util::sync::CancellationToken;
use vedette_analytics::engine::RULE_FAILED;
use vedette_analytics::pipeline::{Config, Pipeline, PipelineError};
use vedette_analytics::query;
use vedette_analytics::store::{Store, StoreError, Write, lake};
use vedette_benches::Generator;
use vedette_detections::{Rule, Ruleset, builtin};
use vedette_journal::{Consumer, Journal, JournalError, Limits, Polled, Positions, Record, Source, Topic, embedded};
use vedette_schemas::{EventId, Table, rebuild_audit};

use crate::engine::rule;

pub async fn place(folder: &Path) -> (Arc<dyn Journal>, Arc<dyn Store>) {
    let journal = embedded::Config { path: folder.join("journal"), ..Default::default() }.open().unwrap();
    let url = folder.join("lake").to_str().unwrap().to_owned();
    (journal, lake::Config { url, ..Default::default() }.open().await.unwrap())
}

pub fn record(source: Source, payload: impl Into<Vec<u8>>) -> Record {
    let received_at = chrono::Utc::now().timestamp_micros();
    Record::new("prod".into(), source, received_at, payload.into().into())
}

pub fn generated(seed: u64, count: usize) -> Vec<Record> {
    let mut generator = Generator::new(seed);
    let event = |_| {
        let mut event = String::new();
        generator.event(&mut event);
        record(Source::Audit, event)
    };
    (0..count).map(event).collect()
}

fn set(rules: Vec<Rule>) -> Arc<Ruleset> {
    Arc::new(Ruleset { rules, ..Ruleset::default() })
}

/// A pipeline at work.
struct Running {
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), PipelineError>>,
}

impl Running {
    async fn start(config: Config, journal: &Arc<dyn Journal>, store: &Arc<dyn Store>, rules: Vec<Rule>) -> Self {
        let pipeline = Pipeline::new(config, journal.clone(), store.clone(), set(rules)).await.unwrap();
        let shutdown = CancellationToken::new();
        Self { task: tokio::spawn(pipeline.run(shutdown.clone(), None)), shutdown }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// Runs until the group's offsets are at the end: everything is stored.
async fn run_through(group: &str, journal: &Arc<dyn Journal>, store: &Arc<dyn Store>, rules: Vec<Rule>) {
    let config =
        Config { group: group.into(), batch_events: 500, flush_bytes: 1 << 20, flush_seconds: 1, ..Config::default() };
    let running = Running::start(config, journal, store, rules).await;
    let committed = async {
        while journal.subscribe(group, &[Topic::Audit, Topic::Falco]).await.unwrap().lag().await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), committed).await.unwrap();
    running.stop().await;
}

pub async fn rows(store: &Arc<dyn Store>, sql: &str) -> Vec<RecordBatch> {
    let session = query::session(store.clone(), Arc::default()).await.unwrap();
    query::plan(&session, sql).await.unwrap().collect().await.unwrap()
}

pub async fn number(store: &Arc<dyn Store>, sql: &str) -> i64 {
    rows(store, sql).await[0].column(0).as_primitive::<arrow::datatypes::Int64Type>().value(0)
}

pub async fn read(journal: &Arc<dyn Journal>, topic: Topic) -> Vec<Record> {
    let mut consumer = journal.subscribe("reader", &[topic]).await.unwrap();
    let mut all = Vec::new();
    let limits = Limits { records: 10_000, bytes: 1 << 30, wait: Duration::from_millis(50) };
    loop {
        match consumer.poll(limits).await.unwrap() {
            Polled::Records(records) => all.extend(records.into_iter().map(|delivered| delivered.record)),
            Polled::Idle => return all,
            Polled::Assigned(_) | Polled::Revoking(_) => {}
        }
    }
}

const EVENTS: &str = "SELECT count(*) FROM audit";
const ALERTS: &str = "SELECT count(*) FROM alerts";
const DISTINCT_ALERTS: &str = "SELECT count(DISTINCT alert_id) FROM alerts";

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_stored_whole_with_its_findings_and_derived_rows() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, store) = place(folder.path()).await;
    let sent = generated(3, 3_000);
    journal.append(Topic::Audit, sent.clone()).await.unwrap();
    run_through("g", &journal, &store, builtin().unwrap()).await;

    let mut wanted: Vec<serde_json::Value> =
        sent.iter().map(|record| serde_json::from_slice(&record.payload).unwrap()).collect();
    let mut found: Vec<serde_json::Value> = Vec::new();
    for batch in rows(&store, "SELECT * FROM audit").await {
        found.extend((0..batch.num_rows()).map(|row| rebuild_audit(&batch, row).unwrap()));
    }
    let id = |event: &serde_json::Value| event["auditID"].as_str().unwrap().to_owned();
    wanted.sort_by_key(id);
    found.sort_by_key(id);
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(&wanted) {
        assert_eq!(found, wanted);
    }
    for table in [Table::Alerts, Table::Containers, Table::RoleRules, Table::RoleSubjects] {
        assert!(number(&store, &format!("SELECT count(*) FROM {}", table.name())).await > 0, "{}", table.name());
    }
    // The alert topic says the same as the table.
    let topic = read(&journal, Topic::Alerts).await;
    assert_eq!(topic.len() as i64, number(&store, ALERTS).await);
    let first: serde_json::Value = serde_json::from_slice(&topic[0].payload).unwrap();
    let evidence = first["evidence"][0].as_str().unwrap();
    assert_eq!(number(&store, &format!("{EVENTS} WHERE event_id = '{evidence}'")).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_delivered_again_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, store) = place(folder.path()).await;
    let sent = generated(4, 2_000);
    journal.append(Topic::Audit, sent.clone()).await.unwrap();
    run_through("g", &journal, &store, builtin().unwrap()).await;
    let alerts = number(&store, ALERTS).await;
    assert!(alerts > 0);

    // An API server sends a batch twice; a process restarts; a new group reads from the start.
    journal.append(Topic::Audit, sent[500..1500].to_vec()).await.unwrap();
    run_through("g", &journal, &store, builtin().unwrap()).await;
    run_through("another", &journal, &store, builtin().unwrap()).await;

    assert_eq!(number(&store, EVENTS).await, 2_000);
    assert_eq!(number(&store, ALERTS).await, alerts);
    assert_eq!(number(&store, DISTINCT_ALERTS).await, alerts);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_decoded_is_kept_whole_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, store) = place(folder.path()).await;
    let broken = br#"{"auditID": "1", "verb": "#;
    let mut sent = generated(5, 10);
    sent.insert(4, record(Source::Audit, &broken[..]));
    journal.append(Topic::Audit, sent).await.unwrap();
    journal.append(Topic::Falco, vec![record(Source::Falco, &b"[1]"[..])]).await.unwrap();
    run_through("g", &journal, &store, builtin().unwrap()).await;

    assert_eq!(number(&store, EVENTS).await, 10);
    let mut dead = read(&journal, Topic::DeadLetters).await;
    dead.sort_by_key(|record| record.source.name());
    assert_eq!(dead.len(), 2);
    assert_eq!(&dead[0].payload[..], broken);
    assert_eq!(&dead[1].payload[..], b"[1]");
    assert!(dead.iter().all(|record| record.reason.as_deref().is_some_and(|reason| !reason.is_empty())), "{dead:?}");
    assert_eq!((dead[0].source, dead[1].source), (Source::Audit, Source::Falco));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_rule_raises_a_finding_about_itself_and_the_stream_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, store) = place(folder.path()).await;
    let failing =
        rule("failing", "SELECT cluster, event_id, event_time FROM audit WHERE CAST(user_name AS BIGINT) = 1");
    journal.append(Topic::Audit, generated(6, 1_500)).await.unwrap();
    run_through("g", &journal, &store, [builtin().unwrap(), vec![failing]].concat()).await;
    assert_eq!(number(&store, EVENTS).await, 1_500);
    let about = format!("{ALERTS} WHERE rule_id = '{RULE_FAILED}' AND target = 'failing'");
    assert_eq!(number(&store, &about).await, 1);
    assert!(number(&store, &format!("{ALERTS} WHERE rule_id <> '{RULE_FAILED}'")).await > 0);
}

/// A lake that is away for the first so many writes, and when it is first asked for ids.
pub struct Flaky {
    pub lake: Arc<dyn Store>,
    pub failures: AtomicUsize,
    pub failed_ids: AtomicBool,
}

#[async_trait]
impl Store for Flaky {
    async fn migrate(&self) -> Result<(), StoreError> {
        self.lake.migrate().await
    }
    async fn write(&self, write: Write) -> Result<(), StoreError> {
        let left = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match left {
            Ok(_) => Err(StoreError::Unavailable { store: "flaky", reason: "away".into() }),
            Err(_) => self.lake.write(write).await,
        }
    }
    async fn recent_ids(&self, table: Table, since: i64, limit: usize) -> Result<Vec<EventId>, StoreError> {
        let unasked = self.failed_ids.swap(true, Ordering::SeqCst);
        if !unasked {
            return Err(StoreError::Unavailable { store: "flaky", reason: "away".into() });
        }
        self.lake.recent_ids(table, since, limit).await
    }
    async fn provider(&self, table: Table) -> Result<Arc<dyn TableProvider>, StoreError> {
        self.lake.provider(table).await
    }
    async fn maintain(&self) -> Result<(), StoreError> {
        self.lake.maintain().await
    }
    async fn ready(&self) -> Result<(), StoreError> {
        self.lake.ready().await
    }
}

/// A journal whose consumers fail every other call.
struct Moody(Arc<dyn Journal>);

struct MoodyConsumer {
    consumer: Box<dyn Consumer>,
    calls: usize,
    commits: usize,
}

impl MoodyConsumer {
    fn call(&mut self) -> Result<(), JournalError> {
        self.calls += 1;
        if self.calls.is_multiple_of(2) { Ok(()) } else { Err(JournalError::Kafka("no leader".into())) }
    }
}

#[async_trait]
impl Journal for Moody {
    async fn append(&self, topic: Topic, records: Vec<Record>) -> Result<(), JournalError> {
        self.0.append(topic, records).await
    }
    async fn subscribe(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Consumer>, JournalError> {
        let consumer = self.0.subscribe(group, topics).await?;
        Ok(Box::new(MoodyConsumer { consumer, calls: 0, commits: 0 }))
    }
    async fn ready(&self) -> Result<(), JournalError> {
        self.0.ready().await
    }
    fn id(&self) -> String {
        self.0.id()
    }
}

#[async_trait]
impl Consumer for MoodyConsumer {
    async fn poll(&mut self, limits: Limits) -> Result<Polled, JournalError> {
        self.call()?;
        self.consumer.poll(limits).await
    }
    async fn commit(&mut self, positions: &Positions) -> Result<(), JournalError> {
        self.commits += 1;
        if self.commits == 1 {
            return Err(JournalError::Kafka("not coordinator".into()));
        }
        self.consumer.commit(positions).await
    }
    async fn lag(&mut self) -> Result<u64, JournalError> {
        Err(JournalError::Kafka("no watermarks".into()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_fails_now_and_then_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, store) = place(folder.path()).await;
    let moody: Arc<dyn Journal> = Arc::new(Moody(journal.clone()));
    journal.append(Topic::Audit, generated(9, 300)).await.unwrap();
    let config = Config { group: "g".into(), flush_seconds: 1, ..Config::default() };
    let running = Running::start(config, &moody, &store, builtin().unwrap()).await;
    // Longer than the engine waits before it asks for the lag, and twice for a flush.
    let committed = async {
        while journal.subscribe("g", &[Topic::Audit]).await.unwrap().lag().await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(Duration::from_secs(6)).await;
    };
    tokio::time::timeout(Duration::from_secs(60), committed).await.unwrap();
    running.stop().await;
    assert_eq!(number(&store, EVENTS).await, 300);
    assert_eq!(number(&store, ALERTS).await, number(&store, DISTINCT_ALERTS).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, lake) = place(folder.path()).await;
    let flaky =
        Arc::new(Flaky { lake: lake.clone(), failures: AtomicUsize::new(3), failed_ids: AtomicBool::new(false) });
    let store: Arc<dyn Store> = flaky.clone();
    journal.append(Topic::Audit, generated(8, 1_000)).await.unwrap();
    run_through("g", &journal, &store, builtin().unwrap()).await;
    assert_eq!(flaky.failures.load(Ordering::SeqCst), 0);
    assert_eq!(number(&lake, EVENTS).await, 1_000);
    assert_eq!(number(&lake, ALERTS).await, number(&lake, DISTINCT_ALERTS).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_read_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (_, store) = place(folder.path()).await;
    store.migrate().await.unwrap();
    let session = query::session(store, Arc::default()).await.unwrap();
    for sql in [
        "CREATE TABLE t AS SELECT 1",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "INSERT INTO audit SELECT * FROM audit",
        "COPY (SELECT 1) TO '/tmp/x.csv'",
        "DROP TABLE audit",
        "SET datafusion.execution.batch_size = 1",
    ] {
        assert!(query::plan(&session, sql).await.is_err(), "{sql}");
    }
    assert!(query::plan(&session, "SELECT cluster, user_name FROM audit").await.is_ok());
}
