//! `vedette check`: rules read, linted, and their cases run through the engine that runs in production.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use clap::Args;
use serde_json::{Map, Value};
use vedette_analytics::engine::check::{self, CaseOutcome};
use vedette_detections::{Lists, LoadError, Rule, Ruleset};

use super::{Common, ExitReason, print_all, printable};

const AFTER: &str = "Exit codes: 0 every rule is well, 1 failure, 2 bad usage, 3 a rule can't be read, fails its lint, or fails a case.";

#[derive(Args)]
#[command(after_help = AFTER)]
pub struct Check {
    /// Rule files, or folders of them [default: all that is configured: built-in rules, detections.paths and the overlay]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// An overlay folder, as detections.overlay names it
    #[arg(long, value_name = "DIR")]
    overlay: Option<PathBuf>,
    /// Names every rule and case, not only those that fail
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    common: Common,
}

/// What was looked at, and what is wrong with it.
#[derive(Default)]
struct Tally {
    rules: usize,
    cases: usize,
    problems: usize,
}

impl Check {
    pub async fn run(self) -> anyhow::Result<()> {
        let mut tally = Tally::default();
        let set = self.load(&mut tally)?;
        let notes: String = set.notes.iter().map(|note| format!("note: {note}\n")).collect();
        print_all(&printable(&notes))?;
        for rule in &set.rules {
            tally.rules += 1;
            let text = report(rule, &set.lists, self.verbose, &mut tally).await;
            print_all(&printable(&text))?;
        }
        print_all(&format!("{} rules, {} cases, {} problems\n", tally.rules, tally.cases, tally.problems))?;
        if tally.problems > 0 {
            bail!(ExitReason::CheckFailed);
        }
        Ok(())
    }

    /// The rules that can be read; what can't be are problems.
    fn load(&self, tally: &mut Tally) -> anyhow::Result<Ruleset> {
        let mut detections = self.common.clone().load()?.detections;
        detections.overlay = self.overlay.clone().or(detections.overlay);
        let mut tell = |errors: Vec<LoadError>| {
            tally.problems += errors.len();
            let text: String = errors.iter().map(|error| format!("{error}\n")).collect();
            print_all(&printable(&text))
        };
        if self.paths.is_empty() {
            return match detections.load() {
                Ok(set) => Ok(set),
                Err(errors) => tell(errors).map(|()| Ruleset::default()),
            };
        }
        let mut set = Ruleset::default();
        match detections.lists() {
            Ok(lists) => set.lists = lists,
            Err(errors) => tell(errors)?,
        }
        for path in &self.paths {
            match vedette_detections::load(path) {
                Ok(loaded) => set.rules.extend(loaded),
                Err(errors) => tell(errors)?,
            }
        }
        Ok(set)
    }
}

/// A rule's problems in words; empty if it is well and `verbose` is off.
async fn report(rule: &Rule, lists: &Arc<Lists>, verbose: bool, tally: &mut Tally) -> String {
    let mut text = String::new();
    for problem in vedette_detections::lint(rule, lists) {
        tally.problems += 1;
        let _ = writeln!(text, "{}: {}", rule.id, problem.message);
    }
    let outcomes = match check::run(rule, lists).await {
        Ok(outcomes) => {
            for line in check::advice(rule, lists).await.unwrap_or_default() {
                tally.problems += 1;
                let _ = writeln!(text, "{}: {line}", rule.id);
            }
            outcomes
        }
        Err(error) => {
            tally.problems += 1;
            let _ = writeln!(text, "{}: {error}", rule.id);
            return text;
        }
    };
    for outcome in outcomes {
        tally.cases += 1;
        match failure(&outcome) {
            Some(reason) => {
                tally.problems += 1;
                let _ = writeln!(text, "{}: case {:?} fails\n{reason}", rule.id, outcome.case);
            }
            None if verbose => drop(writeln!(text, "{}: case {:?} is well", rule.id, outcome.case)),
            None => {}
        }
    }
    text
}

/// Why a case fails, if it does.
fn failure(outcome: &CaseOutcome) -> Option<String> {
    if outcome.passed() {
        return None;
    }
    Some(match &outcome.error {
        Some(error) => format!("  {error}\n"),
        None => diff(&outcome.expected, &outcome.found),
    })
}

/// Rows side by side, in order: what was expected with `-`, what came with `+`, and only the columns that differ.
fn diff(expected: &[Map<String, Value>], actual: &[Map<String, Value>]) -> String {
    let mut text = String::new();
    for row in 0..expected.len().max(actual.len()) {
        let (expected, actual) = (expected.get(row), actual.get(row));
        match (expected, actual) {
            (Some(expected), Some(actual)) => {
                // A case names the columns it cares about.
                let differing: BTreeSet<_> =
                    expected.keys().filter(|key| expected.get(*key) != actual.get(*key)).collect();
                for key in differing {
                    let _ = writeln!(text, "  row {row} - {key}: {}", shown(expected.get(key)));
                    let _ = writeln!(text, "  row {row} + {key}: {}", shown(actual.get(key)));
                }
            }
            (Some(expected), None) => {
                let _ = writeln!(text, "  row {row} - {} is missing", Value::Object(expected.clone()));
            }
            (None, Some(actual)) => {
                let _ = writeln!(text, "  row {row} + {} is too many", Value::Object(actual.clone()));
            }
            (None, None) => {}
        }
    }
    text
}

fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "(no such column)".to_owned(), Value::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(json: Value) -> Vec<Map<String, Value>> {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_diff_names_what_differs_and_nothing_else() {
        let expected = rows(serde_json::json!([{"user_name": "eve", "verb": "get", "gone": 1}, {"user_name": "bob"}]));
        let actual = rows(serde_json::json!([{"user_name": "mallory", "verb": "get", "other": 2}]));
        let text = diff(&expected, &actual);
        assert_eq!(
            text,
            "  row 0 - gone: 1\n  row 0 + gone: (no such column)\n  row 0 - user_name: \"eve\"\n  row 0 + user_name: \"mallory\"\n  row 1 - {\"user_name\":\"bob\"} is missing\n"
        );
        assert!(diff(&actual, &actual).is_empty());
        assert!(diff(&[], &actual).contains("too many"));
    }
}
