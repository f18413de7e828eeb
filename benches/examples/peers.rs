//! Vedette's side of the comparison with its peers, which `benches/peers/run` drives: writes the events and the conditions
//! that all sides read, and counts each condition's events as often as it is asked.

#![allow(clippy::unwrap_used)]

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufWriter, Write, stdin, stdout};
use std::path::Path;
use std::sync::Arc;

use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use tokio::runtime::{Builder, Runtime};
use vedette_analytics::engine::{Engine, Tables};
use vedette_benches::{Generator, Slice, slices};
use vedette_detections::{Rule, RuleKind, builtin};
use vedette_schemas::{AuditDecoder, EventId, Received, Table};

/// As in the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const USAGE: &str = "peers write FOLDER EVENTS: writes events.ndjson, audit.arrow and conditions.json
peers serve FOLDER CONDITIONS: answers each line of its input, `events` or `columns`, with the conditions' counts";

const BATCH: usize = 8_192;
const CLUSTER: &str = "prod";
const RECEIVED_AT: i64 = 1_772_323_200_000_000;

/// What the conditions read, and so what the peers' tables hold.
const COLUMNS: [&str; 13] = [
    "verb",
    "stage",
    "resource",
    "subresource",
    "namespace",
    "user_name",
    "user_groups",
    "user_agent",
    "request_uri",
    "response_code",
    "decision",
    "impersonated_user_name",
    "request_object",
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", folder, events] => write(Path::new(folder), events.parse().unwrap()),
        ["serve", folder, conditions] => serve(Path::new(folder), conditions),
        _ => panic!("{USAGE}"),
    }
}

fn write(folder: &Path, count: usize) {
    let lines = Generator::new(1).lines(count);
    fs::write(folder.join("events.ndjson"), &lines).unwrap();
    fs::write(folder.join("conditions.json"), serde_json::to_vec(&vedette_benches::typical(100)).unwrap()).unwrap();

    let batches = decode(&events(lines));
    let columns: Vec<usize> = COLUMNS.iter().map(|name| Table::Audit.schema().index_of(name).unwrap()).collect();
    let schema = Arc::new(plain(&Table::Audit.schema().project(&columns).unwrap()));
    let file = BufWriter::new(File::create(folder.join("audit.arrow")).unwrap());
    let mut writer = StreamWriter::try_new(file, &schema).unwrap();
    for batch in batches {
        let arrays = columns.iter().zip(schema.fields());
        let arrays = arrays.map(|(column, field)| cast(batch.column(*column), field.data_type()).unwrap()).collect();
        writer.write(&RecordBatch::try_new(schema.clone(), arrays).unwrap()).unwrap();
    }
    writer.finish().unwrap();
}

/// The same columns as every reader of Arrow takes them: labels and views as text.
fn plain(schema: &Schema) -> Schema {
    let field = |field: &Arc<Field>| match field.data_type() {
        DataType::Dictionary(..) | DataType::Utf8View => Field::new(field.name(), DataType::Utf8, true),
        _ => field.as_ref().clone(),
    };
    Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>())
}

/// Events beside their identities, which the receiver computes and the journal carries.
fn events(lines: String) -> Vec<(EventId, Slice)> {
    slices(lines).into_iter().map(|slice| (EventId::of(CLUSTER, &slice.0), slice)).collect()
}

fn decode(events: &[(EventId, Slice)]) -> Vec<RecordBatch> {
    events.chunks(BATCH).map(decode_batch).collect()
}

fn decode_batch(events: &[(EventId, Slice)]) -> RecordBatch {
    let mut decoder = AuditDecoder::with_capacity(events.len());
    for (id, (event, text)) in events {
        let event = Received { id: *id, cluster: CLUSTER, at: RECEIVED_AT, payload: event, text: Some(text) };
        decoder.push_as(event).unwrap();
    }
    decoder.finish()
}

fn serve(folder: &Path, conditions: &str) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let conditions: Vec<String> = serde_json::from_slice(&fs::read(conditions).unwrap()).unwrap();
    let mut counter = Counter::new(runtime, &conditions);
    let lines = fs::read_to_string(folder.join("events.ndjson")).unwrap();
    let events = events(lines);
    let decoded: Vec<Tables> = decode(&events).into_iter().map(|batch| Tables::from([(Table::Audit, batch)])).collect();
    for asked in stdin().lock().lines() {
        let counts = match asked.unwrap().as_str() {
            "events" => {
                let batches = events.chunks(BATCH).map(|batch| Tables::from([(Table::Audit, decode_batch(batch))]));
                counter.count(batches)
            }
            "columns" => counter.count(decoded.iter()),
            other => panic!("{other}?\n{USAGE}"),
        };
        println!("{}", serde_json::to_string(&counts).unwrap());
        stdout().flush().unwrap();
    }
}

struct Counter {
    runtime: Runtime,
    engine: Engine,
    /// Conditions by the id of their rule.
    places: BTreeMap<String, usize>,
}

impl Counter {
    fn new(runtime: Runtime, conditions: &[String]) -> Self {
        let id = |nth: usize| format!("typical_{nth}");
        let first = builtin().unwrap().into_iter().find(|rule| rule.kind == RuleKind::Match).unwrap();
        let rule = |(nth, condition): (usize, &String)| Rule {
            id: id(nth),
            sql: format!(
                "SELECT cluster, event_id, event_time, user_name, verb, resource, namespace, name FROM audit WHERE {condition}"
            ),
            ..first.clone()
        };
        let rules: Vec<Rule> = conditions.iter().enumerate().map(rule).collect();
        let engine = runtime.block_on(Engine::new(rules)).unwrap();
        Self { runtime, engine, places: (0..conditions.len()).map(|nth| (id(nth), nth)).collect() }
    }

    /// How many rows each condition's rule selects.
    fn count(&mut self, batches: impl Iterator<Item: Borrow<Tables>>) -> Vec<usize> {
        let mut counts = vec![0; self.places.len()];
        for tables in batches {
            let selected = self.runtime.block_on(self.engine.select(tables.borrow())).unwrap();
            for (rule, rows) in selected {
                counts[self.places[&rule]] += rows.iter().map(RecordBatch::num_rows).sum::<usize>();
            }
        }
        counts
    }
}
