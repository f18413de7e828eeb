//! A record as a Kafka message and back: the event's bytes are the value, where it came from is in headers.

use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::FutureRecord;
use vedette_schemas::EventId;

use crate::{Record, Source, Topic};

const CLUSTER: &str = "cluster";
const SOURCE: &str = "source";
/// Decimal microseconds since 1970, UTC.
const RECEIVED_AT: &str = "received_at";
const REASON: &str = "reason";
/// Headers' names, lengths and the record's own frame, generously.
const OVERHEAD: usize = 512;

/// 2000 to 2200 in microseconds: another unit of time, or none at all, lies outside. A store keeps its rows by day and drops
/// the days that are too old, so an event must not get just any time.
const BELIEVABLE: Range<i64> = 946_684_800_000_000..7_258_118_400_000_000;

/// The event's identity, so that a second delivery of it lands in the same partition.
pub(super) fn key(record: &Record) -> [u8; 16] {
    record.id.0.to_be_bytes()
}

/// An upper bound of the message's size before compression.
pub(super) fn size(record: &Record) -> usize {
    OVERHEAD + record.payload.len() + record.cluster.len() + record.reason.as_ref().map_or(0, String::len)
}

/// A message to a topic, given with its name in Kafka.
pub(super) fn encode<'a>(
    (topic, name): (Topic, &'a str),
    key: &'a [u8; 16],
    record: &'a Record,
) -> FutureRecord<'a, [u8; 16], [u8]> {
    let received_at = record.received_at.to_string();
    let mut headers = OwnedHeaders::new_with_capacity(4)
        .insert(Header { key: CLUSTER, value: Some(&*record.cluster) })
        .insert(Header { key: SOURCE, value: Some(record.source.name()) })
        .insert(Header { key: RECEIVED_AT, value: Some(&received_at) });
    if let Some(reason) = &record.reason {
        headers = headers.insert(Header { key: REASON, value: Some(reason) });
    }
    let message = FutureRecord::to(name).key(key).payload(&record.payload[..]).headers(headers);
    // One process has to see all of it, also where somebody made the topic with more partitions.
    if topic == Topic::Shared { message.partition(0) } else { message }
}

/// The record of a message, without the payload. What another producer left out is filled in, for its event is still an event.
pub(super) fn decode(topic: Topic, message: &BorrowedMessage<'_>) -> Record {
    let mut record = Record {
        id: EventId(0),
        cluster: Arc::from("unknown"),
        source: match topic {
            Topic::Audit | Topic::DeadLetters => Source::Audit,
            Topic::Falco => Source::Falco,
            Topic::Alerts | Topic::Shared => Source::Vedette,
        },
        received_at: 0,
        reason: None,
        payload: Bytes::new(),
    };
    let mut ours = false;
    let mut received_at = message.timestamp().to_millis().map(|millis| millis.saturating_mul(1000));
    for header in message.headers().into_iter().flat_map(Headers::iter) {
        let Some(text) = header.value.and_then(|value| std::str::from_utf8(value).ok()) else { continue };
        match header.key {
            CLUSTER => record.cluster = Arc::from(text),
            SOURCE => {
                ours = true;
                record.source = Source::parse(text).unwrap_or(record.source);
            }
            RECEIVED_AT => received_at = text.parse().ok().or(received_at),
            REASON => record.reason = Some(text.to_owned()),
            _ => {}
        }
    }
    record.received_at = received_at.filter(|time| BELIEVABLE.contains(time)).unwrap_or_else(now);
    // Another producer's key may be anything.
    let key = message.key().filter(|_| ours).and_then(|key| <[u8; 16]>::try_from(key).ok());
    let payload = message.payload().unwrap_or_default();
    record.id = key.map_or_else(|| EventId::of(&record.cluster, payload), |key| EventId(u128::from_be_bytes(key)));
    record
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
