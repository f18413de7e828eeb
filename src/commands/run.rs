//! `vedette run`: a scheduled rule, once, for whoever has a scheduler of their own.

use std::fmt::Write;
use std::sync::Arc;

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::Args;
use vedette_analytics::engine::Finding;
use vedette_analytics::scheduler::{Run as Ran, Runner};
use vedette_detections::{Rule, RuleKind, Schedule, did_you_mean};
use vedette_journal::{Journal, JournalError};

use super::backtest::{lines, moment};
use super::{Common, ExitReason, components, print_all, printable};
use crate::config::{Config, ConfigError, StoreKind};

const AFTER: &str =
    "Runs the rule for its newest period that is over, as `vedette serve` and `vedette analytics` do by the clock: findings go
to the alert topic and the store, and the run into the table runs. What was found before is not told again, so that it is
safe to repeat. With the embedded journal nothing else may run on the data folder.

  vedette run cluster_admin_activity --json
  vedette run cluster_admin_activity --at 2026-03-01

Exit codes: 0 it ran, with findings or without, 1 failure, 2 bad usage or configuration, 4 with --exit-code: it ran, and
has findings that were not known.";

#[derive(Args)]
#[command(after_help = AFTER)]
pub struct Run {
    /// Id of a configured rule of kind scheduled
    #[arg(value_name = "RULE")]
    rule: String,
    /// The newest period that was over then: a time (2026-03-01T12:00:00Z), a day (2026-03-01), or how long ago (7d)
    /// [default: now]
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    at: Option<i64>,
    /// Prints each new finding as a line of JSON, and nothing else
    #[arg(long)]
    json: bool,
    /// Exits with 4 if there are findings that were not known
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    common: Common,
}

impl Run {
    pub async fn run(self) -> anyhow::Result<()> {
        let config = self.common.load()?;
        super::start_log(&config)?;
        let ruleset = components::ruleset(&config)?;
        let rule = scheduled(&ruleset.rules, &self.rule)?;
        let now = Utc::now().timestamp_micros();
        let period = period(rule, self.at.unwrap_or(now), now)?;
        if config.store.kind == StoreKind::Lake && config.store.lake.is_missing() {
            anyhow::bail!("{}: no lake is there; --data names the folder of `vedette serve`", config.store.lake.url);
        }
        let journal = journal(&config).await?;
        let store = components::store(&config).await?;
        store.migrate().await.context("can't migrate the store")?;
        let ran = Runner::new(journal, store, None).run(rule, &ruleset.lists, period, now).await;
        let (run, new) = ran.with_context(|| format!("rule {}", rule.id))?;
        if let Some(error) = run.error {
            anyhow::bail!("rule {}: {error}", rule.id);
        }
        let text = if self.json { lines(&new)? } else { report(&run, &new) };
        print_all(&printable(&text))?;
        if self.exit_code && !new.is_empty() {
            return Err(ExitReason::Found.into());
        }
        Ok(())
    }
}

/// The rule of that id, which must be one that runs by a schedule.
fn scheduled<'a>(rules: &'a [Rule], id: &str) -> Result<&'a Rule, ConfigError> {
    let Some(rule) = rules.iter().find(|rule| rule.id == id) else {
        let hint = did_you_mean(id, rules.iter().map(|rule| rule.id.as_str()));
        return Err(ConfigError::Flag(format!("there is no rule {id}{hint}")));
    };
    match rule.kind {
        RuleKind::Scheduled => Ok(rule),
        kind => Err(ConfigError::Flag(format!(
            "rule {id} is of kind {}, and runs on the stream; `vedette backtest {id}` runs it over what is stored",
            kind.name()
        ))),
    }
}

/// The rule's newest period that was over at a time. Microseconds since 1970.
fn period(rule: &Rule, at: i64, now: i64) -> Result<(i64, i64), ConfigError> {
    if at > now {
        return Err(ConfigError::Flag("--at: is in the future".into()));
    }
    let wrong = |reason: String| ConfigError::Flag(format!("rule {}: schedule: {reason}", rule.id));
    let schedule: Schedule = rule.schedule.as_deref().unwrap_or_default().parse().map_err(wrong)?;
    schedule.newest(at).ok_or_else(|| wrong("it never falls due".into()))
}

async fn journal(config: &Config) -> anyhow::Result<Arc<dyn Journal>> {
    components::journal(config).await.map_err(|error| {
        let locked = |cause: &(dyn std::error::Error + 'static)| {
            matches!(cause.downcast_ref(), Some(JournalError::Locked { .. }))
        };
        match error.chain().any(locked) {
            true => error.context("the data folder is in use: `vedette serve` runs scheduled rules itself"),
            false => error,
        }
    })
}

/// A line a finding, and one about the run.
fn report(run: &Ran, new: &[Finding]) -> String {
    let time = |micros| DateTime::from_timestamp_micros(micros).unwrap_or_default().format("%Y-%m-%dT%H:%M:%SZ");
    let mut text = String::new();
    for finding in new {
        let (at, severity) = (time(finding.event_time), finding.severity.name());
        let _ = writeln!(text, "{at} {severity}: {}", finding.summary);
    }
    let _ = writeln!(
        text,
        "{}: {} findings, {} of them new, from {} to {}",
        run.rule_id,
        run.findings,
        run.new_findings,
        time(run.period_start),
        time(run.period_end)
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_period_that_is_over_runs() {
        let rules = vedette_detections::builtin().unwrap();
        let rule = scheduled(&rules, "cluster_admin_activity").unwrap();
        let time = |text: &str| moment(text).unwrap();
        for (at, end) in [
            ("2026-01-03T05:59:59Z", "2026-01-02T06:00:00Z"),
            ("2026-01-03T06:00:00Z", "2026-01-03T06:00:00Z"),
            ("2026-01-03T07:00:00Z", "2026-01-03T06:00:00Z"),
        ] {
            let found = period(rule, time(at), time("2026-02-01")).unwrap();
            assert_eq!(found, (time(end) - 86_400_000_000, time(end)), "{at}");
        }
        assert!(period(rule, time("2026-01-02"), time("2026-01-01")).unwrap_err().to_string().contains("--at"));
        let error = scheduled(&rules, "cluster_admin_activit").unwrap_err().to_string();
        assert!(error.contains("did you mean cluster_admin_activity"), "{error}");
    }
}
