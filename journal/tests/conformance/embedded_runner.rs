//! The embedded journal: the suite, and what only a folder of files can be asked.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tempfile::TempDir;
use vedette_journal::embedded::{Config, Embedded};
use vedette_journal::{Journal, JournalError, Limits, Partition, Polled, Positions, Record, Topic};

use crate::suite::{self, Place, ROOMY, after, contents, noise, read, record, records};

const AUDIT: Partition = Partition { topic: Topic::Audit, number: 0 };

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn config(&self) -> Config {
        Config { path: self.0.path().to_owned(), ..Config::default() }
    }

    fn segments(&self, topic: Topic) -> Vec<PathBuf> {
        segments(&self.0.path().join(topic.name()))
    }
}

#[async_trait]
impl Place for Folder {
    async fn open(&self) -> Arc<dyn Journal> {
        // Small segments, so that every check crosses their borders.
        Config { segment_bytes: 500, ..self.config() }.open().unwrap()
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut segments: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    segments
}

fn large(number: usize, size: usize) -> Record {
    Record { payload: noise(number, size).into(), ..record(number) }
}

async fn read_all(journal: &Embedded, count: usize) -> Vec<Record> {
    let mut consumer = journal.subscribe("all", &[Topic::Audit]).await.unwrap();
    let all = contents(&read(&mut *consumer, count, ROOMY).await);
    assert_eq!(consumer.lag().await.unwrap(), 0, "nothing comes after them");
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    suite::run_all(Folder::new).await;
}

#[tokio::test]
async fn a_payload_larger_than_any_chunk_comes_back() {
    let folder = Folder::new();
    let journal = folder.config().open().unwrap();
    let sent = vec![record(0), large(1, 5 << 20), large(2, 9 << 20), record(3)];
    journal.append(Topic::Audit, sent.clone()).await.unwrap();
    assert!(read_all(&journal, 4).await == sent);
}

#[tokio::test]
async fn a_second_opening_is_refused() {
    let folder = Folder::new();
    let journal = folder.config().open().unwrap();
    assert!(matches!(folder.config().open(), Err(JournalError::Locked { .. })));
    let consumer = journal.subscribe("holder", &[Topic::Audit]).await.unwrap();
    drop(journal);
    assert!(matches!(folder.config().open(), Err(JournalError::Locked { .. })), "a consumer still writes there");
    drop(consumer);
    folder.config().open().unwrap();
}

#[tokio::test]
async fn journals_have_different_names() {
    let (one, other) = (Folder::new(), Folder::new());
    assert_ne!(one.open().await.id(), other.open().await.id());
}

/// Cuts the last frame at every byte, and overwrites every byte of it with zeros to the end: what was acknowledged before
/// is there, the torn frame is not, and the log goes on.
#[tokio::test]
async fn a_torn_tail_is_cut_off_at_every_byte() {
    let folder = Folder::new();
    let journal = folder.config().open().unwrap();
    journal.append(Topic::Audit, records(0..3)).await.unwrap();
    let path = folder.segments(Topic::Audit).remove(0);
    let kept = std::fs::metadata(&path).unwrap().len() as usize;
    journal.append(Topic::Audit, records(3..5)).await.unwrap();
    drop(journal);
    let whole = std::fs::read(&path).unwrap();
    for cut in kept..whole.len() {
        for zeros in [false, true] {
            let mut torn = whole[..cut].to_vec();
            if zeros {
                torn.resize(whole.len() + 64, 0);
            }
            std::fs::write(&path, torn).unwrap();
            let journal = folder.config().open().unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().len() as usize, kept, "cut at {cut}, zeros: {zeros}");
            journal.append(Topic::Audit, records(5..6)).await.unwrap();
            let mut expected = records(0..3);
            expected.extend(records(5..6));
            assert_eq!(read_all(&journal, 4).await, expected);
        }
    }
}

fn flip(path: &Path, at: u64) {
    let mut file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 0x10]).unwrap();
}

