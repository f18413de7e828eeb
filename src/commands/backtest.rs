//! `vedette backtest`: what rules would have found over a time that has passed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use chrono::{DateTime, NaiveDate, Utc};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use vedette_analytics::backtest::{Outcome, backtest};
use vedette_analytics::engine::Finding;
use vedette_detections::overlay::Overlay;
use vedette_detections::{Config as Detections, LoadError, Rule, Span, did_you_mean};

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
    /// An overlay folder, as detections.overlay names it: its exceptions and overrides hold for rules from files, too
    #[arg(long, value_name = "DIR")]
    overlay: Option<PathBuf>,
    /// How many findings of a rule are printed
    #[arg(long, value_name = "N", default_value_t = 10)]
    show: usize,
    #[command(flatten)]
    common: Common,
}

impl Backtest {
    pub async fn run(self) -> anyhow::Result<()> {
        let mut config = self.common.load()?;
        config.detections.overlay = self.overlay.or(config.detections.overlay);
        super::start_log(&config)?;
        let configured = components::ruleset(&config)?;
        let rules = chosen(&config.detections, &configured.rules, &self.rules)?;
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
fn chosen(detections: &Detections, configured: &[Rule], names: &[String]) -> anyhow::Result<Vec<Rule>> {
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
        let loaded = vedette_detections::load(Path::new(name));
        let read = loaded.and_then(|loaded| as_configured(detections, loaded)).map_err(|errors| {
            let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
            ConfigError::Flag(lines.join("\n"))
        })?;
        if read.is_empty() {
            return Err(ConfigError::Flag(format!("{name}: the overlay switches off every rule in it")).into());
        }
        rules.extend(read);
    }
    Ok(rules)
}

/// Rules from files as they run, or would run if they were configured: in place of those with the same ids, and with what the
/// overlay says of them.
fn as_configured(detections: &Detections, loaded: Vec<Rule>) -> Result<Vec<Rule>, Vec<LoadError>> {
    let Some(folder) = &detections.overlay else { return Ok(loaded) };
    let overlay = Overlay::load(folder)?;
    let ids: Vec<String> = loaded.iter().map(|rule| rule.id.clone()).collect();
    let named = |rule: &Rule| ids.contains(&rule.id);
    let without = Detections { overlay: None, disabled: Vec::new(), ..detections.clone() };
    let others = without.load()?.rules.into_iter().chain(overlay.rules.clone()).filter(|rule| !named(rule));
    let rules = loaded.into_iter().chain(others).collect();
    Ok(overlay.apply(rules, &detections.disabled)?.rules.into_iter().filter(named).collect())
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
    fn what_the_overlay_says_of_a_rule_holds_for_its_file_too() {
        const OWN: &str = "{id: own, title: t, description: d, severity: low, summary: s,
            sql: \"SELECT cluster, event_id, event_time FROM audit WHERE verb = 'get'\"}";
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let own = write("overlay/rules/own.yaml", OWN);
        // A rule under way, which is to take the place of the one that is configured.
        let edited = write("edited/own.yaml", &OWN.replace("'get'", "'list'"));
        let other = write("other.yaml", &OWN.replace("own", "other"));
        write("overlay/exceptions/a.yaml", "[{rule: own, where: user_name = 'ann', reason: r, expires: never}]");
        write("overlay/overrides.yaml", "{own: {severity: high}, secret_read: {severity: low}}");
        let overlay = Some(folder.path().join("overlay"));
        let detections = Detections { overlay, ..Detections::default() };
        let configured = detections.load().unwrap().rules;
        let names = ["own".to_owned(), own, edited, other];
        let rules = chosen(&detections, &configured, &names).unwrap();
        assert_eq!(rules[0], rules[1]);
        let has = |rule: &Rule, text: &str| rule.sql.contains(text);
        assert!(has(&rules[0], "'get'") && has(&rules[2], "'list'"));
        assert!(rules[..3].iter().all(|rule| has(rule, "'ann'") && rule.severity.name() == "high"), "{rules:?}");
        assert!(!has(&rules[3], "'ann'") && rules[3].severity.name() == "low");
        write("overlay/overrides.yaml", "{own: {enabled: false}}");
        let error = chosen(&detections, &configured, &names[1..2]).unwrap_err().to_string();
        assert!(error.contains("switches off"), "{error}");
    }

    #[test]
    fn moments() {
        assert_eq!(moment("1970-01-01T00:00:01Z").unwrap(), 1_000_000);
        assert_eq!(moment("1970-01-02").unwrap(), 86_400_000_000);
        let ago = Utc::now().timestamp_micros() - moment("2h").unwrap();
        assert!((7_199_000_000..7_201_000_000).contains(&ago));
        assert!(moment("yesterday").unwrap_err().contains("how long ago"));
    }
}
