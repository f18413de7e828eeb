//! What every journal does. `run_all` runs it against any of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use vedette_journal::{Consumer, Delivered, Journal, Limits, Partition, Polled, Positions, Record, Source, Topic};

/// Somewhere a journal lives: a folder, or a prefix of topics and groups on a broker.
#[async_trait]
pub trait Place: Send + Sync {
    /// Opens the journal there. What was appended and committed before is still there.
    async fn open(&self) -> Arc<dyn Journal>;
}

/// Runs every check, each in a fresh place.
pub async fn run_all<P: Place>(make: impl Fn() -> P) {
    order_and_content(&make()).await;
    no_records_is_no_error(&make()).await;
    groups_are_independent(&make()).await;
    committed_positions_survive(&make()).await;
    uncommitted_records_come_again(&make()).await;
    a_new_group_starts_at_the_start(&make()).await;
    limits_are_kept(&make()).await;
    lag_counts_what_was_not_given(&make()).await;
    idle_polls_wait_and_wake(&make()).await;
    several_topics_share_a_poll(&make()).await;
    concurrent_senders_keep_their_order(&make()).await;
}

pub fn record(number: usize) -> Record {
    Record::new(
        format!("cluster-{}", number % 3).into(),
        [Source::Audit, Source::Falco, Source::Vedette][number % 3],
        1_700_000_000_000_000 + number as i64,
        format!("{{\"number\":{number}}}").into(),
    )
}

pub fn records(numbers: std::ops::Range<usize>) -> Vec<Record> {
    numbers.map(record).collect()
}

/// Bytes that don't compress.
pub fn noise(seed: usize, size: usize) -> Vec<u8> {
    let mut state = seed as u64 + 1;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB).to_be_bytes()[0]
    };
    (0..size).map(|_| next()).collect()
}

pub const ROOMY: Limits = Limits { records: 10_000, bytes: 64 << 20, wait: Duration::from_secs(1) };

/// Polls until so many records have come; fails if they don't, or if more do.
pub async fn read(consumer: &mut dyn Consumer, count: usize, limits: Limits) -> Vec<Delivered> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut read = Vec::new();
    while read.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} records came", read.len());
        if let Polled::Records(more) = consumer.poll(limits).await.unwrap() {
            assert!(!more.is_empty());
            read.extend(more);
        }
    }
    assert_eq!(read.len(), count);
    read
}

/// Polls once more, and expects nothing.
async fn expect_nothing(consumer: &mut dyn Consumer) {
    let limits = Limits { wait: Duration::from_millis(300), ..ROOMY };
    loop {
        match consumer.poll(limits).await.unwrap() {
            Polled::Idle => return,
            Polled::Records(records) => panic!("{} records too many", records.len()),
            Polled::Assigned(_) | Polled::Revoking(_) => {}
        }
    }
}

pub fn contents(delivered: &[Delivered]) -> Vec<Record> {
    delivered.iter().map(|delivered| delivered.record.clone()).collect()
}

/// The positions after the last of these records.
pub fn after(delivered: &[Delivered]) -> Positions {
    delivered.iter().map(|delivered| (delivered.partition, delivered.offset + 1)).collect()
}

async fn order_and_content(place: &dyn Place) {
    let journal = place.open().await;
    let mut sent = records(0..500);
    sent[10].payload = Default::default();
    sent[20].payload = vec![0xA5; 700 << 10].into();
    sent[30].reason = Some("line 1: what is \u{201c}this\u{201d}?".into());
    sent[31].reason = Some(String::new());
    sent[40].payload = vec![0, 255, 128, 10, 13].into();
    for batch in sent.chunks(70) {
        journal.append(Topic::DeadLetters, batch.to_vec()).await.unwrap();
    }
    let mut consumer = journal.subscribe("order", &[Topic::DeadLetters]).await.unwrap();
    let read = read(&mut *consumer, sent.len(), ROOMY).await;
    assert_eq!(contents(&read), sent);
    let first = read[0].offset;
    for (index, delivered) in read.iter().enumerate() {
        assert_eq!(delivered.offset, first + index as u64);
        assert_eq!(delivered.partition, Partition { topic: Topic::DeadLetters, number: 0 });
    }
    expect_nothing(&mut *consumer).await;
}