#[tokio::test]
async fn damage_before_acknowledged_records_is_never_cut_off() {
    let folder = Folder::new();
    let journal = folder.config().open().unwrap();
    for number in 0..5 {
        journal.append(Topic::Audit, records(number..number + 1)).await.unwrap();
    }
    drop(journal);
    let path = folder.segments(Topic::Audit).remove(0);
    let whole = std::fs::metadata(&path).unwrap().len();
    for at in (0..whole * 3 / 5).step_by(7) {
        flip(&path, at);
        let error = folder.config().open().err();
        assert!(
            matches!(&error, Some(JournalError::Corrupt { path: named, reason })
            if *named == path.display().to_string() && reason.contains("byte")),
            "byte {at}: {error:?}"
        );
        assert_eq!(std::fs::metadata(&path).unwrap().len(), whole);
        flip(&path, at);
    }
    assert_eq!(read_all(&folder.config().open().unwrap(), 5).await, records(0..5));
}

/// Every byte of a frame in an old segment, one at a time: the group stops there for good, with an error that says where,
/// and everything else goes on.
#[tokio::test]
async fn damage_in_an_old_segment_stops_its_readers_and_nothing_else() {
    let folder = Folder::new();
    let journal = Config { segment_bytes: 1, ..folder.config() }.open().unwrap();
    for number in 0..3 {
        journal.append(Topic::Audit, records(number * 2..number * 2 + 2)).await.unwrap();
    }
    journal.append(Topic::Falco, records(0..1)).await.unwrap();
    let segments = folder.segments(Topic::Audit);
    assert_eq!(segments.len(), 3);
    for at in 0..std::fs::metadata(&segments[1]).unwrap().len() {
        flip(&segments[1], at);
        let mut consumer = journal.subscribe("damaged", &[Topic::Audit, Topic::Falco]).await.unwrap();
        let before = read(&mut *consumer, 3, ROOMY).await;
        assert!(before.iter().any(|one| one.partition.topic == Topic::Falco), "the other topic is read");
        for _ in 0..2 {
            let error = consumer.poll(ROOMY).await.unwrap_err();
            let JournalError::Corrupt { path, reason } = error else { panic!("byte {at}: {error}") };
            assert_eq!(path, segments[1].display().to_string());
            assert!(reason.contains("the frame at byte 0, of offset 2"), "byte {at}: {reason}");
        }
        assert_eq!(consumer.lag().await.unwrap(), 4, "what is behind the damage is not given out");
        flip(&segments[1], at);
        assert_eq!(contents(&read(&mut *consumer, 4, ROOMY).await), records(2..6), "a repaired file is read on");
    }
    flip(&segments[1], 40);
    let mut falco = journal.subscribe("others", &[Topic::Falco]).await.unwrap();
    read(&mut *falco, 1, ROOMY).await;
    journal.append(Topic::Audit, records(6..8)).await.unwrap();
    journal.ready().await.unwrap();
}

/// A whole frame as a later version might write it: another format byte, and the checksum of its own.
fn give_a_later_format(path: &Path) {
    let mut frame = std::fs::read(path).unwrap();
    frame[8] = 2;
    let checksum = crc32fast::hash(&frame[8..]);
    frame[4..8].copy_from_slice(&checksum.to_le_bytes());
    std::fs::write(path, frame).unwrap();
}

#[tokio::test]
async fn a_later_format_is_neither_damage_nor_a_torn_tail() {
    let folder = Folder::new();
    let config = Config { segment_bytes: 1, ..folder.config() };
    let journal = config.open().unwrap();
    for number in 0..2 {
        journal.append(Topic::Audit, records(number..number + 1)).await.unwrap();
    }
    let segments = folder.segments(Topic::Audit);
    let check = |error: JournalError, path: &Path| {
        let said = error.to_string();
        assert!(matches!(error, JournalError::Format { at: 0, format: 2, .. }), "{said}");
        assert!(said.contains(&path.display().to_string()) && said.contains("format 2"), "{said}");
    };
    give_a_later_format(&segments[0]);
    let mut consumer = journal.subscribe("old", &[Topic::Audit]).await.unwrap();
    assert!(matches!(consumer.poll(ROOMY).await.unwrap(), Polled::Assigned(_)));
    for _ in 0..2 {
        check(consumer.poll(ROOMY).await.unwrap_err(), &segments[0]);
    }
    drop((consumer, journal));
    give_a_later_format(&segments[1]);
    let length = std::fs::metadata(&segments[1]).unwrap().len();
    check(config.open().err().unwrap(), &segments[1]);
    assert_eq!(std::fs::metadata(&segments[1]).unwrap().len(), length, "nothing is cut off");
}

