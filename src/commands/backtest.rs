//! `vedette backtest`: what rules would have found over a time that has passed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use chrono::{DateTime, NaiveDate, Utc};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use vedette_analytics::backtest::{Outcome, backtest};
use vedette_analytics::engine::Finding;
use vedette_detections::{Rule, Span, did_you_mean};

use super::{Common, components, print_all, printable};
use crate::config::ConfigError;

const AFTER: &str =
    "Runs over the events in the store, lake or ClickHouse, with the engine that runs on the stream: the findings
and their ids are those of the stream. Nothing is stored and nobody is told.

  vedette backtest secret_bulk_read --from 7d
  vedette backtest my-rules/new_rule.yaml --from 2026-03-01 --to 2026-03-08 --json

Exit codes: 0 success, with findings or without, 1 failure, 2 bad usage or configuration.";

#[derive(Args)]
#[command(after_help = AFTER)]
pub struct Backtest {
    /// Ids of configured rules, rule files, or folders of them
    #[arg(value_name = "RULE", required = true)]
    rules: Vec<String>,
    /// Since when: a time (2026-03-01T12:00:00Z), a day (2026-03-01), or how long ago (7d)
    #[arg(long, value_name = "WHEN", default_value = "1d", value_parser = moment)]
    from: i64,
    /// Until when [default: now]
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    to: Option<i64>,
    /// Prints each finding as a line of JSON, and nothing else
    #[arg(long)]
    json: bool,
    /// How many findings of a rule are printed
    #[arg(long, value_name = "N", default_value_t = 10)]
    show: usize,
    #[command(flatten)]
    common: Common,
}

impl Backtest {
    pub async fn run(self) -> anyhow::Result<()> {
        let config = self.common.load()?;
        super::start_log(&config)?;
        let configured = components::ruleset(&config)?;
        let rules = chosen(&configured.rules, &self.rules)?;
        let to = self.to.unwrap_or_else(|| Utc::now().timestamp_micros());
        if to <= self.from {
            return Err(ConfigError::Flag("--to: is not after --from".into()).into());
        }
        let store = components::store(&config).await?;
        for rule in rules {
            let id = rule.id.clone();
            let bar = ProgressBar::new(1_000).with_message(id.clone());
            bar.set_style(ProgressStyle::with_template("{msg} {wide_bar} {percent}% {elapsed}")?);
            let progress = |done: f64| bar.set_position((done * 1_000.0) as u64);
            let outcome = backtest(&store, &configured.lists, rule, (self.from, to), progress).await;
            bar.finish_and_clear();
            let outcome = outcome.with_context(|| format!("rule {id}"))?;
            let text = if self.json { lines(&outcome.findings)? } else { report(&outcome, to - self.from, self.show) };
            print_all(&printable(&text))?;
        }
        Ok(())
    }
}

/// The rules that are named: by id, by file or by folder.
fn chosen(configured: &[Rule], names: &[String]) -> anyhow::Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for name in names {
        if let Some(rule) = configured.iter().find(|rule| rule.id == *name) {
            rules.push(rule.clone());
            continue;
        }
        if !Path::new(name).exists() {
            let hint = did_you_mean(name, configured.iter().map(|rule| rule.id.as_str()));
            return Err(ConfigError::Flag(format!("there is no rule and no file {name}{hint}")).into());
        }
        match vedette_detections::load(Path::new(name)) {
            Ok(loaded) => rules.extend(loaded),
            Err(errors) => {
                let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
                return Err(ConfigError::Flag(lines.join("\n")).into());
            }
        }
    }
    Ok(rules)
}

/// Each finding as a line of JSON.
pub(super) fn lines(findings: &[Finding]) -> anyhow::Result<String> {
    let mut text = String::new();
    for row in vedette_analytics::pipeline::rows(findings)? {
        let _ = writeln!(text, "{}", serde_json::Value::Object(row));
    }
    Ok(text)
}

/// Whom or what a finding is about, in one respect.
type Entity = fn(&Finding) -> Option<&str>;

/// How many, how often, of whom, at what price, and the first of them.
fn report(outcome: &Outcome, span: i64, show: usize) -> String {
    let (findings, rule) = (&outcome.findings, &outcome.rule);
    let days = span as f64 / 86_400e6;
    let mut text = format!(
        "{}: {} findings, {:.1} a day, in {:.1} s\n",
        rule.id,
        findings.len(),
        findings.len() as f64 / days,
        outcome.took.as_secs_f64()
    );
    let entities: [(&str, Entity); 4] = [
        ("user", |f| f.user_name.as_deref()),
        ("address", |f| f.source_ip.as_deref()),
        ("namespace", |f| f.namespace.as_deref()),
        ("cluster", |f| Some(f.cluster.as_str())),
    ];
    for (name, get) in entities {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        findings.iter().filter_map(get).for_each(|value| *counts.entry(value).or_default() += 1);
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let top: Vec<String> = counts.iter().take(5).map(|(value, count)| format!("{value} ({count})")).collect();
        if !top.is_empty() {
            let _ = writeln!(text, "  by {name}: {}", top.join(", "));
        }
    }
    for finding in findings.iter().take(show) {
        let time = DateTime::from_timestamp_micros(finding.event_time).unwrap_or_default();
        let times = if finding.count > 1 { format!(" ({} times)", finding.count) } else { String::new() };
        let severity = finding.severity.name();
        let _ = writeln!(text, "  {} {severity}{times}: {}", time.format("%Y-%m-%dT%H:%M:%SZ"), finding.summary);
    }
    if findings.len() > show {
        let _ = writeln!(text, "  … and {} more", findings.len() - show);
    }
    text
}

/// A point in time, in microseconds since 1970.
pub(super) fn moment(text: &str) -> Result<i64, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.timestamp_micros());
    }
    if let Ok(day) = text.parse::<NaiveDate>() {
        return Ok(day.and_time(Default::default()).and_utc().timestamp_micros());
    }
    match text.parse::<Span>() {
        Ok(ago) => Ok(Utc::now().timestamp_micros() - ago.micros()),
        Err(_) => Err("neither a time (2026-03-01T12:00:00Z), nor a day (2026-03-01), nor how long ago (7d)".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        assert_eq!(moment("1970-01-01T00:00:01Z").unwrap(), 1_000_000);
        assert_eq!(moment("1970-01-02").unwrap(), 86_400_000_000);
        let ago = Utc::now().timestamp_micros() - moment("2h").unwrap();
        assert!((7_199_000_000..7_201_000_000).contains(&ago));
        assert!(moment("yesterday").unwrap_err().contains("how long ago"));
    }
}
