//! `vedette check`: rules read, linted, and their cases run through the engine that runs in production.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use clap::Args;
use serde_json::{Map, Value};
use vedette_analytics::engine::check::{self, CaseOutcome};
use vedette_detections::{Lists, LoadError, Problem, Rule, Unfit, place};

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

/// The rules to look at, each as its file has it and as it runs, with the overlay's exceptions and overrides.
struct Checked {
    rules: Vec<(Rule, Rule)>,
    lists: Arc<Lists>,
    notes: Vec<String>,
}

impl Check {
    pub async fn run(self) -> anyhow::Result<()> {
        let mut tally = Tally::default();
        let Checked { rules, lists, notes } = self.load(&mut tally)?;
        let notes: String = notes.iter().map(|note| format!("note: {note}\n")).collect();
        print_all(&printable(&notes))?;
        for (written, runs) in &rules {
            tally.rules += 1;
            let text = report(written, runs, &lists, self.verbose, &mut tally).await;
            print_all(&printable(&text))?;
        }
        print_all(&format!("{} rules, {} cases, {} problems\n", tally.rules, tally.cases, tally.problems))?;
        if tally.problems > 0 {
            bail!(ExitReason::CheckFailed);
        }
        Ok(())
    }

    /// The rules that can be read; what can't be are problems.
    fn load(&self, tally: &mut Tally) -> anyhow::Result<Checked> {
        let mut detections = self.common.clone().load()?.detections;
        detections.overlay = self.overlay.clone().or(detections.overlay);
        // What is named and configured is read twice.
        let mut said = BTreeSet::new();
        let mut tell = |errors: Vec<LoadError>| {
            let lines = errors.iter().map(|error| format!("{error}\n"));
            let new: Vec<String> = lines.filter(|line| said.insert(line.clone())).collect();
            tally.problems += new.len();
            print_all(&printable(&new.concat()))
        };
        let mut named: Vec<Rule> = Vec::new();
        for path in &self.paths {
            match vedette_detections::load(path) {
                Ok(loaded) => named.extend(loaded),
                Err(errors) => tell(errors)?,
            }
        }
        // A file that is named twice is one.
        let mut files = BTreeSet::new();
        named.retain(|rule| files.insert(rule.file.clone()));
        let mut all = Unfit::default();
        if self.paths.is_empty() || detections.overlay.is_some() {
            match detections.load_unfit(named.clone()) {
                Ok(loaded) => all = loaded,
                Err(errors) => {
                    tell(errors)?;
                    all.set.lists = detections.lists().unwrap_or_default();
                }
            }
        }
        let Unfit { written, set } = all;
        let find = |rules: &[Rule], rule: &Rule| rules.iter().find(|other| other.id == rule.id).cloned();
        let rules = match self.paths.is_empty() {
            true => set.rules.iter().filter_map(|runs| Some((find(&written, runs)?, runs.clone()))).collect(),
            false => named.into_iter().map(|rule| (rule.clone(), find(&set.rules, &rule).unwrap_or(rule))).collect(),
        };
        Ok(Checked { rules, lists: set.lists, notes: set.notes })
    }
}

/// A rule's problems in words; empty if it is well and `verbose` is off. Its cases prove what its file says, whatever exceptions
/// and overrides make of it.
async fn report(written: &Rule, runs: &Rule, lists: &Arc<Lists>, verbose: bool, tally: &mut Tally) -> String {
    let mut text = String::new();
    let mut faulty = false;
    for Problem { message, fault, .. } in vedette_detections::lint(runs, lists) {
        faulty |= fault;
        tally.problems += 1;
        let _ = writeln!(text, "{}: {message}", place(runs, &message));
    }
    let (advice, outcomes) = match (check::advice(runs, lists).await, check::run(written, lists).await) {
        (Ok(advice), Ok(outcomes)) => (advice, outcomes),
        // The lint has said why it does not plan.
        (Err(_), _) | (_, Err(_)) if faulty => return text,
        (Err(error), _) | (_, Err(error)) => {
            tally.problems += 1;
            let _ = writeln!(text, "{error}");
            return text;
        }
    };
    for line in advice {
        tally.problems += 1;
        let _ = writeln!(text, "{}: {line}", place(runs, &line));
    }
    for outcome in outcomes {
        tally.cases += 1;
        match failure(&outcome) {
            Some(reason) => {
                tally.problems += 1;
                let _ = writeln!(text, "{}: case {:?} fails\n{reason}", place(written, "tests"), outcome.case);
            }
            None if verbose => drop(writeln!(text, "{}: case {:?} is well", written.id, outcome.case)),
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