#[tokio::test]
async fn a_record_over_the_limit_is_refused_with_its_append() {
    let folder = Folder::new();
    let journal = folder.config().open().unwrap();
    let too_large = Record { payload: vec![0; 64 << 20].into(), ..record(1) };
    let error = journal.append(Topic::DeadLetters, vec![record(0), too_large]).await.unwrap_err();
    assert!(matches!(error, JournalError::TooLarge { limit, bytes } if bytes > limit), "{error}");
    let largest = Record { payload: vec![0; (64 << 20) - 100].into(), ..record(2) };
    journal.append(Topic::DeadLetters, vec![largest.clone()]).await.unwrap();
    let mut consumer = journal.subscribe("large", &[Topic::DeadLetters]).await.unwrap();
    assert!(contents(&read(&mut *consumer, 1, ROOMY).await) == [largest]);
}

/// Consumers at different places of the same frames, in small steps and large ones, while more is appended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_read_beside_each_other_and_beside_a_writer() {
    let folder = Folder::new();
    let journal = Config { segment_bytes: 300_000, ..folder.config() }.open().unwrap();
    let sent: Vec<_> = (0..6_000).map(|number| large(number, 200)).collect();
    let readers = [1, 7, 500, 100_000].map(|step| {
        let (journal, sent) = (journal.clone(), sent.clone());
        tokio::spawn(async move {
            let name = format!("step-{step}");
            let mut got = Vec::new();
            while got.len() < sent.len() {
                // Subscribes again from where it is, which is mostly in the middle of a frame.
                let mut consumer = journal.subscribe(&name, &[Topic::Audit]).await.unwrap();
                let wanted = (got.len() + 40 * step.max(25)).min(sent.len());
                while got.len() < wanted {
                    let Polled::Records(more) = consumer.poll(Limits { records: step, ..ROOMY }).await.unwrap() else {
                        continue;
                    };
                    assert!(more.iter().map(|one| one.offset as usize).eq(got.len()..got.len() + more.len()));
                    got.extend(contents(&more));
                }
                consumer.commit(&Positions::from([(AUDIT, got.len() as u64)])).await.unwrap();
            }
            assert!(got == sent, "{name}");
        })
    });
    for batch in sent.chunks(170) {
        journal.append(Topic::Audit, batch.to_vec()).await.unwrap();
    }
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test]
async fn offsets_in_use_are_not_given_out_again() {
    let folder = Folder::new();
    let journal = folder.config().open().unwrap();
    journal.append(Topic::Audit, records(0..9)).await.unwrap();
    let mut fast = journal.subscribe("fast", &[Topic::Audit]).await.unwrap();
    let committed = after(&read(&mut *fast, 9, ROOMY).await);
    fast.commit(&committed).await.unwrap();
    drop((fast, journal));
    std::fs::remove_file(folder.segments(Topic::Audit).remove(0)).unwrap();
    let journal = folder.config().open().unwrap();
    journal.append(Topic::Audit, records(9..10)).await.unwrap();
    let mut fast = journal.subscribe("fast", &[Topic::Audit]).await.unwrap();
    let delivered = read(&mut *fast, 1, ROOMY).await;
    assert_eq!((delivered[0].offset, contents(&delivered)), (9, records(9..10)));
}

#[tokio::test]
async fn commits_only_move_forward_and_only_over_what_exists() {
    let folder = Folder::new();
    let journal = folder.config().open().unwrap();
    journal.append(Topic::Audit, records(0..9)).await.unwrap();
    let mut consumer = journal.subscribe("forward", &[Topic::Audit]).await.unwrap();
    consumer.commit(&Positions::from([(AUDIT, 6)])).await.unwrap();
    consumer.commit(&Positions::from([(AUDIT, 2)])).await.unwrap();
    assert!(consumer.commit(&Positions::from([(AUDIT, 10)])).await.is_err());
    assert!(consumer.commit(&Positions::from([(Partition { number: 1, ..AUDIT }, 3)])).await.is_err());
    drop(consumer);
    let mut consumer = journal.subscribe("forward", &[Topic::Audit]).await.unwrap();
    assert_eq!(read(&mut *consumer, 3, ROOMY).await[0].offset, 6);
}

#[tokio::test]
async fn a_group_that_can_be_no_file_is_refused() {
    let folder = Folder::new();
    let journal = folder.config().open().unwrap();
    for name in ["", "../escape", "a/b", ".hidden", "a b"] {
        assert!(journal.subscribe(name, &[Topic::Audit]).await.is_err(), "{name:?}");
    }
}

