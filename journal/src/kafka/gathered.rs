//! Records of a poll, whose payloads are copied out of librdkafka's memory one behind the other.

use bytes::Bytes;

use crate::{Delivered, Partition, Record};

/// What is copied to one text, in bytes; a larger payload has a text of its own.
const TEXT: usize = 1 << 20;

/// Records so far.
#[derive(Default)]
pub(super) struct Gathered {
    /// Those of the open text are without their payloads.
    records: Vec<Delivered>,
    text: Vec<u8>,
    /// Where each payload ends in the open text.
    ends: Vec<usize>,
}

impl Gathered {
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Adds a record; the payload that it comes with doesn't count.
    pub(super) fn push(&mut self, partition: Partition, offset: u64, record: Record, payload: &[u8]) {
        if self.text.len() + payload.len() > TEXT && !self.ends.is_empty() {
            self.close();
            self.text.reserve_exact(TEXT.max(payload.len()));
        }
        self.text.extend_from_slice(payload);
        self.ends.push(self.text.len());
        self.records.push(Delivered { partition, offset, record, text: Bytes::new() });
    }

    /// All records, leaving none.
    pub(super) fn take(&mut self) -> Vec<Delivered> {
        self.close();
        std::mem::take(self).records
    }

    /// Hands the payloads of the open text out.
    fn close(&mut self) {
        let text = Bytes::from(std::mem::take(&mut self.text));
        let first = self.records.len() - self.ends.len();
        let mut start = 0;
        for (delivered, end) in self.records[first..].iter_mut().zip(self.ends.drain(..)) {
            delivered.record.payload = text.slice(start..end);
            delivered.text = text.clone();
            start = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Source, Topic};

    #[test]
    fn payloads_share_texts_of_bounded_size() {
        let partition = Partition { topic: Topic::Audit, number: 0 };
        let mut gathered = Gathered::default();
        for _ in 0..2 {
            let sizes = [0, 5, TEXT / 2, TEXT / 2, 0, 3 * TEXT, 7, 0];
            for (offset, size) in (0..).zip(sizes) {
                let record = Record::new("c".into(), Source::Audit, 1, Bytes::new());
                gathered.push(partition, offset, record, &vec![offset as u8; size]);
            }
            assert_eq!(gathered.len(), sizes.len());
            let taken = gathered.take();
            assert!(gathered.is_empty());
            let mut texts: Vec<&Bytes> = Vec::new();
            for (delivered, size) in taken.iter().zip(sizes) {
                let payload = &delivered.record.payload;
                assert!(*payload == vec![delivered.offset as u8; size]);
                assert!(delivered.text.as_ptr_range().start <= payload.as_ptr_range().start);
                assert!(payload.as_ptr_range().end <= delivered.text.as_ptr_range().end);
                if texts.last().is_none_or(|last| last.as_ptr() != delivered.text.as_ptr()) {
                    texts.push(&delivered.text);
                }
            }
            assert_eq!(texts.iter().map(|text| text.len()).collect::<Vec<_>>(), [TEXT / 2 + 5, TEXT / 2, 3 * TEXT, 7]);
        }
    }
}
