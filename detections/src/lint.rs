//! What is wrong with a rule before any event reaches it: its form, its SQL, its words and its tests.

use std::sync::{Arc, LazyLock};

use regex::Regex;

use crate::event::case_events;
use crate::lists::Lists;
use crate::rule::{Rule, RuleKind};

mod attack;
mod condition;
mod kind;
mod never;
mod scan;
mod sql;
mod stage;
mod words;

use sql::Form;

pub use sql::columns_selected;

/// One thing wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {message}")]
pub struct Problem {
    pub rule: String,
    pub message: String,
    /// Whether findings would be wrong or lost. The rest is advice: what a rule costs, its words and its tests.
    pub fault: bool,
}

/// All that is wrong with a rule; nothing if it is fit to run. `lists` are those that its SQL may name.
pub fn lint(rule: &Rule, lists: &Arc<Lists>) -> Vec<Problem> {
    let (mut faults, mut advice) = (Vec::new(), Vec::new());
    identity(rule, &mut advice);
    words(rule, &mut advice);
    let selected = form(rule, lists, &mut faults, &mut advice);
    tests(rule, selected.as_deref(), &mut advice);
    let problem = |fault| move |message| Problem { rule: rule.id.clone(), message, fault };
    faults.into_iter().map(problem(true)).chain(advice.into_iter().map(problem(false))).collect()
}

/// What of it makes findings wrong or loses them: nobody runs such a rule.
pub fn faults(rule: &Rule, lists: &Arc<Lists>) -> Vec<String> {
    let mut faults = Vec::new();
    form(rule, lists, &mut faults, &mut Vec::new());
    faults
}

/// The fields that say what is found. Returns the columns that findings have, if all SELECTs plan.
fn form(rule: &Rule, lists: &Arc<Lists>, faults: &mut Vec<String>, advice: &mut Vec<String>) -> Option<Vec<String>> {
    kind::fields(rule, faults);
    let selected = selects(rule, lists, faults, advice)?;
    summary(rule, &selected, faults);
    Some(selected)
}

/// Examines each SELECT. Returns the columns that findings have, if all of them plan.
fn selects(rule: &Rule, lists: &Arc<Lists>, faults: &mut Vec<String>, advice: &mut Vec<String>) -> Option<Vec<String>> {
    let (mut outputs, mut schemas) = (Vec::new(), Vec::new());
    let mut complete = true;
    for (field, text) in rule.selects() {
        match sql::examine(text, Form::of(rule), lists) {
            Ok(examined) => {
                faults.extend(examined.problems.iter().map(|problem| format!("{field}: {problem}")));
                advice.extend(examined.advice.iter().map(|problem| format!("{field}: {problem}")));
                kind::columns(rule, &field, &examined.selected, faults);
                outputs.push(examined.selected);
                schemas.push(examined.schema);
            }
            Err(reason) => {
                faults.push(format!("{field}: {reason}"));
                complete = false;
            }
        }
    }
    if !complete {
        return None;
    }
    let problems = match kind::unknown_in_condition(rule, &outputs) {
        Some(reason) => vec![reason],
        None => condition::problems(rule, &schemas, lists),
    };
    faults.extend(problems.into_iter().map(|problem| format!("where: {problem}")));
    if rule.kind == RuleKind::Sequence {
        faults.extend(kind::twice(rule, &outputs));
    }
    Some(kind::output(rule, &outputs))
}

fn identity(rule: &Rule, messages: &mut Vec<String>) {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if rule.id.is_empty() || !rule.id.chars().all(plain) {
        messages.push("id: lower-case letters, digits and _ only".into());
    }
    let stem = rule.file.as_ref().and_then(|file| file.file_stem()).map(|stem| stem.to_string_lossy());
    if let Some(stem) = stem.filter(|stem| *stem != rule.id) {
        messages.push(format!("id: the file is {stem}.yaml, so the id is {stem}, not {}", rule.id));
    }
    if rule.version < 1 {
        messages.push("version: starts at 1".into());
    }
}

