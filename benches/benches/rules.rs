//! Rules over decoded batches: the engine beside DataFusion running each rule's own plan over the same batch.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use datafusion::datasource::MemTable;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;
use tokio::runtime::{Builder, Runtime};
use vedette_analytics::engine::{Engine, Tables};
use vedette_benches::Generator;
use vedette_detections::{Rule, RuleKind, builtin, sql};
use vedette_schemas::{AuditDecoder, EventId, Table, derive};

/// As in the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const EVENTS: usize = 8_192;
const RECEIVED_AT: i64 = 1_772_323_200_000_000;

fn tables() -> Tables {
    let mut generator = Generator::new(1);
    let mut decoder = AuditDecoder::with_capacity(EVENTS);
    let mut event = String::new();
    for _ in 0..EVENTS {
        event.clear();
        generator.event(&mut event);
        decoder.push("prod", RECEIVED_AT, event.as_bytes()).unwrap();
    }
    derive::tables(decoder.finish())
}

/// The pack's rules over audit events.
fn pack() -> Vec<Rule> {
    let mut rules = builtin().unwrap();
    rules.retain(|rule| rule.kind == RuleKind::Match && !rule.sql.contains("FROM falco"));
    rules
}

/// So many typical rules.
fn typical(count: usize) -> Vec<Rule> {
    let first = pack().remove(0);
    let rule = |(nth, condition): (usize, String)| Rule {
        id: format!("typical_{nth}"),
        sql: format!(
            "SELECT cluster, event_id, event_time, user_name, verb, resource, namespace, name FROM audit WHERE {condition}"
        ),
        ..first.clone()
    };
    vedette_benches::typical(count).into_iter().enumerate().map(rule).collect()
}

async fn plans(tables: &Tables, rules: &[Rule]) -> (SessionContext, Vec<Arc<dyn ExecutionPlan>>) {
    let context = sql::session().unwrap();
    for (table, batch) in tables {
        let memory = MemTable::try_new(batch.schema(), vec![vec![batch.clone()]]).unwrap();
        context.register_table(table.name(), Arc::new(memory)).unwrap();
    }
    let mut plans = Vec::new();
    for rule in rules {
        plans.push(context.sql(&rule.sql).await.unwrap().create_physical_plan().await.unwrap());
    }
    (context, plans)
}

fn evaluating(criterion: &mut Criterion) {
    // One thread: the figure is for one core.
    let runtime: Runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let tables = tables();
    let bytes: usize = tables.values().map(|batch| batch.get_array_memory_size()).sum();
    for (unit, throughput) in
        [("events", Throughput::Elements(EVENTS as u64)), ("bytes", Throughput::Bytes(bytes as u64))]
    {
        let mut group = criterion.benchmark_group("rules");
        group.throughput(throughput).sample_size(30);
        for (name, rules) in [("pack", pack()), ("100 typical", typical(100)), ("1000 typical", typical(1000))] {
            let mut engine = runtime.block_on(Engine::new(rules.clone())).unwrap();
            group.bench_function(BenchmarkId::new(format!("engine, {name}"), unit), |bencher| {
                bencher.iter(|| runtime.block_on(engine.select(&tables)).unwrap());
            });
            if name == "1000 typical" {
                continue;
            }
            let (context, plans) = runtime.block_on(plans(&tables, &rules));
            group.bench_function(BenchmarkId::new(format!("a plan a rule, {name}"), unit), |bencher| {
                bencher.iter(|| {
                    for plan in &plans {
                        runtime.block_on(collect(plan.clone(), context.task_ctx())).unwrap();
                    }
                });
            });
        }
        group.finish();
    }
}

/// From the bytes: decoding and the rules, beside merely parsing the same bytes.
fn from_bytes(criterion: &mut Criterion) {
    let runtime: Runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut generator = Generator::new(1);
    let events: Vec<String> = (0..EVENTS)
        .map(|_| {
            let mut event = String::new();
            generator.event(&mut event);
            event
        })
        .collect();
    let ids: Vec<EventId> = events.iter().map(|event| EventId::of("prod", event.as_bytes())).collect();
    let mut group = criterion.benchmark_group("from bytes");
    group.throughput(Throughput::Elements(EVENTS as u64)).sample_size(30);
    // It writes into what it parses, so that it needs a copy; copying the bytes is a fiftieth of it.
    let mut buffers = simd_json::Buffers::default();
    let mut copy = Vec::new();
    group.bench_function("simd-json borrowed/events", |bencher| {
        bencher.iter(|| {
            for event in &events {
                copy.clear();
                copy.extend_from_slice(event.as_bytes());
                black_box(simd_json::to_borrowed_value_with_buffers(&mut copy, &mut buffers).unwrap());
            }
        });
    });
    let mut engine = runtime.block_on(Engine::new(typical(100))).unwrap();
    group.bench_function("decode and 100 typical/events", |bencher| {
        bencher.iter(|| {
            let mut decoder = AuditDecoder::with_capacity(EVENTS);
            for (id, event) in ids.iter().zip(&events) {
                decoder.push_as(*id, "prod", RECEIVED_AT, event.as_bytes()).unwrap();
            }
            let tables = Tables::from([(Table::Audit, decoder.finish())]);
            runtime.block_on(engine.select(&tables)).unwrap()
        });
    });
    group.finish();
}

criterion_group!(benches, evaluating, from_bytes);
criterion_main!(benches);