#[tokio::test]
async fn a_poll_serves_every_topic_in_turn() {
    let folder = Folder::new();
    let journal = folder.config().open().unwrap();
    journal.append(Topic::Audit, records(0..1000)).await.unwrap();
    journal.append(Topic::Falco, records(0..10)).await.unwrap();
    let mut consumer = journal.subscribe("fair", &[Topic::Audit, Topic::Falco]).await.unwrap();
    let limits = Limits { records: 20, ..ROOMY };
    assert!(matches!(consumer.poll(limits).await.unwrap(), Polled::Assigned(partitions) if partitions.len() == 2));
    let Polled::Records(first) = consumer.poll(limits).await.unwrap() else { panic!() };
    let falco = first.iter().filter(|delivered| delivered.partition.topic == Topic::Falco).count();
    assert_eq!((first.len(), falco), (20, 10));
    let Polled::Records(second) = consumer.poll(limits).await.unwrap() else { panic!() };
    assert_eq!(second.len(), 20, "the busy topic uses what the idle one leaves");
    let one = Limits { records: 1, ..ROOMY };
    journal.append(Topic::Falco, records(10..11)).await.unwrap();
    let mut topics = Vec::new();
    for _ in 0..2 {
        let Polled::Records(next) = consumer.poll(one).await.unwrap() else { panic!() };
        topics.push(next[0].partition.topic);
    }
    topics.sort();
    assert_eq!(topics, [Topic::Audit, Topic::Falco]);
}

#[tokio::test]
async fn a_poll_given_up_loses_nothing() {
    let folder = Folder::new();
    let journal = folder.config().open().unwrap();
    let mut consumer = journal.subscribe("hasty", &[Topic::Audit]).await.unwrap();
    for number in 0..200 {
        journal.append(Topic::Audit, records(number..number + 1)).await.unwrap();
    }
    let mut got = Vec::new();
    let limits = Limits { records: 3, ..ROOMY };
    while got.len() < 200 {
        if let Ok(Polled::Records(more)) = tokio::select! { biased; () = tokio::task::yield_now() => Ok(Polled::Idle), polled = consumer.poll(limits) => polled }
        {
            got.extend(more);
        }
        if let Polled::Records(more) = consumer.poll(limits).await.unwrap() {
            got.extend(more);
        }
    }
    assert_eq!(contents(&got), records(0..200));
}

fn small(folder: &Folder) -> Config {
    Config { segment_bytes: 5_000, retention_bytes: 40_000, ..folder.config() }
}