fn words(rule: &Rule, messages: &mut Vec<String>) {
    static CHECKLIST: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^[A-Z]+-\d{2}$").ok());
    let shaped = |shape: &Option<Regex>, id: &str| shape.as_ref().is_none_or(|shape| shape.is_match(id));
    for (field, text) in [("title", &rule.title), ("description", &rule.description), ("summary", &rule.summary)] {
        if text.trim().is_empty() {
            messages.push(format!("{field}: empty"));
        }
    }
    if rule.response.is_empty() {
        messages.push("response: whoever is woken needs at least one step".into());
    }
    messages
        .extend(rule.attack.iter().filter_map(|id| attack::problem(id)).map(|problem| format!("attack: {problem}")));
    for id in rule.checklist.iter().filter(|id| !shaped(&CHECKLIST, id)) {
        messages.push(format!("checklist: {id} is not an id such as SEC-01"));
    }
    for link in rule.references.iter().filter(|link| !link.starts_with("https://")) {
        messages.push(format!("references: {link} is not an https:// link"));
    }
}

fn tests(rule: &Rule, selected: Option<&[String]>, messages: &mut Vec<String>) {
    if !rule.tests.iter().any(|test| !test.expect.is_empty()) {
        messages.push("tests: none that expects a finding".into());
    }
    if !rule.tests.iter().any(|test| test.expect.is_empty()) {
        messages.push("tests: none that expects quiet".into());
    }
    for test in &rule.tests {
        if test.events.is_empty() || test.events.iter().any(|event| event.times == Some(0)) {
            messages.push(format!("tests: {}: no events", test.name));
        }
        for event in &test.events {
            if !matches!(event.source.as_str(), "audit" | "falco") {
                messages.push(format!("tests: {}: source {} is neither audit nor falco", test.name, event.source));
            }
        }
        if let Err(error) = case_events(test, rule) {
            messages.push(format!("tests: {}: {error}", test.name));
        }
        let unknown = |name: &&String| selected.is_some_and(|selected| !selected.contains(name));
        for name in test.expect.iter().flat_map(|row| row.keys()).filter(unknown) {
            messages.push(format!("tests: {}: expects {name}, which the SQL does not select", test.name));
        }
    }
}

/// Names of columns in the summary must be selected ones.
fn summary(rule: &Rule, selected: &[String], messages: &mut Vec<String>) {
    if rule.summary.split('{').skip(1).any(|part| !part.contains('}')) {
        messages.push("summary: a { without its }".into());
    }
    for name in placeholders(&rule.summary).filter(|name| !selected.iter().any(|column| column == name)) {
        messages.push(format!("summary: {{{name}}} is not selected by the SQL"));
    }
}

