//! A frame: a batch of records as it lies in a segment file, compressed, and checksummed as a whole.
//!
//! ```text
//! length u32 | crc32 u32 | format u8 | first offset u64 | synced offset u64 | count u32 | records' size u32
//!         | records, compressed by zstd
//! record: id u128 | received_at i64 | source u8 | cluster length u32 | reason length u32 (all ones: none) | payload length u32
//!         | cluster | reason | payload
//! ```
//! Integers are little-endian, `length` counts what follows the checksum, and the checksum covers the same, as it is
//! stored. Frames of any later format begin in the same way, up to the format byte. The synced offset is where the log
//! was known to be on disk up to when the frame was written: it tells a tail torn by a crash from damage to records that
//! had been acknowledged.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use crc32fast::Hasher;
use vedette_schemas::EventId;

use crate::record::{Record, Source};

/// The one format there is.
pub const FORMAT: u8 = 1;
/// The bytes before the records.
pub const HEADER: usize = 33;
/// The largest record, as in Kafka.
pub const MAX_RECORD: usize = 64 << 20;
const CHECKSUMMED_FROM: usize = 8;
const NO_REASON: u32 = u32::MAX;
const RECORD_HEADER: usize = 37;
/// A frame is closed once its records have this size, so that a reader unpacks little at a time.
const FULL_FRAME: usize = 1 << 20;
const MAX_RECORDS_SIZE: usize = FULL_FRAME + MAX_RECORD;
/// zstd's level 1: about an eighth of the bytes at a few hundred MB/s. Higher levels cost more than the disk saves.
const LEVEL: i32 = 1;

/// A frame on its way to disk. The writer gives it its offset when its turn comes.
pub struct Frame {
    bytes: Vec<u8>,
    count: u32,
    records_size: u32,
    stored_checksum: Hasher,
}

/// Makes frames. Kept and used again, it spares each append the allocation of a few megabytes.
pub struct Encoder {
    compressor: zstd::bulk::Compressor<'static>,
    plain: Vec<u8>,
    stored: Vec<u8>,
}

impl Encoder {
    pub fn new() -> io::Result<Self> {
        let compressor = zstd::bulk::Compressor::new(LEVEL)?;
        Ok(Encoder { compressor, plain: Vec::new(), stored: Vec::new() })
    }

    /// Records, none above `MAX_RECORD`, as frames of moderate size, in order.
    pub fn encode_all(&mut self, records: &[Record]) -> io::Result<Vec<Frame>> {
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
            frames.push(self.encode(head)?);
            rest = tail;
        }
        Ok(frames)
    }

    fn encode(&mut self, records: &[Record]) -> io::Result<Frame> {
        self.plain.clear();
        self.plain.reserve(records.iter().map(encoded_size).sum());
        for record in records {
            put_record(&mut self.plain, record)?;
        }
        self.stored.clear();
        self.stored.reserve(zstd::zstd_safe::compress_bound(self.plain.len()));
        self.compressor.compress_to_buffer(&self.plain, &mut self.stored)?;
        // In a buffer of its own size: what waits for the disk takes no more room than it will there.
        let mut bytes = Vec::with_capacity(HEADER + self.stored.len());
        bytes.resize(HEADER, 0);
        bytes.extend_from_slice(&self.stored);
        length(bytes.len())?;
        let mut stored_checksum = Hasher::new();
        stored_checksum.update(&self.stored);
        let (count, records_size) = (length(records.len())?, length(self.plain.len())?);
        // A rare large record leaves no large buffers behind.
        self.plain.clear();
        self.plain.shrink_to(2 * FULL_FRAME);
        self.stored.clear();
        self.stored.shrink_to(2 * FULL_FRAME);
        Ok(Frame { bytes, count, records_size, stored_checksum })
    }
}