async fn no_records_is_no_error(place: &dyn Place) {
    let journal = place.open().await;
    journal.ready().await.unwrap();
    journal.append(Topic::Alerts, Vec::new()).await.unwrap();
    journal.append(Topic::Alerts, records(0..1)).await.unwrap();
    let mut consumer = journal.subscribe("none", &[Topic::Alerts]).await.unwrap();
    assert_eq!(contents(&read(&mut *consumer, 1, ROOMY).await), records(0..1));
}

async fn groups_are_independent(place: &dyn Place) {
    let journal = place.open().await;
    journal.append(Topic::Audit, records(0..30)).await.unwrap();
    let mut detect = journal.subscribe("detect", &[Topic::Audit]).await.unwrap();
    let mut store = journal.subscribe("store", &[Topic::Audit]).await.unwrap();
    let by_detect = read(&mut *detect, 30, ROOMY).await;
    detect.commit(&after(&by_detect)).await.unwrap();
    drop(detect);
    assert_eq!(contents(&read(&mut *store, 30, ROOMY).await), records(0..30));
    drop(store);
    let mut detect = journal.subscribe("detect", &[Topic::Audit]).await.unwrap();
    expect_nothing(&mut *detect).await;
    let mut store = journal.subscribe("store", &[Topic::Audit]).await.unwrap();
    read(&mut *store, 30, ROOMY).await;
}

async fn committed_positions_survive(place: &dyn Place) {
    let journal = place.open().await;
    let id = journal.id();
    journal.append(Topic::Audit, records(0..40)).await.unwrap();
    let mut consumer = journal.subscribe("survivor", &[Topic::Audit]).await.unwrap();
    let read_first = read(&mut *consumer, 40, ROOMY).await;
    consumer.commit(&after(&read_first[..25])).await.unwrap();
    drop((consumer, journal));
    let journal = place.open().await;
    assert_eq!(journal.id(), id);
    journal.append(Topic::Audit, records(40..50)).await.unwrap();
    let mut consumer = journal.subscribe("survivor", &[Topic::Audit]).await.unwrap();
    let read_again = read(&mut *consumer, 25, ROOMY).await;
    assert_eq!(contents(&read_again), records(25..50));
    assert_eq!(read_again[0].offset, read_first[25].offset);
}

async fn uncommitted_records_come_again(place: &dyn Place) {
    let journal = place.open().await;
    journal.append(Topic::Falco, records(0..10)).await.unwrap();
    for _ in 0..2 {
        let mut consumer = journal.subscribe("again", &[Topic::Falco]).await.unwrap();
        assert_eq!(contents(&read(&mut *consumer, 10, ROOMY).await), records(0..10));
    }
}

async fn a_new_group_starts_at_the_start(place: &dyn Place) {
    let journal = place.open().await;
    let mut early = journal.subscribe("early", &[Topic::Audit]).await.unwrap();
    expect_nothing(&mut *early).await;
    journal.append(Topic::Audit, records(0..5)).await.unwrap();
    assert_eq!(contents(&read(&mut *early, 5, ROOMY).await), records(0..5));
    let mut late = journal.subscribe("late", &[Topic::Audit]).await.unwrap();
    assert_eq!(contents(&read(&mut *late, 5, ROOMY).await), records(0..5));
}

async fn limits_are_kept(place: &dyn Place) {
    let journal = place.open().await;
    let mut sent = records(0..60);
    sent.iter_mut().for_each(|record| record.payload = vec![7; 1000].into());
    sent[50].payload = vec![8; 500_000].into();
    journal.append(Topic::Audit, sent.clone()).await.unwrap();
    let mut consumer = journal.subscribe("limits", &[Topic::Audit]).await.unwrap();
    let limits = Limits { records: 7, bytes: 5_000, wait: Duration::from_secs(1) };
    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut read, mut largest) = (Vec::new(), 0);
    while read.len() < sent.len() {
        assert!(Instant::now() < deadline);
        let Polled::Records(more) = consumer.poll(limits).await.unwrap() else { continue };
        let bytes: usize = more.iter().map(|delivered| delivered.record.payload.len()).sum();
        assert!(more.len() <= 7 && (bytes <= 5_000 || more.len() == 1), "{} records, {bytes} bytes", more.len());
        largest = largest.max(more.len());
        read.extend(more);
    }
    assert_eq!(contents(&read), sent);
    assert!(largest > 1, "polls bring more than one record where they may");
}

