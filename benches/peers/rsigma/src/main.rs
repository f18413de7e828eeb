//! rsigma-eval's side of the comparison that `benches/peers/run` drives: evaluates Sigma rules over a file of audit events and
//! counts each rule's matches, as often as it is asked, by its stock API or over a typed event.

mod event;

use std::collections::HashMap;
use std::error::Error;
use std::fs::{read, read_to_string};
use std::io::{BufRead, Write, stdin, stdout};

use event::{AuditEvent, DECISION};
use rsigma_eval::{Engine, EvaluationResult, JsonEvent, parse_pipeline};
use rsigma_parser::{SigmaCollection, parse_sigma_yaml};
use serde_json::Value;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const USAGE: &str = "vedette-peer-rsigma EVENTS PIPELINE RULES...
Answers each line of its input, `stock` or `typed`, with the counts of the rules in their order. PIPELINE is a file, or -.";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [events, pipeline, rules @ ..] = arguments.as_slice() else { return Err(USAGE.into()) };
    let counter = Counter::new(pipeline, rules)?;
    let text = read(events)?;
    let events: Vec<&[u8]> = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    for asked in stdin().lock().lines() {
        let counts = match asked?.as_str() {
            "stock" => counter.stock(&events)?,
            "typed" => counter.typed(&events)?,
            other => return Err(format!("{other}?\n{USAGE}").into()),
        };
        println!("{}", serde_json::to_string(&counts)?);
        stdout().flush()?;
    }
    Ok(())
}

struct Counter {
    engine: Engine,
    /// Rules by their titles.
    places: HashMap<String, usize>,
}

impl Counter {
    fn new(pipeline: &str, files: &[String]) -> Result<Self, Box<dyn Error>> {
        let mut rules = SigmaCollection::new();
        for file in files {
            let read = parse_sigma_yaml(&read_to_string(file)?)?;
            if let Some(error) = read.errors.first() {
                return Err(format!("{file}: {error}").into());
            }
            rules.rules.extend(read.rules);
        }
        let mut engine = Engine::new();
        if pipeline != "-" {
            engine.add_pipeline(parse_pipeline(&read_to_string(pipeline)?)?);
        }
        if let Some((rule, error)) = engine.add_rules(&rules.rules).first() {
            return Err(format!("{}: {error}", rules.rules[*rule].title).into());
        }
        let places: HashMap<_, _> =
            rules.rules.iter().enumerate().map(|(nth, rule)| (rule.title.clone(), nth)).collect();
        if places.len() < rules.rules.len() {
            return Err("two rules have the same title".into());
        }
        Ok(Self { engine, places })
    }

    /// As the crate's own front page does it.
    fn stock(&self, events: &[&[u8]]) -> serde_json::Result<Vec<usize>> {
        let mut counts = vec![0; self.places.len()];
        for event in events {
            let mut value: Value = serde_json::from_slice(event)?;
            lift_decision(&mut value);
            self.add(self.engine.evaluate(&JsonEvent::borrow(&value)), &mut counts);
        }
        Ok(counts)
    }

    fn typed(&self, events: &[&[u8]]) -> serde_json::Result<Vec<usize>> {
        let mut counts = vec![0; self.places.len()];
        for event in events {
            let event: AuditEvent = serde_json::from_slice(event)?;
            self.add(self.engine.evaluate(&event), &mut counts);
        }
        Ok(counts)
    }

    fn add(&self, matches: Vec<EvaluationResult>, counts: &mut [usize]) {
        for found in matches {
            counts[self.places[&found.header.rule_title]] += 1;
        }
    }
}

/// Puts the authorizer's decision where a path finds it: its key has dots, which paths take for steps.
fn lift_decision(event: &mut Value) {
    let key = DECISION.trim_start_matches("annotations.");
    let decision = event.get_mut("annotations").and_then(|annotations| annotations.get_mut(key)).map(Value::take);
    if let (Some(decision), Some(fields)) = (decision, event.as_object_mut()) {
        fields.insert(DECISION.to_owned(), decision);
    }
}
