//! Scheduled rules from outside: `vedette run` with its exit codes, and `vedette serve` that goes on from what it recorded.

use std::fs;
use std::path::Path;

use crate::deployment::{Embedded, Staged};
use crate::program::{Program, free_address, until};

/// Every minute, who was refused anything since the beginning of time: what is old is enough to find something.
const EVERY_MINUTE: &str = r#"
id: refused_ever
title: Refused
description: Who was refused anything.
severity: info
kind: scheduled
schedule: "* * * * *"
group_by: [cluster, user_name]
sql: |
  SELECT cluster, user_name, count(*) AS refused, CAST('2026-01-01T00:00:00Z' AS TIMESTAMP) AS event_time
  FROM audit WHERE event_time < period_end() AND response_code = 403 GROUP BY cluster, user_name
summary: "{user_name} was refused {refused} times"
"#;

const REFUSED: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"ID","stage":"ResponseComplete","verb":"get",
    "user":{"username":"eve"},"responseStatus":{"code":403},"stageTimestamp":"2026-01-01T00:00:00Z"}"#;

/// Makes a folder with that rule; what names it.
fn rules(folder: &Path) -> String {
    let rules = folder.join("rules");
    fs::create_dir_all(&rules).unwrap();
    fs::write(rules.join("refused_ever.yaml"), EVERY_MINUTE).unwrap();
    format!("['{}']", rules.display())
}

fn place(folder: &Path) -> Embedded {
    let mut place = Embedded::new();
    place.settings = place.settings.with("DETECTIONS__PATHS", rules(folder));
    place
}

fn refused(id: &str) -> String {
    REFUSED.replace("ID", id).replace('\n', "")
}

fn refuse(place: &Embedded, ids: &[&str]) {
    let serve = place.serve();
    for id in ids {
        assert_eq!(serve.post("/v1/audit/prod", refused(id)).0, 200);
    }
    serve.drain();
}

#[test]
fn run_tells_once_what_is_new_and_says_so_by_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path());
    let settings = &place.settings;
    let said = settings.fail(&["run", "refused_ever"], 1);
    assert!(said.contains("no lake is there"), "{said}");
    refuse(&place, &["a"]);

    let output = settings.run(&["run", "refused_ever", "--exit-code", "--json"]);
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (line["summary"].as_str(), line["rule_id"].as_str()),
        (Some("eve was refused 1 times"), Some("refused_ever"))
    );
    let said = settings.succeed(&["run", "refused_ever", "--exit-code"]);
    assert!(said.starts_with("refused_ever: 1 findings, 0 of them new, from "), "{said}");
    assert_eq!(settings.numbers("SELECT count(*), count(DISTINCT alert_id) FROM alerts"), [1, 1]);
    let runs = "SELECT outcome, findings, new_findings FROM runs ORDER BY event_time";
    assert_eq!(settings.rows(runs), ["ok,1,1", "ok,1,0"]);

    let failing = EVERY_MINUTE.replace("refused_ever", "failing").replace("count(*)", "max(CAST(user_name AS BIGINT))");
    fs::write(folder.path().join("rules/failing.yaml"), failing).unwrap();
    let said = settings.fail(&["run", "failing"], 1);
    assert!(said.contains("rule failing: ") && said.contains("cast"), "{said}");
    assert_eq!(settings.rows("SELECT target FROM alerts WHERE rule_id = 'vedette_rule_failed'"), ["failing"]);
    assert_eq!(settings.rows("SELECT outcome FROM runs WHERE rule_id = 'failing'"), ["failed"]);

    for (arguments, words) in [
        (&["run", "refused_eve"][..], "did you mean refused_ever?"),
        (&["run", "secret_bulk_read"], "vedette backtest secret_bulk_read"),
        (&["run", "refused_ever", "--at", "2999-01-01"], "--at"),
    ] {
        let said = settings.fail(arguments, 2);
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn serve_runs_what_is_due_and_run_leaves_its_folder_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut place = place(folder.path());
    refuse(&place, &["a"]);
    // A run of the minute before the last: the last is due once serve starts.
    place.settings.succeed(&["run", "refused_ever", "--at", "2m"]);
    place.settings = place.settings.with("ANALYTICS__SCHEDULE", true);
    let serve = place.serve();
    let runs = "SELECT count(*) FROM runs WHERE rule_id = 'refused_ever'";
    until("the period that is due has run", || place.settings.numbers(runs)[0] >= 2);
    let said = place.settings.fail(&["run", "refused_ever"], 1);
    assert!(said.contains("`vedette serve` runs scheduled rules itself"), "{said}");
    assert_eq!(serve.metric("vedette_schedule_elected", &[]), 1.0);
    let ok = ["rule=\"refused_ever\"", "outcome=\"ok\""];
    assert!(serve.metric("vedette_scheduled_runs_total", &ok) >= 1.0);
    assert!(serve.metric("vedette_scheduled_last_success_timestamp_seconds", &ok[..1]) > 1.7e9);
    serve.drain();
    let periods = "SELECT count(*), count(DISTINCT period_end) FROM runs WHERE rule_id = 'refused_ever'";
    let [runs, periods] = place.settings.numbers(periods)[..] else { panic!() };
    assert_eq!(runs, periods, "each period ran once");
    assert_eq!(place.settings.numbers("SELECT count(*), count(DISTINCT alert_id) FROM alerts"), [1, 1]);
}

/// Needs the services.
#[test]
fn of_two_processes_one_runs_the_schedule_and_the_other_takes_over() {
    let Some(mut place) = Staged::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    place.settings = place.settings.with("DETECTIONS__PATHS", rules(folder.path()));
    let (ingest, analytics) = (place.ingest(), place.analytics());
    assert_eq!(ingest.post("/v1/audit/prod", refused("a")).0, 200);
    until("the event is stored", || place.settings.numbers("SELECT count(*) FROM audit") == [1]);
    // With another process at it: this journal can be shared.
    place.settings.succeed(&["run", "refused_ever", "--at", "2m"]);
    analytics.drain();

    place.settings = place.settings.with("ANALYTICS__SCHEDULE", true);
    let start = || Program::start(&place.settings, "analytics", free_address(), folder.path());
    let elected = |program: &Program| program.metric("vedette_schedule_elected", &[]) == 1.0;
    let processes = [start(), start()];
    until("one is elected, and one only", || processes.iter().filter(|program| elected(program)).count() == 1);
    let ok = |program: &Program| program.metric("vedette_scheduled_runs_total", &["outcome=\"ok\""]) >= 1.0;
    until("the period that is due has run", || processes.iter().any(ok));

    let (mut leaders, mut others): (Vec<_>, Vec<_>) = processes.into_iter().partition(elected);
    let (Some(leader), Some(other)) = (leaders.pop(), others.pop()) else { panic!("the election changed") };
    leader.kill();
    until("the other takes over", || elected(&other));
    // It knows of a run that it has not done itself.
    let succeeded = "vedette_scheduled_last_success_timestamp_seconds";
    until("it goes on from what is recorded", || other.metric(succeeded, &["rule=\"refused_ever\""]) > 1.7e9);
    other.drain();
    ingest.drain();
    let runs = "SELECT count(*), count(DISTINCT period_end) FROM runs WHERE outcome = 'ok'";
    let [runs, periods] = place.settings.numbers(runs)[..] else { panic!() };
    // Two processes may do the same period at once while the election changes.
    assert!(periods >= 2 && runs <= periods + 1, "{runs} runs of {periods} periods");
    assert_eq!(place.settings.numbers("SELECT count(*), count(DISTINCT alert_id) FROM alerts"), [1, 1]);
}
