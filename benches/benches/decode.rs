//! Decoding: what the decoder costs beside serde_json into a typed struct, which stops short of columns, and what the
//! derived tables add. The event's identity, which is computed once, at receipt, is measured for itself.

#![allow(clippy::unwrap_used)]

use std::borrow::Cow;
use std::hint::black_box;

use arrow::record_batch::RecordBatch;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde::Deserialize;
use serde_json::value::RawValue;
use vedette_benches::{Generator, Slice, slices};
use vedette_schemas::EventId;
use vedette_schemas::Received;
use vedette_schemas::decode::AuditDecoder;
use vedette_schemas::derive::derive;

/// As in the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const EVENTS: usize = 8_192;
const RECEIVED_AT: i64 = 1_772_323_200_000_000;

/// The audit event as a careful user of serde would type it: text borrowed where it can be, bodies left as text.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code)]
struct TypedEvent<'a> {
    #[serde(borrow)]
    level: Cow<'a, str>,
    #[serde(borrow, rename = "auditID")]
    audit_id: Cow<'a, str>,
    #[serde(borrow)]
    stage: Cow<'a, str>,
    #[serde(borrow, rename = "requestURI")]
    request_uri: Cow<'a, str>,
    #[serde(borrow)]
    verb: Cow<'a, str>,
    #[serde(borrow)]
    user: TypedUser<'a>,
    #[serde(borrow)]
    impersonated_user: Option<TypedUser<'a>>,
    #[serde(borrow, rename = "sourceIPs", default)]
    source_ips: Vec<Cow<'a, str>>,
    #[serde(borrow)]
    user_agent: Option<Cow<'a, str>>,
    #[serde(borrow)]
    object_ref: Option<TypedObjectReference<'a>>,
    #[serde(borrow)]
    response_status: Option<&'a RawValue>,
    #[serde(borrow)]
    request_object: Option<&'a RawValue>,
    #[serde(borrow)]
    response_object: Option<&'a RawValue>,
    #[serde(borrow)]
    request_received_timestamp: Cow<'a, str>,
    #[serde(borrow)]
    stage_timestamp: Cow<'a, str>,
    #[serde(borrow)]
    annotations: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct TypedUser<'a> {
    #[serde(borrow)]
    username: Option<Cow<'a, str>>,
    #[serde(borrow)]
    uid: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    groups: Vec<Cow<'a, str>>,
    #[serde(borrow)]
    extra: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code)]
struct TypedObjectReference<'a> {
    #[serde(borrow)]
    resource: Option<Cow<'a, str>>,
    #[serde(borrow)]
    subresource: Option<Cow<'a, str>>,
    #[serde(borrow)]
    namespace: Option<Cow<'a, str>>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    uid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    api_group: Option<Cow<'a, str>>,
    #[serde(borrow)]
    api_version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    resource_version: Option<Cow<'a, str>>,
}

fn events() -> Vec<(EventId, Slice)> {
    let slices = slices(Generator::new(1).lines(EVENTS));
    slices.into_iter().map(|slice| (EventId::of("prod", &slice.0), slice)).collect()
}

fn decode(events: &[(EventId, Slice)]) -> RecordBatch {
    let mut decoder = AuditDecoder::with_capacity(events.len());
    for (id, (event, text)) in events {
        let event = Received { id: *id, cluster: "prod", at: RECEIVED_AT, payload: event, text: Some(text) };
        decoder.push_as(event).unwrap();
    }
    decoder.finish()
}

fn decoding(criterion: &mut Criterion) {
    let events = events();
    let bytes = events.iter().map(|(_, (event, _))| event.len()).sum::<usize>() as u64;
    let texts: Vec<&str> = events.iter().map(|(_, (event, _))| str::from_utf8(event).unwrap()).collect();
    for (unit, throughput) in [("bytes", Throughput::Bytes(bytes)), ("events", Throughput::Elements(EVENTS as u64))] {
        let mut group = criterion.benchmark_group("decode");
        group.throughput(throughput).sample_size(20);
        group.bench_function(BenchmarkId::new("serde_json typed", unit), |bencher| {
            bencher.iter(|| {
                for (_, (event, _)) in &events {
                    black_box(serde_json::from_slice::<TypedEvent>(event).unwrap());
                }
            });
        });
        // Spared the check that the bytes are UTF-8.
        group.bench_function(BenchmarkId::new("serde_json typed, of text", unit), |bencher| {
            bencher.iter(|| {
                for event in &texts {
                    black_box(serde_json::from_str::<TypedEvent>(event).unwrap());
                }
            });
        });
        group.bench_function(BenchmarkId::new("identity", unit), |bencher| {
            bencher.iter(|| {
                for (_, (event, _)) in &events {
                    black_box(EventId::of("prod", event));
                }
            });
        });
        group.bench_function(BenchmarkId::new("decoder", unit), |bencher| bencher.iter(|| decode(&events)));
        let audit = decode(&events);
        group.bench_function(BenchmarkId::new("derive", unit), |bencher| bencher.iter(|| derive(&audit)));
        group.bench_function(BenchmarkId::new("decoder and derive", unit), |bencher| {
            bencher.iter(|| derive(&decode(&events)));
        });
        group.finish();
    }
}

criterion_group!(benches, decoding);
criterion_main!(benches);