impl Frame {
    /// Fills the header in. The checksum of what is stored is combined with the header's, not computed again.
    pub fn seal(&mut self, first: u64, synced: u64) {
        let length = (self.bytes.len() - CHECKSUMMED_FROM) as u32;
        let mut header = Vec::with_capacity(HEADER);
        header.put_u32_le(length);
        header.put_u32_le(0);
        header.put_u8(FORMAT);
        header.put_u64_le(first);
        header.put_u64_le(synced);
        header.put_u32_le(self.count);
        header.put_u32_le(self.records_size);
        let mut checksum = Hasher::new();
        checksum.update(&header[CHECKSUMMED_FROM..]);
        checksum.combine(&self.stored_checksum);
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

/// How many bytes a record takes in a frame, before compression.
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
    bytes.put_u128_le(record.id.0);
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
    pub format: u8,
    pub first: u64,
    pub synced: u64,
    pub count: u32,
    records_size: usize,
}

impl Header {
    /// Reads a header; `None` where there can't be one, as in the zeros that a file's tail may come back from a crash as.
    pub fn parse(mut bytes: &[u8]) -> Option<Header> {
        if bytes.len() < HEADER {
            return None;
        }
        let header = Header {
            size: bytes.get_u32_le() as usize + CHECKSUMMED_FROM,
            checksum: bytes.get_u32_le(),
            format: bytes.get_u8(),
            first: bytes.get_u64_le(),
            synced: bytes.get_u64_le(),
            count: bytes.get_u32_le(),
            records_size: bytes.get_u32_le() as usize,
        };
        (header.size > HEADER).then_some(header)
    }

    /// The offset after the frame's last record.
    pub fn end(&self) -> u64 {
        self.first.saturating_add(u64::from(self.count))
    }

    /// Whether a whole frame's bytes are what was written.
    pub fn matches(&self, frame: &[u8]) -> bool {
        frame.len() == self.size && crc32fast::hash(&frame[CHECKSUMMED_FROM..]) == self.checksum
    }
}

/// The records of a frame whose checksum is right, and the text that their payloads are slices of, which is no larger than
/// the header says, and no larger than any frame may be. `cluster` is the last cluster's name seen, shared between records rather
/// than allocated for each. An error says what is wrong.
pub fn decode(header: &Header, frame: &[u8], cluster: &mut Arc<str>) -> Result<(Bytes, Vec<Record>), &'static str> {
    if header.records_size > MAX_RECORDS_SIZE {
        return Err("its records are larger than a frame's may be");
    }
    let stored = frame.get(HEADER..).unwrap_or_default();
    let plain = zstd::bulk::decompress(stored, header.records_size).map_err(|_| "its records don't decompress")?;
    if plain.len() != header.records_size {
        return Err("its records have another size than it says");
    }
    let text = Bytes::from(plain);
    let mut plain = text.clone();
    let mut records = Vec::with_capacity((header.count as usize).min(plain.len() / RECORD_HEADER));
    for _ in 0..header.count {
        records.push(take_record(&mut plain, cluster).ok_or("its records make no sense")?);
    }
    if plain.is_empty() { Ok((text, records)) } else { Err("it has more in it than its records") }
}

