//! Writer processes that fare badly. One is killed in mid-stream: what it was told is durable is there afterwards, in
//! order, and what a power cut or a bad disk would do to the files it left is cut off or reported. One runs out of room
//! half way through a write, one out of files half way through a new segment: what does not fit is refused, and the log
//! goes on.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use vedette_journal::embedded::{Config, Embedded};
use vedette_journal::{Journal, JournalError, Record, Topic};

use crate::suite::{ROOMY, contents, noise, read, record};

const LIMITED_FOLDER: &str = "VEDETTE_TEST_LIMITED_FOLDER";
const CROWDED_FOLDER: &str = "VEDETTE_TEST_CROWDED_FOLDER";
const FOLDER: &str = "VEDETTE_TEST_CRASH_FOLDER";
const SEGMENT_BYTES: &str = "VEDETTE_TEST_CRASH_SEGMENT_BYTES";
const SMALL_SEGMENT: u64 = 200_000;
const SENDERS: usize = 4;
const BATCH: usize = 25;

fn config(path: &std::path::Path) -> Config {
    let segment_bytes = std::env::var(SEGMENT_BYTES).map_or(SMALL_SEGMENT, |bytes| bytes.parse().unwrap());
    Config { path: path.to_owned(), segment_bytes, ..Config::default() }
}

fn open(path: &std::path::Path) -> Arc<Embedded> {
    config(path).open().unwrap()
}

fn sent_record(sender: usize, number: usize) -> Record {
    let payload = noise(number, 300).into();
    Record { cluster: format!("sender-{sender}").into(), payload, ..record(number) }
}

/// Not a test of its own: `acknowledged_records_survive_a_kill` starts this process again with this test alone. It sends
/// until it is killed, and prints what is acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_writer() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let journal = open(std::path::Path::new(&folder));
    let send = |sender: usize| {
        let journal = journal.clone();
        tokio::spawn(async move {
            for start in (0..).step_by(BATCH) {
                let batch = (start..start + BATCH).map(|number| sent_record(sender, number));
                journal.append(Topic::Audit, batch.collect()).await.unwrap();
                let mut out = std::io::stdout().lock();
                writeln!(out, "acknowledged {sender} {}", start + BATCH).unwrap();
                out.flush().unwrap();
            }
        })
    };
    for sender in (0..SENDERS).map(send).collect::<Vec<_>>() {
        sender.await.unwrap();
    }
}

#[tokio::test]
async fn acknowledged_records_survive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    for round in 1..=3 {
        // Each round is killed at another moment, and starts in a fresh folder below.
        let path = folder.path().join(round.to_string());
        let acknowledged = write_and_kill(&path, 37 * round, SMALL_SEGMENT);
        let journal = open(&path);
        let mut consumer = journal.subscribe("after", &[Topic::Audit]).await.unwrap();
        let total = consumer.lag().await.unwrap() as usize;
        let all = read(&mut *consumer, total, ROOMY).await;
        for (sender, &count) in acknowledged.iter().enumerate() {
            let name = format!("sender-{sender}");
            let own = all.iter().filter(|delivered| *delivered.record.cluster == *name);
            let own: Vec<_> = own.map(|delivered| delivered.record.clone()).collect();
            assert!(own.len() >= count, "sender {sender}: {count} acknowledged, {} found", own.len());
            let expected: Vec<_> = (0..own.len()).map(|number| sent_record(sender, number)).collect();
            assert_eq!(own, expected);
        }
        journal.append(Topic::Audit, vec![record(1)]).await.unwrap();
        assert_eq!(read(&mut *consumer, 1, ROOMY).await[0].offset, total as u64);
    }
}

/// Where the frames of a segment start, and how many records each holds: its length comes first, its count behind.
fn frames(bytes: &[u8]) -> Vec<(usize, usize)> {
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let mut frames = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        frames.push((at, number(at + 25)));
        at += 8 + number(at);
    }
    assert_eq!(at, bytes.len());
    frames
}

async fn count(journal: &Embedded) -> u64 {
    journal.subscribe("count", &[Topic::Audit]).await.unwrap().lag().await.unwrap()
}

/// What a killed process left, as a power cut or a bad disk would leave it.
#[tokio::test]
async fn torn_frames_are_cut_off_and_damaged_ones_reported() {
    let folder = tempfile::tempdir().unwrap();
    write_and_kill(folder.path(), 60, 100 << 20);
    let whole = count(&open(folder.path())).await;
    let path = &folder.path().join("audit/00000000000000000000.log");
    let bytes = std::fs::read(path).unwrap();
    let frames = frames(&bytes);
    let &(last, records) = frames.last().unwrap();
    for torn in [last + 1, last + 20, last + 33, last + 34, (last + bytes.len()) / 2, bytes.len() - 1] {
        for zeros in [false, true] {
            let mut left = bytes[..torn].to_vec();
            left.resize(if zeros { bytes.len() } else { torn }, 0);
            std::fs::write(path, left).unwrap();
            let journal = open(folder.path());
            assert_eq!(count(&journal).await, whole - records as u64, "torn at byte {torn}, zeros: {zeros}");
            assert_eq!(std::fs::metadata(path).unwrap().len() as usize, last);
        }
    }
    // A write that was on its way when the process was killed may hold several frames, with one synced offset.
    let synced_before = frames.iter().filter(|(start, _)| synced(&bytes, *start) < synced(&bytes, last));
    let synced_before: Vec<_> = synced_before.map(|(start, _)| *start).collect();
    assert!(synced_before.len() > 5, "{} frames", frames.len());
    for start in synced_before {
        for at in [start, start + 8, start + 20, start + 33, start + 100] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x20;
            std::fs::write(path, &damaged).unwrap();
            let Some(JournalError::Corrupt { path: named, reason }) = config(folder.path()).open().err() else {
                panic!("byte {at} of {start}");
            };
            assert_eq!(named, path.display().to_string());
            assert!(reason.contains(&format!("the frame at byte {start} is damaged")), "{reason}");
            assert!(std::fs::read(path).unwrap() == damaged, "nothing is cut off");
        }
    }
    std::fs::write(path, &bytes).unwrap();
    assert_eq!(count(&open(folder.path())).await, whole);
}

