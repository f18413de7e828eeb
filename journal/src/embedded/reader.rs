//! Reads one topic for one group, forward, in chunks of whole frames. What is read ahead waits here, so that a poll that
//! is given up loses nothing.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{self, HEADER, Header};
use super::log::Log;
use super::segment::{Segment, at, path_of};
use crate::{Delivered, JournalError, Partition};

const SMALLEST_CHUNK: u64 = 64 << 10;
const LARGEST_CHUNK: u64 = 1 << 20;

pub struct Reader {
    log: Arc<Log>,
    group: String,
    /// The offset that comes next from the files.
    next: u64,
    open: Option<Open>,
    pending: VecDeque<Delivered>,
    pending_bytes: usize,
    cluster: Arc<str>,
}

/// The segment being read, and how far it has been.
struct Open {
    file: File,
    base: u64,
    at: u64,
}

impl Reader {
    pub fn new(log: Arc<Log>, group: String, start: u64) -> Self {
        let pending = VecDeque::new();
        let mut reader = Reader { log, group, next: start, open: None, pending, pending_bytes: 0, cluster: "".into() };
        reader.skip_to(reader.log.oldest());
        reader
    }

    /// Records, and their bytes, that wait to be taken.
    pub fn pending(&self) -> (usize, usize) {
        (self.pending.len(), self.pending_bytes)
    }

    /// Records that are durable and have not been taken.
    pub fn lag(&self) -> u64 {
        self.log.durable().saturating_sub(self.next) + self.pending.len() as u64
    }

    /// Takes records into `taken` while it stays within both limits. The first one is taken however large it is.
    pub fn take(&mut self, records: usize, bytes: usize, taken: &mut Vec<Delivered>, taken_bytes: &mut usize) {
        while let Some(first) = self.pending.front() {
            let size = size_of(first);
            if taken.len() >= records || (!taken.is_empty() && taken_bytes.saturating_add(size) > bytes) {
                return;
            }
            *taken_bytes += size;
            self.pending_bytes -= size;
            taken.extend(self.pending.pop_front());
        }
    }

    /// Reads until that many records or bytes wait, or all that is durable has been read. Blocks on the disk.
    pub fn fill(&mut self, records: usize, bytes: usize) -> Result<(), JournalError> {
        while self.pending.len() < records && self.pending_bytes < bytes && self.next < self.log.durable() {
            self.read_chunk(bytes - self.pending_bytes)?;
        }
        Ok(())
    }

    fn read_chunk(&mut self, wanted: usize) -> Result<(), JournalError> {
        let left = self.locate()?;
        let Some(open) = &self.open else { return Ok(()) };
        let path = path_of(&self.log.dir, open.base);
        let wanted = (wanted as u64).clamp(SMALLEST_CHUNK, LARGEST_CHUNK).min(left);
        let mut buffer = vec![0; wanted as usize];
        open.file.read_exact_at(&mut buffer, open.at).map_err(at(&path))?;
        let header = Header::parse(&buffer).filter(|header| header.size as u64 <= left);
        let header = header.ok_or_else(|| self.damaged("its header makes no sense"))?;
        if header.size > buffer.len() {
            let read = buffer.len();
            buffer.resize(header.size, 0);
            open.file.read_exact_at(&mut buffer[read..], open.at + read as u64).map_err(at(&path))?;
        }
        let mut buffer = Bytes::from(buffer);
        while let Some(header) = Header::parse(&buffer).filter(|header| header.size <= buffer.len()) {
            self.take_frame(&header, buffer.split_to(header.size))?;
        }
        Ok(())
    }

    fn take_frame(&mut self, header: &Header, frame: Bytes) -> Result<(), JournalError> {
        if !header.matches(&frame) {
            return Err(self.damaged("its checksum is wrong"));
        }
        if !(header.first..header.end()).contains(&self.next) {
            return Err(self.damaged("its offsets do not follow"));
        }
        let mut cluster = self.cluster.clone();
        let records = frame::decode(header, frame, &mut cluster);
        let records = records.ok_or_else(|| self.damaged("its records make no sense"))?;
        self.cluster = cluster;
        let partition = Partition { topic: self.log.topic, number: 0 };
        // A group may have committed a position inside a frame.
        for (offset, record) in (header.first..).zip(records).skip((self.next - header.first) as usize) {
            let delivered = Delivered { partition, offset, record };
            self.pending_bytes += size_of(&delivered);
            self.pending.push_back(delivered);
        }
        self.next = header.end();
        if let Some(open) = &mut self.open {
            open.at += header.size as u64;
        }
        Ok(())
    }

    /// Opens the segment that holds the next record, unless it is open; gives the bytes left to read in it.
    fn locate(&mut self) -> Result<u64, JournalError> {
        loop {
            let segment = match &self.open {
                Some(open) => {
                    let end = match self.log.segment(open.base) {
                        Some(segment) => segment.bytes,
                        // Deleted meanwhile, so closed long ago: all of it is durable.
                        None => open.file.metadata().map_err(at(&self.path(open.base)))?.len(),
                    };
                    if open.at < end {
                        return Ok(end - open.at);
                    }
                    self.log.segment_after(open.base)
                }
                None => self.log.segment_for(self.next),
            };
            let Some(segment) = segment else { return Err(self.damaged("the log ends before its time")) };
            self.skip_to(segment.base);
            self.open = Some(self.open_at(segment)?);
        }
    }

    /// Opens a segment at the frame that holds the next record, from one frame header to the next.
    fn open_at(&self, segment: Segment) -> Result<Open, JournalError> {
        let path = self.path(segment.base);
        let file = File::open(&path).map_err(at(&path))?;
        let mut open = Open { file, base: segment.base, at: 0 };
        if segment.base == self.next {
            return Ok(open);
        }
        while open.at + HEADER as u64 <= segment.bytes {
            let mut bytes = [0; HEADER];
            open.file.read_exact_at(&mut bytes, open.at).map_err(at(&path))?;
            match Header::parse(&bytes) {
                Some(header) if header.end() <= self.next => open.at += header.size as u64,
                _ => break,
            }
        }
        Ok(open)
    }

    /// Goes on at a later offset when what lies before it is gone, and says so.
    fn skip_to(&mut self, offset: u64) {
        if offset <= self.next {
            return;
        }
        let missing = offset - self.next;
        tracing::error!(topic = %self.log.topic, group = self.group, from = self.next, to = offset, "records are missing from the journal: a group goes on after them");
        metrics::counter!("vedette_journal_dropped_records_total", "topic" => self.log.topic.name(), "group" => self.group.clone())
            .increment(missing);
        self.next = offset;
    }

    fn path(&self, base: u64) -> PathBuf {
        path_of(&self.log.dir, base)
    }

    fn damaged(&self, how: &str) -> JournalError {
        let (base, at) = self.open.as_ref().map_or((self.next, 0), |open| (open.base, open.at));
        let reason = format!("the frame at byte {at}, of offset {}: {how}", self.next);
        JournalError::Corrupt { path: self.path(base).display().to_string(), reason }
    }
}

fn size_of(delivered: &Delivered) -> usize {
    frame::encoded_size(&delivered.record)
}
