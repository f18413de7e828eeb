//! The one writer of a topic: gathers what senders hand in, writes it at once, syncs it, and only then acknowledges.
//! It also keeps the folder within its limits, so that no other thread touches the segments.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::frame::Frame;
use super::groups::Groups;
use super::log::{Log, Trouble};
use super::segment::{self, Recovered, at, path_of};
use crate::JournalError;

/// One write gathers no more than this.
const GATHERED_BYTES: usize = 16 << 20;
/// How often the limits are looked after, and a disk that refused a write is tried again.
const RETENTION_EVERY: Duration = Duration::from_secs(5);
/// How much the disk has to take before it is trusted again.
const PROBE_BYTES: usize = 1 << 20;

pub enum Command {
    Append(Append),
    /// A group has read on, which may allow segments to go.
    Retain,
}

/// Records to write, and whom to tell.
pub struct Append {
    pub frames: Vec<Frame>,
    pub done: oneshot::Sender<Result<(), JournalError>>,
    /// Given back once the frames are freed: bounds what waits for the disk.
    pub _budget: OwnedSemaphorePermit,
}

impl Append {
    fn size(&self) -> usize {
        self.frames.iter().map(|frame| frame.bytes().len()).sum()
    }
}

/// A topic's limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub segment_bytes: u64,
    pub retention_bytes: u64,
    pub retention: Duration,
}

pub struct Writer {
    log: Arc<Log>,
    groups: Arc<Groups>,
    limits: Limits,
    file: File,
    base: u64,
    bytes: u64,
    next: u64,
    failed: bool,
}

impl Writer {
    pub fn new(log: Arc<Log>, groups: Arc<Groups>, limits: Limits, recovered: Recovered) -> Self {
        let last = recovered.segments.last();
        let (base, bytes) = last.map_or((recovered.next, 0), |last| (last.base, last.bytes));
        Writer { log, groups, limits, file: recovered.file, base, bytes, next: recovered.next, failed: false }
    }

