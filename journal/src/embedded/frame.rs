//! A frame: a batch of records as it lies in a segment file, checksummed as a whole.
//!
//! ```text
//! length u32 | crc32 u32 | first offset u64 | synced offset u64 | count u32 | records
//! record: received_at i64 | source u8 | cluster length u32 | reason length u32 (all ones: none) | payload length u32
//!         | cluster | reason | payload
//! ```
//! Integers are little-endian, `length` counts what follows the checksum, and the checksum covers the same. The synced
//! offset is where the log was known to be on disk up to when the frame was written: it tells a tail torn by a crash
//! from damage to records that had been acknowledged.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use crc32fast::Hasher;

use crate::record::{Record, Source};

/// The bytes before the records.
pub const HEADER: usize = 28;
const CHECKSUMMED_FROM: usize = 8;
const NO_REASON: u32 = u32::MAX;
const RECORD_HEADER: usize = 21;
/// A frame is closed once it has this much, so that a reader's buffer stays small.
const FULL_FRAME: usize = 4 << 20;

/// A frame on its way to disk. The writer gives it its offset when its turn comes.
pub struct Frame {
    bytes: Vec<u8>,
    count: u32,
    records_checksum: Hasher,
}

impl Frame {
    /// Records as frames of moderate size, in order.
    pub fn encode_all(records: &[Record]) -> io::Result<Vec<Frame>> {
        let mut frames = Vec::new();
        let mut rest = records;
        while !rest.is_empty() {
            let mut size = 0;
            let fitting = rest.iter().take_while(|record| {
                let fits = size < FULL_FRAME;
                size += encoded_size(record);
                fits
            });
            let (head, tail) = rest.split_at(fitting.count());
            frames.push(Frame::encode(head)?);
            rest = tail;
        }
        Ok(frames)
    }

    fn encode(records: &[Record]) -> io::Result<Frame> {
        let size = HEADER + records.iter().map(encoded_size).sum::<usize>();
        length(size)?;
        let mut bytes = Vec::with_capacity(size);
        bytes.resize(HEADER, 0);
        for record in records {
            put_record(&mut bytes, record)?;
        }
        let mut records_checksum = Hasher::new();
        records_checksum.update(&bytes[HEADER..]);
        Ok(Frame { bytes, count: length(records.len())?, records_checksum })
    }

    /// Fills the header in. The records' checksum is combined with the header's, not computed again.
    pub fn seal(&mut self, first: u64, synced: u64) {
        let length = (self.bytes.len() - CHECKSUMMED_FROM) as u32;
        let mut header = Vec::with_capacity(HEADER);
        header.put_u32_le(length);
        header.put_u32_le(0);
        header.put_u64_le(first);
        header.put_u64_le(synced);
        header.put_u32_le(self.count);
        let mut checksum = Hasher::new();
        checksum.update(&header[CHECKSUMMED_FROM..]);
        checksum.combine(&self.records_checksum);
        header[4..8].copy_from_slice(&checksum.finalize().to_le_bytes());
        self.bytes[..HEADER].copy_from_slice(&header);
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn count(&self) -> u64 {
        u64::from(self.count)
    }
}

/// About how many bytes a record takes in a frame.
pub fn encoded_size(record: &Record) -> usize {
    RECORD_HEADER + record.cluster.len() + record.reason.as_ref().map_or(0, String::len) + record.payload.len()
}

fn length(length: usize) -> io::Result<u32> {
    u32::try_from(length)
        .ok()
        .filter(|&length| length != NO_REASON)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a record is larger than 4 GiB"))
}

fn put_record(bytes: &mut Vec<u8>, record: &Record) -> io::Result<()> {
    bytes.put_i64_le(record.received_at);
    bytes.put_u8(match record.source {
        Source::Audit => 0,
        Source::Falco => 1,
        Source::Vedette => 2,
    });
    bytes.put_u32_le(length(record.cluster.len())?);
    bytes.put_u32_le(record.reason.as_ref().map_or(Ok(NO_REASON), |reason| length(reason.len()))?);
    bytes.put_u32_le(length(record.payload.len())?);
    bytes.put_slice(record.cluster.as_bytes());
    bytes.put_slice(record.reason.as_deref().unwrap_or_default().as_bytes());
    bytes.put_slice(&record.payload);
    Ok(())
}

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Header {
    /// The whole frame's size, header included.
    pub size: usize,
    checksum: u32,
    pub first: u64,
    pub synced: u64,
    pub count: u32,
}

impl Header {
    /// Reads a header; `None` where there can't be one.
    pub fn parse(mut bytes: &[u8]) -> Option<Header> {
        if bytes.len() < HEADER {
            return None;
        }
        let size = bytes.get_u32_le() as usize + CHECKSUMMED_FROM;
        let header = Header {
            size,
            checksum: bytes.get_u32_le(),
            first: bytes.get_u64_le(),
            synced: bytes.get_u64_le(),
            count: bytes.get_u32_le(),
        };
        // A file's tail may come back from a crash as zeros, whose checksum would be right.
        let plausible = header.size > HEADER && header.count > 0 && header.first.checked_add(1 << 32).is_some();
        plausible.then_some(header)
    }