#[tokio::test]
async fn a_journal_full_of_unread_records_refuses_more_and_recovers() {
    let folder = Folder::new();
    let journal = small(&folder).open().unwrap();
    let mut consumer = journal.subscribe("slow", &[Topic::Audit]).await.unwrap();
    let mut accepted = 0;
    let error = loop {
        match journal.append(Topic::Audit, vec![large(accepted, 1_000)]).await {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 100);
    };
    assert!(matches!(error, JournalError::Full { .. }), "{error}");
    assert!(accepted >= 35, "{accepted} fit");
    assert!(matches!(journal.ready().await, Err(JournalError::Full { .. })));
    journal.append(Topic::Falco, records(0..1)).await.unwrap();
    let first = read(&mut *consumer, 20, Limits { records: 20, ..ROOMY }).await;
    consumer.commit(&after(&first)).await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(4);
    while journal.ready().await.is_err() {
        assert!(std::time::Instant::now() < deadline, "a commit makes room at once");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    journal.append(Topic::Audit, vec![large(accepted, 1_000)]).await.unwrap();
    let rest = contents(&read(&mut *consumer, accepted + 1 - 20, ROOMY).await);
    assert!(rest.iter().zip(20..).all(|(got, number)| *got == large(number, 1_000)));
}

#[tokio::test]
async fn read_records_go_by_size_and_so_do_those_that_no_group_reads() {
    let folder = Folder::new();
    let journal = small(&folder).open().unwrap();
    let mut consumer = journal.subscribe("quick", &[Topic::Audit]).await.unwrap();
    for number in 0..200 {
        journal.append(Topic::Audit, vec![large(number, 1_000)]).await.unwrap();
        let got = read(&mut *consumer, 1, ROOMY).await;
        consumer.commit(&after(&got)).await.unwrap();
        journal.append(Topic::DeadLetters, vec![large(number, 1_000)]).await.unwrap();
    }
    for topic in [Topic::Audit, Topic::DeadLetters] {
        let kept: u64 = folder.segments(topic).iter().map(|path| std::fs::metadata(path).unwrap().len()).sum();
        assert!((20_000..=40_000).contains(&kept), "{topic}: {kept} bytes");
    }
    let mut late = journal.subscribe("late", &[Topic::DeadLetters]).await.unwrap();
    let lag = late.lag().await.unwrap();
    let rest = read(&mut *late, lag as usize, ROOMY).await;
    assert!(lag > 20 && rest[0].offset == 200 - lag, "a new group starts at the oldest record kept");
}

#[tokio::test]
async fn read_records_go_by_age_and_unread_ones_stay() {
    let folder = Folder::new();
    let config = Config { segment_bytes: 1, ..folder.config() };
    let journal = config.open().unwrap();
    let mut consumer = journal.subscribe("reader", &[Topic::Audit]).await.unwrap();
    for number in 0..6 {
        journal.append(Topic::Audit, records(number..number + 1)).await.unwrap();
    }
    let got = read(&mut *consumer, 6, ROOMY).await;
    consumer.commit(&after(&got[..4])).await.unwrap();
    for path in folder.segments(Topic::Audit) {
        let old = SystemTime::now() - Duration::from_secs(73 * 3600);
        File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while folder.segments(Topic::Audit).len() != 2 {
        assert!(std::time::Instant::now() < deadline, "{:?}", folder.segments(Topic::Audit));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(consumer);
    let mut consumer = journal.subscribe("reader", &[Topic::Audit]).await.unwrap();
    assert_eq!(contents(&read(&mut *consumer, 2, ROOMY).await), records(4..6));
}

/// What a killed process left may be in memory alone, and is synced before it counts. `/dev/full` can't be.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_last_segment_that_can_not_be_synced_is_not_opened() {
    let folder = Folder::new();
    drop(folder.config().open().unwrap());
    let path = folder.segments(Topic::Audit).remove(0);
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let Some(JournalError::Io { path: named, .. }) = folder.config().open().err() else { panic!() };
    assert_eq!(named, path.display().to_string());
}

/// A journal whose records 0 to 2 fill its segment so far that a large one needs the next.
async fn nearly_full_segment(folder: &Folder) -> (Config, Arc<Embedded>, PathBuf) {
    let config = Config { segment_bytes: 5_000, ..folder.config() };
    let journal = config.open().unwrap();
    journal.append(Topic::Audit, records(0..3)).await.unwrap();
    let next = folder.segments(Topic::Audit)[0].with_file_name("00000000000000000003.log");
    (config, journal, next)
}

/// `/dev/full` stands where the next segment is created, and can't be made empty.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_segment_that_fails_half_way_loses_no_later_record() {
    let folder = Folder::new();
    let (config, journal, next) = nearly_full_segment(&folder).await;
    std::os::unix::fs::symlink("/dev/full", &next).unwrap();
    assert!(journal.append(Topic::Audit, vec![large(3, 6_000)]).await.is_err());
    assert!(journal.ready().await.is_err());
    journal.append(Topic::Audit, records(3..5)).await.unwrap();
    journal.ready().await.unwrap();
    drop(journal);
    let journal = config.open().unwrap();
    journal.append(Topic::Audit, vec![large(5, 6_000)]).await.unwrap();
    let mut expected = records(0..5);
    expected.push(large(5, 6_000));
    assert_eq!(read_all(&journal, 6).await, expected);
}

/// A folder stands there, and can't be removed as a file is.
#[tokio::test]
async fn a_segment_that_can_not_be_taken_back_stops_its_topic() {
    let folder = Folder::new();
    let (config, journal, next) = nearly_full_segment(&folder).await;
    std::fs::create_dir(&next).unwrap();
    for refused in [vec![large(3, 6_000)], records(3..4)] {
        assert!(journal.append(Topic::Audit, refused).await.is_err());
    }
    assert!(journal.ready().await.is_err());
    journal.append(Topic::Falco, records(0..1)).await.unwrap();
    drop(journal);
    std::fs::remove_dir(&next).unwrap();
    assert_eq!(read_all(&config.open().unwrap(), 3).await, records(0..3));
}

#[test]
fn unknown_keys_are_rejected() {
    assert!(serde_json::from_str::<Config>(r#"{"path": "x", "segments": 1}"#).is_err());
    assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), Config::default());
}
