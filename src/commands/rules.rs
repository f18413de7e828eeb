//! `vedette rules`: which rules run, and how.

use std::fmt::Write;

use anyhow::Context;
use clap::{Args, Subcommand};
use vedette_analytics::engine::{Engine, Tables};
use vedette_benches::Generator;
use vedette_detections::{Rule, did_you_mean};
use vedette_schemas::{AuditDecoder, derive};

use super::{Common, components, print_all};
use crate::config::ConfigError;

/// Events that a rule's cost is measured on, and their batches.
const EVENTS: usize = 32_768;
const BATCH: usize = 8_192;

/// What becomes of a service while its files are wrong.
const KEPT: &str = "these rules can't be used; a service that runs keeps the last that could";

#[derive(Args)]
pub struct Rules {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand)]
enum Verb {
    /// How a rule runs: its conditions in the order in which they are asked, and its share of the cost of all rules
    Explain {
        /// The rule's id
        id: String,
    },
}

impl Rules {
    pub async fn run(self) -> anyhow::Result<()> {
        let config = self.common.load()?;
        super::start_log(&config)?;
        let set = components::ruleset(&config).context(KEPT)?;
        // What can be read may not plan.
        let engine = components::engine(&set).await.context(KEPT)?;
        match self.verb {
            None => print_all(&list(&set.rules)),
            Some(Verb::Explain { id }) => print_all(&explain(&set.rules, engine, &id).await?),
        }
    }
}

fn list(rules: &[Rule]) -> String {
    let mut text = String::new();
    for rule in rules {
        let (kind, severity) = (rule.kind.name(), rule.severity.name());
        let _ = writeln!(text, "{:<36} {kind:<10} {severity:<9} {}", rule.id, rule.title);
    }
    let _ = writeln!(text, "{} rules", rules.len());
    text
}

async fn explain(rules: &[Rule], mut engine: Engine, id: &str) -> anyhow::Result<String> {
    let Some(rule) = rules.iter().find(|rule| rule.id == id).cloned() else {
        let hint = did_you_mean(id, rules.iter().map(|rule| rule.id.as_str()));
        return Err(ConfigError::Flag(format!("there is no rule {id}{hint}")).into());
    };
    let mut text = format!("{} ({}): {}\n", rule.id, rule.kind.name(), rule.title);
    for line in engine.explain(id) {
        let _ = writeln!(text, "{line}");
    }
    if let Some(schedule) = &rule.schedule {
        let _ = writeln!(text, "runs over the store, at {schedule}");
        return Ok(text);
    }
    let mut generator = Generator::new(1);
    for _ in 0..EVENTS / BATCH {
        engine.evaluate(&batch(&mut generator)?, generator.now()).await;
    }
    let costs = engine.costs();
    let all: f64 = costs.iter().map(|cost| cost.spent.as_secs_f64()).sum();
    let own = costs.iter().find(|cost| cost.rule == id).map_or(0.0, |cost| cost.spent.as_secs_f64());
    let nanos = own * 1e9 / EVENTS as f64;
    let _ = writeln!(
        text,
        "costs {nanos:.0} ns an event, {:.1} % of what {} rules cost, over {EVENTS} generated audit events",
        own / all * 100.0,
        costs.len()
    );
    Ok(text)
}

fn batch(generator: &mut Generator) -> anyhow::Result<Tables> {
    let mut decoder = AuditDecoder::with_capacity(BATCH);
    let mut event = String::new();
    for _ in 0..BATCH {
        event.clear();
        generator.event(&mut event);
        decoder.push("generated", generator.now(), event.as_bytes())?;
    }
    Ok(derive::tables(decoder.finish()))
}