fn take_record(frame: &mut Bytes, cluster: &mut Arc<str>) -> Option<Record> {
    if frame.len() < RECORD_HEADER {
        return None;
    }
    let id = EventId(frame.get_u128_le());
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
    Some(Record { id, cluster: cluster.clone(), source, received_at, reason, payload })
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
            .prop_map(|(cluster, source, received_at, reason, payload)| {
                let record = Record::new(cluster.into(), source, received_at, payload.into());
                Record { reason, ..record }
            })
    }

    fn sealed(records: &[Record], first: u64, synced: u64) -> (Header, Vec<u8>) {
        let mut frames = Encoder::new().unwrap().encode_all(records).unwrap();
        assert_eq!(frames.len(), 1);
        frames[0].seal(first, synced);
        (Header::parse(frames[0].bytes()).unwrap(), frames.remove(0).bytes)
    }

    fn with_payload(payload: Vec<u8>) -> Record {
        Record::new("c".into(), Source::Audit, payload.len() as i64, payload.into())
    }

    proptest! {
        #[test]
        fn a_frame_gives_its_records_back(records in proptest::collection::vec(record(), 1..20), first in 0..u64::MAX / 2) {
            let (header, bytes) = sealed(&records, first, first / 2);
            prop_assert!(header.matches(&bytes));
            prop_assert_eq!((header.format, header.first, header.synced), (FORMAT, first, first / 2));
            prop_assert_eq!(decode(&header, &bytes, &mut "".into()).map(|(_, records)| records), Ok(records));
        }

        #[test]
        fn a_flipped_bit_is_seen(records in proptest::collection::vec(record(), 1..4), place in any::<prop::sample::Index>()) {
            let (_, mut bytes) = sealed(&records, 7, 7);
            let bit = place.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let whole = Header::parse(&bytes).is_some_and(|header| header.matches(&bytes));
            prop_assert!(!whole);
        }

        /// As if the checksum were right by chance, or made so.
        #[test]
        fn any_bytes_decode_without_a_panic(
            stored in proptest::collection::vec(any::<u8>(), 0..300),
            records in proptest::collection::vec(record(), 1..4),
            flips in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
            count in any::<u32>(),
            records_size in prop_oneof![0..2000usize, any::<u32>().prop_map(|size| size as usize)],
        ) {
            let (header, mut bytes) = sealed(&records, 0, 0);
            let _ = decode(&Header { count, records_size, ..header }, &[&[0; HEADER][..], &stored].concat(), &mut "".into());
            for flip in flips {
                let bit = flip.index((bytes.len() - HEADER) * 8);
                bytes[HEADER + bit / 8] ^= 1 << (bit % 8);
            }
            let _ = decode(&Header { count, ..header }, &bytes, &mut "".into());
            let _ = decode(&header, &bytes, &mut "".into());
        }
    }

    #[test]
    fn repetitive_records_take_little_room() {
        let event = br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","verb":"get","user":{"username":"alice"}}"#;
        let records = vec![with_payload(event.to_vec()); 400];
        let (_, bytes) = sealed(&records, 0, 0);
        assert!(bytes.len() < event.len() * 400 / 8, "{} bytes", bytes.len());
    }

    #[test]
    fn nothing_is_unpacked_beyond_what_the_header_says() {
        let (header, bytes) = sealed(&[with_payload(vec![0; 100_000])], 0, 0);
        assert!(bytes.len() < 1_000, "{} bytes stand for 100,000", bytes.len());
        for (records_size, problem) in [
            (99_999, "its records don't decompress"),
            (200_000, "its records have another size than it says"),
            (MAX_RECORDS_SIZE + 1, "its records are larger than a frame's may be"),
        ] {
            let header = Header { records_size, ..header };
            assert_eq!(decode(&header, &bytes, &mut "".into()), Err(problem));
        }
    }

    #[test]
    fn a_large_batch_becomes_several_frames_in_order() {
        let sizes = [600 << 10, 600 << 10, 9 << 20, 0, 5];
        let records: Vec<_> = sizes.into_iter().map(|size| with_payload(vec![1; size])).collect();
        let mut frames = Encoder::new().unwrap().encode_all(&records).unwrap();
        assert_eq!(frames.iter().map(Frame::count).collect::<Vec<_>>(), [2, 1, 2]);
        let mut read = Vec::new();
        for frame in &mut frames {
            frame.seal(0, 0);
            read.extend(decode(&Header::parse(frame.bytes()).unwrap(), frame.bytes(), &mut "".into()).unwrap().1);
        }
        assert!(read == records);
    }

    #[test]
    fn zeros_are_no_frame() {
        assert_eq!(Header::parse(&[0; 64]), None);
    }
}