async fn lag_counts_what_was_not_given(place: &dyn Place) {
    let journal = place.open().await;
    journal.append(Topic::Audit, records(0..10)).await.unwrap();
    let mut consumer = journal.subscribe("lag", &[Topic::Audit]).await.unwrap();
    read(&mut *consumer, 4, Limits { records: 4, ..ROOMY }).await;
    assert_eq!(consumer.lag().await.unwrap(), 6);
    read(&mut *consumer, 6, ROOMY).await;
    assert_eq!(consumer.lag().await.unwrap(), 0);
    journal.append(Topic::Audit, records(10..13)).await.unwrap();
    read(&mut *consumer, 1, Limits { records: 1, ..ROOMY }).await;
    assert_eq!(consumer.lag().await.unwrap(), 2);
}

async fn idle_polls_wait_and_wake(place: &dyn Place) {
    let journal = place.open().await;
    let mut consumer = journal.subscribe("idle", &[Topic::Audit, Topic::Falco]).await.unwrap();
    expect_nothing(&mut *consumer).await;
    let wait = Duration::from_millis(200);
    let started = Instant::now();
    assert!(matches!(consumer.poll(Limits { wait, ..ROOMY }).await.unwrap(), Polled::Idle));
    assert!(started.elapsed() >= wait);
    let started = Instant::now();
    let append = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        journal.append(Topic::Falco, records(0..1)).await.unwrap();
    };
    let wait = Duration::from_secs(30);
    let (polled, ()) = tokio::join!(consumer.poll(Limits { wait, ..ROOMY }), append);
    assert!(matches!(polled.unwrap(), Polled::Records(records) if records.len() == 1));
    assert!(started.elapsed() < wait, "new records wake a poll");
}

async fn several_topics_share_a_poll(place: &dyn Place) {
    let journal = place.open().await;
    journal.append(Topic::Audit, records(0..2000)).await.unwrap();
    journal.append(Topic::Falco, records(0..100)).await.unwrap();
    let mut consumer = journal.subscribe("both", &[Topic::Audit, Topic::Falco]).await.unwrap();
    let read = read(&mut *consumer, 2100, Limits { records: 50, ..ROOMY }).await;
    let mut by_topic: BTreeMap<Topic, Vec<Delivered>> = BTreeMap::new();
    for delivered in read {
        by_topic.entry(delivered.partition.topic).or_default().push(delivered);
    }
    assert_eq!(contents(&by_topic[&Topic::Audit]), records(0..2000));
    assert_eq!(contents(&by_topic[&Topic::Falco]), records(0..100));
}

async fn concurrent_senders_keep_their_order(place: &dyn Place) {
    let journal = place.open().await;
    let send = |sender: usize| {
        let journal = journal.clone();
        tokio::spawn(async move {
            for batch in 0..20 {
                let start = sender * 1_000_000 + batch * 10;
                journal.append(Topic::Audit, records(start..start + 10)).await.unwrap();
            }
        })
    };
    for sender in (0..8).map(send).collect::<Vec<_>>() {
        sender.await.unwrap();
    }
    let mut consumer = journal.subscribe("senders", &[Topic::Audit]).await.unwrap();
    let read = contents(&read(&mut *consumer, 8 * 200, ROOMY).await);
    for sender in 0..8 {
        let start = sender * 1_000_000;
        let sent = records(start..start + 200);
        let received = sent[0].received_at..=sent[199].received_at;
        let of_sender: Vec<_> = read.iter().filter(|record| received.contains(&record.received_at)).cloned().collect();
        assert_eq!(of_sender, sent);
    }
}
