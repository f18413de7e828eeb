//! Reads one topic for one group, forward: the file in chunks, and of them a frame at a time, each unpacked once. What is
//! read ahead waits here, so that a poll that is given up loses nothing.
//!
//! Damage stops the reader where it is: every fill from then on gives the error, which names file and byte. Nothing behind
//! it is read, since that would hide the loss.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::frame::{self, FORMAT, HEADER, Header};
use super::log::Log;
use super::segment::{self, Segment, at, path_of};
use crate::{Delivered, JournalError, Partition};

/// How much of a file is read at once: a few frames, which take some times the room once unpacked.
const CHUNK: u64 = 512 << 10;

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
    /// The file's bytes from `at` on, as far as they are read.
    ahead: Bytes,
}

impl Open {
    fn read_ahead(&mut self, size: u64) -> io::Result<()> {
        let mut buffer = vec![0; size as usize];
        self.file.read_exact_at(&mut buffer, self.at)?;
        self.ahead = buffer.into();
        Ok(())
    }

    fn advance(&mut self, size: usize) {
        self.ahead.advance(size);
        self.at += size as u64;
    }
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

    /// Unpacks frames until that many records or bytes wait, or all that is durable has been read. Blocks on the disk.
    pub fn fill(&mut self, records: usize, bytes: usize) -> Result<(), JournalError> {
        while self.pending.len() < records && self.pending_bytes < bytes && self.next < self.log.durable() {
            let taken = self.next_frame().and_then(|(header, frame)| self.take_frame(&header, &frame));
            if taken.is_err()
                && let Some(open) = &mut self.open
            {
                // The next attempt asks the disk again.
                open.ahead = Bytes::new();
            }
            taken?;
        }
        Ok(())
    }

    /// The bytes of the frame that comes next, which stay in the chunk until its records are taken.
    fn next_frame(&mut self) -> Result<(Header, Bytes), JournalError> {
        let left = self.locate()?;
        loop {
            let path = self.open.as_ref().map(|open| self.path(open.base));
            let (Some(open), Some(path)) = (&mut self.open, path) else {
                return Err(self.damaged("the log ends before its time"));
            };
            let header = Header::parse(&open.ahead);
            let size = header.map_or(0, |header| header.size);
            if let Some(header) = header
                && size <= open.ahead.len()
            {
                return Ok((header, open.ahead.slice(..size)));
            }
            let wanted = CHUNK.max(size as u64).min(left);
            if size as u64 > left || open.ahead.len() as u64 >= wanted {
                return Err(self.damaged("its header makes no sense"));
            }
            open.read_ahead(wanted).map_err(at(&path))?;
        }
    }

    fn take_frame(&mut self, header: &Header, frame: &[u8]) -> Result<(), JournalError> {
        if !header.matches(frame) {
            return Err(self.damaged("its checksum is wrong"));
        }
        if header.format != FORMAT {
            let (base, at) = self.place();
            return Err(segment::unknown_format(&self.path(base), at, header.format));
        }
        if !(header.first..header.end()).contains(&self.next) {
            return Err(self.damaged("its offsets do not follow"));
        }
        let mut cluster = self.cluster.clone();
        let (text, records) = frame::decode(header, frame, &mut cluster).map_err(|problem| self.damaged(problem))?;
        self.cluster = cluster;
        let partition = Partition { topic: self.log.topic, number: 0 };
        // A group may have committed a position inside a frame.
        for (offset, record) in (header.first..).zip(records).skip((self.next - header.first) as usize) {
            let delivered = Delivered { partition, offset, record, text: text.clone() };
            self.pending_bytes += size_of(&delivered);
            self.pending.push_back(delivered);
        }
        self.next = header.end();
        if let Some(open) = &mut self.open {
            open.advance(header.size);
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
        let mut open = Open { file, base: segment.base, at: 0, ahead: Bytes::new() };
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

    /// The segment being read, and the byte that comes next.
    fn place(&self) -> (u64, u64) {
        self.open.as_ref().map_or((self.next, 0), |open| (open.base, open.at))
    }

    fn damaged(&self, how: &str) -> JournalError {
        let (base, at) = self.place();
        let reason = format!("the frame at byte {at}, of offset {}: {how}", self.next);
        JournalError::Corrupt { path: self.path(base).display().to_string(), reason }
    }
}

fn size_of(delivered: &Delivered) -> usize {
    frame::encoded_size(&delivered.record)
}
