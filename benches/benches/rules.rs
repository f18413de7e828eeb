//! Rules over decoded batches, beside DataFusion running each rule's own plan over the same batch; and from the bytes, beside
//! simd-json merely parsing them. All sides of a comparison are asked in turns, round by round: the machine's speed varies from
//! minute to minute, and their ratio within a round hardly does.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use datafusion::datasource::MemTable;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;
use tokio::runtime::{Builder, Runtime};
use vedette_analytics::engine::{Engine, Tables};
use vedette_benches::{Generator, slices};
use vedette_detections::{Rule, RuleKind, builtin, sql};
use vedette_schemas::{AuditDecoder, EventId, Received, Table, derive};

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

/// What is asked in turns with others, once a round.
type Side<'a> = (&'a str, Box<dyn FnMut() + 'a>);

const ROUNDS: usize = 41;

/// Asks all sides in turns and prints of each how many events a second it takes, and how many times as fast the first is, in the
/// middle of all rounds and in the middle half of them.
fn compare(title: &str, mut sides: Vec<Side>) {
    let mut seconds: Vec<Vec<f64>> = vec![Vec::with_capacity(ROUNDS); sides.len()];
    // The first round counts for nobody.
    for round in 0..=ROUNDS {
        for ((_, ask), seconds) in sides.iter_mut().zip(&mut seconds) {
            let started = Instant::now();
            ask();
            if round > 0 {
                seconds.push(started.elapsed().as_secs_f64());
            }
        }
    }
    println!("{title}");
    for ((name, _), own) in sides.iter().zip(&seconds) {
        let rate = EVENTS as f64 / quarters(own.iter().copied())[1] / 1e3;
        let [low, middle, high] = quarters(own.iter().zip(&seconds[0]).map(|(own, first)| own / first));
        println!("  {name:32} {rate:8.0}k events/s, the first is {middle:6.2} times as fast ({low:.2} to {high:.2})");
    }
}

/// What a quarter, half and three quarters of the values are below.
fn quarters(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[values.len() * quarter / 4])
}

/// Over one decoded batch.
fn over_columns(runtime: &Runtime) {
    let tables = &tables();
    let engine = |rules: Vec<Rule>| -> Box<dyn FnMut()> {
        let mut engine = runtime.block_on(Engine::new(rules)).unwrap();
        Box::new(move || _ = black_box(runtime.block_on(engine.select(tables)).unwrap()))
    };
    let plans = |rules: &[Rule]| -> Box<dyn FnMut()> {
        let (context, plans) = runtime.block_on(plans(tables, rules));
        Box::new(move || {
            for plan in &plans {
                black_box(runtime.block_on(collect(plan.clone(), context.task_ctx())).unwrap());
            }
        })
    };
    compare("built-in rules over columns", vec![("engine", engine(pack())), ("a plan a rule", plans(&pack()))]);
    let hundred = typical(100);
    compare(
        "typical rules over columns",
        vec![
            ("engine, 100", engine(hundred.clone())),
            ("a plan a rule, 100", plans(&hundred)),
            ("engine, 1000", engine(typical(1000))),
        ],
    );
}

/// From the bytes, event by event.
fn from_bytes(runtime: &Runtime) {
    let events = slices(Generator::new(1).lines(EVENTS));
    let ids: Vec<EventId> = events.iter().map(|(event, _)| EventId::of("prod", event)).collect();
    let mut engine = runtime.block_on(Engine::new(typical(100))).unwrap();
    let ours = || {
        let mut decoder = AuditDecoder::with_capacity(EVENTS);
        for (id, (event, text)) in ids.iter().zip(&events) {
            let event = Received { id: *id, cluster: "prod", at: RECEIVED_AT, payload: event, text: Some(text) };
            decoder.push_as(event).unwrap();
        }
        let tables = Tables::from([(Table::Audit, decoder.finish())]);
        black_box(runtime.block_on(engine.select(&tables)).unwrap());
    };
    // It writes into what it parses, so that it needs a copy; copying the bytes is a fiftieth of it.
    let (mut buffers, mut copy) = (simd_json::Buffers::default(), Vec::new());
    let theirs = || {
        for (event, _) in &events {
            copy.clear();
            copy.extend_from_slice(event);
            black_box(simd_json::to_borrowed_value_with_buffers(&mut copy, &mut buffers).unwrap());
        }
    };
    compare(
        "from bytes",
        vec![("decoding and 100 typical rules", Box::new(ours)), ("simd-json, a borrowed value", Box::new(theirs))],
    );
}

fn main() {
    // One thread: the figures are for one core.
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    over_columns(&runtime);
    from_bytes(&runtime);
}
