//! The journal on Kafka: the suite, and what only a broker can be asked. Needs VEDETTE_TEST_KAFKA (`docker/services.sh
//! up` prints it). Without it these tests pass without a word, unless VEDETTE_REQUIRE_SERVICES is set, as it is in CI.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use vedette_journal::kafka::{Config, MAX_MESSAGE_BYTES};
use vedette_journal::{Consumer, Journal, JournalError, Limits, Polled, Record, Topic};
use vedette_schemas::EventId;

use crate::suite::{self, Place, ROOMY, after, contents, read, record, records};

fn brokers() -> Option<String> {
    let brokers = std::env::var("VEDETTE_TEST_KAFKA").ok();
    assert!(
        brokers.is_some() || std::env::var_os("VEDETTE_REQUIRE_SERVICES").is_none(),
        "VEDETTE_TEST_KAFKA is not set, and VEDETTE_REQUIRE_SERVICES asks for it"
    );
    brokers
}

/// Topics and groups under a prefix that no other test uses.
struct Prefix(Config);

impl Prefix {
    fn new(brokers: &str, partitions: i32) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        let topic_prefix = format!("test-{now}-{}.", NEXT.fetch_add(1, Ordering::Relaxed));
        Prefix(Config { brokers: brokers.into(), topic_prefix, partitions, ..Config::default() })
    }
}

#[async_trait]
impl Place for Prefix {
    async fn open(&self) -> Arc<dyn Journal> {
        self.0.open().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let Some(brokers) = brokers() else { return };
    suite::run_all(|| Prefix::new(&brokers, 1)).await;
}

#[tokio::test]
async fn every_partition_is_read_and_an_event_keeps_its_partition() {
    let Some(brokers) = brokers() else { return };
    let journal = Prefix::new(&brokers, 6).open().await;
    for _ in 0..2 {
        journal.append(Topic::Audit, records(0..300)).await.unwrap();
    }
    let mut consumer = journal.subscribe("all", &[Topic::Audit]).await.unwrap();
    let all = read(&mut *consumer, 600, ROOMY).await;
    let places: BTreeSet<_> = all.iter().map(|one| (one.record.received_at, one.partition)).collect();
    assert_eq!(places.len(), 300, "both deliveries of an event are in one partition");
    assert_eq!(all.iter().map(|one| one.partition).collect::<BTreeSet<_>>().len(), 6);
    assert_eq!(consumer.lag().await.unwrap(), 0);
}

#[tokio::test]
async fn large_events_and_reasons_come_back_and_too_large_ones_are_named() {
    let Some(brokers) = brokers() else { return };
    let journal = Prefix::new(&brokers, 1).open().await;
    let large = Record { payload: vec![b'x'; 9 << 20].into(), reason: Some("not JSON: é".into()), ..record(1) };
    journal.append(Topic::DeadLetters, vec![large.clone(), record(2)]).await.unwrap();
    let mut consumer = journal.subscribe("large", &[Topic::DeadLetters]).await.unwrap();
    assert!(contents(&read(&mut *consumer, 2, ROOMY).await) == [large, record(2)]);
    let too_large = Record { payload: vec![b'x'; MAX_MESSAGE_BYTES].into(), ..record(3) };
    let error = journal.append(Topic::DeadLetters, vec![record(4), too_large]).await.unwrap_err();
    assert!(matches!(error, JournalError::TooLarge { limit: MAX_MESSAGE_BYTES, .. }), "{error}");
    assert_eq!(consumer.lag().await.unwrap(), 0, "nothing of a refused append is written");
}

#[tokio::test]
async fn another_producers_messages_are_events_with_their_own_identity() {
    let Some(brokers) = brokers() else { return };
    let place = Prefix::new(&brokers, 1);
    let journal = place.open().await;
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    let topic = format!("{}{}", place.0.topic_prefix, Topic::Audit);
    let mut consumer = journal.subscribe("foreign", &[Topic::Audit]).await.unwrap();
    for (event, time) in [("{\"verb\":\"get\"}", "0"), ("{\"verb\":\"list\"}", "1772323200000000000")] {
        // The key is as long as an identity, and the same twice. The time is none, and in nanoseconds.
        let headers = OwnedHeaders::new().insert(Header { key: "received_at", value: Some(time) });
        let message = FutureRecord::to(&topic).key("kube-system/etcd").payload(event).headers(headers);
        producer.send(message, Duration::from_secs(10)).await.unwrap();
    }
    let found = read(&mut *consumer, 2, ROOMY).await;
    for one in &found {
        assert_eq!(one.record.id, EventId::of("unknown", &one.record.payload));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as i64;
        assert!((now - 60_000_000..=now).contains(&one.record.received_at), "{}", one.record.received_at);
    }
    assert_ne!(found[0].record.id, found[1].record.id);
}

/// Polls once, and commits what comes, as a stage does: also while its partitions are taken away.
async fn step(consumer: &mut dyn Consumer, held: &mut Vec<vedette_journal::Delivered>, done: &mut Vec<i64>) {
    let limits = Limits { records: 50, wait: Duration::from_millis(100), ..ROOMY };
    match consumer.poll(limits).await.unwrap() {
        Polled::Records(more) => held.extend(more),
        Polled::Revoking(_) | Polled::Idle => {
            if !held.is_empty() {
                consumer.commit(&after(held)).await.unwrap();
                done.extend(held.drain(..).map(|one| one.record.received_at));
            }
        }
        Polled::Assigned(_) => assert!(held.is_empty(), "what was held is committed before anything is assigned"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_member_takes_over_without_loss_or_repetition() {
    let Some(brokers) = brokers() else { return };
    let place = Prefix::new(&brokers, 4);
    let journal = place.open().await;
    journal.append(Topic::Audit, records(0..2000)).await.unwrap();
    let mut first = journal.subscribe("shared", &[Topic::Audit]).await.unwrap();
    let (mut first_held, mut second_held, mut done) = (Vec::new(), Vec::new(), Vec::new());
    while first_held.len() < 300 {
        step(&mut *first, &mut first_held, &mut done).await;
    }
    let mut second = journal.subscribe("shared", &[Topic::Audit]).await.unwrap();
    let mut by_second = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut appended = false;
    while done.len() + by_second.len() < 4000 {
        assert!(Instant::now() < deadline, "{} and {} done", done.len(), by_second.len());
        tokio::join!(
            step(&mut *first, &mut first_held, &mut done),
            step(&mut *second, &mut second_held, &mut by_second)
        );
        if !appended && done.len() + by_second.len() >= 2000 {
            appended = true;
            journal.append(Topic::Audit, records(2000..4000)).await.unwrap();
        }
    }
    assert!(!by_second.is_empty(), "the second member got partitions");
    done.extend(by_second);
    done.sort_unstable();
    let expected: Vec<i64> = records(0..4000).iter().map(|record| record.received_at).collect();
    assert!(done == expected, "each record exactly once");
}

#[tokio::test]
async fn no_broker_is_an_error_in_time() {
    let config = Config { brokers: "127.0.0.1:1".into(), delivery_timeout_ms: 1_500, ..Config::default() };
    let started = Instant::now();
    assert!(config.open().await.is_err());
    assert!(started.elapsed() < Duration::from_secs(15));
}
