//! An overlay while the service runs: lists and exceptions are live within seconds, and what is broken changes nothing.

use std::fs;

use vedette_detections::event::base_event;

use crate::deployment::Embedded;
use crate::program::{Program, until};

/// A read of a secret by somebody, as a sender sends it.
fn read(serve: &Program, user: &str, id: usize) {
    let mut event: serde_json::Value = serde_json::from_str(base_event("secret_get").unwrap()).unwrap();
    event["user"]["username"] = user.into();
    event["auditID"] = format!("read-{id}").into();
    assert_eq!(serve.post("/v1/audit/prod", event.to_string()).0, 200);
}

const RULE: &str = "
id: reads
title: A secret was read
description: Somebody read a secret.
severity: low
response: [Ask them.]
sql: |
  SELECT cluster, event_id, event_time, received_at, user_name FROM audit
  WHERE stage = 'ResponseComplete' AND resource = 'secrets' AND verb = 'get'
summary: '{user_name} read a secret'
tests:
  - {name: fires, events: [{base: secret_get}], expect: [{}]}
  - {name: is quiet, events: [{base: secret_get, set: {verb: list}}]}
";

#[test]
fn an_overlay_is_live_within_seconds_and_what_is_broken_changes_nothing() {
    let mut place = Embedded::new();
    let folder = place.path().join("overlay");
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("rules/reads.yaml", RULE);
    place.settings = place.settings.clone().with("DETECTIONS__OVERLAY", folder.display());
    place.settings = place.settings.clone().with("DETECTIONS__RELOAD_SECONDS", 1);
    let serve = place.serve();
    let found = |count: f64| {
        until("findings come", || serve.metric("vedette_rule_hits_total", &["\"reads\""]) >= count);
    };
    let reloaded = |count: f64| {
        until("new rules are live", || serve.metric("vedette_rules_reloaded_total", &[]) >= count);
    };
    read(&serve, "ci", 1);
    found(1.0);

    write("lists/robots.txt", "ci # builds\n");
    let exception = "- {rule: reads, where: \"in_list('robots', user_name)\", reason: it builds, expires: never}\n";
    write("exceptions/ci.yaml", exception);
    until("the exception is live", || serve.log().contains("new rules are live"));
    reloaded(1.0);
    read(&serve, "ci", 2);
    read(&serve, "eve", 3);
    found(2.0);

    write("exceptions/broken.yaml", "- {rule: reeds, where: 'true', reason: r, expires: never}\n");
    until("the mistake is told", || serve.metric("vedette_rules_refused", &[]) == 1.0);
    let log = serve.log();
    assert!(log.contains("broken.yaml:1:10: there is no rule reeds; did you mean reads?"), "{log}");
    let said = place.settings.fail(&["rules"], 2);
    assert!(said.contains("broken.yaml:1:10") && said.contains("keeps the last that could"), "{said}");
    let output = place.settings.run(&["check"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(3) && said.contains("broken.yaml:1:10"), "{said}");
    read(&serve, "mallory", 4);
    found(3.0);

    fs::remove_file(folder.join("exceptions/broken.yaml")).unwrap();
    reloaded(2.0);
    assert_eq!(serve.metric("vedette_rules_refused", &[]), 0.0);
    let said = place.settings.succeed(&["rules"]);
    assert!(said.contains("reads "), "{said}");

    // A subject that no row has would make all users one finding.
    write("rules/reads.yaml", &RULE.replace("severity: low", "severity: low\ngroup_by: [cluster, usr_name]"));
    until("the rule is refused", || serve.metric("vedette_rules_refused", &[]) == 1.0);
    let log = serve.log();
    assert!(log.contains("rules/reads.yaml:8: rule reads: sql: does not select usr_name"), "{log}");
    write("rules/reads.yaml", RULE);
    reloaded(3.0);
    read(&serve, "ci", 5);
    read(&serve, "dana", 6);
    found(4.0);
    let output = place.settings.run(&["check", "--overlay", &folder.display().to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    serve.drain();
    let told = place.settings.rows("SELECT user_name FROM alerts WHERE rule_id = 'reads' ORDER BY user_name");
    assert_eq!(told, ["ci", "dana", "eve", "mallory"]);
    let asked = place.settings.numbers("SELECT count(*) FROM audit WHERE in_list('robots', user_name)");
    assert_eq!(asked, [3]);
}