    /// The offset after the frame's last record.
    pub fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// Whether a whole frame's bytes are what was written.
    pub fn matches(&self, frame: &[u8]) -> bool {
        frame.len() == self.size && crc32fast::hash(&frame[CHECKSUMMED_FROM..]) == self.checksum
    }
}

/// The records of a verified frame. Payloads are slices of the frame's buffer. `cluster` is the last cluster's name seen,
/// shared between records rather than allocated for each. `None`: the bytes are no records.
pub fn decode(header: &Header, mut frame: Bytes, cluster: &mut Arc<str>) -> Option<Vec<Record>> {
    frame.advance(HEADER);
    let mut records = Vec::with_capacity((header.count as usize).min(frame.len() / RECORD_HEADER));
    for _ in 0..header.count {
        records.push(take_record(&mut frame, cluster)?);
    }
    frame.is_empty().then_some(records)
}

fn take_record(frame: &mut Bytes, cluster: &mut Arc<str>) -> Option<Record> {
    if frame.len() < RECORD_HEADER {
        return None;
    }
    let received_at = frame.get_i64_le();
    let source = match frame.get_u8() {
        0 => Source::Audit,
        1 => Source::Falco,
        2 => Source::Vedette,
        _ => return None,
    };
    let (cluster_length, reason_length, payload_length) = (frame.get_u32_le(), frame.get_u32_le(), frame.get_u32_le());
    let name = take(frame, cluster_length)?;
    if name != cluster.as_bytes() {
        *cluster = std::str::from_utf8(&name).ok()?.into();
    }
    let reason = match reason_length {
        NO_REASON => None,
        length => Some(String::from_utf8(take(frame, length)?.to_vec()).ok()?),
    };
    let payload = take(frame, payload_length)?;
    Some(Record { cluster: cluster.clone(), source, received_at, reason, payload })
}

fn take(frame: &mut Bytes, length: u32) -> Option<Bytes> {
    let length = length as usize;
    (frame.len() >= length).then(|| frame.split_to(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> impl Strategy<Value = Record> {
        let source = prop_oneof![Just(Source::Audit), Just(Source::Falco), Just(Source::Vedette)];
        (".{0,8}", source, any::<i64>(), proptest::option::of(".{0,20}"), proptest::collection::vec(any::<u8>(), 0..99))
            .prop_map(|(cluster, source, received_at, reason, payload)| Record {
                cluster: cluster.into(),
                source,
                received_at,
                reason,
                payload: payload.into(),
            })
    }

    proptest! {
        #[test]
        fn a_frame_gives_its_records_back(records in proptest::collection::vec(record(), 1..20), first in 0..u64::MAX / 2) {
            let mut frames = Frame::encode_all(&records).unwrap();
            prop_assert_eq!(frames.len(), 1);
            frames[0].seal(first, first / 2);
            let bytes = Bytes::copy_from_slice(frames[0].bytes());
            let header = Header::parse(&bytes).unwrap();
            prop_assert!(header.matches(&bytes));
            prop_assert_eq!((header.first, header.synced), (first, first / 2));
            prop_assert_eq!(decode(&header, bytes, &mut "".into()), Some(records));
        }

        #[test]
        fn a_flipped_bit_is_seen(records in proptest::collection::vec(record(), 1..4), place in any::<prop::sample::Index>()) {
            let mut frames = Frame::encode_all(&records).unwrap();
            frames[0].seal(7, 7);
            let mut bytes = frames[0].bytes().to_vec();
            let bit = place.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let whole = Header::parse(&bytes).is_some_and(|header| header.matches(&bytes));
            prop_assert!(!whole);
        }

        #[test]
        fn any_bytes_decode_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), HEADER..300), count in 1u32..5) {
            let header = Header { size: bytes.len(), checksum: 0, first: 0, synced: 0, count };
            let _ = decode(&header, bytes.into(), &mut "".into());
        }
    }

    #[test]
    fn a_large_batch_becomes_several_frames_in_order() {
        let record = |size: usize| Record {
            cluster: "c".into(),
            source: Source::Audit,
            received_at: size as i64,
            reason: None,
            payload: vec![1; size].into(),
        };
        let records: Vec<_> = [3 << 20, 3 << 20, 9 << 20, 0, 5].into_iter().map(record).collect();
        let frames = Frame::encode_all(&records).unwrap();
        assert_eq!(frames.iter().map(Frame::count).collect::<Vec<_>>(), [2, 1, 2]);
    }

    #[test]
    fn zeros_are_no_frame() {
        assert_eq!(Header::parse(&[0; 64]), None);
    }
}
