//! Splitting a request's body into its events, beside serde_json, which finds the same boundaries by parsing.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde::Deserialize;
use serde_json::value::RawValue;
use vedette_benches::Generator;
use vedette_ingest::split::{Options, Splitter};

/// As in the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What an API server sends at most at once, by default.
const EVENTS: usize = 400;

/// A network buffer's worth.
const CHUNK: usize = 16 << 10;

#[derive(Deserialize)]
struct EventList<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

fn body() -> String {
    let mut generator = Generator::new(1);
    let mut body = String::from(r#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#);
    for number in 0..EVENTS {
        if number > 0 {
            body.push(',');
        }
        generator.event(&mut body);
    }
    body + "]}\n"
}

fn splitting(criterion: &mut Criterion) {
    let body = body();
    let options = Options { lists: true, max_event_bytes: 16 << 20 };
    for (unit, throughput) in
        [("bytes", Throughput::Bytes(body.len() as u64)), ("events", Throughput::Elements(EVENTS as u64))]
    {
        let mut group = criterion.benchmark_group("split");
        group.throughput(throughput);
        group.bench_function(BenchmarkId::new("serde_json, whole body", unit), |bencher| {
            bencher.iter(|| black_box(serde_json::from_str::<EventList>(&body).unwrap().items.len()));
        });
        group.bench_function(BenchmarkId::new("splitter, as it streams", unit), |bencher| {
            bencher.iter(|| {
                let mut pieces = Vec::with_capacity(EVENTS);
                let mut splitter = Splitter::new(options);
                for chunk in body.as_bytes().chunks(CHUNK) {
                    splitter.push(chunk, &mut pieces);
                }
                splitter.finish(&mut pieces);
                assert_eq!(pieces.len(), EVENTS);
                pieces
            });
        });
        group.finish();
    }
}

criterion_group!(benches, splitting);
criterion_main!(benches);
