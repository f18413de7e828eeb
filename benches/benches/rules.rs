//! Rules over decoded batches: the engine beside DataFusion running each rule's own plan over the same batch.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use datafusion::datasource::MemTable;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;
use tokio::runtime::{Builder, Runtime};
use vedette_analytics::engine::{Engine, Tables};
use vedette_benches::Generator;
use vedette_detections::{Rule, RuleKind, builtin, sql};
use vedette_schemas::{AuditDecoder, Table, derive};

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
    let audit = decoder.finish();
    let derived = derive::derive(&audit);
    Tables::from([
        (Table::Audit, audit),
        (Table::Containers, derived.containers),
        (Table::RoleRules, derived.role_rules),
        (Table::RoleSubjects, derived.role_subjects),
    ])
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

criterion_group!(benches, evaluating);
criterion_main!(benches);