fn placeholders(template: &str) -> impl Iterator<Item = &str> {
    template.split('{').skip(1).filter_map(|part| part.split_once('}').map(|(name, _)| name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
id: good
title: t
description: d
severity: low
attack: [T1552.007]
checklist: [SEC-01]
references: ['https://kubernetes.io/']
response: [look]
sql: SELECT cluster, event_id, event_time, user_name FROM audit WHERE stage = 'ResponseComplete' AND verb = 'get'
summary: '{user_name} did it'
tests:
  - {name: fires, events: [{base: secret_get}], expect: [{user_name: x}]}
  - {name: is quiet, events: [{base: secret_get, set: {verb: list}}]}
";

    /// The problems of the good rule with one text in it replaced.
    fn with(old: &str, new: &str) -> String {
        assert!(GOOD.contains(old), "{old}");
        let rule: Rule = serde_saphyr::from_str(&GOOD.replacen(old, new, 1)).unwrap();
        lint(&rule, &Arc::default()).iter().map(|p| p.message.as_str()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_good_rule_has_no_problem() {
        assert_eq!(with("id: good", "id: good"), "");
    }

    #[test]
    fn form_and_words_are_checked() {
        for (old, new, want) in [
            ("id: good", "id: Not-Good", "lower-case"),
            ("title: t", "title: ''", "title: empty"),
            ("T1552.007", "T1552.7", "T1552.7 is not a technique"),
            ("base: secret_get}]", "base: secret_get, times: 0}]", "fires: no events"),
            ("SEC-01", "sec1", "sec1 is not an id"),
            ("https://kubernetes.io/", "kubernetes.io", "not an https"),
            ("response: [look]", "response: []", "response:"),
            ("'{user_name} did it'", "'{user} did it'", "{user} is not selected"),
            ("'{user_name} did it'", "'{user_name did it'", "a { without its }"),
            ("'{user_name} did it'", "'{user_name did it to {user_name}'", "a { without its }"),
            ("expect: [{user_name: x}]", "expect: [{verb: x}]", "expects verb"),
            ("expect: [{user_name: x}]", "expect: []", "none that expects a finding"),
            ("set: {verb: list}}]", "set: {verb: list}}], expect: [{cluster: c}]", "none that expects quiet"),
            ("base: secret_get}", "base: secret_gone}", "no base event secret_gone"),
            ("base: secret_get}", "base: secret_get, source: syslog}", "neither audit nor falco"),
        ] {
            let problems = with(old, new);
            assert!(problems.contains(want), "{new}: {problems:?} has no {want:?}");
        }
    }

    #[test]
    fn the_id_is_the_files_name() {
        let mut rule: Rule = serde_saphyr::from_str(GOOD).unwrap();
        rule.file = Some("rules/area/good.yaml".into());
        assert_eq!(lint(&rule, &Arc::default()), []);
        rule.file = Some("rules/area/better.yaml".into());
        assert!(lint(&rule, &Arc::default())[0].to_string().contains("good: id: the file is better.yaml"));
    }

    #[test]
    fn sql_is_checked() {
        let select = "SELECT cluster, event_id, event_time, user_name FROM audit WHERE stage = 'ResponseComplete'";
        for (old, new, want) in [
            ("verb = 'get'", "verbb = 'get'", "verbb"),
            ("FROM audit", "FROM audits", "audits"),
            ("FROM audit", "FROM alerts", "alerts"),
            ("verb = 'get'", "starts_wiht(verb, 'get')", "starts_wiht"),
            ("event_id, ", "", "does not select event_id"),
            ("event_time, ", "", "does not select event_time"),
            ("stage = 'ResponseComplete' AND ", "", "no condition on stage"),
            ("stage = 'ResponseComplete'", "stage <> 'RequestReceived'", "may both meet it"),
            ("stage = 'ResponseComplete'", "stage IN ('ResponseStarted', 'ResponseComplete')", "may both meet it"),
            ("stage = 'ResponseComplete'", "stage IS NOT NULL", "may both meet it"),
            ("stage = 'ResponseComplete'", "stage LIKE 'Response%'", "may both meet it"),
            ("stage = 'ResponseComplete'", "(stage = 'ResponseComplete' OR subresource = 'exec')", "may both meet it"),
            ("stage = 'ResponseComplete' AND verb = 'get'", "verb = 'get' OR stage = 'Panic'", "may both meet it"),
            (
                "stage = 'ResponseComplete'",
                "stage = CASE WHEN response_code = 200 THEN 'ResponseStarted' ELSE stage END",
                "may both meet it",
            ),
            ("'ResponseComplete'", "'ResponseCompleted'", "no stage ResponseCompleted; did you mean ResponseComplete?"),
            ("'ResponseComplete'", "CASE WHEN verb = 'get' THEN 'Response' ELSE 'Panic' END", "no stage Response;"),
            ("verb = 'get'", "verb = 'exec'", "no API server writes exec; events have subresource = 'exec'"),
            ("verb = 'get'", "verb IN ('get', 'replace')", "no API server writes replace; events have verb = 'update'"),
            ("verb = 'get'", "verb <> 'deleet'", "no API server writes deleet; did you mean delete"),
            ("verb = 'get'", "level = 'Requests'", "level: no API server writes Requests; did you mean Request"),
            ("verb = 'get'", "decision = 'deny'", "decision: no API server writes deny"),
            ("cluster, event_id,", "'x' AS cluster, event_id,", "as cluster, which is not the event's"),
            ("event_id,", "'x' AS event_id,", "as event_id, which is not the event's"),
            ("event_id,", "audit_id AS event_id,", "as event_id, which is not the event's"),
            ("event_time,", "'x' AS event_time,", "as event_time, which is not the event's"),
            ("event_time,", "day AS event_time,", "as event_time, which is not the event's"),
            ("AND verb", "AND now() > event_time AND verb", "now"),
            (select, "DELETE FROM audit WHERE stage = 'Panic'", "SELECT"),
            ("verb = 'get'", "event_id IN (SELECT event_id FROM falco)", "one table"),
            ("verb = 'get'", "verb = 'get' LIMIT 3", "selects rows that meet"),
            ("SELECT cluster", "SELECT DISTINCT cluster", "selects rows that meet"),
            ("FROM audit", "FROM role_rules", "rule_index"),
            ("verb = 'get'", "verb = 'get'; SELECT 1", "one statement"),
            ("verb = 'get'", "verb = 'get' AND 1 > 2", "never be true"),
            ("verb = 'get'", "verb = 'get' AND verb IN ('list', 'watch')", "never be true"),
            ("verb = 'get'", "verb = 'get' AND verb IS NULL", "never be true"),
            ("verb = 'get'", "verb <> 'get' AND verb IS NULL", "never be true"),
            ("verb = 'get'", "verb = NULL", "never be true"),
            ("verb = 'get'", "(verb = 'get' AND verb = 'list' OR name = 'x' AND name = 'y')", "never be true"),
            ("verb = 'get'", "response_code > 400 AND response_code < 300", "never be true"),
            ("verb = 'get'", "response_code BETWEEN 400 AND 403 AND response_code = 404", "never be true"),
            ("verb = 'get'", "verb = 'get' AND verb NOT IN ('get', 'list')", "never be true"),
            ("verb = 'get'", "verb = 'get' AND NOT verb = 'get'", "never be true"),
            ("verb = 'get'", "name IN ('a', 'b') AND NOT name IN ('a', 'b', 'c')", "never be true"),
            ("verb = 'get'", "name IS NULL AND name IS NOT NULL", "never be true"),
            ("verb = 'get'", "name IS NULL AND name LIKE 'a%'", "never be true"),
            ("verb = 'get'", "name = 'secrets' AND name LIKE 'pod%'", "never be true"),
            ("verb = 'get'", "name IN ('pods', 'podx') AND name NOT LIKE 'pod_'", "never be true"),
            ("verb = 'get'", "user_kind(user_name) = 'Human'", "never be true"),
            ("verb = 'get'", "lower(name) = 'a' AND lower(name) = 'b'", "never be true"),
            ("verb = 'get'", "event_time > received_at AND received_at >= event_time", "never be true"),
            ("verb = 'get'", "name <> name", "never be true"),
        ] {
            let problems = with(old, new);
            assert!(problems.contains(want), "{new}: {problems:?} has no {want:?}");
        }
    }

    #[test]
    fn a_group_has_rows() {
        let window = |having: &str| {
            let select = "SELECT cluster, user_name, count(*) AS n, count(DISTINCT name) AS names FROM audit";
            let sql = format!(
                "sql: {select} WHERE stage = 'ResponseComplete' AND verb = 'get' GROUP BY cluster, user_name HAVING {having}"
            );
            let good = GOOD.lines().find(|line| line.starts_with("sql: ")).unwrap();
            with(good, &format!("kind: window\nwindow: 1h\ngroup_by: [cluster, user_name]\n{sql}"))
        };
        for having in ["count(*) < 1", "n = 0", "names < 0", "count(name) = -1", "n > 9 AND n < 3"] {
            assert!(window(having).contains("never be true"), "{having}: {:?}", window(having));
        }
        for having in ["count(*) < 2", "names = 0", "count(name) <= 0 AND n > 3"] {
            assert!(!window(having).contains("never be true"), "{having}: {:?}", window(having));
        }
    }

    #[test]
    fn a_sequences_condition_is_planned() {
        let select = "SELECT cluster, event_id, event_time, user_name FROM audit WHERE stage = 'ResponseComplete'";
        let steps = format!("[{{name: a, sql: \"{select}\"}}, {{name: b, sql: \"{select}\"}}]");
        let sql = GOOD.lines().find(|line| line.starts_with("sql: ")).unwrap();
        let check = |condition: &str, want: &str| {
            let sequence =
                format!("kind: sequence\nwindow: 1h\ngroup_by: [cluster]\nsteps: {steps}\nwhere: {condition}");
            let problems = with(sql, &sequence);
            assert!(problems.starts_with(want) && problems.is_empty() == want.is_empty(), "{condition}: {problems:?}");
        };
        for (condition, want) in [
            ("a.user_name <> b.user_name", ""),
            ("a.user_name", "where: "),
            ("a.user_name = 1 + 'x'", "where: "),
            ("no_such_function(a.user_name)", "where: "),
            ("a.event_time < now()", "where: now() depends on when it runs"),
            ("a.user_name = b.user_name AND 1 = 2", "where: can never be true"),
        ] {
            check(condition, want);
        }
    }

    #[test]
    fn a_scheduled_rule_says_of_what_time_it_reads() {
        let report = |sql: &str| {
            let select = GOOD.lines().find(|line| line.starts_with("sql: ")).unwrap();
            let sql = format!("sql: {sql}\nkind: scheduled\nschedule: 0 6 * * *\ngroup_by: [cluster]");
            with(select, &sql).replace("tests: fires", "")
        };
        let bounded = "WHERE event_time >= period_start()";
        for good in [
            format!("SELECT cluster, user_name FROM audit {bounded}"),
            format!("SELECT cluster, user_name FROM audit {bounded} AND verb = 'get' OR day = '2026-01-01'"),
            format!("SELECT cluster, count(*) AS user_name FROM audit {bounded} AND stage = 'Panic' GROUP BY cluster"),
            format!("SELECT cluster, count(DISTINCT audit_id) AS user_name FROM audit {bounded} GROUP BY cluster"),
            format!("SELECT cluster, max(user_name) AS user_name FROM audit {bounded} GROUP BY cluster"),
            format!(
                "SELECT 'all' AS cluster, count(*) AS user_name FROM audit {bounded} AND stage = 'Panic' HAVING count(*) = 0"
            ),
            format!("SELECT cluster, user_name, period_end() AS event_time FROM audit {bounded}"),
            format!(
                "SELECT cluster, count(*) FILTER (WHERE stage = 'Panic') AS user_name FROM audit {bounded} GROUP BY cluster"
            ),
            format!(
                "SELECT cluster, count(*) AS user_name FROM (SELECT DISTINCT cluster, name FROM audit {bounded}) AS n GROUP BY cluster"
            ),
        ] {
            assert_eq!(report(&good), "", "{good}");
        }
        for (sql, want) in [
            ("SELECT cluster, user_name FROM audit", "reads all of audit"),
            ("SELECT cluster, user_name FROM audit WHERE verb = 'get'", "reads all of audit"),
            ("SELECT cluster, user_name, event_id FROM audit WHERE day > '2026-01-01'", "no condition on stage"),
            ("SELECT cluster, user_name FROM audit WHERE event_time < period_end()", "reads all of audit"),
            ("SELECT cluster, user_name FROM audit WHERE event_time IS NOT NULL", "reads all of audit"),
            (
                "SELECT cluster, user_name FROM audit WHERE (event_time >= period_start() OR verb = 'get')",
                "reads all of audit",
            ),
            (
                "SELECT cluster, count(*) AS user_name FROM audit WHERE day > '2026-01-01' GROUP BY cluster",
                "no condition on stage",
            ),
            (
                "SELECT cluster, count(DISTINCT event_id) AS user_name FROM audit \
                 WHERE day > '2026-01-01' AND stage <> 'RequestReceived' GROUP BY cluster",
                "may both meet it",
            ),
            (
                "SELECT a.cluster, a.user_name FROM audit a JOIN falco f ON a.cluster = f.cluster WHERE a.day > '2026-01-01'",
                "reads all of falco",
            ),
            ("SELECT user_name FROM audit WHERE day > '2026-01-01'", "does not select cluster"),
            ("SELECT cluster, user_name FROM audit WHERE event_time < now()", "now() depends on when it runs"),
        ] {
            let problems = report(sql);
            assert!(problems.contains(want), "{sql}: {problems:?} has no {want:?}");
        }
    }

    #[test]
    fn one_stage_of_a_request_is_enough() {
        for condition in [
            "stage = 'ResponseStarted'",
            "'ResponseComplete' = stage",
            "stage IN ('ResponseComplete', 'Panic')",
            "stage NOT IN ('RequestReceived', 'ResponseStarted', 'Panic')",
            "stage = CASE WHEN verb = 'watch' OR subresource IN ('exec', 'log') THEN 'ResponseStarted' ELSE 'ResponseComplete' END",
            "(stage = 'ResponseComplete' AND response_code = 403 OR stage = 'ResponseStarted' AND response_code = 401)",
            "(stage = 'ResponseComplete' AND user_name = 'a' OR stage = 'ResponseStarted' AND user_name IS NULL)",
        ] {
            assert_eq!(with("stage = 'ResponseComplete'", condition), "", "{condition}");
        }
    }

    #[test]
    fn a_sequences_condition_is_checked() {
        let select = "SELECT cluster, event_id, event_time, user_name FROM audit WHERE stage = 'ResponseComplete'";
        let sequence = |condition: &str| {
            let from = GOOD.lines().find(|line| line.starts_with("sql: ")).unwrap();
            let steps = format!("[{{name: a, sql: \"{select}\"}}, {{name: b, sql: \"{select}\"}}]");
            let kind = "kind: sequence\nwindow: 1h\ngroup_by: [cluster]";
            with(from, &format!("{kind}\nsteps: {steps}\nwhere: \"{condition}\""))
        };
        assert_eq!(sequence("a.event_time < b.event_time AND lower(a.user_name) <> b.user_name"), "");
        for (condition, want) in [
            ("a.event_time > b.event_time AND a.event_time < b.event_time", "never be true"),
            ("NOT a.event_time = b.event_time AND b.event_time = a.event_time", "never be true"),
            ("a.user_name = 'x' AND a.user_name = 'y'", "never be true"),
            ("now() > a.event_time", "now() depends on when it runs"),
            ("starts_wiht(a.user_name, 'x')", "starts_wiht"),
            ("a.user_nam = 'x'", "no column a.user_nam"),
        ] {
            let problems = sequence(condition);
            assert!(problems.contains(want), "{condition}: {problems:?} has no {want:?}");
        }
    }

    #[test]
    fn names_of_steps_make_columns_of_their_own() {
        let select =
            "SELECT cluster, event_id, event_time, user_name, name FROM audit WHERE stage = 'ResponseComplete'";
        let sequence = |name: &str, column: &str| {
            let from = GOOD.lines().find(|line| line.starts_with("sql: ")).unwrap();
            let named = select.replace(", name", &format!(", name AS {column}"));
            let steps = format!("[{{name: {name}, sql: \"{named}\"}}, {{name: b, sql: \"{select}\"}}]");
            with(from, &format!("kind: sequence\nwindow: 1h\ngroup_by: [cluster]\nsteps: {steps}"))
        };
        assert_eq!(sequence("done", "name"), "");
        for (name, column, want) in [
            ("'1'", "name", "begins with no digit"),
            ("Done", "name", "lower-case"),
            ("b", "name", "another step has that name"),
            ("user", "wanted", "is a word of SQL"),
            ("event", "time", "time becomes event_time of the finding, and there is one"),
            ("user_", "name", ""),
            ("done", "b_name", "name becomes b_name of the finding"),
        ] {
            let problems = sequence(name, column);
            assert!(
                problems.contains(want) && problems.is_empty() == want.is_empty(),
                "{name}: {problems:?}, not {want:?}"
            );
        }
    }

    #[test]
    fn what_may_be_true_is_not_refused() {
        for condition in [
            "verb IN ('get', 'list') AND verb IN ('list', 'watch')",
            "verb = 'get' OR verb = 'list'",
            "(verb = 'get' AND verb = 'list' OR name = 'x')",
            "verb = 'get' AND name = 'list'",
            "response_code >= 400 AND response_code <= 400",
            "response_code > 399 AND response_code < 401 AND response_code IN (100, 400)",
            "lower(verb) = 'get' AND upper(verb) = 'GET'",
            "name LIKE 'a%' AND name IN ('b', 'ab') AND name NOT LIKE '%c'",
            "name ILIKE 'A%' AND name = 'ab'",
            "user_kind(user_name) IS NULL",
            "user_kind(user_name) <> 'human'",
            "event_time >= received_at AND event_time <= received_at",
            "NOT (verb = 'get' AND verb = 'list')",
            "name NOT IN ('a', 'b') AND name IS NOT NULL",
        ] {
            let problems = with("verb = 'get'", condition);
            assert!(!problems.contains("never be true"), "{condition}: {problems}");
        }
    }

    #[test]
    fn selected_columns_are_named_as_the_sql_names_them() {
        let columns =
            columns_selected("SELECT event_id, json_get_str(request_object, 'kind') AS kind FROM audit").unwrap();
        assert_eq!(columns, ["event_id", "kind"]);
        assert!(columns_selected("SELECT nothing FROM audit").unwrap_err().contains("nothing"));
    }
}