    /// Works until the journal closes.
    pub fn run(mut self, commands: &Receiver<Command>) {
        let mut retained = Instant::now();
        loop {
            let mut retain = retained.elapsed() >= RETENTION_EVERY;
            match commands.recv_timeout(RETENTION_EVERY.saturating_sub(retained.elapsed())) {
                Ok(Command::Append(first)) => {
                    let (appends, asked) = gather(first, commands);
                    retain |= asked;
                    self.append(appends);
                }
                Ok(Command::Retain) | Err(RecvTimeoutError::Timeout) => retain = true,
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if retain {
                self.retain(0);
                self.probe();
                retained = Instant::now();
            }
        }
    }

    fn append(&mut self, mut appends: Vec<Append>) {
        let outcome = self.append_durably(&mut appends);
        for append in appends {
            // A sender that no longer waits is no concern: its records are in the log or not, as after any error.
            let _ = append.done.send(outcome.as_ref().map(|_| ()).map_err(again));
        }
    }

    fn append_durably(&mut self, appends: &mut [Append]) -> Result<(), JournalError> {
        if self.failed {
            return self.log.check();
        }
        let size = appends.iter().map(Append::size).sum::<usize>() as u64;
        self.make_room(size)?;
        if self.bytes > 0
            && self.bytes + size > self.limits.segment_bytes
            && let Err(e) = self.roll()
        {
            if !self.failed {
                self.log.set_trouble(Some(Trouble::Refused(e.to_string())));
            }
            return Err(e);
        }
        let mut next = self.next;
        for frame in appends.iter_mut().flat_map(|append| &mut append.frames) {
            frame.seal(next, self.next);
            next += frame.count();
        }
        self.write(appends)?;
        metrics::counter!("vedette_journal_appended_records_total", "topic" => self.log.topic.name())
            .increment(next - self.next);
        metrics::counter!("vedette_journal_appended_bytes_total", "topic" => self.log.topic.name()).increment(size);
        self.bytes += size;
        self.next = next;
        self.log.publish(self.bytes, self.next);
        Ok(())
    }

    fn write(&mut self, appends: &[Append]) -> Result<(), JournalError> {
        let path = path_of(&self.log.dir, self.base);
        let frames = appends.iter().flat_map(|append| &append.frames);
        let mut slices: Vec<_> = frames.map(|frame| IoSlice::new(frame.bytes())).collect();
        if let Err(e) = write_all(&mut self.file, &mut slices) {
            self.undo(&e);
            return Err(at(&path)(e));
        }
        let started = Instant::now();
        if let Err(e) = self.file.sync_data() {
            // After a failed sync the kernel may call lost pages clean, so a second sync proves nothing.
            self.fail(&e);
            return Err(at(&path)(e));
        }
        metrics::histogram!("vedette_journal_sync_seconds", "topic" => self.log.topic.name())
            .record(started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Takes a half-written group back, for instance when the disk is full.
    fn undo(&mut self, cause: &io::Error) {
        tracing::error!(topic = %self.log.topic, error = %cause, "a journal write failed");
        match self.cut_back() {
            Ok(()) => self.log.set_trouble(Some(Trouble::Refused(cause.to_string()))),
            Err(e) => self.fail(&e),
        }
    }

    /// Leaves in the file what is acknowledged.
    fn cut_back(&self) -> io::Result<()> {
        self.file.set_len(self.bytes).and_then(|()| self.file.sync_all())
    }

    /// Tries whether a disk that refused a write takes one now. The next append may never come to find out: where
    /// requests are routed by readiness, nobody sends to a journal that is not ready.
    fn probe(&mut self) {
        if !self.log.is_refused() {
            return;
        }
        // Zeros are no frame: should the process end here, the next opening cuts them off.
        let written = self.file.write_all(&vec![0_u8; PROBE_BYTES]);
        match (self.cut_back(), written) {
            (Ok(()), Ok(())) => self.log.set_trouble(None),
            (Ok(()), Err(e)) => tracing::warn!(topic = %self.log.topic, error = %e, "the disk still refuses writes"),
            (Err(e), _) => self.fail(&e),
        }
    }

    fn fail(&mut self, cause: &io::Error) {
        tracing::error!(topic = %self.log.topic, error = %cause, "the journal takes no more records of this topic until it is opened again");
        // Readers go no further than what is synced, and recovery checks what is left here.
        let _ = self.file.set_len(self.bytes);
        self.failed = true;
        self.log.set_trouble(Some(Trouble::Failed(cause.to_string())));
    }

    fn roll(&mut self) -> Result<(), JournalError> {
        self.file = match segment::create(&self.log.dir, self.next) {
            Ok(file) => file,
            Err(refused) => {
                // More in the segment before would be lost: recovery looks for the log's end in the last file alone.
                if let Some(left) = &refused.left {
                    self.fail(left);
                }
                return Err(refused.error);
            }
        };
        self.base = self.next;
        self.bytes = 0;
        self.log.add_segment(self.base);
        Ok(())
    }

    fn make_room(&mut self, size: u64) -> Result<(), JournalError> {
        if self.log.size() + size > self.limits.retention_bytes {
            self.retain(size);
        }
        if self.failed {
            return self.log.check();
        }
        if self.log.size() + size <= self.limits.retention_bytes {
            if self.log.is_full() {
                self.log.set_trouble(None);
            }
            return Ok(());
        }
        if !self.log.is_full() {
            tracing::error!(topic = %self.log.topic, bytes = self.log.size(), "the journal is full of records that have yet to be read: it refuses more");
            self.log.set_trouble(Some(Trouble::Full));
        }
        self.log.check()
    }

    /// Deletes old segments that every group has read: those past their age, and as many as the size limit asks for.
    /// What no group reads at all goes by age and size alone.
    fn retain(&mut self, needed: u64) {
        let read_up_to = self.groups.slowest(self.log.topic).unwrap_or(u64::MAX);
        let last_is_stale = !self.failed && self.bytes > 0 && read_up_to >= self.next && self.is_expired(self.base);
        if last_is_stale && let Err(e) = self.roll() {
            tracing::warn!(topic = %self.log.topic, error = %e, "can't close a journal segment");
        }
        while let Some((oldest, end)) = self.log.oldest_closed() {
            let is_over = self.log.size() + needed > self.limits.retention_bytes;
            if end > read_up_to || !(is_over || self.is_expired(oldest.base)) {
                break;
            }
            if let Err(e) = std::fs::remove_file(path_of(&self.log.dir, oldest.base)) {
                tracing::warn!(topic = %self.log.topic, error = %e, "can't delete an old journal segment");
                break;
            }
            self.log.remove_oldest();
            tracing::info!(topic = %self.log.topic, first = oldest.base, end, "deleted an old journal segment");
            metrics::counter!("vedette_journal_deleted_records_total", "topic" => self.log.topic.name())
                .increment(end - oldest.base);
        }
        let size = self.log.size();
        metrics::gauge!("vedette_journal_size_bytes", "topic" => self.log.topic.name()).set(size as f64);
        if self.log.is_full() && size + needed < self.limits.retention_bytes {
            self.log.set_trouble(None);
        }
    }

    /// Whether a segment's last record is older than the limit.
    fn is_expired(&self, base: u64) -> bool {
        let modified = std::fs::metadata(path_of(&self.log.dir, base)).and_then(|metadata| metadata.modified());
        modified.is_ok_and(|modified| {
            SystemTime::now().duration_since(modified).is_ok_and(|age| age >= self.limits.retention)
        })
    }
}

/// What else waits, so that one sync serves all of it, and whether retention was asked for in between.
fn gather(first: Append, commands: &Receiver<Command>) -> (Vec<Append>, bool) {
    let mut size = first.size();
    let mut appends = vec![first];
    let mut retain = false;
    while size < GATHERED_BYTES {
        match commands.try_recv() {
            Ok(Command::Append(append)) => {
                size += append.size();
                appends.push(append);
            }
            Ok(Command::Retain) => retain = true,
            Err(_) => break,
        }
    }
    (appends, retain)
}

fn write_all(file: &mut File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The same error, for another sender of the same write.
fn again(error: &JournalError) -> JournalError {
    match error {
        JournalError::Io { path, source } => {
            JournalError::Io { path: path.clone(), source: io::Error::new(source.kind(), source.to_string()) }
        }
        JournalError::Full { path } => JournalError::Full { path: path.clone() },
        other => JournalError::Io { path: String::new(), source: io::Error::other(other.to_string()) },
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::sync::Semaphore;

    use super::super::frame::Encoder;
    use super::super::segment::Segment;
    use super::*;
    use crate::record::{Record, Source, Topic};

    const LIMITS: Limits =
        Limits { segment_bytes: 1 << 20, retention_bytes: 1 << 30, retention: Duration::from_secs(3600) };

    /// The writer of a topic whose one segment is that file, empty as yet.
    fn writer_to(dir: &Path, file: File) -> Writer {
        let groups = Arc::new(Groups::load(dir.join("groups")).unwrap());
        let segments = vec![Segment { base: 0, bytes: 0 }];
        let log = Arc::new(Log::new(Topic::Audit, dir.to_owned(), segments.clone(), 0));
        Writer::new(log, groups, LIMITS, Recovered { segments, file, next: 0 })
    }

    /// Appends one record.
    fn append(writer: &mut Writer) -> Result<(), JournalError> {
        let record = Record::new("c".into(), Source::Audit, 1, "{}".into());
        let frames = Encoder::new().unwrap().encode_all(&[record]).unwrap();
        let (done, mut answer) = oneshot::channel();
        let budget = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        writer.append(vec![Append { frames, done, _budget: budget }]);
        answer.try_recv().unwrap()
    }

    /// `/dev/full` refuses every write, and can't be cut back either.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_failed_write_is_never_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let full = File::options().read(true).append(true).open("/dev/full").unwrap();
        let mut writer = writer_to(folder.path(), full);
        for _ in 0..2 {
            assert!(append(&mut writer).is_err());
            writer.probe();
        }
        assert!(writer.log.check().is_err());
        assert_eq!(writer.log.durable(), 0, "readers are given nothing");
    }

    #[test]
    fn a_refused_write_is_trouble_until_the_disk_takes_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer_to(folder.path(), segment::create(folder.path(), 0).unwrap());
        let end_trouble: [fn(&mut Writer); 2] = [|writer| append(writer).unwrap(), Writer::probe];
        for end_trouble in end_trouble {
            append(&mut writer).unwrap();
            writer.undo(&io::Error::from(io::ErrorKind::StorageFull));
            assert!(matches!(writer.log.check(), Err(JournalError::Io { .. })));
            end_trouble(&mut writer);
            writer.log.check().unwrap();
            let size = std::fs::metadata(path_of(folder.path(), 0)).unwrap().len();
            assert_eq!(size, writer.bytes, "a probe leaves nothing behind");
        }
    }
}