fn synced(bytes: &[u8], frame: usize) -> u64 {
    u64::from_le_bytes(bytes[frame + 17..frame + 25].try_into().unwrap())
}

/// Gives back how many records of each sender the killed process had been told are durable.
fn write_and_kill(path: &std::path::Path, after_lines: usize, segment_bytes: u64) -> [usize; SENDERS] {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded_crash::crash_writer", "--nocapture", "--test-threads=1"])
        .env(FOLDER, path)
        .env(SEGMENT_BYTES, segment_bytes.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = [0; SENDERS];
    let mut lines = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        // The test runner's own words may stand before the first line, and the kill may cut the last one short.
        let Some(at) = line.find("acknowledged ") else { continue };
        let mut words = line[at..].split(' ').skip(1).map(str::parse::<usize>);
        let (Some(Ok(sender)), Some(Ok(count))) = (words.next(), words.next()) else { continue };
        acknowledged[sender] = acknowledged[sender].max(count);
        lines += 1;
        if lines == after_lines {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(lines >= after_lines, "the writer was killed, not finished");
    acknowledged
}

fn batch(first: usize, count: usize) -> Vec<Record> {
    (first..first + count).map(|number| sent_record(0, number)).collect()
}

/// An append that fails, and makes the journal unready.
async fn expect_refusal(journal: &Embedded, records: Vec<Record>) {
    let refused = journal.append(Topic::Audit, records).await;
    assert!(matches!(refused, Err(JournalError::Io { .. })), "{refused:?}");
    assert!(journal.ready().await.is_err());
}

/// A smaller append, which succeeds, and makes the journal ready again.
async fn go_on(journal: &Embedded) {
    journal.append(Topic::Audit, batch(100, 50)).await.unwrap();
    journal.ready().await.unwrap();
    println!("went on");
}

/// Not a test of its own: `a_half_written_batch_is_taken_back` starts it in a process whose files can't grow past 128 KiB.
#[tokio::test]
async fn limited_writer() {
    let Some(folder) = std::env::var_os(LIMITED_FOLDER) else { return };
    let journal = open(std::path::Path::new(&folder));
    journal.append(Topic::Audit, batch(0, 100)).await.unwrap();
    expect_refusal(&journal, batch(500, 400)).await;
    go_on(&journal).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_half_written_batch_is_taken_back() {
    // Units differ between shells: 128 blocks are 64 or 128 KiB, and the refused batch lies beyond either. An ignored
    // SIGXFSZ lets the write fail rather than kill.
    check_limited(r#"trap "" XFSZ; ulimit -f 128"#, "embedded_crash::limited_writer", LIMITED_FOLDER).await;
}

/// Not a test of its own: `a_segment_without_a_file_to_spare_is_taken_back` starts it in a process that can open few
/// files.
#[tokio::test]
async fn crowded_writer() {
    let Some(folder) = std::env::var_os(CROWDED_FOLDER) else { return };
    let journal = open(std::path::Path::new(&folder));
    journal.append(Topic::Audit, batch(0, 100)).await.unwrap();
    let mut others: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    // One more can be opened, and a new segment takes two: its own, and the folder.
    others.pop();
    expect_refusal(&journal, batch(500, 800)).await;
    drop(others);
    go_on(&journal).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_segment_without_a_file_to_spare_is_taken_back() {
    check_limited("ulimit -n 64", "embedded_crash::crowded_writer", CROWDED_FOLDER).await;
}

/// Runs a writer in a process that the shell has set a limit for. What it was told is durable is there afterwards.
#[cfg(target_os = "linux")]
async fn check_limited(limit: &str, writer: &str, variable: &str) {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("sh")
        .args(["-c", &format!(r#"{limit}; exec "$0" "$@""#)])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", writer, "--nocapture", "--test-threads=1"])
        .env(variable, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("went on"), "{said}");
    let journal = open(folder.path());
    let mut consumer = journal.subscribe("after", &[Topic::Audit]).await.unwrap();
    assert_eq!(consumer.lag().await.unwrap(), 150);
    assert_eq!(contents(&read(&mut *consumer, 150, ROOMY).await), batch(0, 150));
}
